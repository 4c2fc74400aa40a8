//! Kernel AIO (io_submit(2) and its kin).
//!
//! What Linux does: a context is a ring of completion events that is mapped into the program; what is submitted on
//! files of the page cache is done before `io_submit` returns, and its event put into the ring. What we do: the
//! same, for every file: reading and writing happen in `io_submit`. `IOCB_CMD_POLL` is the one that waits; it
//! completes when somebody looks for events.
//!
//! The ring is an object of pages that the program may write, too: its head is taken modulo the size whenever it
//! is read, and what is in it is never believed to be ours. Contexts belong to an address space and end with it.
//!
//! Lock order: [`Contexts`], then a context's state; neither over a file operation.

use alloc::{boxed::Box, collections::BTreeMap, sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use ringfence_hal::{Frame, PAGE_SIZE, Prot};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{
    FileRef, FileType, eventfd,
    poll::read_mask,
    sys::{IoVec, read_iovec},
};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    io::{Sink, Source},
    mm::{FileMapping, MapRequest, Mappable, Placement, SharedMemory, VmFlags, limits_of},
    signal,
    sync::{Interruptible, PollEvents, PollTable, Queue, SpinLock, WaitError, WaitQueue, Wake, wait_event},
    syscall::{Ctx, Syscall, UserAddr, UserPtr},
    syscalls,
    time::{TimeSpec, deadline_after},
};

/// `/proc/sys/fs/aio-max-nr`.
pub static MAX: AtomicUsize = AtomicUsize::new(65_536);
/// `/proc/sys/fs/aio-nr`: requests all contexts may have.
pub static IN_USE: AtomicUsize = AtomicUsize::new(0);

/// Bytes of `struct aio_ring` before the events, and of an event.
const HEADER: usize = 32;
const EVENT: usize = 32;
const MAGIC: u32 = 0xa10a_10a1;
/// Where head and tail are in the header.
const HEAD_AT: usize = 8;
const TAIL_AT: usize = 12;

/// `struct io_event`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Event {
    data: u64,
    object: u64,
    result: i64,
    result2: i64,
}

/// `struct iocb`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Request {
    data: u64,
    key: u32,
    rw_flags: u32,
    opcode: u16,
    priority: i16,
    fd: i32,
    buf: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    resfd: i32,
}

const PREAD: u16 = 0;
const PWRITE: u16 = 1;
const FSYNC: u16 = 2;
const FDSYNC: u16 = 3;
const POLL: u16 = 5;
const PREADV: u16 = 7;
const PWRITEV: u16 = 8;

/// `IOCB_FLAG_RESFD` and `IOCB_FLAG_IOPRIO`.
const RESFD: u32 = 1;
const IOPRIO: u32 = 2;

/// The contexts of an address space, by the address of their rings.
#[derive(Default)]
pub struct Contexts(SpinLock<BTreeMap<u64, Arc<Context>>>);

/// A poll that waits.
struct Pending {
    file: FileRef,
    events: PollEvents,
    data: u64,
    notify: Option<FileRef>,
    /// Keeps it registered.
    _table: PollTable,
}

#[derive(Default)]
struct State {
    tail: u32,
    polls: BTreeMap<u64, Pending>,
    ended: bool,
}

/// One context.
pub struct Context {
    ring: Arc<SharedMemory>,
    slots: u32,
    requests: usize,
    state: SpinLock<State>,
    waiters: Queue,
}

/// Wakes those who look for events, who poll again.
struct Waker {
    waiters: Queue,
    fired: AtomicBool,
}

impl Wake for Waker {
    fn wake(self: Arc<Self>, _events: PollEvents) {
        self.fired.store(true, Ordering::Release);
        self.waiters.wake_all(PollEvents::empty());
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        IN_USE.fetch_sub(self.requests, Ordering::Relaxed);
    }
}

