//! Changing attributes, and making inodes that belong to who asked.
//!
//! An inode is made with no more rights than it is to have, then given to its owner, then its mode is set, because giving it
//! away takes set-id bits. What was made is found again by its name, and by then the host may have put something else there:
//! so it must be of the type that was made, have one name, and belong to us; then nothing is given away that is not as new.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use fuse_backend_rs::abi::fuse_abi::stat64;
use fuse_backend_rs::api::filesystem::{Context, Entry, SetattrValid};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use crate::fs::Gofer;
use crate::node::{Node, component, open_beneath};

/// `UTIME_NOW` and `UTIME_OMIT` of utimensat(2).
const NOW: i64 = libc::UTIME_NOW;
const OMIT: i64 = libc::UTIME_OMIT;

/// Whose a new inode is, on the host.
type Owner = (Uid, Gid);

impl Gofer {
    /// Changes what `valid` says.
    pub(crate) fn change(&self, node: &Node, to: &stat64, valid: SetattrValid) -> io::Result<()> {
        if valid.contains(SetattrValid::SIZE) {
            if node.kind != libc::S_IFREG {
                return Err(if node.is_directory() { Errno::ISDIR } else { Errno::INVAL }.into());
            }
            let size = u64::try_from(to.st_size).map_err(|_| Errno::FBIG)?;
            self.open_content(node, true)?.set_len(size)?;
        }
        if valid.intersects(SetattrValid::UID | SetattrValid::GID) {
            let volume = self.volume(node)?;
            let outside = |wanted: bool, id: Option<u32>| match (wanted, id) {
                (false, _) => Ok(None),
                (true, Some(id)) => Ok(Some(id)),
                // An id that the host has no place for.
                (true, None) => Err(io::Error::from(Errno::PERM)),
            };
            let uid = outside(valid.contains(SetattrValid::UID), volume.users.outside(to.st_uid))?;
            let gid = outside(valid.contains(SetattrValid::GID), volume.groups.outside(to.st_gid))?;
            let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::chownat(&node.fd, c"", uid.map(Uid::from_raw), gid.map(Gid::from_raw), flags)?;
        }
        if valid.contains(SetattrValid::MODE) {
            self.set_mode(node.volume, node.name(), node.kind, to.st_mode)?;
        }
        let now = SetattrValid::ATIME_NOW | SetattrValid::MTIME_NOW;
        if valid.intersects(SetattrValid::ATIME | SetattrValid::MTIME | now) {
            let time = |set, set_now, sec, nsec: i64| {
                let nsec = match (valid.contains(set_now), valid.contains(set)) {
                    (true, _) => NOW,
                    (_, true) if (0..1_000_000_000).contains(&nsec) => nsec,
                    (_, true) => 0,
                    _ => OMIT,
                };
                Timespec { tv_sec: sec, tv_nsec: nsec }
            };
            let (a, m) = (SetattrValid::ATIME, SetattrValid::MTIME);
            let times = Timestamps {
                last_access: time(a, SetattrValid::ATIME_NOW, to.st_atime, to.st_atime_nsec),
                last_modification: time(m, SetattrValid::MTIME_NOW, to.st_mtime, to.st_mtime_nsec),
            };
            rustix::fs::utimensat(&self.proc, node.name(), &times, AtFlags::empty())?;
        }
        Ok(())
    }

    /// Sets the permission bits of the inode behind our own descriptor `name`. A file gets no set-id bit if its volume is not for
    /// that: as Linux does for a group that one is not in, nothing is said, and the answer has the mode that it is.
    fn set_mode(&self, volume: usize, name: String, kind: u32, mode: u32) -> io::Result<()> {
        if kind == libc::S_IFLNK {
            return Err(Errno::OPNOTSUPP.into());
        }
        let keeps = kind == libc::S_IFDIR || self.settings(volume)?.set_id;
        let mode = mode & if keeps { 0o7777 } else { 0o1777 };
        Ok(rustix::fs::chmodat(&self.proc, name, Mode::from_bits_truncate(mode), AtFlags::empty())?)
    }

