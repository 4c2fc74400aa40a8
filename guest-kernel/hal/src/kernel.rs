//! The upward interface: what the kernel proper gives the hardware layer.

use crate::{Thread, UserRegs};
use alloc::sync::Arc;

/// The upward calls, implemented once by the kernel proper and handed to the HAL as a type parameter.
///
/// Every method runs in kernel mode with interrupts off.
pub trait Kernel: 'static + Sized {
    /// What the kernel proper keeps with each [`Thread`]; reached by dereferencing the thread.
    type Task: Send + Sync + 'static;

    /// The boot CPU's entry, on its boot stack: heap, frames, per-CPU data, traps and clock are up.
    fn start(boot: &'static BootInfo) -> !;

    /// Entry of every other CPU after [`cpu::start_secondaries`](crate::cpu::start_secondaries).
    fn start_secondary() -> !;

    /// A system call. The number is in `regs.rax` and `regs.orig_rax`; what is returned goes into `regs.rax`.
    fn syscall(task: &Arc<Thread<Self>>, regs: &mut UserRegs) -> u64;

    /// Error numbers from this one to 4095 are not for the program: after a system call with such a result comes
    /// [`Kernel::restart`]. The entry code looks, so that the kernel proper can jump to a call's handler and forget it.
    const FIRST_RESTART: i32;

    /// See [`Kernel::FIRST_RESTART`].
    fn restart(task: &Arc<Thread<Self>>);

    /// A system call of a thread that is [watched](Thread::set_watched), or of any while
    /// [`cpu::watch_all`](crate::cpu::watch_all) is on: all of it, with `regs.rax` set and [`Kernel::restart`] called.
    fn watched_syscall(task: &Arc<Thread<Self>>, regs: &mut UserRegs) {
        regs.rax = Self::syscall(task, regs);
        if (i64::from(Self::FIRST_RESTART)..4096).contains(&(regs.rax as i64).wrapping_neg()) {
            Self::restart(task);
        }
    }

    /// An exception raised by user code.
    fn user_exception(task: &Arc<Thread<Self>>, regs: &mut UserRegs, e: Exception);

    /// A page fault of a user copy in kernel mode. `true`: retry the access; `false`: the copy fails with
    /// [`UserFault`](crate::UserFault). May sleep.
    fn page_fault(task: &Arc<Thread<Self>>, fault: PageFault) -> bool;

    /// About to return to user mode with [`Thread::work`] not zero; called again until it is zero.
    fn user_work(task: &Arc<Thread<Self>>, regs: &mut UserRegs);

    /// An interrupt. Must not block or switch.
    fn interrupt(i: Interrupt);

    /// Runs on the new thread right after each switch. `prev` no longer runs anywhere: this is the place to
    /// drop its running claim, so that another CPU may switch to it.
    fn after_switch(prev: Arc<Thread<Self>>);
}

/// How memory was accessed when it faulted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// A data read.
    Read,
    /// A data write, or a read-modify-write.
    Write,
    /// An instruction fetch.
    Exec,
}

/// A page fault on a user address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageFault {
    /// The faulting address, not rounded. May be outside the user half when user code jumped or pointed
    /// there.
    pub addr: u64,
    /// What the access wanted to do.
    pub access: Access,
    /// A page was mapped there, but its protection refused the access.
    pub present: bool,
}

/// A processor exception raised by user code (Intel SDM volume 3, chapter 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Exception {
    /// #DE, vector 0.
    DivideError,
    /// #DB, vector 1: single step or a debug register.
    Debug {
        /// DR6: see [`debug`](crate::debug).
        status: u64,
    },
    /// #BP, vector 3: `int3`.
    Breakpoint,
    /// #OF, vector 4: `into`.
    Overflow,
    /// #BR, vector 5: `bound`.
    Bounds,
    /// #UD, vector 6.
    InvalidOpcode,
    /// #NM, vector 7: the FPU is not available to user code.
    DeviceNotAvailable,
    /// #NP, vector 11.
    SegmentNotPresent {
        /// The error code: a selector.
        code: u32,
    },
    /// #SS, vector 12: also a non-canonical stack access.
    StackSegment {
        /// The error code: a selector or 0.
        code: u32,
    },
    /// #GP, vector 13: also a non-canonical access, a privileged instruction, and a return to a
    /// non-canonical instruction pointer.
    GeneralProtection {
        /// The error code: a selector or 0.
        code: u32,
    },
    /// #PF, vector 14.
    PageFault(PageFault),
    /// #MF, vector 16: x87.
    FloatingPoint,
    /// #AC, vector 17.
    AlignmentCheck,
    /// #XM, vector 19.
    Simd,
    /// Any other vector that user code managed to raise.
    Other {
        /// The vector number.
        vector: u8,
        /// The error code, 0 if the vector has none.
        code: u32,
    },
}

/// What interrupted the CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Interrupt {
    /// The deadline set by [`time::set_deadline`](crate::time::set_deadline) has passed. The timer is off
    /// now.
    Timer {
        /// The current thread was in the kernel when it passed, where interrupts wait, and not in user mode. A guess that
        /// is nearly always right, for sampling.
        kernel: bool,
    },
    /// Another CPU called [`cpu::send_reschedule`](crate::cpu::send_reschedule).
    Reschedule,
    /// The device on this global system interrupt, enabled by [`irq::enable`](crate::irq::enable).
    Device(u32),
}

/// What the boot loader told us.
#[derive(Debug)]
pub struct BootInfo {
    /// Configured CPUs, at least 1 and at most [`cpu::MAX`](crate::cpu::MAX).
    pub cpus: usize,
    /// The kernel command line.
    pub cmdline: &'static str,
    /// The ramdisk slot: the JSON of the first container. Mapped read-only; its frames are not handed out.
    pub ramdisk: &'static [u8],
}
