//! The processors: numbers, features, control registers, waiting.

use super::asm::{self, cpuid, rdmsr, wrmsr};
use super::local::{self, local};
use super::{apic, msr, smp};
use crate::sync::Once;
use alloc::string::String;
use core::arch::asm;
use core::sync::atomic::{AtomicUsize, Ordering};

/// Most CPUs a machine can have: a CPU mask is one word.
pub const MAX: usize = 64;

static COUNT: AtomicUsize = AtomicUsize::new(1);

mod cr0 {
    pub const MP: u64 = 1 << 1;
    pub const EM: u64 = 1 << 2;
    pub const TS: u64 = 1 << 3;
    pub const NE: u64 = 1 << 5;
    pub const WP: u64 = 1 << 16;
    pub const AM: u64 = 1 << 18;
}
mod cr4 {
    pub const MCE: u64 = 1 << 6;
    pub const PGE: u64 = 1 << 7;
    pub const OSFXSR: u64 = 1 << 9;
    pub const OSXMMEXCPT: u64 = 1 << 10;
    pub const UMIP: u64 = 1 << 11;
    pub const FSGSBASE: u64 = 1 << 16;
    pub const OSXSAVE: u64 = 1 << 18;
    pub const SMEP: u64 = 1 << 20;
    pub const SMAP: u64 = 1 << 21;
}
mod efer {
    pub const SCE: u64 = 1;
    pub const NXE: u64 = 1 << 11;
}

/// Protection features and what user code may use, on the running CPU. Every CPU comes here first.
pub(super) fn init_this() {
    let [_, ebx7, ecx7, _] = cpuid(7, 0);
    let mut v = asm::cr4() | cr4::MCE | cr4::PGE | cr4::OSFXSR | cr4::OSXMMEXCPT;
    if cpuid(1, 0)[2] & 1 << 26 == 0 || cpuid(0x8000_0001, 0)[3] & 1 << 20 == 0 {
        super::power::boot_failed("the CPU has no XSAVE or no NX");
    }
    v |= cr4::OSXSAVE;
    for (have, bit) in [
        (ebx7 & 1 << 7, cr4::SMEP),
        (ebx7 & 1 << 20, cr4::SMAP),
        (ecx7 & 1 << 2, cr4::UMIP),
        (ebx7 & 1, cr4::FSGSBASE),
    ] {
        if have != 0 {
            v |= bit;
        }
    }
    // SAFETY: each bit is either architectural in long mode or was found in CPUID; no user page is mapped yet,
    // and user copies close what SMAP closes.
    unsafe {
        asm::set_cr4(v);
        let c = asm::cr0() & !(cr0::EM | cr0::TS);
        asm::set_cr0(c | cr0::MP | cr0::NE | cr0::WP | cr0::AM);
        wrmsr(msr::EFER, rdmsr(msr::EFER) | efer::SCE | efer::NXE);
    }
}

/// Does this machine have SMAP?
pub(super) fn has_smap() -> bool {
    cpuid(7, 0)[1] & 1 << 20 != 0
}

/// May RDFSBASE and its kin be used?
#[inline]
pub(super) fn has_fsgsbase() -> bool {
    FSGSBASE.load(Ordering::Relaxed) != 0
}
static FSGSBASE: AtomicUsize = AtomicUsize::new(0);

/// Takes over the configured number of CPUs.
pub(super) fn configure(count: usize) {
    COUNT.store(count.clamp(1, MAX), Ordering::Relaxed);
    FSGSBASE.store((cpuid(7, 0)[1] & 1) as usize, Ordering::Relaxed);
}

/// The running CPU's number, from 0. A thread may run elsewhere after its next switch.
#[inline]
pub fn id() -> usize {
    local().id.get()
}

/// Configured CPUs.
pub fn count() -> usize {
    COUNT.load(Ordering::Relaxed)
}

/// CPUs that run.
pub fn online() -> usize {
    local::online()
}

/// Starts all other CPUs and returns at once; they come up in the background.
pub fn start_secondaries() {
    smp::start_all();
}

/// Interrupts another CPU with [`Interrupt::Reschedule`](crate::Interrupt).
pub fn send_reschedule(cpu: usize) {
    if local::of(cpu).is_some() {
        apic::send(cpu, apic::RESCHEDULE_VECTOR);
    }
}

/// Waits until an interrupt is pending, takes all that are, and returns.
///
/// An interrupt that became pending before the call ends the wait at once: nothing can slip in between a
/// check made before the call and the halt.
pub fn wait_for_interrupt() {
    // SAFETY: interrupts are taken on this stack, which no lock holder uses; `sti` takes effect after `hlt` began.
    unsafe { asm!("sti", "hlt", "cli", options(nostack)) };
}

/// Takes the pending interrupts, if any.
pub fn poll_interrupts() {
    // SAFETY: as above; the `nop` is the instruction in whose shadow nothing is taken.
    unsafe { asm!("sti", "nop", "nop", "cli", options(nostack)) };
}

/// A hint in a loop that waits for another CPU. Answers TLB flush requests meanwhile.
pub fn relax() {
    super::lock::contended();
}

/// `AT_HWCAP`: CPUID leaf 1, EDX.
pub fn hwcap() -> u64 {
    cpuid(1, 0)[3].into()
}

/// `AT_HWCAP2`: bit 1 says that user code may use FSGSBASE.
pub fn hwcap2() -> u64 {
    u64::from(has_fsgsbase()) << 1
}

/// The processor's vendor string.
pub fn vendor() -> &'static str {
    static VENDOR: Once<String> = Once::new();
    VENDOR.call_once(|| {
        let [_, b, c, d] = cpuid(0, 0);
        text(&[b, d, c])
    })
}

