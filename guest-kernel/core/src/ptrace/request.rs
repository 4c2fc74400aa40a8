//! The system call.

use alloc::{sync::Arc, vec::Vec};
use core::sync::atomic::Ordering;

use ringfence_hal as hal;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{
    AccessMode, Kind, Mode, Options, State, Tracee, check_access, link,
    regs::{LEGACY, WORDS},
    stop::{MESSAGE_ENTRY, MESSAGE_EXIT},
};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    fs::sys::IoVec,
    signal::{self, SigInfo, SigSet, Signal},
    sync::PollEvents,
    syscall::{Ctx, Syscall, UserPtr},
    syscalls,
    task::{Capabilities, Process, process::ExitStatus},
};

/// `PTRACE_*`.
mod op {
    pub const TRACEME: i32 = 0;
    pub const PEEKTEXT: i32 = 1;
    pub const PEEKDATA: i32 = 2;
    pub const PEEKUSER: i32 = 3;
    pub const POKETEXT: i32 = 4;
    pub const POKEDATA: i32 = 5;
    pub const POKEUSER: i32 = 6;
    pub const CONT: i32 = 7;
    pub const KILL: i32 = 8;
    pub const SINGLESTEP: i32 = 9;
    pub const GETREGS: i32 = 12;
    pub const SETREGS: i32 = 13;
    pub const GETFPREGS: i32 = 14;
    pub const SETFPREGS: i32 = 15;
    pub const ATTACH: i32 = 16;
    pub const DETACH: i32 = 17;
    pub const SYSCALL: i32 = 24;
    pub const SYSEMU: i32 = 31;
    pub const SYSEMU_SINGLESTEP: i32 = 32;
    pub const SETOPTIONS: i32 = 0x4200;
    pub const GETEVENTMSG: i32 = 0x4201;
    pub const GETSIGINFO: i32 = 0x4202;
    pub const SETSIGINFO: i32 = 0x4203;
    pub const GETREGSET: i32 = 0x4204;
    pub const SETREGSET: i32 = 0x4205;
    pub const SEIZE: i32 = 0x4206;
    pub const INTERRUPT: i32 = 0x4207;
    pub const LISTEN: i32 = 0x4208;
    pub const PEEKSIGINFO: i32 = 0x4209;
    pub const GETSIGMASK: i32 = 0x420a;
    pub const SETSIGMASK: i32 = 0x420b;
    pub const GET_SYSCALL_INFO: i32 = 0x420e;
}

/// Bytes of `struct user`, and where `u_debugreg` lies in it.
const USER_SIZE: u64 = 928;
const USER_DEBUG: u64 = 848;
/// Register sets by note type.
const NT_PRSTATUS: u64 = 1;
const NT_PRFPREG: u64 = 2;
const NT_X86_XSTATE: u64 = 0x202;
const ARCH_X86_64: u32 = 0xc000_003e;

fn ptrace(ctx: &mut Ctx<'_>, request: i32, pid: i32, addr: u64, data: u64) -> Result {
    let task = ctx.task;
    match request {
        op::TRACEME => return trace_me(task),
        op::ATTACH => return attach(task, pid, None),
        op::SEIZE if addr != 0 => return Err(Errno::EIO),
        op::SEIZE => return attach(task, pid, Some(Options::from_bits(data).ok_or(Errno::EIO)?)),
        _ => {}
    }
    let target = task.pids().task(pid)?;
    let tracee =
        target.tracee().filter(|t| crate::task::pid::same_task(&t.tracer, task)).ok_or(Errno::ESRCH)?;
    match request {
        op::KILL => {
            let status = ExitStatus::Signal(Signal::KILL.number(), false);
            signal::kill_process(target.process(), status);
            super::kill_exiting(target.process());
        }
        op::INTERRUPT => interrupt(&tracee)?,
        op::LISTEN => listen(&tracee)?,
        op::CONT => resume(&tracee, Mode::Continue, data)?,
        op::SYSCALL => resume(&tracee, Mode::Syscall, data)?,
        op::SINGLESTEP => resume(&tracee, Mode::Step, data)?,
        op::SYSEMU => resume(&tracee, Mode::Emulate { step: false }, data)?,
        op::SYSEMU_SINGLESTEP => resume(&tracee, Mode::Emulate { step: true }, data)?,
        op::DETACH => {
            let signal = signal_number(data)?;
            tracee.with_stopped(|_| Ok(()))?;
            link::release(&tracee, signal);
        }
        op::SETOPTIONS => {
            let options = Options::from_bits(data).ok_or(Errno::EINVAL)?;
            tracee.with_stopped(|s| {
                s.options = options;
                Ok(())
            })?;
        }
        _ => return inspect(&tracee, request, addr, data),
    }
    Ok(0)
}

