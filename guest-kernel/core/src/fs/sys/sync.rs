//! fsync and its kin. Only what is on a disk outlives the sandbox.

use crate::{
    errno::{Errno, Result},
    fs::FileType,
    syscall::{Ctx, Fd, Syscall},
    syscalls,
};

fn do_fsync(ctx: &Ctx<'_>, fd: Fd, data_only: bool) -> Result {
    let file = ctx.task.files()?.get(fd.0)?;
    match file.kind() {
        FileType::Fifo | FileType::Socket => Err(Errno::EINVAL),
        _ => file.fsync(ctx.task, data_only).map(|()| 0),
    }
}

fn fsync(ctx: &mut Ctx<'_>, fd: Fd) -> Result {
    do_fsync(ctx, fd, false)
}

fn fdatasync(ctx: &mut Ctx<'_>, fd: Fd) -> Result {
    do_fsync(ctx, fd, true)
}

fn sync(ctx: &mut Ctx<'_>) -> Result {
    for mount in ctx.task.fs()?.namespace().mounts() {
        // sync(2) never fails.
        let _ = mount.superblock().fs().sync();
    }
    crate::block::sync_all(ctx.task);
    Ok(0)
}

fn syncfs(ctx: &mut Ctx<'_>, fd: Fd) -> Result {
    let file = ctx.task.files()?.get(fd.0)?;
    file.path().mount().superblock().fs().sync()?;
    Ok(0)
}

fn sync_file_range(ctx: &mut Ctx<'_>, fd: Fd, offset: i64, length: i64, flags: u32) -> Result {
    let file = ctx.task.files()?.get(fd.0)?;
    let end = offset.checked_add(length).filter(|end| *end >= offset);
    if offset < 0 || end.is_none() || flags & !7 != 0 {
        return Err(Errno::EINVAL);
    }
    let stored = matches!(file.kind(), FileType::Regular | FileType::Directory | FileType::BlockDevice);
    if !stored || !file.seekable() {
        return Err(Errno::ESPIPE);
    }
    match file.fsync(ctx.task, true) {
        Err(Errno::EINVAL) => Ok(0), // what has no pages has none to write
        outcome => outcome.map(|()| 0),
    }
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    74 fsync(fd: Fd) Full "";
    75 fdatasync(fd: Fd) Full "";
    162 sync() Full "";
    277 sync_file_range(fd: Fd, offset: i64, length: i64, flags: u32) Full "";
    306 syncfs(fd: Fd) Full "";
};
