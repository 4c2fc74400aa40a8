//! The device: its queues, and whose packet it is.

use alloc::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    vec::Vec,
};

use ringfence_hal::dma::DmaBuffer;

use super::{
    packet::{HEADER, Header, op},
    stream::Stream,
};
use crate::{
    drivers::{
        InterruptHandler,
        virtio::{Buffer, Error, Transport, VirtQueue},
    },
    errno::{Errno, Result},
    sync::{PollEvents, Queue, SpinLock, WaitQueue},
};

const RX: u16 = 0;
const TX: u16 = 1;
const EVENT: u16 = 2;
/// Receive buffers: header and payload in one page each.
const RX_SLOTS: u16 = 16;
const RX_SLOT: usize = 4096;
/// Transmit buffers. Only those that are used are ever touched.
const TX_SLOTS: u16 = 8;
const TX_SLOT: usize = 16 << 10;
/// Payload bytes of one packet we send.
pub(super) const MAX_PAYLOAD: usize = TX_SLOT - HEADER;
/// Control packets (credit, shutdown, reset) wait here while all transmit buffers are in use.
const MAX_WAITING: usize = 1024;

struct Receive {
    queue: VirtQueue,
    memory: DmaBuffer,
    /// Slot by chain number.
    slots: Vec<u16>,
}

struct Transmit {
    queue: VirtQueue,
    memory: DmaBuffer,
    free: Vec<u16>,
    /// Slot by chain number.
    slots: Vec<u16>,
    /// Headers without payload that found no free slot.
    waiting: Vec<Header>,
}

struct Connections {
    by_port: BTreeMap<u32, Weak<Stream>>,
    next_port: u32,
}

/// The vsock device of the machine.
pub struct Vsock {
    transport: Transport,
    receive: SpinLock<Receive>,
    transmit: SpinLock<Transmit>,
    connections: SpinLock<Connections>,
    /// Woken when transmit buffers come free.
    pub(super) room: Queue,
}

fn slot_map(n: u16) -> Vec<u16> {
    core::iter::repeat_n(0, n.into()).collect()
}

impl Vsock {
    /// Starts the driver.
    pub fn start(transport: Transport) -> Result<Arc<Vsock>, Error> {
        use crate::drivers::virtio::features::RING_EVENT_IDX;
        let features = transport.negotiate(0, RING_EVENT_IDX)?;
        let dma = |len: usize| DmaBuffer::alloc(len).map_err(|_| Error::OutOfMemory);
        let mut receive = Receive {
            queue: transport.queue(RX, RX_SLOTS, features)?,
            memory: dma(usize::from(RX_SLOTS) * RX_SLOT)?,
            slots: slot_map(RX_SLOTS),
        };
        let mut transmit = Transmit {
            queue: transport.queue(TX, TX_SLOTS, features)?,
            memory: dma(usize::from(TX_SLOTS) * TX_SLOT)?,
            free: (0..TX_SLOTS).rev().collect(),
            slots: slot_map(TX_SLOTS),
            waiting: Vec::new(),
        };
        // Transport resets would arrive here; our host never sends any.
        core::mem::forget(transport.queue(EVENT, 2, features)?);
        transmit.queue.disable_interrupts();
        for slot in 0..RX_SLOTS {
            receive.offer(slot);
        }
        receive.queue.enable_interrupts();
        let gsi = transport.gsi;
        let vsock = Arc::new(Vsock {
            transport,
            receive: SpinLock::new(receive),
            transmit: SpinLock::new(transmit),
            connections: SpinLock::new(Connections { by_port: BTreeMap::new(), next_port: 1024 }),
            room: WaitQueue::new(),
        });
        crate::drivers::register(gsi, vsock.clone());
        vsock.transport.start();
        vsock.transport.notify(&vsock.receive.lock().queue);
        Ok(vsock)
    }

    /// Begins a connection to a port of the host. Does not wait: reads and writes do, until it is up.
    pub fn connect(self: &Arc<Self>, port: u32) -> Arc<Stream> {
        let stream = self.connect_on_demand(port);
        stream.open();
        stream
    }

    /// A stream from a port of the host that connects when it is first read or polled.
    pub fn connect_on_demand(self: &Arc<Self>, port: u32) -> Arc<Stream> {
        let mut c = self.connections.lock();
        let local = c.next_port;
        c.next_port += 1;
        let stream = Stream::new(self.clone(), local, port);
        c.by_port.insert(local, Arc::downgrade(&stream));
        stream
    }

    pub(super) fn forget(&self, local: u32) {
        self.connections.lock().by_port.remove(&local);
    }

    /// Sends a packet without payload; it waits for room if there is none.
    pub(super) fn send_control(&self, header: Header) {
        let mut tx = self.transmit.lock();
        tx.reclaim();
        if tx.free.is_empty() {
            if tx.waiting.len() < MAX_WAITING {
                tx.waiting.push(header);
            }
            tx.ask_for_room();
            self.kick(&mut tx);
        } else {
            tx.submit(header, 0);
            self.kick(&mut tx);
        }
    }

