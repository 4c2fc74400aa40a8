//! The hooks of [`sync`](crate::sync): a CPU that waits for a lock answers TLB flush requests meanwhile.

use super::tlb;

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
    core::hint::spin_loop();
}
