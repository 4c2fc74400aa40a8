//! Reading and setting clocks.

use alloc::sync::Arc;

use ringfence_hal as hal;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{TimeSpec, TimeVal};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    syscall::{Ctx, Syscall, UserPtr},
    syscalls,
    task::{Capabilities, Process, limits::UsageSum},
};

/// A clock a program can name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Clock {
    /// Wall clock; can be set.
    Realtime,
    /// Time since boot. Never suspended here, so also CLOCK_BOOTTIME and CLOCK_MONOTONIC_RAW.
    Monotonic,
    /// CPU time.
    Cpu(CpuClock),
}

/// A clock that shows CPU time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CpuClock {
    /// Which part of it.
    pub part: Part,
    /// Of one thread, not of a process.
    pub thread: bool,
    /// Of whom; 0 is the caller.
    pub number: i32,
}

/// What of CPU time a clock counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// All.
    All,
    /// That in user mode.
    User,
}

impl Clock {
    /// From a `clockid_t`.
    pub fn new(id: i32) -> Result<Clock> {
        let cpu = |part, thread, number| Ok(Clock::Cpu(CpuClock { part, thread, number }));
        match id {
            0 | 5 | 8 | 11 => Ok(Clock::Realtime),
            1 | 4 | 6 | 7 | 9 => Ok(Clock::Monotonic),
            2 => cpu(Part::All, false, 0),
            3 => cpu(Part::All, true, 0),
            // A CPU clock of another task: the number inverted above three bits of kind.
            id if id < 0 && id & 3 != 3 => {
                let part = if id & 3 == 1 { Part::User } else { Part::All };
                cpu(part, id & 4 != 0, !(id >> 3))
            }
            _ => Err(Errno::EINVAL),
        }
    }
}

impl CpuClock {
    /// Whose time it shows: threads of other processes are nobody's business. `EINVAL`.
    pub fn owner(self, task: &TaskRef) -> Result<Owner> {
        match (self.thread, self.number) {
            (true, 0) => Ok(Owner::Thread(task.clone())),
            (false, 0) => Ok(Owner::Process(task.process().clone())),
            (true, tid) => {
                let other = task.pids().task(tid).map_err(|_| Errno::EINVAL)?;
                let same = Arc::ptr_eq(other.process(), task.process());
                if same { Ok(Owner::Thread(other)) } else { Err(Errno::EINVAL) }
            }
            (false, pid) => {
                let process = task.pids().process(pid);
                // Its own thread id is as good as the pid, for reading.
                let process = match process {
                    Err(_) if pid == task.tid() => Ok(task.process().clone()),
                    other => other,
                };
                Ok(Owner::Process(process.map_err(|_| Errno::EINVAL)?))
            }
        }
    }

    /// What it shows, in nanoseconds.
    pub fn now(self, task: &TaskRef) -> Result<u64> {
        Ok(match (self.owner(task)?, self.part) {
            (Owner::Thread(t), Part::All) => t.sched.runtime(),
            (Owner::Thread(t), Part::User) => t.sched.split().user,
            (Owner::Process(p), Part::All) => UsageSum::times(&p).runtime,
            (Owner::Process(p), Part::User) => UsageSum::times(&p).user,
        })
    }
}

/// Whose CPU time.
pub enum Owner {
    /// Of a thread.
    Thread(TaskRef),
    /// Of a process.
    Process(Arc<Process>),
}

/// What a clock shows, in nanoseconds.
pub fn clock_now(task: &TaskRef, clock: Clock) -> Result<u64> {
    match clock {
        Clock::Realtime => Ok(super::realtime()),
        Clock::Monotonic => Ok(hal::time::now()),
        Clock::Cpu(clock) => clock.now(task),
    }
}

fn clock_gettime(ctx: &mut Ctx<'_>, id: i32, out: UserPtr<TimeSpec>) -> Result {
    let now = clock_now(ctx.task, Clock::new(id)?)?;
    out.write(&TimeSpec::from_ns(now))?;
    Ok(0)
}

fn clock_getres(ctx: &mut Ctx<'_>, id: i32, out: UserPtr<TimeSpec>) -> Result {
    const COARSE_TICK: u64 = 4_000_000;
    if let Clock::Cpu(clock) = Clock::new(id)? {
        clock.owner(ctx.task)?;
    }
    let resolution = if matches!(id, 5 | 6) { COARSE_TICK } else { 1 };
    out.write_opt(&TimeSpec::from_ns(resolution))?;
    Ok(0)
}

fn clock_settime(ctx: &mut Ctx<'_>, id: i32, new: UserPtr<TimeSpec>) -> Result {
    let wall = new.read()?.to_ns()?;
    match Clock::new(id)? {
        Clock::Realtime => {}
        Clock::Cpu(clock) if id < 0 => {
            clock.owner(ctx.task)?;
            return Err(Errno::EPERM);
        }
        _ => return Err(Errno::EINVAL),
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
