//! The signal system calls (sigaction(2), sigprocmask(2), kill(2), sigsuspend(2), sigtimedwait(2), …).

use alloc::sync::Arc;

use super::{
    Signal, frame,
    state::AltStack,
    types::{SigAction, SigInfo, SigSet, code},
};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    ns,
    sync::{Interruptible, WaitError, wait_event},
    syscall::{Ctx, Syscall, UserPtr, args::SigNum},
    syscalls,
    task::{Capabilities, Credentials, Process},
    time::{TimeSpec, deadline_after},
};

/// `MINSIGSTKSZ`: least size of an alternate stack.
const MINSIGSTKSZ: u64 = 2048;

fn check_set_size(size: usize) -> Result<()> {
    if size == size_of::<SigSet>() { Ok(()) } else { Err(Errno::EINVAL) }
}

fn signal_arg(n: SigNum) -> Result<Signal> {
    Signal::new(n.0).ok_or(Errno::EINVAL)
}

fn rt_sigaction(
    ctx: &mut Ctx<'_>,
    sig: SigNum,
    act: UserPtr<SigAction>,
    old: UserPtr<SigAction>,
    size: usize,
) -> Result {
    check_set_size(size)?;
    let signal = signal_arg(sig)?;
    if !act.is_null() && signal.is_unblockable() {
        return Err(Errno::EINVAL);
    }
    let sighand = ctx.task.process().sighand();
    let former = match act.non_null() {
        Some(act) => {
            let mut new = act.read()?;
            new.flags = new.flags().bits();
            new.mask = new.mask.without(SigSet::UNBLOCKABLE);
            let former = sighand.set(signal, new);
            if new.ignores(signal) {
                let set = SigSet::of(signal);
                ctx.task.process().shared_pending.discard(set);
                ctx.task.process().threads().iter().for_each(|t| t.signals.pending.discard(set));
            }
            former
        }
        None => sighand.get(signal),
    };
    old.write_opt(&former)?;
    Ok(0)
}

fn rt_sigprocmask(
    ctx: &mut Ctx<'_>,
    how: i32,
    set: UserPtr<SigSet>,
    old: UserPtr<SigSet>,
    size: usize,
) -> Result {
    check_set_size(size)?;
    let former = ctx.task.signals.mask();
    if let Some(set) = set.non_null() {
        let set = set.read()?;
        let new = match how {
            0 => former.union(set),
            1 => former.without(set),
            2 => set,
            _ => return Err(Errno::EINVAL),
        };
        super::set_mask(ctx.task, new);
    }
    old.write_opt(&former)?;
    Ok(0)
}

fn rt_sigpending(ctx: &mut Ctx<'_>, set: UserPtr<SigSet>, size: usize) -> Result {
    if size > size_of::<SigSet>() {
        return Err(Errno::EINVAL);
    }
    let pending = ctx.task.signals.pending.set().union(ctx.task.process().shared_pending.set());
    set.write(&pending.and(ctx.task.signals.mask()))?;
    Ok(0)
}

fn rt_sigsuspend(ctx: &mut Ctx<'_>, set: UserPtr<SigSet>, size: usize) -> Result {
    check_set_size(size)?;
    let mask = set.read()?;
    let task = ctx.task;
    super::with_mask(task, Some(mask), || sleep_for_signal(task))
}

fn pause(ctx: &mut Ctx<'_>) -> Result {
    sleep_for_signal(ctx.task)
}

fn sleep_for_signal(task: &TaskRef) -> Result {
    match wait_event(task, &task.process().signal_events, Interruptible::Yes, None, || None::<()>) {
        Ok(()) | Err(WaitError::TimedOut) => Err(Errno::EINTR),
        Err(WaitError::Interrupted) => Err(Errno::ERESTARTNOHAND),
    }
}

