//! The assembly between ring 3 and the kernel.
//!
//! Both ways in, SYSCALL and the trap stubs, build a [`UserRegs`] at the top of the thread's kernel stack and
//! call Rust with a pointer to it. All ways out lead to one of two ends:
//!
//! * SYSRET, when nothing is to be done before user mode (`work` is zero) and the registers are as a system
//!   call left them: `rcx` = `rip`, canonical; `r11` = `rflags`, without TF, RF, NT or privileged bits. What
//!   SYSRET would do with a non-canonical `rcx`, fault in ring 0 on the user's stack, is thereby excluded.
//! * IRET, after [`super::traps::leave`] has made the frame safe.
//!
//! Interrupts are off from the first instruction to the last, so the `swapgs` pairs cannot be torn apart. What can
//! come in between (NMI, double fault, machine check) runs on a stack of its own and ends in a panic. #DB can come in between
//! as well: `mov ss` from a watched word defers it over the SYSCALL that follows, to the first instruction here, with
//! the user's GS and stack. It has a stack of its own, needs no GS to return to the kernel, and goes on as
//! any other trap on the thread's stack if it came from user mode.

use super::local::Local;
use super::segments::USER_CS;
use super::thread::Head;
use super::traps;
use super::user::{clac, on_fault};
use crate::{Kernel, UserRegs};
use core::arch::naked_asm;
use core::mem::offset_of;

/// `rflags` bits with which SYSRET is right; IF is added there.
const SYSRET_FLAGS: i32 = 0x1 | 0x2 | 0x4 | 0x10 | 0x40 | 0x80 | 0x200 | 0x400 | 0x800 | 0x4_0000;

/// Bytes of a vector's stub.
pub const STUB: usize = 16;

/// Pops the general registers, up to `rdi`.
macro_rules! pop_all {
    () => {
        "pop r15\npop r14\npop r13\npop r12\npop rbp\npop rbx\npop r11\npop r10\npop r9\npop r8\npop rax\npop rcx\npop rdx\npop rsi\npop rdi"
    };
}
/// Pushes the general registers below `rdi`.
macro_rules! push_all_below_rdi {
    () => {
        "push rsi\npush rdx\npush rcx\npush rax\npush r8\npush r9\npush r10\npush r11\npush rbx\npush rbp\npush r12\npush r13\npush r14\npush r15"
    };
}

