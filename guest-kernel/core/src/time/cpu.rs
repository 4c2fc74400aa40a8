//! Alarms on CPU time: what ITIMER_VIRTUAL and ITIMER_PROF, POSIX timers and sleeps on CPU clocks, RLIMIT_CPU and
//! RLIMIT_RTTIME are made of.
//!
//! Linux looks at them in each timer tick of a task that has any. So do we, in the ticks of `sched::cputime`, which come with
//! the task's own CPU time; a thread whose process has alarms is due for a tick when the nearest alarm may be. Alarms on the time of
//! several threads are looked at by all of them, each when it has used its part of what is left, and the last millisecond
//! is not divided. User time is known by samples only, so alarms on it come when those say so, and late rather than early.
//!
//! Lock order: the list's lock is innermost; alarms are told without it.

use alloc::{
    sync::{Arc, Weak},
    vec::Vec,
};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::{
    NS_PER_SEC,
    clocks::{CpuClock, Owner, Part},
};
use crate::{
    TaskRef,
    errno::Result,
    sched::{self, TimerTarget},
    signal::{self, SigInfo, Signal},
    sync::SpinLock,
    task::{
        Process,
        limits::{Limit, Resource, UsageSum},
        pid::same_task,
    },
};

/// The shortest step towards an alarm that one look cannot meet exactly.
const STEP_NS: u64 = 1_000_000;

/// The alarms on the CPU time of a process and of its threads.
#[derive(Default)]
pub(super) struct CpuAlarms {
    any: AtomicBool,
    list: SpinLock<Vec<Armed>>,
}

struct Armed {
    id: u64,
    expires: u64,
    part: Part,
    /// Of this thread only.
    thread: Option<Weak<ringfence_hal::Thread<crate::Sentry>>>,
    target: Arc<dyn TimerTarget>,
}

impl Armed {
    /// What its clock shows; `None` if that is another thread's than `task`'s.
    fn clock(&self, task: &TaskRef, process: &UsageSum) -> Option<u64> {
        match (&self.thread, self.part) {
            (None, Part::All) => Some(process.runtime),
            (None, Part::User) => Some(process.user),
            (Some(thread), part) => {
                let thread = thread.upgrade().filter(|t| same_task(t, task))?;
                Some(if part == Part::All { thread.sched.runtime() } else { thread.sched.split().user })
            }
        }
    }
}

/// A pending alarm; dropping it cancels it.
pub(super) struct CpuAlarm {
    process: Weak<Process>,
    id: u64,
}

impl CpuAlarm {
    /// Calls `target.expired()` once `clock`, as `task` names it, shows `expires` (nanoseconds).
    pub fn start(
        task: &TaskRef,
        clock: CpuClock,
        expires: u64,
        target: Arc<dyn TimerTarget>,
    ) -> Result<CpuAlarm> {
        Ok(match clock.owner(task)? {
            Owner::Process(process) => Self::start_for(&process, None, clock.part, expires, target),
            Owner::Thread(thread) => {
                Self::start_for(thread.process(), Some(&thread), clock.part, expires, target)
            }
        })
    }

    /// The same for a process or one of its threads.
    pub fn start_for(
        process: &Arc<Process>,
        thread: Option<&TaskRef>,
        part: Part,
        expires: u64,
        target: Arc<dyn TimerTarget>,
    ) -> CpuAlarm {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let alarms = &process.timers.cpu;
        {
            let mut list = alarms.list.lock();
            list.push(Armed { id, expires, part, thread: thread.map(Arc::downgrade), target });
            alarms.any.store(true, Ordering::Relaxed);
        }
        let used = UsageSum::times(process);
        for task in process.threads() {
            if let Some(more) = nearest(&task, &used) {
                sched::tick_soon(&task, more);
            }
        }
        CpuAlarm { process: Arc::downgrade(process), id }
    }
}

impl Drop for CpuAlarm {
    fn drop(&mut self) {
        let Some(process) = self.process.upgrade() else { return };
        let mut list = process.timers.cpu.list.lock();
        let old = list.iter().position(|armed| armed.id == self.id).map(|i| list.swap_remove(i));
        drop(list);
        drop(old); // possibly the last reference to what is told: outside the lock
    }
}

/// How much more CPU time of `task` the nearest alarm allows.
fn nearest(task: &TaskRef, used: &UsageSum) -> Option<u64> {
    let process = task.process();
    let threads = process.links.lock().threads.len() as u64;
    let list = process.timers.cpu.list.lock();
    let left = |armed: &Armed| {
        let left = armed.expires.saturating_sub(armed.clock(task, used)?);
        Some(match (armed.part, &armed.thread) {
            (Part::All, Some(_)) => left,
            (Part::All, None) if threads <= 1 => left,
            (Part::All, None) => (left / threads).max(STEP_NS),
            (Part::User, _) => (left / threads.max(1)).max(STEP_NS),
        })
    };
    list.iter().filter_map(left).min()
}

/// A new thread of a process that has alarms.
pub(crate) fn new_thread(task: &TaskRef) {
    if task.process().timers.cpu.any.load(Ordering::Relaxed) {
        sched::tick_soon(task, STEP_NS);
    }
}

/// `task`, which runs here, has its tick: tells the alarms that have come. Answers in how much more CPU time it has to look
/// again, if there are more.
pub(crate) fn tick(task: &TaskRef) -> Option<u64> {
    let process = task.process();
    check_limits(task);
    let alarms = &process.timers.cpu;
    if !alarms.any.load(Ordering::Relaxed) {
        return None;
    }
    let used = UsageSum::times(process);
    let due = |armed: &mut Armed| armed.clock(task, &used).is_some_and(|now| now >= armed.expires);
    let mut list = alarms.list.lock();
    let due: Vec<Armed> = list.extract_if(.., due).collect();
    if list.is_empty() && due.is_empty() {
        alarms.any.store(false, Ordering::Relaxed);
    }
    drop(list);
    for armed in due {
        armed.target.expired();
    }
    nearest(task, &used)
}

/// One that has to do with a limit says so by these signals.
fn over(process: &Arc<Process>, resource: Resource, used: u64, step: u64) {
    let limit = process.limits.get(resource);
    if used >= limit.hard {
        let _ = signal::send_to_process(process, SigInfo::kernel(Signal::KILL)); // never refused
    } else if used >= limit.soft {
        process.limits.raise_soft(resource, limit.soft.saturating_add(step));
        let _ = signal::send_to_process(process, SigInfo::kernel(Signal::XCPU)); // a standard signal: not refused
    }
}

/// RLIMIT_CPU: SIGXCPU when the soft limit has been used and every second from then on, SIGKILL at the hard one.
/// RLIMIT_RTTIME: the same for a real-time task that does not sleep.
fn check_limits(task: &TaskRef) {
    let process = task.process();
    if process.number == 0 {
        return;
    }
    let limited = |r| process.limits.get(r) != Limit { soft: u64::MAX, hard: u64::MAX };
    if limited(Resource::Cpu) {
        over(process, Resource::Cpu, UsageSum::times(process).runtime / NS_PER_SEC, 1);
    }
    if task.sched.policy().priority > 0 && limited(Resource::RealtimeTime) {
        over(process, Resource::RealtimeTime, task.sched.awake() / 1000, 1_000_000);
    }
}
