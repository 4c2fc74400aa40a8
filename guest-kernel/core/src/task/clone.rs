//! `clone` and its family (clone(2)).
//!
//! `fork` and `vfork` are `clone` with fixed flags. What a flag shares is an `Arc` that parent and child both
//! hold; what it does not share is copied.

use alloc::{sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicBool, Ordering};

use ringfence_hal as hal;
use ringfence_hal::FpuInit;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Capabilities, Parts, Pid, Process, Task, limits::Resource, pid::PID_MAX};
use crate::{
    Sentry, TaskRef,
    cgroup::{self, Cgroup, ForkSlot},
    errno::{Errno, Result},
    ns::{self, PidNamespace, pid::INIT},
    ptrace, sched,
    signal::{AltStack, Signal},
    sync::{Interruptible, PollEvents, Queue, WaitQueue, wait_event},
    syscall::{Ctx, Syscall, UserPtr},
    syscalls,
};

pub use cloneflags::CloneFlags;

mod cloneflags {
    #![allow(missing_docs)] // the names of the manual page
    bitflags::bitflags! {
        /// `CLONE_*`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct CloneFlags: u64 {
            const VM = 0x100;
            const FS = 0x200;
            const FILES = 0x400;
            const SIGHAND = 0x800;
            const PIDFD = 0x1000;
            const PTRACE = 0x2000;
            const VFORK = 0x4000;
            const PARENT = 0x8000;
            const THREAD = 0x1_0000;
            const NEWNS = 0x2_0000;
            const SYSVSEM = 0x4_0000;
            const SETTLS = 0x8_0000;
            const PARENT_SETTID = 0x10_0000;
            const CHILD_CLEARTID = 0x20_0000;
            const DETACHED = 0x40_0000;
            const UNTRACED = 0x80_0000;
            const CHILD_SETTID = 0x100_0000;
            const NEWCGROUP = 0x200_0000;
            const NEWUTS = 0x400_0000;
            const NEWIPC = 0x800_0000;
            const NEWUSER = 0x1000_0000;
            const NEWPID = 0x2000_0000;
            const NEWNET = 0x4000_0000;
            const IO = 0x8000_0000;
            const CLEAR_SIGHAND = 0x1_0000_0000;
            const INTO_CGROUP = 0x2_0000_0000;
            const NEWTIME = 0x80;
        }
    }
}

/// A `vfork` parent sleeps on it until the child has left the memory they share.
pub struct VforkDone {
    done: AtomicBool,
    queue: Queue,
}

impl VforkDone {
    /// Lets the parent go on.
    fn complete(&self) {
        self.done.store(true, Ordering::Release);
        self.queue.wake_all(PollEvents::empty());
    }
}

impl Task {
    /// The task has left the memory it shares with a `vfork` parent: by `execve` or exit.
    pub(crate) fn vfork_complete(&self) {
        let waiter = self.vfork_done.lock().take();
        if let Some(w) = waiter {
            w.complete();
        }
    }
}

/// What a new task is to be.
struct Request {
    flags: CloneFlags,
    exit_signal: i32,
    /// 0 keeps the parent's stack pointer.
    stack: u64,
    tls: u64,
    parent_tid: UserPtr<i32>,
    child_tid: UserPtr<i32>,
    /// Where `CLONE_PIDFD` puts the descriptor.
    pidfd: UserPtr<i32>,
    /// The group that `CLONE_INTO_CGROUP` asks for.
    cgroup: Option<Arc<Cgroup>>,
    /// Numbers it shall have: in its own pid namespace first, then in those above.
    set_tid: Vec<i32>,
}

