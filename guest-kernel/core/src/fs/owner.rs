//! Whom an open file signals: `F_SETOWN`, `F_SETOWN_EX`, `F_SETSIG` and `O_ASYNC` (fcntl(2)).
//!
//! What Linux does: a file that can signal keeps lists of those to tell (`fasync`), and tells them at each wake-up.
//! We hang the file itself on the wait queues its poll looks at ([`super::File::async_queues`]); a wake-up of one
//! sends the signal. So files without `O_ASYNC` pay nothing.
//!
//! Lock order: a wait queue (held by who wakes); the owner's state; then those of sending a signal.

use alloc::{sync::Arc, vec::Vec};

use super::{File, OpenFile, OpenFlags};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    kernel::kernel,
    ns::user::IdKind,
    signal::{
        self, SigInfo, Signal,
        types::{Fields, code},
    },
    sync::{PollEvents, Registration, SpinLock, Wake},
    task::{Credentials, Pid, Process},
};

/// `F_OWNER_TID`, `F_OWNER_PID`, `F_OWNER_PGRP`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(i32)]
pub enum Kind {
    /// One thread.
    Thread = 0,
    /// A process.
    Process = 1,
    /// A process group.
    Group = 2,
}

#[derive(Clone, Copy)]
struct State {
    /// The kernel's number; 0 for nobody.
    pid: Pid,
    kind: Kind,
    /// Who set it: the signal is sent as if by them.
    uid: u32,
    euid: u32,
    /// `F_SETSIG`: 0 is SIGIO without more to say.
    signal: u8,
    /// The descriptor signals tell.
    fd: i32,
}

/// The owner of an open file.
pub struct Owner {
    state: SpinLock<State>,
    /// While `O_ASYNC` is set.
    registrations: SpinLock<Vec<Registration>>,
}

/// `si_code` of these signals.
const POLL_IN: i32 = 1;
const POLL_OUT: i32 = 2;
const POLL_MSG: i32 = 3;
/// A bit of `si_band` that no poll has.
const POLLMSG: u32 = 0x400;
/// `si_band` of `POLL_MSG`.
const MESSAGE: u32 = PollEvents::IN.union(PollEvents::RDNORM).bits() | POLLMSG;

impl Owner {
    pub(super) fn new() -> Arc<Owner> {
        let state = State { pid: 0, kind: Kind::Process, uid: 0, euid: 0, signal: 0, fd: 0 };
        Arc::new(Owner { state: SpinLock::new(state), registrations: SpinLock::new(Vec::new()) })
    }

    /// Sets whom to signal, by a number as `task` sees it; 0 is nobody. `ESRCH`.
    pub fn set(&self, task: &TaskRef, kind: Kind, pid: Pid) -> Result<()> {
        let pids = task.pids();
        let pid = match kind {
            _ if pid == 0 => 0,
            Kind::Thread => pids.task(pid)?.tid(),
            Kind::Process => pids.process(pid)?.pid,
            Kind::Group => pids.group(pid)?.pgid,
        };
        let c = task.credentials();
        let mut s = self.state.lock();
        *s = State { pid, kind, uid: c.uid, euid: c.euid, ..*s };
        Ok(())
    }

    /// As [`Owner::set`] for `task` itself, if there is nobody yet.
    pub fn set_default(&self, task: &TaskRef) {
        if self.state.lock().pid == 0 {
            let _ = self.set(task, Kind::Process, task.pids().show(task.pid())); // it is there
        }
    }

    /// Whom it signals, as `task` sees them.
    pub fn get(&self, task: &TaskRef) -> (Kind, Pid) {
        let s = *self.state.lock();
        let pids = task.pids();
        let shown = pids.show(s.pid);
        let there = match s.kind {
            Kind::Thread => pids.task(shown).is_ok(),
            Kind::Process => pids.process(shown).is_ok(),
            Kind::Group => pids.group(shown).is_ok(),
        };
        (s.kind, if there { shown } else { 0 })
    }

    /// `F_GETOWNER_UIDS`, as `task` sees them.
    pub fn uids(&self, task: &TaskRef) -> [u32; 2] {
        let s = *self.state.lock();
        let ns = task.credentials().user_ns.clone();
        [s.uid, s.euid].map(|id| ns.from_kernel(IdKind::User, id).unwrap_or(u32::MAX))
    }

    /// `F_SETSIG`. `EINVAL`.
    pub fn set_signal(&self, number: u64) -> Result<()> {
        let number = u8::try_from(number).ok().filter(|n| *n <= 64).ok_or(Errno::EINVAL)?;
        self.state.lock().signal = number;
        Ok(())
    }

