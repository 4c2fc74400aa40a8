//! virtio-fs (virtio 1.2, section 5.11): requests about files of the host, to whoever serves them.
//!
//! What goes through are FUSE messages, which [`crate::fs::fuse`] makes and reads. A request is a chain of a header and names, copied
//! into a *slot* of device memory; frames with data; then device-writable room for the answer's head, in the slot, and
//! frames for its data. Frames are given to the device as they are: a page that is read comes straight into the page cache.
//!
//! A task waits for its answer without a time-out, but may be killed: then it leaves, and slot and frames stay with the device
//! until the answer comes. So nothing the device may write to is ever used for something else.
//!
//! A device that says DEVICE_NEEDS_RESET has lost its server. Every request, also those under way, is then `ENOTCONN`, and the
//! slots of those under way are given up.
//!
//! The interrupt handler reads no register (each would be an exit): it looks at the queue, and only an interrupt
//! without an answer makes it ask whether the device still lives.

use alloc::{sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicBool, Ordering};

use ringfence_hal as hal;
use ringfence_hal::{Frame, dma::DmaBuffer};

use super::{
    InterruptHandler,
    virtio::{Buffer, Error, Transport, VirtQueue, features},
};
use crate::{
    errno::{Errno, Result},
    sched,
    sync::{Interruptible, PollEvents, Queue, SpinLock, WaitQueue, wait_event},
};

/// The request queue; queue 0 would be for what must not wait behind requests, which nothing of ours has to.
const REQUESTS: u16 = 1;
const QUEUE_SIZE: u16 = 256;
/// Requests under way at a time.
const SLOTS: usize = 16;
/// Bytes of a slot for what is sent, and for the head of the answer.
pub const SEND: usize = 8192;
/// The same for the head of the answer.
pub const RECEIVE: usize = 256;
const SLOT: usize = SEND + RECEIVE;
/// Frames of one request, either way.
pub const MAX_FRAMES: usize = 32;
const PAGE: usize = hal::PAGE_SIZE;

/// What is done with a slot.
enum Slot {
    Free,
    /// With the device; the frames are kept because it may read or write them.
    Busy {
        head: u16,
        _frames: Vec<Frame>,
        awaited: bool,
    },
    /// Answered; this many bytes were written.
    Done(u32),
}

struct Inner {
    queue: VirtQueue,
    memory: DmaBuffer,
    slots: [Slot; SLOTS],
}

/// The device.
pub struct Fs {
    transport: Transport,
    inner: SpinLock<Inner>,
    /// Woken when an answer has come, and when a slot is free.
    changed: Queue,
    gone: AtomicBool,
}

/// One request: parts that are copied, frames with data, and frames for data.
pub struct Request<'a> {
    /// Header and arguments, [`SEND`] bytes at most in all.
    pub parts: &'a [&'a [u8]],
    /// Data to send: frames, and the range of all of their bytes.
    pub send: (&'a [Frame], core::ops::Range<usize>),
    /// Bytes of the answer's head.
    pub head: usize,
    /// Frames for data of the answer.
    pub receive: &'a [Frame],
}

impl Fs {
    /// Starts the driver.
    pub fn start(transport: Transport) -> core::result::Result<Arc<Fs>, Error> {
        let agreed = transport.negotiate(0, features::RING_EVENT_IDX)?;
        // The device wants both; what nothing is put into costs a page.
        core::mem::forget(transport.queue(0, 2, agreed)?);
        let mut queue = transport.queue(REQUESTS, QUEUE_SIZE, agreed)?;
        queue.enable_interrupts();
        let memory = DmaBuffer::alloc(SLOTS * SLOT).map_err(|_| Error::OutOfMemory)?;
        let gsi = transport.gsi;
        let inner = SpinLock::new(Inner { queue, memory, slots: [const { Slot::Free }; SLOTS] });
        let fs = Arc::new(Fs { transport, inner, changed: WaitQueue::new(), gone: AtomicBool::new(false) });
        super::register(gsi, fs.clone());
        fs.transport.start();
        Ok(fs)
    }

    /// Whether there is nobody who answers any more.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Sends a request that has no answer, if there is room for it. Does not sleep.
    pub fn post(&self, parts: &[&[u8]]) -> bool {
        let request = Request { parts, send: (&[], 0..0), head: 0, receive: &[] };
        matches!(self.submit(&request, false), Ok(Some(_)))
    }

