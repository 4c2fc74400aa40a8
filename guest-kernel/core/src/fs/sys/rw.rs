//! read, write and their positional and vectored kin.

use smallvec::SmallVec;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{
    errno::{Errno, Result},
    fs::{FileRef, types::OpenFlags},
    io::{IOV_MAX, Segment, Segments, Sink, Source},
    syscall::{Ctx, Fd, Syscall, UserAddr, UserPtr},
    syscalls,
};

/// `struct iovec`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct IoVec {
    pub(crate) base: u64,
    pub(crate) len: u64,
}

/// Copies a vector in. `EINVAL` for too many or a negative length.
pub(crate) fn read_iovec(vector: UserPtr<IoVec>, count: usize) -> Result<Segments> {
    if count > IOV_MAX {
        return Err(Errno::EINVAL);
    }
    let mut segments: Segments = SmallVec::with_capacity(count);
    for i in 0..count {
        let IoVec { base, len } = vector.index(i).read()?;
        let len = isize::try_from(len).map_err(|_| Errno::EINVAL)?;
        segments.push(Segment { addr: base, len: len as usize });
    }
    Ok(segments)
}

fn file(ctx: &Ctx<'_>, fd: Fd) -> Result<FileRef> {
    ctx.task.files()?.get(fd.0)
}

fn positive(count: usize) -> Result<usize> {
    if isize::try_from(count).is_ok() { Ok(count) } else { Err(Errno::EINVAL) }
}

fn offset(offset: i64) -> Result<u64> {
    u64::try_from(offset).map_err(|_| Errno::EINVAL)
}

fn read(ctx: &mut Ctx<'_>, fd: Fd, buf: UserAddr, count: usize) -> Result {
    let file = file(ctx, fd)?;
    file.read(ctx.task, &mut Sink::user(buf.0, positive(count)?))
}

fn write(ctx: &mut Ctx<'_>, fd: Fd, buf: UserAddr, count: usize) -> Result {
    let file = file(ctx, fd)?;
    file.write(ctx.task, &mut Source::user(buf.0, positive(count)?))
}

fn pread64(ctx: &mut Ctx<'_>, fd: Fd, buf: UserAddr, count: usize, pos: i64) -> Result {
    let pos = offset(pos)?;
    file(ctx, fd)?.read_at(ctx.task, pos, &mut Sink::user(buf.0, positive(count)?))
}

fn pwrite64(ctx: &mut Ctx<'_>, fd: Fd, buf: UserAddr, count: usize, pos: i64) -> Result {
    let pos = offset(pos)?;
    file(ctx, fd)?.write_at(ctx.task, pos, &mut Source::user(buf.0, positive(count)?))
}

fn readv(ctx: &mut Ctx<'_>, fd: Fd, vector: UserPtr<IoVec>, count: usize) -> Result {
    let file = file(ctx, fd)?;
    let segments = read_iovec(vector, count)?;
    if is_nothing(&segments) && file.flags().readable() {
        return Ok(0);
    }
    file.read(ctx.task, &mut Sink::segments(segments))
}

/// No bytes: not even asked for, other than by a plain read or write.
fn is_nothing(segments: &Segments) -> bool {
    segments.iter().all(|s| s.len == 0)
}

fn writev(ctx: &mut Ctx<'_>, fd: Fd, vector: UserPtr<IoVec>, count: usize) -> Result {
    let file = file(ctx, fd)?;
    let segments = read_iovec(vector, count)?;
    if is_nothing(&segments) && file.flags().writable() {
        return Ok(0);
    }
    file.write(ctx.task, &mut Source::segments(segments))
}

fn preadv(ctx: &mut Ctx<'_>, fd: Fd, vector: UserPtr<IoVec>, count: usize, low: i64, _high: u64) -> Result {
    let pos = offset(low)?;
    file(ctx, fd)?.read_at(ctx.task, pos, &mut Sink::segments(read_iovec(vector, count)?))
}

fn pwritev(ctx: &mut Ctx<'_>, fd: Fd, vector: UserPtr<IoVec>, count: usize, low: i64, _high: u64) -> Result {
    let pos = offset(low)?;
    file(ctx, fd)?.write_at(ctx.task, pos, &mut Source::segments(read_iovec(vector, count)?))
}

/// `RWF_HIPRI | RWF_DSYNC | RWF_SYNC`: hints, and promises that hold for memory anyway.
const RWF_GIVEN: u32 = 1 | 2 | 4;
/// `RWF_NOWAIT`: allowed on what never blocks.
const RWF_NOWAIT: u32 = 8;

fn check_rwf(file: &FileRef, flags: u32) -> Result<()> {
    let nowait_ok = !file.pollable() || file.flags().contains(OpenFlags::NONBLOCK);
    match flags & !RWF_GIVEN {
        0 => Ok(()),
        RWF_NOWAIT if nowait_ok => Ok(()),
        _ => Err(Errno::EOPNOTSUPP),
    }
}

fn preadv2(
    ctx: &mut Ctx<'_>,
    fd: Fd,
    vector: UserPtr<IoVec>,
    count: usize,
    low: i64,
    high: u64,
    flags: u32,
) -> Result {
    check_rwf(&file(ctx, fd)?, flags)?;
    if low == -1 { readv(ctx, fd, vector, count) } else { preadv(ctx, fd, vector, count, low, high) }
}

fn pwritev2(
    ctx: &mut Ctx<'_>,
    fd: Fd,
    vector: UserPtr<IoVec>,
    count: usize,
    low: i64,
    high: u64,
    flags: u32,
) -> Result {
    check_rwf(&file(ctx, fd)?, flags)?;
    if low == -1 { writev(ctx, fd, vector, count) } else { pwritev(ctx, fd, vector, count, low, high) }
}

fn lseek(ctx: &mut Ctx<'_>, fd: Fd, offset: i64, whence: u32) -> Result {
    Ok(file(ctx, fd)?.seek(offset, whence)? as usize)
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    0 read(fd: Fd, buf: UserAddr, count: usize) Full "";
    1 write(fd: Fd, buf: UserAddr, count: usize) Full "";
    8 lseek(fd: Fd, offset: i64, whence: u32) Full "";
    17 pread64(fd: Fd, buf: UserAddr, count: usize, pos: i64) Full "";
    18 pwrite64(fd: Fd, buf: UserAddr, count: usize, pos: i64) Full "";
    19 readv(fd: Fd, vector: UserPtr<IoVec>, count: usize) Full "";
    20 writev(fd: Fd, vector: UserPtr<IoVec>, count: usize) Full "";
    295 preadv(fd: Fd, vector: UserPtr<IoVec>, count: usize, low: i64, high: u64) Full "";
    296 pwritev(fd: Fd, vector: UserPtr<IoVec>, count: usize, low: i64, high: u64) Full "";
    327 preadv2(fd: Fd, vector: UserPtr<IoVec>, count: usize, low: i64, high: u64, flags: u32) Partial "RWF_NOWAIT only where nothing blocks";
    328 pwritev2(fd: Fd, vector: UserPtr<IoVec>, count: usize, low: i64, high: u64, flags: u32) Partial "no RWF_APPEND; RWF_NOWAIT only where nothing blocks";
};
