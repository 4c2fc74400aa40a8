//! Making, removing and protecting mappings.

use alloc::{sync::Arc, vec::Vec};
use core::ops::Range;

use ringfence_hal::{Access, Prot};

use super::{
    Backing, FileMapping, Layout, Limits, MAX_MAP_COUNT, MMAP_MIN_ADDR, Mm, PAGE_SIZE, SharedMemory,
    USER_END, VmFlags, Vma, commit, fault::page_rights, page_align_down, page_align_up,
};
use crate::errno::{Errno, Result};

/// Where a new mapping goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Anywhere.
    Any,
    /// At this address if it is free, else anywhere.
    Hint(u64),
    /// In the lowest 2 GiB (`MAP_32BIT`).
    Low,
    /// Exactly there; what is there goes.
    Fixed(u64),
    /// Exactly there; if something is there, EEXIST.
    FixedNoReplace(u64),
}

/// What to map.
pub struct MapRequest {
    /// Bytes; rounded up to pages.
    pub len: u64,
    /// Where.
    pub placement: Placement,
    /// What user code may do.
    pub prot: Prot,
    /// `SHARED`, `GROWSDOWN`, `NORESERVE`, `LOCKED`, `SPECIAL`; the others are derived.
    pub flags: VmFlags,
    /// A file (or other object) and the byte offset of the first page in it; None for anonymous memory.
    pub file: Option<(FileMapping, u64)>,
}

impl Mm {
    /// Makes a mapping and returns its address.
    ///
    /// # Errors
    /// EINVAL (length 0, unaligned), ENOMEM (no room, too many mappings, limits), EACCES (the file was not opened
    /// so), EEXIST, EOVERFLOW (offset), EAGAIN (`RLIMIT_MEMLOCK`).
    pub fn map(self: &Arc<Self>, request: MapRequest, limits: &Limits) -> Result<u64> {
        if request.len == 0 {
            return Err(Errno::EINVAL);
        }
        let len = page_align_up(request.len).filter(|len| *len <= USER_END).ok_or(Errno::ENOMEM)?;
        let mut flags = request.flags;
        let backing = self.backing_of(&request, len, &mut flags)?;

        let mut layout = self.layout.write();
        flags |= layout.lock_future;
        if !flags.contains(VmFlags::SHARED) && request.prot.contains(Prot::WRITE) {
            flags.set(VmFlags::ACCOUNT, commit::is_strict() || !flags.contains(VmFlags::NORESERVE));
        }
        let start = layout.place(len, request.placement)?;
        let range = start..start + len;
        let vma = Vma::new(start, range.end, request.prot, flags, backing);
        let mut replaced = 0;
        if matches!(request.placement, Placement::Fixed(_)) {
            replaced = layout.vmas.overlapping(range.clone()).map(|v| overlap(v, &range) / PAGE_SIZE).sum();
        }
        if replaced > 0 {
            layout.check_seals(&range)?;
        }
        layout.check_limits(&vma, replaced, limits)?;
        let removed = if replaced > 0 { self.remove_range(&mut layout, range) } else { Vec::new() };
        layout.vmas.insert(vma);
        layout.note_change();
        drop(layout);
        drop(removed);
        Ok(start)
    }

    /// Turns the request into a backing and completes the flags.
    fn backing_of(self: &Arc<Self>, request: &MapRequest, len: u64, flags: &mut VmFlags) -> Result<Backing> {
        let Some((file, offset)) = &request.file else {
            *flags |= VmFlags::MAYWRITE | VmFlags::MAYEXEC;
            return Ok(match flags.contains(VmFlags::SHARED) {
                true => {
                    let promised = commit::is_strict() || !flags.contains(VmFlags::NORESERVE);
                    let object = if promised { SharedMemory::promised(len)? } else { SharedMemory::new(len) };
                    Backing::Object { object, file: None, offset: 0 }
                }
                false => Backing::Anonymous,
            });
        };
        offset.checked_add(len).filter(|end| *end <= i64::MAX as u64).ok_or(Errno::EOVERFLOW)?;
        if !offset.is_multiple_of(PAGE_SIZE) || flags.contains(VmFlags::GROWSDOWN) {
            return Err(Errno::EINVAL);
        }
        let shared = flags.contains(VmFlags::SHARED);
        if request.prot.contains(Prot::EXEC) && !file.may_exec {
            return Err(Errno::EPERM);
        }
        if shared && request.prot.contains(Prot::WRITE) {
            if !file.may_write {
                return Err(Errno::EACCES);
            }
            file.object.may_write_shared()?;
        }
        // A sealed file can be mapped shared, but such a mapping never becomes writable.
        let may_write = file.may_write && (!shared || file.object.may_write_shared().is_ok());
        flags.set(VmFlags::MAYWRITE, !shared || may_write);
        flags.set(VmFlags::MAYEXEC, file.may_exec);
        if let Some(mappers) = file.object.mappers() {
            mappers.add(self);
        }
        Ok(Backing::Object { object: file.object.clone(), file: file.file.clone(), offset: *offset })
    }

