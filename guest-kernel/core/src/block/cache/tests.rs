use alloc::{vec, vec::Vec};

use super::*;
use crate::{block::ID_LEN, sched::SchedState, task::Task};

/// A disk in memory that notes what it is asked, and fails when told.
struct Disk {
    bytes: SpinLock<Vec<u8>>,
    log: SpinLock<Vec<(char, u64, u64)>>,
    /// A page that cannot be read.
    bad: AtomicU64,
    broken: AtomicBool,
    read_only: bool,
}

impl Disk {
    fn note(&self, what: char, at: u64, count: usize) {
        self.log.lock().push((what, at, count as u64));
    }

    /// What it was asked since the last time: what, first page (or sector), how many.
    fn log(&self) -> Vec<(char, u64, u64)> {
        core::mem::take(&mut *self.log.lock())
    }

    fn page(&self, index: u64) -> Vec<u8> {
        let bytes = self.bytes.lock();
        let start = (index * PAGE) as usize;
        bytes[start..bytes.len().min(start + PAGE as usize)].to_vec()
    }
}

impl Storage for Disk {
    fn sectors(&self) -> u64 {
        self.bytes.lock().len() as u64 / SECTOR
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn read(&self, _: &TaskRef, index: u64, frames: &[Frame]) -> Result<()> {
        self.note('r', index, frames.len());
        if (index..index + frames.len() as u64).contains(&self.bad.load(Ordering::Relaxed)) {
            return Err(Errno::EIO);
        }
        for (at, frame) in (index..).zip(frames) {
            frame.write(0, &self.page(at));
        }
        Ok(())
    }

    fn write(&self, _: &TaskRef, runs: &[(u64, Vec<Frame>)]) -> Result<()> {
        for (index, frames) in runs {
            self.note('w', *index, frames.len());
            if self.broken.load(Ordering::Relaxed) {
                return Err(Errno::EIO);
            }
            for (at, frame) in (*index..).zip(frames) {
                let len = self.page(at).len();
                let start = (at * PAGE) as usize;
                frame.read(0, &mut self.bytes.lock()[start..start + len]);
            }
        }
        Ok(())
    }

    fn flush(&self, _: &TaskRef) -> Result<()> {
        self.note('f', 0, 0);
        Ok(())
    }

    fn erase(&self, _: &TaskRef, _: Erase, sector: u64, sectors: u64) -> Result<()> {
        self.note('e', sector, sectors as usize);
        self.bytes.lock()[(sector * SECTOR) as usize..][..(sectors * SECTOR) as usize].fill(0xee);
        Ok(())
    }

    fn identity(&self, _: &TaskRef) -> Result<[u8; ID_LEN]> {
        Ok([0; ID_LEN])
    }
}

struct World {
    disk: Arc<Disk>,
    cache: Arc<Cache>,
    task: TaskRef,
}

fn never(_: &TaskRef) -> ! {
    unreachable!("the task of a test does not run")
}

impl World {
    /// Each page is filled with its number.
    fn new(sectors: u64, read_only: bool) -> World {
        let bytes = (0..sectors * SECTOR).map(|at| (at / PAGE) as u8).collect();
        let disk = Arc::new(Disk {
            bytes: SpinLock::new(bytes),
            log: SpinLock::default(),
            bad: AtomicU64::new(u64::MAX),
            broken: AtomicBool::new(false),
            read_only,
        });
        let task = hal::Thread::new_kernel(Task::kernel_task(b"test", SchedState::new()), never).unwrap();
        World { cache: Cache::new(disk.clone()), disk, task }
    }

    fn pages(pages: u64) -> World {
        World::new(pages * SECTORS_PER_PAGE, false)
    }

    fn read(&self, at: u64, len: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        let n = self.cache.read(&self.task, at, &mut Sink::kernel(&mut bytes))?;
        bytes.truncate(n);
        Ok(bytes)
    }