/// The processor's brand string.
pub fn brand() -> &'static str {
    static BRAND: Once<String> = Once::new();
    BRAND.call_once(|| {
        let mut words = [0; 12];
        if cpuid(0x8000_0000, 0)[0] >= 0x8000_0004 {
            for (leaf, out) in (0x8000_0002..).zip(words.chunks_exact_mut(4)) {
                out.copy_from_slice(&cpuid(leaf, 0));
            }
        }
        text(&words)
    })
}

/// ASCII in register values.
fn text(words: &[u32]) -> String {
    let bytes = words.iter().flat_map(|w| w.to_le_bytes());
    let s: String = bytes.take_while(|b| *b != 0).filter(u8::is_ascii).map(char::from).collect();
    s.trim().into()
}

/// The feature flags as Linux names them, for `/proc/cpuinfo`.
pub fn features() -> &'static str {
    static FEATURES: Once<String> = Once::new();
    FEATURES.call_once(|| {
        let leaves = [cpuid(1, 0), cpuid(7, 0), cpuid(0x8000_0001, 0), cpuid(0xd, 1)];
        let mut s = String::new();
        for (leaf, register, bit, name) in FLAGS {
            if leaves[*leaf as usize][*register as usize] >> bit & 1 != 0 {
                if !s.is_empty() {
                    s.push(' ');
                }
                s.push_str(name);
            }
        }
        s
    })
}

const A: u8 = 0;
const B: u8 = 1;
const C: u8 = 2;
const D: u8 = 3;
const L1: u8 = 0;
const L7: u8 = 1;
const EXT: u8 = 2;
const XSAVE: u8 = 3;

/// Leaf, register, bit, and Linux's name (`arch/x86/include/asm/cpufeatures.h`). What our kernel does not enable for
/// user code is left out.
#[rustfmt::skip]
const FLAGS: &[(u8, u8, u8, &str)] = &[
    (L1, D, 0, "fpu"), (L1, D, 4, "tsc"), (L1, D, 5, "msr"), (L1, D, 6, "pae"), (L1, D, 8, "cx8"),
    (L1, D, 9, "apic"), (L1, D, 13, "pge"), (L1, D, 15, "cmov"), (L1, D, 16, "pat"), (L1, D, 19, "clflush"),
    (L1, D, 23, "mmx"), (L1, D, 24, "fxsr"), (L1, D, 25, "sse"), (L1, D, 26, "sse2"), (L1, D, 28, "ht"),
    (EXT, D, 11, "syscall"), (EXT, D, 20, "nx"), (EXT, D, 26, "pdpe1gb"), (EXT, D, 27, "rdtscp"),
    (EXT, D, 29, "lm"), (L1, C, 0, "pni"), (L1, C, 1, "pclmulqdq"), (L1, C, 9, "ssse3"), (L1, C, 12, "fma"),
    (L1, C, 13, "cx16"), (L1, C, 19, "sse4_1"), (L1, C, 20, "sse4_2"), (L1, C, 21, "x2apic"),
    (L1, C, 22, "movbe"), (L1, C, 23, "popcnt"), (L1, C, 24, "tsc_deadline_timer"), (L1, C, 25, "aes"),
    (L1, C, 26, "xsave"), (L1, C, 28, "avx"), (L1, C, 29, "f16c"), (L1, C, 30, "rdrand"),
    (L1, C, 31, "hypervisor"), (EXT, C, 0, "lahf_lm"), (EXT, C, 5, "abm"), (EXT, C, 6, "sse4a"),
    (EXT, C, 8, "3dnowprefetch"), (L7, B, 0, "fsgsbase"), (L7, B, 3, "bmi1"), (L7, B, 5, "avx2"),
    (L7, B, 7, "smep"), (L7, B, 8, "bmi2"), (L7, B, 9, "erms"), (L7, B, 16, "avx512f"),
    (L7, B, 17, "avx512dq"), (L7, B, 18, "rdseed"), (L7, B, 19, "adx"), (L7, B, 20, "smap"),
    (L7, B, 21, "avx512ifma"), (L7, B, 23, "clflushopt"), (L7, B, 24, "clwb"), (L7, B, 28, "avx512cd"),
    (L7, B, 29, "sha_ni"), (L7, B, 30, "avx512bw"), (L7, B, 31, "avx512vl"), (XSAVE, A, 0, "xsaveopt"),
    (XSAVE, A, 1, "xsavec"), (XSAVE, A, 2, "xgetbv1"), (L7, C, 1, "avx512vbmi"), (L7, C, 2, "umip"),
    (L7, C, 6, "avx512_vbmi2"), (L7, C, 8, "gfni"), (L7, C, 9, "vaes"), (L7, C, 10, "vpclmulqdq"),
    (L7, C, 11, "avx512_vnni"), (L7, C, 12, "avx512_bitalg"), (L7, C, 14, "avx512_vpopcntdq"),
    (L7, C, 22, "rdpid"), (L7, D, 4, "fsrm"),
];

static ALL_WATCHED: core::sync::atomic::AtomicBool = core::sync::atomic::AtomicBool::new(false);

/// Has every system call go to [`Kernel::watched_syscall`](crate::Kernel::watched_syscall), or only those of watched
/// threads again. May be called anywhere.
pub fn watch_all(on: bool) {
    use core::sync::atomic::Ordering::SeqCst;
    ALL_WATCHED.store(on, SeqCst);
    if on {
        // Switching it off takes effect at each CPU's next watched call.
        super::local::all().for_each(|l| l.watched.store(1, SeqCst));
    }
}

pub(super) fn all_watched() -> bool {
    ALL_WATCHED.load(core::sync::atomic::Ordering::SeqCst)
}
