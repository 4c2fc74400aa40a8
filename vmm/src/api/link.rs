//! The supervisor's end of the link to the VMM ([`crate::door`] is the other).
//!
//! The VMM may have been taken over by its guest. So lines are bounded, numbers nobody waits for are dropped, and what makes
//! no sense ends the link; who waited is told so.

use std::collections::{BTreeMap, VecDeque};
use std::io::{IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::door::{Answer, Ask, MAX_LINE, MAX_PENDING, Question, Told};

/// Bytes that may wait because the VMM does not read.
const MAX_OUTPUT: usize = 4 << 20;

struct Message {
    bytes: Vec<u8>,
    sent: usize,
    /// They go with the first byte.
    descriptors: Vec<OwnedFd>,
}

/// The connection, and what is to be done with each answer.
pub struct Link<T> {
    /// `None` when it has ended.
    stream: Option<UnixStream>,
    input: Vec<u8>,
    output: VecDeque<Message>,
    output_bytes: usize,
    pending: BTreeMap<u64, T>,
    next: u64,
}

impl<T> Link<T> {
    /// Takes the supervisor's end.
    pub fn new(stream: UnixStream) -> std::io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Link {
            stream: Some(stream),
            input: Vec::new(),
            output: VecDeque::new(),
            output_bytes: 0,
            pending: BTreeMap::new(),
            next: 1,
        })
    }

    /// Asks; `then` comes back with the answer. An error gives it back: nothing was asked.
    pub fn ask(&mut self, ask: Ask, descriptors: Vec<OwnedFd>, then: T) -> Result<(), T> {
        let id = self.next;
        let full = self.pending.len() >= MAX_PENDING || self.output_bytes >= MAX_OUTPUT;
        let Ok(mut bytes) = serde_json::to_vec(&Question { id, ask }) else { return Err(then) };
        if self.stream.is_none() || full || bytes.len() > MAX_LINE {
            return Err(then);
        }
        bytes.push(b'\n');
        self.next += 1;
        self.output_bytes += bytes.len();
        self.output.push_back(Message { bytes, sent: 0, descriptors });
        self.pending.insert(id, then);
        self.flush();
        Ok(())
    }

    /// Whether something waits to be sent.
    pub fn is_waiting(&self) -> bool {
        !self.output.is_empty()
    }

    /// Sends what the socket takes.
    pub fn flush(&mut self) {
        while let (Some(stream), Some(message)) = (&self.stream, self.output.front_mut()) {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            let descriptors: Vec<BorrowedFd<'_>> = message.descriptors.iter().map(AsFd::as_fd).collect();
            if !descriptors.is_empty() {
                ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
            }
            let rest = message.bytes.get(message.sent..).unwrap_or_default();
            match sendmsg(stream, &[IoSlice::new(rest)], &mut ancillary, SendFlags::NOSIGNAL) {
                Ok(n) => {
                    message.sent += n;
                    message.descriptors.clear();
                    if message.sent >= message.bytes.len() {
                        self.output_bytes -= message.bytes.len();
                        self.output.pop_front();
                    }
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return,
                Err(_) => self.end(),
            }
        }
    }

    /// Takes the answers that have come. Once the link has ended, there is `None` for each that will not come.
    pub fn receive(&mut self) -> Vec<(T, Option<Told>)> {
        let mut answers = Vec::new();
        let mut buffer = [0u8; 8192];
        while let Some(stream) = &mut self.stream {
            match stream.read(&mut buffer) {
                Ok(0) => self.end(),
                Ok(n) => {
                    self.input.extend_from_slice(buffer.get(..n).unwrap_or_default());
                    self.take_lines(&mut answers);
                }
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => self.end(),
            }
        }
        if self.stream.is_none() {
            answers.extend(std::mem::take(&mut self.pending).into_values().map(|then| (then, None)));
        }
        answers
    }

    fn take_lines(&mut self, answers: &mut Vec<(T, Option<Told>)>) {
        let mut taken = 0;
        loop {
            let rest = self.input.get(taken..).unwrap_or_default();
            let Some(end) = rest.iter().position(|b| *b == b'\n') else { break };
            match rest.get(..end).and_then(|line| serde_json::from_slice::<Answer>(line).ok()) {
                None => return self.end(),
                Some(answer) => {
                    if let Some(then) = self.pending.remove(&answer.id) {
                        answers.push((then, Some(answer.told)));
                    }
                }
            }
            taken += end + 1;
        }
        self.input.drain(..taken);
        if self.input.len() > MAX_LINE {
            self.end();
        }
    }

    fn end(&mut self) {
        self.stream = None;
        self.input = Vec::new();
        self.output.clear();
        self.output_bytes = 0;
    }

    /// The socket, while there is one.
    pub fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.stream.as_ref().map(AsFd::as_fd)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn answers_find_who_has_asked_and_nonsense_ends_the_link() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut link = Link::new(ours).unwrap();
        for n in ["one", "two", "three"] {
            link.ask(Ask::Stats, Vec::new(), n).unwrap();
        }
        let failed = r#""told":{"guest":{"type":"failed","errno":3,"message":"no"}}}"#;
        theirs
            .write_all(format!("{{\"id\":2,{failed}\n{{\"id\":77,{failed}\n{{\"id\":1,").as_bytes())
            .unwrap();
        let answers = link.receive();
        assert!(matches!(answers.as_slice(), [("two", Some(Told::Guest(_)))]), "{answers:?}");
        theirs.write_all(format!("{failed}\n").as_bytes()).unwrap();
        assert!(matches!(link.receive().as_slice(), [("one", Some(_))]));
        theirs.write_all(b"hello\n").unwrap();
        assert!(matches!(link.receive().as_slice(), [("three", None)]));
        assert_eq!(link.ask(Ask::Stats, Vec::new(), "four"), Err("four"));
    }

    #[test]
    fn a_line_without_end_ends_the_link() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut link = Link::new(ours).unwrap();
        link.ask(Ask::Counters, Vec::new(), ()).unwrap();
        let writer = std::thread::spawn(move || {
            let _ = theirs.write_all(&vec![b'x'; 2 * MAX_LINE]);
        });
        while link.receive().is_empty() {
            std::thread::yield_now();
        }
        assert!(link.socket().is_none());
        writer.join().unwrap();
    }
}
