//! `execve` and `execveat`: reading the caller's strings, and the commit.

use alloc::{sync::Arc, vec::Vec};
use core::sync::atomic::Ordering;

use ringfence_hal as hal;
use ringfence_hal::{DebugRegisters, UserRegs};

use super::{
    Program, Request,
    arguments::{Arguments, MAX_STRING},
    credentials::Restraint,
    open, prepare,
};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    fs::{PATH_MAX, Path, Subject, Walk, WalkFlags},
    mm, ptrace,
    signal::AltStack,
    syscall::{Ctx, Fd, Syscall, UserStr, args::UserStrVec},
    syscalls,
    task::{self, exit::end_other_threads},
};

/// `ADDR_NO_RANDOMIZE` of personality(2).
const ADDR_NO_RANDOMIZE: u32 = 0x0004_0000;
const AT_SYMLINK_NOFOLLOW: u32 = 0x100;
const AT_EMPTY_PATH: u32 = 0x1000;

fn execve(ctx: &mut Ctx<'_>, path: UserStr, argv: UserStrVec, envp: UserStrVec) -> Result {
    execveat(ctx, Fd::CWD, path, argv, envp, 0)
}

fn execveat(
    ctx: &mut Ctx<'_>,
    dir: Fd,
    path: UserStr,
    argv: UserStrVec,
    envp: UserStrVec,
    flags: u32,
) -> Result {
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let task = ctx.task;
    let path = path.read(PATH_MAX, Errno::ENAMETOOLONG)?;
    let limits = mm::limits_of(task);
    // Before the program is looked up: bad strings are noticed first.
    let arguments = read_arguments(argv, envp, limits.stack)?;
    let credentials = task.credentials();
    let fs = task.fs()?;
    let walk = Walk { subject: Subject::of(&credentials), root: fs.root(), task: Some(task) };
    let cwd = fs.cwd();
    let start = start_of(task, dir, &path, &cwd)?;
    let mut how = WalkFlags::empty();
    how.set(WalkFlags::FOLLOW, flags & AT_SYMLINK_NOFOLLOW == 0);
    how.set(WalkFlags::EMPTY, flags & AT_EMPTY_PATH != 0);
    let program = open(&walk, &start, &path, how)?;
    let program = prepare(Request {
        walk: &walk,
        cwd: &cwd,
        program,
        path: &shown_path(dir, path),
        arguments,
        credentials: &credentials,
        restraint: Restraint { no_new_privs: task.no_new_privs(), traced: !ptrace::may_gain_by_exec(task) },
        limits,
        randomize: task.personality.load(Ordering::Relaxed) & ADDR_NO_RANDOMIZE == 0,
    })?;
    let former = task.tid();
    end_other_threads(task)?;
    commit(ctx, program);
    if task.is_traced() {
        ptrace::exec_event(task, ctx.regs, former);
    }
    Ok(0)
}

/// Where the walk of `path` begins.
fn start_of(task: &TaskRef, dir: Fd, path: &[u8], cwd: &Path) -> Result<Path> {
    if dir == Fd::CWD || path.first() == Some(&b'/') {
        return Ok(cwd.clone());
    }
    Ok(task.files()?.get_any(dir.0)?.path().clone())
}

/// The path as the program (or its interpreter) sees it.
fn shown_path(dir: Fd, path: Vec<u8>) -> Vec<u8> {
    if dir == Fd::CWD || path.first() == Some(&b'/') {
        return path;
    }
    let mut shown = alloc::format!("/dev/fd/{}", dir.0).into_bytes();
    if !path.is_empty() {
        shown.push(b'/');
        shown.extend_from_slice(&path);
    }
    shown
}

/// Copies the strings of the caller.
fn read_arguments(argv: UserStrVec, envp: UserStrVec, stack_limit: u64) -> Result<Arguments> {
    let mut arguments = Arguments::new(stack_limit);
    read_strings(argv, &mut arguments, Arguments::push_argument)?;
    if arguments.argc() == 0 {
        // Programs rely on a first argument; Linux gives an empty one since 5.18.
        arguments.push_argument(b"")?;
    }
    read_strings(envp, &mut arguments, Arguments::push_environment)?;
    Ok(arguments)
}

fn read_strings(
    vector: UserStrVec,
    arguments: &mut Arguments,
    push: fn(&mut Arguments, &[u8]) -> Result<()>,
) -> Result<()> {
    if vector.0 == 0 {
        return Ok(());
    }
    let mut at = vector.0;
    loop {
        let pointer = hal::user::load_u64(at)?;
        if pointer == 0 {
            return Ok(());
        }
        let max = MAX_STRING.min(arguments.remaining() + 1);
        let string = UserStr(pointer).read(max, Errno::E2BIG)?;
        push(arguments, &string)?;
        at = at.checked_add(8).ok_or(Errno::EFAULT)?;
    }
}

/// Turns the calling task, now alone in its process, into the program. Cannot fail.
fn commit(ctx: &mut Ctx<'_>, program: Program) {
    let task = ctx.task;
    let process = task.process();

    // Memory: what hangs on the old one is settled first, then it goes.
    task::exit::leave_memory(task);
    task::limits::keep_peak(task);
    task.rseq.forget();
    if task.debug_registers() != DebugRegisters::default() {
        task.set_debug_registers(DebugRegisters::default());
    }
    let old = task.replace_mm(Some(program.image.mm.clone()));
    task.set_address_space(program.image.mm.space().clone());
    task.vfork_complete();
    drop(old);

    // Signals: handlers pointed into the old program; the mask and what is pending stay.
    process.set_sighand(Arc::new(process.sighand().after_exec(false)));
    *task.signals.altstack.lock() = AltStack::default();
    process.timers.clear_posix();

    // Files: a table shared with others becomes its own, then loses what is marked.
    if let Ok(files) = task.files() {
        let own = if Arc::strong_count(&files) > 2 { files.fork() } else { files.clone() };
        drop(files);
        drop(own.remove_close_on_exec());
        drop(task.replace_files(Some(own)));
    }

    // Who gained rights is not for others to look into.
    let (old, new) = (task.credentials(), &program.credentials);
    let same = (old.euid, old.egid, old.fsuid, old.fsgid) == (new.euid, new.egid, new.fsuid, new.fsgid);
    let gained = !same || !old.permitted.contains(new.permitted);
    process.dumpable.store(!gained && new.uid == new.euid && new.gid == new.egid, Ordering::Relaxed);
    if gained || program.secure {
        task.parent_death_signal.store(0, Ordering::Relaxed);
    }
    task.set_credentials(program.credentials);
    task.set_comm(&program.name);
    process.has_execed.store(true, Ordering::Release);

    // Registers.
    let number = ctx.regs.orig_rax;
    *ctx.regs = UserRegs::new(program.image.entry, program.image.stack);
    ctx.regs.orig_rax = number; // tracers see which call they are in
    let _ = task.set_fs_base(0); // 0 is canonical.
    let _ = task.set_gs_base(0);
    hal::fpu::reset();
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    59 execve(path: UserStr, argv: UserStrVec, envp: UserStrVec) Partial "a program being written is not refused";
    322 execveat(dirfd: Fd, path: UserStr, argv: UserStrVec, envp: UserStrVec, flags: u32) Partial "as execve";
};
