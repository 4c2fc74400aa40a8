//! The machine code of the vDSO: the functions a program calls instead of a system call to ask for the time.
//!
//! It is here because it is assembly; the shared object around it is made by the kernel proper. The code is
//! position-independent. It is mapped into programs [`TEXT_OFFSET`] bytes into a page, and finds its data
//! ([`Data`]) at the start of the page before. It touches nothing but its arguments and that page, and uses no
//! stack, so it runs on whatever stack the caller has.
//!
//! A clock is read as a seqlock: `sequence` is odd while the data changes, and the reader starts again if it was
//! odd or has changed. What the code cannot answer (other clocks, `enabled` 0) it passes on to the system call.

use core::slice;

/// Where in its page the code has to lie.
pub const TEXT_OFFSET: usize = 0x800;

/// What the code reads. `CLOCK_MONOTONIC = ns_base + ((TSC - tsc_base) * multiplier >> shift)`, with a product of 128
/// bits.
#[derive(Clone, Copy, Debug, Default)]
pub struct Data {
    /// Odd while the rest changes.
    pub sequence: u32,
    /// 0: every call goes to the kernel.
    pub enabled: u32,
    /// TSC at `ns_base`.
    pub tsc_base: u64,
    /// Nanoseconds for a tick, times 2^shift.
    pub multiplier: u64,
    /// Nanoseconds since boot at `tsc_base`.
    pub ns_base: u64,
    /// Added to give `CLOCK_REALTIME`.
    pub realtime_offset: u64,
    /// Less than 64.
    pub shift: u32,
}

impl Data {
    /// Bytes of the encoded form.
    pub const LEN: usize = 48;

    /// The bytes as the code expects them at the start of its data page.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let fields: [(usize, &[u8]); 7] = [
            (0, &self.sequence.to_le_bytes()),
            (4, &self.enabled.to_le_bytes()),
            (8, &self.tsc_base.to_le_bytes()),
            (16, &self.multiplier.to_le_bytes()),
            (24, &self.ns_base.to_le_bytes()),
            (32, &self.realtime_offset.to_le_bytes()),
            (40, &self.shift.to_le_bytes()),
        ];
        for (at, field) in fields {
            bytes[at..at + field.len()].copy_from_slice(field);
        }
        bytes
    }
}

/// Byte offsets of the functions in [`code`].
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)] // the names of vdso(7)
pub struct Functions {
    pub clock_gettime: usize,
    pub gettimeofday: usize,
    pub time: usize,
    pub clock_getres: usize,
    pub getcpu: usize,
}

