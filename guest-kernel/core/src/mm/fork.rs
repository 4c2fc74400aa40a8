//! Duplicating an address space for `fork`.
//!
//! Private pages are shared read-only and copied by whoever writes first. Pages that the child can get again
//! from an object (shared mappings, private file mappings never written) are left to its faults, which map
//! sixteen at a time; so a fork copies entries only for memory that is really private.

use alloc::sync::Arc;
use core::{ops::Range, sync::atomic::Ordering};

use ringfence_hal::{AddressSpace, ForkMode};

use super::{Backing, LOCKS, Layout, Mm, VmFlags, Vma, VmaTree, commit};
use crate::errno::Result;

impl Mm {
    /// A copy of this address space.
    pub fn fork(&self) -> Result<Arc<Mm>> {
        let space = AddressSpace::new()?;
        // Locked for writing: no fault may add rights while the sweep takes them away.
        let layout = self.layout.write();
        if commit::is_strict() {
            commit::check(layout.committed, layout.vmas.totals().all)?;
        }
        let copied = self.copy_private_pages(&layout, &space);
        // Other CPUs may still have writable translations of pages that are shared now.
        self.space.flush_all();
        copied?;
        let vmas = layout.vmas.iter().filter(|v| !v.flags.contains(VmFlags::DONTFORK)).map(|v| {
            let mut vma = v.clone();
            vma.flags -= LOCKS;
            vma
        });
        let mut child_layout = Layout {
            vmas: VmaTree::from_sorted(vmas),
            brk_start: layout.brk_start,
            brk: layout.brk,
            mmap_base: layout.mmap_base,
            lock_future: VmFlags::empty(),
            has_seals: layout.has_seals,
            committed: 0,
            peak_pages: 0,
            image: layout.image.clone(),
        };
        child_layout.note_change();
        let child = Arc::new(Mm::with_layout(space, child_layout));
        child.disable_huge(self.huge_disabled());
        let resident = child.space.resident() as i64;
        let anon = self.anon_pages.load(Ordering::Relaxed).min(resident);
        child.anon_pages.store(anon, Ordering::Relaxed);
        child.object_pages.store(resident - anon, Ordering::Relaxed);
        child.peak_resident.store(resident as u64, Ordering::Relaxed);
        child.membarrier.store(self.membarrier.load(Ordering::Relaxed), Ordering::Relaxed);
        for vma in layout.vmas.iter() {
            if let Backing::Object { object, .. } = &vma.backing
                && let Some(mappers) = object.mappers()
            {
                mappers.add(&child);
            }
        }
        Ok(child)
    }

    /// Shares all private pages with `child`, one sweep over each run of mappings that have some.
    fn copy_private_pages(&self, layout: &Layout, child: &AddressSpace) -> Result<()> {
        let mut run: Range<u64> = 0..0;
        for vma in layout.vmas.iter() {
            if is_copied(vma) {
                if run.is_empty() {
                    run.start = vma.start;
                }
                run.end = vma.end;
            } else if !run.is_empty() {
                self.space.fork_range(child, run, ForkMode::CopyOnWrite)?;
                run = 0..0;
            }
        }
        if !run.is_empty() {
            self.space.fork_range(child, run, ForkMode::CopyOnWrite)?;
        }
        Ok(())
    }
}

/// Whether a forked child gets the pages of `vma`.
fn is_copied(vma: &Vma) -> bool {
    !vma.is_shared()
        && !vma.flags.intersects(VmFlags::DONTFORK | VmFlags::WIPEONFORK)
        && (vma.is_anonymous() || vma.has_private_pages())
}
