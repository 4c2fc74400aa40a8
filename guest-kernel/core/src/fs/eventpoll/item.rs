//! One file watched by one instance.

use alloc::{
    format,
    string::String,
    sync::{Arc, Weak},
    vec::Vec,
};
use core::sync::atomic::AtomicBool;

use super::{Epoll, Ready};
use crate::{
    fs::{FileRef, OpenFile},
    sync::{PollEvents, PollTable, SpinLock, Wake},
};

/// `EPOLLEXCLUSIVE`.
pub(super) const EXCLUSIVE: u32 = 1 << 28;
/// `EPOLLONESHOT`.
const ONESHOT: u32 = 1 << 30;
/// `EPOLLET`.
pub(super) const EDGE: u32 = 1 << 31;

/// How an instance knows an item.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Key {
    pub fd: i32,
    /// `OpenFile::id`.
    pub file: u64,
}

/// `struct epoll_event`, as `epoll_ctl` was given it.
#[derive(Clone, Copy, Debug)]
pub(super) struct EventSpec {
    pub events: u32,
    pub data: u64,
}

/// A file watched.
pub struct Item {
    epoll: Weak<Epoll>,
    /// The part of the instance that wake-ups reach: they must never hold the last reference to all of it.
    ready: Arc<Ready>,
    file: Weak<OpenFile>,
    key: Key,
    spec: SpinLock<EventSpec>,
    /// On the ready list.
    pub(super) queued: AtomicBool,
    table: SpinLock<Option<PollTable>>,
}

impl Item {
    pub(super) fn new(epoll: &Arc<Epoll>, file: &FileRef, key: Key, spec: EventSpec) -> Arc<Item> {
        Arc::new(Item {
            epoll: Arc::downgrade(epoll),
            ready: epoll.ready.clone(),
            file: Arc::downgrade(file),
            key,
            spec: SpinLock::new(spec),
            queued: AtomicBool::new(false),
            table: SpinLock::new(None),
        })
    }

    /// Registers with the file's wait queues; says what it is ready for.
    pub(super) fn register(self: &Arc<Self>, file: &FileRef) -> PollEvents {
        // For everything: a change of interest needs no new registration then, `wake` looks at it.
        let make = if self.is_exclusive() { PollTable::exclusive } else { PollTable::new };
        let mut table = make(self.clone(), PollEvents::all());
        let events = file.poll(Some(&mut table));
        *self.table.lock() = Some(table);
        events
    }

    /// The file, unless its last descriptor was closed.
    pub(super) fn file(&self) -> Option<FileRef> {
        self.file.upgrade()
    }

    pub(super) fn data(&self) -> u64 {
        self.spec.lock().data
    }

    pub(super) fn set_spec(&self, spec: EventSpec) {
        *self.spec.lock() = spec;
    }

    /// What is waited for, which always includes errors and hang-ups; nothing once a one-shot item has been reported.
    pub(super) fn interest(&self) -> PollEvents {
        PollEvents::from_bits_truncate(self.spec.lock().events)
    }

    pub(super) fn is_exclusive(&self) -> bool {
        self.spec.lock().events & EXCLUSIVE != 0
    }

    /// It has been reported. Whether it goes back on the ready list: it does if it is level-triggered.
    pub(super) fn reported(&self) -> bool {
        let mut spec = self.spec.lock();
        if spec.events & ONESHOT != 0 {
            spec.events &= EDGE | ONESHOT | EXCLUSIVE;
            return false;
        }
        spec.events & EDGE == 0
    }

    /// Gives up its registrations. It may still be on the ready list, but is interested in nothing any more.
    pub(super) fn detach(&self) {
        self.spec.lock().events = ONESHOT;
        let table = self.table.lock().take();
        drop(table); // takes the locks of wait queues
    }

    pub(super) fn fdinfo(&self) -> String {
        let spec = *self.spec.lock();
        format!(
            "tfd: {:8} events: {:8x} data: {:16x}  pos:0 ino:0 sdev:0\n",
            self.key.fd, spec.events, spec.data
        )
    }
}

impl Wake for Item {
    fn wake(self: Arc<Self>, events: PollEvents) {
        let interest = self.interest();
        if interest.is_empty() || (!events.is_empty() && !events.intersects(interest)) {
            return;
        }
        self.ready.add(&self);
    }

    /// As in Linux another instance is told as well unless somebody waits for this one.
    fn wake_exclusive(self: Arc<Self>, events: PollEvents) -> bool {
        let wanted = events.is_empty() || events.intersects(self.interest());
        let waited_for = wanted && !self.ready.queue.is_empty();
        self.wake(events);
        waited_for
    }
}

/// The last descriptor of a file was closed: nobody watches it any more.
pub fn detach_all(watchers: Vec<Weak<Item>>) {
    for item in watchers.iter().filter_map(Weak::upgrade) {
        if let Some(epoll) = item.epoll.upgrade() {
            let removed = epoll.items.lock().remove(&item.key);
            drop(removed);
        }
        item.detach();
    }
}
