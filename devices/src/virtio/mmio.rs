//! The virtio-mmio register file, version 2 (virtio 1.2, section 4.2.2).
//!
//! Rules that hold whatever the driver does:
//!
//! * Registers are 32 bits wide and aligned; any other access reads as zero and writes nothing. Only the
//!   configuration space takes 1 to 8 bytes.
//! * A queue can be configured only between FEATURES_OK and DRIVER_OK, and only while it is not ready. After
//!   DRIVER_OK the device owns a [`Virtqueue`] built from a copy: no register write reaches it (the lesson of
//!   Firecracker's CVE-2026-5747). Writing 0 to Status is the only way back.
//! * Features can be written only before FEATURES_OK, which is refused for a feature that was not offered and
//!   without VIRTIO_F_VERSION_1.
//!
//! A kick is a write to QueueNotify; KVM turns it into an eventfd write (register [`MmioTransport::queue_eventfds`]
//! as ioeventfds at [`QUEUE_NOTIFY`] with the index as datamatch). A kick that arrives here does the same.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::EventFd;

use super::device::{ActivateError, Activation, VirtioDevice};
use super::interrupt::Interrupt;
use super::queue::{QueueConfig, QueueError, QueuePosition, Virtqueue};
use super::{features, status};
use crate::GuestRam;
use crate::metrics::Counter;

/// Size of a device's MMIO window in bytes.
pub const WINDOW_SIZE: u64 = 0x1000;

/// Offset of QueueNotify.
pub const QUEUE_NOTIFY: u64 = 0x50;

/// Register offsets.
mod reg {
    pub const MAGIC_VALUE: u64 = 0x00;
    pub const VERSION: u64 = 0x04;
    pub const DEVICE_ID: u64 = 0x08;
    pub const VENDOR_ID: u64 = 0x0c;
    pub const DEVICE_FEATURES: u64 = 0x10;
    pub const DEVICE_FEATURES_SEL: u64 = 0x14;
    pub const DRIVER_FEATURES: u64 = 0x20;
    pub const DRIVER_FEATURES_SEL: u64 = 0x24;
    pub const QUEUE_SEL: u64 = 0x30;
    pub const QUEUE_NUM_MAX: u64 = 0x34;
    pub const QUEUE_NUM: u64 = 0x38;
    pub const QUEUE_READY: u64 = 0x44;
    pub const INTERRUPT_STATUS: u64 = 0x60;
    pub const INTERRUPT_ACK: u64 = 0x64;
    pub const STATUS: u64 = 0x70;
    pub const QUEUE_DESC_LOW: u64 = 0x80;
    pub const QUEUE_DESC_HIGH: u64 = 0x84;
    pub const QUEUE_DRIVER_LOW: u64 = 0x90;
    pub const QUEUE_DRIVER_HIGH: u64 = 0x94;
    pub const QUEUE_DEVICE_LOW: u64 = 0xa0;
    pub const QUEUE_DEVICE_HIGH: u64 = 0xa4;
    pub const SHM_SEL: u64 = 0xac;
    pub const SHM_LEN_LOW: u64 = 0xb0;
    pub const SHM_LEN_HIGH: u64 = 0xb4;
    pub const SHM_BASE_LOW: u64 = 0xb8;
    pub const SHM_BASE_HIGH: u64 = 0xbc;
    pub const CONFIG_GENERATION: u64 = 0xfc;
    pub const CONFIG: u64 = 0x100;
}

/// "virt", little-endian.
const MAGIC: u32 = 0x7472_6976;
/// "RgFc", little-endian: nobody checks it, people see it.
const VENDOR: u32 = 0x6346_6752;

/// Counters of one transport.
#[derive(Debug, Default, Serialize)]
pub struct MmioMetrics {
    /// Register and configuration reads that left the guest.
    pub reads: Counter,
    /// Register and configuration writes that left the guest.
    pub writes: Counter,
    /// Kicks that came as an exit instead of through an ioeventfd.
    pub slow_kicks: Counter,
    /// Writes the protocol forbids in the state the device was in.
    pub refused_writes: Counter,
    /// Times the device was reset.
    pub resets: Counter,
    /// Times the device was activated.
    pub activations: Counter,
}

/// A saved transport.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransportState {
    /// [`TransportState::VERSION`].
    pub version: u32,
    /// The status register.
    pub status: u32,
    /// The features the driver has written.
    pub driver_features: u64,
    /// The selector registers: device features, driver features, queue, shared memory.
    pub selectors: [u32; 4],
    /// InterruptStatus.
    pub interrupt_status: u32,
    /// ConfigGeneration.
    pub config_generation: u32,
    /// Queue registers.
    pub queues: Vec<QueueConfig>,
    /// Positions of running queues.
    pub positions: Vec<Option<QueuePosition>>,
}

