//! A mount namespace: mounting, binding, moving, unmounting, and the copy for `CLONE_NEWNS`.
//!
//! What is done on a shared mount is done on all that hear of it ([`super::propagation`]). What arrives where something is
//! mounted already goes below that.

use alloc::{
    sync::{Arc, Weak},
    vec::Vec,
};
use core::sync::atomic::Ordering;

use super::{
    FlagChange, Mount, MountFlags,
    propagation::{self, Copy, Tree, Type},
};
use crate::{
    errno::{Errno, Result},
    fs::{
        Path, moves,
        nsfs::{AnyNamespace, namespace_at},
        types::FileType,
    },
    ns::{self, UserNamespace},
    sync::{Mutex, SpinLock},
    task::{Capabilities, Credentials},
};

/// Held over every change of a tree of mounts.
static TREE: Mutex<()> = Mutex::new(());

/// Mounts one namespace may hold (`/proc/sys/fs/mount-max`).
const MOUNT_MAX: usize = 100_000;

/// A tree of mounts.
pub struct MountNamespace {
    id: u64,
    owner: Arc<UserNamespace>,
    me: Weak<MountNamespace>,
    /// It belongs to no task: mounts that are to be put somewhere.
    detached: bool,
    /// In the order of mounting; the first is the root.
    mounts: SpinLock<Vec<Arc<Mount>>>,
}

impl MountNamespace {
    /// A namespace with `root` as its root.
    pub fn new(root: Arc<Mount>, owner: &Arc<UserNamespace>) -> Arc<MountNamespace> {
        Self::owned(alloc::vec![root], owner)
    }

    fn owned(mounts: Vec<Arc<Mount>>, owner: &Arc<UserNamespace>) -> Arc<MountNamespace> {
        Self::of(mounts, owner, false)
    }

    /// A namespace of no task: `mounts`, the first of which is the root of the others, are to be put somewhere. Those that are
    /// not end with it.
    pub fn detached(mounts: Vec<Arc<Mount>>, owner: &Arc<UserNamespace>) -> Arc<MountNamespace> {
        Self::of(mounts, owner, true)
    }

    fn of(mounts: Vec<Arc<Mount>>, owner: &Arc<UserNamespace>, detached: bool) -> Arc<MountNamespace> {
        Arc::new_cyclic(|me| {
            mounts.iter().for_each(|mount| mount.set_namespace(me.clone()));
            let (id, owner, mounts) = (ns::next_id(), owner.clone(), SpinLock::new(mounts));
            MountNamespace { id, owner, me: me.clone(), detached, mounts }
        })
    }

    /// Inode number in `/proc/PID/ns`. A later one has a higher one.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whose capabilities count.
    pub fn owner(&self) -> &Arc<UserNamespace> {
        &self.owner
    }

    /// The root directory of the namespace: the root of whatever is mounted topmost on `/`.
    pub fn root(&self) -> Option<Path> {
        let mount = self.mounts.lock().first().cloned()?;
        let dentry = mount.root().clone();
        Some(Path::new(mount, dentry).below_mounts())
    }

    /// All mounts, in the order of mounting.
    pub fn mounts(&self) -> Vec<Arc<Mount>> {
        self.mounts.lock().clone()
    }

    /// Attaches `mount` on `place` (on top of what is mounted there). `ENOTDIR` if one is a directory and the
    /// other is not; `EINVAL` if `place` is of another namespace.
    pub fn mount(&self, mount: &Arc<Mount>, place: Path) -> Result<()> {
        let _tree = TREE.lock();
        self.attach(alloc::vec![(mount.clone(), None)], place)
    }

    /// Whether a mount with this root can be put on `place`.
    fn check_place(&self, top: &Mount, place: &Path) -> Result<()> {
        let directory = |kind| kind == FileType::Directory;
        if directory(top.root().positive()?.kind()) != directory(place.inode()?.kind()) {
            return Err(Errno::ENOTDIR);
        }
        if place.dentry().is_deleted() {
            return Err(Errno::ENOENT);
        }
        if place.mount().is_in(self) { Ok(()) } else { Err(Errno::EINVAL) }
    }

