//! Machine-wide state, and the upward calls of the HAL.

use alloc::sync::Arc;

use ringfence_hal as hal;
use ringfence_hal::{BootInfo, Exception, Interrupt, PageFault, UserRegs};

use crate::{
    TaskRef, mm, sched, signal,
    sync::Once,
    syscall,
    task::{PidTable, RELEASE, Task, VERSION},
};

/// The kernel proper, as the HAL sees it.
pub struct Sentry;

/// What exists once for the whole machine. Reached through [`Task::kernel`] or [`kernel`].
pub struct Kernel {
    /// Processes, groups and sessions by number.
    pub pids: PidTable,
}

static KERNEL: Once<Kernel> = Once::new();

/// The kernel's state; made on first use.
pub fn kernel() -> &'static Kernel {
    KERNEL.call_once(|| Kernel { pids: PidTable::new() })
}

impl hal::Kernel for Sentry {
    type Task = Task;

    fn start(boot: &'static BootInfo) -> ! {
        let idle = sched::adopt_boot_cpu();
        crate::klog::line(5, &alloc::format!("Linux version {RELEASE} {VERSION}"));
        crate::fs::init();
        syscall::watch_memory();
        crate::control::start(boot);
        hal::cpu::start_secondaries();
        sched::idle_loop(&idle)
    }

    fn start_secondary() -> ! {
        let idle = sched::adopt_boot_cpu();
        sched::idle_loop(&idle)
    }

    fn syscall(task: &TaskRef, regs: &mut UserRegs) -> u64 {
        syscall::dispatch(task, regs)
    }

    const FIRST_RESTART: i32 = syscall::FIRST_RESTART;

    fn restart(task: &TaskRef) {
        syscall::restart(task);
    }

    fn watched_syscall(task: &TaskRef, regs: &mut UserRegs) {
        syscall::watched(task, regs);
    }

    fn user_exception(task: &TaskRef, regs: &mut UserRegs, e: Exception) {
        match e {
            Exception::PageFault(fault) => mm::user_fault(task, fault),
            other => signal::exception(task, regs, other),
        }
    }

    fn page_fault(task: &TaskRef, fault: PageFault) -> bool {
        mm::kernel_fault(task, fault)
    }

    fn user_work(task: &TaskRef, regs: &mut UserRegs) {
        syscall::user_work(task, regs);
    }

    fn interrupt(i: Interrupt) {
        match i {
            Interrupt::Timer { kernel } => sched::on_timer_interrupt(kernel),
            Interrupt::Reschedule => sched::on_reschedule_interrupt(),
            Interrupt::Device(gsi) => crate::drivers::interrupt(gsi),
        }
    }

    fn after_switch(prev: Arc<hal::Thread<Self>>) {
        sched::after_switch(prev);
    }
}
