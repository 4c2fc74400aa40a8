//! What the hardware layer does not let a kernel do.

use core::arch::asm;
use x86_64::instructions::port::Port;

/// Writes to an I/O port, with the width of the value.
pub fn out8(port: u16, value: u8) {
    // SAFETY: a port reaches the VMM and KVM's interrupt controllers, and no memory of ours that we rely on.
    unsafe { Port::new(port).write(value) }
}

/// As [`out8`].
pub fn out16(port: u16, value: u16) {
    // SAFETY: as above.
    unsafe { Port::new(port).write(value) }
}

/// As [`out8`].
pub fn out32(port: u16, value: u32) {
    // SAFETY: as above.
    unsafe { Port::new(port).write(value) }
}

/// Reads a port in all widths.
pub fn read_port(port: u16) {
    // SAFETY: as above.
    unsafe {
        Port::<u8>::new(port).read();
        Port::<u16>::new(port).read();
        Port::<u32>::new(port).read();
    }
}

/// `rep outsb` of `text`.
pub fn out_string(port: u16, text: &[u8]) {
    // SAFETY: reads `text` only.
    unsafe {
        asm!("rep outsb", in("dx") port, inout("rsi") text.as_ptr() => _, inout("rcx") text.len() => _,
             options(nostack, preserves_flags));
    }
}

/// A call of the hypervisor. The instruction of the wrong vendor is not there: `amd` says which one to use.
pub fn hypercall(amd: bool, number: u64, argument: u64) -> u64 {
    let result: u64;
    // SAFETY: KVM's calls change no memory but what is at the address of a clock pairing, and we give none of ours. rbx is
    // not to be named as an operand.
    unsafe {
        asm!("push rbx", "mov rbx, rdi", "test {amd}, {amd}", "jz 2f", "vmmcall", "jmp 3f", "2:", "vmcall", "3:", "pop rbx",
             amd = in(reg) u64::from(amd), in("rdi") argument, inout("rax") number => result, in("rcx") argument,
             in("rdx") argument, in("rsi") argument);
    }
    result
}

/// Takes the descriptors of interrupts away and raises one.
pub fn triple_fault() -> ! {
    let none = [0u64; 2];
    // SAFETY: never returns.
    unsafe { asm!("lidt [{}]", "int3", "2: jmp 2b", in(reg) none.as_ptr(), options(noreturn)) }
}

/// Has the CPU look for its page tables where no memory is.
pub fn lose_page_tables() -> ! {
    // SAFETY: never returns.
    unsafe { asm!("mov cr3, {}", "2: jmp 2b", in(reg) 0x7_0000_0000u64, options(noreturn)) }
}

/// Halts with interrupts off, for good.
pub fn hang() -> ! {
    loop {
        // SAFETY: nothing else is to happen.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) }
    }
}

/// Writes through `pointer` in every width and by a string instruction, as `value`, at `address` of a mapped window.
pub fn write_all_ways(address: *mut u8, value: u8) {
    let word = u64::from_ne_bytes([value; 8]);
    // SAFETY: the window is not memory of ours; that writes to it have no effect is what is tested.
    unsafe {
        address.write_volatile(value);
        address.cast::<u16>().write_volatile(word as u16);
        address.cast::<u32>().write_volatile(word as u32);
        address.cast::<u64>().write_volatile(word);
        asm!("lock xadd [{}], {}", in(reg) address, inout(reg) word => _, options(nostack));
        asm!("rep stosb", inout("rdi") address => _, inout("rcx") 64u64 => _, in("al") value, options(nostack));
    }
}

/// A read or write of `width` bytes (1, 2, 4, 8) at any offset.
pub fn access(address: *mut u8, width: usize, write: Option<u64>) -> u64 {
    // SAFETY: device registers; see above. The instructions take unaligned addresses.
    unsafe {
        match (width, write) {
            (1, None) => address.read_volatile().into(),
            (2, None) => address.cast::<u16>().read_unaligned().into(),
            (4, None) => address.cast::<u32>().read_unaligned().into(),
            (_, None) => address.cast::<u64>().read_unaligned(),
            (1, Some(v)) => {
                address.write_volatile(v as u8);
                0
            }
            (2, Some(v)) => {
                address.cast::<u16>().write_unaligned(v as u16);
                0
            }
            (4, Some(v)) => {
                address.cast::<u32>().write_unaligned(v as u32);
                0
            }
            (_, Some(v)) => {
                address.cast::<u64>().write_unaligned(v);
                0
            }
        }
    }
}
