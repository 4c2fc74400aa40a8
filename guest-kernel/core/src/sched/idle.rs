//! What a CPU does when there is nothing to do.

use ringfence_hal as hal;

use super::runqueue::{self, Leave};
use crate::{Sentry, TaskRef, task::Task};

/// How long an idle CPU looks for work before it halts, in rounds of `relax`. A halt and the wake-up from it
/// are VM exits; a wake-up within this time costs none.
const SPIN_ROUNDS: u32 = 200;

/// Turns the boot context of this CPU into its idle task.
pub fn adopt_boot_cpu() -> TaskRef {
    let idle = hal::Thread::<Sentry>::adopt_idle(Task::idle(hal::cpu::id()));
    runqueue::adopt(idle.clone());
    idle
}

/// The idle task of each CPU.
pub fn idle_loop(idle: &TaskRef) -> ! {
    let cpu = hal::cpu::id();
    loop {
        while runqueue::pull() {
            runqueue::schedule(idle, Leave::Kernel);
            // Whatever keeps it busy here, others' requests and its own timers are not to wait for that.
            hal::cpu::poll_interrupts();
        }
        runqueue::set_idle(cpu, true);
        let mut found = false;
        for _ in 0..SPIN_ROUNDS {
            hal::cpu::relax();
            if runqueue::has_work() {
                found = true;
                break;
            }
        }
        // Whoever queues here after this look sends an interrupt, and a pending interrupt ends the halt.
        if !found && !runqueue::pull() {
            hal::cpu::wait_for_interrupt();
        }
        runqueue::set_idle(cpu, false);
    }
}
