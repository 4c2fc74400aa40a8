//! From a [`Config`] to a running sandbox: opens what it needs, writes the [`Order`], and sees it through to the end.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ringfence_devices::host_stream::{Job, own_reader, own_writer};
use ringfence_devices::pmem::Backing;
use ringfence_jailer::{JailConfig, SandboxId};
use ringfence_protocol::Streams as ContainerStreams;
use rustix::io::fcntl_dupfd_cloexec;

use super::detach::{self, Side};
use super::{jailed, shared};
use crate::api::config::{Config, Image, LogLevel};
use crate::api::listen::Name;
use crate::api::network::Host;
use crate::api::server::{About, Server};
use crate::api::state::{Event, State};
use crate::api::worker::Worker;
use crate::cli::{Failure, Format, disk, image, report};
use crate::order::{Conclusion, Files, News, Order, carry_out};
use crate::signals::Signals;
use crate::terminal::{self, RawMode};
use crate::timeline::Timeline;
use crate::{exit, network, probe, sandbox, stats};

/// After a time-out, how long the command may take to end in good order.
const GRACE: Duration = Duration::from_secs(5);

/// What passt's buffers can take of the host, at most.
const PASST_MEMORY: u64 = 128 << 20;

/// How counters are told at the end.
pub struct Counters {
    /// Text or JSON.
    pub format: Format,
    /// Standard error if there is none.
    pub file: Option<PathBuf>,
}

/// Whether there is an API.
pub enum Api {
    /// No.
    None,
    /// On this socket.
    At(PathBuf),
    /// In the sandbox's own directory.
    Named,
}

/// Runs a sandbox to its end; returns the exit code.
pub fn main(
    config: Config,
    api: &Api,
    counters: Option<Counters>,
    timeline: Timeline,
    detach: bool,
) -> Result<u8, Failure> {
    check_memory(config.machine.memory)?;
    // Packing a directory can take a while: signals must still end us.
    let image = open_image(&config)?;
    let jail = jail_config(&config)?;
    let log = match detach {
        true => match detach::detach(config.jail.name.as_deref().unwrap_or_default())? {
            Side::Command(code) => return Ok(code),
            Side::Supervisor(log) => Some(log),
        },
        false => None,
    };
    let signals = block_signals(jail.is_some())?;
    // Before anything is started: a path in use is a mistake.
    let server = match api {
        Api::None | Api::Named => None,
        Api::At(path) => {
            let name = Name::bind(path).map_err(Failure::setup)?;
            Some(server(name, State::Starting, config.clone())?)
        }
    };
    let named = matches!(api, Api::Named);
    let mut order = order(&config, image, timeline)?;
    let ends = if server.is_some() || named { Some(connect(&mut order, log)?) } else { None };
    let counters =
        counters.or_else(|| config.boot.stats.then_some(Counters { format: Format::Text, file: None }));
    release_streams(config_terminal(&config).is_some())?;
    let conclusion = match jail {
        Some(jail) => {
            let named = named.then_some(config);
            jailed::run(order, jail, signals, jailed::Api { server, ends, named })?
        }
        None => here(order, signals, server.zip(ends))?,
    };
    conclude(conclusion, counters.as_ref())
}

/// A server for a sandbox that is described so.
pub fn server(
    name: (Name, std::os::unix::net::UnixListener),
    state: State,
    config: Config,
) -> Result<Server, Failure> {
    let about = About { name: config.jail.name.clone(), processes: Vec::new() };
    Server::new(name, state, config, about).map_err(|e| Failure::setup(format!("cannot serve the API: {e}")))
}

/// Blocks the signals that are the program's.
pub fn block_signals(jail: bool) -> Result<Signals, Failure> {
    let also: &[libc::c_int] = if jail { &[libc::SIGTSTP] } else { &[] };
    Signals::block_also(also).map_err(|e| Failure::setup(format!("cannot open a signalfd: {e}")))
}

/// The supervisor's ends of what connects it with a VMM that has an API.
pub struct Ends {
    /// See [`crate::door`].
    pub link: UnixStream,
    /// The guest's log comes out of it.
    pub log: OwnedFd,
    /// It is shown on standard error; on a raw terminal, if so.
    pub copy: Option<bool>,
}

/// Connects the sandbox of this order to the API. `log`: where our standard error can be read, if the log is to be what comes there.
pub fn connect(order: &mut Order<OwnedFd>, log: Option<OwnedFd>) -> Result<Ends, Failure> {
    let unable = |e: std::io::Error| Failure::setup(format!("cannot make a socket pair: {e}"));
    let (link, theirs) = UnixStream::pair().map_err(unable)?;
    order.files.link = Some(theirs.into());
    if let Some(log) = log {
        order.files.log = Some(duplicate(rustix::stdio::stderr(), "standard error")?);
        return Ok(Ends { link, log, copy: None });
    }
    let (log, log_theirs) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| unable(e.into()))?;
    order.files.log = Some(log_theirs);
    Ok(Ends { link, log, copy: order.log_level.map(|_| order.terminal.is_some()) })
}

