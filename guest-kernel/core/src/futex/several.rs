//! futex_waitv, futex_wake, futex_wait, futex_requeue: the calls of `futex2`, which name a word with its size.
//!
//! Waiting on several words puts an entry for each into its bucket, told apart by a tag. Whoever wakes one takes
//! that entry out; the task takes out the others and finds which is missing. An entry that was requeued meanwhile
//! is looked for in all buckets.

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use ringfence_hal as hal;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{Key, Requeue, TABLE, WaitFailed, Waiter, bucket, wake_key};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    sync::{Interruptible, WaitError, wait_event_any},
    syscall::{Ctx, Syscall, UserPtr},
    syscalls,
    task::pid::same_task,
    time::{TimeSpec, realtime_to_monotonic},
};

/// `FUTEX_WAITV_MAX`.
const WAITV_MAX: u32 = 128;

/// `struct futex_waitv`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Word {
    value: u64,
    addr: u64,
    flags: u32,
    reserved: u32,
}

const SIZE_MASK: u32 = 3;
const SIZE_U32: u32 = 2;
const PRIVATE: u32 = 128;

/// Whether the word is private. `EINVAL` for other sizes than 32 bits.
fn check_flags(flags: u32) -> Result<bool> {
    if flags & !(SIZE_MASK | PRIVATE) != 0 || flags & SIZE_MASK != SIZE_U32 {
        return Err(Errno::EINVAL);
    }
    Ok(flags & PRIVATE != 0)
}

/// A point of time on CLOCK_REALTIME (0) or CLOCK_MONOTONIC (1).
fn deadline(timeout: UserPtr<TimeSpec>, clock: i32) -> Result<Option<u64>> {
    let Some(timeout) = timeout.non_null() else { return Ok(None) };
    if !matches!(clock, 0 | 1) {
        return Err(Errno::EINVAL);
    }
    let ns = timeout.read()?.to_ns()?;
    Ok(Some(if clock == 0 { realtime_to_monotonic(ns) } else { ns }))
}

/// Puts the entries of `task` in; stops at the first word that has another value (`EAGAIN`) or faults.
fn enqueue(task: &TaskRef, words: &[(Key, u64, u32)]) -> Result<()> {
    for (tag, (key, addr, expected)) in words.iter().enumerate() {
        loop {
            let mut list = bucket(key.bucket()).lock();
            match hal::user::try_load_u32(*addr) {
                Ok(value) if value != *expected => return Err(Errno::EAGAIN),
                Ok(_) => {
                    let tag = tag as u32 + 1;
                    list.push(Waiter {
                        key: key.clone(),
                        bitset: u32::MAX,
                        task: task.clone(),
                        tag,
                        owner: 0,
                    });
                    break;
                }
                Err(_) => {
                    drop(list);
                    hal::user::load_u32(*addr)?;
                }
            }
        }
    }
    Ok(())
}

/// Takes all entries of `task` out; the first that somebody had taken already.
fn dequeue(task: &TaskRef, words: &[(Key, u64, u32)]) -> Option<usize> {
    let take = |index: usize, tag: u32| {
        let mut list = bucket(index).lock();
        let found = list.iter().position(|w| w.tag == tag && same_task(&w.task, task));
        let removed = found.map(|i| list.remove(i));
        drop(list);
        removed.is_some()
    };
    let mut woken = None;
    for (i, (key, _, _)) in words.iter().enumerate() {
        let tag = i as u32 + 1;
        let there = take(key.bucket(), tag) || (0..TABLE.len()).any(|index| take(index, tag));
        if !there && woken.is_none() {
            woken = Some(i);
        }
    }
    woken
}

fn wait_several(task: &TaskRef, words: &[(Key, u64, u32)], deadline: Option<u64>) -> Result {
    task.futex.woken.store(false, Ordering::Relaxed);
    if let Err(e) = enqueue(task, words) {
        // Only those up to the failing one are there; one of them may have been woken in the meantime.
        return dequeue_partial(task, words).ok_or(e);
    }
    let woken = || task.futex.woken.load(Ordering::Acquire).then_some(());
    let result = wait_event_any(task, Interruptible::Yes, deadline, woken);
    match (dequeue(task, words), result) {
        (Some(index), _) => Ok(index),
        (None, Err(WaitError::TimedOut)) => Err(Errno::ETIMEDOUT),
        // The time-out is a point of time: starting again is right.
        (None, _) => Err(Errno::ERESTARTSYS),
    }
}

