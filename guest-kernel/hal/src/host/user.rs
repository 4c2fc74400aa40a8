//! Access to user memory of the current address space.
//!
//! Each function checks that the range lies in the user half, then walks the page table. On a miss or
//! insufficient protection it asks the page-fault handler ([`Kernel::page_fault`](crate::Kernel::page_fault)),
//! and retries if that says so. A length of 0 always succeeds.

use super::context;
use super::lock;
use super::space::{AddressSpace, PageAccess};
use crate::{Access, PAGE_SIZE, PageFault, USER_END};
use std::ops::Range;
use std::sync::Arc;

pub use crate::types::UserFault;

/// A handler that returns `true` this often for one page without making it accessible never will.
const MAX_RETRIES: usize = 1000;

const FAULT: UserFault = UserFault { copied: 0 };

/// Copies user memory into `dst`.
pub fn copy_in(dst: &mut [u8], src: u64) -> Result<(), UserFault> {
    read(src, dst.len(), true, |page, off, range| page.read(off, &mut dst[range]))
}

/// Copies `src` to user memory.
pub fn copy_out(dst: u64, src: &[u8]) -> Result<(), UserFault> {
    write(dst, src.len(), true, |page, range| page.copy_from_slice(&src[range]))
}

/// Clears user memory.
pub fn zero(dst: u64, len: usize) -> Result<(), UserFault> {
    write(dst, len, true, |page, _| page.fill(0))
}

/// Copies a NUL-terminated string into `dst`. Returns its length without the NUL, which is not stored; or
/// `dst.len()` if there was no NUL in that many bytes.
pub fn copy_in_str(dst: &mut [u8], src: u64) -> Result<usize, UserFault> {
    let mut done = 0;
    while done < dst.len() {
        let at = src.checked_add(done as u64).ok_or(UserFault { copied: done })?;
        let in_page = PAGE_SIZE - (at as usize) % PAGE_SIZE;
        let end = dst.len().min(done + in_page);
        let piece = &mut dst[done..end];
        copy_in(piece, at).map_err(|e| UserFault { copied: done + e.copied })?;
        if let Some(nul) = piece.iter().position(|&b| b == 0) {
            return Ok(done + nul);
        }
        done = end;
    }
    Ok(done)
}

/// Loads a byte.
pub fn load_u8(addr: u64) -> Result<u8, UserFault> {
    let mut b = [0; 1];
    copy_in(&mut b, addr).map(|()| b[0])
}

/// Loads a word; atomic if aligned.
pub fn load_u32(addr: u64) -> Result<u32, UserFault> {
    let mut b = [0; 4];
    copy_in(&mut b, addr).map(|()| u32::from_ne_bytes(b)).map_err(|_| FAULT)
}

/// Loads a double word; atomic if aligned.
pub fn load_u64(addr: u64) -> Result<u64, UserFault> {
    let mut b = [0; 8];
    copy_in(&mut b, addr).map(|()| u64::from_ne_bytes(b)).map_err(|_| FAULT)
}

/// Stores a byte.
pub fn store_u8(addr: u64, value: u8) -> Result<(), UserFault> {
    copy_out(addr, &[value])
}

/// Stores a word; atomic if aligned.
pub fn store_u32(addr: u64, value: u32) -> Result<(), UserFault> {
    copy_out(addr, &value.to_ne_bytes()).map_err(|_| FAULT)
}

/// Stores a double word; atomic if aligned.
pub fn store_u64(addr: u64, value: u64) -> Result<(), UserFault> {
    copy_out(addr, &value.to_ne_bytes()).map_err(|_| FAULT)
}

/// Atomic compare-and-exchange; the value found, as `Ok` if it was `old`. A fault if `addr` is unaligned.
pub fn cmpxchg_u32(addr: u64, old: u32, new: u32) -> Result<Result<u32, u32>, UserFault> {
    cmpxchg(addr, old, new, true)
}

/// [`load_u32`] that fails instead of asking the page-fault handler; may be used under a spin lock.
pub fn try_load_u32(addr: u64) -> Result<u32, UserFault> {
    let mut b = [0; 4];
    read(addr, 4, false, |page, off, range| page.read(off, &mut b[range])).map_err(|_| FAULT)?;
    Ok(u32::from_ne_bytes(b))
}

/// [`cmpxchg_u32`] that fails instead of asking the page-fault handler; may be used under a spin lock.
pub fn try_cmpxchg_u32(addr: u64, old: u32, new: u32) -> Result<Result<u32, u32>, UserFault> {
    cmpxchg(addr, old, new, false)
}

fn cmpxchg(addr: u64, old: u32, new: u32, may_fault: bool) -> Result<Result<u32, u32>, UserFault> {
    if !addr.is_multiple_of(4) {
        return Err(FAULT);
    }
    let mut result = Err(0);
    write(addr, 4, may_fault, |page, _| {
        let mut word = [0; 4];
        word.copy_from_slice(page);
        let found = u32::from_ne_bytes(word);
        result = if found == old { Ok(found) } else { Err(found) };
        if found == old {
            page.copy_from_slice(&new.to_ne_bytes());
        }
    })?;
    Ok(result)
}

/// `f(frame, offset in it, range of the buffer)` for each page.
fn read(
    addr: u64,
    len: usize,
    may_fault: bool,
    mut f: impl FnMut(&super::Frame, usize, Range<usize>),
) -> Result<(), UserFault> {
    walk(addr, len, Access::Read, may_fault, |page, off, range| {
        if let PageAccess::Read(frame) = page {
            f(frame, off, range);
        }
    })
}

/// `f(bytes in the page, range of the buffer)` for each page.
fn write(
    addr: u64,
    len: usize,
    may_fault: bool,
    mut f: impl FnMut(&mut [u8], Range<usize>),
) -> Result<(), UserFault> {
    walk(addr, len, Access::Write, may_fault, |page, off, range| {
        if let PageAccess::Write(bytes) = page {
            f(&mut bytes[off..off + range.len()], range);
        }
    })
}

fn walk(
    addr: u64,
    len: usize,
    access: Access,
    may_fault: bool,
    mut f: impl FnMut(PageAccess<'_>, usize, Range<usize>),
) -> Result<(), UserFault> {
    if may_fault {
        lock::assert_none_held("a user copy");
    }
    if len == 0 {
        return Ok(());
    }
    if addr.checked_add(len as u64).is_none_or(|end| end > USER_END) {
        return Err(FAULT);
    }
    let mut done = 0;
    while done < len {
        let va = addr + done as u64;
        let off = va as usize % PAGE_SIZE;
        let range = done..len.min(done + PAGE_SIZE - off);
        let copied = UserFault { copied: done };
        let mut retries = 0;
        // A fault may exec or move the thread to another space, so ask again in each round.
        while let Err(present) = try_page(context::space(), va, access, |p| f(p, off, range.clone())) {
            if !may_fault || !context::page_fault(PageFault { addr: va, access, present }) {
                return Err(copied);
            }
            retries += 1;
            assert!(retries < MAX_RETRIES, "the page-fault handler makes no progress at {va:#x}");
        }
        done = range.end;
    }
    Ok(())
}

fn try_page(
    space: Option<Arc<AddressSpace>>,
    va: u64,
    access: Access,
    f: impl FnOnce(PageAccess<'_>),
) -> Result<(), bool> {
    space.ok_or(false)?.with_page(va - va % PAGE_SIZE as u64, access, f)
}
