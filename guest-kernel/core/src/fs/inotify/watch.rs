//! Watches: the table of all, the instances, and how many there may be.

use alloc::{
    collections::BTreeMap,
    string::String,
    sync::{Arc, Weak},
    vec::Vec,
};
use core::sync::atomic::{AtomicUsize, Ordering};

use hashbrown::HashMap;
use ringfence_hal as hal;

use super::{
    Events,
    directory::Directory,
    queue::{Event, EventQueue, put},
};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    fs::{File, InodeRef, OpenFile, OpenFlags},
    io::Sink,
    sync::{Interruptible, Once, PollEvents, PollTable, Queue, SpinLock, WaitQueue, wait_event},
    syscall::UserPtr,
};

/// `/proc/sys/fs/inotify`.
pub struct Limits {
    /// Events an instance queues.
    pub queued_events: AtomicUsize,
    /// Instances of one user.
    pub user_instances: AtomicUsize,
    /// Watches of one user.
    pub user_watches: AtomicUsize,
}

/// The limits. As Linux: watches may take about 1% of memory.
pub fn limits() -> &'static Limits {
    static LIMITS: Once<Limits> = Once::new();
    LIMITS.call_once(|| {
        let bytes = hal::frames::stats().total * hal::PAGE_SIZE;
        Limits {
            queued_events: AtomicUsize::new(16_384),
            user_instances: AtomicUsize::new(128),
            user_watches: AtomicUsize::new((bytes / 100 / 1280).clamp(8192, 1_048_576)),
        }
    })
}

/// Device and number of an inode.
pub type Key = (u64, u64);

pub(super) fn key_of(inode: &InodeRef) -> Key {
    let m = inode.metadata();
    (m.dev, m.ino)
}

/// Whom a watch tells.
enum Target {
    /// An inotify instance, which knows the watch by a number; and the user it counts for.
    Instance(Weak<Inotify>, i32, u32),
    /// The owner of an open directory (`F_NOTIFY`).
    Directory(Directory),
}

/// One watch.
struct Watch {
    mask: Events,
    target: Target,
    /// Keeps the number from being used for another inode.
    inode: InodeRef,
}

impl Watch {
    /// Its number, if it is one of `instance`.
    fn number(&self, instance: &Weak<Inotify>) -> Option<i32> {
        match &self.target {
            Target::Instance(of, wd, _) if of.ptr_eq(instance) => Some(*wd),
            _ => None,
        }
    }
}

static TABLE: Once<SpinLock<HashMap<Key, Vec<Watch>>>> = Once::new();

fn table() -> &'static SpinLock<HashMap<Key, Vec<Watch>>> {
    TABLE.call_once(|| SpinLock::new(HashMap::new()))
}

/// Watches in the table.
static WATCHES: AtomicUsize = AtomicUsize::new(0);

/// Whether anything is watched at all.
#[inline(always)]
pub fn active() -> bool {
    WATCHES.load(Ordering::Relaxed) != 0
}

/// What users have: instances and watches by user id.
static USERS: SpinLock<BTreeMap<u32, (usize, usize)>> = SpinLock::new(BTreeMap::new());

fn charge(
    uid: u32,
    pick: fn(&mut (usize, usize)) -> &mut usize,
    max: &AtomicUsize,
    full: Errno,
) -> Result<()> {
    let mut users = USERS.lock();
    let n = pick(users.entry(uid).or_default());
    if *n >= max.load(Ordering::Relaxed) {
        return Err(full);
    }
    *n += 1;
    Ok(())
}

fn release(uid: u32, pick: fn(&mut (usize, usize)) -> &mut usize, count: usize) {
    let mut users = USERS.lock();
    if let Some(user) = users.get_mut(&uid) {
        let n = pick(user);
        *n = n.saturating_sub(count);
        if *user == (0, 0) {
            users.remove(&uid);
        }
    }
}

#[derive(Default)]
struct State {
    queue: EventQueue,
    watches: BTreeMap<i32, Key>,
    last_wd: i32,
}

/// An inotify instance.
pub(super) struct Inotify {
    this: Weak<Inotify>,
    uid: u32,
    state: SpinLock<State>,
    waiters: Queue,
}

impl Inotify {
    /// `EMFILE` if the user has too many.
    pub fn new(uid: u32) -> Result<Arc<Inotify>> {
        charge(uid, |u| &mut u.0, &limits().user_instances, Errno::EMFILE)?;
        Ok(Arc::new_cyclic(|this| Inotify {
            this: this.clone(),
            uid,
            state: SpinLock::new(State::default()),
            waiters: WaitQueue::new(),
        }))
    }

