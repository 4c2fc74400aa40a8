//! Namespaces: which of several worlds a task lives in (namespaces(7)).
//!
//! What Linux does: each thread refers to one `nsproxy` that holds its uts, ipc, net, cgroup, mount and time
//! namespace and the pid namespace its children will be in; its own pid namespace is that of its number, and
//! its user namespace is part of its credentials. `clone`, `unshare` and `setns` give a thread another
//! `nsproxy`; threads that share one keep sharing it.
//!
//! We do the same with [`Namespaces`], an immutable object that tasks share and replace as a whole
//! ([`crate::task::Task::namespaces`]). Some kinds live elsewhere, where they are looked at:
//!
//! | kind | where | type |
//! |---|---|---|
//! | uts, ipc, net, cgroup, pid of children | [`Namespaces`] | [`UtsNamespace`], [`IpcNamespace`], [`NetNamespace`], [`CgroupNamespace`] |
//! | pid | [`crate::task::Process`] | [`PidNamespace`] |
//! | user | [`crate::task::Credentials`] | [`UserNamespace`] |
//! | mount | [`crate::fs::FsContext`] | [`crate::fs::MountNamespace`] |
//!
//! Every namespace is owned by a user namespace: capabilities over what it isolates are those the caller has
//! there ([`crate::task::Credentials::capable_in`]). A namespace lives as long as somebody refers to it: a
//! task, an open file or mount of `/proc/PID/ns/*`, a child namespace.
//!
//! Time namespaces do not exist: asking for one is `EINVAL`, as on a kernel built without them.
//!
//! Lock order: namespaces are immutable but for single values behind their own spin lock, taken alone; the
//! numbers of a pid namespace come after the tree lock.

mod cgroup;
pub mod change;
mod ipc;
mod net;
pub mod pid;
pub mod user;
mod uts;

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

pub use cgroup::CgroupNamespace;
pub use ipc::IpcNamespace;
pub use net::NetNamespace;
pub use pid::{PidNamespace, PidView};
pub use user::UserNamespace;
pub use uts::UtsNamespace;

use crate::{sync::Once, syscall::Syscall};

/// The namespaces of a task that hang on nothing else. Immutable; shared by tasks until one changes its own.
#[derive(Clone)]
pub struct Namespaces {
    /// Host and domain name.
    pub uts: Arc<UtsNamespace>,
    /// SysV objects and message queues.
    pub ipc: Arc<IpcNamespace>,
    /// The network.
    pub net: Arc<NetNamespace>,
    /// The root of what it sees of cgroups.
    pub cgroup: Arc<CgroupNamespace>,
    /// Where its children will be.
    pub pid_for_children: Arc<PidNamespace>,
}

impl Namespaces {
    /// The namespaces of the first task of the machine.
    pub fn initial() -> &'static Arc<Namespaces> {
        static INITIAL: Once<Arc<Namespaces>> = Once::new();
        INITIAL.call_once(|| {
            let user = UserNamespace::initial();
            Arc::new(Namespaces {
                uts: UtsNamespace::initial(user),
                ipc: IpcNamespace::initial(user),
                net: NetNamespace::initial(user),
                cgroup: CgroupNamespace::initial(user),
                pid_for_children: PidNamespace::initial().clone(),
            })
        })
    }
}

/// The system calls of this module.
pub const SYSCALLS: &[&[Syscall]] = &[change::SYSCALLS, uts::SYSCALLS];

/// The inode number of a new namespace in `/proc/PID/ns`. Linux's first ones have fixed numbers just above.
pub fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0xf000_0000);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
