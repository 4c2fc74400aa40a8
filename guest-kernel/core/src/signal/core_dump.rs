//! Core dumps (core(5)): when a process ends by certain signals, what its memory and its threads were like is left in a file.
//!
//! What Linux does: the thread that takes the signal stops the others on their way out of the kernel, collects their
//! registers, and writes an ELF file named by `/proc/sys/kernel/core_pattern`, if the process is dumpable and `RLIMIT_CORE`
//! lets it; the wait status then says so. What we do: the same, in the same format ([`super::core_file`]). There is no
//! pipe to a program (a pattern that begins with `|` is refused): a sandbox has nobody outside its processes to run one.
//!
//! The threads that are told to end find the dump in their process, add themselves to it and sleep until it is done. The
//! one that writes waits for all that live and are not already past that point.
//!
//! Lock order: `Process::core` and the list of threads are leaves.

use alloc::{sync::Arc, vec, vec::Vec};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ringfence_hal as hal;
use ringfence_hal::UserRegs;

use super::{SigInfo, core_file, kill_process};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    fs::{
        FileRef, OpenFlags,
        access::Subject,
        open, ops,
        types::FileType,
        walk::{Walk, WalkFlags},
    },
    io::Source,
    ptrace::regs::Context,
    sync::{Interruptible, PollEvents, Queue, SpinLock, WaitQueue, wait_event},
    task::{
        limits::Resource,
        pid::same_task,
        process::{ExitStatus, Process},
    },
};

/// A dump that is being made.
pub struct CoreDump {
    writer: TaskRef,
    threads: SpinLock<Vec<Thread>>,
    done: AtomicBool,
    queue: Queue,
}

/// A thread as it was.
#[derive(Clone)]
pub(super) struct Thread {
    pub task: TaskRef,
    pub context: Context,
}

/// How long the writer waits for the other threads, at most.
const PATIENCE_NS: u64 = 5_000_000_000;
/// No dump below that limit, as on Linux.
const SMALLEST: u64 = 4096;

/// `/proc/sys/kernel/core_uses_pid`.
pub static USES_PID: AtomicU64 = AtomicU64::new(0);
static PATTERN: SpinLock<Pattern> = SpinLock::new(Pattern { bytes: [0; PATTERN_MAX], len: 0 });

const PATTERN_MAX: usize = 127;

struct Pattern {
    bytes: [u8; PATTERN_MAX],
    len: usize,
}

/// `/proc/sys/kernel/core_pattern`; `core` at first.
pub fn pattern() -> Vec<u8> {
    let pattern = PATTERN.lock();
    match pattern.bytes.get(..pattern.len) {
        Some(bytes) if !bytes.is_empty() => bytes.to_vec(),
        _ => b"core".to_vec(),
    }
}

/// Sets it; cut to 127 bytes. `EINVAL`: a pipe.
pub fn set_pattern(new: &[u8]) -> Result<()> {
    if new.first() == Some(&b'|') {
        return Err(Errno::EINVAL);
    }
    let mut pattern = PATTERN.lock();
    let len = new.len().min(PATTERN_MAX);
    for (to, from) in pattern.bytes.iter_mut().zip(new) {
        *to = *from;
    }
    pattern.len = len;
    Ok(())
}

/// What the names in a pattern stand for.
struct Names {
    pid: i32,
    global_pid: i32,
    tid: i32,
    global_tid: i32,
    uid: u32,
    gid: u32,
    signal: u8,
    seconds: u64,
    host: Vec<u8>,
    comm: Vec<u8>,
    exe: Vec<u8>,
    limit: u64,
}

