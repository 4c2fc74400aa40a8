//! The system call table, as data.

use ringfence_hal::UserRegs;

use super::{ArgKind, MAX_SYSCALL};
use crate::{TaskRef, errno::Errno};

/// How much of a call there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Everything a program can observe, but for what the note says.
    Full,
    /// What the note says is missing.
    Partial,
}

/// One system call.
pub struct Syscall {
    /// Linux x86-64 number.
    pub number: usize,
    /// Linux name.
    pub name: &'static str,
    /// Argument names and kinds, in order.
    pub args: &'static [(&'static str, ArgKind)],
    /// How much of it there is.
    pub level: Level,
    /// What is different from Linux; empty if nothing.
    pub note: &'static str,
    /// What runs: decodes the arguments, and returns what `rax` shall be (an error as its negated number).
    pub handler: Handler,
}

/// Takes and gives registers only, because every system call pays for what goes through memory here.
pub type Handler = fn(&TaskRef, &mut UserRegs) -> u64;

/// Makes a list of [`Syscall`]s. Each line is
/// `number name(arg: Type, …) Level "note";` with a function of that name and those argument types,
/// `fn name(ctx: &mut Ctx, arg: Type, …) -> Result`, in scope.
#[macro_export]
macro_rules! syscalls {
    ($($number:literal $name:ident ($($arg:ident : $ty:ty),* $(,)?) $level:ident $note:literal;)*) => {
        &[$($crate::syscall::Syscall {
            number: $number,
            name: stringify!($name),
            args: &[$((stringify!($arg), <$ty as $crate::syscall::Arg>::KIND)),*],
            level: $crate::syscall::Level::$level,
            note: $note,
            handler: {
                fn call(task: &$crate::TaskRef, regs: &mut ringfence_hal::UserRegs) -> u64 {
                    let ctx = &mut $crate::syscall::Ctx { task, regs };
                    #[allow(unused_variables, unused_mut)]
                    let mut raw = [ctx.regs.rdi, ctx.regs.rsi, ctx.regs.rdx, ctx.regs.r10, ctx.regs.r8, ctx.regs.r9].into_iter();
                    $(let $arg = <$ty as $crate::syscall::Arg>::from_raw(raw.next().unwrap_or_default());)*
                    match $name(ctx, $($arg),*) {
                        Ok(value) => value as u64,
                        Err(e) => e.to_rax(),
                    }
                }
                call
            },
        }),*]
    };
}

/// What the subsystems export.
const LISTS: &[&[&[Syscall]]] = &[
    crate::ns::SYSCALLS,
    crate::task::SYSCALLS,
    crate::signal::SYSCALLS,
    crate::time::SYSCALLS,
    crate::futex::SYSCALLS,
    crate::mm::SYSCALLS,
    crate::exec::SYSCALLS,
    crate::klog::SYSCALLS,
    crate::ipc::SYSCALLS,
    crate::fs::SYSCALLS,
    crate::net::SYSCALLS,
    crate::fs::sys::SYSCALLS,
    crate::ptrace::SYSCALLS,
    crate::seccomp::SYSCALLS,
];

fn missing(_: &TaskRef, _: &mut UserRegs) -> u64 {
    Errno::ENOSYS.to_rax()
}

/// The handlers by number; [`TABLE`] without an indirection and a test, for the fast path.
pub static HANDLERS: [Handler; MAX_SYSCALL] = {
    let mut handlers: [Handler; MAX_SYSCALL] = [missing; MAX_SYSCALL];
    let mut n = 0;
    while n < MAX_SYSCALL {
        #[allow(clippy::indexing_slicing)] // evaluated by the compiler only
        if let Some(entry) = TABLE_VALUE[n] {
            handlers[n] = entry.handler;
        }
        n += 1;
    }
    handlers
};

const TABLE_VALUE: [Option<&'static Syscall>; MAX_SYSCALL] = compose(LISTS);

/// The table by number.
pub static TABLE: [Option<&'static Syscall>; MAX_SYSCALL] = TABLE_VALUE;

#[allow(clippy::indexing_slicing, clippy::panic)] // evaluated by the compiler only
const fn compose(lists: &'static [&'static [&'static [Syscall]]]) -> [Option<&'static Syscall>; MAX_SYSCALL] {
    let mut table: [Option<&'static Syscall>; MAX_SYSCALL] = [None; MAX_SYSCALL];
    let mut i = 0;
    while i < lists.len() {
        let mut j = 0;
        while j < lists[i].len() {
            let mut k = 0;
            while k < lists[i][j].len() {
                let entry = &lists[i][j][k];
                assert!(table[entry.number].is_none(), "two handlers for one system call number");
                table[entry.number] = Some(entry);
                k += 1;
            }
            j += 1;
        }
        i += 1;
    }
    table
}

/// All entries, by number.
pub fn all() -> impl Iterator<Item = &'static Syscall> {
    TABLE.iter().filter_map(|e| *e)
}
