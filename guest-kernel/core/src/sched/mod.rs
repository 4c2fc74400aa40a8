//! The scheduler.
//!
//! Linux has one run queue a CPU and balances between them; so have we, in the simplest form that keeps
//! every CPU busy: a first-in first-out queue of runnable tasks, a bitmap of idle CPUs, and stealing by a
//! CPU that runs dry. A wake-up goes to the CPU the task last ran on if that is idle, else to any idle CPU,
//! else to the queue of the last one; only an idle target is sent an interrupt. The kernel is not preempted:
//! a task gives up its CPU when it sleeps, at the return to ring 3 when its slice is over, and at
//! [`preempt_point`]s in long loops. A slice ends by the CPU's timer, which is armed for it only while
//! somebody else waits in the queue: one running task on a CPU causes no timer interrupt but for the rare tick that samples
//! what it does (`cputime`).
//!
//! # States
//!
//! | state | queued | what moves it on |
//! |---|---|---|
//! | `RUNNABLE` | on one run queue, or `current` of its CPU | `schedule` picks it; `sleep_until` marks it blocked |
//! | `BLOCKED` | no, but possibly still `current` until it has switched away | `wake`, exactly once |
//! | `DEAD` | no | nothing |
//!
//! A wake-up turns `BLOCKED` into `RUNNABLE` under the lock of the run queue of the task's CPU, so of several
//! wakers one wins. If the task is still `current` there, it has not left yet, and `schedule`, which decides
//! under the same lock, will see that it is runnable and return at once; else it is queued. A task whose registers are still being saved
//! (`on_cpu`) stays on the queue of that very CPU and is never stolen, so no task runs on two CPUs.
//!
//! Every other task on a queue may run on that queue's CPU: a CPU takes what is first without looking at affinities, and one
//! that has work has something to run. Who queues a task elsewhere than where it was looks at its affinity, and so does the CPU
//! it leaves (`runqueue::leave`); who changes the affinity of a queued task moves it.
//!
//! Control groups with the cpu controller are the business of `groups`, real-time priorities that of [`realtime`]; others
//! pay a look at their process and their priority.
//!
//! Lock order: a run queue's lock is the innermost of the kernel but for those of a CPU's timers and of a process's group;
//! two are never held together.

mod cputime;
mod groups;
mod idle;
mod load;
pub mod realtime;
mod runqueue;
mod timers;

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};

pub use cputime::Split;
pub use idle::{adopt_boot_cpu, idle_loop};
pub use load::load_averages;
pub use runqueue::{
    CpuTimes, context_switches, cpu_times, for_running, forget_group, groups_changed, hurry, idle_times,
    regroup, runnable_tasks,
};
pub use timers::{Timer, TimerTarget, on_timer_interrupt};

use alloc::sync::Arc;
use ringfence_hal as hal;

use runqueue::Leave;

use crate::{
    Sentry, TaskRef,
    sync::{Interruptible, PollEvents, WaitError, Wake},
};

/// How long a task may run while others wait, in nanoseconds.
pub const SLICE_NS: u64 = 2_000_000;

const RUNNABLE: u8 = 0;
const BLOCKED: u8 = 1;
const DEAD: u8 = 2;

/// Work bits of `hal::Thread::work`: why the return to ring 3 takes the slow path.
pub mod work {
    /// The slice is over, or a task that should run first was queued.
    pub const RESCHEDULE: u32 = 1 << 0;
    /// A signal may be deliverable, or the group is stopping or exiting.
    pub const SIGNAL: u32 = 1 << 1;
    /// Something registered by `task` wants to run at the return to user mode (rseq, tracing).
    pub const NOTIFY: u32 = 1 << 2;
}

/// What the scheduler keeps in every task.
pub struct SchedState {
    state: AtomicU8,
    on_cpu: AtomicBool,
    /// The CPU whose queue it is on, or on which it runs or last ran.
    cpu: AtomicUsize,
    /// CPUs it may run on, as a bit mask.
    affinity: AtomicU64,
    nice: AtomicU32,
    /// [`realtime::Policy`], packed; what it was lent; the greater of both priorities.
    policy: AtomicU32,
    boost: AtomicU32,
    priority: AtomicU32,
    /// CPU time when it last slept, of a real-time task.
    slept_at: AtomicU64,
    is_idle: bool,
    /// Nanoseconds on a CPU up to `started`.
    runtime: AtomicU64,
    /// When it was last put on a CPU.
    started: AtomicU64,
    samples: cputime::Samples,
    /// Voluntary and involuntary switches, for getrusage and /proc.
    pub(crate) voluntary: AtomicU64,
    pub(crate) involuntary: AtomicU64,
}

