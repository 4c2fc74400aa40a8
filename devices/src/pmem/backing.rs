//! The host's side of the image: a file, mapped read-only, its size fixed when it is opened.
//!
//! What can happen to the file afterwards:
//!
//! * Replaced by rename or unlinked: we hold the old inode, nothing changes.
//! * Written in place: the guest sees it, as any reader of a shared page cache would. Images are meant to be
//!   immutable; [`Backing::check_intact`] tells after the fact.
//! * Truncated: pages beyond the new end vanish. A guest access to one ends in `KVM_RUN` returning `EFAULT`
//!   (KVM cannot resolve the page), not in a signal. Only a thread of the VMM that reads the mapping itself
//!   would take SIGBUS, so none does: the mapping's address is for KVM, and no safe accessor exists.
//!
//! The region is a multiple of 2 MiB; what lies between the end of the file and the end of the region is an
//! anonymous read-only mapping, so that a driver which probes there reads zeroes instead of faulting.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::ptr;

use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

use super::REGION_ALIGN;

/// Why an image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BackingError {
    /// The file could not be opened.
    #[error("cannot open image {}: {source}", path.display())]
    Open {
        /// The image.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A directory, a socket, a device other than a block device.
    #[error("image {} is not a regular file", path.display())]
    NotAFile {
        /// The image.
        path: PathBuf,
    },
    /// No bytes at all.
    #[error("image {} is empty", path.display())]
    Empty {
        /// The image.
        path: PathBuf,
    },
    /// The file does not fit the address space.
    #[error("image {} of {size} bytes is too large to map: {source}", path.display())]
    Map {
        /// The image.
        path: PathBuf,
        /// Its size.
        size: u64,
        /// Why.
        source: io::Error,
    },
    /// The file changed while it was in use.
    #[error("image {} was {what} while the sandbox was using it; images must not be modified in place", path.display())]
    Changed {
        /// The image.
        path: PathBuf,
        /// What happened.
        what: &'static str,
    },
}

/// A read-only mapping of an image. Unmapped when dropped: keep it as long as the KVM slot exists.
#[derive(Debug)]
pub struct Backing {
    file: File,
    path: PathBuf,
    size: u64,
    modified: (i64, i64),
    region_size: u64,
    /// Start of the region, 2 MiB aligned, inside the reservation.
    region: usize,
    reservation: (usize, usize),
}

impl Backing {
    /// Opens and maps the image at `path`. The file gets a descriptor of our own that nobody else shares.
    pub fn open(path: &Path) -> Result<Self, BackingError> {
        Self::new(Self::open_file(path)?, path)
    }

    /// Opens the image at `path`, to be mapped by this or another process.
    pub fn open_file(path: &Path) -> Result<File, BackingError> {
        // O_NONBLOCK: opening a fifo by mistake must not hang.
        File::options()
            .read(true)
            .custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)
            .map_err(|source| BackingError::Open { path: path.into(), source })
    }

    /// Maps an open image; `path` is what it is called in messages.
    pub fn new(file: File, path: &Path) -> Result<Self, BackingError> {
        let open_error = |source| BackingError::Open { path: path.into(), source };
        let meta = file.metadata().map_err(open_error)?;
        let size = if meta.is_file() {
            meta.len()
        } else if meta.file_type().is_block_device() {
            rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0)).map_err(|e| open_error(e.into()))?
        } else {
            return Err(BackingError::NotAFile { path: path.into() });
        };
        if size == 0 {
            return Err(BackingError::Empty { path: path.into() });
        }
        let map_error = |source| BackingError::Map { path: path.into(), size, source };
        let region_size = size
            .checked_next_multiple_of(REGION_ALIGN)
            .ok_or_else(|| map_error(io::Error::from_raw_os_error(libc::EFBIG)))?;
        let (region, reservation) = map(&file, size, region_size).map_err(map_error)?;
        let modified = (meta.mtime(), meta.mtime_nsec());
        Ok(Self { file, path: path.into(), size, modified, region_size, region, reservation })
    }

    /// Host virtual address of the region, for `KVM_SET_USER_MEMORY_REGION` with `KVM_MEM_READONLY`. 2 MiB
    /// aligned. Do not read through it: see the module's text on truncation.
    pub fn host_address(&self) -> u64 {
        self.region as u64
    }

    /// Length of the region in bytes: the file's size rounded up to [`REGION_ALIGN`].
    pub fn region_size(&self) -> u64 {
        self.region_size
    }

    /// The file's size in bytes when it was opened.
    pub fn file_size(&self) -> u64 {
        self.size
    }

    /// The file, for reading (with `pread`, which reports truncation as an error) and sealing checks.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Is the file still what was opened? Ask when the guest died of `EFAULT`, or at the end.
    pub fn check_intact(&self) -> Result<(), BackingError> {
        let changed = |what| Err(BackingError::Changed { path: self.path.clone(), what });
        let meta =
            self.file.metadata().map_err(|source| BackingError::Open { path: self.path.clone(), source })?;
        if meta.is_file() && meta.len() < self.size {
            changed("truncated")
        } else if meta.is_file() && (meta.mtime(), meta.mtime_nsec()) != self.modified {
            changed("written to")
        } else {
            Ok(())
        }
    }
}

/// Reserves an aligned region and maps the file over its front. Returns the region and the reservation.
fn map(file: &File, size: u64, region_size: u64) -> io::Result<(usize, (usize, usize))> {
    let too_big = || io::Error::from_raw_os_error(libc::EFBIG);
    let len = usize::try_from(region_size).map_err(|_| too_big())?;
    let align = REGION_ALIGN as usize;
    let reserved = len.checked_add(align).ok_or_else(too_big)?;
    // SAFETY: a fresh anonymous mapping at an address of the kernel's choice aliases nothing.
    let base = unsafe {
        mmap_anonymous(ptr::null_mut(), reserved, ProtFlags::READ, MapFlags::PRIVATE | MapFlags::NORESERVE)
    }? as usize;
    let region = base.next_multiple_of(align);
    // SAFETY: [region, region + size) lies inside the reservation made above, which nothing refers to yet, so
    // MAP_FIXED replaces only our own pages. The mapping is read-only and never turned into a reference.
    let mapped = unsafe {
        mmap(region as *mut _, size as usize, ProtFlags::READ, MapFlags::SHARED | MapFlags::FIXED, file, 0)
    };
    if let Err(e) = mapped {
        // SAFETY: the reservation is ours and nothing points into it.
        let _ = unsafe { munmap(base as *mut _, reserved) };
        return Err(e.into());
    }
    Ok((region, (base, reserved)))
}

impl Drop for Backing {
    fn drop(&mut self) {
        // SAFETY: the reservation is ours, and by the type's contract the KVM slot is gone.
        let _ = unsafe { munmap(self.reservation.0 as *mut _, self.reservation.1) };
    }
}
