//! Control groups, version 2 (cgroups(7), Documentation/admin-guide/cgroup-v2.rst).
//!
//! # What Linux does
//! Processes are members of groups that form one tree, seen as directories of the file system `cgroup2`. A *controller*
//! (cpu, memory, pids) that a group enables for its children (`cgroup.subtree_control`) distributes a resource among them,
//! by limits and weights in files of each child. Limits are hierarchical: what a group has counts in all above it. Groups
//! other than the root have either processes or controllers enabled for children, not both. A process is forked into
//! its parent's group, or into one given by `CLONE_INTO_CGROUP`, and moved by writing its number to `cgroup.procs`, which
//! needs the right to write that file in the target and in the nearest group above both.
//!
//! # What we do
//! The same, with the controllers cpu, memory and pids. There is no io controller (there are no block devices worth
//! one), no cpuset, no pressure files, and no threaded groups: a process is in one group with all its threads, so
//! its group is one reference in [`Process`]. What Linux allows only for threaded groups (controllers in a group with
//! processes) is `EBUSY`.
//!
//! The root group is `None` wherever a group is meant ([`Membership`]), and nothing is counted for it: a process in the
//! root pays one load and test at fork, exit, and switch of tasks.
//!
//! | file | idea |
//! |---|---|
//! | here | [`Cgroup`], the root, paths |
//! | `membership` | which group a process is in; fork, exit |
//! | `hierarchy` | making, removing, enabling controllers, moving processes |
//! | `freezer` | `cgroup.freeze`, `cgroup.kill` |
//! | `pids` | how many tasks |
//! | `memory` | page frames |
//! | `cpu` | CPU time: quotas; weights are the run queue's business |
//! | `container` | the groups of containers |
//! | `files` | the file system |
//!
//! # Counting
//! A group counts its live processes and threads; each non-root group also those of all groups below it, so that
//! "populated" is a comparison with zero. Tasks for `pids.current` are counted in every non-root group, whether the
//! controller is enabled there or not, and include zombies: they are given back when the parent has waited. Counts
//! change under the tree lock of the pid table only.
//!
//! # Locks
//! [`hierarchy::LOCK`] (sleeping; changes of the tree, of enabled controllers, and of who is where) → the pid table's tree
//! lock → a process's links → `Cgroup::children` or a [`Membership`]'s lock, which are leaves.

pub mod container;
mod cpu;
pub mod files;
pub mod freezer;
pub mod hierarchy;
mod membership;
pub mod memory;
mod pids;

use alloc::{boxed::Box, collections::BTreeMap, sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use bitflags::bitflags;

pub use membership::{ForkSlot, Membership, exited, reaped};

use crate::{
    TaskRef,
    errno::{Errno, Result},
    fs::Subject,
    kernel::kernel,
    sync::{Once, PollEvents, Queue, SpinLock, WaitQueue},
    task::Process,
};

bitflags! {
    /// A set of controllers.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct Controllers: u32 {
        /// CPU time: weights and limits.
        const CPU = 1;
        /// Page frames.
        const MEMORY = 2;
        /// The number of tasks.
        const PIDS = 4;
    }
}

/// Names of the controllers, in the order they are shown.
pub const CONTROLLERS: [(Controllers, &str); 3] =
    [(Controllers::CPU, "cpu"), (Controllers::MEMORY, "memory"), (Controllers::PIDS, "pids")];

/// A limit that is not there: `max` in the files.
pub const MAX: u64 = u64::MAX;

/// A file that tells by `POLLPRI` that its content has changed.
pub struct Notifier {
    count: AtomicU64,
    queue: Queue,
}

impl Notifier {
    fn new() -> Notifier {
        Notifier { count: AtomicU64::new(0), queue: WaitQueue::new() }
    }

    /// The content has changed. Wakes: not under a wait queue's lock.
    fn notify(&self) {
        self.count.fetch_add(1, Ordering::AcqRel);
        self.queue.wake_all(PollEvents::PRI | PollEvents::ERR);
    }
}

/// Who owns a directory or file, and who else may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Attributes {
    uid: u32,
    gid: u32,
    mode: u32,
}

