//! The inode of a volume.

use alloc::{
    sync::{Arc, Weak},
    vec,
    vec::Vec,
};
use core::{
    any::Any,
    sync::atomic::{AtomicU64, Ordering},
};

use ringfence_hal as hal;
use ringfence_hal::Frame;
use zerocopy::IntoBytes;

use super::{
    Shared,
    attributes::Attributes,
    connection::{Owner, Question},
    data::Data,
    flusher,
    wire::{
        self, Attr, AttrOut, EntryOut, FallocateIn, FsyncIn, GetattrIn, GetxattrIn, LinkIn, LseekIn,
        LseekOut, MkdirIn, MknodIn, ReadIn, RenameIn, SetattrIn, SetxattrIn, op, valid,
    },
};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    fs::{
        PATH_MAX, XATTR_LIST_MAX,
        access::{self, Access, Subject},
        file::File,
        inode::{
            DirEntry, FallocateMode, Inode, InodeRef, NewInode, NewKind, RenameFlags, SeekTarget, XattrFlags,
        },
        leases::OpenCounts,
        types::{FileType, Metadata, OpenFlags, SetAttributes},
    },
    io::{Sink, Source},
    mm::{
        Mappable, Mappers,
        charge::{self, Kind},
    },
    sync::SpinLock,
};

const PAGE: usize = hal::PAGE_SIZE;
/// Frames for a listing, and for the longest extended attribute.
const LISTING_FRAMES: usize = 4;
const XATTR_FRAMES: usize = XATTR_LIST_MAX / PAGE;
/// The extended attributes that the gofer serves.
const XATTR_PREFIX: &[u8] = b"user.";

/// An inode of a [`Fuse`](super::Fuse).
pub struct FuseInode {
    fs: Arc<Shared>,
    this: Weak<FuseInode>,
    node: u64,
    kind: FileType,
    /// How often the other side has told of it.
    told: AtomicU64,
    attributes: SpinLock<Attributes>,
    opens: OpenCounts,
    data: Data,
}

fn name_argument(name: &[u8]) -> Vec<u8> {
    let mut argument = Vec::with_capacity(name.len() + 1);
    argument.extend_from_slice(name);
    argument.push(0);
    argument
}

fn frames(count: usize) -> Result<Vec<Frame>> {
    (0..count).map(|_| charge::zeroed(Kind::Kernel).map_err(Errno::from)).collect()
}

/// The first `len` bytes of `frames`.
fn bytes_of(frames: &[Frame], len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len.min(frames.len() * PAGE)];
    for (chunk, frame) in bytes.chunks_mut(PAGE).zip(frames) {
        frame.read(0, chunk);
    }
    bytes
}

impl FuseInode {
    /// An inode the other side has told of once.
    pub(super) fn make(fs: &Arc<Shared>, node: u64, kind: FileType, attr: &Attr) -> Arc<FuseInode> {
        let renames = fs.renames.load(Ordering::Acquire);
        let attributes = Attributes::new(attr.metadata(fs.dev, kind), until(fs), renames);
        Arc::new_cyclic(|this| FuseInode {
            fs: fs.clone(),
            this: this.clone(),
            node,
            kind,
            told: AtomicU64::new(1),
            attributes: SpinLock::new(attributes),
            opens: OpenCounts::default(),
            data: Data::new(),
        })
    }

    /// Its number.
    pub(super) fn number(&self) -> u64 {
        self.node
    }

    /// Whether it can be what is said to be a `kind`.
    pub(super) fn is(&self, kind: FileType) -> bool {
        self.kind == kind
    }

    /// The other side is to forget `other` as often more, and this one as often less.
    pub(super) fn hand_count_to(&self, other: &FuseInode) {
        other.told.fetch_add(self.told.swap(0, Ordering::Relaxed), Ordering::Relaxed);
    }

    /// How often we have changed it.
    pub(super) fn version(&self) -> u64 {
        self.attributes.lock().version()
    }

    /// Takes attributes that have come, asked for at `version`.
    pub(super) fn learn(&self, attr: &Attr, version: u64) {
        let (new, renames) = (attr.metadata(self.fs.dev, self.kind), self.fs.renames.load(Ordering::Acquire));
        let stale = self.attributes.lock().learn(new, version, until(&self.fs), renames);
        if stale && self.kind == FileType::Regular && self.fs.cache != ringfence_protocol::Cache::Always {
            self.data.remove_clean();
            self.data.mappers.drop_shared_pages(self, 0..u64::MAX);
        }
    }

