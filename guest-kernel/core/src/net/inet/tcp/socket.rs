//! A TCP socket: its state, how it is asked about, and how it ends.

use alloc::{
    collections::VecDeque,
    sync::{Arc, Weak},
    vec::Vec,
};
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::{
    super::{
        IPPROTO_TCP,
        address::{Endpoint, Version, encode},
        options::Options,
        ports::{Holder, Ticket},
        stack::Stack,
    },
    info,
    link::{Handle, Side, writable},
    remote,
};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    io::{Sink, Source},
    net::{
        common::{Common, SO_REUSEADDR, SO_REUSEPORT},
        socket::{How, Kind, Name, Outgoing, Received, Socket},
    },
    ns::NetNamespace,
    sync::{PollEvents, PollTable, Queue, SpinLock, WaitQueue},
    syscall::UserPtr,
};

/// `tcp_wmem` and `tcp_rmem`: what a socket begins with.
const SEND_BUFFER: usize = 16_384;
const RECEIVE_BUFFER: usize = 131_072;

/// Connections at a listener.
#[derive(Default)]
pub(super) struct Backlog {
    pub limit: usize,
    /// Those that can be accepted.
    pub ready: VecDeque<Arc<TcpSocket>>,
    /// Those that wait for a place.
    pub waiting: VecDeque<Weak<TcpSocket>>,
}

pub(super) enum Phase {
    /// CLOSE.
    Idle,
    /// LISTEN.
    Listening(Backlog),
    /// SYN_SENT: the listener there has no room.
    Waiting(Endpoint),
    /// What it is says the connection.
    Connected(Handle),
}

pub(super) struct State {
    pub phase: Phase,
    pub local: Endpoint,
    /// Its port.
    pub ticket: Option<Ticket>,
    /// The program chose the address, and the port.
    pub chosen: (bool, bool),
    /// Why there is no connection, to be told once.
    pub error: Option<Errno>,
    /// A `connect` that did not wait has not been told its outcome.
    pub connecting: bool,
    /// What is shut of a socket that is not connected.
    pub read_shut: bool,
    pub write_shut: bool,
    /// Nobody has it open.
    pub closed: bool,
}

/// A TCP socket.
pub(crate) struct TcpSocket {
    pub(super) version: Version,
    pub(super) common: Common,
    pub(super) options: Options,
    pub(super) queue: Queue,
    pub(super) me: Weak<TcpSocket>,
    pub(super) net: Arc<NetNamespace>,
    pub(super) uid: u32,
    /// Whether its phase is `Listening`, for those who hold the port table.
    pub(super) listens: AtomicBool,
    state: SpinLock<State>,
}

impl Holder for TcpSocket {
    fn reuses_address(&self) -> bool {
        self.common.flag(SO_REUSEADDR)
    }
    fn reuses_port(&self) -> bool {
        self.common.flag(SO_REUSEPORT)
    }
    fn is_listening(&self) -> bool {
        self.listens.load(Relaxed)
    }
    fn uid(&self) -> u32 {
        self.uid
    }
}

impl TcpSocket {
    pub fn new(task: &TaskRef, version: Version) -> Arc<TcpSocket> {
        let common = Common::with_buffers(SEND_BUFFER, RECEIVE_BUFFER);
        let (net, uid) = (task.namespaces().net.clone(), task.credentials().fsuid);
        Self::make(version, common, Options::new(version), net, uid)
    }

    /// One that belongs to nobody.
    pub(super) fn in_namespace(net: &Arc<NetNamespace>, version: Version) -> Arc<TcpSocket> {
        let common = Common::with_buffers(SEND_BUFFER, RECEIVE_BUFFER);
        Self::make(version, common, Options::new(version), net.clone(), 0)
    }

    fn make(
        version: Version,
        common: Common,
        options: Options,
        net: Arc<NetNamespace>,
        uid: u32,
    ) -> Arc<TcpSocket> {
        Arc::new_cyclic(|me| TcpSocket {
            version,
            common,
            options,
            queue: WaitQueue::new(),
            me: me.clone(),
            net,
            uid,
            listens: AtomicBool::new(false),
            state: SpinLock::new(State {
                phase: Phase::Idle,
                local: Endpoint::none(version),
                ticket: None,
                chosen: (false, false),
                error: None,
                connecting: false,
                read_shut: false,
                write_shut: false,
                closed: false,
            }),
        })
    }

    /// The socket for a connection to this listener.
    pub(super) fn offspring(&self) -> Arc<TcpSocket> {
        Self::make(self.version, self.common.inherit(), self.options.inherit(), self.net.clone(), self.uid)
    }