    /// Whose an inode made on behalf of `ctx` in `parent` is. `EPERM` if the host has no such id, `ENFILE` if there may be no other.
    fn owner(&self, ctx: &Context, parent: &Node) -> io::Result<Owner> {
        self.room()?;
        let volume = self.volume(parent)?;
        let uid = volume.users.outside(ctx.uid).ok_or(Errno::PERM)?;
        let gid = volume.groups.outside(ctx.gid).ok_or(Errno::PERM)?;
        Ok((Uid::from_raw(uid), Gid::from_raw(gid)))
    }

    /// Makes a regular file, a FIFO or a socket.
    pub(crate) fn make_node(&self, ctx: &Context, parent: u64, name: &CStr, mode: u32) -> io::Result<Entry> {
        let parent = self.writable(parent)?;
        let owner = self.owner(ctx, &parent)?;
        let name = component(name)?;
        let at_first = Mode::from_bits_truncate(mode & 0o700);
        let kind = match mode & libc::S_IFMT {
            0 | libc::S_IFREG => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
                let made = open_beneath(parent.fd.as_fd(), name, flags, at_first)?;
                // The very inode that was made, whatever is at its name by now.
                let number = std::os::fd::AsRawFd::as_raw_fd(&made).to_string();
                let flags = OFlags::PATH | OFlags::CLOEXEC;
                let found = rustix::fs::openat(&self.proc, number, flags, Mode::empty())?;
                return self.give(&parent, found, libc::S_IFREG, owner, mode);
            }
            libc::S_IFIFO => FileType::Fifo,
            libc::S_IFSOCK => FileType::Socket,
            // A device of the host would be a way out.
            _ => return Err(Errno::PERM.into()),
        };
        rustix::fs::mknodat(&parent.fd, name, kind, at_first, 0)?;
        let found = open_beneath(parent.fd.as_fd(), name, OFlags::PATH, Mode::empty())?;
        self.give(&parent, found, kind.as_raw_mode(), owner, mode)
    }

    /// Makes a directory.
    pub(crate) fn make_directory(
        &self,
        ctx: &Context,
        parent: u64,
        name: &CStr,
        mode: u32,
    ) -> io::Result<Entry> {
        let parent = self.writable(parent)?;
        let owner = self.owner(ctx, &parent)?;
        rustix::fs::mkdirat(&parent.fd, component(name)?, Mode::from_bits_truncate(mode & 0o700))?;
        let found = open_beneath(parent.fd.as_fd(), name, OFlags::PATH, Mode::empty())?;
        self.give(&parent, found, libc::S_IFDIR, owner, mode)
    }

    /// Makes a symbolic link, whose text nobody here follows.
    pub(crate) fn make_symlink(
        &self,
        ctx: &Context,
        target: &CStr,
        parent: u64,
        name: &CStr,
    ) -> io::Result<Entry> {
        let parent = self.writable(parent)?;
        let owner = self.owner(ctx, &parent)?;
        rustix::fs::symlinkat(target, &parent.fd, component(name)?)?;
        let found = open_beneath(parent.fd.as_fd(), name, OFlags::PATH, Mode::empty())?;
        self.give(&parent, found, libc::S_IFLNK, owner, 0o777)
    }

    /// Gives what was made to its owner, with its mode.
    fn give(&self, parent: &Node, made: OwnedFd, kind: u32, owner: Owner, mode: u32) -> io::Result<Entry> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
        let stat = rustix::fs::statx(&made, c"", flags, rustix::fs::StatxFlags::BASIC_STATS)?;
        let ours = u32::from(stat.stx_mode) & libc::S_IFMT == kind
            && stat.stx_uid == rustix::process::geteuid().as_raw()
            && (kind == libc::S_IFDIR || stat.stx_nlink <= 1);
        if !ours {
            return Err(Errno::STALE.into());
        }
        let (uid, gid) = owner;
        if (stat.stx_uid, stat.stx_gid) != (uid.as_raw(), gid.as_raw()) {
            rustix::fs::chownat(&made, c"", Some(uid), Some(gid), flags)?;
        }
        if kind != libc::S_IFLNK {
            let number = std::os::fd::AsRawFd::as_raw_fd(&made).to_string();
            self.set_mode(parent.volume, number, kind, mode)?;
        }
        self.entry(parent.volume, made)
    }
}
