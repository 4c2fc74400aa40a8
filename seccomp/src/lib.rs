//! The system calls each thread of the VMM may make, and what happens at any other.
//!
//! `resources/seccomp/x86_64.json` is the data: a filter a kind of thread, each rule with the reason for it. The
//! build script compiles it, and makes [`Thread`] of its keys, so nothing is parsed or generated at a start. A thread applies its own filter before
//! the guest runs its first instruction; it cannot be taken off again.
//!
//! A call that is not allowed is not made. The kernel sends SIGSYS instead (SECCOMP_RET_TRAP), whose handler says
//! which thread and which call, and ends the process. Should the signal be blocked the kernel kills the process.
//! A call of another architecture (32 bit) kills it without a word.

use std::cell::Cell;
use std::fmt::{self, Write};
use std::sync::atomic::{AtomicU8, Ordering};

use seccompiler::sock_filter;
use syscalls::Sysno;

include!(concat!(env!("OUT_DIR"), "/filters.rs"));

/// The exit code of a process whose filter was violated.
pub const VIOLATED: u8 = 119;

/// Why a filter is not in place.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the message is the documentation")]
pub enum SeccompError {
    #[error("cannot install the handler of SIGSYS: {0}")]
    Handler(std::io::Error),
    #[error(
        "cannot install the system call filter of the {0} thread: {1}; the host's kernel needs CONFIG_SECCOMP_FILTER"
    )]
    Filter(&'static str, seccompiler::Error),
}

thread_local! {
    /// What the handler calls this thread; it runs on the thread that made the call.
    static THREAD: Cell<&'static str> = const { Cell::new("unfiltered") };
}

/// Confines the calling thread, and every thread it will start, for good. After [`end_with`].
pub fn confine(thread: Thread) -> Result<(), SeccompError> {
    THREAD.set(thread.name());
    seccompiler::apply_filter(thread.filter()).map_err(|e| SeccompError::Filter(thread.name(), e))
}

/// Has a violation end the process with `code`, after a sentence on standard error. Once, before any [`confine`].
pub fn end_with(code: u8) -> Result<(), SeccompError> {
    CODE.store(code, Ordering::Relaxed);
    // SAFETY: sigaction is plain data of which zero is a valid value; the handler is a function of the type that
    // SA_SIGINFO asks for and only does what a signal handler may.
    let result = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = violation as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(libc::SIGSYS, &action, std::ptr::null_mut())
    };
    if result < 0 { Err(SeccompError::Handler(std::io::Error::last_os_error())) } else { Ok(()) }
}

static CODE: AtomicU8 = AtomicU8::new(VIOLATED);

/// `si_code` of a signal that a filter has sent (`<asm-generic/siginfo.h>`).
const SYS_SECCOMP: i32 = 1;

extern "C" fn violation(_: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo to a handler with SA_SIGINFO; the call's number is the second field
    // of `_sigsys`, 24 bytes from the start (`<asm-generic/siginfo.h>`: three ints, padding, a pointer, the int).
    let (code, number) = unsafe { ((*info).si_code, *info.cast::<u8>().add(24).cast::<i32>()) };
    if code != SYS_SECCOMP {
        return;
    }
    // SAFETY: the third argument of such a handler is the interrupted context, whole and ours while it runs.
    let registers = unsafe { (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    // A call's first four arguments (x86-64 ABI of the kernel).
    let arguments = [libc::REG_RDI, libc::REG_RSI, libc::REG_RDX, libc::REG_R10]
        .map(|register| registers.get(register as usize).map_or(0, |value| *value as u64));
    let mut line = Line::default();
    // A sentence that does not fit is cut.
    let _ = line.violation(THREAD.get(), number, arguments);
    // SAFETY: write and _exit may be called in a signal handler, and both are in every filter.
    unsafe {
        libc::write(libc::STDERR_FILENO, line.text.as_ptr().cast(), line.len);
        libc::_exit(CODE.load(Ordering::Relaxed).into())
    }
}

/// A sentence without an allocation.
struct Line {
    text: [u8; 256],
    len: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self { text: [0; 256], len: 0 }
    }
}

impl Line {
    fn violation(&mut self, thread: &str, number: i32, [a, b, c, d]: [u64; 4]) -> fmt::Result {
        let name = usize::try_from(number).ok().and_then(Sysno::new).map_or("unknown", |call| call.name());
        writeln!(
            self,
            "ringfence: the {thread} thread made the system call {name} ({number}), which its filter forbids; \
             arguments {a:#x} {b:#x} {c:#x} {d:#x}"
        )
    }
}

impl fmt::Write for Line {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let room = self.text.get_mut(self.len..self.len + s.len()).ok_or(fmt::Error)?;
        room.copy_from_slice(s.as_bytes());
        self.len += s.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
