//! SysV messages: msgget, msgsnd, msgrcv, msgctl.

use alloc::{collections::VecDeque, sync::Arc, vec, vec::Vec};
use core::sync::atomic::Ordering;

use ringfence_hal as hal;
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
    io::Sink,
    sync::{Interruptible, PollEvents, SpinLock, WaitError, WaitQueue, wait_event},
    syscall::{Ctx, Syscall, UserAddr, UserPtr},
    syscalls,
    task::Capabilities,
};

const MSG_NOERROR: u32 = 0o10000;
const MSG_EXCEPT: u32 = 0o20000;
const MSG_COPY: u32 = 0o40000;

const MSG_STAT: i32 = 11;
const MSG_INFO: i32 = 12;
const MSG_STAT_ANY: i32 = 13;

#[derive(Clone)]
struct Message {
    kind: i64,
    bytes: Vec<u8>,
}

/// What a receiver asks for.
#[derive(Clone, Copy)]
enum Wanted {
    Any,
    Equal(i64),
    NotEqual(i64),
    /// The lowest that is not above.
    UpTo(i64),
}

impl Wanted {
    fn new(kind: i64, flags: u32) -> Wanted {
        match kind {
            0 => Wanted::Any,
            n if n < 0 => Wanted::UpTo(n.checked_neg().unwrap_or(i64::MAX)),
            n if flags & MSG_EXCEPT != 0 => Wanted::NotEqual(n),
            n => Wanted::Equal(n),
        }
    }

    /// The place of the message it takes.
    fn find(self, messages: &VecDeque<Message>) -> Option<usize> {
        match self {
            Wanted::Any => (!messages.is_empty()).then_some(0),
            Wanted::Equal(n) => messages.iter().position(|m| m.kind == n),
            Wanted::NotEqual(n) => messages.iter().position(|m| m.kind != n),
            Wanted::UpTo(max) => {
                let fits = messages.iter().enumerate().filter(|(_, m)| m.kind <= max);
                fits.min_by_key(|(_, m)| m.kind).map(|(i, _)| i)
            }
        }
    }
}

pub struct State {
    pub permissions: Permissions,
    messages: VecDeque<Message>,
    pub bytes: usize,
    pub max_bytes: usize,
    pub stime: i64,
    pub rtime: i64,
    pub ctime: i64,
    pub lspid: i32,
    pub lrpid: i32,
    removed: bool,
}

impl State {
    pub fn count(&self) -> usize {
        self.messages.len()
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.bytes.saturating_add(bytes) <= self.max_bytes && self.messages.len() < self.max_bytes
    }

    /// Takes what is wanted, or says why not.
    fn receive(&mut self, wanted: Wanted, room: usize, flags: u32) -> Option<Result<Message>> {
        if self.removed {
            return Some(Err(Errno::EIDRM));
        }
        let index = wanted.find(&self.messages)?;
        if self.messages.get(index)?.bytes.len() > room && flags & MSG_NOERROR == 0 {
            return Some(Err(Errno::E2BIG));
        }
        let message = self.messages.remove(index)?;
        self.bytes -= message.bytes.len();
        Some(Ok(message))
    }
}

/// A message queue.
pub struct Queue {
    state: SpinLock<State>,
    waiters: crate::sync::Queue,
}

impl Object for Queue {
    fn permissions(&self) -> Permissions {
        self.state.lock().permissions
    }
}

impl Queue {
    pub fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        f(&mut self.state.lock())
    }
}

fn msgget(ctx: &mut Ctx<'_>, key: i32, flags: u32) -> Result {
    let space = objects(ctx.task);
    let max_bytes = space.limits.msgmnb.load(Ordering::Relaxed);
    let make = || {
        let state = State {
            permissions: Permissions::new(ctx.task, key, flags),
            messages: VecDeque::new(),
            bytes: 0,
            max_bytes,
            stime: 0,
            rtime: 0,
            ctime: ids::now(),
            lspid: 0,
            lrpid: 0,
            removed: false,
        };
        Ok(Arc::new(Queue { state: SpinLock::new(state), waiters: WaitQueue::new() }))
    };
    let max = space.limits.msgmni.load(Ordering::Relaxed);
    Ok(space.msg.get(ctx.task, key, flags, max, |_| Ok(()), make)? as usize)
}

