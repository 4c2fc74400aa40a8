//! The bytes a connection has been given to send and the other host has not acknowledged.
//!
//! They lie in the pages that the program's bytes were copied into, and are sent from there, the first time as well as again.
//! Each part knows its position in the stream, so that any range of it is found by a binary search.

use alloc::collections::VecDeque;

use smallvec::SmallVec;

use super::super::stream::Part;
use crate::errno::{Errno, Result};

/// The pages of one segment.
pub(in super::super::super) type Parts = SmallVec<[Part; 2]>;

/// The queue. Position 0 is the SYN, so the first byte is at 1.
pub(super) struct SendQueue {
    parts: VecDeque<(u64, Part)>,
    end: u64,
}

impl Default for SendQueue {
    fn default() -> Self {
        SendQueue { parts: VecDeque::new(), end: 1 }
    }
}

impl SendQueue {
    /// The position behind the last byte.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Adds bytes. `ENOBUFS`: they are lost.
    pub fn push(&mut self, part: Part) -> Result<()> {
        let len = part.len() as u64;
        // Small writes that follow each other in a page are one part.
        if let Some((_, last)) = self.parts.back_mut()
            && last.end == part.start
            && last.frame.pfn() == part.frame.pfn()
        {
            last.end = part.end;
        } else {
            self.parts.try_reserve(1).map_err(|_| Errno::ENOBUFS)?;
            self.parts.push_back((self.end, part));
        }
        self.end += len;
        Ok(())
    }

    /// Forgets what lies before `position`.
    pub fn release(&mut self, position: u64) {
        while let Some((at, part)) = self.parts.front_mut() {
            let end = *at + part.len() as u64;
            if end > position {
                let done = position.saturating_sub(*at);
                part.start += done as usize;
                *at += done;
                break;
            }
            self.parts.pop_front();
        }
    }

    /// Forgets everything that was not sent.
    pub fn clear(&mut self) {
        self.parts = VecDeque::new();
    }

    /// The bytes from `position` on, `len` at most, in no more than `pages` parts; how many they are.
    pub fn range(&self, position: u64, len: usize, pages: usize) -> (Parts, usize) {
        let mut out = Parts::new();
        let mut done = 0;
        let first = self.parts.partition_point(|(at, part)| at + part.len() as u64 <= position);
        for (at, part) in self.parts.range(first..).take(pages) {
            if done == len {
                break;
            }
            let skip = position.saturating_sub(*at) as usize;
            let start = part.start + skip;
            let n = part.end.saturating_sub(start).min(len - done);
            out.push(Part { frame: part.frame.clone(), start, end: start + n });
            done += n;
        }
        (out, done)
    }
}
