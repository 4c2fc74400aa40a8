//! The system calls.

use alloc::sync::Arc;

use super::{
    Epoll,
    item::{EDGE, EXCLUSIVE, EventSpec, Key},
};
use crate::{
    errno::{Errno, Result},
    fs::{
        AnonInode, FileRef, FileType, OpenFlags,
        poll::{read_mask, read_timeout},
    },
    signal::{self, SigSet},
    sync::PollEvents,
    syscall::{Ctx, Fd, Syscall, UserPtr},
    syscalls,
    task::limits::Resource,
    time::{TimeSpec, deadline_after},
};

/// `struct epoll_event`, which is packed: 12 bytes.
type Event = [u8; 12];

fn create(ctx: &mut Ctx<'_>, flags: OpenFlags) -> Result {
    let inode = AnonInode::new(FileType::Regular, 0o600, 0, 0);
    let file = inode.open(Epoll::new(), "anon_inode:[eventpoll]", OpenFlags::RDWR);
    let limit = ctx.task.process().limits.soft(Resource::OpenFiles);
    Ok(ctx.task.files()?.install(file, flags.contains(OpenFlags::CLOEXEC), limit)? as usize)
}

fn epoll_create(ctx: &mut Ctx<'_>, size: i32) -> Result {
    if size <= 0 {
        return Err(Errno::EINVAL);
    }
    create(ctx, OpenFlags::empty())
}

fn epoll_create1(ctx: &mut Ctx<'_>, flags: u32) -> Result {
    let flags =
        OpenFlags::from_bits(flags).filter(|f| OpenFlags::CLOEXEC.contains(*f)).ok_or(Errno::EINVAL)?;
    create(ctx, flags)
}

const ADD: i32 = 1;
const DEL: i32 = 2;
const MOD: i32 = 3;

fn epoll_ctl(ctx: &mut Ctx<'_>, epfd: Fd, op: i32, fd: Fd, event: UserPtr<Event>) -> Result {
    let spec = match op {
        DEL => None,
        _ => Some(decode(event.read()?)),
    };
    let files = ctx.task.files()?;
    let instance = files.get(epfd.0)?;
    let file = files.get(fd.0)?;
    if !file.pollable() {
        return Err(Errno::EPERM);
    }
    let epoll = instance.downcast::<Epoll>().ok_or(Errno::EINVAL)?;
    if Arc::ptr_eq(&instance, &file) {
        return Err(Errno::EINVAL);
    }
    let key = Key { fd: fd.0, file: file.id() };
    match (op, spec) {
        (ADD, Some(spec)) if spec.events & EXCLUSIVE != 0 && !may_be_exclusive(&file, spec.events) => {
            return Err(Errno::EINVAL);
        }
        (ADD, Some(spec)) => epoll.add(fd.0, &file, spec)?,
        (MOD, Some(spec)) if spec.events & EXCLUSIVE != 0 => return Err(Errno::EINVAL),
        (MOD, Some(spec)) => epoll.modify(key, &file, spec)?,
        (DEL, _) => epoll.remove(key)?,
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

/// What may be asked for with `EPOLLEXCLUSIVE`, and of what.
fn may_be_exclusive(file: &FileRef, events: u32) -> bool {
    const WAKEUP: u32 = 1 << 29;
    let plain = PollEvents::IN | PollEvents::OUT | PollEvents::ERR | PollEvents::HUP;
    events & !(plain.bits() | EXCLUSIVE | EDGE | WAKEUP) == 0 && file.downcast::<Epoll>().is_none()
}

fn decode(event: Event) -> EventSpec {
    let [a, b, c, d, data @ ..] = event;
    let always = (PollEvents::ERR | PollEvents::HUP).bits();
    EventSpec { events: u32::from_ne_bytes([a, b, c, d]) | always, data: u64::from_ne_bytes(data) }
}

fn wait(ctx: &mut Ctx<'_>, epfd: Fd, events: UserPtr<Event>, max: i32, deadline: Option<u64>) -> Result {
    let max = usize::try_from(max)
        .ok()
        .filter(|n| (1..=i32::MAX as usize / 12).contains(n))
        .ok_or(Errno::EINVAL)?;
    let epoll = ctx.task.files()?.get(epfd.0)?.downcast::<Epoll>().ok_or(Errno::EINVAL)?;
    epoll.wait(ctx.task, max, deadline, |i, ready, data| {
        let ([a, b, c, d], [e, f, g, h, m, j, k, l]) = (ready.bits().to_ne_bytes(), data.to_ne_bytes());
        events.index(i).write(&[a, b, c, d, e, f, g, h, m, j, k, l])
    })
}

fn milliseconds(timeout: i32) -> Option<u64> {
    u64::try_from(timeout).ok().map(|ms| deadline_after(ms * 1_000_000))
}

fn epoll_wait(ctx: &mut Ctx<'_>, epfd: Fd, events: UserPtr<Event>, max: i32, timeout: i32) -> Result {
    wait(ctx, epfd, events, max, milliseconds(timeout))
}

fn epoll_pwait(
    ctx: &mut Ctx<'_>,
    epfd: Fd,
    events: UserPtr<Event>,
    max: i32,
    timeout: i32,
    mask: UserPtr<SigSet>,
    size: usize,
) -> Result {
    let mask = read_mask(mask, size)?;
    let task = ctx.task;
    signal::with_mask(task, mask, || wait(ctx, epfd, events, max, milliseconds(timeout)))
}

fn epoll_pwait2(
    ctx: &mut Ctx<'_>,
    epfd: Fd,
    events: UserPtr<Event>,
    max: i32,
    timeout: UserPtr<TimeSpec>,
    mask: UserPtr<SigSet>,
    size: usize,
) -> Result {
    let deadline = read_timeout(timeout)?;
    let mask = read_mask(mask, size)?;
    let task = ctx.task;
    signal::with_mask(task, mask, || wait(ctx, epfd, events, max, deadline))
}

pub(in crate::fs) const SYSCALLS: &[Syscall] = syscalls! {
    213 epoll_create(size: i32) Full "";
    232 epoll_wait(epfd: Fd, events: UserPtr<Event>, maxevents: i32, timeout: i32) Full "";
    233 epoll_ctl(epfd: Fd, op: i32, fd: Fd, event: UserPtr<Event>) Full "";
    281 epoll_pwait(epfd: Fd, events: UserPtr<Event>, maxevents: i32, timeout: i32, sigmask: UserPtr<SigSet>, sigsetsize: usize) Full "";
    291 epoll_create1(flags: u32) Full "";
    441 epoll_pwait2(epfd: Fd, events: UserPtr<Event>, maxevents: i32, timeout: UserPtr<TimeSpec>, sigmask: UserPtr<SigSet>, sigsetsize: usize) Full "";
};
