//! The socket.

use alloc::{sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::{
    AF_NETLINK, NETLINK_ROUTE,
    message::{Answer, NLM_F_ACK, NLM_F_REQUEST, NLMSG_MIN_TYPE, requests},
    route,
};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    io::{Sink, Source},
    net::{
        common::Common,
        mailbox::{Letter, Mailbox},
        socket::{How, Kind, Name, Outgoing, Received, Socket, wait_error},
    },
    ns::NetNamespace,
    random,
    sync::{Interruptible, PollEvents, PollTable, Queue, SpinLock, WaitQueue, wait_event},
    syscall::UserPtr,
};

const SOL_NETLINK: i32 = 270;
const ADD_MEMBERSHIP: i32 = 1;
const DROP_MEMBERSHIP: i32 = 2;
const CAP_ACK: i32 = 10;
/// `PKTINFO`, `BROADCAST_ERROR`, `NO_ENOBUFS`, `CAP_ACK`, `EXT_ACK`, `GET_STRICT_CHK`: kept; of them only `CAP_ACK` does
/// something, as no message comes from a group and errors are told without words.
const FLAGS: &[i32] = &[3, 4, 5, CAP_ACK, 11, 12];

/// The largest datagram of requests.
const REQUESTS_MAX: usize = 64 * 1024;

#[derive(Default)]
struct State {
    port: u32,
    groups: u32,
    inbox: Mailbox<()>,
}

/// A netlink socket.
pub(super) struct NetlinkSocket {
    kind: Kind,
    common: Common,
    queue: Queue,
    net: Arc<NetNamespace>,
    /// Options that are on, a bit each.
    flags: AtomicU32,
    state: SpinLock<State>,
}

/// `struct sockaddr_nl`.
fn encode(port: u32, groups: u32) -> Name {
    let [a, b] = AF_NETLINK.to_ne_bytes();
    let mut out = alloc::vec![a, b, 0, 0];
    out.extend_from_slice(&port.to_ne_bytes());
    out.extend_from_slice(&groups.to_ne_bytes());
    out.into()
}

/// Port and groups of a name. `EINVAL`.
fn decode(name: &[u8]) -> Result<(u32, u32)> {
    let Some(([a, b, _, _, rest @ ..], _)) = name.split_first_chunk::<12>() else {
        return Err(Errno::EINVAL);
    };
    if u16::from_ne_bytes([*a, *b]) != AF_NETLINK {
        return Err(Errno::EINVAL);
    }
    let [p0, p1, p2, p3, groups @ ..] = *rest;
    Ok((u32::from_ne_bytes([p0, p1, p2, p3]), u32::from_ne_bytes(groups)))
}

impl NetlinkSocket {
    pub fn new(task: &TaskRef, kind: Kind) -> NetlinkSocket {
        NetlinkSocket {
            kind,
            common: Common::default(),
            queue: WaitQueue::new(),
            net: task.namespaces().net.clone(),
            flags: AtomicU32::new(0),
            state: SpinLock::new(State::default()),
        }
    }

    fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        f(&mut self.state.lock())
    }

    /// Takes `port`, or for 0 the process's number or, if that is taken, any. `EADDRINUSE`.
    fn take_port(&self, task: &TaskRef, port: u32) -> Result<()> {
        let mut ports = self.net.stack().netlink.lock();
        let port = match port {
            0 => {
                let own = task.process().pid as u32;
                core::iter::once(own)
                    .chain(core::iter::repeat_with(|| random::next_u64() as u32 | 1 << 31))
                    .find(|p| ports.insert(*p))
                    .unwrap_or(own)
            }
            port if ports.insert(port) => port,
            _ => return Err(Errno::EADDRINUSE),
        };
        drop(ports);
        self.with(|s| s.port = port);
        Ok(())
    }

    fn autobind(&self, task: &TaskRef) -> Result<u32> {
        if self.with(|s| s.port) == 0 {
            self.take_port(task, 0)?;
        }
        Ok(self.with(|s| s.port))
    }

    /// Answers what is in one datagram.
    fn serve(&self, task: &TaskRef, bytes: &[u8], port: u32) {
        let capped = self.flags.load(Relaxed) & 1 << CAP_ACK != 0;
        for request in requests(bytes) {
            let flags = request.header.flags;
            let mut answer = Answer::new(request.header, port);
            let asked = flags & NLM_F_REQUEST != 0 && request.header.kind >= NLMSG_MIN_TYPE;
            let outcome = if asked { route::serve(task, &self.net, &request, &mut answer) } else { Ok(()) };
            if outcome.is_err() || flags & NLM_F_ACK != 0 {
                answer.error(outcome, request.body, capped);
            }
            let limit = self.common.receive_buffer.load(Relaxed);
            for bytes in answer.into_datagrams() {
                // What does not fit is lost, which the program could know from the limit it has set.
                let _ = self.with(|s| s.inbox.push(Letter { bytes, about: () }, limit));
            }
        }
        self.queue.wake_all(PollEvents::READABLE);
    }
}

