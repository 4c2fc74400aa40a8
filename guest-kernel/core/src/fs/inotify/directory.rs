//! `F_NOTIFY` (fcntl(2), "File and directory change notification"): a signal when something happens in a directory.
//!
//! What Linux does: a process asks for kinds of events by a descriptor of the directory. The signal is the file's
//! (`F_SETOWN`, `F_SETSIG`), and tells that descriptor. The first event ends it unless `DN_MULTISHOT` was asked for.
//! What is asked for again is added, no events end it, and so does closing any descriptor of the file in the table
//! that asked.
//!
//! What we do: the same. It is one more kind of watch, in the table of inotify's.

use alloc::sync::Arc;

use super::{Events, active, watch};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    fs::{FdTable, FileRef, FileType, OpenFile, owner::Owner},
};

/// `DN_*`, and what each means in a watch.
const EVENTS: [(u64, Events); 6] = [
    (0x1, Events::ACCESS),
    (0x2, Events::MODIFY),
    (0x4, Events::CREATE.union(Events::MOVED_TO)),
    (0x8, Events::DELETE.union(Events::MOVED_FROM)),
    (0x10, Events::RENAME),
    (0x20, Events::ATTRIB),
];

/// `DN_MULTISHOT`.
const MULTISHOT: u64 = 0x8000_0000;

/// Who is told: a file, by the table that asked.
#[derive(Clone)]
pub(super) struct Directory {
    file: u64,
    table: usize,
    owner: Arc<Owner>,
    fd: i32,
}

impl Directory {
    /// Both are of one file and table.
    pub fn is_of(&self, other: &Directory) -> bool {
        (self.file, self.table) == (other.file, other.table)
    }

    /// Sends the signal.
    pub fn tell(&self) {
        self.owner.directory_changed(self.fd);
    }
}

/// `F_NOTIFY` by descriptor `fd` of `table`. `ENOTDIR`.
pub fn watch(task: &TaskRef, table: &FdTable, file: &FileRef, fd: i32, events: u64) -> Result<()> {
    if events & !MULTISHOT == 0 {
        closed_by_table(file, table.identity());
        return Ok(());
    }
    if file.inode().kind() != FileType::Directory {
        return Err(Errno::ENOTDIR);
    }
    let mut mask = Events::empty();
    for (asked, means) in EVENTS {
        mask.set(means, events & asked != 0);
    }
    mask.set(Events::ONESHOT, events & MULTISHOT == 0);
    file.owner().set_default(task);
    let directory = Directory { file: file.id(), table: table.identity(), owner: file.owner().clone(), fd };
    watch::watch_directory(file.inode(), mask, directory);
    // Another thread may have closed the descriptor meanwhile, and missed this watch.
    if !table.contains(file) {
        closed_by_table(file, table.identity());
    }
    Ok(())
}

/// A descriptor of `file` in the table of that identity was closed.
#[inline(always)]
pub fn closed_by_table(file: &OpenFile, table: usize) {
    if active() {
        end(file, table);
    }
}

#[cold]
#[inline(never)]
fn end(file: &OpenFile, table: usize) {
    if file.inode().kind() == FileType::Directory {
        let file_id = file.id();
        watch::unwatch_directory(file.inode(), |d| d.file == file_id && d.table == table);
    }
}
