//! What `wait4` and `waitid` of a tracer see.
//!
//! Tracees count as children, whoever's they are, and stops are told whether asked for or not. The end of a thread is
//! told by its number. The end of a process is told to the tracer first; if that is not the parent, the parent is told
//! once the tracer has waited.

use alloc::sync::Arc;

use super::{Tracee, leader_of, link};
use crate::{
    TaskRef,
    task::{
        Process, exit,
        pid::same_task,
        process::{ExitStatus, State as ProcessState},
    },
};

/// News of a tracee.
pub enum Report {
    /// It stopped; the code is what `wstatus` has above its low byte.
    Stopped(i32),
    /// It ended.
    Exited(ExitStatus),
}

/// Whether the first thread of `child` is traced from `process` itself: then it is no ordinary child there.
pub fn traced_here(child: &Process, process: &Arc<Process>) -> bool {
    leader_of(child).is_some_and(|t| Arc::ptr_eq(t.tracer.process(), process))
}

/// Whether `child` has ended and its tracer, who is not the parent, has to be told first.
pub fn is_hidden_zombie(child: &Process) -> bool {
    matches!(*child.state.lock(), ProcessState::Zombie(_))
        && leader_of(child)
            .is_some_and(|t| child.parent().is_none_or(|parent| !Arc::ptr_eq(&parent, t.tracer.process())))
}

/// Looks at the tracees that `matches` (by number and process) says are meant, of the calling thread alone if
/// `own_only`. `None`: there are none; `Some(None)`: none has news.
pub fn look(
    task: &TaskRef,
    own_only: bool,
    consume: bool,
    exits: bool,
    matches: impl Fn(i32, &Process) -> bool,
) -> Option<Option<(TaskRef, Report)>> {
    let mut any = None;
    for tracee in link::tracees(task.process()) {
        if own_only && !same_task(&tracee.tracer, task) {
            continue;
        }
        if !matches(tracee.task.global_tid(), tracee.task.process()) {
            continue;
        }
        any = Some(None);
        if let Some(report) = news(task, &tracee, consume, exits) {
            return Some(Some((tracee.task.clone(), report)));
        }
    }
    any
}

fn news(task: &TaskRef, tracee: &Arc<Tracee>, consume: bool, exits: bool) -> Option<Report> {
    let process = tracee.task.process();
    if exits && tracee.is_leader() {
        let status = {
            let mut state = process.state.lock();
            match *state {
                ProcessState::Zombie(status) => {
                    let mine = process.parent().is_some_and(|p| Arc::ptr_eq(&p, task.process()));
                    if consume && mine {
                        *state = ProcessState::Reaped;
                    }
                    Some((status, mine))
                }
                _ => None,
            }
        };
        if let Some((status, mine)) = status {
            match (consume, mine) {
                (true, true) => exit::reap(process),
                (true, false) => link::release(tracee, 0),
                (false, _) => {}
            }
            return Some(Report::Exited(status));
        }
    }
    let mut state = tracee.state.lock();
    if let Some(status) = state.exited {
        drop(state);
        if !exits {
            return None;
        }
        if consume {
            link::bury_thread(tracee);
        }
        return Some(Report::Exited(status));
    }
    let stop = state.stop?;
    if state.reported || state.listening {
        return None;
    }
    state.reported = consume;
    Some(Report::Stopped(stop.code))
}
