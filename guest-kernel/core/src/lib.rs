//! The sentry: a Linux-compatible kernel in safe Rust.
//!
//! It runs in guest ring 0 on the bare half of `ringfence_hal`, and as an ordinary library on its host half,
//! where it is unit tested and fuzzed. This crate contains no unsafe code; whatever needs it is in the HAL.
//!
//! The way of a system call: the HAL's entry stub saves the registers and calls [`Sentry::syscall`] →
//! [`syscall::dispatch`] looks the number up in the table → the handler, given the calling task and typed
//! arguments, calls into a subsystem → that uses the HAL. Nothing below calls back up except through a trait.
//!
//! | module | holds |
//! |---|---|
//! | [`syscall`] | the table, typed arguments, dispatch; [`strace`] prints from the table |
//! | [`task`], [`sched`], [`sync`] | tasks and processes, the scheduler, wait queues and sleeping locks |
//! | [`signal`], [`futex`], [`time`] | signals, futexes, clocks and timers |
//! | [`ptrace`], [`seccomp`] | tracing of one task by another, system-call filters |
//! | [`mm`], [`exec`] | address spaces, page faults, loading programs |
//! | [`cgroup`] | control groups |
//! | [`fs`] | the virtual file system and the file systems |
//! | [`net`] | sockets |
//! | [`ns`], [`container`] | namespaces, and the worlds made of them |
//! | [`kernel`] | machine-wide state, and how the HAL's upward calls are answered |
#![cfg_attr(target_os = "none", no_std)]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)
)]

extern crate alloc;

use alloc::sync::Arc;

pub mod block;
pub mod cgroup;
pub mod container;
pub mod control;
pub mod drivers;
pub mod errno;
pub mod exec;
pub mod fs;
pub mod futex;
pub mod io;
pub mod ipc;
pub mod kernel;
pub mod klog;
pub mod mm;
pub mod net;
pub mod ns;
pub mod ptrace;
pub mod random;
pub mod sched;
pub mod seccomp;
pub mod signal;
pub mod strace;
pub mod sync;
pub mod syscall;
pub mod task;
pub mod time;

pub use kernel::{Kernel, Sentry};

/// A task as everybody holds it: the HAL's thread, which derefs to [`task::Task`].
pub type TaskRef = Arc<ringfence_hal::Thread<Sentry>>;