    /// Attaches a tree, new or just taken off, on `place`, and copies wherever it propagates to.
    fn attach(&self, tree: Tree, place: Path) -> Result<()> {
        let place = place.below_mounts();
        let Some((top, _)) = tree.first() else { return Ok(()) };
        self.check_place(top, &place)?;
        let new = tree.iter().filter(|(mount, _)| !mount.is_in(self)).count();
        if self.mounts.lock().len() + new > MOUNT_MAX {
            return Err(Errno::ENOSPC);
        }
        place.dentry().pin();
        let mut copies = Vec::new();
        if place.mount().kin().group != 0 {
            tree.iter().for_each(|(mount, _)| propagation::change(mount, Type::Shared));
            for (target, copy) in propagation::plan(&tree, &place) {
                let Some(namespace) = target.namespace() else { continue };
                if namespace.mounts.lock().len() + copy.len() > MOUNT_MAX {
                    return Err(Errno::ENOSPC);
                }
                copies.push((namespace, Path::new(target, place.dentry().clone()), copy));
            }
        }
        self.put(&tree, place);
        for (namespace, place, copy) in copies {
            if *namespace.owner != *self.owner {
                copy.iter().for_each(|(mount, _)| mount.locked.store(true, Ordering::Relaxed));
                copy.iter().skip(1).for_each(|(mount, _)| mount.set_pinned(true));
            }
            namespace.put(&copy, place);
        }
        Ok(())
    }

    /// Puts a tree on a place, below what is mounted there.
    fn put(&self, tree: &Tree, place: Path) {
        let Some((top, _)) = tree.first() else { return };
        let above = Mount::find(&place);
        if let Some(above) = &above {
            above.detach();
        }
        top.attach(place);
        let mut new: Vec<Arc<Mount>> = Vec::new();
        for (mount, on) in tree {
            // What is below one that moves is there already.
            if let Some((parent, dentry)) = on
                && let Some((parent, _)) = tree.get(*parent)
                && mount.mounted_on().is_none()
            {
                mount.attach(Path::new(parent.clone(), dentry.clone()));
            }
            if !mount.is_in(self) {
                mount.set_namespace(self.me.clone());
                new.push(mount.clone());
            }
        }
        self.mounts.lock().append(&mut new);
        if let Some(above) = above {
            above.attach(Path::new(top.clone(), top.root().clone()).below_mounts());
        }
        self.sort();
    }

    /// A bind mount of `source` on `place`; with `recursive`, of the mounts below `source`, too. `EINVAL` for what is
    /// unbindable or of another namespace, and for a mount namespace that is this one or older, which would keep itself.
    pub fn bind(&self, source: &Path, place: Path, recursive: bool) -> Result<()> {
        let _tree = TREE.lock();
        if let Some(AnyNamespace::Mount(bound)) = namespace_at(source)
            && self.id >= bound.id
        {
            return Err(Errno::EINVAL);
        }
        self.attach(self.copy_of(source, recursive)?, place)
    }

    /// As [`MountNamespace::bind`], into a namespace of its own: `open_tree(OPEN_TREE_CLONE)`.
    pub fn copy_detached(&self, source: &Path, recursive: bool) -> Result<Arc<MountNamespace>> {
        let _tree = TREE.lock();
        let tree = self.copy_of(source, recursive)?;
        for (mount, on) in &tree {
            if let Some((parent, dentry)) = on
                && let Some((parent, _)) = tree.get(*parent)
            {
                mount.attach(Path::new(parent.clone(), dentry.clone()));
            }
        }
        Ok(Self::detached(tree.into_iter().map(|(mount, _)| mount).collect(), &self.owner))
    }