    fn question<'a>(&self, opcode: u32, body: &'a [&'a [u8]]) -> Question<'a> {
        Question { opcode, node: self.node, body, ..Question::default() }
    }

    /// Asks for attributes, if those that are known do not hold or `always`.
    fn refresh(&self, always: bool) -> Result<()> {
        let renames = self.fs.renames.load(Ordering::Acquire);
        let version = {
            let attributes = self.attributes.lock();
            if !always && attributes.hold(hal::time::now(), renames) {
                return Ok(());
            }
            attributes.version()
        };
        let body = GetattrIn::default();
        let answer: AttrOut = self.fs.connection.ask(&self.question(op::GETATTR, &[body.as_bytes()]))?;
        if answer.attr.kind() != Some(self.kind) {
            return Err(Errno::EIO);
        }
        self.learn(&answer.attr, version);
        Ok(())
    }

    fn known_size(&self) -> u64 {
        self.attributes.lock().metadata().size
    }

    /// We change something, or have.
    fn changed(&self) {
        self.fs.changes.fetch_add(1, Ordering::AcqRel);
        self.attributes.lock().changed();
    }

    fn own<'a>(&self, inode: &'a InodeRef) -> Result<&'a FuseInode> {
        let any: &dyn Any = &**inode;
        any.downcast_ref::<FuseInode>().filter(|i| Arc::ptr_eq(&i.fs, &self.fs)).ok_or(Errno::EXDEV)
    }

    /// Asks for something about a name in this directory.
    fn tell_name(&self, opcode: u32, name: &[u8]) -> Result<()> {
        let name = name_argument(name);
        self.fs.connection.tell(&self.question(opcode, &[&name]))?;
        self.changed();
        Ok(())
    }

    /// Sends what mappings have written.
    pub(super) fn flush(&self) -> Result<()> {
        let _guard = self.data.write.lock();
        self.flush_locked()
    }

    fn flush_locked(&self) -> Result<()> {
        let dirty = self.data.take_dirty();
        if dirty.is_empty() {
            return Ok(());
        }
        let mut result = Ok(());
        self.changed();
        let mut runs = dirty.iter().peekable();
        while let Some((&first, frame)) = runs.next() {
            let mut run = vec![frame.clone()];
            while run.len() < crate::drivers::fs::MAX_FRAMES
                && let Some((_, frame)) = runs.next_if(|(at, _)| **at == first + run.len() as u64)
            {
                run.push(frame.clone());
            }
            // From here on a write to the mapping makes the page dirty again.
            self.data.mappers.drop_shared_pages(self, first..first + run.len() as u64);
            let offset = first * PAGE as u64;
            let len = self.known_size().saturating_sub(offset).min((run.len() * PAGE) as u64) as usize;
            if len == 0 {
                continue;
            }
            match self.data.send(&self.fs, self.node, &run, 0..len, offset) {
                Ok(taken) if taken == len => {}
                Ok(_) => result = Err(Errno::EIO),
                Err(e) => result = Err(e),
            }
        }
        self.changed();
        result
    }

    fn write(&self, offset: Option<u64>, source: &mut Source<'_>) -> Result<(u64, usize)> {
        let _guard = self.data.write.lock();
        let offset = match offset {
            Some(offset) => offset,
            None => {
                self.refresh(true)?;
                self.known_size()
            }
        };
        let end = offset.checked_add(source.remaining() as u64).filter(|end| *end <= i64::MAX as u64);
        end.ok_or(Errno::EFBIG)?;
        let mut at = offset;
        let mut result = Ok(());
        self.changed();
        while source.remaining() > 0 {
            match self.data.write_some(&self.fs, self.node, at, source) {
                Ok(0) => {
                    result = Err(Errno::EIO);
                    break;
                }
                Ok(n) => at += n as u64,
                Err(e) => {
                    result = Err(e);
                    break;
                }
            }
            self.attributes.lock().written(at);
            self.fs.changes.fetch_add(1, Ordering::AcqRel);
        }
        match result {
            Err(e) if at == offset => Err(e),
            _ => Ok((at, (at - offset) as usize)),
        }
    }

    /// Asks with frames for the answer's data, which is then copied.
    fn ask_bytes(&self, opcode: u32, body: &[&[u8]], frames: &[Frame]) -> Result<Vec<u8>> {
        let question = Question { receive: frames, ..self.question(opcode, body) };
        let len = self.fs.connection.ask_data(&question)?;
        Ok(bytes_of(frames, len))
    }

    /// The inode of an entry that was made just now. Its attributes are those of before if it was known.
    fn make_entry(&self, entry: EntryOut) -> Result<Arc<FuseInode>> {
        self.changed();
        self.fs.known(&entry, 0)
    }
}

