//! How fast: round-trip times and the retransmission timer (RFC 6298), and the congestion window (RFC 5681, CUBIC of RFC 9438).

/// The retransmission timer at first, at least above the round-trip time, and at most: as Linux.
pub(super) const RTO_INITIAL: u64 = 1_000_000_000;
const RTO_ABOVE: u64 = 200_000_000;
const RTO_MAX: u64 = 120_000_000_000;

/// What is known of round-trip times, in nanoseconds.
pub(super) struct Rtt {
    pub smoothed: u64,
    pub deviation: u64,
    timer: u64,
    /// How often the timer has run out in a row.
    pub backoff: u32,
}

impl Default for Rtt {
    fn default() -> Self {
        Rtt { smoothed: 0, deviation: 0, timer: RTO_INITIAL, backoff: 0 }
    }
}

impl Rtt {
    pub fn sample(&mut self, took: u64) {
        if self.smoothed == 0 {
            (self.smoothed, self.deviation) = (took.max(1), took / 2);
        } else {
            self.deviation = (self.deviation * 3 + self.smoothed.abs_diff(took)) / 4;
            self.smoothed = (self.smoothed * 7 + took) / 8;
        }
        self.timer = self.smoothed.saturating_add((self.deviation * 4).max(RTO_ABOVE));
        self.backoff = 0;
    }

    /// The retransmission timer as it is now.
    pub fn rto(&self) -> u64 {
        self.timer.checked_shl(self.backoff.min(16)).unwrap_or(RTO_MAX).min(RTO_MAX)
    }
}

/// The congestion window, in bytes.
pub(super) struct Window {
    pub size: u64,
    pub threshold: u64,
    /// Whether it grows as CUBIC says, or as Reno.
    pub cubic: bool,
    /// Before the last loss.
    max: u64,
    /// When growth began after it, and how long until `max` is reached again, in milliseconds.
    epoch: Option<(u64, u64)>,
    /// What Reno would have.
    reno: u64,
    /// Bytes acknowledged that have not made it grow yet.
    credit: u64,
}

impl Window {
    pub fn new(mss: u64, cubic: bool) -> Window {
        Window { size: 10 * mss, threshold: u64::MAX >> 1, cubic, max: 0, epoch: None, reno: 0, credit: 0 }
    }

    /// Something was lost, with that much in flight: what may be in flight from now on.
    pub fn loss(&mut self, mss: u64) {
        let now = self.size;
        // Who comes after is given room (fast convergence).
        self.max = if self.cubic && now < self.max { now * 17 / 20 } else { now };
        self.threshold = if self.cubic { now * 7 / 10 } else { now / 2 }.max(2 * mss);
        self.epoch = None;
    }

    /// `bytes` were acknowledged while as much was in flight as there may be.
    pub fn grow(&mut self, bytes: u64, mss: u64, now: u64, rtt: u64) {
        const LIMIT: u64 = 1 << 26;
        if self.size >= LIMIT {
            return;
        }
        if self.size < self.threshold {
            self.size += bytes;
            return;
        }
        self.credit += bytes;
        let target = if self.cubic { self.cubic_target(mss, now, rtt) } else { self.size };
        // As many bytes for each window's worth that is acknowledged.
        let step =
            target.saturating_sub(self.size).clamp(if self.cubic { 1 } else { mss }, self.size / 2 + 1);
        let per = self.size.div_ceil(step.max(1)).saturating_mul(mss);
        // `per` bytes acknowledged are a segment more.
        if per > 0 && self.credit >= per {
            let segments = self.credit / per;
            self.credit -= segments * per;
            self.size += segments * mss;
        }
    }

    fn cubic_target(&mut self, mss: u64, now: u64, rtt: u64) -> u64 {
        let now = now / 1_000_000;
        let (since, k) = match self.epoch {
            Some(epoch) => epoch,
            None => {
                let below = self.max.saturating_sub(self.size) / mss.max(1);
                // K = cbrt(W / C) seconds, with C = 0.4.
                let k = cube_root(below.saturating_mul(2_500_000_000));
                self.epoch = Some((now, k));
                self.max = self.max.max(self.size);
                self.reno = self.size;
                (now, k)
            }
        };
        let t = (now.saturating_sub(since) + rtt / 1_000_000).min(1 << 20) as i64 - k.min(1 << 20) as i64;
        // 0.4 (t / 1000)^3 segments.
        let grown = t.saturating_mul(t).saturating_mul(t) / 2_500_000_000;
        let cubic = (self.max as i64).saturating_add(grown.saturating_mul(mss as i64)).max(0) as u64;
        // Never slower than Reno: about half a segment a round trip after a loss to 7/10.
        let trips = now.saturating_sub(since).saturating_mul(1_000_000) / rtt.max(1_000_000);
        cubic.max(self.reno.saturating_add(trips.min(1 << 20) * mss / 2))
    }
}

fn cube_root(of: u64) -> u64 {
    let (mut low, mut high) = (0u64, 1 << 21);
    while low < high {
        let middle = (low + high).div_ceil(2);
        if middle.saturating_mul(middle).saturating_mul(middle) <= of {
            low = middle
        } else {
            high = middle - 1
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cube_roots() {
        for n in [0, 1, 7, 8, 26, 27, 1_000_000, u64::MAX] {
            let r = cube_root(n);
            assert!(r.pow(3) <= n && (r == 1 << 21 || (r + 1).checked_pow(3).is_none_or(|c| c > n)), "{n}");
        }
    }

    #[test]
    fn the_timer_follows_the_round_trip() {
        let mut rtt = Rtt::default();
        assert_eq!(rtt.rto(), RTO_INITIAL);
        (0..50).for_each(|_| rtt.sample(1_000_000));
        assert_eq!(rtt.rto(), RTO_ABOVE + 1_000_000);
        rtt.backoff = 3;
        assert_eq!(rtt.rto(), 8 * (RTO_ABOVE + 1_000_000));
        rtt.backoff = 99;
        assert_eq!(rtt.rto(), RTO_MAX);
    }

    #[test]
    fn after_a_loss_the_window_comes_back() {
        let mss = 1460;
        let mut w = Window::new(mss, true);
        w.size = 100 * mss;
        w.loss(mss);
        w.size = w.threshold;
        assert_eq!(w.size, 70 * mss);
        let mut now = 0;
        for _ in 0..2000 {
            now += 10_000_000;
            let n = w.size;
            w.grow(n, mss, now, 10_000_000);
        }
        assert!(w.size > 100 * mss, "{}", w.size / mss);
    }
}
