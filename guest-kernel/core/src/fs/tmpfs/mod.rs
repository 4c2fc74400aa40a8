//! tmpfs, and overlay as a tmpfs with something below it.
//!
//! Linux has two file systems: tmpfs keeps files in the page cache; overlayfs joins an upper tree (often a
//! tmpfs) and lower ones, and copies a file up before it is changed. Our root file system is always a tmpfs
//! over a read-only image, so we made the two one thing: a [`Tmpfs`] may have a *lower* file system.
//!
//! Without a lower one it is a plain tmpfs. With one:
//!
//! - Each inode of the lower tree that is looked up gets a [`TmpInode`] that starts with the attributes of its
//!   *origin* and takes content, names, link text and extended attributes from it as long as it has none of
//!   its own. Its number is the origin's: stable, whatever happens to it later.
//! - Changing it changes only the `TmpInode`; a page is copied when it is written, not the file when it is
//!   opened. Since there is one object before and after, every open file, mapping and hard link sees the
//!   change, which overlayfs does not achieve.
//! - What is unchanged may be forgotten and made again; what is changed is *pinned* in a table by its number.
//!   So ancestors need not be "copied up", and hard links stay links.
//! - A directory keeps what differs from its origin: new names, and *whiteouts* for removed ones. A directory
//!   without origin is what overlayfs calls opaque. A renamed directory takes its origin along (`redirect_dir`).
//!
//! The one thing as in overlayfs: pages of a file that nobody has opened for writing yet are mapped straight
//! from the image; such a mapping, if it is shared, does not see a later write.
//!
//! | file | idea |
//! |---|---|
//! | `inode` | [`TmpInode`]: attributes, and the VFS's trait |
//! | `dir` | names, whiteouts, and listing two layers as one |
//! | `data` | content: a sparse array of frames over the origin's pages |
//! | `options` | what `mount -o` sets: limits, and how the root looks |
//!
//! Lock order: a file's write mutex → (`Mm` layout, by a fault or a truncation) → spin locks (attributes,
//! names, pages, the table), none of which is held while another is taken.

mod data;
mod dir;
mod inode;
#[cfg(test)]
mod model_tests;
mod options;
#[cfg(test)]
mod tests;

use alloc::{
    string::String,
    sync::{Arc, Weak},
    vec,
};
use core::sync::atomic::{AtomicU64, Ordering};

use hashbrown::{HashMap, hash_map::Entry};
use ringfence_hal as hal;

pub use inode::TmpInode;
pub use options::{Given, TmpfsOptions, UNLIMITED};

use super::{
    inode::{FileSystem, InodeRef, NewInode, NewKind, alloc_anonymous_dev},
    types::StatFs,
};
use crate::{
    drivers::balloon,
    errno::{Errno, Result},
    mm::commit,
    ns::UserNamespace,
    sync::SpinLock,
};

/// Numbers of new inodes start here where there is a lower file system, above all of its numbers.
const FIRST_OWN_INO: u64 = 1 << 40;

/// Pages freed at once that the host is told about.
const WORTH_REPORTING: usize = 64;

/// The `TmpInode` made for an inode of the lower tree.
enum Known {
    /// Unchanged: as long as somebody uses it.
    Cached(Weak<TmpInode>),
    /// Changed: for good.
    Pinned(Arc<TmpInode>),
}

/// What all inodes of one file system share.
struct Shared {
    dev: u64,
    /// Limits, or [`UNLIMITED`]; a remount changes them.
    max_pages: AtomicU64,
    max_inodes: AtomicU64,
    pages: AtomicU64,
    inodes: AtomicU64,
    next_ino: AtomicU64,
    /// Every name but an inode's first counts as an inode; not over a lower file system, whose names nobody counts.
    counts_links: bool,
    /// Whose numbers the owners of what is in the lower file system are.
    owners: Arc<UserNamespace>,
    /// By number in the lower file system.
    known: SpinLock<HashMap<u64, Known>>,
}

impl Shared {
    /// Counts a page. `ENOSPC`.
    fn charge_page(&self) -> Result<()> {
        charge(&self.pages, &self.max_pages)?;
        commit::add(1);
        Ok(())
    }

    fn release_pages(&self, n: usize) {
        self.pages.fetch_sub(n as u64, Ordering::Relaxed);
        commit::add(-(n as i64));
        if n >= WORTH_REPORTING {
            balloon::memory_freed();
        }
    }

    /// Counts an inode and gives it a number. `ENOSPC`.
    fn new_ino(&self) -> Result<u64> {
        charge(&self.inodes, &self.max_inodes)?;
        Ok(self.next_ino.fetch_add(1, Ordering::Relaxed))
    }

    /// Counts one more name of an inode that has one: on tmpfs each takes memory of its own.
    fn charge_link(&self) -> Result<()> {
        if self.counts_links { charge(&self.inodes, &self.max_inodes) } else { Ok(()) }
    }

