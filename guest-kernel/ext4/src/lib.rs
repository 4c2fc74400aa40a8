//! A reader of ext2, ext3 and ext4.
//!
//! The format is that of the kernel's `Documentation/filesystems/ext4`. A block is 1, 2 or 4 KiB. Blocks are in groups,
//! each with a table of inodes; the descriptors of all groups follow the superblock. An inode has its data either in a tree
//! of *extents* (ext4) or in a list of blocks with up to three levels of indirection (ext2, ext3). A directory is a file of
//! entries; the hash tree of a large one hides in entries that look unused, so reading them in order finds all names.
//!
//! Read is what Linux would read with `-o ro,noload`: the journal is not replayed. [`Superblock::needs_recovery`] says that
//! one is waiting. Checksums are not verified. Refused as unsupported: inline data, encryption, case folding, external
//! journals, META_BG, values of attributes in inodes of their own.
//!
//! A [`Filesystem`] holds the image and the superblock and caches nothing, so any number of CPUs may use it at the same
//! time; caching is the caller's.
//!
//! # Why not a crate
//!
//! `ext4-view` is the kept one. It counts references by `Rc` and borrows by `RefCell`, so it cannot be shared by CPUs; it
//! asserts and unwraps, and a panic here is the end of the machine; the superblock decides how much it allocates; and it knows
//! paths but no inode numbers, links, devices or attributes.
//!
//! # Invariants
//!
//! An image is hostile input. Nothing here panics or recurses; all arithmetic on numbers from the image is checked; a loop
//! ends with the data it is about; what is allocated is a block at most. A file system that contradicts itself gives odd answers,
//! or [`Error::Corrupt`].
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(test, allow(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic))]

extern crate alloc;

mod data;
mod dir;
mod inode;
mod superblock;
#[cfg(test)]
mod tests;
mod xattr;

use core::fmt;

pub use data::Extent;
pub use dir::Entry;
pub use inode::{FileType, Inode};
pub use superblock::Superblock;

/// The root directory's inode.
pub const ROOT: u32 = 2;
/// Bytes a name has at most.
pub const NAME_MAX: usize = 255;

/// Short for a result with [`Error`].
pub type Result<T> = core::result::Result<T, Error>;

/// Why reading failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The bytes could not be had.
    Io,
    /// There is no such file system there.
    NotExt4,
    /// The image contradicts itself.
    Corrupt(&'static str),
    /// It uses what this reader does not know.
    Unsupported(&'static str),
    /// A directory operation on something else.
    NotDirectory,
    /// The operation does not fit the type of the file.
    Invalid,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io => f.write_str("it cannot be read"),
            Error::NotExt4 => f.write_str("there is no ext2, ext3 or ext4 file system"),
            Error::Corrupt(what) => write!(f, "it is damaged: {what}"),
            Error::Unsupported(what) => write!(f, "it uses what is not supported: {what}"),
            Error::NotDirectory => f.write_str("not a directory"),
            Error::Invalid => f.write_str("not possible for a file of this type"),
        }
    }
}

impl core::error::Error for Error {}

/// Where the bytes are.
pub trait Image {
    /// Bytes there are.
    fn len(&self) -> u64;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `buf` from `offset` on, or fails.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()>;
}

/// A file system in an image.
#[derive(Debug)]
pub struct Filesystem<I> {
    image: I,
    superblock: Superblock,
}

impl<I: Image> Filesystem<I> {
    /// Reads and checks the superblock, and that there is a root directory.
    pub fn open(image: I) -> Result<Self> {
        let superblock = Superblock::read(&image)?;
        let fs = Self { image, superblock };
        if fs.inode(ROOT)?.file_type() != FileType::Directory {
            return Err(Error::Corrupt("the root is no directory"));
        }
        Ok(fs)
    }

    /// The image.
    pub fn image(&self) -> &I {
        &self.image
    }

    /// The superblock.
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }
}

/// Little-endian numbers in bytes; beyond the end is 0, which no check below lets pass where it matters.
trait Bytes {
    fn u8_at(&self, at: usize) -> u8;

    fn u16_at(&self, at: usize) -> u16 {
        u16::from(self.u8_at(at)) | u16::from(self.u8_at(at + 1)) << 8
    }

    fn u32_at(&self, at: usize) -> u32 {
        u32::from(self.u16_at(at)) | u32::from(self.u16_at(at + 2)) << 16
    }
}

impl Bytes for [u8] {
    fn u8_at(&self, at: usize) -> u8 {
        self.get(at).copied().unwrap_or(0)
    }
}