/// The file's path.
fn expand(pattern: &[u8], names: &Names, uses_pid: bool) -> Vec<u8> {
    let mut path = Vec::new();
    let mut has_pid = false;
    let mut at = pattern.iter();
    let number = |path: &mut Vec<u8>, n: i64| path.extend_from_slice(alloc::format!("{n}").as_bytes());
    // A name may not lead elsewhere.
    let text = |path: &mut Vec<u8>, text: &[u8]| {
        path.extend(text.iter().map(|b| if *b == b'/' { b'!' } else { *b }))
    };
    while let Some(byte) = at.next() {
        if *byte != b'%' {
            path.push(*byte);
            continue;
        }
        match at.next() {
            None => break,
            Some(b'%') => path.push(b'%'),
            Some(b'p') => {
                has_pid = true;
                number(&mut path, names.pid.into());
            }
            Some(b'P') => number(&mut path, names.global_pid.into()),
            Some(b'i') => number(&mut path, names.tid.into()),
            Some(b'I') => number(&mut path, names.global_tid.into()),
            Some(b'u') => number(&mut path, names.uid.into()),
            Some(b'g') => number(&mut path, names.gid.into()),
            Some(b'd') => path.push(b'1'),
            Some(b's') => number(&mut path, names.signal.into()),
            Some(b't') => number(&mut path, names.seconds as i64),
            Some(b'c') => path.extend_from_slice(alloc::format!("{}", names.limit).as_bytes()),
            Some(b'h') => text(&mut path, &names.host),
            Some(b'e') => text(&mut path, &names.comm),
            Some(b'f') => text(&mut path, names.exe.rsplit(|b| *b == b'/').next().unwrap_or_default()),
            Some(b'E') => text(&mut path, &names.exe),
            Some(_) => {}
        }
    }
    if uses_pid && !has_pid {
        path.push(b'.');
        number(&mut path, names.pid.into());
    }
    path
}

fn context_of(task: &TaskRef, regs: &UserRegs) -> Context {
    let mut fpu = Vec::new();
    if fpu.try_reserve_exact(hal::fpu::size()).is_ok() {
        fpu.resize(hal::fpu::size(), 0);
        hal::fpu::save(&mut fpu);
    }
    let mut context = Context::new(fpu);
    context.regs = *regs;
    context.fs_base = task.fs_base();
    context.gs_base = task.gs_base();
    context
}

/// Whether a fatal signal leaves a core file.
fn is_wanted(process: &Process) -> bool {
    process.dumpable.load(Ordering::Relaxed) && process.limits.soft(Resource::Core) >= SMALLEST
}

/// `task` was hit by a signal that ends its process with a core dump: ends it, and leaves one if it is wanted.
pub(super) fn end_with_core(task: &TaskRef, regs: &UserRegs, info: &SigInfo) {
    let process = task.process();
    let status = ExitStatus::Signal(info.signal.number(), false);
    if !is_wanted(process) {
        return kill_process(process, status);
    }
    let dump = Arc::new(CoreDump {
        writer: task.clone(),
        // The first is the one that debuggers show first.
        threads: SpinLock::new(vec![Thread { task: task.clone(), context: context_of(task, regs) }]),
        done: AtomicBool::new(false),
        queue: WaitQueue::new(),
    });
    {
        let mut slot = process.core.lock();
        if slot.is_some() || process.is_exiting() {
            return; // another thread was faster: we are one of its
        }
        *slot = Some(dump.clone());
    }
    kill_process(process, status);
    let complete = || {
        let joined = dump.threads.lock().len();
        let alive = process.links.lock().threads.iter().filter(|t| !t.is_exiting()).count();
        (joined >= alive).then_some(())
    };
    let deadline = crate::time::deadline_after(PATIENCE_NS);
    let _ = wait_event(task, &dump.queue, Interruptible::No, Some(deadline), complete); // without those that do not come
    let threads = core::mem::take(&mut *dump.threads.lock());
    if write(task, info, &threads).is_ok() {
        process.core_dumped(info.signal.number());
    }
    drop(threads);
    process.core.lock().take();
    dump.done.store(true, Ordering::Release);
    dump.queue.wake_all(PollEvents::empty());
}

/// `task` is on its way out of a process that has been told to end: if its core is being dumped, it is shown there first.
pub(super) fn join(task: &TaskRef, regs: &UserRegs) {
    let dump = task.process().core.lock().clone();
    let Some(dump) = dump.filter(|dump| !same_task(&dump.writer, task)) else { return };
    dump.threads.lock().push(Thread { task: task.clone(), context: context_of(task, regs) });
    dump.queue.wake_all(PollEvents::empty());
    let done = || dump.done.load(Ordering::Acquire).then_some(());
    let _ = wait_event(task, &dump.queue, Interruptible::No, None, done); // nothing ends it early
}

