//! ext2, ext3 and ext4 from a disk, read-only: the crate `ringfence_ext4` behind the VFS's traits.
//!
//! What is read of the file system, its structure and its files, lies in the page cache of the block device. Where a file's
//! page is a page of the device (blocks of 4 KiB), `mmap` maps that very page; otherwise, and where a file ends or has a hole,
//! a copy is made when it is mapped.
//!
//! A fault must not sleep, and to find a page's place the tree of extents may have to be read. So places that faults have
//! asked for are remembered with the inode ([`Places`]), a bounded number of them.
//!
//! Linux mounts a file system whose journal was not replayed only if it may write; nothing here writes, so that is refused
//! as Linux refuses it on a read-only disk, unless the option `noload` says that it is to be read as it is.

use alloc::{collections::BTreeMap, string::String, sync::Arc, vec, vec::Vec};
use core::ops::ControlFlow;

use ringfence_ext4 as ext4;
use ringfence_ext4::{Extent, Filesystem, Image};
use ringfence_hal as hal;

use super::{
    image::{self, file_type_of},
    inode::{DirEntry, FileSystem, Inode, InodeRef},
    types::{DeviceId, FileType, Metadata, StatFs, Timestamp},
};
use crate::{
    TaskRef,
    block::{BlockDevice, Cache},
    errno::{Errno, Result},
    io::Sink,
    klog,
    mm::{
        Mappable, PageTree,
        charge::{self, Kind},
    },
    sched,
    sync::{Once, SpinLock},
};

/// The names it is mounted by.
pub const NAMES: [&str; 3] = ["ext4", "ext3", "ext2"];

const PAGE: u64 = hal::PAGE_SIZE as u64;
/// Places of pages an inode remembers.
const MAX_PLACES: usize = 256;
/// Pages of the device read around one that a mapping misses.
const FAULT_WINDOW: u64 = 16;

/// The device, read by the running task.
struct Device(Arc<Cache>);

impl Image for Device {
    fn len(&self) -> u64 {
        self.0.bytes()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> ext4::Result<()> {
        let wanted = buf.len();
        let read = sched::with_current(|task| match task {
            Some(task) => self.0.read(task, offset, &mut Sink::kernel(buf)),
            None => Err(Errno::EIO),
        });
        if read == Ok(wanted) { Ok(()) } else { Err(ext4::Error::Io) }
    }
}

struct Shared {
    fs: Filesystem<Device>,
    name: &'static str,
    dev: u64,
    noload: bool,
}

/// A mounted file system.
pub struct Ext4(Arc<Shared>);

fn errno(e: ext4::Error) -> Errno {
    match e {
        ext4::Error::Io => Errno::EIO,
        ext4::Error::NotExt4 | ext4::Error::Invalid => Errno::EINVAL,
        ext4::Error::Corrupt(_) => Errno::EUCLEAN,
        ext4::Error::Unsupported(_) => Errno::EOPNOTSUPP,
        ext4::Error::NotDirectory => Errno::ENOTDIR,
    }
}

file_type_of!(ext4);

/// Mounts what is on `device`. The kernel's log says why not. `EROFS`: it is to be written, or its journal to be replayed.
pub fn mount(
    device: &BlockDevice,
    kind: &[u8],
    options: &[u8],
    read_only: bool,
) -> Result<Arc<dyn FileSystem>> {
    let name = NAMES.into_iter().find(|name| name.as_bytes() == kind).ok_or(Errno::ENODEV)?;
    let log = |text: &str| klog::line(4, &alloc::format!("EXT4-fs ({}): {text}", device.name));
    let mut noload = false;
    for option in options.split(|b| *b == b',').filter(|o| !o.is_empty()) {
        match option {
            b"noload" | b"norecovery" => noload = true,
            // What changes nothing for a reader.
            b"errors=remount-ro" | b"errors=continue" | b"acl" | b"user_xattr" | b"noacl" => {}
            _ => {
                log("unrecognized mount option");
                return Err(Errno::EINVAL);
            }
        }
    }
    if !read_only {
        log("only read-only mounts are supported: use -o ro");
        return Err(Errno::EROFS);
    }
    let fs = Filesystem::open(Device(device.cache.clone())).map_err(|e| {
        log(&alloc::format!("cannot be mounted: {e}"));
        match e {
            ext4::Error::Io => Errno::EIO,
            ext4::Error::Corrupt(_) => Errno::EUCLEAN,
            _ => Errno::EINVAL,
        }
    })?;
    if fs.superblock().needs_recovery && !noload {
        log("write access unavailable, cannot proceed (try mounting with noload)");
        return Err(Errno::EROFS);
    }
    Ok(Arc::new(Ext4(Arc::new(Shared { fs, name, dev: device.id.encode(), noload }))))
}

impl FileSystem for Ext4 {
    fn name(&self) -> &'static str {
        self.0.name
    }

