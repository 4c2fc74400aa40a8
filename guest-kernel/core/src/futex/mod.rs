//! Futexes (futex(2)).
//!
//! A waiter checks that the word still holds the expected value and queues itself in a bucket of a hash
//! table, both under the bucket's lock; a waker changes the word first and then takes the same lock. So a
//! waker that comes after the check finds the waiter, and one that came before it is seen in the word.
//!
//! The word is read under the lock with the variant of the copy that does not resolve faults; on a fault the
//! lock is dropped, the page made present, and all is done again.
//!
//! Each task waits on at most one futex, so its entry needs no allocation of its own: the bucket holds a task
//! reference, and the task holds whether it was woken and which bucket it is in (`FUTEX_REQUEUE` moves it).
//!
//! Lock order: buckets in the order of their index, before everything but run queues.

mod pi;
mod robust;
mod several;
mod sys;

use alloc::{sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use ringfence_hal as hal;

pub use sys::TimedWait;

pub use robust::{RobustList, exit_robust_list};

use crate::{
    TaskRef,
    errno::{Errno, Result},
    mm::WordKey,
    sched,
    sync::{Interruptible, SpinLock, WaitError, wait_event_any},
    syscall::Syscall,
    task::pid::same_task,
};

/// The system calls of this module.
pub const SYSCALLS: &[&[Syscall]] = &[sys::SYSCALLS, several::SYSCALLS, robust::SYSCALLS];

const BUCKETS: usize = 64;

/// What a futex word is: two tasks that mean the same word have equal keys.
#[derive(Clone)]
pub struct Key {
    /// Address of the `Mm` or of the mapped object. Whoever waits keeps it alive.
    object: usize,
    offset: u64,
    /// Keeps a mapped object from going away while somebody waits on it.
    _hold: Option<Arc<dyn crate::mm::Mappable>>,
}

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        self.object == other.object && self.offset == other.offset
    }
}

impl Key {
    /// The key of the word at `addr`; `private` skips the look at what is mapped there.
    fn new(task: &TaskRef, addr: u64, private: bool) -> Result<Key> {
        if !addr.is_multiple_of(4) {
            return Err(Errno::EINVAL);
        }
        if addr >= hal::USER_END {
            return Err(Errno::EFAULT);
        }
        let mm = task.mm()?;
        let mm_key = |addr| Key { object: Arc::as_ptr(&mm) as usize, offset: addr, _hold: None };
        if private {
            return Ok(mm_key(addr));
        }
        Ok(match mm.word_key(addr)? {
            WordKey::Private { addr } => mm_key(addr),
            WordKey::Shared { object, offset } => {
                Key { object: Arc::as_ptr(&object).cast::<()>() as usize, offset, _hold: Some(object) }
            }
        })
    }

    fn bucket(&self) -> usize {
        let mixed = (self.object as u64 ^ self.offset.rotate_left(17)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 58) as usize % BUCKETS
    }
}

struct Waiter {
    key: Key,
    bitset: u32,
    task: TaskRef,
    /// Tells apart the entries of a task that waits on several words; 0 if it waits on one.
    tag: u32,
    /// Who holds the lock it waits for, of a priority-inheritance futex; 0 else.
    owner: i32,
}

type Bucket = SpinLock<Vec<Waiter>>;

static TABLE: [Bucket; BUCKETS] = [const { SpinLock::new(Vec::new()) }; BUCKETS];

fn bucket(index: usize) -> &'static Bucket {
    let [first, ..] = &TABLE;
    TABLE.get(index).unwrap_or(first)
}

/// A task's part of waiting.
#[derive(Default)]
pub struct FutexWait {
    woken: AtomicBool,
    bucket: AtomicUsize,
}

/// Wakes all matching waiters of `list` up to `count`; the tasks are woken by the caller, after the lock.
fn take_matching(list: &mut Vec<Waiter>, key: &Key, bitset: u32, count: usize, woken: &mut Vec<Waiter>) {
    let mut i = 0;
    let start = woken.len();
    while let Some(w) = list.get(i) {
        if woken.len() - start >= count {
            break;
        }
        if w.key == *key && w.bitset & bitset != 0 {
            woken.push(list.remove(i));
        } else {
            i += 1;
        }
    }
}

fn release(woken: &[Waiter]) -> usize {
    for w in woken {
        w.task.futex.woken.store(true, Ordering::Release);
        sched::wake(&w.task);
    }
    woken.len()
}

fn wake_key(key: &Key, bitset: u32, count: usize) -> usize {
    let mut woken = Vec::new();
    take_matching(&mut bucket(key.bucket()).lock(), key, bitset, count, &mut woken);
    release(&woken)
}

/// Wakes up to `count` tasks that wait on the word at `addr` in the caller's memory.
pub fn wake_address(task: &TaskRef, addr: u64, count: usize) -> usize {
    Key::new(task, addr, false).map_or(0, |key| wake_key(&key, u32::MAX, count))
}

