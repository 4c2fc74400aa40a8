//! virtio over MMIO (virtio 1.2, sections 2.7, 3.1 and 4.2): the part all drivers share.

mod queue;

pub use queue::{Buffer, VirtQueue};

use ringfence_hal::mmio::Mmio;

use super::Place;

mod reg {
    pub const MAGIC: usize = 0x00;
    pub const VERSION: usize = 0x04;
    pub const DEVICE_ID: usize = 0x08;
    pub const DEVICE_FEATURES: usize = 0x10;
    pub const DEVICE_FEATURES_SEL: usize = 0x14;
    pub const DRIVER_FEATURES: usize = 0x20;
    pub const DRIVER_FEATURES_SEL: usize = 0x24;
    pub const QUEUE_SEL: usize = 0x30;
    pub const QUEUE_NUM_MAX: usize = 0x34;
    pub const QUEUE_NUM: usize = 0x38;
    pub const QUEUE_READY: usize = 0x44;
    pub const QUEUE_NOTIFY: usize = 0x50;
    pub const INTERRUPT_STATUS: usize = 0x60;
    pub const INTERRUPT_ACK: usize = 0x64;
    pub const STATUS: usize = 0x70;
    pub const QUEUE_DESC: usize = 0x80;
    pub const QUEUE_DRIVER: usize = 0x90;
    pub const QUEUE_DEVICE: usize = 0xa0;
    pub const CONFIG: usize = 0x100;
}

const MAGIC: u32 = 0x7472_6976; // "virt"
const MODERN: u32 = 2;
const WINDOW: usize = 0x1000;

const ACKNOWLEDGE: u32 = 1;
const DRIVER: u32 = 2;
const DRIVER_OK: u32 = 4;
const FEATURES_OK: u32 = 8;
const NEEDS_RESET: u32 = 64;
const FAILED: u32 = 128;

/// Feature bits all devices share.
pub mod features {
    /// Notifications are suppressed by index, not by flag.
    pub const RING_EVENT_IDX: u64 = 1 << 29;
    /// Not a legacy device.
    pub const VERSION_1: u64 = 1 << 32;
}

/// Bit of an interrupt's reasons ([`Transport::acknowledge`]): the device's configuration has changed.
pub const CONFIG_CHANGED: u32 = 2;

/// Device identities (virtio 1.2, section 5).
pub mod id {
    #![allow(missing_docs)]
    pub const NET: u32 = 1;
    pub const BLOCK: u32 = 2;
    pub const RNG: u32 = 4;
    pub const BALLOON: u32 = 5;
    pub const VSOCK: u32 = 19;
    pub const FS: u32 = 26;
    pub const PMEM: u32 = 27;
}

/// Why a device cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// It does not offer or does not accept the features the driver needs.
    Features,
    /// A queue is missing or too small.
    Queue,
    /// No memory for the queues.
    OutOfMemory,
}

/// The registers of one device.
pub struct Transport {
    mmio: Mmio,
    /// Its interrupt.
    pub gsi: u32,
}

impl Transport {
    /// Looks at a place; `None` if there is no modern virtio device. Answers the device's identity.
    pub fn probe(place: Place) -> Option<(u32, Transport)> {
        let mmio = Mmio::map(place.base, WINDOW);
        if mmio.read32(reg::MAGIC) != MAGIC || mmio.read32(reg::VERSION) != MODERN {
            return None;
        }
        match mmio.read32(reg::DEVICE_ID) {
            0 => None,
            id => Some((id, Transport { mmio, gsi: place.gsi })),
        }
    }

    /// Resets the device and agrees on features: all of `required`, and what of `wanted` it has. Answers them.
    pub fn negotiate(&self, required: u64, wanted: u64) -> Result<u64, Error> {
        let m = &self.mmio;
        m.write32(reg::STATUS, 0);
        m.write32(reg::STATUS, ACKNOWLEDGE | DRIVER);
        m.write32(reg::DEVICE_FEATURES_SEL, 0);
        let low = u64::from(m.read32(reg::DEVICE_FEATURES));
        m.write32(reg::DEVICE_FEATURES_SEL, 1);
        let offered = low | u64::from(m.read32(reg::DEVICE_FEATURES)) << 32;
        let required = required | features::VERSION_1;
        if offered & required != required {
            m.write32(reg::STATUS, FAILED);
            return Err(Error::Features);
        }
        let agreed = required | (wanted & offered);
        m.write32(reg::DRIVER_FEATURES_SEL, 0);
        m.write32(reg::DRIVER_FEATURES, agreed as u32);
        m.write32(reg::DRIVER_FEATURES_SEL, 1);
        m.write32(reg::DRIVER_FEATURES, (agreed >> 32) as u32);
        m.write32(reg::STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
        if m.read32(reg::STATUS) & FEATURES_OK == 0 {
            m.write32(reg::STATUS, FAILED);
            return Err(Error::Features);
        }
        Ok(agreed)
    }

    /// Sets up queue `index` with `size` entries (a power of two).
    pub fn queue(&self, index: u16, size: u16, features: u64) -> Result<VirtQueue, Error> {
        let m = &self.mmio;
        m.write32(reg::QUEUE_SEL, index.into());
        if m.read32(reg::QUEUE_NUM_MAX) < size.into() {
            return Err(Error::Queue);
        }
        let queue = VirtQueue::new(index, size, features & features::RING_EVENT_IDX != 0)?;
        m.write32(reg::QUEUE_NUM, size.into());
        let [desc, avail, used] = queue.addresses();
        for (at, addr) in [(reg::QUEUE_DESC, desc), (reg::QUEUE_DRIVER, avail), (reg::QUEUE_DEVICE, used)] {
            m.write32(at, addr as u32);
            // The reset in `negotiate` has made it zero (our VMM's does), and each write is an exit.
            if addr >> 32 != 0 {
                m.write32(at + 4, (addr >> 32) as u32);
            }
        }
        m.write32(reg::QUEUE_READY, 1);
        Ok(queue)
    }

    /// The driver is ready: the device may use its queues.
    pub fn start(&self) {
        self.mmio.write32(reg::STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    }

    /// Tells the device to look at a queue.
    pub fn notify(&self, queue: &VirtQueue) {
        self.mmio.write32(reg::QUEUE_NOTIFY, queue.index.into());
    }

    /// Takes note of an interrupt; bit 0 is a used buffer, bit 1 a configuration change.
    pub fn acknowledge(&self) -> u32 {
        let status = self.mmio.read32(reg::INTERRUPT_STATUS);
        self.mmio.write32(reg::INTERRUPT_ACK, status);
        status
    }

    /// Whether the device has given up (DEVICE_NEEDS_RESET).
    pub fn needs_reset(&self) -> bool {
        self.mmio.read32(reg::STATUS) & NEEDS_RESET != 0
    }

    /// A 32-bit field of the device's configuration.
    pub fn config_u32(&self, offset: usize) -> u32 {
        self.mmio.read32(reg::CONFIG + offset)
    }

    /// Sets a 32-bit field of the device's configuration.
    pub fn set_config_u32(&self, offset: usize, value: u32) {
        self.mmio.write32(reg::CONFIG + offset, value);
    }

    /// A 64-bit field of the device's configuration.
    pub fn config_u64(&self, offset: usize) -> u64 {
        let low = self.mmio.read32(reg::CONFIG + offset);
        let high = self.mmio.read32(reg::CONFIG + offset + 4);
        u64::from(low) | u64::from(high) << 32
    }
}
