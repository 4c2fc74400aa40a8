//! The on-disk format, as in Linux `fs/erofs/erofs_fs.h`: numbers, and records with their encoding.
//!
//! All numbers are little-endian. Only what uncompressed single-device images use is here.

/// log2 of [`BLOCK_SIZE`]; the only block size supported (a page, so that blocks can be mapped).
pub const BLOCK_BITS: u8 = 12;
/// Bytes in a block.
pub const BLOCK_SIZE: u64 = 1 << BLOCK_BITS;
/// The first word of the superblock.
pub const MAGIC: u32 = 0xe0f5_e1e2;
/// Where the superblock starts.
pub const SUPER_OFFSET: u64 = 1024;
/// Bytes in the superblock without extension slots.
pub const SUPER_SIZE: usize = 128;
/// A nid counts units of this many bytes.
pub const SLOT_SIZE: u64 = 32;
/// Bytes in a compact inode.
pub const COMPACT_SIZE: usize = 32;
/// Bytes in an extended inode.
pub const EXTENDED_SIZE: usize = 64;
/// Bytes in a directory entry, without its name.
pub const DIRENT_SIZE: usize = 12;
/// The longest name.
pub const NAME_MAX: usize = 255;
/// A start block that stands for "no blocks: all zero".
pub const NULL_BLOCK: u32 = u32::MAX;

/// The superblock carries a CRC-32C.
pub const COMPAT_SB_CHECKSUM: u32 = 1;
/// Times of extended inodes are modification times.
pub const COMPAT_MTIME: u32 = 2;

/// Bits of `feature_incompat` and what to call them.
pub const INCOMPAT_NAMES: [(u32, &str); 9] = [
    (0x1, "LZ4 compression"),
    (0x2, "compression"),
    (0x4, "chunked files"),
    (0x8, "several devices"),
    (0x10, "compressed tails"),
    (0x20, "packed fragments"),
    (0x40, "long xattr prefixes"),
    (0x80, "48-bit block numbers"),
    (0x100, "compressed metadata"),
];

/// Data in whole blocks.
pub const LAYOUT_FLAT_PLAIN: u16 = 0;
/// Data in whole blocks, and the rest after the inode and its xattrs, in the same block.
pub const LAYOUT_FLAT_INLINE: u16 = 2;
/// Bit 4 of `i_format`: a compact inode with one link (files), or a directory that leaves out `.`.
pub const FORMAT_NLINK_1_OR_NO_DOT: u16 = 1 << 4;
/// The bits of `i_format` that have a meaning.
pub const FORMAT_ALL: u16 = 0x1f;

/// Bytes of the header before the xattrs of an inode.
pub const XATTR_HEADER_SIZE: usize = 12;
/// Bytes of an xattr entry, without name and value.
pub const XATTR_ENTRY_SIZE: usize = 4;
/// Name prefixes of xattrs by index. The ACLs have no rest.
pub const XATTR_PREFIXES: [(u8, &[u8]); 5] = [
    (1, b"user."),
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (4, b"trusted."),
    (6, b"security."),
];

/// Linux `S_IFMT`: the bits of a mode that hold the file type.
pub const S_IFMT: u16 = 0o170_000;

/// The type of a file, as in a directory entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum FileType {
    /// A regular file.
    Regular = 1,
    /// A directory.
    Directory = 2,
    /// A character device.
    CharDevice = 3,
    /// A block device.
    BlockDevice = 4,
    /// A fifo.
    Fifo = 5,
    /// A socket.
    Socket = 6,
    /// A symbolic link.
    Symlink = 7,
}

