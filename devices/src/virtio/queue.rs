//! A running virtqueue: `virtio-queue`'s ring handling with a checked way in and out.
//!
//! Built by the transport at DRIVER_OK, when the ring addresses have been found to lie in guest RAM and can no
//! longer change. From then on every access is bounds checked by `vm-memory` again, so that a wrong assumption
//! here is an error, never an access outside guest memory.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};
use virtio_bindings::bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryMmap};

use super::chain::{Chain, ChainError};
use super::interrupt::Interrupt;
use crate::GuestRam;

/// Why a queue stopped. Each of them is the driver's fault and answered by DEVICE_NEEDS_RESET.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The ring itself is wrong, for example an available index that is more than a queue size ahead.
    #[error("virtqueue: {0}")]
    Ring(virtio_queue::Error),
    /// One chain is wrong.
    #[error("virtqueue: {0}")]
    Chain(#[from] ChainError),
}

/// How far a queue has come: what must be saved besides its registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueuePosition {
    /// Next entry of the available ring.
    pub next_avail: u16,
    /// Next entry of the used ring.
    pub next_used: u16,
}

/// A queue's registers: what the driver has configured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueConfig {
    /// Number of descriptors: a power of two, at most the device's maximum.
    pub size: u16,
    /// The driver has finished configuring it.
    pub ready: bool,
    /// Guest physical address of the descriptor table (16-byte aligned).
    pub desc: u64,
    /// Guest physical address of the available ring (2-byte aligned).
    pub avail: u64,
    /// Guest physical address of the used ring (4-byte aligned).
    pub used: u64,
}

/// A running queue.
#[derive(Debug)]
pub struct Virtqueue {
    queue: Queue,
    mem: GuestRam,
    interrupt: Arc<Interrupt>,
    /// Something was put in the used ring since the driver was last notified.
    used_since_notify: bool,
    /// And the driver is told whether it has asked for that or not.
    notify_always: bool,
}

impl Virtqueue {
    /// Checks the configuration against guest memory and builds the queue.
    pub fn new(
        mem: GuestRam,
        interrupt: Arc<Interrupt>,
        max_size: u16,
        config: &QueueConfig,
        event_idx: bool,
        position: Option<QueuePosition>,
    ) -> Result<Self, QueueError> {
        let mut queue = Queue::new(max_size).map_err(QueueError::Ring)?;
        queue.try_set_size(config.size).map_err(QueueError::Ring)?;
        queue.try_set_desc_table_address(GuestAddress(config.desc)).map_err(QueueError::Ring)?;
        queue.try_set_avail_ring_address(GuestAddress(config.avail)).map_err(QueueError::Ring)?;
        queue.try_set_used_ring_address(GuestAddress(config.used)).map_err(QueueError::Ring)?;
        queue.set_event_idx(event_idx);
        queue.set_ready(config.ready);
        if let Some(position) = position {
            queue.set_next_avail(position.next_avail);
            queue.set_next_used(position.next_used);
        }
        if !queue.is_valid(&*mem) {
            return Err(QueueError::Ring(virtio_queue::Error::QueueNotReady));
        }
        Ok(Self { queue, mem, interrupt, used_since_notify: false, notify_always: false })
    }

    /// The guest's RAM, for the cursors of a [`Chain`].
    pub fn memory(&self) -> &GuestMemoryMmap<()> {
        &self.mem
    }

    /// The same, shared.
    pub fn shared_memory(&self) -> GuestRam {
        self.mem.clone()
    }

    /// Its registers, for a device whose queues another process serves.
    pub fn config(&self) -> QueueConfig {
        QueueConfig {
            size: self.queue.size(),
            ready: self.queue.ready(),
            desc: self.queue.desc_table(),
            avail: self.queue.avail_ring(),
            used: self.queue.used_ring(),
        }
    }

    /// Number of descriptors.
    pub fn size(&self) -> u16 {
        self.queue.size()
    }

