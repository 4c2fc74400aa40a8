//! Counters of the balloon device.

use crate::metrics::Counter;
use serde::Serialize;

/// Counters of the balloon device.
#[derive(Debug, Default, Serialize)]
pub struct BalloonMetrics {
    /// Bytes given back to the host. A range given back twice counts twice.
    pub released_bytes: Counter,
    /// Ranges that were not guest memory, or that the host could not release.
    pub refused_ranges: Counter,
    /// Times the driver broke the ring or sent a malformed request.
    pub protocol_errors: Counter,
}
