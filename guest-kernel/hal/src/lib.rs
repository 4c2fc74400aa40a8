//! The hardware layer of the guest kernel: the only guest crate with `unsafe`.
//!
//! Everything above it (`ringfence_sentry`) is `#![forbid(unsafe_code)]` and talks to the machine through
//! the types of this crate. There are two implementations of the same public interface:
//!
//! * `bare`: x86-64 in ring 0, built for `target_os = "none"`;
//! * [`host`]: std threads, heap pages and a checked page table, so that the kernel proper is built, unit
//!   tested, fuzzed and run under Miri on any development machine.
//!
//! The one `cfg` below picks between them. What does not depend on the machine lives in this folder and is
//! shared by both: the upward interface ([`Kernel`]), the user registers ([`UserRegs`]), errors and flags,
//! the locks ([`sync`]), [`PerCpu`] and [`log!`].
//!
//! # Rules both implementations keep
//!
//! * Kernel code runs with interrupts off, except inside [`cpu::wait_for_interrupt`] and
//!   [`cpu::poll_interrupts`]: [`Kernel::interrupt`] therefore never nests inside code that holds a lock.
//! * Kernel code is not preempted. It leaves the CPU only in [`Thread::switch_to`] and
//!   [`cpu::wait_for_interrupt`], and holds no spin lock there (the host implementation checks).
//! * User memory is reached only by copying, through [`user`] and the `*_user` methods of [`Frame`] and
//!   [`pmem::PhysRegion`]; none of these is called with a spin lock held, except the `try_` variants.
#![cfg_attr(target_os = "none", no_std)]

extern crate alloc;

pub mod debug;
mod kernel;
pub mod log;
pub mod mutex;
mod percpu;
mod regs;
pub mod sync;
mod types;
pub mod vdso;

#[cfg(target_os = "none")]
mod bare;
#[cfg(not(target_os = "none"))]
pub mod host;

#[cfg(target_os = "none")]
use bare as arch;
#[cfg(not(target_os = "none"))]
use host as arch;

pub use arch::{
    AddressSpace, Frame, HugeFrame, Thread, console, cpu, dma, entropy, fpu, frames, irq, mmio, pmem, power,
    time, user,
};
pub use debug::{BadBreakpoint, DebugRegisters};
pub use kernel::{Access, BootInfo, Exception, Interrupt, Kernel, PageFault};
pub use percpu::PerCpu;
pub use regs::UserRegs;
pub use types::{
    ForkMode, FpuInit, HUGE_PAGES, InvalidFpuState, MapError, Mapping, NonCanonical, OutOfMemory, PAGE_SHIFT,
    PAGE_SIZE, Prot, USER_END, UserFault,
};

/// Parts of the bare implementation that [`entry!`] names.
#[cfg(target_os = "none")]
#[doc(hidden)]
pub mod boot {
    pub use crate::bare::boot::entry;
}

/// Makes the image's entry point for a kernel: `ringfence_hal::entry!(ringfence_sentry::Sentry);`
#[cfg(target_os = "none")]
#[macro_export]
macro_rules! entry {
    ($kernel:ty) => {
        // The linker script puts this first.
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        #[unsafe(link_section = ".boot")]
        unsafe extern "C" fn _start() -> ! {
            ::core::arch::naked_asm!("jmp {}", sym $crate::boot::entry::<$kernel>)
        }
    };
}
