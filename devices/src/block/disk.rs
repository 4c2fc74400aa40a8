//! The file behind a disk.
//!
//! What can happen to it while a sandbox uses it:
//!
//! - Replaced by rename, or unlinked: we hold the old inode, nothing changes.
//! - Truncated: a read beyond the new end is short, which is an error of the request. A write there makes the file longer
//!   again, though never longer than it was.
//! - Written by others: the guest sees it, as far as its own cache lets it. The lock keeps other sandboxes from that:
//!   a disk that one may write is nobody else's, a read-only one may be shared. It belongs to the open file description,
//!   so it lasts as long as any process has the descriptor.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, FlockOperation, SeekFrom, fallocate, flock, seek};

use super::SECTOR;
use crate::virtio::chain::Slices;

/// Zeros are written from here, as often as needed.
static ZEROS: [u8; 16384] = [0; 16384];

/// Why a file cannot be a disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The file could not be opened.
    #[error("cannot open disk {}{}: {source}", path.display(), if *read_only { "" } else { " for writing (`,ro` needs only reading)" })]
    Open {
        /// The file.
        path: PathBuf,
        /// For reading only?
        read_only: bool,
        /// Why.
        source: io::Error,
    },
    /// A directory, a socket, a character device.
    #[error("disk {} is neither a regular file nor a block device", path.display())]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// Not a number of sectors.
    #[error("disk {} has {size} bytes, which is no multiple of 512; `truncate -s %512` makes it one", path.display())]
    Size {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
    /// No bytes at all.
    #[error("disk {} is empty; `truncate -s 1G` makes it a disk of 1 GiB", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Somebody else has it.
    #[error("disk {} is in use{}", path.display(), if *read_only { " by a sandbox that may write it" } else { " by another sandbox, or given twice; only `,ro` disks can be shared" })]
    InUse {
        /// The file.
        path: PathBuf,
        /// For reading only?
        read_only: bool,
    },
}

/// An open disk.
#[derive(Debug)]
pub struct Disk {
    file: File,
    sectors: u64,
    read_only: bool,
}

impl Disk {
    /// Opens and locks the file at `path`, to be used by this or another process, with no more rights than needed.
    pub fn open_file(path: &Path, read_only: bool) -> Result<File, DiskError> {
        let open_error = |source| DiskError::Open { path: path.into(), read_only, source };
        // O_NONBLOCK: opening a fifo by mistake must not hang.
        let file = File::options()
            .read(true)
            .write(!read_only)
            .custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)
            .map_err(open_error)?;
        let lock = if read_only {
            FlockOperation::NonBlockingLockShared
        } else {
            FlockOperation::NonBlockingLockExclusive
        };
        match flock(&file, lock) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(DiskError::InUse { path: path.into(), read_only });
            }
            Err(e) => return Err(open_error(e.into())),
        }
        size_of(&file, path)?;
        Ok(file)
    }

    /// A disk of an open file; `path` is what it is called in messages.
    pub fn new(file: File, path: &Path, read_only: bool) -> Result<Self, DiskError> {
        let sectors = size_of(&file, path)? / SECTOR;
        Ok(Self { file, sectors, read_only })
    }

    /// Capacity in units of [`SECTOR`].
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Whether it must not be changed.
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    /// Fills `slices` from byte `offset` on.
    pub(super) fn read(&self, mut offset: u64, slices: &Slices<'_>) -> io::Result<()> {
        for slice in slices {
            let guard = slice.ptr_guard_mut();
            transfer(guard.len(), offset, |done, offset| {
                let at = guard.as_ptr().wrapping_add(done);
                // SAFETY: the rest of the slice is guest RAM whose mapping `slices` borrows; to it no Rust reference
                // exists, so its bytes may change at any time.
                unsafe { libc::pread(self.file.as_raw_fd(), at.cast(), guard.len() - done, offset) }
            })?;
            offset += guard.len() as u64;
        }
        Ok(())
    }

    /// Writes `slices` from byte `offset` on.
    pub(super) fn write(&self, mut offset: u64, slices: &Slices<'_>) -> io::Result<()> {
        for slice in slices {
            let guard = slice.ptr_guard();
            transfer(guard.len(), offset, |done, offset| {
                let at = guard.as_ptr().wrapping_add(done);
                // SAFETY: as above, and the kernel only reads it.
                unsafe { libc::pwrite(self.file.as_raw_fd(), at.cast(), guard.len() - done, offset) }
            })?;
            offset += guard.len() as u64;
        }
        Ok(())
    }

    /// Makes everything written so far durable.
    pub(super) fn flush(&self) -> io::Result<()> {
        Ok(rustix::fs::fdatasync(&self.file)?)
    }

    /// Gives storage back; what is there then nobody promises. A file system that cannot do it is no error.
    pub(super) fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        match fallocate(&self.file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len) {
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Makes a range zeros; with `unmap`, its storage may be given back.
    pub(super) fn zero(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if unmap && fallocate(&self.file, hole, offset, len).is_ok() {
            return Ok(());
        }
        let (mut at, end) = (offset, offset + len);
        while at < end {
            let piece = (end - at).min(ZEROS.len() as u64) as usize;
            self.file.write_all_at(&ZEROS[..piece], at)?;
            at += piece as u64;
        }
        Ok(())
    }
}

/// Calls `call` with what is done and where that is in the file until `len` bytes are moved; the end of the file is an
/// error.
fn transfer(len: usize, offset: u64, call: impl Fn(usize, libc::off_t) -> isize) -> io::Result<()> {
    let mut done = 0;
    while done < len {
        let at = libc::off_t::try_from(offset + done as u64);
        done += match call(done, at.map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?) {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n if n > 0 => n as usize,
            _ => match io::Error::last_os_error() {
                e if e.kind() == io::ErrorKind::Interrupted => 0,
                e => return Err(e),
            },
        };
    }
    Ok(())
}

fn size_of(file: &File, path: &Path) -> Result<u64, DiskError> {
    let open_error = |source| DiskError::Open { path: path.into(), read_only: true, source };
    let meta = file.metadata().map_err(open_error)?;
    let size = if meta.is_file() {
        meta.len()
    } else if meta.file_type().is_block_device() {
        seek(file, SeekFrom::End(0)).map_err(|e| open_error(e.into()))?
    } else {
        return Err(DiskError::NotAFile { path: path.into() });
    };
    match size {
        0 => Err(DiskError::Empty { path: path.into() }),
        _ if !size.is_multiple_of(SECTOR) => Err(DiskError::Size { path: path.into(), size }),
        _ => Ok(size),
    }
}
