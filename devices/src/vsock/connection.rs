//! One stream's protocol state. No I/O: the muxer asks what to say and reports what was done.
//!
//! The invariant of flow control: `buffer.len() == received - fwd_cnt`, and never above [`BUF_ALLOC`]. All
//! counters wrap at 2^32 as the specification has them.

use std::collections::VecDeque;
use std::num::Wrapping;

use super::BUF_ALLOC;
use super::packet::{Header, SHUTDOWN_BOTH, SHUTDOWN_RCV, SHUTDOWN_SEND, TYPE_STREAM, op};

/// Tell the guest of freed space when this much of it is news. As long as it is below half of the credit, a
/// guest whose bytes were all taken believes at least half of its credit is free, and so never waits in vain.
const CREDIT_UPDATE_STEP: u32 = BUF_ALLOC / 2;

/// A buffer that grew beyond this gives its memory back when it has become empty.
const KEEP_CAPACITY: usize = 16 << 10;

/// Name of a connection: the guest's port and the host's.
pub(super) type Key = (u32, u32);

/// The guest broke the protocol; the connection must be reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Violation {
    /// More bytes than the credit allows.
    Credit,
    /// Data after it said it would send no more.
    AfterShutdown,
}

/// Packets without data that are due.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Due {
    response: bool,
    credit_update: bool,
    credit_request: bool,
    shutdown: bool,
    reset: bool,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Connection {
    pub key: Key,
    guest_cid: u64,
    host_cid: u64,
    /// Bytes accepted from the guest and not yet taken by the host's descriptor.
    buffer: VecDeque<u8>,
    fwd_cnt: Wrapping<u32>,
    fwd_cnt_told: Wrapping<u32>,
    peer_alloc: u32,
    peer_fwd_cnt: Wrapping<u32>,
    sent: Wrapping<u32>,
    /// SHUTDOWN flags received.
    guest_shut: u32,
    /// SHUTDOWN flags decided by the host.
    host_shut: u32,
    due: Due,
    /// A CREDIT_REQUEST is on its way and unanswered.
    asked_for_credit: bool,
}

impl Connection {
    /// A connection the guest has asked for by `request`; its RESPONSE is due.
    pub fn accept(request: &Header) -> Self {
        let mut connection = Self {
            key: (request.src_port, request.dst_port),
            guest_cid: request.src_cid,
            host_cid: request.dst_cid,
            buffer: VecDeque::new(),
            fwd_cnt: Wrapping(0),
            fwd_cnt_told: Wrapping(0),
            peer_alloc: 0,
            peer_fwd_cnt: Wrapping(0),
            sent: Wrapping(0),
            guest_shut: 0,
            host_shut: 0,
            due: Due { response: true, ..Due::default() },
            asked_for_credit: false,
        };
        connection.update_peer(request);
        connection
    }

    /// Every packet carries the sender's credit. The guest's CPUs make packets side by side, so one with an older count
    /// may come behind one with a newer; believing it would be to wait for credit that the guest has already told. Nor can
    /// it have taken more than was sent.
    pub fn update_peer(&mut self, packet: &Header) {
        self.peer_alloc = packet.buf_alloc;
        let fwd_cnt = Wrapping(packet.fwd_cnt);
        if fwd_cnt - self.peer_fwd_cnt <= self.sent - self.peer_fwd_cnt {
            self.peer_fwd_cnt = fwd_cnt;
        }
        if self.credit() > 0 {
            self.asked_for_credit = false;
        }
    }

    /// Bytes the guest has room for.
    pub fn credit(&self) -> usize {
        let in_flight = (self.sent - self.peer_fwd_cnt).0;
        self.peer_alloc.saturating_sub(in_flight) as usize
    }

    /// May `len` more bytes come from the guest?
    pub fn check_receive(&self, len: usize) -> Result<(), Violation> {
        if self.guest_shut & SHUTDOWN_SEND != 0 {
            return Err(Violation::AfterShutdown);
        }
        if len > BUF_ALLOC as usize - self.buffer.len() {
            return Err(Violation::Credit);
        }
        Ok(())
    }

    /// Keeps bytes (checked by [`Connection::check_receive`]) until the descriptor takes them.
    pub fn keep(&mut self, data: &[u8]) {
        self.buffer.extend(data);
    }

