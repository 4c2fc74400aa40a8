//! What each request does: `fuse-backend-rs` has parsed it and calls us.
//!
//! Every request names nodes by number and at most one component below each. The volume of the node says whether it may be
//! changed at all ([`Gofer::writable`], the first line of each request that changes something) and how ids are mapped.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fuse_backend_rs::abi::fuse_abi::{CreateIn, stat64, statvfs64};
use fuse_backend_rs::api::filesystem::{
    Context, DirEntry, Entry, FileSystem, FsOptions, GetxattrReply, ListxattrReply, OpenOptions,
    SetattrValid, ZeroCopyReader, ZeroCopyWriter,
};
use ringfence_protocol::Cache;
use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags, RawDir, RenameFlags, SeekFrom, Statx, XattrFlags};
use rustix::io::Errno;

use crate::node::{Node, Nodes, Opened, ROOT, component, open_beneath};
use crate::volume::Volume;

/// Most bytes of one extended attribute, and of all names (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
const XATTR_MAX: usize = 65536;
/// The only extended attributes there are: the others mean something on the host.
const XATTR_PREFIX: &[u8] = b"user.";
/// A reply that holds for as long as it is remembered.
const ALWAYS: Duration = Duration::from_secs(365 * 24 * 3600);

/// The file system.
pub struct Gofer {
    volumes: Vec<(Volume<()>, u64)>,
    /// The gofer's own `/proc/self/fd`.
    pub(crate) proc: OwnedFd,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    nodes: Nodes,
    opened: Opened,
}