fn rt_sigtimedwait(
    ctx: &mut Ctx<'_>,
    set: UserPtr<SigSet>,
    info: UserPtr<[u8; 128]>,
    timeout: UserPtr<TimeSpec>,
    size: usize,
) -> Result {
    check_set_size(size)?;
    let set = set.read()?.without(SigSet::UNBLOCKABLE);
    let deadline = match timeout.non_null() {
        Some(t) => Some(deadline_after(t.read()?.to_ns()?)),
        None => None,
    };
    let task = ctx.task;
    let take = || super::take(task, set);
    // While waiting, what is waited for must wake the task although it is blocked: sending to a process wakes
    // all threads when every one blocks it, so no change of the mask is needed.
    let got = match wait_event(task, &task.process().signal_events, Interruptible::Yes, deadline, take) {
        Ok(got) => got,
        Err(WaitError::TimedOut) => return Err(Errno::EAGAIN),
        Err(WaitError::Interrupted) => return Err(Errno::EINTR),
    };
    if let Some(info) = info.non_null() {
        info.write(&got.to_bytes())?;
    }
    Ok(got.signal.number().into())
}

/// Whether `from` may send `signal` to `to` (kill(2)).
pub(crate) fn may_send(from: &Credentials, task: &TaskRef, to: &Process, signal: Option<Signal>) -> bool {
    let Some(target) = to.threads().first().map(|t| t.credentials()) else { return true };
    if from.capable_in(&target.user_ns, Capabilities::KILL) {
        return true;
    }
    let same = [from.euid, from.uid].iter().any(|id| *id == target.uid || *id == target.suid);
    same || (signal == Some(Signal::CONT)
        && Arc::ptr_eq(&task.process().group().session, &to.group().session))
}

fn sender(task: &TaskRef, signal: Signal, code: i32) -> SigInfo {
    SigInfo::user(signal, code, task.process().pid, task.credentials().uid)
}

/// Signal 0 only asks whether it could be sent.
fn optional_signal(n: SigNum) -> Result<Option<Signal>> {
    if n.0 == 0 { Ok(None) } else { signal_arg(n).map(Some) }
}

fn kill(ctx: &mut Ctx<'_>, pid: i32, sig: SigNum) -> Result {
    let signal = optional_signal(sig)?;
    let task = ctx.task;
    let pids = task.pids();
    if pid > 0 {
        let process =
            pids.process(pid).or_else(|e| pids.task(pid).map(|t| t.process().clone()).map_err(|_| e))?;
        if !may_send(&task.credentials(), task, &process, signal) {
            return Err(Errno::EPERM);
        }
        if let Some(s) = signal {
            super::send_to_process(&process, sender(task, s, code::SI_USER))?;
        }
        return Ok(0);
    }
    let targets = match pid {
        0 => task.kernel().pids.members(&task.process().group()),
        -1 => {
            let init = |p: &Arc<Process>| p.number_for(task.process()) == ns::pid::INIT;
            let others = pids.processes().into_iter();
            others.filter(|p| !init(p) && !Arc::ptr_eq(p, task.process())).collect()
        }
        i32::MIN => return Err(Errno::ESRCH),
        group => task.kernel().pids.members(&pids.group(-group)?),
    };
    if targets.is_empty() {
        return Err(Errno::ESRCH);
    }
    let credentials = task.credentials();
    let mut sent = false;
    for process in targets {
        if may_send(&credentials, task, &process, signal) {
            sent = true;
            if let Some(s) = signal {
                super::send_to_process(&process, sender(task, s, code::SI_USER))?;
            }
        }
    }
    if sent { Ok(0) } else { Err(Errno::EPERM) }
}

fn send_to_thread(
    ctx: &mut Ctx<'_>,
    tgid: Option<i32>,
    tid: i32,
    signal: Option<Signal>,
    info: impl FnOnce(Signal) -> SigInfo,
) -> Result {
    if tid <= 0 || tgid.is_some_and(|t| t <= 0) {
        return Err(Errno::EINVAL);
    }
    let target = ctx.task.pids().task(tid)?;
    if tgid.is_some_and(|t| t != target.process().number_for(ctx.task.process())) {
        return Err(Errno::ESRCH);
    }
    if !may_send(&ctx.task.credentials(), ctx.task, target.process(), signal) {
        return Err(Errno::EPERM);
    }
    if let Some(s) = signal {
        super::send_to_task(&target, info(s))?;
    }
    Ok(0)
}

fn tgkill(ctx: &mut Ctx<'_>, tgid: i32, tid: i32, sig: SigNum) -> Result {
    let signal = optional_signal(sig)?;
    let task = ctx.task;
    send_to_thread(ctx, Some(tgid), tid, signal, |s| sender(task, s, code::SI_TKILL))
}

