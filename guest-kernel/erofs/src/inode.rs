//! Inodes: both sizes become one checked [`Inode`].

use crate::format::{
    BLOCK_SIZE, COMPACT_SIZE, EXTENDED_SIZE, FORMAT_ALL, LAYOUT_FLAT_INLINE, LAYOUT_FLAT_PLAIN, NULL_BLOCK,
    RawInode, SLOT_SIZE, XATTR_ENTRY_SIZE, XATTR_HEADER_SIZE, decode_rdev, le16,
};
use crate::{Error, FileType, Filesystem, Image, Result};

/// Where the data of an inode lies; every place was checked to be inside the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// No data at all: empty, or a device, fifo or socket.
    None,
    /// All zero, without blocks.
    Hole,
    /// Whole blocks from this byte (a multiple of 4096) on. The last one is in the image to its end.
    Plain {
        /// First byte.
        start: u64,
    },
    /// Whole blocks from `start` on for the first `blocks_len` bytes, the rest at `tail`.
    Inline {
        /// First byte of the whole blocks; of no meaning when `blocks_len` is 0.
        start: u64,
        /// Bytes in whole blocks.
        blocks_len: u64,
        /// First byte of the rest, which does not cross a block.
        tail: u64,
    },
}

/// An inode. Only [`Filesystem::inode`] makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inode {
    nid: u64,
    file_type: FileType,
    mode: u16,
    uid: u32,
    gid: u32,
    nlink: u32,
    size: u64,
    mtime: i64,
    mtime_nsec: u32,
    rdev: (u32, u32),
    layout: Layout,
    /// First byte of the xattrs and how many there are, header included.
    xattrs: (u64, u32),
}

impl Inode {
    /// Its number: the key for caches, and what `st_ino` may be (unique in the image).
    pub fn nid(&self) -> u64 {
        self.nid
    }
    /// The type.
    pub fn file_type(&self) -> FileType {
        self.file_type
    }
    /// `st_mode`, with the type bits.
    pub fn mode(&self) -> u16 {
        self.mode
    }
    /// Owner.
    pub fn uid(&self) -> u32 {
        self.uid
    }
    /// Group.
    pub fn gid(&self) -> u32 {
        self.gid
    }
    /// Links.
    pub fn nlink(&self) -> u32 {
        self.nlink
    }
    /// Bytes of data; at most `i64::MAX`. 0 for devices, fifos and sockets.
    pub fn size(&self) -> u64 {
        self.size
    }
    /// Seconds of the modification time (also to be used as access and change time).
    pub fn mtime(&self) -> i64 {
        self.mtime
    }
    /// Nanoseconds of it, below 1,000,000,000.
    pub fn mtime_nsec(&self) -> u32 {
        self.mtime_nsec
    }
    /// (major, minor) of a device; (0, 0) for others.
    pub fn rdev(&self) -> (u32, u32) {
        self.rdev
    }
    /// Where the data is.
    pub fn layout(&self) -> Layout {
        self.layout
    }
    pub(crate) fn xattrs(&self) -> (u64, u32) {
        self.xattrs
    }
}

