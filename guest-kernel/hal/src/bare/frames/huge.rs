//! [`HugeFrame`]: 2 MiB of contiguous frames.
//!
//! It is not a kind of frame of its own but 512 ordinary ones that lie in a row, each with a count: what owns the huge
//! frame (a [`HugeFrame`], or a large page-table entry) owns one reference to each of them. So a large page can be taken
//! apart by writing 512 entries, with no change to any frame; the price is a loop over 512 counts (8 KiB of metadata)
//! when it comes and goes, which is little beside clearing 2 MiB.

use super::super::layout::window_ptr;
use super::super::local::local;
use super::super::mem;
use super::meta::{self, state};
use super::{Frame, alloc_block, uncharge};
use crate::{HUGE_PAGES, OutOfMemory, PAGE_SIZE};
use core::sync::atomic::Ordering;

/// log2 of [`HUGE_PAGES`].
const ORDER: usize = HUGE_PAGES.ilog2() as usize;

/// 2 MiB of new memory, aligned to 2 MiB.
#[derive(Debug)]
pub struct HugeFrame {
    pfn: u64,
}

impl HugeFrame {
    /// New memory, all zero, if there is a block that large: user allocations also leave the reserve.
    pub fn alloc_zeroed() -> Result<Self, OutOfMemory> {
        let pfn = alloc_block(ORDER, true, true).ok_or(OutOfMemory)? >> 12;
        for p in pfn..pfn + HUGE_PAGES as u64 {
            let m = meta::meta(p);
            m.refs.store(1, Ordering::Relaxed);
            m.owner().store(0, Ordering::Relaxed);
            m.set_state(state::USED);
            m.order.store(0, Ordering::Relaxed);
        }
        local().user_pages.fetch_add(HUGE_PAGES as i64, Ordering::Relaxed);
        Ok(Self { pfn })
    }

    /// As [`Frame::set_owner`], for all frames.
    pub fn set_owner(&self, owner: u32) {
        for p in self.pfn..self.pfn + HUGE_PAGES as u64 {
            meta::meta(p).owner().store(owner, Ordering::Relaxed);
        }
    }

    /// Copies a page into the page with number `index`.
    pub(in super::super) fn copy_page(&self, index: usize, from: &Frame) {
        assert!(index < HUGE_PAGES);
        let to = window_ptr((self.pfn + index as u64) << 12);
        // SAFETY: both pages are mapped in the window; the one written to is ours, and nobody else knows it yet.
        unsafe { mem::copy_raw(to, window_ptr(from.phys()), PAGE_SIZE) };
    }

    /// Gives up the references, without releasing them: the physical address.
    pub(in super::super) fn into_raw(self) -> u64 {
        let phys = self.pfn << 12;
        core::mem::forget(self);
        phys
    }

    /// Takes over the references a page-table entry held.
    ///
    /// # Safety
    /// They were given up by [`HugeFrame::into_raw`] (or [`share`]) with the same address, and are taken once.
    pub(in super::super) unsafe fn from_raw(phys: u64) -> Self {
        Self { pfn: phys >> 12 }
    }
}

/// Whether each of the frames at `phys` has one reference only.
pub(in super::super) fn is_exclusive(phys: u64) -> bool {
    let pfn = phys >> 12;
    (pfn..pfn + HUGE_PAGES as u64).all(|p| meta::meta(p).refs.load(Ordering::Acquire) == 1)
}

/// Adds a reference to each of the frames at `phys`, for another page-table entry.
pub(in super::super) fn share(phys: u64) {
    let pfn = phys >> 12;
    for p in pfn..pfn + HUGE_PAGES as u64 {
        let before = meta::meta(p).refs.fetch_add(1, Ordering::Relaxed);
        assert!(before < u32::MAX / 2, "frame references overflow");
    }
}

impl Drop for HugeFrame {
    fn drop(&mut self) {
        if !is_exclusive(self.pfn << 12) {
            for p in self.pfn..self.pfn + HUGE_PAGES as u64 {
                // SAFETY: one reference to each frame is ours, and is dropped here once.
                drop(unsafe { Frame::from_raw(p << 12, false) });
            }
            return;
        }
        // Nobody else has a reference, so nobody can get one: the block goes back as it came.
        let head = meta::meta(self.pfn);
        let owner = head.owner().load(Ordering::Relaxed);
        for p in self.pfn..self.pfn + HUGE_PAGES as u64 {
            meta::meta(p).set_state(state::NONE);
        }
        head.set_state(state::USED);
        head.order.store(ORDER as u8, Ordering::Relaxed);
        local().user_pages.fetch_sub(HUGE_PAGES as i64, Ordering::Relaxed);
        if owner != 0 {
            uncharge(owner, HUGE_PAGES);
        }
        super::free_block(self.pfn << 12, ORDER);
    }
}
