//! The system calls of sockets.

use alloc::{sync::Arc, vec::Vec};

use ringfence_hal as hal;

use super::{
    message::{MessageHeader, read_control, write_address, write_address_sized, write_control},
    unix::{Address, How, InFlight, Kind, Received, SocketFile, UnixSocket, credentials_of},
};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    fs::{AnonInode, FileRef, FileType, Inode as _, OpenFlags, pipe, sys::read_iovec},
    io::{Sink, Source},
    syscall::{Ctx, Fd, Syscall, UserAddr, UserPtr},
    syscalls,
    task::limits::Resource,
    time::{TimeSpec, deadline_after},
};

const AF_UNSPEC: u16 = 0;
const AF_UNIX: i32 = 1;

const MSG_PEEK: u32 = 0x2;
const MSG_CTRUNC: u32 = 0x8;
const MSG_TRUNC: u32 = 0x20;
const MSG_DONTWAIT: u32 = 0x40;
const MSG_WAITALL: u32 = 0x100;
const MSG_NOSIGNAL: u32 = 0x4000;
const MSG_CMSG_CLOEXEC: u32 = 0x4000_0000;
const MSG_OOB: u32 = 0x1;

/// Splits `type` into kind and flags.
fn kind_of(kind: u32) -> Result<(Kind, OpenFlags)> {
    let allowed = OpenFlags::CLOEXEC | OpenFlags::NONBLOCK;
    let flags = OpenFlags::from_bits(kind & !0xf).filter(|f| allowed.contains(*f)).ok_or(Errno::EINVAL)?;
    match kind & 0xf {
        1 => Ok((Kind::Stream, flags)),
        // Linux gives a datagram socket for SOCK_RAW.
        2 | 3 => Ok((Kind::Datagram, flags)),
        5 => Ok((Kind::SeqPacket, flags)),
        _ => Err(Errno::ESOCKTNOSUPPORT),
    }
}

fn check_family(domain: i32, protocol: i32) -> Result<()> {
    match (domain, protocol) {
        (AF_UNIX, 0 | 1) => Ok(()),
        (AF_UNIX, _) => Err(Errno::EPROTONOSUPPORT),
        _ => Err(Errno::EAFNOSUPPORT),
    }
}

fn open(task: &TaskRef, socket: Arc<UnixSocket>, flags: OpenFlags) -> FileRef {
    let c = task.credentials();
    let inode = AnonInode::new(FileType::Socket, 0o777, c.fsuid, c.fsgid);
    let access = OpenFlags::RDWR | (flags & OpenFlags::NONBLOCK);
    socket.set_ino(inode.ino());
    inode.open(Arc::new(SocketFile(socket)), "socket:[{}]", access)
}

fn install(task: &TaskRef, file: FileRef, flags: OpenFlags) -> Result {
    let limit = task.process().limits.soft(Resource::OpenFiles);
    Ok(task.files()?.install(file, flags.contains(OpenFlags::CLOEXEC), limit)? as usize)
}

/// The socket of a descriptor and whether calls on it block. `ENOTSOCK`.
pub(super) fn find(task: &TaskRef, fd: Fd) -> Result<(Arc<UnixSocket>, bool)> {
    let file = task.files()?.get(fd.0)?;
    let socket = file.downcast::<SocketFile>().ok_or(Errno::ENOTSOCK)?;
    Ok((socket.0.clone(), file.nonblocking()))
}

fn read_address(addr: UserAddr, len: usize) -> Result<Option<Address>> {
    let mut bytes = [0u8; 128];
    let bytes = bytes.get_mut(..len).ok_or(Errno::EINVAL)?;
    hal::user::copy_in(bytes, addr.0)?;
    Address::decode(bytes)
}

fn socket(ctx: &mut Ctx<'_>, domain: i32, kind: u32, protocol: i32) -> Result {
    check_family(domain, protocol)?;
    let (kind, flags) = kind_of(kind)?;
    let file = open(ctx.task, UnixSocket::new(kind), flags);
    install(ctx.task, file, flags)
}

