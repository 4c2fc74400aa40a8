//! An open file of procfs.

use alloc::{sync::Arc, vec, vec::Vec};

use super::{Scope, Show, Store, Text, Who};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    fs::{File, OpenFile, pidfd},
    io::{Sink, Source},
    ns::PidNamespace,
    sync::Mutex,
};

/// What a write takes at most.
const WRITE_MAX: usize = 4096;

/// Where the text comes from.
pub(super) enum Content {
    Entry(Show, Option<Store>),
    /// `fdinfo/N`.
    DescriptorInfo(i32),
}

/// An open file with the text it had when it was last read from the beginning.
pub(super) struct ProcFile {
    who: Who,
    ns: Arc<PidNamespace>,
    content: Content,
    snapshot: Mutex<Option<Vec<u8>>>,
}

impl ProcFile {
    pub fn new(who: Who, ns: Arc<PidNamespace>, content: Content) -> ProcFile {
        ProcFile { who, ns, content, snapshot: Mutex::new(None) }
    }

    fn text(&self, viewer: &TaskRef) -> Result<Vec<u8>> {
        let scope = Scope { who: self.who, viewer, ns: &self.ns };
        let mut text = Text::default();
        match &self.content {
            Content::Entry(show, _) => show(&scope, &mut text)?,
            Content::DescriptorInfo(fd) => {
                let file = scope.target()?.task()?.files()?.get_any(*fd)?;
                text.bytes(file.fdinfo().as_bytes());
                if let Some(numbers) = pidfd::numbers(&file, &self.ns) {
                    text.bytes(numbers.as_bytes());
                }
            }
        }
        Ok(text.0)
    }
}

impl File for ProcFile {
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
        let mut snapshot = self.snapshot.lock();
        let text = match &mut *snapshot {
            Some(text) if offset > 0 => text,
            stale => stale.insert(self.text(task)?),
        };
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        sink.put_some(text.get(start..).unwrap_or_default())
    }

    fn write_at(&self, _file: &OpenFile, task: &TaskRef, _offset: u64, source: &mut Source<'_>) -> Result {
        let Content::Entry(_, Some(store)) = &self.content else { return Err(Errno::EPERM) };
        let n = source.remaining();
        if n > WRITE_MAX {
            return Err(Errno::EINVAL);
        }
        let mut bytes = vec![0; n];
        source.take(&mut bytes)?;
        store(&Scope { who: self.who, viewer: task, ns: &self.ns }, &bytes)?;
        Ok(n)
    }
}
