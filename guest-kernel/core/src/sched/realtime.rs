//! Real-time tasks: who has a priority above zero goes before everybody who has none.
//!
//! What Linux does: SCHED_FIFO and SCHED_RR tasks have priorities from 1 to 99. The highest that can run does, at once when it
//! wakes up, and until it sleeps; tasks of one priority take turns in order of arrival, under SCHED_RR every 100 ms. So that
//! one that does not sleep cannot take the machine away, real-time tasks get 950 ms of each second on a CPU while
//! others wait for it. Control groups with the cpu controller do not concern them. A task that holds a
//! priority-inheritance futex runs with the priority of who waits for it (*boost*).
//!
//! What we do: the same, on each CPU. A task that wakes goes to an idle CPU, or to the one that runs the least urgent task;
//! a CPU that is done with a real-time task takes over those that wait elsewhere. Other than on Linux, tasks beyond
//! their 950 ms go on if nobody else wants the CPU.
//!
//! The policies below: SCHED_BATCH is SCHED_OTHER; SCHED_IDLE has the shortest slices and gives way to who wakes up.
//! SCHED_DEADLINE is not there.

use alloc::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};
use core::sync::atomic::{AtomicUsize, Ordering};

use super::{SchedState, runqueue};
use crate::TaskRef;

/// `SCHED_OTHER`.
pub const OTHER: u32 = 0;
/// `SCHED_FIFO`.
pub const FIFO: u32 = 1;
/// `SCHED_RR`.
pub const RR: u32 = 2;
/// `SCHED_BATCH`.
pub const BATCH: u32 = 3;
/// `SCHED_IDLE`.
pub const IDLE: u32 = 5;
/// `SCHED_DEADLINE`.
pub const DEADLINE: u32 = 6;

/// How long a task of SCHED_RR runs while others of its priority wait.
pub const RR_SLICE_NS: u64 = 100_000_000;
/// Of each period on a CPU real-time tasks get so much while others wait.
pub const RUNTIME_NS: u64 = 950_000_000;
/// See [`RUNTIME_NS`].
pub const PERIOD_NS: u64 = 1_000_000_000;

/// Real-time tasks queued on all CPUs.
static QUEUED: AtomicUsize = AtomicUsize::new(0);

/// Whether a real-time task waits anywhere.
pub(super) fn any_queued() -> bool {
    QUEUED.load(Ordering::Relaxed) > 0
}

/// A policy and what goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// `SCHED_*`.
    pub number: u32,
    /// 1 to 99 for FIFO and RR, else 0.
    pub priority: u32,
    /// Children begin as ordinary tasks.
    pub reset_on_fork: bool,
}

impl Policy {
    pub(super) const fn pack(self) -> u32 {
        self.number | self.priority << 8 | (self.reset_on_fork as u32) << 16
    }

    pub(super) const fn unpack(packed: u32) -> Policy {
        Policy { number: packed & 0xff, priority: packed >> 8 & 0xff, reset_on_fork: packed >> 16 != 0 }
    }
}

impl SchedState {
    /// Its policy.
    pub fn policy(&self) -> Policy {
        Policy::unpack(self.policy.load(Ordering::Relaxed))
    }

    /// The priority it runs with: 0 for ordinary tasks, else 1 to 99, a boost included.
    #[inline]
    pub fn priority(&self) -> u32 {
        self.priority.load(Ordering::Relaxed)
    }

    /// The priority it was lent.
    pub fn boost(&self) -> u32 {
        self.boost.load(Ordering::Relaxed)
    }

    /// CPU time since it last slept, of a real-time task.
    pub fn awake(&self) -> u64 {
        self.runtime().saturating_sub(self.slept_at.load(Ordering::Relaxed))
    }

    fn settle_priority(&self) {
        self.priority.store(self.policy().priority.max(self.boost()), Ordering::Relaxed);
    }

    /// What a child begins with.
    pub(super) fn inherit_policy(&self, child: &SchedState) {
        let mut policy = self.policy();
        if policy.reset_on_fork {
            if policy.priority > 0 {
                policy = Policy { number: OTHER, priority: 0, reset_on_fork: false };
                child.set_nice(0);
            } else if child.nice() < 0 {
                child.set_nice(0);
            }
            policy.reset_on_fork = false;
        }
        child.policy.store(policy.pack(), Ordering::Relaxed);
        child.settle_priority();
    }
}

/// Gives `task` a policy.
pub fn set_policy(task: &TaskRef, policy: Policy) {
    let slept = task.sched.runtime();
    if task.sched.policy().priority == 0 {
        task.sched.slept_at.store(slept, Ordering::Relaxed);
    }
    task.sched.policy.store(policy.pack(), Ordering::Relaxed);
    change_priority(task);
}

/// Lends `task` a priority, 0 for none.
pub fn set_boost(task: &TaskRef, priority: u32) {
    if task.sched.boost.swap(priority, Ordering::Relaxed) != priority {
        change_priority(task);
    }
}

fn change_priority(task: &TaskRef) {
    let before = task.sched.priority();
    task.sched.settle_priority();
    if before != task.sched.priority() {
        runqueue::regroup(task);
    }
}

