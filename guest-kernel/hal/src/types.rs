//! Constants, flags and errors both implementations share.

use core::fmt;

/// Bytes in a page.
pub const PAGE_SIZE: usize = 1 << PAGE_SHIFT;
/// Pages in a large page of 2 MiB.
pub const HUGE_PAGES: usize = 512;
/// log2 of [`PAGE_SIZE`].
pub const PAGE_SHIFT: u32 = 12;
/// End of the user half. The last page below the canonical hole is never mapped, as in Linux: a `syscall`
/// instruction at its end would return to a non-canonical address.
pub const USER_END: u64 = 0x7fff_ffff_f000;

bitflags::bitflags! {
    /// Protection of a mapped page.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct Prot: u8 {
        /// Readable. x86-64 has no write-only or execute-only page: any mapped page is readable.
        const READ = 1;
        /// Writable.
        const WRITE = 2;
        /// Executable.
        const EXEC = 4;
    }
}

/// No memory left for the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfMemory;

/// Why a page could not be mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MapError {
    /// A page is mapped there already.
    Present,
    /// No memory for the page tables.
    OutOfMemory,
}

/// A user address could not be accessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserFault {
    /// Bytes transferred before the first one that failed.
    pub copied: usize,
}

/// An address outside the lower canonical half where one was needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NonCanonical;

/// An FPU image that the processor would refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidFpuState;

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("out of memory")
    }
}

impl From<OutOfMemory> for MapError {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

/// Where a new thread's FPU state comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FpuInit {
    /// As after `execve`: the processor's initial state.
    Fresh,
    /// A copy of the current thread's live state (fork, clone).
    CopyCurrent,
}

/// How [`AddressSpace::fork_range`](crate::AddressSpace::fork_range) gives pages to the child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForkMode {
    /// Private: write permission is removed on both sides.
    CopyOnWrite,
    /// Shared: mapped in the child as in the parent.
    Share,
}

/// A mapped page, as found by [`AddressSpace::get`](crate::AddressSpace::get).
#[derive(Debug, Clone)]
pub struct Mapping {
    /// A reference of its own to the mapped frame.
    pub frame: crate::Frame,
    /// Its protection.
    pub prot: Prot,
    /// Written since it was mapped.
    pub dirty: bool,
    /// Accessed since it was mapped.
    pub accessed: bool,
    /// Part of a large page.
    pub huge: bool,
}

/// Counts of page frames, in pages. Named `frames::Stats`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FrameStats {
    /// All the allocator manages.
    pub total: usize,
    /// Not allocated now.
    pub free: usize,
    /// Ever allocated, so that the host had to back them, and not given back to it since.
    pub touched: usize,
    /// Held by [`Frame`](crate::Frame)s: user pages and page cache.
    pub user: usize,
}

/// What the vDSO needs to turn a TSC value into nanoseconds since boot. Named `time::VdsoParams`.
///
/// `ns = ns_base + ((tsc - tsc_base) * tsc_mult >> tsc_shift)`, the product taken in 128 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VdsoParams {
    /// Multiplier.
    pub tsc_mult: u64,
    /// Right shift after the multiplication.
    pub tsc_shift: u32,
    /// TSC at the base.
    pub tsc_base: u64,
    /// Nanoseconds since boot at the base.
    pub ns_base: u64,
    /// The TSC is the same on all CPUs and never steps. If not, the vDSO must use the system call.
    pub stable: bool,
}
