//! Wait queues.
//!
//! Linux's `wait_queue_head_t` is an intrusive list on which a sleeper, a poller or an epoll item hangs an
//! entry with a callback. Ours is a short vector of [`Wake`] references under a spin lock; the memory of the
//! vector is kept, so waiting does not allocate after the first time.
//!
//! Why no wake-up is lost. The sleeper does: (1) register, (2) mark itself blocked, (3) look at the
//! condition, (4) switch away if it still has to wait. The waker does: (a) change the state, (b) take the
//! queue's lock and wake what is registered. If (a) precedes (3) the sleeper sees the change; otherwise
//! (1) precedes (b), so the waker finds the entry, and, since (2) precedes (3), turns the sleeper runnable
//! again whether it has left its CPU or not (see `sched`).

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

use bitflags::bitflags;
use smallvec::SmallVec;

use super::SpinLock;
use crate::{TaskRef, errno::Errno, sched};

bitflags! {
    /// What a file is ready for: the values of `EPOLL*` (and of `POLL*`, which are the same bits).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct PollEvents: u32 {
        /// Readable.
        const IN = 0x1;
        /// Urgent data.
        const PRI = 0x2;
        /// Writable.
        const OUT = 0x4;
        /// Error; always reported.
        const ERR = 0x8;
        /// Hang-up; always reported.
        const HUP = 0x10;
        /// Invalid descriptor; `poll` only.
        const NVAL = 0x20;
        /// Normal data readable.
        const RDNORM = 0x40;
        /// Priority band readable.
        const RDBAND = 0x80;
        /// Normal data writable.
        const WRNORM = 0x100;
        /// Priority band writable.
        const WRBAND = 0x200;
        /// The peer shut down its writing half.
        const RDHUP = 0x2000;
    }
}

impl PollEvents {
    /// There is something to read.
    pub const READABLE: Self = Self::IN.union(Self::RDNORM);
    /// There is room to write.
    pub const WRITABLE: Self = Self::OUT.union(Self::WRNORM);
}

/// Something a wait queue can wake: a task, an epoll item, a completion.
pub trait Wake: Send + Sync {
    /// Called under the queue's lock: must not block and must not touch the same queue.
    fn wake(self: Arc<Self>, events: PollEvents);

    /// The same for an exclusive waiter. Whether that is enough: somebody will see to the events.
    fn wake_exclusive(self: Arc<Self>, events: PollEvents) -> bool {
        self.wake(events);
        true
    }
}

/// A wait queue as objects hold it: shared, so that a registration outlives neither side.
pub type Queue = Arc<WaitQueue>;

struct Entry {
    token: u64,
    wake: Arc<dyn Wake>,
    /// What the entry is interested in; empty means everything.
    interest: PollEvents,
    exclusive: bool,
}

/// A list of those waiting for one object to change.
#[derive(Default)]
pub struct WaitQueue {
    entries: SpinLock<SmallVec<[Entry; 1]>>,
}

static NEXT_TOKEN: AtomicU64 = AtomicU64::new(1);

impl WaitQueue {
    /// An empty queue.
    pub fn new() -> Queue {
        Arc::new(WaitQueue::default())
    }

    /// Wakes everybody whose interest meets `events`; of exclusive waiters only one where a single one can see to them: an
    /// end is for all.
    pub fn wake_all(&self, events: PollEvents) {
        let end = events.is_empty() || events.intersects(PollEvents::ERR | PollEvents::HUP);
        self.wake(events, if end { usize::MAX } else { 1 });
    }

    /// Wakes all shared waiters and at most `exclusive` exclusive ones; says how many exclusive ones.
    pub fn wake(&self, events: PollEvents, exclusive: usize) -> usize {
        let entries = self.entries.lock();
        let mut woken = 0;
        for e in entries.iter() {
            let interested = e.interest.is_empty() || events.is_empty() || e.interest.intersects(events);
            if !interested || (e.exclusive && woken >= exclusive) {
                continue;
            }
            if e.exclusive {
                woken += usize::from(e.wake.clone().wake_exclusive(events));
            } else {
                e.wake.clone().wake(events);
            }
        }
        woken
    }

    /// Wakes one exclusive waiter and nobody else: what is there was told of, and it is for one who waits.
    pub fn pass_on(&self, events: PollEvents) {
        let entries = self.entries.lock();
        if let Some(e) = entries.iter().find(|e| e.exclusive) {
            e.wake.clone().wake(events);
        }
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.entries.lock().is_empty()
    }

    /// Adds a waiter; it stays until the registration is dropped.
    pub fn register(self: &Arc<Self>, wake: Arc<dyn Wake>, interest: PollEvents) -> Registration {
        self.add(wake, interest, false)
    }

    /// Adds a waiter of which [`WaitQueue::wake`] wakes only as many as it is asked to.
    pub fn register_exclusive(self: &Arc<Self>, wake: Arc<dyn Wake>) -> Registration {
        self.add(wake, PollEvents::empty(), true)
    }

