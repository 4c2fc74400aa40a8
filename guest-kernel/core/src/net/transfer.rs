//! The system calls that send and receive.

use ringfence_hal as hal;

use super::{
    message::{
        ADDRESS_MAX, MessageHeader, read_address, read_control, write_address, write_address_sized,
        write_control,
    },
    socket::{How, Kind, Outgoing, Socket, announce},
    sys::find,
};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    fs::sys::read_iovec,
    io::{IOV_MAX, Segments, Sink, Source},
    syscall::{Ctx, Fd, Syscall, UserAddr, UserPtr},
    syscalls,
    time::{TimeSpec, deadline_after},
};

const MSG_OOB: u32 = 0x1;
const MSG_PEEK: u32 = 0x2;
const MSG_CTRUNC: u32 = 0x8;
const MSG_TRUNC: u32 = 0x20;
const MSG_DONTWAIT: u32 = 0x40;
const MSG_WAITALL: u32 = 0x100;
const MSG_ERRQUEUE: u32 = 0x2000;
const MSG_NOSIGNAL: u32 = 0x4000;
const MSG_MORE: u32 = 0x8000;
const MSG_WAITFORONE: u32 = 0x1_0000;
const MSG_CMSG_CLOEXEC: u32 = 0x4000_0000;
/// Of 32-bit programs, said by the kernel itself only.
const MSG_CMSG_COMPAT: u32 = 0x8000_0000;

/// What the flags of a call ask for; sending has no use for some of it. `EOPNOTSUPP` for urgent data.
fn how(nonblocking: bool, flags: u32) -> Result<How> {
    if flags & MSG_OOB != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    Ok(How {
        nonblocking: nonblocking || flags & MSG_DONTWAIT != 0,
        peek: flags & MSG_PEEK != 0,
        wait_all: flags & MSG_WAITALL != 0,
        truncate: flags & MSG_TRUNC != 0,
        more: flags & MSG_MORE != 0,
        errors: flags & MSG_ERRQUEUE != 0,
    })
}

fn finish(task: &TaskRef, socket: &dyn Socket, flags: u32, result: Result) -> Result {
    if flags & MSG_NOSIGNAL != 0 { result } else { announce(task, socket, result) }
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
    let to = if addr.is_null() { None } else { Some(read_address(addr, addr_len)?) };
    let message = Outgoing { to: to.as_deref(), how, ..Outgoing::default() };
    let result = socket.send(ctx.task, &mut Source::user(buf.0, len), message);
    finish(ctx.task, &*socket, flags, result)
}

fn sendmsg(ctx: &mut Ctx<'_>, fd: Fd, message: UserPtr<MessageHeader>, flags: u32) -> Result {
    let (socket, nonblocking) = find(ctx.task, fd)?;
    send_one(ctx, &*socket, nonblocking, message, flags)
}

/// The buffers of a message. `EMSGSIZE` if there are too many.
fn segments(header: &MessageHeader) -> Result<Segments> {
    if header.vector_len > IOV_MAX as u64 {
        return Err(Errno::EMSGSIZE);
    }
    read_iovec(UserPtr::new(header.vector), header.vector_len as usize)
}

fn send_one(
    ctx: &Ctx<'_>,
    socket: &dyn Socket,
    nonblocking: bool,
    message: UserPtr<MessageHeader>,
    flags: u32,
) -> Result {
    if flags & MSG_CMSG_COMPAT != 0 {
        return Err(Errno::EINVAL);
    }
    let how = how(nonblocking, flags)?;
    let header = message.read()?;
    let to = match (header.name, header.name_len) {
        (0, _) | (_, 0) => None,
        (name, len) => {
            let len = usize::try_from(len as i32).map_err(|_| Errno::EINVAL)?;
            Some(read_address(UserAddr(name), len.min(ADDRESS_MAX))?)
        }
    };
    let segments = segments(&header)?;
    let mut message = read_control(ctx.task, &header)?;
    (message.to, message.how) = (to.as_deref(), how);
    let result = socket.send(ctx.task, &mut Source::segments(segments), message);
    finish(ctx.task, socket, flags, result)
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
        write_address_sized(got.from.as_deref().unwrap_or_default(), addr.0, addr_len)?;
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
    each_message(vector, count, |message, _| send_one(ctx, &*socket, nonblocking, message, flags).map(Some))
}

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
        receive_one(ctx, &*socket, nonblocking || no_more_waiting, message, flags & !MSG_WAITFORONE).map(Some)
    })?;
    if let Some(deadline) = deadline {
        timeout.write(&TimeSpec::from_ns(deadline.saturating_sub(hal::time::now())))?;
    }
    Ok(done)
}

fn recvmsg(ctx: &mut Ctx<'_>, fd: Fd, message: UserPtr<MessageHeader>, flags: u32) -> Result {
    let (socket, nonblocking) = find(ctx.task, fd)?;
    receive_one(ctx, &*socket, nonblocking, message, flags)
}

fn receive_one(
    ctx: &Ctx<'_>,
    socket: &dyn Socket,
    nonblocking: bool,
    message: UserPtr<MessageHeader>,
    flags: u32,
) -> Result {
    if flags & MSG_CMSG_COMPAT != 0 {
        return Err(Errno::EINVAL);
    }
    let mut header = message.read()?;
    let segments = segments(&header)?;
    let mut got = socket.receive(ctx.task, &mut Sink::segments(segments), how(nonblocking, flags)?)?;
    let cloexec = flags & MSG_CMSG_CLOEXEC != 0;
    let (control, truncated) = write_control(ctx.task, &header, &mut got, socket.common(), cloexec)?;
    let from = got.from.as_deref().unwrap_or_default();
    if header.name != 0 {
        header.name_len = write_address(from, header.name, header.name_len)?;
    }
    header.control_len = control as u64;
    let whole = socket.kind() != Kind::Stream;
    header.flags = flags & MSG_CMSG_CLOEXEC
        | if truncated { MSG_CTRUNC } else { 0 }
        | if got.errors { MSG_ERRQUEUE } else { 0 }
        | if whole && got.length > got.count { MSG_TRUNC } else { 0 };
    message.write(&header)?;
    Ok(if whole && flags & MSG_TRUNC != 0 { got.length } else { got.count })
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    44 sendto(fd: Fd, buf: UserAddr, len: usize, flags: u32, addr: UserAddr, addrlen: usize) Partial "no MSG_OOB";
    45 recvfrom(fd: Fd, buf: UserAddr, len: usize, flags: u32, addr: UserAddr, addrlen: UserPtr<i32>) Partial "no MSG_OOB";
    46 sendmsg(fd: Fd, msg: UserPtr<MessageHeader>, flags: u32) Partial "no MSG_OOB";
    47 recvmsg(fd: Fd, msg: UserPtr<MessageHeader>, flags: u32) Partial "no MSG_OOB";
    299 recvmmsg(fd: Fd, vector: UserAddr, count: u32, flags: u32, timeout: UserPtr<TimeSpec>) Full "";
    307 sendmmsg(fd: Fd, vector: UserAddr, count: u32, flags: u32) Full "";
};
