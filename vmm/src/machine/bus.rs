//! Where port and MMIO accesses of the guest go.
//!
//! The bus is fixed once the machine is built, so finding a device takes no lock: a port is a `match`, an
//! address is an index into the array of virtio-mmio slots. Reads of nothing give all ones, writes to nothing
//! are dropped, as on a PC.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ringfence_devices::serial::{COM1, REGISTERS, Serial};
use ringfence_devices::virtio::MmioTransport;

use super::layout::{VIRTIO_BASE, VIRTIO_SIZE};

const COM1_LAST: u16 = COM1 + REGISTERS - 1;

/// All devices of a machine that are reached by an exit.
pub struct Bus {
    /// The serial port.
    pub serial: Arc<Mutex<Serial>>,
    /// virtio-mmio transports by slot.
    pub virtio: Vec<Mutex<MmioTransport>>,
    /// Guest physical range of the read-only image.
    pub read_only: std::ops::Range<u64>,
}

fn lock<T: ?Sized>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Bus {
    fn slot(&self, addr: u64) -> Option<(&Mutex<MmioTransport>, u64)> {
        let offset = addr.checked_sub(VIRTIO_BASE)?;
        Some((self.virtio.get((offset / VIRTIO_SIZE) as usize)?, offset % VIRTIO_SIZE))
    }

    /// Answers a device read; false if there is nothing at `addr`.
    pub fn mmio_read(&self, addr: u64, data: &mut [u8]) -> bool {
        match self.slot(addr) {
            Some((device, offset)) => {
                lock(device).read(offset, data);
                true
            }
            None => {
                data.fill(0xff);
                false
            }
        }
    }

    /// Performs a device write; false if there is nothing at `addr`.
    pub fn mmio_write(&self, addr: u64, data: &[u8]) -> bool {
        match self.slot(addr) {
            Some((device, offset)) => {
                lock(device).write(offset, data);
                true
            }
            None => false,
        }
    }

    /// Whether `addr` lies in the read-only image.
    pub fn is_read_only(&self, addr: u64) -> bool {
        self.read_only.contains(&addr)
    }

    /// Answers a port read.
    pub fn port_read(&self, port: u16, data: &mut [u8]) {
        data.fill(0xff);
        if let (COM1..=COM1_LAST, [byte]) = (port, data) {
            *byte = lock(&self.serial).read((port - COM1) as u8);
        }
    }

    /// Performs a port write. A string instruction (`rep outsb`) brings several bytes for one port.
    pub fn port_write(&self, port: u16, data: &[u8]) {
        if let COM1..=COM1_LAST = port {
            let mut serial = lock(&self.serial);
            data.iter().for_each(|&byte| serial.write((port - COM1) as u8, byte));
        }
    }
}
