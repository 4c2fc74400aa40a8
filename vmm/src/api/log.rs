//! The log of a sandbox: what the guest kernel says, and what the supervisor has to say about the sandbox.
//!
//! A ring of bytes in the supervisor. The guest's lines come through a pipe whose writing end the VMM has instead of standard
//! error; they are a guest's words, so control characters are taken out on the way in. Whoever reads the log
//! reads from a position, and is told when what was there is gone.

use std::collections::VecDeque;

/// Bytes kept.
pub const KEPT: usize = 256 << 10;

/// The ring.
#[derive(Debug, Default)]
pub struct Log {
    bytes: VecDeque<u8>,
    /// Bytes ever written.
    end: u64,
}

impl Log {
    /// Adds what somebody says; control characters but line ends and tabs become spaces.
    pub fn write(&mut self, text: &[u8]) {
        for &byte in text {
            let byte = if byte.is_ascii_control() && !matches!(byte, b'\n' | b'\t') { b' ' } else { byte };
            if self.bytes.len() == KEPT {
                self.bytes.pop_front();
            }
            self.bytes.push_back(byte);
        }
        self.end += text.len() as u64;
    }

    /// Adds a line of the supervisor's.
    pub fn line(&mut self, text: &str) {
        self.write(format!("ringfence: {}\n", text.replace('\n', " ")).as_bytes());
    }

    /// Position behind the last byte.
    #[cfg(test)]
    pub fn end(&self) -> u64 {
        self.end
    }

    /// What has come since `position`, or as much of it as is kept, and at most `limit` bytes of it; the position behind.
    pub fn since(&self, position: u64, limit: usize) -> (Vec<u8>, u64) {
        let start = self.end - self.bytes.len() as u64;
        let from = position.clamp(start, self.end);
        let text: Vec<u8> = self.bytes.iter().skip((from - start) as usize).take(limit).copied().collect();
        let behind = from + text.len() as u64;
        (text, behind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_keeps_the_end() {
        let mut log = Log::default();
        log.line("first");
        log.write(b"a\x1b[2Jb\n");
        assert_eq!(log.since(0, 1000).0, b"ringfence: first\na [2Jb\n");
        assert_eq!(log.since(17, 3), (b"a [".to_vec(), 20));
        log.write(&vec![b'x'; KEPT]);
        let (text, end) = log.since(0, usize::MAX);
        assert_eq!((text.len(), end), (KEPT, log.end()));
        assert_eq!(log.since(end, 10), (vec![], end));
        assert_eq!(log.since(u64::MAX, 10).0, b"");
    }
}