/// After a failure half-way: the entries that were put in were the first ones.
fn dequeue_partial(task: &TaskRef, words: &[(Key, u64, u32)]) -> Option<usize> {
    let was_woken = task.futex.woken.load(Ordering::Acquire);
    let first_missing = dequeue(task, words);
    first_missing.filter(|_| was_woken)
}

fn futex_waitv(
    ctx: &mut Ctx<'_>,
    waiters: UserPtr<Word>,
    count: u32,
    flags: u32,
    timeout: UserPtr<TimeSpec>,
    clock: i32,
) -> Result {
    if flags != 0 || count == 0 || count > WAITV_MAX || waiters.is_null() {
        return Err(Errno::EINVAL);
    }
    let deadline = deadline(timeout, clock)?;
    let mut words = Vec::new();
    for word in waiters.read_vec(count as usize)? {
        let private = check_flags(word.flags)?;
        if word.reserved != 0 {
            return Err(Errno::EINVAL);
        }
        let value = u32::try_from(word.value).map_err(|_| Errno::EINVAL)?;
        words.push((Key::new(ctx.task, word.addr, private)?, word.addr, value));
    }
    wait_several(ctx.task, &words, deadline)
}

fn futex_wake(ctx: &mut Ctx<'_>, addr: u64, mask: u64, count: i32, flags: u32) -> Result {
    let private = check_flags(flags)?;
    let mask = u32::try_from(mask).ok().filter(|m| *m != 0).ok_or(Errno::EINVAL)?;
    let key = Key::new(ctx.task, addr, private)?;
    Ok(wake_key(&key, mask, count.max(0) as usize))
}

fn futex_wait(
    ctx: &mut Ctx<'_>,
    addr: u64,
    value: u64,
    mask: u64,
    flags: u32,
    timeout: UserPtr<TimeSpec>,
    clock: i32,
) -> Result {
    let private = check_flags(flags)?;
    let mask = u32::try_from(mask).ok().filter(|m| *m != 0).ok_or(Errno::EINVAL)?;
    let value = u32::try_from(value).map_err(|_| Errno::EINVAL)?;
    let deadline = deadline(timeout, clock)?;
    match super::wait(ctx.task, addr, private, value, mask, deadline) {
        Ok(()) => Ok(0),
        Err(WaitFailed::Errno(e)) => Err(e),
        Err(WaitFailed::Wait(WaitError::TimedOut)) => Err(Errno::ETIMEDOUT),
        Err(WaitFailed::Wait(WaitError::Interrupted)) => Err(Errno::ERESTARTSYS),
    }
}

fn futex_requeue(ctx: &mut Ctx<'_>, words: UserPtr<Word>, flags: u32, wake: i32, requeue: i32) -> Result {
    if flags != 0 || words.is_null() || wake < 0 || requeue < 0 {
        return Err(Errno::EINVAL);
    }
    let (from, to) = (words.read()?, words.index(1).read()?);
    let private = check_flags(from.flags)?;
    if check_flags(to.flags)? != private || from.reserved != 0 || to.reserved != 0 {
        return Err(Errno::EINVAL);
    }
    let expected = Some(u32::try_from(from.value).map_err(|_| Errno::EINVAL)?);
    let (wake, requeue) = (wake as usize, requeue as usize);
    let request = Requeue { from: from.addr, to: to.addr, private, wake, requeue, expected };
    super::requeue(ctx.task, &request)
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    449 futex_waitv(waiters: UserPtr<Word>, nr: u32, flags: u32, timeout: UserPtr<TimeSpec>, clockid: i32) Full "";
    454 futex_wake(uaddr: u64, mask: u64, nr: i32, flags: u32) Partial "32-bit words only; both of a requeue private or shared";
    455 futex_wait(uaddr: u64, value: u64, mask: u64, flags: u32, timeout: UserPtr<TimeSpec>, clockid: i32) Partial "32-bit words only";
    456 futex_requeue(words: UserPtr<Word>, flags: u32, wake: i32, requeue: i32) Partial "both words private or both shared";
};
