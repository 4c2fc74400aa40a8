//! From the first instruction to [`Kernel::start`].
//!
//! The VMM enters in long mode by Linux's 64-bit boot protocol (Linux `Documentation/arch/x86/boot.rst`):
//! paging on with the first GiB mapped one to one, `rsi` = physical address of the zero page, interrupts off.
//! [`entry`] runs at its physical address, makes crude page tables and jumps to the linked address.

use super::layout::{self, LOW_MEMORY, WINDOW_BASE, WINDOW_LIMIT, window_ptr};
use super::{cpu, fpu, frames, local, paging, power, smp, time, traps};
use crate::sync::Once;
use crate::{BootInfo, Kernel};
use arrayvec::ArrayVec;
use core::arch::naked_asm;
use core::ops::Range;

const STACK: usize = 64 << 10;
#[repr(C, align(4096))]
struct BootStack([u8; STACK]);
static mut BOOT_STACK: BootStack = BootStack([0; STACK]);

/// The image's entry point; used through [`entry!`](crate::entry).
///
/// # Safety
/// Only the boot protocol comes here.
#[unsafe(naked)]
pub unsafe extern "C" fn entry<K: Kernel>() -> ! {
    naked_asm!(
        "cli",
        "cld",
        // 512 pages of 2 MiB
        "lea rdi, [rip + {pd}]",
        "mov eax, 0x83",
        "xor ecx, ecx",
        "2:",
        "mov [rdi + rcx*8], rax",
        "add rax, 0x200000",
        "inc ecx",
        "cmp ecx, 512",
        "jne 2b",
        // one to one and at the window's base (entry 0), and at the image's base (entry 510)
        "lea rax, [rip + {pd} + 3]",
        "lea rdi, [rip + {pdpt}]",
        "mov [rdi], rax",
        "mov [rdi + 510*8], rax",
        "lea rax, [rip + {pdpt} + 3]",
        "lea rdi, [rip + {root}]",
        "mov [rdi], rax",
        "mov [rdi + {window}*8], rax",
        "mov [rdi + 511*8], rax",
        "mov cr3, rdi",
        "lea rax, [rip + 3f]",
        "add rax, {kernel_base}",
        "jmp rax",
        "3:",
        "lea rsp, [rip + {stack} + {stack_len}]",
        "mov rdi, rsi",
        "xor ebp, ebp",
        "call {start}",
        pd = sym paging::BOOT_PD,
        pdpt = sym paging::BOOT_PDPT,
        root = sym paging::BOOT_ROOT,
        window = const paging::index(WINDOW_BASE, 3),
        kernel_base = const layout::KERNEL_BASE as i32, // sign-extended
        stack = sym BOOT_STACK,
        stack_len = const STACK,
        start = sym start::<K>,
    )
}

/// What the zero page says about memory.
pub struct MemoryMap {
    ram: ArrayVec<Range<u64>, 32>,
}

impl MemoryMap {
    /// The RAM ranges, page-aligned inwards, as the VMM listed them.
    pub fn ram(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.ram.iter().cloned()
    }
}

/// Offsets in the zero page, Linux `struct boot_params`.
mod zero_page {
    pub const EXT_CMD_LINE_PTR: u64 = 0x0c8;
    pub const E820_ENTRIES: u64 = 0x1e8;
    pub const RAMDISK_IMAGE: u64 = 0x218;
    pub const RAMDISK_SIZE: u64 = 0x21c;
    pub const CMD_LINE_PTR: u64 = 0x228;
    pub const CMDLINE_SIZE: u64 = 0x238;
    pub const E820_TABLE: u64 = 0x2d0;
}

const E820_RAM: u32 = 1;
/// Longest command line we look at, as Linux.
const MAX_CMDLINE: usize = 2048;

/// Reads a field of the zero page.
///
/// # Safety
/// `phys` lies in the first GiB.
unsafe fn read<T: Copy>(phys: u64) -> T {
    // SAFETY: the boot tables map the first GiB at the window's base; the zero page has any alignment.
    unsafe { window_ptr::<T>(phys).read_unaligned() }
}

/// Boot memory as a byte slice.
///
/// # Safety
/// The range lies in RAM, is mapped whenever the slice is used, and is never written again.
unsafe fn bytes(phys: u64, len: usize) -> &'static [u8] {
    // SAFETY: by the caller.
    unsafe { core::slice::from_raw_parts(window_ptr::<u8>(phys), len) }
}

