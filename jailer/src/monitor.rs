//! The monitor: the process between the supervisor and the VMM.
//!
//! It exists so that whatever is killed, somebody is left who cleans up (see the crate's page), and so that the
//! VMM, process 1 of its namespace, has a parent that can do nothing but watch. It has one thread, holds no
//! descriptor of the sandbox, and takes from the supervisor only one thing: numbers of signals to pass on.
//!
//! The fork comes first and everything on the host is made by the monitor, so that at no moment something exists
//! that only one process knows of.
//!
//! Supervisor and monitor speak over a SEQPACKET pair: signal numbers one way, one [`Said`] as JSON each the
//! other way. The VMM's process and the monitor speak over a second pair until the exec closes it: the monitor
//! writes one byte when the identity maps are there, a failed step comes back as its number and errno.

use std::cell::RefCell;
use std::ffi::CString;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus, pidfd_send_signal, waitid};
use serde::{Deserialize, Serialize};

use crate::cgroup::Cgroup;
use crate::child::{self, Birth, STEPS};
use crate::companion::{Companion, Share};
use crate::config::{JailConfig, is_root};
use crate::helper::Helper;
use crate::runtime::{self, Runtime};
use crate::{JailError, sys};

/// Name of the step before [`STEPS`].
const CLONE: &str = "namespaces";

/// What is run in the jail.
#[derive(Debug)]
pub struct Program {
    /// A static executable, opened for reading or with O_PATH.
    pub file: OwnedFd,
    /// `argv`.
    pub args: Vec<CString>,
    /// Descriptors it gets as 3, 4, 5, … Standard input and output are `/dev/null`; standard error is the caller's.
    pub descriptors: Vec<OwnedFd>,
    /// `/dev/null`.
    pub null: OwnedFd,
    /// A second process, which ends with it.
    pub companion: Option<Companion>,
    /// A program of the host, which ends with it, too.
    pub helper: Option<Helper>,
}

impl Program {
    /// This executable again, with other arguments.
    pub fn this(args: Vec<CString>, descriptors: Vec<OwnedFd>) -> io::Result<Self> {
        let open = |path: &str, flags| {
            rustix::fs::open(path, flags | rustix::fs::OFlags::CLOEXEC, rustix::fs::Mode::empty())
        };
        Ok(Self {
            file: open("/proc/self/exe", rustix::fs::OFlags::PATH)?,
            null: open("/dev/null", rustix::fs::OFlags::RDWR)?,
            args,
            descriptors,
            companion: None,
            helper: None,
        })
    }

    /// Numbers below this will be the program's.
    fn first_free(&self) -> i32 {
        3 + self.descriptors.len() as i32
    }
}

/// How the jailed program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// With this code.
    Exited(i32),
    /// By this signal.
    Killed(i32),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Said {
    Started { program: i32, warnings: Vec<String> },
    Refused(String),
    Failed { step: String, errno: i32 },
    Ended(Outcome),
}

/// The supervisor's side of a running jail.
#[derive(Debug)]
pub struct Monitor {
    pid: Pid,
    program: Option<Pid>,
    link: OwnedFd,
    base: PathBuf,
    config: JailConfig,
    reaped: bool,
}

impl Monitor {
    /// Makes the jail, with its directory below `base`, and starts the program in it. Returns when it runs, with
    /// warnings about what this host cannot enforce; on an error nothing is left.
    ///
    /// `program` is called in the monitor, once the directory is there. The calling process must have one
    /// thread only (it forks).
    pub fn start(
        config: JailConfig,
        base: &Path,
        program: impl FnOnce(&Runtime) -> io::Result<Program>,
    ) -> Result<(Self, Vec<String>), JailError> {
        config.check()?;
        let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let (link, monitors_end) = pair.map_err(|e| JailError::host("make a socket pair", e))?;
        let forked = sys::fork().map_err(|source| JailError::Host {
            what: "fork".to_owned(),
            source,
            advice: "; raise the limit of processes (ulimit -u)",
        })?;
        let Some(pid) = forked else {
            drop(link);
            watch(&config, base, program, &monitors_end);
            sys::exit(0)
        };
        drop((monitors_end, program));
        let mut monitor = Self { pid, program: None, link, base: base.to_owned(), config, reaped: false };
        let said = monitor.receive();
        if let Some(Said::Started { program, warnings }) = said {
            monitor.program = Pid::from_raw(program);
            return Ok((monitor, warnings));
        }
        monitor.finish()?;
        Err(match said {
            Some(Said::Failed { step, errno }) => {
                JailError::Step { step, source: io::Error::from_raw_os_error(errno) }
            }
            Some(Said::Refused(why)) => JailError::Invalid(why),
            _ => JailError::MonitorLost,
        })
    }

