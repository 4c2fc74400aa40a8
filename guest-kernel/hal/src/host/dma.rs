//! Memory shared with devices.

use super::world::{World, world};
use crate::{OutOfMemory, PAGE_SHIFT, PAGE_SIZE};
use std::sync::{Arc, Mutex};

/// The bytes of a [`DmaBuffer`]. Every access takes the lock, so accesses are atomic and ordered.
pub(super) struct Memory {
    phys: u64,
    bytes: Mutex<Vec<u8>>,
}

/// Physically contiguous memory that a device may read and write at any time. Zeroed at first.
///
/// Offsets beyond the end, or unaligned for the atomic accesses, are bugs in the caller and panic.
pub struct DmaBuffer(Arc<Memory>);

macro_rules! atomic {
    ($($load:ident, $store:ident, $type:ty;)+) => {$(
        /// Loads, with acquire ordering.
        pub fn $load(&self, off: usize) -> $type {
            assert!(off.is_multiple_of(size_of::<$type>()), "unaligned");
            let mut b = [0; size_of::<$type>()];
            self.read(off, &mut b);
            <$type>::from_le_bytes(b)
        }

        /// Stores, with release ordering.
        pub fn $store(&self, off: usize, value: $type) {
            assert!(off.is_multiple_of(size_of::<$type>()), "unaligned");
            self.write(off, &value.to_le_bytes());
        }
    )+};
}

impl DmaBuffer {
    /// Allocates at least `len` bytes, page-aligned.
    pub fn alloc(len: usize) -> Result<Self, OutOfMemory> {
        let world = world();
        let mut devices = world.devices.lock().unwrap();
        let phys = devices.dma_end;
        devices.dma_end += len.next_multiple_of(PAGE_SIZE).max(PAGE_SIZE) as u64;
        let memory = Arc::new(Memory { phys, bytes: Mutex::new(vec![0; len]) });
        devices.dma.retain(|_, m| m.strong_count() > 0);
        devices.dma.insert(phys, Arc::downgrade(&memory));
        Ok(Self(memory))
    }

    /// Physical address.
    pub fn phys(&self) -> u64 {
        self.0.phys
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.0.bytes.lock().unwrap().len()
    }

    /// No bytes at all?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies out of the buffer.
    pub fn read(&self, off: usize, buf: &mut [u8]) {
        buf.copy_from_slice(&self.0.bytes.lock().unwrap()[off..off + buf.len()]);
    }

    /// Copies into the buffer.
    pub fn write(&self, off: usize, buf: &[u8]) {
        self.0.bytes.lock().unwrap()[off..off + buf.len()].copy_from_slice(buf);
    }

    atomic! {
        load_u16, store_u16, u16;
        load_u32, store_u32, u32;
        load_u64, store_u64, u64;
    }
}

/// `f(offset in the request, bytes)` for each piece of a device's access. `false` if a part is no memory.
pub(super) fn phys_access(world: &World, phys: u64, len: usize, mut f: impl FnMut(usize, &mut [u8])) -> bool {
    let mut done = 0;
    while done < len {
        let at = phys + done as u64;
        let dma = world.devices.lock().unwrap().dma.range(..=at).next_back().and_then(|(_, m)| m.upgrade());
        if let Some(memory) = dma {
            let off = (at - memory.phys) as usize;
            let mut bytes = memory.bytes.lock().unwrap();
            let Some(rest) = bytes.get_mut(off..).filter(|r| !r.is_empty()) else { return false };
            let n = rest.len().min(len - done);
            f(done, &mut rest[..n]);
            done += n;
        } else if let Some(frame) = world.pool.find(at >> PAGE_SHIFT) {
            let off = at as usize % PAGE_SIZE;
            let n = (PAGE_SIZE - off).min(len - done);
            frame.modify(|page| f(done, &mut page[off..off + n]));
            done += n;
        } else {
            return false;
        }
    }
    true
}
