//! A driver that can be told to do anything.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use ringfence_hal::{cpu, dma::DmaBuffer, mmio::Mmio, time};

use crate::raw;

/// What an attack finds out: nothing, or what went wrong.
pub type Verdict = Result<(), String>;

/// Where the devices' windows are (docs/devices.md).
const BASE: u64 = 0xd000_0000;
const SLOTS: u64 = 32;
const WINDOW: u64 = 0x1000;
/// Where the hardware layer maps a physical address.
const PHYSICAL: u64 = 0xffff_8880_0000_0000;

/// Registers (virtio 1.2, section 4.2.2).
pub mod reg {
    pub const MAGIC: usize = 0x00;
    pub const DEVICE_ID: usize = 0x08;
    pub const DRIVER_FEATURES: usize = 0x20;
    pub const DRIVER_FEATURES_SEL: usize = 0x24;
    pub const QUEUE_SEL: usize = 0x30;
    pub const QUEUE_NUM_MAX: usize = 0x34;
    pub const QUEUE_NUM: usize = 0x38;
    pub const QUEUE_READY: usize = 0x44;
    pub const QUEUE_NOTIFY: usize = 0x50;
    pub const STATUS: usize = 0x70;
    pub const DESC: usize = 0x80;
    pub const AVAIL: usize = 0x90;
    pub const USED: usize = 0xa0;
    pub const CONFIG: usize = 0x100;
}

pub const ACKNOWLEDGE: u32 = 1;
pub const DRIVER: u32 = 2;
pub const DRIVER_OK: u32 = 4;
pub const FEATURES_OK: u32 = 8;
pub const NEEDS_RESET: u32 = 64;

pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

/// Device ids (virtio 1.2, section 5).
pub const NET: u32 = 1;
pub const BLOCK: u32 = 2;
pub const RNG: u32 = 4;
pub const BALLOON: u32 = 5;
pub const VSOCK: u32 = 19;
pub const PMEM: u32 = 27;

/// `VIRTIO_BALLOON_F_REPORTING`.
const REPORTING: u32 = 1 << 5;

/// Entries of every ring.
pub const ENTRIES: u16 = 64;
/// How long a device may take, in nanoseconds; the emulated machine can be slow.
const PATIENCE: u64 = 20_000_000_000;

/// How often a device's status is looked at, in nanoseconds.
const PAUSE: u64 = 1_000_000;

/// Does nothing for so many nanoseconds.
pub fn pause(ns: u64) {
    let until = time::now() + ns;
    while time::now() < until {
        cpu::relax();
    }
}

/// Waits until `done` gives something.
pub fn wait<T>(mut done: impl FnMut() -> Option<T>) -> Option<T> {
    let until = time::now() + PATIENCE;
    loop {
        if let Some(value) = done() {
            return Some(value);
        }
        if time::now() > until {
            return None;
        }
        cpu::relax();
    }
}

/// A split virtqueue in memory of its own: descriptors, available and used ring.
pub struct Queue {
    pub memory: DmaBuffer,
    posted: u16,
}

const AVAIL: usize = 0x1000;
const USED: usize = 0x2000;

impl Queue {
    pub fn new() -> Queue {
        Queue { memory: DmaBuffer::alloc(0x3000).expect("memory for a queue"), posted: 0 }
    }

    /// Fills in descriptor `i`.
    pub fn describe(&self, i: u16, address: u64, len: u32, flags: u16, next: u16) {
        let at = usize::from(i) * 16;
        self.memory.store_u64(at, address);
        self.memory.store_u32(at + 8, len);
        self.memory.store_u16(at + 12, flags);
        self.memory.store_u16(at + 14, next);
    }

    /// Makes the chain that begins at `head` available.
    pub fn post(&mut self, head: u16) {
        self.memory.store_u16(AVAIL + 4 + usize::from(self.posted % ENTRIES) * 2, head);
        self.posted = self.posted.wrapping_add(1);
        self.publish(self.posted);
    }

    /// Writes the available index as it is not.
    pub fn publish(&self, index: u16) {
        self.memory.store_u16(AVAIL + 2, index);
    }

    /// How many chains the device has used.
    pub fn used(&self) -> u16 {
        self.memory.load_u16(USED + 2)
    }

    /// How many chains are the device's.
    pub fn waiting(&self) -> u16 {
        self.posted.wrapping_sub(self.used())
    }

    /// The bytes the device says it wrote for the last used chain.
    pub fn last_written(&self) -> u32 {
        let entry = usize::from(self.used().wrapping_sub(1) % ENTRIES);
        self.memory.load_u32(USED + 4 + entry * 8 + 4)
    }

