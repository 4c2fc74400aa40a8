//! fcntl and flock.

use alloc::sync::Arc;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::open_files_limit;
use crate::{
    errno::{Errno, Result},
    fs::{
        FdTable, FileRef, OpenFlags, inotify,
        leases::{self, Lease},
        locks::{self, Owner, Record},
        owner::Kind,
        tmpfs::TmpInode,
    },
    syscall::{Ctx, Fd, Syscall, UserPtr},
    syscalls,
};

const F_DUPFD: u32 = 0;
const F_GETFD: u32 = 1;
const F_SETFD: u32 = 2;
const F_GETFL: u32 = 3;
const F_SETFL: u32 = 4;
const F_GETLK: u32 = 5;
const F_SETLK: u32 = 6;
const F_SETLKW: u32 = 7;
const F_SETOWN: u32 = 8;
const F_GETOWN: u32 = 9;
const F_SETSIG: u32 = 10;
const F_GETSIG: u32 = 11;
const F_SETOWN_EX: u32 = 15;
const F_GETOWN_EX: u32 = 16;
const F_GETOWNER_UIDS: u32 = 17;
const F_OFD_GETLK: u32 = 36;
const F_OFD_SETLK: u32 = 37;
const F_OFD_SETLKW: u32 = 38;
const F_SETLEASE: u32 = 1024;
const F_GETLEASE: u32 = 1025;
const F_NOTIFY: u32 = 1026;
const F_DUPFD_CLOEXEC: u32 = 1030;
const F_SETPIPE_SZ: u32 = 1031;
const F_GETPIPE_SZ: u32 = 1032;
const F_ADD_SEALS: u32 = 1033;
const F_GET_SEALS: u32 = 1034;

const FD_CLOEXEC: u64 = 1;

fn fcntl(ctx: &mut Ctx<'_>, fd: Fd, command: u32, arg: u64) -> Result {
    let files = ctx.task.files()?;
    let file = files.get_any(fd.0)?;
    if file.is_path() && !matches!(command, F_DUPFD | F_DUPFD_CLOEXEC | F_GETFD | F_SETFD | F_GETFL) {
        return Err(Errno::EBADF);
    }
    match command {
        F_DUPFD | F_DUPFD_CLOEXEC => {
            let min = u64::from(arg as u32);
            let limit = open_files_limit(ctx.task);
            if min >= limit {
                return Err(Errno::EINVAL);
            }
            Ok(files.install_from(file, command == F_DUPFD_CLOEXEC, min, limit)? as usize)
        }
        F_GETFD => Ok(usize::from(files.close_on_exec(fd.0)?)),
        F_SETFD => files.set_close_on_exec(fd.0, arg & FD_CLOEXEC != 0).map(|()| 0),
        F_GETFL => Ok(file.flags().bits() as usize),
        F_SETFL => {
            let flags = OpenFlags::from_bits_truncate(arg as u32);
            if (flags ^ file.flags()).contains(OpenFlags::ASYNC) {
                file.set_async(fd.0, flags.contains(OpenFlags::ASYNC)); // others do not keep it
            }
            file.set_status_flags(flags);
            Ok(0)
        }
        F_GETLK | F_OFD_GETLK => get_lock(ctx, &files, &file, UserPtr::new(arg), command == F_OFD_GETLK),
        F_SETLK | F_OFD_SETLK => {
            set_lock(ctx, &files, &file, UserPtr::new(arg), command == F_OFD_SETLK, false)
        }
        F_SETLKW | F_OFD_SETLKW => {
            set_lock(ctx, &files, &file, UserPtr::new(arg), command == F_OFD_SETLKW, true)
        }
        F_SETOWN => {
            let who = arg as i32;
            let pid = who.checked_abs().ok_or(Errno::EINVAL)?;
            let kind = if who < 0 { Kind::Group } else { Kind::Process };
            file.owner().set(ctx.task, kind, pid).map(|()| 0)
        }
        F_GETOWN => Ok(match file.owner().get(ctx.task) {
            (Kind::Group, pid) => -(pid as isize) as usize,
            (_, pid) => pid as usize,
        }),
        F_SETOWN_EX => {
            let [kind, pid] = UserPtr::<[i32; 2]>::new(arg).read()?;
            let kinds = [Kind::Thread, Kind::Process, Kind::Group];
            let kind = kinds.into_iter().find(|k| *k as i32 == kind).ok_or(Errno::EINVAL)?;
            file.owner().set(ctx.task, kind, pid).map(|()| 0)
        }
        F_GETOWN_EX => {
            let (kind, pid) = file.owner().get(ctx.task);
            UserPtr::new(arg).write(&[kind as i32, pid]).map(|()| 0)
        }
        F_GETOWNER_UIDS => UserPtr::new(arg).write(&file.owner().uids(ctx.task)).map(|()| 0),
        F_SETSIG => file.owner().set_signal(arg).map(|()| 0),
        F_GETSIG => Ok(file.owner().signal().into()),
        F_SETLEASE => {
            let wanted = match arg as i32 {
                0 => Some(Lease::Read),
                1 => Some(Lease::Write),
                2 => None,
                _ => return Err(Errno::EINVAL),
            };
            file.owner().set_fd(fd.0);
            leases::set(ctx.task, &file, wanted).map(|()| 0)
        }
        F_GETLEASE => Ok(leases::get(&file).map_or(F_UNLCK as usize, |l| l as usize)),
        F_NOTIFY => inotify::watch_directory(ctx.task, &files, &file, fd.0, arg).map(|()| 0),
        F_SETPIPE_SZ => file.pipe_size(ctx.task, Some(u64::from(arg as u32))),
        F_GETPIPE_SZ => file.pipe_size(ctx.task, None),
        F_ADD_SEALS if !file.flags().writable() => Err(Errno::EPERM),
        F_ADD_SEALS => tmp_inode(&file)?.add_seals(arg as u32).map(|()| 0),
        F_GET_SEALS => Ok(tmp_inode(&file)?.seals()? as usize),
        _ => Err(Errno::EINVAL),
    }
}

