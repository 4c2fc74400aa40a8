//! System-call filters (seccomp(2)).
//!
//! What Linux does: a task gives itself programs in classic BPF that look at each of its system calls (number, arguments,
//! instruction pointer) and say what becomes of it. Filters pile up, are inherited by `fork` and `execve`, and never go
//! away. Every filter is asked, and the most severe answer counts.
//!
//! What we do: a program is checked once ([`bpf`]): jumps only go forward and stay inside, so it ends within its length,
//! and it reads nothing but the 64 bytes about the call. A [`filter`] keeps for each number whether the call is allowed
//! whatever its arguments are: most calls of a filtered task then cost one look at a bit. A task with a filter has its
//! calls *watched* (see `hal::Thread::set_watched`); others pay nothing.
//!
//! | file | idea |
//! |---|---|
//! | `bpf` | checking and running a program |
//! | `filter` | the pile of filters, and their answer |
//! | `action` | what becomes of a call |
//! | `notify` | a supervisor in another process decides (`SECCOMP_RET_USER_NOTIF`) |
//! | `sys` | installing filters: `seccomp`, `prctl(PR_SET_SECCOMP)` |
//!
//! Lock order: the tree lock → a task's filter slot; a listener's lock is a leaf.

mod action;
pub mod bpf;
mod filter;
mod notify;
mod sys;

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU8, Ordering};

pub use action::check;
use filter::Filter;
pub(crate) use sys::{mode_of, set_mode};

use crate::{sync::SpinLock, syscall::Syscall};

/// The system calls of this module.
pub const SYSCALLS: &[&[Syscall]] = &[sys::SYSCALLS];

/// `SECCOMP_MODE_*`.
const OFF: u8 = 0;
const STRICT: u8 = 1;
const FILTER: u8 = 2;

/// What every task keeps.
#[derive(Default)]
pub struct TaskSeccomp {
    mode: AtomicU8,
    filter: SpinLock<Option<Arc<Filter>>>,
}

impl TaskSeccomp {
    /// The mode, as /proc and `PR_GET_SECCOMP` tell it.
    pub fn mode(&self) -> u8 {
        self.mode.load(Ordering::Acquire)
    }

    /// Whether system calls are looked at.
    pub fn is_on(&self) -> bool {
        self.mode() != OFF
    }

    /// How many filters there are.
    pub fn filters(&self) -> u32 {
        self.filter.lock().as_ref().map_or(0, |f| f.depth)
    }

    fn filter(&self) -> Option<Arc<Filter>> {
        self.filter.lock().clone()
    }

    fn set_filter(&self, filter: Arc<Filter>) {
        let old = self.filter.lock().replace(filter);
        self.mode.store(FILTER, Ordering::Release);
        drop(old);
    }

    /// Takes over what `parent` has (`fork`); the task does not run yet.
    pub fn inherit(&self, parent: &TaskSeccomp) {
        if parent.is_on() {
            let old = core::mem::replace(&mut *self.filter.lock(), parent.filter());
            self.mode.store(parent.mode(), Ordering::Release);
            drop(old);
        }
    }

    /// The task is gone: supervisors of its filters may be told that nobody is left.
    pub fn release(&self) {
        if self.mode() == FILTER {
            let old = self.filter.lock().take();
            drop(old);
        }
    }
}
