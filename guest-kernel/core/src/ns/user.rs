//! User namespaces: which ids mean which, and where capabilities count (user_namespaces(7)).
//!
//! Inside the kernel an id is always the number it has in the first namespace (Linux: `kuid_t`). A namespace
//! maps ranges of its own numbers to those; what a system call takes is translated on the way in
//! ([`UserNamespace::to_kernel`]), what it shows on the way out ([`UserNamespace::from_kernel`]), where an id
//! without a number becomes 65534. The first namespace maps everything to itself, so for its tasks neither
//! costs more than a comparison.
//!
//! Maps are written once, through `/proc/PID/{uid,gid}_map`. That of a container which was asked for with maps has them from
//! the beginning ([`UserNamespace::for_container`]).

use alloc::{sync::Arc, vec::Vec};
use core::{
    fmt,
    sync::atomic::{AtomicBool, Ordering},
};

use ringfence_protocol::{IdMap, IdRange};

use super::next_id;
use crate::{
    errno::{Errno, Result},
    sync::{Once, SpinLock},
    task::{Capabilities, Credentials},
};

/// What an id without a number in a namespace shows as (`/proc/sys/kernel/overflowuid`).
pub const OVERFLOW_ID: u32 = 65534;
/// How deep user namespaces may be nested.
const LEVEL_MAX: u32 = 32;
/// Lines of a map.
const EXTENTS_MAX: usize = ringfence_protocol::ids::RANGES_MAX;

/// Whether there ever was a second one.
static MADE: AtomicBool = AtomicBool::new(false);

/// Users or groups.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IdKind {
    /// User ids.
    User,
    /// Group ids.
    Group,
}

/// A range: numbers of the namespace, and what they are in the first namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// First number in the namespace.
    pub first: u32,
    /// First number in the kernel; in a map as written, in the parent namespace.
    pub lower: u32,
    /// How many.
    pub count: u32,
}

impl Extent {
    fn overlaps(&self, other: &Extent) -> bool {
        let crosses = |a: u32, b: u32| {
            u64::from(a) < u64::from(b) + u64::from(other.count)
                && u64::from(b) < u64::from(a) + u64::from(self.count)
        };
        crosses(self.first, other.first) || crosses(self.lower, other.lower)
    }
}

/// Finds `id` among ranges that begin at `from` and gives what it is from `to`.
fn translate(map: &[Extent], id: u32, from: fn(&Extent) -> u32, to: fn(&Extent) -> u32) -> Option<u32> {
    let extent = map.iter().find(|e| id.checked_sub(from(e)).is_some_and(|n| n < e.count))?;
    Some(to(extent) + (id - from(extent)))
}

/// A user namespace.
pub struct UserNamespace {
    id: u64,
    parent: Option<Arc<UserNamespace>>,
    level: u32,
    /// Who made it (kernel ids).
    owner: (u32, u32),
    users: Once<Vec<Extent>>,
    groups: Once<Vec<Extent>>,
    setgroups: AtomicBool,
    /// Whether its maker had `CAP_SETFCAP`: only then may it map the parent's user 0 itself.
    maker_could_setfcap: bool,
    writing: SpinLock<()>,
}