// Registers: rdi, rsi are the arguments; r8 the data, r9d the sequence, r10d the clock; rax, rcx, rdx scratch.
// The subroutine at 10 leaves nanoseconds in rax: since boot if bit r10d of WALL is clear, else of the wall clock;
// it returns by jumping to r11, and jumps to rdx to give up.
core::arch::global_asm!(
    ".pushsection .rodata.vdso, \"a\", @progbits",
    ".balign 64",
    ".globl ringfence_vdso_start, ringfence_vdso_end, ringfence_vdso_functions",
    "ringfence_vdso_start:",
    // int clock_gettime(clockid_t, struct timespec *)
    "20:",
    "cmp edi, 11",
    "ja 29f",
    "mov eax, {known}",
    "bt eax, edi",
    "jnc 29f",
    "mov r10d, edi",
    "lea r11, [rip + 21f]",
    "lea rdx, [rip + 29f]",
    "jmp 10f",
    "21:",
    "xor edx, edx",
    "mov ecx, 1000000000",
    "div rcx",
    "mov [rsi], rax",
    "mov [rsi + 8], rdx",
    "xor eax, eax",
    "ret",
    "29:",
    "mov eax, 228",
    "syscall",
    "ret",
    // int gettimeofday(struct timeval *, struct timezone *)
    ".balign 16",
    "30:",
    "test rdi, rdi",
    "jz 39f",
    "xor r10d, r10d",
    "lea r11, [rip + 31f]",
    "lea rdx, [rip + 39f]",
    "jmp 10f",
    "31:",
    "xor edx, edx",
    "mov ecx, 1000000000",
    "div rcx",
    "mov [rdi], rax",
    "mov eax, edx",
    "xor edx, edx",
    "mov ecx, 1000",
    "div ecx",
    "mov [rdi + 8], rax",
    "test rsi, rsi",
    "jz 32f",
    "mov qword ptr [rsi], 0",
    "32:",
    "xor eax, eax",
    "ret",
    "39:",
    "mov eax, 96",
    "syscall",
    "ret",
    // time_t time(time_t *)
    ".balign 16",
    "40:",
    "xor r10d, r10d",
    "lea r11, [rip + 41f]",
    "lea rdx, [rip + 49f]",
    "jmp 10f",
    "41:",
    "xor edx, edx",
    "mov ecx, 1000000000",
    "div rcx",
    "test rdi, rdi",
    "jz 42f",
    "mov [rdi], rax",
    "42:",
    "ret",
    "49:",
    "mov eax, 201",
    "syscall",
    "ret",
    // int clock_getres(clockid_t, struct timespec *)
    ".balign 16",
    "50:",
    "mov eax, 229",
    "syscall",
    "ret",
    // int getcpu(unsigned *, unsigned *, void *)
    ".balign 16",
    "60:",
    "mov eax, 309",
    "syscall",
    "ret",
    ".balign 16",
    "10:",
    "lea r8, [rip + ringfence_vdso_start - {distance}]",
    "cmp dword ptr [r8 + 4], 0",
    "je 15f",
    "11:",
    "mov r9d, [r8]",
    "test r9d, 1",
    "jnz 14f",
    "lfence",
    "rdtsc",
    "shl rdx, 32",
    "or rax, rdx",
    // A TSC a little behind the base (another CPU's) counts as the base.
    "xor edx, edx",
    "sub rax, [r8 + 8]",
    "cmovb rax, rdx",
    "mul qword ptr [r8 + 16]",
    "mov ecx, [r8 + 40]",
    "shrd rax, rdx, cl",
    "add rax, [r8 + 24]",
    "mov ecx, {wall}",
    "bt ecx, r10d",
    "jnc 12f",
    "add rax, [r8 + 32]",
    "12:",
    "cmp r9d, [r8]",
    "jne 11b",
    "jmp r11",
    "14:",
    "pause",
    "jmp 11b",
    "15:",
    "jmp rdx",
    "ringfence_vdso_end:",
    ".balign 4",
    "ringfence_vdso_functions:",
    ".long 20b - ringfence_vdso_start, 30b - ringfence_vdso_start, 40b - ringfence_vdso_start",
    ".long 50b - ringfence_vdso_start, 60b - ringfence_vdso_start",
    ".popsection",
    // REALTIME, MONOTONIC, MONOTONIC_RAW, both COARSE, BOOTTIME, TAI.
    known = const 1 << 0 | 1 << 1 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 11,
    wall = const 1 << 0 | 1 << 5 | 1 << 11,
    distance = const crate::PAGE_SIZE + TEXT_OFFSET,
);

unsafe extern "C" {
    static ringfence_vdso_start: u8;
    static ringfence_vdso_end: u8;
    static ringfence_vdso_functions: [u32; 5];
}

/// The code.
pub fn code() -> &'static [u8] {
    let (start, end) = (&raw const ringfence_vdso_start, &raw const ringfence_vdso_end);
    // SAFETY: the labels above enclose the code, which lies in read-only data.
    unsafe { slice::from_raw_parts(start, end.addr() - start.addr()) }
}

