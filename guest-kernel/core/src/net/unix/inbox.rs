//! The queue of messages of a socket.

use alloc::{collections::VecDeque, vec::Vec};

use super::flight::InFlight;
use crate::{
    errno::{Errno, Result},
    fs::{FileRef, FileType},
    io::Sink,
    net::{message::Credentials, socket::Name},
};

/// What a message weighs beside its bytes, so that empty ones cannot be sent without end.
const OVERHEAD: usize = 256;
/// Messages of a stream below this size are joined.
const JOIN: usize = 4096;

/// One message, or a piece of a stream.
pub(crate) struct Message {
    pub bytes: Vec<u8>,
    /// Bytes of it already read.
    pub start: usize,
    pub files: InFlight,
    pub credentials: Credentials,
    pub from: Option<Name>,
    /// When it was sent, by the wall clock; 0 if the receiver did not want to know.
    pub at: u64,
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

    /// Messages in it.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Bytes that a sender with a buffer of `limit` can send now; an empty inbox takes any message.
    pub fn room(&self, limit: usize) -> usize {
        limit.saturating_sub(self.weight)
    }

    /// Bytes of a stream from `offset` on, at most `max`.
    pub fn peek(&self, offset: usize, max: usize) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        let mut skip = offset;
        for message in &self.messages {
            let rest = message.rest();
            let rest = rest.get(skip.min(rest.len())..).unwrap_or_default();
            skip = skip.saturating_sub(message.rest().len());
            let n = rest.len().min(max - out.len());
            out.try_reserve(n).map_err(|_| Errno::ENOMEM)?;
            out.extend_from_slice(rest.get(..n).unwrap_or_default());
            if out.len() == max {
                break;
            }
        }
        Ok(out)
    }

    /// Who sent the first message, its files, and the sender's name.
    pub fn first(&self) -> Option<(Credentials, Vec<FileRef>, Option<Name>)> {
        self.messages.front().map(|m| (m.credentials, m.files.copy(), m.from.clone()))
    }

    /// The sockets among the files of all messages.
    pub fn sockets(&self) -> Vec<FileRef> {
        let all = self.messages.iter().flat_map(|m| m.files.copy());
        all.filter(|f| f.kind() == FileType::Socket).collect()
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
    use crate::net::common::BUFFER_DEFAULT as LIMIT;

    fn message(bytes: &[u8], pid: i32) -> Message {
        let credentials = Credentials { pid, ..Credentials::default() };
        Message {
            bytes: bytes.to_vec(),
            start: 0,
            files: InFlight::default(),
            credentials,
            from: None,
            at: 0,
        }
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
        assert!(inbox.is_empty() && inbox.room(LIMIT) == LIMIT);
    }

    #[test]
    fn a_peek_goes_over_messages() {
        let mut inbox = Inbox::default();
        for (bytes, pid) in [(b"abc", 1), (b"def", 2)] {
            inbox.push(message(bytes, pid), true).unwrap();
        }
        assert_eq!(inbox.peek(0, 4).unwrap(), b"abcd");
        assert_eq!(inbox.peek(2, 9).unwrap(), b"cdef");
        assert_eq!(inbox.peek(4, 9).unwrap(), b"ef");
        assert_eq!(inbox.peek(7, 9).unwrap(), b"");
    }

    #[test]
    fn messages_stay_apart_and_weigh() {
        let mut inbox = Inbox::default();
        inbox.push(message(b"", 1), false).unwrap();
        inbox.push(message(b"xyz", 1), false).unwrap();
        assert_eq!(inbox.room(LIMIT), LIMIT - 3 - 2 * OVERHEAD);
        assert_eq!(inbox.pop().unwrap().rest(), b"");
        let mut m = inbox.pop().unwrap();
        let mut two = [0; 2];
        assert_eq!(m.read(&mut Sink::kernel(&mut two), false), Ok(2));
        inbox.put_back(m);
        assert_eq!((inbox.readable(false), inbox.room(LIMIT)), (1, LIMIT - 1 - OVERHEAD));
    }
}
