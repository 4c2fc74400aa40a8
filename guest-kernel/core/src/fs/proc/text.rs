//! Bytes being written: mostly text, but names of files can be any bytes.

use alloc::vec::Vec;
use core::fmt;

/// A growing piece of text. Writing to it does not fail.
#[derive(Default)]
pub(super) struct Text(pub Vec<u8>);

impl Text {
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Bytes with those in `special` and backslashes as octal escapes (`mangle_path`).
    pub fn escaped(&mut self, bytes: &[u8], special: &[u8]) {
        for b in bytes {
            if special.contains(b) {
                emit!(self, "\\{b:03o}");
            } else {
                self.0.push(*b);
            }
        }
    }

    /// Fills up with spaces until the line that began at `start` has `width` columns.
    pub fn pad(&mut self, start: usize, width: usize) {
        while self.0.len() < start + width {
            self.0.push(b' ');
        }
    }
}

impl fmt::Write for Text {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        self.bytes(s.as_bytes());
        Ok(())
    }
}

/// `write!` to a [`Text`], which cannot fail.
macro_rules! emit {
    ($to:expr, $($arg:tt)*) => {{
        use core::fmt::Write as _;
        let _ = write!($to, $($arg)*);
    }};
}
pub(super) use emit;
