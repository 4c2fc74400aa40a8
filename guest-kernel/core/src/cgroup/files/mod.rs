//! The file system `cgroup2`.
//!
//! What Linux does: one tree of directories for the one hierarchy, however often it is mounted; each directory has the
//! files of the core and of the controllers that are enabled for it. What we do: the same; an inode is made at each
//! lookup and refers to its group, which also keeps the owners and modes that were changed. Nothing is cached, because
//! files come and go with `cgroup.subtree_control` of the parent. Changes through another mount are seen at once.
//!
//! A group that was removed while somebody still has its directory open has no names in it, and its files are
//! `ENODEV`, as on Linux.
//!
//! | file | idea |
//! |---|---|
//! | here | the file system, directories |
//! | `file` | files: tables of them, reading, writing, polling |
//! | `core`, `cpu`, `memory`, `pids` | the tables |

mod core;
mod cpu;
mod file;
mod memory;
mod pids;

use alloc::{string::String, sync::Arc};

pub(super) use file::changed;

use super::{Attributes, Cgroup};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    fs::{
        DirEntry, FileRef, FileSystem, FileType, Inode, InodeRef, Metadata, NewInode, NewKind, SetAttributes,
        StatFs, Subject,
        access::{self, Access},
        filesystems,
        inode::alloc_anonymous_dev,
    },
    sync::Once,
};

/// `CGROUP2_SUPER_MAGIC`.
const MAGIC: u64 = 0x6367_7270;

struct CgroupFs {
    root: Arc<Cgroup>,
}

/// Makes the type known.
pub fn register() {
    super::memory::register();
    filesystems::register("cgroup2", |options, mounter| {
        check_options(options)?;
        let root = mounter.namespaces.cgroup.root().clone();
        Ok(Arc::new(CgroupFs { root }))
    });
}

/// Options are accepted that change nothing here: delegation to namespaces is always checked, protection is not
/// recursive because nothing is reclaimed by it.
fn check_options(options: &[u8]) -> Result<()> {
    const KNOWN: [&[u8]; 4] =
        [b"nsdelegate", b"memory_recursiveprot", b"memory_localevents", b"favordynmods"];
    let known = |option: &[u8]| option.is_empty() || KNOWN.contains(&option);
    if options.split(|b| *b == b',').all(known) { Ok(()) } else { Err(Errno::EINVAL) }
}

/// One device number for the hierarchy.
fn dev() -> u64 {
    static DEV: Once<u64> = Once::new();
    *DEV.call_once(alloc_anonymous_dev)
}

impl FileSystem for CgroupFs {
    fn name(&self) -> &'static str {
        "cgroup2"
    }

    fn dev(&self) -> u64 {
        dev()
    }

    fn root(&self) -> InodeRef {
        Arc::new(Directory { group: self.root.clone() })
    }

    fn statfs(&self) -> StatFs {
        StatFs { magic: MAGIC, block_size: 4096, name_max: 255, ..StatFs::default() }
    }

    fn options(&self) -> String {
        String::from("nsdelegate")
    }
}

/// The directory of a group.
struct Directory {
    group: Arc<Cgroup>,
}

/// The group whose directory `file` is, opened in any way. `EBADF` if it is none.
pub fn group_of(file: &FileRef) -> Result<Arc<Cgroup>> {
    let any: &dyn ::core::any::Any = &**file.inode();
    any.downcast_ref::<Directory>().map(|d| d.group.clone()).ok_or(Errno::EBADF)
}

/// Whether `subject` may write `cgroup.procs` of `group`. `EACCES`.
pub fn check_may_write_procs(group: &Cgroup, subject: &Subject<'_>) -> Result<()> {
    let (entry, _) = file::find(group, "cgroup.procs").ok_or(Errno::ENODEV)?;
    let a = file::attributes(group, entry);
    access::check_mode(subject, FileType::Regular, a.mode, a.uid, a.gid, Access::WRITE)
}

fn metadata(ino: u64, kind: FileType, a: Attributes) -> Metadata {
    let mut m = Metadata::new(dev(), ino, kind, a.mode);
    (m.uid, m.gid) = (a.uid, a.gid);
    m
}

impl Inode for Directory {
    fn kind(&self) -> FileType {
        FileType::Directory
    }

    fn ino(&self) -> u64 {
        u64::from(self.group.id())
    }

    fn metadata(&self) -> Metadata {
        let mut m = metadata(self.ino(), FileType::Directory, *self.group.attributes.lock());
        m.nlink = 2 + self.group.children.lock().len() as u32;
        m
    }

    fn set_attributes(&self, change: &SetAttributes) -> Result<()> {
        let mut a = self.group.attributes.lock();
        a.uid = change.uid.unwrap_or(a.uid);
        a.gid = change.gid.unwrap_or(a.gid);
        a.mode = change.mode.map_or(a.mode, |mode| mode & 0o7777);
        Ok(())
    }

    fn cacheable(&self) -> bool {
        false
    }

    fn lookup(&self, name: &[u8]) -> Result<InodeRef> {
        if let Some(group) = self.group.child(name) {
            return Ok(Arc::new(Directory { group }));
        }
        let name = ::core::str::from_utf8(name).map_err(|_| Errno::ENOENT)?;
        file::lookup(&self.group, name)
    }

    fn create(&self, name: &[u8], new: &NewInode<'_>) -> Result<InodeRef> {
        match new.kind {
            NewKind::Directory => {
                Ok(Arc::new(Directory { group: self.group.make_child(name, new.uid, new.gid, new.mode)? }))
            }
            NewKind::Regular => Err(Errno::EACCES),
            _ => Err(Errno::EPERM),
        }
    }

    fn rmdir(&self, name: &[u8], _victim: &InodeRef) -> Result<()> {
        self.group.child(name).ok_or(Errno::ENOENT)?.remove()
    }

    fn readdir(&self, from: u64, emit: &mut dyn FnMut(&DirEntry<'_>) -> bool) -> Result<()> {
        // Cookies: files by their place in the tables, then groups by their numbers.
        let Some(mut next) = file::readdir(&self.group, from, emit) else { return Ok(()) };
        loop {
            let group = {
                let children = self.group.children.lock();
                let later = children.values().filter(|c| file::COOKIES + u64::from(c.id()) >= next);
                later.min_by_key(|c| c.id()).cloned()
            };
            let Some(group) = group else { return Ok(()) };
            let ino = u64::from(group.id());
            next = file::COOKIES + ino + 1;
            if !emit(&DirEntry { name: &group.name, ino, kind: FileType::Directory, next }) {
                return Ok(());
            }
        }
    }

    fn open(
        &self,
        _flags: crate::fs::OpenFlags,
        _task: Option<&TaskRef>,
    ) -> Result<Option<Arc<dyn crate::fs::File>>> {
        Ok(None)
    }
}
