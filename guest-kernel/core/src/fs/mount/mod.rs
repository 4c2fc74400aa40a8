//! Mounts and mount namespaces.
//!
//! A mount makes the tree of a file system (or a subtree: a bind mount) visible on a directory or file of
//! another mount. A namespace is a tree of mounts with its own root; `unshare(CLONE_NEWNS)` copies the tree.
//! All mounts of all namespaces are in one table keyed by (mount, dentry) of the place they cover; dentries
//! count the mounts on them, so a walk looks into the table only where something is mounted.
//!
//! | file | idea |
//! |---|---|
//! | here | [`Mount`], its flags, the table |
//! | `namespace` | [`MountNamespace`]: mounting, binding, moving, unmounting, copying |
//! | `propagation` | peer groups and masters: which other mounts a change is repeated on |
//!
//! Lock order: [`namespace::TREE`] (sleeping; one change of the trees at a time) → a namespace's list → the table; the lock
//! of the groups is taken alone. Only the first is held over anything that sleeps.

mod namespace;
mod propagation;

use alloc::{
    sync::{Arc, Weak},
    vec::Vec,
};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use bitflags::bitflags;
use hashbrown::HashMap;

pub use namespace::{MountMap, MountNamespace};
pub use propagation::{Kin, Type, source_within};

use super::{Dentry, Path, inode::Superblock};
use crate::{
    errno::{Errno, Result},
    sync::{Once, RwSpinLock, SpinLock},
};

bitflags! {
    /// Per-mount flags: the values of `MS_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct MountFlags: u32 {
        /// No writing through this mount.
        const READ_ONLY = 1;
        /// Set-id bits do not count.
        const NOSUID = 2;
        /// Device nodes cannot be opened.
        const NODEV = 4;
        /// Nothing can be executed.
        const NOEXEC = 8;
        /// Symbolic links are not followed.
        const NOSYMFOLLOW = 256;
        /// Access times are not updated.
        const NOATIME = 1024;
        /// Access times of directories are not updated.
        const NODIRATIME = 2048;
        /// Access times are updated now and then.
        const RELATIME = 1 << 21;
    }
}

impl MountFlags {
    /// When access times are updated.
    pub const ATIME: MountFlags =
        MountFlags::NOATIME.union(MountFlags::NODIRATIME).union(MountFlags::RELATIME);

    /// What makes a mount safer: not to be lifted by those it was meant for.
    const RESTRICTIONS: MountFlags =
        MountFlags::READ_ONLY.union(MountFlags::NOSUID).union(MountFlags::NODEV).union(MountFlags::NOEXEC);
}

/// Flags to clear, then flags to set.
#[derive(Clone, Copy, Debug)]
pub struct FlagChange {
    /// Set after the others were cleared.
    pub set: MountFlags,
    /// Cleared.
    pub clear: MountFlags,
}

/// One mount.
pub struct Mount {
    id: u32,
    superblock: Arc<Superblock>,
    root: Arc<Dentry>,
    /// The place covered; `None` for the root of a namespace, an internal or a detached mount.
    on: SpinLock<Option<Path>>,
    flags: AtomicU32,
    source: Vec<u8>,
    /// Copied into a namespace of less privilege: its restrictions stay.
    locked: AtomicBool,
    /// The same, and with the mount it is on: it cannot be taken off by itself, what it covers stays covered.
    pinned: AtomicBool,
    /// The namespace it is in.
    namespace: SpinLock<Weak<MountNamespace>>,
    /// Who hears of changes here, and whose changes are heard.
    kin: SpinLock<Kin>,
}

type Table = HashMap<(u32, usize), Arc<Mount>>;

fn table() -> &'static RwSpinLock<Table> {
    static TABLE: Once<RwSpinLock<Table>> = Once::new();
    TABLE.call_once(|| RwSpinLock::new(Table::new()))
}

fn key(on: &Path) -> (u32, usize) {
    (on.mount().id, Arc::as_ptr(on.dentry()).addr())
}

