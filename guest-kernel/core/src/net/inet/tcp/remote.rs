//! Connections with other hosts: a [`Machine`] behind a link, in the place of the other socket.
//!
//! To a program both kinds of connection are a [`Link`](super::link::Link). Here the other end's stream holds what is being
//! copied from the program, and is emptied into the machine at once; what arrives lies in the machine's own stream until a reader
//! takes it over into his, so that neither waits for memory of a program with the machine locked. What is known
//! of the ends (`Side`) is told to the link after each step of the machine.
//!
//! A step is: lock the machine, change it, send what follows, copy its state to the sides, and with the lock gone wake who waits.
//! Senders, readers, the device's task and its timers all do it so.

use alloc::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use ringfence_hal as hal;

use super::{
    half::Half,
    link::{Handle, Link, Side, Which, writable},
    machine::{Answer, Events, Knobs, Machine, Outgoing, State},
    socket::{Phase, TcpSocket},
    stream::Stream,
};
use crate::{
    errno::{Errno, Result},
    io::{Sink, Source},
    net::{
        common::SO_KEEPALIVE,
        inet::{
            address::{Endpoint, Version},
            options::Opt,
            packet::{Due, Way},
            stack::Stack,
        },
    },
    ns::NetNamespace,
    sync::{PollEvents, SpinLock},
};

/// The names of a connection: ours first.
pub(super) type Names = (Endpoint, Endpoint);

/// With more connections than that, those that are over do not wait (`tcp_max_tw_buckets`).
const LINKS_WAIT: usize = 16_384;

/// Connections with other hosts of a namespace.
#[derive(Default)]
pub(in super::super) struct Remotes {
    /// Looked into once for each segment that arrives, by the task of the device.
    links: SpinLock<BTreeMap<Names, Arc<Link>>>,
    pub(super) half_open: SpinLock<BTreeMap<Names, Half>>,
}

impl Remotes {
    pub(super) fn find(&self, names: Names) -> Option<Arc<Link>> {
        self.links.lock().get(&names).cloned()
    }

    fn add(&self, names: Names, link: Arc<Link>) {
        self.links.lock().insert(names, link);
    }

    /// Whether one more connection may wait out its time: there are not too many as it is. Roughly: who has a connection counts, too.
    fn may_wait(&self) -> bool {
        self.links.lock().len() < LINKS_WAIT
    }

    /// For the fuzz target: all connections go.
    pub fn forget(&self) {
        let links = core::mem::take(&mut *self.links.lock());
        drop(links);
    }

    fn remove(&self, names: Names) {
        let link = self.links.lock().remove(&names);
        drop(link);
    }
}

/// What a link with another host has.
pub(super) struct Remote {
    machine: SpinLock<Machine>,
    pub way: Way,
    names: Names,
    pub which: Which,
    /// Who waits for the connection.
    owner: SpinLock<Weak<TcpSocket>>,
    /// The nearest deadline that the device knows.
    armed: AtomicU64,
}

impl Remote {
    pub fn new(machine: Machine, way: Way, names: Names, which: Which, owner: Weak<TcpSocket>) -> Remote {
        Remote {
            machine: SpinLock::new(machine),
            way,
            names,
            which,
            owner: SpinLock::new(owner),
            armed: AtomicU64::new(u64::MAX),
        }
    }

    /// Looks at the machine.
    pub fn look<R>(&self, f: impl FnOnce(&Machine) -> R) -> R {
        f(&self.machine.lock())
    }

    /// Gives what has arrived to a reader.
    pub fn hand_over(&self, stream: &mut Stream) {
        self.machine.lock().arrived.hand_over(|part| stream.append(part));
    }

    /// The largest segment that fits into a packet there.
    pub fn segment_of(way: &Way) -> u16 {
        way.room().saturating_sub(20).clamp(88, 65_495) as u16
    }
}

