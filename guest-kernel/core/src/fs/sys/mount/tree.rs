//! open_tree, move_mount, mount_setattr.

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{
    ATTR_ATIME, ATTRIBUTES, Caller, access_times, check_may_mount, check_unwritten, install,
    install_detached, plain_attributes, read_path,
};
use crate::{
    errno::{Errno, Result},
    fs::{
        MountFlags, OpenFile, OpenFlags, WalkFlags,
        mount::{FlagChange, Type},
        sys::{AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW, at_flags},
    },
    syscall::{Ctx, Fd, Syscall, UserAddr, UserStr, args::read_versioned},
    syscalls,
};

const AT_NO_AUTOMOUNT: u32 = 0x800;
const AT_RECURSIVE: u32 = 0x8000;
const OPEN_TREE_CLONE: u32 = 1;
const OPEN_TREE_CLOEXEC: u32 = OpenFlags::CLOEXEC.bits();

fn open_tree(ctx: &mut Ctx<'_>, dirfd: Fd, path: UserStr, flags: u32) -> Result {
    let how = AT_EMPTY_PATH | AT_NO_AUTOMOUNT | AT_SYMLINK_NOFOLLOW;
    let recursive = flags & AT_RECURSIVE != 0;
    let copy = flags & OPEN_TREE_CLONE != 0;
    if flags & !(how | AT_RECURSIVE | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC) != 0 || (recursive && !copy) {
        return Err(Errno::EINVAL);
    }
    let caller = Caller::new(ctx)?;
    if copy {
        check_may_mount(&caller)?;
    }
    let place = caller.resolve(dirfd, &read_path(path)?, at_flags(flags & how, how)?)?;
    let close_on_exec = flags & OPEN_TREE_CLOEXEC != 0;
    if copy {
        let namespace = caller.fs.namespace().copy_detached(&place, recursive)?;
        return install_detached(&caller, namespace, close_on_exec);
    }
    let inode = place.inode()?.clone();
    install(&caller, OpenFile::new(inode, None, place, OpenFlags::PATH), close_on_exec)
}

const F_SYMLINKS: u32 = 1;
const F_AUTOMOUNTS: u32 = 2;
const F_EMPTY_PATH: u32 = 4;
const T_SYMLINKS: u32 = 0x10;
const T_AUTOMOUNTS: u32 = 0x20;
const T_EMPTY_PATH: u32 = 0x40;
const SET_GROUP: u32 = 0x100;

fn move_mount(ctx: &mut Ctx<'_>, from_fd: Fd, from: UserStr, to_fd: Fd, to: UserStr, flags: u32) -> Result {
    let caller = Caller::new(ctx)?;
    check_may_mount(&caller)?;
    let from_flags = F_SYMLINKS | F_AUTOMOUNTS | F_EMPTY_PATH;
    if flags & !(from_flags | T_SYMLINKS | T_AUTOMOUNTS | T_EMPTY_PATH | SET_GROUP) != 0 {
        return Err(Errno::EINVAL);
    }
    let walk = |follow: u32, empty: u32| {
        let mut walk = WalkFlags::empty();
        walk.set(WalkFlags::FOLLOW, flags & follow != 0);
        walk.set(WalkFlags::EMPTY, flags & empty != 0);
        walk
    };
    let from = caller.resolve(from_fd, &read_path(from)?, walk(F_SYMLINKS, F_EMPTY_PATH))?;
    let to = caller.resolve(to_fd, &read_path(to)?, walk(T_SYMLINKS, T_EMPTY_PATH))?;
    let namespace = caller.fs.namespace();
    if flags & SET_GROUP != 0 {
        namespace.join_group(&from, &to, &caller.credentials)?;
    } else {
        namespace.relocate(&from, to)?;
    }
    Ok(0)
}

/// `struct mount_attr`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// `MOUNT_ATTR_IDMAP`.
const IDMAP: u64 = 0x10_0000;

/// What a `struct mount_attr` asks for. `EINVAL`, also for id-mapped mounts, which no file system here can have.
fn decode(caller: &Caller<'_>, attr: &MountAttr) -> Result<(FlagChange, Option<Type>)> {
    let propagation = match attr.propagation {
        0 => None,
        0x2_0000 => Some(Type::Unbindable),
        0x4_0000 => Some(Type::Private),
        0x8_0000 => Some(Type::Slave),
        0x10_0000 => Some(Type::Shared),
        _ => return Err(Errno::EINVAL),
    };
    if (attr.set | attr.clear) & !(ATTRIBUTES | IDMAP) != 0 {
        return Err(Errno::EINVAL);
    }
    let mut change = FlagChange { set: plain_attributes(attr.set), clear: plain_attributes(attr.clear) };
    match (attr.clear & ATTR_ATIME, attr.set & ATTR_ATIME) {
        (0, 0) => {}
        (ATTR_ATIME, _) => {
            change.clear |= MountFlags::RELATIME | MountFlags::NOATIME;
            change.set |= access_times(attr.set)?;
        }
        // The three are no bits: all are cleared where one is set.
        _ => return Err(Errno::EINVAL),
    }
    if (attr.set | attr.clear) & IDMAP != 0 {
        if attr.clear & IDMAP == 0 {
            caller.task.files()?.get(i32::try_from(attr.user_namespace).map_err(|_| Errno::EINVAL)?)?;
        }
        return Err(Errno::EINVAL);
    }
    Ok((change, propagation))
}

fn mount_setattr(
    ctx: &mut Ctx<'_>,
    dirfd: Fd,
    path: UserStr,
    flags: u32,
    attr: UserAddr,
    size: usize,
) -> Result {
    let how = AT_EMPTY_PATH | AT_NO_AUTOMOUNT | AT_SYMLINK_NOFOLLOW;
    if flags & !(how | AT_RECURSIVE) != 0 {
        return Err(Errno::EINVAL);
    }
    if size > ringfence_hal::PAGE_SIZE {
        return Err(Errno::E2BIG);
    }
    if size < size_of::<MountAttr>() {
        return Err(Errno::EINVAL);
    }
    let caller = Caller::new(ctx)?;
    check_may_mount(&caller)?;
    let attr: MountAttr = read_versioned(attr.0, size)?;
    if attr.set == 0 && attr.clear == 0 && attr.propagation == 0 {
        return Ok(0);
    }
    let (change, propagation) = decode(&caller, &attr)?;
    let place = caller.resolve(dirfd, &read_path(path)?, at_flags(flags & how, how)?)?;
    let recursive = flags & AT_RECURSIVE != 0;
    caller.fs.namespace().set_attributes(&place, recursive, change, propagation, |mounts| {
        check_unwritten(&caller, |mount| mounts.iter().any(|m| alloc::sync::Arc::ptr_eq(m, mount)))
    })?;
    Ok(0)
}

pub(in crate::fs::sys) const SYSCALLS: &[Syscall] = syscalls! {
    428 open_tree(dirfd: Fd, path: UserStr, flags: u32) Full "";
    429 move_mount(from_fd: Fd, from: UserStr, to_fd: Fd, to: UserStr, flags: u32) Full "";
    442 mount_setattr(dirfd: Fd, path: UserStr, flags: u32, attr: UserAddr, size: usize) Partial "no id-mapped mounts, as tmpfs of Linux 6.1";
};
