//! What can be mapped: the contract between memory management and whoever owns pages.
//!
//! A file mapping shares the very frames that `read` and `write` use, so the two are coherent without
//! any copying back. An object that offers pages implements [`Mappable`]. The open file through which it was
//! mapped is kept with the mapping, but only for `/proc/PID/maps`.

use core::any::Any;

use alloc::sync::Arc;

use ringfence_hal as hal;

use crate::{
    errno::{Errno, Result},
    fs::FileRef,
};

/// A sequence of pages that can be mapped: the page cache of an inode, a shared-memory object, the vDSO.
///
/// # Contract
/// - [`page`](Self::page), [`cached_page`](Self::cached_page) and [`cached_pages`](Self::cached_pages) are called with a spin lock of an
///   [`Mm`](super::Mm) held: they may take the object's own page spin lock, but must not sleep, and must not
///   take any lock that is held over a copy from or to user memory (an inode's mutex): that copy faults and
///   takes the lock of the `Mm`.
/// - The frame of an index stays the same until a truncation drops it, so that all mappings and the
///   `read`/`write` path see the same bytes. A hole is therefore allocated by the first look at it.
/// - A page that has to be read from somewhere is `EAGAIN`; the caller then gives up its locks and calls [`load`](Self::load),
///   which may sleep, and asks again.
/// - Bytes between the end of the object and the end of its last page are zero.
#[allow(clippy::len_without_is_empty)] // an empty object is not special
pub trait Mappable: Any + Send + Sync {
    /// The frame of page `index`. With `write`, the page is about to be written through a shared mapping
    /// (mark it dirty). Errors become SIGBUS, except ENOMEM, which goes to the out-of-memory path, and EAGAIN.
    fn page(&self, index: u64, write: bool) -> Result<hal::Frame>;

    /// Reads page `index`, of which [`page`](Self::page) said `EAGAIN`. Sleeps; `EINTR` if the task is being killed.
    fn load(&self, _index: u64) -> Result<()> {
        Ok(())
    }

    /// The frame of page `index` if it is there without any work (cached, or static memory): used to map
    /// the neighbours of a faulting page.
    fn cached_page(&self, _index: u64) -> Option<hal::Frame> {
        None
    }

    /// The same of the pages from `first` on, which are put into `pages`.
    fn cached_pages(&self, first: u64, pages: &mut [Option<hal::Frame>]) {
        for (index, page) in (first..).zip(pages) {
            *page = self.cached_page(index);
        }
    }

    /// The first index from `index` on that may be cached: what lies between need not be looked at.
    fn next_cached(&self, index: u64) -> Option<u64> {
        Some(index)
    }

    /// Makes bytes `start..end` zero as punching a hole does (`MADV_REMOVE`). May sleep.
    fn punch(&self, _start: u64, _end: u64) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Length in bytes. A touch of a page that lies wholly beyond it is a SIGBUS.
    fn len(&self) -> u64;

    /// Writes back bytes `start..end` (msync). Memory file systems have nothing to do.
    fn sync(&self, _start: u64, _end: u64) -> Result<()> {
        Ok(())
    }

    /// Whether a shared mapping may be made writable now (memfd seals).
    fn may_write_shared(&self) -> Result<()> {
        Ok(())
    }

    /// The list of address spaces to tell about a truncation. Immutable objects have none.
    fn mappers(&self) -> Option<&super::Mappers> {
        None
    }

    /// The name in `/proc/PID/maps` of a mapping without a file, for example `[vdso]`.
    fn label(&self) -> Option<&'static str> {
        None
    }
}

/// Page `index` of `object`, read if it must be. May sleep.
pub fn loaded_page(object: &dyn Mappable, index: u64) -> Result<hal::Frame> {
    loop {
        match object.page(index, false) {
            Err(Errno::EAGAIN) => object.load(index)?,
            found => return found,
        }
    }
}

/// What `mmap` of a file descriptor maps: the pages, and the file that names them.
#[derive(Clone)]
pub struct FileMapping {
    /// The pages.
    pub object: Arc<dyn Mappable>,
    /// The open file, if there is one (there is none for shared anonymous memory).
    pub file: Option<FileRef>,
    /// Whether `PROT_WRITE` of a shared mapping is allowed (the file was opened for writing).
    pub may_write: bool,
    /// Whether `PROT_EXEC` is allowed (the mount is not `noexec`).
    pub may_exec: bool,
}
