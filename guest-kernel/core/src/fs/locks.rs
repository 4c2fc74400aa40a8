//! File locks: `flock(2)`, and record locks of processes (`F_SETLK`) and of open files (`F_OFD_SETLK`).
//!
//! Locks hang on inodes, but few inodes ever have one: they live in a table by (device, inode number) that
//! holds an entry while there are locks or waiters. `flock` and record locks do not see each other, as on
//! Linux. A record lock's owner is a descriptor table (what POSIX calls the process) or an open file.
//!
//! Releasing: closing any descriptor of a file drops the table's record locks on it; the last close of an
//! open file drops its `flock` and its own record locks. Both ask a counter first, so that programs without
//! locks pay one load.

use alloc::{sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicUsize, Ordering};

use hashbrown::HashMap;

use super::file::OpenFile;
use crate::{
    TaskRef,
    errno::{Errno, Result},
    sync::{Interruptible, Once, PollEvents, Queue, SpinLock, WaitError, WaitQueue, wait_event},
};

/// Record locks one inode may have; more are `ENOLCK`.
const RECORDS_MAX: usize = 16 * 1024;

/// Who holds a record lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// A descriptor table, by its address, and the process that asked.
    Table(usize),
    /// An open file description, by its id.
    File(u64),
}

/// A locked range: bytes `start..=end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Who holds it.
    pub owner: Owner,
    /// The process, for `F_GETLK`; -1 for an open file's.
    pub pid: i32,
    /// First byte.
    pub start: u64,
    /// Last byte; `i64::MAX` for "to the end".
    pub end: u64,
    /// Exclusive.
    pub write: bool,
}

impl Record {
    fn overlaps(&self, other: &Record) -> bool {
        self.start <= other.end && other.start <= self.end
    }

    fn conflicts(&self, other: &Record) -> bool {
        self.owner != other.owner && (self.write || other.write) && self.overlaps(other)
    }
}

/// Record locks of one inode; those of one owner do not overlap.
#[derive(Default, Debug)]
struct Records(Vec<Record>);

impl Records {
    fn conflict(&self, wanted: &Record) -> Option<Record> {
        self.0.iter().find(|held| held.conflicts(wanted)).copied()
    }

    /// Takes `range` from its owner, splitting what sticks out.
    fn clear(&mut self, range: &Record) {
        let mut kept = Vec::with_capacity(self.0.len() + 1);
        for held in self.0.drain(..) {
            if held.owner != range.owner || !held.overlaps(range) {
                kept.push(held);
                continue;
            }
            if held.start < range.start {
                kept.push(Record { end: range.start - 1, ..held });
            }
            if held.end > range.end {
                kept.push(Record { start: range.end + 1, ..held });
            }
        }
        self.0 = kept;
    }

    /// Gives `lock`, joined with equal neighbours.
    fn set(&mut self, lock: Record) {
        self.clear(&lock);
        let mut lock = lock;
        self.0.retain(|held| {
            let same = held.owner == lock.owner && held.write == lock.write;
            let touches =
                held.start <= lock.end.saturating_add(1) && lock.start <= held.end.saturating_add(1);
            if same && touches {
                lock.start = lock.start.min(held.start);
                lock.end = lock.end.max(held.end);
            }
            !(same && touches)
        });
        self.0.push(lock);
    }
}

#[derive(Default)]
struct State {
    records: Records,
    /// (open file, exclusive)
    flocks: Vec<(u64, bool)>,
}

struct FileLocks {
    state: SpinLock<State>,
    changed: Queue,
}

type Key = (u64, u64);

fn table() -> &'static SpinLock<HashMap<Key, Arc<FileLocks>>> {
    static TABLE: Once<SpinLock<HashMap<Key, Arc<FileLocks>>>> = Once::new();
    TABLE.call_once(|| SpinLock::new(HashMap::new()))
}

/// Entries in the table.
static IN_USE: AtomicUsize = AtomicUsize::new(0);

/// Who waits for whom, to find a circle before it closes.
static WAITING: SpinLock<Vec<(Owner, Owner)>> = SpinLock::new(Vec::new());

fn key(file: &OpenFile) -> Key {
    let m = file.metadata();
    (m.dev, m.ino)
}

