//! FPU and vector state of user code. The kernel itself never uses these registers.
//!
//! Each user thread has an area in the standard (not compacted) XSAVE format. The state is saved when the thread is
//! switched away from, and loaded when it runs again, unless the registers still hold it: this CPU has loaded
//! no other since, and the thread has run on no other CPU.
//!
//! XSAVEOPT may skip what has not changed since the XRSTOR from the same address: so an area is only written by
//! software right before an XRSTOR from it.

use super::asm::{cpuid, xgetbv, xsetbv};
use super::thread;
use super::user::on_fault;
use crate::InvalidFpuState;
use crate::sync::Once;
use alloc::alloc::{alloc_zeroed, dealloc};
use core::alloc::Layout;
use core::arch::naked_asm;
use core::ptr::NonNull;

/// x87, SSE, AVX, and the three of AVX-512. Not: MPX (dead), PKRU (we have no keys), AMX (8 KiB for each thread).
const KNOWN: u64 = 0b1110_0111;
const X87_SSE: u64 = 0b11;

/// Offsets in the area (Intel SDM volume 1, 13.4).
const CONTROL_WORD: usize = 0;
const MXCSR: usize = 24;
const MXCSR_MASK: usize = 28;
const HEADER: usize = 512;
const HEADER_END: usize = 576;
const INITIAL_CONTROL_WORD: u16 = 0x37f;
const INITIAL_MXCSR: u32 = 0x1f80;

struct Features {
    xcr0: u64,
    size: usize,
    /// XSAVEOPT exists.
    optimized: bool,
}

static FEATURES: Once<Features> = Once::new();

fn info() -> &'static Features {
    match FEATURES.get() {
        Some(f) => f,
        None => super::power::boot_failed("FPU used before it was set up"),
    }
}

/// Finds out what the CPU has, on the boot CPU.
pub(super) fn init() {
    let [lo, _, _, hi] = cpuid(0xd, 0);
    let xcr0 = (u64::from(hi) << 32 | u64::from(lo)) & KNOWN;
    set_xcr0(xcr0);
    // EBX: bytes for what is enabled now.
    let size = cpuid(0xd, 0)[1] as usize;
    let optimized = cpuid(0xd, 1)[0] & 1 != 0;
    FEATURES.call_once(|| Features { xcr0, size: size.max(HEADER_END), optimized });
    // The mask is in the image the CPU writes; 0 means the oldest CPUs' one.
    let area = match Area::new() {
        Some(a) => a,
        None => super::power::boot_failed("no memory"),
    };
    // SAFETY: the area has the enabled components' size and alignment.
    unsafe { xsave(area.0.as_ptr(), xcr0) };
    let mask = area.u32_at(MXCSR_MASK);
    drop(area);
    MASK.call_once(|| if mask == 0 { 0xffbf } else { mask });
}

/// The MXCSR bits that exist.
static MASK: Once<u32> = Once::new();

/// Enables the same components on the running CPU.
pub(super) fn init_this() {
    set_xcr0(info().xcr0);
}

fn set_xcr0(want: u64) {
    // SAFETY: `cpu::init_this` has set OSXSAVE; the value is a subset of what CPUID offers and has x87 and SSE.
    unsafe {
        // The VMM may have set it already; writing it is an exit.
        if xgetbv() != want {
            xsetbv(want | X87_SSE);
        }
    }
}

/// An XSAVE area on the heap.
pub(super) struct Area(NonNull<u8>);

// SAFETY: plain memory.
unsafe impl Send for Area {}

impl Area {
    fn layout() -> Layout {
        // The size is some KiB, so this cannot fail.
        Layout::from_size_align(info().size, 64).unwrap_or(Layout::new::<[u64; 512]>())
    }

    /// An area with the processor's initial state.
    pub(super) fn new() -> Option<Self> {
        // SAFETY: the size is not zero.
        let mut a = Self(NonNull::new(unsafe { alloc_zeroed(Self::layout()) })?);
        a.set_initial();
        Some(a)
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: allocated with this size.
        unsafe { core::slice::from_raw_parts_mut(self.0.as_ptr(), info().size) }
    }

    fn u32_at(&self, off: usize) -> u32 {
        debug_assert!(off + 4 <= HEADER_END);
        // SAFETY: the area has at least the legacy part and the header.
        unsafe { self.0.as_ptr().add(off).cast::<u32>().read_unaligned() }
    }

