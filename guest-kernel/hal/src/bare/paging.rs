//! Page-table entries, and the kernel half of the address space.
//!
//! At entry the boot code makes three crude tables ([`BOOT_ROOT`]: the first GiB, mapped one to one, at the
//! image's base and at the window's base); [`init`] replaces them by the real ones: text read-only, data no
//! execute, all of RAM in the window. The crude ones stay as what secondary CPUs start on.

use super::asm::{self, cpuid, invlpg, set_cr3};
use super::boot::MemoryMap;
use super::layout::{self, KERNEL_BASE, STACK_BASE, WINDOW_BASE, WINDOW_LIMIT, window_ptr};
use crate::sync::{Once, SpinLock};
use crate::{OutOfMemory, Prot};
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

/// The entry maps something.
pub const PRESENT: u64 = 1;
/// Writes are allowed.
pub const WRITE: u64 = 1 << 1;
/// Ring 3 may access.
pub const USER: u64 = 1 << 2;
/// Caching off: device memory.
pub const UNCACHED: u64 = 1 << 3 | 1 << 4;
/// Set by the processor at the first access.
pub const ACCESSED: u64 = 1 << 5;
/// Set by the processor at the first write.
pub const DIRTY: u64 = 1 << 6;
/// In the two middle levels: a large page.
pub const LARGE: u64 = 1 << 7;
/// Survives a reload of CR3: kernel mappings.
pub const GLOBAL: u64 = 1 << 8;
/// Software: the frame is not counted (a pmem page).
pub const STATIC: u64 = 1 << 9;
/// Instruction fetches are refused.
pub const NO_EXECUTE: u64 = 1 << 63;
/// The physical address in an entry.
pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Flags of a user leaf entry for `prot`. Without any access the entry is not [`PRESENT`] but keeps its frame.
pub const fn user_flags(prot: Prot) -> u64 {
    let mut f = if prot.is_empty() { USER } else { PRESENT | USER };
    if prot.contains(Prot::WRITE) {
        f |= WRITE;
    }
    if !prot.contains(Prot::EXEC) {
        f |= NO_EXECUTE;
    }
    f
}

/// The reverse of [`user_flags`].
pub fn prot_of(entry: u64) -> Prot {
    if entry & PRESENT == 0 {
        return Prot::empty();
    }
    let mut p = Prot::READ;
    p.set(Prot::WRITE, entry & WRITE != 0);
    p.set(Prot::EXEC, entry & NO_EXECUTE == 0);
    p
}

/// One page of a page-table tree. Entries are atomic: the processor sets bits in them on its own.
#[repr(C, align(4096))]
pub struct Table(pub [AtomicU64; 512]);

impl Table {
    const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; 512])
    }

    /// Physical address of a table in the image.
    fn phys_in_image(&'static self) -> u64 {
        core::ptr::from_ref(self).addr() as u64 - KERNEL_BASE
    }
}

/// The table at a physical address.
///
/// # Safety
/// The frame is used as a page table, as long as the reference lives.
#[inline]
pub unsafe fn table(phys: u64) -> &'static Table {
    // SAFETY: by the caller; the window maps all of RAM.
    unsafe { &*window_ptr::<Table>(phys) }
}

/// Index into the table of `level` (0 is the leaf level) for an address.
#[inline]
pub const fn index(va: u64, level: u32) -> usize {
    (va >> (12 + 9 * level) & 511) as usize
}

/// Root of the tables the boot code makes; also used by the secondary CPUs' start-up code.
pub static BOOT_ROOT: Table = Table::new();
pub(super) static BOOT_PDPT: Table = Table::new();
pub(super) static BOOT_PD: Table = Table::new();

