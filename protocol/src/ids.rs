//! Maps of user and of group ids: of what a host directory holds, and of a container's user namespace.

use alloc::{format, string::String, vec, vec::Vec};
use serde::{Deserialize, Serialize};

/// The id that stands for all that are not mapped (`/proc/sys/kernel/overflowuid`).
pub const NOBODY: u32 = 65534;
/// Ranges of a container's map (Linux: lines of `/proc/PID/uid_map`).
pub const RANGES_MAX: usize = 340;

/// A range of ids: `count` from `inside` on are `count` from `outside` on. What the two sides are is said where a map is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdRange {
    /// First id inside.
    pub inside: u32,
    /// First id outside.
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

    /// Root inside is `id` outside; nobody else is mapped.
    pub fn root_is(id: u32) -> Self {
        Self(vec![IdRange { inside: 0, outside: id, count: 1 }])
    }

    /// Whether nothing was said.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn map(&self, id: u32, ends: impl Fn(&IdRange) -> (u32, u32)) -> Option<u32> {
        self.0.iter().find_map(|range| {
            let (from, to) = ends(range);
            let within = id.checked_sub(from)?;
            if within < range.count { to.checked_add(within) } else { None }
        })
    }

    /// The id outside of one inside.
    pub fn outside(&self, inside: u32) -> Option<u32> {
        self.map(inside, |range| (range.inside, range.outside))
    }

    /// What an id outside looks like inside.
    pub fn inside(&self, outside: u32) -> u32 {
        self.map(outside, |range| (range.outside, range.inside)).unwrap_or(NOBODY)
    }

    /// Says what is wrong with it as the map called `name` of a user namespace: that has at least one range; none is empty or
    /// goes on after the last id, 4294967294; and no id is in two of them, on either side.
    pub fn check(&self, name: &str) -> Result<(), String> {
        let written = |r: &IdRange| format!("{}:{}:{}", r.inside, r.outside, r.count);
        let crosses = |a: u32, m: u32, b: u32, n: u32| {
            u64::from(a) < u64::from(b) + u64::from(n) && u64::from(b) < u64::from(a) + u64::from(m)
        };
        if self.is_empty() {
            return Err(format!(
                "{name} is empty: a user namespace needs a map of user and one of group ids"
            ));
        }
        if self.0.len() > RANGES_MAX {
            return Err(format!("{name} has {} ranges, more than {RANGES_MAX}", self.0.len()));
        }
        for (i, range) in self.0.iter().enumerate() {
            if range.count == 0 {
                return Err(format!("{name}: range {} has no ids: its count is 0", written(range)));
            }
            let ends = |start: u32| start < u32::MAX && start.checked_add(range.count).is_some();
            if !ends(range.inside) || !ends(range.outside) {
                return Err(format!("{name}: range {} goes beyond the last id, 4294967294", written(range)));
            }
            let overlaps = |other: &&IdRange| {
                crosses(range.inside, range.count, other.inside, other.count)
                    || crosses(range.outside, range.count, other.outside, other.count)
            };
            if let Some(other) = self.0.iter().take(i).find(overlaps) {
                return Err(format!("{name}: ranges {} and {} overlap", written(other), written(range)));
            }
        }
        Ok(())
    }
}

/// Says what is wrong with the maps of a container; that it has none is right, too.
pub fn check_maps(users: &IdMap, groups: &IdMap) -> Result<(), String> {
    if users.is_empty() && groups.is_empty() {
        return Ok(());
    }
    users.check("uid_map")?;
    groups.check("gid_map")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(ranges: &[(u32, u32, u32)]) -> IdMap {
        IdMap(ranges.iter().map(|&(inside, outside, count)| IdRange { inside, outside, count }).collect())
    }

    #[test]
    fn ids_are_mapped_both_ways() {
        let map = map(&[(0, 1000, 1), (1, 100_000, 65_535)]);
        assert_eq!((map.outside(0), map.outside(1), map.outside(65_536)), (Some(1000), Some(100_000), None));
        assert_eq!((map.inside(1000), map.inside(100_001), map.inside(0)), (0, 2, NOBODY));
        assert_eq!(IdMap::identity().outside(65_534), Some(65_534));
        let wraps = IdMap(vec![IdRange { inside: 0, outside: u32::MAX, count: 9 }]);
        assert_eq!(wraps.outside(1), None);
    }

    #[test]
    fn maps_of_a_user_namespace_are_checked() {
        let good = map(&[(0, 100_000, 1000), (1000, 5, 1), (2000, 0, 5)]);
        assert_eq!((good.check("m"), IdMap::identity().check("m")), (Ok(()), Ok(())));
        let says = |ranges: &[(u32, u32, u32)]| map(ranges).check("m").unwrap_err();
        assert!(says(&[]).contains("empty"));
        assert!(says(&[(0, 0, 0)]).contains("count is 0"));
        for beyond in [(u32::MAX, 0, 1), (0, u32::MAX, 1), (u32::MAX - 5, 0, 6), (0, 10, u32::MAX)] {
            assert!(says(&[beyond]).contains("beyond"), "{beyond:?}");
        }
        assert_eq!(says(&[(0, 0, 5), (4, 10, 1)]), "m: ranges 0:0:5 and 4:10:1 overlap");
        assert!(says(&[(0, 0, 5), (7, 4, 1)]).contains("overlap"));
        let many: Vec<_> = (0..341).map(|n| (n, n, 1)).collect();
        assert!(says(&many).contains("341 ranges"));
        assert_eq!(map(&many[..340]).check("m"), Ok(()));
    }

    #[test]
    fn both_maps_are_given_or_none() {
        let (some, none) = (IdMap::root_is(1), IdMap::default());
        assert_eq!((check_maps(&none, &none), check_maps(&some, &some)), (Ok(()), Ok(())));
        assert!(check_maps(&some, &none).unwrap_err().starts_with("gid_map is empty"));
        assert!(check_maps(&none, &some).unwrap_err().starts_with("uid_map is empty"));
    }
}