    fn dev(&self) -> u64 {
        self.0.dev
    }

    fn root(&self) -> InodeRef {
        match self.0.fs.inode(ext4::ROOT) {
            Ok(inode) => Ext4Inode::make(&self.0, inode),
            // It was read when it was mounted; the disk has changed since.
            Err(_) => image::lost_root(),
        }
    }

    fn statfs(&self) -> StatFs {
        let sb = self.0.fs.superblock();
        StatFs {
            magic: 0xef53,
            block_size: sb.block_size,
            blocks: sb.blocks,
            free: sb.free_blocks,
            files: sb.inodes.into(),
            files_free: sb.free_inodes.into(),
            name_max: ext4::NAME_MAX as u64,
        }
    }

    fn options(&self) -> String {
        String::from(if self.0.noload { "norecovery" } else { "" })
    }

    fn read_only(&self) -> bool {
        true
    }
}

/// Where a page of a file is.
#[derive(Clone, Copy)]
enum Place {
    /// It is this page of the device.
    Device(u64),
    /// It has a copy.
    Copy,
}

/// What is known of where pages are; any may be forgotten.
#[derive(Default)]
struct Places(SpinLock<BTreeMap<u64, Place>>);

impl Places {
    fn get(&self, index: u64) -> Option<Place> {
        self.0.lock().get(&index).copied()
    }

    fn insert(&self, index: u64, place: Place) {
        let mut places = self.0.lock();
        if places.len() >= MAX_PLACES {
            places.pop_first();
        }
        places.insert(index, place);
    }
}

/// What an inode has once it is mapped.
struct Mapped {
    places: Places,
    copies: Arc<PageTree>,
}

/// An inode. There may be several objects of one: they hold nothing that changes.
pub struct Ext4Inode {
    fs: Arc<Shared>,
    inode: ext4::Inode,
    mapped: Once<Mapped>,
}

impl Ext4Inode {
    fn make(fs: &Arc<Shared>, inode: ext4::Inode) -> InodeRef {
        Arc::new(Ext4Inode { fs: fs.clone(), inode, mapped: Once::new() })
    }

    fn cache(&self) -> &Cache {
        &self.fs.fs.image().0
    }

    fn mapped(&self) -> &Mapped {
        self.mapped.call_once(|| Mapped { places: Places::default(), copies: image::copies() })
    }

    fn extent(&self, offset: u64) -> Result<Option<Extent>> {
        self.fs.fs.extent(&self.inode, offset).map_err(errno)
    }

    fn read_pages(&self, task: &TaskRef, offset: u64, sink: &mut Sink<'_>) -> Result<()> {
        let mut at = offset;
        while sink.remaining() > 0 {
            sched::preempt_point(task);
            let Some(extent) = self.extent(at)? else { break };
            let mut left = extent.len().min(sink.remaining() as u64);
            at += left;
            let Extent::Data { at: mut place, .. } = extent else {
                sink.put_zeros(left as usize)?;
                continue;
            };
            // As far as the extent goes, though the reader may not want all of it now.
            let end = (place + extent.len()).div_ceil(PAGE);
            while left > 0 {
                let (page, within) = (place / PAGE, place % PAGE);
                let n = (PAGE - within).min(left);
                let frame = self.cache().frame(task, page, end - page)?;
                sink.put_frame(&frame, within as usize, n as usize)?;
                place += n;
                left -= n;
            }
        }
        Ok(())
    }
}

impl Inode for Ext4Inode {
    fn kind(&self) -> FileType {
        file_type(self.inode.file_type())
    }

    fn metadata(&self) -> Metadata {
        let i = &self.inode;
        let time = |(sec, nsec)| Timestamp { sec, nsec };
        let [atime, ctime, mtime] = i.times.map(time);
        let (major, minor) = i.device();
        Metadata {
            dev: self.fs.dev,
            ino: i.number().into(),
            kind: self.kind(),
            mode: i.mode.into(),
            nlink: i.nlink.into(),
            uid: i.uid,
            gid: i.gid,
            rdev: DeviceId::new(major, minor),
            size: i.size,
            blocks: i.blocks,
            block_size: self.fs.fs.superblock().block_size as u32,
            atime,
            mtime,
            ctime,
            btime: i.created.map(time),
        }
    }

    fn ino(&self) -> u64 {
        self.inode.number().into()
    }

