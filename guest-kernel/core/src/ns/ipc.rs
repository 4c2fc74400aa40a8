//! The ipc namespace: SysV shared memory, semaphores and messages, and POSIX message queues
//! (ipc_namespaces(7)).
//!
//! The state of each of these hangs here, made when it is first used (a `Once` field per kind), because most
//! namespaces never see any.

use alloc::sync::Arc;

use super::{UserNamespace, next_id};

/// An ipc namespace.
pub struct IpcNamespace {
    id: u64,
    owner: Arc<UserNamespace>,
}

impl IpcNamespace {
    fn with_id(id: u64, owner: &Arc<UserNamespace>) -> Arc<IpcNamespace> {
        Arc::new(IpcNamespace { id, owner: owner.clone() })
    }

    pub(super) fn initial(owner: &Arc<UserNamespace>) -> Arc<IpcNamespace> {
        Self::with_id(0xefff_ffff, owner)
    }

    /// An empty one owned by `owner`.
    pub fn new(owner: &Arc<UserNamespace>) -> Arc<IpcNamespace> {
        Self::with_id(next_id(), owner)
    }

    /// Inode number in `/proc/PID/ns`.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whose capabilities count.
    pub fn owner(&self) -> &Arc<UserNamespace> {
        &self.owner
    }
}
