//! Inodes without a name: what pipes, sockets, eventfds, epoll instances and memfds hang on.
//!
//! Linux has internal file systems for them (`pipefs`, `sockfs`, `anon_inodefs`) with dentries that print as
//! `pipe:[12]`. We have one internal mount for all; each object gets its own small inode and a dentry that is
//! in no tree.

use alloc::{boxed::Box, string::String, sync::Arc};
use core::sync::atomic::{AtomicU64, Ordering};

use super::{
    Dentry, Path,
    file::{File, FileRef, OpenFile},
    inode::{FileSystem, Inode, InodeRef, Superblock, alloc_anonymous_dev},
    mount::Mount,
    types::{FileType, Metadata, OpenFlags, SetAttributes, StatFs},
};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    sync::{Once, SpinLock},
};

/// An inode without a name and without content of its own.
pub struct AnonInode {
    metadata: SpinLock<Metadata>,
    kind: FileType,
    reopen: Option<Reopen>,
}

/// What opening an object again by `/proc/PID/fd` gives; `None` when the object is gone.
pub type Reopen = Box<dyn Fn(OpenFlags) -> Option<Arc<dyn File>> + Send + Sync>;

static NEXT_INO: AtomicU64 = AtomicU64::new(1);

impl AnonInode {
    /// A new inode of type `kind` with permission bits `mode`, owned by `uid` and `gid`.
    pub fn new(kind: FileType, mode: u32, uid: u32, gid: u32) -> Arc<AnonInode> {
        let ino = NEXT_INO.fetch_add(1, Ordering::Relaxed);
        let mut metadata = Metadata::new(internal_mount().superblock().dev(), ino, kind, mode);
        metadata.uid = uid;
        metadata.gid = gid;
        Arc::new(AnonInode { metadata: SpinLock::new(metadata), kind, reopen: None })
    }

    /// The same for an object that `/proc/PID/fd` (and so `/dev/stdin` and the shell's `<(command)`) can open
    /// again, as Linux allows of pipes. The object belongs to its open files, so `reopen` holds it weakly.
    pub fn with_reopen(self: Arc<Self>, reopen: Reopen) -> Arc<AnonInode> {
        let metadata = *self.metadata.lock();
        Arc::new(AnonInode { metadata: SpinLock::new(metadata), kind: self.kind, reopen: Some(reopen) })
    }

    /// An open file of one object: `label` is what `/proc/PID/fd` shows, such as `anon_inode:[eventfd]`; with
    /// `{}` in it, that is replaced by the inode number (`pipe:[{}]`).
    pub fn open(self: Arc<Self>, ops: Arc<dyn File>, label: &str, flags: OpenFlags) -> FileRef {
        OpenFile::new(self.clone(), Some(ops), anonymous_path(self, label), flags)
    }

    #[cfg(test)]
    pub(crate) fn open_for_test(label: &str, flags: OpenFlags) -> FileRef {
        let inode = AnonInode::new(FileType::Regular, 0o600, 0, 0);
        OpenFile::new(inode.clone(), None, anonymous_path(inode, label), flags)
    }
}

/// A place in no tree for `inode`, labelled as in [`AnonInode::open`]; also for memfds.
pub fn anonymous_path(inode: InodeRef, label: &str) -> Path {
    let label = match label.split_once("{}") {
        Some((before, after)) => alloc::format!("{before}{}{after}", inode.ino()),
        None => String::from(label),
    };
    Path::new(internal_mount().clone(), Dentry::detached(label.as_bytes(), inode))
}

/// The mount everything without a name lives on.
pub fn internal_mount() -> &'static Arc<Mount> {
    static MOUNT: Once<Arc<Mount>> = Once::new();
    MOUNT.call_once(|| {
        let dev = alloc_anonymous_dev();
        Mount::internal(Superblock::new(Arc::new(Internal { dev })))
    })
}

impl Inode for AnonInode {
    fn kind(&self) -> FileType {
        self.kind
    }

    fn metadata(&self) -> Metadata {
        *self.metadata.lock()
    }

    fn set_attributes(&self, change: &SetAttributes) -> Result<()> {
        if change.size.is_some() {
            return Err(Errno::EINVAL);
        }
        change.apply(&mut self.metadata.lock());
        Ok(())
    }

    fn open(&self, flags: OpenFlags, _task: Option<&TaskRef>) -> Result<Option<Arc<dyn File>>> {
        match &self.reopen {
            Some(reopen) => reopen(flags).map(Some).ok_or(Errno::ENXIO),
            None => Ok(None),
        }
    }
}

struct Internal {
    dev: u64,
}

impl FileSystem for Internal {
    fn name(&self) -> &'static str {
        "anon_inodefs"
    }

    fn dev(&self) -> u64 {
        self.dev
    }

    fn root(&self) -> InodeRef {
        let metadata = Metadata::new(self.dev, 0, FileType::Directory, 0o500);
        Arc::new(AnonInode { metadata: SpinLock::new(metadata), kind: FileType::Directory, reopen: None })
    }

    fn statfs(&self) -> StatFs {
        StatFs { magic: 0x0904_1934, block_size: 4096, name_max: 255, ..StatFs::default() }
    }
}