    /// New mounts of what `source` shows.
    fn copy_of(&self, source: &Path, recursive: bool) -> Result<Tree> {
        let from = source.mount();
        if from.kin().unbindable || (namespace_at(source).is_none() && !from.is_in(self)) {
            return Err(Errno::EINVAL);
        }
        if !recursive && self.below(source).iter().any(|mount| mount.is_pinned()) {
            return Err(Errno::EINVAL);
        }
        let new = from.duplicate(source.dentry());
        propagation::inherit(&new, from, Copy::Peer);
        let mut copies: Tree = alloc::vec![(new, None)];
        let mut originals = alloc::vec![from.clone()];
        for old in if recursive { self.below(source) } else { Vec::new() } {
            let Some(on) = old.mounted_on() else { continue };
            let Some(parent) = originals.iter().position(|m| Arc::ptr_eq(m, on.mount())) else { continue };
            if old.kin().unbindable {
                if old.is_pinned() {
                    return Err(Errno::EPERM);
                }
                continue;
            }
            let copy = old.duplicate(old.root());
            copy.set_pinned(old.is_pinned());
            propagation::inherit(&copy, &old, Copy::Peer);
            copies.push((copy, Some((parent, on.dentry().clone()))));
            originals.push(old);
        }
        Ok(copies)
    }

    /// The mounts below `place`, parents first.
    fn below(&self, place: &Path) -> Vec<Arc<Mount>> {
        let mut found: Vec<Arc<Mount>> = Vec::new();
        let mut known = hashbrown::HashSet::new();
        for mount in self.mounts() {
            let Some(on) = mount.mounted_on() else { continue };
            let inside = Arc::ptr_eq(on.mount(), place.mount()) && on.dentry().is_below(place.dentry());
            if inside || known.contains(&on.mount().id) {
                known.insert(mount.id);
                found.push(mount);
            }
        }
        found
    }

    /// A mount and what is below it.
    fn subtree(&self, top: &Arc<Mount>) -> Vec<Arc<Mount>> {
        let mut all = alloc::vec![top.clone()];
        all.extend(self.below(&Path::new(top.clone(), top.root().clone())));
        all
    }

    /// Changes who hears of changes on the mount whose root is `place` (`mount --make-*`), and with `recursive` on those
    /// below it. `EINVAL` if that is not the root of a mount of this namespace.
    pub fn change_type(&self, place: &Path, to: Type, recursive: bool) -> Result<()> {
        let _tree = TREE.lock();
        if !place.is_mount_root() || !place.mount().is_in(self) {
            return Err(Errno::EINVAL);
        }
        propagation::change(place.mount(), to);
        if recursive {
            self.subtree(place.mount()).iter().skip(1).for_each(|mount| propagation::change(mount, to));
        }
        Ok(())
    }

    /// Where the mount is whose root is `place`, and the namespace it is in, if somebody of this one may move it or change
    /// it: it is mounted here, or it is the root of a detached one. `EINVAL`.
    fn home(&self, place: &Path) -> Result<(Option<Path>, Arc<MountNamespace>)> {
        let mount = place.mount();
        let namespace = mount.namespace().filter(|_| place.is_mount_root()).ok_or(Errno::EINVAL)?;
        let on = mount.mounted_on();
        let ours = if on.is_some() { mount.is_in(self) } else { namespace.detached };
        if ours { Ok((on, namespace)) } else { Err(Errno::EINVAL) }
    }

    /// Moves the mount whose root is `from` to `place` (`MS_MOVE`, `move_mount`), from this namespace or a detached one.
    /// `EINVAL` if `from` is not the root of such a mount, or the namespace's root, if it is on a shared mount, or something
    /// unbindable would come to be on one; `ELOOP` if `place` is below it.
    pub fn relocate(&self, from: &Path, place: Path) -> Result<()> {
        let _tree = TREE.lock();
        let mount = from.mount();
        let (parent, home) = self.home(from)?;
        let shared = parent.as_ref().is_some_and(|on| on.mount().kin().group != 0);
        if mount.is_pinned() || shared {
            return Err(Errno::EINVAL);
        }
        let place = place.below_mounts();
        // Here that one is a directory and the other is not is EINVAL.
        self.check_place(mount, &place).map_err(|e| if e == Errno::ENOTDIR { Errno::EINVAL } else { e })?;
        let tree = home.subtree(mount);
        if place.mount().kin().group != 0 && tree.iter().any(|m| m.kin().unbindable) {
            return Err(Errno::EINVAL);
        }
        let mut at = Some(place.clone());
        while let Some(p) = at {
            if Arc::ptr_eq(p.mount(), mount) {
                return Err(Errno::ELOOP);
            }
            at = p.mount().mounted_on();
        }
        let index = |m: &Arc<Mount>| tree.iter().position(|other| Arc::ptr_eq(other, m));
        let on = |m: &Arc<Mount>| {
            let on = m.mounted_on()?;
            Some((index(on.mount())?, on.dentry().clone()))
        };
        let below: Tree = tree.iter().skip(1).map(|m| (m.clone(), on(m))).collect();
        let _moving = moves::begin();
        mount.detach();
        let mut whole: Tree = alloc::vec![(mount.clone(), None)];
        whole.extend(below);
        let moved = self.attach(whole.clone(), place);
        match (&moved, parent) {
            (Err(_), Some(parent)) => self.put(&whole, parent), // where it was
            (Ok(()), None) => {
                let left = core::mem::take(&mut *home.mounts.lock());
                drop(left); // outside the lock
            }
            _ => {}
        }
        moved
    }