/// These calls are not started again after a signal handler.
fn interrupted(e: WaitError) -> Errno {
    match e {
        WaitError::Interrupted => Errno::ERESTARTNOHAND,
        WaitError::TimedOut => Errno::EAGAIN,
    }
}

fn msgsnd(ctx: &mut Ctx<'_>, id: i32, from: UserAddr, size: usize, flags: u32) -> Result {
    let kind = UserPtr::<i64>::new(from.0).read()?;
    let space = objects(ctx.task);
    if size > space.limits.msgmax.load(Ordering::Relaxed) || id < 0 || kind < 1 {
        return Err(Errno::EINVAL);
    }
    let mut bytes = vec![0; size];
    hal::user::copy_in(&mut bytes, from.offset(8).0)?;
    let queue = space.msg.find(id)?;
    let mut message = Some(Message { kind, bytes });
    let mut send = || {
        let mut s = queue.state.lock();
        if s.removed {
            return Some(Err(Errno::EIDRM));
        }
        if let Err(e) = s.permissions.check(ctx.task, WRITE) {
            return Some(Err(e));
        }
        if !s.has_room(size) {
            return None;
        }
        if s.messages.try_reserve(1).is_err() {
            return Some(Err(Errno::ENOMEM));
        }
        s.messages.extend(message.take());
        s.bytes += size;
        s.lspid = ctx.task.pid();
        s.stime = ids::now();
        Some(Ok(()))
    };
    match send() {
        Some(outcome) => outcome?,
        None if flags & IPC_NOWAIT != 0 => return Err(Errno::EAGAIN),
        None => {
            wait_event(ctx.task, &queue.waiters, Interruptible::Yes, None, send).map_err(interrupted)??
        }
    }
    queue.waiters.wake_all(PollEvents::empty());
    Ok(0)
}

fn msgrcv(ctx: &mut Ctx<'_>, id: i32, to: UserAddr, size: usize, kind: i64, flags: u32) -> Result {
    if id < 0 || isize::try_from(size).is_err() {
        return Err(Errno::EINVAL);
    }
    if flags & MSG_COPY != 0 && (flags & MSG_EXCEPT != 0 || flags & IPC_NOWAIT == 0) {
        return Err(Errno::EINVAL);
    }
    let queue = objects(ctx.task).msg.find(id)?;
    let message = if flags & MSG_COPY != 0 {
        // For checkpoints: the message at a place, which stays.
        let s = queue.state.lock();
        s.permissions.check(ctx.task, READ)?;
        let index = usize::try_from(kind).map_err(|_| Errno::ENOMSG)?;
        let message = s.messages.get(index).ok_or(Errno::ENOMSG)?;
        if message.bytes.len() > size && flags & MSG_NOERROR == 0 {
            return Err(Errno::E2BIG);
        }
        message.clone()
    } else {
        let wanted = Wanted::new(kind, flags);
        let receive = || {
            let mut s = queue.state.lock();
            if let Err(e) = s.permissions.check(ctx.task, READ) {
                return Some(Err(if s.removed { Errno::EIDRM } else { e }));
            }
            let got = s.receive(wanted, size, flags);
            if let Some(Ok(_)) = &got {
                s.lrpid = ctx.task.pid();
                s.rtime = ids::now();
            }
            got
        };
        let message = match receive() {
            Some(outcome) => outcome?,
            None if flags & IPC_NOWAIT != 0 => return Err(Errno::ENOMSG),
            None => wait_event(ctx.task, &queue.waiters, Interruptible::Yes, None, receive)
                .map_err(interrupted)??,
        };
        queue.waiters.wake_all(PollEvents::empty());
        message
    };
    UserPtr::<i64>::new(to.0).write(&message.kind)?;
    Sink::user(to.offset(8).0, size).put_some(&message.bytes)
}

/// `struct msqid64_ds`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct MsgStat {
    permissions: RawPermissions,
    stime: i64,
    rtime: i64,
    ctime: i64,
    bytes: u64,
    count: u64,
    max_bytes: u64,
    lspid: i32,
    lrpid: i32,
    unused: [u64; 2],
}

/// `struct msginfo`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct MsgInfo {
    pool: i32,
    map: i32,
    max: i32,
    mnb: i32,
    mni: i32,
    segment_size: i32,
    tql: i32,
    segments: u16,
    pad: u16,
}