/// Where SYSCALL arrives: `rcx` = return address, `r11` = flags, the user's stack, GS and everything else.
///
/// Every instruction here is paid by every system call. So the stack pointer is loaded below the frame's `ss`, which
/// nobody changes; `rbp` keeps the user's value, where a backtrace ends or prints nonsense; and the thread's `Arc` is
/// read from the word above the frame (see [`super::thread`]).
#[unsafe(naked)]
pub unsafe extern "C" fn syscall<K: Kernel>() -> ! {
    naked_asm!(
        "swapgs",
        "mov gs:[{user_rsp}], rsp",
        "mov rsp, gs:[{kernel_rsp}]", // below ss, which is always there
        "push qword ptr gs:[{user_rsp}]",
        "push r11",
        "push {cs}",
        "push rcx",
        "push rax",
        "push rdi",
        push_all_below_rdi!(),
        "lea rdi, [rsp + {regs}]", // the thread's reference to itself
        "mov rsi, rsp",
        "sub rsp, 8", // the frame has 21 words: align the stack
        "cmp dword ptr gs:[{watched}], 0",
        "jne 3f",
        "call {syscall}",
        "mov [rsp + 8 + {rax}], rax",
        "lea rdx, [rax + 4095]",
        "cmp rdx, 4095 - {first_restart}",
        "jbe 4f",
        "2:",
        "add rsp, 8",
        "mov rdx, gs:[{current}]",
        "cmp dword ptr [rdx + {work}], 0",
        "jne {leave}",
        "mov rcx, [rsp + {rip}]",
        "mov r11, [rsp + {rflags}]",
        "cmp rcx, [rsp + {rcx}]",
        "jne {leave}",
        "cmp r11, [rsp + {r11}]",
        "jne {leave}",
        "test r11, {bad_flags}",
        "jnz {leave}",
        "test dword ptr [rsp + {rip} + 4], 0xffff8000", // canonical?
        "jnz {leave}",
        "or r11d, 0x200",
        "pop r15\npop r14\npop r13\npop r12\npop rbp\npop rbx",
        "add rsp, 8", // r11
        "pop r10\npop r9\npop r8\npop rax",
        "add rsp, 8", // rcx
        "pop rdx\npop rsi\npop rdi",
        "mov rsp, [rsp + 32]", // over orig_rax, rip, cs, rflags
        "swapgs",
        "sysretq",
        "3:",
        "call {watched_syscall}",
        "jmp 2b",
        "4:",
        "lea rdi, [rsp + 8 + {regs}]",
        "call {restart}",
        "jmp 2b",
        user_rsp = const offset_of!(Local, user_rsp),
        kernel_rsp = const offset_of!(Local, kernel_rsp),
        current = const offset_of!(Local, current),
        watched = const offset_of!(Local, watched),
        work = const offset_of!(Head, work),
        cs = const USER_CS,
        regs = const size_of::<UserRegs>(),
        rax = const offset_of!(UserRegs, rax),
        first_restart = const K::FIRST_RESTART,
        restart = sym traps::restart::<K>,
        rip = const offset_of!(UserRegs, rip),
        rflags = const offset_of!(UserRegs, rflags),
        rcx = const offset_of!(UserRegs, rcx),
        r11 = const offset_of!(UserRegs, r11),
        bad_flags = const !SYSRET_FLAGS,
        syscall = sym traps::syscall::<K>,
        watched_syscall = sym traps::watched_syscall::<K>,
        leave = sym leave::<K>,
    )
}

/// `rsp` points at the frame: run what is due, make the frame safe, IRET.
#[unsafe(naked)]
pub unsafe extern "C" fn leave<K: Kernel>() -> ! {
    naked_asm!(
        "mov rdi, rsp",
        "sub rsp, 8",
        "xor ebp, ebp",
        "call {leave}",
        "add rsp, 8",
        pop_all!(),
        "add rsp, 8", // orig_rax
        "swapgs",
        "2: iretq",
        on_fault!("2b", "2b", "2"),
        leave = sym traps::leave::<K>,
    )
}

/// `rsp` points at a frame that IRET refused: deliver that, and try to leave again.
#[unsafe(naked)]
pub unsafe extern "C" fn refused<K: Kernel>() -> ! {
    naked_asm!(
        "mov rdi, rsp",
        "sub rsp, 8",
        "xor ebp, ebp",
        "call {refused}",
        "add rsp, 8",
        "jmp {leave}",
        refused = sym traps::refused::<K>,
        leave = sym leave::<K>,
    )
}

