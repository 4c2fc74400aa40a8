//! What tests need all the time, in a line each: children, signals, files, memory, time.

use std::ffi::CString;
use std::fs;
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

pub use libc::{AT_FDCWD, O_CREAT, O_RDONLY, O_RDWR, O_WRONLY};

pub use crate::sys::{out, p};
pub use crate::test::{T, ok_or_error, result};

/// The user that is nobody.
pub const NOBODY: u32 = 65534;

/// Forks; the child runs `body` and ends with the code it returns.
pub fn fork(body: impl FnOnce() -> i32) -> i64 {
    let pid = must!(fork);
    if pid == 0 {
        let code = body();
        call!(exit_group, code);
    }
    pid
}

/// Waits for a child to end: `exit 0`, `killed by SIGSEGV`.
pub fn wait(pid: i64) -> String {
    let mut status = 0i32;
    match call!(wait4, pid, out(&mut status), 0, 0) {
        got if got == pid => ending(status),
        other => format!("wait: {}", result(other)),
    }
}

/// A wait status in words.
pub fn ending(status: i32) -> String {
    match status & 0xff {
        _ if status == 0xffff => "continued".to_owned(),
        0 => format!("exit {}", status >> 8),
        0x7f => format!("stopped by {}", signal_name(status >> 8 & 0xff)),
        // No core files in either place: whether one would have been written is not compared.
        low => format!("killed by {}", signal_name(low & 0x7f)),
    }
}

/// Runs `body` in a child and says how that ended.
pub fn child(body: impl FnOnce() -> i32) -> String {
    wait(fork(body))
}

/// Runs `body` in a child that is nobody, without any privilege.
pub fn as_nobody(body: impl FnOnce()) -> String {
    child(|| {
        must!(setgroups, 0, 0);
        must!(setresgid, NOBODY, NOBODY, NOBODY);
        must!(setresuid, NOBODY, NOBODY, NOBODY);
        body();
        0
    })
}

/// `SIGUSR1` and its like.
pub fn signal_name(number: i32) -> String {
    const NAMES: &str = "0 HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP \
                         TSTP TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS";
    match NAMES.split(' ').nth(number as usize) {
        Some(name) if number > 0 => format!("SIG{name}"),
        _ => format!("signal {number}"),
    }
}

/// The kernel's `struct sigaction`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct SigAction {
    pub handler: u64,
    pub flags: u64,
    pub restorer: u64,
    pub mask: u64,
}

/// The kernel's `siginfo_t`; its union as words.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Info {
    pub signo: i32,
    pub errno: i32,
    pub code: i32,
    pub pad: i32,
    pub rest: [i32; 28],
}

impl Info {
    /// `si_addr`, `si_ptr` of a timer and their like: the union's first eight bytes.
    pub fn address(&self) -> u64 {
        u64::from(self.rest[0] as u32) | u64::from(self.rest[1] as u32) << 32
    }
    /// `si_value` of `sigqueue` and timers.
    pub fn value(&self) -> u64 {
        u64::from(self.rest[2] as u32) | u64::from(self.rest[3] as u32) << 32
    }
}

/// A handler.
pub type Handler = extern "C" fn(i32, &mut Info, &mut libc::ucontext_t);

/// The bit of a signal in a mask.
pub const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// Installs a handler. `flags` beside `SA_SIGINFO` and `SA_RESTORER`.
pub fn handle(signal: i32, handler: Handler, flags: i32, mask: u64) {
    let flags = flags as u32 as u64 | 4 | 0x0400_0000;
    let action =
        SigAction { handler: handler as *const () as u64, flags, restorer: crate::sys::restorer(), mask };
    must!(rt_sigaction, signal, p(&action), 0, 8);
}

/// Sets a disposition: 0 default, 1 ignore.
pub fn dispose(signal: i32, how: u64) {
    must!(rt_sigaction, signal, p(&SigAction { handler: how, ..SigAction::default() }), 0, 8);
}

/// How often [`count`] ran, and for which signal last.
pub static COUNT: AtomicUsize = AtomicUsize::new(0);
/// The last signal [`count`] ran for.
pub static LAST: AtomicI32 = AtomicI32::new(0);

