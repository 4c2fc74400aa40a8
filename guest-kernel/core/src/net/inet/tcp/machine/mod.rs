//! TCP (RFC 9293) with another host, as a state machine: segments and time go in, segments come out.
//!
//! What Linux does: see tcp(7). What we do: the same protocol with the same constants where they can be seen from outside:
//! window scaling and timestamps (RFC 7323), selective acknowledgements (RFC 2018, 6675), CUBIC (RFC 9438), delayed
//! acknowledgements, Nagle's algorithm, zero-window probes, keepalive, protection against blind resets (RFC 5961).
//!
//! Why this is not smoltcp's TCP socket: that has one ring of fixed size for each direction, so each of ten thousand idle connections
//! would hold its largest window in memory and none could grow; every byte would be copied twice more; it answers
//! a loss by sending everything after it again; its segments are of the size of a packet, so segmentation offload is out
//! of reach; and its interface looks for the socket of a segment one by one. Its `wire` module reads and writes
//! the headers here as everywhere else in the packet path.
//!
//! Positions are 64-bit offsets in each direction: 0 is the SYN, 1 the first byte, and the FIN is behind the last one. They never wrap;
//! sequence numbers of packets are converted at the edge. So comparisons are comparisons.
//!
//! Bounds: what is received is at most the receive buffer and lies in pages filled one after the other; what is beyond a gap lies in
//! buffers of its size, [`OUT_OF_ORDER`] pieces at most; ranges of the scoreboard are bounded; what is to be sent is the
//! caller's business. Nothing here allocates for a segment that is not acceptable.
//!
//! | file | holds |
//! |---|---|
//! | `input` | what a segment changes |
//! | `output` | what is to be sent now |
//! | `timers` | what is to be done when nothing comes |
//! | `queue` | bytes that were not acknowledged |
//! | `scoreboard` | what of them arrived beyond a gap |
//! | `congestion` | how fast |

mod congestion;
mod input;
mod output;
mod queue;
mod scoreboard;
#[cfg(test)]
mod tests;
mod timers;

use alloc::{collections::BTreeMap, vec::Vec};
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use ringfence_hal as hal;
use smoltcp::wire::TcpRepr;

use self::{
    congestion::{Rtt, Window},
    queue::SendQueue,
    scoreboard::Scoreboard,
};
pub(in super::super) use self::{output::Outgoing, queue::Parts};
use super::stream::{Part, Stream};
use crate::errno::{Errno, Result};

/// Pieces kept beyond a gap.
const OUT_OF_ORDER: usize = 512;
/// The largest buffers that are grown to (`tcp_rmem`, `tcp_wmem`).
pub(super) const BUFFER_MAX: usize = 4 << 20;
/// How far our windows are scaled: enough for the largest buffer.
pub(in super::super) const SCALE: u8 = 7;
const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;

/// RFC 9293, section 3.3.2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) enum State {
    SynSent,
    SynReceived,
    Established,
    FinWait1,
    FinWait2,
    CloseWait,
    Closing,
    LastAck,
    TimeWait,
    Closed,
}

/// What the socket's options say.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(in super::super) struct Knobs {
    pub no_delay: bool,
    pub cork: bool,
    pub reno: bool,
    /// Idle time, time between probes in nanoseconds, how many.
    pub keepalive: Option<(u64, u64, u32)>,
    /// Nanoseconds; 0 is the default.
    pub user_timeout: u64,
    pub syn_count: u32,
    /// How long FIN_WAIT2 lasts when nobody has the socket.
    pub linger2: u64,
}

/// What both ends have said when they began.
#[derive(Clone, Copy, Default, Debug)]
pub(in super::super) struct Opening {
    /// The first sequence numbers, ours and theirs.
    pub iss: u32,
    pub irs: u32,
    /// The largest segment they take, 0 if they did not say.
    pub mss: u16,
    /// How their windows are scaled, if at all.
    pub scale: Option<u8>,
    pub sack: bool,
    /// Their last timestamp, if both use them.
    pub timestamp: Option<u32>,
}

impl Opening {
    /// What a SYN says.
    pub fn of(iss: u32, syn: &TcpRepr<'_>) -> Opening {
        Opening {
            iss,
            irs: syn.seq_number.0 as u32,
            mss: syn.max_seg_size.unwrap_or(0),
            scale: syn.window_scale,
            sack: syn.sack_permitted,
            timestamp: syn.timestamp.map(|t| t.tsval),
        }
    }
}

