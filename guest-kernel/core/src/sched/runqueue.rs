//! Run queues: who runs next, and on which CPU.

use alloc::{collections::VecDeque, sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicU64, Ordering, fence};

use ringfence_hal as hal;
use ringfence_hal::{PerCpu, sync::Once};

use super::{BLOCKED, RUNNABLE, SchedState, cputime::Split, groups::Groups, timers, work};
use crate::{Sentry, TaskRef, cgroup::Cgroup, sync::SpinLock};

pub(super) struct RunQueue {
    /// Tasks of the root group.
    queue: VecDeque<TaskRef>,
    groups: Groups,
    /// What runs there; `None` until the CPU is up.
    current: Option<TaskRef>,
    idle: Option<TaskRef>,
}

impl RunQueue {
    /// Puts a task at the end of the queue it belongs to. One that is in the kernel may hold locks others wait for: a
    /// throttled group has it only when it is `at_user` mode's door, till then it takes its turn among those of the root.
    #[inline]
    fn enqueue(&mut self, task: TaskRef, at_user: bool) {
        match group_of(&task) {
            None => self.queue.push_back(task),
            Some(group) if !at_user && group.is_held() => {
                task.work().fetch_or(work::RESCHEDULE, Ordering::Release);
                self.queue.push_back(task);
            }
            Some(group) => self.groups.enqueue(task, &group),
        }
    }

    /// Tasks queued.
    fn len(&self) -> usize {
        self.queue.len() + self.groups.queued()
    }

    /// Whether a task is queued that may run.
    fn has_work(&self) -> bool {
        !self.queue.is_empty() || self.groups.has_eligible()
    }

    /// Takes `task` out if it is queued.
    fn remove(&mut self, task: &TaskRef) -> Option<TaskRef> {
        let root = self.queue.iter().position(|queued| Arc::ptr_eq(queued, task));
        root.and_then(|i| self.queue.remove(i)).or_else(|| self.groups.remove(task))
    }

    /// Takes out a task that may run and that `wanted` accepts.
    fn take(&mut self, wanted: impl Fn(&TaskRef) -> bool) -> Option<TaskRef> {
        let first = self.queue.iter().position(&wanted);
        first.and_then(|i| self.queue.remove(i)).or_else(|| self.groups.take(wanted))
    }
}

/// The group in which `task` competes; `None` is the root.
#[inline]
fn group_of(task: &TaskRef) -> Option<Arc<Cgroup>> {
    let membership = &task.process().cgroup;
    if membership.is_root() { None } else { membership.get().and_then(|group| group.cpu_group()) }
}

/// What a CPU has done, in nanoseconds.
pub struct CpuTimes {
    /// Running tasks.
    pub busy: Split,
    /// Nothing.
    pub idle: u64,
}

struct Cpu {
    rq: SpinLock<RunQueue>,
    switches: AtomicU64,
    /// Samples of what ran here: see `cputime`.
    user: AtomicU64,
    system: AtomicU64,
    shown: SpinLock<Split>,
}

static CPUS: Once<PerCpu<Cpu>> = Once::new();
/// Bit n: CPU n runs its idle task and found nothing to do.
static IDLE: AtomicU64 = AtomicU64::new(0);

