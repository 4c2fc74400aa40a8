//! Sleeping for the kernel's mutex: the lock word and the cell are `ringfence_hal::mutex`.

use ringfence_hal as hal;

use super::{Interruptible, PollEvents, Queue, SpinLock, WaitQueue};
use crate::sched;

/// A lock that may be held over waits and user copies.
pub type Mutex<T> = hal::mutex::Mutex<T, Sleepers>;
/// Holds a [`Mutex`].
pub type MutexGuard<'a, T> = hal::mutex::MutexGuard<'a, T, Sleepers>;

/// Those waiting for one mutex. The queue is made at the first contention: most mutexes never see one.
pub struct Sleepers(SpinLock<Option<Queue>>);

impl hal::mutex::Park for Sleepers {
    const NEW: Self = Sleepers(SpinLock::new(None));

    fn park_until(&self, acquire: &mut dyn FnMut() -> bool) {
        let queue = self.0.lock().get_or_insert_with(WaitQueue::new).clone();
        // A lock holder does not sleep for long and must not be interrupted: the caller has no way to fail.
        sched::with_current(|task| match task {
            Some(task) => {
                let _registration = queue.register_exclusive(task.clone());
                let _ = sched::sleep_until(task, Interruptible::No, None, || acquire().then_some(()));
            }
            // Before the scheduler runs, and in unit tests that have no tasks.
            None => {
                while !acquire() {
                    hal::cpu::relax();
                }
            }
        });
    }

    fn unpark(&self) {
        let queue = self.0.lock().clone();
        if let Some(queue) = queue {
            queue.wake(PollEvents::empty(), 1);
        }
    }
}
