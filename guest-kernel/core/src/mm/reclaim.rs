//! Giving caches up when memory is short.
//!
//! Linux keeps what it read in the page cache and names in the dentry cache until memory is needed, and shrinks both
//! before it kills anybody. Most of our page cache costs nothing: pages of the root image are mapped straight from the
//! host's memory. What there is:
//!
//! - **clean copies** of pages that can be made again (the tails of EROFS files that are not page-aligned in the
//!   image): a [`PageTree`] that its owner announces by [`add_cache`]. A frame nobody maps or reads just now goes;
//!   a mapped one stays, because there is no reverse map to find its users by;
//! - **dentries and inodes** nobody uses ([`dentry::shrink`]).
//!
//! Files of a tmpfs and shared memory are not caches: there is nowhere to write them to.
//!
//! [`run`] is called by the out-of-memory path before it kills, by a controller whose group is full, and for
//! `/proc/sys/vm/drop_caches`. Locks: none may be held but sleeping ones.

use alloc::{
    sync::{Arc, Weak},
    vec::Vec,
};

use ringfence_hal as hal;

use super::PageTree;
use crate::{drivers::balloon, fs::dentry, sync::SpinLock};

struct Caches {
    list: Vec<Weak<PageTree>>,
    /// When the list has this length, the dead ones are taken out.
    prune_at: usize,
}

static CACHES: SpinLock<Caches> = SpinLock::new(Caches { list: Vec::new(), prune_at: 64 });

/// Announces a cache whose frames can be made again.
pub fn add_cache(cache: &Arc<PageTree>) {
    let mut caches = CACHES.lock();
    if caches.list.len() >= caches.prune_at {
        caches.list.retain(|cache| cache.strong_count() > 0);
        caches.prune_at = (caches.list.len() * 2).max(64);
    }
    caches.list.push(Arc::downgrade(cache));
}

/// Drops the clean pages nobody uses.
pub fn drop_pages() {
    let caches: Vec<Arc<PageTree>> = CACHES.lock().list.iter().filter_map(Weak::upgrade).collect();
    for cache in caches {
        cache.evict_unused();
    }
}

/// Gives up all caches as far as nobody uses them; the number of frames that are free now and were not before.
pub fn run() -> usize {
    let before = hal::frames::stats().free;
    drop_pages();
    dentry::shrink();
    let gained = hal::frames::stats().free.saturating_sub(before);
    if gained > 0 {
        balloon::memory_freed();
    }
    gained
}
