//! Inodes: made at each lookup, from the tables and from what exists at that moment.

use alloc::{format, string::String, sync::Arc, vec::Vec};

use super::{
    Destination, Entry, Instance, Node, Scope, Who,
    file::{Content, ProcFile},
    machine,
    mem::MemFile,
    process, sysfs,
};
use crate::{
    TaskRef,
    block::{self, BlockDevice},
    errno::{Errno, Result},
    fs::{DirEntry, File, FileRef, FileType, Inode, InodeRef, LinkTarget, Metadata, OpenFlags},
    kernel::kernel,
    ns::PidView,
    task::{Pid, Process},
};

/// What an inode is.
#[derive(Clone, Copy)]
enum Kind {
    Root,
    Entry(&'static Entry),
    /// `/proc/PID` or `/proc/PID/task/TID`.
    Owner,
    /// `fd/N`.
    Descriptor(i32),
    /// `fdinfo/N`.
    DescriptorInfo(i32),
    /// A link to the directory of the disk, in the directory of this path.
    DiskLink(&'static str),
}

struct ProcInode {
    who: Who,
    kind: Kind,
    /// The mounted tree it is in.
    fs: Arc<Instance>,
    ino: u64,
}

const ROOT_INO: u64 = 1;
/// Cookies of processes in the root directory begin here; entries of the table are below.
const PIDS: u64 = 256;

pub(super) fn root(fs: Arc<Instance>) -> InodeRef {
    Arc::new(ProcInode { who: Who::Machine, kind: Kind::Root, fs, ino: ROOT_INO })
}

/// The root of a file system that is just a table.
pub(super) fn table_root(fs: Arc<Instance>, root: &'static Entry) -> InodeRef {
    Arc::new(ProcInode { who: Who::Machine, kind: Kind::Entry(root), fs, ino: ROOT_INO })
}

/// The process whose directory `/proc/PID` this is.
pub fn process_of_directory(inode: &InodeRef) -> Option<Arc<Process>> {
    let any: &dyn core::any::Any = &**inode;
    match any.downcast_ref::<ProcInode>()? {
        ProcInode { who: who @ Who::Process(_), kind: Kind::Owner, .. } => Some(who.target().ok()?.process),
        _ => None,
    }
}

/// An inode number that is the same at each lookup: a hash of the path.
fn child_ino(parent: u64, name: &[u8]) -> u64 {
    let hash = name
        .iter()
        .fold(parent ^ 0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3));
    (hash ^ (hash >> 32)) & 0x7fff_ffff | 0x8000_0000
}

/// A decimal number without leading zeros.
fn number(name: &[u8]) -> Option<i32> {
    let n: i32 = core::str::from_utf8(name).ok()?.parse().ok()?;
    (format!("{n}").as_bytes() == name).then_some(n)
}

fn entry_type(entry: &Entry) -> FileType {
    match entry.node {
        Node::File(..) | Node::Memory => FileType::Regular,
        Node::Link(_) => FileType::Symlink,
        Node::Dir(_)
        | Node::Disks(_)
        | Node::DiskNumbers(_)
        | Node::Threads
        | Node::Descriptors
        | Node::DescriptorInfos => FileType::Directory,
    }
}

impl ProcInode {
    fn child(&self, name: &[u8], who: Who, kind: Kind) -> InodeRef {
        Arc::new(ProcInode { who, kind, fs: self.fs.clone(), ino: child_ino(self.ino, name) })
    }

    /// The table of a directory that has one.
    fn table(&self) -> &'static [Entry] {
        match (self.kind, self.who) {
            (Kind::Root, _) => machine::ENTRIES,
            (Kind::Owner, Who::Thread(..)) => process::THREAD_ENTRIES,
            (Kind::Owner, Who::Disk(_)) => sysfs::DISK,
            (Kind::Owner, _) => process::ENTRIES,
            (Kind::Entry(Entry { node: Node::Dir(table), .. }), _) => table,
            _ => &[],
        }
    }

