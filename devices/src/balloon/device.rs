//! The device.

use std::io;
use std::sync::Arc;

use vm_memory::{Address, GuestAddress};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::metrics::BalloonMetrics;
use super::release::release;
use super::{MAX_PFNS, PAGE_SIZE, PASS_BYTES};
use crate::virtio::device::read_config_from;
use crate::virtio::queue::QueuePosition;
use crate::virtio::{
    ActivateError, Activation, Chain, Interrupt, QueueError, VirtioDevice, Virtqueue, features,
};

/// `VIRTIO_ID_BALLOON`.
const DEVICE_ID: u32 = 5;
/// `VIRTIO_BALLOON_F_DEFLATE_ON_OOM`: the guest may take pages back when it needs them.
const F_DEFLATE_ON_OOM: u64 = 1 << 2;
/// `VIRTIO_BALLOON_F_REPORTING`.
const F_REPORTING: u64 = 1 << 5;

pub(super) const INFLATE: usize = 0;
pub(super) const DEFLATE: usize = 1;
pub(super) const REPORTING: usize = 2;
/// Linux wants at least 32 descriptors in the reporting queue.
const QUEUE_SIZES: [u16; 3] = [128, 128, 128];

struct Active {
    queues: [Option<Virtqueue>; 3],
    interrupt: Arc<Interrupt>,
}

/// The virtio-balloon device.
pub struct Balloon {
    pub(super) kicks: [EventFd; 3],
    /// `num_pages`: what the host asks for.
    pub(super) target: u32,
    /// `actual`: what the guest says it has given; informational.
    pub(super) actual: u32,
    active: Option<Active>,
    metrics: Arc<BalloonMetrics>,
}

impl Balloon {
    /// A deflated balloon.
    pub fn new() -> io::Result<Self> {
        let eventfd = || EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC);
        Ok(Self {
            kicks: [eventfd()?, eventfd()?, eventfd()?],
            target: 0,
            actual: 0,
            active: None,
            metrics: Arc::default(),
        })
    }

    /// Asks the guest to give up `pages` pages of 4 KiB in total.
    pub fn set_target(&mut self, pages: u32) {
        self.target = pages;
        if let Some(active) = &self.active {
            active.interrupt.signal_config();
        }
    }

    /// Pages the guest was asked for.
    pub fn target(&self) -> u32 {
        self.target
    }

    /// Pages the guest says it has given up.
    pub fn actual(&self) -> u32 {
        self.actual
    }

    /// Counters.
    pub fn metrics(&self) -> Arc<BalloonMetrics> {
        self.metrics.clone()
    }

    /// Serves at most one queue's worth of requests of queue `index`. Returns whether some may be left.
    pub(crate) fn process_queue(&mut self, index: usize) -> bool {
        let Some(active) = &mut self.active else { return false };
        let Some(queue) = active.queues.get_mut(index).and_then(Option::as_mut) else { return false };
        match serve(queue, index, &self.metrics) {
            Ok(more) => more,
            Err(_) => {
                self.metrics.protocol_errors.inc();
                active.interrupt.signal_needs_reset();
                self.active = None;
                false
            }
        }
    }
}

fn serve(queue: &mut Virtqueue, index: usize, metrics: &BalloonMetrics) -> Result<bool, QueueError> {
    let mut more = true;
    let mut bytes = 0;
    for _ in 0..queue.size() {
        let Some(chain) = queue.pop()? else {
            more = false;
            break;
        };
        bytes += match index {
            INFLATE => inflate(queue, &chain, metrics)?,
            REPORTING => report(queue, &chain, metrics),
            // A deflated page comes back by being touched: nothing to do.
            _ => 0,
        };
        queue.push(chain.head(), 0)?;
        if bytes >= PASS_BYTES {
            break;
        }
    }
    queue.notify()?;
    Ok(more)
}

/// Reported blocks: the chain parser has found every range to be guest RAM. Returns the bytes released.
fn report(queue: &Virtqueue, chain: &Chain, metrics: &BalloonMetrics) -> u64 {
    chain.writable_ranges().map(|(addr, len)| released(queue, addr, u64::from(len), metrics)).sum()
}

/// Page frame numbers; neighbours are released together. Returns the bytes released.
fn inflate(queue: &Virtqueue, chain: &Chain, metrics: &BalloonMetrics) -> Result<u64, QueueError> {
    let mut reader = chain.reader(queue.memory());
    let mut bytes = 0;
    let mut run = (GuestAddress(0), 0);
    for _ in 0..MAX_PFNS.min(reader.remaining() / 4) {
        let mut pfn = [0; 4];
        reader.read_exact(&mut pfn)?;
        let addr = u64::from(u32::from_le_bytes(pfn)) * PAGE_SIZE;
        // Neither sum can wrap: a page frame number has 32 bits.
        if run.0.raw_value() + run.1 != addr {
            bytes += released(queue, run.0, run.1, metrics);
            run = (GuestAddress(addr), 0);
        }
        run.1 += PAGE_SIZE;
    }
    Ok(bytes + released(queue, run.0, run.1, metrics))
}

fn released(queue: &Virtqueue, addr: GuestAddress, len: u64, metrics: &BalloonMetrics) -> u64 {
    match release(queue.memory(), addr, len) {
        Ok(bytes) => {
            metrics.released_bytes.add(bytes);
            bytes
        }
        // A wrong range is the guest's loss; memory the host did not take back is only a lost saving.
        Err(_) => {
            metrics.refused_ranges.inc();
            0
        }
    }
}

impl VirtioDevice for Balloon {
    fn device_id(&self) -> u32 {
        DEVICE_ID
    }

    fn features(&self) -> u64 {
        features::RING_EVENT_IDX | F_DEFLATE_ON_OOM | F_REPORTING
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn queue_eventfds(&self) -> &[EventFd] {
        &self.kicks
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mut config = [0; 16];
        config[..4].copy_from_slice(&self.target.to_le_bytes());
        config[4..8].copy_from_slice(&self.actual.to_le_bytes());
        read_config_from(&config, offset, data);
    }

    /// `actual` is the only field a driver writes.
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        if let (4, Ok(value)) = (offset, data.try_into()) {
            self.actual = u32::from_le_bytes(value);
        }
    }

    fn activate(&mut self, mut activation: Activation) -> Result<(), ActivateError> {
        // A driver may leave out the queues it does not use, ours has only reporting.
        let queues = [INFLATE, DEFLATE, REPORTING].map(|i| activation.take_optional_queue(i));
        self.active = Some(Active { queues, interrupt: activation.interrupt });
        Ok(())
    }

    fn reset(&mut self) {
        self.active = None;
        self.actual = 0;
    }

    fn queue_positions(&self) -> Vec<Option<QueuePosition>> {
        match &self.active {
            None => vec![None; QUEUE_SIZES.len()],
            Some(active) => active.queues.iter().map(|q| q.as_ref().map(Virtqueue::position)).collect(),
        }
    }
}
