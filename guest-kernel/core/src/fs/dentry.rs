//! The dentry cache: names in memory.
//!
//! A dentry joins a name in a parent directory to an inode, or (a *negative* dentry) to the knowledge that
//! there is none. Each directory's dentry owns a hash table of its known children; a hit costs one spin lock
//! and no call into the file system. Names are added and removed only under the directory's sleeping lock
//! ([`Dentry::lock_directory`]), which is also held over the file system's own `lookup`, so a name has one
//! dentry at any time.
//!
//! Memory is bounded: dentries enter a queue when they are hashed, and once it is longer than the limit each
//! insertion looks at a few from its old end (second chance: used since? back to the end). One that nobody
//! holds, without known children or mounts, is forgotten. The queue holds weak references, so an unlinked
//! file is freed with its last user, not with its place in the queue.
//!
//! An unlinked dentry keeps its parent and name (for `/proc/PID/fd`) and is marked deleted.
//!
//! Lock order: a parent's `children` before a child's `link`; never two `children` at once. The queue's lock
//! is taken alone.

use alloc::{collections::VecDeque, sync::Arc, sync::Weak};
use core::{
    hash::BuildHasher,
    sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering},
};

use hashbrown::{DefaultHashBuilder, HashTable};
use ringfence_hal as hal;

use super::inode::InodeRef;
use crate::{
    errno::{Errno, Result},
    sync::{Mutex, MutexGuard, Once, SpinLock},
};

struct Link {
    parent: Option<Arc<Dentry>>,
    name: Arc<[u8]>,
}

struct Child {
    hash: u64,
    name: Arc<[u8]>,
    dentry: Arc<Dentry>,
}

const UNUSED: u8 = 0;
const USED: u8 = 1;
/// What the file system said holds for a time only ([`Inode::name_validity`](super::Inode::name_validity)). One state with the
/// other two, so that a hit looks at one byte. Such a dentry has no second chance in the queue.
const VOLATILE: u8 = 2;

/// One name.
pub struct Dentry {
    link: SpinLock<Link>,
    inode: Once<InodeRef>,
    children: SpinLock<HashTable<Child>>,
    directory: Mutex<()>,
    /// How many mounts cover this dentry.
    mounted: AtomicU32,
    /// [`UNUSED`], [`USED`] (found since the queue last looked), or [`VOLATILE`].
    state: AtomicU8,
    /// Of a volatile one: the time (`time::now`) until which the file system's word is believed.
    valid_until: AtomicU64,
    /// It is in the queue.
    queued: AtomicBool,
    /// Unlinked, or never in a tree.
    deleted: AtomicBool,
}

fn hash(name: &[u8]) -> u64 {
    static HASHER: Once<DefaultHashBuilder> = Once::new();
    HASHER.call_once(DefaultHashBuilder::default).hash_one(name)
}

impl Dentry {
    fn make(parent: Option<Arc<Dentry>>, name: Arc<[u8]>, inode: Option<InodeRef>) -> Arc<Dentry> {
        let cell = Once::new();
        if let Some(inode) = inode {
            cell.call_once(|| inode);
        }
        Arc::new(Dentry {
            link: SpinLock::new(Link { parent, name }),
            inode: cell,
            children: SpinLock::new(HashTable::new()),
            directory: Mutex::new(()),
            mounted: AtomicU32::new(0),
            state: AtomicU8::new(USED),
            valid_until: AtomicU64::new(0),
            queued: AtomicBool::new(false),
            deleted: AtomicBool::new(false),
        })
    }

    /// The root of a file system.
    pub fn root(inode: InodeRef) -> Arc<Dentry> {
        Dentry::make(None, Arc::from(&b""[..]), Some(inode))
    }

    /// A dentry in no tree, for files without a name. `name` is what `/proc/PID/fd` shows.
    pub fn detached(name: &[u8], inode: InodeRef) -> Arc<Dentry> {
        Dentry::make(None, Arc::from(name), Some(inode))
    }

    /// A dentry for an unnamed file made in `dir` (`O_TMPFILE`): shows as deleted there.
    pub fn unnamed(dir: &Arc<Dentry>, inode: InodeRef) -> Arc<Dentry> {
        let name = alloc::format!("#{}", inode.ino());
        let dentry = Dentry::make(Some(dir.clone()), Arc::from(name.as_bytes()), Some(inode));
        dentry.deleted.store(true, Ordering::Release);
        dentry
    }

