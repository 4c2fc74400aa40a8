//! Resolving page faults.
//!
//! A fault either finds no page-table entry and *fills* it, or finds one whose rights are too small and
//! *upgrades* it. Both run with the layout locked for reading, so several threads may resolve the same page:
//! `AddressSpace::map_new` lets one of them win and the others look again. Upgrades of one page are
//! serialised by [`Mm::upgrade_locks`]: otherwise one thread could take over an exclusive frame while another
//! still copies it, and writes made in between would be lost.

use ringfence_hal as hal;
use ringfence_hal::{Access, Frame, MapError, PageFault, Prot};

use crate::{errno::Errno, sync::Once};

use super::{
    Backing, Limits, MMAP_MIN_ADDR, Mappable, Mm, PAGE_SIZE, STACK_GUARD_GAP, USER_END, VmFlags, Vma,
    VmaTree,
    charge::{self, Kind},
    page_align_down,
};

/// Pages mapped around a read fault on an object, if they are cached.
const FAULT_AROUND: u64 = 16;

/// How a fault ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultResult {
    /// The access can be retried.
    Resolved,
    /// Nothing is mapped there: SIGSEGV with `SEGV_MAPERR`.
    NotMapped,
    /// The mapping does not allow the access: SIGSEGV with `SEGV_ACCERR`.
    NotPermitted,
    /// Beyond the end of the object, or its page cannot be had: SIGBUS with `BUS_ADRERR`.
    NoPage,
    /// No memory is left: the out-of-memory path decides whom to kill.
    OutOfMemory,
    /// It has to be read from somewhere: [`Mm::load_page`], then the access can be retried.
    NotLoaded,
}

/// What one attempt at a page came to.
enum Attempt {
    Done,
    /// Another thread was quicker: look again.
    Again,
    Failed(FaultResult),
}

impl Mm {
    /// Resolves a page fault. `limits` is asked for when a stack has to grow.
    pub fn fault(&self, fault: PageFault, limits: impl FnOnce() -> Limits) -> FaultResult {
        if fault.addr >= USER_END {
            return FaultResult::NotMapped;
        }
        let page = page_align_down(fault.addr);
        {
            let layout = self.layout.read();
            match layout.vmas.find_at_or_after(page) {
                Some(vma) if vma.start <= page => {
                    return self.touch(vma, page, fault.access, fault.present);
                }
                Some(vma) if vma.flags.contains(VmFlags::GROWSDOWN) => {}
                _ => return FaultResult::NotMapped,
            }
        }
        let limits = limits();
        let mut layout = self.layout.write();
        if !grow_stack(&mut layout.vmas, page, &limits) {
            return FaultResult::NotMapped;
        }
        layout.note_change();
        match layout.vmas.find(page) {
            Some(vma) => self.touch(vma, page, fault.access, false),
            None => FaultResult::NotMapped,
        }
    }

    /// Has the page at `addr` read into memory, after [`FaultResult::NotLoaded`]. Sleeps: only sleeping locks may be held.
    #[cold]
    pub fn load_page(&self, addr: u64) -> Result<(), Errno> {
        let page = page_align_down(addr);
        let found = {
            let layout = self.layout.read();
            match layout.vmas.find(page).map(|vma| (&vma.backing, vma.page_index(page))) {
                Some((Backing::Object { object, .. }, index)) => Some((object.clone(), index)),
                _ => None, // Another mapping by now: the retry will see.
            }
        };
        found.map_or(Ok(()), |(object, index)| object.load(index))
    }

    /// Makes `page` of `vma` accessible. `present`: there is probably an entry already.
    ///
    /// Precondition: the layout is locked; `page` lies in `vma`.
    pub(super) fn touch(&self, vma: &Vma, page: u64, access: Access, present: bool) -> FaultResult {
        if !permits(vma.prot, access) {
            return FaultResult::NotPermitted;
        }
        let mut present = present;
        loop {
            let attempt =
                if present { self.upgrade(vma, page, access) } else { self.fill(vma, page, access) };
            match attempt {
                Attempt::Done => return FaultResult::Resolved,
                Attempt::Failed(result) => return result,
                Attempt::Again => present = !present,
            }
        }
    }

