//! GDT, TSS and the interrupt stacks of one CPU.
//!
//! The selectors are Linux's, which user code can see: user code 0x33, user data 0x2b. SYSCALL and SYSRET
//! want the order kernel code, kernel data, (32-bit user code), user data, user code.

use super::local::Local;
use core::arch::asm;

/// Kernel code segment.
pub const KERNEL_CS: u16 = 0x10;
/// Kernel data segment.
pub const KERNEL_SS: u16 = 0x18;
/// User code segment with RPL 3.
pub const USER_CS: u16 = 0x33;
const TSS: u16 = 0x40;
/// Value of the STAR register for these selectors.
pub const STAR: u64 = (0x23 << 48) | (KERNEL_CS as u64) << 32;

/// Bytes of the stack that NMI, double fault and machine check run on. All three end in a panic, so they share it.
const FATAL_STACK: usize = 8192;

/// Task state segment: only the stack pointers and the (absent) I/O bitmap matter in long mode.
#[repr(C, packed(4))]
struct TaskState {
    _reserved0: u32,
    rsp0: u64,
    _rsp12: [u64; 2],
    _reserved1: u64,
    ist: [u64; 7],
    _reserved2: u64,
    _reserved3: u16,
    /// Beyond the limit: no I/O port is allowed to ring 3.
    io_map: u16,
}

/// The tables of one CPU.
#[repr(C, align(16))]
pub struct Segments {
    gdt: [u64; 10],
    tss: TaskState,
    fatal_stack: FatalStack,
    debug_stack: DebugStack,
}

/// The stack on which #DB arrives; it is left at once: see [`super::entry`].
const DEBUG_STACK: usize = 256;

#[repr(C, align(16))]
struct DebugStack([u8; DEBUG_STACK]);

#[repr(C, align(16))]
struct FatalStack([u8; FATAL_STACK]);

#[repr(C, packed)]
struct Pointer {
    limit: u16,
    base: u64,
}

impl Segments {
    /// All zero.
    pub const fn new() -> Self {
        Self {
            gdt: [0; 10],
            tss: TaskState {
                _reserved0: 0,
                rsp0: 0,
                _rsp12: [0; 2],
                _reserved1: 0,
                ist: [0; 7],
                _reserved2: 0,
                _reserved3: 0,
                io_map: 0,
            },
            fatal_stack: FatalStack([0; FATAL_STACK]),
            debug_stack: DebugStack([0; DEBUG_STACK]),
        }
    }

    /// Loads these tables into the running CPU and points GS at `local`.
    ///
    /// # Safety
    /// Once for each CPU; `self` is never moved afterwards.
    pub unsafe fn load(&mut self, local: &'static Local) {
        let tss = (&raw const self.tss) as u64;
        let limit = size_of::<TaskState>() as u64 - 1;
        self.tss.io_map = size_of::<TaskState>() as u16;
        // The top slot of the stack holds the CPU's block, for handlers that cannot trust GS.
        let top = (&raw mut self.fatal_stack).addr() + FATAL_STACK - 16;
        // SAFETY: inside our own stack array.
        unsafe {
            core::ptr::with_exposed_provenance_mut::<u64>(top).write(core::ptr::from_ref(local).addr() as u64)
        };
        let debug_top = (&raw mut self.debug_stack).addr() + DEBUG_STACK - 16;
        // SAFETY: the same.
        unsafe {
            core::ptr::with_exposed_provenance_mut::<u64>(debug_top)
                .write(core::ptr::from_ref(local).addr() as u64);
        }
        self.tss.ist[0] = top as u64;
        self.tss.ist[1] = debug_top as u64;
        self.gdt = [
            0,
            0,
            0x00af_9b00_0000_ffff, // 0x10: kernel code
            0x00cf_9300_0000_ffff, // 0x18: kernel data
            0, // 0x20: where SYSRET would find 32-bit user code; there is none, so no program can leave 64-bit mode
            0x00cf_f300_0000_ffff, // 0x28: user data
            0x00af_fb00_0000_ffff, // 0x30: user code
            0,
            limit & 0xffff | (tss & 0xff_ffff) << 16 | 0x89 << 40 | (tss >> 24 & 0xff) << 56, // 0x40: TSS
            tss >> 32,
        ];
        let pointer =
            Pointer { limit: size_of_val(&self.gdt) as u16 - 1, base: (&raw const self.gdt) as u64 };
        // SAFETY: the tables are static and the selectors match them; nothing runs on the old segments after.
        unsafe {
            asm!(
                "lgdt [{p}]",
                "push {cs}",
                "lea {t}, [rip + 2f]",
                "push {t}",
                "retfq",
                "2:",
                "mov ss, {ss:e}",
                "mov ds, {zero:e}",
                "mov es, {zero:e}",
                "mov fs, {zero:e}",
                "mov gs, {zero:e}",
                "ltr {tss:x}",
                p = in(reg) &raw const pointer, cs = const KERNEL_CS as u64, t = out(reg) _,
                ss = in(reg) u32::from(KERNEL_SS), zero = in(reg) 0, tss = in(reg) u32::from(TSS),
            );
            super::asm::wrmsr(super::msr::GS_BASE, core::ptr::from_ref(local).addr() as u64);
            super::asm::wrmsr(super::msr::KERNEL_GS_BASE, 0);
            super::asm::wrmsr(super::msr::FS_BASE, 0);
        }
    }

    /// Where traps from ring 3 put their frame: top of the current thread's kernel stack.
    pub fn set_rsp0(&mut self, top: u64) {
        self.tss.rsp0 = top;
    }
}
