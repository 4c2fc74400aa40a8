//! Run queues: who runs next, and on which CPU.

use alloc::{collections::VecDeque, vec::Vec};
use core::sync::atomic::{AtomicU64, Ordering, fence};

use ringfence_hal as hal;
use ringfence_hal::{PerCpu, sync::Once};

use super::{BLOCKED, RUNNABLE, timers, work};
use crate::{Sentry, TaskRef, sync::SpinLock};

pub(super) struct RunQueue {
    queue: VecDeque<TaskRef>,
    /// What runs there; `None` until the CPU is up.
    current: Option<TaskRef>,
    idle: Option<TaskRef>,
}

struct Cpu {
    rq: SpinLock<RunQueue>,
    switches: AtomicU64,
}

static CPUS: Once<PerCpu<Cpu>> = Once::new();
/// Bit n: CPU n runs its idle task and found nothing to do.
static IDLE: AtomicU64 = AtomicU64::new(0);

fn cpus() -> &'static PerCpu<Cpu> {
    CPUS.call_once(|| {
        PerCpu::new(|_| Cpu {
            rq: SpinLock::new(RunQueue { queue: VecDeque::new(), current: None, idle: None }),
            switches: AtomicU64::new(0),
        })
    })
}

/// Task switches on all CPUs since boot.
pub fn context_switches() -> u64 {
    (0..hal::cpu::count()).map(|c| cpus().of(c).switches.load(Ordering::Relaxed)).sum()
}

/// Nanoseconds each online CPU has been idle since boot.
pub fn idle_times() -> Vec<u64> {
    let idle = |c| cpus().of(c).rq.lock().idle.clone();
    (0..hal::cpu::count()).filter_map(idle).map(|task| task.sched.runtime()).collect()
}

/// Tasks that run or are queued, idle tasks excluded.
pub fn runnable_tasks() -> usize {
    (0..hal::cpu::count())
        .map(|c| {
            let rq = cpus().of(c).rq.lock();
            rq.queue.len() + usize::from(rq.current.as_ref().is_some_and(|t| !t.sched.is_idle))
        })
        .sum()
}

/// The three load averages of /proc/loadavg in hundredths. There is no periodic tick to age them with, so
/// all three are the present number of runnable tasks.
pub fn load_averages() -> [u64; 3] {
    [runnable_tasks() as u64 * 100; 3]
}

/// Makes `idle` the idle and running task of this CPU.
pub(super) fn adopt(idle: TaskRef) {
    let mut rq = cpus().get().rq.lock();
    rq.queue.clear();
    rq.current = Some(idle.clone());
    rq.idle = Some(idle);
}

pub(super) fn set_idle(cpu: usize, idle: bool) {
    if idle {
        IDLE.fetch_or(1 << cpu, Ordering::SeqCst);
    } else {
        IDLE.fetch_and(!(1 << cpu), Ordering::SeqCst);
    }
}

/// The second half of `wake`: see the head of the module for why this is safe against every race.
pub(super) fn wake_blocked(task: &TaskRef) -> bool {
    // Orders the caller's change of state before our look at the task's.
    fence(Ordering::SeqCst);
    loop {
        if task.sched.state.load(Ordering::SeqCst) != BLOCKED {
            return false;
        }
        let home = task.sched.cpu.load(Ordering::Acquire);
        let mut rq = cpus().of(home).rq.lock();
        if task.sched.cpu.load(Ordering::Acquire) != home {
            continue;
        }
        if task.sched.state.compare_exchange(BLOCKED, RUNNABLE, Ordering::SeqCst, Ordering::SeqCst).is_err() {
            return false;
        }
        if rq.current.as_ref().is_some_and(|c| alloc::sync::Arc::ptr_eq(c, task)) {
            return true; // has not switched away: `schedule` will find it runnable
        }
        if task.sched.on_cpu.load(Ordering::Acquire) {
            rq.queue.push_back(task.clone()); // its registers are being saved: only this CPU may run it next
            drop(rq);
            notify(home);
            return true;
        }
        let target = choose(task, home);
        if target != home {
            drop(rq);
            task.sched.cpu.store(target, Ordering::Release);
            rq = cpus().of(target).rq.lock();
        }
        rq.queue.push_back(task.clone());
        drop(rq);
        notify(target);
        return true;
    }
}

