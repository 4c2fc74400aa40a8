//! Attaching and detaching, and what the end of the tracer or of the tracee means.
//!
//! The relation is three references, changed together with the tree lock held: the task's slot, the list of the tracer's
//! process, and, for the first thread of a process, `Process::leader_trace`, which outlives the thread: the end of the
//! process is reported through it.

use alloc::{sync::Arc, vec::Vec};
use core::sync::atomic::Ordering;

use super::{EMULATING, IN_WATCHED, Mode, Options, STEPPING, SYSCALLS_WANTED, TRACED, Tracee};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    kernel::kernel,
    signal::{self, SigInfo, Signal, types::code},
    sync::PollEvents,
    task::{
        Process, exit,
        pid::same_task,
        process::{ExitStatus, State as ProcessState},
    },
};

/// Ties the two together.
///
/// # Errors
/// EPERM: it is traced already, or one of the two is exiting.
pub(super) fn attach(
    tracer: &TaskRef,
    task: &TaskRef,
    seized: bool,
    options: Options,
) -> Result<Arc<Tracee>> {
    let tracee = Tracee::new(task, tracer, seized, options)?;
    kernel().pids.tree(|_| {
        let zombie = *task.process().state.lock() != ProcessState::Running;
        let mut slot = task.trace.slot.lock();
        if slot.is_some() || task.is_exiting() || tracer.is_exiting() || zombie {
            return Err(Errno::EPERM);
        }
        *slot = Some(tracee.clone());
        task.trace.set(TRACED, true);
        if tracee.is_leader() {
            *task.process().leader_trace.lock() = Some(tracee.clone());
        }
        tracer.process().tracees.lock().push(tracee.clone());
        Ok(())
    })?;
    Ok(tracee)
}

/// A task that its tracee made is traced from the start, in the same way; it stops before it does anything.
pub fn attach_child(parent: &Arc<Tracee>, child: &TaskRef) {
    let options = parent.state.lock().options;
    let Ok(tracee) = attach(&parent.tracer, child, parent.seized, options) else { return };
    if parent.seized {
        tracee.state.lock().trap_pending = true;
        child.work().fetch_or(crate::sched::work::SIGNAL, Ordering::Release);
    } else {
        child.signals.pending.push(SigInfo::user(Signal::STOP, code::SI_USER, 0, 0), true);
        child.work().fetch_or(crate::sched::work::SIGNAL, Ordering::Release);
    }
}

/// Takes the two apart. The tracee, if it lives, goes on with `signal` as if it never had a tracer.
pub(super) fn unlink(tracee: &Arc<Tracee>, signal: i32) {
    let dropped = kernel().pids.tree(|_| {
        let task = &tracee.task;
        let mine = |slot: &Option<Arc<Tracee>>| slot.as_ref().is_some_and(|t| Arc::ptr_eq(t, tracee));
        let mut dropped: [Option<Arc<Tracee>>; 3] = [None, None, None];
        let [slot, leader, listed] = &mut dropped;
        {
            let mut held = task.trace.slot.lock();
            if mine(&held) {
                task.trace.set(TRACED | SYSCALLS_WANTED | STEPPING | EMULATING | IN_WATCHED, false);
                *slot = held.take();
            }
            drop(held);
            let mut held = task.process().leader_trace.lock();
            if mine(&held) {
                *leader = held.take();
            }
            drop(held);
            let mut list = tracee.tracer.process().tracees.lock();
            if let Some(i) = list.iter().position(|t| Arc::ptr_eq(t, tracee)) {
                *listed = Some(list.swap_remove(i));
            }
        }
        dropped
    });
    drop(dropped);
    {
        let mut state = tracee.state.lock();
        state.detached = true;
        state.context.end_step();
        state.mode = Mode::Continue;
        state.inject = signal;
        state.stop = None;
        state.listening = false;
    }
    tracee.queue.wake_all(PollEvents::empty());
    // It may have to join a stop of its process that it was kept out of.
    signal::notify(&tracee.task);
}

