//! Tasks and processes.
//!
//! Linux has one structure, `task_struct`, for each thread, and hangs what threads of a process share on it.
//! Here a [`Task`] is one thread; a [`Process`] is what `CLONE_THREAD` shares: the pid, the parent, the exit
//! status, limits, timers and shared pending signals. What the other `clone` flags share (memory, files,
//! working directory, signal actions) is an `Arc` in the task, copied or cloned as the flag says.
//!
//! | module | holds |
//! |---|---|
//! | [`pid`] | the tables of numbers, process groups, sessions, and the tree lock |
//! | [`process`] | [`Process`] |
//! | [`credentials`] | user and group ids, capabilities |
//! | [`limits`] | rlimits and usage counters |
//! | [`rseq`] | restartable sequences |
//! | `clone`, `exit`, `wait`, `ids`, `sys` | the system calls |
//!
//! Lock order: the tree lock ([`PidTable`]) → one process's `links` → a task's own spin locks. The tree lock
//! is held to change who is whose parent, child, thread or group member, and to walk those relations.

mod capability;
pub mod clone;
pub mod credentials;
pub mod exit;
mod ids;
mod ioprio;
mod kcmp;
pub mod limits;
mod membarrier;
pub mod pid;
mod prctl;
pub mod process;
pub mod rseq;
mod sched_calls;
mod sysinfo;
pub mod wait;

use alloc::{boxed::Box, sync::Arc};
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};

use ringfence_hal as hal;
use ringfence_hal::UserRegs;

pub use credentials::{Capabilities, Credentials};
pub use pid::{ControllingTerminal, PidTable, ProcessGroup, Session};
pub use process::Process;
pub use sysinfo::{RELEASE, VERSION};

use crate::{
    Kernel, TaskRef,
    errno::{Errno, Result},
    fs::{FdTable, FsContext},
    futex::{FutexWait, RobustList},
    kernel,
    mm::Mm,
    ns::{Namespaces, PidView},
    sched::SchedState,
    signal::{self, TaskSignals},
    sync::SpinLock,
    syscall::Syscall,
};

/// A process, thread, group or session number.
pub type Pid = i32;

/// One thread.
pub struct Task {
    /// Its thread id in its own pid namespace; equal to the pid in the first thread of a process.
    tid: AtomicI32,
    /// The same in the first pid namespace.
    global_tid: AtomicI32,
    process: Arc<Process>,
    /// The scheduler's part.
    pub sched: SchedState,
    /// Mask, pending signals, alternate stack.
    pub signals: TaskSignals,
    /// The start of `/proc/PID/comm`, NUL-padded.
    comm: SpinLock<[u8; 16]>,
    mm: SpinLock<Option<Arc<Mm>>>,
    files: SpinLock<Option<Arc<FdTable>>>,
    fs: SpinLock<Option<Arc<FsContext>>>,
    credentials: SpinLock<Arc<Credentials>>,
    namespaces: SpinLock<Arc<Namespaces>>,
    /// `set_tid_address(2)`: cleared and woken when the task exits.
    clear_child_tid: AtomicU64,
    /// `rseq(2)`.
    pub(crate) rseq: rseq::Rseq,
    /// `set_robust_list(2)`.
    pub(crate) robust_list: SpinLock<RobustList>,
    /// Its part of waiting on a futex.
    pub(crate) futex: FutexWait,
    /// Set once the task has begun to exit.
    exiting: AtomicBool,
    /// Who waits for this task to leave the memory it borrowed (`vfork`).
    vfork_done: SpinLock<Option<Arc<clone::VforkDone>>>,
    /// User-mode page faults taken, for getrusage: without and with I/O.
    pub minor_faults: AtomicU64,
    /// `PR_SET_PDEATHSIG`.
    pub(crate) parent_death_signal: AtomicI32,
    no_new_privs: AtomicBool,
    /// `set_mempolicy(2)`: a `mm::policy::Policy`.
    pub(crate) mempolicy: AtomicU32,
    /// `personality(2)`.
    pub(crate) personality: AtomicU32,
    /// `ioprio_set(2)`.
    pub(super) ioprio: AtomicU32,
    /// Restart state of the call `restart_syscall(2)` continues.
    pub(crate) restart: SpinLock<Option<crate::time::Restart>>,
    /// Its system-call filters.
    pub(crate) seccomp: crate::seccomp::TaskSeccomp,
    /// Its part of being traced.
    pub(crate) trace: crate::ptrace::TaskTrace,
    /// What a kernel task runs.
    kernel_main: SpinLock<Option<KernelMain>>,
    /// `CLOCK_*` start of this thread: `hal::time::now()` when it was made.
    pub start_time: u64,
}