    /// Passes a signal on to the program.
    pub fn signal(&self, signal: i32) {
        // A monitor that is gone has taken the program with it; `wait` tells.
        let _ = send(&self.link, &signal.to_le_bytes(), SendFlags::NOSIGNAL);
    }

    /// The monitor's process.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// The program's process, as the host numbers it. Somebody else's once the program has ended.
    pub fn program(&self) -> Option<Pid> {
        self.program
    }

    /// After the link has become readable: how the program ended. What it had on the host is gone then. `None`
    /// when the monitor was killed, and the program with it.
    pub fn wait(mut self) -> Result<Option<Outcome>, JailError> {
        let said = self.receive();
        self.finish()?;
        Ok(match said {
            Some(Said::Ended(outcome)) => Some(outcome),
            _ => None,
        })
    }

    fn receive(&self) -> Option<Said> {
        let mut buffer = [0u8; 4096];
        loop {
            match recv(&self.link, &mut buffer, RecvFlags::empty()) {
                Err(Errno::INTR) => {}
                Ok((_, n)) if n > 0 => return serde_json::from_slice(buffer.get(..n)?).ok(),
                _ => return None,
            }
        }
    }

    /// Waits for the monitor's end, and does its work if it was killed before it could.
    fn finish(&mut self) -> Result<(), JailError> {
        self.reaped = true;
        // Its end is certain: it ends when the link does, and otherwise by itself.
        while let Err(Errno::INTR) = waitid(WaitId::Pid(self.pid), WaitIdOptions::EXITED) {}
        runtime::sweep(&self.base, &self.config)
    }
}

impl AsFd for Monitor {
    /// Readable when the program or the monitor has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.link.as_fd()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        if !self.reaped {
            let _ = rustix::net::shutdown(&self.link, rustix::net::Shutdown::Both);
            // Whatever is left will be removed by who takes the name next.
            let _ = self.finish();
        }
    }
}

const ROOTLESS: &str = "without root the jail is weaker: the VMM runs as your own user, so it is kept from your \
                        other processes and files by its namespaces and filters only, and limits hold only in a \
                        delegated cgroup";

/// The monitor's life.
fn watch(
    config: &JailConfig,
    base: &Path,
    program: impl FnOnce(&Runtime) -> io::Result<Program>,
    link: &OwnedFd,
) {
    sys::block_signals(true);
    // For who looks at a list of processes; the name says nothing else.
    let _ = rustix::thread::set_name(c"ringfence-mon");
    let last_words = match Jail::make(config, base) {
        Ok((jail, warnings)) => {
            let said = serve(&jail, warnings, program, link);
            // What cannot be removed now is tried again by the supervisor, which can report it.
            let _ = jail.remove();
            said
        }
        Err(e) => Said::Refused(e.to_string()),
    };
    say(link, &last_words);
}

fn serve(
    jail: &Jail<'_>,
    warnings: Vec<String>,
    program: impl FnOnce(&Runtime) -> io::Result<Program>,
    link: &OwnedFd,
) -> Said {
    let mut program = match program(&jail.runtime) {
        Ok(program) => program,
        Err(e) => return Said::Refused(format!("cannot prepare the sandbox: {e}")),
    };
    // What the VMM is told to use is there first.
    let helper = program
        .helper
        .take()
        .map(|it| it.start(jail.cgroup.as_ref().map(AsFd::as_fd), Some(jail.runtime.ids())).map(Running));
    let helper = match helper.transpose() {
        Ok(helper) => helper,
        Err(e) => return Said::Refused(e.to_string()),
    };
    let companion = match program.companion.take().map(|it| accompany(jail, it)).transpose() {
        Ok(companion) => companion,
        Err((step, e)) => {
            let errno = e.raw_os_error().unwrap_or(libc::EIO);
            return Said::Failed { step: format!("{step} (of the gofer)"), errno };
        }
    };
    match birth(jail, program, None, Vec::new()) {
        Ok((pid, vmm)) => {
            let mut ours = jail.runtime.locks();
            ours.extend([link.as_fd(), vmm.as_fd()]);
            ours.extend(companion.iter().chain(&helper).map(|it| it.0.as_fd()));
            ours.extend(jail.cgroup.as_ref().map(AsFd::as_fd));
            sys::close_all_but(&ours);
            say(link, &Said::Started { program: pid.as_raw_pid(), warnings });
            Said::Ended(guard(&vmm, link))
        }
        Err((step, e)) => {
            Said::Failed { step: step.to_owned(), errno: e.raw_os_error().unwrap_or(libc::EIO) }
        }
    }
}

