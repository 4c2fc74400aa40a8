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
    flight::{self, InFlight},
    inbox::{Credentials, Inbox, LIMIT, Message},
    registry,
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
/// Messages a datagram socket holds for senders it is not connected to (`net.unix.max_dgram_qlen`).
const DATAGRAMS_MAX: usize = 10;
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
    /// `SO_SNDBUF` and `SO_RCVBUF`; what is sent is limited by the sender's.
    send_buffer: usize,
    receive_buffer: usize,
    /// `SO_PEEK_OFF`: where the next peek begins.
    peek_offset: Option<usize>,
    /// Options that are only kept: a bit for each number below 64.
    kept: u64,
    /// Number of the open file's inode.
    ino: u64,
}

impl Default for State {
    fn default() -> State {
        State {
            name: None,
            peer: None,
            peer_credentials: None,
            backlog: None,
            inbox: Inbox::default(),
            read_shut: false,
            write_shut: false,
            closed: false,
            reset: false,
            pass_credentials: false,
            receive_timeout: None,
            send_timeout: None,
            send_buffer: LIMIT,
            receive_buffer: LIMIT,
            peek_offset: None,
            kept: 0,
            ino: 0,
        }
    }
}

/// What `/proc/net/unix` shows of a socket.
pub(super) struct Report {
    pub references: usize,
    pub flags: u32,
    pub kind: u32,
    pub state: u32,
    pub ino: u64,
    pub name: Option<Address>,
}