/// Until when what comes now holds.
fn until(fs: &Shared) -> u64 {
    hal::time::now().saturating_add(fs.hold())
}

impl Drop for FuseInode {
    fn drop(&mut self) {
        let told = *self.told.get_mut();
        if told == 0 {
            return;
        }
        {
            let mut known = self.fs.known.lock();
            if known.get(&self.node).is_some_and(|weak| weak.strong_count() == 0) {
                known.remove(&self.node);
            }
        }
        self.fs.forget(self.node, told);
    }
}

impl Inode for FuseInode {
    fn kind(&self) -> FileType {
        self.kind
    }

    fn metadata(&self) -> Metadata {
        // A host that does not answer is noticed by the next operation that can fail.
        let _ = self.refresh(false);
        self.attributes.lock().metadata()
    }

    fn ino(&self) -> u64 {
        self.attributes.lock().metadata().ino
    }

    fn has_privileges(&self) -> bool {
        self.attributes.lock().metadata().mode & 0o6000 != 0
    }

    fn open_counts(&self) -> Option<&OpenCounts> {
        Some(&self.opens)
    }

    fn set_attributes(&self, change: &SetAttributes) -> Result<()> {
        let mut body = SetattrIn::default();
        let mut flag = |bit: u32, there: bool| {
            if there {
                body.valid |= bit;
            }
        };
        flag(valid::MODE, change.mode.is_some());
        flag(valid::UID, change.uid.is_some());
        flag(valid::GID, change.gid.is_some());
        flag(valid::SIZE, change.size.is_some());
        flag(valid::ATIME, change.atime.is_some());
        flag(valid::MTIME, change.mtime.is_some());
        body.mode = change.mode.map_or(0, |mode| mode & 0o7777);
        (body.uid, body.gid) = (change.uid.unwrap_or(0), change.gid.unwrap_or(0));
        body.size = change.size.unwrap_or(0);
        if let Some(time) = change.atime {
            (body.atime, body.atime_nsec) = (time.sec as u64, time.nsec);
        }
        if let Some(time) = change.mtime {
            (body.mtime, body.mtime_nsec) = (time.sec as u64, time.nsec);
        }
        if body.valid == 0 {
            return Ok(());
        }
        let _guard = self.data.write.lock();
        if let Some(size) = change.size {
            if self.kind != FileType::Regular {
                return Err(if self.kind == FileType::Directory { Errno::EISDIR } else { Errno::EINVAL });
            }
            if size > i64::MAX as u64 {
                return Err(Errno::EFBIG);
            }
        }
        self.changed();
        let answer: AttrOut = self.fs.connection.ask(&self.question(op::SETATTR, &[body.as_bytes()]))?;
        if answer.attr.kind() != Some(self.kind) {
            return Err(Errno::EIO);
        }
        if let Some(size) = change.size {
            let (old, first) = (self.known_size(), size.div_ceil(PAGE as u64));
            self.attributes.lock().set_size(size);
            if size < old {
                self.data.remove(first..u64::MAX);
                self.data.zero_tail(size);
                self.data.mappers.drop_pages(self, first);
                self.data.remove(first..u64::MAX); // what a fault that saw the old size has made
            }
        }
        self.changed();
        self.learn(&answer.attr, self.version());
        Ok(())
    }

