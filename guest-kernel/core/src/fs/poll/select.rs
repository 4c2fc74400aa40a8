//! select and pselect6.

use core::ops::BitOr;

use smallvec::SmallVec;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{WatchList, Watched, finish, read_mask, read_timeout, wait};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    signal,
    sync::PollEvents,
    syscall::{Ctx, Syscall, UserPtr},
    syscalls,
    time::{TimeSpec, TimeVal, deadline_after},
};

/// What a file that is in the reading set is asked for.
const READ: PollEvents = PollEvents::IN
    .union(PollEvents::RDNORM)
    .union(PollEvents::RDBAND)
    .union(PollEvents::HUP)
    .union(PollEvents::ERR);
const WRITE: PollEvents =
    PollEvents::OUT.union(PollEvents::WRNORM).union(PollEvents::WRBAND).union(PollEvents::ERR);
const EXCEPTION: PollEvents = PollEvents::PRI;

const KINDS: [PollEvents; 3] = [READ, WRITE, EXCEPTION];

/// An `fd_set` of the bits asked about.
type Words = SmallVec<[u64; 16]>;

fn read_set(set: UserPtr<u64>, words: usize) -> Result<Words> {
    match set.non_null() {
        None => Ok(SmallVec::from_elem(0, words)),
        Some(set) => (0..words).map(|i| set.index(i).read()).collect(),
    }
}

fn do_select(task: &TaskRef, n: i32, sets: [UserPtr<u64>; 3], deadline: Option<u64>) -> Result {
    let files = task.files()?;
    // Descriptors beyond the table are not open, and not looked at (as on Linux).
    let n = usize::try_from(n).map_err(|_| Errno::EINVAL)?.min(files.capacity().max(64));
    let words = n.div_ceil(64);
    let mut asked: [Words; 3] = Default::default();
    for (words_of, set) in asked.iter_mut().zip(sets) {
        *words_of = read_set(set, words)?;
    }
    let mut list = WatchList::new();
    let mut fds: SmallVec<[usize; 8]> = SmallVec::new();
    for first in (0..n).step_by(64) {
        let words = asked.each_ref().map(|set| set.get(first / 64).copied().unwrap_or(0));
        let mut any = words.into_iter().fold(0, u64::bitor) & u64::MAX >> (64 - (n - first).min(64));
        while any != 0 {
            let bit = any.trailing_zeros();
            any &= any - 1;
            let kinds =
                KINDS.iter().zip(words).filter(|(_, word)| word & (1 << bit) != 0).map(|(kind, _)| *kind);
            let interest = kinds.fold(PollEvents::empty(), PollEvents::union);
            let fd = first + bit as usize;
            let file = files.get(fd as i32)?;
            list.push(Watched { file: Some(file), interest, ready: PollEvents::empty() });
            fds.push(fd);
        }
    }
    drop(files);
    wait(task, &mut list, deadline).map_err(|_| Errno::ERESTARTNOHAND)?;

    let mut count = 0;
    let mut answers: [Words; 3] = core::array::from_fn(|_| SmallVec::from_elem(0, words));
    for (fd, watched) in fds.iter().zip(&list).filter(|(_, watched)| !watched.ready.is_empty()) {
        let (word, bit) = (fd / 64, 1 << (fd % 64));
        for ((kind, asked), answer) in KINDS.iter().zip(&asked).zip(&mut answers) {
            if watched.ready.intersects(*kind)
                && asked.get(word).is_some_and(|word| word & bit != 0)
                && let Some(word) = answer.get_mut(word)
            {
                *word |= bit;
                count += 1;
            }
        }
    }
    for (answer, user) in answers.iter().zip(sets).filter(|(_, user)| !user.is_null()) {
        for (i, word) in answer.iter().enumerate() {
            user.index(i).write(word)?;
        }
    }
    Ok(count)
}

fn select(
    ctx: &mut Ctx<'_>,
    n: i32,
    read: UserPtr<u64>,
    write: UserPtr<u64>,
    except: UserPtr<u64>,
    timeout: UserPtr<TimeVal>,
) -> Result {
    let deadline = match timeout.non_null() {
        None => None,
        Some(t) => {
            let t = t.read()?;
            // More than a second of microseconds is allowed here.
            let sec = t.sec.checked_add(t.usec / 1_000_000).ok_or(Errno::EINVAL)?;
            Some(deadline_after(TimeVal { sec, usec: t.usec % 1_000_000 }.to_ns()?))
        }
    };
    let result = do_select(ctx.task, n, [read, write, except], deadline);
    finish(result, deadline, timeout, |to, ns| to.write(&TimeVal::from_ns(ns)))
}

/// The sixth argument of `pselect6`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct MaskArgument {
    mask: u64,
    size: u64,
}

fn pselect6(
    ctx: &mut Ctx<'_>,
    n: i32,
    read: UserPtr<u64>,
    write: UserPtr<u64>,
    except: UserPtr<u64>,
    timeout: UserPtr<TimeSpec>,
    mask: UserPtr<MaskArgument>,
) -> Result {
    let mask = match mask.non_null() {
        None => None,
        Some(argument) => {
            let argument = argument.read()?;
            read_mask(UserPtr::new(argument.mask), argument.size as usize)?
        }
    };
    let deadline = read_timeout(timeout)?;
    let task = ctx.task;
    let result = signal::with_mask(task, mask, || do_select(task, n, [read, write, except], deadline));
    finish(result, deadline, timeout, |to, ns| to.write(&TimeSpec::from_ns(ns)))
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    23 select(n: i32, readfds: UserPtr<u64>, writefds: UserPtr<u64>, exceptfds: UserPtr<u64>, timeout: UserPtr<TimeVal>) Full "";
    270 pselect6(n: i32, readfds: UserPtr<u64>, writefds: UserPtr<u64>, exceptfds: UserPtr<u64>, timeout: UserPtr<TimeSpec>, sigmask: UserPtr<MaskArgument>) Full "";
};
