//! Walks a directory: metadata of everything, and a hash of it that is the key of a cached image.
//!
//! Directories are opened one below the other with `O_NOFOLLOW`, so a symbolic link is never followed, whoever
//! exchanges what meanwhile. The walk stays in the mount it starts in (told by the mount id): what is mounted
//! inside, such as /proc, becomes an empty directory or file.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{CString, OsStr};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RawDir, Statx, StatxFlags, lgetxattr, llistxattr, openat,
    readlinkat, statx,
};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use crate::options::{OnProgress, Phase};
use crate::tree::{Id, Inode, Kind, Meta, ROOT, Tree, xattr_fits};
use crate::{Error, Progress, Result};

/// Identity of a file on the host: device and inode number.
pub type Identity = ((u32, u32), u64);

/// How much to read of each file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// What the key needs: one call for each file.
    Key,
    /// All metadata.
    Full,
}

/// What to walk.
#[derive(Clone, Debug)]
pub struct Walk<'a> {
    /// The directory.
    pub root: &'a Path,
    /// How much to read.
    pub depth: Depth,
    /// Go into mounts.
    pub cross_mounts: bool,
    /// What to leave out: files vanish, directories are empty.
    pub exclude: &'a [Identity],
}

/// What was found.
#[derive(Debug)]
pub struct Scan {
    /// The tree; files have their size but no place yet.
    pub tree: Tree,
    /// Where each inode is on the host, by id.
    pub identities: Vec<Identity>,
    /// Hash over paths, types, modes, owners, sizes, times of modification and change, and inode numbers. The time of
    /// change stands for what else there is: targets of links, xattrs and data cannot change without it.
    pub key: [u8; 32],
    /// The latest time of change, nanoseconds since 1970.
    pub newest_change: i128,
    /// Number of files and so on.
    pub files: u64,
    /// Bytes of file data.
    pub bytes: u64,
    /// What was left out.
    pub warnings: Vec<String>,
}

/// A directory that is open, and those in it that are still to be entered.
struct Frame {
    fd: OwnedFd,
    path: PathBuf,
    todo: Vec<(CString, Id)>,
}

struct Walker<'a> {
    walk: Walk<'a>,
    scan: Scan,
    hash: Sha256,
    mount: Option<u64>,
    links: HashMap<Identity, Id>,
    skipped_xattrs: BTreeSet<Vec<u8>>,
    proc: bool,
}

/// Flags for opening a directory below another.
pub const OPEN_DIR: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens the root, which may be given through a symbolic link.
pub fn open_root(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty()).map_err(|e| match e {
        Errno::NOTDIR => Error::NotDirectory(path.into()),
        _ => Error::source("open", path, e),
    })
}

/// Identity of a file.
pub fn identity(stat: &Statx) -> Identity {
    ((stat.stx_dev_major, stat.stx_dev_minor), stat.stx_ino)
}

/// Status of a file in a directory, or of the directory itself for an empty name.
pub fn status(dir: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<Statx> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH | AtFlags::NO_AUTOMOUNT;
    statx(dir, name, flags, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID)
}

impl Scan {
    /// Walks a directory.
    pub fn run(walk: Walk<'_>, progress: OnProgress<'_>) -> Result<Self> {
        let root = open_root(walk.root)?;
        let path = walk.root.to_path_buf();
        let fd = std::os::fd::AsFd::as_fd(&root);
        let stat = status(fd, OsStr::new("")).map_err(|e| Error::source("read the status of", &path, e))?;
        let scan = Scan {
            tree: Tree::new(),
            identities: vec![identity(&stat)],
            key: [0; 32],
            newest_change: 0,
            files: 1,
            bytes: 0,
            warnings: Vec::new(),
        };
        let mut walker = Walker {
            mount: mount_of(&stat),
            scan,
            hash: Sha256::new_with_prefix(b"ringfence image 1"),
            links: HashMap::new(),
            skipped_xattrs: BTreeSet::new(),
            proc: std::fs::exists("/proc/self/fd").unwrap_or(false),
            walk,
        };
        walker.hash_entry(b"", &stat, false);
        walker.scan.tree.get_mut(ROOT).meta = walker.meta(fd, c".", &stat, false, &path)?;
        let mut stack = vec![walker.enter(root, path, ROOT, progress)?];
        while let Some(frame) = stack.last_mut() {
            let Some((name, id)) = frame.todo.pop() else {
                stack.pop();
                continue;
            };
            let path = frame.path.join(OsStr::from_bytes(name.as_bytes()));
            let fd = openat(&frame.fd, &name, OPEN_DIR, Mode::empty());
            let fd = fd.map_err(|e| gone_or("open", &path, e))?;
            stack.push(walker.enter(fd, path, id, progress)?);
        }
        walker.finish()
    }
}

