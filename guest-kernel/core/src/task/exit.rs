//! The end of tasks and processes (exit(2), exit_group(2)).
//!
//! A task gives up, in this order: its robust futexes and `clear_child_tid` word (they need its memory), its
//! memory, files and working directory, its place in the thread group. The last thread of a group turns the
//! process into a zombie: children go to a subreaper or the first process, orphaned stopped groups are hung
//! up, and the parent is told. A parent that ignores SIGCHLD never sees the zombie.

use alloc::{sync::Arc, vec::Vec};
use core::sync::atomic::Ordering;

use super::{
    Process,
    limits::{self, UsageSum},
    pid::same_task,
    process::{ExitStatus, Remains, State},
};
use crate::{
    TaskRef, cgroup, container,
    errno::Result,
    futex,
    kernel::kernel,
    ns::{PidView, pid::INIT},
    ptrace, sched,
    signal::{
        self, SigInfo, Signal,
        types::{SIG_IGN, SaFlags, SigAction, code},
    },
    sync::{Interruptible, PollEvents, wait_event},
    syscall::{Ctx, Syscall},
    syscalls,
};

/// Ends the calling task; `status` counts if it is the last of its process.
pub fn exit_task(task: &TaskRef, status: ExitStatus) -> ! {
    if task.is_traced() {
        let seen = task.process().exit_status().unwrap_or(status);
        ptrace::exit_event(task, seen);
    }
    release(task);
    let last = leave_group(task, status);
    if let Some(process) = last {
        if process.is_nested_init() {
            end_namespace(task, &process);
        }
        end_process(task, &process);
    }
    sched::exit_current(task)
}

/// Settles what hangs on the task's memory, before it leaves that memory (exit, `execve`): robust futexes, and the
/// `clear_child_tid` word if anybody else can see it.
pub fn leave_memory(task: &TaskRef) {
    futex::exit_robust_list(task);
    let word = task.clear_child_tid.swap(0, Ordering::Relaxed);
    if let Some(mm) = task.mm_opt()
        && word != 0
        && Arc::strong_count(&mm) > 2 // the task's and ours
        && ringfence_hal::user::store_u32(word, 0).is_ok()
    {
        futex::wake_address(task, word, 1);
    }
}

/// Gives up what the task holds.
fn release(task: &TaskRef) {
    task.exiting.store(true, Ordering::Release);
    leave_memory(task);
    limits::keep_peak(task);
    task.vfork_complete();
    drop(task.replace_mm(None));
    crate::drivers::balloon::memory_freed();
    drop(task.replace_files(None));
    drop(task.replace_fs(None));
    ptrace::detach_all(task);
    task.seccomp.release();
}

/// Takes the task out of its group; answers the process if it was the last one.
fn leave_group(task: &TaskRef, status: ExitStatus) -> Option<Arc<Process>> {
    let process = task.process().clone();
    let kernel = task.kernel();
    *process.remains.lock() = Some(Remains { comm: task.comm(), credentials: task.credentials() });
    let keeps_number = task.is_traced() && ptrace::thread_exit(task, process.exit_status().unwrap_or(status));
    let (last, removed, left) = kernel.pids.tree(|t| {
        let mut links = process.links.lock();
        links.threads.retain(|other| !same_task(other, task));
        limits::keep_usage(task);
        let last = links.threads.is_empty();
        drop(links);
        if last {
            process.begin_exit(status);
        }
        let removed = if keeps_number { None } else { t.remove_task(task.global_tid()) };
        (last, removed, cgroup::exited(&process, last))
    });
    drop(removed);
    left.announce();
    process.exit_events.wake_all(PollEvents::empty());
    last.then_some(process)
}

