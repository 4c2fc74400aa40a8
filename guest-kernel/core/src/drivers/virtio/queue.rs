//! A split virtqueue, driver side (virtio 1.2, section 2.7).
//!
//! Descriptor table, available ring and used ring lie in one DMA buffer. What the device writes (used ring,
//! its event index) is only ever copied out and checked: an index that makes no sense is dropped.

use alloc::vec::Vec;
use core::sync::atomic::{Ordering, fence};

use ringfence_hal::dma::DmaBuffer;

use super::Error;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const DESCRIPTOR: usize = 16;
const NO_INTERRUPT: u16 = 1;
const NO_NOTIFY: u16 = 1;

/// One descriptor's worth of memory.
#[derive(Clone, Copy, Debug)]
pub struct Buffer {
    /// Physical address.
    pub phys: u64,
    /// Bytes.
    pub len: u32,
    /// Whether the device writes it.
    pub writable: bool,
}

/// One queue.
pub struct VirtQueue {
    /// Its number.
    pub index: u16,
    size: u16,
    memory: DmaBuffer,
    avail: usize,
    used: usize,
    free: Vec<u16>,
    /// Length of the chain that starts at a descriptor; 0 if none does.
    chains: Vec<u16>,
    next_avail: u16,
    next_used: u16,
    /// `next_avail` at the last notification.
    notified: u16,
    event_index: bool,
}

impl VirtQueue {
    pub(super) fn new(index: u16, size: u16, event_index: bool) -> Result<VirtQueue, Error> {
        let n = usize::from(size);
        let avail = n * DESCRIPTOR;
        let used = (avail + 6 + 2 * n).next_multiple_of(4);
        let memory = DmaBuffer::alloc(used + 6 + 8 * n).map_err(|_| Error::OutOfMemory)?;
        Ok(VirtQueue {
            index,
            size,
            memory,
            avail,
            used,
            free: (0..size).rev().collect(),
            chains: core::iter::repeat_n(0, n).collect(),
            next_avail: 0,
            next_used: 0,
            notified: 0,
            event_index,
        })
    }

    /// Physical addresses of descriptor table, available ring, used ring.
    pub(super) fn addresses(&self) -> [u64; 3] {
        let base = self.memory.phys();
        [base, base + self.avail as u64, base + self.used as u64]
    }

    /// Descriptors that are free.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    fn slot(&self, position: u16) -> usize {
        usize::from(position & (self.size - 1))
    }

    /// Makes a chain available; answers the number it comes back under, or `None` if there is no room.
    pub fn push(&mut self, buffers: &[Buffer]) -> Option<u16> {
        if buffers.is_empty() || buffers.len() > self.free.len() {
            return None;
        }
        let first_free = self.free.len() - buffers.len();
        let taken: Vec<u16> = self.free.split_off(first_free);
        for (i, (d, b)) in taken.iter().zip(buffers).enumerate() {
            let next = taken.get(i + 1).copied();
            let flags = if b.writable { WRITE } else { 0 } | if next.is_some() { NEXT } else { 0 };
            let at = usize::from(*d) * DESCRIPTOR;
            self.memory.store_u64(at, b.phys);
            self.memory.store_u32(at + 8, b.len);
            self.memory.store_u16(at + 12, flags);
            self.memory.store_u16(at + 14, next.unwrap_or(0));
        }
        let head = taken.first().copied()?;
        if let Some(len) = self.chains.get_mut(usize::from(head)) {
            *len = buffers.len() as u16;
        }
        self.memory.store_u16(self.avail + 4 + 2 * self.slot(self.next_avail), head);
        self.next_avail = self.next_avail.wrapping_add(1);
        self.memory.store_u16(self.avail + 2, self.next_avail); // release: the chain is visible first
        Some(head)
    }

    /// Whether the device wants to be told about what was pushed since the last call that said so.
    pub fn needs_notify(&mut self) -> bool {
        fence(Ordering::SeqCst); // our index before their wish
        let (old, new) = (self.notified, self.next_avail);
        let wanted = if self.event_index {
            let event = self.memory.load_u16(self.used + 4 + 8 * usize::from(self.size));
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            self.memory.load_u16(self.used) & NO_NOTIFY == 0
        };
        self.notified = new;
        wanted && new != old
    }

    /// The next chain the device is done with: its number and the bytes written.
    pub fn pop(&mut self) -> Option<(u16, u32)> {
        while self.memory.load_u16(self.used + 2) != self.next_used {
            let at = self.used + 4 + 8 * self.slot(self.next_used);
            let head = self.memory.load_u32(at);
            let written = self.memory.load_u32(at + 4);
            self.next_used = self.next_used.wrapping_add(1);
            if let Ok(head) = u16::try_from(head)
                && let Some(len) = self.chains.get_mut(usize::from(head)).filter(|l| **l != 0)
            {
                let n = core::mem::take(len);
                self.release(head, n);
                return Some((head, written));
            }
        }
        None
    }

    /// Gives the descriptors of a chain back.
    fn release(&mut self, head: u16, len: u16) {
        let mut d = head;
        for _ in 0..len {
            if d >= self.size {
                return;
            }
            self.free.push(d);
            d = self.memory.load_u16(usize::from(d) * DESCRIPTOR + 14);
        }
    }

    /// Asks for no interrupt until [`VirtQueue::enable_interrupts`].
    pub fn disable_interrupts(&mut self) {
        if self.event_index {
            // An event index just behind what is next is not reached for a whole turn of the ring.
            let never = self.next_used.wrapping_sub(1);
            self.memory.store_u16(self.avail + 4 + 2 * usize::from(self.size), never);
        } else {
            self.memory.store_u16(self.avail, NO_INTERRUPT);
        }
    }

    /// Asks for an interrupt at the next used chain; `true` if there is one already.
    pub fn enable_interrupts(&mut self) -> bool {
        if self.event_index {
            self.memory.store_u16(self.avail + 4 + 2 * usize::from(self.size), self.next_used);
        } else {
            self.memory.store_u16(self.avail, 0);
        }
        fence(Ordering::SeqCst); // our wish before their index
        self.memory.load_u16(self.used + 2) != self.next_used
    }
}
