//! Shared anonymous memory: what `MAP_SHARED|MAP_ANONYMOUS` and `/dev/zero` map.

use alloc::sync::Arc;

use ringfence_hal::Frame;

use super::{
    Mappable, PAGE_SIZE, PageTree, WORTH_REPORTING,
    charge::{self, Kind},
    commit,
};
use crate::{drivers::balloon, errno::Result};

/// An object of zero pages that lives as long as a mapping refers to it.
pub struct SharedMemory {
    pages: PageTree,
    len: u64,
    /// Pages announced to [`commit`].
    promised: u64,
}

impl SharedMemory {
    /// An object of `len` bytes; pages are made when touched.
    pub fn new(len: u64) -> Arc<Self> {
        Arc::new(SharedMemory { pages: PageTree::new(), len, promised: 0 })
    }

    /// The same, counted as promised memory. ENOMEM if there is not so much to promise.
    pub fn promised(len: u64) -> Result<Arc<Self>> {
        let promised = len.div_ceil(PAGE_SIZE);
        commit::check(promised, 0)?;
        commit::add(promised as i64);
        Ok(Arc::new(SharedMemory { pages: PageTree::new(), len, promised }))
    }

    /// Pages made so far.
    pub fn resident(&self) -> usize {
        self.pages.count()
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        commit::add(-(self.promised as i64));
        if self.pages.count() >= WORTH_REPORTING {
            balloon::memory_freed();
        }
    }
}

impl Mappable for SharedMemory {
    fn page(&self, index: u64, _write: bool) -> Result<Frame> {
        self.pages.get_or_insert_with(index, || Ok(charge::zeroed(Kind::Shared)?))
    }

    fn cached_page(&self, index: u64) -> Option<Frame> {
        self.pages.get(index)
    }

    fn cached_pages(&self, first: u64, pages: &mut [Option<Frame>]) {
        self.pages.get_many(first, pages);
    }

    fn next_cached(&self, index: u64) -> Option<u64> {
        self.pages.next_present(index)
    }

    /// Clears the pages that are there. They stay, because mappings have them.
    fn punch(&self, start: u64, end: u64) -> Result<()> {
        let mut index = start / PAGE_SIZE;
        while let Some(found) = self.pages.next_present(index).filter(|found| *found < end / PAGE_SIZE) {
            if let Some(frame) = self.pages.get(found) {
                frame.zero(0..PAGE_SIZE as usize);
            }
            index = found + 1;
        }
        Ok(())
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn label(&self) -> Option<&'static str> {
        Some("/dev/zero (deleted)")
    }
}