/// The requests that look at a stopped tracee or change it.
fn inspect(tracee: &Tracee, request: i32, addr: u64, data: u64) -> Result {
    match request {
        op::PEEKTEXT | op::PEEKDATA => {
            tracee.with_stopped(|_| Ok(()))?;
            let mut word = [0; 8];
            let mm = tracee.task.mm().map_err(|_| Errno::EIO)?;
            if mm.read_remote(addr, &mut word, true) != Ok(8) {
                return Err(Errno::EIO);
            }
            UserPtr::<[u8; 8]>::new(data).write(&word)?;
        }
        op::POKETEXT | op::POKEDATA => {
            tracee.with_stopped(|_| Ok(()))?;
            let mm = tracee.task.mm().map_err(|_| Errno::EIO)?;
            if mm.write_remote(addr, &data.to_ne_bytes(), true) != Ok(8) {
                return Err(Errno::EIO);
            }
        }
        op::PEEKUSER => {
            let value = tracee.with_stopped(|s| peek_user(s, addr))?;
            UserPtr::<u64>::new(data).write(&value)?;
        }
        op::POKEUSER => tracee.with_stopped(|s| match user_word(addr)? {
            Some(index) => s.context.set_word(index, data),
            None if addr >= USER_DEBUG => s.context.set_debug_word(((addr - USER_DEBUG) / 8) as usize, data),
            None => Err(Errno::EIO),
        })?,
        op::GETREGS => {
            let words = tracee.with_stopped(|s| Ok(s.context.words()))?;
            UserPtr::<[u64; WORDS]>::new(data).write(&words)?;
        }
        op::SETREGS => {
            let words = UserPtr::<[u64; WORDS]>::new(data).read()?;
            tracee.with_stopped(|s| set_words(s, &words))?;
        }
        op::GETFPREGS => {
            let legacy = tracee.with_stopped(|s| Ok(s.context.legacy()))?;
            UserPtr::<[u8; LEGACY]>::new(data).write(&legacy)?;
        }
        op::SETFPREGS => {
            let legacy = UserPtr::<[u8; LEGACY]>::new(data).read()?;
            tracee.with_stopped(|s| s.context.set_legacy(&legacy))?;
        }
        op::GETREGSET | op::SETREGSET => return register_set(tracee, request == op::SETREGSET, addr, data),
        op::GETEVENTMSG => {
            let message = tracee.with_stopped(|s| Ok(s.message))?;
            UserPtr::<u64>::new(data).write(&message)?;
        }
        op::GETSIGINFO => {
            let info = tracee.with_stopped(|s| s.info.ok_or(Errno::EINVAL))?;
            UserPtr::<[u8; 128]>::new(data).write(&info.to_bytes())?;
        }
        op::SETSIGINFO => {
            let bytes = UserPtr::<[u8; 128]>::new(data).read()?;
            tracee.with_stopped(|s| set_info(s, &bytes))?;
        }
        op::PEEKSIGINFO => return peek_signals(tracee, addr, data),
        op::GETSIGMASK if addr == 8 => {
            let mask = tracee.with_stopped(|_| Ok(tracee.task.signals.mask()))?;
            UserPtr::<SigSet>::new(data).write(&mask)?;
        }
        op::SETSIGMASK if addr == 8 => {
            let mask = UserPtr::<SigSet>::new(data).read()?;
            tracee.with_stopped(|_| {
                signal::set_mask(&tracee.task, mask);
                Ok(())
            })?;
        }
        op::GETSIGMASK | op::SETSIGMASK => return Err(Errno::EINVAL),
        op::GET_SYSCALL_INFO => return syscall_info(tracee, addr, data),
        _ => return Err(Errno::EIO),
    }
    Ok(0)
}

/// The thread that made `process`, or another one of its parent.
fn maker_of(process: &Process) -> Option<TaskRef> {
    let tid = process.parent_tid.load(Ordering::Relaxed);
    let threads = process.parent()?.threads();
    threads.iter().find(|t| t.tid() == tid).or(threads.first()).cloned()
}

