//! Pid namespaces: which processes there are, and by what numbers (pid_namespaces(7)).
//!
//! Every task, process, group and session has one number in the first namespace, which is what the kernel's
//! own tables ([`crate::task::PidTable`]) go by: `Process::pid`, `ProcessGroup::pgid`, `Session::sid`. What is
//! in a nested namespace has a number there and in every namespace above it as well. Numbers are translated
//! where a system call takes or shows one, by the [`PidView`] of the caller ([`crate::task::Task::pids`]); for
//! a caller in the first namespace that is no work, and a task's own numbers (`getpid`, `gettid`) are stored.
//!
//! The first process in a namespace is its init: number 1, adopts orphans, is spared what it has no handler for
//! (but SIGKILL and SIGSTOP from above), and its end kills everybody else in the namespace.
//!
//! The containers of a sandbox besides the first ([`crate::container`]) have a namespace of their own each, below the first
//! one, but not to be seen from it: what is in it has numbers from [`FIRST_HIDDEN`] up in the kernel's tables, which no view
//! from the first namespace takes or shows.
//!
//! Lock order: the tree lock → a namespace's numbers.

use alloc::{collections::BTreeMap, sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicBool, Ordering};

use super::{UserNamespace, next_id};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    kernel::kernel,
    sync::{Once, Queue, SpinLock, WaitQueue},
    task::{
        Pid, Process, ProcessGroup,
        pid::{FIRST_HIDDEN, PID_MAX},
    },
};

/// How deep pid namespaces may be nested.
const LEVEL_MAX: u32 = 32;
/// Where numbers go on after the largest: low ones are left to daemons.
const RESERVED: Pid = 300;
/// The number of a namespace's first process.
pub const INIT: Pid = 1;

/// A pid namespace.
pub struct PidNamespace {
    id: u64,
    owner: Arc<UserNamespace>,
    parent: Option<Arc<PidNamespace>>,
    level: u32,
    /// The number of the container it belongs to; 0 for the first, whose numbers are the kernel's.
    container: u32,
    /// It is the outermost one of a container.
    top: bool,
    numbers: SpinLock<Numbers>,
    /// Its init has ended: nothing new may begin in it.
    dead: AtomicBool,
    /// Woken when a process in it has ended.
    pub ended: Queue,
}

struct Numbers {
    /// Number here → number in the first namespace.
    known: BTreeMap<Pid, Pid>,
    next: Pid,
}

impl PidNamespace {
    fn make(
        id: u64,
        owner: &Arc<UserNamespace>,
        parent: Option<Arc<PidNamespace>>,
        (container, top): (u32, bool),
    ) -> Arc<PidNamespace> {
        Arc::new(PidNamespace {
            id,
            owner: owner.clone(),
            container,
            top,
            level: parent.as_ref().map_or(0, |p| p.level + 1),
            parent,
            numbers: SpinLock::new(Numbers { known: BTreeMap::new(), next: INIT }),
            dead: AtomicBool::new(false),
            ended: WaitQueue::new(),
        })
    }

    /// The first one.
    pub fn initial() -> &'static Arc<PidNamespace> {
        static INITIAL: Once<Arc<PidNamespace>> = Once::new();
        INITIAL.call_once(|| Self::make(0xefff_fffc, UserNamespace::initial(), None, (0, true)))
    }

    /// A child of `parent`. `ENOSPC` if that is too deep, `EINVAL` if `owner` is not below the parent's owner.
    pub fn create(parent: &Arc<PidNamespace>, owner: &Arc<UserNamespace>) -> Result<Arc<PidNamespace>> {
        if parent.level >= LEVEL_MAX {
            return Err(Errno::ENOSPC);
        }
        if !owner.is_within(&parent.owner) {
            return Err(Errno::EINVAL);
        }
        Ok(Self::make(next_id(), owner, Some(parent.clone()), (parent.container, false)))
    }

    /// A container's own namespace below the first; `container` is its number. (That of the first container is the first, unless it
    /// has a user namespace of its own.)
    pub fn for_container(container: u32, owner: &Arc<UserNamespace>) -> Arc<PidNamespace> {
        Self::make(next_id(), owner, Some(Self::initial().clone()), (container, true))
    }

    /// The number of the container it belongs to; 0 is the first.
    pub fn container(&self) -> u32 {
        self.container
    }

    /// Whether the first namespace does not see it.
    #[inline]
    pub fn is_hidden(&self) -> bool {
        self.container != 0
    }

    /// Whether it is the outermost one of a container.
    #[inline]
    pub fn is_top(&self) -> bool {
        self.top
    }

    /// Inode number in `/proc/PID/ns`.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whose capabilities count.
    pub fn owner(&self) -> &Arc<UserNamespace> {
        &self.owner
    }

    /// The namespace above it; `None` for the first.
    pub fn parent(&self) -> Option<&Arc<PidNamespace>> {
        self.parent.as_ref()
    }

    /// 0 for the first one.
    pub fn level(&self) -> usize {
        self.level as usize
    }

    /// Whether it is the first one, whose numbers are the kernel's.
    #[inline]
    pub fn is_initial(&self) -> bool {
        self.level == 0
    }

    /// Whether it is `ancestor` or below it.
    pub fn is_within(&self, ancestor: &PidNamespace) -> bool {
        let mut at = self;
        while at.level > ancestor.level {
            let Some(parent) = &at.parent else { return false };
            at = parent;
        }
        at.id == ancestor.id
    }

    /// Whether its init has ended.
    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// Its init ends.
    pub fn kill(&self) {
        self.dead.store(true, Ordering::Release);
    }

    /// The nested namespaces from the outermost down to this one.
    fn chain(self: &Arc<Self>) -> Vec<Arc<PidNamespace>> {
        let mut chain = Vec::with_capacity(self.level());
        let mut at = self.clone();
        while let Some(parent) = at.parent.clone() {
            chain.push(at);
            at = parent;
        }
        chain.reverse();
        chain
    }

    /// The namespaces from `top` down to this one.
    pub fn down_from(self: &Arc<Self>, top: &PidNamespace) -> Vec<Arc<PidNamespace>> {
        let first = top.is_initial().then(|| Self::initial().clone());
        first.into_iter().chain(self.chain().into_iter().filter(|ns| ns.level >= top.level)).collect()
    }

    /// Gives `global` a number here: `wanted`, or the next free one. `is_free` tells whether what has a number
    /// of the first namespace is gone already. `EEXIST`, `EAGAIN`.
    fn reserve(&self, global: Pid, wanted: Option<Pid>, is_free: &dyn Fn(Pid) -> bool) -> Result<Pid> {
        let mut numbers = self.numbers.lock();
        let free = |numbers: &Numbers, n: Pid| {
            numbers.known.get(&n).is_none_or(|old| *old != global && is_free(*old))
        };
        if let Some(n) = wanted {
            if !free(&numbers, n) {
                return Err(Errno::EEXIST);
            }
            numbers.known.insert(n, global);
            return Ok(n);
        }
        for _ in 0..PID_MAX {
            let n = numbers.next;
            numbers.next = if n + 1 >= PID_MAX { RESERVED } else { n + 1 };
            if free(&numbers, n) {
                numbers.known.insert(n, global);
                return Ok(n);
            }
        }
        Err(Errno::EAGAIN)
    }

    /// `number` means `global` no longer.
    fn forget(&self, number: Pid, global: Pid) {
        let mut numbers = self.numbers.lock();
        if numbers.known.get(&number) == Some(&global) {
            numbers.known.remove(&number);
        }
    }

    /// What `number` is in the first namespace.
    pub fn global(&self, number: Pid) -> Option<Pid> {
        if self.is_initial() {
            (number < FIRST_HIDDEN).then_some(number)
        } else {
            self.numbers.lock().known.get(&number).copied()
        }
    }

    /// All numbers here with what they are in the first namespace; by number here. Not of the first namespace.
    pub fn all(&self) -> Vec<(Pid, Pid)> {
        self.numbers.lock().known.iter().map(|(n, global)| (*n, *global)).collect()
    }
}

