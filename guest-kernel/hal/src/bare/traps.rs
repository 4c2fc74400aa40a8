//! What the processor reports: system calls, exceptions, interrupts.
//!
//! The assembly in [`super::entry`] calls in here with the registers; here is decided whose business it is.
//!
//! Exceptions of kernel code are bugs and end in a panic, but for those at instructions in the exception table:
//! user copies ([`super::user`]), the FPU restore ([`super::fpu`]), and the IRET to user mode. Nothing that
//! [`leave`] lets through should make that IRET fault; if it does, the program gets the fault.
//!
//! The kernel runs with interrupts off, so one that becomes pending in it is taken at the first instruction of user code
//! after it. That is how an interrupt can tell what it interrupted, which the timer does for sampling: user registers as
//! SYSRET leaves them, or the instruction an exception was returned to, mean the kernel.

use super::asm::{cr2, take_dr6, wrmsr};
use super::entry::{self, STUB};
use super::layout::{KERNEL_BASE, window_ptr};
use super::local::local;
use super::segments::{KERNEL_CS, STAR};
use super::thread::{self, Thread};
use super::user::fixup;
use super::{apic, cpu, msr, panic, time, tlb};
use crate::{Access, Exception, Interrupt, Kernel, PageFault, USER_END, UserRegs};
use alloc::sync::Arc;
use core::arch::asm;
use core::cell::UnsafeCell;

/// The same layout as [`UserRegs`], of whatever was interrupted.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(missing_docs)]
pub struct Frame {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub error: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}
const _: () = assert!(size_of::<Frame>() == size_of::<UserRegs>());

#[repr(C, align(16))]
#[derive(Clone, Copy)]
struct Gate([u64; 2]);

#[repr(C, align(16))]
struct Idt(UnsafeCell<[Gate; 256]>);

// SAFETY: written once, by the boot CPU before the others start.
unsafe impl Sync for Idt {}

static IDT: Idt = Idt(UnsafeCell::new([Gate([0; 2]); 256]));

impl Gate {
    /// An interrupt gate (interrupts go off) to `handler`.
    fn new(handler: u64, privilege: u64, stack: u64) -> Self {
        const PRESENT_INTERRUPT: u64 = 0x8e << 40;
        let low = handler & 0xffff | u64::from(KERNEL_CS) << 16 | stack << 32;
        Self([low | PRESENT_INTERRUPT | privilege << 45 | (handler >> 16 & 0xffff) << 48, handler >> 32])
    }
}

/// Fills the IDT, patches the SMAP instructions in, and sets the boot CPU up.
pub fn init<K: Kernel>() {
    // SAFETY: returns the stubs' address and touches nothing.
    let stubs = unsafe { entry::stubs::<K>() };
    // SAFETY: only the boot CPU runs, and it has not loaded the table.
    let idt = unsafe { &mut *IDT.0.get() };
    for (vector, gate) in idt.iter_mut().enumerate() {
        let privilege = if matches!(vector, 3 | 4) { 3 } else { 0 }; // int3, into
        *gate = Gate::new((stubs + vector * STUB) as u64, privilege, 0);
    }
    for (vector, handler) in [
        (2, entry::fatal_nmi as *const () as u64),
        (8, entry::fatal_double_fault as *const () as u64),
        (18, entry::fatal_machine_check as *const () as u64),
    ] {
        idt[vector] = Gate::new(handler, 0, 1);
    }
    idt[1] = Gate::new((stubs + STUB) as u64, 0, 2);
    patch_smap();
    init_this::<K>();
}

/// Loads the IDT and the system-call registers of the running CPU.
pub fn init_this<K: Kernel>() {
    #[repr(C, packed)]
    struct Pointer {
        limit: u16,
        base: u64,
    }
    let pointer = Pointer { limit: size_of::<Idt>() as u16 - 1, base: IDT.0.get().addr() as u64 };
    /// TF, IF, DF, IOPL, NT, RF, AC.
    const CLEARED_AT_SYSCALL: u64 = 0x100 | 0x200 | 0x400 | 0x3000 | 0x4000 | 0x1_0000 | 0x4_0000;
    // SAFETY: the table and the entry point are in place; the selectors match the GDT.
    unsafe {
        asm!("lidt [{}]", in(reg) &raw const pointer, options(nostack, preserves_flags, readonly));
        wrmsr(msr::STAR, STAR);
        wrmsr(msr::LSTAR, entry::syscall::<K> as *const () as u64);
        wrmsr(msr::SFMASK, CLEARED_AT_SYSCALL);
    }
}

