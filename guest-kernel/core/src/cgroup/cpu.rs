//! The cpu controller: what a group may use of the CPUs.
//!
//! `cpu.weight` is the group's share among its siblings, while they compete; the run queue looks at it (`sched::groups`).
//! `cpu.max` is a quota of CPU time in a period ([`Bandwidth`]): a group that has used it up is *throttled*, its tasks are
//! left on the run queues and not chosen, until the next period; one that is in the kernel goes on until it returns to
//! user mode, because others may wait for what it holds. What one task uses is taken from its group and all
//! above it. Time is charged when a task leaves its CPU or its slice is over; the slice of a task with a quota above it
//! ends when the quota may be used up, so a timer runs for it even when it is alone. What was used too much (by
//! kernel code, which is not preempted, and by several CPUs at once) is taken from the following periods.
//!
//! Time used is counted in every group but the root, with and without the controller (`usage_usec` of `cpu.stat`). System
//! calls are not timed one by one, so all of it is user time.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use ringfence_hal as hal;

use super::{Cgroup, Controllers};
use crate::{
    sched::{self, Timer, TimerTarget},
    sync::SpinLock,
};

/// The weight of a group that was given none; a task counts as much as such a group.
pub const WEIGHT_DEFAULT: u32 = 100;
/// In hundredths of a weight: what a group with `cpu.idle` gets (Linux: 3 of 1024).
const WEIGHT_IDLE: u64 = 30;

/// The period of `cpu.max` unless another is given.
const PERIOD_DEFAULT: u64 = 100_000_000;
/// The longest a task with a quota runs on one of several CPUs before its use is charged, as Linux's
/// `sched_cfs_bandwidth_slice_us`.
const CHARGE_AT_LEAST_EVERY: u64 = 5_000_000;
/// Not worth a timer.
const SHORTEST_SLICE: u64 = 100_000;

/// What the controller keeps for a group.
pub(super) struct Cpu {
    pub weight: AtomicU32,
    pub idle: AtomicBool,
    /// Nanoseconds used here and below by what has left its CPU since.
    usage: AtomicU64,
    /// There is a quota.
    limited: AtomicBool,
    throttled: AtomicBool,
    pub bandwidth: SpinLock<Bandwidth>,
    timer: SpinLock<Option<Timer>>,
}

impl Cpu {
    pub fn new() -> Cpu {
        Cpu {
            weight: AtomicU32::new(WEIGHT_DEFAULT),
            idle: AtomicBool::new(false),
            usage: AtomicU64::new(0),
            limited: AtomicBool::new(false),
            throttled: AtomicBool::new(false),
            bandwidth: SpinLock::new(Bandwidth::default()),
            timer: SpinLock::new(None),
        }
    }
}

/// A quota of time in each period. All in nanoseconds.
pub struct Bandwidth {
    /// `None`: no limit.
    pub quota: Option<u64>,
    /// Length of a period.
    pub period: u64,
    /// What may be saved from periods in which less was used.
    pub burst: u64,
    /// What is left to use; less than nothing if too much was used.
    left: i64,
    /// When the next period begins.
    next: u64,
    throttled_at: Option<u64>,
    /// Periods in which time was used, and in which that was all there was.
    pub periods: u64,
    /// Periods in which the group was throttled.
    pub throttled: u64,
    /// For how long.
    pub throttled_time: u64,
    /// Periods in which more than the quota was used, and how much more.
    pub bursts: u64,
    /// How much more.
    pub burst_time: u64,
    /// Used since the period began.
    used: u64,
}

impl Default for Bandwidth {
    fn default() -> Self {
        Bandwidth {
            quota: None,
            period: PERIOD_DEFAULT,
            burst: 0,
            left: 0,
            next: 0,
            throttled_at: None,
            periods: 0,
            throttled: 0,
            throttled_time: 0,
            bursts: 0,
            burst_time: 0,
            used: 0,
        }
    }
}

impl Bandwidth {
    /// Sets a limit, from `now` on.
    pub fn set(&mut self, now: u64, quota: Option<u64>, period: u64, burst: u64) {
        (self.quota, self.period, self.burst) = (quota, period.max(1), burst);
        self.left = quota.map_or(0, signed);
        self.used = 0;
        self.next = now.saturating_add(self.period);
    }

