//! Files of groups: a table of [`Entry`]s, each with what writes its text and what takes what is written.

use alloc::{string::String, sync::Arc, vec, vec::Vec};
use core::sync::atomic::{AtomicU64, Ordering};

use super::{Attributes, metadata};
use crate::{
    TaskRef,
    cgroup::{Cgroup, Controllers, MAX, Notifier, root_of},
    errno::{Errno, Result},
    fs::{DirEntry, File, FileType, Inode, InodeRef, Metadata, OpenFile, OpenFlags, SetAttributes, inotify},
    io::{Sink, Source},
    sync::{Mutex, PollEvents, PollTable},
    task::Credentials,
};

/// Writes a file's text.
pub(super) type Show = fn(&View<'_>, &mut String) -> Result<()>;
/// Takes what is written to a file, without spaces around it.
pub(super) type Store = fn(&Change<'_>, &str) -> Result<()>;

/// Where a file is found.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In every group.
    All,
    /// In all but the root.
    NotRoot,
}

/// A file of a group.
pub(super) struct Entry {
    pub name: &'static str,
    pub place: Place,
    pub show: Option<Show>,
    pub store: Option<Store>,
    /// What `poll` watches.
    pub notifier: Option<fn(&Cgroup) -> &Notifier>,
}

impl Entry {
    pub const fn read(name: &'static str, place: Place, show: Show) -> Entry {
        Entry { name, place, show: Some(show), store: None, notifier: None }
    }

    pub const fn write(name: &'static str, place: Place, show: Show, store: Store) -> Entry {
        Entry { name, place, show: Some(show), store: Some(store), notifier: None }
    }

    pub const fn write_only(name: &'static str, place: Place, store: Store) -> Entry {
        Entry { name, place, show: None, store: Some(store), notifier: None }
    }

    pub const fn events(name: &'static str, show: Show, notifier: fn(&Cgroup) -> &Notifier) -> Entry {
        Entry { name, place: Place::NotRoot, show: Some(show), store: None, notifier: Some(notifier) }
    }

    fn mode(&self) -> u32 {
        match (self.show, self.store) {
            (Some(_), Some(_)) => 0o644,
            (Some(_), None) => 0o444,
            _ => 0o200,
        }
    }
}

/// Which group's file is read.
pub(super) struct View<'a> {
    pub group: &'a Arc<Cgroup>,
}

/// Who writes which group's file; `opener` is who opened it.
pub(super) struct Change<'a> {
    pub group: &'a Arc<Cgroup>,
    pub task: &'a TaskRef,
    pub opener: &'a Credentials,
}

/// The tables, by controller; the empty set is the core.
static TABLES: [(Controllers, &[Entry]); 5] = [
    (Controllers::empty(), super::core::ENTRIES),
    (Controllers::empty(), super::cpu::STAT),
    (Controllers::CPU, super::cpu::ENTRIES),
    (Controllers::MEMORY, super::memory::ENTRIES),
    (Controllers::PIDS, super::pids::ENTRIES),
];

/// Cookies of files in a directory are below.
pub(super) const COOKIES: u64 = 256;
/// Inode numbers of files: their group's number times this, plus their place in the tables.
const FILE_INO: u64 = 1 << 32;

/// All files that `group` has, with their places in the tables.
fn entries(group: &Cgroup) -> impl Iterator<Item = (&'static Entry, u64)> {
    let (is_root, is_dead, controllers) = (group.is_root(), group.is_dead(), group.controllers());
    let all = TABLES.iter().flat_map(|(of, table)| table.iter().map(move |entry| (*of, entry)));
    let has = move |of: Controllers, entry: &Entry| {
        !is_dead && controllers.contains(of) && !(is_root && entry.place == Place::NotRoot)
    };
    all.zip(1..).filter(move |((of, entry), _)| has(*of, entry)).map(|((_, entry), i)| (entry, i))
}

pub(super) fn find(group: &Cgroup, name: &str) -> Option<(&'static Entry, u64)> {
    entries(group).find(|(entry, _)| entry.name == name)
}

/// The file called `name`. `ENOENT`.
pub(super) fn lookup(group: &Arc<Cgroup>, name: &str) -> Result<InodeRef> {
    let (entry, index) = find(group, name).ok_or(Errno::ENOENT)?;
    Ok(Arc::new(FileInode { group: group.clone(), entry, index }))
}