/// The CPU a woken task goes to: its last one if idle, else any idle one, else its last one.
fn choose(task: &TaskRef, home: usize) -> usize {
    let online = online_mask();
    let allowed = match task.sched.affinity() & online {
        0 => online,
        mask => mask,
    };
    let idle = IDLE.load(Ordering::SeqCst) & allowed;
    if idle & (1 << home) != 0 {
        home
    } else if idle != 0 {
        idle.trailing_zeros() as usize
    } else if allowed & (1 << home) != 0 {
        home
    } else {
        allowed.trailing_zeros() as usize
    }
}

fn online_mask() -> u64 {
    match hal::cpu::online() {
        n if n >= 64 => u64::MAX,
        n => (1 << n) - 1,
    }
}

/// Makes a CPU notice what was queued on it.
fn notify(cpu: usize) {
    if cpu == hal::cpu::id() {
        slice_needed();
    } else {
        hal::cpu::send_reschedule(cpu);
    }
}

/// Somebody waits in this CPU's queue: from now on the slice of the running task counts.
pub(super) fn slice_needed() {
    let current = cpus().get().rq.lock().current.clone();
    if let Some(current) = current.filter(|c| !c.sched.is_idle) {
        timers::arm_slice(current.sched.slice());
    }
}

/// The slice is over: have the running task give way when it returns to ring 3.
pub(super) fn slice_over() {
    let rq = cpus().get().rq.lock();
    if !rq.queue.is_empty()
        && let Some(current) = &rq.current
    {
        current.work().fetch_or(work::RESCHEDULE, Ordering::Release);
    }
}

/// Whether this CPU has something to run.
pub(super) fn has_work() -> bool {
    !cpus().get().rq.lock().queue.is_empty()
}

/// Takes a task from another CPU's queue.
fn steal(me: usize) -> Option<TaskRef> {
    let n = hal::cpu::online();
    for cpu in (1..n).map(|i| (me + i) % n) {
        let mut rq = cpus().of(cpu).rq.lock();
        let found =
            rq.queue.iter().position(|t| !t.sched.on_cpu.load(Ordering::Acquire) && t.sched.allows(me));
        if let Some(task) = found.and_then(|i| rq.queue.remove(i)) {
            task.sched.cpu.store(me, Ordering::Release);
            return Some(task);
        }
    }
    None
}

/// Leaves the CPU to the next task; returns when `task` is chosen again (at once, if nobody else wants it).
pub(super) fn schedule(task: &TaskRef) {
    let me = hal::cpu::id();
    let cpu = cpus().of(me);
    let next = {
        let mut rq = cpu.rq.lock();
        let runnable = task.sched.state.load(Ordering::SeqCst) == RUNNABLE && !task.sched.is_idle;
        let next = match pop_allowed(&mut rq, me) {
            Some(next) => next,
            None if runnable => return,
            None => match &rq.idle {
                Some(idle) if !task.sched.is_idle => idle.clone(),
                _ => return,
            },
        };
        if runnable {
            rq.queue.push_back(task.clone());
        }
        rq.current = Some(next.clone());
        timers::set_slice((!rq.queue.is_empty() && !next.sched.is_idle).then(|| next.sched.slice()));
        next
    };
    let now = hal::time::now();
    let ran = now.saturating_sub(task.sched.started.load(Ordering::Relaxed));
    task.sched.runtime.fetch_add(ran, Ordering::Relaxed);
    next.sched.started.store(now, Ordering::Relaxed);
    next.sched.on_cpu.store(true, Ordering::Release);
    cpu.switches.fetch_add(1, Ordering::Relaxed);
    hal::Thread::<Sentry>::switch_to(next);
}

fn pop_allowed(rq: &mut RunQueue, me: usize) -> Option<TaskRef> {
    let first = rq.queue.pop_front()?;
    if first.sched.allows(me) || first.sched.affinity() & online_mask() == 0 {
        return Some(first);
    }
    // Its affinity changed while it was queued: others first; `idle` of an allowed CPU steals it.
    rq.queue.push_back(first);
    let i = rq.queue.iter().position(|t| t.sched.allows(me))?;
    rq.queue.remove(i)
}

/// Gets something to run onto this CPU's queue from elsewhere; says whether there is something now.
pub(super) fn pull() -> bool {
    if has_work() {
        return true;
    }
    match steal(hal::cpu::id()) {
        Some(task) => {
            cpus().get().rq.lock().queue.push_back(task);
            true
        }
        None => false,
    }
}

/// Wakes idle CPUs that `task`'s new affinity allows, so that one of them fetches it.
pub(super) fn kick_idle(mask: u64) {
    let idle = IDLE.load(Ordering::SeqCst) & mask;
    for cpu in (0..hal::cpu::online()).filter(|c| idle & (1 << c) != 0) {
        hal::cpu::send_reschedule(cpu);
    }
}
