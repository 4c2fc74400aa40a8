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
    if std::env::args_os().nth(2).is_some_and(|word| word == PROBE) {
        return ExitCode::SUCCESS;
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
    let mut over = None;
    let mut tell = |news: News| {
        send(&channel, &news);
        if let News::Over(conclusion) = news {
            if conclusion.report.is_some() {
                // The supervisor measures us, and then closes the socket.
                let _ = (&channel).read(&mut [0]);
            }
            over = Some(conclusion.code);
        }
    };
    if let Err(failure) =
        receive(&channel).and_then(|(order, signals)| carry_out::run(order, signals, &mut tell))
    {
        tell(News::Over(Box::new(Conclusion::from(failure))));
    }
    ExitCode::from(over.unwrap_or(exit::MACHINE_FAILED))
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
