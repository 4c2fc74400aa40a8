//! Extended attributes (`xattr(7)`): getxattr, setxattr, listxattr, removexattr, each by path, link or
//! descriptor.

use alloc::{vec, vec::Vec};

use ringfence_hal as hal;

use super::{Caller, read_path};
use crate::{
    errno::{Errno, Result},
    fs::{Access, FileType, Path, WalkFlags, access::cap, file_caps, inode::XattrFlags, inotify},
    io::Sink,
    syscall::{Ctx, Fd, Syscall, UserAddr, UserStr},
    syscalls,
};

/// `XATTR_NAME_MAX`.
const NAME_MAX: usize = 255;
/// `XATTR_SIZE_MAX`.
const SIZE_MAX: usize = 65536;

fn name(name: UserStr) -> Result<Vec<u8>> {
    let name = name.read(NAME_MAX + 1, Errno::ERANGE)?;
    if name.is_empty() { Err(Errno::ERANGE) } else { Ok(name) }
}

fn at(ctx: &Ctx<'_>, path: UserStr, follow: bool) -> Result<Path> {
    let flags = if follow { WalkFlags::FOLLOW } else { WalkFlags::empty() };
    Caller::new(ctx)?.resolve(Fd::CWD, &read_path(path)?, flags)
}

fn by_fd(ctx: &Ctx<'_>, fd: Fd) -> Result<Path> {
    Ok(ctx.task.files()?.get(fd.0)?.path().clone())
}

/// Who may see and set which name: `xattr(7)`.
fn check(ctx: &Ctx<'_>, place: &Path, name: &[u8], want: Access) -> Result<()> {
    let caller = Caller::new(ctx)?;
    let (inode, subject) = (place.inode()?, caller.subject());
    let write = want.contains(Access::WRITE);
    if write {
        place.mount().check_writable()?;
    }
    if name == file_caps::NAME && write {
        let m = inode.metadata();
        return if subject.capable_over(cap::SETFCAP, m.uid, m.gid) { Ok(()) } else { Err(Errno::EPERM) };
    }
    if name.starts_with(b"security.") {
        return if write && !subject.capable(cap::SYS_ADMIN) { Err(Errno::EPERM) } else { Ok(()) };
    }
    if name.starts_with(b"trusted.") {
        let no = if write { Errno::EPERM } else { Errno::ENODATA };
        return if subject.capable(cap::SYS_ADMIN) { Ok(()) } else { Err(no) };
    }
    if !name.starts_with(b"user.") {
        return Err(Errno::EOPNOTSUPP); // no ACLs
    }
    if !matches!(inode.kind(), FileType::Regular | FileType::Directory) {
        return Err(if write { Errno::EPERM } else { Errno::ENODATA });
    }
    inode.permission(&subject, want)
}

fn out(buf: UserAddr, size: usize, value: &[u8]) -> Result {
    if size == 0 {
        return Ok(value.len());
    }
    if value.len() > size {
        return Err(Errno::ERANGE);
    }
    Sink::user(buf.0, size).put(value)?;
    Ok(value.len())
}

fn get(ctx: &Ctx<'_>, place: &Path, attribute: UserStr, buf: UserAddr, size: usize) -> Result {
    let name = name(attribute)?;
    check(ctx, place, &name, Access::READ)?;
    let mut value = place.inode()?.get_xattr(&name)?;
    if name == file_caps::NAME {
        value = file_caps::to_show(&Caller::new(ctx)?.subject(), value)?;
    }
    out(buf, size, &value)
}

fn set(ctx: &Ctx<'_>, place: &Path, attribute: UserStr, value: UserAddr, size: usize, flags: u32) -> Result {
    let flags = XattrFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
    let name = name(attribute)?;
    if size > SIZE_MAX {
        return Err(Errno::E2BIG);
    }
    let mut bytes = vec![0; size];
    hal::user::copy_in(&mut bytes, value.0)?;
    if name == file_caps::NAME && !bytes.is_empty() {
        bytes = file_caps::to_store(&**place.inode()?, &Caller::new(ctx)?.subject(), &bytes)?;
    }
    check(ctx, place, &name, Access::WRITE)?;
    place.inode()?.set_xattr(&name, &bytes, flags)?;
    inotify::inode_changed(place.dentry());
    Ok(0)
}

