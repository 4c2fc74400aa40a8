//! SysV semaphores: semget, semop, semtimedop, semctl; and undoing at exit.
//!
//! The operations of one call happen all at once or not at all. Who cannot go on waits on the set's queue and
//! tries again when anything has changed; what it waits for is noted, for `GETNCNT` and `GETZCNT`.
//!
//! `SEM_UNDO`: a set keeps what each process has to take back, by the number of the process's [`UndoList`], and
//! the list keeps the sets; the end of the process goes through them ([`process_ended`]). Threads share the list,
//! as `CLONE_SYSVSEM` of the thread libraries has it; other processes never do.

use alloc::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    vec,
    vec::Vec,
};
use core::sync::atomic::{AtomicU64, Ordering};

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{
    ids::{
        self, IPC_INFO, IPC_NOWAIT, IPC_RMID, IPC_SET, IPC_STAT, Object, Permissions, READ, RawPermissions,
        WRITE,
    },
    objects,
};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    sync::{Interruptible, PollEvents, SpinLock, WaitError, WaitQueue, wait_event},
    syscall::{Ctx, Syscall, UserPtr},
    syscalls,
    task::Process,
    time::{TimeSpec, deadline_after},
};

/// Largest value (`SEMVMX`), and largest that undoing adds (`SEMAEM`).
const VALUE_MAX: i32 = 32_767;
const SEM_UNDO: i16 = 0x1000;

const GETPID: i32 = 11;
const GETVAL: i32 = 12;
const GETALL: i32 = 13;
const GETNCNT: i32 = 14;
const GETZCNT: i32 = 15;
const SETVAL: i32 = 16;
const SETALL: i32 = 17;
const SEM_STAT: i32 = 18;
const SEM_INFO: i32 = 19;
const SEM_STAT_ANY: i32 = 20;

/// `struct sembuf`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Operation {
    number: u16,
    change: i16,
    flags: i16,
}

#[derive(Clone, Copy, Default)]
struct Semaphore {
    value: i32,
    /// Who changed it last.
    pid: i32,
}

/// Somebody waits: for what number, for zero or for more.
struct Pending {
    token: u64,
    number: u16,
    zero: bool,
}

pub struct State {
    pub permissions: Permissions,
    semaphores: Vec<Semaphore>,
    /// By the list's number, then the semaphore's: what is added when the process ends.
    undo: BTreeMap<u64, BTreeMap<u16, i32>>,
    pending: Vec<Pending>,
    pub otime: i64,
    pub ctime: i64,
    removed: bool,
}

/// What an attempt at operations found.
enum Attempt {
    Done,
    /// This one has to wait.
    Blocked(Operation),
}

impl State {
    pub fn count(&self) -> usize {
        self.semaphores.len()
    }

    /// Does all operations or none. `ERANGE`.
    fn try_all(&mut self, operations: &[Operation], pid: i32, undo: Option<u64>) -> Result<Attempt> {
        // On a copy of what is touched, so that nothing has to be taken back.
        let mut values: BTreeMap<u16, i32> = BTreeMap::new();
        let mut adjustments: BTreeMap<u16, i32> = BTreeMap::new();
        for op in operations {
            let now = self.semaphores.get(usize::from(op.number)).ok_or(Errno::EFBIG)?.value;
            let value = values.entry(op.number).or_insert(now);
            let change = i32::from(op.change);
            if (change == 0 && *value != 0) || *value + change < 0 {
                return Ok(Attempt::Blocked(*op));
            }
            if *value + change > VALUE_MAX {
                return Err(Errno::ERANGE);
            }
            *value += change;
            if op.flags & SEM_UNDO != 0
                && let Some(list) = undo
            {
                let kept = || self.undo.get(&list).and_then(|u| u.get(&op.number)).copied().unwrap_or(0);
                let adjustment = adjustments.entry(op.number).or_insert_with(kept);
                *adjustment -= change;
                if !(-VALUE_MAX - 1..=VALUE_MAX).contains(adjustment) {
                    return Err(Errno::ERANGE);
                }
            }
        }
        for (number, value) in values {
            if let Some(s) = self.semaphores.get_mut(usize::from(number)) {
                *s = Semaphore { value, pid };
            }
        }
        if let Some(list) = undo.filter(|_| !adjustments.is_empty()) {
            self.undo.entry(list).or_default().extend(adjustments);
        }
        Ok(Attempt::Done)
    }

    /// Takes back what a process did: values stay within their bounds.
    fn undo(&mut self, list: u64, pid: i32) {
        for (number, adjustment) in self.undo.remove(&list).unwrap_or_default() {
            if let Some(s) = self.semaphores.get_mut(usize::from(number))
                && adjustment != 0
            {
                *s = Semaphore { value: (s.value + adjustment).clamp(0, VALUE_MAX), pid };
            }
        }
    }
}

