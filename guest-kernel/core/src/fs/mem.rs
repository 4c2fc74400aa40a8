//! The memory devices: `null`, `zero`, `full`, `random`, `urandom` (`drivers/char/mem.c`, `random(4)`).

use alloc::sync::Arc;

use super::{
    device,
    file::{File, OpenFile},
    inode::InodeRef,
    types::{DeviceId, OpenFlags},
};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    io::{Sink, Source},
    mm::{Mappable, SharedMemory},
    random,
};

const MAJOR: u32 = 1;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Memory {
    Null,
    Zero,
    Full,
    Random,
}

/// Registers the devices.
pub fn register() {
    device::register_char(MAJOR, 0..=255, open);
}

fn open(
    id: DeviceId,
    _inode: &InodeRef,
    _flags: OpenFlags,
    _task: Option<&TaskRef>,
) -> Result<Arc<dyn File>> {
    Ok(Arc::new(match id.minor {
        3 => Memory::Null,
        5 => Memory::Zero,
        7 => Memory::Full,
        8 | 9 => Memory::Random,
        _ => return Err(Errno::ENXIO),
    }))
}

impl Memory {
    fn fill(self, sink: &mut Sink<'_>) -> Result {
        let n = sink.remaining();
        match self {
            Memory::Null => return Ok(0),
            Memory::Zero | Memory::Full => sink.put_zeros(n)?,
            Memory::Random => {
                let mut chunk = [0u8; 256];
                while sink.remaining() > 0 {
                    let n = sink.remaining().min(chunk.len());
                    let bytes = chunk.get_mut(..n).unwrap_or_default();
                    random::fill(bytes);
                    sink.put_some(bytes)?;
                }
            }
        }
        Ok(n)
    }

    fn swallow(self, source: &mut Source<'_>) -> Result {
        let n = source.remaining();
        match self {
            Memory::Null | Memory::Zero => {}
            Memory::Full if n > 0 => return Err(Errno::ENOSPC),
            Memory::Full => {}
            Memory::Random => {
                let mut chunk = [0u8; 64];
                while source.remaining() > 0 {
                    let n = source.remaining().min(chunk.len());
                    let bytes = chunk.get_mut(..n).ok_or(Errno::EFAULT)?;
                    source.take(bytes)?;
                    random::add_entropy(bytes);
                }
            }
        }
        Ok(n)
    }
}

impl File for Memory {
    fn read(&self, _file: &OpenFile, _task: &TaskRef, sink: &mut Sink<'_>) -> Result {
        self.fill(sink)
    }

    fn write(&self, _file: &OpenFile, _task: &TaskRef, source: &mut Source<'_>) -> Result {
        self.swallow(source)
    }

    fn seek_ignored(&self) -> bool {
        true
    }

    fn seekable(&self) -> bool {
        true
    }

    fn read_at(&self, _file: &OpenFile, _task: &TaskRef, _offset: u64, sink: &mut Sink<'_>) -> Result {
        self.fill(sink)
    }

    fn write_at(&self, _file: &OpenFile, _task: &TaskRef, _offset: u64, source: &mut Source<'_>) -> Result {
        self.swallow(source)
    }

    fn size(&self, _file: &OpenFile) -> u64 {
        0
    }

    fn pollable(&self) -> bool {
        *self == Memory::Random
    }

    fn mappable(&self) -> Option<Arc<dyn Mappable>> {
        // Each mapping of /dev/zero is new memory.
        (*self == Memory::Zero).then(|| SharedMemory::new(u64::MAX) as Arc<dyn Mappable>)
    }
}
