//! The cgroup namespace: little more than a root.

use alloc::sync::Arc;

use super::{UserNamespace, next_id};
use crate::cgroup::{self, Cgroup};

/// A cgroup namespace (cgroup_namespaces(7)): which group its tasks see as the root.
pub struct CgroupNamespace {
    id: u64,
    owner: Arc<UserNamespace>,
    root: Arc<Cgroup>,
}

impl CgroupNamespace {
    pub(super) fn initial(owner: &Arc<UserNamespace>) -> Arc<CgroupNamespace> {
        Arc::new(CgroupNamespace { id: 0xefff_fffb, owner: owner.clone(), root: cgroup::root().clone() })
    }

    /// A new one owned by `owner`, with `root` as the root.
    pub fn new(owner: &Arc<UserNamespace>, root: Arc<Cgroup>) -> Arc<CgroupNamespace> {
        Arc::new(CgroupNamespace { id: next_id(), owner: owner.clone(), root })
    }

    /// Inode number in `/proc/PID/ns`.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whose capabilities count.
    pub fn owner(&self) -> &Arc<UserNamespace> {
        &self.owner
    }

    /// What its tasks see as the root.
    pub fn root(&self) -> &Arc<Cgroup> {
        &self.root
    }
}
