//! User page tables.
//!
//! A four-level tree whose kernel half is the same in every space. Entries are changed under a spin lock.
//! A leaf entry that is not zero owns one reference to its frame, whether the processor sees it or not
//! (`PROT_NONE` keeps the frame and clears only the present bit). A table page counts its used entries (of the root: those of
//! the user half) in its frame's metadata, and is freed when the last one goes: all zero, so that it need not be cleared when it
//! is used again.
//!
//! Nothing is released before every CPU has forgotten it: what an operation removes is collected in a
//! [`Gather`], flushed ([`tlb::flush`]), and only then dropped.
//!
//! **Large pages.** An entry of the second level that has [`LARGE`] set maps 2 MiB and owns one reference to each of the
//! 512 frames. Whatever concerns only a part of it *splits* it first: into a table of 512 entries. The page for that
//! table is set aside when the large page is mapped (a *deposit*, in a list in the metadata of the table above), so that
//! splitting cannot fail. Between the two forms the entry is empty and flushed, so that no processor has translations of
//! different sizes for one address.
//!
//! Lock order: parent space, child space (only during fork, where the child is not yet used), frame allocator.

use super::frames::{
    self, Frame, HugeFrame,
    huge::{is_exclusive, share},
    meta::meta,
};
use super::layout::window_ptr;
use super::paging::{
    ACCESSED, ADDRESS, DIRTY, LARGE, NO_EXECUTE, PRESENT, STATIC, Table, USER, WRITE, index, kernel_entries,
    prot_of, table, user_flags,
};
use super::tlb;
use crate::sync::SpinLock;
use crate::{ForkMode, HUGE_PAGES, MapError, Mapping, OutOfMemory, PAGE_SIZE, Prot, USER_END};
use alloc::sync::Arc;
use arrayvec::ArrayVec;
use core::ops::Range;
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicU64, AtomicUsize};

const PAGE: u64 = PAGE_SIZE as u64;
/// An entry of an upper level.
const LINK: u64 = PRESENT | WRITE | USER;
/// Bytes of a large page.
const HUGE: u64 = PAGE * HUGE_PAGES as u64;

/// The user half of an address space.
///
/// All ranges are page-aligned and in the user half; anything else panics.
pub struct AddressSpace {
    root: u64,
    /// Guards the tree.
    lock: SpinLock<()>,
    /// CPUs that have the root in CR3.
    pub(super) cpus: AtomicU64,
    /// Raised by every flush.
    pub(super) generation: AtomicU64,
    resident: AtomicUsize,
    tables: AtomicUsize,
    huge: AtomicUsize,
}

/// What a walk does with large pages.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Large {
    /// Visits each as one entry.
    Visit,
    /// Visits those that lie in the range as one entry, and splits those of which only a part does.
    SplitPartial,
    /// Splits all.
    Split,
}

/// Frames and tables taken out of the tree.
struct Gather {
    leaves: ArrayVec<u64, 200>,
    tables: ArrayVec<u64, 24>,
}

impl Gather {
    fn new() -> Self {
        Self { leaves: ArrayVec::new_const(), tables: ArrayVec::new_const() }
    }

    /// Room for one more leaf and the tables that may go with it?
    fn is_full(&self) -> bool {
        self.leaves.is_full() || self.tables.remaining_capacity() < 3
    }

    fn is_empty(&self) -> bool {
        self.leaves.is_empty() && self.tables.is_empty()
    }

    /// Lets go, after the flush.
    fn release(self) {
        for e in self.leaves {
            if e & LARGE != 0 {
                // SAFETY: the entry's references, taken out of the tree once.
                drop(unsafe { HugeFrame::from_raw(e & ADDRESS) });
            } else {
                // SAFETY: as above.
                drop(unsafe { frame_of(e) });
            }
        }
        for t in self.tables {
            frames::free_zeroed_page(t);
        }
    }
}

/// # Safety
/// The caller has the entry's reference and uses it once.
unsafe fn frame_of(entry: u64) -> Frame {
    // SAFETY: by the caller.
    unsafe { Frame::from_raw(entry & ADDRESS, entry & STATIC != 0) }
}

