//! `ringfence run`: one program in one sandbox, as if it ran here.
//!
//! The standard streams are the program's, byte for byte; its exit code is ours; signals to us are signals to
//! it. This process opens what the sandbox needs and writes the [`Order`]; who carries it out is a process in the jail
//! ([`jailed`]) or, with `--no-jail`, this one. At the end the terminal is put back, then we report and exit.

pub mod jailed;

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ringfence_devices::host_stream::{Job, own_reader, own_writer};
use ringfence_devices::pmem::Backing;
use ringfence_jailer::{JailConfig, SandboxId};
use rustix::io::fcntl_dupfd_cloexec;

use super::{Failure, Format, disk, report, units};
use crate::machine::MAX_CPUS;
use crate::order::{Conclusion, Files, News, Order, carry_out};
use crate::signals::Signals;
use crate::terminal::{self, RawMode};
use crate::timeline::Timeline;
use crate::{door, exit, probe, sandbox, stats};

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
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
    /// A file or block device of the host as a disk (/dev/vda, /dev/vdb, ...); with `,ro` it cannot be written. `id=` is its
    /// serial number, `bandwidth=` and `ops=` are limits a second
    #[arg(long, value_name = "PATH[,ro][,id=NAME][,bandwidth=SIZE][,ops=N]", value_parser = disk::parse)]
    disk: Vec<disk::DiskOption>,
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
    #[command(flatten)]
    jail: Jail,
    /// The program and its arguments
    #[arg(required = true, last = true, value_name = "PROG")]
    command: Vec<String>,
}

/// What of the host the sandbox gets.
#[derive(Debug, clap::Args)]
struct Jail {
    /// Name of the sandbox, used by no other at the same time; random if not given
    #[arg(long, value_name = "ID", conflicts_with = "no_jail", value_parser = |id: &str| SandboxId::new(id))]
    name: Option<SandboxId>,
    /// Most memory the sandbox can take from the host, all in all; a bit more than --memory if not given
    #[arg(long, value_name = "SIZE", conflicts_with = "no_jail", value_parser = units::size)]
    host_memory: Option<u64>,
    /// Most CPU time it can take, in CPUs: 2, 0.5; no limit if not given
    #[arg(long, value_name = "N", conflicts_with = "no_jail", value_parser = units::cpus)]
    host_cpus: Option<u32>,
    /// cgroup v2 directory to make the sandbox's own in
    #[arg(long, value_name = "DIR", conflicts_with = "no_jail")]
    cgroup_parent: Option<PathBuf>,
    /// Run the VMM in this process, with all rights of this user: a guest that takes the VMM over has them, too. No
    /// limits of host memory and CPU
    #[arg(long)]
    no_jail: bool,
}

fn hostname(text: &str) -> Result<String, String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    if text.is_empty() || text.len() > 64 || !text.chars().all(fine) {
        return Err("a host name has 1 to 64 letters, digits, dots and dashes".into());
    }
    Ok(text.to_owned())
}

const NO_JAIL: &str = "--no-jail: the VMM runs with all rights of this user and sees this host's files, processes and \
                       network; a guest that takes the VMM over has them, too";

