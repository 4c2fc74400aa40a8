//! `ringfence container`: further containers in a sandbox with an API.
//!
//! A client of the API: each command is one or a few calls. The standard streams of what is started are the command's
//! own, handed to the sandbox as descriptors.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use ringfence_devices::host_stream::{own_reader, own_writer};
use ringfence_protocol::{Container, ContainerState, ContainerStatus, INIT_PROCESS, Process, Streams};
use rustix::event::{PollFd, PollFlags, poll};
use serde::Serialize;

use super::run::launch::duplicate;
use super::run::{environment, terminal_type};
use super::{Failure, Format, print};
use crate::api::client::{Answer, Client};
use crate::api::{self, Started};
use crate::exit;
use crate::signals::Signals;
use crate::terminal::{self, RawMode};

/// Arguments of `container`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The sandbox: its name, or the socket it was started with (`ringfence run --api-sock PATH`)
    #[arg(long, value_name = "NAME|PATH")]
    sandbox: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make a container; its streams are this command's
    Create {
        /// Its name
        name: String,
        /// JSON that describes it; `-` is standard input, the container's is /dev/null then
        #[arg(long, value_name = "FILE")]
        spec: PathBuf,
    },
    /// Let the program of a created container run
    Start {
        /// Its name
        name: String,
    },
    /// Make a container, start it, wait for it and remove it; signals are passed on, the exit code is the program's
    Run {
        /// Its name
        name: String,
        /// JSON that describes it; `-` is standard input, the container's is /dev/null then
        #[arg(long, value_name = "FILE")]
        spec: PathBuf,
        /// Give its program a terminal, as `streams: {"tty": …}` in the description does
        #[arg(long, short)]
        tty: bool,
    },
    /// Run a program in a running container; signals are passed on, the exit code is the program's
    Exec(Exec),
    /// Send a signal to the first program of a container, whose end is the end of all in it
    Kill {
        /// The container's name
        name: String,
        /// Name or number of the signal
        #[arg(default_value = "TERM", value_parser = signal)]
        signal: u32,
        /// Another process than the first, by the number `exec` was answered with
        #[arg(long, value_name = "N", default_value_t = INIT_PROCESS)]
        process: u32,
    },
    /// Wait until a container is stopped; the exit code is its program's
    Wait {
        /// Its name
        name: String,
    },
    /// List containers
    Ls {
        /// How they are printed
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// Forget a container that is not running
    Rm {
        /// Its name
        name: String,
    },
}

#[derive(Debug, clap::Args)]
struct Exec {
    /// The container's name; the program of `ringfence run` is in `main`
    name: String,
    #[command(flatten)]
    program: Program,
}

/// A program to run.
#[derive(Debug, clap::Args)]
pub struct Program {
    /// Environment variable; without `=VALUE` it is passed on from here
    #[arg(long, short, value_name = "K[=V]")]
    env: Vec<String>,
    /// Working directory
    #[arg(long, value_name = "DIR", default_value = "/")]
    cwd: String,
    /// User to run as, by name or number
    #[arg(long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Give the program a terminal
    #[arg(long, short)]
    tty: bool,
    /// The program and its arguments
    #[arg(required = true, last = true, value_name = "PROG")]
    command: Vec<String>,
}

/// A signal by name or number.
pub fn signal(text: &str) -> Result<u32, String> {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
        "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
        "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let by_name = NAMES.iter().position(|n| *n == name).map(|n| n as u32 + 1);
    by_name
        .or_else(|| text.parse().ok().filter(|n| (1..=64).contains(n)))
        .ok_or_else(|| "a signal is a name, such as TERM, or a number from 1 to 64".into())
}

