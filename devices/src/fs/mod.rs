//! virtio-fs (virtio 1.2, section 5.11): shared host directories, served by another process.
//!
//! The device behind the registers is only the introduction: when the driver is ready, the gofer (`gofer/`) gets guest memory, the
//! places of the rings and their eventfds over a unix socket, by the vhost-user protocol's messages. From then on KVM
//! turns a kick into an eventfd that the gofer reads, and an eventfd that it writes into an interrupt; this process sees no request.
//!
//! Invariants:
//!
//! * What is handed over are the registers the transport has checked and frozen, and guest RAM by descriptor. Addresses are
//!   guest-physical ones on both sides: no address of this process is told.
//! * Messages are sent by the event loop, never by a vCPU thread, and none of them has an answer: the gofer can send us
//!   nothing, and what it sends is not read. That the socket has become readable means that it is gone.
//! * A gofer that is gone is DEVICE_NEEDS_RESET for the driver. There is no second one: a driver that resets the device has
//!   lost it, and its gofer ends.

mod device;
mod event_handler;
mod frontend;
mod metrics;
mod persist;
#[cfg(test)]
mod tests;

pub use device::Fs;
pub use metrics::FsMetrics;
pub use persist::FsState;

/// The device's name for drivers that ask (`mount -t virtiofs ringfence`); its root lists the volumes by number.
pub const TAG: &str = "ringfence";