    fn pids(&self) -> PidView<'_> {
        PidView { ns: &self.fs.ns }
    }

    fn descriptor(&self, fd: i32) -> Result<FileRef> {
        self.who.target()?.task()?.files()?.get_any(fd)
    }

    fn threads(&self) -> Result<Vec<Pid>> {
        let process = self.who.target()?.process;
        let mut tids: Vec<Pid> =
            process.threads().iter().map(|t| self.pids().show(t.global_tid())).filter(|n| *n > 0).collect();
        tids.sort_unstable();
        Ok(tids)
    }

    /// Which disk `name` is in this directory, and what its entry is.
    fn disk(&self, name: &str) -> Option<(usize, Kind)> {
        let Kind::Entry(Entry { node, .. }) = self.kind else { return None };
        let kind = match node {
            Node::Disks(None) => Kind::Owner,
            Node::Disks(Some(to)) | Node::DiskNumbers(to) => Kind::DiskLink(to),
            _ => return None,
        };
        let disk = block::all().iter().position(|device| self.name_of_disk(device).0 == name)?;
        Some((disk, kind))
    }

    fn name_of_disk(&self, device: &BlockDevice) -> (String, FileType) {
        match self.kind {
            Kind::Entry(Entry { node: Node::DiskNumbers(_), .. }) => {
                (format!("{}:{}", device.id.major, device.id.minor), FileType::Symlink)
            }
            Kind::Entry(Entry { node: Node::Disks(Some(_)), .. }) => (device.name.clone(), FileType::Symlink),
            _ => (device.name.clone(), FileType::Directory),
        }
    }

    fn disk_link(&self) -> Option<Vec<u8>> {
        let (Kind::DiskLink(to), Who::Disk(disk)) = (self.kind, self.who) else { return None };
        Some(format!("{to}{}", block::nth(disk)?.name).into_bytes())
    }

    fn check_private(&self, viewer: &TaskRef) -> Result<()> {
        let private = match self.kind {
            Kind::Entry(e) => e.private,
            Kind::Descriptor(_) | Kind::DescriptorInfo(_) => true,
            Kind::Root | Kind::Owner | Kind::DiskLink(_) => false,
        };
        if private { self.who.target()?.check_access(viewer) } else { Ok(()) }
    }

    fn destination(&self, task: Option<&TaskRef>) -> Result<Destination> {
        let viewer = task.ok_or(Errno::ENOENT)?;
        match self.kind {
            Kind::Entry(Entry { node: Node::Link(to), .. }) => {
                to(&Scope { who: self.who, viewer, ns: &self.fs.ns })
            }
            _ => Err(Errno::EINVAL),
        }
    }
}

impl Inode for ProcInode {
    fn kind(&self) -> FileType {
        match self.kind {
            Kind::Root | Kind::Owner => FileType::Directory,
            Kind::Entry(e) => entry_type(e),
            Kind::Descriptor(_) | Kind::DiskLink(_) => FileType::Symlink,
            Kind::DescriptorInfo(_) => FileType::Regular,
        }
    }

    fn ino(&self) -> u64 {
        self.ino
    }

    fn size(&self) -> u64 {
        0
    }

    fn metadata(&self) -> Metadata {
        let mode = match self.kind {
            Kind::Root | Kind::Owner => 0o555,
            Kind::Entry(e) => e.mode,
            Kind::DescriptorInfo(_) => 0o444,
            Kind::DiskLink(_) => 0o777,
            Kind::Descriptor(fd) => {
                let flags = self.descriptor(fd).map_or(OpenFlags::empty(), |f| f.flags());
                0o100 | if flags.readable() { 0o400 } else { 0 } | if flags.writable() { 0o200 } else { 0 }
            }
        };
        let mut m = Metadata::new(self.fs.dev, self.ino, self.kind(), mode);
        m.block_size = 1024;
        if let Ok(target) = self.who.target() {
            (m.uid, m.gid) = target.owner();
        }
        if matches!(self.kind, Kind::Descriptor(_)) {
            m.size = 64;
        }
        if m.kind == FileType::Directory {
            let subdirectories = self.table().iter().filter(|e| entry_type(e) == FileType::Directory).count();
            m.nlink = 2 + subdirectories as u32;
        }
        m
    }

    fn cacheable(&self) -> bool {
        // The tables of the machine never change.
        self.who == Who::Machine && !matches!(self.kind, Kind::Root)
    }

    fn lookup(&self, name: &[u8]) -> Result<InodeRef> {
        let text = core::str::from_utf8(name).map_err(|_| Errno::ENOENT)?;
        if let Some(entry) = self.table().iter().find(|e| e.name == text) {
            return Ok(self.child(name, self.who, Kind::Entry(entry)));
        }
        if let Some((disk, kind)) = self.disk(text) {
            return Ok(self.child(name, Who::Disk(disk), kind));
        }
        let n = number(name).ok_or(Errno::ENOENT)?;
        match (self.kind, self.who) {
            (Kind::Root, _) => {
                // Any thread's number works here, as on Linux, though only processes are listed.
                let process = match self.pids().process(n) {
                    Ok(process) => process,
                    Err(_) => self.pids().task(n).map_err(|_| Errno::ENOENT)?.process().clone(),
                };
                let who = Who::Process(process.pid);
                Ok(self.child(name, who, Kind::Owner))
            }
            (Kind::Entry(Entry { node: Node::Threads, .. }), Who::Process(pid)) => {
                let who = Who::Thread(pid, self.fs.ns.global(n).ok_or(Errno::ENOENT)?);
                who.target().map_err(|_| Errno::ENOENT)?;
                Ok(self.child(name, who, Kind::Owner))
            }
            (Kind::Entry(Entry { node: Node::Descriptors, .. }), _) => {
                self.descriptor(n).map_err(|_| Errno::ENOENT)?;
                Ok(self.child(name, self.who, Kind::Descriptor(n)))
            }
            (Kind::Entry(Entry { node: Node::DescriptorInfos, .. }), _) => {
                self.descriptor(n).map_err(|_| Errno::ENOENT)?;
                Ok(self.child(name, self.who, Kind::DescriptorInfo(n)))
            }
            _ => Err(Errno::ENOENT),
        }
    }

