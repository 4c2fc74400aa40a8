//! The connection to the supervisor: lines and descriptors in, lines out.

use std::io::{self, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use event_manager::EventSet;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::{Answer, MAX_LINE, Question, Told};

/// Descriptors that may come with one request.
const MAX_DESCRIPTORS: usize = 3;
/// Answers that wait for a supervisor that does not read.
const MAX_OUTPUT: usize = 8 * MAX_LINE;

/// A question and what came with it.
pub(super) struct Asked {
    pub question: Question,
    pub descriptors: Vec<OwnedFd>,
}

/// What the event loop has to wait for from now on.
pub(super) enum Interest {
    In(EventSet),
    /// The connection is over.
    Nothing,
}

pub(super) struct Client {
    stream: UnixStream,
    input: Vec<u8>,
    descriptors: Vec<OwnedFd>,
    output: Vec<u8>,
    /// The supervisor sends nothing more, or nothing it sends is read any more.
    ended: bool,
    /// The connection does not work any more.
    broken: bool,
    /// What the event loop waits for; `None`: nothing any more.
    watched: Option<EventSet>,
}

impl Client {
    pub fn new(stream: UnixStream) -> Client {
        Client {
            stream,
            input: Vec::new(),
            descriptors: Vec::new(),
            output: Vec::new(),
            ended: false,
            broken: false,
            watched: Some(EventSet::IN),
        }
    }

    /// Whether something waits to be sent.
    pub fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// Whether there is nobody to hear from.
    pub fn is_over(&self) -> bool {
        self.broken || self.ended
    }

    /// What to wait for, if that has changed.
    pub fn interest(&mut self) -> Option<Interest> {
        let mut set = EventSet::empty();
        set.set(EventSet::IN, !self.ended);
        set.set(EventSet::OUT, !self.output.is_empty());
        let watched = if self.broken { None } else { Some(set) };
        match (std::mem::replace(&mut self.watched, watched), watched) {
            (Some(_), None) => Some(Interest::Nothing),
            (before, Some(now)) if before != Some(now) => Some(Interest::In(now)),
            _ => None,
        }
    }

    /// Reads and writes what is possible; answers the questions that are complete.
    pub fn process(&mut self, events: EventSet) -> Vec<Asked> {
        self.flush();
        let mut asked = Vec::new();
        while !self.ended && !self.broken {
            match self.receive() {
                Ok(true) => {}
                Ok(false) => self.ended = true,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => self.broken = true,
            }
            self.take_lines(&mut asked);
        }
        // Nobody is there to read: what was asked for is done all the same.
        self.broken |= events.intersects(EventSet::HANG_UP | EventSet::ERROR);
        asked
    }

    /// Receives some bytes and descriptors; false at the end.
    fn receive(&mut self) -> io::Result<bool> {
        let mut bytes = [0u8; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let got = recvmsg(&self.stream, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags)?;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
            }
        }
        if self.descriptors.len() > MAX_DESCRIPTORS {
            self.give_up(format!("at most {MAX_DESCRIPTORS} descriptors go with a request"));
        }
        self.input.extend_from_slice(&bytes[..got.bytes]);
        Ok(got.bytes > 0)
    }

    fn take_lines(&mut self, asked: &mut Vec<Asked>) {
        while let Some(end) = self.input.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.input.drain(..=end).collect();
            match serde_json::from_slice(&line[..end]) {
                Ok(question) => {
                    let takes = super::takes_streams(&question);
                    let descriptors = if takes { std::mem::take(&mut self.descriptors) } else { Vec::new() };
                    asked.push(Asked { question, descriptors });
                }
                Err(e) => return self.give_up(format!("the question makes no sense: {e}")),
            }
        }
        if self.input.len() > MAX_LINE {
            self.give_up(format!("a question has at most {MAX_LINE} bytes"));
        }
    }

    /// Reads nothing more; what cannot be told from each other cannot be answered.
    fn give_up(&mut self, message: String) {
        self.answer(&Answer { id: 0, told: Told::failed(libc::EINVAL, message) });
        self.ended = true;
        self.input.clear();
        self.descriptors.clear();
    }

    /// Queues an answer and sends what the socket takes.
    pub fn answer(&mut self, answer: &Answer) {
        match serde_json::to_vec(answer) {
            Ok(line) if self.output.len() + line.len() < MAX_OUTPUT => {
                self.output.extend_from_slice(&line);
                self.output.push(b'\n');
                self.flush();
            }
            _ => self.broken = true,
        }
    }

    fn flush(&mut self) {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(n) => drop(self.output.drain(..n)),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.broken = true;
                    return;
                }
            }
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl AsRawFd for Client {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}