    /// Where `len` bytes (a multiple of the page size) would be mapped next.
    pub fn find_free(&self, len: u64) -> Result<u64> {
        self.layout.write().place(len, Placement::Any)
    }

    /// Removes everything in `range`.
    pub fn unmap(&self, range: Range<u64>) -> Result<()> {
        let range = check_range(range)?;
        let mut layout = self.layout.write();
        layout.check_seals(&range)?;
        layout.check_split(&range)?;
        let removed = self.remove_range(&mut layout, range);
        layout.note_change();
        drop(layout);
        drop(removed);
        Ok(())
    }

    /// Takes the mappings of `range` out of the tree and their pages out of the page tables. The caller drops the
    /// result after the lock: it may hold the last reference to a file.
    #[must_use]
    pub(super) fn remove_range(&self, layout: &mut Layout, range: Range<u64>) -> Vec<Vma> {
        let removed = layout.vmas.remove(range);
        for vma in &removed {
            self.unmap_pages(vma, vma.start..vma.end);
        }
        removed
    }

    /// `mprotect`. With `grows_down`, the range begins at the start of the growing mapping it begins in.
    pub fn protect(&self, range: Range<u64>, prot: Prot, grows_down: bool, limits: &Limits) -> Result<()> {
        let mut range = check_range(range).map_err(|_| Errno::ENOMEM)?;
        let mut layout = self.layout.write();
        if grows_down {
            let vma = layout.vmas.find(range.start).ok_or(Errno::ENOMEM)?;
            if !vma.flags.contains(VmFlags::GROWSDOWN) {
                return Err(Errno::EINVAL);
            }
            range.start = vma.start;
        }
        layout.check_seals(&range)?;
        layout.check_split(&range)?;
        // As Linux does: what lies before the first hole is changed, then ENOMEM.
        let mut end = range.start;
        let mut result = Ok(());
        let mut more_data = 0;
        let mut promised = 0;
        let counts = |vma: &Vma| {
            prot.contains(Prot::WRITE)
                && !vma.is_shared()
                && !vma.flags.intersects(VmFlags::ACCOUNT | VmFlags::NORESERVE)
        };
        for vma in layout.vmas.overlapping(range.clone()) {
            if vma.start > end {
                break;
            }
            if let Err(e) = may_protect(vma, prot) {
                result = Err(e);
                break;
            }
            if prot.contains(Prot::WRITE) && !vma.prot.contains(Prot::WRITE) && !vma.is_shared() {
                more_data += overlap(vma, &range) / PAGE_SIZE;
            }
            if counts(vma) {
                promised += overlap(vma, &range) / PAGE_SIZE;
            }
            end = vma.end.min(range.end);
        }
        if promised > 0 {
            commit::check(promised, layout.vmas.totals().all)?;
        }
        if layout.vmas.totals().data.saturating_add(more_data) > limits.data_mappings / PAGE_SIZE
            && more_data > 0
        {
            return Err(Errno::ENOMEM);
        }
        if end > range.start {
            layout.vmas.update(range.start..end, |vma| {
                vma.flags.set(VmFlags::ACCOUNT, vma.flags.contains(VmFlags::ACCOUNT) || counts(vma));
                vma.prot = prot;
            });
            layout.note_change();
            self.space.protect(range.start..end, page_rights(prot));
        }
        if end < range.end && result.is_ok() {
            result = Err(Errno::ENOMEM);
        }
        result
    }

    /// Makes the pages of `range` present, as far as they can be (`MAP_POPULATE`, `MADV_POPULATE_*`, `mlock`).
    /// Writable private mappings get pages of their own. `between` runs every few pages without the
    /// lock, and ends it by `false`.
    ///
    /// # Errors
    /// ENOMEM (a hole, or no memory), EFAULT (no page to be had), EACCES (no such access), EINTR (`between`).
    pub fn populate(
        &self,
        range: Range<u64>,
        write: Option<bool>,
        between: &mut dyn FnMut() -> bool,
    ) -> Result<()> {
        const BATCH: u64 = 64;
        let range = check_range(range)?;
        let mut page = range.start;
        while page < range.end {
            let layout = self.layout.read();
            let stop = range.end.min(page.saturating_add(BATCH * PAGE_SIZE));
            let mut missing = None;
            while page < stop {
                let vma = layout.vmas.find(page).ok_or(Errno::ENOMEM)?;
                let write = write.unwrap_or(vma.prot.contains(Prot::WRITE) && !vma.is_shared());
                let access = match write {
                    true => Access::Write,
                    false if vma.prot == Prot::EXEC => Access::Exec,
                    false => Access::Read,
                };
                match self.touch(vma, page, access, false) {
                    super::FaultResult::Resolved => {}
                    super::FaultResult::OutOfMemory => return Err(Errno::ENOMEM),
                    super::FaultResult::NotPermitted => return Err(Errno::EACCES),
                    super::FaultResult::NotLoaded => {
                        missing = Some(page);
                        break;
                    }
                    _ => return Err(Errno::EFAULT),
                }
                page = self.end_of_huge(vma, page).unwrap_or(page + PAGE_SIZE);
            }
            drop(layout);
            if let Some(page) = missing {
                self.load_page(page).map_err(|e| if e == Errno::EIO { Errno::EFAULT } else { e })?;
            }
            if !between() {
                return Err(Errno::EINTR);
            }
        }
        Ok(())
    }
}

