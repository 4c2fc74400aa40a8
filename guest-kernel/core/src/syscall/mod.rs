//! System calls: the table, the arguments, the way in.
//!
//! Linux numbers are the index into one table of data ([`table`]), composed at compile time from the lists
//! the subsystems export. An entry names the call, its arguments with their kinds (which strace prints from),
//! how much of it there is, and its handler. [`known`] is every call of Linux, ours or not, with what its arguments are
//! ([`kinds`]); `docs/syscalls.md` is made from both. A handler takes typed arguments ([`args`]), decoded once, and
//! the [`Ctx`] of the calling task.

pub mod args;
mod calls;
mod context;
pub mod kinds;
pub mod known;
pub mod table;

pub use args::{Arg, Fd, UserAddr, UserPtr, UserStr};
pub use context::Ctx;
pub use kinds::ArgKind;
pub use table::{Level, Syscall};

use core::sync::atomic::{AtomicU64, Ordering};

use ringfence_hal as hal;
use ringfence_hal::UserRegs;

use crate::{TaskRef, errno::Errno, mm, ptrace, sched::work, seccomp, signal, strace};

/// Linux keeps this many values of `rax` for errors (`MAX_ERRNO`, plus one).
const MAX_ERRNO: u64 = 4096;

/// One more than the largest number in the table.
pub const MAX_SYSCALL: usize = 512;

static COUNTS: [AtomicU64; MAX_SYSCALL] = [const { AtomicU64::new(0) }; MAX_SYSCALL];

/// What observers there are of all system calls. While there are any, all are watched.
static OBSERVERS: AtomicU64 = AtomicU64::new(0);
/// Count calls by number (`--stats`).
pub const OBSERVE_COUNTS: u64 = 1;
/// Write a line per call (`--strace`).
pub const OBSERVE_STRACE: u64 = 2;

/// The kernel itself is short of memory: somebody has to go before more work is done.
const OBSERVE_LOW_MEMORY: u64 = 4;

/// Has system calls make room first when the kernel's own memory runs short.
pub fn watch_memory() {
    hal::frames::on_low(|| observe(OBSERVE_LOW_MEMORY));
}

/// Turns observers on.
pub fn observe(what: u64) {
    OBSERVERS.fetch_or(what, Ordering::SeqCst);
    hal::cpu::watch_all(true);
}

fn stop_observing(what: u64) {
    if OBSERVERS.fetch_and(!what, Ordering::SeqCst) & !what == 0 {
        hal::cpu::watch_all(false);
        // Somebody may have come in between.
        if OBSERVERS.load(Ordering::SeqCst) != 0 {
            hal::cpu::watch_all(true);
        }
    }
}

/// Calls by number since counting was turned on.
pub fn counts() -> impl Iterator<Item = (usize, u64)> {
    COUNTS.iter().map(|c| c.load(Ordering::Relaxed)).enumerate().filter(|(_, n)| *n != 0)
}

/// The way in: number in `rax`, arguments in `rdi rsi rdx r10 r8 r9`; returns what `rax` shall be. Compiles to a jump to
/// the handler.
#[inline]
pub fn dispatch(task: &TaskRef, regs: &mut UserRegs) -> u64 {
    match table::HANDLERS.get(regs.orig_rax as usize) {
        Some(handler) => handler(task, regs),
        None => Errno::ENOSYS.to_rax(),
    }
}

/// The way in for those whose calls somebody looks at: a tracer, a filter, or an observer of all.
#[cold]
pub fn watched(task: &TaskRef, regs: &mut UserRegs) {
    regs.rax = Errno::ENOSYS.to_rax(); // what a tracer sees, and what a call that it forbids returns
    if ptrace::syscall_entry(task, regs) {
        let rax = if !seccomp::check(task, regs) {
            regs.rax
        } else if OBSERVERS.load(Ordering::Relaxed) == 0 {
            dispatch(task, regs)
        } else {
            observed(task, regs)
        };
        regs.rax = rax;
        if is_restart(rax) {
            restart(task);
        }
    }
    ptrace::syscall_exit(task, regs);
    ptrace::stepped_over_call(task, regs);
}

/// The first of our own error numbers, that no program sees (`ERESTARTSYS` and its like).
pub const FIRST_RESTART: i32 = Errno::ERESTARTSYS.raw() as i32;

fn is_restart(rax: u64) -> bool {
    (FIRST_RESTART as u64..MAX_ERRNO).contains(&rax.wrapping_neg())
}

/// After a call with such a result: the signal code turns it into a restart or EINTR on the way out.
pub fn restart(task: &TaskRef) {
    task.work().fetch_or(work::SIGNAL, Ordering::Release);
}

fn observed(task: &TaskRef, regs: &mut UserRegs) -> u64 {
    let number = regs.orig_rax as usize;
    let entry = table::TABLE.get(number).copied().flatten();
    if OBSERVERS.load(Ordering::Relaxed) & OBSERVE_LOW_MEMORY != 0 {
        if !mm::relieve(task) {
            return Errno::EINTR.to_rax();
        }
        // Not before: while this task waits, no other may go on to allocate.
        stop_observing(OBSERVE_LOW_MEMORY);
    }
    if let Some(count) = COUNTS.get(number) {
        count.fetch_add(1, Ordering::Relaxed);
    }
    let traced = OBSERVERS.load(Ordering::Relaxed) & OBSERVE_STRACE != 0;
    let line = traced.then(|| strace::enter(task, regs, number, entry));
    let began = hal::time::now();
    let rax = entry.map_or(Errno::ENOSYS.to_rax(), |entry| (entry.handler)(task, regs));
    if let Some(line) = line {
        strace::exit(task, line, Errno::result_of(rax), hal::time::now().saturating_sub(began));
    }
    rax
}

/// `hal::Kernel::user_work`: everything that has to happen before ring 3 runs again.
pub fn user_work(task: &TaskRef, regs: &mut UserRegs) {
    loop {
        let bits = task.work().load(Ordering::Acquire);
        if bits & work::RESCHEDULE != 0 {
            crate::sched::reschedule(task);
        } else if bits & work::NOTIFY != 0 {
            task.work().fetch_and(!work::NOTIFY, Ordering::AcqRel);
            crate::task::notify_resume(task, regs);
        } else if bits & work::SIGNAL != 0 {
            signal::deliver(task, regs);
        } else {
            return;
        }
    }
}
