//! Sending.
//!
//! A signal for a process goes to its shared set, and one thread that does not block it is woken to take it;
//! any other thread that looks first may. The wake-up sets `work::SIGNAL` and, for a sleeper, ends its sleep;
//! a sleep that is not interruptible just goes on.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use super::{
    limit::has_room,
    state::Pending,
    types::{Default, Fields, SIG_DFL, SaFlags, SigInfo, SigSet, Signal, code},
};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    ns::{PidView, UserNamespace, pid::INIT},
    sched::{self, work},
    sync::PollEvents,
    task::{Process, ProcessGroup, limits::UsageSum, pid::same_task, process::ExitStatus},
    time::TICKS_PER_SECOND,
};

const NS_PER_TICK: u64 = 1_000_000_000 / TICKS_PER_SECOND;

/// Has `task` look at its signals before it runs on in ring 3.
pub fn notify(task: &TaskRef) {
    task.work().fetch_or(work::SIGNAL, Ordering::AcqRel);
    if !sched::wake(task) {
        sched::kick(task);
    }
}

/// Sends to one thread.
pub fn send_to_task(task: &TaskRef, info: SigInfo) -> Result<()> {
    queue_for_task(task, info).map(drop)
}

/// The same; says whether it was queued, and not ignored.
pub fn queue_for_task(task: &TaskRef, info: SigInfo) -> Result<bool> {
    let process = task.process().clone();
    let info = as_seen_by(&process, info);
    if prepare(&process, &info) {
        return Ok(false);
    }
    if ignored(&process, task, &info) {
        return Ok(false);
    }
    push(task, &task.signals.pending, info)?;
    notify(task);
    super::signalfd_wake(&process);
    Ok(true)
}

/// Sends to a process.
pub fn send_to_process(process: &Arc<Process>, info: SigInfo) -> Result<()> {
    queue_for_process(process, info).map(drop)
}

/// The same; says whether it was queued, and not ignored.
pub fn queue_for_process(process: &Arc<Process>, info: SigInfo) -> Result<bool> {
    let info = as_seen_by(process, info);
    if prepare(process, &info) {
        return Ok(false);
    }
    let threads = process.threads();
    let Some(any) = threads.first() else { return Ok(false) }; // a zombie
    if threads.iter().all(|t| ignored(process, t, &info)) {
        return Ok(false);
    }
    push(any, &process.shared_pending, info)?;
    let willing = |t: &&TaskRef| !t.signals.mask().has(info.signal) && !t.is_exiting();
    match threads.iter().find(willing) {
        Some(t) => notify(t),
        None => {
            // Blocked everywhere: whoever waits for it (sigtimedwait, signalfd) must still look.
            notify(any);
            threads.iter().filter(|t| !same_task(t, any)).for_each(notify);
        }
    }
    super::signalfd_wake(process);
    Ok(true)
}

/// Sends to the first process from outside the sandbox: what it has no handler for ends it, unlike a signal from
/// inside, because whoever runs the command has no other way to reach the program.
pub fn send_from_host(process: &Arc<Process>, info: SigInfo) {
    let action = process.sighand().get(info.signal);
    let fatal = matches!(info.signal.default_action(), Default::Terminate | Default::Core);
    if fatal && action.handler == SIG_DFL {
        kill_process(process, ExitStatus::Signal(info.signal.number(), false));
    } else {
        let _ = send_to_process(process, info); // of a real-time signal too many: lost, as kill(1) would say
    }
}

/// Sends to all members of a group; `ESRCH` if there are none.
pub fn send_to_group(kernel: &crate::Kernel, group: &Arc<ProcessGroup>, info: SigInfo) -> Result<()> {
    let members = kernel.pids.members(group);
    if members.is_empty() {
        return Err(Errno::ESRCH);
    }
    members.iter().try_for_each(|p| send_to_process(p, info))
}

/// Raises a signal that the task cannot put off: a fault. Blocked or ignored becomes the default action.
pub fn force(task: &TaskRef, info: SigInfo) {
    let sighand = task.process().sighand();
    let mut action = sighand.get(info.signal);
    let blocked = task.signals.mask().has(info.signal);
    if blocked || action.handler == super::types::SIG_IGN {
        action.handler = super::types::SIG_DFL;
        sighand.set(info.signal, action);
        task.signals.store_mask(task.signals.mask().without(SigSet::of(info.signal)));
    }
    let _ = task.signals.pending.push(info, true); // a standard signal: always accepted
    notify(task);
}

/// Ends the whole process with `status`: every thread is told to leave.
pub fn kill_process(process: &Arc<Process>, status: ExitStatus) {
    process.begin_exit(status);
    process.stop_signal.store(0, Ordering::Release);
    process.stop_queue.wake_all(PollEvents::empty());
    let threads = process.threads();
    threads.iter().for_each(notify);
    if !process.cgroup.is_root() {
        threads.iter().for_each(sched::regroup); // what it may use of the CPUs does not keep it from ending
    }
}