impl Socket for NetlinkSocket {
    fn common(&self) -> &Common {
        &self.common
    }

    fn domain(&self) -> i32 {
        AF_NETLINK.into()
    }

    fn kind(&self) -> Kind {
        self.kind
    }

    fn protocol(&self) -> i32 {
        NETLINK_ROUTE
    }

    fn bind(&self, task: &TaskRef, name: &[u8]) -> Result<()> {
        let (port, groups) = decode(name)?;
        match self.with(|s| s.port) {
            0 => self.take_port(task, port)?,
            own if port != 0 && port != own => return Err(Errno::EINVAL),
            _ => {}
        }
        self.with(|s| s.groups = groups);
        Ok(())
    }

    fn connect(&self, task: &TaskRef, to: &[u8], _nonblocking: bool) -> Result<()> {
        // The kernel is the peer in any case.
        if to.first_chunk() != Some(&[0, 0]) && decode(to)? != (0, 0) {
            return Err(Errno::ECONNREFUSED);
        }
        self.autobind(task).map(|_| ())
    }

    fn name(&self) -> Name {
        self.with(|s| encode(s.port, s.groups))
    }

    fn peer_name(&self) -> Result<Name> {
        Ok(encode(0, 0))
    }

    fn send(&self, task: &TaskRef, source: &mut Source<'_>, message: Outgoing<'_>) -> Result {
        if let Some(to) = message.to
            && decode(to)? != (0, 0)
        {
            return Err(Errno::ECONNREFUSED);
        }
        let port = self.autobind(task)?;
        let total = source.remaining();
        if total > REQUESTS_MAX {
            return Err(Errno::EMSGSIZE);
        }
        let mut bytes = alloc::vec![0; total];
        source.take(&mut bytes)?;
        self.serve(task, &bytes, port);
        Ok(total)
    }

    fn receive(&self, task: &TaskRef, sink: &mut Sink<'_>, how: How) -> Result<Received> {
        let look = || self.with(|s| s.inbox.take(how.peek));
        let letter = match look() {
            Some(letter) => letter,
            None if how.nonblocking => return Err(Errno::EAGAIN),
            None => {
                let deadline = self.common.receive_deadline();
                wait_event(task, &self.queue, Interruptible::Yes, deadline, look)
                    .map_err(wait_error(deadline))?
            }
        };
        let count = sink.put_some(&letter.bytes)?;
        Ok(Received { count, length: letter.bytes.len(), from: Some(encode(0, 0)), ..Received::default() })
    }

    fn option(&self, _task: &TaskRef, level: i32, name: i32) -> Result<Vec<u8>> {
        match (level, name) {
            (SOL_NETLINK, name) if FLAGS.contains(&name) => {
                let on = self.flags.load(Relaxed) >> name & 1;
                Ok((on as i32).to_ne_bytes().to_vec())
            }
            _ => Err(Errno::ENOPROTOOPT),
        }
    }

    fn set_option(&self, _task: &TaskRef, level: i32, name: i32, value: u64, len: usize) -> Result<()> {
        if level != SOL_NETLINK {
            return Err(Errno::ENOPROTOOPT);
        }
        let value = if len >= 4 { UserPtr::<i32>::new(value).read()? } else { 0 };
        match name {
            ADD_MEMBERSHIP | DROP_MEMBERSHIP if !(1..=32).contains(&value) => Err(Errno::EINVAL),
            ADD_MEMBERSHIP => {
                self.with(|s| s.groups |= 1 << (value - 1));
                Ok(())
            }
            DROP_MEMBERSHIP => {
                self.with(|s| s.groups &= !(1 << (value - 1)));
                Ok(())
            }
            name if FLAGS.contains(&name) => {
                match value != 0 {
                    true => self.flags.fetch_or(1 << name, Relaxed),
                    false => self.flags.fetch_and(!(1 << name), Relaxed),
                };
                Ok(())
            }
            _ => Err(Errno::ENOPROTOOPT),
        }
    }

    fn poll(&self, table: Option<&mut PollTable>) -> PollEvents {
        if let Some(table) = table {
            table.register(&self.queue);
        }
        let mut events = PollEvents::WRITABLE | PollEvents::WRBAND;
        events.set(PollEvents::READABLE, self.with(|s| !s.inbox.is_empty()));
        events
    }

    fn queue(&self) -> Option<&Queue> {
        Some(&self.queue)
    }

    fn net(&self) -> Option<&NetNamespace> {
        Some(&self.net)
    }

    fn close(&self) {
        let port = self.with(|s| s.port);
        self.net.stack().netlink.lock().remove(&port);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_programs_have_them() {
        assert_eq!(encode(7, 0)[..], [16, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(decode(&encode(7, 9)), Ok((7, 9)));
        assert_eq!(decode(&encode(7, 9)[..11]), Err(Errno::EINVAL));
        assert_eq!(decode(&[1; 12]), Err(Errno::EINVAL));
    }
}
