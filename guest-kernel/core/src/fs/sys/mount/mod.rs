//! The system calls of mounts.
//!
//! | file | calls |
//! |---|---|
//! | `classic` | mount, umount2, pivot_root |
//! | `context` | fsopen, fspick, fsconfig, fsmount: a file system made or changed option by option |
//! | `tree` | open_tree, move_mount, mount_setattr: mounts by descriptor |
//!
//! The calls of Linux 5.2 and later take apart what mount(2) does at once: an *fs context* (a descriptor) collects
//! options, makes the file system, and gives a mount of it; that mount, or a copy of others that `open_tree` makes, is the
//! root of a nameless namespace that a descriptor holds, until `move_mount` puts it somewhere. If nobody does, it ends with
//! the descriptor.

mod classic;
mod context;
mod tree;

use alloc::{sync::Arc, vec::Vec};

use super::{Caller, read_path};
use crate::{
    block::{self, BlockDevice},
    errno::{Errno, Result},
    fs::{
        File, FileType, Mount, MountFlags, MountNamespace, OpenFile, OpenFlags, Path, WalkFlags,
        inode::Superblock,
    },
    ns::UserNamespace,
    syscall::Fd,
    task::{Capabilities, limits::Resource},
};

pub(super) use classic::SYSCALLS as CLASSIC;
pub(super) use context::SYSCALLS as CONTEXT;
pub(super) use tree::SYSCALLS as TREE;

/// Mounting needs `CAP_SYS_ADMIN` over the mount namespace. `EPERM`.
fn check_may_mount(caller: &Caller<'_>) -> Result<()> {
    let namespace = caller.fs.namespace();
    let may = caller.credentials.capable_in(namespace.owner(), Capabilities::SYS_ADMIN);
    if may { Ok(()) } else { Err(Errno::EPERM) }
}

/// Which types those without `CAP_SYS_ADMIN` over the machine may mount: with it where what is shown belongs.
/// `EPERM`.
fn check_may_make(caller: &Caller<'_>, kind: &[u8]) -> Result<()> {
    let c = &caller.credentials;
    let namespaces = caller.task.namespaces();
    let owner = match kind {
        b"tmpfs" | b"ramfs" | b"devpts" => &c.user_ns,
        b"proc" => caller.task.process().pid_ns.owner(),
        b"sysfs" => namespaces.net.owner(),
        b"mqueue" => namespaces.ipc.owner(),
        b"cgroup2" => namespaces.cgroup.owner(),
        _ => UserNamespace::initial(),
    };
    if c.capable_in(owner, Capabilities::SYS_ADMIN) { Ok(()) } else { Err(Errno::EPERM) }
}

/// The block device that `source` names. `ENOTBLK`.
fn device_of(caller: &Caller<'_>, source: &[u8]) -> Result<Arc<BlockDevice>> {
    let place = caller.resolve(Fd::CWD, source, WalkFlags::FOLLOW)?;
    let node = place.inode()?;
    if node.kind() != FileType::BlockDevice {
        return Err(Errno::ENOTBLK);
    }
    if place.mount().flags().contains(MountFlags::NODEV) {
        return Err(Errno::EACCES);
    }
    block::find(node.metadata().rdev, Some(caller.task))
}

/// `EBUSY` if somebody has a file open for writing through one of the mounts that `counts`: those cannot become read-only.
/// (Nobody keeps count of writers, because every open would pay for it; so all descriptors are looked at.)
fn check_unwritten(caller: &Caller<'_>, counts: impl Fn(&Arc<Mount>) -> bool) -> Result<()> {
    let writes = |file: &OpenFile| {
        file.flags().writable()
            && !file.is_path()
            && file.kind() == FileType::Regular
            && counts(file.path().mount())
    };
    let mut seen: Vec<usize> = Vec::new();
    for process in caller.task.kernel().pids.processes() {
        for files in process.threads().iter().filter_map(|thread| thread.files().ok()) {
            if seen.contains(&files.identity()) {
                continue;
            }
            seen.push(files.identity());
            let mut next = files.next_open(0);
            while let Some(fd) = next {
                if files.get_any(fd).is_ok_and(|file| writes(&file)) {
                    return Err(Errno::EBUSY);
                }
                next = files.next_open(fd.saturating_add(1));
            }
        }
    }
    Ok(())
}