impl Walker<'_> {
    /// Reads a directory: adds its entries, and returns what there is to enter.
    fn enter(&mut self, fd: OwnedFd, path: PathBuf, dir: Id, progress: OnProgress<'_>) -> Result<Frame> {
        let mut names = read_names(&fd).map_err(|e| Error::source("list", &path, e))?;
        names.sort_unstable();
        let mut todo = Vec::new();
        for name in names {
            let path = path.join(OsStr::from_bytes(name.as_bytes()));
            if let Some(id) = self.entry(std::os::fd::AsFd::as_fd(&fd), &name, dir, &path)? {
                todo.push((name, id));
            }
            if self.scan.files.is_multiple_of(256) {
                progress(Progress {
                    phase: Phase::Scan,
                    files: self.scan.files,
                    files_total: 0,
                    bytes: self.scan.bytes,
                    bytes_total: 0,
                });
            }
        }
        self.hash.update([0xff]);
        todo.reverse();
        Ok(Frame { fd, path, todo })
    }

    /// Adds one entry; returns its id if it is a directory to enter.
    fn entry(&mut self, dir_fd: BorrowedFd<'_>, name: &CString, dir: Id, path: &Path) -> Result<Option<Id>> {
        let stat = status(dir_fd, OsStr::from_bytes(name.as_bytes()));
        let stat = match stat {
            // Removed since the directory was listed: as if it had been before.
            Err(Errno::NOENT) => return Ok(None),
            stat => stat.map_err(|e| gone_or("read the status of", path, e))?,
        };
        let identity = identity(&stat);
        let file_type = FileType::from_raw_mode(stat.stx_mode.into());
        let excluded = self.walk.exclude.contains(&identity);
        if excluded && file_type != FileType::Directory {
            return Ok(None);
        }
        let covered = excluded || (!self.walk.cross_mounts && mount_of(&stat) != self.mount);
        self.hash_entry(name.as_bytes(), &stat, covered);
        self.scan.files += 1;
        if stat.stx_nlink > 1
            && file_type != FileType::Directory
            && let Some(&id) = self.links.get(&identity)
        {
            self.scan.tree.link(dir, name.as_bytes(), id, path)?;
            return Ok(None);
        }
        let kind = match file_type {
            FileType::Directory => Kind::Directory(BTreeMap::new()),
            FileType::RegularFile => {
                let size = if covered { 0 } else { stat.stx_size };
                self.scan.bytes += size;
                Kind::Regular { size, start: 0 }
            }
            FileType::Symlink if self.walk.depth == Depth::Key => Kind::Symlink([].into()),
            FileType::Symlink => {
                let target = readlinkat(dir_fd, name, Vec::new()).map_err(|e| gone_or("read", path, e))?;
                Kind::Symlink(target.into_bytes().into())
            }
            FileType::BlockDevice | FileType::CharacterDevice => Kind::Device {
                block: file_type == FileType::BlockDevice,
                major: stat.stx_rdev_major,
                minor: stat.stx_rdev_minor,
            },
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
            FileType::Unknown => return Err(Error::unfit(path, "its type is not known")),
        };
        let enter = !covered && file_type == FileType::Directory;
        let meta = self.meta(dir_fd, name, &stat, covered, path)?;
        let id = self.scan.tree.add(Inode { meta, kind })?;
        self.scan.identities.push(identity);
        if stat.stx_nlink > 1 {
            self.links.insert(identity, id);
        }
        self.scan.tree.link(dir, name.as_bytes(), id, path)?;
        Ok(enter.then_some(id))
    }

    /// What is mounted over a place has times of its own, which change with each boot: they are left out.
    fn meta(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &std::ffi::CStr,
        stat: &Statx,
        covered: bool,
        path: &Path,
    ) -> Result<Meta> {
        let mut meta =
            Meta { mode: stat.stx_mode & 0o7777, uid: stat.stx_uid, gid: stat.stx_gid, ..Meta::default() };
        if !covered {
            (meta.mtime, meta.mtime_nsec) = (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec);
            if self.walk.depth == Depth::Full {
                meta.xattrs = self.xattrs(dir, name, path)?;
            }
        }
        Ok(meta)
    }

    fn hash_entry(&mut self, name: &[u8], stat: &Statx, covered: bool) {
        let mut record = Vec::with_capacity(128 + name.len());
        record.extend((name.len() as u32).to_le_bytes());
        record.extend(name);
        record.push(covered.into());
        record.extend(stat.stx_mode.to_le_bytes());
        record.extend(stat.stx_uid.to_le_bytes());
        record.extend(stat.stx_gid.to_le_bytes());
        if !covered {
            record.extend(stat.stx_size.to_le_bytes());
            record.extend(stat.stx_ino.to_le_bytes());
            for time in [stat.stx_mtime, stat.stx_ctime] {
                record.extend(time.tv_sec.to_le_bytes());
                record.extend(time.tv_nsec.to_le_bytes());
            }
            let change =
                i128::from(stat.stx_ctime.tv_sec) * 1_000_000_000 + i128::from(stat.stx_ctime.tv_nsec);
            self.scan.newest_change = self.scan.newest_change.max(change);
        }
        self.hash.update(&record);
    }

    /// Attributes of a file, without following it if it is a link and without opening it.
    fn xattrs(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &std::ffi::CStr,
        path: &Path,
    ) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
        let mut found = BTreeMap::new();
        if !self.proc {
            return Ok(found);
        }
        let fd = dir.as_raw_fd().to_string();
        let place = [b"/proc/self/fd/", fd.as_bytes(), b"/", name.to_bytes()].concat();
        let list = match grow(|buf| llistxattr(&place[..], buf)) {
            Ok(list) => list,
            Err(Errno::NOTSUP) => return Ok(found),
            Err(e) => return Err(gone_or("list the attributes of", path, e)),
        };
        for key in list.split(|&byte| byte == 0).filter(|key| !key.is_empty()) {
            if !xattr_fits(key) {
                self.skipped_xattrs.insert(key.to_vec());
                continue;
            }
            match grow(|buf| lgetxattr(&place[..], key, buf)) {
                Ok(value) => drop(found.insert(key.to_vec(), value)),
                // Removed meanwhile.
                Err(Errno::NODATA) => {}
                Err(e) => return Err(gone_or("read an attribute of", path, e)),
            }
        }
        Ok(found)
    }

    fn finish(mut self) -> Result<Scan> {
        self.scan.key = self.hash.finalize().into();
        if !self.proc && self.walk.depth == Depth::Full {
            self.scan.warnings.push("extended attributes were left out, because /proc is not mounted".into());
        }
        for name in self.skipped_xattrs {
            let name = String::from_utf8_lossy(&name).into_owned();
            self.scan
                .warnings
                .push(format!("the extended attribute {name} was left out: EROFS cannot hold it"));
        }
        Ok(self.scan)
    }
}

