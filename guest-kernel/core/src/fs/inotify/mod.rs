//! inotify(7): being told what happens to files and directories.
//!
//! What Linux does: a *watch* joins an inotify instance (an open file) and an inode. What the VFS does to the
//! inode is queued as an event at the instance; what happens to a name in a watched directory, or to a file
//! opened by such a name, is queued with that name. Equal events in a row are joined, and a queue that is full
//! ends with `IN_Q_OVERFLOW`.
//!
//! What we do: the same. Watches are in one table by (device, inode number); a watch holds its inode, so the
//! number stays that inode's. The VFS calls the functions of `hooks`, each of which asks one counter first
//! ([`active`]): without a watch in the machine, an operation pays one load.
//!
//! `IN_DELETE_SELF` comes when a file without names is used no more: when its last dentry reference goes, which
//! `unlink` and the last close look for.
//!
//! | file | idea |
//! |---|---|
//! | `directory` | `F_NOTIFY`: a signal instead of an event |
//! | `hooks` | what the VFS calls |
//! | `queue` | events and their order |
//! | `watch` | the table, instances, limits |
//! | `sys` | the system calls |
//!
//! Lock order: the table, then an instance's state; neither is held over a wake-up or a drop of an inode.

mod directory;
mod hooks;
mod queue;
mod sys;
mod watch;

use bitflags::bitflags;

pub(super) use directory::{closed_by_table, watch as watch_directory};
pub use hooks::changed_by_itself;
pub(super) use hooks::{
    accessed, attributes_changed, closed, created, inode_changed, linked, modified, opened, renamed,
    renamed_pair, unlinked, unmounted,
};
pub(super) use sys::SYSCALLS;
pub use watch::{active, limits};

bitflags! {
    /// `IN_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Events: u32 {
        #[allow(missing_docs)]
        const ACCESS = 0x1;
        #[allow(missing_docs)]
        const MODIFY = 0x2;
        #[allow(missing_docs)]
        const ATTRIB = 0x4;
        #[allow(missing_docs)]
        const CLOSE_WRITE = 0x8;
        #[allow(missing_docs)]
        const CLOSE_NOWRITE = 0x10;
        #[allow(missing_docs)]
        const OPEN = 0x20;
        #[allow(missing_docs)]
        const MOVED_FROM = 0x40;
        #[allow(missing_docs)]
        const MOVED_TO = 0x80;
        #[allow(missing_docs)]
        const CREATE = 0x100;
        #[allow(missing_docs)]
        const DELETE = 0x200;
        #[allow(missing_docs)]
        const DELETE_SELF = 0x400;
        #[allow(missing_docs)]
        const MOVE_SELF = 0x800;
        #[allow(missing_docs)]
        const UNMOUNT = 0x2000;
        /// The queue was full; not asked for.
        const Q_OVERFLOW = 0x4000;
        /// The watch is gone; not asked for.
        const IGNORED = 0x8000;
        /// Fail if it is not a directory.
        const ONLYDIR = 0x0100_0000;
        /// Do not follow a link.
        const DONT_FOLLOW = 0x0200_0000;
        /// Not for names that were removed.
        const EXCL_UNLINK = 0x0400_0000;
        /// Fail if there is a watch.
        const MASK_CREATE = 0x1000_0000;
        /// As an event: a name changed within the directory. Not for inotify.
        const RENAME = 0x1000_0000;
        /// Add to the events asked for.
        const MASK_ADD = 0x2000_0000;
        /// The event is about a directory.
        const ISDIR = 0x4000_0000;
        /// The watch goes with its first event.
        const ONESHOT = 0x8000_0000;
    }
}

impl Events {
    /// What can be waited for (`IN_ALL_EVENTS`).
    pub const ALL: Events = Events::from_bits_truncate(0xfff);
}
