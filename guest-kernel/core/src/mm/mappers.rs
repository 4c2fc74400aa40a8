//! Telling address spaces that pages of an object are gone.
//!
//! A truncated file must not stay visible through old mappings: they get SIGBUS, or the new pages if the file
//! grows again. An object that can be truncated has a [`Mappers`] and calls [`Mappers::drop_pages`] after it
//! has set its new length and dropped its pages. A fault that began before holds the address space's lock for
//! reading, so `drop_pages`, which takes it for writing, comes after it and removes what it mapped.

use alloc::{
    sync::{Arc, Weak},
    vec::Vec,
};
use core::ops::Range;

use super::{Backing, Mappable, Mm, PAGE_SIZE, VmFlags, Vma};
use crate::sync::SpinLock;

/// The address spaces that (may) map an object.
#[derive(Default)]
pub struct Mappers {
    list: SpinLock<Vec<Weak<Mm>>>,
}

impl Mappers {
    /// Nobody maps it.
    pub const fn new() -> Self {
        Mappers { list: SpinLock::new(Vec::new()) }
    }

    /// Adds `mm`, and forgets address spaces that no longer exist.
    pub(super) fn add(&self, mm: &Arc<Mm>) {
        let new = Arc::downgrade(mm);
        let mut list = self.list.lock();
        list.retain(|weak| weak.strong_count() > 0);
        if !list.iter().any(|weak| weak.ptr_eq(&new)) {
            list.push(new);
        }
    }

    /// Whether somebody maps `object` shared and may make, or has made, the mapping writable.
    pub fn any_writable(&self, object: &dyn Mappable) -> bool {
        let mms: Vec<Arc<Mm>> = self.list.lock().iter().filter_map(Weak::upgrade).collect();
        mms.iter().any(|mm| {
            let layout = mm.layout.read();
            layout.vmas.iter().any(|vma| {
                vma.is_shared()
                    && vma.flags.contains(VmFlags::MAYWRITE)
                    && matches!(&vma.backing, Backing::Object { object: mapped, .. }
                        if core::ptr::addr_eq(Arc::as_ptr(mapped), object))
            })
        })
    }

    /// How many mappings `object` has.
    pub fn count_mappings(&self, object: &dyn Mappable) -> usize {
        let mms: Vec<Arc<Mm>> = self.list.lock().iter().filter_map(Weak::upgrade).collect();
        mms.iter().map(|mm| mm.mappings_of(object)).sum()
    }

    /// Unmaps all pages of `object` from index `first` on, private copies of them included.
    ///
    /// The caller must not hold `object`'s page lock.
    pub fn drop_pages(&self, object: &dyn Mappable, first: u64) {
        let mms: Vec<Arc<Mm>> = self.list.lock().iter().filter_map(Weak::upgrade).collect();
        for mm in mms {
            mm.drop_object_pages(object, first..u64::MAX, false);
        }
    }
}

impl Mappers {
    /// Unmaps pages `pages` of `object` where it is mapped shared, because they were replaced by zeros. Private
    /// mappings keep what they show: they may have copies of their own.
    ///
    /// The caller must not hold `object`'s page lock.
    pub fn drop_shared_pages(&self, object: &dyn Mappable, pages: Range<u64>) {
        let mms: Vec<Arc<Mm>> = self.list.lock().iter().filter_map(Weak::upgrade).collect();
        for mm in mms {
            mm.drop_object_pages(object, pages.clone(), true);
        }
    }
}

impl Mm {
    fn mappings_of(&self, object: &dyn Mappable) -> usize {
        let layout = self.layout.read();
        let is_it = |vma: &&Vma| match &vma.backing {
            Backing::Object { object: mapped, .. } => core::ptr::addr_eq(Arc::as_ptr(mapped), object),
            Backing::Anonymous => false,
        };
        layout.vmas.iter().filter(is_it).count()
    }

    /// Removes what is left of the mapping of one object that began at `addr` (`shmdt`): `accept` says which
    /// objects it may be. Answers that object.
    pub fn unmap_object<T: Mappable>(
        &self,
        addr: u64,
        accept: impl Fn(&Arc<dyn Mappable>) -> Option<Arc<T>>,
    ) -> Option<Arc<T>> {
        let mut layout = self.layout.write();
        let mut found: Option<Arc<T>> = None;
        let mut ranges = Vec::new();
        let mut end = addr;
        for vma in layout.vmas.overlapping(addr..super::USER_END) {
            if found.is_some() && vma.start >= end {
                break;
            }
            let Backing::Object { object, offset, .. } = &vma.backing else { continue };
            if vma.start < addr || vma.start - addr != *offset {
                continue;
            }
            let Some(object) = accept(object) else { continue };
            match &found {
                Some(first) if !Arc::ptr_eq(first, &object) => continue,
                Some(_) => {}
                None => {
                    end = addr.saturating_add(object.len());
                    found = Some(object);
                }
            }
            ranges.push(vma.start..vma.end);
        }
        let removed: Vec<Vec<Vma>> =
            ranges.into_iter().map(|range| self.remove_range(&mut layout, range)).collect();
        drop(layout);
        drop(removed);
        found
    }

    fn drop_object_pages(&self, object: &dyn Mappable, pages: Range<u64>, shared_only: bool) {
        let layout = self.layout.write();
        for vma in layout.vmas.iter() {
            let Backing::Object { object: mapped, offset, .. } = &vma.backing else { continue };
            if !core::ptr::addr_eq(Arc::as_ptr(mapped), object) || (shared_only && !vma.is_shared()) {
                continue;
            }
            if let Some(start) = first_address(vma, *offset, pages.start) {
                let end = first_address(vma, *offset, pages.end).unwrap_or(vma.end);
                self.unmap_pages(vma, start..end);
            }
        }
    }
}

/// The address in `vma` of object page `first` or of the next one that is mapped there.
fn first_address(vma: &Vma, offset: u64, first: u64) -> Option<u64> {
    let skip = first.saturating_mul(PAGE_SIZE).saturating_sub(offset);
    let start = vma.start.checked_add(skip)?;
    (start < vma.end).then_some(start)
}
