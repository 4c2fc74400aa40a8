//! One port: a client at a time, each with its session.
//!
//! Threads of a running command: this port's reader (takes frames, never blocks on the command), one that
//! writes standard input, one each that reads standard output and error, and one that waits for the end. They
//! share the port's writing side behind a mutex. A session that is over ([`Session::over`]) sends nothing more.
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use ringfence_lab_agent::wire::{self, Exec, Frame, FrameReader, Kind};

use crate::process::{self, Cgroup, Started};

/// What was pushed to which path: the client's tag for it.
static PUSHED: LazyLock<Mutex<HashMap<Vec<u8>, Vec<u8>>>> = LazyLock::new(Default::default);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves clients of one port for ever.
pub fn serve_port(path: &Path) {
    let opened =
        OpenOptions::new().read(true).write(true).open(path).and_then(|port| Ok((port.try_clone()?, port)));
    let (reader, writer) = match opened {
        Ok(both) => both,
        Err(error) => return println!("lab: {}: {error}", path.display()),
    };
    let poller = match reader.try_clone() {
        Ok(poller) => poller,
        Err(error) => return println!("lab: {}: {error}", path.display()),
    };
    let writer = Arc::new(Mutex::new(writer));
    let mut reader = FrameReader::new(reader);
    loop {
        // A write blocks until a client is connected; a read would return at once, empty.
        if lock(&writer).write_all(b"\0").is_err() {
            return;
        }
        crate::SESSIONS.fetch_add(1, Ordering::Relaxed);
        crate::SERVED.fetch_add(1, Ordering::Relaxed);
        let mut session: Option<Session> = None;
        loop {
            let frame = match reader.next_frame() {
                Ok(Some(frame)) => frame,
                Ok(None) if connected_again(&poller) => continue,
                _ => break,
            };
            if frame.kind == Kind::Hello {
                // The assignment drops, and so kills, what the last client left.
                session = None;
                let new = Session::new(frame.session, writer.clone());
                if new.shared.send(Kind::HelloAck, &wire::VERSION.to_le_bytes()).is_ok() {
                    session = Some(new);
                }
            } else if let Some(session) =
                session.as_mut().filter(|session| session.shared.id == frame.session)
            {
                session.take(frame);
            }
        }
        drop(session);
        crate::SESSIONS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// After a read that found nobody: whether a client is there all the same.
///
/// The news of who connects and disconnects comes over another queue than the data. When one client follows
/// another at once, the second one's hello may be read before the first one's hang-up is known, so a hang-up
/// ends a session only if nobody is connected for a little while. A new client's hello ends it in any case.
fn connected_again(port: &File) -> bool {
    for _ in 0..20 {
        let mut poll = libc::pollfd { fd: port.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
        // SAFETY: one pollfd.
        unsafe { libc::poll(&mut poll, 1, 0) };
        if poll.revents & libc::POLLHUP == 0 {
            return true;
        }
        thread::sleep(Duration::from_millis(5));
    }
    false
}

/// What the threads of a session share.
struct Shared {
    id: u64,
    port: Arc<Mutex<File>>,
    over: AtomicBool,
    /// The command's process group, 0 when there is none (any more).
    group: AtomicI32,
}

impl Shared {
    fn send(&self, kind: Kind, payload: &[u8]) -> io::Result<()> {
        let mut port = lock(&self.port);
        if self.over.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        wire::write_frame(&mut *port, self.id, kind, payload)
    }

    fn reply(&self, word: &str, text: &str) {
        let _ = self.send(Kind::Reply, &wire::encode_strings(&[word.as_bytes(), text.as_bytes()]));
    }
}

/// A file on its way in.
struct Upload {
    path: PathBuf,
    tag: Vec<u8>,
    temporary: PathBuf,
    file: io::Result<File>,
}

struct Session {
    shared: Arc<Shared>,
    stdin: Option<Sender<Vec<u8>>>,
    terminal: Option<File>,
    cgroup: Option<Arc<Cgroup>>,
    upload: Option<Upload>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        if let Some(cgroup) = &self.cgroup
            && self.shared.group.load(Ordering::Relaxed) != 0
        {
            cgroup.kill();
        }
    }
}

impl Session {
    fn new(id: u64, port: Arc<Mutex<File>>) -> Session {
        let shared = Shared { id, port, over: AtomicBool::new(false), group: AtomicI32::new(0) };
        Session { shared: Arc::new(shared), stdin: None, terminal: None, cgroup: None, upload: None }
    }

    fn take(&mut self, frame: Frame) {
        match frame.kind {
            Kind::Exec => self.exec(&frame.payload),
            Kind::Stdin => {
                if let Some(stdin) = &self.stdin {
                    let _ = stdin.send(frame.payload);
                }
            }
            Kind::StdinEof => self.stdin = None,
            Kind::Resize => {
                if let (Some(terminal), &[r0, r1, c0, c1]) = (&self.terminal, &frame.payload[..]) {
                    process::resize(terminal, u16::from_le_bytes([r0, r1]), u16::from_le_bytes([c0, c1]));
                }
            }
            Kind::Signal => {
                let group = self.shared.group.load(Ordering::Relaxed);
                if group > 0 {
                    // SAFETY: kill takes no pointers.
                    unsafe { libc::kill(-group, frame.number() as i32) };
                }
            }
            Kind::Have => {
                let known = match &wire::decode_strings(&frame.payload).unwrap_or_default()[..] {
                    [path, tag] => lock(&PUSHED).get(path) == Some(tag),
                    _ => false,
                };
                self.shared.reply(if known { "ok" } else { "no" }, "");
            }
            Kind::Push => self.upload = begin_upload(&frame.payload),
            Kind::PushData => {
                if let Some(upload) = &mut self.upload
                    && let Ok(file) = &mut upload.file
                    && let Err(error) = file.write_all(&frame.payload)
                {
                    upload.file = Err(error);
                }
            }
            Kind::PushEnd => match self.upload.take().map(finish_upload) {
                Some(Ok(())) => self.shared.reply("ok", ""),
                Some(Err(error)) => self.shared.reply("error", &error.to_string()),
                None => self.shared.reply("error", "nothing was being pushed"),
            },
            Kind::PowerOff => crate::power_off(),
            _ => {}
        }
    }

    fn exec(&mut self, payload: &[u8]) {
        let failure = |code: i32, text: &str| {
            let _ = self.shared.send(Kind::Stderr, format!("lab: {text}\n").as_bytes());
            let _ = self.shared.send(Kind::Exit, &code.to_le_bytes());
        };
        let Some(exec) = Exec::decode(payload) else { return failure(125, "malformed command") };
        let name = String::from_utf8_lossy(exec.argv.first().map_or(&[], Vec::as_slice)).into_owned();
        let started = process::start(&exec).and_then(|started| {
            let terminal = started.stderr.is_none().then(|| started.stdout.try_clone()).transpose()?;
            Ok((started, terminal, event()?))
        });
        let (Started { child, cgroup, stdin, stdout, stderr }, terminal, ended) = match started {
            Ok(started) => started,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return failure(127, &format!("{name}: {error}"));
            }
            Err(error) => return failure(126, &format!("{name}: {error}")),
        };
        let cgroup = Arc::new(cgroup);
        self.shared.group.store(child.id() as i32, Ordering::Relaxed);
        self.cgroup = Some(cgroup.clone());
        let on_terminal = terminal.is_some();
        self.terminal = terminal;
        let (to_stdin, from_client) = channel();
        self.stdin = Some(to_stdin);
        let shared = self.shared.clone();
        thread::spawn(move || write_stdin(stdin, &from_client, &shared, on_terminal));
        let shared = self.shared.clone();
        thread::spawn(move || wait(child, stdout, stderr, &ended, &shared, cgroup));
    }
}

/// Feeds the command; what it does not want any more is still acknowledged, and thrown away.
fn write_stdin(mut stdin: File, from_client: &Receiver<Vec<u8>>, shared: &Shared, terminal: bool) {
    let mut open = true;
    for bytes in from_client {
        open = open && process::feed(&mut stdin, &bytes).is_ok();
        if shared.send(Kind::Credit, &(bytes.len() as u32).to_le_bytes()).is_err() {
            return;
        }
    }
    if terminal && open {
        let _ = process::feed(&mut stdin, b"\x04");
    }
}

/// Passes the output on and then the end.
fn wait(
    mut child: Child,
    mut stdout: File,
    stderr: Option<File>,
    ended: &(File, File),
    shared: &Shared,
    cgroup: Arc<Cgroup>,
) {
    let code = thread::scope(|scope| {
        scope.spawn(|| process::pump(&mut stdout, &ended.0, |bytes| shared.send(Kind::Stdout, bytes)));
        if let Some(mut stderr) = stderr {
            scope.spawn(move || {
                process::pump(&mut stderr, &ended.0, |bytes| shared.send(Kind::Stderr, bytes))
            });
        }
        let code = child.wait().map_or(255, process::exit_code);
        // From here on a hang-up of the client no longer kills what the command left running.
        shared.group.store(0, Ordering::Relaxed);
        let _ = (&ended.1).write_all(b"!");
        code
    });
    drop(cgroup);
    let _ = shared.send(Kind::Exit, &code.to_le_bytes());
}

/// A pipe whose reading end becomes readable once something is written: seen by any number of pollers.
fn event() -> io::Result<(File, File)> {
    let mut ends = [0; 2];
    // SAFETY: pipe2 fills two descriptors, which nobody else owns.
    unsafe {
        if libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok((OwnedFd::from_raw_fd(ends[0]).into(), OwnedFd::from_raw_fd(ends[1]).into()))
    }
}

fn begin_upload(payload: &[u8]) -> Option<Upload> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let [path, tag, mode] = <[Vec<u8>; 3]>::try_from(wire::decode_strings(payload)?).ok()?;
    let mode = u32::from_str_radix(std::str::from_utf8(&mode).ok()?, 8).ok()?;
    let path = PathBuf::from(std::ffi::OsString::from_vec(path));
    if let Some(parent) = path.parent() {
        let _ = fs::create_dir_all(parent);
    }
    let mut temporary = path.clone().into_os_string();
    temporary.push(format!(".new{}", NEXT.fetch_add(1, Ordering::Relaxed)));
    let temporary = PathBuf::from(temporary);
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary);
    Some(Upload { path, tag, temporary, file })
}

fn finish_upload(upload: Upload) -> io::Result<()> {
    drop(upload.file?);
    fs::rename(&upload.temporary, &upload.path)?;
    lock(&PUSHED).insert(upload.path.into_os_string().into_vec(), upload.tag);
    Ok(())
}
