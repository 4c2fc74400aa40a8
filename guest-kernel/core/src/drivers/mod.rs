//! Device drivers.
//!
//! The VMM announces its devices on the command line as Linux's `virtio_mmio.device=SIZE@ADDRESS:GSI`
//! parameters; what each one is, its identity register says. A device that is missing is not an error here:
//! who needs it notices.
//!
//! | module | device |
//! |---|---|
//! | [`virtio`] | the MMIO transport and split virtqueues |
//! | [`vsock`] | streams to the host: control channel, standard streams |
//! | [`pmem`] | the root image |
//! | [`rng`] | entropy |
//! | [`balloon`] | free page reporting |
//! | [`block`] | disks |
//! | [`fs`] | directories of the host |
//! | [`net`] | network cards |

pub mod balloon;
pub mod block;
pub mod fs;
pub mod net;
pub mod pmem;
pub mod rng;
pub mod virtio;
pub mod vsock;

use alloc::{boxed::Box, sync::Arc, vec::Vec};

use virtio::Transport;

use crate::{TaskRef, sched, sync::SpinLock, task::spawn_kernel_task};

/// How long after the start of the first program the drivers that nobody waits for are started.
const LATE_NS: u64 = 100_000_000;

/// Starts what a program that ends at once can do without, each register of which would be an exit before its first
/// instruction: the host's entropy (the generator is seeded already) and giving memory back.
pub fn start_late(rng: Option<Transport>, balloon: Option<Transport>) {
    let work = move |task: &TaskRef| {
        sched::sleep_ns(task, LATE_NS);
        if let Some(transport) = rng {
            let _ = rng::start(transport); // what it would add is missing
        }
        if let Some(transport) = balloon {
            let _ = balloon::run(task, transport); // memory stays with the guest
        }
    };
    let _ = spawn_kernel_task(b"reporter", Box::new(work)); // as above
}

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

/// Where a virtio-mmio device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Physical address of its registers.
    pub base: u64,
    /// Its interrupt.
    pub gsi: u32,
}

/// The devices a command line names. Parameters that do not parse are skipped.
pub fn places(cmdline: &str) -> impl Iterator<Item = Place> {
    cmdline.split_ascii_whitespace().filter_map(|word| {
        let (_size, rest) = word.strip_prefix("virtio_mmio.device=")?.split_once('@')?;
        let (base, gsi) = rest.split_once(':')?;
        let gsi = gsi.split(':').next()?.parse().ok()?;
        let base = match base.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok()?,
            None => base.parse().ok()?,
        };
        Some(Place { base, gsi })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_names_the_devices() {
        let line = "quiet virtio_mmio.device=4K@0xd0000000:5 x virtio_mmio.device=4K@3489665024:6:1 virtio_mmio.device=?";
        let places: Vec<Place> = places(line).collect();
        assert_eq!(places, [Place { base: 0xd000_0000, gsi: 5 }, Place { base: 0xd000_1000, gsi: 6 }]);
    }
}
