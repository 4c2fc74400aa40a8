//! Whom an inode is about, and who may look.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use crate::{
    TaskRef,
    errno::{Errno, Result},
    kernel::kernel,
    mm::Mm,
    ns::{PidNamespace, PidView},
    ptrace::{AccessMode, check_access},
    task::{Capabilities, Pid, Process, process::State},
};

/// Whom an inode is about, by numbers of the first pid namespace.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    Machine,
    Process(Pid),
    Thread(Pid, Pid),
    /// A disk, by its place.
    Disk(usize),
}

/// A process, and one of its threads if it still has any.
pub(super) struct Target {
    pub process: Arc<Process>,
    pub task: Option<TaskRef>,
    /// It is about that thread alone.
    pub thread: bool,
}

impl Who {
    /// `ESRCH` if it is gone.
    pub fn target(self) -> Result<Target> {
        let pids = &kernel().pids;
        match self {
            Who::Machine | Who::Disk(_) => Err(Errno::ESRCH),
            Who::Process(pid) => {
                let process = pids.process(pid)?;
                // The leader may have ended before its threads.
                let task = pids.task(pid).ok().or_else(|| process.threads().into_iter().next());
                Ok(Target { process, task, thread: false })
            }
            Who::Thread(pid, tid) => {
                let task = pids.task(tid)?;
                if task.process().pid != pid {
                    return Err(Errno::ESRCH);
                }
                Ok(Target { process: task.process().clone(), task: Some(task), thread: true })
            }
        }
    }
}

impl Target {
    /// The thread; `ESRCH` for a zombie.
    pub fn task(&self) -> Result<&TaskRef> {
        self.task.as_ref().ok_or(Errno::ESRCH)
    }

    /// Its memory, unless it has given it up.
    pub fn mm(&self) -> Option<Arc<Mm>> {
        self.task.as_ref()?.mm_opt()
    }

    pub fn is_zombie(&self) -> bool {
        *self.process.state.lock() != State::Running
    }

    /// The user and group that its files belong to.
    pub fn owner(&self) -> (u32, u32) {
        match &self.task {
            Some(task) if self.process.dumpable.load(Ordering::Relaxed) => {
                let c = task.credentials();
                (c.euid, c.egid)
            }
            Some(_) => (0, 0),
            None => self
                .process
                .remains
                .lock()
                .as_ref()
                .map_or((0, 0), |r| (r.credentials.euid, r.credentials.egid)),
        }
    }

    /// Whether `viewer` could trace it (`ptrace_may_access`).
    pub fn check_access(&self, viewer: &TaskRef) -> Result<()> {
        if Arc::ptr_eq(viewer.process(), &self.process) {
            return Ok(());
        }
        let it = self.task()?;
        if viewer.credentials().capable_in(&it.credentials().user_ns, Capabilities::SYS_PTRACE) {
            return Ok(());
        }
        check_access(viewer, it, AccessMode::Filesystem).map_err(|_| Errno::EACCES)
    }
}

/// Whom it is about, and who asks.
pub(super) struct Scope<'a> {
    pub who: Who,
    pub viewer: &'a TaskRef,
    /// Whose numbers are shown: the mount's, not the viewer's.
    pub ns: &'a PidNamespace,
}

impl Scope<'_> {
    pub fn target(&self) -> Result<Target> {
        self.who.target()
    }

    /// The number shown for what has number `global` in the first pid namespace.
    pub fn number(&self, global: Pid) -> Pid {
        PidView { ns: self.ns }.show(global)
    }
}
