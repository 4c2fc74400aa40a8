//! Counters of the vsock device.

use crate::metrics::Counter;
use serde::Serialize;

/// Counters of the vsock device.
#[derive(Debug, Default, Serialize)]
pub struct VsockMetrics {
    /// Packets to the guest.
    pub rx_packets: Counter,
    /// Payload bytes to the guest.
    pub rx_bytes: Counter,
    /// Packets from the guest.
    pub tx_packets: Counter,
    /// Payload bytes from the guest.
    pub tx_bytes: Counter,
    /// Connections accepted.
    pub connections: Counter,
    /// Packets that belonged to no connection and were answered by RST.
    pub orphans: Counter,
    /// Connections reset because the guest broke the protocol (sent beyond its credit, for example).
    pub violations: Counter,
    /// Bytes dropped because the host's reader was gone.
    pub dropped_bytes: Counter,
    /// Times the driver broke the ring or sent a malformed packet.
    pub protocol_errors: Counter,
}
