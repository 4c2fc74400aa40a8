//! virtio-vsock (virtio 1.2, section 5.10): byte streams between the guest and this process.
//!
//! The guest connects, the host listens. What a stream is connected to on the host is a pair of file
//! descriptors, an [`Endpoint`]: the command's standard streams, a terminal, or one end of a socketpair whose
//! other end a thread of the VMM reads (control, trace). There is no host AF_VSOCK and no unix socket path.
//!
//! | file | speaks of |
//! |---|---|
//! | `packet.rs` | the 44-byte header |
//! | `endpoint.rs` | what a stream is connected to on the host, made of `crate::host_stream`s |
//! | `connection.rs` | one stream's protocol state: credit, half-closes, what must be said next. No I/O |
//! | `stream.rs` | a connection with its descriptors: moves bytes between them |
//! | `muxer.rs` | all streams, the ports, and who sends next |
//! | `device.rs` | the queues: packets in and out of guest memory |
//!
//! # Flow of data and its bounds
//!
//! Guest to host: a packet's payload is copied once out of guest memory into the muxer's scratch buffer and
//! written to the descriptor at once; what the descriptor does not take is kept in the connection, at most
//! [`BUF_ALLOC`] bytes, which is the credit the guest was given; a guest that sends more loses the connection.
//! Only bytes that the descriptor has taken count as forwarded, so a slow reader on the host slows the guest's
//! program exactly as a full pipe would.
//!
//! Host to guest: a descriptor is read only when there is a buffer in the guest's RX queue and credit from the
//! guest, straight into that packet. The host buffers nothing in this direction.
//!
//! Replies to packets that belong to no connection are held in a list of [`MAX_ORPHAN_RESETS`]; while it is
//! full the TX queue is not looked at, so a guest that does not give RX buffers stops itself.
//!
//! # Ends
//!
//! * The host's source ends (EOF, hang-up): SHUTDOWN with SEND, after the last byte.
//! * The host's reader goes away (EPIPE, POLLERR, or an error such as ENOSPC): SHUTDOWN with RCV, so that the
//!   program's next write fails with EPIPE. The error is kept for [`Vsock::stream_error`].
//! * The guest shuts down SEND: the descriptor is closed after the last buffered byte.
//! * The guest resets or the device is reset: bytes already accepted are still delivered, then all is closed.
//! * The virtual machine ends: [`Vsock::drain`] takes what is left in the TX queue and delivers every byte.
//!
//! A direction the endpoint does not have (standard output has nothing to read) is not announced by SHUTDOWN as
//! long as the other one lives. An endpoint with neither is shut down both ways at once: the guest reads EOF.

mod connection;
mod device;
mod endpoint;
mod event_handler;
mod metrics;
mod muxer;
mod packet;
mod persist;
mod stream;
#[cfg(test)]
mod tests;

pub use device::{Drained, Vsock};
pub use endpoint::Endpoint;
pub use metrics::VsockMetrics;
pub use muxer::Listener;
pub use persist::VsockState;

/// The host's context id.
pub const HOST_CID: u64 = 2;
/// Bytes of credit given to the guest for each connection, and so the most the host buffers for it.
pub const BUF_ALLOC: u32 = 256 << 10;
/// Largest payload of one packet, either way (Linux's `VIRTIO_VSOCK_MAX_PKT_BUF_SIZE`).
pub const MAX_PAYLOAD: usize = 64 << 10;
/// Most connections at a time, those included that only wait for their last bytes to be taken.
pub const MAX_CONNECTIONS: usize = 128;
/// Most unsent answers to packets without a connection.
pub const MAX_ORPHAN_RESETS: usize = 64;
