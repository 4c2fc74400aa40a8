//! Mounts and mount namespaces.
//!
//! A mount makes the tree of a file system (or a subtree: a bind mount) visible on a directory or file of
//! another mount. A namespace is a tree of mounts with its own root; `unshare(CLONE_NEWNS)` copies the tree.
//! All mounts of all namespaces are in one table keyed by (mount, dentry) of the place they cover; dentries
//! count the mounts on them, so a walk looks into the table only where something is mounted.
//!
//! Propagation (shared, slave) is not there yet: every mount is private.
//!
//! Lock order: a namespace's list → the table. Neither is held over anything that sleeps.

use alloc::{sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use bitflags::bitflags;
use hashbrown::HashMap;

use super::{Dentry, Path, inode::Superblock};
use crate::{
    errno::{Errno, Result},
    ns::{self, UserNamespace},
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
    /// What makes a mount safer: not to be lifted by those it was meant for.
    const RESTRICTIONS: MountFlags =
        MountFlags::READ_ONLY.union(MountFlags::NOSUID).union(MountFlags::NODEV).union(MountFlags::NOEXEC);
}

/// Mounts one namespace may hold (`/proc/sys/fs/mount-max`).
const MOUNT_MAX: usize = 100_000;

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

    /// Changes the flags (`MS_REMOUNT`). `EPERM` to lift a restriction of a locked mount.
    pub fn set_flags(&self, flags: MountFlags) -> Result<()> {
        let lifted = self.flags() & MountFlags::RESTRICTIONS & !flags;
        if self.is_locked() && !lifted.is_empty() {
            return Err(Errno::EPERM);
        }
        self.flags.store(flags.bits(), Ordering::Relaxed);
        Ok(())
    }

    fn is_pinned(&self) -> bool {
        self.pinned.load(Ordering::Relaxed)
    }

    fn is_locked(&self) -> bool {
        self.locked.load(Ordering::Relaxed)
    }

    /// `EROFS` if this mount or its file system is read-only.
    pub fn check_writable(&self) -> Result<()> {
        let read_only = self.flags().contains(MountFlags::READ_ONLY) || self.superblock.fs().read_only();
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

/// A tree of mounts.
pub struct MountNamespace {
    id: u64,
    owner: Arc<UserNamespace>,
    /// In the order of mounting; the first is the root.
    mounts: SpinLock<Vec<Arc<Mount>>>,
}

impl MountNamespace {
    /// A namespace with `root` as its root, owned by the first user namespace.
    pub fn new(root: Arc<Mount>) -> Arc<MountNamespace> {
        Self::owned(root, UserNamespace::initial())
    }

    fn owned(root: Arc<Mount>, owner: &Arc<UserNamespace>) -> Arc<MountNamespace> {
        Arc::new(MountNamespace {
            id: ns::next_id(),
            owner: owner.clone(),
            mounts: SpinLock::new(alloc::vec![root]),
        })
    }

    /// Inode number in `/proc/PID/ns`.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whose capabilities count.
    pub fn owner(&self) -> &Arc<UserNamespace> {
        &self.owner
    }

    /// The root directory of the namespace: the root of whatever is mounted topmost on `/`.
    pub fn root(&self) -> Option<Path> {
        let mount = self.mounts.lock().first().cloned()?;
        let dentry = mount.root().clone();
        Some(Path::new(mount, dentry).below_mounts())
    }

    /// All mounts, in the order of mounting.
    pub fn mounts(&self) -> Vec<Arc<Mount>> {
        self.mounts.lock().clone()
    }

    /// Attaches `mount` on `place` (on top of what is mounted there). `ENOTDIR` if one is a directory and the
    /// other is not; `EINVAL` if `place` is of another namespace.
    pub fn mount(&self, mount: &Arc<Mount>, place: Path) -> Result<()> {
        use super::types::FileType::Directory;
        let place = place.below_mounts();
        if (mount.root().positive()?.kind() == Directory) != (place.inode()?.kind() == Directory) {
            return Err(Errno::ENOTDIR);
        }
        if place.dentry().is_deleted() {
            return Err(Errno::ENOENT);
        }
        place.dentry().pin();
        let mut mounts = self.mounts.lock();
        if !mounts.iter().any(|m| Arc::ptr_eq(m, place.mount())) {
            return Err(Errno::EINVAL);
        }
        if mounts.len() >= MOUNT_MAX {
            return Err(Errno::ENOSPC);
        }
        mounts.push(mount.clone());
        mount.attach(place);
        Ok(())
    }

    /// A bind mount of `source` on `place`; with `recursive`, of the mounts below `source`, too.
    pub fn bind(&self, source: &Path, place: Path, recursive: bool) -> Result<()> {
        let from = source.mount();
        let new = Mount::new(from.superblock.clone(), source.dentry().clone(), from.flags(), &from.source);
        new.locked.store(from.is_locked(), Ordering::Relaxed);
        let below = if recursive { self.below(source) } else { Vec::new() };
        self.mount(&new, place)?;
        let mut copies: Vec<(u32, Arc<Mount>)> = alloc::vec![(from.id, new)];
        for old in below {
            let Some(on) = old.mounted_on() else { continue };
            let Some((_, parent)) = copies.iter().find(|(id, _)| *id == on.mount().id) else { continue };
            let copy = Mount::new(old.superblock.clone(), old.root.clone(), old.flags(), &old.source);
            copy.locked.store(old.is_locked(), Ordering::Relaxed);
            copy.pinned.store(old.is_pinned(), Ordering::Relaxed);
            let place = Path::new(parent.clone(), on.dentry().clone());
            self.mount(&copy, place)?;
            copies.push((old.id, copy));
        }
        Ok(())
    }

    /// The mounts below `place`, parents first.
    fn below(&self, place: &Path) -> Vec<Arc<Mount>> {
        let mut found: Vec<Arc<Mount>> = Vec::new();
        for mount in self.mounts() {
            let Some(on) = mount.mounted_on() else { continue };
            let inside = Arc::ptr_eq(on.mount(), place.mount()) && on.dentry().is_below(place.dentry());
            if inside || found.iter().any(|m| Arc::ptr_eq(m, on.mount())) {
                found.push(mount);
            }
        }
        found
    }

    /// Moves the mount whose root is `from` to `place` (`MS_MOVE`). `EINVAL` if `from` is not the root of a
    /// mount, or the namespace's root; `ELOOP` if `place` is below it.
    pub fn relocate(&self, from: &Path, place: Path) -> Result<()> {
        let mount = from.mount();
        if !from.is_mount_root() || mount.mounted_on().is_none() {
            return Err(Errno::EINVAL);
        }
        if mount.is_pinned() {
            return Err(Errno::EINVAL);
        }
        let mut at = Some(place.clone());
        while let Some(p) = at {
            if Arc::ptr_eq(p.mount(), mount) {
                return Err(Errno::ELOOP);
            }
            at = p.mount().mounted_on();
        }
        let place = place.below_mounts();
        if place.dentry().is_deleted() {
            return Err(Errno::ENOENT);
        }
        place.dentry().pin();
        mount.detach();
        mount.attach(place);
        self.sort();
        Ok(())
    }

    /// Makes the mount whose root is `new` the root of the namespace in place of `old`, the caller's root, which
    /// goes to `put_old` (pivot_root(2)). `EINVAL` if one is not the root of a mount of this namespace, or
    /// `put_old` is not below `new`; `EBUSY` if one of them is on the old root's mount.
    pub fn pivot(&self, old: &Path, new: &Path, put_old: &Path) -> Result<()> {
        let (old_mount, new_mount) = (old.mount(), new.mount());
        if Arc::ptr_eq(old_mount, new_mount) || Arc::ptr_eq(old_mount, put_old.mount()) {
            return Err(Errno::EBUSY);
        }
        let here = |m: &Arc<Mount>| self.mounts.lock().iter().any(|other| Arc::ptr_eq(other, m));
        let roots = old.is_mount_root() && new.is_mount_root() && new_mount.mounted_on().is_some();
        if !roots || !here(old_mount) || !here(new_mount) || !here(put_old.mount()) || new_mount.is_pinned() {
            return Err(Errno::EINVAL);
        }
        if !new.is_reached_from(old) || !put_old.is_reached_from(new) {
            return Err(Errno::EINVAL);
        }
        if put_old.dentry().is_deleted() {
            return Err(Errno::ENOENT);
        }
        put_old.dentry().pin();
        let above = old_mount.mounted_on();
        new_mount.detach();
        old_mount.detach();
        old_mount.attach(put_old.clone());
        match above {
            Some(place) => new_mount.attach(place),
            None => {
                let mut mounts = self.mounts.lock();
                if let Some(at) = mounts.iter().position(|m| Arc::ptr_eq(m, new_mount)) {
                    mounts.swap(0, at);
                }
            }
        }
        self.sort();
        Ok(())
    }

    /// Puts every mount after the one it is on: a move can have broken that order.
    fn sort(&self) {
        let mut mounts = self.mounts.lock();
        let mut rest = core::mem::take(&mut *mounts);
        let mut known = hashbrown::HashSet::new();
        while !rest.is_empty() {
            let before = rest.len();
            let mut later = Vec::new();
            for mount in rest {
                let ready = mount.on.lock().as_ref().is_none_or(|on| known.contains(&on.mount().id));
                if ready {
                    known.insert(mount.id);
                    mounts.push(mount);
                } else {
                    later.push(mount);
                }
            }
            rest = later;
            if rest.len() == before {
                mounts.append(&mut rest); // on a mount that is gone: cannot be
            }
        }
    }

    /// Takes `mount` off. `EBUSY` if mounts are on it, unless `lazy`, which takes those off as well; `EINVAL`
    /// for the root and for a mount of another namespace. Open files keep a detached mount alive.
    pub fn unmount(&self, mount: &Arc<Mount>, lazy: bool) -> Result<()> {
        let root = Path::new(mount.clone(), mount.root().clone());
        let below = self.below(&root);
        if !below.is_empty() && !lazy {
            return Err(Errno::EBUSY);
        }
        let mut mounts = self.mounts.lock();
        match mounts.iter().position(|m| Arc::ptr_eq(m, mount)) {
            None | Some(0) => return Err(Errno::EINVAL),
            Some(_) if mount.is_pinned() => return Err(Errno::EINVAL),
            Some(_) => {}
        }
        let gone = |m: &Arc<Mount>| Arc::ptr_eq(m, mount) || below.iter().any(|b| Arc::ptr_eq(b, m));
        let mut removed = Vec::new();
        mounts.retain(|m| {
            let go = gone(m);
            if go {
                removed.push(m.clone());
            }
            !go
        });
        drop(mounts);
        for m in removed.iter().rev() {
            m.detach();
        }
        Ok(())
    }

    /// A copy of the tree for `CLONE_NEWNS`, owned by `owner`, with what `map` needs to find the copy of an old mount.
    pub fn copy(&self, owner: &Arc<UserNamespace>) -> Option<(Arc<MountNamespace>, MountMap)> {
        let mut map: Vec<(Arc<Mount>, Arc<Mount>)> = Vec::new();
        for old in self.mounts() {
            let copy = Mount::new(old.superblock.clone(), old.root.clone(), old.flags(), &old.source);
            let stranger = *owner != self.owner;
            copy.locked.store(old.is_locked() || stranger, Ordering::Relaxed);
            let pinned = old.is_pinned() || (stranger && old.mounted_on().is_some());
            copy.pinned.store(pinned, Ordering::Relaxed);
            if let Some(on) = old.mounted_on() {
                let Some((_, parent)) = map.iter().find(|(m, _)| Arc::ptr_eq(m, on.mount())) else {
                    continue;
                };
                copy.attach(Path::new(parent.clone(), on.dentry().clone()));
            }
            map.push((old, copy));
        }
        let root = map.first()?.1.clone();
        let ns = MountNamespace::owned(root, owner);
        *ns.mounts.lock() = map.iter().map(|(_, copy)| copy.clone()).collect();
        Some((ns, MountMap(map)))
    }
}

impl Drop for MountNamespace {
    fn drop(&mut self) {
        let mounts = core::mem::take(&mut *self.mounts.lock());
        for mount in mounts.iter().rev() {
            mount.detach();
        }
    }
}

/// Which mount became which when a namespace was copied.
pub struct MountMap(Vec<(Arc<Mount>, Arc<Mount>)>);

impl MountMap {
    /// The place of the new namespace for a place of the old one.
    pub fn translate(&self, old: &Path) -> Path {
        match self.0.iter().find(|(m, _)| Arc::ptr_eq(m, old.mount())) {
            Some((_, copy)) => Path::new(copy.clone(), old.dentry().clone()),
            None => old.clone(),
        }
    }
}
