//! [`Frame`]: a counted reference to a page.

use super::super::layout::window_ptr;
use super::super::local::local;
use super::super::{mem, user};
use super::meta::{self, Meta};
use super::{free_page, take};
use crate::{OutOfMemory, PAGE_SIZE, UserFault};
use core::ops::Range;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// In [`Frame::bits`]: a page of a static region, which is not counted.
const STATIC: u64 = 1 << 63;

/// One reference to a 4 KiB page of RAM, or a page of a static physical region (pmem), which has no count.
///
/// The page may be mapped by user code or written by the host at any time, so its bytes are only copied.
#[derive(Debug)]
pub struct Frame {
    /// The frame number, with [`STATIC`].
    bits: u64,
}

impl Frame {
    /// A new page of zeroes.
    pub fn alloc_zeroed() -> Result<Self, OutOfMemory> {
        let (pfn, dirty) = take(true).ok_or(OutOfMemory)?;
        let frame = Self::count_new(pfn);
        if dirty {
            // SAFETY: nobody else has the frame yet.
            unsafe { mem::clear_pages(frame.ptr(), PAGE_SIZE) };
        }
        Ok(frame)
    }

    /// A new page with the content of another.
    pub fn alloc_copy(from: &Frame) -> Result<Self, OutOfMemory> {
        let (pfn, _) = take(true).ok_or(OutOfMemory)?;
        let frame = Self::count_new(pfn);
        // SAFETY: both pages are mapped in the window; the new one is ours.
        unsafe { mem::copy_raw(frame.ptr(), from.ptr(), PAGE_SIZE) };
        Ok(frame)
    }

    fn count_new(pfn: u64) -> Self {
        let m = meta::meta(pfn);
        m.refs.store(1, Ordering::Relaxed);
        m.owner().store(0, Ordering::Relaxed);
        local().user_pages.fetch_add(1, Ordering::Relaxed);
        Self { bits: pfn }
    }

    /// A page of a region that is mapped in the window for good.
    pub(in super::super) fn of_static(phys: u64) -> Self {
        Self { bits: phys >> 12 | STATIC }
    }

    /// Takes over the reference a page-table entry held.
    ///
    /// # Safety
    /// The reference was given up by [`Frame::into_raw`] with the same values, and is taken once.
    pub(in super::super) unsafe fn from_raw(phys: u64, is_static: bool) -> Self {
        Self { bits: phys >> 12 | if is_static { STATIC } else { 0 } }
    }

    /// Gives up the reference, without releasing it: the physical address, and whether it is static.
    pub(in super::super) fn into_raw(self) -> (u64, bool) {
        let raw = (self.phys(), self.is_static());
        core::mem::forget(self);
        raw
    }

