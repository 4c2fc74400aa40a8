//! The system call, and the other few things that need `unsafe`: reading and writing memory by address, the
//! return path of signal handlers.
//!
//! [`call`] is a safe function although a system call can do anything to the process (unmap its stack, say).
//! That is the point of this crate: its tests hand the kernel all that programs hand it. A test that ruins its own
//! process is seen as broken by the runner, which is another process.
#![allow(unsafe_code)]

use std::arch::{asm, global_asm};
use std::ffi::CStr;
use std::sync::atomic::{AtomicU32, AtomicU64};

/// What may be a system call's argument.
pub trait Argument {
    /// The register.
    fn raw(self) -> u64;
}

macro_rules! integers {
    ($($ty:ty),*) => {$(
        impl Argument for $ty {
            fn raw(self) -> u64 {
                self as i64 as u64
            }
        }
    )*};
}

integers!(i32, u32, i64, u64, usize, isize, bool, u16, u8);

impl Argument for &CStr {
    fn raw(self) -> u64 {
        self.as_ptr() as u64
    }
}

/// The address of something the call reads.
pub fn p<T: ?Sized>(value: &T) -> u64 {
    std::ptr::from_ref(value).cast::<u8>() as u64
}

/// The address of something the call writes.
pub fn out<T: ?Sized>(value: &mut T) -> u64 {
    std::ptr::from_mut(value).cast::<u8>() as u64
}

/// Makes a system call; an error is its negated number.
pub fn call(number: u64, arguments: [u64; 6]) -> i64 {
    let [a, b, c, d, e, f] = arguments;
    let result: i64;
    // SAFETY: the instruction itself clobbers what is said here and may change any memory, which the absence of
    // `nomem` says. What the call does to this process is the caller's intent (see the head of this file).
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
            in("r8") e, in("r9") f, lateout("rcx") _, lateout("r11") _);
    }
    result
}

/// Like `vfork`, `clone(CLONE_VM)` and their like need: a clone whose child starts on `stack` with `entry(argument)`
/// and ends with what it returns.
pub fn clone_on(
    flags: u64,
    stack: &mut [u8],
    tids: [u64; 2],
    entry: extern "C" fn(u64) -> i32,
    argument: u64,
) -> i64 {
    let top = (stack.as_mut_ptr() as u64 + stack.len() as u64) & !15;
    let result: i64;
    // SAFETY: the child has a stack of its own and never returns from here: it calls `entry`, then ends its thread
    // (SYS_exit is 60). The parent sees a plain system call.
    unsafe {
        asm!("syscall", "test rax, rax", "jnz 2f", "xor ebp, ebp", "mov rdi, r13", "call r12", "mov edi, eax",
            "mov eax, 60", "syscall", "ud2", "2:",
            inlateout("rax") 56u64 => result, in("rdi") flags, in("rsi") top, in("rdx") tids[0], in("r10") tids[1],
            in("r8") 0u64, in("r12") entry, in("r13") argument, lateout("rcx") _, lateout("r11") _);
    }
    result
}

global_asm!(".global conformance_restorer", "conformance_restorer:", "mov eax, 15", "syscall", "ud2");

unsafe extern "C" {
    fn conformance_restorer();
}

/// Where handlers return to; every `SA_RESTORER` needs it.
pub fn restorer() -> u64 {
    conformance_restorer as *const () as u64
}

/// The byte at an address; faults as any load does.
pub fn peek(address: u64) -> u8 {
    // SAFETY: a volatile load of plain memory; if there is none, the process gets a signal, which is what is tested.
    unsafe { (address as *const u8).read_volatile() }
}

/// Writes the byte at an address; faults as any store does.
pub fn poke(address: u64, value: u8) {
    // SAFETY: as above. Callers poke only memory that they mapped for this purpose.
    unsafe { (address as *mut u8).write_volatile(value) }
}

/// Runs the code at an address, a function without arguments.
pub fn jump(address: u64) -> u64 {
    // SAFETY: callers put code there or mean to fault.
    let function: extern "C" fn() -> u64 = unsafe { std::mem::transmute(address) };
    function()
}

/// A page of this process's own, zero at first, as words.
pub fn private_words() -> &'static [AtomicU64] {
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    let at = call(crate::nr::mmap, [0, 4096, protection as u64, flags as u64, u64::MAX, 0]);
    assert!(at > 0, "no memory");
    // SAFETY: a fresh mapping of that size, aligned to a page; atomics may be shared. A test that unmaps it ruins itself.
    unsafe { std::slice::from_raw_parts(at as *const AtomicU64, 512) }
}

/// Words that this process shares with the children it makes: one page, zero at first.
pub fn shared() -> &'static [AtomicU32] {
    shared_words(1024)
}

/// The same with room for `count` words.
pub fn shared_words(count: usize) -> &'static [AtomicU32] {
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
    let at = call(crate::nr::mmap, [0, count as u64 * 4, protection as u64, flags as u64, u64::MAX, 0]);
    assert!(at > 0, "no shared memory");
    // SAFETY: a fresh mapping of that size that is never unmapped, aligned to a page; atomics may be shared.
    unsafe { std::slice::from_raw_parts(at as *const AtomicU32, count) }
}
