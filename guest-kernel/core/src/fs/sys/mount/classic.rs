//! mount, umount2, pivot_root.

use alloc::{sync::Arc, vec::Vec};

use super::{Caller, check_may_make, check_may_mount, check_unwritten, device_of, read_path, reconfigure};
use crate::{
    errno::{Errno, Result},
    fs::{Mount, MountFlags, Path, Superblock, WalkFlags, filesystems, mount::Type},
    syscall::{Ctx, Fd, Syscall, UserAddr, UserStr},
    syscalls,
};

const MS_RDONLY: u64 = 1;
const MS_NOATIME: u64 = 1024;
const MS_NODIRATIME: u64 = 2048;
const MS_RELATIME: u64 = 1 << 21;
const MS_STRICTATIME: u64 = 1 << 24;
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

/// What `MS_*` say of a mount.
fn mount_flags(flags: u64) -> MountFlags {
    let mut wanted = MountFlags::from_bits_truncate(flags as u32);
    wanted.set(MountFlags::RELATIME, flags & MS_NOATIME == 0);
    if flags & MS_STRICTATIME != 0 {
        wanted.remove(MountFlags::RELATIME | MountFlags::NOATIME);
    }
    wanted
}

/// Other flags of a mount, and unless `MS_BIND` is asked for as well, other options of its file system.
fn remount(
    caller: &Caller<'_>,
    place: &Path,
    flags: u64,
    mut wanted: MountFlags,
    options: &[u8],
) -> Result<()> {
    let mount = place.mount();
    if !place.is_mount_root() || !mount.namespace().is_some_and(|n| Arc::ptr_eq(&n, &caller.fs.namespace())) {
        return Err(Errno::EINVAL);
    }
    if flags & (MS_NOATIME | MS_NODIRATIME | MS_RELATIME | MS_STRICTATIME) == 0 {
        wanted = (wanted - MountFlags::ATIME) | (mount.flags() & MountFlags::ATIME);
    }
    mount.may_have_flags(wanted)?;
    if flags & MS_BIND == 0 {
        reconfigure(caller, mount.superblock(), options, Some(flags & MS_RDONLY != 0))?;
    } else if (wanted - mount.flags()).contains(MountFlags::READ_ONLY) {
        check_unwritten(caller, |other| Arc::ptr_eq(other, mount))?;
    }
    mount.set_flags(wanted)
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
    // In this order, and whatever is needed of it: what Linux copies first.
    let given_kind = text(kind, DATA_MAX)?;
    let source = text(source, DATA_MAX)?;
    let options = text(UserStr(data.0), DATA_MAX)?;
    let from = || match source.is_empty() {
        true => Err(Errno::EINVAL),
        false => caller.resolve(Fd::CWD, &source, WalkFlags::FOLLOW),
    };
    let place = caller.resolve(Fd::CWD, &read_path(target)?, WalkFlags::FOLLOW)?;
    check_may_mount(&caller)?;
    let namespace = caller.fs.namespace();
    let per_mount = mount_flags(flags);
    if flags & MS_REMOUNT != 0 {
        remount(&caller, &place, flags, per_mount, &options)?;
        return Ok(0);
    }
    if flags & MS_BIND != 0 {
        namespace.bind(&from()?, place, flags & MS_REC != 0)?;
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
        namespace.relocate(&from()?, place)?;
        return Ok(0);
    }
    if kind.is_null() {
        return Err(Errno::EINVAL);
    }
    let kind = given_kind;
    check_may_make(&caller, &kind)?;
    let fs = if filesystems::needs_device(&kind) {
        let device = device_of(&caller, &source)?;
        filesystems::create_on(&device, &kind, &options, per_mount.contains(MountFlags::READ_ONLY))?
    } else {
        filesystems::create(&kind, &options, &filesystems::Mounter::of(ctx.task))?
    };
    let superblock = Superblock::owned(fs, &caller.credentials.user_ns);
    if flags & MS_RDONLY != 0 {
        superblock.set_read_only(true)?;
    }
    let root = superblock.root().clone();
    let source: &[u8] = if source.is_empty() { b"none" } else { &source };
    namespace.mount(&Mount::new(superblock, root, per_mount, source), place)?;
    Ok(0)
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

pub(in crate::fs::sys) const SYSCALLS: &[Syscall] = syscalls! {
    155 pivot_root(new_root: UserStr, put_old: UserStr) Full "";
    165 mount(source: UserStr, target: UserStr, kind: UserStr, flags: u64, data: UserAddr) Partial "tmpfs, devtmpfs, proc, sysfs, devpts, ext2 to ext4 read-only, bind, move, propagation, remount";
    166 umount2(target: UserStr, flags: u32) Partial "no MNT_EXPIRE";
};
