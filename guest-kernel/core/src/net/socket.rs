//! What an address family implements, and the file of a socket.

use alloc::{sync::Arc, vec::Vec};
use core::any::Any;

use super::{common::Common, inet, message::Credentials};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    fs::{AnonInode, File, FileRef, FileType, Inode as _, OpenFile, OpenFlags, pipe},
    io::{Sink, Source},
    ns::NetNamespace,
    sync::{PollEvents, PollTable, Queue, WaitError},
    task,
};

/// The type of a socket (`SOCK_*`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum Kind {
    Stream = 1,
    Datagram = 2,
    Raw = 3,
    SeqPacket = 5,
}

/// A `struct sockaddr` of some family, as user space has it; what `getsockname` tells.
pub(crate) type Name = Arc<[u8]>;

/// How a send or a receive behaves.
#[derive(Clone, Copy, Default)]
pub(crate) struct How {
    /// It does not wait.
    pub nonblocking: bool,
    /// It leaves what it receives where it is (`MSG_PEEK`).
    pub peek: bool,
    /// A stream waits for all it was asked for (`MSG_WAITALL`).
    pub wait_all: bool,
    /// A TCP stream forgets what it would receive (`MSG_TRUNC`).
    pub truncate: bool,
    /// More of the same datagram follows (`MSG_MORE`).
    pub more: bool,
    /// It asks for errors that were noted (`MSG_ERRQUEUE`).
    pub errors: bool,
}

/// A control message of a level other than `SOL_SOCKET`: whose it is, its type, its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Control {
    pub level: i32,
    pub kind: i32,
    pub data: Vec<u8>,
}

/// What goes along with the bytes of a message.
#[derive(Default)]
pub(crate) struct Outgoing<'a> {
    /// Where to, if not to the peer: a `struct sockaddr`.
    pub to: Option<&'a [u8]>,
    /// `SCM_RIGHTS`.
    pub files: Vec<FileRef>,
    /// `SCM_CREDENTIALS`, checked.
    pub credentials: Option<Credentials>,
    /// What else there is, for the family to make sense of.
    pub control: Vec<Control>,
    pub how: How,
}

/// What a receive got beside the bytes.
#[derive(Default)]
pub(crate) struct Received {
    /// Bytes put into the sink.
    pub count: usize,
    /// Length of the message, which may have been more.
    pub length: usize,
    /// `SCM_RIGHTS`.
    pub files: Vec<FileRef>,
    /// Who sent it.
    pub credentials: Credentials,
    /// The sender's name, if it has one.
    pub from: Option<Name>,
    /// When it was sent (nanoseconds of the wall clock); 0 if nobody wanted to know.
    pub at: u64,
    /// What else the receiver wants to know.
    pub control: Vec<Control>,
    /// It came from the queue of errors (`MSG_ERRQUEUE`).
    pub errors: bool,
}

/// Who is at the other end, as it was when the connection was made.
#[derive(Clone)]
pub(crate) struct Peer {
    pub credentials: Credentials,
    /// For its groups.
    pub who: Arc<task::Credentials>,
}

impl Peer {
    /// `task`, as it is now.
    pub fn of(task: &TaskRef) -> Peer {
        Peer { credentials: Credentials::of(task), who: task.credentials() }
    }
}

/// A socket of some family. What is not implemented is `EOPNOTSUPP`, as with Linux's `sock_no_*`.
///
/// Names are handed in as the program gave them, at most 128 bytes, possibly none: a family checks length and
/// family number itself.
#[allow(unused_variables)]
pub(crate) trait Socket: Any + Send + Sync {
    /// The part all sockets have.
    fn common(&self) -> &Common;

    /// `SO_DOMAIN`.
    fn domain(&self) -> i32;

    /// `SO_TYPE`.
    fn kind(&self) -> Kind;

    /// `SO_PROTOCOL`.
    fn protocol(&self) -> i32 {
        0
    }

    /// bind(2).
    fn bind(&self, task: &TaskRef, name: &[u8]) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// listen(2).
    fn listen(&self, task: &TaskRef, backlog: i32) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// connect(2), also to `AF_UNSPEC`.
    fn connect(&self, task: &TaskRef, to: &[u8], nonblocking: bool) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// accept(2): the new socket.
    fn accept(&self, task: &TaskRef, nonblocking: bool) -> Result<Arc<dyn Socket>> {
        Err(Errno::EOPNOTSUPP)
    }

    /// shutdown(2) of one or both directions.
    fn shutdown(&self, read: bool, write: bool) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// getsockname(2).
    fn name(&self) -> Name;

    /// getpeername(2). `ENOTCONN`.
    fn peer_name(&self) -> Result<Name>;

    /// The peer's name as `accept` tells it; the connection may be over already.
    fn accepted_from(&self) -> Result<Name> {
        self.peer_name().map_err(|_| Errno::ECONNABORTED)
    }

    /// Sends what `source` has and says how much that was. SIGPIPE is the caller's.
    fn send(&self, task: &TaskRef, source: &mut Source<'_>, message: Outgoing<'_>) -> Result;

