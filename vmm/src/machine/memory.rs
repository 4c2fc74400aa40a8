//! Guest RAM: one sealed memfd, mapped shared.
//!
//! A memfd rather than anonymous memory, because other processes (a gofer, a snapshot reader) get a part of
//! it by descriptor later, because holes can be punched into it by offset, and because its block count says
//! how much the guest has touched. The size is sealed, so that nobody holding the descriptor can take pages
//! away under us. Over the place of our own kernel the executable's file is mapped (`boot::embedded`).

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SealFlags};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap};

use super::layout;

/// What can go wrong with guest RAM.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the message is the documentation")]
pub enum MemoryError {
    #[error("cannot create the guest's memory: {0}")]
    Create(#[from] rustix::io::Errno),
    #[error("cannot map {0} bytes of guest memory: {1}; give the sandbox less with --memory")]
    Map(u64, vm_memory::mmap::FromRangesError),
}

/// The RAM of one machine.
pub struct Ram {
    /// The mapped regions, by guest physical address.
    pub map: Arc<GuestMemoryMmap>,
    file: File,
    size: u64,
}

impl Ram {
    /// Makes `size` bytes (a multiple of the page size) of zeroed RAM; nothing is touched yet.
    pub fn new(size: u64) -> Result<Self, MemoryError> {
        let fd = rustix::fs::memfd_create("ringfence-ram", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&fd, size)?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let file = File::from(fd);
        let mut offset = 0;
        let mut ranges = Vec::with_capacity(2);
        for (start, len) in layout::ram_ranges(size) {
            let part = file.try_clone().map_err(|_| rustix::io::Errno::MFILE)?;
            ranges.push((GuestAddress(start), len as usize, Some(FileOffset::new(part, offset))));
            offset += len;
        }
        let map = GuestMemoryMmap::from_ranges_with_files(ranges).map_err(|e| MemoryError::Map(size, e))?;
        Ok(Self { map: Arc::new(map), file, size })
    }

    /// Configured size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes of RAM that have a host page behind them, that is, were touched and not given back.
    pub fn touched(&self) -> u64 {
        self.file.metadata().map_or(0, |m| m.blocks() * 512)
    }
}
