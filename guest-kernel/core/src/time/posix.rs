//! POSIX timers (timer_create(2)).

use alloc::sync::{Arc, Weak};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{
    Clock, TimeSpec,
    clocks::{Owner, Part},
    cpu::CpuAlarm,
};
use crate::{
    Sentry, TaskRef,
    errno::{Errno, Result},
    sched::{Timer, TimerTarget},
    signal::{
        self, SigInfo, Signal,
        types::{Fields, code},
    },
    sync::SpinLock,
    syscall::{Ctx, Syscall, UserPtr},
    syscalls,
    task::{Process, limits::UsageSum},
};
use ringfence_hal as hal;

/// Timers of one process at most.
const MAX_TIMERS: usize = 1024;

/// One POSIX timer.
pub struct PosixTimer {
    id: i32,
    clock: TimerClock,
    notify: Notify,
    value: u64,
    process: Weak<Process>,
    state: SpinLock<State>,
}

/// What a timer goes by.
enum TimerClock {
    /// [`Clock::Realtime`] or [`Clock::Monotonic`].
    Wall(Clock),
    /// CPU time of a process, or of one of its threads.
    Cpu { process: Weak<Process>, thread: Option<Weak<hal::Thread<Sentry>>>, part: Part },
}

impl TimerClock {
    fn new(task: &TaskRef, id: i32) -> Result<TimerClock> {
        let clock = match Clock::new(id)? {
            Clock::Cpu(clock) => clock,
            clock => return Ok(TimerClock::Wall(clock)),
        };
        let part = clock.part;
        Ok(match clock.owner(task)? {
            Owner::Process(process) => {
                TimerClock::Cpu { process: Arc::downgrade(&process), thread: None, part }
            }
            Owner::Thread(t) => {
                let thread = Some(Arc::downgrade(&t));
                TimerClock::Cpu { process: Arc::downgrade(t.process()), thread, part }
            }
        })
    }

    /// Nanoseconds on the scale of deadlines; `None` if whose time it is has ended.
    fn now(&self) -> Option<u64> {
        let (process, thread, part) = match self {
            TimerClock::Wall(_) => return Some(hal::time::now()),
            TimerClock::Cpu { process, thread, part } => (process.upgrade()?, thread, part),
        };
        Some(match (thread, part) {
            (None, Part::All) => UsageSum::times(&process).runtime,
            (None, Part::User) => UsageSum::times(&process).user,
            (Some(t), Part::All) => t.upgrade()?.sched.runtime(),
            (Some(t), Part::User) => t.upgrade()?.sched.split().user,
        })
    }

    /// The deadline that `value` means.
    fn deadline(&self, value: u64, absolute: bool) -> Option<u64> {
        let now = self.now()?;
        Some(match self {
            TimerClock::Wall(Clock::Realtime) if absolute => {
                now.saturating_add(value.saturating_sub(super::realtime()))
            }
            _ if absolute => value,
            _ => now.saturating_add(value),
        })
    }

    fn start(&self, deadline: u64, target: Arc<PosixTimer>) -> Option<Running> {
        match self {
            TimerClock::Wall(_) => Some(Running::Wall(Timer::start(deadline, target))),
            TimerClock::Cpu { process, thread, part } => {
                let process = process.upgrade()?;
                let thread = match thread {
                    Some(thread) => Some(thread.upgrade()?),
                    None => None,
                };
                Some(Running::Cpu(CpuAlarm::start_for(&process, thread.as_ref(), *part, deadline, target)))
            }
        }
    }
}

/// What runs while a timer does; dropping it cancels it.
enum Running {
    Wall(#[expect(dead_code)] Timer),
    Cpu(#[expect(dead_code)] CpuAlarm),
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
    timer: Option<Running>,
}

impl PosixTimer {
    /// Stops it.
    pub(super) fn disarm(&self) {
        let old = core::mem::take(&mut *self.state.lock());
        drop(old);
    }

    fn arm(self: &Arc<Self>, deadline: u64, interval: u64) -> Result<()> {
        let timer = Some(self.clock.start(deadline, self.clone()).ok_or(Errno::ESRCH)?);
        let new = State { deadline, interval, overrun: 0, timer };
        let old = core::mem::replace(&mut *self.state.lock(), new);
        drop(old);
        Ok(())
    }

    fn current(&self) -> ITimerSpec {
        let now = self.clock.now();
        let s = self.state.lock();
        let left = match (&s.timer, now) {
            (Some(_), Some(now)) => s.deadline.saturating_sub(now).max(1),
            _ => 0,
        };
        ITimerSpec { interval: TimeSpec::from_ns(s.interval), value: TimeSpec::from_ns(left) }
    }
}

impl TimerTarget for PosixTimer {
    fn expired(self: Arc<Self>) {
        let Some(now) = self.clock.now() else { return };
        let (overrun, former) = {
            let mut s = self.state.lock();
            if s.timer.is_none() || s.deadline > now {
                return;
            }
            let former = s.timer.take();
            s.overrun = 0;
            if let Some((missed, deadline)) = super::next_period(s.deadline, s.interval, now) {
                s.overrun = missed.min(i32::MAX as u64) as i32;
                s.deadline = deadline;
                s.timer = self.clock.start(deadline, self.clone());
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
    let clock = TimerClock::new(ctx.task, clock)?;
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
        let deadline = timer.clock.deadline(value, flags & TIMER_ABSTIME != 0).ok_or(Errno::ESRCH)?;
        timer.arm(deadline, interval)?;
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
    222 timer_create(clockid: i32, sevp: UserPtr<SigEvent>, timerid: UserPtr<i32>) Full "";
    223 timer_settime(timerid: i32, flags: i32, new: UserPtr<ITimerSpec>, old: UserPtr<ITimerSpec>) Full "";
    224 timer_gettime(timerid: i32, curr: UserPtr<ITimerSpec>) Full "";
    225 timer_getoverrun(timerid: i32) Full "";
    226 timer_delete(timerid: i32) Full "";
};
