//! epoll(7).
//!
//! What Linux does: an epoll instance keeps *items*, one for each (descriptor, open file) it watches, each
//! registered on the wait queues of its file. A wake-up puts the item on the instance's ready list;
//! `epoll_wait` asks the files of that list what they are really ready for, reports it, and puts
//! level-triggered items back.
//!
//! What we do: the same. An item is a [`Wake`](crate::sync::Wake) on its file's queues. It holds its file
//! weakly; the open file knows its items and detaches them when it goes.
//!
//! An instance may watch others, at most [`MAX_DEPTH`] deep and never in a circle.
//!
//! Lock order: [`Epoll::scan`] and the nesting lock (sleeping) → whatever `poll` of a file takes. A wake-up
//! comes with the lock of a file's wait queue held and takes the lock of [`Ready`], then the instance's own wait
//! queue: so no file is ever called with that locked, and since instances are not nested in circles, queues
//! are not either.

mod item;
mod sys;

use alloc::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    vec::Vec,
};
use core::sync::atomic::Ordering;

use item::{EventSpec, Key};
pub use item::{Item, detach_all};
pub(super) use sys::SYSCALLS;

use super::{File, FileRef};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    sync::{
        Interruptible, Mutex, PollEvents, PollTable, Queue, SpinLock, WaitError, WaitQueue, wait_event_any,
    },
};

/// How deep instances may be nested.
const MAX_DEPTH: usize = 5;

/// What may be ready, and who waits for that.
struct Ready {
    /// Items whose files may be ready, each at most once (`Item::queued`); `None` after the end.
    list: SpinLock<Option<VecDeque<Arc<Item>>>>,
    queue: Queue,
}

impl Ready {
    /// Puts an item on the list, unless it is there, and wakes one who waits.
    fn add(&self, item: &Arc<Item>) {
        if self.put_back(item) {
            self.queue.wake(PollEvents::READABLE, 1);
        }
    }

    /// Puts an item on the list; false if the instance is gone.
    fn put_back(&self, item: &Arc<Item>) -> bool {
        let mut list = self.list.lock();
        let Some(list) = &mut *list else { return false };
        if !item.queued.swap(true, Ordering::AcqRel) {
            list.push_back(item.clone());
        }
        true
    }

    /// Puts an item that could not be reported where it was.
    fn put_first(&self, item: Arc<Item>) {
        let mut list = self.list.lock();
        let Some(list) = &mut *list else { return };
        if !item.queued.swap(true, Ordering::AcqRel) {
            list.push_front(item);
        }
    }

    fn len(&self) -> usize {
        self.list.lock().as_ref().map_or(0, VecDeque::len)
    }

    fn pop(&self) -> Option<Arc<Item>> {
        self.list.lock().as_mut()?.pop_front()
    }

    /// Wakes another waiter if something is left for it. To who polls the instance that is nothing new.
    fn pass_on(&self) {
        if self.len() > 0 {
            self.queue.pass_on(PollEvents::READABLE);
        }
    }
}

/// An epoll instance.
pub struct Epoll {
    items: SpinLock<BTreeMap<Key, Arc<Item>>>,
    ready: Arc<Ready>,
    /// Held while the ready list is gone through, so that two callers do not report one event twice.
    scan: Mutex<()>,
}

/// Makes a change of who watches whom one at a time.
static NESTING: Mutex<()> = Mutex::new(());

impl Epoll {
    fn new() -> Arc<Epoll> {
        Arc::new(Epoll {
            items: SpinLock::new(BTreeMap::new()),
            ready: Arc::new(Ready { list: SpinLock::new(Some(VecDeque::new())), queue: WaitQueue::new() }),
            scan: Mutex::new(()),
        })
    }

    fn find(&self, key: Key) -> Result<Arc<Item>> {
        self.items.lock().get(&key).cloned().ok_or(Errno::ENOENT)
    }

    /// Watches `file`, which was named by descriptor `fd`.
    fn add(self: &Arc<Self>, fd: i32, file: &FileRef, spec: EventSpec) -> Result<()> {
        let inner = file.downcast::<Epoll>();
        let _nesting = inner.as_ref().map(|_| NESTING.lock());
        if let Some(inner) = &inner {
            // Neither may the instance be reached from what it is to watch, nor the chain become too long.
            let below = inner.depth_below(self).ok_or(Errno::ELOOP)?;
            if below + 1 >= MAX_DEPTH {
                return Err(Errno::ELOOP);
            }
        }
        let key = Key { fd, file: file.id() };
        let item = Item::new(self, file, key, spec);
        {
            let mut items = self.items.lock();
            if items.contains_key(&key) {
                return Err(Errno::EEXIST);
            }
            items.insert(key, item.clone());
        }
        file.watched_by(&item);
        let events = item.register(file);
        if events.intersects(item.interest()) {
            self.ready.add(&item);
        }
        Ok(())
    }