/// The last thread is gone.
fn end_process(task: &TaskRef, process: &Arc<Process>) {
    let status = process.exit_status().unwrap_or(ExitStatus::Code(0));
    let supervisor = container::supervisor_of(process);
    process.timers.clear();
    crate::ipc::process_ended(process);
    let session = process.group().session.clone();
    if session.sid == process.pid {
        let terminal = session.terminal.lock().clone();
        if let Some(terminal) = terminal {
            terminal.leader_exited(&session);
        }
    }
    adopt_children(task, process);
    *process.state.lock() = State::Zombie(status);
    process.exit_events.wake_all(PollEvents::IN);
    let mut ns = &process.pid_ns;
    while let Some(above) = ns.parent() {
        ns.ended.wake_all(PollEvents::empty());
        ns = above;
    }
    match ptrace::leader_of(process) {
        // A tracer that is not the parent is told first, and the parent when it has waited.
        Some(tracee) if ptrace::is_hidden_zombie(process) => tracee.tell_end(status),
        _ => tell_parent(process),
    }
    if let Some(supervisor) = supervisor {
        supervisor.ended(status);
    }
}

/// What `CLD_*` and `si_status` say of an end.
pub(crate) fn cld_of(status: ExitStatus) -> (i32, i32) {
    match status {
        ExitStatus::Code(c) => (code::CLD_EXITED, i32::from(c)),
        ExitStatus::Signal(s, false) => (code::CLD_KILLED, i32::from(s)),
        ExitStatus::Signal(s, true) => (code::CLD_DUMPED, i32::from(s)),
    }
}

/// Tells the parent of a process that has ended, unless it does not want to know.
pub(crate) fn tell_parent(process: &Arc<Process>) {
    let status = process.exit_status().unwrap_or(ExitStatus::Code(0));
    let parent = process.parent();
    let exit_signal = Signal::new(process.exit_signal.load(Ordering::Relaxed));
    let ignored = parent.as_ref().is_none_or(|p| exit_signal == Some(Signal::CHLD) && ignores_children(p));
    if ignored && claim(process) {
        reap(process);
    }
    if let Some(parent) = parent {
        let (cld, value) = cld_of(status);
        match exit_signal {
            Some(signal) => {
                let uid = process.remains.lock().as_ref().map_or(0, |r| r.credentials.uid);
                signal::notify_parent(&parent, process, uid, cld, value, signal);
            }
            None => parent.child_events.wake_all(PollEvents::empty()),
        }
    }
}

/// Turns a zombie into one that has been waited for; of several who try, one does.
fn claim(process: &Process) -> bool {
    let mut state = process.state.lock();
    let zombie = matches!(*state, State::Zombie(_));
    if zombie {
        *state = State::Reaped;
    }
    zombie
}

/// The init of a pid namespace ends: everybody else in it is killed, and gone before init is a zombie. Orphans still
/// come to init meanwhile, which does not want to hear of their end.
fn end_namespace(task: &TaskRef, init: &Arc<Process>) {
    let ns = &init.pid_ns;
    ns.kill();
    let sighand = init.sighand().duplicate();
    sighand.set(Signal::CHLD, SigAction { handler: SIG_IGN, ..SigAction::default() });
    init.set_sighand(Arc::new(sighand));
    let view = PidView { ns };
    for process in view.processes().iter().filter(|p| !Arc::ptr_eq(p, init)) {
        signal::kill_process(process, ExitStatus::Signal(Signal::KILL.number(), false));
    }
    let children = init.links.lock().children.clone();
    for child in children.iter().filter(|c| claim(c)) {
        reap(child);
    }
    let alive = |p: &Arc<Process>| !Arc::ptr_eq(p, init) && *p.state.lock() == State::Running;
    let alone = || (!view.processes().iter().any(alive)).then_some(());
    let _ = wait_event(task, &ns.ended, Interruptible::No, None, alone); // nothing ends it early
}

/// Whether a process has said that it does not want to wait for its children.
pub(crate) fn ignores_children(parent: &Process) -> bool {
    let action = parent.sighand().get(Signal::CHLD);
    action.handler == SIG_IGN || action.flags().contains(SaFlags::NOCLDWAIT)
}

/// Takes a zombie out of the tables and off its parent, and adds its usage to the parent's.
pub(crate) fn reap(child: &Arc<Process>) {
    ptrace::forget(child);
    let parent = child.parent();
    if let Some(parent) = &parent {
        UsageSum::of_process(child)
            .plus(UsageSum::of_dead(&child.dead_children))
            .add_to(&parent.dead_children);
    }
    let removed = kernel().pids.tree(|t| {
        if let Some(parent) = &parent {
            parent.links.lock().children.retain(|c| !Arc::ptr_eq(c, child));
        }
        t.remove_process(child.pid)
    });
    drop(removed);
    cgroup::reaped(child);
}

