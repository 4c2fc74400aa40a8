//! The part of a run queue that knows control groups: whose turn it is by weight, and who is throttled.
//!
//! What Linux does: each group with the cpu controller has a run queue on each CPU, which is an entity with a weight in the
//! queue of the group above; the entity with the least *virtual runtime* (time it had, divided by weight) goes first, on
//! each level. We do the same between groups; tasks of one group take turns, first in first out, as those of the
//! root do. Where a group (in practice the root) has both tasks and groups below, its tasks together are one more
//! entity, as heavy as there are tasks. An entity that was away comes back at the virtual runtime the others
//! have reached, so that nobody saves up turns by sleeping. The weight of a group is not divided among CPUs: one with
//! tasks on two CPUs has its weight on each.
//!
//! While no task of a group is queued, the run queue does not ask here at all, except for the switch away from such a
//! task. Groups are numbered as in [`crate::cgroup`]; 0 is the root, whose tasks are in the run queue itself.

use alloc::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    vec::Vec,
};

use smallvec::SmallVec;

use crate::{TaskRef, cgroup::Cgroup};

/// The weight of a task, in the units of [`Cgroup::cpu_weight`].
const TASK_WEIGHT: u64 = 10_000;

/// A group's tasks on one CPU.
#[derive(Default)]
struct Node {
    /// `None`: the root.
    group: Option<Arc<Cgroup>>,
    parent: u32,
    queue: VecDeque<TaskRef>,
    /// Tasks queued here and below.
    below: usize,
    /// Groups directly below with tasks queued.
    active: Vec<u32>,
    /// As an entity among its siblings: nanoseconds at the weight of a task.
    vruntime: u64,
    /// Of its own tasks, as an entity among the groups below it.
    own_vruntime: u64,
    /// What the entities in it have reached.
    floor: u64,
}

impl Node {
    fn is_throttled(&self) -> bool {
        self.group.as_ref().is_some_and(|group| group.is_throttled())
    }

    /// Whether it or a group above it is throttled.
    fn is_held(&self) -> bool {
        self.group.as_ref().is_some_and(|group| group.is_held())
    }

    fn weight(&self) -> u64 {
        self.group.as_ref().map_or(TASK_WEIGHT, |group| group.cpu_weight())
    }
}

/// Tasks of groups on one CPU.
#[derive(Default)]
pub(super) struct Groups {
    nodes: BTreeMap<u32, Node>,
    /// Tasks queued.
    queued: usize,
}

impl Groups {
    pub const fn new() -> Groups {
        Groups { nodes: BTreeMap::new(), queued: 0 }
    }

    /// Tasks queued, throttled or not.
    #[inline]
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// Whether a queued task may run.
    pub fn has_eligible(&self) -> bool {
        self.queued > 0 && self.nodes.values().any(|node| !node.queue.is_empty() && !node.is_held())
    }

    /// Puts `task` at the end of the queue of `group`, which has the cpu controller.
    pub fn enqueue(&mut self, task: TaskRef, group: &Arc<Cgroup>) {
        self.make(group);
        if let Some(node) = self.nodes.get_mut(&group.id()) {
            node.queue.push_back(task);
            self.count(group.id(), true);
        }
    }

    /// Makes the nodes of `group` and those above it.
    fn make(&mut self, group: &Arc<Cgroup>) {
        let mut at = Some(group.clone());
        while let Some(group) = at {
            if self.nodes.contains_key(&group.id()) {
                return;
            }
            let above = group.parent().and_then(|parent| parent.cpu_group());
            let parent = above.as_ref().map_or(0, |above| above.id());
            self.nodes.insert(group.id(), Node { group: Some(group), parent, ..Node::default() });
            at = above;
        }
        self.nodes.entry(0).or_default();
    }

    /// A task was put into or taken out of the queue of group `id`.
    fn count(&mut self, id: u32, added: bool) {
        self.queued = if added { self.queued + 1 } else { self.queued.saturating_sub(1) };
        let mut at = id;
        while let Some(node) = self.nodes.get_mut(&at) {
            node.below = if added { node.below + 1 } else { node.below.saturating_sub(1) };
            let (below, parent) = (node.below, node.parent);
            if at == 0 {
                break;
            }
            if let Some(above) = self.nodes.get_mut(&parent) {
                match (added, below) {
                    (true, 1) => above.active.push(at),
                    (false, 0) => above.active.retain(|id| *id != at),
                    _ => {}
                }
            }
            at = parent;
        }
    }

