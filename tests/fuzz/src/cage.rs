//! Where a target may make files: a small file system in memory, with the rest of the machine's for reading only.
//!
//! What is fuzzed may have a bug that gives it the wrong path or a huge size, and it runs as the developer, often as root. So the
//! process gets a mount namespace (without root in a user namespace, too) in which nothing can be written but that file system and
//! the folders where libFuzzer keeps what it finds.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
use rustix::thread::UnshareFlags;

/// Any folder that each machine has, and nobody keeps corpora in.
const PLACE: &str = "/mnt";
const PREFIX: &str = "-artifact_prefix=";

/// Locks this process, which must have one thread only. The folder that is for it, empty.
pub fn enter() -> io::Result<PathBuf> {
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    // SAFETY: no descriptor table is unshared.
    let unshare = |flags| unsafe { rustix::thread::unshare_unsafe(flags) };
    if user.is_root() {
        unshare(UnshareFlags::NEWNS)?;
    } else {
        unshare(UnshareFlags::NEWNS | UnshareFlags::NEWUSER)?;
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("{0} {0} 1", user.as_raw()))?;
        fs::write("/proc/self/gid_map", format!("{0} {0} 1", group.as_raw()))?;
    }
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let outputs = outputs();
    for folder in &outputs {
        mount_bind(folder, folder)?;
    }
    let read_only = libc::MOUNT_ATTR_RDONLY;
    attributes(Path::new("/"), libc::AT_RECURSIVE, (read_only, 0))?;
    for folder in &outputs {
        attributes(folder, 0, (0, read_only))?;
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("fuzz", PLACE, "tmpfs", flags, c"size=16m,nr_inodes=4k,mode=0700")?;
    Ok(PLACE.into())
}

/// The folders that libFuzzer writes to: the first corpus, and the one for what fails.
fn outputs() -> Vec<PathBuf> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let corpus = arguments.iter().find(|argument| !argument.starts_with('-'));
    let failed = arguments.iter().find_map(|argument| argument.strip_prefix(PREFIX));
    let folders = corpus.map(String::as_str).into_iter().chain(failed);
    folders.filter_map(|folder| fs::canonicalize(folder).ok()).filter(|folder| folder.is_dir()).collect()
}

/// `mount_setattr(2)`: attributes to set and to clear.
fn attributes(path: &Path, flags: i32, (set, clear): (u64, u64)) -> io::Result<()> {
    let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes())?;
    let attributes = libc::mount_attr { attr_set: set, attr_clr: clear, propagation: 0, userns_fd: 0 };
    // SAFETY: a path that ends, and a structure with its size; both outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            flags,
            &attributes,
            size_of_val(&attributes),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
