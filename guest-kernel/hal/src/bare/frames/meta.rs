//! Sixteen bytes about each page frame.
//!
//! The array covers every frame up to the end of RAM and lies in RAM the VMM gave us zeroed. All-zero means
//! *never used*: only entries of frames that have been in use are ever touched, so an idle sandbox pays for
//! the metadata of the memory it uses, not of the memory it has.
//!
//! Who may touch an entry: the allocator's lock holder while the frame is free; the owner while it is in use.
//! Fields are atomic so that a mistake in that would be a wrong value, not undefined behaviour; `refs` of a
//! [`Frame`](super::Frame) is really shared.

use super::super::layout::window_ptr;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

/// What a frame is.
pub mod state {
    /// Never used, or the inside of a block.
    pub const NONE: u8 = 0;
    /// First frame of a free block.
    pub const FREE: u8 = 1;
    /// In a CPU's cache of free frames.
    pub const CACHED: u8 = 2;
    /// First frame of an allocated block.
    pub const USED: u8 = 3;
}

/// Flags in [`Meta::flags`].
pub mod flag {
    /// Its content is not known to be zero: it has been in use since boot, and not given back as a page of zeroes.
    pub const DIRTY: u8 = 1;
    /// The host backs it: it has been in use since it was last reported free.
    pub const TOUCHED: u8 = 2;
    /// (Head of a free block) the host has nothing there, or has been told that we need nothing.
    pub const REPORTED: u8 = 4;
}

/// About one frame.
#[repr(C)]
pub struct Meta {
    /// References to a frame; entries in use of a page table; the state of a heap slab.
    pub refs: AtomicU32,
    /// Links of the free list (or of the slab list) the frame is in; 0 is the end. Of a [`Frame`](super::Frame):
    /// who is charged for it.
    pub next: AtomicU32,
    /// See `next`. Of a page table: which groups of its entries have been used.
    pub prev: AtomicU32,
    /// One of [`state`].
    pub state: AtomicU8,
    /// Order of the block this frame heads.
    pub order: AtomicU8,
    /// See [`flag`].
    pub flags: AtomicU8,
    _pad: u8,
}

const _: () = assert!(size_of::<Meta>() == 16);

static BASE: AtomicU64 = AtomicU64::new(0);
static COUNT: AtomicU64 = AtomicU64::new(0);

/// Says where the array is: `count` entries at `phys`.
pub fn set(phys: u64, count: u64) {
    BASE.store(phys, Ordering::Relaxed);
    COUNT.store(count, Ordering::Relaxed);
}

/// Frames below this number have metadata.
#[inline]
pub fn count() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

/// The entry of a frame.
#[inline]
pub fn meta(pfn: u64) -> &'static Meta {
    assert!(pfn < count());
    // SAFETY: inside the array, which is mapped for good and all of whose bit patterns are valid.
    unsafe { &*window_ptr::<Meta>(BASE.load(Ordering::Relaxed) + pfn * 16) }
}

impl Meta {
    /// Who is charged for a frame in use.
    #[inline]
    pub fn owner(&self) -> &AtomicU32 {
        &self.next
    }
    #[inline]
    pub fn state(&self) -> u8 {
        self.state.load(Ordering::Relaxed)
    }
    #[inline]
    pub fn set_state(&self, s: u8) {
        self.state.store(s, Ordering::Relaxed);
    }
    #[inline]
    pub fn order(&self) -> usize {
        self.order.load(Ordering::Relaxed).into()
    }
    #[inline]
    pub fn has(&self, f: u8) -> bool {
        self.flags.load(Ordering::Relaxed) & f != 0
    }
    /// Sets and clears flags; the entry must be the caller's.
    #[inline]
    pub fn change(&self, set: u8, clear: u8) {
        let f = self.flags.load(Ordering::Relaxed);
        self.flags.store((f & !clear) | set, Ordering::Relaxed);
    }
}
