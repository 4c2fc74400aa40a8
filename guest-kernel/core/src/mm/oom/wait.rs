//! While one dies for memory, the others wait.
//!
//! # What Linux does
//! Who runs out of memory while somebody is dying for it sleeps for a moment and tries again. If the victim has not left its
//! memory two seconds after it was killed (it may sleep in the kernel for what one of those who wait holds), a kernel
//! thread, the *OOM reaper*, takes its private memory away from under it. A victim that was reaped, or cannot be, is not
//! waited for any more: the next one is chosen.
//!
//! # What we do
//! The same, without a thread. Those who wait sleep on the victim's own queue, which is woken as each of its threads has given
//! its memory up, and look again every [`RETRY`] in case the memory came from elsewhere. The first to find that it takes longer
//! than [`PATIENCE`] is the reaper. The victim itself goes to the front of its run queue, outside of what its control group
//! may use (`sched::hurry`): what it still has to do is for the others.
//!
//! Reaping takes private anonymous mappings out of the layout, so a thread of the victim that runs on gets a fault that it
//! does not live to see, and a copy to or from its memory fails. Memory that somebody shares who is to live stays.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

use ringfence_hal as hal;

use super::{FIRST, NEVER};
use crate::{
    TaskRef,
    mm::{Backing, Mm, VmFlags},
    sched,
    sync::{Interruptible, wait_event},
    task::Process,
};

/// After so many nanoseconds one who waits for a victim tries again anyway.
const RETRY: u64 = 100_000_000;
/// After so many nanoseconds a victim's memory is taken away, and it is not waited for any more. Long enough for its threads
/// to give up what others find by its memory: robust futexes.
const PATIENCE: u64 = 1_000_000_000;
/// Bytes reaped at a time.
const STEP: u64 = 32 << 20;

/// What a process keeps of being waited for: since when, [`GIVEN_UP`] if it is not any more, 0 if it never was.
#[derive(Default)]
pub struct Awaited(AtomicU64);

const GIVEN_UP: u64 = u64::MAX;

/// Whether `process` is on its way out and worth being waited for.
pub(super) fn is_dying(process: &Process) -> bool {
    process.is_exiting() && process.awaited.0.load(Ordering::Relaxed) != GIVEN_UP && has_threads(process)
}

fn has_threads(process: &Process) -> bool {
    !process.links.lock().threads.is_empty()
}

/// Sleeps until `victim`, which is dying, has given its memory up, for a moment at most. Takes the memory from it if that
/// lasts too long. Without locks but sleeping ones.
pub(crate) fn wait_for(task: &TaskRef, victim: &Arc<Process>, interruptible: Interruptible) {
    let now = hal::time::now();
    let since = match victim.awaited.0.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => now,
        Err(since) => since,
    };
    if since != GIVEN_UP && now.saturating_sub(since) > PATIENCE {
        if victim.awaited.0.swap(GIVEN_UP, Ordering::Relaxed) != GIVEN_UP {
            reap(task, victim);
        }
        return;
    }
    let gone = || (!has_threads(victim)).then_some(());
    // However this ends, the caller tries again.
    let _ = wait_event(task, &victim.exit_events, interruptible, Some(now.saturating_add(RETRY)), gone);
}

/// Takes the private memory of `victim`, which is exiting, away, unless somebody shares it who is not. `task` is who does so.
pub(in crate::mm) fn reap(task: &TaskRef, victim: &Arc<Process>) {
    let Some(mm) = victim.threads().iter().find_map(|t| t.mm_opt()) else { return };
    let lives_on = |p: &Arc<Process>| {
        !p.is_exiting() && p.threads().iter().any(|t| t.mm_opt().is_some_and(|m| Arc::ptr_eq(&m, &mm)))
    };
    if !task.kernel().pids.processes().iter().any(lives_on) {
        mm.reap(&mut || sched::preempt_point(task));
    }
}

/// Whether `process` is spared when those who share a victim's memory, or its group, are killed with it.
pub(crate) fn is_spared(process: &Process) -> bool {
    process.pid == FIRST || process.oom_score_adj.load(Ordering::Relaxed) <= NEVER
}

impl Mm {
    /// Removes all private anonymous mappings, and calls `pause` without locks now and then.
    pub(in crate::mm) fn reap(&self, pause: &mut dyn FnMut()) {
        let mut at = 0;
        loop {
            let mut layout = self.layout.write();
            let Some(vma) = layout.vmas.find_at_or_after(at) else { break };
            let range = vma.start.max(at)..vma.end.min(vma.start.max(at).saturating_add(STEP));
            let private = matches!(vma.backing, Backing::Anonymous)
                && !vma.flags.intersects(VmFlags::SHARED | VmFlags::SPECIAL);
            at = if private { range.end } else { vma.end };
            if private {
                let removed = self.remove_range(&mut layout, range);
                layout.note_change();
                drop(layout);
                drop(removed);
                pause();
            }
        }
    }
}
