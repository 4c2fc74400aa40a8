//! splice, tee, vmsplice (their manual pages): moving pages through pipes.
//!
//! What Linux does: pages go by reference between a pipe and a file, another pipe or user memory. What we do:
//! between two pipes they go by reference, too; from and to files and user memory bytes are copied once into or
//! out of the pipe's pages, because a page of the cache may be mapped straight from the image and must not be
//! held by a pipe. A program cannot tell, but by changing pages it has given away, which the manual forbids.
//!
//! Each call moves what is there and returns: it waits only while it could move nothing.
//!
//! Lock order: of two pipes' rings the one at the lower address first. No ring is locked while a file is read or
//! written.

use alloc::{sync::Arc, vec};

use ringfence_hal::PAGE_SIZE;

use super::{Pipe, PipeEnd};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    fs::{
        FileRef, FileType, OpenFlags,
        sys::{IoVec, read_iovec},
    },
    io::{MAX_RW_COUNT, Sink, Source},
    sched,
    syscall::{Ctx, Fd, Syscall, UserPtr},
    syscalls,
};

/// `SPLICE_F_NONBLOCK`.
const NONBLOCK: u32 = 2;
/// `SPLICE_F_MOVE`, `NONBLOCK`, `MORE`, `GIFT`.
const FLAGS: u32 = 0xf;

/// Bytes read from a file at a time.
const CHUNK: usize = 16 * PAGE_SIZE;

fn pipe_of(file: &FileRef) -> Option<Arc<Pipe>> {
    Some(file.downcast::<PipeEnd>()?.pipe.clone())
}

/// Runs `f` on both rings, locked in order.
fn move_between(from: &Pipe, to: &Pipe, max: usize, keep: bool) -> Result {
    if core::ptr::from_ref(from) < core::ptr::from_ref(to) {
        from.change(|a| to.change(|b| a.hand_over(b, max, keep)))
    } else {
        to.change(|b| from.change(|a| a.hand_over(b, max, keep)))
    }
}

fn pipe_to_pipe(
    task: &TaskRef,
    from: &Arc<Pipe>,
    to: &Arc<Pipe>,
    len: usize,
    nonblocking: bool,
    keep: bool,
) -> Result {
    if Arc::ptr_eq(from, to) {
        return Err(Errno::EINVAL);
    }
    loop {
        // As on Linux, the end of the input does not save a writer without readers.
        let more = from.wait_readable(task, nonblocking)?;
        to.wait_writable(task, nonblocking)?;
        if !more {
            return Ok(0);
        }
        let n = move_between(from, to, len, keep)?;
        if n > 0 {
            return Ok(n);
        }
    }
}

/// Where in a file; `None` is the file's own position.
type Offset = Option<u64>;

fn read_offset(at: UserPtr<i64>) -> Result<Offset> {
    match at.non_null() {
        None => Ok(None),
        Some(at) => u64::try_from(at.read()?).map(Some).map_err(|_| Errno::EINVAL),
    }
}

fn pipe_to_file(
    task: &TaskRef,
    from: &Pipe,
    file: &FileRef,
    offset: &mut Offset,
    len: usize,
    nonblocking: bool,
) -> Result {
    let mut done = 0;
    while done < len {
        if (done > 0 && from.is_empty()) || !from.wait_readable(task, nonblocking)? {
            break;
        }
        let bytes = from.change(|ring| ring.take((len - done).min(PAGE_SIZE)))?;
        let mut source = Source::kernel(&bytes);
        let result = match offset {
            None => file.write(task, &mut source),
            Some(at) => file.write_at(task, *at, &mut source),
        };
        let n = result.unwrap_or(0);
        if let Some(rest) = bytes.get(n..).filter(|rest| !rest.is_empty()) {
            from.change(|ring| ring.put_back(rest))?;
        }
        done += n;
        if let Some(at) = offset {
            *at = at.saturating_add(n as u64);
        }
        match result {
            Err(e) if done == 0 => return Err(e),
            Ok(n) if n == bytes.len() => {}
            _ => break,
        }
        sched::preempt_point(task);
    }
    Ok(done)
}

/// Whether a file can be spliced from or to: what is a sequence of bytes, not a record of the kernel's.
fn spliceable(file: &FileRef) -> bool {
    match file.kind() {
        FileType::Regular => file.seekable(),
        FileType::Socket | FileType::CharDevice => true,
        _ => false,
    }
}

fn file_to_pipe(
    task: &TaskRef,
    file: &FileRef,
    offset: &mut Offset,
    to: &Pipe,
    len: usize,
    nonblocking: bool,
) -> Result {
    to.wait_writable(task, nonblocking)?;
    let room = to.change(|ring| ring.room());
    let len = len.min(room.max(1) * PAGE_SIZE);
    let mut buf = vec![0; len.min(CHUNK)];
    let mut done = 0;
    while done < len {
        let want = buf.len().min(len - done);
        let mut sink = Sink::kernel(buf.get_mut(..want).unwrap_or_default());
        let result = match offset {
            None => file.read(task, &mut sink),
            Some(at) => file.read_at(task, *at, &mut sink),
        };
        let n = match result {
            Ok(n) => n,
            Err(_) if done > 0 => break,
            Err(e) => return Err(e),
        };
        if let Some(at) = offset {
            *at = at.saturating_add(n as u64);
        }
        push_all(task, to, buf.get(..n).unwrap_or_default())?;
        done += n;
        if n < want || !file.seekable() {
            break;
        }
        sched::preempt_point(task);
    }
    Ok(done)
}

