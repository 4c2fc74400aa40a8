//! Copies to and from the memory of the current address space.
//!
//! The copy loops are the only instructions that touch user addresses. `stac` opens user memory for their
//! duration (where the CPU has SMAP) and their faults are looked up in the exception table by the trap
//! handler: it asks [`Kernel::page_fault`](crate::Kernel::page_fault), and either the instruction is tried
//! again or the copy ends short.

use super::local::local;
use crate::{USER_END, UserFault};
use core::arch::naked_asm;

/// What the trap handler does about a fault at a listed instruction.
pub mod fixup {
    /// Ask the kernel proper; go to the fix-up if it cannot help.
    pub const USER: u64 = 0;
    /// Go to the fix-up at once.
    pub const QUIET: u64 = 1;
    /// The IRET to user mode: the fault is the program's.
    pub const IRET: u64 = 2;
}

/// Opens user memory; three bytes of no-op until [`super::alternatives`] finds SMAP.
macro_rules! stac {
    () => {
        "771: .byte 0x0f, 0x1f, 0x00\n.pushsection .smap_sites, \"a\"\n.quad 771b\n.quad 0xcb010f\n.popsection"
    };
}
/// Closes user memory again.
macro_rules! clac {
    () => {
        "772: .byte 0x0f, 0x1f, 0x00\n.pushsection .smap_sites, \"a\"\n.quad 772b\n.quad 0xca010f\n.popsection"
    };
}
/// `(instruction, fix-up, kind)`: a row of the exception table.
macro_rules! on_fault {
    ($at:literal, $fix:literal, $kind:literal) => {
        concat!(
            ".pushsection .ex_table, \"a\"\n.quad ",
            $at,
            "\n.quad ",
            $fix,
            "\n.quad ",
            $kind,
            "\n.popsection"
        )
    };
}
pub(super) use {clac, on_fault};

/// Copies `n` bytes; returns how many were left when a fault ended it.
///
/// # Safety
/// The kernel side is valid for `n` bytes; the other side is a checked user range.
#[unsafe(naked)]
unsafe extern "C" fn copy(dst: *mut u8, src: *const u8, n: usize) -> usize {
    naked_asm!(
        stac!(),
        "mov rcx, rdx",
        "shr rcx, 3",
        "and edx, 7",
        "2: rep movsq",
        "mov ecx, edx",
        "3: rep movsb",
        "4:",
        clac!(),
        "mov rax, rcx",
        "ret",
        // A word failed: go on with bytes up to the exact one.
        "5:",
        "lea rcx, [rdx + rcx*8]",
        "jmp 3b",
        on_fault!("2b", "5b", "0"),
        on_fault!("3b", "4b", "0"),
    )
}

/// Clears `n` bytes of user memory; returns how many were left.
///
/// # Safety
/// A checked user range.
#[unsafe(naked)]
unsafe extern "C" fn clear(dst: *mut u8, n: usize) -> usize {
    naked_asm!(
        stac!(),
        "xor eax, eax",
        "mov rcx, rsi",
        "shr rcx, 3",
        "and esi, 7",
        "2: rep stosq",
        "mov ecx, esi",
        "3: rep stosb",
        "4:",
        clac!(),
        "mov rax, rcx",
        "ret",
        "5:",
        "lea rcx, [rsi + rcx*8]",
        "jmp 3b",
        on_fault!("2b", "5b", "0"),
        on_fault!("3b", "4b", "0"),
    )
}

/// Copies bytes up to a NUL, at most `n`. Returns how many are before the NUL, `n` if there is none, or
/// `!copied` after a fault.
///
/// # Safety
/// As for [`copy`].
#[unsafe(naked)]
unsafe extern "C" fn copy_str(dst: *mut u8, src: *const u8, n: usize) -> usize {
    naked_asm!(
        stac!(),
        "xor eax, eax",
        "test rdx, rdx",
        "jz 4f",
        "2: mov cl, [rsi + rax]",
        "test cl, cl",
        "jz 4f",
        "mov [rdi + rax], cl",
        "inc rax",
        "cmp rax, rdx",
        "jb 2b",
        "4:",
        clac!(),
        "ret",
        "5:",
        "not rax",
        "jmp 4b",
        on_fault!("2b", "5b", "0"),
    )
}

/// Makes a function for one atomic access: `rdi` = user address, more arguments in `esi`, `edx`; the value in
/// `rax`, and `rdx` = 0, or 1 after a fault.
macro_rules! access {
    ($name:ident, $kind:literal, $instruction:literal) => {
        /// One access to a user word.
        ///
        /// # Safety
        /// A checked user address.
        #[unsafe(naked)]
        unsafe extern "C" fn $name(at: u64, a: u64, b: u64) -> Word {
            naked_asm!(
                stac!(),
                "mov rax, rsi",
                concat!("2: ", $instruction),
                "xor edx, edx",
                "4:",
                clac!(),
                "ret",
                "5:",
                "mov edx, 1",
                "jmp 4b",
                on_fault!("2b", "5b", $kind),
            )
        }
    };
}
access!(load1, "0", "movzx eax, byte ptr [rdi]");
access!(load4, "0", "mov eax, [rdi]");
access!(load8, "0", "mov rax, [rdi]");
access!(store1, "0", "mov [rdi], sil");
access!(store4, "0", "mov [rdi], esi");
access!(store8, "0", "mov [rdi], rsi");
access!(exchange4, "0", "lock cmpxchg [rdi], edx");
access!(quiet_load4, "1", "mov eax, [rdi]");
access!(quiet_exchange4, "1", "lock cmpxchg [rdi], edx");

