//! open, openat, openat2, creat.

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{Caller, open_files_limit, read_path};
use crate::{
    errno::{Errno, Result},
    fs::{OpenFlags, WalkFlags, open::open as open_path},
    syscall::{
        Ctx, Fd, Syscall, UserPtr, UserStr,
        args::{Mode, read_versioned},
    },
    syscalls,
};

fn do_open(
    ctx: &mut Ctx<'_>,
    dirfd: Fd,
    path: UserStr,
    flags: OpenFlags,
    mode: u32,
    how: WalkFlags,
) -> Result {
    let caller = Caller::new(ctx)?;
    let path = read_path(path)?;
    // With RESOLVE_IN_ROOT an absolute path is one from `dirfd`, too.
    let relative = if how.contains(WalkFlags::IN_ROOT) { &[][..] } else { &path };
    let start = caller.start(dirfd, relative)?;
    let mode = mode & 0o7777 & !caller.fs.umask();
    let file = open_path(&caller.walk(), &start, &path, flags, mode, how)?;
    let fd =
        ctx.task.files()?.install(file, flags.contains(OpenFlags::CLOEXEC), open_files_limit(ctx.task))?;
    Ok(fd as usize)
}

fn open(ctx: &mut Ctx<'_>, path: UserStr, flags: u32, mode: Mode) -> Result {
    openat(ctx, Fd::CWD, path, flags, mode)
}

fn openat(ctx: &mut Ctx<'_>, dirfd: Fd, path: UserStr, flags: u32, mode: Mode) -> Result {
    do_open(ctx, dirfd, path, OpenFlags::from_bits_truncate(flags), mode.0, WalkFlags::empty())
}

fn creat(ctx: &mut Ctx<'_>, path: UserStr, mode: Mode) -> Result {
    let flags = OpenFlags::CREAT | OpenFlags::WRONLY | OpenFlags::TRUNC;
    do_open(ctx, Fd::CWD, path, flags, mode.0, WalkFlags::empty())
}

/// `struct open_how`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// `RESOLVE_NO_XDEV`, `NO_MAGICLINKS`, `NO_SYMLINKS`, `BENEATH`, `IN_ROOT`, `CACHED`.
const RESOLVE: u64 = 0x3f;

fn openat2(ctx: &mut Ctx<'_>, dirfd: Fd, path: UserStr, how: UserPtr<OpenHow>, size: usize) -> Result {
    if size < size_of::<OpenHow>() {
        return Err(Errno::EINVAL);
    }
    let how: OpenHow = read_versioned(how.0, size)?;
    let flags = u32::try_from(how.flags).ok().and_then(OpenFlags::from_bits).ok_or(Errno::EINVAL)?;
    let creates = flags.intersects(OpenFlags::CREAT | OpenFlags::TMPFILE);
    let path_only = OpenFlags::PATH | OpenFlags::DIRECTORY | OpenFlags::NOFOLLOW | OpenFlags::CLOEXEC;
    if flags.contains(OpenFlags::PATH) && !path_only.contains(flags) {
        return Err(Errno::EINVAL);
    }
    if how.resolve & !RESOLVE != 0 || how.mode & !0o7777 != 0 || (how.mode != 0 && !creates) {
        return Err(Errno::EINVAL);
    }
    let resolve = WalkFlags::from_bits_truncate((how.resolve as u32) << 8);
    if resolve.contains(WalkFlags::BENEATH | WalkFlags::IN_ROOT) {
        return Err(Errno::EINVAL);
    }
    if resolve.contains(WalkFlags::CACHED)
        && flags.intersects(OpenFlags::CREAT | OpenFlags::TRUNC | OpenFlags::TMPFILE)
    {
        return Err(Errno::EAGAIN);
    }
    do_open(ctx, dirfd, path, flags, how.mode as u32, resolve)
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    2 open(path: UserStr, flags: u32, mode: Mode) Full "";
    85 creat(path: UserStr, mode: Mode) Full "";
    257 openat(dirfd: Fd, path: UserStr, flags: u32, mode: Mode) Full "";
    437 openat2(dirfd: Fd, path: UserStr, how: UserPtr<OpenHow>, size: usize) Full "";
};
