//! Supervisors: calls that another process decides on (seccomp_unotify(2)).
//!
//! A filter may have one listener, a descriptor. A task whose call the filter answers with `USER_NOTIF` queues a notice
//! there and sleeps until the supervisor has received it and sent an answer, or a signal comes. The notice lives in the
//! listener's list; whoever ends it (the answer, the signal, the listener's end) does so under the listener's lock.

use alloc::{sync::Arc, vec::Vec};

use ringfence_hal::UserRegs;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::bpf::Data;
use crate::{
    TaskRef,
    errno::{Errno, Result},
    fs::{File, OpenFile},
    sync::{Interruptible, PollEvents, PollTable, Queue, SpinLock, WaitQueue, wait_event},
    syscall::UserPtr,
    task::limits::Resource,
};

/// `SECCOMP_IOCTL_NOTIF_*`.
const RECV: u32 = 0xc050_2100;
const SEND: u32 = 0xc018_2101;
const ID_VALID: u32 = 0x4008_2102;
/// The same with the direction it was first published with.
const ID_VALID_OLD: u32 = 0x8008_2102;
const ADDFD: u32 = 0x4018_2103;
/// `SECCOMP_USER_NOTIF_FLAG_CONTINUE`.
const CONTINUE: u32 = 1;
const ADDFD_SETFD: u32 = 1;
const ADDFD_SEND: u32 = 2;
const O_CLOEXEC: u32 = 0o2_000_000;

/// `struct seccomp_notif`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Notice {
    id: u64,
    pid: u32,
    flags: u32,
    data: Data,
}

/// `struct seccomp_notif_resp`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Answer {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

/// `struct seccomp_notif_addfd`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct AddFd {
    id: u64,
    flags: u32,
    source: u32,
    new: u32,
    new_flags: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Not yet received.
    Waiting,
    /// The supervisor has it.
    Received,
    Answered(Answered),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Answered {
    /// The call is made.
    Continue,
    /// It returns this.
    Result(u64),
}

struct Call {
    id: u64,
    task: TaskRef,
    data: Data,
    phase: Phase,
}

#[derive(Default)]
struct State {
    calls: Vec<Call>,
    last_id: u64,
    /// The descriptor is closed.
    closed: bool,
    /// No task has the filter any more.
    nobody: bool,
}

/// What a filter and its supervisor share.
pub struct Listener {
    state: SpinLock<State>,
    queue: Queue,
    /// A task whose notice was received is only disturbed by fatal signals.
    killable: bool,
}

impl Listener {
    pub(super) fn new(killable: bool) -> Arc<Listener> {
        Arc::new(Listener { state: SpinLock::default(), queue: WaitQueue::new(), killable })
    }

    /// The last task with the filter is gone.
    pub(super) fn nobody_left(&self) {
        self.state.lock().nobody = true;
        self.queue.wake_all(PollEvents::empty());
    }

    fn phase(&self, id: u64) -> Option<Phase> {
        self.state.lock().calls.iter().find(|c| c.id == id).map(|c| c.phase)
    }

    /// Lets the supervisor decide on a call of the calling task. `false`: it is not made.
    pub(super) fn ask(&self, task: &TaskRef, regs: &mut UserRegs, data: &Data) -> bool {
        let id = {
            let mut s = self.state.lock();
            if s.closed {
                regs.rax = Errno::ENOSYS.to_rax();
                return false;
            }
            s.last_id += 1;
            let id = s.last_id;
            s.calls.push(Call { id, task: task.clone(), data: *data, phase: Phase::Waiting });
            id
        };
        self.queue.wake_all(PollEvents::empty());
        let answered = || match self.phase(id) {
            Some(Phase::Answered(a)) => Some(Some(a)),
            None => Some(None), // the listener was closed
            _ => None,
        };
        let received = || self.killable && self.phase(id) == Some(Phase::Received);
        let mut outcome = wait_event(task, &self.queue, Interruptible::Yes, None, || {
            answered().or_else(|| received().then_some(None))
        });
        if received() {
            outcome = wait_event(task, &self.queue, Interruptible::Killable, None, answered);
        }
        let removed = {
            let mut s = self.state.lock();
            s.calls.iter().position(|c| c.id == id).map(|i| s.calls.swap_remove(i))
        };
        drop(removed);
        match outcome {
            Ok(Some(Answered::Continue)) => true,
            Ok(Some(Answered::Result(value))) => {
                regs.rax = value;
                false
            }
            Ok(None) => {
                regs.rax = Errno::ENOSYS.to_rax();
                false
            }
            Err(_) => {
                regs.rax = Errno::ERESTARTSYS.to_rax();
                false
            }
        }
    }

