//! `RLIMIT_SIGPENDING`: how many signals a user may have queued.
//!
//! Linux counts them by the real user id of the receiver, with one for each POSIX timer, and asks the receiver's limit when a
//! `siginfo` is to be kept. Standard signals from `kill` and the kernel have theirs in any case. What there is no room for is
//! refused with `EAGAIN` if it is a real-time signal that was not sent by `kill`; else it is pending without its `siginfo`.
//!
//! Nobody keeps a count for each user here, because every signal would pay for it. One number for the whole machine is kept,
//! and only where that reaches the receiver's limit the user's are counted, in the queues of all processes. Two that send
//! at the same moment can both find the last place. What the kernel sends (`F_SETSIG`) has the limit in its own queue alone.

use alloc::sync::Arc;

use super::{
    state::{Pending, queued_in_all},
    types::{Fields, SigInfo, code},
};
use crate::{
    TaskRef,
    kernel::kernel,
    task::{Process, limits::Resource},
};

/// Whether one more for `task`, in `pending`, may keep its `siginfo`.
pub(super) fn has_room(task: &TaskRef, pending: &Pending, info: &SigInfo) -> bool {
    if (!info.signal.is_realtime() && info.code >= 0) || matches!(info.fields, Fields::Timer { .. }) {
        return true;
    }
    match info.code {
        // What the kernel itself sends it may send with any lock held.
        1.. | code::SI_MESGQ | code::SI_ASYNCIO | code::SI_SIGIO => pending.counted() < limit_of(task),
        _ => user_has_room(task),
    }
}

fn limit_of(task: &TaskRef) -> u64 {
    task.process().limits.soft(Resource::PendingSignals)
}

/// Whether the user of `task` may have one more. Not with the tree lock held, nor that of a queue or of timers.
pub fn user_has_room(task: &TaskRef) -> bool {
    let limit = limit_of(task);
    queued_in_all() < limit || queued_of_user(task.credentials().uid) < limit
}

/// How many signals the processes of a user have queued and set aside.
pub fn queued_of_user(uid: u32) -> u64 {
    if queued_in_all() == 0 {
        return 0;
    }
    let of_process = |p: &Arc<Process>| {
        let threads = p.threads();
        let theirs = threads.first().is_some_and(|t| t.credentials().uid == uid);
        let own: u64 = threads.iter().map(|t| t.signals.pending.counted()).sum();
        if theirs { own + p.shared_pending.counted() + p.timers.posix_count() } else { 0 }
    };
    kernel().pids.processes().iter().map(of_process).sum()
}
