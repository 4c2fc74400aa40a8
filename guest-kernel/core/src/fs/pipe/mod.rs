//! Pipes and FIFOs (pipe(7), fifo(7)).
//!
//! What Linux does: a pipe is a ring of pages between readers and writers. A write of at most `PIPE_BUF`
//! bytes is not mixed with others; a read takes what is there; reading without writers is the end of file,
//! writing without readers is SIGPIPE and `EPIPE`. A FIFO is a pipe that is found by an inode, and whose
//! opens wait for the other side.
//!
//! What we do: the same. Bytes are copied into and out of whole pages with the pipe's sleeping lock held; the
//! last two pages read empty are kept, so that steady traffic allocates nothing. The number of slots in use
//! and the counts of readers and writers are atomics, so that polling and the conditions of sleepers need no
//! lock. Sleepers are woken only when the ring stops being empty or full (or, once anybody polled it, at each
//! change: an edge-triggered epoll counts those).
//!
//! Lock order: [`Pipe::ring`] (sleeping), then wait queues.

mod fifo;
mod ring;
mod splice;

use alloc::{boxed::Box, sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use ringfence_hal::PAGE_SIZE;

pub use fifo::open as open_fifo;
use ring::Ring;

use super::{AnonInode, File, FileRef, FileType, OpenFile, OpenFlags};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    io::{Sink, Source},
    signal::{self, SigInfo, Signal, types::code},
    sync::{Interruptible, Mutex, PollEvents, PollTable, Queue, WaitQueue, wait_event},
    syscall::{Ctx, Syscall, UserPtr},
    syscalls,
    task::{Capabilities, limits::Resource},
};

/// Slots of a new pipe: 64 KiB.
const DEFAULT_SLOTS: usize = 16;
/// `/proc/sys/fs/pipe-max-size`, in bytes.
pub const MAX_SIZE: usize = 1 << 20;

/// What both ends share.
struct Pipe {
    ring: Mutex<Ring>,
    /// `Ring::used` and `Ring::capacity`, to be read without the lock.
    used: AtomicUsize,
    capacity: AtomicUsize,
    readers: AtomicU32,
    writers: AtomicU32,
    /// How often it has been opened for reading and for writing: what a FIFO's open waits for.
    reader_opens: AtomicU32,
    writer_opens: AtomicU32,
    /// Somebody polled it: every change wakes.
    polled: AtomicBool,
    /// `O_ASYNC` was set: whoever writes is signalled for each read.
    signalled: AtomicBool,
    read_queue: Queue,
    write_queue: Queue,
}

/// As many as Linux can allocate its array of.
const SLOTS_MAX: usize = 65_536;

impl Pipe {
    fn new() -> Arc<Pipe> {
        Arc::new(Pipe {
            ring: Mutex::new(Ring::new(DEFAULT_SLOTS)),
            used: AtomicUsize::new(0),
            capacity: AtomicUsize::new(DEFAULT_SLOTS),
            readers: AtomicU32::new(0),
            writers: AtomicU32::new(0),
            reader_opens: AtomicU32::new(0),
            writer_opens: AtomicU32::new(0),
            polled: AtomicBool::new(false),
            signalled: AtomicBool::new(false),
            read_queue: WaitQueue::new(),
            write_queue: WaitQueue::new(),
        })
    }

    fn is_empty(&self) -> bool {
        self.used.load(Ordering::Acquire) == 0
    }

    fn is_full(&self) -> bool {
        self.used.load(Ordering::Acquire) >= self.capacity.load(Ordering::Relaxed)
    }

    fn has_readers(&self) -> bool {
        self.readers.load(Ordering::Acquire) != 0
    }

    fn has_writers(&self) -> bool {
        self.writers.load(Ordering::Acquire) != 0
    }

