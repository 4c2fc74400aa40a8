//! virtio-net (virtio 1.2, section 5.1).
//!
//! Received frames lie in pages, several of them for one frame where the device merges (which it is asked to), and are
//! copied out of them once; so a page is given back at once, and what a hostile device writes into it afterwards
//! is nobody's. Frames to send are a head that is copied into the device's memory, and pages it reads itself, which are
//! referred to until it has answered. Checksums and the cutting into segments are left to the device where it offers them.
//!
//! Interrupts: none while somebody looks (`Device::rest` asks for the next one), none for what was sent unless the ring is full.
//!
//! What the device says is not believed: lengths are bounded by the pages, the number of buffers by what there is.

use alloc::{sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use ringfence_hal::{Frame, PAGE_SIZE, dma::DmaBuffer};
use smallvec::SmallVec;

use super::{
    InterruptHandler,
    virtio::{Buffer, Error, Transport, VirtQueue, features::RING_EVENT_IDX},
};
use crate::{
    net::device::{Counts, Device, HEAD_MAX, Offloads, Packet},
    random,
    sync::{PollEvents, Queue, SpinLock, WaitQueue},
};

/// `VIRTIO_NET_F_*`.
mod feature {
    pub const CSUM: u64 = 1 << 0;
    pub const GUEST_CSUM: u64 = 1 << 1;
    pub const MTU: u64 = 1 << 3;
    pub const MAC: u64 = 1 << 5;
    pub const GUEST_TSO4: u64 = 1 << 7;
    pub const GUEST_TSO6: u64 = 1 << 8;
    pub const HOST_TSO4: u64 = 1 << 11;
    pub const HOST_TSO6: u64 = 1 << 12;
    pub const MRG_RXBUF: u64 = 1 << 15;
}

const RX: u16 = 0;
const TX: u16 = 1;
/// Pages for frames that arrive.
const RX_SIZE: u16 = 128;
const TX_SIZE: u16 = 256;
/// `struct virtio_net_hdr_v1`.
const HEADER: usize = 12;
const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
/// Frames whose heads lie in the device's memory at once.
const SLOTS: usize = 128;
const SLOT: usize = 256;
/// The longest frame, of 64 KiB of IP.
const FRAME_MAX: usize = 65_535 + 14;

const _: () = assert!(HEADER + HEAD_MAX <= SLOT);

struct Receive {
    queue: VirtQueue,
    /// By the number of the chain.
    pages: Vec<Option<Frame>>,
    merges: bool,
    dropped: u64,
}

struct Transmit {
    queue: VirtQueue,
    heads: DmaBuffer,
    free: Vec<u8>,
    /// The slot of a chain, and the pages it reads, by its number.
    sent: Vec<Option<(u8, SmallVec<[Frame; 2]>)>>,
}

/// A network card.
pub struct Net {
    transport: Transport,
    mac: [u8; 6],
    mtu: u32,
    offloads: Offloads,
    receive: SpinLock<Receive>,
    transmit: SpinLock<Transmit>,
    /// Somebody found the ring full.
    waited: AtomicBool,
    /// There may be room since.
    room: AtomicBool,
    queue: Queue,
    received: [AtomicU64; 2],
    sent: [AtomicU64; 2],
}

impl Net {
    /// Starts the driver.
    pub fn start(transport: Transport) -> Result<Arc<Net>, Error> {
        let offered = feature::CSUM
            | feature::GUEST_CSUM
            | feature::MTU
            | feature::MAC
            | feature::GUEST_TSO4
            | feature::GUEST_TSO6
            | feature::HOST_TSO4
            | feature::HOST_TSO6
            | feature::MRG_RXBUF
            | RING_EVENT_IDX;
        let features = transport.negotiate(0, offered)?;
        let has = |bit: u64| features & bit != 0;
        let mut receive = Receive {
            queue: transport.queue(RX, RX_SIZE, features)?,
            pages: (0..RX_SIZE).map(|_| None).collect(),
            merges: has(feature::MRG_RXBUF),
            dropped: 0,
        };
        let mut transmit = Transmit {
            queue: transport.queue(TX, TX_SIZE, features)?,
            heads: DmaBuffer::alloc(SLOTS * SLOT).map_err(|_| Error::OutOfMemory)?,
            free: (0..SLOTS as u8).rev().collect(),
            sent: (0..TX_SIZE).map(|_| None).collect(),
        };
        transmit.queue.disable_interrupts();
        for _ in 0..RX_SIZE {
            receive.offer(Frame::alloc_zeroed().map_err(|_| Error::OutOfMemory)?);
        }
        let mut mac = [0; 6];
        if has(feature::MAC) {
            let words = [transport.config_u32(0), transport.config_u32(4)];
            let bytes = words.iter().flat_map(|w| w.to_le_bytes());
            mac.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        }
        if mac == [0; 6] || mac.first().is_some_and(|b| b & 1 != 0) {
            // One of our own making, said to be so.
            random::fill(&mut mac);
            mac[0] = mac[0] & 0xfc | 2;
        }
        let mtu = if has(feature::MTU) { transport.config_u32(8) >> 16 } else { 1500 };
        // A frame that is not merged lies in one page.
        let most = if receive.merges { 65_535 } else { PAGE_SIZE - HEADER - 18 };
        let mtu = if mtu < 68 { 1500 } else { mtu.min(most as u32) };
        let offloads = Offloads {
            checksum: has(feature::CSUM),
            cut: [feature::HOST_TSO4, feature::HOST_TSO6].map(|bit| has(feature::CSUM) && has(bit)),
        };
        let net = Arc::new(Net {
            transport,
            mac,
            mtu,
            offloads,
            receive: SpinLock::new(receive),
            transmit: SpinLock::new(transmit),
            waited: AtomicBool::new(false),
            room: AtomicBool::new(false),
            queue: WaitQueue::new(),
            received: Default::default(),
            sent: Default::default(),
        });
        super::register(net.transport.gsi, net.clone());
        net.transport.start();
        let mut receive = net.receive.lock();
        let tell = receive.queue.needs_notify();
        if tell {
            net.transport.notify(&receive.queue);
        }
        drop(receive);
        Ok(net)
    }
}

impl Receive {
    /// Gives the device a page.
    fn offer(&mut self, page: Frame) {
        let phys = page.pfn() * PAGE_SIZE as u64;
        if let Some(head) = self.queue.push(&[Buffer { phys, len: PAGE_SIZE as u32, writable: true }])
            && let Some(place) = self.pages.get_mut(usize::from(head))
        {
            *place = Some(page);
        }
    }

    /// The next page that the device has filled, and how far.
    fn take(&mut self) -> Option<(Frame, usize)> {
        loop {
            let (head, written) = self.queue.pop()?;
            if let Some(page) = self.pages.get_mut(usize::from(head)).and_then(Option::take) {
                return Some((page, (written as usize).min(PAGE_SIZE)));
            }
        }
    }

    /// Copies the next frame out.
    fn next(&mut self, frame: &mut Vec<u8>) -> Option<bool> {
        loop {
            frame.clear();
            let (page, written) = self.take()?;
            let mut header = [0; HEADER];
            page.read(0, &mut header);
            let buffers = if self.merges { u16::from_le_bytes([header[10], header[11]]).max(1) } else { 1 };
            let mut good = written > HEADER && copy(frame, &page, HEADER, written);
            self.offer(page);
            for _ in 1..buffers {
                // It gives back all of a frame's at once.
                let Some((page, written)) = self.take() else {
                    good = false;
                    break;
                };
                good = good && copy(frame, &page, 0, written);
                self.offer(page);
            }
            if good {
                return Some(header[0] & (NEEDS_CSUM | DATA_VALID) != 0);
            }
            self.dropped += 1;
        }
    }
}

/// Adds bytes of a page to a frame; false if that gets too long.
fn copy(frame: &mut Vec<u8>, page: &Frame, from: usize, to: usize) -> bool {
    let (old, len) = (frame.len(), to.saturating_sub(from));
    if old + len > FRAME_MAX || frame.try_reserve(len).is_err() {
        return false;
    }
    frame.resize(old + len, 0);
    if let Some(place) = frame.get_mut(old..) {
        page.read(from, place);
    }
    true
}

impl Transmit {
    /// Takes back what the device has sent.
    fn reclaim(&mut self) {
        while let Some((head, _)) = self.queue.pop() {
            if let Some((slot, pages)) = self.sent.get_mut(usize::from(head)).and_then(Option::take) {
                self.free.push(slot);
                drop(pages);
            }
        }
    }

    fn has_room(&self, packet: &Packet) -> bool {
        !self.free.is_empty() && self.queue.free() > packet.parts.len()
    }

    fn push(&mut self, packet: &Packet) {
        let Some(slot) = self.free.pop() else { return };
        let at = usize::from(slot) * SLOT;
        let mut header = [0u8; HEADER];
        let mut put = |at: usize, value: u16| {
            for (to, from) in header.iter_mut().skip(at).zip(value.to_le_bytes()) {
                *to = from;
            }
        };
        let length = packet.head.len().min(HEAD_MAX);
        if let Some((start, offset)) = packet.checksum {
            put(0, NEEDS_CSUM.into());
            put(6, start);
            put(8, offset);
        }
        if let Some((size, six)) = packet.cut {
            let kind = if six { GSO_TCPV6 } else { GSO_TCPV4 };
            put(0, u16::from_le_bytes([NEEDS_CSUM, kind]));
            put(2, length as u16);
            put(4, size);
        }
        self.heads.write(at, &header);
        self.heads.write(at + HEADER, packet.head.get(..length).unwrap_or_default());
        let phys = self.heads.phys() + at as u64;
        let mut buffers: SmallVec<[Buffer; 4]> = SmallVec::new();
        buffers.push(Buffer { phys, len: (HEADER + length) as u32, writable: false });
        for part in &packet.parts {
            let phys = part.frame.pfn() * PAGE_SIZE as u64 + part.start as u64;
            buffers.push(Buffer { phys, len: part.len() as u32, writable: false });
        }
        match self.queue.push(&buffers) {
            Some(head) => {
                if let Some(place) = self.sent.get_mut(usize::from(head)) {
                    *place = Some((slot, packet.parts.iter().map(|p| p.frame.clone()).collect()));
                }
            }
            None => self.free.push(slot),
        }
    }
}

impl Device for Net {
    fn mac(&self) -> [u8; 6] {
        self.mac
    }

    fn mtu(&self) -> u32 {
        self.mtu
    }

    fn offloads(&self) -> Offloads {
        self.offloads
    }

    fn transmit(&self, packet: &Packet) -> bool {
        let mut tx = self.transmit.lock();
        tx.reclaim();
        while !tx.has_room(packet) {
            // The device is told of what is there, and tells us of room; it may have made some meanwhile.
            self.waited.store(true, Relaxed);
            if tx.queue.needs_notify() {
                self.transport.notify(&tx.queue);
            }
            if !tx.queue.enable_interrupts() {
                return false;
            }
            tx.reclaim();
        }
        tx.push(packet);
        let bytes = packet.head.len() + packet.parts.iter().map(|p| p.len()).sum::<usize>();
        let [frames, total] = &self.sent;
        frames.fetch_add(1, Relaxed);
        total.fetch_add(bytes as u64, Relaxed);
        true
    }

    fn flush(&self) {
        let mut tx = self.transmit.lock();
        if tx.queue.needs_notify() {
            self.transport.notify(&tx.queue);
        }
    }

    fn receive(&self, frame: &mut Vec<u8>) -> Option<bool> {
        let checked = {
            let mut rx = self.receive.lock();
            let checked = rx.next(frame);
            if rx.queue.needs_notify() {
                // It had none left.
                self.transport.notify(&rx.queue);
            }
            checked?
        };
        let [frames, total] = &self.received;
        frames.fetch_add(1, Relaxed);
        total.fetch_add(frame.len() as u64, Relaxed);
        Some(checked)
    }

    fn rest(&self) -> bool {
        self.transmit.lock().reclaim();
        let mut rx = self.receive.lock();
        // The pages that were given back.
        if rx.queue.needs_notify() {
            self.transport.notify(&rx.queue);
        }
        rx.queue.enable_interrupts() || self.room.swap(false, Relaxed)
    }

    fn queue(&self) -> &Queue {
        &self.queue
    }

    fn counts(&self) -> Counts {
        let load = |c: &[AtomicU64; 2]| c.each_ref().map(|n| n.load(Relaxed));
        Counts {
            received: load(&self.received),
            sent: load(&self.sent),
            receive_dropped: self.receive.lock().dropped,
            send_dropped: 0,
        }
    }
}

impl InterruptHandler for Net {
    fn interrupt(&self) {
        self.transport.acknowledge();
        self.receive.lock().queue.disable_interrupts();
        if self.waited.swap(false, Relaxed) {
            self.transmit.lock().queue.disable_interrupts();
            self.room.store(true, Relaxed);
        }
        self.queue.wake_all(PollEvents::empty());
    }
}
