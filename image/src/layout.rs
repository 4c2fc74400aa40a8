//! Where metadata goes: the number of each inode and the place of each directory, before a byte is written.
//!
//! The metadata area has first all inodes, each followed by its xattrs and, for directories and symbolic links,
//! by the part of the data that does not fill a block if that fits into the block of the inode (EROFS demands
//! that inline data does not cross one, and Linux that a link is in the block of its inode); then the whole
//! blocks of directories and what did not fit. Inodes come in the order of a walk with sorted names, so the same
//! tree always gives the same bytes.

use ringfence_erofs::format::{
    BLOCK_SIZE, DIRENT_SIZE, EXTENDED_SIZE, LAYOUT_FLAT_INLINE, LAYOUT_FLAT_PLAIN, RawDirent, RawInode,
    SLOT_SIZE, XATTR_ENTRY_SIZE, XATTR_HEADER_SIZE, encode_rdev,
};

use crate::tree::{Id, Inode, Kind, ROOT, Tree, split_xattr, to_path};
use crate::{Error, Result};

const BLOCK: usize = BLOCK_SIZE as usize;

/// nid of the root: not 0, which programs take for "no inode".
pub const ROOT_NID: u16 = 2;

/// Place and form of an inode that some name leads to.
#[derive(Clone, Debug)]
struct Place {
    /// Bytes from the start of the metadata area.
    at: u64,
    /// Names that lead to it; for a directory also `.` and the `..` of its children.
    links: u32,
    /// The directory that holds it; of no meaning for others.
    parent: Id,
    /// Bytes of xattrs.
    xattrs: usize,
    /// Bytes of data after the inode.
    inline: usize,
    /// Whole blocks of data in the second part of the metadata area, and the first of them there.
    blocks: (u32, u32),
    /// Bytes of data of directories and symbolic links.
    size: u64,
}

/// The places of everything.
#[derive(Debug)]
pub struct Layout {
    places: Vec<Option<Place>>,
    /// Inodes by place.
    order: Vec<Id>,
    /// Blocks of the first part, with the inodes.
    inode_blocks: u32,
    /// Blocks of the second part.
    data_blocks: u32,
}

impl Layout {
    /// Finds a place for everything that a name of the tree leads to.
    pub fn new(tree: &Tree) -> Result<Self> {
        let mut layout =
            Self { places: vec![None; tree.len()], order: Vec::new(), inode_blocks: 0, data_blocks: 0 };
        let mut end = u64::from(ROOT_NID) * SLOT_SIZE;
        let mut todo = vec![(ROOT, ROOT)];
        while let Some((id, parent)) = todo.pop() {
            if let Some(place) = &mut layout.places[id] {
                place.links += 1;
                continue;
            }
            let inode = tree.get(id);
            let mut place = Place {
                at: 0,
                links: 1,
                parent,
                xattrs: xattr_size(inode)?,
                inline: 0,
                blocks: (0, 0),
                size: 0,
            };
            match &inode.kind {
                Kind::Directory(entries) => {
                    let subdirs = entries.values().filter(|&&e| is_dir(tree.get(e))).count();
                    place.links = u32::try_from(subdirs + 2).unwrap_or(u32::MAX);
                    let names = sorted(entries.keys().map(|name| (&name[..], ())), (), ());
                    place.size = dir_size(names.iter().map(|(name, ())| name.len()));
                    todo.extend(entries.values().rev().map(|&entry| (entry, id)));
                }
                Kind::Symlink(target) => place.size = target.len() as u64,
                _ => {}
            }
            end = layout.put(&mut place, end)?;
            layout.places[id] = Some(place);
            layout.order.push(id);
        }
        layout.inode_blocks = blocks(end)?;
        Ok(layout)
    }

    /// Chooses the place of an inode at or behind `from`; returns where it ends.
    fn put(&mut self, place: &mut Place, from: u64) -> Result<u64> {
        let head = EXTENDED_SIZE + place.xattrs;
        let tail = (place.size % BLOCK_SIZE) as usize;
        let mut at = from.next_multiple_of(SLOT_SIZE);
        let in_block = |at: u64| (at % BLOCK_SIZE) as usize;
        if in_block(at) + EXTENDED_SIZE > BLOCK {
            at = at.next_multiple_of(BLOCK_SIZE);
        }
        let crosses = |at: u64| in_block(at) + head + tail > BLOCK;
        if tail > 0 && crosses(at) {
            // A new block for it, unless that wastes more than a block of its own for the tail would.
            let fresh = at.next_multiple_of(BLOCK_SIZE);
            if !crosses(fresh) && (fresh - at) + (tail as u64) < BLOCK_SIZE {
                at = fresh;
            }
        }
        place.at = at;
        if tail > 0 && !crosses(at) {
            place.inline = tail;
        }
        let whole = blocks(place.size - place.inline as u64)?;
        place.blocks = (self.data_blocks, whole);
        self.data_blocks = self.data_blocks.checked_add(whole).ok_or(TOO_BIG)?;
        Ok(at + (head + place.inline) as u64)
    }

