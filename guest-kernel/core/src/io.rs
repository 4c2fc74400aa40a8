//! Where bytes go and come from: the two ends of every `read` and `write`.
//!
//! A [`Sink`] is the destination of a read, a [`Source`] the origin of a write. Each is a user `iovec` or a
//! kernel buffer, and is consumed as it is used, so a byte of user memory is touched exactly once (no double
//! fetch) and file systems, pipes and sockets need not know which kind they have. A user fault half-way
//! leaves what was copied counted: the system call then returns the short count, or `EFAULT` if it is zero.

use ringfence_hal as hal;
use smallvec::SmallVec;

use crate::errno::{Errno, Result};

/// `IOV_MAX` of Linux: segments in one vectored call.
pub const IOV_MAX: usize = 1024;

/// `MAX_RW_COUNT` of Linux: bytes one read or write moves at most.
pub const MAX_RW_COUNT: usize = 0x7fff_f000;

/// One user range: address and length in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// User address.
    pub addr: u64,
    /// Bytes.
    pub len: usize,
}

/// The segments of a vectored call; one or two are the rule.
pub type Segments = SmallVec<[Segment; 4]>;

/// A cursor over segments.
struct Cursor {
    segments: Segments,
    index: usize,
    offset: usize,
    remaining: usize,
}

impl Cursor {
    fn new(segments: Segments) -> Self {
        let remaining = segments.iter().fold(0usize, |n, s| n.saturating_add(s.len)).min(MAX_RW_COUNT);
        Cursor { segments, index: 0, offset: 0, remaining }
    }

    /// The next contiguous user range of at most `max` bytes; `None` at the end.
    fn chunk(&mut self, max: usize) -> Option<(u64, usize)> {
        loop {
            let s = self.segments.get(self.index)?;
            let left = s.len - self.offset;
            if left == 0 {
                self.index += 1;
                self.offset = 0;
                continue;
            }
            return Some((s.addr.wrapping_add(self.offset as u64), left.min(max).min(self.remaining)));
        }
    }

    fn advance(&mut self, n: usize) {
        self.offset += n;
        self.remaining -= n;
    }

    /// Runs `copy(addr, done, len)` over the ranges that make up the next `len` bytes.
    fn transfer(
        &mut self,
        len: usize,
        mut copy: impl FnMut(u64, usize, usize) -> Result<(), hal::UserFault>,
    ) -> Result<()> {
        let mut done = 0;
        while done < len {
            let Some((addr, n)) = self.chunk(len - done) else { return Err(Errno::EFAULT) };
            if n == 0 {
                return Err(Errno::EFAULT);
            }
            match copy(addr, done, n) {
                Ok(()) => self.advance(n),
                Err(fault) => {
                    self.advance(fault.copied.min(n));
                    return Err(Errno::EFAULT);
                }
            }
            done += n;
        }
        Ok(())
    }
}

enum SinkKind<'a> {
    User(Cursor),
    Kernel { buf: &'a mut [u8], done: usize },
}

/// Where a read puts its bytes.
pub struct Sink<'a> {
    kind: SinkKind<'a>,
    start: usize,
}