impl Link {
    /// Changes the machine, sends what follows, and tells who waits.
    pub(super) fn step<R>(self: &Arc<Self>, f: impl FnOnce(&mut Machine, u64) -> R) -> Option<R> {
        let remote = self.remote.as_ref()?;
        let now = hal::time::now();
        let (result, events, over, error) = {
            let mut guard = remote.machine.lock();
            let machine = &mut *guard;
            let waited = machine.state == State::TimeWait;
            let result = f(machine, now);
            if machine.state == State::TimeWait && !waited && !self.stack().remotes.may_wait() {
                machine.fail(None);
            }
            let most = remote.way.cuts();
            if !machine.output(now, most, &mut |out: Outgoing| remote.way.send_segment(out)) {
                remote.way.nic.block(self);
            }
            let deadline = machine.deadline();
            if deadline < remote.armed.load(Relaxed) {
                remote.armed.store(deadline, Relaxed);
                remote.way.nic.at(deadline, Due::Connection(Arc::downgrade(self)));
            }
            let events = core::mem::take(&mut machine.events);
            self.mirror(remote.which, machine);
            (result, events, machine.state == State::Closed, machine.error)
        };
        remote.way.nic.device.flush();
        if events != Events::default() {
            self.tell(remote, events, over, error);
        }
        Some(result)
    }

    /// Copies what the machine knows to what programs look at.
    fn mirror(&self, which: Which, machine: &mut Machine) {
        self.with_sides(which, |mine, theirs| {
            mine.queued = machine.unread();
            mine.receive_buffer = machine.receive_buffer;
            mine.send_buffer = machine.send_buffer;
            theirs.queued = machine.queued();
            mine.done |= machine.is_done();
            if machine.is_over() && !mine.over {
                mine.over = true;
                mine.error = machine.error;
            }
        });
    }

    fn tell(self: &Arc<Self>, remote: &Remote, events: Events, over: bool, error: Option<Errno>) {
        let owner = if events.connected || events.ended {
            core::mem::take(&mut *remote.owner.lock()).upgrade()
        } else {
            None
        };
        if over {
            let stack = self.stack();
            stack.remotes.remove(remote.names);
            self.forget();
        }
        if let Some(owner) = owner {
            if over {
                owner.refuse(error.unwrap_or(Errno::ECONNREFUSED));
            } else if !owner.take_connection(Handle { link: self.clone(), which: remote.which }, remote.names)
            {
                self.abort();
            }
            return;
        }
        let queue = self.queue(remote.which);
        if events.ended {
            queue.wake_all(PollEvents::empty());
            return;
        }
        if events.readable {
            queue.wake_all(PollEvents::READABLE);
        }
        let room = events.writable
            && self.with_sides(remote.which, |mine, theirs| {
                let room = mine.starved && writable(mine, theirs);
                mine.starved &= !room;
                room
            });
        if room {
            queue.wake_all(PollEvents::WRITABLE);
        }
    }

    /// Its deadline has come, or has moved.
    pub fn on_timer(self: &Arc<Self>, now: u64) {
        if let Some(remote) = &self.remote {
            remote.armed.store(u64::MAX, Relaxed);
            self.step(|machine, _| machine.on_timer(now));
        }
    }

    /// The ring has room again.
    pub fn go_on(self: &Arc<Self>) {
        self.step(|_, _| ());
    }

    /// Ends it with a reset, whatever it is in.
    pub(super) fn abort(self: &Arc<Self>) {
        self.close_remote(true);
    }

    pub(super) fn close_remote(self: &Arc<Self>, abort: bool) {
        let Some(remote) = &self.remote else { return };
        self.step(|machine, now| {
            let abort = abort || machine.unread() > 0;
            if let Some(header) = machine.close(now, abort) {
                remote.way.send_segment(Outgoing { header, parts: Default::default(), len: 0, cut: None });
            }
        });
    }

    /// A segment for it. Whether it was not for it, but begins another connection with the same names.
    pub(super) fn on_segment(self: &Arc<Self>, segment: &smoltcp::wire::TcpRepr<'_>) -> bool {
        let Some(remote) = &self.remote else { return false };
        match self.step(|machine, now| machine.on_segment(now, segment)) {
            Some(Answer::Reset(header)) => {
                remote.way.send_segment(Outgoing { header, parts: Default::default(), len: 0, cut: None });
                remote.way.nic.device.flush();
                false
            }
            Some(Answer::Reopened) => true,
            _ => false,
        }
    }

