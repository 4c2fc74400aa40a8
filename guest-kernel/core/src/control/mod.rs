//! From boot to the first process, and back to the VMM.

use ringfence_hal as hal;
use ringfence_hal::BootInfo;

use crate::{TaskRef, task::process::ExitStatus};

/// Reads the boot configuration and starts the first process. Runs on the boot CPU's idle task.
pub fn start(_boot: &'static BootInfo) {
    hal::power::boot_failed("this kernel cannot start a program yet")
}

/// The first process has ended: the sandbox ends with it.
pub fn first_process_ended(_task: &TaskRef, _status: ExitStatus) {
    hal::power::off()
}