/// A set of semaphores.
pub struct Set {
    state: SpinLock<State>,
    waiters: crate::sync::Queue,
}

impl Object for Set {
    fn permissions(&self) -> Permissions {
        self.state.lock().permissions
    }
}

impl Set {
    pub fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        f(&mut self.state.lock())
    }

    fn wake(&self) {
        self.waiters.wake_all(PollEvents::empty());
    }
}

static NEXT: AtomicU64 = AtomicU64::new(1);

/// The sets in which a process has something to take back.
pub struct UndoList {
    number: u64,
    sets: SpinLock<Vec<Weak<Set>>>,
}

impl UndoList {
    fn of(process: &Process) -> Arc<UndoList> {
        let new = || {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            Arc::new(UndoList { number, sets: SpinLock::new(Vec::new()) })
        };
        process.sem_undo.call_once(new).clone()
    }

    fn add(&self, set: &Arc<Set>) {
        let mut sets = self.sets.lock();
        sets.retain(|s| s.strong_count() > 0);
        if !sets.iter().any(|s| core::ptr::eq(s.as_ptr(), Arc::as_ptr(set))) {
            sets.push(Arc::downgrade(set));
        }
    }
}

/// Takes back what the process did with `SEM_UNDO`.
pub fn process_ended(process: &Process) {
    let Some(list) = process.sem_undo.get() else { return };
    let sets = core::mem::take(&mut *list.sets.lock());
    for set in sets.iter().filter_map(Weak::upgrade) {
        set.with(|s| {
            s.undo(list.number, process.pid);
            s.otime = ids::now();
        });
        set.wake();
    }
}

fn semget(ctx: &mut Ctx<'_>, key: i32, count: i32, flags: u32) -> Result {
    let space = objects(ctx.task);
    let [per_set, all, _, sets] = &space.limits.sem;
    let count = usize::try_from(count).map_err(|_| Errno::EINVAL)?;
    if count > per_set.load(Ordering::Relaxed) {
        return Err(Errno::EINVAL);
    }
    let fits = |there: &Set| if count > there.with(|s| s.count()) { Err(Errno::EINVAL) } else { Ok(()) };
    let in_use: usize = space.sem.all().iter().map(|(_, s)| s.with(|s| s.count())).sum();
    let make = || {
        if count == 0 {
            return Err(Errno::EINVAL);
        }
        if in_use + count > all.load(Ordering::Relaxed) {
            return Err(Errno::ENOSPC);
        }
        let mut semaphores = Vec::new();
        semaphores.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
        semaphores.resize(count, Semaphore::default());
        let state = State {
            permissions: Permissions::new(ctx.task, key, flags),
            semaphores,
            undo: BTreeMap::new(),
            pending: Vec::new(),
            otime: 0,
            ctime: ids::now(),
            removed: false,
        };
        Ok(Arc::new(Set { state: SpinLock::new(state), waiters: WaitQueue::new() }))
    };
    Ok(space.sem.get(ctx.task, key, flags, sets.load(Ordering::Relaxed), fits, make)? as usize)
}

fn semop(ctx: &mut Ctx<'_>, id: i32, operations: UserPtr<Operation>, count: usize) -> Result {
    semtimedop(ctx, id, operations, count, UserPtr::new(0))
}

