//! A connection to the control socket: lines and descriptors in, lines out.

use std::io::{self, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use event_manager::EventSet;
use ringfence_protocol::{MAX_FRAME, Reply};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::{Answer, Question};

/// Descriptors that may come with one request.
const MAX_DESCRIPTORS: usize = 3;
/// Answers that wait for a client that does not read.
const MAX_OUTPUT: usize = 2 * MAX_FRAME;

/// A question and what came with it.
pub(super) struct Asked {
    pub question: Question,
    pub descriptors: Vec<OwnedFd>,
}

pub(super) struct Client {
    stream: UnixStream,
    input: Vec<u8>,
    descriptors: Vec<OwnedFd>,
    output: Vec<u8>,
    /// Questions the guest has not answered yet.
    pub waits_for: usize,
    /// The client sends nothing more, or nothing it sends is read any more.
    ended: bool,
    /// The connection does not work any more.
    broken: bool,
    /// What the event loop waits for.
    watched: EventSet,
}

impl Client {
    pub fn new(stream: UnixStream) -> Client {
        Client {
            stream,
            input: Vec::new(),
            descriptors: Vec::new(),
            output: Vec::new(),
            waits_for: 0,
            ended: false,
            broken: false,
            watched: EventSet::IN,
        }
    }

    /// Whether it can be dropped.
    pub fn is_over(&self) -> bool {
        self.broken || (self.ended && self.output.is_empty() && self.waits_for == 0)
    }

    /// What to wait for, if that has changed.
    pub fn interest(&mut self) -> Option<EventSet> {
        let mut set = EventSet::empty();
        set.set(EventSet::IN, !self.ended);
        set.set(EventSet::OUT, !self.output.is_empty());
        (set != std::mem::replace(&mut self.watched, set)).then_some(set)
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
                Err(e) => return self.give_up(format!("the request makes no sense: {e}")),
            }
        }
        if self.input.len() > MAX_FRAME {
            self.give_up(format!("a request has at most {MAX_FRAME} bytes"));
        }
    }

    /// Reads nothing more; what cannot be told from each other cannot be answered.
    fn give_up(&mut self, message: String) {
        self.answer(&Answer { id: 0, reply: Reply::Failed { errno: libc::EINVAL as u32, message } });
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

impl AsRawFd for Client {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}