/// The kernel's own root.
pub(super) static ROOT: Table = Table::new();
static IMAGE_PDPT: Table = Table::new();
static IMAGE_PD: Table = Table::new();
/// 2 MiB of image each. The linker script refuses a larger image.
static IMAGE_PT: [Table; 8] = [const { Table::new() }; 8];
static WINDOW_PDPT: Table = Table::new();
static STACK_PDPT: Table = Table::new();
/// Serializes changes below [`WINDOW_PDPT`] and [`STACK_PDPT`].
static KERNEL_TABLES: SpinLock<()> = SpinLock::new(());
static GIGABYTE_PAGES: Once<bool> = Once::new();

/// Physical address of the kernel's own root: no user half.
pub fn kernel_root() -> u64 {
    ROOT.phys_in_image()
}

/// The kernel half for a new root: index and entry of each top-level entry.
pub fn kernel_entries() -> [(usize, u64); 3] {
    [WINDOW_BASE, STACK_BASE, KERNEL_BASE].map(|va| {
        let i = index(va, 3);
        (i, ROOT.0[i].load(Ordering::Relaxed))
    })
}

/// Builds the kernel half and switches to it. Page tables the window needs come from `early`, a source of
/// zeroed frames in the first GiB.
pub fn init(map: &MemoryMap, mut early: impl FnMut() -> u64) {
    let link = |t: &Table, i: usize, phys: u64, flags: u64| t.0[i].store(phys | flags, Ordering::Relaxed);
    for (va, pdpt) in [(WINDOW_BASE, &WINDOW_PDPT), (STACK_BASE, &STACK_PDPT), (KERNEL_BASE, &IMAGE_PDPT)] {
        link(&ROOT, index(va, 3), pdpt.phys_in_image(), PRESENT | WRITE);
    }

    link(&IMAGE_PDPT, index(KERNEL_BASE, 2), IMAGE_PD.phys_in_image(), PRESENT | WRITE);
    let (start, text_end, rodata_end, end) = layout::image();
    for phys in (start..end).step_by(4096) {
        let flags = match phys {
            p if p < text_end => 0,
            p if p < rodata_end => NO_EXECUTE,
            _ => WRITE | NO_EXECUTE,
        };
        let pt = (phys >> 21) as usize;
        link(&IMAGE_PD, pt, IMAGE_PT[pt].phys_in_image(), PRESENT | WRITE);
        link(&IMAGE_PT[pt], index(phys, 0), phys, flags | PRESENT | GLOBAL);
    }

    let gigabyte = cpuid(0x8000_0001, 0)[3] & 1 << 26 != 0;
    GIGABYTE_PAGES.call_once(|| gigabyte);
    let flags = PRESENT | WRITE | NO_EXECUTE | GLOBAL | LARGE;
    for ram in map.ram() {
        let mut at = ram.start & !0x1f_ffff;
        let end = ram.end.min(WINDOW_LIMIT);
        while at < end {
            let slot = &WINDOW_PDPT.0[index(at, 2)];
            let entry = slot.load(Ordering::Relaxed);
            if gigabyte && entry == 0 && at & 0x3fff_ffff == 0 && end - at >= 1 << 30 {
                slot.store(at | flags, Ordering::Relaxed);
                at += 1 << 30;
                continue;
            }
            if entry == 0 {
                slot.store(early() | PRESENT | WRITE, Ordering::Relaxed);
            }
            // SAFETY: just stored, or stored by an earlier round; not a large page, because RAM ranges do not overlap.
            let pd = unsafe { table(slot.load(Ordering::Relaxed) & ADDRESS) };
            link(pd, index(at, 1), at, flags);
            at += 1 << 21;
        }
    }
    // SAFETY: the image, its stack and the window are mapped at the same addresses as before.
    unsafe { set_cr3(kernel_root()) };
}

/// How a physical region is mapped into the window after boot.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Caching {
    /// Device registers.
    Device,
    /// Memory that is only read.
    ReadOnly,
}

