//! devpts: the file system whose files are the slaves, and the devices `/dev/ptmx` and `/dev/tty`.
//!
//! There is one instance a container, whatever is mounted: all of its terminals are in it.

use alloc::{
    collections::BTreeMap,
    format,
    string::String,
    sync::{Arc, Weak},
};

use super::{
    master::Master,
    pair::Pair,
    slave::Slave,
    termios::{Termios, WindowSize},
};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    fs::{
        DeviceId, DirEntry, File, FileSystem, FileType, Inode, InodeRef, Metadata, OpenFlags, SetAttributes,
        StatFs, device, inode::alloc_anonymous_dev,
    },
    ns::user::IdKind,
    sync::{Mutex, SpinLock},
};

/// Major numbers: slaves; `/dev/tty` and `/dev/ptmx`.
const SLAVE_MAJOR: u32 = 136;
const TTYAUX_MAJOR: u32 = 5;
const TTY_MINOR: u32 = 0;
const PTMX_MINOR: u32 = 2;
/// `kernel.pty.max`.
const MAX: u32 = 4096;
/// The group `tty` of Debian, which may write to terminals.
const TTY_GROUP: u32 = 5;

const ROOT_INO: u64 = 1;
const PTMX_INO: u64 = 2;
/// The inode number of slave 0.
const FIRST_INO: u64 = 3;

pub(super) struct Devpts {
    dev: u64,
    pairs: SpinLock<BTreeMap<u32, Weak<Pair>>>,
    /// The group of its terminals.
    group: u32,
    root: SpinLock<Metadata>,
    ptmx: SpinLock<Metadata>,
}

static INSTANCES: Mutex<BTreeMap<u32, Arc<Devpts>>> = Mutex::new(BTreeMap::new());

/// The instance of a container; made at the first call.
fn instance(container: u32) -> Arc<Devpts> {
    instance_for(container, (0, 0), TTY_GROUP)
}

/// The same; if it is made, it belongs to these.
fn instance_for(container: u32, (uid, gid): (u32, u32), group: u32) -> Arc<Devpts> {
    let make = || {
        let dev = alloc_anonymous_dev();
        let mut ptmx = Metadata::new(dev, PTMX_INO, FileType::CharDevice, 0o666);
        ptmx.rdev = DeviceId::new(TTYAUX_MAJOR, PTMX_MINOR);
        let mut root = Metadata::new(dev, ROOT_INO, FileType::Directory, 0o755);
        for m in [&mut ptmx, &mut root] {
            (m.uid, m.gid) = (uid, gid);
        }
        Arc::new(Devpts {
            dev,
            pairs: SpinLock::new(BTreeMap::new()),
            group,
            root: SpinLock::new(root),
            ptmx: SpinLock::new(ptmx),
        })
    };
    INSTANCES.lock().entry(container).or_insert_with(make).clone()
}

/// The instance of the container that `task` is in.
fn instance_of(task: Option<&TaskRef>) -> Arc<Devpts> {
    instance(task.map_or(0, |task| task.process().pid_ns.container()))
}

/// A container is gone.
pub fn forget(container: u32) {
    let fs = INSTANCES.lock().remove(&container);
    drop(fs); // outside the lock
}

/// Makes the file system type and the devices known.
pub fn register() {
    crate::fs::filesystems::register("devpts", |_options, mounter| {
        let group = mounter.user_ns.to_kernel(IdKind::Group, TTY_GROUP).unwrap_or(mounter.ids.1);
        Ok(Arc::new(Mounted(instance_for(mounter.pid_ns.container(), mounter.ids, group))))
    });
    device::register_char(TTYAUX_MAJOR, TTY_MINOR..=TTY_MINOR, open_tty);
    device::register_char(TTYAUX_MAJOR, PTMX_MINOR..=PTMX_MINOR, open_ptmx);
    device::register_char(SLAVE_MAJOR, 0..=MAX, |id, _, flags, task| {
        open_slave(instance_of(task).find(id.minor)?, flags, task)
    });
}

/// A new pair of a container with the lowest free number. `ENOSPC`.
pub(super) fn allocate(container: u32, termios: Termios, window: WindowSize, uid: u32) -> Result<Arc<Pair>> {
    let fs = instance(container);
    let mut pairs = fs.pairs.lock();
    let index = (0..MAX).find(|i| !pairs.contains_key(i)).ok_or(Errno::ENOSPC)?;
    let pair = Pair::new(index, SlaveInode::new(&fs, index, uid), termios, window);
    pairs.insert(index, Arc::downgrade(&pair));
    Ok(pair)
}

/// The master of `pair` is gone: the slave's name goes, too.
pub(super) fn release(pair: &Pair) {
    if let Some(fs) = pair.inode.fs.upgrade() {
        let removed = fs.pairs.lock().remove(&pair.index);
        drop(removed); // outside the lock
    }
}

impl Devpts {
    fn find(&self, index: u32) -> Result<Arc<Pair>> {
        self.pairs.lock().get(&index).and_then(Weak::upgrade).ok_or(Errno::EIO)
    }
}

fn open_tty(_: DeviceId, _: &InodeRef, _: OpenFlags, task: Option<&TaskRef>) -> Result<Arc<dyn File>> {
    let session = task.ok_or(Errno::ENXIO)?.process().group().session.clone();
    let terminal = session.terminal.lock().clone();
    terminal.ok_or(Errno::ENXIO)?.open()
}

