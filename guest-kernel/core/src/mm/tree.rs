//! The ordered set of mappings of an address space. Pure bookkeeping: no page tables, no locks.
//!
//! Invariants: mappings do not overlap, are not empty, are page-aligned; two neighbours that could be one
//! mapping are one. [`Totals`] always equals the sum over the mappings.
//!
//! The search for free space is top-down first fit. To keep it short with many mappings, two numbers from
//! the last search are kept: every gap above `hint` is at most `hint_gap` long, so a longer request starts
//! at `hint`. The answer is the same as that of a full search.

use alloc::{collections::BTreeMap, vec::Vec};
use core::ops::Range;

use ringfence_hal::Prot;

use super::{VmFlags, Vma};

/// Sizes of an address space, in pages, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// All mappings.
    pub all: u64,
    /// Private writable mappings other than stacks (what `RLIMIT_DATA` counts).
    pub data: u64,
    /// Mappings that grow downward.
    pub stack: u64,
    /// Executable, not writable mappings.
    pub exec: u64,
    /// Locked mappings.
    pub locked: u64,
    /// Mappings that count as promised memory.
    pub committed: u64,
}

impl Totals {
    /// Adds the sizes of one mapping.
    pub fn add(&mut self, vma: &Vma) {
        self.apply(vma, u64::saturating_add);
    }

    fn sub(&mut self, vma: &Vma) {
        self.apply(vma, u64::saturating_sub);
    }

    fn apply(&mut self, vma: &Vma, f: fn(u64, u64) -> u64) {
        let n = vma.pages();
        self.all = f(self.all, n);
        if vma.flags.contains(VmFlags::GROWSDOWN) {
            self.stack = f(self.stack, n);
        } else if vma.prot.contains(Prot::WRITE) && !vma.is_shared() {
            self.data = f(self.data, n);
        } else if vma.prot.contains(Prot::EXEC) && !vma.prot.contains(Prot::WRITE) {
            self.exec = f(self.exec, n);
        }
        if vma.flags.contains(VmFlags::LOCKED) {
            self.locked = f(self.locked, n);
        }
        if vma.flags.contains(VmFlags::ACCOUNT) {
            self.committed = f(self.committed, n);
        }
    }
}

/// The set of mappings. See the module's head.
#[derive(Default)]
pub struct VmaTree {
    map: BTreeMap<u64, Vma>,
    totals: Totals,
    hint: u64,
    hint_gap: u64,
}

impl VmaTree {
    /// An empty set.
    pub const fn new() -> Self {
        VmaTree {
            map: BTreeMap::new(),
            totals: Totals { all: 0, data: 0, stack: 0, exec: 0, locked: 0, committed: 0 },
            hint: 0,
            hint_gap: u64::MAX,
        }
    }

    /// A set from mappings in ascending order that satisfy the invariants (a forked copy).
    pub(super) fn from_sorted(vmas: impl Iterator<Item = Vma>) -> Self {
        let mut totals = Totals::default();
        let map = vmas.inspect(|v| totals.add(v)).map(|v| (v.start, v)).collect();
        VmaTree { map, totals, hint: 0, hint_gap: u64::MAX }
    }

    /// Number of mappings.
    pub fn count(&self) -> usize {
        self.map.len()
    }

