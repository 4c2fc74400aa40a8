//! Device registers.

use super::layout::window_ptr;
use super::paging::{self, Caching};

/// A mapped window of device registers. Accesses beyond its end, or unaligned ones, are bugs in the caller and panic.
#[derive(Clone)]
pub struct Mmio {
    phys: u64,
    len: usize,
}

macro_rules! access {
    ($($read:ident, $write:ident, $type:ty;)+) => {$(
        /// Reads a register.
        pub fn $read(&self, off: usize) -> $type {
            // SAFETY: `at` checked the range; device registers are no memory of ours.
            unsafe { self.at::<$type>(off).read_volatile() }
        }

        /// Writes a register.
        pub fn $write(&self, off: usize, value: $type) {
            // SAFETY: as above. What a device does with memory is the driver's to get right: it only knows
            // addresses of DMA buffers and frames it owns.
            unsafe { self.at::<$type>(off).write_volatile(value) };
        }
    )+};
}

impl Mmio {
    /// Maps `len` bytes of registers at `phys`, uncached.
    ///
    /// # Panics
    /// If the range is RAM, or there is no memory for page tables.
    pub fn map(phys: u64, len: usize) -> Self {
        let mapped = paging::map_region(phys..phys.saturating_add(len as u64), Caching::Device);
        assert!(mapped.is_ok(), "device registers at {phys:#x} cannot be mapped");
        Self { phys, len }
    }

    /// Bytes in the window.
    pub fn len(&self) -> usize {
        self.len
    }

    /// No bytes at all?
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn at<T>(&self, off: usize) -> *mut T {
        let size = size_of::<T>();
        assert!(
            off.is_multiple_of(size) && off <= self.len && size <= self.len - off,
            "register outside the window"
        );
        window_ptr(self.phys + off as u64)
    }

    access! {
        read8, write8, u8;
        read16, write16, u16;
        read32, write32, u32;
        read64, write64, u64;
    }
}