fn semtimedop(
    ctx: &mut Ctx<'_>,
    id: i32,
    operations: UserPtr<Operation>,
    count: usize,
    timeout: UserPtr<TimeSpec>,
) -> Result {
    let timeout = match timeout.non_null() {
        Some(t) => Some(t.read()?),
        None => None,
    };
    let space = objects(ctx.task);
    let [_, _, max_operations, _] = &space.limits.sem;
    if count < 1 || id < 0 {
        return Err(Errno::EINVAL);
    }
    if count > max_operations.load(Ordering::Relaxed) {
        return Err(Errno::E2BIG);
    }
    let operations = operations.read_vec(count)?;
    let deadline = match timeout {
        Some(t) => Some(deadline_after(t.to_ns()?)),
        None => None,
    };
    let set = space.sem.find(id)?;
    let alters = operations.iter().any(|o| o.change != 0);
    let undo = operations.iter().any(|o| o.flags & SEM_UNDO != 0 && o.change != 0).then(|| {
        let list = UndoList::of(ctx.task.process());
        list.add(&set);
        list.number
    });
    set.with(|s| {
        if operations.iter().any(|o| usize::from(o.number) >= s.count()) {
            return Err(Errno::EFBIG);
        }
        s.permissions.check(ctx.task, if alters { WRITE } else { READ })
    })?;
    let token = NEXT.fetch_add(1, Ordering::Relaxed);
    let pid = ctx.task.pid();
    let attempt = || {
        let mut s = set.state.lock();
        s.pending.retain(|p| p.token != token);
        if s.removed {
            return Some(Err(Errno::EIDRM));
        }
        match s.try_all(&operations, pid, undo) {
            Err(e) => Some(Err(e)),
            Ok(Attempt::Done) => {
                s.otime = ids::now();
                Some(Ok(()))
            }
            Ok(Attempt::Blocked(op)) if op.flags as u32 & IPC_NOWAIT != 0 => Some(Err(Errno::EAGAIN)),
            Ok(Attempt::Blocked(op)) => {
                s.pending.push(Pending { token, number: op.number, zero: op.change == 0 });
                None
            }
        }
    };
    let result = wait_event(ctx.task, &set.waiters, Interruptible::Yes, deadline, attempt);
    match result {
        Ok(outcome) => outcome?,
        Err(e) => {
            set.with(|s| s.pending.retain(|p| p.token != token));
            // semop(2): never started again after a signal handler.
            return Err(if e == WaitError::TimedOut { Errno::EAGAIN } else { Errno::EINTR });
        }
    }
    if alters {
        set.wake();
    }
    Ok(0)
}

/// `struct semid64_ds` of x86-64.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct SemStat {
    permissions: RawPermissions,
    otime: i64,
    unused1: u64,
    ctime: i64,
    unused2: u64,
    count: u64,
    unused: [u64; 2],
}

fn stat(task: &TaskRef, id: i32, set: &Set) -> SemStat {
    set.with(|s| SemStat {
        permissions: s.permissions.raw(task, id),
        otime: s.otime,
        unused1: 0,
        ctime: s.ctime,
        unused2: 0,
        count: s.count() as u64,
        unused: [0; 2],
    })
}

fn value_in_range(value: i32) -> Result<i32> {
    if (0..=VALUE_MAX).contains(&value) { Ok(value) } else { Err(Errno::ERANGE) }
}

/// Commands that look at or change one semaphore.
fn one(ctx: &Ctx<'_>, set: &Set, number: i32, command: i32, arg: u64) -> Result {
    let altering = command == SETVAL;
    let new = if altering { value_in_range(arg as i32)? } else { 0 };
    let result = set.with(|s| {
        let index = usize::try_from(number).ok().filter(|n| *n < s.count()).ok_or(Errno::EINVAL)?;
        s.permissions.check(ctx.task, if altering { WRITE } else { READ })?;
        let waiting =
            |zero| s.pending.iter().filter(|p| usize::from(p.number) == index && p.zero == zero).count();
        let now = s.semaphores.get(index).copied().unwrap_or_default();
        Ok(match command {
            GETPID => now.pid as usize,
            GETVAL => now.value as usize,
            GETNCNT => waiting(false),
            GETZCNT => waiting(true),
            _ => {
                if let Some(semaphore) = s.semaphores.get_mut(index) {
                    *semaphore = Semaphore { value: new, pid: ctx.task.pid() };
                }
                s.undo.values_mut().for_each(|u| u.retain(|n, _| usize::from(*n) != index));
                s.ctime = ids::now();
                0
            }
        })
    });
    if altering {
        set.wake();
    }
    result
}