    /// Maps a page where there was none. `Again`: there is one.
    fn fill(&self, vma: &Vma, page: u64, access: Access) -> Attempt {
        let write = access == Access::Write;
        let rights = page_rights(vma.prot);
        let (frame, rights) = match &vma.backing {
            Backing::Anonymous if write && self.wants_huge(vma) && self.fill_huge(vma, page) => {
                return Attempt::Done;
            }
            Backing::Anonymous if write => match charge::zeroed(Kind::Anonymous) {
                Ok(frame) => (frame, rights),
                Err(hal::OutOfMemory) => return Attempt::Failed(FaultResult::OutOfMemory),
            },
            Backing::Anonymous => match zero_frame() {
                Some(frame) => (frame, rights - Prot::WRITE),
                None => return Attempt::Failed(FaultResult::OutOfMemory),
            },
            Backing::Object { object, .. } => match self.object_frame(vma, object.as_ref(), page, write) {
                Ok((frame, true)) => (frame, rights),
                Ok((frame, false)) => (frame, rights - Prot::WRITE),
                Err(result) => return Attempt::Failed(result),
            },
        };
        match self.space.map_new(page, frame, rights) {
            Ok(()) => {
                let mut mapped = 1;
                if let Backing::Object { object, .. } = &vma.backing
                    && !write
                    && !vma.flags.contains(VmFlags::RANDOM)
                {
                    mapped += self.fault_around(vma, object.as_ref(), page);
                }
                self.count_pages(vma, mapped);
                Attempt::Done
            }
            Err(MapError::Present) => Attempt::Again,
            Err(MapError::OutOfMemory) => Attempt::Failed(FaultResult::OutOfMemory),
        }
    }

    /// The frame to map for a page of an object, and whether it may be mapped writable.
    fn object_frame(
        &self,
        vma: &Vma,
        object: &dyn Mappable,
        page: u64,
        write: bool,
    ) -> Result<(Frame, bool), FaultResult> {
        let index = vma.page_index(page);
        if index >= object.len().div_ceil(PAGE_SIZE) {
            return Err(FaultResult::NoPage);
        }
        let writable = vma.is_shared() && vma.prot.contains(Prot::WRITE);
        let frame = object.page(index, writable).map_err(|e| match e {
            Errno::ENOMEM => FaultResult::OutOfMemory,
            Errno::EAGAIN => FaultResult::NotLoaded,
            _ => FaultResult::NoPage,
        })?;
        if vma.is_shared() && write && frame.is_static() {
            return Err(FaultResult::NoPage); // Read-only memory of the host: no right to write can be given.
        }
        if vma.is_shared() || !write {
            let writable = writable && !frame.is_static();
            return Ok((frame, writable));
        }
        vma.note_private_page();
        Ok((charge::copied(&frame, Kind::Anonymous).map_err(|_| FaultResult::OutOfMemory)?, true))
    }

    /// Maps the cached neighbours of `page`, read-only. Not for shared writable mappings, whose objects want to
    /// know about every page that may be written. Returns how many were mapped.
    fn fault_around(&self, vma: &Vma, object: &dyn Mappable, page: u64) -> i64 {
        if vma.is_shared() && vma.prot.contains(Prot::WRITE) {
            return 0;
        }
        let window = FAULT_AROUND * PAGE_SIZE;
        let pages_in_object = object.len().div_ceil(PAGE_SIZE);
        let first = vma.start.max(page - page % window);
        let last = vma.end.min(page - page % window + window);
        let rights = page_rights(vma.prot) - Prot::WRITE;
        let index = vma.page_index(first);
        let count = ((last - first) / PAGE_SIZE).min(pages_in_object.saturating_sub(index));
        let mut frames = [const { None }; FAULT_AROUND as usize];
        let Some(frames) = frames.get_mut(..count as usize) else { return 0 };
        object.cached_pages(index, frames);
        self.space.map_around(first, frames, rights) as i64
    }