/// Runs `ringfence run`.
pub fn main(args: Args, mut timeline: Timeline) -> Result<u8, Failure> {
    check_memory(args.memory)?;
    // Packing a directory can take a while: signals must still end us.
    let (image, image_path) = open_image(&args)?;
    let jail = args.jail.config(&args)?;
    let also: &[libc::c_int] = if jail.is_some() { &[libc::SIGTSTP] } else { &[] };
    let signals =
        Signals::block_also(also).map_err(|e| Failure::setup(format!("cannot open a signalfd: {e}")))?;
    let unable = |message| Failure { code: exit::HOST_UNABLE, message };
    probe::quick().map_or(Ok(()), |problem| Err(unable(problem)))?;
    let kvm = probe::open_device().map_err(|e| unable(e.to_string()))?;
    timeline.mark("image_opened");
    let guest = sandbox::guest_override().map_err(Failure::setup)?;
    // Before anything is started: a path in use is a mistake.
    let disks = disk::open(&args.disk)?;
    let control = args.control.as_deref().map(door::Name::bind).transpose().map_err(Failure::setup)?;
    let (_name, control) = control.unzip();
    let trace = if args.strace {
        Some(own_writer(duplicate(rustix::stdio::stderr(), "standard error")?))
    } else {
        None
    };
    let terminal = args.tty.then(|| terminal::size().unwrap_or((24, 80)));
    let streams = streams(args.tty)?;
    let order = Order {
        cpus: args.cpus,
        memory: args.memory,
        image_name: image_path.to_string_lossy().into_owned(),
        hostname: args.hostname,
        env: environment(&args.env, args.tty, args.user.is_some()),
        args: args.command,
        cwd: args.cwd,
        user: args.user,
        terminal,
        log_level: args.loglevel,
        timeout: args.timeout,
        stats: args.stats.is_some(),
        timeline,
        files: Files {
            kvm,
            image: image.into(),
            // Without it the guest kernel is copied.
            executable: File::open("/proc/self/exe").ok().map(OwnedFd::from),
            guest: guest.map(OwnedFd::from),
            input: streams.input,
            output: streams.output,
            error: streams.error,
            trace,
            control: control.map(OwnedFd::from),
            job: streams.job,
            disks,
        },
    };
    let conclusion = match jail {
        Some(config) => jailed::run(order, config, signals)?,
        None => here(order, signals)?,
    };
    conclude(conclusion, args.stats.as_ref().map(|file| (args.format, file.as_deref())))
}

/// Carries the order out in this process.
fn here(order: Order<OwnedFd>, signals: Signals) -> Result<Conclusion, Failure> {
    report(&format!("warning: {NO_JAIL}"));
    let mut raw = if order.terminal.is_some() { Some(enter_raw()?) } else { None };
    last_resort(order.timeout)?;
    let mut conclusion = None;
    carry_out::run(order, signals, &mut |news| match news {
        News::Ready => {}
        News::Stopped => {
            // From here on a signal ends us at once, should a reader of the output never come.
            raw = None;
            Signals::unblock();
        }
        News::Over(mut told) => {
            let image = told.image;
            if let Some(report) = &mut told.report {
                report.memory.measure("self", image);
            }
            conclusion = Some(*told);
        }
    })?;
    conclusion.ok_or_else(|| Failure::setup("the sandbox ended without a word"))
}

fn enter_raw() -> Result<RawMode, Failure> {
    RawMode::enter().map_err(|e| Failure::setup(format!("cannot set up the terminal: {e}")))
}

/// Prints what there is to print.
fn conclude(told: Conclusion, stats: Option<(Format, Option<&Path>)>) -> Result<u8, Failure> {
    told.notes.iter().for_each(|note| report(note));
    if let (Some(report), Some((format, file))) = (&told.report, stats) {
        print_stats(report, format, file)?;
    }
    if !told.last_words.is_empty() {
        // A closed stderr cannot be told about.
        let _ = std::io::stderr().write_all(harmless(&told.last_words).as_bytes());
    }
    match told.message {
        Some(message) => Err(Failure { code: told.code, message }),
        None => Ok(told.code),
    }
}

/// Lines of others that cannot drive the terminal.
fn harmless(text: &str) -> String {
    text.chars().filter(|&c| c == '\n' || !c.is_control()).collect()
}

impl Jail {
    /// `None`: without.
    fn config(&self, args: &Args) -> Result<Option<JailConfig>, Failure> {
        if self.no_jail {
            return Ok(None);
        }
        let id = match &self.name {
            Some(id) => id.clone(),
            None => SandboxId::random().map_err(Failure::setup)?,
        };
        let mut config = JailConfig::new(id);
        config.cgroup_parent = self.cgroup_parent.clone();
        // A limit somebody asked for must hold.
        config.require_cgroup = self.host_memory.is_some() || self.host_cpus.is_some();
        config.limits.memory = Some(self.host_memory.unwrap_or_else(|| host_memory(args.memory, args.cpus)));
        config.limits.cpu_millis = self.host_cpus;
        config.check().map_err(Failure::setup)?;
        Ok(Some(config))
    }
}

