//! A stream as a program's standard input, output or error: what it would be natively, one end of a pipe.

use alloc::{boxed::Box, sync::Arc};

use super::Stream;
use crate::{
    TaskRef,
    errno::{Errno, Result},
    fs::{AnonInode, File, FileRef, FileType, OpenFile, OpenFlags},
    io::{Sink, Source},
    signal::{self, SigInfo, Signal, types::code},
    sync::{PollEvents, PollTable},
    syscall::UserPtr,
};

/// `FIONREAD`.
const FIONREAD: u32 = 0x541b;

/// One end of a pipe to the host.
pub struct StreamFile {
    stream: Arc<Stream>,
    output: bool,
}

impl StreamFile {
    /// The reading end of `stream`.
    pub fn input(stream: Arc<Stream>) -> FileRef {
        Self::open(stream, false, OpenFlags::empty())
    }

    /// The writing end of `stream`.
    pub fn output(stream: Arc<Stream>) -> FileRef {
        Self::open(stream, true, OpenFlags::WRONLY)
    }

    fn open(stream: Arc<Stream>, output: bool, flags: OpenFlags) -> FileRef {
        let file = Arc::new(StreamFile { stream, output });
        let weak = Arc::downgrade(&file);
        let reopen = move |flags: OpenFlags| {
            let file: Arc<dyn File> = weak.upgrade().filter(|file| file.allows(flags))?;
            Some(file)
        };
        AnonInode::new(FileType::Fifo, 0o600, 0, 0).with_reopen(Box::new(reopen)).open(
            file,
            "pipe:[{}]",
            flags,
        )
    }

    /// Whether an open with `flags` asks for no more than this end is good for.
    fn allows(&self, flags: OpenFlags) -> bool {
        if self.output { !flags.readable() } else { !flags.writable() }
    }
}

impl File for StreamFile {
    fn read(&self, file: &OpenFile, task: &TaskRef, sink: &mut Sink<'_>) -> Result {
        self.stream.read(task, file.nonblocking(), sink)
    }

    fn write(&self, file: &OpenFile, task: &TaskRef, source: &mut Source<'_>) -> Result {
        let result = self.stream.write(task, file.nonblocking(), source);
        if result == Err(Errno::EPIPE) {
            let info = SigInfo::user(Signal::PIPE, code::SI_USER, task.process().pid, task.credentials().uid);
            signal::send_to_task(task, info)?;
        }
        result
    }

    fn poll(&self, table: Option<&mut PollTable>) -> PollEvents {
        let relevant = if self.output {
            PollEvents::WRITABLE | PollEvents::ERR
        } else {
            PollEvents::READABLE | PollEvents::HUP
        };
        self.stream.poll(table) & relevant
    }

    fn ioctl(&self, _file: &OpenFile, _task: &TaskRef, command: u32, arg: u64) -> Result {
        if command != FIONREAD {
            return Err(Errno::ENOTTY);
        }
        UserPtr::new(arg).write(&(self.stream.available() as i32))?;
        Ok(0)
    }
}

/// The last open file of this end is gone; there may be several, opened by `/dev/stdout`.
impl Drop for StreamFile {
    fn drop(&mut self) {
        if self.output {
            self.stream.finish();
        }
    }
}
