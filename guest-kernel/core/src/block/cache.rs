//! The page cache of a block device.
//!
//! A page is in the tree once it has been read, or written whole. Who needs a page that is not there *claims* it (and
//! some behind it) in `loading`, reads, puts it into the tree and gives the claim up; others who need it wait for that.
//! So a page is read by one, and nothing that is older than a write gets into the tree.
//!
//! A dirty page is referred to by `dirty`, too, which keeps it from being given up: [`PageTree::evict`] takes only frames
//! that nobody else refers to. A page that may be written through a mapping is dirty as long as anybody maps it,
//! because nothing tells of a write to it.
//!
//! Locks: `flush` (sleeping, over writing back: an `fsync` so waits for what the flusher has begun) → `state` (spin) → the
//! tree's. No lock is held over a copy from or to user memory.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    vec::Vec,
};
use core::{
    ops::Range,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use ringfence_hal as hal;
use ringfence_hal::Frame;

use super::{Erase, SECTOR, SECTORS_PER_PAGE, Storage};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    io::{Sink, Source},
    mm::{
        Mappable, Mappers, PageTree,
        charge::{self, Kind},
        reclaim,
    },
    sched,
    sync::{Interruptible, Mutex, PollEvents, Queue, SpinLock, WaitQueue, wait_event},
};

const PAGE: u64 = hal::PAGE_SIZE as u64;
/// Pages read at once: 256 KiB.
const MAX_WINDOW: u64 = 64;
/// Pages read around one that a mapping misses.
const FAULT_WINDOW: u64 = 16;
/// Pages read ahead of a reader that goes from page to page.
const AHEAD: u64 = 32;
/// Pages written back at once.
const BATCH: usize = 256;
/// Free memory below which the cache gives up pages before it takes more, as a part of all memory.
const RESERVE: usize = 16;

struct Dirty {
    frame: Frame,
    /// It may be written through a mapping.
    mapped: bool,
}

#[derive(Default)]
struct State {
    loading: BTreeSet<u64>,
    dirty: BTreeMap<u64, Dirty>,
    /// A page could not be written back, and nobody was told.
    failed: bool,
}

/// What a device did, for `/proc/diskstats`.
#[derive(Default)]
pub struct Counts {
    /// Calls that read, sectors read.
    pub reads: [AtomicU64; 2],
    /// Calls that wrote, sectors written.
    pub writes: [AtomicU64; 2],
}

/// The cache.
pub struct Cache {
    storage: Arc<dyn Storage>,
    bytes: u64,
    read_only: AtomicBool,
    pages: Arc<PageTree>,
    state: SpinLock<State>,
    /// A claim was given up.
    loaded: Queue,
    flush: Mutex<()>,
    /// The page after the one that was read last.
    next: AtomicU64,
    /// Where giving up goes on.
    hand: AtomicU64,
    mappers: Mappers,
    /// What it did.
    pub counts: Counts,
}

impl Cache {
    /// An empty cache of `storage`.
    pub fn new(storage: Arc<dyn Storage>) -> Arc<Cache> {
        let pages = Arc::new(PageTree::new());
        reclaim::add_cache(&pages);
        Arc::new(Cache {
            bytes: storage.sectors().saturating_mul(SECTOR),
            read_only: AtomicBool::new(storage.read_only()),
            storage,
            pages,
            state: SpinLock::new(State::default()),
            loaded: WaitQueue::new(),
            flush: Mutex::new(()),
            next: AtomicU64::new(u64::MAX),
            hand: AtomicU64::new(0),
            mappers: Mappers::new(),
            counts: Counts::default(),
        })
    }

    /// Bytes of the device.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Where the pages come from.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// Whether it is not to be written.
    pub fn read_only(&self) -> bool {
        self.read_only.load(Ordering::Relaxed)
    }

    /// Forbids writing, or allows it again. `EACCES` if the device itself cannot be written.
    pub fn set_read_only(&self, on: bool) -> Result<()> {
        if !on && self.storage.read_only() {
            return Err(Errno::EACCES);
        }
        self.read_only.store(on, Ordering::Relaxed);
        Ok(())
    }

    /// Whether there is something to write back that is not only mapped.
    pub fn is_dirty(&self) -> bool {
        !self.state.lock().dirty.is_empty()
    }

    fn page_count(&self) -> u64 {
        self.bytes.div_ceil(PAGE)
    }

    // --- getting pages ---

    /// Gives pages up if memory is short.
    fn make_room(&self) {
        let frames = hal::frames::stats();
        if frames.free < (frames.total / RESERVE).max(512) {
            let most = (self.pages.count() / 8).max(256);
            let (_, next) = self.pages.evict(self.hand.load(Ordering::Relaxed), most);
            self.hand.store(next, Ordering::Relaxed);
        }
    }