    /// Counts it, limit or not.
    fn add_link(&self) {
        if self.counts_links {
            self.inodes.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn release_link(&self) {
        if self.counts_links {
            self.inodes.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The one object for `origin`, an inode of the lower tree.
    fn known(self: &Arc<Self>, origin: InodeRef) -> Arc<TmpInode> {
        let ino = origin.ino();
        let find = |known: &HashMap<u64, Known>| match known.get(&ino) {
            Some(Known::Pinned(inode)) => Some(inode.clone()),
            Some(Known::Cached(weak)) => weak.upgrade(),
            None => None,
        };
        if let Some(inode) = find(&self.known.lock()) {
            return inode;
        }
        let new = TmpInode::over(self, origin);
        let mut known = self.known.lock();
        if let Some(inode) = find(&known) {
            drop(known); // before `new`, whose drop looks into the table
            return inode;
        }
        known.insert(ino, Known::Cached(Arc::downgrade(&new)));
        new
    }

    fn pin(&self, inode: Arc<TmpInode>) {
        let old = self.known.lock().insert(inode.number(), Known::Pinned(inode));
        drop(old);
    }

    /// `ino` has no name any more.
    fn unpin(&self, ino: u64) {
        let old = self.known.lock().remove(&ino);
        drop(old);
    }

    /// The last user of an unchanged inode went.
    fn forget(&self, ino: u64) {
        if let Entry::Occupied(entry) = self.known.lock().entry(ino)
            && matches!(entry.get(), Known::Cached(weak) if weak.strong_count() == 0)
        {
            entry.remove();
        }
    }
}

fn charge(counter: &AtomicU64, max: &AtomicU64) -> Result<()> {
    let max = max.load(Ordering::Relaxed);
    let more = |n: u64| (n < max).then_some(n + 1);
    counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).map_err(|_| Errno::ENOSPC)?;
    Ok(())
}

fn pages_of_size(bytes: u64) -> u64 {
    if bytes == UNLIMITED { UNLIMITED } else { bytes.div_ceil(hal::PAGE_SIZE as u64) }
}

/// A limit and what is left of it, as `statfs` says: no limit is nought of nought.
fn left(max: &AtomicU64, used: &AtomicU64) -> (u64, u64) {
    match max.load(Ordering::Relaxed) {
        UNLIMITED => (0, 0),
        max => (max, max.saturating_sub(used.load(Ordering::Relaxed))),
    }
}

/// Another limit. `EINVAL` for one where there was none, or for less than is used.
fn check_limit(max: &AtomicU64, used: &AtomicU64, new: u64) -> Result<()> {
    let unlimited = max.load(Ordering::Relaxed) == UNLIMITED;
    let fits = new == UNLIMITED || (!unlimited && used.load(Ordering::Relaxed) <= new);
    if fits { Ok(()) } else { Err(Errno::EINVAL) }
}

/// A tmpfs, perhaps over a lower file system.
pub struct Tmpfs {
    shared: Arc<Shared>,
    root: Arc<TmpInode>,
    /// Kept as long as inodes refer to its inodes.
    lower: Option<Arc<dyn FileSystem>>,
    name: &'static str,
    /// What is not said of it where mounts are listed.
    rule: TmpfsOptions,
    made: TmpfsOptions,
}

impl Tmpfs {
    /// An empty tmpfs.
    pub fn new(options: &TmpfsOptions) -> Result<Arc<Tmpfs>> {
        Self::named("tmpfs", options)
    }

    /// An empty tmpfs that calls itself `name` (`devtmpfs`).
    pub fn named(name: &'static str, options: &TmpfsOptions) -> Result<Arc<Tmpfs>> {
        let shared = Self::shared(options, 2, UserNamespace::initial());
        let &TmpfsOptions { mode, uid, gid, .. } = options;
        let root = TmpInode::create(&shared, &NewInode { kind: NewKind::Directory, mode, uid, gid })?;
        let rule = TmpfsOptions::default();
        Ok(Arc::new(Tmpfs { shared, root, lower: None, name, rule, made: *options }))
    }

    /// A tmpfs over `lower`: the tree of `lower`, and changes to it in memory. `mode`, `uid` and `gid` of the
    /// options do not count.
    pub fn over(lower: Arc<dyn FileSystem>, options: &TmpfsOptions) -> Arc<Tmpfs> {
        Self::over_of(lower, options, UserNamespace::initial())
    }

    /// The same, where the ids of `lower` are those of `owners`: user 0 there owns what is user 0's in `lower`. (Linux: `lower`
    /// is an idmapped mount.)
    pub fn over_of(
        lower: Arc<dyn FileSystem>,
        options: &TmpfsOptions,
        owners: &Arc<UserNamespace>,
    ) -> Arc<Tmpfs> {
        let shared = Self::shared(options, FIRST_OWN_INO, owners);
        let root = shared.known(lower.root());
        let (rule, made) = (TmpfsOptions::default(), *options);
        Arc::new(Tmpfs { shared, root, lower: Some(lower), name: "overlay", rule, made })
    }

    fn shared(options: &TmpfsOptions, first_ino: u64, owners: &Arc<UserNamespace>) -> Arc<Shared> {
        Arc::new(Shared {
            dev: alloc_anonymous_dev(),
            max_pages: AtomicU64::new(pages_of_size(options.size)),
            max_inodes: AtomicU64::new(options.inodes),
            pages: AtomicU64::new(0),
            inodes: AtomicU64::new(0),
            next_ino: AtomicU64::new(first_ino),
            counts_links: first_ino < FIRST_OWN_INO,
            owners: owners.clone(),
            known: SpinLock::new(HashMap::new()),
        })
    }

    /// The root directory.
    pub fn root_inode(&self) -> &Arc<TmpInode> {
        &self.root
    }

    /// A regular file without a name (`memfd_create`). With `seals`, it may be sealed.
    pub fn unnamed_file(&self, mode: u32, uid: u32, gid: u32, seals: bool) -> Result<Arc<TmpInode>> {
        let inode = TmpInode::create(&self.shared, &NewInode { kind: NewKind::Regular, mode, uid, gid })?;
        inode.make_unnamed();
        if seals {
            inode.allow_seals();
        }
        Ok(inode)
    }
}

impl FileSystem for Tmpfs {
    fn name(&self) -> &'static str {
        self.name
    }

    fn dev(&self) -> u64 {
        self.shared.dev
    }

    fn root(&self) -> InodeRef {
        self.root.clone()
    }

    fn statfs(&self) -> StatFs {
        let s = &self.shared;
        let (blocks, free) = left(&s.max_pages, &s.pages);
        let (files, files_free) = left(&s.max_inodes, &s.inodes);
        let magic = match self.name {
            "overlay" => 0x794c_7630,
            "ramfs" => 0x8584_58f6,
            _ => 0x0102_1994,
        };
        let block_size = hal::PAGE_SIZE as u64;
        StatFs { magic, block_size, blocks, free, files, files_free, name_max: super::NAME_MAX as u64 }
    }

    /// As Linux: what is as it is by itself is not said.
    fn options(&self) -> String {
        let mut text = String::new();
        let mut say = |option: String| {
            if !text.is_empty() {
                text.push(',');
            }
            text.push_str(&option);
        };
        let (rule, s) = (&self.rule, &self.shared);
        match s.max_pages.load(Ordering::Relaxed) {
            UNLIMITED if self.name != "ramfs" => say("size=0k".into()),
            pages if pages != UNLIMITED && pages != pages_of_size(rule.size) => {
                say(alloc::format!("size={}k", pages.saturating_mul(hal::PAGE_SIZE as u64 / 1024)));
            }
            _ => {}
        }
        match s.max_inodes.load(Ordering::Relaxed) {
            UNLIMITED if self.name != "ramfs" => say("nr_inodes=0".into()),
            inodes if inodes != UNLIMITED && inodes != rule.inodes => {
                say(alloc::format!("nr_inodes={inodes}"))
            }
            _ => {}
        }
        let made = &self.made;
        if self.lower.is_none() {
            if made.mode != rule.mode {
                say(alloc::format!("mode={:03o}", made.mode));
            }
            if made.uid != 0 {
                say(alloc::format!("uid={}", made.uid));
            }
            if made.gid != 0 {
                say(alloc::format!("gid={}", made.gid));
            }
        }
        text
    }

    /// Other limits. How the root looks is not changed by a remount.
    fn reconfigure(&self, options: &[u8]) -> Result<()> {
        if self.name == "ramfs" {
            return Ok(());
        }
        let (given, s) = (Given::parse(options)?, &self.shared);
        let pages = given.size.map(pages_of_size);
        if let Some(pages) = pages {
            check_limit(&s.max_pages, &s.pages, pages)?;
        }
        if let Some(inodes) = given.inodes {
            check_limit(&s.max_inodes, &s.inodes, inodes)?;
        }
        if let Some(pages) = pages {
            s.max_pages.store(pages, Ordering::Relaxed);
        }
        if let Some(inodes) = given.inodes {
            s.max_inodes.store(inodes, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl Drop for Tmpfs {
    /// Takes the tree apart without recursion, however deep it is, and breaks the cycle that pins make.
    fn drop(&mut self) {
        let pins = core::mem::take(&mut *self.shared.known.lock());
        let mut pending = vec![self.root.clone()];
        pending
            .extend(pins.into_values().filter_map(|k| if let Known::Pinned(i) = k { Some(i) } else { None }));
        while let Some(inode) = pending.pop() {
            inode.take_children(&mut pending);
        }
    }
}
