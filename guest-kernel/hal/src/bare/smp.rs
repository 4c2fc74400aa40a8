//! Starting the other CPUs.
//!
//! INIT and SIPI put a CPU into real mode at a page below 1 MiB, where [`trampoline`] has been copied. It goes straight to
//! long mode on the boot tables (which map the first GiB one to one), finds its block by its APIC id, changes to the
//! kernel's tables in [`enter`], and calls [`start`] on its own stack. All CPUs come up at the same time; nobody waits for them.

use super::layout::{TRAMPOLINE, window_ptr};
use super::local::Local;
use super::stack::KernelStack;
use super::{apic, cpu, fpu, paging, steal, time, traps};
use crate::Kernel;
use alloc::boxed::Box;
use core::arch::naked_asm;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// What a starting CPU needs, found by APIC id.
#[repr(C)]
struct Ready {
    stack: AtomicU64,
    local: AtomicU64,
}

static READY: [Ready; cpu::MAX] =
    [const { Ready { stack: AtomicU64::new(0), local: AtomicU64::new(0) } }; cpu::MAX];
/// `enter::<K>`, for [`start_all`], which does not know `K`.
static START: AtomicUsize = AtomicUsize::new(0);

/// Remembers which kernel the secondary CPUs run.
pub fn init<K: Kernel>() {
    START.store(enter::<K> as *const () as usize, Ordering::Relaxed);
}

/// Starts every configured CPU but the first. A CPU there is no memory for is left out.
pub fn start_all() {
    if cpu::count() > 1 {
        steal::init();
    }
    let (code, end): (usize, usize);
    // SAFETY: returns two addresses and touches nothing.
    unsafe {
        core::arch::asm!("call {}", sym trampoline, out("rax") code, out("rdx") end, clobber_abi("C"));
        // SAFETY: low memory is not handed out, and the boot protocol keeps nothing in this page.
        window_ptr::<u8>(TRAMPOLINE).copy_from(code as *const u8, end - code);
    }
    for (id, ready) in READY.iter().enumerate().take(cpu::count()).skip(1) {
        let Ok(stack) = KernelStack::new() else { break };
        // The idle thread stays on this stack for good.
        ready.stack.store(core::mem::ManuallyDrop::new(stack).top(), Ordering::Relaxed);
        let local: &'static Local = Box::leak(new_local());
        ready.local.store(core::ptr::from_ref(local).addr() as u64, Ordering::Release);
        apic::start_cpu(id, (TRAMPOLINE >> 12) as u8);
    }
}

/// A zeroed block; not built on the stack, because it holds an interrupt stack.
fn new_local() -> Box<Local> {
    let mut b = Box::<Local>::new_uninit();
    // SAFETY: `new` is a constant of zeroes and null pointers: all-zero bytes are the same value.
    unsafe {
        b.as_mut_ptr().write_bytes(0, 1);
        b.assume_init()
    }
}

/// At its linked address, still on the boot tables; `rbx` points at this CPU's [`Ready`], `esi` is its number.
#[unsafe(naked)]
unsafe extern "C" fn enter<K: Kernel>() -> ! {
    naked_asm!(
        "lea rax, [rip + {root}]",
        "sub rax, {kernel_base}",
        "mov cr3, rax",
        "mov rdi, [rbx + 8]",
        "mov rsp, [rbx]",
        "xor ebp, ebp",
        "call {start}",
        root = sym paging::ROOT,
        kernel_base = const super::layout::KERNEL_BASE as i32, // sign-extended
        start = sym start::<K>,
    )
}

extern "C" fn start<K: Kernel>(local: &'static Local, id: usize) -> ! {
    cpu::init_this();
    local.prepare(id);
    traps::init_this::<K>();
    fpu::init_this();
    apic::init_this();
    steal::init_this();
    // Ready to be interrupted.
    local.publish();
    time::init_this();
    apic::init_timer_this();
    K::start_secondary()
}

/// The start-up code's bounds, in `rax` and `rdx`. The code itself is copied to [`TRAMPOLINE`] and runs there.
#[unsafe(naked)]
unsafe extern "C" fn trampoline() {
    naked_asm!(
        "lea rax, [rip + 50f]",
        "lea rdx, [rip + 59f]",
        "ret",
        ".balign 16",
        ".code16",
        "50:",
        "jmp 51f",
        // Data at fixed offsets, because it is addressed at the copy.
        ".balign 8",
        ".word 23", // 8: the GDT's limit and address
        ".long {base} + 24",
        ".balign 8",
        ".long {root} - {kernel_base}", // 16
        ".balign 8",
        ".quad 0", // 24: the GDT
        ".quad 0x00af9b000000ffff",
        ".quad 0x00cf93000000ffff",
        "51:",
        "cli",
        "cld",
        "xor ax, ax",
        "mov ds, ax",
        "lgdtd [{base} + 8]",
        "mov eax, cr4",
        "or eax, 0x20", // PAE
        "mov cr4, eax",
        "mov eax, dword ptr [{base} + 16]",
        "mov cr3, eax",
        "mov ecx, 0xc0000080",
        "rdmsr",
        "or eax, 0x900", // LME, NXE
        "wrmsr",
        "mov eax, cr0",
        "and eax, 0x9fffffff", // caches on
        "or eax, 0x80000001",  // PG, PE
        "mov cr0, eax",
        // far jump to the 64-bit segment
        ".byte 0x66, 0xea",
        ".long {base} + 57f - 50b",
        ".word 0x08",
        ".code64",
        "57:",
        "mov eax, 0x10",
        "mov ss, eax",
        "mov ds, eax",
        "mov es, eax",
        "mov eax, 1",
        "cpuid",
        "shr ebx, 24",
        "mov esi, ebx",
        "shl ebx, 4",
        "movabs rax, offset {ready}",
        "add rbx, rax",
        "movabs rax, offset {start}",
        "mov rax, [rax]",
        "jmp rax",
        "59:",
        base = const TRAMPOLINE,
        root = sym paging::BOOT_ROOT,
        kernel_base = const super::layout::KERNEL_BASE,
        ready = sym READY,
        start = sym START,
    )
}