    /// How many inodes the image has.
    pub fn inodes(&self) -> u64 {
        self.order.len() as u64
    }

    /// Blocks of the whole metadata area.
    pub fn blocks(&self) -> Result<u32> {
        self.inode_blocks.checked_add(self.data_blocks).ok_or(TOO_BIG)
    }

    /// Hands the bytes of the metadata area in order to `out`. `meta_block` is the first block of the area.
    pub fn write(
        &self,
        tree: &Tree,
        meta_block: u32,
        mut out: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let first_data = meta_block.checked_add(self.inode_blocks).ok_or(TOO_BIG)?;
        let mut at = 0u64;
        let zeroes = [0; BLOCK];
        let pad = |at: &mut u64, to: u64, out: &mut dyn FnMut(&[u8]) -> Result<()>| {
            while *at < to {
                let n = (to - *at).min(BLOCK_SIZE);
                out(&zeroes[..n as usize])?;
                *at += n;
            }
            Ok(())
        };
        for (number, &id) in self.order.iter().enumerate() {
            let (inode, place) = (tree.get(id), self.place(id));
            pad(&mut at, place.at, &mut out)?;
            let data = self.data(tree, id);
            let raw = raw_inode(inode, place, number, first_data);
            out(&raw.encode_extended())?;
            out(&xattr_bytes(inode, place.xattrs))?;
            out(&data[data.len() - place.inline..])?;
            at += (EXTENDED_SIZE + place.xattrs + place.inline) as u64;
        }
        pad(&mut at, u64::from(self.inode_blocks) * BLOCK_SIZE, &mut out)?;
        for &id in &self.order {
            let place = self.place(id);
            if place.blocks.1 > 0 {
                let data = self.data(tree, id);
                out(&data[..data.len() - place.inline])?;
                at += (data.len() - place.inline) as u64;
                let end = at.next_multiple_of(BLOCK_SIZE);
                pad(&mut at, end, &mut out)?;
            }
        }
        Ok(())
    }

    fn place(&self, id: Id) -> &Place {
        self.places[id].as_ref().expect("everything that is reached has a place")
    }

    /// Data of a directory or symbolic link; nothing for others.
    fn data(&self, tree: &Tree, id: Id) -> Vec<u8> {
        let inode = tree.get(id);
        match &inode.kind {
            Kind::Symlink(target) => target.to_vec(),
            Kind::Directory(entries) => {
                let all =
                    sorted(entries.iter().map(|(name, &id)| (&name[..], id)), id, self.place(id).parent);
                let dirent = |id: Id| RawDirent {
                    nid: self.place(id).at / SLOT_SIZE,
                    name_offset: 0,
                    file_type: tree.get(id).file_type() as u8,
                };
                dir_bytes(&all.into_iter().map(|(name, id)| (name, dirent(id))).collect::<Vec<_>>())
            }
            _ => Vec::new(),
        }
    }
}

const TOO_BIG: Error = Error::TooBig("an image may have 16 TiB");

fn blocks(bytes: u64) -> Result<u32> {
    u32::try_from(bytes.div_ceil(BLOCK_SIZE)).map_err(|_| TOO_BIG)
}

fn is_dir(inode: &Inode) -> bool {
    matches!(inode.kind, Kind::Directory(_))
}

fn raw_inode(inode: &Inode, place: &Place, number: usize, first_data: u32) -> RawInode {
    let meta = &inode.meta;
    let blocks = if place.blocks.1 > 0 { first_data + place.blocks.0 } else { 0 };
    let (size, start) = match inode.kind {
        Kind::Regular { size, start } => (size, if size > 0 { start } else { 0 }),
        Kind::Device { major, minor, .. } => (0, encode_rdev(major, minor)),
        _ => (place.size, blocks),
    };
    let layout = if place.inline > 0 { LAYOUT_FLAT_INLINE } else { LAYOUT_FLAT_PLAIN };
    let xattr_words = match place.xattrs {
        0 => 0,
        n => 1 + (n - XATTR_HEADER_SIZE) / XATTR_ENTRY_SIZE,
    };
    RawInode {
        format: 1 | layout << 1,
        xattr_count: xattr_words as u16,
        mode: inode.file_type().mode_bits() | (meta.mode & 0o7777),
        size,
        start,
        ino: number as u32 + 1,
        uid: meta.uid,
        gid: meta.gid,
        mtime: meta.mtime,
        mtime_nsec: meta.mtime_nsec,
        nlink: place.links,
    }
}

