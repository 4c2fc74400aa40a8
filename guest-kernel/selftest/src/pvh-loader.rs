//! Lets plain QEMU start a kernel that expects Linux's 64-bit boot protocol.
//!
//! QEMU's `-kernel` enters an ELF file with a PVH note in 32-bit mode (Xen `docs/misc/pvh.pandoc`). This program is
//! that file: it makes page tables for the first 4 GiB and a zero page from QEMU's memory map, command line
//! (`-append`) and ramdisk (`-initrd`), goes to long mode, and jumps to 1 MiB, where `-device
//! loader,file=KERNEL` has put the kernel. Our own VMM does all of this by itself.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("pvh-loader is for x86_64-unknown-none");
}

#[cfg(target_os = "none")]
mod loader {
    use core::arch::global_asm;
    use core::cell::UnsafeCell;

    global_asm!(
        ".pushsection .note.pvh, \"a\", @note",
        ".balign 4",
        ".long 4, 8, 18", // name and descriptor lengths; XEN_ELFNOTE_PHYS32_ENTRY
        ".asciz \"Xen\"",
        ".quad pvh_start",
        ".popsection",
        ".code32",
        ".globl pvh_start",
        "pvh_start:",
        "cli",
        "cld",
        "mov esp, offset pvh_stack_end",
        "mov esi, ebx", // the start info
        // 2048 pages of 2 MiB
        "mov edi, offset pvh_pd",
        "mov eax, 0x83",
        "mov ecx, 2048",
        "2:",
        "mov [edi], eax",
        "mov dword ptr [edi + 4], 0",
        "add eax, 0x200000",
        "add edi, 8",
        "dec ecx",
        "jnz 2b",
        "mov eax, offset pvh_pd + 3",
        "mov edi, offset pvh_pdpt",
        "mov ecx, 4",
        "3:",
        "mov [edi], eax",
        "add eax, 0x1000",
        "add edi, 8",
        "dec ecx",
        "jnz 3b",
        "mov dword ptr [pvh_pml4], offset pvh_pdpt + 3",
        "mov eax, cr4",
        "or eax, 0x20",
        "mov cr4, eax",
        "mov eax, offset pvh_pml4",
        "mov cr3, eax",
        "mov ecx, 0xc0000080",
        "rdmsr",
        "or eax, 0x100",
        "wrmsr",
        "mov eax, cr0",
        "or eax, 0x80000001",
        "mov cr0, eax",
        "lgdt [pvh_gdt_pointer]",
        ".byte 0xea",
        ".long pvh_long",
        ".word 0x10",
        ".code64",
        "pvh_long:",
        "mov eax, 0x18",
        "mov ds, eax",
        "mov es, eax",
        "mov ss, eax",
        "mov edi, esi",
        "call {main}",
        ".balign 8",
        "pvh_gdt:",
        ".quad 0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff",
        "pvh_gdt_pointer:",
        ".word 31",
        ".long pvh_gdt",
        ".pushsection .bss",
        ".balign 4096",
        "pvh_pml4: .skip 4096",
        "pvh_pdpt: .skip 4096",
        "pvh_pd: .skip 16384",
        "pvh_stack: .skip 8192",
        "pvh_stack_end:",
        ".popsection",
        main = sym main,
    );

    /// This program: see pvh.ld.
    const HOLE: core::ops::Range<u64> = 0x200_0000..0x204_0000;

    #[repr(C, align(4096))]
    struct ZeroPage(UnsafeCell<[u8; 4096]>);
    // SAFETY: one CPU, no interrupts.
    unsafe impl Sync for ZeroPage {}
    static ZERO_PAGE: ZeroPage = ZeroPage(UnsafeCell::new([0; 4096]));

    /// Reads physical memory.
    ///
    /// # Safety
    /// `at` is in the first 4 GiB, and what QEMU says is there.
    unsafe fn read<T: Copy>(at: u64) -> T {
        // SAFETY: by the caller; mapped one to one.
        unsafe { (at as *const T).read_unaligned() }
    }

    fn put(at: usize, bytes: &[u8]) {
        // SAFETY: one CPU, no interrupts, and no other reference.
        let page = unsafe { &mut *ZERO_PAGE.0.get() };
        page[at..at + bytes.len()].copy_from_slice(bytes);
    }

    extern "C" fn main(info: u64) -> ! {
        // The firmware left the legacy interrupt controllers open; with the APIC's pin closed afterwards, QEMU would
        // deliver an interrupt that has no vector.
        // SAFETY: masks interrupts.
        unsafe { core::arch::asm!("out 0x21, al", "out 0xa1, al", in("al") 0xff_u8) };
        // SAFETY: `info` is QEMU's `hvm_start_info`, version 1, all of it below 4 GiB.
        unsafe {
            let modules = read::<u32>(info + 12);
            let (mut ramdisk, mut ramdisk_len) = (0, 0);
            if modules != 0 {
                let list = read::<u64>(info + 16);
                (ramdisk, ramdisk_len) = (read::<u64>(list), read::<u64>(list + 8));
            }
            put(0x218, &(ramdisk as u32).to_le_bytes());
            put(0x21c, &(ramdisk_len as u32).to_le_bytes());
            let cmdline = read::<u64>(info + 24);
            put(0x228, &(cmdline as u32).to_le_bytes());
            let (map, entries) = (read::<u64>(info + 40), read::<u32>(info + 48));
            let mut count = 0;
            for i in 0..u64::from(entries).min(100) {
                let e = map + 24 * i;
                let (start, len, kind) = (read::<u64>(e), read::<u64>(e + 8), read::<u32>(e + 16));
                let end = start + len;
                let mut entry = |from: u64, to: u64| {
                    let at = 0x2d0 + 20 * count;
                    put(at, &from.to_le_bytes());
                    put(at + 8, &(to - from).to_le_bytes());
                    put(at + 16, &kind.to_le_bytes());
                    count += 1;
                };
                if start < HOLE.start && HOLE.end < end {
                    entry(start, HOLE.start);
                    entry(HOLE.end, end);
                } else {
                    entry(start, end);
                }
                if kind == 1 && start >= 0x10_0000 && start + len <= 1 << 32 {
                    clear_top(start, start + len, ramdisk, ramdisk + ramdisk_len);
                }
            }
            put(0x1e8, &[count as u8]);
            core::arch::asm!("mov eax, 0x100000", "jmp rax", in("rsi") ZERO_PAGE.0.get(), options(noreturn));
        }
    }

    /// The firmware has used the end of memory; our kernel takes memory for zeroed, as a VMM gives it.
    ///
    /// # Safety
    /// `start..end` is RAM.
    unsafe fn clear_top(start: u64, end: u64, keep: u64, keep_end: u64) {
        let mut at = start.max(end.saturating_sub(32 << 20));
        while at < end {
            let stop = if (keep..keep_end).contains(&at) { keep_end.min(end) } else { (at + 4096).min(end) };
            if !(keep..keep_end).contains(&at) {
                let n = if at < keep { stop.min(keep.max(at + 1)) - at } else { stop - at };
                // SAFETY: by the caller.
                unsafe {
                    core::arch::asm!("rep stosb", inout("rdi") at => _, inout("rcx") n => _, in("al") 0u8)
                };
            }
            at = stop;
        }
    }

    #[panic_handler]
    fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
        loop {
            // SAFETY: stops.
            unsafe { core::arch::asm!("cli", "hlt") };
        }
    }
}
