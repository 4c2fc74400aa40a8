//! Which group a process is in, and how fork and exit count.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use ringfence_hal as hal;

use super::{Cgroup, freezer};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    sched::work,
    sync::SpinLock,
    task::Process,
};

/// The group of a process, as [`Process`] has it.
pub struct Membership {
    /// The group's number, 0 for the root: what is asked where it has to be quick.
    id: AtomicU32,
    /// The number of the group that pays for its memory, 0 for nobody.
    payer: AtomicU32,
    /// When the process came into it, in nanoseconds.
    joined: AtomicU64,
    group: SpinLock<Option<Arc<Cgroup>>>,
}

impl Default for Membership {
    fn default() -> Self {
        Membership {
            id: AtomicU32::new(0),
            payer: AtomicU32::new(0),
            joined: AtomicU64::new(0),
            group: SpinLock::new(None),
        }
    }
}

impl Membership {
    /// Whether it is the root group.
    #[inline]
    pub fn is_root(&self) -> bool {
        self.id.load(Ordering::Relaxed) == 0
    }

    /// The group; `None` is the root.
    #[inline]
    pub fn get(&self) -> Option<Arc<Cgroup>> {
        if self.is_root() { None } else { self.group.lock().clone() }
    }

    /// The group, the root as well.
    pub fn group(&self) -> Arc<Cgroup> {
        self.get().unwrap_or_else(|| super::root().clone())
    }

    /// The group's number, 0 for the root.
    pub fn id(&self) -> u32 {
        self.id.load(Ordering::Acquire)
    }

    /// When the process came into the group, in nanoseconds.
    pub fn joined(&self) -> u64 {
        self.joined.load(Ordering::Relaxed)
    }

    /// The number of the group that pays for its memory, 0 for nobody.
    #[inline]
    pub fn payer(&self) -> u32 {
        self.payer.load(Ordering::Relaxed)
    }

    /// The memory controller was enabled for a group above, or disabled.
    pub(super) fn refresh(&self) {
        let group = self.group.lock();
        self.payer.store(group.as_ref().map_or(0, |group| group.payer()), Ordering::Release);
    }

    /// Changes the group; the pid table's tree lock is held.
    pub(super) fn set(&self, group: Option<&Arc<Cgroup>>) {
        let group = group.filter(|group| !group.is_root());
        let mut current = self.group.lock();
        self.joined.store(hal::time::now(), Ordering::Relaxed);
        self.id.store(group.map_or(0, |group| group.id()), Ordering::Release);
        self.payer.store(group.map_or(0, |group| group.payer()), Ordering::Release);
        let old = core::mem::replace(&mut *current, group.cloned());
        drop(current);
        drop(old);
    }
}

/// A task to be: counted by the pids controller, not yet a member of its group.
pub struct ForkSlot {
    /// Where it is counted; `None` is the root.
    charged: Option<Arc<Cgroup>>,
    /// The group asked for with `CLONE_INTO_CGROUP`.
    into: Option<Arc<Cgroup>>,
    /// Groups that have become populated by it.
    populated: usize,
}

impl ForkSlot {
    /// Counts a child of `parent` in its group or in `into`. `EAGAIN` if a limit does not allow it.
    #[inline]
    pub fn reserve(parent: &TaskRef, into: Option<Arc<Cgroup>>) -> Result<ForkSlot> {
        if into.is_none() && parent.process().cgroup.is_root() {
            return Ok(ForkSlot { charged: None, into, populated: 0 });
        }
        Self::reserve_in(parent, into)
    }

    /// Counts a process to be in `group` that nobody forks; `None` is the root. `EAGAIN` if a limit does not allow it.
    pub fn reserve_for(group: Option<Arc<Cgroup>>) -> Result<ForkSlot> {
        if let Some(group) = &group {
            group.charge_task().map_err(|full| {
                full.note_refused_fork();
                Errno::EAGAIN
            })?;
        }
        Ok(ForkSlot { charged: group.clone(), into: group, populated: 0 })
    }

