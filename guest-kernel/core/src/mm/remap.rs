//! `mremap`: growing, shrinking and moving mappings.

use alloc::{sync::Arc, vec::Vec};
use core::ops::Range;

use super::{
    Backing, Layout, Limits, Mm, PAGE_SIZE, Placement, USER_END, VmFlags, Vma, map::check_range,
    page_align_up,
};
use crate::errno::{Errno, Result};

/// A decoded `mremap`.
pub struct RemapRequest {
    /// Start of the old range; page-aligned.
    pub old: u64,
    /// Its length; 0 duplicates a shared mapping.
    pub old_len: u64,
    /// The new length.
    pub new_len: u64,
    /// `MREMAP_MAYMOVE`.
    pub may_move: bool,
    /// `MREMAP_FIXED`: the new address.
    pub fixed: Option<u64>,
    /// `MREMAP_DONTUNMAP`.
    pub keep_old: bool,
}

impl Mm {
    /// Changes the size or place of a mapping; returns its new address, and whether it is locked memory that has
    /// grown (the caller populates it).
    ///
    /// # Errors
    /// EINVAL (arguments), EFAULT (not one mapping), ENOMEM (no room, limits), EAGAIN (`RLIMIT_MEMLOCK`).
    pub fn remap(self: &Arc<Self>, request: &RemapRequest, limits: &Limits) -> Result<u64> {
        let old_len = page_align_up(request.old_len).ok_or(Errno::EINVAL)?;
        let new_len = page_align_up(request.new_len).filter(|n| *n > 0).ok_or(Errno::EINVAL)?;
        if new_len > USER_END {
            return Err(if request.fixed.is_some() { Errno::EINVAL } else { Errno::ENOMEM });
        }
        let old_end = request.old.checked_add(old_len).ok_or(Errno::EINVAL)?;
        if !request.old.is_multiple_of(PAGE_SIZE)
            || old_end > USER_END
            || ((request.fixed.is_some() || request.keep_old) && !request.may_move)
            || (request.keep_old && old_len != new_len)
        {
            return Err(Errno::EINVAL);
        }
        if let Some(new) = request.fixed {
            let target = check_range(new..new.checked_add(new_len).ok_or(Errno::EINVAL)?)?;
            if target.start < old_end && request.old < target.end {
                return Err(Errno::EINVAL);
            }
        }
        let mut dropped = Vec::new();
        let mut layout = self.layout.write();
        let result = self.remap_locked(&mut layout, request, old_len, new_len, limits, &mut dropped);
        layout.note_change();
        drop(layout);
        drop(dropped);
        result
    }

    /// `remap_file_pages`: maps the object of the shared mapping at `range` there again, from byte `offset` on.
    ///
    /// # Errors
    /// EINVAL (not one shared mapping), EPERM (sealed).
    pub(super) fn remap_pages(
        self: &Arc<Self>,
        range: Range<u64>,
        offset: u64,
        lazy: bool,
        between: &mut dyn FnMut() -> bool,
    ) -> Result<()> {
        let mut dropped = Vec::new();
        let mut layout = self.layout.write();
        let vma = layout.vmas.find(range.start).filter(|v| v.is_shared() && range.end <= v.end);
        let mut new = vma.ok_or(Errno::EINVAL)?.part(range.start, range.end);
        if let Backing::Object { offset: old, .. } = &mut new.backing {
            *old = offset;
        }
        layout.check_seals(&range)?;
        layout.check_split(&range)?;
        dropped.extend(self.remove_range(&mut layout, range.clone()));
        layout.vmas.insert(new);
        layout.note_change();
        drop(layout);
        drop(dropped);
        if !lazy {
            let _ = self.populate(range, None, between);
        }
        Ok(())
    }

    fn remap_locked(
        &self,
        layout: &mut Layout,
        request: &RemapRequest,
        mut old_len: u64,
        new_len: u64,
        limits: &Limits,
        dropped: &mut Vec<Vma>,
    ) -> Result<u64> {
        let old = request.old;
        let vma = layout.vmas.find(old).ok_or(Errno::EFAULT)?;
        if old_len == 0 && !vma.is_shared() {
            return Err(Errno::EINVAL);
        }
        layout.check_seals(&(old..old + old_len.max(PAGE_SIZE)))?;
        if let Some(new) = request.fixed {
            layout.check_seals(&(new..new + new_len))?;
        }
        layout.check_split(&(old..old + old_len.max(PAGE_SIZE)))?;
        let stays = request.fixed.is_none() && !request.keep_old;
        if old_len > new_len {
            dropped.extend(self.remove_range(layout, old + new_len..old + old_len));
            old_len = new_len;
        }
        if old_len == new_len && stays {
            return Ok(old);
        }
        let vma = layout.vmas.find(old).ok_or(Errno::EFAULT)?;
        if old + old_len > vma.end {
            return Err(Errno::EFAULT);
        }
        if vma.flags.contains(VmFlags::SPECIAL) && (new_len != old_len || request.keep_old) {
            return Err(Errno::EFAULT);
        }
        let grown = new_len - old_len;
        if let Backing::Object { offset, .. } = &vma.backing {
            (offset + (old - vma.start)).checked_add(new_len).ok_or(Errno::EINVAL)?;
        }
        // What the mapping becomes; only what is added counts against the limits.
        let mut wanted = vma.part(old, if old_len == 0 { vma.end } else { old + old_len });
        if grown > 0 || request.keep_old {
            let added_len = if request.keep_old { new_len } else { grown };
            let added = Vma::new(0, added_len, wanted.prot, wanted.flags, Backing::Anonymous);
            layout.check_limits(&added, 0, limits)?;
        }
        let in_place = old_len > 0
            && stays
            && old + old_len == vma.end
            && (old + old_len).checked_add(grown).is_some_and(|end| end <= USER_END)
            && layout.is_free(old + old_len, grown);
        if in_place {
            let mut extension = wanted;
            if let Backing::Object { offset, .. } = &mut extension.backing {
                *offset += old_len;
            }
            extension.start = old + old_len;
            extension.end = extension.start + grown;
            layout.vmas.insert(extension);
            return Ok(old);
        }
        if !request.may_move {
            return Err(Errno::ENOMEM);
        }
        let new = match request.fixed {
            Some(new) => {
                let new = layout.place(new_len, Placement::Fixed(new)).map_err(|_| Errno::EINVAL)?;
                dropped.extend(self.remove_range(layout, new..new + new_len));
                new
            }
            None => layout.place(new_len, Placement::Any)?,
        };
        if old_len > 0 && self.space.move_range(old, new, old_len).is_err() {
            // What was moved goes back; the page tables for it are still there.
            let _ = self.space.move_range(new, old, old_len);
            return Err(Errno::ENOMEM);
        }
        if old_len > 0 && !request.keep_old {
            dropped.extend(layout.vmas.remove(old..old + old_len));
        }
        wanted.start = new;
        wanted.end = new + new_len;
        layout.vmas.insert(wanted);
        Ok(new)
    }
}
