//! A second process of a sandbox, in a jail of its own: the gofer, which serves directories of the host.
//!
//! It takes the same steps as the VMM. What differs: it gets mounts, each a tree of its own that is mounted nowhere, so that no `..`
//! of it leads out; and as root it stays user 0, in a user namespace in which every id is mapped, with the few
//! capabilities there that a file server needs to serve any owner ([`capabilities`]). Capabilities of such a namespace
//! are over the inodes that can be reached, which are those of the mounts, and over nothing else of the host: no device nodes, no
//! mounts, no other process. Without root it is the caller, without a capability.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::CapabilitySet;

use crate::config::is_root;
use crate::sys;

/// Descriptors it may have open: an inode that the guest knows is one.
pub const OPEN_FILES: u64 = 1 << 17;
/// With fewer it is of no use.
pub const LEAST_OPEN_FILES: u64 = 512;

/// What it can do to the files of its mounts as root.
pub fn capabilities() -> CapabilitySet {
    if !is_root() {
        return CapabilitySet::empty();
    }
    CapabilitySet::CHOWN | CapabilitySet::DAC_OVERRIDE | CapabilitySet::FOWNER | CapabilitySet::FSETID
}

/// The process. It gets `descriptors` as 3, 4, …, then its own `/proc/self/fd`, then the shares in their order.
#[derive(Debug)]
pub struct Companion {
    /// `argv` of this executable.
    pub args: Vec<CString>,
    /// What it is handed.
    pub descriptors: Vec<OwnedFd>,
    /// What it serves.
    pub shares: Vec<Share>,
}

/// A directory or file of the host.
#[derive(Debug)]
pub struct Share {
    /// Its absolute path.
    pub path: PathBuf,
    /// It, opened with `O_PATH` by who asked for it.
    pub fd: OwnedFd,
    /// Its mount is read-only.
    pub read_only: bool,
}

impl Share {
    /// Its tree as a mount of its own, without what is mounted on it. Needs CAP_SYS_ADMIN over the mount namespace.
    pub fn detach(&self) -> io::Result<OwnedFd> {
        detach(self.fd.as_fd(), self.read_only)
    }

    /// The same in another mount namespace than the descriptor's, so by path; which must still lead to the same inode.
    pub fn detach_by_path(&self) -> io::Result<OwnedFd> {
        let fd = rustix::fs::open(&self.path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let identity = |fd: BorrowedFd<'_>| {
            rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::INO)
                .map(|stat| (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino))
        };
        if identity(fd.as_fd())? != identity(self.fd.as_fd())? {
            return Err(io::Error::from_raw_os_error(libc::ESTALE));
        }
        detach(fd.as_fd(), self.read_only)
    }
}

fn detach(fd: BorrowedFd<'_>, read_only: bool) -> io::Result<OwnedFd> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = match open_tree(fd, c"", flags) {
        // What is mounted on it may not be taken off by who has not mounted it: then it stays, and the gofer refuses to go there.
        Err(rustix::io::Errno::INVAL) => open_tree(fd, c"", flags | OpenTreeFlags::AT_RECURSIVE)?,
        tree => tree?,
    };
    match sys::restrict_mount(tree.as_fd(), read_only) {
        // Linux before 5.12: the gofer's own checks are what there is.
        Err(e) if e.raw_os_error() == Some(libc::ENOSYS) => {}
        result => result?,
    }
    Ok(tree)
}

/// The process's own `/proc/self/fd`, as a mount of its own: nothing else of proc can be reached from it.
pub fn own_descriptors() -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    Ok(open_tree(rustix::fs::CWD, "/proc/self/fd", flags)?)
}

impl Companion {
    /// How many descriptors it gets besides the standard streams.
    pub fn count(&self) -> usize {
        self.descriptors.len() + 1 + self.shares.len()
    }

    /// Starts it as an ordinary child, with all rights of this user, which dies when this process does. Call it with
    /// one thread.
    pub fn start_without_jail(self) -> io::Result<()> {
        let file = rustix::fs::open("/proc/self/exe", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        let parent = rustix::process::getpid();
        if sys::fork()?.is_some() {
            return Ok(());
        }
        let start = || -> io::Result<()> {
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
            if rustix::process::getppid() != Some(parent) {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            let hard = getrlimit(Resource::Nofile).maximum;
            let most = Some(hard.map_or(OPEN_FILES, |hard| hard.min(OPEN_FILES)));
            setrlimit(Resource::Nofile, Rlimit { current: most, maximum: hard })?;
            // Signals of the terminal are the program's.
            rustix::process::setsid()?;
            sys::block_signals(false);
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let own = rustix::fs::open("/proc/self/fd", flags, Mode::empty())?;
            let count = 3 + self.count() as i32;
            let file = rustix::io::fcntl_dupfd_cloexec(&file, count)?;
            let mut all = vec![null.as_fd(), null.as_fd(), rustix::stdio::stderr()];
            all.extend(self.descriptors.iter().map(AsFd::as_fd));
            all.push(own.as_fd());
            all.extend(self.shares.iter().map(|share| share.fd.as_fd()));
            sys::place(&all)?;
            Err(sys::exec(file.as_fd(), &self.args))
        };
        let _ = start();
        sys::exit(1)
    }
}
