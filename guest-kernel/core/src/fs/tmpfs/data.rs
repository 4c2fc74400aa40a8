//! Content of a regular file: frames where it was written, the origin's pages elsewhere.
//!
//! A byte of page *i* comes from the frame at *i* if there is one; else from the origin, if the byte lies
//! below `origin_len`; else it is zero. `origin_len` starts as the origin's size and only shrinks (by
//! truncation); a hole punched below it is a zero frame.
//!
//! Writers hold the sleeping `write` lock over the copy from the user, so that appends are atomic and sizes
//! change one at a time. Readers and page faults hold nothing: they take a reference to a frame under the
//! array's spin lock, and copy after it.
//!
//! Invariant: bytes of a frame behind the end of the file are zero, unless a mapping wrote there.

use alloc::{sync::Arc, vec::Vec};
use core::{
    ops::Range,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
};

use ringfence_hal as hal;
use ringfence_hal::Frame;

use super::Shared;
use crate::{
    errno::{Errno, Result},
    fs::inode::{FallocateMode, InodeRef, SeekTarget},
    io::{Sink, Source},
    mm::{
        Mappable, Mappers, PageTree,
        charge::{self, Kind},
    },
    sync::{Mutex, MutexGuard},
};

const PAGE: u64 = hal::PAGE_SIZE as u64;

/// Bytes written until it is asked whether to go on.
const UNASKED: u64 = 128 * 1024;

/// Asked now and then in what takes long; an error ends it.
pub(super) type GoOn<'a> = Option<&'a mut dyn FnMut() -> Result<()>>;

/// `F_SEAL_SEAL`: no more seals.
pub const SEAL_SEAL: u32 = 1;
/// `F_SEAL_SHRINK`.
pub const SEAL_SHRINK: u32 = 2;
/// `F_SEAL_GROW`.
pub const SEAL_GROW: u32 = 4;
/// `F_SEAL_WRITE`.
pub const SEAL_WRITE: u32 = 8;
/// `F_SEAL_FUTURE_WRITE`.
pub const SEAL_FUTURE_WRITE: u32 = 16;
/// `F_SEAL_EXEC`: the mode's execute bits stay.
pub const SEAL_EXEC: u32 = 32;
const SEALS: u32 = 63;

/// Content of a regular file.
pub(super) struct FileData {
    pages: PageTree,
    size: AtomicU64,
    origin: Option<Origin>,
    origin_len: AtomicU64,
    /// Somebody opened it for writing: mappings get frames of our own from now on.
    writable: AtomicBool,
    seals: AtomicU32,
    write: Mutex<()>,
    pub(super) mappers: Mappers,
}

struct Origin {
    inode: InodeRef,
    pages: Option<Arc<dyn Mappable>>,
}

impl FileData {
    pub(super) fn new(origin: Option<InodeRef>) -> FileData {
        let size = origin.as_ref().map_or(0, |o| o.size());
        FileData {
            pages: PageTree::new(),
            size: AtomicU64::new(size),
            origin: origin.map(|inode| Origin { pages: inode.clone().mappable(), inode }),
            origin_len: AtomicU64::new(size),
            writable: AtomicBool::new(false),
            seals: AtomicU32::new(SEAL_SEAL),
            write: Mutex::new(()),
            mappers: Mappers::new(),
        }
    }

    pub(super) fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    /// Frames of its own.
    pub(super) fn own_pages(&self) -> usize {
        self.pages.count()
    }

    /// Bytes of memory and image it takes, in units of 512 bytes.
    pub(super) fn blocks(&self) -> u64 {
        let origin = self.origin_len.load(Ordering::Relaxed).div_ceil(PAGE);
        (self.own_pages() as u64).max(origin) * (PAGE / 512)
    }

    pub(super) fn opened_for_writing(&self) {
        self.writable.store(true, Ordering::Release);
    }

    /// Nothing but the origin's content so far.
    fn pristine(&self) -> bool {
        self.origin_len.load(Ordering::Acquire) == self.size() && self.pages.count() == 0
    }

    pub(super) fn read(&self, offset: u64, sink: &mut Sink<'_>) -> Result {
        let size = self.size();
        if offset >= size {
            return Ok(0);
        }
        if let Some(origin) = &self.origin
            && self.pristine()
            && origin.inode.size() == size
        {
            return origin.inode.read_at(offset, sink);
        }
        let start = sink.done();
        let mut at = offset;
        while at < size && sink.remaining() > 0 {
            let within = at % PAGE;
            let n = (PAGE - within).min(size - at).min(sink.remaining() as u64);
            match self.pages.get(at / PAGE) {
                Some(frame) => sink.put_frame(&frame, within as usize, n as usize)?,
                None => self.read_origin(at, n, sink)?,
            }
            at += n;
        }
        Ok(sink.done() - start)
    }

