//! Waiting and sleeping locks.
//!
//! * [`WaitQueue`]: the one way to wait for something. Whoever changes the state wakes the queue after the
//!   change; whoever waits registers before looking. Poll and epoll register on the same queues.
//! * [`Mutex`]: a lock that may be held over a wait or a user copy. Data that is only touched for a few
//!   instructions sits behind `ringfence_hal::sync::SpinLock` instead, which may not be held over either.
//!
//! Lock order of the whole kernel: sleeping locks before spin locks; among spin locks, an object's own lock
//! before a `WaitQueue`'s, a `WaitQueue`'s before a run queue's.

mod mutex;
mod wait;

pub use mutex::{Mutex, MutexGuard};
pub use ringfence_hal::sync::{Once, RwSpinLock, SpinLock};
pub use wait::{
    Interruptible, PollEvents, PollTable, Queue, Registration, WaitError, WaitQueue, Wake, wait_event,
    wait_event_any,
};
