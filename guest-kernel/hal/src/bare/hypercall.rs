//! Asking KVM to run another of our CPUs now.
//!
//! On a host with fewer CPUs than the sandboxes on it have, a CPU of ours may wait in a loop for one that is not
//! running, for as long as a time slice of the host. After a while of that we name the CPU we wait for, and KVM
//! gives it our place (`KVM_HC_SCHED_YIELD`). With a CPU each for all of ours, waits end long before.

use super::asm::cpuid;
use super::cpu;
use super::local::local;
use core::arch::asm;
use core::sync::atomic::{AtomicU8, Ordering::Relaxed};

/// Rounds of a waiting loop after which the other side has probably lost its CPU: some 10 to 50 us.
pub const PATIENCE: u32 = 512;

const KVM_HC_SCHED_YIELD: u64 = 11;
const KVM_FEATURE_PV_SCHED_YIELD: u32 = 1 << 13;

/// How the hypervisor is called here; `NO` unless it offers the call.
static METHOD: AtomicU8 = AtomicU8::new(NO);
const NO: u8 = 0;
const VMMCALL: u8 = 1;
const VMCALL: u8 = 2;

/// Looks whether KVM offers it; on the boot CPU.
pub fn init(kvm_features: u32) {
    if kvm_features & KVM_FEATURE_PV_SCHED_YIELD != 0 {
        let amd = matches!(&cpuid(0, 0)[1].to_le_bytes(), b"Auth" | b"Hygo");
        METHOD.store(if amd { VMMCALL } else { VMCALL }, Relaxed);
    }
}

/// Lets the CPU with this number run in place of this one, if it waits for a place.
#[cold]
pub fn yield_to(target: usize) {
    let (number, apic_id) = (KVM_HC_SCHED_YIELD, target as u64); // APIC ids are CPU numbers
    // SAFETY: the call changes no memory and no register but rax; rbx, which the compiler keeps for itself, is
    // put back.
    unsafe {
        match METHOD.load(Relaxed) {
            VMMCALL => asm!(
                "xchg rbx, {id}", "vmmcall", "xchg rbx, {id}",
                id = inout(reg) apic_id => _, inout("rax") number => _, options(nomem, nostack)
            ),
            VMCALL => asm!(
                "xchg rbx, {id}", "vmcall", "xchg rbx, {id}",
                id = inout(reg) apic_id => _, inout("rax") number => _, options(nomem, nostack)
            ),
            _ => {}
        }
    }
}

/// One round of waiting for whoever it is: now and then another of our CPUs gets the place, in turn.
#[inline]
pub fn relax_for_any() {
    let l = local();
    let rounds = l.waited.get().wrapping_add(1);
    l.waited.set(rounds);
    if rounds % PATIENCE == 0 {
        let count = cpu::count();
        let target = (rounds / PATIENCE) as usize % count;
        if target != l.id.get() {
            yield_to(target);
        }
    }
    core::hint::spin_loop();
}