fn trace_me(task: &TaskRef) -> Result {
    let tracer = maker_of(task.process()).ok_or(Errno::EPERM)?;
    let stronger = tracer.credentials();
    let mine = task.credentials();
    let allowed = Arc::ptr_eq(&stronger.user_ns, &mine.user_ns)
        && stronger.permitted.contains(mine.permitted)
        || stronger.capable_in(&mine.user_ns, Capabilities::SYS_PTRACE);
    if !allowed {
        return Err(Errno::EPERM);
    }
    link::attach(&tracer, task, false, Options::empty())?;
    Ok(0)
}

fn attach(tracer: &TaskRef, tid: i32, seize: Option<Options>) -> Result {
    let task = tracer.pids().task(tid)?;
    if Arc::ptr_eq(task.process(), tracer.process()) {
        return Err(Errno::EPERM);
    }
    check_access(tracer, &task, AccessMode::Real)?;
    let tracee = link::attach(tracer, &task, seize.is_some(), seize.unwrap_or_default())?;
    if task.process().stop_signal.load(Ordering::Acquire) != 0 {
        tracee.state.lock().trap_pending = true;
    }
    if seize.is_none() {
        let _ = signal::send_to_task(&task, SigInfo::kernel(Signal::STOP)); // a standard signal: not refused
    }
    task.process().stop_queue.wake_all(PollEvents::empty());
    signal::notify(&task);
    Ok(0)
}

fn interrupt(tracee: &Tracee) -> Result<()> {
    if !tracee.seized {
        return Err(Errno::EIO);
    }
    tracee.state.lock().trap_pending = true;
    tracee.queue.wake_all(PollEvents::empty());
    signal::notify(&tracee.task);
    Ok(())
}

fn listen(tracee: &Tracee) -> Result<()> {
    if !tracee.seized {
        return Err(Errno::EIO);
    }
    tracee.with_stopped(|s| {
        if !s.stop.is_some_and(|stop| stop.listenable) {
            return Err(Errno::EIO);
        }
        s.listening = true;
        Ok(())
    })?;
    // Something may have changed since it stopped.
    tracee.queue.wake_all(PollEvents::empty());
    Ok(())
}

fn signal_number(n: u64) -> Result<i32> {
    i32::try_from(n).ok().filter(|n| (0..=64).contains(n)).ok_or(Errno::EIO)
}

fn resume(tracee: &Tracee, mode: Mode, signal: u64) -> Result<()> {
    let signal = signal_number(signal)?;
    tracee.with_stopped(|s| {
        s.mode = mode;
        s.inject = signal;
        s.stop = None;
        Ok(())
    })?;
    tracee.queue.wake_all(PollEvents::empty());
    Ok(())
}

/// The register a `struct user` offset means; `None`: something else lies there.
fn user_word(offset: u64) -> Result<Option<usize>> {
    if !offset.is_multiple_of(8) || offset >= USER_SIZE {
        return Err(Errno::EIO);
    }
    let index = (offset / 8) as usize;
    Ok((index < WORDS).then_some(index))
}

fn peek_user(s: &State, offset: u64) -> Result<u64> {
    Ok(match user_word(offset)? {
        Some(index) => s.context.words().get(index).copied().unwrap_or(0),
        None if offset >= USER_DEBUG => s.context.debug_word(((offset - USER_DEBUG) / 8) as usize),
        None => 0,
    })
}

fn set_words(s: &mut State, words: &[u64]) -> Result<()> {
    for (i, word) in words.iter().enumerate() {
        s.context.set_word(i, *word)?;
    }
    Ok(())
}

fn set_info(s: &mut State, bytes: &[u8; 128]) -> Result<()> {
    let number = i32::from_ne_bytes(*bytes.first_chunk().ok_or(Errno::EINVAL)?);
    let old = s.info.as_mut().ok_or(Errno::EINVAL)?;
    let signal = Signal::new(number).unwrap_or(old.signal);
    *old = SigInfo::from_bytes(signal, bytes);
    Ok(())
}

