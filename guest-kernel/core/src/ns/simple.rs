//! Namespaces without content of their own yet: network and cgroup.

use alloc::sync::Arc;

use super::{UserNamespace, next_id};

macro_rules! simple {
    ($(#[$doc:meta])* $name:ident, $initial:expr) => {
        $(#[$doc])*
        pub struct $name {
            id: u64,
            owner: Arc<UserNamespace>,
        }

        impl $name {
            pub(super) fn initial(owner: &Arc<UserNamespace>) -> Arc<$name> {
                Arc::new($name { id: $initial, owner: owner.clone() })
            }

            /// A new one owned by `owner`.
            pub fn new(owner: &Arc<UserNamespace>) -> Arc<$name> {
                Arc::new($name { id: next_id(), owner: owner.clone() })
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
    };
}

simple! {
    /// A network namespace: an object only, with no device in it.
    NetNamespace, 0xefff_fff5
}
simple! {
    /// A cgroup namespace (cgroup_namespaces(7)).
    CgroupNamespace, 0xefff_fffb
}
