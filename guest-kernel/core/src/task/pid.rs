//! Numbers: the tables of tasks, processes, groups and sessions, and the lock of the process tree.

use alloc::{
    boxed::Box,
    collections::BTreeMap,
    sync::{Arc, Weak},
    vec::Vec,
};

use ringfence_hal as hal;

use super::{Pid, Process};
use crate::{
    Sentry, TaskRef,
    errno::{Errno, Result},
    fs::{DeviceId, File},
    ns::{PidNamespace, pid::Nested},
    sync::SpinLock,
};

/// Largest number plus one (`/proc/sys/kernel/pid_max`).
pub const PID_MAX: Pid = 32768;
/// From here on are the numbers of what is in a container that the first pid namespace does not see; as many as there can
/// be pids on Linux, which only means that none comes again soon.
pub const FIRST_HIDDEN: Pid = 1 << 22;
const LAST_HIDDEN: Pid = 2 * FIRST_HIDDEN - 1;

/// A terminal, as far as sessions are concerned with it.
pub trait ControllingTerminal: Send + Sync {
    /// The leader of the session it controls has exited: the session loses it, and the foreground group is
    /// sent SIGHUP and SIGCONT.
    fn leader_exited(&self, session: &Arc<Session>);
    /// `vhangup`: those that have it open see their end, the session loses it.
    fn hang_up(&self);
    /// Its device number (`tty_nr` of `/proc/PID/stat`).
    fn device(&self) -> DeviceId;
    /// The number of the process group in the foreground; 0 if there is none.
    fn foreground(&self) -> Pid;
    /// Opens it (`/dev/tty`).
    fn open(self: Arc<Self>) -> Result<Arc<dyn File>>;
}

/// A session: process groups under one controlling terminal.
pub struct Session {
    /// Its number in the first pid namespace: the pid of the process that called `setsid`.
    pub sid: Pid,
    /// Its controlling terminal, if any.
    pub terminal: SpinLock<Option<Arc<dyn ControllingTerminal>>>,
}

/// A process group.
pub struct ProcessGroup {
    /// Its number in the first pid namespace: the pid of its first leader.
    pub pgid: Pid,
    /// The session it belongs to.
    pub session: Arc<Session>,
}

impl ProcessGroup {
    /// The group of kernel tasks.
    pub(super) fn invisible() -> Arc<ProcessGroup> {
        Arc::new(ProcessGroup {
            pgid: 0,
            session: Arc::new(Session { sid: 0, terminal: SpinLock::new(None) }),
        })
    }
}

/// What a number means. One number can be all four at once, and stays taken while it is any.
#[derive(Default)]
struct Entry {
    task: Option<TaskRef>,
    process: Option<Arc<Process>>,
    group: Weak<ProcessGroup>,
    session: Weak<Session>,
    /// Its numbers in nested pid namespaces.
    nested: Option<Box<Nested>>,
}

impl Entry {
    fn is_free(&self) -> bool {
        self.task.is_none()
            && self.process.is_none()
            && self.group.strong_count() == 0
            && self.session.strong_count() == 0
    }
}

/// The process tree: numbers, and (by holding its lock) the relations of all processes.
#[derive(Default)]
pub struct Tree {
    entries: BTreeMap<Pid, Entry>,
    next: Pid,
    next_hidden: Pid,
}

/// The table of numbers behind the tree lock.
pub struct PidTable {
    tree: SpinLock<Tree>,
}

impl PidTable {
    pub(crate) fn new() -> Self {
        PidTable {
            tree: SpinLock::new(Tree { entries: BTreeMap::new(), next: 1, next_hidden: FIRST_HIDDEN }),
        }
    }

    /// Runs `f` with the tree lock held.
    pub fn tree<R>(&self, f: impl FnOnce(&mut Tree) -> R) -> R {
        f(&mut self.tree.lock())
    }

    /// The task with number `tid`.
    pub fn task(&self, tid: Pid) -> Result<TaskRef> {
        self.tree(|t| t.task(tid)).ok_or(Errno::ESRCH)
    }

    /// The process with number `pid`, dead or alive, not yet waited for.
    pub fn process(&self, pid: Pid) -> Result<Arc<Process>> {
        self.tree(|t| t.process(pid)).ok_or(Errno::ESRCH)
    }