    /// The inode, or `None` if this is a negative dentry.
    pub fn inode(&self) -> Option<&InodeRef> {
        self.inode.get()
    }

    /// The inode; `ENOENT` for a negative dentry.
    pub fn positive(&self) -> Result<&InodeRef> {
        self.inode.get().ok_or(Errno::ENOENT)
    }

    /// The last component of its path; empty for a root.
    pub fn name(&self) -> Arc<[u8]> {
        self.link.lock().name.clone()
    }

    /// The directory it is in; `None` for a root and for a detached dentry.
    pub fn parent(&self) -> Option<Arc<Dentry>> {
        self.link.lock().parent.clone()
    }

    /// Parent and name of one moment.
    pub fn parent_and_name(&self) -> (Option<Arc<Dentry>>, Arc<[u8]>) {
        let link = self.link.lock();
        (link.parent.clone(), link.name.clone())
    }

    /// Whether its name was removed.
    pub fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    /// Marks it as having no name, for what shows as ` (deleted)` from the start.
    pub fn mark_deleted(&self) {
        self.deleted.store(true, Ordering::Release);
    }

    /// Whether it was made without a name ([`Dentry::unnamed`]), whose name is made up and has a `#`. (A removed
    /// Whether it is in no tree and never was.
    pub fn is_detached(&self) -> bool {
        let link = self.link.lock();
        link.parent.is_none() && !link.name.is_empty()
    }

    /// Whether something is mounted here, in some namespace.
    pub fn is_mountpoint(&self) -> bool {
        self.mounted.load(Ordering::Acquire) != 0
    }

    pub(super) fn mounted(&self, delta: i32) {
        self.mounted.fetch_add(delta as u32, Ordering::AcqRel);
    }

    /// Whether `ancestor` is this dentry or above it.
    pub fn is_below(self: &Arc<Self>, ancestor: &Arc<Dentry>) -> bool {
        let mut at = self.clone();
        loop {
            if Arc::ptr_eq(&at, ancestor) {
                return true;
            }
            let Some(parent) = at.parent() else { return false };
            at = parent;
        }
    }