/// What has happened that others wait for.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(in super::super) struct Events {
    pub connected: bool,
    pub readable: bool,
    pub writable: bool,
    /// An end was said, or it is over.
    pub ended: bool,
}

/// What is known of the way: times in nanoseconds, windows in bytes.
pub(in super::super) struct Speeds {
    pub rtt: u64,
    pub deviation: u64,
    pub rto: u64,
    pub window: u64,
    pub threshold: u64,
}

/// The answer to a segment, beside what [`Machine::output`] has to say.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) enum Answer {
    None,
    /// A reset with these numbers.
    Reset(TcpRepr<'static>),
    /// A new connection with the old names: forget this one, and look again.
    Reopened,
}

/// When things are due, by the monotonic clock; `u64::MAX` is never.
struct Deadlines {
    retransmit: u64,
    persist: u64,
    acknowledge: u64,
    keepalive: u64,
    cork: u64,
    /// FIN_WAIT2 of nobody, and TIME_WAIT.
    end: u64,
}

const NEVER: u64 = u64::MAX;

impl Default for Deadlines {
    fn default() -> Self {
        Deadlines {
            retransmit: NEVER,
            persist: NEVER,
            acknowledge: NEVER,
            keepalive: NEVER,
            cork: NEVER,
            end: NEVER,
        }
    }
}

/// Bytes that all connections together hold for readers who have not come yet. Beyond an eighth of the memory what arrives for who
/// has got something already is dropped, and comes again.
static HELD: AtomicUsize = AtomicUsize::new(0);

impl Drop for Machine {
    fn drop(&mut self) {
        HELD.fetch_sub(self.counted, Relaxed);
    }
}

/// A connection.
pub(in super::super) struct Machine {
    pub state: State,
    /// Our port and theirs.
    ports: (u16, u16),
    opening: Opening,
    pub knobs: Knobs,
    /// Why it is over, until it is told; and what was heard on the way to a time-out.
    pub error: Option<Errno>,
    pub soft_error: Option<Errno>,
    pub events: Events,

    // Sending. Everything before `una` was acknowledged, everything before `max` was sent.
    queue: SendQueue,
    una: u64,
    max: u64,
    fin: bool,
    /// The other host's window, the largest it ever was, and the segment that last said so.
    window: u64,
    window_max: u64,
    window_from: (u64, u64),
    mss: u64,
    /// More is to follow at once (`MSG_MORE`).
    more: bool,
    rtt: Rtt,
    congestion: Window,
    sacked: Scoreboard,
    /// What has not arrived below this is lost; what lies below the second was sent again since.
    lost: u64,
    again: u64,
    /// Until everything sent so far is acknowledged: a loss is being repaired; by the timer?
    recovery: Option<(u64, bool)>,
    duplicates: u32,
    /// When the segment that ends at the position was sent, to measure the round trip.
    timed: Option<(u64, u64)>,
    retries: u32,
    /// When what is now unacknowledged first was.
    unacknowledged_since: u64,
    probes: u32,
    probe_now: bool,
    /// Sent at least this, whatever the window says.
    force: bool,

    // Receiving. Everything before `next` has arrived.
    next: u64,
    /// The right edge of the window as it was told.
    edge: u64,
    last_ack: u64,
    beyond: BTreeMap<u64, Vec<u8>>,
    /// The piece beyond a gap that came last.
    latest: Option<u64>,
    fin_at: Option<u64>,
    pub arrived: Stream,
    /// Bytes that arrived in order and were not read; and those beyond a gap.
    unread: usize,
    beyond_bytes: usize,
    /// What of them is counted in [`HELD`].
    counted: usize,
    pub receive_buffer: usize,
    pub send_buffer: usize,
    /// The sizes the program knows of.
    given: (usize, usize),
    receive_fixed: bool,
    send_fixed: bool,
    /// Bytes read since, to find out how large a window is worth it.
    copied: (u64, usize),
    ack_now: bool,
    ack_bytes: u64,
    quick: u32,
    challenged: u64,
    heard: u64,
    deadlines: Deadlines,
    /// Nobody has the socket.
    orphan: bool,
}

