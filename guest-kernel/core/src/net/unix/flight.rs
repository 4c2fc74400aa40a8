//! Files on their way in messages (`SCM_RIGHTS`): counting them, and collecting those nobody can receive any more.
//!
//! A socket can be sent over a socket, and so into its own inbox or that of one that is in its inbox: such a circle
//! keeps itself alive. What Linux does, and we do: when a socket is closed while sockets are in flight, look which
//! of those in flight are referred to by nothing but messages, and of them, which lie in inboxes that can be
//! reached from a socket somebody holds, step by step. The rest is garbage: its messages are dropped.
//!
//! A connection that was not accepted yet counts as its listener: who can reach that can reach its inbox.
//!
//! That is safe on a picture taken inbox by inbox: a file leaves an inbox only through a socket that somebody
//! holds, and whatever such a socket's inbox held in the picture counts as reachable.
//!
//! Dropping files goes through a list, not by recursion: a chain of sockets, each in the inbox of the next, may be
//! longer than the kernel's stack is deep.
//!
//! Lock order: the collector's lock; then one socket's state at a time.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Weak},
    vec::Vec,
};
use core::sync::atomic::{AtomicUsize, Ordering};

use super::UnixSocket;
use crate::{
    TaskRef,
    errno::{Errno, Result},
    fs::{FileRef, FileType},
    net::SocketFile,
    sync::SpinLock,
    task::{Capabilities, limits::Resource},
};

/// Files in flight by user.
static USERS: SpinLock<BTreeMap<u32, usize>> = SpinLock::new(BTreeMap::new());
/// Sockets in flight.
static SOCKETS: AtomicUsize = AtomicUsize::new(0);
/// Sockets whose inboxes may hold sockets, by address.
static HOLDERS: SpinLock<BTreeMap<usize, Weak<UnixSocket>>> = SpinLock::new(BTreeMap::new());

/// The files of one message, counted for who sent them.
#[derive(Default)]
pub(crate) struct InFlight {
    files: Vec<FileRef>,
    uid: u32,
}

impl InFlight {
    /// Counts `files`. `ETOOMANYREFS` if the sender has more in flight than it may have open.
    pub fn new(task: &TaskRef, files: Vec<FileRef>) -> Result<InFlight> {
        if files.is_empty() {
            return Ok(InFlight::default());
        }
        let c = task.credentials();
        let privileged = c.capable(Capabilities::SYS_RESOURCE) || c.capable(Capabilities::SYS_ADMIN);
        let limit = task.process().limits.soft(Resource::OpenFiles);
        let mut users = USERS.lock();
        let count = users.entry(c.uid).or_default();
        if *count as u64 > limit && !privileged {
            return Err(Errno::ETOOMANYREFS);
        }
        *count += files.len();
        drop(users);
        SOCKETS.fetch_add(sockets(&files), Ordering::Relaxed);
        Ok(InFlight { files, uid: c.uid })
    }

    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Whether a socket is among them.
    pub fn has_sockets(&self) -> bool {
        sockets(&self.files) > 0
    }

    /// What a look without taking gets.
    pub fn copy(&self) -> Vec<FileRef> {
        self.files.clone()
    }

    /// Takes them: they are in flight no longer.
    pub fn take(&mut self) -> Vec<FileRef> {
        let files = core::mem::take(&mut self.files);
        if !files.is_empty() {
            SOCKETS.fetch_sub(sockets(&files), Ordering::Relaxed);
            let mut users = USERS.lock();
            if let Some(count) = users.get_mut(&self.uid) {
                *count = count.saturating_sub(files.len());
                if *count == 0 {
                    users.remove(&self.uid);
                }
            }
        }
        files
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let files = self.take();
        if !files.is_empty() {
            discard(files);
        }
    }
}

fn sockets(files: &[FileRef]) -> usize {
    files.iter().filter(|f| f.kind() == FileType::Socket).count()
}

/// Files to drop, and whether somebody is at it.
static DISCARDED: SpinLock<(Vec<FileRef>, bool)> = SpinLock::new((Vec::new(), false));

/// Drops files one after another, also those whose drop discards more.
fn discard(files: Vec<FileRef>) {
    {
        let mut list = DISCARDED.lock();
        list.0.extend(files);
        if list.1 {
            return;
        }
        list.1 = true;
    }
    loop {
        let next = {
            let mut list = DISCARDED.lock();
            let next = list.0.pop();
            list.1 = next.is_some();
            next
        };
        match next {
            Some(file) => drop(file),
            None => return,
        }
    }
}

/// `socket` got a message with sockets.
pub(super) fn holds_sockets(socket: &Arc<UnixSocket>) {
    HOLDERS.lock().insert(Arc::as_ptr(socket).addr(), Arc::downgrade(socket));
}

/// What is known of a socket in flight.
struct Candidate {
    file: FileRef,
    socket: usize,
    /// References from messages.
    messages: usize,
    /// References of our own.
    ours: usize,
}

/// Drops the messages of sockets nobody can reach. Called when a socket was closed.
pub(super) fn collect() {
    static COLLECTING: SpinLock<bool> = SpinLock::new(false);
    if SOCKETS.load(Ordering::Relaxed) == 0 || core::mem::replace(&mut *COLLECTING.lock(), true) {
        return;
    }
    let garbage = find_garbage();
    *COLLECTING.lock() = false;
    for socket in garbage {
        drop(socket.take_messages());
    }
}

fn find_garbage() -> Vec<Arc<UnixSocket>> {
    // The picture: which inbox holds which sockets.
    let holders: Vec<Arc<UnixSocket>> = HOLDERS.lock().values().filter_map(Weak::upgrade).collect();
    let mut inboxes: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
    let mut candidates: BTreeMap<u64, Candidate> = BTreeMap::new();
    let mut empty = Vec::new();
    for holder in &holders {
        let held = holder.sockets_in_inbox();
        let address = Arc::as_ptr(holder).addr();
        if held.is_empty() {
            empty.push(address);
        }
        for file in held {
            let unix = file.downcast::<SocketFile>().and_then(|f| f.downcast::<UnixSocket>());
            let Some(socket) = unix else { continue };
            inboxes.entry(holder.keeper()).or_default().push(file.id());
            let socket = Arc::as_ptr(&socket).addr();
            match candidates.get_mut(&file.id()) {
                Some(known) => known.messages += 1,
                None => {
                    let known = Candidate { file, socket, messages: 1, ours: 1 };
                    candidates.insert(known.file.id(), known);
                }
            }
        }
    }
    HOLDERS.lock().retain(|at, weak| weak.strong_count() > 0 && !empty.contains(at));
    // Those with other references than messages are roots, and so is every holder that is not in flight.
    candidates.retain(|_, c| Arc::strong_count(&c.file) == c.messages + c.ours);
    let unreachable: BTreeSet<usize> = candidates.values().map(|c| c.socket).collect();
    let mut alive: Vec<u64> = inboxes
        .iter()
        .filter(|(at, _)| !unreachable.contains(at))
        .flat_map(|(_, held)| held)
        .copied()
        .collect();
    while let Some(id) = alive.pop() {
        if let Some(found) = candidates.remove(&id) {
            alive.extend(inboxes.get(&found.socket).into_iter().flatten());
        }
    }
    let garbage: BTreeSet<usize> = candidates.values().map(|c| c.socket).collect();
    drop(candidates);
    holders.into_iter().filter(|h| garbage.contains(&h.keeper())).collect()
}