impl SchedState {
    /// A runnable task that is on no queue yet: [`start`] queues it.
    pub fn new() -> Self {
        Self::with(false, 0)
    }

    fn with(is_idle: bool, cpu: usize) -> Self {
        SchedState {
            state: AtomicU8::new(if is_idle { RUNNABLE } else { BLOCKED }),
            on_cpu: AtomicBool::new(is_idle),
            cpu: AtomicUsize::new(cpu),
            affinity: AtomicU64::new(u64::MAX),
            nice: AtomicU32::new(20),
            policy: AtomicU32::new(realtime::OTHER),
            boost: AtomicU32::new(0),
            priority: AtomicU32::new(0),
            slept_at: AtomicU64::new(0),
            is_idle,
            runtime: AtomicU64::new(0),
            started: AtomicU64::new(0),
            samples: cputime::Samples::new(),
            voluntary: AtomicU64::new(0),
            involuntary: AtomicU64::new(0),
        }
    }

    /// The state of a CPU's idle task.
    pub fn idle(cpu: usize) -> Self {
        Self::with(true, cpu)
    }

    /// A child's state: affinity and nice value are inherited, times are not.
    pub fn inherit(&self) -> Self {
        let new = Self::with(false, self.cpu.load(Ordering::Relaxed));
        new.affinity.store(self.affinity(), Ordering::Relaxed);
        new.nice.store(self.nice.load(Ordering::Relaxed), Ordering::Relaxed);
        self.inherit_policy(&new);
        new
    }

    /// Whether it runs or could run (state `R` of /proc).
    pub fn is_runnable(&self) -> bool {
        self.state.load(Ordering::Relaxed) == RUNNABLE
    }

    /// The CPU it runs or last ran on.
    pub fn cpu(&self) -> usize {
        self.cpu.load(Ordering::Relaxed)
    }

    /// CPUs it may run on, bit n for CPU n.
    pub fn affinity(&self) -> u64 {
        self.affinity.load(Ordering::SeqCst)
    }

    /// The nice value, -20 to 19.
    pub fn nice(&self) -> i32 {
        self.nice.load(Ordering::Relaxed) as i32 - 20
    }

    /// Sets the nice value, clamped to -20..=19.
    pub fn set_nice(&self, nice: i32) {
        self.nice.store((nice.clamp(-20, 19) + 20) as u32, Ordering::Relaxed);
    }

    /// CPU time used so far in nanoseconds, the present slice included.
    pub fn runtime(&self) -> u64 {
        let done = self.runtime.load(Ordering::Relaxed);
        if self.on_cpu.load(Ordering::Relaxed) {
            done + hal::time::now().saturating_sub(self.started.load(Ordering::Relaxed))
        } else {
            done
        }
    }

    fn allows(&self, cpu: usize) -> bool {
        self.affinity() & (1 << cpu) != 0
    }

    /// How long its slice is: nice values weigh it, 2 ms at nice 0, 8 ms at -20, 0.5 ms at 19.
    fn slice(&self) -> u64 {
        let idle = self.policy().number == realtime::IDLE;
        match if idle { 19 } else { self.nice() } {
            n if n < 0 => SLICE_NS + SLICE_NS * 3 * n.unsigned_abs() as u64 / 20,
            n => SLICE_NS - SLICE_NS * 3 * n as u64 / 4 / 19,
        }
    }
}

impl Default for SchedState {
    fn default() -> Self {
        Self::new()
    }
}

impl Wake for hal::Thread<Sentry> {
    fn wake(self: Arc<Self>, _events: PollEvents) {
        wake(&self);
    }
}

/// Runs `f` with the task running on this CPU. Only for sleeping locks; everything else is passed its task.
pub(crate) fn with_current<R>(f: impl FnOnce(Option<&TaskRef>) -> R) -> R {
    hal::Thread::<Sentry>::with_current(|t| f(t.filter(|t| !t.sched.is_idle)))
}

/// Makes a new task runnable for the first time.
pub fn start(task: &TaskRef) {
    wake(task);
}

/// Makes `task` runnable if it is blocked; otherwise does nothing. Says whether it did.
pub fn wake(task: &TaskRef) -> bool {
    runqueue::wake_blocked(task)
}

