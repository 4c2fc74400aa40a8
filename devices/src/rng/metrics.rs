//! Counters of the rng device.

use crate::metrics::Counter;
use serde::Serialize;

/// Counters of the rng device.
#[derive(Debug, Default, Serialize)]
pub struct RngMetrics {
    /// Bytes delivered.
    pub bytes: Counter,
    /// Times a request had to wait for the rate limiter.
    pub throttled: Counter,
    /// Times the driver broke the ring or sent a malformed request.
    pub protocol_errors: Counter,
}