impl<I: Image> Filesystem<I> {
    /// Reads an inode by number. Any number is safe to ask for.
    pub fn inode(&self, nid: u64) -> Result<Inode> {
        const OUTSIDE: Error = Error::Corrupt("an inode lies outside of the image");
        let sb = self.superblock();
        let at = nid.checked_mul(SLOT_SIZE).and_then(|o| o.checked_add(sb.meta_base)).ok_or(OUTSIDE)?;
        let mut bytes = [0; EXTENDED_SIZE];
        let (compact, rest) = bytes.split_first_chunk_mut::<COMPACT_SIZE>().ok_or(Error::Io)?;
        self.read_metadata(at, compact).map_err(|_| OUTSIDE)?;
        let (mut raw, inode_size) = if RawInode::is_extended(le16(compact, 0)) {
            let second = at.checked_add(COMPACT_SIZE as u64).ok_or(OUTSIDE)?;
            self.read_metadata(second, rest).map_err(|_| OUTSIDE)?;
            (RawInode::decode_extended(&bytes), EXTENDED_SIZE)
        } else {
            let mut raw = RawInode::decode_compact(compact);
            raw.mtime = raw.mtime.saturating_add(sb.epoch);
            raw.mtime_nsec = sb.epoch_nsec;
            (raw, COMPACT_SIZE)
        };
        if raw.format & !FORMAT_ALL != 0 {
            return Err(Error::Unsupported("an inode format newer than this reader"));
        }
        let file_type = FileType::from_mode(raw.mode).ok_or(Error::Corrupt("an inode of no type"))?;
        let xattr_size = match raw.xattr_count {
            0 => 0,
            n => XATTR_HEADER_SIZE as u32 + u32::from(n - 1) * XATTR_ENTRY_SIZE as u32,
        };
        let xattr_at = at.checked_add(inode_size as u64).ok_or(OUTSIDE)?;
        let inline_at = xattr_at.checked_add(u64::from(xattr_size)).ok_or(OUTSIDE)?;
        if inline_at > self.image_bytes() {
            return Err(OUTSIDE);
        }
        let mut rdev = (0, 0);
        match file_type {
            FileType::CharDevice | FileType::BlockDevice => {
                rdev = decode_rdev(raw.start);
                raw.size = 0;
            }
            FileType::Fifo | FileType::Socket => raw.size = 0,
            FileType::Regular | FileType::Directory | FileType::Symlink => {}
        }
        Ok(Inode {
            nid,
            file_type,
            mode: raw.mode,
            uid: raw.uid,
            gid: raw.gid,
            nlink: raw.nlink,
            size: raw.size,
            mtime: raw.mtime,
            mtime_nsec: raw.mtime_nsec.min(999_999_999),
            rdev,
            layout: self.layout(&raw, inline_at)?,
            xattrs: (xattr_at, xattr_size),
        })
    }

    /// Bytes of the image that may be referred to.
    pub(crate) fn image_bytes(&self) -> u64 {
        self.superblock().blocks * BLOCK_SIZE
    }

    /// Reads from the image, not beyond what the superblock says belongs to it.
    pub(crate) fn read_metadata(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        match at.checked_add(buf.len() as u64) {
            Some(end) if end <= self.image_bytes() => self.image().read_at(at, buf),
            _ => Err(Error::Io),
        }
    }

    fn layout(&self, raw: &RawInode, inline_at: u64) -> Result<Layout> {
        const OUTSIDE: Error = Error::Corrupt("the data of a file lies outside of the image");
        if raw.size == 0 {
            return Ok(Layout::None);
        }
        if raw.size > i64::MAX as u64 {
            return Err(Error::Corrupt("a file of more than 2^63 bytes"));
        }
        let inline = match (raw.format >> 1) & 7 {
            LAYOUT_FLAT_PLAIN => false,
            LAYOUT_FLAT_INLINE => true,
            1 | 3 => return Err(Error::Unsupported("compressed files")),
            4 => return Err(Error::Unsupported("chunked files")),
            _ => return Err(Error::Unsupported("a data layout newer than this reader")),
        };
        let blocks = raw.size.div_ceil(BLOCK_SIZE) - u64::from(inline);
        let start = u64::from(raw.start) * BLOCK_SIZE;
        if blocks > 0 {
            if !inline && raw.start == NULL_BLOCK {
                return Ok(Layout::Hole);
            }
            let end = blocks.checked_mul(BLOCK_SIZE).and_then(|n| n.checked_add(start)).ok_or(OUTSIDE)?;
            if end > self.image_bytes() {
                return Err(OUTSIDE);
            }
        }
        if !inline {
            return Ok(Layout::Plain { start });
        }
        let blocks_len = blocks * BLOCK_SIZE;
        let tail_len = raw.size - blocks_len;
        if inline_at % BLOCK_SIZE + tail_len > BLOCK_SIZE {
            return Err(Error::Corrupt("inline data crosses a block"));
        }
        if inline_at.checked_add(tail_len).is_none_or(|end| end > self.image_bytes()) {
            return Err(OUTSIDE);
        }
        Ok(Layout::Inline { start, blocks_len, tail: inline_at })
    }
}
