//! Content: what is cached of it, and moving it.
//!
//! Pages are read several at once, straight into frames that then are the cache's. A page behind the end is zero behind the
//! end; whatever the other side puts there is overwritten.

use alloc::{collections::BTreeMap, sync::Arc, vec::Vec};
use core::ops::Range;

use ringfence_hal as hal;
use ringfence_hal::Frame;
use zerocopy::IntoBytes;

use super::{
    Shared,
    connection::Question,
    wire::{ReadIn, WriteIn, WriteOut, op},
};
use crate::{
    drivers::fs::MAX_FRAMES,
    errno::{Errno, Result},
    io::{Sink, Source},
    mm::{
        Mappers, PageTree,
        charge::{self, Kind},
        reclaim,
    },
    sync::{Mutex, Once, SpinLock},
};

const PAGE: u64 = hal::PAGE_SIZE as u64;
/// Most bytes of one request.
const MOST: u64 = MAX_FRAMES as u64 * PAGE;

/// The content of one regular file.
pub struct Data {
    pages: Once<Arc<PageTree>>,
    /// What mappings may have written and the host does not have. The reference keeps the frame while nothing maps it.
    dirty: SpinLock<BTreeMap<u64, Frame>>,
    /// Held by whoever changes content or size.
    pub write: Mutex<()>,
    /// Who maps it.
    pub mappers: Mappers,
}

impl Data {
    pub const fn new() -> Data {
        Data {
            pages: Once::new(),
            dirty: SpinLock::new(BTreeMap::new()),
            write: Mutex::new(()),
            mappers: Mappers::new(),
        }
    }

    fn pages(&self) -> &PageTree {
        self.pages.call_once(|| {
            let pages = Arc::new(PageTree::new());
            reclaim::add_cache(&pages);
            pages
        })
    }

    /// The cached frame of a page.
    pub fn cached(&self, index: u64) -> Option<Frame> {
        self.pages.get()?.get(index)
    }

    /// Those from `first` on.
    pub fn cached_many(&self, first: u64, frames: &mut [Option<Frame>]) {
        if let Some(pages) = self.pages.get() {
            pages.get_many(first, frames);
        }
    }

    /// The first cached page at or after `index`.
    pub fn next_cached(&self, index: u64) -> Option<u64> {
        self.pages.get()?.next_present(index)
    }

    /// Forgets pages, dirty ones as well.
    pub fn remove(&self, range: Range<u64>) {
        let dropped = {
            let mut dirty = self.dirty.lock();
            let mut after = dirty.split_off(&range.start);
            let mut rest = after.split_off(&range.end);
            dirty.append(&mut rest);
            after
        };
        drop(dropped);
        if let Some(pages) = self.pages.get() {
            pages.remove(range);
        }
    }

    /// Forgets what can be read again.
    pub fn remove_clean(&self) {
        let Some(pages) = self.pages.get() else { return };
        let dirty: Vec<u64> = self.dirty.lock().keys().copied().collect();
        let mut from = 0;
        for index in dirty {
            pages.remove(from..index);
            from = index + 1;
        }
        pages.remove(from..u64::MAX);
    }

    /// Makes the bytes of the page that `size` ends in zero from there on, if it is cached.
    pub fn zero_tail(&self, size: u64) {
        if let Some(frame) = self.cached(size / PAGE) {
            frame.zero((size % PAGE) as usize..PAGE as usize);
        }
    }

    /// Notes that a mapping may write to a page; whether it is the first dirty one.
    pub fn make_dirty(&self, index: u64, frame: &Frame) -> bool {
        let mut dirty = self.dirty.lock();
        let first = dirty.is_empty();
        dirty.entry(index).or_insert_with(|| frame.clone());
        first
    }

    /// Takes what is dirty.
    pub fn take_dirty(&self) -> BTreeMap<u64, Frame> {
        core::mem::take(&mut *self.dirty.lock())
    }

