//! The clock and each CPU's timer.
//!
//! [`now`] is the time-stamp counter, scaled. Scale and offset come from kvmclock where the hypervisor says
//! the TSC is stable (Linux `Documentation/virt/kvm/x86/msr.rst`); then the structure is read once. A hypervisor
//! whose TSC is not stable updates the structure of each CPU, and it is read every time. Without kvmclock the
//! frequency is taken from CPUID, or measured against the PC's interval timer.
//!
//! **The timer** is lazy: what the kernel wants and what the hardware was told are two numbers. Moving a
//! deadline later, or dropping it, does not touch the hardware (a VM exit); the early interrupt finds
//! nothing due and sets the timer again.

use super::asm::{cpuid, inb, outb, rdtsc, wrmsr};
use super::layout::KERNEL_BASE;
use super::local::local;
use super::{apic, cpu, msr, power};
use crate::sync::Once;
use core::sync::atomic::{AtomicU64, Ordering, fence};

pub use crate::types::VdsoParams;

struct Clock {
    params: VdsoParams,
    /// TSC ticks a nanosecond, times 2^32.
    ticks: u64,
    /// Wall clock minus [`now`], in ns; 0 if unknown.
    realtime: u64,
}

static CLOCK: Once<Clock> = Once::new();

/// `struct pvclock_vcpu_time_info`, on a cache line of its own.
#[repr(C, align(64))]
struct PvClock {
    version: u32,
    _pad: u32,
    tsc_timestamp: u64,
    system_time: u64,
    mul: u32,
    shift: i8,
    flags: u8,
}
const EMPTY: PvClock =
    PvClock { version: 0, _pad: 0, tsc_timestamp: 0, system_time: 0, mul: 0, shift: 0, flags: 0 };
const TSC_STABLE: u8 = 1;

/// Written by the hypervisor.
static mut PVCLOCK: [PvClock; cpu::MAX] = [EMPTY; cpu::MAX];

/// `struct pvclock_wall_clock`.
#[repr(C, align(16))]
struct WallClock {
    version: u32,
    sec: u32,
    nsec: u32,
}
static mut WALL: WallClock = WallClock { version: 0, sec: 0, nsec: 0 };

fn phys<T>(p: *const T) -> u64 {
    p.addr() as u64 - KERNEL_BASE
}

/// Hypervisor leaf base for KVM, and its features.
pub(super) fn kvm_features() -> Option<u32> {
    if cpuid(1, 0)[2] & 1 << 31 == 0 {
        return None;
    }
    let [_, b, c, d] = cpuid(0x4000_0000, 0);
    ([b, c, d] == [0x4b4d_564b, 0x564b_4d56, 0x4d]).then(|| cpuid(0x4000_0001, 0)[0])
}

/// A consistent copy of the running CPU's kvmclock structure.
fn pvclock() -> PvClock {
    // SAFETY: inside the array.
    let p = unsafe { (&raw const PVCLOCK).cast::<PvClock>().add(cpu::id()) };
    loop {
        // SAFETY: the hypervisor writes it: volatile reads, retried while the version is odd or changes.
        unsafe {
            let version = (&raw const (*p).version).read_volatile();
            fence(Ordering::Acquire);
            let copy = p.read_volatile();
            fence(Ordering::Acquire);
            if version & 1 == 0 && version == (&raw const (*p).version).read_volatile() {
                return copy;
            }
        }
    }
}

impl PvClock {
    /// Multiplier and right shift.
    fn scale(&self) -> (u64, u32) {
        (self.mul.into(), 32u32.saturating_add_signed(-i32::from(self.shift)))
    }

    fn ns(&self, tsc: u64) -> u64 {
        let (mult, shift) = self.scale();
        self.system_time.wrapping_add(scale(tsc.wrapping_sub(self.tsc_timestamp), mult, shift))
    }
}

#[inline]
fn scale(ticks: u64, mult: u64, shift: u32) -> u64 {
    ((u128::from(ticks) * u128::from(mult)) >> shift) as u64
}

/// Starts the clock at 0, on the boot CPU.
pub(super) fn init() {
    const CLOCKSOURCE2: u32 = 1 << 3;
    const STABLE_BIT: u32 = 1 << 24;
    let kvm = kvm_features().filter(|f| f & CLOCKSOURCE2 != 0);
    if kvm.is_some() {
        init_this();
    }
    let clock = match kvm {
        Some(features) => {
            // SAFETY: the feature bit says that the register exists; the hypervisor writes our static.
            unsafe { wrmsr(msr::KVM_WALL_CLOCK, phys(&raw const WALL)) };
            // SAFETY: written before the instruction above ended, and never again.
            let wall = unsafe { (&raw const WALL).read_volatile() };
            let pv = pvclock();
            let tsc = rdtsc();
            let (tsc_mult, tsc_shift) = pv.scale();
            let stable = features & STABLE_BIT != 0 && pv.flags & TSC_STABLE != 0;
            // Stable: our own zero. Not stable: the hypervisor's time, so that all CPUs agree on it.
            let hypervisor_ns = pv.ns(tsc);
            let ns_base = if stable { 0 } else { hypervisor_ns };
            let wall_ns = u64::from(wall.sec) * 1_000_000_000 + u64::from(wall.nsec);
            Clock {
                params: VdsoParams { tsc_mult, tsc_shift, tsc_base: tsc, ns_base, stable },
                ticks: ticks_per_ns(tsc_mult, tsc_shift),
                realtime: wall_ns + hypervisor_ns - ns_base,
            }
        }
        None => {
            let khz = tsc_khz();
            // ns = ticks * 10^6 / khz
            let tsc_mult = ((1_000_000u128 << 32) / u128::from(khz)) as u64;
            Clock {
                params: VdsoParams { tsc_mult, tsc_shift: 32, tsc_base: rdtsc(), ns_base: 0, stable: true },
                ticks: ((u128::from(khz) << 32) / 1_000_000) as u64,
                realtime: 0,
            }
        }
    };
    CLOCK.call_once(|| clock);
}

