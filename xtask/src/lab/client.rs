//! One session with the lab: push files, run a command.
use std::ffi::OsString;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ringfence_lab_agent::wire::{self, Exec, Frame, FrameReader, Kind};

/// How long the lab may take to answer: it may be slow, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A connection to one port of the lab. Dropping it kills the command that runs in it.
pub struct Session {
    id: u64,
    stream: UnixStream,
    reader: FrameReader<UnixStream>,
    /// The lab is sent pings while a command runs.
    pings: bool,
    _port: File,
}

/// Called with each piece of output; `true` says that it is standard error.
pub type Output<'a> = dyn FnMut(bool, &[u8]) -> io::Result<()> + 'a;

/// Where a command's streams go.
pub struct Streams<'a> {
    /// Its standard input.
    pub stdin: Box<dyn Read + Send>,
    /// Takes its output.
    pub output: Box<Output<'a>>,
    /// It is given up after this time.
    pub timeout: Option<Duration>,
}

impl Streams<'_> {
    /// Our own standard streams.
    pub fn inherit() -> Streams<'static> {
        let output = |error: bool, bytes: &[u8]| {
            if error {
                io::stderr().write_all(bytes)
            } else {
                let mut stdout = io::stdout().lock();
                stdout.write_all(bytes)?;
                stdout.flush()
            }
        };
        Streams { stdin: Box::new(io::stdin()), output: Box::new(output), timeout: None }
    }
}

/// How far standard input may run ahead.
#[derive(Default)]
struct Window {
    state: Mutex<(usize, bool)>,
    changed: Condvar,
}

impl Window {
    /// Takes room for up to `wanted` bytes; `None` when the command is over.
    fn take(&self, wanted: usize) -> Option<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.0 + wanted > wire::WINDOW && !state.1 {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.0 += wanted;
        (!state.1).then_some(())
    }

    fn give(&self, taken: usize, over: bool) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 = state.0.saturating_sub(taken);
        state.1 |= over;
        self.changed.notify_all();
    }
}

impl Session {
    /// Says hello on a fresh connection. `port` is the lock that makes it ours.
    pub fn begin(stream: UnixStream, port: File, patience: Duration, pings: bool) -> Result<Session> {
        let mut id = [0; 8];
        File::open("/dev/urandom")?.read_exact(&mut id)?;
        let reader = FrameReader::new(stream.try_clone()?);
        let mut session = Session { id: u64::from_le_bytes(id), stream, reader, pings, _port: port };
        session.stream.set_write_timeout(Some(patience.max(Duration::from_millis(1))))?;
        session.stream.write_all(&[0; wire::PREAMBLE]).context("the lab does not listen")?;
        session.send(Kind::Hello, &[])?;
        let hello = session.next(Some(Instant::now() + patience))?;
        ensure!(hello.kind == Kind::HelloAck, "the lab answers {:?}", hello.kind);
        ensure!(hello.number() == wire::VERSION, "the lab was started by another version of xtask");
        session.stream.set_write_timeout(None)?;
        Ok(session)
    }

    fn send(&mut self, kind: Kind, payload: &[u8]) -> Result<()> {
        wire::write_frame(&mut self.stream, self.id, kind, payload).map_err(|_| LabEnded.into())
    }