/// One group.
pub struct Cgroup {
    /// Its number, also the inode number of its directory; that of the root is 1. Never used twice.
    id: u32,
    name: Box<[u8]>,
    parent: Option<Arc<Cgroup>>,
    children: SpinLock<BTreeMap<Box<[u8]>, Arc<Cgroup>>>,
    /// The group of a container: in no directory, with all controllers ([`container`]).
    contained: bool,
    /// It has been removed.
    dead: AtomicBool,
    /// Controllers its children have.
    subtree_control: AtomicU32,
    max_depth: AtomicU64,
    max_descendants: AtomicU64,
    /// Living groups below it; removed ones that are still referred to.
    descendants: AtomicUsize,
    dying: AtomicUsize,
    /// Live processes and their threads in this group itself.
    processes: AtomicUsize,
    threads: AtomicUsize,
    /// Live processes here and below.
    populated: AtomicUsize,
    /// `cgroup.events`.
    events: Notifier,
    /// User and group of who made it, whose its files are.
    owner: (u32, u32),
    /// Its directory.
    attributes: SpinLock<Attributes>,
    /// Files whose attributes were changed.
    file_attributes: SpinLock<BTreeMap<&'static str, Attributes>>,
    freezer: freezer::Freezer,
    pids: pids::Pids,
    cpu: cpu::Cpu,
    memory: Arc<memory::Memory>,
}

/// The number of the next group.
static NEXT_ID: AtomicU32 = AtomicU32::new(1);

static ROOT: Once<Arc<Cgroup>> = Once::new();

/// The root of the tree.
pub fn root() -> &'static Arc<Cgroup> {
    ROOT.call_once(|| Cgroup::new(None, &[], Attributes { uid: 0, gid: 0, mode: 0o555 }))
}

/// The group that `task` sees as the root: that of its cgroup namespace.
pub fn root_of(task: &TaskRef) -> Arc<Cgroup> {
    task.namespaces().cgroup.root().clone()
}

impl Cgroup {
    fn new(parent: Option<&Arc<Cgroup>>, name: &[u8], attributes: Attributes) -> Arc<Cgroup> {
        Self::make(parent, name, attributes, false)
    }

    fn make(
        parent: Option<&Arc<Cgroup>>,
        name: &[u8],
        attributes: Attributes,
        contained: bool,
    ) -> Arc<Cgroup> {
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let above = parent.filter(|parent| !parent.is_root()).map(|parent| &parent.memory);
        Arc::new(Cgroup {
            id,
            name: name.into(),
            parent: parent.cloned(),
            children: SpinLock::new(BTreeMap::new()),
            contained,
            dead: AtomicBool::new(false),
            subtree_control: AtomicU32::new(0),
            max_depth: AtomicU64::new(MAX),
            max_descendants: AtomicU64::new(MAX),
            descendants: AtomicUsize::new(0),
            dying: AtomicUsize::new(0),
            processes: AtomicUsize::new(0),
            threads: AtomicUsize::new(0),
            populated: AtomicUsize::new(0),
            events: Notifier::new(),
            owner: (attributes.uid, attributes.gid),
            attributes: SpinLock::new(attributes),
            file_attributes: SpinLock::new(BTreeMap::new()),
            freezer: freezer::Freezer::default(),
            pids: pids::Pids::new(),
            cpu: cpu::Cpu::new(),
            memory: memory::Memory::new(id, above),
        })
    }

    /// Its number; 1 is the root.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The group above it; `None` for the root.
    pub fn parent(&self) -> Option<&Arc<Cgroup>> {
        self.parent.as_ref()
    }

    /// Whether it is the root of the tree.
    pub fn is_root(&self) -> bool {
        self.parent.is_none()
    }

    /// Whether it has been removed.
    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    /// This group and those above it, without the root.
    fn chain(&self) -> impl Iterator<Item = &Cgroup> {
        core::iter::successors(Some(self), |group| group.parent.as_deref())
            .take_while(|group| !group.is_root())
    }

    /// Whether `other` is this group or above it.
    pub fn is_below(&self, other: &Cgroup) -> bool {
        core::iter::successors(Some(self), |group| group.parent.as_deref()).any(|group| group.id == other.id)
    }

    /// The controllers it has files for: those its parent enables; the root has all, and so has a container's.
    pub fn controllers(&self) -> Controllers {
        if self.contained {
            return Controllers::all();
        }
        self.parent.as_ref().map_or(Controllers::all(), |parent| parent.subtree_control())
    }

    /// The controllers its children have.
    pub fn subtree_control(&self) -> Controllers {
        Controllers::from_bits_truncate(self.subtree_control.load(Ordering::Acquire))
    }

    /// The groups directly below it, by name.
    pub fn children(&self) -> Vec<Arc<Cgroup>> {
        self.children.lock().values().cloned().collect()
    }

