//! The local APIC: inter-processor interrupts and the timer.
//!
//! x2APIC mode where the CPU has it, which KVM always gives; the memory-mapped mode otherwise (QEMU's TCG).
//! The same for the timer: TSC-deadline, else one-shot with a measured frequency.

use super::asm::{cpuid, rdmsr, wrmsr};
use super::layout::window_ptr;
use super::paging::{self, Caching};
use super::{msr, power, time};
use crate::sync::Once;
use core::sync::atomic::{AtomicU64, Ordering};

/// First vector of device interrupts: GSI n is vector 0x30 + n.
pub const DEVICE_VECTORS: u8 = 0x30;
/// GSIs of the I/O APIC.
pub const GSIS: u8 = 24;
/// The timer.
pub const TIMER_VECTOR: u8 = 0xec;
/// TLB flush requests.
pub const FLUSH_VECTOR: u8 = 0xfc;
/// [`crate::cpu::send_reschedule`].
pub const RESCHEDULE_VECTOR: u8 = 0xfd;
/// Needs no end-of-interrupt.
pub const SPURIOUS_VECTOR: u8 = 0xff;

/// Register offsets of the memory-mapped mode; the x2APIC register is 0x800 + offset / 16.
mod reg {
    pub const TASK_PRIORITY: u32 = 0x80;
    pub const END_OF_INTERRUPT: u32 = 0xb0;
    pub const SPURIOUS: u32 = 0xf0;
    pub const COMMAND: u32 = 0x300;
    pub const COMMAND_HIGH: u32 = 0x310;
    pub const LVT_TIMER: u32 = 0x320;
    pub const LVT_LINT0: u32 = 0x350;
    pub const LVT_LINT1: u32 = 0x360;
    pub const LVT_ERROR: u32 = 0x370;
    pub const INITIAL_COUNT: u32 = 0x380;
    pub const CURRENT_COUNT: u32 = 0x390;
    pub const DIVIDE: u32 = 0x3e0;
}
const MASKED: u32 = 1 << 16;
const LVT_TSC_DEADLINE: u32 = 2 << 17;
const DIVIDE_BY_16: u32 = 3;

/// How the registers are reached.
#[derive(Clone, Copy)]
enum Mode {
    X2,
    /// Physical address of the register page.
    Memory(u64),
}

static MODE: Once<Mode> = Once::new();
/// Timer ticks in a millisecond, for the one-shot timer; 0: TSC-deadline.
static TICKS: AtomicU64 = AtomicU64::new(0);

fn mode() -> Mode {
    match MODE.get() {
        Some(m) => *m,
        None => power::boot_failed("APIC used before it was set up"),
    }
}

fn write(r: u32, v: u32) {
    match mode() {
        // SAFETY: a register of the APIC, which does not touch memory.
        Mode::X2 => unsafe { wrmsr(msr::X2APIC + (r >> 4), v.into()) },
        // SAFETY: as above; `init` has mapped the page.
        Mode::Memory(base) => unsafe { window_ptr::<u32>(base + u64::from(r)).write_volatile(v) },
    }
}

fn read(r: u32) -> u32 {
    match mode() {
        // SAFETY: as in `write`.
        Mode::X2 => unsafe { rdmsr(msr::X2APIC + (r >> 4)) as u32 },
        // SAFETY: as in `write`.
        Mode::Memory(base) => unsafe { window_ptr::<u32>(base + u64::from(r)).read_volatile() },
    }
}

/// Chooses the mode, and sets up the boot CPU's APIC.
pub fn init() {
    MODE.call_once(|| {
        if cpuid(1, 0)[2] & 1 << 21 != 0 {
            return Mode::X2;
        }
        // SAFETY: every CPU with an APIC has it.
        let base = unsafe { rdmsr(msr::APIC_BASE) } & 0xf_ffff_f000;
        if paging::map_region(base..base + 4096, Caching::Device).is_err() {
            power::boot_failed("the APIC's page cannot be mapped");
        }
        Mode::Memory(base)
    });
    init_this();
}

