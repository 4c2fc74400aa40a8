//! Shared anonymous memory: what `MAP_SHARED|MAP_ANONYMOUS` and `/dev/zero` map.

use alloc::sync::Arc;

use ringfence_hal::Frame;

use super::{
    Mappable, PageTree,
    charge::{self, Kind},
};
use crate::errno::Result;

/// An object of zero pages that lives as long as a mapping refers to it.
pub struct SharedMemory {
    pages: PageTree,
    len: u64,
}

impl SharedMemory {
    /// An object of `len` bytes; pages are made when touched.
    pub fn new(len: u64) -> Arc<Self> {
        Arc::new(SharedMemory { pages: PageTree::new(), len })
    }
}

impl Mappable for SharedMemory {
    fn page(&self, index: u64, _write: bool) -> Result<Frame> {
        self.pages.get_or_insert_with(index, || Ok(charge::zeroed(Kind::Shared)?))
    }

    fn cached_page(&self, index: u64) -> Option<Frame> {
        self.pages.get(index)
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn label(&self) -> Option<&'static str> {
        Some("/dev/zero (deleted)")
    }
}
