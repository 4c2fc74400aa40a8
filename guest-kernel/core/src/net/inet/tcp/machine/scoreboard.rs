//! What the other host says it has beyond a gap (RFC 2018), and what is therefore lost (RFC 6675).

use alloc::vec::Vec;

/// Ranges that are remembered at most; what comes on top is not believed, and sent again at worst.
const RANGES_MAX: usize = 128;

/// Ranges of positions, in order and disjoint.
#[derive(Default)]
pub(super) struct Scoreboard {
    ranges: Vec<(u64, u64)>,
}

impl Scoreboard {
    pub fn clear(&mut self) {
        self.ranges.clear();
    }

    /// Notes a range; whether it says anything new.
    pub fn add(&mut self, from: u64, to: u64) -> bool {
        if from >= to || self.ranges.iter().any(|(a, b)| *a <= from && to <= *b) {
            return false;
        }
        let touches = |r: &(u64, u64)| r.0 <= to && from <= r.1;
        let (mut low, mut high) = (from, to);
        for (a, b) in self.ranges.iter().filter(|r| touches(r)) {
            (low, high) = (low.min(*a), high.max(*b));
        }
        self.ranges.retain(|r| !touches(r));
        if self.ranges.len() >= RANGES_MAX {
            return false;
        }
        let at = self.ranges.partition_point(|(a, _)| *a < low);
        self.ranges.insert(at, (low, high));
        true
    }

    /// Everything before `una` has arrived.
    pub fn acknowledge(&mut self, una: u64) {
        self.ranges.retain(|(_, b)| *b > una);
        if let Some(first) = self.ranges.first_mut() {
            first.0 = first.0.max(una);
        }
    }

    /// Bytes in `from..to` that have arrived.
    pub fn bytes(&self, from: u64, to: u64) -> u64 {
        self.ranges.iter().map(|(a, b)| (*b).min(to).saturating_sub((*a).max(from))).sum()
    }

    /// Below which position what has not arrived is lost: that much (`after` bytes) has arrived above it.
    pub fn lost_below(&self, after: u64) -> Option<u64> {
        let mut above = 0;
        for (a, b) in self.ranges.iter().rev() {
            above += b - a;
            if above >= after {
                return Some(*a);
            }
        }
        None
    }

    /// The first position from `from` on that has not arrived, and where the next that has begins.
    pub fn gap(&self, mut from: u64) -> (u64, u64) {
        for (a, b) in &self.ranges {
            if from < *a {
                return (from, *a);
            }
            from = from.max(*b);
        }
        (from, u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_joined_and_gaps_are_found() {
        let mut s = Scoreboard::default();
        assert!(s.add(100, 200) && s.add(300, 400) && !s.add(120, 180) && !s.add(5, 5));
        assert_eq!((s.gap(50), s.gap(100), s.gap(350)), ((50, 100), (200, 300), (400, u64::MAX)));
        assert_eq!((s.lost_below(100), s.lost_below(150), s.lost_below(201)), (Some(300), Some(100), None));
        assert!(s.add(200, 300));
        assert_eq!((s.bytes(0, 1000), s.bytes(150, 250)), (300, 100));
        s.acknowledge(250);
        assert_eq!((s.gap(250), s.bytes(0, 1000)), ((400, u64::MAX), 150));
        s.acknowledge(400);
        assert!(s.ranges.is_empty());
    }
}
