//! mq_open, mq_unlink, mq_timedsend, mq_timedreceive, mq_notify, mq_getsetattr.

use alloc::{sync::Arc, vec};

use ringfence_hal as hal;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{
    fs::{Maker, QueueFile},
    queue::{Attributes, Notify},
};
use crate::{
    errno::{Errno, Result},
    fs::{
        FileRef, NAME_MAX, OpenFlags, Path, Subject,
        open::open_place,
        ops,
        sys::read_path,
        walk::{Last, Parent},
    },
    ipc::objects,
    signal::Signal,
    syscall::{Ctx, Fd, Syscall, UserAddr, UserPtr, UserStr, args::Mode},
    syscalls,
    task::{Capabilities, limits::Resource},
    time::{TimeSpec, realtime_to_monotonic},
};

/// Priorities are below this.
const PRIORITY_MAX: u32 = 32_768;

/// A name is one component; the library took the slash off.
fn check_name(name: &[u8]) -> Result<()> {
    match name {
        b"" => Err(Errno::ENOENT),
        b"." | b".." => Err(Errno::EACCES),
        name if name.contains(&b'/') => Err(Errno::EACCES),
        name if name.len() > NAME_MAX => Err(Errno::ENAMETOOLONG),
        _ => Ok(()),
    }
}

fn mq_open(
    ctx: &mut Ctx<'_>,
    name: UserStr,
    flags: u32,
    mode: Mode,
    attributes: UserPtr<Attributes>,
) -> Result {
    let attributes = match attributes.non_null() {
        Some(a) => Some(a.read()?),
        None => None,
    };
    let name = read_path(name)?;
    check_name(&name)?;
    let (task, space) = (ctx.task, objects(ctx.task));
    let (fs, mount) = space.mqueue.home();
    let root = Path::new(mount.clone(), mount.root().clone());
    let flags = OpenFlags::from_bits_truncate(flags);
    let (credentials, umask) = (task.credentials(), task.fs()?.umask());
    let subject = Subject::of(&credentials);
    let status = flags & (OpenFlags::WRONLY | OpenFlags::RDWR | OpenFlags::NONBLOCK);
    let place = {
        let guard = root.dentry().lock_directory();
        let dentry = root.dentry().lookup_locked(&name, &guard)?;
        if dentry.inode().is_some() {
            if flags.contains(OpenFlags::CREAT | OpenFlags::EXCL) {
                return Err(Errno::EEXIST);
            }
            if flags.contains(OpenFlags::WRONLY | OpenFlags::RDWR) {
                return Err(Errno::EINVAL);
            }
        } else {
            if !flags.contains(OpenFlags::CREAT) {
                return Err(Errno::ENOENT);
            }
            ops::may_create(&subject, &root)?;
            let maker = Maker {
                uid: credentials.fsuid,
                gid: credentials.fsgid,
                privileged: credentials.capable(Capabilities::SYS_RESOURCE),
                limit: task.process().limits.soft(Resource::MessageQueues),
            };
            let inode = fs.make(&name, mode.0 & 0o777 & !umask, &maker, attributes.as_ref())?;
            root.dentry().instantiate(&dentry, inode, &guard);
            drop(guard);
            // Who makes a queue may use it, whatever its mode says.
            let file = open_place(&Subject::ROOT, root.with(dentry), status, Some(task))?;
            return install(ctx, file);
        }
        root.with(dentry)
    };
    install(ctx, open_place(&subject, place, status, Some(task))?)
}

fn install(ctx: &Ctx<'_>, file: FileRef) -> Result {
    let limit = ctx.task.process().limits.soft(Resource::OpenFiles);
    Ok(ctx.task.files()?.install(file, true, limit)? as usize)
}

fn mq_unlink(ctx: &mut Ctx<'_>, name: UserStr) -> Result {
    let name = read_path(name)?;
    check_name(&name)?;
    let space = objects(ctx.task);
    let (_, mount) = space.mqueue.home();
    let credentials = ctx.task.credentials();
    let subject = Subject::of(&credentials);
    let dir = Path::new(mount.clone(), mount.root().clone());
    ops::unlink(&subject, &Parent { dir, last: Last::Name(&name), trailing_slash: false })?;
    Ok(0)
}

/// The queue of a descriptor. `EBADF`.
fn find(ctx: &Ctx<'_>, fd: Fd) -> Result<(FileRef, Arc<QueueFile>)> {
    let file = ctx.task.files()?.get(fd.0)?;
    let queue = file.downcast::<QueueFile>().ok_or(Errno::EBADF)?;
    Ok((file, queue))
}

