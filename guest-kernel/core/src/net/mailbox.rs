//! A queue of messages of a socket that keeps them apart: what arrives is whole, in order, and lost if there is no room.
//!
//! A message is shared by those who look at it, so that it can be copied to user memory without a lock.

use alloc::{collections::VecDeque, sync::Arc, vec::Vec};

use crate::errno::{Errno, Result};

/// What a message weighs beside its bytes, as on Linux (a `struct sk_buff` and its smallest buffer).
const OVERHEAD: usize = 768;

/// A message and what is known of it.
pub(super) struct Letter<M> {
    pub bytes: Vec<u8>,
    pub about: M,
}

/// The queue.
pub(super) struct Mailbox<M> {
    letters: VecDeque<Arc<Letter<M>>>,
    weight: usize,
    /// How many were lost.
    pub lost: u64,
}

impl<M> Default for Mailbox<M> {
    fn default() -> Self {
        Mailbox { letters: VecDeque::new(), weight: 0, lost: 0 }
    }
}

impl<M> Mailbox<M> {
    pub fn is_empty(&self) -> bool {
        self.letters.is_empty()
    }

    /// What it weighs.
    pub fn weight(&self) -> usize {
        self.weight
    }

    /// Bytes of the first message.
    pub fn first_len(&self) -> usize {
        self.letters.front().map_or(0, |l| l.bytes.len())
    }

    /// Puts a message in, if the others weigh no more than `limit`. `ENOBUFS`.
    pub fn push(&mut self, letter: Letter<M>, limit: usize) -> Result<()> {
        if self.weight > limit || self.letters.try_reserve(1).is_err() {
            self.lost += 1;
            return Err(Errno::ENOBUFS);
        }
        self.weight += letter.bytes.len() + OVERHEAD;
        self.letters.push_back(Arc::new(letter));
        Ok(())
    }

    /// The first message; it stays if `keep`.
    pub fn take(&mut self, keep: bool) -> Option<Arc<Letter<M>>> {
        if keep {
            return self.letters.front().cloned();
        }
        let letter = self.letters.pop_front()?;
        self.weight = self.weight.saturating_sub(letter.bytes.len() + OVERHEAD);
        Some(letter)
    }

    /// Empties it, for the caller to drop.
    pub fn clear(&mut self) -> VecDeque<Arc<Letter<M>>> {
        self.weight = 0;
        core::mem::take(&mut self.letters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_much_is_lost() {
        let mut mailbox = Mailbox::default();
        let letter = |n: u8| Letter { bytes: alloc::vec![n; 10], about: n };
        assert_eq!(mailbox.push(letter(1), 0), Ok(()));
        assert_eq!(mailbox.push(letter(2), 0), Err(Errno::ENOBUFS));
        assert_eq!(mailbox.push(letter(3), 10 + OVERHEAD), Ok(()));
        assert_eq!((mailbox.lost, mailbox.first_len(), mailbox.weight()), (1, 10, 2 * (10 + OVERHEAD)));
        assert_eq!(mailbox.take(true).unwrap().about, 1);
        assert_eq!((mailbox.take(false).unwrap().about, mailbox.take(false).unwrap().about), (1, 3));
        assert!(mailbox.is_empty() && mailbox.weight() == 0 && mailbox.take(false).is_none());
    }
}