    /// Enlarges the rights of a page that is mapped. `Again`: there is no entry, or it changed meanwhile.
    fn upgrade(&self, vma: &Vma, page: u64, access: Access) -> Attempt {
        let _lock = (!vma.is_shared()).then(|| self.upgrade_lock(page).lock());
        let Some(mapping) = self.space.get(page) else { return Attempt::Again };
        if permits(mapping.prot, access) {
            return Attempt::Done;
        }
        let rights = page_rights(vma.prot);
        let mapping = if mapping.huge && access == Access::Write && !vma.is_shared() {
            drop(mapping); // It is a reference, too.
            if self.space.own_huge(page, rights) {
                return Attempt::Done;
            }
            match self.space.get(page) {
                Some(mapping) => mapping,
                None => return Attempt::Again,
            }
        } else {
            mapping
        };
        let pfn = mapping.frame.pfn();
        let mut copied = None;
        let (frame, rights) = if access != Access::Write {
            // mprotect gave reading or executing back; writing stays for the write fault.
            (mapping.frame, rights & (mapping.prot | Prot::READ | Prot::EXEC))
        } else if vma.is_shared() {
            if let Backing::Object { object, .. } = &vma.backing
                && (mapping.frame.is_static() || object.page(vma.page_index(page), true).is_err())
            {
                return Attempt::Failed(FaultResult::NoPage);
            }
            (mapping.frame, rights)
        } else {
            vma.note_private_page();
            if is_own(&mapping.frame) {
                (mapping.frame, rights)
            } else {
                let Ok(copy) = copy_of(&mapping.frame) else {
                    return Attempt::Failed(FaultResult::OutOfMemory);
                };
                // Kept until the entry is replaced: while it is a reference to the frame, nobody can take over the large
                // page the frame may be part of, write to it, and have that overwritten by our older copy.
                copied = Some(mapping.frame);
                (copy, rights)
            }
        };
        let replaced = self.space.replace(page, pfn, frame, rights);
        drop(copied);
        if replaced { Attempt::Done } else { Attempt::Again }
    }
}

/// Whether the entry that maps `frame` (and our reference) are the only ones.
fn is_own(frame: &Frame) -> bool {
    const ENTRY_AND_OURS: usize = 2;
    !frame.is_static() && frame.ref_count() == ENTRY_AND_OURS
}

/// A new frame with the contents of `frame`.
fn copy_of(frame: &Frame) -> Result<Frame, hal::OutOfMemory> {
    if zero_frame().is_some_and(|zero| zero.pfn() == frame.pfn()) {
        return charge::zeroed(Kind::Anonymous);
    }
    charge::copied(frame, Kind::Anonymous)
}

/// The page that all untouched anonymous memory reads as.
pub(super) fn zero_frame() -> Option<Frame> {
    static ZERO: Once<Option<Frame>> = Once::new();
    ZERO.call_once(|| Frame::alloc_zeroed().ok()).clone()
}

/// Whether rights `prot` allow `access`. On x86-64 every mapped page is readable.
pub(super) fn permits(prot: Prot, access: Access) -> bool {
    match access {
        Access::Read => !prot.is_empty(),
        Access::Write => prot.contains(Prot::WRITE),
        Access::Exec => prot.contains(Prot::EXEC),
    }
}

/// The page-table rights for a mapping's protection: any access implies reading.
pub(super) fn page_rights(prot: Prot) -> Prot {
    if prot.is_empty() { prot } else { prot | Prot::READ }
}

/// Lets the stack above `page` grow down to it, if the limits and the mapping below allow.
fn grow_stack(vmas: &mut VmaTree, page: u64, limits: &Limits) -> bool {
    let Some(stack) = vmas.find_at_or_after(page) else { return false };
    if stack.start <= page {
        return true; // Another thread has done it.
    }
    if !stack.flags.contains(VmFlags::GROWSDOWN) || page < MMAP_MIN_ADDR {
        return false;
    }
    let (start, end) = (stack.start, stack.end);
    let added = (start - page) / PAGE_SIZE;
    if end - page > limits.stack || vmas.totals().all.saturating_add(added) > limits.address_space / PAGE_SIZE
    {
        return false;
    }
    if let Some(below) = vmas.find_before(page)
        && !below.prot.is_empty()
        && !below.flags.contains(VmFlags::GROWSDOWN)
        && page - below.end < STACK_GUARD_GAP
    {
        return false;
    }
    vmas.move_start(start, page);
    true
}
