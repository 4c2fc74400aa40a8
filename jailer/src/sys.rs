//! The calls that have no safe wrapper: making processes, and putting descriptors at given numbers.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::process::Pid;

/// `<linux/sched.h>`; libc's constant has a type that is too small.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn pid(raw: libc::c_long) -> Option<Pid> {
    Pid::from_raw(raw as i32)
}

/// `fork(2)`; `None` in the child.
///
/// The caller must have one thread only: the child may allocate and lock, and a lock that another thread held
/// at the fork would never be released in it.
pub fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: no memory is shared with the child, and with one thread (see above) no lock is held in it.
    let raw = check(unsafe { libc::fork() }.into())?;
    Ok(pid(raw))
}

/// `clone3(2)` as a fork into new namespaces and, if there is one, a cgroup. The parent gets a pidfd, the child
/// `None`. One thread only, as [`fork`].
pub fn clone_into(
    namespaces: libc::c_int,
    cgroup: Option<BorrowedFd<'_>>,
) -> io::Result<Option<(Pid, OwnedFd)>> {
    let mut pidfd: RawFd = -1;
    // SAFETY: clone_args is plain integers, of which 0 is "not used".
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = namespaces as u64 | libc::CLONE_PIDFD as u64;
    args.pidfd = &raw mut pidfd as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM this is a fork: the child has its own copy of everything and goes on here on its
    // own copy of the stack. `args` and `pidfd` live through the call.
    let raw = check(unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of_val(&args)) })?;
    let Some(pid) = pid(raw) else { return Ok(None) };
    // SAFETY: CLONE_PIDFD has made the descriptor for us.
    Ok(Some((pid, unsafe { OwnedFd::from_raw_fd(pidfd) })))
}

/// `execveat(2)` of an open file with an empty environment. Returns only with an error.
pub fn exec(file: BorrowedFd<'_>, args: &[CString]) -> io::Error {
    let mut argv: Vec<_> = args.iter().map(|arg| arg.as_ptr()).collect();
    argv.push(std::ptr::null());
    let environment = [std::ptr::null::<libc::c_char>()];
    // SAFETY: both vectors end in null and point to strings that end in NUL; all of them live through the call.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file.as_raw_fd(),
            c"".as_ptr(),
            argv.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}

/// Makes `descriptors` the numbers 0, 1, 2, …, open across exec, and every other close at exec.
///
/// Only for a process about to exec: numbers below their count change their meaning, whoever owns them. Those
/// that are still needed until then must be above.
pub fn place(descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let first_free = descriptors.len() as RawFd;
    // First out of the way of the targets, so that none overwrites another's source.
    let above = |fd: RawFd| {
        // SAFETY: F_DUPFD_CLOEXEC makes a new descriptor and touches no memory.
        check(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, first_free) }.into())
    };
    let copies = descriptors.iter().map(|fd| above(fd.as_raw_fd())).collect::<io::Result<Vec<_>>>()?;
    for (target, copy) in copies.into_iter().enumerate() {
        // SAFETY: dup2 touches no memory; whoever owned `target` is not used any more before the exec.
        check(unsafe { libc::dup2(copy as RawFd, target as RawFd) }.into())?;
    }
    // SAFETY: only flags of descriptors change.
    check(unsafe {
        libc::syscall(libc::SYS_close_range, first_free, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
    })?;
    Ok(())
}

/// Blocks every signal that can be, or none.
pub fn block_signals(all: bool) {
    // SAFETY: sigset_t is plain data, which sigfillset or sigemptyset fills in before sigprocmask reads it.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        if all {
            libc::sigfillset(&mut set)
        } else {
            libc::sigemptyset(&mut set)
        };
        libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut());
    }
}

/// Ends the process at once, running nothing of the parent's that was copied by a fork.
pub fn exit(code: i32) -> ! {
    // SAFETY: _exit does not return and runs no handler.
    unsafe { libc::_exit(code) }
}
