//! EROFS from a pmem region: the crate `ringfence_erofs` behind the VFS's traits.
//!
//! The image lies in guest-physical memory that the host maps read-only, so file pages are not copied into a
//! cache: `mmap` maps the image's own pages, `read` copies from them straight to the user. Only what is not
//! page-aligned in the image (the inline tail of a file) gets a page of RAM, when it is mapped.

use alloc::{boxed::Box, sync::Arc, vec, vec::Vec};
use core::ops::ControlFlow;

use ringfence_erofs as erofs;
use ringfence_erofs::{BLOCK_SIZE, Extent, Filesystem, Image};
use ringfence_hal as hal;

use super::{
    image::{self, file_type_of},
    inode::{DirEntry, FileSystem, Inode, InodeRef, alloc_anonymous_dev},
    types::{DeviceId, FileType, Metadata, StatFs, Timestamp},
};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    io::Sink,
    mm::{
        Mappable, PageTree,
        charge::{self, Kind},
    },
    sync::Once,
};

const PAGE: u64 = hal::PAGE_SIZE as u64;

/// The image in its pmem region.
struct Pmem(hal::pmem::PhysRegion);

impl Image for Pmem {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> erofs::Result<()> {
        match offset.checked_add(buf.len() as u64) {
            Some(end) if end <= self.len() => {
                self.0.read(offset as usize, buf);
                Ok(())
            }
            _ => Err(erofs::Error::Io),
        }
    }
}

struct Shared {
    image: Filesystem<Pmem>,
    dev: u64,
}

/// A mounted EROFS image.
pub struct Erofs(Arc<Shared>);

fn errno(e: erofs::Error) -> Errno {
    match e {
        erofs::Error::Io => Errno::EIO,
        erofs::Error::Corrupt(_) => Errno::EUCLEAN,
        erofs::Error::Unsupported(_) => Errno::EOPNOTSUPP,
        erofs::Error::NotDirectory => Errno::ENOTDIR,
        erofs::Error::Invalid => Errno::EINVAL,
    }
}

file_type_of!(erofs);

impl Erofs {
    /// Opens the image in `region`. The error says what is wrong with the image.
    pub fn open(region: hal::pmem::PhysRegion) -> Result<Arc<Erofs>, erofs::Error> {
        let image = Filesystem::open(Pmem(region))?;
        image.root()?;
        Ok(Arc::new(Erofs(Arc::new(Shared { image, dev: alloc_anonymous_dev() }))))
    }
}

impl FileSystem for Erofs {
    fn name(&self) -> &'static str {
        "erofs"
    }

    fn dev(&self) -> u64 {
        self.0.dev
    }

    fn root(&self) -> InodeRef {
        match self.0.image.root() {
            Ok(inode) => ErofsInode::make(&self.0, inode),
            // It was read when the image was opened; the host changed it since.
            Err(_) => image::lost_root(),
        }
    }

    fn statfs(&self) -> StatFs {
        let sb = self.0.image.superblock();
        StatFs {
            magic: 0xe0f5_e1e2,
            block_size: PAGE,
            blocks: sb.blocks,
            files: sb.inodes,
            name_max: super::NAME_MAX as u64,
            ..StatFs::default()
        }
    }

    fn read_only(&self) -> bool {
        true
    }
}

/// An inode of the image. There may be several objects of one inode: they hold nothing that changes.
pub struct ErofsInode {
    fs: Arc<Shared>,
    inode: erofs::Inode,
    /// Copies of pages that the image does not hold page-aligned.
    copies: Once<Arc<PageTree>>,
}

impl ErofsInode {
    fn make(fs: &Arc<Shared>, inode: erofs::Inode) -> InodeRef {
        Arc::new(ErofsInode { fs: fs.clone(), inode, copies: Once::new() })
    }

    /// The cache of copies, made and announced at the first use.
    fn copies(&self) -> &PageTree {
        self.copies.call_once(image::copies)
    }

    fn region(&self) -> &hal::pmem::PhysRegion {
        &self.fs.image.image().0
    }
}

impl Inode for ErofsInode {
    fn kind(&self) -> FileType {
        file_type(self.inode.file_type())
    }

    fn metadata(&self) -> Metadata {
        let i = &self.inode;
        let time = Timestamp { sec: i.mtime(), nsec: i.mtime_nsec() };
        Metadata {
            dev: self.fs.dev,
            ino: i.nid(),
            kind: self.kind(),
            mode: u32::from(i.mode()) & 0o7777,
            nlink: i.nlink(),
            uid: i.uid(),
            gid: i.gid(),
            rdev: DeviceId::new(i.rdev().0, i.rdev().1),
            size: i.size(),
            blocks: i.size().div_ceil(PAGE) * 8,
            block_size: PAGE as u32,
            atime: time,
            mtime: time,
            ctime: time,
            btime: None,
        }
    }

