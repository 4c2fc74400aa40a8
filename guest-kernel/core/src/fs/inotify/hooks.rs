//! What the VFS calls when something happened. Each looks at [`active`] first.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering};

use super::{
    Events, active,
    watch::{self, Key, key_of, notify},
};
use crate::fs::{Dentry, FileType, InodeRef, OpenFile, OpenFlags, SetAttributes};

/// Joins the two halves of a rename.
static COOKIE: AtomicU32 = AtomicU32::new(1);

fn directory_bit(inode: &InodeRef) -> Events {
    if inode.kind() == FileType::Directory { Events::ISDIR } else { Events::empty() }
}

/// Something about a name in a directory.
fn name_event(dir: &Dentry, name: &Arc<[u8]>, mask: Events, cookie: u32) {
    if let Some(inode) = dir.inode() {
        notify(key_of(inode), mask, cookie, Some(name), false);
    }
}

/// Something about an inode reached by `dentry`: its directory is told, then itself.
#[cold]
#[inline(never)]
fn dentry_event(dentry: &Dentry, mask: Events) {
    let Some(inode) = dentry.inode() else { return };
    let mask = mask | directory_bit(inode);
    let (parent, name) = dentry.parent_and_name();
    if let Some(dir) = parent.as_ref().and_then(|p| p.inode()) {
        notify(key_of(dir), mask, 0, Some(&name), dentry.is_deleted());
    }
    notify(key_of(inode), mask, 0, None, false);
}

/// A file was opened.
#[inline(always)]
pub fn opened(file: &OpenFile) {
    if active() && !file.is_path() {
        dentry_event(file.path().dentry(), Events::OPEN);
    }
}

/// Bytes or names were read.
#[inline(always)]
pub fn accessed(file: &OpenFile) {
    if active() {
        dentry_event(file.path().dentry(), Events::ACCESS);
    }
}

/// Bytes were written, or the size changed.
#[inline(always)]
pub fn modified(dentry: &Dentry) {
    if active() {
        dentry_event(dentry, Events::MODIFY);
    }
}

/// The content of a file changed that nobody wrote, such as one of `cgroup2`: it and its directory by device and number.
#[cold]
pub fn changed_by_itself(file: Key, dir: Key, name: &[u8]) {
    notify(dir, Events::MODIFY, 0, Some(&Arc::from(name)), false);
    notify(file, Events::MODIFY, 0, None, false);
}

/// The last descriptor of an open file was closed. Its dentry reference is the caller's own.
#[inline(always)]
pub fn closed(file: &OpenFile) {
    if active() && !file.is_path() {
        closed_slowly(file);
    }
}

#[cold]
#[inline(never)]
fn closed_slowly(file: &OpenFile) {
    let dentry = file.path().dentry();
    let wrote = file.flags().intersects(OpenFlags::WRONLY | OpenFlags::RDWR);
    dentry_event(dentry, if wrote { Events::CLOSE_WRITE } else { Events::CLOSE_NOWRITE });
    gone_if_last(dentry, 1);
}

/// If nothing but `references` of the caller leads to an inode without names, it is gone.
fn gone_if_last(dentry: &Arc<Dentry>, references: usize) {
    if dentry.is_deleted()
        && Arc::strong_count(dentry) == references
        && let Some(inode) = dentry.inode()
    {
        let m = inode.metadata();
        if m.nlink == 0 {
            watch::deleted((m.dev, m.ino));
        }
    }
}

/// Attributes were changed; sizes and times have their own events.
pub fn attributes_changed(dentry: &Dentry, change: &SetAttributes) {
    if !active() {
        return;
    }
    let mut mask = Events::empty();
    mask.set(Events::MODIFY, change.size.is_some());
    mask.set(Events::ATTRIB, change.mode.is_some() || change.uid.is_some() || change.gid.is_some());
    match (change.atime, change.mtime) {
        (Some(_), Some(_)) => mask |= Events::ATTRIB,
        (Some(_), None) => mask |= Events::ACCESS,
        (None, Some(_)) => mask |= Events::MODIFY,
        (None, None) => {}
    }
    if !mask.is_empty() {
        dentry_event(dentry, mask);
    }
}

/// Extended attributes were changed.
pub fn inode_changed(dentry: &Dentry) {
    if active() {
        dentry_event(dentry, Events::ATTRIB);
    }
}

/// `dentry` of `dir` got its inode.
pub fn created(dir: &Dentry, dentry: &Dentry) {
    if active()
        && let Some(inode) = dentry.inode()
    {
        name_event(dir, &dentry.name(), Events::CREATE | directory_bit(inode), 0);
    }
}

/// An inode got one more name, `dentry` of `dir`.
pub fn linked(dir: &Dentry, dentry: &Dentry) {
    if active()
        && let Some(inode) = dentry.inode()
    {
        notify(key_of(inode), Events::ATTRIB, 0, None, false);
        created(dir, dentry);
    }
}

/// The name of `victim` left `dir`; the caller holds one reference to it.
pub fn unlinked(dir: &Dentry, victim: &Arc<Dentry>) {
    if !active() {
        return;
    }
    let Some(inode) = victim.inode() else { return };
    let directory = directory_bit(inode);
    if directory.is_empty() {
        notify(key_of(inode), Events::ATTRIB, 0, None, false);
    }
    name_event(dir, &victim.name(), Events::DELETE | directory, 0);
    gone_if_last(victim, 1);
}

/// What else a rename is for `F_NOTIFY`.
fn within(old: &Dentry, new: &Dentry) -> Events {
    if core::ptr::eq(old, new) { Events::RENAME } else { Events::empty() }
}

/// `moved` left `old_dir` as `old_name` and is in `new_dir`; `replaced` was there under its new name.
pub fn renamed(
    old_dir: &Dentry,
    old_name: &Arc<[u8]>,
    new_dir: &Dentry,
    moved: &Dentry,
    replaced: &Arc<Dentry>,
) {
    if !active() {
        return;
    }
    let Some(inode) = moved.inode() else { return };
    let directory = directory_bit(inode);
    let cookie = COOKIE.fetch_add(1, Ordering::Relaxed);
    name_event(old_dir, old_name, Events::MOVED_FROM | directory | within(old_dir, new_dir), cookie);
    name_event(new_dir, &moved.name(), Events::MOVED_TO | directory, cookie);
    if let Some(victim) = replaced.inode() {
        notify(key_of(victim), Events::ATTRIB | directory_bit(victim), 0, None, false);
    }
    notify(key_of(inode), Events::MOVE_SELF | directory, 0, None, false);
    gone_if_last(replaced, 1);
}

/// Two names changed places: as two renames.
pub fn renamed_pair(
    old_dir: &Dentry,
    old: (&Dentry, &Arc<[u8]>),
    new_dir: &Dentry,
    new: (&Dentry, &Arc<[u8]>),
) {
    if !active() {
        return;
    }
    for (from, (moved, name), to) in [(old_dir, old, new_dir), (new_dir, new, old_dir)] {
        let Some(inode) = moved.inode() else { continue };
        let directory = directory_bit(inode);
        let cookie = COOKIE.fetch_add(1, Ordering::Relaxed);
        name_event(from, name, Events::MOVED_FROM | directory | within(from, to), cookie);
        name_event(to, &moved.name(), Events::MOVED_TO | directory, cookie);
        notify(key_of(inode), Events::MOVE_SELF | directory, 0, None, false);
    }
}

/// A file system has no mounts any more.
pub fn unmounted(dev: u64) {
    if active() {
        watch::unmounted(dev);
    }
}