#[repr(C)]
struct Word {
    value: u64,
    fault: u64,
}

type Access = unsafe extern "C" fn(u64, u64, u64) -> Word;

/// Is `[at, at+len)` in the user half, and is the current address space loaded? (A kernel thread has none.)
#[inline]
fn check(at: u64, len: usize) -> Result<(), UserFault> {
    let ok = at.checked_add(len as u64).is_some_and(|end| end <= USER_END) && local().space_active.get();
    if ok { Ok(()) } else { Err(UserFault { copied: 0 }) }
}

#[inline]
fn result(n: usize, left: usize) -> Result<(), UserFault> {
    if left == 0 { Ok(()) } else { Err(UserFault { copied: n - left }) }
}

/// # Safety
/// `dst` is valid for `n` bytes of writing.
pub(super) unsafe fn copy_in_raw(dst: *mut u8, src: u64, n: usize) -> Result<(), UserFault> {
    check(src, n)?;
    // SAFETY: by the caller and the check.
    result(n, unsafe { copy(dst, src as *const u8, n) })
}

/// # Safety
/// `src` is valid for `n` bytes of reading.
pub(super) unsafe fn copy_out_raw(dst: u64, src: *const u8, n: usize) -> Result<(), UserFault> {
    check(dst, n)?;
    // SAFETY: by the caller and the check.
    result(n, unsafe { copy(dst as *mut u8, src, n) })
}

/// Copies user memory at `src` into `dst`.
pub fn copy_in(dst: &mut [u8], src: u64) -> Result<(), UserFault> {
    // SAFETY: a slice is valid.
    unsafe { copy_in_raw(dst.as_mut_ptr(), src, dst.len()) }
}

/// Copies `src` to user memory at `dst`.
pub fn copy_out(dst: u64, src: &[u8]) -> Result<(), UserFault> {
    // SAFETY: a slice is valid.
    unsafe { copy_out_raw(dst, src.as_ptr(), src.len()) }
}

/// Clears `len` bytes of user memory at `dst`.
pub fn zero(dst: u64, len: usize) -> Result<(), UserFault> {
    check(dst, len)?;
    // SAFETY: checked.
    result(len, unsafe { clear(dst as *mut u8, len) })
}

/// Copies a NUL-terminated string at `src`. Returns its length without the NUL, or `dst.len()` if there is no
/// NUL in that many bytes.
pub fn copy_in_str(dst: &mut [u8], src: u64) -> Result<usize, UserFault> {
    // The string may end anywhere before the end of the user half.
    check(src, 0)?;
    let n = dst.len().min((USER_END - src) as usize);
    // SAFETY: `[src, src+n)` is in the user half.
    let got = unsafe { copy_str(dst.as_mut_ptr(), src as *const u8, n) };
    if got > n {
        Err(UserFault { copied: !got })
    } else if got == n && n < dst.len() {
        Err(UserFault { copied: n })
    } else {
        Ok(got)
    }
}

fn access(f: Access, at: u64, len: usize, a: u64, b: u64) -> Result<u64, UserFault> {
    check(at, len)?;
    // SAFETY: checked.
    let w = unsafe { f(at, a, b) };
    if w.fault == 0 { Ok(w.value) } else { Err(UserFault { copied: 0 }) }
}

/// Loads a byte.
pub fn load_u8(at: u64) -> Result<u8, UserFault> {
    access(load1, at, 1, 0, 0).map(|v| v as u8)
}

/// Stores a byte.
pub fn store_u8(at: u64, v: u8) -> Result<(), UserFault> {
    access(store1, at, 1, v.into(), 0).map(drop)
}

/// Loads a word; atomic if aligned.
pub fn load_u32(at: u64) -> Result<u32, UserFault> {
    access(load4, at, 4, 0, 0).map(|v| v as u32)
}

/// Loads a double word; atomic if aligned.
pub fn load_u64(at: u64) -> Result<u64, UserFault> {
    access(load8, at, 8, 0, 0)
}

/// Stores a word; atomic if aligned.
pub fn store_u32(at: u64, v: u32) -> Result<(), UserFault> {
    access(store4, at, 4, v.into(), 0).map(drop)
}

/// Stores a double word; atomic if aligned.
pub fn store_u64(at: u64, v: u64) -> Result<(), UserFault> {
    access(store8, at, 8, v, 0).map(drop)
}

/// A locked access across two cache lines stops the whole machine: refused.
fn aligned(at: u64) -> Result<(), UserFault> {
    if at.is_multiple_of(4) { Ok(()) } else { Err(UserFault { copied: 0 }) }
}

fn exchanged(found: u64, old: u32) -> Result<u32, u32> {
    let found = found as u32;
    if found == old { Ok(found) } else { Err(found) }
}

/// Atomic compare and exchange; the inner `Err` is the value found. An unaligned address fails.
pub fn cmpxchg_u32(at: u64, old: u32, new: u32) -> Result<Result<u32, u32>, UserFault> {
    aligned(at)?;
    access(exchange4, at, 4, old.into(), new.into()).map(|v| exchanged(v, old))
}

/// [`load_u32`] that fails where it would have to ask for the page: may be used under a spin lock.
pub fn try_load_u32(at: u64) -> Result<u32, UserFault> {
    access(quiet_load4, at, 4, 0, 0).map(|v| v as u32)
}

/// [`cmpxchg_u32`] that fails where it would have to ask for the page.
pub fn try_cmpxchg_u32(at: u64, old: u32, new: u32) -> Result<Result<u32, u32>, UserFault> {
    aligned(at)?;
    access(quiet_exchange4, at, 4, old.into(), new.into()).map(|v| exchanged(v, old))
}