/// Returns in `rax` the address of 256 stubs of [`STUB`] bytes, one for each vector.
///
/// A stub completes the frame to one layout (an error code or 0 in the place of `orig_rax`, then `rdi`) and
/// goes on with the vector in `edi`.
#[unsafe(naked)]
pub unsafe extern "C" fn stubs<K: Kernel>() -> usize {
    naked_asm!(
        "lea rax, [rip + 22f]",
        "ret",
        ".balign 16",
        "22:",
        ".set .Lvector, 0",
        ".rept 256",
        ".balign 16",
        ".if .Lvector == 1",
        "jmp 55f",
        ".else",
        // The vectors that push an error code.
        ".if .Lvector == 8 || (.Lvector >= 10 && .Lvector <= 14) || .Lvector == 17 || .Lvector == 21 || .Lvector == 29 || .Lvector == 30",
        ".else",
        "push 0",
        ".endif",
        "push rdi",
        "mov edi, .Lvector",
        "jmp 33f",
        ".endif",
        ".set .Lvector, .Lvector + 1",
        ".endr",
        // #DB, on its own stack, whose top names the CPU's block.
        "55:",
        "test byte ptr [rsp + 8], 3",
        "jz 66f",
        "push rdi",
        "mov rdi, [rsp + 48]",
        "mov rdi, [rdi + {kernel_rsp}]", // below ss of the frame on the thread's stack
        "push rax",
        "mov rax, [rsp + 48]\nmov [rdi], rax", // ss
        "mov rax, [rsp + 40]\nmov [rdi - 8], rax",
        "mov rax, [rsp + 32]\nmov [rdi - 16], rax",
        "mov rax, [rsp + 24]\nmov [rdi - 24], rax",
        "mov rax, [rsp + 16]\nmov [rdi - 32], rax",
        "mov qword ptr [rdi - 40], 0", // error code
        "mov rax, [rsp + 8]\nmov [rdi - 48], rax", // rdi
        "pop rax",
        "lea rsp, [rdi - 48]",
        "mov edi, 1",
        "jmp 33f",
        // The kernel touched watched user memory: as on Linux, nobody is told.
        "66:",
        "push rax",
        "mov eax, 0xffff0ff0",
        "mov dr6, rax",
        "pop rax",
        "iretq",
        "33:",
        push_all_below_rdi!(),
        "cld",
        clac!(),
        "mov rsi, rsp",
        "xor ebp, ebp",
        "test byte ptr [rsp + {cs}], 3",
        "jz 44f",
        "swapgs",
        "sub rsp, 8",
        "call {user_trap}",
        "add rsp, 8",
        "jmp {leave}",
        // From the kernel: keep `rbp`, so that a panic's backtrace goes on into the interrupted code.
        "44:",
        "mov rbp, [rsp + {rbp}]",
        "sub rsp, 8",
        "call {kernel_trap}",
        "add rsp, 8",
        pop_all!(),
        "add rsp, 8",
        "iretq",
        cs = const 17 * 8,
        kernel_rsp = const offset_of!(Local, kernel_rsp),
        rbp = const offset_of!(UserRegs, rbp),
        user_trap = sym traps::user_trap::<K>,
        kernel_trap = sym traps::kernel_trap::<K>,
        leave = sym leave::<K>,
    )
}

/// NMI, double fault, machine check: on their own stack, with any GS. The top of that stack names the CPU's block.
/// An error code or 0 has been pushed; `fatal_*` below do that.
#[unsafe(naked)]
unsafe extern "C" fn fatal() -> ! {
    naked_asm!(
        push_all_below_rdi!(),
        "cld",
        // GS base = the word above the frame: 15 registers, error code, 5 words of the processor
        "mov ecx, {gs_base}",
        "mov eax, [rsp + 21*8]",
        "mov edx, [rsp + 21*8 + 4]",
        "wrmsr",
        "mov rsi, rsp",
        "mov rbp, [rsp + {rbp}]",
        "sub rsp, 8",
        "call {panic}",
        "ud2",
        gs_base = const super::msr::GS_BASE,
        rbp = const offset_of!(UserRegs, rbp),
        panic = sym traps::fatal_trap,
    )
}

/// Vector 2.
#[unsafe(naked)]
pub unsafe extern "C" fn fatal_nmi() -> ! {
    naked_asm!("push 0", "push rdi", "mov edi, 2", "jmp {}", sym fatal)
}

/// Vector 8.
#[unsafe(naked)]
pub unsafe extern "C" fn fatal_double_fault() -> ! {
    naked_asm!("push rdi", "mov edi, 8", "jmp {}", sym fatal)
}

/// Vector 18.
#[unsafe(naked)]
pub unsafe extern "C" fn fatal_machine_check() -> ! {
    naked_asm!("push 0", "push rdi", "mov edi, 18", "jmp {}", sym fatal)
}
