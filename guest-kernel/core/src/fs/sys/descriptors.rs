//! close, dup and their kin.

use super::open_files_limit;
use crate::{
    errno::{Errno, Result},
    fs::OpenFlags,
    syscall::{Ctx, Fd, Syscall},
    syscalls,
};

fn close(ctx: &mut Ctx<'_>, fd: Fd) -> Result {
    let file = ctx.task.files()?.remove(fd.0)?;
    drop(file);
    Ok(0)
}

fn dup(ctx: &mut Ctx<'_>, fd: Fd) -> Result {
    let files = ctx.task.files()?;
    let file = files.get_any(fd.0)?;
    Ok(files.install(file, false, open_files_limit(ctx.task))? as usize)
}

fn dup2(ctx: &mut Ctx<'_>, old: Fd, new: Fd) -> Result {
    if old == new {
        ctx.task.files()?.get_any(old.0)?;
        return Ok(new.0 as usize);
    }
    dup3(ctx, old, new, 0)
}

fn dup3(ctx: &mut Ctx<'_>, old: Fd, new: Fd, flags: u32) -> Result {
    let cloexec = OpenFlags::CLOEXEC.bits();
    if flags & !cloexec != 0 || old == new {
        return Err(Errno::EINVAL);
    }
    let files = ctx.task.files()?;
    let file = files.get_any(old.0)?;
    let replaced = files.replace(new.0, file, flags & cloexec != 0, open_files_limit(ctx.task))?;
    drop(replaced);
    Ok(new.0 as usize)
}

/// `CLOSE_RANGE_UNSHARE`.
const UNSHARE: u32 = 2;
/// `CLOSE_RANGE_CLOEXEC`.
const CLOEXEC: u32 = 4;

fn close_range(ctx: &mut Ctx<'_>, first: u32, last: u32, flags: u32) -> Result {
    if flags & !(UNSHARE | CLOEXEC) != 0 || first > last {
        return Err(Errno::EINVAL);
    }
    if flags & UNSHARE != 0 {
        let own = ctx.task.files()?.fork();
        drop(ctx.task.replace_files(Some(own)));
    }
    let files = ctx.task.files()?;
    if flags & CLOEXEC != 0 {
        files.set_close_on_exec_range(first..=last);
    } else {
        drop(files.remove_range(first..=last));
    }
    Ok(0)
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    3 close(fd: Fd) Full "";
    32 dup(fd: Fd) Full "";
    33 dup2(old: Fd, new: Fd) Full "";
    292 dup3(old: Fd, new: Fd, flags: u32) Full "";
    436 close_range(first: u32, last: u32, flags: u32) Full "";
};
