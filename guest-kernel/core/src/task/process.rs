//! A process: what the threads of one thread group share.

use alloc::{
    sync::{Arc, Weak},
    vec::Vec,
};
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU32, AtomicU64, Ordering};

use super::{Credentials, Pid, ProcessGroup, limits::Limits};
use crate::{
    TaskRef,
    cgroup::Membership,
    mm::oom::Awaited,
    ns::{self, PidNamespace, PidView},
    ptrace::Tracee,
    sched::Split,
    signal::{Pending, SigHand, core_dump::CoreDump, core_file::FILTER_DEFAULT},
    sync::{Once, Queue, SpinLock, WaitQueue},
    time::ProcessTimers,
};

/// How a process ended, in the form `wait4` reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// `exit` with this code.
    Code(u8),
    /// Killed by this signal; the flag says that a core was dumped.
    Signal(u8, bool),
}

impl ExitStatus {
    /// The `wstatus` word of wait(2).
    pub fn to_wstatus(self) -> i32 {
        match self {
            ExitStatus::Code(c) => i32::from(c) << 8,
            ExitStatus::Signal(s, core) => i32::from(s) | if core { 0x80 } else { 0 },
        }
    }
}

/// Relations to other processes. Changed with the tree lock held ([`super::PidTable::tree`]).
pub struct Links {
    /// Who is told of its end, and whose child it is.
    pub parent: Weak<Process>,
    /// Running, stopped and dead children not yet waited for.
    pub children: Vec<Arc<Process>>,
    /// Its live threads; the leader is not special here.
    pub threads: Vec<TaskRef>,
    /// Its process group, until it has been waited for.
    pub group: Arc<ProcessGroup>,
}

/// Job control and exit state, as `wait4` sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// At least one thread lives.
    Running,
    /// All threads are gone; the status waits for the parent.
    Zombie(ExitStatus),
    /// Waited for.
    Reaped,
}

/// Times and faults of a finished thread or child, for getrusage.
#[derive(Default)]
pub struct Usage {
    /// CPU time in nanoseconds.
    pub runtime: AtomicU64,
    /// Of children: user and system time. Of threads: what the samples say (see `sched::cputime`).
    pub user: AtomicU64,
    /// The same.
    pub system: AtomicU64,
    /// Minor faults.
    pub minor_faults: AtomicU64,
    /// Voluntary switches.
    pub voluntary: AtomicU64,
    /// Involuntary switches.
    pub involuntary: AtomicU64,
    /// Largest resident set of any, in pages.
    pub max_rss: AtomicU64,
}

/// What a zombie still shows of its last thread.
pub struct Remains {
    /// Its name.
    pub comm: [u8; 16],
    /// Who it was.
    pub credentials: Arc<Credentials>,
}

/// One process.
pub struct Process {
    /// Its number in the first pid namespace.
    pub pid: Pid,
    /// Its number in its own.
    pub number: Pid,
    /// The pid namespace it is in.
    pub pid_ns: Arc<PidNamespace>,
    /// Relations.
    pub links: SpinLock<Links>,
    /// Life and death.
    pub state: SpinLock<State>,
    /// Signalled when a child of this process changes state.
    pub child_events: Queue,
    /// Signalled when this process ends (pidfd) or one of its threads has gone (exec waits for that).
    pub exit_events: Queue,
    /// Signal actions; shared beyond the process by `CLONE_SIGHAND` without `CLONE_THREAD`.
    sighand: SpinLock<Arc<SigHand>>,
    /// Signals sent to the process as a whole.
    pub shared_pending: Pending,
    /// What is sent to the parent at the end; 0 for nothing.
    pub exit_signal: AtomicI32,
    /// Set by `exit_group`, a fatal signal or `execve`: every thread leaves. 0 = no.
    exiting: AtomicBool,
    /// The status all threads exit with once `exiting`.
    exit_status: SpinLock<Option<ExitStatus>>,
    /// Resource limits.
    pub limits: Limits,
    /// `setitimer`, `alarm` and `timer_create`.
    pub timers: ProcessTimers,
    /// Usage of threads that have ended.
    pub dead_threads: Usage,
    /// User and system time as last shown.
    pub split: SpinLock<Split>,
    /// Usage of children that have been waited for.
    pub dead_children: Usage,
    /// Its core is being dumped.
    pub(crate) core: SpinLock<Option<Arc<CoreDump>>>,
    /// `/proc/PID/coredump_filter`.
    pub coredump_filter: AtomicU32,
    /// Job control: 0 running, else the signal that stopped it.
    pub stop_signal: AtomicU8,
    /// A stop or continue the parent has not seen yet (`WUNTRACED`, `WCONTINUED`): see `signal::stop`.
    pub stop_report: AtomicU32,
    /// Signalled when a signal is queued for it (signalfd, sigtimedwait).
    pub signal_events: Queue,
    /// Where stopped threads sleep.
    pub stop_queue: Queue,
    /// Whether it has called `execve` since it was forked (`setpgid` of a child then fails).
    pub has_execed: AtomicBool,
    /// `PR_SET_CHILD_SUBREAPER`.
    pub is_subreaper: AtomicBool,
    /// `/proc/PID/oom_score_adj`.
    pub oom_score_adj: AtomicI32,
    /// Those out of memory who wait for it to end.
    pub awaited: Awaited,
    /// `PR_SET_DUMPABLE`.
    pub dumpable: AtomicBool,
    /// Whom its threads trace.
    pub(crate) tracees: SpinLock<Vec<Arc<Tracee>>>,
    /// Who traces its first thread, whether that lives or not.
    pub(crate) leader_trace: SpinLock<Option<Arc<Tracee>>>,
    /// The thread of the parent that made it.
    pub(crate) parent_tid: AtomicI32,
    /// What semaphores have to take back when it ends; made by the first `SEM_UNDO`.
    pub sem_undo: Once<Arc<crate::ipc::UndoList>>,
    /// What is left of its last thread once that has ended.
    pub remains: SpinLock<Option<Remains>>,
    /// Its control group.
    pub cgroup: Membership,
    /// Its control group is to be frozen: its threads sleep before they return to user mode.
    pub freezing: AtomicBool,
    /// `hal::time::now()` when it was made.
    pub start_time: u64,
}

