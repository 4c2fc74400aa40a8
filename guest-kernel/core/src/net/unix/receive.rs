//! Receiving, and looking without taking.

use core::sync::atomic::Ordering::Relaxed;

use super::socket::UnixSocket;
use crate::{
    TaskRef,
    errno::{Errno, Result},
    io::Sink,
    net::{
        common::BUFFER_DEFAULT,
        socket::{How, Kind, Received, wait_error},
    },
    sync::{Interruptible, PollEvents, wait_event},
};

impl UnixSocket {
    /// Fills `sink` with what a stream has, up to what another sender sent if the receiver wants to know senders,
    /// and past the first message with files no further. Waits for one byte, or for as many as were asked for.
    pub(super) fn receive_bytes(&self, task: &TaskRef, sink: &mut Sink<'_>, how: How) -> Result<Received> {
        let deadline = self.common.receive_deadline();
        let low_water = self.common.receive_low_water.load(Relaxed) as usize;
        let target = if how.wait_all { sink.remaining() } else { low_water.min(sink.remaining()) };
        let mut got = Received::default();
        let mut first = true;
        loop {
            let reading = self.reading.lock();
            let taken = self.take_bytes(sink, &mut got, &mut first);
            drop(reading);
            let more = match taken {
                Ok(more) => more,
                Err(_) if got.count > 0 => false,
                Err(e) => return Err(e),
            };
            if !first {
                // There may be room for senders now: they wait here, too.
                self.queue.wake_all(PollEvents::WRITABLE);
            }
            if !more || got.count >= target.max(1) {
                return Ok(got);
            }
            if self.with(|s| s.peer.is_none()) {
                return Err(Errno::EINVAL); // never connected
            }
            // Nothing is left. The inbox is looked at again: bytes sent before the end must still be read.
            let look = || self.with(|s| (!s.inbox.is_empty() || s.read_shut).then_some(s.inbox.is_empty()));
            let waited = match look() {
                Some(ended) => Ok(ended),
                None if how.nonblocking => Err(Errno::EAGAIN),
                None => wait_event(task, &self.queue, Interruptible::Yes, deadline, look)
                    .map_err(wait_error(deadline)),
            };
            match waited {
                Ok(false) => {}
                Ok(true) if got.count > 0 => return Ok(got),
                Ok(true) => {
                    let reset = self.with(|s| core::mem::take(&mut s.reset));
                    return if reset { Err(Errno::ECONNRESET) } else { Ok(got) };
                }
                Err(_) if got.count > 0 => return Ok(got),
                Err(e) => return Err(e),
            }
        }
    }

    /// Moves what is there into `sink`; whether the receive may go on. `first`: nothing was taken yet.
    fn take_bytes(&self, sink: &mut Sink<'_>, got: &mut Received, first: &mut bool) -> Result<bool> {
        let apart = self.common.wants_sender();
        while let Some(mut message) = self.with(|s| s.inbox.pop()) {
            if !*first && apart && message.credentials != got.credentials {
                self.with(|s| s.inbox.put_back(message));
                return Ok(false);
            }
            let copied = message.read(sink, false);
            let files = copied.is_ok() && !message.files.is_empty();
            if let Ok(n) = copied {
                got.count += n;
                got.length += n;
                if *first {
                    (got.credentials, got.from) = (message.credentials, message.from.take());
                    *first = false;
                }
                if files {
                    got.files = message.files.take();
                }
                self.common.move_peek_offset(-(n as i64));
            }
            let done = sink.remaining() == 0 || files || copied.is_err();
            if !message.rest().is_empty() {
                self.with(|s| s.inbox.put_back(message));
            }
            copied?;
            if done {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Takes one message.
    pub(super) fn receive_message(&self, task: &TaskRef, sink: &mut Sink<'_>, how: How) -> Result<Received> {
        if self.kind == Kind::SeqPacket && self.with(|s| s.peer.is_none()) {
            return Err(Errno::ENOTCONN);
        }
        let look = || {
            self.with(|s| match s.inbox.pop() {
                Some(message) => Some(Some(message)),
                None if s.reset => Some(None),
                None if s.read_shut && !(how.nonblocking && self.kind == Kind::Datagram) => Some(None),
                None => None,
            })
        };
        let taken = match look() {
            Some(taken) => taken,
            None if how.nonblocking => return Err(Errno::EAGAIN),
            None => {
                let deadline = self.common.receive_deadline();
                wait_event(task, &self.queue, Interruptible::Yes, deadline, look)
                    .map_err(wait_error(deadline))?
            }
        };
        let Some(mut message) = taken else {
            let reset = self.with(|s| core::mem::take(&mut s.reset));
            return if reset { Err(Errno::ECONNRESET) } else { Ok(Received::default()) };
        };
        let length = message.rest().len();
        let copied = message.read(sink, how.peek);
        let mut got = Received {
            length,
            credentials: message.credentials,
            at: message.at,
            from: message.from.clone(),
            ..Received::default()
        };
        if how.peek {
            got.files = message.files.copy();
            self.with(|s| s.inbox.put_back(message));
        } else {
            got.files = message.files.take();
            self.queue.wake_all(PollEvents::WRITABLE);
        }
        got.count = copied?;
        Ok(got)
    }

    /// Looks at a stream without taking anything, from `SO_PEEK_OFF` on if that is set.
    pub(super) fn peek(&self, task: &TaskRef, sink: &mut Sink<'_>, how: How) -> Result<Received> {
        if self.with(|s| s.peer.is_none()) {
            return Err(Errno::EINVAL);
        }
        let max = sink.remaining().min(BUFFER_DEFAULT);
        let offset = self.common.peek_offset().unwrap_or(0);
        let look = || {
            self.with(|s| match s.inbox.peek(offset, max) {
                Ok(bytes) if bytes.is_empty() && max > 0 && !s.read_shut => None,
                Ok(bytes) => Some(Ok((bytes, s.inbox.first()))),
                Err(e) => Some(Err(e)),
            })
        };
        let (bytes, first) = match look() {
            Some(found) => found?,
            None if how.nonblocking => return Err(Errno::EAGAIN),
            None => {
                let deadline = self.common.receive_deadline();
                wait_event(task, &self.queue, Interruptible::Yes, deadline, look)
                    .map_err(wait_error(deadline))??
            }
        };
        sink.put(&bytes)?;
        self.common.move_peek_offset(bytes.len() as i64);
        let mut got = Received { count: bytes.len(), length: bytes.len(), ..Received::default() };
        if let Some((credentials, files, from)) = first {
            (got.credentials, got.files, got.from) = (credentials, files, from);
        }
        Ok(got)
    }
}
