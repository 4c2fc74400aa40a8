//! Signals.
//!
//! What Linux does: a signal is put into the pending set of a thread or of a process; a thread on its way to
//! ring 3 takes those it does not block and acts: the default action, or a frame on the user stack from which
//! the handler runs and `rt_sigreturn` comes back. System calls that a signal interrupts return one of the
//! in-kernel `ERESTART*` codes, which the same place turns into a restart or `EINTR`.
//!
//! | module | holds |
//! |---|---|
//! | `types` | numbers, sets, actions, `siginfo` |
//! | `state` | pending sets, masks, actions |
//! | `send` | sending, and what sending does at once |
//! | `limit` | how many may be queued |
//! | `deliver` | the way to ring 3: choosing, default actions, restart |
//! | `core_dump`, `core_file` | what the end of a process leaves behind |
//! | `stop` | job control |
//! | `frame` | the frame on the user stack, and `rt_sigreturn` |
//! | `sys` | the system calls |
//!
//! Deviation: the first process of a sandbox is spared only by what other processes of the sandbox send and it has
//! no handler for; the first of a Linux pid namespace is spared by all but its own faults. See `send`.

pub mod core_dump;
pub mod core_file;
mod deliver;
mod frame;
pub mod limit;
mod send;
mod state;
pub mod stop;
mod sys;
pub mod types;

use ringfence_hal::{Exception, UserRegs, debug};

pub use deliver::{deliver, with_mask};
pub(crate) use send::spares_init;
pub use send::{
    force, kill_process, notify, notify_parent, queue_for_process, queue_for_task, send_from_host,
    send_to_group, send_to_process, send_to_task,
};
pub use state::{AltStack, Pending, Reserved, SigHand, TaskSignals};
pub(crate) use sys::may_send;
pub use types::{SigAction, SigInfo, SigSet, Signal};

use crate::{
    TaskRef, ptrace,
    sched::work,
    syscall::Syscall,
    task::{Process, Task},
};

/// The system calls of this module.
pub const SYSCALLS: &[&[Syscall]] = &[sys::SYSCALLS, frame::SYSCALLS];

/// Takes the first pending signal out of `allowed`: one of the task's own, or one of its process.
pub fn take(task: &TaskRef, allowed: SigSet) -> Option<SigInfo> {
    let process = task.process();
    let info = task.signals.pending.take(allowed).or_else(|| process.shared_pending.take(allowed))?;
    Some(crate::time::dequeued(process, info))
}

/// Whether an interruptible wait of `task` has to end.
pub fn pending(task: &Task) -> bool {
    task.killed()
        || !deliverable(task).is_empty()
        || must_stop(task)
        || task.process().freezing.load(core::sync::atomic::Ordering::Relaxed)
}

/// Whether job control, or its tracer, wants the task to stop. One that is traced joins a stop of its process once.
fn must_stop(task: &Task) -> bool {
    if task.is_traced() {
        return ptrace::trap_due(task);
    }
    task.process().stop_signal.load(core::sync::atomic::Ordering::Relaxed) != 0
}

/// Pending signals that are not blocked.
pub fn deliverable(task: &Task) -> SigSet {
    let pending = task.signals.pending.set().union(task.process().shared_pending.set());
    pending.without(task.signals.mask())
}

/// Whether a signal without handler that ends the process (without a core) is waiting to be taken: that happens even
/// to who is frozen.
pub fn fatal_pending(task: &Task) -> bool {
    let sighand = task.process().sighand();
    let set = deliverable(task);
    (1..=64).filter_map(Signal::new).any(|signal| {
        set.has(signal)
            && sighand.get(signal).handler == types::SIG_DFL
            && matches!(signal.default_action(), types::Default::Terminate)
    })
}

/// Sets the calling task's mask and has it look again at what that lets in.
pub fn set_mask(task: &TaskRef, set: SigSet) {
    task.signals.store_mask(set);
    if !deliverable(task).is_empty() {
        task.work().fetch_or(work::SIGNAL, core::sync::atomic::Ordering::Release);
    }
}

/// Wakes those who read signals of `process` from a descriptor.
pub(crate) fn signalfd_wake(process: &Process) {
    process.signal_events.wake_all(crate::sync::PollEvents::IN);
}

/// A processor exception in ring 3 other than a page fault.
pub fn exception(task: &TaskRef, regs: &mut UserRegs, e: Exception) {
    use types::code;
    let at = regs.rip;
    task.signals.trapped(e);
    let info = match e {
        Exception::DivideError => SigInfo::fault(Signal::FPE, code::FPE_INTDIV, at),
        Exception::FloatingPoint | Exception::Simd => SigInfo::fault(Signal::FPE, code::FPE_FLTINV, at),
        Exception::Debug { status } => {
            ptrace::debug_exception(task, regs, status);
            let code = match status {
                s if s & debug::STATUS_STEP != 0 => code::TRAP_TRACE,
                s if s & debug::STATUS_HITS != 0 => code::TRAP_HWBKPT,
                _ => code::TRAP_BRKPT,
            };
            SigInfo::fault(Signal::TRAP, code, at)
        }
        Exception::Breakpoint => SigInfo::kernel(Signal::TRAP),
        Exception::InvalidOpcode | Exception::DeviceNotAvailable => {
            SigInfo::fault(Signal::ILL, code::ILL_ILLOPN, at)
        }
        Exception::AlignmentCheck => SigInfo::fault(Signal::BUS, code::BUS_ADRALN, 0),
        Exception::StackSegment { .. } | Exception::SegmentNotPresent { .. } => SigInfo::kernel(Signal::BUS),
        _ => SigInfo::kernel(Signal::SEGV),
    };
    force(task, info);
}
