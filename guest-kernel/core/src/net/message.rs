//! `struct msghdr` and control messages (recvmsg(2), cmsg(3)).

use alloc::vec::Vec;

use ringfence_hal as hal;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::unix::{Credentials, Received};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    fs::FileRef,
    syscall::UserPtr,
    task::{Capabilities, limits::Resource},
};

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
/// `SCM_MAX_FD`.
const FILES_MAX: usize = 253;
/// Bytes of `struct cmsghdr`.
const HEADER: usize = 16;
/// Control bytes of one message: files and credentials fit several times.
const CONTROL_MAX: usize = 4096;

fn align(n: usize) -> usize {
    n.next_multiple_of(8)
}

/// What was sent along.
pub(super) struct Control {
    pub files: Vec<FileRef>,
    pub credentials: Option<Credentials>,
}

/// Reads the control messages of a `sendmsg`.
pub(super) fn read_control(task: &TaskRef, header: &MessageHeader) -> Result<Control> {
    let mut control = Control { files: Vec::new(), credentials: None };
    let len = header.control_len as usize;
    if header.control == 0 || len < HEADER {
        return Ok(control);
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
                    if control.files.len() >= FILES_MAX {
                        return Err(Errno::EINVAL);
                    }
                    control.files.push(files.get_any(i32::from_ne_bytes(*fd))?);
                }
            }
            (SOL_SOCKET, SCM_CREDENTIALS) => {
                let given = Credentials::read_from_bytes(data).map_err(|_| Errno::EINVAL)?;
                check_credentials(task, given)?;
                control.credentials = Some(given);
            }
            _ => return Err(Errno::EINVAL),
        }
        rest = rest.get(align(size)..).unwrap_or_default();
    }
    Ok(control)
}

/// Nobody says he is somebody else without the right to become him.
fn check_credentials(task: &TaskRef, given: Credentials) -> Result<()> {
    let c = task.credentials();
    let pid_ok = given.pid == task.pid() || c.capable(Capabilities::SYS_ADMIN);
    let uid_ok = [c.uid, c.euid, c.suid].contains(&given.uid) || c.capable(Capabilities::SETUID);
    let gid_ok = [c.gid, c.egid, c.sgid].contains(&given.gid) || c.capable(Capabilities::SETGID);
    if pid_ok && uid_ok && gid_ok { Ok(()) } else { Err(Errno::EPERM) }
}

/// Control bytes being written to the user.
struct Writer {
    at: u64,
    left: usize,
    truncated: bool,
}

impl Writer {
    fn put(&mut self, kind: i32, data: &[u8]) -> Result<()> {
        let mut bytes = Vec::with_capacity(HEADER + data.len());
        bytes.extend_from_slice(&((HEADER + data.len()) as u64).to_ne_bytes());
        bytes.extend_from_slice(&SOL_SOCKET.to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(data);
        hal::user::copy_out(self.at, &bytes)?;
        let used = align(bytes.len()).min(self.left);
        self.at += used as u64;
        self.left -= used;
        Ok(())
    }
}

/// Writes what came with a message; files that do not fit are closed. Returns the control length and
/// whether something was left out.
pub(super) fn write_control(
    task: &TaskRef,
    header: &MessageHeader,
    got: &mut Received,
    credentials: bool,
    close_on_exec: bool,
) -> Result<(usize, bool)> {
    let len = if header.control == 0 { 0 } else { header.control_len as usize };
    let mut w = Writer { at: header.control, left: len, truncated: false };
    if credentials {
        if w.left >= HEADER + size_of::<Credentials>() {
            w.put(SCM_CREDENTIALS, got.credentials.as_bytes())?;
        } else {
            w.truncated = true;
        }
    }
    let files = core::mem::take(&mut got.files);
    if !files.is_empty() {
        let room = w.left.saturating_sub(HEADER) / 4;
        let table = task.files()?;
        let limit = task.process().limits.soft(Resource::OpenFiles);
        let mut numbers: Vec<u8> = Vec::new();
        w.truncated |= files.len() > room;
        for file in files.into_iter().take(room) {
            match table.install(file, close_on_exec, limit) {
                Ok(fd) => numbers.extend_from_slice(&fd.to_ne_bytes()),
                Err(_) => {
                    w.truncated = true;
                    break;
                }
            }
        }
        if !numbers.is_empty() {
            w.put(SCM_RIGHTS, &numbers)?;
        }
    }
    Ok((len - w.left, w.truncated))
}

/// Copies an address out: as much as fits, and its whole length.
pub(super) fn write_address(address: &[u8], to: u64, room: u32) -> Result<u32> {
    if to != 0 {
        let n = address.len().min(room as usize);
        hal::user::copy_out(to, address.get(..n).unwrap_or_default())?;
    }
    Ok(address.len() as u32)
}

/// As [`write_address`] for calls with a `socklen_t *`.
pub(super) fn write_address_sized(address: &[u8], to: u64, len: UserPtr<i32>) -> Result<()> {
    if to == 0 {
        return Ok(());
    }
    let room = u32::try_from(len.read()?).map_err(|_| Errno::EINVAL)?;
    len.write(&(write_address(address, to, room)? as i32))
}
