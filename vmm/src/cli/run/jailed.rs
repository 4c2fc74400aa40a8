//! The supervisor of a sandbox in the jail: it passes signals on, and listens to what the VMM's process says.
//!
//! ```text
//!             order written            Ready                Stopped              Over, monitor gone
//!   Starting ───────────────▶ Starting ──────▶ Running ────────────▶ Stopping ─────────────────────▶ report, exit
//!      │ a signal                                │ signals are the program's │ a signal
//!      └─────────────▶ kill, exit 128+n          ▼                           └──────▶ kill, exit 128+n
//! ```
//!
//! Nothing waits here but `poll(2)`. What the VMM's process says is not trusted: see [`crate::order`]. The server of the API, if
//! there is one, is a descriptor more in that `poll`.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use ringfence_jailer::{
    Companion, Helper, JailConfig, JailError, Monitor, Outcome, PATIENCE, Program, runtime,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Failure;
use super::launch::{self, Ends, ending, enter_raw, last_resort};
use crate::api::config::Config;
use crate::api::listen::{ListenError, Name};
use crate::api::server::{Server, Wanted};
use crate::api::state::{Event, State};
use crate::cli::report;
use crate::event_loop::printable;
use crate::order::{Conclusion, News, Order, process};
use crate::signals::Signals;
use crate::terminal::RawMode;
use crate::{api, exit};

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
    server: Option<Server>,
}

/// The API of a sandbox in a jail.
#[derive(Default)]
pub struct Api {
    /// It listens already.
    pub server: Option<Server>,
    /// What connects it with the VMM.
    pub ends: Option<Ends>,
    /// It is to listen in the sandbox's own directory, once that is there.
    pub named: Option<Config>,
}

/// A sandbox that could not be started, and what it leaves.
pub struct NotStarted {
    /// Why.
    pub failure: Failure,
    /// The server, to try again.
    pub server: Option<Server>,
    /// The signals likewise.
    pub signals: Signals,
}

/// Runs the order in a jail. `signals` have SIGTSTP among them. Call it with one thread.
pub fn run(
    order: Order<OwnedFd>,
    config: JailConfig,
    signals: Signals,
    api: Api,
) -> Result<Conclusion, Failure> {
    match begin(order, config, signals, api) {
        Ok(begun) => begun.run(),
        Err(not_started) => {
            let NotStarted { failure, server, .. } = *not_started;
            if let Some(server) = server {
                server.over(failure.code, Some(failure.message.clone()));
            }
            Err(failure)
        }
    }
}

/// A sandbox that is being started.
pub struct Begun {
    supervisor: Supervisor,
    line: Vec<u8>,
    timeout: Option<Duration>,
}

/// Starts the jail, and the VMM in it.
pub fn begin(
    order: Order<OwnedFd>,
    config: JailConfig,
    signals: Signals,
    api: Api,
) -> Result<Begun, Box<NotStarted>> {
    let Api { mut server, ends, named } = api;
    match prepare(order, config, &mut server, ends, named) {
        Ok(made) => {
            let Made { monitor, channel, raw, line, tty, timeout } = made;
            let supervisor = Supervisor {
                monitor,
                signals,
                channel: Some(channel),
                heard: Vec::new(),
                taken: 0,
                phase: Phase::Starting,
                raw,
                tty,
                conclusion: None,
                server,
            };
            Ok(Begun { supervisor, line, timeout })
        }
        Err(failure) => Err(Box::new(NotStarted { failure, server, signals })),
    }
}

struct Made {
    monitor: Monitor,
    channel: UnixStream,
    raw: Option<RawMode>,
    line: Vec<u8>,
    tty: bool,
    timeout: Option<Duration>,
}

fn prepare(
    mut order: Order<OwnedFd>,
    config: JailConfig,
    server: &mut Option<Server>,
    ends: Option<Ends>,
    named: Option<Config>,
) -> Result<Made, Failure> {
    let id = config.id.clone();
    let (companion, helper) = (order.companion.take(), order.helper.take());
    let tty = order.terminal.is_some();
    let timeout = order.timeout;
    let (channel, theirs) = UnixStream::pair().map_err(|e| Failure::setup(format!("no socket pair: {e}")))?;
    let (order, files) = order.number(process::FIRST_FILE);
    let mut line = serde_json::to_vec(&order).map_err(Failure::setup)?;
    line.push(b'\n');
    let mut descriptors = vec![OwnedFd::from(theirs)];
    descriptors.extend(files);
    let (monitor, warnings) = start(config, process::COMMAND, None, descriptors, (companion, helper))?;
    warnings.iter().for_each(|warning| report(&format!("warning: {warning}")));
    // Only a courtesy to others; what cannot be removed now is tried again by the next.
    let _ = runtime::sweep_now_and_then(&runtime::base(), STALE);
    if let Some(described) = named {
        match Name::bind(&api::socket_of(&id)) {
            Ok(name) => *server = Some(launch::server(name, State::Starting, described)?),
            // A VMM that has ended already has taken its directory along; we hear of that.
            Err(ListenError::Io(_, e)) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(Failure::setup(e)),
        }
    }
    if let (Some(server), Some(Ends { link, log, copy })) = (server, ends) {
        server.connect(link, log, copy).map_err(|e| Failure::setup(format!("cannot serve the API: {e}")))?;
        let processes = [Some(monitor.pid()), monitor.program()].into_iter().flatten();
        server.set_processes(processes.map(|pid| pid.as_raw_pid()).collect());
        warnings.iter().for_each(|warning| server.note(&format!("warning: {warning}")));
    }
    let raw = if tty { Some(enter_raw()?) } else { None };
    Ok(Made { monitor, channel, raw, line, tty, timeout })
}