fn socketpair(ctx: &mut Ctx<'_>, domain: i32, kind: u32, protocol: i32, fds: UserPtr<[i32; 2]>) -> Result {
    check_family(domain, protocol)?;
    let (kind, flags) = kind_of(kind)?;
    let pair = UnixSocket::pair(kind, credentials_of(ctx.task)).map(|s| open(ctx.task, s, flags));
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
    socket.bind(ctx.task, read_address(addr, len)?)?;
    Ok(0)
}

fn listen(ctx: &mut Ctx<'_>, fd: Fd, backlog: i32) -> Result {
    find(ctx.task, fd)?.0.listen(backlog, credentials_of(ctx.task))?;
    Ok(0)
}

fn connect(ctx: &mut Ctx<'_>, fd: Fd, addr: UserAddr, len: usize) -> Result {
    let (socket, nonblocking) = find(ctx.task, fd)?;
    if len >= 2 && UserPtr::<u16>::new(addr.0).read()? == AF_UNSPEC {
        return socket.disconnect().map(|()| 0);
    }
    let to = read_address(addr, len)?.ok_or(Errno::EINVAL)?;
    let how = How { nonblocking, ..How::default() };
    socket.connect(ctx.task, &to, how, credentials_of(ctx.task))?;
    Ok(0)
}

fn accept(ctx: &mut Ctx<'_>, fd: Fd, addr: UserAddr, len: UserPtr<i32>) -> Result {
    accept4(ctx, fd, addr, len, 0)
}

fn accept4(ctx: &mut Ctx<'_>, fd: Fd, addr: UserAddr, len: UserPtr<i32>, flags: u32) -> Result {
    let allowed = OpenFlags::CLOEXEC | OpenFlags::NONBLOCK;
    let flags = OpenFlags::from_bits(flags).filter(|f| allowed.contains(*f)).ok_or(Errno::EINVAL)?;
    let (socket, nonblocking) = find(ctx.task, fd)?;
    if socket.kind() == Kind::Datagram {
        return Err(Errno::EOPNOTSUPP);
    }
    let new = socket.accept(ctx.task, nonblocking)?;
    let peer = new.peer_name().ok().flatten();
    // From here on its end runs when the file is dropped.
    let file = open(ctx.task, new, flags);
    write_address_sized(&Address::encode(peer.as_ref()), addr.0, len)?;
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
    write_address_sized(&Address::encode(name.as_ref()), addr.0, len)?;
    Ok(0)
}

fn getpeername(ctx: &mut Ctx<'_>, fd: Fd, addr: UserAddr, len: UserPtr<i32>) -> Result {
    let name = find(ctx.task, fd)?.0.peer_name()?;
    write_address_sized(&Address::encode(name.as_ref()), addr.0, len)?;
    Ok(0)
}

/// A signal goes with `EPIPE` unless it is not wanted; only streams have it.
fn announce(task: &TaskRef, socket: &UnixSocket, flags: u32, result: Result) -> Result {
    if result == Err(Errno::EPIPE) && flags & MSG_NOSIGNAL == 0 && socket.kind() == Kind::Stream {
        pipe::broken(task);
    }
    result
}

fn sendto(
    ctx: &mut Ctx<'_>,
    fd: Fd,
    buf: UserAddr,
    len: usize,
    flags: u32,
    addr: UserAddr,
    addr_len: usize,
) -> Result {
    let (socket, nonblocking) = find(ctx.task, fd)?;
    let how = how(nonblocking, flags)?;
    let to = if addr.is_null() { None } else { Some(read_address(addr, addr_len)?.ok_or(Errno::EINVAL)?) };
    let me = credentials_of(ctx.task);
    let result =
        socket.send(ctx.task, &mut Source::user(buf.0, len), InFlight::default(), to.as_ref(), how, me);
    announce(ctx.task, &socket, flags, result)
}

fn sendmsg(ctx: &mut Ctx<'_>, fd: Fd, message: UserPtr<MessageHeader>, flags: u32) -> Result {
    let (socket, nonblocking) = find(ctx.task, fd)?;
    send_one(ctx, &socket, nonblocking, message, flags)
}

