//! The CPUID the guest sees: what the host's KVM supports, minus what a sandbox must not have, plus topology
//! and clock.
//!
//! Removed: nested virtualization (SVM, VMX), because a sandbox has no business driving it and it is the
//! largest piece of KVM a guest can reach; the performance counters. Added: the TSC-deadline timer (KVM has it
//! with its in-kernel APIC but leaves saying so to us), the frequency leaf 0x4000_0010 (VMware's convention,
//! read by Linux and by our guest) and one socket with as many cores as vCPUs, APIC ids counting from 0.

use kvm_bindings::{CpuId, kvm_cpuid_entry2};

use super::registers::Features;

const X2APIC: u32 = 1 << 21;
const TSC_DEADLINE: u32 = 1 << 24;
const XSAVE: u32 = 1 << 26;
const OSXSAVE: u32 = 1 << 27;
const HYPERVISOR: u32 = 1 << 31;
const VMX: u32 = 1 << 5;
const SVM: u32 = 1 << 2;
const HTT: u32 = 1 << 28;
const GIGABYTE_PAGES: u32 = 1 << 26;
const KVM_LEAF: u32 = 0x4000_0000;
const FREQUENCY_LEAF: u32 = 0x4000_0010;
/// x87 and SSE, AVX, and the three components of AVX-512.
const AVX: u64 = 0b111;
const AVX512: u64 = 0b111 << 5;
/// KVM's in-kernel APIC timer runs at 1 GHz.
const APIC_BUS_KHZ: u32 = 1_000_000;

/// Turns what the host supports into a template for all vCPUs; returns the features the boot code asks for.
pub fn template(cpuid: &mut CpuId, cpus: u8, tsc_khz: u32) -> Features {
    let mut features = Features::default();
    let mut has_frequency = false;
    let bits = apic_id_bits(cpus);
    for e in cpuid.as_mut_slice() {
        match (e.function, e.index) {
            (1, _) => {
                e.ecx = (e.ecx | X2APIC | TSC_DEADLINE | HYPERVISOR) & !(VMX | OSXSAVE);
                e.edx = if cpus > 1 { e.edx | HTT } else { e.edx & !HTT };
                e.ebx = (e.ebx & 0xff00_ffff) | u32::from(cpus) << 16;
                if e.ecx & XSAVE != 0 {
                    features.xcr0 = 1;
                }
            }
            // Cores that share a cache, and cores in the package.
            (4, _) if e.eax & 0x1f != 0 => {
                let level = e.eax >> 5 & 7;
                let sharing = if level >= 3 { u32::from(cpus) - 1 } else { 0 };
                e.eax = (e.eax & 0x3fff) | sharing << 14 | (u32::from(cpus) - 1) << 26;
            }
            (0xa, _) => (e.eax, e.ebx, e.ecx, e.edx) = (0, 0, 0, 0),
            (0xb | 0x1f, level) => topology_level(e, level, cpus, bits),
            (0xd, 0) => {
                let supported = u64::from(e.eax) | u64::from(e.edx) << 32;
                let avx512 = if supported & AVX512 == AVX512 { AVX512 } else { 0 };
                features.xcr0 = features.xcr0.min(1) * (supported & AVX | avx512);
            }
            (KVM_LEAF, _) => e.eax = FREQUENCY_LEAF,
            (FREQUENCY_LEAF, _) => {
                (e.eax, e.ebx) = (tsc_khz, APIC_BUS_KHZ);
                has_frequency = true;
            }
            (0x8000_0001, _) => {
                e.ecx &= !SVM;
                features.gigabyte_pages = e.edx & GIGABYTE_PAGES != 0;
            }
            (0x8000_0008, _) => e.ecx = (e.ecx & !0xf0ff) | bits << 12 | (u32::from(cpus) - 1),
            (0x8000_000a, _) => (e.eax, e.ebx, e.ecx, e.edx) = (0, 0, 0, 0),
            _ => {}
        }
    }
    if !has_frequency && tsc_khz != 0 {
        let leaf = kvm_cpuid_entry2 {
            function: FREQUENCY_LEAF,
            eax: tsc_khz,
            ebx: APIC_BUS_KHZ,
            ..Default::default()
        };
        // Full only if a future KVM reports more leaves than the array holds; the guest then calibrates.
        let _ = cpuid.push(leaf);
    }
    features
}

/// Fills in what differs from one vCPU to the next.
pub fn for_vcpu(cpuid: &mut CpuId, id: u8) {
    for e in cpuid.as_mut_slice() {
        match e.function {
            1 => e.ebx = (e.ebx & 0x00ff_ffff) | u32::from(id) << 24,
            0xb | 0x1f => e.edx = id.into(),
            0x8000_001e => {
                e.eax = id.into();
                e.ebx = (e.ebx & !0xff) | u32::from(id);
            }
            _ => {}
        }
    }
}

fn apic_id_bits(cpus: u8) -> u32 {
    u32::from(cpus).next_power_of_two().trailing_zeros()
}

/// One thread a core, all cores in one package.
fn topology_level(e: &mut kvm_cpuid_entry2, level: u32, cpus: u8, bits: u32) {
    (e.eax, e.ebx, e.ecx) = match level {
        0 => (0, 1, 1 << 8),
        1 => (bits, u32::from(cpus), 2 << 8 | 1),
        n => (0, 0, n),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32, index: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            function,
            index,
            eax: u32::MAX,
            ebx: u32::MAX,
            ecx: u32::MAX,
            edx: u32::MAX,
            ..Default::default()
        }
    }

    #[test]
    fn nothing_nested_and_every_id_right() {
        let leaves = [
            entry(1, 0),
            entry(0xb, 0),
            entry(0xb, 1),
            entry(0xd, 0),
            entry(KVM_LEAF, 0),
            entry(0x8000_0001, 0),
        ];
        let mut cpuid = CpuId::from_entries(&leaves).unwrap();
        let features = template(&mut cpuid, 3, 2_000_000);
        for_vcpu(&mut cpuid, 2);
        let find = |f, i| *cpuid.as_slice().iter().find(|e| e.function == f && e.index == i).unwrap();
        assert_eq!(find(1, 0).ecx & (VMX | TSC_DEADLINE | X2APIC), TSC_DEADLINE | X2APIC);
        assert_eq!(find(1, 0).ebx >> 16, 2 << 8 | 3);
        assert_eq!((find(0xb, 1).eax, find(0xb, 1).ebx, find(0xb, 1).edx), (2, 3, 2));
        assert_eq!(find(0x8000_0001, 0).ecx & SVM, 0);
        assert_eq!((find(FREQUENCY_LEAF, 0).eax, find(KVM_LEAF, 0).eax), (2_000_000, FREQUENCY_LEAF));
        assert_eq!(features.xcr0, AVX | AVX512);
        assert!(features.gigabyte_pages);
    }
}
