//! virtio-balloon (virtio 1.2, section 5.5): memory the guest does not use goes back to the host.
//!
//! The main road is *free page reporting*: the guest's allocator names free blocks as device-writable
//! descriptors, the host punches them out of the memfd behind guest RAM, and the answer tells the guest that it
//! may use them again (they read as zero when touched). Guest RAM is a shared file mapping, so MADV_DONTNEED
//! alone would give nothing back: `fallocate(PUNCH_HOLE)` does, for every mapping at once, KVM's included.
//!
//! The classic balloon works as well: [`Balloon::set_target`] changes the configuration, the guest sends lists
//! of page frame numbers through the inflate queue.
//!
//! # Queue numbers
//!
//! inflate 0, deflate 1; the statistics and free-page-hint queues exist only with their features, which are not
//! offered, and later queues move up: the reporting queue is 2. Linux numbers them the same way (it skips absent
//! queues when it assigns indices in `vm_find_vqs`).
//!
//! # Bounds
//!
//! Every range is checked to be guest RAM before anything is done (the chain parser for reported ranges, this
//! device for page frame numbers); only whole pages inside a range are touched, at most one queue's worth of
//! requests and (but for the last request) [`PASS_BYTES`] a pass, at most [`MAX_PFNS`] numbers a request.

mod device;
mod event_handler;
mod metrics;
mod persist;
mod release;
#[cfg(test)]
mod tests;

pub use device::Balloon;
pub use metrics::BalloonMetrics;
pub use persist::BalloonState;

/// Size of a page in the balloon protocol, whatever the guest's page size is.
pub const PAGE_SIZE: u64 = 4096;
/// A pass over a queue ends when it has released this much, so that other devices get their turn.
pub const PASS_BYTES: u64 = 64 << 20;
/// Most page frame numbers honoured in one inflate request (Linux sends 256); the rest is ignored.
pub const MAX_PFNS: usize = 4096;
