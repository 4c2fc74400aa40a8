//! Registers, segments and page tables of the boot CPU as the 64-bit boot protocol wants them.
//!
//! `CR4.OSXSAVE` and XCR0 are set here as well, although the protocol leaves them to the kernel: a hypervisor
//! that itself runs under one that loses XCR0 at exits (QEMU 7.2's TCG does) then keeps AVX alive.

use kvm_bindings::{Msrs, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs, kvm_xcr, kvm_xcrs};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::{MachineError, layout};

const CR0_PE: u64 = 1;
const CR0_MP: u64 = 1 << 1;
const CR0_ET: u64 = 1 << 4;
const CR0_NE: u64 = 1 << 5;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const CR4_OSFXSR: u64 = 1 << 9;
const CR4_OSXMMEXCPT: u64 = 1 << 10;
const CR4_OSXSAVE: u64 = 1 << 18;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const PTE_PRESENT_WRITE: u64 = 3;
const PTE_LARGE: u64 = 1 << 7;
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
const MTRR_ENABLE_WRITE_BACK: u64 = 1 << 11 | 6;

/// `__BOOT_CS` and `__BOOT_DS` of the boot protocol.
const CODE: u16 = 0x10;
const DATA: u16 = 0x18;
const TASK: u16 = 0x20;

/// What the host's CPU offers that matters here.
#[derive(Debug, Clone, Copy, Default)]
pub struct Features {
    /// 1 GiB pages.
    pub gigabyte_pages: bool,
    /// XSAVE, with these state components allowed in XCR0 (0: no XSAVE).
    pub xcr0: u64,
}

/// Writes GDT and identity page tables of the first 4 GiB into guest memory.
pub fn write_tables(mem: &GuestMemoryMmap, features: Features) -> Result<(), MachineError> {
    let gdt: [u64; 6] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x008f_8b00_0000_ffff, 0];
    mem.write_slice(&to_bytes(&gdt), GuestAddress(layout::GDT))?;
    let (pml4, pdpt, pd) = (layout::PAGE_TABLES, layout::PAGE_TABLES + 0x1000, layout::PAGE_TABLES + 0x2000);
    mem.write_obj(pdpt | PTE_PRESENT_WRITE, GuestAddress(pml4))?;
    if features.gigabyte_pages {
        let entries: Vec<u64> = (0..4).map(|n| n << 30 | PTE_PRESENT_WRITE | PTE_LARGE).collect();
        mem.write_slice(&to_bytes(&entries), GuestAddress(pdpt))?;
    } else {
        let entries: Vec<u64> = (0..4).map(|n| (pd + n * 0x1000) | PTE_PRESENT_WRITE).collect();
        mem.write_slice(&to_bytes(&entries), GuestAddress(pdpt))?;
        let entries: Vec<u64> = (0..2048).map(|n| n << 21 | PTE_PRESENT_WRITE | PTE_LARGE).collect();
        mem.write_slice(&to_bytes(&entries), GuestAddress(pd))?;
    }
    Ok(())
}

fn to_bytes(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

fn segment(selector: u16, type_: u8, code: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        dpl: 0,
        db: u8::from(!code),
        s: 1,
        l: u8::from(code),
        g: 1,
        avl: 0,
        unusable: 0,
        padding: 0,
    }
}

fn long_mode(sregs: &mut kvm_sregs, features: Features) {
    sregs.cs = segment(CODE, 0xb, true);
    let data = segment(DATA, 0x3, false);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = kvm_segment { selector: TASK, type_: 0xb, s: 0, db: 0, ..data };
    sregs.gdt.base = layout::GDT;
    sregs.gdt.limit = 6 * 8 - 1;
    sregs.idt.base = 0;
    sregs.idt.limit = 0;
    sregs.cr3 = layout::PAGE_TABLES;
    sregs.cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_PG;
    sregs.cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT;
    if features.xcr0 != 0 {
        sregs.cr4 |= CR4_OSXSAVE;
    }
    sregs.efer |= EFER_LME | EFER_LMA;
}

/// Sets up the boot CPU to enter the kernel at `entry`. The vCPU's CPUID must be set already.
pub fn enter(vcpu: &VcpuFd, entry: u64, features: Features) -> Result<(), MachineError> {
    let mut sregs = vcpu.get_sregs().map_err(|e| MachineError::Kvm("read a vCPU's registers", e))?;
    long_mode(&mut sregs, features);
    vcpu.set_sregs(&sregs).map_err(|e| MachineError::Kvm("set a vCPU's system registers", e))?;
    let regs = kvm_regs {
        rip: entry,
        rsi: layout::ZERO_PAGE,
        rsp: layout::STACK_TOP,
        rbp: layout::STACK_TOP,
        rflags: 2,
        ..Default::default()
    };
    vcpu.set_regs(&regs).map_err(|e| MachineError::Kvm("set a vCPU's registers", e))
}

/// Allows the XSAVE components, on any vCPU: INIT keeps them.
pub fn allow_xsave(vcpu: &VcpuFd, features: Features) -> Result<(), MachineError> {
    if features.xcr0 != 0 {
        let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
        xcrs.xcrs[0] = kvm_xcr { xcr: 0, reserved: 0, value: features.xcr0 };
        vcpu.set_xcrs(&xcrs).map_err(|e| MachineError::Kvm("set XCR0", e))?;
    }
    Ok(())
}

/// Makes all memory write-back by default, which firmware does on a PC; Linux turns PAT off otherwise.
pub fn write_back_memory(vcpu: &VcpuFd) -> Result<(), MachineError> {
    let entry =
        kvm_msr_entry { index: MSR_MTRR_DEF_TYPE, data: MTRR_ENABLE_WRITE_BACK, ..Default::default() };
    let msrs = Msrs::from_entries(&[entry]).map_err(|_| MachineError::Internal("one MSR entry"))?;
    vcpu.set_msrs(&msrs).map_err(|e| MachineError::Kvm("set the default memory type", e))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_mode_has_paging_long_code_and_no_interrupts() {
        let mut s = kvm_sregs::default();
        long_mode(&mut s, Features { gigabyte_pages: false, xcr0: 7 });
        assert_eq!((s.cs.selector, s.cs.l, s.cs.db), (0x10, 1, 0));
        assert_eq!(s.ss.selector, 0x18);
        assert_ne!(s.cr4 & CR4_OSXSAVE, 0);
        assert_eq!(s.efer & (EFER_LME | EFER_LMA), EFER_LME | EFER_LMA);
    }

    #[test]
    fn two_mebibyte_tables_map_the_fourth_gibibyte() {
        let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        write_tables(&mem, Features::default()).unwrap();
        let last: u64 = mem.read_obj(GuestAddress(layout::PAGE_TABLES + 0x5000 + 511 * 8)).unwrap();
        assert_eq!(last, (0xffe0_0000) | PTE_PRESENT_WRITE | PTE_LARGE);
    }
}
