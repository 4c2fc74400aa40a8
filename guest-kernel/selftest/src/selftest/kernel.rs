//! The smallest kernel that can run the tests' threads.
//!
//! One run queue for all CPUs. A thread runs until it exits or yields; the idle thread of each CPU picks the next
//! one, and sleeps when there is none. The tests themselves run in the boot CPU's idle thread.

use crate::tests;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use ringfence_hal::sync::{Once, SpinLock};
use ringfence_hal::{
    Access, AddressSpace, BootInfo, Exception, ForkMode, FpuInit, Frame, Interrupt, Kernel, PageFault,
    PerCpu, Prot, Thread, UserRegs, cpu, time,
};

pub struct SelfTest;
pub type TaskRef = Arc<Thread<SelfTest>>;

/// Anonymous memory of every program: demand-zero, read and write.
pub const DATA: core::ops::Range<u64> = 0x50_0000..0x60_0000;
/// Where programs are mapped, read and execute.
pub const CODE: u64 = 0x40_0000;

/// System calls of the programs. Arguments in rdi, rsi; the result in rax.
pub mod call {
    pub const EXIT: u64 = 0;
    /// Appends rdi to the task's log.
    pub const LOG: u64 = 1;
    pub const YIELD: u64 = 2;
    /// Copy-on-write fork: 0 in the child.
    pub const FORK: u64 = 3;
    /// Sets rip to rdi, rflags to rsi, as a bad sigreturn would.
    pub const HOSTILE_RETURN: u64 = 4;
    /// Does nothing.
    pub const NOTHING: u64 = 39;
    /// Runs the tests of FPU images; rax = how many failed.
    pub const FPU_IMAGES: u64 = 6;
    /// Sets the FS base to rdi and the GS base to rsi.
    pub const SET_BASES: u64 = 5;
}

#[derive(Default)]
pub struct Task {
    /// Values the program logged.
    pub log: SpinLock<Vec<u64>>,
    /// Exceptions it raised and we did not resolve.
    pub exceptions: SpinLock<Vec<Exception>>,
    pub done: AtomicBool,
    /// On a CPU, or not yet off its stack.
    running: AtomicBool,
    pub user_work: AtomicUsize,
    pub yields: AtomicUsize,
    pub cpus_seen: AtomicU64,
}

pub static TIMER: AtomicUsize = AtomicUsize::new(0);
pub static RESCHEDULES: AtomicUsize = AtomicUsize::new(0);
static QUEUE: SpinLock<VecDeque<TaskRef>> = SpinLock::new(VecDeque::new());
static IDLE: Once<PerCpu<Once<TaskRef>>> = Once::new();
/// One fault at a time: finding a page and replacing it belong together.
pub static FAULT: SpinLock<()> = SpinLock::new(());
/// Only this CPU takes from the queue, if it is not `usize::MAX`.
pub static ONLY_CPU: AtomicUsize = AtomicUsize::new(0);

fn adopt_idle() {
    let idle = Thread::adopt_idle(Task::default());
    IDLE.call_once(|| PerCpu::new(|_| Once::new())).get().call_once(|| idle);
}

/// Puts a thread on the queue and wakes everybody.
pub fn enqueue(t: TaskRef) {
    QUEUE.lock().push_back(t);
    for id in 0..cpu::count() {
        if id != cpu::id() {
            cpu::send_reschedule(id);
        }
    }
}

/// In an idle thread: runs one thread of the queue, if there is one.
pub fn run_one() -> bool {
    let only = ONLY_CPU.load(SeqCst);
    if only != usize::MAX && only != cpu::id() {
        return false;
    }
    let Some(next) = QUEUE.lock().pop_front() else { return false };
    while next.running.swap(true, SeqCst) {
        cpu::relax();
    }
    next.cpus_seen.fetch_or(1 << cpu::id(), SeqCst);
    Thread::switch_to(next);
    true
}

/// Gives the CPU to its idle thread.
fn to_idle() {
    if let Some(idle) = IDLE.get().and_then(|p| p.get().get()) {
        Thread::switch_to(idle.clone());
    }
}

/// In the boot CPU's idle thread: works until all of `tasks` have exited.
pub fn run_to_end(tasks: &[TaskRef]) -> bool {
    let deadline = time::now() + 20_000_000_000;
    for t in tasks {
        enqueue(t.clone());
    }
    while !tasks.iter().all(|t| t.done.load(SeqCst)) {
        if !run_one() {
            cpu::poll_interrupts();
            cpu::relax();
        }
        if time::now() > deadline {
            return false;
        }
    }
    true
}

