//! Leases (fcntl(2), "Leases"): who holds one on a file is told before another open or truncation goes against it.
//!
//! A read lease is in the way of opens for writing and of truncation, a write lease of every open. The breaker
//! sends the holder its signal (`F_SETSIG`) and waits until the lease is given up or lowered, at most
//! `/proc/sys/fs/lease-break-time` seconds; then it is taken away. A lease belongs to the open file description.
//!
//! Few files have one: they are in a table by device and inode number, and who opens looks at a counter first.
//! Lock order: the table, then the leases of a file.
//!
//! Whether a lease can be given depends on who else has the file open, which [`OpenCounts`] knows. So does whether a file may
//! be written that processes run, or run that somebody writes (`ETXTBSY`): each side counts itself and then looks at the
//! other's count, so that of two that come at the same time at most one goes on.

use alloc::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    vec::Vec,
};
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use super::{FileType, Inode, OpenFile, OpenFlags, Subject, access::cap, owner::Owner};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    sync::{Interruptible, PollEvents, Queue, SpinLock, WaitError, wait_event},
    time::deadline_after,
};

/// Open file descriptions of an inode.
#[derive(Default)]
pub struct OpenCounts {
    /// Those only for reading.
    readers: AtomicU32,
    /// Those for writing.
    writers: AtomicU32,
    /// Those that are the program of a process; readers, too.
    running: AtomicU32,
}

impl OpenCounts {
    fn of(&self, flags: OpenFlags) -> &AtomicU32 {
        if flags.writable() { &self.writers } else { &self.readers }
    }

    pub(super) fn opened(&self, flags: OpenFlags) {
        self.of(flags).fetch_add(1, Ordering::SeqCst);
    }

    /// `ETXTBSY` if it is a program that runs.
    pub fn may_write(&self) -> Result<()> {
        if self.running.load(Ordering::SeqCst) == 0 { Ok(()) } else { Err(Errno::ETXTBSY) }
    }

    /// `ETXTBSY` if somebody has it open for writing.
    pub(super) fn may_run(&self) -> Result<()> {
        if self.writers.load(Ordering::SeqCst) == 0 { Ok(()) } else { Err(Errno::ETXTBSY) }
    }