fn send_one(
    ctx: &Ctx<'_>,
    socket: &Arc<UnixSocket>,
    nonblocking: bool,
    message: UserPtr<MessageHeader>,
    flags: u32,
) -> Result {
    let how = how(nonblocking, flags)?;
    let header = message.read()?;
    let to = match header.name {
        0 => None,
        _ if header.name_len == 0 => None,
        name => Some(read_address(UserAddr(name), header.name_len as usize)?.ok_or(Errno::EINVAL)?),
    };
    let control = read_control(ctx.task, &header)?;
    let segments = read_iovec(UserPtr::new(header.vector), header.vector_len as usize)?;
    let me = control.credentials.unwrap_or(credentials_of(ctx.task));
    let mut source = Source::segments(segments);
    let files = InFlight::new(ctx.task, control.files)?;
    let result = socket.send(ctx.task, &mut source, files, to.as_ref(), how, me);
    announce(ctx.task, socket, flags, result)
}

/// What the flags of a call ask for; sending has no use for some of it. `EOPNOTSUPP` for urgent data.
fn how(nonblocking: bool, flags: u32) -> Result<How> {
    if flags & MSG_OOB != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    Ok(How {
        nonblocking: nonblocking || flags & MSG_DONTWAIT != 0,
        peek: flags & MSG_PEEK != 0,
        wait_all: flags & MSG_WAITALL != 0,
    })
}

/// The name of who sent it, encoded; empty on a stream, whose peer is not named here.
fn sender(socket: &UnixSocket, got: &Received) -> Vec<u8> {
    let from = got.from.as_ref().filter(|_| socket.kind() == Kind::Datagram);
    from.map_or(Vec::new(), |from| Address::encode(Some(from)))
}

fn recvfrom(
    ctx: &mut Ctx<'_>,
    fd: Fd,
    buf: UserAddr,
    len: usize,
    flags: u32,
    addr: UserAddr,
    addr_len: UserPtr<i32>,
) -> Result {
    let (socket, nonblocking) = find(ctx.task, fd)?;
    let got = socket.receive(ctx.task, &mut Sink::user(buf.0, len), how(nonblocking, flags)?)?;
    if !addr.is_null() {
        write_address_sized(&sender(&socket, &got), addr.0, addr_len)?;
    }
    let whole = flags & MSG_TRUNC != 0 && socket.kind() != Kind::Stream;
    Ok(if whole { got.length } else { got.count })
}

/// `struct mmsghdr`: a header, then how long the message was.
const MMSG_LEN_AT: u64 = size_of::<MessageHeader>() as u64;
const MMSG_SIZE: u64 = MMSG_LEN_AT + 8;

/// Messages one call sends or receives at most.
const MMSG_MAX: u32 = 1024;

