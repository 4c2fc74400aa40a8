//! Signals to the command, read from a signalfd in the event loop.
//!
//! They are blocked before any thread starts, so that no thread is ever interrupted by one and none can end
//! the process while the terminal is in raw mode.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::FromRawFd;

/// Signals that are forwarded to the program, or end the sandbox when it does not answer any more.
pub const FORWARDED: [libc::c_int; 8] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGCONT,
    libc::SIGALRM,
];

/// A signalfd.
pub struct Signals {
    file: File,
}

impl Signals {
    /// Gives this thread's signals their usual effect again.
    pub fn unblock() {
        // SAFETY: sigset_t is plain data, initialised by sigfillset; the previous mask is not asked for.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&mut set);
            libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut());
        }
    }

    /// Blocks [`FORWARDED`] and `SIGWINCH` for this thread and all it will start, and opens the signalfd.
    pub fn block() -> io::Result<Self> {
        Self::block_also(&[])
    }

    /// The same with more signals.
    pub fn block_also(more: &[libc::c_int]) -> io::Result<Self> {
        // SAFETY: sigset_t is plain data, initialised by sigemptyset before any other use.
        let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: `set` is a valid sigset_t for all these calls; the previous mask is not asked for.
        let fd = unsafe {
            libc::sigemptyset(&mut set);
            for signal in FORWARDED.iter().chain(more) {
                libc::sigaddset(&mut set, *signal);
            }
            libc::sigaddset(&mut set, libc::SIGWINCH);
            libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
            libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and belongs to nobody else.
        Ok(Self { file: unsafe { File::from_raw_fd(fd) } })
    }

    /// Does what a SIGTSTP that was read would have done: stops this process until somebody lets it continue.
    pub fn stop_as_asked() {
        // SAFETY: sigset_t is plain data, initialised by sigemptyset before any other use; with one thread in it that is
        // not elsewhere blocked, the process takes the signal when it is unblocked.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            libc::sigaddset(&mut set, libc::SIGTSTP);
            libc::raise(libc::SIGTSTP);
            libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut());
            libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        }
    }

    /// The next pending signal number.
    pub fn take(&mut self) -> Option<libc::c_int> {
        let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
        match self.file.read(&mut info) {
            // `ssi_signo` is the first field.
            Ok(n) if n == info.len() => Some(i32::from_ne_bytes([info[0], info[1], info[2], info[3]])),
            _ => None,
        }
    }
}

impl std::os::fd::AsFd for Signals {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl std::os::fd::AsRawFd for Signals {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.file.as_raw_fd()
    }
}