    /// Takes a transmit buffer; `None` if all are in use (wait on [`Vsock::room`]).
    pub(super) fn take_slot(&self) -> Option<Slot<'_>> {
        let mut tx = self.transmit.lock();
        tx.reclaim();
        if tx.waiting.is_empty()
            && let Some(slot) = tx.free.pop()
        {
            return Some(Slot { vsock: self, slot: Some(slot) });
        }
        tx.ask_for_room();
        self.kick(&mut tx);
        tx.free.pop().map(|slot| Slot { vsock: self, slot: Some(slot) })
    }

    fn kick(&self, tx: &mut Transmit) {
        if tx.queue.needs_notify() {
            self.transport.notify(&tx.queue);
        }
    }

    fn receive_all(&self) {
        loop {
            // Each packet is taken out under the lock and handled after it: handling may send.
            let mut payload = Vec::new();
            let header = {
                let mut rx = self.receive.lock();
                let Some((head, written)) = rx.queue.pop() else {
                    if rx.queue.enable_interrupts() {
                        continue;
                    }
                    break;
                };
                let header = rx.read(head, written as usize, &mut payload);
                let slot = rx.slots.get(usize::from(head)).copied().unwrap_or(0);
                rx.offer(slot);
                header
            };
            if let Some(header) = header {
                self.handle(header, &payload);
            }
        }
        let mut rx = self.receive.lock();
        if rx.queue.needs_notify() {
            self.transport.notify(&rx.queue);
        }
    }

    fn handle(&self, header: Header, payload: &[u8]) {
        let stream = self.connections.lock().by_port.get(&header.local).and_then(Weak::upgrade);
        match stream {
            Some(stream) if stream.peer() == header.peer => stream.handle(&header, payload),
            _ if header.op == op::RST => {}
            _ => {
                let reset = Header { len: 0, op: op::RST, flags: 0, buf_alloc: 0, fwd_cnt: 0, ..header };
                self.send_control(reset);
            }
        }
    }
}

impl Receive {
    fn offer(&mut self, slot: u16) {
        let phys = self.memory.phys() + u64::from(slot) * RX_SLOT as u64;
        if let Some(head) = self.queue.push(&[Buffer { phys, len: RX_SLOT as u32, writable: true }])
            && let Some(at) = self.slots.get_mut(usize::from(head))
        {
            *at = slot;
        }
    }

    /// Copies a packet out; `None` if it is not one.
    fn read(&self, head: u16, written: usize, payload: &mut Vec<u8>) -> Option<Header> {
        let slot = usize::from(*self.slots.get(usize::from(head))?);
        let base = slot * RX_SLOT;
        let mut bytes = [0u8; HEADER];
        self.memory.read(base, &mut bytes);
        let header = Header::from_bytes(&bytes)?;
        let len = header.len as usize;
        if written < HEADER || len > written - HEADER || len > RX_SLOT - HEADER {
            return None;
        }
        payload.try_reserve_exact(len).ok()?;
        payload.resize(len, 0);
        self.memory.read(base + HEADER, payload);
        Some(header)
    }
}

impl Transmit {
    /// Takes back the buffers the device is done with, and sends what waited for them.
    fn reclaim(&mut self) {
        while let Some((head, _)) = self.queue.pop() {
            if let Some(slot) = self.slots.get(usize::from(head)) {
                self.free.push(*slot);
            }
        }
        while !self.waiting.is_empty() && !self.free.is_empty() {
            let header = self.waiting.remove(0);
            self.submit(header, 0);
        }
    }

    /// With all buffers in use, asks to be told of the next that comes free. The device may have finished some
    /// meanwhile, so looks once more.
    fn ask_for_room(&mut self) {
        while self.free.is_empty() && self.queue.enable_interrupts() {
            self.reclaim();
        }
    }

    fn submit(&mut self, header: Header, payload: usize) {
        if let Some(slot) = self.free.pop() {
            self.submit_slot(slot, header, payload);
        }
    }

    /// Sends a slot whose payload has been written.
    fn submit_slot(&mut self, slot: u16, header: Header, payload: usize) {
        let base = usize::from(slot) * TX_SLOT;
        self.memory.write(base, &header.to_bytes());
        let len = (HEADER + payload) as u32;
        let phys = self.memory.phys() + base as u64;
        match self.queue.push(&[Buffer { phys, len, writable: false }]) {
            Some(head) => {
                if let Some(at) = self.slots.get_mut(usize::from(head)) {
                    *at = slot;
                }
            }
            None => self.free.push(slot), // cannot be: there are as many descriptors as slots
        }
    }
}

/// A transmit buffer that is being filled.
pub(super) struct Slot<'a> {
    vsock: &'a Vsock,
    slot: Option<u16>,
}

impl Slot<'_> {
    /// Writes payload at `offset`; the caller keeps within [`MAX_PAYLOAD`].
    pub fn write(&self, offset: usize, bytes: &[u8]) -> Result<()> {
        let slot = usize::from(self.slot.ok_or(Errno::EIO)?);
        if offset + bytes.len() > MAX_PAYLOAD {
            return Err(Errno::EIO);
        }
        self.vsock.transmit.lock().memory.write(slot * TX_SLOT + HEADER + offset, bytes);
        Ok(())
    }

    /// Sends it.
    pub fn send(mut self, header: Header) {
        if let Some(slot) = self.slot.take() {
            let mut tx = self.vsock.transmit.lock();
            tx.submit_slot(slot, header, header.len as usize);
            self.vsock.kick(&mut tx);
        }
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            self.vsock.transmit.lock().free.push(slot);
            self.vsock.room.wake_all(PollEvents::empty());
        }
    }
}

impl InterruptHandler for Vsock {
    fn interrupt(&self) {
        self.transport.acknowledge();
        self.receive_all();
        let freed = {
            let mut tx = self.transmit.lock();
            tx.queue.disable_interrupts();
            tx.reclaim();
            // The interrupt may be of the other queue, and somebody may wait for this one.
            tx.ask_for_room();
            self.kick(&mut tx);
            !tx.free.is_empty()
        };
        if freed {
            self.room.wake_all(PollEvents::OUT);
        }
    }
}
