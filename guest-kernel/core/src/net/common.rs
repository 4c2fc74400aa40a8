//! What all sockets keep, whatever their family: the options of `SOL_SOCKET` (socket(7)).
//!
//! Atomics, because each send and receive reads some of them and nothing has to change together.

use core::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering::Relaxed};

use crate::time::deadline_after;

/// Bytes a socket holds before senders wait (`net.core.wmem_default`).
pub(super) const BUFFER_DEFAULT: usize = 212_992;

/// Options that are on or off, by their numbers below 128; what acts on them asks [`Common::flag`].
pub(super) const SO_REUSEADDR: i32 = 2;
pub(super) const SO_BROADCAST: i32 = 6;
pub(super) const SO_KEEPALIVE: i32 = 9;
pub(super) const SO_REUSEPORT: i32 = 15;
pub(super) const SO_PASSCRED: i32 = 16;
pub(super) const SO_TIMESTAMP: i32 = 29;
pub(super) const SO_TIMESTAMPNS: i32 = 35;
pub(super) const SO_PASSPIDFD: i32 = 76;

/// The state of the options.
#[derive(Debug)]
pub(crate) struct Common {
    /// The options that are on or off, a bit each.
    flags: [AtomicU64; 2],
    /// `SO_RCVTIMEO` and `SO_SNDTIMEO` in nanoseconds; 0 for none.
    timeouts: [AtomicU64; 2],
    /// `SO_SNDBUF` and `SO_RCVBUF` in bytes.
    pub send_buffer: AtomicUsize,
    pub receive_buffer: AtomicUsize,
    /// `SO_PEEK_OFF`: where the next peek begins; negative for off.
    peek_offset: AtomicI32,
    pub priority: AtomicI32,
    pub mark: AtomicI32,
    pub receive_low_water: AtomicI32,
    /// `SO_LINGER`: whether, and seconds; kept as one number.
    pub linger: AtomicU64,
    /// Number of the open file's inode.
    ino: AtomicU64,
}

impl Default for Common {
    fn default() -> Common {
        Common::with_buffers(BUFFER_DEFAULT, BUFFER_DEFAULT)
    }
}

impl Common {
    /// What a new socket has, but for the sizes of its buffers.
    pub fn with_buffers(send: usize, receive: usize) -> Common {
        Common {
            flags: Default::default(),
            timeouts: Default::default(),
            send_buffer: AtomicUsize::new(send),
            receive_buffer: AtomicUsize::new(receive),
            peek_offset: AtomicI32::new(-1),
            priority: AtomicI32::new(0),
            mark: AtomicI32::new(0),
            receive_low_water: AtomicI32::new(1),
            linger: AtomicU64::new(0),
            ino: AtomicU64::new(0),
        }
    }

    /// What an accepted connection has of its listener: all but its number.
    pub fn inherit(&self) -> Common {
        let word = |w: &AtomicU64| AtomicU64::new(w.load(Relaxed));
        let int = |w: &AtomicI32| AtomicI32::new(w.load(Relaxed));
        let size = |w: &AtomicUsize| AtomicUsize::new(w.load(Relaxed));
        Common {
            flags: self.flags.each_ref().map(word),
            timeouts: self.timeouts.each_ref().map(word),
            send_buffer: size(&self.send_buffer),
            receive_buffer: size(&self.receive_buffer),
            peek_offset: int(&self.peek_offset),
            priority: int(&self.priority),
            mark: int(&self.mark),
            receive_low_water: int(&self.receive_low_water),
            linger: word(&self.linger),
            ino: AtomicU64::new(0),
        }
    }

    fn word(&self, option: i32) -> (&AtomicU64, u64) {
        let [low, high] = &self.flags;
        (if option & 64 == 0 { low } else { high }, 1 << (option & 63))
    }

    /// Whether an option is on.
    pub fn flag(&self, option: i32) -> bool {
        let (word, bit) = self.word(option);
        word.load(Relaxed) & bit != 0
    }

    pub fn set_flag(&self, option: i32, on: bool) {
        let (word, bit) = self.word(option);
        if on {
            word.fetch_or(bit, Relaxed)
        } else {
            word.fetch_and(!bit, Relaxed)
        };
    }

    /// Whether the receiver wants to know who sent a message.
    pub fn wants_sender(&self) -> bool {
        self.flag(SO_PASSCRED) || self.flag(SO_PASSPIDFD)
    }

    /// Whether the receiver wants to know when a message was sent.
    pub fn wants_time(&self) -> bool {
        self.flag(SO_TIMESTAMP) || self.flag(SO_TIMESTAMPNS)
    }

    fn timeout_word(&self, receive: bool) -> &AtomicU64 {
        let [for_receive, for_send] = &self.timeouts;
        if receive { for_receive } else { for_send }
    }

    /// `SO_RCVTIMEO` (`receive`) or `SO_SNDTIMEO` in nanoseconds; 0 for none.
    pub fn timeout(&self, receive: bool) -> u64 {
        self.timeout_word(receive).load(Relaxed)
    }

    pub fn set_timeout(&self, receive: bool, ns: u64) {
        self.timeout_word(receive).store(ns, Relaxed);
    }

    /// When a receive that begins now gives up.
    pub fn receive_deadline(&self) -> Option<u64> {
        deadline(self.timeout(true))
    }

    /// When a send or a connect that begins now gives up.
    pub fn send_deadline(&self) -> Option<u64> {
        deadline(self.timeout(false))
    }

    pub fn peek_offset(&self) -> Option<usize> {
        usize::try_from(self.peek_offset.load(Relaxed)).ok()
    }

    /// The option's value: negative for off.
    pub fn set_peek_offset(&self, offset: i32) {
        self.peek_offset.store(offset, Relaxed);
    }

    /// After a peek (`by` positive) or a read of as many bytes (negative).
    pub fn move_peek_offset(&self, by: i64) {
        if let Some(at) = self.peek_offset() {
            let moved = (at as i64).saturating_add(by).clamp(0, i64::from(i32::MAX));
            self.set_peek_offset(moved as i32);
        }
    }

    /// The number `/proc/net` tables show.
    pub fn ino(&self) -> u64 {
        self.ino.load(Relaxed)
    }

    pub fn set_ino(&self, ino: u64) {
        self.ino.store(ino, Relaxed);
    }
}

fn deadline(ns: u64) -> Option<u64> {
    (ns != 0).then(|| deadline_after(ns))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_kept_apart() {
        let c = Common::default();
        c.set_flag(SO_PASSPIDFD, true);
        c.set_flag(76 - 64, true);
        c.set_flag(76 - 64, false);
        assert!(c.flag(SO_PASSPIDFD) && !c.flag(SO_PASSCRED) && c.wants_sender());
        c.set_timeout(true, 5);
        assert_eq!((c.timeout(true), c.timeout(false)), (5, 0));
    }

    #[test]
    fn a_peek_offset_follows_only_if_it_is_set() {
        let c = Common::default();
        c.move_peek_offset(5);
        assert_eq!(c.peek_offset(), None);
        c.set_peek_offset(0);
        c.move_peek_offset(5);
        c.move_peek_offset(-7);
        assert_eq!(c.peek_offset(), Some(0));
    }
}