/// What a sandbox can take from the host when all of the guest's memory is used: page tables and KVM's own records,
/// the VMM's memory and buffers, and a margin for what of the image is counted for whoever reads it first.
fn host_memory(guest: u64, cpus: u8) -> u64 {
    guest + guest / 32 + (96 << 20) + (u64::from(cpus) << 20)
}

/// Ends the process at a time at which `--timeout` should long have ended it: whatever a thread of ours waits for (a reader
/// of standard error that does not read, for one) must not keep the sandbox alive.
fn last_resort(timeout: Option<Duration>) -> Result<(), Failure> {
    let Some(timeout) = timeout else { return Ok(()) };
    let end = move || {
        std::thread::sleep(timeout.saturating_add(GRACE));
        // SAFETY: takes no pointers. The kernel ends a machine in this process, the monitor one in the jail.
        unsafe { libc::_exit(exit::TIMED_OUT.into()) }
    };
    let thread = std::thread::Builder::new().name("timeout".into()).stack_size(64 << 10).spawn(end);
    thread.map(drop).map_err(|e| {
        Failure::setup(format!("cannot start a thread: {e}; raise the limit of processes (ulimit -u)"))
    })
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

fn open_image(args: &Args) -> Result<(File, PathBuf), Failure> {
    let path = match (&args.image, &args.rootfs) {
        (Some(image), _) => image.clone(),
        (None, Some(dir)) => super::image::of_directory(dir)?,
        (None, None) => return Err(Failure::setup("give the sandbox a root: --image FILE or --rootfs DIR")),
    };
    // What the guest kernel would refuse is refused here, with better words.
    let file = Backing::open_file(&path)
        .map_err(|e| super::image::why_not(&path).unwrap_or_else(|| Failure::setup(e)))?;
    super::image::check(&file, &path)?;
    Ok((file, path))
}

pub(super) fn duplicate(fd: std::os::fd::BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Failure> {
    fcntl_dupfd_cloexec(fd, 3).map_err(|e| Failure::setup(format!("cannot duplicate {name}: {e}")))
}

/// The program's streams.
struct Streams {
    input: OwnedFd,
    output: OwnedFd,
    error: Option<OwnedFd>,
    job: Option<OwnedFd>,
}

/// Hands the standard streams over. Without a terminal our own input and output become `/dev/null`, so that a
/// peer sees the end of a stream when the program closes it, not when we exit.
fn streams(tty: bool) -> Result<Streams, Failure> {
    use rustix::stdio::{stderr, stdin, stdout};
    if tty && !terminal::is_terminal() {
        return Err(Failure::setup("--tty needs a terminal on standard input"));
    }
    let streams = Streams {
        job: Job::of_caller(stdin()),
        input: own_reader(duplicate(stdin(), "standard input")?),
        output: own_writer(duplicate(stdout(), "standard output")?),
        error: if tty { None } else { Some(own_writer(duplicate(stderr(), "standard error")?)) },
    };
    if !tty {
        let null = File::options()
            .read(true)
            .write(true)
            .open("/dev/null")
            .map_err(|e| Failure::setup(format!("cannot open /dev/null: {e}")))?;
        rustix::stdio::dup2_stdin(&null)
            .and_then(|()| rustix::stdio::dup2_stdout(&null))
            .map_err(|e| Failure::setup(format!("cannot release the standard streams: {e}")))?;
    }
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

fn print_stats(report: &stats::Report, format: Format, file: Option<&Path>) -> Result<(), Failure> {
    let text = match format {
        Format::Json => serde_json::to_string(report).map_err(Failure::setup)? + "\n",
        Format::Text => harmless(&report.to_string()),
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
