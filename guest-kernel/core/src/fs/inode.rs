//! What a file system implements.
//!
//! [`Inode`] is one file. Every method has the answer of a file that cannot do it, so a simple inode (a proc
//! file, a device) implements three or four. Permission, read-only mounts, name lengths, `.` and `..`, and
//! existence in the dentry cache were checked by the VFS before a method is called, and the directory's lock
//! (of its dentry) is held over `lookup` and every change of names; an inode locks only its own data.

use alloc::{string::String, sync::Arc, vec::Vec};
use core::{
    any::Any,
    sync::atomic::{AtomicBool, Ordering},
};

use bitflags::bitflags;

use super::{
    access::{self, Access, Subject},
    file::{File, OpenFile},
    leases::OpenCounts,
    types::{DeviceId, FileType, Metadata, OpenFlags, SetAttributes, StatFs},
};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    io::{Sink, Source},
    mm::Mappable,
    ns::UserNamespace,
};

/// A shared inode.
pub type InodeRef = Arc<dyn Inode>;

/// What to create.
#[derive(Clone, Copy, Debug)]
pub enum NewKind<'a> {
    /// An empty regular file.
    Regular,
    /// An empty directory.
    Directory,
    /// A symbolic link with its text.
    Symlink(&'a [u8]),
    /// A named pipe.
    Fifo,
    /// A bound socket.
    Socket,
    /// A character device node.
    CharDevice(DeviceId),
    /// A block device node.
    BlockDevice(DeviceId),
}

impl NewKind<'_> {
    /// The type of the inode to be.
    pub fn file_type(&self) -> FileType {
        match self {
            NewKind::Regular => FileType::Regular,
            NewKind::Directory => FileType::Directory,
            NewKind::Symlink(_) => FileType::Symlink,
            NewKind::Fifo => FileType::Fifo,
            NewKind::Socket => FileType::Socket,
            NewKind::CharDevice(_) => FileType::CharDevice,
            NewKind::BlockDevice(_) => FileType::BlockDevice,
        }
    }
}

/// A new inode: what it is and whose. The umask is applied already; a set-gid directory's group is too.
#[derive(Clone, Copy, Debug)]
pub struct NewInode<'a> {
    /// Type and what belongs to it.
    pub kind: NewKind<'a>,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// One name in a directory.
#[derive(Clone, Copy, Debug)]
pub struct DirEntry<'a> {
    /// The name.
    pub name: &'a [u8],
    /// Inode number.
    pub ino: u64,
    /// Type.
    pub kind: FileType,
    /// The cookie from which to go on after this entry; below `1 << 62`, and stable while the name exists.
    pub next: u64,
}

/// Where a symbolic link leads.
pub enum LinkTarget {
    /// A path to walk.
    Path(Vec<u8>),
    /// A place itself (a *magic link*: `/proc/PID/{exe,cwd,root}`).
    Place(super::Path),
    /// An open file (`/proc/PID/fd/N`).
    File(Arc<OpenFile>),
}

bitflags! {
    /// Flags of `renameat2`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct RenameFlags: u32 {
        /// Fail if the new name exists.
        const NOREPLACE = 1;
        /// Exchange both names.
        const EXCHANGE = 2;
        /// Leave a whiteout, the character device 0:0, at the old name.
        const WHITEOUT = 4;
    }

    /// Flags of `setxattr`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct XattrFlags: u32 {
        /// Fail if it exists.
        const CREATE = 1;
        /// Fail if it does not.
        const REPLACE = 2;
    }

    /// What `fallocate` is to do.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct FallocateMode: u32 {
        /// Leave the size.
        const KEEP_SIZE = 1;
        /// Make a hole; with KEEP_SIZE.
        const PUNCH_HOLE = 2;
        /// Make it zeros.
        const ZERO_RANGE = 16;
    }
}

/// What `lseek` looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeekTarget {
    /// The next byte that is data.
    Data,
    /// The next hole; the end of the file counts as one.
    Hole,
}

/// One file of a file system.
#[allow(unused_variables)]
pub trait Inode: Any + Send + Sync {
    // --- attributes ---

    /// The type; never changes.
    fn kind(&self) -> FileType;

    /// Everything `stat` wants.
    fn metadata(&self) -> Metadata;

    /// Inode number. Cheaper than [`Inode::metadata`] where that matters.
    fn ino(&self) -> u64 {
        self.metadata().ino
    }

    /// Size in bytes. Cheaper than [`Inode::metadata`] where that matters.
    fn size(&self) -> u64 {
        self.metadata().size
    }

    /// Whether a set-id bit is set, or it has capabilities: what a write takes away. Asked at every write.
    fn has_privileges(&self) -> bool {
        false
    }

    /// Counts of its open files, for what can be leased.
    fn open_counts(&self) -> Option<&OpenCounts> {
        None
    }

    /// Changes attributes; truncation is here, too. `EPERM`.
    fn set_attributes(&self, change: &SetAttributes) -> Result<()> {
        Err(Errno::EPERM)
    }

