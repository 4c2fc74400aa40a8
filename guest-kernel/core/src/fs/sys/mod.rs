//! The system calls about files, one family a file.
//!
//! Each decodes its arguments, asks the walk for places, checks rights with the caller's credentials and calls
//! the VFS. What they share is here: the [`Caller`], and reading a path from user memory.

mod access;
mod attributes;
mod copy;
mod descriptors;
mod directory;
mod fcntl;
mod handle;
mod ioctl;
mod machine;
mod memfd;
mod mount;
mod names;
mod open;
mod rw;
mod size;
mod stat;
mod statfs;
mod sync;
mod xattr;

use alloc::sync::Arc;

pub(crate) use rw::{IoVec, read_iovec};

use ringfence_hal as hal;
use smallvec::SmallVec;

use super::{FsContext, PATH_MAX, Path, Subject, Walk, WalkFlags, walk::Parent};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    syscall::{Ctx, Fd, Syscall, UserStr},
    task::{Credentials, limits::Resource},
};

/// All of them.
pub const SYSCALLS: &[&[Syscall]] = &[
    access::SYSCALLS,
    attributes::SYSCALLS,
    copy::SYSCALLS,
    descriptors::SYSCALLS,
    directory::SYSCALLS,
    fcntl::SYSCALLS,
    handle::SYSCALLS,
    ioctl::SYSCALLS,
    machine::SYSCALLS,
    memfd::SYSCALLS,
    mount::CLASSIC,
    mount::CONTEXT,
    mount::TREE,
    names::SYSCALLS,
    open::SYSCALLS,
    rw::SYSCALLS,
    size::SYSCALLS,
    stat::SYSCALLS,
    statfs::SYSCALLS,
    sync::SYSCALLS,
    xattr::SYSCALLS,
];

/// `AT_SYMLINK_NOFOLLOW`.
const AT_SYMLINK_NOFOLLOW: u32 = 0x100;
/// `AT_SYMLINK_FOLLOW`, of `linkat`.
const AT_SYMLINK_FOLLOW: u32 = 0x400;
/// `AT_EMPTY_PATH`.
const AT_EMPTY_PATH: u32 = 0x1000;

/// A path copied from user memory; short ones without allocation.
pub(crate) type PathBuf = SmallVec<[u8; 128]>;

/// Copies a path in. `ENAMETOOLONG` from 4096 bytes on, the NUL included.
pub(crate) fn read_path(path: UserStr) -> Result<PathBuf> {
    let mut out = PathBuf::new();
    let mut chunk = [0u8; 128];
    loop {
        let n = hal::user::copy_in_str(&mut chunk, path.0.wrapping_add(out.len() as u64))?;
        out.extend_from_slice(chunk.get(..n).unwrap_or_default());
        if out.len() >= PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        if n < chunk.len() {
            return Ok(out);
        }
    }
}

/// The calling task, with what decides about its paths and rights.
struct Caller<'a> {
    task: &'a TaskRef,
    credentials: Arc<Credentials>,
    fs: Arc<FsContext>,
}

impl<'a> Caller<'a> {
    fn new(ctx: &Ctx<'a>) -> Result<Caller<'a>> {
        let task: &'a TaskRef = ctx.task;
        Ok(Caller { task, credentials: task.credentials(), fs: task.fs()? })
    }

    fn subject(&self) -> Subject<'_> {
        Subject::of(&self.credentials)
    }

    fn walk(&self) -> Walk<'_> {
        Walk { subject: self.subject(), root: self.fs.root(), task: Some(self.task) }
    }

    /// Where a walk of `path` from `dirfd` starts. An absolute path does not look at `dirfd`.
    fn start(&self, dirfd: Fd, path: &[u8]) -> Result<Path> {
        if dirfd == Fd::CWD || path.first() == Some(&b'/') {
            return Ok(self.fs.cwd());
        }
        Ok(self.task.files()?.get_any(dirfd.0)?.path().clone())
    }

    /// The place `path` names.
    fn resolve(&self, dirfd: Fd, path: &[u8], flags: WalkFlags) -> Result<Path> {
        self.walk().resolve(&self.start(dirfd, path)?, path, flags)
    }

    /// The place the user's `path` names.
    fn resolve_user(&self, dirfd: Fd, path: UserStr, flags: WalkFlags) -> Result<Path> {
        self.resolve(dirfd, &read_path(path)?, flags)
    }

    /// The directory and last name of `path`.
    fn parent<'p>(&self, dirfd: Fd, path: &'p [u8]) -> Result<Parent<'p>> {
        self.walk().parent(&self.start(dirfd, path)?, path)
    }
}

/// Walk flags from `AT_*`: follow unless `AT_SYMLINK_NOFOLLOW`. `EINVAL` for bits not in `allowed`.
fn at_flags(flags: u32, allowed: u32) -> Result<WalkFlags> {
    if flags & !allowed != 0 {
        return Err(Errno::EINVAL);
    }
    let mut walk = WalkFlags::empty();
    walk.set(WalkFlags::FOLLOW, flags & AT_SYMLINK_NOFOLLOW == 0);
    walk.set(WalkFlags::EMPTY, flags & AT_EMPTY_PATH != 0);
    Ok(walk)
}

/// RLIMIT_NOFILE of the caller.
fn open_files_limit(task: &TaskRef) -> u64 {
    task.process().limits.soft(Resource::OpenFiles)
}
