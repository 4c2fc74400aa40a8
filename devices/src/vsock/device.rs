//! The queues: packets in and out of guest memory.
//!
//! One pass of the event loop moves a bounded number of packets each way and then kicks itself, so that a busy
//! guest cannot keep the loop from other devices.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::endpoint::Endpoint;
use super::metrics::VsockMetrics;
use super::muxer::{Listener, Muxer};
use super::packet::{HEADER_SIZE, Header};
use super::{MAX_PAYLOAD, VsockState};
use crate::virtio::device::read_config_from;
use crate::virtio::queue::QueuePosition;
use crate::virtio::{
    ActivateError, Activation, ChainError, Interrupt, QueueError, VirtioDevice, Virtqueue, features,
};

/// `VIRTIO_ID_VSOCK`.
const DEVICE_ID: u32 = 19;
pub(super) const RX: usize = 0;
pub(super) const TX: usize = 1;
pub(super) const EVENT: usize = 2;
const QUEUE_SIZES: [u16; 3] = [256, 256, 16];
/// `VIRTIO_VSOCK_EVENT_TRANSPORT_RESET`.
const EVENT_TRANSPORT_RESET: u32 = 0;
/// Most packets one pass moves in one direction.
const PASS_BUDGET: usize = 256;

struct Active {
    rx: Virtqueue,
    tx: Virtqueue,
    event: Option<Virtqueue>,
    interrupt: Arc<Interrupt>,
}

/// How [`Vsock::drain`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// Every byte the guest sent was taken by its descriptor (or its reader is gone).
    Complete,
    /// The deadline came first; so many bytes were dropped.
    TimedOut {
        /// Bytes not taken.
        lost: usize,
    },
}

/// The virtio-vsock device with its muxer.
pub struct Vsock {
    pub(super) muxer: Muxer,
    pub(super) kicks: [EventFd; 3],
    /// Written by ourselves when a pass ended with work left.
    pub(super) again: EventFd,
    active: Option<Active>,
    /// The driver has reset the device. Its streams are let go on the event loop: the vCPU thread that is told of
    /// the reset makes no system calls for them.
    was_reset: bool,
    /// After a restore the guest must be told that its connections are gone.
    pub(super) announce_reset: bool,
    scratch: Box<[u8]>,
    metrics: Arc<VsockMetrics>,
}

impl Vsock {
    /// A device for the guest with context id `guest_cid`.
    pub fn new(guest_cid: u64) -> io::Result<Self> {
        let eventfd = || EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC);
        let metrics = Arc::<VsockMetrics>::default();
        Ok(Self {
            muxer: Muxer::new(guest_cid, metrics.clone())?,
            kicks: [eventfd()?, eventfd()?, eventfd()?],
            again: eventfd()?,
            active: None,
            was_reset: false,
            announce_reset: false,
            scratch: vec![0; MAX_PAYLOAD].into_boxed_slice(),
            metrics,
        })
    }

    /// Connects `endpoint` to the next connection to `port`; then the port is closed again. A port that nobody
    /// listens on answers RST.
    pub fn listen(&mut self, port: u32, endpoint: Endpoint) {
        self.muxer.listen_once(port, endpoint);
    }

    /// Makes an endpoint for every connection to `port`.
    pub fn listen_with(&mut self, port: u32, listener: Listener) {
        self.muxer.listen(port, listener);
    }

    /// Closes a port; its connections stay.
    pub fn unlisten(&mut self, port: u32) {
        self.muxer.unlisten(port);
    }

    /// Why the descriptor behind `port` stopped taking the guest's bytes, if it was for another reason than
    /// that its reader went away: ENOSPC, for example.
    pub fn stream_error(&self, port: u32) -> Option<io::Error> {
        self.muxer.error(port)
    }

    /// Counters.
    pub fn metrics(&self) -> Arc<VsockMetrics> {
        self.metrics.clone()
    }

    /// Delivers every byte the guest has sent, waiting for slow readers until `deadline`, then closes all
    /// streams. For the end of a sandbox: the vCPUs must have stopped. Streams whose other end is in this
    /// process ([`Endpoint::socketpair`]) get what their socket takes at once and are not waited for.
    pub fn drain(&mut self, deadline: Option<Instant>) -> Drained {
        self.finish_reset();
        // What is in the TX queue is finite now; nobody waits for resets any more.
        while self.process_tx(usize::MAX) {
            self.muxer.forget_resets();
        }
        let result = loop {
            self.muxer.flush_all();
            let left = self.muxer.waiting_bytes();
            if left == 0 {
                break Drained::Complete;
            }
            let timeout = deadline.map(|d| d.saturating_duration_since(Instant::now()));
            if timeout.is_some_and(|t| t.is_zero()) {
                break Drained::TimedOut { lost: left };
            }
            let timeout = timeout.and_then(|t| Timespec::try_from(t).ok());
            let mut fds: Vec<_> =
                self.muxer.waiting_sinks().map(|s| PollFd::new(s, PollFlags::OUT)).collect();
            // An interruption or an error only means another try.
            let _ = poll(&mut fds, timeout.as_ref());
        };
        self.muxer.forget_all();
        self.active = None;
        result
    }

    /// Before anything of a newly started driver is looked at.
    fn finish_reset(&mut self) {
        if std::mem::take(&mut self.was_reset) {
            self.muxer.forget_all();
        }
    }

    /// Host descriptors have become ready.
    pub(crate) fn process_hosts(&mut self) {
        self.finish_reset();
        // If there are more events, the epoll still polls readable.
        self.muxer.poll_hosts();
    }

    /// One pass over the queues: the guest's packets, then packets for the guest.
    pub(crate) fn process_queues(&mut self) {
        self.finish_reset();
        let more_tx = self.process_tx(PASS_BUDGET);
        let more_rx = self.process_rx(PASS_BUDGET);
        // Resets that left in RX make room for packets that were held back in TX.
        let held_back = more_tx && self.muxer.accepts_packets();
        if held_back || more_rx {
            let _ = self.again.write(1);
        }
    }

    /// The guest's packets, at most `budget`. Returns whether some may be left.
    fn process_tx(&mut self, budget: usize) -> bool {
        let Some(active) = &mut self.active else { return false };
        let result = transmit(&mut active.tx, &mut self.muxer, &mut self.scratch, budget);
        self.check(result)
    }

    /// Packets for the guest, at most `budget`. Returns whether more could be sent at once.
    fn process_rx(&mut self, budget: usize) -> bool {
        let Some(active) = &mut self.active else { return false };
        let announced = match &mut active.event {
            Some(event) if self.announce_reset => announce_reset(event),
            _ => Ok(false),
        };
        if matches!(announced, Ok(true)) {
            self.announce_reset = false;
        }
        let result =
            announced.and_then(|_| receive(&mut active.rx, &mut self.muxer, &mut self.scratch, budget));
        self.check(result)
    }

    fn check(&mut self, result: Result<bool, QueueError>) -> bool {
        match result {
            Ok(more) => more,
            Err(_) => {
                self.metrics.protocol_errors.inc();
                if let Some(active) = self.active.take() {
                    active.interrupt.signal_needs_reset();
                }
                self.muxer.forget_all();
                false
            }
        }
    }

    /// State for a snapshot.
    pub fn save(&self) -> VsockState {
        VsockState { version: VsockState::VERSION, guest_cid: self.muxer.guest_cid() }
    }
}