fn stat(task: &TaskRef, id: i32, queue: &Queue) -> MsgStat {
    queue.with(|s| MsgStat {
        permissions: s.permissions.raw(task, id),
        stime: s.stime,
        rtime: s.rtime,
        ctime: s.ctime,
        bytes: s.bytes as u64,
        count: s.messages.len() as u64,
        max_bytes: s.max_bytes as u64,
        lspid: s.lspid,
        lrpid: s.lrpid,
        unused: [0; 2],
    })
}

fn msgctl(ctx: &mut Ctx<'_>, id: i32, command: i32, buf: UserAddr) -> Result {
    if id < 0 || command < 0 {
        return Err(Errno::EINVAL);
    }
    let space = objects(ctx.task);
    let out = UserPtr::<MsgStat>::new(buf.0);
    match command {
        IPC_INFO | MSG_INFO => {
            let l = &space.limits;
            let (max, mnb, mni) = (&l.msgmax, &l.msgmnb, &l.msgmni);
            let int = |n: &core::sync::atomic::AtomicUsize| n.load(Ordering::Relaxed) as i32;
            // What Linux computes of constants that have meant nothing for long.
            let (mut pool, mut map, mut tql) = (int(mni) * int(mnb) / 1024, int(mnb), int(mnb));
            if command == MSG_INFO {
                let all = space.msg.all();
                pool = all.len() as i32;
                map = all.iter().map(|(_, q)| q.with(|s| s.messages.len())).sum::<usize>() as i32;
                tql = all.iter().map(|(_, q)| q.with(|s| s.bytes)).sum::<usize>() as i32;
            }
            UserPtr::new(buf.0).write(&MsgInfo {
                pool,
                map,
                max: int(max),
                mnb: int(mnb),
                mni: int(mni),
                segment_size: 16,
                tql,
                segments: 0xffff,
                pad: 0,
            })?;
            Ok(space.msg.highest())
        }
        IPC_STAT | MSG_STAT | MSG_STAT_ANY => {
            let (id, queue, returned) =
                space.msg.examine(ctx.task, id, command != IPC_STAT, command == MSG_STAT_ANY)?;
            out.write(&stat(ctx.task, id, &queue))?;
            Ok(returned)
        }
        IPC_SET => {
            let new = out.read()?;
            let queue = space.msg.owned(ctx.task, id)?;
            let mut permissions = queue.permissions();
            let max_bytes = usize::try_from(new.max_bytes).map_err(|_| Errno::EINVAL)?;
            if max_bytes > space.limits.msgmnb.load(Ordering::Relaxed)
                && !ctx.task.credentials().capable(Capabilities::SYS_RESOURCE)
            {
                return Err(Errno::EPERM);
            }
            permissions.set(ctx.task, &new.permissions)?;
            queue.with(|s| {
                s.permissions = permissions;
                s.max_bytes = max_bytes;
                s.ctime = ids::now();
            });
            queue.waiters.wake_all(PollEvents::empty());
            Ok(0)
        }
        IPC_RMID => {
            let queue = space.msg.owned(ctx.task, id)?;
            drop(space.msg.remove(id));
            let messages = queue.with(|s| {
                s.removed = true;
                core::mem::take(&mut s.messages)
            });
            drop(messages);
            queue.waiters.wake_all(PollEvents::empty());
            Ok(0)
        }
        _ => Err(Errno::EINVAL),
    }
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    68 msgget(key: i32, flags: u32) Full "";
    69 msgsnd(id: i32, msgp: UserAddr, size: usize, flags: u32) Full "";
    70 msgrcv(id: i32, msgp: UserAddr, size: usize, kind: i64, flags: u32) Full "";
    71 msgctl(id: i32, command: i32, buf: UserAddr) Full "";
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receivers_pick_by_type() {
        let messages: VecDeque<Message> =
            [5, 3, 9, 3].into_iter().map(|kind| Message { kind, bytes: Vec::new() }).collect();
        let find = |kind, flags| Wanted::new(kind, flags).find(&messages);
        assert_eq!(find(0, 0), Some(0));
        assert_eq!(find(9, 0), Some(2));
        assert_eq!(find(5, MSG_EXCEPT), Some(1));
        assert_eq!(find(-4, 0), Some(1));
        assert_eq!(find(-2, 0), None);
        assert_eq!(find(i64::MIN, 0), Some(1));
    }
}
