//! The device.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use rustix::rand::{GetRandomFlags, getrandom};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};
use vmm_sys_util::timerfd::TimerFd;

use super::metrics::RngMetrics;
use super::{BYTES_PER_SECOND, MAX_REQUEST, burst};
use crate::rate_limiter::TokenBucket;
use crate::virtio::queue::QueuePosition;
use crate::virtio::{ActivateError, Activation, Interrupt, QueueError, VirtioDevice, Virtqueue, features};

/// `VIRTIO_ID_RNG`.
const DEVICE_ID: u32 = 4;
const QUEUE_SIZES: [u16; 1] = [64];

#[derive(Debug)]
struct Active {
    requests: Virtqueue,
    interrupt: Arc<Interrupt>,
}

/// The virtio-rng device.
pub struct Rng {
    kicks: [EventFd; 1],
    pub(super) refill: TimerFd,
    bucket: TokenBucket,
    active: Option<Active>,
    pub(super) metrics: Arc<RngMetrics>,
}

impl Rng {
    /// A device with the limits of this module.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            kicks: [EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?],
            refill: TimerFd::new().map_err(io::Error::from)?,
            bucket: bucket(BYTES_PER_SECOND),
            active: None,
            metrics: Arc::default(),
        })
    }

    /// Delivers at most so many bytes a second from now on; not 0.
    pub fn set_bandwidth(&mut self, bytes_per_second: u64) {
        self.bucket = bucket(bytes_per_second);
        // What waits for the old one's timer may not have to any more.
        let _ = self.kicks[0].write(1);
    }

    /// Counters.
    pub fn metrics(&self) -> Arc<RngMetrics> {
        self.metrics.clone()
    }

    pub(super) fn kick(&self) -> &EventFd {
        &self.kicks[0]
    }

    /// Serves at most one queue's worth of requests.
    pub(crate) fn process_requests(&mut self) {
        let Some(active) = &mut self.active else { return };
        match serve(&mut active.requests, &mut self.bucket, &mut self.refill, &self.metrics) {
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

fn bucket(bytes_per_second: u64) -> TokenBucket {
    TokenBucket::new(burst(bytes_per_second), bytes_per_second, Instant::now())
}

fn serve(
    queue: &mut Virtqueue,
    bucket: &mut TokenBucket,
    refill: &mut TimerFd,
    metrics: &RngMetrics,
) -> Result<bool, QueueError> {
    let mut buf = [0; MAX_REQUEST];
    let mut more = true;
    for _ in 0..queue.size() {
        let Some(chain) = queue.pop()? else {
            more = false;
            break;
        };
        let want = chain.writer(queue.memory()).remaining().min(MAX_REQUEST);
        if let Err(wait) = bucket.take(want as u64, Instant::now()) {
            metrics.throttled.inc();
            queue.unpop();
            // A timer that cannot be set leaves the request to the next kick.
            let _ = refill.reset(wait, None);
            more = false;
            break;
        }
        let got = getrandom(&mut buf[..want], GetRandomFlags::empty()).unwrap_or(0);
        let mut writer = chain.writer(queue.memory());
        writer.write_all(&buf[..got])?;
        metrics.bytes.add(got as u64);
        queue.push(chain.head(), writer.written())?;
    }
    queue.notify()?;
    Ok(more)
}

impl VirtioDevice for Rng {
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

    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn activate(&mut self, mut activation: Activation) -> Result<(), ActivateError> {
        let requests = activation.take_queue(0)?;
        self.active = Some(Active { requests, interrupt: activation.interrupt });
        Ok(())
    }

    fn reset(&mut self) {
        self.active = None;
    }

    fn queue_positions(&self) -> Vec<Option<QueuePosition>> {
        vec![self.active.as_ref().map(|a| a.requests.position())]
    }
}
