//! A checked software page table.

use super::frame::{Frame, HugeFrame, Page, Pool};
use super::world::world;
use crate::{Access, ForkMode, HUGE_PAGES, MapError, Mapping, OutOfMemory, PAGE_SIZE, Prot, USER_END};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::ThreadId;

const PAGE: u64 = PAGE_SIZE as u64;
/// Bytes of a large page.
const HUGE: u64 = PAGE * HUGE_PAGES as u64;

#[derive(Clone)]
struct Entry {
    frame: Frame,
    prot: Prot,
    dirty: bool,
    accessed: bool,
}

impl Entry {
    fn new(frame: Frame, prot: Prot) -> Self {
        Self { frame, prot, dirty: false, accessed: false }
    }
}

/// The user half of a page-table tree.
///
/// Addresses and ranges are page-aligned and lie in the user half; anything else is a bug in the caller and
/// panics. A page of a static region is never mapped writable.
pub struct AddressSpace {
    tree: Mutex<Tree>,
    /// Who removed write permission by [`fork_range`](Self::fork_range) and has not called
    /// [`flush_all`](Self::flush_all) yet.
    unflushed: Mutex<Option<ThreadId>>,
}

/// The mapped pages, and the leaf tables a real tree would need for them.
struct Tree {
    pages: BTreeMap<u64, Entry>,
    tables: BTreeSet<u64>,
    /// Addresses of large pages, whose pages are among `pages`.
    huge: BTreeSet<u64>,
    pool: Arc<Pool>,
}

impl Tree {
    /// Makes the leaf table for `va`. Tables stay until the address space goes.
    fn make_table(&mut self, va: u64) -> Result<(), OutOfMemory> {
        let table = va / (512 * PAGE);
        if !self.tables.contains(&table) {
            self.pool.take_table()?;
            self.tables.insert(table);
        }
        Ok(())
    }

    /// Makes the large pages of which a part (with `whole`: or all) lies in the range ordinary ones.
    fn split(&mut self, range: &Range<u64>, whole: bool) {
        self.huge.retain(|&base| {
            let touches = base < range.end && range.start < base + HUGE;
            let inside = range.start <= base && base + HUGE <= range.end;
            !touches || (inside && !whole)
        });
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        self.pool.return_tables(self.tables.len());
    }
}

impl AddressSpace {
    /// An empty address space.
    pub fn new() -> Result<Arc<Self>, OutOfMemory> {
        let tree = Tree {
            pages: BTreeMap::new(),
            tables: BTreeSet::new(),
            huge: BTreeSet::new(),
            pool: world().pool.clone(),
        };
        Ok(Arc::new(Self { tree: Mutex::new(tree), unflushed: Mutex::default() }))
    }

    fn tree(&self) -> MutexGuard<'_, Tree> {
        self.tree.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Maps a page where none is.
    pub fn map_new(&self, va: u64, frame: Frame, prot: Prot) -> Result<(), MapError> {
        check(&(va..va.saturating_add(PAGE)));
        check_writable(&frame, prot);
        let mut tree = self.tree();
        if tree.pages.contains_key(&va) {
            return Err(MapError::Present);
        }
        tree.make_table(va)?;
        tree.pages.insert(va, Entry::new(frame, prot));
        Ok(())
    }

    /// Maps those of `frames` that are there at the pages from `va` on, unless something is mapped there; takes them, and
    /// answers how many.
    pub fn map_around(&self, va: u64, frames: &mut [Option<Frame>], prot: Prot) -> usize {
        let mut mapped = 0;
        for (page, frame) in (0..).zip(frames) {
            let va = va + page * PAGE;
            if !self.tree().pages.contains_key(&va)
                && let Some(frame) = frame.take()
            {
                mapped += usize::from(self.map_new(va, frame, prot).is_ok());
            }
        }
        mapped
    }

    /// Whether a large page could be mapped around `va`: nothing is mapped in its 2 MiB.
    pub fn can_map_huge(&self, va: u64) -> bool {
        let base = va & !(HUGE - 1);
        self.tree().pages.range(base..base + HUGE).next().is_none()
    }

    /// Maps a large page at `va`, a multiple of its size, where nothing is mapped in all its length.
    pub fn map_huge(&self, va: u64, frame: HugeFrame, prot: Prot) -> Result<(), MapError> {
        assert!(va.is_multiple_of(HUGE), "unaligned large page");
        check(&(va..va.saturating_add(HUGE)));
        let mut tree = self.tree();
        if tree.pages.range(va..va + HUGE).next().is_some() {
            return Err(MapError::Present);
        }
        tree.make_table(va)?;
        for (i, frame) in frame.0.into_iter().enumerate() {
            tree.pages.insert(va + i as u64 * PAGE, Entry::new(frame, prot));
        }
        tree.huge.insert(va);
        Ok(())
    }

