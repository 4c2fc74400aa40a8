//! `ringfence run`: one program in one sandbox, as if it ran here.
//!
//! The standard streams are the program's, byte for byte; its exit code is ours; signals to us are signals to
//! it. Whatever ends the sandbox, the order is the same: vCPUs stop, the last output is delivered, the
//! terminal is put back, then we report and exit.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ringfence_devices::pmem::Backing;
use rustix::io::fcntl_dupfd_cloexec;

use super::supervisor::{Ending, Supervisor};
use super::{Failure, Format, report, units};
use crate::door::{Door, Listener};
use crate::machine::MAX_CPUS;
use crate::sandbox::{Sandbox, SandboxError, Spec, Stdio};
use crate::signals::Signals;
use crate::stats::Report;
use crate::terminal::{self, RawMode};
use crate::timeline::Timeline;
use crate::{exit, probe};

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// After a time-out, readers of the output get this long to take what is left.
const DRAIN_AFTER_TIMEOUT: Duration = Duration::from_secs(1);

/// After a time-out, how long the command may take to end in good order.
const GRACE: Duration = Duration::from_secs(5);

/// Arguments of `run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Root image (EROFS), made by `ringfence image build`
    #[arg(long, value_name = "FILE", required_unless_present = "rootfs", conflicts_with = "rootfs")]
    image: Option<PathBuf>,
    /// Root directory; packed into a cached image first
    #[arg(long, value_name = "DIR")]
    rootfs: Option<PathBuf>,
    /// Number of vCPUs
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=i64::from(MAX_CPUS)))]
    cpus: u8,
    /// Memory size, such as 256M or 1G; taken from the host only as it is used
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = units::memory)]
    memory: u64,
    /// Environment variable; without `=VALUE` it is passed on from here
    #[arg(long, short, value_name = "K[=V]")]
    env: Vec<String>,
    /// Working directory of the program
    #[arg(long, value_name = "DIR", default_value = "/")]
    cwd: String,
    /// User to run as, by name or number
    #[arg(long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Host name of the sandbox
    #[arg(long, value_name = "NAME", default_value = "ringfence", value_parser = hostname)]
    hostname: String,
    /// Give the program a terminal
    #[arg(long, short)]
    tty: bool,
    /// Print every system call on standard error
    #[arg(long)]
    strace: bool,
    /// End the sandbox after this time (10s, 5m) with exit code 124
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    timeout: Option<Duration>,
    /// Print counters at exit, on standard error or to FILE
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
    stats: Option<Option<PathBuf>>,
    /// How counters are printed
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Listen on this unix socket for `ringfence container`
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// Show the guest kernel's log on standard error, from this level on
    #[arg(long, value_name = "LEVEL", value_parser = ["error", "warn", "info", "debug", "trace"])]
    loglevel: Option<String>,
    /// The program and its arguments
    #[arg(required = true, last = true, value_name = "PROG")]
    command: Vec<String>,
}

fn hostname(text: &str) -> Result<String, String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    if text.is_empty() || text.len() > 64 || !text.chars().all(fine) {
        return Err("a host name has 1 to 64 letters, digits, dots and dashes".into());
    }
    Ok(text.to_owned())
}

