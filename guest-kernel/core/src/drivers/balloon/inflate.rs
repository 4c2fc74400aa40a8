//! The balloon itself: pages that the host wants for itself.
//!
//! The host sets a target. The balloon is inflated by taking blocks off the allocator ([`Held`]) and sending their page frame
//! numbers, [`PFNS`] a request; the host takes the memory, and nobody here uses the pages until the balloon is deflated, which
//! only gives them back to the allocator: the host makes a page of its own when one is touched again. (A driver that was not
//! told to must not tell the host before, and the host learns nothing from the deflate queue that `actual` does not say, so it is
//! not used.)
//!
//! Linux's driver takes pages as any allocation does, and gives some back when memory runs out (`DEFLATE_ON_OOM`). So do we: caches
//! go first, but twice the kernel's reserve and [`MARGIN`] of memory stay. What is missing is taken when somebody frees memory. Before
//! a process is killed for memory the balloon is deflated ([`give_back`]), and then stays as it is until the host sets
//! another target: otherwise the two would go on for ever. MemTotal stays what it is, as Linux's does with `DEFLATE_ON_OOM`.
//!
//! Locks: the list of blocks is a sleeping one; the allocator's is taken inside it.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use ringfence_hal as hal;
use ringfence_hal::{dma::DmaBuffer, frames::Held};

use super::{BALLOON, Balloon, Buffer};
use crate::{TaskRef, mm::reclaim, sched, sync::Mutex};

/// Page frame numbers of a request: a page of them.
const PFNS: usize = hal::PAGE_SIZE / 4;
/// The part of memory that is left free, one in so many.
const MARGIN: usize = 32;
/// Fields of the device's configuration.
const NUM_PAGES: usize = 0;
const ACTUAL: usize = 4;

struct Pages {
    blocks: Vec<Held>,
    /// Frames in them.
    frames: usize,
}

static PAGES: Mutex<Pages> = Mutex::new(Pages { blocks: Vec::new(), frames: 0 });
/// The guest needed its memory back.
static YIELDED: AtomicBool = AtomicBool::new(false);

/// Takes at least `frames` frames out of the balloon, if there are as many; how many there were. Called when memory has run out,
/// without spin locks.
pub fn give_back(frames: usize) -> usize {
    let Some(balloon) = BALLOON.get() else { return 0 };
    let mut pages = PAGES.lock();
    if pages.blocks.is_empty() {
        return 0;
    }
    YIELDED.store(true, Ordering::Relaxed);
    let least = pages.frames.saturating_sub(frames);
    let before = pages.frames;
    pages.deflate(least);
    balloon.tell_actual(&pages);
    before.saturating_sub(pages.frames)
}

impl Pages {
    /// Drops blocks until no more than `most` frames are left.
    fn deflate(&mut self, most: usize) {
        while self.frames > most
            && let Some(block) = self.blocks.pop()
        {
            self.frames = self.frames.saturating_sub(block.frames());
        }
    }
}

impl Balloon {
    /// Does what the host wants. `changed`: it has just said so.
    pub(super) fn follow_target(&self, task: &TaskRef, changed: bool) {
        if changed {
            YIELDED.store(false, Ordering::Relaxed);
        } else if PAGES.lock().blocks.is_empty() || YIELDED.load(Ordering::Relaxed) {
            return; // nothing was wanted, and a look at the device is an exit
        }
        let target = self.transport.config_u32(NUM_PAGES) as usize;
        let before = {
            let mut pages = PAGES.lock();
            let before = pages.frames;
            pages.deflate(target);
            before
        };
        let mut caches = true;
        let mut buffer = None;
        while !YIELDED.load(Ordering::Relaxed) {
            sched::preempt_point(task);
            match self.inflate(task, target, &mut buffer) {
                0 if caches => {
                    caches = false;
                    if PAGES.lock().frames >= target || reclaim::run() == 0 {
                        break;
                    }
                }
                0 => break,
                _ => {}
            }
        }
        let pages = PAGES.lock();
        if changed || pages.frames != before {
            self.tell_actual(&pages);
        }
    }

    /// One request's worth of pages; how many the host has got.
    fn inflate(&self, task: &TaskRef, target: usize, buffer: &mut Option<DmaBuffer>) -> usize {
        let mut wanted = target.saturating_sub(PAGES.lock().frames).min(PFNS);
        let keep = hal::frames::total() / MARGIN;
        let mut blocks = Vec::new();
        let mut taken = 0;
        if buffer.is_none() && wanted > 0 {
            *buffer = DmaBuffer::alloc(hal::PAGE_SIZE).ok();
        }
        let Some(buffer) = buffer else { return 0 };
        while wanted > 0
            && blocks.try_reserve(1).is_ok()
            && let Some(block) = Held::take(wanted, keep)
        {
            for n in 0..block.frames() {
                buffer.store_u32(4 * (taken + n), (block.pfn() + n as u64) as u32);
            }
            taken += block.frames();
            wanted = wanted.saturating_sub(block.frames());
            blocks.push(block);
        }
        if taken == 0 {
            return 0;
        }
        let request = Buffer { phys: buffer.phys(), len: 4 * taken as u32, writable: false };
        if !self.hand_over(task, &self.inflate, request) {
            return 0;
        }
        blocks.iter().for_each(Held::set_given);
        let mut pages = PAGES.lock();
        if pages.blocks.try_reserve(blocks.len()).is_err() {
            return 0; // they are the guest's again
        }
        pages.frames += taken;
        pages.blocks.append(&mut blocks);
        taken
    }

    fn tell_actual(&self, pages: &Pages) {
        self.transport.set_config_u32(ACTUAL, u32::try_from(pages.frames).unwrap_or(u32::MAX));
    }
}
