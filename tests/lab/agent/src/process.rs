//! Running one command: its streams, its cgroup, its end.
//!
//! Every command gets a session and a cgroup of its own, so that when its client goes away all of it can be
//! killed, whatever it forked. What it left running when it ended by itself is left alone, as a shell would.
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::{ffi::OsString, ptr};

use ringfence_lab_agent::wire::Exec;

/// A cgroup directory, removed when dropped if nothing lives in it any more.
pub struct Cgroup(PathBuf);

impl Cgroup {
    fn new() -> io::Result<Cgroup> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let path = format!("/sys/fs/cgroup/command-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        fs::create_dir(&path)?;
        Ok(Cgroup(path.into()))
    }

    /// Kills every process in it.
    pub fn kill(&self) {
        let _ = fs::write(self.0.join("cgroup.kill"), "1");
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for _ in 0..50 {
            match fs::remove_dir(&self.0) {
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
                _ => return,
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }
}

/// A started command and our ends of its streams. On a terminal there is no `stderr`, and `stdin` and
/// `stdout` are both the terminal's master.
pub struct Started {
    /// To be waited for.
    pub child: Child,
    /// Where it lives.
    pub cgroup: Cgroup,
    /// What we write.
    pub stdin: File,
    /// What we read.
    pub stdout: File,
    /// What we read, too.
    pub stderr: Option<File>,
}

/// Starts `exec`.
pub fn start(exec: &Exec) -> io::Result<Started> {
    let mut arguments = exec.argv.iter().map(|bytes| OsString::from_vec(bytes.clone()));
    let mut command = Command::new(arguments.next().unwrap_or_default());
    command.args(arguments);
    command.current_dir(if exec.cwd.is_empty() {
        "/root".into()
    } else {
        OsString::from_vec(exec.cwd.clone())
    });
    for pair in &exec.env {
        if let Some(split) = pair.iter().position(|byte| *byte == b'=') {
            let value = OsString::from_vec(pair[split + 1..].to_vec());
            command.env(OsString::from_vec(pair[..split].to_vec()), value);
        }
    }
    let cgroup = Cgroup::new()?;
    let members = OpenOptions::new().write(true).open(cgroup.0.join("cgroup.procs"))?;
    let master = exec.terminal.map(open_terminal).transpose()?;
    let terminal = match &master {
        Some((_, slave)) => {
            let stream = || slave.try_clone().map(Stdio::from);
            command.stdin(stream()?).stdout(stream()?).stderr(stream()?);
            true
        }
        None => {
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            false
        }
    };
    // SAFETY: only async-signal-safe system calls between fork and exec.
    unsafe {
        command.pre_exec(move || {
            libc::setsid();
            if libc::write(members.as_raw_fd(), c"0".as_ptr().cast(), 1) != 1 {
                return Err(io::Error::last_os_error());
            }
            if terminal && libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
    let mut child = command.spawn()?;
    let missing = || io::Error::other("a stream is missing");
    let (stdin, stdout, stderr) = match master {
        Some((master, _)) => (master.try_clone()?, master, None),
        None => {
            let stdin = OwnedFd::from(child.stdin.take().ok_or_else(missing)?);
            let stdout = OwnedFd::from(child.stdout.take().ok_or_else(missing)?);
            let stderr = OwnedFd::from(child.stderr.take().ok_or_else(missing)?);
            (stdin.into(), stdout.into(), Some(stderr.into()))
        }
    };
    Ok(Started { child, cgroup, stdin, stdout, stderr })
}

fn open_terminal((rows, columns): (u16, u16)) -> io::Result<(File, File)> {
    let (mut master, mut slave) = (0, 0);
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: openpty fills the two descriptors and reads `size`.
    if unsafe { libc::openpty(&mut master, &mut slave, ptr::null_mut(), ptr::null(), &size) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: openpty has just made these, nobody else owns them; the fcntl takes no pointers.
    unsafe {
        for descriptor in [master, slave] {
            libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC);
        }
        Ok((File::from_raw_fd(master), File::from_raw_fd(slave)))
    }
}

/// Tells a terminal its size.
pub fn resize(terminal: &File, rows: u16, columns: u16) {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the ioctl reads `size`.
    unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &size) };
}

/// The exit code as a shell gives it.
pub fn exit_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// Copies `from` to `sink` until end of file, or until `ended` becomes readable and what the pipe held then
/// is copied: a background process that keeps the pipe open does not hold the command's end up.
pub fn pump(from: &mut File, ended: &File, mut sink: impl FnMut(&[u8]) -> io::Result<()>) {
    let mut buffer = vec![0; ringfence_lab_agent::wire::MAX_PAYLOAD];
    let mut left: Option<usize> = None;
    loop {
        if left.is_none() {
            let mut wait = [from.as_raw_fd(), ended.as_raw_fd()].map(|fd| libc::pollfd {
                fd,
                events: libc::POLLIN,
                revents: 0,
            });
            // SAFETY: `wait` is an array of two.
            unsafe { libc::poll(wait.as_mut_ptr(), 2, -1) };
            if wait[1].revents != 0 {
                let mut waiting: libc::c_int = 0;
                // SAFETY: FIONREAD writes one int.
                unsafe { libc::ioctl(from.as_raw_fd(), libc::FIONREAD, &mut waiting) };
                left = Some(waiting.max(0) as usize);
            } else if wait[0].revents == 0 {
                continue;
            }
        }
        let want = left.unwrap_or(buffer.len()).min(buffer.len());
        if want == 0 {
            return;
        }
        match from.read(&mut buffer[..want]) {
            Ok(0) => return,
            Ok(count) => {
                left = left.map(|left| left - count);
                if sink(&buffer[..count]).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return, // a terminal whose last user is gone says EIO
        }
    }
}

/// Writes all of standard input's bytes; a reader that is gone is no error of ours.
pub fn feed(to: &mut File, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes)
}
