//! The inode of tmpfs and overlay.

mod xattrs;

use alloc::{
    boxed::Box,
    sync::{Arc, Weak},
    vec::Vec,
};
use core::{
    any::Any,
    sync::atomic::{AtomicBool, Ordering},
};

use ringfence_hal::Frame;

use xattrs::Xattrs;

use super::{Shared, data::FileData, dir::DirData};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    fs::{
        access::{self, Access, Subject},
        file::File,
        file_caps,
        inode::{
            DirEntry, FallocateMode, Inode, InodeRef, NewInode, NewKind, RenameFlags, SeekTarget, XattrFlags,
        },
        leases::OpenCounts,
        types::{DeviceId, FileType, Metadata, OpenFlags, SetAttributes, Timestamp},
    },
    io::{Sink, Source},
    mm::{Mappable, Mappers},
    sync::SpinLock,
};

/// Link text longer than this is counted as a page, as on Linux.
const SHORT_SYMLINK: usize = 128;

/// Links an inode may have.
const LINK_MAX: u32 = 65_000;

enum Body {
    File(FileData),
    Directory(DirData),
    /// The text; the origin's if there is one.
    Symlink(Box<[u8]>),
    /// Device, fifo, socket.
    Special,
}

struct Attributes {
    mode: u32,
    uid: u32,
    gid: u32,
    nlink: u32,
    atime: Timestamp,
    mtime: Timestamp,
    ctime: Timestamp,
    btime: Option<Timestamp>,
    /// There is a `security.capability`; known of an origin's once it was opened for writing.
    capabilities: bool,
    /// It has no name yet and may get one.
    linkable: bool,
}

/// An inode of a [`Tmpfs`](super::Tmpfs).
pub struct TmpInode {
    fs: Arc<Shared>,
    this: Weak<TmpInode>,
    ino: u64,
    kind: FileType,
    rdev: DeviceId,
    attributes: SpinLock<Attributes>,
    body: Body,
    /// `None`: the origin's, not copied yet.
    xattrs: SpinLock<Option<Xattrs>>,
    origin: Option<InodeRef>,
    pinned: AtomicBool,
    opens: OpenCounts,
}

impl TmpInode {
    /// A new inode with one name to be (two links for a directory).
    pub(super) fn create(fs: &Arc<Shared>, new: &NewInode<'_>) -> Result<Arc<TmpInode>> {
        let (body, rdev) = match new.kind {
            NewKind::Regular => (Body::File(FileData::new(None)), DeviceId::NONE),
            NewKind::Directory => (Body::Directory(DirData::new(None)), DeviceId::NONE),
            NewKind::Symlink(text) => (Body::Symlink(Box::from(text)), DeviceId::NONE),
            NewKind::CharDevice(dev) | NewKind::BlockDevice(dev) => (Body::Special, dev),
            NewKind::Fifo | NewKind::Socket => (Body::Special, DeviceId::NONE),
        };
        if let Body::Symlink(text) = &body
            && text.len() > SHORT_SYMLINK
        {
            fs.charge_page()?;
        }
        let ino = fs.new_ino().inspect_err(|_| fs.release_pages(pages_of(&body)))?;
        let (now, kind) = (Timestamp::now(), new.kind.file_type());
        let attributes = Attributes {
            mode: new.mode & 0o7777,
            uid: new.uid,
            gid: new.gid,
            nlink: if kind == FileType::Directory { 2 } else { 1 },
            atime: now,
            mtime: now,
            ctime: now,
            btime: Some(now),
            capabilities: false,
            linkable: false,
        };
        Ok(Arc::new_cyclic(|this| TmpInode {
            fs: fs.clone(),
            this: this.clone(),
            ino,
            kind,
            rdev,
            attributes: SpinLock::new(attributes),
            body,
            xattrs: SpinLock::new(Some(Xattrs::new())),
            origin: None,
            pinned: AtomicBool::new(false),
            opens: OpenCounts::default(),
        }))
    }