impl Begun {
    /// Sees it through to the end, and tells those who wait for that.
    pub fn run(self) -> Result<Conclusion, Failure> {
        let Begun { mut supervisor, line, timeout } = self;
        let ended =
            last_resort(timeout).and_then(|()| supervisor.order(&line)).and_then(|()| supervisor.watch());
        supervisor.raw = None;
        let server = supervisor.server.take();
        let result = match ended {
            Ok(None) => supervisor.finish(),
            Ok(Some(signal)) => {
                // Dropping the monitor ends the sandbox and waits for that.
                drop(supervisor);
                Ok(Conclusion::of_code(128 + signal as u8))
            }
            Err(failure) => {
                drop(supervisor);
                Err(failure)
            }
        };
        if let Some(server) = server {
            let (code, message) = ending(&result);
            server.over(code, message);
        }
        result
    }
}

/// Starts `ringfence WORD SECOND` in a jail; returns warnings, too.
pub fn start(
    config: JailConfig,
    word: &str,
    second: Option<&str>,
    descriptors: Vec<OwnedFd>,
    (companion, helper): (Option<Companion>, Option<Helper>),
) -> Result<(Monitor, Vec<String>), Failure> {
    let words = ["ringfence", word].into_iter().chain(second);
    let args = words.map(std::ffi::CString::new).collect::<Result<_, _>>().map_err(Failure::setup)?;
    Monitor::start(config, &runtime::base(), |_| {
        Ok(Program { companion, helper, ..Program::this(args, descriptors)? })
    })
    .map_err(|e| {
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
            let due = self.server.as_ref().and_then(Server::deadline);
            let due = due.map(|at| at.saturating_duration_since(Instant::now()));
            let due = due.and_then(|due| Timespec::try_from(due).ok());
            let (over, called, said, asked) = {
                let mut fds = vec![
                    PollFd::new(&self.monitor, PollFlags::IN),
                    PollFd::new(&self.signals, PollFlags::IN),
                ];
                fds.extend(self.channel.as_ref().map(|channel| PollFd::new(channel, PollFlags::IN)));
                let channels = fds.len() - 2;
                fds.extend(self.server.as_ref().map(|server| PollFd::new(server, PollFlags::IN)));
                match poll(&mut fds, due.as_ref().or(patience)) {
                    Ok(0) if due.is_none() => {
                        patience = None;
                        ringfence_jailer::release_code();
                    }
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(e) => return Err(failed(format!("poll: {e}"))),
                }
                let ready = |n: usize| fds.get(n).is_some_and(|fd| !fd.revents().is_empty());
                (ready(0), ready(1), channels > 0 && ready(2), due.is_some() || ready(2 + channels))
            };
            if said || over {
                self.listen()?;
            }
            if over {
                return Ok(None);
            }
            if asked && let Some(Wanted::Kill) = self.server.as_mut().and_then(Server::process) {
                return Ok(Some(libc::SIGKILL));
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
                Some(News::Ready) => {
                    self.phase = Phase::Running;
                    self.tell(Event::Ready);
                }
                Some(News::Stopped) => {
                    self.phase = Phase::Stopping;
                    self.tell(Event::Stopped);
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

    fn tell(&mut self, event: Event) {
        if let Some(server) = &mut self.server {
            server.event(event);
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
        if matches!(outcome, Ok(Some(Outcome::Exited(code))) if code == i32::from(exit::FORBIDDEN_CALL)) {
            let message =
                "the VMM was ended because of that system call: it has a bug, or the guest has taken it over";
            return Err(Failure { code: exit::FORBIDDEN_CALL, message: message.to_owned() });
        }
        // The kernel's way for calls of another architecture, and where the signal is blocked.
        if matches!(outcome, Ok(Some(Outcome::Killed(libc::SIGSYS)))) {
            let message = "the VMM was killed because of a system call that its filter forbids: it has a bug, or the guest has \
                           taken it over";
            return Err(Failure { code: exit::FORBIDDEN_CALL, message: message.to_owned() });
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
            Ok(Some(Outcome::Killed(
                signal @ (libc::SIGSEGV | libc::SIGBUS | libc::SIGILL | libc::SIGFPE),
            ))) => {
                format!("the VMM crashed with signal {signal}: it has a bug, or the guest has taken it over")
            }
            Ok(Some(Outcome::Killed(signal))) => format!("the VMM was killed by signal {signal}"),
        }))
    }
}

fn failed(message: impl Into<String>) -> Failure {
    Failure { code: exit::MACHINE_FAILED, message: message.into() }
}
