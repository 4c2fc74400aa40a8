//! A small file tree for tests, driven by paths as a program would.

use alloc::{sync::Arc, vec, vec::Vec};

use super::{
    FileRef, FileSystem, Mount, MountFlags, MountNamespace, NewKind, OpenFlags, Path, RenameFlags,
    SetAttributes, Subject, Superblock, Walk, WalkFlags, open, ops,
    tmpfs::{Tmpfs, TmpfsOptions},
};
use crate::{
    errno::Result,
    io::{Sink, Source},
};

/// A namespace with one mount, and who acts on it.
pub struct World {
    pub namespace: Arc<MountNamespace>,
    pub root: Path,
    pub subject: Subject<'static>,
}

pub fn options() -> TmpfsOptions {
    TmpfsOptions { size: 16 << 20, inodes: 100_000, mode: 0o755, uid: 0, gid: 0 }
}

impl World {
    pub fn new(fs: Arc<dyn FileSystem>) -> World {
        let superblock = Superblock::new(fs);
        let dentry = superblock.root().clone();
        let namespace = MountNamespace::new(
            Mount::new(superblock, dentry, MountFlags::empty(), b"test"),
            crate::ns::UserNamespace::initial(),
        );
        World { root: namespace.root().unwrap(), namespace, subject: Subject::ROOT }
    }

    pub fn tmpfs() -> World {
        World::new(Tmpfs::new(&options()).unwrap())
    }

    pub fn walk(&self) -> Walk<'static> {
        Walk { subject: self.subject, root: self.root.clone(), task: None }
    }

    pub fn resolve(&self, path: &str) -> Result<Path> {
        self.walk().resolve(&self.root, path.as_bytes(), WalkFlags::FOLLOW)
    }

    pub fn resolve_link(&self, path: &str) -> Result<Path> {
        self.walk().resolve(&self.root, path.as_bytes(), WalkFlags::empty())
    }

    pub fn open(&self, path: &str, flags: OpenFlags) -> Result<FileRef> {
        open::open(&self.walk(), &self.root, path.as_bytes(), flags, 0o644, WalkFlags::empty())
    }

    fn make(&self, path: &str, kind: NewKind<'_>, mode: u32) -> Result<Path> {
        let parent = self.walk().parent(&self.root, path.as_bytes())?;
        let directory = matches!(kind, NewKind::Directory);
        ops::create(&self.subject, &parent.dir, ops::new_name(&parent, directory)?, kind, mode)
    }

    pub fn mkdir(&self, path: &str) -> Result<Path> {
        self.make(path, NewKind::Directory, 0o755)
    }

    pub fn symlink(&self, target: &str, path: &str) -> Result<Path> {
        self.make(path, NewKind::Symlink(target.as_bytes()), 0o777)
    }

    pub fn link(&self, old: &str, new: &str) -> Result<()> {
        let target = self.resolve_link(old)?;
        ops::link(&self.subject, &target, &self.walk().parent(&self.root, new.as_bytes())?)
    }

    pub fn unlink(&self, path: &str) -> Result<()> {
        ops::unlink(&self.subject, &self.walk().parent(&self.root, path.as_bytes())?)
    }

    pub fn rmdir(&self, path: &str) -> Result<()> {
        ops::rmdir(&self.subject, &self.walk().parent(&self.root, path.as_bytes())?)
    }

    pub fn rename(&self, old: &str, new: &str, flags: RenameFlags) -> Result<()> {
        let (walk, root) = (self.walk(), &self.root);
        let (from, to) = (walk.parent(root, old.as_bytes())?, walk.parent(root, new.as_bytes())?);
        ops::rename(&self.subject, &from, &to, flags)
    }

    /// Makes or overwrites a file.
    pub fn write(&self, path: &str, at: u64, bytes: &[u8]) -> Result {
        let file = self.open(path, OpenFlags::CREAT | OpenFlags::RDWR)?;
        file.inode().write_at(at, &mut Source::kernel(bytes))
    }

    pub fn truncate(&self, path: &str, size: u64) -> Result<()> {
        let file = self.open(path, OpenFlags::RDWR)?;
        file.inode().set_attributes(&SetAttributes { size: Some(size), ..SetAttributes::default() })
    }

    pub fn read(&self, path: &str) -> Result<Vec<u8>> {
        read_all(&self.open(path, OpenFlags::empty())?)
    }

    /// Names in a directory, in the order they are listed, `.` and `..` left out.
    pub fn list(&self, path: &str) -> Result<Vec<Vec<u8>>> {
        let dir = self.open(path, OpenFlags::DIRECTORY)?;
        let mut names = Vec::new();
        dir.readdir(&mut |entry| {
            names.push(entry.name.to_vec());
            true
        })?;
        names.drain(..2);
        Ok(names)
    }
}

pub fn read_all(file: &FileRef) -> Result<Vec<u8>> {
    let mut bytes = vec![0; file.inode().size() as usize];
    let n = file.inode().read_at(0, &mut Sink::kernel(&mut bytes))?;
    bytes.truncate(n);
    Ok(bytes)
}
