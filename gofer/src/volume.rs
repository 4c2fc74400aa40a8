//! What is shared: a directory or file of the host, and how its owners look inside.

use std::os::fd::OwnedFd;

use ringfence_protocol::Cache;
use serde::{Deserialize, Serialize};

/// The id that stands for all that are not mapped (`/proc/sys/kernel/overflowuid`).
pub const NOBODY: u32 = 65534;

/// A range of ids: `count` from `inside` on are `count` from `outside` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdRange {
    /// First id inside the sandbox.
    pub inside: u32,
    /// First id on the host.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// A mapping of user or of group ids, the first range that fits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMap(pub Vec<IdRange>);

impl IdMap {
    /// Every id is itself.
    pub fn identity() -> Self {
        Self(vec![IdRange { inside: 0, outside: 0, count: u32::MAX }])
    }

    /// Root inside is `id` on the host; nobody else is mapped.
    pub fn root_is(id: u32) -> Self {
        Self(vec![IdRange { inside: 0, outside: id, count: 1 }])
    }

    fn map(&self, id: u32, ends: impl Fn(&IdRange) -> (u32, u32)) -> Option<u32> {
        self.0.iter().find_map(|range| {
            let (from, to) = ends(range);
            let within = id.checked_sub(from)?;
            if within < range.count { to.checked_add(within) } else { None }
        })
    }

    /// The host's id of one inside.
    pub fn outside(&self, inside: u32) -> Option<u32> {
        self.map(inside, |range| (range.inside, range.outside))
    }

    /// What a host's id looks like inside.
    pub fn inside(&self, outside: u32) -> u32 {
        self.map(outside, |range| (range.outside, range.inside)).unwrap_or(NOBODY)
    }
}

/// What is to be shared. `F` is a descriptor: open, or its number in the process that gets this.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume<F = OwnedFd> {
    /// The directory or file.
    pub root: F,
    /// Nothing of it may be changed.
    pub read_only: bool,
    /// User ids.
    pub users: IdMap,
    /// Group ids.
    pub groups: IdMap,
    /// How long the guest may believe what it was told (README, "Coherence"). Our own guest kernel knows its mode by itself;
    /// this is for others.
    pub cache: Cache,
}

impl<F> Volume<F> {
    /// The same with another descriptor.
    pub fn with<G>(self, root: impl FnOnce(F) -> G) -> Volume<G> {
        let Self { root: old, read_only, users, groups, cache } = self;
        Volume { root: root(old), read_only, users, groups, cache }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_mapped_both_ways() {
        let map = IdMap(vec![
            IdRange { inside: 0, outside: 1000, count: 1 },
            IdRange { inside: 1, outside: 100_000, count: 65_535 },
        ]);
        assert_eq!((map.outside(0), map.outside(1), map.outside(65_536)), (Some(1000), Some(100_000), None));
        assert_eq!((map.inside(1000), map.inside(100_001), map.inside(0)), (0, 2, NOBODY));
        assert_eq!(IdMap::identity().outside(65_534), Some(65_534));
        let wraps = IdMap(vec![IdRange { inside: 0, outside: u32::MAX, count: 9 }]);
        assert_eq!(wraps.outside(1), None);
    }
}
