//! Who pays for a page frame: the one place where frames that a program makes the kernel take are counted.
//!
//! # What Linux does
//! The memory controller of cgroup v2 charges each page to the group of the task that caused its allocation
//! (`mem_cgroup_charge`), remembers the group in the page, and uncharges it when the page is freed. A page stays with
//! its group when the task moves to another one. A group that is full reclaims, then kills one of its own.
//!
//! # What we do
//! The same, split in two. This module is the place: every frame of anonymous memory, of shared memory and tmpfs files,
//! of page caches and of pipes is taken by [`zeroed`], [`copied`] or [`huge`], and the frame itself remembers its *owner*,
//! a number that is told back when its last reference goes, wherever that is. What an owner is, how much it has and what
//! its limit is, only a [`Controller`] knows.
//!
//! # How a controller uses it
//! 1. It implements [`Controller`] and calls [`install`] once, before the first group is made.
//! 2. It calls [`set_active`] with `true` when the first group with the memory controller gets a member (and may switch it
//!    off again when none is left). While inactive, nobody is asked, frames have owner 0, and the price is one load of a
//!    static that never changes; freeing costs a look at a word in a cache line it needs anyway.
//! 3. [`Controller::charge`] finds the group of the task, counts it and all above it, and returns the group's number (not
//!    0; the kind may be kept in some bits of it, for `memory.stat`). Full: reclaim what is possible
//!    ([`reclaim::run`](super::reclaim::run) frees caches) or say ENOMEM.
//! 4. ENOMEM in a page fault comes back as [`Controller::make_room`], without locks, and the access is tried again;
//!    in a system call (a write to tmpfs, a pipe) it is the call's error. `make_room` kills one of the group:
//!    [`oom::kill_one_of`](super::oom::kill_one_of) chooses among its processes as for the whole machine.
//! 5. `memory.high` can be throttled in `charge`, by a flag that the task's way back to user mode looks at.
//!
//! # Locks
//! `charge` is called with the layout lock of an `Mm` held, `uncharge` with any lock at all: both may take only locks of
//! the controller's own under which nothing else is locked, allocated or freed; counters should be atomic and batched per CPU.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};

use ringfence_hal as hal;
use ringfence_hal::{Frame, HugeFrame, OutOfMemory};

use crate::{TaskRef, errno::Result, kernel::Sentry, sync::Once, task::Process};

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Private memory of a process.
    Anonymous,
    /// Shared anonymous memory, and files of tmpfs and memfd.
    Shared,
    /// A copy of what could be read again.
    Cache,
    /// Buffers of the kernel on behalf of a program (pipes).
    Kernel,
}

/// Counts frames to groups of tasks. See the module's head for what may be locked.
pub trait Controller: Send + Sync {
    /// Charges `frames` to the group of `task`, which is running; the group's number, which is not 0 unless nobody is
    /// charged. ENOMEM if the group is full.
    fn charge(&self, task: &TaskRef, kind: Kind, frames: usize) -> Result<u32>;

    /// Frames charged to `owner` were freed.
    fn uncharge(&self, owner: u32, frames: usize);

    /// `task` could not get a frame. If that was its group's doing: makes room in the group.
    fn make_room(&self, task: &TaskRef) -> Room;
}

/// What making room in a group came to.
pub enum Room {
    /// It was not the group that had none.
    NotFull,
    /// There may be some now.
    Made,
    /// There will be when this process has ended.
    Dying(Arc<Process>),
}

static CONTROLLER: Once<&'static dyn Controller> = Once::new();
static ACTIVE: AtomicBool = AtomicBool::new(false);

/// Makes `controller` the one that is asked once [`set_active`] is called.
pub fn install(controller: &'static dyn Controller) {
    CONTROLLER.call_once(|| controller);
    hal::frames::on_uncharge(|owner, frames| {
        if let Some(controller) = CONTROLLER.get() {
            controller.uncharge(owner, frames);
        }
    });
}

/// Whether frames are charged from now on. Those charged before are uncharged in any case.
pub fn set_active(active: bool) {
    ACTIVE.store(active, Ordering::Relaxed);
}

/// A new frame of zeros.
#[inline]
pub fn zeroed(kind: Kind) -> Result<Frame, OutOfMemory> {
    charged(Frame::alloc_zeroed()?, kind)
}

/// A new frame with the contents of another.
#[inline]
pub fn copied(from: &Frame, kind: Kind) -> Result<Frame, OutOfMemory> {
    charged(Frame::alloc_copy(from)?, kind)
}

/// 2 MiB of zeros for private memory.
pub fn huge() -> Result<HugeFrame, OutOfMemory> {
    let frame = HugeFrame::alloc_zeroed()?;
    if ACTIVE.load(Ordering::Relaxed) {
        frame.set_owner(owner_of(Kind::Anonymous, hal::HUGE_PAGES)?);
    }
    Ok(frame)
}

#[inline]
fn charged(frame: Frame, kind: Kind) -> Result<Frame, OutOfMemory> {
    if ACTIVE.load(Ordering::Relaxed) {
        frame.set_owner(owner_of(kind, 1)?);
    }
    Ok(frame)
}

/// Charges the running task's group.
#[cold]
fn owner_of(kind: Kind, frames: usize) -> Result<u32, OutOfMemory> {
    let Some(controller) = CONTROLLER.get() else { return Ok(0) };
    hal::Thread::<Sentry>::with_current(|task| match task {
        Some(task) => controller.charge(task, kind, frames).map_err(|_| OutOfMemory),
        None => Ok(0),
    })
}

/// A task could not get a frame: if its group was full, makes room there.
pub(super) fn make_room(task: &TaskRef) -> Room {
    match CONTROLLER.get() {
        Some(controller) if ACTIVE.load(Ordering::Relaxed) => controller.make_room(task),
        _ => Room::NotFull,
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::AtomicUsize;

    use ringfence_hal::host::World;

    use super::*;

    static CHARGED: AtomicUsize = AtomicUsize::new(0);

    struct Counter;

    impl Controller for Counter {
        fn charge(&self, _task: &TaskRef, _kind: Kind, frames: usize) -> Result<u32> {
            CHARGED.fetch_add(frames, Ordering::Relaxed);
            Ok(7)
        }

        fn uncharge(&self, owner: u32, frames: usize) {
            assert_eq!(owner, 7);
            CHARGED.fetch_sub(frames, Ordering::Relaxed);
        }

        fn make_room(&self, _task: &TaskRef) -> Room {
            Room::NotFull
        }
    }

    #[test]
    fn the_last_reference_uncharges() {
        World::new(8).enter(count_one_frame);
    }

    fn count_one_frame() {
        install(&Counter);
        let free = zeroed(Kind::Anonymous).expect("memory");
        assert_eq!(free.owner(), 0);
        // As `charged` does for a running task.
        CHARGED.fetch_add(1, Ordering::Relaxed);
        let frame = Frame::alloc_zeroed().expect("memory");
        frame.set_owner(7);
        let other = frame.clone();
        drop(frame);
        assert_eq!(CHARGED.load(Ordering::Relaxed), 1);
        drop(other);
        assert_eq!(CHARGED.load(Ordering::Relaxed), 0);
    }
}
