//! The user's terminal: raw mode while the guest owns it, and back on every way out.
//!
//! The saved settings live in a global, because they must also be restored by a panic hook and by code that
//! ends the process without unwinding. Signals never end the process behind our back: they are blocked and
//! read from a signalfd (see [`crate::signals`]).

use std::os::fd::BorrowedFd;
use std::sync::{Mutex, PoisonError};

use rustix::termios::{self, OptionalActions, Termios};

static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

fn stdin() -> BorrowedFd<'static> {
    rustix::stdio::stdin()
}

/// Whether standard input is a terminal.
pub fn is_terminal() -> bool {
    termios::isatty(stdin())
}

/// Rows and columns of the terminal on standard input, if it knows them.
pub fn size() -> Option<(u16, u16)> {
    size_of(stdin())
}

/// The same of any terminal.
pub fn size_of(terminal: BorrowedFd<'_>) -> Option<(u16, u16)> {
    let size = termios::tcgetwinsize(terminal).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

/// Raw mode from construction to drop.
pub struct RawMode(());

impl RawMode {
    /// Switches the terminal on standard input to raw mode.
    pub fn enter() -> std::io::Result<Self> {
        let old = termios::tcgetattr(stdin())?;
        let mut raw = old.clone();
        raw.make_raw();
        let mut saved = SAVED.lock().unwrap_or_else(PoisonError::into_inner);
        if saved.is_none() {
            *saved = Some(old);
            let hook = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                restore();
                hook(info);
            }));
        }
        drop(saved);
        termios::tcsetattr(stdin(), OptionalActions::Now, &raw)?;
        Ok(Self(()))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Puts the terminal back as it was; does nothing if it was never changed.
pub fn restore() {
    if let Some(old) = SAVED.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // The terminal may be gone (hang-up); there is nobody left to tell.
        let _ = termios::tcsetattr(stdin(), OptionalActions::Now, &old);
    }
}
