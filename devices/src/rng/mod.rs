//! virtio-rng (virtio 1.2, section 5.4): entropy from the host's `getrandom(2)`.
//!
//! A request's length is the guest's wish, not ours: at most [`MAX_REQUEST`] bytes are delivered a request, from a
//! buffer on the stack, and a token bucket bounds the bytes a second, so that a guest cannot make the host
//! spend its time on a stream of random bytes. A request that comes too early waits in the ring until a timer
//! fires.

mod device;
mod event_handler;
mod metrics;
mod persist;
#[cfg(test)]
mod tests;

pub use device::Rng;
pub use metrics::RngMetrics;
pub use persist::RngState;

/// Most bytes delivered for one request; a longer one gets a short answer, which the specification allows.
pub const MAX_REQUEST: usize = 4096;
/// Bytes a second in the long run, if nothing else is said.
pub const BYTES_PER_SECOND: u64 = 4 << 20;

/// Bytes that may be taken at once after a pause: what comes in a sixteenth of a second, 256 KiB at most, and one request at least.
pub fn burst(bytes_per_second: u64) -> u64 {
    (bytes_per_second / 16).clamp(MAX_REQUEST as u64, 256 << 10)
}