    pub(super) fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        f(&mut self.state.lock())
    }

    pub(super) fn stack(&self) -> &Stack {
        self.net.stack()
    }

    /// An end of a connection with the buffers of this socket.
    pub(super) fn side(&self) -> Side {
        Side {
            send_buffer: self.common.send_buffer.load(Relaxed),
            receive_buffer: self.common.receive_buffer.load(Relaxed),
            ..Side::default()
        }
    }

    /// The connection, if it has one.
    pub(super) fn handle(&self) -> Option<Handle> {
        self.with(|s| match &s.phase {
            Phase::Connected(handle) => Some(handle.clone()),
            _ => None,
        })
    }

    /// Whatever it waits for has changed.
    pub(super) fn wake(&self) {
        self.queue.wake_all(PollEvents::empty());
    }

    /// Gives its port back unless the program chose it.
    pub(super) fn give_back(&self) {
        let ticket = self.with(|s| {
            if !s.chosen.0 {
                s.local.ip = self.version.any();
            }
            if s.chosen.1 {
                return None;
            }
            s.local.port = 0;
            s.ticket.take()
        });
        if let Some(ticket) = ticket {
            self.stack().tcp.lock().release(ticket);
        }
    }

    /// What was said about a socket without a connection.
    fn poll_idle(s: &State) -> PollEvents {
        let mut events = PollEvents::empty();
        events.set(PollEvents::ERR, s.error.is_some());
        match &s.phase {
            Phase::Listening(b) => events.set(PollEvents::READABLE, !b.ready.is_empty()),
            Phase::Waiting(_) => {}
            _ => {
                events |= PollEvents::HUP | PollEvents::WRITABLE;
                events.set(PollEvents::READABLE | PollEvents::RDHUP, s.read_shut);
            }
        }
        events
    }

    /// The last descriptor is gone, or it will not be accepted (`abort`).
    pub(super) fn end(&self, abort: bool) {
        let (phase, ticket) = self.with(|s| {
            s.closed = true;
            (core::mem::replace(&mut s.phase, Phase::Idle), s.ticket.take())
        });
        self.listens.store(false, Relaxed);
        if let Some(ticket) = ticket {
            self.stack().tcp.lock().release(ticket);
        }
        // On, and no time.
        let linger = self.common.linger.load(Relaxed);
        let abort = abort || linger as u32 != 0 && linger >> 32 == 0;
        self.leave(phase, abort);
    }

    /// Ends what it was in.
    pub(super) fn leave(&self, phase: Phase, abort: bool) {
        match phase {
            Phase::Connected(handle) => handle.close(abort),
            Phase::Listening(backlog) => {
                for socket in backlog.ready {
                    socket.end(true);
                }
                for client in backlog.waiting.iter().filter_map(Weak::upgrade) {
                    client.refuse(Errno::ECONNREFUSED);
                }
            }
            Phase::Waiting(to) => {
                let local = self.with(|s| s.local);
                self.stack().disconnect(local, to);
                remote::give_up(self.stack(), (local, to));
            }
            Phase::Idle => {}
        }
    }
}

impl Socket for TcpSocket {
    fn common(&self) -> &Common {
        &self.common
    }

    fn domain(&self) -> i32 {
        self.version.family().into()
    }

    fn kind(&self) -> Kind {
        Kind::Stream
    }

    fn protocol(&self) -> i32 {
        IPPROTO_TCP
    }

    fn bind(&self, task: &TaskRef, name: &[u8]) -> Result<()> {
        self.bind_to(task, name)
    }

    fn listen(&self, _task: &TaskRef, backlog: i32) -> Result<()> {
        self.start_listening(backlog)
    }

    fn connect(&self, task: &TaskRef, to: &[u8], nonblocking: bool) -> Result<()> {
        self.connect_to(task, to, nonblocking)
    }

    fn accept(&self, task: &TaskRef, nonblocking: bool) -> Result<Arc<dyn Socket>> {
        let socket: Arc<dyn Socket> = self.accept_next(task, nonblocking)?;
        Ok(socket)
    }

    fn shutdown(&self, read: bool, write: bool) -> Result<()> {
        let (handle, stopped) = self.with(|s| match &s.phase {
            Phase::Connected(handle) => (Some(handle.clone()), None),
            // Nothing more is accepted; the port stays.
            Phase::Listening(_) if read => (None, Some(core::mem::replace(&mut s.phase, Phase::Idle))),
            Phase::Waiting(_) => (None, Some(core::mem::replace(&mut s.phase, Phase::Idle))),
            _ => {
                s.read_shut |= read;
                s.write_shut |= write;
                (None, None)
            }
        });
        let result = match (handle, stopped) {
            (Some(handle), _) => {
                let over = handle.with(|mine, _| {
                    mine.read_shut |= read;
                    mine.over
                });
                if write {
                    handle.finish();
                }
                if over { Err(Errno::ENOTCONN) } else { Ok(()) }
            }
            (_, Some(phase)) => {
                self.listens.store(false, Relaxed);
                self.with(|s| s.connecting = false);
                self.leave(phase, true);
                self.give_back();
                Ok(())
            }
            _ if self.listens.load(Relaxed) => Ok(()),
            _ => Err(Errno::ENOTCONN),
        };
        self.wake();
        result
    }

