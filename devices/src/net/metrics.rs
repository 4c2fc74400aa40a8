//! Counters of a network device. `rx` is to the guest, `tx` from it.

use crate::metrics::Counter;
use serde::Serialize;

/// Counters of a network device.
#[derive(Debug, Default, Serialize)]
pub struct NetMetrics {
    /// Frames to the guest.
    pub rx_frames: Counter,
    /// Their bytes.
    pub rx_bytes: Counter,
    /// Frames that the guest's buffers were too small for, or that came without a guest to take them.
    pub rx_dropped: Counter,
    /// Times a frame to the guest had to wait for a limit.
    pub rx_throttled: Counter,
    /// Frames from the guest.
    pub tx_frames: Counter,
    /// Their bytes.
    pub tx_bytes: Counter,
    /// Frames that the egress policy denied.
    pub tx_denied: Counter,
    /// Frames with a wrong length or a wrong header.
    pub tx_malformed: Counter,
    /// Frames that the host did not take.
    pub tx_dropped: Counter,
    /// Times a frame from the guest had to wait for a limit.
    pub tx_throttled: Counter,
    /// Times the driver broke a ring.
    pub protocol_errors: Counter,
}
