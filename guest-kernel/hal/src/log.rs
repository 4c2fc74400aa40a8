//! The kernel log: short lines on the console, filtered by level.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU8, Ordering};

/// Importance of a line; the numbers are those of `ringfence.loglevel`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Something is broken.
    Error = 1,
    /// Something is odd, and we went on.
    Warn = 2,
    /// One-time facts.
    Info = 3,
    /// Anything else.
    Debug = 4,
}

static MAX_LEVEL: AtomicU8 = AtomicU8::new(Level::Warn as u8);

/// Lets through levels up to `max`: 0 is silence, 4 everything.
pub fn set_max_level(max: u8) {
    MAX_LEVEL.store(max, Ordering::Relaxed);
}

/// Would a line of this level be written?
pub fn enabled(level: Level) -> bool {
    level as u8 <= MAX_LEVEL.load(Ordering::Relaxed)
}

/// Bytes of a line; what does not fit is cut off.
const LINE: usize = 512;

/// A line being made.
struct Line {
    text: [u8; LINE],
    len: usize,
}

impl Write for Line {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let mut n = s.len().min(LINE - self.len);
        while !s.is_char_boundary(n) {
            n -= 1;
        }
        self.text[self.len..self.len + n].copy_from_slice(&s.as_bytes()[..n]);
        self.len += n;
        Ok(())
    }
}

/// Writes one line. Use [`log!`](crate::log!), which does not format lines nobody reads.
pub fn write(level: Level, args: fmt::Arguments<'_>) {
    let name = match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
    };
    let mut line = Line { text: [0; LINE], len: 0 };
    // A `Display` that fails only shortens the line.
    let _ = write!(line, "ringfence: {name}: {args}");
    crate::console::line(core::str::from_utf8(&line.text[..line.len]).unwrap_or_default());
}

/// `log!(Warn, "vsock: credit {n} too large")`: a line on the console if the level is enabled.
#[macro_export]
macro_rules! log {
    ($level:ident, $($arg:tt)+) => {
        if $crate::log::enabled($crate::log::Level::$level) {
            $crate::log::write($crate::log::Level::$level, ::core::format_args!($($arg)+));
        }
    };
}