/// Takes packets out of the TX queue.
fn transmit(
    queue: &mut Virtqueue,
    muxer: &mut Muxer,
    scratch: &mut [u8],
    budget: usize,
) -> Result<bool, QueueError> {
    queue.disable_kicks()?;
    let mut done = 0;
    let more = loop {
        if done == budget || !muxer.accepts_packets() {
            break true;
        }
        let Some(chain) = queue.pop()? else { break false };
        let mut reader = chain.reader(queue.memory());
        let mut header = [0; HEADER_SIZE];
        reader.read_exact(&mut header)?;
        let header = Header::decode(&header);
        // CVE-2019-18960: the length is the guest's claim, the chain is what there is.
        let payload = scratch.get_mut(..header.len as usize).ok_or(ChainError::TooLong)?;
        reader.read_exact(payload)?;
        queue.push(chain.head(), 0)?;
        muxer.receive(&header, payload);
        done += 1;
    };
    queue.notify()?;
    Ok(more)
}

/// Fills buffers of the RX queue.
fn receive(
    queue: &mut Virtqueue,
    muxer: &mut Muxer,
    scratch: &mut [u8],
    budget: usize,
) -> Result<bool, QueueError> {
    queue.disable_kicks()?;
    let mut done = 0;
    let more = loop {
        if !muxer.has_packets() {
            break false;
        }
        if done == budget {
            break true;
        }
        // No buffer: its kick will call again.
        let Some(chain) = queue.pop()? else { break false };
        let mut writer = chain.writer(queue.memory());
        let room = writer.remaining().checked_sub(HEADER_SIZE).ok_or(ChainError::TooShort)?;
        let room = room.min(scratch.len());
        let Some(header) = muxer.next_packet(&mut scratch[..room]) else {
            queue.unpop();
            break false;
        };
        writer.write_all(&header.encode())?;
        writer.write_all(&scratch[..header.len as usize])?;
        queue.push(chain.head(), writer.written())?;
        done += 1;
    };
    queue.notify()?;
    Ok(more)
}

/// Tells the guest that the host has forgotten its connections. Returns whether there was a buffer for it.
fn announce_reset(queue: &mut Virtqueue) -> Result<bool, QueueError> {
    let Some(chain) = queue.pop()? else { return Ok(false) };
    let mut writer = chain.writer(queue.memory());
    writer.write_all(&EVENT_TRANSPORT_RESET.to_le_bytes())?;
    queue.push(chain.head(), writer.written())?;
    queue.notify()?;
    Ok(true)
}

impl VirtioDevice for Vsock {
    fn device_id(&self) -> u32 {
        DEVICE_ID
    }

    fn features(&self) -> u64 {
        features::RING_EVENT_IDX
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn queue_eventfds(&self) -> &[EventFd] {
        &self.kicks
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_from(&self.muxer.guest_cid().to_le_bytes(), offset, data);
    }

    fn activate(&mut self, mut activation: Activation) -> Result<(), ActivateError> {
        self.active = Some(Active {
            rx: activation.take_queue(RX)?,
            tx: activation.take_queue(TX)?,
            event: activation.take_optional_queue(EVENT),
            interrupt: activation.interrupt,
        });
        Ok(())
    }

    fn reset(&mut self) {
        self.active = None;
        self.was_reset = true;
        let _ = self.again.write(1);
    }

    fn queue_positions(&self) -> Vec<Option<QueuePosition>> {
        match &self.active {
            None => vec![None; QUEUE_SIZES.len()],
            Some(a) => {
                vec![Some(a.rx.position()), Some(a.tx.position()), a.event.as_ref().map(Virtqueue::position)]
            }
        }
    }
}
