//! timerfd_create(2): a timer to wait for.
//!
//! The kernel timer fires once and makes the file readable; how often an interval has passed since is computed
//! when it is read, which also sets the timer for the next time. A timer nobody reads costs nothing.
//!
//! With `TFD_TIMER_CANCEL_ON_SET` a reader is told by `ECANCELED` that the wall clock was set: such files compare how often it
//! has been with how often it had been when they were set, and are woken through a list of their queues.

use alloc::{
    format,
    string::String,
    sync::{Arc, Weak},
    vec::Vec,
};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use ringfence_hal as hal;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{File, OpenFile, OpenFlags, eventfd::install};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    io::Sink,
    sched::{Timer, TimerTarget},
    sync::{Interruptible, PollEvents, PollTable, Queue, SpinLock, WaitQueue, wait_event},
    syscall::{Ctx, Fd, Syscall, UserPtr},
    syscalls,
    time::{TimeSpec, realtime_to_monotonic},
};

const CLOCK_REALTIME: i32 = 0;
/// `TFD_TIMER_ABSTIME` and `TFD_TIMER_CANCEL_ON_SET`.
const ABSTIME: u32 = 1;
const CANCEL_ON_SET: u32 = 2;

/// `struct itimerspec`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct ItimerSpec {
    interval: TimeSpec,
    value: TimeSpec,
}

/// When it is due next, in monotonic nanoseconds.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
struct Schedule {
    /// 0: not armed.
    deadline: u64,
    /// 0: once.
    interval: u64,
    /// Expirations to tell of that were set (`TFD_IOC_SET_TICKS`).
    ticks: u64,
}

impl Schedule {
    /// How often it has been due by `now`, and the schedule after that was read.
    fn expirations(self, now: u64) -> (u64, Schedule) {
        if self.ticks > 0 {
            // Of those since, the first has been told of by being due.
            let (n, next) = Schedule { ticks: 0, ..self }.expirations(now);
            return (self.ticks.saturating_add(n.saturating_sub(1)), next);
        }
        if self.deadline == 0 || now < self.deadline {
            return (0, self);
        }
        if self.interval == 0 {
            return (1, Schedule::default());
        }
        let n = 1 + (now - self.deadline) / self.interval;
        let deadline = self.deadline.saturating_add(n.saturating_mul(self.interval));
        (n, Schedule { deadline, ..self })
    }

    /// As `timerfd_gettime` tells it.
    fn remaining(self, now: u64) -> ItimerSpec {
        let (_, next) = Schedule { ticks: 0, ..self }.expirations(now);
        let left = if next.deadline == 0 { 0 } else { (next.deadline - now).max(1) };
        ItimerSpec { interval: TimeSpec::from_ns(self.interval), value: TimeSpec::from_ns(left) }
    }
}

/// How often the wall clock has been set, and who is to be told of the next time.
static CLOCK_SET: AtomicU64 = AtomicU64::new(0);
static WATCHERS: SpinLock<Vec<Weak<WaitQueue>>> = SpinLock::new(Vec::new());
/// No count of [`CLOCK_SET`].
const NOT_WATCHED: u64 = u64::MAX;

/// The wall clock has been set.
pub fn clock_was_set() {
    CLOCK_SET.fetch_add(1, Ordering::SeqCst);
    let watchers = core::mem::take(&mut *WATCHERS.lock());
    watchers.iter().filter_map(Weak::upgrade).for_each(|queue| queue.wake_all(PollEvents::READABLE));
}

/// `TFD_IOC_SET_TICKS`.
const SET_TICKS: u32 = 0x4008_5400;

struct TimerFd {
    clock: i32,
    realtime: bool,
    /// The flags it was set with.
    flags: AtomicU32,
    /// [`CLOCK_SET`] when it was set, or last told; or [`NOT_WATCHED`].
    watched: AtomicU64,
    schedule: SpinLock<Schedule>,
    timer: SpinLock<Option<Timer>>,
    queue: Queue,
}