    /// The inode over `origin`, unchanged so far.
    pub(super) fn over(fs: &Arc<Shared>, origin: InodeRef) -> Arc<TmpInode> {
        let m = origin.metadata();
        let body = match m.kind {
            FileType::Regular => Body::File(FileData::new(Some(origin.clone()))),
            FileType::Directory => Body::Directory(DirData::new(Some(origin.clone()))),
            FileType::Symlink => Body::Symlink(Box::default()),
            _ => Body::Special,
        };
        let (uid, gid) = fs.owners.of_image(m.uid, m.gid);
        let attributes = Attributes {
            mode: m.mode,
            uid,
            gid,
            nlink: m.nlink,
            atime: m.atime,
            mtime: m.mtime,
            ctime: m.ctime,
            btime: m.btime,
            capabilities: false,
            linkable: false,
        };
        Arc::new_cyclic(|this| TmpInode {
            fs: fs.clone(),
            this: this.clone(),
            ino: m.ino,
            kind: m.kind,
            rdev: m.rdev,
            attributes: SpinLock::new(attributes),
            body,
            xattrs: SpinLock::new(None),
            origin: Some(origin),
            pinned: AtomicBool::new(false),
            opens: OpenCounts::default(),
        })
    }

    /// Its number.
    pub(super) fn number(&self) -> u64 {
        self.ino
    }

    /// Takes away the one link a new inode starts with.
    pub(super) fn make_unnamed(&self) {
        self.attributes.lock().nlink = 0;
    }

    pub(super) fn allow_seals(&self) {
        if let Body::File(data) = &self.body {
            data.allow_seals();
        }
    }

    /// `F_GET_SEALS`. `EINVAL` if it is not a regular file.
    pub fn seals(&self) -> Result<u32> {
        Ok(self.file()?.seals())
    }

    /// The only seal of a `memfd_create(MFD_NOEXEC_SEAL)` file at first.
    pub fn seal_mode(&self) {
        if let Body::File(data) = &self.body {
            data.seal_mode();
        }
    }

    /// `F_ADD_SEALS`. `EPERM` if it is sealed against that.
    pub fn add_seals(&self, seals: u32) -> Result<()> {
        let writable = |data: &FileData| data.mappers.any_writable(self);
        self.file()?.add_seals(seals, writable)
    }

    pub(super) fn take_children(&self, out: &mut Vec<Arc<TmpInode>>) {
        if let Body::Directory(dir) = &self.body {
            dir.take(out);
        }
    }

    /// Remembers this inode by number, because it is about to differ from its origin.
    fn pin(&self) {
        if self.origin.is_some()
            && !self.pinned.swap(true, Ordering::Relaxed)
            && let Some(this) = self.this.upgrade()
        {
            self.fs.pin(this);
        }
    }