    #[cold]
    fn reserve_in(parent: &TaskRef, into: Option<Arc<Cgroup>>) -> Result<ForkSlot> {
        let group = into.clone().map_or_else(|| parent.process().cgroup.get(), Some).filter(|g| !g.is_root());
        if let Some(group) = &group {
            group.charge_task().map_err(|full| {
                full.note_refused_fork();
                Errno::EAGAIN
            })?;
        }
        Ok(ForkSlot { charged: group, into, populated: 0 })
    }

    /// Makes the new task a member, as it becomes visible: the tree lock is held. `process` is its process, new unless
    /// `thread`. `ENODEV` if the group asked for has been removed meanwhile.
    #[inline]
    pub fn settle(
        &mut self,
        parent: &Process,
        process: &Process,
        task: &TaskRef,
        thread: bool,
    ) -> Result<()> {
        if self.charged.is_none() && self.into.is_none() && parent.cgroup.is_root() {
            return Ok(());
        }
        self.settle_in(parent, process, task, thread)
    }

    #[cold]
    fn settle_in(&mut self, parent: &Process, process: &Process, task: &TaskRef, thread: bool) -> Result<()> {
        let group = self.into.clone().map_or_else(|| parent.cgroup.get(), Some).filter(|g| !g.is_root());
        // The parent may have been moved since the task was counted.
        let same = group.as_ref().map(|g| g.id()) == self.charged.as_ref().map(|g| g.id());
        if let Some(group) = group.as_ref().filter(|_| !same) {
            group.charge_tasks_anyway(1);
        }
        if !same && let Some(charged) = &self.charged {
            charged.uncharge_tasks(1);
        }
        self.charged = group;
        let Some(group) = &self.charged else { return Ok(()) };
        self.populated = group.enter(usize::from(!thread), 1);
        if group.is_dead() && !thread {
            group.leave(1, 1);
            return Err(Errno::ENODEV);
        }
        if !thread {
            process.cgroup.set(Some(group));
        }
        if freezer::is_freezing(group) {
            process.freezing.store(true, Ordering::Release);
            task.work().fetch_or(work::SIGNAL, Ordering::Release);
        }
        Ok(())
    }

    /// The new task runs: whoever watches is told. Without locks.
    #[inline]
    pub fn done(mut self) {
        if let Some(group) = self.charged.take() {
            announce(&group, self.populated);
        }
    }
}

impl Drop for ForkSlot {
    /// The fork failed.
    fn drop(&mut self) {
        if let Some(group) = &self.charged {
            group.uncharge_tasks(1);
        }
    }
}

/// Tells those who watch `group` and, `populated` in all, those above it.
#[cold]
fn announce(group: &Arc<Cgroup>, populated: usize) {
    group.notify_populated(populated);
    freezer::update(group);
}

/// A thread has left its process; `last`: and with it the process is gone, but for the zombie. The tree lock is held.
/// What it returns is for [`Left::announce`], after the lock.
#[inline]
pub fn exited(process: &Process, last: bool) -> Left {
    if process.cgroup.is_root() { Left(None) } else { exited_in(process, last) }
}

#[cold]
fn exited_in(process: &Process, last: bool) -> Left {
    let Some(group) = process.cgroup.get() else { return Left(None) };
    let changed = group.leave(usize::from(last), 1);
    if !last {
        group.uncharge_tasks(1); // the last one stays counted as the zombie it leaves
    }
    Left(Some((group, changed)))
}

/// A group that a task has left, and how many groups are not populated any more.
#[must_use]
pub struct Left(Option<(Arc<Cgroup>, usize)>);

impl Left {
    /// Tells those who watch the groups.
    #[inline]
    pub fn announce(self) {
        if let Some((group, changed)) = &self.0 {
            announce(group, *changed);
        }
    }
}

/// The zombie is gone.
#[inline]
pub fn reaped(process: &Process) {
    if let Some(group) = process.cgroup.get() {
        group.uncharge_tasks(1);
    }
}
