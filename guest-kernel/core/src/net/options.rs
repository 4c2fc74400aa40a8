//! getsockopt and setsockopt (socket(7)).
//!
//! What `SOL_SOCKET` has is answered here for all families, from [`Common`] and what a family says about itself;
//! other levels are the family's. Options that no family of ours acts on are kept and told.

use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

use ringfence_hal as hal;
use zerocopy::IntoBytes;

use super::{
    common::{Common, SO_PASSCRED, SO_PASSPIDFD, SO_TIMESTAMP, SO_TIMESTAMPNS},
    message::{Credentials, pidfd_of},
    socket::Socket,
    sys::find,
};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    syscall::{Ctx, Fd, Syscall, UserPtr},
    syscalls,
    task::Capabilities,
    time::TimeVal,
};

const AF_UNIX: i32 = 1;
const SOL_SOCKET: i32 = 1;
const SO_DEBUG: i32 = 1;
const SO_TYPE: i32 = 3;
const SO_ERROR: i32 = 4;
const SO_SNDBUF: i32 = 7;
const SO_RCVBUF: i32 = 8;
const SO_PRIORITY: i32 = 12;
const SO_LINGER: i32 = 13;
const SO_BSDCOMPAT: i32 = 14;
const SO_REUSEPORT: i32 = 15;
const SO_PEERCRED: i32 = 17;
const SO_RCVLOWAT: i32 = 18;
const SO_SNDLOWAT: i32 = 19;
const SO_RCVTIMEO: i32 = 20;
const SO_SNDTIMEO: i32 = 21;
const SO_BINDTODEVICE: i32 = 25;
const SO_BUSY_POLL: i32 = 46;
const SO_PEERNAME: i32 = 28;
const SO_ACCEPTCONN: i32 = 30;
const SO_SNDBUFFORCE: i32 = 32;
const SO_RCVBUFFORCE: i32 = 33;
const SO_MARK: i32 = 36;
const SO_PROTOCOL: i32 = 38;
const SO_DOMAIN: i32 = 39;
const SO_PEEK_OFF: i32 = 42;
const SO_COOKIE: i32 = 57;
const SO_PEERGROUPS: i32 = 59;
const SO_RCVTIMEO_NEW: i32 = 66;
const SO_SNDTIMEO_NEW: i32 = 67;
const SO_PEERPIDFD: i32 = 77;

/// On or off: `DEBUG`, `REUSEADDR`, `DONTROUTE`, `BROADCAST`, `KEEPALIVE`, `OOBINLINE`, `NO_CHECK`, `REUSEPORT`,
/// `PASSCRED`, `TIMESTAMP`, `PASSSEC`, `TIMESTAMPNS`, `RXQ_OVFL`, `NOFCS`, `SELECT_ERR_QUEUE`, `PASSPIDFD`. Without a
/// security module `PASSSEC` passes nothing, and `SO_PEERSEC` is not known.
const FLAGS: &[i32] = &[
    SO_DEBUG,
    2,
    5,
    6,
    9,
    10,
    11,
    SO_REUSEPORT,
    SO_PASSCRED,
    SO_TIMESTAMP,
    34,
    SO_TIMESTAMPNS,
    40,
    43,
    45,
    SO_PASSPIDFD,
];

/// `net.core.wmem_max`: what may be asked for; Linux doubles it for its own overhead.
const BUFFER_MAX: i32 = 212_992;
/// What may be asked for by force; Linux knows no limit there.
const BUFFER_FORCED_MAX: i32 = 16 << 20;
/// The smallest buffers.
const SEND_MIN: usize = 4608;
const RECEIVE_MIN: usize = 2304;