    fn add(self: &Arc<Self>, wake: Arc<dyn Wake>, interest: PollEvents, exclusive: bool) -> Registration {
        let token = NEXT_TOKEN.fetch_add(1, Ordering::Relaxed);
        self.entries.lock().push(Entry { token, wake, interest, exclusive });
        Registration { queue: self.clone(), token }
    }

    /// Adds a poller. As on Linux, who polled last is told first.
    fn add_poller(
        self: &Arc<Self>,
        wake: Arc<dyn Wake>,
        interest: PollEvents,
        exclusive: bool,
    ) -> Registration {
        let token = NEXT_TOKEN.fetch_add(1, Ordering::Relaxed);
        let entry = Entry { token, wake, interest, exclusive };
        let mut entries = self.entries.lock();
        if exclusive || entries.is_empty() {
            entries.push(entry);
        } else {
            entries.insert(0, entry);
        }
        Registration { queue: self.clone(), token }
    }

    fn remove(&self, token: u64) {
        let removed = {
            let mut entries = self.entries.lock();
            entries.iter().position(|e| e.token == token).map(|i| entries.remove(i))
        };
        drop(removed); // may release the last reference to a task or an epoll item: outside the lock
    }
}

/// A place on a [`WaitQueue`], given up on drop.
pub struct Registration {
    queue: Queue,
    token: u64,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.queue.remove(self.token);
    }
}

/// Collects the queues a file's `poll` looks at, so that the caller is woken when any of them changes.
pub struct PollTable {
    wake: Arc<dyn Wake>,
    interest: PollEvents,
    exclusive: bool,
    registrations: SmallVec<[Registration; 2]>,
}

impl PollTable {
    /// A table that will wake `wake` for `interest` (ERR and HUP always included).
    pub fn new(wake: Arc<dyn Wake>, interest: PollEvents) -> Self {
        PollTable { wake, interest: Self::always(interest), exclusive: false, registrations: SmallVec::new() }
    }

    /// The same for one of several of whom one is to be woken.
    pub fn exclusive(wake: Arc<dyn Wake>, interest: PollEvents) -> Self {
        PollTable { exclusive: true, ..PollTable::new(wake, interest) }
    }

    fn always(interest: PollEvents) -> PollEvents {
        interest | PollEvents::ERR | PollEvents::HUP
    }

    /// Changes the interest of registrations made from now on.
    pub fn set_interest(&mut self, interest: PollEvents) {
        self.interest = Self::always(interest);
    }

    /// Called by a file's `poll` for each queue whose wake-up may change its answer.
    pub fn register(&mut self, queue: &Queue) {
        self.registrations.push(queue.add_poller(self.wake.clone(), self.interest, self.exclusive));
    }

    /// The same for a queue of which only `events` matter, behind those whose own it is.
    pub fn register_for(&mut self, queue: &Queue, events: PollEvents) {
        let interest = self.interest & Self::always(events);
        self.registrations.push(queue.add(self.wake.clone(), interest, self.exclusive));
    }

    /// Gives up all registrations.
    pub fn clear(&mut self) {
        self.registrations.clear();
    }
}

/// Whether a signal ends a wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Interruptible {
    /// Any unblocked pending signal ends it.
    Yes,
    /// Only a fatal one (the thread group is exiting) ends it.
    Killable,
    /// Nothing ends it; only for waits that are certain to be short.
    No,
}

/// Why a wait ended without its condition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaitError {
    /// A signal is pending.
    Interrupted,
    /// The deadline passed.
    TimedOut,
}

impl From<WaitError> for Errno {
    /// The errors of a restartable call without its own notion of time-out.
    fn from(e: WaitError) -> Errno {
        match e {
            WaitError::Interrupted => Errno::ERESTARTSYS,
            WaitError::TimedOut => Errno::ETIMEDOUT,
        }
    }
}

/// Sleeps on `queue` until `condition` answers, a signal arrives or `deadline` (absolute `time::now()`
/// nanoseconds) passes. The condition is tried first without registering: the common case waits for nothing.
pub fn wait_event<T>(
    task: &TaskRef,
    queue: &Queue,
    interruptible: Interruptible,
    deadline: Option<u64>,
    mut condition: impl FnMut() -> Option<T>,
) -> Result<T, WaitError> {
    if let Some(v) = condition() {
        return Ok(v);
    }
    let _registration = queue.register(task.clone(), PollEvents::empty());
    sched::sleep_until(task, interruptible, deadline, condition)
}

/// As [`wait_event`], for whoever registered with any number of queues already.
pub fn wait_event_any<T>(
    task: &TaskRef,
    interruptible: Interruptible,
    deadline: Option<u64>,
    condition: impl FnMut() -> Option<T>,
) -> Result<T, WaitError> {
    sched::sleep_until(task, interruptible, deadline, condition)
}
