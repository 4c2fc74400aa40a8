//! Block devices: `/dev/vda` and its like.
//!
//! # What Linux does
//! A block device has a page cache of its own (the inode of `bdev`), which `read`, `write`, `mmap` of the node and file
//! systems on it share. Writes make pages dirty; a flusher writes them back after some seconds, earlier when there are
//! many, and `fsync`, `sync` and the last close do it at once.
//!
//! # What we do
//! The same, but for the last close, which leaves the writing to the flusher; what is dirty when the first program ends
//! is written before the machine is switched off. There are no partitions: a disk is one device.
//!
//! | module | holds |
//! |---|---|
//! | [`cache`] | the page cache and writing back |
//! | [`file`] | what an open node does: reads, writes, `ioctl` |
//! | [`report`] | `/proc/partitions`, `/proc/diskstats`, `/sys/block` |
//!
//! Storage itself is a [`Storage`]: `drivers::block`, and memory in tests.
//!
//! # Who may
//! Disks belong to the sandbox's first container, whose `/dev` has the nodes. Other containers cannot open them, whatever
//! nodes they make.

pub mod cache;
pub mod file;
pub mod report;

use alloc::{boxed::Box, format, string::String, sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ringfence_hal as hal;
use ringfence_hal::Frame;

pub use cache::Cache;

use crate::{
    TaskRef,
    errno::{Errno, Result},
    fs::DeviceId,
    sched,
    sync::{Interruptible, Once, PollEvents, Queue, SpinLock, WaitQueue, wait_event},
    task::spawn_kernel_task,
};

/// Bytes in a sector.
pub const SECTOR: u64 = 512;
/// Sectors in a page.
pub const SECTORS_PER_PAGE: u64 = hal::PAGE_SIZE as u64 / SECTOR;
/// Bytes of an identity.
pub const ID_LEN: usize = 20;
/// The major number Linux gives virtio disks (it is the first free one).
pub const MAJOR: u32 = 254;
/// Minor numbers a disk has: itself, and partitions it could have.
const MINORS: u32 = 16;

/// What becomes of erased sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Erase {
    /// Anything.
    Discard,
    /// Zeros.
    Zero,
}

/// Where sectors are kept. Pages are numbered from 0; of the last one only what lies below the end is moved.
pub trait Storage: Send + Sync {
    /// Size in units of [`SECTOR`].
    fn sectors(&self) -> u64;

    /// Whether it cannot be written.
    fn read_only(&self) -> bool;

    /// Fills `frames` with the pages from `index` on. Sleeps. `EIO`; `EINTR` if `task` is being killed.
    fn read(&self, task: &TaskRef, index: u64, frames: &[Frame]) -> Result<()>;

    /// Writes runs of pages. Sleeps. `EIO`: some may not have been written.
    fn write(&self, task: &TaskRef, runs: &[(u64, Vec<Frame>)]) -> Result<()>;

    /// Makes durable what was written. Sleeps.
    fn flush(&self, task: &TaskRef) -> Result<()>;

    /// Erases sectors. Sleeps. `EOPNOTSUPP`.
    fn erase(&self, task: &TaskRef, how: Erase, sector: u64, sectors: u64) -> Result<()>;

    /// What it calls itself, padded with NULs.
    fn identity(&self, task: &TaskRef) -> Result<[u8; ID_LEN]>;
}

/// A block device.
pub struct BlockDevice {
    /// The name in `/dev`.
    pub name: String,
    /// Its number.
    pub id: DeviceId,
    /// Its pages.
    pub cache: Arc<Cache>,
}

static DEVICES: SpinLock<Vec<Arc<BlockDevice>>> = SpinLock::new(Vec::new());

/// Makes a device of `storage`: the next letter.
pub fn add(storage: Arc<dyn Storage>) {
    let cache = Cache::new(storage);
    let mut devices = DEVICES.lock();
    let n = devices.len() as u32;
    let Some(letter) = char::from_u32(u32::from(b'a') + n).filter(char::is_ascii_lowercase) else { return };
    let id = DeviceId::new(MAJOR, n * MINORS);
    devices.push(Arc::new(BlockDevice { name: format!("vd{letter}"), id, cache }));
}

/// All of them, in order.
pub fn all() -> Vec<Arc<BlockDevice>> {
    DEVICES.lock().clone()
}

/// Device `n`.
pub fn nth(n: usize) -> Option<Arc<BlockDevice>> {
    DEVICES.lock().get(n).cloned()
}

/// The device of a node. `ENXIO` if there is none; `EPERM` if `task` is in a container that has no disks.
pub fn find(id: DeviceId, task: Option<&TaskRef>) -> Result<Arc<BlockDevice>> {
    if task.is_some_and(|task| task.process().pid_ns.container() != 0) {
        return Err(Errno::EPERM);
    }
    DEVICES.lock().iter().find(|device| device.id == id).cloned().ok_or(Errno::ENXIO)
}

/// Writes back everything of all devices. Errors are for who calls `fsync`.
pub fn sync_all(task: &TaskRef) {
    for device in all() {
        let _ = device.cache.sync(task, 0..u64::MAX);
    }
}

/// How long a page stays dirty, in nanoseconds.
const WRITE_BACK_NS: u64 = 5_000_000_000;
/// Pages that are mapped writable may be dirty at any time: they are written back at every sixth turn.
const MAPPED_TURN: u64 = 6;

static DIRTY: AtomicBool = AtomicBool::new(false);
static FLUSHER: Once<Queue> = Once::new();
static TURNS: AtomicU64 = AtomicU64::new(0);

/// There is something to write back. May be called with spin locks held.
fn dirtied() {
    if !DIRTY.swap(true, Ordering::AcqRel)
        && let Some(queue) = FLUSHER.get()
    {
        queue.wake_all(PollEvents::empty());
    }
}

/// Starts the task that writes back, when the first device is opened for writing.
fn start_flusher() {
    let mut first = false;
    FLUSHER.call_once(|| {
        first = true;
        WaitQueue::new()
    });
    if first {
        let main = Box::new(|task: &TaskRef| flush_for_ever(task));
        // Without it `fsync`, `sync` and the end of the sandbox still write back.
        let _ = spawn_kernel_task(b"writeback", main);
    }
}

fn flush_for_ever(task: &TaskRef) {
    let Some(queue) = FLUSHER.get() else { return };
    loop {
        let woken = || DIRTY.load(Ordering::Acquire).then_some(());
        let _ = wait_event(task, queue, Interruptible::No, None, woken); // it always comes
        sched::sleep_ns(task, WRITE_BACK_NS);
        DIRTY.store(false, Ordering::Release);
        let mapped = TURNS.fetch_add(1, Ordering::Relaxed) % MAPPED_TURN == MAPPED_TURN - 1;
        for device in all() {
            let _ = device.cache.write_back(task, 0..u64::MAX, mapped); // told by the next fsync
            if device.cache.is_dirty() {
                dirtied();
            }
        }
    }
}
