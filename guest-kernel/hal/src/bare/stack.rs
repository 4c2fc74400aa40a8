//! Kernel stacks: 32 KiB each, below 32 KiB that are never mapped, so that an overflow is a double fault and not
//! another thread's memory.
//!
//! A stack stays mapped when its thread is gone and is given to the next one, so TLBs need not be told of a change. When more
//! than [`KEEP`] and a [`BATCH`] are free, after a burst of threads, a batch of them is unmapped, all CPUs forget the kernel's
//! translations, and the frames go back to the allocator: one round of interrupts for 1 MiB.
//! The pages were never touched before the first use, and deeper ones perhaps never are.

use super::layout::{STACK_BASE, STACK_LIMIT};
use super::{frames, paging, tlb};
use crate::OutOfMemory;
use crate::sync::SpinLock;
use alloc::vec::Vec;

/// Bytes of a stack.
pub const SIZE: u64 = 32 << 10;
/// Distance between stacks.
const SLOT: u64 = 64 << 10;

/// Stacks that stay mapped while nobody uses them.
const KEEP: usize = 64;
/// Stacks unmapped at once.
const BATCH: usize = 32;

struct Stacks {
    /// Slots handed out so far.
    slots: u64,
    /// Tops of stacks that wait for a thread.
    free: Vec<u64>,
    /// Tops of slots whose pages were taken back.
    unmapped: Vec<u64>,
}

static STACKS: SpinLock<Stacks> = SpinLock::new(Stacks { slots: 0, free: Vec::new(), unmapped: Vec::new() });

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
        if let Some(top) = s.unmapped.last().copied() {
            map(top)?;
            s.unmapped.pop();
            return Ok(Self { top });
        }
        let top = STACK_BASE + (s.slots + 1) * SLOT;
        if top > STACK_BASE + STACK_LIMIT {
            return Err(OutOfMemory);
        }
        // Room for it to come back: dropping must not fail.
        let total = s.slots as usize + 1;
        let Stacks { free, unmapped, .. } = &mut *s;
        for list in [free, unmapped] {
            list.try_reserve(total.saturating_sub(list.len())).map_err(|_| OutOfMemory)?;
        }
        map(top)?;
        s.slots += 1;
        Ok(Self { top })
    }

    /// The end of the stack, where it begins to grow down; 16-byte aligned.
    pub fn top(&self) -> u64 {
        self.top
    }
}

/// Maps the pages of the stack that ends at `top`, as far as they are not.
fn map(top: u64) -> Result<(), OutOfMemory> {
    for va in (top - SIZE..top).step_by(4096) {
        // A failure leaves the pages mapped in part: they are used when the slot is tried again.
        if paging::stack_page(va).is_none() {
            let page = frames::alloc_page(true).ok_or(OutOfMemory)?;
            if paging::map_stack_page(va, page).is_err() {
                frames::free_page(page);
                return Err(OutOfMemory);
            }
        }
    }
    Ok(())
}

impl Drop for KernelStack {
    fn drop(&mut self) {
        let mut s = STACKS.lock();
        // Has room: see `new`.
        s.free.push(self.top);
        if s.free.len() >= KEEP + BATCH {
            let mut batch = [0; BATCH];
            for top in &mut batch {
                *top = s.free.pop().unwrap_or(0);
            }
            drop(s);
            give_back(&batch);
        }
    }
}

/// Gives the pages of free stacks back to the allocator.
#[cold]
fn give_back(tops: &[u64; BATCH]) {
    const PAGES: usize = (SIZE / 4096) as usize;
    let mut pages = [[0; PAGES]; BATCH];
    for (top, pages) in tops.iter().zip(&mut pages) {
        for (va, page) in (top - SIZE..*top).step_by(4096).zip(pages) {
            *page = paging::unmap_stack_page(va).unwrap_or(0);
        }
    }
    // Nobody uses these addresses; but the processor may have kept where they led to.
    tlb::flush_kernel();
    for page in pages.as_flattened().iter().filter(|page| **page != 0) {
        frames::free_page(*page);
    }
    let mut s = STACKS.lock();
    // Has room: see `new`.
    s.unmapped.extend_from_slice(tops);
}

/// Are these bytes of a stack mapped?
pub fn is_mapped(va: u64, len: u64) -> bool {
    (va & (SLOT - 1)) >= SLOT - SIZE && (va & (SLOT - 1)) + len <= SLOT && paging::stack_page(va).is_some()
}
