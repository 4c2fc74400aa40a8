//! The queue of messages of a socket.

use alloc::{collections::VecDeque, vec::Vec};

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::Address;
use crate::{
    errno::{Errno, Result},
    fs::FileRef,
    io::Sink,
};

/// `struct ucred`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Credentials {
    pub pid: i32,
    pub uid: u32,
    pub gid: u32,
}

/// Bytes that an inbox holds before senders wait (`net.core.wmem_default`).
pub(in crate::net) const LIMIT: usize = 212_992;
/// What a message weighs beside its bytes, so that empty ones cannot be sent without end.
const OVERHEAD: usize = 256;
/// Messages of a stream below this size are joined.
const JOIN: usize = 4096;

/// One message, or a piece of a stream.
pub(crate) struct Message {
    pub bytes: Vec<u8>,
    /// Bytes of it already read.
    pub start: usize,
    pub files: Vec<FileRef>,
    pub credentials: Credentials,
    pub from: Option<Address>,
}

/// The queue.
#[derive(Default)]
pub(super) struct Inbox {
    messages: VecDeque<Message>,
    weight: usize,
}

impl Inbox {
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Bytes that can be sent now; an empty inbox takes any message.
    pub fn room(&self) -> usize {
        LIMIT.saturating_sub(self.weight)
    }

    /// Bytes a read finds: of all messages of a stream, of the first one else (`FIONREAD`).
    pub fn readable(&self, stream: bool) -> usize {
        let take = if stream { usize::MAX } else { 1 };
        self.messages.iter().take(take).map(|m| m.bytes.len() - m.start).sum()
    }

    pub fn push(&mut self, message: Message, stream: bool) -> Result<()> {
        let len = message.bytes.len();
        if stream
            && message.files.is_empty()
            && let Some(last) = self.messages.back_mut()
            && last.files.is_empty()
            && last.credentials == message.credentials
            && last.bytes.len() + len <= JOIN
        {
            last.bytes.try_reserve(len).map_err(|_| Errno::ENOBUFS)?;
            last.bytes.extend_from_slice(&message.bytes);
            self.weight += len;
            return Ok(());
        }
        self.messages.try_reserve(1).map_err(|_| Errno::ENOBUFS)?;
        self.weight += len + OVERHEAD;
        self.messages.push_back(message);
        Ok(())
    }

    /// Takes the first message out.
    pub fn pop(&mut self) -> Option<Message> {
        let message = self.messages.pop_front()?;
        self.weight = self.weight.saturating_sub(message.bytes.len() - message.start + OVERHEAD);
        Some(message)
    }

    /// Puts what is left of a message back to the front.
    pub fn put_back(&mut self, message: Message) {
        self.weight += message.bytes.len() - message.start + OVERHEAD;
        self.messages.push_front(message);
    }

    /// Empties it, for the caller to drop what was in it.
    pub fn clear(&mut self) -> VecDeque<Message> {
        self.weight = 0;
        core::mem::take(&mut self.messages)
    }
}

impl Message {
    /// What has not been read.
    pub fn rest(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }

    /// Moves bytes into `sink`, as many as fit.
    pub fn read(&mut self, sink: &mut Sink<'_>, keep: bool) -> Result {
        let n = sink.put_some(self.rest())?;
        if !keep {
            self.start += n;
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(bytes: &[u8], pid: i32) -> Message {
        let credentials = Credentials { pid, ..Credentials::default() };
        Message { bytes: bytes.to_vec(), start: 0, files: Vec::new(), credentials, from: None }
    }

    #[test]
    fn a_stream_joins_what_one_sender_writes() {
        let mut inbox = Inbox::default();
        for (bytes, pid) in [(b"ab", 1), (b"cd", 1), (b"ef", 2)] {
            inbox.push(message(bytes, pid), true).unwrap();
        }
        assert_eq!(inbox.readable(true), 6);
        assert_eq!(inbox.pop().unwrap().rest(), b"abcd");
        assert_eq!(inbox.pop().unwrap().rest(), b"ef");
        assert!(inbox.is_empty() && inbox.room() == LIMIT);
    }

    #[test]
    fn messages_stay_apart_and_weigh() {
        let mut inbox = Inbox::default();
        inbox.push(message(b"", 1), false).unwrap();
        inbox.push(message(b"xyz", 1), false).unwrap();
        assert_eq!(inbox.room(), LIMIT - 3 - 2 * OVERHEAD);
        assert_eq!(inbox.pop().unwrap().rest(), b"");
        let mut m = inbox.pop().unwrap();
        let mut two = [0; 2];
        assert_eq!(m.read(&mut Sink::kernel(&mut two), false), Ok(2));
        inbox.put_back(m);
        assert_eq!((inbox.readable(false), inbox.room()), (1, LIMIT - 1 - OVERHEAD));
    }
}
