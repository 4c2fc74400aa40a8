//! Sending what shared mappings have written.
//!
//! Inodes with dirty pages are on a list, which keeps them. A task that is made when the first file of a volume is mapped sends
//! them a second later. While nothing is dirty it waits without a timer.

use alloc::{boxed::Box, sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicBool, Ordering};

use super::FuseInode;
use crate::{
    TaskRef, sched,
    sync::{Interruptible, Once, PollEvents, Queue, SpinLock, WaitQueue, wait_event},
    task::spawn_kernel_task,
};

/// How long after a page has become dirty it is sent.
const DELAY_NS: u64 = 1_000_000_000;

static DIRTY: SpinLock<Vec<Arc<FuseInode>>> = SpinLock::new(Vec::new());
static NOTED: Once<Queue> = Once::new();
static STARTED: AtomicBool = AtomicBool::new(false);

/// Notes that `inode` has dirty pages; not twice until they were sent. Called with an `Mm`'s lock held.
pub(super) fn note(inode: Arc<FuseInode>) {
    DIRTY.lock().push(inode);
    if let Some(noted) = NOTED.get() {
        noted.wake_all(PollEvents::empty());
    }
}

/// Makes sure that somebody sends what will be noted.
pub(super) fn start() {
    if STARTED.swap(true, Ordering::AcqRel) {
        return;
    }
    NOTED.call_once(WaitQueue::new);
    if spawn_kernel_task(b"flusher", Box::new(run)).is_err() {
        STARTED.store(false, Ordering::Release); // the next mapping tries again
    }
}

fn run(task: &TaskRef) {
    let noted = NOTED.call_once(WaitQueue::new);
    loop {
        let any = || (!DIRTY.lock().is_empty()).then_some(());
        let _ = wait_event(task, noted, Interruptible::No, None, any); // it always comes
        sched::sleep_ns(task, DELAY_NS);
        flush_all();
    }
}

/// Sends everything that is dirty now.
pub fn flush_all() {
    let inodes = core::mem::take(&mut *DIRTY.lock());
    for inode in inodes {
        let _ = inode.flush(); // an error is for whoever asks by `fsync` or `msync`
    }
}