fn semctl(ctx: &mut Ctx<'_>, id: i32, number: i32, command: i32, arg: u64) -> Result {
    if id < 0 {
        return Err(Errno::EINVAL);
    }
    let space = objects(ctx.task);
    let out = UserPtr::<SemStat>::new(arg);
    match command {
        IPC_INFO | SEM_INFO => {
            let [per_set, all, operations, sets] = &space.limits.sem;
            let int = |n: &core::sync::atomic::AtomicUsize| n.load(Ordering::Relaxed) as i32;
            let (mut usz, mut aem) = (20, VALUE_MAX);
            if command == SEM_INFO {
                usz = space.sem.count() as i32;
                aem = space.sem.all().iter().map(|(_, s)| s.with(|s| s.count())).sum::<usize>() as i32;
            }
            // semmap, semmni, semmns, semmnu, semmsl, semopm, semume, semusz, semvmx, semaem
            let info = [
                int(all),
                int(sets),
                int(all),
                int(all),
                int(per_set),
                int(operations),
                int(operations),
                usz,
                VALUE_MAX,
                aem,
            ];
            UserPtr::new(arg).write(&info)?;
            Ok(space.sem.highest())
        }
        IPC_STAT | SEM_STAT | SEM_STAT_ANY => {
            let (id, set, returned) =
                space.sem.examine(ctx.task, id, command != IPC_STAT, command == SEM_STAT_ANY)?;
            out.write(&stat(ctx.task, id, &set))?;
            Ok(returned)
        }
        GETPID | GETVAL | GETNCNT | GETZCNT | SETVAL => one(ctx, &*space.sem.find(id)?, number, command, arg),
        GETALL => {
            let set = space.sem.find(id)?;
            let values: Vec<u16> = set.with(|s| {
                s.permissions.check(ctx.task, READ)?;
                Ok::<_, Errno>(s.semaphores.iter().map(|s| s.value as u16).collect())
            })?;
            ringfence_hal::user::copy_out(arg, values.as_bytes())?;
            Ok(0)
        }
        SETALL => {
            let set = space.sem.find(id)?;
            let count = set.with(|s| s.permissions.check(ctx.task, WRITE).map(|()| s.count()))?;
            let mut values = vec![0u16; count];
            ringfence_hal::user::copy_in(values.as_mut_bytes(), arg)?;
            for value in &values {
                value_in_range(i32::from(*value))?;
            }
            let pid = ctx.task.pid();
            set.with(|s| {
                for (semaphore, value) in s.semaphores.iter_mut().zip(&values) {
                    *semaphore = Semaphore { value: i32::from(*value), pid };
                }
                s.undo.clear();
                s.ctime = ids::now();
            });
            set.wake();
            Ok(0)
        }
        IPC_SET => {
            let new = out.read()?;
            let set = space.sem.owned(ctx.task, id)?;
            let mut permissions = set.permissions();
            permissions.set(ctx.task, &new.permissions)?;
            set.with(|s| {
                s.permissions = permissions;
                s.ctime = ids::now();
            });
            Ok(0)
        }
        IPC_RMID => {
            let set = space.sem.owned(ctx.task, id)?;
            drop(space.sem.remove(id));
            set.with(|s| s.removed = true);
            set.wake();
            Ok(0)
        }
        _ => Err(Errno::EINVAL),
    }
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    64 semget(key: i32, count: i32, flags: u32) Full "";
    65 semop(id: i32, operations: UserPtr<Operation>, count: usize) Full "";
    66 semctl(id: i32, number: i32, command: i32, arg: u64) Full "";
    220 semtimedop(id: i32, operations: UserPtr<Operation>, count: usize, timeout: UserPtr<TimeSpec>) Full "waiters are not served in order";
};

#[cfg(test)]
mod tests {
    use super::*;

    fn state(values: &[i32]) -> State {
        State {
            permissions: Permissions { key: 0, uid: 0, gid: 0, cuid: 0, cgid: 0, mode: 0o600 },
            semaphores: values.iter().map(|v| Semaphore { value: *v, pid: 0 }).collect(),
            undo: BTreeMap::new(),
            pending: Vec::new(),
            otime: 0,
            ctime: 0,
            removed: false,
        }
    }

    fn op(number: u16, change: i16, flags: i16) -> Operation {
        Operation { number, change, flags }
    }

    fn values(s: &State) -> Vec<i32> {
        s.semaphores.iter().map(|s| s.value).collect()
    }

    #[test]
    fn operations_happen_together_or_not_at_all() {
        let mut s = state(&[1, 0]);
        let both = [op(0, -1, 0), op(1, -1, 0)];
        assert!(matches!(s.try_all(&both, 1, None), Ok(Attempt::Blocked(o)) if o.number == 1));
        assert_eq!(values(&s), [1, 0]);
        assert!(matches!(
            s.try_all(&[op(1, 2, 0), op(1, -1, 0), op(0, 0, 0)], 1, None),
            Ok(Attempt::Blocked(_))
        ));
        assert!(matches!(s.try_all(&[op(1, 2, 0), op(1, -1, 0)], 1, None), Ok(Attempt::Done)));
        assert_eq!(values(&s), [1, 1]);
        assert!(matches!(s.try_all(&[op(0, VALUE_MAX as i16, 0)], 1, None), Err(Errno::ERANGE)));
    }

    #[test]
    fn what_a_process_did_is_taken_back() {
        let mut s = state(&[5, 0]);
        assert!(matches!(s.try_all(&[op(0, -3, SEM_UNDO), op(1, 1, 0)], 1, Some(7)), Ok(Attempt::Done)));
        assert!(matches!(s.try_all(&[op(0, -1, SEM_UNDO)], 2, Some(8)), Ok(Attempt::Done)));
        s.undo(7, 1);
        assert_eq!(values(&s), [4, 1]);
        s.undo(7, 1);
        s.undo(8, 2);
        assert_eq!(values(&s), [5, 1]);
    }
}
