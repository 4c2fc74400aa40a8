//! The kernel log as programs see it: `syslog(2)`, which `dmesg` reads.
//!
//! A ring of the last lines. There are few: what started, and who was killed for lack of memory. What the kernel
//! tells its developers (`hal::log!`) goes to the machine's console and is not for programs.

use alloc::{collections::VecDeque, format, string::String};

use ringfence_hal as hal;

use crate::{
    errno::{Errno, Result},
    io::Sink,
    sync::{Interruptible, Once, PollEvents, Queue, SpinLock, WaitQueue, wait_event},
    syscall::{Ctx, Syscall, UserAddr},
    syscalls,
    task::Capabilities,
};

/// Bytes kept (`SYSLOG_ACTION_SIZE_BUFFER`).
const SIZE: usize = 16 * 1024;

#[derive(Default)]
struct Log {
    bytes: VecDeque<u8>,
    /// Bytes at the end that `SYSLOG_ACTION_READ` has not given out.
    unread: usize,
    /// Bytes at the end since the last `SYSLOG_ACTION_CLEAR`.
    shown: usize,
}

impl Log {
    fn push(&mut self, line: &str) {
        if self.bytes.try_reserve(line.len()).is_err() {
            return;
        }
        self.bytes.extend(line.as_bytes());
        self.unread += line.len();
        self.shown += line.len();
        // Whole lines go.
        while self.bytes.len() > SIZE {
            while self.bytes.pop_front().is_some_and(|b| b != b'\n') {}
        }
        self.unread = self.unread.min(self.bytes.len());
        self.shown = self.shown.min(self.bytes.len());
    }

    fn last(&self, n: usize) -> alloc::vec::Vec<u8> {
        self.bytes.iter().skip(self.bytes.len().saturating_sub(n)).copied().collect()
    }
}

static LOG: SpinLock<Option<Log>> = SpinLock::new(None);

fn with<R>(f: impl FnOnce(&mut Log) -> R) -> R {
    f(LOG.lock().get_or_insert_default())
}

fn readers() -> &'static Queue {
    static QUEUE: Once<Queue> = Once::new();
    QUEUE.call_once(WaitQueue::new)
}

/// Adds a line of syslog level `level` (4 is a warning, 6 is information).
pub fn line(level: u32, text: &str) {
    let us = hal::time::now() / 1000;
    let line: String = format!("<{level}>[{:5}.{:06}] {text}\n", us / 1_000_000, us % 1_000_000);
    with(|log| log.push(&line));
    readers().wake_all(PollEvents::empty());
}

/// Lets through so many messages of a kind in an interval, as Linux's `printk_ratelimit`: ten in five seconds.
pub(crate) struct RateLimit(SpinLock<(u64, u32, u64)>);

impl RateLimit {
    const BURST: u32 = 10;
    const INTERVAL: u64 = 5_000_000_000;

    /// One that has let nothing through yet.
    pub(crate) const fn new() -> RateLimit {
        RateLimit(SpinLock::new((0, 0, 0)))
    }

    /// Whether a message may go out at `now`: then, how many were held back since the last one that did.
    pub(crate) fn allows(&self, now: u64) -> Option<u64> {
        let mut state = self.0.lock();
        let (begun, shown, missed) = &mut *state;
        if now.saturating_sub(*begun) >= Self::INTERVAL {
            (*begun, *shown) = (now, 0);
        }
        if *shown >= Self::BURST {
            *missed += 1;
            return None;
        }
        *shown += 1;
        Some(core::mem::take(missed))
    }
}

const READ: i32 = 2;
const READ_ALL: i32 = 3;
const READ_CLEAR: i32 = 4;
const CLEAR: i32 = 5;
const CONSOLE_LEVEL: i32 = 8;
const SIZE_UNREAD: i32 = 9;
const SIZE_BUFFER: i32 = 10;

fn syslog(ctx: &mut Ctx<'_>, action: i32, buf: UserAddr, len: i32) -> Result {
    // As with kernel.dmesg_restrict=0: everybody may look at all of it.
    let c = ctx.task.credentials();
    let may = matches!(action, READ_ALL | SIZE_BUFFER);
    if !may && !c.capable(Capabilities::SYSLOG) && !c.capable(Capabilities::SYS_ADMIN) {
        return Err(Errno::EPERM);
    }
    match action {
        0 | 1 => Ok(0),
        READ | READ_ALL | READ_CLEAR => {
            let len = usize::try_from(len).map_err(|_| Errno::EINVAL)?;
            if buf.is_null() {
                return Err(Errno::EINVAL);
            }
            if len == 0 {
                return Ok(0);
            }
            if action == READ {
                let some = || with(|log| (log.unread > 0).then_some(()));
                wait_event(ctx.task, readers(), Interruptible::Yes, None, some)?;
            }
            let text = with(|log| match action {
                READ => {
                    let mut text = log.last(log.unread);
                    text.truncate(len);
                    log.unread -= text.len();
                    text
                }
                _ => {
                    let text = log.last(log.shown.min(len));
                    if action == READ_CLEAR {
                        log.shown = 0;
                    }
                    text
                }
            });
            Sink::user(buf.0, len).put_some(&text)
        }
        CLEAR => {
            with(|log| log.shown = 0);
            Ok(0)
        }
        // The console is the host's: its level is not a program's to set.
        6 | 7 => Ok(0),
        CONSOLE_LEVEL if (1..=8).contains(&len) => Ok(0),
        SIZE_UNREAD => Ok(with(|log| log.unread)),
        SIZE_BUFFER => Ok(SIZE),
        _ => Err(Errno::EINVAL),
    }
}

/// The system calls of this module.
pub const SYSCALLS: &[&[Syscall]] = &[OWN];

const OWN: &[Syscall] = syscalls! {
    103 syslog(action: i32, buf: UserAddr, len: i32) Partial "the level of the console cannot be changed";
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_messages_in_five_seconds() {
        let limit = RateLimit::new();
        let start = 7_000_000_000;
        let shown = (0..25).filter(|i| limit.allows(start + i * 1_000_000).is_some()).count();
        assert_eq!(shown, 10);
        assert_eq!(limit.allows(start + 4_999_999_999), None);
        assert_eq!(limit.allows(start + 5_000_000_000), Some(16));
        assert_eq!(limit.allows(start + 5_000_000_001), Some(0));
    }

    #[test]
    fn old_lines_go_as_a_whole() {
        let mut log = Log::default();
        for i in 0..3000 {
            log.push(&format!("<6>line {i}\n"));
        }
        let all = String::from_utf8(log.last(log.shown)).unwrap();
        assert!(all.len() <= SIZE && all.starts_with("<6>line ") && all.ends_with("<6>line 2999\n"));
        assert_eq!(log.unread, all.len());
    }
}