fn getsockopt(ctx: &mut Ctx<'_>, fd: Fd, level: i32, name: i32, value: u64, len: UserPtr<i32>) -> Result {
    let (socket, _) = find(ctx.task, fd)?;
    let room = || len.read().and_then(|n| usize::try_from(n).map_err(|_| Errno::EINVAL));
    let answer = match (level, name) {
        (SOL_SOCKET, SO_PEERGROUPS) => {
            let groups = peer_groups(ctx.task, &*socket)?;
            if room()? < groups.len() {
                len.write(&(groups.len() as i32))?;
                return Err(Errno::ERANGE);
            }
            groups
        }
        (SOL_SOCKET, SO_PEERNAME | SO_COOKIE) => {
            let all = match name {
                SO_PEERNAME => socket.peer_name()?.to_vec(),
                _ => socket.common().ino().to_ne_bytes().to_vec(),
            };
            // A name must be as long as asked for, a cookie fit.
            let wanted = room()?;
            if if name == SO_PEERNAME { all.len() < wanted } else { all.len() > wanted } {
                return Err(Errno::EINVAL);
            }
            all
        }
        (SOL_SOCKET, _) => {
            room()?;
            value_of(ctx.task, &*socket, name)?
        }
        _ => socket.option(ctx.task, level, name)?,
    };
    let n = answer.len().min(room()?);
    hal::user::copy_out(value, answer.get(..n).unwrap_or_default())?;
    len.write(&(n as i32))?;
    Ok(0)
}

/// The value of an option of `SOL_SOCKET`. `ENOPROTOOPT`.
fn value_of(task: &TaskRef, socket: &dyn Socket, name: i32) -> Result<Vec<u8>> {
    let common = socket.common();
    let int = match name {
        SO_TYPE => socket.kind() as i32,
        SO_DOMAIN => socket.domain(),
        SO_PROTOCOL => socket.protocol(),
        SO_ACCEPTCONN => socket.is_listening().into(),
        SO_ERROR => socket.take_error().map_or(0, |e| i32::from(e.raw())),
        SO_SNDBUF => common.send_buffer.load(Relaxed) as i32,
        SO_RCVBUF => common.receive_buffer.load(Relaxed) as i32,
        SO_PRIORITY => common.priority.load(Relaxed),
        SO_MARK => common.mark.load(Relaxed),
        SO_BSDCOMPAT => 0,
        // Nothing is polled for while it waits, and no socket is bound to a device.
        SO_BUSY_POLL => 0,
        SO_BINDTODEVICE => return Ok(Vec::new()),
        SO_RCVLOWAT => common.receive_low_water.load(Relaxed),
        SO_SNDLOWAT => 1,
        SO_PEEK_OFF if socket.has_peek_offset() => common.peek_offset().map_or(-1, |at| at as i32),
        SO_PEEK_OFF => return Err(Errno::EOPNOTSUPP),
        SO_LINGER => return Ok(common.linger.load(Relaxed).to_ne_bytes().to_vec()),
        SO_PEERCRED => {
            let nobody = Credentials { pid: 0, uid: u32::MAX, gid: u32::MAX };
            let peer = socket.peer().map_or(nobody, |p| p.credentials.shown_to(task));
            return Ok(peer.as_bytes().to_vec());
        }
        SO_PEERPIDFD => {
            let peer = socket.peer().filter(|p| p.credentials.pid > 0).ok_or(Errno::ENODATA)?;
            pidfd_of(task, peer.credentials.pid)?
        }
        SO_RCVTIMEO | SO_RCVTIMEO_NEW => return Ok(timeout(common, true)),
        SO_SNDTIMEO | SO_SNDTIMEO_NEW => return Ok(timeout(common, false)),
        name if FLAGS.contains(&name) => common.flag(name).into(),
        _ => return Err(Errno::ENOPROTOOPT),
    };
    Ok(int.to_ne_bytes().to_vec())
}

fn timeout(common: &Common, receive: bool) -> Vec<u8> {
    TimeVal::from_ns(common.timeout(receive)).as_bytes().to_vec()
}

/// The supplementary groups of the peer, as the asking task sees them. `ENODATA`.
fn peer_groups(task: &TaskRef, socket: &dyn Socket) -> Result<Vec<u8>> {
    let peer = socket.peer().ok_or(Errno::ENODATA)?;
    let here = task.credentials().user_ns.clone();
    Ok(peer.who.groups.iter().flat_map(|g| here.show_gid(*g).to_ne_bytes()).collect())
}

