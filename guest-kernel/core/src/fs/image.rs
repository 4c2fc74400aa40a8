//! What the readers of images on disks and in memory (`erofs`, `ext4`) share: their crates know nothing of inodes and
//! page caches, and what is made of what they find is the same.

use alloc::{sync::Arc, vec, vec::Vec};
use core::ops::ControlFlow;

use super::{AnonInode, DirEntry, FileType, InodeRef, PATH_MAX};
use crate::{
    errno::Result,
    mm::{PageTree, reclaim},
};

/// Defines `file_type`, from the type of that name of a reader's crate.
macro_rules! file_type_of {
    ($reader:ident) => {
        fn file_type(t: $reader::FileType) -> FileType {
            match t {
                $reader::FileType::Regular => FileType::Regular,
                $reader::FileType::Directory => FileType::Directory,
                $reader::FileType::CharDevice => FileType::CharDevice,
                $reader::FileType::BlockDevice => FileType::BlockDevice,
                $reader::FileType::Fifo => FileType::Fifo,
                $reader::FileType::Socket => FileType::Socket,
                $reader::FileType::Symlink => FileType::Symlink,
            }
        }
    };
}
pub(super) use file_type_of;

/// In place of a root that was there when the image was mounted and is not any more: whoever has the image changed it.
pub(super) fn lost_root() -> InodeRef {
    AnonInode::new(FileType::Directory, 0o500, 0, 0)
}

/// Tells of one entry of a directory, unless it is `.` or `..` or nobody knows what it is.
pub(super) fn tell(
    emit: &mut dyn FnMut(&DirEntry<'_>) -> bool,
    name: &[u8],
    ino: u64,
    next: u64,
    kind: impl FnOnce() -> Option<FileType>,
) -> ControlFlow<()> {
    if matches!(name, b"." | b"..") {
        return ControlFlow::Continue(());
    }
    match kind() {
        Some(kind) if !emit(&DirEntry { name, ino, kind, next }) => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    }
}

/// The text of a symbolic link that is said to be `size` bytes long.
pub(super) fn link_text(size: u64, read: impl FnOnce(&mut [u8]) -> Result) -> Result<Vec<u8>> {
    let mut target = vec![0; usize::try_from(size).unwrap_or(0).min(PATH_MAX - 1)];
    let n = read(&mut target)?;
    target.truncate(n);
    Ok(target)
}

/// A cache of copies of pages that cannot be mapped where they are, announced to reclaim.
pub(super) fn copies() -> Arc<PageTree> {
    let cache = Arc::new(PageTree::new());
    reclaim::add_cache(&cache);
    cache
}