impl Mount {
    /// A mount of `root`, a dentry of `superblock`, not attached anywhere yet. `source` is the first field of
    /// `/proc/mounts`.
    pub fn new(
        superblock: Arc<Superblock>,
        root: Arc<Dentry>,
        flags: MountFlags,
        source: &[u8],
    ) -> Arc<Mount> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        Arc::new(Mount {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            superblock,
            root,
            on: SpinLock::new(None),
            flags: AtomicU32::new(flags.bits()),
            source: source.to_vec(),
            locked: AtomicBool::new(false),
            pinned: AtomicBool::new(false),
            namespace: SpinLock::new(Weak::new()),
            kin: SpinLock::new(Kin::default()),
        })
    }

    /// A mount the kernel keeps for itself.
    pub fn internal(superblock: Arc<Superblock>) -> Arc<Mount> {
        let root = superblock.root().clone();
        Mount::new(superblock, root, MountFlags::empty(), b"none")
    }

    /// The number in `/proc/PID/mountinfo`.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The file system.
    pub fn superblock(&self) -> &Arc<Superblock> {
        &self.superblock
    }

    /// The dentry that is its root.
    pub fn root(&self) -> &Arc<Dentry> {
        &self.root
    }

    /// What it was mounted from, as `/proc/mounts` shows it.
    pub fn source(&self) -> &[u8] {
        &self.source
    }

    /// The flags.
    pub fn flags(&self) -> MountFlags {
        MountFlags::from_bits_retain(self.flags.load(Ordering::Relaxed))
    }

    /// `EPERM` if these would lift a restriction of a locked mount, or change its access times.
    pub fn may_have_flags(&self, flags: MountFlags) -> Result<()> {
        let lifted = self.flags() & MountFlags::RESTRICTIONS & !flags;
        let other_times = (self.flags() ^ flags).intersects(MountFlags::ATIME);
        if self.is_locked() && (!lifted.is_empty() || other_times) { Err(Errno::EPERM) } else { Ok(()) }
    }

    /// Changes the flags (`MS_REMOUNT`). As [`Mount::may_have_flags`].
    pub fn set_flags(&self, flags: MountFlags) -> Result<()> {
        self.may_have_flags(flags)?;
        self.flags.store(flags.bits(), Ordering::Relaxed);
        Ok(())
    }

    fn set_pinned(&self, pinned: bool) {
        self.pinned.store(pinned, Ordering::Relaxed);
    }

    fn is_pinned(&self) -> bool {
        self.pinned.load(Ordering::Relaxed)
    }

    fn is_locked(&self) -> bool {
        self.locked.load(Ordering::Relaxed)
    }

    /// `EROFS` if this mount or its file system is read-only.
    pub fn check_writable(&self) -> Result<()> {
        let read_only = self.flags().contains(MountFlags::READ_ONLY) || self.superblock.read_only();
        if read_only { Err(Errno::EROFS) } else { Ok(()) }
    }

    /// The place it covers.
    pub fn mounted_on(&self) -> Option<Path> {
        self.on.lock().clone()
    }

    /// What is mounted on `place`, if anything.
    pub fn find(place: &Path) -> Option<Arc<Mount>> {
        table().read().get(&key(place)).cloned()
    }

    /// The namespace it is in; `None` for an internal or a detached mount.
    pub fn namespace(&self) -> Option<Arc<MountNamespace>> {
        self.namespace.lock().upgrade()
    }

    fn is_in(&self, namespace: &MountNamespace) -> bool {
        core::ptr::eq(self.namespace.lock().as_ptr(), namespace)
    }

    fn set_namespace(&self, namespace: Weak<MountNamespace>) {
        let old = core::mem::replace(&mut *self.namespace.lock(), namespace);
        drop(old); // outside the lock
    }

    /// Its peer group and its master's, if any, and whether it is unbindable.
    pub fn kin(&self) -> Kin {
        *self.kin.lock()
    }

    /// A mount of the same file system at `root`, attached nowhere, not yet of any group.
    fn duplicate(&self, root: &Arc<Dentry>) -> Arc<Mount> {
        let new = Mount::new(self.superblock.clone(), root.clone(), self.flags(), &self.source);
        new.locked.store(self.is_locked(), Ordering::Relaxed);
        new
    }

    fn attach(self: &Arc<Self>, on: Path) {
        on.dentry().mounted(1);
        let key = key(&on);
        *self.on.lock() = Some(on);
        table().write().insert(key, self.clone());
    }

    fn detach(&self) {
        let Some(on) = self.on.lock().take() else { return };
        on.dentry().mounted(-1);
        let removed = table().write().remove(&key(&on));
        drop(removed);
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        propagation::forget(self);
    }
}
