//! `setitimer`, `alarm`, and where the timers of a process are kept.

use alloc::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{TimeVal, posix::PosixTimer};
use crate::{
    errno::{Errno, Result},
    sched::{Timer, TimerTarget},
    signal::{self, SigInfo, Signal},
    sync::SpinLock,
    syscall::{Ctx, Syscall, UserPtr},
    syscalls,
    task::Process,
};
use ringfence_hal as hal;

/// The timers of a process.
#[derive(Default)]
pub struct ProcessTimers {
    real: SpinLock<Option<Armed>>,
    pub(super) posix: SpinLock<BTreeMap<i32, Arc<PosixTimer>>>,
}

impl ProcessTimers {
    /// Cancels all of them (exit, and POSIX timers at `execve`).
    pub fn clear(&self) {
        let real = self.real.lock().take();
        drop(real);
        self.clear_posix();
    }

    /// Cancels the POSIX timers (`execve`).
    pub fn clear_posix(&self) {
        let posix = core::mem::take(&mut *self.posix.lock());
        posix.values().for_each(|t| t.disarm());
    }
}

/// ITIMER_REAL while it runs.
struct Armed {
    deadline: u64,
    interval: u64,
    _timer: Timer,
}

/// What the timer holds: the process may be gone when it fires.
struct Alarm(Weak<Process>);

impl TimerTarget for Alarm {
    fn expired(self: Arc<Self>) {
        let Some(process) = self.0.upgrade() else { return };
        let former = {
            let mut real = process.timers.real.lock();
            let now = hal::time::now();
            match real.take() {
                Some(armed) if armed.deadline > now => {
                    *real = Some(armed); // set anew since
                    return;
                }
                Some(armed) => {
                    // Periods that passed unnoticed are not made up for, as with a pending SIGALRM.
                    if let Some(missed) = now.saturating_sub(armed.deadline).checked_div(armed.interval) {
                        let deadline = armed.deadline + (missed + 1) * armed.interval;
                        *real = Some(Armed {
                            deadline,
                            interval: armed.interval,
                            _timer: Timer::start(deadline, self.clone()),
                        });
                    }
                    armed
                }
                None => return,
            }
        };
        drop(former);
        let _ = signal::send_to_process(&process, SigInfo::kernel(Signal::ALRM)); // standard: not refused
    }
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct ITimerVal {
    interval: TimeVal,
    value: TimeVal,
}

const ITIMER_REAL: i32 = 0;

fn remaining(armed: &Option<Armed>) -> (u64, u64) {
    match armed {
        // A timer that is due but has not fired yet still shows the smallest time.
        Some(a) => (a.deadline.saturating_sub(hal::time::now()).max(1000), a.interval),
        None => (0, 0),
    }
}

/// Sets ITIMER_REAL; answers the former value and interval in nanoseconds.
fn set_real(process: &Arc<Process>, value: u64, interval: u64) -> (u64, u64) {
    let new = (value != 0).then(|| {
        let deadline = super::deadline_after(value);
        let timer = Timer::start(deadline, Arc::new(Alarm(Arc::downgrade(process))));
        Armed { deadline, interval, _timer: timer }
    });
    let old = core::mem::replace(&mut *process.timers.real.lock(), new);
    remaining(&old)
}

fn setitimer(ctx: &mut Ctx<'_>, which: i32, new: UserPtr<ITimerVal>, old: UserPtr<ITimerVal>) -> Result {
    check_kind(which)?;
    let new = match new.non_null() {
        Some(p) => p.read()?,
        None => ITimerVal { interval: TimeVal::default(), value: TimeVal::default() },
    };
    let (value, interval) = set_real(ctx.task.process(), new.value.to_ns()?, new.interval.to_ns()?);
    old.write_opt(&ITimerVal { interval: TimeVal::from_ns(interval), value: TimeVal::from_ns(value) })?;
    Ok(0)
}

/// The CPU-time timers ITIMER_VIRTUAL (1) and ITIMER_PROF (2) are not there.
fn check_kind(which: i32) -> Result<()> {
    match which {
        ITIMER_REAL => Ok(()),
        1 | 2 => Err(Errno::EOPNOTSUPP),
        _ => Err(Errno::EINVAL),
    }
}

fn getitimer(ctx: &mut Ctx<'_>, which: i32, out: UserPtr<ITimerVal>) -> Result {
    check_kind(which)?;
    let (value, interval) = remaining(&ctx.task.process().timers.real.lock());
    out.write(&ITimerVal { interval: TimeVal::from_ns(interval), value: TimeVal::from_ns(value) })?;
    Ok(0)
}

fn alarm(ctx: &mut Ctx<'_>, seconds: u32) -> Result {
    let (left, _) = set_real(ctx.task.process(), u64::from(seconds) * super::NS_PER_SEC, 0);
    Ok(left.div_ceil(super::NS_PER_SEC) as usize)
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    36 getitimer(which: i32, value: UserPtr<ITimerVal>) Partial "ITIMER_REAL only";
    37 alarm(seconds: u32) Full "";
    38 setitimer(which: i32, new: UserPtr<ITimerVal>, old: UserPtr<ITimerVal>) Partial "ITIMER_REAL only";
};