    fn new_frame(&self, task: &TaskRef) -> Result<Frame> {
        if let Ok(frame) = charge::zeroed(Kind::Cache) {
            return Ok(frame);
        }
        let _ = self.write_back(task, 0..u64::MAX, false); // told by the next fsync
        reclaim::run();
        charge::zeroed(Kind::Cache).map_err(|_| Errno::ENOMEM)
    }

    /// Claims the pages from `index` on that nobody has or reads, at most `window`; at least the first. `None`: that one is
    /// there by now, or somebody reads it.
    fn claim(&self, index: u64, window: u64) -> Option<u64> {
        let end = index.saturating_add(window.clamp(1, MAX_WINDOW)).min(self.page_count());
        let mut state = self.state.lock();
        let free = |state: &State, at: u64| !state.loading.contains(&at) && self.pages.get(at).is_none();
        let stop = (index..end).find(|at| !free(&state, *at)).unwrap_or(end);
        state.loading.extend(index..stop);
        (stop > index).then_some(stop - index)
    }

    fn unclaim(&self, pages: Range<u64>) {
        {
            let mut state = self.state.lock();
            state.loading.retain(|at| !pages.contains(at));
        }
        self.loaded.wake_all(PollEvents::empty());
    }

    /// The page at `index`, read with those behind it if it is not there: `window` in all. `EIO`, `ENOMEM`, `EINTR` if
    /// `task` is being killed; `ENXIO` beyond the end.
    pub fn frame(&self, task: &TaskRef, index: u64, window: u64) -> Result<Frame> {
        if index >= self.page_count() {
            return Err(Errno::ENXIO);
        }
        loop {
            if let Some(frame) = self.pages.get(index) {
                return Ok(frame);
            }
            let Some(count) = self.claim(index, window) else {
                let over = || (!self.state.lock().loading.contains(&index)).then_some(());
                wait_event(task, &self.loaded, Interruptible::Killable, None, over)
                    .map_err(|_| Errno::EINTR)?;
                continue;
            };
            let result = self.load_claimed(task, index, count);
            self.unclaim(index..index + count);
            return result;
        }
    }

    /// Reads claimed pages; the first of them.
    fn load_claimed(&self, task: &TaskRef, index: u64, count: u64) -> Result<Frame> {
        self.make_room();
        let mut frames = Vec::with_capacity(count as usize);
        for _ in 0..count {
            match self.new_frame(task) {
                Ok(frame) => frames.push(frame),
                Err(e) if frames.is_empty() => return Err(e),
                Err(_) => break,
            }
        }
        match self.storage.read(task, index, &frames) {
            // What lies ahead may be bad, and was not asked for.
            Err(Errno::EIO) if frames.len() > 1 => {
                frames.truncate(1);
                self.storage.read(task, index, &frames)?;
            }
            result => result?,
        }
        count_call(&self.counts.reads, frames.len() as u64 * SECTORS_PER_PAGE);
        let mut first = None;
        for (at, frame) in (index..).zip(frames) {
            let there = self.pages.insert(at, frame);
            first.get_or_insert(there);
        }
        first.ok_or(Errno::EIO)
    }

    // --- reading and writing ---

    /// Puts bytes from `offset` on into `sink`: as many as it wants and there are. An error half-way is a short read.
    pub fn read(&self, task: &TaskRef, offset: u64, sink: &mut Sink<'_>) -> Result {
        let start = sink.done();
        match self.read_pages(task, offset, sink) {
            Err(e) if sink.done() == start => Err(e),
            _ => Ok(sink.done() - start),
        }
    }

    fn read_pages(&self, task: &TaskRef, offset: u64, sink: &mut Sink<'_>) -> Result<()> {
        let mut at = offset;
        while at < self.bytes && sink.remaining() > 0 {
            sched::preempt_point(task);
            let (index, within) = (at / PAGE, at % PAGE);
            let n = (PAGE - within).min(self.bytes - at).min(sink.remaining() as u64);
            let goes_on = self.next.swap(index + 1, Ordering::Relaxed) == index;
            let wanted = (within + sink.remaining() as u64).div_ceil(PAGE) + if goes_on { AHEAD } else { 0 };
            let frame = self.frame(task, index, wanted)?;
            sink.put_frame(&frame, within as usize, n as usize)?;
            at += n;
        }
        Ok(())
    }