    fn size(&self) -> u64 {
        self.inode.size
    }

    fn lookup(&self, name: &[u8]) -> Result<InodeRef> {
        let found = self.fs.fs.lookup(&self.inode, name).map_err(errno)?.ok_or(Errno::ENOENT)?;
        Ok(Ext4Inode::make(&self.fs, self.fs.fs.inode(found).map_err(errno)?))
    }

    fn readdir(&self, from: u64, emit: &mut dyn FnMut(&DirEntry<'_>) -> bool) -> Result<()> {
        let fs = &self.fs.fs;
        fs.read_dir(&self.inode, from, |entry| {
            let kind =
                || entry.file_type.or_else(|| Some(fs.inode(entry.inode).ok()?.file_type())).map(file_type);
            image::tell(emit, entry.name, entry.inode.into(), entry.next, kind)
        })
        .map_err(errno)
    }

    fn readlink(&self, _task: Option<&TaskRef>) -> Result<Vec<u8>> {
        image::link_text(self.inode.size, |out| self.fs.fs.read_link(&self.inode, out).map_err(errno))
    }

    fn read_at(&self, offset: u64, sink: &mut Sink<'_>) -> Result {
        match self.kind() {
            FileType::Regular => {}
            FileType::Directory => return Err(Errno::EISDIR),
            _ => return Err(Errno::EINVAL),
        }
        let start = sink.done();
        sched::with_current(|task| self.read_pages(task.ok_or(Errno::EIO)?, offset, sink))?;
        Ok(sink.done() - start)
    }

    fn mappable(self: Arc<Self>) -> Option<Arc<dyn Mappable>> {
        (self.kind() == FileType::Regular).then_some(self as Arc<dyn Mappable>)
    }

    fn get_xattr(&self, name: &[u8]) -> Result<Vec<u8>> {
        let mut found = None;
        let each = |prefix: &[u8], rest: &[u8], value: &[u8]| {
            if name.strip_prefix(prefix) != Some(rest) {
                return ControlFlow::Continue(());
            }
            found = Some(value.to_vec());
            ControlFlow::Break(())
        };
        self.fs.fs.xattrs(&self.inode, each).map_err(errno)?;
        found.ok_or(Errno::ENODATA)
    }

    fn list_xattrs(&self) -> Result<Vec<u8>> {
        let mut names = Vec::new();
        let each = |prefix: &'static [u8], rest: &[u8], _: &[u8]| {
            names.extend_from_slice(prefix);
            names.extend_from_slice(rest);
            names.push(0);
            ControlFlow::Continue(())
        };
        self.fs.fs.xattrs(&self.inode, each).map_err(errno)?;
        Ok(names)
    }
}

impl Mappable for Ext4Inode {
    fn page(&self, index: u64, _write: bool) -> Result<hal::Frame> {
        let mapped = self.mapped();
        let page = match mapped.places.get(index).ok_or(Errno::EAGAIN)? {
            Place::Device(page) => self.cache().cached_page(page),
            Place::Copy => mapped.copies.get(index),
        };
        page.ok_or(Errno::EAGAIN)
    }

    fn load(&self, index: u64) -> Result<()> {
        let offset = index.checked_mul(PAGE).ok_or(Errno::EINVAL)?;
        let extent = self.extent(offset)?.ok_or(Errno::EINVAL)?;
        let mapped = self.mapped();
        let Some((at, len)) = (match extent {
            Extent::Data { at, len } if at % PAGE == 0 && len >= PAGE => Some((at, len)),
            _ => None,
        }) else {
            let mut bytes = vec![0; PAGE as usize];
            let n = self.fs.fs.read(&self.inode, offset, &mut bytes).map_err(errno)?;
            let frame = charge::zeroed(Kind::Cache).map_err(|_| Errno::ENOMEM)?;
            frame.write(0, bytes.get(..n).unwrap_or_default());
            mapped.copies.insert(index, frame);
            mapped.places.insert(index, Place::Copy);
            return Ok(());
        };
        let pages = (len / PAGE).min(FAULT_WINDOW);
        sched::with_current(|task| self.cache().frame(task.ok_or(Errno::EIO)?, at / PAGE, pages).map(drop))?;
        // The one that is wanted last: it is there whatever is forgotten.
        for n in (0..pages).rev() {
            mapped.places.insert(index + n, Place::Device(at / PAGE + n));
        }
        Ok(())
    }

    fn cached_page(&self, index: u64) -> Option<hal::Frame> {
        self.page(index, false).ok()
    }

    fn len(&self) -> u64 {
        self.inode.size
    }
}