    fn receive(&self, file: &OpenFile, task: &TaskRef, to: UserPtr<Notice>) -> Result {
        if to.read()?.as_bytes().iter().any(|b| *b != 0) {
            return Err(Errno::EINVAL);
        }
        let take = || {
            let mut s = self.state.lock();
            if let Some(call) = s.calls.iter_mut().find(|c| c.phase == Phase::Waiting) {
                call.phase = Phase::Received;
                let notice = Notice { id: call.id, pid: 0, flags: 0, data: call.data };
                return Some(Ok((notice, call.task.global_tid())));
            }
            s.nobody.then_some(Err(Errno::ENOENT))
        };
        let (mut notice, tid) = match take() {
            Some(notice) => notice?,
            None if file.nonblocking() => return Err(Errno::EAGAIN),
            None => wait_event(task, &self.queue, Interruptible::Yes, None, take)??,
        };
        self.queue.wake_all(PollEvents::empty());
        notice.pid = task.pids().show(tid) as u32; // as the supervisor numbers it
        if let Err(e) = to.write(&notice) {
            // As if it had not been taken.
            let mut s = self.state.lock();
            if let Some(call) = s.calls.iter_mut().find(|c| c.id == notice.id) {
                call.phase = Phase::Waiting;
            }
            return Err(e);
        }
        Ok(0)
    }

    fn answer(&self, id: u64, answered: Answered) -> Result<()> {
        {
            let mut s = self.state.lock();
            let call = s.calls.iter_mut().find(|c| c.id == id).ok_or(Errno::ENOENT)?;
            if call.phase != Phase::Received {
                return Err(Errno::EINPROGRESS);
            }
            call.phase = Phase::Answered(answered);
        }
        self.queue.wake_all(PollEvents::empty());
        Ok(())
    }

    fn send(&self, from: UserPtr<Answer>) -> Result {
        let a = from.read()?;
        if a.flags & !CONTINUE != 0 || (a.flags & CONTINUE != 0 && (a.error != 0 || a.value != 0)) {
            return Err(Errno::EINVAL);
        }
        let answered = match (a.flags & CONTINUE != 0, a.error) {
            (true, _) => Answered::Continue,
            (false, 0) => Answered::Result(a.value as u64),
            (false, error) => Answered::Result(i64::from(error) as u64),
        };
        self.answer(a.id, answered)?;
        Ok(0)
    }

    /// Gives a file of the supervisor to the task that waits.
    fn add_fd(&self, task: &TaskRef, from: UserPtr<AddFd>) -> Result {
        let a = from.read()?;
        let unknown = a.flags & !(ADDFD_SETFD | ADDFD_SEND) != 0 || a.new_flags & !O_CLOEXEC != 0;
        if unknown || (a.flags & ADDFD_SETFD == 0 && a.new != 0) {
            return Err(Errno::EINVAL);
        }
        let file = task.files()?.get(a.source as i32)?;
        let target = {
            let s = self.state.lock();
            let call = s.calls.iter().find(|c| c.id == a.id).ok_or(Errno::ENOENT)?;
            if call.phase != Phase::Received {
                return Err(Errno::EINPROGRESS);
            }
            call.task.clone()
        };
        let files = target.files()?;
        let limit = target.process().limits.soft(Resource::OpenFiles);
        let close_on_exec = a.new_flags & O_CLOEXEC != 0;
        let fd = if a.flags & ADDFD_SETFD != 0 {
            drop(files.replace(a.new as i32, file, close_on_exec, limit)?);
            a.new as usize
        } else {
            files.install(file, close_on_exec, limit)? as usize
        };
        if a.flags & ADDFD_SEND != 0 {
            self.answer(a.id, Answered::Result(fd as u64))?;
        }
        Ok(fd)
    }
}

/// The supervisor's end.
pub(super) struct ListenerFile(pub Arc<Listener>);

impl File for ListenerFile {
    fn poll(&self, table: Option<&mut PollTable>) -> PollEvents {
        if let Some(table) = table {
            table.register(&self.0.queue);
        }
        let s = self.0.state.lock();
        let mut events = PollEvents::empty();
        let any = |phase| s.calls.iter().any(|c| c.phase == phase);
        events.set(PollEvents::READABLE, any(Phase::Waiting));
        events.set(PollEvents::WRITABLE, any(Phase::Received));
        events.set(PollEvents::HUP, s.nobody);
        events
    }

    fn ioctl(&self, file: &OpenFile, task: &TaskRef, command: u32, arg: u64) -> Result {
        match command {
            RECV => self.0.receive(file, task, UserPtr::new(arg)),
            SEND => self.0.send(UserPtr::new(arg)),
            ID_VALID | ID_VALID_OLD => {
                let id = UserPtr::<u64>::new(arg).read()?;
                match self.0.phase(id) {
                    Some(Phase::Received) => Ok(0),
                    _ => Err(Errno::ENOENT),
                }
            }
            ADDFD => self.0.add_fd(task, UserPtr::new(arg)),
            _ => Err(Errno::EINVAL),
        }
    }
}

impl Drop for ListenerFile {
    fn drop(&mut self) {
        let calls = {
            let mut s = self.0.state.lock();
            s.closed = true;
            core::mem::take(&mut s.calls)
        };
        self.0.queue.wake_all(PollEvents::empty());
        drop(calls);
    }
}