    /// The byte all of a page is.
    fn page(&self, index: u64) -> Result<u8> {
        let bytes = self.read(index * PAGE, PAGE as usize)?;
        assert!(bytes.iter().all(|b| *b == bytes[0]));
        Ok(bytes[0])
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result {
        self.cache.write(&self.task, at, &mut Source::kernel(bytes))
    }

    fn fill(&self, index: u64, byte: u8) {
        assert_eq!(self.write(index * PAGE, &[byte; PAGE as usize]), Ok(PAGE as usize));
    }

    fn sync(&self) -> Result<()> {
        self.cache.sync(&self.task, 0..u64::MAX)
    }
}

#[test]
fn who_reads_on_is_read_ahead_for() {
    let w = World::pages(200);
    assert_eq!(w.page(7), Ok(7));
    assert_eq!(w.disk.log(), [('r', 7, 1)], "only what was asked for");
    assert_eq!(w.page(100), Ok(100));
    assert_eq!(w.disk.log(), [('r', 100, 1)], "a jump");
    assert_eq!(w.page(101), Ok(101));
    assert_eq!(w.disk.log(), [('r', 101, 1 + AHEAD)]);
    for index in 102..=101 + AHEAD {
        assert_eq!(w.page(index), Ok(index as u8));
    }
    assert_eq!(w.disk.log(), [], "all of it was there");
    assert_eq!(w.page(102 + AHEAD), Ok((102 + AHEAD) as u8));
    assert_eq!(w.disk.log(), [('r', 102 + AHEAD, 1 + AHEAD)]);
    // As far as what is there already, and as the device goes.
    assert_eq!((w.page(5), w.page(6)), (Ok(5), Ok(6)));
    assert_eq!(w.disk.log(), [('r', 5, 1), ('r', 6, 1)]);
    assert_eq!((w.page(198), w.page(199)), (Ok(198), Ok(199)));
    assert_eq!(w.disk.log(), [('r', 198, 1), ('r', 199, 1)]);
    assert_eq!(w.cache.counts.reads[0].load(Ordering::Relaxed), 8);
}

#[test]
fn a_large_read_is_made_in_windows() {
    let w = World::pages(200);
    let bytes = w.read(10, 150 * PAGE as usize).unwrap();
    assert_eq!(bytes.len(), 150 * PAGE as usize);
    assert_eq!((bytes[0], bytes[bytes.len() - 1]), (0, 150));
    let log = w.disk.log();
    assert!(log.iter().all(|(what, _, count)| *what == 'r' && *count <= MAX_WINDOW), "{log:?}");
    assert!(log.len() <= 4, "{log:?}");
}

#[test]
fn the_end_of_the_device() {
    let w = World::new(SECTORS_PER_PAGE + 2, false);
    let end = PAGE + 2 * SECTOR;
    assert_eq!(w.read(PAGE - 1, 10_000).unwrap().len(), 1 + 2 * SECTOR as usize);
    assert!(w.read(end, 1).unwrap().is_empty());
    assert!(w.read(u64::MAX, 1).unwrap().is_empty());
    assert_eq!(w.cache.frame(&w.task, 2, 1).err(), Some(Errno::ENXIO));
    assert_eq!(w.write(end, b"x"), Err(Errno::ENOSPC));
    assert_eq!(w.write(end, b""), Ok(0));
    assert_eq!(w.write(end - 3, b"12345"), Ok(3), "what there is room for");
    w.sync().unwrap();
    assert_eq!(w.disk.bytes.lock()[end as usize - 3..], *b"123");
    // The last page is whole if all of it that is on the device is written.
    w.cache.invalidate();
    w.disk.log();
    assert_eq!(w.write(PAGE, &[9; 2 * SECTOR as usize]), Ok(2 * SECTOR as usize));
    assert_eq!(w.disk.log(), []);
}

#[test]
fn pages_written_whole_are_not_read() {
    let w = World::pages(10);
    w.fill(3, 0x33);
    assert_eq!(w.disk.log(), []);
    assert_eq!(w.page(3), Ok(0x33));
    assert_eq!(w.write(5 * PAGE + 1, b"x"), Ok(1));
    assert_eq!(w.disk.log(), [('r', 5, 1)], "the rest of it is needed");
    assert_eq!(w.read(5 * PAGE, 3).unwrap(), [5, b'x', 5]);
    assert_eq!(w.disk.page(5), [5; PAGE as usize], "not yet");
}

#[test]
fn neighbours_are_written_back_together_and_once() {
    let w = World::pages(50);
    for index in [9, 3, 4, 40, 5, 41] {
        w.fill(index, 0x80 + index as u8);
    }
    assert!(w.cache.is_dirty());
    w.cache.write_back(&w.task, 0..9, true).unwrap();
    assert_eq!(w.disk.log(), [('w', 3, 3)], "only of the range");
    w.sync().unwrap();
    assert_eq!(w.disk.log(), [('w', 9, 1), ('w', 40, 2), ('f', 0, 0)]);
    assert!(!w.cache.is_dirty());
    assert_eq!((w.disk.page(4)[0], w.disk.page(41)[0]), (0x84, 0x80 + 41));
    w.sync().unwrap();
    assert_eq!(w.disk.log(), [('f', 0, 0)], "nothing is left");
    w.fill(3, 1);
    w.cache.sync_bytes(&w.task, 4 * PAGE - 1, 4 * PAGE).unwrap();
    assert_eq!(w.disk.log(), [('w', 3, 1), ('f', 0, 0)], "the page that a byte is in");
}

#[test]
fn a_failed_write_is_told_to_the_next_sync_and_once() {
    let w = World::pages(4);
    w.fill(1, 0x11);
    w.disk.broken.store(true, Ordering::Relaxed);
    assert_eq!(w.cache.write_back(&w.task, 0..u64::MAX, true), Err(Errno::EIO), "the flusher sees it");
    w.disk.broken.store(false, Ordering::Relaxed);
    assert_eq!(w.sync(), Err(Errno::EIO), "and so does who asks");
    assert_eq!(w.sync(), Ok(()));
    assert_eq!(w.page(1), Ok(0x11), "what was written is still what is read");
    w.fill(2, 0x22);
    w.disk.broken.store(true, Ordering::Relaxed);
    assert_eq!(w.sync(), Err(Errno::EIO));
    w.disk.broken.store(false, Ordering::Relaxed);
    assert_eq!(w.sync(), Ok(()), "it has been told");
}

#[test]
fn a_bad_page_spoils_no_other() {
    let w = World::pages(20);
    w.disk.bad.store(4, Ordering::Relaxed);
    let all = w.read(2 * PAGE, 4 * PAGE as usize).unwrap();
    assert_eq!(all.len(), 2 * PAGE as usize, "short: up to the bad one");
    assert_eq!((all[0], all[PAGE as usize]), (2, 3));
    assert_eq!(w.page(4), Err(Errno::EIO));
    assert_eq!(w.page(4), Err(Errno::EIO), "nobody has it claimed for ever");
    assert_eq!(w.page(5), Ok(5));
    assert_eq!(w.write(4 * PAGE + 1, b"x"), Err(Errno::EIO), "a part of it");
    w.fill(4, 0x44);
    assert_eq!(w.page(4), Ok(0x44), "all of it");
    w.disk.bad.store(u64::MAX, Ordering::Relaxed);
    w.sync().unwrap();
    assert_eq!(w.disk.page(4)[0], 0x44);
}

#[test]
fn clean_pages_can_go_and_dirty_ones_cannot() {
    let w = World::pages(10);
    assert_eq!((w.page(1), w.page(2)), (Ok(1), Ok(2)));
    w.fill(3, 0x33);
    w.disk.log();
    w.cache.invalidate();
    w.disk.bytes.lock()[PAGE as usize..4 * PAGE as usize].fill(0x99);
    assert_eq!(w.page(1), Ok(0x99), "read again");
    assert_eq!(w.page(3), Ok(0x33), "never given up");
    let held = w.cache.frame(&w.task, 1, 1).unwrap();
    w.cache.invalidate();
    assert_eq!(w.cache.frame(&w.task, 1, 1).unwrap().pfn(), held.pfn(), "somebody uses it");
    drop(held);
    w.sync().unwrap();
    w.cache.invalidate();
    w.disk.bytes.lock()[3 * PAGE as usize] = 7;
    assert_eq!(w.read(3 * PAGE, 2).unwrap(), [7, 0x33], "clean by now");
}

#[test]
fn mapped_pages_stay_dirty_while_they_are_mapped() {
    let w = World::pages(4);
    assert_eq!(w.cache.page(1, true).err(), Some(Errno::EAGAIN), "to be loaded first");
    w.cache.frame(&w.task, 1, 1).unwrap();
    let mapped = w.cache.page(1, true).unwrap();
    mapped.write(0, &[0x77; PAGE as usize]);
    w.disk.log();
    w.cache.write_back(&w.task, 0..u64::MAX, false).unwrap();
    assert_eq!(w.disk.log(), [], "not every time");
    w.cache.write_back(&w.task, 0..u64::MAX, true).unwrap();
    assert_eq!(w.disk.log(), [('w', 1, 1)]);
    mapped.write(0, &[0x78]);
    w.sync().unwrap();
    assert_eq!(w.disk.page(1)[..2], [0x78, 0x77], "nothing told of the second write");
    drop(mapped);
    w.sync().unwrap();
    assert!(!w.cache.is_dirty());
    w.disk.log();
    w.sync().unwrap();
    assert_eq!(w.disk.log(), [('f', 0, 0)]);
}

#[test]
fn nothing_is_written_to_what_is_read_only() {
    let w = World::new(16, true);
    assert_eq!(w.write(0, b"x"), Err(Errno::EPERM));
    w.cache.frame(&w.task, 0, 1).unwrap();
    assert_eq!(w.cache.page(0, true).err(), Some(Errno::EIO));
    assert!(w.cache.page(0, false).is_ok());
    assert_eq!(w.cache.set_read_only(false), Err(Errno::EACCES));
    assert_eq!(w.cache.erase(&w.task, Erase::Zero, 0, SECTOR), Err(Errno::EPERM));
    assert_eq!(w.sync(), Ok(()));
    let w = World::pages(2);
    w.cache.set_read_only(true).unwrap();
    assert_eq!(w.write(0, b"x"), Err(Errno::EPERM));
    w.cache.set_read_only(false).unwrap();
    assert_eq!(w.write(0, b"x"), Ok(1));
}

#[test]
fn erasing() {
    let w = World::pages(8);
    w.fill(2, 0x22);
    w.cache.erase(&w.task, Erase::Zero, PAGE - SECTOR, 2 * SECTOR).unwrap();
    assert_eq!(w.read(PAGE - SECTOR - 1, 2).unwrap(), [0, 0]);
    assert_eq!(w.read(PAGE + SECTOR - 1, 2).unwrap(), [0, 1]);
    w.cache.erase(&w.task, Erase::Discard, 2 * PAGE, 2 * PAGE).unwrap();
    assert_eq!(w.page(2), Ok(0xee), "what the disk has, not what was cached");
    assert_eq!(w.cache.erase(&w.task, Erase::Discard, 7 * PAGE, 2 * PAGE), Err(Errno::EINVAL));
    assert_eq!(w.cache.erase(&w.task, Erase::Discard, u64::MAX, SECTOR), Err(Errno::EINVAL));
}
