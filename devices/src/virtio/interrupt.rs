//! How a device reaches its driver: the interrupt status register, the configuration generation and the
//! irqfd. All atomics, so that a device on the event loop never needs its transport's lock.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use vmm_sys_util::eventfd::EventFd;

/// Bit 0 of InterruptStatus: a device used a buffer (virtio 1.2, section 4.2.2).
pub const INT_VRING: u32 = 1;
/// Bit 1 of InterruptStatus: the configuration (or the device status) changed.
pub const INT_CONFIG: u32 = 2;

/// Shared by a transport and its device.
#[derive(Debug)]
pub struct Interrupt {
    status: AtomicU32,
    generation: AtomicU32,
    needs_reset: AtomicBool,
    /// Bits that are always set.
    always: AtomicU32,
    irq: EventFd,
}

impl Interrupt {
    /// `irq` is the eventfd the VMM has registered as an irqfd.
    pub fn new(irq: EventFd) -> Self {
        Self {
            status: AtomicU32::new(0),
            generation: AtomicU32::new(0),
            needs_reset: AtomicBool::new(false),
            always: AtomicU32::new(0),
            irq,
        }
    }

    /// Tells the driver that buffers were used.
    pub fn signal_used(&self) {
        self.raise(INT_VRING);
    }

    /// Tells the driver that the configuration space changed.
    pub fn signal_config(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.raise(INT_CONFIG);
    }

    /// The driver broke the protocol: the device stops until it is reset (DEVICE_NEEDS_RESET, section 2.1.1).
    pub fn signal_needs_reset(&self) {
        self.needs_reset.store(true, Ordering::Release);
        self.raise(INT_CONFIG);
    }

    /// From now on, until a reset, the status register says that buffers were used: somebody else raises the interrupt.
    pub fn always_used(&self) {
        self.always.store(INT_VRING, Ordering::Release);
    }

    /// What raises the interrupt when it is written.
    pub fn irq(&self) -> &EventFd {
        &self.irq
    }

    pub(crate) fn raise(&self, bit: u32) {
        self.status.fetch_or(bit, Ordering::AcqRel);
        // An eventfd write fails only when its counter is about to overflow, and then an interrupt is pending.
        let _ = self.irq.write(1);
    }

    pub(crate) fn status(&self) -> u32 {
        self.status.load(Ordering::Acquire) | self.always.load(Ordering::Acquire)
    }

    pub(crate) fn acknowledge(&self, bits: u32) {
        self.status.fetch_and(!bits, Ordering::AcqRel);
    }

    pub(crate) fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    pub(crate) fn needs_reset(&self) -> bool {
        self.needs_reset.load(Ordering::Acquire)
    }

    pub(crate) fn reset(&self) {
        self.needs_reset.store(false, Ordering::Release);
        self.always.store(0, Ordering::Release);
        self.status.store(0, Ordering::Release);
    }

    pub(crate) fn restore(&self, status: u32, generation: u32, needs_reset: bool) {
        self.generation.store(generation, Ordering::Release);
        self.needs_reset.store(needs_reset, Ordering::Release);
        self.status.store(status, Ordering::Release);
    }
}
