//! Where port and MMIO accesses of the guest go.
//!
//! The bus is fixed once the machine is built, so finding a device takes no lock: a port is a `match`, an
//! address is an index into the array of virtio-mmio slots. Reads of nothing give all ones, writes to nothing
//! are dropped, as on a PC.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ringfence_devices::serial::{COM1, REGISTERS, Serial};
use ringfence_devices::virtio::MmioTransport;
use ringfence_protocol::console;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::layout::{VIRTIO_BASE, VIRTIO_SIZE};

const COM1_LAST: u16 = COM1 + REGISTERS - 1;

/// All devices of a machine that are reached by an exit.
pub struct Bus {
    /// The serial port.
    pub serial: Arc<Mutex<Serial>>,
    /// The guest's memory, where lines of its log lie.
    pub memory: Arc<GuestMemoryMmap>,
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
        match (port, data) {
            (COM1..=COM1_LAST, [byte]) => *byte = lock(&self.serial).read((port - COM1) as u8),
            (console::PORT, word) if word.len() == 4 => word.copy_from_slice(&console::MAGIC.to_le_bytes()),
            _ => {}
        }
    }

    /// Performs a port write. A string instruction (`rep outsb`) brings several bytes for one port.
    pub fn port_write(&self, port: u16, data: &[u8]) {
        match (port, data) {
            (COM1..=COM1_LAST, _) => {
                let mut serial = lock(&self.serial);
                data.iter().for_each(|&byte| serial.write((port - COM1) as u8, byte));
            }
            (console::PORT, &[a, b, c, d]) => {
                self.print(GuestAddress(u32::from_le_bytes([a, b, c, d]).into()))
            }
            _ => {}
        }
    }

    /// Prints the line at `address`, as if it had come through the serial port. An address that is none, or a line that is
    /// too long, is the guest's loss.
    fn print(&self, address: GuestAddress) {
        let mut text = [0; console::MAX];
        let Ok(len) = self.memory.read_obj::<u32>(address) else { return };
        let Some(text) = text.get_mut(..len as usize) else { return };
        if self.memory.read_slice(text, GuestAddress(address.0 + 4)).is_ok() {
            lock(&self.serial).print(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_printed_if_it_is_one() {
        let memory = Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap());
        let irq = vmm_sys_util::eventfd::EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let serial = Arc::new(Mutex::new(Serial::new(irq, None).unwrap()));
        let bus = Bus { serial: serial.clone(), memory: memory.clone(), virtio: Vec::new(), read_only: 0..0 };
        let mut magic = [0; 4];
        bus.port_read(console::PORT, &mut magic);
        assert_eq!(u32::from_le_bytes(magic), console::MAGIC);

        memory.write_obj(6u32, GuestAddress(0x100)).unwrap();
        memory.write_slice(b"hello\n and more", GuestAddress(0x104)).unwrap();
        bus.port_write(console::PORT, &0x100u32.to_le_bytes());
        assert_eq!(lock(&serial).tail(), b"hello\n");
        // Nothing of these is printed: no address, at the end of memory, too long, not a 32-bit write.
        memory.write_obj(u32::MAX, GuestAddress(0x200)).unwrap();
        memory.write_obj(100u32, GuestAddress(0xfffc)).unwrap();
        for address in [0x200u32, 0xfffc, 0xfffe, 0x10000, u32::MAX] {
            bus.port_write(console::PORT, &address.to_le_bytes());
        }
        bus.port_write(console::PORT, &[0, 1]);
        assert_eq!(lock(&serial).tail(), b"hello\n");
    }
}
