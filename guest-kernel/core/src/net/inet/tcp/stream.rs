//! The bytes of one direction of a connection on their way: a queue of pages.
//!
//! Bytes are copied once into pages and once out of them, as in a pipe. The last page is filled up before another is taken,
//! so many small writes take no more memory than a large one. One page is kept when the stream is empty, so that questions
//! and answers that follow each other allocate nothing.

use alloc::collections::VecDeque;

use ringfence_hal::{Frame, PAGE_SIZE};

use crate::{
    errno::Result,
    io::{Sink, Source},
    mm::charge::{self, Kind},
};

/// A part of one page with bytes in it.
#[derive(Clone)]
pub(crate) struct Part {
    pub frame: Frame,
    pub start: usize,
    pub end: usize,
}

impl Part {
    pub fn len(&self) -> usize {
        self.end.saturating_sub(self.start)
    }
}

/// The bytes. How many there may be is the caller's business.
#[derive(Default)]
pub(super) struct Stream {
    parts: VecDeque<Part>,
    spare: Option<Frame>,
}

impl Stream {
    /// Moves at most `max` bytes of `source` in. The error only if nothing was moved.
    pub fn fill(&mut self, source: &mut Source<'_>, max: usize) -> Result {
        let max = max.min(source.remaining());
        let mut done = 0;
        while done < max {
            match self.fill_page(source, max - done) {
                Ok(n) => done += n,
                Err(_) if done > 0 => break,
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn fill_page(&mut self, source: &mut Source<'_>, max: usize) -> Result {
        if self.parts.back().is_none_or(|last| last.end == PAGE_SIZE) {
            self.parts.try_reserve(1).map_err(|_| crate::errno::Errno::ENOBUFS)?;
            let frame = match self.spare.take() {
                Some(frame) => frame,
                None => charge::zeroed(Kind::Kernel)?,
            };
            self.parts.push_back(Part { frame, start: 0, end: 0 });
        }
        let Some(last) = self.parts.back_mut() else { return Ok(0) };
        let n = max.min(PAGE_SIZE - last.end);
        match source.take_into_frame(&last.frame, last.end, n) {
            Ok(()) => last.end += n,
            Err(e) => {
                if last.start == last.end {
                    self.parts.pop_back();
                }
                return Err(e);
            }
        }
        Ok(n)
    }

    /// Moves at most `max` bytes out. The error only if nothing was moved.
    pub fn drain(&mut self, sink: &mut Sink<'_>, max: usize) -> Result {
        let max = max.min(sink.remaining());
        let mut done = 0;
        while done < max
            && let Some(first) = self.parts.front_mut()
        {
            let n = (first.end - first.start).min(max - done);
            match sink.put_frame(&first.frame, first.start, n) {
                Ok(()) => self.take(n),
                Err(_) if done > 0 => break,
                Err(e) => return Err(e),
            }
            done += n;
        }
        Ok(done)
    }

    /// Gives all bytes to `to`; what is left of the last page is filled on.
    pub fn hand_over(&mut self, mut to: impl FnMut(Part)) {
        while let Some(part) = self.parts.pop_front() {
            let open = self.parts.is_empty() && part.end < PAGE_SIZE;
            let rest = Part { start: part.end, ..part.clone() };
            if part.len() > 0 {
                to(part);
            }
            if open {
                self.parts.push_back(rest);
                break;
            }
        }
    }

    /// Takes bytes that lie in pages already.
    pub fn append(&mut self, part: Part) {
        match self.parts.back_mut() {
            Some(last) if last.end == part.start && last.frame.pfn() == part.frame.pfn() => {
                last.end = part.end
            }
            _ => self.parts.push_back(part),
        }
    }

    /// Forgets at most `max` bytes; how many.
    pub fn skip(&mut self, max: usize) -> usize {
        let mut done = 0;
        while done < max
            && let Some(first) = self.parts.front()
        {
            let n = (first.end - first.start).min(max - done);
            self.take(n);
            done += n;
        }
        done
    }

    /// `n` bytes of the first part were used.
    fn take(&mut self, n: usize) {
        let Some(first) = self.parts.front_mut() else { return };
        first.start += n;
        if first.start >= first.end
            && let Some(part) = self.parts.pop_front()
            && self.parts.is_empty()
        {
            self.spare = Some(part.frame);
        }
    }

    /// Copies bytes out and leaves them where they are.
    pub fn peek(&self, sink: &mut Sink<'_>) -> Result {
        let mut done = 0;
        for part in &self.parts {
            let n = (part.end - part.start).min(sink.remaining());
            if n == 0 {
                break;
            }
            match sink.put_frame(&part.frame, part.start, n) {
                Ok(()) => done += n,
                Err(_) if done > 0 => break,
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn small_writes_share_a_page() {
        let mut stream = Stream::default();
        for _ in 0..1000 {
            assert_eq!(stream.fill(&mut Source::kernel(b"abc"), 3), Ok(3));
        }
        assert_eq!(stream.parts.len(), 1);
        assert_eq!(stream.skip(2999), 2999);
        let mut one = [0; 4];
        assert_eq!(stream.drain(&mut Sink::kernel(&mut one), 4), Ok(1));
        assert_eq!((one[0], stream.parts.len(), stream.spare.is_some()), (b'c', 0, true));
    }

    proptest! {
        /// What comes out is what went in, however it is cut.
        #[test]
        fn it_is_a_stream(steps in proptest::collection::vec((0u8..4, 0usize..10_000), 1..50)) {
            let mut stream = Stream::default();
            let mut expected: VecDeque<u8> = VecDeque::new();
            let mut next = 0u8;
            for (what, len) in steps {
                let mut room = vec![0; len];
                match what {
                    0 | 1 => {
                        let bytes: Vec<u8> = (0..len).map(|_| { next = next.wrapping_add(7); next }).collect();
                        prop_assert_eq!(stream.fill(&mut Source::kernel(&bytes), usize::MAX), Ok(len));
                        expected.extend(bytes);
                    }
                    2 => {
                        let n = stream.drain(&mut Sink::kernel(&mut room), usize::MAX).unwrap();
                        prop_assert_eq!(n, len.min(expected.len()));
                        let front: Vec<u8> = expected.drain(..n).collect();
                        prop_assert_eq!(&room[..n], &front[..]);
                    }
                    _ => {
                        let n = stream.peek(&mut Sink::kernel(&mut room)).unwrap();
                        let front: Vec<u8> = expected.iter().copied().take(n).collect();
                        prop_assert_eq!(&room[..n], &front[..]);
                        prop_assert_eq!(stream.skip(len / 2), expected.drain(..(len / 2).min(expected.len())).count());
                    }
                }
            }
        }
    }
}
