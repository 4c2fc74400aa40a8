//! Run queues: who runs next, and on which CPU.

use alloc::{collections::VecDeque, sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use ringfence_hal as hal;
use ringfence_hal::{
    PerCpu,
    sync::{Once, SpinLockGuard},
};

use super::{
    BLOCKED, RUNNABLE, SchedState,
    cputime::Split,
    groups::Groups,
    realtime::{self, Realtime},
    timers, work,
};
use crate::{Sentry, TaskRef, cgroup::Cgroup, sync::SpinLock};

/// From where a task leaves its CPU.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Leave {
    /// The kernel.
    Kernel,
    /// The door to user mode; it holds nothing.
    AtUser,
    /// `sched_yield`.
    Yield,
}

pub(super) struct RunQueue {
    /// Tasks of the root group.
    queue: VecDeque<TaskRef>,
    groups: Groups,
    realtime: Realtime,
    /// What runs there; `None` until the CPU is up.
    current: Option<TaskRef>,
    idle: Option<TaskRef>,
}

impl RunQueue {
    /// Puts a task at the end of the queue it belongs to. One that is in the kernel may hold locks others wait for: a
    /// throttled group has it only when it is `at_user` mode's door, till then it takes its turn among those of the root.
    /// One that was killed stays there till its end.
    #[inline]
    fn enqueue(&mut self, task: TaskRef, at_user: bool) {
        if task.sched.priority() > 0 {
            return self.realtime.enqueue(task, false);
        }
        match group_of(&task) {
            None => self.queue.push_back(task),
            Some(_) if task.killed() => self.queue.push_back(task),
            Some(group) if !at_user && group.is_held() => {
                task.work().fetch_or(work::RESCHEDULE, Ordering::Release);
                self.queue.push_back(task);
            }
            Some(group) => self.groups.enqueue(task, &group),
        }
    }

    /// Tasks queued.
    fn len(&self) -> usize {
        self.queue.len() + self.groups.queued() + self.realtime.queued()
    }

    /// Whether tasks are queued that are more than a place in `queue`.
    #[inline]
    fn has_special(&self) -> bool {
        self.groups.queued() | self.realtime.queued() != 0
    }

    /// Whether a task without a real-time priority is queued that may run.
    fn has_ordinary(&self) -> bool {
        !self.queue.is_empty() || self.groups.has_eligible()
    }

    /// Whether a task is queued that may run.
    fn has_work(&self) -> bool {
        self.has_ordinary() || self.realtime.queued() > 0
    }

    /// Takes the task whose turn it is.
    fn pick(&mut self, now: u64) -> Option<TaskRef> {
        // Those that were kept waiting for too long come first.
        let withheld =
            self.realtime.queued() > 0 && self.realtime.allowance(now).is_err() && self.has_ordinary();
        let urgent = if withheld { None } else { self.realtime.pick() };
        let RunQueue { queue, groups, realtime, .. } = self;
        urgent.or_else(|| groups.pick(queue)).or_else(|| realtime.pick())
    }

    /// How long `next`, a task with or without a real-time priority, may run before this queue is looked at again.
    fn slice_of(&mut self, next: &TaskRef, now: u64) -> Option<u64> {
        let priority = next.sched.priority();
        if next.sched.is_idle || self.len() == 0 {
            return None;
        }
        let allowance = self.realtime.allowance(now);
        if priority == 0 {
            let waits = self.realtime.queued() > 0;
            return Some(next.sched.slice().min(allowance.err().filter(|_| waits).unwrap_or(u64::MAX)));
        }
        let turn = next.sched.policy().number == realtime::RR && self.realtime.has(priority);
        let turn = turn.then_some(realtime::RR_SLICE_NS);
        let others = allowance.ok().filter(|_| self.has_ordinary());
        turn.into_iter().chain(others).min()
    }

    /// Takes `task` out if it is queued.
    fn remove(&mut self, task: &TaskRef) -> Option<TaskRef> {
        let root = self.queue.iter().position(|queued| Arc::ptr_eq(queued, task));
        let queued = root.and_then(|i| self.queue.remove(i)).or_else(|| self.groups.remove(task));
        queued.or_else(|| self.realtime.remove(task))
    }

