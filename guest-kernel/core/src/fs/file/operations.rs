//! What an open file does that is not just its inode's content.

use alloc::{string::String, sync::Arc, vec::Vec};
use core::any::Any;

use super::OpenFile;
use crate::{
    TaskRef,
    errno::{Errno, Result},
    fs::OpenFlags,
    io::{Sink, Source},
    mm::Mappable,
    sync::{PollEvents, PollTable, Queue},
};

/// An open instance with behaviour of its own.
///
/// Streams implement [`File::read`] and [`File::write`]; what has positions says so by [`File::seekable`] and
/// implements [`File::read_at`] and [`File::write_at`] (then `read` and `write` come for free).
/// Blocking: wait on a `WaitQueue` of `task` unless `file.nonblocking()`, then `EAGAIN`.
#[allow(unused_variables)]
pub trait File: Any + Send + Sync {
    /// Puts what is there into `sink`; blocks while there is nothing. 0 is the end.
    fn read(&self, file: &OpenFile, task: &TaskRef, sink: &mut Sink<'_>) -> Result {
        if !self.seekable() {
            return Err(Errno::EINVAL);
        }
        let mut position = file.position.lock();
        let n = self.read_at(file, task, *position, sink)?;
        *position = position.saturating_add(n as u64);
        Ok(n)
    }

    /// Takes bytes out of `source`; blocks while there is no room.
    fn write(&self, file: &OpenFile, task: &TaskRef, source: &mut Source<'_>) -> Result {
        if !self.seekable() {
            return Err(Errno::EINVAL);
        }
        let mut position = file.position.lock();
        let n = self.write_at(file, task, *position, source)?;
        *position = position.saturating_add(n as u64);
        Ok(n)
    }

    /// Whether `lseek`, `pread` and `pwrite` work; else they are `ESPIPE`.
    fn seekable(&self) -> bool {
        false
    }

    /// Whether `lseek` of what has no position does nothing, instead of failing.
    fn seek_ignored(&self) -> bool {
        false
    }

    /// Reads at a position.
    fn read_at(&self, file: &OpenFile, task: &TaskRef, offset: u64, sink: &mut Sink<'_>) -> Result {
        Err(Errno::EINVAL)
    }

    /// Writes at a position.
    fn write_at(&self, file: &OpenFile, task: &TaskRef, offset: u64, source: &mut Source<'_>) -> Result {
        Err(Errno::EINVAL)
    }

    /// What `SEEK_END` counts from.
    fn size(&self, file: &OpenFile) -> u64 {
        file.inode().size()
    }

    /// What the file is ready for now; registers the queues whose wake-up may change the answer.
    fn poll(&self, table: Option<&mut PollTable>) -> PollEvents {
        PollEvents::IN | PollEvents::OUT | PollEvents::RDNORM | PollEvents::WRNORM
    }

    /// Whether epoll accepts it. False for what is always ready.
    fn pollable(&self) -> bool {
        true
    }

    /// `ioctl` commands the VFS does not answer itself (it does FIONBIO, FIOCLEX, FIONCLEX, FIOASYNC). `ENOTTY`.
    fn ioctl(&self, file: &OpenFile, task: &TaskRef, command: u32, arg: u64) -> Result {
        Err(Errno::ENOTTY)
    }

    /// The pages for `mmap`. `None`: cannot be mapped.
    fn mappable(&self) -> Option<Arc<dyn Mappable>> {
        None
    }

    /// Makes what was written durable. `EINVAL` for what is not stored.
    fn fsync(&self, file: &OpenFile, task: &TaskRef, data_only: bool) -> Result<()> {
        Err(Errno::EINVAL)
    }

    /// `F_GETPIPE_SZ`, and `F_SETPIPE_SZ` with a new size in bytes. `EBADF` for what is not a pipe.
    fn pipe_size(&self, task: &TaskRef, new: Option<u64>) -> Result {
        Err(Errno::EBADF)
    }

    /// The queues whose wake-ups are signalled with `O_ASYNC`, each with the events that are. `None`: it cannot.
    fn async_queues(&self) -> Option<Vec<(Queue, PollEvents)>> {
        None
    }

    /// Called once, when the last reference goes.
    fn release(&self, flags: OpenFlags) {}

    /// A line or more for `/proc/PID/fdinfo`, after the common ones.
    fn fdinfo(&self) -> String {
        String::new()
    }
}
