//! Packets that arrive in parts (RFC 791, RFC 8200 section 4.5).
//!
//! Parts that overlap are the mark of an attack (RFC 5722): all of the packet is dropped. Of packets that are not complete there are
//! [`PACKETS_MAX`] at most, of half a minute.

use alloc::{collections::BTreeMap, vec::Vec};
use core::net::IpAddr;

use super::SECOND;

const PACKETS_MAX: usize = 16;
const PARTS_MAX: usize = 128;
const PATIENCE: u64 = 30 * SECOND;
const TOTAL_MAX: usize = 65_535;

/// Who, to whom, which one, of what protocol.
pub(super) type Key = (IpAddr, IpAddr, u32, u8);

struct Partial {
    since: u64,
    parts: BTreeMap<usize, Vec<u8>>,
    /// How long it is, once the last part is there.
    total: Option<usize>,
    /// What was wrong of it is not to be completed.
    bad: bool,
}

/// Those that are not complete.
#[derive(Default)]
pub(super) struct Fragments(BTreeMap<Key, Partial>);

impl Fragments {
    /// Takes a part; the whole if it was the last one that was missing.
    pub fn put(&mut self, now: u64, key: Key, offset: usize, more: bool, bytes: &[u8]) -> Option<Vec<u8>> {
        let end = offset + bytes.len();
        if end > TOTAL_MAX || bytes.is_empty() || more && !bytes.len().is_multiple_of(8) {
            return None;
        }
        if !self.0.contains_key(&key) && self.0.len() >= PACKETS_MAX {
            let oldest = self.0.iter().min_by_key(|(_, p)| p.since).map(|(key, _)| *key);
            self.0.remove(&oldest?);
        }
        let empty = || Partial { since: now, parts: BTreeMap::new(), total: None, bad: false };
        let partial = self.0.entry(key).or_insert_with(empty);
        if partial.parts.get(&offset).is_some_and(|known| known.len() == bytes.len()) {
            return None; // the same again
        }
        let before = partial.parts.range(..=offset).next_back().map_or(0, |(at, p)| at + p.len());
        let overlaps = before > offset || partial.parts.range(offset..end).next().is_some();
        let beyond = partial.total.is_some_and(|total| end > total || !more && end != total);
        partial.bad |= overlaps || beyond || partial.parts.len() >= PARTS_MAX;
        if partial.bad {
            partial.parts.clear();
            return None;
        }
        let mut own = Vec::new();
        own.try_reserve_exact(bytes.len()).ok()?;
        own.extend_from_slice(bytes);
        partial.parts.insert(offset, own);
        if !more {
            partial.total = Some(end);
        }
        let there: usize = partial.parts.values().map(Vec::len).sum();
        if partial.total != Some(there) {
            return None;
        }
        let partial = self.0.remove(&key)?;
        let mut whole = Vec::new();
        whole.try_reserve_exact(there).ok()?;
        partial.parts.values().for_each(|part| whole.extend_from_slice(part));
        Some(whole)
    }

    /// Forgets the old ones; whether there are others.
    pub fn tidy(&mut self, now: u64) -> bool {
        self.0.retain(|_, p| now.saturating_sub(p.since) < PATIENCE);
        !self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u32) -> Key {
        ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap(), n, 17)
    }

    #[test]
    fn parts_in_any_order_are_a_whole() {
        let mut f = Fragments::default();
        assert_eq!(f.put(0, key(1), 8, true, &[2; 8]), None);
        assert_eq!(f.put(0, key(1), 16, false, &[3; 3]), None);
        assert_eq!(f.put(0, key(1), 16, false, &[3; 3]), None);
        let whole = f.put(0, key(1), 0, true, &[1; 8]).unwrap();
        assert_eq!(whole, [&[1; 8][..], &[2; 8], &[3; 3]].concat());
        assert!(!f.tidy(0));
    }

    #[test]
    fn overlaps_and_too_many_are_dropped() {
        let mut f = Fragments::default();
        f.put(0, key(1), 0, true, &[1; 16]);
        assert_eq!(f.put(0, key(1), 8, false, &[2; 20]), None);
        assert_eq!(f.put(0, key(1), 16, false, &[2; 20]), None);
        for n in 0..100 {
            assert_eq!(f.put(n.into(), key(n), 0, true, &[1; 8]), None);
        }
        assert_eq!(f.0.len(), PACKETS_MAX);
        assert_eq!(f.put(0, key(99), 65_528, true, &[1; 8]), None);
        assert!(!f.tidy(PATIENCE + 100));
    }
}
