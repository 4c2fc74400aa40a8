//! User page tables.
//!
//! A four-level tree whose kernel half is the same in every space. Entries are changed under a spin lock.
//! A leaf entry that is not zero owns one reference to its frame, whether the processor sees it or not
//! (`PROT_NONE` keeps the frame and clears only the present bit). A table page counts its used entries in its frame's
//! metadata, and is freed when the last one goes.
//!
//! Nothing is released before every CPU has forgotten it: what an operation removes is collected in a
//! [`Gather`], flushed ([`tlb::flush`]), and only then dropped.
//!
//! Lock order: parent space, child space (only during fork, where the child is not yet used), frame allocator.

use super::frames::{self, Frame, meta::meta};
use super::layout::window_ptr;
use super::paging::{
    ACCESSED, ADDRESS, DIRTY, NO_EXECUTE, PRESENT, STATIC, Table, USER, WRITE, index, kernel_entries,
    prot_of, table, user_flags,
};
use super::tlb;
use crate::sync::SpinLock;
use crate::{ForkMode, MapError, Mapping, OutOfMemory, PAGE_SIZE, Prot, USER_END};
use alloc::sync::Arc;
use arrayvec::ArrayVec;
use core::ops::Range;
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicU64, AtomicUsize};

const PAGE: u64 = PAGE_SIZE as u64;
/// An entry of an upper level.
const LINK: u64 = PRESENT | WRITE | USER;

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
            // SAFETY: the entry's reference, taken out of the tree once.
            drop(unsafe { frame_of(e) });
        }
        for t in self.tables {
            frames::free_page(t);
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

fn add_used(phys: u64) {
    used(phys).store(used(phys).load(Relaxed) + 1, Relaxed);
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
        }))
    }

    /// Physical address of the top table.
    pub(super) fn root(&self) -> u64 {
        self.root
    }

    /// The table that an entry points to.
    fn below(entry: &AtomicU64) -> Option<(u64, &'static Table)> {
        let e = entry.load(Relaxed);
        // SAFETY: a non-zero upper entry points to a table, which stays while the lock is held.
        (e != 0).then(|| (e & ADDRESS, unsafe { table(e & ADDRESS) }))
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

    /// The same, made if it is not there.
    fn leaf_or_new(&self, va: u64) -> Result<(u64, &'static Table), OutOfMemory> {
        let (mut phys, mut t) = (self.root, self.top());
        for level in [3, 2, 1] {
            let slot = &t.0[index(va, level)];
            (phys, t) = match Self::below(slot) {
                Some(found) => found,
                None => {
                    let Some(new) = frames::alloc_page_zeroed(true) else {
                        self.prune(va);
                        return Err(OutOfMemory);
                    };
                    slot.store(new | LINK, Relaxed);
                    self.tables.fetch_add(1, Relaxed);
                    if level != 3 {
                        add_used(phys);
                    }
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
            frames::free_page(t);
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
            if let Some((parent, ..)) = path.last() {
                sub_used(*parent);
            }
        }
    }

    /// Calls `f` with every used leaf entry of the range, and the address; skips what has no table. `f` returns
    /// false to stop. Returns the address after the last one looked at. Under the lock.
    fn walk(&self, range: Range<u64>, mut f: impl FnMut(u64, u64, &AtomicU64) -> bool) -> u64 {
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
            if let Some(level) = missing {
                let span = PAGE << (9 * level);
                va = (va & !(span - 1)) + span;
                continue;
            }
            let end = ((va & !0x1f_ffff) + 0x20_0000).min(range.end);
            while va < end {
                let entry = &t.0[index(va, 0)];
                if entry.load(Relaxed) != 0 && !f(va, phys, entry) {
                    return va + PAGE;
                }
                va += PAGE;
            }
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
        add_used(phys);
        self.resident.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Maps `frame` in place of the page with frame number `expect_pfn`, if that is still mapped at `va`: breaking
    /// copy-on-write, or giving a page more rights. The old page is released when no CPU uses it any more.
    pub fn replace(&self, va: u64, expect_pfn: u64, frame: Frame, prot: Prot) -> bool {
        check(&(va..va.saturating_add(PAGE)));
        let old = {
            let _guard = self.lock.lock();
            let Some((_, t)) = self.leaf(va) else { return false };
            let slot = &t.0[index(va, 0)];
            let e = slot.load(Relaxed);
            if e == 0 || (e & ADDRESS) >> 12 != expect_pfn {
                return false;
            }
            slot.swap(entry_for(frame, prot) | ACCESSED, Relaxed)
        };
        if old & PRESENT != 0 {
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
            let from = at;
            {
                let _guard = self.lock.lock();
                at = self.walk(from..range.end, |va, phys, entry| {
                    gather.leaves.push(entry.swap(0, Relaxed));
                    if sub_used(phys) {
                        self.unlink_empty(va, &mut gather);
                        // The walk looks at the rest of the unlinked table: empty, and not freed before the flush.
                    }
                    !gather.is_full()
                });
            }
            if gather.is_empty() {
                continue;
            }
            pages += gather.leaves.len();
            self.resident.fetch_sub(gather.leaves.len(), Relaxed);
            tlb::flush(self, from..at, !gather.tables.is_empty());
            gather.release();
        }
        pages
    }

    /// Gives the pages of the range the protection `prot`, except that write permission is only taken away: adding it is
    /// left to the write fault.
    pub fn protect(&self, range: Range<u64>, prot: Prot) {
        check(&range);
        let mut tightened = false;
        {
            let _guard = self.lock.lock();
            let flags = user_flags(prot);
            self.walk(range.clone(), |_, _, entry| {
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
        let (_, t) = self.leaf(va)?;
        let e = t.0[index(va, 0)].load(Relaxed);
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
        })
    }

    /// The first mapped page of the range. Skips what has no table, so that a scan of a sparse range is short.
    pub fn next_mapped(&self, range: Range<u64>) -> Option<u64> {
        check(&range);
        let _guard = self.lock.lock();
        let mut found = None;
        self.walk(range, |va, _, _| {
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
        self.walk(range, |va, _, entry| {
            let (phys, t) = match leaf {
                Some((base, phys, t)) if base == va & !0x1f_ffff => (phys, t),
                _ => match child.leaf_or_new(va) {
                    Ok((phys, t)) => {
                        leaf = Some((va & !0x1f_ffff, phys, t));
                        (phys, t)
                    }
                    Err(e) => {
                        result = Err(e);
                        return false;
                    }
                },
            };
            let mut e = entry.load(Relaxed);
            if mode == ForkMode::CopyOnWrite && e & WRITE != 0 {
                e = entry.fetch_and(!WRITE, Relaxed) & !WRITE;
            }
            let slot = &t.0[index(va, 0)];
            assert!(slot.load(Relaxed) == 0, "fork into a mapped page");
            // SAFETY: as in `get`; the clone's reference goes into the child's entry.
            let owned = core::mem::ManuallyDrop::new(unsafe { frame_of(e) });
            core::mem::forget(Frame::clone(&owned));
            slot.store(e & !DIRTY, Relaxed);
            add_used(phys);
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
            self.walk(from.clone(), |va, _, _| {
                let target = va - old + new;
                if last != Some(target >> 21) {
                    result = self.leaf_or_new(target).map(drop);
                    last = Some(target >> 21);
                }
                result.is_ok()
            });
            if result.is_ok() {
                self.walk(from.clone(), |va, phys, entry| {
                    let target = va - old + new;
                    let Some((to_phys, t)) = self.leaf(target) else { return true };
                    let e = entry.swap(0, Relaxed);
                    let slot = &t.0[index(target, 0)];
                    assert!(slot.load(Relaxed) == 0, "move_range over mapped pages");
                    slot.store(e, Relaxed);
                    add_used(to_phys);
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
        free_tables(self.root, 3);
    }
}

/// Releases everything below the table at `phys`, and the table. No CPU uses the tree any more.
fn free_tables(phys: u64, level: u32) {
    // SAFETY: a table of the tree that is going away.
    let t = unsafe { &*window_ptr::<Table>(phys) };
    let user_half = if level == 3 { 256 } else { 512 };
    // The root does not count its entries.
    let mut left = if level == 3 { u32::MAX } else { used(phys).load(Relaxed) };
    for entry in &t.0[..user_half] {
        if left == 0 {
            break;
        }
        let e = entry.load(Relaxed);
        if e == 0 {
            continue;
        }
        left -= 1;
        if level == 0 {
            // SAFETY: the entry's reference; the tree goes away.
            drop(unsafe { frame_of(e) });
        } else {
            free_tables(e & ADDRESS, level - 1);
        }
    }
    used(phys).store(0, Relaxed);
    frames::free_page(phys);
}
