//! Asking and reading the answer.
//!
//! Whoever answers is outside the sandbox and could do worse than lie to us, but not to our memory: an answer is bytes of a
//! length that the device says, which are copied out, and what they say is checked before it is used.

use alloc::{sync::Arc, vec::Vec};
use core::{
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
};

use ringfence_hal::Frame;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::wire::{self, InHeader, InitIn, InitOut, OUT_HEADER, OutHeader, op};
use crate::{
    drivers::fs::{Fs, RECEIVE, Request},
    errno::{Errno, Result},
    fs::dentry,
};

/// Errors above are none of Linux's.
const LAST_ERRNO: i32 = 133;

/// The way of messages: the device, or what stands for it in tests.
pub trait Channel: Send + Sync {
    /// See [`Fs::call`].
    fn call(&self, request: &Request<'_>, head: &mut [u8]) -> Result;
    /// See [`Fs::post`].
    fn post(&self, parts: &[&[u8]]) -> bool;
    /// See [`Fs::is_gone`].
    fn is_gone(&self) -> bool;
}

impl Channel for Fs {
    fn call(&self, request: &Request<'_>, head: &mut [u8]) -> Result {
        Fs::call(self, request, head)
    }

    fn post(&self, parts: &[&[u8]]) -> bool {
        Fs::post(self, parts)
    }

    fn is_gone(&self) -> bool {
        Fs::is_gone(self)
    }
}

/// On whose behalf something is made.
#[derive(Clone, Copy, Debug, Default)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// A question.
#[derive(Default)]
pub struct Question<'a> {
    /// What for.
    pub opcode: u32,
    /// About which inode.
    pub node: u64,
    /// For whom.
    pub owner: Owner,
    /// Arguments.
    pub body: &'a [&'a [u8]],
    /// Data to send: frames, and the range of all of their bytes.
    pub send: (&'a [Frame], Range<usize>),
    /// Frames for the data of the answer.
    pub receive: &'a [Frame],
}

/// A connection to whoever serves the volumes.
pub struct Connection {
    channel: Arc<dyn Channel>,
    unique: AtomicU64,
}

impl Connection {
    /// Greets the other side.
    pub fn open(channel: Arc<dyn Channel>) -> Result<Arc<Connection>> {
        let connection = Connection { channel, unique: AtomicU64::new(1) };
        let hello = InitIn { major: wire::MAJOR, minor: wire::MINOR, max_readahead: 0, flags: 0 };
        let question = Question { opcode: op::INIT, body: &[hello.as_bytes()], ..Question::default() };
        let answer: InitOut = connection.ask(&question)?;
        if answer.major != wire::MAJOR || answer.minor < wire::MINOR {
            return Err(Errno::EPROTO);
        }
        Ok(Arc::new(connection))
    }

    /// Whether there is nobody who answers any more.
    pub fn is_gone(&self) -> bool {
        self.channel.is_gone()
    }

    fn header(&self, question: &Question<'_>) -> Result<InHeader> {
        let sent = &question.send.1;
        let body: usize = question.body.iter().map(|part| part.len()).sum();
        let len = size_of::<InHeader>() + body + sent.end.saturating_sub(sent.start);
        Ok(InHeader {
            len: u32::try_from(len).map_err(|_| Errno::EINVAL)?,
            opcode: question.opcode,
            unique: self.unique.fetch_add(1, Ordering::Relaxed),
            node: question.node,
            uid: question.owner.uid,
            gid: question.owner.gid,
            pid: 0,
            padding: 0,
        })
    }

    /// Asks; the bytes of the answer behind its header: the first ones in `head`, the others in the frames.
    fn exchange(&self, question: &Question<'_>, head: &mut [u8]) -> Result {
        match self.exchange_once(question, head) {
            // The other side has no room for another inode, and has done nothing. It keeps those that we know: the names that nobody
            // uses here go, it is told so before it gets the same question, and then answers as if nothing had been.
            Err(Errno::ENFILE) => {
                dentry::shrink();
                self.exchange_once(question, head)
            }
            result => result,
        }
    }

    fn exchange_once(&self, question: &Question<'_>, head: &mut [u8]) -> Result {
        let header = self.header(question)?;
        let mut parts: Vec<&[u8]> = Vec::with_capacity(question.body.len() + 1);
        parts.push(header.as_bytes());
        parts.extend_from_slice(question.body);
        let mut answer = [0; RECEIVE];
        let answer = answer.get_mut(..OUT_HEADER + head.len()).ok_or(Errno::EINVAL)?;
        let request = Request {
            parts: &parts,
            send: question.send.clone(),
            head: answer.len(),
            receive: question.receive,
        };
        let written = self.channel.call(&request, answer)?;
        let (out, rest) = OutHeader::read_from_prefix(answer).map_err(|_| Errno::EIO)?;
        if written < OUT_HEADER || out.unique != header.unique {
            return Err(Errno::EIO);
        }
        if out.error != 0 {
            return Err(error(out.error));
        }
        let room = head.len() + question.receive.len() * ringfence_hal::PAGE_SIZE;
        let len =
            usize::try_from(out.len).ok().and_then(|len| len.checked_sub(OUT_HEADER)).ok_or(Errno::EIO)?;
        if len > room || len > written - OUT_HEADER {
            return Err(Errno::EIO);
        }
        head.copy_from_slice(rest);
        Ok(len)
    }

    /// Asks what is answered by a structure.
    pub fn ask<T: FromBytes + IntoBytes + Immutable + Default>(&self, question: &Question<'_>) -> Result<T> {
        let mut answer = T::default();
        let mut bytes = [0; RECEIVE];
        let bytes = bytes.get_mut(..size_of::<T>()).ok_or(Errno::EINVAL)?;
        if self.exchange(question, bytes)? < size_of::<T>() {
            return Err(Errno::EIO);
        }
        if let Ok(read) = T::read_from_bytes(bytes) {
            answer = read;
        }
        Ok(answer)
    }

    /// Asks what is answered by data; how many bytes there are in the frames.
    pub fn ask_data(&self, question: &Question<'_>) -> Result {
        self.exchange(question, &mut [])
    }

    /// Asks for something that is only done.
    pub fn tell(&self, question: &Question<'_>) -> Result<()> {
        self.exchange(question, &mut []).map(|_| ())
    }

    /// Forgets an inode that the other side has told of `count` times, if that can be said now. Does not sleep.
    pub fn forget(&self, node: u64, count: u64) -> bool {
        let count = wire::ForgetIn { count };
        let question =
            Question { opcode: op::FORGET, node, body: &[count.as_bytes()], ..Question::default() };
        match self.header(&question) {
            Ok(header) => self.channel.post(&[header.as_bytes(), count.as_bytes()]),
            Err(_) => true,
        }
    }
}

/// An error of the other side, as ours.
fn error(raw: i32) -> Errno {
    if !(-LAST_ERRNO..0).contains(&raw) {
        return Errno::EIO;
    }
    Errno::result_of(i64::from(raw) as u64).err().unwrap_or(Errno::EIO)
}