/// The numbers something has in nested namespaces, the outermost first.
pub struct Nested(Vec<(Arc<PidNamespace>, Pid)>);

impl Nested {
    /// Numbers for `global` in `ns` and all nested ones above it. `wanted` begins with the number in `ns`.
    /// Called with the tree lock held.
    pub fn reserve(
        ns: &Arc<PidNamespace>,
        global: Pid,
        wanted: &[Pid],
        is_free: &dyn Fn(Pid) -> bool,
    ) -> Result<Nested> {
        let mut nested = Nested(Vec::with_capacity(ns.level()));
        for at in ns.chain() {
            let wanted = wanted.get(ns.level() - at.level()).copied();
            match at.reserve(global, wanted, is_free) {
                Ok(number) => nested.0.push((at, number)),
                Err(e) => {
                    nested.forget(global);
                    return Err(e);
                }
            }
        }
        Ok(nested)
    }

    /// Gives the numbers back.
    pub fn forget(&self, global: Pid) {
        self.0.iter().for_each(|(ns, number)| ns.forget(*number, global));
    }

    /// The number in `ns`; 0 if it has none there.
    pub fn number_in(&self, ns: &PidNamespace) -> Pid {
        self.0.iter().find(|(at, _)| at.id == ns.id).map_or(0, |(_, n)| *n)
    }

    /// The number in the innermost namespace.
    pub fn innermost(&self) -> Option<Pid> {
        self.0.last().map(|(_, n)| *n)
    }
}

/// The tables of numbers as somebody in a pid namespace sees them.
#[derive(Clone, Copy)]
pub struct PidView<'a> {
    /// Of which namespace the numbers are.
    pub ns: &'a PidNamespace,
}

impl PidView<'_> {
    fn global(&self, number: Pid) -> Result<Pid> {
        self.ns.global(number).ok_or(Errno::ESRCH)
    }

    /// The task with number `tid`. `ESRCH`.
    pub fn task(&self, tid: Pid) -> Result<TaskRef> {
        kernel().pids.task(self.global(tid)?)
    }

    /// The process with number `pid`, dead or alive, not yet waited for. `ESRCH`.
    pub fn process(&self, pid: Pid) -> Result<Arc<Process>> {
        kernel().pids.process(self.global(pid)?)
    }

    /// The process group with number `pgid`. `ESRCH`.
    pub fn group(&self, pgid: Pid) -> Result<Arc<ProcessGroup>> {
        kernel().pids.group(self.global(pgid)?)
    }

    /// All processes that have a number here, by number.
    pub fn processes(&self) -> Vec<Arc<Process>> {
        if self.ns.is_initial() {
            return kernel().pids.visible_processes();
        }
        self.ns.all().into_iter().filter_map(|(_, global)| kernel().pids.process(global).ok()).collect()
    }

    /// The number here of what has number `global` in the first namespace; 0 if it has none.
    #[inline]
    pub fn show(&self, global: Pid) -> Pid {
        if !self.ns.is_initial() {
            kernel().pids.tree(|t| t.number_in(global, self.ns))
        } else if global < FIRST_HIDDEN {
            global
        } else {
            0
        }
    }
}