    /// Takes out a task that may run and that `wanted` accepts.
    fn take(&mut self, wanted: impl Fn(&TaskRef) -> bool) -> Option<TaskRef> {
        if let Some(urgent) = self.realtime.take(&wanted) {
            return Some(urgent);
        }
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
    /// The real-time priority of what runs.
    priority: AtomicU32,
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
                realtime: Realtime::new(),
                current: None,
                idle: None,
            }),
            priority: AtomicU32::new(0),
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
    } else if task.sched.priority() > 0 {
        // Where it interrupts what is least urgent: at home if that is no more urgent than elsewhere.
        let urgency = |c: usize| (cpus().of(c).priority.load(Ordering::Relaxed), c != home);
        let all = (0..hal::cpu::online()).filter(|c| allowed & (1 << c) != 0);
        all.min_by_key(|c| urgency(*c)).unwrap_or(home)
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

/// Somebody waits in this CPU's queue: from now on the slice of the running task counts; and it gives way at once to
/// who is more urgent.
pub(super) fn slice_needed() {
    let (current, length) = {
        let mut rq = cpus().get().rq.lock();
        let Some(current) = rq.current.clone().filter(|c| !c.sched.is_idle) else { return };
        let length = if rq.has_special() || current.sched.policy.load(Ordering::Relaxed) != 0 {
            give_way(&mut rq, &current)
        } else {
            Some(current.sched.slice())
        };
        (current, length)
    };
    let Some(length) = length else { return };
    if current.process().cgroup.is_root() && current.sched.priority() == 0 {
        timers::arm_slice(length);
    } else {
        timers::shorten_slice(length); // a quota may have armed a longer one
    }
}

/// Where priorities and policies have a say: has `current` leave its CPU, or answers how long its slice is.
#[cold]
fn give_way(rq: &mut RunQueue, current: &TaskRef) -> Option<u64> {
    let now = hal::time::now();
    let priority = current.sched.priority();
    let ran = now.saturating_sub(current.sched.started.load(Ordering::Relaxed));
    let allowed = rq.realtime.allowance(now).is_ok();
    let urgent = rq.realtime.top() > priority && allowed;
    let idle = current.sched.policy().number == realtime::IDLE && rq.has_ordinary();
    if urgent || (priority == 0 && idle) {
        current.work().fetch_or(work::RESCHEDULE, Ordering::Release);
        return None;
    }
    let length = rq.slice_of(current, now)?;
    Some(if priority > 0 { length.saturating_sub(ran) } else { length })
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

/// Leaves the CPU to the next task; returns when `task` is chosen again (at once, if nobody else wants it).
pub(super) fn schedule(task: &TaskRef, how: Leave) {
    let me = hal::cpu::id();
    let cpu = cpus().of(me);
    if !task.process().cgroup.is_root() || task.sched.priority() > 0 {
        return schedule_special(task, how, me, cpu);
    }
    let now = hal::time::now();
    let next = {
        let mut rq = cpu.rq.lock();
        if rq.has_special() {
            drop(rq);
            return schedule_special(task, how, me, cpu);
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
        switching(task, &next, runnable, me);
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

/// CPU `me` goes from `task` (which is `runnable`) to `next`.
#[inline]
fn switching(task: &TaskRef, next: &TaskRef, runnable: bool, me: usize) {
    task.sched.count_switch(runnable);
    if task.rseq.is_on() && !task.in_system_call() {
        task.work().fetch_or(work::NOTIFY, Ordering::Release);
    }
    if next.rseq.is_on() && !next.rseq.names(me) {
        next.work().fetch_or(work::NOTIFY, Ordering::Release);
    }
}

impl SchedState {
    /// The task leaves its CPU, by itself or (`runnable`) for others.
    fn count_switch(&self, runnable: bool) {
        let counter = if runnable { &self.involuntary } else { &self.voluntary };
        counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed); // only its CPU writes
    }
}

/// As [`schedule`], where control groups or priorities have a say: `task` has one, or others are queued.
#[cold]
#[inline(never)]
fn schedule_special(task: &TaskRef, how: Leave, me: usize, cpu: &Cpu) {
    let priority = task.sched.priority();
    if priority > 0 {
        pull_urgent(me);
    }
    let now = hal::time::now();
    let ran = charge(task, now);
    let next = {
        let mut rq = cpu.rq.lock();
        let runnable = task.sched.state.load(Ordering::SeqCst) == RUNNABLE && !task.sched.is_idle;
        if priority > 0 {
            rq.realtime.charge(now, ran);
            if !runnable {
                task.sched.slept_at.store(task.sched.runtime.load(Ordering::Relaxed), Ordering::Relaxed);
            }
        } else {
            let id = group_of(task).map_or(0, |group| group.id());
            let own = if id == 0 { rq.queue.len() } else { rq.groups.len_of(id) };
            rq.groups.charge(id, ran, own + 1);
        }
        // It competes for what comes next, unless it goes to sleep or to another CPU (`leave`).
        let stays = runnable && may_run_on(task, me);
        if stays && task.sched.priority() > 0 {
            let turn_over = task.sched.policy().number == realtime::RR && ran >= realtime::RR_SLICE_NS;
            rq.realtime.enqueue(task.clone(), how != Leave::Yield && !turn_over);
        } else if stays {
            rq.enqueue(task.clone(), how == Leave::AtUser);
        }
        let next = match rq.pick(now) {
            Some(next) => next,
            None => match &rq.idle {
                Some(idle) if !task.sched.is_idle => idle.clone(),
                _ => return,
            },
        };
        if runnable && !stays {
            rq.enqueue(task.clone(), how == Leave::AtUser);
        }
        rq.current = Some(next.clone());
        cpu.priority.store(next.sched.priority(), Ordering::Relaxed);
        let contended = rq.slice_of(&next, now);
        let until_charged = next.process().cgroup.get().and_then(|group| group.cpu_slice(now));
        timers::set_slice(now, contended.into_iter().chain(until_charged).min(), next.sched.tick_at(now));
        if !Arc::ptr_eq(&next, task) {
            switching(task, &next, runnable, me);
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

/// Takes over a real-time task that waits for another CPU.
fn pull_urgent(me: usize) {
    if !realtime::any_queued() {
        return;
    }
    let n = hal::cpu::online();
    for cpu in (1..n).map(|i| (me + i) % n) {
        let wanted = |t: &TaskRef| !t.sched.on_cpu.load(Ordering::Acquire) && t.sched.allows(me);
        let mut rq = cpus().of(cpu).rq.lock();
        let task = rq.realtime.take(wanted);
        if let Some(task) = task {
            task.sched.cpu.store(me, Ordering::SeqCst); // while its old queue is locked, as in `steal`
            drop(rq);
            queue_on(task, me);
            return;
        }
    }
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

/// The CPU that `task` belongs to, with its queue.
fn home_of(task: &TaskRef) -> (usize, SpinLockGuard<'static, RunQueue>) {
    loop {
        let home = task.sched.cpu.load(Ordering::Acquire);
        let rq = cpus().of(home).rq.lock();
        if task.sched.cpu.load(Ordering::Acquire) == home {
            return (home, rq);
        }
    }
}

/// The group or priority of `task` has changed, or what controls it: puts it where it belongs, and has it charged soon if
/// it runs. (On its way to another CPU it is queued there, by a look at its group after the group had changed.)
pub fn regroup(task: &TaskRef) {
    let (home, mut rq) = home_of(task);
    let waits = rq.remove(task).map(|queued| rq.enqueue(queued, false)).is_some();
    drop(rq);
    if waits {
        notify(home); // it may be more urgent than what runs there
    }
    if task.sched.on_cpu.load(Ordering::Acquire) {
        task.work().fetch_or(work::RESCHEDULE, Ordering::Release);
        super::kick(task);
    }
}

/// `task` was killed, and others wait for what it has: if it waits for a CPU, it is the next but for those with real-time
/// priorities.
pub fn hurry(task: &TaskRef) {
    let (_, mut rq) = home_of(task);
    match rq.remove(task) {
        Some(queued) if queued.sched.priority() > 0 => rq.enqueue(queued, false),
        Some(queued) => rq.queue.push_front(queued),
        None => {}
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
