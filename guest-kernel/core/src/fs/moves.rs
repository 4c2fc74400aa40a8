//! Noticing that directories move while a path is walked.
//!
//! A walk that must not leave its start (`RESOLVE_BENEATH`, `RESOLVE_IN_ROOT`) relies on `..` of a place below the start being
//! below it, too. That does not hold if somebody moves the place elsewhere between the step into it and the `..`. Linux
//! compares the sequence numbers of renames and mounts; so do we. What moves is counted when it begins and when it has
//! ended: two moves can go on at a time (a rename and a mount), and one that is under way when the walk begins counts as
//! having happened during it.

use core::sync::atomic::{AtomicU64, Ordering};

static BEGUN: AtomicU64 = AtomicU64::new(0);
static ENDED: AtomicU64 = AtomicU64::new(0);

/// While it exists, some directory or mount is given another parent.
pub struct Move(());

/// Before the first step of a move.
pub fn begin() -> Move {
    BEGUN.fetch_add(1, Ordering::SeqCst);
    Move(())
}

impl Drop for Move {
    fn drop(&mut self) {
        ENDED.fetch_add(1, Ordering::SeqCst);
    }
}

/// A time during which nothing should move.
pub struct Watch {
    begun: u64,
    quiet: bool,
}

impl Watch {
    /// From now on.
    pub fn new() -> Watch {
        // In this order: a move that ends in between is taken for one under way.
        let ended = ENDED.load(Ordering::SeqCst);
        let begun = BEGUN.load(Ordering::SeqCst);
        Watch { begun, quiet: begun == ended }
    }

    /// Whether nothing has moved until now.
    pub fn is_quiet(&self) -> bool {
        self.quiet && BEGUN.load(Ordering::SeqCst) == self.begun
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves_before_during_and_after() {
        // Other tests rename as well, so only what must be noticed is asserted.
        let before = Watch::new();
        let moving = begin();
        let during = Watch::new();
        drop(moving);
        assert!(!before.is_quiet());
        assert!(!during.is_quiet());
    }
}
