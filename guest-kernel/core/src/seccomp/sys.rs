//! Installing filters.

use alloc::sync::Arc;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{
    FILTER, OFF, STRICT,
    bpf::{Data, Instruction, MAX_INSTRUCTIONS, Program},
    filter::{Filter, is_action},
    notify::{Answer, Listener, ListenerFile, Notice},
};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    fs::{AnonInode, FileType, OpenFlags},
    sched::{self, work},
    syscall::{Ctx, Syscall, UserPtr},
    syscalls,
    task::{self, Capabilities, limits::Resource, pid::same_task},
};
use core::sync::atomic::Ordering;

const SET_MODE_STRICT: u32 = 0;
const SET_MODE_FILTER: u32 = 1;
const GET_ACTION_AVAIL: u32 = 2;
const GET_NOTIF_SIZES: u32 = 3;

/// `SECCOMP_FILTER_FLAG_*`. LOG and SPEC_ALLOW change nothing here: there is no audit log, and no mitigation to spare.
const TSYNC: u32 = 1;
const LOG: u32 = 2;
const SPEC_ALLOW: u32 = 4;
const NEW_LISTENER: u32 = 8;
const TSYNC_ESRCH: u32 = 16;
const WAIT_KILLABLE_RECV: u32 = 32;

/// `struct sock_fprog`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct UserProgram {
    len: u16,
    _pad: [u16; 3],
    filter: u64,
}

fn seccomp(ctx: &mut Ctx<'_>, operation: u32, flags: u32, args: u64) -> Result {
    match operation {
        SET_MODE_STRICT if flags == 0 && args == 0 => set_strict(ctx.task),
        SET_MODE_FILTER => set_filter(ctx.task, flags, args),
        GET_ACTION_AVAIL if flags == 0 => {
            let action = UserPtr::<u32>::new(args).read()?;
            if is_action(action) { Ok(0) } else { Err(Errno::EOPNOTSUPP) }
        }
        GET_NOTIF_SIZES if flags == 0 => {
            let sizes = [size_of::<Notice>(), size_of::<Answer>(), size_of::<Data>()].map(|n| n as u16);
            UserPtr::<[u16; 3]>::new(args).write(&sizes)?;
            Ok(0)
        }
        _ => Err(Errno::EINVAL),
    }
}

/// `PR_SET_SECCOMP`.
pub(crate) fn set_mode(task: &TaskRef, mode: u64, args: u64) -> Result {
    match mode {
        1 => set_strict(task),
        2 => set_filter(task, 0, args),
        _ => Err(Errno::EINVAL),
    }
}

/// `PR_GET_SECCOMP`.
pub(crate) fn mode_of(task: &TaskRef) -> Result {
    Ok(task.seccomp.mode().into())
}

/// A mode is never left.
fn may_assign(task: &TaskRef, mode: u8) -> Result<()> {
    let now = task.seccomp.mode();
    if now == OFF || now == mode { Ok(()) } else { Err(Errno::EINVAL) }
}

fn set_strict(task: &TaskRef) -> Result {
    may_assign(task, STRICT)?;
    task.seccomp.mode.store(STRICT, Ordering::Release);
    task::update_watched(task);
    Ok(0)
}

fn read_program(at: u64) -> Result<Program> {
    let program = UserPtr::<UserProgram>::new(at).read()?;
    let len = usize::from(program.len);
    if len == 0 || len > MAX_INSTRUCTIONS {
        return Err(Errno::EINVAL);
    }
    Program::new(UserPtr::<Instruction>::new(program.filter).read_vec(len)?)
}

fn set_filter(task: &TaskRef, flags: u32, args: u64) -> Result {
    if flags & !(TSYNC | LOG | SPEC_ALLOW | NEW_LISTENER | TSYNC_ESRCH | WAIT_KILLABLE_RECV) != 0 {
        return Err(Errno::EINVAL);
    }
    let both = flags & TSYNC != 0 && flags & NEW_LISTENER != 0;
    if (both && flags & TSYNC_ESRCH == 0) || (flags & WAIT_KILLABLE_RECV != 0 && flags & NEW_LISTENER == 0) {
        return Err(Errno::EINVAL);
    }
    let program = read_program(args)?;
    if !task.no_new_privs() && !task.credentials().capable_here(Capabilities::SYS_ADMIN) {
        return Err(Errno::EACCES);
    }
    may_assign(task, FILTER)?;
    let listener = (flags & NEW_LISTENER != 0).then(|| Listener::new(flags & WAIT_KILLABLE_RECV != 0));
    let previous = task.seccomp.filter();
    if listener.is_some() && previous.as_ref().is_some_and(|p| p.has_listener()) {
        return Err(Errno::EBUSY);
    }
    let filter = Arc::new(Filter::new(previous.clone(), program, listener.clone())?);
    // The descriptor first: nothing can fail afterwards but the other threads.
    let fd = match listener {
        Some(listener) => Some(listener_fd(task, listener)?),
        None => None,
    };
    if flags & TSYNC != 0 {
        if let Err(tid) = synchronize(task, previous.as_deref(), &filter) {
            if let Some(fd) = fd {
                drop(task.files()?.remove(fd));
            }
            return if flags & TSYNC_ESRCH != 0 { Err(Errno::ESRCH) } else { Ok(tid as usize) };
        }
    } else {
        task.seccomp.set_filter(filter);
    }
    task::update_watched(task);
    Ok(fd.unwrap_or(0) as usize)
}

fn listener_fd(task: &TaskRef, listener: Arc<Listener>) -> Result<i32> {
    let inode = AnonInode::new(FileType::Regular, 0o600, 0, 0);
    let file = inode.open(Arc::new(ListenerFile(listener)), "anon_inode:seccomp notify", OpenFlags::RDWR);
    let limit = task.process().limits.soft(Resource::OpenFiles);
    task.files()?.install(file, true, limit)
}

/// Gives all threads of the process the filter, if each of theirs is one the caller's pile stands on; else answers the
/// number of one that is in the way. Others feel it when they next enter the kernel, which they are made to do.
fn synchronize(task: &TaskRef, mine: Option<&Filter>, new: &Arc<Filter>) -> Result<(), i32> {
    // Under the tree lock no thread comes into being with an older pile.
    task.kernel().pids.tree(|_| {
        let threads = task.process().threads();
        for thread in threads.iter().filter(|t| !same_task(t, task)) {
            let theirs = thread.seccomp.filter();
            let fits = match (thread.seccomp.mode(), &theirs) {
                (OFF, _) => true,
                (FILTER, Some(theirs)) => mine.is_some_and(|m| m.is_above(theirs)),
                _ => false,
            };
            if !fits {
                return Err(thread.tid());
            }
        }
        for thread in &threads {
            if task.no_new_privs() {
                thread.set_no_new_privs();
            }
            thread.seccomp.set_filter(new.clone());
            if !same_task(thread, task) {
                thread.set_watched(true);
                thread.work().fetch_or(work::NOTIFY, Ordering::AcqRel);
                sched::kick(thread);
            }
        }
        Ok(())
    })
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    317 seccomp(operation: u32, flags: u32, args: u64) Full "";
};
