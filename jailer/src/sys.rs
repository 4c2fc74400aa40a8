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

/// `mount_setattr(2)` of a detached mount, all of it: no set-id bits, devices and programs, and perhaps no writing.
pub fn restrict_mount(mount: BorrowedFd<'_>, read_only: bool) -> io::Result<()> {
    const RDONLY: u64 = 1;
    const NOSUID_NODEV_NOEXEC: u64 = 2 | 4 | 8;
    // `struct mount_attr`: attr_set, attr_clr, propagation, userns_fd.
    let attributes = [NOSUID_NODEV_NOEXEC | if read_only { RDONLY } else { 0 }, 0, 0, 0];
    // SAFETY: the path is empty and ends in NUL, the structure is as long as said, and both live through the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            attributes.as_ptr(),
            size_of_val(&attributes),
        )
    })?;
    Ok(())
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

/// Closes everything but the standard streams and `keep`.
///
/// Only for a process that will neither use nor close anything else that it has open, and ends by [`exit`].
pub fn close_all_but(keep: &[BorrowedFd<'_>]) {
    let mut keep: Vec<_> = keep.iter().map(|fd| fd.as_raw_fd() as libc::c_uint).collect();
    keep.extend([2, libc::c_uint::MAX]);
    keep.sort_unstable();
    for pair in keep.windows(2) {
        let &[before, after] = pair else { continue };
        if before >= 2 && before + 1 < after {
            // SAFETY: touches no memory; by the contract above nobody misses the descriptors. It cannot fail.
            unsafe { libc::syscall(libc::SYS_close_range, before + 1, after - 1, 0) };
        }
    }
}

/// Unmaps the pages of our own executable that cannot be written, for a process that will wait long: what it needs next
/// comes back from the page cache by itself.
pub fn release_code() {
    // SAFETY: the callback has the signature asked for and takes no data.
    unsafe { libc::dl_iterate_phdr(Some(release_segments), std::ptr::null_mut()) };
}

/// Called for each object; the first is the executable and the only one that is looked at.
unsafe extern "C" fn release_segments(
    object: *mut libc::dl_phdr_info,
    _: usize,
    _: *mut libc::c_void,
) -> libc::c_int {
    const PAGE: u64 = 4096;
    // SAFETY: libc passes a valid object with `dlpi_phnum` program headers.
    let (base, headers) = unsafe {
        let object = &*object;
        (object.dlpi_addr, std::slice::from_raw_parts(object.dlpi_phdr, object.dlpi_phnum.into()))
    };
    let fixed =
        |header: &&libc::Elf64_Phdr| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0;
    for header in headers.iter().filter(fixed) {
        let start = base.wrapping_add(header.p_vaddr) & !(PAGE - 1);
        let len = base.wrapping_add(header.p_vaddr) + header.p_memsz - start;
        // SAFETY: the mapping is one of a file that cannot change while it runs (ETXTBSY), and nobody has written to
        // it: its pages have the same contents when they are mapped again at the next access.
        unsafe { libc::madvise(start as *mut libc::c_void, len as usize, libc::MADV_DONTNEED) };
    }
    1
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
