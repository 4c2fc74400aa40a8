//! Listing directories, and where the caller is: getdents, getcwd, chdir, chroot, umask.

use super::{Caller, read_path};
use crate::{
    errno::{Errno, Result},
    fs::{Access, FileType, Path, WalkFlags, access::cap, inode::DirEntry},
    io::Sink,
    syscall::{Ctx, Fd, Syscall, UserAddr, UserStr, args::Mode},
    syscalls,
};

/// Builds one directory record. Returns its length, a multiple of 8.
type Format = fn(&DirEntry<'_>, &mut [u8; 320]) -> Option<usize>;

/// Bytes before the name in both formats.
const HEADER: usize = 18;

fn put(record: &mut [u8; 320], at: usize, bytes: &[u8]) -> Option<()> {
    record.get_mut(at..at.checked_add(bytes.len())?)?.copy_from_slice(bytes);
    Some(())
}

fn header(entry: &DirEntry<'_>, record: &mut [u8; 320], len: usize) -> Option<usize> {
    // The padding after the name; the rest is written anyway.
    put(record, len.checked_sub(8)?, &[0; 8])?;
    put(record, 0, &entry.ino.to_ne_bytes())?;
    put(record, 8, &entry.next.to_ne_bytes())?;
    put(record, 16, &(len as u16).to_ne_bytes())?;
    Some(len)
}

/// `struct linux_dirent64`: inode, cookie, length, type, name.
fn dirent64(entry: &DirEntry<'_>, record: &mut [u8; 320]) -> Option<usize> {
    let len = (HEADER + 2 + entry.name.len()).next_multiple_of(8);
    header(entry, record, len)?;
    put(record, HEADER, &[entry.kind as u8])?;
    put(record, HEADER + 1, entry.name)?;
    Some(len)
}

/// `struct linux_dirent`: inode, cookie, length, name; the type in the last byte.
fn dirent(entry: &DirEntry<'_>, record: &mut [u8; 320]) -> Option<usize> {
    let len = (HEADER + 2 + entry.name.len()).next_multiple_of(8);
    header(entry, record, len)?;
    put(record, HEADER, entry.name)?;
    put(record, len - 1, &[entry.kind as u8])?;
    Some(len)
}

fn list(ctx: &mut Ctx<'_>, fd: Fd, buf: UserAddr, count: u32, format: Format) -> Result {
    let file = ctx.task.files()?.get(fd.0)?;
    let mut sink = Sink::user(buf.0, count as usize);
    let mut record = [0u8; 320];
    let mut failed = None;
    let mut done = 0; // in whole entries
    file.readdir(&mut |entry| {
        let Some(bytes) = format(entry, &mut record).and_then(|n| record.get(..n)) else { return false };
        if bytes.len() > sink.remaining() {
            failed = Some(Errno::EINVAL); // if not even one fits
            return false;
        }
        match sink.put(bytes) {
            Ok(()) => {
                done += bytes.len();
                true
            }
            Err(e) => {
                failed = Some(e);
                false
            }
        }
    })?;
    match failed {
        Some(e) if done == 0 => Err(e),
        _ => Ok(done),
    }
}

fn getdents(ctx: &mut Ctx<'_>, fd: Fd, buf: UserAddr, count: u32) -> Result {
    list(ctx, fd, buf, count, dirent)
}

fn getdents64(ctx: &mut Ctx<'_>, fd: Fd, buf: UserAddr, count: u32) -> Result {
    list(ctx, fd, buf, count, dirent64)
}

fn getcwd(ctx: &mut Ctx<'_>, buf: UserAddr, size: usize) -> Result {
    let fs = ctx.task.fs()?;
    let mut text = fs.cwd().text(&fs.root());
    if text.deleted {
        return Err(Errno::ENOENT);
    }
    if !text.reachable {
        text.bytes.splice(0..0, b"(unreachable)".iter().copied());
    }
    text.bytes.push(0);
    if text.bytes.len() > size {
        return Err(Errno::ERANGE);
    }
    Sink::user(buf.0, size).put(&text.bytes)?;
    Ok(text.bytes.len())
}

fn enter(caller: &Caller<'_>, place: &Path) -> Result<()> {
    let inode = place.inode()?;
    if inode.kind() != FileType::Directory {
        return Err(Errno::ENOTDIR);
    }
    inode.permission(&caller.subject(), Access::EXEC)
}

fn chdir(ctx: &mut Ctx<'_>, path: UserStr) -> Result {
    let caller = Caller::new(ctx)?;
    let place = caller.resolve_user(Fd::CWD, path, WalkFlags::FOLLOW | WalkFlags::DIRECTORY)?;
    enter(&caller, &place)?;
    caller.fs.set_cwd(place);
    Ok(0)
}

fn fchdir(ctx: &mut Ctx<'_>, fd: Fd) -> Result {
    let caller = Caller::new(ctx)?;
    let place = ctx.task.files()?.get_any(fd.0)?.path().clone();
    enter(&caller, &place)?;
    caller.fs.set_cwd(place);
    Ok(0)
}

fn chroot(ctx: &mut Ctx<'_>, path: UserStr) -> Result {
    let caller = Caller::new(ctx)?;
    let place = caller.resolve(Fd::CWD, &read_path(path)?, WalkFlags::FOLLOW | WalkFlags::DIRECTORY)?;
    enter(&caller, &place)?;
    if !caller.subject().capable_here(cap::SYS_CHROOT) {
        return Err(Errno::EPERM);
    }
    caller.fs.set_root(place);
    Ok(0)
}

fn umask(ctx: &mut Ctx<'_>, mask: Mode) -> Result {
    Ok(ctx.task.fs()?.set_umask(mask.0) as usize)
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    78 getdents(fd: Fd, buf: UserAddr, count: u32) Full "";
    79 getcwd(buf: UserAddr, size: usize) Full "";
    80 chdir(path: UserStr) Full "";
    81 fchdir(fd: Fd) Full "";
    95 umask(mask: Mode) Full "";
    161 chroot(path: UserStr) Full "";
    217 getdents64(fd: Fd, buf: UserAddr, count: u32) Full "";
};
