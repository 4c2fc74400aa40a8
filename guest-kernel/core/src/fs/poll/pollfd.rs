//! poll and ppoll.

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{WatchList, Watched, finish, read_mask, read_timeout, wait};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    signal::{self, SigSet},
    sync::{PollEvents, WaitError},
    syscall::{Ctx, Syscall, UserPtr},
    syscalls,
    task::limits::Resource,
    time::{Restart, TimeSpec, deadline_after},
};

/// `struct pollfd`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct PollFd {
    fd: i32,
    events: u16,
    revents: u16,
}

/// Offset of `revents`.
const REVENTS: u64 = 6;

fn watch(task: &TaskRef, fds: UserPtr<PollFd>, count: usize) -> Result<WatchList> {
    if count as u64 > task.process().limits.soft(Resource::OpenFiles) {
        return Err(Errno::EINVAL);
    }
    let files = task.files()?;
    let mut list = WatchList::new();
    list.try_reserve(count).map_err(|_| Errno::ENOMEM)?;
    for i in 0..count {
        let entry = fds.index(i).read()?;
        let file = if entry.fd < 0 { None } else { files.get(entry.fd).ok() };
        let bad = entry.fd >= 0 && file.is_none();
        let ready = if bad { PollEvents::NVAL } else { PollEvents::empty() };
        let interest =
            PollEvents::from_bits_truncate(entry.events.into()) | PollEvents::ERR | PollEvents::HUP;
        list.push(Watched { file, interest, ready });
    }
    Ok(list)
}

fn do_poll(
    task: &TaskRef,
    fds: UserPtr<PollFd>,
    count: usize,
    deadline: Option<u64>,
) -> Result<Result<usize, WaitError>> {
    let mut list = watch(task, fds, count)?;
    let outcome = wait(task, &mut list, deadline);
    if outcome.is_ok() {
        for (i, w) in list.iter().enumerate() {
            let revents = UserPtr::<u16>::new(fds.index(i).0.wrapping_add(REVENTS));
            revents.write(&(w.ready.bits() as u16))?;
        }
    }
    Ok(outcome)
}

fn poll(ctx: &mut Ctx<'_>, fds: UserPtr<PollFd>, count: u32, timeout: i32) -> Result {
    let deadline = u64::try_from(timeout).ok().map(|ms| deadline_after(ms * 1_000_000));
    restart(ctx.task, fds.0, count, deadline)
}

/// Goes on with a `poll` that was interrupted: its time-out does not begin again.
pub(crate) fn restart(task: &TaskRef, fds: u64, count: u32, deadline: Option<u64>) -> Result {
    match do_poll(task, UserPtr::new(fds), count as usize, deadline)? {
        Ok(n) => Ok(n),
        Err(_) => {
            *task.restart.lock() = Some(Restart::Poll { fds, count, deadline });
            Err(Errno::ERESTART_RESTARTBLOCK)
        }
    }
}

fn ppoll(
    ctx: &mut Ctx<'_>,
    fds: UserPtr<PollFd>,
    count: u32,
    timeout: UserPtr<TimeSpec>,
    mask: UserPtr<SigSet>,
    mask_size: usize,
) -> Result {
    let deadline = read_timeout(timeout)?;
    let mask = read_mask(mask, mask_size)?;
    let task = ctx.task;
    let result = signal::with_mask(task, mask, || {
        do_poll(task, fds, count as usize, deadline)?.map_err(|_| Errno::ERESTARTNOHAND)
    });
    finish(result, deadline, timeout, |to, ns| to.write(&TimeSpec::from_ns(ns)))
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    7 poll(fds: UserPtr<PollFd>, nfds: u32, timeout: i32) Full "";
    271 ppoll(fds: UserPtr<PollFd>, nfds: u32, timeout: UserPtr<TimeSpec>, sigmask: UserPtr<SigSet>, sigsetsize: usize) Full "";
};
