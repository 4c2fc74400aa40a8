//! The system calls: decoding of arguments, and one call each into [`Mm`].

use alloc::sync::Arc;
use core::ops::Range;

use ringfence_hal as hal;
use ringfence_hal::Prot;

use super::{
    FileMapping, LOCKS, MapRequest, Mm, PAGE_SIZE, Placement, RemapRequest, USER_END, VmFlags,
    advise::{Advice, advice_range},
    entry::limits_of,
    page_align_up,
};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    fs::{FileRef, MountFlags},
    sched,
    syscall::{Ctx, Fd, Syscall, UserAddr},
    syscalls,
};

/// `MAP_*` of `mmap(2)`.
mod map_flags {
    pub const SHARED: u32 = 0x1;
    pub const PRIVATE: u32 = 0x2;
    pub const SHARED_VALIDATE: u32 = 0x3;
    pub const TYPE: u32 = 0xf;
    pub const FIXED: u32 = 0x10;
    pub const ANONYMOUS: u32 = 0x20;
    pub const LOW: u32 = 0x40;
    pub const GROWSDOWN: u32 = 0x100;
    pub const LOCKED: u32 = 0x2000;
    pub const NORESERVE: u32 = 0x4000;
    pub const POPULATE: u32 = 0x8000;
    pub const NONBLOCK: u32 = 0x10000;
    pub const HUGETLB: u32 = 0x40000;
    pub const FIXED_NOREPLACE: u32 = 0x10_0000;
    /// DENYWRITE, EXECUTABLE, STACK: ignored.
    pub const IGNORED: u32 = 0x800 | 0x1000 | 0x20000;
    /// What `MAP_SHARED_VALIDATE` accepts (no `MAP_SYNC`: nothing here is persistent memory).
    pub const KNOWN: u32 = TYPE
        | FIXED
        | ANONYMOUS
        | LOW
        | GROWSDOWN
        | LOCKED
        | NORESERVE
        | POPULATE
        | NONBLOCK
        | HUGETLB
        | FIXED_NOREPLACE
        | IGNORED;
}

const PROT_GROWSDOWN: u32 = 0x0100_0000;
const PROT_GROWSUP: u32 = 0x0200_0000;

/// The protection bits; others are ignored, as by Linux.
fn prot(bits: u32) -> Prot {
    let mut prot = Prot::empty();
    prot.set(Prot::READ, bits & 1 != 0);
    prot.set(Prot::WRITE, bits & 2 != 0);
    prot.set(Prot::EXEC, bits & 4 != 0);
    prot
}

/// What is called between batches of a long operation: lets others run, and says whether to go on.
fn pause(task: &TaskRef) -> impl FnMut() -> bool + '_ {
    move || {
        sched::preempt_point(task);
        !task.killed()
    }
}

/// What an open file gives to a mapping.
///
/// # Errors
/// EACCES (not open for reading, or not for writing when shared and writable), ENODEV (cannot be mapped).
fn file_mapping(file: FileRef, shared: bool, prot: Prot) -> Result<FileMapping> {
    let flags = file.flags();
    let may_write = flags.writable();
    if !flags.readable() || (shared && prot.contains(Prot::WRITE) && !may_write) {
        return Err(Errno::EACCES);
    }
    let may_exec = !file.path().mount().flags().contains(MountFlags::NOEXEC);
    Ok(FileMapping { object: file.mappable()?, file: Some(file), may_write, may_exec })
}

