//! `wait4` and `waitid` (wait(2)).

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use bitflags::bitflags;

use super::{
    Process, exit,
    limits::{RUsage, UsageSum},
    process::{ExitStatus, State},
};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    ptrace,
    signal::{
        SigInfo, Signal,
        stop::{REPORT_CONTINUED, REPORT_NONE, REPORT_STOPPED},
        types::{Fields, code},
    },
    sync::{Interruptible, wait_event},
    syscall::{Ctx, Syscall, UserPtr},
    syscalls,
};

bitflags! {
    #[derive(Clone, Copy)]
    struct Options: u32 {
        const NOHANG = 1;
        const STOPPED = 2;
        const EXITED = 4;
        const CONTINUED = 8;
        const NOWAIT = 0x0100_0000;
        const NOTHREAD = 0x2000_0000;
        const ALL = 0x4000_0000;
        const CLONE = 0x8000_0000;
    }
}

/// Which children.
#[derive(Clone, Copy)]
enum Which {
    Any,
    Pid(i32),
    Group(i32),
}

impl Which {
    fn matches(self, number: i32, child: &Process) -> bool {
        match self {
            Which::Any => true,
            Which::Pid(pid) => number == pid,
            Which::Group(pgid) => child.group().pgid == pgid,
        }
    }
}

/// What a child has to tell.
enum Event {
    Exited(ExitStatus),
    Stopped(u8),
    Continued,
    /// A tracee stopped.
    Trapped(i32),
}

struct Found {
    child: Arc<Process>,
    /// The number of the child, or of one of its threads, as the waiter sees it: it is gone from the tables with a
    /// child that has been waited for.
    number: i32,
    event: Event,
    usage: UsageSum,
}

/// Looks once. `Ok(None)`: there are such children, none has news.
fn look(task: &TaskRef, which: Which, options: Options) -> Result<Option<Found>> {
    // Zombies become `Reaped` under their own lock, so of several waiting threads one gets each.
    let children = task.process().links.lock().children.clone();
    let mut any = false;
    for child in children {
        let signal = child.exit_signal.load(Ordering::Relaxed);
        let is_clone = signal != i32::from(Signal::CHLD.number());
        if ptrace::traced_here(&child, task.process()) {
            continue; // seen below
        }
        if !which.matches(child.pid, &child)
            || (!options.contains(Options::ALL) && is_clone != options.contains(Options::CLONE))
        {
            continue;
        }
        any = true;
        if let Some(event) = news(&child, options) {
            let number = child.number_for(task.process());
            let usage = UsageSum::of_process(&child).plus(UsageSum::of_dead(&child.dead_children));
            if matches!(event, Event::Exited(_)) && !options.contains(Options::NOWAIT) {
                exit::reap(&child);
            }
            return Ok(Some(Found { number, child, event, usage }));
        }
    }
    let consume = !options.contains(Options::NOWAIT);
    let own_only = options.contains(Options::NOTHREAD);
    let tracees = ptrace::look(task, own_only, consume, options.contains(Options::EXITED), |tid, process| {
        which.matches(tid, process)
    });
    match tracees {
        None => {}
        Some(None) => any = true,
        Some(Some((tracee, report))) => {
            let child = tracee.process().clone();
            let usage = UsageSum::of_task(&tracee);
            let number = task.pids().show(tracee.global_tid());
            let event = match report {
                ptrace::Report::Stopped(code) => Event::Trapped(code),
                ptrace::Report::Exited(status) => Event::Exited(status),
            };
            return Ok(Some(Found { number, child, event, usage }));
        }
    }
    if any { Ok(None) } else { Err(Errno::ECHILD) }
}

fn news(child: &Process, options: Options) -> Option<Event> {
    let consume = !options.contains(Options::NOWAIT);
    if options.contains(Options::EXITED) && !ptrace::is_hidden_zombie(child) {
        let mut state = child.state.lock();
        if let State::Zombie(status) = *state {
            if consume {
                *state = State::Reaped;
            }
            return Some(Event::Exited(status));
        }
    }
    let report = child.stop_report.load(Ordering::Acquire);
    let event = if report & REPORT_STOPPED != 0 && options.contains(Options::STOPPED) {
        Event::Stopped(report as u8)
    } else if report == REPORT_CONTINUED && options.contains(Options::CONTINUED) {
        Event::Continued
    } else {
        return None;
    };
    if consume
        && child
            .stop_report
            .compare_exchange(report, REPORT_NONE, Ordering::AcqRel, Ordering::Relaxed)
            .is_err()
    {
        return None; // changed again, or another thread was told
    }
    Some(event)
}

