//! A connection: two streams, and what is known of the ends.
//!
//! The states of tcp(7) follow from two facts about each end: whether it has said that it sends no more (`fin`), and whether
//! the connection is over (`over`: reset, or both have said so).
//!
//! | own `fin` | other's `fin` | state |
//! |---|---|---|
//! | no | no | ESTABLISHED |
//! | yes | no | FIN_WAIT2 |
//! | no | yes | CLOSE_WAIT |
//! | yes | yes | CLOSE |
//!
//! No wake-up is lost: counts and facts change under the spin lock, and whoever sleeps looks at them under it. A writer that
//! finds no room notes that under the same lock (`starved`), and whoever makes room looks there.

use alloc::{boxed::Box, sync::Arc};

use super::{
    super::{address::Endpoint, stack::Stack},
    remote::Remote,
    stream::Stream,
};
use crate::{
    errno::{Errno, Result},
    io::{Sink, Source},
    ns::NetNamespace,
    sync::{Mutex, PollEvents, Queue, SpinLock, WaitQueue},
};

/// Bytes moved at a time: no longer is a stream locked.
const BURST: usize = 64 * 1024;

/// What is known of an end.
#[derive(Default, Clone)]
pub(super) struct Side {
    /// Bytes that have arrived and were not read.
    pub queued: usize,
    /// `SO_RCVBUF` and `SO_SNDBUF`.
    pub receive_buffer: usize,
    pub send_buffer: usize,
    /// It has sent all it will.
    pub fin: bool,
    /// It does not want to read any more (`SHUT_RD`).
    pub read_shut: bool,
    /// Nobody has it open.
    pub closed: bool,
    /// For it the connection is over.
    pub over: bool,
    /// The other end had said that it sends no more, before it was over.
    pub done: bool,
    /// What went wrong, to be told once.
    pub error: Option<Errno>,
    /// It waits for room at the other end.
    pub starved: bool,
}

/// The end that connected, or the one that was accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Which {
    Client,
    Server,
}

struct End {
    inbound: Mutex<Stream>,
    queue: Queue,
}

/// The connection.
pub(in super::super) struct Link {
    client: End,
    server: End,
    sides: SpinLock<(Side, Side)>,
    /// The names of both ends.
    pub names: (Endpoint, Endpoint),
    net: Arc<NetNamespace>,
    /// Another host is in the place of the other end.
    pub(super) remote: Option<Box<Remote>>,
}

/// One end of a connection.
#[derive(Clone)]
pub(super) struct Handle {
    pub link: Arc<Link>,
    pub which: Which,
}

/// What came of an attempt to send.
pub(super) enum Sent {
    Bytes(usize),
    Full,
}

impl Link {
    /// A connection between two sockets with these queues, already noted in `net`. `sides` has their buffer sizes.
    pub(super) fn pair(
        net: Arc<NetNamespace>,
        names: (Endpoint, Endpoint),
        queues: (Queue, Queue),
        sides: (Side, Side),
    ) -> (Handle, Handle) {
        let end = |queue| End { inbound: Mutex::new(Stream::default()), queue };
        let link = Arc::new(Link {
            client: end(queues.0),
            server: end(queues.1),
            sides: SpinLock::new(sides),
            names,
            net,
            remote: None,
        });
        (Handle { link: link.clone(), which: Which::Client }, Handle { link, which: Which::Server })
    }

    /// One with another host, already noted in `net`. `queue` and `side` are our socket's.
    pub(super) fn with_remote(
        net: Arc<NetNamespace>,
        names: (Endpoint, Endpoint),
        queue: Queue,
        side: Side,
        remote: Remote,
    ) -> Arc<Link> {
        let end = |queue| End { inbound: Mutex::new(Stream::default()), queue };
        let (ours, theirs) = (end(queue), end(WaitQueue::new()));
        let (client, server, sides) = match remote.which {
            Which::Client => (ours, theirs, (side, Side::default())),
            Which::Server => (theirs, ours, (Side::default(), side)),
        };
        Arc::new(Link {
            client,
            server,
            sides: SpinLock::new(sides),
            names,
            net,
            remote: Some(Box::new(remote)),
        })
    }

    /// What is known of the end and of the other one.
    pub(super) fn with_sides<R>(&self, which: Which, f: impl FnOnce(&mut Side, &mut Side) -> R) -> R {
        let (client, server) = &mut *self.sides.lock();
        match which {
            Which::Client => f(client, server),
            Which::Server => f(server, client),
        }
    }

    /// Who waits for an end.
    pub(super) fn queue(&self, which: Which) -> &Queue {
        match which {
            Which::Client => &self.client.queue,
            Which::Server => &self.server.queue,
        }
    }

    pub(super) fn stack(&self) -> &Stack {
        self.net.stack()
    }

    pub(super) fn forget(&self) {
        self.net.stack().disconnect(self.names.0, self.names.1);
    }
}

/// What the other end's buffer and one's own hold together.
fn room(mine: &Side, theirs: &Side) -> usize {
    (mine.send_buffer + theirs.receive_buffer).saturating_sub(theirs.queued)
}