    fn permission(&self, subject: &Subject<'_>, want: Access) -> Result<()> {
        if self.fs.connection.is_gone() {
            return Err(Errno::ENOTCONN);
        }
        if !self.attributes.lock().rights_hold(hal::time::now()) {
            self.refresh(true)?;
        }
        let metadata = self.attributes.lock().metadata();
        access::check(subject, &metadata, want)
    }

    fn lookup(&self, name: &[u8]) -> Result<InodeRef> {
        if self.kind != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        let (name, asked) = (name_argument(name), self.fs.changes.load(Ordering::Acquire));
        let entry: EntryOut = self.fs.connection.ask(&self.question(op::LOOKUP, &[&name]))?;
        Ok(self.fs.known(&entry, asked)?)
    }

    fn name_validity(&self) -> Option<u64> {
        let hold = self.fs.hold();
        (hold != u64::MAX).then_some(hold)
    }

    fn create(&self, name: &[u8], new: &NewInode<'_>) -> Result<InodeRef> {
        let name = name_argument(name);
        let mode = new.kind.file_type().mode_bits() | (new.mode & 0o7777);
        let (node, directory) = (MknodIn { mode, ..MknodIn::default() }, MkdirIn { mode, umask: 0 });
        let link: Vec<u8>;
        let (opcode, body): (u32, [&[u8]; 2]) = match new.kind {
            NewKind::Directory => (op::MKDIR, [directory.as_bytes(), &name]),
            NewKind::Symlink(text) => {
                link = name_argument(text);
                (op::SYMLINK, [&name, &link])
            }
            NewKind::Regular | NewKind::Fifo | NewKind::Socket => (op::MKNOD, [node.as_bytes(), &name]),
            // The gofer makes none: a device of the host would be a way out.
            NewKind::CharDevice(_) | NewKind::BlockDevice(_) => return Err(Errno::EPERM),
        };
        let owner = Owner { uid: new.uid, gid: new.gid };
        let question = Question { owner, ..self.question(opcode, &body) };
        let made = self.make_entry(self.fs.connection.ask(&question)?)?;
        if made.kind != new.kind.file_type() {
            return Err(Errno::EIO);
        }
        Ok(made)
    }

    fn link(&self, name: &[u8], target: &InodeRef) -> Result<()> {
        let target = self.own(target)?;
        let (body, name) = (LinkIn { node: target.node }, name_argument(name));
        let entry = self.fs.connection.ask(&self.question(op::LINK, &[body.as_bytes(), &name]))?;
        target.changed();
        let linked = self.make_entry(entry)?;
        if linked.node == target.node { Ok(()) } else { Err(Errno::EIO) }
    }

    fn unlink(&self, name: &[u8], victim: &InodeRef) -> Result<()> {
        self.tell_name(op::UNLINK, name)?;
        self.own(victim)?.changed();
        Ok(())
    }

    fn rmdir(&self, name: &[u8], victim: &InodeRef) -> Result<()> {
        self.tell_name(op::RMDIR, name)?;
        self.own(victim)?.changed();
        Ok(())
    }

