//! The device.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::TAG;
use super::frontend::{Ring, hand_over};
use super::metrics::FsMetrics;
use crate::GuestRam;
use crate::virtio::device::read_config_from;
use crate::virtio::queue::{QueueConfig, QueuePosition};
use crate::virtio::{ActivateError, Activation, Interrupt, VirtioDevice, features};

/// `VIRTIO_ID_FS`.
const DEVICE_ID: u32 = 26;
/// The hiprio queue and one request queue.
const QUEUE_SIZES: [u16; 2] = [64, 256];

/// What the driver has made, until the event loop hands it over.
struct Driver {
    features: u64,
    memory: GuestRam,
    queues: Vec<QueueConfig>,
    interrupt: Arc<Interrupt>,
}

/// The virtio-fs device.
pub struct Fs {
    kicks: [EventFd; 2],
    /// Written when there is something to hand over.
    pub(super) ready: EventFd,
    /// To the gofer, until it or the driver has gone.
    pub(super) socket: Option<UnixStream>,
    driver: Option<Driver>,
    handed_over: bool,
    /// The driver has reset a device that it had started.
    abandoned: bool,
    pub(super) metrics: Arc<FsMetrics>,
}

impl Fs {
    /// A device whose requests the process at the other end of `socket` serves.
    pub fn new(socket: UnixStream) -> io::Result<Self> {
        let event = || EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC);
        Ok(Self {
            kicks: [event()?, event()?],
            ready: event()?,
            socket: Some(socket),
            driver: None,
            handed_over: false,
            abandoned: false,
            metrics: Arc::default(),
        })
    }

    /// Counters.
    pub fn metrics(&self) -> Arc<FsMetrics> {
        self.metrics.clone()
    }

    /// On the event loop, after the driver has become ready or has left.
    pub(crate) fn introduce(&mut self) {
        if self.abandoned {
            // The gofer ends when its socket does.
            return self.lose();
        }
        let (Some(driver), Some(socket), false) = (&self.driver, &self.socket, self.handed_over) else {
            return;
        };
        let queues = (0u16..).zip(&driver.queues).zip(&self.kicks);
        let rings: Vec<_> =
            queues.map(|((index, config), kick)| Ring { index, config: *config, kick }).collect();
        let sent = hand_over(socket, driver.features, &driver.memory, &rings, driver.interrupt.irq());
        self.handed_over = true;
        match sent {
            Ok(()) => self.metrics.handovers.inc(),
            Err(_) => self.lose(),
        }
    }

    /// The gofer is gone: there will be no more answers.
    pub(crate) fn lose(&mut self) {
        if self.socket.take().is_some() {
            self.metrics.lost.inc();
        }
        if let Some(driver) = &self.driver {
            driver.interrupt.signal_needs_reset();
        }
    }
}

impl VirtioDevice for Fs {
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
        // The tag, zero-padded to 36 bytes, and the number of request queues.
        let mut config = [0; 40];
        config[..TAG.len()].copy_from_slice(TAG.as_bytes());
        config[36] = 1;
        read_config_from(&config, offset, data);
    }

    fn activate(&mut self, mut activation: Activation) -> Result<(), ActivateError> {
        if self.socket.is_none() || self.handed_over || self.abandoned {
            return Err(io::Error::from(io::ErrorKind::NotConnected).into());
        }
        let (hiprio, requests) = (activation.take_queue(0)?, activation.take_queue(1)?);
        // The gofer raises the interrupt without a word to us: whoever asks why has to look at the queues.
        activation.interrupt.always_used();
        self.driver = Some(Driver {
            features: activation.features,
            memory: requests.shared_memory(),
            queues: vec![hiprio.config(), requests.config()],
            interrupt: activation.interrupt,
        });
        // An eventfd that is full has been written.
        let _ = self.ready.write(1);
        Ok(())
    }

    fn reset(&mut self) {
        if self.driver.take().is_some() {
            self.abandoned = true;
            // As in `activate`.
            let _ = self.ready.write(1);
        }
    }

    fn queue_positions(&self) -> Vec<Option<QueuePosition>> {
        vec![None; QUEUE_SIZES.len()]
    }
}