    /// The next request, fully checked, or `None` if the driver has made none available; then kicks are asked
    /// for, and one will come with the next request.
    pub fn pop(&mut self) -> Result<Option<Chain>, QueueError> {
        let mut head = self.next_head()?;
        // The order is the one that loses no request: ask for kicks, then look once more. A driver that plays
        // with its index in between only fools itself, hence no loop.
        if head.is_none() && self.queue.enable_notification(&*self.mem).map_err(QueueError::Ring)? {
            head = self.next_head()?;
        }
        let Some(head) = head else { return Ok(None) };
        let table = GuestAddress(self.queue.desc_table());
        Ok(Some(Chain::walk(&self.mem, table, self.queue.size(), head)?))
    }

    fn next_head(&mut self) -> Result<Option<u16>, QueueError> {
        let mut heads = self.queue.iter(&*self.mem).map_err(QueueError::Ring)?;
        Ok(heads.next().map(|chain| chain.head_index()))
    }

    /// Gives the last popped request back: the next [`Virtqueue::pop`] returns it again.
    pub fn unpop(&mut self) {
        self.queue.go_to_previous_position();
    }

    /// Answers a request: `len` bytes of its device-writable part were written.
    pub fn push(&mut self, head: u16, len: u32) -> Result<(), QueueError> {
        self.used_since_notify = true;
        self.queue.add_used(&*self.mem, head, len).map_err(QueueError::Ring)
    }

    /// Answers several requests at once: the driver sees all of them or none (a frame in several buffers).
    pub fn push_together(&mut self, answers: &[(u16, u32)]) -> Result<(), QueueError> {
        let Some((&(head, len), before)) = answers.split_last() else { return Ok(()) };
        // The ring's entries first; the last `push` stores the index, once.
        let mut next = self.queue.next_used();
        for &(head, len) in before {
            let slot = u64::from(next % self.queue.size());
            let at = GuestAddress(self.queue.used_ring()).checked_add(4 + 8 * slot);
            let at = at.ok_or(QueueError::Ring(virtio_queue::Error::AddressOverflow))?;
            // `struct virtq_used_elem`: index and length, four bytes each.
            let written = self.mem.write_obj((u64::from(head) | u64::from(len) << 32).to_le(), at);
            written.map_err(|e| QueueError::Ring(virtio_queue::Error::GuestMemory(e)))?;
            next = next.wrapping_add(1);
        }
        self.queue.set_next_used(next);
        // Whether the driver waits for one of these is not asked; one interrupt too many does no harm.
        self.notify_always |= !before.is_empty();
        self.push(head, len)
    }

    /// Notifies the driver of what was pushed since the last call, unless it has asked not to be.
    pub fn notify(&mut self) -> Result<(), QueueError> {
        let always = std::mem::take(&mut self.notify_always);
        if std::mem::take(&mut self.used_since_notify) && (self.wants_interrupt()? || always) {
            self.interrupt.signal_used();
        }
        Ok(())
    }

    fn wants_interrupt(&mut self) -> Result<bool, QueueError> {
        // Without EVENT_IDX the driver suppresses by a flag, which `virtio-queue` does not look at. The fence in
        // `needs_notification` orders the used index before this load.
        let wanted = self.queue.needs_notification(&*self.mem).map_err(QueueError::Ring)?;
        if self.queue.event_idx_enabled() {
            return Ok(wanted);
        }
        let flags: u16 = self
            .mem
            .load(GuestAddress(self.queue.avail_ring()), Ordering::Relaxed)
            .map_err(|e| QueueError::Ring(virtio_queue::Error::GuestMemory(e)))?;
        Ok(u32::from(u16::from_le(flags)) & VRING_AVAIL_F_NO_INTERRUPT == 0)
    }

    /// Asks the driver not to kick while the device looks at the queue anyhow; undone by the [`Virtqueue::pop`]
    /// that finds it empty.
    pub fn disable_kicks(&mut self) -> Result<(), QueueError> {
        self.queue.disable_notification(&*self.mem).map_err(QueueError::Ring)
    }

    /// How far the queue has come.
    pub fn position(&self) -> QueuePosition {
        QueuePosition { next_avail: self.queue.next_avail(), next_used: self.queue.next_used() }
    }
}
