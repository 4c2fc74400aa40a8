//! Files: the VFS and the file systems under it.
//!
//! What Linux does: a path is walked component by component through a tree of *dentries* (names, cached) that
//! point to *inodes* (files, owned by a file system); *mounts* graft trees together; an open makes an *open
//! file description* that file descriptors of one or many processes share. We keep those five nouns and their
//! names.
//!
//! | module | holds |
//! |---|---|
//! | [`types`] | plain data: file types, metadata, device numbers, times, open flags |
//! | [`access`] | who asks ([`Subject`]) and the permission rules |
//! | [`inode`] | [`Inode`]: what a file system implements; [`FileSystem`], [`Superblock`] |
//! | [`file`] | [`File`]: what a pipe, socket, terminal implements; [`OpenFile`]: the open file description |
//! | [`dentry`], [`path`], [`mount`] | the dentry cache; a place in the tree; mounts and their namespaces |
//! | [`walk`], [`open`], [`ops`] | walking a path; opening; creating, removing and renaming |
//! | [`sys`] | the system calls about files; [`locks`]: `flock` and record locks |
//! | [`tmpfs`], [`erofs`] | tmpfs, and the overlay it becomes over a lower tree; the root image |
//! | [`ext4`] | file systems on disks, read-only |
//! | [`fuse`] | directories of the host (virtio-fs) |
//! | [`device`], [`devtmpfs`], [`mem`], [`filesystems`] | drivers by number; `/dev`; `null` to `urandom`; mountable types |
//! | [`anon`] | inodes without a name, for pipes, sockets, eventfds |
//! | [`pipe`], [`poll`], [`eventpoll`] | pipes and FIFOs; poll and select; epoll |
//! | [`eventfd`], [`timerfd`], [`signalfd`], [`pidfd`] | events as files |
//! | [`inotify`], [`aio`] | being told what happens to files; kernel AIO |
//! | [`tty`], [`proc`], [`nsfs`] | terminals, devpts; procfs; namespaces as files |
//! | [`fd_table`], [`context`] | what tasks hold: descriptors; root, working directory, umask |
//!
//! A regular file or directory needs no [`File`]: [`OpenFile`] drives its inode directly (positional reads
//! and writes, `readdir`). An inode whose open instances have state or whose reads block returns a [`File`]
//! from [`Inode::open`].
//!
//! Lock order: rename lock of the machine → directory locks of dentries (ancestor first) → an inode's own
//! sleeping locks → spin locks (dentry, mount table, fd table, inode data; never two of one kind except
//! dentry parent → child). No spin lock is held over a user copy: pages are cloned (one reference) under the
//! lock and copied after it.

pub mod access;
pub mod aio;
pub mod anon;
pub mod context;
pub mod dentry;
pub mod device;
pub mod devtmpfs;
pub mod erofs;
pub mod eventfd;
pub mod eventpoll;
pub mod ext4;
pub mod fd_table;
pub mod file;
pub mod file_caps;
pub mod filesystems;
pub mod fuse;
mod image;
pub mod inode;
pub mod inotify;
pub mod leases;
pub mod locks;
pub mod mem;
pub mod mount;
mod moves;
pub mod nsfs;
pub mod open;
pub mod ops;
pub mod owner;
pub mod path;
pub mod pidfd;
pub mod pipe;
pub mod poll;
pub mod proc;
pub mod signalfd;
pub mod sys;
pub mod timerfd;
pub mod tmpfs;
pub mod tty;
pub mod types;
pub mod walk;

pub use access::{Access, Subject};
pub use anon::AnonInode;
pub use context::FsContext;
pub use dentry::Dentry;
pub use fd_table::FdTable;
pub use file::{File, FileRef, OpenFile};
pub use inode::{
    DirEntry, FallocateMode, FileSystem, Inode, InodeRef, LinkTarget, NewInode, NewKind, RenameFlags,
    SeekTarget, Superblock, XattrFlags,
};
pub use mount::{Mount, MountFlags, MountNamespace};
pub use path::Path;
pub use types::{DeviceId, FileType, Metadata, OpenFlags, SetAttributes, StatFs, Timestamp};
pub use walk::{Walk, WalkFlags};

/// `NAME_MAX`: bytes of one path component.
pub const NAME_MAX: usize = 255;
/// `PATH_MAX`: bytes of a path with its NUL.
pub const PATH_MAX: usize = 4096;
/// `XATTR_LIST_MAX`: bytes of all attribute names of an inode.
pub const XATTR_LIST_MAX: usize = 65536;

use pipe::open_fifo;

#[cfg(test)]
mod erofs_tests;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod walk_tests;

/// The system calls of files that are no file system's.
pub const SYSCALLS: &[&[crate::syscall::Syscall]] = &[
    eventfd::SYSCALLS,
    eventpoll::SYSCALLS,
    pidfd::SYSCALLS,
    signalfd::SYSCALLS,
    timerfd::SYSCALLS,
    aio::SYSCALLS,
    inotify::SYSCALLS,
    pipe::SYSCALLS,
    pipe::SPLICE,
    poll::POLL,
    poll::SELECT,
];

/// Makes devices and file system types known; before anything is mounted.
pub fn init() {
    dentry::init();
    mem::register();
    tty::register();
    proc::register();
    crate::cgroup::files::register();
}
