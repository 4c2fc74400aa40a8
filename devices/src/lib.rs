//! Ringfence's device models.
//!
//! A sandbox sees four virtio devices behind the virtio-mmio transport (pmem, vsock, rng, balloon), one serial
//! port, a virtio-blk device for each disk it is given, and fs, if it is given directories of the host. This crate knows
//! nothing of KVM: it is given guest memory
//! and an eventfd to raise an interrupt with, is told of register accesses, and hangs its eventfds on the
//! VMM's `event-manager` loop. What reaches it from the guest is a register access or a virtqueue; both are
//! hostile.
//!
//! A device is a folder with the same rooms:
//!
//! | room | holds |
//! |---|---|
//! | `mod.rs` | what the device is for, what it offers, its invariants |
//! | `device.rs` | the device and its [`virtio::VirtioDevice`] implementation |
//! | `event_handler.rs` | its side of the event loop |
//! | `metrics.rs` | its counters |
//! | `persist.rs` | its state as one plain versioned struct |
//! | `tests.rs` | a driver, mostly a hostile one |
//!
//! # Threads and locks
//!
//! vCPU threads access registers (`Mutex<MmioTransport>`), the event loop thread serves queues
//! (`Mutex<device>`). The order is transport, then device; a device never takes its transport's lock, it
//! reaches the driver only through the atomics of [`virtio::Interrupt`].
//!
//! # What a hostile guest gets
//!
//! A driver that breaks the ring (a loop, an address outside memory, an available index that jumped) finds
//! `DEVICE_NEEDS_RESET` in the status register and a device that no longer looks at its queues. Nothing it
//! writes makes the host allocate by its wish, loop longer than a queue is long, or touch memory that is not
//! the guest's RAM. `docs/devices.md` lists this per device.

pub mod balloon;
pub mod block;
pub mod fs;
pub mod host_stream;
mod limits;
pub mod metrics;
pub mod net;
pub mod pmem;
pub mod rate_limiter;
pub mod rng;
pub mod serial;
pub mod virtio;
pub mod vsock;

use std::sync::Arc;

/// Guest RAM, and nothing else: read-only regions such as pmem images are not part of it, so that no
/// descriptor can name them.
pub type GuestRam = Arc<vm_memory::GuestMemoryMmap<()>>;
