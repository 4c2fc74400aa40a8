//! A sparse array of frames: the page cache of an in-memory file or shared-memory object.
//!
//! Frames are kept in chunks of 64 in an ordered map, so that a lookup costs a few comparisons and an
//! object of one page costs one small chunk. One spin lock guards the array; frames are made outside of it.

use alloc::{boxed::Box, collections::BTreeMap, vec::Vec};
use core::ops::Range;

use ringfence_hal::Frame;

use crate::{errno::Result, sync::SpinLock};

const CHUNK: u64 = 64;

struct Chunk {
    frames: [Option<Frame>; CHUNK as usize],
    used: usize,
}

#[derive(Default)]
struct Chunks {
    map: BTreeMap<u64, Box<Chunk>>,
    count: usize,
}

/// A sparse array of frames, indexed by page number.
pub struct PageTree {
    chunks: SpinLock<Chunks>,
}

impl Default for PageTree {
    fn default() -> Self {
        Self::new()
    }
}

impl PageTree {
    /// An empty array.
    pub const fn new() -> Self {
        PageTree { chunks: SpinLock::new(Chunks { map: BTreeMap::new(), count: 0 }) }
    }

    /// Number of frames held.
    pub fn count(&self) -> usize {
        self.chunks.lock().count
    }

    /// The frame at `index`, if there is one.
    pub fn get(&self, index: u64) -> Option<Frame> {
        self.chunks.lock().get(index).cloned()
    }

    /// Puts the frames from `first` on that are there into `frames`.
    pub fn get_many(&self, first: u64, frames: &mut [Option<Frame>]) {
        let chunks = self.chunks.lock();
        let (mut at, mut rest) = (first, frames);
        while !rest.is_empty() {
            let in_chunk = (CHUNK - at % CHUNK).min(rest.len() as u64) as usize;
            let (now, later) = rest.split_at_mut(in_chunk);
            let from = (at % CHUNK) as usize;
            if let Some(found) =
                chunks.map.get(&(at / CHUNK)).and_then(|chunk| chunk.frames.get(from..from + in_chunk))
            {
                now.clone_from_slice(found);
            }
            at += in_chunk as u64;
            rest = later;
        }
    }

    /// The frame at `index`; if there is none, the one that `make` makes.
    pub fn get_or_insert_with(&self, index: u64, make: impl FnOnce() -> Result<Frame>) -> Result<Frame> {
        if let Some(frame) = self.get(index) {
            return Ok(frame);
        }
        Ok(self.insert(index, make()?))
    }

    /// Puts `frame` at `index` unless somebody was quicker; returns the one that is there now.
    pub fn insert(&self, index: u64, frame: Frame) -> Frame {
        let key = index / CHUNK;
        let new = || Box::new(Chunk { frames: [const { None }; CHUNK as usize], used: 0 });
        let mut spare = None;
        let mut chunks = self.chunks.lock();
        if !chunks.map.contains_key(&key) {
            drop(chunks); // no allocation under the lock
            spare = Some(new());
            chunks = self.chunks.lock();
        }
        if let Some(present) = chunks.get(index) {
            return present.clone();
        }
        let chunk = chunks.map.entry(key).or_insert_with(|| spare.unwrap_or_else(new));
        if let Some(slot) = chunk.frames.get_mut((index % CHUNK) as usize) {
            *slot = Some(frame.clone());
            chunk.used += 1;
            chunks.count += 1;
        }
        frame
    }

    /// Removes the frames in `range`. They are dropped after the lock is released. Returns how many there were.
    pub fn remove(&self, range: Range<u64>) -> usize {
        let mut removed = 0;
        let mut next = range.start;
        // A chunk at a time, so that the lock is never held for long.
        loop {
            let mut dropped: Vec<Frame> = Vec::with_capacity(CHUNK as usize);
            let mut chunks = self.chunks.lock();
            let Some((&key, chunk)) = chunks.map.range_mut(next / CHUNK..).next() else { break };
            let first = key * CHUNK;
            if first >= range.end {
                break;
            }
            for (i, slot) in chunk.frames.iter_mut().enumerate() {
                if range.contains(&(first + i as u64))
                    && let Some(frame) = slot.take()
                {
                    dropped.push(frame);
                }
            }
            chunk.used -= dropped.len();
            let empty = chunk.used == 0;
            let chunk = if empty { chunks.map.remove(&key) } else { None };
            chunks.count -= dropped.len();
            drop(chunks);
            drop(chunk);
            removed += dropped.len();
            match first.checked_add(CHUNK) {
                Some(n) if n < range.end => next = n,
                _ => break,
            }
        }
        removed
    }

