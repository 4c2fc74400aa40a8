//! A driver for tests: it brings a device up through the registers, like a real one, and then does with the
//! rings whatever a test wants, legal or not.

use std::sync::{Arc, Mutex};

use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::device::VirtioDevice;
use super::features::VERSION_1;
use super::mmio::MmioTransport;
use crate::GuestRam;

pub const DESC_NEXT: u16 = 1;
pub const DESC_WRITE: u16 = 2;
pub const DESC_INDIRECT: u16 = 4;

/// End of the first region; the second follows without a gap.
pub const REGION_BREAK: u64 = 4 << 20;
/// End of the second region; then there is a hole.
pub const RAM_END: u64 = 5 << 20;
/// Free for a test's buffers.
pub const BUFFERS: u64 = 1 << 20;

/// Two adjacent regions of one memfd, as the VMM makes them.
pub fn ram() -> GuestRam {
    let fd = rustix::fs::memfd_create("ram", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let file = Arc::new(std::fs::File::from(fd));
    file.set_len(RAM_END).unwrap();
    let regions = [(0, REGION_BREAK), (REGION_BREAK, RAM_END - REGION_BREAK)];
    let ranges = regions
        .map(|(at, len)| (GuestAddress(at), len as usize, Some(FileOffset::from_arc(file.clone(), at))));
    Arc::new(GuestMemoryMmap::from_ranges_with_files(&ranges).unwrap())
}

/// Register offsets, written out again from the specification.
pub mod reg {
    pub const DEVICE_FEATURES: u64 = 0x10;
    pub const DEVICE_FEATURES_SEL: u64 = 0x14;
    pub const DRIVER_FEATURES: u64 = 0x20;
    pub const DRIVER_FEATURES_SEL: u64 = 0x24;
    pub const QUEUE_SEL: u64 = 0x30;
    pub const QUEUE_NUM: u64 = 0x38;
    pub const QUEUE_READY: u64 = 0x44;
    pub const INTERRUPT_STATUS: u64 = 0x60;
    pub const INTERRUPT_ACK: u64 = 0x64;
    pub const STATUS: u64 = 0x70;
    pub const QUEUE_DESC_LOW: u64 = 0x80;
    pub const QUEUE_DRIVER_LOW: u64 = 0x90;
    pub const QUEUE_DEVICE_LOW: u64 = 0xa0;
}

/// Status values of a device that was brought up in order.
pub const RUNNING: u32 = 15;
pub const NEEDS_RESET: u32 = 64;

/// The driver's side of one ring.
pub struct MockQueue {
    pub size: u16,
    pub desc: u64,
    pub avail: u64,
    pub used: u64,
    next_desc: u16,
    pub next_avail: u16,
    last_used: u16,
}

pub struct MockDriver<D> {
    pub mem: GuestRam,
    pub device: Arc<Mutex<D>>,
    pub transport: MmioTransport,
    pub irq: EventFd,
    pub queues: Vec<MockQueue>,
}

impl<D: VirtioDevice + 'static> MockDriver<D> {
    /// A device before its driver touched it.
    pub fn new(device: D) -> Self {
        let mem = ram();
        let device = Arc::new(Mutex::new(device));
        let irq = EventFd::new(EFD_NONBLOCK).unwrap();
        let transport = MmioTransport::new(mem.clone(), device.clone(), irq.try_clone().unwrap()).unwrap();
        Self { mem, device, transport, irq, queues: Vec::new() }
    }

    /// A running device with queues of `size`, the driver having accepted `features` besides VERSION_1.
    pub fn running(device: D, size: u16, features: u64) -> Self {
        let mut driver = Self::new(device);
        driver.negotiate(features | VERSION_1);
        driver.set_up_queues(size);
        driver.write(reg::STATUS, RUNNING);
        assert_eq!(driver.status(), RUNNING);
        driver
    }

    pub fn negotiate(&mut self, features: u64) {
        self.write(reg::STATUS, 1);
        self.write(reg::STATUS, 3);
        for (sel, half) in [(0, features as u32), (1, (features >> 32) as u32)] {
            self.write(reg::DRIVER_FEATURES_SEL, sel);
            self.write(reg::DRIVER_FEATURES, half);
        }
        self.write(reg::STATUS, 11);
    }

    pub fn set_up_queues(&mut self, size: u16) {
        let count = self.device.lock().unwrap().queue_max_sizes().len();
        self.queues.clear();
        for index in 0..count as u64 {
            let base = 0x1_0000 * (index + 1);
            let queue = MockQueue {
                size,
                desc: base,
                avail: base + 0x4000,
                used: base + 0x8000,
                next_desc: 0,
                next_avail: 0,
                last_used: 0,
            };
            self.write(reg::QUEUE_SEL, index as u32);
            self.write(reg::QUEUE_NUM, size.into());
            self.write(reg::QUEUE_DESC_LOW, queue.desc as u32);
            self.write(reg::QUEUE_DRIVER_LOW, queue.avail as u32);
            self.write(reg::QUEUE_DEVICE_LOW, queue.used as u32);
            self.write(reg::QUEUE_READY, 1);
            for ring in [queue.avail, queue.used] {
                self.mem.write_obj(0u32, GuestAddress(ring)).unwrap();
            }
            self.queues.push(queue);
        }
    }

    pub fn read(&self, offset: u64) -> u32 {
        let mut word = [0; 4];
        self.transport.read(offset, &mut word);
        u32::from_le_bytes(word)
    }

    pub fn write(&mut self, offset: u64, value: u32) {
        self.transport.write(offset, &value.to_le_bytes());
    }

    pub fn status(&self) -> u32 {
        self.read(reg::STATUS)
    }

    /// Was the interrupt raised since the last call?
    pub fn interrupted(&self) -> bool {
        self.irq.read().is_ok()
    }

    /// Writes one descriptor.
    pub fn describe(&self, queue: usize, index: u16, addr: u64, len: u32, flags: u16, next: u16) {
        let at = self.queues[queue].desc + u64::from(index) * 16;
        self.mem.write_obj(addr, GuestAddress(at)).unwrap();
        self.mem.write_obj(len, GuestAddress(at + 8)).unwrap();
        self.mem.write_obj(flags, GuestAddress(at + 12)).unwrap();
        self.mem.write_obj(next, GuestAddress(at + 14)).unwrap();
    }

    /// Makes the chain at `head` available.
    pub fn offer(&mut self, queue: usize, head: u16) {
        let q = &mut self.queues[queue];
        let slot = q.avail + 4 + 2 * u64::from(q.next_avail % q.size);
        self.mem.write_obj(head, GuestAddress(slot)).unwrap();
        q.next_avail = q.next_avail.wrapping_add(1);
        self.mem.write_obj(q.next_avail, GuestAddress(q.avail + 2)).unwrap();
    }

    /// Describes and offers a well-formed chain of (address, length, device-writable) parts; returns its head.
    pub fn add(&mut self, queue: usize, parts: &[(u64, u32, bool)]) -> u16 {
        let size = self.queues[queue].size;
        let head = self.queues[queue].next_desc;
        for (i, &(addr, len, write)) in parts.iter().enumerate() {
            let index = (head + i as u16) % size;
            let mut flags = if write { DESC_WRITE } else { 0 };
            if i + 1 < parts.len() {
                flags |= DESC_NEXT;
            }
            self.describe(queue, index, addr, len, flags, (index + 1) % size);
        }
        self.queues[queue].next_desc = (head + parts.len() as u16) % size;
        self.offer(queue, head);
        head
    }

    /// The next used element: head and length.
    pub fn take_used(&mut self, queue: usize) -> Option<(u32, u32)> {
        let q = &mut self.queues[queue];
        let idx: u16 = self.mem.read_obj(GuestAddress(q.used + 2)).unwrap();
        if idx == q.last_used {
            return None;
        }
        let at = q.used + 4 + 8 * u64::from(q.last_used % q.size);
        q.last_used = q.last_used.wrapping_add(1);
        Some((self.mem.read_obj(GuestAddress(at)).unwrap(), self.mem.read_obj(GuestAddress(at + 4)).unwrap()))
    }

    pub fn bytes(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.mem.read_slice(&mut bytes, GuestAddress(addr)).unwrap();
        bytes
    }

    pub fn put(&self, addr: u64, bytes: &[u8]) {
        self.mem.write_slice(bytes, GuestAddress(addr)).unwrap();
    }
}
