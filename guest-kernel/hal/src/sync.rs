//! Spin locks and one-time initialization.
//!
//! Interrupts are off in the kernel, so a lock need not turn them off. A holder must not sleep, switch
//! threads or touch user memory that may fault.
//!
//! Three hooks of the implementation see every lock: `lock::acquiring` before the first attempt,
//! `lock::contended` in every round of a spin (bare: serves pending TLB flushes of this CPU, so that two CPUs
//! waiting for each other cannot deadlock), and `lock::released`. The host implementation uses them to find a
//! lock taken twice by one thread, or held while it switches.

#[cfg(any(target_os = "none", test))]
mod once;

use crate::arch::lock;
use core::cell::UnsafeCell;
use core::fmt;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

#[cfg(not(target_os = "none"))]
pub use crate::host::once::Once;
#[cfg(target_os = "none")]
pub use once::Once;

/// Keeps a guard on the thread (and CPU) that took the lock.
type NotSend = PhantomData<*const ()>;

/// A mutual-exclusion lock that spins.
pub struct SpinLock<T: ?Sized> {
    locked: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: the lock hands out the value to one thread at a time, so sharing the lock only moves `T`s between
// threads.
unsafe impl<T: ?Sized + Send> Sync for SpinLock<T> {}

/// Access to the value of a [`SpinLock`]; dropping it unlocks.
pub struct SpinLockGuard<'a, T: ?Sized> {
    lock: &'a SpinLock<T>,
    _not_send: NotSend,
}

// SAFETY: a shared guard gives only `&T`.
unsafe impl<T: ?Sized + Sync> Sync for SpinLockGuard<'_, T> {}

impl<T> SpinLock<T> {
    /// An unlocked lock.
    pub const fn new(value: T) -> Self {
        Self { locked: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    /// The value, when nobody else can hold the lock any more.
    pub fn into_inner(self) -> T {
        self.value.into_inner()
    }
}

impl<T: ?Sized> SpinLock<T> {
    fn addr(&self) -> usize {
        (&raw const self.locked).addr()
    }

    /// Takes the lock, spinning while another CPU holds it.
    #[inline]
    pub fn lock(&self) -> SpinLockGuard<'_, T> {
        lock::acquiring(self.addr(), false);
        while self.locked.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            while self.locked.load(Ordering::Relaxed) {
                lock::contended();
            }
        }
        lock::acquired(self.addr(), false);
        SpinLockGuard { lock: self, _not_send: PhantomData }
    }

    /// Takes the lock if nobody holds it.
    #[inline]
    pub fn try_lock(&self) -> Option<SpinLockGuard<'_, T>> {
        self.locked.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).ok()?;
        lock::acquired(self.addr(), false);
        Some(SpinLockGuard { lock: self, _not_send: PhantomData })
    }

    /// The value, through an exclusive borrow.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }
}

impl<T: ?Sized> Deref for SpinLockGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the guard holds the lock, so no other reference to the value exists.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T: ?Sized> DerefMut for SpinLockGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard holds the lock and is borrowed exclusively.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T: ?Sized> Drop for SpinLockGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        lock::released(self.lock.addr(), false);
        self.lock.locked.store(false, Ordering::Release);
    }
}

impl<T: Default> Default for SpinLock<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for SpinLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.try_lock() {
            Some(guard) => f.debug_tuple("SpinLock").field(&&*guard).finish(),
            None => f.write_str("SpinLock(<locked>)"),
        }
    }
}

/// Set in [`RwSpinLock::state`] while a writer holds the lock; the lower bits count readers.
const WRITER: u32 = 1 << 31;
/// Set while a writer waits.
const WAITING: u32 = 1 << 30;
/// Rounds for which a new reader lets a waiting writer go first: longer than readers hold a lock that is in demand. Then it
/// passes all the same, because it may be a CPU that reads already, on which the writer waits.
const COURTESY: u32 = 4096;

/// A reader-writer lock that spins. New readers let a waiting writer go first, so that readers who overlap without end do not
/// keep it out.
pub struct RwSpinLock<T: ?Sized> {
    state: AtomicU32,
    value: UnsafeCell<T>,
}

// SAFETY: as for `SpinLock`; readers share `&T` between threads, hence `T: Sync`.
unsafe impl<T: ?Sized + Send + Sync> Sync for RwSpinLock<T> {}

/// Shared access to the value of an [`RwSpinLock`].
pub struct ReadGuard<'a, T: ?Sized> {
    lock: &'a RwSpinLock<T>,
    _not_send: NotSend,
}

/// Exclusive access to the value of an [`RwSpinLock`].
pub struct WriteGuard<'a, T: ?Sized> {
    lock: &'a RwSpinLock<T>,
    _not_send: NotSend,
}

// SAFETY: a shared guard gives only `&T`.
unsafe impl<T: ?Sized + Sync> Sync for ReadGuard<'_, T> {}
// SAFETY: as above.
unsafe impl<T: ?Sized + Sync> Sync for WriteGuard<'_, T> {}