fn exit(task: &TaskRef) {
    task.done.store(true, SeqCst);
    to_idle();
    unreachable!("a dead thread runs");
}

/// Demand-zero and copy-on-write.
fn resolve(task: &TaskRef, f: PageFault) -> bool {
    let page = f.addr & !0xfff;
    let Some(space) = task.address_space() else { return false };
    let _guard = FAULT.lock();
    if !DATA.contains(&page) {
        return false;
    }
    if let Some(m) = space.get(page) {
        if f.access != Access::Write {
            return f.access == Access::Read && m.prot.contains(Prot::READ);
        }
        if m.prot.contains(Prot::WRITE) {
            return true;
        }
        let pfn = m.frame.pfn();
        // One reference is the mapping's, one is ours.
        let frame = if m.frame.ref_count() <= 2 { Ok(m.frame.clone()) } else { Frame::alloc_copy(&m.frame) };
        return frame.is_ok_and(|new| {
            space.replace(page, pfn, new, Prot::READ | Prot::WRITE);
            true
        });
    }
    Frame::alloc_zeroed().is_ok_and(|f| {
        let _ = space.map_new(page, f, Prot::READ | Prot::WRITE);
        true
    })
}

fn fork(task: &TaskRef, regs: &UserRegs) -> Option<u64> {
    let parent = task.address_space()?;
    let child = AddressSpace::new().ok()?;
    parent.fork_range(&child, CODE..DATA.start, ForkMode::Share).ok()?;
    parent.fork_range(&child, DATA, ForkMode::CopyOnWrite).ok()?;
    parent.flush_all();
    let mut r = *regs;
    r.rax = 0;
    let t: TaskRef =
        Thread::new_user(Task::default(), &r, FpuInit::CopyCurrent, task.fs_base(), task.gs_base(), child)
            .ok()?;
    tests::CHILDREN.lock().push(t.clone());
    enqueue(t);
    Some(1)
}

impl Kernel for SelfTest {
    type Task = Task;

    fn start(boot: &'static BootInfo) -> ! {
        adopt_idle();
        tests::run(boot)
    }

    fn start_secondary() -> ! {
        adopt_idle();
        loop {
            if !run_one() {
                cpu::wait_for_interrupt();
            }
        }
    }

    fn syscall(task: &TaskRef, regs: &mut UserRegs) -> u64 {
        match regs.rax {
            call::NOTHING => regs.rax = 1,
            call::EXIT => exit(task),
            call::LOG => task.log.lock().push(regs.rdi),
            call::YIELD => {
                task.yields.fetch_add(1, SeqCst);
                enqueue(task.clone());
                to_idle();
            }
            call::FORK => regs.rax = fork(task, regs).unwrap_or(u64::MAX),
            call::HOSTILE_RETURN => {
                (regs.rip, regs.rflags) = (regs.rdi, regs.rsi);
                (regs.rcx, regs.r11) = (regs.rdi, regs.rsi);
            }
            call::FPU_IMAGES => tests::fpu_images_of_current(),
            call::SET_BASES => {
                let ok = task.set_fs_base(regs.rdi).is_ok() && task.set_gs_base(regs.rsi).is_ok();
                regs.rax = if ok { 0 } else { u64::MAX };
            }
            _ => regs.rax = -38i64 as u64,
        }
        regs.rax
    }

    const FIRST_RESTART: i32 = 4095;

    fn restart(_: &TaskRef) {}

    fn user_exception(task: &TaskRef, regs: &mut UserRegs, e: Exception) {
        if let Exception::PageFault(f) = e
            && resolve(task, f)
        {
            return;
        }
        task.exceptions.lock().push(e);
        // Programs that mean to fault have put the address to go on at into r15.
        if regs.r15 == 0 {
            exit(task);
        }
        regs.rip = core::mem::take(&mut regs.r15);
        regs.rflags &= !0x100; // the step was taken
    }

    fn page_fault(task: &TaskRef, f: PageFault) -> bool {
        resolve(task, f)
    }

    fn user_work(task: &TaskRef, _: &mut UserRegs) {
        task.work().store(0, SeqCst);
        task.user_work.fetch_add(1, SeqCst);
    }

    fn interrupt(i: Interrupt) {
        match i {
            Interrupt::Timer { .. } => _ = TIMER.fetch_add(1, SeqCst),
            Interrupt::Reschedule => {
                RESCHEDULES.fetch_add(1, SeqCst);
            }
            Interrupt::Device(_) => {}
        }
    }

    fn after_switch(prev: TaskRef) {
        prev.running.store(false, SeqCst);
    }
}