    /// An ICMP error about a segment of it.
    pub(super) fn on_error(self: &Arc<Self>, number: u32, errno: Errno, mtu: Option<u32>) {
        let Some(remote) = &self.remote else { return };
        let headers = if remote.way.to.is_ipv4() { 40 } else { 60 };
        let least = if remote.way.to.is_ipv4() { 552 } else { 1280 };
        self.step(|machine, _| match mtu {
            _ if !machine.is_under_way(number) => {}
            // Linux believes no less than this (`min_pmtu`).
            Some(mtu) => machine.shrink(u64::from(mtu.max(least)) - headers - 12),
            None if machine.state == State::SynSent => machine.fail(Some(errno)),
            None => machine.soft_error = Some(errno),
        });
    }
}

impl Handle {
    /// The program has set the sizes of its buffers; sizes it did not change stay what they have grown to.
    pub(super) fn resize_remote(&self, now: &Side) {
        self.link.step(|machine, _| machine.resize(now.send_buffer, now.receive_buffer));
        self.link.queue(self.which).wake_all(PollEvents::WRITABLE);
    }
}

impl TcpSocket {
    /// What its options say to a machine.
    pub(super) fn knobs(&self) -> Knobs {
        const SECOND: u64 = 1_000_000_000;
        let seconds = |option| u64::from(self.options.get(option).unsigned_abs()) * SECOND;
        let keepalive = self.common.flag(SO_KEEPALIVE).then(|| {
            let count = self.options.get(Opt::KeepCount).unsigned_abs();
            (seconds(Opt::KeepIdle), seconds(Opt::KeepInterval), count)
        });
        Knobs {
            no_delay: self.options.is_on(Opt::NoDelay),
            cork: self.options.is_on(Opt::Cork),
            reno: self.options.is_on(Opt::Congestion),
            keepalive,
            user_timeout: u64::from(self.options.get(Opt::UserTimeout).unsigned_abs()) * 1_000_000,
            syn_count: self.options.get(Opt::SynCount).unsigned_abs(),
            linger2: match self.options.get(Opt::Linger2) {
                seconds if seconds < 0 => 0,
                seconds => u64::from(seconds.unsigned_abs()) * SECOND,
            },
        }
    }

    /// An option has changed that a machine wants to know.
    pub(super) fn tell_machine(&self) {
        if let Some(handle) = self.handle().filter(|h| h.link.remote.is_some()) {
            let knobs = self.knobs();
            handle.link.step(|machine, now| {
                if machine.knobs != knobs {
                    machine.knobs = knobs;
                    machine.keep_alive(now);
                }
            });
        }
    }

    fn segment_size(&self, way: &Way) -> u16 {
        let wanted = self.options.get(Opt::MaxSegment);
        let most = Remote::segment_of(way);
        // 536 is what it is told before there is a connection.
        if wanted == 536 { most } else { most.min(wanted.clamp(88, 65_495) as u16) }
    }

    /// Asks another host for a connection. The names are noted, and the phase is `Waiting`.
    pub(super) fn ask(&self, way: Way, names: Names) {
        let machine = Machine::connecting(
            (names.0.port, names.1.port),
            hal::time::now() as u32 ^ crate::random::next_u64() as u32,
            self.segment_size(&way),
            self.knobs(),
            self.buffers(),
        );
        let remote = Remote::new(machine, way, names, Which::Client, self.me.clone());
        let link = Link::with_remote(self.net.clone(), names, self.queue.clone(), self.side(), remote);
        self.stack().remotes.add(names, link.clone());
        link.step(|_, _| ());
    }

    /// For the fuzz target: one that listens.
    pub fn exercise_listener(net: &Arc<NetNamespace>, port: u16) -> Result<Arc<TcpSocket>> {
        let socket = TcpSocket::in_namespace(net, Version::V6);
        socket.with(|s| s.local.port = port);
        let ticket = socket.take_port(Endpoint { ip: Version::V6.any(), port })?;
        socket.with(|s| s.ticket = Some(ticket));
        socket.start_listening(4)?;
        Ok(socket)
    }

