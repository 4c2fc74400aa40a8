//! `ringfence vmm`: the process in the jail. The jailer starts it; it is no command for people.
//!
//! It has the supervisor's socket as descriptor 3 and the order's files behind it, `/dev/null` as standard input and
//! output, and nothing else: no path leads anywhere. It is process 1 of its pid namespace, so a signal whose
//! action would be the default does nothing to it (pid_namespaces(7)): until [`News::Ready`] and after
//! [`News::Stopped`] the supervisor, which is told, ends it by SIGKILL instead.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use ringfence_seccomp::{Thread, confine};

use super::{Conclusion, News, Order, carry_out};
use crate::cli::{Failure, report};
use crate::exit;
use crate::signals::Signals;

/// The word on the command line.
pub const COMMAND: &str = "vmm";
/// The word behind it of a process that ends at once: a proof that there can be a jail.
pub const PROBE: &str = "probe";
/// The socket.
const CHANNEL: i32 = 3;
/// The number of the first of the order's descriptors.
pub const FIRST_FILE: i32 = CHANNEL + 1;
/// More than any order of our own supervisor.
const MAX_ORDER: u64 = 64 << 20;

/// Gets the order and carries it out; the exit code is the command's.
pub fn main() -> ExitCode {
    if let Err(e) = ringfence_jailer::access::give_up() {
        report(&format!("Landlock: {e}"));
        return ExitCode::from(exit::HOST_UNABLE);
    }
    if std::env::args_os().nth(2).is_some_and(|word| word == PROBE) {
        return probe();
    }
    // For who looks at a list of processes; the name says nothing else.
    let _ = rustix::thread::set_name(c"ringfence-vmm");
    // SAFETY: F_GETFD touches no memory.
    if unsafe { libc::fcntl(CHANNEL, libc::F_GETFD) } < 0 {
        report("`vmm` is started by `ringfence run`, in the jail; it is no command for people");
        return ExitCode::from(exit::SETUP_FAILED);
    }
    // SAFETY: the descriptor is open, and by the jailer's contract it is ours alone.
    let channel = unsafe { UnixStream::from_raw_fd(CHANNEL) };
    tell_panics();
    let_crashes_be();
    let mut tell = |news: News| {
        send(&channel, &news);
        if let News::Over(conclusion) = news {
            if conclusion.report.is_some() {
                // The supervisor measures us, and then closes the socket. (std would call recvfrom.)
                let _ = rustix::io::read(&channel, &mut [0]);
            }
            end(conclusion.code);
        }
    };
    if let Err(failure) =
        receive(&channel).and_then(|(order, signals)| carry_out::run(order, signals, true, &mut tell))
    {
        tell(News::Over(Box::new(Conclusion::from(failure))));
    }
    ExitCode::from(exit::MACHINE_FAILED)
}

/// Takes the last lock that a VMM takes.
fn probe() -> ExitCode {
    match ringfence_seccomp::end_with(exit::FORBIDDEN_CALL).and_then(|()| confine(Thread::EventLoop)) {
        Ok(()) => end(0),
        Err(e) => {
            report(&e.to_string());
            ExitCode::from(exit::HOST_UNABLE)
        }
    }
}

/// A panic is told, and ends the process. std's own words have the thread's number in them, and abort(3) comes after them:
/// both make calls that no filter of ours allows.
fn tell_panics() {
    std::panic::set_hook(Box::new(|info| {
        report(&format!("the VMM {info}"));
        end(exit::MACHINE_FAILED);
    }));
}

/// A fault ends the process by its signal, which the supervisor is told. std's own handler, for stacks that overflow, restores the
/// default by a call that no filter of ours allows: every fault would look like a violation.
fn let_crashes_be() {
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        // SAFETY: the default action is no function of ours. (Of process 1, too, it is the end, if the signal is a fault's.)
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// At once, without what std and musl do at an end: the filter does not allow it, and the kernel tears everything down.
fn end(code: u8) -> ! {
    // SAFETY: takes no pointers, and nothing is left to be written.
    unsafe { libc::_exit(code.into()) }
}

/// A supervisor that is gone takes us with it: that nobody listens is no error.
fn send(mut channel: &UnixStream, news: &News) {
    if let Ok(mut line) = serde_json::to_vec(news) {
        line.push(b'\n');
        let _ = channel.write_all(&line);
    }
}

fn receive(channel: &UnixStream) -> Result<(Order<OwnedFd>, Signals), Failure> {
    let signals = Signals::block().map_err(|e| Failure::setup(format!("cannot open a signalfd: {e}")))?;
    let mut line = Vec::new();
    BufReader::new(channel)
        .take(MAX_ORDER)
        .read_until(b'\n', &mut line)
        .map_err(|e| Failure::setup(format!("cannot read the order: {e}")))?;
    let order: Order<i32> = serde_json::from_slice(&line)
        .map_err(|e| Failure::setup(format!("the order makes no sense: {e}")))?;
    // SAFETY: the supervisor has written the numbers of descriptors that it handed over, each once, for us alone.
    let order = order.map(|number| unsafe { OwnedFd::from_raw_fd(number) });
    Ok((order, signals))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use ringfence_seccomp::{VIOLATED, end_with};

    use super::*;

    /// Set for the process that `a_panic_is_told` starts.
    const PANIC: &str = "RINGFENCE_TEST_PANIC";
    /// The same of `a_fault_is_no_violation`.
    const FAULT: &str = "RINGFENCE_TEST_FAULT";

    #[test]
    fn a_fault_is_no_violation() {
        if std::env::var_os(FAULT).is_some() {
            let_crashes_be();
            end_with(VIOLATED).and_then(|()| confine(Thread::EventLoop)).unwrap();
            // SAFETY: none: what is there is to be found out. Nothing is mapped in the last page below the kernel's half.
            unsafe { std::ptr::without_provenance_mut::<u8>(0x7fff_ffff_f000).write_volatile(1) };
        }
        let test = ["order::process::tests::a_fault_is_no_violation", "--exact", "--test-threads=1"];
        let itself = std::env::current_exe().unwrap();
        let ended = Command::new(itself).args(test).env(FAULT, "1").output().unwrap();
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(ended.status.signal(), Some(libc::SIGSEGV), "{:?}", ended.status);
    }

    #[test]
    fn a_panic_is_told() {
        if std::env::var_os(PANIC).is_some() {
            tell_panics();
            end_with(VIOLATED).and_then(|()| confine(Thread::EventLoop)).unwrap();
            panic!("on purpose");
        }
        let test = ["order::process::tests::a_panic_is_told", "--exact", "--test-threads=1"];
        let itself = std::env::current_exe().unwrap();
        let ended = Command::new(itself).args(test).env(PANIC, "1").output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(exit::MACHINE_FAILED.into()), "{said}");
        assert!(said.starts_with("ringfence: the VMM panicked at ") && said.contains("on purpose"), "{said}");
    }
}