    fn rename(&self, old_name: &[u8], new_dir: &InodeRef, new_name: &[u8], flags: RenameFlags) -> Result<()> {
        if flags.contains(RenameFlags::WHITEOUT) {
            return Err(Errno::EINVAL);
        }
        let to = self.own(new_dir)?;
        let body = RenameIn { directory: to.node, flags: flags.bits(), padding: 0 };
        let (old, new) = (name_argument(old_name), name_argument(new_name));
        self.fs.connection.tell(&self.question(op::RENAME2, &[body.as_bytes(), &old, &new]))?;
        self.changed();
        to.changed();
        // What was renamed or replaced has another ctime, number of links and perhaps `..`; the VFS names it to nobody.
        self.fs.renames.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    fn readdir(&self, from: u64, emit: &mut dyn FnMut(&DirEntry<'_>) -> bool) -> Result<()> {
        /// The VFS adds its own two, and the position is signed for programs.
        const LAST: u64 = i64::MAX as u64 - 2;
        if self.kind != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        let frames = frames(LISTING_FRAMES)?;
        let mut from = from;
        loop {
            let body = ReadIn { offset: from, size: (LISTING_FRAMES * PAGE) as u32, ..ReadIn::default() };
            let listing = self.ask_bytes(op::READDIR, &[body.as_bytes()], &frames)?;
            let mut rest = listing.as_slice();
            let before = from;
            while let Some((entry, name)) = wire::next_name(&mut rest) {
                from = entry.next.min(LAST);
                if matches!(name, b"." | b"..") || !wire::is_name(name) {
                    continue;
                }
                let kind = FileType::from_mode(entry.kind.wrapping_shl(12)).unwrap_or(FileType::Regular);
                if !emit(&DirEntry { name, ino: entry.ino, kind, next: from }) {
                    return Ok(());
                }
            }
            if from == before || listing.is_empty() {
                return Ok(());
            }
        }
    }

    fn readlink(&self, _task: Option<&TaskRef>) -> Result<Vec<u8>> {
        if self.kind != FileType::Symlink {
            return Err(Errno::EINVAL);
        }
        let mut text = self.ask_bytes(op::READLINK, &[], &frames(1)?)?;
        text.truncate(PATH_MAX - 1);
        if text.contains(&0) { Err(Errno::EIO) } else { Ok(text) }
    }

    /// Close-to-open: who opens a file sees what was there when it was opened.
    fn open(&self, _flags: OpenFlags, _task: Option<&TaskRef>) -> Result<Option<Arc<dyn File>>> {
        if self.fs.cache != ringfence_protocol::Cache::Always && self.kind == FileType::Regular {
            self.refresh(true)?;
        }
        Ok(None)
    }

    fn read_at(&self, offset: u64, sink: &mut Sink<'_>) -> Result {
        match self.kind {
            FileType::Regular => {}
            FileType::Directory => return Err(Errno::EISDIR),
            _ => return Err(Errno::EINVAL),
        }
        if self.fs.connection.is_gone() {
            return Err(Errno::ENOTCONN);
        }
        self.refresh(false)?;
        if self.fs.keeps_content() {
            let version = || self.version();
            return self.data.read_cached(&self.fs, self.node, offset, self.known_size(), &version, sink);
        }
        self.flush()?;
        self.refresh(false)?;
        self.data.read_through(&self.fs, self.node, offset, self.known_size(), sink)
    }

    fn write_at(&self, offset: u64, source: &mut Source<'_>) -> Result {
        match self.kind {
            FileType::Regular => Ok(self.write(Some(offset), source)?.1),
            _ => Err(Errno::EINVAL),
        }
    }

    fn append(&self, source: &mut Source<'_>) -> Result<(u64, usize)> {
        match self.kind {
            FileType::Regular => self.write(None, source),
            _ => Err(Errno::EINVAL),
        }
    }

    fn fallocate(
        &self,
        mode: FallocateMode,
        offset: u64,
        len: u64,
        _go_on: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        // The numbers of Linux: KEEP_SIZE 1, PUNCH_HOLE 2, ZERO_RANGE 16.
        let body = FallocateIn { offset, length: len, mode: mode.bits(), ..FallocateIn::default() };
        let _guard = self.data.write.lock();
        self.flush_locked()?;
        self.changed();
        self.fs.connection.tell(&self.question(op::FALLOCATE, &[body.as_bytes()]))?;
        self.changed();
        if mode.intersects(FallocateMode::PUNCH_HOLE | FallocateMode::ZERO_RANGE) {
            let pages = offset / PAGE as u64..offset.saturating_add(len).div_ceil(PAGE as u64);
            self.data.remove(pages.clone());
            self.data.mappers.drop_shared_pages(self, pages);
        }
        Ok(())
    }

    fn seek_data(&self, target: SeekTarget, offset: u64) -> Result<u64> {
        self.flush()?;
        let whence = if target == SeekTarget::Data { 3 } else { 4 };
        let body = LseekIn { offset, whence, ..LseekIn::default() };
        let answer: LseekOut = self.fs.connection.ask(&self.question(op::LSEEK, &[body.as_bytes()]))?;
        if answer.offset < offset || answer.offset > i64::MAX as u64 {
            Err(Errno::EIO)
        } else {
            Ok(answer.offset)
        }
    }

    fn mappable(self: Arc<Self>) -> Option<Arc<dyn Mappable>> {
        if self.kind != FileType::Regular {
            return None;
        }
        flusher::start();
        Some(self)
    }

    fn fsync(&self, data_only: bool) -> Result<()> {
        let opcode = match self.kind {
            FileType::Regular => op::FSYNC,
            FileType::Directory => op::FSYNCDIR,
            _ => return Ok(()),
        };
        self.flush()?;
        let body = FsyncIn { flags: data_only.into(), ..FsyncIn::default() };
        self.fs.connection.tell(&self.question(opcode, &[body.as_bytes()]))
    }

    fn get_xattr(&self, name: &[u8]) -> Result<Vec<u8>> {
        if !name.starts_with(XATTR_PREFIX) {
            return Err(Errno::EOPNOTSUPP);
        }
        let name = name_argument(name);
        // Most are short.
        for count in [1, XATTR_FRAMES] {
            let body = GetxattrIn { size: (count * PAGE) as u32, padding: 0 };
            match self.ask_bytes(op::GETXATTR, &[body.as_bytes(), &name], &frames(count)?) {
                Err(Errno::ERANGE) => {}
                result => return result,
            }
        }
        Err(Errno::E2BIG)
    }

    fn set_xattr(&self, name: &[u8], value: &[u8], flags: XattrFlags) -> Result<()> {
        if !name.starts_with(XATTR_PREFIX) {
            return Err(Errno::EOPNOTSUPP);
        }
        let name = name_argument(name);
        let body = SetxattrIn { size: value.len() as u32, flags: flags.bits() };
        let frames = frames(value.len().div_ceil(PAGE))?;
        for (chunk, frame) in value.chunks(PAGE).zip(&frames) {
            frame.write(0, chunk);
        }
        let body: [&[u8]; 2] = [body.as_bytes(), &name];
        let question = Question { send: (&frames, 0..value.len()), ..self.question(op::SETXATTR, &body) };
        self.fs.connection.tell(&question)?;
        self.changed();
        Ok(())
    }

    fn remove_xattr(&self, name: &[u8]) -> Result<()> {
        if !name.starts_with(XATTR_PREFIX) {
            return Err(Errno::EOPNOTSUPP);
        }
        self.tell_name(op::REMOVEXATTR, name)
    }

    fn list_xattrs(&self) -> Result<Vec<u8>> {
        for count in [1, XATTR_FRAMES] {
            let body = GetxattrIn { size: (count * PAGE) as u32, padding: 0 };
            match self.ask_bytes(op::LISTXATTR, &[body.as_bytes()], &frames(count)?) {
                Err(Errno::ERANGE) => {}
                Err(Errno::EOPNOTSUPP) => return Ok(Vec::new()),
                Ok(names) if names.last().is_some_and(|last| *last != 0) => return Err(Errno::EIO),
                result => return result,
            }
        }
        Err(Errno::E2BIG)
    }
}

impl Mappable for FuseInode {
    fn page(&self, index: u64, write: bool) -> Result<Frame> {
        let frame = self.data.cached(index).ok_or(Errno::EAGAIN)?;
        if write
            && self.data.make_dirty(index, &frame)
            && let Some(this) = self.this.upgrade()
        {
            flusher::note(this);
        }
        Ok(frame)
    }

    fn load(&self, index: u64) -> Result<()> {
        self.refresh(false)?;
        self.data.load(&self.fs, self.node, index, self.known_size(), &|| self.version()).map(|_| ())
    }

    fn cached_page(&self, index: u64) -> Option<Frame> {
        self.data.cached(index)
    }

    fn cached_pages(&self, first: u64, pages: &mut [Option<Frame>]) {
        self.data.cached_many(first, pages);
    }

    fn next_cached(&self, index: u64) -> Option<u64> {
        self.data.next_cached(index)
    }

    fn punch(&self, start: u64, end: u64) -> Result<()> {
        let mode = FallocateMode::PUNCH_HOLE | FallocateMode::KEEP_SIZE;
        Inode::fallocate(self, mode, start, end - start, &mut || Ok(()))
    }

    /// As it was last known: asked for with locks held under which nobody can be asked.
    fn len(&self) -> u64 {
        self.known_size()
    }

    fn sync(&self, _start: u64, _end: u64) -> Result<()> {
        self.flush()
    }

    fn mappers(&self) -> Option<&Mappers> {
        Some(&self.data.mappers)
    }
}
