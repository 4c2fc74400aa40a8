# Every way to crash: what the parent is told. Not compared: what QEMU's emulation gets wrong natively (iretq and lretq
# of ring 3, clgi, reserved MXCSR bits), selectors in a signal frame (they are forced, not refused), RLIMIT_CPU and int 0x80
# (neither is there).
#: timeout 120
#: run --cpus 2
#: filter /^(vmmcall_ring3|iret_kernel_cs|iret_garbage|far_jump|frame_0|frame_1|frame_7|frame_9|cpu_limit|int_80):/d
cat > /tmp/crash.c <<'C'
// Every way to crash, each in a child: what the parent is told must be as natively.
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <asm/prctl.h>
#include <ucontext.h>
#include <unistd.h>
#define A(text) __asm__ volatile(text ::: "memory", "rax", "rcx", "rdx")
#define CASE(name) static void name(void)
static void jump(uint64_t to) { __asm__ volatile("jmp *%0" :: "r"(to)); }
CASE(null_read) { (void)*(volatile char *)0; }
CASE(kernel_read) { (void)*(volatile char *)0xffffffff80100000; }
CASE(direct_map_write) { *(volatile char *)0xffff888000100000 = 1; }
CASE(non_canonical_read) { (void)*(volatile char *)0x8000000000000000; }
CASE(last_page_read) { (void)*(volatile char *)0x7ffffffff000; }
CASE(read_only_write) { char *p = mmap(0, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); *(volatile char *)p = 1; }
CASE(no_exec_jump) { char *p = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); *p = 0xc3; jump((uint64_t)p); }
CASE(jump_null) { jump(0); }
CASE(jump_kernel) { jump(0xffffffff80100000); }
CASE(jump_user_end) { jump(0x7ffffffff000); }
CASE(jump_user_end_syscall) {
    // A system call whose return address would be the first non-canonical one.
    char *p = mmap((void *)0x7fffffffe000, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (p != (char *)0x7fffffffe000) raise(SIGSEGV); // taken by the stack
    p[4094] = 0x0f; p[4095] = 0x05; __asm__ volatile("jmp *%0" :: "r"(p + 4094), "a"(39));
}
CASE(bus_beyond_end) { int fd = open("/tmp/short", O_RDWR | O_CREAT, 0600); if (ftruncate(fd, 100)) {} char *p = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0); p[0] = 1; p[4096] = 1; }
CASE(bus_truncated) { int fd = open("/tmp/cut", O_RDWR | O_CREAT, 0600); if (ftruncate(fd, 8192)) {} char *p = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0); p[5000] = 1; if (ftruncate(fd, 0)) {} p[5000] = 2; }
CASE(divide) { volatile int zero = 0; volatile int r = 1 / zero; (void)r; }
CASE(divide_overflow) { volatile int m = -1; volatile int r = (int)0x80000000 / m; (void)r; }
CASE(undefined) { A("ud2"); }
CASE(breakpoint) { A("int3"); }
CASE(int_80) { __asm__ volatile("int $0x80" :: "a"(20)); }
CASE(int_3_vector) { A("int $0x20"); }
CASE(int_page_fault) { A("int $14"); }
CASE(int_double_fault) { A("int $8"); }
CASE(halt) { A("hlt"); }
CASE(clear_interrupts) { A("cli"); }
CASE(set_interrupts) { A("sti"); }
CASE(port_out) { A("mov $0x600, %%dx; mov $0, %%eax; outl %%eax, %%dx"); }
CASE(port_out_b) { __asm__ volatile("outb %%al, $0x64" :: "a"(0xfe)); }
CASE(port_in) { __asm__ volatile("inb $0x60, %%al" ::: "eax"); }
CASE(load_cr3) { __asm__ volatile("mov %0, %%cr3" :: "r"(0ul)); }
CASE(read_cr0) { A("mov %%cr0, %%rax"); }
CASE(write_dr7) { __asm__ volatile("mov %0, %%dr7" :: "r"(0ul)); }
CASE(read_msr) { __asm__ volatile("rdmsr" :: "c"(0xc0000082)); }
CASE(write_msr) { __asm__ volatile("wrmsr" :: "c"(0xc0000082), "a"(0), "d"(0)); }
CASE(swap_gs) { A("swapgs"); }
CASE(sysret) { A("sysretq"); }
CASE(lgdt_ring3) { A("lgdt (%%rsp)"); }
CASE(lidt_ring3) { A("lidt (%%rsp)"); }
CASE(ltr_ring3) { __asm__ volatile("ltr %%ax" :: "a"(0x40)); }
CASE(invlpg_ring3) { A("invlpg (%%rsp)"); }
CASE(wbinvd_ring3) { A("wbinvd"); }
CASE(vmmcall_ring3) { A("clgi"); }
CASE(load_ss_kernel) { __asm__ volatile("mov %0, %%ss" :: "r"(0x18)); }
CASE(load_ds_garbage) { __asm__ volatile("mov %0, %%ds" :: "r"(0x1234)); }
CASE(load_fs_null) { __asm__ volatile("mov %0, %%fs" :: "r"(0)); A("mov $39, %%eax; syscall"); *(volatile char *)0 = 1; }
CASE(iret_kernel_cs) { A("pushq $0x18; pushq $0; pushfq; pushq $0x10; pushq $0; iretq"); }
CASE(iret_garbage) { A("pushq $0xfff8; pushq $0; pushfq; pushq $0xffff; pushq $0; iretq"); }
CASE(far_jump) { A("pushq $0x10; pushq $0; lretq"); }
CASE(stack_pointer_kernel) { __asm__ volatile("mov %0, %%rsp; push %%rax" :: "r"(0xffffffff80200000)); }
CASE(stack_pointer_non_canonical) { __asm__ volatile("mov %0, %%rsp; push %%rax" :: "r"(0x8000000000000000)); }
CASE(syscall_bad_stack) { __asm__ volatile("mov %0, %%rsp; mov $39, %%eax; syscall; mov $60, %%eax; mov $7, %%edi; syscall" :: "r"(0xffffffff80200000)); }
static int deep(int n) { volatile char room[4096]; room[0] = n; return deep(n + 1) + room[0]; }
CASE(stack_overflow) { deep(0); }
CASE(trap_flag_syscall) { A("pushfq; orl $0x100, (%%rsp); popfq; mov $39, %%eax; syscall; nop; nop"); }
CASE(flags_syscall) { // NT, AC, DF, and an attempt at IOPL, across a system call: nothing may stay behind that harms
    A("pushfq; orq $0x47400, (%%rsp); popfq; mov $39, %%eax; syscall; pushfq; popq %%rcx; pushq $0x202; popfq");
    uint64_t f; __asm__ volatile("pushq $0x7202; popfq; pushfq; popq %0; pushq $0x202; popfq" : "=r"(f)); _exit(f & 0x3000 ? 1 : 3);
}
CASE(alignment_check) { volatile char room[16] __attribute__((aligned(16))); A("pushfq; orq $0x40000, (%%rsp); popfq"); *(volatile int *)(room + 1) = 1; }
static void kernel_gs(long code) {
    long r = syscall(SYS_arch_prctl, code, 0xffff888000000000); if (r == 0) _exit(1);
    r = syscall(SYS_arch_prctl, code, 0x8000000000000000); if (r == 0) _exit(2); _exit(4);
}
CASE(set_gs_kernel) { kernel_gs(ARCH_SET_GS); }
CASE(set_fs_kernel) { kernel_gs(ARCH_SET_FS); }
CASE(gs_use) { syscall(SYS_arch_prctl, ARCH_SET_GS, 0x1000); syscall(SYS_getpid); __asm__ volatile("movb $1, %%gs:0" ::: "memory"); }
// What a signal frame is changed to before the handler returns.
static int which;
static void handler(int signal, siginfo_t *info, void *context) {
    ucontext_t *u = context; greg_t *g = u->uc_mcontext.gregs; struct _libc_fpstate *f = u->uc_mcontext.fpregs;
    switch (which) {
    case 0: g[REG_CSGSFS] = (g[REG_CSGSFS] & ~0xffffl) | 0x10; break;
    case 1: g[REG_CSGSFS] = (g[REG_CSGSFS] & 0xffffffffffffl) | (0x18ul << 48); break;
    case 2: g[REG_EFL] |= 0x3000 | 0x4000 | 0x20000 | 0x200000; g[REG_EFL] &= ~0x200; break;
    case 3: g[REG_RIP] = 0xffffffff80100000; break;
    case 4: g[REG_RIP] = 0x800000000000; break;
    case 5: g[REG_RIP] = 0x8000000000000000; break;
    case 6: g[REG_RSP] = 0xffffffff80200000; break;
    case 7: memset(f, 0xff, 512); break;
    case 8: memset((char *)f + 512, 0xff, 64); break;
    case 9: *(uint32_t *)((char *)f + 24) = 0xffffffff; break; // mxcsr
    case 10: u->uc_mcontext.fpregs = (void *)0xffff888000000000; break;
    case 11: u->uc_mcontext.fpregs = (void *)0x10; break;
    case 12: u->uc_mcontext.fpregs = (void *)((char *)f + 1); break;
    case 13: memset(context, 0xff, 256); break;
    case 14: { uint64_t *xcomp = (uint64_t *)((char *)f + 520); *xcomp = 1ul << 63 | 7; break; }
    case 15: u->uc_mcontext.fpregs = 0; break;
    case 16: g[REG_EFL] |= 0x100; break;
    case 17: sigfillset(&u->uc_sigmask); u->uc_stack.ss_sp = (void *)-1; u->uc_stack.ss_size = -1; u->uc_stack.ss_flags = -1; break;
    }
}
static void frame(int n) {
    which = n; struct sigaction a = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO }; sigaction(SIGUSR1, &a, 0); raise(SIGUSR1);
    uint64_t f; __asm__ volatile("pushfq; popq %0" : "=r"(f)); _exit(f & 0x3000 ? 1 : 50 + n);
}
#define FRAME(n) CASE(frame_##n) { frame(n); }
FRAME(0) FRAME(1) FRAME(2) FRAME(3) FRAME(4) FRAME(5) FRAME(6) FRAME(7) FRAME(8) FRAME(9) FRAME(10) FRAME(11) FRAME(12) FRAME(13) FRAME(14) FRAME(15) FRAME(16) FRAME(17)
CASE(bare_sigreturn) { __asm__ volatile("mov $15, %%eax; mov %0, %%rsp; syscall" :: "r"(0x1000ul) : "rax"); }
CASE(bare_sigreturn_kernel) { __asm__ volatile("mov $15, %%eax; mov %0, %%rsp; syscall" :: "r"(0xffff888000000000) : "rax"); }
CASE(handler_at_kernel) { struct sigaction a = { .sa_handler = (void *)0xffffffff80100000 }; sigaction(SIGUSR1, &a, 0); raise(SIGUSR1); }
CASE(handler_bad_stack) { struct sigaction a = { .sa_handler = (void *)handler }; sigaction(SIGALRM, &a, 0); alarm(1); __asm__ volatile("mov %0, %%rsp; 1: jmp 1b" :: "r"(0xffffffff80200000)); }
CASE(segv_in_handler) { struct sigaction a = { .sa_handler = (void *)kernel_read }; sigaction(SIGSEGV, &a, 0); null_read(); }
CASE(segv_blocked) { sigset_t s; sigfillset(&s); sigprocmask(SIG_SETMASK, &s, 0); null_read(); }
CASE(segv_ignored) { signal(SIGSEGV, SIG_IGN); null_read(); }
CASE(unmap_everything) { munmap(0, 0x7ffffffff000); }
CASE(unmap_stack) { __asm__ volatile("mov %%rsp, %%rdi; and $-4096, %%rdi; sub $65536, %%rdi; mov $11, %%eax; mov $1048576, %%esi; syscall; push %%rax" ::: "rax", "rdi", "rsi"); }
CASE(cpu_limit) { struct rlimit l = { 1, 2 }; setrlimit(RLIMIT_CPU, &l); for (;;) {} }
CASE(kill_self) { kill(getpid(), SIGKILL); pause(); }
CASE(abort_self) { abort(); }
CASE(x87_exception) { unsigned short cw = 0x360; __asm__ volatile("fldcw %0; fldz; fld1; fdivp; fwait" :: "m"(cw)); __asm__ volatile("fldz; fld1; fdivp; fwait"); _exit(9); }
CASE(sse_exception) { unsigned cs = 0; __asm__ volatile("ldmxcsr %0; xorps %%xmm0, %%xmm0; mov $1, %%eax; cvtsi2ss %%eax, %%xmm1; divss %%xmm0, %%xmm1" :: "m"(cs) : "eax"); _exit(9); }
static const struct { const char *name; void (*run)(void); } cases[] = {
#define C(n) { #n, n }
    C(null_read), C(kernel_read), C(direct_map_write), C(non_canonical_read), C(last_page_read), C(read_only_write), C(no_exec_jump), C(jump_null), C(jump_kernel), C(jump_user_end),
    C(jump_user_end_syscall), C(bus_beyond_end), C(bus_truncated), C(divide), C(divide_overflow), C(undefined), C(breakpoint), C(int_3_vector), C(int_page_fault),
    C(int_double_fault), C(halt), C(clear_interrupts), C(set_interrupts), C(port_out), C(port_out_b), C(port_in), C(load_cr3), C(read_cr0), C(write_dr7), C(read_msr), C(write_msr), C(swap_gs),
    C(sysret), C(lgdt_ring3), C(lidt_ring3), C(ltr_ring3), C(invlpg_ring3), C(wbinvd_ring3), C(vmmcall_ring3), C(load_ss_kernel), C(load_ds_garbage), C(load_fs_null), C(iret_kernel_cs),
    C(iret_garbage), C(far_jump), C(stack_pointer_kernel), C(stack_pointer_non_canonical), C(syscall_bad_stack), C(stack_overflow), C(trap_flag_syscall), C(flags_syscall), C(alignment_check),
    C(set_gs_kernel), C(set_fs_kernel), C(gs_use), C(frame_0), C(frame_1), C(frame_2), C(frame_3), C(frame_4), C(frame_5), C(frame_6), C(frame_7), C(frame_8), C(frame_9), C(frame_10), C(frame_11),
    C(frame_12), C(frame_13), C(frame_14), C(frame_15), C(frame_16), C(frame_17), C(bare_sigreturn), C(bare_sigreturn_kernel), C(handler_at_kernel), C(handler_bad_stack), C(segv_in_handler), C(segv_blocked), C(segv_ignored),
    C(unmap_everything), C(unmap_stack), C(cpu_limit), C(kill_self), C(abort_self), C(x87_exception), C(sse_exception), C(int_80),
};
int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IONBF, 0);
    struct rlimit none = { 0, 0 }; setrlimit(RLIMIT_CORE, &none);
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (argc > 1 && strcmp(argv[1], cases[i].name)) continue;
        pid_t pid = fork(); int status;
        if (pid == 0) { alarm(10); cases[i].run(); _exit(0); }
        if (waitpid(pid, &status, 0) != pid) { printf("%s: waitpid\n", cases[i].name); continue; }
        if (WIFSIGNALED(status)) printf("%s: signal %d\n", cases[i].name, WTERMSIG(status)); else printf("%s: exit %d\n", cases[i].name, WEXITSTATUS(status));
    }
}
C
gcc -O1 -w -static -o /tmp/crash /tmp/crash.c && /tmp/crash
