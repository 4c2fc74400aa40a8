//! Puts a kernel and its ramdisk into guest memory.
//!
//! `linux-loader` copies the segments; what it leaves to the caller is checked here first: that an ELF file
//! is for this machine, that every segment lies in RAM above the structures of [`layout`], and where the
//! kernel really ends (its `.bss` included), so that the ramdisk cannot be overwritten.

use std::io::{Read, Seek, SeekFrom};

use linux_loader::bootparam::setup_header;
use linux_loader::loader::{BzImage, Elf, KernelLoader};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, ReadVolatile};

use crate::machine::layout::{self, HIGH_RAM, PAGE};

/// What can go wrong loading a kernel.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the message is the documentation")]
pub enum LoadError {
    #[error("cannot read the kernel: {0}")]
    Read(#[from] std::io::Error),
    #[error("this is neither an ELF (vmlinux) nor a bzImage kernel")]
    NotAKernel,
    #[error(
        "this ELF file is not a 64-bit x86 kernel (class {class}, machine {machine}); take one built for x86-64"
    )]
    OtherMachine {
        /// `EI_CLASS`.
        class: u8,
        /// `e_machine`.
        machine: u16,
    },
    #[error("the kernel has no loadable segment at a physical address a machine can have")]
    BadSegments,
    #[error(
        "the kernel needs memory up to {needed:#x}, the sandbox has {have:#x}; give it more with --memory"
    )]
    TooBig {
        /// One past the last address needed.
        needed: u64,
        /// End of low RAM.
        have: u64,
    },
    #[error("the kernel cannot be loaded: {0}")]
    Loader(#[from] linux_loader::loader::Error),
    #[error("the ramdisk of {0} bytes does not fit in the sandbox's memory; give it more with --memory")]
    Ramdisk(u64),
    #[error("cannot write guest memory: {0}")]
    Memory(#[from] vm_memory::GuestMemoryError),
}

/// A kernel in guest memory.
pub struct Loaded {
    /// Physical address of the first instruction, in 64-bit mode.
    pub entry: u64,
    /// One past the kernel, page aligned.
    pub end: u64,
    /// The setup header of a bzImage.
    pub header: Option<setup_header>,
}

/// End of RAM below the MMIO gap.
pub fn low_ram_end(mem: &GuestMemoryMmap) -> u64 {
    mem.iter().next().map_or(0, |r| r.len())
}

/// Loads an ELF or bzImage kernel.
pub fn kernel<F: Read + ReadVolatile + Seek>(
    mem: &GuestMemoryMmap,
    image: &mut F,
) -> Result<Loaded, LoadError> {
    let mut head = [0u8; 64];
    image.read_exact(&mut head).map_err(|e| match e.kind() {
        std::io::ErrorKind::UnexpectedEof => LoadError::NotAKernel,
        _ => LoadError::Read(e),
    })?;
    let have = low_ram_end(mem);
    if head.starts_with(b"\x7fELF") {
        let end = elf_end(image, &head, have)?;
        let loaded = Elf::load(mem, None, image, Some(GuestAddress(HIGH_RAM)))?;
        return Ok(Loaded { entry: loaded.kernel_load.0, end, header: None });
    }
    let size = image.seek(SeekFrom::End(0))?;
    if size > have.saturating_sub(HIGH_RAM) {
        return Err(LoadError::TooBig { needed: HIGH_RAM + size, have });
    }
    let loaded =
        BzImage::load(mem, None, image, Some(GuestAddress(HIGH_RAM))).map_err(|_| LoadError::NotAKernel)?;
    let header = loaded.setup_header.ok_or(LoadError::NotAKernel)?;
    // The decompressor moves the kernel to its preferred address and needs `init_size` bytes there.
    let end = loaded.kernel_end.max(header.pref_address.saturating_add(header.init_size.into()));
    if end > have {
        return Err(LoadError::TooBig { needed: end, have });
    }
    // The 64-bit entry point is 0x200 into the protected-mode code (Documentation/arch/x86/boot.rst).
    Ok(Loaded { entry: loaded.kernel_load.0 + 0x200, end: end.next_multiple_of(PAGE), header: Some(header) })
}

/// A loadable segment of an ELF file.
pub(super) struct Segment {
    /// Where its bytes begin in the file.
    pub offset: u64,
    /// Where they go.
    pub physical: u64,
    /// How many there are.
    pub file_size: u64,
    /// How many bytes it has in memory, the rest zero.
    pub memory_size: u64,
}

fn u64_of(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().rev().fold(0, |all, &byte| all << 8 | u64::from(byte))
}

/// `e_entry`.
pub(super) fn elf_entry(head: &[u8; 64]) -> u64 {
    u64_of(head, 24)
}

/// The segments that are not empty.
pub(super) fn elf_segments<F: Read + Seek>(
    image: &mut F,
    head: &[u8; 64],
) -> Result<Vec<Segment>, LoadError> {
    const PT_LOAD: u32 = 1;
    image.seek(SeekFrom::Start(u64_of(head, 32)))?;
    let count = u16::from_le_bytes([head[56], head[57]]);
    let mut table = vec![0u8; usize::from(count) * 56];
    image.read_exact(&mut table)?;
    Ok(table
        .chunks_exact(56)
        .filter(|ph| u64_of(ph, 0) as u32 == PT_LOAD && u64_of(ph, 40) != 0)
        .map(|ph| Segment {
            offset: u64_of(ph, 8),
            physical: u64_of(ph, 24),
            file_size: u64_of(ph, 32),
            memory_size: u64_of(ph, 40),
        })
        .collect())
}

/// Checks the ELF and program headers; returns where the last segment ends in memory.
pub(super) fn elf_end<F: Read + Seek>(image: &mut F, head: &[u8; 64], have: u64) -> Result<u64, LoadError> {
    const ELFCLASS64: u8 = 2;
    const EM_X86_64: u16 = 62;
    let (class, machine) = (head[4], u16::from_le_bytes([head[18], head[19]]));
    if class != ELFCLASS64 || machine != EM_X86_64 {
        return Err(LoadError::OtherMachine { class, machine });
    }
    let mut end = 0;
    for segment in elf_segments(image, head)? {
        let last = segment.physical.checked_add(segment.memory_size).ok_or(LoadError::BadSegments)?;
        if segment.physical < HIGH_RAM {
            return Err(LoadError::BadSegments);
        }
        if last > have {
            return Err(LoadError::TooBig { needed: last, have });
        }
        end = end.max(last);
    }
    if end == 0 {
        return Err(LoadError::BadSegments);
    }
    Ok(end.next_multiple_of(PAGE))
}

/// Where a ramdisk goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// Right behind the kernel: nothing but the kernel's own end is in the way (our guest).
    BehindKernel,
    /// As high as the kernel accepts: a stock kernel may move itself around below (Linux).
    High,
}