fn entry(file: &OpenFile) -> Arc<FileLocks> {
    let key = key(file);
    let mut table = table().lock();
    let new = || {
        IN_USE.fetch_add(1, Ordering::AcqRel);
        Arc::new(FileLocks { state: SpinLock::new(State::default()), changed: WaitQueue::new() })
    };
    table.entry(key).or_insert_with(new).clone()
}

/// Runs `change` on the locks of `file` if there are any, wakes waiters, and drops an entry nobody needs.
fn release(file: &OpenFile, change: impl FnOnce(&mut State)) {
    if IN_USE.load(Ordering::Acquire) == 0 {
        return;
    }
    let key = key(file);
    let Some(locks) = table().lock().get(&key).cloned() else { return };
    change(&mut locks.state.lock());
    locks.changed.wake_all(PollEvents::empty());
    let mut table = table().lock();
    let empty = {
        let state = locks.state.lock();
        state.records.0.is_empty() && state.flocks.is_empty()
    };
    // The table's reference and ours; a waiter or somebody about to lock has another.
    if empty && Arc::strong_count(&locks) == 2 {
        let removed = table.remove(&key);
        IN_USE.fetch_sub(1, Ordering::AcqRel);
        drop(table);
        drop(removed);
    }
}

/// A descriptor of `file` in the table at `owner` was closed.
pub(super) fn closed_by_table(file: &OpenFile, owner: usize) {
    release(file, |state| state.records.0.retain(|r| r.owner != Owner::Table(owner)));
}

/// The last reference to `file` went.
pub(super) fn released(file: &OpenFile) {
    let id = file.id();
    release(file, |state| {
        state.records.0.retain(|r| r.owner != Owner::File(id));
        state.flocks.retain(|(holder, _)| *holder != id);
    });
}

/// Waits until `attempt` succeeds.
fn wait(task: &TaskRef, locks: &FileLocks, mut attempt: impl FnMut() -> Option<()>) -> Result<()> {
    match wait_event(task, &locks.changed, Interruptible::Yes, None, &mut attempt) {
        Ok(()) => Ok(()),
        Err(WaitError::Interrupted) => Err(Errno::ERESTARTSYS),
        Err(WaitError::TimedOut) => Err(Errno::EAGAIN),
    }
}

/// The lock that keeps `wanted` from being given, if any (`F_GETLK`).
pub fn test_record(file: &OpenFile, wanted: &Record) -> Option<Record> {
    if IN_USE.load(Ordering::Acquire) == 0 {
        return None;
    }
    let locks = table().lock().get(&key(file)).cloned()?;
    let state = locks.state.lock();
    state.records.conflict(wanted)
}

/// Drops the owner's locks in a range.
pub fn unlock_record(file: &OpenFile, range: &Record) {
    release(file, |state| state.records.clear(range));
}

/// Gives `wanted`; if it conflicts, waits for `task` or fails with `EAGAIN`. `EDEADLK` if waiting would close
/// a circle of processes.
pub fn lock_record(file: &OpenFile, wanted: Record, task: Option<&TaskRef>) -> Result<()> {
    let locks = entry(file);
    if locks.state.lock().records.0.len() >= RECORDS_MAX {
        return Err(Errno::ENOLCK);
    }
    let attempt = || {
        let mut state = locks.state.lock();
        match state.records.conflict(&wanted) {
            Some(held) => Err(held),
            None => {
                state.records.set(wanted);
                Ok(())
            }
        }
    };
    let result = match (attempt(), task) {
        (Ok(()), _) => Ok(()),
        (Err(_), None) => Err(Errno::EAGAIN),
        (Err(held), Some(task)) => match start_waiting(wanted.owner, held.owner) {
            Err(e) => Err(e),
            Ok(()) => {
                let result = wait(task, &locks, || attempt().ok());
                WAITING.lock().retain(|(waiter, _)| *waiter != wanted.owner);
                result
            }
        },
    };
    locks.changed.wake_all(PollEvents::empty()); // a downgrade lets readers in
    drop(locks);
    release(file, |_| {}); // forget the entry if nothing was locked
    result
}