    /// Receives into `sink`: a stream as much as there is, the other kinds one message.
    fn receive(&self, task: &TaskRef, sink: &mut Sink<'_>, how: How) -> Result<Received>;

    /// Whether it was made to listen (`SO_ACCEPTCONN`).
    fn is_listening(&self) -> bool {
        false
    }

    /// `SO_ERROR`: reading it clears it.
    fn take_error(&self) -> Option<Errno> {
        None
    }

    /// Who is at the other end, where families know (`SO_PEERCRED`).
    fn peer(&self) -> Option<Peer> {
        None
    }

    /// Whether peeking can go on where the last peek ended (`SO_PEEK_OFF`).
    fn has_peek_offset(&self) -> bool {
        false
    }

    /// A buffer size or another option of [`Common`] changed.
    fn options_changed(&self) {}

    /// getsockopt(2) of a level other than `SOL_SOCKET`: the value.
    fn option(&self, task: &TaskRef, level: i32, name: i32) -> Result<Vec<u8>> {
        Err(Errno::EOPNOTSUPP)
    }

    /// setsockopt(2) of a level other than `SOL_SOCKET`; `value` is user memory of `len` bytes.
    fn set_option(&self, task: &TaskRef, level: i32, name: i32, value: u64, len: usize) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// What it is ready for; registers the queues whose wake-up may change the answer.
    fn poll(&self, table: Option<&mut PollTable>) -> PollEvents;

    /// The queue that is woken when there is something to read, for `O_ASYNC`; its wake-ups say what happened.
    fn queue(&self) -> Option<&Queue> {
        None
    }

    /// `ioctl` commands of the family.
    fn ioctl(&self, task: &TaskRef, command: u32, arg: u64) -> Result {
        Err(Errno::ENOTTY)
    }

    /// The network it is in; `None` is that of who asks.
    fn net(&self) -> Option<&NetNamespace> {
        None
    }

    /// The last descriptor is gone, or a connection was never accepted.
    fn close(&self);
}

/// What the end of a wait with the time-out of an option means: `EAGAIN` when it passed; a signal ends a wait that
/// had one for good, one without is restarted (`sock_intr_errno`).
pub(super) fn wait_error(deadline: Option<u64>) -> impl Fn(WaitError) -> Errno {
    move |e| match e {
        WaitError::TimedOut => Errno::EAGAIN,
        WaitError::Interrupted if deadline.is_some() => Errno::EINTR,
        WaitError::Interrupted => Errno::ERESTARTSYS,
    }
}

/// SIGPIPE goes with `EPIPE` on a stream.
pub(super) fn announce(task: &TaskRef, socket: &dyn Socket, result: Result) -> Result {
    if result == Err(Errno::EPIPE) && socket.kind() == Kind::Stream {
        pipe::broken(task);
    }
    result
}

/// The file of a socket.
pub(crate) struct SocketFile(pub Arc<dyn Socket>);

impl SocketFile {
    /// Opens a file for `socket`; from here on its end runs when the file is dropped.
    pub fn open(task: &TaskRef, socket: Arc<dyn Socket>, flags: OpenFlags) -> FileRef {
        let c = task.credentials();
        let inode = AnonInode::new(FileType::Socket, 0o777, c.fsuid, c.fsgid);
        let access = OpenFlags::RDWR | (flags & OpenFlags::NONBLOCK);
        socket.common().set_ino(inode.ino());
        inode.open(Arc::new(SocketFile(socket)), "socket:[{}]", access)
    }

    /// The socket, if it is a `T`.
    pub fn downcast<T: Socket>(&self) -> Option<Arc<T>> {
        let any: Arc<dyn Any + Send + Sync> = self.0.clone();
        any.downcast().ok()
    }
}

impl File for SocketFile {
    fn read(&self, file: &OpenFile, task: &TaskRef, sink: &mut Sink<'_>) -> Result {
        if sink.remaining() == 0 {
            return Ok(0);
        }
        let how = How { nonblocking: file.nonblocking(), ..How::default() };
        Ok(self.0.receive(task, sink, how)?.count)
    }

    fn write(&self, file: &OpenFile, task: &TaskRef, source: &mut Source<'_>) -> Result {
        let how = How { nonblocking: file.nonblocking(), ..How::default() };
        let result = self.0.send(task, source, Outgoing { how, ..Outgoing::default() });
        announce(task, &*self.0, result)
    }

    fn poll(&self, table: Option<&mut PollTable>) -> PollEvents {
        self.0.poll(table)
    }

    fn ioctl(&self, _file: &OpenFile, task: &TaskRef, command: u32, arg: u64) -> Result {
        match self.0.ioctl(task, command, arg) {
            // Any socket can be asked about interfaces.
            Err(Errno::ENOTTY) => {
                let namespaces = task.namespaces();
                let net = self.0.net().unwrap_or(&namespaces.net);
                inet::interface_ioctl(task, net, command, arg)
            }
            outcome => outcome,
        }
    }

    fn async_queues(&self) -> Option<Vec<(Queue, PollEvents)>> {
        let events = PollEvents::READABLE | PollEvents::HUP;
        self.0.queue().map(|queue| alloc::vec![(queue.clone(), events)])
    }

    fn release(&self, _flags: OpenFlags) {
        self.0.close();
    }
}
