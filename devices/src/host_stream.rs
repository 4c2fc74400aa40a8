//! Host file descriptors that the event loop reads and writes.
//!
//! The event loop must never block on them, yet most are inherited: standard streams share their open file
//! description with the shell and everything else on the terminal, and O_NONBLOCK belongs to the description.
//! Setting it would make the *shell's* reads fail. So each descriptor is in the best of these modes:
//!
//! | mode | for | how |
//! |---|---|---|
//! | `Nonblocking` | descriptors that are: pipes, fifos and terminals opened anew by [`own_reader`], [`own_writer`] | plain `read` and `write` |
//! | `Socket` | sockets | `MSG_DONTWAIT` on each call |
//! | `AlwaysReady` | what epoll refuses: regular files, /dev/null, /dev/zero | plain `read` and `write`, which do not wait for a peer |
//! | `Careful` | everything else | `poll` right before each call, writes of at most PIPE_BUF |
//!
//! Opening anew goes through `/proc/self/fd` and makes a description of our own. It is for who has inherited the
//! descriptor: the process with the devices may be in a jail, which has no procfs.
//!
//! A terminal is read only while the command on whose behalf that is done is in the terminal's foreground ([`Job`]).
//! A program that does not read its standard input can run in the background of a shell; a relay that reads ahead
//! for it would be stopped by SIGTTIN, or, in a jail and so in another session, would take the shell's input.
//!
//! `Careful` can block the loop only if another process takes the same bytes (or the same room) between the two
//! calls. A regular file is never opened anew: its offset and O_APPEND belong to the shared description.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode as FileMode, OFlags, fcntl_getfl, fstat, open};
use rustix::net::{RecvAncillaryBuffer, RecvFlags, SendFlags, Shutdown, recvmsg, send, shutdown};
use rustix::termios::{isatty, tcgetpgrp};

/// POSIX: a write of this many bytes to a pipe that polls writable does not block.
const PIPE_BUF: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Nonblocking,
    Socket,
    AlwaysReady,
    Careful,
}

/// A descriptor that is read or written without waiting.
#[derive(Debug)]
pub(crate) struct HostStream {
    fd: OwnedFd,
    mode: Mode,
    job: Option<Job>,
}

impl HostStream {
    /// A socket.
    pub(crate) fn socket(fd: OwnedFd) -> Self {
        Self { fd, mode: Mode::Socket, job: None }
    }

    /// Any descriptor.
    pub(crate) fn new(fd: OwnedFd) -> Self {
        let nonblocking = fcntl_getfl(&fd).is_ok_and(|flags| flags.contains(OFlags::NONBLOCK));
        let mode = match fstat(&fd).map(|s| FileType::from_raw_mode(s.st_mode)) {
            Ok(FileType::Socket) => Mode::Socket,
            Ok(FileType::RegularFile) => Mode::AlwaysReady,
            _ if nonblocking => Mode::Nonblocking,
            _ => Mode::Careful,
        };
        Self { fd, mode, job: None }
    }

    /// One end of a pair of sockets in this process, not blocking: plain `read` and `write`, and no half-closes.
    pub(crate) fn channel(fd: OwnedFd) -> Self {
        Self { fd, mode: Mode::Nonblocking, job: None }
    }

    /// One that came with a request, and may be anything. Whether it blocks is not asked (that takes `fcntl`, which the
    /// event loop's filter has no room for), and may change: it is taken for one that does.
    pub(crate) fn foreign(fd: OwnedFd) -> Self {
        let mode = match fstat(&fd).map(|s| FileType::from_raw_mode(s.st_mode)) {
            Ok(FileType::Socket) => Mode::Socket,
            Ok(FileType::RegularFile) => Mode::AlwaysReady,
            _ => Mode::Careful,
        };
        Self { fd, mode, job: None }
    }

    /// Is read only while `job` is in the foreground.
    pub(crate) fn set_job(&mut self, job: Job) {
        self.job = Some(job);
    }

    /// Marks a descriptor that epoll has refused.
    pub(crate) fn set_always_ready(&mut self) {
        self.mode = Mode::AlwaysReady;
    }

    pub(crate) fn is_always_ready(&self) -> bool {
        self.mode == Mode::AlwaysReady
    }

    /// Reads what is there. `WouldBlock`: nothing now; 0: the end.
    pub(crate) fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        if self.job.as_ref().is_some_and(|job| !job.is_in_foreground()) {
            // The next key pressed is another event, and another look.
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let result = match self.mode {
            // recvmsg where recv would do: clients' descriptors take it anyway, and each call that the event loop's
            // filter (seccomp/README.md) allows is one more that an attacker has.
            Mode::Socket => {
                let (mut no_room, flags) = (RecvAncillaryBuffer::default(), RecvFlags::DONTWAIT);
                recvmsg(&self.fd, &mut [io::IoSliceMut::new(buf)], &mut no_room, flags).map(|got| got.bytes)
            }
            Mode::Careful if !self.is_ready(PollFlags::IN) => Err(rustix::io::Errno::AGAIN),
            _ => rustix::io::read(&self.fd, buf),
        };
        Ok(result?)
    }

