//! virtio-pmem (virtio 1.2, section 5.19): a file of the host as a range of physical memory.
//!
//! Used read-only: the range is the root image, and nothing is ever flushed, so the request queue stays unused.

use ringfence_hal::pmem::PhysRegion;

use super::virtio::{Error, Transport};

/// The memory of the device; `None` if it has none.
pub fn open(transport: &Transport) -> Result<Option<PhysRegion>, Error> {
    transport.negotiate(0, 0)?;
    let (start, size) = (transport.config_u64(0), transport.config_u64(8));
    let queue = transport.queue(0, 2, 0)?;
    transport.start();
    // The device may look at its queue as long as it lives, which is for ever.
    core::mem::forget(queue);
    let len = usize::try_from(size).unwrap_or(0);
    Ok((len != 0).then(|| PhysRegion::map(start, len)))
}
