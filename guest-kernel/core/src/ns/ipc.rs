//! The ipc namespace: SysV shared memory, semaphores and messages, and POSIX message queues
//! (ipc_namespaces(7)).
//!
//! Its objects are [`crate::ipc`]'s and made when they are first used: most namespaces never see any.

use alloc::{boxed::Box, sync::Arc};

use super::{UserNamespace, next_id};
use crate::{ipc::Objects, sync::Once};

/// An ipc namespace.
pub struct IpcNamespace {
    id: u64,
    owner: Arc<UserNamespace>,
    objects: Once<Box<Objects>>,
}

impl IpcNamespace {
    fn with_id(id: u64, owner: &Arc<UserNamespace>) -> Arc<IpcNamespace> {
        Arc::new(IpcNamespace { id, owner: owner.clone(), objects: Once::new() })
    }

    pub(super) fn initial(owner: &Arc<UserNamespace>) -> Arc<IpcNamespace> {
        Self::with_id(0xefff_ffff, owner)
    }

    /// An empty one owned by `owner`.
    pub fn new(owner: &Arc<UserNamespace>) -> Arc<IpcNamespace> {
        Self::with_id(next_id(), owner)
    }

    /// What is in it.
    pub fn objects(&self) -> &Objects {
        self.objects.call_once(Box::default)
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