    /// Whether `subject` may; the generic rules on the metadata.
    fn permission(&self, subject: &Subject<'_>, want: Access) -> Result<()> {
        access::check(subject, &self.metadata(), want)
    }

    // --- directories ---

    /// The inode called `name` in this directory. `ENOTDIR`.
    fn lookup(&self, name: &[u8]) -> Result<InodeRef> {
        Err(Errno::ENOTDIR)
    }

    /// Whether the dentry cache may keep what [`Inode::lookup`] said, also that there is nothing. False for
    /// directories whose content changes by itself (`/proc`, `/dev/pts`).
    fn cacheable(&self) -> bool {
        true
    }

    /// For how many nanoseconds the dentry cache may believe what [`Inode::lookup`] said; then it asks again, and keeps the
    /// dentry if the answer is the same inode. `None`: for ever.
    fn name_validity(&self) -> Option<u64> {
        None
    }

    /// Makes a new inode called `name`, which does not exist. `EPERM`.
    fn create(&self, name: &[u8], new: &NewInode<'_>) -> Result<InodeRef> {
        Err(Errno::EPERM)
    }

    /// An unnamed regular file (`O_TMPFILE`), which may get a name if `linkable`. `EOPNOTSUPP`.
    fn create_unnamed(&self, new: &NewInode<'_>, linkable: bool) -> Result<InodeRef> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Whether it may get a name although it has none.
    fn linkable(&self) -> bool {
        false
    }

    /// Gives `target`, of the same file system and not a directory, another name. `EPERM`.
    fn link(&self, name: &[u8], target: &InodeRef) -> Result<()> {
        Err(Errno::EPERM)
    }

    /// Removes `name`, which is `victim` and not a directory. `EPERM`.
    fn unlink(&self, name: &[u8], victim: &InodeRef) -> Result<()> {
        Err(Errno::EPERM)
    }

    /// Removes the directory `name`, which is `victim`. `ENOTEMPTY` if it is not empty. `EPERM`.
    fn rmdir(&self, name: &[u8], victim: &InodeRef) -> Result<()> {
        Err(Errno::EPERM)
    }

    /// Moves `old_name` of this directory to `new_name` of `new_dir` (same file system; may be this one).
    /// `new_name` may exist (types fit, or EXCHANGE) and is replaced; `ENOTEMPTY` if it is a directory that is
    /// not empty. The VFS checked that no directory moves into itself. `EPERM`.
    fn rename(&self, old_name: &[u8], new_dir: &InodeRef, new_name: &[u8], flags: RenameFlags) -> Result<()> {
        Err(Errno::EPERM)
    }

    /// Lists names from cookie `from` (0 at first, then some [`DirEntry::next`]) until `emit` says false.
    /// Without `.` and `..`: the VFS adds them. `ENOTDIR`.
    fn readdir(&self, from: u64, emit: &mut dyn FnMut(&DirEntry<'_>) -> bool) -> Result<()> {
        Err(Errno::ENOTDIR)
    }

    // --- symbolic links ---

    /// What `readlink` shows. `task` is who asks (`/proc/self`). `EINVAL`.
    fn readlink(&self, task: Option<&TaskRef>) -> Result<Vec<u8>> {
        Err(Errno::EINVAL)
    }

    /// Where a walk goes on; the text of [`Inode::readlink`] unless this is a magic link.
    fn follow(&self, task: Option<&TaskRef>) -> Result<LinkTarget> {
        Ok(LinkTarget::Path(self.readlink(task)?))
    }

    // --- open and content ---

    /// Called for each open. `None`: the VFS drives this inode by the methods below (regular files and
    /// directories). `Some`: the open instance is an object of its own. `task` is `None` only when the kernel
    /// itself opens.
    fn open(&self, flags: OpenFlags, task: Option<&TaskRef>) -> Result<Option<Arc<dyn File>>> {
        Ok(None)
    }

    /// It was read: keeps the access time, if it does. Not called with `O_NOATIME` and on `noatime` mounts.
    fn accessed(&self) {}

    /// Puts bytes from `offset` on into `sink`: as many as it wants and there are. `EINVAL`.
    fn read_at(&self, offset: u64, sink: &mut Sink<'_>) -> Result {
        Err(if self.kind() == FileType::Directory { Errno::EISDIR } else { Errno::EINVAL })
    }

    /// Takes all of `source` to `offset` on, extending the file; short only if space ran out half-way. `EINVAL`.
    fn write_at(&self, offset: u64, source: &mut Source<'_>) -> Result {
        Err(Errno::EINVAL)
    }

    /// Takes all of `source` to the end of the file, atomically with finding the end; the result is the new
    /// end and the count.
    fn append(&self, source: &mut Source<'_>) -> Result<(u64, usize)> {
        let n = self.write_at(self.size(), source)?;
        Ok((self.size(), n))
    }

    /// As [`Inode::write_at`], or without an offset [`Inode::append`], of so much that it may take long: `go_on` is asked
    /// now and then, and its error makes the write short.
    fn write_long(
        &self,
        offset: Option<u64>,
        source: &mut Source<'_>,
        go_on: &mut dyn FnMut() -> Result<()>,
    ) -> Result<(u64, usize)> {
        match offset {
            None => self.append(source),
            Some(at) => self.write_at(at, source).map(|n| (at.saturating_add(n as u64), n)),
        }
    }

    /// Preallocates, punches or zeroes. Memory may take long to be found: `go_on` is asked before each page, and its error
    /// undoes what was preallocated. `EOPNOTSUPP`.
    fn fallocate(
        &self,
        mode: FallocateMode,
        offset: u64,
        len: u64,
        go_on: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// The next data or hole at or after `offset`, which is below the size. By default all is data.
    fn seek_data(&self, target: SeekTarget, offset: u64) -> Result<u64> {
        Ok(if target == SeekTarget::Data { offset } else { self.size() })
    }

    /// The pages of this file for `mmap`; `None`: it cannot be mapped (`ENODEV`).
    fn mappable(self: Arc<Self>) -> Option<Arc<dyn Mappable>> {
        None
    }

    /// Makes changes durable. Nothing to do for what lives in memory.
    fn fsync(&self, data_only: bool) -> Result<()> {
        Ok(())
    }

    // --- extended attributes ---

    /// The value of attribute `name`. `EOPNOTSUPP`.
    fn get_xattr(&self, name: &[u8]) -> Result<Vec<u8>> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Sets attribute `name`. `EOPNOTSUPP`.
    fn set_xattr(&self, name: &[u8], value: &[u8], flags: XattrFlags) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Removes attribute `name`. `EOPNOTSUPP`.
    fn remove_xattr(&self, name: &[u8]) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// All attribute names, each with a NUL after it.
    fn list_xattrs(&self) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }
}

/// A mounted file system: where its tree starts and what `statfs` says.
pub trait FileSystem: Send + Sync {
    /// The name in `/proc/filesystems`, such as `tmpfs`.
    fn name(&self) -> &'static str;

    /// The encoded device number its metadata reports (`st_dev`): [`alloc_anonymous_dev`].
    fn dev(&self) -> u64;

    /// The root directory.
    fn root(&self) -> InodeRef;

    /// Space and limits.
    fn statfs(&self) -> StatFs;

    /// Mount options beyond `rw`, as `/proc/mounts` shows them: `,size=64m` style, without the first comma.
    fn options(&self) -> String {
        String::new()
    }

    /// Takes other options (`MS_REMOUNT`). `EINVAL` for what it does not know, or cannot be from now on.
    fn reconfigure(&self, _options: &[u8]) -> Result<()> {
        Ok(())
    }

    /// Whether it can never be written.
    fn read_only(&self) -> bool {
        false
    }

    /// Makes everything durable.
    fn sync(&self) -> Result<()> {
        Ok(())
    }
}

/// One instance of a file system, with its device number; shared by all its mounts.
pub struct Superblock {
    fs: Arc<dyn FileSystem>,
    root: Arc<super::Dentry>,
    read_only: AtomicBool,
    owner: Arc<UserNamespace>,
}

impl Superblock {
    /// Wraps a file system of the first user namespace.
    pub fn new(fs: Arc<dyn FileSystem>) -> Arc<Superblock> {
        Self::owned(fs, UserNamespace::initial())
    }

    /// Wraps a file system that somebody of `owner` mounts.
    pub fn owned(fs: Arc<dyn FileSystem>, owner: &Arc<UserNamespace>) -> Arc<Superblock> {
        let root = super::Dentry::root(fs.root());
        Arc::new(Superblock { fs, root, read_only: AtomicBool::new(false), owner: owner.clone() })
    }

    /// In which namespace one has to be capable to change its options.
    pub fn owner(&self) -> &Arc<UserNamespace> {
        &self.owner
    }

    /// Whether it cannot be written through any mount.
    pub fn read_only(&self) -> bool {
        self.read_only.load(Ordering::Relaxed) || self.fs.read_only()
    }

    /// Changes that, if the file system can be written at all (`EROFS`).
    pub fn set_read_only(&self, read_only: bool) -> Result<()> {
        if self.fs.read_only() && !read_only {
            return Err(Errno::EROFS);
        }
        self.read_only.store(read_only, Ordering::Relaxed);
        Ok(())
    }

    /// The encoded device number (`st_dev`).
    pub fn dev(&self) -> u64 {
        self.fs.dev()
    }

    /// The file system.
    pub fn fs(&self) -> &Arc<dyn FileSystem> {
        &self.fs
    }

    /// The dentry of its root directory.
    pub fn root(&self) -> &Arc<super::Dentry> {
        &self.root
    }
}

impl Drop for Superblock {
    /// Directories and their cached children refer to each other: the cache has to let go.
    fn drop(&mut self) {
        super::inotify::unmounted(self.dev());
        self.root.forget_tree();
    }
}

/// Allocates the number of an anonymous device (major 0), for a file system that has no device of its own.
pub fn alloc_anonymous_dev() -> u64 {
    use core::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(1);
    DeviceId::new(0, NEXT.fetch_add(1, Ordering::Relaxed) & 0xf_ffff).encode()
}
