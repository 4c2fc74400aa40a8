//! The supervisor of a sandbox in the jail: it passes signals on, and listens to what the VMM's process says.
//!
//! ```text
//!             order written            Ready                Stopped              Over, monitor gone
//!   Starting ───────────────▶ Starting ──────▶ Running ────────────▶ Stopping ─────────────────────▶ report, exit
//!      │ a signal                                │ signals are the program's │ a signal
//!      └─────────────▶ kill, exit 128+n          ▼                           └──────▶ kill, exit 128+n
//! ```
//!
//! Nothing waits here but `poll(2)`. What the VMM's process says is not trusted: see [`crate::order`].

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use ringfence_jailer::{JailConfig, JailError, Monitor, Outcome, PATIENCE, Program, runtime};
use rustix::event::{PollFd, PollFlags, poll};

use super::{Failure, last_resort, report};
use crate::event_loop::printable;
use crate::exit;
use crate::order::{Conclusion, News, Order, process};
use crate::signals::Signals;
use crate::terminal::RawMode;

/// Bytes the VMM's process may say in all; a report with every counter is a hundredth of it.
const MAX_NEWS: usize = 4 << 20;
/// What a sandbox has left whose processes were all killed at once is removed when it is older.
const STALE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Starting,
    Running,
    Stopping,
}

struct Supervisor {
    monitor: Monitor,
    signals: Signals,
    /// `None` once there is nothing more to hear.
    channel: Option<UnixStream>,
    heard: Vec<u8>,
    /// Bytes of `heard` that were dealt with.
    taken: usize,
    phase: Phase,
    raw: Option<RawMode>,
    tty: bool,
    conclusion: Option<Conclusion>,
}

/// Runs the order in a jail. `signals` have SIGTSTP among them. Call it with one thread.
pub fn run(order: Order<OwnedFd>, config: JailConfig, signals: Signals) -> Result<Conclusion, Failure> {
    let tty = order.terminal.is_some();
    let timeout = order.timeout;
    let (channel, theirs) = UnixStream::pair().map_err(|e| Failure::setup(format!("no socket pair: {e}")))?;
    let (order, files) = order.number(process::FIRST_FILE);
    let mut line = serde_json::to_vec(&order).map_err(Failure::setup)?;
    line.push(b'\n');
    let mut descriptors = vec![OwnedFd::from(theirs)];
    descriptors.extend(files);
    let (monitor, warnings) = start(config, process::COMMAND, None, descriptors)?;
    warnings.iter().for_each(|warning| report(&format!("warning: {warning}")));
    // Only a courtesy to others; what cannot be removed now is tried again by the next.
    let _ = runtime::sweep_now_and_then(&runtime::base(), STALE);
    let raw = if tty { Some(super::enter_raw()?) } else { None };
    last_resort(timeout)?;
    let mut supervisor = Supervisor {
        monitor,
        signals,
        channel: Some(channel),
        heard: Vec::new(),
        taken: 0,
        phase: Phase::Starting,
        raw,
        tty,
        conclusion: None,
    };
    supervisor.order(&line)?;
    let ended = supervisor.watch();
    supervisor.raw = None;
    match ended {
        Ok(None) => supervisor.finish(),
        // Dropping the monitor ends the sandbox and waits for that.
        Ok(Some(signal)) => Ok(Conclusion::of_code(128 + signal as u8)),
        Err(failure) => Err(failure),
    }
}

/// Starts `ringfence WORD SECOND` in a jail; returns warnings, too.
pub fn start(
    config: JailConfig,
    word: &str,
    second: Option<&str>,
    descriptors: Vec<OwnedFd>,
) -> Result<(Monitor, Vec<String>), Failure> {
    let words = ["ringfence", word].into_iter().chain(second);
    let args = words.map(std::ffi::CString::new).collect::<Result<_, _>>().map_err(Failure::setup)?;
    Monitor::start(config, &runtime::base(), |_| Program::this(args, descriptors)).map_err(|e| {
        let without = "; `--no-jail` runs the sandbox without, with all your rights";
        match e {
            JailError::Id(_) | JailError::InUse(_) | JailError::Invalid(_) => Failure::setup(e),
            e => Failure { code: exit::HOST_UNABLE, message: format!("{e}{without}") },
        }
    })
}

impl Supervisor {
    /// Hands the order over. A process that does not take it has ended, and `watch` hears how.
    fn order(&mut self, line: &[u8]) -> Result<(), Failure> {
        let Some(channel) = &mut self.channel else { return Ok(()) };
        let _ = channel.write_all(line);
        channel.set_nonblocking(true).map_err(|e| Failure::setup(format!("a socket: {e}")))
    }

