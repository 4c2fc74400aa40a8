//! Host file descriptors that the event loop reads and writes.
//!
//! The event loop must never block on them, yet most are inherited: standard streams share their open file
//! description with the shell and everything else on the terminal, and O_NONBLOCK belongs to the description.
//! Setting it would make the *shell's* reads fail. So each descriptor is put in the best of these modes, once,
//! when it is handed to us (later the process may not open files any more):
//!
//! | mode | for | how |
//! |---|---|---|
//! | `Nonblocking` | pipes, fifos, terminals; descriptors that already are | opened anew through `/proc/self/fd`, which makes a description of our own |
//! | `Socket` | sockets | `MSG_DONTWAIT` on each call |
//! | `AlwaysReady` | what epoll refuses: regular files, /dev/null, /dev/zero | plain `read` and `write`, which do not wait for a peer |
//! | `Careful` | everything else, or when opening anew is not permitted | `poll` right before each call, writes of at most PIPE_BUF |
//!
//! A terminal is read only while we are its foreground process group. A program that does not read its standard
//! input can run in the background of a shell; a relay that reads ahead for it would be stopped by SIGTTIN, and
//! the sandbox with it.
//!
//! `Careful` can block the loop only if another process takes the same bytes (or the same room) between the two
//! calls. A regular file is never opened anew: its offset and O_APPEND belong to the shared description.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode as FileMode, OFlags, Stat, fcntl_getfl, fstat, open};
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use rustix::process::getpgrp;
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
    is_terminal: bool,
}

impl HostStream {
    /// For reading.
    pub(crate) fn reader(fd: OwnedFd) -> Self {
        Self::new(fd, OFlags::RDONLY)
    }

    /// For writing.
    pub(crate) fn writer(fd: OwnedFd) -> Self {
        Self::new(fd, OFlags::WRONLY)
    }

    /// A socket.
    pub(crate) fn socket(fd: OwnedFd) -> Self {
        Self { fd, mode: Mode::Socket, is_terminal: false }
    }

    fn new(fd: OwnedFd, access: OFlags) -> Self {
        let nonblocking = fcntl_getfl(&fd).is_ok_and(|flags| flags.contains(OFlags::NONBLOCK));
        let is_terminal = isatty(&fd);
        let stat = fstat(&fd).ok();
        let mode = match stat.map(|s| FileType::from_raw_mode(s.st_mode)) {
            Some(FileType::Socket) => Mode::Socket,
            Some(FileType::RegularFile) => Mode::AlwaysReady,
            _ if nonblocking => Mode::Nonblocking,
            Some(FileType::Fifo | FileType::CharacterDevice) => {
                return match stat.and_then(|stat| open_anew(&fd, &stat, access)) {
                    Some(own) => Self { fd: own, mode: Mode::Nonblocking, is_terminal },
                    None => Self { fd, mode: Mode::Careful, is_terminal },
                };
            }
            _ => Mode::Careful,
        };
        Self { fd, mode, is_terminal }
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
        if self.is_terminal && tcgetpgrp(&self.fd).is_ok_and(|foreground| foreground != getpgrp()) {
            // The next key pressed is another event, and another look.
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let result = match self.mode {
            Mode::Socket => recv(&self.fd, buf, RecvFlags::DONTWAIT).map(|(n, _)| n),
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

/// Opens the same pipe or terminal again with a description of our own. `None` where that is impossible or
/// would mean something else.
fn open_anew(fd: &OwnedFd, stat: &Stat, access: OFlags) -> Option<OwnedFd> {
    let is_char = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
    // Opening a device can have effects of its own. A terminal's has none with O_NOCTTY; a pty master (5:2)
    // would be a *new* pair.
    if is_char && (!isatty(fd) || stat.st_rdev == rustix::fs::makedev(5, 2)) {
        return None;
    }
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let flags = access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let own = open(path, flags, FileMode::empty()).ok()?;
    let same = fstat(&own)
        .ok()
        .filter(|new| (new.st_dev, new.st_ino, new.st_rdev) == (stat.st_dev, stat.st_ino, stat.st_rdev));
    same.map(|_| own)
}