/// Bytes of xattrs with their header: 0 for none.
fn xattr_size(inode: &Inode) -> Result<usize> {
    let mut size = 0;
    for (name, value) in &inode.meta.xattrs {
        let (_, rest) = split_xattr(name).ok_or_else(|| bad_xattrs(name, "has an unknown prefix"))?;
        if value.len() > usize::from(u16::MAX) {
            return Err(bad_xattrs(name, "is longer than 65535 bytes"));
        }
        size += (XATTR_ENTRY_SIZE + rest.len() + value.len()).next_multiple_of(XATTR_ENTRY_SIZE);
        if size > usize::from(u16::MAX - 1) * XATTR_ENTRY_SIZE {
            return Err(bad_xattrs(name, "is more than fits beside the others of its file (256 KiB)"));
        }
    }
    Ok(if size == 0 { 0 } else { size + XATTR_HEADER_SIZE })
}

fn bad_xattrs(name: &[u8], why: &str) -> Error {
    Error::unfit(&to_path(name), format!("the extended attribute {why}"))
}

fn xattr_bytes(inode: &Inode, size: usize) -> Vec<u8> {
    if size == 0 {
        return Vec::new();
    }
    let mut bytes = vec![0; XATTR_HEADER_SIZE];
    for (name, value) in &inode.meta.xattrs {
        if let Some((index, rest)) = split_xattr(name) {
            bytes.extend([rest.len() as u8, index]);
            bytes.extend((value.len() as u16).to_le_bytes());
            bytes.extend(rest);
            bytes.extend(value);
            bytes.resize(bytes.len().next_multiple_of(XATTR_ENTRY_SIZE), 0);
        }
    }
    debug_assert_eq!(bytes.len(), size);
    bytes
}

/// Names of a directory as EROFS sorts them, with `.` and `..`.
fn sorted<'a, T: Ord + Copy>(
    entries: impl Iterator<Item = (&'a [u8], T)>,
    this: T,
    parent: T,
) -> Vec<(&'a [u8], T)> {
    let mut all: Vec<_> = [(&b"."[..], this), (b"..", parent)].into_iter().chain(entries).collect();
    all.sort_unstable();
    all
}

/// How names of these lengths fill directory blocks: the number of entries and the bytes of each block.
fn fill_blocks(names: impl Iterator<Item = usize>) -> Vec<(usize, usize)> {
    let mut blocks = vec![(0, 0)];
    for len in names {
        let need = DIRENT_SIZE + len;
        match blocks.last_mut() {
            Some((count, bytes)) if *bytes + need <= BLOCK => (*count, *bytes) = (*count + 1, *bytes + need),
            _ => blocks.push((1, need)),
        }
    }
    blocks
}

fn dir_size(names: impl Iterator<Item = usize>) -> u64 {
    let blocks = fill_blocks(names);
    let last = blocks.last().map_or(0, |&(_, bytes)| bytes);
    (blocks.len() as u64 - 1) * BLOCK_SIZE + last as u64
}

/// Bytes of a directory: blocks of entries and their names, all but the last padded with zeroes.
fn dir_bytes(mut entries: &[(&[u8], RawDirent)]) -> Vec<u8> {
    let mut data = Vec::new();
    for (count, _) in fill_blocks(entries.iter().map(|(name, _)| name.len())) {
        let (block, rest) = entries.split_at(count);
        entries = rest;
        data.resize(data.len().next_multiple_of(BLOCK), 0);
        let mut name_offset = count * DIRENT_SIZE;
        for (name, dirent) in block {
            data.extend(RawDirent { name_offset: name_offset as u16, ..*dirent }.encode());
            name_offset += name.len();
        }
        block.iter().for_each(|(name, _)| data.extend_from_slice(name));
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_and_bytes_of_directories_agree() {
        for step in [1, 7, 100, 255] {
            let names: Vec<Vec<u8>> = (0..300).map(|n| format!("{n:0step$}").into_bytes()).collect();
            let entries: Vec<_> = names.iter().map(|name| (&name[..], RawDirent::default())).collect();
            let size = dir_size(names.iter().map(Vec::len));
            assert_eq!(dir_bytes(&entries).len() as u64, size);
        }
    }

    #[test]
    fn inline_data_does_not_cross_blocks() {
        let mut tree = Tree::new();
        for n in 0..500usize {
            let target = vec![b'x'; 1 + n * 8].into();
            let id = tree.add(Inode { meta: Default::default(), kind: Kind::Symlink(target) }).unwrap();
            tree.link(ROOT, format!("{n}").as_bytes(), id, "".as_ref()).unwrap();
        }
        let layout = Layout::new(&tree).unwrap();
        let mut end = 0;
        for &id in &layout.order {
            let place = layout.place(id);
            assert!(place.at >= end && place.at.is_multiple_of(SLOT_SIZE));
            end = place.at + (EXTENDED_SIZE + place.inline) as u64;
            if place.inline > 0 {
                assert_eq!((end - 1) / BLOCK_SIZE, place.at / BLOCK_SIZE);
            }
        }
        let mut written = 0;
        layout
            .write(&tree, 1, |bytes| {
                written += bytes.len();
                Ok(())
            })
            .unwrap();
        assert_eq!(written as u64, u64::from(layout.blocks().unwrap()) * BLOCK_SIZE);
    }
}