/// What a new task is made of.
pub struct Parts {
    /// Memory; `None` in kernel tasks.
    pub mm: Option<Arc<Mm>>,
    /// Open files.
    pub files: Option<Arc<FdTable>>,
    /// Root, working directory, umask.
    pub fs: Option<Arc<FsContext>>,
    /// Who it is.
    pub credentials: Arc<Credentials>,
    /// Its namespaces.
    pub namespaces: Arc<Namespaces>,
}

impl Task {
    /// A task of `process`, with number `tid` in the first pid namespace and, unless [`Task::set_tid`] says
    /// otherwise, in its own.
    pub fn new(tid: Pid, process: Arc<Process>, parts: Parts, sched: SchedState, comm: [u8; 16]) -> Task {
        Task {
            tid: AtomicI32::new(tid),
            global_tid: AtomicI32::new(tid),
            process,
            sched,
            signals: TaskSignals::new(),
            comm: SpinLock::new(comm),
            mm: SpinLock::new(parts.mm),
            files: SpinLock::new(parts.files),
            fs: SpinLock::new(parts.fs),
            credentials: SpinLock::new(parts.credentials),
            namespaces: SpinLock::new(parts.namespaces),
            clear_child_tid: AtomicU64::new(0),
            rseq: rseq::Rseq::default(),
            robust_list: SpinLock::new(RobustList::default()),
            futex: FutexWait::default(),
            exiting: AtomicBool::new(false),
            vfork_done: SpinLock::new(None),
            minor_faults: AtomicU64::new(0),
            parent_death_signal: AtomicI32::new(0),
            no_new_privs: AtomicBool::new(false),
            mempolicy: AtomicU32::new(0),
            personality: AtomicU32::new(0),
            ioprio: AtomicU32::new(0),
            restart: SpinLock::new(None),
            seccomp: crate::seccomp::TaskSeccomp::default(),
            trace: crate::ptrace::TaskTrace::default(),
            kernel_main: SpinLock::new(None),
            start_time: hal::time::now(),
        }
    }

    /// The idle task of a CPU.
    pub fn idle(cpu: usize) -> Task {
        Self::kernel_task(b"idle", SchedState::idle(cpu))
    }

    /// A task that never enters ring 3: it belongs to a process of its own that nobody can see.
    pub fn kernel_task(name: &[u8], sched: SchedState) -> Task {
        let parts = Parts {
            mm: None,
            files: None,
            fs: None,
            credentials: Arc::new(Credentials::root()),
            namespaces: Namespaces::initial().clone(),
        };
        Task::new(0, Process::invisible(), parts, sched, comm_of(name))
    }

    /// The thread id in its own pid namespace (`gettid`).
    pub fn tid(&self) -> Pid {
        self.tid.load(Ordering::Relaxed)
    }

    /// The thread id in the first pid namespace, by which the kernel's tables go.
    pub fn global_tid(&self) -> Pid {
        self.global_tid.load(Ordering::Relaxed)
    }

    /// Sets both numbers: `execve` from a thread that is not the leader takes over the leader's.
    pub(crate) fn set_tid(&self, global: Pid, own: Pid) {
        self.global_tid.store(global, Ordering::Relaxed);
        self.tid.store(own, Ordering::Relaxed);
    }

    /// The process id in its own pid namespace (`getpid`).
    #[inline]
    #[allow(clippy::misnamed_getters)] // `Process::pid` is the number in the first namespace
    pub fn pid(&self) -> Pid {
        self.process.number
    }