    /// The process group with number `pgid`.
    pub fn group(&self, pgid: Pid) -> Result<Arc<ProcessGroup>> {
        self.tree(|t| t.group(pgid)).ok_or(Errno::ESRCH)
    }

    /// The processes that the first pid namespace sees, by number (`/proc`, `kill(-1)`).
    pub fn visible_processes(&self) -> Vec<Arc<Process>> {
        self.tree(|t| {
            let seen = t.entries.range(..FIRST_HIDDEN);
            seen.filter_map(|(_, e)| e.process.clone()).collect()
        })
    }

    /// All processes of the machine.
    pub fn processes(&self) -> Vec<Arc<Process>> {
        self.tree(|t| t.processes().cloned().collect())
    }

    /// The members of a group, by number.
    pub fn members(&self, group: &Arc<ProcessGroup>) -> Vec<Arc<Process>> {
        self.tree(|t| t.members(group).collect())
    }

    /// How many tasks there are.
    pub fn task_count(&self) -> usize {
        self.tree(|t| t.entries.values().filter(|e| e.task.is_some()).count())
    }

    /// How many tasks are a user's, zombies included.
    pub fn tasks_of(&self, uid: u32) -> u64 {
        let of_process = |process: &Arc<Process>| {
            let threads = process.threads();
            let alive = threads.iter().filter(|task| task.credentials().uid == uid).count();
            let remains = process.remains.lock().as_ref().is_some_and(|r| r.credentials.uid == uid);
            alive + usize::from(remains && threads.is_empty())
        };
        self.processes().iter().map(of_process).sum::<usize>() as u64
    }

    /// How many numbers are taken, by zombies and by groups without a leader, too.
    pub fn taken(&self) -> usize {
        self.tree(|t| t.entries.len())
    }

    /// The last number given out.
    pub fn last(&self) -> Pid {
        self.tree(|t| t.next - 1)
    }
}

impl Tree {
    /// Reserves a number in the first namespace, and in `ns` and those above it; answers the first and the one
    /// in `ns`. `wanted` are those it shall have, of `ns` first, then of those above. `EAGAIN`, `EEXIST`.
    pub fn allocate_in(&mut self, ns: &Arc<PidNamespace>, wanted: &[Pid]) -> Result<(Pid, Pid)> {
        let global = match wanted.get(ns.level()) {
            Some(pid) => self.take(*pid)?,
            None if ns.is_hidden() => self.allocate_hidden()?,
            None => self.allocate()?,
        };
        if ns.is_initial() {
            return Ok((global, global));
        }
        let is_free = |other: Pid| self.entries.get(&other).is_none_or(Entry::is_free);
        let nested = match Nested::reserve(ns, global, wanted, &is_free) {
            Ok(nested) => nested,
            Err(e) => {
                self.forget_if_free(global);
                return Err(e);
            }
        };
        let number = nested.innermost().unwrap_or(global);
        self.entry(global).nested = Some(Box::new(nested));
        Ok((global, number))
    }

    /// Reserves this number. `EEXIST`.
    fn take(&mut self, pid: Pid) -> Result<Pid> {
        if !self.entries.get(&pid).is_none_or(Entry::is_free) {
            return Err(Errno::EEXIST);
        }
        self.forget_if_free(pid);
        self.entries.insert(pid, Entry::default());
        Ok(pid)
    }

    /// The number in `ns` of what has number `global` in the first namespace; 0 if it has none there.
    pub fn number_in(&self, global: Pid, ns: &PidNamespace) -> Pid {
        match self.entries.get(&global) {
            _ if ns.is_initial() && global >= FIRST_HIDDEN => 0,
            _ if ns.is_initial() => global,
            Some(Entry { nested: Some(nested), .. }) => nested.number_in(ns),
            _ => 0,
        }
    }

    /// Reserves the next free number; `EAGAIN` when there is none.
    pub fn allocate(&mut self) -> Result<Pid> {
        // Groups and sessions end by reference count: their numbers are found free here.
        for _ in 0..PID_MAX {
            let pid = self.next;
            self.next = if pid + 1 >= PID_MAX { 300 } else { pid + 1 };
            if self.entries.get(&pid).is_none_or(Entry::is_free) {
                return self.take(pid);
            }
        }
        Err(Errno::EAGAIN)
    }

