//! Open files.
//!
//! [`OpenFile`] is the *open file description*: what `open` makes, `dup` and `fork` share, and the last close
//! releases. It holds the status flags, the position (with its own sleeping lock, so that two readers of one
//! description get different bytes, as POSIX asks) and the place it was opened by. What happens on read or
//! write comes either from the inode itself (regular files, directories) or from a [`File`]: pipes, sockets,
//! terminals, devices, eventfds, epoll instances, proc files that hold a snapshot.

mod operations;

use alloc::{
    string::String,
    sync::{Arc, Weak},
    vec::Vec,
};
use core::{
    any::Any,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
};

use ringfence_hal as hal;

pub use operations::File;

use super::{
    MountFlags, Path,
    access::{Subject, cap},
    eventpoll::{self, Item},
    file_caps,
    inode::{DirEntry, FallocateMode, Inode, InodeRef, SeekTarget},
    inotify,
    leases::{self, OpenCounts},
    locks,
    owner::{self, Owner},
    types::{FileType, Metadata, OpenFlags, SetAttributes},
};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    io::{Sink, Source},
    mm::Mappable,
    sched,
    signal::{self, SigInfo, Signal},
    sync::{Mutex, Once, PollEvents, PollTable, SpinLock},
    task::limits::{self, Resource},
};

/// A shared open file description.
pub type FileRef = Arc<OpenFile>;

/// Whether RLIMIT_FSIZE lets a file become `size` bytes long: `EFBIG` and SIGXFSZ if not.
pub fn check_size_limit(task: &TaskRef, size: u64) -> Result<()> {
    if size <= task.process().limits.soft(Resource::FileSize) {
        return Ok(());
    }
    let _ = signal::send_to_task(task, SigInfo::kernel(Signal::XFSZ));
    Err(Errno::EFBIG)
}

/// What a change of a program's content takes away (`file_remove_privs`): its capabilities, and its set-id bits unless
/// `task` may keep those.
pub fn remove_privileges(inode: &dyn Inode, task: &TaskRef) -> Result<()> {
    if !inode.has_privileges() {
        return Ok(());
    }
    match inode.remove_xattr(file_caps::NAME) {
        Ok(()) | Err(Errno::ENODATA | Errno::EOPNOTSUPP) => {}
        Err(e) => return Err(e),
    }
    let mode = inode.metadata().mode;
    let group = if mode & 0o010 != 0 { 0o2000 } else { 0 };
    let kept = mode & !(0o4000 | group);
    if kept == mode || Subject::of(&task.credentials()).capable(cap::FSETID) {
        return Ok(());
    }
    inode.set_attributes(&SetAttributes { mode: Some(kept), ..SetAttributes::default() })
}

/// What was moved before an error counts; the error is for the next try.
fn partial(result: Result, moved: usize) -> Result {
    match result {
        Err(_) if moved > 0 => Ok(moved),
        other => other,
    }
}

/// Bytes from which on a read or a write takes long.
const LONG: usize = 1 << 20;

/// Lets others have their turn in what takes long. `EINTR` for who is to end.
fn go_on(task: &TaskRef) -> Result<()> {
    sched::preempt_point(task);
    if task.killed() || signal::fatal_pending(task) { Err(Errno::EINTR) } else { Ok(()) }
}

/// Open file descriptions that exist (`/proc/sys/fs/file-nr`).
static OPEN: AtomicU64 = AtomicU64::new(0);

/// How many open file descriptions there are.
pub fn open_count() -> u64 {
    OPEN.load(Ordering::Relaxed)
}