/// Maps the 2 MiB pages around a physical range that is not RAM into the window. Idempotent.
pub fn map_region(phys: Range<u64>, caching: Caching) -> Result<(), OutOfMemory> {
    if phys.end > WINDOW_LIMIT || phys.start >= phys.end {
        return Err(OutOfMemory);
    }
    let flags = PRESENT
        | NO_EXECUTE
        | GLOBAL
        | LARGE
        | match caching {
            Caching::Device => WRITE | UNCACHED,
            Caching::ReadOnly => 0,
        };
    let _guard = KERNEL_TABLES.lock();
    for at in (phys.start & !0x1f_ffff..phys.end).step_by(1 << 21) {
        let slot = &WINDOW_PDPT.0[index(at, 2)];
        if slot.load(Ordering::Relaxed) & LARGE != 0 {
            return Err(OutOfMemory); // RAM
        }
        if slot.load(Ordering::Relaxed) == 0 {
            let pd = super::frames::alloc_page_zeroed(false).ok_or(OutOfMemory)?;
            slot.store(pd | PRESENT | WRITE, Ordering::Release);
        }
        // SAFETY: the slot holds a table; window tables are never freed.
        let pd = unsafe { table(slot.load(Ordering::Relaxed) & ADDRESS) };
        let entry = &pd.0[index(at, 1)];
        match entry.load(Ordering::Relaxed) {
            0 => entry.store(at | flags, Ordering::Release),
            e if (e & !(ACCESSED | DIRTY)) == at | flags => {}
            _ => return Err(OutOfMemory),
        }
    }
    Ok(())
}

/// Maps one page of a kernel stack.
pub fn map_stack_page(va: u64, phys: u64) -> Result<(), OutOfMemory> {
    let _guard = KERNEL_TABLES.lock();
    let mut t = &STACK_PDPT;
    for level in [2, 1] {
        let slot = &t.0[index(va, level)];
        if slot.load(Ordering::Relaxed) == 0 {
            let next = super::frames::alloc_page_zeroed(true).ok_or(OutOfMemory)?;
            slot.store(next | PRESENT | WRITE, Ordering::Release);
        }
        // SAFETY: tables of kernel stacks are never freed.
        t = unsafe { table(slot.load(Ordering::Relaxed) & ADDRESS) };
    }
    t.0[index(va, 0)].store(phys | PRESENT | WRITE | NO_EXECUTE | GLOBAL, Ordering::Release);
    Ok(())
}

/// The entry of a kernel stack's page, if there is a table for it.
fn stack_entry(va: u64) -> Option<&'static AtomicU64> {
    let mut t = &STACK_PDPT;
    for level in [2, 1] {
        let e = t.0[index(va, level)].load(Ordering::Acquire);
        if e == 0 {
            return None;
        }
        // SAFETY: as in `map_stack_page`.
        t = unsafe { table(e & ADDRESS) };
    }
    Some(&t.0[index(va, 0)])
}

/// Takes the mapping of a kernel stack's page away; its frame is not to be used before TLBs were flushed
/// (`tlb::flush_kernel`). The tables stay.
pub fn unmap_stack_page(va: u64) -> Option<u64> {
    let _guard = KERNEL_TABLES.lock();
    let e = stack_entry(va)?.swap(0, Ordering::AcqRel);
    (e != 0).then_some(e & ADDRESS)
}

/// The frame of a kernel stack's page, if it is mapped.
pub fn stack_page(va: u64) -> Option<u64> {
    let e = stack_entry(va)?.load(Ordering::Acquire);
    (e != 0).then_some(e & ADDRESS)
}

/// Forgets every translation of the user half on this CPU (kernel mappings are global and stay).
pub fn flush_user() {
    // SAFETY: reloads the root that is in use.
    unsafe { set_cr3(asm::cr3()) };
}

/// Forgets every translation on this CPU, the kernel's too.
pub fn flush_all() {
    const PGE: u64 = 1 << 7;
    let cr4 = asm::cr4();
    // SAFETY: changing the bit flushes, and it is as before afterwards.
    unsafe {
        asm::set_cr4(cr4 ^ PGE);
        asm::set_cr4(cr4);
    }
}

/// Forgets one page on this CPU.
pub fn flush_page(va: u64) {
    invlpg(va);
}
