//! `--strace`: a line per system call, from the table.
//!
//! Pointers to strings are followed while the call is entered (a program may change them meanwhile: what is
//! printed is what was there then). The line is written when the call returns; one that does not return
//! (`exit_group`, a successful `execve`) is written at entry.

use alloc::string::String;
use core::fmt::Write;

use ringfence_hal::UserRegs;

use crate::{
    TaskRef,
    errno::{Errno, Result},
    signal::Signal,
    sync::SpinLock,
    syscall::{ArgKind, Syscall, UserPtr, UserStr},
};

/// Where the lines go.
pub trait Sink: Send + Sync {
    /// Takes one line, its newline included; `task` is the caller, which may have to wait.
    fn line(&self, task: &TaskRef, text: &str);
}

static SINK: SpinLock<Option<alloc::sync::Arc<dyn Sink>>> = SpinLock::new(None);

/// Bytes of a string that are printed.
const MAX_STRING: usize = 64;
/// Calls that do not come back.
const EXIT: usize = 60;
const EXIT_GROUP: usize = 231;

/// Sets where lines go; `None` drops them.
pub fn set_sink(sink: Option<alloc::sync::Arc<dyn Sink>>) {
    *SINK.lock() = sink;
}

fn emit(task: &TaskRef, text: &str) {
    let sink = SINK.lock().clone();
    if let Some(sink) = sink {
        sink.line(task, text);
    }
}

/// A line that has begun.
pub struct Line(String);

/// The call is entered.
pub fn enter(task: &TaskRef, regs: &UserRegs, number: usize, entry: Option<&Syscall>) -> Line {
    let mut line = String::with_capacity(96);
    let _ = write!(line, "[{:>5}] ", task.tid()); // writing to a String does not fail
    let raw = [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9];
    match entry {
        Some(entry) => {
            line.push_str(entry.name);
            line.push('(');
            for (i, ((name, kind), value)) in entry.args.iter().zip(raw).enumerate() {
                if i > 0 {
                    line.push_str(", ");
                }
                let _ = write!(line, "{name}=");
                argument(&mut line, *kind, value);
            }
            line.push(')');
        }
        None => {
            let _ = write!(line, "syscall_{number}({:#x}, {:#x}, {:#x}, …)", regs.rdi, regs.rsi, regs.rdx);
        }
    }
    if matches!(number, EXIT | EXIT_GROUP) {
        line.push('\n');
        emit(task, &line);
    }
    Line(line)
}

/// The call returned.
pub fn exit(task: &TaskRef, line: Line, result: Result, ns: u64) {
    let mut line = line.0;
    let _ = match result {
        Ok(v) if v > 0xffff_ffff => writeln!(line, " = {v:#x} <{ns} ns>"),
        Ok(v) => writeln!(line, " = {v} <{ns} ns>"),
        Err(e) => writeln!(line, " = -1 {} <{ns} ns>", display(e)),
    };
    emit(task, &line);
}

fn display(e: Errno) -> &'static str {
    e.name()
}

fn argument(line: &mut String, kind: ArgKind, raw: u64) {
    let _ = match kind {
        ArgKind::Int if raw == u64::from(raw as u32) => write!(line, "{}", raw as i32),
        ArgKind::Int => write!(line, "{}", raw as i64),
        ArgKind::Uint => write!(line, "{raw}"),
        ArgKind::Hex => write!(line, "{raw:#x}"),
        ArgKind::Fd if raw as i32 == -100 => write!(line, "AT_FDCWD"),
        ArgKind::Fd => write!(line, "{}", raw as i32),
        ArgKind::Pointer if raw == 0 => write!(line, "NULL"),
        ArgKind::Pointer => write!(line, "{raw:#x}"),
        ArgKind::Mode => write!(line, "0{:o}", raw as u32),
        ArgKind::Signal => match Signal::new(raw as i32) {
            Some(s) => write!(line, "SIG{}", s.name().trim_start_matches("SIG")),
            None => write!(line, "{}", raw as i32),
        },
        ArgKind::Str => {
            string(line, raw);
            Ok(())
        }
        ArgKind::StrVec => {
            vector(line, raw);
            Ok(())
        }
    };
}

fn string(line: &mut String, at: u64) {
    if at == 0 {
        line.push_str("NULL");
        return;
    }
    match UserStr(at).read(MAX_STRING, Errno::ENAMETOOLONG) {
        Ok(s) => {
            let _ = write!(line, "\"{}\"", s.escape_ascii());
        }
        Err(Errno::ENAMETOOLONG) => match UserPtr::<[u8; MAX_STRING]>::new(at).read() {
            Ok(s) => {
                let _ = write!(line, "\"{}\"…", s.escape_ascii());
            }
            Err(_) => line.push_str("(bad)"),
        },
        Err(_) => {
            let _ = write!(line, "{at:#x}");
        }
    }
}

fn vector(line: &mut String, at: u64) {
    const MAX_ITEMS: usize = 8;
    line.push('[');
    for i in 0..=MAX_ITEMS {
        match UserPtr::<u64>::new(at).index(i).read() {
            Ok(0) | Err(_) => break,
            Ok(_) if i == MAX_ITEMS => line.push_str(", …"),
            Ok(item) => {
                if i > 0 {
                    line.push_str(", ");
                }
                string(line, item);
            }
        }
    }
    line.push(']');
}