/// The real-time part of a run queue.
pub(super) struct Realtime {
    queues: BTreeMap<u32, VecDeque<TaskRef>>,
    queued: usize,
    /// When the present period began, and what was used in it.
    period: u64,
    used: u64,
    /// Till then others go first; 0: they do not.
    withheld_until: u64,
}

impl Realtime {
    pub const fn new() -> Realtime {
        Realtime { queues: BTreeMap::new(), queued: 0, period: 0, used: 0, withheld_until: 0 }
    }

    /// Tasks queued.
    #[inline]
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// The highest priority of a queued task, 0 if there is none.
    pub fn top(&self) -> u32 {
        self.queues.last_key_value().map_or(0, |(priority, _)| *priority)
    }

    /// Whether a task of `priority` is queued.
    pub fn has(&self, priority: u32) -> bool {
        self.queues.contains_key(&priority)
    }

    /// Puts a task behind, or before, those of its priority.
    pub fn enqueue(&mut self, task: TaskRef, before: bool) {
        let queue = self.queues.entry(task.sched.priority()).or_default();
        if before {
            queue.push_front(task);
        } else {
            queue.push_back(task);
        }
        self.queued += 1;
        QUEUED.fetch_add(1, Ordering::Relaxed);
    }

    fn took(&mut self, priority: u32) {
        if self.queues.get(&priority).is_some_and(|queue| queue.is_empty()) {
            self.queues.remove(&priority);
        }
        self.queued = self.queued.saturating_sub(1);
        QUEUED.fetch_sub(1, Ordering::Relaxed);
    }

    /// Takes the first task of the highest priority.
    pub fn pick(&mut self) -> Option<TaskRef> {
        let (priority, queue) = self.queues.iter_mut().next_back()?;
        let (priority, task) = (*priority, queue.pop_front()?);
        self.took(priority);
        Some(task)
    }

    /// Takes the first of the highest priority that `wanted` accepts.
    pub fn take(&mut self, wanted: impl Fn(&TaskRef) -> bool) -> Option<TaskRef> {
        let (priority, task) = self.queues.iter_mut().rev().find_map(|(priority, queue)| {
            let i = queue.iter().position(&wanted)?;
            Some((*priority, queue.remove(i)?))
        })?;
        self.took(priority);
        Some(task)
    }

    /// Takes `task` out.
    pub fn remove(&mut self, task: &TaskRef) -> Option<TaskRef> {
        if self.queued == 0 {
            return None;
        }
        self.take(|queued| Arc::ptr_eq(queued, task))
    }

    /// A real-time task has run for `ran` nanoseconds.
    pub fn charge(&mut self, now: u64, ran: u64) {
        self.used = self.used.saturating_add(ran);
        self.renew(now);
    }

    /// Each period brings its share; what was used beyond that counts on, up to one share.
    fn renew(&mut self, now: u64) {
        let periods = now.saturating_sub(self.period) / PERIOD_NS;
        if periods > 0 {
            self.period += periods * PERIOD_NS;
            self.used = self.used.saturating_sub(periods.saturating_mul(RUNTIME_NS)).min(RUNTIME_NS);
        }
    }

    /// How much longer real-time tasks may keep others waiting; `Err`: they may not, for so long.
    pub fn allowance(&mut self, now: u64) -> Result<u64, u64> {
        self.renew(now);
        if self.withheld_until > now {
            return Err(self.withheld_until - now);
        }
        if self.withheld_until > 0 {
            self.withheld_until = 0;
            self.used = 0;
        }
        if self.used >= RUNTIME_NS {
            self.withheld_until = now + (PERIOD_NS - RUNTIME_NS);
            return Err(PERIOD_NS - RUNTIME_NS);
        }
        Ok(RUNTIME_NS - self.used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_packed() {
        for policy in [
            Policy { number: RR, priority: 99, reset_on_fork: true },
            Policy { number: IDLE, priority: 0, reset_on_fork: false },
        ] {
            assert_eq!(Policy::unpack(policy.pack()), policy);
        }
    }

    #[test]
    fn what_is_used_up_comes_back_with_the_next_period() {
        let mut r = Realtime::new();
        let start = 5 * PERIOD_NS;
        const MS: u64 = 1_000_000;
        assert_eq!(r.allowance(start), Ok(RUNTIME_NS));
        r.charge(start + 900 * MS, 900 * MS);
        assert_eq!(r.allowance(start + 900 * MS), Ok(50 * MS));
        r.charge(start + 960 * MS, 60 * MS);
        assert_eq!(r.allowance(start + 960 * MS), Err(50 * MS));
        assert_eq!(r.allowance(start + 970 * MS), Err(40 * MS));
        assert_eq!(r.allowance(start + 1010 * MS), Ok(RUNTIME_NS));
        // Who is always late to look uses up his time all the same.
        let mut now = start + 10 * PERIOD_NS;
        let mut rounds = 0;
        r.charge(now, 0);
        while let Ok(left) = r.allowance(now) {
            now += left + 70 * MS;
            r.charge(now, left + 70 * MS);
            rounds += 1;
        }
        assert!(rounds <= 5, "{rounds}");
        // A little now and then does not add up.
        for _ in 0..1000 {
            now += PERIOD_NS;
            r.charge(now, 10 * MS);
        }
        assert!(r.allowance(now).is_ok());
    }
}
