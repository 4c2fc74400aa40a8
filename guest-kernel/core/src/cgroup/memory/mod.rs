//! The memory controller: how many page frames a group may have.
//!
//! # What Linux does
//! Frames are charged to the group of the task that causes their allocation and to all groups above it, and stay there
//! until they are freed, whoever uses them by then. At `memory.max` the group reclaims, then kills one of its own; above
//! `memory.high` its tasks are slowed down on their way to user mode. Charges are taken in batches kept by each CPU.
//!
//! # What we do
//! The same for frames of anonymous memory, shared memory and tmpfs, page caches and pipes, at the one place where those
//! are taken ([`crate::mm::charge`]). Page tables, kernel stacks and kernel objects are not charged. The frame remembers its
//! *owner*: the group's number and the kind of frame. Each CPU has a *stock* of frames charged to one group in advance
//! ([`stock`]), so most charges touch nothing that is shared.
//!
//! A charge that fails marks the group that was full as *short*. If it was for a page fault, the fault's out-of-memory path
//! asks this controller first ([`oom`]) and tries again. A system call fails with `ENOMEM`, and the killer is asked
//! before it returns to user mode, so that the group's eater ends whichever way it eats.
//!
//! `memory.low` and `memory.min` are kept, and protect nothing: what can be given up (clean copies, dentries) is given up as a
//! whole, whoever it belongs to. There is no swap.
//!
//! A [`Memory`] outlives its group while frames are charged to it: it is found by its number in a table.
//!
//! # Locks
//! A CPU's stock, and the table, are leaves; nothing is allocated or freed under a stock's lock.

pub(super) mod limit;
mod oom;
mod stock;

