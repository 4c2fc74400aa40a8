//! What a segment changes (RFC 9293, section 3.10.7).

use alloc::vec::Vec;

use smoltcp::wire::{TcpControl, TcpRepr};

use super::{Answer, MS, Machine, NEVER, OUT_OF_ORDER, Opening, State};
use crate::{errno::Errno, io::Source};

impl Machine {
    /// The position of one of their sequence numbers: the one that is nearest to what comes next. Negative ones are before the SYN.
    fn position(&self, number: u32) -> i64 {
        let distance = number.wrapping_sub(self.their_number(self.next)) as i32;
        self.next as i64 + i64::from(distance)
    }

    /// The position of an acknowledgement.
    fn acknowledges(&self, number: u32) -> i64 {
        self.una as i64 + i64::from(number.wrapping_sub(self.number(self.una)) as i32)
    }

    /// Takes a segment. What follows from it is sent by `output`.
    pub fn on_segment(&mut self, now: u64, s: &TcpRepr<'_>) -> Answer {
        match self.state {
            State::Closed => Machine::refusal(s),
            State::SynSent => self.on_answer(now, s),
            _ => self.on_more(now, s),
        }
    }

    /// The answer to our SYN.
    fn on_answer(&mut self, now: u64, s: &TcpRepr<'_>) -> Answer {
        let ack = s.ack_number.map(|ack| self.acknowledges(ack.0 as u32));
        if ack.is_some_and(|ack| ack != 1) {
            return Machine::refusal(s);
        }
        if s.control == TcpControl::Rst {
            if ack.is_some() {
                self.fail(Some(Errno::ECONNREFUSED));
            }
            return Answer::None;
        }
        if s.control != TcpControl::Syn {
            return Answer::None;
        }
        self.opening = Opening::of(self.opening.iss, s);
        (self.next, self.edge) = (1, self.edge + 1);
        self.window = s.window_len.into();
        self.window_max = self.window;
        self.window_from = (0, 0);
        self.settle(now);
        if ack.is_some() {
            self.una = 1;
            self.measure(now, 1);
            self.deadlines.retransmit = NEVER;
            (self.retries, self.rtt.backoff, self.soft_error) = (0, 0, None);
            self.state = State::Established;
            self.events.connected = true;
            self.keep_alive(now);
        } else {
            // Both ask at once.
            self.state = State::SynReceived;
        }
        self.ack_now = true;
        Answer::None
    }

    fn on_more(&mut self, now: u64, s: &TcpRepr<'_>) -> Answer {
        let at = self.position(s.seq_number.0 as u32);
        let flag = matches!(s.control, TcpControl::Syn | TcpControl::Fin);
        let end = at + s.payload.len() as i64 + i64::from(flag);
        let is_reset = s.control == TcpControl::Rst;

        if self.state == State::TimeWait && s.control == TcpControl::Syn && s.ack_number.is_none() {
            let newer = at > self.next as i64
                || matches!((self.opening.timestamp, s.timestamp), (Some(old), Some(new))
                    if new.tsval.wrapping_sub(old) as i32 > 0);
            if newer {
                self.fail(None);
                return Answer::Reopened;
            }
        }
        // An old copy, by its timestamp (RFC 7323, section 5).
        if let (Some(recent), Some(stamp)) = (self.opening.timestamp, s.timestamp)
            && (stamp.tsval.wrapping_sub(recent) as i32) < 0
            && !is_reset
        {
            self.ack_now = true;
            return Answer::None;
        }
        let right = self.edge.max(self.next) as i64;
        if end < self.last_ack as i64 || at > right || end > right + (1 << 20) {
            if !is_reset {
                self.challenge(now, s);
            }
            return Answer::None;
        }
        if is_reset {
            if at == self.next as i64 {
                let error = match self.state {
                    State::SynReceived => Some(Errno::ECONNREFUSED),
                    State::CloseWait => Some(Errno::EPIPE),
                    State::TimeWait | State::Closing | State::LastAck => None,
                    _ => Some(Errno::ECONNRESET),
                };
                self.fail(error);
            } else {
                self.challenge(now, s);
            }
            return Answer::None;
        }
        if s.control == TcpControl::Syn {
            if self.state == State::SynReceived {
                self.force = true;
            } else {
                self.challenge(now, s);
                return Answer::None;
            }
        }
        let Some(ack) = s.ack_number else { return Answer::None };
        let ack = self.acknowledges(ack.0 as u32);
        if ack > self.max as i64 {
            if self.state == State::SynReceived {
                return Machine::refusal(s);
            }
            self.challenge(now, s);
            return Answer::None;
        }
        self.heard = now;
        self.probes = 0;
        if let (Some(_), Some(stamp)) = (self.opening.timestamp, s.timestamp)
            && at <= self.last_ack as i64
        {
            self.opening.timestamp = Some(stamp.tsval);
        }
        self.on_acknowledgement(now, s, at, ack);
        if self.state == State::Closed {
            return Answer::None;
        }
        if self.orphan && !s.payload.is_empty() && end > self.next as i64 && self.state != State::TimeWait {
            // Nobody will read it.
            let reset = self.reset();
            self.fail(None);
            return Answer::Reset(reset);
        }
        self.on_data(now, s, at);
        Answer::None
    }

