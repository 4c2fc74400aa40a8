//! Large pages of anonymous memory (`Documentation/admin-guide/mm/transhuge.rst`).
//!
//! # What Linux does
//! Depending on `/sys/kernel/mm/transparent_hugepage/enabled`, the first write to private anonymous memory maps 2 MiB at
//! once where the mapping covers an aligned 2 MiB: always, or where `madvise(MADV_HUGEPAGE)` asked for it, or never.
//! A large page of which a part is unmapped, protected or copied is split; a daemon puts pages together again.
//!
//! # What we do
//! The same, without the daemon (`MADV_COLLAPSE` does what it would). A large page is 512 ordinary frames in a row, so splitting it costs a page table and
//! nothing else (see `hal::AddressSpace`). A fork shares it whole; the first write of one side splits that side's, unless
//! the other one is gone: then all of it becomes writable again. With no free block of 2 MiB, small pages are used.
//!
//! The default is `madvise`: with `always`, a program that touches a few pages in each of many large mappings (thread
//! stacks, arenas of allocators) takes memory it never uses, and memory is what one more sandbox costs; nothing here would
//! give it back. Where a program asks, it pays. In the lab that counts instructions, 256 MiB that the host has backed before,
//! small pages and large ones: the first touch 98 M and 37 M (65,536 and 128 faults), fork, exit and wait 17.2 M
//! and 4.1 M, writing each page again 59.0 M and 1.7 M, unmapping 24.8 M and 2.6 M. Starting `true`, `sh`, perl and python
//! costs the same with all three modes, and their memory is the same: they have no mapping that would take a large page.
//!
//! # Locks
//! In this order; all of them spin, with interrupts off, and whoever waits for one answers flush requests meanwhile:
//!
//! 1. `Mm::layout`, for reading in a fault and `MADV_DONTNEED`, for writing in everything else that changes mappings.
//! 2. An upgrade lock of the `Mm` (write faults on a page that is mapped), one by page number: two threads may so be at
//!    different pages of one large page. What keeps them apart is the count of references: taking over the whole
//!    ([`own_huge`](hal::AddressSpace::own_huge)) needs every frame to have one reference only, and who copies a page of it
//!    holds another until the copy is mapped.
//! 3. The page table's lock. Taken again by each step (look, map, take over, replace), never across them: a step finds that
//!    something is there already, or is not there any more, and the fault looks again.
//! 4. The frame allocator's lock, or the memory controller's leaf lock: in a step or, when a large page is allocated,
//!    cleared and charged, before it.
//!
//! A *split* flushes with 1 to 3 held, because no processor may have translations of two sizes. It cannot deadlock: a CPU
//! that is asked to flush is in user mode or halted and takes the interrupt, or waits for a lock and answers, or it is
//! in other kernel code, which ends. All other flushes happen with lock 3 released. Frames are released after the flush.

use core::{
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
};

use ringfence_hal as hal;

use crate::errno::{Errno, Result};

use super::{Mm, PAGE_SIZE, VmFlags, Vma, charge, fault::page_rights};

/// Bytes of a large page.
pub const HUGE_SIZE: u64 = PAGE_SIZE * hal::HUGE_PAGES as u64;

/// Values of [`MODE`]: what `enabled` says.
pub const MODES: [&str; 3] = ["always", "madvise", "never"];
const ALWAYS: u64 = 0;
const MADVISE: u64 = 1;

/// `/sys/kernel/mm/transparent_hugepage/enabled`: an index into [`MODES`].
pub static MODE: AtomicU64 = AtomicU64::new(MADVISE);

static ALLOCATED: AtomicU64 = AtomicU64::new(0);
static FELL_BACK: AtomicU64 = AtomicU64::new(0);

/// `thp_fault_alloc` and `thp_fault_fallback` of `/proc/vmstat`: large pages mapped by a fault, and faults that found no
/// memory for one.
pub fn counts() -> (u64, u64) {
    (ALLOCATED.load(Ordering::Relaxed), FELL_BACK.load(Ordering::Relaxed))
}

impl Vma {
    /// Whether large pages are wanted here: `flags` of an anonymous private mapping.
    #[inline]
    fn asks_for_huge(&self) -> bool {
        if self.flags.contains(VmFlags::HUGEPAGE) {
            MODE.load(Ordering::Relaxed) <= MADVISE
        } else {
            MODE.load(Ordering::Relaxed) == ALWAYS && !self.flags.contains(VmFlags::NOHUGEPAGE)
        }
    }
}

impl Mm {
    /// `THPeligible` of `/proc/PID/smaps`.
    pub fn huge_eligible(&self, info: &super::VmaInfo) -> bool {
        let layout = self.layout.read();
        let private = |v: &&Vma| v.is_anonymous() && !v.is_shared();
        layout.vmas.find(info.start).filter(private).is_some_and(|vma| self.wants_huge(vma))
    }