    /// Takes the task whose turn it is, out of a group or out of `root`, the queue of the root's tasks.
    pub fn pick(&mut self, root: &mut VecDeque<TaskRef>) -> Option<TaskRef> {
        if self.queued == 0 {
            return root.pop_front();
        }
        self.pick_in(0, Some(root))
    }

    /// As [`Groups::pick`], below group `id`. Recursion is bounded by the depth of the hierarchy.
    fn pick_in(&mut self, id: u32, root: Option<&mut VecDeque<TaskRef>>) -> Option<TaskRef> {
        let node = self.nodes.get(&id)?;
        let own = match &root {
            Some(root) => !root.is_empty(),
            None => !node.queue.is_empty(),
        };
        // The entities by virtual runtime; one that was away starts where the others are.
        let mut entities: SmallVec<[(u64, Option<u32>); 6]> = SmallVec::new();
        if own {
            entities.push((node.own_vruntime.max(node.floor), None));
        }
        for child in &node.active {
            if let Some(below) = self.nodes.get(child).filter(|below| !below.is_throttled()) {
                entities.push((below.vruntime.max(node.floor), Some(*child)));
            }
        }
        entities.sort_unstable();
        let mut root = root;
        for (vruntime, entity) in entities {
            let task = match (entity, &mut root) {
                (Some(child), _) => self.pick_in(child, None),
                (None, Some(root)) => root.pop_front(),
                (None, None) => {
                    let task = self.nodes.get_mut(&id).and_then(|node| node.queue.pop_front());
                    if task.is_some() {
                        self.count(id, false);
                    }
                    task
                }
            };
            if task.is_some() {
                if let Some(node) = self.nodes.get_mut(&id) {
                    node.floor = node.floor.max(vruntime);
                    if entity.is_none() {
                        node.own_vruntime = node.own_vruntime.max(vruntime);
                    }
                }
                if let Some(node) = entity.and_then(|child| self.nodes.get_mut(&child)) {
                    node.vruntime = node.vruntime.max(vruntime);
                }
                return task;
            }
        }
        None
    }

    /// A task of group `id` (0: the root) has run for `ran` nanoseconds; `own` tasks of that group want the CPU, it included.
    pub fn charge(&mut self, id: u32, ran: u64, own: usize) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.own_vruntime = node.own_vruntime.saturating_add(ran / own.max(1) as u64);
        let mut at = id;
        while let Some(node) = self.nodes.get_mut(&at).filter(|_| at != 0) {
            let more = ran.saturating_mul(TASK_WEIGHT) / node.weight().max(1);
            node.vruntime = node.vruntime.saturating_add(more);
            at = node.parent;
        }
    }

    /// Tasks queued in group `id` itself.
    pub fn len_of(&self, id: u32) -> usize {
        self.nodes.get(&id).map_or(0, |node| node.queue.len())
    }

    /// Takes out a task that may run and that `wanted` accepts.
    pub fn take(&mut self, wanted: impl Fn(&TaskRef) -> bool) -> Option<TaskRef> {
        if self.queued == 0 {
            return None;
        }
        let found = self.nodes.iter().find_map(|(id, node)| {
            let position = node.queue.iter().position(&wanted)?;
            (!node.is_held()).then_some((*id, position))
        });
        self.take_at(found?)
    }

    /// Takes `task` out, throttled or not.
    pub fn remove(&mut self, task: &TaskRef) -> Option<TaskRef> {
        let found = self.nodes.iter().find_map(|(id, node)| {
            let position = node.queue.iter().position(|queued| Arc::ptr_eq(queued, task))?;
            Some((*id, position))
        });
        self.take_at(found?)
    }

    fn take_at(&mut self, (id, position): (u32, usize)) -> Option<TaskRef> {
        let task = self.nodes.get_mut(&id)?.queue.remove(position)?;
        self.count(id, false);
        Some(task)
    }

    /// Group `id` does not exist any more, or has no cpu controller: what is returned is for dropping without locks.
    pub fn forget(&mut self, id: u32) -> Option<impl Sized + use<>> {
        let idle = self.nodes.get(&id).is_some_and(|node| node.below == 0);
        if idle && id != 0 { self.nodes.remove(&id) } else { None }
    }
}
