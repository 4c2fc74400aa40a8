//! What `CLONE_FS` shares: root, working directory, umask; and the mount namespace, because a task cannot
//! change its namespace while it shares the rest (`CLONE_NEWNS` implies its own copy).

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering};

use super::{MountNamespace, Path};
use crate::{
    errno::{Errno, Result},
    ns::UserNamespace,
    sync::SpinLock,
};

/// Where a task stands in the file tree.
pub struct FsContext {
    places: SpinLock<Places>,
    umask: AtomicU32,
}

#[derive(Clone)]
struct Places {
    root: Path,
    cwd: Path,
    namespace: Arc<MountNamespace>,
}

impl FsContext {
    /// Root and working directory at the root of `namespace`, umask 022. `ENOENT` if nothing is mounted there.
    pub fn new(namespace: Arc<MountNamespace>) -> Result<Arc<FsContext>> {
        let root = namespace.root().ok_or(Errno::ENOENT)?;
        let places = Places { cwd: root.clone(), root, namespace };
        Ok(Arc::new(FsContext { places: SpinLock::new(places), umask: AtomicU32::new(0o022) }))
    }

    /// The mounts it sees.
    pub fn namespace(&self) -> Arc<MountNamespace> {
        self.places.lock().namespace.clone()
    }

    /// Whether other tasks share it; the caller holds one reference besides its task's.
    pub fn is_shared(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) > 2
    }

    /// Goes into a copy of the mount namespace (`CLONE_NEWNS`) owned by `owner`, at the same places. `ENOMEM`.
    pub fn unshare_namespace(&self, owner: &Arc<UserNamespace>) -> Result<()> {
        let (namespace, map) = self.namespace().copy(owner).ok_or(Errno::ENOMEM)?;
        let places = Places { root: map.translate(&self.root()), cwd: map.translate(&self.cwd()), namespace };
        let old = core::mem::replace(&mut *self.places.lock(), places);
        drop(old); // outside the lock
        Ok(())
    }

    /// A copy for a child without `CLONE_FS`.
    pub fn fork(&self) -> Arc<FsContext> {
        let places = self.places.lock().clone();
        Arc::new(FsContext { places: SpinLock::new(places), umask: AtomicU32::new(self.umask()) })
    }

    /// The root directory: what `/` means, and what `..` never leaves.
    pub fn root(&self) -> Path {
        self.places.lock().root.clone()
    }

    /// The working directory.
    pub fn cwd(&self) -> Path {
        self.places.lock().cwd.clone()
    }

    /// Changes the root directory (`chroot`).
    pub fn set_root(&self, root: Path) {
        let old = core::mem::replace(&mut self.places.lock().root, root);
        drop(old); // outside the lock
    }

    /// After `pivot_root`: who was at `old` is at `new`.
    pub fn follow_pivot(&self, old: &Path, new: &Path) {
        let mut places = self.places.lock();
        let root = places.root.same(old).then(|| core::mem::replace(&mut places.root, new.clone()));
        let cwd = places.cwd.same(old).then(|| core::mem::replace(&mut places.cwd, new.clone()));
        drop(places);
        drop((root, cwd)); // outside the lock
    }

    /// Changes the working directory.
    pub fn set_cwd(&self, cwd: Path) {
        let old = core::mem::replace(&mut self.places.lock().cwd, cwd);
        drop(old); // outside the lock
    }

    /// The permission bits a new file does not get.
    pub fn umask(&self) -> u32 {
        self.umask.load(Ordering::Relaxed)
    }

    /// Sets the umask, returns the old one.
    pub fn set_umask(&self, mask: u32) -> u32 {
        self.umask.swap(mask & 0o777, Ordering::Relaxed)
    }
}