impl<T> RwSpinLock<T> {
    /// An unlocked lock.
    pub const fn new(value: T) -> Self {
        Self { state: AtomicU32::new(0), value: UnsafeCell::new(value) }
    }

    /// The value, when nobody else can hold the lock any more.
    pub fn into_inner(self) -> T {
        self.value.into_inner()
    }
}

impl<T: ?Sized> RwSpinLock<T> {
    fn addr(&self) -> usize {
        (&raw const self.state).addr()
    }

    /// Takes the lock for reading. A CPU may read-lock again what it has read-locked.
    #[inline]
    pub fn read(&self) -> ReadGuard<'_, T> {
        lock::acquiring(self.addr(), true);
        let s = self.state.load(Ordering::Relaxed);
        if s & (WRITER | WAITING) != 0
            || self.state.compare_exchange_weak(s, s + 1, Ordering::Acquire, Ordering::Relaxed).is_err()
        {
            self.read_contended();
        }
        lock::acquired(self.addr(), true);
        ReadGuard { lock: self, _not_send: PhantomData }
    }

    #[cold]
    fn read_contended(&self) {
        let mut courtesy = COURTESY;
        loop {
            let s = self.state.load(Ordering::Relaxed);
            let first = s & WAITING != 0 && courtesy > 0;
            if s & WRITER == 0
                && !first
                && self.state.compare_exchange_weak(s, s + 1, Ordering::Acquire, Ordering::Relaxed).is_ok()
            {
                return;
            }
            courtesy -= u32::from(first);
            lock::contended();
        }
    }

    /// Takes the lock for writing.
    #[inline]
    pub fn write(&self) -> WriteGuard<'_, T> {
        lock::acquiring(self.addr(), false);
        if self.state.compare_exchange(0, WRITER, Ordering::Acquire, Ordering::Relaxed).is_err() {
            self.write_contended();
        }
        lock::acquired(self.addr(), false);
        WriteGuard { lock: self, _not_send: PhantomData }
    }

    #[cold]
    fn write_contended(&self) {
        loop {
            let s = self.state.load(Ordering::Relaxed);
            // Without holders; whoever else waits says so again.
            if s & !WAITING == 0
                && self.state.compare_exchange_weak(s, WRITER, Ordering::Acquire, Ordering::Relaxed).is_ok()
            {
                return;
            }
            if s & WAITING == 0 {
                self.state.fetch_or(WAITING, Ordering::Relaxed);
            }
            lock::contended();
        }
    }

    /// The value, through an exclusive borrow.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }
}

impl<T: ?Sized> Deref for ReadGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the reader count keeps writers out while the guard lives.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T: ?Sized> Drop for ReadGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        lock::released(self.lock.addr(), true);
        self.lock.state.fetch_sub(1, Ordering::Release);
    }
}

impl<T: ?Sized> Deref for WriteGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the writer bit keeps everybody else out while the guard lives.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T: ?Sized> DerefMut for WriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and the guard is borrowed exclusively.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T: ?Sized> Drop for WriteGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        lock::released(self.lock.addr(), false);
        // Others who wait to write say so again.
        self.lock.state.store(0, Ordering::Release);
    }
}

impl<T: Default> Default for RwSpinLock<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for RwSpinLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RwSpinLock")
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use crate::host::World;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn readers_who_overlap_let_a_writer_in() {
        World::new(8).enter(|| {
            let lock = RwSpinLock::new(0);
            // Held by readers at all times, in turns, until there was a writer.
            let first = lock.read();
            let holders = AtomicUsize::new(1);
            std::thread::scope(|s| {
                let writer = s.spawn(|| *lock.write() = 1);
                while lock.state.load(Ordering::Relaxed) & WAITING == 0 {
                    std::thread::yield_now();
                }
                let reader = s.spawn(|| {
                    let value = *lock.read();
                    holders.fetch_add(1, Ordering::SeqCst);
                    value
                });
                std::thread::sleep(std::time::Duration::from_millis(5));
                assert_eq!(holders.load(Ordering::SeqCst), 1, "a new reader waits for the writer");
                drop(first);
                writer.join().unwrap();
                assert_eq!(reader.join().unwrap(), 1);
            });
        });
    }

    #[test]
    fn who_reads_may_read_again_though_a_writer_waits() {
        World::new(8).enter(|| {
            let lock = RwSpinLock::new(0);
            std::thread::scope(|s| {
                let outer = lock.read();
                let writer = s.spawn(|| *lock.write() = 1);
                while lock.state.load(Ordering::Relaxed) & WAITING == 0 {
                    std::thread::yield_now();
                }
                assert_eq!(*lock.read(), 0);
                drop(outer);
                writer.join().unwrap();
                assert_eq!(*lock.read(), 1);
            });
        });
    }
}