    /// Begins the period that `now` is in.
    fn refill(&mut self, now: u64) {
        let Some(quota) = self.quota else { return };
        let Some(late) = now.checked_sub(self.next) else { return };
        let begun = late / self.period + 1;
        self.next = self.next.saturating_add(begun.saturating_mul(self.period));
        // Nothing runs for periods on end without being charged: those were idle.
        self.periods += 1;
        if self.used > quota && self.burst > 0 {
            self.bursts += 1;
            self.burst_time += self.used - quota;
        }
        self.used = 0;
        let more = signed(quota.saturating_mul(begun));
        self.left = self.left.saturating_add(more).min(signed(quota.saturating_add(self.burst)));
    }

    /// Takes `ran` from what is left at `now`. True if nothing is left any more and the group is to be throttled.
    pub fn charge(&mut self, now: u64, ran: u64) -> bool {
        if self.quota.is_none() {
            return false;
        }
        self.refill(now);
        self.left = self.left.saturating_sub(signed(ran));
        self.used = self.used.saturating_add(ran);
        if self.left > 0 || self.throttled_at.is_some() {
            return false;
        }
        self.throttled_at = Some(now);
        self.throttled += 1;
        true
    }

    /// Whether a throttled group may go on at `now`.
    pub fn release(&mut self, now: u64) -> bool {
        self.refill(now);
        if self.quota.is_some() && self.left <= 0 {
            return false;
        }
        if let Some(since) = self.throttled_at.take() {
            self.throttled_time += now.saturating_sub(since);
        }
        true
    }

    /// What is left at `now`.
    pub fn left(&mut self, now: u64) -> u64 {
        self.refill(now);
        if self.quota.is_none() { u64::MAX } else { u64::try_from(self.left).unwrap_or(0) }
    }
}

fn signed(ns: u64) -> i64 {
    i64::try_from(ns).unwrap_or(i64::MAX)
}

/// Begins a throttled group's next period.
struct Refill(Arc<Cgroup>);

impl TimerTarget for Refill {
    fn expired(self: Arc<Self>) {
        self.0.unthrottle_if_due();
    }
}

impl Cgroup {
    /// The group as whose member a task competes for a CPU: the nearest one with the cpu controller. `None`: the root.
    pub fn cpu_group(self: &Arc<Self>) -> Option<Arc<Cgroup>> {
        let mut at = self;
        while !at.is_root() {
            if at.controllers().contains(Controllers::CPU) && !at.is_dead() {
                return Some(at.clone());
            }
            at = at.parent()?;
        }
        None
    }

    /// Its weight, in hundredths.
    pub fn cpu_weight(&self) -> u64 {
        if self.cpu.idle.load(Ordering::Relaxed) {
            return WEIGHT_IDLE;
        }
        u64::from(self.cpu.weight.load(Ordering::Relaxed)).max(1) * 100
    }

    /// Whether its tasks must not run now.
    #[inline]
    pub fn is_throttled(&self) -> bool {
        self.cpu.throttled.load(Ordering::Acquire)
    }

    /// Whether it or a group above it is throttled.
    pub fn is_held(&self) -> bool {
        self.chain().any(Cgroup::is_throttled)
    }

    /// A task in it has used `ran` nanoseconds up to `now`. No lock of the scheduler is held.
    pub fn charge_cpu(self: &Arc<Self>, now: u64, ran: u64) {
        let mut at = self;
        while let Some(parent) = at.parent() {
            at.cpu.usage.fetch_add(ran, Ordering::Relaxed);
            if at.cpu.limited.load(Ordering::Acquire) {
                at.charge_bandwidth(now, ran);
            }
            at = parent;
        }
    }

    fn charge_bandwidth(self: &Arc<Self>, now: u64, ran: u64) {
        let mut bandwidth = self.cpu.bandwidth.lock();
        if bandwidth.charge(now, ran) {
            self.cpu.throttled.store(true, Ordering::Release);
            let next = bandwidth.next;
            drop(bandwidth);
            *self.cpu.timer.lock() = Some(Timer::start(next, Arc::new(Refill(self.clone()))));
        }
    }

    /// Lets a throttled group go on if its next period has begun, else waits on.
    fn unthrottle_if_due(self: &Arc<Self>) {
        let mut bandwidth = self.cpu.bandwidth.lock();
        if !self.is_throttled() {
            return;
        }
        if bandwidth.release(hal::time::now()) {
            self.cpu.throttled.store(false, Ordering::Release);
            drop(bandwidth);
            sched::groups_changed();
        } else {
            let next = bandwidth.next;
            drop(bandwidth);
            *self.cpu.timer.lock() = Some(Timer::start(next, Arc::new(Refill(self.clone()))));
        }
    }

