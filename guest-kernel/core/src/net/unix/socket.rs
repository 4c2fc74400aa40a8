//! A socket: its state, and what can be done to it.

use alloc::{
    collections::VecDeque,
    string::String,
    sync::{Arc, Weak},
    vec,
    vec::Vec,
};

use super::{
    address::{self, Address},
    inbox::{Credentials, Inbox, LIMIT, Message},
};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    fs::{File, FileRef, OpenFile, OpenFlags},
    io::{Sink, Source},
    sync::{Interruptible, PollEvents, PollTable, Queue, SpinLock, WaitError, WaitQueue, wait_event},
    syscall::UserPtr,
    time::deadline_after,
};

const READABLE: PollEvents = PollEvents::IN.union(PollEvents::RDNORM);
const WRITABLE: PollEvents = PollEvents::OUT.union(PollEvents::WRNORM);

/// Bytes of one piece of a stream.
const PIECE: usize = 16 * 1024;
/// `net.core.somaxconn`.
const BACKLOG_MAX: usize = 4096;

/// The type of a socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Stream,
    Datagram,
    SeqPacket,
}

struct Backlog {
    limit: usize,
    waiting: VecDeque<Arc<UnixSocket>>,
}

#[derive(Default)]
struct State {
    name: Option<Address>,
    /// The socket at the other end, or where datagrams go.
    peer: Option<Weak<UnixSocket>>,
    peer_credentials: Option<Credentials>,
    backlog: Option<Backlog>,
    inbox: Inbox,
    /// No more is read here; no more is sent from here.
    read_shut: bool,
    write_shut: bool,
    closed: bool,
    /// The peer went with bytes of ours unread.
    reset: bool,
    pass_credentials: bool,
    receive_timeout: Option<u64>,
    send_timeout: Option<u64>,
}

/// An AF_UNIX socket.
pub(crate) struct UnixSocket {
    kind: Kind,
    state: SpinLock<State>,
    queue: Queue,
}

/// What a receive got beside the bytes.
#[derive(Default)]
pub(crate) struct Received {
    /// Bytes put into the sink.
    pub count: usize,
    /// Length of the message, which may have been more.
    pub length: usize,
    pub files: Vec<FileRef>,
    pub credentials: Credentials,
    pub from: Option<Address>,
}

/// How a call behaves.
#[derive(Clone, Copy, Default)]
pub(crate) struct How {
    pub nonblocking: bool,
    pub peek: bool,
    pub wait_all: bool,
}

impl UnixSocket {
    pub fn new(kind: Kind) -> Arc<UnixSocket> {
        Arc::new(UnixSocket { kind, state: SpinLock::new(State::default()), queue: WaitQueue::new() })
    }

    /// Two connected sockets.
    pub fn pair(kind: Kind, credentials: Credentials) -> [Arc<UnixSocket>; 2] {
        let pair = [UnixSocket::new(kind), UnixSocket::new(kind)];
        let [a, b] = &pair;
        for (this, other) in [(a, b), (b, a)] {
            this.with(|s| {
                s.peer = Some(Arc::downgrade(other));
                s.peer_credentials = Some(credentials);
            });
        }
        pair
    }

    fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        f(&mut self.state.lock())
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    fn stream(&self) -> bool {
        self.kind == Kind::Stream
    }

    fn wake(&self) {
        self.queue.wake_all(PollEvents::empty());
    }

    fn peer(&self) -> Option<Arc<UnixSocket>> {
        self.with(|s| s.peer.clone())?.upgrade()
    }

    pub fn name(&self) -> Option<Address> {
        self.with(|s| s.name.clone())
    }

    pub fn peer_name(&self) -> Result<Option<Address>> {
        Ok(self.peer().ok_or(Errno::ENOTCONN)?.name())
    }

    pub fn peer_credentials(&self) -> Option<Credentials> {
        self.with(|s| s.peer_credentials)
    }

    pub fn is_listening(&self) -> bool {
        self.with(|s| s.backlog.is_some())
    }

    pub fn set_pass_credentials(&self, on: bool) {
        self.with(|s| s.pass_credentials = on);
    }

    pub fn passes_credentials(&self) -> bool {
        self.with(|s| s.pass_credentials)
    }

    /// `SO_RCVTIMEO` (`receive`) or `SO_SNDTIMEO` in nanoseconds.
    pub fn timeout(&self, receive: bool) -> Option<u64> {
        self.with(|s| if receive { s.receive_timeout } else { s.send_timeout })
    }

    pub fn set_timeout(&self, receive: bool, ns: Option<u64>) {
        self.with(|s| *(if receive { &mut s.receive_timeout } else { &mut s.send_timeout }) = ns);
    }

