//! Reading and setting clocks.

use ringfence_hal as hal;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{TimeSpec, TimeVal};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    syscall::{Ctx, Syscall, UserPtr},
    syscalls,
    task::{Capabilities, limits::UsageSum},
};

/// A clock a program can name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Clock {
    /// Wall clock; can be set.
    Realtime,
    /// Time since boot. Never suspended here, so also CLOCK_BOOTTIME and CLOCK_MONOTONIC_RAW.
    Monotonic,
    /// CPU time of a process; 0 is the caller's.
    ProcessCpu(i32),
    /// CPU time of a thread; 0 is the caller.
    ThreadCpu(i32),
}

impl Clock {
    /// From a `clockid_t`.
    pub fn new(id: i32) -> Result<Clock> {
        match id {
            0 | 5 | 8 | 11 => Ok(Clock::Realtime),
            1 | 4 | 6 | 7 | 9 => Ok(Clock::Monotonic),
            2 => Ok(Clock::ProcessCpu(0)),
            3 => Ok(Clock::ThreadCpu(0)),
            // A CPU clock of another task: the number inverted above three bits of kind.
            id if id < 0 && id & 3 == 2 => {
                let number = !(id >> 3);
                Ok(if id & 4 != 0 { Clock::ThreadCpu(number) } else { Clock::ProcessCpu(number) })
            }
            _ => Err(Errno::EINVAL),
        }
    }
}

/// What a clock shows, in nanoseconds.
pub fn clock_now(task: &TaskRef, clock: Clock) -> Result<u64> {
    Ok(match clock {
        Clock::Realtime => super::realtime(),
        Clock::Monotonic => hal::time::now(),
        Clock::ThreadCpu(0) => task.sched.runtime(),
        Clock::ThreadCpu(tid) => task.pids().task(tid).map_err(|_| Errno::EINVAL)?.sched.runtime(),
        Clock::ProcessCpu(0) => UsageSum::of_process(task.process()).runtime,
        Clock::ProcessCpu(pid) => {
            UsageSum::of_process(&*task.pids().process(pid).map_err(|_| Errno::EINVAL)?).runtime
        }
    })
}

fn clock_gettime(ctx: &mut Ctx<'_>, id: i32, out: UserPtr<TimeSpec>) -> Result {
    let now = clock_now(ctx.task, Clock::new(id)?)?;
    out.write(&TimeSpec::from_ns(now))?;
    Ok(0)
}

fn clock_getres(_: &mut Ctx<'_>, id: i32, out: UserPtr<TimeSpec>) -> Result {
    const COARSE_TICK: u64 = 4_000_000;
    Clock::new(id)?;
    let resolution = if matches!(id, 5 | 6) { COARSE_TICK } else { 1 };
    out.write_opt(&TimeSpec::from_ns(resolution))?;
    Ok(0)
}

fn clock_settime(ctx: &mut Ctx<'_>, id: i32, new: UserPtr<TimeSpec>) -> Result {
    let wall = new.read()?.to_ns()?;
    if Clock::new(id)? != Clock::Realtime {
        return Err(Errno::EINVAL);
    }
    if !ctx.task.credentials().capable(Capabilities::SYS_TIME) {
        return Err(Errno::EPERM);
    }
    super::set_realtime(wall);
    Ok(0)
}

fn gettimeofday(_: &mut Ctx<'_>, tv: UserPtr<TimeVal>, tz: UserPtr<[i32; 2]>) -> Result {
    tv.write_opt(&TimeVal::from_ns(super::realtime()))?;
    tz.write_opt(&[0, 0])?;
    Ok(0)
}

fn settimeofday(ctx: &mut Ctx<'_>, tv: UserPtr<TimeVal>, _tz: UserPtr<[i32; 2]>) -> Result {
    if !ctx.task.credentials().capable(Capabilities::SYS_TIME) {
        return Err(Errno::EPERM);
    }
    if let Some(tv) = tv.non_null() {
        super::set_realtime(tv.read()?.to_ns()?);
    }
    Ok(0)
}

fn time(_: &mut Ctx<'_>, out: UserPtr<i64>) -> Result {
    let seconds = super::realtime() / super::NS_PER_SEC;
    out.write_opt(&(seconds as i64))?;
    Ok(seconds as usize)
}

/// `struct timex` of adjtimex(2), of which only the reading half exists.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Timex {
    words: [u64; 26],
}

fn adjtimex(ctx: &mut Ctx<'_>, buf: UserPtr<Timex>) -> Result {
    clock_adjtime(ctx, 0, buf)
}

fn clock_adjtime(_: &mut Ctx<'_>, id: i32, buf: UserPtr<Timex>) -> Result {
    const TIME_ERROR: usize = 5; // the clock is not synchronised by us
    if Clock::new(id)? != Clock::Realtime {
        return Err(Errno::EOPNOTSUPP);
    }
    let mut timex = buf.read()?;
    let [modes, ..] = timex.words;
    if modes as u32 != 0 {
        return Err(Errno::EPERM);
    }
    timex.words = [0; 26];
    let now = TimeVal::from_ns(super::realtime());
    if let Some(t) = timex.words.get_mut(9..11) {
        t.copy_from_slice(&[now.sec as u64, now.usec as u64]);
    }
    buf.write(&timex)?;
    Ok(TIME_ERROR)
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    96 gettimeofday(tv: UserPtr<TimeVal>, tz: UserPtr<[i32; 2]>) Full "";
    159 adjtimex(buf: UserPtr<Timex>) Partial "reading only";
    164 settimeofday(tv: UserPtr<TimeVal>, tz: UserPtr<[i32; 2]>) Full "";
    201 time(tloc: UserPtr<i64>) Full "";
    227 clock_settime(clockid: i32, tp: UserPtr<TimeSpec>) Full "";
    228 clock_gettime(clockid: i32, tp: UserPtr<TimeSpec>) Full "";
    229 clock_getres(clockid: i32, res: UserPtr<TimeSpec>) Full "";
    305 clock_adjtime(clockid: i32, buf: UserPtr<Timex>) Partial "reading only";
};
