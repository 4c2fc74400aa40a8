//! The device: where the region is, and flush requests.

use std::io;
use std::sync::Arc;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::metrics::PmemMetrics;
use crate::virtio::device::read_config_from;
use crate::virtio::queue::QueuePosition;
use crate::virtio::{ActivateError, Activation, ChainError, Interrupt, QueueError, VirtioDevice, Virtqueue};
use crate::virtio::{Chain, features};

/// `VIRTIO_ID_PMEM`.
const DEVICE_ID: u32 = 27;
const QUEUE_SIZES: [u16; 1] = [64];
/// `VIRTIO_PMEM_REQ_TYPE_FLUSH`.
const REQ_FLUSH: u32 = 0;
/// The answers: a 32-bit return value, 0 or not.
const RESP_OK: u32 = 0;
const RESP_ERROR: u32 = 1;

#[derive(Debug)]
struct Active {
    requests: Virtqueue,
    interrupt: Arc<Interrupt>,
}

/// The virtio-pmem device.
#[derive(Debug)]
pub struct Pmem {
    pub(super) start: u64,
    pub(super) size: u64,
    kicks: [EventFd; 1],
    active: Option<Active>,
    pub(super) metrics: Arc<PmemMetrics>,
}

impl Pmem {
    /// A device that announces the region at guest physical address `start`, `size` bytes long. Both should be
    /// multiples of [`super::REGION_ALIGN`].
    pub fn new(start: u64, size: u64) -> io::Result<Self> {
        let kicks = [EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?];
        Ok(Self { start, size, kicks, active: None, metrics: Arc::default() })
    }

    /// Counters.
    pub fn metrics(&self) -> Arc<PmemMetrics> {
        self.metrics.clone()
    }

    pub(super) fn kick(&self) -> &EventFd {
        &self.kicks[0]
    }

    /// Answers everything in the request queue.
    pub(crate) fn process_requests(&mut self) {
        let Some(active) = &mut self.active else { return };
        match serve(&mut active.requests, &self.metrics) {
            Ok(false) => {}
            // The rest after the other devices had their turn.
            Ok(true) => drop(self.kicks[0].write(1)),
            Err(_) => {
                self.metrics.protocol_errors.inc();
                active.interrupt.signal_needs_reset();
                self.active = None;
            }
        }
    }
}

/// At most one queue's worth of requests. Returns whether some may be left.
fn serve(queue: &mut Virtqueue, metrics: &PmemMetrics) -> Result<bool, QueueError> {
    let mut more = true;
    for _ in 0..queue.size() {
        let Some(chain) = queue.pop()? else {
            more = false;
            break;
        };
        let written = answer(queue, &chain, metrics)?;
        queue.push(chain.head(), written)?;
    }
    queue.notify()?;
    Ok(more)
}

fn answer(queue: &Virtqueue, chain: &Chain, metrics: &PmemMetrics) -> Result<u32, ChainError> {
    let mut request = [0; 4];
    chain.reader(queue.memory()).read_exact(&mut request)?;
    let response = if u32::from_le_bytes(request) == REQ_FLUSH {
        metrics.flushes.inc();
        RESP_OK
    } else {
        RESP_ERROR
    };
    let mut writer = chain.writer(queue.memory());
    writer.write_all(&response.to_le_bytes())?;
    Ok(writer.written())
}

impl VirtioDevice for Pmem {
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
        let mut config = [0; 16];
        config[..8].copy_from_slice(&self.start.to_le_bytes());
        config[8..].copy_from_slice(&self.size.to_le_bytes());
        read_config_from(&config, offset, data);
    }

    fn activate(&mut self, mut activation: Activation) -> Result<(), ActivateError> {
        // A driver that only wants to know where the region is need not set up the flush queue.
        self.active = activation
            .take_optional_queue(0)
            .map(|requests| Active { requests, interrupt: activation.interrupt });
        Ok(())
    }

    fn reset(&mut self) {
        self.active = None;
    }

    fn queue_positions(&self) -> Vec<Option<QueuePosition>> {
        vec![self.active.as_ref().map(|a| a.requests.position())]
    }
}