impl FileType {
    /// From the byte in a directory entry.
    pub fn from_dirent(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Regular,
            2 => Self::Directory,
            3 => Self::CharDevice,
            4 => Self::BlockDevice,
            5 => Self::Fifo,
            6 => Self::Socket,
            7 => Self::Symlink,
            _ => return None,
        })
    }

    /// From an `st_mode`.
    pub fn from_mode(mode: u16) -> Option<Self> {
        Some(match mode & S_IFMT {
            0o100_000 => Self::Regular,
            0o040_000 => Self::Directory,
            0o020_000 => Self::CharDevice,
            0o060_000 => Self::BlockDevice,
            0o010_000 => Self::Fifo,
            0o140_000 => Self::Socket,
            0o120_000 => Self::Symlink,
            _ => return None,
        })
    }

    /// The `S_IFMT` bits of an `st_mode`.
    pub fn mode_bits(self) -> u16 {
        match self {
            Self::Regular => 0o100_000,
            Self::Directory => 0o040_000,
            Self::CharDevice => 0o020_000,
            Self::BlockDevice => 0o060_000,
            Self::Fifo => 0o010_000,
            Self::Socket => 0o140_000,
            Self::Symlink => 0o120_000,
        }
    }

    /// The `d_type` of `getdents64`.
    pub fn d_type(self) -> u8 {
        (self.mode_bits() >> 12) as u8
    }
}

/// Encodes a device number as in an inode (Linux `new_encode_dev`). 12 bits of major, 20 of minor.
pub fn encode_rdev(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xf_ff00) << 12)
}

/// (major, minor) of a device number in an inode.
pub fn decode_rdev(rdev: u32) -> (u32, u32) {
    ((rdev >> 8) & 0xfff, (rdev & 0xff) | ((rdev >> 12) & 0xf_ff00))
}

/// What eight more bits do to a CRC-32C whose low byte is the index.
const CRC32C: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < table.len() {
        let (mut crc, mut bit) = (byte as u32, 0);
        while bit < 8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
            bit += 1;
        }
        #[allow(clippy::indexing_slicing, reason = "at compile time, and `byte` is less than the length")]
        {
            table[byte] = crc;
        }
        byte += 1;
    }
    table
};

/// CRC-32C (Castagnoli) without the final inversion, as the superblock has it; start with `!0`.
pub fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(seed, |crc, &byte| {
        let low = usize::from(crc as u8 ^ byte);
        // Every byte is an index: the default is never taken.
        (crc >> 8) ^ CRC32C.get(low).copied().unwrap_or_default()
    })
}

/// The superblock as on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RawSuperblock {
    /// [`MAGIC`].
    pub magic: u32,
    /// CRC-32C of the block from the superblock on, with this field zero.
    pub checksum: u32,
    /// `COMPAT_*`.
    pub feature_compat: u32,
    /// log2 of the block size.
    pub block_bits: u8,
    /// 16-byte extension slots after the superblock.
    pub ext_slots: u8,
    /// nid of the root directory.
    pub root_nid: u16,
    /// Number of inodes.
    pub inodes: u64,
    /// Modification time of compact inodes, seconds since 1970.
    pub epoch: i64,
    /// Nanoseconds of it.
    pub epoch_nsec: u32,
    /// Length of the image in blocks.
    pub blocks: u32,
    /// First block of the metadata area: nid 0.
    pub meta_block: u32,
    /// First block of the shared xattrs.
    pub xattr_block: u32,
    /// Volume id.
    pub uuid: [u8; 16],
    /// Volume name.
    pub volume_name: [u8; 16],
    /// Features a reader must know.
    pub feature_incompat: u32,
    /// Compression algorithms, or the window of LZ4.
    pub compression: u16,
    /// Further devices.
    pub extra_devices: u16,
    /// log2 of blocks in a directory block.
    pub dir_block_bits: u8,
}

impl RawSuperblock {
    /// Reads the fields.
    pub fn decode(b: &[u8; SUPER_SIZE]) -> Self {
        Self {
            magic: le32(b, 0),
            checksum: le32(b, 4),
            feature_compat: le32(b, 8),
            block_bits: byte(b, 12),
            ext_slots: byte(b, 13),
            root_nid: le16(b, 14),
            inodes: le64(b, 16),
            epoch: le64(b, 24) as i64,
            epoch_nsec: le32(b, 32),
            blocks: le32(b, 36),
            meta_block: le32(b, 40),
            xattr_block: le32(b, 44),
            uuid: bytes(b, 48),
            volume_name: bytes(b, 64),
            feature_incompat: le32(b, 80),
            compression: le16(b, 84),
            extra_devices: le16(b, 86),
            dir_block_bits: byte(b, 90),
        }
    }