    /// Locks the directory for lookups of unknown names and changes of names.
    pub fn lock_directory(&self) -> MutexGuard<'_, ()> {
        self.directory.lock()
    }

    /// The known child `name`, negative or not.
    pub fn cached(&self, name: &[u8]) -> Option<Arc<Dentry>> {
        self.cached_hashed(name, hash(name))
    }

    fn cached_hashed(&self, name: &[u8], hash: u64) -> Option<Arc<Dentry>> {
        let children = self.children.lock();
        let child = &children.find(hash, |c| *c.name == *name)?.dentry;
        match child.state.load(Ordering::Relaxed) {
            USED => {}
            VOLATILE if !child.still_valid() => return None,
            VOLATILE => {}
            _ => child.state.store(USED, Ordering::Relaxed),
        }
        Some(child.clone())
    }

    /// Whether a volatile dentry need not be asked for again. What something is mounted on stays.
    #[cold]
    fn still_valid(&self) -> bool {
        hal::time::now() < self.valid_until.load(Ordering::Relaxed) || self.is_mountpoint()
    }

    /// The file system has said so just now.
    fn renew(&self, validity: u64) {
        self.valid_until.store(hal::time::now().saturating_add(validity), Ordering::Relaxed);
        self.state.store(VOLATILE, Ordering::Relaxed);
    }

    /// The child `name` of which the file system was asked again: the same dentry if it has said the same. Else what was known is
    /// forgotten, as if somebody had removed it.
    #[cold]
    fn confirm(
        &self,
        name: &[u8],
        hash: u64,
        found: Option<&InodeRef>,
        validity: u64,
    ) -> Option<Arc<Dentry>> {
        let known = self.children.lock().find(hash, |c| *c.name == *name).map(|c| c.dentry.clone())?;
        let same = match (known.inode(), found) {
            (Some(known), Some(found)) => Arc::ptr_eq(known, found),
            (None, None) => true,
            _ => false,
        };
        if same {
            known.renew(validity);
            return Some(known);
        }
        known.deleted.store(true, Ordering::Release);
        drop(self.unhash_child(name));
        None
    }

    /// The child `name`, from the cache or the file system; negative if there is none.
    pub fn lookup(self: &Arc<Self>, name: &[u8]) -> Result<Arc<Dentry>> {
        let hash = hash(name);
        if let Some(child) = self.cached_hashed(name, hash) {
            return Ok(child);
        }
        let guard = self.lock_directory();
        self.lookup_with(name, hash, &guard)
    }

    /// As [`Dentry::lookup`], with the directory locked already.
    pub fn lookup_locked(self: &Arc<Self>, name: &[u8], guard: &MutexGuard<'_, ()>) -> Result<Arc<Dentry>> {
        let hash = hash(name);
        match self.cached_hashed(name, hash) {
            Some(child) => Ok(child),
            None => self.lookup_with(name, hash, guard),
        }
    }

    fn lookup_with(
        self: &Arc<Self>,
        name: &[u8],
        hash: u64,
        _guard: &MutexGuard<'_, ()>,
    ) -> Result<Arc<Dentry>> {
        if let Some(child) = self.cached_hashed(name, hash) {
            return Ok(child); // somebody was faster
        }
        let directory = self.positive()?;
        if self.is_deleted() {
            return Err(Errno::ENOENT);
        }
        let inode = match directory.lookup(name) {
            Ok(inode) => Some(inode),
            Err(Errno::ENOENT) => None,
            Err(e) => return Err(e),
        };
        let validity = directory.name_validity();
        if let Some(validity) = validity
            && let Some(known) = self.confirm(name, hash, inode.as_ref(), validity)
        {
            return Ok(known);
        }
        let child = Dentry::make(Some(self.clone()), Arc::from(name), inode);
        if let Some(validity) = validity {
            child.renew(validity);
        }
        if directory.cacheable() {
            self.hash_child(child.clone(), hash);
        }
        Ok(child)
    }

    fn hash_child(&self, dentry: Arc<Dentry>, hash: u64) {
        let name = dentry.name();
        let weak = (!dentry.queued.swap(true, Ordering::Relaxed)).then(|| Arc::downgrade(&dentry));
        self.children.lock().insert_unique(hash, Child { hash, name, dentry }, |c| c.hash);
        if let Some(weak) = weak {
            lru::enter(weak);
        }
    }

    fn unhash_child(&self, name: &[u8]) -> Option<Arc<Dentry>> {
        let mut children = self.children.lock();
        children.find_entry(hash(name), |c| *c.name == *name).ok().map(|e| e.remove().0.dentry)
    }

    /// Makes sure the cache knows this dentry, also in a directory that is not cacheable: what is mounted on
    /// must be found again.
    pub(super) fn pin(self: &Arc<Self>) {
        let (Some(parent), name) = self.parent_and_name() else { return };
        let _guard = parent.lock_directory();
        if parent.cached(&name).is_none() && !self.is_deleted() {
            parent.hash_child(self.clone(), hash(&name));
        }
    }

    /// After the file system made `inode` under the name of `child`, a negative dentry of this directory.
    pub fn instantiate(&self, child: &Arc<Dentry>, inode: InodeRef, _guard: &MutexGuard<'_, ()>) {
        child.inode.call_once(|| inode);
    }

    /// After the file system removed the name of `child` from this directory.
    pub fn forget(&self, child: &Arc<Dentry>, _guard: &MutexGuard<'_, ()>) {
        child.deleted.store(true, Ordering::Release);
        let removed = self.unhash_child(&child.name());
        drop(removed);
    }

    /// After the file system renamed `child` of this directory to `new` (the dentry that had that name) of
    /// `new_dir`; both directories are locked by the caller. With `exchange` both change places.
    pub fn renamed(
        self: &Arc<Self>,
        child: &Arc<Dentry>,
        new_dir: &Arc<Dentry>,
        new: &Arc<Dentry>,
        exchange: bool,
    ) {
        let (old_name, new_name) = (child.name(), new.name());
        drop(self.unhash_child(&old_name));
        drop(new_dir.unhash_child(&new_name));
        child.relink(new_dir, &new_name);
        new_dir.hash_child(child.clone(), hash(&new_name));
        if exchange {
            new.relink(self, &old_name);
            self.hash_child(new.clone(), hash(&old_name));
        } else {
            new.deleted.store(true, Ordering::Release);
        }
    }

    fn relink(&self, parent: &Arc<Dentry>, name: &Arc<[u8]>) {
        let new = Link { parent: Some(parent.clone()), name: name.clone() };
        let old = core::mem::replace(&mut *self.link.lock(), new);
        drop(old);
    }

    /// Forgets `self`, which left the queue, if nobody else uses it: `self` is held by the caller, and else
    /// only by its parent. False if it has to go back into the queue.
    fn evict(self: Arc<Self>) -> bool {
        let (Some(parent), name) = self.parent_and_name() else { return true };
        if self.is_deleted() {
            self.queued.store(false, Ordering::Relaxed);
            return true;
        }
        let mut children = parent.children.lock();
        // New references come only from the parent's table, which is locked, or from existing ones.
        if Arc::strong_count(&self) > 2 || self.is_mountpoint() || !self.children.lock().is_empty() {
            return false;
        }
        let found =
            children.find_entry(hash(&name), |c| Arc::ptr_eq(&c.dentry, &self)).ok().map(|e| e.remove().0);
        drop(children);
        drop(found);
        true
    }

    /// Forgets all that is cached below this dentry; for the end of a file system.
    pub fn forget_tree(self: &Arc<Self>) {
        let mut pending = alloc::vec![self.clone()];
        while let Some(dentry) = pending.pop() {
            let children = core::mem::take(&mut *dentry.children.lock());
            pending.extend(children.into_iter().map(|c| c.dentry));
        }
    }
}