    fn meta(&self) -> &'static Meta {
        meta::meta(self.bits)
    }

    pub(in super::super) fn phys(&self) -> u64 {
        (self.bits & !STATIC) << 12
    }

    fn ptr(&self) -> *mut u8 {
        window_ptr(self.phys())
    }

    /// The page frame number: physical address / 4096.
    pub fn pfn(&self) -> u64 {
        self.bits & !STATIC
    }

    /// References to the page, mappings included. A static page always says 2: it is never the caller's own.
    pub fn ref_count(&self) -> usize {
        if self.is_static() { 2 } else { self.meta().refs.load(Ordering::Acquire) as usize }
    }

    /// Notes who is charged for the page, 0 for nobody: what [`super::on_uncharge`]'s hook is told when the last
    /// reference goes. Only for a page of RAM that nobody else knows yet.
    pub fn set_owner(&self, owner: u32) {
        assert!(!self.is_static(), "a static page belongs to nobody");
        self.meta().owner().store(owner, Ordering::Relaxed);
    }

    /// Who is charged for the page; 0 for nobody.
    pub fn owner(&self) -> u32 {
        if self.is_static() { 0 } else { self.meta().owner().load(Ordering::Relaxed) }
    }

    /// Is it a page of a static region? Such a page is read-only.
    pub fn is_static(&self) -> bool {
        self.bits & STATIC != 0
    }

    /// A pointer to `len` bytes at `off`.
    ///
    /// # Panics
    /// If the range leaves the page.
    fn at(&self, off: usize, len: usize) -> *mut u8 {
        assert!(off <= PAGE_SIZE && len <= PAGE_SIZE - off, "range outside a page");
        self.ptr().wrapping_add(off)
    }

    fn at_mut(&self, off: usize, len: usize) -> *mut u8 {
        assert!(!self.is_static(), "write to a static page");
        self.at(off, len)
    }

    /// Copies bytes out of the page.
    ///
    /// # Panics
    /// If the range leaves the page (also for the methods below).
    pub fn read(&self, off: usize, buf: &mut [u8]) {
        // SAFETY: `at` checked the range; `buf` is ours.
        unsafe { mem::copy_raw(buf.as_mut_ptr(), self.at(off, buf.len()), buf.len()) };
    }

    /// Copies bytes into the page, which must not be static.
    pub fn write(&self, off: usize, buf: &[u8]) {
        // SAFETY: as above; the page has no invariants.
        unsafe { mem::copy_raw(self.at_mut(off, buf.len()), buf.as_ptr(), buf.len()) };
    }

    /// Clears bytes of the page, which must not be static.
    pub fn zero(&self, range: Range<usize>) {
        let len = range.len();
        // SAFETY: as above.
        unsafe { core::ptr::write_bytes(self.at_mut(range.start, len), 0, len) };
    }

    /// Copies bytes of the page to user memory.
    pub fn copy_to_user(&self, off: usize, user: u64, len: usize) -> Result<(), UserFault> {
        // SAFETY: `at` checked the range.
        unsafe { user::copy_out_raw(user, self.at(off, len), len) }
    }

    /// Copies user memory into the page, which must not be static.
    pub fn copy_from_user(&self, off: usize, user: u64, len: usize) -> Result<(), UserFault> {
        // SAFETY: as above.
        unsafe { user::copy_in_raw(self.at_mut(off, len), user, len) }
    }

    fn word32(&self, off: usize) -> &AtomicU32 {
        assert!(off.is_multiple_of(4));
        // SAFETY: in the page, aligned; all other accesses of kernel, user and device are data of the same kind.
        unsafe { &*self.at(off, 4).cast::<AtomicU32>() }
    }

    fn word64(&self, off: usize) -> &AtomicU64 {
        assert!(off.is_multiple_of(8));
        // SAFETY: as above.
        unsafe { &*self.at(off, 8).cast::<AtomicU64>() }
    }

    /// Atomically loads an aligned word (sequentially consistent, as the methods below).
    pub fn load_u32(&self, off: usize) -> u32 {
        self.word32(off).load(Ordering::SeqCst)
    }

    /// Atomically loads an aligned double word.
    pub fn load_u64(&self, off: usize) -> u64 {
        self.word64(off).load(Ordering::SeqCst)
    }

    /// Atomically stores an aligned word; the page must not be static.
    pub fn store_u32(&self, off: usize, v: u32) {
        assert!(!self.is_static(), "write to a static page");
        self.word32(off).store(v, Ordering::SeqCst);
    }

    /// Compare and exchange; the page must not be static. `Err` is the value found.
    pub fn cmpxchg_u32(&self, off: usize, old: u32, new: u32) -> Result<u32, u32> {
        assert!(!self.is_static(), "write to a static page");
        self.word32(off).compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst)
    }
}

impl Clone for Frame {
    fn clone(&self) -> Self {
        if !self.is_static() {
            let before = self.meta().refs.fetch_add(1, Ordering::Relaxed);
            // Each reference costs memory elsewhere; half the counter's range cannot be reached.
            assert!(before < u32::MAX / 2, "frame references overflow");
        }
        Self { bits: self.bits }
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        if self.is_static() || self.meta().refs.fetch_sub(1, Ordering::Release) != 1 {
            return;
        }
        core::sync::atomic::fence(Ordering::Acquire);
        local().user_pages.fetch_sub(1, Ordering::Relaxed);
        let owner = self.meta().owner().load(Ordering::Relaxed);
        if owner != 0 {
            super::uncharge(owner, 1);
        }
        free_page(self.phys());
    }
}