    /// `SO_ERROR`: reading it clears it.
    pub fn take_error(&self) -> Option<Errno> {
        self.with(|s| core::mem::take(&mut s.reset)).then_some(Errno::ECONNRESET)
    }

    // --- names and connections ---

    pub fn bind(self: &Arc<Self>, task: &TaskRef, address: Option<Address>) -> Result<()> {
        if self.name().is_some() {
            return Err(Errno::EINVAL);
        }
        let name = address::bind(task, self, address)?;
        self.with(|s| s.name = Some(name));
        Ok(())
    }

    pub fn listen(&self, backlog: i32, credentials: Credentials) -> Result<()> {
        if self.kind == Kind::Datagram {
            return Err(Errno::EOPNOTSUPP);
        }
        let limit = usize::try_from(backlog).unwrap_or(BACKLOG_MAX).min(BACKLOG_MAX);
        self.with(|s| {
            if s.name.is_none() || s.peer.is_some() {
                return Err(Errno::EINVAL);
            }
            s.peer_credentials = Some(credentials);
            match &mut s.backlog {
                Some(backlog) => backlog.limit = limit,
                none => *none = Some(Backlog { limit, waiting: VecDeque::new() }),
            }
            Ok(())
        })?;
        self.wake();
        Ok(())
    }