    /// Writes the fields.
    pub fn encode(&self) -> [u8; SUPER_SIZE] {
        let mut b = [0; SUPER_SIZE];
        put(&mut b, 0, &self.magic.to_le_bytes());
        put(&mut b, 4, &self.checksum.to_le_bytes());
        put(&mut b, 8, &self.feature_compat.to_le_bytes());
        put(&mut b, 12, &[self.block_bits, self.ext_slots]);
        put(&mut b, 14, &self.root_nid.to_le_bytes());
        put(&mut b, 16, &self.inodes.to_le_bytes());
        put(&mut b, 24, &self.epoch.to_le_bytes());
        put(&mut b, 32, &self.epoch_nsec.to_le_bytes());
        put(&mut b, 36, &self.blocks.to_le_bytes());
        put(&mut b, 40, &self.meta_block.to_le_bytes());
        put(&mut b, 44, &self.xattr_block.to_le_bytes());
        put(&mut b, 48, &self.uuid);
        put(&mut b, 64, &self.volume_name);
        put(&mut b, 80, &self.feature_incompat.to_le_bytes());
        put(&mut b, 84, &self.compression.to_le_bytes());
        put(&mut b, 86, &self.extra_devices.to_le_bytes());
        put(&mut b, 90, &[self.dir_block_bits]);
        b
    }
}

/// An inode as on disk, of either size. Compact inodes have 16-bit owners and links and no time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RawInode {
    /// Bit 0: extended. Bits 1 to 3: layout. Bit 4: [`FORMAT_NLINK_1_OR_NO_DOT`].
    pub format: u16,
    /// Length of the xattrs: 0 for none, else 1 + (bytes after their header) / 4.
    pub xattr_count: u16,
    /// `st_mode`.
    pub mode: u16,
    /// Bytes of data.
    pub size: u64,
    /// First block, or the device number ([`encode_rdev`]).
    pub start: u32,
    /// Inode number for programs that have only 32 bits.
    pub ino: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds of the modification time; relative to the epoch in compact inodes.
    pub mtime: i64,
    /// Nanoseconds.
    pub mtime_nsec: u32,
    /// Links.
    pub nlink: u32,
}

impl RawInode {
    /// Whether these first 2 bytes of an inode are of an extended one.
    pub fn is_extended(format: u16) -> bool {
        format & 1 != 0
    }

    /// Reads a 32-byte inode.
    pub fn decode_compact(b: &[u8; COMPACT_SIZE]) -> Self {
        let format = le16(b, 0);
        let mode = le16(b, 4);
        let one_link =
            format & FORMAT_NLINK_1_OR_NO_DOT != 0 && FileType::from_mode(mode) != Some(FileType::Directory);
        Self {
            format,
            xattr_count: le16(b, 2),
            mode,
            nlink: if one_link { 1 } else { u32::from(le16(b, 6)) },
            size: u64::from(le32(b, 8)),
            mtime: i64::from(le32(b, 12)),
            start: le32(b, 16),
            ino: le32(b, 20),
            uid: u32::from(le16(b, 24)),
            gid: u32::from(le16(b, 26)),
            mtime_nsec: 0,
        }
    }

    /// Reads a 64-byte inode.
    pub fn decode_extended(b: &[u8; EXTENDED_SIZE]) -> Self {
        Self {
            format: le16(b, 0),
            xattr_count: le16(b, 2),
            mode: le16(b, 4),
            size: le64(b, 8),
            start: le32(b, 16),
            ino: le32(b, 20),
            uid: le32(b, 24),
            gid: le32(b, 28),
            mtime: le64(b, 32) as i64,
            mtime_nsec: le32(b, 40),
            nlink: le32(b, 44),
        }
    }

