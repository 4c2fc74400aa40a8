//! nsfs: namespaces as files (ioctl_ns(2)).
//!
//! `/proc/PID/ns/KIND` is a magic link to a file of this file system. Such a file has no name in any tree; its
//! dentry's label is what `readlink` shows, its inode number is the namespace's. It can be opened, to be given
//! to `setns` or asked by `ioctl`, and bound to a place, which keeps the namespace alive.

use alloc::{format, sync::Arc};

use super::{
    Dentry, File, FileSystem, FileType, Inode, InodeRef, Metadata, Mount, MountNamespace, OpenFile,
    OpenFlags, Path, StatFs, Superblock, inode::alloc_anonymous_dev,
};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    ns::{CgroupNamespace, IpcNamespace, NetNamespace, PidNamespace, UserNamespace, UtsNamespace},
    sync::Once,
    syscall::UserPtr,
    task::{clone::CloneFlags, limits::Resource},
};

/// A namespace of any kind.
#[derive(Clone)]
#[allow(missing_docs)] // the kinds of namespaces(7)
pub enum AnyNamespace {
    Mount(Arc<MountNamespace>),
    Uts(Arc<UtsNamespace>),
    Ipc(Arc<IpcNamespace>),
    User(Arc<UserNamespace>),
    Net(Arc<NetNamespace>),
    Cgroup(Arc<CgroupNamespace>),
    Pid(Arc<PidNamespace>),
}

impl AnyNamespace {
    /// The name in `/proc/PID/ns`.
    pub fn name(&self) -> &'static str {
        match self {
            AnyNamespace::Mount(_) => "mnt",
            AnyNamespace::Uts(_) => "uts",
            AnyNamespace::Ipc(_) => "ipc",
            AnyNamespace::User(_) => "user",
            AnyNamespace::Net(_) => "net",
            AnyNamespace::Cgroup(_) => "cgroup",
            AnyNamespace::Pid(_) => "pid",
        }
    }

    /// The `CLONE_NEW*` flag of its kind.
    pub fn flag(&self) -> CloneFlags {
        match self {
            AnyNamespace::Mount(_) => CloneFlags::NEWNS,
            AnyNamespace::Uts(_) => CloneFlags::NEWUTS,
            AnyNamespace::Ipc(_) => CloneFlags::NEWIPC,
            AnyNamespace::User(_) => CloneFlags::NEWUSER,
            AnyNamespace::Net(_) => CloneFlags::NEWNET,
            AnyNamespace::Cgroup(_) => CloneFlags::NEWCGROUP,
            AnyNamespace::Pid(_) => CloneFlags::NEWPID,
        }
    }

    /// The inode number.
    pub fn id(&self) -> u64 {
        match self {
            AnyNamespace::Mount(n) => n.id(),
            AnyNamespace::Uts(n) => n.id(),
            AnyNamespace::Ipc(n) => n.id(),
            AnyNamespace::User(n) => n.id(),
            AnyNamespace::Net(n) => n.id(),
            AnyNamespace::Cgroup(n) => n.id(),
            AnyNamespace::Pid(n) => n.id(),
        }
    }

    /// The user namespace whose capabilities count; of a user namespace its parent, which the first has not.
    pub fn owner(&self) -> Option<Arc<UserNamespace>> {
        Some(match self {
            AnyNamespace::Mount(n) => n.owner().clone(),
            AnyNamespace::Uts(n) => n.owner().clone(),
            AnyNamespace::Ipc(n) => n.owner().clone(),
            AnyNamespace::User(n) => n.parent()?.clone(),
            AnyNamespace::Net(n) => n.owner().clone(),
            AnyNamespace::Cgroup(n) => n.owner().clone(),
            AnyNamespace::Pid(n) => n.owner().clone(),
        })
    }

    /// The parent, of those kinds that nest. `EINVAL` of others, `EPERM` if it is outside what `viewer` sees.
    fn parent(&self, viewer: &TaskRef) -> Result<AnyNamespace> {
        match self {
            AnyNamespace::User(n) => {
                let parent = n.parent().ok_or(Errno::EPERM)?;
                visible(parent, viewer)?;
                Ok(AnyNamespace::User(parent.clone()))
            }
            AnyNamespace::Pid(n) => {
                let parent = n.parent().ok_or(Errno::EPERM)?;
                let seen = parent.is_within(&viewer.process().pid_ns);
                if seen { Ok(AnyNamespace::Pid(parent.clone())) } else { Err(Errno::EPERM) }
            }
            _ => Err(Errno::EINVAL),
        }
    }

    /// A place for it, as its magic link leads to.
    pub fn place(&self) -> Path {
        let label = format!("{}:[{}]", self.name(), self.id());
        let inode = Arc::new(NsInode(self.clone()));
        Path::new(internal_mount().clone(), Dentry::detached(label.as_bytes(), inode))
    }
}