    /// Takes `source` to `offset` on. `ENOSPC` at the end of the device, short before it; `EPERM` if it is read-only.
    pub fn write(&self, task: &TaskRef, offset: u64, source: &mut Source<'_>) -> Result {
        if self.read_only() {
            return Err(Errno::EPERM);
        }
        let room = self.bytes.saturating_sub(offset);
        if room == 0 && source.remaining() > 0 {
            return Err(Errno::ENOSPC);
        }
        source.limit(usize::try_from(room).unwrap_or(usize::MAX));
        let start = source.done();
        match self.write_pages(task, offset, source) {
            Err(e) if source.done() == start => Err(e),
            _ => Ok(source.done() - start),
        }
    }

    fn write_pages(&self, task: &TaskRef, offset: u64, source: &mut Source<'_>) -> Result<()> {
        let mut at = offset;
        while source.remaining() > 0 {
            sched::preempt_point(task);
            let (index, within) = (at / PAGE, at % PAGE);
            let n = (PAGE - within).min(self.bytes - at).min(source.remaining() as u64) as usize;
            let whole = within == 0 && (n as u64 == PAGE || at + n as u64 == self.bytes);
            if whole && self.pages.get(index).is_none() {
                self.write_new(task, index, n, source)?;
            } else {
                let frame = self.frame(task, index, 1)?;
                let result = source.take_into_frame(&frame, within as usize, n);
                self.mark_dirty(index, &frame, false);
                result?;
            }
            at += n as u64;
            self.throttle(task);
        }
        Ok(())
    }

    /// Writes a page that need not be read, since all of it is written.
    fn write_new(&self, task: &TaskRef, index: u64, n: usize, source: &mut Source<'_>) -> Result<()> {
        self.make_room();
        let new = self.new_frame(task)?;
        let before = source.done();
        let result = source.take_into_frame(&new, 0, n);
        let copied = source.done() - before;
        let there = {
            let state = self.state.lock();
            let whole = copied == n && !state.loading.contains(&index);
            whole.then(|| self.pages.insert(index, new.clone()))
        };
        let there = match there {
            Some(there) => there,
            None if copied == 0 => return result,
            None => self.frame(task, index, 1)?,
        };
        if there.pfn() != new.pfn() {
            let mut bytes = alloc::vec![0; copied];
            new.read(0, &mut bytes);
            there.write(0, &bytes);
        }
        self.mark_dirty(index, &there, false);
        result
    }

    fn mark_dirty(&self, index: u64, frame: &Frame, mapped: bool) {
        {
            let mut state = self.state.lock();
            let dirty = state.dirty.entry(index).or_insert_with(|| Dirty { frame: frame.clone(), mapped });
            dirty.mapped |= mapped;
        }
        super::dirtied();
    }

    /// Who writes much waits for the device.
    fn throttle(&self, task: &TaskRef) {
        let most = (hal::frames::stats().total / 8).clamp(256, 16384);
        if self.state.lock().dirty.len() > most {
            let _ = self.write_back(task, 0..u64::MAX, false); // told by the next fsync
        }
    }

    // --- writing back ---

    /// Writes dirty pages of `range` back, `mapped` ones included or not. `EIO`: the next [`Cache::sync`] says so, too.
    pub fn write_back(&self, task: &TaskRef, range: Range<u64>, mapped: bool) -> Result<()> {
        let _flush = self.flush.lock();
        let mut from = range.start;
        let mut result = Ok(());
        while let Some(batch) = self.take_dirty(from..range.end, mapped) {
            sched::preempt_point(task);
            from = batch.last().map_or(u64::MAX, |(index, _)| index.saturating_add(1));
            let runs = runs(&batch);
            if self.storage.write(task, &runs).is_err() {
                self.state.lock().failed = true;
                result = Err(Errno::EIO);
            }
            count_call(&self.counts.writes, batch.len() as u64 * SECTORS_PER_PAGE);
            drop(runs);
            // Whoever maps it may go on writing. (The tree, we, and somebody else refer to it.)
            let still_mapped = batch.into_iter().filter(|(_, d)| d.mapped && d.frame.ref_count() > 2);
            for (index, dirty) in still_mapped {
                self.state.lock().dirty.entry(index).or_insert(dirty).mapped = true;
            }
        }
        result
    }

    /// Takes up to [`BATCH`] dirty pages of `range`, lowest first.
    fn take_dirty(&self, range: Range<u64>, mapped: bool) -> Option<Vec<(u64, Dirty)>> {
        let mut batch = Vec::with_capacity(BATCH);
        if range.is_empty() {
            return None;
        }
        let mut state = self.state.lock();
        let wanted = state.dirty.range(range).filter(|(_, dirty)| mapped || !dirty.mapped);
        let indices: Vec<u64> = wanted.map(|(index, _)| *index).take(BATCH).collect();
        for index in indices {
            batch.extend(state.dirty.remove(&index).map(|dirty| (index, dirty)));
        }
        (!batch.is_empty()).then_some(batch)
    }