fn config_terminal(config: &Config) -> Option<(u16, u16)> {
    match config.container.as_ref()?.process.streams {
        ContainerStreams::Tty { rows, cols, .. } => Some((rows, cols)),
        ContainerStreams::Pipes { .. } => None,
    }
}

/// Opens everything the sandbox needs.
pub fn order(
    config: &Config,
    image: Option<(File, PathBuf)>,
    mut timeline: Timeline,
) -> Result<Order<OwnedFd>, Failure> {
    let (image, image_path) = image.unzip();
    let unable = |message| Failure { code: exit::HOST_UNABLE, message };
    probe::quick().map_or(Ok(()), |problem| Err(unable(problem)))?;
    let kvm = probe::open_device().map_err(|e| unable(e.to_string()))?;
    timeline.mark("image_opened");
    let guest = sandbox::guest_override().map_err(Failure::setup)?;
    let trace = if config.boot.strace {
        Some(own_writer(duplicate(rustix::stdio::stderr(), "standard error")?))
    } else {
        None
    };
    let mut container =
        config.container.clone().ok_or_else(|| Failure::setup("there is no program to run"))?;
    let terminal = config_terminal(config);
    let streams = streams(terminal.is_some())?;
    let disks = disk::open(&config.disks)?;
    let opened = network::open(&config.network)?;
    let shared = shared::open(config)?;
    if let Some(base) = shared.root {
        container.root.base = base;
    }
    container.mounts.extend(shared.mounts);
    let (gofer, companion) = shared.gofer.unzip();
    Ok(Order {
        cpus: config.machine.cpus,
        memory: config.machine.memory,
        image_name: image_path.unwrap_or_default().to_string_lossy().into_owned(),
        container,
        terminal,
        log_level: config.boot.log_level.map(LogLevel::number),
        timeout: config.boot.timeout_ms.map(Duration::from_millis),
        stats: config.boot.stats,
        timeline,
        files: Files {
            kvm,
            image: image.map(OwnedFd::from),
            // Without it the guest kernel is copied.
            executable: File::open("/proc/self/exe").ok().map(OwnedFd::from),
            guest: guest.map(OwnedFd::from),
            input: streams.input,
            output: streams.output,
            error: streams.error,
            trace,
            link: None,
            log: None,
            job: streams.job,
            disks,
            interfaces: opened.interfaces,
            gofer,
        },
        network: opened.told,
        companion,
        helper: opened.helper,
    })
}

/// The jail of the sandbox; `None`: without.
pub fn jail_config(config: &Config) -> Result<Option<JailConfig>, Failure> {
    let asked = &config.jail;
    if !asked.enabled {
        return Ok(None);
    }
    let id = match &asked.name {
        Some(name) => SandboxId::new(name.clone()),
        None => SandboxId::random(),
    };
    let mut jail = JailConfig::new(id.map_err(Failure::setup)?);
    jail.cgroup_parent = asked.cgroup_parent.clone();
    // A limit somebody asked for must hold.
    jail.require_cgroup = asked.host_memory.is_some() || asked.host_cpu_millis.is_some();
    let by_passt = config.network.interfaces.iter().any(|interface| matches!(interface.host, Host::Passt(_)));
    let default =
        || host_memory(config.machine.memory, config.machine.cpus) + if by_passt { PASST_MEMORY } else { 0 };
    let memory = asked.host_memory.unwrap_or_else(default);
    jail.limits.memory = Some(memory);
    jail.limits.cpu_millis = asked.host_cpu_millis;
    jail.check().map_err(Failure::setup)?;
    Ok(Some(jail))
}

const NO_JAIL: &str = "--no-jail: the VMM runs with all rights of this user and sees this host's files, processes and \
                       network; a guest that takes the VMM over has them, too";