    /// The bytes waiting for the descriptor, first part.
    pub fn waiting(&self) -> &[u8] {
        self.buffer.as_slices().0
    }

    /// Bytes waiting for the descriptor.
    pub fn waiting_len(&self) -> usize {
        self.buffer.len()
    }

    /// The descriptor took `n` bytes of [`Connection::waiting`].
    pub fn took(&mut self, n: usize) {
        self.buffer.drain(..n);
        if self.buffer.is_empty() && self.buffer.capacity() > KEEP_CAPACITY {
            self.buffer = VecDeque::new();
        }
        self.forwarded(n);
    }

    /// `n` bytes left for good, taken by the descriptor or dropped because there is none.
    pub fn forwarded(&mut self, n: usize) {
        self.fwd_cnt += Wrapping(n as u32);
        if (self.fwd_cnt - self.fwd_cnt_told).0 >= CREDIT_UPDATE_STEP {
            self.due.credit_update = true;
        }
    }

    /// Drops what waits, because nobody will take it any more.
    pub fn discard_waiting(&mut self) {
        let n = self.buffer.len();
        self.took(n);
    }

    /// The guest asked for our counters.
    pub fn answer_credit_request(&mut self) {
        self.due.credit_update = true;
    }

    /// The guest has shut down these directions; returns all it has shut down so far.
    pub fn guest_shutdown(&mut self, flags: u32) -> u32 {
        self.guest_shut |= flags & SHUTDOWN_BOTH;
        self.guest_shut
    }

    /// Directions the guest has shut down.
    pub fn guest_shut(&self) -> u32 {
        self.guest_shut
    }

    /// The host shuts these directions down: RCV if nobody takes the guest's bytes, SEND at the end of its own.
    pub fn host_shutdown(&mut self, flags: u32) {
        if self.host_shut | flags != self.host_shut {
            self.host_shut |= flags;
            self.due.shutdown = true;
        }
    }

    /// Will the host still send?
    pub fn host_sends(&self) -> bool {
        self.host_shut & SHUTDOWN_SEND == 0 && self.guest_shut & SHUTDOWN_RCV == 0
    }

    /// The connection is over; RST is the last thing said.
    pub fn reset(&mut self) {
        self.due = Due { reset: true, ..Due::default() };
    }

    /// Data waits for credit: ask for it, once.
    pub fn want_credit(&mut self) {
        if !self.asked_for_credit {
            self.asked_for_credit = true;
            self.due.credit_request = true;
        }
    }

    /// Is a packet without data due?
    pub fn has_due(&self) -> bool {
        self.due != Due::default()
    }

    /// The next packet without data, or `None` when data may follow. A RESPONSE goes before everything else, a
    /// SHUTDOWN after the data that precedes it (the muxer decides it only at the source's end).
    pub fn next_control(&mut self) -> Option<Header> {
        let due = &mut self.due;
        let (op, flags) = if std::mem::take(&mut due.reset) {
            (op::RST, 0)
        } else if std::mem::take(&mut due.response) {
            (op::RESPONSE, 0)
        } else if std::mem::take(&mut due.shutdown) {
            (op::SHUTDOWN, self.host_shut)
        } else if std::mem::take(&mut due.credit_request) {
            (op::CREDIT_REQUEST, 0)
        } else if due.credit_update {
            (op::CREDIT_UPDATE, 0)
        } else {
            return None;
        };
        Some(Header { op, flags, ..self.header() })
    }

    /// The header of `len` bytes of data, which must not exceed [`Connection::credit`].
    pub fn next_data(&mut self, len: usize) -> Header {
        self.sent += Wrapping(len as u32);
        Header { op: op::RW, len: len as u32, ..self.header() }
    }

    /// Every header tells our counters, so a credit update that was due is said with it.
    fn header(&mut self) -> Header {
        self.due.credit_update = false;
        self.fwd_cnt_told = self.fwd_cnt;
        Header {
            src_cid: self.host_cid,
            dst_cid: self.guest_cid,
            src_port: self.key.1,
            dst_port: self.key.0,
            kind: TYPE_STREAM,
            buf_alloc: BUF_ALLOC,
            fwd_cnt: self.fwd_cnt.0,
            ..Header::default()
        }
    }
}