/// The entry that takes over the reference of `frame`.
fn entry_for(frame: Frame, prot: Prot) -> u64 {
    assert!(!(frame.is_static() && prot.contains(Prot::WRITE)), "a static page is read-only");
    let (phys, is_static) = frame.into_raw();
    phys | user_flags(prot) | if is_static { STATIC } else { 0 }
}

/// Whether a processor that knows the entry `old` must forget it, although the same frame stays mapped with the rights
/// `prot`. Not if it gains rights only: a processor that does not know finds out by a fault, which makes it forget the entry
/// (AMD64 Architecture Programmer's Manual 2, 5.5.2; Intel SDM 3, 4.10.4.1), and whose handler sees that all is well. An
/// entry that was writable may be known as dirty, so it is not left.
fn must_flush(old: u64, prot: Prot) -> bool {
    old & WRITE != 0 || !prot.contains(prot_of(old))
}

fn check(range: &Range<u64>) {
    assert!(
        range.start <= range.end && range.end <= USER_END && (range.start | range.end).is_multiple_of(PAGE),
        "bad user range"
    );
}

/// Used entries of the table at `phys`.
fn used(phys: u64) -> &'static core::sync::atomic::AtomicU32 {
    &meta(phys >> 12).refs
}

/// Counts entry `at` of the table at `phys` as used.
#[inline]
fn add_used(phys: u64, at: usize) {
    let m = meta(phys >> 12);
    m.refs.store(m.refs.load(Relaxed) + 1, Relaxed);
    m.prev.store(m.prev.load(Relaxed) | 1 << (at / GROUP), Relaxed);
}

/// Entries that share a bit of their table's `prev`: set if one of them is in use, or was when they were last looked through.
const GROUP: usize = 16;

/// The first used entry from `from` on of the table `t` at `phys`; 512 if there is none. Under the lock.
#[inline]
fn next_used(phys: u64, t: &Table, from: usize) -> usize {
    let groups = &meta(phys >> 12).prev;
    let mut at = from;
    while let Some(entry) = t.0.get(at)
        && entry.load(Relaxed) == 0
    {
        if !at.is_multiple_of(GROUP) {
            at += 1;
            continue;
        }
        // Tables are mostly empty.
        let group = at / GROUP;
        let used = groups.load(Relaxed);
        let empty = (used >> group).trailing_zeros() as usize;
        if empty != 0 {
            at += empty * GROUP;
            continue;
        }
        match t.0[at..at + GROUP].iter().position(|entry| entry.load(Relaxed) != 0) {
            Some(i) => return at + i,
            None => {
                groups.store(used & !(1 << group), Relaxed);
                at += GROUP;
            }
        }
    }
    at.min(512)
}

/// Makes the frame at `phys` count as a table without entries.
fn no_entries(phys: u64) {
    let m = meta(phys >> 12);
    m.refs.store(0, Relaxed);
    m.next.store(0, Relaxed);
    m.prev.store(0, Relaxed);
}

/// Adds a page to those set aside for splitting the large pages of the table at `table`.
fn deposit(table: u64, page: u64) {
    let head = &meta(table >> 12).next;
    meta(page >> 12).next.store(head.load(Relaxed), Relaxed);
    head.store((page >> 12) as u32, Relaxed);
}

/// Takes one of them; there is one for each large page.
fn withdraw(table: u64) -> u64 {
    let head = &meta(table >> 12).next;
    let page = u64::from(head.load(Relaxed));
    assert!(page != 0, "a large page without a page set aside");
    head.store(meta(page).next.load(Relaxed), Relaxed);
    page << 12
}

/// Takes one off; true if none is left.
fn sub_used(phys: u64) -> bool {
    let n = used(phys).load(Relaxed) - 1;
    used(phys).store(n, Relaxed);
    n == 0
}

impl AddressSpace {
    /// An empty space.
    pub fn new() -> Result<Arc<Self>, OutOfMemory> {
        let root = frames::alloc_page_zeroed(true).ok_or(OutOfMemory)?;
        no_entries(root);
        // SAFETY: just allocated for this.
        let t = unsafe { table(root) };
        for (i, e) in kernel_entries() {
            t.0[i].store(e, Relaxed);
        }
        Ok(Arc::new(Self {
            root,
            lock: SpinLock::new(()),
            cpus: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            resident: AtomicUsize::new(0),
            tables: AtomicUsize::new(1),
            huge: AtomicUsize::new(0),
        }))
    }