fn mmap(
    ctx: &mut Ctx<'_>,
    addr: UserAddr,
    len: u64,
    prot_bits: u32,
    flags: u32,
    fd: Fd,
    offset: u64,
) -> Result {
    use map_flags as f;
    if !offset.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    let shared = match flags & f::TYPE {
        f::SHARED => true,
        f::SHARED_VALIDATE if flags & f::ANONYMOUS != 0 => return Err(Errno::EINVAL),
        f::SHARED_VALIDATE if flags & !f::KNOWN != 0 => return Err(Errno::EOPNOTSUPP),
        f::SHARED_VALIDATE => true,
        f::PRIVATE => false,
        _ => return Err(Errno::EINVAL),
    };
    if len == 0 {
        return Err(Errno::EINVAL);
    }
    if flags & f::HUGETLB != 0 {
        return Err(Errno::ENOMEM); // No huge pages are set aside.
    }
    let prot = prot(prot_bits);
    let file = match flags & f::ANONYMOUS {
        0 => Some((file_mapping(ctx.task.files()?.get(fd.0)?, shared, prot)?, offset)),
        _ => None,
    };
    let placement = match addr.0 {
        at if flags & f::FIXED_NOREPLACE != 0 => Placement::FixedNoReplace(at),
        at if flags & f::FIXED != 0 => Placement::Fixed(at),
        _ if flags & f::LOW != 0 => Placement::Low,
        0 => Placement::Any,
        at => Placement::Hint(at),
    };
    let mut vm_flags = VmFlags::empty();
    vm_flags.set(VmFlags::SHARED, shared);
    vm_flags.set(VmFlags::GROWSDOWN, flags & f::GROWSDOWN != 0);
    vm_flags.set(VmFlags::NORESERVE, flags & f::NORESERVE != 0);
    vm_flags.set(VmFlags::LOCKED, flags & f::LOCKED != 0);
    let mm = ctx.task.mm()?;
    let at = mm.map(MapRequest { len, placement, prot, flags: vm_flags, file }, &limits_of(ctx.task))?;
    let populate = flags & f::POPULATE != 0 && flags & f::NONBLOCK == 0;
    if populate || flags & f::LOCKED != 0 || mm.locks_future() {
        let end = at.saturating_add(len);
        let _ = mm.populate(at..end, None, &mut pause(ctx.task)); // Best effort, as documented.
    }
    Ok(at as usize)
}

fn munmap(ctx: &mut Ctx<'_>, addr: UserAddr, len: u64) -> Result {
    let end = addr.0.checked_add(len).ok_or(Errno::EINVAL)?;
    ctx.task.mm()?.unmap(addr.0..end)?;
    Ok(0)
}

fn mprotect(ctx: &mut Ctx<'_>, addr: UserAddr, len: u64, prot_bits: u32) -> Result {
    let known = 0x7 | 0x8 | PROT_GROWSDOWN | PROT_GROWSUP;
    let grows_down = prot_bits & PROT_GROWSDOWN != 0;
    // There are no mappings that grow upward.
    if prot_bits & !known != 0 || prot_bits & PROT_GROWSUP != 0 || !addr.0.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    let len = page_align_up(len).ok_or(Errno::ENOMEM)?;
    if len == 0 {
        return Ok(0);
    }
    let end = addr.0.checked_add(len).ok_or(Errno::ENOMEM)?;
    ctx.task.mm()?.protect(addr.0..end, prot(prot_bits), grows_down, &limits_of(ctx.task))?;
    Ok(0)
}

/// `pkey_mprotect` without protection keys: only "no key" is there.
fn pkey_mprotect(ctx: &mut Ctx<'_>, addr: UserAddr, len: u64, prot: u32, pkey: i32) -> Result {
    if pkey != -1 {
        return Err(Errno::EINVAL);
    }
    mprotect(ctx, addr, len, prot)
}

/// `pkey_alloc` on a processor without protection keys: well-formed or not, EINVAL.
fn pkey_alloc(_ctx: &mut Ctx<'_>, _flags: u64, _rights: u64) -> Result {
    Err(Errno::EINVAL)
}

fn pkey_free(_ctx: &mut Ctx<'_>, _pkey: i32) -> Result {
    Err(Errno::EINVAL)
}