fn open_ptmx(_: DeviceId, _: &InodeRef, _: OpenFlags, task: Option<&TaskRef>) -> Result<Arc<dyn File>> {
    let container = task.map_or(0, |task| task.process().pid_ns.container());
    Ok(Master::open(container, task.map_or(0, |t| t.credentials().fsuid))?)
}

fn open_slave(pair: Arc<Pair>, flags: OpenFlags, task: Option<&TaskRef>) -> Result<Arc<dyn File>> {
    let slave = Slave::new(pair.clone(), task)?;
    if let Some(task) = task
        && !flags.contains(OpenFlags::NOCTTY)
        && flags.readable()
        && pair.with(|s| s.session.upgrade()).is_none()
    {
        // Whoever cannot have it as controlling terminal just has it open.
        let _ = pair.make_controlling(task, false);
    }
    Ok(slave)
}

/// An instance, mounted.
struct Mounted(Arc<Devpts>);

impl FileSystem for Mounted {
    fn name(&self) -> &'static str {
        "devpts"
    }

    fn dev(&self) -> u64 {
        self.0.dev
    }

    fn root(&self) -> InodeRef {
        Arc::new(Root(self.0.clone()))
    }

    fn statfs(&self) -> StatFs {
        StatFs { magic: 0x1cd1, block_size: 4096, name_max: 255, ..StatFs::default() }
    }

    fn options(&self) -> String {
        String::from("gid=5,mode=620,ptmxmode=666")
    }
}

/// The root directory.
struct Root(Arc<Devpts>);

impl Inode for Root {
    fn kind(&self) -> FileType {
        FileType::Directory
    }

    fn metadata(&self) -> Metadata {
        *self.0.root.lock()
    }

    fn set_attributes(&self, change: &SetAttributes) -> Result<()> {
        change.apply(&mut self.0.root.lock());
        Ok(())
    }

    fn cacheable(&self) -> bool {
        false
    }

    fn lookup(&self, name: &[u8]) -> Result<InodeRef> {
        if name == b"ptmx" {
            return Ok(Arc::new(Ptmx(self.0.clone())));
        }
        let number = core::str::from_utf8(name).ok().and_then(|n| n.parse::<u32>().ok());
        let index = number.filter(|n| format!("{n}").as_bytes() == name).ok_or(Errno::ENOENT)?;
        Ok(self.0.find(index).map_err(|_| Errno::ENOENT)?.inode.clone())
    }

    fn readdir(&self, from: u64, emit: &mut dyn FnMut(&DirEntry<'_>) -> bool) -> Result<()> {
        let kind = FileType::CharDevice;
        if from == 0 && !emit(&DirEntry { name: b"ptmx", ino: PTMX_INO, kind, next: 1 }) {
            return Ok(());
        }
        let mut at = from.saturating_sub(1) as u32;
        loop {
            let next = self.0.pairs.lock().range(at..).next().map(|(i, _)| *i);
            let Some(index) = next else { return Ok(()) };
            let name = format!("{index}");
            let ino = FIRST_INO + u64::from(index);
            at = index + 1;
            if !emit(&DirEntry { name: name.as_bytes(), ino, kind, next: u64::from(at) + 1 }) {
                return Ok(());
            }
        }
    }
}

/// `/dev/pts/ptmx`.
struct Ptmx(Arc<Devpts>);

impl Inode for Ptmx {
    fn kind(&self) -> FileType {
        FileType::CharDevice
    }

    fn metadata(&self) -> Metadata {
        *self.0.ptmx.lock()
    }

    fn set_attributes(&self, change: &SetAttributes) -> Result<()> {
        change.apply(&mut self.0.ptmx.lock());
        Ok(())
    }
}

/// A slave's inode. The pair holds it; it finds the pair by its number.
pub(super) struct SlaveInode {
    index: u32,
    fs: Weak<Devpts>,
    metadata: SpinLock<Metadata>,
}

impl SlaveInode {
    fn new(fs: &Arc<Devpts>, index: u32, uid: u32) -> Arc<SlaveInode> {
        let ino = FIRST_INO + u64::from(index);
        let mut m = Metadata::new(fs.dev, ino, FileType::CharDevice, 0o620);
        m.rdev = DeviceId::new(SLAVE_MAJOR, index);
        (m.uid, m.gid, m.block_size) = (uid, fs.group, 1024);
        Arc::new(SlaveInode { index, fs: Arc::downgrade(fs), metadata: SpinLock::new(m) })
    }

    /// Its device number.
    pub fn device(&self) -> DeviceId {
        DeviceId::new(SLAVE_MAJOR, self.index)
    }
}

impl Inode for SlaveInode {
    fn kind(&self) -> FileType {
        FileType::CharDevice
    }

    fn metadata(&self) -> Metadata {
        *self.metadata.lock()
    }

    fn set_attributes(&self, change: &SetAttributes) -> Result<()> {
        change.apply(&mut self.metadata.lock());
        Ok(())
    }

    fn open(&self, flags: OpenFlags, task: Option<&TaskRef>) -> Result<Option<Arc<dyn File>>> {
        let pair = self.fs.upgrade().ok_or(Errno::EIO)?.find(self.index)?;
        if !core::ptr::eq(Arc::as_ptr(&pair.inode), self) {
            return Err(Errno::EIO); // the number belongs to another pair by now
        }
        Ok(Some(open_slave(pair, flags, task)?))
    }
}