use alloc::{collections::BTreeMap, sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

pub(super) use oom::enforce;
pub use oom::{killed, notify_resume, victim_chosen};
pub(super) use stock::{ID_MAX, drain_all};

use super::{Cgroup, Controllers, MAX, Notifier};
use crate::{
    TaskRef,
    errno::Result,
    mm::charge::{self, Controller, Kind, Room},
    sync::RwSpinLock,
};

/// Kinds of frames that `memory.stat` tells apart.
pub(super) const KINDS: usize = 4;

/// What `memory.events` counts, in its order.
#[derive(Clone, Copy)]
pub(super) enum Event {
    High = 1,
    Max = 2,
    Oom = 3,
    OomKill = 4,
    OomGroupKill = 5,
}

/// Their names.
pub(super) const EVENTS: [&str; 6] = ["low", "high", "max", "oom", "oom_kill", "oom_group_kill"];

/// What the controller keeps for a group. Sizes are in frames.
pub(super) struct Memory {
    id: u32,
    /// That of the group above, unless that is the root.
    parent: Option<Arc<Memory>>,
    /// The group has the controller.
    enabled: AtomicBool,
    /// Charged here and below, stocks included.
    frames: AtomicU64,
    pub peak: AtomicU64,
    pub max: AtomicU64,
    pub high: AtomicU64,
    pub low: AtomicU64,
    pub min: AtomicU64,
    pub swap_max: AtomicU64,
    pub swap_high: AtomicU64,
    pub oom_group: AtomicBool,
    /// Charged here and below by kind, but for what stocks have not told yet.
    kinds: [AtomicI64; KINDS],
    /// Events here and below, and here.
    pub events: [AtomicU64; 6],
    pub events_local: [AtomicU64; 6],
    pub notifier: Notifier,
    pub notifier_local: Notifier,
    /// There are events nobody was told about yet.
    untold: AtomicBool,
    /// A charge failed because this group was full.
    short: AtomicBool,
}

/// Those that have the controller or frames, by number.
static TABLE: RwSpinLock<BTreeMap<u32, Arc<Memory>>> = RwSpinLock::new(BTreeMap::new());

fn find(id: u32) -> Option<Arc<Memory>> {
    TABLE.read().get(&id).cloned()
}

impl Memory {
    pub fn new(id: u32, parent: Option<&Arc<Memory>>) -> Arc<Memory> {
        Arc::new(Memory {
            id,
            parent: parent.cloned(),
            enabled: AtomicBool::new(false),
            frames: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            max: AtomicU64::new(MAX),
            high: AtomicU64::new(MAX),
            low: AtomicU64::new(0),
            min: AtomicU64::new(0),
            swap_max: AtomicU64::new(MAX),
            swap_high: AtomicU64::new(MAX),
            oom_group: AtomicBool::new(false),
            kinds: [const { AtomicI64::new(0) }; KINDS],
            events: [const { AtomicU64::new(0) }; 6],
            events_local: [const { AtomicU64::new(0) }; 6],
            notifier: Notifier::new(),
            notifier_local: Notifier::new(),
            untold: AtomicBool::new(false),
            short: AtomicBool::new(false),
        })
    }

    /// This one and those above it.
    fn chain(&self) -> impl Iterator<Item = &Memory> {
        core::iter::successors(Some(self), |memory| memory.parent.as_deref())
    }

    /// Frames charged, exactly: stocks are given back first.
    pub fn current(&self) -> u64 {
        drain_all();
        self.frames.load(Ordering::Relaxed)
    }

    /// Frames charged of one kind.
    pub fn of_kind(&self, kind: Kind) -> u64 {
        let count = self.kinds.get(kind as usize).map_or(0, |k| k.load(Ordering::Relaxed));
        u64::try_from(count).unwrap_or(0)
    }

    /// Counts `frames` here and above if all limits allow it. `Err` is the one whose limit does not.
    fn charge(&self, frames: u64) -> Result<(), &Memory> {
        for memory in self.chain() {
            let now = memory.frames.fetch_add(frames, Ordering::AcqRel) + frames;
            if now > memory.max.load(Ordering::Relaxed) {
                for counted in self.chain() {
                    counted.frames.fetch_sub(frames, Ordering::AcqRel);
                    if counted.id == memory.id {
                        break;
                    }
                }
                return Err(memory);
            }
        }
        for memory in self.chain() {
            memory.peak.fetch_max(memory.frames.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        Ok(())
    }

    /// Counts `frames` here and above, whatever the limits.
    fn charge_anyway(&self, frames: u64) {
        for memory in self.chain() {
            let now = memory.frames.fetch_add(frames, Ordering::AcqRel) + frames;
            memory.peak.fetch_max(now, Ordering::Relaxed);
        }
    }

    /// Gives `frames` back here and above.
    fn uncharge(&self, frames: u64) {
        for memory in self.chain() {
            memory.frames.fetch_sub(frames, Ordering::AcqRel);
        }
    }

    /// Counts frames by kind here and above.
    fn count_kinds(&self, kinds: [i64; KINDS]) {
        for memory in self.chain() {
            for (counter, delta) in memory.kinds.iter().zip(kinds).filter(|(_, delta)| *delta != 0) {
                counter.fetch_add(delta, Ordering::Relaxed);
            }
        }
    }

    /// Counts an event; who watches is told later, by [`Memory::tell`].
    fn note(&self, event: Event) {
        let add = |events: &[AtomicU64; 6]| {
            if let Some(counter) = events.get(event as usize) {
                counter.fetch_add(1, Ordering::Relaxed);
            }
        };
        add(&self.events_local);
        for memory in self.chain() {
            add(&memory.events);
            memory.untold.store(true, Ordering::Release);
        }
    }

    /// Whether it has not room for another frame.
    fn is_full(&self) -> bool {
        self.frames.load(Ordering::Acquire) >= self.max.load(Ordering::Relaxed)
    }

    /// The controller was enabled for its group, or taken from it: then it limits nothing any more.
    pub fn enable(self: &Arc<Self>, enabled: bool) {
        self.enabled.store(enabled, Ordering::Release);
        if enabled {
            TABLE.write().insert(self.id, self.clone());
            return;
        }
        for limit in [&self.max, &self.high, &self.swap_max, &self.swap_high] {
            limit.store(MAX, Ordering::Relaxed);
        }
        for protection in [&self.low, &self.min] {
            protection.store(0, Ordering::Relaxed);
        }
        self.oom_group.store(false, Ordering::Relaxed);
        sweep();
    }
}

/// Takes those out of the table that no frame and no group with the controller needs any more.
fn sweep() {
    drain_all();
    let needless = |memory: &Memory| {
        !memory.enabled.load(Ordering::Acquire) && memory.frames.load(Ordering::Acquire) == 0
    };
    let ids: Vec<u32> = TABLE.read().iter().filter(|(_, m)| needless(m)).map(|(id, _)| *id).collect();
    for id in ids {
        let removed = TABLE.write().remove(&id);
        drop(removed);
    }
}

impl Cgroup {
    /// The number of the group that pays for what its members use: the nearest with the controller; 0 for nobody.
    pub(super) fn payer(&self) -> u32 {
        self.chain()
            .find(|group| group.controllers().contains(Controllers::MEMORY))
            .map_or(0, |group| group.id)
    }

    /// Its children got the memory controller, or lost it.
    pub(super) fn memory_changed(self: &Arc<Self>, children: &[Arc<Cgroup>], enabled: bool) {
        for child in children.iter().filter(|_| enabled) {
            child.memory.enable(true);
        }
        if self.is_root() {
            charge::set_active(enabled || super::container::any());
        }
        // Who forks meanwhile sees what is enabled now, or its child is among the members.
        for process in self.members(true) {
            process.cgroup.refresh();
        }
        for child in children.iter().filter(|_| !enabled) {
            child.memory.enable(false);
        }
    }
}

struct Charges;

impl Controller for Charges {
    fn charge(&self, task: &TaskRef, kind: Kind, frames: usize) -> Result<u32> {
        stock::charge(task, kind, frames as u64)
    }

    fn uncharge(&self, owner: u32, frames: usize) {
        stock::uncharge(owner, frames as u64);
    }

    fn make_room(&self, task: &TaskRef) -> Room {
        oom::make_room(task)
    }
}

/// Has frames charged here once a group has the controller.
pub(super) fn register() {
    charge::install(&Charges);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_hold_on_every_level() {
        let a = Memory::new(10, None);
        let (b, c) = (Memory::new(11, Some(&a)), Memory::new(12, Some(&a)));
        a.max.store(100, Ordering::Relaxed);
        b.max.store(60, Ordering::Relaxed);
        let frames = |m: &Memory| m.frames.load(Ordering::Relaxed);
        assert!(b.charge(60).is_ok());
        assert_eq!(b.charge(1).err().map(|m| m.id), Some(11));
        assert!(c.charge(40).is_ok());
        assert_eq!(c.charge(1).err().map(|m| m.id), Some(10));
        assert_eq!((frames(&a), frames(&b), frames(&c)), (100, 60, 40), "what failed is not counted");
        assert!(a.is_full() && b.is_full() && !c.is_full());
        c.charge_anyway(5);
        assert_eq!((frames(&a), a.peak.load(Ordering::Relaxed)), (105, 105));
        c.uncharge(45);
        b.uncharge(60);
        assert_eq!((frames(&a), frames(&b), frames(&c), c.peak.load(Ordering::Relaxed)), (0, 0, 0, 45));
    }

    #[test]
    fn events_count_where_they_happen_and_above() {
        let a = Memory::new(20, None);
        let b = Memory::new(21, Some(&a));
        b.note(Event::OomKill);
        let count = |events: &[AtomicU64; 6]| events[4].load(Ordering::Relaxed);
        assert_eq!((count(&a.events), count(&a.events_local)), (1, 0));
        assert_eq!((count(&b.events), count(&b.events_local)), (1, 1));
    }

    #[test]
    fn a_group_with_frames_stays_in_the_table() {
        let a = Memory::new(30, None);
        a.enable(true);
        a.charge_anyway(1);
        a.enable(false);
        assert!(find(30).is_some());
        a.uncharge(1);
        sweep();
        assert!(find(30).is_none());
    }
}