/// `remap_file_pages`, as Linux emulates it: a new mapping of other pages of the same object.
fn remap_file_pages(ctx: &mut Ctx<'_>, addr: UserAddr, len: u64, prot: u64, page: u64, flags: u32) -> Result {
    let start = super::page_align_down(addr.0);
    let len = super::page_align_down(len);
    let end = start.checked_add(len).filter(|end| *end > start).ok_or(Errno::EINVAL)?;
    let offset = page.checked_mul(PAGE_SIZE).filter(|o| o.checked_add(len).is_some()).ok_or(Errno::EINVAL)?;
    if prot != 0 {
        return Err(Errno::EINVAL);
    }
    ctx.task.mm()?.remap_pages(start..end, offset, flags & map_flags::NONBLOCK != 0, &mut pause(ctx.task))?;
    Ok(0)
}

fn brk(ctx: &mut Ctx<'_>, addr: UserAddr) -> Result {
    Ok(ctx.task.mm()?.brk(addr.0, &limits_of(ctx.task)) as usize)
}

fn mremap(ctx: &mut Ctx<'_>, old: UserAddr, old_len: u64, new_len: u64, flags: u32, new: UserAddr) -> Result {
    const MAYMOVE: u32 = 1;
    const FIXED: u32 = 2;
    const DONTUNMAP: u32 = 4;
    if flags & !(MAYMOVE | FIXED | DONTUNMAP) != 0 {
        return Err(Errno::EINVAL);
    }
    let request = RemapRequest {
        old: old.0,
        old_len,
        new_len,
        may_move: flags & MAYMOVE != 0,
        fixed: (flags & FIXED != 0).then_some(new.0),
        keep_old: flags & DONTUNMAP != 0,
    };
    let mm = ctx.task.mm()?;
    let at = mm.remap(&request, &limits_of(ctx.task))?;
    if new_len > old_len && mm.vma_after(at).is_some_and(|v| v.flags & LOCKS == VmFlags::LOCKED) {
        let _ = mm.populate(at..at.saturating_add(new_len), None, &mut pause(ctx.task));
    }
    Ok(at as usize)
}

fn madvise(ctx: &mut Ctx<'_>, addr: UserAddr, len: u64, advice: i32) -> Result {
    let advice = Advice::from_raw(advice)?;
    if let Some(range) = advice_range(addr.0, len)? {
        ctx.task.mm()?.advise(range, advice, &mut pause(ctx.task))?;
    }
    Ok(0)
}

fn mincore(ctx: &mut Ctx<'_>, addr: UserAddr, len: u64, vec: UserAddr) -> Result {
    const BATCH: u64 = 256;
    if !addr.0.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    let len = page_align_up(len).ok_or(Errno::ENOMEM)?;
    let end = addr.0.checked_add(len).filter(|end| *end <= USER_END).ok_or(Errno::ENOMEM)?;
    if vec.0.checked_add(len / PAGE_SIZE).is_none_or(|end| end > USER_END) {
        return Err(Errno::EFAULT);
    }
    let mm = ctx.task.mm()?;
    let mut at = addr.0;
    let mut out = vec;
    while at < end {
        let batch: Range<u64> = at..end.min(at + BATCH * PAGE_SIZE);
        let n = ((batch.end - batch.start) / PAGE_SIZE) as usize;
        let mut bytes = [0; BATCH as usize];
        let bytes = bytes.get_mut(..n).unwrap_or_default();
        mm.incore(batch.clone(), bytes)?;
        hal::user::copy_out(out.0, bytes)?;
        out = out.offset(n as u64);
        at = batch.end;
        sched::preempt_point(ctx.task);
        if ctx.task.killed() {
            return Err(Errno::EINTR);
        }
    }
    Ok(0)
}

fn msync(ctx: &mut Ctx<'_>, addr: UserAddr, len: u64, flags: u32) -> Result {
    const ASYNC: u32 = 1;
    const INVALIDATE: u32 = 2;
    const SYNC: u32 = 4;
    if flags & !(ASYNC | INVALIDATE | SYNC) != 0
        || flags & (ASYNC | SYNC) == ASYNC | SYNC
        || !addr.0.is_multiple_of(PAGE_SIZE)
    {
        return Err(Errno::EINVAL);
    }
    let len = page_align_up(len).ok_or(Errno::ENOMEM)?;
    let end = addr.0.checked_add(len).ok_or(Errno::ENOMEM)?;
    if len > 0 {
        ctx.task.mm()?.sync(addr.0..end, flags & SYNC != 0, flags & INVALIDATE != 0)?;
    }
    Ok(0)
}