extern "C" fn start<K: Kernel>(zero_page: u64) -> ! {
    local::boot().prepare(0);
    local::boot().publish();
    cpu::init_this();
    traps::init::<K>();
    smp::init::<K>();

    // SAFETY: the boot protocol puts the zero page, a 4 KiB structure, below 1 MiB.
    let (map, cmdline_at, ramdisk) = unsafe { parse_zero_page(zero_page) };
    // SAFETY: by the boot protocol a NUL-terminated string in low memory.
    let cmdline = unsafe { cmdline(cmdline_at, read::<u32>(zero_page + zero_page::CMDLINE_SIZE)) };

    let image = layout::image();
    let reserved = [image.0..image.3, page_out(&ramdisk), page_out(&(cmdline_at..cmdline_at + 4096))];
    let mut free = usable(&map, &reserved);
    // Tables for the window come from just above the image: in the first GiB, so already mapped.
    paging::init(&map, || {
        let Some(first) = free.first_mut().filter(|r| r.end - r.start >= 4096 && r.start < 1 << 30) else {
            power::boot_failed("no memory for page tables");
        };
        let page = first.start;
        first.start += 4096;
        // SAFETY: inside the first GiB, which is mapped, and taken from the free list.
        unsafe { super::mem::clear_pages(window_ptr(page), 4096) };
        page
    });
    frames::init(&map, &free);
    fpu::init();
    cpu::configure(parameter(cmdline, "ringfence.cpus").unwrap_or(1));
    if let Some(level) = parameter(cmdline, "ringfence.loglevel") {
        crate::log::set_max_level(level.min(4) as u8);
    }
    super::apic::init();
    time::init();
    super::apic::init_timer();

    static BOOT: Once<BootInfo> = Once::new();
    let boot = BOOT.call_once(|| BootInfo {
        cpus: cpu::count(),
        cmdline,
        // SAFETY: RAM by `parse_zero_page`'s check, excluded from the frames, mapped in the window, and nobody writes it.
        ramdisk: unsafe { bytes(ramdisk.start, (ramdisk.end - ramdisk.start) as usize) },
    });
    crate::log!(Info, "hal: {} CPUs, {} KiB free", boot.cpus, frames::stats().free * 4);
    K::start(boot)
}

/// Memory map, address of the command line, ramdisk.
///
/// # Safety
/// `at` is the zero page.
unsafe fn parse_zero_page(at: u64) -> (MemoryMap, u64, Range<u64>) {
    let mut map = MemoryMap { ram: ArrayVec::new() };
    // SAFETY: fields of the zero page.
    let count = unsafe { read::<u8>(at + zero_page::E820_ENTRIES) };
    for i in 0..u64::from(count).min(128) {
        let e = at + zero_page::E820_TABLE + 20 * i;
        // SAFETY: as above; the table has room for 128 entries.
        let (addr, len, kind) = unsafe { (read::<u64>(e), read::<u64>(e + 8), read::<u32>(e + 16)) };
        let end = addr.saturating_add(len).min(WINDOW_LIMIT) & !4095;
        let start = addr.saturating_add(4095) & !4095;
        if kind == E820_RAM && start < end && map.ram.try_push(start..end).is_err() {
            break;
        }
    }
    map.ram.sort_unstable_by_key(|r| r.start);
    if map.ram.is_empty() || map.ram.windows(2).any(|w| w[0].end > w[1].start) {
        power::boot_failed("bad memory map in the zero page");
    }
    // SAFETY: fields of the zero page.
    let (cmdline, ext, image, size) = unsafe {
        (
            read::<u32>(at + zero_page::CMD_LINE_PTR),
            read::<u32>(at + zero_page::EXT_CMD_LINE_PTR),
            read::<u32>(at + zero_page::RAMDISK_IMAGE),
            read::<u32>(at + zero_page::RAMDISK_SIZE),
        )
    };
    let cmdline = u64::from(ext) << 32 | u64::from(cmdline);
    let ramdisk = u64::from(image)..u64::from(image) + u64::from(size);
    if size != 0 && !map.ram.iter().any(|r| r.start <= ramdisk.start && ramdisk.end <= r.end) {
        power::boot_failed("the ramdisk is not in RAM");
    }
    if cmdline >= 1 << 30 {
        power::boot_failed("the command line is not in low memory");
    }
    (map, cmdline, ramdisk)
}

/// The command line at `phys`; text after the first byte that is not UTF-8 is dropped.
///
/// # Safety
/// `phys` is 0 or the boot protocol's command line in the first GiB.
unsafe fn cmdline(phys: u64, limit: u32) -> &'static str {
    if phys == 0 {
        return "";
    }
    let limit = if limit == 0 { MAX_CMDLINE } else { (limit as usize).min(MAX_CMDLINE) };
    // SAFETY: by the caller; the page is not handed out.
    let all = unsafe { bytes(phys, limit) };
    let text = all.split(|b| *b == 0).next().unwrap_or(&[]);
    match core::str::from_utf8(text) {
        Ok(s) => s,
        Err(e) => core::str::from_utf8(&text[..e.valid_up_to()]).unwrap_or(""),
    }
}

/// A number on the command line: `name=5`.
fn parameter(cmdline: &str, name: &str) -> Option<usize> {
    cmdline.split_ascii_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
}

/// Rounded outwards to pages.
fn page_out(r: &Range<u64>) -> Range<u64> {
    r.start & !4095..(r.end + 4095) & !4095
}

/// RAM above 1 MiB without what is in use, in address order.
fn usable(map: &MemoryMap, reserved: &[Range<u64>]) -> ArrayVec<Range<u64>, 40> {
    let mut free = ArrayVec::<Range<u64>, 40>::new();
    for ram in map.ram() {
        let mut at = ram.start.max(LOW_MEMORY);
        while at < ram.end {
            // The next reserved range that ends beyond `at`, lowest first.
            let next = reserved.iter().filter(|r| r.start < r.end && r.end > at).min_by_key(|r| r.start);
            let (stop, resume) = match next {
                Some(r) if r.start < ram.end => (r.start.max(at), r.end),
                _ => (ram.end, ram.end),
            };
            if at < stop {
                let _ = free.try_push(at..stop); // a map with more holes than this loses memory, nothing else
            }
            at = resume;
        }
    }
    free
}
