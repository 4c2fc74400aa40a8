//! The host's side of a network device.

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use super::header;
use super::{MAX_FRAME, MIN_FRAME, tap};
use crate::host_stream::HostStream;

/// Where a frame begins in the buffer of what is sent: room for the longest header before it.
const FRAME: usize = 16;
/// The bytes that tell a frame's length on a stream, in network order.
const PREFIX: usize = 4;
/// What is read of a stream at once.
const STREAM_BUFFER: usize = 2 * (PREFIX + MAX_FRAME);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Each read and write is a frame behind a `struct virtio_net_hdr`.
    Tap,
    /// Each frame is behind its length: `passt`, and QEMU's `-netdev stream`.
    Stream,
}

/// A TAP interface or a stream.
#[derive(Debug)]
pub struct Backend {
    kind: Kind,
    host: HostStream,
    /// What was read and not taken yet: `read` of `inbox`.
    inbox: Vec<u8>,
    read: Range<usize>,
    /// Headers and the frame that is being sent.
    outbox: Vec<u8>,
    /// The part of `outbox` that the host has not taken yet.
    unsent: Range<usize>,
}

/// A frame from the host.
#[derive(Debug)]
pub struct Received<'a> {
    /// Its `struct virtio_net_hdr`.
    pub header: [u8; header::LENGTH],
    /// Its bytes.
    pub frame: &'a [u8],
}

impl Backend {
    /// A TAP interface, opened by [`tap::open`].
    pub fn tap(fd: OwnedFd) -> Self {
        Self::new(Kind::Tap, HostStream::channel(fd), header::LENGTH + MAX_FRAME)
    }

    /// A connected stream socket.
    pub fn stream(fd: OwnedFd) -> Self {
        Self::new(Kind::Stream, HostStream::socket(fd), STREAM_BUFFER)
    }

    fn new(kind: Kind, host: HostStream, inbox: usize) -> Self {
        let outbox = vec![0; FRAME + MAX_FRAME];
        Self { kind, host, inbox: vec![0; inbox], read: 0..0, outbox, unsent: 0..0 }
    }

    /// Whether frames come and go with a header of offloads.
    pub fn has_offloads(&self) -> bool {
        self.kind == Kind::Tap
    }

    /// Which frames may come unfinished ([`tap::offload`]). One that does not do that finishes all of them.
    pub fn set_offload(&self, offload: u32) {
        if self.kind == Kind::Tap {
            let _ = tap::set_offload(self.host.as_raw_fd(), offload);
        }
    }

    /// The frame that is next, until it is [taken](Self::take). `None`: there is none now. An error is the end.
    pub fn peek(&mut self) -> io::Result<Option<Received<'_>>> {
        loop {
            if let Some(frame) = self.whole()? {
                let mut header = [0; header::LENGTH];
                if self.kind == Kind::Tap {
                    header.copy_from_slice(&self.inbox[..header::LENGTH]);
                }
                return Ok(Some(Received { header, frame: &self.inbox[frame] }));
            }
            if !self.fill()? {
                return Ok(None);
            }
        }
    }

    /// Forgets the frame that was [shown](Self::peek) last.
    pub fn take(&mut self) {
        match self.whole() {
            Ok(Some(frame)) => self.read.start = frame.end,
            _ => self.read = 0..0,
        }
    }

    /// Where the first frame lies, if all of it is there.
    fn whole(&self) -> io::Result<Option<Range<usize>>> {
        let read = &self.inbox[self.read.clone()];
        if self.kind == Kind::Tap {
            return Ok((!read.is_empty()).then(|| self.read.start + header::LENGTH..self.read.end));
        }
        let Some((prefix, rest)) = read.split_first_chunk::<PREFIX>() else { return Ok(None) };
        let length = u32::from_be_bytes(*prefix) as usize;
        if !(MIN_FRAME..=MAX_FRAME).contains(&length) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a length that no frame has"));
        }
        let start = self.read.start + PREFIX;
        Ok((rest.len() >= length).then_some(start..start + length))
    }

    /// Reads more; `false` if there is none now.
    fn fill(&mut self) -> io::Result<bool> {
        self.inbox.copy_within(self.read.clone(), 0);
        self.read = 0..self.read.len();
        match self.host.read(&mut self.inbox[self.read.end..]) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            // A frame without a header, or without Ethernet's: not from a TAP interface.
            Ok(n) if self.kind == Kind::Tap && n < header::LENGTH + MIN_FRAME => {
                Err(io::ErrorKind::InvalidData.into())
            }
            Ok(n) => {
                self.read.end += n;
                Ok(true)
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Sends what an earlier frame has left; `false` if that has to wait. Until then there is no [room](Self::room).
    pub fn flush(&mut self) -> io::Result<bool> {
        while !self.unsent.is_empty() {
            match self.host.write(&self.outbox[self.unsent.clone()]) {
                Ok(n) => self.unsent.start += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) => {
                    self.unsent = 0..0;
                    return Err(e);
                }
            }
        }
        Ok(true)
    }

    /// Where the next frame is to be put, `length` of [`MAX_FRAME`] bytes at most.
    pub fn room(&mut self, length: usize) -> &mut [u8] {
        &mut self.outbox[FRAME..FRAME + length]
    }

    /// Sends the frame in the [room](Self::room). `false`: not now, and nothing of it was.
    pub fn send(&mut self, header: &[u8; header::LENGTH], length: usize) -> io::Result<bool> {
        let start = match self.kind {
            Kind::Tap => {
                self.outbox[FRAME - header::LENGTH..FRAME].copy_from_slice(header);
                FRAME - header::LENGTH
            }
            Kind::Stream => {
                self.outbox[FRAME - PREFIX..FRAME].copy_from_slice(&(length as u32).to_be_bytes());
                FRAME - PREFIX
            }
        };
        let all = start..FRAME + length;
        self.unsent = all.clone();
        let sent = self.flush()?;
        if !sent && self.unsent == all {
            self.unsent = 0..0;
            return Ok(false);
        }
        // A part of it is sent; the rest will be before the next one.
        Ok(true)
    }
}

impl AsRawFd for Backend {
    fn as_raw_fd(&self) -> RawFd {
        self.host.as_raw_fd()
    }
}
