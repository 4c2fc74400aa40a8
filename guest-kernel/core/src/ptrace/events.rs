//! Where other parts of the kernel tell of what tracers want to know.

use alloc::sync::Arc;

use ringfence_hal::UserRegs;

use super::{NewTask, Options, Tracee, attach_child, event, leader_of};
use crate::{
    TaskRef,
    errno::Errno,
    signal::{self, SigInfo, Signal},
    sync::PollEvents,
    task::{Capabilities, Process, process::ExitStatus},
};

/// How the new task came to be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// It tells of its end by SIGCHLD.
    Fork,
    /// Its maker waits for it.
    Vfork,
    /// Anything else.
    Clone,
}

/// `task` has made `child`, which does not run yet. `None`: nobody is to be told.
pub fn fork_event(
    task: &TaskRef,
    child: &TaskRef,
    made: Made,
    untraced: bool,
    forced: bool,
) -> Option<NewTask> {
    let parent = task.tracee()?;
    let options = parent.state.lock().options;
    let (option, event) = match made {
        Made::Fork => (Options::FORK, event::FORK),
        Made::Vfork => (Options::VFORK, event::VFORK),
        Made::Clone => (Options::CLONE, event::CLONE),
    };
    let event = (options.contains(option) && !untraced).then_some(event);
    if event.is_some() || forced {
        attach_child(&parent, child);
    }
    Some(NewTask { event, parent })
}

impl NewTask {
    /// The new task runs: its maker stops and tells.
    pub fn announce(&self, task: &TaskRef, regs: &mut UserRegs, tid: i32) {
        if let Some(event) = self.event {
            in_call(regs);
            self.parent.event_stop(task, regs, event, tid as u64);
        }
    }

    /// A `vfork` child has left the memory of its maker.
    pub fn vfork_done(&self, task: &TaskRef, regs: &mut UserRegs, tid: i32) {
        if self.parent.state.lock().options.contains(Options::VFORKDONE) {
            in_call(regs);
            self.parent.event_stop(task, regs, event::VFORK_DONE, tid as u64);
        }
    }
}

/// What `rax` shows while a call is under way.
fn in_call(regs: &mut UserRegs) {
    regs.rax = Errno::ENOSYS.to_rax();
}

/// `task` has become another program; `former` was its number before.
pub fn exec_event(task: &TaskRef, regs: &mut UserRegs, former: i32) {
    let Some(tracee) = task.tracee() else { return };
    if tracee.state.lock().options.contains(Options::EXEC) {
        tracee.event_stop(task, regs, event::EXEC, former as u64);
    } else if !tracee.seized {
        let _ = signal::send_to_task(task, SigInfo::kernel(Signal::TRAP)); // a standard signal: not refused
    }
}

/// A filter of `task` wants its tracer to decide on a call. `false`: there is none who would.
pub fn seccomp_event(task: &TaskRef, regs: &mut UserRegs, value: u32) -> bool {
    let Some(tracee) = task.tracee() else { return false };
    let wanted = tracee.state.lock().options.contains(Options::SECCOMP);
    if wanted {
        tracee.event_stop(task, regs, event::SECCOMP, value.into());
    }
    wanted
}

/// `task` is about to exit.
pub fn exit_event(task: &TaskRef, status: ExitStatus) {
    let Some(tracee) = task.tracee() else { return };
    if tracee.state.lock().options.contains(Options::EXIT) {
        let mut regs = task.regs();
        tracee.event_stop(task, &mut regs, event::EXIT, status.to_wstatus() as u64);
    }
}

/// Whether set-user-ID bits count for what `task` executes: its tracer must not control more than it may.
pub fn may_gain_by_exec(task: &TaskRef) -> bool {
    task.tracee().is_none_or(|t| {
        t.tracer.credentials().capable_in(&task.credentials().user_ns, Capabilities::SYS_PTRACE)
    })
}

fn each_tracee(process: &Process, mut f: impl FnMut(&Arc<Tracee>)) {
    for task in process.threads() {
        if let Some(tracee) = task.tracee() {
            f(&tracee);
        }
    }
}

/// The process stops: its traced threads join in a way of their own.
pub fn group_stop(process: &Process) {
    each_tracee(process, |t| {
        t.state.lock().stop_pending = true;
        t.queue.wake_all(PollEvents::empty());
    });
}

/// SIGCONT was sent: those that were seized tell.
pub fn continued(process: &Process) {
    each_tracee(process, |t| {
        {
            let mut s = t.state.lock();
            s.stop_pending = false;
            s.notify_pending |= t.seized;
        }
        t.queue.wake_all(PollEvents::empty());
        signal::notify(&t.task);
    });
}

/// A second kill reaches those that wait in `PTRACE_EVENT_EXIT`.
pub fn kill_exiting(process: &Process) {
    each_tracee(process, |t| {
        t.state.lock().killed_again = true;
        t.queue.wake_all(PollEvents::empty());
    });
    if let Some(leader) = leader_of(process) {
        leader.state.lock().killed_again = true;
        leader.queue.wake_all(PollEvents::empty());
    }
}
