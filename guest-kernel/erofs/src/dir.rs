//! Directories: look-up by binary search, and reading in order.
//!
//! A directory is a row of 4 KiB blocks. A block starts with its entries; the first entry's name offset, which
//! is where the entries end, tells how many there are. A name ends where the next one starts; the last name of
//! a block ends at a NUL or the end of the block.

use core::ops::ControlFlow;

use crate::format::{BLOCK_SIZE, DIRENT_SIZE, NAME_MAX, RawDirent};
use crate::{Error, FileType, Filesystem, Image, Inode, Result};

const ENTRY: u64 = DIRENT_SIZE as u64;

/// What a look-up finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// The inode.
    pub nid: u64,
    /// Its type, if the directory knows it.
    pub file_type: Option<FileType>,
}

/// What reading a directory passes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The name: 1 to 255 bytes, without NUL or slash.
    pub name: &'a [u8],
    /// The inode.
    pub nid: u64,
    /// Its type, if the directory knows it.
    pub file_type: Option<FileType>,
    /// Where to go on after this entry; greater than 0.
    pub next: u64,
}

/// A name of the image, copied. One buffer serves a whole search or listing.
struct Name {
    bytes: [u8; NAME_MAX + 1],
    len: usize,
}

impl Name {
    fn new() -> Self {
        Name { bytes: [0; NAME_MAX + 1], len: 0 }
    }

    fn get(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// A block of a directory: where it starts, how long it is, how many entries it has.
#[derive(Clone, Copy)]
struct Block {
    start: u64,
    len: u64,
    count: u64,
}

impl<I: Image> Filesystem<I> {
    /// Finds a name in a directory. `.` and `..` are found if the image has them.
    pub fn lookup(&self, dir: &Inode, name: &[u8]) -> Result<Option<DirEntry>> {
        check_directory(dir)?;
        if name.is_empty() || name.len() > NAME_MAX {
            return Ok(None);
        }
        let mut found = Name::new();
        // The last block whose first name is not greater than the one searched.
        let (mut low, mut high) = (0, dir.size().div_ceil(BLOCK_SIZE));
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            let block = self.dir_block(dir, middle * BLOCK_SIZE)?;
            self.dir_entry(dir, block, 0, &mut found)?;
            if found.get() <= name {
                low = middle;
            } else {
                high = middle;
            }
        }
        if high == 0 {
            return Ok(None);
        }
        let block = self.dir_block(dir, low * BLOCK_SIZE)?;
        let (mut low, mut high) = (0, block.count);
        while low < high {
            let middle = low + (high - low) / 2;
            let raw = self.dir_entry(dir, block, middle, &mut found)?;
            match found.get().cmp(name) {
                core::cmp::Ordering::Less => low = middle + 1,
                core::cmp::Ordering::Greater => high = middle,
                core::cmp::Ordering::Equal => {
                    return Ok(Some(DirEntry {
                        nid: raw.nid,
                        file_type: FileType::from_dirent(raw.file_type),
                    }));
                }
            }
        }
        Ok(None)
    }

    /// Passes the entries of a directory to `f` in order, from `cookie` on: 0, or [`Entry::next`] of an earlier
    /// call. Any other number is safe and starts at some entry. Ends when `f` breaks.
    ///
    /// `.` and `..` are passed on as the image has them; newer images may leave out `.`. A file system with
    /// dentries of its own skips both and makes its own.
    pub fn read_dir(
        &self,
        dir: &Inode,
        cookie: u64,
        mut f: impl FnMut(Entry<'_>) -> ControlFlow<()>,
    ) -> Result<()> {
        check_directory(dir)?;
        let mut start = cookie - cookie % BLOCK_SIZE;
        let mut index = (cookie % BLOCK_SIZE).div_ceil(ENTRY);
        let mut name = Name::new();
        while start < dir.size() {
            let block = self.dir_block(dir, start)?;
            let after = start.checked_add(BLOCK_SIZE).ok_or(Error::Invalid)?;
            while index < block.count {
                let raw = self.dir_entry(dir, block, index, &mut name)?;
                index += 1;
                let next = if index < block.count { start + index * ENTRY } else { after };
                let file_type = FileType::from_dirent(raw.file_type);
                if f(Entry { name: name.get(), nid: raw.nid, file_type, next }).is_break() {
                    return Ok(());
                }
            }
            index = 0;
            start = after;
        }
        Ok(())
    }

    fn dir_block(&self, dir: &Inode, start: u64) -> Result<Block> {
        let len = self.block_len(dir, start);
        let first = self.raw_dirent(dir, start)?;
        let names = u64::from(first.name_offset);
        if names < ENTRY || names % ENTRY != 0 || names >= len {
            return Err(Error::Corrupt("a directory block whose names start nowhere"));
        }
        Ok(Block { start, len, count: names / ENTRY })
    }

    fn raw_dirent(&self, dir: &Inode, at: u64) -> Result<RawDirent> {
        let mut raw = [0; DIRENT_SIZE];
        self.read_exact(dir, at, &mut raw)?;
        Ok(RawDirent::decode(&raw))
    }

    /// Entry `index`, which is below `block.count`, and its name.
    fn dir_entry(&self, dir: &Inode, block: Block, index: u64, name: &mut Name) -> Result<RawDirent> {
        const BAD: Error = Error::Corrupt("a name in a directory that is empty, too long or out of place");
        let at = block.start + index * ENTRY;
        let last = index + 1 == block.count;
        // The next entry tells where this one's name ends: both in one read.
        let mut pair = [0; 2 * DIRENT_SIZE];
        let wanted = if last { pair.get_mut(..DIRENT_SIZE) } else { Some(&mut pair[..]) };
        self.read_exact(dir, at, wanted.ok_or(BAD)?)?;
        let (first, second) = pair.split_first_chunk().ok_or(BAD)?;
        let raw = RawDirent::decode(first);
        let next = RawDirent::decode(second.first_chunk().ok_or(BAD)?);
        let from = u64::from(raw.name_offset);
        let to = if last { block.len } else { u64::from(next.name_offset) };
        if from < block.count * ENTRY || to > block.len {
            return Err(BAD);
        }
        let mut len = usize::try_from(to.checked_sub(from).ok_or(BAD)?).map_err(|_| BAD)?;
        if last {
            // Padding may follow: take what can be a name, then end it at the NUL.
            len = len.min(NAME_MAX + 1);
        }
        let piece = name.bytes.get_mut(..len).ok_or(BAD)?;
        self.read_exact(dir, block.start + from, piece)?;
        if last {
            len = piece.iter().position(|&b| b == 0).unwrap_or(len);
        }
        let text = piece.get(..len).unwrap_or_default();
        if text.is_empty() || len > NAME_MAX || text.iter().any(|&b| b == 0 || b == b'/') {
            return Err(BAD);
        }
        name.len = len;
        Ok(raw)
    }
}

fn check_directory(dir: &Inode) -> Result<()> {
    if dir.file_type() == FileType::Directory { Ok(()) } else { Err(Error::NotDirectory) }
}
