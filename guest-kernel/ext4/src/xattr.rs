//! Extended attributes: behind the inode's fields, and in a block of their own.

use alloc::vec;
use core::ops::ControlFlow;

use crate::{Bytes, Error, Filesystem, Image, Inode, Result};

const MAGIC: u32 = 0xea02_0000;
/// Of the block: magic number and counts.
const BLOCK_HEADER: usize = 32;
const ENTRY: usize = 16;

impl<I: Image> Filesystem<I> {
    /// Tells the attributes until `f` breaks: prefix, rest of the name, value. ACLs, whose form is another one here, are left
    /// out.
    pub fn xattrs(
        &self,
        inode: &Inode,
        mut f: impl FnMut(&'static [u8], &[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<()> {
        let sb = &self.superblock;
        let begin = 128 + inode.extra;
        if inode.extra > 0 && begin + 4 < sb.inode_size as usize {
            let place = sb.place_of_inode(&self.image, inode.number())?;
            let mut bytes = vec![0; sb.inode_size as usize - begin];
            self.image.read_at(place + begin as u64, &mut bytes)?;
            let entries = bytes.get(4..).unwrap_or_default();
            if bytes.u32_at(0) == MAGIC && tell(entries, 0, &mut f)?.is_break() {
                return Ok(());
            }
        }
        if inode.attributes != 0 {
            let mut bytes = vec![0; sb.block_size as usize];
            self.image.read_at(sb.place_of_block(inode.attributes)?, &mut bytes)?;
            if bytes.u32_at(0) != MAGIC {
                return Err(Error::Corrupt("a block of attributes"));
            }
            let _ = tell(&bytes, BLOCK_HEADER, &mut f)?;
        }
        Ok(())
    }
}

/// The entries from byte `at` of `bytes` on; the places of values count from the beginning of `bytes`.
fn tell(
    bytes: &[u8],
    mut at: usize,
    f: &mut impl FnMut(&'static [u8], &[u8], &[u8]) -> ControlFlow<()>,
) -> Result<ControlFlow<()>> {
    let corrupt = Error::Corrupt("an attribute");
    while bytes.u32_at(at) != 0 {
        let name_len = usize::from(bytes.u8_at(at));
        let (place, len) = (usize::from(bytes.u16_at(at + 2)), bytes.u32_at(at + 8) as usize);
        let name = bytes.get(at + ENTRY..at + ENTRY + name_len).ok_or(corrupt)?;
        if bytes.u32_at(at + 4) != 0 {
            return Err(Error::Unsupported("attributes in inodes"));
        }
        let end = place.checked_add(len).ok_or(corrupt)?;
        let value = if len == 0 { &[][..] } else { bytes.get(place..end).ok_or(corrupt)? };
        if let Some(prefix) = prefix(bytes.u8_at(at + 1))
            && f(prefix, name, value).is_break()
        {
            return Ok(ControlFlow::Break(()));
        }
        at += (ENTRY + name_len).next_multiple_of(4);
    }
    Ok(ControlFlow::Continue(()))
}

fn prefix(index: u8) -> Option<&'static [u8]> {
    Some(match index {
        1 => b"user.",
        4 => b"trusted.",
        6 => b"security.",
        7 => b"system.",
        _ => return None,
    })
}