fn check(r: &Request) -> Result<()> {
    use CloneFlags as F;
    let f = r.flags;
    let needs = |a: F, b: F| f.contains(a) && !f.contains(b);
    if needs(F::SIGHAND, F::VM) || needs(F::THREAD, F::SIGHAND) || f.contains(F::SIGHAND | F::CLEAR_SIGHAND) {
        return Err(Errno::EINVAL);
    }
    if f.contains(F::NEWNS | F::FS) || f.contains(F::NEWUSER | F::FS) || f.contains(F::NEWUSER | F::THREAD) {
        return Err(Errno::EINVAL);
    }
    if f.contains(F::NEWTIME) || (f.contains(F::NEWPID) && f.intersects(F::THREAD | F::PARENT)) {
        return Err(Errno::EINVAL);
    }
    if f.contains(F::PIDFD) && f.intersects(F::THREAD | F::DETACHED) {
        return Err(Errno::EINVAL);
    }
    if r.exit_signal != 0 && Signal::new(r.exit_signal).is_none() {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

/// How many tasks memory allows, zombies included: their kernel stacks would take an eighth of it (Linux:
/// `kernel.threads-max`). Without it, what a fork bomb leaves to wait for fills the kernel's heap, and no killing helps.
fn tasks_max() -> u64 {
    const FRAMES_A_TASK: usize = 8 * 4;
    const FEWEST: usize = 128;
    (hal::frames::total() / FRAMES_A_TASK).max(FEWEST) as u64
}

/// Whether there may be another task. `RLIMIT_NPROC` is about all that the real user has, zombies included, and does not hold
/// root, nor who may override limits. Only who has it below the number of tasks there are needs counting. `EAGAIN`.
fn check_count(parent: &TaskRef) -> Result<()> {
    let pids = &parent.kernel().pids;
    let there = pids.taken() as u64;
    let limit = parent.process().limits.soft(Resource::Processes);
    if there < limit.min(tasks_max()) {
        return Ok(());
    }
    let user = parent.credentials();
    let is_free = || {
        let may_override = user.capable(Capabilities::SYS_RESOURCE) || user.capable(Capabilities::SYS_ADMIN);
        user.uid == 0 || may_override || pids.tasks_of(user.uid) < limit
    };
    if there < tasks_max() && is_free() { Ok(()) } else { Err(Errno::EAGAIN) }
}

/// Makes and starts a task.
fn spawn(ctx: &mut Ctx<'_>, r: &Request) -> Result {
    check(r)?;
    let flags = r.flags;
    let parent: &TaskRef = ctx.task;
    let kernel = parent.kernel();
    check_count(parent)?;

    let mut slot = ForkSlot::reserve(parent, r.cgroup.clone())?;
    let mm = parent.mm()?;
    let child_mm = if flags.contains(CloneFlags::VM) { mm } else { mm.fork()? };
    let files = parent.files()?;
    let fs = parent.fs()?;
    let fs = if flags.contains(CloneFlags::FS) { fs } else { fs.fork() };
    let fresh = ns::change::make(parent, flags)?;
    let credentials = fresh.credentials.map_or_else(|| parent.credentials(), Arc::new);
    if flags.contains(CloneFlags::NEWNS) {
        fs.unshare_namespace(&credentials.user_ns)?;
    }
    let parts = Parts {
        mm: Some(child_mm.clone()),
        files: Some(if flags.contains(CloneFlags::FILES) { files } else { files.fork() }),
        fs: Some(fs),
        credentials,
        namespaces: fresh.namespaces.unwrap_or_else(|| parent.namespaces()),
    };

    let namespaces = &parts.namespaces;
    let pid_ns = namespaces.pid_for_children.clone();
    let same = Arc::ptr_eq(&pid_ns, &parent.process().pid_ns);
    if (flags.contains(CloneFlags::THREAD) && !same)
        || (flags.contains(CloneFlags::PARENT) && parent.process().is_nested_init())
    {
        return Err(Errno::EINVAL);
    }
    if pid_ns.is_dead() {
        return Err(Errno::ENOMEM);
    }
    check_set_tid(parent, &pid_ns, &r.set_tid)?;
    let (tid, number) = kernel.pids.tree(|t| t.allocate_in(&pid_ns, &r.set_tid))?;
    let process = if flags.contains(CloneFlags::THREAD) {
        parent.process().clone()
    } else {
        child_process(parent, (tid, number, pid_ns.clone()), r)
    };
    let task = Task::new(tid, process.clone(), parts, parent.sched.inherit(), parent.comm());
    task.set_tid(tid, number);
    task.signals.store_mask(parent.signals.mask());
    if !flags.contains(CloneFlags::VM) || flags.contains(CloneFlags::VFORK) {
        *task.signals.altstack.lock() = *parent.signals.altstack.lock();
    } else {
        *task.signals.altstack.lock() = AltStack::default();
    }
    task.mempolicy.store(parent.mempolicy.load(Ordering::Relaxed), Ordering::Relaxed);
    task.personality.store(parent.personality.load(Ordering::Relaxed), Ordering::Relaxed);
    if !flags.contains(CloneFlags::VM) {
        task.rseq.copy(&parent.rseq);
    }
    task.ioprio.store(parent.ioprio.load(Ordering::Relaxed), Ordering::Relaxed);
    if parent.no_new_privs() {
        task.set_no_new_privs();
    }
    if flags.contains(CloneFlags::CHILD_CLEARTID) {
        task.clear_child_tid.store(r.child_tid.0, Ordering::Relaxed);
    }
    let vfork = flags.contains(CloneFlags::VFORK).then(|| {
        let done = Arc::new(VforkDone { done: AtomicBool::new(false), queue: WaitQueue::new() });
        *task.vfork_done.lock() = Some(done.clone());
        done
    });

    let mut regs = *ctx.regs;
    regs.rax = 0;
    if r.stack != 0 {
        regs.rsp = r.stack;
    }
    let fs_base = if flags.contains(CloneFlags::SETTLS) { r.tls } else { parent.fs_base() };
    let made = hal::Thread::<Sentry>::new_user(
        task,
        &regs,
        FpuInit::CopyCurrent,
        fs_base,
        parent.gs_base(),
        child_mm.space().clone(),
    );
    let child = match made {
        Ok(child) => child,
        Err(e) => {
            kernel.pids.tree(|t| t.forget_if_free(tid));
            return Err(e.into());
        }
    };

    let pidfd = match flags.contains(CloneFlags::PIDFD) {
        true => Some(install_pidfd(parent, &process, r.pidfd).inspect_err(|_| {
            kernel.pids.tree(|t| t.forget_if_free(tid));
        })?),
        false => None,
    };

    let visible = kernel.pids.tree(|t| {
        // Under the tree lock nobody can tell the group to exit without seeing the new thread.
        let thread = flags.contains(CloneFlags::THREAD);
        let settled = if parent.killed() {
            Err(Errno::ERESTARTNOINTR)
        } else if pid_ns.is_dead() {
            Err(Errno::ENOMEM)
        } else {
            slot.settle(parent.process(), &process, &child, thread)
        };
        if settled.is_err() {
            t.forget_if_free(tid);
            return settled;
        }
        // What another thread gives all of them (SECCOMP_FILTER_FLAG_TSYNC), the new one gets, too.
        child.seccomp.inherit(&parent.seccomp);
        child.set_watched(child.seccomp.is_on());
        if parent.no_new_privs() {
            child.set_no_new_privs();
        }
        process.links.lock().threads.push(child.clone());
        t.set_task(tid, &child);
        if !flags.contains(CloneFlags::THREAD) {
            t.set_process(&process);
            if let Some(p) = process.links.lock().parent.upgrade() {
                p.links.lock().children.push(process.clone());
            }
        }
        Ok(())
    });
    if let Err(e) = visible {
        if let Some(fd) = pidfd {
            drop(parent.files()?.remove(fd));
        }
        return Err(e);
    }
    slot.done();
    if flags.contains(CloneFlags::THREAD) {
        crate::time::new_thread(&child);
    }

    let seen = parent.pids().show(tid);
    if flags.contains(CloneFlags::PARENT_SETTID) {
        let _ = r.parent_tid.write(&seen); // as Linux: a bad pointer is not an error any more at this point
    }
    if flags.contains(CloneFlags::CHILD_SETTID) {
        let _ = child_mm.write_remote(r.child_tid.0, number.as_bytes(), false);
    }
    let traced = if parent.is_traced() { tell_tracer(parent, &child, r) } else { None };
    sched::start(&child);
    if let Some(new) = &traced {
        new.announce(parent, ctx.regs, tid);
    }
    if let Some(vfork) = vfork {
        let done = || vfork.done.load(Ordering::Acquire).then_some(());
        let finished = wait_event(parent, &vfork.queue, Interruptible::Killable, None, done);
        if let (Some(new), Ok(())) = (&traced, finished) {
            new.vfork_done(parent, ctx.regs, tid);
        }
    }
    Ok(seen as usize)
}

/// The maker is traced: the child may be from now on.
fn tell_tracer(parent: &TaskRef, child: &TaskRef, r: &Request) -> Option<ptrace::NewTask> {
    let made = if r.flags.contains(CloneFlags::VFORK) {
        ptrace::Made::Vfork
    } else if !r.flags.contains(CloneFlags::THREAD) && r.exit_signal == i32::from(Signal::CHLD.number()) {
        ptrace::Made::Fork
    } else {
        ptrace::Made::Clone
    };
    let untraced = r.flags.contains(CloneFlags::UNTRACED);
    ptrace::fork_event(parent, child, made, untraced, r.flags.contains(CloneFlags::PTRACE))
}

/// Gives the parent its descriptor of the child to be.
fn install_pidfd(parent: &TaskRef, child: &Arc<Process>, to: UserPtr<i32>) -> Result<i32> {
    let fd = crate::fs::pidfd::open(parent, child, crate::fs::OpenFlags::empty())? as i32;
    if let Err(e) = to.write(&fd) {
        drop(parent.files()?.remove(fd));
        return Err(e);
    }
    Ok(fd)
}

/// Choosing numbers needs `CAP_SYS_ADMIN` or `CAP_CHECKPOINT_RESTORE` in every namespace they are for; the first of a
/// namespace is always 1. `EINVAL`, `EPERM`.
fn check_set_tid(parent: &TaskRef, ns: &Arc<PidNamespace>, set_tid: &[i32]) -> Result<()> {
    if set_tid.len() > ns.level() + usize::from(!ns.is_hidden()) {
        return Err(Errno::EINVAL);
    }
    let me = parent.credentials();
    let mut at = Some(ns);
    for &number in set_tid {
        let Some(ns) = at else { break };
        if !(1..PID_MAX).contains(&number) || (number != INIT && ns.global(INIT).is_none()) {
            return Err(Errno::EINVAL);
        }
        let may = me.capable_in(ns.owner(), Capabilities::SYS_ADMIN)
            || me.capable_in(ns.owner(), Capabilities::CHECKPOINT_RESTORE);
        if !may {
            return Err(Errno::EPERM);
        }
        at = ns.parent();
    }
    Ok(())
}

fn child_process(parent: &TaskRef, numbers: (Pid, Pid, Arc<PidNamespace>), r: &Request) -> Arc<Process> {
    let me = parent.process();
    let mother = if r.flags.contains(CloneFlags::PARENT) {
        me.links.lock().parent.clone()
    } else {
        Arc::downgrade(me)
    };
    let sighand = me.sighand();
    let sighand = if r.flags.contains(CloneFlags::SIGHAND) {
        sighand
    } else if r.flags.contains(CloneFlags::CLEAR_SIGHAND) {
        Arc::new(sighand.after_exec(true))
    } else {
        Arc::new(sighand.duplicate())
    };
    let process = Process::new(numbers, mother, me.group(), sighand, me.limits.duplicate());
    let exit_signal = if r.flags.contains(CloneFlags::PARENT) {
        me.exit_signal.load(Ordering::Relaxed)
    } else {
        r.exit_signal
    };
    process.exit_signal.store(exit_signal, Ordering::Relaxed);
    process.parent_tid.store(parent.tid(), Ordering::Relaxed);
    process.oom_score_adj.store(me.oom_score_adj.load(Ordering::Relaxed), Ordering::Relaxed);
    process.coredump_filter.store(me.coredump_filter.load(Ordering::Relaxed), Ordering::Relaxed);
    process.dumpable.store(me.dumpable.load(Ordering::Relaxed), Ordering::Relaxed);
    process
}

fn clone(
    ctx: &mut Ctx<'_>,
    flags: u64,
    stack: u64,
    parent_tid: UserPtr<i32>,
    child_tid: UserPtr<i32>,
    tls: u64,
) -> Result {
    // The low byte is the exit signal; unknown high bits are ignored by this call.
    let request = Request {
        flags: CloneFlags::from_bits_truncate(flags & 0xffff_ff00),
        exit_signal: (flags & 0xff) as i32,
        stack,
        tls,
        parent_tid,
        child_tid,
        // This call has one word for both.
        pidfd: parent_tid,
        cgroup: None,
        set_tid: Vec::new(),
    };
    if request.flags.contains(CloneFlags::PIDFD | CloneFlags::PARENT_SETTID) {
        return Err(Errno::EINVAL);
    }
    spawn(ctx, &request)
}

fn fork(ctx: &mut Ctx<'_>) -> Result {
    clone(ctx, u64::from(Signal::CHLD.number()), 0, UserPtr::new(0), UserPtr::new(0), 0)
}

fn vfork(ctx: &mut Ctx<'_>) -> Result {
    let flags = (CloneFlags::VM | CloneFlags::VFORK).bits() | u64::from(Signal::CHLD.number());
    clone(ctx, flags, 0, UserPtr::new(0), UserPtr::new(0), 0)
}

/// `struct clone_args`, version 2.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// `MAX_PID_NS_LEVEL`: as many numbers as a process can have.
const SET_TID_MAX: u64 = 32;

/// Size of the first published `struct clone_args`.
const CLONE_ARGS_SIZE_VER0: usize = 64;

/// The group that `CLONE_INTO_CGROUP` asks for by a descriptor of its directory, if the caller may put a child there.
fn cgroup_to_be_in(
    task: &TaskRef,
    flags: CloneFlags,
    a: &CloneArgs,
    size: usize,
) -> Result<Option<Arc<Cgroup>>> {
    if !flags.contains(CloneFlags::INTO_CGROUP) {
        return Ok(None);
    }
    let fd = i32::try_from(a.cgroup).ok().filter(|_| size >= size_of::<CloneArgs>()).ok_or(Errno::EINVAL)?;
    let group = cgroup::files::group_of(&task.files()?.get_any(fd)?)?;
    cgroup::check_may_enter(task, &group, flags.contains(CloneFlags::THREAD))?;
    Ok(Some(group))
}

fn clone3(ctx: &mut Ctx<'_>, args: UserPtr<CloneArgs>, size: usize) -> Result {
    if size < CLONE_ARGS_SIZE_VER0 {
        return Err(Errno::EINVAL);
    }
    let a: CloneArgs = crate::syscall::args::read_versioned(args.0, size)?;
    let flags = CloneFlags::from_bits(a.flags).ok_or(Errno::EINVAL)?;
    if flags.contains(CloneFlags::DETACHED) || a.exit_signal > 64 {
        return Err(Errno::EINVAL);
    }
    if flags.intersects(CloneFlags::THREAD | CloneFlags::PARENT) && a.exit_signal != 0 {
        return Err(Errno::EINVAL);
    }
    if a.set_tid_size > SET_TID_MAX || (a.set_tid == 0) != (a.set_tid_size == 0) {
        return Err(Errno::EINVAL);
    }
    if (a.stack == 0) != (a.stack_size == 0) {
        return Err(Errno::EINVAL);
    }
    let request = Request {
        flags,
        exit_signal: a.exit_signal as i32,
        stack: a.stack.checked_add(a.stack_size).ok_or(Errno::EINVAL)?,
        tls: a.tls,
        parent_tid: UserPtr::new(a.parent_tid),
        child_tid: UserPtr::new(a.child_tid),
        pidfd: UserPtr::new(a.pidfd),
        cgroup: cgroup_to_be_in(ctx.task, flags, &a, size)?,
        set_tid: UserPtr::new(a.set_tid).read_vec(a.set_tid_size as usize)?,
    };
    spawn(ctx, &request)
}

fn set_tid_address(ctx: &mut Ctx<'_>, ptr: UserPtr<i32>) -> Result {
    ctx.task.clear_child_tid.store(ptr.0, Ordering::Relaxed);
    Ok(ctx.task.tid() as usize)
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    56 clone(flags: u64, stack: u64, parent_tid: UserPtr<i32>, child_tid: UserPtr<i32>, tls: u64) Partial "no time namespaces";
    57 fork() Full "";
    58 vfork() Full "";
    218 set_tid_address(tidptr: UserPtr<i32>) Full "";
    435 clone3(args: UserPtr<CloneArgs>, size: usize) Partial "no time namespaces";
};
