//! The host implementation: std threads, heap pages and a checked page table instead of a machine.
//!
//! It exists so that the kernel proper runs in an ordinary test process: under `cargo test`, a fuzzer or
//! Miri. It favours checks over speed.
//!
//! # Worlds
//!
//! What a machine has once (its frames, clock, console, devices and interrupt lines) belongs to a [`World`].
//! Each thread of the test process acts in one world: by default in one shared by all, with many frames; in
//! its own after [`World::enter`]; in its simulation's inside a [`Simulation`]. Tests that count frames or
//! exhaust them make their own world, so that tests running in parallel do not disturb each other. A
//! [`sync::Once`](crate::sync::Once) has one value for each world.
//!
//! # Two ways to use it
//!
//! * Unit tests: [`with_address_space`] gives the current thread an address space and a fault handler; then
//!   [`user`] copies work. No simulated CPU, no threads.
//! * [`Simulation`]: boots a [`Kernel`](crate::Kernel) on simulated CPUs, with Rust closures as user
//!   programs. See [`Simulation`] for how time, CPUs and programs behave.
//!
//! # What it checks
//!
//! A spin lock taken twice by one thread; a spin lock held in `switch_to`, `wait_for_interrupt` or a user copy
//! that may fault, or at the return to user mode; `fork_range` without `flush_all`; a switch to a thread that still runs; page-table arguments that are unaligned or outside
//! the user half; a page-fault handler that promises progress and makes none; all CPUs idle with nothing to
//! wake them.

mod context;
pub mod cpu;
pub mod dma;
pub mod fpu;
mod frame;
pub mod irq;
pub(crate) mod lock;
pub mod mmio;
pub mod once;
pub mod pmem;
mod program;
mod simulation;
mod small;
mod space;
mod thread;
pub mod time;
pub mod user;
mod world;

pub use context::{with_address_space, with_current};
pub use frame::{Frame, HugeFrame, frames};
pub use mmio::MmioDevice;
pub use pmem::phys_region;
pub use program::HostUser;
pub use simulation::{Outcome, Simulation};
pub use small::{console, entropy, power};
pub use space::AddressSpace;
pub use thread::Thread;
pub use world::{World, world};
