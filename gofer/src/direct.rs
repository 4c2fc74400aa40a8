//! The request queue without a VMM: guest memory of our own, a driver that posts what it is given. For tests and fuzzing.

use std::sync::Arc;

use fuse_backend_rs::api::server::Server;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::fs::Gofer;
use crate::server::requests;

/// Size of guest memory.
pub const MEMORY: u64 = 256 << 10;
/// Descriptors of the queue.
const SIZE: u16 = 16;
/// Places of table, rings, and the two halves of a message.
const TABLE: u64 = 0;
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
const REQUEST: u64 = 0x4000;
const ANSWER: u64 = 0x20000;

/// A guest whose every byte is the caller's.
pub struct Direct {
    memory: Arc<GuestMemoryMmap>,
    queue: Queue,
    server: Server<Gofer>,
    posted: u16,
}

impl Direct {
    /// None: there is no memory for it.
    pub fn new(gofer: Gofer) -> Option<Self> {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY as usize)]).ok()?;
        let mut queue = Queue::new(SIZE).ok()?;
        queue.try_set_desc_table_address(GuestAddress(TABLE)).ok()?;
        queue.try_set_avail_ring_address(GuestAddress(AVAILABLE)).ok()?;
        queue.try_set_used_ring_address(GuestAddress(USED)).ok()?;
        queue.set_ready(true);
        Some(Self { memory: Arc::new(memory), queue, server: Server::new(gofer), posted: 0 })
    }

    /// Writes into guest memory; what does not fit is left out.
    pub fn poke(&self, at: u64, bytes: &[u8]) {
        let _ = self.memory.write(bytes, GuestAddress(at));
    }

    /// Posts a request with `room` bytes for the answer and has it served, with whatever else is in the ring. The answer
    /// as far as the server says it has written one.
    pub fn message(&mut self, request: &[u8], room: u32) -> Vec<u8> {
        self.poke(REQUEST, request.get(..0x1_0000).unwrap_or(request));
        let descriptor = |address: u64, len: u32, flags: u16, next: u16| {
            let mut bytes = address.to_le_bytes().to_vec();
            bytes.extend(len.to_le_bytes());
            bytes.extend(flags.to_le_bytes());
            bytes.extend(next.to_le_bytes());
            bytes
        };
        self.poke(TABLE, &descriptor(REQUEST, request.len().min(0x1_0000) as u32, 1, 1));
        self.poke(TABLE + 16, &descriptor(ANSWER, room, 2, 0));
        self.poke(AVAILABLE + 4 + u64::from(self.posted % SIZE) * 2, &[0, 0]);
        self.posted = self.posted.wrapping_add(1);
        self.poke(AVAILABLE + 2, &self.posted.to_le_bytes());
        self.poke(ANSWER, &[0; 16]);
        self.serve();
        let mut header = [0; 4];
        let _ = self.memory.read(&mut header, GuestAddress(ANSWER));
        let mut answer = vec![0; u32::from_le_bytes(header).min(room).min(0x1_0000) as usize];
        let _ = self.memory.read(&mut answer, GuestAddress(ANSWER));
        answer
    }

    /// Serves what is in the ring; false if the queue is broken, and will not be looked at again.
    pub fn serve(&mut self) -> bool {
        requests(&mut self.queue, &self.memory, &self.server, None).is_ok()
    }
}