/// Copies `data` into memory and returns its guest physical address.
pub fn ramdisk(
    mem: &GuestMemoryMmap,
    kernel: &Loaded,
    placement: Placement,
    data: &[u8],
) -> Result<u64, LoadError> {
    let at = ramdisk_address(kernel, placement, low_ram_end(mem), data.len() as u64)?;
    mem.write_slice(data, GuestAddress(at))?;
    Ok(at)
}

fn ramdisk_address(kernel: &Loaded, placement: Placement, low_end: u64, len: u64) -> Result<u64, LoadError> {
    let top = match placement {
        Placement::BehindKernel => low_end,
        Placement::High => low_end.min(kernel.header.map_or(low_end, |h| u64::from(h.initrd_addr_max) + 1)),
    };
    let start = match placement {
        Placement::BehindKernel => kernel.end,
        Placement::High => top.saturating_sub(len) / PAGE * PAGE,
    };
    match start.checked_add(len) {
        Some(end) if start >= kernel.end && end <= top => Ok(start),
        _ => Err(LoadError::Ramdisk(len)),
    }
}

/// Writes the command line; it must leave room for its terminating zero.
pub fn command_line(mem: &GuestMemoryMmap, line: &str) -> Result<(), LoadError> {
    debug_assert!(line.len() < layout::CMDLINE_MAX);
    let mut bytes = Vec::with_capacity(line.len() + 1);
    bytes.extend_from_slice(line.as_bytes());
    bytes.push(0);
    Ok(mem.write_slice(&bytes, GuestAddress(layout::CMDLINE))?)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn elf(machine: u16, paddr: u64, memsz: u64) -> Vec<u8> {
        let mut f = vec![0u8; 0x200];
        f[..6].copy_from_slice(b"\x7fELF\x02\x01");
        f[18..20].copy_from_slice(&machine.to_le_bytes());
        f[24..32].copy_from_slice(&paddr.to_le_bytes());
        f[32..40].copy_from_slice(&64u64.to_le_bytes());
        f[54..56].copy_from_slice(&56u16.to_le_bytes());
        f[56..58].copy_from_slice(&1u16.to_le_bytes());
        f[64..68].copy_from_slice(&1u32.to_le_bytes());
        f[72..80].copy_from_slice(&0x180u64.to_le_bytes());
        f[88..96].copy_from_slice(&paddr.to_le_bytes());
        f[96..104].copy_from_slice(&0x10u64.to_le_bytes());
        f[104..112].copy_from_slice(&memsz.to_le_bytes());
        f
    }

    fn memory() -> GuestMemoryMmap {
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 8 << 20)]).unwrap()
    }

    #[test]
    fn an_elf_is_checked_before_it_is_loaded() {
        let mem = memory();
        let load = |f: Vec<u8>| kernel(&mem, &mut Cursor::new(f));
        let k = load(elf(62, 0x10_0000, 0x2001)).unwrap();
        assert_eq!((k.entry, k.end), (0x10_0000, 0x10_3000));
        assert!(matches!(load(elf(183, 0x10_0000, 1)), Err(LoadError::OtherMachine { machine: 183, .. })));
        assert!(matches!(load(elf(62, 0x10_0000, 1 << 30)), Err(LoadError::TooBig { .. })));
        assert!(matches!(load(elf(62, u64::MAX - 3, 16)), Err(LoadError::BadSegments)));
        assert!(matches!(load(elf(62, 0x1000, 16)), Err(LoadError::BadSegments)));
        assert!(matches!(load(b"#!/bin/sh".to_vec()), Err(LoadError::NotAKernel)));
    }

    #[test]
    fn a_ramdisk_never_overlaps_the_kernel() {
        let k = Loaded { entry: 0, end: 0x20_0000, header: None };
        let place = |p, len| ramdisk_address(&k, p, 0x40_0000, len).ok();
        assert_eq!(place(Placement::BehindKernel, 5), Some(0x20_0000));
        assert_eq!(place(Placement::High, 5), Some(0x3f_f000));
        assert_eq!(place(Placement::High, 0x20_0001), None);
        assert_eq!(place(Placement::BehindKernel, u64::MAX), None);
    }
}