impl Context {
    /// `EAGAIN` if all contexts together would be too many.
    fn new(requests: usize) -> Result<Arc<Context>> {
        let add = |n: usize| n.checked_add(requests).filter(|sum| *sum <= MAX.load(Ordering::Relaxed));
        IN_USE.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).map_err(|_| Errno::EAGAIN)?;
        let len = (HEADER + (requests + 2) * EVENT).next_multiple_of(PAGE_SIZE);
        let slots = ((len - HEADER) / EVENT) as u32;
        let context = Arc::new(Context {
            ring: SharedMemory::new(len as u64),
            slots,
            requests,
            state: SpinLock::new(State::default()),
            waiters: WaitQueue::new(),
        });
        let first = context.page(0)?;
        // id, nr, head, tail, magic, compat_features, incompat_features, header_length
        let header = [0, slots, 0, 0, MAGIC, 1, 0, HEADER as u32];
        first.write(0, header.as_bytes());
        Ok(context)
    }

    fn page(&self, index: u64) -> Result<Frame> {
        self.ring.page(index, true)
    }

    /// Where the program or we have read to.
    fn head(&self) -> Result<u32> {
        let mut word = [0; 4];
        self.page(0)?.read(HEAD_AT, &mut word);
        Ok(u32::from_ne_bytes(word) % self.slots)
    }

    fn place(&self, slot: u32) -> Result<(Frame, usize)> {
        let at = HEADER + slot as usize * EVENT;
        Ok((self.page((at / PAGE_SIZE) as u64)?, at % PAGE_SIZE))
    }

    fn waiting(&self, tail: u32) -> Result<u32> {
        Ok((tail + self.slots - self.head()?) % self.slots)
    }

    /// Whether one more request has a place for its event.
    fn has_room(&self) -> Result<bool> {
        let s = self.state.lock();
        Ok((self.waiting(s.tail)? as usize + s.polls.len()) < self.requests)
    }

    /// Puts an event into the ring.
    fn complete(&self, event: &Event) -> Result<()> {
        let mut s = self.state.lock();
        let (frame, at) = self.place(s.tail)?;
        frame.write(at, event.as_bytes());
        s.tail = (s.tail + 1) % self.slots;
        self.page(0)?.write(TAIL_AT, &s.tail.to_ne_bytes());
        drop(s);
        self.waiters.wake_all(PollEvents::empty());
        Ok(())
    }

    /// Completes polls whose files are ready.
    fn look_at_polls(&self) -> Result<()> {
        let ready = {
            let s = self.state.lock();
            let files: Vec<(u64, FileRef, PollEvents)> =
                s.polls.iter().map(|(id, p)| (*id, p.file.clone(), p.events)).collect();
            files
        };
        for (id, file, events) in ready {
            let now = file.poll(None) & (events | PollEvents::ERR | PollEvents::HUP);
            if now.is_empty() {
                continue;
            }
            let Some(pending) = self.state.lock().polls.remove(&id) else { continue };
            self.complete(&Event { data: pending.data, object: id, result: now.bits().into(), result2: 0 })?;
            notify(pending.notify.as_ref());
        }
        Ok(())
    }

    /// Takes up to `max` events out.
    fn take(&self, max: usize) -> Result<Vec<Event>> {
        self.look_at_polls()?;
        let s = self.state.lock();
        let mut head = self.head()?;
        let mut events = Vec::new();
        while head != s.tail && events.len() < max {
            let (frame, at) = self.place(head)?;
            let mut event = Event { data: 0, object: 0, result: 0, result2: 0 };
            frame.read(at, event.as_mut_bytes());
            events.push(event);
            head = (head + 1) % self.slots;
        }
        self.page(0)?.write(HEAD_AT, &head.to_ne_bytes());
        Ok(events)
    }
}

fn notify(eventfd: Option<&FileRef>) {
    if let Some(file) = eventfd {
        eventfd::signal(file);
    }
}

fn find(task: &TaskRef, id: u64) -> Result<Arc<Context>> {
    let mm = task.mm()?;
    let contexts = mm.aio.get().ok_or(Errno::EINVAL)?;
    let found = contexts.0.lock().get(&id).cloned();
    found.ok_or(Errno::EINVAL)
}

fn io_setup(ctx: &mut Ctx<'_>, requests: u32, id: UserPtr<u64>) -> Result {
    if id.read()? != 0 || requests == 0 || requests > 0x1000_0000 {
        return Err(Errno::EINVAL);
    }
    if requests as usize > MAX.load(Ordering::Relaxed) {
        return Err(Errno::EAGAIN);
    }
    let context = Context::new(requests as usize)?;
    let mm = ctx.task.mm()?;
    let len = context.ring.len();
    let file = FileMapping { object: context.ring.clone(), file: None, may_write: true, may_exec: false };
    let (prot, flags) = (Prot::READ | Prot::WRITE, VmFlags::SHARED | VmFlags::DONTFORK);
    let request = MapRequest { len, placement: Placement::Any, prot, flags, file: Some((file, 0)) };
    let at = mm.map(request, &limits_of(ctx.task))?;
    mm.aio.call_once(Box::default).0.lock().insert(at, context);
    if let Err(e) = id.write(&at) {
        destroy(ctx.task, at)?;
        return Err(e);
    }
    Ok(0)
}

