//! Job control: stopping and continuing a process.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use super::{
    send,
    types::{Signal, code},
};
use crate::{
    TaskRef,
    sync::{Interruptible, PollEvents, wait_event},
    task::Process,
};

/// `Process::stop_report`: nothing to tell.
pub const REPORT_NONE: u32 = 0;
/// Stopped; the signal is in the low byte.
pub const REPORT_STOPPED: u32 = 0x100;
/// Continued.
pub const REPORT_CONTINUED: u32 = 0x200;

/// The task took a stop signal whose action is the default: the whole process stops.
pub(super) fn stop(task: &TaskRef, signal: Signal) {
    let process = task.process();
    let orphaned = || task.kernel().pids.tree(|t| t.is_orphaned(&process.group()));
    if signal != Signal::STOP && orphaned() {
        return; // nobody could continue it (signal(7), POSIX)
    }
    process.stop_signal.store(signal.number(), Ordering::Release);
    process.stop_report.store(REPORT_STOPPED | u32::from(signal.number()), Ordering::Release);
    crate::ptrace::group_stop(process);
    process.threads().iter().for_each(send::notify);
    if let Some(parent) = process.parent() {
        let uid = task.credentials().uid;
        send::notify_parent(&parent, process, uid, code::CLD_STOPPED, signal.number().into(), Signal::CHLD);
    }
}

/// Sleeps while the process is stopped.
pub(super) fn wait_while_stopped(task: &TaskRef) {
    let process = task.process();
    // A tracer that comes now wants it to stop in another way.
    let go_on = || {
        process.stop_signal.load(Ordering::Acquire) == 0
            || process.freezing.load(Ordering::Acquire)
            || task.is_traced()
    };
    let running = || go_on().then_some(());
    // Only a kill (or a freezer, for a wait of its own) ends this wait early, and the caller looks for that.
    let _ = wait_event(task, &process.stop_queue, Interruptible::Killable, None, running);
}

/// SIGCONT was sent.
pub(super) fn resume(process: &Arc<Process>) {
    let was_stopped = process.stop_signal.swap(0, Ordering::AcqRel) != 0;
    crate::ptrace::continued(process);
    if !was_stopped {
        return;
    }
    process.stop_report.store(REPORT_CONTINUED, Ordering::Release);
    process.stop_queue.wake_all(PollEvents::empty());
    if let Some(parent) = process.parent() {
        let status = Signal::CONT.number().into();
        send::notify_parent(&parent, process, 0, code::CLD_CONTINUED, status, Signal::CHLD);
    }
}
