//! `madvise`, `mincore` and `msync`: advice about mappings and questions about their pages.

use core::ops::Range;

use ringfence_hal::Prot;

use super::{Backing, Layout, Mm, PAGE_SIZE, VmFlags, Vma, map::check_range};
use crate::errno::{Errno, Result};

/// A piece of advice, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Advice {
    /// Nothing to do but to check the range.
    Hint,
    /// Nothing to do, and locked memory is refused (`MADV_COLD`, `MADV_PAGEOUT`: there is no swap).
    Age,
    /// Drop the pages (`MADV_DONTNEED`).
    DontNeed,
    /// Drop the pages, locked ones too (`MADV_DONTNEED_LOCKED`).
    DontNeedLocked,
    /// Punch a hole into the object (`MADV_REMOVE`).
    Remove,
    /// Pages may be dropped any time; we drop them now (`MADV_FREE`).
    Free,
    /// Set and clear flags.
    Flags {
        /// To set.
        set: VmFlags,
        /// To clear.
        clear: VmFlags,
    },
    /// Make large pages now (`MADV_COLLAPSE`).
    Collapse,
    /// `MADV_POPULATE_READ` (false) or `MADV_POPULATE_WRITE` (true).
    Populate(bool),
}

impl Advice {
    /// Decodes the argument of `madvise`; EINVAL for what there is not.
    pub(super) fn from_raw(advice: i32) -> Result<Advice> {
        let access = VmFlags::SEQUENTIAL | VmFlags::RANDOM;
        let flags = |set: VmFlags, clear: VmFlags| Advice::Flags { set, clear: clear - set };
        Ok(match advice {
            0 => flags(VmFlags::empty(), access),
            1 => flags(VmFlags::RANDOM, access),
            2 => flags(VmFlags::SEQUENTIAL, access),
            3 => Advice::Hint, // WILLNEED
            4 => Advice::DontNeed,
            8 => Advice::Free,
            9 => Advice::Remove,
            10 => flags(VmFlags::DONTFORK, VmFlags::empty()),
            11 => flags(VmFlags::empty(), VmFlags::DONTFORK),
            14 => flags(VmFlags::HUGEPAGE, VmFlags::NOHUGEPAGE),
            15 => flags(VmFlags::NOHUGEPAGE, VmFlags::HUGEPAGE),
            16 => flags(VmFlags::DONTDUMP, VmFlags::empty()),
            17 => flags(VmFlags::empty(), VmFlags::DONTDUMP),
            18 => flags(VmFlags::WIPEONFORK, VmFlags::empty()),
            19 => flags(VmFlags::empty(), VmFlags::WIPEONFORK),
            20 | 21 => Advice::Age, // COLD, PAGEOUT
            22 => Advice::Populate(false),
            23 => Advice::Populate(true),
            24 => Advice::DontNeedLocked,
            25 => Advice::Collapse,
            // MERGEABLE and UNMERGEABLE among them: as a Linux without CONFIG_KSM.
            _ => return Err(Errno::EINVAL),
        })
    }
}

impl Mm {
    /// Applies advice to every mapping in `range`. Holes are ENOMEM, after the rest was done.
    pub(super) fn advise(
        &self,
        range: Range<u64>,
        advice: Advice,
        between: &mut dyn FnMut() -> bool,
    ) -> Result<()> {
        match advice {
            Advice::Populate(write) => {
                return self.populate(range, Some(write), between).map_err(|e| match e {
                    Errno::EACCES => Errno::EINVAL, // What the mapping does not allow is the wrong advice.
                    e => e,
                });
            }
            Advice::Remove => return self.remove(range),
            Advice::Collapse => return self.collapse(range, between),
            Advice::DontNeed | Advice::DontNeedLocked | Advice::Free | Advice::Hint | Advice::Age => {
                let layout = self.layout.read();
                layout.check_discard(&range, advice)?;
                for vma in layout.vmas.overlapping(range.clone()) {
                    advisable(vma, advice)?;
                    if !matches!(advice, Advice::Hint | Advice::Age) {
                        self.unmap_pages(vma, vma.start.max(range.start)..vma.end.min(range.end));
                    }
                }
                return covered(&layout, range);
            }
            Advice::Flags { .. } => {}
        }
        let Advice::Flags { set, clear } = advice else { return Ok(()) };
        let mut layout = self.layout.write();
        layout.check_discard(&range, advice)?;
        layout.check_split(&range)?;
        for vma in layout.vmas.overlapping(range.clone()) {
            advisable(vma, advice)?;
        }
        let unchanged = layout
            .vmas
            .overlapping(range.clone())
            .all(|v| v.flags.contains(set) && !v.flags.intersects(clear));
        if !unchanged {
            layout.vmas.update(range.clone(), |vma| {
                vma.flags -= clear;
                vma.flags |= set;
            });
        }
        covered(&layout, range)
    }

