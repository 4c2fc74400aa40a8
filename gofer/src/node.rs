//! The inodes the guest knows.
//!
//! Each is an `O_PATH` descriptor under a number that is never used twice. A number lives until the guest has forgotten it
//! as often as it was told it. As long as it lives its host inode exists, so the host cannot give the inode's number to
//! another file: device and inode number identify it.
//!
//! What is read or written is opened again through its own descriptor and kept in [`Opened`], a short list of those used last.

use std::collections::HashMap;
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, Statx, StatxFlags};
use rustix::io::Errno;

/// The node that stands for the list of volumes.
pub const ROOT: u64 = 1;
/// Longest name.
const NAME_MAX: usize = 255;
/// Most descriptors kept open for content.
const MAX_OPENED: usize = 128;
/// Most inodes the guest may know at a time, whatever the limit of descriptors is.
pub const MAX_NODES: usize = 1 << 20;
/// Descriptors that are no inodes the guest knows: content, the socket, eventfds, guest memory, and what a request needs meanwhile.
const OTHERS: usize = MAX_OPENED + 64;

/// Where a component may lead: to an entry of that very directory on that very mount.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_XDEV);

/// An inode.
#[derive(Debug)]
pub struct Node {
    /// Its number.
    pub id: u64,
    /// It, opened with `O_PATH`.
    pub fd: OwnedFd,
    /// Number of the volume it is in.
    pub volume: usize,
    /// `S_IFMT` of it.
    pub kind: u32,
}

impl Node {
    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.kind == libc::S_IFDIR
    }

    /// Its name in the gofer's own `/proc/self/fd`, which is the working directory.
    pub fn name(&self) -> String {
        self.fd.as_raw_fd().to_string()
    }

    /// Its attributes now.
    pub fn attributes(&self) -> io::Result<Statx> {
        attributes(self.fd.as_fd())
    }
}

fn attributes(fd: BorrowedFd<'_>) -> io::Result<Statx> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
    Ok(rustix::fs::statx(fd, c"", flags, StatxFlags::BASIC_STATS)?)
}

/// A name the guest may use: one component that leads nowhere else.
pub fn component(name: &CStr) -> io::Result<&CStr> {
    let bytes = name.to_bytes();
    if bytes.len() > NAME_MAX {
        return Err(Errno::NAMETOOLONG.into());
    }
    if matches!(bytes, b"" | b"." | b"..") || bytes.contains(&b'/') {
        return Err(Errno::INVAL.into());
    }
    Ok(name)
}

