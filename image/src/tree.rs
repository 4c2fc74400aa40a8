//! The tree in memory: metadata only, file data is already in the image.
//!
//! Inodes are in one `Vec` and refer to each other by index, so that neither walking nor dropping a tree of any
//! depth recurses. Names in a directory are sorted as EROFS wants them: by bytes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ringfence_erofs::FileType;
use ringfence_erofs::format::{NAME_MAX, XATTR_PREFIXES};

use crate::{Error, Options, Result};

/// Index of an inode in [`Tree`].
pub type Id = usize;

/// The root directory.
pub const ROOT: Id = 0;

/// The longest target of a symbolic link (Linux `PATH_MAX` less the NUL), as the reader has it.
pub const SYMLINK_MAX: usize = ringfence_erofs::SYMLINK_MAX as usize;

/// Bytes of memory that metadata may take: a hostile archive of endless empty files ends here.
const BUDGET: usize = 2 << 30;

/// Memory counted for an inode and an entry, besides names and values.
const NODE_COST: usize = 256;

/// What all types have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// Permission bits with setuid, setgid and sticky: `0o7777`.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time, seconds since 1970.
    pub mtime: i64,
    /// Nanoseconds.
    pub mtime_nsec: u32,
    /// Extended attributes by full name.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// What a type has of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Names and their inodes.
    Directory(BTreeMap<Box<[u8]>, Id>),
    /// Bytes and the first block of them in the image.
    Regular {
        /// Length.
        size: u64,
        /// First block; of no meaning when empty.
        start: u32,
    },
    /// A target.
    Symlink(Box<[u8]>),
    /// A device, by (major, minor); `true` for a block device.
    Device {
        /// Block device, else character device.
        block: bool,
        /// Major number, below 2^12.
        major: u32,
        /// Minor number, below 2^20.
        minor: u32,
    },
    /// A fifo.
    Fifo,
    /// A socket.
    Socket,
}

/// An inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inode {
    /// What all types have.
    pub meta: Meta,
    /// What this type has.
    pub kind: Kind,
}

impl Inode {
    /// The type as EROFS knows it.
    pub fn file_type(&self) -> FileType {
        match self.kind {
            Kind::Directory(_) => FileType::Directory,
            Kind::Regular { .. } => FileType::Regular,
            Kind::Symlink(_) => FileType::Symlink,
            Kind::Device { block: true, .. } => FileType::BlockDevice,
            Kind::Device { block: false, .. } => FileType::CharDevice,
            Kind::Fifo => FileType::Fifo,
            Kind::Socket => FileType::Socket,
        }
    }
}

/// A tree of inodes.
#[derive(Debug)]
pub struct Tree {
    inodes: Vec<Inode>,
    cost: usize,
}

impl Tree {
    /// A tree with an empty root of mode 0755.
    pub fn new() -> Self {
        let root =
            Inode { meta: Meta { mode: 0o755, ..Meta::default() }, kind: Kind::Directory(BTreeMap::new()) };
        Self { inodes: vec![root], cost: 0 }
    }

    /// An inode by id.
    pub fn get(&self, id: Id) -> &Inode {
        &self.inodes[id]
    }

    /// An inode by id, to change it.
    pub fn get_mut(&mut self, id: Id) -> &mut Inode {
        &mut self.inodes[id]
    }

    /// How many inodes there are, also those that no name leads to any more.
    pub fn len(&self) -> usize {
        self.inodes.len()
    }

    /// Adds an inode that has no name yet.
    pub fn add(&mut self, inode: Inode) -> Result<Id> {
        let xattrs: usize = inode.meta.xattrs.iter().map(|(name, value)| name.len() + value.len() + 64).sum();
        let target = if let Kind::Symlink(target) = &inode.kind { target.len() } else { 0 };
        self.charge(NODE_COST + xattrs + target)?;
        self.inodes.push(inode);
        Ok(self.inodes.len() - 1)
    }

    /// What a directory has under a name.
    pub fn child(&self, dir: Id, name: &[u8]) -> Option<Id> {
        match &self.inodes[dir].kind {
            Kind::Directory(entries) => entries.get(name).copied(),
            _ => None,
        }
    }

    /// Gives an inode a name in a directory, in place of what had it. `path` is for messages.
    pub fn link(&mut self, dir: Id, name: &[u8], id: Id, path: &Path) -> Result<()> {
        if name.len() > NAME_MAX {
            return Err(Error::unfit(path, "its name is longer than 255 bytes"));
        }
        self.charge(NODE_COST + name.len())?;
        match &mut self.inodes[dir].kind {
            Kind::Directory(entries) => {
                entries.insert(name.into(), id);
                Ok(())
            }
            _ => Err(Error::unfit(path, "what holds it is not a directory")),
        }
    }

    fn charge(&mut self, bytes: usize) -> Result<()> {
        self.cost = self.cost.saturating_add(bytes);
        if self.cost > BUDGET {
            Err(Error::TooBig("more files than 2 GiB of memory can list"))
        } else {
            Ok(())
        }
    }

    /// Applies what the caller chose to all inodes.
    pub fn apply(&mut self, options: &Options) {
        for inode in &mut self.inodes {
            if let Some((uid, gid)) = options.owner {
                (inode.meta.uid, inode.meta.gid) = (uid, gid);
            }
            if let Some(latest) = options.clamp_mtime
                && inode.meta.mtime >= latest
            {
                (inode.meta.mtime, inode.meta.mtime_nsec) = (latest, 0);
            }
        }
    }
}

/// Whether EROFS has a number for the prefix of this attribute.
pub fn xattr_fits(name: &[u8]) -> bool {
    split_xattr(name).is_some()
}

/// The index of the prefix and the rest of an attribute's name.
pub fn split_xattr(name: &[u8]) -> Option<(u8, &[u8])> {
    XATTR_PREFIXES.iter().find_map(|&(index, prefix)| {
        let rest = name.strip_prefix(prefix)?;
        let whole = !prefix.ends_with(b".");
        (rest.is_empty() == whole && rest.len() <= NAME_MAX).then_some((index, rest))
    })
}

/// Bytes of a path as a path.
pub fn to_path(bytes: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::OsStr::from_bytes(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_of_attributes() {
        assert_eq!(split_xattr(b"user.a"), Some((1, &b"a"[..])));
        assert_eq!(split_xattr(b"security.capability"), Some((6, &b"capability"[..])));
        assert_eq!(split_xattr(b"system.posix_acl_access"), Some((2, &b""[..])));
        assert_eq!(split_xattr(b"system.posix_acl_accessx"), None);
        assert_eq!(split_xattr(b"user."), None);
        assert_eq!(split_xattr(b"system.nfs4_acl"), None);
    }

    #[test]
    fn times_are_clamped_and_owners_set() {
        let mut tree = Tree::new();
        tree.get_mut(ROOT).meta.mtime = 100;
        tree.get_mut(ROOT).meta.mtime_nsec = 5;
        tree.apply(&Options { clamp_mtime: Some(50), owner: Some((1, 2)), ..Options::default() });
        let meta = &tree.get(ROOT).meta;
        assert_eq!((meta.mtime, meta.mtime_nsec, meta.uid, meta.gid), (50, 0, 1, 2));
    }
}
