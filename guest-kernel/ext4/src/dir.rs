//! Directories: files of entries, none of which crosses a block's end.

use alloc::vec;
use core::ops::ControlFlow;

use crate::{Bytes, Error, FileType, Filesystem, Image, Inode, Result};

/// Inode, length, length of the name, type.
const HEADER: usize = 8;

/// A name in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The name; `.` and `..` are entries, too.
    pub name: &'a [u8],
    /// The inode's number.
    pub inode: u32,
    /// Its type, if the directory says so.
    pub file_type: Option<FileType>,
    /// From where to go on behind this entry.
    pub next: u64,
}

impl<I: Image> Filesystem<I> {
    /// Tells the entries from byte `from` on (0, or some [`Entry::next`]) until `f` breaks.
    pub fn read_dir(
        &self,
        dir: &Inode,
        from: u64,
        mut f: impl FnMut(&Entry<'_>) -> ControlFlow<()>,
    ) -> Result<()> {
        if dir.file_type() != FileType::Directory {
            return Err(Error::NotDirectory);
        }
        let size = self.superblock.block_size;
        let mut block = vec![0; size as usize];
        let mut start = from - from % size;
        while start < dir.size {
            let len = self.read(dir, start, &mut block)?;
            let bytes = block.get(..len).unwrap_or_default();
            let mut at = 0;
            while at + HEADER <= len {
                let (inode, length) = (bytes.u32_at(at), usize::from(bytes.u16_at(at + 4)));
                let name_len = usize::from(bytes.u8_at(at + 6));
                if length < HEADER
                    || !length.is_multiple_of(4)
                    || at + length > len
                    || name_len + HEADER > length
                {
                    return Err(Error::Corrupt("an entry of a directory"));
                }
                let next = start + (at + length) as u64;
                let name = bytes.get(at + HEADER..at + HEADER + name_len).unwrap_or_default();
                let good = inode != 0 && !name.is_empty() && !name.iter().any(|b| matches!(b, 0 | b'/'));
                if good && start + at as u64 >= from {
                    let file_type =
                        self.superblock.has_type().then(|| file_type(bytes.u8_at(at + 7))).flatten();
                    if f(&Entry { name, inode, file_type, next }).is_break() {
                        return Ok(());
                    }
                }
                at += length;
            }
            start += size;
        }
        Ok(())
    }

    /// The inode called `name`.
    pub fn lookup(&self, dir: &Inode, name: &[u8]) -> Result<Option<u32>> {
        let mut found = None;
        self.read_dir(dir, 0, |entry| {
            if entry.name != name {
                return ControlFlow::Continue(());
            }
            found = Some(entry.inode);
            ControlFlow::Break(())
        })?;
        Ok(found)
    }
}

fn file_type(code: u8) -> Option<FileType> {
    Some(match code {
        1 => FileType::Regular,
        2 => FileType::Directory,
        3 => FileType::CharDevice,
        4 => FileType::BlockDevice,
        5 => FileType::Fifo,
        6 => FileType::Socket,
        7 => FileType::Symlink,
        _ => return None,
    })
}