/// Wakes those who wait; holds only the queue, so that a pending timer does not keep the file.
struct Alarm(Queue);

impl TimerTarget for Alarm {
    fn expired(self: Arc<Self>) {
        self.0.wake_all(PollEvents::READABLE);
    }
}

impl TimerFd {
    /// Sets the kernel timer for the schedule.
    fn arm(&self, schedule: Schedule) {
        let timer = (schedule.deadline != 0)
            .then(|| Timer::start(schedule.deadline, Arc::new(Alarm(self.queue.clone()))));
        let old = core::mem::replace(&mut *self.timer.lock(), timer);
        drop(old);
    }

    /// Watches the clock from now on.
    fn watch(&self) {
        let mut watchers = WATCHERS.lock();
        watchers.retain(|queue| queue.strong_count() > 0);
        let queue = Arc::downgrade(&self.queue);
        if !watchers.iter().any(|known| known.ptr_eq(&queue)) {
            watchers.push(queue);
        }
        self.watched.store(CLOCK_SET.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    /// Whether the clock was set and nobody has been told.
    fn is_cancelled(&self) -> bool {
        let watched = self.watched.load(Ordering::SeqCst);
        watched != NOT_WATCHED && watched != CLOCK_SET.load(Ordering::SeqCst)
    }

    /// Expirations, or that the clock was set.
    fn take(&self) -> Option<Result<u64>> {
        if self.is_cancelled() {
            self.watch();
            return Some(Err(Errno::ECANCELED));
        }
        let next = {
            let mut schedule = self.schedule.lock();
            let (n, next) = schedule.expirations(hal::time::now());
            if n == 0 {
                return None;
            }
            *schedule = next;
            (n, next)
        };
        self.arm(next.1);
        Some(Ok(next.0))
    }
}

impl File for TimerFd {
    fn read(&self, file: &OpenFile, task: &TaskRef, sink: &mut Sink<'_>) -> Result {
        if sink.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        let n = match self.take() {
            Some(n) => n,
            None if file.nonblocking() => return Err(Errno::EAGAIN),
            None => wait_event(task, &self.queue, Interruptible::Yes, None, || self.take())?,
        }?;
        sink.put(&n.to_ne_bytes())?;
        Ok(8)
    }

    fn poll(&self, table: Option<&mut PollTable>) -> PollEvents {
        if let Some(table) = table {
            table.register(&self.queue);
        }
        let due = self.schedule.lock().expirations(hal::time::now()).0 > 0;
        if due || self.is_cancelled() { PollEvents::READABLE } else { PollEvents::empty() }
    }

    fn seek_ignored(&self) -> bool {
        true
    }

    fn ioctl(&self, _file: &OpenFile, _task: &TaskRef, command: u32, arg: u64) -> Result {
        if command != SET_TICKS {
            return Err(Errno::ENOTTY);
        }
        let ticks = UserPtr::<u64>::new(arg).read()?;
        if ticks == 0 {
            return Err(Errno::EINVAL);
        }
        if self.is_cancelled() {
            return Err(Errno::ECANCELED);
        }
        self.schedule.lock().ticks = ticks;
        self.queue.wake_all(PollEvents::READABLE);
        Ok(0)
    }

    fn fdinfo(&self) -> String {
        let schedule = *self.schedule.lock();
        let now = hal::time::now();
        let (ticks, left) = (schedule.expirations(now).0, schedule.remaining(now));
        format!(
            "clockid: {}\nticks: {ticks}\nsettime flags: 0{:o}\nit_value: ({}, {})\nit_interval: ({}, {})\n",
            self.clock,
            self.flags.load(Ordering::Relaxed),
            left.value.sec,
            left.value.nsec,
            left.interval.sec,
            left.interval.nsec,
        )
    }
}

fn timerfd_create(ctx: &mut Ctx<'_>, clock: i32, flags: u32) -> Result {
    let realtime = match clock {
        CLOCK_REALTIME | 8 => true,
        1 | 7 | 9 => false,
        _ => return Err(Errno::EINVAL),
    };
    let allowed = OpenFlags::CLOEXEC | OpenFlags::NONBLOCK;
    let flags = OpenFlags::from_bits(flags).filter(|f| allowed.contains(*f)).ok_or(Errno::EINVAL)?;
    let ops = TimerFd {
        clock,
        realtime,
        flags: AtomicU32::new(0),
        watched: AtomicU64::new(NOT_WATCHED),
        schedule: SpinLock::new(Schedule::default()),
        timer: SpinLock::new(None),
        queue: WaitQueue::new(),
    };
    install(ctx.task, Arc::new(ops), "anon_inode:[timerfd]", OpenFlags::RDWR, flags)
}

fn find(ctx: &Ctx<'_>, fd: Fd) -> Result<Arc<TimerFd>> {
    ctx.task.files()?.get(fd.0)?.downcast().ok_or(Errno::EINVAL)
}

fn timerfd_settime(
    ctx: &mut Ctx<'_>,
    fd: Fd,
    flags: u32,
    new: UserPtr<ItimerSpec>,
    old: UserPtr<ItimerSpec>,
) -> Result {
    if flags & !(ABSTIME | CANCEL_ON_SET) != 0 {
        return Err(Errno::EINVAL);
    }
    let new = new.read()?;
    let (value, interval) = (new.value.to_ns()?, new.interval.to_ns()?);
    let timer = find(ctx, fd)?;
    let now = hal::time::now();
    let deadline = match (value, flags & ABSTIME != 0) {
        (0, _) => 0,
        (v, false) => now.saturating_add(v),
        (v, true) if timer.realtime => realtime_to_monotonic(v).max(1),
        (v, true) => v,
    };
    let schedule = Schedule { deadline, interval, ticks: 0 };
    timer.flags.store(flags, Ordering::Relaxed);
    let before = core::mem::replace(&mut *timer.schedule.lock(), schedule);
    timer.arm(schedule);
    let cancelled = timer.is_cancelled();
    if timer.realtime && flags == ABSTIME | CANCEL_ON_SET {
        timer.watch();
        if cancelled && deadline != 0 {
            return Err(Errno::ECANCELED);
        }
    } else {
        timer.watched.store(NOT_WATCHED, Ordering::SeqCst);
    }
    old.write_opt(&before.remaining(now))?;
    Ok(0)
}

fn timerfd_gettime(ctx: &mut Ctx<'_>, fd: Fd, current: UserPtr<ItimerSpec>) -> Result {
    let schedule = *find(ctx, fd)?.schedule.lock();
    current.write(&schedule.remaining(hal::time::now()))?;
    Ok(0)
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    283 timerfd_create(clockid: i32, flags: u32) Full "";
    286 timerfd_settime(fd: Fd, flags: u32, new: UserPtr<ItimerSpec>, old: UserPtr<ItimerSpec>) Partial "setting the wall clock does not move armed timers";
    287 timerfd_gettime(fd: Fd, current: UserPtr<ItimerSpec>) Full "";
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expirations_are_counted_when_read() {
        let once = Schedule { deadline: 100, interval: 0, ticks: 0 };
        assert_eq!(once.expirations(99), (0, once));
        assert_eq!(once.expirations(500), (1, Schedule::default()));
        let often = Schedule { deadline: 100, interval: 10, ticks: 0 };
        assert_eq!(often.expirations(100), (1, Schedule { deadline: 110, interval: 10, ticks: 0 }));
        assert_eq!(often.expirations(139), (4, Schedule { deadline: 140, interval: 10, ticks: 0 }));
        let set = Schedule { ticks: 7, ..often };
        assert_eq!(set.expirations(99), (7, often));
        assert_eq!(set.expirations(139), (10, Schedule { deadline: 140, interval: 10, ticks: 0 }));
        assert_eq!(often.remaining(135).value, TimeSpec::from_ns(5));
    }
}
