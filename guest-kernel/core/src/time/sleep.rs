//! Sleeping, and `restart_syscall(2)`.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};

use super::{
    Clock, TimeSpec,
    clocks::{CpuClock, clock_now},
    cpu::CpuAlarm,
    deadline_after,
};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    futex::TimedWait,
    sched::{self, TimerTarget},
    sync::{Interruptible, WaitError, wait_event_any},
    syscall::{Ctx, Syscall, UserPtr},
    syscalls,
};
use ringfence_hal as hal;

/// What `restart_syscall` goes on with after a stop: the calls whose time-out is relative must not start
/// their time again.
#[derive(Clone, Copy, Debug)]
pub enum Restart {
    /// A sleep until this monotonic time; the rest goes to the pointer if it is interrupted again.
    Sleep {
        /// Absolute nanoseconds.
        deadline: u64,
        /// `struct timespec *`, or 0.
        remaining: u64,
    },
    /// A sleep until a CPU clock shows this; the rest as above.
    CpuSleep {
        /// The clock.
        clock: CpuClock,
        /// Nanoseconds on it.
        until: u64,
        /// `struct timespec *`, or 0.
        remaining: u64,
    },
    /// A `FUTEX_WAIT` or `FUTEX_WAIT_BITSET` with a time-out.
    Futex(TimedWait),
    /// A `poll`.
    Poll {
        /// `struct pollfd *`.
        fds: u64,
        /// How many.
        count: u32,
        /// Absolute nanoseconds; `None` is forever.
        deadline: Option<u64>,
    },
}

fn sleep(task: &TaskRef, deadline: u64) -> Result<(), WaitError> {
    match wait_event_any(task, Interruptible::Yes, Some(deadline), || None::<()>) {
        Ok(()) | Err(WaitError::TimedOut) => Ok(()),
        Err(e) => Err(e),
    }
}

fn relative(ctx: &mut Ctx<'_>, deadline: u64, remaining: UserPtr<TimeSpec>) -> Result {
    if sleep(ctx.task, deadline).is_ok() {
        return Ok(0);
    }
    let left = deadline.saturating_sub(hal::time::now());
    if left == 0 {
        return Ok(0);
    }
    remaining.write_opt(&TimeSpec::from_ns(left))?;
    *ctx.task.restart.lock() = Some(Restart::Sleep { deadline, remaining: remaining.0 });
    Err(Errno::ERESTART_RESTARTBLOCK)
}

fn nanosleep(ctx: &mut Ctx<'_>, request: UserPtr<TimeSpec>, remaining: UserPtr<TimeSpec>) -> Result {
    let ns = request.read()?.to_ns()?;
    relative(ctx, deadline_after(ns), remaining)
}

const TIMER_ABSTIME: i32 = 1;

fn clock_nanosleep(
    ctx: &mut Ctx<'_>,
    id: i32,
    flags: i32,
    request: UserPtr<TimeSpec>,
    remaining: UserPtr<TimeSpec>,
) -> Result {
    let ns = request.read()?.to_ns()?;
    let clock = Clock::new(id)?;
    if let Clock::Cpu(clock) = clock {
        if clock.thread && (clock.number == 0 || clock.number == ctx.task.tid()) {
            // It does not run while one sleeps.
            return Err(if id < 0 { Errno::EINVAL } else { Errno::EOPNOTSUPP });
        }
        return on_cpu_time(ctx, clock, ns, flags & TIMER_ABSTIME != 0, remaining);
    }
    if flags & TIMER_ABSTIME == 0 {
        return relative(ctx, deadline_after(ns), remaining);
    }
    let left = ns.saturating_sub(clock_now(ctx.task, clock)?);
    match sleep(ctx.task, deadline_after(left)) {
        Ok(()) => Ok(0),
        Err(_) => Err(Errno::ERESTARTNOHAND),
    }
}

/// Ends a sleep on CPU time.
struct Alarm {
    rung: AtomicBool,
    task: TaskRef,
}

impl TimerTarget for Alarm {
    fn expired(self: Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        sched::wake(&self.task);
    }
}

fn on_cpu_time(
    ctx: &mut Ctx<'_>,
    clock: CpuClock,
    ns: u64,
    absolute: bool,
    remaining: UserPtr<TimeSpec>,
) -> Result {
    let task = ctx.task;
    let until = if absolute { ns } else { clock.now(task)?.saturating_add(ns) };
    let alarm = Arc::new(Alarm { rung: AtomicBool::new(false), task: task.clone() });
    let _running = CpuAlarm::start(task, clock, until, alarm.clone())?;
    // Who is asleep has no tick: if it went to sleep at the very moment, the alarm would come when it wakes.
    const LOOK_NS: u64 = 50_000_000;
    let over = || alarm.rung.load(Ordering::Acquire).then_some(());
    loop {
        if clock.now(task)? >= until {
            return Ok(0);
        }
        match wait_event_any(task, Interruptible::Yes, Some(deadline_after(LOOK_NS)), over) {
            Ok(()) => return Ok(0),
            Err(WaitError::TimedOut) => {}
            Err(WaitError::Interrupted) => break,
        }
    }
    if absolute {
        return Err(Errno::ERESTARTNOHAND);
    }
    let left = until.saturating_sub(clock.now(task)?);
    if left == 0 {
        return Ok(0);
    }
    remaining.write_opt(&TimeSpec::from_ns(left))?;
    *task.restart.lock() = Some(Restart::CpuSleep { clock, until, remaining: remaining.0 });
    Err(Errno::ERESTART_RESTARTBLOCK)
}

fn restart_syscall(ctx: &mut Ctx<'_>) -> Result {
    let restart = ctx.task.restart.lock().take();
    match restart {
        Some(Restart::Sleep { deadline, remaining }) => relative(ctx, deadline, UserPtr::new(remaining)),
        Some(Restart::CpuSleep { clock, until, remaining }) => {
            let left = until.saturating_sub(clock.now(ctx.task)?);
            on_cpu_time(ctx, clock, left, false, UserPtr::new(remaining))
        }
        Some(Restart::Poll { fds, count, deadline }) => {
            crate::fs::poll::restart_poll(ctx.task, fds, count, deadline)
        }
        Some(Restart::Futex(wait)) => wait.run(ctx.task),
        None => Err(Errno::EINTR),
    }
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    35 nanosleep(req: UserPtr<TimeSpec>, rem: UserPtr<TimeSpec>) Full "";
    219 restart_syscall() Full "";
    230 clock_nanosleep(clockid: i32, flags: i32, req: UserPtr<TimeSpec>, rem: UserPtr<TimeSpec>) Full "";
};