    pub fn connect(self: &Arc<Self>, task: &TaskRef, to: &Address, how: How, me: Credentials) -> Result<()> {
        let target = address::find(task, to)?;
        if target.kind != self.kind {
            return Err(Errno::EPROTOTYPE);
        }
        if self.kind == Kind::Datagram {
            self.with(|s| s.peer = Some(Arc::downgrade(&target)));
            return Ok(());
        }
        self.with(|s| match (&s.backlog, &s.peer) {
            (Some(_), _) => Err(Errno::EINVAL),
            (_, Some(_)) => Err(Errno::EISCONN),
            _ => Ok(()),
        })?;
        let server = UnixSocket::new(self.kind);
        let (name, listener) = target.with(|s| (s.name.clone(), s.peer_credentials));
        server.with(|s| {
            s.name = name;
            s.peer = Some(Arc::downgrade(self));
            s.peer_credentials = Some(me);
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
            None if how.nonblocking => return Err(Errno::EAGAIN),
            None => {
                let deadline = self.timeout(false).map(deadline_after);
                wait_event(task, &target.queue, Interruptible::Yes, deadline, enter).map_err(timed_out)??;
            }
        }
        self.with(|s| {
            s.peer = Some(Arc::downgrade(&server));
            s.peer_credentials = listener;
        });
        target.wake();
        self.wake();
        Ok(())
    }

    pub fn accept(&self, task: &TaskRef, nonblocking: bool) -> Result<Arc<UnixSocket>> {
        let take = || {
            self.with(|s| match &mut s.backlog {
                None => Some(Err(Errno::EINVAL)),
                Some(backlog) => match backlog.waiting.pop_front() {
                    Some(socket) => Some(Ok(socket)),
                    None if s.read_shut => Some(Err(Errno::EINVAL)),
                    None => None,
                },
            })
        };
        let socket = match take() {
            Some(outcome) => outcome?,
            None if nonblocking => return Err(Errno::EAGAIN),
            None => {
                let deadline = self.timeout(true).map(deadline_after);
                wait_event(task, &self.queue, Interruptible::Yes, deadline, take).map_err(timed_out)??
            }
        };
        self.wake(); // clients may wait for a place
        Ok(socket)
    }

    pub fn shutdown(&self, read: bool, write: bool) -> Result<()> {
        let peer = self.peer();
        if peer.is_none() && self.kind != Kind::Datagram && !self.is_listening() {
            return Err(Errno::ENOTCONN);
        }
        self.with(|s| {
            s.read_shut |= read;
            s.write_shut |= write;
        });
        if let Some(peer) = peer
            && self.kind != Kind::Datagram
        {
            peer.with(|s| {
                s.read_shut |= write;
                s.write_shut |= read;
            });
            peer.wake();
        }
        self.wake();
        Ok(())
    }

    /// The last descriptor is gone.
    fn close(&self) {
        let (messages, backlog, peer) = self.with(|s| {
            s.closed = true;
            (s.inbox.clear(), s.backlog.take(), s.peer.take())
        });
        if let Some(peer) = peer.and_then(|p| p.upgrade())
            && self.kind != Kind::Datagram
        {
            peer.with(|s| {
                s.read_shut = true;
                s.write_shut = true;
                s.reset |= !messages.is_empty();
            });
            peer.wake();
        }
        self.wake();
        for socket in backlog.into_iter().flat_map(|b| b.waiting) {
            socket.close();
        }
        drop(messages);
    }

    // --- messages ---

    /// Sends all of `source` with `files`. Says how much was sent; `EPIPE` is the caller's to announce.
    pub fn send(
        self: &Arc<Self>,
        task: &TaskRef,
        source: &mut Source<'_>,
        files: Vec<FileRef>,
        to: Option<&Address>,
        how: How,
        me: Credentials,
    ) -> Result {
        let target = match to {
            Some(_) if self.kind != Kind::Datagram => return Err(Errno::EISCONN),
            Some(address) => {
                let target = address::find(task, address)?;
                if target.kind != self.kind {
                    return Err(Errno::EPROTOTYPE);
                }
                target
            }
            None if self.with(|s| s.write_shut) => return Err(Errno::EPIPE),
            None => self.peer().ok_or(match (self.kind, self.with(|s| s.peer.is_some())) {
                (Kind::Datagram, true) => Errno::ECONNREFUSED,
                (_, true) => Errno::EPIPE,
                (_, false) => Errno::ENOTCONN,
            })?,
        };
        let total = source.remaining();
        if !self.stream() && total > LIMIT {
            return Err(Errno::EMSGSIZE);
        }
        if self.stream() && total == 0 {
            return Ok(0);
        }
        let deadline = self.timeout(false).map(deadline_after);
        let mut files = files;
        let mut done = 0;
        loop {
            let want = if self.stream() { source.remaining().min(PIECE) } else { total };
            let outcome =
                self.wait_for_room(task, &target, want, how.nonblocking, deadline).and_then(|room| {
                    let mut bytes = vec![0; want.min(room)];
                    source.take(&mut bytes)?;
                    let n = bytes.len();
                    let files = core::mem::take(&mut files);
                    let message = Message { bytes, start: 0, files, credentials: me, from: self.name() };
                    target.with(|s| s.inbox.push(message, self.stream()))?;
                    target.queue.wake_all(READABLE);
                    Ok(n)
                });
            match outcome {
                Ok(n) => done += n,
                Err(_) if done > 0 => return Ok(done),
                Err(e) => return Err(e),
            }
            if done >= total {
                return Ok(done);
            }
        }
    }

    /// Waits until `target` has room: for any bytes of a stream, for the whole of a message.
    fn wait_for_room(
        &self,
        task: &TaskRef,
        target: &Arc<UnixSocket>,
        want: usize,
        nonblocking: bool,
        deadline: Option<u64>,
    ) -> Result {
        let look = || {
            if self.kind != Kind::Datagram && self.with(|s| s.write_shut) {
                return Some(Err(Errno::EPIPE));
            }
            target.with(|s| match s.inbox.room() {
                _ if s.closed && self.kind == Kind::Datagram => Some(Err(Errno::ECONNREFUSED)),
                _ if s.closed => Some(Err(Errno::EPIPE)),
                room if room >= want || s.inbox.is_empty() => Some(Ok(want)),
                room if self.stream() && room >= LIMIT / 8 => Some(Ok(room)),
                _ => None,
            })
        };
        match look() {
            Some(outcome) => outcome,
            None if nonblocking => Err(Errno::EAGAIN),
            None => wait_event(task, &target.queue, Interruptible::Yes, deadline, look).map_err(timed_out)?,
        }
    }

    /// Receives into `sink`. A stream fills it with what there is, up to where files were sent along; the other
    /// kinds take one message.
    pub fn receive(&self, task: &TaskRef, sink: &mut Sink<'_>, how: How) -> Result<Received> {
        if self.stream() && self.peer().is_none() && self.with(|s| s.peer.is_none() && !s.read_shut) {
            return Err(Errno::EINVAL); // never connected
        }
        let deadline = self.timeout(true).map(deadline_after);
        let mut got = Received::default();
        loop {
            let taken = match self.take_or_end() {
                Some(taken) => taken,
                None if got.count > 0 && !how.wait_all => None,
                None if how.nonblocking && got.count > 0 => None,
                None if how.nonblocking => return Err(Errno::EAGAIN),
                None => {
                    let waited =
                        wait_event(task, &self.queue, Interruptible::Yes, deadline, || self.take_or_end());
                    match waited {
                        Ok(taken) => taken,
                        Err(_) if got.count > 0 => None,
                        Err(e) => return Err(timed_out(e)),
                    }
                }
            };
            let Some(mut message) = taken else {
                let reset = got.count == 0 && self.with(|s| core::mem::take(&mut s.reset));
                return if reset { Err(Errno::ECONNRESET) } else { Ok(got) };
            };
            let other_sender =
                got.count > 0 && self.passes_credentials() && message.credentials != got.credentials;
            if got.count > 0 && (!message.files.is_empty() || other_sender) {
                self.with(|s| s.inbox.put_back(message));
                return Ok(got);
            }
            let length = message.rest().len();
            let copied = message.read(sink, how.peek);
            if copied.is_ok() {
                got.length += length;
                got.credentials = message.credentials;
                got.from = message.from.clone();
                got.files =
                    if how.peek { message.files.clone() } else { core::mem::take(&mut message.files) };
            }
            if how.peek || copied.is_err() || (self.stream() && !message.rest().is_empty()) {
                self.with(|s| s.inbox.put_back(message));
            }
            match copied {
                Ok(n) => got.count += n,
                Err(_) if got.count > 0 => return Ok(got),
                Err(e) => return Err(e),
            }
            // There may be room for senders now: they wait here, too.
            self.queue.wake_all(WRITABLE);
            if !self.stream() || how.peek || sink.remaining() == 0 || !got.files.is_empty() {
                return Ok(got);
            }
        }
    }

    /// The first message; `Some(None)` if none will come.
    fn take_or_end(&self) -> Option<Option<Message>> {
        self.with(|s| match s.inbox.pop() {
            Some(message) => Some(Some(message)),
            None if s.read_shut => Some(None),
            None => None,
        })
    }
}

/// A time-out that was set on the socket shows as `EAGAIN`.
fn timed_out(e: WaitError) -> Errno {
    match e {
        WaitError::TimedOut => Errno::EAGAIN,
        WaitError::Interrupted => Errno::ERESTARTSYS,
    }
}

/// Who `task` says it is.
pub(crate) fn credentials_of(task: &TaskRef) -> Credentials {
    let c = task.credentials();
    Credentials { pid: task.pid(), uid: c.euid, gid: c.egid }
}

/// The file of a socket.
pub(crate) struct SocketFile(pub Arc<UnixSocket>);

impl File for SocketFile {
    fn read(&self, file: &OpenFile, task: &TaskRef, sink: &mut Sink<'_>) -> Result {
        if sink.remaining() == 0 && self.0.stream() {
            return Ok(0);
        }
        let how = How { nonblocking: file.nonblocking(), ..How::default() };
        Ok(self.0.receive(task, sink, how)?.count)
    }