    /// Puts `n` bytes that lie in one page without a frame.
    fn read_origin(&self, at: u64, n: u64, sink: &mut Sink<'_>) -> Result<()> {
        let below = self.origin_len.load(Ordering::Acquire).saturating_sub(at).min(n);
        match (&self.origin, below) {
            (Some(origin), 1..) => {
                let pages = origin.pages.as_ref().ok_or(Errno::EIO)?;
                sink.put_frame(&pages.page(at / PAGE, false)?, (at % PAGE) as usize, below as usize)?;
                sink.put_zeros((n - below) as usize)
            }
            _ => sink.put_zeros(n as usize),
        }
    }

    /// The frame of our own at `index`, made from the origin's page or zeros if there is none.
    fn own_page(&self, fs: &Shared, index: u64) -> Result<Frame> {
        if let Some(frame) = self.pages.get(index) {
            return Ok(frame);
        }
        let below =
            self.origin_len.load(Ordering::Acquire).saturating_sub(index.saturating_mul(PAGE)).min(PAGE);
        let frame = match self.origin.as_ref().and_then(|o| o.pages.as_ref()) {
            Some(pages) if below > 0 => {
                let frame = charge::copied(&pages.page(index, false)?, Kind::Shared)?;
                frame.zero(below as usize..PAGE as usize);
                frame
            }
            _ => charge::zeroed(Kind::Shared)?,
        };
        fs.charge_page()?;
        let there = self.pages.insert(index, frame.clone());
        if there.pfn() != frame.pfn() {
            fs.release_pages(1); // a fault or another writer was faster
        }
        Ok(there)
    }

    /// Writes at `offset`, or at the end.
    pub(super) fn write(
        &self,
        fs: &Shared,
        offset: Option<u64>,
        source: &mut Source<'_>,
        go_on: GoOn<'_>,
    ) -> Result<(u64, usize)> {
        let _guard = self.write.lock();
        self.opened_for_writing();
        let offset = offset.unwrap_or_else(|| self.size());
        let start = source.done();
        let end = offset.checked_add(source.remaining() as u64).filter(|e| *e <= i64::MAX as u64);
        let end = end.ok_or(Errno::EFBIG)?;
        let seals = self.seals.load(Ordering::Relaxed);
        if seals & (SEAL_WRITE | SEAL_FUTURE_WRITE) != 0 {
            return Err(Errno::EPERM);
        }
        // Up to the page that would make it grow.
        let limit = if seals & SEAL_GROW != 0 { self.size() } else { end };
        let result = self.write_pages(fs, offset, limit, source, go_on);
        let n = source.done() - start;
        if n > 0 {
            self.size.fetch_max(offset + n as u64, Ordering::AcqRel);
        }
        match result {
            Err(e) if n == 0 => Err(e),
            _ => Ok((offset + n as u64, n)),
        }
    }

    fn write_pages(
        &self,
        fs: &Shared,
        offset: u64,
        limit: u64,
        source: &mut Source<'_>,
        mut go_on: GoOn<'_>,
    ) -> Result<()> {
        let mut at = offset;
        let mut ask_at = offset.saturating_add(UNASKED);
        while source.remaining() > 0 {
            if at >= ask_at {
                ask_at = at.saturating_add(UNASKED);
                if let Some(go_on) = &mut go_on {
                    go_on()?;
                }
            }
            let within = at % PAGE;
            let n = (PAGE - within).min(source.remaining() as u64);
            if at + n > limit {
                return Err(Errno::EPERM);
            }
            let frame = self.own_page(fs, at / PAGE)?;
            source.take_into_frame(&frame, within as usize, n as usize)?;
            at += n;
        }
        Ok(())
    }

