//! The mqueue file system: a directory of queues.

use alloc::{
    collections::BTreeMap,
    format,
    string::String,
    sync::{Arc, Weak},
    vec::Vec,
};
use core::sync::atomic::{AtomicU64, Ordering};

use super::{
    Limits,
    queue::{Attributes, MessageQueue},
};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    fs::{
        DirEntry, File, FileSystem, FileType, Inode, InodeRef, Metadata, NewInode, NewKind, OpenFile,
        OpenFlags, SetAttributes, StatFs, inode::alloc_anonymous_dev, types::Timestamp,
    },
    io::Sink,
    sync::{PollEvents, PollTable, SpinLock},
};

/// What a file of a queue says of its size (`FILENT_SIZE`).
const SIZE: u64 = 80;
/// `HARD_MSGMAX` and `HARD_MSGSIZEMAX`: what the privileged may have.
const HARD_MESSAGES: i64 = 65_536;
const HARD_SIZE: i64 = 16 << 20;
/// What Linux counts for a message, and for a priority, beside the bytes.
const OVERHEAD: u64 = 48;

/// Bytes of queues that users have made, by user (RLIMIT_MSGQUEUE).
static USERS: SpinLock<BTreeMap<u32, u64>> = SpinLock::new(BTreeMap::new());

/// Who makes a queue, and what he may.
pub(super) struct Maker {
    pub uid: u32,
    pub gid: u32,
    pub privileged: bool,
    /// RLIMIT_MSGQUEUE.
    pub limit: u64,
}

/// A queue as an inode.
pub(super) struct QueueInode {
    this: Weak<QueueInode>,
    metadata: SpinLock<Metadata>,
    pub queue: MessageQueue,
    charged: (u32, u64),
}

impl QueueInode {
    /// `EINVAL` for attributes that are not allowed, `EMFILE` if the user has too much.
    fn new(
        dev: u64,
        ino: u64,
        limits: &Limits,
        mode: u32,
        maker: &Maker,
        a: Option<&Attributes>,
    ) -> Result<Arc<Self>> {
        let get = |n: &core::sync::atomic::AtomicUsize| n.load(Ordering::Relaxed) as i64;
        let (messages, size) = match a {
            Some(a) => (a.max_messages, a.message_size),
            None => (
                get(&limits.msg_max).min(get(&limits.msg_default)),
                get(&limits.msgsize_max).min(get(&limits.msgsize_default)),
            ),
        };
        let (most, largest) = match maker.privileged {
            true => (HARD_MESSAGES, HARD_SIZE),
            false => (get(&limits.msg_max), get(&limits.msgsize_max)),
        };
        if messages <= 0 || size <= 0 || messages > most || size > largest {
            return Err(Errno::EINVAL);
        }
        // A record of a message, and of a priority, each.
        let overhead = 2 * OVERHEAD * messages as u64;
        let bytes = (messages as u64).saturating_mul(size as u64).saturating_add(overhead);
        {
            let mut users = USERS.lock();
            let sum = users.entry(maker.uid).or_default();
            let new = sum.saturating_add(bytes);
            if new > maker.limit {
                return Err(Errno::EMFILE);
            }
            *sum = new;
        }
        let mut metadata = Metadata::new(dev, ino, FileType::Regular, mode);
        (metadata.uid, metadata.gid, metadata.size) = (maker.uid, maker.gid, SIZE);
        Ok(Arc::new_cyclic(|this| QueueInode {
            this: this.clone(),
            metadata: SpinLock::new(metadata),
            queue: MessageQueue::new(messages as usize, size as usize),
            charged: (maker.uid, bytes),
        }))
    }
}

impl Drop for QueueInode {
    fn drop(&mut self) {
        let (uid, bytes) = self.charged;
        let mut users = USERS.lock();
        if let Some(sum) = users.get_mut(&uid) {
            *sum = sum.saturating_sub(bytes);
            if *sum == 0 {
                users.remove(&uid);
            }
        }
    }
}

/// An open queue.
pub(super) struct QueueFile(pub Arc<QueueInode>);

impl File for QueueFile {
    fn seekable(&self) -> bool {
        true
    }

    fn read_at(&self, _file: &OpenFile, _task: &TaskRef, offset: u64, sink: &mut Sink<'_>) -> Result {
        let (bytes, notify) = self.0.queue.status();
        let (kind, signal, pid) = match &notify {
            None => (0, 0, 0),
            Some(n) => (i32::from(n.signal.is_none()), n.signal.map_or(0, |s| s.number()), n.pid),
        };
        let text = format!("QSIZE:{bytes:<10} NOTIFY:{kind:<5} SIGNO:{signal:<5} NOTIFY_PID:{pid:<6}\n");
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        sink.put_some(text.as_bytes().get(start..).unwrap_or_default())
    }

    fn poll(&self, table: Option<&mut PollTable>) -> PollEvents {
        if let Some(table) = table {
            table.register(&self.0.queue.waiters);
        }
        let count = self.0.queue.count();
        let mut events = PollEvents::empty();
        events.set(PollEvents::READABLE, count > 0);
        events.set(PollEvents::WRITABLE, count < self.0.queue.max_messages);
        events
    }
}