    /// Reads the pages from `first` on that lie below `size` into new frames: at most `most`, up to the first cached one.
    pub fn fetch(&self, fs: &Shared, node: u64, first: u64, most: u64, size: u64) -> Result<Vec<Frame>> {
        let end = size.div_ceil(PAGE).min(first.saturating_add(most.min(MAX_FRAMES as u64)));
        let mut frames = Vec::with_capacity(end.saturating_sub(first) as usize);
        for index in first..end {
            if index > first && self.cached(index).is_some() {
                break;
            }
            match charge::zeroed(Kind::Cache) {
                Ok(frame) => frames.push(frame),
                // Fewer will do.
                Err(_) if !frames.is_empty() => break,
                Err(e) => return Err(e.into()),
            }
        }
        if frames.is_empty() {
            return Ok(frames);
        }
        let want = frames.len() as u64 * PAGE;
        let body = ReadIn { offset: first * PAGE, size: want as u32, ..ReadIn::default() };
        let question = Question {
            opcode: op::READ,
            node,
            body: &[body.as_bytes()],
            receive: &frames,
            ..Question::default()
        };
        let got = fs.connection.ask_data(&question)? as u64;
        // Behind what came nothing was promised.
        let valid = got.min(size.saturating_sub(first * PAGE));
        for (n, frame) in (0u64..).zip(&frames) {
            let within = valid.saturating_sub(n * PAGE).min(PAGE);
            if within < PAGE {
                frame.zero(within as usize..PAGE as usize);
            }
        }
        Ok(frames)
    }

    /// Makes page `index` cached, and some behind it. EINVAL beyond the end. `version` counts our changes of the content: what was
    /// read before one of them may be older than what it has put into the cache, or would have, had the page been there.
    pub fn load(
        &self,
        fs: &Shared,
        node: u64,
        index: u64,
        size: u64,
        version: &dyn Fn() -> u64,
    ) -> Result<Frame> {
        loop {
            let before = version();
            let frames = self.fetch(fs, node, index, MAX_FRAMES as u64, size)?;
            let pages = self.pages();
            let (mut first, mut ours) = (None, Vec::new());
            for (at, frame) in (index..).zip(frames) {
                let pfn = frame.pfn();
                let kept = pages.insert(at, frame);
                if kept.pfn() == pfn {
                    ours.push(at);
                }
                first.get_or_insert(kept);
            }
            let first = first.ok_or(Errno::EINVAL)?;
            if version() == before {
                return Ok(first);
            }
            let dirty: Vec<u64> = self.dirty.lock().keys().copied().collect();
            for at in ours.into_iter().filter(|at| dirty.binary_search(at).is_err()) {
                pages.remove(at..at + 1);
            }
        }
    }

    /// Reads at `offset` by way of the cache.
    pub fn read_cached(
        &self,
        fs: &Shared,
        node: u64,
        offset: u64,
        size: u64,
        version: &dyn Fn() -> u64,
        sink: &mut Sink<'_>,
    ) -> Result {
        let start = sink.done();
        let mut at = offset;
        while at < size && sink.remaining() > 0 {
            let within = at % PAGE;
            let n = (PAGE - within).min(size - at).min(sink.remaining() as u64);
            let frame = match self.cached(at / PAGE) {
                Some(frame) => frame,
                None => self.load(fs, node, at / PAGE, size, version)?,
            };
            sink.put_frame(&frame, within as usize, n as usize)?;
            at += n;
        }
        Ok(sink.done() - start)
    }

