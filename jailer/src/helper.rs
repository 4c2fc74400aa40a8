//! A program of the host that a sandbox needs beside it: `passt`, which has the network that the jail has not.
//!
//! It is nobody's prisoner of ours: it has the host's files and network, as far as its own user, namespaces and filters
//! leave them to it. What is ours: it is in the sandbox's cgroup, with its limits, gets the descriptors that it needs and no
//! other, an empty environment, as root an unprivileged id that no other sandbox has, and dies with the sandbox. It is the monitor's
//! child, which kills it when the VMM has ended; it asks for SIGKILL when its parent goes (until it becomes another user,
//! prctl(2)); the cgroup is killed as a whole; and it must itself end when its descriptor does.

use std::ffi::CString;
use std::fmt;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::config::is_root;
use crate::sys;

/// How long it may take to be ready.
const PATIENCE: Duration = Duration::from_secs(10);

/// The program.
#[derive(Debug)]
pub struct Helper {
    /// What it is called in messages.
    pub name: &'static str,
    /// Its executable.
    pub file: OwnedFd,
    /// `argv`.
    pub args: Vec<CString>,
    /// The option that tells it `UID:GID` to become, if there is one.
    pub run_as: Option<CString>,
    /// What it gets as 3, 4, …; behind them a pipe, to which it writes when it is ready, and which it closes.
    pub descriptors: Vec<OwnedFd>,
    /// The network namespace that it is in; the caller's if there is none.
    pub namespace: Option<OwnedFd>,
}

/// Why there is none.
#[derive(Debug)]
pub struct NoHelper {
    name: &'static str,
    why: io::Error,
}

impl fmt::Display for NoHelper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, why } = self;
        match why.kind() {
            io::ErrorKind::UnexpectedEof => write!(f, "{name} has ended; what it said is on standard error"),
            io::ErrorKind::TimedOut => write!(f, "{name} is not ready after {} s", PATIENCE.as_secs()),
            _ => write!(f, "cannot start {name}: {why}"),
        }
    }
}

impl Helper {
    /// Starts it in `cgroup`, waits until it is ready, and returns its pidfd. `ids`: the sandbox's own, for root. Call it with one thread.
    pub(crate) fn start(
        self,
        cgroup: Option<BorrowedFd<'_>>,
        ids: Option<(u32, u32)>,
    ) -> Result<OwnedFd, NoHelper> {
        let name = self.name;
        self.begin(cgroup, ids).map_err(|why| NoHelper { name, why })
    }

    /// The same for a sandbox without a jail; it ends with this process.
    pub fn start_without_jail(self) -> Result<(), NoHelper> {
        self.start(None, None).map(drop)
    }

    fn begin(mut self, cgroup: Option<BorrowedFd<'_>>, ids: Option<(u32, u32)>) -> io::Result<OwnedFd> {
        if let (true, Some((uid, gid)), Some(option)) = (is_root(), ids, self.run_as.take()) {
            self.args.extend([option, CString::new(format!("{uid}:{gid}"))?]);
        }
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        let (ready, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
        // It opens this by a name, perhaps as another user.
        rustix::fs::fchmod(&theirs, Mode::from_raw_mode(0o666))?;
        let parent = rustix::process::getpid();
        let Some((_, pidfd)) = sys::clone_into(0, cgroup)? else {
            let _ = self.become_it(parent, &null, &theirs);
            sys::exit(1)
        };
        drop((self, theirs));
        wait(ready).inspect_err(|_| kill(&pidfd))?;
        Ok(pidfd)
    }

    /// The child. Returns only with an error.
    fn become_it(&self, parent: Pid, null: &OwnedFd, ready: &OwnedFd) -> io::Result<()> {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        if rustix::process::getppid() != Some(parent) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        // Signals of the terminal are the program's.
        rustix::process::setsid()?;
        sys::block_signals(false);
        if let Some(namespace) = &self.namespace {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        }
        let file = rustix::io::fcntl_dupfd_cloexec(&self.file, 4 + self.descriptors.len() as i32)?;
        let mut all = vec![null.as_fd(), null.as_fd(), rustix::stdio::stderr()];
        all.extend(self.descriptors.iter().map(AsFd::as_fd));
        all.push(ready.as_fd());
        sys::place(&all)?;
        Err(sys::exec(file.as_fd(), &self.args))
    }
}

/// Until it has written something.
fn wait(ready: OwnedFd) -> io::Result<()> {
    let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    let mut fds = [PollFd::new(&ready, PollFlags::IN)];
    if poll(&mut fds, Some(&patience))? == 0 {
        return Err(io::ErrorKind::TimedOut.into());
    }
    std::fs::File::from(ready).read_exact(&mut [0])
}

fn kill(pidfd: &OwnedFd) {
    use rustix::process::{WaitId, WaitIdOptions, pidfd_send_signal, waitid};
    let _ = pidfd_send_signal(pidfd, Signal::KILL);
    let _ = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Result<OwnedFd, NoHelper> {
        let file = rustix::fs::open("/bin/sh", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let args = ["sh", "-c", script].map(|word| CString::new(word).unwrap()).into();
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).unwrap();
        Helper { name: "it", file, args, run_as: None, descriptors: vec![null], namespace: None }
            .start(None, None)
    }

    #[test]
    fn it_says_when_it_is_ready() {
        // Nothing but the standard streams, the descriptor and the pipe; no environment.
        let script = "set -- $(ls /proc/$$/fd); test $# -le 6 && test -z \"$HOME\" && echo $$ > /proc/self/fd/4; exec 4>&-; sleep 60";
        let pidfd = shell(script).map_err(|e| e.to_string()).unwrap();
        kill(&pidfd);
        assert!(shell("exit 3").err().unwrap().to_string().contains("it has ended"));
    }
}
