//! Running a command of the lab on our own terminal.
use std::ffi::OsString;
use std::io::{self, stdin};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use ringfence_lab_agent::wire::Exec;
use rustix::termios::{self, OptionalActions, Termios};

use super::client::{Session, Streams};

/// Raw mode for as long as it lives.
struct Raw(Option<Termios>);

impl Raw {
    fn enter() -> Raw {
        let Ok(before) = termios::tcgetattr(stdin()) else { return Raw(None) };
        let mut raw = before.clone();
        raw.make_raw();
        let _ = termios::tcsetattr(stdin(), OptionalActions::Drain, &raw);
        Raw(Some(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = termios::tcsetattr(stdin(), OptionalActions::Drain, before);
        }
    }
}

/// Runs `command` on a pseudo-terminal in the lab, joined to ours; its exit code.
pub fn run(session: Session, command: &[OsString]) -> Result<u8> {
    let size = || termios::tcgetwinsize(io::stdout()).map_or((24, 80), |size| (size.ws_row, size.ws_col));
    let size = move || if size().0 == 0 { (24, 80) } else { size() };
    let term = std::env::var("TERM").unwrap_or_else(|_| "dumb".into());
    let exec = Exec {
        argv: super::bytes(command),
        env: vec![format!("TERM={term}").into_bytes()],
        terminal: Some(size()),
        ..Exec::default()
    };
    let _raw = Raw::enter();
    session.run_with(exec, Streams::inherit(), |resizer| {
        // Looking twice a second spares a signal handler.
        thread::spawn(move || {
            let mut known = size();
            loop {
                thread::sleep(Duration::from_millis(500));
                let now = size();
                if now != known && !resizer.resize(now.0, now.1) {
                    return;
                }
                known = now;
            }
        });
    })
}