impl Inode for QueueInode {
    fn kind(&self) -> FileType {
        FileType::Regular
    }

    fn metadata(&self) -> Metadata {
        *self.metadata.lock()
    }

    fn set_attributes(&self, change: &SetAttributes) -> Result<()> {
        if change.size.is_none() {
            change.apply(&mut self.metadata.lock());
        }
        Ok(())
    }

    fn open(&self, _flags: OpenFlags, _task: Option<&TaskRef>) -> Result<Option<Arc<dyn File>>> {
        Ok(Some(Arc::new(QueueFile(self.this.upgrade().ok_or(Errno::ENXIO)?))))
    }
}

/// Queues by name, each with its place in the order of making.
type Names = BTreeMap<Vec<u8>, (u64, Arc<QueueInode>)>;

/// The directory.
struct Root {
    dev: u64,
    metadata: SpinLock<Metadata>,
    queues: SpinLock<Names>,
    next: AtomicU64,
    limits: Arc<Limits>,
}

impl Root {
    fn make(
        &self,
        name: &[u8],
        mode: u32,
        maker: &Maker,
        attributes: Option<&Attributes>,
    ) -> Result<Arc<QueueInode>> {
        let count = self.queues.lock().len();
        if count >= self.limits.queues_max.load(Ordering::Relaxed) && !maker.privileged {
            return Err(Errno::ENOSPC);
        }
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let inode = QueueInode::new(self.dev, n + 2, &self.limits, mode, maker, attributes)?;
        let old = self.queues.lock().insert(name.to_vec(), (n, inode.clone()));
        drop(old);
        self.changed();
        Ok(inode)
    }

    fn changed(&self) {
        let mut m = self.metadata.lock();
        m.mtime = Timestamp::now();
        m.ctime = m.mtime;
    }
}

impl Inode for Root {
    fn kind(&self) -> FileType {
        FileType::Directory
    }

    fn metadata(&self) -> Metadata {
        *self.metadata.lock()
    }

    fn set_attributes(&self, change: &SetAttributes) -> Result<()> {
        change.apply(&mut self.metadata.lock());
        Ok(())
    }

    /// Several mounts show it, each with dentries of its own.
    fn cacheable(&self) -> bool {
        false
    }

    fn lookup(&self, name: &[u8]) -> Result<InodeRef> {
        let queues = self.queues.lock();
        let (_, entry) = queues.get(name).ok_or(Errno::ENOENT)?;
        Ok(entry.clone())
    }

    fn create(&self, name: &[u8], new: &NewInode<'_>) -> Result<InodeRef> {
        if !matches!(new.kind, NewKind::Regular) {
            return Err(Errno::EPERM);
        }
        // Made like a file: the defaults, which every user's limit allows for.
        let maker = Maker { uid: new.uid, gid: new.gid, privileged: false, limit: 819_200 };
        Ok(self.make(name, new.mode, &maker, None)?)
    }

    fn unlink(&self, name: &[u8], _victim: &InodeRef) -> Result<()> {
        let removed = self.queues.lock().remove(name);
        if let Some((_, entry)) = &removed {
            entry.metadata.lock().nlink = 0;
        }
        drop(removed);
        self.changed();
        Ok(())
    }

    fn readdir(&self, from: u64, emit: &mut dyn FnMut(&DirEntry<'_>) -> bool) -> Result<()> {
        let mut all: Vec<(u64, Vec<u8>, u64)> = {
            let queues = self.queues.lock();
            let listed = queues.iter().filter(|(_, (n, _))| *n >= from);
            listed.map(|(name, (n, entry))| (*n, name.clone(), entry.ino())).collect()
        };
        all.sort();
        for (n, name, ino) in &all {
            if !emit(&DirEntry { name, ino: *ino, kind: FileType::Regular, next: n + 1 }) {
                break;
            }
        }
        Ok(())
    }
}

/// The file system.
pub struct MqueueFs {
    root: Arc<Root>,
}

impl MqueueFs {
    pub(super) fn new(limits: Arc<Limits>) -> Arc<MqueueFs> {
        let dev = alloc_anonymous_dev();
        let root = Root {
            dev,
            metadata: SpinLock::new(Metadata::new(dev, 1, FileType::Directory, 0o1777)),
            queues: SpinLock::new(BTreeMap::new()),
            next: AtomicU64::new(0),
            limits,
        };
        Arc::new(MqueueFs { root: Arc::new(root) })
    }

    /// Makes a queue with attributes, as `mq_open` does.
    pub(super) fn make(
        &self,
        name: &[u8],
        mode: u32,
        maker: &Maker,
        attributes: Option<&Attributes>,
    ) -> Result<InodeRef> {
        Ok(self.root.make(name, mode, maker, attributes)?)
    }
}

impl FileSystem for MqueueFs {
    fn name(&self) -> &'static str {
        "mqueue"
    }

    fn dev(&self) -> u64 {
        self.root.dev
    }

    fn root(&self) -> InodeRef {
        self.root.clone()
    }

    fn statfs(&self) -> StatFs {
        StatFs { magic: 0x1980_0202, block_size: 4096, name_max: 255, ..StatFs::default() }
    }

    fn options(&self) -> String {
        String::new()
    }
}