impl UserNamespace {
    /// The first one.
    pub fn initial() -> &'static Arc<UserNamespace> {
        static INITIAL: Once<Arc<UserNamespace>> = Once::new();
        INITIAL.call_once(|| {
            Arc::new(UserNamespace {
                id: 0xefff_fffd,
                parent: None,
                level: 0,
                owner: (0, 0),
                users: Once::new(),
                groups: Once::new(),
                setgroups: AtomicBool::new(true),
                maker_could_setfcap: true,
                writing: SpinLock::new(()),
            })
        })
    }

    /// A child of the maker's namespace with empty maps. `ENOSPC` too deep; `EPERM` if the maker has no
    /// number in its own namespace.
    pub fn create(maker: &Credentials) -> Result<Arc<UserNamespace>> {
        let parent = &maker.user_ns;
        MADE.store(true, Ordering::Relaxed);
        if parent.level >= LEVEL_MAX {
            return Err(Errno::ENOSPC);
        }
        parent.from_kernel(IdKind::User, maker.euid).ok_or(Errno::EPERM)?;
        parent.from_kernel(IdKind::Group, maker.egid).ok_or(Errno::EPERM)?;
        Ok(Arc::new(UserNamespace {
            id: next_id(),
            parent: Some(parent.clone()),
            level: parent.level + 1,
            owner: (maker.euid, maker.egid),
            users: Once::new(),
            groups: Once::new(),
            setgroups: AtomicBool::new(parent.setgroups_allowed()),
            maker_could_setfcap: maker.effective.contains(Capabilities::SETFCAP),
            writing: SpinLock::new(()),
        }))
    }

    /// The namespace of a container: below the first, of whose numbers the maps speak, and made by its root. `EINVAL`.
    pub fn for_container(users: &IdMap, groups: &IdMap) -> Result<Arc<UserNamespace>> {
        let maker = Credentials::root();
        let ns = Self::create(&maker)?;
        for (kind, map) in [(IdKind::User, users), (IdKind::Group, groups)] {
            let extent = |r: &IdRange| Extent { first: r.inside, lower: r.outside, count: r.count };
            let map: Vec<Extent> = map.0.iter().take(EXTENTS_MAX + 1).map(extent).collect();
            ns.write_map(kind, &map, &maker)?;
        }
        Ok(ns)
    }

    /// Inode number in `/proc/PID/ns`.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The namespace it was made in; `None` for the first.
    pub fn parent(&self) -> Option<&Arc<UserNamespace>> {
        self.parent.as_ref()
    }

    /// The (kernel) user id of its maker.
    pub fn owner_uid(&self) -> u32 {
        self.owner.0
    }

    /// Whether any but the first was ever made: the machine has ids to translate only then.
    #[inline]
    pub fn any() -> bool {
        MADE.load(Ordering::Relaxed)
    }

    /// Whether it is the first one, where every id is itself.
    #[inline]
    pub fn is_initial(&self) -> bool {
        self.level == 0
    }

    /// Whether it is `ancestor` or below it.
    pub fn is_within(&self, ancestor: &UserNamespace) -> bool {
        let mut at = self;
        while at.level > ancestor.level {
            let Some(parent) = &at.parent else { return false };
            at = parent;
        }
        at.id == ancestor.id
    }

    /// Whether `credentials` have capability `c` here (`cap_capable`): held in this namespace or in one above
    /// it; and the maker of a namespace has all in it.
    pub fn grants(&self, credentials: &Credentials, c: Capabilities) -> bool {
        let home = &credentials.user_ns;
        let mut at = self;
        loop {
            if at.id == home.id {
                return credentials.effective.contains(c);
            }
            if at.level <= home.level {
                return false;
            }
            let Some(parent) = &at.parent else { return false };
            if parent.id == home.id && at.owner.0 == credentials.euid {
                return true;
            }
            at = parent;
        }
    }

    fn map(&self, kind: IdKind) -> &Once<Vec<Extent>> {
        match kind {
            IdKind::User => &self.users,
            IdKind::Group => &self.groups,
        }
    }

    /// The kernel's id for `id` of this namespace (`make_kuid`).
    pub fn to_kernel(&self, kind: IdKind, id: u32) -> Option<u32> {
        if id == u32::MAX {
            return None;
        }
        if self.is_initial() {
            return Some(id);
        }
        translate(self.map(kind).get()?, id, |e| e.first, |e| e.lower)
    }

    /// The number here of the kernel's `id` (`from_kuid`).
    pub fn from_kernel(&self, kind: IdKind, id: u32) -> Option<u32> {
        if self.is_initial() {
            return Some(id);
        }
        translate(self.map(kind).get()?, id, |e| e.lower, |e| e.first)
    }

    /// The number here of user `id`, 65534 if it has none.
    #[inline]
    pub fn show_uid(&self, id: u32) -> u32 {
        if self.is_initial() { id } else { self.from_kernel(IdKind::User, id).unwrap_or(OVERFLOW_ID) }
    }

    /// The number here of group `id`, 65534 if it has none.
    #[inline]
    pub fn show_gid(&self, id: u32) -> u32 {
        if self.is_initial() { id } else { self.from_kernel(IdKind::Group, id).unwrap_or(OVERFLOW_ID) }
    }

    /// The kernel's ids of a file of which an image says these; 65534 for what has no number here.
    #[inline]
    pub fn of_image(&self, uid: u32, gid: u32) -> (u32, u32) {
        let kernel = |kind, id| self.to_kernel(kind, id).unwrap_or(OVERFLOW_ID);
        if self.is_initial() { (uid, gid) } else { (kernel(IdKind::User, uid), kernel(IdKind::Group, gid)) }
    }

    /// Whether both ids of a file have a number here: only then do capabilities of this namespace count for it.
    pub fn maps_both(&self, uid: u32, gid: u32) -> bool {
        self.is_initial()
            || (self.from_kernel(IdKind::User, uid).is_some()
                && self.from_kernel(IdKind::Group, gid).is_some())
    }

    /// The map as seen from `viewer`: of each range its start here, its start there (`u32::MAX` if it has
    /// none), and its length.
    pub fn shown_map(&self, kind: IdKind, viewer: &UserNamespace) -> Vec<Extent> {
        // What somebody inside sees is relative to the parent.
        let to = match &self.parent {
            Some(parent) if viewer.id == self.id => parent,
            _ => viewer,
        };
        let identity = [Extent { first: 0, lower: 0, count: u32::MAX }];
        let map: &[Extent] = if self.is_initial() {
            &identity
        } else {
            self.map(kind).get().map(|m| m.as_slice()).unwrap_or_default()
        };
        map.iter()
            .map(|e| Extent { lower: to.from_kernel(kind, e.lower).unwrap_or(u32::MAX), ..*e })
            .collect()
    }

    /// Whether `setgroups` may be called here at all.
    pub fn setgroups_allowed(&self) -> bool {
        self.setgroups.load(Ordering::Acquire)
    }

    /// Whether a call of `setgroups` may pass: allowed, and the group map is there.
    pub fn may_setgroups(&self) -> bool {
        self.is_initial() || (self.setgroups_allowed() && self.groups.get().is_some())
    }

    /// `/proc/PID/setgroups`. `EPERM` to deny after the group map was written, and to allow what was denied.
    pub fn set_setgroups(&self, allow: bool) -> Result<()> {
        let _one = self.writing.lock();
        if allow {
            return if self.setgroups_allowed() { Ok(()) } else { Err(Errno::EPERM) };
        }
        if self.is_initial() || self.groups.get().is_some() {
            return Err(Errno::EPERM);
        }
        self.setgroups.store(false, Ordering::Release);
        Ok(())
    }

    /// Writes a map, of which `lower` counts in the parent namespace. `writer` may if it has `CAP_SETUID` (or
    /// `CAP_SETGID`) in the parent, or if it made the namespace and maps just itself. `EPERM`, `EINVAL`.
    pub fn write_map(&self, kind: IdKind, map: &[Extent], writer: &Credentials) -> Result<()> {
        let parent = self.parent.as_ref().ok_or(Errno::EPERM)?;
        if writer.user_ns.id != self.id && writer.user_ns.id != parent.id {
            return Err(Errno::EPERM);
        }
        if self.map(kind).get().is_some() || !self.grants(writer, Capabilities::SYS_ADMIN) {
            return Err(Errno::EPERM);
        }
        check_shape(map)?;
        self.check_permitted(kind, map, writer, parent)?;
        let mut lowered = Vec::with_capacity(map.len());
        for e in map {
            let lower = parent.to_kernel(kind, e.lower).ok_or(Errno::EPERM)?;
            // The whole range has to lie in one range of the parent.
            let last = parent.to_kernel(kind, e.lower + (e.count - 1)).ok_or(Errno::EPERM)?;
            if last.checked_sub(lower) != Some(e.count - 1) {
                return Err(Errno::EPERM);
            }
            lowered.push(Extent { lower, ..*e });
        }
        let _one = self.writing.lock();
        if self.map(kind).get().is_some() {
            return Err(Errno::EPERM);
        }
        self.map(kind).call_once(|| lowered);
        Ok(())
    }

    fn check_permitted(
        &self,
        kind: IdKind,
        map: &[Extent],
        writer: &Credentials,
        parent: &Arc<UserNamespace>,
    ) -> Result<()> {
        let maps_root = kind == IdKind::User && map.iter().any(|e| e.lower == 0);
        let may_map_root = if writer.user_ns.id == self.id {
            self.maker_could_setfcap
        } else {
            parent.grants(writer, Capabilities::SETFCAP)
        };
        if maps_root && !may_map_root {
            return Err(Errno::EPERM);
        }
        if let [e] = map
            && e.count == 1
            && writer.euid == self.owner.0
        {
            let id = parent.to_kernel(kind, e.lower);
            let itself = match kind {
                IdKind::User => id == Some(writer.euid),
                IdKind::Group => !self.setgroups_allowed() && id == Some(writer.egid),
            };
            if itself {
                return Ok(());
            }
        }
        let needed = match kind {
            IdKind::User => Capabilities::SETUID,
            IdKind::Group => Capabilities::SETGID,
        };
        if parent.grants(writer, needed) { Ok(()) } else { Err(Errno::EPERM) }
    }
}