/// An AF_UNIX socket.
pub(crate) struct UnixSocket {
    kind: Kind,
    state: SpinLock<State>,
    queue: Queue,
    /// Its number in the list of all.
    registered: u64,
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        registry::remove(self.registered);
    }
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
        Arc::new_cyclic(|this| UnixSocket {
            kind,
            state: SpinLock::new(State::default()),
            queue: WaitQueue::new(),
            registered: registry::add(this),
        })
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

    /// `SO_SNDBUF` (or `SO_RCVBUF`), in bytes.
    pub fn buffer(&self, send: bool) -> usize {
        self.with(|s| if send { s.send_buffer } else { s.receive_buffer })
    }

    pub fn set_buffer(&self, send: bool, bytes: usize) {
        self.with(|s| *(if send { &mut s.send_buffer } else { &mut s.receive_buffer }) = bytes);
        if let Some(peer) = self.peer() {
            peer.wake(); // there may be room now
        }
    }

    pub fn peek_offset(&self) -> Option<usize> {
        self.with(|s| s.peek_offset)
    }

    pub fn set_peek_offset(&self, offset: Option<usize>) {
        self.with(|s| s.peek_offset = offset);
    }

    /// An option that is only kept.
    pub fn kept(&self, option: i32) -> bool {
        self.with(|s| s.kept >> (option & 63) & 1 != 0)
    }

    pub fn keep(&self, option: i32, on: bool) {
        self.with(|s| s.kept = s.kept & !(1 << (option & 63)) | u64::from(on) << (option & 63));
    }

    pub fn set_ino(&self, ino: u64) {
        self.with(|s| s.ino = ino);
    }

    /// Bytes sent from here that were not received yet (`SIOCOUTQ`).
    pub fn unreceived(&self) -> usize {
        self.peer().map_or(0, |p| p.with(|s| s.inbox.readable(true)))
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
        let kind = match self.kind {
            Kind::Stream => 1,
            Kind::Datagram => 2,
            Kind::SeqPacket => 5,
        };
        self.with(|s| Report {
            references,
            flags: if s.backlog.is_some() { ACCEPTS } else { 0 },
            kind,
            // SS_UNCONNECTED or SS_CONNECTED
            state: if s.peer.is_some() { 3 } else { 1 },
            ino: s.ino,
            name: s.name.clone(),
        })
    }

    /// Whether a datagram from `self` is welcome: a connected socket hears only its peer.
    fn may_send_to(&self, target: &Arc<UnixSocket>) -> Result<()> {
        let me = core::ptr::from_ref(self);
        let stranger = target.with(|s| s.peer.as_ref().is_some_and(|p| !core::ptr::eq(p.as_ptr(), me)));
        if stranger { Err(Errno::EPERM) } else { Ok(()) }
    }

    /// Who wants to know others' credentials gets a name, so that they can answer.
    fn autobind(self: &Arc<Self>, task: &TaskRef) -> Result<()> {
        if self.with(|s| s.pass_credentials && s.name.is_none() && s.peer.is_none()) {
            self.bind(task, None)?;
        }
        Ok(())
    }

    /// Gives a datagram socket another peer. What the old one sent and was not read is lost, and it is told so.
    fn change_peer(self: &Arc<Self>, new: Option<Weak<UnixSocket>>) {
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
            let me = Arc::downgrade(self);
            old.with(|s| s.reset |= s.peer.as_ref().is_some_and(|p| p.ptr_eq(&me)));
            old.wake();
        }
        drop(lost);
        self.wake();
    }

    /// Undoes `connect` of a datagram socket.
    pub fn disconnect(self: &Arc<Self>) -> Result<()> {
        if self.kind != Kind::Datagram {
            return Err(Errno::EINVAL);
        }
        self.change_peer(None);
        Ok(())
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
        self.autobind(task)?;
        if self.kind == Kind::Datagram {
            self.may_send_to(&target)?;
            self.change_peer(Some(Arc::downgrade(&target)));
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
        flight::collect();
    }

    // --- messages ---

    /// Sends all of `source` with `files`. Says how much was sent; `EPIPE` is the caller's to announce.
    pub fn send(
        self: &Arc<Self>,
        task: &TaskRef,
        source: &mut Source<'_>,
        files: InFlight,
        to: Option<&Address>,
        how: How,
        me: Credentials,
    ) -> Result {
        if self.kind == Kind::Datagram && self.with(|s| core::mem::take(&mut s.reset)) {
            return Err(Errno::ECONNRESET);
        }
        let target = match to {
            Some(_) if self.kind != Kind::Datagram => return Err(Errno::EISCONN),
            Some(address) => {
                let target = address::find(task, address)?;
                if target.kind != self.kind {
                    return Err(Errno::EPROTOTYPE);
                }
                self.autobind(task)?;
                target
            }
            None if self.with(|s| s.write_shut) => return Err(Errno::EPIPE),
            None => self.peer().ok_or_else(|| match (self.kind, self.with(|s| s.peer.is_some())) {
                (Kind::Datagram, true) => {
                    self.with(|s| s.peer = None); // told once
                    Errno::ECONNREFUSED
                }
                (_, true) => Errno::EPIPE,
                (_, false) => Errno::ENOTCONN,
            })?,
        };
        if self.kind == Kind::Datagram {
            self.may_send_to(&target)?;
        }
        let total = source.remaining();
        if !self.stream() && total > self.buffer(true).saturating_sub(32) {
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
                    let sockets = files.has_sockets();
                    let message = Message { bytes, start: 0, files, credentials: me, from: self.name() };
                    target.with(|s| s.inbox.push(message, self.stream()))?;
                    if sockets {
                        flight::holds_sockets(&target);
                    }
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
        let me = core::ptr::from_ref(self);
        let look = || {
            let (limit, shut) = self.with(|s| (s.send_buffer, s.write_shut));
            if self.kind != Kind::Datagram && shut {
                return Some(Err(Errno::EPIPE));
            }
            target.with(|s| match s.inbox.room(limit) {
                _ if s.closed && self.kind == Kind::Datagram => Some(Err(Errno::ECONNREFUSED)),
                _ if s.closed => Some(Err(Errno::EPIPE)),
                _ if self.kind == Kind::Datagram && s.read_shut => Some(Err(Errno::EPIPE)),
                // A stranger's datagrams are few; those of one's own peer only have to fit.
                _ if self.kind == Kind::Datagram
                    && s.inbox.len() > DATAGRAMS_MAX
                    && !s.peer.as_ref().is_some_and(|p| core::ptr::eq(p.as_ptr(), me)) =>
                {
                    None
                }
                room if room >= want || s.inbox.is_empty() => Some(Ok(want)),
                room if self.stream() && room >= limit / 8 && room > 0 => Some(Ok(room)),
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
        if how.peek && self.stream() {
            return self.peek(task, sink, how, deadline);
        }
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
                got.files = if how.peek { message.files.copy() } else { message.files.take() };
            }
            if how.peek || copied.is_err() || (self.stream() && !message.rest().is_empty()) {
                self.with(|s| s.inbox.put_back(message));
            }
            match copied {
                Ok(n) => {
                    got.count += n;
                    if !how.peek {
                        self.with(|s| s.peek_offset = s.peek_offset.map(|at| at.saturating_sub(n)));
                    }
                }
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

    /// Looks at a stream without taking anything, from `SO_PEEK_OFF` on if that is set.
    fn peek(&self, task: &TaskRef, sink: &mut Sink<'_>, how: How, deadline: Option<u64>) -> Result<Received> {
        let max = sink.remaining().min(LIMIT);
        let look = || {
            self.with(|s| {
                let offset = s.peek_offset.unwrap_or(0);
                match s.inbox.peek(offset, max) {
                    Ok(bytes) if bytes.is_empty() && max > 0 && !s.read_shut => None,
                    Ok(bytes) => Some(Ok((bytes, s.inbox.first()))),
                    Err(e) => Some(Err(e)),
                }
            })
        };
        let (bytes, first) = match look() {
            Some(found) => found?,
            None if how.nonblocking => return Err(Errno::EAGAIN),
            None => {
                wait_event(task, &self.queue, Interruptible::Yes, deadline, look).map_err(timed_out)??
            }
        };
        sink.put(&bytes)?;
        self.with(|s| s.peek_offset = s.peek_offset.map(|at| at + bytes.len()));
        let (credentials, files) = first.unwrap_or_default();
        Ok(Received { count: bytes.len(), length: bytes.len(), files, credentials, from: None })
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
        let result = self.0.send(task, source, InFlight::default(), None, how, credentials_of(task));
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
        let limit = self.0.buffer(true);
        let connectionless = self.0.kind == Kind::Datagram;
        let me = Arc::as_ptr(&self.0);
        let room = peer.as_ref().is_none_or(|p| {
            p.with(|s| {
                let mutual = s.peer.as_ref().is_some_and(|p| core::ptr::eq(p.as_ptr(), me));
                s.inbox.room(limit) >= limit / 3
                    && (!connectionless || mutual || s.inbox.len() <= DATAGRAMS_MAX)
            })
        });
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
        const SIOCOUTQ: u32 = 0x5411;
        let n = match command {
            FIONREAD if self.0.is_listening() => return Err(Errno::EINVAL),
            FIONREAD => self.0.with(|s| s.inbox.readable(self.0.kind != Kind::Datagram)),
            SIOCOUTQ => self.0.unreceived(),
            _ => return Err(Errno::ENOTTY),
        };
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