    /// Reserves a number the first namespace does not see.
    fn allocate_hidden(&mut self) -> Result<Pid> {
        for _ in 0..PID_MAX {
            let pid = self.next_hidden;
            self.next_hidden = if pid >= LAST_HIDDEN { FIRST_HIDDEN } else { pid + 1 };
            if self.entries.get(&pid).is_none_or(Entry::is_free) {
                return self.take(pid);
            }
        }
        Err(Errno::EAGAIN)
    }

    fn entry(&mut self, pid: Pid) -> &mut Entry {
        self.entries.entry(pid).or_default()
    }

    /// Gives `tid` its task.
    pub fn set_task(&mut self, tid: Pid, task: &TaskRef) {
        self.entry(tid).task = Some(task.clone());
    }

    /// Gives `pid` its process.
    pub fn set_process(&mut self, process: &Arc<Process>) {
        self.entry(process.pid).process = Some(process.clone());
    }

    /// A new session with one group, both numbered `pid`.
    pub fn new_session(&mut self, pid: Pid) -> Arc<ProcessGroup> {
        let session = Arc::new(Session { sid: pid, terminal: SpinLock::new(None) });
        self.entry(pid).session = Arc::downgrade(&session);
        self.new_group(pid, session)
    }

    /// A new group in `session`.
    pub fn new_group(&mut self, pgid: Pid, session: Arc<Session>) -> Arc<ProcessGroup> {
        let group = Arc::new(ProcessGroup { pgid, session });
        self.entry(pgid).group = Arc::downgrade(&group);
        group
    }

    /// Forgets a task; returns the table's reference, to be dropped after the lock.
    pub fn remove_task(&mut self, tid: Pid) -> Option<TaskRef> {
        let task = self.entries.get_mut(&tid).and_then(|e| e.task.take());
        self.forget_if_free(tid);
        task
    }

    /// Forgets a process that has been waited for.
    pub fn remove_process(&mut self, pid: Pid) -> Option<Arc<Process>> {
        let process = self.entries.get_mut(&pid).and_then(|e| e.process.take());
        self.forget_if_free(pid);
        process
    }

    /// Gives an unused number back.
    pub fn forget_if_free(&mut self, pid: Pid) {
        if self.entries.get(&pid).is_some_and(Entry::is_free)
            && let Some(Entry { nested: Some(nested), .. }) = self.entries.remove(&pid)
        {
            nested.forget(pid);
        }
    }

    /// The task with number `tid`.
    pub fn task(&self, tid: Pid) -> Option<TaskRef> {
        self.entries.get(&tid)?.task.clone()
    }

    /// The process with number `pid`.
    pub fn process(&self, pid: Pid) -> Option<Arc<Process>> {
        self.entries.get(&pid)?.process.clone()
    }

    /// The group with number `pgid`.
    pub fn group(&self, pgid: Pid) -> Option<Arc<ProcessGroup>> {
        self.entries.get(&pgid)?.group.upgrade()
    }

    /// All processes.
    pub fn processes(&self) -> impl Iterator<Item = &Arc<Process>> {
        self.entries.values().filter_map(|e| e.process.as_ref())
    }

    /// The members of a group.
    pub fn members<'a>(&'a self, group: &'a Arc<ProcessGroup>) -> impl Iterator<Item = Arc<Process>> + 'a {
        self.processes().filter(move |p| Arc::ptr_eq(&p.links.lock().group, group)).cloned()
    }

    /// Whether a group is orphaned: no member has a parent in another group of the same session.
    pub fn is_orphaned(&self, group: &Arc<ProcessGroup>) -> bool {
        !self.members(group).any(|p| {
            p.parent().is_some_and(|parent| {
                let g = parent.group();
                !Arc::ptr_eq(&g, group) && Arc::ptr_eq(&g.session, &group.session)
            })
        })
    }
}

/// Whether two task references are the same task.
pub fn same_task(a: &TaskRef, b: &TaskRef) -> bool {
    Arc::<hal::Thread<Sentry>>::ptr_eq(a, b)
}
