//! A socket: its state, how it is asked about, and how it ends.

use alloc::{
    collections::VecDeque,
    sync::{Arc, Weak},
    vec::Vec,
};
use core::sync::atomic::Ordering::Relaxed;

use super::{
    AF_UNIX,
    address::Address,
    flight,
    inbox::{Inbox, Message},
    registry,
};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    fs::FileRef,
    io::{Sink, Source},
    net::{
        common::Common,
        socket::{How, Kind, Name, Outgoing, Peer, Received, Socket},
    },
    sync::{Mutex, PollEvents, PollTable, Queue, SpinLock, WaitQueue},
    syscall::UserPtr,
};

/// Messages a datagram socket holds for senders it is not connected to (`net.unix.max_dgram_qlen`).
pub(super) const DATAGRAMS_MAX: usize = 10;

/// Connections that wait to be accepted.
pub(super) struct Backlog {
    pub limit: usize,
    pub waiting: VecDeque<Arc<UnixSocket>>,
}

#[derive(Default)]
pub(super) struct State {
    pub name: Option<Name>,
    /// The socket at the other end, or where datagrams go. It stays when that one is gone.
    pub peer: Option<Weak<UnixSocket>>,
    /// Who the peer is; of a listener, who listens.
    pub identity: Option<Peer>,
    pub backlog: Option<Backlog>,
    /// In whose backlog it is.
    pub listener: Option<Weak<UnixSocket>>,
    pub inbox: Inbox,
    /// No more is read here; no more is sent from here.
    pub read_shut: bool,
    pub write_shut: bool,
    pub closed: bool,
    /// The name of the peer, which is gone.
    pub gone: Option<Name>,
    /// The peer went with bytes of ours unread.
    pub reset: bool,
}

/// What `/proc/net/unix` shows of a socket.
pub(super) struct Report {
    pub references: usize,
    pub flags: u32,
    pub kind: u32,
    pub state: u32,
    pub ino: u64,
    pub name: Option<Name>,
}

/// An AF_UNIX socket.
pub(crate) struct UnixSocket {
    pub(super) kind: Kind,
    pub(super) common: Common,
    state: SpinLock<State>,
    /// Held while a stream is read, so that readers do not get each other's bytes in between.
    pub(super) reading: Mutex<()>,
    pub(super) queue: Queue,
    /// Itself, for others to refer to.
    pub(super) me: Weak<UnixSocket>,
    /// The number of the network namespace it was made in.
    net_ns: u64,
    /// Its number in the list of all.
    registered: u64,
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        registry::remove(self.registered);
    }
}

impl UnixSocket {
    pub fn new(kind: Kind, net_ns: u64) -> Arc<UnixSocket> {
        Arc::new_cyclic(|this| UnixSocket {
            kind,
            common: Common::default(),
            state: SpinLock::new(State::default()),
            reading: Mutex::new(()),
            queue: WaitQueue::new(),
            me: this.clone(),
            net_ns,
            registered: registry::add(this),
        })
    }

    /// Two connected sockets, both made by `peer`.
    pub fn pair(kind: Kind, net_ns: u64, peer: &Peer) -> [Arc<UnixSocket>; 2] {
        let pair = [UnixSocket::new(kind, net_ns), UnixSocket::new(kind, net_ns)];
        let [a, b] = &pair;
        for (this, other) in [(a, b), (b, a)] {
            this.with(|s| {
                s.peer = Some(Arc::downgrade(other));
                s.identity = Some(peer.clone());
            });
        }
        pair
    }

    /// The number of the network namespace it was made in, where its abstract name is known.
    pub fn net_ns(&self) -> u64 {
        self.net_ns
    }