/// The range of `mlock` and `munlock`: rounded outward to pages. None if it is empty.
fn lock_range(addr: UserAddr, len: u64) -> Result<Option<Range<u64>>> {
    let start = super::page_align_down(addr.0);
    let len = page_align_up(len.checked_add(addr.0 - start).ok_or(Errno::ENOMEM)?).ok_or(Errno::ENOMEM)?;
    let end = start.checked_add(len).ok_or(Errno::EINVAL)?;
    if end > USER_END {
        return Err(Errno::ENOMEM);
    }
    Ok((len > 0).then_some(start..end))
}

fn mlock(ctx: &mut Ctx<'_>, addr: UserAddr, len: u64) -> Result {
    mlock2(ctx, addr, len, 0)
}

fn mlock2(ctx: &mut Ctx<'_>, addr: UserAddr, len: u64, flags: u32) -> Result {
    const ONFAULT: u32 = 1;
    if flags & !ONFAULT != 0 {
        return Err(Errno::EINVAL);
    }
    if let Some(range) = lock_range(addr, len)? {
        let mm: Arc<Mm> = ctx.task.mm()?;
        mm.lock(range, flags & ONFAULT != 0, &limits_of(ctx.task), &mut pause(ctx.task))?;
    }
    Ok(0)
}

fn munlock(ctx: &mut Ctx<'_>, addr: UserAddr, len: u64) -> Result {
    if let Some(range) = lock_range(addr, len)? {
        ctx.task.mm()?.unlock(range)?;
    }
    Ok(0)
}

fn mlockall(ctx: &mut Ctx<'_>, flags: u32) -> Result {
    const CURRENT: u32 = 1;
    const FUTURE: u32 = 2;
    const ONFAULT: u32 = 4;
    if flags == 0 || flags == ONFAULT || flags & !(CURRENT | FUTURE | ONFAULT) != 0 {
        return Err(Errno::EINVAL);
    }
    let has = |bit| flags & bit != 0;
    let mm = ctx.task.mm()?;
    mm.lock_all(has(CURRENT), has(FUTURE), has(ONFAULT), &limits_of(ctx.task), &mut pause(ctx.task))?;
    Ok(0)
}

fn munlockall(ctx: &mut Ctx<'_>) -> Result {
    ctx.task.mm()?.unlock_all();
    Ok(0)
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    9 mmap(addr: UserAddr, length: u64, prot: u32, flags: u32, fd: Fd, offset: u64) Partial "no huge pages; MAP_SYNC is refused";
    10 mprotect(addr: UserAddr, len: u64, prot: u32) Full "";
    11 munmap(addr: UserAddr, length: u64) Full "";
    12 brk(addr: UserAddr) Full "";
    25 mremap(old_address: UserAddr, old_size: u64, new_size: u64, flags: u32, new_address: UserAddr) Full "";
    26 msync(addr: UserAddr, length: u64, flags: u32) Full "";
    27 mincore(addr: UserAddr, length: u64, vec: UserAddr) Full "";
    28 madvise(addr: UserAddr, length: u64, advice: i32) Partial "page merging and poisoning are refused; MADV_FREE drops at once";
    149 mlock(addr: UserAddr, len: u64) Full "";
    150 munlock(addr: UserAddr, len: u64) Full "";
    151 mlockall(flags: u32) Full "";
    152 munlockall() Full "";
    325 mlock2(addr: UserAddr, len: u64, flags: u32) Full "";
    216 remap_file_pages(addr: UserAddr, size: u64, prot: u64, pgoff: u64, flags: u32) Full "";
    329 pkey_mprotect(addr: UserAddr, len: u64, prot: u32, pkey: i32) Partial "there are no protection keys";
    330 pkey_alloc(flags: u64, access_rights: u64) Full "as on a processor without protection keys";
    331 pkey_free(pkey: i32) Full "as on a processor without protection keys";
};