    fn readdir(&self, from: u64, emit: &mut dyn FnMut(&DirEntry<'_>) -> bool) -> Result<()> {
        let mut emit_named =
            |name: &[u8], kind, next| emit(&DirEntry { name, ino: child_ino(self.ino, name), kind, next });
        for (i, entry) in self.table().iter().enumerate().skip(usize::try_from(from).unwrap_or(usize::MAX)) {
            if !emit_named(entry.name.as_bytes(), entry_type(entry), i as u64 + 1) {
                return Ok(());
            }
        }
        if let Kind::Entry(Entry { node: Node::Disks(_) | Node::DiskNumbers(_), .. }) = self.kind {
            let skip = usize::try_from(from).unwrap_or(usize::MAX);
            for (i, device) in block::all().into_iter().enumerate().skip(skip) {
                let (name, kind) = self.name_of_disk(&device);
                if !emit_named(name.as_bytes(), kind, i as u64 + 1) {
                    break;
                }
            }
            return Ok(());
        }
        // Numbered entries: the cookie is the base plus the number plus one.
        let (base, kind) = match self.kind {
            Kind::Root => (PIDS, FileType::Directory),
            Kind::Entry(Entry { node: Node::Threads, .. }) => (0, FileType::Directory),
            Kind::Entry(Entry { node: Node::Descriptors, .. }) => (0, FileType::Symlink),
            Kind::Entry(Entry { node: Node::DescriptorInfos, .. }) => (0, FileType::Regular),
            _ => return Ok(()),
        };
        let mut at = from.saturating_sub(base).min(i32::MAX as u64) as i32;
        let files = match self.kind {
            Kind::Root => None,
            _ => self.who.target()?.task.and_then(|t| t.files().ok()),
        };
        let numbers: Vec<Pid> = match &self.kind {
            Kind::Root if self.fs.ns.is_initial() => {
                kernel().pids.visible_processes().iter().map(|p| p.pid).collect()
            }
            Kind::Root => {
                let all = self.fs.ns.all().into_iter();
                all.filter(|(_, g)| kernel().pids.process(*g).is_ok()).map(|(n, _)| n).collect()
            }
            Kind::Entry(Entry { node: Node::Threads, .. }) => self.threads()?,
            _ => core::iter::successors(files.as_ref().and_then(|f| f.next_open(at)), |fd| {
                files.as_ref()?.next_open(fd.checked_add(1)?)
            })
            .collect(),
        };
        let first = at;
        for n in numbers.into_iter().filter(|n| *n >= first) {
            at = n.saturating_add(1);
            if !emit_named(format!("{n}").as_bytes(), kind, base + at as u64) {
                return Ok(());
            }
        }
        Ok(())
    }

    fn readlink(&self, task: Option<&TaskRef>) -> Result<Vec<u8>> {
        let viewer = task.ok_or(Errno::ENOENT)?;
        self.check_private(viewer)?;
        let root = viewer.fs()?.root();
        if let Kind::Descriptor(fd) = self.kind {
            return Ok(self.descriptor(fd).map_err(|_| Errno::ENOENT)?.path().text(&root).marked());
        }
        if let Some(path) = self.disk_link() {
            return Ok(path);
        }
        Ok(match self.destination(task)? {
            Destination::Text(text) => text.0,
            Destination::Place(place) => place.text(&root).marked(),
        })
    }

    fn follow(&self, task: Option<&TaskRef>) -> Result<LinkTarget> {
        self.check_private(task.ok_or(Errno::ENOENT)?)?;
        if let Kind::Descriptor(fd) = self.kind {
            return Ok(LinkTarget::File(self.descriptor(fd).map_err(|_| Errno::ENOENT)?));
        }
        if let Some(path) = self.disk_link() {
            return Ok(LinkTarget::Path(path));
        }
        Ok(match self.destination(task)? {
            Destination::Text(text) => LinkTarget::Path(text.0),
            Destination::Place(place) => LinkTarget::Place(place),
        })
    }

    fn open(&self, _flags: OpenFlags, task: Option<&TaskRef>) -> Result<Option<Arc<dyn File>>> {
        if let Some(viewer) = task {
            self.check_private(viewer)?;
        }
        let content = match self.kind {
            Kind::Entry(Entry { node: Node::File(show, store), .. }) => Content::Entry(*show, *store),
            Kind::DescriptorInfo(fd) => Content::DescriptorInfo(fd),
            Kind::Entry(Entry { node: Node::Memory, .. }) => {
                return Ok(Some(Arc::new(MemFile::new(self.who)?)));
            }
            _ => return Ok(None),
        };
        Ok(Some(Arc::new(ProcFile::new(self.who, self.fs.ns.clone(), content))))
    }
}
