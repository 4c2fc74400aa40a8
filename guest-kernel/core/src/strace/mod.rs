//! `--strace`: a line per system call, from the table.
//!
//! What an argument is comes from the table of calls ([`crate::syscall::known`]), and [`decode`] prints it. What the
//! call reads is printed as it was when the call was entered (a program may change it meanwhile), what it writes as it
//! is when the call returns. The line is written when the call returns; one that does not return (`exit_group`, a
//! successful `execve`) is written at entry.

mod decode;

use alloc::{string::String, sync::Arc, vec::Vec};
use core::fmt::Write;

use ringfence_hal::UserRegs;

use crate::{
    TaskRef,
    errno::Result,
    sync::SpinLock,
    syscall::{ArgKind, Syscall, known},
};

/// Where the lines go.
pub trait Sink: Send + Sync {
    /// Takes one line, its newline included; `task` is the caller, which may have to wait.
    fn line(&self, task: &TaskRef, text: &str);
}

static SINK: SpinLock<Option<Arc<dyn Sink>>> = SpinLock::new(None);

/// Calls that do not come back.
const EXIT: usize = 60;
const EXIT_GROUP: usize = 231;

/// Sets where lines go; `None` drops them.
pub fn set_sink(sink: Option<Arc<dyn Sink>>) {
    *SINK.lock() = sink;
}

fn emit(task: &TaskRef, text: &str) {
    let sink = SINK.lock().clone();
    if let Some(sink) = sink {
        sink.line(task, text);
    }
}

/// A line that has begun.
pub struct Line {
    text: String,
    /// Arguments that are known when the call returns: where in the text, and what.
    later: Vec<(usize, ArgKind, u64)>,
    args: [u64; 6],
}

/// The call is entered.
pub fn enter(task: &TaskRef, regs: &UserRegs, number: usize, entry: Option<&Syscall>) -> Line {
    let args = [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9];
    let mut line = Line { text: String::with_capacity(128), later: Vec::new(), args };
    let _ = write!(line.text, "[{:>5}] ", task.global_tid()); // writing to a String does not fail
    match known::by_number(number) {
        Some(call) => line.text.push_str(call.name),
        None => {
            let _ = write!(line.text, "syscall_{number}({:#x}, {:#x}, {:#x}, …)", args[0], args[1], args[2]);
            return line;
        }
    }
    line.text.push('(');
    for (i, (kind, raw)) in known::kinds(number).zip(args).enumerate() {
        if i > 0 {
            line.text.push_str(", ");
        }
        if let Some((name, _)) = entry.and_then(|entry| entry.args.get(i)) {
            line.text.push_str(name);
            line.text.push('=');
        }
        match kind {
            ArgKind::Out(..) if raw != 0 => line.later.push((line.text.len(), kind, raw)),
            _ => decode::argument(&mut line.text, kind, raw, &args, None),
        }
        if matches!(kind, ArgKind::InOut(..)) && raw != 0 {
            line.later.push((line.text.len(), kind, raw));
        }
    }
    line.text.push(')');
    if matches!(number, EXIT | EXIT_GROUP) {
        line.text.push('\n');
        emit(task, &line.text);
    }
    line
}

/// The call returned.
pub fn exit(task: &TaskRef, line: Line, result: Result, ns: u64) {
    let mut text = String::with_capacity(line.text.len().saturating_add(64));
    let mut from = 0;
    for (at, kind, raw) in line.later {
        text.push_str(line.text.get(from..at).unwrap_or_default());
        from = at;
        match (result, kind) {
            (Err(_), ArgKind::Out(..)) => decode::address(&mut text, raw),
            (Err(_), _) => {}
            (Ok(value), _) => {
                if matches!(kind, ArgKind::InOut(..)) {
                    text.push_str(" → ");
                }
                decode::argument(&mut text, kind, raw, &line.args, Some(value));
            }
        }
    }
    text.push_str(line.text.get(from..).unwrap_or_default());
    let _ = match result {
        Ok(v) if v > 0xffff_ffff => writeln!(text, " = {v:#x} <{ns} ns>"),
        Ok(v) => writeln!(text, " = {v} <{ns} ns>"),
        Err(e) => writeln!(text, " = -1 {} <{ns} ns>", e.name()),
    };
    emit(task, &text);
}
