//! `setitimer`, `alarm`, and where the timers of a process are kept.
//!
//! ITIMER_REAL counts time; ITIMER_VIRTUAL the process's user time and ITIMER_PROF all its CPU time, by [`super::cpu`].

use alloc::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{
    TimeVal,
    clocks::Part,
    cpu::{CpuAlarm, CpuAlarms},
    posix::PosixTimer,
};
use crate::{
    errno::{Errno, Result},
    sched::{Timer, TimerTarget},
    signal::{self, SigInfo, Signal},
    sync::SpinLock,
    syscall::{Ctx, Syscall, UserPtr},
    syscalls,
    task::{Process, limits::UsageSum},
};
use ringfence_hal as hal;

/// The timers of a process.
#[derive(Default)]
pub struct ProcessTimers {
    real: SpinLock<Option<Armed>>,
    /// ITIMER_VIRTUAL and ITIMER_PROF.
    cpu_intervals: [SpinLock<Option<CpuInterval>>; 2],
    pub(super) cpu: CpuAlarms,
    pub(super) posix: SpinLock<BTreeMap<i32, Arc<PosixTimer>>>,
}

impl ProcessTimers {
    /// How many POSIX timers there are.
    pub fn posix_count(&self) -> u64 {
        self.posix.lock().len() as u64
    }

    /// Cancels all of them (exit, and POSIX timers at `execve`).
    pub fn clear(&self) {
        let real = self.real.lock().take();
        drop(real);
        for interval in &self.cpu_intervals {
            let old = interval.lock().take();
            drop(old);
        }
        self.clear_posix();
    }

    /// Cancels the POSIX timers (`execve`).
    pub fn clear_posix(&self) {
        let posix = core::mem::take(&mut *self.posix.lock());
        posix.values().for_each(|t| t.disarm());
    }
}

/// ITIMER_REAL while it runs.
///
/// As on Linux, its next period begins when its signal is taken: one that is pending tells nothing new, and a short period would
/// have the kernel do nothing else.
struct Armed {
    deadline: u64,
    interval: u64,
    /// `None` until the signal of a period is taken.
    timer: Option<Timer>,
}

impl Armed {
    /// Sets it for its next period, not sooner than at `from`. Periods that passed unnoticed are not made up for.
    fn next(&mut self, process: &Arc<Process>, from: u64) {
        if let Some((_, deadline)) = super::next_period(self.deadline, self.interval, from) {
            self.deadline = deadline;
            self.timer = Some(Timer::start(deadline, Arc::new(Alarm(Arc::downgrade(process)))));
        }
    }
}

/// SIGALRM has been taken from the queue.
pub(super) fn alarm_taken(process: &Arc<Process>) {
    if let Some(armed) = &mut *process.timers.real.lock()
        && armed.timer.is_none()
    {
        armed.next(process, hal::time::now());
    }
}

/// What the timer holds: the process may be gone when it fires.
struct Alarm(Weak<Process>);

impl TimerTarget for Alarm {
    fn expired(self: Arc<Self>) {
        let Some(process) = self.0.upgrade() else { return };
        let now = hal::time::now();
        let former = {
            let mut real = process.timers.real.lock();
            match &mut *real {
                // Set anew since, or not at all.
                Some(armed) if armed.deadline > now => return,
                None => return,
                Some(Armed { interval: 0, .. }) => real.take().and_then(|armed| armed.timer),
                Some(armed) => armed.timer.take(),
            }
        };
        drop(former);
        let queued = signal::queue_for_process(&process, SigInfo::kernel(Signal::ALRM)); // standard: not refused
        if !queued.unwrap_or(false)
            && let Some(armed) = &mut *process.timers.real.lock()
            && armed.timer.is_none()
        {
            // Ignored: nobody will take it.
            armed.next(&process, now.saturating_add(super::TICK_NS.saturating_sub(armed.interval)));
        }
    }
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct ITimerVal {
    interval: TimeVal,
    value: TimeVal,
}

fn remaining(armed: &Option<Armed>) -> (u64, u64) {
    match armed {
        // A timer that is due but has not fired yet still shows the smallest time, one whose signal is pending none.
        Some(a) if a.timer.is_some() => (a.deadline.saturating_sub(hal::time::now()).max(1000), a.interval),
        Some(a) => (0, a.interval),
        None => (0, 0),
    }
}

/// Sets ITIMER_REAL; answers the former value and interval in nanoseconds.
fn set_real(process: &Arc<Process>, value: u64, interval: u64) -> (u64, u64) {
    let new = (value != 0).then(|| {
        let deadline = super::deadline_after(value);
        let timer = Timer::start(deadline, Arc::new(Alarm(Arc::downgrade(process))));
        Armed { deadline, interval, timer: Some(timer) }
    });
    let old = core::mem::replace(&mut *process.timers.real.lock(), new);
    remaining(&old)
}

/// ITIMER_VIRTUAL or ITIMER_PROF while it runs.
struct CpuInterval {
    expires: u64,
    interval: u64,
    _alarm: CpuAlarm,
}

/// Which of the two.
#[derive(Clone, Copy)]
enum CpuKind {
    Virtual,
    Prof,
}

impl CpuKind {
    fn place(self, process: &Process) -> &SpinLock<Option<CpuInterval>> {
        let [virt, prof] = &process.timers.cpu_intervals;
        if matches!(self, CpuKind::Virtual) { virt } else { prof }
    }