    /// `prctl(PR_SET_THP_DISABLE)`: no large pages here any more. Kept over fork and exec.
    pub fn disable_huge(&self, disable: bool) {
        self.no_huge.store(disable, Ordering::Relaxed);
    }

    /// Whether large pages are switched off.
    pub fn huge_disabled(&self) -> bool {
        self.no_huge.load(Ordering::Relaxed)
    }

    /// Whether a write to `vma`, which is anonymous, may map a large page.
    #[inline]
    pub(super) fn wants_huge(&self, vma: &Vma) -> bool {
        vma.asks_for_huge() && vma.end - vma.start >= HUGE_SIZE && !self.huge_disabled()
    }

    /// Maps the large page that `page` of the anonymous `vma` would lie in, if it can be.
    #[cold]
    pub(super) fn fill_huge(&self, vma: &Vma, page: u64) -> bool {
        let base = page & !(HUGE_SIZE - 1);
        if base < vma.start || vma.end - base < HUGE_SIZE || !self.space.can_map_huge(base) {
            return false;
        }
        let Ok(frame) = charge::huge() else {
            FELL_BACK.fetch_add(1, Ordering::Relaxed);
            return false;
        };
        if self.space.map_huge(base, frame, page_rights(vma.prot)).is_err() {
            return false;
        }
        ALLOCATED.fetch_add(1, Ordering::Relaxed);
        self.count_pages(vma, hal::HUGE_PAGES as i64);
        true
    }

    /// Whether `MADV_COLLAPSE` may make large pages of `vma`, whatever [`MODE`] says.
    fn may_collapse(&self, vma: &Vma) -> bool {
        let first = vma.start.next_multiple_of(HUGE_SIZE);
        vma.is_anonymous()
            && !vma.is_shared()
            && !vma.flags.contains(VmFlags::NOHUGEPAGE)
            && !self.huge_disabled()
            && vma.end.checked_sub(first).is_some_and(|len| len >= HUGE_SIZE)
    }

    /// `MADV_COLLAPSE`: makes large pages of the aligned 2 MiB in `range`, as far as something is mapped in each.
    ///
    /// # Errors
    /// EINVAL (nothing to make them of, or not for such a mapping), ENOMEM (a hole, or no memory), EINTR (`between`).
    pub(super) fn collapse(&self, range: Range<u64>, between: &mut dyn FnMut() -> bool) -> Result<()> {
        self.each_part(
            range,
            |vma, _| Ok(self.may_collapse(vma)),
            |may, part| {
                let (first, last) = (part.start.next_multiple_of(HUGE_SIZE), part.end & !(HUGE_SIZE - 1));
                if !may || last < first {
                    return Err(Errno::EINVAL);
                }
                let mut complete = true;
                for base in (first..last).step_by(HUGE_SIZE as usize) {
                    complete &= self.collapse_one(base)?;
                    if !between() {
                        return Err(Errno::EINTR);
                    }
                }
                if complete { Ok(()) } else { Err(Errno::EINVAL) }
            },
        )
    }

    /// Whether there is a large page at `base` now.
    fn collapse_one(&self, base: u64) -> Result<bool> {
        let frame = charge::huge().map_err(|_| Errno::ENOMEM)?;
        // For writing: no fault may look at a page while it is copied, nor change it.
        let layout = self.layout.write();
        let fits = |v: &&Vma| v.end - base >= HUGE_SIZE && self.may_collapse(v);
        let Some(vma) = layout.vmas.find(base).filter(fits) else { return Ok(false) };
        if self.space.get(base).is_some_and(|page| page.huge) {
            return Ok(true);
        }
        let Some(mapped) = self.space.collapse(base, frame, page_rights(vma.prot)) else { return Ok(false) };
        self.count_pages(vma, hal::HUGE_PAGES as i64 - mapped as i64);
        Ok(true)
    }

    /// The end of the large page that holds `page`, if there is one and it has all rights of `vma`.
    pub(super) fn end_of_huge(&self, vma: &Vma, page: u64) -> Option<u64> {
        if !vma.is_anonymous() || !self.wants_huge(vma) {
            return None;
        }
        let mapping = self.space.get(page)?;
        (mapping.huge && mapping.prot.contains(vma.prot)).then(|| (page & !(HUGE_SIZE - 1)) + HUGE_SIZE)
    }
}

#[cfg(test)]
mod tests {
    use ringfence_hal::{Access, PageFault, Prot, host::World};

    use super::super::{FaultResult, Limits, MapRequest, Placement, advise::Advice};
    use super::*;

    const AT: u64 = 0x4000_0000;

    fn write(mm: &Mm, addr: u64) -> FaultResult {
        mm.fault(PageFault { addr, access: Access::Write, present: false }, || Limits::NONE)
    }

