//! Read-only physical regions (virtio-pmem), from bytes of a test.

use super::frame::Frame;
use super::user;
use super::world::world;
use crate::{PAGE_SIZE, UserFault};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The memory behind a [`PhysRegion`].
pub(super) struct Region {
    pub(super) phys: u64,
    bytes: Vec<u8>,
}

impl Region {
    /// The end is padded with zeroes to a whole page.
    pub(super) fn new(phys: u64, mut bytes: Vec<u8>) -> Self {
        bytes.resize(bytes.len().next_multiple_of(PAGE_SIZE), 0);
        Self { phys, bytes }
    }

    pub(super) fn read(&self, off: usize, buf: &mut [u8]) {
        buf.copy_from_slice(&self.bytes[off..off + buf.len()]);
    }
}

/// A region of physical memory that we only read and that somebody else may change at any time.
///
/// Offsets beyond the end are bugs in the caller and panic.
#[derive(Clone)]
pub struct PhysRegion(Arc<Region>);

impl PhysRegion {
    /// The region at `phys`. On the host it must have been added by
    /// [`World::add_pmem`](super::World::add_pmem).
    ///
    /// # Panics
    /// If there is no memory.
    pub fn map(phys: u64, len: usize) -> Self {
        let region = world().devices.lock().unwrap().pmem.get(&phys).cloned();
        let region = region.filter(|r| r.bytes.len() >= len).expect("no pmem region there: World::add_pmem");
        Self(region)
    }

    /// Bytes, a multiple of the page size.
    pub fn len(&self) -> usize {
        self.0.bytes.len()
    }

    /// No bytes at all?
    pub fn is_empty(&self) -> bool {
        self.0.bytes.is_empty()
    }

    /// Copies out of the region.
    pub fn read(&self, off: usize, buf: &mut [u8]) {
        self.0.read(off, buf);
    }

    /// Copies from the region to memory of the current address space.
    pub fn copy_to_user(&self, off: usize, dst: u64, len: usize) -> Result<(), UserFault> {
        user::copy_out(dst, &self.0.bytes[off..off + len])
    }

    /// A page of the region, for mapping it.
    pub fn frame(&self, page: usize) -> Frame {
        assert!(page < self.len() / PAGE_SIZE, "page {page} is beyond the end of the region");
        Frame::of_region(self.0.clone(), page)
    }
}

/// A region with these bytes at some physical address; the end is padded with zeroes to a whole page.
pub fn phys_region(bytes: Vec<u8>) -> PhysRegion {
    static NEXT: AtomicU64 = AtomicU64::new(1 << 44);
    let len = bytes.len().next_multiple_of(PAGE_SIZE).max(PAGE_SIZE) as u64;
    PhysRegion(Arc::new(Region::new(NEXT.fetch_add(len, Ordering::Relaxed), bytes)))
}