/// Time-outs are points of the wall clock.
fn deadline(at: UserPtr<TimeSpec>) -> Result<Option<u64>> {
    match at.non_null() {
        None => Ok(None),
        Some(at) => Ok(Some(realtime_to_monotonic(at.read()?.to_ns()?))),
    }
}

fn mq_timedsend(
    ctx: &mut Ctx<'_>,
    fd: Fd,
    from: UserAddr,
    len: usize,
    priority: u32,
    timeout: UserPtr<TimeSpec>,
) -> Result {
    let deadline = deadline(timeout)?;
    if priority >= PRIORITY_MAX {
        return Err(Errno::EINVAL);
    }
    let (file, queue) = find(ctx, fd)?;
    if !file.flags().writable() {
        return Err(Errno::EBADF);
    }
    if len > queue.0.queue.message_size {
        return Err(Errno::EMSGSIZE);
    }
    let mut bytes = vec![0; len];
    hal::user::copy_in(&mut bytes, from.0)?;
    queue.0.queue.send(ctx.task, priority, bytes, file.nonblocking(), deadline)?;
    Ok(0)
}

fn mq_timedreceive(
    ctx: &mut Ctx<'_>,
    fd: Fd,
    to: UserAddr,
    len: usize,
    priority: UserPtr<u32>,
    timeout: UserPtr<TimeSpec>,
) -> Result {
    let deadline = deadline(timeout)?;
    let (file, queue) = find(ctx, fd)?;
    if !file.flags().readable() {
        return Err(Errno::EBADF);
    }
    if len < queue.0.queue.message_size {
        return Err(Errno::EMSGSIZE);
    }
    let (p, bytes) = queue.0.queue.receive(ctx.task, file.nonblocking(), deadline)?;
    priority.write_opt(&p)?;
    hal::user::copy_out(to.0, &bytes)?;
    Ok(bytes.len())
}

/// `struct sigevent`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct SigEvent {
    value: u64,
    signal: i32,
    notify: i32,
    pad: [u64; 6],
}

const SIGEV_SIGNAL: i32 = 0;
const SIGEV_NONE: i32 = 1;

fn mq_notify(ctx: &mut Ctx<'_>, fd: Fd, event: UserPtr<SigEvent>) -> Result {
    let new = match event.non_null() {
        None => None,
        Some(event) => {
            let event = event.read()?;
            let signal = match event.notify {
                SIGEV_NONE => None,
                SIGEV_SIGNAL => Some(Signal::new(event.signal).ok_or(Errno::EINVAL)?),
                // SIGEV_THREAD comes with a netlink socket, of which there are none.
                _ => return Err(Errno::EINVAL),
            };
            let process = Arc::downgrade(ctx.task.process());
            Some(Notify { process, pid: ctx.task.pid(), signal, value: event.value })
        }
    };
    find(ctx, fd)?.1.0.queue.notify(ctx.task, new)?;
    Ok(0)
}

fn mq_getsetattr(ctx: &mut Ctx<'_>, fd: Fd, new: UserPtr<Attributes>, old: UserPtr<Attributes>) -> Result {
    let nonblocking = i64::from(OpenFlags::NONBLOCK.bits());
    let new = match new.non_null() {
        None => None,
        Some(new) => Some(new.read()?.flags),
    };
    if new.is_some_and(|flags| flags & !nonblocking != 0) {
        return Err(Errno::EINVAL);
    }
    let (file, queue) = find(ctx, fd)?;
    let queue = &queue.0.queue;
    let before = Attributes {
        flags: if file.nonblocking() { nonblocking } else { 0 },
        max_messages: queue.max_messages as i64,
        message_size: queue.message_size as i64,
        messages: queue.count() as i64,
        reserved: [0; 4],
    };
    if let Some(flags) = new {
        let mut status = file.flags();
        status.set(OpenFlags::NONBLOCK, flags != 0);
        file.set_status_flags(status);
    }
    old.write_opt(&before)?;
    Ok(0)
}

pub(in crate::ipc) const SYSCALLS: &[Syscall] = syscalls! {
    240 mq_open(name: UserStr, flags: u32, mode: Mode, attr: UserPtr<Attributes>) Full "";
    241 mq_unlink(name: UserStr) Full "";
    242 mq_timedsend(fd: Fd, msg: UserAddr, len: usize, prio: u32, timeout: UserPtr<TimeSpec>) Full "";
    243 mq_timedreceive(fd: Fd, msg: UserAddr, len: usize, prio: UserPtr<u32>, timeout: UserPtr<TimeSpec>) Full "";
    244 mq_notify(fd: Fd, event: UserPtr<SigEvent>) Partial "no SIGEV_THREAD";
    245 mq_getsetattr(fd: Fd, new: UserPtr<Attributes>, old: UserPtr<Attributes>) Full "";
};
