//! The guest's physical address space.
//!
//! ```text
//! 0x0000_0500            GDT of the boot CPU
//! 0x0000_5000..0x6000    boot stack
//! 0x0000_7000            zero page (boot_params)
//! 0x0000_8000            free for the guest's secondary-CPU trampoline
//! 0x0000_9000..0xf000    identity page tables of the first 4 GiB
//! 0x0002_0000            command line
//! 0x0009_fc00            end of low RAM in the e820 map
//! 0x000e_0000            ACPI tables (Linux only)
//! 0x0010_0000            kernel
//! ..3 GiB                RAM
//! 3 GiB..4 GiB           MMIO: virtio-mmio slots at 0xd000_0000, IOAPIC, LAPIC, KVM's TSS page
//! 4 GiB..                rest of the RAM
//! next 1 GiB boundary    the pmem region (root image), not RAM
//! ```
//!
//! Everything below 1 MiB except the ACPI tables may be overwritten once the guest has its own tables.

/// Bytes in a page.
pub const PAGE: u64 = 4096;
/// GDT of the boot CPU.
pub const GDT: u64 = 0x500;
/// Top of the boot stack.
pub const STACK_TOP: u64 = 0x6000;
/// The zero page (`struct boot_params`).
pub const ZERO_PAGE: u64 = 0x7000;
/// First of up to six page-table pages.
pub const PAGE_TABLES: u64 = 0x9000;
/// The command line.
pub const CMDLINE: u64 = 0x2_0000;
/// Room for the command line, terminating zero included.
pub const CMDLINE_MAX: usize = 0x1000;
/// End of low RAM (where a PC's extended BIOS data area begins).
pub const LOW_RAM_END: u64 = 0x9_fc00;
/// ACPI tables, up to [`HIGH_RAM`].
pub const ACPI: u64 = 0xe_0000;
/// Start of RAM above the legacy hole; kernels are loaded here or higher.
pub const HIGH_RAM: u64 = 0x10_0000;
/// End of RAM below the MMIO gap.
pub const GAP_START: u64 = 0xc000_0000;
/// End of the MMIO gap; RAM goes on here.
pub const GAP_END: u64 = 0x1_0000_0000;
/// First virtio-mmio slot.
pub const VIRTIO_BASE: u64 = 0xd000_0000;
/// Size of a virtio-mmio slot.
pub const VIRTIO_SIZE: u64 = 0x1000;
/// Interrupt line of slot 0; slot n has `VIRTIO_GSI + n`.
pub const VIRTIO_GSI: u32 = 5;
/// The IOAPIC KVM emulates.
pub const IOAPIC: u32 = 0xfec0_0000;
/// The local APICs KVM emulates.
pub const LAPIC: u32 = 0xfee0_0000;
/// Three pages Intel's KVM needs for real mode, inside the gap.
pub const KVM_TSS: u64 = 0xfffb_d000;

const GIB: u64 = 1 << 30;
const PMEM_ALIGN: u64 = 2 << 20;

/// RAM as (guest physical start, length) pairs for `size` bytes.
pub fn ram_ranges(size: u64) -> Vec<(u64, u64)> {
    if size <= GAP_START { vec![(0, size)] } else { vec![(0, GAP_START), (GAP_END, size - GAP_START)] }
}

/// One past the last RAM address.
pub fn ram_end(size: u64) -> u64 {
    if size <= GAP_START { size } else { GAP_END + (size - GAP_START) }
}

/// Guest physical (start, length) of the pmem region of an image of `image` bytes beside `ram` bytes of RAM.
pub fn pmem_range(ram: u64, image: u64) -> (u64, u64) {
    (ram_end(ram).max(GAP_END).next_multiple_of(GIB), image.next_multiple_of(PMEM_ALIGN))
}

/// Guest physical address of virtio-mmio slot `n`.
pub fn virtio_slot(n: usize) -> u64 {
    VIRTIO_BASE + n as u64 * VIRTIO_SIZE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_is_split_around_the_gap() {
        assert_eq!(ram_ranges(GAP_START), [(0, GAP_START)]);
        assert_eq!(ram_ranges(5 * GIB), [(0, 3 * GIB), (4 * GIB, 2 * GIB)]);
        assert_eq!(ram_end(5 * GIB), 6 * GIB);
    }

    #[test]
    fn pmem_lies_above_ram_and_the_gap() {
        assert_eq!(pmem_range(256 << 20, 1), (4 * GIB, PMEM_ALIGN));
        assert_eq!(pmem_range(3 * GIB + 4096, PMEM_ALIGN + 1), (5 * GIB, 2 * PMEM_ALIGN));
    }
}
