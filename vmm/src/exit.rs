//! Exit codes of the command. `docs/cli.md` has the same table.
//!
//! Codes up to 118 are always the program's own. The program can of course exit with one of ours, too; the
//! sentence on stderr that starts with `ringfence:` tells the two apart.

use ringfence_protocol::{ExitStatus, power};

use crate::machine::vcpu::Stop;

/// A thread of the VMM made a system call that its filter forbids (seccomp/README.md).
pub const FORBIDDEN_CALL: u8 = ringfence_seccomp::VIOLATED;
/// The guest kernel panicked.
pub const GUEST_PANIC: u8 = 120;
/// The machine or the VMM failed while running (triple fault, KVM error, broken control channel).
pub const MACHINE_FAILED: u8 = 121;
/// This host cannot run sandboxes; `ringfence doctor` says why.
pub const HOST_UNABLE: u8 = 122;
/// The image was truncated or changed while in use.
pub const IMAGE_CHANGED: u8 = 123;
/// `--timeout` passed; the same as timeout(1).
pub const TIMED_OUT: u8 = 124;
/// The sandbox could not be set up: wrong options, image, sizes.
pub const SETUP_FAILED: u8 = 125;
/// The program is there but cannot be executed.
pub const NOT_EXECUTABLE: u8 = 126;
/// No such program.
pub const NOT_FOUND: u8 = 127;

/// Exit code for how a program ended.
pub fn of_status(status: ExitStatus) -> u8 {
    match status {
        ExitStatus::Code(code) => code,
        ExitStatus::Signal(signal) => 128u8.saturating_add(signal),
    }
}

/// Exit code for a program the guest could not start.
pub fn of_start_failure(errno: u32) -> u8 {
    match errno as i32 {
        libc::ENOENT | libc::ENOTDIR => NOT_FOUND,
        libc::EACCES
        | libc::ENOEXEC
        | libc::EPERM
        | libc::EISDIR
        | libc::ETXTBSY
        | libc::ELIBBAD
        | libc::ELOOP
        | libc::E2BIG
        | libc::ENAMETOOLONG => NOT_EXECUTABLE,
        _ => SETUP_FAILED,
    }
}

/// Exit code and sentence for a machine that ended before the program was known to have ended.
pub fn of_stop(stop: &Stop) -> (u8, String) {
    match stop {
        Stop::Power(power::OFF) => {
            (MACHINE_FAILED, "the sandbox powered off without saying how its program ended".into())
        }
        Stop::Power(power::PANIC) => {
            (GUEST_PANIC, "the guest kernel panicked; its last words are above".into())
        }
        Stop::Power(power::BOOT_FAILED) => {
            (SETUP_FAILED, "the guest kernel could not boot; the reason is above".into())
        }
        Stop::Power(code) => (MACHINE_FAILED, format!("the guest ended with unknown power code {code}")),
        Stop::Reset => (MACHINE_FAILED, "the guest reset itself".into()),
        Stop::TripleFault => {
            (MACHINE_FAILED, "the guest kernel crashed without a word (triple fault)".into())
        }
        Stop::Failed(why) => (MACHINE_FAILED, why.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes() {
        assert_eq!(of_status(ExitStatus::Code(3)), 3);
        assert_eq!(of_status(ExitStatus::Signal(9)), 137);
        assert_eq!(of_status(ExitStatus::Signal(255)), 255);
        assert_eq!(of_start_failure(libc::ENOENT as u32), NOT_FOUND);
        assert_eq!(of_start_failure(libc::EACCES as u32), NOT_EXECUTABLE);
        assert_eq!(of_start_failure(libc::ENOMEM as u32), SETUP_FAILED);
        assert_eq!(of_start_failure(libc::EINVAL as u32), SETUP_FAILED); // working directory, user
        assert_eq!(of_stop(&Stop::Power(power::PANIC)).0, GUEST_PANIC);
        assert_eq!(of_stop(&Stop::TripleFault).0, MACHINE_FAILED);
    }
}