impl Gofer {
    /// Serves `volumes`, which the guest finds as `0`, `1`, … in the root. `proc` is the gofer's own `/proc/self/fd`, which has
    /// to be the working directory, too (there are no system calls for extended attributes of an `O_PATH` descriptor).
    pub fn new(volumes: Vec<Volume>, proc: OwnedFd) -> io::Result<Self> {
        let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let descriptors = descriptors.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX));
        Self::with_descriptors(volumes, proc, descriptors)
    }

    /// The same with a limit of descriptors that is not the process's.
    pub(crate) fn with_descriptors(
        volumes: Vec<Volume>,
        proc: OwnedFd,
        descriptors: usize,
    ) -> io::Result<Self> {
        let mut nodes = Nodes::new(descriptors);
        let mut list = Vec::with_capacity(volumes.len());
        for (number, volume) in volumes.into_iter().enumerate() {
            let mut root = None;
            let volume = volume.with(|fd| root = Some(fd));
            let (node, _) = nodes.tell(number, root.ok_or(Errno::BADF)?)?;
            list.push((volume, node.id));
        }
        Ok(Self { volumes: list, proc, state: Mutex::new(State { nodes, opened: Opened::default() }) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn node(&self, id: u64) -> io::Result<Arc<Node>> {
        self.state().nodes.get(id)
    }

    pub(crate) fn volume(&self, node: &Node) -> io::Result<&Volume<()>> {
        self.settings(node.volume)
    }

    /// Of a volume by its number.
    pub(crate) fn settings(&self, volume: usize) -> io::Result<&Volume<()>> {
        Ok(&self.volumes.get(volume).ok_or(Errno::STALE)?.0)
    }

    /// The node, if its volume may be changed. `EROFS`.
    pub(crate) fn writable(&self, id: u64) -> io::Result<Arc<Node>> {
        // The list of volumes is nobody's to change.
        if id == ROOT {
            return Err(Errno::ROFS.into());
        }
        let node = self.node(id)?;
        if self.volume(&node)?.read_only { Err(Errno::ROFS.into()) } else { Ok(node) }
    }

    /// A descriptor for the content of `node`.
    pub(crate) fn open_content(&self, node: &Node, write: bool) -> io::Result<Arc<std::fs::File>> {
        let read_only = self.volume(node)?.read_only;
        self.state().opened.get(node, write, read_only, self.proc.as_fd())
    }

    /// See [`Nodes::room`].
    pub(crate) fn room(&self) -> io::Result<()> {
        self.state().nodes.room()
    }

    /// Tells the guest of an inode.
    pub(crate) fn entry(&self, volume: usize, fd: OwnedFd) -> io::Result<Entry> {
        let (node, stat) = self.state().nodes.tell(volume, fd)?;
        let hold = self.hold(&node)?;
        Ok(Entry {
            inode: node.id,
            generation: 0,
            attr: self.outward(&node, &stat)?,
            attr_flags: 0,
            attr_timeout: hold,
            entry_timeout: hold,
        })
    }

    fn hold(&self, node: &Node) -> io::Result<Duration> {
        Ok(match self.volume(node)?.cache {
            Cache::None => Duration::ZERO,
            Cache::Auto => Duration::from_secs(1),
            Cache::Always => ALWAYS,
        })
    }

    /// Attributes as the guest is told them.
    fn outward(&self, node: &Node, stat: &Statx) -> io::Result<stat64> {
        let volume = self.volume(node)?;
        // SAFETY: a structure of integers, for which zero is a value.
        let mut out: stat64 = unsafe { std::mem::zeroed() };
        out.st_ino = stat.stx_ino;
        out.st_mode = stat.stx_mode.into();
        out.st_nlink = stat.stx_nlink.into();
        out.st_uid = volume.users.inside(stat.stx_uid);
        out.st_gid = volume.groups.inside(stat.stx_gid);
        out.st_size = stat.stx_size as i64;
        out.st_blocks = stat.stx_blocks as i64;
        out.st_blksize = stat.stx_blksize.into();
        // Device nodes of the host are shown, never opened; which device is not told.
        let time = |t: rustix::fs::StatxTimestamp| (t.tv_sec, i64::from(t.tv_nsec));
        (out.st_atime, out.st_atime_nsec) = time(stat.stx_atime);
        (out.st_mtime, out.st_mtime_nsec) = time(stat.stx_mtime);
        (out.st_ctime, out.st_ctime_nsec) = time(stat.stx_ctime);
        Ok(out)
    }

    pub(crate) fn reply_attributes(&self, node: &Node) -> io::Result<(stat64, Duration)> {
        Ok((self.outward(node, &node.attributes()?)?, self.hold(node)?))
    }

    /// Two directories of one volume that may be changed. `EXDEV`.
    fn writable_pair(&self, one: u64, other: u64) -> io::Result<(Arc<Node>, Arc<Node>)> {
        let (one, other) = (self.writable(one)?, self.writable(other)?);
        if one.volume == other.volume { Ok((one, other)) } else { Err(Errno::XDEV.into()) }
    }

    fn lookup_volume(&self, name: &CStr) -> io::Result<Entry> {
        let number = name.to_str().ok().and_then(|text| text.parse::<usize>().ok()).ok_or(Errno::NOENT)?;
        let (_, root) = self.volumes.get(number).ok_or(Errno::NOENT)?;
        let root = self.node(*root)?;
        let fd = root.fd.try_clone()?;
        self.entry(number, fd)
    }
}

/// The name of an extended attribute that may be used. `EOPNOTSUPP`.
fn attribute_name(name: &CStr) -> io::Result<&CStr> {
    if name.to_bytes().starts_with(XATTR_PREFIX) { Ok(name) } else { Err(Errno::OPNOTSUPP.into()) }
}

fn not_open<T>() -> io::Result<T> {
    Err(Errno::NOSYS.into())
}

impl FileSystem for Gofer {
    type Inode = u64;
    type Handle = u64;

    fn init(&self, capable: FsOptions) -> io::Result<FsOptions> {
        let wanted = FsOptions::BIG_WRITES
            | FsOptions::MAX_PAGES
            | FsOptions::ZERO_MESSAGE_OPEN
            | FsOptions::ZERO_MESSAGE_OPENDIR
            | FsOptions::ASYNC_READ
            | FsOptions::PARALLEL_DIROPS
            | FsOptions::AUTO_INVAL_DATA;
        Ok(capable & wanted)
    }

    fn lookup(&self, _: &Context, parent: u64, name: &CStr) -> io::Result<Entry> {
        if parent == ROOT {
            return self.lookup_volume(name);
        }
        self.room()?;
        let parent = self.node(parent)?;
        let fd = open_beneath(parent.fd.as_fd(), name, OFlags::PATH, Mode::empty())?;
        self.entry(parent.volume, fd)
    }

    fn forget(&self, _: &Context, inode: u64, count: u64) {
        // What a volume begins with is there as long as the gofer is.
        if self.volumes.iter().any(|(_, root)| *root == inode) {
            return;
        }
        let mut state = self.state();
        if state.nodes.forget(inode, count) {
            state.opened.close(inode);
        }
    }

    fn getattr(&self, _: &Context, inode: u64, _: Option<u64>) -> io::Result<(stat64, Duration)> {
        if inode == ROOT {
            // SAFETY: a structure of integers, for which zero is a value.
            let mut root: stat64 = unsafe { std::mem::zeroed() };
            (root.st_ino, root.st_mode, root.st_nlink) = (ROOT, libc::S_IFDIR | 0o555, 2);
            return Ok((root, ALWAYS));
        }
        self.reply_attributes(&*self.node(inode)?)
    }

    fn setattr(
        &self,
        _: &Context,
        inode: u64,
        attr: stat64,
        _: Option<u64>,
        valid: SetattrValid,
    ) -> io::Result<(stat64, Duration)> {
        let node = self.writable(inode)?;
        self.change(&node, &attr, valid)?;
        self.reply_attributes(&node)
    }

    fn readlink(&self, _: &Context, inode: u64) -> io::Result<Vec<u8>> {
        let node = self.node(inode)?;
        if node.kind != libc::S_IFLNK {
            return Err(Errno::INVAL.into());
        }
        Ok(rustix::fs::readlinkat(&node.fd, c"", Vec::new())?.into_bytes())
    }

    fn symlink(&self, ctx: &Context, target: &CStr, parent: u64, name: &CStr) -> io::Result<Entry> {
        self.make_symlink(ctx, target, parent, name)
    }

    fn mknod(
        &self,
        ctx: &Context,
        parent: u64,
        name: &CStr,
        mode: u32,
        _rdev: u32,
        umask: u32,
    ) -> io::Result<Entry> {
        self.make_node(ctx, parent, name, mode & !umask)
    }

    fn mkdir(&self, ctx: &Context, parent: u64, name: &CStr, mode: u32, umask: u32) -> io::Result<Entry> {
        self.make_directory(ctx, parent, name, mode & !umask)
    }

    fn create(
        &self,
        ctx: &Context,
        parent: u64,
        name: &CStr,
        args: CreateIn,
    ) -> io::Result<(Entry, Option<u64>, OpenOptions, Option<u32>)> {
        let mode = libc::S_IFREG | (args.mode & 0o7777 & !args.umask);
        let entry = self.make_node(ctx, parent, name, mode)?;
        Ok((entry, None, OpenOptions::empty(), None))
    }

    fn unlink(&self, _: &Context, parent: u64, name: &CStr) -> io::Result<()> {
        let parent = self.writable(parent)?;
        Ok(rustix::fs::unlinkat(&parent.fd, component(name)?, AtFlags::empty())?)
    }

    fn rmdir(&self, _: &Context, parent: u64, name: &CStr) -> io::Result<()> {
        let parent = self.writable(parent)?;
        Ok(rustix::fs::unlinkat(&parent.fd, component(name)?, AtFlags::REMOVEDIR)?)
    }

    fn rename(
        &self,
        _: &Context,
        old: u64,
        old_name: &CStr,
        new: u64,
        new_name: &CStr,
        flags: u32,
    ) -> io::Result<()> {
        let (old, new) = self.writable_pair(old, new)?;
        let flags = RenameFlags::from_bits(flags)
            .filter(|flags| !flags.contains(RenameFlags::WHITEOUT))
            .ok_or(Errno::INVAL)?;
        let (old_name, new_name) = (component(old_name)?, component(new_name)?);
        Ok(rustix::fs::renameat_with(&old.fd, old_name, &new.fd, new_name, flags)?)
    }

    fn link(&self, _: &Context, inode: u64, parent: u64, name: &CStr) -> io::Result<Entry> {
        let (node, parent) = self.writable_pair(inode, parent)?;
        if node.is_directory() {
            return Err(Errno::PERM.into());
        }
        let name = component(name)?;
        self.room()?;
        // Through the gofer's own descriptor: the inode itself, whatever is at any name by now.
        rustix::fs::linkat(&self.proc, node.name(), &parent.fd, name, AtFlags::SYMLINK_FOLLOW)?;
        self.entry(node.volume, node.fd.try_clone()?)
    }

    fn open(
        &self,
        _: &Context,
        _: u64,
        _: u32,
        _: u32,
    ) -> io::Result<(Option<u64>, OpenOptions, Option<u32>)> {
        not_open()
    }

    fn opendir(&self, _: &Context, _: u64, _: u32) -> io::Result<(Option<u64>, OpenOptions)> {
        not_open()
    }

    fn release(
        &self,
        _: &Context,
        _: u64,
        _: u32,
        _: u64,
        _: bool,
        _: bool,
        _: Option<u64>,
    ) -> io::Result<()> {
        Ok(())
    }

    fn releasedir(&self, _: &Context, _: u64, _: u32, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn flush(&self, _: &Context, _: u64, _: u64, _: u64) -> io::Result<()> {
        not_open()
    }

    fn read(
        &self,
        _: &Context,
        inode: u64,
        _: u64,
        w: &mut dyn ZeroCopyWriter,
        size: u32,
        offset: u64,
        _: Option<u64>,
        _: u32,
    ) -> io::Result<usize> {
        let node = self.node(inode)?;
        let file = self.open_content(&node, false)?;
        w.write_from(&mut file.try_clone()?, size as usize, offset)
    }

    fn write(
        &self,
        _: &Context,
        inode: u64,
        _: u64,
        r: &mut dyn ZeroCopyReader,
        size: u32,
        offset: u64,
        _: Option<u64>,
        _: bool,
        _: u32,
        _: u32,
    ) -> io::Result<usize> {
        let node = self.writable(inode)?;
        let file = self.open_content(&node, true)?;
        r.read_to(&mut file.try_clone()?, size as usize, offset)
    }

    fn fsync(&self, _: &Context, inode: u64, data_only: bool, _: u64) -> io::Result<()> {
        let file = self.open_content(&*self.node(inode)?, false)?;
        if data_only { file.sync_data() } else { file.sync_all() }
    }

    fn fsyncdir(&self, ctx: &Context, inode: u64, data_only: bool, handle: u64) -> io::Result<()> {
        self.fsync(ctx, inode, data_only, handle)
    }

    fn fallocate(
        &self,
        _: &Context,
        inode: u64,
        _: u64,
        mode: u32,
        offset: u64,
        length: u64,
    ) -> io::Result<()> {
        let node = self.writable(inode)?;
        let allowed = FallocateFlags::KEEP_SIZE | FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE;
        let mode =
            FallocateFlags::from_bits(mode).filter(|mode| allowed.contains(*mode)).ok_or(Errno::OPNOTSUPP)?;
        let file = self.open_content(&node, true)?;
        Ok(rustix::fs::fallocate(&*file, mode, offset, length)?)
    }

    fn lseek(&self, _: &Context, inode: u64, _: u64, offset: u64, whence: u32) -> io::Result<u64> {
        let to = match whence as i32 {
            libc::SEEK_DATA => SeekFrom::Data(offset),
            libc::SEEK_HOLE => SeekFrom::Hole(offset),
            _ => return Err(Errno::INVAL.into()),
        };
        let node = self.node(inode)?;
        if node.kind != libc::S_IFREG {
            return Err(Errno::INVAL.into());
        }
        Ok(rustix::fs::seek(&*self.open_content(&node, false)?, to)?)
    }

    fn statfs(&self, _: &Context, inode: u64) -> io::Result<statvfs64> {
        let inode = if inode == ROOT { self.volumes.first().map_or(ROOT, |(_, root)| *root) } else { inode };
        let stat = rustix::fs::fstatvfs(&self.node(inode)?.fd)?;
        // SAFETY: a structure of integers, for which zero is a value.
        let mut out: statvfs64 = unsafe { std::mem::zeroed() };
        out.f_bsize = stat.f_bsize;
        out.f_frsize = stat.f_frsize;
        out.f_blocks = stat.f_blocks;
        out.f_bfree = stat.f_bfree;
        out.f_bavail = stat.f_bavail;
        out.f_files = stat.f_files;
        out.f_ffree = stat.f_ffree;
        out.f_namemax = stat.f_namemax;
        Ok(out)
    }

    fn readdir(
        &self,
        _: &Context,
        inode: u64,
        _: u64,
        _size: u32,
        offset: u64,
        add: &mut dyn FnMut(DirEntry<'_>) -> io::Result<usize>,
    ) -> io::Result<()> {
        let node = self.node(inode)?;
        if !node.is_directory() {
            return Err(Errno::NOTDIR.into());
        }
        let directory = self.open_content(&node, false)?;
        rustix::fs::seek(&*directory, SeekFrom::Start(offset))?;
        let mut buffer = Vec::with_capacity(32 << 10);
        let mut entries = RawDir::new(&*directory, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            let found = DirEntry {
                ino: entry.ino(),
                offset: entry.next_entry_cookie(),
                type_: entry.file_type().as_raw_mode() >> 12,
                name,
            };
            if add(found)? == 0 {
                break;
            }
        }
        Ok(())
    }

    fn setxattr(&self, _: &Context, inode: u64, name: &CStr, value: &[u8], flags: u32) -> io::Result<()> {
        let node = self.writable(inode)?;
        let flags = XattrFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        Ok(rustix::fs::setxattr(node.name(), attribute_name(name)?, value, flags)?)
    }

    fn getxattr(&self, _: &Context, inode: u64, name: &CStr, size: u32) -> io::Result<GetxattrReply> {
        let node = self.node(inode)?;
        let name = attribute_name(name)?;
        let mut value = vec![0; (size as usize).min(XATTR_MAX)];
        let n = rustix::fs::getxattr(node.name(), name, &mut value[..])?;
        if size == 0 {
            return Ok(GetxattrReply::Count(n as u32));
        }
        value.truncate(n);
        Ok(GetxattrReply::Value(value))
    }

    fn listxattr(&self, _: &Context, inode: u64, size: u32) -> io::Result<ListxattrReply> {
        let node = self.node(inode)?;
        let mut all = vec![0; XATTR_MAX];
        let n = rustix::fs::listxattr(node.name(), &mut all[..])?;
        let all = all.get(..n).unwrap_or_default();
        let ours = all.split_inclusive(|&b| b == 0).filter(|name| name.starts_with(XATTR_PREFIX));
        let names: Vec<u8> = ours.flatten().copied().collect();
        match size as usize {
            0 => Ok(ListxattrReply::Count(names.len() as u32)),
            size if size < names.len() => Err(Errno::RANGE.into()),
            _ => Ok(ListxattrReply::Names(names)),
        }
    }

    fn removexattr(&self, _: &Context, inode: u64, name: &CStr) -> io::Result<()> {
        let node = self.writable(inode)?;
        Ok(rustix::fs::removexattr(node.name(), attribute_name(name)?)?)
    }

    fn access(&self, _: &Context, inode: u64, _: u32) -> io::Result<()> {
        self.node(inode).map(drop)
    }
}
