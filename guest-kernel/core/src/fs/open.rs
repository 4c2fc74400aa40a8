//! Opening.

use super::{
    FileRef, MountFlags, OpenFile, OpenFlags, Path,
    access::{Access, Subject},
    device,
    file::remove_privileges,
    inode::NewKind,
    inotify,
    leases::{self, OpenCounts},
    ops,
    types::{FileType, SetAttributes},
    walk::{Target, Walk, WalkFlags},
};
use crate::{
    TaskRef,
    errno::{Errno, Result},
};

/// Flags that only matter while opening; the open file does not keep them.
const TRANSIENT: OpenFlags = OpenFlags::CREAT
    .union(OpenFlags::EXCL)
    .union(OpenFlags::NOCTTY)
    .union(OpenFlags::TRUNC)
    .union(OpenFlags::CLOEXEC);

/// The bit of `O_TMPFILE` without `O_DIRECTORY`.
const TMPFILE: OpenFlags = OpenFlags::TMPFILE;

/// `open(2)` from directory `start`. `mode` has the umask applied.
pub fn open(
    walk: &Walk<'_>,
    start: &Path,
    path: &[u8],
    flags: OpenFlags,
    mode: u32,
    how: WalkFlags,
) -> Result<FileRef> {
    let mut flags = flags;
    if flags.contains(OpenFlags::PATH) {
        flags &= OpenFlags::PATH | OpenFlags::DIRECTORY | OpenFlags::NOFOLLOW | OpenFlags::CLOEXEC;
    }
    let mut how = how;
    how.set(WalkFlags::DIRECTORY, flags.contains(OpenFlags::DIRECTORY));
    let exclusive = flags.contains(OpenFlags::CREAT | OpenFlags::EXCL);
    how.set(WalkFlags::FOLLOW, !flags.contains(OpenFlags::NOFOLLOW) && !exclusive);
    if flags.contains(TMPFILE) {
        return open_unnamed(walk, start, path, flags, mode, how);
    }
    if !flags.contains(OpenFlags::CREAT) {
        let place = walk.resolve(start, path, how)?;
        return open_place(&walk.subject, place, flags, walk.task);
    }
    if flags.contains(OpenFlags::DIRECTORY) {
        return Err(Errno::EINVAL);
    }
    loop {
        match walk.create(start, path, how)? {
            Target::Existing(_) if exclusive => return Err(Errno::EEXIST),
            Target::Existing(place) => {
                if place.inode()?.kind() == FileType::Directory {
                    return Err(Errno::EISDIR);
                }
                return open_place(&walk.subject, place, flags, walk.task);
            }
            Target::Missing { trailing_slash: true, .. } => return Err(Errno::EISDIR),
            Target::Missing { dir, name, .. } => {
                match ops::create(&walk.subject, &dir, &name, NewKind::Regular, mode) {
                    Ok(place) => return finish(place, flags & !OpenFlags::TRUNC, walk.task),
                    // Somebody else was faster.
                    Err(Errno::EEXIST) if !exclusive => continue,
                    Err(e) => return Err(e),
                }
            }
        }
    }
}

fn open_unnamed(
    walk: &Walk<'_>,
    start: &Path,
    path: &[u8],
    flags: OpenFlags,
    mode: u32,
    how: WalkFlags,
) -> Result<FileRef> {
    if !flags.contains(OpenFlags::DIRECTORY) || !flags.writable() || flags.contains(OpenFlags::CREAT) {
        return Err(Errno::EINVAL);
    }
    let dir = walk.resolve(start, path, how | WalkFlags::DIRECTORY)?;
    ops::may_create(&walk.subject, &dir)?;
    let new = ops::new_inode(&walk.subject, &dir, NewKind::Regular, mode)?;
    let inode = dir.inode()?.create_unnamed(&new, !flags.contains(OpenFlags::EXCL))?;
    let place = Path::new(dir.mount().clone(), super::Dentry::unnamed(dir.dentry(), inode));
    finish(place, flags & !(OpenFlags::DIRECTORY | TMPFILE), walk.task)
}

/// Opens what is there, after the checks `open` makes of an existing file. Also how a path descriptor or a
/// magic link is opened again.
pub fn open_place(
    subject: &Subject<'_>,
    place: Path,
    flags: OpenFlags,
    task: Option<&TaskRef>,
) -> Result<FileRef> {
    let inode = place.inode()?;
    if flags.contains(OpenFlags::PATH) {
        return Ok(OpenFile::new(inode.clone(), None, place, flags & !OpenFlags::CLOEXEC));
    }
    let kind = inode.kind();
    let truncate = flags.contains(OpenFlags::TRUNC);
    let mut want = Access::empty();
    want.set(Access::READ, flags.bits() & 3 != 1);
    want.set(Access::WRITE, flags.bits() & 3 != 0 || truncate);
    match kind {
        FileType::Symlink => return Err(Errno::ELOOP),
        FileType::Directory if want.contains(Access::WRITE) => return Err(Errno::EISDIR),
        FileType::CharDevice | FileType::BlockDevice if place.mount().flags().contains(MountFlags::NODEV) => {
            return Err(Errno::EACCES);
        }
        FileType::Regular if want.contains(Access::WRITE) => place.mount().check_writable()?,
        _ => {}
    }
    inode.permission(subject, want)?;
    if flags.contains(OpenFlags::NOATIME) && !subject.owns(inode.metadata().uid) {
        return Err(Errno::EPERM);
    }
    finish(place, flags, task)
}

/// Makes the open file; permissions were checked.
fn finish(place: Path, flags: OpenFlags, task: Option<&TaskRef>) -> Result<FileRef> {
    let inode = place.inode()?.clone();
    let mut ops = inode.open(flags, task)?;
    if ops.is_none() {
        match inode.kind() {
            FileType::CharDevice => ops = Some(device::open_char(&inode, flags, task)?),
            FileType::Fifo => ops = Some(super::open_fifo(&inode, flags, task)?),
            FileType::BlockDevice => ops = Some(crate::block::file::open_node(&inode, flags, task)?),
            FileType::Socket => return Err(Errno::ENXIO),
            FileType::Symlink => return Err(Errno::ELOOP),
            FileType::Regular | FileType::Directory => {}
        }
    }
    let file = OpenFile::new(inode, ops, place, (flags & !TRANSIENT) | OpenFlags::LARGEFILE);
    let inode = file.inode();
    if let Some(task) = task.filter(|_| file.kind() == FileType::Regular) {
        let write = flags.writable() || flags.contains(OpenFlags::TRUNC);
        if write {
            inode.open_counts().map_or(Ok(()), OpenCounts::may_write)?;
        }
        leases::break_for(task, &**inode, file.id(), write, flags.contains(OpenFlags::NONBLOCK))?;
    }
    if flags.contains(OpenFlags::TRUNC) && inode.kind() == FileType::Regular && !file.has_operations() {
        if let Some(task) = task {
            remove_privileges(&**inode, task)?;
        }
        inode.set_attributes(&SetAttributes { size: Some(0), ..SetAttributes::default() })?;
        inotify::modified(file.path().dentry());
    }
    inotify::opened(&file);
    Ok(file)
}
