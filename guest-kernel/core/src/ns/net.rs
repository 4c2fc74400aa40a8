//! The network namespace (network_namespaces(7)): interfaces, ports and sockets of its own.
//!
//! What is in it is [`crate::net`]'s and made when it is first used: most namespaces, and most sandboxes, never see any.

use alloc::{boxed::Box, sync::Arc};

use super::{UserNamespace, next_id};
use crate::{net::Stack, sync::Once};

/// A network namespace.
pub struct NetNamespace {
    id: u64,
    owner: Arc<UserNamespace>,
    /// Whether `lo` is up from the beginning.
    ready: bool,
    stack: Once<Box<Stack>>,
}

impl NetNamespace {
    fn with_id(id: u64, owner: &Arc<UserNamespace>, ready: bool) -> Arc<NetNamespace> {
        Arc::new(NetNamespace { id, owner: owner.clone(), ready, stack: Once::new() })
    }

    pub(super) fn initial(owner: &Arc<UserNamespace>) -> Arc<NetNamespace> {
        Self::with_id(0xefff_fff5, owner, true)
    }

    /// An empty one owned by `owner`: its loopback is down.
    pub fn new(owner: &Arc<UserNamespace>) -> Arc<NetNamespace> {
        Self::with_id(next_id(), owner, false)
    }

    /// One as container runtimes leave it: its loopback is up.
    pub fn for_container(owner: &Arc<UserNamespace>) -> Arc<NetNamespace> {
        Self::with_id(next_id(), owner, true)
    }

    /// What is in it.
    pub fn stack(&self) -> &Stack {
        self.stack.call_once(|| Box::new(Stack::new(self.ready)))
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