    fn mapped() -> alloc::sync::Arc<Mm> {
        MODE.store(MADVISE, Ordering::Relaxed);
        let mm = Mm::new(0x7000_0000_0000).unwrap();
        let request = MapRequest {
            len: 2 * HUGE_SIZE,
            placement: Placement::Fixed(AT),
            prot: Prot::READ | Prot::WRITE,
            flags: VmFlags::NORESERVE,
            file: None,
        };
        mm.map(request, &Limits::NONE).unwrap();
        let huge = Advice::from_raw(14).unwrap();
        mm.advise(AT..AT + 2 * HUGE_SIZE, huge, &mut || true).unwrap();
        mm
    }

    #[test]
    fn large_pages_are_mapped_shared_and_come_apart() {
        let world = World::new(4096);
        world.enter(|| {
            let mm = mapped();
            assert_eq!(write(&mm, AT + 5 * PAGE_SIZE), FaultResult::Resolved);
            assert_eq!((mm.space.huge_pages(), mm.stats().anonymous), (1, 512));
            mm.write_remote(AT + 7 * PAGE_SIZE, b"parent", false).unwrap();
            let child = mm.fork().unwrap();
            assert_eq!(child.space.huge_pages(), 1);
            child.write_remote(AT + 7 * PAGE_SIZE, b"child!", false).unwrap();
            assert_eq!((child.space.huge_pages(), mm.space.huge_pages()), (0, 1));
            let mut bytes = [0; 6];
            mm.read_remote(AT + 7 * PAGE_SIZE, &mut bytes, false).unwrap();
            assert_eq!(&bytes, b"parent");
            drop(child);
            mm.write_remote(AT, b"x", false).unwrap();
            assert_eq!(mm.space.huge_pages(), 1, "it is the parent's alone again");
            mm.unmap(AT..AT + PAGE_SIZE).unwrap();
            assert_eq!((mm.space.huge_pages(), mm.stats().anonymous), (0, 511));
            mm.read_remote(AT + 7 * PAGE_SIZE, &mut bytes, false).unwrap();
            assert_eq!(&bytes, b"parent");
            assert_eq!(write(&mm, AT + 2 * HUGE_SIZE - 1), FaultResult::Resolved);
            mm.protect(AT + HUGE_SIZE..AT + HUGE_SIZE + PAGE_SIZE, Prot::READ, false, &Limits::NONE).unwrap();
            assert_eq!(mm.space.huge_pages(), 0);
        });
    }

    #[test]
    fn small_pages_are_put_together() {
        World::new(4096).enter(|| {
            let mm = mapped();
            mm.disable_huge(true);
            let mut go_on = || true;
            for (page, byte) in [(0, b"a"), (511, b"z")] {
                mm.write_remote(AT + page * PAGE_SIZE, byte, false).unwrap();
            }
            assert_eq!(mm.collapse(AT..AT + HUGE_SIZE, &mut go_on), Err(Errno::EINVAL));
            mm.disable_huge(false);
            let child = mm.fork().unwrap();
            mm.collapse(AT..AT + HUGE_SIZE, &mut go_on).unwrap();
            assert_eq!((mm.space.huge_pages(), mm.stats().anonymous, mm.stats().resident), (1, 512, 512));
            mm.write_remote(AT, b"b", false).unwrap();
            let mut bytes = [0; 1];
            for (mm, page, byte) in [(&mm, 0, b"b"), (&mm, 511, b"z"), (&mm, 5, b"\0"), (&child, 0, b"a")] {
                mm.read_remote(AT + page * PAGE_SIZE, &mut bytes, false).unwrap();
                assert_eq!(&bytes, byte);
            }
            mm.collapse(AT..AT + HUGE_SIZE, &mut go_on).unwrap();
            assert_eq!(
                mm.collapse(AT..AT + 2 * HUGE_SIZE, &mut go_on),
                Err(Errno::EINVAL),
                "nothing in the second"
            );
            assert_eq!(mm.collapse(AT + PAGE_SIZE..AT + 3 * PAGE_SIZE, &mut go_on), Err(Errno::EINVAL));
            assert_eq!(mm.collapse(AT..AT + 3 * HUGE_SIZE, &mut go_on), Err(Errno::EINVAL));
            mm.unmap(AT + PAGE_SIZE..AT + 2 * HUGE_SIZE).unwrap();
            assert_eq!((mm.space.huge_pages(), mm.stats().anonymous), (0, 1));
        });
    }

    #[test]
    fn small_pages_serve_where_there_is_no_block() {
        World::new(300).enter(|| {
            let mm = mapped();
            assert_eq!(write(&mm, AT), FaultResult::Resolved);
            assert_eq!((mm.space.huge_pages(), mm.stats().anonymous), (0, 1));
        });
    }
}