    /// For the fuzz target: what is ready is read, answered and closed.
    pub fn exercise_accept(&self) {
        let ready = self.with(|s| match &mut s.phase {
            Phase::Listening(b) if b.ready.len() > 2 => b.ready.pop_front(),
            _ => None,
        });
        let Some(socket) = ready else { return };
        if let Some(handle) = socket.handle() {
            let mut bytes = [0; 100];
            let _ = handle.receive(&mut Sink::kernel(&mut bytes), false, 100); // there may be nothing
            let _ = handle.send(&mut Source::kernel(&bytes), false); // or nobody
        }
        socket.end(false);
    }

    /// For the fuzz target: another socket asks for a connection.
    pub fn exercise_connection(&self, way: Way, from: Endpoint, to: Endpoint) {
        let socket = TcpSocket::in_namespace(&self.net, Version::V4);
        socket.with(|s| (s.local, s.phase) = (from, Phase::Waiting(to)));
        if self.stack().connect(from, to) {
            socket.ask(way, (from, to));
        }
    }

    fn buffers(&self) -> (usize, usize) {
        (self.common.send_buffer.load(Relaxed), self.common.receive_buffer.load(Relaxed))
    }

    /// It is connected, if it still wants to be.
    fn take_connection(&self, handle: Handle, names: Names) -> bool {
        let wanted = self.with(|s| match s.phase {
            Phase::Waiting(to) if !s.closed && (s.local, to) == names => {
                s.phase = Phase::Connected(handle);
                true
            }
            _ => false,
        });
        if wanted {
            self.wake();
        }
        wanted
    }

    /// The other host has answered our answer: the connection is there, and can be accepted. `EAGAIN`: not now.
    pub(super) fn admit_remote(&self, half: &Half, names: Names) -> Result<Arc<Link>> {
        let full = self.with(|s| match &s.phase {
            Phase::Listening(b) => Ok(b.ready.len() > b.limit),
            _ => Err(Errno::ECONNREFUSED),
        })?;
        if full {
            return Err(Errno::EAGAIN);
        }
        let (local, remote) = names;
        if !self.stack().connect(remote, local) {
            return Err(Errno::EAGAIN);
        }
        let server = self.offspring();
        let machine = Machine::accepted(
            (local.port, remote.port),
            half.opening,
            half.segment,
            server.knobs(),
            server.buffers(),
            hal::time::now(),
        );
        let with = Remote::new(machine, half.way.clone(), names, Which::Server, Weak::new());
        let link =
            Link::with_remote(self.net.clone(), (remote, local), server.queue.clone(), server.side(), with);
        let ticket = self.stack().tcp.lock().inherit(local.port, server.bound(local.ip), &server);
        server.with(|s| {
            (s.local, s.ticket) = (local, Some(ticket));
            s.phase = Phase::Connected(Handle { link: link.clone(), which: Which::Server });
        });
        self.stack().remotes.add(names, link.clone());
        let queued = self.with(|s| match &mut s.phase {
            Phase::Listening(b) => {
                b.ready.push_back(server.clone());
                true
            }
            _ => false,
        });
        if queued {
            self.queue.wake_all(PollEvents::READABLE);
            Ok(link)
        } else {
            server.end(true);
            Err(Errno::ECONNREFUSED)
        }
    }
}

/// Ends the attempt at a connection with these names, if it is one with another host.
pub(super) fn give_up(stack: &Stack, names: Names) {
    if let Some(link) = stack.remotes.find(names) {
        link.abort();
    }
}

/// What was sent did not arrive (ICMP).
pub(in super::super) fn on_error(stack: &Stack, names: Names, number: u32, errno: Errno, mtu: Option<u32>) {
    if let Some(link) = stack.remotes.find(names) {
        link.on_error(number, errno, mtu);
    }
}

/// `TCP_*` of linux/tcp_states.h.
pub(super) fn number_of(state: State) -> u8 {
    match state {
        State::Established => 1,
        State::SynSent => 2,
        State::SynReceived => 3,
        State::FinWait1 => 4,
        State::FinWait2 => 5,
        State::TimeWait => 6,
        State::Closed => 7,
        State::CloseWait => 8,
        State::LastAck => 9,
        State::Closing => 11,
    }
}