unsafe extern "C" {
    static __smap_sites: [u64; 2];
    static __smap_sites_end: [u64; 2];
    static __ex_table: [u64; 3];
    static __ex_table_end: [u64; 3];
}

/// A table made by the linker.
///
/// # Safety
/// The bounds are those of an array of `T` in the image.
unsafe fn linked<T>(start: *const T, end: *const T) -> &'static [T] {
    // SAFETY: by the caller.
    unsafe { core::slice::from_raw_parts(start, (end.addr() - start.addr()) / size_of::<T>()) }
}

/// Replaces the no-ops in the user copies by `stac` and `clac`, if the CPU has SMAP.
fn patch_smap() {
    if !cpu::has_smap() {
        return;
    }
    // SAFETY: symbols of the linker script around rows of two words.
    for [at, bytes] in unsafe { linked(&raw const __smap_sites, &raw const __smap_sites_end) } {
        let target = window_ptr::<u8>(at - KERNEL_BASE);
        // SAFETY: three bytes of our own text, written through the window; nobody runs them yet.
        unsafe { target.copy_from(bytes.to_le_bytes().as_ptr(), 3) };
    }
}

/// Fix-up address and kind for an instruction.
fn lookup(rip: u64) -> Option<(u64, u64)> {
    // SAFETY: symbols of the linker script around rows of three words.
    let table = unsafe { linked(&raw const __ex_table, &raw const __ex_table_end) };
    table.iter().find(|row| row[0] == rip).map(|row| (row[1], row[2]))
}

/// Kind of the rows whose fault is answered by going to the fix-up, whatever the exception was.
const ANY: u64 = fixup::QUIET;

/// A system call, from the entry stub.
pub extern "C" fn syscall<K: Kernel>(task: &Arc<Thread<K>>, regs: &mut UserRegs) -> u64 {
    K::syscall(task, regs)
}

/// After a system call with a result that is not for the program.
pub extern "C" fn restart<K: Kernel>(task: &Arc<Thread<K>>) {
    K::restart(task);
}

/// The same of a watched thread, or while all are watched.
pub extern "C" fn watched_syscall<K: Kernel>(task: &Arc<Thread<K>>, regs: &mut UserRegs) {
    K::watched_syscall(task, regs);
    task.refresh_watched();
}

/// Before IRET to user mode: everything that is due, then the frame is forced into a safe form.
pub extern "C" fn leave<K: Kernel>(regs: &mut UserRegs) {
    // SAFETY: user mode means that a user thread is current, and it stays until we return here.
    let task = unsafe { thread::borrow_current::<K>() };
    loop {
        while task.work().load(core::sync::atomic::Ordering::Relaxed) != 0 {
            K::user_work(&task, regs);
            task.refresh_watched();
        }
        if regs.rip_is_user_canonical() {
            break;
        }
        K::user_exception(&task, regs, Exception::GeneralProtection { code: 0 });
    }
    regs.force_user();
}

/// Bit of a page fault's error code: it happened with user rights.
const USER: u32 = 1 << 2;

/// A trap from user mode.
pub extern "C" fn user_trap<K: Kernel>(vector: u32, regs: &mut UserRegs) {
    let address = cr2(); // before anything can fault
    let code = core::mem::replace(&mut regs.orig_rax, u64::MAX) as u32;
    if vector >= 32 {
        let after_call = regs.rip == regs.rcx && regs.rflags == regs.r11;
        let resumed = local().resumed.replace(0);
        let kernel = after_call || regs.rip == resumed;
        return interrupt::<K>(vector as u8, kernel);
    }
    let e = match vector {
        0 => Exception::DivideError,
        1 => Exception::Debug { status: take_dr6() },
        3 => Exception::Breakpoint,
        4 => Exception::Overflow,
        5 => Exception::Bounds,
        6 => Exception::InvalidOpcode,
        7 => Exception::DeviceNotAvailable,
        11 => Exception::SegmentNotPresent { code },
        12 => Exception::StackSegment { code },
        13 => Exception::GeneralProtection { code },
        // An access of the processor's own, with the kernel's rights, on behalf of an instruction such as IRET in
        // ring 3: no change of the page tables lets it through, so it is not the program's page that is missing.
        14 if code & USER == 0 => Exception::GeneralProtection { code: 0 },
        14 => Exception::PageFault(page_fault(address, code)),
        16 => Exception::FloatingPoint,
        17 => Exception::AlignmentCheck,
        19 => Exception::Simd,
        _ => Exception::Other { vector: vector as u8, code },
    };
    // SAFETY: as in `leave`.
    let task = unsafe { thread::borrow_current::<K>() };
    K::user_exception(&task, regs, e);
    local().resumed.set(regs.rip);
}

