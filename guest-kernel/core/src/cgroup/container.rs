//! The groups of containers ([`crate::container`]).
//!
//! A container's group is below the root in what counts and limits (which is nothing), but not in the root's directory: no
//! other container can name it. It has all controllers. The container's cgroup namespace has it as the root, where what is
//! delegated ends: nobody inside can change the limits.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::mm::PAGE_SIZE;
use ringfence_protocol::Limits;

use super::{Attributes, Cgroup, NEXT_ID, hierarchy, memory::ID_MAX, root};
use crate::{
    errno::{Errno, Result},
    mm::charge,
    sched,
};

/// How many there are: memory is charged while there is one.
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Whether there is one.
pub(super) fn any() -> bool {
    COUNT.load(Ordering::SeqCst) > 0
}

/// Makes the group of a container, owned by its root. `ENOSPC` when there were too many groups already.
pub fn make(name: &str, limits: &Limits, (uid, gid): (u32, u32)) -> Result<Arc<Cgroup>> {
    let _lock = hierarchy::LOCK.lock();
    if NEXT_ID.load(Ordering::Relaxed) >= ID_MAX {
        return Err(Errno::ENOSPC);
    }
    let attributes = Attributes { uid, gid, mode: 0o755 };
    let group = Cgroup::make(Some(root()), name.as_bytes(), attributes, true);
    group.memory.enable(true);
    if let Some(bytes) = limits.memory {
        group.memory.max.store(bytes / PAGE_SIZE, Ordering::Relaxed);
    }
    if let Some(tasks) = limits.pids {
        group.pids.max.store(tasks, Ordering::Relaxed);
    }
    if let Some(cpu) = limits.cpu {
        let ns = |us: u64| us.saturating_mul(1000);
        group.set_bandwidth(Some(ns(cpu.quota_us)), ns(cpu.period_us), 0);
    }
    if let Some(weight) = limits.cpu_weight {
        group.cpu.weight.store(weight, Ordering::Relaxed);
    }
    COUNT.fetch_add(1, Ordering::SeqCst);
    charge::set_active(true);
    Ok(group)
}

/// Removes the group of a container in which nobody lives any more, and what the container has made below it.
pub fn remove(group: &Arc<Cgroup>) {
    for below in group.subtree().iter().skip(1).rev() {
        let _ = below.remove(); // nobody is in it: nothing keeps it
    }
    let _lock = hierarchy::LOCK.lock();
    group.dead.store(true, Ordering::SeqCst);
    sched::forget_group(group.id);
    group.memory.enable(false);
    COUNT.fetch_sub(1, Ordering::SeqCst);
    if !any() && !root().subtree_control().contains(super::Controllers::MEMORY) {
        charge::set_active(false);
    }
}

/// Tasks and bytes of memory in a group.
pub fn usage(group: &Cgroup) -> (u64, u64) {
    let frames = group.memory.current();
    (group.pids.current.load(Ordering::Relaxed), frames.saturating_mul(PAGE_SIZE))
}