    /// One attempt to read.
    fn try_read(&self, sink: &mut Sink<'_>) -> Result {
        let mut ring = self.ring.lock();
        let was_full = ring.is_full();
        let n = ring.read(sink)?;
        self.used.store(ring.used(), Ordering::Release);
        let wake = was_full && !ring.is_full() || n > 0 && self.signalled.load(Ordering::Relaxed);
        drop(ring);
        if wake {
            self.write_queue.wake_all(PollEvents::WRITABLE);
        }
        Ok(n)
    }

    /// One attempt to write.
    fn try_write(&self, source: &mut Source<'_>, packet: bool) -> Result {
        let mut ring = self.ring.lock();
        let was_empty = ring.is_empty();
        let n = ring.write(source, packet)?;
        self.used.store(ring.used(), Ordering::Release);
        drop(ring);
        if n > 0 && (was_empty || self.polled.load(Ordering::Relaxed)) {
            self.read_queue.wake_all(PollEvents::READABLE);
        }
        Ok(n)
    }

    /// Any other change of the ring.
    fn change<R>(&self, f: impl FnOnce(&mut Ring) -> R) -> R {
        let mut ring = self.ring.lock();
        let (was_full, was_empty) = (ring.is_full(), ring.is_empty());
        let result = f(&mut ring);
        self.used.store(ring.used(), Ordering::Release);
        let (full, empty) = (ring.is_full(), ring.is_empty());
        drop(ring);
        let polled = self.polled.load(Ordering::Relaxed);
        if was_full && !full || polled {
            self.write_queue.wake_all(PollEvents::WRITABLE);
        }
        if was_empty && !empty || polled {
            self.read_queue.wake_all(PollEvents::READABLE);
        }
        result
    }

    /// Waits until there is something to read; false at the end. `EAGAIN`.
    fn wait_readable(&self, task: &TaskRef, nonblocking: bool) -> Result<bool> {
        // The writers first: what the last one left must still be read.
        let look = || {
            let ended = !self.has_writers();
            if self.is_empty() { ended.then_some(false) } else { Some(true) }
        };
        match look() {
            Some(outcome) => Ok(outcome),
            None if nonblocking => Err(Errno::EAGAIN),
            None => Ok(wait_event(task, &self.read_queue, Interruptible::Yes, None, look)?),
        }
    }

    /// Waits until there is room. `EPIPE` with its signal, `EAGAIN`.
    fn wait_writable(&self, task: &TaskRef, nonblocking: bool) -> Result<()> {
        let look = || {
            if self.has_readers() { (!self.is_full()).then_some(true) } else { Some(false) }
        };
        let room = match look() {
            Some(outcome) => outcome,
            None if nonblocking => return Err(Errno::EAGAIN),
            None => wait_event(task, &self.write_queue, Interruptible::Yes, None, look)?,
        };
        if !room {
            broken(task);
            return Err(Errno::EPIPE);
        }
        Ok(())
    }

    fn wake_everybody(&self) {
        self.read_queue.wake_all(PollEvents::empty());
        self.write_queue.wake_all(PollEvents::empty());
    }

    /// Changes the size to at least `bytes`, as `F_SETPIPE_SZ` does; returns the size it has now.
    fn resize(&self, bytes: usize) -> Result {
        let slots = bytes.div_ceil(PAGE_SIZE).max(1).checked_next_power_of_two().ok_or(Errno::EINVAL)?;
        if slots > SLOTS_MAX {
            return Err(Errno::ENOMEM);
        }
        let mut ring = self.ring.lock();
        ring.set_capacity(slots)?;
        self.capacity.store(slots, Ordering::Release);
        drop(ring);
        self.write_queue.wake_all(PollEvents::WRITABLE);
        Ok(slots * PAGE_SIZE)
    }
}

/// One open end; a FIFO opened for both has one that is both.
pub struct PipeEnd {
    pipe: Arc<Pipe>,
    reads: bool,
    writes: bool,
    /// `Pipe::writer_opens` at the open: a FIFO that never had a writer since is not hung up.
    seen_writers: u32,
}

