//! Listing directories, and where the caller is: getdents, getcwd, chdir, chroot, umask.

use alloc::vec::Vec;

use super::{Caller, read_path};
use crate::{
    errno::{Errno, Result},
    fs::{Access, FileType, Path, WalkFlags, access::cap, inode::DirEntry},
    io::Sink,
    syscall::{Ctx, Fd, Syscall, UserAddr, UserStr, args::Mode},
    syscalls,
};

/// Adds one directory record of `len` bytes.
type Format = fn(&DirEntry<'_>, len: usize, &mut Vec<u8>);

/// Bytes before the name in the older format.
const HEADER: usize = 18;
/// Where a record has the cookie of what follows it, and its length.
const NEXT: usize = 8;
const LEN: usize = 16;
/// Records are copied to the program this many bytes at a time.
const BATCH: usize = 2048;

fn header(entry: &DirEntry<'_>, len: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&entry.ino.to_ne_bytes());
    out.extend_from_slice(&entry.next.to_ne_bytes());
    out.extend_from_slice(&(len as u16).to_ne_bytes());
}

/// `struct linux_dirent64`: inode, cookie, length, type, name.
fn dirent64(entry: &DirEntry<'_>, len: usize, out: &mut Vec<u8>) {
    let end = out.len() + len;
    header(entry, len, out);
    out.push(entry.kind as u8);
    out.extend_from_slice(entry.name);
    out.resize(end, 0);
}

/// `struct linux_dirent`: inode, cookie, length, name; the type in the last byte.
fn dirent(entry: &DirEntry<'_>, len: usize, out: &mut Vec<u8>) {
    let end = out.len() + len;
    header(entry, len, out);
    out.extend_from_slice(entry.name);
    out.resize(end - 1, 0);
    out.push(entry.kind as u8);
}

fn field<const N: usize>(record: &[u8], at: usize) -> Option<[u8; N]> {
    record.get(at..)?.first_chunk().copied()
}

/// Records on their way to the program.
struct Records {
    sink: Sink<'static>,
    /// Bytes that the program has room for beyond those in `batch`.
    room: usize,
    batch: Vec<u8>,
    /// The position behind what is in `batch`, and behind what the program has.
    position: u64,
    delivered: u64,
    /// Bytes of what the program has.
    done: usize,
    /// There was no room for another one.
    full: bool,
    fault: Option<Errno>,
}

impl Records {
    fn new(buf: UserAddr, room: usize, position: u64) -> Self {
        Records {
            sink: Sink::user(buf.0, room),
            room,
            batch: Vec::with_capacity(BATCH.min(room)),
            position,
            delivered: position,
            done: 0,
            full: false,
            fault: None,
        }
    }

    /// Adds one. False if there is no room for it, or what there is cannot be delivered.
    fn add(&mut self, entry: &DirEntry<'_>, format: Format) -> bool {
        let len = (HEADER + 2 + entry.name.len()).next_multiple_of(8);
        self.full = len > self.room;
        if self.full {
            return false;
        }
        if self.batch.len() + len > BATCH {
            self.deliver();
        }
        if self.fault.is_some() {
            return false;
        }
        format(entry, len, &mut self.batch);
        (self.room, self.position) = (self.room - len, entry.next);
        true
    }

    /// Copies the batch to the program, unless that has failed before.
    fn deliver(&mut self) {
        if self.fault.is_some() {
            return;
        }
        if self.sink.put(&self.batch).is_ok() {
            (self.done, self.delivered) = (self.sink.done(), self.position);
            self.batch.clear();
            return;
        }
        self.fault = Some(Errno::EFAULT);
        // Linux copies one at a time: whole ones before the bad page have been read.
        let copied = self.sink.done() - self.done;
        let mut rest = self.batch.as_slice();
        while let Some(len) = field(rest, LEN).map(u16::from_ne_bytes) {
            let Some((record, behind)) = rest.split_at_checked(len.into()) else { break };
            if self.batch.len() - behind.len() > copied {
                break;
            }
            self.done += record.len();
            self.delivered = field(record, NEXT).map_or(self.delivered, u64::from_ne_bytes);
            rest = behind;
        }
        self.batch.clear();
    }
}

fn list(ctx: &mut Ctx<'_>, fd: Fd, buf: UserAddr, count: u32, format: Format) -> Result {
    let file = ctx.task.files()?.get(fd.0)?;
    let mut records = Records::new(buf, count as usize, file.position());
    let listed = file.readdir(&mut |entry| records.add(entry, format));
    records.deliver();
    if records.fault.is_some() {
        file.with_position(|position| *position = records.delivered);
    }
    match (listed, records.fault) {
        _ if records.done > 0 => Ok(records.done),
        (Err(e), _) | (_, Some(e)) => Err(e),
        _ if records.full => Err(Errno::EINVAL), // not even one fits
        _ => Ok(0),
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
