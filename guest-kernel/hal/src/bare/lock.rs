//! The hooks of [`sync`](crate::sync): a CPU that waits for a lock answers TLB flush requests meanwhile.

use super::local::local;
use super::{steal, tlb};

/// Rounds of waiting after which the holder may be on a CPU that the host has stopped: longer than locks are held.
const PATIENCE: u32 = 256;

/// Nothing to do before the first attempt.
#[inline(always)]
pub fn acquiring(_lock: usize, _shared: bool) {}

/// Nothing to record.
#[inline(always)]
pub fn acquired(_lock: usize, _shared: bool) {}

/// Nothing to record.
#[inline(always)]
pub fn released(_lock: usize, _shared: bool) {}

/// One round of waiting. The holder may itself be waiting for our answer to a flush.
#[inline]
pub fn contended() {
    tlb::serve();
    let l = local();
    l.spins.set(l.spins.get().wrapping_add(1));
    if l.spins.get().is_multiple_of(PATIENCE) {
        steal::yield_to_any();
    }
    core::hint::spin_loop();
}
