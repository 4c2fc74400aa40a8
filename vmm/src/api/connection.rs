//! A client's connection: bytes and descriptors in, bytes out, and what it is at.
//!
//! One request at a time: the next is looked at when the last is answered. A client has [`PATIENCE`] for a request, from
//! its first byte to its last, and for taking a response; between requests it may be silent for [`IDLE`].

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, recvmsg, send};

use super::http::{self, MAX_BODY, MAX_HEAD, Parsed, Request, Response};
use super::streams::Relay;

/// Descriptors that may come with one request.
const MAX_DESCRIPTORS: usize = 3;
/// Bytes that may wait for a client that does not read before we stop to make more.
pub const MAX_OUTPUT: usize = 256 << 10;
/// For a request, and for its response.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between requests.
const IDLE: Duration = Duration::from_secs(120);

/// What a connection is at.
pub enum Phase {
    /// It may send a request.
    Request,
    /// Its request is answered when something happens.
    Waiting,
    /// It follows the log, and has read to here.
    Following(u64),
    /// It has become the streams of a process.
    Streams(Box<Relay>),
    /// It is closed when what is left has been sent.
    Closing,
}

/// A connection.
pub struct Connection {
    socket: UnixStream,
    pub input: Vec<u8>,
    descriptors: Vec<OwnedFd>,
    output: Vec<u8>,
    sent: usize,
    pub phase: Phase,
    keep_alive: bool,
    told_to_go_on: bool,
    /// There is input that nobody has looked at since the last answer.
    unseen: bool,
    /// The client sends nothing more.
    ended: bool,
    broken: bool,
    /// What epoll waits for.
    pub watched: EventFlags,
    pub deadline: Option<Instant>,
}

impl Connection {
    pub fn new(socket: UnixStream) -> Connection {
        Connection {
            socket,
            input: Vec::new(),
            descriptors: Vec::new(),
            output: Vec::new(),
            sent: 0,
            phase: Phase::Request,
            keep_alive: true,
            told_to_go_on: false,
            unseen: false,
            ended: false,
            broken: false,
            watched: EventFlags::IN,
            deadline: Some(Instant::now() + IDLE),
        }
    }

    /// Whether it can be dropped.
    pub fn is_over(&self) -> bool {
        let done = self.output.is_empty();
        self.broken
            || (done && matches!(self.phase, Phase::Closing))
            || (done && self.ended && matches!(self.phase, Phase::Request) && !self.unseen)
    }

    /// Whether the next request may have come with the last.
    pub fn has_unseen(&self) -> bool {
        self.unseen && matches!(self.phase, Phase::Request)
    }

    /// Whether nothing waits to be sent.
    pub fn is_flushed(&self) -> bool {
        self.output.is_empty()
    }

    /// What to wait for now.
    pub fn interest(&self) -> EventFlags {
        let wants_input = match &self.phase {
            Phase::Request => true,
            Phase::Streams(relay) => relay.takes_input(),
            // Its end is noticed by what epoll always tells: that both directions are closed.
            Phase::Waiting | Phase::Following(_) | Phase::Closing => false,
        };
        let mut set = EventFlags::empty();
        set.set(EventFlags::IN, wants_input && !self.ended);
        set.set(EventFlags::OUT, !self.output.is_empty());
        set
    }

    /// epoll says that both directions are closed, or worse. What has come before is read first.
    pub fn hung_up(&mut self) {
        self.broken = true;
    }

    /// Reads what there is, to a limit.
    pub fn receive(&mut self) {
        let mut bytes = [0u8; 16 << 10];
        let limit = if matches!(self.phase, Phase::Streams(_)) { 64 << 10 } else { MAX_HEAD + MAX_BODY };
        while self.input.len() < limit && !self.ended && !self.broken {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
            let got = recvmsg(&self.socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags);
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                    self.descriptors.extend(descriptors);
                }
            }
            if self.descriptors.len() > MAX_DESCRIPTORS {
                return self.refuse(&Response::fault(400, "at most 3 descriptors go with a request"));
            }
            match got {
                Ok(got) if got.bytes == 0 => self.ended = true,
                Ok(got) => {
                    if self.input.is_empty() && matches!(self.phase, Phase::Request) {
                        self.deadline = Some(Instant::now() + PATIENCE);
                    }
                    self.input.extend_from_slice(bytes.get(..got.bytes).unwrap_or_default());
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return,
                Err(_) => self.broken = true,
            }
        }
    }

    /// The next request, if it is there and it is time for it.
    pub fn next_request(&mut self) -> Option<Request> {
        if !matches!(self.phase, Phase::Request) || self.input.is_empty() {
            return None;
        }
        self.unseen = false;
        match http::parse(&self.input) {
            Ok(Parsed::Complete(request, length)) => {
                self.input.drain(..length);
                self.told_to_go_on = false;
                self.keep_alive = request.keep_alive;
                self.phase = Phase::Waiting;
                self.deadline = None;
                Some(request)
            }
            Ok(Parsed::Partial { go_on }) => {
                if go_on && !std::mem::replace(&mut self.told_to_go_on, true) {
                    self.send(http::CONTINUE);
                }
                None
            }
            Err(refusal) => {
                self.refuse(&refusal);
                None
            }
        }
    }

    /// The descriptors that have come with the request.
    pub fn take_descriptors(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.descriptors)
    }

    /// Answers the request.
    pub fn answer(&mut self, response: &Response) {
        // Descriptors that nobody has asked for.
        self.descriptors.clear();
        let close = !self.keep_alive;
        self.phase = if close { Phase::Closing } else { Phase::Request };
        self.unseen = !self.input.is_empty();
        self.deadline = Some(Instant::now() + if close { PATIENCE } else { IDLE });
        self.send(&response.encode(close));
    }

    /// Answers what cannot be understood, and closes.
    pub fn refuse(&mut self, response: &Response) {
        self.keep_alive = false;
        self.input.clear();
        self.answer(response);
    }

    /// The deadline has passed.
    pub fn give_up(&mut self) {
        match self.phase {
            Phase::Request if !self.input.is_empty() => {
                self.refuse(&Response::fault(408, "the request did not come in time"));
            }
            _ => self.broken = true,
        }
    }

    /// Closes when what is left has been sent.
    pub fn close(&mut self) {
        self.phase = Phase::Closing;
        self.deadline = Some(Instant::now() + PATIENCE);
    }

    /// Sends as much as goes, and keeps the rest.
    pub fn send(&mut self, bytes: &[u8]) {
        self.output.extend_from_slice(bytes);
        self.flush();
    }

    /// Room for more output.
    pub fn has_room(&self) -> bool {
        self.output.len() - self.sent < MAX_OUTPUT
    }

    /// Sends what the socket takes.
    pub fn flush(&mut self) {
        while let Some(rest) = self.output.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match send(&self.socket, rest, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(n) => self.sent += n,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    if self.sent >= MAX_OUTPUT {
                        self.output.drain(..self.sent);
                        self.sent = 0;
                    }
                    return;
                }
                Err(_) => {
                    self.broken = true;
                    break;
                }
            }
        }
        self.output.clear();
        self.sent = 0;
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