    pub(super) fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        f(&mut self.state.lock())
    }

    pub(super) fn stream(&self) -> bool {
        self.kind == Kind::Stream
    }

    /// Something to read or to accept, or the end.
    pub(super) fn wake(&self) {
        self.queue.wake_all(PollEvents::empty());
    }

    /// What concerns this side's own doing, and those who wait to send here.
    pub(super) fn wake_others(&self) {
        self.queue.wake_all(PollEvents::WRITABLE);
    }

    /// The socket at the other end, if it is still there.
    pub(super) fn other(&self) -> Option<Arc<UnixSocket>> {
        self.with(|s| s.peer.clone())?.upgrade()
    }

    pub(super) fn is_peer(&self, peer: Option<&Weak<UnixSocket>>) -> bool {
        peer.is_some_and(|p| core::ptr::eq(p.as_ptr(), self))
    }

    /// Bytes sent from here that were not received yet (`SIOCOUTQ`).
    fn unreceived(&self) -> usize {
        self.other().map_or(0, |p| p.with(|s| s.inbox.readable(true)))
    }

    /// Whose inbox this is to one who looks for what can be reached: of one that waits to be accepted, its listener's.
    pub(super) fn keeper(self: &Arc<Self>) -> usize {
        let listener = self.with(|s| s.listener.as_ref().map(|l| l.as_ptr().addr()));
        listener.unwrap_or_else(|| Arc::as_ptr(self).addr())
    }

    pub(super) fn sockets_in_inbox(&self) -> Vec<FileRef> {
        self.with(|s| s.inbox.sockets())
    }

    /// Empties the inbox, for the caller to drop.
    pub(super) fn take_messages(&self) -> VecDeque<Message> {
        self.with(|s| s.inbox.clear())
    }

    pub(super) fn report(self: &Arc<Self>) -> Report {
        const ACCEPTS: u32 = 0x1_0000;
        let references = Arc::strong_count(self);
        self.with(|s| Report {
            references,
            flags: if s.backlog.is_some() { ACCEPTS } else { 0 },
            kind: self.kind as u32,
            // SS_UNCONNECTED or SS_CONNECTED
            state: if s.peer.is_some() { 3 } else { 1 },
            ino: self.common.ino(),
            name: s.name.clone(),
        })
    }
}

impl Socket for UnixSocket {
    fn common(&self) -> &Common {
        &self.common
    }

    fn domain(&self) -> i32 {
        AF_UNIX.into()
    }

    fn kind(&self) -> Kind {
        self.kind
    }

    fn bind(&self, task: &TaskRef, name: &[u8]) -> Result<()> {
        self.bind_to(task, Address::decode(name)?)
    }

    fn listen(&self, task: &TaskRef, backlog: i32) -> Result<()> {
        self.start_listening(task, backlog)
    }

    fn connect(&self, task: &TaskRef, to: &[u8], nonblocking: bool) -> Result<()> {
        self.connect_to(task, to, nonblocking)
    }

    fn accept(&self, task: &TaskRef, nonblocking: bool) -> Result<Arc<dyn Socket>> {
        let socket: Arc<dyn Socket> = self.accept_next(task, nonblocking)?;
        Ok(socket)
    }

    fn shutdown(&self, read: bool, write: bool) -> Result<()> {
        let peer = self.other();
        let connectionless = self.kind == Kind::Datagram;
        self.with(|s| {
            s.read_shut |= read;
            s.write_shut |= write;
        });
        if connectionless {
            // Nothing changes for who polls the other end; who waits to send here is woken.
            self.queue.wake_all(PollEvents::READABLE);
            return Ok(());
        }
        self.wake();
        if let Some(peer) = peer {
            peer.with(|s| {
                s.read_shut |= write;
                s.write_shut |= read;
            });
            peer.wake();
        }
        Ok(())
    }

    fn name(&self) -> Name {
        self.with(|s| s.name.clone()).unwrap_or_else(|| Address::encode(None))
    }

    fn peer_name(&self) -> Result<Name> {
        let (peer, gone) = self.with(|s| (s.peer.clone(), s.gone.clone()));
        let peer = peer.ok_or(Errno::ENOTCONN)?;
        Ok(peer.upgrade().map_or_else(|| gone.unwrap_or_else(|| Address::encode(None)), |p| p.name()))
    }

    fn send(&self, task: &TaskRef, source: &mut Source<'_>, message: Outgoing<'_>) -> Result {
        match self.kind {
            Kind::Stream => self.send_bytes(task, source, message),
            _ => self.send_message(task, source, message),
        }
    }

    fn receive(&self, task: &TaskRef, sink: &mut Sink<'_>, how: How) -> Result<Received> {
        match self.kind {
            Kind::Stream if how.peek => self.peek(task, sink, how),
            Kind::Stream => self.receive_bytes(task, sink, how),
            _ => self.receive_message(task, sink, how),
        }
    }

