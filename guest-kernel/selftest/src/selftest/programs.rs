//! The user programs: position-independent code that is copied to [`CODE`](crate::kernel::CODE). The stack pointer is at the
//! end of the data area. A program that means to fault puts the address to go on at into r15.

use core::arch::naked_asm;

/// Defines a program, and a constant function with its bytes' bounds: `end` is after the last instruction.
macro_rules! program {
    ($(#[$doc:meta])* $name:ident, $($line:expr),+ $(,)?) => {
        $(#[$doc])*
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name() {
            naked_asm!(
                "lea rax, [rip + 98f]",
                "lea rdx, [rip + 99f]",
                "ret",
                "98:",
                $($line),+,
                "xor eax, eax",
                "syscall",
                "ud2",
                "99:",
            )
        }
    };
}

program!(
    /// Logs 1 if a system call changes only rax, rcx and r11, and these as documented.
    registers,
    "mov rbx, 0x1111\nmov rbp, 0x2222\nmov r12, 0x3333\nmov r13, 0x4444\nmov r14, 0x5555\nmov r15, 0x6666",
    "mov rdi, 0x7777\nmov rsi, 0x8888\nmov rdx, 0x9999\nmov r8, 0xaaaa\nmov r9, 0xbbbb\nmov r10, 0xcccc",
    "mov eax, 39",
    "syscall",
    "2:",
    "cmp rax, 1\njne 9f",
    "lea rax, [rip + 2b]\ncmp rcx, rax\njne 9f",
    "cmp rbx, 0x1111\njne 9f\ncmp rbp, 0x2222\njne 9f\ncmp r12, 0x3333\njne 9f\ncmp r13, 0x4444\njne 9f",
    "cmp r14, 0x5555\njne 9f\ncmp r15, 0x6666\njne 9f\ncmp rdi, 0x7777\njne 9f\ncmp rsi, 0x8888\njne 9f",
    "cmp rdx, 0x9999\njne 9f\ncmp r8, 0xaaaa\njne 9f\ncmp r9, 0xbbbb\njne 9f\ncmp r10, 0xcccc\njne 9f",
    "mov edi, 1\nmov eax, 1\nsyscall",
    "9:",
);

program!(
    /// Touches new pages: the stack, and memory that reads as zero; logs what it reads back.
    demand,
    "push 77",
    "pop rdi",
    "mov eax, 1\nsyscall",
    "mov rdi, [0x500000]",
    "mov eax, 1\nsyscall",
    "mov qword ptr [0x501008], 99",
    "mov rdi, [0x501008]",
    "mov eax, 1\nsyscall",
);

program!(
    /// Raises one exception after the other.
    exceptions,
    "lea r15, [rip + 2f]\nud2\n2:",
    "lea r15, [rip + 2f]\nxor ecx, ecx\nxor edx, edx\nmov eax, 1\ndiv ecx\n2:",
    "lea r15, [rip + 2f]\nint3\n2:",
    "lea r15, [rip + 2f]\ncli\n2:",
    "lea r15, [rip + 2f]\nhlt\n2:",
    "lea r15, [rip + 2f]\nmov dx, 0x3f8\nin al, dx\n2:",
    "lea r15, [rip + 2f]\nmov ecx, 0xc0000080\nrdmsr\n2:",
    "lea r15, [rip + 2f]\nint 0x80\n2:",
    "lea r15, [rip + 2f]\nmov rax, 0x8000000000000000\nmov rax, [rax]\n2:",
    "lea r15, [rip + 2f]\nmov rax, 0xffffffff80100000\nmov rax, [rax]\n2:", // kernel text
    "lea r15, [rip + 2f]\nmov rax, 0xffff888000100000\nmov [rax], rax\n2:", // the window
    "lea r15, [rip + 2f]\nmov dword ptr [rip + 2f], 0\n2:",                // own text
    "lea r15, [rip + 2f]\nmov rax, 0x500000\nmov byte ptr [rax], 0xc3\njmp rax\n2:", // data is not executable
    "lea r15, [rip + 2f]\nint 0xec\n2:",                                   // the timer's vector
    // a far jump to what would be 32-bit code (a far return faults for ever in QEMU 7.2 with SMAP)
    "lea r15, [rip + 2f]\nmov rbx, rsp\nlea rax, [rip + 2f]\npush 0x23\nshl qword ptr [rsp], 32\nor [rsp], rax",
    ".byte 0xff, 0x2c, 0x24\n2: mov rsp, rbx", // ljmp [rsp]
    // the trap flag: one step later
    "lea r15, [rip + 2f]\npushfq\nor dword ptr [rsp], 0x100\npopfq\nnop\nnop\n2:",
    "pushfq\nand dword ptr [rsp], 0xfffffeff\npopfq",
    // an unaligned access with AC
    "lea r15, [rip + 2f]\nmov rcx, 0x500001\npushfq\nor dword ptr [rsp], 0x40000\npopfq\nmov eax, [rcx]\n2:",
    "pushfq\nand dword ptr [rsp], 0xfffbffff\npopfq",
    "mov edi, 123\nmov eax, 1\nsyscall",
);

program!(
    /// Returns from system calls with every flag set, and logs what came of it; then to bad addresses.
    hostile,
    // all ones (without TF): IOPL, NT, RF, VM must be gone, IF must be on
    "lea rdi, [rip + 2f]\nmov rsi, 0xfffffffffffffeff\nmov eax, 4\nsyscall\n2:",
    "pushfq\npop rdi\nmov eax, 1\nsyscall",
    "push 0x202\npopfq\ncld",
    // all zeroes
    "lea rdi, [rip + 2f]\nxor esi, esi\nmov eax, 4\nsyscall\n2:",
    "pushfq\npop rdi\nmov eax, 1\nsyscall",
    // non-canonical, kernel, and just past the user half
    "lea r15, [rip + 2f]\nmov rdi, 0x8000000000000000\nmov esi, 0x202\nmov eax, 4\nsyscall\n2:",
    "lea r15, [rip + 2f]\nmov rdi, 0x800000000000\nmov esi, 0x202\nmov eax, 4\nsyscall\n2:",
    "lea r15, [rip + 2f]\nmov rdi, 0xffffffff80100000\nmov esi, 0x202\nmov eax, 4\nsyscall\n2:",
    // with a stack pointer that is not canonical
    "mov rbx, rsp\nmov rsp, 0x8000000000000000\nmov eax, 39\nsyscall\nmov rsp, rbx",
    "mov rsp, 0xffffffff80200000\nmov eax, 39\nsyscall\nmov rsp, rbx",
    "mov edi, 7\nmov eax, 1\nsyscall",
);

program!(
    /// Writes 1, forks; both increment, by different numbers, and log; and log an FPU register.
    fork,
    "mov qword ptr [0x500000], 1",
    "mov rax, 0x1234567890abcdef\nmovq xmm5, rax",
    "mov eax, 3\nsyscall",
    "test rax, rax\njz 2f",
    "add qword ptr [0x500000], 10\njmp 3f",
    "2: add qword ptr [0x500000], 20",
    "3: mov rdi, [0x500000]\nmov eax, 1\nsyscall",
    "movq rdi, xmm5\nmov eax, 1\nsyscall",
);

program!(
    /// rdi = a number of its own: keeps it in FPU registers and FS/GS bases over many yields; logs how often it
    /// found something else.
    keep,
    "mov r12, rdi\nxor ebx, ebx\nmov ebp, 200",
    "shl rdi, 12\nlea rsi, [rdi + 0x1000]\nmov r13, rdi\nmov r14, rsi\nmov eax, 5\nsyscall",
    "movq xmm0, r12\nmovq xmm15, r12\nmovq mm3, r12",
    "push r12\nfild qword ptr [rsp]\npop rax\nemms\nfild qword ptr [rsp - 8]",
    "2:",
    "mov eax, 2\nsyscall",
    "movq rax, xmm0\ncmp rax, r12\nje 3f\ninc ebx\n3:",
    "movq rax, xmm15\ncmp rax, r12\nje 3f\ninc ebx\n3:",
    "mov rax, 0\npush rax\nfist dword ptr [rsp]\npop rax\ncmp eax, r12d\nje 3f\ninc ebx\n3:",
    "lea r12, [r12]",
    "dec ebp\njnz 2b",
    "mov edi, ebx\nmov eax, 1\nsyscall",
);

program!(
    /// Sets xmm7, lets the kernel try FPU images, and logs xmm7 after that.
    images,
    "mov rax, 0x77\nmovq xmm7, rax\nmov eax, 6\nsyscall",
    "movq rdi, xmm7\nmov eax, 1\nsyscall",
);

program!(
    /// rdi = how often: adds 1 to a shared counter, yielding now and then.
    count,
    "mov rbx, rdi",
    "2: lock inc qword ptr [0x502000]",
    "test bl, 63\njnz 3f",
    "mov eax, 2\nsyscall",
    "3: dec rbx\njnz 2b",
);

program!(
    /// Adds 1 to a word without any lock until another word is set; logs the sum.
    writer,
    "xor ebx, ebx",
    "2: inc rbx\nmov [0x503000], rbx",
    "cmp rbx, [0x503000]\njne 4f",
    "cmp qword ptr [0x504000], 0\nje 2b",
    "3: mov rdi, rbx\nmov eax, 1\nsyscall\njmp 5f",
    "4: mov rdi, -1\nmov eax, 1\nsyscall",
    "5:",
);

program!(
    /// Times 1000 empty system calls; logs the TSC ticks.
    timing,
    "mov ebx, 1100",
    "2: cmp ebx, 1000\njne 3f\nrdtsc\nshl rdx, 32\nor rax, rdx\nmov r12, rax",
    "3: mov eax, 39\nsyscall\ndec ebx\njnz 2b",
    "rdtsc\nshl rdx, 32\nor rax, rdx\nsub rax, r12\nmov rdi, rax\nmov eax, 1\nsyscall",
);

/// The bytes of a program.
pub fn bytes(program: unsafe extern "C" fn()) -> &'static [u8] {
    let (start, end): (usize, usize);
    // SAFETY: every program begins with a function that returns its bounds and touches nothing.
    unsafe {
        core::arch::asm!("call {}", in(reg) program, lateout("rax") start, lateout("rdx") end, clobber_abi("C"));
        core::slice::from_raw_parts(start as *const u8, end - start)
    }
}