    /// Gives the large page around `va` the protection `prot`, write permission too, if its frames belong to this
    /// mapping alone. False if there is no such page.
    pub fn own_huge(&self, va: u64, prot: Prot) -> bool {
        let base = va & !(HUGE - 1);
        let mut tree = self.tree();
        if !tree.huge.contains(&base)
            || tree.pages.range(base..base + HUGE).any(|(_, e)| e.frame.ref_count() != 1)
        {
            return false;
        }
        tree.pages.range_mut(base..base + HUGE).for_each(|(_, e)| e.prot = prot);
        true
    }

    /// Makes the 2 MiB at `va`, a multiple of their size, a large page: copies what is mapped there into `frame`, which is
    /// all zero, and maps that with the protection `prot` instead. Returns how many pages were mapped; None, and nothing
    /// changes, if none was or it is a large page.
    pub fn collapse(&self, va: u64, frame: HugeFrame, prot: Prot) -> Option<usize> {
        assert!(va.is_multiple_of(HUGE), "unaligned large page");
        let mut tree = self.tree();
        let mapped = tree.pages.range(va..va + HUGE).count();
        if mapped == 0 || tree.huge.contains(&va) {
            return None;
        }
        for (i, frame) in frame.0.into_iter().enumerate() {
            let at = va + i as u64 * PAGE;
            if let Some(old) = tree.pages.get(&at) {
                let mut bytes = [0; PAGE_SIZE];
                old.frame.read(0, &mut bytes);
                frame.write(0, &bytes);
            }
            tree.pages.insert(at, Entry { dirty: true, ..Entry::new(frame, prot) });
        }
        tree.huge.insert(va);
        Some(mapped)
    }

    /// Large pages mapped.
    pub fn huge_pages(&self) -> usize {
        self.tree().huge.len()
    }

    /// Maps another frame (or the same with another protection) if `va` still maps the frame `expect_pfn`.
    /// The old frame is released when no CPU can reach it any more.
    pub fn replace(&self, va: u64, expect_pfn: u64, frame: Frame, prot: Prot) -> bool {
        check(&(va..va.saturating_add(PAGE)));
        check_writable(&frame, prot);
        let mut tree = self.tree();
        tree.split(&(va..va + PAGE), false);
        let Some(entry) = tree.pages.get_mut(&va).filter(|e| e.frame.pfn() == expect_pfn) else {
            return false;
        };
        let old = std::mem::replace(entry, Entry::new(frame, prot));
        drop(tree);
        drop(old);
        true
    }

    /// Unmaps a range; returns how many pages were mapped. Frames are released when no CPU can reach them.
    pub fn unmap(&self, range: Range<u64>) -> usize {
        check(&range);
        let removed: Vec<_> = {
            let tree = &mut *self.tree();
            tree.split(&range, true);
            let pages = &mut tree.pages;
            let keys: Vec<u64> = pages.range(range).map(|(&va, _)| va).collect();
            keys.iter().filter_map(|va| pages.remove(va)).collect()
        };
        removed.len()
    }

    /// Unmaps everything.
    pub fn clear(&self) {
        self.unmap(0..crate::USER_END);
    }

    /// Changes the protection of the mapped pages in a range. Write permission is only ever removed: a page
    /// that may become writable gets it at the next write fault.
    pub fn protect(&self, range: Range<u64>, prot: Prot) {
        check(&range);
        let mut tree = self.tree();
        tree.split(&range, false);
        for (_, entry) in tree.pages.range_mut(range) {
            entry.prot = (prot - Prot::WRITE) | (prot & entry.prot & Prot::WRITE);
        }
    }

    /// The page mapped at `va`, also one with no access left.
    pub fn get(&self, va: u64) -> Option<Mapping> {
        check(&(va..va.saturating_add(PAGE)));
        let tree = self.tree();
        let e = tree.pages.get(&va)?;
        let huge = tree.huge.contains(&(va & !(HUGE - 1)));
        Some(Mapping { frame: e.frame.clone(), prot: e.prot, dirty: e.dirty, accessed: e.accessed, huge })
    }

    /// The first mapped page of the range.
    pub fn next_mapped(&self, range: Range<u64>) -> Option<u64> {
        check(&range);
        self.tree().pages.range(range).next().map(|(&va, _)| va)
    }