/// Whether a poller is told that it can write: a third is free, as on Linux.
pub(super) fn writable(mine: &Side, theirs: &Side) -> bool {
    room(mine, theirs) * 3 >= mine.send_buffer + theirs.receive_buffer
}

impl Handle {
    /// Looks at or changes what is known of this end and the other one.
    pub fn with<R>(&self, f: impl FnOnce(&mut Side, &mut Side) -> R) -> R {
        self.link.with_sides(self.which, f)
    }

    fn ends(&self) -> (&End, &End) {
        match self.which {
            Which::Client => (&self.link.client, &self.link.server),
            Which::Server => (&self.link.server, &self.link.client),
        }
    }

    /// This end's name and the other's.
    pub fn names(&self) -> (Endpoint, Endpoint) {
        let (client, server) = self.link.names;
        if self.which == Which::Client { (client, server) } else { (server, client) }
    }

    /// The buffers of this end have other sizes now, those of `now`.
    pub fn resize(&self, now: &Side) {
        if self.link.remote.is_some() {
            self.resize_remote(now);
            return;
        }
        self.with(|mine, _| {
            mine.send_buffer = now.send_buffer;
            mine.receive_buffer = now.receive_buffer;
        });
        self.ends().0.queue.wake_all(PollEvents::WRITABLE);
        self.wake_other(PollEvents::WRITABLE);
    }

    fn wake_other(&self, events: PollEvents) {
        self.ends().1.queue.wake_all(events);
    }

    fn wake_both(&self) {
        self.ends().0.queue.wake_all(PollEvents::empty());
        self.wake_other(PollEvents::empty());
    }

    /// Moves some bytes to the other end. What was wrong, or `EPIPE`.
    pub fn send(&self, source: &mut Source<'_>, more: bool) -> Result<Sent> {
        let mut stream = self.ends().1.inbound.lock();
        enum May {
            Send(usize),
            Lost,
        }
        let may = self.with(|mine, theirs| {
            if let Some(error) = mine.error.take() {
                return Err(error);
            }
            if mine.fin || mine.over {
                return Err(Errno::EPIPE);
            }
            if theirs.closed || theirs.fin && theirs.read_shut {
                // Nobody is there to read it: the answer is a reset, after this call.
                reset(mine);
                reset(theirs);
                return Ok(May::Lost);
            }
            let room = room(mine, theirs);
            mine.starved |= room == 0;
            Ok(May::Send(room))
        })?;
        let max = match may {
            May::Send(0) => return Ok(Sent::Full),
            May::Send(room) => room.min(BURST),
            May::Lost => {
                drop(stream);
                self.link.forget();
                self.wake_both();
                let lost = source.remaining();
                source.limit(0);
                return Ok(Sent::Bytes(lost));
            }
        };
        let n = stream.fill(source, max)?;
        if self.link.remote.is_some() {
            // The rest of it comes at once.
            let more = more || max == BURST && source.remaining() > 0;
            self.link.step(|machine, _| {
                stream.hand_over(|part| {
                    if let Err(error) = machine.push(part, more) {
                        machine.fail(Some(error));
                    }
                });
            });
            return Ok(Sent::Bytes(n));
        }
        self.with(|_, theirs| theirs.queued += n);
        drop(stream);
        self.wake_other(PollEvents::READABLE);
        Ok(Sent::Bytes(n))
    }

    /// Moves bytes that have arrived into `sink`, or forgets as many.
    pub fn receive(&self, sink: &mut Sink<'_>, forget: bool, max: usize) -> Result {
        let max = max.min(BURST);
        let mut stream = self.ends().0.inbound.lock();
        self.take_over(&mut stream);
        let n = match forget {
            true => stream.skip(max),
            false => stream.drain(sink, max)?,
        };
        if self.link.remote.is_some() {
            self.link.step(|machine, now| machine.read(now, n));
            return Ok(n);
        }
        let room = self.with(|mine, theirs| {
            mine.queued = mine.queued.saturating_sub(n);
            let room = theirs.starved && writable(theirs, mine);
            theirs.starved &= !room;
            room
        });
        drop(stream);
        if room {
            self.wake_other(PollEvents::WRITABLE);
        }
        Ok(n)
    }

    /// Copies bytes that have arrived into `sink` and leaves them.
    pub fn peek(&self, sink: &mut Sink<'_>) -> Result {
        let mut stream = self.ends().0.inbound.lock();
        self.take_over(&mut stream);
        stream.peek(sink)
    }

    /// What has come from another host is the reader's now.
    fn take_over(&self, stream: &mut Stream) {
        if let Some(remote) = &self.link.remote {
            remote.hand_over(stream);
        }
    }