/// Runs `ringfence container`.
pub fn main(args: &Args) -> Result<u8, Failure> {
    let mut client = Client::of(&args.sandbox)?;
    match &args.command {
        Command::Create { name, spec } => create(&mut client, name, spec, None).map(|_| 0),
        Command::Start { name } => client.done("POST", &of(name, "/start"), None::<&()>),
        Command::Run { name, spec, tty } => {
            let signals = Signals::block().map_err(no_signals)?;
            let on_terminal = create(&mut client, name, spec, Some(*tty))?;
            let raw = on_terminal.then(RawMode::enter).transpose().map_err(no_terminal);
            let status = raw.and_then(|_raw| {
                let started: Started = client.call("POST", &of(name, "/start"), None::<&()>)?.document()?;
                follow(&mut client, name, started.process, signals)
            });
            let removed = client.done("DELETE", &of(name, ""), None::<&()>);
            status.and_then(|code| removed.map(|_| code))
        }
        Command::Exec(exec) => exec.program.run(&mut client, &exec.name),
        Command::Kill { name, signal, process } => kill(&mut client, name, *process, *signal),
        Command::Wait { name } => wait(&mut client, name, INIT_PROCESS),
        Command::Ls { format } => list(&mut client, *format),
        Command::Rm { name } => client.done("DELETE", &of(name, ""), None::<&()>),
    }
}

fn no_terminal(e: io::Error) -> Failure {
    Failure::setup(format!("cannot set up the terminal: {e}"))
}

fn no_signals(e: io::Error) -> Failure {
    Failure::setup(format!("cannot open a signalfd: {e}"))
}

/// Path of something of a container. The name is written so that whatever it is stays one part of the path.
fn of(container: &str, what: &str) -> String {
    let mut path = "/containers/".to_owned();
    for byte in container.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-' => path.push(byte.into()),
            _ => path += &format!("%{byte:02X}"),
        }
    }
    path + what
}

/// Sends a signal to a process.
pub fn kill(client: &mut Client, container: &str, process: u32, signal: u32) -> Result<u8, Failure> {
    let path = of(container, &format!("/processes/{process}/signal"));
    client.done("POST", &path, Some(&api::Signal { signal }))
}

fn wait(client: &mut Client, container: &str, process: u32) -> Result<u8, Failure> {
    let status = client.get(&of(container, &format!("/processes/{process}/wait")))?;
    Ok(exit::of_status(status))
}

