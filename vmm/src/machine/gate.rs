//! Where vCPU threads stand while the machine is paused.
//!
//! A thread looks at the gate before each entry of the guest. Who pauses closes the gate, kicks every vCPU out of
//! `KVM_RUN`, and waits until all stand: between two instructions of the guest, with every exit answered. A thread that has left
//! the guest for good counts as one that stands.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The gate.
#[derive(Default)]
pub struct Gate {
    closed: AtomicBool,
    standing: Mutex<usize>,
    changed: Condvar,
}

impl Gate {
    fn standing(&self) -> MutexGuard<'_, usize> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a vCPU thread has to stand.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// From now on whoever comes has to stand.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Lets all go on.
    pub fn open(&self) {
        // With the lock held: a thread that is about to wait has either seen this or will be woken.
        let _standing = self.standing();
        self.closed.store(false, Ordering::SeqCst);
        self.changed.notify_all();
    }

    /// A vCPU thread stands until the gate opens.
    pub fn stand(&self) {
        let mut standing = self.standing();
        *standing += 1;
        self.changed.notify_all();
        while self.is_closed() {
            standing = self.changed.wait(standing).unwrap_or_else(PoisonError::into_inner);
        }
        *standing -= 1;
    }

    /// A vCPU thread has left the guest for good.
    pub fn leave(&self) {
        *self.standing() += 1;
        self.changed.notify_all();
    }

    /// Waits until so many threads stand; false if they do not in time.
    pub fn wait_for(&self, threads: usize, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut standing = self.standing();
        while *standing < threads {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            standing = self.changed.wait_timeout(standing, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;

    use super::*;

    #[test]
    fn all_stand_and_go_on() {
        let gate = Arc::new(Gate::default());
        let (steps, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let (gate, steps, over) = (gate.clone(), steps.clone(), over.clone());
                std::thread::spawn(move || {
                    while !over.load(Ordering::SeqCst) {
                        if gate.is_closed() {
                            gate.stand();
                        }
                        steps.fetch_add(1, Ordering::SeqCst);
                        std::thread::yield_now();
                    }
                    gate.leave();
                })
            })
            .collect();
        for _ in 0..20 {
            gate.close();
            assert!(gate.wait_for(3, Duration::from_secs(60)));
            let before = steps.load(Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(2));
            assert_eq!(steps.load(Ordering::SeqCst), before);
            gate.open();
        }
        over.store(true, Ordering::SeqCst);
        gate.close();
        gate.open();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        gate.close();
        assert!(gate.wait_for(3, Duration::ZERO));
        assert!(!gate.wait_for(4, Duration::from_millis(1)));
    }
}
