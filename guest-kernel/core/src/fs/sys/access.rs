//! access, faccessat, faccessat2.

use super::{AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW, Caller, at_flags, read_path};
use crate::{
    errno::{Errno, Result},
    fs::{Access, FileType, MountFlags, Subject, Walk, WalkFlags},
    syscall::{Ctx, Fd, Syscall, UserStr},
    syscalls,
};

/// `AT_EACCESS`: ask for the effective ids.
const AT_EACCESS: u32 = 0x200;

fn do_access(
    ctx: &Ctx<'_>,
    dirfd: Fd,
    path: UserStr,
    mode: u32,
    effective: bool,
    flags: WalkFlags,
) -> Result {
    if mode & !7 != 0 {
        return Err(Errno::EINVAL);
    }
    let caller = Caller::new(ctx)?;
    let mut subject = caller.subject();
    if !effective {
        let c = &caller.credentials;
        let capabilities = if Some(c.uid) == c.root_uid() { c.permitted.bits() } else { 0 };
        subject = Subject { uid: c.uid, gid: c.gid, capabilities, ..subject };
    }
    let path = read_path(path)?;
    let walk = Walk { subject, root: caller.fs.root(), task: Some(caller.task) };
    let place = walk.resolve(&caller.start(dirfd, &path)?, &path, flags)?;
    let want = Access::from_bits_truncate(mode);
    let inode = place.inode()?;
    if want.contains(Access::WRITE)
        && matches!(inode.kind(), FileType::Regular | FileType::Directory | FileType::Symlink)
    {
        place.mount().check_writable()?;
    }
    if want.contains(Access::EXEC)
        && inode.kind() == FileType::Regular
        && place.mount().flags().contains(MountFlags::NOEXEC)
    {
        return Err(Errno::EACCES);
    }
    inode.permission(&subject, want)?;
    Ok(0)
}

fn access(ctx: &mut Ctx<'_>, path: UserStr, mode: u32) -> Result {
    do_access(ctx, Fd::CWD, path, mode, false, WalkFlags::FOLLOW)
}

fn faccessat(ctx: &mut Ctx<'_>, dirfd: Fd, path: UserStr, mode: u32) -> Result {
    do_access(ctx, dirfd, path, mode, false, WalkFlags::FOLLOW)
}

fn faccessat2(ctx: &mut Ctx<'_>, dirfd: Fd, path: UserStr, mode: u32, flags: u32) -> Result {
    let walk = at_flags(flags, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH | AT_EACCESS)?;
    do_access(ctx, dirfd, path, mode, flags & AT_EACCESS != 0, walk)
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    21 access(path: UserStr, mode: u32) Full "";
    269 faccessat(dirfd: Fd, path: UserStr, mode: u32) Full "";
    439 faccessat2(dirfd: Fd, path: UserStr, mode: u32, flags: u32) Full "";
};
