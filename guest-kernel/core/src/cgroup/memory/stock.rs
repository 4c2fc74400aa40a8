//! Charges in advance: each CPU keeps some for one group.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use ringfence_hal::PerCpu;

use super::{Event, KINDS, Memory, find};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    mm::charge::Kind,
    sched::work,
    sync::{Once, SpinLock},
};

/// Frames charged at once; a CPU gives back what it has above twice as many.
const BATCH: u64 = 32;
/// An owner is the group's number above these bits, which are the kind.
const KIND_BITS: u32 = 2;
/// The largest number of a group that an owner can hold.
pub(in crate::cgroup) const ID_MAX: u32 = u32::MAX >> KIND_BITS;

/// What a CPU has charged and not used, and what it has not told by kind.
#[derive(Default)]
struct Stock {
    id: u32,
    memory: Option<Arc<Memory>>,
    frames: u64,
    kinds: [i64; KINDS],
}

impl Stock {
    /// Gives all back. To be done without the lock.
    fn settle(self) {
        if let Some(memory) = &self.memory {
            memory.uncharge(self.frames);
            memory.count_kinds(self.kinds);
        }
    }

    fn count(&mut self, kind: usize, delta: i64) {
        if let Some(counter) = self.kinds.get_mut(kind) {
            *counter += delta;
        }
    }
}

fn stocks() -> &'static PerCpu<SpinLock<Stock>> {
    static STOCKS: Once<PerCpu<SpinLock<Stock>>> = Once::new();
    STOCKS.call_once(|| PerCpu::new(|_| SpinLock::new(Stock::default())))
}

/// Gives back what all CPUs have.
pub(in crate::cgroup) fn drain_all() {
    for stock in stocks().iter() {
        let taken = core::mem::take(&mut *stock.lock());
        taken.settle();
    }
}

fn owner(id: u32, kind: usize) -> u32 {
    id << KIND_BITS | kind as u32
}

/// Charges `frames` to the group that pays for `task`.
pub(super) fn charge(task: &TaskRef, kind: Kind, frames: u64) -> Result<u32> {
    let id = task.process().cgroup.payer();
    if id == 0 {
        return Ok(0);
    }
    let kind = kind as usize;
    let mut stock = stocks().get().lock();
    if stock.id == id && stock.frames >= frames {
        stock.frames -= frames;
        stock.count(kind, frames as i64);
        return Ok(owner(id, kind));
    }
    drop(stock);
    charge_more(task, id, kind, frames)
}

#[cold]
fn charge_more(task: &TaskRef, id: u32, kind: usize, frames: u64) -> Result<u32> {
    let Some(memory) = find(id) else { return Ok(0) };
    let charged = take(task, &memory, frames)?;
    let over = |m: &Memory| m.frames.load(Ordering::Relaxed) > m.high.load(Ordering::Relaxed);
    if let Some(high) = memory.chain().find(|m| over(m)) {
        high.note(Event::High);
        task.work().fetch_or(work::NOTIFY, Ordering::Release);
    }
    put(&memory, charged - frames, kind, frames as i64);
    Ok(owner(id, kind))
}

/// Charges at least `frames`; the number.
fn take(task: &TaskRef, memory: &Memory, frames: u64) -> Result<u64> {
    let batch = frames.max(BATCH);
    if memory.charge(batch).is_ok() {
        return Ok(batch);
    }
    drain_all();
    let Err(full) = memory.charge(frames) else { return Ok(frames) };
    full.note(Event::Max);
    task.work().fetch_or(work::NOTIFY, Ordering::Release);
    if task.killed() || task.is_exiting() {
        // It gives everything back soon; until then it must not wait for others to.
        memory.charge_anyway(frames);
        return Ok(frames);
    }
    full.short.store(true, Ordering::Release);
    Err(Errno::ENOMEM)
}

/// Adds to this CPU's stock, which becomes `memory`'s if it is not; what was there is given back.
fn put(memory: &Arc<Memory>, frames: u64, kind: usize, delta: i64) {
    let mut new = Stock { id: memory.id, memory: Some(memory.clone()), ..Stock::default() };
    let excess = {
        let mut stock = stocks().get().lock();
        if stock.id != memory.id {
            core::mem::swap(&mut *stock, &mut new);
        }
        stock.frames += frames;
        stock.count(kind, delta);
        let excess = if stock.frames > 2 * BATCH { stock.frames - BATCH } else { 0 };
        stock.frames -= excess;
        excess
    };
    new.settle();
    if excess > 0 {
        memory.uncharge(excess);
    }
}

/// Frames of `owner` were freed.
pub(super) fn uncharge(owner: u32, frames: u64) {
    let (id, kind) = (owner >> KIND_BITS, (owner & ((1 << KIND_BITS) - 1)) as usize);
    let mut stock = stocks().get().lock();
    if stock.id == id && stock.frames + frames <= 2 * BATCH {
        stock.frames += frames;
        stock.count(kind, -(frames as i64));
        return;
    }
    drop(stock);
    if let Some(memory) = find(id) {
        put(&memory, frames, kind, -(frames as i64));
    }
}