    /// Sends no more.
    pub fn finish(&self) {
        let (told, over) = self.with(|mine, theirs| {
            let told = !mine.fin && !mine.over;
            mine.fin = true;
            if told && self.link.remote.is_none() {
                theirs.done = true;
                (mine.over, theirs.over) = (theirs.fin, theirs.fin);
            }
            (told, told && mine.over)
        });
        if self.link.remote.is_some() {
            if told {
                self.link.step(|machine, _| machine.finish());
                self.wake_both();
            }
            return;
        }
        if over {
            self.link.forget();
        }
        if told {
            self.wake_both();
        }
    }

    /// Nobody has this end any more. It ends with a reset if bytes were left unread or `abort` says so.
    pub fn close(&self, abort: bool) {
        if self.link.remote.is_some() {
            self.with(|mine, _| (mine.closed, mine.fin) = (true, true));
            self.link.close_remote(abort);
            let mut stream = self.ends().0.inbound.lock();
            let old = core::mem::take(&mut *stream);
            drop(stream);
            drop(old);
            return;
        }
        let (told, forget) = self.with(|mine, theirs| {
            mine.closed = true;
            if mine.over {
                return (false, false);
            }
            let abort = abort || mine.queued > 0;
            if abort {
                reset(theirs);
                (mine.over, mine.fin) = (true, true);
                return (true, true);
            }
            let told = !mine.fin;
            mine.fin = true;
            theirs.done = true;
            (mine.over, theirs.over) = (theirs.fin, theirs.fin);
            (told, mine.over || theirs.closed)
        });
        if forget {
            self.link.forget();
        }
        if told {
            self.wake_other(PollEvents::empty());
        }
        // What a writer puts here from now on is found out by it; what is here now goes.
        let mut stream = self.ends().0.inbound.lock();
        let old = core::mem::take(&mut *stream);
        self.with(|mine, _| mine.queued = 0);
        drop(stream);
        drop(old);
    }
}

/// The other end is gone, without having read all or for no reason (`tcp_reset`).
fn reset(side: &mut Side) {
    if !side.over {
        side.error = Some(if side.done { Errno::EPIPE } else { Errno::ECONNRESET });
        side.over = true;
    }
}

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;

    use super::*;
    use crate::ns::Namespaces;

    fn pair() -> (Handle, Handle) {
        let at = |port| Endpoint { ip: Ipv4Addr::LOCALHOST.into(), port };
        let side = || Side { receive_buffer: 100, send_buffer: 50, ..Side::default() };
        let queues = (WaitQueue::new(), WaitQueue::new());
        Link::pair(Namespaces::initial().net.clone(), (at(1), at(2)), queues, (side(), side()))
    }

    fn send(end: &Handle, bytes: &[u8]) -> Result {
        match end.send(&mut Source::kernel(bytes), false)? {
            Sent::Bytes(n) => Ok(n),
            Sent::Full => Err(Errno::EAGAIN),
        }
    }

    #[test]
    fn as_much_is_sent_as_both_buffers_hold() {
        let (a, b) = pair();
        assert_eq!((send(&a, &[1; 200]), send(&a, &[1])), (Ok(150), Err(Errno::EAGAIN)));
        assert!(!a.with(|mine, theirs| writable(mine, theirs)) && a.with(|mine, _| mine.starved));
        assert_eq!(b.receive(&mut Sink::kernel(&mut [0; 49]), false, 99), Ok(49));
        assert!(a.with(|mine, _| mine.starved));
        assert_eq!(b.receive(&mut Sink::kernel(&mut []), true, 1), Ok(1));
        assert!(!a.with(|mine, _| mine.starved));
        assert_eq!(send(&a, &[1; 200]), Ok(50));
    }

    #[test]
    fn ends_are_told_one_by_one() {
        let (a, b) = pair();
        a.finish();
        assert_eq!((send(&a, b"x"), send(&b, b"x")), (Err(Errno::EPIPE), Ok(1)));
        assert!(b.with(|mine, _| mine.done && !mine.over));
        b.finish();
        assert!(a.with(|mine, theirs| mine.over && theirs.over && mine.error.is_none()));
        assert_eq!(a.receive(&mut Sink::kernel(&mut [0; 9]), false, 9), Ok(1));
    }

    #[test]
    fn unread_bytes_are_a_reset() {
        let (a, b) = pair();
        send(&a, b"x").unwrap();
        send(&b, b"left").unwrap();
        b.close(false);
        assert_eq!((send(&a, b"x"), send(&a, b"x")), (Err(Errno::ECONNRESET), Err(Errno::EPIPE)));
        assert_eq!(a.receive(&mut Sink::kernel(&mut [0; 9]), false, 9), Ok(4));
        a.close(false);
    }

    #[test]
    fn who_sends_to_nobody_is_reset_after_it() {
        let (a, b) = pair();
        b.close(false);
        assert_eq!((send(&a, b"abc"), send(&a, b"x")), (Ok(3), Err(Errno::EPIPE)));
        assert!(a.with(|mine, _| mine.over));
    }

    #[test]
    fn a_reset_on_purpose() {
        let (a, b) = pair();
        b.close(true);
        assert_eq!(a.with(|mine, _| (mine.over, mine.error)), (true, Some(Errno::ECONNRESET)));
        a.close(false);
    }
}