/// Lists files from cookie `from` on; the cookie of what follows them, unless `emit` has enough.
pub(super) fn readdir(group: &Cgroup, from: u64, emit: &mut dyn FnMut(&DirEntry<'_>) -> bool) -> Option<u64> {
    for (entry, index) in entries(group).filter(|(_, index)| *index > from) {
        let ino = ino(group, index);
        if !emit(&DirEntry { name: entry.name.as_bytes(), ino, kind: FileType::Regular, next: index }) {
            return None;
        }
    }
    Some(from.max(COOKIES))
}

fn ino(group: &Cgroup, index: u64) -> u64 {
    index * FILE_INO + u64::from(group.id())
}

/// Owner and mode of a file: its group's creator's, unless changed.
pub(super) fn attributes(group: &Cgroup, entry: &Entry) -> Attributes {
    let changed = group.file_attributes.lock().get(entry.name).copied();
    changed.unwrap_or(Attributes { uid: group.owner.0, gid: group.owner.1, mode: entry.mode() })
}

/// The content of `group`'s file `name` has changed: those who poll or watch it are told. Without locks.
pub(in crate::cgroup) fn changed(group: &Cgroup, name: &'static str, notifier: &Notifier) {
    notifier.notify();
    if inotify::active()
        && let Some((_, index)) = find(group, name)
    {
        let dir = (super::dev(), u64::from(group.id()));
        inotify::changed_by_itself((super::dev(), ino(group, index)), dir, name.as_bytes());
    }
}

struct FileInode {
    group: Arc<Cgroup>,
    entry: &'static Entry,
    index: u64,
}

impl Inode for FileInode {
    fn kind(&self) -> FileType {
        FileType::Regular
    }

    fn ino(&self) -> u64 {
        ino(&self.group, self.index)
    }

    fn size(&self) -> u64 {
        0
    }

    fn metadata(&self) -> Metadata {
        metadata(self.ino(), FileType::Regular, attributes(&self.group, self.entry))
    }

    fn set_attributes(&self, change: &SetAttributes) -> Result<()> {
        let mut a = attributes(&self.group, self.entry);
        a.uid = change.uid.unwrap_or(a.uid);
        a.gid = change.gid.unwrap_or(a.gid);
        a.mode = change.mode.map_or(a.mode, |mode| mode & 0o7777);
        self.group.file_attributes.lock().insert(self.entry.name, a);
        Ok(())
    }

    fn open(&self, _flags: OpenFlags, task: Option<&TaskRef>) -> Result<Option<Arc<dyn File>>> {
        if self.group.is_dead() {
            return Err(Errno::ENODEV);
        }
        let opener = task.map_or_else(|| Arc::new(Credentials::root()), |task| task.credentials());
        Ok(Some(Arc::new(GroupFile {
            group: self.group.clone(),
            entry: self.entry,
            opener,
            snapshot: Mutex::new(None),
            seen: AtomicU64::new(
                self.entry.notifier.map_or(0, |n| n(&self.group).count.load(Ordering::Acquire)),
            ),
        })))
    }
}

/// What a write takes at most.
const WRITE_MAX: usize = 4096;

/// An open file with the text it had when it was last read from the beginning.
struct GroupFile {
    group: Arc<Cgroup>,
    entry: &'static Entry,
    opener: Arc<Credentials>,
    snapshot: Mutex<Option<Vec<u8>>>,
    /// The change that was there when it was last read.
    seen: AtomicU64,
}

impl GroupFile {
    fn text(&self) -> Result<Vec<u8>> {
        let show = self.entry.show.ok_or(Errno::EINVAL)?;
        if self.group.is_dead() {
            return Err(Errno::ENODEV);
        }
        if let Some(notifier) = self.entry.notifier {
            self.seen.store(notifier(&self.group).count.load(Ordering::Acquire), Ordering::Release);
        }
        let mut text = String::new();
        show(&View { group: &self.group }, &mut text)?;
        Ok(text.into_bytes())
    }
}

/// Files that those inside may write even in the root of their namespace (`CFTYPE_NS_DELEGATABLE`).
const DELEGATED: [&str; 5] =
    ["cgroup.procs", "cgroup.threads", "cgroup.subtree_control", "memory.oom.group", "memory.reclaim"];

impl GroupFile {
    /// `nsdelegate`: the limits of the group that is the root of a namespace are not for those inside to change. `EPERM`.
    fn check_delegated(&self, task: &TaskRef) -> Result<()> {
        let is_limit = !self.group.is_root() && !DELEGATED.contains(&self.entry.name);
        if is_limit && root_of(task).id() == self.group.id() { Err(Errno::EPERM) } else { Ok(()) }
    }
}

impl File for GroupFile {
    fn seekable(&self) -> bool {
        true
    }

    fn size(&self, _file: &OpenFile) -> u64 {
        0
    }

    fn read_at(&self, _file: &OpenFile, _task: &TaskRef, offset: u64, sink: &mut Sink<'_>) -> Result {
        let mut snapshot = self.snapshot.lock();
        let text = match &mut *snapshot {
            Some(text) if offset > 0 => text,
            stale => stale.insert(self.text()?),
        };
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        sink.put_some(text.get(start..).unwrap_or_default())
    }

    fn write_at(&self, _file: &OpenFile, task: &TaskRef, _offset: u64, source: &mut Source<'_>) -> Result {
        let n = source.remaining();
        if n > WRITE_MAX {
            return Err(Errno::E2BIG);
        }
        let mut bytes = vec![0; n];
        source.take(&mut bytes)?;
        if self.group.is_dead() {
            return Err(Errno::ENODEV);
        }
        let store = self.entry.store.ok_or(Errno::EINVAL)?;
        self.check_delegated(task)?;
        let text = core::str::from_utf8(&bytes).map_err(|_| Errno::EINVAL)?;
        store(&Change { group: &self.group, task, opener: &self.opener }, text.trim())?;
        Ok(n)
    }

    fn poll(&self, table: Option<&mut PollTable>) -> PollEvents {
        let ready = PollEvents::IN | PollEvents::OUT | PollEvents::RDNORM | PollEvents::WRNORM;
        let Some(notifier) = self.entry.notifier else { return ready };
        let notifier = notifier(&self.group);
        if let Some(table) = table {
            table.register(&notifier.queue);
        }
        if notifier.count.load(Ordering::Acquire) == self.seen.load(Ordering::Acquire) {
            return ready;
        }
        ready | PollEvents::ERR | PollEvents::PRI
    }
}

/// A number, or `max`. `EINVAL`.
pub(super) fn parse_max(text: &str) -> Result<u64> {
    if text == "max" { Ok(MAX) } else { text.parse().map_err(|_| Errno::EINVAL) }
}

/// A number, or `max`.
pub(super) fn show_max(value: u64) -> String {
    if value == MAX { String::from("max") } else { alloc::format!("{value}") }
}

/// `write!` to a string, which cannot fail.
macro_rules! emit {
    ($to:expr, $($arg:tt)*) => {{
        use ::core::fmt::Write as _;
        let _ = write!($to, $($arg)*);
    }};
}
pub(super) use emit;