    /// Sends a request and waits; puts the head of the answer into `head` and says how many bytes were written in all.
    ///
    /// # Errors
    /// ENOTCONN if there is nobody to answer, EINTR if the task is being killed.
    pub fn call(&self, request: &Request<'_>, head: &mut [u8]) -> Result {
        sched::with_current(|task| {
            let task = task.ok_or(Errno::EIO)?;
            let submit = || self.submit(request, true).transpose();
            let wait = Interruptible::Killable;
            let interrupted = |_| Errno::EINTR;
            let slot = wait_event(task, &self.changed, wait, None, submit).map_err(interrupted)??;
            let answer = || self.take(slot, head).transpose();
            match wait_event(task, &self.changed, wait, None, answer) {
                Ok(written) => written,
                Err(_) => {
                    self.abandon(slot);
                    Err(Errno::EINTR)
                }
            }
        })
    }

    /// Gives a request to the device; the number of its slot, or `None` if all are in use.
    fn submit(&self, request: &Request<'_>, awaited: bool) -> Result<Option<usize>> {
        if self.is_gone() {
            return Err(Errno::ENOTCONN);
        }
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let Some(slot) = inner.slots.iter().position(|slot| matches!(slot, Slot::Free)) else {
            return Ok(None);
        };
        let base = slot * SLOT;
        let mut sent = 0;
        for part in request.parts {
            if part.len() > SEND - sent {
                return Err(Errno::EINVAL);
            }
            inner.memory.write(base + sent, part);
            sent += part.len();
        }
        let phys = inner.memory.phys() + base as u64;
        let mut buffers: Vec<Buffer> = Vec::with_capacity(MAX_FRAMES + 2);
        buffers.push(Buffer { phys, len: sent as u32, writable: false });
        let (frames, range) = &request.send;
        for (n, frame) in frames.iter().enumerate() {
            let (from, to) = (range.start.max(n * PAGE), range.end.min((n + 1) * PAGE));
            if from < to {
                let phys = frame.pfn() * PAGE as u64 + (from % PAGE) as u64;
                buffers.push(Buffer { phys, len: (to - from) as u32, writable: false });
            }
        }
        if request.head > 0 {
            let len = request.head.min(RECEIVE) as u32;
            buffers.push(Buffer { phys: phys + SEND as u64, len, writable: true });
        }
        for frame in request.receive {
            buffers.push(Buffer { phys: frame.pfn() * PAGE as u64, len: PAGE as u32, writable: true });
        }
        let Some(head) = inner.queue.push(&buffers) else { return Ok(None) };
        let _frames = frames.iter().chain(request.receive).cloned().collect();
        if let Some(slot) = inner.slots.get_mut(slot) {
            *slot = Slot::Busy { head, _frames, awaited };
        }
        if inner.queue.needs_notify() {
            self.transport.notify(&inner.queue);
        }
        Ok(Some(slot))
    }

    /// The answer in `slot`, if it is there, which frees the slot.
    fn take(&self, slot: usize, head: &mut [u8]) -> Result<Option<usize>> {
        let written = {
            let mut inner = self.inner.lock();
            inner.collect();
            match inner.slots.get_mut(slot) {
                Some(state @ Slot::Done(_)) => {
                    let Slot::Done(written) = core::mem::replace(state, Slot::Free) else { return Ok(None) };
                    inner.memory.read(slot * SLOT + SEND, head);
                    written as usize
                }
                _ if self.is_gone() => return Err(Errno::ENOTCONN),
                _ => return Ok(None),
            }
        };
        self.changed.wake_all(PollEvents::empty());
        Ok(Some(written))
    }

    /// Nobody waits for the answer in `slot` any more.
    fn abandon(&self, slot: usize) {
        let mut inner = self.inner.lock();
        match inner.slots.get_mut(slot) {
            Some(Slot::Busy { awaited, .. }) => *awaited = false,
            Some(done) => *done = Slot::Free,
            None => {}
        }
    }
}

impl Inner {
    /// Takes what the device has answered; whether there was something.
    fn collect(&mut self) -> bool {
        let mut any = false;
        loop {
            while let Some((done, written)) = self.queue.pop() {
                any = true;
                let slot =
                    self.slots.iter_mut().find(|s| matches!(s, Slot::Busy { head, .. } if *head == done));
                if let Some(slot) = slot {
                    let awaited = matches!(slot, Slot::Busy { awaited: true, .. });
                    *slot = if awaited { Slot::Done(written) } else { Slot::Free };
                }
            }
            if !self.queue.enable_interrupts() {
                return any;
            }
        }
    }
}

impl InterruptHandler for Fs {
    fn interrupt(&self) {
        let answered = {
            let mut inner = self.inner.lock();
            let done = |slot: &Slot| matches!(slot, Slot::Done(_));
            inner.collect() || inner.slots.iter().any(done)
        };
        if !answered && self.transport.needs_reset() {
            self.gone.store(true, Ordering::Release);
        }
        self.changed.wake_all(PollEvents::empty());
    }
}