    /// Writes what fits. `WouldBlock`: nothing fits now.
    pub(crate) fn write(&self, data: &[u8]) -> io::Result<usize> {
        let result = match self.mode {
            Mode::Socket => send(&self.fd, data, SendFlags::DONTWAIT | SendFlags::NOSIGNAL),
            Mode::Careful if !self.is_ready(PollFlags::OUT) => Err(rustix::io::Errno::AGAIN),
            Mode::Careful => rustix::io::write(&self.fd, &data[..data.len().min(PIPE_BUF)]),
            _ => rustix::io::write(&self.fd, data),
        };
        Ok(result?)
    }

    fn is_ready(&self, flags: PollFlags) -> bool {
        let mut fds = [PollFd::new(&self.fd, flags)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        // Any event counts, errors and hang-ups included: the call that follows will return them.
        poll(&mut fds, Some(&now)).is_ok_and(|n| n > 0)
    }

    /// Ends one direction of a socket whose other end is in this process.
    pub(crate) fn shutdown(&self, how: Shutdown) {
        if self.mode == Mode::Socket {
            let _ = shutdown(&self.fd, how);
        }
    }
}

impl AsRawFd for HostStream {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl AsFd for HostStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The process group of a command and its terminal's foreground one, by `/proc/PID/stat` (proc_pid_stat(5)). The open file
/// tells also a process that is neither in the command's session nor has a procfs.
#[derive(Debug)]
pub struct Job(File);

impl Job {
    /// The caller, if `terminal` is the one that controls it.
    pub fn of_caller(terminal: BorrowedFd<'_>) -> Option<OwnedFd> {
        tcgetpgrp(terminal).ok()?;
        Some(File::open("/proc/self/stat").ok()?.into())
    }

    fn is_in_foreground(&self) -> bool {
        let mut stat = [0; 512];
        let found = self.0.read_at(&mut stat, 0).ok().and_then(|n| is_in_foreground(stat.get(..n)?));
        found.unwrap_or(true)
    }
}

impl From<OwnedFd> for Job {
    fn from(stat: OwnedFd) -> Self {
        Self(stat.into())
    }
}

/// The name, the second field, can have anything in it. After it come state, parent, group, session, terminal and the
/// terminal's foreground group, -1 without one.
fn is_in_foreground(stat: &[u8]) -> Option<bool> {
    let name_end = stat.iter().rposition(|&b| b == b')')?;
    let mut fields = std::str::from_utf8(stat.get(name_end + 1..)?).ok()?.split_ascii_whitespace().skip(2);
    let (group, foreground) = (fields.next()?, fields.nth(2)?);
    Some(foreground == group || foreground == "-1")
}

/// The same pipe or terminal, opened anew for reading without waiting; anything else as it is.
pub fn own_reader(fd: OwnedFd) -> OwnedFd {
    own(fd, OFlags::RDONLY)
}

/// The same for writing.
pub fn own_writer(fd: OwnedFd) -> OwnedFd {
    own(fd, OFlags::WRONLY)
}

fn own(fd: OwnedFd, access: OFlags) -> OwnedFd {
    if fcntl_getfl(&fd).is_ok_and(|flags| flags.contains(OFlags::NONBLOCK)) {
        return fd;
    }
    open_anew(&fd, access).unwrap_or(fd)
}

/// `None` where that is impossible or would mean something else.
fn open_anew(fd: &OwnedFd, access: OFlags) -> Option<OwnedFd> {
    let stat = fstat(fd).ok()?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Fifo => {}
        // Opening a device can have effects of its own. A terminal's has none with O_NOCTTY; a pty master (5:2)
        // would be a *new* pair.
        FileType::CharacterDevice if isatty(fd) && stat.st_rdev != rustix::fs::makedev(5, 2) => {}
        _ => return None,
    }
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let flags = access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let own = open(path, flags, FileMode::empty()).ok()?;
    let same = fstat(&own)
        .ok()
        .filter(|new| (new.st_dev, new.st_ino, new.st_rdev) == (stat.st_dev, stat.st_ino, stat.st_rdev));
    same.map(|_| own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreground_is_told_from_background() {
        let stat = |group: i32, foreground: i32| {
            is_in_foreground(format!("7 (a) b (c) S 1 {group} 5 34816 {foreground} 4194304 1").as_bytes())
        };
        assert_eq!((stat(6, 6), stat(6, 9), stat(6, -1)), (Some(true), Some(false), Some(true)));
        assert_eq!(is_in_foreground(b"7 (a S 1"), None);
    }

    #[test]
    fn a_pipe_gets_a_description_of_our_own() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        let own = own_reader(read.try_clone().unwrap());
        assert!(fcntl_getfl(&own).unwrap().contains(OFlags::NONBLOCK));
        assert!(!fcntl_getfl(&read).unwrap().contains(OFlags::NONBLOCK));
        let own = own_writer(write.try_clone().unwrap());
        assert!(fcntl_getfl(&own).unwrap().contains(OFlags::NONBLOCK));
        let null: OwnedFd = File::open("/dev/null").unwrap().into();
        let number = null.as_raw_fd();
        assert_eq!(own_reader(null).as_raw_fd(), number);
    }
}
