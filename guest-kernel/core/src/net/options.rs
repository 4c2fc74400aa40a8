//! getsockopt and setsockopt (socket(7)).

use ringfence_hal as hal;
use zerocopy::IntoBytes;

use super::{
    sys::find,
    unix::{Credentials, Kind},
};
use crate::{
    errno::{Errno, Result},
    syscall::{Ctx, Fd, Syscall, UserPtr},
    syscalls,
    time::TimeVal,
};

const SOL_SOCKET: i32 = 1;
const SO_REUSEADDR: i32 = 2;
const SO_TYPE: i32 = 3;
const SO_ERROR: i32 = 4;
const SO_SNDBUF: i32 = 7;
const SO_RCVBUF: i32 = 8;
const SO_KEEPALIVE: i32 = 9;
const SO_PASSCRED: i32 = 16;
const SO_PEERCRED: i32 = 17;
const SO_RCVTIMEO: i32 = 20;
const SO_SNDTIMEO: i32 = 21;
const SO_ACCEPTCONN: i32 = 30;
const SO_PROTOCOL: i32 = 38;
const SO_DOMAIN: i32 = 39;

/// What the buffers are, whatever was asked for: Linux's default.
const BUFFER: i32 = 212_992;

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
        SO_SNDBUF | SO_RCVBUF => BUFFER,
        SO_REUSEADDR | SO_KEEPALIVE | SO_PROTOCOL => 0,
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
        // The buffers have the size they have; these mean nothing to AF_UNIX.
        SO_SNDBUF | SO_RCVBUF | SO_REUSEADDR | SO_KEEPALIVE => {}
        _ => return Err(Errno::ENOPROTOOPT),
    }
    Ok(0)
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    54 setsockopt(fd: Fd, level: i32, name: i32, value: u64, len: usize) Partial "socket level; buffer sizes are fixed";
    55 getsockopt(fd: Fd, level: i32, name: i32, value: u64, len: UserPtr<i32>) Partial "socket level";
};
