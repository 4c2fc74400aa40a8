//! POSIX message queues (mq_overview(7)).
//!
//! A queue is an inode of the namespace's mqueue file system; `mq_open` looks there, and mounting the file system
//! shows the same files. A queue descriptor is a descriptor of that file. Memory is bounded by the number of
//! queues, their sizes, and RLIMIT_MSGQUEUE of the user who makes them.
//!
//! Lock order: the directory's table, then a queue's state.

mod fs;
mod queue;
mod sys;

use alloc::sync::Arc;
use core::sync::atomic::AtomicUsize;

pub use fs::MqueueFs;
pub(super) use sys::SYSCALLS;

use crate::{
    fs::{Mount, Superblock},
    sync::Once,
};

/// `/proc/sys/fs/mqueue`.
pub struct Limits {
    /// Queues.
    pub queues_max: AtomicUsize,
    /// Messages of a queue that an unprivileged user makes.
    pub msg_max: AtomicUsize,
    /// Bytes of a message there.
    pub msgsize_max: AtomicUsize,
    /// Messages of a queue made without attributes.
    pub msg_default: AtomicUsize,
    /// Bytes of a message there.
    pub msgsize_default: AtomicUsize,
}

/// The queues of a namespace.
pub struct Queues {
    /// What is allowed.
    pub limits: Arc<Limits>,
    home: Once<(Arc<MqueueFs>, Arc<Mount>)>,
}

impl Default for Queues {
    fn default() -> Self {
        let limits = Limits {
            queues_max: AtomicUsize::new(256),
            msg_max: AtomicUsize::new(10),
            msgsize_max: AtomicUsize::new(8192),
            msg_default: AtomicUsize::new(10),
            msgsize_default: AtomicUsize::new(8192),
        };
        Queues { limits: Arc::new(limits), home: Once::new() }
    }
}

impl Queues {
    fn home(&self) -> &(Arc<MqueueFs>, Arc<Mount>) {
        self.home.call_once(|| {
            let fs = MqueueFs::new(self.limits.clone());
            (fs.clone(), Mount::internal(Superblock::new(fs)))
        })
    }

    /// The file system, for `mount`.
    pub fn fs(&self) -> Arc<MqueueFs> {
        self.home().0.clone()
    }
}