/// The mount a file is in; the device where the kernel (before 5.8) does not tell.
fn mount_of(stat: &Statx) -> Option<u64> {
    if StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::MNT_ID) {
        return Some(stat.stx_mnt_id);
    }
    Some(u64::from(stat.stx_dev_major) << 32 | u64::from(stat.stx_dev_minor))
}

fn read_names(fd: &OwnedFd) -> rustix::io::Result<Vec<CString>> {
    let mut buf = Vec::with_capacity(64 << 10);
    let mut iter = RawDir::new(fd, buf.spare_capacity_mut());
    let mut names = Vec::new();
    while let Some(entry) = iter.next() {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Calls `f` with a buffer that is big enough: most values are small, 64 KiB is the limit of Linux.
fn grow(f: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    let mut small = [0; 256];
    match f(&mut small) {
        Ok(n) => Ok(small[..n].to_vec()),
        Err(Errno::RANGE) => {
            let mut big = vec![0; 64 << 10];
            let n = f(&mut big)?;
            big.truncate(n);
            Ok(big)
        }
        Err(e) => Err(e),
    }
}

/// A file that was listed but is not there, or not what it was.
pub fn gone_or(action: &'static str, path: &Path, error: Errno) -> Error {
    match error {
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP => Error::Changed(path.into()),
        _ => Error::source(action, path, error),
    }
}
