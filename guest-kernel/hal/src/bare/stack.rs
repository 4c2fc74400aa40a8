//! Kernel stacks: 32 KiB each, below 32 KiB that are never mapped, so that an overflow is a double fault and not
//! another thread's memory.
//!
//! A stack stays mapped when its thread is gone and is given to the next one, so no TLB ever has to be
//! told of a change. The pages were never touched before the first use, and deeper ones perhaps never are.

use super::layout::{STACK_BASE, STACK_LIMIT};
use super::{frames, paging};
use crate::OutOfMemory;
use crate::sync::SpinLock;
use alloc::vec::Vec;

/// Bytes of a stack.
pub const SIZE: u64 = 32 << 10;
/// Distance between stacks.
const SLOT: u64 = 64 << 10;

struct Stacks {
    /// Slots handed out so far.
    slots: u64,
    /// Tops of stacks that wait for a thread.
    free: Vec<u64>,
}

static STACKS: SpinLock<Stacks> = SpinLock::new(Stacks { slots: 0, free: Vec::new() });

/// A kernel stack; dropping it makes it free for the next thread.
pub struct KernelStack {
    top: u64,
}

impl KernelStack {
    /// A free stack, or a new one.
    pub fn new() -> Result<Self, OutOfMemory> {
        let mut s = STACKS.lock();
        if let Some(top) = s.free.pop() {
            return Ok(Self { top });
        }
        let slot = STACK_BASE + s.slots * SLOT;
        if slot + SLOT > STACK_BASE + STACK_LIMIT {
            return Err(OutOfMemory);
        }
        // Room for it to come back: dropping must not fail.
        let total = s.slots as usize + 1;
        let need = total.saturating_sub(s.free.len());
        s.free.try_reserve(need).map_err(|_| OutOfMemory)?;
        let bottom = slot + SLOT - SIZE;
        for va in (bottom..slot + SLOT).step_by(4096) {
            // A failure leaves the slot's pages mapped in part: they are used when the slot is tried again.
            if paging::stack_page(va).is_none() {
                let page = frames::alloc_page(true).ok_or(OutOfMemory)?;
                if paging::map_stack_page(va, page).is_err() {
                    frames::free_page(page);
                    return Err(OutOfMemory);
                }
            }
        }
        s.slots += 1;
        Ok(Self { top: slot + SLOT })
    }

    /// The end of the stack, where it begins to grow down; 16-byte aligned.
    pub fn top(&self) -> u64 {
        self.top
    }
}

impl Drop for KernelStack {
    fn drop(&mut self) {
        // Has room: see `new`.
        STACKS.lock().free.push(self.top);
    }
}

/// Are these bytes of a stack mapped?
pub fn is_mapped(va: u64, len: u64) -> bool {
    (va & (SLOT - 1)) >= SLOT - SIZE && (va & (SLOT - 1)) + len <= SLOT && paging::stack_page(va).is_some()
}