    fn directory(&self) -> Result<&DirData> {
        match &self.body {
            Body::Directory(dir) => Ok(dir),
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn file(&self) -> Result<&FileData> {
        match &self.body {
            Body::File(data) => Ok(data),
            Body::Directory(_) => Err(Errno::EISDIR),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Changes the number of links; the last one gone unpins. By how much that changes the names that count
    /// ([`Shared::charge_link`]): all of a file but one.
    fn add_links(&self, delta: i32) -> i32 {
        let now = Timestamp::now();
        let (gone, counted) = {
            let mut a = self.attributes.lock();
            let before = a.nlink.saturating_sub(1);
            a.nlink = a.nlink.saturating_add_signed(delta);
            a.ctime = now;
            (a.nlink == 0, a.nlink.saturating_sub(1) as i32 - before as i32)
        };
        if !gone {
            self.pin();
        } else if self.pinned.load(Ordering::Relaxed) {
            self.fs.unpin(self.ino);
        }
        if self.kind == FileType::Directory { 0 } else { counted }
    }

    /// The names of this directory changed, and its links by `links`.
    fn names_changed(&self, links: i32) {
        let now = Timestamp::now();
        {
            let mut a = self.attributes.lock();
            a.mtime = now;
            a.ctime = now;
            a.nlink = a.nlink.saturating_add_signed(links);
        }
        self.pin();
    }

    fn content_changed(&self) {
        let now = Timestamp::now();
        let mut a = self.attributes.lock();
        a.mtime = now;
        a.ctime = now;
    }

    /// Takes the name and one link of `victim` away.
    fn remove_name(&self, name: &[u8], victim: &TmpInode) -> Result<()> {
        let directory = victim.kind == FileType::Directory;
        self.directory()?.remove(name);
        self.names_changed(if directory { -1 } else { 0 });
        if victim.add_links(if directory { -2 } else { -1 }) < 0 {
            self.fs.release_link();
        }
        Ok(())
    }

    fn own<'a>(&self, inode: &'a InodeRef) -> Result<&'a TmpInode> {
        let any: &dyn Any = &**inode;
        any.downcast_ref::<TmpInode>().filter(|i| Arc::ptr_eq(&i.fs, &self.fs)).ok_or(Errno::EXDEV)
    }
}

/// Pages the content counts for.
fn pages_of(body: &Body) -> usize {
    match body {
        Body::File(data) => data.own_pages(),
        Body::Symlink(text) => usize::from(text.len() > SHORT_SYMLINK),
        Body::Directory(_) | Body::Special => 0,
    }
}

impl Drop for TmpInode {
    fn drop(&mut self) {
        self.fs.release_pages(pages_of(&self.body) + xattrs::pages_of(self.xattrs.lock().as_ref()));
        match self.origin {
            Some(_) => self.fs.forget(self.ino),
            None => {
                self.fs.inodes.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}

impl Inode for TmpInode {
    fn kind(&self) -> FileType {
        self.kind
    }

    fn metadata(&self) -> Metadata {
        let (size, blocks) = match &self.body {
            Body::File(data) => (data.size(), data.blocks()),
            Body::Directory(dir) => ((dir.len() as u64 + 2) * 20, 0),
            Body::Symlink(_) if self.origin.is_some() => (self.origin.as_ref().map_or(0, |o| o.size()), 0),
            Body::Symlink(text) => (text.len() as u64, 0),
            Body::Special => (0, 0),
        };
        let a = self.attributes.lock();
        Metadata {
            dev: self.fs.dev,
            ino: self.ino,
            kind: self.kind,
            mode: a.mode,
            nlink: a.nlink,
            uid: a.uid,
            gid: a.gid,
            rdev: self.rdev,
            size,
            blocks,
            block_size: 4096,
            atime: a.atime,
            mtime: a.mtime,
            ctime: a.ctime,
            btime: a.btime,
        }
    }

    fn ino(&self) -> u64 {
        self.ino
    }

    fn size(&self) -> u64 {
        match &self.body {
            Body::File(data) => data.size(),
            _ => self.metadata().size,
        }
    }

    fn open_counts(&self) -> Option<&OpenCounts> {
        Some(&self.opens)
    }

    fn has_privileges(&self) -> bool {
        let a = self.attributes.lock();
        a.capabilities || a.mode & 0o6000 != 0
    }

    fn set_attributes(&self, change: &SetAttributes) -> Result<()> {
        self.pin();
        if let Some(size) = change.size {
            let data = self.file()?;
            let (stale, guard) = data.truncate(&self.fs, size)?;
            if let Some(first) = stale {
                data.mappers.drop_pages(self, first);
                data.drop_late_pages(&self.fs, first);
            }
            drop(guard);
            self.content_changed();
        }
        let now = Timestamp::now();
        let mut a = self.attributes.lock();
        if let (Some(mode), Body::File(data)) = (change.mode, &self.body)
            && (mode ^ a.mode) & 0o111 != 0
            && data.seals() & super::data::SEAL_EXEC != 0
        {
            return Err(Errno::EPERM);
        }
        a.mode = change.mode.map_or(a.mode, |m| m & 0o7777);
        a.uid = change.uid.unwrap_or(a.uid);
        a.gid = change.gid.unwrap_or(a.gid);
        a.atime = change.atime.unwrap_or(a.atime);
        a.mtime = change.mtime.unwrap_or(a.mtime);
        a.ctime = change.ctime.unwrap_or(now);
        Ok(())
    }

    fn permission(&self, subject: &Subject<'_>, want: Access) -> Result<()> {
        let (mode, uid, gid) = {
            let a = self.attributes.lock();
            (a.mode, a.uid, a.gid)
        };
        access::check_mode(subject, self.kind, mode, uid, gid, want)
    }

    fn lookup(&self, name: &[u8]) -> Result<InodeRef> {
        Ok(self.directory()?.lookup(&self.fs, name)?)
    }

    fn create(&self, name: &[u8], new: &NewInode<'_>) -> Result<InodeRef> {
        let dir = self.directory()?;
        let inode = TmpInode::create(&self.fs, new)?;
        dir.insert(name, inode.clone())?;
        self.names_changed(if inode.kind == FileType::Directory { 1 } else { 0 });
        Ok(inode)
    }

    fn create_unnamed(&self, new: &NewInode<'_>, linkable: bool) -> Result<InodeRef> {
        let inode = TmpInode::create(&self.fs, new)?;
        inode.make_unnamed();
        inode.attributes.lock().linkable = linkable;
        Ok(inode)
    }

    fn linkable(&self) -> bool {
        self.attributes.lock().linkable
    }

    fn link(&self, name: &[u8], target: &InodeRef) -> Result<()> {
        let target = self.own(target)?;
        let inode = target.this.upgrade().ok_or(Errno::ENOENT)?;
        if target.attributes.lock().nlink >= LINK_MAX {
            return Err(Errno::EMLINK);
        }
        let directory = self.directory()?;
        let charged = target.attributes.lock().nlink > 0;
        if charged {
            self.fs.charge_link()?;
        }
        directory.insert(name, inode).inspect_err(|_| {
            if charged {
                self.fs.release_link();
            }
        })?;
        // Others may have named it, or taken its last name, meanwhile.
        match (charged, target.add_links(1) > 0) {
            (true, false) => self.fs.release_link(),
            (false, true) => self.fs.add_link(),
            _ => {}
        }
        target.attributes.lock().linkable = false;
        self.names_changed(0);
        Ok(())
    }

    fn unlink(&self, name: &[u8], victim: &InodeRef) -> Result<()> {
        self.remove_name(name, self.own(victim)?)
    }

    fn rmdir(&self, name: &[u8], victim: &InodeRef) -> Result<()> {
        let victim = self.own(victim)?;
        let dir = victim.directory()?;
        if !dir.is_empty()? {
            return Err(Errno::ENOTEMPTY);
        }
        dir.kill();
        self.remove_name(name, victim)
    }

    fn rename(&self, old_name: &[u8], new_dir: &InodeRef, new_name: &[u8], flags: RenameFlags) -> Result<()> {
        let to = self.own(new_dir)?;
        let (from_dir, to_dir) = (self.directory()?, to.directory()?);
        let moved = from_dir.lookup(&self.fs, old_name)?;
        let target = match to_dir.lookup(&self.fs, new_name) {
            Ok(inode) => Some(inode),
            Err(Errno::ENOENT) => None,
            Err(e) => return Err(e),
        };
        let links = |inode: &TmpInode| if inode.kind == FileType::Directory { 1 } else { 0 };
        if flags.contains(RenameFlags::EXCHANGE) {
            let other = target.ok_or(Errno::ENOENT)?;
            from_dir.remove(old_name);
            to_dir.remove(new_name);
            from_dir.insert(old_name, other.clone())?;
            to_dir.insert(new_name, moved.clone())?;
            self.names_changed(links(&other) - links(&moved));
            to.names_changed(links(&moved) - links(&other));
            other.add_links(0);
            moved.add_links(0);
            return Ok(());
        }
        if let Some(victim) = target {
            if let Body::Directory(dir) = &victim.body {
                if !dir.is_empty()? {
                    return Err(Errno::ENOTEMPTY);
                }
                dir.kill();
            }
            to.remove_name(new_name, &victim)?;
        }
        to_dir.insert(new_name, moved.clone())?;
        from_dir.remove(old_name);
        self.names_changed(-links(&moved));
        to.names_changed(links(&moved));
        moved.add_links(0);
        Ok(())
    }

    fn readdir(&self, from: u64, emit: &mut dyn FnMut(&DirEntry<'_>) -> bool) -> Result<()> {
        self.directory()?.readdir(from, emit)
    }

    fn readlink(&self, task: Option<&TaskRef>) -> Result<Vec<u8>> {
        match (&self.body, &self.origin) {
            (Body::Symlink(_), Some(origin)) => origin.readlink(task),
            (Body::Symlink(text), None) => Ok(text.to_vec()),
            _ => Err(Errno::EINVAL),
        }
    }

    fn open(&self, flags: OpenFlags, _task: Option<&TaskRef>) -> Result<Option<Arc<dyn File>>> {
        if let Body::File(data) = &self.body
            && flags.writable()
        {
            data.opened_for_writing();
            if let Some(origin) = &self.origin
                && self.xattrs.lock().is_none()
                && origin.get_xattr(file_caps::NAME).is_ok()
            {
                self.attributes.lock().capabilities = true;
            }
        }
        Ok(None)
    }

    /// `relatime`, but for what was read last more than a day ago: the access time is kept only as fresh as the
    /// last change. Not for what is unchanged since the image was made: reading must not make it differ.
    fn accessed(&self) {
        if self.origin.is_some() && !self.pinned.load(Ordering::Relaxed) {
            return;
        }
        let mut a = self.attributes.lock();
        if a.atime <= a.mtime || a.atime <= a.ctime {
            a.atime = Timestamp::now();
        }
    }

    fn read_at(&self, offset: u64, sink: &mut Sink<'_>) -> Result {
        self.file()?.read(offset, sink)
    }

    fn write_at(&self, offset: u64, source: &mut Source<'_>) -> Result {
        self.pin();
        let (_, n) = self.file()?.write(&self.fs, Some(offset), source, None)?;
        if n > 0 {
            self.content_changed();
        }
        Ok(n)
    }

    fn append(&self, source: &mut Source<'_>) -> Result<(u64, usize)> {
        self.pin();
        let done = self.file()?.write(&self.fs, None, source, None)?;
        self.content_changed();
        Ok(done)
    }

    fn write_long(
        &self,
        offset: Option<u64>,
        source: &mut Source<'_>,
        go_on: &mut dyn FnMut() -> Result<()>,
    ) -> Result<(u64, usize)> {
        self.pin();
        let done = self.file()?.write(&self.fs, offset, source, Some(go_on))?;
        self.content_changed();
        Ok(done)
    }

    fn fallocate(
        &self,
        mode: FallocateMode,
        offset: u64,
        len: u64,
        go_on: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        self.pin();
        let data = self.file()?;
        let (punched, guard) = data.fallocate(&self.fs, mode, offset, len, go_on)?;
        if let Some(pages) = punched {
            data.mappers.drop_shared_pages(self, pages);
        }
        drop(guard);
        self.content_changed();
        Ok(())
    }

    fn seek_data(&self, target: SeekTarget, offset: u64) -> Result<u64> {
        match &self.body {
            Body::File(data) => data.seek(target, offset),
            _ => Err(Errno::EINVAL),
        }
    }

    fn mappable(self: Arc<Self>) -> Option<Arc<dyn Mappable>> {
        matches!(self.body, Body::File(_)).then_some(self as Arc<dyn Mappable>)
    }

    fn get_xattr(&self, name: &[u8]) -> Result<Vec<u8>> {
        self.xattr(name)
    }

    fn set_xattr(&self, name: &[u8], value: &[u8], flags: XattrFlags) -> Result<()> {
        self.pin();
        self.put_xattr(name, value, flags)?;
        let mut a = self.attributes.lock();
        a.capabilities |= name == file_caps::NAME;
        a.ctime = Timestamp::now();
        Ok(())
    }

    fn remove_xattr(&self, name: &[u8]) -> Result<()> {
        self.pin();
        self.take_xattr(name)?;
        let mut a = self.attributes.lock();
        a.capabilities &= name != file_caps::NAME;
        a.ctime = Timestamp::now();
        Ok(())
    }

    fn list_xattrs(&self) -> Result<Vec<u8>> {
        self.xattr_names()
    }
}

impl Mappable for TmpInode {
    fn page(&self, index: u64, write: bool) -> Result<Frame> {
        if write {
            self.pin();
        }
        let frame = self.file()?.page(&self.fs, index)?;
        if write {
            self.content_changed();
        }
        Ok(frame)
    }

    fn cached_page(&self, index: u64) -> Option<Frame> {
        self.file().ok()?.cached_page(index)
    }

    fn cached_pages(&self, first: u64, pages: &mut [Option<Frame>]) {
        if let Ok(file) = self.file() {
            file.cached_pages(first, pages);
        }
    }

    fn next_cached(&self, index: u64) -> Option<u64> {
        self.file().ok()?.next_cached(index)
    }

    fn punch(&self, start: u64, end: u64) -> Result<()> {
        let mode = FallocateMode::PUNCH_HOLE | FallocateMode::KEEP_SIZE;
        Inode::fallocate(self, mode, start, end - start, &mut || Ok(()))
    }

    fn len(&self) -> u64 {
        self.size()
    }

    fn may_write_shared(&self) -> Result<()> {
        let sealed = super::data::SEAL_WRITE | super::data::SEAL_FUTURE_WRITE;
        if self.file()?.seals() & sealed != 0 { Err(Errno::EPERM) } else { Ok(()) }
    }

    fn mappers(&self) -> Option<&Mappers> {
        self.file().ok().map(|data| &data.mappers)
    }
}
