//! Propagation of mounts (mount_namespaces(7), Documentation/filesystems/sharedsubtree.rst).
//!
//! What Linux does: a *shared* mount belongs to a peer group; what is mounted or unmounted on one peer is on all. A *slave*
//! has a master, a peer group: what happens there happens here, not the other way. A mount can be both. A *private* one is
//! neither, an *unbindable* one is private and cannot be bound. Binding a mount makes the copy a peer (and a slave of the
//! same master); so does copying a namespace, except into a user namespace of less privilege, where shared ones become
//! slaves of the originals. What arrives by propagation is a peer of its original on a peer, a slave of it on a slave.
//!
//! Here a group is a number with lists of its members and of its slaves; a mount knows the numbers ([`Kin`]). A group of
//! which the last member goes leaves its slaves to that one's master, or to nobody. Numbers are used again, the lowest first,
//! as on Linux: `/proc/PID/mountinfo` shows them.
//!
//! Lists hold weak references, from which a mount goes when it is unmounted or dropped.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Weak},
    vec::Vec,
};

use super::{Mount, MountNamespace};
use crate::{
    fs::{Dentry, Path},
    sync::SpinLock,
};

/// How a mount is related to others; 0 is no group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kin {
    /// Its peer group.
    pub group: u32,
    /// The group it is a slave of.
    pub master: u32,
    /// It cannot be bound.
    pub unbindable: bool,
}

/// What `mount --make-*` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// `MS_SHARED`.
    Shared,
    /// `MS_SLAVE`.
    Slave,
    /// `MS_PRIVATE`.
    Private,
    /// `MS_UNBINDABLE`.
    Unbindable,
}

/// How a copy is related to its original.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Copy {
    /// A peer, and slave of the same master.
    Peer,
    /// A slave; with `shared` in a group of its own.
    Slave { shared: bool },
    /// A slave of what is shared, a peer otherwise: into a namespace of less privilege.
    Lesser,
}

#[derive(Default)]
struct Group {
    members: Vec<Weak<Mount>>,
    slaves: Vec<Weak<Mount>>,
}

type Groups = BTreeMap<u32, Group>;

static GROUPS: SpinLock<Groups> = SpinLock::new(BTreeMap::new());

fn remove(list: &mut Vec<Weak<Mount>>, mount: &Mount) {
    list.retain(|m| !core::ptr::eq(m.as_ptr(), mount));
}

fn is_empty(list: &[Weak<Mount>]) -> bool {
    list.iter().all(|m| m.strong_count() == 0)
}

fn share(groups: &mut Groups, mount: &Arc<Mount>) {
    let mut kin = mount.kin.lock();
    kin.unbindable = false;
    if kin.group == 0 {
        let free = (1..).zip(groups.keys()).find(|(n, used)| n != *used).map(|(n, _)| n);
        kin.group = free.unwrap_or(groups.len() as u32 + 1);
        groups.entry(kin.group).or_default().members.push(Arc::downgrade(mount));
    }
}

fn set_master(groups: &mut Groups, mount: &Arc<Mount>, master: u32) {
    let old = core::mem::replace(&mut mount.kin.lock().master, master);
    if let Some(group) = groups.get_mut(&old) {
        remove(&mut group.slaves, mount);
    }
    if let Some(group) = groups.get_mut(&master) {
        group.slaves.push(Arc::downgrade(mount));
    }
}

/// Leaves the group. True: others are in it still. If not, its slaves, which are answered, become those of the master.
fn leave(groups: &mut Groups, mount: &Mount) -> (bool, Vec<Arc<Mount>>) {
    let Kin { group: id, master, .. } = mount.kin();
    mount.kin.lock().group = 0;
    let Some(group) = groups.get_mut(&id) else { return (false, Vec::new()) };
    remove(&mut group.members, mount);
    if !is_empty(&group.members) {
        return (true, Vec::new());
    }
    let slaves: Vec<Arc<Mount>> = group.slaves.iter().filter_map(Weak::upgrade).collect();
    groups.remove(&id);
    slaves.iter().for_each(|slave| set_master(groups, slave, master));
    (false, slaves)
}

/// A mount is dropped.
pub(super) fn forget(mount: &Mount) {
    let kin = mount.kin();
    if kin.group == 0 && kin.master == 0 {
        return;
    }
    let mut groups = GROUPS.lock();
    let (_, held) = leave(&mut groups, mount);
    if let Some(group) = groups.get_mut(&kin.master) {
        remove(&mut group.slaves, mount);
    }
    drop(groups);
    drop(held); // mounts are dropped outside the lock
}

/// Changes the type of a mount.
pub(super) fn change(mount: &Arc<Mount>, to: Type) {
    let mut groups = GROUPS.lock();
    if to == Type::Shared {
        return share(&mut groups, mount);
    }
    let group = mount.kin().group;
    let (lives, held) = leave(&mut groups, mount);
    if lives {
        set_master(&mut groups, mount, group);
    }
    if to != Type::Slave {
        set_master(&mut groups, mount, 0);
        mount.kin.lock().unbindable = to == Type::Unbindable;
    }
    drop(groups);
    drop(held); // mounts are dropped outside the lock
}