impl PipeEnd {
    /// Counts itself among readers or writers.
    fn new(pipe: Arc<Pipe>, flags: OpenFlags) -> PipeEnd {
        let (reads, writes) = (flags.readable(), flags.writable());
        let seen_writers = pipe.writer_opens.load(Ordering::Relaxed);
        if reads {
            pipe.readers.fetch_add(1, Ordering::AcqRel);
            pipe.reader_opens.fetch_add(1, Ordering::AcqRel);
        }
        if writes {
            pipe.writers.fetch_add(1, Ordering::AcqRel);
            pipe.writer_opens.fetch_add(1, Ordering::AcqRel);
        }
        PipeEnd { pipe, reads, writes, seen_writers }
    }
}

impl Drop for PipeEnd {
    fn drop(&mut self) {
        if self.reads {
            self.pipe.readers.fetch_sub(1, Ordering::AcqRel);
        }
        if self.writes {
            self.pipe.writers.fetch_sub(1, Ordering::AcqRel);
        }
        self.pipe.wake_everybody();
    }
}

impl File for PipeEnd {
    fn read(&self, file: &OpenFile, task: &TaskRef, sink: &mut Sink<'_>) -> Result {
        if sink.remaining() == 0 {
            return Ok(0);
        }
        let pipe = &*self.pipe;
        loop {
            // Looked at before the ring: what the last writer left must still be read.
            let ended = !pipe.has_writers();
            let n = if pipe.is_empty() { 0 } else { pipe.try_read(sink)? };
            if n > 0 || ended {
                return Ok(n);
            }
            if file.nonblocking() {
                return Err(Errno::EAGAIN);
            }
            let ready = || (!pipe.is_empty() || !pipe.has_writers()).then_some(());
            wait_event(task, &pipe.read_queue, Interruptible::Yes, None, ready)?;
        }
    }

    fn write(&self, file: &OpenFile, task: &TaskRef, source: &mut Source<'_>) -> Result {
        let pipe = &*self.pipe;
        let packet = file.flags().contains(OpenFlags::DIRECT);
        let mut done = 0;
        while source.remaining() > 0 {
            let outcome = if pipe.has_readers() {
                pipe.try_write(source, packet)
            } else {
                broken(task);
                Err(Errno::EPIPE)
            };
            match outcome {
                Ok(n) if n > 0 => {
                    done += n;
                    continue;
                }
                Ok(_) => {}
                Err(e) => return if done > 0 { Ok(done) } else { Err(e) },
            }
            if file.nonblocking() {
                return if done > 0 { Ok(done) } else { Err(Errno::EAGAIN) };
            }
            let ready = || (!pipe.is_full() || !pipe.has_readers()).then_some(());
            match wait_event(task, &pipe.write_queue, Interruptible::Yes, None, ready) {
                Ok(()) => {}
                Err(_) if done > 0 => return Ok(done),
                Err(e) => return Err(e.into()),
            }
        }
        Ok(done)
    }

    fn poll(&self, table: Option<&mut PollTable>) -> PollEvents {
        let pipe = &*self.pipe;
        if let Some(table) = table {
            pipe.polled.store(true, Ordering::Relaxed);
            if self.reads {
                table.register(&pipe.read_queue);
            }
            if self.writes {
                table.register(&pipe.write_queue);
            }
        }
        let mut events = PollEvents::empty();
        if self.reads {
            let hung_up =
                !pipe.has_writers() && pipe.writer_opens.load(Ordering::Relaxed) != self.seen_writers;
            events.set(PollEvents::READABLE, !pipe.is_empty());
            events.set(PollEvents::HUP, hung_up);
        }
        if self.writes {
            events.set(PollEvents::WRITABLE, !pipe.is_full());
            events.set(PollEvents::ERR, !pipe.has_readers());
        }
        events
    }

    fn ioctl(&self, _file: &OpenFile, _task: &TaskRef, command: u32, arg: u64) -> Result {
        const FIONREAD: u32 = 0x541b;
        if command != FIONREAD {
            return Err(Errno::ENOTTY);
        }
        let bytes = self.pipe.ring.lock().bytes();
        UserPtr::<i32>::new(arg).write(&(bytes as i32))?;
        Ok(0)
    }

