//! Priority-inheritance futexes (futex(2), FUTEX_LOCK_PI and its kin).
//!
//! What Linux does: the word holds the owner's thread id; who finds it taken sets FUTEX_WAITERS and waits, and the
//! owner runs with the priority of its highest waiter. Unlocking hands the lock to the next waiter.
//!
//! What we do: the same with real-time priorities; nice values are not inherited. A waiter's entry names
//! the owner it waits for, and who begins to wait lends its priority to the owner, to whom that one waits for, and so on.
//! What was lent is counted anew when a waiter leaves and when the owner unlocks. Unlocking writes the next waiter's id into the word under the bucket's lock, so nobody
//! overtakes it. When an owner dies, its waiters are woken and look again: one of them takes the word with
//! FUTEX_OWNER_DIED, as from a robust list.
//!
//! `FUTEX_WAIT_REQUEUE_PI` takes the lock in its own context after it was woken: requeueing wakes all it would move.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicUsize, Ordering};

use ringfence_hal as hal;

use super::{Key, TABLE, WaitFailed, Waiter, bucket, leave, release};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    sched,
    sync::{Interruptible, WaitError, wait_event_any},
    task::pid::same_task,
};

const OWNER_DIED: u32 = 0x4000_0000;
const WAITERS: u32 = 0x8000_0000;
const TID_MASK: u32 = 0x3fff_ffff;

/// Entries that name an owner.
static WAITING: AtomicUsize = AtomicUsize::new(0);

/// What one look at the word under the bucket's lock came to.
enum Look {
    Acquired,
    Queued,
    Busy,
    Fault,
    Failed(Errno),
    /// Somebody changed the word at the same time.
    Again,
}

/// Looks at the word, takes it if it is free, or (with `queue`) puts the task in.
fn look(task: &TaskRef, key: &Key, addr: u64, queue: bool, abandoned: bool) -> Look {
    let me = task.tid() as u32;
    let index = key.bucket();
    let mut list = bucket(index).lock();
    let Ok(word) = hal::user::try_load_u32(addr) else { return Look::Fault };
    let owner = word & TID_MASK;
    if owner == me {
        // Handed over while we were on our way, or locked by ourselves before.
        return Look::Failed(Errno::EDEADLK);
    }
    let exists = || task.pids().task(owner as i32).is_ok_and(|t| !t.is_exiting());
    let free = owner == 0 || (abandoned && !exists());
    if free {
        let others = list.iter().any(|w| w.key == *key && !same_task(&w.task, task));
        let died = if owner == 0 { word & OWNER_DIED } else { OWNER_DIED };
        let new = me | died | if others { WAITERS } else { 0 };
        return match hal::user::try_cmpxchg_u32(addr, word, new) {
            Ok(Ok(_)) => Look::Acquired,
            Ok(Err(_)) => Look::Again,
            Err(_) => Look::Fault,
        };
    }
    if !exists() {
        return Look::Failed(Errno::ESRCH);
    }
    if !queue {
        return Look::Busy;
    }
    match hal::user::try_cmpxchg_u32(addr, word, word | WAITERS) {
        Ok(Ok(_)) => {}
        Ok(Err(_)) => return Look::Again,
        Err(_) => return Look::Fault,
    }
    task.futex.woken.store(false, Ordering::Relaxed);
    task.futex.bucket.store(index, Ordering::Relaxed);
    list.push(Waiter { key: key.clone(), bitset: u32::MAX, task: task.clone(), tag: 0, owner: owner as i32 });
    WAITING.fetch_add(1, Ordering::Relaxed);
    Look::Queued
}

/// Makes the page of the word present and writable without changing the word.
fn touch(addr: u64) -> Result<()> {
    let now = hal::user::load_u32(addr)?;
    let _ = hal::user::cmpxchg_u32(addr, now, now)?; // lost to another writer: the caller looks again
    Ok(())
}

/// Whom the owner of a lock may in turn be waiting for, at most.
const CHAIN: usize = 64;

/// Who owns the lock that `task` waits for.
fn owner_of(task: &TaskRef) -> Option<TaskRef> {
    let list = bucket(task.futex.bucket.load(Ordering::Acquire)).lock();
    let owner = list.iter().find(|w| w.owner != 0 && same_task(&w.task, task))?.owner;
    drop(list);
    task.pids().task(owner).ok()
}

/// `task` has begun to wait: whom it waits for runs with its priority. `true`: it waits for itself.
fn lend(task: &TaskRef) -> bool {
    let priority = task.sched.priority();
    let mut at = task.clone();
    for _ in 0..CHAIN {
        let Some(owner) = owner_of(&at) else { return false };
        if same_task(&owner, task) {
            return true;
        }
        if owner.sched.boost() < priority {
            sched::realtime::set_boost(&owner, priority);
        }
        at = owner;
    }
    false
}

/// Counts anew what `owner` is lent.
fn settle(owner: &TaskRef) {
    let waiters = WAITING.load(Ordering::Relaxed);
    if owner.sched.boost() == 0 && waiters == 0 {
        return;
    }
    let of = |w: &Waiter| w.owner == owner.tid() && same_namespace(&w.task, owner);
    let lent = |index| {
        let list = bucket(index).lock();
        list.iter().filter(|w| of(w)).map(|w| w.task.sched.priority()).max().unwrap_or(0)
    };
    let most = (0..TABLE.len()).map(lent).max().unwrap_or(0);
    sched::realtime::set_boost(owner, most);
}

