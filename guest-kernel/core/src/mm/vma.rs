//! One mapping of an address space.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};

use bitflags::bitflags;
use ringfence_hal::Prot;

use super::{Mappable, PAGE_SIZE, policy::Policy};
use crate::fs::FileRef;

bitflags! {
    /// Properties of a mapping that two neighbours must share to be merged.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct VmFlags: u32 {
        /// Writes go to the object, not to a private copy.
        const SHARED = 1 << 0;
        /// Grows downward when touched below its start (a stack).
        const GROWSDOWN = 1 << 1;
        /// `mlock`ed.
        const LOCKED = 1 << 2;
        /// `MAP_NORESERVE`.
        const NORESERVE = 1 << 3;
        /// Not in a forked child (`MADV_DONTFORK`).
        const DONTFORK = 1 << 4;
        /// Zero-filled in a forked child (`MADV_WIPEONFORK`).
        const WIPEONFORK = 1 << 5;
        /// `mprotect` may add write permission.
        const MAYWRITE = 1 << 6;
        /// `mprotect` may add execute permission.
        const MAYEXEC = 1 << 7;
        /// `MADV_HUGEPAGE` (a hint that is only reported back).
        const HUGEPAGE = 1 << 8;
        /// `MADV_NOHUGEPAGE` (the same).
        const NOHUGEPAGE = 1 << 9;
        /// Not in a core dump (`MADV_DONTDUMP`).
        const DONTDUMP = 1 << 10;
        /// Made by the kernel (vDSO); cannot be grown or remapped larger.
        const SPECIAL = 1 << 11;
        /// Hints of `madvise` about the access pattern: sequential.
        const SEQUENTIAL = 1 << 12;
        /// Hints of `madvise` about the access pattern: random (no fault-around).
        const RANDOM = 1 << 13;
        /// Cannot be unmapped, moved or given another protection (`mseal`).
        const SEALED = 1 << 14;
        /// Counts as promised memory: is, or was, private and writable.
        const ACCOUNT = 1 << 15;
        /// Locked pages are those that were touched (`MLOCK_ONFAULT`).
        const LOCK_ON_FAULT = 1 << 16;
    }
}

/// The flags about locking.
pub const LOCKS: VmFlags = VmFlags::LOCKED.union(VmFlags::LOCK_ON_FAULT);

/// Where the pages of a mapping come from.
#[derive(Clone)]
pub enum Backing {
    /// Zero pages that become private frames when written.
    Anonymous,
    /// Pages of an object, shared or copied on write.
    Object {
        /// The pages.
        object: Arc<dyn Mappable>,
        /// The file through which it was mapped.
        file: Option<FileRef>,
        /// Byte offset in the object of the first page of the mapping; page-aligned.
        offset: u64,
    },
}

/// A mapping: a page-aligned range with one protection, one set of flags and one backing.
pub struct Vma {
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
    /// What user code may do.
    pub prot: Prot,
    /// Properties.
    pub flags: VmFlags,
    /// Where pages come from.
    pub backing: Backing,
    /// `mbind`.
    pub policy: Policy,
    /// Set once a private page was made here. A private file mapping without any is not copied by `fork`:
    /// the child faults the pages in again from the cache.
    private_pages: AtomicBool,
}

impl Vma {
    /// A mapping without pages.
    pub fn new(start: u64, end: u64, prot: Prot, flags: VmFlags, backing: Backing) -> Self {
        let private_pages = AtomicBool::new(false);
        Vma { start, end, prot, flags, backing, policy: Policy::default(), private_pages }
    }

    /// Its length in pages.
    pub fn pages(&self) -> u64 {
        (self.end - self.start) / PAGE_SIZE
    }

    /// Whether writes go to the object.
    pub fn is_shared(&self) -> bool {
        self.flags.contains(VmFlags::SHARED)
    }

    /// Whether it is plain anonymous memory.
    pub fn is_anonymous(&self) -> bool {
        matches!(self.backing, Backing::Anonymous)
    }

    /// Notes that a private page is being made.
    pub(super) fn note_private_page(&self) {
        if !self.private_pages.load(Ordering::Relaxed) {
            self.private_pages.store(true, Ordering::Relaxed);
        }
    }

    /// Whether private pages may exist.
    pub(super) fn has_private_pages(&self) -> bool {
        self.private_pages.load(Ordering::Relaxed)
    }

    /// Index in the object of the page at `addr`; 0 for anonymous memory.
    pub fn page_index(&self, addr: u64) -> u64 {
        match &self.backing {
            Backing::Anonymous => 0,
            Backing::Object { offset, .. } => (offset + (addr - self.start)) / PAGE_SIZE,
        }
    }

    /// The lowest address that a mapping below must stay under: a stack keeps a gap so that it cannot grow
    /// into its neighbour unnoticed.
    pub(super) fn start_with_guard(&self) -> u64 {
        if self.flags.contains(VmFlags::GROWSDOWN) {
            self.start.saturating_sub(super::STACK_GUARD_GAP)
        } else {
            self.start
        }
    }

    /// The same mapping over a part of its range.
    ///
    /// Precondition: `self.start <= start < end <= self.end`.
    pub(super) fn part(&self, start: u64, end: u64) -> Vma {
        let mut backing = self.backing.clone();
        if let Backing::Object { offset, .. } = &mut backing {
            *offset += start - self.start;
        }
        Vma {
            start,
            end,
            prot: self.prot,
            flags: self.flags,
            backing,
            policy: self.policy,
            private_pages: AtomicBool::new(self.has_private_pages()),
        }
    }

    /// Whether `next`, which begins where this one ends, could be one mapping with it.
    pub(super) fn merges_with(&self, next: &Vma) -> bool {
        if self.end != next.start
            || self.prot != next.prot
            || self.flags != next.flags
            || self.policy != next.policy
        {
            return false;
        }
        match (&self.backing, &next.backing) {
            (Backing::Anonymous, Backing::Anonymous) => true,
            (
                Backing::Object { object: a, file: f, offset: o },
                Backing::Object { object: b, file: g, offset: p },
            ) => {
                let same_file = match (f, g) {
                    (Some(f), Some(g)) => same_object(f, g),
                    (None, None) => true,
                    _ => false,
                };
                same_object(a, b) && same_file && o + (self.end - self.start) == *p
            }
            _ => false,
        }
    }

    /// Extends it over `next`, for which [`merges_with`](Self::merges_with) holds.
    pub(super) fn absorb(&mut self, next: &Vma) {
        self.end = next.end;
        if next.has_private_pages() {
            self.note_private_page();
        }
    }
}

impl Clone for Vma {
    fn clone(&self) -> Self {
        self.part(self.start, self.end)
    }
}

/// Whether two references are to the same object. Compares the data address only: the same object may
/// carry different vtable addresses.
fn same_object<T: ?Sized>(a: &Arc<T>, b: &Arc<T>) -> bool {
    core::ptr::addr_eq(Arc::as_ptr(a), Arc::as_ptr(b))
}
