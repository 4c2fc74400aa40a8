//! virtio-pmem (virtio 1.2, section 5.19): the root image as memory.
//!
//! The image file is mapped read-only into the VMM ([`Backing`]) and given to KVM as a read-only slot by the
//! VMM, so sandboxes of one image share the host's page cache and the guest reads files without a single exit.
//! Read-only is enforced twice and never by the guest: the mapping has no `PROT_WRITE`, the slot is
//! `KVM_MEM_READONLY`. The region is not part of [`crate::GuestRam`], so no descriptor can name it.
//!
//! The device itself ([`Pmem`]) only says where the region is, and answers flush requests: there is never
//! anything to flush, so the answer is always success.

mod backing;
mod device;
mod event_handler;
mod metrics;
mod persist;
#[cfg(test)]
mod tests;

pub use backing::{Backing, BackingError};
pub use device::Pmem;
pub use metrics::PmemMetrics;
pub use persist::PmemState;

/// Guest physical regions are multiples of this: Linux's `devm_memremap_pages` adds whole subsections.
pub const REGION_ALIGN: u64 = 2 << 20;