/// Does `one` with each header and notes its result there, until one fails; the failure only if it is the first.
fn each_message(
    vector: UserAddr,
    count: u32,
    mut one: impl FnMut(UserPtr<MessageHeader>, usize) -> Result<Option<usize>>,
) -> Result {
    let mut done = 0;
    for i in 0..u64::from(count.min(MMSG_MAX)) {
        let at = vector.offset(i * MMSG_SIZE);
        let outcome = one(UserPtr::new(at.0), done).and_then(|n| match n {
            Some(n) => UserPtr::<u32>::new(at.offset(MMSG_LEN_AT).0).write(&(n as u32)).map(|()| true),
            None => Ok(false),
        });
        match outcome {
            Ok(true) => done += 1,
            Ok(false) => break,
            Err(_) if done > 0 => break,
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

fn sendmmsg(ctx: &mut Ctx<'_>, fd: Fd, vector: UserAddr, count: u32, flags: u32) -> Result {
    let (socket, nonblocking) = find(ctx.task, fd)?;
    each_message(vector, count, |message, _| send_one(ctx, &socket, nonblocking, message, flags).map(Some))
}

const MSG_WAITFORONE: u32 = 0x1_0000;

fn recvmmsg(
    ctx: &mut Ctx<'_>,
    fd: Fd,
    vector: UserAddr,
    count: u32,
    flags: u32,
    timeout: UserPtr<TimeSpec>,
) -> Result {
    let deadline = match timeout.non_null() {
        Some(t) => Some(deadline_after(t.read()?.to_ns()?)),
        None => None,
    };
    let (socket, nonblocking) = find(ctx.task, fd)?;
    let done = each_message(vector, count, |message, done| {
        // As on Linux, the time-out is looked at between messages only.
        if done > 0 && deadline.is_some_and(|d| hal::time::now() >= d) {
            return Ok(None);
        }
        let no_more_waiting = done > 0 && flags & MSG_WAITFORONE != 0;
        receive_one(ctx, &socket, nonblocking || no_more_waiting, message, flags & !MSG_WAITFORONE).map(Some)
    })?;
    if let Some(deadline) = deadline {
        timeout.write(&TimeSpec::from_ns(deadline.saturating_sub(hal::time::now())))?;
    }
    Ok(done)
}

fn recvmsg(ctx: &mut Ctx<'_>, fd: Fd, message: UserPtr<MessageHeader>, flags: u32) -> Result {
    let (socket, nonblocking) = find(ctx.task, fd)?;
    receive_one(ctx, &socket, nonblocking, message, flags)
}

fn receive_one(
    ctx: &Ctx<'_>,
    socket: &Arc<UnixSocket>,
    nonblocking: bool,
    message: UserPtr<MessageHeader>,
    flags: u32,
) -> Result {
    let mut header = message.read()?;
    let segments = read_iovec(UserPtr::new(header.vector), header.vector_len as usize)?;
    let mut got = socket.receive(ctx.task, &mut Sink::segments(segments), how(nonblocking, flags)?)?;
    let cloexec = flags & MSG_CMSG_CLOEXEC != 0;
    let (control, truncated) =
        write_control(ctx.task, &header, &mut got, socket.passes_credentials(), cloexec)?;
    header.name_len = write_address(&sender(socket, &got), header.name, header.name_len)?;
    header.control_len = control as u64;
    let whole = socket.kind() != Kind::Stream;
    header.flags = flags & MSG_CMSG_CLOEXEC
        | if truncated { MSG_CTRUNC } else { 0 }
        | if whole && got.length > got.count { MSG_TRUNC } else { 0 };
    message.write(&header)?;
    Ok(if whole && flags & MSG_TRUNC != 0 { got.length } else { got.count })
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    41 socket(domain: i32, kind: u32, protocol: i32) Partial "AF_UNIX only";
    42 connect(fd: Fd, addr: UserAddr, len: usize) Partial "AF_UNIX only";
    43 accept(fd: Fd, addr: UserAddr, len: UserPtr<i32>) Full "";
    44 sendto(fd: Fd, buf: UserAddr, len: usize, flags: u32, addr: UserAddr, addrlen: usize) Full "";
    45 recvfrom(fd: Fd, buf: UserAddr, len: usize, flags: u32, addr: UserAddr, addrlen: UserPtr<i32>) Full "";
    46 sendmsg(fd: Fd, msg: UserPtr<MessageHeader>, flags: u32) Full "";
    47 recvmsg(fd: Fd, msg: UserPtr<MessageHeader>, flags: u32) Full "";
    48 shutdown(fd: Fd, how: u32) Full "";
    49 bind(fd: Fd, addr: UserAddr, len: usize) Partial "AF_UNIX only";
    50 listen(fd: Fd, backlog: i32) Full "";
    51 getsockname(fd: Fd, addr: UserAddr, len: UserPtr<i32>) Full "";
    52 getpeername(fd: Fd, addr: UserAddr, len: UserPtr<i32>) Full "";
    53 socketpair(domain: i32, kind: u32, protocol: i32, fds: UserPtr<[i32; 2]>) Full "";
    299 recvmmsg(fd: Fd, vector: UserAddr, count: u32, flags: u32, timeout: UserPtr<TimeSpec>) Full "";
    307 sendmmsg(fd: Fd, vector: UserAddr, count: u32, flags: u32) Full "";
    288 accept4(fd: Fd, addr: UserAddr, len: UserPtr<i32>, flags: u32) Full "";
};
