//! A descriptor chain: one request of the driver, and hostile input.
//!
//! The walk reads every descriptor exactly once and checks all of it before the device sees anything: the
//! chain ends, no longer than the queue; every index lies in the table; every range lies in guest RAM and does
//! not wrap; device-writable parts come last; the sum fits the 2^32 the specification allows. Indirect tables
//! are never offered, so a descriptor that names one is an error.
//!
//! What the ranges *hold* may change at any moment under a hostile driver, so bytes are only ever copied, by
//! cursors that move forward: a byte that was checked cannot be read again.

use smallvec::SmallVec;
use virtio_bindings::bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Address, Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, Permissions, VolatileSlice};

/// What can be wrong with a chain.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
pub enum ChainError {
    /// The head or a `next` field is not an index of the descriptor table.
    #[error("descriptor index {0} is outside of the table")]
    Index(u16),
    /// More descriptors than the queue has: a loop.
    #[error("the descriptor chain is longer than the queue: it loops")]
    Loop,
    /// An indirect table although the feature was not offered.
    #[error("the descriptor chain uses an indirect table, which was not offered")]
    Indirect,
    /// A device-readable descriptor after a device-writable one.
    #[error("a device-readable descriptor follows a device-writable one")]
    Order,
    /// An address range that is not guest RAM or wraps around.
    #[error("descriptor range {addr:#x}+{len:#x} is not guest memory")]
    Range {
        /// Guest physical address.
        addr: u64,
        /// Length in bytes.
        len: u32,
    },
    /// More than 2^32 - 1 bytes in total.
    #[error("the descriptor chain is longer than 4 GiB in total")]
    TooLong,
    /// A request shorter than its header or its answer.
    #[error("the descriptor chain is too short for this request")]
    TooShort,
    /// Guest memory could not be read or written.
    #[error("guest memory could not be accessed")]
    Memory,
}

#[derive(Debug, Clone, Copy)]
struct Range {
    addr: GuestAddress,
    len: u32,
}

/// A checked chain. It names guest memory but does not hold it.
#[derive(Debug, Clone)]
pub struct Chain {
    head: u16,
    ranges: SmallVec<[Range; 4]>,
    /// How many of the ranges, from the front, the device may only read.
    readable: usize,
}

impl Chain {
    /// Walks the chain that begins at `head` of a table of `size` descriptors.
    pub(crate) fn walk(
        mem: &GuestMemoryMmap<()>,
        table: GuestAddress,
        size: u16,
        head: u16,
    ) -> Result<Self, ChainError> {
        let mut chain = Self { head, ranges: SmallVec::new(), readable: 0 };
        let mut index = head;
        let mut total = 0u32;
        loop {
            if index >= size {
                return Err(ChainError::Index(index));
            }
            if chain.ranges.len() == usize::from(size) {
                return Err(ChainError::Loop);
            }
            let at = table.checked_add(u64::from(index) * 16).ok_or(ChainError::Memory)?;
            let desc: Descriptor = mem.read_obj(at).map_err(|_| ChainError::Memory)?;
            let flags = u32::from(desc.flags());
            let (addr, len) = (desc.addr(), desc.len());
            if flags & VRING_DESC_F_INDIRECT != 0 {
                return Err(ChainError::Indirect);
            }
            // Read and write: a descriptor is only ever RAM, and all of RAM is both.
            let in_ram = addr.checked_add(u64::from(len)).is_some()
                && mem.check_range(addr, len as usize, Permissions::ReadWrite);
            // A zero-length descriptor is legal and names no memory.
            if len != 0 && !in_ram {
                return Err(ChainError::Range { addr: addr.raw_value(), len });
            }
            total = total.checked_add(len).ok_or(ChainError::TooLong)?;
            if flags & VRING_DESC_F_WRITE == 0 {
                if chain.readable != chain.ranges.len() {
                    return Err(ChainError::Order);
                }
                chain.readable += 1;
            }
            chain.ranges.push(Range { addr, len });
            if flags & VRING_DESC_F_NEXT == 0 {
                return Ok(chain);
            }
            index = desc.next();
        }
    }

    /// Index of the first descriptor: the request's name in the used ring.
    pub fn head(&self) -> u16 {
        self.head
    }

    /// A cursor over the bytes the driver has written for the device.
    pub fn reader<'a>(&'a self, mem: &'a GuestMemoryMmap<()>) -> ChainReader<'a> {
        ChainReader(Cursor { mem, ranges: &self.ranges[..self.readable], skip: 0 })
    }

    /// A cursor over the bytes the device may write.
    pub fn writer<'a>(&'a self, mem: &'a GuestMemoryMmap<()>) -> ChainWriter<'a> {
        ChainWriter { cursor: Cursor { mem, ranges: &self.ranges[self.readable..], skip: 0 }, written: 0 }
    }

