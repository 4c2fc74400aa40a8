//! What is to be done when nothing comes.

use super::{MS, Machine, NEVER, SECOND, State};
use crate::errno::Errno;

/// How often unanswered segments are sent (`tcp_retries2`), for a socket nobody has (`tcp_orphan_retries`).
const RETRIES: u32 = 15;
const RETRIES_ORPHAN: u32 = 8;
/// An acknowledgement waits that long for something to go with.
pub(super) const DELAY: u64 = 40 * MS;
/// `MSG_MORE` waits that long for more.
pub(super) const CORK: u64 = 200 * MS;
const TIME_WAIT: u64 = 60 * SECOND;
const PROBE_MAX: u64 = 120 * SECOND;

impl Machine {
    /// When [`Machine::on_timer`] has something to do; `u64::MAX` is never.
    pub fn deadline(&self) -> u64 {
        let d = &self.deadlines;
        d.retransmit.min(d.persist).min(d.acknowledge).min(d.keepalive).min(d.cork).min(d.end)
    }

    /// Does what is due. What follows from it is sent by `output`.
    pub fn on_timer(&mut self, now: u64) {
        let due = |at: &mut u64| {
            let due = *at <= now;
            if due {
                *at = NEVER;
            }
            due
        };
        if due(&mut self.deadlines.end) {
            return self.fail(None);
        }
        if due(&mut self.deadlines.acknowledge) {
            self.ack_now = true;
        }
        if due(&mut self.deadlines.cork) {
            self.force = true;
        }
        if due(&mut self.deadlines.retransmit) {
            self.retransmit_all(now);
        }
        if due(&mut self.deadlines.persist) {
            self.probe(now);
        }
        if due(&mut self.deadlines.keepalive) {
            self.ask_alive(now);
        }
    }

    /// Nothing came for the time of a round trip and more: all that is under way is taken for lost.
    fn retransmit_all(&mut self, now: u64) {
        if self.una >= self.max && self.state != State::SynSent {
            return;
        }
        self.retries += 1;
        let most = match self.state {
            State::SynSent => self.knobs.syn_count,
            _ if self.orphan => RETRIES_ORPHAN,
            _ => RETRIES,
        };
        let waited = now.saturating_sub(self.unacknowledged_since);
        let patience = self.knobs.user_timeout;
        if self.retries > most || patience > 0 && waited >= patience {
            return self.fail(Some(self.soft_error.unwrap_or(Errno::ETIMEDOUT)));
        }
        if self.recovery.is_none_or(|(_, by_timer)| !by_timer) {
            self.congestion.loss(self.mss);
        }
        if self.retries > 1 {
            // It may have thrown away what it said it had.
            self.sacked.clear();
        }
        self.congestion.size = self.mss;
        self.recovery = Some((self.max, true));
        (self.lost, self.again) = (self.max, self.una);
        self.duplicates = 0;
        self.timed = None;
        self.rtt.backoff += 1;
        self.force = true;
        self.deadlines.retransmit = now.saturating_add(self.rtt.rto());
    }

    /// The window is closed: is it still?
    fn probe(&mut self, now: u64) {
        self.probes += 1;
        let waited = now.saturating_sub(self.unacknowledged_since);
        let patience = self.knobs.user_timeout;
        // A host that answers may keep its window closed for ever.
        let silent = now.saturating_sub(self.heard) > PROBE_MAX * 8;
        if silent || self.orphan && self.probes > RETRIES_ORPHAN || patience > 0 && waited >= patience {
            return self.fail(Some(self.soft_error.unwrap_or(Errno::ETIMEDOUT)));
        }
        if self.window > 0 {
            self.force = true
        } else {
            self.probe_now = true
        }
        self.arm_persist(now);
    }

    pub(super) fn arm_persist(&mut self, now: u64) {
        let wait = self.rtt.rto().checked_shl(self.probes.min(16)).unwrap_or(PROBE_MAX).min(PROBE_MAX);
        self.deadlines.persist = now.saturating_add(wait);
    }

    /// After a change of the options, or something was heard.
    pub fn keep_alive(&mut self, now: u64) {
        let open = !matches!(self.state, State::SynSent | State::TimeWait | State::Closed);
        self.deadlines.keepalive = match self.knobs.keepalive {
            Some((idle, ..)) if open => self.heard.saturating_add(idle).max(now),
            _ => NEVER,
        };
    }

    fn ask_alive(&mut self, now: u64) {
        let Some((idle, interval, count)) = self.knobs.keepalive else { return };
        let quiet = now.saturating_sub(self.heard);
        if quiet < idle {
            return self.keep_alive(now);
        }
        // What is under way asks by itself.
        if self.una == self.max && self.unsent() == 0 {
            if self.probes >= count {
                return self.fail(Some(Errno::ETIMEDOUT));
            }
            self.probes += 1;
            self.probe_now = true;
        }
        self.deadlines.keepalive = now.saturating_add(interval);
    }

    pub(super) fn wait_out(&mut self, now: u64) {
        self.state = State::TimeWait;
        self.deadlines.retransmit = NEVER;
        self.deadlines.persist = NEVER;
        self.deadlines.keepalive = NEVER;
        self.deadlines.end = now.saturating_add(TIME_WAIT);
        self.events.ended = true;
    }
}