    /// Changes flags of the mount whose root is `place`, and with `recursive` of those below it, and who hears of changes
    /// there: of all of them or of none. `busy` is asked about those that become read-only. `EINVAL`; `EPERM` to lift a
    /// restriction.
    pub fn set_attributes(
        &self,
        place: &Path,
        recursive: bool,
        change: FlagChange,
        propagation: Option<Type>,
        busy: impl Fn(&[Arc<Mount>]) -> Result<()>,
    ) -> Result<()> {
        let _tree = TREE.lock();
        let (_, home) = self.home(place)?;
        let mounts = if recursive { home.subtree(place.mount()) } else { alloc::vec![place.mount().clone()] };
        let wanted = |mount: &Mount| (mount.flags() - change.clear) | change.set;
        mounts.iter().try_for_each(|mount| mount.may_have_flags(wanted(mount)))?;
        if change.set.contains(MountFlags::READ_ONLY) {
            let new = |m: &&Arc<Mount>| !m.flags().contains(MountFlags::READ_ONLY);
            let new: Vec<Arc<Mount>> = mounts.iter().filter(new).cloned().collect();
            if !new.is_empty() {
                busy(&new)?;
            }
        }
        for mount in &mounts {
            mount.set_flags(wanted(mount))?;
            if let Some(to) = propagation {
                propagation::change(mount, to);
            }
        }
        Ok(())
    }

    /// Makes the private mount whose root is `to` hear of changes as the one at `from` does (`MOVE_MOUNT_SET_GROUP`), which
    /// shows at least as much of the same file system. `EINVAL`; `EPERM` without `CAP_SYS_ADMIN` over the namespace of one.
    pub fn join_group(&self, from: &Path, to: &Path, credentials: &Credentials) -> Result<()> {
        let _tree = TREE.lock();
        let namespaces = [from, to].map(|place| place.mount().namespace());
        for namespace in &namespaces {
            let namespace = namespace.as_ref().ok_or(Errno::EINVAL)?;
            if !credentials.capable_in(namespace.owner(), Capabilities::SYS_ADMIN) {
                return Err(Errno::EPERM);
            }
        }
        let (model, mount) = (from.mount(), to.mount());
        let (theirs, ours) = (model.kin(), mount.kin());
        let same = Arc::ptr_eq(model.superblock(), mount.superblock());
        if !from.is_mount_root() || !to.is_mount_root() || !same || !mount.root().is_below(model.root()) {
            return Err(Errno::EINVAL);
        }
        if ours.group != 0 || ours.master != 0 || (theirs.group == 0 && theirs.master == 0) {
            return Err(Errno::EINVAL);
        }
        propagation::inherit(mount, model, Copy::Peer);
        Ok(())
    }