    /// The tables of numbers as it sees them: for numbers that a system call takes or shows.
    #[inline]
    pub fn pids(&self) -> PidView<'_> {
        PidView { ns: &self.process.pid_ns }
    }

    /// The process it is a thread of.
    pub fn process(&self) -> &Arc<Process> {
        &self.process
    }

    /// Machine-wide state.
    pub fn kernel(&self) -> &'static Kernel {
        kernel::kernel()
    }

    /// Its memory; `ESRCH` once it has exited, and for kernel tasks.
    pub fn mm(&self) -> Result<Arc<Mm>> {
        self.mm.lock().clone().ok_or(Errno::ESRCH)
    }

    /// Its memory, if any.
    pub fn mm_opt(&self) -> Option<Arc<Mm>> {
        self.mm.lock().clone()
    }

    /// Changes its memory, and returns the former: `execve`, exit. The page tables in use are the caller's to
    /// change (`hal::Thread::set_address_space`).
    pub fn replace_mm(&self, mm: Option<Arc<Mm>>) -> Option<Arc<Mm>> {
        let mut slot = self.mm.lock();
        if let (Some(old), Some(new)) = (&*slot, &mm)
            && old.huge_disabled()
        {
            new.disable_huge(true);
        }
        core::mem::replace(&mut *slot, mm)
    }

    /// Its open files; `ESRCH` once it has exited.
    pub fn files(&self) -> Result<Arc<FdTable>> {
        self.files.lock().clone().ok_or(Errno::ESRCH)
    }

    /// Changes its descriptor table (`unshare`, `execve`, exit).
    pub fn replace_files(&self, files: Option<Arc<FdTable>>) -> Option<Arc<FdTable>> {
        core::mem::replace(&mut *self.files.lock(), files)
    }

    /// Root, working directory and umask; `ESRCH` once it has exited.
    pub fn fs(&self) -> Result<Arc<FsContext>> {
        self.fs.lock().clone().ok_or(Errno::ESRCH)
    }

    /// Changes the file system context (`unshare`, exit).
    pub fn replace_fs(&self, fs: Option<Arc<FsContext>>) -> Option<Arc<FsContext>> {
        core::mem::replace(&mut *self.fs.lock(), fs)
    }

    /// Who it is; immutable, replaced as a whole.
    pub fn credentials(&self) -> Arc<Credentials> {
        self.credentials.lock().clone()
    }

    /// Replaces who it is.
    pub fn set_credentials(&self, c: Credentials) {
        let new = Arc::new(c);
        let old = core::mem::replace(&mut *self.credentials.lock(), new);
        drop(old);
    }

    /// Its namespaces (but for the mount and user namespace).
    pub fn namespaces(&self) -> Arc<Namespaces> {
        self.namespaces.lock().clone()
    }

    /// Changes its namespaces, and returns the former: `unshare`, `setns`.
    pub fn replace_namespaces(&self, new: Arc<Namespaces>) -> Arc<Namespaces> {
        core::mem::replace(&mut *self.namespaces.lock(), new)
    }

    /// Name of the thread, NUL-padded (`/proc/PID/comm`, `PR_GET_NAME`).
    pub fn comm(&self) -> [u8; 16] {
        *self.comm.lock()
    }

    /// Sets the name; cut to 15 bytes.
    pub fn set_comm(&self, name: &[u8]) {
        *self.comm.lock() = comm_of(name);
    }

    /// Whether an interruptible wait has to end: a signal is deliverable, or the group stops or exits.
    pub fn interrupted(&self) -> bool {
        signal::pending(self)
    }

    /// Whether it has been told to exit (SIGKILL, `exit_group` or `execve` of another thread).
    pub fn killed(&self) -> bool {
        self.process.is_exiting() || self.signals.is_killed()
    }

    /// Whether it has begun to exit.
    pub fn is_exiting(&self) -> bool {
        self.exiting.load(Ordering::Acquire)
    }

    /// `PR_SET_NO_NEW_PRIVS`.
    pub fn no_new_privs(&self) -> bool {
        self.no_new_privs.load(Ordering::Relaxed)
    }

    /// Sets `PR_SET_NO_NEW_PRIVS`; there is no way back.
    pub fn set_no_new_privs(&self) {
        self.no_new_privs.store(true, Ordering::Relaxed);
    }
}

type KernelMain = Box<dyn FnOnce(&TaskRef) + Send>;

/// Starts a task that never enters ring 3 and ends when `main` returns.
pub fn spawn_kernel_task(name: &[u8], main: KernelMain) -> Result<TaskRef> {
    fn run(task: &TaskRef) -> ! {
        let main = task.kernel_main.lock().take();
        if let Some(main) = main {
            main(task);
        }
        crate::sched::exit_current(task)
    }
    let task = Task::kernel_task(name, SchedState::new());
    *task.kernel_main.lock() = Some(main);
    let thread = hal::Thread::<crate::Sentry>::new_kernel(task, run)?;
    crate::sched::start(&thread);
    Ok(thread)
}

/// A thread name from the last component of a path, cut to 15 bytes and NUL-padded.
pub fn comm_of(name: &[u8]) -> [u8; 16] {
    let mut comm = [0; 16];
    for (to, from) in comm.iter_mut().take(15).zip(name) {
        *to = *from;
    }
    comm
}

/// Work before ring 3 that is neither a signal nor a reschedule.
pub fn notify_resume(task: &TaskRef, regs: &mut UserRegs) {
    crate::cgroup::memory::notify_resume(task);
    crate::ptrace::go_on_late(task, regs);
    rseq::notify_resume(task, regs);
}

/// Has the calling task's system calls looked at, or not any more, as its tracer and its filters want.
pub(crate) fn update_watched(task: &TaskRef) {
    task.set_watched(task.trace.watches_syscalls() || task.seccomp.is_on());
}

/// The system calls of this module, one list per file.
pub const SYSCALLS: &[&[Syscall]] = &[
    clone::SYSCALLS,
    exit::SYSCALLS,
    wait::SYSCALLS,
    ids::SYSCALLS,
    capability::SYSCALLS,
    prctl::SYSCALLS,
    ioprio::SYSCALLS,
    kcmp::SYSCALLS,
    limits::SYSCALLS,
    membarrier::SYSCALLS,
    rseq::SYSCALLS,
    sched_calls::SYSCALLS,
    sysinfo::SYSCALLS,
];
