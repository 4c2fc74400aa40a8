//! `memcpy` and its family, and copies the compiler must not see through.
//!
//! The compiler's own versions for this target are byte loops. These use 8-byte string moves, which modern
//! processors run as wide as their caches, and finish the last seven bytes singly.

use core::arch::naked_asm;

/// C `memcpy`.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn memcpy(dst: *mut u8, src: *const u8, n: usize) -> *mut u8 {
    naked_asm!(
        "mov rax, rdi",
        "cmp rdx, 16",
        "ja 6f",
        "cmp edx, 8",
        "jae 4f",
        "cmp edx, 4",
        "jae 3f",
        "test edx, edx",
        "jz 2f",
        // 1 to 3 bytes: the first, the middle and the last, all read before the first write (as below: the
        // short cases also serve memmove)
        "movzx ecx, byte ptr [rsi]",
        "movzx r8d, byte ptr [rsi + rdx - 1]",
        "mov r9d, edx",
        "shr r9d, 1",
        "movzx r10d, byte ptr [rsi + r9]",
        "mov [rdi], cl",
        "mov [rdi + r9], r10b",
        "mov [rdi + rdx - 1], r8b",
        "2: ret",
        "3:", // 4 to 7
        "mov ecx, [rsi]",
        "mov r8d, [rsi + rdx - 4]",
        "mov [rdi], ecx",
        "mov [rdi + rdx - 4], r8d",
        "ret",
        "4:", // 8 to 16
        "mov rcx, [rsi]",
        "mov r8, [rsi + rdx - 8]",
        "mov [rdi], rcx",
        "mov [rdi + rdx - 8], r8",
        "ret",
        "6:",
        "cmp rdx, 64",
        "ja 8f",
        // 17 to 64: words, the last one overlapping
        "mov r8, [rsi + rdx - 8]",
        "lea r9, [rdi + rdx - 8]",
        "7:",
        "mov rcx, [rsi]",
        "mov [rdi], rcx",
        "add rsi, 8",
        "add rdi, 8",
        "cmp rdi, r9",
        "jb 7b",
        "mov [r9], r8",
        "ret",
        "8:",
        "mov rcx, rdx",
        "shr rcx, 3",
        "rep movsq",
        "mov ecx, edx",
        "and ecx, 7",
        "rep movsb",
        "ret",
    )
}

/// C `memmove`.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn memmove(dst: *mut u8, src: *const u8, n: usize) -> *mut u8 {
    naked_asm!(
        "mov rax, rdi",
        "sub rax, rsi",
        "cmp rax, rdx",
        "jae {memcpy}", // dst below src, or no overlap: upwards is right
        "mov rax, rdi",
        "2:",
        "cmp rdx, 16",
        "jbe {memcpy}",
        "sub rdx, 8",
        "mov rcx, [rsi + rdx]",
        "mov [rdi + rdx], rcx",
        "jmp 2b",
        memcpy = sym memcpy,
    )
}

/// C `memset`.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn memset(dst: *mut u8, c: i32, n: usize) -> *mut u8 {
    naked_asm!(
        "mov r8, rdi",
        "movzx eax, sil",
        "mov rcx, 0x0101010101010101",
        "imul rax, rcx",
        "cmp rdx, 8",
        "jb 3f",
        "cmp rdx, 64",
        "ja 4f",
        "lea r9, [rdi + rdx - 8]",
        "2:",
        "mov [rdi], rax",
        "add rdi, 8",
        "cmp rdi, r9",
        "jb 2b",
        "mov [r9], rax",
        "mov rax, r8",
        "ret",
        "3:",
        "mov ecx, edx",
        "rep stosb",
        "mov rax, r8",
        "ret",
        "4:",
        "mov rcx, rdx",
        "shr rcx, 3",
        "rep stosq",
        "mov ecx, edx",
        "and ecx, 7",
        "rep stosb",
        "mov rax, r8",
        "ret",
    )
}

/// C `memcmp`.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, n: usize) -> i32 {
    naked_asm!(
        "2:",
        "cmp rdx, 8",
        "jb 3f",
        "mov rax, [rdi]",
        "mov rcx, [rsi]",
        "cmp rax, rcx",
        "jne 4f",
        "add rdi, 8",
        "add rsi, 8",
        "sub rdx, 8",
        "jmp 2b",
        "3:",
        "test edx, edx",
        "jz 5f",
        "movzx eax, byte ptr [rdi]",
        "movzx ecx, byte ptr [rsi]",
        "sub eax, ecx",
        "jnz 6f",
        "inc rdi",
        "inc rsi",
        "dec edx",
        "jmp 3b",
        "4:", // the first differing byte decides: compare as big-endian numbers
        "bswap rax",
        "bswap rcx",
        "cmp rax, rcx",
        "sbb eax, eax",
        "or eax, 1",
        "ret",
        "5:",
        "xor eax, eax",
        "6: ret",
    )
}

/// C `bcmp`.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, n: usize) -> i32 {
    naked_asm!("jmp {}", sym memcmp)
}

/// Copies between memory that user code, a device or the host may change meanwhile, and memory of ours. The
/// compiler cannot see into it, so every byte is read exactly once.
///
/// # Safety
/// Both ranges are mapped, the destination belongs to the caller or is shared memory without invariants.
pub unsafe fn copy_raw(dst: *mut u8, src: *const u8, n: usize) {
    let copy: unsafe extern "C" fn(*mut u8, *const u8, usize) -> *mut u8 = core::hint::black_box(memcpy);
    // SAFETY: by the caller; ranges of different owners do not overlap.
    unsafe { copy(dst, src, n) };
}

/// Clears whole pages.
///
/// # Safety
/// `dst` is page-aligned, mapped for `bytes` bytes (a multiple of 8), and belongs to the caller.
pub unsafe fn clear_pages(dst: *mut u8, bytes: usize) {
    // SAFETY: by the caller.
    unsafe {
        core::arch::asm!("rep stosq", inout("rdi") dst => _, inout("rcx") bytes / 8 => _, in("rax") 0,
            options(nostack, preserves_flags))
    };
}
