//! `mlock` and its family. Nothing is ever paged out here, so locking means: make the pages present now, and
//! count them against the limit.

use core::ops::Range;

use super::{LOCKS, Limits, Mm, PAGE_SIZE, VmFlags, map::check_range};
use crate::errno::{Errno, Result};

/// Marks as locked, and how.
fn lock_flags(flags: &mut VmFlags, on_fault: bool) {
    *flags |= VmFlags::LOCKED;
    flags.set(VmFlags::LOCK_ON_FAULT, on_fault);
}

impl Mm {
    /// Locks `range`; with `on_fault`, pages are not made present.
    ///
    /// # Errors
    /// ENOMEM (a hole, over the limit, or a page that nobody can have: PROT_NONE, beyond the end of a file), EAGAIN (no
    /// memory for it), EPERM (the limit is 0).
    pub(super) fn lock(
        &self,
        range: Range<u64>,
        on_fault: bool,
        limits: &Limits,
        between: &mut dyn FnMut() -> bool,
    ) -> Result<()> {
        let range = check_range(range)?;
        if limits.locked == 0 {
            return Err(Errno::EPERM);
        }
        let mut layout = self.layout.write();
        layout.check_split(&range)?;
        let new: u64 = layout
            .vmas
            .overlapping(range.clone())
            .filter(|v| !v.flags.contains(VmFlags::LOCKED))
            .map(|v| (v.end.min(range.end) - v.start.max(range.start)) / PAGE_SIZE)
            .sum();
        if layout.vmas.totals().locked.saturating_add(new) > limits.locked / PAGE_SIZE
            || !layout.vmas.covers(range.clone())
        {
            return Err(Errno::ENOMEM);
        }
        layout.vmas.update(range.clone(), |vma| lock_flags(&mut vma.flags, on_fault));
        drop(layout);
        if !on_fault {
            // The range stays locked whatever comes now.
            return match self.populate(range, None, between) {
                Err(Errno::ENOMEM) => Err(Errno::EAGAIN),
                Err(Errno::EFAULT | Errno::EACCES) => Err(Errno::ENOMEM),
                Ok(()) | Err(_) => Ok(()),
            };
        }
        Ok(())
    }

    /// Unlocks `range`.
    pub(super) fn unlock(&self, range: Range<u64>) -> Result<()> {
        let range = check_range(range)?;
        let mut layout = self.layout.write();
        layout.check_split(&range)?;
        layout.vmas.update(range.clone(), |vma| vma.flags -= LOCKS);
        if layout.vmas.covers(range) { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    /// `mlockall`.
    pub(super) fn lock_all(
        &self,
        current: bool,
        future: bool,
        on_fault: bool,
        limits: &Limits,
        between: &mut dyn FnMut() -> bool,
    ) -> Result<()> {
        if limits.locked == 0 {
            return Err(Errno::EPERM);
        }
        let mut layout = self.layout.write();
        if current && layout.vmas.totals().all > limits.locked / PAGE_SIZE {
            return Err(Errno::ENOMEM);
        }
        layout.lock_future = VmFlags::empty();
        if future {
            lock_flags(&mut layout.lock_future, on_fault);
        }
        if !current {
            return Ok(());
        }
        layout.vmas.update(0..super::USER_END, |vma| lock_flags(&mut vma.flags, on_fault));
        drop(layout);
        if on_fault {
            return Ok(());
        }
        let mut at = 0;
        loop {
            let next = self.layout.read().vmas.find_at_or_after(at).map(|v| v.start..v.end);
            let Some(range) = next else { return Ok(()) };
            at = range.end;
            if self.populate(range, None, between) == Err(Errno::EINTR) {
                return Err(Errno::EINTR);
            }
        }
    }

    /// `munlockall`.
    pub(super) fn unlock_all(&self) {
        let mut layout = self.layout.write();
        layout.lock_future = VmFlags::empty();
        layout.vmas.update(0..super::USER_END, |vma| vma.flags -= LOCKS);
    }

    /// Whether new mappings are to be locked and made present (`MCL_FUTURE` without `MCL_ONFAULT`).
    pub(super) fn locks_future(&self) -> bool {
        self.layout.read().lock_future == VmFlags::LOCKED
    }
}