    /// Watches `inode`, or changes the watch there is. `EEXIST`, `ENOSPC`.
    pub fn watch(&self, inode: &InodeRef, mask: Events) -> Result<i32> {
        let key = key_of(inode);
        let keep = mask & (Events::ALL | Events::ONESHOT | Events::EXCL_UNLINK | Events::UNMOUNT);
        let mut table = table().lock();
        let list = table.get_mut(&key).into_iter().flatten();
        if let Some((watch, wd)) = list.filter_map(|w| w.number(&self.this).map(|wd| (w, wd))).next() {
            if mask.contains(Events::MASK_CREATE) {
                return Err(Errno::EEXIST);
            }
            watch.mask = if mask.contains(Events::MASK_ADD) { watch.mask | keep } else { keep };
            return Ok(wd);
        }
        charge(self.uid, |u| &mut u.1, &limits().user_watches, Errno::ENOSPC)?;
        let mut state = self.state.lock();
        // Numbers go up and are not used again before all were.
        let mut wd = state.last_wd;
        loop {
            wd = wd.checked_add(1).unwrap_or(1);
            if !state.watches.contains_key(&wd) {
                break;
            }
        }
        state.last_wd = wd;
        state.watches.insert(wd, key);
        drop(state);
        let target = Target::Instance(self.this.clone(), wd, self.uid);
        insert(&mut table, key, Watch { mask: keep, target, inode: inode.clone() });
        Ok(wd)
    }

    /// Ends a watch. `EINVAL`.
    pub fn unwatch(&self, wd: i32) -> Result<()> {
        let key = self.state.lock().watches.get(&wd).copied().ok_or(Errno::EINVAL)?;
        let removed = take(key, |w| w.number(&self.this) == Some(wd));
        end(removed, None);
        Ok(())
    }

    fn push(&self, event: Event) {
        let max = limits().queued_events.load(Ordering::Relaxed);
        if self.state.lock().queue.push(event, max) {
            self.waiters.wake_all(PollEvents::READABLE);
        }
    }
}

impl Drop for Inotify {
    fn drop(&mut self) {
        let watches = core::mem::take(&mut self.state.lock().watches);
        for key in watches.into_values() {
            drop(take(key, |w| w.number(&self.this).is_some()));
        }
        release(self.uid, |u| &mut u.0, 1);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        WATCHES.fetch_sub(1, Ordering::Relaxed);
        if let Target::Instance(_, _, uid) = self.target {
            release(uid, |u| &mut u.1, 1);
        }
    }
}

fn insert(table: &mut HashMap<Key, Vec<Watch>>, key: Key, watch: Watch) {
    table.entry(key).or_default().push(watch);
    WATCHES.fetch_add(1, Ordering::Relaxed);
}

/// Takes watches out of the table.
fn take(key: Key, which: impl Fn(&Watch) -> bool) -> Vec<Watch> {
    let mut table = table().lock();
    let Some(list) = table.get_mut(&key) else { return Vec::new() };
    let taken: Vec<Watch> = list.extract_if(.., |w| which(w)).collect();
    if list.is_empty() {
        table.remove(&key);
    }
    taken
}

/// Tells the instances of `watches`, which left the table, of their end; `first` goes before it.
fn end(watches: Vec<Watch>, first: Option<Events>) {
    for watch in watches {
        let Target::Instance(instance, wd, _) = &watch.target else { continue };
        let (Some(instance), wd) = (instance.upgrade(), *wd) else { continue };
        if let Some(mask) = first.filter(|m| m.intersects(watch.mask | Events::UNMOUNT)) {
            instance.push(Event { wd, mask, cookie: 0, name: None });
        }
        instance.state.lock().watches.remove(&wd);
        instance.push(Event { wd, mask: Events::IGNORED, cookie: 0, name: None });
    }
}

/// Tells all that watch `key` for `mask`.
pub(super) fn notify(key: Key, mask: Events, cookie: u32, name: Option<&Arc<[u8]>>, unlinked: bool) {
    let mut to: Vec<(Arc<Inotify>, i32)> = Vec::new();
    let mut directories: Vec<Directory> = Vec::new();
    let mut once = false;
    {
        let table = table().lock();
        for watch in table.get(&key).into_iter().flatten() {
            let excluded = unlinked && watch.mask.contains(Events::EXCL_UNLINK);
            if watch.mask.intersects(mask & (Events::ALL | Events::RENAME)) && !excluded {
                once |= watch.mask.contains(Events::ONESHOT);
                match &watch.target {
                    Target::Instance(instance, wd, _) => to.extend(instance.upgrade().map(|i| (i, *wd))),
                    Target::Directory(directory) => directories.push(directory.clone()),
                }
            }
        }
    }
    let said = mask & !Events::RENAME;
    for (instance, wd) in &to {
        instance.push(Event { wd: *wd, mask: said, cookie, name: name.cloned() });
    }
    directories.iter().for_each(Directory::tell);
    if once {
        let hit = |w: &Watch| w.mask.contains(Events::ONESHOT) && w.mask.intersects(mask);
        end(take(key, hit), None);
    }
}