/// `EPERM` if the user namespace is not the viewer's or below it.
fn visible(ns: &Arc<UserNamespace>, viewer: &TaskRef) -> Result<()> {
    if ns.is_within(&viewer.credentials().user_ns) { Ok(()) } else { Err(Errno::EPERM) }
}

/// An open namespace.
pub struct NsFile(pub AnyNamespace);

/// `ioctl` requests.
const NS_GET_USERNS: u32 = 0xb701;
const NS_GET_PARENT: u32 = 0xb702;
const NS_GET_NSTYPE: u32 = 0xb703;
const NS_GET_OWNER_UID: u32 = 0xb704;

impl File for NsFile {
    fn pollable(&self) -> bool {
        false
    }

    fn ioctl(&self, _file: &OpenFile, task: &TaskRef, command: u32, arg: u64) -> Result {
        match command {
            NS_GET_USERNS => {
                let owner = self.0.owner().ok_or(Errno::EPERM)?;
                visible(&owner, task)?;
                install(task, AnyNamespace::User(owner))
            }
            NS_GET_PARENT => install(task, self.0.parent(task)?),
            NS_GET_NSTYPE => Ok(self.0.flag().bits() as usize),
            NS_GET_OWNER_UID => {
                let AnyNamespace::User(ns) = &self.0 else { return Err(Errno::EINVAL) };
                let uid = task.credentials().user_ns.show_uid(ns.owner_uid());
                UserPtr::new(arg).write(&uid)?;
                Ok(0)
            }
            _ => Err(Errno::ENOTTY),
        }
    }
}

/// A descriptor of `ns` for `task`.
fn install(task: &TaskRef, ns: AnyNamespace) -> Result {
    let place = ns.place();
    let file = OpenFile::new(place.inode()?.clone(), Some(Arc::new(NsFile(ns))), place, OpenFlags::empty());
    let limit = task.process().limits.soft(Resource::OpenFiles);
    Ok(task.files()?.install(file, true, limit)? as usize)
}

struct NsInode(AnyNamespace);

impl Inode for NsInode {
    fn kind(&self) -> FileType {
        FileType::Regular
    }

    fn ino(&self) -> u64 {
        self.0.id()
    }

    fn metadata(&self) -> Metadata {
        Metadata::new(internal_mount().superblock().dev(), self.0.id(), FileType::Regular, 0o444)
    }

    fn open(&self, _flags: OpenFlags, _task: Option<&TaskRef>) -> Result<Option<Arc<dyn File>>> {
        Ok(Some(Arc::new(NsFile(self.0.clone()))))
    }
}

/// The namespace a place of this file system stands for.
pub fn namespace_at(place: &Path) -> Option<AnyNamespace> {
    let inode: Arc<dyn core::any::Any + Send + Sync> = place.inode().ok()?.clone();
    inode.downcast::<NsInode>().ok().map(|inode| inode.0.clone())
}

/// The mount all of them live on.
fn internal_mount() -> &'static Arc<Mount> {
    static MOUNT: Once<Arc<Mount>> = Once::new();
    MOUNT.call_once(|| Mount::internal(Superblock::new(Arc::new(Nsfs { dev: alloc_anonymous_dev() }))))
}

struct Nsfs {
    dev: u64,
}

struct Root {
    dev: u64,
}

impl Inode for Root {
    fn kind(&self) -> FileType {
        FileType::Directory
    }

    fn metadata(&self) -> Metadata {
        Metadata::new(self.dev, 1, FileType::Directory, 0o500)
    }
}

impl FileSystem for Nsfs {
    fn name(&self) -> &'static str {
        "nsfs"
    }

    fn dev(&self) -> u64 {
        self.dev
    }

    fn root(&self) -> InodeRef {
        Arc::new(Root { dev: self.dev })
    }

    fn statfs(&self) -> StatFs {
        StatFs { magic: 0x6e73_6673, block_size: 4096, name_max: 255, ..StatFs::default() }
    }
}
