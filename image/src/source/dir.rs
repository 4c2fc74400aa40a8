//! Packs a directory: [`Scan`] it, then walk the tree again and copy the files.
//!
//! The tree may be in use. A file that was exchanged between the two walks is an error. A file that grows or
//! shrinks is packed with the size it has when it is opened: what it grows by later is left out, what it loses
//! meanwhile reads as zeroes, and the summary has a warning. Holes of sparse files become zeroes.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, major, minor, openat};

use super::scan::{Depth, Identity, OPEN_DIR, Scan, Walk, gone_or, identity, open_root, status};
use crate::options::OnProgress;
use crate::tree::{Id, Kind, ROOT, to_path};
use crate::writer::{Fault, Writer};
use crate::{Error, Options, Result, Summary};

/// Packs the directory `dir` into an image at `out`, which is replaced if it exists.
///
/// If `out` is inside of `dir`, it is left out.
pub fn build_from_dir(
    dir: &Path,
    out: &Path,
    options: &Options,
    progress: OnProgress<'_>,
) -> Result<Summary> {
    let exclude: Vec<Identity> = fs::metadata(out).iter().map(identity_of).collect();
    let scan = scan_dir(dir, Depth::Full, options, &exclude, progress)?;
    pack(dir, scan, out, options, progress)
}

/// Identity of a file the standard library has found.
pub(crate) fn identity_of(metadata: &fs::Metadata) -> Identity {
    ((major(metadata.dev()), minor(metadata.dev())), metadata.ino())
}

/// First walk: metadata.
pub(crate) fn scan_dir(
    dir: &Path,
    depth: Depth,
    options: &Options,
    exclude: &[Identity],
    progress: OnProgress<'_>,
) -> Result<Scan> {
    Scan::run(Walk { root: dir, depth, cross_mounts: options.cross_mounts, exclude }, progress)
}

/// Second walk: data.
pub(crate) fn pack(
    dir: &Path,
    scan: Scan,
    out: &Path,
    options: &Options,
    progress: OnProgress<'_>,
) -> Result<Summary> {
    let writer = Writer::new(out, progress, (scan.files, scan.bytes))?;
    let done = vec![false; scan.tree.len()];
    let mut packer = Packer { scan, writer, done };
    packer.run(dir)?;
    let Packer { mut scan, writer, .. } = packer;
    writer.finish(&mut scan.tree, options, scan.warnings)
}

struct Packer<'a> {
    scan: Scan,
    writer: Writer<'a>,
    /// Which inodes have their data in the image.
    done: Vec<bool>,
}

struct Frame {
    fd: OwnedFd,
    path: PathBuf,
    todo: Vec<(Box<[u8]>, Id)>,
}

impl Packer<'_> {
    fn run(&mut self, root: &Path) -> Result<()> {
        let mut stack = vec![self.enter(open_root(root)?, root.into(), ROOT)?];
        while let Some(frame) = stack.last_mut() {
            let Some((name, id)) = frame.todo.pop() else {
                stack.pop();
                continue;
            };
            let path = frame.path.join(to_path(&name));
            match self.scan.tree.get(id).kind {
                // Empty ones need not be opened: many are mount points, or not ours to read.
                Kind::Directory(ref entries) if !entries.is_empty() => {
                    let fd = openat(&frame.fd, OsStr::from_bytes(&name), OPEN_DIR, Mode::empty());
                    let fd = fd.map_err(|e| gone_or("open", &path, e))?;
                    stack.push(self.enter(fd, path, id)?);
                }
                Kind::Regular { size, .. } if size > 0 && !self.done[id] => {
                    self.done[id] = true;
                    self.file(&frame.fd, &name, id, &path)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn enter(&self, fd: OwnedFd, path: PathBuf, id: Id) -> Result<Frame> {
        self.check(&fd, id, FileType::Directory, &path)?;
        let todo = match &self.scan.tree.get(id).kind {
            Kind::Directory(entries) => entries.iter().rev().map(|(name, &id)| (name.clone(), id)).collect(),
            _ => Vec::new(),
        };
        Ok(Frame { fd, path, todo })
    }

    /// Checks that what was opened is what the first walk saw; returns its size.
    fn check(&self, fd: &OwnedFd, id: Id, file_type: FileType, path: &Path) -> Result<u64> {
        let stat = status(fd.as_fd(), OsStr::new("")).map_err(|e| gone_or("read the status of", path, e))?;
        let same = identity(&stat) == self.scan.identities[id]
            && FileType::from_raw_mode(stat.stx_mode.into()) == file_type;
        if same { Ok(stat.stx_size) } else { Err(Error::Changed(path.into())) }
    }

    fn file(&mut self, dir: &OwnedFd, name: &[u8], id: Id, path: &Path) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let fd = openat(dir, OsStr::from_bytes(name), flags, Mode::empty());
        let fd = fd.map_err(|e| gone_or("read", path, e))?;
        let size = self.check(&fd, id, FileType::RegularFile, path)?;
        let start = self.writer.start_file()?;
        let copied = self.writer.copy(&File::from(fd), size).map_err(|fault| match fault {
            Fault::Source(e) => Error::source("read", path, e),
            Fault::Output(e) => e,
        })?;
        if copied < size {
            self.writer.zeroes(size - copied)?;
            let path = path.display();
            self.scan.warnings.push(format!("{path} became shorter while it was packed: its end is zeroes"));
        }
        self.scan.tree.get_mut(id).kind = Kind::Regular { size, start };
        Ok(())
    }
}
