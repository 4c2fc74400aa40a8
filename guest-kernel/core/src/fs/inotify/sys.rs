//! inotify_init, inotify_add_watch, inotify_rm_watch.

use alloc::sync::Arc;

use super::{
    Events,
    watch::{Inotify, InotifyFile},
};
use crate::{
    errno::{Errno, Result},
    fs::{Access, FileType, OpenFlags, Subject, Walk, WalkFlags, eventfd::install, sys::read_path},
    syscall::{Ctx, Fd, Syscall, UserStr},
    syscalls,
};

fn inotify_init(ctx: &mut Ctx<'_>) -> Result {
    inotify_init1(ctx, 0)
}

fn inotify_init1(ctx: &mut Ctx<'_>, flags: u32) -> Result {
    let allowed = OpenFlags::CLOEXEC | OpenFlags::NONBLOCK;
    let flags = OpenFlags::from_bits(flags).filter(|f| allowed.contains(*f)).ok_or(Errno::EINVAL)?;
    let instance = Inotify::new(ctx.task.credentials().uid)?;
    install(ctx.task, Arc::new(InotifyFile(instance)), "anon_inode:inotify", OpenFlags::empty(), flags)
}

fn instance(ctx: &Ctx<'_>, fd: Fd) -> Result<Arc<InotifyFile>> {
    ctx.task.files()?.get(fd.0)?.downcast::<InotifyFile>().ok_or(Errno::EINVAL)
}

fn inotify_add_watch(ctx: &mut Ctx<'_>, fd: Fd, path: UserStr, mask: u32) -> Result {
    let mask = Events::from_bits_truncate(mask);
    if mask.is_empty() {
        return Err(Errno::EINVAL);
    }
    ctx.task.files()?.get(fd.0)?;
    if mask.contains(Events::MASK_ADD | Events::MASK_CREATE) {
        return Err(Errno::EINVAL);
    }
    let instance = instance(ctx, fd)?;
    let (credentials, fs) = (ctx.task.credentials(), ctx.task.fs()?);
    let walk = Walk { subject: Subject::of(&credentials), root: fs.root(), task: Some(ctx.task) };
    let mut how = WalkFlags::empty();
    how.set(WalkFlags::FOLLOW, !mask.contains(Events::DONT_FOLLOW));
    how.set(WalkFlags::DIRECTORY, mask.contains(Events::ONLYDIR));
    let place = walk.resolve(&fs.cwd(), &read_path(path)?, how)?;
    let inode = place.inode()?;
    if mask.contains(Events::ONLYDIR) && inode.kind() != FileType::Directory {
        return Err(Errno::ENOTDIR);
    }
    inode.permission(&walk.subject, Access::READ)?;
    Ok(instance.0.watch(inode, mask)? as usize)
}

fn inotify_rm_watch(ctx: &mut Ctx<'_>, fd: Fd, wd: i32) -> Result {
    instance(ctx, fd)?.0.unwatch(wd)?;
    Ok(0)
}

pub(in crate::fs) const SYSCALLS: &[Syscall] = syscalls! {
    253 inotify_init() Full "";
    254 inotify_add_watch(fd: Fd, path: UserStr, mask: u32) Full "";
    255 inotify_rm_watch(fd: Fd, wd: i32) Full "";
    294 inotify_init1(flags: u32) Full "";
};
