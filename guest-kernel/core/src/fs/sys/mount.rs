//! mount, umount2.

use alloc::{sync::Arc, vec::Vec};

use super::{Caller, read_path};
use crate::{
    block::{self, BlockDevice},
    errno::{Errno, Result},
    fs::{FileType, Mount, MountFlags, Path, Superblock, WalkFlags, filesystems, mount::Type},
    ns::UserNamespace,
    syscall::{Ctx, Fd, Syscall, UserAddr, UserStr},
    syscalls,
    task::Capabilities,
};

const MS_REMOUNT: u64 = 32;
const MS_BIND: u64 = 4096;
const MS_MOVE: u64 = 8192;
const MS_REC: u64 = 16384;
const MS_SILENT: u64 = 1 << 15;
const MS_UNBINDABLE: u64 = 1 << 17;
const MS_PRIVATE: u64 = 1 << 18;
const MS_SLAVE: u64 = 1 << 19;
const MS_SHARED: u64 = 1 << 20;
/// The magic number old programs put into the upper half.
const MS_MGC_VAL: u64 = 0xc0ed_0000;

/// Options are at most a page.
const DATA_MAX: usize = 4096;

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

fn pivot_root(ctx: &mut Ctx<'_>, new_root: UserStr, put_old: UserStr) -> Result {
    let caller = Caller::new(ctx)?;
    check_may_mount(&caller)?;
    let walk = WalkFlags::FOLLOW | WalkFlags::DIRECTORY;
    let new = caller.resolve(Fd::CWD, &read_path(new_root)?, walk)?;
    let put_old = caller.resolve(Fd::CWD, &read_path(put_old)?, walk)?;
    let old = caller.fs.root();
    caller.fs.namespace().pivot(&old, &new, &put_old)?;
    let tasks = caller.task.kernel().pids.processes().into_iter().flat_map(|p| p.threads());
    tasks.filter_map(|t| t.fs().ok()).for_each(|fs| fs.follow_pivot(&old, &new));
    Ok(0)
}

fn mount(
    ctx: &mut Ctx<'_>,
    source: UserStr,
    target: UserStr,
    kind: UserStr,
    flags: u64,
    data: UserAddr,
) -> Result {
    let caller = Caller::new(ctx)?;
    let flags = if flags & 0xffff_0000 == MS_MGC_VAL { flags & 0xffff } else { flags };
    let text = |s: UserStr, max| if s.is_null() { Ok(Vec::new()) } else { s.read(max, Errno::EINVAL) };
    let options = text(UserStr(data.0), DATA_MAX)?;
    let place = caller.resolve(Fd::CWD, &read_path(target)?, WalkFlags::FOLLOW)?;
    check_may_mount(&caller)?;
    let namespace = caller.fs.namespace();
    let per_mount = MountFlags::from_bits_truncate(flags as u32);
    if flags & MS_REMOUNT != 0 {
        if !place.is_mount_root() {
            return Err(Errno::EINVAL);
        }
        place.mount().set_flags(per_mount)?;
        return Ok(0);
    }
    if flags & MS_BIND != 0 {
        let from = caller.resolve(Fd::CWD, &read_path(source)?, WalkFlags::FOLLOW)?;
        namespace.bind(&from, place, flags & MS_REC != 0)?;
        return Ok(0);
    }
    if flags & (MS_SHARED | MS_PRIVATE | MS_SLAVE | MS_UNBINDABLE) != 0 {
        let to = match flags & !(MS_REC | MS_SILENT) {
            MS_SHARED => Type::Shared,
            MS_PRIVATE => Type::Private,
            MS_SLAVE => Type::Slave,
            MS_UNBINDABLE => Type::Unbindable,
            _ => return Err(Errno::EINVAL),
        };
        namespace.change_type(&place, to, flags & MS_REC != 0)?;
        return Ok(0);
    }
    if flags & MS_MOVE != 0 {
        let from = caller.resolve(Fd::CWD, &read_path(source)?, WalkFlags::FOLLOW)?;
        namespace.relocate(&from, place)?;
        return Ok(0);
    }
    let kind = text(kind, DATA_MAX)?;
    check_may_make(&caller, &kind)?;
    let fs = if filesystems::needs_device(&kind) {
        let device = device_of(&caller, source)?;
        let read_only = per_mount.contains(MountFlags::READ_ONLY);
        filesystems::create_on(&device, &kind, &options, read_only)?
    } else {
        filesystems::create(&kind, &options, &filesystems::Mounter::of(ctx.task))?
    };
    let superblock = Superblock::new(fs);
    let root = superblock.root().clone();
    let source = text(source, DATA_MAX)?;
    let source: &[u8] = if source.is_empty() { b"none" } else { &source };
    namespace.mount(&Mount::new(superblock, root, per_mount, source), place)?;
    Ok(0)
}

/// The block device that `source` names. `ENOTBLK`.
fn device_of(caller: &Caller<'_>, source: UserStr) -> Result<Arc<BlockDevice>> {
    let place = caller.resolve(Fd::CWD, &read_path(source)?, WalkFlags::FOLLOW)?;
    let node = place.inode()?;
    if node.kind() != FileType::BlockDevice {
        return Err(Errno::ENOTBLK);
    }
    if place.mount().flags().contains(MountFlags::NODEV) {
        return Err(Errno::EACCES);
    }
    block::find(node.metadata().rdev, Some(caller.task))
}

const MNT_FORCE: u32 = 1;
const MNT_DETACH: u32 = 2;
const MNT_EXPIRE: u32 = 4;
const UMOUNT_NOFOLLOW: u32 = 8;

fn umount2(ctx: &mut Ctx<'_>, target: UserStr, flags: u32) -> Result {
    if flags & !(MNT_FORCE | MNT_DETACH | UMOUNT_NOFOLLOW) != 0 || flags & MNT_EXPIRE != 0 {
        return Err(Errno::EINVAL);
    }
    let caller = Caller::new(ctx)?;
    let walk = if flags & UMOUNT_NOFOLLOW != 0 { WalkFlags::empty() } else { WalkFlags::FOLLOW };
    let place = caller.resolve(Fd::CWD, &read_path(target)?, walk)?.below_mounts();
    check_may_mount(&caller)?;
    if !place.is_mount_root() {
        return Err(Errno::EINVAL);
    }
    let mount = place.mount().clone();
    let lazy = flags & MNT_DETACH != 0;
    drop::<Path>(place);
    if !lazy && busy(&mount) {
        return Err(Errno::EBUSY);
    }
    caller.fs.namespace().unmount(&mount, lazy)?;
    Ok(0)
}

/// Whether somebody besides the namespace (its list and the table) and the caller refers to the mount: an open
/// file, a working directory, a mount on it.
fn busy(mount: &Arc<Mount>) -> bool {
    Arc::strong_count(mount) > 3
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    155 pivot_root(new_root: UserStr, put_old: UserStr) Full "";
    165 mount(source: UserStr, target: UserStr, kind: UserStr, flags: u64, data: UserAddr) Partial "tmpfs, devtmpfs, proc, sysfs, devpts, ext2 to ext4 read-only, bind, move, propagation, remount of flags";
    166 umount2(target: UserStr, flags: u32) Partial "no MNT_EXPIRE";
};
