//! `/proc/PID/mem`: the memory of a process as a file, for those who could trace it.
//!
//! Who may is decided when it is opened, and the memory is the one the process had then: what it becomes by `execve`
//! is not seen. Like `PTRACE_POKEDATA`, a write goes through to pages the process itself may only read.

use alloc::sync::Weak;

use super::who::Who;
use crate::{
    TaskRef,
    errno::{Errno, Result},
    fs::{File, OpenFile},
    io::{Sink, Source},
    mm::Mm,
    sched,
};

pub(super) struct MemFile {
    /// Not kept alive by the file.
    mm: Weak<Mm>,
}

impl MemFile {
    pub fn new(who: Who) -> Result<MemFile> {
        Ok(MemFile { mm: who.target()?.mm().map_or(Weak::new(), |mm| alloc::sync::Arc::downgrade(&mm)) })
    }

    /// Copies in pieces of a page; what was done before a failure counts.
    fn each(
        &self,
        task: &TaskRef,
        offset: u64,
        len: usize,
        mut copy: impl FnMut(&Mm, u64, &mut [u8]) -> Result,
    ) -> Result {
        let Some(mm) = self.mm.upgrade() else { return Ok(0) };
        let mut buffer = alloc::vec![0; ringfence_hal::PAGE_SIZE.min(len)];
        let mut done = 0;
        while done < len {
            let Some(at) = offset.checked_add(done as u64) else { break };
            let n = buffer.len().min(len - done);
            match copy(&mm, at, buffer.get_mut(..n).unwrap_or_default()) {
                Ok(copied) => {
                    done += copied;
                    if copied < n {
                        break;
                    }
                }
                // Outside of its memory: EIO, whatever the reason.
                Err(Errno::EFAULT) if done == 0 => return Err(Errno::EIO),
                Err(e) if done == 0 => return Err(e),
                Err(_) => break,
            }
            sched::preempt_point(task);
        }
        Ok(done)
    }
}

impl File for MemFile {
    fn seekable(&self) -> bool {
        true
    }

    fn pollable(&self) -> bool {
        false
    }

    fn size(&self, _file: &OpenFile) -> u64 {
        0
    }

    fn read_at(&self, _file: &OpenFile, task: &TaskRef, offset: u64, sink: &mut Sink<'_>) -> Result {
        self.each(task, offset, sink.remaining(), |mm, at, buffer| {
            let n = mm.read_remote(at, buffer, true)?;
            sink.put(buffer.get(..n).unwrap_or_default())?;
            Ok(n)
        })
    }

    fn write_at(&self, _file: &OpenFile, task: &TaskRef, offset: u64, source: &mut Source<'_>) -> Result {
        self.each(task, offset, source.remaining(), |mm, at, buffer| {
            source.take(buffer)?;
            mm.write_remote(at, buffer, true)
        })
    }
}