    /// Tells where we are, but not to everybody who asks (RFC 5961, section 10).
    fn challenge(&mut self, now: u64, s: &TcpRepr<'_>) {
        let plain = !s.payload.is_empty() && s.control != TcpControl::Syn;
        if plain || now.saturating_sub(self.challenged) >= 500 * MS || self.challenged == 0 {
            self.challenged = now.max(1);
            self.ack_now = true;
        }
    }

    /// A round trip: only of what was sent once (Karn). Echoed timestamps would say more, but that of an old copy says too much.
    fn measure(&mut self, now: u64, ack: u64) {
        if let Some((_, sent)) = self.timed.take_if(|(end, _)| ack >= *end) {
            self.rtt.sample(now.saturating_sub(sent));
        }
    }

    fn on_acknowledgement(&mut self, now: u64, s: &TcpRepr<'_>, at: i64, ack: i64) {
        let scale = self.opening.scale.unwrap_or(0).min(14);
        let window = u64::from(s.window_len) << scale;
        let (from_at, from_ack) = self.window_from;
        let mut moved = false;
        if ack >= self.una as i64 && (at > from_at as i64 || at == from_at as i64 && ack >= from_ack as i64)
            || ack > self.una as i64
        {
            moved = window != self.window;
            self.window = window;
            self.window_max = self.window_max.max(window);
            self.window_from = (at.max(0) as u64, ack.max(0) as u64);
            if moved && window > 0 {
                self.deadlines.persist = NEVER;
            }
        }
        let before = self.una;
        let mut news = false;
        if self.opening.sack {
            for (a, b) in s.sack_ranges.iter().flatten() {
                let (a, b) = (self.acknowledges(*a), self.acknowledges(*b));
                if a >= self.una as i64 && b <= self.max as i64 && a < b {
                    news |= self.sacked.add(a as u64, b as u64);
                }
            }
        }
        if ack > self.una as i64 {
            self.advance(now, ack as u64);
        } else if ack == self.una as i64
            && s.payload.is_empty()
            && s.control != TcpControl::Fin
            && !moved
            && self.max > self.una
        {
            self.duplicates += 1;
        }
        self.find_losses(before, news);
        let end = self.end();
        if self.fin && self.una == end {
            match self.state {
                State::FinWait1 => {
                    self.state = State::FinWait2;
                    if self.orphan {
                        self.deadlines.end = now.saturating_add(self.knobs.linger2);
                    }
                }
                State::Closing => self.wait_out(now),
                State::LastAck => self.fail(None),
                _ => {}
            }
        }
    }

    /// Everything before `ack` has arrived.
    fn advance(&mut self, now: u64, ack: u64) {
        let limited = (self.max - self.una) * 2 >= self.congestion.size;
        let bytes = ack - self.una;
        if self.una == 0 {
            // Their SYN was answered by ours: both had asked.
            self.state = if self.fin { State::FinWait1 } else { State::Established };
            self.events.connected = true;
            self.deadlines.retransmit = NEVER;
        }
        self.una = ack;
        self.queue.release(ack);
        self.sacked.acknowledge(ack);
        self.measure(now, ack);
        (self.duplicates, self.retries, self.rtt.backoff, self.soft_error) = (0, 0, 0, None);
        self.unacknowledged_since = now;
        self.deadlines.retransmit =
            if self.una < self.max { now.saturating_add(self.rtt.rto()) } else { NEVER };
        self.events.writable = true;
        match self.recovery {
            Some((until, _)) if ack >= until => {
                self.recovery = None;
                self.congestion.size = self.congestion.size.max(self.congestion.threshold.min(1 << 26));
                (self.lost, self.again) = (0, 0);
            }
            // The next one is missing, too (RFC 6582).
            Some((_, false)) if !self.opening.sack => {
                self.lost = self.lost.max((ack + self.mss).min(self.max));
            }
            Some((_, false)) => {}
            Some((_, true)) => {
                self.congestion.size =
                    (self.congestion.size + bytes).min(self.congestion.threshold.max(self.mss))
            }
            None if limited => {
                let rtt = self.rtt.smoothed;
                self.congestion.grow(bytes, self.mss, now, rtt);
            }
            None => {}
        }
        if !self.send_fixed {
            // Twice what can be under way.
            let worth = (self.congestion.size as usize).saturating_mul(2).min(super::BUFFER_MAX);
            self.send_buffer = self.send_buffer.max(worth);
        }
    }

    /// Three segments arrived behind one that did not: it is lost.
    fn find_losses(&mut self, before: u64, news: bool) {
        if self.una >= self.max {
            return;
        }
        let found = if self.opening.sack {
            if news { self.sacked.lost_below(2 * self.mss + 1) } else { None }
        } else {
            (self.duplicates >= 3 && self.una == before).then(|| (self.una + self.mss).min(self.max))
        };
        let Some(below) = found.filter(|below| *below > self.una) else { return };
        if self.recovery.is_none() {
            self.congestion.loss(self.mss);
            self.congestion.size = self.congestion.threshold;
            self.recovery = Some((self.max, false));
            (self.lost, self.again) = (below, self.una);
            // The first goes at once.
            self.force = true;
        }
        self.lost = self.lost.max(below);
    }

