//! Making and removing names: mkdir, mknod, symlink, link, unlink, rmdir, rename, readlink.

use super::{AT_EMPTY_PATH, AT_SYMLINK_FOLLOW, Caller, read_path};
use crate::{
    errno::{Errno, Result},
    fs::{FileType, NewKind, RenameFlags, WalkFlags, access::cap, ops, types::DeviceId},
    io::Sink,
    syscall::{Ctx, Fd, Syscall, UserAddr, UserStr, args::Mode},
    syscalls,
};

fn make(ctx: &Ctx<'_>, dirfd: Fd, path: UserStr, kind: NewKind<'_>, mode: u32) -> Result {
    let caller = Caller::new(ctx)?;
    let path = read_path(path)?;
    let parent = caller.parent(dirfd, &path)?;
    let name = ops::new_name(&parent, kind.file_type() == FileType::Directory)?;
    let mask = if matches!(kind, NewKind::Symlink(_)) { 0 } else { caller.fs.umask() };
    ops::create(&caller.subject(), &parent.dir, name, kind, mode & !mask)?;
    Ok(0)
}

fn mkdir(ctx: &mut Ctx<'_>, path: UserStr, mode: Mode) -> Result {
    mkdirat(ctx, Fd::CWD, path, mode)
}

fn mkdirat(ctx: &mut Ctx<'_>, dirfd: Fd, path: UserStr, mode: Mode) -> Result {
    make(ctx, dirfd, path, NewKind::Directory, mode.0 & 0o1777)
}

fn mknod(ctx: &mut Ctx<'_>, path: UserStr, mode: Mode, dev: u64) -> Result {
    mknodat(ctx, Fd::CWD, path, mode, dev)
}

fn mknodat(ctx: &mut Ctx<'_>, dirfd: Fd, path: UserStr, mode: Mode, dev: u64) -> Result {
    let device = DeviceId::decode(dev & 0xffff_ffff);
    let kind = match mode.0 & 0o170000 {
        0 | 0o100000 => NewKind::Regular,
        0o010000 => NewKind::Fifo,
        0o140000 => NewKind::Socket,
        0o020000 => NewKind::CharDevice(device),
        0o060000 => NewKind::BlockDevice(device),
        0o040000 => return Err(Errno::EPERM),
        _ => return Err(Errno::EINVAL),
    };
    let privileged = matches!(kind, NewKind::CharDevice(_) | NewKind::BlockDevice(_));
    if privileged && !Caller::new(ctx)?.subject().capable(cap::MKNOD) {
        return Err(Errno::EPERM);
    }
    make(ctx, dirfd, path, kind, mode.0 & 0o7777)
}

fn symlink(ctx: &mut Ctx<'_>, target: UserStr, path: UserStr) -> Result {
    symlinkat(ctx, target, Fd::CWD, path)
}

fn symlinkat(ctx: &mut Ctx<'_>, target: UserStr, dirfd: Fd, path: UserStr) -> Result {
    let target = read_path(target)?;
    if target.is_empty() {
        return Err(Errno::ENOENT);
    }
    make(ctx, dirfd, path, NewKind::Symlink(&target), 0o777)
}

fn link(ctx: &mut Ctx<'_>, old: UserStr, new: UserStr) -> Result {
    linkat(ctx, Fd::CWD, old, Fd::CWD, new, 0)
}