/// Queues for `task` or its process. `EAGAIN` for a real-time signal that its user has no room for, unless `kill` sends it.
fn push(task: &TaskRef, pending: &Pending, info: SigInfo) -> Result<()> {
    let room = has_room(task, pending, &info);
    if !room && info.signal.is_realtime() && info.code != code::SI_USER {
        return Err(Errno::EAGAIN);
    }
    pending.push(info, room);
    Ok(())
}

/// What sending does at once, whoever blocks it: SIGKILL ends the process, SIGCONT continues it, and stop
/// and continue cancel each other. Answers `true` if nothing is left to do.
fn prepare(process: &Arc<Process>, info: &SigInfo) -> bool {
    let signal = info.signal;
    if signal == Signal::KILL && process.is_exiting() {
        crate::ptrace::kill_exiting(process);
    }
    if process.is_exiting() || (signal.is_unblockable() && spares_init(process, info)) {
        return true;
    }
    let discard_everywhere = |set: SigSet| {
        process.shared_pending.discard(set);
        process.threads().iter().for_each(|t| t.signals.pending.discard(set));
    };
    if signal == Signal::KILL {
        kill_process(process, ExitStatus::Signal(Signal::KILL.number(), false));
        return true;
    }
    if signal == Signal::CONT {
        discard_everywhere(SigSet::STOPS);
        super::stop::resume(process);
    } else if signal.is_stop() {
        discard_everywhere(SigSet::of(Signal::CONT));
    }
    false
}

fn ignored(process: &Process, task: &TaskRef, info: &SigInfo) -> bool {
    if task.is_traced() {
        return false; // its tracer sees also what is ignored
    }
    let action = process.sighand().get(info.signal);
    !task.signals.mask().has(info.signal)
        && (action.ignores(info.signal) || (action.handler == SIG_DFL && spares_init(process, info)))
}

/// Whether a process is spared what it has no handler for.
///
/// The first process of a container is not ended or stopped by what another process of the sandbox sends. Unlike
/// the first of a Linux pid namespace it can end itself (`abort`, `kill $$`), and SIGPIPE, its timers and its
/// terminal act on it as on any program, because it is one. The first process of a nested namespace is spared
/// everything but a fault, and SIGKILL and SIGSTOP from the kernel or from a namespace above, as on Linux.
pub(crate) fn spares_init(process: &Process, info: &SigInfo) -> bool {
    if process.number != INIT {
        return false;
    }
    let sender = match info.fields {
        Fields::Sender { pid, .. } | Fields::Queued { pid, .. } => pid,
        Fields::Raw(bytes) => bytes.first_chunk().map_or(0, |pid| i32::from_ne_bytes(*pid)),
        _ => 0,
    };
    if !process.pid_ns.is_top() {
        return !(info.signal.is_unblockable() && sender == 0);
    }
    info.code <= code::SI_USER && sender != 0 && sender != INIT
}

/// `info` with the sender's numbers as `to` sees them: its pid 0 if the sender is in a namespace above.
fn as_seen_by(to: &Process, mut info: SigInfo) -> SigInfo {
    if to.pid_ns.is_initial() && !UserNamespace::any() {
        return info;
    }
    let pids = PidView { ns: &to.pid_ns };
    if let Fields::Sender { pid, uid } | Fields::Queued { pid, uid, .. } | Fields::Child { pid, uid, .. } =
        &mut info.fields
    {
        *pid = pids.show(*pid);
        if let Some(thread) = to.threads().first() {
            *uid = thread.credentials().user_ns.show_uid(*uid);
        }
    }
    info
}

/// Tells the parent that `child` changed state, and wakes its waiters. `info.code` is one of `CLD_*`.
pub fn notify_parent(
    parent: &Arc<Process>,
    child: &Process,
    uid: u32,
    cld: i32,
    status: i32,
    signal: Signal,
) {
    let action = parent.sighand().get(Signal::CHLD);
    let stop = matches!(cld, code::CLD_STOPPED | code::CLD_CONTINUED);
    if !(signal == Signal::CHLD && stop && action.flags().contains(SaFlags::NOCLDSTOP)) {
        let used = UsageSum::times(child);
        let [utime, stime] = [used.user, used.system].map(|ns| (ns / NS_PER_TICK) as i64);
        let fields = Fields::Child { pid: child.pid, uid, status, utime, stime };
        let _ = send_to_process(parent, SigInfo { signal, code: cld, fields }); // SIGCHLD is never refused
    }
    parent.child_events.wake_all(PollEvents::empty());
}