/// Ranges that are not empty, do not wrap and do not overlap; at least one.
fn check_shape(map: &[Extent]) -> Result<()> {
    if map.is_empty() || map.len() > EXTENTS_MAX {
        return Err(Errno::EINVAL);
    }
    for (i, e) in map.iter().enumerate() {
        let wraps = |start: u32| start == u32::MAX || start.checked_add(e.count).is_none();
        if e.count == 0 || wraps(e.first) || wraps(e.lower) {
            return Err(Errno::EINVAL);
        }
        if map.iter().take(i).any(|other| e.overlaps(other)) {
            return Err(Errno::EINVAL);
        }
    }
    Ok(())
}

/// Reads the lines of a map file. `EINVAL`.
pub fn parse_map(text: &[u8]) -> Result<Vec<Extent>> {
    let text = core::str::from_utf8(text).map_err(|_| Errno::EINVAL)?;
    let mut map = Vec::new();
    for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
        let mut numbers = line.split_ascii_whitespace().map(|n| n.parse::<u32>().map_err(|_| Errno::EINVAL));
        let mut next = || numbers.next().unwrap_or(Err(Errno::EINVAL));
        let extent = Extent { first: next()?, lower: next()?, count: next()? };
        if numbers.next().is_some() || map.len() >= EXTENTS_MAX {
            return Err(Errno::EINVAL);
        }
        map.push(extent);
    }
    Ok(map)
}