/// Puts bytes that were read already into the pipe, however full others have made it meanwhile.
fn push_all(task: &TaskRef, to: &Pipe, bytes: &[u8]) -> Result<()> {
    let mut source = Source::kernel(bytes);
    while source.remaining() > 0 {
        if to.try_write(&mut source, false)? == 0 {
            to.wait_writable(task, false)?;
        }
    }
    Ok(())
}

fn splice(
    ctx: &mut Ctx<'_>,
    fd_in: Fd,
    off_in: UserPtr<i64>,
    fd_out: Fd,
    off_out: UserPtr<i64>,
    len: usize,
    flags: u32,
) -> Result {
    if len == 0 {
        return Ok(0);
    }
    if flags & !FLAGS != 0 {
        return Err(Errno::EINVAL);
    }
    let files = ctx.task.files()?;
    let (input, output) = (files.get(fd_in.0)?, files.get(fd_out.0)?);
    if !input.flags().readable() || !output.flags().writable() {
        return Err(Errno::EBADF);
    }
    let len = len.min(MAX_RW_COUNT);
    let wait = flags & NONBLOCK == 0;
    match (pipe_of(&input), pipe_of(&output)) {
        (Some(from), Some(to)) => {
            if !off_in.is_null() || !off_out.is_null() {
                return Err(Errno::ESPIPE);
            }
            let nonblocking = !wait || input.nonblocking() || output.nonblocking();
            pipe_to_pipe(ctx.task, &from, &to, len, nonblocking, false)
        }
        (Some(from), None) => {
            check_file_end(&output, off_in, off_out)?;
            if output.flags().contains(OpenFlags::APPEND) {
                return Err(Errno::EINVAL);
            }
            let mut offset = read_offset(off_out)?;
            let n = pipe_to_file(ctx.task, &from, &output, &mut offset, len, !wait || input.nonblocking())?;
            write_offset(off_out, offset)?;
            Ok(n)
        }
        (None, Some(to)) => {
            check_file_end(&input, off_out, off_in)?;
            let mut offset = read_offset(off_in)?;
            let n = file_to_pipe(ctx.task, &input, &mut offset, &to, len, !wait || output.nonblocking())?;
            write_offset(off_in, offset)?;
            Ok(n)
        }
        (None, None) => Err(Errno::EINVAL),
    }
}

fn check_file_end(file: &FileRef, pipe_offset: UserPtr<i64>, offset: UserPtr<i64>) -> Result<()> {
    if !pipe_offset.is_null() {
        return Err(Errno::ESPIPE);
    }
    if !spliceable(file) || (!offset.is_null() && !file.seekable()) {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

fn write_offset(at: UserPtr<i64>, offset: Offset) -> Result<()> {
    match offset {
        Some(offset) => at.write_opt(&(offset as i64)),
        None => Ok(()),
    }
}

fn tee(ctx: &mut Ctx<'_>, fd_in: Fd, fd_out: Fd, len: usize, flags: u32) -> Result {
    if flags & !FLAGS != 0 {
        return Err(Errno::EINVAL);
    }
    if len == 0 {
        return Ok(0);
    }
    let files = ctx.task.files()?;
    let (input, output) = (files.get(fd_in.0)?, files.get(fd_out.0)?);
    if !input.flags().readable() || !output.flags().writable() {
        return Err(Errno::EBADF);
    }
    let (Some(from), Some(to)) = (pipe_of(&input), pipe_of(&output)) else { return Err(Errno::EINVAL) };
    let nonblocking = flags & NONBLOCK != 0 || input.nonblocking() || output.nonblocking();
    pipe_to_pipe(ctx.task, &from, &to, len.min(MAX_RW_COUNT), nonblocking, true)
}

fn vmsplice(ctx: &mut Ctx<'_>, fd: Fd, vector: UserPtr<IoVec>, count: usize, flags: u32) -> Result {
    if flags & !FLAGS != 0 {
        return Err(Errno::EINVAL);
    }
    let file = ctx.task.files()?.get(fd.0)?;
    let pipe = pipe_of(&file).ok_or(Errno::EBADF)?;
    let segments = read_iovec(vector, count)?;
    let nonblocking = flags & NONBLOCK != 0;
    if file.flags().writable() {
        let mut source = Source::segments(segments);
        let mut done = 0;
        // As much as there is room for now; waits only for the first page.
        while source.remaining() > 0 && (done == 0 || !pipe.is_full()) {
            match pipe.wait_writable(ctx.task, nonblocking).and_then(|()| pipe.try_write(&mut source, false))
            {
                Ok(n) => done += n,
                Err(_) if done > 0 => break,
                Err(e) => return Err(e),
            }
        }
        return Ok(done);
    }
    let mut sink = Sink::segments(segments);
    if sink.remaining() == 0 || !pipe.wait_readable(ctx.task, nonblocking)? {
        return Ok(0);
    }
    pipe.try_read(&mut sink)
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    275 splice(fd_in: Fd, off_in: UserPtr<i64>, fd_out: Fd, off_out: UserPtr<i64>, len: usize, flags: u32) Full "";
    276 tee(fd_in: Fd, fd_out: Fd, len: usize, flags: u32) Full "";
    278 vmsplice(fd: Fd, iov: UserPtr<IoVec>, nr_segs: usize, flags: u32) Full "copies instead of giving pages away";
};