fn tkill(ctx: &mut Ctx<'_>, tid: i32, sig: SigNum) -> Result {
    let signal = optional_signal(sig)?;
    let task = ctx.task;
    send_to_thread(ctx, None, tid, signal, |s| sender(task, s, code::SI_TKILL))
}

/// A program may only pretend to be the kernel towards itself.
fn queued_info(ctx: &Ctx<'_>, target: i32, sig: SigNum, info: UserPtr<[u8; 128]>) -> Result<SigInfo> {
    // Signal 0 only asks whether one could be sent.
    let signal = optional_signal(sig).ok().flatten().unwrap_or(Signal::HUP);
    let info = SigInfo::from_bytes(signal, &info.read()?);
    if (info.code >= 0 || info.code == code::SI_TKILL) && target != ctx.task.pid() {
        return Err(Errno::EPERM);
    }
    Ok(info)
}

fn rt_sigqueueinfo(ctx: &mut Ctx<'_>, pid: i32, sig: SigNum, info: UserPtr<[u8; 128]>) -> Result {
    let info = queued_info(ctx, pid, sig, info)?;
    let process = ctx.task.pids().process(pid)?;
    let signal = optional_signal(sig)?;
    if !may_send(&ctx.task.credentials(), ctx.task, &process, signal) {
        return Err(Errno::EPERM);
    }
    if signal.is_some() {
        super::send_to_process(&process, info)?;
    }
    Ok(0)
}

fn rt_tgsigqueueinfo(
    ctx: &mut Ctx<'_>,
    tgid: i32,
    tid: i32,
    sig: SigNum,
    info: UserPtr<[u8; 128]>,
) -> Result {
    let info = queued_info(ctx, tgid, sig, info)?;
    send_to_thread(ctx, Some(tgid), tid, optional_signal(sig)?, |_| info)
}

fn sigaltstack(ctx: &mut Ctx<'_>, new: UserPtr<frame::UserStack>, old: UserPtr<frame::UserStack>) -> Result {
    let sp = ctx.regs.rsp;
    let former = frame::current_stack(ctx.task, sp);
    if let Some(new) = new.non_null() {
        let new = new.read()?;
        if former.flags & frame::SS_ONSTACK != 0 && former.flags & frame::SS_AUTODISARM == 0 {
            return Err(Errno::EPERM);
        }
        let mode = new.flags & !frame::SS_AUTODISARM;
        let stack = match mode {
            frame::SS_DISABLE => AltStack::default(),
            0 | frame::SS_ONSTACK if new.size < MINSIGSTKSZ => return Err(Errno::ENOMEM),
            0 | frame::SS_ONSTACK => {
                AltStack { base: new.base, size: new.size, flags: new.flags & frame::SS_AUTODISARM }
            }
            _ => return Err(Errno::EINVAL),
        };
        *ctx.task.signals.altstack.lock() = stack;
    }
    old.write_opt(&former)?;
    Ok(0)
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    13 rt_sigaction(sig: SigNum, act: UserPtr<SigAction>, oldact: UserPtr<SigAction>, sigsetsize: usize) Full "";
    14 rt_sigprocmask(how: i32, set: UserPtr<SigSet>, oldset: UserPtr<SigSet>, sigsetsize: usize) Full "";
    34 pause() Full "";
    62 kill(pid: i32, sig: SigNum) Full "";
    127 rt_sigpending(set: UserPtr<SigSet>, sigsetsize: usize) Full "";
    128 rt_sigtimedwait(set: UserPtr<SigSet>, info: UserPtr<[u8; 128]>, timeout: UserPtr<TimeSpec>, sigsetsize: usize) Full "";
    129 rt_sigqueueinfo(pid: i32, sig: SigNum, info: UserPtr<[u8; 128]>) Full "";
    130 rt_sigsuspend(set: UserPtr<SigSet>, sigsetsize: usize) Full "";
    131 sigaltstack(ss: UserPtr<frame::UserStack>, old: UserPtr<frame::UserStack>) Full "";
    200 tkill(tid: i32, sig: SigNum) Full "";
    234 tgkill(tgid: i32, tid: i32, sig: SigNum) Full "";
    297 rt_tgsigqueueinfo(tgid: i32, tid: i32, sig: SigNum, info: UserPtr<[u8; 128]>) Full "";
};