    /// Writes a 64-byte inode; the caller sets bit 0 of `format`.
    pub fn encode_extended(&self) -> [u8; EXTENDED_SIZE] {
        let mut b = [0; EXTENDED_SIZE];
        put(&mut b, 0, &self.format.to_le_bytes());
        put(&mut b, 2, &self.xattr_count.to_le_bytes());
        put(&mut b, 4, &self.mode.to_le_bytes());
        put(&mut b, 8, &self.size.to_le_bytes());
        put(&mut b, 16, &self.start.to_le_bytes());
        put(&mut b, 20, &self.ino.to_le_bytes());
        put(&mut b, 24, &self.uid.to_le_bytes());
        put(&mut b, 28, &self.gid.to_le_bytes());
        put(&mut b, 32, &self.mtime.to_le_bytes());
        put(&mut b, 40, &self.mtime_nsec.to_le_bytes());
        put(&mut b, 44, &self.nlink.to_le_bytes());
        b
    }
}

/// A directory entry as on disk; its name starts at `name_offset` of the block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RawDirent {
    /// The inode.
    pub nid: u64,
    /// Where the name starts, from the start of the block. The first one tells how many entries there are.
    pub name_offset: u16,
    /// [`FileType`], or 0 when not known.
    pub file_type: u8,
}

impl RawDirent {
    /// Reads the fields.
    pub fn decode(b: &[u8; DIRENT_SIZE]) -> Self {
        Self { nid: le64(b, 0), name_offset: le16(b, 8), file_type: byte(b, 10) }
    }

    /// Writes the fields.
    pub fn encode(&self) -> [u8; DIRENT_SIZE] {
        let mut b = [0; DIRENT_SIZE];
        put(&mut b, 0, &self.nid.to_le_bytes());
        put(&mut b, 8, &self.name_offset.to_le_bytes());
        put(&mut b, 10, &[self.file_type]);
        b
    }
}

/// `N` bytes at `at`; zeroes beyond the end, which the constant offsets of this file never reach.
pub(crate) fn bytes<const N: usize>(b: &[u8], at: usize) -> [u8; N] {
    b.get(at..).and_then(|rest| rest.first_chunk::<N>()).copied().unwrap_or([0; N])
}

fn byte(b: &[u8], at: usize) -> u8 {
    b.get(at).copied().unwrap_or(0)
}

pub(crate) fn le16(b: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes(b, at))
}

pub(crate) fn le32(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes(b, at))
}

fn le64(b: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes(b, at))
}

fn put(b: &mut [u8], at: usize, value: &[u8]) {
    if let Some(to) = b.get_mut(at..at.saturating_add(value.len())) {
        to.copy_from_slice(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_a_round_trip() {
        let sb = RawSuperblock {
            magic: MAGIC,
            checksum: 1,
            feature_compat: 2,
            block_bits: 12,
            ext_slots: 3,
            root_nid: 4,
            inodes: 5,
            epoch: -6,
            epoch_nsec: 7,
            blocks: 8,
            meta_block: 9,
            xattr_block: 10,
            uuid: [11; 16],
            volume_name: [12; 16],
            feature_incompat: 13,
            compression: 14,
            extra_devices: 15,
            dir_block_bits: 16,
        };
        assert_eq!(RawSuperblock::decode(&sb.encode()), sb);
        let inode = RawInode {
            format: 1,
            xattr_count: 2,
            mode: 3,
            size: u64::MAX - 4,
            start: 5,
            ino: 6,
            uid: 70_000,
            gid: 80_000,
            mtime: -9,
            mtime_nsec: 10,
            nlink: 11,
        };
        assert_eq!(RawInode::decode_extended(&inode.encode_extended()), inode);
        let dirent = RawDirent { nid: 1 << 40, name_offset: 2, file_type: 3 };
        assert_eq!(RawDirent::decode(&dirent.encode()), dirent);
    }

    #[test]
    fn device_numbers_as_linux_has_them() {
        assert_eq!(encode_rdev(8, 1), 0x801);
        assert_eq!(encode_rdev(0x103, 0x12345), 0x1231_0345);
        assert_eq!(decode_rdev(encode_rdev(0xfff, 0xf_ffff)), (0xfff, 0xf_ffff));
    }

    #[test]
    fn crc32c_of_the_standard_check_string() {
        assert_eq!(!crc32c(!0, b"123456789"), 0xe306_9283);
    }
}