    /// How long a task in it may run before its time has to be charged; `None`: as long as it likes.
    pub fn cpu_slice(&self, now: u64) -> Option<u64> {
        let limited = self.chain().filter(|group| group.cpu.limited.load(Ordering::Acquire));
        let left = limited.map(|group| group.cpu.bandwidth.lock().left(now)).min()?;
        let most = if hal::cpu::online() == 1 { u64::MAX } else { CHARGE_AT_LEAST_EVERY };
        Some(left.clamp(SHORTEST_SLICE, most.min(PERIOD_DEFAULT)))
    }

    /// Sets quota, period and burst.
    pub(super) fn set_bandwidth(self: &Arc<Self>, quota: Option<u64>, period: u64, burst: u64) {
        let now = hal::time::now();
        {
            let mut bandwidth = self.cpu.bandwidth.lock();
            bandwidth.set(now, quota, period, burst);
            self.cpu.limited.store(quota.is_some(), Ordering::Release);
        }
        self.unthrottle_if_due();
        // What runs now must be charged in time.
        sched::groups_changed();
    }

    /// Nanoseconds used here and below, what runs just now included.
    pub(super) fn cpu_usage(&self) -> u64 {
        let mut sum = self.cpu.usage.load(Ordering::Relaxed);
        sched::for_running(|task, running_for| {
            if task.process().cgroup.get().is_some_and(|group| group.is_below(self)) {
                sum += running_for;
            }
        });
        sum
    }

    /// The controller was taken from it: back to what it is without.
    pub(super) fn reset_cpu(self: &Arc<Self>) {
        self.cpu.weight.store(WEIGHT_DEFAULT, Ordering::Relaxed);
        self.cpu.idle.store(false, Ordering::Relaxed);
        self.set_bandwidth(None, PERIOD_DEFAULT, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn twenty_percent(burst: u64) -> Bandwidth {
        let mut b = Bandwidth::default();
        b.set(0, Some(20 * MS), 100 * MS, burst);
        b
    }

    #[test]
    fn a_group_is_throttled_until_the_next_period() {
        let mut b = twenty_percent(0);
        assert!(!b.charge(10 * MS, 10 * MS));
        assert_eq!(b.left(10 * MS), 10 * MS);
        assert!(b.charge(20 * MS, 10 * MS));
        assert!(!b.release(99 * MS));
        assert!(b.release(100 * MS));
        assert_eq!((b.periods, b.throttled, b.throttled_time), (1, 1, 80 * MS));
        assert_eq!(b.left(100 * MS), 20 * MS);
    }

    #[test]
    fn too_much_is_paid_back() {
        let mut b = twenty_percent(0);
        assert!(b.charge(50 * MS, 50 * MS));
        assert!(!b.charge(55 * MS, 5 * MS), "it is throttled already");
        assert!(!b.release(100 * MS), "55 used: 15 are owed");
        assert!(b.release(200 * MS));
        assert_eq!(b.left(200 * MS), 5 * MS);
    }

    #[test]
    fn idle_periods_save_no_more_than_the_burst() {
        let mut b = twenty_percent(0);
        assert_eq!(b.left(1000 * MS), 20 * MS);
        let mut b = twenty_percent(15 * MS);
        assert_eq!(b.left(50 * MS), 20 * MS);
        assert_eq!(b.left(1050 * MS), 35 * MS);
        assert!(!b.charge(1080 * MS, 30 * MS));
        b.refill(1100 * MS);
        assert_eq!((b.bursts, b.burst_time), (1, 10 * MS));
        assert_eq!(b.left(1100 * MS), 25 * MS);
    }

    #[test]
    fn over_many_periods_the_quota_is_the_share() {
        // Always runs when it may, charged every 7 ms.
        let (mut b, mut now, mut used) = (twenty_percent(0), 0, 0);
        while now < 10_000 * MS {
            now += 7 * MS;
            used += 7 * MS;
            if b.charge(now, 7 * MS) {
                while !b.release(now) {
                    now += MS;
                }
            }
        }
        assert!((1_980 * MS..2_040 * MS).contains(&used), "{used}");
    }

    #[test]
    fn without_a_quota_nothing_is_throttled() {
        let mut b = Bandwidth::default();
        assert!(!b.charge(1000 * MS, 1000 * MS));
        assert_eq!(b.left(0), u64::MAX);
        assert_eq!(b.periods, 0);
    }
}
