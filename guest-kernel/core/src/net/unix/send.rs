//! Sending.

use alloc::{
    sync::{Arc, Weak},
    vec::Vec,
};
use core::sync::atomic::Ordering::Relaxed;

use super::{
    address::{self, Address},
    flight::{self, InFlight},
    inbox::Message,
    socket::{DATAGRAMS_MAX, State, UnixSocket},
};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    io::Source,
    net::{
        message::Credentials,
        socket::{How, Kind, Outgoing, wait_error},
    },
    sync::{Interruptible, PollEvents, wait_event},
    time,
};

/// Bytes of one piece of a stream.
const PIECE: usize = 16 * 1024;

fn take_bytes(source: &mut Source<'_>, len: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| Errno::ENOBUFS)?;
    bytes.resize(len, 0);
    source.take(&mut bytes)?;
    Ok(bytes)
}

impl UnixSocket {
    /// Sends all of `source` over a stream, in pieces; the files go with the first.
    pub(super) fn send_bytes(
        &self,
        task: &TaskRef,
        source: &mut Source<'_>,
        message: Outgoing<'_>,
    ) -> Result {
        let (peer, shut, name) =
            self.with(|s| (s.peer.as_ref().map(Weak::upgrade), s.write_shut, s.name.clone()));
        let target = match peer {
            Some(_) if message.to.is_some() => return Err(Errno::EISCONN),
            None if message.to.is_some() => return Err(Errno::EOPNOTSUPP),
            None => return Err(Errno::ENOTCONN),
            Some(_) if shut => return Err(Errno::EPIPE),
            Some(peer) => peer.ok_or(Errno::EPIPE)?,
        };
        let total = source.remaining();
        let credentials = self.credentials_for(task, &target, message.credentials);
        let deadline = self.common.send_deadline();
        let mut files = InFlight::new(task, message.files)?;
        let mut done = 0;
        while done < total {
            let sent =
                self.wait_for_bytes(task, &target, total - done, message.how, deadline).and_then(|n| {
                    let bytes = take_bytes(source, n)?;
                    let (files, from) = (core::mem::take(&mut files), name.clone());
                    deliver(&target, Message { bytes, start: 0, files, credentials, from, at: 0 })?;
                    Ok(n)
                });
            match sent {
                Ok(n) => done += n,
                Err(_) if done > 0 => break,
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    /// Sends all of `source` as one message.
    pub(super) fn send_message(
        &self,
        task: &TaskRef,
        source: &mut Source<'_>,
        message: Outgoing<'_>,
    ) -> Result {
        let (peer, shut, name, reset) = self.with(|s| {
            let reset = core::mem::take(&mut s.reset);
            (s.peer.as_ref().map(Weak::upgrade), s.write_shut, s.name.clone(), reset)
        });
        if reset {
            return Err(Errno::ECONNRESET);
        }
        // A connected one has no use for a name.
        let to = match message.to.filter(|_| self.kind == Kind::Datagram) {
            Some(to) => Some(Address::decode(to)?.ok_or(Errno::EINVAL)?),
            None if peer.is_none() => return Err(Errno::ENOTCONN),
            None => None,
        };
        self.autobind(task)?;
        let name = if name.is_none() { self.with(|s| s.name.clone()) } else { name };
        let total = source.remaining();
        if total > self.common.send_buffer.load(Relaxed).saturating_sub(32) {
            return Err(Errno::EMSGSIZE);
        }
        if shut {
            return Err(Errno::EPIPE);
        }
        let files = InFlight::new(task, message.files)?;
        let bytes = take_bytes(source, total)?;
        let target = match to {
            Some(to) => address::find(task, self, &to)?,
            None => match peer.flatten() {
                Some(target) => target,
                None if self.kind == Kind::Datagram => {
                    self.change_peer(None); // told once, and what came from it goes with it
                    return Err(Errno::ECONNREFUSED);
                }
                None => return Err(Errno::EPIPE),
            },
        };
        if self.kind == Kind::Datagram {
            self.may_send_to(&target)?;
        }
        let deadline = self.common.send_deadline();
        self.wait_for_place(task, &target, total, message.how, deadline)?;
        let credentials = self.credentials_for(task, &target, message.credentials);
        let at = if target.common.wants_time() { time::realtime() } else { 0 };
        deliver(&target, Message { bytes, start: 0, files, credentials, from: name, at })?;
        Ok(total)
    }

    /// Who the receiver is told the sender is, if one of the two ends wants that.
    fn credentials_for(
        &self,
        task: &TaskRef,
        target: &UnixSocket,
        given: Option<Credentials>,
    ) -> Credentials {
        match given {
            Some(given) => given,
            None if self.common.wants_sender() || target.common.wants_sender() => {
                Credentials::of_sender(task)
            }
            // Not accepted yet: nobody could have asked for it.
            None if target.common.ino() == 0 => Credentials::of_sender(task),
            None => Credentials::default(),
        }
    }

    /// Waits until a stream has room for some of `want` bytes: how many.
    fn wait_for_bytes(
        &self,
        task: &TaskRef,
        target: &Arc<UnixSocket>,
        want: usize,
        how: How,
        deadline: Option<u64>,
    ) -> Result {
        let limit = self.common.send_buffer.load(Relaxed);
        let want = want.min(PIECE);
        let ended = |s: &State| s.closed || s.read_shut;
        // As long as the buffer is not full a piece goes, whole.
        let first = target.with(|s| match s.inbox.room(limit) {
            _ if ended(s) => Some(Err(Errno::EPIPE)),
            room => (room > 0).then_some(Ok(want)),
        });
        match first {
            Some(outcome) => return outcome,
            None if how.nonblocking => return Err(Errno::EAGAIN),
            None => {}
        }
        // One that had to wait waits for more room, so that it is not woken for every byte.
        // What shuts one end for reading shuts the other for writing.
        self.wait_for_room(task, target, how, deadline, |s| match s.inbox.room(limit) {
            _ if ended(s) => Some(Err(Errno::EPIPE)),
            room if room >= want || s.inbox.is_empty() => Some(Ok(want)),
            room if room >= limit / 8 && room > 0 => Some(Ok(room)),
            _ => None,
        })
    }

    /// Waits until there is room for a whole message of `want` bytes.
    fn wait_for_place(
        &self,
        task: &TaskRef,
        target: &Arc<UnixSocket>,
        want: usize,
        how: How,
        deadline: Option<u64>,
    ) -> Result<()> {
        let limit = self.common.send_buffer.load(Relaxed);
        let connectionless = self.kind == Kind::Datagram;
        self.wait_for_room(task, target, how, deadline, |s| match s.inbox.room(limit) {
            _ if s.closed && connectionless => Some(Err(Errno::ECONNREFUSED)),
            _ if s.closed || s.read_shut => Some(Err(Errno::EPIPE)),
            // A stranger's datagrams are few; those of one's own peer only have to fit.
            _ if connectionless && s.inbox.len() > DATAGRAMS_MAX && !self.is_peer(s.peer.as_ref()) => None,
            room if room >= want || s.inbox.is_empty() => Some(Ok(())),
            _ => None,
        })
    }

    fn wait_for_room<R>(
        &self,
        task: &TaskRef,
        target: &Arc<UnixSocket>,
        how: How,
        deadline: Option<u64>,
        look: impl Fn(&mut State) -> Option<Result<R>>,
    ) -> Result<R> {
        let look = || target.with(&look);
        match look() {
            Some(outcome) => outcome,
            None if how.nonblocking => Err(Errno::EAGAIN),
            None => wait_event(task, &target.queue, Interruptible::Yes, deadline, look)
                .map_err(wait_error(deadline))?,
        }
    }
}

/// Puts `message` into the inbox of `target`.
fn deliver(target: &Arc<UnixSocket>, message: Message) -> Result<()> {
    let sockets = message.files.has_sockets();
    target.with(|s| s.inbox.push(message, target.stream()))?;
    if sockets {
        flight::holds_sockets(target);
    }
    target.queue.wake_all(PollEvents::READABLE);
    Ok(())
}
