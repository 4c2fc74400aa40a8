//! Changes of names: create, link, remove, rename; with the checks Linux's VFS makes before a file system is
//! asked (`may_create`, `may_delete`, `vfs_rename`).
//!
//! Locking: a change of names in one directory holds that directory's lock. A rename across directories
//! holds the machine's rename lock first, so that nobody else moves directories while it looks who is above
//! whom, then the two directory locks, the ancestor's first.

use alloc::sync::Arc;

use super::{
    Dentry, Path,
    access::{Access, Subject},
    inode::{NewInode, NewKind, RenameFlags},
    inotify, moves,
    types::{DeviceId, FileType},
    walk::{Last, Parent, existing},
};
use crate::{
    errno::{Errno, Result},
    sync::Mutex,
};

static RENAME: Mutex<()> = Mutex::new(());

/// Whether `subject` may add names to `dir`.
pub fn may_create(subject: &Subject<'_>, dir: &Path) -> Result<()> {
    let inode = dir.inode()?;
    if inode.kind() != FileType::Directory {
        return Err(Errno::ENOTDIR);
    }
    dir.mount().check_writable()?;
    inode.permission(subject, Access::WRITE | Access::EXEC)
}

/// Whether `subject` may remove `victim` from `dir`; `directory` says what the call removes, if it cares.
fn may_delete(subject: &Subject<'_>, dir: &Path, victim: &Dentry, directory: Option<bool>) -> Result<()> {
    may_create(subject, dir)?;
    let inode = victim.positive()?;
    let parent = dir.inode()?.metadata();
    if parent.mode & 0o1000 != 0 && !subject.owns(parent.uid) && !subject.owns(inode.metadata().uid) {
        return Err(Errno::EPERM);
    }
    let is_directory = inode.kind() == FileType::Directory;
    match directory {
        Some(true) if !is_directory => return Err(Errno::ENOTDIR),
        Some(false) if is_directory => return Err(Errno::EISDIR),
        _ => {}
    }
    if victim.is_mountpoint() {
        return Err(Errno::EBUSY);
    }
    Ok(())
}

/// The inode a create in `dir` makes: a set-gid directory hands its group down, and itself to directories.
pub fn new_inode<'k>(
    subject: &Subject<'_>,
    dir: &Path,
    kind: NewKind<'k>,
    mode: u32,
) -> Result<NewInode<'k>> {
    let parent = dir.inode()?.metadata();
    let mut new = NewInode { kind, mode: mode & 0o7777, uid: subject.uid, gid: subject.gid };
    if parent.mode & 0o2000 != 0 {
        new.gid = parent.gid;
        if kind.file_type() == FileType::Directory {
            new.mode |= 0o2000;
        } else if new.mode & 0o2010 == 0o2010
            && !subject.in_group(parent.gid)
            && !subject.capable_over(super::access::cap::FSETID, parent.uid, parent.gid)
        {
            new.mode &= !0o2000;
        }
    }
    Ok(new)
}

/// Makes `name` in `dir`. `EEXIST` if it is there. `mode` has the umask applied.
pub fn create(subject: &Subject<'_>, dir: &Path, name: &[u8], kind: NewKind<'_>, mode: u32) -> Result<Path> {
    let guard = dir.dentry().lock_directory();
    let dentry = dir.dentry().lookup_locked(name, &guard)?;
    if dentry.inode().is_some() {
        return Err(Errno::EEXIST);
    }
    may_create(subject, dir)?;
    if dir.dentry().is_deleted() {
        return Err(Errno::ENOENT);
    }
    let new = new_inode(subject, dir, kind, mode)?;
    let inode = dir.inode()?.create(name, &new)?;
    dir.dentry().instantiate(&dentry, inode, &guard);
    inotify::created(dir.dentry(), &dentry);
    Ok(dir.with(dentry))
}

/// The name for a create: `EEXIST` for `.`, `..` and `/`, and `ENOENT` if slashes follow what is not going to
/// be a directory.
pub fn new_name<'p>(parent: &Parent<'p>, directory: bool) -> Result<&'p [u8]> {
    match parent.last {
        Last::Name(name) if directory || !parent.trailing_slash => Ok(name),
        Last::Name(name) => {
            let guard = parent.dir.dentry().lock_directory();
            let there = existing(&parent.dir, name, &guard).is_ok();
            Err(if there { Errno::EEXIST } else { Errno::ENOENT })
        }
        _ => Err(Errno::EEXIST),
    }
}

/// Gives `target` another name: `link(2)`.
pub fn link(subject: &Subject<'_>, target: &Path, parent: &Parent<'_>) -> Result<()> {
    let name = new_name(parent, false)?;
    let (dir, inode) = (&parent.dir, target.inode()?);
    if !Arc::ptr_eq(dir.mount(), target.mount()) {
        return Err(Errno::EXDEV);
    }
    if inode.kind() == FileType::Directory {
        return Err(Errno::EPERM);
    }
    // What lost its last name does not get one again; what never had one (`O_TMPFILE`) may.
    if inode.metadata().nlink == 0 && !inode.linkable() {
        return Err(Errno::ENOENT);
    }
    let guard = dir.dentry().lock_directory();
    let dentry = dir.dentry().lookup_locked(name, &guard)?;
    if dentry.inode().is_some() {
        return Err(Errno::EEXIST);
    }
    may_create(subject, dir)?;
    dir.inode()?.link(name, inode)?;
    dir.dentry().instantiate(&dentry, inode.clone(), &guard);
    inotify::linked(dir.dentry(), &dentry);
    Ok(())
}