/// Sends a request with streams. Pipes and terminals are opened anew: the sandbox's process cannot do that.
fn send_with(
    client: &mut Client,
    method: &str,
    path: &str,
    body: &impl Serialize,
    streams: &[BorrowedFd<'_>],
) -> Result<Answer, Failure> {
    let mut own = Vec::new();
    for (n, stream) in streams.iter().enumerate() {
        let copy = duplicate(*stream, "a standard stream")?;
        own.push(if n == 0 { own_reader(copy) } else { own_writer(copy) });
    }
    let own: Vec<_> = own.iter().map(AsFd::as_fd).collect();
    client.send(method, path, Some(body), &own)?;
    client.receive()?.good()
}

/// The size of the terminal on standard input, which `--tty` is about.
fn terminal_size() -> Result<(u16, u16), Failure> {
    if !terminal::is_terminal() {
        return Err(Failure::setup("--tty needs a terminal on standard input"));
    }
    Ok(terminal::size().unwrap_or((24, 80)))
}

/// Makes a container. `follows`: whether this command stays with it, and then, whether a terminal was asked for. Says whether it
/// has one.
fn create(client: &mut Client, name: &str, file: &PathBuf, follows: Option<bool>) -> Result<bool, Failure> {
    let text = match file.as_os_str() == "-" {
        true => io::read_to_string(io::stdin()),
        false => std::fs::read_to_string(file),
    };
    let text = text.map_err(|e| Failure::setup(format!("cannot read {}: {e}", file.display())))?;
    let mut spec: Container = serde_json::from_str(&text)
        .map_err(|e| Failure::setup(format!("{} does not describe a container: {e}", file.display())))?;
    let tty = follows == Some(true) || matches!(spec.process.streams, Streams::Tty { .. });
    if tty {
        if follows.is_none() {
            return Err(Failure::setup("nobody would be at the terminal of this container; use `run --tty`"));
        }
        if file.as_os_str() == "-" {
            return Err(Failure::setup("standard input cannot be the description and the terminal"));
        }
        let (rows, cols) = terminal_size()?;
        let process = &mut spec.process;
        process.streams = Streams::Tty { port: 0, rows, cols };
        if !process.env.iter().any(|entry| entry.starts_with("TERM=")) {
            process.env.push(terminal_type());
        }
    }
    let null = std::fs::File::open("/dev/null").map_err(Failure::setup)?;
    let input = if file.as_os_str() == "-" { null.as_fd() } else { rustix::stdio::stdin() };
    let streams = [input, rustix::stdio::stdout(), rustix::stdio::stderr()];
    let streams = if tty { &streams[..2] } else { &streams[..] };
    send_with(client, "PUT", &of(name, ""), &spec, streams).map(|_| tty)
}

impl Program {
    /// Runs it in a container, and follows it to its end.
    pub fn run(&self, client: &mut Client, container: &str) -> Result<u8, Failure> {
        let signals = Signals::block().map_err(no_signals)?;
        let size = self.tty.then(terminal_size).transpose()?;
        let process = Process {
            args: self.command.clone(),
            env: environment(&self.env, self.tty, self.user.is_some()),
            cwd: self.cwd.clone(),
            user: self.user.clone(),
            streams: match size {
                Some((rows, cols)) => Streams::Tty { port: 0, rows, cols },
                None => Streams::default(),
            },
        };
        let pipes = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
        let streams = if self.tty { &pipes[..2] } else { &pipes[..] };
        let started: Started =
            send_with(client, "POST", &of(container, "/exec"), &process, streams)?.document()?;
        let raw = self.tty.then(RawMode::enter).transpose().map_err(no_terminal)?;
        let status = follow(client, container, started.process, signals);
        drop(raw);
        status
    }
}

/// Waits for the end of a process and passes signals on to it, over a connection of their own.
fn follow(client: &mut Client, name: &str, process: u32, mut signals: Signals) -> Result<u8, Failure> {
    client.send("GET", &of(name, &format!("/processes/{process}/wait")), None::<&()>, &[])?;
    let mut other = None;
    while !client.has_input() {
        let mut fds = [PollFd::new(client, PollFlags::IN), PollFd::new(&signals, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(Failure::setup(e)),
        }
        if !fds[0].revents().is_empty() {
            break;
        }
        while let Some(signal) = signals.take() {
            let other = match &mut other {
                Some(other) => other,
                None => other.insert(client.again()?),
            };
            // One that comes too late is no failure.
            let _ = match (signal == libc::SIGWINCH, terminal::size()) {
                (false, _) => kill(other, name, process, signal as u32),
                (true, Some((rows, cols))) => {
                    let path = of(name, &format!("/processes/{process}/resize"));
                    other.done("POST", &path, Some(&api::Resize { rows, cols }))
                }
                (true, None) => Ok(0),
            };
        }
    }
    Ok(exit::of_status(client.receive()?.document()?))
}

fn list(client: &mut Client, format: Format) -> Result<u8, Failure> {
    let containers: Vec<ContainerStatus> = client.get("/containers")?;
    let text = match format {
        Format::Json => serde_json::to_string(&containers).map_err(Failure::setup)? + "\n",
        Format::Text => table(&containers),
    };
    print(&text)
}

fn table(containers: &[ContainerStatus]) -> String {
    let mut text = format!("{:<24} {:<14} {:>6} {:>8}\n", "NAME", "STATE", "TASKS", "MEMORY");
    for c in containers {
        let state = match c.state {
            ContainerState::Created => "created".to_owned(),
            ContainerState::Running => "running".to_owned(),
            ContainerState::Stopped(status) => format!("stopped ({})", exit::of_status(status)),
        };
        let memory = format!("{}K", c.memory >> 10);
        text += &format!("{:<24} {:<14} {:>6} {:>8}\n", c.container, state, c.tasks, memory);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        assert_eq!((signal("TERM"), signal("sigkill"), signal("64")), (Ok(15), Ok(9), Ok(64)));
        assert!(signal("0").is_err() && signal("65").is_err() && signal("NO").is_err());
    }

    #[test]
    fn a_short_description_is_enough_and_a_wrong_word_is_not() {
        let short: Container = serde_json::from_str(r#"{"process":{"args":["true"]}}"#).unwrap();
        assert_eq!((short.process.cwd.as_str(), short.root.path.as_str()), ("/", "/"));
        let wrong = serde_json::from_str::<Container>(r#"{"process":{"args":["true"]},"limit":{}}"#);
        assert!(wrong.unwrap_err().to_string().contains("unknown field `limit`"));
    }
}
