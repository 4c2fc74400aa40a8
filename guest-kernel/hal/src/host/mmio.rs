//! Device registers, answered by models that a test puts into the [`World`](super::World).

use super::world::world;
use std::sync::Arc;

/// A model of a device's registers.
pub trait MmioDevice: Send + Sync {
    /// A read of `size` bytes (1, 2, 4 or 8) at `off`.
    fn read(&self, off: usize, size: usize) -> u64;
    /// A write of `size` bytes (1, 2, 4 or 8) at `off`.
    fn write(&self, off: usize, size: usize, value: u64);
}

/// A mapped window of device registers. Accesses beyond its end are bugs in the caller and panic.
#[derive(Clone)]
pub struct Mmio {
    device: Option<Arc<dyn MmioDevice>>,
    /// Where the window begins in the device.
    base: usize,
    len: usize,
}

macro_rules! access {
    ($($read:ident, $write:ident, $type:ty;)+) => {$(
        /// Reads a register.
        pub fn $read(&self, off: usize) -> $type {
            self.check(off, size_of::<$type>());
            // As on a bus: nobody answers, all lines stay high.
            self.device.as_ref().map_or(<$type>::MAX, |d| d.read(self.base + off, size_of::<$type>()) as $type)
        }

        /// Writes a register.
        pub fn $write(&self, off: usize, value: $type) {
            self.check(off, size_of::<$type>());
            if let Some(device) = &self.device {
                device.write(self.base + off, size_of::<$type>(), value.into());
            }
        }
    )+};
}

impl Mmio {
    /// Maps `len` bytes of registers at `phys`. Where no device is, reads give all ones.
    pub fn map(phys: u64, len: usize) -> Self {
        let world = world();
        let devices = world.devices.lock().unwrap();
        let found = devices.mmio.range(..=phys).next_back();
        let found = found.filter(|(base, (size, _))| phys - **base < *size as u64);
        match found {
            Some((base, (_, device))) => {
                Self { device: Some(device.clone()), base: (phys - base) as usize, len }
            }
            None => Self { device: None, base: 0, len },
        }
    }

    /// Bytes in the window.
    pub fn len(&self) -> usize {
        self.len
    }

    /// An empty window?
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    access! {
        read8, write8, u8;
        read16, write16, u16;
        read32, write32, u32;
        read64, write64, u64;
    }

    fn check(&self, off: usize, size: usize) {
        assert!(off.is_multiple_of(size), "unaligned register {off:#x}");
        assert!(off.checked_add(size).is_some_and(|end| end <= self.len), "register {off:#x} is outside");
    }
}
