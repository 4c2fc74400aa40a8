//! How much of the host a device may use: bytes and requests (or frames) a second.
//!
//! The request at the head of the queue is paid for before it is carried out, bytes in instalments of a bucket's
//! capacity (a second's worth), so that a request that is larger than the bucket waits as long as it should. What was
//! paid is remembered while the request stays in the ring. A driver that puts another one in its place pays the
//! difference.

use std::io;
use std::time::{Duration, Instant};

use vmm_sys_util::timerfd::TimerFd;

use crate::rate_limiter::TokenBucket;

/// The limits of one device. Without any no request costs more; they can be set at any time, so the timer is always there (a thread
/// that is confined cannot make one).
#[derive(Default)]
pub struct Limits {
    bandwidth: Option<TokenBucket>,
    requests: Option<TokenBucket>,
    timer: Option<TimerFd>,
    /// What is paid for the request at the head: bytes, and itself.
    paid: (u64, bool),
}

impl Limits {
    /// `bandwidth` in bytes a second, `requests` a second; none of them 0.
    pub fn new(bandwidth: Option<u64>, requests: Option<u64>) -> io::Result<Self> {
        let mut limits = Self { timer: Some(TimerFd::new().map_err(io::Error::from)?), ..Self::default() };
        limits.set(bandwidth, requests);
        Ok(limits)
    }

    /// Sets other ones, with full buckets. What was paid stays paid.
    pub(crate) fn set(&mut self, bandwidth: Option<u64>, requests: Option<u64>) {
        let now = Instant::now();
        let bucket = |rate: u64| TokenBucket::new(rate, rate, now);
        self.bandwidth = bandwidth.map(bucket);
        self.requests = requests.map(bucket);
    }

    /// Pays for the request at the head, of `bytes`; `false` if it has to wait, then the timer is set.
    pub(crate) fn pay(&mut self, bytes: u64) -> bool {
        match self.take(bytes, Instant::now()) {
            Ok(()) => {
                self.paid = (0, false);
                true
            }
            Err(wait) => {
                // A timer that cannot be set leaves the request to the next kick.
                let _ = self.timer.as_mut().map(|timer| timer.reset(wait, None));
                false
            }
        }
    }

    fn take(&mut self, bytes: u64, now: Instant) -> Result<(), Duration> {
        let (paid_bytes, paid_request) = &mut self.paid;
        if let Some(bucket) = self.requests.as_mut().filter(|_| !*paid_request) {
            bucket.take(1, now)?;
            *paid_request = true;
        }
        if let Some(bucket) = &mut self.bandwidth {
            while *paid_bytes < bytes {
                let part = (bytes - *paid_bytes).min(bucket.capacity());
                bucket.take(part, now)?;
                *paid_bytes += part;
            }
        }
        Ok(())
    }

    /// Another driver owes nothing and has paid nothing.
    pub(crate) fn forget(&mut self) {
        self.paid = (0, false);
    }

    pub(crate) fn timer(&self) -> Option<&TimerFd> {
        self.timer.as_ref()
    }

    pub(crate) fn timer_mut(&mut self) -> Option<&mut TimerFd> {
        self.timer.as_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_larger_than_a_second_s_worth_is_paid_in_instalments() {
        let mut limits = Limits::new(Some(1000), None).unwrap();
        let start = Instant::now();
        let mut now = start;
        // Full at first: 1000 at once, the other 2500 at 1000 a second.
        while let Err(wait) = limits.take(3500, now) {
            now += wait;
        }
        let took = now - start;
        assert!(took >= Duration::from_millis(2400) && took <= Duration::from_millis(2600), "{took:?}");
    }

    #[test]
    fn a_request_is_counted_once_while_its_bytes_wait() {
        let mut limits = Limits::new(Some(1000), Some(1)).unwrap();
        let mut now = Instant::now();
        while let Err(wait) = limits.take(2000, now) {
            now += wait;
        }
        limits.forget();
        // One request a second: the first was taken when it came, more than a second ago.
        assert!(limits.take(0, now + Duration::from_millis(100)).is_ok());
        limits.forget();
        assert!(limits.take(0, now + Duration::from_millis(200)).is_err());
    }
}