/// Makes `copy`, new and of no group, what it is to be of `original`.
pub(super) fn inherit(copy: &Arc<Mount>, original: &Mount, how: Copy) {
    let mut groups = GROUPS.lock();
    let from = original.kin();
    copy.kin.lock().unbindable = from.unbindable;
    let slave = match how {
        Copy::Peer => false,
        Copy::Slave { .. } => true,
        Copy::Lesser => from.group != 0,
    };
    if slave {
        set_master(&mut groups, copy, from.group);
    } else {
        if let Some(group) = groups.get_mut(&from.group) {
            group.members.push(Arc::downgrade(copy));
            copy.kin.lock().group = from.group;
        }
        set_master(&mut groups, copy, from.master);
    }
    if how == (Copy::Slave { shared: true }) {
        share(&mut groups, copy);
    }
}

fn members(group: u32) -> Vec<Arc<Mount>> {
    let groups = GROUPS.lock();
    groups.get(&group).map_or(Vec::new(), |g| g.members.iter().filter_map(Weak::upgrade).collect())
}

fn slaves(group: u32) -> Vec<Arc<Mount>> {
    let groups = GROUPS.lock();
    groups.get(&group).map_or(Vec::new(), |g| g.slaves.iter().filter_map(Weak::upgrade).collect())
}

/// All mounts that hear of a change on a mount of `group`, its members first; each once.
pub(super) fn hearers(group: u32) -> Vec<Arc<Mount>> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::from([group]);
    let mut todo = alloc::vec![group];
    while let Some(group) = todo.pop() {
        found.extend(members(group));
        for slave in slaves(group) {
            match slave.kin().group {
                0 => found.push(slave),
                own if seen.insert(own) => todo.push(own),
                _ => {}
            }
        }
    }
    found
}

/// A mount and those below it, parents first: each with the index of its parent and the dentry it is on.
pub(super) type Tree = Vec<(Arc<Mount>, Option<(usize, Arc<Dentry>)>)>;

pub(super) fn copy_tree(tree: &Tree, how: Copy) -> Tree {
    let copy = |(mount, place): &(Arc<Mount>, Option<(usize, Arc<Dentry>)>)| {
        let new = mount.duplicate(mount.root());
        new.set_pinned(mount.is_pinned());
        inherit(&new, mount, how);
        (new, place.clone())
    };
    tree.iter().map(copy).collect()
}

/// Where `tree`, about to be mounted on `place` of a shared mount, has to be mounted as well, and what there.
pub(super) fn plan(tree: &Tree, place: &Path) -> Vec<(Arc<Mount>, Tree)> {
    let group = place.mount().kin().group;
    let mut plan = Plan { dentry: place.dentry(), seen: BTreeSet::from([group]), copies: Vec::new() };
    for peer in members(group) {
        if !Arc::ptr_eq(&peer, place.mount()) && plan.covers(&peer) {
            plan.copies.push((peer, copy_tree(tree, Copy::Peer)));
        }
    }
    plan.slaves(group, tree);
    plan.copies
}

struct Plan<'a> {
    dentry: &'a Arc<Dentry>,
    seen: BTreeSet<u32>,
    copies: Vec<(Arc<Mount>, Tree)>,
}

impl Plan<'_> {
    /// Whether the place is on this mount, and that in a namespace.
    fn covers(&self, mount: &Mount) -> bool {
        self.dentry.is_below(mount.root()) && mount.namespace().is_some()
    }

    /// For the slaves of `group`, where `tree` is mounted. Chains of groups are as long as somebody has made them, so this
    /// does not call itself.
    fn slaves(&mut self, group: u32, tree: &Tree) {
        let mut todo: Vec<(u32, Option<usize>)> = alloc::vec![(group, None)];
        while let Some((group, at)) = todo.pop() {
            for slave in slaves(group) {
                let own = slave.kin().group;
                if own == 0 {
                    if self.covers(&slave) {
                        let copy = self.copy(tree, at, Copy::Slave { shared: false });
                        self.copies.push((slave, copy));
                    }
                    continue;
                }
                if !self.seen.insert(own) {
                    continue;
                }
                let mut first = None;
                for member in members(own).into_iter().filter(|m| self.covers(m)).collect::<Vec<_>>() {
                    let copy = match first {
                        None => self.copy(tree, at, Copy::Slave { shared: true }),
                        Some(_) => self.copy(tree, first, Copy::Peer),
                    };
                    first = first.or(Some(self.copies.len()));
                    self.copies.push((member, copy));
                }
                todo.push((own, first.or(at)));
            }
        }
    }

    /// A copy of the copy with index `at`, or of the original.
    fn copy(&self, tree: &Tree, at: Option<usize>, how: Copy) -> Tree {
        let from = at.and_then(|at| self.copies.get(at)).map_or(tree, |(_, copy)| copy);
        copy_tree(from, how)
    }
}

/// The nearest group up the masters of `mount` that has a mount somebody with `root` can reach; `propagate_from` in
/// `mountinfo`, if it is not the master itself.
pub fn source_within(mount: &Mount, namespace: &MountNamespace, root: &Path) -> Option<u32> {
    let master = mount.kin().master;
    let mut at = master;
    let mut seen = BTreeSet::new();
    while at != 0 && seen.insert(at) {
        let peers = members(at);
        let reached = |m: &Arc<Mount>| {
            m.is_in(namespace) && Path::new(m.clone(), m.root().clone()).is_reached_from(root)
        };
        if peers.iter().any(reached) {
            return (at != master).then_some(at);
        }
        at = peers.first().map_or(0, |m| m.kin().master);
    }
    None
}
