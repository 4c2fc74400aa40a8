//! signalfd(2): signals as bytes to read.
//!
//! A signalfd reads the signals pending for whoever reads it, not for whoever made it; so does `poll`.

use alloc::sync::Arc;

use super::{File, OpenFile, OpenFlags, eventfd::install};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    io::Sink,
    sched,
    signal::{self, SigInfo, SigSet, types::Fields},
    sync::{Interruptible, PollEvents, PollTable, SpinLock, wait_event},
    syscall::{Ctx, Fd, Syscall, UserPtr},
    syscalls,
};

/// Bytes of `struct signalfd_siginfo`.
const INFO_SIZE: usize = 128;

struct SignalFd {
    mask: SpinLock<SigSet>,
}

fn encode(info: &SigInfo) -> [u8; INFO_SIZE] {
    let mut out = [0; INFO_SIZE];
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(to) = out.get_mut(at..at + bytes.len()) {
            to.copy_from_slice(bytes);
        }
    };
    put(0, &u32::from(info.signal.number()).to_ne_bytes());
    put(8, &info.code.to_ne_bytes());
    match info.fields {
        Fields::None | Fields::Raw(_) => {}
        Fields::Sender { pid, uid } => {
            put(12, &pid.to_ne_bytes());
            put(16, &uid.to_ne_bytes());
        }
        Fields::Queued { pid, uid, value } => {
            put(12, &pid.to_ne_bytes());
            put(16, &uid.to_ne_bytes());
            put(44, &(value as i32).to_ne_bytes());
            put(48, &value.to_ne_bytes());
        }
        Fields::Child { pid, uid, status, utime, stime } => {
            put(12, &pid.to_ne_bytes());
            put(16, &uid.to_ne_bytes());
            put(40, &status.to_ne_bytes());
            put(56, &utime.to_ne_bytes());
            put(64, &stime.to_ne_bytes());
        }
        Fields::Fault { addr } => put(72, &addr.to_ne_bytes()),
        Fields::Syscall { addr, number, arch, errno } => {
            put(4, &errno.to_ne_bytes());
            put(84, &number.to_ne_bytes());
            put(88, &addr.to_ne_bytes());
            put(96, &arch.to_ne_bytes());
        }
        Fields::Timer { id, overrun, value } => {
            put(24, &id.to_ne_bytes());
            put(32, &overrun.to_ne_bytes());
            put(44, &(value as i32).to_ne_bytes());
            put(48, &value.to_ne_bytes());
        }
    }
    out
}

impl SignalFd {
    fn take(&self, task: &TaskRef) -> Option<SigInfo> {
        let mask = *self.mask.lock();
        signal::take(task, mask)
    }
}

impl File for SignalFd {
    fn read(&self, file: &OpenFile, task: &TaskRef, sink: &mut Sink<'_>) -> Result {
        if sink.remaining() < INFO_SIZE {
            return Err(Errno::EINVAL);
        }
        let mut next = match self.take(task) {
            Some(info) => info,
            None if file.nonblocking() => return Err(Errno::EAGAIN),
            None => {
                wait_event(task, &task.process().signal_events, Interruptible::Yes, None, || self.take(task))?
            }
        };
        let mut done = 0;
        loop {
            sink.put(&encode(&next))?;
            done += INFO_SIZE;
            if sink.remaining() < INFO_SIZE {
                return Ok(done);
            }
            match self.take(task) {
                Some(info) => next = info,
                None => return Ok(done),
            }
        }
    }

    fn poll(&self, table: Option<&mut PollTable>) -> PollEvents {
        sched::with_current(|task| {
            let Some(task) = task else { return PollEvents::empty() };
            if let Some(table) = table {
                table.register(&task.process().signal_events);
            }
            let pending = task.signals.pending.set().union(task.process().shared_pending.set());
            let some = !pending.and(*self.mask.lock()).is_empty();
            if some { PollEvents::READABLE } else { PollEvents::empty() }
        })
    }

    fn seek_ignored(&self) -> bool {
        true
    }

    fn fdinfo(&self) -> alloc::string::String {
        alloc::format!("sigmask:\t{:016x}\n", self.mask.lock().0)
    }
}

fn signalfd(ctx: &mut Ctx<'_>, fd: Fd, mask: UserPtr<SigSet>, size: usize) -> Result {
    signalfd4(ctx, fd, mask, size, 0)
}

fn signalfd4(ctx: &mut Ctx<'_>, fd: Fd, mask: UserPtr<SigSet>, size: usize, flags: u32) -> Result {
    if size != size_of::<SigSet>() {
        return Err(Errno::EINVAL);
    }
    let allowed = OpenFlags::CLOEXEC | OpenFlags::NONBLOCK;
    let flags = OpenFlags::from_bits(flags).filter(|f| allowed.contains(*f)).ok_or(Errno::EINVAL)?;
    let mask = mask.read()?.without(SigSet::UNBLOCKABLE);
    if fd.0 == -1 {
        let ops = SignalFd { mask: SpinLock::new(mask) };
        return install(ctx.task, Arc::new(ops), "anon_inode:[signalfd]", OpenFlags::RDWR, flags);
    }
    let existing = ctx.task.files()?.get(fd.0)?.downcast::<SignalFd>().ok_or(Errno::EINVAL)?;
    *existing.mask.lock() = mask;
    ctx.task.process().signal_events.wake_all(PollEvents::empty());
    Ok(fd.0 as usize)
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    282 signalfd(fd: Fd, mask: UserPtr<SigSet>, size: usize) Full "";
    289 signalfd4(fd: Fd, mask: UserPtr<SigSet>, size: usize, flags: u32) Full "";
};