/// Runs `ringfence run`.
pub fn main(args: Args, mut timeline: Timeline) -> Result<u8, Failure> {
    check_memory(args.memory)?;
    // Packing a directory can take a while: signals must still end us.
    let image = open_image(&args)?;
    let signals = Signals::block().map_err(|e| Failure::setup(format!("cannot open a signalfd: {e}")))?;
    if let Some(problem) = probe::quick() {
        return Err(Failure { code: exit::HOST_UNABLE, message: problem });
    }
    timeline.mark("image_opened");
    let stdio = stdio(args.tty)?;
    let spec = Spec {
        cpus: args.cpus,
        memory: args.memory,
        image,
        hostname: args.hostname.clone(),
        env: environment(&args.env, args.tty, args.user.is_some()),
        cwd: args.cwd.clone(),
        user: args.user.clone(),
        stdio,
        trace: if args.strace { Some(duplicate(rustix::stdio::stderr(), "standard error")?) } else { None },
        stats: args.stats.is_some(),
        cmdline: args.loglevel.as_ref().map_or(String::new(), |l| format!("ringfence.loglevel={l}")),
        log: args.loglevel.as_ref().map(|_| log_writer(args.tty)),
        args: args.command.clone(),
    };
    // Before anything is started: a path in use is a mistake.
    let listener = args.control.as_deref().map(Listener::bind).transpose().map_err(Failure::setup)?;
    let (mut sandbox, control) = Sandbox::new(spec, &mut timeline).map_err(setup_failure)?;
    let raw = match args.tty {
        true => {
            Some(RawMode::enter().map_err(|e| Failure::setup(format!("cannot set up the terminal: {e}")))?)
        }
        false => None,
    };
    let kvm_stats = args.stats.is_some().then(|| sandbox.machine.open_stats());
    let door = listener.map(|listener| Door::new(listener, sandbox.vsock()));
    let mut supervisor = Supervisor::new(&mut sandbox.machine, control, door, signals, args.timeout)?;
    if let Some(timeout) = args.timeout {
        last_resort(timeout.saturating_add(GRACE))?;
    }
    sandbox.machine.start().map_err(|e| setup_failure(e.into()))?;
    timeline.mark("vcpus_started");
    let mut ending = supervisor.run(&mut timeline)?;
    sandbox.machine.stop();
    timeline.mark("stopped");
    // From here on a signal ends us at once, should a reader of the output never come.
    drop(raw);
    Signals::unblock();
    let deadline = matches!(ending, Ending::TimedOut).then(|| Instant::now() + DRAIN_AFTER_TIMEOUT);
    let problems = sandbox.drain(deadline);
    let counters = supervisor.finish(&mut ending);
    timeline.mark("drained");
    problems.iter().for_each(|p| report(p));
    if matches!(ending, Ending::TimedOut) {
        sandbox.machine.shared().places().iter().for_each(|line| report(line));
    }
    if let (Some(file), Some(kvm_stats)) = (&args.stats, &kvm_stats) {
        let report = Report::gather(&sandbox.machine, kvm_stats, &timeline, counters);
        print_stats(&report, args.format, file.as_deref())?;
    }
    conclude(&sandbox, ending)
}

/// Ends the process at a time at which `--timeout` should long have ended it: whatever a thread of ours waits for (a reader
/// of standard error that does not read, for one) must not keep the sandbox alive.
fn last_resort(after: Duration) -> Result<(), Failure> {
    let end = move || {
        std::thread::sleep(after);
        // SAFETY: takes no pointers, and nothing of this process is left to be put in order: the kernel ends the machine.
        unsafe { libc::_exit(exit::TIMED_OUT.into()) }
    };
    let thread = std::thread::Builder::new().name("timeout".into()).stack_size(64 << 10).spawn(end);
    thread.map(drop).map_err(|e| {
        Failure::setup(format!("cannot start a thread: {e}; raise the limit of processes (ulimit -u)"))
    })
}

/// The exit code, and the words that go with it.
fn conclude(sandbox: &Sandbox, ending: Ending) -> Result<u8, Failure> {
    let (code, message) = match ending {
        Ending::Exited(status) => return Ok(exit::of_status(status)),
        Ending::Signalled(signal) => return Ok(128 + signal as u8),
        Ending::StartFailed { errno, message } => (exit::of_start_failure(errno), message),
        Ending::TimedOut => (exit::TIMED_OUT, "the time-out passed; the sandbox was ended".to_owned()),
        Ending::Broken(e) => (exit::MACHINE_FAILED, e.to_string()),
        Ending::Stopped(stop) => {
            let words = sandbox.last_words();
            if !words.is_empty() {
                let mut stderr = std::io::stderr();
                // A closed stderr cannot be told about.
                let _ = stderr.write_all(&words).and_then(|()| stderr.flush());
            }
            exit::of_stop(&stop)
        }
    };
    match sandbox.machine.image().map(Backing::check_intact) {
        Some(Err(changed)) if code == exit::MACHINE_FAILED || code == exit::GUEST_PANIC => {
            Err(Failure { code: exit::IMAGE_CHANGED, message: format!("{changed} ({message})") })
        }
        _ => Err(Failure { code, message }),
    }
}

fn setup_failure(e: SandboxError) -> Failure {
    use crate::machine::MachineError;
    let code = match e {
        SandboxError::Machine(MachineError::OpenKvm(_) | MachineError::Kvm(..)) => exit::HOST_UNABLE,
        _ => exit::SETUP_FAILED,
    };
    Failure { code, message: e.to_string() }
}

/// Memory is taken only as it is used, but more than the host has is surely a mistake.
fn check_memory(bytes: u64) -> Result<(), Failure> {
    let info = rustix::system::sysinfo();
    let host = (info.totalram as u64 + info.totalswap as u64).saturating_mul(info.mem_unit.into());
    if bytes > host {
        let (have, want) = (host >> 20, bytes >> 20);
        return Err(Failure::setup(format!(
            "--memory asks for {want} MiB, this host has {have} MiB; give the sandbox less"
        )));
    }
    Ok(())
}

