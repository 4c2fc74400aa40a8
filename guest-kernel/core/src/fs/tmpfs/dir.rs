//! Names of a directory: its own, and what shows through from its origin.
//!
//! A listing tells the newest of its own names first, as Linux does, then the origin's: a name that is made, or comes of
//! a rename, while a listing goes on is always before where that is. So who renames what it is told, name by name,
//! comes to an end.

use alloc::{collections::BTreeMap, sync::Arc, vec::Vec};
use hashbrown::HashMap;

use super::{Shared, TmpInode};
use crate::{
    errno::{Errno, Result},
    fs::inode::{DirEntry, Inode, InodeRef},
    sync::SpinLock,
};

/// Cookies of the origin's names start here; below are those of own names.
const ORIGIN: u64 = 1 << 61;

/// The cookie of an own name is this less its place in the order of creation.
const FIRST: u64 = 1 << 60;

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

    /// Lists own names that the origin has not, then the origin's, whether they still are the origin's or not: so each
    /// name has one cookie that does not change while a listing goes on.
    pub(super) fn readdir(&self, from: u64, emit: &mut dyn FnMut(&DirEntry<'_>) -> bool) -> Result<()> {
        if from < ORIGIN && !self.read_own(from, emit) {
            return Ok(());
        }
        let Some(origin) = &self.origin else { return Ok(()) };
        origin.readdir(from.saturating_sub(ORIGIN), &mut |entry| {
            let names = self.names.lock();
            // An unchanged directory is the rule: do not even hash.
            let slot = if names.slots.is_empty() { None } else { names.slots.get(entry.name) };
            let mut entry = DirEntry { next: ORIGIN + entry.next, ..*entry };
            match slot {
                Some(Slot::Whiteout) => return true,
                Some(Slot::Name(_, inode)) => (entry.ino, entry.kind) = (inode.number(), inode.kind()),
                None => {}
            }
            drop(names);
            emit(&entry)
        })
    }

    /// False if a name was not accepted.
    fn read_own(&self, from: u64, emit: &mut dyn FnMut(&DirEntry<'_>) -> bool) -> bool {
        let Some(mut last) = FIRST.checked_sub(from) else { return true };
        loop {
            let mut batch: Vec<(u64, Arc<[u8]>, Arc<TmpInode>)> = Vec::with_capacity(BATCH.min(self.len()));
            {
                let names = self.names.lock();
                for (seq, name) in names.order.range(..=last).rev().take(BATCH) {
                    if let Some(Slot::Name(_, inode)) = names.slots.get(name) {
                        batch.push((*seq, name.clone(), inode.clone()));
                    }
                }
            }
            for (seq, name, inode) in &batch {
                let next = FIRST - seq + 1;
                let entry = DirEntry { name, ino: inode.number(), kind: inode.kind(), next };
                if !self.origin_has(name) && !emit(&entry) {
                    return false;
                }
            }
            match batch.last() {
                Some((seq, ..)) if *seq > 0 => last = seq - 1,
                _ => return true,
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
