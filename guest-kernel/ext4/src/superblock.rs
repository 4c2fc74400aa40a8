//! The superblock, and where inodes are.

use crate::{Bytes, Error, Image, Result};

const AT: u64 = 1024;
const LEN: usize = 1024;
const MAGIC: u16 = 0xef53;

/// Features without which the format cannot be read.
mod incompat {
    pub const FILETYPE: u32 = 0x2;
    pub const RECOVER: u32 = 0x4;
    pub const EXTENTS: u32 = 0x40;
    pub const IS_64BIT: u32 = 0x80;
    pub const MMP: u32 = 0x100;
    pub const FLEX_BG: u32 = 0x200;
    pub const CSUM_SEED: u32 = 0x2000;
    pub const LARGEDIR: u32 = 0x4000;
    /// What of those that are not known has a name.
    pub const UNKNOWN: [(u32, &str); 7] = [
        (0x1, "compression"),
        (0x8, "an external journal"),
        (0x10, "META_BG"),
        (0x400, "attributes in inodes"),
        (0x8000, "inline data"),
        (0x1_0000, "encryption"),
        (0x2_0000, "case folding"),
    ];
}

const KNOWN: u32 = incompat::FILETYPE
    | incompat::RECOVER
    | incompat::EXTENTS
    | incompat::IS_64BIT
    | incompat::MMP
    | incompat::FLEX_BG
    | incompat::CSUM_SEED
    | incompat::LARGEDIR;

/// What the superblock says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Bytes in a block: 1024, 2048 or 4096.
    pub block_size: u64,
    /// Blocks in all.
    pub blocks: u64,
    /// Blocks not in use.
    pub free_blocks: u64,
    /// Inodes in all.
    pub inodes: u32,
    /// Inodes not in use.
    pub free_inodes: u32,
    /// Identity.
    pub uuid: [u8; 16],
    /// There is a journal with changes that are not in their places.
    pub needs_recovery: bool,
    pub(crate) first_block: u64,
    pub(crate) inode_size: u64,
    inodes_per_group: u32,
    descriptor_size: u64,
    has_type: bool,
}

impl Superblock {
    pub(crate) fn read(image: &impl Image) -> Result<Self> {
        let mut buf = [0; LEN];
        image
            .read_at(AT, &mut buf)
            .map_err(|e| if image.len() < AT + LEN as u64 { Error::NotExt4 } else { e })?;
        let buf = &buf[..];
        if buf.u16_at(0x38) != MAGIC {
            return Err(Error::NotExt4);
        }
        let features = buf.u32_at(0x60);
        if features & !KNOWN != 0 {
            let named = incompat::UNKNOWN.iter().find(|(bit, _)| features & bit != 0);
            return Err(Error::Unsupported(named.map_or("an unknown feature", |(_, name)| name)));
        }
        let wide = features & incompat::IS_64BIT != 0;
        let high = |at: usize| if wide { u64::from(buf.u32_at(at)) << 32 } else { 0 };
        let log_size = buf.u32_at(0x18);
        if log_size > 2 {
            return Err(Error::Unsupported("blocks of more than 4 KiB"));
        }
        let block_size = 1024u64 << log_size;
        let blocks = u64::from(buf.u32_at(0x4)) | high(0x150);
        let first_block = u64::from(buf.u32_at(0x14));
        let (blocks_per_group, inodes_per_group) = (buf.u32_at(0x20), buf.u32_at(0x28));
        let in_bitmap = |n: u32| n > 0 && u64::from(n) <= block_size * 8;
        if !in_bitmap(blocks_per_group) || !in_bitmap(inodes_per_group) {
            return Err(Error::Corrupt("the size of a group"));
        }
        if first_block != u64::from(log_size == 0) || blocks <= first_block {
            return Err(Error::Corrupt("the first block"));
        }
        if blocks.checked_mul(block_size).is_none_or(|bytes| bytes > image.len()) {
            return Err(Error::Corrupt("it is larger than the device"));
        }
        let groups = (blocks - first_block).div_ceil(blocks_per_group.into());
        let inodes = buf.u32_at(0x0);
        if u64::from(inodes) > groups.saturating_mul(inodes_per_group.into()) {
            return Err(Error::Corrupt("the number of inodes"));
        }
        let inode_size = if buf.u32_at(0x4c) == 0 { 128 } else { u64::from(buf.u16_at(0x58)) };
        if !inode_size.is_power_of_two() || !(128..=block_size).contains(&inode_size) {
            return Err(Error::Corrupt("the size of inodes"));
        }
        let descriptor_size = if wide { u64::from(buf.u16_at(0xfe)) } else { 32 };
        if !descriptor_size.is_power_of_two() || !(32 << u32::from(wide)..=1024).contains(&descriptor_size) {
            return Err(Error::Corrupt("the size of group descriptors"));
        }
        let mut uuid = [0; 16];
        uuid.copy_from_slice(buf.get(0x68..0x78).unwrap_or(&[0; 16]));
        Ok(Self {
            block_size,
            blocks,
            free_blocks: (u64::from(buf.u32_at(0xc)) | high(0x158)).min(blocks),
            inodes,
            free_inodes: buf.u32_at(0x10).min(inodes),
            uuid,
            needs_recovery: features & incompat::RECOVER != 0,
            first_block,
            inode_size,
            inodes_per_group,
            descriptor_size,
            has_type: features & incompat::FILETYPE != 0,
        })
    }

    /// Whether directories say what type an entry is.
    pub(crate) fn has_type(&self) -> bool {
        self.has_type
    }

    /// The byte that inode `number` begins at.
    pub(crate) fn place_of_inode(&self, image: &impl Image, number: u32) -> Result<u64> {
        let index = number.checked_sub(1).filter(|_| number <= self.inodes);
        let index = index.ok_or(Error::Corrupt("the number of an inode"))?;
        let (group, within) = (index / self.inodes_per_group, index % self.inodes_per_group);
        let descriptor = (self.first_block + 1) * self.block_size + u64::from(group) * self.descriptor_size;
        let mut buf = [0; 64];
        let len = self.descriptor_size.min(64) as usize;
        image.read_at(descriptor, buf.get_mut(..len).unwrap_or_default())?;
        let table = u64::from(buf.u32_at(0x8)) | u64::from(buf.u32_at(0x28)) << 32;
        let place = self.place_of_block(table)?.checked_add(u64::from(within) * self.inode_size);
        place.ok_or(Error::Corrupt("a table of inodes"))
    }

    /// The byte that a block begins at.
    pub(crate) fn place_of_block(&self, block: u64) -> Result<u64> {
        if block < self.first_block || block >= self.blocks {
            return Err(Error::Corrupt("the number of a block"));
        }
        // Below the device's size: it fits.
        Ok(block * self.block_size)
    }
}
