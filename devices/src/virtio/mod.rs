//! virtio over MMIO, modern only (virtio 1.2, sections 2, 3 and 4.2).
//!
//! The parts, from the guest's side inwards:
//!
//! * [`mmio`]: the register file a driver reads and writes. It owns everything negotiated: features, status,
//!   the place of the rings. [`status`] is its state machine as a table.
//! * [`queue`]: a running ring. Built once by the transport, at DRIVER_OK, from registers that cannot change
//!   any more, then owned by the device.
//! * [`chain`]: one request in a ring, walked and checked once, then consumed by a reader and a writer that
//!   touch each byte a single time.
//! * [`interrupt`]: how a device reaches the driver.
//! * [`device`]: the trait all of this serves.

pub mod chain;
pub mod device;
pub mod interrupt;
pub mod mmio;
pub mod queue;
pub mod status;

#[cfg(test)]
pub(crate) mod mock;
#[cfg(test)]
mod tests;

pub use chain::{Chain, ChainError, ChainReader, ChainWriter};
pub use device::{ActivateError, Activation, VirtioDevice};
pub use interrupt::Interrupt;
pub use mmio::MmioTransport;
pub use queue::{QueueError, Virtqueue};

/// Feature bits of the transport and the rings (virtio 1.2, section 6).
pub mod features {
    /// `VIRTIO_F_RING_EVENT_IDX`: used_event and avail_event suppress notifications.
    pub const RING_EVENT_IDX: u64 = 1 << 29;
    /// `VIRTIO_F_VERSION_1`: not a legacy device; offered by the transport and required of the driver.
    pub const VERSION_1: u64 = 1 << 32;
}
