//! The storage half of the kernel's sleeping mutex.
//!
//! The policy (who sleeps, who is woken) belongs to the scheduler in `core`, which must not contain unsafe
//! code; the cell that only the lock holder may touch does need it. So the lock word and the cell live here
//! and sleeping is a trait.

use core::{
    cell::UnsafeCell,
    fmt,
    ops::{Deref, DerefMut},
    sync::atomic::{AtomicU32, Ordering},
};

/// How a thread waits for a contended [`Mutex`].
pub trait Park: Send + Sync {
    /// A parking place nobody waits at.
    const NEW: Self;
    /// Returns once `acquire` has answered `true`; may call it any number of times and sleeps in between.
    fn park_until(&self, acquire: &mut dyn FnMut() -> bool);
    /// Wakes at least one of those parked, if any.
    fn unpark(&self);
}

const FREE: u32 = 0;
const HELD: u32 = 1;
const CONTENDED: u32 = 2;

/// A mutual exclusion lock whose waiters sleep; not recursive, not fair.
///
/// Invariant: `value` is only reachable through the one [`MutexGuard`] that exists while `state != FREE`.
pub struct Mutex<T: ?Sized, P> {
    state: AtomicU32,
    park: P,
    value: UnsafeCell<T>,
}

// SAFETY: the guard gives exclusive access to `value`, so sharing the mutex moves `T` between threads at most.
unsafe impl<T: ?Sized + Send, P: Send> Send for Mutex<T, P> {}
// SAFETY: as above.
unsafe impl<T: ?Sized + Send, P: Sync> Sync for Mutex<T, P> {}

impl<T, P: Park> Mutex<T, P> {
    /// A free lock around `value`.
    pub const fn new(value: T) -> Self {
        Mutex { state: AtomicU32::new(FREE), park: P::NEW, value: UnsafeCell::new(value) }
    }

    /// The value of a lock nobody shares any more.
    pub fn into_inner(self) -> T {
        self.value.into_inner()
    }
}

impl<T: ?Sized, P: Park> Mutex<T, P> {
    /// Takes the lock, sleeping while it is held. Not to be called with a spin lock held.
    pub fn lock(&self) -> MutexGuard<'_, T, P> {
        if self.state.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_err() {
            // Taken as CONTENDED: another sleeper may be behind us, and the release must look for it.
            self.park.park_until(&mut || self.state.swap(CONTENDED, Ordering::Acquire) == FREE);
        }
        MutexGuard { mutex: self }
    }

    /// Takes the lock if it is free.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T, P>> {
        self.state.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).ok()?;
        Some(MutexGuard { mutex: self })
    }

    /// Whether somebody holds it at this moment.
    pub fn is_locked(&self) -> bool {
        self.state.load(Ordering::Relaxed) != FREE
    }

    /// The value, through exclusive access.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }
}

impl<T: Default, P: Park> Default for Mutex<T, P> {
    fn default() -> Self {
        Mutex::new(T::default())
    }
}

impl<T: ?Sized, P> fmt::Debug for Mutex<T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mutex")
    }
}

/// Holds a [`Mutex`] until dropped.
pub struct MutexGuard<'a, T: ?Sized, P: Park> {
    mutex: &'a Mutex<T, P>,
}

impl<T: ?Sized, P: Park> Deref for MutexGuard<'_, T, P> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: this guard exists, so this thread holds the lock (type invariant).
        unsafe { &*self.mutex.value.get() }
    }
}

impl<T: ?Sized, P: Park> DerefMut for MutexGuard<'_, T, P> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`; `&mut self` makes the borrow unique.
        unsafe { &mut *self.mutex.value.get() }
    }
}

impl<T: ?Sized, P: Park> Drop for MutexGuard<'_, T, P> {
    fn drop(&mut self) {
        if self.mutex.state.swap(FREE, Ordering::Release) == CONTENDED {
            self.mutex.park.unpark();
        }
    }
}
