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
    /// call. Any other number is safe and starts at some entry. Ends when `f` breaks. Each block is copied into `buffer` and
    /// looked at there.
    ///
    /// `.` and `..` are passed on as the image has them; newer images may leave out `.`. A file system with
    /// dentries of its own skips both and makes its own.
    pub fn read_dir(
        &self,
        dir: &Inode,
        cookie: u64,
        buffer: &mut [u8; BLOCK_SIZE as usize],
        mut f: impl FnMut(Entry<'_>) -> ControlFlow<()>,
    ) -> Result<()> {
        check_directory(dir)?;
        let mut start = cookie - cookie % BLOCK_SIZE;
        let mut index = (cookie % BLOCK_SIZE).div_ceil(ENTRY);
        while start < dir.size() {
            let bytes = buffer.get_mut(..self.block_len(dir, start) as usize).ok_or(Error::Invalid)?;
            self.read_exact(dir, start, bytes)?;
            let block = Block::new(start, bytes.len() as u64, &raw_dirent_at(bytes, 0)?)?;
            let after = start.checked_add(BLOCK_SIZE).ok_or(Error::Invalid)?;
            while index < block.count {
                let raw = raw_dirent_at(bytes, index)?;
                index += 1;
                let last = index == block.count;
                let (from, to) =
                    block.name(&raw, if last { None } else { Some(raw_dirent_at(bytes, index)?) })?;
                let name = checked_name(bytes.get(from as usize..to as usize).ok_or(BAD_NAME)?, last)?;
                let next = if last { after } else { start + index * ENTRY };
                let file_type = FileType::from_dirent(raw.file_type);
                if f(Entry { name, nid: raw.nid, file_type, next }).is_break() {
                    return Ok(());
                }
            }
            index = 0;
            start = after;
        }
        Ok(())
    }

    fn dir_block(&self, dir: &Inode, start: u64) -> Result<Block> {
        let mut first = [0; DIRENT_SIZE];
        self.read_exact(dir, start, &mut first)?;
        Block::new(start, self.block_len(dir, start), &RawDirent::decode(&first))
    }

    /// Entry `index`, which is below `block.count`, and its name.
    fn dir_entry(&self, dir: &Inode, block: Block, index: u64, name: &mut Name) -> Result<RawDirent> {
        let last = index + 1 == block.count;
        // The next entry tells where this one's name ends: both in one read.
        let mut pair = [0; 2 * DIRENT_SIZE];
        let wanted = if last { pair.get_mut(..DIRENT_SIZE) } else { Some(&mut pair[..]) };
        self.read_exact(dir, block.start + index * ENTRY, wanted.ok_or(BAD_NAME)?)?;
        let raw = raw_dirent_at(&pair, 0)?;
        let (from, to) = block.name(&raw, if last { None } else { Some(raw_dirent_at(&pair, 1)?) })?;
        let piece = name.bytes.get_mut(..(to - from) as usize).ok_or(BAD_NAME)?;
        self.read_exact(dir, block.start + from, piece)?;
        name.len = checked_name(piece, last)?.len();
        Ok(raw)
    }
}

const BAD_NAME: Error = Error::Corrupt("a name in a directory that is empty, too long or out of place");

impl Block {
    /// The block of `len` bytes that begins with `first`.
    fn new(start: u64, len: u64, first: &RawDirent) -> Result<Block> {
        let names = u64::from(first.name_offset);
        if names < ENTRY || names % ENTRY != 0 || names >= len {
            return Err(Error::Corrupt("a directory block whose names start nowhere"));
        }
        Ok(Block { start, len, count: names / ENTRY })
    }

    /// Where in the block the name of `entry` is, before that of `next`. What follows the last one may be padding; of it there is
    /// as much as can be a name and a NUL.
    fn name(&self, entry: &RawDirent, next: Option<RawDirent>) -> Result<(u64, u64)> {
        let from = u64::from(entry.name_offset);
        let to = match next {
            Some(next) => u64::from(next.name_offset),
            None => self.len.min(from + NAME_MAX as u64 + 1),
        };
        if from < self.count * ENTRY || to > self.len || to < from {
            return Err(BAD_NAME);
        }
        Ok((from, to))
    }
}

/// Entry `index` of those at the start of `bytes`.
fn raw_dirent_at(bytes: &[u8], index: u64) -> Result<RawDirent> {
    let raw = bytes.get((index * ENTRY) as usize..).and_then(|rest| rest.first_chunk());
    raw.map(RawDirent::decode).ok_or(Error::Corrupt("a directory ends within an entry"))
}

/// The name in `piece`, which in the last entry of a block ends at a NUL.
fn checked_name(piece: &[u8], last: bool) -> Result<&[u8]> {
    let len = if last { piece.iter().position(|&b| b == 0).unwrap_or(piece.len()) } else { piece.len() };
    let text = piece.get(..len).unwrap_or_default();
    if text.is_empty() || len > NAME_MAX || text.iter().any(|&b| b == 0 || b == b'/') {
        return Err(BAD_NAME);
    }
    Ok(text)
}

fn check_directory(dir: &Inode) -> Result<()> {
    if dir.file_type() == FileType::Directory { Ok(()) } else { Err(Error::NotDirectory) }
}
