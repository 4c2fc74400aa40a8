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
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, FlockOperation, SeekFrom, fallocate, flock, seek};
use smallvec::SmallVec;

use super::SECTOR;
use crate::virtio::chain::Slices;

/// Zeros are written from here, this page as often as needed.
static ZEROS: [u8; 4096] = [0; 4096];
/// Pages of zeros in one call.
const ZERO_PAGES: usize = 64;

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
    pub(super) fn read(&self, offset: u64, slices: &Slices<'_>) -> io::Result<()> {
        let guards: SmallVec<[_; 8]> = slices.iter().map(|slice| slice.ptr_guard_mut()).collect();
        let mut vectors: Vectors = guards
            .iter()
            .map(|guard| libc::iovec { iov_base: guard.as_ptr().cast(), iov_len: guard.len() })
            .collect();
        transfer(&mut vectors, offset, |vectors, count, offset| {
            // SAFETY: each vector is a piece of guest RAM whose mapping `slices` borrows; to it no Rust reference
            // exists, so its bytes may change at any time.
            unsafe { libc::preadv(self.file.as_raw_fd(), vectors, count, offset) }
        })
    }

    /// Writes `slices` from byte `offset` on.
    pub(super) fn write(&self, offset: u64, slices: &Slices<'_>) -> io::Result<()> {
        let guards: SmallVec<[_; 8]> = slices.iter().map(|slice| slice.ptr_guard()).collect();
        let mut vectors: Vectors = guards
            .iter()
            .map(|guard| libc::iovec { iov_base: guard.as_ptr().cast_mut().cast(), iov_len: guard.len() })
            .collect();
        self.write_vectors(&mut vectors, offset)
    }

    fn write_vectors(&self, vectors: &mut Vectors, offset: u64) -> io::Result<()> {
        transfer(vectors, offset, |vectors, count, offset| {
            // SAFETY: the kernel only reads the vectors: guest RAM as above, or our page of zeros.
            unsafe { libc::pwritev(self.file.as_raw_fd(), vectors, count, offset) }
        })
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
            let mut vectors = Vectors::new();
            let mut piece = (end - at).min((ZERO_PAGES * ZEROS.len()) as u64);
            let next = at + piece;
            while piece > 0 {
                let iov_len = piece.min(ZEROS.len() as u64) as usize;
                vectors.push(libc::iovec { iov_base: ZEROS.as_ptr().cast_mut().cast(), iov_len });
                piece -= iov_len as u64;
            }
            self.write_vectors(&mut vectors, at)?;
            at = next;
        }
        Ok(())
    }
}

type Vectors = SmallVec<[libc::iovec; 8]>;

/// Calls `call` until all bytes are moved; the end of the file is an error.
fn transfer(
    vectors: &mut Vectors,
    mut offset: u64,
    call: impl Fn(*const libc::iovec, libc::c_int, libc::off_t) -> isize,
) -> io::Result<()> {
    let mut done = 0;
    while let Some(rest) = vectors.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let at = libc::off_t::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
        let mut moved = match call(rest.as_ptr(), rest.len() as libc::c_int, at) {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n if n > 0 => n as usize,
            _ => match io::Error::last_os_error() {
                e if e.kind() == io::ErrorKind::Interrupted => continue,
                e => return Err(e),
            },
        };
        offset += moved as u64;
        for vector in rest {
            if moved < vector.iov_len {
                vector.iov_base = vector.iov_base.wrapping_byte_add(moved);
                vector.iov_len -= moved;
                break;
            }
            moved -= vector.iov_len;
            done += 1;
        }
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