    /// Sets the size; says from which page on mappings are stale, which the caller tells the mappers while
    /// it holds the returned lock.
    pub(super) fn truncate(&self, fs: &Shared, size: u64) -> Result<(Option<u64>, MutexGuard<'_, ()>)> {
        let guard = self.write.lock();
        if size > i64::MAX as u64 {
            return Err(Errno::EFBIG);
        }
        let old = self.size();
        let seals = self.seals.load(Ordering::Relaxed);
        if (seals & SEAL_SHRINK != 0 && size < old) || (seals & SEAL_GROW != 0 && size > old) {
            return Err(Errno::EPERM);
        }
        self.opened_for_writing();
        self.origin_len.fetch_min(size, Ordering::AcqRel);
        self.size.store(size, Ordering::Release);
        if size >= old {
            return Ok((None, guard));
        }
        let first = size.div_ceil(PAGE);
        fs.release_pages(self.pages.remove(first..u64::MAX));
        if !size.is_multiple_of(PAGE)
            && let Some(frame) = self.pages.get(size / PAGE)
        {
            frame.zero((size % PAGE) as usize..PAGE as usize);
        }
        Ok((Some(first), guard))
    }

    /// Drops the pages from `first` on once more, after mappings were told: a fault that looked at the old
    /// size may have made one meanwhile. The caller holds the write lock.
    pub(super) fn drop_late_pages(&self, fs: &Shared, first: u64) {
        fs.release_pages(self.pages.remove(first..u64::MAX));
    }

    /// The pages it returns were punched out: the caller tells the mappers while it holds the returned lock.
    pub(super) fn fallocate(
        &self,
        fs: &Shared,
        mode: FallocateMode,
        offset: u64,
        len: u64,
        go_on: &mut dyn FnMut() -> Result<()>,
    ) -> Result<(Option<Range<u64>>, MutexGuard<'_, ()>)> {
        let mut punched = None;
        let end = offset.checked_add(len).filter(|e| *e <= i64::MAX as u64).ok_or(Errno::EFBIG)?;
        let guard = self.write.lock();
        let (size, seals) = (self.size(), self.seals.load(Ordering::Relaxed));
        let keep = mode.contains(FallocateMode::KEEP_SIZE);
        if mode.intersects(FallocateMode::PUNCH_HOLE | FallocateMode::ZERO_RANGE) {
            if seals & (SEAL_WRITE | SEAL_FUTURE_WRITE) != 0 {
                return Err(Errno::EPERM);
            }
            self.opened_for_writing();
            let end = end.min(size.max(offset));
            self.zero(fs, offset, end)?;
            if mode.contains(FallocateMode::PUNCH_HOLE) {
                punched = self.punch(fs, offset, end, size);
            }
        }
        if !keep && end > size && seals & SEAL_GROW != 0 {
            return Err(Errno::EPERM);
        }
        if !mode.contains(FallocateMode::PUNCH_HOLE) {
            self.preallocate(fs, offset / PAGE..end.div_ceil(PAGE), go_on)?;
        }
        if !keep {
            self.size.fetch_max(end, Ordering::AcqRel);
        }
        Ok((punched, guard))
    }

    /// Gives back the frames of whole pages of a hole where the origin has nothing: which those were.
    fn punch(&self, fs: &Shared, start: u64, end: u64, size: u64) -> Option<Range<u64>> {
        let origin = self.origin_len.load(Ordering::Relaxed).div_ceil(PAGE);
        // The last page goes whole if all of the file in it does.
        let last = if end == size { end.div_ceil(PAGE) } else { end / PAGE };
        let pages = start.div_ceil(PAGE).max(origin)..last;
        if pages.is_empty() {
            return None;
        }
        fs.release_pages(self.pages.remove(pages.clone()));
        Some(pages)
    }

    /// Makes all pages of a range, or none beyond the end of the file.
    fn preallocate(
        &self,
        fs: &Shared,
        pages: Range<u64>,
        go_on: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        let free = fs.max_pages.load(Ordering::Relaxed).saturating_sub(fs.pages.load(Ordering::Relaxed));
        let wanted = (pages.end - pages.start).saturating_sub(self.pages.count() as u64);
        if wanted > free {
            return Err(Errno::ENOSPC);
        }
        // What is before the end may have been seen by now.
        let unseen = self.size().div_ceil(PAGE);
        let mut made: Vec<Range<u64>> = Vec::new();
        for index in pages {
            if self.pages.get(index).is_some() {
                continue;
            }
            if let Err(e) = go_on().and_then(|()| self.own_page(fs, index)) {
                made.into_iter().for_each(|run| fs.release_pages(self.pages.remove(run)));
                return Err(e);
            }
            match made.last_mut() {
                Some(run) if run.end == index => run.end += 1,
                _ if index >= unseen => made.push(index..index + 1),
                _ => {}
            }
        }
        Ok(())
    }

