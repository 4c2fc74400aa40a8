//! POSIX timers (timer_create(2)).
//!
//! What Linux does: a timer that has expired sends its signal and rests. It is set for its next period when the signal is
//! taken, and what was missed meanwhile is told with the signal (`si_overrun`): however short the period and however long the
//! signal is blocked, there is one signal. If the signal is ignored the timer goes on, at most once a tick.
//!
//! What we do: the same ([`dequeued`](super::dequeued)).
//!
//! Lock order: a process's table of timers, then a timer's state, then the scheduler's timers.

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
        self, Reserved, SigInfo, Signal,
        limit::user_has_room,
        types::{Fields, code},
    },
    sync::SpinLock,
    syscall::{Ctx, Syscall, UserPtr},
    syscalls,
    task::{Process, limits::UsageSum},
    time::TICK_NS,
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
    /// The signal set aside for it.
    _signal: Reserved,
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
    /// Set, and if it does not repeat not expired yet.
    armed: bool,
    deadline: u64,
    interval: u64,
    /// Told with the last signal.
    overrun: i32,
    /// Its signal is queued.
    pending: bool,
    /// It was set anew while its signal was queued, and expired so often since.
    late: u64,
    timer: Option<Running>,
}

impl PosixTimer {
    /// Stops it.
    pub(super) fn disarm(&self) {
        let mut s = self.state.lock();
        let new = State { pending: s.pending, ..State::default() };
        let old = core::mem::replace(&mut *s, new);
        drop(s);
        drop(old);
    }

    fn arm(self: &Arc<Self>, deadline: u64, interval: u64) -> Result<()> {
        let queued = self.is_queued();
        let mut s = self.state.lock();
        // Started with the state locked: one that expires at once finds itself there.
        let timer = match self.notify {
            Notify::None => None,
            _ => Some(self.clock.start(deadline, self.clone()).ok_or(Errno::ESRCH)?),
        };
        let pending = s.pending && queued;
        let new = State { armed: true, deadline, interval, pending, timer, ..State::default() };
        let old = core::mem::replace(&mut *s, new);
        drop(s);
        drop(old);
        Ok(())
    }

    fn current(&self) -> ITimerSpec {
        let now = self.clock.now();
        let s = self.state.lock();
        let left = match now {
            Some(now) if s.armed && s.deadline > now => s.deadline - now,
            // It is due, or its signal is: what is told is the time to the next period.
            Some(now) if s.armed => match super::next_period(s.deadline, s.interval, now) {
                Some((_, deadline)) => deadline.saturating_sub(now).max(1),
                None => u64::from(s.timer.is_some()),
            },
            _ => 0,
        };
        ITimerSpec { interval: TimeSpec::from_ns(s.interval), value: TimeSpec::from_ns(left) }
    }

    /// Whether its signal waits to be taken. One that was dropped, because it came to be ignored, is not told of.
    fn is_queued(&self) -> bool {
        let Some(process) = self.process.upgrade() else { return false };
        let ours = |i: &SigInfo| {
            i.code == code::SI_TIMER && matches!(i.fields, Fields::Timer { id, .. } if id == self.id)
        };
        match self.notify {
            Notify::None => false,
            Notify::Process(_) => process.shared_pending.has(ours),
            Notify::Thread(_, tid) => {
                process.threads().iter().any(|t| t.tid() == tid && t.signals.pending.has(ours))
            }
        }
    }

    /// Sends the signal; says whether it was queued.
    fn tell(&self) -> bool {
        let Some(process) = self.process.upgrade() else { return false };
        let info = |signal| SigInfo {
            signal,
            code: code::SI_TIMER,
            fields: Fields::Timer { id: self.id, overrun: 0, value: self.value },
        };
        // A queue that is full refuses it, as if it were ignored.
        let sent = match self.notify {
            Notify::None => Ok(false),
            Notify::Process(s) => signal::queue_for_process(&process, info(s)),
            Notify::Thread(s, tid) => match process.threads().iter().find(|t| t.tid() == tid) {
                Some(t) => signal::queue_for_task(t, info(s)),
                None => Ok(false),
            },
        };
        sent.unwrap_or(false)
    }