fn destroy(task: &TaskRef, id: u64) -> Result<()> {
    let mm = task.mm()?;
    let contexts = mm.aio.get().ok_or(Errno::EINVAL)?;
    let context = contexts.0.lock().remove(&id).ok_or(Errno::EINVAL)?;
    let polls = {
        let mut s = context.state.lock();
        s.ended = true;
        core::mem::take(&mut s.polls)
    };
    drop(polls);
    context.waiters.wake_all(PollEvents::empty());
    let is_ring = |object: &Arc<dyn Mappable>| {
        let any: Arc<dyn core::any::Any + Send + Sync> = object.clone();
        any.downcast::<SharedMemory>().ok().filter(|ring| Arc::ptr_eq(ring, &context.ring))
    };
    drop(mm.unmap_object(id, is_ring));
    Ok(())
}

fn io_destroy(ctx: &mut Ctx<'_>, id: u64) -> Result {
    destroy(ctx.task, id).map(|()| 0)
}

/// Reads or writes; the result goes into the event.
fn transfer(task: &TaskRef, file: &FileRef, r: &Request) -> Result {
    let vectored = matches!(r.opcode, PREADV | PWRITEV);
    let segments = match vectored {
        true => Some(read_iovec(UserPtr::<IoVec>::new(r.buf), r.bytes as usize)?),
        false => None,
    };
    let offset = u64::try_from(r.offset).map_err(|_| Errno::EINVAL);
    if matches!(r.opcode, PREAD | PREADV) {
        let mut sink = match segments {
            Some(segments) => Sink::segments(segments),
            None => Sink::user(r.buf, r.bytes as usize),
        };
        if file.seekable() { file.read_at(task, offset?, &mut sink) } else { file.read(task, &mut sink) }
    } else {
        let mut source = match segments {
            Some(segments) => Source::segments(segments),
            None => Source::user(r.buf, r.bytes as usize),
        };
        if file.seekable() {
            file.write_at(task, offset?, &mut source)
        } else {
            file.write(task, &mut source)
        }
    }
}

/// What an event says of a call that a signal ended: there is nothing to start again.
fn result_of(result: Result) -> i64 {
    match result {
        Ok(n) => n as i64,
        Err(e) if e.raw() >= Errno::ERESTARTSYS.raw() => -i64::from(Errno::EINTR.raw()),
        Err(e) => -i64::from(e.raw()),
    }
}

fn submit_one(ctx: &Ctx<'_>, context: &Arc<Context>, at: UserAddr) -> Result<()> {
    let r = UserPtr::<Request>::new(at.0).read()?;
    if r.reserved != 0 || isize::try_from(r.bytes).is_err() || r.flags & !(RESFD | IOPRIO) != 0 {
        return Err(Errno::EINVAL);
    }
    if !context.has_room()? {
        return Err(Errno::EAGAIN);
    }
    let files = ctx.task.files()?;
    let file = files.get(r.fd)?;
    let resfd = match r.flags & RESFD {
        0 => None,
        _ => Some(files.get(r.resfd).and_then(|f| if eventfd::is(&f) { Ok(f) } else { Err(Errno::EINVAL) })?),
    };
    // KIOCB_KEY
    UserPtr::<u32>::new(at.offset(8).0).write(&0)?;
    let flags = file.flags();
    let result = match r.opcode {
        PREAD | PREADV if !flags.readable() => return Err(Errno::EBADF),
        PWRITE | PWRITEV if !flags.writable() => return Err(Errno::EBADF),
        PREAD | PREADV | PWRITE | PWRITEV if file.kind() == FileType::Directory => return Err(Errno::EINVAL),
        PREAD | PREADV | PWRITE | PWRITEV => result_of(transfer(ctx.task, &file, &r)),
        FSYNC | FDSYNC if r.buf != 0 || r.offset != 0 || r.bytes != 0 || r.rw_flags != 0 => {
            return Err(Errno::EINVAL);
        }
        FSYNC | FDSYNC => result_of(file.inode().fsync(r.opcode == FDSYNC).map(|()| 0)),
        POLL => return submit_poll(context, at, &r, file, resfd),
        _ => return Err(Errno::EINVAL),
    };
    context.complete(&Event { data: r.data, object: at.0, result, result2: 0 })?;
    notify(resfd.as_ref());
    Ok(())
}

fn submit_poll(
    context: &Arc<Context>,
    at: UserAddr,
    r: &Request,
    file: FileRef,
    resfd: Option<FileRef>,
) -> Result<()> {
    if r.buf > 0xffff || r.offset != 0 || r.bytes != 0 || r.rw_flags != 0 {
        return Err(Errno::EINVAL);
    }
    let events = PollEvents::from_bits_truncate(r.buf as u32);
    let waker = Arc::new(Waker { waiters: context.waiters.clone(), fired: AtomicBool::new(false) });
    let mut table = PollTable::new(waker, events);
    file.poll(Some(&mut table));
    let pending = Pending { file, events, data: r.data, notify: resfd, _table: table };
    let old = context.state.lock().polls.insert(at.0, pending);
    drop(old);
    context.look_at_polls()
}

