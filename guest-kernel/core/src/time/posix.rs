//! POSIX timers (timer_create(2)).

use alloc::sync::{Arc, Weak};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Clock, TimeSpec, clock_now};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    sched::{Timer, TimerTarget},
    signal::{
        self, SigInfo, Signal,
        types::{Fields, code},
    },
    sync::SpinLock,
    syscall::{Ctx, Syscall, UserPtr},
    syscalls,
    task::Process,
};
use ringfence_hal as hal;

/// Timers of one process at most.
const MAX_TIMERS: usize = 1024;

/// One POSIX timer.
pub struct PosixTimer {
    id: i32,
    clock: Clock,
    notify: Notify,
    value: u64,
    process: Weak<Process>,
    state: SpinLock<State>,
}

enum Notify {
    None,
    Process(Signal),
    Thread(Signal, i32),
}

#[derive(Default)]
struct State {
    deadline: u64,
    interval: u64,
    overrun: i32,
    timer: Option<Timer>,
}

impl PosixTimer {
    /// Stops it.
    pub(super) fn disarm(&self) {
        let old = core::mem::take(&mut *self.state.lock());
        drop(old);
    }

    fn arm(self: &Arc<Self>, deadline: u64, interval: u64) {
        let timer = Timer::start(deadline, self.clone());
        let old = core::mem::replace(
            &mut *self.state.lock(),
            State { deadline, interval, overrun: 0, timer: Some(timer) },
        );
        drop(old);
    }

    fn current(&self) -> ITimerSpec {
        let s = self.state.lock();
        let left = match s.timer {
            Some(_) => s.deadline.saturating_sub(hal::time::now()).max(1),
            None => 0,
        };
        ITimerSpec { interval: TimeSpec::from_ns(s.interval), value: TimeSpec::from_ns(left) }
    }
}

impl TimerTarget for PosixTimer {
    fn expired(self: Arc<Self>) {
        let (overrun, former) = {
            let mut s = self.state.lock();
            let now = hal::time::now();
            if s.timer.is_none() || s.deadline > now {
                return;
            }
            let former = s.timer.take();
            let missed = now.saturating_sub(s.deadline).checked_div(s.interval).unwrap_or(0);
            s.overrun = missed.min(i32::MAX as u64) as i32;
            if s.interval != 0 {
                s.deadline += (missed + 1) * s.interval;
                s.timer = Some(Timer::start(s.deadline, self.clone()));
            }
            (s.overrun, former)
        };
        drop(former);
        let Some(process) = self.process.upgrade() else { return };
        let info = |signal| SigInfo {
            signal,
            code: code::SI_TIMER,
            fields: Fields::Timer { id: self.id, overrun, value: self.value },
        };
        // A full queue loses the expiry; timer_getoverrun is how a program notices.
        let _ = match self.notify {
            Notify::None => Ok(()),
            Notify::Process(s) => signal::send_to_process(&process, info(s)),
            Notify::Thread(s, tid) => match process.threads().iter().find(|t| t.tid() == tid) {
                Some(t) => signal::send_to_task(t, info(s)),
                None => Ok(()),
            },
        };
    }
}

/// `struct sigevent`, as far as the kernel reads it.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct SigEvent {
    value: u64,
    signo: i32,
    notify: i32,
    tid: i32,
    _pad: [i32; 11],
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct ITimerSpec {
    interval: TimeSpec,
    value: TimeSpec,
}

const SIGEV_SIGNAL: i32 = 0;
const SIGEV_NONE: i32 = 1;
const SIGEV_THREAD_ID: i32 = 4;

fn timer_create(ctx: &mut Ctx<'_>, clock: i32, event: UserPtr<SigEvent>, out: UserPtr<i32>) -> Result {
    let clock = match Clock::new(clock)? {
        c @ (Clock::Realtime | Clock::Monotonic) => c,
        _ => return Err(Errno::EOPNOTSUPP), // CPU-time timers
    };
    let process = ctx.task.process();
    let event = match event.non_null() {
        Some(e) => Some(e.read()?),
        None => None,
    };
    let mut timers = process.timers.posix.lock();
    if timers.len() >= MAX_TIMERS {
        return Err(Errno::EAGAIN);
    }
    let id = (0..).find(|id| !timers.contains_key(id)).ok_or(Errno::EAGAIN)?;
    let signal = |e: &SigEvent| Signal::new(e.signo).ok_or(Errno::EINVAL);
    let (notify, value) = match &event {
        None => (Notify::Process(Signal::ALRM), id as u64),
        Some(e) if e.notify == SIGEV_NONE => (Notify::None, e.value),
        Some(e) if e.notify == SIGEV_SIGNAL => (Notify::Process(signal(e)?), e.value),
        Some(e) if e.notify == SIGEV_THREAD_ID => {
            if !process.threads().iter().any(|t| t.tid() == e.tid) {
                return Err(Errno::EINVAL);
            }
            (Notify::Thread(signal(e)?, e.tid), e.value)
        }
        _ => return Err(Errno::EINVAL),
    };
    let timer =
        PosixTimer { id, clock, notify, value, process: Arc::downgrade(process), state: SpinLock::default() };
    timers.insert(id, Arc::new(timer));
    drop(timers);
    if let Err(e) = out.write(&id) {
        process.timers.posix.lock().remove(&id);
        return Err(e);
    }
    Ok(0)
}

fn find(task: &TaskRef, id: i32) -> Result<Arc<PosixTimer>> {
    task.process().timers.posix.lock().get(&id).cloned().ok_or(Errno::EINVAL)
}

const TIMER_ABSTIME: i32 = 1;

fn timer_settime(
    ctx: &mut Ctx<'_>,
    id: i32,
    flags: i32,
    new: UserPtr<ITimerSpec>,
    old: UserPtr<ITimerSpec>,
) -> Result {
    let new = new.non_null().ok_or(Errno::EINVAL)?.read()?;
    let timer = find(ctx.task, id)?;
    let (value, interval) = (new.value.to_ns()?, new.interval.to_ns()?);
    let former = timer.current();
    if value == 0 {
        timer.disarm();
    } else {
        let left = if flags & TIMER_ABSTIME != 0 {
            value.saturating_sub(clock_now(ctx.task, timer.clock)?)
        } else {
            value
        };
        timer.arm(super::deadline_after(left), interval);
    }
    old.write_opt(&former)?;
    Ok(0)
}

fn timer_gettime(ctx: &mut Ctx<'_>, id: i32, out: UserPtr<ITimerSpec>) -> Result {
    out.write(&find(ctx.task, id)?.current())?;
    Ok(0)
}

fn timer_getoverrun(ctx: &mut Ctx<'_>, id: i32) -> Result {
    Ok(find(ctx.task, id)?.state.lock().overrun as usize)
}

fn timer_delete(ctx: &mut Ctx<'_>, id: i32) -> Result {
    let timer = ctx.task.process().timers.posix.lock().remove(&id).ok_or(Errno::EINVAL)?;
    timer.disarm();
    Ok(0)
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    222 timer_create(clockid: i32, sevp: UserPtr<SigEvent>, timerid: UserPtr<i32>) Partial "not on CPU-time clocks";
    223 timer_settime(timerid: i32, flags: i32, new: UserPtr<ITimerSpec>, old: UserPtr<ITimerSpec>) Full "";
    224 timer_gettime(timerid: i32, curr: UserPtr<ITimerSpec>) Full "";
    225 timer_getoverrun(timerid: i32) Full "";
    226 timer_delete(timerid: i32) Full "";
};
