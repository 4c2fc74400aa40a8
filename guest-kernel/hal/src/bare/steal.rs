//! What the host does with our CPUs: a virtual CPU is a thread of the host, and may be stopped at any instruction.
//!
//! # What Linux does
//! With KVM's *steal time* each CPU has a structure that the host writes; its byte `preempted` says that the CPU is not
//! running just now (`Documentation/virt/kvm/x86/msr.rst`). A CPU that flushes TLBs does not interrupt and wait for such a one,
//! but leaves a mark in the byte, and the host flushes before it lets the CPU run again (`KVM_FEATURE_PV_TLB_FLUSH`).
//! One that waits for a CPU that is stopped gives its time to it (`KVM_FEATURE_PV_SCHED_YIELD`).
//!
//! # What we do
//! The same. Without it, where there are more runnable virtual CPUs than processors, each flush and each wait for a lock whose
//! holder is stopped would last a time slice of the host's scheduler: milliseconds instead of nanoseconds. A CPU that
//! is halted counts as stopped, too, so that flushing does not wake it.
//!
//! **Why a mark is enough.** The flusher changes the page table, then changes `preempted` from *stopped* to *stopped,
//! flush*; the host sets *stopped* when the CPU has left guest mode, and exchanges the byte for 0 before the CPU enters it
//! again, flushing if the mark is there. Both sides use locked instructions. So either our change fails, because the CPU runs,
//! and it is interrupted; or the CPU executes nothing, walks no tables and caches nothing until it has flushed.
//!
//! Machines with one CPU never come here: neither registers are written nor exits caused.

use super::asm::{cpuid, wrmsr};
use super::layout::KERNEL_BASE;
use super::local::local;
use super::{cpu, msr};
use core::arch::asm;
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

/// `struct kvm_steal_time`, on a cache line of its own.
#[repr(C, align(64))]
struct StealTime {
    _steal: [u8; 16],
    preempted: AtomicU8,
    _pad: [u8; 47],
}

/// Values of [`StealTime::preempted`]. Set by the host: the CPU is not running.
const STOPPED: u8 = 1;
/// Set by us: flush before it runs again.
const FLUSH: u8 = 2;

static STEAL: [StealTime; cpu::MAX] =
    [const { StealTime { _steal: [0; 16], preempted: AtomicU8::new(0), _pad: [0; 47] } }; cpu::MAX];

/// What there is: bits of KVM's feature leaf.
static FEATURES: AtomicU32 = AtomicU32::new(0);
const STEAL_TIME: u32 = 1 << 5;
const TLB_FLUSH: u32 = 1 << 9;
const SCHED_YIELD: u32 = 1 << 13;

/// On the boot CPU, before others are started.
pub fn init() {
    if let Some(features) = super::time::kvm_features()
        && features & STEAL_TIME != 0
    {
        let amd = matches!(cpuid(0, 0)[1], 0x6874_7541 | 0x6f67_7948); // "Auth", "Hygo"
        VMMCALL.store(amd.into(), Ordering::Relaxed);
        FEATURES.store(features & (STEAL_TIME | TLB_FLUSH | SCHED_YIELD), Ordering::Relaxed);
        init_this();
    }
}

/// Has the host say when the running CPU is stopped.
pub fn init_this() {
    if FEATURES.load(Ordering::Relaxed) != 0 {
        let phys = (&raw const STEAL[cpu::id()]).addr() as u64 - KERNEL_BASE;
        // SAFETY: the feature bit says that the register exists. The host writes this CPU's structure, all of which may
        // be written at any time; bit 0 switches it on.
        unsafe { wrmsr(msr::KVM_STEAL_TIME, phys | 1) };
    }
}

/// Whether the host has stopped a CPU, or the CPU is halted.
fn is_stopped(cpu: usize) -> bool {
    STEAL[cpu].preempted.load(Ordering::Relaxed) & STOPPED != 0
}

/// Leaves it to the host to flush the TLB of a CPU that is stopped, before it runs again. False: the CPU is running, or
/// the host does not do that.
#[inline]
pub fn flush_when_it_runs(cpu: usize) -> bool {
    let byte = &STEAL[cpu].preempted;
    let state = byte.load(Ordering::SeqCst);
    state & STOPPED != 0
        && FEATURES.load(Ordering::Relaxed) & TLB_FLUSH != 0
        && byte.compare_exchange(state, state | FLUSH, Ordering::SeqCst, Ordering::SeqCst).is_ok()
}

/// Gives our time on the processor to `cpu`, which we wait for, if it is stopped but could run.
#[cold]
pub fn yield_to(cpu: usize) {
    if FEATURES.load(Ordering::Relaxed) & SCHED_YIELD != 0 && is_stopped(cpu) {
        hypercall(KVM_HC_SCHED_YIELD, cpu as u64);
    }
}

/// The same for whoever is stopped, each in turn: one of them may hold what we wait for.
#[cold]
pub fn yield_to_any() {
    if FEATURES.load(Ordering::Relaxed) & SCHED_YIELD == 0 {
        return;
    }
    let (me, count) = (local(), cpu::count());
    for _ in 1..count {
        let candidate = (me.yielded_to.get() + 1) % count;
        me.yielded_to.set(candidate);
        if candidate != me.id.get() && is_stopped(candidate) {
            return yield_to(candidate);
        }
    }
}

const KVM_HC_SCHED_YIELD: u64 = 11;
/// 1: the instruction is VMMCALL, 0: VMCALL.
static VMMCALL: AtomicU8 = AtomicU8::new(0);

fn hypercall(number: u64, argument: u64) {
    // SAFETY: under KVM (the feature leaf was found) both are calls of the host that change `rax` only.
    unsafe {
        if VMMCALL.load(Ordering::Relaxed) != 0 {
            asm!("xchg rbx, {0}", "vmmcall", "xchg rbx, {0}", inout(reg) argument => _, inout("rax") number => _,
                options(nostack));
        } else {
            asm!("xchg rbx, {0}", "vmcall", "xchg rbx, {0}", inout(reg) argument => _, inout("rax") number => _,
                options(nostack));
        }
    }
}