    /// The next frame of this session.
    fn next(&mut self, deadline: Option<Instant>) -> Result<Frame> {
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                bail!(TimedOut);
            }
            self.stream.set_read_timeout(left)?;
            match self.reader.next_frame() {
                Ok(Some(frame)) if frame.session == self.id => return Ok(frame),
                Ok(Some(_)) => {}
                Ok(None) => bail!(LabEnded),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => bail!(TimedOut),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn reply(&mut self) -> Result<bool> {
        let frame = self.next(Some(Instant::now() + PATIENCE))?;
        let words = wire::decode_strings(&frame.payload).unwrap_or_default();
        match &words[..] {
            [word, _] if word == b"ok" => Ok(true),
            [word, _] if word == b"no" => Ok(false),
            [_, text] => bail!("the lab says: {}", String::from_utf8_lossy(text)),
            _ => bail!("the lab answers {:?}", frame.kind),
        }
    }

    /// Copies the file `from` to `to` in the lab, unless it is there already.
    pub fn push(&mut self, from: &Path, to: &Path) -> Result<()> {
        let content = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        let mode = format!("{:o}", fs::metadata(from)?.permissions().mode() & 0o7777);
        self.push_bytes(&content, &mode, to)
    }

    /// Writes `content` to `to` in the lab with the octal `mode`, unless it is there already.
    pub fn push_bytes(&mut self, content: &[u8], mode: &str, to: &Path) -> Result<()> {
        let mut hasher = DefaultHasher::new();
        (content, mode).hash(&mut hasher);
        let tag = format!("{:016x} {}", hasher.finish(), content.len());
        let to = to.as_os_str().as_bytes();
        self.send(Kind::Have, &wire::encode_strings(&[to, tag.as_bytes()]))?;
        if self.reply()? {
            return Ok(());
        }
        self.send(Kind::Push, &wire::encode_strings(&[to, tag.as_bytes(), mode.as_bytes()]))?;
        for chunk in content.chunks(wire::MAX_PAYLOAD) {
            self.send(Kind::PushData, chunk)?;
        }
        self.send(Kind::PushEnd, &[])?;
        self.reply().map(drop)
    }

    /// Runs a command to its end; its exit code.
    pub fn run(self, command: &[OsString], streams: Streams) -> Result<u8> {
        self.run_with(Exec { argv: super::bytes(command), ..Exec::default() }, streams, |_| ())
    }

    /// The same with everything that can be said about a command. `started` gets what changes the size of
    /// its terminal.
    pub fn run_with(mut self, exec: Exec, mut streams: Streams, started: impl FnOnce(Resizer)) -> Result<u8> {
        let deadline = streams.timeout.map(|timeout| Instant::now() + timeout);
        self.send(Kind::Exec, &exec.encode())?;
        let window = Arc::new(Window::default());
        // Writers of whole frames take turns.
        let writer = Arc::new(Mutex::new(self.stream.try_clone()?));
        started(Resizer { id: self.id, writer: writer.clone() });
        let (id, input) = (self.id, window.clone());
        let (_over, is_over) = mpsc::channel::<()>();
        if self.pings {
            let writer = writer.clone();
            thread::spawn(move || ping(id, &writer, &is_over));
        }
        thread::spawn(move || feed(&mut streams.stdin, id, &writer, &input));
        let result = loop {
            let frame = match self.next(deadline) {
                Ok(frame) => frame,
                Err(error) => break Err(error),
            };
            let outcome = match frame.kind {
                Kind::Stdout => (streams.output)(false, &frame.payload),
                Kind::Stderr => (streams.output)(true, &frame.payload),
                Kind::Credit => {
                    window.give(frame.number() as usize, false);
                    Ok(())
                }
                Kind::Exit => break Ok(frame.number() as u8),
                _ => Ok(()),
            };
            match outcome {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    break Ok(128 + libc::SIGPIPE as u8);
                }
                Err(error) => break Err(error).context("cannot pass the command's output on"),
                Ok(()) => {}
            }
        };
        window.give(0, true);
        let _ = self.stream.shutdown(Shutdown::Both);
        result
    }
}

/// Interrupts the lab once in a while until the command is over: QEMU 7.2 can lose an interrupt of the lab's timer while a
/// sandbox runs (docs/lab.md), and any other brings it back.
fn ping(id: u64, writer: &Mutex<UnixStream>, is_over: &mpsc::Receiver<()>) {
    while is_over.recv_timeout(Duration::from_secs(1)) == Err(mpsc::RecvTimeoutError::Timeout) {
        let mut stream = writer.lock().unwrap_or_else(PoisonError::into_inner);
        if wire::write_frame(&mut *stream, id, Kind::Ping, &[]).is_err() {
            return;
        }
    }
}

/// Sends standard input to its end.
fn feed(stdin: &mut dyn Read, id: u64, writer: &Mutex<UnixStream>, window: &Window) {
    let send = |kind, payload: &[u8]| {
        let mut stream = writer.lock().unwrap_or_else(PoisonError::into_inner);
        wire::write_frame(&mut *stream, id, kind, payload)
    };
    let mut buffer = vec![0; wire::MAX_PAYLOAD];
    loop {
        let count = match stdin.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            result => result.unwrap_or(0),
        };
        if count == 0 {
            let _ = send(Kind::StdinEof, &[]);
            return;
        }
        if window.take(count).is_none() || send(Kind::Stdin, &buffer[..count]).is_err() {
            return;
        }
    }
}

/// Tells a command's terminal its size.
pub struct Resizer {
    id: u64,
    writer: Arc<Mutex<UnixStream>>,
}

impl Resizer {
    /// The terminal has this many rows and columns now. `false` when the command is over.
    pub fn resize(&self, rows: u16, columns: u16) -> bool {
        let payload = [rows.to_le_bytes(), columns.to_le_bytes()].concat();
        let mut stream = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        wire::write_frame(&mut *stream, self.id, Kind::Resize, &payload).is_ok()
    }
}

/// A command did not end in its time.
#[derive(Debug, thiserror::Error)]
#[error("no answer in time")]
pub struct TimedOut;

/// The lab's machine ended while it was asked for something.
#[derive(Debug, thiserror::Error)]
#[error("the lab has ended")]
pub struct LabEnded;