impl Drop for Dentry {
    /// Drops a chain of parents without recursion: directories may be nested deeper than our stack is.
    fn drop(&mut self) {
        let mut parent = self.link.lock().parent.take();
        while let Some(dentry) = parent {
            parent = Arc::into_inner(dentry).and_then(|d| d.link.lock().parent.take());
        }
    }
}

mod lru {
    //! The queue that bounds the cache.

    use super::{AtomicUsize, Dentry, Ordering, SpinLock, UNUSED, USED, VecDeque, Weak};

    static QUEUE: SpinLock<VecDeque<Weak<Dentry>>> = SpinLock::new(VecDeque::new());
    static LIMIT: AtomicUsize = AtomicUsize::new(4096);

    /// How many old dentries one insertion looks at.
    const STEP: usize = 4;

    pub fn enter(dentry: Weak<Dentry>) {
        QUEUE.lock().push_back(dentry);
        for _ in 0..STEP {
            let Some(oldest) = pop_beyond(LIMIT.load(Ordering::Relaxed)) else { return };
            let Some(dentry) = oldest.upgrade() else { continue };
            let used =
                dentry.state.compare_exchange(USED, UNUSED, Ordering::Relaxed, Ordering::Relaxed).is_ok();
            let again = used || !dentry.evict();
            if again {
                QUEUE.lock().push_back(oldest);
            }
        }
    }

    pub fn set_limit(entries: usize) {
        LIMIT.store(entries, Ordering::Relaxed);
    }

    fn pop_beyond(limit: usize) -> Option<Weak<Dentry>> {
        let mut queue = QUEUE.lock();
        if queue.len() > limit { queue.pop_front() } else { None }
    }

    /// Forgets every dentry nobody uses, as far as that goes in one pass.
    pub fn shrink() {
        let len = QUEUE.lock().len();
        for _ in 0..len {
            let Some(oldest) = pop_beyond(0) else { return };
            let Some(dentry) = oldest.upgrade() else { continue };
            if !dentry.evict() {
                QUEUE.lock().push_back(oldest);
            }
        }
    }
}

/// Sizes the cache to the memory of the machine: an entry for eight pages, about 1 KiB (with its inode) for
/// 32 KiB.
pub fn init() {
    lru::set_limit((ringfence_hal::frames::stats().total / 8).clamp(2048, 65_536) as usize);
}

/// Gives up all dentries nobody uses: for `drop_caches` and under memory pressure.
pub fn shrink() {
    lru::shrink();
}
