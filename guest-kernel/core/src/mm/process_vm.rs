//! `process_vm_readv` and `process_vm_writev`: copying between the caller's memory and that of another process,
//! through a buffer of one page.

use alloc::{sync::Arc, vec::Vec};

use super::{
    Mm, PAGE_SIZE,
    advise::{Advice, advice_range},
    oom,
};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    fs::{
        pidfd,
        sys::{IoVec, read_iovec},
    },
    io::{Segments, Sink, Source},
    ptrace, sched,
    syscall::{Ctx, Fd, Syscall, UserPtr},
    syscalls,
    task::Capabilities,
};

/// The memory of the process `pid`, if the caller might trace it.
pub(super) fn target(task: &TaskRef, pid: i32) -> Result<Arc<Mm>> {
    memory_of(task, &task.pids().task(pid)?)
}

fn memory_of(task: &TaskRef, other: &TaskRef) -> Result<Arc<Mm>> {
    ptrace::check_access(task, other, ptrace::AccessMode::Real)?;
    other.mm()
}

/// Runs `copy(address, chunk)` over the remote ranges, at most a page at a time and `limit` bytes in all, until it
/// fails or copies less. The result is the number of bytes copied, or the error if there are none.
fn each_chunk(
    task: &TaskRef,
    remote: &Segments,
    limit: usize,
    mut copy: impl FnMut(u64, &mut [u8]) -> Result,
) -> Result {
    let mut buffer: Vec<u8> = alloc::vec![0; PAGE_SIZE as usize];
    let mut done = 0;
    for segment in remote {
        let mut at = segment.addr;
        let mut left = segment.len.min(limit - done);
        while left > 0 {
            let to_page_end = (PAGE_SIZE - at % PAGE_SIZE) as usize;
            let n = left.min(to_page_end);
            match copy(at, buffer.get_mut(..n).unwrap_or_default()) {
                Ok(copied) if copied == n => {}
                Ok(copied) => return Ok(done + copied),
                Err(e) if done == 0 => return Err(e),
                Err(_) => return Ok(done),
            }
            done += n;
            left -= n;
            at = at.checked_add(n as u64).ok_or(Errno::EFAULT)?;
            sched::preempt_point(task);
        }
    }
    Ok(done)
}

fn process_vm_readv(
    ctx: &mut Ctx<'_>,
    pid: i32,
    local: UserPtr<IoVec>,
    local_count: usize,
    remote: UserPtr<IoVec>,
    remote_count: usize,
    flags: u64,
) -> Result {
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let mut sink = Sink::segments(read_iovec(local, local_count)?);
    let remote = read_iovec(remote, remote_count)?;
    let mm = target(ctx.task, pid)?;
    each_chunk(ctx.task, &remote, sink.remaining(), |at, chunk| {
        let n = mm.read_remote(at, chunk, false)?;
        sink.put(chunk.get(..n).unwrap_or_default())?;
        Ok(n)
    })
}

fn process_vm_writev(
    ctx: &mut Ctx<'_>,
    pid: i32,
    local: UserPtr<IoVec>,
    local_count: usize,
    remote: UserPtr<IoVec>,
    remote_count: usize,
    flags: u64,
) -> Result {
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let mut source = Source::segments(read_iovec(local, local_count)?);
    let remote = read_iovec(remote, remote_count)?;
    let mm = target(ctx.task, pid)?;
    each_chunk(ctx.task, &remote, source.remaining(), |at, chunk| {
        source.take(chunk)?;
        mm.write_remote(at, chunk, false)
    })
}

fn process_madvise(
    ctx: &mut Ctx<'_>,
    fd: Fd,
    ranges: UserPtr<IoVec>,
    count: usize,
    advice: i32,
    flags: u32,
) -> Result {
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let ranges = read_iovec(ranges, count)?;
    let (process, _) = pidfd::process_of(ctx.task, fd.0)?;
    let other = process.threads().into_iter().next().ok_or(Errno::ESRCH)?;
    let advice = Advice::from_raw(advice)?;
    // Only what cannot change what the other process sees.
    if !matches!(advice, Advice::Age | Advice::Hint) {
        return Err(Errno::EINVAL);
    }
    let mm = memory_of(ctx.task, &other).map_err(|e| if e == Errno::EPERM { e } else { Errno::ESRCH })?;
    if !ctx.task.credentials().capable(Capabilities::SYS_NICE) {
        return Err(Errno::EPERM);
    }
    let mut done = 0;
    for segment in &ranges {
        let advised = advice_range(segment.addr, segment.len as u64)
            .and_then(|range| range.map_or(Ok(()), |range| mm.advise(range, advice, &mut || true)));
        match advised {
            Ok(()) => done += segment.len,
            Err(e) if done == 0 => return Err(e),
            Err(_) => break,
        }
    }
    Ok(done)
}

/// Takes the memory of a process that is being killed away at once.
fn process_mrelease(ctx: &mut Ctx<'_>, fd: Fd, flags: u32) -> Result {
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let (process, _) = pidfd::process_of(ctx.task, fd.0)?;
    if process.threads().is_empty() {
        return Err(Errno::ESRCH);
    }
    if !process.is_exiting() {
        return Err(Errno::EINVAL);
    }
    oom::reap(ctx.task, &process);
    Ok(0)
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    310 process_vm_readv(pid: i32, local_iov: UserPtr<IoVec>, liovcnt: usize, remote_iov: UserPtr<IoVec>, riovcnt: usize, flags: u64) Full "";
    311 process_vm_writev(pid: i32, local_iov: UserPtr<IoVec>, liovcnt: usize, remote_iov: UserPtr<IoVec>, riovcnt: usize, flags: u64) Full "";
    440 process_madvise(pidfd: Fd, iovec: UserPtr<IoVec>, vlen: usize, advice: i32, flags: u32) Full "";
    448 process_mrelease(pidfd: Fd, flags: u32) Full "";
};