    fn is_listening(&self) -> bool {
        self.with(|s| s.backlog.is_some())
    }

    fn take_error(&self) -> Option<Errno> {
        self.with(|s| core::mem::take(&mut s.reset)).then_some(Errno::ECONNRESET)
    }

    fn peer(&self) -> Option<Peer> {
        self.with(|s| s.identity.clone())
    }

    fn has_peek_offset(&self) -> bool {
        true
    }

    fn options_changed(&self) {
        if let Some(peer) = self.other() {
            peer.wake_others(); // there may be room now
        }
    }

    fn poll(&self, table: Option<&mut PollTable>) -> PollEvents {
        let peer = self.other();
        if let Some(table) = table {
            table.register(&self.queue);
            if let Some(peer) = &peer {
                table.register_for(&peer.queue, PollEvents::WRITABLE); // for room there
            }
        }
        // A stream is writable while a third of the peer's inbox is free, as on Linux.
        let limit = self.common.send_buffer.load(Relaxed);
        let connectionless = self.kind == Kind::Datagram;
        let room = peer.as_ref().is_none_or(|p| {
            p.with(|s| {
                let mutual = self.is_peer(s.peer.as_ref());
                s.inbox.room(limit) >= limit / 3
                    && (!connectionless || mutual || s.inbox.len() <= DATAGRAMS_MAX)
            })
        });
        self.with(|s| {
            let mut events = PollEvents::empty();
            let waiting = s.backlog.as_ref().is_some_and(|b| !b.waiting.is_empty());
            events.set(PollEvents::READABLE, !s.inbox.is_empty() || waiting || s.read_shut);
            events.set(PollEvents::RDHUP, s.read_shut);
            let hung_up = s.read_shut && s.write_shut;
            let unconnected = !connectionless && s.peer.is_none() && s.backlog.is_none();
            events.set(PollEvents::HUP, hung_up || unconnected);
            events.set(PollEvents::WRITABLE, s.backlog.is_none() && (room || s.write_shut));
            events.set(PollEvents::ERR, s.reset);
            events
        })
    }

    fn queue(&self) -> Option<&Queue> {
        Some(&self.queue)
    }

    fn ioctl(&self, _task: &TaskRef, command: u32, arg: u64) -> Result {
        const SIOCINQ: u32 = 0x541b;
        const SIOCOUTQ: u32 = 0x5411;
        let n = match command {
            SIOCINQ if self.is_listening() => return Err(Errno::EINVAL),
            SIOCINQ => self.with(|s| s.inbox.readable(self.kind != Kind::Datagram)),
            SIOCOUTQ => self.unreceived(),
            _ => return Err(Errno::ENOTTY),
        };
        UserPtr::<i32>::new(arg).write(&(n as i32))?;
        Ok(0)
    }

    fn close(&self) {
        self.end(false);
    }
}

impl UnixSocket {
    /// The last descriptor is gone, or (`unaccepted`) the listener in whose backlog it is: then its peer is told of a reset.
    fn end(&self, unaccepted: bool) {
        let (messages, backlog, peer, name, was_full) = self.with(|s| {
            s.closed = true;
            let was_full =
                s.inbox.len() > DATAGRAMS_MAX || s.inbox.room(self.common.send_buffer.load(Relaxed)) == 0;
            (s.inbox.clear(), s.backlog.take(), s.peer.take(), s.name.clone(), was_full)
        });
        let peer = peer.and_then(|p| p.upgrade());
        if let Some(peer) = peer.filter(|_| self.kind != Kind::Datagram) {
            peer.with(|s| {
                s.read_shut = true;
                s.write_shut = true;
                s.reset |= unaccepted || !messages.is_empty();
                s.gone = name;
            });
            peer.wake();
        }
        if self.kind == Kind::Datagram && !was_full {
            self.queue.wake_all(PollEvents::READABLE); // who polls for room here has been told of it
        } else {
            self.wake();
        }
        for socket in backlog.into_iter().flat_map(|b| b.waiting) {
            socket.end(true);
        }
        drop(messages);
        flight::collect();
    }
}
