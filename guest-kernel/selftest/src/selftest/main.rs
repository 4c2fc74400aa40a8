//! A kernel whose only program is the test of the hardware layer.
//!
//! It boots where Ringfence's kernel boots (plain QEMU with `pvh-loader`, or a sandbox), runs every test in turn on
//! the boot CPU, with user threads on all CPUs, prints `N passed, N failed` and powers off.
//!
//! * [`kernel`] is the smallest kernel that can run user threads: a run queue, demand-zero memory, copy-on-write.
//! * [`programs`] are the user programs, in assembly.
//! * [`tests`] are the tests.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![cfg_attr(not(target_os = "none"), allow(dead_code, unused_imports))]

extern crate alloc;

#[cfg(target_os = "none")]
mod kernel;
#[cfg(target_os = "none")]
mod programs;
#[cfg(target_os = "none")]
mod tests;

#[cfg(target_os = "none")]
ringfence_hal::entry!(kernel::SelfTest);

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("selftest is a kernel: build it for x86_64-unknown-none");
}
