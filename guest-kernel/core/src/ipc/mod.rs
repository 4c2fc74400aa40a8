//! Communication between processes by objects of an ipc namespace: SysV shared memory, semaphores and messages
//! (sysvipc(7)), and POSIX message queues (mq_overview(7)).
//!
//! What Linux does: SysV objects are found by a key or by an id, carry permissions of their own and live until
//! they are removed; message queues are files of a small file system, one for each namespace. What we do: the
//! same. [`Objects`] is all of it for one namespace; it hangs on [`crate::ns::IpcNamespace`] and is reached by
//! [`objects`].
//!
//! | module | holds |
//! |---|---|
//! | `ids` | ids, keys and permissions, common to the three SysV kinds |
//! | `shm`, `sem`, `msg` | SysV shared memory, semaphores (with `SEM_UNDO`), messages |
//! | `mqueue` | POSIX message queues and their file system |
//! | `report` | `/proc/sysvipc` |
//!
//! Lock order: an id table (sleeping), then one object's own spin lock. Neither is held over a wait or a copy
//! from or to user memory. An object that was removed says so to those who wait for it (`EIDRM`).

mod ids;
pub mod mqueue;
mod msg;
mod report;
mod sem;
mod shm;

use alloc::sync::Arc;
use core::{
    ops::Deref,
    sync::atomic::{AtomicU64, AtomicUsize},
};

pub use report::{show_msg, show_sem, show_shm};
pub use sem::{UndoList, process_ended};

use crate::{TaskRef, ns::IpcNamespace, syscall::Syscall};

/// The system calls of this module.
pub const SYSCALLS: &[&[Syscall]] = &[shm::SYSCALLS, sem::SYSCALLS, msg::SYSCALLS, mqueue::SYSCALLS];

/// `/proc/sys/kernel/{shmmax,shmall,shmmni,msgmax,msgmnb,msgmni}`.
pub struct Limits {
    /// Bytes of a segment.
    pub shmmax: AtomicU64,
    /// Pages of all segments.
    pub shmall: AtomicU64,
    /// Segments.
    pub shmmni: AtomicUsize,
    /// Bytes of a message.
    pub msgmax: AtomicUsize,
    /// Bytes of a new message queue.
    pub msgmnb: AtomicUsize,
    /// Message queues.
    pub msgmni: AtomicUsize,
    /// `/proc/sys/kernel/sem`: semaphores of a set, of all sets, operations of a call, sets.
    pub sem: [AtomicUsize; 4],
}

/// The SysV objects and message queues of one namespace.
pub struct Objects {
    /// What is allowed.
    pub limits: Limits,
    shm: ids::Ids<shm::Segment>,
    shm_pages: AtomicU64,
    sem: ids::Ids<sem::Set>,
    msg: ids::Ids<msg::Queue>,
    /// The message queues.
    pub mqueue: mqueue::Queues,
}

impl Default for Objects {
    fn default() -> Self {
        // What Linux has by default.
        const HUGE: u64 = u64::MAX - (1 << 24);
        Objects {
            limits: Limits {
                shmmax: AtomicU64::new(HUGE),
                shmall: AtomicU64::new(HUGE),
                shmmni: AtomicUsize::new(4096),
                msgmax: AtomicUsize::new(8192),
                msgmnb: AtomicUsize::new(16_384),
                msgmni: AtomicUsize::new(32_000),
                sem: [32_000, 1_024_000_000, 500, 32_000].map(AtomicUsize::new),
            },
            shm: ids::Ids::new(),
            shm_pages: AtomicU64::new(0),
            sem: ids::Ids::new(),
            msg: ids::Ids::new(),
            mqueue: mqueue::Queues::default(),
        }
    }
}

/// A namespace, seen as its objects.
#[derive(Clone)]
pub struct Space(Arc<IpcNamespace>);

impl Deref for Space {
    type Target = Objects;

    fn deref(&self) -> &Objects {
        self.0.objects()
    }
}

/// The objects that `task` sees.
pub fn objects(task: &TaskRef) -> Space {
    Space(task.namespaces().ipc.clone())
}
