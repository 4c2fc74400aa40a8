//! The rate limiter: a token bucket.
//!
//! A bucket holds at most `capacity` tokens and regains `per_second` of them each second. Time is passed in, so
//! that the arithmetic can be tested without waiting: tokens are counted in billionths, because then one
//! nanosecond is worth exactly `per_second` units and nothing is ever rounded away.

use std::time::{Duration, Instant};

const UNIT: u128 = 1_000_000_000;

/// A token bucket.
#[derive(Debug, Clone)]
pub struct TokenBucket {
    capacity: u64,
    per_second: u64,
    /// Billionths of a token.
    level: u128,
    last: Instant,
}

impl TokenBucket {
    /// A full bucket. `per_second` must not be 0.
    pub fn new(capacity: u64, per_second: u64, now: Instant) -> Self {
        Self { capacity, per_second: per_second.max(1), level: u128::from(capacity) * UNIT, last: now }
    }

    /// Most tokens it holds.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Takes `tokens` (at most the capacity counts), or says how long until they will be there.
    pub fn take(&mut self, tokens: u64, now: Instant) -> Result<(), Duration> {
        let passed = now.saturating_duration_since(self.last).as_nanos();
        self.last = self.last.max(now);
        let full = u128::from(self.capacity) * UNIT;
        self.level = self.level.saturating_add(passed.saturating_mul(u128::from(self.per_second))).min(full);
        let want = u128::from(tokens.min(self.capacity)) * UNIT;
        if want <= self.level {
            self.level -= want;
            return Ok(());
        }
        let wait = (want - self.level).div_ceil(u128::from(self.per_second));
        Err(Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn waits_exactly_as_long_as_it_says() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(100, 10, start);
        assert_eq!(bucket.take(100, start), Ok(()));
        let wait = bucket.take(25, start).unwrap_err();
        assert_eq!(wait, Duration::from_millis(2500));
        assert!(bucket.take(25, start + wait - Duration::from_nanos(1)).is_err());
        assert_eq!(bucket.take(25, start + wait), Ok(()));
    }

    proptest! {
        /// Over any sequence of requests no more than capacity + rate * time is given out.
        #[test]
        fn never_gives_more_than_its_rate(steps in prop::collection::vec((0u64..200, 0u64..500_000_000), 1..50)) {
            let start = Instant::now();
            let (capacity, rate) = (100, 50);
            let mut bucket = TokenBucket::new(capacity, rate, start);
            let (mut now, mut given) = (start, 0u64);
            for (tokens, sleep) in steps {
                now += Duration::from_nanos(sleep);
                if bucket.take(tokens, now).is_ok() {
                    given += tokens.min(capacity);
                }
            }
            let allowed = u128::from(capacity) * UNIT + (now - start).as_nanos() * u128::from(rate);
            prop_assert!(u128::from(given) * UNIT <= allowed);
        }
    }
}
