//! Clocks, sleeping and timers (clock_gettime(2), nanosleep(2), setitimer(2), timer_create(2)).
//!
//! Everything counts in nanoseconds of `hal::time::now()`, which is CLOCK_MONOTONIC since boot. CLOCK_REALTIME
//! is that plus an offset from kvmclock, which `clock_settime` can move. There is no tick: a sleeper or timer
//! is one entry in a per-CPU map (`sched::Timer`). Timers and sleeps on CPU time are the business of `cpu`.

mod clocks;
mod cpu;
mod itimer;
mod posix;
mod sleep;

use alloc::sync::Arc;
use core::sync::atomic::{AtomicI64, Ordering};

use ringfence_hal as hal;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

pub use clocks::{Clock, clock_now};
pub(crate) use cpu::{new_thread, tick as cpu_time_tick};
pub use itimer::ProcessTimers;
pub use sleep::Restart;

use crate::{
    errno::{Errno, Result},
    signal::{
        SigInfo, Signal,
        types::{Fields, code},
    },
    syscall::Syscall,
    task::Process,
};

/// `sysconf(_SC_CLK_TCK)`.
pub const TICKS_PER_SECOND: u64 = 100;
const NS_PER_SEC: u64 = 1_000_000_000;

/// The shortest period of a timer whose signal is ignored: nobody takes the signal and slows it down.
const TICK_NS: u64 = NS_PER_SEC / TICKS_PER_SECOND;

/// A signal has been taken from the queue: one of a timer is completed, and the timer set for its next period.
pub fn dequeued(process: &Arc<Process>, mut info: SigInfo) -> SigInfo {
    if info.signal == Signal::ALRM {
        itimer::alarm_taken(process);
    }
    if info.code == code::SI_TIMER
        && let Fields::Timer { id, overrun, .. } = &mut info.fields
        && let Some(timer) = process.timers.posix.lock().get(id).cloned()
    {
        *overrun = timer.taken();
    }
    info
}

/// The system calls of this module.
pub const SYSCALLS: &[&[Syscall]] = &[clocks::SYSCALLS, sleep::SYSCALLS, itimer::SYSCALLS, posix::SYSCALLS];

/// `struct timespec`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TimeSpec {
    /// Seconds.
    pub sec: i64,
    /// Nanoseconds, 0 to 999,999,999.
    pub nsec: i64,
}

impl TimeSpec {
    /// From nanoseconds.
    pub const fn from_ns(ns: u64) -> TimeSpec {
        TimeSpec { sec: (ns / NS_PER_SEC) as i64, nsec: (ns % NS_PER_SEC) as i64 }
    }

    /// In nanoseconds, saturated; `EINVAL` if negative or not normal.
    pub fn to_ns(self) -> Result<u64> {
        if self.sec < 0 || !(0..NS_PER_SEC as i64).contains(&self.nsec) {
            return Err(Errno::EINVAL);
        }
        Ok((self.sec as u64).saturating_mul(NS_PER_SEC).saturating_add(self.nsec as u64))
    }
}

/// `struct timeval`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TimeVal {
    /// Seconds.
    pub sec: i64,
    /// Microseconds, 0 to 999,999.
    pub usec: i64,
}

impl TimeVal {
    /// From nanoseconds, rounded down.
    pub const fn from_ns(ns: u64) -> TimeVal {
        TimeVal { sec: (ns / NS_PER_SEC) as i64, usec: (ns % NS_PER_SEC / 1000) as i64 }
    }

    /// In nanoseconds, saturated; `EINVAL` if negative or not normal.
    pub fn to_ns(self) -> Result<u64> {
        if self.sec < 0 || !(0..1_000_000).contains(&self.usec) {
            return Err(Errno::EINVAL);
        }
        Ok((self.sec as u64).saturating_mul(NS_PER_SEC).saturating_add(self.usec as u64 * 1000))
    }
}

/// The deadline `ns` from now; saturates, so an absurd time-out is "never".
pub fn deadline_after(ns: u64) -> u64 {
    hal::time::now().saturating_add(ns)
}

/// Of a timer with a period, whose `deadline` has passed: how many whole periods have passed since, and the next deadline,
/// which saturates: a program may ask for a period of centuries. `None` without a period.
pub fn next_period(deadline: u64, interval: u64, now: u64) -> Option<(u64, u64)> {
    let missed = now.saturating_sub(deadline).checked_div(interval)?;
    Some((missed, deadline.saturating_add(interval.saturating_mul(missed.saturating_add(1)))))
}

/// What `clock_settime(CLOCK_REALTIME)` added to the offset the HAL tells.
static REALTIME_ADJUSTMENT: AtomicI64 = AtomicI64::new(0);

/// Wall clock in nanoseconds since the epoch.
pub fn realtime() -> u64 {
    monotonic_to_realtime(hal::time::now())
}

/// The wall clock at a monotonic time.
pub fn monotonic_to_realtime(ns: u64) -> u64 {
    ns.saturating_add(hal::time::realtime_offset())
        .saturating_add_signed(REALTIME_ADJUSTMENT.load(Ordering::Relaxed))
}

/// The monotonic time at which the wall clock shows `wall`; 0 if that is before boot.
pub fn realtime_to_monotonic(wall: u64) -> u64 {
    let offset = monotonic_to_realtime(0);
    wall.saturating_sub(offset)
}

/// The wall clock at boot as the boot configuration tells it: used where the HAL knows none of its own.
pub fn set_boot_realtime(wall: u64) {
    if hal::time::realtime_offset() == 0 {
        set_realtime(wall);
    }
}

fn set_realtime(wall: u64) {
    let change = (wall as i64).wrapping_sub(realtime() as i64);
    REALTIME_ADJUSTMENT.fetch_add(change, Ordering::Relaxed);
    crate::exec::vdso::realtime_changed();
    crate::fs::timerfd::clock_was_set();
}

#[cfg(test)]
mod tests {
    use super::next_period;

    #[test]
    fn periods() {
        assert_eq!(next_period(100, 0, 100), None);
        assert_eq!(next_period(100, 10, 100), Some((0, 110)));
        assert_eq!(next_period(100, 10, 139), Some((3, 140)));
        assert_eq!(next_period(100, u64::MAX, 139), Some((0, u64::MAX)));
        assert_eq!(next_period(0, 1, u64::MAX), Some((u64::MAX, u64::MAX)));
    }
}
