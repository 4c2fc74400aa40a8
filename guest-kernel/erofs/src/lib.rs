//! EROFS: the on-disk format, and a reader of it for the guest kernel.
//!
//! # What Linux does
//!
//! EROFS (`fs/erofs/` in Linux, `Documentation/filesystems/erofs.rst`) is a read-only file system. A
//! superblock lies at byte 1024. An *inode* has no table: its number (*nid*) is its place, in units of 32
//! bytes from the start of the metadata area. An inode is 32 bytes (*compact*) or 64 bytes (*extended*) and may
//! be followed by its extended attributes and, in the *flat-inline* layout, by the tail of its data. Other
//! data is a run of whole blocks. A directory is a file of blocks, each with an array of 12-byte entries
//! followed by their names, sorted over the whole directory, so that a look-up is a binary search. Attributes
//! that many files share may lie in a *shared* area and be referred to by number.
//!
//! # What we do
//!
//! [`Filesystem`] reads an uncompressed image of 4 KiB blocks through the [`Image`] trait. It holds no state but the
//! superblock and allocates nothing, so any number of CPUs may use one at the same time; caching is the
//! caller's. Compressed, chunked and multi-device images are refused with [`Error::Unsupported`].
//! `ringfence-image` writes images in the same format, using [`format`](mod@format) of this crate.
//!
//! # Invariants
//!
//! An image is hostile input. Nothing here panics, recurses, or loops for longer than the image is
//! large: all arithmetic on numbers from the image is checked, each read goes through
//! [`Image::read_at`], which refuses to leave the image, and an [`Inode`] exists only when its data lies inside
//! the image. What the reader does *not* do is prove the image consistent: a directory that contains itself
//! or entries out of order give odd answers, never unsafe ones.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(test, allow(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod data;
mod dir;
mod error;
pub mod format;
mod image;
mod inode;
mod superblock;
mod xattr;

pub use data::{Extent, SYMLINK_MAX};
pub use dir::{DirEntry, Entry};
pub use error::{Error, Result};
pub use format::{BLOCK_SIZE, FileType};
pub use image::Image;
pub use inode::{Inode, Layout};
pub use superblock::Superblock;
pub use xattr::Xattr;

/// A mounted image.
///
/// `I` is where the bytes are; a shared reference to an [`Image`] is an [`Image`], too.
#[derive(Debug)]
pub struct Filesystem<I> {
    image: I,
    superblock: Superblock,
}

impl<I: Image> Filesystem<I> {
    /// Reads and checks the superblock.
    ///
    /// Fails with [`Error::Corrupt`] when this is not an EROFS image or it is shorter than its superblock
    /// says, and with [`Error::Unsupported`] when it needs something this reader does not have.
    pub fn open(image: I) -> Result<Self> {
        let superblock = Superblock::read(&image)?;
        Ok(Self { image, superblock })
    }

    /// The superblock.
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// The bytes below.
    pub fn image(&self) -> &I {
        &self.image
    }

    /// The inode of the root directory.
    pub fn root(&self) -> Result<Inode> {
        let root = self.inode(self.superblock.root_nid)?;
        if root.file_type() == FileType::Directory {
            Ok(root)
        } else {
            Err(Error::Corrupt("the root is not a directory"))
        }
    }
}
