//! What is to be sent now.

use smoltcp::wire::{TcpControl, TcpRepr, TcpSeqNumber, TcpTimestampRepr};

use super::{
    Answer, Machine, NEVER, Parts, SCALE, State,
    timers::{CORK, DELAY},
};

/// A segment, or several that the device is to cut.
pub(in super::super::super) struct Outgoing {
    /// The header.
    pub header: TcpRepr<'static>,
    /// What goes with it.
    pub parts: Parts,
    pub len: usize,
    /// Bytes of each segment, if it is to be cut.
    pub cut: Option<u16>,
}

/// Pages of one [`Outgoing`].
const PAGES: usize = 18;

impl Machine {
    fn header(&self, now: u64, position: u64, control: TcpControl) -> TcpRepr<'static> {
        let syn = control == TcpControl::Syn;
        let asks = self.state == State::SynSent;
        // An edge that was told is not taken back, even where it would be rounded.
        let told = self.edge.max(self.next) - self.next;
        let window = match (syn, self.is_scaled()) {
            (false, true) => told.div_ceil(1 << SCALE),
            _ => told,
        };
        TcpRepr {
            src_port: self.ports.0,
            dst_port: self.ports.1,
            control,
            seq_number: TcpSeqNumber(self.number(position) as i32),
            ack_number: (!asks).then(|| TcpSeqNumber(self.their_number(self.next) as i32)),
            window_len: window.min(0xffff) as u16,
            window_scale: (syn && (asks || self.is_scaled())).then_some(SCALE),
            max_seg_size: syn.then_some(self.mss.min(0xffff) as u16),
            sack_permitted: syn && self.opening.sack,
            sack_ranges: if syn { [None; 3] } else { self.pieces() },
            timestamp: self
                .opening
                .timestamp
                .map(|theirs| TcpTimestampRepr::new((now / super::MS) as u32, theirs)),
            payload: &[],
        }
    }

    /// What has arrived beyond a gap, the latest first.
    fn pieces(&self) -> [Option<(u32, u32)>; 3] {
        let mut out = [None; 3];
        if self.beyond.is_empty() || !self.opening.sack {
            return out;
        }
        let around = |at: u64| {
            let (mut first, mut last) = (at, at);
            for (a, piece) in self.beyond.range(at..) {
                if *a > last {
                    break;
                }
                last = last.max(a + piece.len() as u64);
            }
            for (a, piece) in self.beyond.range(..at).rev() {
                if a + (piece.len() as u64) < first {
                    break;
                }
                first = *a;
            }
            (first, last)
        };
        let latest = self.latest.filter(|at| self.beyond.contains_key(at)).map(around);
        let mut places = out.iter_mut();
        let mut put = |(a, b): (u64, u64)| {
            if let Some(place) = places.next() {
                *place = Some((self.their_number(a), self.their_number(b)));
                true
            } else {
                false
            }
        };
        latest.map(&mut put);
        let mut behind = self.next;
        for _ in 0..3 {
            let Some((at, _)) = self.beyond.range(behind..).next() else { break };
            let range = around(*at);
            behind = range.1.max(at + 1);
            if Some(range) != latest && !put(range) {
                break;
            }
        }
        out
    }

    /// A reset for this connection.
    pub fn reset(&self) -> TcpRepr<'static> {
        let mut header = self.header(0, self.max, TcpControl::Rst);
        (header.timestamp, header.sack_ranges, header.window_len) = (None, [None; 3], 0);
        header
    }

    /// The reset that answers a segment of no connection (RFC 9293, section 3.5.2).
    pub fn refusal(to: &TcpRepr<'_>) -> Answer {
        if to.control == TcpControl::Rst {
            return Answer::None;
        }
        let (seq_number, ack_number) = match to.ack_number {
            Some(ack) => (ack, None),
            None => {
                let len =
                    to.payload.len() + usize::from(matches!(to.control, TcpControl::Syn | TcpControl::Fin));
                (TcpSeqNumber(0), Some(TcpSeqNumber(to.seq_number.0.wrapping_add(len as i32))))
            }
        };
        Answer::Reset(TcpRepr {
            src_port: to.dst_port,
            dst_port: to.src_port,
            control: TcpControl::Rst,
            seq_number,
            ack_number,
            window_len: 0,
            window_scale: None,
            max_seg_size: None,
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: None,
            payload: &[],
        })
    }

    /// Moves the right edge of the window if it is worth it.
    fn open_window(&mut self) {
        let open = self.open_edge();
        let worth = self.mss.min(self.receive_buffer as u64 / 2);
        if open >= self.edge + worth || self.edge <= self.next {
            let mut room = open.saturating_sub(self.next);
            if self.state != State::SynSent && self.is_scaled() {
                room = room >> SCALE << SCALE;
            }
            self.edge = self.edge.max(self.next + room);
        }
    }

    /// Bytes that are believed to be under way.
    pub fn under_way(&self) -> u64 {
        let from = self.again.max(self.una);
        let lost = self.lost.saturating_sub(from).saturating_sub(self.sacked.bytes(from, self.lost));
        let sacked = self.sacked.bytes(self.una, self.max);
        (self.max - self.una).saturating_sub(sacked).saturating_sub(lost)
    }

    /// Sends what there is to send. `most` is how large a segment the device cuts, 0 if it does not; `emit` says whether it has
    /// taken one. Whether everything was taken.
    pub fn output(&mut self, now: u64, most: usize, emit: &mut dyn FnMut(Outgoing) -> bool) -> bool {
        if self.state == State::Closed {
            return true;
        }
        if self.state == State::SynSent || self.state == State::SynReceived && self.una == 0 {
            return self.output_syn(now, emit);
        }
        let most = (most as u64).max(self.mss);
        // A bound of the time spent here at once: as many segments as there can be in the largest window.
        for _ in 0..4096 {
            let Some((position, len)) = self.repair(most).or_else(|| self.fresh(now, most)) else { break };
            if !self.send(now, position, len, emit) {
                return false;
            }
            self.force = false;
        }
        self.force = false;
        if self.probe_now {
            let outgoing = self.bare(now, self.una.max(1) - 1);
            if !emit(outgoing) {
                return false;
            }
            self.probe_now = false;
            self.acknowledged();
        }
        if self.ack_now {
            let outgoing = self.bare(now, self.max);
            if !emit(outgoing) {
                return false;
            }
            self.acknowledged();
        } else if self.ack_bytes > 0 && self.deadlines.acknowledge == NEVER {
            self.deadlines.acknowledge = now.saturating_add(DELAY);
        }
        self.arm(now);
        true
    }

    fn output_syn(&mut self, now: u64, emit: &mut dyn FnMut(Outgoing) -> bool) -> bool {
        if self.max > 0 && !self.force && !self.ack_now {
            return true;
        }
        self.open_window();
        let header = self.header(now, 0, TcpControl::Syn);
        if !emit(Outgoing { header, parts: Parts::new(), len: 0, cut: None }) {
            return false;
        }
        if self.max == 0 {
            self.timed = Some((1, now));
            self.unacknowledged_since = now;
            self.deadlines.retransmit = now.saturating_add(self.rtt.rto());
        }
        self.max = 1;
        self.force = false;
        self.acknowledged();
        true
    }

    fn bare(&mut self, now: u64, position: u64) -> Outgoing {
        self.open_window();
        Outgoing {
            header: self.header(now, position, TcpControl::None),
            parts: Parts::new(),
            len: 0,
            cut: None,
        }
    }

    /// What was received was acknowledged.
    fn acknowledged(&mut self) {
        (self.ack_now, self.ack_bytes) = (false, 0);
        self.deadlines.acknowledge = NEVER;
        self.last_ack = self.next;
    }

    /// What is to be sent again, if there is such, and there may be that much under way.
    fn repair(&self, most: u64) -> Option<(u64, u64)> {
        let (from, next) = self.sacked.gap(self.again.max(self.una));
        let to = self.lost.min(next);
        if from >= to {
            return None;
        }
        if !self.force && self.under_way() + self.mss > self.congestion.size {
            return None;
        }
        let room = self.congestion.size.saturating_sub(self.under_way()) / self.mss * self.mss;
        Some((from, (to - from).min(most).min(room.max(self.mss))))
    }

    /// What is to be sent for the first time.
    fn fresh(&mut self, now: u64, most: u64) -> Option<(u64, u64)> {
        let waiting = self.queue.end().saturating_sub(self.max);
        if waiting == 0 {
            // The end alone needs no room.
            return (self.fin && self.max == self.queue.end()).then_some((self.max, 0));
        }
        let quiet = self.max == self.una;
        let by_window = (self.una + self.window).saturating_sub(self.max);
        let mut by_congestion = self.congestion.size.saturating_sub(self.under_way());
        if quiet {
            by_congestion = by_congestion.max(self.mss);
        }
        let len = waiting.min(by_window).min(by_congestion).min(most);
        if len == 0 {
            return None;
        }
        let corked = (self.more || self.knobs.cork) && !self.fin;
        let small = len % self.mss;
        let all = len == waiting;
        if small == 0 {
            return Some((self.max, len));
        }
        if all {
            // What is less than a segment may have to wait: for more (corked), or for an answer (Nagle).
            let held = if corked { true } else { !(self.knobs.no_delay || quiet || self.fin) };
            if !held || self.force && len < self.mss {
                return Some((self.max, len));
            }
            if corked && self.deadlines.cork == NEVER {
                self.deadlines.cork = now.saturating_add(CORK);
            }
        } else if len < self.mss && len == by_window && (quiet && self.force || len * 2 >= self.window_max) {
            // A small window: half of what it ever was, or after a while.
            return Some((self.max, len));
        }
        (len > small).then_some((self.max, len - small))
    }

    /// Sends `len` bytes from `position` on, and the end if it follows.
    fn send(&mut self, now: u64, position: u64, len: u64, emit: &mut dyn FnMut(Outgoing) -> bool) -> bool {
        let again = position < self.max;
        let data = len.min(self.queue.end().saturating_sub(position));
        let (parts, mut got) = self.queue.range(position, data as usize, PAGES);
        let mut parts = parts;
        if got as u64 > self.mss && (got as u64) < data {
            // It took too many pages: whole segments only.
            let excess = got % self.mss as usize;
            got -= excess;
            let mut drop = excess;
            while drop > 0
                && let Some(last) = parts.last_mut()
            {
                let n = last.len().min(drop);
                last.end -= n;
                drop -= n;
                if last.len() == 0 {
                    parts.pop();
                }
            }
        }
        let end = position + got as u64;
        let fin = self.fin && end == self.queue.end();
        let push = end == self.queue.end();
        let control = match (fin, push) {
            (true, _) => TcpControl::Fin,
            (_, true) if got > 0 => TcpControl::Psh,
            _ => TcpControl::None,
        };
        if got == 0 && !fin {
            // Nothing there: memory of it is gone, which cannot be.
            self.again = self.lost;
            return true;
        }
        self.open_window();
        let header = self.header(now, position, control);
        let cut = (got as u64 > self.mss).then_some(self.mss as u16);
        if !emit(Outgoing { header, parts, len: got, cut }) {
            return false;
        }
        let end = end + u64::from(fin);
        if again {
            self.again = self.again.max(end);
            if self.timed.is_some_and(|(timed, _)| timed > position) {
                self.timed = None;
            }
        } else {
            if self.una == self.max {
                self.unacknowledged_since = now;
            }
            self.max = end;
            self.timed.get_or_insert((end, now));
        }
        if again || self.deadlines.retransmit == NEVER {
            self.deadlines.retransmit = now.saturating_add(self.rtt.rto());
        }
        self.acknowledged();
        true
    }

    /// Sets the timers of what is under way, or waits for a window.
    fn arm(&mut self, now: u64) {
        if self.una < self.max {
            if self.deadlines.retransmit == NEVER {
                self.deadlines.retransmit = now.saturating_add(self.rtt.rto());
            }
            self.deadlines.persist = NEVER;
            return;
        }
        self.deadlines.retransmit = NEVER;
        let held = self.deadlines.cork != NEVER;
        if self.unsent() == 0 || held || matches!(self.state, State::TimeWait | State::Closed) {
            self.deadlines.persist = NEVER;
        } else if self.deadlines.persist == NEVER {
            self.unacknowledged_since = now;
            self.arm_persist(now);
        }
    }
}
