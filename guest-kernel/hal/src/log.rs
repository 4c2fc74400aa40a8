//! The kernel log: short lines on the console, filtered by level.

use crate::sync::SpinLock;
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

/// Writes one line. Use [`log!`](crate::log!), which does not format lines nobody reads.
pub fn write(level: Level, args: fmt::Arguments<'_>) {
    static LINE: SpinLock<()> = SpinLock::new(());
    struct Console;
    impl Write for Console {
        fn write_str(&mut self, s: &str) -> fmt::Result {
            crate::console::write(s);
            Ok(())
        }
    }
    let name = match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
    };
    let _line = LINE.lock();
    // The console cannot fail; a `Display` that does only shortens the line.
    let _ = writeln!(Console, "ringfence: {name}: {args}");
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
