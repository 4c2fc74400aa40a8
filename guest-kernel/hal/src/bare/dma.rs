//! Memory shared with devices.

use super::frames::{self, MAX_ORDER};
use super::layout::window_ptr;
use super::mem;
use crate::OutOfMemory;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

/// Physically contiguous memory that a device may read and write at any time. Zeroed at first.
///
/// Offsets beyond the end, or unaligned for the atomic accesses, are bugs in the caller and panic.
pub struct DmaBuffer {
    phys: u64,
    len: usize,
    order: usize,
}

macro_rules! atomic {
    ($($load:ident, $store:ident, $type:ty, $atomic:ty;)+) => {$(
        /// Loads, with acquire ordering.
        pub fn $load(&self, off: usize) -> $type {
            assert!(off.is_multiple_of(size_of::<$type>()), "unaligned");
            // SAFETY: in the buffer and aligned; all of its accesses are atomic or opaque copies.
            unsafe { &*self.at(off, size_of::<$type>()).cast::<$atomic>() }.load(Ordering::Acquire)
        }

        /// Stores, with release ordering.
        pub fn $store(&self, off: usize, value: $type) {
            assert!(off.is_multiple_of(size_of::<$type>()), "unaligned");
            // SAFETY: as above.
            unsafe { &*self.at(off, size_of::<$type>()).cast::<$atomic>() }.store(value, Ordering::Release);
        }
    )+};
}

impl DmaBuffer {
    /// Allocates `len` bytes, page-aligned; at most 16 MiB.
    pub fn alloc(len: usize) -> Result<Self, OutOfMemory> {
        let order = len.div_ceil(4096).next_power_of_two().ilog2() as usize;
        if order > MAX_ORDER {
            return Err(OutOfMemory);
        }
        let phys = frames::alloc_block(order, true, false).ok_or(OutOfMemory)?;
        Ok(Self { phys, len, order })
    }

    /// Physical address.
    pub fn phys(&self) -> u64 {
        self.phys
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
        assert!(off <= self.len && len <= self.len - off, "range outside the buffer");
        window_ptr(self.phys + off as u64)
    }

    /// Copies bytes out.
    pub fn read(&self, off: usize, buf: &mut [u8]) {
        // SAFETY: `at` checked the range; the device may change the bytes meanwhile, and we read each once.
        unsafe { mem::copy_raw(buf.as_mut_ptr(), self.at(off, buf.len()), buf.len()) };
    }

    /// Copies bytes in.
    pub fn write(&self, off: usize, buf: &[u8]) {
        // SAFETY: as above.
        unsafe { mem::copy_raw(self.at(off, buf.len()), buf.as_ptr(), buf.len()) };
    }

    atomic! {
        load_u8, store_u8, u8, AtomicU8;
        load_u16, store_u16, u16, AtomicU16;
        load_u32, store_u32, u32, AtomicU32;
        load_u64, store_u64, u64, AtomicU64;
    }
}

impl Drop for DmaBuffer {
    /// The driver has taken the buffer back from the device before.
    fn drop(&mut self) {
        frames::free_block(self.phys, self.order);
    }
}