/// Whether `mprotect` may set `prot` on `vma`.
fn may_protect(vma: &Vma, prot: Prot) -> Result<()> {
    let denied = (prot.contains(Prot::WRITE) && !vma.flags.contains(VmFlags::MAYWRITE))
        || (prot.contains(Prot::EXEC) && !vma.flags.contains(VmFlags::MAYEXEC));
    if denied {
        return Err(Errno::EACCES);
    }
    Ok(())
}

/// Bytes of `vma` in `range`.
fn overlap(vma: &Vma, range: &Range<u64>) -> u64 {
    vma.end.min(range.end).saturating_sub(vma.start.max(range.start))
}

/// Checks that a range is not empty, begins on a page and lies in the user half; rounds its end up.
pub(super) fn check_range(range: Range<u64>) -> Result<Range<u64>> {
    let end = page_align_up(range.end).ok_or(Errno::EINVAL)?;
    if !range.start.is_multiple_of(PAGE_SIZE) || range.start >= end || end > USER_END {
        return Err(Errno::EINVAL);
    }
    Ok(range.start..end)
}

impl Layout {
    /// Picks the address of a new mapping of `len` bytes.
    pub(super) fn place(&mut self, len: u64, placement: Placement) -> Result<u64> {
        match placement {
            Placement::Any => self.find_gap(len),
            Placement::Hint(hint) => {
                let hint = page_align_down(hint).max(MMAP_MIN_ADDR);
                if hint.checked_add(len).is_some_and(|end| end <= USER_END) && self.is_free(hint, len) {
                    return Ok(hint);
                }
                self.find_gap(len)
            }
            Placement::Low => {
                const LOW: Range<u64> = 0x4000_0000..0x8000_0000;
                let found = self.vmas.find_gap_upward(len, LOW);
                found.or_else(|| self.vmas.find_gap_upward(len, MMAP_MIN_ADDR..LOW.end)).ok_or(Errno::ENOMEM)
            }
            Placement::Fixed(at) | Placement::FixedNoReplace(at) => {
                if !at.is_multiple_of(PAGE_SIZE) {
                    return Err(Errno::EINVAL);
                }
                let end = at.checked_add(len).filter(|end| *end <= USER_END).ok_or(Errno::ENOMEM)?;
                if at < MMAP_MIN_ADDR {
                    return Err(Errno::EPERM);
                }
                let busy = self.vmas.overlapping(at..end).next().is_some();
                if busy && matches!(placement, Placement::FixedNoReplace(_)) {
                    return Err(Errno::EEXIST);
                }
                if busy {
                    self.check_split(&(at..end))?;
                }
                Ok(at)
            }
        }
    }

    fn find_gap(&mut self, len: u64) -> Result<u64> {
        let base = self.mmap_base;
        self.vmas
            .find_gap(len, MMAP_MIN_ADDR..base)
            .or_else(|| self.vmas.find_gap_upward(len, base..USER_END))
            .ok_or(Errno::ENOMEM)
    }

    /// Whether `len` bytes at `at` are free and not in the guard gap of a stack above.
    pub(super) fn is_free(&self, at: u64, len: u64) -> bool {
        self.vmas.find_at_or_after(at).is_none_or(|next| at + len <= next.start_with_guard())
    }

    /// Checks that `vma` may be added after `replaced` pages have gone.
    pub(super) fn check_limits(&self, vma: &Vma, replaced: u64, limits: &Limits) -> Result<()> {
        let totals = self.vmas.totals();
        let mut after = totals;
        after.add(vma);
        if self.vmas.count() >= MAX_MAP_COUNT
            || after.all.saturating_sub(replaced) > limits.address_space / PAGE_SIZE
            || (after.data > totals.data
                && after.data.saturating_sub(replaced) > limits.data_mappings / PAGE_SIZE)
        {
            return Err(Errno::ENOMEM);
        }
        if vma.flags.contains(VmFlags::LOCKED) && limits.locked == 0 {
            return Err(Errno::EPERM);
        }
        if vma.flags.contains(VmFlags::LOCKED) && after.locked > limits.locked / PAGE_SIZE {
            return Err(Errno::EAGAIN);
        }
        if vma.flags.contains(VmFlags::ACCOUNT) {
            commit::check(vma.pages(), totals.all)?;
        }
        Ok(())
    }

    /// Checks that cutting mappings at the ends of `range` stays within the number of mappings.
    pub(super) fn check_split(&self, range: &Range<u64>) -> Result<()> {
        if self.vmas.count() + 2 <= MAX_MAP_COUNT {
            return Ok(());
        }
        let inside = |addr: u64| self.vmas.find(addr).is_some_and(|vma| vma.start < addr);
        let cuts = usize::from(inside(range.start)) + usize::from(inside(range.end));
        if self.vmas.count() + cuts > MAX_MAP_COUNT { Err(Errno::ENOMEM) } else { Ok(()) }
    }
}