fn io_submit(ctx: &mut Ctx<'_>, id: u64, count: i64, requests: UserPtr<u64>) -> Result {
    let count = usize::try_from(count).map_err(|_| Errno::EINVAL)?;
    let context = find(ctx.task, id)?;
    let mut done = 0;
    for i in 0..count.min(context.slots as usize) {
        let result = requests.index(i).read().and_then(|at| submit_one(ctx, &context, UserAddr(at)));
        match result {
            Ok(()) => done += 1,
            Err(_) if done > 0 => break,
            Err(e) => return Err(e),
        }
        crate::sched::preempt_point(ctx.task);
    }
    Ok(done)
}

fn get_events(
    task: &TaskRef,
    id: u64,
    min: i64,
    max: i64,
    events: UserPtr<Event>,
    timeout: UserPtr<TimeSpec>,
) -> Result {
    let deadline = match timeout.non_null() {
        Some(t) => Some(deadline_after(t.read()?.to_ns()?)),
        None => None,
    };
    let context = find(task, id)?;
    if min < 0 || min > max {
        return Err(Errno::EINVAL);
    }
    let (min, max) = (min as usize, max as usize);
    let mut done = 0;
    let mut failed = None;
    let mut attempt = || {
        match context.take((max - done).min(context.slots as usize)) {
            Ok(taken) => {
                for event in taken {
                    if let Err(e) = events.index(done).write(&event) {
                        failed = Some(e);
                        return Some(());
                    }
                    done += 1;
                }
            }
            Err(e) => {
                failed = Some(e);
                return Some(());
            }
        }
        (done >= min || context.state.lock().ended).then_some(())
    };
    let waited = match attempt() {
        Some(()) => Ok(()),
        None => wait_event(task, &context.waiters, Interruptible::Yes, deadline, attempt),
    };
    match (failed, waited) {
        (Some(e), _) if done == 0 => Err(e),
        (_, Err(WaitError::Interrupted)) if done == 0 => Err(Errno::EINTR),
        _ => Ok(done),
    }
}

fn io_getevents(
    ctx: &mut Ctx<'_>,
    id: u64,
    min: i64,
    max: i64,
    events: UserPtr<Event>,
    timeout: UserPtr<TimeSpec>,
) -> Result {
    get_events(ctx.task, id, min, max, events, timeout)
}

/// `struct __aio_sigset`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Mask {
    mask: u64,
    size: u64,
}

fn io_pgetevents(
    ctx: &mut Ctx<'_>,
    id: u64,
    min: i64,
    max: i64,
    events: UserPtr<Event>,
    timeout: UserPtr<TimeSpec>,
    mask: UserPtr<Mask>,
) -> Result {
    let mask = match mask.non_null() {
        None => None,
        Some(mask) => {
            let mask = mask.read()?;
            read_mask(UserPtr::new(mask.mask), mask.size as usize)?
        }
    };
    let task = ctx.task;
    signal::with_mask(task, mask, || get_events(task, id, min, max, events, timeout))
}

fn io_cancel(ctx: &mut Ctx<'_>, id: u64, request: UserAddr, _result: UserPtr<Event>) -> Result {
    let key = UserPtr::<u32>::new(request.offset(8).0).read()?;
    if key != 0 {
        return Err(Errno::EINVAL);
    }
    let context = find(ctx.task, id)?;
    let pending = context.state.lock().polls.remove(&request.0).ok_or(Errno::EINVAL)?;
    // As on Linux, the event comes by the ring.
    context.complete(&Event { data: pending.data, object: request.0, result: 0, result2: 0 })?;
    notify(pending.notify.as_ref());
    Err(Errno::EINPROGRESS)
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    206 io_setup(nr_events: u32, ctx_idp: UserPtr<u64>) Full "";
    207 io_destroy(ctx_id: u64) Full "";
    208 io_getevents(ctx_id: u64, min_nr: i64, nr: i64, events: UserPtr<Event>, timeout: UserPtr<TimeSpec>) Full "";
    209 io_submit(ctx_id: u64, nr: i64, iocbpp: UserPtr<u64>) Partial "IOCB_CMD_POLL completes when events are looked for";
    210 io_cancel(ctx_id: u64, iocb: UserAddr, result: UserPtr<Event>) Full "";
    333 io_pgetevents(ctx_id: u64, min_nr: i64, nr: i64, events: UserPtr<Event>, timeout: UserPtr<TimeSpec>, usig: UserPtr<Mask>) Full "";
};
