//! FIFOs: pipes found by an inode.
//!
//! An inode has no room for a pipe, so the pipes of FIFOs that are open at the moment are in a table keyed by
//! device and inode number.

use alloc::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};
use core::sync::atomic::{AtomicU32, Ordering};

use super::{Pipe, PipeEnd};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    fs::{File, InodeRef, OpenFlags},
    sync::{Interruptible, Queue, SpinLock, wait_event},
};

static OPEN: SpinLock<BTreeMap<(u64, u64), Weak<Pipe>>> = SpinLock::new(BTreeMap::new());

/// The pipe of `inode`; made if nobody has it open.
fn pipe_of(inode: &InodeRef) -> Arc<Pipe> {
    let m = inode.metadata();
    let new = Pipe::new();
    let mut open = OPEN.lock();
    if let Some(pipe) = open.get(&(m.dev, m.ino)).and_then(Weak::upgrade) {
        return pipe;
    }
    open.retain(|_, pipe| pipe.strong_count() > 0);
    open.insert((m.dev, m.ino), Arc::downgrade(&new));
    new
}

/// Opens a FIFO. For reading or writing alone it waits for the other side; with `O_NONBLOCK` reading does not
/// wait and writing is `ENXIO` without a reader.
pub fn open(inode: &InodeRef, flags: OpenFlags, task: Option<&TaskRef>) -> Result<Arc<dyn File>> {
    let pipe = pipe_of(inode);
    let nonblocking = flags.contains(OpenFlags::NONBLOCK);
    if flags.writable() && !flags.readable() && nonblocking && !pipe.has_readers() {
        return Err(Errno::ENXIO);
    }
    let (readers, writers) = (opens(&pipe.reader_opens), opens(&pipe.writer_opens));
    let end = Arc::new(PipeEnd::new(pipe.clone(), flags));
    pipe.wake_everybody();
    match (end.reads, end.writes) {
        (true, false) if !nonblocking && !pipe.has_writers() => {
            wait(task, &pipe.read_queue, &pipe.writer_opens, writers)?;
        }
        (false, true) if !pipe.has_readers() => wait(task, &pipe.write_queue, &pipe.reader_opens, readers)?,
        _ => {}
    }
    Ok(end)
}

fn opens(counter: &AtomicU32) -> u32 {
    counter.load(Ordering::Acquire)
}

fn wait(task: Option<&TaskRef>, queue: &Queue, counter: &AtomicU32, before: u32) -> Result<()> {
    let Some(task) = task else { return Ok(()) };
    let opened = || (opens(counter) != before).then_some(());
    Ok(wait_event(task, queue, Interruptible::Yes, None, opened)?)
}