/// Carries the order out in this process.
pub fn here(
    mut order: Order<OwnedFd>,
    signals: Signals,
    api: Option<(Server, Ends)>,
) -> Result<Conclusion, Failure> {
    // It ends when its socket does, and by the signal that it asks for when its parent goes.
    let gofer = order.companion.take().map(ringfence_jailer::Companion::start_without_jail);
    gofer.transpose().map_err(|e| Failure::setup(format!("cannot start the gofer: {e}")))?;
    // The same.
    let helper = order.helper.take().map(ringfence_jailer::Helper::start_without_jail);
    helper.transpose().map_err(Failure::setup)?;
    report(&format!("warning: {NO_JAIL}"));
    let mut raw = if order.terminal.is_some() { Some(enter_raw()?) } else { None };
    last_resort(order.timeout)?;
    let mut worker = None;
    if let Some((mut server, Ends { link, log, copy })) = api {
        server.connect(link, log, copy).map_err(Failure::setup)?;
        server.set_processes(vec![std::process::id() as i32]);
        worker = Some(Worker::start(server)?);
    }
    let event = |event| worker.iter().for_each(|worker| worker.event(event));
    let mut conclusion = None;
    let result = carry_out::run(order, signals, false, &mut |news| match news {
        News::Ready => event(Event::Ready),
        News::Stopped => {
            event(Event::Stopped);
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
    });
    let silent = || Failure::setup("the sandbox ended without a word");
    let result = result.and_then(|()| conclusion.ok_or_else(silent));
    if let Some(worker) = worker {
        let (code, message) = ending(&result);
        worker.over(code, message);
    }
    result
}

/// What those who wait for the end are told.
pub fn ending(result: &Result<Conclusion, Failure>) -> (u8, Option<String>) {
    match result {
        Ok(conclusion) => (conclusion.code, conclusion.message.clone()),
        Err(failure) => (failure.code, Some(failure.message.clone())),
    }
}

pub(super) fn enter_raw() -> Result<RawMode, Failure> {
    RawMode::enter().map_err(|e| Failure::setup(format!("cannot set up the terminal: {e}")))
}

/// Prints what there is to print.
pub fn conclude(told: Conclusion, counters: Option<&Counters>) -> Result<u8, Failure> {
    told.notes.iter().for_each(|note| report(note));
    if let (Some(report), Some(Counters { format, file })) = (&told.report, counters) {
        print_stats(report, *format, file.as_deref())?;
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

/// What a sandbox can take from the host when all of the guest's memory is used: page tables and KVM's own records,
/// the VMM's memory and buffers, and a margin for what of the image is counted for whoever reads it first.
fn host_memory(guest: u64, cpus: u8) -> u64 {
    guest + guest / 32 + (96 << 20) + (u64::from(cpus) << 20)
}

/// Ends the process at a time at which `--timeout` should long have ended it: whatever a thread of ours waits for (a reader
/// of standard error that does not read, for one) must not keep the sandbox alive.
pub(super) fn last_resort(timeout: Option<Duration>) -> Result<(), Failure> {
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
pub fn check_memory(bytes: u64) -> Result<(), Failure> {
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

/// The root image, and what it is called. None if the root is a directory of the host itself.
pub fn open_image(config: &Config) -> Result<Option<(File, PathBuf)>, Failure> {
    let path = match &config.image {
        Some(Image::File(image)) => image.clone(),
        Some(Image::Rootfs(dir)) => image::of_directory(dir)?,
        Some(Image::Shared(_)) => return Ok(None),
        None => return Err(Failure::setup("give the sandbox a root: --image FILE or --rootfs DIR")),
    };
    // What the guest kernel would refuse is refused here, with better words.
    let file =
        Backing::open_file(&path).map_err(|e| image::why_not(&path).unwrap_or_else(|| Failure::setup(e)))?;
    image::check(&file, &path)?;
    Ok(Some((file, path)))
}

/// A copy of a standard stream.
pub(in crate::cli) fn duplicate(fd: std::os::fd::BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Failure> {
    fcntl_dupfd_cloexec(fd, 3).map_err(|e| Failure::setup(format!("cannot duplicate {name}: {e}")))
}

/// The program's streams.
struct Streams {
    input: OwnedFd,
    output: OwnedFd,
    error: Option<OwnedFd>,
    job: Option<OwnedFd>,
}

/// The standard streams, for the program.
fn streams(tty: bool) -> Result<Streams, Failure> {
    use rustix::stdio::{stderr, stdin, stdout};
    if tty && !terminal::is_terminal() {
        return Err(Failure::setup("--tty needs a terminal on standard input"));
    }
    Ok(Streams {
        job: Job::of_caller(stdin()),
        input: own_reader(duplicate(stdin(), "standard input")?),
        output: own_writer(duplicate(stdout(), "standard output")?),
        error: if tty { None } else { Some(own_writer(duplicate(stderr(), "standard error")?)) },
    })
}

/// Hands the standard streams over. Without a terminal our own input and output become `/dev/null`, so that a
/// peer sees the end of a stream when the program closes it, not when we exit.
pub fn release_streams(tty: bool) -> Result<(), Failure> {
    if tty {
        return Ok(());
    }
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(|e| Failure::setup(format!("cannot open /dev/null: {e}")))?;
    rustix::stdio::dup2_stdin(&null)
        .and_then(|()| rustix::stdio::dup2_stdout(&null))
        .map_err(|e| Failure::setup(format!("cannot release the standard streams: {e}")))
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