    /// Makes what was written to the pages of `range` durable. `EIO` if something could not be written since the last call.
    pub fn sync(&self, task: &TaskRef, range: Range<u64>) -> Result<()> {
        if self.storage.read_only() {
            return Ok(());
        }
        let written = self.write_back(task, range, true);
        let flushed = self.storage.flush(task);
        let failed = core::mem::take(&mut self.state.lock().failed);
        written.and(flushed)?;
        if failed { Err(Errno::EIO) } else { Ok(()) }
    }

    /// As [`Cache::sync`], of bytes.
    pub fn sync_bytes(&self, task: &TaskRef, start: u64, end: u64) -> Result<()> {
        self.sync(task, start / PAGE..end.div_ceil(PAGE))
    }

    /// Gives up what is clean and not in use (`BLKFLSBUF`).
    pub fn invalidate(&self) {
        self.pages.evict(0, usize::MAX);
    }

    /// Erases bytes, which are whole sectors.
    pub fn erase(&self, task: &TaskRef, how: Erase, start: u64, len: u64) -> Result<()> {
        let end = start.checked_add(len).filter(|end| *end <= self.bytes).ok_or(Errno::EINVAL)?;
        if self.read_only() {
            return Err(Errno::EPERM);
        }
        match how {
            // Through the cache, so that whoever reads meanwhile sees the one or the other.
            Erase::Zero => self.zero(task, start, end),
            Erase::Discard => {
                let pages = start / PAGE..end.div_ceil(PAGE);
                self.write_back(task, pages.clone(), true)?;
                self.storage.erase(task, how, start / SECTOR, len / SECTOR)?;
                self.pages.remove(pages.clone());
                self.mappers.drop_shared_pages(self, pages);
                Ok(())
            }
        }
    }

    fn zero(&self, task: &TaskRef, start: u64, end: u64) -> Result<()> {
        const ZEROS: [u8; PAGE as usize] = [0; PAGE as usize];
        let mut at = start;
        while at < end {
            let n = (PAGE - at % PAGE).min(end - at);
            at += self.write(task, at, &mut Source::kernel(ZEROS.get(..n as usize).unwrap_or_default()))?
                as u64;
            if task.killed() {
                return Err(Errno::EINTR);
            }
        }
        Ok(())
    }
}

fn count_call([calls, sectors]: &[AtomicU64; 2], moved: u64) {
    calls.fetch_add(1, Ordering::Relaxed);
    sectors.fetch_add(moved, Ordering::Relaxed);
}

/// Neighbours together.
fn runs(batch: &[(u64, Dirty)]) -> Vec<(u64, Vec<Frame>)> {
    let mut runs: Vec<(u64, Vec<Frame>)> = Vec::new();
    for (index, dirty) in batch {
        match runs.last_mut() {
            Some((first, frames)) if *first + frames.len() as u64 == *index => {
                frames.push(dirty.frame.clone())
            }
            _ => runs.push((*index, alloc::vec![dirty.frame.clone()])),
        }
    }
    runs
}

impl Mappable for Cache {
    fn page(&self, index: u64, write: bool) -> Result<Frame> {
        let frame = self.pages.get(index).ok_or(Errno::EAGAIN)?;
        if write {
            if self.read_only() {
                return Err(Errno::EIO);
            }
            self.mark_dirty(index, &frame, true);
        }
        Ok(frame)
    }

    fn load(&self, index: u64) -> Result<()> {
        sched::with_current(|task| {
            self.frame(task.ok_or(Errno::EIO)?, index, FAULT_WINDOW - index % FAULT_WINDOW).map(drop)
        })
    }

    fn cached_page(&self, index: u64) -> Option<Frame> {
        self.pages.get(index)
    }

    fn cached_pages(&self, first: u64, pages: &mut [Option<Frame>]) {
        self.pages.get_many(first, pages);
    }

    fn next_cached(&self, index: u64) -> Option<u64> {
        self.pages.next_present(index)
    }

    fn len(&self) -> u64 {
        self.bytes
    }

    fn sync(&self, start: u64, end: u64) -> Result<()> {
        sched::with_current(|task| self.sync_bytes(task.ok_or(Errno::EIO)?, start, end))
    }

    fn mappers(&self) -> Option<&Mappers> {
        Some(&self.mappers)
    }
}

#[cfg(test)]
mod tests;