/// Gives the children of a dying process to its nearest subreaper or to the first process.
fn adopt_children(task: &TaskRef, process: &Arc<Process>) {
    let kernel = task.kernel();
    let mut to_hang_up = Vec::new();
    let (reaper, orphans) = kernel.pids.tree(|t| {
        let init = process.pid_ns.global(INIT).and_then(|init| t.process(init));
        let reaper = reaper_of(process).or(init);
        let orphans = core::mem::take(&mut process.links.lock().children);
        for child in &orphans {
            let group = child.group();
            let was_orphaned = t.is_orphaned(&group);
            // Whatever signal was to tell of its end was meant for the old parent.
            child.exit_signal.store(i32::from(Signal::CHLD.number()), Ordering::Relaxed);
            match &reaper {
                Some(r) if !Arc::ptr_eq(r, process) => {
                    child.links.lock().parent = Arc::downgrade(r);
                    r.links.lock().children.push(child.clone());
                }
                _ => child.links.lock().parent = alloc::sync::Weak::new(),
            }
            let stopped = |p: &Arc<Process>| p.stop_signal.load(Ordering::Acquire) != 0;
            if !was_orphaned && t.is_orphaned(&group) && t.members(&group).any(|p| stopped(&p)) {
                to_hang_up.push(group);
            }
        }
        (reaper, orphans)
    });
    for child in &orphans {
        for thread in child.threads() {
            let signal = thread.parent_death_signal.load(Ordering::Relaxed);
            if let Some(s) = Signal::new(signal) {
                let _ = signal::send_to_process(child, SigInfo::kernel(s)); // a standard signal: not refused
            }
        }
        let zombie = matches!(*child.state.lock(), State::Zombie(_));
        match &reaper {
            Some(r) if zombie && ignores_children(r) && !ptrace::is_hidden_zombie(child) && claim(child) => {
                reap(child);
            }
            Some(r) if zombie => r.child_events.wake_all(PollEvents::empty()),
            _ => {}
        }
    }
    for group in to_hang_up {
        for s in [Signal::HUP, Signal::CONT] {
            let _ = signal::send_to_group(kernel, &group, SigInfo::kernel(s)); // an empty group is fine
        }
    }
}

/// The nearest living ancestor in the same pid namespace that asked for orphans.
fn reaper_of(process: &Arc<Process>) -> Option<Arc<Process>> {
    let mut ancestor = process.parent();
    while let Some(a) = ancestor {
        if !Arc::ptr_eq(&a.pid_ns, &process.pid_ns) {
            return None;
        }
        if a.is_subreaper.load(Ordering::Relaxed) && !a.is_exiting() {
            return Some(a);
        }
        ancestor = a.parent();
    }
    None
}

/// `execve` of one thread ends all others; returns when they are gone, or fails if the caller itself is
/// being killed. The caller takes over the number of the leader.
pub fn end_other_threads(task: &TaskRef) -> Result<()> {
    let process = task.process();
    for other in process.threads().iter().filter(|t| !same_task(t, task)) {
        other.signals.kill();
        signal::notify(other);
    }
    let alone = || (process.links.lock().threads.len() <= 1).then_some(());
    wait_event(task, &process.exit_events, Interruptible::Killable, None, alone)?;
    if task.global_tid() != process.pid {
        // The first thread goes without a word; this one is the first now, for its tracer, too.
        ptrace::forget(process);
        *process.leader_trace.lock() = task.tracee();
        let removed = task.kernel().pids.tree(|t| {
            let removed = t.remove_task(task.global_tid());
            task.set_tid(process.pid, process.number);
            t.set_task(process.pid, task);
            removed
        });
        drop(removed);
    }
    Ok(())
}

fn exit(ctx: &mut Ctx<'_>, status: i32) -> Result {
    exit_task(ctx.task, ExitStatus::Code(status as u8))
}

fn exit_group(ctx: &mut Ctx<'_>, status: i32) -> Result {
    let status = ExitStatus::Code(status as u8);
    signal::kill_process(ctx.task.process(), status);
    exit_task(ctx.task, status)
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    60 exit(status: i32) Full "";
    231 exit_group(status: i32) Full "";
};