    fn name(&self) -> Name {
        encode(self.version, self.with(|s| s.local))
    }

    fn peer_name(&self) -> Result<Name> {
        let handle = self.handle().filter(|h| !h.with(|mine, _| mine.over)).ok_or(Errno::ENOTCONN)?;
        Ok(encode(self.version, handle.names().1))
    }

    fn accepted_from(&self) -> Result<Name> {
        // It may be over by now; who it was is known.
        let handle = self.handle().ok_or(Errno::ECONNABORTED)?;
        Ok(encode(self.version, handle.names().1))
    }

    fn send(&self, task: &TaskRef, source: &mut Source<'_>, message: Outgoing<'_>) -> Result {
        self.send_bytes(task, source, message.how)
    }

    fn receive(&self, task: &TaskRef, sink: &mut Sink<'_>, how: How) -> Result<Received> {
        let count = self.receive_bytes(task, sink, how)?;
        Ok(Received { count, length: count, ..Received::default() })
    }

    fn is_listening(&self) -> bool {
        self.listens.load(Relaxed)
    }

    fn take_error(&self) -> Option<Errno> {
        let error = self.with(|s| s.error.take());
        error.or_else(|| self.handle()?.with(|mine, _| mine.error.take()))
    }

    fn options_changed(&self) {
        if let Some(handle) = self.handle() {
            handle.resize(&self.side());
        }
        self.tell_machine();
    }

    fn option(&self, _task: &TaskRef, level: i32, name: i32) -> Result<Vec<u8>> {
        info::option(self, level, name)
    }

    fn set_option(&self, _task: &TaskRef, level: i32, name: i32, value: u64, len: usize) -> Result<()> {
        info::set_option(self, level, name, value, len)
    }

    fn poll(&self, table: Option<&mut PollTable>) -> PollEvents {
        if let Some(table) = table {
            table.register(&self.queue);
        }
        let handle = match self.with(|s| match &s.phase {
            Phase::Connected(handle) => Ok(handle.clone()),
            _ => Err(Self::poll_idle(s)),
        }) {
            Ok(handle) => handle,
            Err(events) => return events,
        };
        let low_water = self.common.receive_low_water.load(Relaxed).max(1) as usize;
        handle.with(|mine, theirs| {
            let mut events = PollEvents::empty();
            let read_end = mine.read_shut || mine.done || mine.over;
            let write_end = mine.fin || mine.over;
            let room = write_end || writable(mine, theirs);
            mine.starved |= !room;
            let limit = mine.receive_buffer + theirs.send_buffer;
            events.set(PollEvents::READABLE, read_end || mine.queued >= low_water.min(limit));
            events.set(PollEvents::RDHUP, read_end);
            events.set(PollEvents::WRITABLE, room);
            events.set(PollEvents::HUP, read_end && write_end);
            events.set(PollEvents::ERR, mine.error.is_some());
            events
        })
    }

    fn queue(&self) -> Option<&Queue> {
        Some(&self.queue)
    }

    fn ioctl(&self, _task: &TaskRef, command: u32, arg: u64) -> Result {
        const SIOCINQ: u32 = 0x541b;
        const SIOCOUTQ: u32 = 0x5411;
        const SIOCOUTQNSD: u32 = 0x894b;
        const SIOCATMARK: u32 = 0x8905;
        let n = match command {
            SIOCINQ | SIOCOUTQ | SIOCOUTQNSD if self.listens.load(Relaxed) => return Err(Errno::EINVAL),
            SIOCINQ => self.handle().map_or(0, |h| h.with(|mine, _| mine.queued)),
            SIOCOUTQ => self
                .handle()
                .map_or(0, |h| h.with(|_, theirs| theirs.queued.saturating_sub(theirs.receive_buffer))),
            // Nothing is kept back, and nothing is urgent.
            SIOCOUTQNSD | SIOCATMARK => 0,
            _ => return Err(Errno::ENOTTY),
        };
        UserPtr::<i32>::new(arg).write(&(n as i32))?;
        Ok(0)
    }

    fn net(&self) -> Option<&NetNamespace> {
        Some(&self.net)
    }

    fn close(&self) {
        self.end(false);
    }
}
