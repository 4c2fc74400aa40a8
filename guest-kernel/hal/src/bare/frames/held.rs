//! Frames that are kept out of use because the host wants their memory: those in the balloon.
//!
//! They are blocks like any other that was allocated, but nobody looks into them. Whether the host has made them zero is not
//! believed: what was used before counts as dirty when it comes back.

use super::{BUDDY, MAX_ORDER, reserve, untouch};

/// A block of frames that nobody uses. Dropping it gives them back to the allocator.
#[derive(Debug)]
pub struct Held {
    pfn: u64,
    order: usize,
}

impl Held {
    /// Takes at most `frames` frames, a power of two of them, in one block, the largest there is. `None` if fewer than `keep` frames,
    /// or than twice the reserve, would be left.
    pub fn take(frames: usize, keep: usize) -> Option<Held> {
        let mut buddy = BUDDY.lock();
        let spare = buddy.free_count().checked_sub(keep.max(2 * reserve()))?;
        let most = frames.min(spare).checked_ilog2()? as usize;
        (0..=most.min(MAX_ORDER)).rev().find_map(|order| Some(Held { pfn: buddy.alloc(order)?, order }))
    }

    /// The host has taken their memory.
    pub fn set_given(&self) {
        untouch(self.pfn, self.order);
    }

    /// Number of the first.
    pub fn pfn(&self) -> u64 {
        self.pfn
    }

    /// How many.
    pub fn frames(&self) -> usize {
        1 << self.order
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        BUDDY.lock().put_back(self.pfn, self.order, true);
    }
}