    /// The device-writable ranges as guest physical address and length in bytes, for devices that work on the
    /// memory itself (free page reporting).
    pub fn writable_ranges(&self) -> impl Iterator<Item = (GuestAddress, u32)> + '_ {
        self.ranges[self.readable..].iter().map(|r| (r.addr, r.len))
    }
}

/// A forward-only position in a list of ranges.
#[derive(Debug)]
struct Cursor<'a> {
    mem: &'a GuestMemoryMmap<()>,
    ranges: &'a [Range],
    /// Bytes of the first range that are already consumed.
    skip: u32,
}

impl Cursor<'_> {
    fn remaining(&self) -> usize {
        // The walk has checked that the sum fits 32 bits.
        self.ranges.iter().map(|r| r.len as usize).sum::<usize>() - self.skip as usize
    }

    /// Calls `copy` on consecutive pieces of at most `want` bytes in total; returns the bytes consumed.
    fn consume(
        &mut self,
        want: usize,
        mut copy: impl FnMut(&GuestMemoryMmap<()>, GuestAddress, usize, usize) -> Result<(), ChainError>,
    ) -> Result<usize, ChainError> {
        let mut done = 0;
        while let Some(range) = self.ranges.first() {
            let here = ((range.len - self.skip) as usize).min(want - done);
            if here != 0 {
                // In range: the walk has checked that addr + len does not wrap.
                copy(self.mem, range.addr.unchecked_add(u64::from(self.skip)), done, here)?;
                done += here;
                self.skip += here as u32;
            }
            if self.skip < range.len {
                break;
            }
            self.ranges = &self.ranges[1..];
            self.skip = 0;
        }
        Ok(done)
    }
}

impl<'a> Cursor<'a> {
    /// Consumes at most `want` bytes as pieces of host memory.
    fn slices(&mut self, want: usize) -> Result<Slices<'a>, ChainError> {
        let mem = self.mem;
        let mut found = Slices::new();
        self.consume(want, |_, addr, _, n| {
            let pieces = mem.get_slices(addr, n, Permissions::ReadWrite).map_err(|_| ChainError::Memory)?;
            for piece in pieces {
                found.push(piece.map_err(|_| ChainError::Memory)?);
            }
            Ok(())
        })?;
        Ok(found)
    }
}

/// Pieces of guest memory, for system calls that move bytes without a copy of ours. No more than the queue has
/// descriptors and the RAM regions.
pub type Slices<'a> = SmallVec<[VolatileSlice<'a>; 8]>;

/// Consumes the device-readable part of a chain.
#[derive(Debug)]
pub struct ChainReader<'a>(Cursor<'a>);

impl<'a> ChainReader<'a> {
    /// Bytes not yet consumed.
    pub fn remaining(&self) -> usize {
        self.0.remaining()
    }

    /// Fills as much of `buf` as there is; returns the number of bytes.
    pub fn read(&mut self, buf: &mut [u8]) -> Result<usize, ChainError> {
        self.0.consume(buf.len(), |mem, addr, done, n| {
            mem.read_slice(&mut buf[done..done + n], addr).map_err(|_| ChainError::Memory)
        })
    }

    /// Consumes at most `want` bytes without copying them.
    pub fn slices(&mut self, want: usize) -> Result<Slices<'a>, ChainError> {
        self.0.slices(want)
    }

    /// Fills all of `buf`, or fails with [`ChainError::TooShort`].
    pub fn read_exact(&mut self, buf: &mut [u8]) -> Result<(), ChainError> {
        if self.read(buf)? == buf.len() { Ok(()) } else { Err(ChainError::TooShort) }
    }
}

/// Consumes the device-writable part of a chain.
#[derive(Debug)]
pub struct ChainWriter<'a> {
    cursor: Cursor<'a>,
    written: u32,
}

impl<'a> ChainWriter<'a> {
    /// Bytes of room left.
    pub fn remaining(&self) -> usize {
        self.cursor.remaining()
    }

    /// Bytes written so far: the `len` of the used ring's entry.
    pub fn written(&self) -> u32 {
        self.written
    }

    /// Consumes at most `want` bytes of room, which the caller fills; they count as written.
    pub fn slices(&mut self, want: usize) -> Result<Slices<'a>, ChainError> {
        let before = self.cursor.remaining();
        let found = self.cursor.slices(want)?;
        self.written += (before - self.cursor.remaining()) as u32;
        Ok(found)
    }

    /// Writes as much of `data` as fits; returns the number of bytes.
    pub fn write(&mut self, data: &[u8]) -> Result<usize, ChainError> {
        let n = self.cursor.consume(data.len(), |mem, addr, done, n| {
            mem.write_slice(&data[done..done + n], addr).map_err(|_| ChainError::Memory)
        })?;
        self.written += n as u32;
        Ok(n)
    }

    /// Writes all of `data`, or fails with [`ChainError::TooShort`].
    pub fn write_all(&mut self, data: &[u8]) -> Result<(), ChainError> {
        if self.write(data)? == data.len() { Ok(()) } else { Err(ChainError::TooShort) }
    }
}