/// `PTRACE_GETREGSET` and `PTRACE_SETREGSET`: `data` is a `struct iovec` whose length says how much there was.
fn register_set(tracee: &Tracee, set: bool, kind: u64, data: u64) -> Result {
    let place = UserPtr::<IoVec>::new(data);
    let mut iov = place.read()?;
    let size = match kind {
        NT_PRSTATUS => WORDS * 8,
        NT_PRFPREG => LEGACY,
        NT_X86_XSTATE => hal::fpu::size(),
        _ => return Err(Errno::EINVAL),
    };
    if !iov.len.is_multiple_of(8) {
        return Err(Errno::EINVAL);
    }
    iov.len = iov.len.min(size as u64);
    let len = iov.len as usize;
    if set {
        let mut bytes = zeroed(len)?;
        hal::user::copy_in(&mut bytes, iov.base)?;
        tracee.with_stopped(|s| match kind {
            NT_PRSTATUS => {
                let words: Vec<u64> = bytes.as_chunks().0.iter().map(|w| u64::from_ne_bytes(*w)).collect();
                set_words(s, &words)
            }
            NT_PRFPREG => {
                let mut legacy = s.context.legacy();
                legacy.get_mut(..len).ok_or(Errno::EINVAL)?.copy_from_slice(&bytes);
                s.context.set_legacy(&legacy)
            }
            _ => s.context.set_xstate(bytes),
        })?;
    } else {
        let bytes = tracee.with_stopped(|s| {
            Ok(match kind {
                NT_PRSTATUS => s.context.words().as_bytes().to_vec(),
                NT_PRFPREG => s.context.legacy().to_vec(),
                _ => s.context.xstate(),
            })
        })?;
        hal::user::copy_out(iov.base, bytes.get(..len).unwrap_or_default())?;
    }
    place.write(&iov)?;
    Ok(0)
}

fn zeroed(len: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
    bytes.resize(len, 0);
    Ok(bytes)
}

/// `struct ptrace_peeksiginfo_args`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct PeekArgs {
    offset: u64,
    flags: u32,
    count: i32,
}

fn peek_signals(tracee: &Tracee, args: u64, data: u64) -> Result {
    const SHARED: u32 = 1;
    let args = UserPtr::<PeekArgs>::new(args).read()?;
    if args.flags & !SHARED != 0 || args.count < 0 {
        return Err(Errno::EINVAL);
    }
    let mut told = 0;
    while told < args.count as usize {
        let Some(at) = args.offset.checked_add(told as u64).and_then(|at| usize::try_from(at).ok()) else {
            break;
        };
        let info = tracee.with_stopped(|_| {
            let task = &tracee.task;
            let shared = args.flags & SHARED != 0;
            Ok(if shared { task.process().shared_pending.peek(at) } else { task.signals.pending.peek(at) })
        })?;
        let Some(info) = info else { break };
        if let Err(e) = UserPtr::<[u8; 128]>::new(data).index(told).write(&info.to_bytes()) {
            return if told > 0 { Ok(told) } else { Err(e) };
        }
        told += 1;
    }
    Ok(told)
}

/// `struct ptrace_syscall_info`. Answers its size; as much is copied as the caller has room for.
fn syscall_info(tracee: &Tracee, room: u64, data: u64) -> Result {
    const NONE: u64 = 0;
    const ENTRY: u64 = 1;
    const EXIT: u64 = 2;
    const SECCOMP: u64 = 3;
    const MAX_ERROR: u64 = 4095;
    let (words, len) = tracee.with_stopped(|s| {
        let r = &s.context.regs;
        let code = s.info.map_or(0, |i| i.code);
        let event = s.stop.map_or(0, |stop| stop.code >> 8);
        let call = [r.orig_rax, r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9];
        let in_call = s.stop.is_some_and(|stop| stop.kind == Kind::Syscall) && code & 0x80 != 0;
        let mut words = [0; 11];
        let (kind, len) = match s.message {
            _ if event == super::event::SECCOMP => (SECCOMP, 84),
            MESSAGE_ENTRY if in_call => (ENTRY, 80),
            MESSAGE_EXIT if in_call => (EXIT, 33),
            _ => (NONE, 24),
        };
        let mut put = |from: usize, values: &[u64]| {
            words.iter_mut().skip(from).zip(values).for_each(|(to, value)| *to = *value);
        };
        put(0, &[kind | u64::from(ARCH_X86_64) << 32, r.rip, r.rsp]);
        match kind {
            ENTRY => put(3, &call),
            SECCOMP => {
                put(3, &call);
                put(10, &[s.message]);
            }
            EXIT => {
                let error = r.rax.wrapping_neg() <= MAX_ERROR && r.rax != 0;
                put(3, &[r.rax, error.into()]);
            }
            _ => {}
        }
        Ok((words, len))
    })?;
    let n = room.min(len) as usize;
    hal::user::copy_out(data, words.as_bytes().get(..n).unwrap_or_default())?;
    Ok(len as usize)
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    101 ptrace(request: i32, pid: i32, addr: u64, data: u64) Partial "no SINGLEBLOCK, SECCOMP_GET_FILTER; selectors only as they are";
};
