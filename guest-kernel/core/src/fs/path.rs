//! A place in the file tree: a dentry as seen through a mount.

use alloc::{sync::Arc, vec::Vec};

use super::{Dentry, inode::InodeRef, mount::Mount};
use crate::errno::{Errno, Result};

/// Mount and dentry.
#[derive(Clone)]
pub struct Path {
    mount: Arc<Mount>,
    dentry: Arc<Dentry>,
}

impl Path {
    /// Joins a mount and a dentry of its file system.
    pub fn new(mount: Arc<Mount>, dentry: Arc<Dentry>) -> Path {
        Path { mount, dentry }
    }

    /// The mount.
    pub fn mount(&self) -> &Arc<Mount> {
        &self.mount
    }

    /// The dentry.
    pub fn dentry(&self) -> &Arc<Dentry> {
        &self.dentry
    }

    /// The inode; `ENOENT` for a negative dentry.
    pub fn inode(&self) -> Result<&InodeRef> {
        self.dentry.positive()
    }

    /// The same mount, another dentry.
    pub fn with(&self, dentry: Arc<Dentry>) -> Path {
        Path { mount: self.mount.clone(), dentry }
    }

    /// Whether both are the same place.
    pub fn same(&self, other: &Path) -> bool {
        Arc::ptr_eq(&self.mount, &other.mount) && Arc::ptr_eq(&self.dentry, &other.dentry)
    }

    /// Whether this is the root of its mount.
    pub fn is_mount_root(&self) -> bool {
        Arc::ptr_eq(&self.dentry, self.mount.root())
    }

    /// If this is the root of a mount: the place it is mounted on, and so on up, until that is not a root.
    pub fn above_mounts(self) -> Path {
        let mut at = self;
        while at.is_mount_root() {
            let Some(on) = at.mount.mounted_on() else { break };
            at = on;
        }
        at
    }

    /// If something is mounted here: its root, and so on, until nothing is.
    pub fn below_mounts(self) -> Path {
        let mut at = self;
        while at.dentry.is_mountpoint() {
            let Some(mount) = Mount::find(&at) else { break };
            let dentry = mount.root().clone();
            at = Path { mount, dentry };
        }
        at
    }

    /// Whether a walk from `top` downwards can get here.
    pub fn is_reached_from(&self, top: &Path) -> bool {
        let mut at = self.clone();
        loop {
            if Arc::ptr_eq(&at.mount, &top.mount) {
                return at.dentry.is_below(&top.dentry);
            }
            let Some(on) = at.mount.mounted_on() else { return false };
            at = on;
        }
    }

    /// What `..` means here, for somebody whose root is `root`; `None` at that root, and where nothing is above. `ENOENT`
    /// if this was moved out of the directory that a bind mount shows: the mount does not show more for that.
    pub fn parent(&self, root: &Path) -> Result<Option<Path>> {
        let mut at = self.clone();
        loop {
            if at.same(root) {
                return Ok(None);
            }
            if !at.is_mount_root() {
                break;
            }
            let Some(on) = at.mount.mounted_on() else { return Ok(None) };
            at = on;
        }
        let Some(parent) = at.dentry.parent() else { return Ok(None) };
        let top = at.mount.root();
        if !Arc::ptr_eq(top, at.mount.superblock().root()) && !parent.is_below(top) {
            return Err(Errno::ENOENT);
        }
        Ok(Some(Path { mount: at.mount, dentry: parent }.below_mounts()))
    }

    /// Inode number of the parent directory, for `..` in `readdir`.
    pub fn parent_ino(&self) -> u64 {
        let here = self.clone().above_mounts();
        let parent = here.dentry.parent().unwrap_or_else(|| here.dentry.clone());
        parent.inode().map_or(0, |i| i.ino())
    }

    /// The path as text for somebody whose root is `root`, and whether it is still there: `getcwd`,
    /// `/proc/PID/exe`, `/proc/mounts`. Files without a name give their label.
    pub fn text(&self, root: &Path) -> PathText {
        let mut parts: Vec<Arc<[u8]>> = Vec::new();
        let mut at = self.clone();
        let reachable = loop {
            if at.same(root) {
                break true;
            }
            if at.is_mount_root() {
                match at.mount.mounted_on() {
                    Some(on) => {
                        at = on;
                        continue;
                    }
                    None => break false,
                }
            }
            match at.dentry.parent_and_name() {
                (Some(parent), name) => {
                    parts.push(name);
                    at.dentry = parent;
                }
                (None, label) => {
                    return PathText { bytes: label.to_vec(), reachable: false, deleted: false };
                }
            }
        };
        let mut bytes = Vec::with_capacity(parts.iter().map(|p| p.len() + 1).sum::<usize>().max(1));
        for part in parts.iter().rev() {
            bytes.push(b'/');
            bytes.extend_from_slice(part);
        }
        if bytes.is_empty() {
            bytes.push(b'/');
        }
        PathText { bytes, reachable, deleted: self.dentry.is_deleted() }
    }
}

/// A path as text.
pub struct PathText {
    /// The text, without any mark.
    pub bytes: Vec<u8>,
    /// Whether the walk up met the root asked about.
    pub reachable: bool,
    /// Whether the name was removed.
    pub deleted: bool,
}

impl PathText {
    /// The text as `/proc` shows it: ` (deleted)` after what was removed.
    pub fn marked(self) -> Vec<u8> {
        let mut bytes = self.bytes;
        if self.deleted {
            bytes.extend_from_slice(b" (deleted)");
        }
        bytes
    }
}