impl<'a> Sink<'a> {
    /// A user buffer.
    pub fn user(addr: u64, len: usize) -> Sink<'static> {
        Sink::segments(SmallVec::from_slice(&[Segment { addr, len }]))
    }

    /// The user buffers of a vectored call.
    pub fn segments(segments: Segments) -> Sink<'static> {
        let cursor = Cursor::new(segments);
        Sink { start: cursor.remaining, kind: SinkKind::User(cursor) }
    }

    /// A kernel buffer.
    pub fn kernel(buf: &'a mut [u8]) -> Sink<'a> {
        Sink { start: buf.len(), kind: SinkKind::Kernel { buf, done: 0 } }
    }

    /// Bytes that still fit.
    pub fn remaining(&self) -> usize {
        match &self.kind {
            SinkKind::User(c) => c.remaining,
            SinkKind::Kernel { buf, done } => buf.len() - done,
        }
    }

    /// Bytes put so far.
    pub fn done(&self) -> usize {
        self.start - self.remaining()
    }

    /// Runs `f` on a sink that takes at most `max` bytes more.
    pub fn at_most<R>(&mut self, max: usize, f: impl FnOnce(&mut Self) -> R) -> R {
        let cut = match &mut self.kind {
            SinkKind::User(c) => {
                let cut = c.remaining.saturating_sub(max);
                c.remaining -= cut;
                cut
            }
            SinkKind::Kernel { .. } => 0, // short already
        };
        self.start -= cut;
        let result = f(self);
        if let SinkKind::User(c) = &mut self.kind {
            c.remaining += cut;
        }
        self.start += cut;
        result
    }

    /// Puts all of `bytes`, which must not exceed [`Sink::remaining`]; the overflow is `EFAULT`.
    pub fn put(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.kind {
            SinkKind::User(c) => c.transfer(bytes.len(), |addr, at, n| {
                hal::user::copy_out(addr, bytes.get(at..at + n).unwrap_or_default())
            }),
            SinkKind::Kernel { buf, done } => {
                let end = done.checked_add(bytes.len()).ok_or(Errno::EFAULT)?;
                buf.get_mut(*done..end).ok_or(Errno::EFAULT)?.copy_from_slice(bytes);
                *done = end;
                Ok(())
            }
        }
    }

    /// Puts as much of `bytes` as fits and says how much that was.
    pub fn put_some(&mut self, bytes: &[u8]) -> Result {
        let n = bytes.len().min(self.remaining());
        self.put(bytes.get(..n).unwrap_or_default())?;
        Ok(n)
    }

    /// Puts `len` bytes of `frame` from `offset`.
    pub fn put_frame(&mut self, frame: &hal::Frame, offset: usize, len: usize) -> Result<()> {
        match &mut self.kind {
            SinkKind::User(c) => c.transfer(len, |addr, at, n| frame.copy_to_user(offset + at, addr, n)),
            SinkKind::Kernel { buf, done } => {
                let end = done.checked_add(len).ok_or(Errno::EFAULT)?;
                frame.read(offset, buf.get_mut(*done..end).ok_or(Errno::EFAULT)?);
                *done = end;
                Ok(())
            }
        }
    }

    /// Puts `len` zero bytes (a hole of a sparse file).
    pub fn put_zeros(&mut self, len: usize) -> Result<()> {
        match &mut self.kind {
            SinkKind::User(c) => c.transfer(len, |addr, _, n| hal::user::zero(addr, n)),
            SinkKind::Kernel { buf, done } => {
                let end = done.checked_add(len).ok_or(Errno::EFAULT)?;
                buf.get_mut(*done..end).ok_or(Errno::EFAULT)?.fill(0);
                *done = end;
                Ok(())
            }
        }
    }
}

enum SourceKind<'a> {
    User(Cursor),
    Kernel { buf: &'a [u8], done: usize },
}

/// A place in a [`Source`].
pub struct Mark {
    index: usize,
    offset: usize,
    remaining: usize,
}

/// Where a write takes its bytes from.
pub struct Source<'a> {
    kind: SourceKind<'a>,
    start: usize,
}