    fn clear(&mut self) {
        self.posted = 0;
        self.memory.write(0, &[0; 0x3000]);
    }
}

/// A device of the machine.
pub struct Device {
    pub mmio: Mmio,
    pub phys: u64,
    pub id: u32,
    pub queues: Vec<Queue>,
    /// For requests.
    pub buffer: DmaBuffer,
}

/// The devices there are.
pub fn find() -> Vec<Device> {
    let mut devices = Vec::new();
    for slot in 0..SLOTS {
        let phys = BASE + slot * WINDOW;
        let mmio = Mmio::map(phys, WINDOW as usize);
        if mmio.read32(reg::MAGIC) != 0x7472_6976 || mmio.read32(reg::DEVICE_ID) == 0 {
            continue;
        }
        let id = mmio.read32(reg::DEVICE_ID);
        let count = (0..16).take_while(|queue| {
            mmio.write32(reg::QUEUE_SEL, *queue);
            mmio.read32(reg::QUEUE_NUM_MAX) != 0
        });
        let queues = (0..count.count()).map(|_| Queue::new()).collect();
        let buffer = DmaBuffer::alloc(1 << 16).expect("memory for a buffer");
        devices.push(Device { mmio, phys, id, queues, buffer });
    }
    devices
}

impl Device {
    pub fn name(&self) -> &'static str {
        match self.id {
            BLOCK => "block",
            NET => "net",
            RNG => "rng",
            BALLOON => "balloon",
            VSOCK => "vsock",
            PMEM => "pmem",
            _ => "unknown device",
        }
    }

    pub fn status(&self) -> u32 {
        self.mmio.read32(reg::STATUS)
    }

    /// The address of a register, for accesses that drivers do not make.
    pub fn at(&self, offset: usize) -> *mut u8 {
        pointer(self.phys + offset as u64)
    }

    pub fn reset(&mut self) {
        self.mmio.write32(reg::STATUS, 0);
        for queue in &mut self.queues {
            queue.clear();
        }
    }

    /// Resets the device and brings it to the point where queues are configured.
    pub fn negotiate(&mut self) -> Verdict {
        self.reset();
        self.mmio.write32(reg::STATUS, ACKNOWLEDGE);
        self.mmio.write32(reg::STATUS, ACKNOWLEDGE | DRIVER);
        self.mmio.write32(reg::DRIVER_FEATURES_SEL, 0);
        self.mmio.write32(reg::DRIVER_FEATURES, if self.id == BALLOON { REPORTING } else { 0 });
        self.mmio.write32(reg::DRIVER_FEATURES_SEL, 1);
        self.mmio.write32(reg::DRIVER_FEATURES, 1); // VERSION_1
        self.mmio.write32(reg::STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
        if self.status() & FEATURES_OK == 0 {
            return Err(format!("{} refuses its features", self.name()));
        }
        Ok(())
    }

    /// Tells the device where queue `index` is.
    pub fn configure(&self, index: u16, [desc, avail, used]: [u64; 3]) {
        self.mmio.write32(reg::QUEUE_SEL, index.into());
        self.mmio.write32(reg::QUEUE_NUM, ENTRIES.into());
        for (register, address) in [(reg::DESC, desc), (reg::AVAIL, avail), (reg::USED, used)] {
            self.mmio.write32(register, address as u32);
            self.mmio.write32(register + 4, (address >> 32) as u32);
        }
        self.mmio.write32(reg::QUEUE_READY, 1);
    }

    /// Where queue `index` is.
    pub fn rings(&self, index: u16) -> [u64; 3] {
        let phys = self.queues[usize::from(index)].memory.phys();
        [phys, phys + AVAIL as u64, phys + USED as u64]
    }

    pub fn drive(&self) {
        self.mmio.write32(reg::STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    }

    /// Resets the device and sets it up as a driver does.
    pub fn set_up(&mut self) -> Verdict {
        self.negotiate()?;
        for index in 0..self.queues.len() as u16 {
            // The event queue of a vsock device may be smaller.
            self.mmio.write32(reg::QUEUE_SEL, index.into());
            if self.mmio.read32(reg::QUEUE_NUM_MAX) >= u32::from(ENTRIES) {
                self.configure(index, self.rings(index));
            }
        }
        self.drive();
        match self.status() & NEEDS_RESET {
            0 => Ok(()),
            _ => Err(format!("{} does not start", self.name())),
        }
    }

    /// The queue that takes requests, and the direction of the first buffer of one.
    pub fn request_queue(&self) -> (u16, u16) {
        match self.id {
            VSOCK | NET => (1, 0),
            PMEM | BLOCK => (0, 0),
            BALLOON => (2, WRITE),
            _ => (0, WRITE),
        }
    }

    pub fn kick(&self, queue: u16) {
        self.mmio.write32(reg::QUEUE_NOTIFY, queue.into());
    }

    /// Posts the chain at `head` of queue `index` and waits until it is used.
    pub fn submit(&mut self, index: u16, head: u16) -> Verdict {
        let queue = &mut self.queues[usize::from(index)];
        let before = queue.used();
        queue.post(head);
        self.mmio.write32(reg::QUEUE_NOTIFY, index.into());
        let (mmio, queue) = (&self.mmio, &self.queues[usize::from(index)]);
        let (mut broken, mut look) = (false, time::now() + PAUSE);
        wait(|| {
            // Looking at the status is an exit.
            if time::now() > look {
                broken = mmio.read32(reg::STATUS) & NEEDS_RESET != 0;
                look = time::now() + PAUSE;
            }
            (broken || queue.used() != before).then_some(())
        });
        match (broken, queue.used() == before) {
            (true, _) => Err(format!("{} needs a reset", self.name())),
            (_, true) => Err(format!("{} does not answer", self.name())),
            _ => Ok(()),
        }
    }

    /// A request as a driver makes it, which has to be answered.
    pub fn request(&mut self) -> Verdict {
        let buffer = self.buffer.phys();
        match self.id {
            RNG => {
                self.buffer.write(0, &[0; 64]);
                self.queues[0].describe(0, buffer, 64, WRITE, 0);
                self.submit(0, 0)?;
                let mut random = [0; 64];
                self.buffer.read(0, &mut random);
                if self.queues[0].last_written() == 0 || random == [0; 64] {
                    return Err("rng gives nothing".into());
                }
            }
            PMEM => {
                self.buffer.store_u32(0, 0); // VIRTIO_PMEM_REQ_TYPE_FLUSH
                self.buffer.store_u32(8, 77);
                self.queues[0].describe(0, buffer, 4, NEXT, 1);
                self.queues[0].describe(1, buffer + 8, 4, WRITE, 0);
                self.submit(0, 0)?;
                if self.buffer.load_u32(8) != 0 {
                    return Err("pmem does not flush".into());
                }
            }
            BALLOON => {
                self.queues[2].describe(0, buffer, 0x1_0000, WRITE, 0);
                self.submit(2, 0)?;
            }
            BLOCK => match self.block_request(0, 0, 512, WRITE)? {
                0 => {}
                status => return Err(format!("a sector is read with status {status}")),
            },
            NET => self.frame(60)?,
            VSOCK => {
                // Nobody listens there.
                let answer =
                    self.converse(&Packet { op: Packet::REQUEST, dst_port: 9, ..Packet::default() })?;
                if answer.op != Packet::RST {
                    return Err(format!("vsock answers {} to a request for nothing", answer.op));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Sends a frame to everybody, of a protocol for experiments; `length` bytes of it.
    pub fn frame(&mut self, length: u32) -> Verdict {
        self.buffer.write(0, &[0; 12 + 60]);
        self.buffer.write(12, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
        self.queues[1].describe(0, self.buffer.phys(), 12 + length, 0, 0);
        self.submit(1, 0)
    }

    /// The device does its work after a reset.
    pub fn works(&mut self) -> Verdict {
        self.set_up()?;
        self.request()
    }

    /// Posts the chain at `head` of the queue for requests; the device has to see that it is none.
    pub fn must_break(&mut self, head: u16) -> Verdict {
        let (queue, _) = self.request_queue();
        self.queues[usize::from(queue)].post(head);
        self.must_need_reset(queue)
    }

    /// Kicks `queue`; the device has to give up on it.
    pub fn must_need_reset(&self, queue: u16) -> Verdict {
        self.kick(queue);
        let broken = wait(|| {
            pause(PAUSE);
            (self.status() & NEEDS_RESET != 0).then_some(())
        });
        match broken {
            Some(()) => Ok(()),
            None => Err(format!("{} does not mind", self.name())),
        }
    }

    /// Sends a packet; the payload is what is in the buffer behind its header.
    pub fn send(&mut self, packet: &Packet, payload: u32) -> Verdict {
        self.buffer.write(0, &packet.encode());
        let address = self.buffer.phys();
        self.queues[1].describe(0, address, (Packet::LEN as u32).wrapping_add(payload), 0, 0);
        self.submit(1, 0)
    }

    /// Gives the device a buffer, and waits for a packet in it.
    pub fn receive(&mut self) -> Result<Packet, String> {
        let address = self.buffer.phys() + 0x8000;
        self.queues[0].describe(0, address, 0x8000, WRITE, 0);
        self.submit(0, 0)?;
        let mut bytes = [0; Packet::LEN];
        self.buffer.read(0x8000, &mut bytes);
        Ok(Packet::decode(&bytes))
    }

    /// Sends a packet and takes the answer.
    pub fn converse(&mut self, packet: &Packet) -> Result<Packet, String> {
        self.send(packet, 0)?;
        self.receive()
    }

    /// A request of a disk, with `len` bytes of data for it, or for us (`WRITE`). Its status.
    pub fn block_request(&mut self, kind: u32, sector: u64, len: u32, direction: u16) -> Result<u8, String> {
        let (header, status, data) = (0, 0x100, 0x1000);
        self.buffer.store_u32(header, kind);
        self.buffer.store_u32(header + 4, 0);
        self.buffer.store_u64(header + 8, sector);
        self.buffer.store_u8(status, 77);
        let at = self.buffer.phys();
        self.queues[0].describe(0, at, 16, NEXT, 1);
        self.queues[0].describe(1, at + data, len, direction | NEXT, 2);
        self.queues[0].describe(2, at + status as u64, 1, WRITE, 0);
        self.submit(0, 0)?;
        Ok(self.buffer.load_u8(status))
    }

    /// Where the region of a pmem device is.
    pub fn region(&self) -> (u64, u64) {
        let word = |offset| u64::from(self.mmio.read32(reg::CONFIG + offset));
        (word(0) | word(4) << 32, word(8) | word(12) << 32)
    }
}

/// The port of the stream that is the program's standard output, from the document the VMM gave us.
pub fn stdout_port(config: &str) -> Option<u32> {
    let number = config.split(r#""stdout":"#).nth(1)?.split(|c: char| !c.is_ascii_digit()).next()?;
    number.parse().ok()
}

/// Where the hardware layer maps physical address `phys`.
pub fn pointer(phys: u64) -> *mut u8 {
    (PHYSICAL + phys) as *mut u8
}

/// Maps `len` bytes of physical addresses that are not RAM, and gives a pointer to them.
pub fn map(phys: u64, len: usize) -> *mut u8 {
    Mmio::map(phys, len);
    pointer(phys)
}

/// The header of a vsock packet (virtio 1.2, section 5.10.6).
#[derive(Clone, Copy)]
pub struct Packet {
    pub src_cid: u64,
    pub dst_cid: u64,
    pub src_port: u32,
    pub dst_port: u32,
    pub len: u32,
    pub kind: u16,
    pub op: u16,
    pub flags: u32,
    pub buf_alloc: u32,
    pub fwd_cnt: u32,
}

impl Default for Packet {
    fn default() -> Packet {
        Packet {
            src_cid: 3,
            dst_cid: 2,
            src_port: 5000,
            dst_port: 0,
            len: 0,
            kind: 1,
            op: 0,
            flags: 0,
            buf_alloc: 1 << 18,
            fwd_cnt: 0,
        }
    }
}

impl Packet {
    pub const LEN: usize = 44;
    pub const REQUEST: u16 = 1;
    pub const RESPONSE: u16 = 2;
    pub const RST: u16 = 3;
    pub const SHUTDOWN: u16 = 4;
    pub const RW: u16 = 5;
    pub const CREDIT_UPDATE: u16 = 6;
    pub const CREDIT_REQUEST: u16 = 7;

    pub fn encode(&self) -> [u8; Packet::LEN] {
        let mut bytes = [0; Packet::LEN];
        bytes[0..8].copy_from_slice(&self.src_cid.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.dst_cid.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.src_port.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.dst_port.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.len.to_le_bytes());
        bytes[28..30].copy_from_slice(&self.kind.to_le_bytes());
        bytes[30..32].copy_from_slice(&self.op.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.flags.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.buf_alloc.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.fwd_cnt.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; Packet::LEN]) -> Packet {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        Packet {
            src_cid: long(0),
            dst_cid: long(8),
            src_port: word(16),
            dst_port: word(20),
            len: word(24),
            kind: word(28) as u16,
            op: (word(28) >> 16) as u16,
            flags: word(32),
            buf_alloc: word(36),
            fwd_cnt: word(40),
        }
    }
}

/// Numbers that are the same in every run.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// Reads or writes a register of `device` in any width at any offset.
pub fn poke(device: &Device, offset: usize, width: usize, write: Option<u64>) -> u64 {
    raw::access(device.at(offset), width, write)
}
