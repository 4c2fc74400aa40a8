//! sendfile and copy_file_range: copies within the kernel, through a buffer of a few pages.

use alloc::{sync::Arc, vec, vec::Vec};

use crate::{
    TaskRef,
    errno::{Errno, Result},
    fs::{FileRef, FileType, OpenFlags},
    io::{MAX_RW_COUNT, Sink, Source},
    sched,
    syscall::{Ctx, Fd, Syscall, UserPtr},
    syscalls,
};

const BUFFER: usize = 32 * 1024;

/// One end of a copy: a file, and a position of its own or the file's.
struct End<'a> {
    file: &'a FileRef,
    offset: Option<u64>,
}

impl End<'_> {
    fn read(&mut self, task: &TaskRef, buf: &mut [u8]) -> Result {
        let mut sink = Sink::kernel(buf);
        match &mut self.offset {
            None => self.file.read(task, &mut sink),
            Some(at) => {
                let n = self.file.read_at(task, *at, &mut sink)?;
                *at = at.saturating_add(n as u64);
                Ok(n)
            }
        }
    }

    fn write(&mut self, task: &TaskRef, bytes: &[u8]) -> Result {
        let mut source = Source::kernel(bytes);
        match &mut self.offset {
            None => self.file.write(task, &mut source),
            Some(at) => {
                let n = self.file.write_at(task, *at, &mut source)?;
                *at = at.saturating_add(n as u64);
                Ok(n)
            }
        }
    }

    /// Goes back over `n` bytes that were read but not written.
    fn unread(&mut self, n: usize) {
        match &mut self.offset {
            None => self.file.with_position(|at| *at = at.saturating_sub(n as u64)),
            Some(at) => *at = at.saturating_sub(n as u64),
        }
    }
}

fn copy(task: &TaskRef, from: &mut End<'_>, to: &mut End<'_>, count: usize) -> Result {
    let count = count.min(MAX_RW_COUNT);
    let mut buf: Vec<u8> = vec![0; BUFFER.min(count)];
    let mut done = 0;
    while done < count {
        let want = buf.len().min(count - done);
        let n = match from.read(task, buf.get_mut(..want).unwrap_or_default()) {
            Ok(0) => break,
            Ok(n) => n,
            Err(_) if done > 0 => break,
            Err(e) => return Err(e),
        };
        let written = match to.write(task, buf.get(..n).unwrap_or_default()) {
            Ok(w) => w,
            Err(e) => {
                from.unread(n);
                if done > 0 {
                    break;
                }
                return Err(e);
            }
        };
        done += written;
        if written < n {
            from.unread(n - written);
            break;
        }
        sched::preempt_point(task);
    }
    Ok(done)
}

fn read_offset(offset: UserPtr<i64>) -> Result<Option<u64>> {
    match offset.non_null() {
        None => Ok(None),
        Some(p) => u64::try_from(p.read()?).map(Some).map_err(|_| Errno::EINVAL),
    }
}

fn write_offset(offset: UserPtr<i64>, end: &End<'_>) -> Result<()> {
    match end.offset {
        Some(at) => offset.write_opt(&(at as i64)),
        None => Ok(()),
    }
}

/// From what sendfile reads, and what it is to write.
fn ends_of_send(ctx: &Ctx<'_>, out_fd: Fd, in_fd: Fd, start: Option<i64>) -> Result<(FileRef, FileRef)> {
    let files = ctx.task.files()?;
    let input = files.get(in_fd.0)?;
    if !input.flags().readable() {
        return Err(Errno::EBADF);
    }
    match start {
        Some(_) if !input.seekable() => return Err(Errno::ESPIPE),
        Some(..0) => return Err(Errno::EINVAL),
        _ => {}
    }
    let output = files.get(out_fd.0)?;
    if !output.flags().writable() {
        return Err(Errno::EBADF);
    }
    let has_pages = matches!(input.kind(), FileType::Regular | FileType::BlockDevice) && input.seekable();
    if !has_pages || output.flags().contains(OpenFlags::APPEND) {
        return Err(Errno::EINVAL);
    }
    Ok((input, output))
}

fn sendfile(ctx: &mut Ctx<'_>, out_fd: Fd, in_fd: Fd, offset: UserPtr<i64>, count: usize) -> Result {
    let mut start = offset.non_null().map(|p| p.read()).transpose()?;
    let result = ends_of_send(ctx, out_fd, in_fd, start).and_then(|(input, output)| {
        let mut from = End { file: &input, offset: start.map(i64::cast_unsigned) };
        let result = copy(ctx.task, &mut from, &mut End { file: &output, offset: None }, count);
        start = from.offset.map(u64::cast_signed);
        result
    });
    // Also after an error.
    if let Some(start) = start {
        offset.write(&start)?;
    }
    result
}

fn copy_file_range(
    ctx: &mut Ctx<'_>,
    in_fd: Fd,
    in_offset: UserPtr<i64>,
    out_fd: Fd,
    out_offset: UserPtr<i64>,
    count: usize,
    flags: u32,
) -> Result {
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let files = ctx.task.files()?;
    let (input, output) = (files.get(in_fd.0)?, files.get(out_fd.0)?);
    for file in [&input, &output] {
        match file.kind() {
            FileType::Regular => {}
            FileType::Directory => return Err(Errno::EISDIR),
            _ => return Err(Errno::EINVAL),
        }
    }
    if !input.flags().readable() || !output.flags().writable() || output.flags().contains(OpenFlags::APPEND) {
        return Err(Errno::EBADF);
    }
    // From one file system to another is for the program to do.
    if !Arc::ptr_eq(input.path().mount().superblock(), output.path().mount().superblock()) {
        return Err(Errno::EXDEV);
    }
    let mut from = End { file: &input, offset: read_offset(in_offset)? };
    let mut to = End { file: &output, offset: read_offset(out_offset)? };
    if input.inode().ino() == output.inode().ino() && input.metadata().dev == output.metadata().dev {
        let a = from.offset.unwrap_or_else(|| input.position());
        let b = to.offset.unwrap_or_else(|| output.position());
        let len = (count as u64).min(input.inode().size().saturating_sub(a));
        if a < b.saturating_add(len) && b < a.saturating_add(len) {
            return Err(Errno::EINVAL);
        }
    }
    let n = copy(ctx.task, &mut from, &mut to, count)?;
    write_offset(in_offset, &from)?;
    write_offset(out_offset, &to)?;
    Ok(n)
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    40 sendfile(out_fd: Fd, in_fd: Fd, offset: UserPtr<i64>, count: usize) Full "";
    326 copy_file_range(in_fd: Fd, in_offset: UserPtr<i64>, out_fd: Fd, out_offset: UserPtr<i64>, count: usize, flags: u32) Full "";
};
