//! Tracing of one task by another (ptrace(2)).
//!
//! What Linux does: a tracer attaches to single threads. From then on the thread stops, at certain points, until the
//! tracer lets it go on: before a signal is delivered, at a job-control stop, and, where asked for, when a system call
//! begins and ends, when it has made another task, has executed a program, or is about to exit. The tracer learns of a
//! stop by `wait4`, looks at and changes registers and memory meanwhile, and says how to go on.
//!
//! What we do: a traced task has a [`Tracee`], made when it is attached to; others have a pointer that is null. The
//! task itself copies its registers into the `Tracee` when it stops and takes them back when it goes on, so the tracer
//! never touches a live context, and everything it changed is sanitised in one place ([`regs`]) before the task sees it.
//! System-call stops need the task to be *watched* (`hal::Thread::set_watched`): an untraced one pays nothing.
//!
//! | file | idea |
//! |---|---|
//! | `access` | who may trace whom |
//! | `link` | attaching and detaching; what the end of either side means |
//! | `stop` | the tracee's side: stopping and going on |
//! | `events` | where the kernel tells of forks, programs, exits |
//! | `regs` | the register sets as programs see them, and their checks |
//! | `request` | the system call |
//! | `report` | what `wait4` of the tracer sees |
//!
//! # States of a tracee
//!
//! | state | `stop` | who moves it on |
//! |---|---|---|
//! | runs | `None` | itself, in [`stop`] |
//! | stopped | `Some`, `reported` says whether `wait4` has told | a request of the tracer, SIGKILL, the tracer's end |
//! | listens | `Some`, `listening` | SIGCONT or PTRACE_INTERRUPT: it stops again, elsewhere |
//! | dead | `exited` | `wait4` of the tracer |
//!
//! Lock order: the tree lock → a process's `tracees` or a task's slot → `Tracee::state`, which is a leaf.

pub mod access;
mod events;
mod link;
pub mod regs;
mod report;
mod request;
mod stop;

use alloc::{sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicU32, Ordering};

use ringfence_hal as hal;

pub use access::{AccessMode, check_access};
pub use events::{
    Made, continued, exec_event, exit_event, fork_event, group_stop, kill_exiting, may_gain_by_exec,
    seccomp_event,
};
pub use link::{attach_child, detach_all, forget, leader_of, thread_exit};
pub use report::{Report, is_hidden_zombie, look, traced_here};
pub use stop::{NewTask, debug_exception, go_on_late, signal_stop, syscall_entry, syscall_exit, trap};
pub(crate) use stop::{stepped_into_handler, stepped_over_call, trap_due};

use crate::{
    TaskRef,
    errno::{Errno, Result},
    signal::SigInfo,
    sync::{Queue, SpinLock, WaitQueue},
    syscall::Syscall,
    task::{Task, process::ExitStatus},
};
use regs::Context;

/// The system calls of this module.
pub const SYSCALLS: &[&[Syscall]] = &[request::SYSCALLS];

pub use options::Options;

mod options {
    #![allow(missing_docs)] // the names of the manual page
    bitflags::bitflags! {
        /// `PTRACE_O_*`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
        pub struct Options: u64 {
            const SYSGOOD = 1;
            const FORK = 1 << 1;
            const VFORK = 1 << 2;
            const CLONE = 1 << 3;
            const EXEC = 1 << 4;
            const VFORKDONE = 1 << 5;
            const EXIT = 1 << 6;
            const SECCOMP = 1 << 7;
            const EXITKILL = 1 << 20;
        }
    }
}

/// `PTRACE_EVENT_*`.
#[allow(missing_docs)] // the names of the manual page
pub mod event {
    pub const FORK: i32 = 1;
    pub const VFORK: i32 = 2;
    pub const CLONE: i32 = 3;
    pub const EXEC: i32 = 4;
    pub const VFORK_DONE: i32 = 5;
    pub const EXIT: i32 = 6;
    pub const SECCOMP: i32 = 7;
    pub const STOP: i32 = 128;
}

/// It has a tracer.
const TRACED: u32 = 1 << 0;
/// It stops at system calls.
const SYSCALLS_WANTED: u32 = 1 << 1;
/// A call it entered unwatched is to stop when it ends.
const EXIT_STOP_DUE: u32 = 1 << 2;

/// It stops at system calls, and does not make them.
const EMULATING: u32 = 1 << 5;
/// It is in a call that was watched from its beginning.
const IN_WATCHED: u32 = 1 << 4;
/// It makes single steps.
const STEPPING: u32 = 1 << 3;

/// What every task keeps.
#[derive(Default)]
pub struct TaskTrace {
    flags: AtomicU32,
    slot: SpinLock<Option<Arc<Tracee>>>,
}

impl TaskTrace {
    fn has(&self, flag: u32) -> bool {
        self.flags.load(Ordering::Relaxed) & flag != 0
    }