    fn now(self, process: &Process) -> u64 {
        let used = UsageSum::times(process);
        if matches!(self, CpuKind::Virtual) { used.user } else { used.runtime }
    }

    fn start(self, process: &Arc<Process>, expires: u64, interval: u64) -> CpuInterval {
        let part = if matches!(self, CpuKind::Virtual) { Part::User } else { Part::All };
        let target = Arc::new(CpuExpiry(Arc::downgrade(process), self));
        CpuInterval { expires, interval, _alarm: CpuAlarm::start_for(process, None, part, expires, target) }
    }

    fn remaining(self, process: &Process, armed: &Option<CpuInterval>) -> (u64, u64) {
        match armed {
            Some(a) => (a.expires.saturating_sub(self.now(process)).max(1000), a.interval),
            None => (0, 0),
        }
    }

    /// Sets it; answers the former value and interval in nanoseconds.
    fn set(self, process: &Arc<Process>, value: u64, interval: u64) -> (u64, u64) {
        let expires = || self.now(process).saturating_add(value);
        let new = (value != 0).then(|| self.start(process, expires(), interval));
        let old = core::mem::replace(&mut *self.place(process).lock(), new);
        self.remaining(process, &old)
    }
}

/// What a CPU-time alarm holds.
struct CpuExpiry(Weak<Process>, CpuKind);

impl TimerTarget for CpuExpiry {
    fn expired(self: Arc<Self>) {
        let Some(process) = self.0.upgrade() else { return };
        let kind = self.1;
        let now = kind.now(&process);
        let mut place = kind.place(&process).lock();
        let Some(armed) = place.take() else { return };
        if armed.expires > now {
            *place = Some(armed); // set anew since
            return;
        }
        if let Some((_, expires)) = super::next_period(armed.expires, armed.interval, now) {
            *place = Some(kind.start(&process, expires, armed.interval));
        }
        drop(place);
        drop(armed);
        let signal = if matches!(kind, CpuKind::Virtual) { Signal::VTALRM } else { Signal::PROF };
        let _ = signal::send_to_process(&process, SigInfo::kernel(signal)); // standard: not refused
    }
}

/// Which timer `setitimer` means.
enum Kind {
    Real,
    Cpu(CpuKind),
}

fn kind(which: i32) -> Result<Kind> {
    match which {
        0 => Ok(Kind::Real),
        1 => Ok(Kind::Cpu(CpuKind::Virtual)),
        2 => Ok(Kind::Cpu(CpuKind::Prof)),
        _ => Err(Errno::EINVAL),
    }
}

fn setitimer(ctx: &mut Ctx<'_>, which: i32, new: UserPtr<ITimerVal>, old: UserPtr<ITimerVal>) -> Result {
    let new = match new.non_null() {
        Some(p) => p.read()?,
        None => ITimerVal { interval: TimeVal::default(), value: TimeVal::default() },
    };
    let (value, interval) = (new.value.to_ns()?, new.interval.to_ns()?);
    let process = ctx.task.process();
    let (value, interval) = match kind(which)? {
        Kind::Real => set_real(process, value, interval),
        Kind::Cpu(kind) => kind.set(process, value, interval),
    };
    old.write_opt(&ITimerVal { interval: TimeVal::from_ns(interval), value: TimeVal::from_ns(value) })?;
    Ok(0)
}

fn getitimer(ctx: &mut Ctx<'_>, which: i32, out: UserPtr<ITimerVal>) -> Result {
    let process = ctx.task.process();
    let (value, interval) = match kind(which)? {
        Kind::Real => remaining(&process.timers.real.lock()),
        Kind::Cpu(kind) => kind.remaining(process, &kind.place(process).lock()),
    };
    out.write(&ITimerVal { interval: TimeVal::from_ns(interval), value: TimeVal::from_ns(value) })?;
    Ok(0)
}

fn alarm(ctx: &mut Ctx<'_>, seconds: u32) -> Result {
    let (left, _) = set_real(ctx.task.process(), u64::from(seconds) * super::NS_PER_SEC, 0);
    // To the nearest second, but never "none" for one that is set.
    let seconds = (left + super::NS_PER_SEC / 2) / super::NS_PER_SEC;
    Ok(seconds.max(u64::from(left > 0)) as usize)
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    36 getitimer(which: i32, value: UserPtr<ITimerVal>) Full "";
    37 alarm(seconds: u32) Full "";
    38 setitimer(which: i32, new: UserPtr<ITimerVal>, old: UserPtr<ITimerVal>) Full "";
};