    /// Sizes by kind.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// All mappings in ascending order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Vma> {
        self.map.values()
    }

    /// The mapping that contains `addr`.
    pub fn find(&self, addr: u64) -> Option<&Vma> {
        self.map.range(..=addr).next_back().map(|(_, v)| v).filter(|v| addr < v.end)
    }

    /// The first mapping that ends after `addr`.
    pub fn find_at_or_after(&self, addr: u64) -> Option<&Vma> {
        self.find(addr).or_else(|| self.map.range(addr..).next().map(|(_, v)| v))
    }

    /// The last mapping that starts before `addr`.
    pub fn find_before(&self, addr: u64) -> Option<&Vma> {
        self.map.range(..addr).next_back().map(|(_, v)| v)
    }

    /// The mappings that overlap `range`, in ascending order.
    pub fn overlapping(&self, range: Range<u64>) -> impl DoubleEndedIterator<Item = &Vma> {
        let first = self.find(range.start).map_or(range.start, |v| v.start);
        self.map.range(first..range.end.max(first)).map(|(_, v)| v)
    }

    /// Whether every page of `range` is mapped.
    pub fn covers(&self, range: Range<u64>) -> bool {
        let mut at = range.start;
        for vma in self.overlapping(range.clone()) {
            if vma.start > at {
                return false;
            }
            at = vma.end;
        }
        at >= range.end
    }

    /// Adds a mapping, joining it with its neighbours where possible.
    ///
    /// Precondition: it overlaps nothing.
    pub fn insert(&mut self, vma: Vma) {
        self.totals.add(&vma);
        let start = vma.start;
        let end = vma.end;
        if let Some((_, before)) = self.map.range_mut(..start).next_back()
            && before.merges_with(&vma)
        {
            before.absorb(&vma);
        } else {
            self.map.insert(start, vma);
        }
        self.merge_at(end);
    }

    /// Removes everything in `range`, cutting mappings at its ends. Returns what was removed.
    pub fn remove(&mut self, range: Range<u64>) -> Vec<Vma> {
        let removed = self.take(range.clone());
        if !removed.is_empty() {
            self.note_gap_around(range.start);
        }
        removed
    }

    /// Changes the mappings in `range` (cut at its ends), then joins what has become alike.
    pub fn update(&mut self, range: Range<u64>, mut change: impl FnMut(&mut Vma)) {
        self.split_at(range.start);
        self.split_at(range.end);
        let mut seams: Vec<u64> = Vec::new();
        for (_, vma) in self.map.range_mut(range.clone()) {
            self.totals.sub(vma);
            change(vma);
            self.totals.add(vma);
            seams.push(vma.start);
        }
        for seam in seams {
            self.merge_at(seam);
        }
        self.merge_at(range.end);
    }

    /// Moves the start of the mapping at `old` to `new` (stack growth, or shrinking the front).
    ///
    /// Precondition: nothing lies between, `new` is below its end.
    pub fn move_start(&mut self, old: u64, new: u64) {
        if let Some(mut vma) = self.map.remove(&old) {
            self.totals.sub(&vma);
            vma.start = new;
            self.totals.add(&vma);
            self.map.insert(new, vma);
        }
    }

    /// Finds `len` free bytes as high as possible in `range`, or None.
    ///
    /// Precondition: `len` is page-aligned and not 0.
    pub fn find_gap(&mut self, len: u64, range: Range<u64>) -> Option<u64> {
        let mut longest = 0;
        let mut top = range.end;
        if len > self.hint_gap && self.hint < top {
            top = self.hint;
            longest = self.hint_gap;
        }
        // The lowest mapping above `top` may be a stack whose guard gap reaches below it.
        let mut ceiling = top;
        if let Some((_, above)) = self.map.range(top..).next() {
            ceiling = ceiling.min(above.start_with_guard());
        }
        for (_, vma) in self.map.range(..top).rev() {
            let floor = vma.end.max(range.start);
            if let Some(gap) = ceiling.checked_sub(floor) {
                if gap >= len {
                    return self.remember(ceiling, longest, ceiling - len);
                }
                longest = longest.max(gap);
            }
            ceiling = ceiling.min(vma.start_with_guard());
            if ceiling <= range.start {
                return None;
            }
        }
        match ceiling.checked_sub(range.start) {
            Some(gap) if gap >= len => self.remember(ceiling, longest, ceiling - len),
            _ => None,
        }
    }

    /// The same from below, for `MAP_32BIT` and address ranges searched upward.
    pub fn find_gap_upward(&self, len: u64, range: Range<u64>) -> Option<u64> {
        let mut floor = range.start;
        for vma in self.overlapping(range.start..u64::MAX) {
            let ceiling = vma.start_with_guard().min(range.end);
            if ceiling >= floor && ceiling - floor >= len {
                return Some(floor);
            }
            floor = floor.max(vma.end);
            if floor >= range.end {
                return None;
            }
        }
        (range.end.checked_sub(floor)? >= len).then_some(floor)
    }

    fn remember(&mut self, hint: u64, gap: u64, found: u64) -> Option<u64> {
        self.hint = hint;
        self.hint_gap = gap;
        Some(found)
    }

    /// A gap appeared or grew around `addr`: the hint must not be below its upper end.
    fn note_gap_around(&mut self, addr: u64) {
        let top = self.map.range(addr..).next().map_or(u64::MAX, |(start, _)| *start);
        if top > self.hint {
            self.hint = top;
            if top == u64::MAX {
                self.hint_gap = u64::MAX;
            }
        }
    }

    fn take(&mut self, range: Range<u64>) -> Vec<Vma> {
        self.split_at(range.start);
        self.split_at(range.end);
        let starts: Vec<u64> = self.map.range(range).map(|(start, _)| *start).collect();
        let mut removed = Vec::with_capacity(starts.len());
        for start in starts {
            if let Some(vma) = self.map.remove(&start) {
                self.totals.sub(&vma);
                removed.push(vma);
            }
        }
        removed
    }

    /// Cuts the mapping that has `addr` strictly inside.
    fn split_at(&mut self, addr: u64) {
        let Some((_, vma)) = self.map.range_mut(..addr).next_back() else { return };
        if addr < vma.end {
            let upper = vma.part(addr, vma.end);
            vma.end = addr;
            self.map.insert(addr, upper);
        }
    }

    /// Joins the mapping that ends at `addr` with the one that starts there, if they are alike.
    fn merge_at(&mut self, addr: u64) {
        let Some(after) = self.map.get(&addr) else { return };
        let Some((_, before)) = self.map.range(..addr).next_back() else { return };
        if !before.merges_with(after) {
            return;
        }
        if let Some(after) = self.map.remove(&addr)
            && let Some((_, before)) = self.map.range_mut(..addr).next_back()
        {
            before.absorb(&after);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mm::{Backing, PAGE_SIZE};
    use proptest::prelude::*;

    const PAGES: u64 = 48;
    const BASE: u64 = 0x10000;

    /// The model: what each page is, by a small number (0 = free).
    #[derive(Clone, Debug)]
    enum Op {
        Map { at: u64, len: u64, kind: u8 },
        Unmap { at: u64, len: u64 },
        Protect { at: u64, len: u64, kind: u8 },
        Gap { len: u64 },
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let at = 0..PAGES;
        let len = 1..10u64;
        proptest::collection::vec(
            prop_oneof![
                (at.clone(), len.clone(), 1..4u8).prop_map(|(at, len, kind)| Op::Map { at, len, kind }),
                (at.clone(), len.clone()).prop_map(|(at, len)| Op::Unmap { at, len }),
                (at, len.clone(), 1..4u8).prop_map(|(at, len, kind)| Op::Protect { at, len, kind }),
                len.prop_map(|len| Op::Gap { len }),
            ],
            1..80,
        )
    }

    fn prot(kind: u8) -> Prot {
        match kind {
            1 => Prot::READ,
            2 => Prot::READ | Prot::WRITE,
            _ => Prot::READ | Prot::EXEC,
        }
    }

    fn addr(page: u64) -> u64 {
        BASE + page * PAGE_SIZE
    }

    fn full_search(model: &[u8], len: u64) -> Option<u64> {
        let len = len as usize;
        (0..=model.len().checked_sub(len)?)
            .rev()
            .find(|&i| model[i..i + len].iter().all(|&k| k == 0))
            .map(|i| addr(i as u64))
    }

    proptest! {
        #[test]
        fn behaves_like_an_array_of_pages(ops in ops()) {
            let mut tree = VmaTree::new();
            let mut model = [0u8; PAGES as usize];
            for op in ops {
                match op {
                    Op::Map { at, len, kind } => {
                        let end = (at + len).min(PAGES);
                        tree.remove(addr(at)..addr(end));
                        tree.insert(Vma::new(addr(at), addr(end), prot(kind), VmFlags::empty(), Backing::Anonymous));
                        model[at as usize..end as usize].fill(kind);
                    }
                    Op::Unmap { at, len } => {
                        let end = (at + len).min(PAGES);
                        tree.remove(addr(at)..addr(end));
                        model[at as usize..end as usize].fill(0);
                    }
                    Op::Protect { at, len, kind } => {
                        let end = (at + len).min(PAGES);
                        tree.update(addr(at)..addr(end), |v| v.prot = prot(kind));
                        for page in &mut model[at as usize..end as usize] {
                            if *page != 0 { *page = kind; }
                        }
                    }
                    Op::Gap { len } => {
                        let found = tree.find_gap(len * PAGE_SIZE, addr(0)..addr(PAGES));
                        prop_assert_eq!(found, full_search(&model, len));
                    }
                }
                // Same pages, same protections.
                for (i, &kind) in model.iter().enumerate() {
                    let vma = tree.find(addr(i as u64) + 5);
                    prop_assert_eq!(vma.map(|v| v.prot), (kind != 0).then(|| prot(kind)));
                }
                // As few mappings as there are runs, no overlap, totals right.
                let mut runs = 0;
                let mut last = 0;
                for &kind in &model {
                    if kind != 0 && (last == 0 || prot(kind) != prot(last)) { runs += 1; }
                    last = kind;
                }
                prop_assert_eq!(tree.count(), runs);
                let mut totals = Totals::default();
                let mut end = 0;
                for v in tree.iter() {
                    prop_assert!(v.start >= end && v.start < v.end);
                    end = v.end;
                    totals.add(v);
                }
                prop_assert_eq!(totals, tree.totals());
            }
        }
    }

    #[test]
    fn a_stack_keeps_its_guard_gap() {
        let mut tree = VmaTree::new();
        let top = 0x1000_0000;
        tree.insert(Vma::new(top - PAGE_SIZE, top, prot(2), VmFlags::GROWSDOWN, Backing::Anonymous));
        let found = tree.find_gap(PAGE_SIZE, 0x10000..top);
        assert_eq!(found, Some(top - PAGE_SIZE - crate::mm::STACK_GUARD_GAP - PAGE_SIZE));
    }
}
