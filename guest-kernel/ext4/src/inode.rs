//! Inodes.

use crate::{Bytes, Error, Filesystem, Image, Result};

const EXTENTS: u32 = 0x8_0000;
const HUGE_FILE: u32 = 0x4_0000;
/// Encrypted, data inline, attribute's value.
const UNSUPPORTED: u32 = 0x800 | 0x1000_0000 | 0x20_0000;
/// The part every inode has.
const SMALL: usize = 128;
/// The part with all fields that are known.
const LARGE: usize = 160;

/// The type of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum FileType {
    Fifo,
    CharDevice,
    Directory,
    BlockDevice,
    Regular,
    Symlink,
    Socket,
}

/// An inode, as it was when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inode {
    number: u32,
    file_type: FileType,
    /// Permission bits, `0o7777`.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Links.
    pub nlink: u16,
    /// Bytes.
    pub size: u64,
    /// What it takes, in units of 512 bytes.
    pub blocks: u64,
    /// Seconds since 1970 and nanoseconds of access, change, modification.
    pub times: [(i64, u32); 3],
    /// Of creation, if it is known.
    pub created: Option<(i64, u32)>,
    flags: u32,
    pub(crate) data: [u8; 60],
    pub(crate) attributes: u64,
    pub(crate) extra: usize,
}

impl Inode {
    /// Its number.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Its type.
    pub fn file_type(&self) -> FileType {
        self.file_type
    }

    /// Major and minor number of a device.
    pub fn device(&self) -> (u32, u32) {
        let (old, new) = (self.data.u32_at(0), self.data.u32_at(4));
        match self.file_type {
            FileType::CharDevice | FileType::BlockDevice if old != 0 => ((old >> 8) & 0xff, old & 0xff),
            FileType::CharDevice | FileType::BlockDevice => {
                ((new >> 8) & 0xfff, (new & 0xff) | ((new >> 12) & 0xf_ff00))
            }
            _ => (0, 0),
        }
    }

    /// Its data is in a tree of extents.
    pub(crate) fn has_extents(&self) -> bool {
        self.flags & EXTENTS != 0
    }

    /// Its text is where others have their blocks.
    pub(crate) fn is_fast_symlink(&self) -> bool {
        self.file_type == FileType::Symlink && !self.has_extents() && self.size < 60
    }
}

impl<I: Image> Filesystem<I> {
    /// Reads inode `number`.
    pub fn inode(&self, number: u32) -> Result<Inode> {
        let place = self.superblock.place_of_inode(&self.image, number)?;
        let mut buf = [0; LARGE];
        let len = (self.superblock.inode_size as usize).min(LARGE);
        self.image.read_at(place, buf.get_mut(..len).unwrap_or_default())?;
        let buf = &buf[..];
        let mode = buf.u16_at(0x0);
        let file_type = match mode >> 12 {
            1 => FileType::Fifo,
            2 => FileType::CharDevice,
            4 => FileType::Directory,
            6 => FileType::BlockDevice,
            8 => FileType::Regular,
            10 => FileType::Symlink,
            12 => FileType::Socket,
            _ => return Err(Error::Corrupt("an inode without a type")),
        };
        let flags = buf.u32_at(0x20);
        if flags & UNSUPPORTED != 0 {
            return Err(Error::Unsupported("a file that is encrypted or in its inode"));
        }
        // Old directories have an ACL where others have the upper half of the size; none was ever that large.
        let size_high = if file_type == FileType::Directory { 0 } else { buf.u32_at(0x6c) };
        let size = u64::from(buf.u32_at(0x4)) | u64::from(size_high) << 32;
        if size > i64::MAX as u64 {
            return Err(Error::Corrupt("the size of a file"));
        }
        let extra = if len > SMALL { usize::from(buf.u16_at(0x80)) } else { 0 };
        let has = |at: usize| SMALL + extra >= at + 4;
        let time = |at: usize, extra_at: usize| {
            let extra = if has(extra_at) { buf.u32_at(extra_at) } else { 0 };
            let sec = i64::from(buf.u32_at(at) as i32) + (i64::from(extra & 3) << 32);
            (sec, (extra >> 2).min(999_999_999))
        };
        let blocks = u64::from(buf.u32_at(0x1c)) | u64::from(buf.u16_at(0x74)) << 32;
        let unit = if flags & HUGE_FILE != 0 { self.superblock.block_size / 512 } else { 1 };
        let mut data = [0; 60];
        data.copy_from_slice(buf.get(0x28..0x64).unwrap_or(&[0; 60]));
        Ok(Inode {
            number,
            file_type,
            mode: mode & 0o7777,
            uid: u32::from(buf.u16_at(0x2)) | u32::from(buf.u16_at(0x78)) << 16,
            gid: u32::from(buf.u16_at(0x18)) | u32::from(buf.u16_at(0x7a)) << 16,
            nlink: buf.u16_at(0x1a),
            size,
            blocks: blocks.saturating_mul(unit),
            times: [time(0x8, 0x8c), time(0xc, 0x84), time(0x10, 0x88)],
            created: has(0x94).then(|| time(0x90, 0x94)),
            flags,
            data,
            attributes: u64::from(buf.u32_at(0x68)) | u64::from(buf.u16_at(0x76)) << 32,
            extra,
        })
    }
}
