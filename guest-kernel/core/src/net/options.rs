//! getsockopt and setsockopt (socket(7)).

use ringfence_hal as hal;
use zerocopy::IntoBytes;

use super::{
    sys::find,
    unix::{Credentials, Kind},
};
use crate::{
    errno::{Errno, Result},
    fs::OpenFlags,
    syscall::{Ctx, Fd, Syscall, UserPtr},
    syscalls,
    task::Capabilities,
    time::TimeVal,
};

const SOL_SOCKET: i32 = 1;
const SO_TYPE: i32 = 3;
const SO_ERROR: i32 = 4;
const SO_SNDBUF: i32 = 7;
const SO_RCVBUF: i32 = 8;
const SO_PASSCRED: i32 = 16;
const SO_PEERCRED: i32 = 17;
const SO_RCVTIMEO: i32 = 20;
const SO_SNDTIMEO: i32 = 21;
const SO_ACCEPTCONN: i32 = 30;
const SO_PROTOCOL: i32 = 38;
const SO_DOMAIN: i32 = 39;
const SO_SNDBUFFORCE: i32 = 32;
const SO_RCVBUFFORCE: i32 = 33;
const SO_PEEK_OFF: i32 = 42;
const SO_PEERGROUPS: i32 = 59;
const SO_LINGER: i32 = 13;
const SO_RCVLOWAT: i32 = 18;
const SO_SNDLOWAT: i32 = 19;
const SO_PEERPIDFD: i32 = 77;

/// `SO_DEBUG`, `REUSEADDR`, `DONTROUTE`, `BROADCAST`, `KEEPALIVE`, `OOBINLINE`, `NO_CHECK`, `PRIORITY` as 0 or 1,
/// `REUSEPORT`, `TIMESTAMP`, `TIMESTAMPNS`, `MARK`: kept and told; they mean nothing to AF_UNIX.
const KEPT: &[i32] = &[1, 2, 5, 6, 9, 10, 11, 12, 15, 36];

/// `net.core.wmem_max`: what may be asked for; Linux doubles it for its own overhead.
const BUFFER_MAX: i32 = 212_992;
/// The smallest buffers.
const SEND_MIN: usize = 4608;
const RECEIVE_MIN: usize = 2304;

fn getsockopt(ctx: &mut Ctx<'_>, fd: Fd, level: i32, name: i32, value: u64, len: UserPtr<i32>) -> Result {
    let (socket, _) = find(ctx.task, fd)?;
    if level != SOL_SOCKET {
        return Err(Errno::EOPNOTSUPP);
    }
    let room = usize::try_from(len.read()?).map_err(|_| Errno::EINVAL)?;
    let put = |bytes: &[u8]| {
        let n = bytes.len().min(room);
        hal::user::copy_out(value, bytes.get(..n).unwrap_or_default())?;
        len.write(&(n as i32))?;
        Ok(0)
    };
    let int = match name {
        SO_TYPE => match socket.kind() {
            Kind::Stream => 1,
            Kind::Datagram => 2,
            Kind::SeqPacket => 5,
        },
        SO_ERROR => socket.take_error().map_or(0, |e| i32::from(e.raw())),
        SO_SNDBUF | SO_RCVBUF => socket.buffer(name == SO_SNDBUF) as i32,
        SO_PROTOCOL => 0,
        SO_RCVLOWAT | SO_SNDLOWAT => 1,
        SO_PEEK_OFF => socket.peek_offset().map_or(-1, |at| at as i32),
        SO_LINGER => return put(&[0; 8]),
        SO_PEERGROUPS => return Err(Errno::ENODATA),
        SO_PEERPIDFD => {
            let peer = socket.peer_credentials().filter(|c| c.pid > 0).ok_or(Errno::ENODATA)?;
            let process = ctx.task.kernel().pids.process(peer.pid).map_err(|_| Errno::ENODATA)?;
            let fd = crate::fs::pidfd::open(ctx.task, &process, OpenFlags::empty())?;
            return put(&(fd as i32).to_ne_bytes());
        }
        name if KEPT.contains(&name) => socket.kept(name).into(),
        SO_PASSCRED => socket.passes_credentials().into(),
        SO_ACCEPTCONN => socket.is_listening().into(),
        SO_DOMAIN => 1,
        SO_PEERCRED => {
            let nobody = Credentials { pid: 0, uid: u32::MAX, gid: u32::MAX };
            return put(socket.peer_credentials().unwrap_or(nobody).as_bytes());
        }
        SO_RCVTIMEO | SO_SNDTIMEO => {
            let ns = socket.timeout(name == SO_RCVTIMEO).unwrap_or(0);
            return put(TimeVal::from_ns(ns).as_bytes());
        }
        _ => return Err(Errno::ENOPROTOOPT),
    };
    put(&int.to_ne_bytes())
}

fn setsockopt(ctx: &mut Ctx<'_>, fd: Fd, level: i32, name: i32, value: u64, len: usize) -> Result {
    let (socket, _) = find(ctx.task, fd)?;
    if level != SOL_SOCKET {
        return Err(Errno::EOPNOTSUPP);
    }
    if len < size_of::<i32>() {
        return Err(Errno::EINVAL);
    }
    match name {
        SO_PASSCRED => socket.set_pass_credentials(UserPtr::<i32>::new(value).read()? != 0),
        SO_RCVTIMEO | SO_SNDTIMEO => {
            if len < size_of::<TimeVal>() {
                return Err(Errno::EINVAL);
            }
            let ns = UserPtr::<TimeVal>::new(value).read()?.to_ns().map_err(|_| Errno::EDOM)?;
            socket.set_timeout(name == SO_RCVTIMEO, (ns > 0).then_some(ns));
        }
        SO_SNDBUF | SO_RCVBUF | SO_SNDBUFFORCE | SO_RCVBUFFORCE => {
            let force = matches!(name, SO_SNDBUFFORCE | SO_RCVBUFFORCE);
            if force && !ctx.task.credentials().capable(Capabilities::NET_ADMIN) {
                return Err(Errno::EPERM);
            }
            let wanted = UserPtr::<i32>::new(value).read()?;
            // Too much is cut, and a negative number is a very large one, as on Linux; force ends at 16 MiB here.
            let max = if force { 16 << 20 } else { BUFFER_MAX };
            let bytes = 2 * (wanted as u32).min(max as u32) as usize;
            let send = matches!(name, SO_SNDBUF | SO_SNDBUFFORCE);
            socket.set_buffer(send, bytes.max(if send { SEND_MIN } else { RECEIVE_MIN }));
        }
        SO_PEEK_OFF => {
            let at = UserPtr::<i32>::new(value).read()?;
            socket.set_peek_offset(usize::try_from(at).ok());
        }
        SO_LINGER | SO_RCVLOWAT => drop(UserPtr::<i32>::new(value).read()?),
        name if KEPT.contains(&name) => socket.keep(name, UserPtr::<i32>::new(value).read()? != 0),
        _ => return Err(Errno::ENOPROTOOPT),
    }
    Ok(0)
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    54 setsockopt(fd: Fd, level: i32, name: i32, value: u64, len: usize) Partial "socket level";
    55 getsockopt(fd: Fd, level: i32, name: i32, value: u64, len: UserPtr<i32>) Partial "socket level";
};
