//! Counters.

use serde::Serialize;

use crate::metrics::Counter;

/// Counters of the shared directories' device. Requests are the gofer's to count.
#[derive(Debug, Default, Serialize)]
pub struct FsMetrics {
    /// Times the queues were handed to the gofer.
    pub handovers: Counter,
    /// Times the gofer went away, or did not take what it was sent.
    pub lost: Counter,
}
