//! The pids controller: how many tasks a group and those below it may have.
//!
//! A fork that would exceed `pids.max` anywhere above fails with `EAGAIN` and counts in `pids.events` of the group whose
//! limit it was. Moving processes is never refused (so a group can have more than its maximum), as on Linux.

use core::sync::atomic::{AtomicU64, Ordering};

use super::{Cgroup, Controllers, MAX, Notifier};

/// What the controller keeps for a group.
pub(super) struct Pids {
    pub current: AtomicU64,
    pub peak: AtomicU64,
    pub max: AtomicU64,
    /// Forks refused because of `max`.
    pub refused: AtomicU64,
    pub events: Notifier,
}

impl Pids {
    pub fn new() -> Pids {
        Pids {
            current: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            max: AtomicU64::new(MAX),
            refused: AtomicU64::new(0),
            events: Notifier::new(),
        }
    }
}

impl Cgroup {
    /// Counts a task if all limits allow it. `Err` is the group whose limit does not.
    pub(super) fn charge_task(&self) -> Result<(), &Cgroup> {
        for group in self.chain() {
            let now = group.pids.current.fetch_add(1, Ordering::Relaxed) + 1;
            if now > group.pids.max.load(Ordering::Relaxed) && group.controllers().contains(Controllers::PIDS)
            {
                self.chain()
                    .take_while(|below| below.id != group.id)
                    .for_each(|below| below.uncount_tasks(1));
                group.uncount_tasks(1);
                return Err(group);
            }
            group.pids.peak.fetch_max(now, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Counts `count` tasks here and above, whatever the limits.
    pub(super) fn charge_tasks_anyway(&self, count: u64) {
        for group in self.chain() {
            let now = group.pids.current.fetch_add(count, Ordering::Relaxed) + count;
            group.pids.peak.fetch_max(now, Ordering::Relaxed);
        }
    }

    /// Gives `count` tasks back here and above.
    pub(super) fn uncharge_tasks(&self, count: u64) {
        self.chain().for_each(|group| group.uncount_tasks(count));
    }

    fn uncount_tasks(&self, count: u64) {
        self.pids.current.fetch_sub(count, Ordering::Relaxed);
    }

    /// A fork was refused because of this group's limit.
    pub(super) fn note_refused_fork(&self) {
        self.pids.refused.fetch_add(1, Ordering::Relaxed);
        self.pids.events.notify();
    }
}