    /// `F_GETSIG`.
    pub fn signal(&self) -> u8 {
        self.state.lock().signal
    }

    /// A lease is being broken.
    pub(super) fn lease_breaks(&self) {
        self.send(POLL_MSG, MESSAGE);
    }

    /// Something happened in the directory `fd`.
    pub(super) fn directory_changed(&self, fd: i32) {
        let state = State { fd, ..*self.state.lock() };
        send(&state, POLL_MSG, MESSAGE);
    }

    /// The descriptor signals tell.
    pub fn set_fd(&self, fd: i32) {
        self.state.lock().fd = fd;
    }

    fn send(&self, reason: i32, band: u32) {
        let state = *self.state.lock();
        send(&state, reason, band);
    }
}

fn send(s: &State, reason: i32, band: u32) {
    if s.pid == 0 {
        return;
    }
    // Who wakes a queue is no task, perhaps.
    let kernel = kernel();
    match s.kind {
        Kind::Thread => {
            if let Ok(task) = kernel.pids.task(s.pid)
                && allowed(s, &task.credentials())
            {
                send_with(s, reason, band, |info| signal::send_to_task(&task, info));
            }
        }
        Kind::Process => {
            if let Ok(process) = kernel.pids.process(s.pid) {
                send_to_process(s, reason, band, &process);
            }
        }
        Kind::Group => {
            let Ok(group) = kernel.pids.group(s.pid) else { return };
            kernel.pids.members(&group).iter().for_each(|p| send_to_process(s, reason, band, p));
        }
    }
}

fn send_to_process(s: &State, reason: i32, band: u32, process: &Arc<Process>) {
    if process.threads().first().is_some_and(|t| allowed(s, &t.credentials())) {
        send_with(s, reason, band, |info| signal::send_to_process(process, info));
    }
}

/// `sigio_perm`: who set the owner may signal it.
fn allowed(s: &State, target: &Credentials) -> bool {
    let theirs = [target.suid, target.uid];
    s.euid == 0 || theirs.contains(&s.euid) || theirs.contains(&s.uid)
}

/// The signal that was asked for, with what happened; SIGIO if none was or it is refused.
fn send_with(s: &State, reason: i32, band: u32, send: impl Fn(SigInfo) -> Result<()>) {
    if let Some(signal) = Signal::new(i32::from(s.signal)) {
        // Codes of these mean something else.
        let own_codes =
            [Signal::ILL, Signal::FPE, Signal::SEGV, Signal::BUS, Signal::TRAP, Signal::CHLD, Signal::SYS];
        let code = if own_codes.contains(&signal) { code::SI_SIGIO } else { reason };
        let mut bytes = [0; 112];
        if let Some(to) = bytes.first_chunk_mut() {
            *to = u64::from(band).to_ne_bytes();
        }
        if let Some(to) = bytes.get_mut(8..12) {
            to.copy_from_slice(&s.fd.to_ne_bytes());
        }
        let info = SigInfo { signal, code, fields: Fields::Raw(bytes) };
        if send(info).is_ok() {
            return;
        }
    }
    let info = SigInfo { signal: Signal::IO, code: code::SI_KERNEL, fields: Fields::None };
    let _ = send(info); // a standard signal is never refused
}

/// What hangs on a queue of an `O_ASYNC` file.
struct Notify {
    owner: Arc<Owner>,
    output: bool,
}

impl Wake for Notify {
    fn wake(self: Arc<Self>, _events: PollEvents) {
        match self.output {
            false => self.owner.send(POLL_IN, (PollEvents::READABLE).bits()),
            true => {
                let band = PollEvents::WRITABLE | PollEvents::WRBAND;
                self.owner.send(POLL_OUT, band.bits());
            }
        }
    }
}

/// `O_ASYNC` goes on or off for descriptor `fd`. False if this file cannot signal.
pub(super) fn set_async(file: &OpenFile, ops: &dyn File, owner: &Arc<Owner>, fd: i32, on: bool) -> bool {
    let Some(queues) = ops.async_queues() else { return false };
    let mut new = Vec::new();
    if on {
        owner.set_fd(fd);
        for (queue, events) in queues {
            let output = events.contains(PollEvents::OUT);
            new.push(queue.register(Arc::new(Notify { owner: owner.clone(), output }), events));
        }
    }
    let old = core::mem::replace(&mut *owner.registrations.lock(), new);
    drop(old); // takes the locks of wait queues
    file.set_flag(OpenFlags::ASYNC, on);
    true
}

impl Owner {
    /// The file is gone.
    pub(super) fn release(&self) {
        let old = core::mem::take(&mut *self.registrations.lock());
        drop(old);
    }
}