/// Gives the running CPU its kvmclock structure, if there is a kvmclock.
pub(super) fn init_this() {
    if CLOCK.get().is_some_and(|c| c.params.stable) || kvm_features().is_none_or(|f| f & 1 << 3 == 0) {
        return;
    }
    // SAFETY: inside the array.
    let p = unsafe { (&raw const PVCLOCK).cast::<PvClock>().add(cpu::id()) };
    // SAFETY: the feature bit says that the register exists; bit 0 switches it on.
    unsafe { wrmsr(msr::KVM_SYSTEM_TIME, phys(p) | 1) };
}

fn ticks_per_ns(mult: u64, shift: u32) -> u64 {
    ((1u128 << (32 + shift)) / u128::from(mult.max(1))) as u64
}

/// TSC frequency, without kvmclock.
fn tsc_khz() -> u64 {
    if cpuid(1, 0)[2] & 1 << 31 != 0 && cpuid(0x4000_0000, 0)[0] >= 0x4000_0010 {
        let khz = cpuid(0x4000_0010, 0)[0];
        if khz != 0 {
            return khz.into();
        }
    }
    if cpuid(0, 0)[0] >= 0x15 {
        let [den, num, hz, _] = cpuid(0x15, 0).map(u64::from);
        if den != 0 && num != 0 && hz != 0 {
            return hz * num / den / 1000;
        }
    }
    measure_khz()
}

/// Measures the TSC against channel 2 of the interval timer (machines that are not ours).
fn measure_khz() -> u64 {
    const HZ: u64 = 1_193_182;
    const MS: u64 = 10;
    let count = (HZ * MS / 1000) as u16;
    // SAFETY: the timer and the speaker gate do not touch memory.
    unsafe {
        outb(0x61, (inb(0x61) & !2) | 1);
        outb(0x43, 0xb0); // channel 2, both bytes, count down once
        outb(0x42, count as u8);
        outb(0x42, (count >> 8) as u8);
        let start = rdtsc();
        while inb(0x61) & 0x20 == 0 {
            if rdtsc().wrapping_sub(start) > 10_000_000_000 {
                power::boot_failed("no way to know the TSC frequency");
            }
        }
        let khz = rdtsc().wrapping_sub(start) / MS;
        if khz < 10_000 {
            power::boot_failed("no way to know the TSC frequency");
        }
        khz
    }
}

fn clock() -> &'static Clock {
    match CLOCK.get() {
        Some(c) => c,
        None => power::boot_failed("clock used before it was set up"),
    }
}

/// Nanoseconds since boot: monotonic, and the same on all CPUs.
#[inline]
pub fn now() -> u64 {
    let c = clock();
    if !c.params.stable {
        return unstable_now();
    }
    // Loads before this point have happened, so that two CPUs that talk cannot see time go back.
    // SAFETY: orders instructions only.
    unsafe { core::arch::asm!("lfence", options(nostack, preserves_flags)) };
    let p = &c.params;
    p.ns_base + scale(rdtsc().saturating_sub(p.tsc_base), p.tsc_mult, p.tsc_shift)
}

#[cold]
fn unstable_now() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let ns = pvclock().ns(rdtsc());
    LAST.fetch_max(ns, Ordering::SeqCst).max(ns)
}

/// Wall clock minus [`now`], in nanoseconds; 0 if no kvmclock says it.
pub fn realtime_offset() -> u64 {
    clock().realtime
}

/// What the vDSO needs.
pub fn vdso_params() -> VdsoParams {
    clock().params
}

/// Sets this CPU's timer to an absolute [`now`] value, or off. A deadline in the past interrupts at once.
pub fn set_deadline(deadline: Option<u64>) {
    let l = local();
    let want = deadline.map_or(0, |d| d.max(1));
    l.deadline.set(want);
    let armed = l.armed.get();
    if want != 0 && (armed == 0 || armed > want) {
        arm(want);
    }
}

fn arm(deadline: u64) {
    let c = clock();
    local().armed.set(deadline);
    let (now, tsc) = (now(), rdtsc());
    let ns = deadline.saturating_sub(now);
    // One tick more, so that the rounded deadline is not before the wanted one.
    let ticks = scale(ns, c.ticks, 32) + 1;
    apic::arm_timer(tsc.saturating_add(ticks), ns.max(1));
}

/// The timer went off. True: a deadline has passed, and the timer is off now.
pub(super) fn on_timer() -> bool {
    let l = local();
    l.armed.set(0);
    let want = l.deadline.get();
    if want == 0 {
        return false;
    }
    if want <= now() {
        l.deadline.set(0);
        return true;
    }
    arm(want);
    false
}
