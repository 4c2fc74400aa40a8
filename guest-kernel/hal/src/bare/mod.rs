//! The hardware layer on the bare x86-64 machine: ring 0 of a KVM guest (or of QEMU's TCG, for tests).
//!
//! | module | holds |
//! |---|---|
//! | [`boot`] | the entry point, the zero page, the order in which everything is set up |
//! | [`layout`], [`paging`] | the kernel half of the address space |
//! | [`frames`], [`heap`], [`stack`] | memory |
//! | [`local`], [`segments`], [`cpu`], [`smp`], [`apic`] | each CPU's own things, and starting them |
//! | [`steal`] | what the host says of CPUs it has stopped |
//! | [`entry`], [`traps`], [`panic`] | ways into the kernel and out |
//! | [`thread`], [`fpu`] | threads and their registers |
//! | [`space`], [`tlb`], [`user`] | user memory |
//! | [`time`], [`irq`], [`mmio`], [`dma`], [`pmem`], [`console`], [`power`], [`entropy`] | the machine |
//!
//! # Invariants
//!
//! * Interrupts are off in the kernel but for the two windows in [`cpu`]. So a CPU's own block needs no lock, and the
//!   `swapgs` pairs cannot be torn apart.
//! * In the kernel GS points at the running CPU's block, and AC (the SMAP override) is clear but for the few
//!   instructions of a user copy.
//! * A frame is released only when no TLB of any CPU holds a translation to it ([`tlb`]).
//! * No vector register is used outside [`fpu`]: the target is soft-float.
//!
//! # Lock order
//!
//! `stack` list → kernel tables → frame allocator; parent space → child space → frame allocator; heap class → frame
//! allocator. Every contended lock serves TLB flush requests while it waits.

mod apic;
mod asm;
pub mod boot;
pub mod console;
pub mod cpu;
pub mod dma;
pub mod entropy;
mod entry;
pub mod fpu;
pub mod frames;
mod heap;
pub mod irq;
mod layout;
mod local;
pub(crate) mod lock;
mod mem;
pub mod mmio;
mod msr;
mod paging;
mod panic;
pub mod pmem;
pub mod power;
mod segments;
mod smp;
mod space;
mod stack;
mod steal;
mod thread;
pub mod time;
mod tlb;
mod traps;
pub mod user;

pub use frames::{Frame, HugeFrame};
pub use space::AddressSpace;
pub use thread::Thread;
