//! `cgroup.freeze` and `cgroup.kill`.
//!
//! Freezing is a wish: [`Process::freezing`] is set in every process of the group and those below it, and each thread is
//! told to look. On its way to user mode it then sleeps (as a stopped one does, on the same queue) until the wish is
//! taken back or it is killed; waits in system calls are interrupted for it and restarted after it. A group *is* frozen
//! once all its threads sleep so and all groups below it are frozen, which `cgroup.events` tells.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::{Cgroup, hierarchy};
use crate::{
    TaskRef,
    errno::Result,
    sched,
    signal::{self, SigInfo, Signal, types::code},
    sync::{Interruptible, PollEvents, SpinLock, wait_event},
    task::Process,
};

/// What the freezer keeps for a group.
#[derive(Default)]
pub(super) struct Freezer {
    /// `cgroup.freeze`.
    wanted: AtomicBool,
    /// Threads of this group that sleep for it.
    asleep: AtomicUsize,
    /// All threads here and below sleep for it.
    pub frozen: AtomicBool,
}

/// Serialises the decision whether groups are frozen. A leaf.
static DECISION: SpinLock<()> = SpinLock::new(());

/// Whether this group or one above it is to be frozen.
pub(super) fn is_freezing(group: &Cgroup) -> bool {
    group.chain().any(|g| g.freezer.wanted.load(Ordering::Acquire))
}

/// The value of `cgroup.freeze`.
pub(super) fn is_wanted(group: &Cgroup) -> bool {
    group.freezer.wanted.load(Ordering::Acquire)
}

/// Writes `cgroup.freeze`.
pub(super) fn set_wanted(group: &Arc<Cgroup>, wanted: bool) {
    let _lock = hierarchy::LOCK.lock();
    if group.freezer.wanted.swap(wanted, Ordering::AcqRel) == wanted {
        return;
    }
    // A fork meanwhile sees the new value in `settle`, or its child is among the members.
    for process in group.members(true) {
        moved(&process, &process.cgroup.group());
    }
    for group in group.subtree().iter().rev() {
        update(group);
    }
}

/// `process` is in `group` now, or the wish for `group` has changed.
pub(super) fn moved(process: &Arc<Process>, group: &Cgroup) {
    let freezing = is_freezing(group);
    if process.freezing.swap(freezing, Ordering::AcqRel) || freezing {
        process.stop_queue.wake_all(PollEvents::empty());
        process.threads().iter().for_each(signal::notify);
    }
}

/// The threads of `group`, or the groups below it, or the wish has changed: decides anew whether it is frozen, and those
/// above it. Without locks but [`hierarchy::LOCK`].
pub(super) fn update(group: &Cgroup) {
    for group in group.chain() {
        let changed = {
            let _decision = DECISION.lock();
            let frozen = is_freezing(group)
                && group.freezer.asleep.load(Ordering::SeqCst) >= group.threads.load(Ordering::SeqCst)
                && group.children.lock().values().all(|c| c.freezer.frozen.load(Ordering::Relaxed));
            group.freezer.frozen.swap(frozen, Ordering::Relaxed) != frozen
        };
        if !changed {
            return;
        }
        super::files::changed(group, "cgroup.events", &group.events);
    }
}

/// Sleeps while `task`'s group is to be frozen. Ends early if the task is to end or was moved.
#[cold]
pub fn wait_while_frozen(task: &TaskRef) {
    let process = task.process();
    let Some(group) = process.cgroup.get() else {
        process.freezing.store(false, Ordering::Release);
        return;
    };
    group.freezer.asleep.fetch_add(1, Ordering::SeqCst);
    update(&group);
    let over = || {
        let stay = process.freezing.load(Ordering::Acquire) && process.cgroup.id() == group.id();
        (!stay || signal::fatal_pending(task)).then_some(())
    };
    // Only a kill ends this wait early, and the caller looks for that.
    let _ = wait_event(task, &process.stop_queue, Interruptible::Killable, None, over);
    group.freezer.asleep.fetch_sub(1, Ordering::SeqCst);
    update(&group);
}

/// Kills all processes in `group` and below it, those forked meanwhile too. The first process of the sandbox is spared,
/// as Linux spares its own, unless it is itself the one who asks.
pub(super) fn kill(group: &Arc<Cgroup>, by: &TaskRef) -> Result<()> {
    let uid = by.credentials().uid;
    // A child of a killed parent does not become visible, so each round leaves only what was forked in the one before.
    const ROUNDS: usize = 1000;
    for _ in 0..ROUNDS {
        let _lock = hierarchy::LOCK.lock();
        let alive: alloc::vec::Vec<Arc<Process>> =
            group.members(true).into_iter().filter(|p| !p.is_exiting()).collect();
        let mut killed = false;
        for process in &alive {
            signal::send_to_process(
                process,
                SigInfo::user(Signal::KILL, code::SI_USER, by.process().pid, uid),
            )?;
            killed |= process.is_exiting();
            sched::preempt_point(by);
        }
        if !killed {
            break;
        }
    }
    Ok(())
}
