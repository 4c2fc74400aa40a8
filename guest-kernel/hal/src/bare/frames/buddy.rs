//! The buddy allocator: free blocks of 2^order frames.
//!
//! RAM that was never used is not in the free lists: each region has a cursor, and blocks are cut off there
//! when the lists are empty. So frames that are already backed by the host are used again first, and
//! the metadata of untouched memory stays untouched.

use super::meta::{Meta, flag, meta, state};
use arrayvec::ArrayVec;
use core::sync::atomic::Ordering::Relaxed;

/// Orders 0..=12: blocks up to 16 MiB.
pub const MAX_ORDER: usize = 12;
/// Blocks cut off the untouched regions have this order where alignment and space allow it.
const CUT_ORDER: usize = 9;

struct Region {
    cursor: u64,
    end: u64,
}

/// Free memory. Under one lock, a leaf of the lock order (nothing is locked inside).
pub struct Buddy {
    /// Heads of the free lists; 0 is empty (frame 0 is never managed). For each order two: blocks that the host may back
    /// with memory, and those it does not ([`flag::REPORTED`]).
    lists: [[u32; 2]; MAX_ORDER + 1],
    untouched: ArrayVec<Region, 40>,
    /// Free frames, in lists and in untouched regions.
    free: usize,
}

impl Buddy {
    pub const fn new() -> Self {
        Self { lists: [[0; 2]; MAX_ORDER + 1], untouched: ArrayVec::new_const(), free: 0 }
    }

    /// Adds a range of never-used, zeroed frames.
    pub fn add_untouched(&mut self, start: u64, end: u64) {
        if start < end && self.untouched.try_push(Region { cursor: start, end }).is_ok() {
            self.free += (end - start) as usize;
        }
    }

    /// Free frames.
    pub fn free_count(&self) -> usize {
        self.free
    }

    /// Takes a block. Its head is marked `USED`.
    pub fn alloc(&mut self, order: usize) -> Option<u64> {
        if order > MAX_ORDER {
            return None;
        }
        loop {
            if let Some(o) = (order..=MAX_ORDER).find(|o| self.lists[*o] != [0; 2]) {
                let [backed, reported] = self.lists[o];
                let pfn = u64::from(if backed != 0 { backed } else { reported });
                self.unlink(pfn);
                let reported = meta(pfn).has(flag::REPORTED);
                for half in (order..o).rev() {
                    self.link(pfn + (1 << half), half, reported);
                }
                let m = meta(pfn);
                m.set_state(state::USED);
                m.order.store(order as u8, Relaxed);
                m.change(0, flag::REPORTED);
                self.free -= 1 << order;
                return Some(pfn);
            }
            if !self.cut(order) {
                return None;
            }
        }
    }

    /// Gives a block back, merged with its free neighbours.
    pub fn free(&mut self, pfn: u64, order: usize) {
        self.free += 1 << order;
        self.insert(pfn, order, false);
    }

    fn insert(&mut self, mut pfn: u64, mut order: usize, mut reported: bool) {
        meta(pfn).set_state(state::NONE);
        while order < MAX_ORDER {
            let buddy = pfn ^ 1 << order;
            if buddy + (1 << order) > super::meta::count() {
                break;
            }
            let m = meta(buddy);
            if m.state() != state::FREE || m.order() != order {
                break;
            }
            reported &= m.has(flag::REPORTED);
            self.unlink(buddy);
            m.set_state(state::NONE);
            pfn &= !(1 << order);
            order += 1;
        }
        self.link(pfn, order, reported);
    }

    fn link(&mut self, pfn: u64, order: usize, reported: bool) {
        let m = meta(pfn);
        m.set_state(state::FREE);
        m.order.store(order as u8, Relaxed);
        m.change(if reported { flag::REPORTED } else { 0 }, flag::REPORTED);
        let list = &mut self.lists[order][usize::from(reported)];
        let head = *list;
        *list = pfn as u32;
        m.next.store(head, Relaxed);
        m.prev.store(0, Relaxed);
        if head != 0 {
            meta(head.into()).prev.store(pfn as u32, Relaxed);
        }
    }

    fn unlink(&mut self, pfn: u64) {
        let m: &Meta = meta(pfn);
        let (next, prev) = (m.next.load(Relaxed), m.prev.load(Relaxed));
        match prev {
            0 => self.lists[m.order()][usize::from(m.has(flag::REPORTED))] = next,
            p => meta(p.into()).next.store(next, Relaxed),
        }
        if next != 0 {
            meta(next.into()).prev.store(prev, Relaxed);
        }
    }

    /// Moves one block from the untouched regions to the lists: large enough for `order` if it can be.
    fn cut(&mut self, order: usize) -> bool {
        let Some(r) = self.untouched.iter_mut().find(|r| r.cursor < r.end) else { return false };
        let fits = (r.end - r.cursor).ilog2() as usize;
        let aligned = r.cursor.trailing_zeros() as usize;
        let cut = order.max(CUT_ORDER).min(fits).min(aligned);
        let at = r.cursor;
        r.cursor += 1 << cut;
        self.insert(at, cut, true);
        true
    }

    /// Takes one block of at least `min_order` that the host has not been told about, for reporting.
    pub fn isolate_unreported(&mut self, min_order: usize) -> Option<(u64, usize)> {
        let order = (min_order..=MAX_ORDER).rev().find(|order| self.lists[*order][0] != 0)?;
        let pfn = u64::from(self.lists[order][0]);
        self.unlink(pfn);
        meta(pfn).set_state(state::USED);
        self.free -= 1 << order;
        Some((pfn, order))
    }

    /// Gives back what [`Buddy::isolate_unreported`] took.
    pub fn put_back(&mut self, pfn: u64, order: usize, reported: bool) {
        self.free += 1 << order;
        self.insert(pfn, order, reported);
    }
}