/// Has `directory` told of `mask` in `inode`, also; without `ONESHOT` if it was so or is asked for without.
pub(super) fn watch_directory(inode: &InodeRef, mask: Events, directory: Directory) {
    let key = key_of(inode);
    let mut table = table().lock();
    for watch in table.get_mut(&key).into_iter().flatten() {
        if let Target::Directory(old) = &mut watch.target
            && old.is_of(&directory)
        {
            let once = watch.mask & mask & Events::ONESHOT;
            watch.mask = ((watch.mask | mask) & !Events::ONESHOT) | once;
            *old = directory;
            return;
        }
    }
    insert(&mut table, key, Watch { mask, target: Target::Directory(directory), inode: inode.clone() });
}

/// Ends what [`watch_directory`] began.
pub(super) fn unwatch_directory(inode: &InodeRef, which: impl Fn(&Directory) -> bool) {
    drop(take(key_of(inode), |w| matches!(&w.target, Target::Directory(d) if which(d))));
}

/// The inode is gone for good.
pub(super) fn deleted(key: Key) {
    end(take(key, |_| true), Some(Events::DELETE_SELF));
}

/// Ends all watches of a file system.
pub(super) fn unmounted(dev: u64) {
    loop {
        let Some(key) = table().lock().keys().find(|(d, _)| *d == dev).copied() else { return };
        end(take(key, |_| true), Some(Events::UNMOUNT));
    }
}

/// The open file of an instance.
pub(super) struct InotifyFile(pub Arc<Inotify>);

impl File for InotifyFile {
    fn read(&self, file: &OpenFile, task: &TaskRef, sink: &mut Sink<'_>) -> Result {
        let this = &*self.0;
        let mut next = {
            let take = || this.state.lock().queue.pop(sink.remaining());
            match take() {
                Some(event) => event?,
                None if file.nonblocking() => return Err(Errno::EAGAIN),
                None => wait_event(task, &this.waiters, Interruptible::Yes, None, take)??,
            }
        };
        loop {
            let put = put(&next, sink);
            if put.is_err() {
                return if sink.done() > 0 { Ok(sink.done()) } else { put.map(|()| 0) };
            }
            let more = this.state.lock().queue.pop(sink.remaining());
            match more {
                Some(Ok(event)) => next = event,
                _ => return Ok(sink.done()),
            }
        }
    }

    fn async_queues(&self) -> Option<Vec<(Queue, PollEvents)>> {
        Some(alloc::vec![(self.0.waiters.clone(), PollEvents::READABLE)])
    }

    fn poll(&self, table: Option<&mut PollTable>) -> PollEvents {
        if let Some(table) = table {
            table.register(&self.0.waiters);
        }
        if self.0.state.lock().queue.is_empty() { PollEvents::empty() } else { PollEvents::READABLE }
    }

    fn ioctl(&self, _file: &OpenFile, _task: &TaskRef, command: u32, arg: u64) -> Result {
        const FIONREAD: u32 = 0x541b;
        if command != FIONREAD {
            return Err(Errno::ENOTTY);
        }
        let bytes = self.0.state.lock().queue.bytes();
        UserPtr::<i32>::new(arg).write(&(bytes as i32))?;
        Ok(0)
    }

    fn release(&self, _flags: OpenFlags) {}

    fn seek_ignored(&self) -> bool {
        true
    }

    fn fdinfo(&self) -> String {
        use core::fmt::Write as _;
        let mut out = String::new();
        let watches = self.0.state.lock().watches.clone();
        let table = table().lock();
        for (wd, key) in &watches {
            let list = table.get(key).into_iter().flatten();
            for w in list.filter(|w| w.number(&self.0.this) == Some(*wd)) {
                let mask = (w.mask & !Events::ONESHOT).bits();
                let ino = w.inode.ino();
                let _ = writeln!(
                    out,
                    "inotify wd:{wd:x} ino:{ino:x} sdev:{:x} mask:{mask:x} ignored_mask:0 ",
                    key.0
                );
            }
        }
        out
    }
}