impl Machine {
    fn new(
        state: State,
        ports: (u16, u16),
        opening: Opening,
        mss: u16,
        knobs: Knobs,
        buffers: (usize, usize),
    ) -> Machine {
        let mss = u64::from(mss.max(88));
        Machine {
            state,
            ports,
            opening,
            congestion: Window::new(mss, !knobs.reno),
            knobs,
            error: None,
            soft_error: None,
            events: Events::default(),
            queue: SendQueue::default(),
            una: 0,
            max: 0,
            fin: false,
            window: 0,
            window_max: 0,
            window_from: (0, 0),
            mss,
            more: false,
            rtt: Rtt::default(),
            sacked: Scoreboard::default(),
            lost: 0,
            again: 0,
            recovery: None,
            duplicates: 0,
            timed: None,
            retries: 0,
            unacknowledged_since: 0,
            probes: 0,
            probe_now: false,
            force: false,
            next: 0,
            edge: 0,
            last_ack: 0,
            beyond: BTreeMap::new(),
            latest: None,
            fin_at: None,
            arrived: Stream::default(),
            unread: 0,
            beyond_bytes: 0,
            counted: 0,
            receive_buffer: buffers.1,
            send_buffer: buffers.0,
            given: buffers,
            receive_fixed: false,
            send_fixed: false,
            copied: (0, 0),
            ack_now: false,
            ack_bytes: 0,
            quick: 8,
            challenged: 0,
            heard: 0,
            deadlines: Deadlines::default(),
            orphan: false,
        }
    }

    /// One that asks for a connection; `mss` is the largest segment the way there takes.
    pub fn connecting(
        ports: (u16, u16),
        iss: u32,
        mss: u16,
        knobs: Knobs,
        buffers: (usize, usize),
    ) -> Machine {
        let opening = Opening { iss, timestamp: Some(0), sack: true, ..Opening::default() };
        Machine::new(State::SynSent, ports, opening, mss, knobs, buffers)
    }

    /// One that was asked for and agreed on by a handshake elsewhere; `window` is what the SYN said.
    pub fn accepted(
        ports: (u16, u16),
        opening: Opening,
        mss: u16,
        knobs: Knobs,
        buffers: (usize, usize),
        now: u64,
    ) -> Machine {
        let mut machine = Machine::new(State::Established, ports, opening, mss, knobs, buffers);
        machine.settle(now);
        (machine.una, machine.max, machine.next, machine.last_ack) = (1, 1, 1, 1);
        machine.edge = 1 + (buffers.1 as u64).min(0xffff);
        machine
    }

    /// The handshake is done: what follows from what the other host said.
    fn settle(&mut self, now: u64) {
        let said = match self.opening.mss {
            0 => 536,
            mss => u64::from(mss.max(88)),
        };
        self.mss = self.mss.min(said);
        if self.opening.timestamp.is_some() {
            self.mss -= 12;
        }
        self.congestion = Window::new(self.mss, !self.knobs.reno);
        self.heard = now;
        self.copied.0 = now;
        if !self.send_fixed {
            // Twice what the first window takes, with what Linux counts for each packet.
            self.send_buffer = self.send_buffer.max(87_040);
        }
        self.keep_alive(now);
    }

    /// Our number for a position, and theirs.
    fn number(&self, position: u64) -> u32 {
        self.opening.iss.wrapping_add(position as u32)
    }

    fn their_number(&self, position: u64) -> u32 {
        self.opening.irs.wrapping_add(position as u32)
    }

    /// The position behind everything that will be sent, so far as it is known.
    fn end(&self) -> u64 {
        self.queue.end() + u64::from(self.fin)
    }

    fn is_scaled(&self) -> bool {
        self.opening.scale.is_some()
    }

    /// Bytes given to it that were not acknowledged.
    pub fn queued(&self) -> usize {
        self.queue.end().saturating_sub(self.una.max(1)) as usize
    }

    /// Counts what it holds.
    fn count(&mut self) {
        let now = self.unread + self.beyond_bytes;
        if now >= self.counted {
            HELD.fetch_add(now - self.counted, Relaxed);
        } else {
            HELD.fetch_sub(self.counted - now, Relaxed);
        }
        self.counted = now;
    }

    /// Whether there is no memory for more of what arrives.
    fn is_crowded(&self) -> bool {
        const LITTLE: usize = 16 * 1024;
        let held = self.unread + self.beyond_bytes;
        held > LITTLE && HELD.load(Relaxed) > hal::frames::total() * (hal::PAGE_SIZE / 8)
            || held > 4 * LITTLE && hal::frames::is_low()
    }

    /// Bytes of those that were never sent.
    pub fn unsent(&self) -> usize {
        self.queue.end().saturating_sub(self.max.max(1)) as usize
    }

    pub fn unread(&self) -> usize {
        self.unread
    }

    /// Whether the other host has said that it sends no more, and we have got all before that.
    pub fn is_done(&self) -> bool {
        self.fin_at.is_some_and(|at| self.next > at)
    }

