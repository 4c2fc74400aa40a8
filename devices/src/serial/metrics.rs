//! Counters of the serial port.

use crate::metrics::Counter;
use serde::Serialize;

/// Counters of the serial port.
#[derive(Debug, Default, Serialize)]
pub struct SerialMetrics {
    /// Bytes the guest wrote.
    pub output_bytes: Counter,
    /// Bytes of output that could not be copied.
    pub lost_bytes: Counter,
    /// Bytes given to the guest.
    pub input_bytes: Counter,
}
