//! The system calls that make sockets, name them and connect them.

use alloc::sync::Arc;

use super::{
    family,
    message::{read_address, write_address_sized},
    socket::{Socket, SocketFile},
};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    fs::{FileRef, OpenFlags},
    syscall::{Ctx, Fd, Syscall, UserAddr, UserPtr},
    syscalls,
    task::limits::Resource,
};

/// Splits `type` into kind and flags.
fn kind_of(kind: u32) -> Result<(u32, OpenFlags)> {
    Ok((kind & 0xf, socket_flags(kind & !0xf)?))
}

fn socket_flags(flags: u32) -> Result<OpenFlags> {
    let allowed = OpenFlags::CLOEXEC | OpenFlags::NONBLOCK;
    OpenFlags::from_bits(flags).filter(|f| allowed.contains(*f)).ok_or(Errno::EINVAL)
}

fn install(task: &TaskRef, file: FileRef, flags: OpenFlags) -> Result {
    let limit = task.process().limits.soft(Resource::OpenFiles);
    Ok(task.files()?.install(file, flags.contains(OpenFlags::CLOEXEC), limit)? as usize)
}

/// The socket of a descriptor and whether calls on it block. `ENOTSOCK`.
pub(super) fn find(task: &TaskRef, fd: Fd) -> Result<(Arc<dyn Socket>, bool)> {
    let file = task.files()?.get(fd.0)?;
    let socket = file.downcast::<SocketFile>().ok_or(Errno::ENOTSOCK)?;
    Ok((socket.0.clone(), file.nonblocking()))
}

fn socket(ctx: &mut Ctx<'_>, domain: i32, kind: u32, protocol: i32) -> Result {
    let (kind, flags) = kind_of(kind)?;
    let socket = (family::find(domain, kind)?.create)(ctx.task, kind, protocol)?;
    install(ctx.task, SocketFile::open(ctx.task, socket, flags), flags)
}

fn socketpair(ctx: &mut Ctx<'_>, domain: i32, kind: u32, protocol: i32, fds: UserPtr<[i32; 2]>) -> Result {
    let (kind, flags) = kind_of(kind)?;
    let pair = (family::find(domain, kind)?.pair)(ctx.task, kind, protocol)?;
    let pair = pair.map(|s| SocketFile::open(ctx.task, s, flags));
    let files = ctx.task.files()?;
    let limit = ctx.task.process().limits.soft(Resource::OpenFiles);
    let numbers = files.install_pair(pair, flags.contains(OpenFlags::CLOEXEC), limit)?;
    if let Err(e) = fds.write(&numbers) {
        numbers.iter().for_each(|fd| drop(files.remove(*fd)));
        return Err(e);
    }
    Ok(0)
}

fn bind(ctx: &mut Ctx<'_>, fd: Fd, addr: UserAddr, len: usize) -> Result {
    let (socket, _) = find(ctx.task, fd)?;
    socket.bind(ctx.task, &read_address(addr, len)?)?;
    Ok(0)
}

fn listen(ctx: &mut Ctx<'_>, fd: Fd, backlog: i32) -> Result {
    find(ctx.task, fd)?.0.listen(ctx.task, backlog)?;
    Ok(0)
}

fn connect(ctx: &mut Ctx<'_>, fd: Fd, addr: UserAddr, len: usize) -> Result {
    let (socket, nonblocking) = find(ctx.task, fd)?;
    socket.connect(ctx.task, &read_address(addr, len)?, nonblocking)?;
    Ok(0)
}

fn accept(ctx: &mut Ctx<'_>, fd: Fd, addr: UserAddr, len: UserPtr<i32>) -> Result {
    accept4(ctx, fd, addr, len, 0)
}

fn accept4(ctx: &mut Ctx<'_>, fd: Fd, addr: UserAddr, len: UserPtr<i32>, flags: u32) -> Result {
    let flags = socket_flags(flags)?;
    let (socket, nonblocking) = find(ctx.task, fd)?;
    // Who can have no more descriptors loses no connection.
    let limit = ctx.task.process().limits.soft(Resource::OpenFiles);
    ctx.task.files()?.check_room(limit)?;
    let new = socket.accept(ctx.task, nonblocking)?;
    let peer = new.accepted_from();
    let file = SocketFile::open(ctx.task, new, flags);
    if !addr.is_null() {
        write_address_sized(&peer?, addr.0, len)?;
    }
    install(ctx.task, file, flags)
}

fn shutdown(ctx: &mut Ctx<'_>, fd: Fd, how: u32) -> Result {
    let (socket, _) = find(ctx.task, fd)?;
    match how {
        0 => socket.shutdown(true, false)?,
        1 => socket.shutdown(false, true)?,
        2 => socket.shutdown(true, true)?,
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

fn getsockname(ctx: &mut Ctx<'_>, fd: Fd, addr: UserAddr, len: UserPtr<i32>) -> Result {
    let name = find(ctx.task, fd)?.0.name();
    write_address_sized(&name, addr.0, len)?;
    Ok(0)
}

fn getpeername(ctx: &mut Ctx<'_>, fd: Fd, addr: UserAddr, len: UserPtr<i32>) -> Result {
    let name = find(ctx.task, fd)?.0.peer_name()?;
    write_address_sized(&name, addr.0, len)?;
    Ok(0)
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    41 socket(domain: i32, kind: u32, protocol: i32) Partial "AF_UNIX, AF_INET, AF_INET6 and AF_NETLINK; no raw sockets";
    42 connect(fd: Fd, addr: UserAddr, len: usize) Partial "AF_UNIX, AF_INET, AF_INET6 and AF_NETLINK; no raw sockets";
    43 accept(fd: Fd, addr: UserAddr, len: UserPtr<i32>) Full "";
    48 shutdown(fd: Fd, how: u32) Full "";
    49 bind(fd: Fd, addr: UserAddr, len: usize) Partial "AF_UNIX, AF_INET, AF_INET6 and AF_NETLINK; no raw sockets";
    50 listen(fd: Fd, backlog: i32) Full "";
    51 getsockname(fd: Fd, addr: UserAddr, len: UserPtr<i32>) Full "";
    52 getpeername(fd: Fd, addr: UserAddr, len: UserPtr<i32>) Full "";
    53 socketpair(domain: i32, kind: u32, protocol: i32, fds: UserPtr<[i32; 2]>) Full "";
    288 accept4(fd: Fd, addr: UserAddr, len: UserPtr<i32>, flags: u32) Full "";
};