    /// Takes the bytes, and the end.
    fn on_data(&mut self, now: u64, s: &TcpRepr<'_>, at: i64) {
        let fin = s.control == TcpControl::Fin;
        if s.payload.is_empty() && !fin {
            return;
        }
        if !self.can_receive() {
            // After the end there is nothing more; it may not have heard that we know.
            self.ack_now = true;
            if self.state == State::TimeWait && fin {
                self.wait_out(now);
            }
            return;
        }
        let at = at + i64::from(s.control == TcpControl::Syn);
        let skip = (self.next as i64 - at).max(0) as usize;
        let bytes = s.payload.get(skip.min(s.payload.len())..).unwrap_or_default();
        let start = (at + skip as i64) as u64;
        let room = self.edge.saturating_sub(start) as usize;
        let whole = bytes.len() <= room;
        let bytes = bytes.get(..room.min(bytes.len())).unwrap_or_default();
        if fin && whole {
            let fin_at = (at + s.payload.len() as i64).max(0) as u64;
            if self.fin_at.is_none_or(|known| known == fin_at) && fin_at >= self.next {
                self.fin_at = Some(fin_at);
            }
        }
        if skip > 0 || !whole {
            self.ack_now = true;
        }
        if self.is_crowded() {
            // It will come again, perhaps when there is memory.
            self.fin_at = self.fin_at.filter(|at| *at <= self.next);
        } else if start <= self.next {
            self.take(bytes);
            self.take_beyond();
        } else if !bytes.is_empty() {
            self.put_beyond(start, bytes);
        } else if fin {
            self.ack_now = true;
        }
        self.count();
        if self.fin_at == Some(self.next) {
            self.next += 1;
            self.edge = self.edge.max(self.next);
            self.ack_now = true;
            self.events.ended = true;
            self.events.readable = true;
            match self.state {
                State::Established => self.state = State::CloseWait,
                State::FinWait1 => self.state = State::Closing,
                State::FinWait2 => self.wait_out(now),
                _ => {}
            }
        }
    }

    /// The next bytes.
    fn take(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let gap = !self.beyond.is_empty();
        let taken = self.arrived.fill(&mut Source::kernel(bytes), bytes.len()).unwrap_or(0);
        self.next += taken as u64;
        self.unread += taken;
        self.ack_bytes += taken as u64;
        self.events.readable |= taken > 0;
        // At the beginning, for every second segment, and while something is missing.
        let many = self.ack_bytes >= 2 * self.mss;
        self.ack_now |= gap || many || self.quick > 0 || taken < bytes.len();
        self.quick = self.quick.saturating_sub(1);
    }

    /// What comes after the gap that was filled.
    fn take_beyond(&mut self) {
        while let Some(entry) = self.beyond.first_entry() {
            if *entry.key() > self.next {
                break;
            }
            let (at, piece) = entry.remove_entry();
            self.beyond_bytes -= piece.len();
            let skip = (self.next - at) as usize;
            let Some(bytes) = piece.get(skip..).filter(|b| !b.is_empty()) else { continue };
            let taken = self.arrived.fill(&mut Source::kernel(bytes), bytes.len()).unwrap_or(0);
            self.next += taken as u64;
            self.unread += taken;
            self.events.readable |= taken > 0;
            if taken < bytes.len() {
                // No memory: it will come again.
                break;
            }
        }
    }

    fn put_beyond(&mut self, at: u64, bytes: &[u8]) {
        self.ack_now = true;
        // What is covered already, or in part.
        let before = self.beyond.range(..=at).next_back().map(|(a, p)| a + p.len() as u64);
        let skip = before.map_or(0, |end| end.saturating_sub(at));
        let Some(bytes) = bytes.get(skip as usize..).filter(|b| !b.is_empty()) else { return };
        let at = at + skip;
        self.latest = Some(at);
        let end = at + bytes.len() as u64;
        // Later pieces that it covers entirely go; one that it touches stays, and some bytes are there twice.
        let covered: Vec<u64> =
            self.beyond.range(at..end).filter(|(a, p)| *a + p.len() as u64 <= end).map(|(a, _)| *a).collect();
        for a in covered {
            self.beyond_bytes -= self.beyond.remove(&a).map_or(0, |piece| piece.len());
        }
        if self.beyond.len() >= OUT_OF_ORDER {
            // The farthest will come again.
            if self.beyond.last_key_value().is_some_and(|(last, _)| *last <= at) {
                return;
            }
            self.beyond_bytes -= self.beyond.pop_last().map_or(0, |(_, piece)| piece.len());
        }
        let mut piece = Vec::new();
        if piece.try_reserve_exact(bytes.len()).is_ok() {
            piece.extend_from_slice(bytes);
            self.beyond_bytes += piece.len();
            self.beyond.insert(at, piece);
        }
    }
}
