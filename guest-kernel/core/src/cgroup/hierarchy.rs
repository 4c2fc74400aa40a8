//! Changes of the tree: making and removing groups, enabling controllers, moving processes.

use alloc::{sync::Arc, vec::Vec};
use core::sync::atomic::Ordering;

use super::{Attributes, CONTROLLERS, Cgroup, Controllers, NEXT_ID, freezer, memory::ID_MAX};
use crate::{
    errno::{Errno, Result},
    kernel::kernel,
    sched,
    sync::Mutex,
    task::Process,
};

/// Held over every change of the tree, of what is enabled, and of who is where (except by fork and exit).
pub static LOCK: Mutex<()> = Mutex::new(());

/// Groups there may be in all; a bound on kernel memory (Linux: 65535 with the memory controller).
const GROUPS_MAX: usize = 65_535;

impl Cgroup {
    /// Makes a group called `name` below this one. `EAGAIN` at `cgroup.max.*`, `EEXIST`, `ENOENT` if this group has
    /// been removed.
    pub(super) fn make_child(
        self: &Arc<Self>,
        name: &[u8],
        uid: u32,
        gid: u32,
        mode: u32,
    ) -> Result<Arc<Cgroup>> {
        if name.contains(&b'\n') {
            return Err(Errno::EINVAL); // /proc/PID/cgroup could not be parsed any more
        }
        let _lock = LOCK.lock();
        if self.is_dead() {
            return Err(Errno::ENOENT);
        }
        if NEXT_ID.load(Ordering::Relaxed) >= ID_MAX {
            return Err(Errno::ENOSPC);
        }
        if self.child(name).is_some() {
            return Err(Errno::EEXIST);
        }
        self.check_limits()?;
        let child = Cgroup::new(Some(self), name, Attributes { uid, gid, mode });
        self.children.lock().insert(name.into(), child.clone());
        self.with_above(|group| {
            group.descendants.fetch_add(1, Ordering::Relaxed);
        });
        self.inherit_freeze(&child);
        if child.controllers().contains(Controllers::MEMORY) {
            child.memory.enable(true);
        }
        Ok(child)
    }

    fn inherit_freeze(self: &Arc<Self>, child: &Arc<Cgroup>) {
        if freezer::is_freezing(self) {
            freezer::update(child);
        }
    }

    fn check_limits(&self) -> Result<()> {
        // Deeper trees are made by nobody, and what is done for each level is done on the kernel's stack.
        const DEPTH_MAX: usize = 32;
        if core::iter::successors(Some(self), |group| group.parent.as_deref()).count() > DEPTH_MAX {
            return Err(Errno::EAGAIN);
        }
        let mut depth = 1;
        let mut at = Some(self);
        while let Some(group) = at {
            let descendants = group.descendants.load(Ordering::Relaxed);
            if descendants as u64 >= group.max_descendants.load(Ordering::Relaxed)
                || depth > group.max_depth.load(Ordering::Relaxed)
                || descendants + group.dying.load(Ordering::Relaxed) >= GROUPS_MAX
            {
                return Err(Errno::EAGAIN);
            }
            depth += 1;
            at = group.parent.as_deref();
        }
        Ok(())
    }

    /// Calls `f` for this group and all above it, the root as well.
    fn with_above(&self, f: impl Fn(&Cgroup)) {
        core::iter::successors(Some(self), |group| group.parent.as_deref()).for_each(f);
    }

    /// Removes this group from the tree. `EBUSY` while processes or groups are in it.
    pub(super) fn remove(self: &Arc<Self>) -> Result<()> {
        let _lock = LOCK.lock();
        let parent = self.parent.clone().ok_or(Errno::EBUSY)?;
        if self.is_dead() {
            return Err(Errno::ENOENT);
        }
        // A fork into the group counts itself before it looks whether the group is dead; we do the reverse.
        self.dead.store(true, Ordering::SeqCst);
        if self.populated.load(Ordering::SeqCst) > 0 || !self.children.lock().is_empty() {
            self.dead.store(false, Ordering::SeqCst);
            return Err(Errno::EBUSY);
        }
        let removed = parent.children.lock().remove(&self.name);
        parent.with_above(|group| {
            group.descendants.fetch_sub(1, Ordering::Relaxed);
            group.dying.fetch_add(1, Ordering::Relaxed);
        });
        freezer::update(&parent);
        sched::forget_group(self.id);
        self.memory.enable(false);
        drop(removed);
        Ok(())
    }

