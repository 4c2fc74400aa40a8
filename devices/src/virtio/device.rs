//! What a device is to the transport.

use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use super::interrupt::Interrupt;
use super::queue::{QueuePosition, Virtqueue};

/// Why a device could not start; the driver sees DEVICE_NEEDS_RESET.
#[derive(Debug, thiserror::Error)]
pub enum ActivateError {
    /// queue {0} is needed by this device but the driver did not make it ready
    #[error("queue {0} is needed by this device but the driver did not make it ready")]
    MissingQueue(usize),
    /// A host resource failed.
    #[error("a host resource for the device is missing: {0}")]
    Host(#[from] std::io::Error),
}

/// Everything a device gets when the driver sets DRIVER_OK. From here on none of it can change but by a reset.
#[derive(Debug)]
pub struct Activation {
    /// The features the driver accepted, a subset of those offered.
    pub features: u64,
    /// One entry a queue, `None` where the driver did not make the queue ready.
    pub queues: Vec<Option<Virtqueue>>,
    /// The way to the driver.
    pub interrupt: Arc<Interrupt>,
}

impl Activation {
    /// Takes queue `index`, which the device cannot do without.
    pub fn take_queue(&mut self, index: usize) -> Result<Virtqueue, ActivateError> {
        self.queues.get_mut(index).and_then(Option::take).ok_or(ActivateError::MissingQueue(index))
    }

    /// Takes queue `index` if the driver has made it ready.
    pub fn take_optional_queue(&mut self, index: usize) -> Option<Virtqueue> {
        self.queues.get_mut(index).and_then(Option::take)
    }
}

/// A virtio device behind any transport.
///
/// Called on vCPU threads with the device's lock held; queue processing happens on the event loop, started by
/// the eventfds of [`VirtioDevice::queue_eventfds`], which exist from construction on.
pub trait VirtioDevice: Send {
    /// The device id (virtio 1.2, section 5).
    fn device_id(&self) -> u32;

    /// Features offered, VIRTIO_F_VERSION_1 excluded (the transport adds it).
    fn features(&self) -> u64;

    /// Largest size of each queue: powers of two.
    fn queue_max_sizes(&self) -> &[u16];

    /// One eventfd a queue, in the order of [`VirtioDevice::queue_max_sizes`]; written on a driver's kick.
    fn queue_eventfds(&self) -> &[EventFd];

    /// Fills `data` from the configuration space at `offset`; bytes beyond its end read as zero.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Writes to the configuration space; devices without a writable field ignore it.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    /// Guest physical address and length of the shared memory region `id`.
    fn shared_memory(&self, _id: u32) -> Option<(u64, u64)> {
        None
    }

    /// The driver is ready: keep the queues and start to serve them.
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError>;

    /// Forget the queues and everything the driver has made: back to the state after construction.
    fn reset(&mut self);

    /// How far each running queue has come, for saving; one entry a queue.
    fn queue_positions(&self) -> Vec<Option<QueuePosition>>;
}

/// Copies from a little-endian image of a configuration space, zero beyond its end.
pub(crate) fn read_config_from(config: &[u8], offset: u64, data: &mut [u8]) {
    data.fill(0);
    let Some(rest) = usize::try_from(offset).ok().and_then(|o| config.get(o..)) else { return };
    let n = rest.len().min(data.len());
    data[..n].copy_from_slice(&rest[..n]);
}
