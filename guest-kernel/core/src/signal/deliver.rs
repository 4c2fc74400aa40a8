//! The way to ring 3: which signal, which action, and what becomes of an interrupted system call.

use core::sync::atomic::Ordering;

use ringfence_hal::UserRegs;

use super::{
    core_dump, frame, stop,
    types::{Default, SIG_DFL, SIG_IGN, SaFlags, SigAction, SigInfo, SigSet},
};
use crate::{
    TaskRef,
    cgroup::freezer,
    errno::{Errno, Result},
    ptrace,
    sched::work,
    task::{exit, process::ExitStatus},
};

const NR_RESTART_SYSCALL: u64 = 219;
/// `orig_rax` outside a system call.
const NOT_A_SYSCALL: u64 = u64::MAX;
/// Length of the `syscall` instruction.
const SYSCALL_LEN: u64 = 2;

/// Handles what is pending; `work::SIGNAL` is set. Does not return if the task has to exit.
pub fn deliver(task: &TaskRef, regs: &mut UserRegs) {
    // Cleared first: a signal sent from now on sets it again.
    task.work().fetch_and(!work::SIGNAL, Ordering::AcqRel);
    loop {
        if task.process().is_exiting() {
            core_dump::join(task, regs);
            exit::exit_task(task, task.process().exit_status().unwrap_or(ExitStatus::Code(0)));
        }
        if task.signals.is_killed() {
            exit::exit_task(task, ExitStatus::Code(0));
        }
        if task.process().freezing.load(Ordering::Acquire) && !super::fatal_pending(task) {
            freezer::wait_while_frozen(task);
            continue;
        }
        if task.is_traced() {
            if ptrace::trap(task, regs) {
                continue;
            }
        } else if task.process().stop_signal.load(Ordering::Acquire) != 0 {
            stop::wait_while_stopped(task);
            continue;
        }
        let allowed = SigSet(!task.signals.mask().0);
        let Some(info) = super::take(task, allowed) else { break };
        let info = if task.is_traced() {
            let Some(info) = ptrace::signal_stop(task, regs, info) else { continue };
            info
        } else {
            info
        };
        let sighand = task.process().sighand();
        let action = sighand.get(info.signal);
        match action.handler {
            SIG_IGN => {}
            SIG_DFL => match info.signal.default_action() {
                Default::Ignore | Default::Continue => {}
                // It got here only because a tracer wanted to see it.
                _ if super::spares_init(task.process(), &info) => {}
                Default::Stop => stop::stop(task, info.signal),
                Default::Core => core_dump::end_with_core(task, regs, &info),
                Default::Terminate => {
                    super::kill_process(task.process(), ExitStatus::Signal(info.signal.number(), false));
                }
            },
            _ => {
                if action.flags().contains(SaFlags::RESETHAND) {
                    sighand.set(info.signal, SigAction { handler: SIG_DFL, ..action });
                }
                restart_for_handler(regs, action.flags());
                handle(task, regs, info, action);
                ptrace::stepped_into_handler(task, regs);
                return;
            }
        }
    }
    restart_without_handler(regs);
    if let Some(mask) = task.signals.saved_mask.lock().take() {
        task.signals.store_mask(mask);
        if !super::deliverable(task).is_empty() {
            task.work().fetch_or(work::SIGNAL, Ordering::Release);
        }
    }
}

/// Runs the handler: frame, registers, mask.
fn handle(task: &TaskRef, regs: &mut UserRegs, info: SigInfo, action: SigAction) {
    let restore_to = task.signals.saved_mask.lock().take().unwrap_or_else(|| task.signals.mask());
    let left = crate::task::rseq::before_handler(task, regs);
    if left.is_err() || frame::push(task, regs, &info, &action, restore_to).is_err() {
        // No room for the frame, or a broken critical section: the process is told by SIGSEGV, and if that was the one, it ends.
        if info.signal == super::Signal::SEGV {
            let sighand = task.process().sighand();
            sighand.set(info.signal, SigAction::default());
        }
        super::force(task, SigInfo::kernel(super::Signal::SEGV));
        return;
    }
    let mut mask = task.signals.mask().union(action.mask);
    if !action.flags().contains(SaFlags::NODEFER) {
        mask = mask.with(info.signal);
    }
    task.signals.store_mask(mask);
    if !super::deliverable(task).is_empty() {
        task.work().fetch_or(work::SIGNAL, Ordering::Release);
    }
}

fn interrupted_call(regs: &UserRegs) -> Option<u64> {
    if regs.orig_rax == NOT_A_SYSCALL {
        return None;
    }
    let code = regs.rax.wrapping_neg();
    let codes = u64::from(Errno::ERESTARTSYS.raw())..=u64::from(Errno::ERESTART_RESTARTBLOCK.raw());
    codes.contains(&code).then_some(code)
}

fn again(regs: &mut UserRegs, number: u64) {
    regs.rax = number;
    regs.rip = regs.rip.wrapping_sub(SYSCALL_LEN);
}

fn restart_for_handler(regs: &mut UserRegs, flags: SaFlags) {
    if let Some(code) = interrupted_call(regs) {
        let restart = code == u64::from(Errno::ERESTARTNOINTR.raw())
            || (code == u64::from(Errno::ERESTARTSYS.raw()) && flags.contains(SaFlags::RESTART));
        if restart {
            again(regs, regs.orig_rax);
        } else {
            regs.rax = Errno::EINTR.to_rax();
        }
    }
    regs.orig_rax = NOT_A_SYSCALL;
}

fn restart_without_handler(regs: &mut UserRegs) {
    if let Some(code) = interrupted_call(regs) {
        let number = if code == u64::from(Errno::ERESTART_RESTARTBLOCK.raw()) {
            NR_RESTART_SYSCALL
        } else {
            regs.orig_rax
        };
        again(regs, number);
    }
    regs.orig_rax = NOT_A_SYSCALL;
}

/// Runs a call under another signal mask, as `sigsuspend`, `ppoll`, `pselect` and `epoll_pwait` do: if a
/// signal ended it, the mask stays until that signal's handler has been set up, else it goes back at once.
pub fn with_mask<T>(task: &TaskRef, mask: Option<SigSet>, f: impl FnOnce() -> Result<T>) -> Result<T> {
    let Some(mask) = mask else { return f() };
    let old = task.signals.mask();
    super::set_mask(task, mask);
    let result = f();
    let interrupted = matches!(&result, Err(e) if *e == Errno::EINTR || e.raw() >= Errno::ERESTARTSYS.raw())
        && super::pending(task);
    if interrupted {
        *task.signals.saved_mask.lock() = Some(old);
        task.work().fetch_or(work::SIGNAL, Ordering::Release);
    } else {
        super::set_mask(task, old);
    }
    result
}
