//! The tracee's side: stopping, and going on as the tracer says.
//!
//! A stop cannot be lost: the tracee publishes it under its state's lock, then sleeps until, under the same lock, it is
//! gone. Who takes it away (a request, a detach) wakes the queue afterwards.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use ringfence_hal as hal;
use ringfence_hal::{
    UserRegs,
    debug::{STATUS_HITS, STATUS_STEP},
};

use super::{
    EMULATING, EXIT_STOP_DUE, IN_WATCHED, Kind, Mode, Options, STEPPING, SYSCALLS_WANTED, Stop, Tracee, event,
};
use crate::{
    TaskRef,
    sched::work,
    signal::{self, SigInfo, SigSet, Signal, types::code},
    sync::{Interruptible, wait_event},
};

/// What `PTRACE_EVENT_*` stops report where the process has nothing else to: SIGTRAP.
const TRAP: i32 = 5;
/// Added to it in system-call stops with `PTRACE_O_TRACESYSGOOD`.
const SYSGOOD: i32 = 0x80;
/// `PTRACE_EVENTMSG_SYSCALL_ENTRY` and `_EXIT`.
pub(super) const MESSAGE_ENTRY: u64 = 1;
pub(super) const MESSAGE_EXIT: u64 = 2;
/// `orig_rax` outside a system call; a tracer sets it to have a call skipped.
const NO_SYSCALL: u64 = u64::MAX;
/// The resume flag: the next instruction hits no breakpoint.
const RF: u64 = 1 << 16;

/// The info of a stop that is no signal's.
fn own_info(task: &TaskRef, code: i32) -> SigInfo {
    let number = code & 0x7f;
    let signal = Signal::new(number).unwrap_or(Signal::TRAP);
    SigInfo::user(signal, code, task.tid(), task.credentials().uid)
}

impl Tracee {
    /// Stops the calling tracee until it may go on. `None`: it has no tracer any more, or was killed; else the signal
    /// it is given, or 0.
    pub(super) fn stop(
        &self,
        task: &TaskRef,
        regs: &mut UserRegs,
        stop: Stop,
        info: Option<SigInfo>,
        message: u64,
    ) -> Option<i32> {
        {
            let mut s = self.state.lock();
            if s.detached {
                return None;
            }
            s.stop = Some(stop);
            s.reported = false;
            s.listening = false;
            s.inject = 0;
            s.mode = Mode::Continue;
            s.message = message;
            s.info = info;
            s.context.regs = *regs;
            s.context.end_step();
            s.context.fs_base = task.fs_base();
            s.context.gs_base = task.gs_base();
            s.context.fpu_changed = false;
            s.context.debug = task.debug_registers();
            hal::fpu::save(&mut s.context.fpu);
        }
        let cld = if stop.kind == Kind::Group { code::CLD_STOPPED } else { code::CLD_TRAPPED };
        self.tell(cld, stop.code & 0x7f, Signal::CHLD);
        let gone = || {
            let s = self.state.lock();
            let again = s.listening && (s.notify_pending || s.trap_pending || s.stop_pending);
            (s.stop.is_none() || again || (stop.kind == Kind::Exit && s.killed_again)).then_some(())
        };
        let how = if stop.kind == Kind::Exit { Interruptible::No } else { Interruptible::Killable };
        let killed = wait_event(task, &self.queue, how, None, gone).is_err();
        self.go_on(task, regs, stop.kind, killed)
    }

    fn go_on(&self, task: &TaskRef, regs: &mut UserRegs, kind: Kind, killed: bool) -> Option<i32> {
        let (context, mode, signal) = {
            let mut s = self.state.lock();
            s.stop = None;
            s.listening = false;
            if s.mode.steps() {
                s.context.begin_step();
            }
            if killed {
                return None;
            }
            *regs = s.context.regs;
            let image = s.context.fpu_changed.then(|| core::mem::take(&mut s.context.fpu));
            let debug = s.context.debug;
            if debug != task.debug_registers() {
                task.set_debug_registers(debug);
            }
            ((s.context.fs_base, s.context.gs_base, image), s.mode, s.inject)
        };
        // All three were checked when the tracer set them.
        let _ = task.set_fs_base(context.0);
        let _ = task.set_gs_base(context.1);
        if let Some(image) = context.2 {
            let _ = hal::fpu::restore(&image);
            self.state.lock().context.fpu = image;
        }
        let watch = mode == Mode::Syscall;
        if watch && kind == Kind::Event && regs.orig_rax != NO_SYSCALL && !task.trace.has(IN_WATCHED) {
            // A call that nobody watched when it began: its end is to be seen all the same.
            task.trace.set(EXIT_STOP_DUE, true);
            task.work().fetch_or(work::NOTIFY, Ordering::Release);
        }
        task.trace.set(SYSCALLS_WANTED, watch);
        task.trace.set(STEPPING, mode.steps());
        task.trace.set(EMULATING, matches!(mode, Mode::Emulate { .. }));
        crate::task::update_watched(task);
        Some(signal)
    }

    fn syscall_stop(&self, task: &TaskRef, regs: &mut UserRegs, message: u64) {
        let good = self.state.lock().options.contains(Options::SYSGOOD);
        let code = TRAP | if good { SYSGOOD } else { 0 };
        let stop = Stop { kind: Kind::Syscall, code, listenable: false };
        let info = own_info(task, code);
        if let Some(signal) = self.stop(task, regs, stop, Some(info), message).and_then(Signal::new) {
            let _ = signal::send_to_task(task, SigInfo::kernel(signal)); // the tracer's own signal: lost if too many
        }
    }

