//! virtio-fs: volumes, that is directories of the host, as file systems.
//!
//! What Linux does: its FUSE client sends a message for each operation on a name or an inode to a server, believes what it was
//! told for as long as the server says, and caches content in the page cache. Over virtio the server is outside the machine.
//!
//! What we do: the same protocol, with the one server that is outside our machine, the *gofer*. It is asked about numbers, each an inode
//! that it has told us of and keeps until we forget it, and about single names: paths, symbolic links, permissions and mounts are
//! the VFS's. Nothing is "opened" there: reading and writing name the inode.
//!
//! **What is believed** is said by the mount ([`Cache`]; a table is in `gofer/README.md`):
//! * names: the dentry cache keeps them for as long as [`Inode::name_validity`](super::Inode::name_validity) of the directory says, then
//!   asks again, and keeps the dentry if the answer is the same inode;
//! * attributes: [`attributes::Attributes`] with a time until which they hold;
//! * content: pages in a [`PageTree`](crate::mm::PageTree), dropped when attributes that come show another size or time than those of
//!   our own doing.
//!
//! **Writing.** `write` goes through to the host before it returns and changes what is cached on the way. Pages that a shared mapping
//! may have written to are *dirty*: a list holds them until they are sent, by `msync`, `fsync`, a `read` that goes to the host, and a task
//! that looks every second while there are any. What is sent is first unmapped where it is mapped shared, so that the
//! next write faults and makes the page dirty again; none is lost in between, because a fault holds the address space's lock.
//!
//! Locks (`flock`, records), leases and inotify are the VFS's and end at the machine's edge.
//!
//! | file | idea |
//! |---|---|
//! | `wire` | the messages |
//! | `connection` | asking, and reading the answer with distrust |
//! | `inode` | [`FuseInode`]: the VFS's trait |
//! | `attributes` | what an inode was last known to be |
//! | `data` | its content |
//! | `flusher` | sending what mappings have written |
//!
//! Lock order: a directory's lock of its dentry → an inode's write mutex → (requests; an `Mm`'s layout) → spin locks (attributes,
//! pages, dirty pages, the table of inodes), none of which is held while another is taken or anything is asked.

mod attributes;
mod connection;
mod data;
mod flusher;
mod inode;
#[cfg(test)]
mod tests;
mod wire;

use alloc::{
    format,
    string::String,
    sync::{Arc, Weak},
    vec::Vec,
};
use core::sync::atomic::{AtomicU64, Ordering};

use hashbrown::HashMap;
use ringfence_protocol::Cache;

use self::{
    connection::{Connection, Question},
    wire::{EntryOut, StatfsOut, op},
};
use super::{
    inode::{FileSystem, InodeRef, alloc_anonymous_dev},
    types::StatFs,
};
use crate::{
    drivers,
    errno::{Errno, Result},
    sync::{Once, SpinLock},
};

pub use connection::Channel;
pub use flusher::flush_all;
pub use inode::FuseInode;

/// How long `cache=auto` believes what it was told, in nanoseconds.
const HOLD_NS: u64 = 1_000_000_000;
/// Inodes to forget that may be remembered until there is room to say so: twice what the dentry cache holds, for one that is not
/// told stays open on the host.
const MAX_FORGOTTEN: usize = 1 << 17;
/// `FUSE_SUPER_MAGIC`.
const MAGIC: u64 = 0x6573_5546;

static CONNECTION: Once<Arc<Connection>> = Once::new();

/// Notes the machine's device.
pub fn set_device(device: Arc<drivers::fs::Fs>) -> Result<()> {
    let connection = Connection::open(device)?;
    CONNECTION.call_once(|| connection);
    Ok(())
}

/// What all inodes of one volume share.
struct Shared {
    connection: Arc<Connection>,
    cache: Cache,
    dev: u64,
    /// Counts what we change, as each inode does: an entry that was asked for before tells of before.
    changes: AtomicU64,
    /// Counts renames.
    renames: AtomicU64,
    /// By number.
    known: SpinLock<HashMap<u64, Weak<FuseInode>>>,
    /// Numbers and counts that could not be forgotten yet.
    forgotten: SpinLock<Vec<(u64, u64)>>,
}

impl Shared {
    /// How long attributes and names hold.
    fn hold(&self) -> u64 {
        match self.cache {
            Cache::None => 0,
            Cache::Auto => HOLD_NS,
            Cache::Always => u64::MAX,
        }
    }