    /// The group called `name` directly below it.
    pub fn child(&self, name: &[u8]) -> Option<Arc<Cgroup>> {
        self.children.lock().get(name).cloned()
    }

    /// How many groups there are here and below.
    pub fn subtree_count(&self) -> usize {
        self.descendants.load(Ordering::Relaxed) + 1
    }

    /// Whether a live process is in it or below it.
    pub fn is_populated(&self) -> bool {
        self.populated.load(Ordering::Acquire) > 0
    }

    /// The path from `root` as `/proc/PID/cgroup` shows it; through `..` for what is not below `root`.
    pub fn path_from(&self, root: &Cgroup) -> Vec<u8> {
        let mut ups = 0;
        let mut top = root;
        while !self.is_below(top) {
            ups += 1;
            let Some(parent) = top.parent.as_deref() else { break };
            top = parent;
        }
        let mut names: Vec<&[u8]> = core::iter::successors(Some(self), |group| group.parent.as_deref())
            .take_while(|group| group.id != top.id)
            .map(|group| &*group.name)
            .collect();
        names.resize(names.len() + ups, b"..");
        if names.is_empty() {
            return b"/".to_vec();
        }
        names.iter().rev().flat_map(|name| [b"/", *name].concat()).collect()
    }

    /// The live processes in it; with `below`, also those of the groups below it.
    pub fn members(&self, below: bool) -> Vec<Arc<Process>> {
        let inside = |process: &Arc<Process>| match process.cgroup.get() {
            Some(group) if below => group.is_below(self),
            Some(group) => group.id == self.id,
            None => self.is_root(),
        };
        let all = kernel().pids.processes();
        all.into_iter()
            .filter(|process| inside(process) && !process.links.lock().threads.is_empty())
            .collect()
    }

    /// Counts processes and their threads in; answers how many groups, from this one up, are populated only now.
    fn enter(&self, processes: usize, threads: usize) -> usize {
        self.processes.fetch_add(processes, Ordering::SeqCst);
        self.threads.fetch_add(threads, Ordering::SeqCst);
        if processes == 0 {
            return 0;
        }
        // A group has at least as many as each below it, so those that change are the lowest of the chain.
        let mut changed = 0;
        for group in self.chain() {
            changed += usize::from(group.populated.fetch_add(processes, Ordering::SeqCst) == 0);
        }
        changed
    }

    /// Counts processes and their threads out; answers how many groups, from this one up, are not populated any more.
    fn leave(&self, processes: usize, threads: usize) -> usize {
        self.processes.fetch_sub(processes, Ordering::SeqCst);
        self.threads.fetch_sub(threads, Ordering::SeqCst);
        if processes == 0 {
            return 0;
        }
        let mut changed = 0;
        for group in self.chain() {
            changed += usize::from(group.populated.fetch_sub(processes, Ordering::SeqCst) == processes);
        }
        changed
    }

    /// Tells those who watch `cgroup.events` of this group and the next ones up, `count` in all, to look. Without locks.
    fn notify_populated(&self, count: usize) {
        self.chain().take(count).for_each(|group| files::changed(group, "cgroup.events", &group.events));
    }
}

/// Whether `task` may fork into `group`: as for moving a process there. A thread stays where its process is.
pub fn check_may_enter(task: &TaskRef, group: &Arc<Cgroup>, thread: bool) -> Result<()> {
    let credentials = task.credentials();
    let subject = Subject::of(&credentials);
    files::check_may_write_procs(group, &subject)?;
    let from = task.process().cgroup.group();
    let root = root_of(task);
    if !from.is_below(&root) || !group.is_below(&root) {
        return Err(Errno::ENOENT);
    }
    files::check_may_write_procs(&group.common_ancestor(&from), &subject)?;
    if thread && from.id != group.id {
        return Err(Errno::EOPNOTSUPP);
    }
    group.check_accepts_processes()
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if self.dead.load(Ordering::Relaxed) && !self.contained {
            let mut above = self.parent.as_deref();
            while let Some(group) = above {
                group.dying.fetch_sub(1, Ordering::Relaxed);
                above = group.parent.as_deref();
            }
        }
        // A chain of parents is dropped without recursion: there may be more of them than our stack bears.
        let mut parent = self.parent.take();
        while let Some(group) = parent {
            parent = Arc::into_inner(group).and_then(|mut group| group.parent.take());
        }
    }
}

#[cfg(test)]
mod tests;