/// A process that is killed and waited for when it is dropped.
struct Running(OwnedFd);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = pidfd_send_signal(&self.0, Signal::KILL);
        reap(&self.0);
    }
}

/// Starts the companion.
fn accompany(jail: &Jail<'_>, companion: Companion) -> Result<Running, (&'static str, io::Error)> {
    let Companion { args, descriptors, shares } = companion;
    let at = |e: io::Error| ("shared directories", e);
    let mounts =
        if is_root() { shares.iter().map(Share::detach).collect::<io::Result<_>>() } else { Ok(vec![]) };
    let program = Program::this(args, descriptors).map_err(at)?;
    let (_, pidfd) = birth(jail, program, Some(&shares), mounts.map_err(at)?)?;
    Ok(Running(pidfd))
}

fn say(link: &OwnedFd, said: &Said) {
    if let Ok(text) = serde_json::to_vec(said) {
        // A supervisor that is gone needs no answer.
        let _ = send(link, &text, SendFlags::NOSIGNAL);
    }
}

/// What is made on the host for the sandbox and has to go with it.
struct Jail<'a> {
    config: &'a JailConfig,
    runtime: Runtime,
    cgroup: Option<Cgroup>,
}

impl<'a> Jail<'a> {
    /// Returns warnings as well.
    fn make(config: &'a JailConfig, base: &Path) -> Result<(Self, Vec<String>), JailError> {
        let mut runtime = Runtime::claim(base, &config.id, config.identity)?;
        let mut warnings = Vec::new();
        let cgroup = match Self::cgroup(config, &mut runtime) {
            Ok(Ok(cgroup)) => Some(cgroup),
            Ok(Err(warning)) => {
                warnings.push(warning);
                None
            }
            Err(e) => {
                let _ = runtime.remove();
                return Err(e);
            }
        };
        if !is_root() {
            warnings.push(ROOTLESS.to_owned());
        }
        Ok((Self { config, runtime, cgroup }, warnings))
    }

    fn cgroup(config: &JailConfig, runtime: &mut Runtime) -> Result<Result<Cgroup, String>, JailError> {
        if let Some(left) = runtime.left() {
            left.remove()?;
        }
        let made = Cgroup::create(config)?;
        if let Ok(cgroup) = &made
            && let Err(e) = runtime.note(cgroup)
        {
            let _ = cgroup.remove();
            return Err(e);
        }
        Ok(made)
    }

    fn remove(self) -> Result<(), JailError> {
        if let Some(cgroup) = &self.cgroup {
            cgroup.remove()?;
        }
        self.runtime.remove()
    }
}

