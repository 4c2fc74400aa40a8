//! One line on the terminal while an image is packed. Nothing when standard error is no terminal, and nothing for
//! work that is done at once.

use std::io::Write;
use std::time::{Duration, Instant};

use ringfence_image::{Phase, Progress};
use rustix::stdio::stderr;
use rustix::termios::isatty;

/// Work that is done sooner is not worth a line.
const QUIET: Duration = Duration::from_millis(300);
/// Time between two changes of the line.
const STEP: Duration = Duration::from_millis(100);

/// The line; it is wiped when dropped.
pub struct Line {
    what: String,
    terminal: bool,
    next: Instant,
    shown: bool,
}

impl Line {
    /// For packing `what`.
    pub fn new(what: String) -> Self {
        Self { what, terminal: isatty(stderr()), next: Instant::now() + QUIET, shown: false }
    }

    /// Shows where packing is.
    pub fn show(&mut self, progress: Progress) {
        let now = Instant::now();
        if !self.terminal || now < self.next {
            return;
        }
        self.next = now + STEP;
        self.shown = true;
        // The terminal may be gone; the work is not in vain.
        let _ = write!(std::io::stderr(), "\r\x1b[Kringfence: {}: {}", self.what, words(progress));
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.shown {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

fn words(p: Progress) -> String {
    let mib = |bytes: u64| bytes >> 20;
    match p.phase {
        Phase::Scan => format!("{} files found", p.files),
        Phase::Data if p.bytes_total > 0 => {
            let percent = p.bytes.min(p.bytes_total) * 100 / p.bytes_total;
            format!("{percent}% ({} of {} MiB)", mib(p.bytes), mib(p.bytes_total))
        }
        Phase::Data => format!("{} files, {} MiB", p.files, mib(p.bytes)),
        Phase::Finish => "waiting for the disk".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_never_exceeds_a_hundred() {
        let p =
            Progress { phase: Phase::Data, files: 1, files_total: 2, bytes: 30 << 20, bytes_total: 20 << 20 };
        assert_eq!(words(p), "100% (30 of 20 MiB)");
        assert_eq!(words(Progress { bytes_total: 0, ..p }), "1 files, 30 MiB");
    }
}
