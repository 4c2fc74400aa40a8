//! `struct msghdr` and control messages (recvmsg(2), cmsg(3)).

use alloc::vec::Vec;

use ringfence_hal as hal;
use smallvec::SmallVec;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{
    common::{Common, SO_PASSCRED, SO_PASSPIDFD, SO_TIMESTAMP},
    socket::{Control, Outgoing, Received},
};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    fs::{OpenFlags, pidfd},
    ns::user::IdKind,
    syscall::{UserAddr, UserPtr},
    task::{Capabilities, limits::Resource},
    time::{TimeSpec, TimeVal},
};

/// `struct ucred`. Inside the kernel in its own numbers, those of the first namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Credentials {
    pub pid: i32,
    pub uid: u32,
    pub gid: u32,
}

impl Default for Credentials {
    /// Of a message whose receiver did not want to know when it was sent: nobody's.
    fn default() -> Credentials {
        Credentials { pid: 0, uid: OVERFLOW, gid: OVERFLOW }
    }
}

/// `/proc/sys/kernel/overflowuid`.
const OVERFLOW: u32 = 65_534;

impl Credentials {
    /// Who `task` is to those it connects to (`SO_PEERCRED`).
    pub fn of(task: &TaskRef) -> Credentials {
        let c = task.credentials();
        Credentials { pid: task.process().pid, uid: c.euid, gid: c.egid }
    }

    /// Who `task` is as the sender of a message: not who it acts as.
    pub fn of_sender(task: &TaskRef) -> Credentials {
        let c = task.credentials();
        Credentials { pid: task.process().pid, uid: c.uid, gid: c.gid }
    }

    /// In the numbers of `viewer`'s namespaces: pid 0 for who is in none of them.
    pub fn shown_to(self, viewer: &TaskRef) -> Credentials {
        let ns = &viewer.credentials().user_ns;
        Credentials {
            pid: viewer.pids().show(self.pid),
            uid: ns.show_uid(self.uid),
            gid: ns.show_gid(self.gid),
        }
    }
}

/// A new descriptor of a process, by its number. `ENODATA` if it is gone.
pub(super) fn pidfd_of(task: &TaskRef, pid: i32) -> Result<i32> {
    let process = task.kernel().pids.process(pid).map_err(|_| Errno::ENODATA)?;
    Ok(pidfd::open(task, &process, OpenFlags::empty())? as i32)
}

/// `struct msghdr` (`struct user_msghdr`).
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct MessageHeader {
    pub name: u64,
    pub name_len: u32,
    pub _pad: u32,
    pub vector: u64,
    pub vector_len: u64,
    pub control: u64,
    pub control_len: u64,
    pub flags: u32,
    pub _pad2: u32,
}

const SOL_SOCKET: i32 = 1;
const SCM_RIGHTS: i32 = 1;
const SCM_CREDENTIALS: i32 = 2;
const SCM_PIDFD: i32 = 4;
const SCM_TIMESTAMP: i32 = 29;
const SCM_TIMESTAMPNS: i32 = 35;
/// `SCM_MAX_FD`.
const FILES_MAX: usize = 253;
/// Bytes of `struct cmsghdr`.
const HEADER: usize = 16;
/// Control bytes of one message (`net.core.optmem_max`).
const CONTROL_MAX: usize = 20_480;

fn align(n: usize) -> usize {
    n.next_multiple_of(8)
}

/// Reads the control messages of a `sendmsg`. Those of other levels than `SOL_SOCKET` are the family's.
pub(super) fn read_control(task: &TaskRef, header: &MessageHeader) -> Result<Outgoing<'static>> {
    let mut message = Outgoing::default();
    let len = header.control_len as usize;
    if header.control == 0 || len == 0 {
        return Ok(message);
    }
    if len > CONTROL_MAX {
        return Err(Errno::ENOBUFS);
    }
    let mut bytes = alloc::vec![0; len];
    hal::user::copy_in(&mut bytes, header.control)?;
    let mut rest: &[u8] = &bytes;
    while let Some((head, _)) = rest.split_first_chunk::<HEADER>() {
        let word =
            |at: usize| head.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, i32::from_ne_bytes);
        let size = head.first_chunk::<8>().map_or(0, |b| u64::from_ne_bytes(*b)) as usize;
        let data = rest.get(HEADER..size).ok_or(Errno::EINVAL)?;
        match (word(8), word(12)) {
            (SOL_SOCKET, SCM_RIGHTS) => {
                let files = task.files()?;
                for fd in data.as_chunks::<4>().0 {
                    if message.files.len() >= FILES_MAX {
                        return Err(Errno::EINVAL);
                    }
                    message.files.push(files.get_any(i32::from_ne_bytes(*fd))?);
                }
            }
            (SOL_SOCKET, SCM_CREDENTIALS) => {
                let given = Credentials::read_from_bytes(data).map_err(|_| Errno::EINVAL)?;
                message.credentials = Some(check_credentials(task, given)?);
            }
            (SOL_SOCKET, _) => return Err(Errno::EINVAL),
            (level, kind) => message.control.push(Control { level, kind, data: data.to_vec() }),
        }
        rest = rest.get(align(size)..).unwrap_or_default();
    }
    Ok(message)
}

