//! virtio-rng (virtio 1.2, section 5.4): entropy from the host.
//!
//! One request soon after the start, its answer mixed into the kernel's generator. The generator is seeded from the
//! boot configuration before, so nobody waits for the answer.

use alloc::sync::Arc;

use ringfence_hal::dma::DmaBuffer;

use super::{
    InterruptHandler,
    virtio::{Buffer, Error, Transport, VirtQueue},
};
use crate::{random, sync::SpinLock};

const REQUEST: usize = 64;

struct Rng {
    transport: Transport,
    inner: SpinLock<(VirtQueue, DmaBuffer)>,
}

/// Starts the driver.
pub fn start(transport: Transport) -> Result<(), Error> {
    let features = transport.negotiate(0, 0)?;
    let mut queue = transport.queue(0, 2, features)?;
    let buffer = DmaBuffer::alloc(REQUEST).map_err(|_| Error::OutOfMemory)?;
    queue.push(&[Buffer { phys: buffer.phys(), len: REQUEST as u32, writable: true }]);
    let gsi = transport.gsi;
    let rng = Arc::new(Rng { transport, inner: SpinLock::new((queue, buffer)) });
    super::register(gsi, rng.clone());
    rng.transport.start();
    rng.transport.notify(&rng.inner.lock().0);
    Ok(())
}

impl InterruptHandler for Rng {
    fn interrupt(&self) {
        self.transport.acknowledge();
        let mut inner = self.inner.lock();
        let (queue, buffer) = &mut *inner;
        while let Some((_, written)) = queue.pop() {
            let mut bytes = [0u8; REQUEST];
            let n = (written as usize).min(REQUEST);
            buffer.read(0, &mut bytes);
            random::add_entropy(bytes.get(..n).unwrap_or_default());
        }
    }
}
