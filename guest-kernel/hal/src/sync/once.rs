//! A value set once, for the bare machine. (On the host, a [`Once`] has one value for each simulated machine:
//! see `host::once`.)

use crate::arch::lock;
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicU8, Ordering};

const EMPTY: u8 = 0;
const BUSY: u8 = 1;
const READY: u8 = 2;

/// A cell that is written at most once and then only read.
pub struct Once<T> {
    state: AtomicU8,
    value: UnsafeCell<MaybeUninit<T>>,
}

// SAFETY: the value is written by the one thread that moved the state from EMPTY to BUSY, and shared only
// after the release store of READY.
unsafe impl<T: Send + Sync> Sync for Once<T> {}

impl<T> Once<T> {
    /// An empty cell.
    pub const fn new() -> Self {
        Self { state: AtomicU8::new(EMPTY), value: UnsafeCell::new(MaybeUninit::uninit()) }
    }

    /// The value; `init` makes it if nobody has. Others wait meanwhile; `init` must not use the cell.
    pub fn call_once(&self, init: impl FnOnce() -> T) -> &T {
        loop {
            match self.state.compare_exchange(EMPTY, BUSY, Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => {
                    let value = init();
                    // SAFETY: BUSY belongs to us; nobody reads before READY.
                    unsafe { (*self.value.get()).write(value) };
                    self.state.store(READY, Ordering::Release);
                    break;
                }
                Err(READY) => break,
                Err(_) => lock::contended(),
            }
        }
        // SAFETY: READY was seen with acquire ordering; the value is never written again.
        unsafe { (*self.value.get()).assume_init_ref() }
    }

    /// The value, if it is there.
    pub fn get(&self) -> Option<&T> {
        // SAFETY: as in `call_once`.
        (self.state.load(Ordering::Acquire) == READY)
            .then(|| unsafe { (*self.value.get()).assume_init_ref() })
    }
}

impl<T> Default for Once<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Drop for Once<T> {
    fn drop(&mut self) {
        if *self.state.get_mut() == READY {
            // SAFETY: READY means initialized, and we have the only reference.
            unsafe { self.value.get_mut().assume_init_drop() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_stays() {
        let once = Once::new();
        assert_eq!(once.get(), None::<&String>);
        assert_eq!(once.call_once(|| "first".to_string()), "first");
        assert_eq!(once.call_once(|| unreachable!()), "first");
        assert_eq!(once.get().map(String::as_str), Some("first"));
    }
}