/// `FUTEX_WAIT_BITSET`: sleeps while the word at `addr` is `expected`.
fn wait(
    task: &TaskRef,
    addr: u64,
    private: bool,
    expected: u32,
    bitset: u32,
    deadline: Option<u64>,
) -> Result<(), WaitFailed> {
    let key = Key::new(task, addr, private)?;
    let index = key.bucket();
    loop {
        let mut list = bucket(index).lock();
        match hal::user::try_load_u32(addr) {
            Ok(value) if value != expected => return Err(WaitFailed::Errno(Errno::EAGAIN)),
            Ok(_) => {
                task.futex.woken.store(false, Ordering::Relaxed);
                task.futex.bucket.store(index, Ordering::Relaxed);
                list.push(Waiter { key, bitset, task: task.clone(), tag: 0, owner: 0 });
                break;
            }
            Err(_) => {
                drop(list);
                hal::user::load_u32(addr).map_err(Errno::from)?;
            }
        }
    }
    let woken = || task.futex.woken.load(Ordering::Acquire).then_some(());
    let result = wait_event_any(task, Interruptible::Yes, deadline, woken);
    if result.is_err() && leave(task) {
        return result.map_err(WaitFailed::Wait);
    }
    Ok(()) // woken, if only in the last moment
}

enum WaitFailed {
    Errno(Errno),
    Wait(WaitError),
}

impl From<Errno> for WaitFailed {
    fn from(e: Errno) -> Self {
        WaitFailed::Errno(e)
    }
}

/// Takes the task's entry out of its bucket; `false` if somebody has woken it meanwhile.
fn leave(task: &TaskRef) -> bool {
    loop {
        let index = task.futex.bucket.load(Ordering::Acquire);
        let removed = {
            let mut list = bucket(index).lock();
            if task.futex.bucket.load(Ordering::Acquire) != index {
                continue; // requeued
            }
            list.iter().position(|w| same_task(&w.task, task)).map(|i| list.remove(i))
        };
        return removed.is_some();
    }
}

/// Locks one or two buckets in order and runs `f` on them.
fn with_two<R>(a: usize, b: usize, f: impl FnOnce(&mut Vec<Waiter>, Option<&mut Vec<Waiter>>) -> R) -> R {
    match a.cmp(&b) {
        core::cmp::Ordering::Equal => f(&mut bucket(a).lock(), None),
        core::cmp::Ordering::Less => {
            let mut first = bucket(a).lock();
            let mut second = bucket(b).lock();
            f(&mut first, Some(&mut second))
        }
        core::cmp::Ordering::Greater => {
            let mut second = bucket(b).lock();
            let mut first = bucket(a).lock();
            f(&mut first, Some(&mut second))
        }
    }
}

/// What `FUTEX_REQUEUE` and `FUTEX_CMP_REQUEUE` are asked to do.
struct Requeue {
    from: u64,
    to: u64,
    private: bool,
    wake: usize,
    requeue: usize,
    expected: Option<u32>,
}

fn requeue(task: &TaskRef, r: &Requeue) -> Result {
    let from = Key::new(task, r.from, r.private)?;
    let to = Key::new(task, r.to, r.private)?;
    let (a, b) = (from.bucket(), to.bucket());
    let mut woken = Vec::new();
    loop {
        let outcome = with_two(a, b, |source, mut target| {
            if let Some(expected) = r.expected {
                match hal::user::try_load_u32(r.from) {
                    Err(_) => return None,
                    Ok(v) if v != expected => return Some(Err(Errno::EAGAIN)),
                    Ok(_) => {}
                }
            }
            take_matching(source, &from, u32::MAX, r.wake, &mut woken);
            let mut moved = 0;
            let mut i = 0;
            while moved < r.requeue
                && let Some(w) = source.get_mut(i)
            {
                if w.key != from {
                    i += 1;
                    continue;
                }
                moved += 1;
                w.key = to.clone();
                match &mut target {
                    None => i += 1, // the same bucket: only the key changes
                    Some(target) => {
                        w.task.futex.bucket.store(b, Ordering::Release);
                        let w = source.remove(i);
                        target.push(w);
                    }
                }
            }
            Some(Ok(moved))
        });
        match outcome {
            Some(moved) => {
                let n = release(&woken);
                return Ok(n + moved?);
            }
            None => {
                hal::user::load_u32(r.from)?;
            }
        }
    }
}

/// `FUTEX_WAKE_OP`: changes the second word by `change`, wakes waiters of the first, and of the second if its
/// old value passes `test`.
fn wake_op(
    task: &TaskRef,
    addrs: (u64, u64),
    private: bool,
    counts: (usize, usize),
    change: impl Fn(u32) -> u32,
    test: impl Fn(u32) -> bool,
) -> Result {
    let first = Key::new(task, addrs.0, private)?;
    let second = Key::new(task, addrs.1, private)?;
    let mut woken = Vec::new();
    loop {
        let done = with_two(first.bucket(), second.bucket(), |a, b| {
            let Ok(old) = hal::user::try_load_u32(addrs.1) else { return false };
            match hal::user::try_cmpxchg_u32(addrs.1, old, change(old)) {
                Ok(Ok(_)) => {}
                Ok(Err(_)) | Err(_) => return false,
            }
            take_matching(a, &first, u32::MAX, counts.0, &mut woken);
            if test(old) {
                take_matching(b.unwrap_or(a), &second, u32::MAX, counts.1, &mut woken);
            }
            true
        });
        if done {
            return Ok(release(&woken));
        }
        // Makes the page present and writable without changing the word.
        let now = hal::user::load_u32(addrs.1)?;
        let _ = hal::user::cmpxchg_u32(addrs.1, now, now)?; // lost to another writer: the loop tries again
    }
}
