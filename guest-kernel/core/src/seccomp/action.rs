//! What becomes of a call of a task with filters.

use ringfence_hal::UserRegs;

use super::{
    FILTER, STRICT,
    bpf::Data,
    filter::{ARCH, Filter, ret},
};
use crate::{
    TaskRef,
    errno::Errno,
    ptrace,
    signal::{
        self, SigInfo, Signal,
        types::{Fields, code},
    },
    task::{exit, process::ExitStatus},
};

/// What strict mode allows: read, write, exit, rt_sigreturn.
const STRICT_CALLS: [u64; 4] = [0, 1, 60, 15];
/// Largest error a filter can give.
const MAX_ERRNO: u32 = 4095;
/// `orig_rax` of a call that is not to be made.
const NO_SYSCALL: u64 = u64::MAX;

/// What is to happen.
enum Verdict {
    /// The call is made.
    Make,
    /// It is not; `rax` is what it returns.
    Skip,
    /// The thread ends, or the process if it has no other.
    EndThread,
    /// The process ends.
    EndProcess,
}

/// Asks the filters of the calling task. `false`: the call is not made, and `rax` is what it returns.
pub fn check(task: &TaskRef, regs: &mut UserRegs) -> bool {
    let verdict = match task.seccomp.mode() {
        STRICT if STRICT_CALLS.contains(&regs.orig_rax) => Verdict::Make,
        STRICT => exit::exit_task(task, ExitStatus::Signal(Signal::KILL.number(), false)),
        FILTER => match task.seccomp.filter() {
            Some(filter) if !filter.always_allows(regs.orig_rax as usize) => ask(task, regs, &filter, false),
            _ => Verdict::Make,
        },
        _ => Verdict::Make,
    };
    // Here nothing is held any more that the end of the task would not give back.
    let status = ExitStatus::Signal(Signal::SYS.number(), false);
    match verdict {
        Verdict::Make => true,
        Verdict::Skip => false,
        Verdict::EndThread if task.process().threads().len() > 1 => exit::exit_task(task, status),
        Verdict::EndThread | Verdict::EndProcess => {
            signal::kill_process(task.process(), status);
            exit::exit_task(task, status)
        }
    }
}

/// What a filter is told.
fn data(regs: &UserRegs) -> Data {
    Data {
        nr: regs.orig_rax as i32,
        arch: ARCH,
        instruction_pointer: regs.rip,
        args: [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9],
    }
}

/// `again`: a tracer has had its say.
fn ask(task: &TaskRef, regs: &mut UserRegs, filter: &Filter, again: bool) -> Verdict {
    let data = data(regs);
    let (answer, by) = filter.answer(&data);
    let value = answer & ret::DATA;
    match answer & ret::ACTION {
        ret::ALLOW | ret::LOG => Verdict::Make, // there is no audit log
        ret::ERRNO => {
            regs.rax = u64::from(value.min(MAX_ERRNO)).wrapping_neg();
            Verdict::Skip
        }
        ret::TRAP => {
            // As if it had not been made: a handler may make it, or another one, in its place.
            regs.rax = regs.orig_rax;
            regs.orig_rax = NO_SYSCALL;
            signal::force(task, info(&data, value));
            Verdict::Skip
        }
        ret::TRACE if again => Verdict::Make,
        ret::TRACE if !ptrace::seccomp_event(task, regs, value) => {
            regs.rax = Errno::ENOSYS.to_rax();
            Verdict::Skip
        }
        ret::TRACE if task.killed() || regs.orig_rax == NO_SYSCALL => Verdict::Skip,
        // It may have become another call, which the filters may not like.
        ret::TRACE => ask(task, regs, filter, true),
        ret::USER_NOTIF => match &by.listener {
            Some(listener) if listener.ask(task, regs, &data) => Verdict::Make,
            Some(_) => Verdict::Skip,
            None => {
                regs.rax = Errno::ENOSYS.to_rax();
                Verdict::Skip
            }
        },
        ret::KILL_THREAD => Verdict::EndThread,
        _ => Verdict::EndProcess, // what is no action, too
    }
}

/// SIGSYS as `SECCOMP_RET_TRAP` sends it.
fn info(data: &Data, value: u32) -> SigInfo {
    let fields = Fields::Syscall {
        addr: data.instruction_pointer,
        number: data.nr,
        arch: data.arch,
        errno: value as i32,
    };
    SigInfo { signal: Signal::SYS, code: code::SYS_SECCOMP, fields }
}