/// The tracer `task` is exiting: whom it traced goes on, or dies with it.
pub fn detach_all(task: &TaskRef) {
    loop {
        let next = {
            let list = task.process().tracees.lock();
            list.iter().find(|t| same_task(&t.tracer, task)).cloned()
        };
        let Some(tracee) = next else { return };
        let (kill, exited) = {
            let state = tracee.state.lock();
            (state.options.contains(Options::EXITKILL), state.exited.is_some())
        };
        // Of one that was about to get a signal, that signal is not lost.
        let signal = tracee.state.lock().stop.map_or(0, |s| match s.kind {
            super::Kind::Signal => s.code,
            _ => 0,
        });
        if exited {
            bury_thread(&tracee);
        } else {
            release(&tracee, signal);
        }
        if kill && !exited {
            let status = ExitStatus::Signal(Signal::KILL.number(), false);
            signal::kill_process(tracee.task.process(), status);
        }
    }
}

/// Takes a living tracee, or the first thread of a dead process, from its tracer. What the tracer has not waited for
/// is the parent's again.
pub(super) fn release(tracee: &Arc<Tracee>, signal: i32) {
    let process = tracee.task.process().clone();
    let hidden = tracee.is_leader() && super::is_hidden_zombie(&process);
    unlink(tracee, signal);
    if hidden {
        exit::tell_parent(&process);
    }
}

/// Forgets a thread that had ended, and gives its number back.
pub(super) fn bury_thread(tracee: &Arc<Tracee>) {
    let tid = tracee.task.global_tid();
    unlink(tracee, 0);
    drop(kernel().pids.tree(|t| t.remove_task(tid)));
}

/// A thread other than the first of its process has ended. Answers whether its number stays taken, because its
/// tracer has yet to hear of it.
pub fn thread_exit(task: &TaskRef, status: ExitStatus) -> bool {
    let Some(tracee) = task.tracee() else { return false };
    if tracee.is_leader() {
        return false; // told with the end of the process
    }
    // A thread that `execve` of another one ends is told of like any other.
    let unwanted = exit::ignores_children(tracee.tracer.process());
    tracee.state.lock().exited = Some(status);
    if unwanted {
        unlink(&tracee, 0);
        return false;
    }
    let (cld, value) = exit::cld_of(status);
    tracee.tell(cld, value, Signal::CHLD);
    true
}

/// Who traces the first thread of `process`, dead or alive.
pub fn leader_of(process: &Process) -> Option<Arc<Tracee>> {
    process.leader_trace.lock().clone()
}

/// `process` has been waited for by its parent (or its first thread gave its number to another one by `execve`):
/// nobody is told any more.
pub fn forget(process: &Process) {
    if let Some(tracee) = leader_of(process) {
        unlink(&tracee, 0);
    }
}

impl Tracee {
    /// Tells the tracer, which is not the parent, that the process has ended.
    pub(crate) fn tell_end(self: &Arc<Self>, status: ExitStatus) {
        if exit::ignores_children(self.tracer.process()) {
            return release(self, 0);
        }
        let (cld, value) = exit::cld_of(status);
        self.tell(cld, value, Signal::CHLD);
    }

    /// Tells the tracer that something has become of the tracee, and wakes its waiters.
    pub(super) fn tell(&self, cld: i32, status: i32, signal: Signal) {
        use crate::signal::types::{Fields, SIG_IGN, SaFlags};
        let tracer = self.tracer.process();
        let action = tracer.sighand().get(Signal::CHLD);
        let stop = !matches!(cld, code::CLD_EXITED | code::CLD_KILLED | code::CLD_DUMPED);
        let quiet = stop && (action.handler == SIG_IGN || action.flags().contains(SaFlags::NOCLDSTOP));
        if !quiet {
            let uid = self.task.credentials().uid;
            let fields = Fields::Child { pid: self.task.global_tid(), uid, status, utime: 0, stime: 0 };
            let _ = signal::send_to_process(tracer, SigInfo { signal, code: cld, fields }); // never refused
        }
        tracer.child_events.wake_all(PollEvents::empty());
    }
}

/// The tracees of a process, as they are now.
pub(super) fn tracees(process: &Process) -> Vec<Arc<Tracee>> {
    process.tracees.lock().clone()
}
