//! virtio-net (virtio 1.2, section 5.1): frames between the guest and a TAP interface of the host, or `passt`.
//!
//! The host's side ([`Backend`]) is a descriptor that the supervisor has opened or connected; the VMM can neither make another one
//! nor change which interface it is. Frames from the guest are judged by a [`Policy`] before they leave, both directions can be
//! limited in bytes and frames a second.
//!
//! # Copies
//!
//! A frame is copied once on each way, through a buffer of the device. On the way out the copy is what the policy and the
//! checks look at, so that the guest cannot change the frame behind their backs; on both ways it lets plain `read`, `write`,
//! `sendto` and `recvmsg` do, which the event loop's filter allows for other devices, too: a network opens no further system call to an
//! attacker. With segmentation offloads a copy moves up to 64 KiB at the cost of one frame.
//!
//! # Offloads
//!
//! A TAP interface takes and gives frames whose checksum or segmentation is still to be done, described by
//! `struct virtio_net_hdr`, as the guest's features say. That header goes to the host's kernel, so one that the features do
//! not allow, or that does not lie within its frame, is not passed on; nor, with a policy, one by which that kernel would write over what
//! the policy has looked at. `passt` knows no such header: nothing is offered, and a large
//! MTU does the same for throughput.
//!
//! # Invariants
//!
//! - With a policy, a frame that it denies and that answers nobody, or that cannot be understood, never reaches the backend.
//! - A frame to the guest lies in as many buffers as it needs, all of them the driver's by then, or waits; it is never cut.
//! - One pass over a queue ends after a queue's worth of frames or [`PASS_BYTES`].
//! - When the backend is gone the link is down, frames are dropped and counted, and the sandbox goes on.

mod backend;
mod device;
mod event_handler;
mod flows;
pub mod frame;
mod header;
mod metrics;
mod persist;
pub mod policy;
pub mod tap;
#[cfg(test)]
mod tests;

pub use backend::Backend;
pub use device::{Mac, Net, NetConfig};
pub use metrics::NetMetrics;
pub use persist::NetState;
pub use policy::Policy;

pub use crate::limits::Limits;

/// The longest frame: 64 KiB of IP, an Ethernet header and a VLAN tag.
pub const MAX_FRAME: usize = 65535 + 14 + 4;
/// The shortest: an Ethernet header.
pub const MIN_FRAME: usize = 14;
/// A pass over a queue ends when it has moved this much.
pub const PASS_BYTES: usize = 1 << 20;
