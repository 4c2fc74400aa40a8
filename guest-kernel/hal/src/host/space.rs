//! A checked software page table.

use super::frame::{Frame, Page};
use crate::{Access, ForkMode, MapError, Mapping, OutOfMemory, PAGE_SIZE, Prot, USER_END};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::ThreadId;

const PAGE: u64 = PAGE_SIZE as u64;

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
    pages: Mutex<BTreeMap<u64, Entry>>,
    /// Who removed write permission by [`fork_range`](Self::fork_range) and has not called
    /// [`flush_all`](Self::flush_all) yet.
    unflushed: Mutex<Option<ThreadId>>,
}

impl AddressSpace {
    /// An empty address space.
    pub fn new() -> Result<Arc<Self>, OutOfMemory> {
        Ok(Arc::new(Self { pages: Mutex::default(), unflushed: Mutex::default() }))
    }

    fn pages(&self) -> MutexGuard<'_, BTreeMap<u64, Entry>> {
        self.pages.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Maps a page where none is.
    pub fn map_new(&self, va: u64, frame: Frame, prot: Prot) -> Result<(), MapError> {
        check(&(va..va.saturating_add(PAGE)));
        check_writable(&frame, prot);
        let mut pages = self.pages();
        if pages.contains_key(&va) {
            return Err(MapError::Present);
        }
        pages.insert(va, Entry::new(frame, prot));
        Ok(())
    }

    /// Maps another frame (or the same with another protection) if `va` still maps the frame `expect_pfn`.
    /// The old frame is released when no CPU can reach it any more.
    pub fn replace(&self, va: u64, expect_pfn: u64, frame: Frame, prot: Prot) -> bool {
        check(&(va..va.saturating_add(PAGE)));
        check_writable(&frame, prot);
        let mut pages = self.pages();
        let Some(entry) = pages.get_mut(&va).filter(|e| e.frame.pfn() == expect_pfn) else { return false };
        let old = std::mem::replace(entry, Entry::new(frame, prot));
        drop(pages);
        drop(old);
        true
    }

    /// Unmaps a range; returns how many pages were mapped. Frames are released when no CPU can reach them.
    pub fn unmap(&self, range: Range<u64>) -> usize {
        check(&range);
        let removed: Vec<_> = {
            let mut pages = self.pages();
            let keys: Vec<u64> = pages.range(range).map(|(&va, _)| va).collect();
            keys.iter().filter_map(|va| pages.remove(va)).collect()
        };
        removed.len()
    }

    /// Changes the protection of the mapped pages in a range. Write permission is only ever removed: a page
    /// that may become writable gets it at the next write fault.
    pub fn protect(&self, range: Range<u64>, prot: Prot) {
        check(&range);
        for (_, entry) in self.pages().range_mut(range) {
            entry.prot = (prot - Prot::WRITE) | (prot & entry.prot & Prot::WRITE);
        }
    }

    /// The page mapped at `va`, also one with no access left.
    pub fn get(&self, va: u64) -> Option<Mapping> {
        check(&(va..va.saturating_add(PAGE)));
        let pages = self.pages();
        let e = pages.get(&va)?;
        Some(Mapping { frame: e.frame.clone(), prot: e.prot, dirty: e.dirty, accessed: e.accessed })
    }

    /// Maps the pages of a range in `child` too, at the same addresses, where nothing is mapped. The caller
    /// calls [`flush_all`](Self::flush_all) after the last range.
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
        for (&va, entry) in self.pages().range_mut(range) {
            if mode == ForkMode::CopyOnWrite {
                entry.prot -= Prot::WRITE;
            }
            copies.push((va, Entry::new(entry.frame.clone(), entry.prot)));
        }
        let mut pages = child.pages();
        for (va, entry) in copies {
            assert!(pages.insert(va, entry).is_none(), "fork_range over a mapped page of the child");
        }
        Ok(())
    }

    /// Moves the mapped pages of `old .. old + len` to `new`, where nothing is mapped. The ranges do not
    /// overlap.
    pub fn move_range(&self, old: u64, new: u64, len: u64) -> Result<(), OutOfMemory> {
        let (from, to) = (old..old.saturating_add(len), new..new.saturating_add(len));
        check(&from);
        check(&to);
        assert!(from.end <= to.start || to.end <= from.start, "move_range to an overlapping range");
        let mut pages = self.pages();
        assert!(pages.range(to).next().is_none(), "move_range over mapped pages");
        let keys: Vec<u64> = pages.range(from).map(|(&va, _)| va).collect();
        for va in keys {
            if let Some(entry) = pages.remove(&va) {
                pages.insert(va - old + new, entry);
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

    /// Mapped pages.
    pub fn resident(&self) -> usize {
        self.pages().len()
    }

    /// Runs `f` on the bytes of the page at `va` if it may be accessed, and records the access. `Err` tells
    /// whether a page is mapped there.
    pub(super) fn with_page<R>(
        &self,
        va: u64,
        access: Access,
        f: impl FnOnce(PageAccess<'_>) -> R,
    ) -> Result<R, bool> {
        let mut pages = self.pages();
        let entry = pages.get_mut(&va).ok_or(false)?;
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
            .entries(self.pages().iter().map(|(va, e)| (format!("{va:#x}"), (e.frame.pfn(), e.prot))))
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