    /// `cgroup.subtree_control`: `+cpu -memory`. `EINVAL` for what is no controller, `ENOENT` for one this group does not
    /// have, `EBUSY` with processes in it or while a child has a controller enabled that is to go.
    pub(super) fn control(self: &Arc<Self>, text: &str) -> Result<()> {
        let (enable, disable) = parse_control(text)?;
        let _lock = LOCK.lock();
        if self.is_dead() {
            return Err(Errno::ENODEV);
        }
        let now = self.subtree_control();
        let (enable, disable) = (enable - now, disable & now);
        if !self.controllers().contains(enable) {
            return Err(Errno::ENOENT);
        }
        let children = self.children();
        if children.iter().any(|child| child.subtree_control().intersects(disable)) {
            return Err(Errno::EBUSY);
        }
        // The rule of no internal processes, from which the root is exempt.
        if !enable.is_empty() && !self.is_root() && self.processes.load(Ordering::SeqCst) > 0 {
            return Err(Errno::EBUSY);
        }
        let new = (now | enable) - disable;
        if new == now {
            return Ok(());
        }
        self.subtree_control.store(new.bits(), Ordering::Release);
        self.controllers_changed(&children, enable, disable);
        Ok(())
    }

    /// The children's controllers have changed.
    fn controllers_changed(
        self: &Arc<Self>,
        children: &[Arc<Cgroup>],
        enabled: Controllers,
        disabled: Controllers,
    ) {
        if (enabled | disabled).contains(Controllers::CPU) {
            for process in self.members(true) {
                process.threads().iter().for_each(sched::regroup);
            }
        }
        if (enabled | disabled).contains(Controllers::MEMORY) {
            self.memory_changed(children, enabled.contains(Controllers::MEMORY));
        }
        for child in children {
            if disabled.contains(Controllers::CPU) {
                child.reset_cpu();
                sched::forget_group(child.id);
            }
            if disabled.contains(Controllers::PIDS) {
                child.pids.max.store(super::MAX, Ordering::Relaxed);
            }
        }
    }

    /// Whether a process may be put here: not where controllers are enabled for children.
    pub fn check_accepts_processes(&self) -> Result<()> {
        if self.is_dead() {
            return Err(Errno::ENODEV);
        }
        if !self.is_root() && !self.subtree_control().is_empty() {
            return Err(Errno::EBUSY);
        }
        Ok(())
    }

    /// Moves `process` here. `ESRCH` for a zombie, `EBUSY` where controllers are enabled for children.
    pub(super) fn attach(self: &Arc<Self>, process: &Arc<Process>) -> Result<()> {
        let _lock = LOCK.lock();
        self.check_accepts_processes()?;
        let moved = kernel().pids.tree(|_| {
            let threads = process.links.lock().threads.len();
            if threads == 0 {
                return Err(Errno::ESRCH);
            }
            let old = process.cgroup.get();
            let new = Some(self).filter(|group| !group.is_root());
            if old.as_ref().map(|g| g.id) == new.map(|g| g.id) {
                return Ok(None);
            }
            let mut populated = 0;
            if let Some(new) = new {
                // First in, then out: what is above both stays populated.
                new.charge_tasks_anyway(threads as u64);
                populated = new.enter(1, threads);
            }
            process.cgroup.set(new);
            let mut left = 0;
            if let Some(old) = &old {
                old.uncharge_tasks(threads as u64);
                left = old.leave(1, threads);
            }
            Ok(Some((old, populated, left)))
        })?;
        let Some((old, populated, left)) = moved else { return Ok(()) };
        process.threads().iter().for_each(sched::regroup);
        freezer::moved(process, self);
        self.notify_populated(populated);
        if let Some(old) = &old {
            old.notify_populated(left);
            freezer::update(old);
        }
        freezer::update(self);
        Ok(())
    }

    /// The nearest group above (or equal to) both.
    pub(super) fn common_ancestor(self: &Arc<Self>, other: &Arc<Cgroup>) -> Arc<Cgroup> {
        let mut at = self;
        while !other.is_below(at) {
            match at.parent() {
                Some(parent) => at = parent,
                None => break,
            }
        }
        at.clone()
    }

    /// This group and all below it, parents first.
    pub(super) fn subtree(self: &Arc<Self>) -> Vec<Arc<Cgroup>> {
        let mut all = alloc::vec![self.clone()];
        let mut next = 0;
        while let Some(group) = all.get(next) {
            let children = group.children();
            all.extend(children);
            next += 1;
        }
        all
    }
}

/// What to enable and what to disable; the last word about each controller counts.
fn parse_control(text: &str) -> Result<(Controllers, Controllers)> {
    let (mut enable, mut disable) = (Controllers::empty(), Controllers::empty());
    for word in text.split_ascii_whitespace() {
        let (on, name) = match (word.strip_prefix('+'), word.strip_prefix('-')) {
            (Some(name), _) => (true, name),
            (_, Some(name)) => (false, name),
            _ => return Err(Errno::EINVAL),
        };
        let (controller, _) = *CONTROLLERS.iter().find(|(_, n)| *n == name).ok_or(Errno::EINVAL)?;
        enable.set(controller, on);
        disable.set(controller, !on);
    }
    Ok((enable, disable))
}