impl PartialEq for UserNamespace {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for UserNamespace {}

impl fmt::Debug for UserNamespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "user:[{}]", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(uid: u32) -> Credentials {
        Credentials::user(uid, uid, Vec::new())
    }

    /// What `unshare(CLONE_NEWUSER)` makes of `c`.
    fn enter(c: &Credentials) -> Credentials {
        let user_ns = UserNamespace::create(c).unwrap();
        Credentials { user_ns, effective: Capabilities::all(), permitted: Capabilities::all(), ..c.clone() }
    }

    #[test]
    fn maps_translate_both_ways() {
        let inside = enter(&Credentials::root());
        let ns = &inside.user_ns;
        assert_eq!(ns.show_uid(0), OVERFLOW_ID, "nothing is mapped yet");
        let map = parse_map(b"0 100000 1000\n      1000 5 1\n").unwrap();
        ns.write_map(IdKind::User, &map, &Credentials::root()).unwrap();
        assert_eq!(ns.to_kernel(IdKind::User, 7), Some(100_007));
        assert_eq!(ns.to_kernel(IdKind::User, 1000), Some(5));
        assert_eq!(ns.to_kernel(IdKind::User, 1001), None);
        assert_eq!((ns.show_uid(100_999), ns.show_uid(5), ns.show_uid(0)), (999, 1000, OVERFLOW_ID));
        let again = ns.write_map(IdKind::User, &map, &Credentials::root());
        assert_eq!(again, Err(Errno::EPERM), "maps are written once");
    }

