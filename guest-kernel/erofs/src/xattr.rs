//! Extended attributes, both those after the inode and the shared ones.

use core::ops::ControlFlow;

use crate::format::{NAME_MAX, XATTR_ENTRY_SIZE, XATTR_HEADER_SIZE, XATTR_PREFIXES, bytes, le16, le32};
use crate::{Error, Filesystem, Image, Inode, Result};

const BAD: Error = Error::Corrupt("extended attributes beyond their place");

/// An attribute: the name is copied, the value stays in the image.
#[derive(Clone, Copy, Debug)]
pub struct Xattr {
    prefix: &'static [u8],
    rest: [u8; NAME_MAX],
    rest_len: usize,
    value_at: u64,
    value_len: usize,
}

impl Xattr {
    /// The first part of the name, such as `user.`.
    pub fn prefix(&self) -> &'static [u8] {
        self.prefix
    }

    /// The second part of the name; empty for ACLs.
    pub fn rest(&self) -> &[u8] {
        self.rest.get(..self.rest_len).unwrap_or_default()
    }

    /// Whether this is the name.
    pub fn is_named(&self, name: &[u8]) -> bool {
        name.strip_prefix(self.prefix).is_some_and(|rest| rest == self.rest())
    }

    /// Bytes of the value, at most 65535.
    pub fn value_len(&self) -> usize {
        self.value_len
    }
}

impl<I: Image> Filesystem<I> {
    /// Passes each attribute of an inode to `f` until it breaks. Those with a prefix that Linux has no name for
    /// are left out.
    pub fn xattrs(&self, inode: &Inode, mut f: impl FnMut(&Xattr) -> ControlFlow<()>) -> Result<()> {
        let (start, size) = inode.xattrs();
        if (size as usize) < XATTR_HEADER_SIZE {
            return Ok(());
        }
        let end = start.checked_add(u64::from(size)).ok_or(BAD)?;
        let mut header = [0; XATTR_HEADER_SIZE];
        self.read_metadata(start, &mut header)?;
        let [shared_count] = bytes::<1>(&header, 4);
        let mut at = start + XATTR_HEADER_SIZE as u64;
        for _ in 0..shared_count {
            let mut id = [0; 4];
            let after = at.checked_add(4).filter(|&after| after <= end).ok_or(BAD)?;
            self.read_metadata(at, &mut id)?;
            let shared = self.superblock().xattr_base + u64::from(le32(&id, 0)) * 4;
            if let (Some(xattr), _) = self.xattr_at(shared, self.image_bytes())?
                && f(&xattr).is_break()
            {
                return Ok(());
            }
            at = after;
        }
        while at < end {
            let (xattr, after) = self.xattr_at(at, end)?;
            if let Some(xattr) = xattr
                && f(&xattr).is_break()
            {
                return Ok(());
            }
            at = after;
        }
        Ok(())
    }

    /// Finds an attribute by its whole name.
    pub fn xattr(&self, inode: &Inode, name: &[u8]) -> Result<Option<Xattr>> {
        let mut found = None;
        self.xattrs(inode, |xattr| {
            if xattr.is_named(name) {
                found = Some(*xattr);
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        Ok(found)
    }

    /// Copies the value, as much as fits in `buf`; returns how much.
    pub fn xattr_value(&self, xattr: &Xattr, buf: &mut [u8]) -> Result<usize> {
        let n = buf.len().min(xattr.value_len);
        self.read_metadata(xattr.value_at, buf.get_mut(..n).unwrap_or_default())?;
        Ok(n)
    }

    /// The entry at byte `at`, which must end by `end`; and where the next one starts.
    fn xattr_at(&self, at: u64, end: u64) -> Result<(Option<Xattr>, u64)> {
        let mut entry = [0; XATTR_ENTRY_SIZE];
        self.read_metadata(at, &mut entry).map_err(|_| BAD)?;
        let [rest_len, index] = bytes::<2>(&entry, 0);
        let (rest_len, value_len) = (usize::from(rest_len), usize::from(le16(&entry, 2)));
        let name_at = at.checked_add(XATTR_ENTRY_SIZE as u64).ok_or(BAD)?;
        let value_at = name_at.checked_add(rest_len as u64).ok_or(BAD)?;
        let value_end = value_at.checked_add(value_len as u64).filter(|&to| to <= end).ok_or(BAD)?;
        let next = value_end.next_multiple_of(XATTR_ENTRY_SIZE as u64);
        let Some((_, prefix)) = XATTR_PREFIXES.iter().find(|(known, _)| *known == index) else {
            return Ok((None, next));
        };
        let mut rest = [0; NAME_MAX];
        self.read_metadata(name_at, rest.get_mut(..rest_len).ok_or(BAD)?).map_err(|_| BAD)?;
        Ok((Some(Xattr { prefix, rest, rest_len, value_at, value_len }), next))
    }
}
