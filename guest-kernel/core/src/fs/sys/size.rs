//! truncate, ftruncate, fallocate, and advice about reading.

use super::{Caller, read_path};
use crate::{
    errno::{Errno, Result},
    fs::{
        Access, FallocateMode, FileType, SetAttributes, WalkFlags,
        file::{check_size_limit, remove_privileges},
        inotify,
        leases::{self, OpenCounts},
    },
    syscall::{Ctx, Fd, Syscall, UserStr},
    syscalls,
};

fn truncate(ctx: &mut Ctx<'_>, path: UserStr, length: i64) -> Result {
    let size = u64::try_from(length).map_err(|_| Errno::EINVAL)?;
    let caller = Caller::new(ctx)?;
    let place = caller.resolve(Fd::CWD, &read_path(path)?, WalkFlags::FOLLOW)?;
    let inode = place.inode()?;
    match inode.kind() {
        FileType::Regular => {}
        FileType::Directory => return Err(Errno::EISDIR),
        _ => return Err(Errno::EINVAL),
    }
    place.mount().check_writable()?;
    inode.permission(&caller.subject(), Access::WRITE)?;
    if size > inode.size() {
        check_size_limit(ctx.task, size)?;
    }
    inode.open_counts().map_or(Ok(()), OpenCounts::may_write)?;
    leases::break_for(ctx.task, &**inode, 0, true, false)?;
    remove_privileges(&**inode, ctx.task)?;
    inode.set_attributes(&SetAttributes { size: Some(size), ..SetAttributes::default() })?;
    inotify::modified(place.dentry());
    Ok(0)
}

fn ftruncate(ctx: &mut Ctx<'_>, fd: Fd, length: i64) -> Result {
    let size = u64::try_from(length).map_err(|_| Errno::EINVAL)?;
    ctx.task.files()?.get(fd.0)?.truncate(ctx.task, size)?;
    Ok(0)
}

fn fallocate(ctx: &mut Ctx<'_>, fd: Fd, mode: u32, offset: i64, length: i64) -> Result {
    let offset = u64::try_from(offset).map_err(|_| Errno::EINVAL)?;
    let length = u64::try_from(length).ok().filter(|n| *n > 0).ok_or(Errno::EINVAL)?;
    let mode = FallocateMode::from_bits(mode).ok_or(Errno::EOPNOTSUPP)?;
    let both = FallocateMode::PUNCH_HOLE | FallocateMode::ZERO_RANGE;
    if mode.contains(both)
        || (mode.contains(FallocateMode::PUNCH_HOLE) && !mode.contains(FallocateMode::KEEP_SIZE))
    {
        return Err(Errno::EOPNOTSUPP);
    }
    ctx.task.files()?.get(fd.0)?.fallocate(ctx.task, mode, offset, length)?;
    Ok(0)
}

fn fadvise64(ctx: &mut Ctx<'_>, fd: Fd, _offset: i64, length: i64, advice: u32) -> Result {
    let file = ctx.task.files()?.get(fd.0)?;
    if !file.seekable() && file.kind() != FileType::CharDevice {
        return Err(Errno::ESPIPE);
    }
    if length < 0 || advice > 5 {
        return Err(Errno::EINVAL);
    }
    Ok(0) // everything is in memory already
}

fn readahead(ctx: &mut Ctx<'_>, fd: Fd, _offset: i64, _count: usize) -> Result {
    let file = ctx.task.files()?.get(fd.0)?;
    if !file.flags().readable() {
        return Err(Errno::EBADF);
    }
    if file.kind() != FileType::Regular {
        return Err(Errno::EINVAL);
    }
    Ok(0) // everything is in memory already
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    76 truncate(path: UserStr, length: i64) Full "";
    77 ftruncate(fd: Fd, length: i64) Full "";
    187 readahead(fd: Fd, offset: i64, count: usize) Full "";
    221 fadvise64(fd: Fd, offset: i64, length: i64, advice: u32) Full "";
    285 fallocate(fd: Fd, mode: u32, offset: i64, length: i64) Partial "as on tmpfs: no COLLAPSE, INSERT or UNSHARE range";
};