/// Tells a running task to look at its work word soon: interrupts the CPU it runs on, if it is another one.
pub fn kick(task: &TaskRef) {
    if task.sched.on_cpu.load(Ordering::Acquire) {
        let cpu = task.sched.cpu();
        if cpu != hal::cpu::id() {
            hal::cpu::send_reschedule(cpu);
        }
    }
}

/// Sleeps until `condition` answers. The caller has registered with whatever wakes it (see `sync::wait`).
pub fn sleep_until<T>(
    task: &TaskRef,
    interruptible: Interruptible,
    deadline: Option<u64>,
    mut condition: impl FnMut() -> Option<T>,
) -> Result<T, WaitError> {
    let mut timer: Option<Timer> = None;
    loop {
        task.sched.state.store(BLOCKED, Ordering::SeqCst);
        let outcome = if let Some(v) = condition() {
            Some(Ok(v))
        } else if match interruptible {
            Interruptible::Yes => task.interrupted(),
            Interruptible::Killable => task.killed(),
            Interruptible::No => false,
        } {
            Some(Err(WaitError::Interrupted))
        } else if deadline.is_some_and(|d| hal::time::now() >= d) {
            Some(Err(WaitError::TimedOut))
        } else {
            None
        };
        if let Some(outcome) = outcome {
            // A waker may have won the race: it found us `current` and left it at that.
            task.sched.state.store(RUNNABLE, Ordering::SeqCst);
            return outcome;
        }
        if let (Some(d), None) = (deadline, &timer) {
            timer = Some(Timer::start(d, task.clone()));
        }
        runqueue::schedule(task, Leave::Kernel);
    }
}

/// Has `task` its next tick after `more` nanoseconds of CPU time, or earlier.
pub fn tick_soon(task: &TaskRef, more: u64) {
    task.sched.due_in(more);
    if with_current(|current| current.is_some_and(|current| Arc::ptr_eq(current, task))) {
        timers::set_tick(hal::time::now().saturating_add(more));
    } else {
        kick(task);
    }
}

/// A reschedule interrupt arrived: something was queued on this CPU, or its task's tick has moved.
pub fn on_reschedule_interrupt() {
    let now = hal::time::now();
    if let Some(at) = with_current(|task| task.map(|task| task.sched.running_tick_at(now))) {
        timers::set_tick(at);
    }
    runqueue::slice_needed();
}

/// Restricts `task` to the CPUs in `mask` (not zero within the CPUs there are: the caller checks). If it waits for a CPU
/// or runs on one that it may not use any more it is moved, the running task itself before its next instruction in ring 3.
pub fn set_affinity(task: &TaskRef, mask: u64) {
    task.sched.affinity.store(mask, Ordering::SeqCst);
    runqueue::affinity_changed(task);
}

/// Gives the CPU to whoever else wants it (`sched_yield`).
pub fn yield_now(task: &TaskRef) {
    runqueue::schedule(task, Leave::Yield);
}

/// The return to ring 3 found `work::RESCHEDULE`.
pub fn reschedule(task: &TaskRef) {
    task.work().fetch_and(!work::RESCHEDULE, Ordering::AcqRel);
    runqueue::schedule(task, Leave::AtUser);
}

/// For loops in the kernel that can run for more than about 100 µs: takes pending interrupts and lets
/// others run. Not to be called with a spin lock held.
pub fn preempt_point(task: &TaskRef) {
    hal::cpu::poll_interrupts();
    if task.work().load(Ordering::Relaxed) & work::RESCHEDULE != 0 {
        task.work().fetch_and(!work::RESCHEDULE, Ordering::AcqRel);
        runqueue::schedule(task, Leave::Kernel);
    }
}

/// Sleeps for `ns` nanoseconds, whatever happens. For kernel tasks.
pub fn sleep_ns(task: &TaskRef, ns: u64) {
    let deadline = hal::time::now().saturating_add(ns);
    let _ = sleep_until(task, Interruptible::No, Some(deadline), || None::<()>); // it always times out
}

/// Ends the running task: it never runs again. Everything it owned must have been given up.
pub fn exit_current(task: &TaskRef) -> ! {
    task.sched.state.store(DEAD, Ordering::SeqCst);
    loop {
        runqueue::schedule(task, Leave::Kernel);
    }
}

/// `hal::Kernel::after_switch`: `prev` has left this CPU for good.
pub fn after_switch(prev: TaskRef) {
    prev.sched.on_cpu.store(false, Ordering::Release);
    let me = hal::cpu::id();
    if !prev.sched.allows(me) {
        runqueue::leave(&prev, me);
    }
}