/// A handler that counts.
pub extern "C" fn count(signal: i32, _: &mut Info, _: &mut libc::ucontext_t) {
    LAST.store(signal, Ordering::Relaxed);
    COUNT.fetch_add(1, Ordering::Relaxed);
}

/// Changes the mask of blocked signals: `how` is `SIG_BLOCK`, …; the mask before.
pub fn mask(how: i32, set: u64) -> u64 {
    let mut old = 0u64;
    must!(rt_sigprocmask, how, p(&set), out(&mut old), 8);
    old
}

/// The signals that are pending.
pub fn pending() -> u64 {
    let mut set = 0u64;
    must!(rt_sigpending, out(&mut set), 8);
    set
}

/// Sleeps.
pub fn sleep_ms(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

/// Waits until a process sleeps in a system call.
pub fn asleep(pid: i64) {
    for _ in 0..2000 {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if stat.rsplit_once(") ").is_none_or(|(_, rest)| !rest.starts_with('R')) {
            sleep_ms(3); // it may have been asleep on its way there
            let again = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            if again == stat {
                return;
            }
        }
        sleep_ms(1);
    }
}

/// A path for the kernel.
pub fn c(path: &str) -> CString {
    CString::new(path).expect("no NUL in a path")
}

/// Makes a file.
pub fn file(path: &str, content: &str) {
    fs::write(path, content).expect("a file");
}

/// What is in a file, or the error.
pub fn content(path: &str) -> String {
    match fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => crate::errno::name(error.raw_os_error().unwrap_or(0).into()),
    }
}

/// The names in a directory, sorted.
pub fn names(path: &str) -> String {
    let entries = fs::read_dir(path).expect("a directory");
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names.join(" ")
}

/// Opens a file.
pub fn open(path: &str, flags: i32) -> i64 {
    must!(openat, AT_FDCWD, c(path).as_c_str(), flags, 0o644)
}

/// A pipe: reading end, writing end.
pub fn pipe(flags: i32) -> (i32, i32) {
    let mut fds = [0i32; 2];
    must!(pipe2, out(&mut fds), flags);
    (fds[0], fds[1])
}

/// What can be read from a descriptor at once: text, or the error.
pub fn read(fd: impl crate::sys::Argument) -> String {
    let mut buffer = [0u8; 4096];
    match call!(read, fd, out(&mut buffer), buffer.len()) {
        count if count >= 0 => String::from_utf8_lossy(&buffer[..count as usize]).into_owned(),
        error => result(error),
    }
}

/// Writes text to a descriptor; the call's result.
pub fn write(fd: impl crate::sys::Argument, text: &str) -> i64 {
    call!(write, fd, p(text.as_bytes()), text.len())
}

/// Fresh private memory of so many pages, readable and writable.
pub fn pages(count: usize) -> u64 {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    must!(mmap, 0, count * 4096, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) as u64
}

/// An address that is not mapped, page-aligned, behind a page that is. No mapping made later lands there.
pub fn hole() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0x2_0000_0000);
    let at = NEXT.fetch_add(0x10000, Ordering::Relaxed);
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    must!(mmap, at, 4096, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
    at + 4096
}

/// Whether the events are there, as `poll` sees them, after at most `ms`.
pub fn poll(fd: i32, events: i16, ms: i32) -> String {
    let mut poll = libc::pollfd { fd, events, revents: 0 };
    match call!(poll, out(&mut poll), 1, ms) {
        0 => "nothing".to_owned(),
        1 => events_of(poll.revents as u32),
        error => result(error),
    }
}

/// Poll events in words.
pub fn events_of(events: u32) -> String {
    const NAMES: &[(u32, &str)] = &[
        (1, "IN"),
        (2, "PRI"),
        (4, "OUT"),
        (8, "ERR"),
        (16, "HUP"),
        (32, "NVAL"),
        (64, "RDNORM"),
        (128, "RDBAND"),
        (256, "WRNORM"),
        (512, "WRBAND"),
        (0x2000, "RDHUP"),
    ];
    let mut words: Vec<String> =
        NAMES.iter().filter(|(bit, _)| events & bit != 0).map(|(_, name)| (*name).to_owned()).collect();
    let unknown = NAMES.iter().fold(events, |rest, (bit, _)| rest & !bit);
    if unknown != 0 {
        words.push(format!("{unknown:#x}"));
    }
    words.join("|")
}