    /// Reads at `offset` past the cache.
    pub fn read_through(
        &self,
        fs: &Shared,
        node: u64,
        offset: u64,
        size: u64,
        sink: &mut Sink<'_>,
    ) -> Result {
        let start = sink.done();
        let mut at = offset;
        while at < size && sink.remaining() > 0 {
            let (first, within) = (at / PAGE, at % PAGE);
            let want = (size - at).min(sink.remaining() as u64);
            let pages = (within + want).div_ceil(PAGE).min(MAX_FRAMES as u64);
            // `fetch` stops at cached pages, which here mean nothing: a mapping's. The next round begins with them.
            let frames = self.fetch(fs, node, first, pages, size)?;
            if frames.is_empty() {
                break;
            }
            for frame in &frames {
                let within = at % PAGE;
                let n = (PAGE - within).min(size - at).min(sink.remaining() as u64);
                sink.put_frame(frame, within as usize, n as usize)?;
                at += n;
            }
        }
        Ok(sink.done() - start)
    }

    /// Sends bytes `range` of `frames` (counted from the first frame's start) to `offset`; how many were taken.
    pub fn send(&self, fs: &Shared, node: u64, frames: &[Frame], range: Range<usize>, offset: u64) -> Result {
        let len = range.end.saturating_sub(range.start);
        let body = WriteIn { offset, size: len as u32, ..WriteIn::default() };
        let question = Question {
            opcode: op::WRITE,
            node,
            body: &[body.as_bytes()],
            send: (frames, range),
            ..Question::default()
        };
        let answer: WriteOut = fs.connection.ask(&question)?;
        let taken = answer.size as usize;
        if taken > len { Err(Errno::EIO) } else { Ok(taken) }
    }

    /// Writes at `offset`, up to a request's worth; how many bytes the host has taken, and no more are taken from `source`. The
    /// caller holds the write mutex.
    pub fn write_some(&self, fs: &Shared, node: u64, offset: u64, source: &mut Source<'_>) -> Result {
        let mark = source.mark();
        let taken = self.try_write(fs, node, offset, source);
        source.rewind(&mark, *taken.as_ref().unwrap_or(&0));
        taken
    }

    /// The same, but for what is taken from `source`.
    fn try_write(&self, fs: &Shared, node: u64, offset: u64, source: &mut Source<'_>) -> Result {
        let within = offset % PAGE;
        let want = (source.remaining() as u64).min(MOST - within);
        let count = (within + want).div_ceil(PAGE);
        let mut frames = Vec::with_capacity(count as usize);
        let mut filled = 0;
        for n in 0..count {
            let frame = match charge::zeroed(Kind::Cache) {
                Ok(frame) => frame,
                Err(_) if n > 0 => break,
                Err(e) => return Err(e.into()),
            };
            let from = if n == 0 { within } else { 0 };
            let part = (PAGE - from).min(want - filled);
            match source.take_into_frame(&frame, from as usize, part as usize) {
                Ok(()) => {}
                // What was taken before counts.
                Err(_) if n > 0 => break,
                Err(e) => return Err(e),
            }
            filled += part;
            frames.push(frame);
        }
        let range = within as usize..(within + filled) as usize;
        let taken = self.send(fs, node, &frames, range, offset)? as u64;
        self.overwrite(fs, offset, &frames, taken);
        Ok(taken as usize)
    }

    /// Puts into the cache what was written.
    fn overwrite(&self, fs: &Shared, offset: u64, frames: &[Frame], len: u64) {
        let first = offset / PAGE;
        for (n, frame) in (0u64..).zip(frames) {
            let from = (offset % PAGE).saturating_sub(n * PAGE);
            let to = (offset % PAGE + len).saturating_sub(n * PAGE).min(PAGE);
            if from >= to {
                continue;
            }
            match self.cached(first + n) {
                Some(cached) => copy(frame, &cached, from as usize..to as usize),
                None if fs.keeps_content() && to - from == PAGE => {
                    self.pages().insert(first + n, frame.clone());
                }
                None => {}
            }
        }
    }
}

fn copy(from: &Frame, to: &Frame, range: Range<usize>) {
    let mut buffer = [0; 512];
    let mut at = range.start;
    while at < range.end {
        let n = (range.end - at).min(buffer.len());
        let Some(bytes) = buffer.get_mut(..n) else { return };
        from.read(at, bytes);
        to.write(at, bytes);
        at += n;
    }
}
