//! The simulated clock.
//!
//! It advances a little at each reading and each system call, and jumps to the next deadline when all CPUs
//! are idle: tests that sleep take no time.

use super::context;
use super::world::world;
pub use crate::types::VdsoParams;

/// What reading the clock takes, in nanoseconds: loops that wait for time to pass end.
const READING: u64 = 100;
/// Wall time at boot: 2026-01-01 00:00:00 UTC, in nanoseconds since the epoch.
const BOOT_REALTIME: u64 = 1_767_225_600_000_000_000;

/// Nanoseconds since boot; monotonic and the same on all CPUs.
pub fn now() -> u64 {
    let world = world();
    let mut m = world.machine();
    world.pass_time_of(&mut m, READING);
    m.clock
}

/// Wall-clock nanoseconds since the epoch minus [`now`].
pub fn realtime_offset() -> u64 {
    BOOT_REALTIME
}

/// Sets this CPU's timer: [`Interrupt::Timer`](crate::Interrupt) once [`now`] has reached the deadline.
/// `None` turns it off.
pub fn set_deadline(deadline: Option<u64>) {
    let world = world();
    let cpu = context::cpu();
    if let Some(state) = world.machine().cpus.get_mut(cpu) {
        state.deadline = deadline;
    }
}

/// How the vDSO computes the time: here it cannot.
pub fn vdso_params() -> VdsoParams {
    VdsoParams { tsc_mult: 1, tsc_shift: 0, tsc_base: 0, ns_base: 0, stable: false }
}