    /// Maps the pages of a range in `child` too, at the same addresses, where nothing is mapped. The caller
    /// calls [`flush_all`](Self::flush_all) after the last range. When memory runs out, some pages are mapped
    /// in the child and write permission is gone from all of the range.
    pub fn fork_range(
        &self,
        child: &AddressSpace,
        range: Range<u64>,
        mode: ForkMode,
    ) -> Result<(), OutOfMemory> {
        check(&range);
        assert!(!std::ptr::eq(self, child), "a fork into itself");
        if mode == ForkMode::CopyOnWrite {
            *self.unflushed.lock().unwrap() = Some(std::thread::current().id());
        }
        // Two steps instead of two locks at once.
        let mut copies = Vec::new();
        let mut parent = self.tree();
        parent.split(&range, false);
        let huge: Vec<u64> = parent.huge.range(range.clone()).copied().collect();
        for (&va, entry) in parent.pages.range_mut(range) {
            if mode == ForkMode::CopyOnWrite {
                entry.prot -= Prot::WRITE;
            }
            copies.push((va, Entry::new(entry.frame.clone(), entry.prot)));
        }
        drop(parent);
        let mut tree = child.tree();
        for (va, entry) in copies {
            tree.make_table(va)?;
            assert!(tree.pages.insert(va, entry).is_none(), "fork_range over a mapped page of the child");
        }
        tree.huge.extend(huge);
        Ok(())
    }

    /// Moves the mapped pages of `old .. old + len` to `new`, where nothing is mapped. The ranges do not
    /// overlap. When memory runs out, nothing has moved.
    pub fn move_range(&self, old: u64, new: u64, len: u64) -> Result<(), OutOfMemory> {
        let (from, to) = (old..old.saturating_add(len), new..new.saturating_add(len));
        check(&from);
        check(&to);
        assert!(from.end <= to.start || to.end <= from.start, "move_range to an overlapping range");
        let mut tree = self.tree();
        assert!(tree.pages.range(to).next().is_none(), "move_range over mapped pages");
        tree.split(&from, true);
        let keys: Vec<u64> = tree.pages.range(from).map(|(&va, _)| va).collect();
        for va in &keys {
            tree.make_table(va - old + new)?;
        }
        for va in keys {
            if let Some(entry) = tree.pages.remove(&va) {
                tree.pages.insert(va - old + new, entry);
            }
        }
        Ok(())
    }

    /// Makes every CPU that runs this space forget its translations. Nothing is cached here, but a thread
    /// that returns to user mode without this after a [`fork_range`](Self::fork_range) panics.
    pub fn flush_all(&self) {
        *self.unflushed.lock().unwrap() = None;
    }

    /// The calling thread owes a [`flush_all`](Self::flush_all).
    pub(super) fn owes_flush(&self) -> bool {
        *self.unflushed.lock().unwrap() == Some(std::thread::current().id())
    }

    /// Pages of page tables: those the leaf entries are in.
    pub fn tables(&self) -> usize {
        self.tree().tables.len()
    }

    /// Mapped pages.
    pub fn resident(&self) -> usize {
        self.tree().pages.len()
    }

    /// Runs `f` on the bytes of the page at `va` if it may be accessed, and records the access. `Err` tells
    /// whether a page is mapped there.
    pub(super) fn with_page<R>(
        &self,
        va: u64,
        access: Access,
        f: impl FnOnce(PageAccess<'_>) -> R,
    ) -> Result<R, bool> {
        let mut tree = self.tree();
        let entry = tree.pages.get_mut(&va).ok_or(false)?;
        let allowed = match access {
            // The processor knows no page that can be executed or written but not read.
            Access::Read => !entry.prot.is_empty(),
            Access::Write => entry.prot.contains(Prot::WRITE),
            Access::Exec => entry.prot.contains(Prot::EXEC),
        };
        if !allowed {
            return Err(true);
        }
        entry.accessed = true;
        Ok(match access {
            Access::Write => {
                entry.dirty = true;
                entry.frame.modify(|page| f(PageAccess::Write(page)))
            }
            Access::Read | Access::Exec => f(PageAccess::Read(&entry.frame)),
        })
    }
}

/// What an access gets to work on.
pub(super) enum PageAccess<'a> {
    Read(&'a Frame),
    Write(&'a mut Page),
}

impl fmt::Debug for AddressSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.tree().pages.iter().map(|(va, e)| (format!("{va:#x}"), (e.frame.pfn(), e.prot))))
            .finish()
    }
}

fn check(range: &Range<u64>) {
    assert!(range.start.is_multiple_of(PAGE) && range.end.is_multiple_of(PAGE), "unaligned: {range:#x?}");
    assert!(range.start <= range.end && range.end <= USER_END, "not in the user half: {range:#x?}");
}

fn check_writable(frame: &Frame, prot: Prot) {
    assert!(!(frame.is_static() && prot.contains(Prot::WRITE)), "a writable mapping of a static region");
}
