//! Giving guest memory back to the host.

use std::io;

use rustix::fs::{FallocateFlags, fallocate};
use vm_memory::{
    Address, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
    MemoryRegionAddress,
};

use super::PAGE_SIZE;

/// Why a range was not released.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReleaseError {
    /// Not guest RAM, or not inside one region.
    #[error("the range is not guest memory")]
    Range,
    /// The host refused.
    #[error("cannot release guest memory: {0}")]
    Host(#[from] io::Error),
}

/// Releases the whole pages inside [addr, addr + len); they read as zero afterwards. Returns the bytes released.
pub(super) fn release(mem: &GuestMemoryMmap<()>, addr: GuestAddress, len: u64) -> Result<u64, ReleaseError> {
    let end = addr.checked_add(len).ok_or(ReleaseError::Range)?;
    let start = addr.checked_align_up(PAGE_SIZE).ok_or(ReleaseError::Range)?;
    let len = (end.raw_value() & !(PAGE_SIZE - 1)).saturating_sub(start.raw_value());
    if len == 0 {
        return Ok(0);
    }
    let (region, at) = mem.to_region_addr(start).ok_or(ReleaseError::Range)?;
    let inside = at.checked_add(len).is_some_and(|end| end.raw_value() <= region.len());
    if !inside {
        return Err(ReleaseError::Range);
    }
    match region.file_offset() {
        Some(file) => punch(file, at.raw_value(), len)?,
        None => drop_private(region, at, len)?,
    }
    Ok(len)
}

/// Frees the file's pages; every mapping of them is cut at once.
fn punch(file: &FileOffset, at: u64, len: u64) -> io::Result<()> {
    let offset = file.start().checked_add(at).ok_or_else(|| io::Error::from_raw_os_error(libc::EFBIG))?;
    fallocate(file.file(), FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len)?;
    Ok(())
}

/// RAM without a file (tests, `--memory-backend` other than memfd): private anonymous pages.
fn drop_private(region: &impl GuestMemoryRegion, at: MemoryRegionAddress, len: u64) -> io::Result<()> {
    let host = region.get_host_address(at).map_err(io::Error::other)?;
    // SAFETY: [at, at + len) was checked to lie inside the region, whose mapping lives as long as `region`. The
    // pages are guest RAM, to which no Rust reference exists, so their contents may change under us.
    unsafe { rustix::mm::madvise(host.cast(), len as usize, rustix::mm::Advice::LinuxDontNeed) }?;
    Ok(())
}
