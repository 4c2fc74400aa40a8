//! Static physical regions: memory the host put beside our RAM, such as a root image.

use super::frames::Frame;
use super::layout::window_ptr;
use super::paging::{self, Caching};
use super::{mem, user};
use crate::{PAGE_SIZE, UserFault};

/// A mapped region, for good. Read-only for us; the host may change the bytes at any time, so they are only copied.
///
/// Offsets beyond the end are bugs in the caller and panic.
#[derive(Clone, Copy, Debug)]
pub struct PhysRegion {
    phys: u64,
    len: usize,
}

impl PhysRegion {
    /// Maps `len` bytes at `phys`, which is page-aligned.
    ///
    /// # Panics
    /// If the range is RAM or not page-aligned, or there is no memory for page tables.
    pub fn map(phys: u64, len: usize) -> Self {
        assert!(phys.is_multiple_of(PAGE_SIZE as u64), "unaligned region");
        let mapped = paging::map_region(phys..phys.saturating_add(len as u64), Caching::ReadOnly);
        assert!(mapped.is_ok(), "region at {phys:#x} cannot be mapped");
        Self { phys, len }
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// No bytes at all?
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn at(&self, off: usize, len: usize) -> *mut u8 {
        assert!(off <= self.len && len <= self.len - off, "range outside the region");
        window_ptr(self.phys + off as u64)
    }

    /// Copies bytes out.
    pub fn read(&self, off: usize, buf: &mut [u8]) {
        // SAFETY: `at` checked the range; every byte is read once.
        unsafe { mem::copy_raw(buf.as_mut_ptr(), self.at(off, buf.len()), buf.len()) };
    }

    /// Copies bytes to user memory.
    pub fn copy_to_user(&self, off: usize, dst: u64, len: usize) -> Result<(), UserFault> {
        // SAFETY: `at` checked the range.
        unsafe { user::copy_out_raw(dst, self.at(off, len), len) }
    }

    /// A page of the region, to be mapped into user space (read-only). The last page may go beyond the end of the region.
    pub fn frame(&self, page: usize) -> Frame {
        let off = page.saturating_mul(PAGE_SIZE);
        assert!(off < self.len, "page outside the region");
        Frame::of_static(self.phys + off as u64)
    }
}
