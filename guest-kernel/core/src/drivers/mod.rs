//! Device drivers, and which of them an interrupt is for.

use alloc::{sync::Arc, vec::Vec};

use crate::sync::SpinLock;

/// A driver that takes interrupts; called with interrupts off, must not block.
pub trait InterruptHandler: Send + Sync {
    /// The device's line fired.
    fn interrupt(&self);
}

static HANDLERS: SpinLock<Vec<(u32, Arc<dyn InterruptHandler>)>> = SpinLock::new(Vec::new());

/// Routes a global system interrupt to `handler`.
pub fn register(gsi: u32, handler: Arc<dyn InterruptHandler>) {
    HANDLERS.lock().push((gsi, handler));
    ringfence_hal::irq::enable(gsi);
}

/// `hal::Kernel::interrupt` for devices.
pub fn interrupt(gsi: u32) {
    let handler = HANDLERS.lock().iter().find(|(n, _)| *n == gsi).map(|(_, h)| h.clone());
    if let Some(handler) = handler {
        handler.interrupt();
    }
}
