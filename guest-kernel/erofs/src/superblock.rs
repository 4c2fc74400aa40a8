//! The superblock, checked.

use crate::format::{
    BLOCK_BITS, BLOCK_SIZE, COMPAT_SB_CHECKSUM, INCOMPAT_NAMES, MAGIC, RawSuperblock, SUPER_OFFSET,
    SUPER_SIZE, crc32c,
};
use crate::{Error, Image, Result};

/// What the superblock says, after [`Superblock::read`] has found it acceptable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// nid of the root directory.
    pub root_nid: u64,
    /// Number of inodes.
    pub inodes: u64,
    /// Length of the image in blocks of 4 KiB.
    pub blocks: u64,
    /// Modification time of compact inodes, seconds since 1970.
    pub epoch: i64,
    /// Nanoseconds of it.
    pub epoch_nsec: u32,
    /// Volume id.
    pub uuid: [u8; 16],
    /// Volume name, padded with zeroes.
    pub volume_name: [u8; 16],
    /// Byte at which nid 0 lies.
    pub(crate) meta_base: u64,
    /// Byte at which shared xattr 0 lies.
    pub(crate) xattr_base: u64,
}

impl Superblock {
    /// Reads the superblock of an image and checks everything a reader must not ignore.
    pub fn read<I: Image + ?Sized>(image: &I) -> Result<Self> {
        let mut raw = [0; SUPER_SIZE];
        image.read_at(SUPER_OFFSET, &mut raw).map_err(|_| Error::Corrupt("too short for an EROFS image"))?;
        let sb = RawSuperblock::decode(&raw);
        if sb.magic != MAGIC {
            return Err(Error::Corrupt("not an EROFS image"));
        }
        Self::check_features(&sb)?;
        let blocks = u64::from(sb.blocks);
        if image.len() / BLOCK_SIZE < blocks {
            return Err(Error::Corrupt("the image is cut short"));
        }
        if blocks == 0 || sb.meta_block >= sb.blocks || sb.xattr_block > sb.blocks {
            return Err(Error::Corrupt("superblock out of range"));
        }
        if sb.feature_compat & COMPAT_SB_CHECKSUM != 0 {
            Self::check_sum(image, &sb)?;
        }
        Ok(Self {
            root_nid: u64::from(sb.root_nid),
            inodes: sb.inodes,
            blocks,
            epoch: sb.epoch,
            epoch_nsec: sb.epoch_nsec.min(999_999_999),
            uuid: sb.uuid,
            volume_name: sb.volume_name,
            meta_base: u64::from(sb.meta_block) * BLOCK_SIZE,
            xattr_base: u64::from(sb.xattr_block) * BLOCK_SIZE,
        })
    }

    fn check_features(sb: &RawSuperblock) -> Result<()> {
        if sb.block_bits != BLOCK_BITS {
            return Err(Error::Unsupported("blocks that are not 4096 bytes"));
        }
        let mut unknown = sb.feature_incompat;
        for (bit, name) in INCOMPAT_NAMES {
            if sb.feature_incompat & bit != 0 {
                return Err(Error::Unsupported(name));
            }
            unknown &= !bit;
        }
        if unknown != 0 {
            return Err(Error::Unsupported("a feature newer than this reader"));
        }
        if sb.dir_block_bits != 0 {
            return Err(Error::Unsupported("directory blocks that are not 4096 bytes"));
        }
        Ok(())
    }

    /// The sum goes over the block from the superblock to its end, with the sum itself zero.
    fn check_sum<I: Image + ?Sized>(image: &I, sb: &RawSuperblock) -> Result<()> {
        let mut piece = [0; SUPER_SIZE];
        let mut crc = !0;
        let mut at = SUPER_OFFSET;
        while at < BLOCK_SIZE {
            image.read_at(at, &mut piece)?;
            if at == SUPER_OFFSET
                && let Some(sum) = piece.get_mut(4..8)
            {
                sum.fill(0);
            }
            crc = crc32c(crc, &piece);
            at += SUPER_SIZE as u64;
        }
        if crc == sb.checksum { Ok(()) } else { Err(Error::Corrupt("wrong checksum of the superblock")) }
    }
}