    /// Until the jail is over, or a signal ends it.
    fn watch(&mut self) -> Result<Option<libc::c_int>, Failure> {
        let mut patience = Some(&PATIENCE);
        loop {
            let (over, called, said) = {
                let mut fds = vec![
                    PollFd::new(&self.monitor, PollFlags::IN),
                    PollFd::new(&self.signals, PollFlags::IN),
                ];
                fds.extend(self.channel.as_ref().map(|channel| PollFd::new(channel, PollFlags::IN)));
                match poll(&mut fds, patience) {
                    Ok(0) => {
                        patience = None;
                        ringfence_jailer::release_code();
                    }
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(e) => return Err(failed(format!("poll: {e}"))),
                }
                let ready = |n: usize| fds.get(n).is_some_and(|fd| !fd.revents().is_empty());
                (ready(0), ready(1), ready(2))
            };
            if said || over {
                self.listen()?;
            }
            if over {
                return Ok(None);
            }
            if called && let Some(signal) = self.pass_on() {
                return Ok(Some(signal));
            }
        }
    }

    /// Passes signals on; returns one that ends everything.
    fn pass_on(&mut self) -> Option<libc::c_int> {
        while let Some(signal) = self.signals.take() {
            match (signal, self.phase) {
                (libc::SIGTSTP, _) => {
                    // The sandbox stops with the command, as any program on the terminal would.
                    self.monitor.signal(libc::SIGSTOP);
                    Signals::stop_as_asked();
                    self.monitor.signal(libc::SIGCONT);
                }
                (libc::SIGWINCH, Phase::Running) if self.tty => self.monitor.signal(signal),
                (libc::SIGWINCH, _) => {}
                (_, Phase::Running) => self.monitor.signal(signal),
                (libc::SIGCONT, _) => {}
                _ => return Some(signal),
            }
        }
        None
    }

    /// Takes what the VMM's process has said.
    fn listen(&mut self) -> Result<(), Failure> {
        let mut buffer = [0u8; 4096];
        while let Some(channel) = &mut self.channel {
            match channel.read(&mut buffer) {
                Ok(0) => self.channel = None,
                Ok(n) => self.heard.extend_from_slice(buffer.get(..n).unwrap_or_default()),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.channel = None,
            }
            if self.heard.len() > MAX_NEWS {
                return Err(failed("the VMM said more than it can have to say"));
            }
            self.take_lines()?;
        }
        Ok(())
    }

    fn take_lines(&mut self) -> Result<(), Failure> {
        loop {
            let rest = self.heard.get(self.taken..).unwrap_or_default();
            let Some(end) = rest.iter().position(|&b| b == b'\n') else { return Ok(()) };
            let news = rest.get(..end).and_then(|line| serde_json::from_slice(line).ok());
            self.taken += end + 1;
            match news {
                None => return Err(failed("what the VMM said makes no sense")),
                Some(News::Ready) => self.phase = Phase::Running,
                Some(News::Stopped) => {
                    self.phase = Phase::Stopping;
                    self.raw = None;
                }
                Some(News::Over(conclusion)) => {
                    self.phase = Phase::Stopping;
                    self.conclude(*conclusion);
                    // The VMM's process has waited for this if it was to be measured. (The monitor has a copy of the
                    // descriptor: closing ours would be no end.)
                    if let Some(channel) = self.channel.take() {
                        let _ = channel.shutdown(Shutdown::Both);
                    }
                }
            }
        }
    }

    /// Measures the processes, if that was asked for, and cleans the words.
    fn conclude(&mut self, mut conclusion: Conclusion) {
        let clean = |text: &mut String| *text = printable(text);
        conclusion.notes.truncate(256);
        conclusion.notes.iter_mut().chain(&mut conclusion.message).for_each(clean);
        if let Some(report) = &mut conclusion.report {
            let processes = [(Some(self.monitor.pid()), None), (self.monitor.program(), conclusion.image)];
            report.memory.measure("self", None);
            for (pid, image) in processes {
                let Some(pid) = pid else { continue };
                report.memory.measure(&pid.as_raw_pid().to_string(), image);
            }
        }
        self.conclusion = Some(conclusion);
    }

    /// After the end of the jail.
    fn finish(self) -> Result<Conclusion, Failure> {
        let outcome = self.monitor.wait();
        if let Some(mut conclusion) = self.conclusion {
            // What the monitor could not remove is worth a word, and not the exit code.
            conclusion.notes.extend(outcome.err().map(|e| e.to_string()));
            return Ok(conclusion);
        }
        Err(failed(match outcome {
            Err(e) => e.to_string(),
            Ok(None) => "the monitor of the jail was killed, and the sandbox with it".to_owned(),
            Ok(Some(Outcome::Exited(code))) => {
                format!("the VMM failed with code {code}; its last words are above")
            }
            Ok(Some(Outcome::Killed(libc::SIGKILL))) => {
                "the VMM was killed: by somebody, or because the sandbox had \
                 more memory than --host-memory or than this host has"
                    .to_owned()
            }
            Ok(Some(Outcome::Killed(signal))) => format!("the VMM was killed by signal {signal}"),
        }))
    }
}

fn failed(message: impl Into<String>) -> Failure {
    Failure { code: exit::MACHINE_FAILED, message: message.into() }
}