/// Opens the entry `name` of `directory` and nothing that it leads to. `flags` are added to `O_NOFOLLOW|O_CLOEXEC`.
pub fn open_beneath(
    directory: BorrowedFd<'_>,
    name: &CStr,
    flags: OFlags,
    mode: Mode,
) -> io::Result<OwnedFd> {
    let name = component(name)?;
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    loop {
        match rustix::fs::openat2(directory, name, flags, mode, BENEATH) {
            // The kernel saw a rename meanwhile and could not be sure (openat2(2)).
            Err(Errno::AGAIN | Errno::INTR) => {}
            opened => return Ok(opened?),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    volume: usize,
    device: (u32, u32),
    inode: u64,
}

impl Key {
    fn of(volume: usize, stat: &Statx) -> Self {
        Self { volume, device: (stat.stx_dev_major, stat.stx_dev_minor), inode: stat.stx_ino }
    }
}

#[derive(Debug)]
struct Entry {
    node: Arc<Node>,
    key: Key,
    /// How often the guest was told of it; a volume's root is never forgotten.
    told: u64,
}

/// All of them.
#[derive(Debug)]
pub struct Nodes {
    by_id: HashMap<u64, Entry>,
    by_key: HashMap<Key, u64>,
    last: u64,
    most: usize,
}

impl Nodes {
    /// None, and as many as `descriptors` are enough for.
    pub fn new(descriptors: usize) -> Self {
        let most = descriptors.saturating_sub(OTHERS).min(MAX_NODES);
        Self { by_id: HashMap::new(), by_key: HashMap::new(), last: ROOT, most }
    }

    /// Whether the guest may be told of another inode, which is asked before anything is done for that. `ENFILE`: our guest kernel
    /// forgets what it does not need, and asks again.
    pub fn room(&self) -> io::Result<()> {
        if self.by_id.len() < self.most { Ok(()) } else { Err(Errno::NFILE.into()) }
    }

    /// The inode with this number. `ESTALE` if there is none (any more).
    pub fn get(&self, id: u64) -> io::Result<Arc<Node>> {
        Ok(self.by_id.get(&id).ok_or(Errno::STALE)?.node.clone())
    }

    /// Notes that the guest is told of the inode behind `fd`, perhaps not for the first time.
    pub fn tell(&mut self, volume: usize, fd: OwnedFd) -> io::Result<(Arc<Node>, Statx)> {
        let stat = attributes(fd.as_fd())?;
        let key = Key::of(volume, &stat);
        if let Some(entry) = self.by_key.get(&key).and_then(|id| self.by_id.get_mut(id)) {
            entry.told = entry.told.saturating_add(1);
            return Ok((entry.node.clone(), stat));
        }
        self.room()?;
        self.last += 1;
        let kind = u32::from(stat.stx_mode) & libc::S_IFMT;
        let node = Arc::new(Node { id: self.last, fd, volume, kind });
        self.by_key.insert(key, node.id);
        self.by_id.insert(node.id, Entry { node: node.clone(), key, told: 1 });
        Ok((node, stat))
    }

    /// The guest forgets a node `count` times over; whether it is gone.
    pub fn forget(&mut self, id: u64, count: u64) -> bool {
        let Some(entry) = self.by_id.get_mut(&id) else { return false };
        entry.told = entry.told.saturating_sub(count);
        if entry.told > 0 {
            return false;
        }
        if let Some(entry) = self.by_id.remove(&id) {
            self.by_key.remove(&entry.key);
        }
        true
    }
}

/// The descriptors for content that were used last.
#[derive(Debug, Default)]
pub struct Opened {
    /// Node, whether it can be written, when it was used.
    list: Vec<(u64, bool, u64, Arc<File>)>,
    clock: u64,
}

impl Opened {
    /// A descriptor of `node`, which must be a regular file or a directory. `proc` is the gofer's own `/proc/self/fd`. Reading a
    /// `read_only` volume leaves the times of access as they are, if the file is one's own or one may act as its owner.
    pub fn get(
        &mut self,
        node: &Node,
        write: bool,
        read_only: bool,
        proc: BorrowedFd<'_>,
    ) -> io::Result<Arc<File>> {
        self.clock += 1;
        let fits = |at: &&mut (u64, bool, u64, Arc<File>)| at.0 == node.id && (at.1 || !write);
        if let Some((_, _, used, file)) = self.list.iter_mut().find(fits) {
            *used = self.clock;
            return Ok(file.clone());
        }
        let flags = match (node.kind, write) {
            (libc::S_IFREG, true) => OFlags::RDWR,
            (libc::S_IFREG, false) => OFlags::RDONLY,
            (libc::S_IFDIR, false) => OFlags::RDONLY | OFlags::DIRECTORY,
            (libc::S_IFDIR, true) => return Err(Errno::ISDIR.into()),
            (libc::S_IFLNK, _) => return Err(Errno::LOOP.into()),
            _ => return Err(Errno::INVAL.into()),
        };
        let open = |flags| {
            let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
            rustix::fs::openat(proc, node.name(), flags, Mode::empty())
        };
        let quietly = if read_only { OFlags::NOATIME } else { OFlags::empty() };
        let opened = match open(flags | quietly) {
            Err(Errno::PERM) if read_only => open(flags)?,
            // Without privilege: a file that may be written but not read.
            Err(Errno::ACCESS) if write => open(OFlags::WRONLY)?,
            opened => opened?,
        };
        let file = Arc::new(File::from(opened));
        if self.list.len() >= MAX_OPENED
            && let Some(oldest) = (0..self.list.len()).min_by_key(|&at| self.list.get(at).map(|l| l.2))
        {
            self.list.swap_remove(oldest);
        }
        self.list.push((node.id, write, self.clock, file.clone()));
        Ok(file)
    }

    /// Closes what is open of a node.
    pub fn close(&mut self, id: u64) {
        self.list.retain(|at| at.0 != id);
    }
}