fn page_fault(addr: u64, code: u32) -> PageFault {
    const PRESENT: u32 = 1;
    const WRITE: u32 = 1 << 1;
    const RESERVED: u32 = 1 << 3;
    const FETCH: u32 = 1 << 4;
    assert!(code & RESERVED == 0, "reserved bit in the page tables at {addr:#x}");
    let access = match code {
        c if c & FETCH != 0 => Access::Exec,
        c if c & WRITE != 0 => Access::Write,
        _ => Access::Read,
    };
    PageFault { addr, access, present: code & PRESENT != 0 }
}

/// A trap from the kernel itself.
pub extern "C" fn kernel_trap<K: Kernel>(vector: u32, frame: &mut Frame) {
    /// RFLAGS.IF.
    const INTERRUPTS_ON: u64 = 1 << 9;
    if vector >= 32 && frame.rflags & INTERRUPTS_ON == 0 {
        // No processor does this. QEMU 7.2 does when it emulates one: an interrupt that a hypervisor injected is
        // sometimes delivered a second time, whatever IF says. It was served already, or is being served below us.
        return;
    }
    let address = cr2();
    if vector >= 32 {
        return interrupt::<K>(vector as u8, true);
    }
    match (vector, lookup(frame.rip)) {
        (14, Some((fix, fixup::USER))) => {
            let resolved = address < USER_END && {
                // SAFETY: a user copy runs on behalf of the current thread.
                let task = unsafe { thread::borrow_current::<K>() };
                K::page_fault(&task, page_fault(address, frame.error as u32))
            };
            if !resolved {
                frame.rip = fix;
            }
        }
        (13 | 14, Some((fix, ANY))) => frame.rip = fix,
        (_, Some((_, fixup::IRET))) => failed_iret::<K>(frame),
        _ => panic::trap(vector, address, frame),
    }
}

/// The IRET in [`entry::leave`] faulted: we are back in the kernel with the user's GS and registers, and the rest of the
/// user frame still on the stack. Puts the frame together again, and the program gets the exception.
fn failed_iret<K: Kernel>(frame: &Frame) -> ! {
    let mut general = *frame;
    // SAFETY: `leave` had swapped to the user's GS; interrupts are off.
    unsafe { asm!("swapgs", options(nostack, preserves_flags)) };
    let regs = frame.rsp - 16 * 8;
    general.error = u64::MAX;
    // SAFETY: the processor faulted with the stack pointer at the five words of IRET, above which nothing is and below
    // which the 16 words of the popped registers were. The trap's own frame overlaps them; it was copied. This
    // function's frame is below both.
    unsafe {
        core::ptr::copy_nonoverlapping((&raw const general).cast::<u64>(), regs as *mut u64, 16);
        asm!("mov rsp, {}", "jmp {}", in(reg) regs, sym entry::refused::<K>, options(noreturn))
    }
}

/// See [`failed_iret`].
pub extern "C" fn refused<K: Kernel>(regs: &mut UserRegs) {
    // SAFETY: as in `leave`.
    let task = unsafe { thread::borrow_current::<K>() };
    K::user_exception(&task, regs, Exception::GeneralProtection { code: 0 });
}

/// NMI, double fault or machine check.
pub extern "C" fn fatal_trap(vector: u32, frame: &Frame) -> ! {
    panic::trap(vector, cr2(), frame)
}

fn interrupt<K: Kernel>(vector: u8, kernel: bool) {
    match vector {
        apic::TIMER_VECTOR => {
            apic::end_of_interrupt();
            if time::on_timer() {
                K::interrupt(Interrupt::Timer { kernel });
            }
        }
        apic::RESCHEDULE_VECTOR => {
            apic::end_of_interrupt();
            K::interrupt(Interrupt::Reschedule);
        }
        apic::FLUSH_VECTOR => {
            tlb::serve();
            apic::end_of_interrupt();
        }
        apic::SPURIOUS_VECTOR => {}
        v if (apic::DEVICE_VECTORS..apic::DEVICE_VECTORS + apic::GSIS).contains(&v) => {
            apic::end_of_interrupt();
            K::interrupt(Interrupt::Device((v - apic::DEVICE_VECTORS).into()));
        }
        // Nobody was told this vector; acknowledge so that it cannot block the others.
        _ => apic::end_of_interrupt(),
    }
}
