//! The zero page: what `Documentation/arch/x86/zero-page.rst` of Linux calls `struct boot_params`.

use linux_loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use linux_loader::configurator::{BootConfigurator, BootParams, linux::LinuxBootConfigurator};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::loader::LoadError;
use crate::machine::layout::{self, GAP_END, GAP_START, HIGH_RAM, LOW_RAM_END};

const E820_RAM: u32 = 1;

/// What the zero page says besides the memory map.
pub struct Contents {
    /// Setup header of a bzImage, or none for an ELF kernel.
    pub header: Option<setup_header>,
    /// Guest physical address and size of the ramdisk.
    pub ramdisk: (u64, u64),
    /// Length of the command line at [`layout::CMDLINE`].
    pub cmdline_len: usize,
    /// Guest physical address of the ACPI root pointer, 0 if there is none.
    pub rsdp: u64,
    /// RAM size in bytes.
    pub ram: u64,
}

/// Builds the zero page and writes it to [`layout::ZERO_PAGE`].
pub fn write(mem: &GuestMemoryMmap, c: &Contents) -> Result<(), LoadError> {
    let mut params = boot_params { hdr: c.header.unwrap_or_default(), ..Default::default() };
    if c.header.is_none() {
        params.hdr.boot_flag = 0xaa55;
        params.hdr.header = u32::from_le_bytes(*b"HdrS");
        params.hdr.kernel_alignment = 0x100_0000;
    }
    params.hdr.type_of_loader = 0xff;
    params.hdr.cmd_line_ptr = layout::CMDLINE as u32;
    params.hdr.cmdline_size = c.cmdline_len as u32;
    params.hdr.ramdisk_image = c.ramdisk.0 as u32;
    params.hdr.ramdisk_size = c.ramdisk.1 as u32;
    params.acpi_rsdp_addr = c.rsdp;
    let map = e820(c.ram);
    params.e820_entries = map.len() as u8;
    for (slot, (addr, size)) in params.e820_table.iter_mut().zip(map) {
        *slot = boot_e820_entry { addr, size, r#type: E820_RAM };
    }
    LinuxBootConfigurator::write_bootparams(&BootParams::new(&params, GuestAddress(layout::ZERO_PAGE)), mem)
        .map_err(|_| LoadError::BadSegments)
}

/// RAM as the guest sees it: without the legacy hole below 1 MiB.
fn e820(ram: u64) -> Vec<(u64, u64)> {
    let mut map = vec![(0, LOW_RAM_END), (HIGH_RAM, ram.min(GAP_START) - HIGH_RAM)];
    if ram > GAP_START {
        map.push((GAP_END, ram - GAP_START));
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e820_leaves_out_the_holes() {
        assert_eq!(e820(256 << 20), [(0, LOW_RAM_END), (HIGH_RAM, 255 << 20)]);
        assert_eq!(e820(4 << 30)[2], (GAP_END, 1 << 30));
    }
}