fn cpus() -> &'static PerCpu<Cpu> {
    CPUS.call_once(|| {
        PerCpu::new(|_| Cpu {
            rq: SpinLock::new(RunQueue {
                queue: VecDeque::new(),
                groups: Groups::new(),
                current: None,
                idle: None,
            }),
            switches: AtomicU64::new(0),
            user: AtomicU64::new(0),
            system: AtomicU64::new(0),
            shown: SpinLock::default(),
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

/// What each online CPU has done since boot, in nanoseconds.
pub fn cpu_times() -> Vec<CpuTimes> {
    let now = hal::time::now();
    let times = |(c, idle): (usize, u64)| {
        let cpu = cpus().of(c);
        let (user, system) = (cpu.user.load(Ordering::Relaxed), cpu.system.load(Ordering::Relaxed));
        CpuTimes { busy: cpu.shown.lock().settle(now.saturating_sub(idle), user, system), idle }
    };
    idle_times().into_iter().enumerate().map(times).collect()
}

/// The task running here was sampled.
pub(super) fn sampled(ns: u64, kernel: bool) {
    let cpu = cpus().get();
    let what = if kernel { &cpu.system } else { &cpu.user };
    what.fetch_add(ns, Ordering::Relaxed);
}

/// Tasks that run or are queued, idle tasks excluded.
pub fn runnable_tasks() -> usize {
    (0..hal::cpu::count())
        .map(|c| {
            let rq = cpus().of(c).rq.lock();
            rq.len() + usize::from(rq.current.as_ref().is_some_and(|t| !t.sched.is_idle))
        })
        .sum()
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
            rq.enqueue(task.clone(), false); // its registers are being saved: only this CPU may run it next
            drop(rq);
            notify(home);
            return true;
        }
        let target = choose(task, home);
        if target != home {
            drop(rq);
            queue_on(task.clone(), target);
            return true;
        }
        rq.enqueue(task.clone(), false);
        drop(rq);
        notify(home);
        return true;
    }
}

/// Queues a runnable task that is on no queue and no CPU: on `target`, or where it may run if that has just changed.
/// [`affinity_changed`] looks at its CPU after the change, we at its affinity after the store of its CPU: one of us sees it.
fn queue_on(task: TaskRef, mut target: usize) {
    loop {
        task.sched.cpu.store(target, Ordering::SeqCst);
        let mut rq = cpus().of(target).rq.lock();
        if may_run_on(&task, target) {
            rq.enqueue(task, false);
            drop(rq);
            return notify(target);
        }
        drop(rq);
        target = choose(&task, target);
    }
}

/// Whether `task` may be on the queue of `cpu`.
fn may_run_on(task: &TaskRef, cpu: usize) -> bool {
    task.sched.allows(cpu) || task.sched.affinity() & online_mask() == 0
}

/// Takes `task`, which has left CPU `me` and may not run there any more, to another one if it is queued there.
#[cold]
pub(super) fn leave(task: &TaskRef, me: usize) {
    let mut rq = cpus().of(me).rq.lock();
    let queued = if may_run_on(task, me) { None } else { rq.remove(task) };
    drop(rq);
    if let Some(queued) = queued {
        let target = choose(&queued, me);
        queue_on(queued, target);
    }
}

/// The affinity of `task` has changed: it goes to a CPU where it may run, at once if it is queued, as soon as it is out of
/// the kernel if it runs.
pub(super) fn affinity_changed(task: &TaskRef) {
    loop {
        let home = task.sched.cpu.load(Ordering::SeqCst);
        let mut rq = cpus().of(home).rq.lock();
        if task.sched.cpu.load(Ordering::SeqCst) != home {
            continue;
        }
        if may_run_on(task, home) {
            return;
        }
        if rq.current.as_ref().is_some_and(|current| Arc::ptr_eq(current, task)) {
            task.work().fetch_or(work::RESCHEDULE, Ordering::Release);
            drop(rq);
            return super::kick(task);
        }
        if task.sched.on_cpu.load(Ordering::Acquire) {
            // Its registers are being saved, and whether `leave` sees the new affinity is not certain.
            drop(rq);
            hal::cpu::relax();
            continue;
        }
        let queued = rq.remove(task);
        drop(rq);
        if let Some(queued) = queued {
            let target = choose(&queued, home);
            queue_on(queued, target);
        }
        return;
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
        let length = current.sched.slice();
        if current.process().cgroup.is_root() {
            timers::arm_slice(length);
        } else {
            timers::shorten_slice(length); // a quota may have armed a longer one
        }
    }
}

/// The slice is over: have the running task give way when it returns to ring 3.
pub(super) fn slice_over() {
    let rq = cpus().get().rq.lock();
    if let Some(current) = &rq.current
        && (rq.len() > 0 || !current.process().cgroup.is_root())
    {
        current.work().fetch_or(work::RESCHEDULE, Ordering::Release);
    }
}

/// Whether this CPU has something to run.
pub(super) fn has_work() -> bool {
    cpus().get().rq.lock().has_work()
}

/// Takes a task from another CPU's queue.
fn steal(me: usize) -> Option<TaskRef> {
    let n = hal::cpu::online();
    for cpu in (1..n).map(|i| (me + i) % n) {
        let mut rq = cpus().of(cpu).rq.lock();
        if let Some(task) = rq.take(|t| !t.sched.on_cpu.load(Ordering::Acquire) && t.sched.allows(me)) {
            task.sched.cpu.store(me, Ordering::SeqCst);
            return Some(task);
        }
    }
    None
}

/// Leaves the CPU to the next task; returns when `task` is chosen again (at once, if nobody else wants it). `at_user`: it
/// is about to return to user mode and holds nothing.
pub(super) fn schedule(task: &TaskRef, at_user: bool) {
    let me = hal::cpu::id();
    let cpu = cpus().of(me);
    if !task.process().cgroup.is_root() {
        return schedule_groups(task, at_user, me, cpu);
    }
    let now = hal::time::now();
    let next = {
        let mut rq = cpu.rq.lock();
        if rq.groups.queued() > 0 {
            drop(rq);
            return schedule_groups(task, at_user, me, cpu);
        }
        let runnable = task.sched.state.load(Ordering::SeqCst) == RUNNABLE && !task.sched.is_idle;
        let next = match rq.queue.pop_front() {
            Some(next) => next,
            None if runnable && may_run_on(task, me) => return,
            None => match &rq.idle {
                Some(idle) if !task.sched.is_idle => idle.clone(),
                _ => return,
            },
        };
        if runnable {
            rq.queue.push_back(task.clone());
        }
        task.sched.count_switch(runnable);
        rq.current = Some(next.clone());
        let contended = (!rq.queue.is_empty() && !next.sched.is_idle).then(|| next.sched.slice());
        timers::set_slice(now, contended, next.sched.tick_at(now));
        next
    };
    let ran = now.saturating_sub(task.sched.started.load(Ordering::Relaxed));
    task.sched.runtime.fetch_add(ran, Ordering::Relaxed);
    next.sched.started.store(now, Ordering::Relaxed);
    next.sched.on_cpu.store(true, Ordering::Release);
    cpu.switches.fetch_add(1, Ordering::Relaxed);
    hal::Thread::<Sentry>::switch_to(next);
}

impl SchedState {
    /// The task leaves its CPU, by itself or (`runnable`) for others.
    fn count_switch(&self, runnable: bool) {
        let counter = if runnable { &self.involuntary } else { &self.voluntary };
        counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed); // only its CPU writes
    }
}

/// As [`schedule`], where control groups have a say: `task` is in one, or others are queued.
#[cold]
#[inline(never)]
fn schedule_groups(task: &TaskRef, at_user: bool, me: usize, cpu: &Cpu) {
    let now = hal::time::now();
    let ran = charge(task, now);
    let next = {
        let mut rq = cpu.rq.lock();
        let id = group_of(task).map_or(0, |group| group.id());
        let own = if id == 0 { rq.queue.len() } else { rq.groups.len_of(id) };
        rq.groups.charge(id, ran, own + 1);
        // It competes for what comes next, unless it goes to sleep or to another CPU (`leave`).
        let runnable = task.sched.state.load(Ordering::SeqCst) == RUNNABLE && !task.sched.is_idle;
        let stays = runnable && may_run_on(task, me);
        if stays {
            rq.enqueue(task.clone(), at_user);
        }
        let RunQueue { queue, groups, .. } = &mut *rq;
        let next = match groups.pick(queue) {
            Some(next) => next,
            None => match &rq.idle {
                Some(idle) if !task.sched.is_idle => idle.clone(),
                _ => return,
            },
        };
        if runnable && !stays {
            rq.enqueue(task.clone(), at_user);
        }
        rq.current = Some(next.clone());
        let contended = (rq.len() > 0 && !next.sched.is_idle).then(|| next.sched.slice());
        let until_charged = next.process().cgroup.get().and_then(|group| group.cpu_slice(now));
        timers::set_slice(now, contended.into_iter().chain(until_charged).min(), next.sched.tick_at(now));
        if !Arc::ptr_eq(&next, task) {
            task.sched.count_switch(runnable);
        }
        next
    };
    if Arc::ptr_eq(&next, task) {
        return;
    }
    next.sched.started.store(now, Ordering::Relaxed);
    next.sched.on_cpu.store(true, Ordering::Release);
    cpu.switches.fetch_add(1, Ordering::Relaxed);
    hal::Thread::<Sentry>::switch_to(next);
}

/// Counts what the running task has used up to `now`, for itself and its group, and answers how much.
fn charge(task: &TaskRef, now: u64) -> u64 {
    let ran = now.saturating_sub(task.sched.started.swap(now, Ordering::Relaxed));
    task.sched.runtime.fetch_add(ran, Ordering::Relaxed);
    let membership = &task.process().cgroup;
    if let Some(group) = membership.get() {
        // It may have run in another group before.
        group.charge_cpu(now, ran.min(now.saturating_sub(membership.joined())));
    }
    ran
}

/// Calls `f` with each running task and for how many nanoseconds it has been running.
pub fn for_running(mut f: impl FnMut(&TaskRef, u64)) {
    for cpu in 0..hal::cpu::online() {
        let current = cpus().of(cpu).rq.lock().current.clone();
        if let Some(task) = current.filter(|task| !task.sched.is_idle) {
            f(&task, hal::time::now().saturating_sub(task.sched.started.load(Ordering::Relaxed)));
        }
    }
}

/// The group of `task` has changed, or what controls it: puts it where it belongs, and has it charged soon if it runs.
pub fn regroup(task: &TaskRef) {
    loop {
        let home = task.sched.cpu.load(Ordering::Acquire);
        let mut rq = cpus().of(home).rq.lock();
        // On its way to another CPU it is queued there, by a look at its group after the group had changed.
        if task.sched.cpu.load(Ordering::Acquire) != home {
            continue;
        }
        if let Some(queued) = rq.remove(task) {
            rq.enqueue(queued, false);
        }
        break;
    }
    if task.sched.on_cpu.load(Ordering::Acquire) {
        task.work().fetch_or(work::RESCHEDULE, Ordering::Release);
        super::kick(task);
    }
}

/// Quotas have changed or begun anew: every CPU that has to do with groups looks again.
pub fn groups_changed() {
    for cpu in 0..hal::cpu::online() {
        let rq = cpus().of(cpu).rq.lock();
        let grouped = rq.current.as_ref().filter(|current| !current.process().cgroup.is_root());
        if let Some(current) = grouped {
            current.work().fetch_or(work::RESCHEDULE, Ordering::Release);
        }
        let concerned = grouped.is_some() || rq.groups.queued() > 0;
        drop(rq);
        if concerned {
            notify(cpu);
        }
    }
}

/// Group `id` is gone.
pub fn forget_group(id: u32) {
    for cpu in 0..hal::cpu::count() {
        let node = cpus().of(cpu).rq.lock().groups.forget(id);
        drop(node);
    }
}

/// Gets something to run onto this CPU's queue from elsewhere; says whether there is something now.
pub(super) fn pull() -> bool {
    if has_work() {
        return true;
    }
    let me = hal::cpu::id();
    match steal(me) {
        Some(task) => {
            queue_on(task, me);
            true
        }
        None => false,
    }
}
