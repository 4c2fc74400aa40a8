//! Timers: per-CPU ordered maps of deadlines over one hardware timer.
//!
//! The hardware is programmed (a VM exit) only when the nearest deadline comes closer. A cancelled timer
//! leaves it armed: one early interrupt that finds nothing due is cheaper than re-programming at every
//! cancellation, because most time-outs are cancelled. The same goes for slices: tasks that take turns begin one at every
//! switch, and the interrupt that comes for the first of them finds a later one. It sets the hardware to a slice from then,
//! whether or not one counts at that moment, since the next switch would do so.

use alloc::{collections::BTreeMap, sync::Arc};
use core::sync::atomic::{AtomicU64, Ordering};

use ringfence_hal as hal;
use ringfence_hal::{PerCpu, sync::Once};

use super::{SLICE_NS, cputime, runqueue};
use crate::{Sentry, sync::SpinLock};

/// What happens when a timer is due; called with interrupts off and no lock held, must not block.
pub trait TimerTarget: Send + Sync {
    /// The deadline has passed.
    fn expired(self: Arc<Self>);
}

impl TimerTarget for hal::Thread<Sentry> {
    fn expired(self: Arc<Self>) {
        super::wake(&self);
    }
}

type Key = (u64, u64);

struct Cpu {
    timers: BTreeMap<Key, Arc<dyn TimerTarget>>,
    /// When the running task's slice ends; `u64::MAX` while nobody waits for the CPU.
    slice_end: u64,
    /// A slice has begun since the last interrupt.
    sliced: bool,
    /// When the running task has its tick (see `cputime`); `u64::MAX` while the CPU is idle.
    tick: u64,
    /// What the hardware is set to; `u64::MAX` is off.
    armed: u64,
}

impl Cpu {
    /// Programs the hardware if the nearest deadline is earlier than what it is set to.
    fn arm(&mut self) {
        self.arm_before(u64::MAX);
    }

    /// The same, to `latest` if no deadline is nearer.
    fn arm_before(&mut self, latest: u64) {
        let timer = self.timers.first_key_value().map_or(u64::MAX, |(k, _)| k.0);
        let first = timer.min(self.slice_end).min(self.tick).min(latest);
        if first < self.armed {
            self.armed = first;
            hal::time::set_deadline(Some(first));
        }
    }
}

static CPUS: Once<PerCpu<SpinLock<Cpu>>> = Once::new();
static NEXT_ID: AtomicU64 = AtomicU64::new(0);

fn cpus() -> &'static PerCpu<SpinLock<Cpu>> {
    CPUS.call_once(|| {
        PerCpu::new(|_| {
            let never = u64::MAX;
            SpinLock::new(Cpu {
                timers: BTreeMap::new(),
                slice_end: never,
                sliced: false,
                tick: never,
                armed: never,
            })
        })
    })
}

/// A pending timer; dropping it cancels it.
pub struct Timer {
    cpu: usize,
    key: Key,
}

impl Timer {
    /// Calls `target.expired()` once `hal::time::now()` reaches `deadline` (nanoseconds).
    pub fn start(deadline: u64, target: Arc<dyn TimerTarget>) -> Timer {
        let key = (deadline, NEXT_ID.fetch_add(1, Ordering::Relaxed));
        let cpu = hal::cpu::id();
        let mut c = cpus().of(cpu).lock();
        c.timers.insert(key, target);
        c.arm();
        Timer { cpu, key }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let target = cpus().of(self.cpu).lock().timers.remove(&self.key);
        drop(target); // possibly the last reference: outside the lock
    }
}

/// At a task switch: sets or clears the end of the slice, and sets the next tick.
pub(super) fn set_slice(now: u64, length: Option<u64>, tick: u64) {
    let mut c = cpus().get().lock();
    c.slice_end = length.map_or(u64::MAX, |l| now.saturating_add(l));
    c.sliced |= length.is_some();
    c.tick = tick;
    c.arm();
}

/// Starts a slice for the running task if none counts yet.
pub(super) fn arm_slice(length: u64) {
    let mut c = cpus().get().lock();
    if c.slice_end == u64::MAX {
        c.slice_end = hal::time::now().saturating_add(length);
        c.sliced = true;
        c.arm();
    }
}

/// Has the slice of the running task end in `length` or earlier.
pub(super) fn shorten_slice(length: u64) {
    let end = hal::time::now().saturating_add(length);
    let mut c = cpus().get().lock();
    if end < c.slice_end {
        c.slice_end = end;
        c.arm();
    }
}

/// The tick of the running task has moved.
pub(super) fn set_tick(at: u64) {
    let mut c = cpus().get().lock();
    c.tick = at;
    c.arm();
}

/// The hardware timer of this CPU fired; `kernel`: while the current task was in the kernel.
pub fn on_timer_interrupt(kernel: bool) {
    let now = hal::time::now();
    let tick = super::with_current(|task| task.map(|task| cputime::interrupted(task, now, kernel)));
    loop {
        let due = {
            let mut c = cpus().get().lock();
            match c.timers.first_key_value().map(|(k, _)| *k) {
                Some(key) if key.0 <= now => c.timers.remove(&key),
                _ => None,
            }
        };
        match due {
            Some(target) => target.expired(),
            None => break,
        }
    }
    let slice_over = {
        let mut c = cpus().get().lock();
        let over = c.slice_end <= now;
        if over {
            c.slice_end = u64::MAX;
        }
        c.tick = tick.unwrap_or(u64::MAX);
        c.armed = u64::MAX;
        let next_slice = core::mem::take(&mut c.sliced).then(|| now.saturating_add(SLICE_NS));
        c.arm_before(next_slice.unwrap_or(u64::MAX));
        over
    };
    if slice_over {
        runqueue::slice_over();
    }
}
