//! Names of a directory: its own, and what shows through from its origin.

use alloc::{collections::BTreeMap, sync::Arc, vec::Vec};
use core::ops::Bound;

use hashbrown::HashMap;

use super::{Shared, TmpInode};
use crate::{
    errno::{Errno, Result},
    fs::inode::{DirEntry, Inode, InodeRef},
    sync::SpinLock,
};

/// Cookies of own names start here if there is an origin; below are the origin's cookies.
const OWN: u64 = 1 << 61;

/// Names copied out of the lock at a time when listing.
const BATCH: usize = 64;

enum Slot {
    /// A name and its place in the order of creation.
    Name(u64, Arc<TmpInode>),
    /// The origin has it, we do not.
    Whiteout,
}

#[derive(Default)]
struct Names {
    slots: HashMap<Arc<[u8]>, Slot>,
    order: BTreeMap<u64, Arc<[u8]>>,
    next: u64,
    /// Removed itself: nothing can be made in it.
    dead: bool,
}

/// Content of a directory.
pub(super) struct DirData {
    names: SpinLock<Names>,
    origin: Option<InodeRef>,
}

impl DirData {
    pub(super) fn new(origin: Option<InodeRef>) -> DirData {
        DirData { names: SpinLock::new(Names::default()), origin }
    }

    /// Own names.
    pub(super) fn len(&self) -> usize {
        self.names.lock().order.len()
    }

    fn origin_has(&self, name: &[u8]) -> bool {
        self.origin.as_ref().is_some_and(|o| o.lookup(name).is_ok())
    }

    /// The inode called `name`. `ENOENT`.
    pub(super) fn lookup(&self, fs: &Arc<Shared>, name: &[u8]) -> Result<Arc<TmpInode>> {
        match self.names.lock().slots.get(name) {
            Some(Slot::Name(_, inode)) => return Ok(inode.clone()),
            Some(Slot::Whiteout) => return Err(Errno::ENOENT),
            None => {}
        }
        Ok(fs.known(self.origin.as_ref().ok_or(Errno::ENOENT)?.lookup(name)?))
    }

    /// Adds a name, which is not there (or whited out). `ENOENT` if the directory itself was removed.
    pub(super) fn insert(&self, name: &[u8], inode: Arc<TmpInode>) -> Result<()> {
        let name: Arc<[u8]> = Arc::from(name);
        let mut names = self.names.lock();
        if names.dead {
            drop(names); // before `inode`
            return Err(Errno::ENOENT);
        }
        let seq = names.next;
        names.next += 1;
        names.order.insert(seq, name.clone());
        let old = names.slots.insert(name, Slot::Name(seq, inode));
        drop(names);
        drop(old);
        Ok(())
    }

    /// Removes a name, own or the origin's.
    pub(super) fn remove(&self, name: &[u8]) {
        let whiteout = self.origin_has(name);
        let mut names = self.names.lock();
        let old = names.slots.remove(name);
        if let Some(Slot::Name(seq, _)) = &old {
            names.order.remove(seq);
        }
        if whiteout {
            names.slots.insert(Arc::from(name), Slot::Whiteout);
        }
        drop(names);
        drop(old);
    }

    /// Whether there is no name, own or the origin's.
    pub(super) fn is_empty(&self) -> Result<bool> {
        if self.len() > 0 {
            return Ok(false);
        }
        let mut empty = true;
        if let Some(origin) = &self.origin {
            origin.readdir(0, &mut |entry| {
                empty = matches!(self.names.lock().slots.get(entry.name), Some(Slot::Whiteout));
                empty
            })?;
        }
        Ok(empty)
    }

    /// Marks it removed.
    pub(super) fn kill(&self) {
        self.names.lock().dead = true;
    }

    /// Lists the origin's names first, whether they still are the origin's or not, then the other own ones:
    /// so each name has one cookie that does not change while a listing goes on.
    pub(super) fn readdir(&self, from: u64, emit: &mut dyn FnMut(&DirEntry<'_>) -> bool) -> Result<()> {
        let base = if self.origin.is_some() { OWN } else { 0 };
        if from < base
            && let Some(origin) = &self.origin
        {
            let mut more = true;
            origin.readdir(from, &mut |entry| {
                let names = self.names.lock();
                // An unchanged directory is the rule: do not even hash.
                let slot = if names.slots.is_empty() { None } else { names.slots.get(entry.name) };
                let entry = match slot {
                    Some(Slot::Whiteout) => return true,
                    Some(Slot::Name(_, inode)) => {
                        DirEntry { ino: inode.number(), kind: inode.kind(), ..*entry }
                    }
                    None => *entry,
                };
                drop(names);
                more = emit(&entry);
                more
            })?;
            if !more {
                return Ok(());
            }
        }
        self.read_own(base, from.max(base) - base, emit)
    }

    fn read_own(&self, base: u64, from: u64, emit: &mut dyn FnMut(&DirEntry<'_>) -> bool) -> Result<()> {
        let mut from = from;
        loop {
            let mut batch: Vec<(u64, Arc<[u8]>, Arc<TmpInode>)> = Vec::with_capacity(BATCH.min(self.len()));
            {
                let names = self.names.lock();
                for (seq, name) in names.order.range((Bound::Included(from), Bound::Unbounded)).take(BATCH) {
                    if let Some(Slot::Name(_, inode)) = names.slots.get(name) {
                        batch.push((*seq, name.clone(), inode.clone()));
                    }
                }
            }
            let Some((last, _, _)) = batch.last() else { return Ok(()) };
            from = last + 1;
            for (seq, name, inode) in &batch {
                let next = base + seq + 1;
                let entry = DirEntry { name, ino: inode.number(), kind: inode.kind(), next };
                if !self.origin_has(name) && !emit(&entry) {
                    return Ok(());
                }
            }
        }
    }

    /// Moves all own inodes to `out`; for the end of the file system.
    pub(super) fn take(&self, out: &mut Vec<Arc<TmpInode>>) {
        let names = core::mem::take(&mut *self.names.lock());
        for slot in names.slots.into_values() {
            if let Slot::Name(_, inode) = slot {
                out.push(inode);
            }
        }
    }
}