    /// Makes the mount whose root is `new` the root of the namespace in place of `old`, the caller's root, which
    /// goes to `put_old` (pivot_root(2)). `EINVAL` if one is not the root of a mount of this namespace, or
    /// `put_old` is not below `new`, or one of them is on a shared mount; `EBUSY` if one of them is on the old root's mount.
    pub fn pivot(&self, old: &Path, new: &Path, put_old: &Path) -> Result<()> {
        let _tree = TREE.lock();
        let (old_mount, new_mount) = (old.mount(), new.mount());
        let shared = |m: &Arc<Mount>| m.kin().group != 0;
        let on_shared = |m: &Arc<Mount>| m.mounted_on().is_some_and(|on| shared(on.mount()));
        if shared(put_old.mount()) || on_shared(new_mount) || on_shared(old_mount) {
            return Err(Errno::EINVAL);
        }
        let here = [old_mount, new_mount, put_old.mount()].iter().all(|m| m.is_in(self));
        if !here || new_mount.is_pinned() {
            return Err(Errno::EINVAL);
        }
        if put_old.dentry().is_deleted() {
            return Err(Errno::ENOENT);
        }
        if Arc::ptr_eq(old_mount, new_mount) || Arc::ptr_eq(old_mount, put_old.mount()) {
            return Err(Errno::EBUSY);
        }
        if !old.is_mount_root() || !new.is_mount_root() || new_mount.mounted_on().is_none() {
            return Err(Errno::EINVAL);
        }
        if !new.is_reached_from(old) || !put_old.is_reached_from(new) {
            return Err(Errno::EINVAL);
        }
        put_old.dentry().pin();
        let above = old_mount.mounted_on();
        let _moving = moves::begin();
        new_mount.detach();
        old_mount.detach();
        old_mount.attach(put_old.clone());
        match above {
            Some(place) => new_mount.attach(place),
            None => {
                let mut mounts = self.mounts.lock();
                if let Some(at) = mounts.iter().position(|m| Arc::ptr_eq(m, new_mount)) {
                    mounts.swap(0, at);
                }
            }
        }
        self.sort();
        Ok(())
    }

    /// Puts every mount after the one it is on: a move can have broken that order.
    fn sort(&self) {
        let mut mounts = self.mounts.lock();
        let mut rest = core::mem::take(&mut *mounts);
        let mut known = hashbrown::HashSet::new();
        while !rest.is_empty() {
            let before = rest.len();
            let mut later = Vec::new();
            for mount in rest {
                let ready = mount.on.lock().as_ref().is_none_or(|on| known.contains(&on.mount().id));
                if ready {
                    known.insert(mount.id);
                    mounts.push(mount);
                } else {
                    later.push(mount);
                }
            }
            rest = later;
            if rest.len() == before {
                mounts.append(&mut rest); // on a mount that is gone: cannot be
            }
        }
    }

    /// Takes `mount` off, and with it what had come of it elsewhere by propagation. `EBUSY` if mounts are on it, unless
    /// `lazy`, which takes those off as well, or if one elsewhere is in use; `EINVAL` for the root and for a mount of another
    /// namespace. Open files keep a detached mount alive.
    pub fn unmount(&self, mount: &Arc<Mount>, lazy: bool) -> Result<()> {
        let _tree = TREE.lock();
        if !mount.is_in(self) || mount.mounted_on().is_none() || mount.is_pinned() {
            return Err(Errno::EINVAL);
        }
        let tree = self.subtree(mount);
        if tree.len() > 1 && !lazy {
            return Err(Errno::EBUSY);
        }
        let elsewhere = propagated(&tree);
        // A list, the table, and we: who else has it uses it.
        if !lazy && elsewhere.iter().any(|m| Arc::strong_count(m) > 3 && !is_covered(m)) {
            return Err(Errno::EBUSY);
        }
        for gone in tree.iter().chain(&elsewhere).rev() {
            take_off(gone);
        }
        Ok(())
    }

