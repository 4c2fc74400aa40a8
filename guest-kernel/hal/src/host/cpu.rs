//! Simulated CPUs.
//!
//! A CPU is a baton: the std thread that holds it runs, all others are parked. Interrupts are posted to the
//! CPU and taken where the real kernel would take them: while user code runs, in [`wait_for_interrupt`] and
//! in [`poll_interrupts`].

use super::context;
use super::lock;
use super::thread::{check_stop, halt, spawn};
use super::world::{CpuState, Machine, Stop, world};
use crate::Interrupt;

/// The most CPUs a machine can have.
pub const MAX: usize = 64;

/// The CPU that runs the caller.
pub fn id() -> usize {
    context::cpu()
}

/// Configured CPUs.
pub fn count() -> usize {
    world().machine().cpus.len()
}

/// CPUs that have been started.
pub fn online() -> usize {
    world().machine().cpus.iter().filter(|c| c.online).count()
}

/// Starts all other CPUs and returns at once; they come up in the background.
pub fn start_secondaries() {
    let world = world();
    let start = world.hooks().start_secondary;
    for cpu in 1..count() {
        let first_start = !std::mem::replace(&mut world.machine().cpus[cpu].online, true);
        if first_start {
            spawn(world.clone(), format!("cpu{cpu}"), move || {
                context::set_cpu(cpu);
                start()
            });
        }
    }
}

/// Interrupts another CPU with [`Interrupt::Reschedule`].
pub fn send_reschedule(cpu: usize) {
    let world = world();
    let mut m = world.machine();
    if let Some(state) = m.cpus.get_mut(cpu) {
        state.reschedule = true;
        state.idle = false;
        world.changed.notify_all();
    }
}

/// Waits until an interrupt is pending, takes all that are, and returns.
pub fn wait_for_interrupt() {
    lock::assert_none_held("wait_for_interrupt");
    let world = world();
    let hooks = world.hooks();
    let cpu = id();
    let mut m = world.machine();
    let taken = loop {
        if world.is_stopped() {
            drop(m);
            halt();
        }
        let taken = take_pending(&mut m, cpu);
        if !taken.is_empty() {
            break taken;
        }
        m.cpus[cpu].idle = true;
        if m.cpus.iter().all(|c| c.idle || !c.online) {
            // Nobody can do anything before the next deadline: the clock jumps there.
            match m.cpus.iter().filter_map(|c| c.deadline).min() {
                Some(deadline) => {
                    let jump = deadline.saturating_sub(m.clock);
                    world.pass_time_of(&mut m, jump);
                    continue;
                }
                None if m.external => {}
                None => {
                    drop(m);
                    world.stop(Stop::Stuck);
                    halt();
                }
            }
        }
        m = world.changed.wait(m).unwrap();
    };
    m.cpus[cpu].idle = false;
    drop(m);
    taken.into_iter().for_each(hooks.interrupt);
}

/// Takes the pending interrupts, if any.
pub fn poll_interrupts() {
    check_stop();
    let world = world();
    let Some(hooks) = world.hooks.get() else { return };
    let taken = take_pending(&mut world.machine(), id());
    taken.into_iter().for_each(hooks.interrupt);
}

/// A hint in a loop that waits for another CPU.
pub fn relax() {
    check_stop();
    world().pass_time(100);
    std::thread::yield_now();
}

/// The feature flags as Linux names them, for `/proc/cpuinfo`.
pub fn features() -> &'static str {
    "fpu tsc msr pae cx8 apic sep cmov pat clflush mmx fxsr sse sse2 syscall nx lm"
}

/// The processor's brand string.
pub fn brand() -> &'static str {
    "Ringfence simulated CPU"
}

/// The processor's vendor string.
pub fn vendor() -> &'static str {
    "Ringfence"
}

/// `AT_HWCAP`: CPUID leaf 1, EDX.
pub fn hwcap() -> u64 {
    0x0789_03f9
}

/// `AT_HWCAP2`: bit 1 says that user code may use FSGSBASE.
pub fn hwcap2() -> u64 {
    0
}

fn take_pending(m: &mut Machine, cpu: usize) -> Vec<Interrupt> {
    let clock = m.clock;
    let Some(state) = m.cpus.get_mut(cpu) else { return Vec::new() };
    let CpuState { deadline, reschedule, devices, .. } = state;
    let mut taken: Vec<Interrupt> = devices.drain(..).map(Interrupt::Device).collect();
    if deadline.is_some_and(|d| d <= clock) {
        *deadline = None;
        taken.push(Interrupt::Timer { kernel: true });
    }
    if std::mem::take(reschedule) {
        taken.push(Interrupt::Reschedule);
    }
    taken
}

static ALL_WATCHED: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

/// Has every system call go to [`Kernel::watched_syscall`](crate::Kernel::watched_syscall), or only those of watched
/// threads again. May be called anywhere.
pub fn watch_all(on: bool) {
    ALL_WATCHED.store(on, std::sync::atomic::Ordering::SeqCst);
}

pub(super) fn all_watched() -> bool {
    ALL_WATCHED.load(std::sync::atomic::Ordering::SeqCst)
}