fn same_namespace(a: &TaskRef, b: &TaskRef) -> bool {
    Arc::ptr_eq(&a.process().pid_ns, &b.process().pid_ns)
}

/// `FUTEX_LOCK_PI`, or with `wait` false `FUTEX_TRYLOCK_PI`.
pub(super) fn lock(
    task: &TaskRef,
    addr: u64,
    private: bool,
    wait: bool,
    deadline: Option<u64>,
) -> Result<()> {
    let key = Key::new(task, addr, private)?;
    let mut abandoned = false;
    loop {
        match look(task, &key, addr, wait, abandoned) {
            Look::Acquired => return Ok(()),
            Look::Busy => return Err(Errno::EAGAIN),
            Look::Failed(e) => return Err(e),
            Look::Fault => touch(addr)?,
            Look::Again => {}
            Look::Queued => {
                if lend(task) {
                    let left = leave(task);
                    WAITING.fetch_sub(1, Ordering::Relaxed);
                    if left {
                        return Err(Errno::EDEADLK);
                    }
                    abandoned = true;
                    continue;
                }
                let woken = || task.futex.woken.load(Ordering::Acquire).then_some(());
                let result = wait_event_any(task, Interruptible::Yes, deadline, woken);
                let owner = if result.is_err() { owner_of(task) } else { None };
                let left = result.is_err() && leave(task);
                WAITING.fetch_sub(1, Ordering::Relaxed);
                if let Some(owner) = owner {
                    settle(&owner);
                }
                if left {
                    return Err(match result {
                        Err(WaitError::TimedOut) => Errno::ETIMEDOUT,
                        _ => Errno::ERESTARTNOINTR,
                    });
                }
                if hal::user::load_u32(addr)? & TID_MASK == task.tid() as u32 {
                    return Ok(()); // handed over
                }
                abandoned = true; // the owner has died: its id in the word means nothing
            }
        }
    }
}

/// `FUTEX_UNLOCK_PI`.
pub(super) fn unlock(task: &TaskRef, addr: u64, private: bool) -> Result<()> {
    let key = Key::new(task, addr, private)?;
    let me = task.tid() as u32;
    loop {
        let outcome = {
            let mut list = bucket(key.bucket()).lock();
            match hal::user::try_load_u32(addr) {
                Err(_) => None,
                Ok(word) if word & TID_MASK != me => return Err(Errno::EPERM),
                Ok(word) => {
                    // The most urgent one, and of those the first.
                    let waiters = list.iter().enumerate().filter(|(_, w)| w.key == key && w.owner != 0);
                    let next = waiters.rev().max_by_key(|(_, w)| w.task.sched.priority()).map(|(i, _)| i);
                    let new = match next.and_then(|i| list.get(i)) {
                        None => 0,
                        // As on Linux, whether or not more wait: the next unlock finds out.
                        Some(next) => next.task.tid() as u32 | WAITERS,
                    };
                    match hal::user::try_cmpxchg_u32(addr, word, new) {
                        Ok(Ok(_)) => {
                            let woken = next.map(|i| list.remove(i));
                            for w in list.iter_mut().filter(|w| w.key == key && w.owner != 0) {
                                w.owner = (new & TID_MASK) as i32;
                            }
                            Some(woken)
                        }
                        Ok(Err(_)) => continue,
                        Err(_) => None,
                    }
                }
            }
        };
        match outcome {
            Some(woken) => {
                if let Some(next) = &woken
                    && WAITING.load(Ordering::Relaxed) > 1
                {
                    settle(&next.task);
                }
                settle(task);
                release(woken.as_slice());
                return Ok(());
            }
            None => touch(addr)?,
        }
    }
}

/// `FUTEX_WAIT_REQUEUE_PI`: waits on the first word, then takes the lock that is the second.
pub(super) fn wait_requeue(
    task: &TaskRef,
    addrs: (u64, u64),
    private: bool,
    expected: u32,
    deadline: Option<u64>,
) -> Result<()> {
    if addrs.0 == addrs.1 {
        return Err(Errno::EINVAL);
    }
    match super::wait(task, addrs.0, private, expected, u32::MAX, deadline) {
        Ok(()) => lock(task, addrs.1, private, true, deadline),
        Err(WaitFailed::Errno(e)) => Err(e),
        Err(WaitFailed::Wait(WaitError::TimedOut)) => Err(Errno::ETIMEDOUT),
        Err(WaitFailed::Wait(WaitError::Interrupted)) => Err(Errno::EAGAIN),
    }
}

/// A task ends: who waits for it looks again.
pub(super) fn owner_gone(task: &TaskRef) {
    if WAITING.load(Ordering::Relaxed) == 0 {
        return;
    }
    for index in 0..TABLE.len() {
        let woken: alloc::vec::Vec<Waiter> = {
            let mut list = bucket(index).lock();
            list.extract_if(.., |w| w.owner == task.tid() && same_namespace(&w.task, task)).collect()
        };
        release(&woken);
    }
}