    /// Sets it for its next period, not sooner than in `least`; the periods that were missed.
    fn next(self: &Arc<Self>, s: &mut State, now: u64, least: u64) -> u64 {
        let Some((missed, deadline)) = super::next_period(s.deadline, s.interval, now.saturating_add(least))
        else {
            s.armed = false;
            return 0;
        };
        s.deadline = deadline;
        s.timer = self.clock.start(deadline, self.clone());
        missed
    }

    /// Its signal is being taken: the overrun to tell with it.
    pub(super) fn taken(self: &Arc<Self>) -> i32 {
        let now = self.clock.now();
        let mut s = self.state.lock();
        s.pending = false;
        let mut missed = core::mem::take(&mut s.late);
        if let Some(now) = now
            && s.armed
            && s.timer.is_none()
        {
            missed = missed.saturating_add(self.next(&mut s, now, 0));
        }
        s.overrun = missed.min(i32::MAX as u64) as i32;
        s.overrun
    }
}

impl TimerTarget for PosixTimer {
    fn expired(self: Arc<Self>) {
        let Some(now) = self.clock.now() else { return };
        let (former, queued) = {
            let mut s = self.state.lock();
            if s.timer.is_none() || s.deadline > now {
                return;
            }
            s.late += u64::from(s.pending);
            (s.timer.take(), core::mem::replace(&mut s.pending, true))
        };
        drop(former);
        if !queued && !self.tell() {
            let mut s = self.state.lock();
            s.pending = false;
            if s.armed && s.timer.is_none() {
                let least = TICK_NS.saturating_sub(s.interval);
                self.next(&mut s, now, least);
            }
        }
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
/// To the kernel the same as a signal; the C library's helper thread waits for it.
const SIGEV_THREAD: i32 = 2;
const SIGEV_THREAD_ID: i32 = 4;

fn timer_create(ctx: &mut Ctx<'_>, clock: i32, event: UserPtr<SigEvent>, out: UserPtr<i32>) -> Result {
    // CLOCK_MONOTONIC_RAW and the coarse clocks have no timers.
    if matches!(clock, 4..=6) {
        return Err(Errno::EOPNOTSUPP);
    }
    let clock = TimerClock::new(ctx.task, clock)?;
    let process = ctx.task.process();
    let event = match event.non_null() {
        Some(e) => Some(e.read()?),
        None => None,
    };
    // Each has a signal set aside, of those its user may have.
    if !user_has_room(ctx.task) {
        return Err(Errno::EAGAIN);
    }
    let mut timers = process.timers.posix.lock();
    if timers.len() >= MAX_TIMERS {
        return Err(Errno::EAGAIN);
    }
    let id = (0..).find(|id| !timers.contains_key(id)).ok_or(Errno::EAGAIN)?;
    let signal = |e: &SigEvent| Signal::new(e.signo).ok_or(Errno::EINVAL);
    let (notify, value) = match &event {
        None => (Notify::Process(Signal::ALRM), id as u64),
        Some(e) if e.notify == SIGEV_NONE => (Notify::None, e.value),
        Some(e) if matches!(e.notify, SIGEV_SIGNAL | SIGEV_THREAD) => (Notify::Process(signal(e)?), e.value),
        Some(e) if e.notify == SIGEV_THREAD_ID => {
            if !process.threads().iter().any(|t| t.tid() == e.tid) {
                return Err(Errno::EINVAL);
            }
            (Notify::Thread(signal(e)?, e.tid), e.value)
        }
        _ => return Err(Errno::EINVAL),
    };
    let timer = PosixTimer {
        id,
        clock,
        notify,
        value,
        process: Arc::downgrade(process),
        state: SpinLock::default(),
        _signal: Reserved::set_aside(),
    };
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