    /// Makes bytes zero. The frames stay, because mappings have them; a page that has none and is the
    /// origin's gets a zero one.
    fn zero(&self, fs: &Shared, start: u64, end: u64) -> Result<()> {
        let mut at = start;
        while at < end {
            let stop = end.min((at / PAGE + 1) * PAGE);
            let range = (at % PAGE) as usize..((stop - 1) % PAGE + 1) as usize;
            let backed = at < self.origin_len.load(Ordering::Relaxed);
            match self.pages.get(at / PAGE) {
                Some(frame) => frame.zero(range),
                None if backed => self.own_page(fs, at / PAGE)?.zero(range),
                None => match self.pages.next_present(at / PAGE) {
                    Some(next) if next * PAGE < end => {
                        at = next * PAGE;
                        continue;
                    }
                    _ => break,
                },
            }
            at = stop;
        }
        Ok(())
    }

    /// `SEEK_DATA` and `SEEK_HOLE`; `offset` is below the size.
    pub(super) fn seek(&self, target: SeekTarget, offset: u64) -> Result<u64> {
        let (size, origin) = (self.size(), self.origin_len.load(Ordering::Acquire));
        match target {
            SeekTarget::Data if offset < origin => Ok(offset),
            SeekTarget::Data => {
                let next = self.pages.next_present(offset / PAGE).ok_or(Errno::ENXIO)?;
                Some((next * PAGE).max(offset)).filter(|at| *at < size).ok_or(Errno::ENXIO)
            }
            SeekTarget::Hole => {
                let from = offset.max(origin.next_multiple_of(PAGE));
                Ok((self.pages.next_absent(from / PAGE).saturating_mul(PAGE)).max(from).min(size))
            }
        }
    }

    /// For a page fault.
    pub(super) fn page(&self, fs: &Shared, index: u64) -> Result<Frame> {
        if let Some(frame) = self.cached_page(index) {
            return Ok(frame);
        }
        self.own_page(fs, index)
    }

    /// As [`FileData::page`], if that needs no memory.
    pub(super) fn cached_page(&self, index: u64) -> Option<Frame> {
        if let Some(frame) = self.pages.get(index) {
            return Some(frame);
        }
        self.origin_page(self.origin.as_ref()?, index)
    }

    /// A page of what the file was made from, as long as they are the same.
    fn origin_page(&self, origin: &Origin, index: u64) -> Option<Frame> {
        let untouched =
            !self.writable.load(Ordering::Acquire) && self.origin_len.load(Ordering::Acquire) == self.size();
        if untouched { origin.pages.as_ref()?.page(index, false).ok() } else { None }
    }

    /// Puts the pages from `first` on for which [`FileData::page`] needs no memory into `pages`.
    pub(super) fn cached_pages(&self, first: u64, pages: &mut [Option<Frame>]) {
        self.pages.get_many(first, pages);
        let Some(origin) = &self.origin else { return };
        for (index, page) in (first..).zip(pages) {
            if page.is_none() {
                *page = self.origin_page(origin, index);
            }
        }
    }

    pub(super) fn allow_seals(&self) {
        self.seals.store(0, Ordering::Relaxed);
    }

    pub(super) fn seals(&self) -> u32 {
        self.seals.load(Ordering::Relaxed)
    }

    pub(super) fn seal_mode(&self) {
        self.seals.store(SEAL_EXEC, Ordering::Relaxed);
    }

    /// As [`Mappable::next_cached`].
    pub(super) fn next_cached(&self, index: u64) -> Option<u64> {
        match &self.origin {
            Some(_) if self.cached_page(index).is_some() => Some(index),
            _ => self.pages.next_present(index),
        }
    }

    /// `F_ADD_SEALS`. `EBUSY` to seal against writing while `writable` finds a shared mapping that may write.
    pub(super) fn add_seals(&self, seals: u32, writable: impl FnOnce(&Self) -> bool) -> Result<()> {
        if seals & !SEALS != 0 {
            return Err(Errno::EINVAL);
        }
        let _guard = self.write.lock();
        if self.seals() & SEAL_SEAL != 0 {
            return Err(Errno::EPERM);
        }
        // Set first: a mapping made from now on cannot become writable.
        let old = self.seals.fetch_or(seals, Ordering::SeqCst);
        if seals & !old & SEAL_WRITE != 0 && writable(self) {
            self.seals.store(old, Ordering::SeqCst);
            return Err(Errno::EBUSY);
        }
        Ok(())
    }
}