    /// Whether content is kept for `read`.
    fn keeps_content(&self) -> bool {
        self.cache != Cache::None
    }

    /// The one object for an inode the other side has told of, asked at [`Shared::changes`] `asked`. EIO for what makes no sense.
    fn known(self: &Arc<Self>, entry: &EntryOut, asked: u64) -> Result<Arc<FuseInode>> {
        self.forget_more();
        let kind = entry.attr.kind().filter(|_| entry.node > wire::ROOT);
        let Some(kind) = kind else {
            self.forget(entry.node, 1);
            return Err(Errno::EIO);
        };
        let new = FuseInode::make(self, entry.node, kind, &entry.attr);
        // Whatever is found is dropped after the lock, which its drop takes.
        let found = {
            let mut known = self.known.lock();
            let found = known.get(&entry.node).and_then(Weak::upgrade);
            if !found.as_ref().is_some_and(|found| found.is(kind)) {
                known.insert(entry.node, Arc::downgrade(&new));
            }
            found
        };
        let Some(found) = found.filter(|found| found.is(kind)) else { return Ok(new) };
        // The count that came with the entry goes from the object that nobody needs to the one that is known.
        new.hand_count_to(&found);
        if self.changes.load(Ordering::Acquire) == asked {
            found.learn(&entry.attr, found.version());
        }
        Ok(found)
    }

    /// Says that we no longer know a number, now or later. Does not sleep.
    fn forget(&self, node: u64, count: u64) {
        if count == 0 || self.connection.forget(node, count) || self.connection.is_gone() {
            return;
        }
        let mut forgotten = self.forgotten.lock();
        if forgotten.len() < MAX_FORGOTTEN {
            forgotten.push((node, count));
        }
    }

    /// Says what could not be said before.
    fn forget_more(&self) {
        for _ in 0..8 {
            let Some((node, count)) = self.forgotten.lock().pop() else { return };
            if !self.connection.forget(node, count) {
                self.forgotten.lock().push((node, count));
                return;
            }
        }
    }
}

/// A volume.
pub struct Fuse {
    shared: Arc<Shared>,
    root: Arc<FuseInode>,
}

impl Fuse {
    /// Volume number `volume` of the machine. `ENODEV` if there is none.
    pub fn volume(volume: u32, cache: Cache) -> Result<Arc<Fuse>> {
        Self::over(CONNECTION.get().ok_or(Errno::ENODEV)?.clone(), volume, cache)
    }

    fn over(connection: Arc<Connection>, volume: u32, cache: Cache) -> Result<Arc<Fuse>> {
        let name = format!("{volume}\0");
        let question = Question {
            opcode: op::LOOKUP,
            node: wire::ROOT,
            body: &[name.as_bytes()],
            ..Question::default()
        };
        let entry: EntryOut = connection.ask(&question)?;
        let shared = Arc::new(Shared {
            connection,
            cache,
            dev: alloc_anonymous_dev(),
            changes: AtomicU64::new(0),
            renames: AtomicU64::new(0),
            known: SpinLock::new(HashMap::new()),
            forgotten: SpinLock::new(Vec::new()),
        });
        let root = shared.known(&entry, 0)?;
        Ok(Arc::new(Fuse { shared, root }))
    }
}

impl FileSystem for Fuse {
    fn name(&self) -> &'static str {
        "virtiofs"
    }

    fn dev(&self) -> u64 {
        self.shared.dev
    }

    fn root(&self) -> InodeRef {
        self.root.clone()
    }

    fn statfs(&self) -> StatFs {
        let question = Question { opcode: op::STATFS, node: self.root.number(), ..Question::default() };
        // What cannot be asked is shown as nothing.
        let s = self.shared.connection.ask::<StatfsOut>(&question).unwrap_or_default();
        let unit = if s.fragment_size == 0 { s.block_size } else { s.fragment_size };
        StatFs {
            magic: MAGIC,
            block_size: unit.into(),
            blocks: s.blocks,
            free: s.bfree,
            files: s.files,
            files_free: s.ffree,
            name_max: super::NAME_MAX as u64,
        }
    }

    fn options(&self) -> String {
        let cache = match self.shared.cache {
            Cache::None => "none",
            Cache::Auto => "auto",
            Cache::Always => "always",
        };
        format!("cache={cache}")
    }

    fn sync(&self) -> Result<()> {
        flush_all();
        Ok(())
    }
}