fn linkat(ctx: &mut Ctx<'_>, old_dirfd: Fd, old: UserStr, new_dirfd: Fd, new: UserStr, flags: u32) -> Result {
    if flags & !(AT_SYMLINK_FOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let caller = Caller::new(ctx)?;
    let mut walk = WalkFlags::empty();
    walk.set(WalkFlags::FOLLOW, flags & AT_SYMLINK_FOLLOW != 0);
    walk.set(WalkFlags::EMPTY, flags & AT_EMPTY_PATH != 0);
    let old = read_path(old)?;
    if old.is_empty() && flags & AT_EMPTY_PATH != 0 && !caller.subject().capable(cap::DAC_READ_SEARCH) {
        return Err(Errno::ENOENT);
    }
    let target = caller.resolve(old_dirfd, &old, walk)?;
    let path = read_path(new)?;
    let parent = caller.parent(new_dirfd, &path)?;
    ops::link(&caller.subject(), &target, &parent)?;
    Ok(0)
}

/// `AT_REMOVEDIR`.
const AT_REMOVEDIR: u32 = 0x200;

fn unlink(ctx: &mut Ctx<'_>, path: UserStr) -> Result {
    unlinkat(ctx, Fd::CWD, path, 0)
}

fn rmdir(ctx: &mut Ctx<'_>, path: UserStr) -> Result {
    unlinkat(ctx, Fd::CWD, path, AT_REMOVEDIR)
}

fn unlinkat(ctx: &mut Ctx<'_>, dirfd: Fd, path: UserStr, flags: u32) -> Result {
    if flags & !AT_REMOVEDIR != 0 {
        return Err(Errno::EINVAL);
    }
    let caller = Caller::new(ctx)?;
    let path = read_path(path)?;
    let parent = caller.parent(dirfd, &path)?;
    if flags & AT_REMOVEDIR != 0 {
        ops::rmdir(&caller.subject(), &parent)?;
    } else {
        ops::unlink(&caller.subject(), &parent)?;
    }
    Ok(0)
}

fn rename(ctx: &mut Ctx<'_>, old: UserStr, new: UserStr) -> Result {
    renameat2(ctx, Fd::CWD, old, Fd::CWD, new, 0)
}

fn renameat(ctx: &mut Ctx<'_>, old_dirfd: Fd, old: UserStr, new_dirfd: Fd, new: UserStr) -> Result {
    renameat2(ctx, old_dirfd, old, new_dirfd, new, 0)
}

fn renameat2(
    ctx: &mut Ctx<'_>,
    old_dirfd: Fd,
    old: UserStr,
    new_dirfd: Fd,
    new: UserStr,
    flags: u32,
) -> Result {
    let flags = RenameFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
    let caller = Caller::new(ctx)?;
    let (old, new) = (read_path(old)?, read_path(new)?);
    let from = caller.parent(old_dirfd, &old)?;
    let to = caller.parent(new_dirfd, &new)?;
    ops::rename(&caller.subject(), &from, &to, flags)?;
    Ok(0)
}

fn readlink(ctx: &mut Ctx<'_>, path: UserStr, buf: UserAddr, size: usize) -> Result {
    readlinkat(ctx, Fd::CWD, path, buf, size)
}

fn readlinkat(ctx: &mut Ctx<'_>, dirfd: Fd, path: UserStr, buf: UserAddr, size: usize) -> Result {
    if i32::try_from(size).map_or(true, |n| n == 0) {
        return Err(Errno::EINVAL);
    }
    let caller = Caller::new(ctx)?;
    let path = read_path(path)?;
    // An empty path reads a link opened by O_PATH | O_NOFOLLOW.
    let place =
        caller.resolve(dirfd, &path, if dirfd == Fd::CWD { WalkFlags::empty() } else { WalkFlags::EMPTY })?;
    let inode = place.inode()?;
    if inode.kind() != FileType::Symlink {
        return Err(if path.is_empty() { Errno::ENOENT } else { Errno::EINVAL });
    }
    Sink::user(buf.0, size).put_some(&inode.readlink(Some(ctx.task))?)
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    82 rename(old: UserStr, new: UserStr) Full "";
    83 mkdir(path: UserStr, mode: Mode) Full "";
    84 rmdir(path: UserStr) Full "";
    86 link(old: UserStr, new: UserStr) Full "";
    87 unlink(path: UserStr) Full "";
    88 symlink(target: UserStr, path: UserStr) Full "";
    89 readlink(path: UserStr, buf: UserAddr, size: usize) Full "";
    133 mknod(path: UserStr, mode: Mode, dev: u64) Full "";
    258 mkdirat(dirfd: Fd, path: UserStr, mode: Mode) Full "";
    259 mknodat(dirfd: Fd, path: UserStr, mode: Mode, dev: u64) Full "";
    263 unlinkat(dirfd: Fd, path: UserStr, flags: u32) Full "";
    264 renameat(old_dirfd: Fd, old: UserStr, new_dirfd: Fd, new: UserStr) Full "";
    265 linkat(old_dirfd: Fd, old: UserStr, new_dirfd: Fd, new: UserStr, flags: u32) Full "";
    266 symlinkat(target: UserStr, dirfd: Fd, path: UserStr) Full "";
    267 readlinkat(dirfd: Fd, path: UserStr, buf: UserAddr, size: usize) Full "";
    316 renameat2(old_dirfd: Fd, old: UserStr, new_dirfd: Fd, new: UserStr, flags: u32) Full "";
};