    fn write(&self, file: &OpenFile, task: &TaskRef, source: &mut Source<'_>) -> Result {
        let how = How { nonblocking: file.nonblocking(), ..How::default() };
        let result = self.0.send(task, source, Vec::new(), None, how, credentials_of(task));
        if result == Err(Errno::EPIPE) {
            crate::fs::pipe::broken(task);
        }
        result
    }

    fn poll(&self, table: Option<&mut PollTable>) -> PollEvents {
        let peer = self.0.peer();
        if let Some(table) = table {
            table.register(&self.0.queue);
            if let Some(peer) = &peer {
                table.register(&peer.queue);
            }
        }
        // A stream is writable while a third of the peer's inbox is free, as on Linux.
        let room = peer.as_ref().is_none_or(|p| p.with(|s| s.inbox.room() >= LIMIT / 3));
        let connectionless = self.0.kind == Kind::Datagram;
        self.0.with(|s| {
            let mut events = PollEvents::empty();
            let waiting = s.backlog.as_ref().is_some_and(|b| !b.waiting.is_empty());
            events.set(READABLE, !s.inbox.is_empty() || waiting || s.read_shut);
            events.set(PollEvents::RDHUP, s.read_shut);
            let hung_up = s.read_shut && s.write_shut;
            let unconnected = !connectionless && s.peer.is_none() && s.backlog.is_none();
            events.set(PollEvents::HUP, hung_up || unconnected);
            events.set(WRITABLE, s.backlog.is_none() && (room || s.write_shut));
            events.set(PollEvents::ERR, s.reset);
            events
        })
    }

    fn ioctl(&self, _file: &OpenFile, _task: &TaskRef, command: u32, arg: u64) -> Result {
        const FIONREAD: u32 = 0x541b;
        if command != FIONREAD {
            return Err(Errno::ENOTTY);
        }
        let n = self.0.with(|s| s.inbox.readable(self.0.stream()));
        UserPtr::<i32>::new(arg).write(&(n as i32))?;
        Ok(0)
    }

    fn release(&self, _flags: OpenFlags) {
        self.0.close();
    }

    fn fdinfo(&self) -> String {
        String::new()
    }
}
