//! `cachestat`: how much of a file is in memory; and `mseal`, which makes mappings unchangeable.

use core::ops::Range;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Mm, PAGE_SIZE, VmFlags, map::check_range, page_align_up};
use crate::{
    errno::{Errno, Result},
    sched,
    syscall::{Ctx, Fd, Syscall, UserAddr, UserPtr},
    syscalls,
};

/// `struct cachestat_range`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct CacheStatRange {
    offset: u64,
    len: u64,
}

/// `struct cachestat`, in pages. Nothing here is written back or was evicted and read again.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct CacheStat {
    cache: u64,
    dirty: u64,
    writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

fn cachestat(
    ctx: &mut Ctx<'_>,
    fd: Fd,
    range: UserPtr<CacheStatRange>,
    out: UserPtr<CacheStat>,
    flags: u32,
) -> Result {
    const BATCH: u64 = 1024;
    let file = ctx.task.files()?.get(fd.0)?;
    let range = range.read()?;
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let mut stat = CacheStat::default();
    if let Ok(object) = file.mappable() {
        let len = object.len();
        let end = match range.len {
            0 => len,
            n => range.offset.saturating_add(n).min(len),
        };
        let mut first = range.offset / PAGE_SIZE;
        let last = end.div_ceil(PAGE_SIZE);
        while let Some(found) = object.next_cached(first).filter(|found| *found < last) {
            let stop = last.min(found + BATCH);
            stat.cache += (found..stop).filter(|index| object.cached_page(*index).is_some()).count() as u64;
            first = stop;
            sched::preempt_point(ctx.task);
            if ctx.task.killed() {
                return Err(Errno::EINTR);
            }
        }
    }
    out.write(&stat)?;
    Ok(0)
}

impl Mm {
    /// Makes the mappings of `range` unchangeable. ENOMEM if there is a hole.
    fn seal(&self, range: Range<u64>) -> Result<()> {
        let mut layout = self.layout.write();
        layout.check_split(&range)?;
        if !layout.vmas.covers(range.clone()) {
            return Err(Errno::ENOMEM);
        }
        layout.has_seals = true;
        layout.vmas.update(range, |vma| vma.flags |= VmFlags::SEALED);
        Ok(())
    }
}

fn mseal(ctx: &mut Ctx<'_>, addr: UserAddr, len: u64, flags: u64) -> Result {
    let len = page_align_up(len).ok_or(Errno::EINVAL)?;
    let end = addr.0.checked_add(len).ok_or(Errno::EINVAL)?;
    if flags != 0 || !addr.0.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    if len > 0 {
        ctx.task.mm()?.seal(check_range(addr.0..end).map_err(|_| Errno::ENOMEM)?)?;
    }
    Ok(0)
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    451 cachestat(fd: Fd, range: UserPtr<CacheStatRange>, stat: UserPtr<CacheStat>, flags: u32) Full "";
    462 mseal(addr: UserAddr, len: u64, flags: u64) Full "";
};