    /// Removes the frames that nobody else refers to; returns how many there were.
    pub fn evict_unused(&self) -> usize {
        self.evict(0, usize::MAX).0
    }

    /// The same from index `from` on until there were `most`; also returns where to go on, 0 at the end.
    pub fn evict(&self, from: u64, most: usize) -> (usize, u64) {
        let mut removed = 0;
        let mut next = from / CHUNK;
        while removed < most {
            let mut dropped: Vec<Frame> = Vec::with_capacity(CHUNK as usize);
            let mut chunks = self.chunks.lock();
            let Some((&key, chunk)) = chunks.map.range_mut(next..).next() else { return (removed, 0) };
            for slot in &mut chunk.frames {
                // Nobody can get another reference but from here, and that is locked.
                if slot.as_ref().is_some_and(|frame| frame.ref_count() == 1) {
                    dropped.extend(slot.take());
                }
            }
            chunk.used -= dropped.len();
            let empty = chunk.used == 0;
            let chunk = if empty { chunks.map.remove(&key) } else { None };
            chunks.count -= dropped.len();
            drop(chunks);
            drop(chunk);
            removed += dropped.len();
            next = key + 1;
        }
        (removed, next.saturating_mul(CHUNK))
    }

    /// The first index at or after `index` that has a frame (`SEEK_DATA`).
    pub fn next_present(&self, index: u64) -> Option<u64> {
        let chunks = self.chunks.lock();
        for (key, chunk) in chunks.map.range(index / CHUNK..) {
            for (i, slot) in chunk.frames.iter().enumerate() {
                let at = key * CHUNK + i as u64;
                if at >= index && slot.is_some() {
                    return Some(at);
                }
            }
        }
        None
    }

    /// The first index at or after `index` that has no frame (`SEEK_HOLE`).
    pub fn next_absent(&self, index: u64) -> u64 {
        let chunks = self.chunks.lock();
        let mut at = index;
        while chunks.get(at).is_some() {
            at += 1;
        }
        at
    }
}

impl Chunks {
    fn get(&self, index: u64) -> Option<&Frame> {
        self.map.get(&(index / CHUNK))?.frames.get((index % CHUNK) as usize)?.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> Frame {
        Frame::alloc_zeroed().expect("memory")
    }

    #[test]
    fn keeps_the_first_frame_of_an_index() {
        let tree = PageTree::new();
        let a = tree.insert(70, frame());
        let b = tree.insert(70, frame());
        assert_eq!(a.pfn(), b.pfn());
        assert_eq!(tree.count(), 1);
        assert_eq!(tree.get(70).map(|f| f.pfn()), Some(a.pfn()));
        assert!(tree.get(71).is_none());
    }

    #[test]
    fn many_at_once_are_those_of_each_index() {
        let tree = PageTree::new();
        for i in [60, 63, 64, 70] {
            tree.insert(i, frame());
        }
        let mut frames: [Option<Frame>; 16] = Default::default();
        tree.get_many(58, &mut frames);
        for (i, frame) in frames.iter().enumerate() {
            assert_eq!(frame.as_ref().map(Frame::pfn), tree.get(58 + i as u64).map(|f| f.pfn()), "{i}");
        }
    }

    #[test]
    fn evicts_only_what_nobody_uses() {
        let tree = PageTree::new();
        let used = tree.insert(3, frame());
        for i in [4, 70, 5000] {
            tree.insert(i, frame());
        }
        assert_eq!(tree.evict(64, 1), (1, 128));
        assert_eq!(tree.evict_unused(), 2);
        assert_eq!(tree.next_present(0), Some(3));
        drop(used);
        assert_eq!(tree.evict_unused(), 1);
        assert_eq!(tree.count(), 0);
    }

    #[test]
    fn removes_ranges_across_chunks() {
        let tree = PageTree::new();
        for i in [0, 1, 63, 64, 65, 200, 1000] {
            tree.insert(i, frame());
        }
        assert_eq!(tree.remove(1..200), 4);
        assert_eq!(tree.next_present(1), Some(200));
        assert_eq!(tree.next_absent(0), 1);
        assert_eq!(tree.remove(0..u64::MAX), 3);
        assert_eq!(tree.count(), 0);
        assert_eq!(tree.next_present(0), None);
    }
}
