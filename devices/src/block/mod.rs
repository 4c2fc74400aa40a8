//! virtio-blk (virtio 1.2, section 5.2): a file of the host as a disk.
//!
//! The file ([`Disk`]) is opened by the supervisor, read-only for a read-only disk, and locked; the VMM only gets the
//! descriptor. Requests move bytes between the file and guest memory by `pread` and `pwrite` with the guest's own
//! pages (not by the calls with vectors, which the other devices have no use for): nothing is allocated by the size of a request, and a file that was truncated is a short read, hence an error
//! of the request, and not a SIGBUS.
//!
//! # Where it runs
//!
//! On the event loop's thread, one request after the other. A disk whose host storage is slow so delays the other
//! devices of its sandbox, and nothing else: a thread of its own would cost every sandbox with a disk a stack and a
//! seccomp filter, and most disks are in the host's page cache.
//!
//! # Invariants
//!
//! - A request lies wholly below the capacity, which is fixed when the device is made, or nothing of it is done.
//! - A read-only disk's file is never given to a call that changes it, and its descriptor would not allow it.
//! - A request is answered exactly once: `OK`, `IOERR`, or `UNSUPP` in its last byte. A chain that has no room for that
//!   byte, or no header, is a broken ring.
//! - One pass over the queue ends after a queue's worth of requests or [`PASS_BYTES`]; the rest comes after the other
//!   devices had their turn.
//! - What a limit delays stays in the ring ([`Limits`]).

mod device;
mod disk;
mod event_handler;
mod metrics;
mod persist;
mod request;
#[cfg(test)]
mod tests;

pub use crate::limits::Limits;
pub use device::Block;
pub use disk::{Disk, DiskError};
pub use metrics::BlockMetrics;
pub use persist::BlockState;

/// Bytes in a sector: the unit of the protocol, whatever the storage's is.
pub const SECTOR: u64 = 512;
/// Length of the identity string.
pub const ID_BYTES: usize = 20;
/// A pass over the queue ends when it has moved this much.
pub const PASS_BYTES: u64 = 4 << 20;
/// Data of one request at most; a longer one is an error.
pub const MAX_REQUEST: u64 = 16 << 20;
/// Bytes of one buffer of a request, as the driver is told; with [`MAX_SEGMENTS`] no more than [`MAX_REQUEST`].
pub const MAX_SEGMENT: u32 = 128 << 10;
/// Buffers of a request besides header and status.
pub const MAX_SEGMENTS: u32 = 126;
/// Sectors that one request discards at most: 1 GiB.
pub const MAX_DISCARD_SECTORS: u32 = 1 << 21;
/// Sectors that one request zeroes at most: 4 MiB, which may have to be written.
pub const MAX_ZERO_SECTORS: u32 = 1 << 13;