/// Changes the options of a file system, and with `read_only` whether it can be written through any mount.
fn reconfigure(
    caller: &Caller<'_>,
    superblock: &Arc<Superblock>,
    options: &[u8],
    read_only: Option<bool>,
) -> Result<()> {
    if !caller.credentials.capable_in(superblock.owner(), Capabilities::SYS_ADMIN) {
        return Err(Errno::EPERM);
    }
    if read_only == Some(true) && !superblock.read_only() {
        check_unwritten(caller, |mount| Arc::ptr_eq(mount.superblock(), superblock))?;
    }
    superblock.fs().reconfigure(options)?;
    read_only.map_or(Ok(()), |read_only| superblock.set_read_only(read_only))
}

/// What is behind a descriptor of mounts that are nowhere yet: it holds their namespace, which ends with it.
struct Detached {
    _namespace: Arc<MountNamespace>,
}

impl File for Detached {}

/// A descriptor, as of `O_PATH`, of the root of a nameless namespace.
fn install_detached(caller: &Caller<'_>, namespace: Arc<MountNamespace>, close_on_exec: bool) -> Result {
    let mounts = namespace.mounts();
    let mount = mounts.first().ok_or(Errno::EINVAL)?;
    let place = Path::new(mount.clone(), mount.root().clone());
    let inode = place.inode()?.clone();
    drop(mounts);
    let ops: Arc<dyn File> = Arc::new(Detached { _namespace: namespace });
    install(caller, OpenFile::new(inode, Some(ops), place, OpenFlags::PATH), close_on_exec)
}

fn install(caller: &Caller<'_>, file: Arc<OpenFile>, close_on_exec: bool) -> Result {
    let limit = caller.task.process().limits.soft(Resource::OpenFiles);
    Ok(caller.task.files()?.install(file, close_on_exec, limit)? as usize)
}

/// `MOUNT_ATTR_RDONLY`, `NOSUID`, `NODEV`, `NOEXEC`, which are as in `MS_*`.
const ATTR_SAME: u64 = 0xf;
/// `MOUNT_ATTR__ATIME`: one of three, not bits.
const ATTR_ATIME: u64 = 0x70;
const ATTR_NOATIME: u64 = 0x10;
const ATTR_STRICTATIME: u64 = 0x20;
const ATTR_NODIRATIME: u64 = 0x80;
const ATTR_NOSYMFOLLOW: u64 = 0x20_0000;
/// Those there are, but for `MOUNT_ATTR_IDMAP`.
const ATTRIBUTES: u64 = ATTR_SAME | ATTR_ATIME | ATTR_NODIRATIME | ATTR_NOSYMFOLLOW;

/// The flags of `MOUNT_ATTR_*`, without those of access times but `NODIRATIME`.
fn plain_attributes(attributes: u64) -> MountFlags {
    let mut flags = MountFlags::from_bits_truncate((attributes & ATTR_SAME) as u32);
    flags.set(MountFlags::NODIRATIME, attributes & ATTR_NODIRATIME != 0);
    flags.set(MountFlags::NOSYMFOLLOW, attributes & ATTR_NOSYMFOLLOW != 0);
    flags
}

/// The flag of one of the three ways of access times. `EINVAL`.
fn access_times(attributes: u64) -> Result<MountFlags> {
    match attributes & ATTR_ATIME {
        0 => Ok(MountFlags::RELATIME),
        ATTR_NOATIME => Ok(MountFlags::NOATIME),
        ATTR_STRICTATIME => Ok(MountFlags::empty()),
        _ => Err(Errno::EINVAL),
    }
}
