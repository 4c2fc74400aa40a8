//! One function for each privileged instruction we use: those of the `x86_64` crate under one roof with those it
//! does not have, in plain integers.

use core::arch::asm;

use x86_64::{
    VirtAddr,
    instructions::{self, port::Port, tlb},
    registers::{control::Cr2, model_specific::Msr},
};

/// Reads a model-specific register.
///
/// # Safety
/// The register exists on this CPU.
#[inline]
pub unsafe fn rdmsr(msr: u32) -> u64 {
    // SAFETY: by the caller.
    unsafe { Msr::new(msr).read() }
}

/// Writes a model-specific register.
///
/// # Safety
/// The register exists, takes this value, and what it changes keeps the kernel's invariants.
#[inline]
pub unsafe fn wrmsr(msr: u32, value: u64) {
    // SAFETY: by the caller.
    unsafe { Msr::new(msr).write(value) };
}

/// Defines a reader and a writer of a control register.
macro_rules! control_register {
    ($read:ident, $write:ident, $name:literal) => {
        #[doc = concat!("Reads ", $name, ".")]
        #[inline]
        pub fn $read() -> u64 {
            let v: u64;
            // SAFETY: reading a control register in ring 0 has no side effect.
            unsafe { asm!(concat!("mov {}, ", $name), out(reg) v, options(nomem, nostack, preserves_flags)) };
            v
        }
        #[doc = concat!("Writes ", $name, ".")]
        ///
        /// # Safety
        /// The new value keeps the kernel mapped and its invariants true.
        #[inline]
        pub unsafe fn $write(v: u64) {
            // SAFETY: by the caller.
            unsafe { asm!(concat!("mov ", $name, ", {}"), in(reg) v, options(nostack, preserves_flags)) };
        }
    };
}
control_register!(cr0, set_cr0, "cr0");
control_register!(cr3, set_cr3, "cr3");
control_register!(cr4, set_cr4, "cr4");

/// The address of the last page fault.
#[inline]
pub fn cr2() -> u64 {
    Cr2::read_raw()
}

/// Reads XCR0.
///
/// # Safety
/// CR4.OSXSAVE is set.
pub unsafe fn xgetbv() -> u64 {
    let (lo, hi): (u32, u32);
    // SAFETY: by the caller the instruction exists.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") lo, out("edx") hi, options(nomem, nostack, preserves_flags))
    };
    u64::from(hi) << 32 | u64::from(lo)
}

/// Writes XCR0.
///
/// # Safety
/// CR4.OSXSAVE is set and the CPU takes this value.
pub unsafe fn xsetbv(v: u64) {
    // SAFETY: by the caller.
    unsafe {
        asm!("xsetbv", in("ecx") 0, in("eax") v as u32, in("edx") (v >> 32) as u32,
            options(nomem, nostack, preserves_flags))
    };
}

/// Forgets the translation of one page in this CPU's TLB, global or not.
#[inline]
pub fn invlpg(va: u64) {
    tlb::flush(VirtAddr::new_truncate(va));
}

/// The time-stamp counter.
#[inline]
pub fn rdtsc() -> u64 {
    let (lo, hi): (u32, u32);
    // SAFETY: no memory effect.
    unsafe { asm!("rdtsc", out("eax") lo, out("edx") hi, options(nomem, nostack, preserves_flags)) };
    u64::from(hi) << 32 | u64::from(lo)
}

/// CPUID with a sub-leaf: eax, ebx, ecx, edx.
pub fn cpuid(leaf: u32, sub: u32) -> [u32; 4] {
    let r = core::arch::x86_64::__cpuid_count(leaf, sub);
    [r.eax, r.ebx, r.ecx, r.edx]
}

/// Reads a byte from an I/O port.
///
/// # Safety
/// Reading this port has no effect on memory safety.
pub unsafe fn inb(port: u16) -> u8 {
    // SAFETY: by the caller.
    unsafe { Port::new(port).read() }
}

/// Writes a byte to an I/O port.
///
/// # Safety
/// Writing this port has no effect on memory safety.
pub unsafe fn outb(port: u16, v: u8) {
    // SAFETY: by the caller.
    unsafe { Port::new(port).write(v) };
}

/// Reads a word of 32 bits from an I/O port.
///
/// # Safety
/// Reading this port has no effect on memory safety.
pub unsafe fn inl(port: u16) -> u32 {
    // SAFETY: by the caller.
    unsafe { Port::new(port).read() }
}

/// Writes a word of 32 bits to an I/O port.
///
/// # Safety
/// Writing this port has no effect on memory safety.
pub unsafe fn outl(port: u16, v: u32) {
    // SAFETY: by the caller.
    unsafe { Port::new(port).write(v) };
}

/// DR6, which is cleared.
pub fn take_dr6() -> u64 {
    let v: u64;
    // SAFETY: no effect but that on the register, which nobody else reads.
    unsafe {
        asm!("mov {v}, dr6", "mov dr6, {none}", v = out(reg) v, none = in(reg) 0xffff_0ff0u64, options(nomem, nostack))
    };
    v
}

/// Loads the breakpoints.
///
/// # Safety
/// They are not on addresses of the kernel (see [`crate::debug`]).
pub unsafe fn load_breakpoints(address: [u64; 4], dr7: u64) {
    // SAFETY: by the caller. Off while they change.
    unsafe {
        asm!("mov dr7, {off}", "mov dr0, {a}", "mov dr1, {b}", "mov dr2, {c}", "mov dr3, {d}", "mov dr7, {on}",
            off = in(reg) 0x400u64, a = in(reg) address[0], b = in(reg) address[1], c = in(reg) address[2],
            d = in(reg) address[3], on = in(reg) dr7 | 0x400, options(nomem, nostack));
    }
}

/// Stops this CPU for good.
pub fn halt_forever() -> ! {
    loop {
        // With interrupts off nothing but an NMI wakes us, and then we halt again.
        instructions::interrupts::disable();
        instructions::hlt();
    }
}