fn tmp_inode(file: &FileRef) -> Result<&TmpInode> {
    let any: &dyn core::any::Any = &**file.inode();
    any.downcast_ref().ok_or(Errno::EINVAL)
}

/// `struct flock`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Flock {
    kind: i16,
    whence: i16,
    pad0: u32,
    start: i64,
    len: i64,
    pid: i32,
    pad1: u32,
}

const F_RDLCK: i16 = 0;
const F_WRLCK: i16 = 1;
const F_UNLCK: i16 = 2;

/// The range and owner a `struct flock` means.
fn record(ctx: &Ctx<'_>, files: &Arc<FdTable>, file: &FileRef, lock: &Flock, ofd: bool) -> Result<Record> {
    if ofd && lock.pid != 0 {
        return Err(Errno::EINVAL);
    }
    let base = match lock.whence {
        0 => 0,
        1 => file.position() as i64,
        2 => file.inode().size() as i64,
        _ => return Err(Errno::EINVAL),
    };
    let start = base.checked_add(lock.start).ok_or(Errno::EOVERFLOW)?;
    let (start, end) = match lock.len {
        0 => (start, i64::MAX),
        n if n > 0 => (start, start.checked_add(n - 1).ok_or(Errno::EOVERFLOW)?),
        n => (start.checked_add(n).ok_or(Errno::EINVAL)?, start - 1),
    };
    let (owner, pid) = match ofd {
        true => (Owner::File(file.id()), -1),
        false => (Owner::Table(files.identity()), ctx.task.process().pid),
    };
    let start = u64::try_from(start).map_err(|_| Errno::EINVAL)?;
    let end = u64::try_from(end).map_err(|_| Errno::EINVAL)?;
    Ok(Record { owner, pid, start, end, write: lock.kind == F_WRLCK })
}

fn get_lock(ctx: &Ctx<'_>, files: &Arc<FdTable>, file: &FileRef, out: UserPtr<Flock>, ofd: bool) -> Result {
    let mut lock = out.read()?;
    if !matches!(lock.kind, F_RDLCK | F_WRLCK) {
        return Err(Errno::EINVAL);
    }
    match locks::test_record(file, &record(ctx, files, file, &lock, ofd)?) {
        None => lock.kind = F_UNLCK,
        Some(held) => {
            lock.kind = if held.write { F_WRLCK } else { F_RDLCK };
            lock.whence = 0;
            lock.start = held.start as i64;
            lock.len = if held.end == i64::MAX as u64 { 0 } else { (held.end - held.start + 1) as i64 };
            lock.pid = if held.pid < 0 { held.pid } else { ctx.task.pids().show(held.pid) };
        }
    }
    out.write(&lock)?;
    Ok(0)
}

fn set_lock(
    ctx: &Ctx<'_>,
    files: &Arc<FdTable>,
    file: &FileRef,
    from: UserPtr<Flock>,
    ofd: bool,
    wait: bool,
) -> Result {
    let lock = from.read()?;
    let record = record(ctx, files, file, &lock, ofd)?;
    match lock.kind {
        F_UNLCK => locks::unlock_record(file, &record),
        F_RDLCK if !file.flags().readable() => return Err(Errno::EBADF),
        F_WRLCK if !file.flags().writable() => return Err(Errno::EBADF),
        F_RDLCK | F_WRLCK => locks::lock_record(file, record, wait.then_some(ctx.task))?,
        _ => return Err(Errno::EINVAL),
    }
    // Another thread may have closed the descriptor meanwhile, and missed this lock.
    if !ofd && !files.contains(file) {
        locks::unlock_record(file, &record);
        return Err(Errno::EBADF);
    }
    Ok(0)
}

const LOCK_SH: u32 = 1;
const LOCK_EX: u32 = 2;
const LOCK_NB: u32 = 4;
const LOCK_UN: u32 = 8;

fn flock(ctx: &mut Ctx<'_>, fd: Fd, operation: u32) -> Result {
    let file = ctx.task.files()?.get(fd.0)?;
    let exclusive = match operation & !LOCK_NB {
        LOCK_SH => Some(false),
        LOCK_EX => Some(true),
        LOCK_UN => None,
        _ => return Err(Errno::EINVAL),
    };
    locks::flock(&file, exclusive, (operation & LOCK_NB == 0).then_some(ctx.task))?;
    Ok(0)
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    72 fcntl(fd: Fd, command: u32, arg: u64) Partial "sockets signal input only";
    73 flock(fd: Fd, operation: u32) Full "";
};
