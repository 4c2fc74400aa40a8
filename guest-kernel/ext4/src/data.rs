//! Where the bytes of a file are, and the bytes.

use crate::{Bytes, Error, FileType, Filesystem, Image, Inode, Result};

const MAGIC: u16 = 0xf30a;
/// Bytes of a header, and of an entry, of a node of the tree.
const ENTRY: usize = 12;
/// Linux's `EXT4_MAX_EXTENT_DEPTH`.
const MAX_DEPTH: u16 = 5;
/// A longer extent is allocated and not written: it reads as zeros.
const MAX_WRITTEN: u32 = 1 << 15;
/// Direct blocks of an inode without extents.
const DIRECT: u64 = 12;

/// Consecutive bytes of a file. At least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// They are in the image, from byte `at` on.
    Data {
        /// Byte of the image.
        at: u64,
        /// How many.
        len: u64,
    },
    /// They are zeros.
    Hole {
        /// How many.
        len: u64,
    },
}

impl Extent {
    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        match *self {
            Extent::Data { len, .. } | Extent::Hole { len } => len,
        }
    }

    /// Never.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A node of the tree: in the inode, or in a block.
#[derive(Clone, Copy)]
enum Node<'a> {
    Root(&'a [u8; 60]),
    Block(u64),
}

impl<I: Image> Filesystem<I> {
    /// What is at byte `offset` of a file with data; `None` at its end.
    pub fn extent(&self, inode: &Inode, offset: u64) -> Result<Option<Extent>> {
        if offset >= inode.size {
            return Ok(None);
        }
        let size = self.superblock.block_size;
        let (block, within) = (offset / size, offset % size);
        let (found, blocks) =
            if inode.has_extents() { self.in_tree(inode, block)? } else { self.in_list(inode, block)? };
        let len = blocks.saturating_mul(size).saturating_sub(within).min(inode.size - offset);
        let Some(first) = found else { return Ok(Some(Extent::Hole { len })) };
        let last = first.checked_add(blocks - 1).ok_or(Error::Corrupt("an extent"))?;
        self.superblock.place_of_block(last)?;
        Ok(Some(Extent::Data { at: self.superblock.place_of_block(first)? + within, len }))
    }

    /// The block of the image that holds a block of the file, and for how many it goes on so; at least one.
    fn in_tree(&self, inode: &Inode, block: u64) -> Result<(Option<u64>, u64)> {
        let block = u32::try_from(block).map_err(|_| Error::Corrupt("a file larger than a tree can hold"))?;
        let mut node = Node::Root(&inode.data);
        let mut depth = None;
        // Where the next subtree, or the end of all, begins.
        let mut limit = 1u64 << 32;
        loop {
            let header = self.node_entry(node, 0)?;
            let (entries, levels) = (usize::from(header.u16_at(2)), header.u16_at(6));
            let room = match node {
                Node::Root(_) => 60 / ENTRY - 1,
                Node::Block(_) => self.superblock.block_size as usize / ENTRY - 1,
            };
            let right_depth =
                depth.map_or(levels <= MAX_DEPTH, |above: u16| above.checked_sub(1) == Some(levels));
            if header.u16_at(0) != MAGIC || entries > room || !right_depth {
                return Err(Error::Corrupt("a node of a tree of extents"));
            }
            depth = Some(levels);
            // The last entry that does not begin behind the block.
            let (mut low, mut high) = (0, entries);
            while low < high {
                let middle = low.midpoint(high);
                let first = self.node_entry(node, middle + 1)?.u32_at(0);
                if first <= block {
                    low = middle + 1;
                } else {
                    high = middle;
                    limit = limit.min(first.into());
                }
            }
            let to_limit = limit.saturating_sub(block.into()).max(1);
            if low == 0 {
                return Ok((None, to_limit));
            }
            let entry = self.node_entry(node, low)?;
            if levels > 0 {
                node = Node::Block(u64::from(entry.u32_at(4)) | u64::from(entry.u16_at(8)) << 32);
                continue;
            }
            let (first, len) = (entry.u32_at(0), u32::from(entry.u16_at(4)));
            let (written, len) = if len <= MAX_WRITTEN { (true, len) } else { (false, len - MAX_WRITTEN) };
            let skipped = block - first;
            if skipped >= len {
                return Ok((None, to_limit));
            }
            let start = u64::from(entry.u32_at(8)) | u64::from(entry.u16_at(6)) << 32;
            return Ok((written.then_some(start + u64::from(skipped)), (len - skipped).into()));
        }
    }

    /// Entry `n` of a node; entry 0 is its header.
    fn node_entry(&self, node: Node<'_>, n: usize) -> Result<[u8; ENTRY]> {
        let mut entry = [0; ENTRY];
        match node {
            Node::Root(data) => {
                entry.copy_from_slice(data.get(n * ENTRY..(n + 1) * ENTRY).ok_or(Error::Corrupt("a node"))?);
            }
            Node::Block(block) => {
                let place = self.superblock.place_of_block(block)?;
                self.image.read_at(place + (n * ENTRY) as u64, &mut entry)?;
            }
        }
        Ok(entry)
    }

    /// As [`Filesystem::in_tree`], of ext2 and ext3.
    fn in_list(&self, inode: &Inode, block: u64) -> Result<(Option<u64>, u64)> {
        let per_block = self.superblock.block_size / 4;
        let (mut index, mut level) = (block, 0u32);
        if block >= DIRECT {
            index -= DIRECT;
            level = 1;
            while index >= per_block.pow(level) {
                index -= per_block.pow(level);
                level += 1;
                if level > 3 {
                    return Err(Error::Corrupt("a file larger than its blocks can be"));
                }
            }
        }
        let slot = if level == 0 { index } else { DIRECT + u64::from(level) - 1 };
        let mut found = inode.data.u32_at(slot as usize * 4);
        while level > 0 && found != 0 {
            level -= 1;
            let below = per_block.pow(level);
            let place = self.superblock.place_of_block(found.into())?;
            let mut pointer = [0; 4];
            self.image.read_at(place + index / below * 4, &mut pointer)?;
            index %= below;
            found = u32::from_le_bytes(pointer);
        }
        // What is missing above the last level is a hole of all below it.
        let len = per_block.pow(level).saturating_sub(index).max(1);
        Ok(if found == 0 { (None, if level == 0 { 1 } else { len }) } else { (Some(found.into()), 1) })
    }

    /// Fills `buf` from byte `offset` of a file on; how many bytes there were.
    pub fn read(&self, inode: &Inode, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = offset.checked_add(done as u64).ok_or(Error::Invalid)?;
            let Some(extent) = self.extent(inode, at)? else { break };
            let n = usize::try_from(extent.len()).unwrap_or(usize::MAX).min(rest.len());
            let part = rest.get_mut(..n).unwrap_or_default();
            match extent {
                Extent::Data { at, .. } => self.image.read_at(at, part)?,
                Extent::Hole { .. } => part.fill(0),
            }
            done += n;
        }
        Ok(done)
    }

    /// Where a symbolic link leads: its first bytes, as many as `buf` holds.
    pub fn read_link(&self, inode: &Inode, buf: &mut [u8]) -> Result<usize> {
        if inode.file_type() != FileType::Symlink {
            return Err(Error::Invalid);
        }
        if !inode.is_fast_symlink() {
            return self.read(inode, 0, buf);
        }
        let n = (inode.size as usize).min(buf.len());
        let text = inode.data.get(..n).ok_or(Error::Corrupt("a symbolic link"))?;
        buf.get_mut(..n).unwrap_or_default().copy_from_slice(text);
        Ok(n)
    }
}
