//! `--detach`: the command prints the sandbox's name when its program runs, and ends; the sandbox goes on.
//!
//! The supervisor is a child of the command, in a session of its own: no terminal, and no signal of its keyboard. Its input is
//! `/dev/null`; its output and error, which the program and the VMM inherit, are a pipe that it reads itself into the log of the
//! sandbox (`ringfence logs`). It must therefore never wait for that pipe: what it has to say goes to the command, as
//! long as that listens, and into the log directly.
//!
//! Between the two there is another pipe: lines for the user, and a zero byte when the program runs. Its end without that
//! byte is a failure: the command ends with the supervisor's exit code.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, setsid, waitpid};

use crate::cli::{Failure, print};
use crate::exit;

/// Towards the command, in a supervisor that was detached: `None` once the program runs.
enum Told {
    Attached,
    Detached(Option<File>),
}

static TOLD: Mutex<Told> = Mutex::new(Told::Attached);

/// Says a line to the user; false: this is no detached supervisor.
pub fn report(message: &str) -> bool {
    match &mut *TOLD.lock().unwrap_or_else(PoisonError::into_inner) {
        Told::Attached => false,
        Told::Detached(command) => {
            // Nobody may be there.
            let _ = command.as_mut().map(|command| writeln!(command, "ringfence: {message}"));
            true
        }
    }
}

/// The program runs.
pub fn started() {
    if let Told::Detached(command) = &mut *TOLD.lock().unwrap_or_else(PoisonError::into_inner)
        && let Some(mut command) = command.take()
    {
        let _ = command.write_all(&[0]); // it was killed, then
    }
}

/// Whether this is a detached supervisor.
pub fn is_detached() -> bool {
    matches!(*TOLD.lock().unwrap_or_else(PoisonError::into_inner), Told::Detached(_))
}

/// Who we are after the fork.
pub enum Side {
    /// The command, which is done: its exit code.
    Command(u8),
    /// The supervisor; what is written to its output and error can be read here.
    Supervisor(OwnedFd),
}

/// Detaches. Call it with one thread.
pub fn detach(name: &str) -> Result<Side, Failure> {
    let no_pipe = |e| Failure::setup(format!("cannot make a pipe: {e}"));
    let (heard, told) = pipe_with(PipeFlags::CLOEXEC).map_err(no_pipe)?;
    let (output, written) = pipe_with(PipeFlags::CLOEXEC).map_err(no_pipe)?;
    // SAFETY: the process has one thread, so the child has everything in a whole state.
    match unsafe { libc::fork() } {
        -1 => Err(Failure::setup(format!("cannot fork: {}", std::io::Error::last_os_error()))),
        0 => {
            let told = File::from(told);
            *TOLD.lock().unwrap_or_else(PoisonError::into_inner) = Told::Detached(Some(told));
            let unable = |e: std::io::Error| Failure::setup(format!("cannot detach: {e}"));
            // A child leads no group, so it can lead a session.
            let _ = setsid();
            let null = File::open("/dev/null").map_err(unable)?;
            let streams = rustix::stdio::dup2_stdin(&null)
                .and_then(|()| rustix::stdio::dup2_stdout(&written))
                .and_then(|()| rustix::stdio::dup2_stderr(&written));
            streams.map_err(|e| unable(e.into()))?;
            Ok(Side::Supervisor(output))
        }
        supervisor => {
            drop((told, output, written));
            listen(File::from(heard), Pid::from_raw(supervisor), name).map(Side::Command)
        }
    }
}

/// The command: passes lines on until the program runs or never will.
fn listen(mut heard: File, supervisor: Option<Pid>, name: &str) -> Result<u8, Failure> {
    let mut buffer = [0u8; 4096];
    loop {
        let text = match heard.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => buffer.get(..n).unwrap_or_default(),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        let lines = text.split(|byte| *byte == 0).next().unwrap_or_default();
        // A closed stderr cannot be told about.
        let _ = std::io::stderr().write_all(lines);
        if lines.len() < text.len() {
            return print(&format!("{name}\n"));
        }
    }
    let ended = waitpid(supervisor, WaitOptions::empty()).ok().flatten();
    let code = ended.and_then(|(_, status)| status.exit_status());
    // Killed, then.
    Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(exit::MACHINE_FAILED))
}