    /// Whether nothing more can come of it for a program.
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::TimeWait | State::Closed)
    }

    pub fn mss(&self) -> u64 {
        self.mss
    }

    pub fn speeds(&self) -> Speeds {
        Speeds {
            rtt: self.rtt.smoothed,
            deviation: self.rtt.deviation,
            rto: self.rtt.rto(),
            window: self.congestion.size,
            threshold: self.congestion.threshold,
        }
    }

    /// What the other host has room for.
    pub fn peer_window(&self) -> u64 {
        self.window
    }

    /// The program has something to send. `ENOBUFS`.
    pub fn push(&mut self, part: Part, more: bool) -> Result<()> {
        self.more = more;
        self.queue.push(part)
    }

    /// The program has read that much.
    pub fn read(&mut self, now: u64, bytes: usize) {
        self.unread = self.unread.saturating_sub(bytes);
        self.count();
        self.copied.1 += bytes;
        let trip = self.rtt.smoothed.max(MS);
        if now.saturating_sub(self.copied.0) >= trip {
            // A window that holds twice what is read in a round trip does not hold the sender up.
            let worth = self.copied.1.saturating_mul(2);
            if !self.receive_fixed && worth > self.receive_buffer {
                self.receive_buffer = worth.min(BUFFER_MAX);
            }
            self.copied = (now, 0);
        }
        // Who waits for a window is told when there is much of one.
        let open = self.open_edge().saturating_sub(self.edge);
        let worth = (2 * self.mss).min(self.receive_buffer as u64 / 2);
        let was = self.edge.saturating_sub(self.next);
        if bytes > 0 && open >= worth && open >= was && self.can_receive() {
            self.ack_now = true;
        }
    }

    /// Where the window could end.
    fn open_edge(&self) -> u64 {
        let most = if self.is_scaled() && self.state != State::SynSent { 0xffff << SCALE } else { 0xffff };
        self.next + (self.receive_buffer.saturating_sub(self.unread) as u64).min(most)
    }

    fn can_receive(&self) -> bool {
        matches!(self.state, State::Established | State::FinWait1 | State::FinWait2)
    }

    /// The program's sizes of its buffers. One that it did not set grows by itself.
    pub fn resize(&mut self, send: usize, receive: usize) {
        if send != self.given.0 {
            (self.given.0, self.send_buffer, self.send_fixed) = (send, send, true);
        }
        if receive != self.given.1 {
            (self.given.1, self.receive_buffer, self.receive_fixed) = (receive, receive, true);
        }
    }

    /// Whether something with this sequence number was sent and not acknowledged: an error about it may be true.
    pub fn is_under_way(&self, number: u32) -> bool {
        let at = self.una as i64 + i64::from(number.wrapping_sub(self.number(self.una)) as i32);
        self.una as i64 <= at && at < self.max as i64
    }

    /// The program sends no more.
    pub fn finish(&mut self) {
        self.state = match self.state {
            State::Established | State::SynReceived => State::FinWait1,
            State::CloseWait => State::LastAck,
            _ => return,
        };
        self.fin = true;
        self.more = false;
    }

    /// Nobody has the socket any more. With `abort` it is over: the reset to send.
    pub fn close(&mut self, now: u64, abort: bool) -> Option<TcpRepr<'static>> {
        self.orphan = true;
        self.arrived = Stream::default();
        self.unread = 0;
        self.count();
        if abort || self.state == State::SynSent {
            let told = !matches!(self.state, State::SynSent | State::TimeWait | State::Closed);
            let reset = told.then(|| self.reset());
            self.fail(None);
            return reset;
        }
        self.finish();
        if self.state == State::FinWait2 {
            self.deadlines.end = now.saturating_add(self.knobs.linger2);
        }
        None
    }

    /// It is over, for this reason.
    pub fn fail(&mut self, error: Option<Errno>) {
        if self.state == State::Closed {
            return;
        }
        self.state = State::Closed;
        self.error = error;
        self.events.ended = true;
        self.queue.clear();
        self.beyond = BTreeMap::new();
        self.beyond_bytes = 0;
        self.count();
        self.sacked.clear();
        self.deadlines = Deadlines::default();
        self.ack_now = false;
    }

    /// A way takes smaller packets than was thought.
    pub fn shrink(&mut self, mss: u64) {
        let mss = mss.max(88);
        if mss < self.mss {
            self.mss = mss;
            // What was too large is gone.
            self.lost = self.max;
            self.again = self.una;
            self.force = true;
        }
    }
}
