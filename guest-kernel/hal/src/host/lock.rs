//! The hooks of [`sync`](crate::sync): which spin locks does this thread hold?

use super::thread::check_stop;
use std::cell::RefCell;
use std::time::Duration;

thread_local! {
    /// Address of each held lock, and whether it is held shared.
    static HELD: RefCell<Vec<(usize, bool)>> = const { RefCell::new(Vec::new()) };
    static SPINS: RefCell<u32> = const { RefCell::new(0) };
}

/// Panics if this thread holds the lock already: on a CPU it would spin for ever.
pub(crate) fn acquiring(lock: usize, shared: bool) {
    let deadlock = HELD.with_borrow(|h| h.iter().any(|&(l, s)| l == lock && !(s && shared)));
    assert!(!deadlock || std::thread::panicking(), "a thread takes a spin lock that it holds already");
    SPINS.set(0);
}

pub(crate) fn acquired(lock: usize, shared: bool) {
    // A destructor may lock when the thread's locals are gone; nothing is checked then.
    let _ = HELD.try_with(|h| h.borrow_mut().push((lock, shared)));
}

/// One round of a contended spin.
pub(crate) fn contended() {
    check_stop();
    let spins = SPINS.with_borrow_mut(|s| {
        *s = s.saturating_add(1);
        *s
    });
    match spins {
        0..100 => std::thread::yield_now(),
        _ => std::thread::sleep(Duration::from_micros(50)),
    }
}

pub(crate) fn released(lock: usize, shared: bool) {
    let _ = HELD.try_with(|h| {
        let mut h = h.borrow_mut();
        if let Some(i) = h.iter().rposition(|&entry| entry == (lock, shared)) {
            h.swap_remove(i);
        }
    });
}

/// How many spin locks this thread holds.
pub(crate) fn held() -> usize {
    HELD.try_with(|h| h.borrow().len()).unwrap_or(0)
}

/// Panics if this thread holds a spin lock: `what` may sleep.
pub(crate) fn assert_none_held(what: &str) {
    let n = held();
    assert!(n == 0 || std::thread::panicking(), "{what} with {n} spin locks held");
}