fn setsockopt(ctx: &mut Ctx<'_>, fd: Fd, level: i32, name: i32, value: u64, len: usize) -> Result {
    let (socket, _) = find(ctx.task, fd)?;
    let len = usize::try_from(len as i32).map_err(|_| Errno::EINVAL)?;
    if level != SOL_SOCKET {
        return socket.set_option(ctx.task, level, name, value, len).map(|()| 0);
    }
    if len < size_of::<i32>() {
        return Err(Errno::EINVAL);
    }
    let int = UserPtr::<i32>::new(value).read()?;
    let common = socket.common();
    let may = |c| if ctx.task.credentials().capable(c) { Ok(()) } else { Err(Errno::EPERM) };
    let may_tune = || may(Capabilities::NET_ADMIN).or_else(|_| may(Capabilities::NET_RAW));
    match name {
        SO_RCVTIMEO | SO_SNDTIMEO | SO_RCVTIMEO_NEW | SO_SNDTIMEO_NEW => {
            if len < size_of::<TimeVal>() {
                return Err(Errno::EINVAL);
            }
            let given = UserPtr::<TimeVal>::new(value).read()?;
            if !(0..1_000_000).contains(&given.usec) {
                return Err(Errno::EDOM);
            }
            // A time before now is not to wait at all.
            let ns = given.to_ns().unwrap_or(1);
            common.set_timeout(matches!(name, SO_RCVTIMEO | SO_RCVTIMEO_NEW), ns);
        }
        SO_SNDBUF | SO_RCVBUF | SO_SNDBUFFORCE | SO_RCVBUFFORCE => {
            let force = matches!(name, SO_SNDBUFFORCE | SO_RCVBUFFORCE);
            if force {
                may(Capabilities::NET_ADMIN)?;
            }
            // Too much is cut; a negative number is a very large one, or with force none at all, as on Linux.
            let int = if force { int.max(0) } else { int };
            let max = if force { BUFFER_FORCED_MAX } else { BUFFER_MAX };
            let bytes = 2 * (int as u32).min(max as u32) as usize;
            match name {
                SO_SNDBUF | SO_SNDBUFFORCE => common.send_buffer.store(bytes.max(SEND_MIN), Relaxed),
                _ => common.receive_buffer.store(bytes.max(RECEIVE_MIN), Relaxed),
            }
            socket.options_changed();
        }
        SO_PEEK_OFF if socket.has_peek_offset() => common.set_peek_offset(int),
        SO_PEEK_OFF => return Err(Errno::EOPNOTSUPP),
        SO_LINGER => {
            if len < size_of::<u64>() {
                return Err(Errno::EINVAL);
            }
            common.linger.store(UserPtr::<u64>::new(value).read()?, Relaxed);
        }
        SO_RCVLOWAT => common.receive_low_water.store(if int < 0 { i32::MAX } else { int.max(1) }, Relaxed),
        SO_PRIORITY => {
            if !(0..=6).contains(&int) {
                may_tune()?;
            }
            common.priority.store(int, Relaxed);
        }
        SO_MARK => {
            may_tune()?;
            common.mark.store(int, Relaxed);
        }
        SO_BSDCOMPAT => {}
        SO_DEBUG if int != 0 => {
            may(Capabilities::NET_ADMIN).map_err(|_| Errno::EACCES)?;
            common.set_flag(name, true);
        }
        // Only networks have it.
        SO_REUSEPORT if int != 0 && socket.domain() == AF_UNIX => return Err(Errno::EOPNOTSUPP),
        name if FLAGS.contains(&name) => {
            common.set_flag(name, int != 0);
            // The two ways to tell the time are one.
            match name {
                SO_TIMESTAMP => common.set_flag(SO_TIMESTAMPNS, false),
                SO_TIMESTAMPNS => common.set_flag(SO_TIMESTAMP, false),
                _ => {}
            }
        }
        _ => return Err(Errno::ENOPROTOOPT),
    }
    Ok(0)
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    54 setsockopt(fd: Fd, level: i32, name: i32, value: u64, len: usize) Partial "no filters, groups, time stamping and devices";
    55 getsockopt(fd: Fd, level: i32, name: i32, value: u64, len: UserPtr<i32>) Partial "no filters, groups, time stamping and devices";
};