fn write(task: &TaskRef, info: &SigInfo, threads: &[Thread]) -> Result<()> {
    let process = task.process();
    let limit = process.limits.soft(Resource::Core);
    let credentials = task.credentials();
    let comm = task.comm();
    let exe = task.mm()?.image().exe;
    let fs = task.fs()?;
    let exe = exe.map(|exe| exe.path().text(&fs.root()).marked()).unwrap_or_default();
    let names = Names {
        pid: process.number,
        global_pid: process.pid,
        tid: task.tid(),
        global_tid: task.global_tid(),
        uid: credentials.user_ns.show_uid(credentials.uid),
        gid: credentials.user_ns.show_gid(credentials.gid),
        signal: info.signal.number(),
        seconds: crate::time::realtime() / 1_000_000_000,
        host: task.namespaces().uts.names().host.into_bytes(),
        comm: comm.split(|b| *b == 0).next().unwrap_or_default().to_vec(),
        exe,
        limit,
    };
    let path = expand(&pattern(), &names, USES_PID.load(Ordering::Relaxed) != 0);
    let walk = Walk { subject: Subject::of(&credentials), root: fs.root(), task: Some(task) };
    // What has that name goes, so that nobody is made write to what is not the process's own.
    if let Ok(parent) = walk.parent(&fs.cwd(), &path) {
        let _ = ops::unlink(&walk.subject, &parent); // what cannot go is found by the next step
    }
    let flags =
        OpenFlags::CREAT | OpenFlags::EXCL | OpenFlags::from_bits_truncate(O_RDWR) | OpenFlags::NOFOLLOW;
    let file = open::open(&walk, &fs.cwd(), &path, flags, 0o600 & !fs.umask(), WalkFlags::empty())?;
    if file.kind() != FileType::Regular {
        return Err(Errno::EPERM);
    }
    core_file::write(&mut Output { task, file, limit, at: 0, written: 0 }, info, threads)
}

const O_RDWR: u32 = 2;

/// The file, written from its beginning on, up to the limit, for which holes do not count.
pub(super) struct Output<'a> {
    pub task: &'a TaskRef,
    file: FileRef,
    limit: u64,
    written: u64,
    at: u64,
}

impl Output<'_> {
    /// Adds bytes. `EFBIG`: there is no more room.
    pub fn put(&mut self, mut bytes: &[u8]) -> Result<()> {
        self.written = self.written.saturating_add(bytes.len() as u64);
        if self.written > self.limit {
            return Err(Errno::EFBIG);
        }
        while !bytes.is_empty() {
            let n = self.file.write_at(self.task, self.at, &mut Source::kernel(bytes))?;
            if n == 0 {
                return Err(Errno::EIO);
            }
            self.at += n as u64;
            bytes = bytes.get(n..).unwrap_or_default();
        }
        Ok(())
    }

    /// Leaves a hole.
    pub fn skip_to(&mut self, at: u64) {
        self.at = at;
    }

    /// The file has its full length, also if it ends in a hole.
    pub fn finish(&mut self) -> Result<()> {
        if self.file.metadata().size < self.at { self.file.truncate(self.task, self.at) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_name_files() {
        let names = Names {
            pid: 7,
            global_pid: 70,
            tid: 8,
            global_tid: 80,
            uid: 1,
            gid: 2,
            signal: 11,
            seconds: 99,
            host: b"box".to_vec(),
            comm: b"a/b".to_vec(),
            exe: b"/usr/bin/prog".to_vec(),
            limit: u64::MAX,
        };
        let is = |pattern: &[u8], uses_pid, want: &[u8]| assert_eq!(expand(pattern, &names, uses_pid), want);
        is(b"core", false, b"core");
        is(b"core", true, b"core.7");
        is(b"core.%p", true, b"core.7");
        is(b"/tmp/%e-%E-%f.%s", false, b"/tmp/a!b-!usr!bin!prog-prog.11");
        is(b"%P %i %I %u %g %d %t %h %c", false, b"70 8 80 1 2 1 99 box 18446744073709551615");
        is(b"100%%%z%", false, b"100%");
    }
}
