//! The heap that `brk` moves the end of.

use alloc::{sync::Arc, vec::Vec};

use ringfence_hal::Prot;

use super::{Backing, LOCKS, Limits, Mm, PAGE_SIZE, USER_END, VmFlags, Vma, page_align_up};
use crate::errno::{Errno, Result};

impl Mm {
    /// Sets where the heap begins (exec).
    pub fn set_brk_start(&self, at: u64) {
        let mut layout = self.layout.write();
        layout.brk_start = at;
        layout.brk = at;
    }

    /// The heap: its start and its end.
    pub fn brk_range(&self) -> (u64, u64) {
        let layout = self.layout.read();
        (layout.brk_start, layout.brk)
    }

    /// `brk`: moves the end of the heap if that is possible, and says where it is now. Never fails.
    pub fn brk(self: &Arc<Self>, new: u64, limits: &Limits) -> u64 {
        let mut layout = self.layout.write();
        let old = layout.brk;
        let initial_data = layout.image.end_data.saturating_sub(layout.image.start_data);
        if new < layout.brk_start
            || new > USER_END
            || (new - layout.brk_start).saturating_add(initial_data) > limits.data
        {
            return old;
        }
        let (Some(old_end), Some(new_end)) = (page_align_up(old), page_align_up(new)) else { return old };
        let mut removed = Vec::new();
        let mut populate = false;
        if new_end < old_end {
            if layout.check_split(&(new_end..old_end)).is_err()
                || layout.check_seals(&(new_end..old_end)).is_err()
            {
                return old;
            }
            removed = self.remove_range(&mut layout, new_end..old_end);
            layout.note_change();
        } else if new_end > old_end {
            match self.grow_heap(&mut layout, old_end, new_end, limits) {
                Ok(locked) => populate = locked,
                Err(_) => return old,
            }
        }
        layout.brk = new;
        drop(layout);
        drop(removed);
        if populate {
            let _ = self.populate(old_end..new_end, None, &mut || true);
        }
        new
    }

    /// Adds `start..end` to the heap; says whether it is locked memory.
    fn grow_heap(&self, layout: &mut super::Layout, start: u64, end: u64, limits: &Limits) -> Result<bool> {
        let mut flags = VmFlags::MAYWRITE | VmFlags::MAYEXEC | VmFlags::ACCOUNT;
        flags |= layout.lock_future;
        let vma = Vma::new(start, end, Prot::READ | Prot::WRITE, flags, Backing::Anonymous);
        // One page is kept free above, so that the heap never touches its neighbour.
        if !layout.is_free(start, end - start + PAGE_SIZE) {
            return Err(Errno::ENOMEM);
        }
        layout.check_limits(&vma, 0, limits)?;
        layout.vmas.insert(vma);
        layout.note_change();
        Ok(flags & LOCKS == VmFlags::LOCKED)
    }
}