    #[test]
    fn a_nested_map_goes_through_its_parent() {
        let outer = enter(&Credentials::root());
        let map = parse_map(b"0 1000 100").unwrap();
        outer.user_ns.write_map(IdKind::User, &map, &Credentials::root()).unwrap();
        let gids = parse_map(b"0 0 4294967295").unwrap();
        outer.user_ns.write_map(IdKind::Group, &gids, &Credentials::root()).unwrap();
        let mut root = outer.clone();
        (root.euid, root.uid) = (1000, 1000);
        let inner = enter(&root);
        let ns = &inner.user_ns;
        let too_long = parse_map(b"0 50 51").unwrap();
        assert_eq!(ns.write_map(IdKind::User, &too_long, &root), Err(Errno::EPERM));
        ns.write_map(IdKind::User, &parse_map(b"0 50 10").unwrap(), &root).unwrap();
        assert_eq!(ns.to_kernel(IdKind::User, 3), Some(1053));
        let shown = ns.shown_map(IdKind::User, ns);
        assert_eq!(shown, [Extent { first: 0, lower: 50, count: 10 }]);
        let from_top = ns.shown_map(IdKind::User, UserNamespace::initial());
        assert_eq!(from_top, [Extent { first: 0, lower: 1050, count: 10 }]);
    }

    #[test]
    fn an_ordinary_user_maps_itself_only_and_its_group_only_without_setgroups() {
        let ann = user(1000);
        let inside = enter(&ann);
        let ns = &inside.user_ns;
        let write = |kind, text: &[u8]| ns.write_map(kind, &parse_map(text).unwrap(), &inside);
        assert_eq!(write(IdKind::User, b"0 0 1"), Err(Errno::EPERM));
        assert_eq!(write(IdKind::User, b"0 1000 2"), Err(Errno::EPERM));
        assert_eq!(write(IdKind::User, b"0 1000 1"), Ok(()));
        assert_eq!(write(IdKind::Group, b"0 1000 1"), Err(Errno::EPERM), "setgroups is allowed still");
        ns.set_setgroups(false).unwrap();
        assert_eq!(write(IdKind::Group, b"0 1000 1"), Ok(()));
        assert_eq!(ns.set_setgroups(true), Err(Errno::EPERM));
    }

    #[test]
    fn capabilities_count_below_where_they_are_held() {
        let root = Credentials::root();
        let ann = user(1000);
        let inside = enter(&ann);
        let (top, below) = (UserNamespace::initial(), &inside.user_ns);
        let c = Capabilities::SYS_ADMIN;
        assert!(top.grants(&root, c) && below.grants(&root, c));
        assert!(below.grants(&inside, c) && !top.grants(&inside, c));
        assert!(below.grants(&ann, c), "the maker has all capabilities in what it made");
        assert!(!below.grants(&user(7), c));
        assert!(!inside.capable(c) && inside.capable_in(below, c));
        assert!(below.is_within(top) && !top.is_within(below));
    }

    #[test]
    fn a_container_has_its_maps_from_the_beginning() {
        let map = |ranges: &[(u32, u32, u32)]| {
            let range = |&(inside, outside, count): &_| IdRange { inside, outside, count };
            IdMap(ranges.iter().map(range).collect())
        };
        let ns =
            UserNamespace::for_container(&map(&[(0, 1000, 10), (10, 0, 1)]), &map(&[(0, 7, 1)])).unwrap();
        assert_eq!((ns.to_kernel(IdKind::User, 3), ns.to_kernel(IdKind::Group, 0)), (Some(1003), Some(7)));
        assert_eq!((ns.show_uid(0), ns.show_gid(0)), (10, OVERFLOW_ID));
        assert!(ns.may_setgroups() && ns.is_within(UserNamespace::initial()));
        let bad = UserNamespace::for_container(&map(&[(0, 0, 5), (4, 9, 1)]), &map(&[(0, 0, 1)]));
        assert_eq!(bad.err(), Some(Errno::EINVAL));
        assert_eq!(UserNamespace::for_container(&map(&[]), &map(&[])).err(), Some(Errno::EINVAL));
    }

    #[test]
    fn malformed_maps_are_refused() {
        for text in [&b""[..], b"1 2", b"1 2 3 4", b"a b c", b"0 0 1\n\n", b"-1 0 1"] {
            assert_eq!(parse_map(text), Err(Errno::EINVAL), "{text:?}");
        }
        for text in [&b"0 0 0"[..], b"4294967295 0 1", b"0 4294967290 10", b"0 0 5\n4 10 1", b"0 0 5\n7 4 1"]
        {
            assert_eq!(check_shape(&parse_map(text).unwrap()), Err(Errno::EINVAL), "{text:?}");
        }
    }
}