    fn set(&self, flag: u32, on: bool) {
        if on {
            self.flags.fetch_or(flag, Ordering::Relaxed);
        } else {
            self.flags.fetch_and(!flag, Ordering::Relaxed);
        }
    }

    /// Whether system calls stop.
    fn wants_syscalls(&self) -> bool {
        self.has(SYSCALLS_WANTED)
    }

    /// Whether system calls are looked at.
    pub fn watches_syscalls(&self) -> bool {
        self.has(SYSCALLS_WANTED | STEPPING | EMULATING)
    }
}

impl Task {
    /// Whether it has a tracer.
    pub fn is_traced(&self) -> bool {
        self.trace.has(TRACED)
    }

    /// Its part of being traced.
    pub fn tracee(&self) -> Option<Arc<Tracee>> {
        if self.is_traced() { self.trace.slot.lock().clone() } else { None }
    }

    /// The number of the thread that traces it, or 0.
    pub fn tracer_tid(&self) -> i32 {
        self.tracee().map_or(0, |t| t.tracer.global_tid())
    }

    /// Whether it is in a stop of its tracer's making (state `t` of /proc).
    pub fn is_trace_stopped(&self) -> bool {
        self.tracee().is_some_and(|t| t.state.lock().stop.is_some())
    }
}

/// What kind of stop it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Before a signal is delivered.
    Signal,
    /// Where a system call begins or ends.
    Syscall,
    /// `PTRACE_EVENT_*` in the middle of a system call.
    Event,
    /// `PTRACE_EVENT_STOP`, or a step into a handler: on the way to ring 3.
    Trap,
    /// Job control.
    Group,
    /// `PTRACE_EVENT_EXIT`: only a second kill ends it.
    Exit,
}

/// A stop.
#[derive(Clone, Copy, Debug)]
struct Stop {
    kind: Kind,
    /// What `wait4` reports, shifted right by 8.
    code: i32,
    /// It was seized and this is `PTRACE_EVENT_STOP`: `PTRACE_LISTEN` may be said.
    listenable: bool,
}

/// How a tracee goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
enum Mode {
    #[default]
    Continue,
    Syscall,
    Step,
    /// System calls stop and are not made (`PTRACE_SYSEMU`).
    Emulate {
        /// And it makes single steps.
        step: bool,
    },
}

impl Mode {
    fn steps(self) -> bool {
        matches!(self, Mode::Step | Mode::Emulate { step: true })
    }
}

#[derive(Default)]
struct State {
    options: Options,
    stop: Option<Stop>,
    /// `wait4` has told of the stop.
    reported: bool,
    listening: bool,
    /// How it goes on, and with which signal.
    mode: Mode,
    inject: i32,
    /// `PTRACE_GETSIGINFO`; none in a plain group stop.
    info: Option<SigInfo>,
    /// `PTRACE_GETEVENTMSG`.
    message: u64,
    /// A group stop it has not joined (`JOBCTL_STOP_PENDING`).
    stop_pending: bool,
    /// It is to trap (`JOBCTL_TRAP_STOP`).
    trap_pending: bool,
    /// Job control changed while it was trapped (`JOBCTL_TRAP_NOTIFY`).
    notify_pending: bool,
    /// A kill came although it is exiting.
    killed_again: bool,
    /// No tracer any more.
    detached: bool,
    /// It is a thread that has ended.
    exited: Option<ExitStatus>,
    context: Context,
}

/// One traced task.
pub struct Tracee {
    task: TaskRef,
    tracer: TaskRef,
    seized: bool,
    state: SpinLock<State>,
    /// Where it sleeps while it is stopped.
    queue: Queue,
}

impl Tracee {
    fn new(task: &TaskRef, tracer: &TaskRef, seized: bool, options: Options) -> Result<Arc<Tracee>> {
        let mut fpu = Vec::new();
        fpu.try_reserve_exact(hal::fpu::size()).map_err(|_| Errno::ENOMEM)?;
        fpu.resize(hal::fpu::size(), 0);
        let context = Context { debug: task.debug_registers(), ..Context::new(fpu) };
        let state = State { options, context, ..State::default() };
        Ok(Arc::new(Tracee {
            task: task.clone(),
            tracer: tracer.clone(),
            seized,
            state: SpinLock::new(state),
            queue: WaitQueue::new(),
        }))
    }

    fn is_leader(&self) -> bool {
        self.task.tid() == self.task.pid()
    }

    /// Runs `f` on the state of a stopped tracee; ESRCH if it is not (or only listens).
    fn with_stopped<R>(&self, f: impl FnOnce(&mut State) -> Result<R>) -> Result<R> {
        let mut state = self.state.lock();
        if state.stop.is_none() || state.listening || state.detached {
            return Err(Errno::ESRCH);
        }
        f(&mut state)
    }
}
