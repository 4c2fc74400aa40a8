//! Where things are in the kernel half of every address space.
//!
//! | from | what |
//! |---|---|
//! | `0xffff_8880_0000_0000` | the physical window: all of RAM, device pages and pmem regions, at physical address + base; no execute |
//! | `0xffff_c900_0000_0000` | kernel stacks, each below an unmapped guard |
//! | `0xffff_ffff_8000_0000` | the kernel image, physical address + base; text read-only, data no execute |
//!
//! Each of the three lives in one top-level entry that is filled at boot, before the first [`AddressSpace`]
//! copies the top level, and never changes after: no address space ever needs to be told of a kernel mapping.
//!
//! [`AddressSpace`]: crate::AddressSpace

/// Virtual base of the image; the linker script uses the same number.
pub const KERNEL_BASE: u64 = 0xffff_ffff_8000_0000;
/// Virtual base of the physical window.
pub const WINDOW_BASE: u64 = 0xffff_8880_0000_0000;
/// The physical window ends here: one top-level entry covers 512 GiB.
pub const WINDOW_LIMIT: u64 = 1 << 39;
/// Virtual base of the kernel stacks.
pub const STACK_BASE: u64 = 0xffff_c900_0000_0000;
/// Bytes of virtual address space for kernel stacks: one top-level entry.
pub const STACK_LIMIT: u64 = 1 << 39;

/// Physical memory below this is left to the boot protocol and the start-up code of secondary CPUs.
pub const LOW_MEMORY: u64 = 0x10_0000;
/// Physical address of the secondary CPUs' start-up code: a page the boot protocol leaves alone.
pub const TRAMPOLINE: u64 = 0x8000;

/// Address in the physical window.
pub const fn window(phys: u64) -> u64 {
    WINDOW_BASE + phys
}

/// The same as a pointer.
pub const fn window_ptr<T>(phys: u64) -> *mut T {
    window(phys) as *mut T
}

unsafe extern "C" {
    static __image_start: u8;
    static __text_end: u8;
    static __rodata_end: u8;
    static __image_end: u8;
}

/// Physical bounds of the image: start, end of text, end of read-only data, end of zeroed data.
pub fn image() -> (u64, u64, u64, u64) {
    let phys = |p: *const u8| p as u64 - KERNEL_BASE;
    (
        phys(&raw const __image_start),
        phys(&raw const __text_end),
        phys(&raw const __rodata_end),
        phys(&raw const __image_end),
    )
}