    /// Goes through the mappings in `range`: `look` sees each and which part of it that is, `act` gets what `look` has found,
    /// when no lock is held any more.
    ///
    /// # Errors
    /// The first of either, which ends the walk; ENOMEM after the last if something in `range` is not mapped.
    pub(super) fn each_part<T>(
        &self,
        range: Range<u64>,
        look: impl Fn(&Vma, &Range<u64>) -> Result<T>,
        mut act: impl FnMut(T, Range<u64>) -> Result<()>,
    ) -> Result<()> {
        let (mut at, mut hole) = (range.start, false);
        while at < range.end {
            let layout = self.layout.read();
            let Some(vma) = layout.vmas.find_at_or_after(at).filter(|v| v.start < range.end) else {
                hole = true;
                break;
            };
            let part = vma.start.max(at)..vma.end.min(range.end);
            hole |= part.start > at;
            let found = look(vma, &part)?;
            drop(layout);
            at = part.end;
            act(found, part)?;
        }
        if hole { Err(Errno::ENOMEM) } else { Ok(()) }
    }

    /// `MADV_REMOVE`: holes in the objects of shared writable mappings.
    fn remove(&self, range: Range<u64>) -> Result<()> {
        let look = |vma: &Vma, part: &Range<u64>| {
            let Backing::Object { object, offset, .. } = &vma.backing else { return Err(Errno::EINVAL) };
            if vma.flags.contains(VmFlags::LOCKED) {
                return Err(Errno::EINVAL);
            }
            if !vma.flags.contains(VmFlags::SHARED | VmFlags::MAYWRITE) {
                return Err(Errno::EACCES);
            }
            Ok((object.clone(), offset + (part.start - vma.start)))
        };
        self.each_part(range, look, |(object, offset), part| {
            object.punch(offset, offset + (part.end - part.start))
        })
    }

    /// One byte for each page of `range`, from `first` on as many as fit: 1 if a touch would not need to make or
    /// fetch the page.
    pub(super) fn incore(&self, range: Range<u64>, out: &mut [u8]) -> Result<()> {
        let layout = self.layout.read();
        for (slot, page) in out.iter_mut().zip(range.step_by(PAGE_SIZE as usize)) {
            let vma = layout.vmas.find(page).ok_or(Errno::ENOMEM)?;
            let resident = self.space.get(page).is_some()
                || match &vma.backing {
                    Backing::Anonymous => false,
                    Backing::Object { object, .. } => object.cached_page(vma.page_index(page)).is_some(),
                };
            *slot = u8::from(resident);
        }
        Ok(())
    }

    /// Writes back shared mappings in `range`. Objects are written back without the lock.
    pub(super) fn sync(&self, range: Range<u64>, write_back: bool, invalidate: bool) -> Result<()> {
        let look = |vma: &Vma, part: &Range<u64>| match &vma.backing {
            _ if invalidate && vma.flags.contains(VmFlags::LOCKED) => Err(Errno::EBUSY),
            Backing::Object { object, offset, .. } if vma.is_shared() && write_back => {
                Ok(Some((object.clone(), offset + (part.start - vma.start))))
            }
            _ => Ok(None),
        };
        self.each_part(range, look, |target, part| match target {
            Some((object, offset)) => object.sync(offset, offset + (part.end - part.start)),
            None => Ok(()),
        })
    }
}

/// Checks that `advice` makes sense for `vma`.
fn advisable(vma: &Vma, advice: Advice) -> Result<()> {
    let private_anonymous = vma.is_anonymous();
    let refused = match advice {
        Advice::DontNeed | Advice::Age => vma.flags.contains(VmFlags::LOCKED),
        Advice::Free => !private_anonymous || vma.flags.contains(VmFlags::LOCKED),
        Advice::Flags { set, .. } => set.contains(VmFlags::WIPEONFORK) && !private_anonymous,
        _ => false,
    };
    if refused { Err(Errno::EINVAL) } else { Ok(()) }
}

impl Layout {
    /// EPERM if `advice` would discard private memory of a sealed mapping that may not be written.
    fn check_discard(&self, range: &Range<u64>, advice: Advice) -> Result<()> {
        let discards = match advice {
            Advice::DontNeed | Advice::DontNeedLocked | Advice::Free => true,
            Advice::Flags { set, .. } => set.intersects(VmFlags::DONTFORK | VmFlags::WIPEONFORK),
            _ => false,
        };
        let kept =
            |v: &Vma| v.flags.contains(VmFlags::SEALED) && v.is_anonymous() && !v.prot.contains(Prot::WRITE);
        if discards && self.has_seals && self.vmas.overlapping(range.clone()).any(kept) {
            return Err(Errno::EPERM);
        }
        Ok(())
    }
}

fn covered(layout: &Layout, range: Range<u64>) -> Result<()> {
    if layout.vmas.covers(range) { Ok(()) } else { Err(Errno::ENOMEM) }
}

/// The range of an `madvise`-like call; None if it is empty, which is a success.
///
/// # Errors
/// EINVAL if it is not page-aligned or wraps; ENOMEM if it leaves the user half.
pub(super) fn advice_range(start: u64, len: u64) -> Result<Option<Range<u64>>> {
    let len = super::page_align_up(len).ok_or(Errno::EINVAL)?;
    let end = start.checked_add(len).ok_or(Errno::EINVAL)?;
    if !start.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    if len == 0 {
        return Ok(None);
    }
    check_range(start..end).map(Some).map_err(|_| Errno::ENOMEM)
}