/// Switches the running CPU's APIC on, with only our own interrupts let through.
pub fn init_this() {
    const ENABLE: u64 = 1 << 11;
    const EXTENDED: u64 = 1 << 10;
    let bits = if matches!(mode(), Mode::X2) { ENABLE | EXTENDED } else { ENABLE };
    // SAFETY: switches the APIC on in the mode the CPU has.
    unsafe { wrmsr(msr::APIC_BASE, rdmsr(msr::APIC_BASE) | bits) };
    write(reg::SPURIOUS, 0x100 | u32::from(SPURIOUS_VECTOR));
    write(reg::TASK_PRIORITY, 0);
    // The legacy interrupt controller and NMI pins.
    write(reg::LVT_LINT0, MASKED);
    write(reg::LVT_LINT1, MASKED);
    write(reg::LVT_ERROR, MASKED);
}

/// Chooses the kind of timer, on the boot CPU; the clock runs.
pub fn init_timer() {
    if cpuid(1, 0)[2] & 1 << 24 == 0 {
        const MEASURE_NS: u64 = 2_000_000;
        write(reg::DIVIDE, DIVIDE_BY_16);
        write(reg::LVT_TIMER, MASKED);
        write(reg::INITIAL_COUNT, u32::MAX);
        let end = time::now() + MEASURE_NS;
        while time::now() < end {
            core::hint::spin_loop();
        }
        let ticks = u32::MAX - read(reg::CURRENT_COUNT);
        write(reg::INITIAL_COUNT, 0);
        TICKS.store(u64::from(ticks) * 1_000_000 / MEASURE_NS, Ordering::Relaxed);
    }
    init_timer_this();
}

/// Sets the running CPU's timer to our vector, off.
pub fn init_timer_this() {
    if TICKS.load(Ordering::Relaxed) == 0 {
        write(reg::LVT_TIMER, LVT_TSC_DEADLINE | u32::from(TIMER_VECTOR));
        // The mode must be set before the deadline is written (SDM 3, 11.5.4.1).
        fence();
    } else {
        write(reg::DIVIDE, DIVIDE_BY_16);
        write(reg::LVT_TIMER, TIMER_VECTOR.into());
    }
}

/// Sets this CPU's timer to go off at the TSC value, in `ns` nanoseconds from now.
pub fn arm_timer(tsc: u64, ns: u64) {
    match TICKS.load(Ordering::Relaxed) {
        // SAFETY: the CPU has the register; only this CPU's timer changes. 0 would switch it off.
        0 => unsafe { wrmsr(msr::TSC_DEADLINE, tsc.max(1)) },
        ticks => {
            let count = (u128::from(ns) * u128::from(ticks) / 1_000_000).clamp(1, u128::from(u32::MAX));
            write(reg::INITIAL_COUNT, count as u32);
        }
    }
}

/// A write to an x2APIC register may pass stores before it; the target must see those.
fn fence() {
    // SAFETY: orders memory accesses only.
    unsafe { core::arch::asm!("mfence", "lfence", options(nostack, preserves_flags)) };
}

fn command(cpu: usize, low: u32) {
    match mode() {
        Mode::X2 => {
            fence();
            // SAFETY: sends an interrupt that the target's IDT or start-up code handles.
            unsafe { wrmsr(msr::X2APIC + (reg::COMMAND >> 4), (cpu as u64) << 32 | u64::from(low)) };
        }
        Mode::Memory(_) => {
            const BUSY: u32 = 1 << 12;
            while read(reg::COMMAND) & BUSY != 0 {
                core::hint::spin_loop();
            }
            write(reg::COMMAND_HIGH, (cpu as u32) << 24);
            write(reg::COMMAND, low);
        }
    }
}

/// Sends an interrupt to a CPU.
pub fn send(cpu: usize, vector: u8) {
    command(cpu, vector.into());
}

/// Resets a CPU and starts it at a page below 1 MiB.
pub fn start_cpu(cpu: usize, page: u8) {
    const INIT: u32 = 5 << 8 | 1 << 14;
    const START: u32 = 6 << 8 | 1 << 14;
    command(cpu, INIT);
    command(cpu, START | u32::from(page));
}

/// The interrupt in service is done.
#[inline]
pub fn end_of_interrupt() {
    write(reg::END_OF_INTERRUPT, 0);
}