fn start_waiting(waiter: Owner, holder: Owner) -> Result<()> {
    let mut waiting = WAITING.lock();
    let mut at = holder;
    // A chain longer than the list of waiters would be a circle.
    for _ in 0..=waiting.len() {
        if at == waiter {
            return if matches!(waiter, Owner::Table(_)) { Err(Errno::EDEADLK) } else { Ok(()) };
        }
        match waiting.iter().find(|(w, _)| *w == at) {
            Some((_, next)) => at = *next,
            None => break,
        }
    }
    waiting.push((waiter, holder));
    Ok(())
}

/// `flock`: `None` unlocks. Waits for `task`, or fails with `EAGAIN` without one.
pub fn flock(file: &OpenFile, exclusive: Option<bool>, task: Option<&TaskRef>) -> Result<()> {
    let id = file.id();
    let Some(exclusive) = exclusive else {
        release(file, |state| state.flocks.retain(|(holder, _)| *holder != id));
        return Ok(());
    };
    let locks = entry(file);
    let attempt = || {
        let mut state = locks.state.lock();
        if state.flocks.contains(&(id, exclusive)) {
            return Some(());
        }
        // A conversion gives up the old lock first, as on Linux.
        state.flocks.retain(|(holder, _)| *holder != id);
        if state.flocks.iter().any(|(_, held_exclusive)| *held_exclusive || exclusive) {
            return None;
        }
        state.flocks.push((id, exclusive));
        Some(())
    };
    let result = match (attempt(), task) {
        (Some(()), _) => Ok(()),
        (None, None) => Err(Errno::EAGAIN),
        (None, Some(task)) => wait(task, &locks, attempt),
    };
    locks.changed.wake_all(PollEvents::empty());
    drop(locks);
    release(file, |_| {});
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::{AnonInode, OpenFlags};

    fn record(owner: u64, start: u64, end: u64, write: bool) -> Record {
        Record { owner: Owner::File(owner), pid: -1, start, end, write }
    }

    #[test]
    fn ranges_split_join_and_conflict() {
        let mut r = Records::default();
        r.set(record(1, 0, 99, true));
        r.clear(&record(1, 40, 59, true));
        assert_eq!(r.0, [record(1, 0, 39, true), record(1, 60, 99, true)]);
        assert!(r.conflict(&record(2, 39, 39, false)).is_some());
        assert!(r.conflict(&record(2, 40, 59, true)).is_none());
        assert!(r.conflict(&record(1, 0, 99, true)).is_none(), "an owner does not block itself");
        r.set(record(1, 40, 59, true));
        assert_eq!(r.0, [record(1, 0, 99, true)]);
        r.set(record(1, 10, 19, false));
        assert_eq!(r.0.len(), 3);
        assert!(r.conflict(&record(2, 10, 19, false)).is_none(), "readers share");
    }

    #[test]
    fn locks_go_with_their_file_and_leave_nothing() {
        let file = AnonInode::open_for_test("a", OpenFlags::RDWR);
        lock_record(&file, record(file.id(), 0, 10, true), None).unwrap();
        assert_eq!(lock_record(&file, record(u64::MAX, 5, 5, false), None), Err(Errno::EAGAIN));
        assert!(test_record(&file, &record(u64::MAX, 10, 20, false)).is_some());
        flock(&file, Some(true), None).unwrap();
        let key = key(&file);
        drop(file);
        assert!(!table().lock().contains_key(&key));
    }

    #[test]
    fn flock_converts_and_excludes() {
        let a = AnonInode::open_for_test("a", OpenFlags::RDWR);
        let b = OpenFile::new(a.inode().clone(), None, a.path().clone(), OpenFlags::RDWR);
        flock(&a, Some(false), None).unwrap();
        flock(&b, Some(false), None).unwrap();
        assert_eq!(flock(&a, Some(true), None), Err(Errno::EAGAIN));
        flock(&b, None, None).unwrap();
        flock(&a, Some(true), None).unwrap();
        assert_eq!(flock(&b, Some(false), None), Err(Errno::EAGAIN));
    }

    #[test]
    fn a_circle_of_waiters_is_refused() {
        let (a, b, c) = (Owner::Table(1), Owner::Table(2), Owner::Table(3));
        start_waiting(a, b).unwrap();
        start_waiting(b, c).unwrap();
        assert_eq!(start_waiting(c, a), Err(Errno::EDEADLK));
        WAITING.lock().clear();
    }
}
