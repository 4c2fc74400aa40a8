//! pidfd_open(2): a process as a descriptor, and pidfd_getfd(2): a descriptor of that process.

use alloc::{format, string::String, sync::Arc};

use super::{File, FileRef, OpenFlags, eventfd::install, proc};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    ns::{PidNamespace, PidView},
    ptrace::{AccessMode, check_access},
    signal::{self, SigInfo, Signal, types::code},
    sync::{PollEvents, PollTable},
    syscall::{Ctx, Fd, Syscall, UserPtr, args::SigNum},
    syscalls,
    task::{Process, limits::Resource, process::State},
};

/// A process held open: its number means this process for as long as the descriptor is.
pub struct PidFd {
    process: Arc<Process>,
}

impl File for PidFd {
    fn poll(&self, table: Option<&mut PollTable>) -> PollEvents {
        if let Some(table) = table {
            table.register(&self.process.exit_events);
        }
        let running = *self.process.state.lock() == State::Running;
        if running { PollEvents::empty() } else { PollEvents::READABLE }
    }
}

/// The lines of `fdinfo` for a pidfd: the numbers of the process in `ns` and below, 0 if it is not in there, -1 once it is
/// gone. `None` for other files.
pub fn numbers(file: &FileRef, ns: &Arc<PidNamespace>) -> Option<String> {
    let process = &file.downcast::<PidFd>()?.process;
    if *process.state.lock() == State::Reaped {
        return Some(String::from("Pid:\t-1\nNSpid:\t-1\n"));
    }
    let show = |ns: &PidNamespace| PidView { ns }.show(process.pid);
    let first = show(ns);
    let mut text = format!("Pid:\t{first}\nNSpid:\t{first}");
    if first != 0 {
        for below in process.pid_ns.down_from(ns).iter().skip(1) {
            text.push_str(&format!("\t{}", show(below)));
        }
    }
    text.push('\n');
    Some(text)
}

/// Gives `task` a descriptor of `process` (`CLONE_PIDFD`, `pidfd_open`); always close-on-exec.
pub fn open(task: &TaskRef, process: &Arc<Process>, flags: OpenFlags) -> Result {
    let ops = Arc::new(PidFd { process: process.clone() });
    let flags = (flags & OpenFlags::NONBLOCK) | OpenFlags::CLOEXEC;
    install(task, ops, "anon_inode:[pidfd]", OpenFlags::RDWR, flags)
}

/// The process behind a descriptor, and whether waiting on it is not to block. `EBADF`.
pub fn process_of(task: &TaskRef, fd: i32) -> Result<(Arc<Process>, bool)> {
    let file = task.files()?.get(fd)?;
    let pidfd = file.downcast::<PidFd>().ok_or(Errno::EBADF)?;
    Ok((pidfd.process.clone(), file.nonblocking()))
}

fn pidfd_open(ctx: &mut Ctx<'_>, pid: i32, flags: u32) -> Result {
    let flags =
        OpenFlags::from_bits(flags).filter(|f| OpenFlags::NONBLOCK.contains(*f)).ok_or(Errno::EINVAL)?;
    if pid <= 0 {
        return Err(Errno::EINVAL);
    }
    let pids = ctx.task.pids();
    match pids.process(pid) {
        Ok(process) => open(ctx.task, &process, flags),
        // A thread that is not a leader.
        Err(_) if pids.task(pid).is_ok() => Err(Errno::EINVAL),
        Err(e) => Err(e),
    }
}

fn pidfd_send_signal(ctx: &mut Ctx<'_>, fd: Fd, sig: SigNum, info: UserPtr<[u8; 128]>, flags: u32) -> Result {
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let process = match process_of(ctx.task, fd.0) {
        Ok((process, _)) => process,
        // A descriptor of /proc/PID is as good, here alone: it came before pidfds.
        Err(e) => proc::process_of_directory(ctx.task.files()?.get(fd.0)?.inode()).ok_or(e)?,
    };
    let sender = ctx.task.credentials();
    let wanted = match sig.0 {
        0 => None,
        n => Some(Signal::new(n).ok_or(Errno::EINVAL)?),
    };
    let given = match (info.non_null(), wanted) {
        (Some(info), Some(signal)) => {
            let info = SigInfo::from_bytes(signal, &info.read()?);
            let own = Arc::ptr_eq(&process, ctx.task.process());
            // Nobody may pretend to be the kernel, or kill.
            if (info.code >= 0 || info.code == code::SI_TKILL) && !own {
                return Err(Errno::EPERM);
            }
            Some(info)
        }
        _ => None,
    };
    if *process.state.lock() == State::Reaped {
        return Err(Errno::ESRCH);
    }
    if !signal::may_send(&sender, ctx.task, &process, wanted) {
        return Err(Errno::EPERM);
    }
    if let Some(signal) = wanted {
        let info = given.unwrap_or(SigInfo::user(signal, code::SI_USER, ctx.task.process().pid, sender.uid));
        signal::send_to_process(&process, info)?;
    }
    Ok(0)
}

fn pidfd_getfd(ctx: &mut Ctx<'_>, fd: Fd, target: Fd, flags: u32) -> Result {
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let (process, _) = process_of(ctx.task, fd.0)?;
    let threads = process.threads();
    let thread = threads.first().ok_or(Errno::ESRCH)?;
    check_access(ctx.task, thread, AccessMode::Real)?;
    let file = thread.files().map_err(|_| Errno::ESRCH)?.get_any(target.0)?;
    let limit = ctx.task.process().limits.soft(Resource::OpenFiles);
    Ok(ctx.task.files()?.install(file, true, limit)? as usize)
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    424 pidfd_send_signal(fd: Fd, sig: SigNum, info: UserPtr<[u8; 128]>, flags: u32) Full "";
    434 pidfd_open(pid: i32, flags: u32) Full "";
    438 pidfd_getfd(pidfd: Fd, target: Fd, flags: u32) Full "";
};
