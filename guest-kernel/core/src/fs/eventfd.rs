//! eventfd(2): a counter to wait for.

use alloc::sync::Arc;

use super::{AnonInode, File, FileType, OpenFile, OpenFlags};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    io::{Sink, Source},
    sync::{Interruptible, PollEvents, PollTable, Queue, SpinLock, WaitQueue, wait_event},
    syscall::{Ctx, Syscall},
    syscalls,
    task::limits::Resource,
};

/// The largest value the counter takes.
const MAX: u64 = u64::MAX - 1;
/// `EFD_SEMAPHORE`.
const SEMAPHORE: u32 = 1;

struct EventFd {
    count: SpinLock<u64>,
    semaphore: bool,
    queue: Queue,
}

impl EventFd {
    fn take(&self) -> Option<u64> {
        let mut count = self.count.lock();
        match (*count, self.semaphore) {
            (0, _) => None,
            (_, true) => {
                *count -= 1;
                Some(1)
            }
            (n, false) => {
                *count = 0;
                Some(n)
            }
        }
    }

    fn add(&self, n: u64) -> Option<()> {
        let mut count = self.count.lock();
        *count = count.checked_add(n).filter(|sum| *sum <= MAX)?;
        Some(())
    }
}

impl File for EventFd {
    fn read(&self, file: &OpenFile, task: &TaskRef, sink: &mut Sink<'_>) -> Result {
        if sink.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        let n = match self.take() {
            Some(n) => n,
            None if file.nonblocking() => return Err(Errno::EAGAIN),
            None => wait_event(task, &self.queue, Interruptible::Yes, None, || self.take())?,
        };
        self.queue.wake_all(PollEvents::WRITABLE);
        sink.put(&n.to_ne_bytes())?;
        Ok(8)
    }

    fn write(&self, file: &OpenFile, task: &TaskRef, source: &mut Source<'_>) -> Result {
        if source.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        let mut bytes = [0; 8];
        source.take(&mut bytes)?;
        let n = u64::from_ne_bytes(bytes);
        if n > MAX {
            return Err(Errno::EINVAL);
        }
        match self.add(n) {
            Some(()) => {}
            None if file.nonblocking() => return Err(Errno::EAGAIN),
            None => wait_event(task, &self.queue, Interruptible::Yes, None, || self.add(n))?,
        }
        self.queue.wake_all(PollEvents::READABLE);
        Ok(8)
    }

    fn poll(&self, table: Option<&mut PollTable>) -> PollEvents {
        if let Some(table) = table {
            table.register(&self.queue);
        }
        let count = *self.count.lock();
        let mut events = PollEvents::empty();
        events.set(PollEvents::READABLE, count > 0);
        events.set(PollEvents::WRITABLE, count < MAX);
        events
    }

    fn seek_ignored(&self) -> bool {
        true
    }

    fn fdinfo(&self) -> alloc::string::String {
        alloc::format!("eventfd-count: {:16x}\n", *self.count.lock())
    }
}

/// Whether `file` is an eventfd.
pub(super) fn is(file: &OpenFile) -> bool {
    file.downcast::<EventFd>().is_some()
}

/// Adds one, unless that is too much: how the kernel itself tells of something.
pub(super) fn signal(file: &OpenFile) {
    if let Some(eventfd) = file.downcast::<EventFd>()
        && eventfd.add(1).is_some()
    {
        eventfd.queue.wake_all(PollEvents::READABLE);
    }
}

fn eventfd(ctx: &mut Ctx<'_>, initial: u32) -> Result {
    eventfd2(ctx, initial, 0)
}

fn eventfd2(ctx: &mut Ctx<'_>, initial: u32, flags: u32) -> Result {
    let semaphore = flags & SEMAPHORE != 0;
    let allowed = OpenFlags::CLOEXEC | OpenFlags::NONBLOCK;
    let flags =
        OpenFlags::from_bits(flags & !SEMAPHORE).filter(|f| allowed.contains(*f)).ok_or(Errno::EINVAL)?;
    let ops = EventFd { count: SpinLock::new(initial.into()), semaphore, queue: WaitQueue::new() };
    install(ctx.task, Arc::new(ops), "anon_inode:[eventfd]", OpenFlags::RDWR, flags)
}

/// Gives a descriptor to an object without a name. `flags` may have CLOEXEC and NONBLOCK.
pub(super) fn install(
    task: &TaskRef,
    ops: Arc<dyn File>,
    label: &str,
    access: OpenFlags,
    flags: OpenFlags,
) -> Result {
    let inode = AnonInode::new(FileType::Regular, 0o600, 0, 0);
    let file = inode.open(ops, label, access | (flags & OpenFlags::NONBLOCK));
    let limit = task.process().limits.soft(Resource::OpenFiles);
    Ok(task.files()?.install(file, flags.contains(OpenFlags::CLOEXEC), limit)? as usize)
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    284 eventfd(initval: u32) Full "";
    290 eventfd2(initval: u32, flags: u32) Full "";
};

#[cfg(test)]
mod tests {
    use super::*;

    fn new(count: u64, semaphore: bool) -> EventFd {
        EventFd { count: SpinLock::new(count), semaphore, queue: WaitQueue::new() }
    }

    #[test]
    fn a_counter_is_taken_whole_and_a_semaphore_by_one() {
        let e = new(3, false);
        assert_eq!((e.take(), e.take()), (Some(3), None));
        let e = new(2, true);
        assert_eq!((e.take(), e.take(), e.take()), (Some(1), Some(1), None));
    }

    #[test]
    fn the_counter_does_not_overflow() {
        let e = new(1, false);
        assert_eq!(e.add(MAX), None);
        assert_eq!(e.add(MAX - 1), Some(()));
        assert_eq!(e.poll(None), PollEvents::READABLE);
    }
}