    fn modify(&self, key: Key, file: &FileRef, spec: EventSpec) -> Result<()> {
        let item = self.find(key)?;
        if item.is_exclusive() {
            return Err(Errno::EINVAL);
        }
        item.set_spec(spec);
        if file.poll(None).intersects(item.interest()) {
            self.ready.add(&item);
        }
        Ok(())
    }

    fn remove(&self, key: Key) -> Result<()> {
        let item = self.items.lock().remove(&key).ok_or(Errno::ENOENT)?;
        item.detach();
        Ok(())
    }

    /// How many levels of instances there are below this one; `None` if `target` is among them or it is too
    /// deep. Called with [`NESTING`] held, so the depth is bounded.
    fn depth_below(self: &Arc<Self>, target: &Arc<Epoll>) -> Option<usize> {
        self.depth_within(target, MAX_DEPTH)
    }

    fn depth_within(self: &Arc<Self>, target: &Arc<Epoll>, limit: usize) -> Option<usize> {
        if Arc::ptr_eq(self, target) || limit == 0 {
            return None;
        }
        let files: Vec<FileRef> = self.items.lock().values().filter_map(|i| i.file()).collect();
        let mut depth = 0;
        for inner in files.iter().filter_map(|f| f.downcast::<Epoll>()) {
            depth = depth.max(1 + inner.depth_within(target, limit - 1)?);
        }
        Some(depth)
    }

    /// Reports what is ready, at most `max` times, to `put`; says how many.
    fn collect(&self, max: usize, mut put: impl FnMut(usize, PollEvents, u64) -> Result<()>) -> Result {
        let _scan = self.scan.lock();
        let mut count = 0;
        let rounds = self.ready.len();
        let mut failed = None;
        for _ in 0..rounds {
            if count == max {
                break;
            }
            let Some(item) = self.ready.pop() else { break };
            // Before asking the file: what happens from here on queues the item anew.
            item.queued.store(false, Ordering::Release);
            let Some(file) = item.file() else { continue };
            let events = file.poll(None) & item.interest();
            if events.is_empty() {
                continue;
            }
            if let Err(e) = put(count, events, item.data()) {
                self.ready.put_first(item);
                failed = Some(e);
                break;
            }
            count += 1;
            if item.reported() {
                self.ready.put_back(&item); // behind those of this round
            }
        }
        self.ready.pass_on();
        match failed {
            Some(e) if count == 0 => Err(e),
            _ => Ok(count),
        }
    }

    /// `epoll_wait`.
    fn wait(
        &self,
        task: &TaskRef,
        max: usize,
        deadline: Option<u64>,
        mut put: impl FnMut(usize, PollEvents, u64) -> Result<()>,
    ) -> Result {
        loop {
            if self.ready.len() > 0 {
                let n = self.collect(max, &mut put)?;
                if n > 0 {
                    return Ok(n);
                }
            }
            let registration = self.ready.queue.register_exclusive(task.clone());
            let ready = || (self.ready.len() > 0).then_some(());
            let outcome = wait_event_any(task, Interruptible::Yes, deadline, ready);
            drop(registration);
            match outcome {
                Ok(()) => {}
                Err(e) => {
                    // A wake-up meant for us alone must not be lost.
                    self.ready.pass_on();
                    return if e == WaitError::TimedOut { Ok(0) } else { Err(Errno::EINTR) };
                }
            }
        }
    }
}

impl File for Epoll {
    fn poll(&self, table: Option<&mut PollTable>) -> PollEvents {
        if let Some(table) = table {
            table.register(&self.ready.queue);
        }
        let candidates = self.ready.list.lock().clone().unwrap_or_default();
        let ready = |item: &Arc<Item>| item.file().is_some_and(|f| f.poll(None).intersects(item.interest()));
        if candidates.iter().any(ready) { PollEvents::READABLE } else { PollEvents::empty() }
    }

    fn seek_ignored(&self) -> bool {
        true
    }

    fn fdinfo(&self) -> alloc::string::String {
        let items = self.items.lock();
        items.values().map(|i| i.fdinfo()).collect()
    }
}

impl Drop for Epoll {
    fn drop(&mut self) {
        let list = self.ready.list.lock().take();
        drop(list);
        let items = core::mem::take(&mut *self.items.lock());
        items.values().for_each(|item| item.detach());
    }
}

#[cfg(test)]
mod tests;
