//! Extended attributes of a tmpfs inode.
//!
//! They are kept with the inode once one was changed; until then those of an overlay's inode are its origin's. A few bytes
//! are free, more are charged to the file system as pages.

use alloc::{collections::BTreeMap, vec::Vec};
use core::sync::atomic::Ordering;

use super::TmpInode;
use crate::{
    errno::{Errno, Result},
    fs::{XATTR_LIST_MAX, inode::XattrFlags},
};

/// Bytes of all attribute names and values of an inode (Linux: 128 KiB of `user.` ones on tmpfs).
const XATTR_BYTES_MAX: usize = 128 * 1024;

pub(super) type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

impl TmpInode {
    /// Runs `f` on the attributes, copied from the origin first.
    fn with_xattrs<R>(&self, f: impl FnOnce(&mut Xattrs) -> R) -> Result<R> {
        if self.xattrs.lock().is_none() {
            let copied = self.origin_xattrs()?;
            let mut xattrs = self.xattrs.lock();
            if xattrs.is_none() {
                self.fs.pages.fetch_add(pages_of(Some(&copied)) as u64, Ordering::Relaxed);
                *xattrs = Some(copied);
            }
        }
        Ok(f(self.xattrs.lock().get_or_insert_default()))
    }

    fn origin_xattrs(&self) -> Result<Xattrs> {
        let mut all = Xattrs::new();
        if let Some(origin) = &self.origin {
            for name in origin.list_xattrs()?.split(|b| *b == 0).filter(|n| !n.is_empty()) {
                all.insert(name.to_vec(), origin.get_xattr(name)?);
            }
        }
        Ok(all)
    }

    /// The value of attribute `name`. `ENODATA`.
    pub(super) fn xattr(&self, name: &[u8]) -> Result<Vec<u8>> {
        if self.xattrs.lock().is_none() {
            return match &self.origin {
                Some(origin) => origin.get_xattr(name),
                None => Err(Errno::ENODATA),
            };
        }
        self.with_xattrs(|all| all.get(name).cloned())?.ok_or(Errno::ENODATA)
    }

    /// Sets one, charged for by the page. `EEXIST`, `ENODATA`, `ENOSPC`.
    pub(super) fn put_xattr(&self, name: &[u8], value: &[u8], flags: XattrFlags) -> Result<()> {
        self.with_xattrs(|all| {
            let there = all.contains_key(name);
            if there && flags.contains(XattrFlags::CREATE) {
                return Err(Errno::EEXIST);
            }
            if !there && flags.contains(XattrFlags::REPLACE) {
                return Err(Errno::ENODATA);
            }
            let names: usize = all.keys().map(|k| k.len() + 1).sum();
            let bytes = bytes_of(all) + name.len() + value.len();
            if (!there && names + name.len() + 1 > XATTR_LIST_MAX) || bytes > XATTR_BYTES_MAX {
                return Err(Errno::ENOSPC);
            }
            let before = pages_of(Some(all));
            for _ in before..bytes / 4096 {
                self.fs.charge_page()?;
            }
            all.insert(name.to_vec(), value.to_vec());
            // A replaced value gives back what the charge counted twice.
            self.fs.release_pages((bytes / 4096).max(before) - pages_of(Some(all)));
            Ok(())
        })?
    }

    /// Removes one. `ENODATA`.
    pub(super) fn take_xattr(&self, name: &[u8]) -> Result<()> {
        self.with_xattrs(|all| {
            let before = pages_of(Some(all));
            let removed = all.remove(name).map(|_| ());
            self.fs.release_pages(before - pages_of(Some(all)));
            removed
        })?
        .ok_or(Errno::ENODATA)
    }

    /// All names, each with a NUL after it.
    pub(super) fn xattr_names(&self) -> Result<Vec<u8>> {
        match (&*self.xattrs.lock(), &self.origin) {
            (Some(all), _) => Ok(all.keys().flat_map(|k| k.iter().copied().chain([0])).collect()),
            (None, Some(origin)) => origin.list_xattrs(),
            (None, None) => Ok(Vec::new()),
        }
    }
}

fn bytes_of(all: &Xattrs) -> usize {
    all.iter().map(|(name, value)| name.len() + value.len()).sum()
}

/// Pages the attributes count for; a few bytes are free.
pub(super) fn pages_of(all: Option<&Xattrs>) -> usize {
    all.map_or(0, |all| bytes_of(all) / 4096)
}
