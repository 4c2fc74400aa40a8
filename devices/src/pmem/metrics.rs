//! Counters of the pmem device.

use crate::metrics::Counter;
use serde::Serialize;

/// Counters of the pmem device.
#[derive(Debug, Default, Serialize)]
pub struct PmemMetrics {
    /// Flush requests answered.
    pub flushes: Counter,
    /// Times the driver broke the ring or sent a malformed request.
    pub protocol_errors: Counter,
}