    fn set_initial(&mut self) {
        let b = self.bytes();
        b.fill(0);
        b[CONTROL_WORD..CONTROL_WORD + 2].copy_from_slice(&INITIAL_CONTROL_WORD.to_le_bytes());
        b[MXCSR..MXCSR + 4].copy_from_slice(&INITIAL_MXCSR.to_le_bytes());
    }

    /// Saves the live registers.
    pub(super) fn save(&mut self) {
        let f = info();
        // SAFETY: size and alignment fit the enabled components.
        unsafe {
            if f.optimized {
                xsaveopt(self.0.as_ptr(), f.xcr0);
            } else {
                xsave(self.0.as_ptr(), f.xcr0);
            }
        }
    }

    /// Loads the registers.
    pub(super) fn load(&self) -> Result<(), InvalidFpuState> {
        // SAFETY: as above; a state the CPU refuses is a fault in the exception table.
        if unsafe { xrstor(self.0.as_ptr(), info().xcr0) } == 0 { Ok(()) } else { Err(InvalidFpuState) }
    }

    pub(super) fn copy_from(&mut self, other: &mut Self) {
        self.bytes().copy_from_slice(other.bytes());
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: allocated with the same layout.
        unsafe { dealloc(self.0.as_ptr(), Self::layout()) };
    }
}

/// # Safety
/// `area` is an XSAVE area for `mask`.
#[unsafe(naked)]
unsafe extern "C" fn xsave(area: *mut u8, mask: u64) {
    naked_asm!("mov eax, esi", "mov rdx, rsi", "shr rdx, 32", "xsave64 [rdi]", "ret")
}

/// # Safety
/// As for [`xsave`]; the CPU has XSAVEOPT.
#[unsafe(naked)]
unsafe extern "C" fn xsaveopt(area: *mut u8, mask: u64) {
    naked_asm!("mov eax, esi", "mov rdx, rsi", "shr rdx, 32", "xsaveopt64 [rdi]", "ret")
}

/// Returns 1 if the CPU refused the state.
///
/// # Safety
/// As for [`xsave`].
#[unsafe(naked)]
unsafe extern "C" fn xrstor(area: *const u8, mask: u64) -> u32 {
    naked_asm!(
        "mov eax, esi",
        "mov rdx, rsi",
        "shr rdx, 32",
        "2: xrstor64 [rdi]",
        "xor eax, eax",
        "ret",
        "3:",
        "mov eax, 1",
        "ret",
        on_fault!("2b", "3b", "1"),
    )
}

/// Bytes of the XSAVE area in standard format.
pub fn size() -> usize {
    info().size
}

/// The enabled state components: XCR0.
pub fn features() -> u64 {
    info().xcr0
}

/// Writes the current thread's live state to the first [`size`] bytes of `buf`.
///
/// # Panics
/// If `buf` is shorter, or the current thread is not a user thread (the methods below, too).
pub fn save(buf: &mut [u8]) {
    thread::with_current_fpu(|area| {
        area.save();
        buf[..size()].copy_from_slice(area.bytes());
    });
}

/// Whether [`restore`] would take this image, which a program may have written.
pub fn check(buf: &[u8]) -> Result<(), InvalidFpuState> {
    let buf = buf.get(..size()).ok_or(InvalidFpuState)?;
    let word = |off: usize| u32::from_le_bytes([buf[off], buf[off + 1], buf[off + 2], buf[off + 3]]);
    let components = u64::from(word(HEADER)) | u64::from(word(HEADER + 4)) << 32;
    let mask = MASK.get().copied().unwrap_or(0xffbf);
    if word(MXCSR) & !mask != 0
        || components & !features() != 0
        || buf[HEADER + 8..HEADER_END].iter().any(|b| *b != 0)
    {
        return Err(InvalidFpuState);
    }
    Ok(())
}

/// Loads a state that a program may have written. Refused, with the live state unchanged, if the processor would
/// refuse it: reserved MXCSR bits, components outside [`features`], a compacted format, reserved header
/// bytes; or too short.
pub fn restore(buf: &[u8]) -> Result<(), InvalidFpuState> {
    check(buf)?;
    let buf = buf.get(..size()).ok_or(InvalidFpuState)?;
    thread::with_current_fpu(|area| {
        area.bytes().copy_from_slice(buf);
        let loaded = area.load();
        if loaded.is_err() {
            // Cannot be after the checks; the registers may be half loaded.
            area.set_initial();
            let _ = area.load();
        }
        loaded
    })
}

/// Loads the processor's initial state.
pub fn reset() {
    thread::with_current_fpu(|area| {
        area.set_initial();
        // The initial state is valid.
        let _ = area.load();
    });
}