    pub(super) fn run(&self) {
        self.running.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn run_ended(&self) {
        self.running.fetch_sub(1, Ordering::SeqCst);
    }

    pub(super) fn closed(&self, flags: OpenFlags) {
        self.of(flags).fetch_sub(1, Ordering::AcqRel);
    }
}

/// What a holder has, or is to have.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(i32)]
pub enum Lease {
    /// `F_RDLCK`.
    Read = 0,
    /// `F_WRLCK`.
    Write = 1,
}

struct Held {
    file: Weak<OpenFile>,
    id: u64,
    lease: Lease,
    owner: Arc<Owner>,
    /// Being broken: to what (nothing is none at all), and when it is taken away.
    breaking: Option<(Option<Lease>, u64)>,
}

#[derive(Default)]
struct FileLeases {
    held: SpinLock<Vec<Held>>,
    changed: Queue,
}

type Key = (u64, u64);

static TABLE: SpinLock<BTreeMap<Key, Arc<FileLeases>>> = SpinLock::new(BTreeMap::new());
/// Files in it.
static IN_USE: AtomicUsize = AtomicUsize::new(0);

/// `/proc/sys/fs/lease-break-time`, in seconds; 0 is never.
pub static BREAK_TIME: AtomicUsize = AtomicUsize::new(45);

fn key(inode: &dyn Inode) -> Key {
    let m = inode.metadata();
    (m.dev, m.ino)
}

fn find(inode: &dyn Inode) -> Option<Arc<FileLeases>> {
    if IN_USE.load(Ordering::Acquire) == 0 {
        return None;
    }
    TABLE.lock().get(&key(inode)).cloned()
}

/// Changes the leases of `inode`, tells those who wait for that, and forgets a file without any.
fn change(inode: &dyn Inode, f: impl FnOnce(&mut Vec<Held>)) {
    let Some(leases) = find(inode) else { return };
    let key = key(inode);
    let mut table = TABLE.lock();
    let none = {
        let mut held = leases.held.lock();
        f(&mut held);
        held.is_empty()
    };
    let removed = if none { table.remove(&key) } else { None };
    drop(table);
    if removed.is_some() {
        IN_USE.fetch_sub(1, Ordering::AcqRel);
    }
    leases.changed.wake_all(PollEvents::empty());
}

/// `F_SETLEASE`. `EACCES` for a file of another user, `EINVAL` if it is not a regular one, `EAGAIN` if the file is
/// open in a way that goes against it.
pub fn set(task: &TaskRef, file: &Arc<OpenFile>, wanted: Option<Lease>) -> Result<()> {
    let inode = &**file.inode();
    let credentials = task.credentials();
    let subject = Subject::of(&credentials);
    if subject.uid != inode.metadata().uid && !subject.capable(cap::LEASE) {
        return Err(Errno::EACCES);
    }
    let counts = inode.open_counts().filter(|_| file.kind() == FileType::Regular).ok_or(Errno::EINVAL)?;
    let id = file.id();
    let Some(wanted) = wanted else {
        let mut found = false;
        change(inode, |held| {
            found = held.iter().any(|h| h.id == id);
            held.retain(|h| h.id != id);
        });
        return if found { Ok(()) } else { Err(Errno::EAGAIN) };
    };
    let own_write = u32::from(file.flags().writable());
    let readers = counts.readers.load(Ordering::Acquire);
    let writers = counts.writers.load(Ordering::Acquire);
    let free = match wanted {
        Lease::Read => writers == 0,
        Lease::Write => writers == own_write && readers == 1 - own_write,
    };
    if !free {
        return Err(Errno::EAGAIN);
    }
    let owner = file.owner().clone();
    owner.set_default(task);
    let new = || {
        IN_USE.fetch_add(1, Ordering::AcqRel);
        Arc::default()
    };
    let key = key(inode);
    let mut table = TABLE.lock();
    let leases = table.entry(key).or_insert_with(new).clone();
    let mut outcome = Ok(());
    {
        let mut held = leases.held.lock();
        let others =
            |h: &&Held| h.id != id && (wanted == Lease::Write || matches!(h.breaking, Some((None, _))));
        if held.iter().find(others).is_some() {
            outcome = Err(Errno::EAGAIN);
        } else if let Some(mine) = held.iter_mut().find(|h| h.id == id) {
            mine.lease = wanted;
            mine.breaking = mine.breaking.filter(|(to, _)| *to < Some(wanted));
        } else {
            held.push(Held { file: Arc::downgrade(file), id, lease: wanted, owner, breaking: None });
        }
    }
    drop(table);
    change(inode, |_| {});
    outcome
}

/// `F_GETLEASE`: what it has, or is to have once what breaks it is settled.
pub fn get(file: &OpenFile) -> Option<Lease> {
    let leases = find(&**file.inode())?;
    let held = leases.held.lock();
    let mine = held.iter().find(|h| h.id == file.id())?;
    mine.breaking.map_or(Some(mine.lease), |(to, _)| to)
}

/// The open file description is gone.
pub(super) fn released(file: &OpenFile) {
    if IN_USE.load(Ordering::Relaxed) != 0 {
        let id = file.id();
        change(&**file.inode(), |held| held.retain(|h| h.id != id));
    }
}

/// Before `inode` is opened (for writing, if `write`) or truncated: breaks what is in the way and waits for it.
/// `except`: the open file that does it, whose own lease is not in the way. `EAGAIN` if it is not to wait.
pub(super) fn break_for(
    task: &TaskRef,
    inode: &dyn Inode,
    except: u64,
    write: bool,
    nonblocking: bool,
) -> Result<()> {
    let Some(leases) = find(inode) else { return Ok(()) };
    let to = if write { None } else { Some(Lease::Read) };
    let seconds = BREAK_TIME.load(Ordering::Relaxed) as u64;
    let deadline =
        if seconds == 0 { u64::MAX } else { deadline_after(seconds.saturating_mul(1_000_000_000)) };
    let in_the_way = |h: &Held| h.id != except && Some(h.lease) > to;
    let mut owners = Vec::new();
    for held in leases.held.lock().iter_mut().filter(|h| in_the_way(h)) {
        // Once for each way: a lease that is being lowered may still have to go.
        if held.breaking.is_none_or(|(already, _)| to < already) {
            held.breaking = Some((to, deadline));
            owners.push((held.file.clone(), held.owner.clone()));
        }
    }
    for (file, owner) in owners {
        if file.strong_count() > 0 {
            owner.lease_breaks();
        }
    }
    loop {
        let blocked = || {
            leases
                .held
                .lock()
                .iter()
                .filter(|h| in_the_way(h))
                .filter_map(|h| h.breaking)
                .map(|(_, at)| at)
                .min()
        };
        let Some(until) = blocked() else { return Ok(()) };
        if nonblocking {
            return Err(Errno::EAGAIN);
        }
        let until = (until != u64::MAX).then_some(until);
        let gone = || blocked().is_none().then_some(());
        match wait_event(task, &leases.changed, Interruptible::Yes, until, gone) {
            Ok(()) => return Ok(()),
            Err(WaitError::Interrupted) => return Err(Errno::ERESTARTSYS),
            Err(WaitError::TimedOut) => change(inode, |held| {
                let now = ringfence_hal::time::now();
                held.retain_mut(|h| match h.breaking {
                    Some((to, at)) if at <= now => {
                        h.breaking = None;
                        h.lease = to.unwrap_or(h.lease);
                        to.is_some()
                    }
                    _ => true,
                });
            }),
        }
    }
}
