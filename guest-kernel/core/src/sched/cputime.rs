//! CPU time: how much a task had, and how much of that in the kernel.
//!
//! How much is exact: the clock is read at every task switch. How much of it in the kernel is sampled, as Linux does
//! unless it is built to time every system call: a timer interrupt asks what it interrupted, and what the task
//! has used since its last sample counts as that. User and system time as programs see them are the exact sum, divided
//! as the samples are, and never go back ([`Split`]).
//!
//! A task is due for a *tick* after every 40 ms of CPU time it used, or after another sixteenth up to a second: not by the wall
//! clock, so a sandbox that is idle, or that computes in short bursts, sees none. At a tick the timers
//! and limits on its CPU time are looked at, too (`time::cpu`); they may want the next one earlier.

use core::sync::atomic::{AtomicU64, Ordering};

use super::{SchedState, load, runqueue};
use crate::{TaskRef, sync::SpinLock};

/// CPU time from tick to tick: at least, and at most.
const TICK_NS: u64 = 40_000_000;
const TICK_MAX_NS: u64 = 1_000_000_000;

/// User and system time as last shown, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// In ring 3.
    pub user: u64,
    /// In the kernel.
    pub system: u64,
}

impl Split {
    /// Divides `runtime` as `user` and `system` samples are; neither part gets smaller than it was.
    pub fn settle(&mut self, runtime: u64, user: u64, system: u64) -> Split {
        if self.user + self.system < runtime {
            let sampled = u128::from(user) + u128::from(system);
            let share = (u128::from(runtime) * u128::from(system)).checked_div(sampled).unwrap_or(0) as u64;
            self.system = share.max(self.system).min(runtime - self.user);
            self.user = runtime - self.system;
        }
        *self
    }
}

/// What is sampled of a task.
#[derive(Default)]
pub(super) struct Samples {
    user: AtomicU64,
    system: AtomicU64,
    /// CPU time at the last sample.
    at: AtomicU64,
    /// CPU time at which the next tick is due.
    due: AtomicU64,
    shown: SpinLock<Split>,
}

impl Samples {
    pub fn new() -> Samples {
        Samples { due: AtomicU64::new(TICK_NS), ..Samples::default() }
    }
}

impl SchedState {
    /// Nanoseconds of user and system time by samples alone: a ratio.
    pub fn samples(&self) -> (u64, u64) {
        (self.samples.user.load(Ordering::Relaxed), self.samples.system.load(Ordering::Relaxed))
    }

    /// User and system time.
    pub fn split(&self) -> Split {
        let (user, system) = self.samples();
        self.samples.shown.lock().settle(self.runtime(), user, system)
    }

    /// When the task, put on a CPU at `now`, has its tick if it stays there.
    pub(super) fn tick_at(&self, now: u64) -> u64 {
        if self.is_idle {
            return u64::MAX;
        }
        let used = self.runtime.load(Ordering::Relaxed);
        now.saturating_add(self.samples.due.load(Ordering::Relaxed).saturating_sub(used))
    }

    /// The same of the task that runs.
    pub(super) fn running_tick_at(&self, now: u64) -> u64 {
        now.saturating_add(self.samples.due.load(Ordering::Relaxed).saturating_sub(self.runtime()))
    }

    /// Has its next tick come after `more` nanoseconds of CPU time, or earlier. One that runs has to be told
    /// ([`super::tick_soon`]).
    pub(super) fn due_in(&self, more: u64) {
        let at = self.runtime().saturating_add(more);
        self.samples.due.fetch_min(at, Ordering::Relaxed);
    }
}

/// A timer interrupt came while `task` runs here: answers when its next tick is.
pub(super) fn interrupted(task: &TaskRef, now: u64, kernel: bool) -> u64 {
    let samples = &task.sched.samples;
    let used = task.sched.runtime();
    let since = used.saturating_sub(samples.at.swap(used, Ordering::Relaxed));
    let what = if kernel { &samples.system } else { &samples.user };
    what.fetch_add(since, Ordering::Relaxed);
    runqueue::sampled(since, kernel);
    if used >= samples.due.load(Ordering::Relaxed) {
        let regular = (used / 16).clamp(TICK_NS, TICK_MAX_NS);
        samples.due.store(used.saturating_add(regular), Ordering::Relaxed);
        load::tick(now);
        if let Some(more) = crate::time::cpu_time_tick(task) {
            task.sched.due_in(more);
        }
    }
    task.sched.running_tick_at(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_divided_as_the_samples_are() {
        let mut s = Split::default();
        assert_eq!(s.settle(1000, 0, 0), Split { user: 1000, system: 0 }, "no sample yet");
        let mut s = Split::default();
        assert_eq!(s.settle(1000, 30, 10), Split { user: 750, system: 250 });
        assert_eq!(s.settle(2000, 0, 10), Split { user: 750, system: 1250 }, "user time does not go back");
        assert_eq!(s.settle(2000, 10, 0), Split { user: 750, system: 1250 }, "nor system time");
        assert_eq!(s.settle(1500, 10, 0), Split { user: 750, system: 1250 }, "nor their sum");
        assert_eq!(s.settle(4000, 10, 0), Split { user: 2750, system: 1250 });
        let far = 1 << 62;
        assert_eq!(s.settle(far, far, far).system, far / 2);
    }
}
