//! File data: where it is, and copies of it.

use crate::format::BLOCK_SIZE;
use crate::{Error, FileType, Filesystem, Image, Inode, Layout, Result};

/// The longest target of a symbolic link, as Linux's `PATH_MAX` less the final NUL.
pub const SYMLINK_MAX: u64 = 4095;

/// A run of bytes of a file that lies in one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// In the image.
    Data {
        /// Byte of the image.
        at: u64,
        /// Bytes of the file that follow there.
        len: u64,
        /// Whether the pages can be mapped straight from the image: they are whole blocks. Bytes of the last
        /// page behind the end of the file are in the image, too; image writers leave them zero.
        mappable: bool,
    },
    /// Zeroes that the image does not hold.
    Hole {
        /// How many.
        len: u64,
    },
}

impl<I: Image> Filesystem<I> {
    /// Where the bytes of a file from `offset` on are: the longest run. `None` at or behind the end.
    ///
    /// `at` is a multiple of 4096 when `offset` is and the run is mappable.
    pub fn extent(&self, inode: &Inode, offset: u64) -> Option<Extent> {
        let left = inode.size().checked_sub(offset).filter(|&left| left > 0)?;
        match inode.layout() {
            Layout::None => None,
            Layout::Hole => Some(Extent::Hole { len: left }),
            Layout::Plain { start } => Some(Extent::Data { at: start + offset, len: left, mappable: true }),
            Layout::Inline { start, blocks_len, tail } => Some(if offset < blocks_len {
                Extent::Data { at: start + offset, len: blocks_len - offset, mappable: true }
            } else {
                Extent::Data { at: tail + (offset - blocks_len), len: left, mappable: false }
            }),
        }
    }

    /// Copies data of a regular file, directory or symbolic link from `offset` on. Returns how much: less than
    /// `buf` only at the end of the file.
    pub fn read(&self, inode: &Inode, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        let mut at = offset;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let Some(extent) = self.extent(inode, at) else { break };
            let (Extent::Data { len, .. } | Extent::Hole { len }) = extent;
            let n = rest.len().min(usize::try_from(len).unwrap_or(usize::MAX));
            let piece = rest.get_mut(..n).ok_or(Error::Io)?;
            match extent {
                Extent::Data { at, .. } => self.image().read_at(at, piece)?,
                Extent::Hole { .. } => piece.fill(0),
            }
            done += n;
            at += n as u64;
        }
        Ok(done)
    }

    /// The target of a symbolic link, as much as fits in `buf`; [`Inode::size`] tells how long it is.
    pub fn read_link(&self, inode: &Inode, buf: &mut [u8]) -> Result<usize> {
        if inode.file_type() != FileType::Symlink {
            return Err(Error::Invalid);
        }
        if inode.size() == 0 || inode.size() > SYMLINK_MAX {
            return Err(Error::Corrupt("a symbolic link of impossible length"));
        }
        self.read(inode, 0, buf)
    }

    /// Fills all of `buf`, for directories.
    pub(crate) fn read_exact(&self, inode: &Inode, offset: u64, buf: &mut [u8]) -> Result<()> {
        if self.read(inode, offset, buf)? == buf.len() {
            Ok(())
        } else {
            Err(Error::Corrupt("a directory ends within an entry"))
        }
    }

    /// Bytes of the directory block that starts at `block_start`: 4096, fewer in the last one.
    pub(crate) fn block_len(&self, dir: &Inode, block_start: u64) -> u64 {
        dir.size().saturating_sub(block_start).min(BLOCK_SIZE)
    }
}