impl<'a> Source<'a> {
    /// A user buffer.
    pub fn user(addr: u64, len: usize) -> Source<'static> {
        Source::segments(SmallVec::from_slice(&[Segment { addr, len }]))
    }

    /// The user buffers of a vectored call.
    pub fn segments(segments: Segments) -> Source<'static> {
        let cursor = Cursor::new(segments);
        Source { start: cursor.remaining, kind: SourceKind::User(cursor) }
    }

    /// A kernel buffer.
    pub fn kernel(buf: &'a [u8]) -> Source<'a> {
        Source { start: buf.len(), kind: SourceKind::Kernel { buf, done: 0 } }
    }

    /// Bytes left to take.
    pub fn remaining(&self) -> usize {
        match &self.kind {
            SourceKind::User(c) => c.remaining,
            SourceKind::Kernel { buf, done } => buf.len() - done,
        }
    }

    /// Bytes taken so far.
    pub fn done(&self) -> usize {
        self.start - self.remaining()
    }

    /// Where it is now, for [`Source::rewind`].
    pub fn mark(&self) -> Mark {
        match &self.kind {
            SourceKind::User(c) => Mark { index: c.index, offset: c.offset, remaining: c.remaining },
            SourceKind::Kernel { done, .. } => Mark { index: 0, offset: *done, remaining: 0 },
        }
    }

    /// Goes back to `mark`, which was taken of it and not passed by [`Source::limit`], and on by `len` bytes: what was taken
    /// behind that was taken in vain. Those bytes may be others when they are taken again.
    pub fn rewind(&mut self, mark: &Mark, len: usize) {
        match &mut self.kind {
            SourceKind::User(c) => {
                (c.index, c.offset, c.remaining) = (mark.index, mark.offset, mark.remaining);
                let mut left = len;
                while left > 0
                    && let Some((_, n)) = c.chunk(left).filter(|(_, n)| *n > 0)
                {
                    c.advance(n);
                    left -= n;
                }
            }
            SourceKind::Kernel { buf, done } => *done = mark.offset.saturating_add(len).min(buf.len()),
        }
    }

    /// Leaves no more than `max` bytes to take: a write that meets a limit is short.
    pub fn limit(&mut self, max: usize) {
        let cut = self.remaining().saturating_sub(max);
        self.start -= cut;
        match &mut self.kind {
            SourceKind::User(c) => c.remaining -= cut,
            SourceKind::Kernel { buf, .. } => *buf = buf.get(..buf.len() - cut).unwrap_or_default(),
        }
    }

    /// Fills all of `bytes`, which must not exceed [`Source::remaining`].
    pub fn take(&mut self, bytes: &mut [u8]) -> Result<()> {
        match &mut self.kind {
            SourceKind::User(c) => c.transfer(bytes.len(), |addr, at, n| {
                hal::user::copy_in(bytes.get_mut(at..at + n).unwrap_or_default(), addr)
            }),
            SourceKind::Kernel { buf, done } => {
                let end = done.checked_add(bytes.len()).ok_or(Errno::EFAULT)?;
                bytes.copy_from_slice(buf.get(*done..end).ok_or(Errno::EFAULT)?);
                *done = end;
                Ok(())
            }
        }
    }

    /// Takes `len` bytes into `frame` at `offset`.
    pub fn take_into_frame(&mut self, frame: &hal::Frame, offset: usize, len: usize) -> Result<()> {
        match &mut self.kind {
            SourceKind::User(c) => c.transfer(len, |addr, at, n| frame.copy_from_user(offset + at, addr, n)),
            SourceKind::Kernel { buf, done } => {
                let end = done.checked_add(len).ok_or(Errno::EFAULT)?;
                frame.write(offset, buf.get(*done..end).ok_or(Errno::EFAULT)?);
                *done = end;
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_sink_and_source_move_bytes_and_refuse_overflow() {
        let mut buf = [0u8; 4];
        let mut sink = Sink::kernel(&mut buf);
        sink.put(b"ab").unwrap();
        assert_eq!(sink.put_some(b"cde").unwrap(), 2);
        assert_eq!((sink.done(), sink.remaining()), (4, 0));
        assert_eq!(sink.put(b"x"), Err(Errno::EFAULT));
        assert_eq!(&buf, b"abcd");

        let mut source = Source::kernel(b"xyz");
        let mut two = [0; 2];
        source.take(&mut two).unwrap();
        assert_eq!((&two, source.remaining(), source.done()), (b"xy", 1, 2));
        assert_eq!(source.take(&mut two), Err(Errno::EFAULT));

        let mut source = Source::kernel(b"12345");
        let mark = source.mark();
        source.take(&mut two).unwrap();
        source.rewind(&mark, 1);
        source.take(&mut two).unwrap();
        assert_eq!((&two, source.done()), (b"23", 3));
        source.rewind(&mark, 2);
        source.limit(1);
        assert_eq!((source.remaining(), source.done()), (1, 2));
        source.take(&mut two[..1]).unwrap();
        assert_eq!((source.remaining(), source.done(), two[0]), (0, 3, b'3'));
    }

    #[test]
    fn lengths_that_overflow_are_capped_like_linux_does() {
        let s = Segment { addr: 0, len: usize::MAX };
        let mut sink = Sink::segments(SmallVec::from_slice(&[s, s]));
        assert_eq!(sink.at_most(100, |part| (part.done(), part.remaining())), (0, 100));
        assert_eq!((sink.done(), sink.remaining()), (0, MAX_RW_COUNT));
    }
}
