//! Waiting for several files at once: poll(2), ppoll(2), select(2), pselect(2).
//!
//! Each call looks at its files once, registering with their wait queues as it goes (until the first one that
//! is ready: from then on nobody will wait), and then sleeps until a look at all of them finds something.

mod pollfd;
mod select;

use ringfence_hal as hal;
use smallvec::SmallVec;

use super::FileRef;
use crate::{
    TaskRef,
    errno::{Errno, Result},
    signal::SigSet,
    sync::{Interruptible, PollEvents, PollTable, WaitError, wait_event_any},
    syscall::{Syscall, UserPtr},
    time::{TimeSpec, deadline_after},
};

pub(crate) use pollfd::restart as restart_poll;

/// A file waited for.
struct Watched {
    /// `None` for what is not open, or not asked about: then `ready` stays what it is.
    file: Option<FileRef>,
    /// What counts as ready.
    interest: PollEvents,
    ready: PollEvents,
}

type WatchList = SmallVec<[Watched; 8]>;

/// Looks at every file; says how many have something.
fn scan(list: &mut WatchList, mut table: Option<&mut PollTable>) -> usize {
    let mut count = 0;
    for w in list.iter_mut() {
        if let Some(file) = &w.file {
            if let Some(table) = table.as_mut() {
                table.set_interest(w.interest);
            }
            w.ready = file.poll(table.as_deref_mut()) & w.interest;
        }
        if !w.ready.is_empty() {
            count += 1;
            table = None;
        }
    }
    count
}

/// Waits until a file is ready or `deadline` passes (`None`: forever); says how many are ready.
fn wait(task: &TaskRef, list: &mut WatchList, deadline: Option<u64>) -> Result<usize, WaitError> {
    if deadline.is_some_and(|d| d <= hal::time::now()) {
        return Ok(scan(list, None));
    }
    let mut table = PollTable::new(task.clone(), PollEvents::empty());
    match scan(list, Some(&mut table)) {
        0 => {}
        n => return Ok(n),
    }
    let ready = || match scan(list, None) {
        0 => None,
        n => Some(n),
    };
    match wait_event_any(task, Interruptible::Yes, deadline, ready) {
        Err(WaitError::TimedOut) => Ok(0),
        other => other,
    }
}

/// The time-out of `ppoll` and `pselect6`: relative, NULL is forever.
pub(crate) fn read_timeout(timeout: UserPtr<TimeSpec>) -> Result<Option<u64>> {
    timeout.non_null().map(|t| Ok(deadline_after(t.read()?.to_ns()?))).transpose()
}

/// Nanoseconds left until `deadline`.
fn left(deadline: u64) -> u64 {
    deadline.saturating_sub(hal::time::now())
}

/// Writes what is left of a time-out back, as Linux does. What cannot be written cannot be restarted.
fn finish<T>(
    result: Result,
    deadline: Option<u64>,
    timeout: UserPtr<T>,
    write: impl FnOnce(UserPtr<T>, u64) -> Result<()>,
) -> Result {
    let (Some(deadline), false) = (deadline, timeout.is_null()) else { return result };
    match (write(timeout, left(deadline)), result) {
        (Err(_), Err(Errno::ERESTARTNOHAND)) => Err(Errno::EINTR),
        (_, result) => result,
    }
}

/// A signal mask argument; `EINVAL` for a size that is not ours.
pub(crate) fn read_mask(mask: UserPtr<SigSet>, size: usize) -> Result<Option<SigSet>> {
    let Some(mask) = mask.non_null() else { return Ok(None) };
    if size != size_of::<SigSet>() {
        return Err(Errno::EINVAL);
    }
    Ok(Some(mask.read()?))
}

pub(super) const POLL: &[Syscall] = pollfd::SYSCALLS;
/// `select` and `pselect6`.
pub(super) const SELECT: &[Syscall] = select::SYSCALLS;