impl TransportState {
    /// Version of this struct.
    pub const VERSION: u32 = 1;
}

/// Why a saved transport was refused.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Another version of the struct.
    #[error("saved device state has version {0}, this build reads version {1}")]
    Version(u32, u32),
    /// The state does not fit the device it is restored to.
    #[error("saved device state does not fit this device: {0}")]
    Mismatch(&'static str),
    /// A queue of the state is not valid.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The device did not start.
    #[error(transparent)]
    Activate(#[from] ActivateError),
}

/// One device's register file.
pub struct MmioTransport {
    mem: GuestRam,
    device: Arc<Mutex<dyn VirtioDevice>>,
    interrupt: Arc<Interrupt>,
    kicks: Vec<EventFd>,
    device_id: u32,
    offered: u64,
    max_sizes: Vec<u16>,
    status: u32,
    driver_features: u64,
    device_features_sel: u32,
    driver_features_sel: u32,
    queue_sel: u32,
    shm_sel: u32,
    queues: Vec<QueueConfig>,
    metrics: Arc<MmioMetrics>,
}

fn lock<'a>(device: &'a Mutex<dyn VirtioDevice + 'static>) -> MutexGuard<'a, dyn VirtioDevice + 'static> {
    // A panic while a device was locked leaves at worst that device in disorder; the VMM ends on panics anyhow.
    device.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MmioTransport {
    /// Puts `device` behind registers. `irq` is the eventfd registered as its irqfd.
    pub fn new(mem: GuestRam, device: Arc<Mutex<dyn VirtioDevice>>, irq: EventFd) -> io::Result<Self> {
        let (device_id, offered, max_sizes, kicks) = {
            let d = lock(&device);
            let kicks = d.queue_eventfds().iter().map(EventFd::try_clone).collect::<io::Result<Vec<_>>>()?;
            (d.device_id(), d.features() | features::VERSION_1, d.queue_max_sizes().to_vec(), kicks)
        };
        let mut transport = Self {
            mem,
            device,
            interrupt: Arc::new(Interrupt::new(irq)),
            kicks,
            device_id,
            offered,
            max_sizes,
            status: 0,
            driver_features: 0,
            device_features_sel: 0,
            driver_features_sel: 0,
            queue_sel: 0,
            shm_sel: 0,
            queues: Vec::new(),
            metrics: Arc::default(),
        };
        transport.clear_registers();
        Ok(transport)
    }

    /// Queue index and eventfd of each queue, for ioeventfds at [`QUEUE_NOTIFY`] with the index as datamatch.
    pub fn queue_eventfds(&self) -> impl Iterator<Item = (u16, &EventFd)> {
        (0u16..).zip(&self.kicks)
    }

    /// The device id behind the registers.
    pub fn device_id(&self) -> u32 {
        self.device_id
    }

    /// Counters.
    pub fn metrics(&self) -> Arc<MmioMetrics> {
        self.metrics.clone()
    }

    /// A read by the guest of `data.len()` bytes at `offset` of the window.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        self.metrics.reads.inc();
        data.fill(0);
        if offset >= reg::CONFIG {
            lock(&self.device).read_config(offset - reg::CONFIG, data);
        } else if let Ok(word) = <&mut [u8; 4]>::try_from(data) {
            *word = self.read_register(offset).to_le_bytes();
        }
    }

    /// A write by the guest of `data` at `offset` of the window.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        self.metrics.writes.inc();
        if offset >= reg::CONFIG {
            if self.status & status::DRIVER != 0 {
                lock(&self.device).write_config(offset - reg::CONFIG, data);
            }
        } else if let Ok(word) = <[u8; 4]>::try_from(data) {
            self.write_register(offset, u32::from_le_bytes(word));
        }
    }

    fn read_register(&self, offset: u64) -> u32 {
        let queue = self.queues.get(self.queue_sel as usize);
        match offset {
            reg::MAGIC_VALUE => MAGIC,
            reg::VERSION => 2,
            reg::DEVICE_ID => self.device_id,
            reg::VENDOR_ID => VENDOR,
            reg::DEVICE_FEATURES => half(self.offered, self.device_features_sel),
            reg::QUEUE_NUM_MAX => self.max_sizes.get(self.queue_sel as usize).copied().map_or(0, u32::from),
            reg::QUEUE_READY => queue.map_or(0, |q| u32::from(q.ready)),
            reg::INTERRUPT_STATUS => self.interrupt.status(),
            reg::STATUS => {
                let broken = if self.interrupt.needs_reset() { status::DEVICE_NEEDS_RESET } else { 0 };
                self.status | broken
            }
            reg::SHM_LEN_LOW => self.shared_memory().1 as u32,
            reg::SHM_LEN_HIGH => (self.shared_memory().1 >> 32) as u32,
            reg::SHM_BASE_LOW => self.shared_memory().0 as u32,
            reg::SHM_BASE_HIGH => (self.shared_memory().0 >> 32) as u32,
            reg::CONFIG_GENERATION => self.interrupt.generation(),
            _ => 0,
        }
    }

    /// Base and length of the selected shared memory region; all ones where there is none (section 4.2.2.1).
    fn shared_memory(&self) -> (u64, u64) {
        lock(&self.device).shared_memory(self.shm_sel).unwrap_or((u64::MAX, u64::MAX))
    }

    fn write_register(&mut self, offset: u64, value: u32) {
        match offset {
            reg::DEVICE_FEATURES_SEL => self.device_features_sel = value,
            reg::DRIVER_FEATURES_SEL => self.driver_features_sel = value,
            reg::QUEUE_SEL => self.queue_sel = value,
            reg::SHM_SEL => self.shm_sel = value,
            reg::DRIVER_FEATURES => self.write_features(value),
            QUEUE_NOTIFY => match self.kicks.get(value as usize) {
                Some(kick) => {
                    self.metrics.slow_kicks.inc();
                    let _ = kick.write(1);
                }
                None => self.metrics.refused_writes.inc(),
            },
            reg::INTERRUPT_ACK => self.interrupt.acknowledge(value),
            reg::STATUS => self.write_status(value),
            reg::QUEUE_NUM
            | reg::QUEUE_READY
            | reg::QUEUE_DESC_LOW
            | reg::QUEUE_DESC_HIGH
            | reg::QUEUE_DRIVER_LOW
            | reg::QUEUE_DRIVER_HIGH
            | reg::QUEUE_DEVICE_LOW
            | reg::QUEUE_DEVICE_HIGH => {
                if self.configure_queue(offset, value).is_none() {
                    self.metrics.refused_writes.inc();
                }
            }
            _ => self.metrics.refused_writes.inc(),
        }
    }

    fn write_features(&mut self, value: u32) {
        let negotiating =
            self.status & (status::DRIVER | status::FEATURES_OK | status::FAILED) == status::DRIVER;
        if !negotiating || self.driver_features_sel > 1 {
            return self.metrics.refused_writes.inc();
        }
        let shift = 32 * self.driver_features_sel;
        self.driver_features = (self.driver_features & !(0xffff_ffff << shift)) | (u64::from(value) << shift);
    }

    /// `None`: not now, or not this queue, or not this value.
    fn configure_queue(&mut self, offset: u64, value: u32) -> Option<()> {
        let configuring =
            self.status & (status::FEATURES_OK | status::DRIVER_OK | status::FAILED) == status::FEATURES_OK;
        if !configuring {
            return None;
        }
        let index = self.queue_sel as usize;
        let queue = self.queues.get_mut(index)?;
        if offset == reg::QUEUE_READY {
            queue.ready = value == 1;
            return Some(());
        }
        if queue.ready {
            return None;
        }
        match offset {
            reg::QUEUE_NUM => {
                let size = u16::try_from(value).ok()?;
                if !size.is_power_of_two() || size > *self.max_sizes.get(index)? {
                    return None;
                }
                queue.size = size;
            }
            reg::QUEUE_DESC_LOW => set_low(&mut queue.desc, value),
            reg::QUEUE_DESC_HIGH => set_high(&mut queue.desc, value),
            reg::QUEUE_DRIVER_LOW => set_low(&mut queue.avail, value),
            reg::QUEUE_DRIVER_HIGH => set_high(&mut queue.avail, value),
            reg::QUEUE_DEVICE_LOW => set_low(&mut queue.used, value),
            reg::QUEUE_DEVICE_HIGH => set_high(&mut queue.used, value),
            _ => return None,
        }
        Some(())
    }

    fn write_status(&mut self, value: u32) {
        if value == 0 {
            return self.reset();
        }
        if value & status::FAILED != 0 {
            self.status |= status::FAILED;
            return;
        }
        // A driver that adds a bit to what it has read writes DEVICE_NEEDS_RESET back.
        let value = value & !status::DEVICE_NEEDS_RESET;
        if value == self.status {
            return;
        }
        match status::step(self.status, value) {
            None => self.metrics.refused_writes.inc(),
            Some(status::Action::Keep) => self.status = value,
            Some(status::Action::CheckFeatures) => {
                let accepted = self.driver_features & !self.offered == 0
                    && self.driver_features & features::VERSION_1 != 0;
                if accepted {
                    self.status = value;
                } else {
                    self.metrics.refused_writes.inc();
                }
            }
            Some(status::Action::Activate) => {
                self.status = value;
                let none = vec![None; self.queues.len()];
                if self.activate(&none).is_err() {
                    self.interrupt.signal_needs_reset();
                }
            }
        }
    }

    fn activate(&mut self, positions: &[Option<QueuePosition>]) -> Result<(), RestoreError> {
        let event_idx = self.driver_features & features::RING_EVENT_IDX != 0;
        let mut queues = Vec::with_capacity(self.queues.len());
        for ((config, max), position) in self.queues.iter().zip(&self.max_sizes).zip(positions) {
            queues.push(if config.ready {
                let (mem, interrupt) = (self.mem.clone(), self.interrupt.clone());
                Some(Virtqueue::new(mem, interrupt, *max, config, event_idx, *position)?)
            } else {
                None
            });
        }
        let interrupt = self.interrupt.clone();
        lock(&self.device).activate(Activation { features: self.driver_features, queues, interrupt })?;
        self.metrics.activations.inc();
        // Buffers may have been made available before DRIVER_OK, and their kicks found no queue.
        for kick in &self.kicks {
            let _ = kick.write(1);
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.metrics.resets.inc();
        lock(&self.device).reset();
        self.interrupt.reset();
        self.clear_registers();
    }

    fn clear_registers(&mut self) {
        self.status = 0;
        self.driver_features = 0;
        self.device_features_sel = 0;
        self.driver_features_sel = 0;
        self.queue_sel = 0;
        self.shm_sel = 0;
        self.queues =
            self.max_sizes.iter().map(|&size| QueueConfig { size, ..QueueConfig::default() }).collect();
    }

    /// The transport as one plain struct. The event loop must be stopped.
    pub fn save(&self) -> TransportState {
        let needs_reset = if self.interrupt.needs_reset() { status::DEVICE_NEEDS_RESET } else { 0 };
        TransportState {
            version: TransportState::VERSION,
            status: self.status | needs_reset,
            driver_features: self.driver_features,
            selectors: [self.device_features_sel, self.driver_features_sel, self.queue_sel, self.shm_sel],
            interrupt_status: self.interrupt.status(),
            config_generation: self.interrupt.generation(),
            queues: self.queues.clone(),
            positions: lock(&self.device).queue_positions(),
        }
    }

    /// Puts a saved state into a freshly made transport and starts the device if it was running.
    pub fn restore(&mut self, state: &TransportState) -> Result<(), RestoreError> {
        if state.version != TransportState::VERSION {
            return Err(RestoreError::Version(state.version, TransportState::VERSION));
        }
        if state.queues.len() != self.max_sizes.len() || state.positions.len() != self.max_sizes.len() {
            return Err(RestoreError::Mismatch("number of queues"));
        }
        if state.driver_features & !self.offered != 0 {
            return Err(RestoreError::Mismatch("features"));
        }
        self.status = state.status & !status::DEVICE_NEEDS_RESET;
        self.driver_features = state.driver_features;
        [self.device_features_sel, self.driver_features_sel, self.queue_sel, self.shm_sel] = state.selectors;
        self.queues.clone_from(&state.queues);
        let needs_reset = state.status & status::DEVICE_NEEDS_RESET != 0;
        self.interrupt.restore(state.interrupt_status, state.config_generation, needs_reset);
        if self.status & status::DRIVER_OK != 0 && !needs_reset {
            self.activate(&state.positions)?;
        }
        Ok(())
    }
}

fn half(value: u64, sel: u32) -> u32 {
    match sel {
        0 => value as u32,
        1 => (value >> 32) as u32,
        _ => 0,
    }
}

fn set_low(field: &mut u64, value: u32) {
    *field = (*field & !0xffff_ffff) | u64::from(value);
}

fn set_high(field: &mut u64, value: u32) {
    *field = (*field & 0xffff_ffff) | (u64::from(value) << 32);
}