fn open_image(args: &Args) -> Result<Backing, Failure> {
    match (&args.image, &args.rootfs) {
        (Some(image), _) => check_erofs(image),
        (None, Some(dir)) => check_erofs(&super::image::of_directory(dir)?),
        (None, None) => Err(Failure::setup("give the sandbox a root: --image FILE or --rootfs DIR")),
    }
}

/// Opens the image and refuses what the guest kernel would refuse, with better words.
fn check_erofs(path: &Path) -> Result<Backing, Failure> {
    let backing =
        Backing::open(path).map_err(|e| super::image::why_not(path).unwrap_or(Failure::setup(e)))?;
    super::image::check(backing.file(), path)?;
    Ok(backing)
}

pub(super) fn duplicate(fd: std::os::fd::BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Failure> {
    fcntl_dupfd_cloexec(fd, 3).map_err(|e| Failure::setup(format!("cannot duplicate {name}: {e}")))
}

/// Hands the standard streams over. Without a terminal our own input and output become `/dev/null`, so that a
/// peer sees the end of a stream when the program closes it, not when we exit.
fn stdio(tty: bool) -> Result<Stdio, Failure> {
    use rustix::stdio::{stderr, stdin, stdout};
    if tty {
        if !terminal::is_terminal() {
            return Err(Failure::setup("--tty needs a terminal on standard input"));
        }
        return Ok(Stdio::Tty {
            input: duplicate(stdin(), "standard input")?,
            output: duplicate(stdout(), "standard output")?,
            size: terminal::size().unwrap_or((24, 80)),
        });
    }
    let streams = Stdio::Pipes {
        stdin: Some(duplicate(stdin(), "standard input")?),
        stdout: Some(duplicate(stdout(), "standard output")?),
        stderr: Some(duplicate(stderr(), "standard error")?),
    };
    let null = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(|e| Failure::setup(format!("cannot open /dev/null: {e}")))?;
    rustix::stdio::dup2_stdin(&null)
        .and_then(|()| rustix::stdio::dup2_stdout(&null))
        .map_err(|e| Failure::setup(format!("cannot release the standard streams: {e}")))?;
    Ok(streams)
}

/// `PATH` and, for root, `HOME`; `TERM` with a terminal; then what was asked for, which wins.
pub(super) fn environment(asked: &[String], tty: bool, has_user: bool) -> Vec<String> {
    let mut env = vec![DEFAULT_PATH.to_owned()];
    if !has_user {
        env.push("HOME=/root".into());
    }
    if tty {
        env.push(format!("TERM={}", std::env::var("TERM").unwrap_or_else(|_| "xterm".into())));
    }
    for entry in asked {
        let entry = match entry.split_once('=') {
            Some(_) => entry.clone(),
            None => match std::env::var(entry) {
                Ok(value) => format!("{entry}={value}"),
                Err(_) => continue,
            },
        };
        let key = entry.split_once('=').map_or(entry.len(), |(k, _)| k.len());
        let key = &entry[..key];
        env.retain(|old| old.split_once('=').is_none_or(|(k, _)| k != key));
        env.push(entry);
    }
    env
}

/// The guest's log on stderr. A raw terminal needs carriage returns.
fn log_writer(tty: bool) -> Box<dyn Write + Send> {
    struct Cooked(std::io::Stderr);
    impl Write for Cooked {
        fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
            for line in data.split_inclusive(|&b| b == b'\n') {
                match line.strip_suffix(b"\n") {
                    Some(text) => self.0.write_all(text).and_then(|()| self.0.write_all(b"\r\n"))?,
                    None => self.0.write_all(line)?,
                }
            }
            Ok(data.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            self.0.flush()
        }
    }
    if tty { Box::new(Cooked(std::io::stderr())) } else { Box::new(std::io::stderr()) }
}

fn print_stats(report: &Report, format: Format, file: Option<&Path>) -> Result<(), Failure> {
    let text = match format {
        Format::Json => serde_json::to_string(report).map_err(Failure::setup)? + "\n",
        Format::Text => report.to_string(),
    };
    match file {
        Some(path) => std::fs::write(path, text)
            .map_err(|e| Failure::setup(format!("cannot write counters to {}: {e}", path.display()))),
        None => {
            // A closed stderr cannot be told about.
            let _ = std::io::stderr().write_all(text.as_bytes());
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asked_environment_wins() {
        let env = environment(&["PATH=/x".into(), "A=1=2".into(), "A=3".into()], false, false);
        assert_eq!(env, ["HOME=/root", "PATH=/x", "A=3"]);
    }

    #[test]
    fn host_names() {
        assert!(hostname("a-1.b").is_ok());
        assert!(hostname("").is_err() && hostname("a b").is_err() && hostname(&"x".repeat(65)).is_err());
    }
}