    /// Physical address of the top table.
    pub(super) fn root(&self) -> u64 {
        self.root
    }

    /// The table that an entry points to.
    fn below(entry: &AtomicU64) -> Option<(u64, &'static Table)> {
        let e = entry.load(Relaxed);
        // SAFETY: a non-zero upper entry that is no large page points to a table, which stays while the lock is held.
        (e != 0 && e & LARGE == 0).then(|| (e & ADDRESS, unsafe { table(e & ADDRESS) }))
    }

    fn top(&self) -> &'static Table {
        // SAFETY: the root is a table as long as the space lives.
        unsafe { table(self.root) }
    }

    /// The leaf table of `va`, and its physical address. Under the lock.
    fn leaf(&self, va: u64) -> Option<(u64, &'static Table)> {
        let mut t = self.top();
        let mut phys = self.root;
        for level in [3, 2, 1] {
            (phys, t) = Self::below(&t.0[index(va, level)])?;
        }
        Some((phys, t))
    }

    /// The same, made if it is not there. `Present`: a large page is in its place.
    fn leaf_or_new(&self, va: u64) -> Result<(u64, &'static Table), MapError> {
        self.table_or_new(va, 1)
    }

    /// The table that an entry of `last` (1: a leaf table) points to, made with those above if it is not there.
    #[inline(always)]
    fn table_or_new(&self, va: u64, last: u32) -> Result<(u64, &'static Table), MapError> {
        let (mut phys, mut t) = (self.root, self.top());
        for level in (last..=3).rev() {
            let slot = &t.0[index(va, level)];
            (phys, t) = match Self::below(slot) {
                Some(found) => found,
                None if slot.load(Relaxed) != 0 => return Err(MapError::Present),
                None => {
                    let Some(new) = frames::alloc_page_zeroed(true) else {
                        self.prune(va);
                        return Err(MapError::OutOfMemory);
                    };
                    no_entries(new);
                    slot.store(new | LINK, Relaxed);
                    self.tables.fetch_add(1, Relaxed);
                    add_used(phys, index(va, level));
                    // SAFETY: just allocated.
                    (new, unsafe { table(new) })
                }
            };
        }
        Ok((phys, t))
    }

    /// Removes tables without entries on the way to `va`: what a failed [`Self::leaf_or_new`] made. No CPU can
    /// have used them.
    fn prune(&self, va: u64) {
        let mut gather = Gather::new();
        self.unlink_empty(va, &mut gather);
        for t in gather.tables {
            frames::free_zeroed_page(t);
        }
    }

    /// Unlinks the tables on the way to `va` that have no entries, from below.
    fn unlink_empty(&self, va: u64, gather: &mut Gather) {
        let mut path: ArrayVec<(u64, &'static AtomicU64, u32), 3> = ArrayVec::new_const();
        let mut t = self.top();
        for level in [3, 2, 1] {
            let slot = &t.0[index(va, level)];
            let Some((phys, below)) = Self::below(slot) else { break };
            path.push((phys, slot, level));
            t = below;
        }
        while let Some((phys, slot, _)) = path.pop() {
            if used(phys).load(Relaxed) != 0 {
                return;
            }
            slot.store(0, Relaxed);
            self.tables.fetch_sub(1, Relaxed);
            gather.tables.push(phys);
            sub_used(path.last().map_or(self.root, |&(parent, ..)| parent));
        }
    }

    /// The entry of the large page that `va` is in, and the table it is in. Under the lock.
    fn large(&self, va: u64) -> Option<(u64, &'static AtomicU64)> {
        let (_, t) = Self::below(&self.top().0[index(va, 3)])?;
        let (phys, t) = Self::below(&t.0[index(va, 2)])?;
        let slot = &t.0[index(va, 1)];
        (slot.load(Relaxed) & LARGE != 0).then_some((phys, slot))
    }

    /// Makes the large page of `slot`, an entry of the table at `parent` for the 2 MiB around `va`, a table of pages.
    fn split(&self, va: u64, parent: u64, slot: &AtomicU64) {
        let base = va & !(HUGE - 1);
        let leaf = withdraw(parent);
        // The processor may set bits until the entry is gone, so they are taken from what the swap finds.
        let old = slot.swap(0, Relaxed);
        if old & PRESENT != 0 {
            tlb::flush(self, base..base + HUGE, false);
        }
        // SAFETY: set aside for this, and nobody else has it.
        let t = unsafe { table(leaf) };
        for (i, entry) in t.0.iter().enumerate() {
            entry.store((old & !LARGE) + i as u64 * PAGE, Relaxed);
        }
        used(leaf).store(HUGE_PAGES as u32, Relaxed);
        meta(leaf >> 12).prev.store(u32::MAX, Relaxed);
        slot.store(leaf | LINK, core::sync::atomic::Ordering::Release);
        self.huge.fetch_sub(1, Relaxed);
    }

    /// Calls `f` with every used leaf entry of the range, its address and its table; skips what has no table. `f` returns
    /// false to stop. Returns the address after the last one looked at. Under the lock.
    fn walk(&self, range: Range<u64>, large: Large, mut f: impl FnMut(u64, u64, &AtomicU64) -> bool) -> u64 {
        let mut va = range.start;
        while va < range.end {
            let mut t = self.top();
            let mut phys = self.root;
            let mut missing = None;
            for level in [3, 2, 1] {
                match Self::below(&t.0[index(va, level)]) {
                    Some((p, below)) => (phys, t) = (p, below),
                    None => {
                        missing = Some(level);
                        break;
                    }
                }
            }
            if missing == Some(1)
                && let slot = &t.0[index(va, 1)]
                && slot.load(Relaxed) != 0
            {
                let base = va & !(HUGE - 1);
                let partial = va != base || range.end - base < HUGE;
                if large == Large::Split || (large == Large::SplitPartial && partial) {
                    self.split(va, phys, slot);
                    continue;
                }
                if !f(va, phys, slot) {
                    return base + HUGE;
                }
                va = base + HUGE;
                continue;
            }
            if let Some(level) = missing {
                let span = PAGE << (9 * level);
                va = (va & !(span - 1)) + span;
                continue;
            }
            let base = va & !(HUGE - 1);
            let end = base + HUGE.min(range.end - base);
            // Entries not met yet: when there are none, the rest of the table is empty.
            let mut left = used(phys).load(Relaxed);
            let mut at = index(va, 0);
            while left != 0 && base + (at as u64) * PAGE < end {
                at = next_used(phys, t, at);
                va = base + at as u64 * PAGE;
                if va >= end {
                    break;
                }
                if !f(va, phys, &t.0[at]) {
                    return va + PAGE;
                }
                left -= 1;
                at += 1;
            }
            va = end;
        }
        va.min(range.end)
    }

    /// Maps `frame` at `va`, where nothing is mapped.
    pub fn map_new(&self, va: u64, frame: Frame, prot: Prot) -> Result<(), MapError> {
        check(&(va..va.saturating_add(PAGE)));
        let _guard = self.lock.lock();
        let (phys, t) = self.leaf_or_new(va)?;
        let slot = &t.0[index(va, 0)];
        if slot.load(Relaxed) != 0 {
            return Err(MapError::Present);
        }
        // Somebody is about to access it: spare the processor the write of the bit.
        slot.store(entry_for(frame, prot) | ACCESSED, Relaxed);
        add_used(phys, index(va, 0));
        self.resident.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Maps those of `frames` that are there at the pages from `va` on, in the same 2 MiB, unless something is mapped there;
    /// takes them, and answers how many.
    pub fn map_around(&self, va: u64, frames: &mut [Option<Frame>], prot: Prot) -> usize {
        if frames.is_empty() {
            return 0;
        }
        let end = va.saturating_add((frames.len() * PAGE_SIZE) as u64);
        check(&(va..end));
        assert!((end - 1) >> 21 == va >> 21, "frames for several tables");
        let _guard = self.lock.lock();
        let Ok((phys, t)) = self.leaf_or_new(va) else { return 0 };
        let mut mapped = 0;
        for (at, frame) in (index(va, 0)..).zip(frames) {
            let slot = &t.0[at];
            if slot.load(Relaxed) == 0
                && let Some(frame) = frame.take()
            {
                slot.store(entry_for(frame, prot) | ACCESSED, Relaxed);
                add_used(phys, at);
                mapped += 1;
            }
        }
        self.resident.fetch_add(mapped, Relaxed);
        mapped
    }

    /// Whether a large page could be mapped around `va`: nothing is mapped in its 2 MiB.
    pub fn can_map_huge(&self, va: u64) -> bool {
        let base = va & !(HUGE - 1);
        check(&(base..base.saturating_add(HUGE)));
        let _guard = self.lock.lock();
        let Some((_, t)) = Self::below(&self.top().0[index(va, 3)]) else { return true };
        let Some((_, t)) = Self::below(&t.0[index(va, 2)]) else { return true };
        t.0[index(va, 1)].load(Relaxed) == 0
    }

    /// Maps a large page at `va`, a multiple of its size, where nothing is mapped in all its length.
    pub fn map_huge(&self, va: u64, frame: HugeFrame, prot: Prot) -> Result<(), MapError> {
        assert!(va.is_multiple_of(HUGE), "unaligned large page");
        check(&(va..va.saturating_add(HUGE)));
        let aside = frames::alloc_page(true).ok_or(MapError::OutOfMemory)?;
        let result = {
            let _guard = self.lock.lock();
            self.link_huge(va, aside, frame.into_raw() | user_flags(prot) | LARGE | ACCESSED)
        };
        if let Err((error, entry)) = result {
            frames::free_page(aside);
            // SAFETY: the references that `into_raw` gave up; the entry was not stored.
            drop(unsafe { HugeFrame::from_raw(entry & ADDRESS) });
            return Err(error);
        }
        Ok(())
    }

    /// Stores the entry of a large page and sets `aside` aside for it. On failure the entry comes back. Under the lock.
    fn link_huge(&self, va: u64, aside: u64, entry: u64) -> Result<(), (MapError, u64)> {
        let (phys, t) = self.table_or_new(va, 2).map_err(|e| (e, entry))?;
        let slot = &t.0[index(va, 1)];
        if slot.load(Relaxed) != 0 {
            return Err((MapError::Present, entry));
        }
        used(aside).store(0, Relaxed);
        deposit(phys, aside);
        slot.store(entry, Relaxed);
        add_used(phys, index(va, 1));
        self.resident.fetch_add(HUGE_PAGES, Relaxed);
        self.tables.fetch_add(1, Relaxed);
        self.huge.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Gives the large page around `va` the protection `prot`, write permission too, if its frames belong to this entry
    /// alone. False if there is no such page.
    pub fn own_huge(&self, va: u64, prot: Prot) -> bool {
        let base = va & !(HUGE - 1);
        check(&(base..base.saturating_add(HUGE)));
        let old = {
            let _guard = self.lock.lock();
            let Some((_, slot)) = self.large(va) else { return false };
            let e = slot.load(Relaxed);
            if !is_exclusive(e & ADDRESS) {
                return false;
            }
            slot.swap((e & (ADDRESS | DIRTY)) | user_flags(prot) | LARGE | ACCESSED, Relaxed)
        };
        if old & PRESENT != 0 && must_flush(old, prot) {
            tlb::flush(self, base..base + HUGE, false);
        }
        true
    }

    /// Makes the 2 MiB at `va`, a multiple of their size, a large page: copies what is mapped there into `frame`, which is
    /// all zero, and maps that with the protection `prot` instead. Cannot fail half-way: the table that was there is what
    /// is set aside. Returns how many pages were mapped; None, and nothing changes, if none was or it is a large page.
    pub fn collapse(&self, va: u64, frame: HugeFrame, prot: Prot) -> Option<usize> {
        assert!(va.is_multiple_of(HUGE), "unaligned large page");
        check(&(va..va.saturating_add(HUGE)));
        let _guard = self.lock.lock();
        let (_, t) = Self::below(&self.top().0[index(va, 3)])?;
        let (parent, t) = Self::below(&t.0[index(va, 2)])?;
        let slot = &t.0[index(va, 1)];
        let (leaf, pages) = Self::below(slot)?;
        // No processor may write to a page that is being copied, nor walk the table that is set aside.
        slot.store(0, Relaxed);
        tlb::flush(self, va..va + HUGE, true);
        let mut mapped = 0;
        for (i, entry) in pages.0.iter().enumerate() {
            let old = entry.swap(0, Relaxed);
            if old != 0 {
                // SAFETY: the entry's reference, taken out of the tree once.
                frame.copy_page(i, &unsafe { frame_of(old) });
                mapped += 1;
            }
        }
        used(leaf).store(0, Relaxed);
        deposit(parent, leaf);
        slot.store(frame.into_raw() | user_flags(prot) | LARGE | ACCESSED | DIRTY, Relaxed);
        self.resident.fetch_add(HUGE_PAGES - mapped, Relaxed);
        self.huge.fetch_add(1, Relaxed);
        Some(mapped)
    }

    /// Large pages mapped.
    pub fn huge_pages(&self) -> usize {
        self.huge.load(Relaxed)
    }

    /// Maps `frame` in place of the page with frame number `expect_pfn`, if that is still mapped at `va`: breaking
    /// copy-on-write, or giving a page more rights. The old page is released when no CPU uses it any more.
    pub fn replace(&self, va: u64, expect_pfn: u64, frame: Frame, prot: Prot) -> bool {
        check(&(va..va.saturating_add(PAGE)));
        let pfn = frame.pfn();
        let old = {
            let _guard = self.lock.lock();
            if let Some((parent, slot)) = self.large(va) {
                self.split(va, parent, slot);
            }
            let Some((_, t)) = self.leaf(va) else { return false };
            let slot = &t.0[index(va, 0)];
            let e = slot.load(Relaxed);
            if e == 0 || (e & ADDRESS) >> 12 != expect_pfn {
                return false;
            }
            slot.swap(entry_for(frame, prot) | ACCESSED, Relaxed)
        };
        if old & PRESENT != 0 && (pfn != expect_pfn || must_flush(old, prot)) {
            tlb::flush(self, va..va + PAGE, false);
        }
        // SAFETY: the old entry's reference.
        drop(unsafe { frame_of(old) });
        true
    }

    /// Unmaps every page of the range; returns how many there were.
    pub fn unmap(&self, range: Range<u64>) -> usize {
        check(&range);
        let mut pages = 0;
        let mut at = range.start;
        while at < range.end {
            let mut gather = Gather::new();
            let mut removed = 0;
            let from = at;
            {
                let _guard = self.lock.lock();
                at = self.walk(from..range.end, Large::SplitPartial, |va, phys, entry| {
                    let old = entry.swap(0, Relaxed);
                    gather.leaves.push(old);
                    removed += 1;
                    if old & LARGE != 0 {
                        // Never linked, so no processor knows it.
                        frames::free_page(withdraw(phys));
                        self.tables.fetch_sub(1, Relaxed);
                        self.huge.fetch_sub(1, Relaxed);
                        removed += HUGE_PAGES - 1;
                    }
                    if sub_used(phys) {
                        self.unlink_empty(va, &mut gather);
                    }
                    !gather.is_full()
                });
            }
            if gather.is_empty() {
                continue;
            }
            pages += removed;
            self.resident.fetch_sub(removed, Relaxed);
            tlb::flush(self, from..at, !gather.tables.is_empty());
            gather.release();
        }
        pages
    }

    /// Unmaps everything. Nobody maps or runs in this space any more; processors may still have it loaded.
    pub fn clear(&self) {
        loop {
            let mut trees: ArrayVec<u64, 16> = ArrayVec::new_const();
            {
                let _guard = self.lock.lock();
                let mut at = 0;
                while used(self.root).load(Relaxed) != 0 && !trees.is_full() {
                    at = next_used(self.root, self.top(), at);
                    trees.push(self.top().0[at].swap(0, Relaxed) & ADDRESS);
                    sub_used(self.root);
                }
            }
            if trees.is_empty() {
                break;
            }
            tlb::flush(self, 0..USER_END, true);
            for tree in trees {
                free_tables(tree, 2);
            }
        }
        self.resident.store(0, Relaxed);
        self.tables.store(1, Relaxed);
        self.huge.store(0, Relaxed);
    }

    /// Gives the pages of the range the protection `prot`, except that write permission is only taken away: adding it is
    /// left to the write fault.
    pub fn protect(&self, range: Range<u64>, prot: Prot) {
        check(&range);
        let mut tightened = false;
        {
            let _guard = self.lock.lock();
            let flags = user_flags(prot);
            self.walk(range.clone(), Large::SplitPartial, |_, _, entry| {
                // A loop, because the processor may set the dirty bit meanwhile.
                let _ = entry.fetch_update(Relaxed, Relaxed, |e| {
                    let keep = e & !(PRESENT | WRITE | NO_EXECUTE);
                    let new = keep | (flags & !WRITE) | (flags & e & WRITE);
                    let lost = e & !new & (PRESENT | WRITE) | !e & new & NO_EXECUTE;
                    tightened |= e & PRESENT != 0 && lost != 0;
                    Some(new)
                });
                true
            });
        }
        if tightened {
            tlb::flush(self, range, false);
        }
    }

    /// The page mapped at `va`, with a reference of its own.
    pub fn get(&self, va: u64) -> Option<Mapping> {
        check(&(va..va.saturating_add(PAGE)));
        let _guard = self.lock.lock();
        let e = match self.leaf(va) {
            Some((_, t)) => t.0[index(va, 0)].load(Relaxed),
            // As the entry of the page would be, but for the mark.
            None => self.large(va).map_or(0, |(_, slot)| slot.load(Relaxed) + (va & (HUGE - 1))),
        };
        if e == 0 {
            return None;
        }
        // SAFETY: the entry keeps its reference; we clone it and forget the borrowed one.
        let owned = core::mem::ManuallyDrop::new(unsafe { frame_of(e) });
        let prot = prot_of(e);
        Some(Mapping {
            frame: Frame::clone(&owned),
            prot,
            dirty: e & DIRTY != 0,
            accessed: e & ACCESSED != 0,
            huge: e & LARGE != 0,
        })
    }

    /// The first mapped page of the range. Skips what has no table, so that a scan of a sparse range is short.
    pub fn next_mapped(&self, range: Range<u64>) -> Option<u64> {
        check(&range);
        let _guard = self.lock.lock();
        let mut found = None;
        self.walk(range, Large::Visit, |va, _, _| {
            found = Some(va);
            false
        });
        found
    }

    /// Gives the child what is mapped in the range, where the child has nothing. With
    /// [`ForkMode::CopyOnWrite`] neither side may write any more. The caller calls [`Self::flush_all`] after
    /// the last range and before the child or the parent's other threads rely on it.
    pub fn fork_range(
        &self,
        child: &AddressSpace,
        range: Range<u64>,
        mode: ForkMode,
    ) -> Result<(), OutOfMemory> {
        check(&range);
        let _parent = self.lock.lock();
        let _child = child.lock.lock();
        let mut result = Ok(());
        let mut pages = 0;
        // The child's current leaf table, found once for 512 pages.
        let mut leaf: Option<(u64, u64, &'static Table)> = None;
        self.walk(range, Large::SplitPartial, |va, _, entry| {
            let remove_write = |entry: &AtomicU64| {
                let e = entry.load(Relaxed);
                if mode == ForkMode::CopyOnWrite && e & WRITE != 0 {
                    return entry.fetch_and(!WRITE, Relaxed) & !WRITE;
                }
                e
            };
            if entry.load(Relaxed) & LARGE != 0 {
                let Some(aside) = frames::alloc_page(true) else {
                    result = Err(OutOfMemory);
                    return false;
                };
                let e = remove_write(entry);
                share(e & ADDRESS);
                if let Err((_, e)) = child.link_huge(va, aside, e & !DIRTY) {
                    frames::free_page(aside);
                    // SAFETY: the references just made.
                    drop(unsafe { HugeFrame::from_raw(e & ADDRESS) });
                    result = Err(OutOfMemory);
                }
                return result.is_ok();
            }
            let (phys, t) = match leaf {
                Some((base, phys, t)) if base == va & !0x1f_ffff => (phys, t),
                _ => match child.leaf_or_new(va) {
                    Ok((phys, t)) => {
                        leaf = Some((va & !0x1f_ffff, phys, t));
                        (phys, t)
                    }
                    Err(_) => {
                        result = Err(OutOfMemory);
                        return false;
                    }
                },
            };
            let e = remove_write(entry);
            let slot = &t.0[index(va, 0)];
            assert!(slot.load(Relaxed) == 0, "fork into a mapped page");
            // SAFETY: as in `get`; the clone's reference goes into the child's entry.
            let owned = core::mem::ManuallyDrop::new(unsafe { frame_of(e) });
            core::mem::forget(Frame::clone(&owned));
            slot.store(e & !DIRTY, Relaxed);
            add_used(phys, index(va, 0));
            pages += 1;
            true
        });
        child.resident.fetch_add(pages, Relaxed);
        result
    }

    /// Moves what is mapped at `old` to `new` (mremap). Nothing is mapped at `new`, and the ranges do not overlap.
    /// On failure nothing has moved.
    pub fn move_range(&self, old: u64, new: u64, len: u64) -> Result<(), OutOfMemory> {
        let (from, to) = (old..old.saturating_add(len), new..new.saturating_add(len));
        check(&from);
        check(&to);
        assert!(from.end <= to.start || to.end <= from.start, "move_range to an overlapping range");
        // The tables first, so that the moves cannot fail. Entries without use keep the tables from being freed
        // by nobody but us: the lock is held throughout.
        let mut gather = Gather::new();
        let mut moved = false;
        let result = {
            let _guard = self.lock.lock();
            let mut last = None;
            let mut result = Ok(());
            self.walk(from.clone(), Large::Split, |va, _, _| {
                let target = va - old + new;
                if last != Some(target >> 21) {
                    result = self.leaf_or_new(target).map(drop).map_err(|_| OutOfMemory);
                    last = Some(target >> 21);
                }
                result.is_ok()
            });
            if result.is_ok() {
                self.walk(from.clone(), Large::Split, |va, phys, entry| {
                    let target = va - old + new;
                    let Some((to_phys, t)) = self.leaf(target) else { return true };
                    let e = entry.swap(0, Relaxed);
                    let slot = &t.0[index(target, 0)];
                    assert!(slot.load(Relaxed) == 0, "move_range over mapped pages");
                    slot.store(e, Relaxed);
                    add_used(to_phys, index(target, 0));
                    sub_used(phys);
                    moved = true;
                    true
                });
            }
            result
        };
        if moved {
            tlb::flush(self, from.clone(), false);
        }
        // Empty tables on either side stay linked until their range is unmapped or the space goes; take those
        // of the old range away now.
        {
            let _guard = self.lock.lock();
            let mut va = from.start;
            while va < from.end && gather.tables.remaining_capacity() >= 3 {
                self.unlink_empty(va, &mut gather);
                va = (va & !0x1f_ffff) + 0x20_0000;
            }
        }
        if !gather.tables.is_empty() {
            tlb::flush(self, from, true);
            gather.release();
        }
        result
    }

    /// Makes every CPU that runs this space forget it: after [`Self::fork_range`].
    pub fn flush_all(&self) {
        tlb::flush(self, 0..USER_END, false);
    }

    /// Pages of page tables.
    pub fn tables(&self) -> usize {
        self.tables.load(Relaxed)
    }

    /// Mapped pages.
    pub fn resident(&self) -> usize {
        self.resident.load(Relaxed)
    }
}

impl Drop for AddressSpace {
    fn drop(&mut self) {
        tlb::evict(self);
        for (i, _) in kernel_entries() {
            self.top().0[i].store(0, Relaxed);
        }
        free_tables(self.root, 3);
    }
}

/// Releases everything below the table at `phys`, and the table. No CPU uses the tree any more.
fn free_tables(phys: u64, level: u32) {
    // SAFETY: a table of the tree that is going away.
    let t = unsafe { &*window_ptr::<Table>(phys) };
    let mut at = 0;
    for _ in 0..used(phys).load(Relaxed) {
        at = next_used(phys, t, at);
        let e = t.0[at].load(Relaxed);
        t.0[at].store(0, Relaxed);
        if level == 0 {
            // SAFETY: the entry's reference; the tree goes away.
            drop(unsafe { frame_of(e) });
        } else if e & LARGE != 0 {
            frames::free_page(withdraw(phys));
            // SAFETY: as above.
            drop(unsafe { HugeFrame::from_raw(e & ADDRESS) });
        } else {
            free_tables(e & ADDRESS, level - 1);
        }
    }
    used(phys).store(0, Relaxed);
    frames::free_zeroed_page(phys);
}