/// How many there may be (`/proc/sys/fs/file-max`): as Linux, a tenth of memory at 1 KiB each.
pub fn open_max() -> u64 {
    (hal::frames::stats().total as u64 * hal::PAGE_SIZE as u64 / 10_240).max(8192)
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// The open file description.
pub struct OpenFile {
    /// Identity, for `kcmp`, epoll keys and lock owners; never used twice.
    id: u64,
    inode: InodeRef,
    ops: Option<Arc<dyn File>>,
    path: Path,
    flags: AtomicU32,
    /// It is the program of a process.
    runs: AtomicBool,
    pub(super) position: Mutex<u64>,
    /// Whom it signals, once somebody asked.
    owner: Once<Arc<Owner>>,
    /// The epoll items that watch it.
    watchers: SpinLock<Vec<Weak<Item>>>,
}

impl OpenFile {
    /// Joins what `open` found. `ops` is what [`super::Inode::open`] returned.
    pub fn new(inode: InodeRef, ops: Option<Arc<dyn File>>, path: Path, flags: OpenFlags) -> FileRef {
        OPEN.fetch_add(1, Ordering::Relaxed);
        let file = Arc::new(OpenFile {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            inode,
            ops,
            path,
            flags: AtomicU32::new(flags.bits()),
            runs: AtomicBool::new(false),
            position: Mutex::new(0),
            owner: Once::new(),
            watchers: SpinLock::new(Vec::new()),
        });
        if let Some(counts) = file.counted() {
            counts.opened(flags);
        }
        file
    }

    /// `ETXTBSY` if somebody has the file open for writing. (One without a name has been from the start, as memfds are; that
    /// does not count.)
    pub fn may_run(&self) -> Result<()> {
        match self.counted() {
            Some(counts) if !self.path.dentry().is_detached() => counts.may_run(),
            _ => Ok(()),
        }
    }

    /// As long as it is open, this is the program of a process, and nobody opens it for writing. `ETXTBSY`.
    pub fn run(&self) -> Result<()> {
        if let Some(counts) = self.counted()
            && !self.runs.swap(true, Ordering::Relaxed)
        {
            counts.run();
        }
        self.may_run()
    }

    /// A number no other open file description has or will have.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Notes an epoll item that watches it: the last close detaches it. Those gone since are forgotten.
    pub(super) fn watched_by(&self, item: &Arc<Item>) {
        let mut watchers = self.watchers.lock();
        watchers.retain(|w| w.strong_count() > 0);
        watchers.push(Arc::downgrade(item));
    }

    /// The inode.
    pub fn inode(&self) -> &InodeRef {
        &self.inode
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The type of the inode.
    pub fn kind(&self) -> FileType {
        self.inode.kind()
    }

    /// Access mode and status flags.
    pub fn flags(&self) -> OpenFlags {
        OpenFlags::from_bits_retain(self.flags.load(Ordering::Relaxed))
    }

    /// Changes the flags `F_SETFL` may change; the others stay.
    pub fn set_status_flags(&self, flags: OpenFlags) {
        let keep = !OpenFlags::SETTABLE.bits();
        let new = (flags & OpenFlags::SETTABLE).bits();
        let _ = self.flags.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |f| Some((f & keep) | new));
    }

    /// `O_NONBLOCK` is set.
    pub fn nonblocking(&self) -> bool {
        self.flags().contains(OpenFlags::NONBLOCK)
    }

    /// Opened by `O_PATH`: most operations are `EBADF`.
    pub fn is_path(&self) -> bool {
        self.flags().contains(OpenFlags::PATH)
    }

    /// Whom it signals.
    pub fn owner(&self) -> &Arc<Owner> {
        self.owner.call_once(Owner::new)
    }

    /// `O_ASYNC` by descriptor `fd`. False if this file cannot signal.
    pub fn set_async(&self, fd: i32, on: bool) -> bool {
        let Some(ops) = &self.ops else { return false };
        owner::set_async(self, &**ops, self.owner(), fd, on)
    }

    pub(super) fn set_flag(&self, flag: OpenFlags, on: bool) {
        if on {
            self.flags.fetch_or(flag.bits(), Ordering::Relaxed);
        } else {
            self.flags.fetch_and(!flag.bits(), Ordering::Relaxed);
        }
    }

    /// The counts it is in: regular files whose content the VFS drives.
    fn counted(&self) -> Option<&OpenCounts> {
        if self.ops.is_some() || self.is_path() { None } else { self.inode.open_counts() }
    }

    /// The object behind it, if it is a `T`: how a subsystem finds its own files again.
    pub fn downcast<T: File>(&self) -> Option<Arc<T>> {
        let any: Arc<dyn Any + Send + Sync> = self.ops.clone()?;
        any.downcast().ok()
    }

    /// Whether it has behaviour of its own.
    pub(super) fn has_operations(&self) -> bool {
        self.ops.is_some()
    }

    /// Metadata of the inode.
    pub fn metadata(&self) -> Metadata {
        self.inode.metadata()
    }

    fn readable(&self) -> Result<()> {
        if self.flags().readable() { Ok(()) } else { Err(Errno::EBADF) }
    }

    fn writable(&self) -> Result<()> {
        if self.flags().writable() { Ok(()) } else { Err(Errno::EBADF) }
    }

    /// Whether it has a position.
    pub fn seekable(&self) -> bool {
        self.ops.as_ref().is_none_or(|ops| ops.seekable())
    }

    /// `read(2)`.
    pub fn read(&self, task: &TaskRef, sink: &mut Sink<'_>) -> Result {
        self.readable()?;
        if let Some(ops) = &self.ops {
            return ops.read(self, task, sink);
        }
        let mut position = self.position.lock();
        let n = self.inode_read(task, *position, sink)?;
        *position = position.saturating_add(n as u64);
        Ok(n)
    }

    /// It was read.
    fn touch(&self) {
        if !self.flags().contains(OpenFlags::NOATIME)
            && !self.path.mount().flags().contains(MountFlags::NOATIME)
        {
            self.inode.accessed();
        }
    }

    /// A fault half-way is a short read.
    fn inode_read(&self, task: &TaskRef, offset: u64, sink: &mut Sink<'_>) -> Result {
        let before = sink.done();
        let result = if sink.remaining() > LONG {
            self.read_long(task, offset, sink)
        } else {
            self.inode.read_at(offset, sink)
        };
        let moved = sink.done() - before;
        if moved > 0 {
            inotify::accessed(self);
        }
        self.touch();
        partial(result, moved)
    }

    /// A read of so much that others must get their turn meanwhile, and that ends for who is killed.
    #[cold]
    fn read_long(&self, task: &TaskRef, offset: u64, sink: &mut Sink<'_>) -> Result {
        let mut done = 0;
        while sink.remaining() > 0 {
            let at = offset.saturating_add(done as u64);
            match sink.at_most(LONG, |part| self.inode.read_at(at, part))? {
                0 => break,
                n => done += n,
            }
            go_on(task)?;
        }
        Ok(done)
    }

    /// A fault or a full file system half-way is a short write.
    fn inode_write(&self, task: &TaskRef, offset: u64, source: &mut Source<'_>) -> Result {
        let before = source.done();
        let result = if source.remaining() > LONG {
            self.inode.write_long(Some(offset), source, &mut || go_on(task)).map(|(_, n)| n)
        } else {
            self.inode.write_at(offset, source)
        };
        let moved = source.done() - before;
        if moved > 0 {
            inotify::modified(self.path.dentry());
        }
        partial(result, moved)
    }

    /// As [`OpenFile::inode_write`], to the end; the new end and the count.
    fn inode_append(&self, task: &TaskRef, source: &mut Source<'_>) -> Result<(u64, usize)> {
        let before = source.done();
        let result = if source.remaining() > LONG {
            self.inode.write_long(None, source, &mut || go_on(task))
        } else {
            self.inode.append(source)
        };
        if source.done() > before {
            inotify::modified(self.path.dentry());
        }
        match result {
            Err(e) => partial(Err(e), source.done() - before).map(|n| (self.inode.size(), n)),
            done => done,
        }
    }

    /// What a write to a regular file meets first: RLIMIT_FSIZE (`EFBIG` and SIGXFSZ at it, short before it),
    /// and set-id bits, which go unless the writer may keep them.
    fn prepare_write(&self, task: &TaskRef, offset: Option<u64>, source: &mut Source<'_>) -> Result<()> {
        let limit = task.process().limits.soft(Resource::FileSize);
        if limit != limits::INFINITY && self.kind() == FileType::Regular {
            let room = limit.saturating_sub(offset.unwrap_or_else(|| self.inode.size()));
            if room == 0 && source.remaining() > 0 {
                let _ = signal::send_to_task(task, SigInfo::kernel(Signal::XFSZ));
                return Err(Errno::EFBIG);
            }
            source.limit(usize::try_from(room).unwrap_or(usize::MAX));
        }
        remove_privileges(&*self.inode, task)
    }

    /// `pread(2)`.
    pub fn read_at(&self, task: &TaskRef, offset: u64, sink: &mut Sink<'_>) -> Result {
        self.readable()?;
        match &self.ops {
            None => self.inode_read(task, offset, sink),
            Some(ops) if ops.seekable() => ops.read_at(self, task, offset, sink),
            Some(_) => Err(Errno::ESPIPE),
        }
    }

    /// `write(2)`.
    pub fn write(&self, task: &TaskRef, source: &mut Source<'_>) -> Result {
        self.writable()?;
        if let Some(ops) = &self.ops {
            return ops.write(self, task, source);
        }
        let mut position = self.position.lock();
        let append = self.flags().contains(OpenFlags::APPEND);
        self.prepare_write(task, (!append).then_some(*position), source)?;
        if append {
            let (end, n) = self.inode_append(task, source)?;
            *position = end;
            return Ok(n);
        }
        let n = self.inode_write(task, *position, source)?;
        *position = position.saturating_add(n as u64);
        Ok(n)
    }

    /// `pwrite(2)`; as on Linux, `O_APPEND` wins over the offset.
    pub fn write_at(&self, task: &TaskRef, offset: u64, source: &mut Source<'_>) -> Result {
        self.writable()?;
        if self.ops.is_none() {
            let append = self.flags().contains(OpenFlags::APPEND);
            self.prepare_write(task, (!append).then_some(offset), source)?;
        }
        match &self.ops {
            None if self.flags().contains(OpenFlags::APPEND) => Ok(self.inode_append(task, source)?.1),
            None => self.inode_write(task, offset, source),
            Some(ops) if ops.seekable() => ops.write_at(self, task, offset, source),
            Some(_) => Err(Errno::ESPIPE),
        }
    }

    /// `lseek(2)`: `whence` 0 to 4.
    pub fn seek(&self, offset: i64, whence: u32) -> Result<u64> {
        if self.is_path() {
            return Err(Errno::EBADF);
        }
        if whence > 4 {
            return Err(Errno::EINVAL);
        }
        if self.ops.as_ref().is_some_and(|ops| ops.seek_ignored()) {
            return Ok(0);
        }
        if !self.seekable() {
            return Err(Errno::ESPIPE);
        }
        let mut position = self.position.lock();
        let size = || self.ops.as_ref().map_or_else(|| self.inode.size(), |ops| ops.size(self));
        let base = match whence {
            0 => 0,
            1 => *position,
            2 if self.kind() == FileType::Directory => return Err(Errno::EINVAL),
            2 => size(),
            3 | 4 => {
                let offset = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
                if offset >= size() {
                    return Err(Errno::ENXIO);
                }
                let target = if whence == 3 { SeekTarget::Data } else { SeekTarget::Hole };
                *position = self.inode.seek_data(target, offset)?;
                return Ok(*position);
            }
            _ => return Err(Errno::EINVAL),
        };
        let new = base.checked_add_signed(offset).filter(|n| *n <= i64::MAX as u64).ok_or(Errno::EINVAL)?;
        *position = new;
        Ok(new)
    }

    /// The position now, for `/proc/PID/fdinfo`.
    pub fn position(&self) -> u64 {
        *self.position.lock()
    }

    /// Runs `f` with the position locked: what reads or writes by position in its own way.
    pub fn with_position<R>(&self, f: impl FnOnce(&mut u64) -> R) -> R {
        f(&mut self.position.lock())
    }

    /// What the file is ready for.
    pub fn poll(&self, table: Option<&mut PollTable>) -> PollEvents {
        match &self.ops {
            Some(ops) => ops.poll(table),
            None => PollEvents::IN | PollEvents::OUT | PollEvents::RDNORM | PollEvents::WRNORM,
        }
    }

    /// Whether epoll accepts it (`EPERM` else).
    pub fn pollable(&self) -> bool {
        self.ops.as_ref().is_some_and(|ops| ops.pollable())
    }

    /// `ioctl` commands of the file itself.
    pub fn ioctl(&self, task: &TaskRef, command: u32, arg: u64) -> Result {
        match &self.ops {
            Some(ops) => ops.ioctl(self, task, command, arg),
            None => Err(Errno::ENOTTY),
        }
    }

    /// The pages for `mmap`; `ENODEV`. Access rights against the open mode are the caller's check.
    pub fn mappable(&self) -> Result<Arc<dyn Mappable>> {
        match &self.ops {
            Some(ops) => ops.mappable(),
            None => self.inode.clone().mappable(),
        }
        .ok_or(Errno::ENODEV)
    }

    /// `fsync`.
    pub fn fsync(&self, task: &TaskRef, data_only: bool) -> Result<()> {
        match &self.ops {
            Some(ops) => ops.fsync(self, task, data_only),
            None => self.inode.fsync(data_only),
        }
    }

    /// `ftruncate`.
    pub fn truncate(&self, task: &TaskRef, size: u64) -> Result<()> {
        if !self.flags().writable() || self.kind() != FileType::Regular {
            return Err(Errno::EINVAL);
        }
        if size > self.inode.size() {
            check_size_limit(task, size)?;
        }
        leases::break_for(task, &*self.inode, self.id, true, self.nonblocking())?;
        remove_privileges(&*self.inode, task)?;
        self.inode.set_attributes(&SetAttributes { size: Some(size), ..Default::default() })?;
        inotify::modified(self.path.dentry());
        Ok(())
    }

    /// `fallocate`.
    pub fn fallocate(&self, task: &TaskRef, mode: FallocateMode, offset: u64, len: u64) -> Result<()> {
        self.writable()?;
        match self.kind() {
            FileType::Regular => {
                let end = offset.saturating_add(len);
                if !mode.contains(FallocateMode::KEEP_SIZE) && end > self.inode.size() {
                    check_size_limit(task, end)?;
                }
                self.inode.fallocate(mode, offset, len, &mut || {
                    sched::preempt_point(task);
                    if signal::pending(task) { Err(Errno::EINTR) } else { Ok(()) }
                })?;
                inotify::modified(self.path.dentry());
                Ok(())
            }
            FileType::Fifo => Err(Errno::ESPIPE),
            FileType::Directory => Err(Errno::EISDIR),
            _ => Err(Errno::ENODEV),
        }
    }

    /// Lists the directory from the position on, `.` and `..` first, and moves the position past what `emit`
    /// accepted. Positions 0 and 1 are `.` and `..`, the inode's cookies follow from 2.
    pub fn readdir(&self, emit: &mut dyn FnMut(&DirEntry<'_>) -> bool) -> Result<()> {
        self.readable()?;
        if self.kind() != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        if self.path.dentry().is_deleted() {
            return Err(Errno::ENOENT);
        }
        inotify::accessed(self);
        self.touch();
        let mut position = self.position.lock();
        let dots: [(&[u8], u64); 2] = [(b".", self.inode.ino()), (b"..", self.path.parent_ino())];
        for (i, (name, ino)) in dots.into_iter().enumerate() {
            if *position == i as u64 {
                let next = *position + 1;
                if !emit(&DirEntry { name, ino, kind: FileType::Directory, next }) {
                    return Ok(());
                }
                *position = next;
            }
        }
        self.inode.readdir(position.saturating_sub(2), &mut |entry| {
            let next = entry.next.saturating_add(2);
            let more = emit(&DirEntry { next, ..*entry });
            if more {
                *position = next;
            }
            more
        })
    }

    /// `F_GETPIPE_SZ` and `F_SETPIPE_SZ`.
    pub fn pipe_size(&self, task: &TaskRef, new: Option<u64>) -> Result {
        self.ops.as_ref().ok_or(Errno::EBADF)?.pipe_size(task, new)
    }

    /// The lines of `/proc/PID/fdinfo/N`.
    pub fn fdinfo(&self) -> String {
        let own = self.ops.as_ref().map(|ops| ops.fdinfo()).unwrap_or_default();
        alloc::format!(
            "pos:\t{}\nflags:\t0{:o}\nmnt_id:\t{}\nino:\t{}\n{own}",
            self.position(),
            self.flags().bits(),
            self.path.mount().id(),
            self.inode.ino(),
        )
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        let watchers = core::mem::take(&mut *self.watchers.lock());
        eventpoll::detach_all(watchers);
        OPEN.fetch_sub(1, Ordering::Relaxed);
        locks::released(self);
        leases::released(self);
        if let Some(counts) = self.counted() {
            if self.runs.load(Ordering::Relaxed) {
                counts.run_ended();
            }
            counts.closed(self.flags());
        }
        if let Some(owner) = self.owner.get() {
            owner.release();
        }
        if let Some(ops) = &self.ops {
            ops.release(self.flags());
        }
        inotify::closed(self);
    }
}