/// Where its functions begin.
pub fn functions() -> Functions {
    // SAFETY: the table above has five aligned entries.
    let [clock_gettime, gettimeofday, time, clock_getres, getcpu] =
        unsafe { ringfence_vdso_functions }.map(|offset| offset as usize);
    Functions { clock_gettime, gettimeofday, time, clock_getres, getcpu }
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;
    use core::arch::x86_64::_rdtsc;
    use core::ffi::c_void;

    unsafe extern "C" {
        fn mmap(addr: *mut c_void, len: usize, prot: i32, flags: i32, fd: i32, offset: i64) -> *mut c_void;
        fn mprotect(addr: *mut c_void, len: usize, prot: i32) -> i32;
    }

    const PAGE: usize = crate::PAGE_SIZE;

    /// Puts data and code where a program has them; returns the address of the code.
    fn install(data: Data) -> usize {
        // SAFETY: fresh pages; the code fits behind `TEXT_OFFSET`.
        unsafe {
            let base = mmap(core::ptr::null_mut(), 2 * PAGE, 3, 0x22, -1, 0).cast::<u8>();
            assert!(base.addr() as isize > 0);
            base.copy_from_nonoverlapping(data.to_bytes().as_ptr(), Data::LEN);
            let text = base.add(PAGE + TEXT_OFFSET);
            assert!(code().len() <= PAGE - TEXT_OFFSET);
            text.copy_from_nonoverlapping(code().as_ptr(), code().len());
            assert_eq!(mprotect(base.add(PAGE).cast(), PAGE, 5), 0);
            text.expose_provenance()
        }
    }

    type ClockGettime = extern "C" fn(i32, *mut [u64; 2]) -> i32;
    type GetTimeOfDay = extern "C" fn(*mut [u64; 2], *mut u64) -> i32;
    type Time = extern "C" fn(*mut u64) -> u64;

    #[test]
    fn clocks_are_scaled_from_the_tsc() {
        let data = Data {
            enabled: 1,
            // SAFETY: every x86-64 processor has it.
            tsc_base: unsafe { _rdtsc() },
            multiplier: 3 << 20,
            ns_base: 5_000_000_123,
            realtime_offset: 1_700_000_000 * 1_000_000_000,
            shift: 20,
            ..Data::default()
        };
        let text = install(data);
        let f = functions();
        // SAFETY: the functions are there and have these types.
        let (gettime, of_day, time) = unsafe {
            (
                core::mem::transmute::<usize, ClockGettime>(text + f.clock_gettime),
                core::mem::transmute::<usize, GetTimeOfDay>(text + f.gettimeofday),
                core::mem::transmute::<usize, Time>(text + f.time),
            )
        };
        let expected = || {
            // SAFETY: as above.
            let tsc = unsafe { _rdtsc() };
            data.ns_base + (tsc - data.tsc_base) * 3
        };
        let read = |clock| {
            let mut ts = [0; 2];
            assert_eq!(gettime(clock, &mut ts), 0);
            assert!(ts[1] < 1_000_000_000);
            ts[0] * 1_000_000_000 + ts[1]
        };
        for clock in [1, 4, 6, 7] {
            let before = expected();
            let now = read(clock);
            assert!(before <= now && now <= expected());
        }
        for clock in [0, 5, 11] {
            assert!(read(clock) - data.realtime_offset <= expected());
        }
        let mut tv = [0; 2];
        let mut tz = 7;
        assert_eq!(of_day(&mut tv, &mut tz), 0);
        assert!(tv[1] < 1_000_000 && tv[0] >= 1_700_000_005 && tz == 0);
        let mut seconds = 0;
        assert!(time(&mut seconds) >= 1_700_000_005);
        assert!(time(core::ptr::null_mut()) >= seconds);
    }

    #[test]
    fn what_it_cannot_answer_is_a_system_call() {
        let text = install(Data::default());
        // SAFETY: as above.
        let gettime =
            unsafe { core::mem::transmute::<usize, ClockGettime>(text + functions().clock_gettime) };
        let mut ts = [0; 2];
        assert_eq!(gettime(0, &mut ts), 0);
        assert!(ts[0] > 1_600_000_000);
        assert_eq!(gettime(3, &mut ts), 0);
        assert_eq!(gettime(99, &mut ts), -22);
    }
}