/// `unlink(2)`.
pub fn unlink(subject: &Subject<'_>, parent: &Parent<'_>) -> Result<()> {
    let Last::Name(name) = parent.last else { return Err(Errno::EISDIR) };
    let dir = &parent.dir;
    let guard = dir.dentry().lock_directory();
    let victim = existing(dir, name, &guard)?;
    if parent.trailing_slash {
        let directory = victim.positive()?.kind() == FileType::Directory;
        return Err(if directory { Errno::EISDIR } else { Errno::ENOTDIR });
    }
    may_delete(subject, dir, &victim, Some(false))?;
    dir.inode()?.unlink(name, victim.positive()?)?;
    dir.dentry().forget(&victim, &guard);
    drop(guard);
    inotify::unlinked(dir.dentry(), &victim);
    drop(victim); // may free the file: outside the lock
    Ok(())
}

/// `rmdir(2)`.
pub fn rmdir(subject: &Subject<'_>, parent: &Parent<'_>) -> Result<()> {
    let name = match parent.last {
        Last::Name(name) => name,
        Last::Dot => return Err(Errno::EINVAL),
        Last::DotDot => return Err(Errno::ENOTEMPTY),
        Last::Root => return Err(Errno::EBUSY),
    };
    let dir = &parent.dir;
    let guard = dir.dentry().lock_directory();
    let victim = existing(dir, name, &guard)?;
    may_delete(subject, dir, &victim, Some(true))?;
    let inside = victim.lock_directory();
    dir.inode()?.rmdir(name, victim.positive()?)?;
    dir.dentry().forget(&victim, &guard);
    drop(inside);
    inotify::unlinked(dir.dentry(), &victim);
    Ok(())
}

/// `renameat2(2)`.
pub fn rename(subject: &Subject<'_>, from: &Parent<'_>, to: &Parent<'_>, flags: RenameFlags) -> Result<()> {
    let exchange = flags.contains(RenameFlags::EXCHANGE);
    if exchange && flags.intersects(RenameFlags::NOREPLACE | RenameFlags::WHITEOUT) {
        return Err(Errno::EINVAL);
    }
    if !Arc::ptr_eq(from.dir.mount(), to.dir.mount()) {
        return Err(Errno::EXDEV);
    }
    let (Last::Name(old_name), Last::Name(new_name)) = (from.last, to.last) else {
        return Err(if flags.contains(RenameFlags::NOREPLACE) { Errno::EEXIST } else { Errno::EBUSY });
    };
    let (old_dir, new_dir) = (from.dir.dentry(), to.dir.dentry());
    let same = Arc::ptr_eq(old_dir, new_dir);
    let _rename = (!same).then(|| RENAME.lock());
    // The ancestor first; without a relation any order will do under the rename lock.
    let old_first = same || new_dir.is_below(old_dir);
    let first = if old_first { old_dir } else { new_dir }.lock_directory();
    let second = (!same).then(|| if old_first { new_dir } else { old_dir }.lock_directory());
    let second = second.as_ref().unwrap_or(&first);
    let (old_guard, new_guard) = if old_first { (&first, second) } else { (second, &first) };

    let moved = existing(&from.dir, old_name, old_guard)?;
    let target = new_dir.lookup_locked(new_name, new_guard)?;
    let moved_inode = moved.positive()?;
    let moved_is_directory = moved_inode.kind() == FileType::Directory;
    if flags.contains(RenameFlags::NOREPLACE) && target.inode().is_some() {
        return Err(Errno::EEXIST);
    }
    if exchange {
        target.positive()?;
    }
    let target_is_directory = target.inode().is_some_and(|i| i.kind() == FileType::Directory);
    if (from.trailing_slash && !moved_is_directory)
        || (to.trailing_slash && !moved_is_directory && !exchange)
        || (to.trailing_slash && exchange && !target_is_directory)
    {
        return Err(Errno::ENOTDIR);
    }
    // No directory moves into itself, none is replaced by what is in it.
    if new_dir.is_below(&moved) {
        return Err(Errno::EINVAL);
    }
    if old_dir.is_below(&target) {
        return Err(if exchange { Errno::EINVAL } else { Errno::ENOTEMPTY });
    }
    if target.inode().is_some_and(|t| Arc::ptr_eq(t, moved_inode)) {
        return Ok(()); // two names of one file: POSIX says nothing happens
    }
    may_delete(subject, &from.dir, &moved, None)?;
    match target.inode() {
        None => may_create(subject, &to.dir)?,
        Some(_) if exchange => may_delete(subject, &to.dir, &target, None)?,
        Some(_) => may_delete(subject, &to.dir, &target, Some(moved_is_directory))?,
    }
    // To give a directory another parent is to write to it.
    if !same && moved_is_directory {
        moved_inode.permission(subject, Access::WRITE)?;
    }
    if !same && exchange && target_is_directory {
        target.positive()?.permission(subject, Access::WRITE)?;
    }
    let inside = (!exchange && target_is_directory).then(|| target.lock_directory());
    from.dir.inode()?.rename(old_name, to.dir.inode()?, new_name, flags)?;
    drop(inside);
    let names = inotify::active().then(|| (moved.name(), target.name()));
    let moving = (!same).then(moves::begin);
    old_dir.renamed(&moved, new_dir, &target, exchange);
    drop(moving);
    if flags.contains(RenameFlags::WHITEOUT) {
        let new = new_inode(subject, &from.dir, NewKind::CharDevice(DeviceId::NONE), 0)?;
        let dentry = old_dir.lookup_locked(old_name, old_guard)?;
        old_dir.instantiate(&dentry, from.dir.inode()?.create(old_name, &new)?, old_guard);
    }
    if let Some((old_name, new_name)) = names {
        if exchange {
            inotify::renamed_pair(old_dir, (&moved, &old_name), new_dir, (&target, &new_name));
        } else {
            inotify::renamed(old_dir, &old_name, new_dir, &moved, &target);
        }
    }
    Ok(())
}