    /// A `PTRACE_EVENT_*` stop.
    pub(super) fn event_stop(&self, task: &TaskRef, regs: &mut UserRegs, event: i32, message: u64) {
        let code = TRAP | event << 8;
        let kind = if event == event::EXIT { Kind::Exit } else { Kind::Event };
        let stop = Stop { kind, code, listenable: false };
        let _ = self.stop(task, regs, stop, Some(own_info(task, code)), message); // a signal given to go on with is not taken here
    }

    fn is_stepping(&self) -> bool {
        self.state.lock().context.forced_step
    }
}

/// A watched task has entered a system call. `false`: it is not to be made.
pub fn syscall_entry(task: &TaskRef, regs: &mut UserRegs) -> bool {
    let Some(tracee) = task.tracee() else { return true };
    task.trace.set(IN_WATCHED, true);
    let emulated = task.trace.has(EMULATING);
    if task.trace.wants_syscalls() || emulated {
        tracee.syscall_stop(task, regs, MESSAGE_ENTRY);
        if task.killed() {
            regs.orig_rax = NO_SYSCALL;
        }
    }
    regs.orig_rax != NO_SYSCALL && !emulated
}

/// A #DB of user code: says why to the tracer, and has an instruction run that a breakpoint stopped before.
pub fn debug_exception(task: &TaskRef, regs: &mut UserRegs, status: u64) {
    if task.debug_registers().before_instruction(status) {
        regs.rflags |= RF;
    }
    if let Some(tracee) = task.tracee() {
        tracee.state.lock().context.debug_status = status & (STATUS_HITS | STATUS_STEP);
    }
}

/// It is about to leave it; the result is in `rax`.
pub fn syscall_exit(task: &TaskRef, regs: &mut UserRegs) {
    let Some(tracee) = task.tracee() else { return };
    task.trace.set(IN_WATCHED, false);
    if task.trace.wants_syscalls() && !task.killed() {
        tracee.syscall_stop(task, regs, MESSAGE_EXIT);
    }
}

/// Something that [`Tracee::go_on`] left to be done on the way to ring 3.
pub fn go_on_late(task: &TaskRef, regs: &mut UserRegs) {
    if task.trace.has(EXIT_STOP_DUE) {
        task.trace.set(EXIT_STOP_DUE, false);
        syscall_exit(task, regs);
    }
}

/// A signal was taken to be delivered: the tracer decides. `None`: it is dropped.
pub fn signal_stop(task: &TaskRef, regs: &mut UserRegs, info: SigInfo) -> Option<SigInfo> {
    let Some(tracee) = task.tracee() else { return Some(info) };
    let number = i32::from(info.signal.number());
    let stop = Stop { kind: Kind::Signal, code: number, listenable: false };
    let Some(given) = tracee.stop(task, regs, stop, Some(info), 0) else {
        return if task.killed() { None } else { Some(info) };
    };
    let changed = tracee.state.lock().info.take().unwrap_or(info);
    let signal = Signal::new(given)?;
    let tracer = &tracee.tracer;
    let info = if signal == info.signal {
        SigInfo { signal, ..changed }
    } else {
        SigInfo::user(signal, code::SI_USER, tracer.pid(), tracer.credentials().uid)
    };
    if task.signals.mask().and(SigSet::of(signal)).is_empty() {
        return Some(info);
    }
    task.signals.pending.push(info, true);
    None
}

/// Stops for job control, or because the tracer wants it to. `true`: it did, and everything is to be looked at again.
pub fn trap(task: &TaskRef, regs: &mut UserRegs) -> bool {
    let Some(tracee) = task.tracee() else { return false };
    let stopped_by = i32::from(task.process().stop_signal.load(Ordering::Acquire));
    {
        let mut s = tracee.state.lock();
        if s.detached || !(s.stop_pending || s.trap_pending || s.notify_pending) {
            return false;
        }
        let join = s.stop_pending && stopped_by == 0 && !s.trap_pending && !s.notify_pending;
        (s.stop_pending, s.trap_pending, s.notify_pending) = (false, false, false);
        if join || (!tracee.seized && stopped_by == 0) {
            return true; // continued in between
        }
    }
    let (stop, info) = if tracee.seized {
        let code = if stopped_by == 0 { TRAP } else { stopped_by } | event::STOP << 8;
        (Stop { kind: Kind::Trap, code, listenable: true }, Some(own_info(task, code)))
    } else {
        (Stop { kind: Kind::Group, code: stopped_by, listenable: false }, None)
    };
    tracee.stop(task, regs, stop, info, 0);
    true
}

/// Whether a signal, a stop of the process apart, is due that [`trap`] would act on.
pub(crate) fn trap_due(task: &crate::task::Task) -> bool {
    task.tracee().is_some_and(|t| {
        let s = t.state.lock();
        s.stop_pending || s.trap_pending || s.notify_pending
    })
}

/// The handler of a signal has been set up while the task is stepped: it stops before the handler's first instruction.
pub(crate) fn stepped_into_handler(task: &TaskRef, regs: &mut UserRegs) {
    let Some(tracee) = task.tracee() else { return };
    if tracee.is_stepping() {
        let stop = Stop { kind: Kind::Trap, code: TRAP, listenable: false };
        let _ = tracee.stop(task, regs, stop, Some(own_info(task, TRAP)), 0);
    }
}

/// A system call was stepped over: the processor traps only after the next instruction.
pub(crate) fn stepped_over_call(task: &TaskRef, regs: &UserRegs) {
    if task.trace.has(STEPPING) && !task.trace.has(EMULATING) {
        signal::force(task, SigInfo::fault(Signal::TRAP, code::TRAP_BRKPT, regs.rip));
    }
}

/// What a task that was just made is to its maker's tracer.
pub struct NewTask {
    /// The maker's tracer is told of it by this event.
    pub(super) event: Option<i32>,
    pub(super) parent: Arc<Tracee>,
}