/// Clones the VMM's process and sees it through its steps.
///
/// With `shares` it is the companion, and `mounts` are what the monitor has made of them.
fn birth(
    jail: &Jail<'_>,
    program: Program,
    shares: Option<&[Share]>,
    mounts: Vec<OwnedFd>,
) -> Result<(Pid, OwnedFd), (&'static str, io::Error)> {
    let at_clone = |e: io::Error| (CLONE, e);
    let (mut ours, theirs) = UnixStream::pair().map_err(at_clone)?;
    // What the steps still need once the program's descriptors are in their places.
    let first_free = program.first_free() + shares.map_or(0, |shares| shares.len() as i32 + 1);
    let above = |fd: OwnedFd| fcntl_dupfd_cloexec(fd, first_free).map_err(|e| at_clone(e.into()));
    let theirs = UnixStream::from(above(theirs.into())?);
    let file = above(program.file)?;
    let program = Program { file, ..program };
    let privileged = is_root();
    let whole = shares.is_some() && privileged;
    let (uid, gid) = if whole { (0, 0) } else { jail.runtime.ids() };
    let cloned =
        sys::clone_into(child::NAMESPACES, jail.cgroup.as_ref().map(AsFd::as_fd)).map_err(at_clone)?;
    let Some((pid, pidfd)) = cloned else {
        drop(ours);
        let birth = Birth {
            config: jail.config,
            ids: (uid, gid),
            may_drop_groups: privileged,
            link: &theirs,
            program: &program,
            shares,
            mounts: RefCell::new(mounts),
        };
        let Err((step, e)) = child::live(&birth);
        let errno = e.raw_os_error().unwrap_or(libc::EIO);
        let mut link = &theirs;
        let _ = link.write_all(&[step as u8]).and_then(|()| link.write_all(&errno.to_le_bytes()));
        sys::exit(1)
    };
    drop((theirs, program, mounts));
    let ended = |e: io::Error, step| {
        let _ = pidfd_send_signal(&pidfd, Signal::KILL);
        let _ = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
        Err((step, e))
    };
    if let Err(e) = map_ids(pid, uid, gid, whole).and_then(|()| ours.write_all(&[1])) {
        return ended(e, STEPS[0].0);
    }
    let mut failure = [0u8; 5];
    match ours.read_exact(&mut failure) {
        // The exec has closed the other end: it runs.
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok((pid, pidfd)),
        Err(e) => ended(e, CLONE),
        Ok(()) => {
            let [step, a, b, c, d] = failure;
            let name = STEPS.get(usize::from(step)).map_or(CLONE, |(name, _)| name);
            ended(io::Error::from_raw_os_error(i32::from_le_bytes([a, b, c, d])), name)
        }
    }
}

/// The one id of the new user namespace. Without privilege the kernel wants `setgroups(2)` given up first
/// (user_namespaces(7)). `whole`: all ids, each to itself.
fn map_ids(pid: Pid, uid: u32, gid: u32, whole: bool) -> io::Result<()> {
    let proc = format!("/proc/{}", pid.as_raw_nonzero());
    if !is_root() {
        fs::write(format!("{proc}/setgroups"), "deny")?;
    }
    let count = if whole { u32::MAX } else { 1 };
    fs::write(format!("{proc}/uid_map"), format!("{uid} {uid} {count}"))?;
    fs::write(format!("{proc}/gid_map"), format!("{gid} {gid} {count}"))
}

/// Who has waited for so long will probably wait longer, and lets its code go ([`crate::release_code`]).
pub const PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 500_000_000 };

/// Waits for the VMM's end, and brings it about when the supervisor has gone.
fn guard(vmm: &OwnedFd, link: &OwnedFd) -> Outcome {
    let mut supervised = true;
    let mut patience = Some(&PATIENCE);
    loop {
        let mut fds = [PollFd::new(vmm, PollFlags::IN), PollFd::new(link, PollFlags::IN)];
        let watched = if supervised { &mut fds[..] } else { &mut fds[..1] };
        if let Ok(0) = poll(watched, patience) {
            patience = None;
            sys::release_code();
            continue;
        }
        let (over, called) = (!fds[0].revents().is_empty(), !fds[1].revents().is_empty());
        if over {
            return reap(vmm);
        }
        if called {
            let mut number = [0u8; 4];
            match recv(link, &mut number, RecvFlags::empty()) {
                Ok((_, 4)) => {
                    if let Some(signal) = Signal::from_named_raw(i32::from_le_bytes(number)) {
                        let _ = pidfd_send_signal(vmm, signal);
                    }
                }
                Err(Errno::INTR) => {}
                _ => {
                    supervised = false;
                    let _ = pidfd_send_signal(vmm, Signal::KILL);
                }
            }
        }
    }
}

fn reap(vmm: &OwnedFd) -> Outcome {
    loop {
        match waitid(WaitId::PidFd(vmm.as_fd()), WaitIdOptions::EXITED) {
            Ok(Some(status)) => return outcome(&status),
            Err(Errno::INTR) => {}
            _ => return Outcome::Killed(Signal::KILL.as_raw()),
        }
    }
}

fn outcome(status: &WaitIdStatus) -> Outcome {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Outcome::Exited(code),
        (None, Some(signal)) => Outcome::Killed(signal),
        (None, None) => Outcome::Killed(Signal::KILL.as_raw()),
    }
}