    /// A copy of the tree for `CLONE_NEWNS`, owned by `owner`, with what `map` needs to find the copy of an old mount.
    pub fn copy(&self, owner: &Arc<UserNamespace>) -> Option<(Arc<MountNamespace>, MountMap)> {
        let _tree = TREE.lock();
        let stranger = *owner != self.owner;
        let how = if stranger { Copy::Lesser } else { Copy::Peer };
        let mut map: Vec<(Arc<Mount>, Arc<Mount>)> = Vec::new();
        let mut known: hashbrown::HashMap<u32, Arc<Mount>> = hashbrown::HashMap::new();
        for old in self.mounts() {
            let place = Path::new(old.clone(), old.root().clone());
            if matches!(namespace_at(&place), Some(AnyNamespace::Mount(_))) {
                continue; // they would keep each other
            }
            let on = match old.mounted_on() {
                Some(on) => match known.get(&on.mount().id) {
                    Some(parent) => Some(Path::new(parent.clone(), on.dentry().clone())),
                    None => continue,
                },
                None => None,
            };
            let copy = old.duplicate(old.root());
            if stranger {
                copy.locked.store(true, Ordering::Relaxed);
            }
            copy.set_pinned(old.is_pinned() || (stranger && on.is_some()));
            propagation::inherit(&copy, &old, how);
            if let Some(on) = on {
                copy.attach(on);
            }
            known.insert(old.id, copy.clone());
            map.push((old, copy));
        }
        map.first()?;
        let mounts = map.iter().map(|(_, copy)| copy.clone()).collect();
        Some((MountNamespace::owned(mounts, owner), MountMap(map)))
    }
}

/// Whether something is mounted on its root.
fn is_covered(mount: &Arc<Mount>) -> bool {
    Mount::find(&Path::new(mount.clone(), mount.root().clone())).is_some()
}

/// What has to be taken off elsewhere with `tree`: what is at the same places of mounts that hear of these, unless it is
/// pinned or something else is mounted below it (on its very root does not count: that stays, and comes down).
fn propagated(tree: &[Arc<Mount>]) -> Vec<Arc<Mount>> {
    let mut found: Vec<Arc<Mount>> = Vec::new();
    let mut ids: hashbrown::HashSet<u32> = tree.iter().map(|m| m.id).collect();
    for mount in tree {
        let Some(on) = mount.mounted_on() else { continue };
        let group = on.mount().kin().group;
        if group == 0 {
            continue;
        }
        for hearer in propagation::hearers(group) {
            let there = Mount::find(&Path::new(hearer, on.dentry().clone()));
            let Some(there) = there.filter(|m| !m.is_pinned() && m.namespace().is_some()) else { continue };
            if ids.insert(there.id) {
                found.push(there);
            }
        }
    }
    loop {
        let before = found.len();
        let kept: Vec<Arc<Mount>> = found
            .iter()
            .filter(|m| {
                let on_it = m.namespace().map_or(Vec::new(), |ns| ns.mounts()).into_iter().filter(|other| {
                    let on = other.mounted_on();
                    on.is_some_and(|on| Arc::ptr_eq(on.mount(), m) && !on.is_mount_root())
                });
                on_it.into_iter().all(|other| ids.contains(&other.id))
            })
            .cloned()
            .collect();
        found = kept;
        if found.len() == before {
            return found;
        }
        ids = tree.iter().chain(&found).map(|m| m.id).collect();
    }
}

/// Takes a mount out of its namespace and of its groups. What is on its root, and stays, comes to be where it was.
fn take_off(mount: &Arc<Mount>) {
    let above = Mount::find(&Path::new(mount.clone(), mount.root().clone()));
    let on = mount.mounted_on();
    mount.detach();
    if let (Some(above), Some(on)) = (above, on) {
        above.detach();
        above.attach(on);
    }
    if let Some(namespace) = mount.namespace() {
        let mut mounts = namespace.mounts.lock();
        let at = mounts.iter().position(|m| Arc::ptr_eq(m, mount));
        let removed = at.map(|at| mounts.remove(at));
        drop(mounts);
        drop(removed); // outside the lock
    }
    mount.set_namespace(Weak::new());
    propagation::change(mount, Type::Private);
}

impl Drop for MountNamespace {
    fn drop(&mut self) {
        let mounts = core::mem::take(&mut *self.mounts.lock());
        for mount in mounts.iter().rev() {
            mount.detach();
            propagation::change(mount, Type::Private);
        }
    }
}

/// Which mount became which when a namespace was copied.
pub struct MountMap(Vec<(Arc<Mount>, Arc<Mount>)>);

impl MountMap {
    /// The place of the new namespace for a place of the old one.
    pub fn translate(&self, old: &Path) -> Path {
        match self.0.iter().find(|(m, _)| Arc::ptr_eq(m, old.mount())) {
            Some((_, copy)) => Path::new(copy.clone(), old.dentry().clone()),
            None => old.clone(),
        }
    }
}
