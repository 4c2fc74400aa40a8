//! Counters of a block device.

use crate::metrics::Counter;
use serde::Serialize;

/// Counters of a block device.
#[derive(Debug, Default, Serialize)]
pub struct BlockMetrics {
    /// Bytes read.
    pub read_bytes: Counter,
    /// Bytes written.
    pub written_bytes: Counter,
    /// Requests answered.
    pub requests: Counter,
    /// Flushes among them.
    pub flushes: Counter,
    /// Requests that were refused: beyond the capacity, a write to a read-only disk, too long, of unknown type.
    pub refused: Counter,
    /// Requests that the host could not carry out.
    pub host_errors: Counter,
    /// Times a request had to wait for a limit.
    pub throttled: Counter,
    /// Times the driver broke the ring.
    pub protocol_errors: Counter,
}