fn list(ctx: &Ctx<'_>, place: &Path, buf: UserAddr, size: usize) -> Result {
    let mut names = place.inode()?.list_xattrs()?;
    if !Caller::new(ctx)?.subject().capable(cap::SYS_ADMIN) {
        names = names
            .split_inclusive(|b| *b == 0)
            .filter(|n| !n.starts_with(b"trusted."))
            .flatten()
            .copied()
            .collect();
    }
    out(buf, size, &names)
}

fn remove(ctx: &Ctx<'_>, place: &Path, attribute: UserStr) -> Result {
    let name = name(attribute)?;
    check(ctx, place, &name, Access::WRITE)?;
    place.inode()?.remove_xattr(&name)?;
    inotify::inode_changed(place.dentry());
    Ok(0)
}

fn setxattr(
    ctx: &mut Ctx<'_>,
    path: UserStr,
    name: UserStr,
    value: UserAddr,
    size: usize,
    flags: u32,
) -> Result {
    set(ctx, &at(ctx, path, true)?, name, value, size, flags)
}

fn lsetxattr(
    ctx: &mut Ctx<'_>,
    path: UserStr,
    name: UserStr,
    value: UserAddr,
    size: usize,
    flags: u32,
) -> Result {
    set(ctx, &at(ctx, path, false)?, name, value, size, flags)
}

fn fsetxattr(ctx: &mut Ctx<'_>, fd: Fd, name: UserStr, value: UserAddr, size: usize, flags: u32) -> Result {
    set(ctx, &by_fd(ctx, fd)?, name, value, size, flags)
}

fn getxattr(ctx: &mut Ctx<'_>, path: UserStr, name: UserStr, buf: UserAddr, size: usize) -> Result {
    get(ctx, &at(ctx, path, true)?, name, buf, size)
}

fn lgetxattr(ctx: &mut Ctx<'_>, path: UserStr, name: UserStr, buf: UserAddr, size: usize) -> Result {
    get(ctx, &at(ctx, path, false)?, name, buf, size)
}

fn fgetxattr(ctx: &mut Ctx<'_>, fd: Fd, name: UserStr, buf: UserAddr, size: usize) -> Result {
    get(ctx, &by_fd(ctx, fd)?, name, buf, size)
}

fn listxattr(ctx: &mut Ctx<'_>, path: UserStr, buf: UserAddr, size: usize) -> Result {
    list(ctx, &at(ctx, path, true)?, buf, size)
}

fn llistxattr(ctx: &mut Ctx<'_>, path: UserStr, buf: UserAddr, size: usize) -> Result {
    list(ctx, &at(ctx, path, false)?, buf, size)
}

fn flistxattr(ctx: &mut Ctx<'_>, fd: Fd, buf: UserAddr, size: usize) -> Result {
    list(ctx, &by_fd(ctx, fd)?, buf, size)
}

fn removexattr(ctx: &mut Ctx<'_>, path: UserStr, name: UserStr) -> Result {
    remove(ctx, &at(ctx, path, true)?, name)
}

fn lremovexattr(ctx: &mut Ctx<'_>, path: UserStr, name: UserStr) -> Result {
    remove(ctx, &at(ctx, path, false)?, name)
}

fn fremovexattr(ctx: &mut Ctx<'_>, fd: Fd, name: UserStr) -> Result {
    remove(ctx, &by_fd(ctx, fd)?, name)
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    188 setxattr(path: UserStr, name: UserStr, value: UserAddr, size: usize, flags: u32) Full "no ACLs";
    189 lsetxattr(path: UserStr, name: UserStr, value: UserAddr, size: usize, flags: u32) Full "no ACLs";
    190 fsetxattr(fd: Fd, name: UserStr, value: UserAddr, size: usize, flags: u32) Full "no ACLs";
    191 getxattr(path: UserStr, name: UserStr, buf: UserAddr, size: usize) Full "no ACLs";
    192 lgetxattr(path: UserStr, name: UserStr, buf: UserAddr, size: usize) Full "no ACLs";
    193 fgetxattr(fd: Fd, name: UserStr, buf: UserAddr, size: usize) Full "no ACLs";
    194 listxattr(path: UserStr, buf: UserAddr, size: usize) Full "";
    195 llistxattr(path: UserStr, buf: UserAddr, size: usize) Full "";
    196 flistxattr(fd: Fd, buf: UserAddr, size: usize) Full "";
    197 removexattr(path: UserStr, name: UserStr) Full "";
    198 lremovexattr(path: UserStr, name: UserStr) Full "";
    199 fremovexattr(fd: Fd, name: UserStr) Full "";
};