    fn ino(&self) -> u64 {
        self.inode.nid()
    }

    fn size(&self) -> u64 {
        self.inode.size()
    }

    fn lookup(&self, name: &[u8]) -> Result<InodeRef> {
        let found = self.fs.image.lookup(&self.inode, name).map_err(errno)?.ok_or(Errno::ENOENT)?;
        Ok(ErofsInode::make(&self.fs, self.fs.image.inode(found.nid).map_err(errno)?))
    }

    fn readdir(&self, from: u64, emit: &mut dyn FnMut(&DirEntry<'_>) -> bool) -> Result<()> {
        let fs = &self.fs.image;
        let mut block = Box::new([0; BLOCK_SIZE as usize]);
        fs.read_dir(&self.inode, from, &mut block, |entry| {
            let kind =
                || entry.file_type.or_else(|| Some(fs.inode(entry.nid).ok()?.file_type())).map(file_type);
            image::tell(emit, entry.name, entry.nid, entry.next, kind)
        })
        .map_err(errno)
    }

    fn readlink(&self, _task: Option<&TaskRef>) -> Result<Vec<u8>> {
        image::link_text(self.inode.size(), |out| self.fs.image.read_link(&self.inode, out).map_err(errno))
    }

    fn read_at(&self, offset: u64, sink: &mut Sink<'_>) -> Result {
        match self.kind() {
            FileType::Regular => {}
            FileType::Directory => return Err(Errno::EISDIR),
            _ => return Err(Errno::EINVAL),
        }
        let (start, mut at) = (sink.done(), offset);
        while sink.remaining() > 0 {
            let n = match self.fs.image.extent(&self.inode, at) {
                None => break,
                Some(Extent::Hole { len }) => {
                    let n = len.min(sink.remaining() as u64);
                    sink.put_zeros(n as usize)?;
                    n
                }
                Some(Extent::Data { at: place, len, .. }) => {
                    let within = place % PAGE;
                    let n = len.min(PAGE - within).min(sink.remaining() as u64);
                    sink.put_frame(
                        &self.region().frame((place / PAGE) as usize),
                        within as usize,
                        n as usize,
                    )?;
                    n
                }
            };
            at += n;
        }
        Ok(sink.done() - start)
    }

    fn mappable(self: Arc<Self>) -> Option<Arc<dyn Mappable>> {
        (self.kind() == FileType::Regular).then_some(self as Arc<dyn Mappable>)
    }

    fn get_xattr(&self, name: &[u8]) -> Result<Vec<u8>> {
        let fs = &self.fs.image;
        let found = fs.xattr(&self.inode, name).map_err(errno)?.ok_or(Errno::ENODATA)?;
        let mut value = vec![0; found.value_len()];
        fs.xattr_value(&found, &mut value).map_err(errno)?;
        Ok(value)
    }

    fn list_xattrs(&self) -> Result<Vec<u8>> {
        let mut names = Vec::new();
        self.fs
            .image
            .xattrs(&self.inode, |x| {
                names.extend_from_slice(x.prefix());
                names.extend_from_slice(x.rest());
                names.push(0);
                if names.len() > super::XATTR_LIST_MAX {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            })
            .map_err(errno)?;
        Ok(names)
    }
}

impl Mappable for ErofsInode {
    fn page(&self, index: u64, _write: bool) -> Result<hal::Frame> {
        let offset = index.checked_mul(PAGE).ok_or(Errno::EINVAL)?;
        match self.fs.image.extent(&self.inode, offset).ok_or(Errno::EINVAL)? {
            Extent::Data { at, mappable: true, .. } if at % PAGE == 0 => {
                Ok(self.region().frame((at / PAGE) as usize))
            }
            _ => self.copies().get_or_insert_with(index, || {
                let mut bytes = vec![0; PAGE as usize];
                let n = self.fs.image.read(&self.inode, offset, &mut bytes).map_err(errno)?;
                let frame = charge::zeroed(Kind::Cache)?;
                frame.write(0, bytes.get(..n).unwrap_or_default());
                Ok(frame)
            }),
        }
    }

    fn cached_page(&self, index: u64) -> Option<hal::Frame> {
        match self.fs.image.extent(&self.inode, index.checked_mul(PAGE)?)? {
            Extent::Data { at, mappable: true, .. } if at % PAGE == 0 => {
                Some(self.region().frame((at / PAGE) as usize))
            }
            _ => self.copies.get()?.get(index),
        }
    }

    fn len(&self) -> u64 {
        self.inode.size()
    }
}