/// Nobody says he is somebody else without the right to become him. Answers the kernel's numbers for those `given`:
/// `EINVAL` for an id that has none, `ESRCH` for a process that is not there.
fn check_credentials(task: &TaskRef, given: Credentials) -> Result<Credentials> {
    let c = task.credentials();
    let ns = &c.user_ns;
    let uid = ns.to_kernel(IdKind::User, given.uid).ok_or(Errno::EINVAL)?;
    let gid = ns.to_kernel(IdKind::Group, given.gid).ok_or(Errno::EINVAL)?;
    let may = |capability| c.capable_in(ns, capability);
    let pid_ok =
        given.pid == task.pid() || c.capable_in(task.process().pid_ns.owner(), Capabilities::SYS_ADMIN);
    let uid_ok = [c.uid, c.euid, c.suid].contains(&uid) || may(Capabilities::SETUID);
    let gid_ok = [c.gid, c.egid, c.sgid].contains(&gid) || may(Capabilities::SETGID);
    if !(pid_ok && uid_ok && gid_ok) {
        return Err(Errno::EPERM);
    }
    let pid = match given.pid == task.pid() {
        true => task.process().pid,
        false => task.pids().process(given.pid)?.pid,
    };
    Ok(Credentials { pid, uid, gid })
}

/// Control bytes being written to the user.
struct Writer {
    at: u64,
    left: usize,
    truncated: bool,
}

impl Writer {
    /// A control message; what does not fit is cut off (`put_cmsg`).
    fn put(&mut self, kind: i32, data: &[u8]) -> Result<()> {
        self.put_of(SOL_SOCKET, kind, data)
    }

    /// The same for one of any level.
    fn put_of(&mut self, level: i32, kind: i32, data: &[u8]) -> Result<()> {
        if self.left < HEADER {
            self.truncated = true;
            return Ok(());
        }
        let len = HEADER + data.len();
        let fits = len.min(self.left);
        self.truncated |= fits < len;
        let mut bytes = Vec::with_capacity(len);
        bytes.extend_from_slice(&(fits as u64).to_ne_bytes());
        bytes.extend_from_slice(&level.to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(data);
        hal::user::copy_out(self.at, bytes.get(..fits).unwrap_or_default())?;
        let used = align(len).min(self.left);
        self.at += used as u64;
        self.left -= used;
        Ok(())
    }

    /// Files, as many as there is room and there are numbers for; the others are closed.
    fn put_files(&mut self, task: &TaskRef, got: &mut Received, close_on_exec: bool) -> Result<()> {
        let files = core::mem::take(&mut got.files);
        let room = self.left.saturating_sub(HEADER) / 4;
        self.truncated |= files.len() > room;
        let table = task.files()?;
        let limit = task.process().limits.soft(Resource::OpenFiles);
        let mut numbers: Vec<u8> = Vec::new();
        for file in files.into_iter().take(room) {
            match table.install(file, close_on_exec, limit) {
                Ok(fd) => numbers.extend_from_slice(&fd.to_ne_bytes()),
                Err(_) => {
                    self.truncated = true;
                    break;
                }
            }
        }
        if numbers.is_empty() { Ok(()) } else { self.put(SCM_RIGHTS, &numbers) }
    }
}

/// Writes what came with a message and the receiver wants to know. Returns the control length and whether
/// something was left out.
pub(super) fn write_control(
    task: &TaskRef,
    header: &MessageHeader,
    got: &mut Received,
    options: &Common,
    close_on_exec: bool,
) -> Result<(usize, bool)> {
    let len = if header.control == 0 { 0 } else { header.control_len as usize };
    let mut w = Writer { at: header.control, left: len, truncated: false };
    if got.at != 0 && options.wants_time() {
        match options.flag(SO_TIMESTAMP) {
            true => w.put(SCM_TIMESTAMP, TimeVal::from_ns(got.at).as_bytes())?,
            false => w.put(SCM_TIMESTAMPNS, TimeSpec::from_ns(got.at).as_bytes())?,
        }
    }
    if options.flag(SO_PASSCRED) {
        w.put(SCM_CREDENTIALS, got.credentials.shown_to(task).as_bytes())?;
    }
    if !got.files.is_empty() {
        w.put_files(task, got, close_on_exec)?;
    }
    if options.flag(SO_PASSPIDFD) {
        if w.left <= HEADER {
            w.truncated = true;
        } else {
            let fd = pidfd_of(task, got.credentials.pid).unwrap_or_else(|e| -i32::from(e.raw()));
            w.put(SCM_PIDFD, &fd.to_ne_bytes())?;
        }
    }
    for control in &got.control {
        w.put_of(control.level, control.kind, &control.data)?;
    }
    Ok((len - w.left, w.truncated))
}

/// Bytes of `struct sockaddr_storage`.
pub(super) const ADDRESS_MAX: usize = 128;

/// Copies an address in. `EINVAL` if it is too long.
pub(super) fn read_address(addr: UserAddr, len: usize) -> Result<AddressBytes> {
    let mut bytes = AddressBytes::new();
    // An `int` in all calls.
    let len = usize::try_from(len as i32).ok().filter(|n| *n <= ADDRESS_MAX).ok_or(Errno::EINVAL)?;
    bytes.resize(len, 0);
    hal::user::copy_in(&mut bytes, addr.0)?;
    Ok(bytes)
}

/// A `struct sockaddr` as it was given.
pub(super) type AddressBytes = SmallVec<[u8; ADDRESS_MAX]>;

/// Copies an address out: as much as fits, and its whole length.
pub(super) fn write_address(address: &[u8], to: u64, room: u32) -> Result<u32> {
    let n = address.len().min(room as usize);
    if n > 0 {
        hal::user::copy_out(to, address.get(..n).unwrap_or_default())?;
    }
    Ok(address.len() as u32)
}

/// As [`write_address`] for calls with a `socklen_t *`.
pub(super) fn write_address_sized(address: &[u8], to: u64, len: UserPtr<i32>) -> Result<()> {
    let room = u32::try_from(len.read()?).map_err(|_| Errno::EINVAL)?;
    len.write(&(write_address(address, to, room)? as i32))
}
