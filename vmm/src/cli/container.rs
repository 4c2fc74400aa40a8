//! `ringfence container`: further containers in a sandbox that was started with `--control`.
//!
//! A client of the control socket ([`crate::door`]): each command is one or a few questions. The standard streams of what
//! is started are the command's own, handed to the sandbox as descriptors.

use std::io::{self, BufRead, BufReader, IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use ringfence_devices::host_stream::{own_reader, own_writer};
use ringfence_protocol::{
    Container, ContainerState, ContainerStatus, INIT_PROCESS, Process, Reply, Request, Streams,
};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::run::{duplicate, environment};
use super::{Failure, Format};
use crate::door::{Answer, Question};
use crate::exit;
use crate::signals::Signals;
use crate::terminal::{self, RawMode};

/// Arguments of `container`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The socket the sandbox was started with (`ringfence run --control PATH`)
    #[arg(long, value_name = "PATH")]
    control: PathBuf,
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

fn signal(text: &str) -> Result<u32, String> {
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
    let stream = UnixStream::connect(&args.control).map_err(|e| {
        Failure::setup(format!("cannot connect to a sandbox at {}: {e}", args.control.display()))
    })?;
    let mut connection = Connection::new(stream)?;
    match &args.command {
        Command::Create { name, spec } => connection.create(name, spec).map(|_| 0),
        Command::Start { name } => connection.done(Request::Start { container: name.clone() }),
        Command::Run { name, spec } => {
            let signals = Signals::block().map_err(no_signals)?;
            connection.create(name, spec)?;
            let started = connection.started(Request::Start { container: name.clone() });
            let status = started.and_then(|process| connection.follow(name, process, signals));
            let removed = connection.done(Request::Remove { container: name.clone() });
            status.and_then(|code| removed.map(|_| code))
        }
        Command::Exec(exec) => connection.exec(exec),
        Command::Kill { name, signal, process } => {
            connection.done(Request::Signal { container: name.clone(), process: *process, signal: *signal })
        }
        Command::Wait { name } => {
            connection.send(Request::Wait { container: name.clone(), process: INIT_PROCESS }, &[])?;
            connection.ended()
        }
        Command::Ls { format } => connection.list(*format),
        Command::Rm { name } => connection.done(Request::Remove { container: name.clone() }),
    }
}

fn no_signals(e: io::Error) -> Failure {
    Failure::setup(format!("cannot open a signalfd: {e}"))
}

fn unexpected(reply: &Reply) -> Failure {
    match reply {
        Reply::Failed { errno, message } => {
            Failure { code: exit::of_start_failure(*errno), message: message.clone() }
        }
        _ => Failure { code: exit::MACHINE_FAILED, message: "the sandbox answered something else".into() },
    }
}

fn lost(e: impl ToString) -> Failure {
    let why = e.to_string();
    Failure { code: exit::MACHINE_FAILED, message: format!("the connection to the sandbox ended: {why}") }
}

struct Connection {
    stream: UnixStream,
    answers: BufReader<UnixStream>,
    next: u64,
}

impl Connection {
    fn new(stream: UnixStream) -> Result<Connection, Failure> {
        let answers = BufReader::new(stream.try_clone().map_err(lost)?);
        Ok(Connection { stream, answers, next: 1 })
    }

    /// Asks; answers the number of the question.
    fn send(&mut self, request: Request, descriptors: &[BorrowedFd<'_>]) -> Result<u64, Failure> {
        let id = self.next;
        self.next += 1;
        let mut line = serde_json::to_vec(&Question { id, request }).map_err(lost)?;
        line.push(b'\n');
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        let io = [IoSlice::new(&line)];
        let sent = sendmsg(&self.stream, &io, &mut ancillary, SendFlags::NOSIGNAL).map_err(lost)?;
        self.stream.write_all(&line[sent..]).map_err(lost)?;
        Ok(id)
    }

    fn receive(&mut self) -> Result<Answer, Failure> {
        let mut line = String::new();
        match self.answers.read_line(&mut line) {
            Ok(0) => Err(lost("the sandbox is over")),
            Ok(_) => serde_json::from_str(&line).map_err(lost),
            Err(e) => Err(lost(e)),
        }
    }

    /// Asks and waits for the answer.
    fn ask(&mut self, request: Request, descriptors: &[BorrowedFd<'_>]) -> Result<Reply, Failure> {
        self.send(request, descriptors)?;
        Ok(self.receive()?.reply)
    }

    fn done(&mut self, request: Request) -> Result<u8, Failure> {
        match self.ask(request, &[])? {
            Reply::Done | Reply::Started { .. } => Ok(0),
            other => Err(unexpected(&other)),
        }
    }

    fn started(&mut self, request: Request) -> Result<u32, Failure> {
        match self.ask(request, &[])? {
            Reply::Started { process, .. } => Ok(process),
            other => Err(unexpected(&other)),
        }
    }

    fn ended(&mut self) -> Result<u8, Failure> {
        match self.receive()?.reply {
            Reply::Ended { status } => Ok(exit::of_status(status)),
            other => Err(unexpected(&other)),
        }
    }

    /// [`Connection::ask`] with streams. Pipes and terminals are opened anew: the sandbox's process cannot do that.
    fn ask_with(&mut self, request: Request, streams: &[BorrowedFd<'_>]) -> Result<Reply, Failure> {
        let mut own = Vec::new();
        for (n, stream) in streams.iter().enumerate() {
            let copy = duplicate(*stream, "a standard stream")?;
            own.push(if n == 0 { own_reader(copy) } else { own_writer(copy) });
        }
        let own: Vec<_> = own.iter().map(AsFd::as_fd).collect();
        self.ask(request, &own)
    }

    fn create(&mut self, name: &str, file: &PathBuf) -> Result<(), Failure> {
        let text = match file.as_os_str() == "-" {
            true => io::read_to_string(io::stdin()),
            false => std::fs::read_to_string(file),
        };
        let text = text.map_err(|e| Failure::setup(format!("cannot read {}: {e}", file.display())))?;
        let spec: Container = serde_json::from_str(&text)
            .map_err(|e| Failure::setup(format!("{} does not describe a container: {e}", file.display())))?;
        if matches!(spec.process.streams, Streams::Tty { .. }) {
            return Err(Failure::setup(
                "a container with a terminal is not for this command; use `exec --tty`",
            ));
        }
        let null = std::fs::File::open("/dev/null").map_err(Failure::setup)?;
        let input = if file.as_os_str() == "-" { null.as_fd() } else { rustix::stdio::stdin() };
        let streams = [input, rustix::stdio::stdout(), rustix::stdio::stderr()];
        match self.ask_with(Request::Create { container: name.to_owned(), spec }, &streams)? {
            Reply::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    fn exec(&mut self, exec: &Exec) -> Result<u8, Failure> {
        let signals = Signals::block().map_err(no_signals)?;
        let size = match exec.tty {
            true if !terminal::is_terminal() => {
                return Err(Failure::setup("--tty needs a terminal on standard input"));
            }
            true => Some(terminal::size().unwrap_or((24, 80))),
            false => None,
        };
        let process = Process {
            args: exec.command.clone(),
            env: environment(&exec.env, exec.tty, exec.user.is_some()),
            cwd: exec.cwd.clone(),
            user: exec.user.clone(),
            streams: match size {
                Some((rows, cols)) => Streams::Tty { port: 0, rows, cols },
                None => Streams::default(),
            },
        };
        let (input, output) = (rustix::stdio::stdin(), rustix::stdio::stdout());
        let pipes = [input, output, rustix::stdio::stderr()];
        let descriptors = if exec.tty { &pipes[..2] } else { &pipes[..] };
        let request = Request::Exec { container: exec.name.clone(), process };
        let process = match self.ask_with(request, descriptors)? {
            Reply::Started { process, .. } => process,
            other => return Err(unexpected(&other)),
        };
        let no_terminal = |e| Failure::setup(format!("cannot set up the terminal: {e}"));
        let raw = exec.tty.then(RawMode::enter).transpose().map_err(no_terminal)?;
        let status = self.follow(&exec.name, process, signals);
        drop(raw);
        status
    }

    /// Waits for the end of a process and passes signals on to it.
    fn follow(&mut self, name: &str, process: u32, mut signals: Signals) -> Result<u8, Failure> {
        let container = name.to_owned();
        let wait = self.send(Request::Wait { container: container.clone(), process }, &[])?;
        loop {
            // What is read ahead does not show in the socket.
            if self.answers.buffer().is_empty() {
                let mut fds =
                    [PollFd::new(&self.stream, PollFlags::IN), PollFd::new(&signals, PollFlags::IN)];
                match poll(&mut fds, None) {
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(e) => return Err(lost(e)),
                }
                let answered = !fds[0].revents().is_empty();
                while let Some(signal) = signals.take() {
                    let container = container.clone();
                    let request = match (signal == libc::SIGWINCH, terminal::size()) {
                        (false, _) => Request::Signal { container, process, signal: signal as u32 },
                        (true, Some((rows, cols))) => Request::Resize { container, process, rows, cols },
                        (true, None) => continue,
                    };
                    self.send(request, &[])?;
                }
                if !answered {
                    continue;
                }
            }
            let answer = self.receive()?;
            match answer.reply {
                Reply::Ended { status } => return Ok(exit::of_status(status)),
                other if answer.id == wait => return Err(unexpected(&other)),
                _ => {} // a signal that came too late
            }
        }
    }

    fn list(&mut self, format: Format) -> Result<u8, Failure> {
        let containers = match self.ask(Request::List, &[])? {
            Reply::Containers { containers } => containers,
            other => return Err(unexpected(&other)),
        };
        let text = match format {
            Format::Json => serde_json::to_string(&containers).map_err(Failure::setup)? + "\n",
            Format::Text => table(&containers),
        };
        io::stdout().write_all(text.as_bytes()).map_err(|e| Failure::setup(format!("cannot print: {e}")))?;
        Ok(0)
    }
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