    fn async_queues(&self) -> Option<Vec<(Queue, PollEvents)>> {
        self.pipe.polled.store(true, Ordering::Relaxed);
        self.pipe.signalled.store(true, Ordering::Relaxed);
        let read = self.reads.then(|| (self.pipe.read_queue.clone(), PollEvents::READABLE));
        let write = self.writes.then(|| (self.pipe.write_queue.clone(), PollEvents::WRITABLE));
        Some(read.into_iter().chain(write).collect())
    }

    /// Setting: `EBUSY` if it holds more, `EPERM` beyond [`MAX_SIZE`] without CAP_SYS_RESOURCE, `EINVAL`.
    fn pipe_size(&self, task: &TaskRef, new: Option<u64>) -> Result {
        let Some(bytes) = new else {
            return Ok(self.pipe.capacity.load(Ordering::Relaxed) * PAGE_SIZE);
        };
        let bytes = usize::try_from(bytes).ok().filter(|b| *b <= 1 << 31).ok_or(Errno::EINVAL)?;
        if bytes > MAX_SIZE && !task.credentials().capable(Capabilities::SYS_RESOURCE) {
            return Err(Errno::EPERM);
        }
        self.pipe.resize(bytes)
    }
}

/// Tells a writer that nobody reads.
pub(crate) fn broken(task: &TaskRef) {
    let info = SigInfo::user(Signal::PIPE, code::SI_USER, task.process().pid, task.credentials().uid);
    let _ = signal::send_to_task(task, info); // a standard signal is never refused
}

/// A new pipe: the reading and the writing end. `flags` may have NONBLOCK and DIRECT.
pub fn new_pair(task: &TaskRef, flags: OpenFlags) -> [FileRef; 2] {
    let credentials = task.credentials();
    let pipe = Pipe::new();
    let weak = Arc::downgrade(&pipe);
    let inode = AnonInode::new(FileType::Fifo, 0o600, credentials.fsuid, credentials.fsgid).with_reopen(
        // Unlike a FIFO's, this open does not wait for the other side.
        Box::new(move |flags| {
            let end: Arc<dyn File> = Arc::new(PipeEnd::new(weak.upgrade()?, flags));
            Some(end)
        }),
    );
    let status = flags & (OpenFlags::NONBLOCK | OpenFlags::DIRECT);
    [OpenFlags::empty(), OpenFlags::WRONLY].map(|access| {
        let end = Arc::new(PipeEnd::new(pipe.clone(), access));
        inode.clone().open(end, "pipe:[{}]", access | status)
    })
}

fn pipe(ctx: &mut Ctx<'_>, fds: UserPtr<[i32; 2]>) -> Result {
    pipe2(ctx, fds, 0)
}

fn pipe2(ctx: &mut Ctx<'_>, fds: UserPtr<[i32; 2]>, flags: u32) -> Result {
    let allowed = OpenFlags::CLOEXEC | OpenFlags::NONBLOCK | OpenFlags::DIRECT;
    let flags = OpenFlags::from_bits(flags).filter(|f| allowed.contains(*f)).ok_or(Errno::EINVAL)?;
    let files = ctx.task.files()?;
    let limit = ctx.task.process().limits.soft(Resource::OpenFiles);
    let pair = new_pair(ctx.task, flags);
    let numbers = files.install_pair(pair, flags.contains(OpenFlags::CLOEXEC), limit)?;
    if let Err(e) = fds.write(&numbers) {
        numbers.iter().for_each(|fd| drop(files.remove(*fd)));
        return Err(e);
    }
    Ok(0)
}

/// splice and its kin.
pub(super) const SPLICE: &[Syscall] = splice::SYSCALLS;

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    22 pipe(fds: UserPtr<[i32; 2]>) Full "";
    293 pipe2(fds: UserPtr<[i32; 2]>, flags: u32) Partial "no O_NOTIFICATION_PIPE";
};
