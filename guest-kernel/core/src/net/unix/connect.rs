//! Names and connections: bind, listen, connect, accept.

use alloc::{
    collections::VecDeque,
    sync::{Arc, Weak},
};

use super::{
    address::{self, Address},
    socket::{Backlog, UnixSocket},
};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    net::{
        common::SO_PASSCRED,
        socket::{Kind, Peer, wait_error},
    },
    sync::{Interruptible, PollEvents, wait_event},
};

const AF_UNSPEC: u16 = 0;

/// `net.core.somaxconn`.
const BACKLOG_MAX: usize = 4096;

impl UnixSocket {
    /// Gives it a name; without one, an abstract one that is free.
    pub(super) fn bind_to(&self, task: &TaskRef, address: Option<Address>) -> Result<()> {
        if self.with(|s| s.name.is_some()) {
            // Any name will do, and it has one.
            return if address.is_none() { Ok(()) } else { Err(Errno::EINVAL) };
        }
        let name = address::bind(task, self, address)?;
        self.with(|s| s.name = Some(Address::encode(Some(&name))));
        Ok(())
    }

    /// Who wants to know others' credentials gets a name, so that they can answer.
    pub(super) fn autobind(&self, task: &TaskRef) -> Result<()> {
        if self.common.flag(SO_PASSCRED) && self.with(|s| s.name.is_none()) {
            self.bind_to(task, None)?;
        }
        Ok(())
    }

    pub(super) fn start_listening(&self, task: &TaskRef, backlog: i32) -> Result<()> {
        if self.kind == Kind::Datagram {
            return Err(Errno::EOPNOTSUPP);
        }
        let limit = usize::try_from(backlog).unwrap_or(BACKLOG_MAX).min(BACKLOG_MAX);
        let me = Peer::of(task);
        self.with(|s| {
            if s.name.is_none() || s.peer.is_some() {
                return Err(Errno::EINVAL);
            }
            s.identity = Some(me);
            match &mut s.backlog {
                Some(backlog) => backlog.limit = limit,
                none => *none = Some(Backlog { limit, waiting: VecDeque::new() }),
            }
            Ok(())
        })?;
        self.wake_others();
        Ok(())
    }

    /// Whether a datagram from `self` is welcome: a connected socket hears only its peer.
    pub(super) fn may_send_to(&self, target: &UnixSocket) -> Result<()> {
        let stranger = target.with(|s| s.peer.is_some() && !self.is_peer(s.peer.as_ref()));
        if stranger { Err(Errno::EPERM) } else { Ok(()) }
    }

    /// Gives a datagram socket another peer. What the old one sent and was not read is lost, and it is told so.
    pub(super) fn change_peer(&self, new: Option<Weak<UnixSocket>>) {
        let (old, lost) = self.with(|s| {
            let same = match (&s.peer, &new) {
                (Some(a), Some(b)) => a.ptr_eq(b),
                _ => false,
            };
            let old = core::mem::replace(&mut s.peer, new);
            let lost = if same || old.is_none() { VecDeque::new() } else { s.inbox.clear() };
            (old, lost)
        });
        if !lost.is_empty()
            && let Some(old) = old.and_then(|p| p.upgrade())
        {
            old.with(|s| s.reset |= self.is_peer(s.peer.as_ref()));
            old.wake();
        }
        drop(lost);
        self.wake_others();
    }

    pub(super) fn connect_to(&self, task: &TaskRef, to: &[u8], nonblocking: bool) -> Result<()> {
        if self.kind == Kind::Datagram && to.first_chunk() == Some(&AF_UNSPEC.to_ne_bytes()) {
            self.change_peer(None);
            return Ok(());
        }
        let to = Address::decode(to)?.ok_or(Errno::EINVAL)?;
        self.autobind(task)?;
        let target = address::find(task, self, &to)?;
        if self.kind == Kind::Datagram {
            self.may_send_to(&target)?;
            self.change_peer(Some(target.me.clone()));
            return Ok(());
        }
        self.with(|s| match (&s.backlog, &s.peer) {
            (Some(_), _) => Err(Errno::EINVAL),
            (_, Some(_)) => Err(Errno::EISCONN),
            _ => Ok(()),
        })?;
        let server = UnixSocket::new(self.kind, self.net_ns());
        let (name, listener) = target.with(|s| (s.name.clone(), s.identity.clone()));
        let me = Peer::of(task);
        server.with(|s| {
            s.name = name;
            s.peer = Some(self.me.clone());
            s.identity = Some(me);
            s.listener = Some(target.me.clone());
        });
        let mut waiting = Some(server.clone());
        let mut enter = || {
            target.with(|s| match &mut s.backlog {
                None => Some(Err(Errno::ECONNREFUSED)),
                Some(_) if s.closed || s.read_shut => Some(Err(Errno::ECONNREFUSED)),
                Some(backlog) if backlog.waiting.len() > backlog.limit => None,
                Some(backlog) => {
                    backlog.waiting.extend(waiting.take());
                    Some(Ok(()))
                }
            })
        };
        match enter() {
            Some(outcome) => outcome?,
            None if nonblocking => return Err(Errno::EAGAIN),
            None => {
                let deadline = self.common.send_deadline();
                wait_event(task, &target.queue, Interruptible::Yes, deadline, enter)
                    .map_err(wait_error(deadline))??;
            }
        }
        self.with(|s| {
            s.peer = Some(server.me.clone());
            s.identity = listener;
        });
        target.wake();
        self.wake_others();
        Ok(())
    }

    pub(super) fn accept_next(&self, task: &TaskRef, nonblocking: bool) -> Result<Arc<UnixSocket>> {
        if self.kind == Kind::Datagram {
            return Err(Errno::EOPNOTSUPP);
        }
        let take = || {
            self.with(|s| match &mut s.backlog {
                None => Some(Err(Errno::EINVAL)),
                Some(backlog) => match backlog.waiting.pop_front() {
                    Some(socket) => Some(Ok(socket)),
                    None if s.read_shut && !nonblocking => Some(Err(Errno::EINVAL)),
                    None => None,
                },
            })
        };
        let socket = match take() {
            Some(outcome) => outcome?,
            None if nonblocking => return Err(Errno::EAGAIN),
            None => {
                let deadline = self.common.receive_deadline();
                wait_event(task, &self.queue, Interruptible::Yes, deadline, take)
                    .map_err(wait_error(deadline))??
            }
        };
        socket.with(|s| s.listener = None);
        // Clients may wait for a place, which is not to be polled for.
        self.queue.wake_all(PollEvents::WRBAND);
        Ok(socket)
    }
}