fn wait(task: &TaskRef, which: Which, options: Options) -> Result<Option<Found>> {
    let once = || match look(task, which, options) {
        Ok(Some(found)) => Some(Ok(Some(found))),
        Ok(None) if options.contains(Options::NOHANG) => Some(Ok(None)),
        Ok(None) => None,
        Err(e) => Some(Err(e)),
    };
    wait_event(task, &task.process().child_events, Interruptible::Yes, None, once)?
}

/// The kernel's number for one the caller gave; one that no child has if it means nothing.
fn global(ctx: &Ctx<'_>, number: i32) -> i32 {
    ctx.task.process().pid_ns.global(number).unwrap_or(0)
}

fn wait4(ctx: &mut Ctx<'_>, pid: i32, status: UserPtr<i32>, options: u32, usage: UserPtr<RUsage>) -> Result {
    let options = Options::from_bits(options).ok_or(Errno::EINVAL)?;
    if options.intersects(Options::EXITED | Options::NOWAIT) {
        return Err(Errno::EINVAL);
    }
    let which = match pid {
        i32::MIN => return Err(Errno::ESRCH),
        -1 => Which::Any,
        0 => Which::Group(ctx.task.process().group().pgid),
        p if p < 0 => Which::Group(global(ctx, -p)),
        p => Which::Pid(global(ctx, p)),
    };
    let Some(found) = wait(ctx.task, which, options | Options::EXITED)? else { return Ok(0) };
    let word = match found.event {
        Event::Exited(s) => s.to_wstatus(),
        Event::Stopped(s) => i32::from(s) << 8 | 0x7f,
        Event::Continued => 0xffff,
        Event::Trapped(code) => code << 8 | 0x7f,
    };
    status.write_opt(&word)?;
    if !usage.is_null() {
        usage.write(&found.usage.to_rusage())?;
    }
    Ok(found.number as usize)
}

fn waitid(
    ctx: &mut Ctx<'_>,
    kind: i32,
    id: i32,
    info: UserPtr<[u8; 128]>,
    options: u32,
    usage: UserPtr<RUsage>,
) -> Result {
    let options = Options::from_bits(options).ok_or(Errno::EINVAL)?;
    if !options.intersects(Options::EXITED | Options::STOPPED | Options::CONTINUED) {
        return Err(Errno::EINVAL);
    }
    let mut again = false;
    let which = match kind {
        0 => Which::Any,
        1 if id > 0 => Which::Pid(global(ctx, id)),
        3 => {
            let (process, nonblocking) = crate::fs::pidfd::process_of(ctx.task, id)?;
            again = nonblocking;
            Which::Pid(process.pid)
        }
        2 if id == 0 => Which::Group(ctx.task.process().group().pgid),
        2 if id > 0 => Which::Group(global(ctx, id)),
        _ => return Err(Errno::EINVAL),
    };
    let blocks = !options.contains(Options::NOHANG);
    let options = if again { options | Options::NOHANG } else { options };
    let found = match wait(ctx.task, which, options) {
        Ok(found) => found,
        Err(e) => {
            // Linux clears it whatever comes.
            if let Some(info) = info.non_null() {
                info.write(&[0; 128])?;
            }
            return Err(e);
        }
    };
    let Some(found) = found else {
        if again && blocks {
            return Err(Errno::EAGAIN); // a pidfd that does not block
        }
        if let Some(info) = info.non_null() {
            info.write(&[0; 128])?;
        }
        return Ok(0);
    };
    let (code, status) = match found.event {
        Event::Exited(status) => exit::cld_of(status),
        Event::Stopped(s) => (code::CLD_STOPPED, s.into()),
        Event::Continued => (code::CLD_CONTINUED, Signal::CONT.number().into()),
        Event::Trapped(code) => (code::CLD_TRAPPED, code),
    };
    if let Some(info) = info.non_null() {
        let uid = match (found.child.threads().first(), &*found.child.remains.lock()) {
            (Some(thread), _) => thread.credentials().uid,
            (None, Some(remains)) => remains.credentials.uid,
            (None, None) => 0,
        };
        let uid = ctx.task.credentials().user_ns.show_uid(uid);
        let fields = Fields::Child { pid: found.number, uid, status, utime: 0, stime: 0 };
        info.write(&SigInfo { signal: Signal::CHLD, code, fields }.to_bytes())?;
    }
    if !usage.is_null() {
        usage.write(&found.usage.to_rusage())?;
    }
    Ok(0)
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    61 wait4(pid: i32, status: UserPtr<i32>, options: u32, rusage: UserPtr<RUsage>) Full "";
    247 waitid(idtype: i32, id: i32, info: UserPtr<[u8; 128]>, options: u32, rusage: UserPtr<RUsage>) Full "";
};