impl Process {
    /// A process without threads yet, of a number in the first pid namespace and one in its own; [`super::PidTable`] makes it visible.
    pub fn new(
        (pid, number, pid_ns): (Pid, Pid, Arc<PidNamespace>),
        parent: Weak<Process>,
        group: Arc<ProcessGroup>,
        sighand: Arc<SigHand>,
        limits: Limits,
    ) -> Arc<Process> {
        Arc::new(Process {
            pid,
            number,
            pid_ns,
            links: SpinLock::new(Links { parent, children: Vec::new(), threads: Vec::new(), group }),
            state: SpinLock::new(State::Running),
            child_events: WaitQueue::new(),
            exit_events: WaitQueue::new(),
            sighand: SpinLock::new(sighand),
            shared_pending: Pending::default(),
            exit_signal: AtomicI32::new(0),
            exiting: AtomicBool::new(false),
            exit_status: SpinLock::new(None),
            limits,
            timers: ProcessTimers::default(),
            dead_threads: Usage::default(),
            split: SpinLock::default(),
            dead_children: Usage::default(),
            core: SpinLock::new(None),
            coredump_filter: AtomicU32::new(FILTER_DEFAULT),
            stop_signal: AtomicU8::new(0),
            stop_report: AtomicU32::new(0),
            signal_events: WaitQueue::new(),
            stop_queue: WaitQueue::new(),
            has_execed: AtomicBool::new(false),
            is_subreaper: AtomicBool::new(false),
            oom_score_adj: AtomicI32::new(0),
            awaited: Awaited::default(),
            dumpable: AtomicBool::new(true),
            tracees: SpinLock::new(Vec::new()),
            leader_trace: SpinLock::new(None),
            parent_tid: AtomicI32::new(0),
            sem_undo: Once::new(),
            remains: SpinLock::new(None),
            cgroup: Membership::default(),
            freezing: AtomicBool::new(false),
            start_time: ringfence_hal::time::now(),
        })
    }

    /// The process of a kernel task: number 0, in no table.
    pub fn invisible() -> Arc<Process> {
        Process::new(
            (0, 0, PidNamespace::initial().clone()),
            Weak::new(),
            ProcessGroup::invisible(),
            Arc::new(SigHand::default()),
            Limits::default(),
        )
    }

    /// Its signal actions.
    pub fn sighand(&self) -> Arc<SigHand> {
        self.sighand.lock().clone()
    }

    /// `execve` unshares them.
    pub fn set_sighand(&self, s: Arc<SigHand>) {
        let old = core::mem::replace(&mut *self.sighand.lock(), s);
        drop(old);
    }

    /// Whether all threads have been told to leave.
    #[inline]
    pub fn is_exiting(&self) -> bool {
        self.exiting.load(Ordering::Acquire)
    }

    /// Tells all threads to leave with `status`; the first caller's status counts. The caller wakes them.
    pub fn begin_exit(&self, status: ExitStatus) {
        self.exit_status.lock().get_or_insert(status);
        self.exiting.store(true, Ordering::Release);
    }

    /// It ends by `signal`, and has left a core.
    pub fn core_dumped(&self, signal: u8) {
        let mut status = self.exit_status.lock();
        if *status == Some(ExitStatus::Signal(signal, false)) {
            *status = Some(ExitStatus::Signal(signal, true));
        }
    }

    /// The status given to [`Process::begin_exit`].
    pub fn exit_status(&self) -> Option<ExitStatus> {
        *self.exit_status.lock()
    }

    /// Its live threads, as they are now.
    pub fn threads(&self) -> Vec<TaskRef> {
        self.links.lock().threads.clone()
    }

    /// Its process group.
    pub fn group(&self) -> Arc<ProcessGroup> {
        self.links.lock().group.clone()
    }

    /// Its parent, if it still has one.
    pub fn parent(&self) -> Option<Arc<Process>> {
        self.links.lock().parent.upgrade()
    }

    /// The parent's number in the first pid namespace: 0 if there is none.
    pub fn parent_pid(&self) -> Pid {
        self.parent().map_or(0, |p| p.pid)
    }

    /// Its number as `viewer` sees it; 0 if it does not.
    pub fn number_for(&self, viewer: &Process) -> Pid {
        if Arc::ptr_eq(&self.pid_ns, &viewer.pid_ns) {
            return self.number;
        }
        PidView { ns: &viewer.pid_ns }.show(self.pid)
    }

    /// Whether it is the first process of a nested pid namespace.
    pub fn is_nested_init(&self) -> bool {
        self.number == ns::pid::INIT && !self.pid_ns.is_initial()
    }
}
