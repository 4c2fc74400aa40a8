//! A datagram socket: its state, names, how it is asked about, and how it ends.

use alloc::{
    collections::VecDeque,
    sync::{Arc, Weak},
    vec::Vec,
};
use core::{net::IpAddr, sync::atomic::Ordering::Relaxed};

use super::super::{
    IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_UDP,
    address::{
        AF_UNSPEC, Endpoint, Version, decode, decode_any, decode_for_bind, encode, family_of, lacks_scope,
    },
    options::{Opt, Options, SOL_UDP},
    ports::{Bound, Holder, Ports, Ticket},
    route::{Route, meant},
    stack::Stack,
};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    io::{Sink, Source},
    net::{
        common::{Common, SO_BROADCAST, SO_REUSEADDR, SO_REUSEPORT},
        mailbox::Mailbox,
        socket::{How, Kind, Name, Outgoing, Received, Socket},
    },
    ns::NetNamespace,
    sync::{PollEvents, PollTable, Queue, SpinLock, WaitQueue},
    syscall::UserPtr,
};

/// What a datagram's headers would say.
#[derive(Clone, Copy)]
pub(in super::super) struct About {
    pub from: Endpoint,
    pub to: IpAddr,
    /// Where it came in.
    pub interface: u32,
    pub hops: u8,
    pub class: u8,
    /// When it was sent, by the wall clock; 0 if the receiver did not want to know.
    pub at: u64,
}

/// An error that came back.
pub(super) struct Noted {
    pub errno: Errno,
    /// Origin, type and code (`struct sock_extended_err`), and whether it is certain.
    pub what: [u8; 4],
    /// The size there is room for, if that was it.
    pub info: u32,
    /// Where the datagram was sent to, and what was in it.
    pub to: Endpoint,
    pub bytes: Vec<u8>,
}

/// What there is one of for each protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Protocol {
    Udp,
    Ping,
}

pub(super) struct State {
    pub local: Endpoint,
    pub remote: Option<Endpoint>,
    pub ticket: Option<Ticket>,
    /// The program chose the address, and the port.
    chosen: (bool, bool),
    pub inbox: Mailbox<About>,
    /// The beginning of a datagram and where it goes (`MSG_MORE`).
    pub corked: Option<(Endpoint, Vec<u8>)>,
    /// To be told once.
    pub error: Option<Errno>,
    /// `MSG_ERRQUEUE`.
    pub errors: VecDeque<Noted>,
    pub read_shut: bool,
    pub write_shut: bool,
    pub closed: bool,
}

/// A UDP or ping socket.
pub(crate) struct DatagramSocket {
    pub(super) version: Version,
    pub(super) protocol: Protocol,
    pub(super) common: Common,
    pub(super) options: Options,
    pub(super) queue: Queue,
    me: Weak<DatagramSocket>,
    pub(super) net: Arc<NetNamespace>,
    uid: u32,
    state: SpinLock<State>,
}

/// What `/proc/net/udp` shows.
pub(in super::super) struct Report {
    pub version: Version,
    pub local: Endpoint,
    pub remote: Endpoint,
    pub connected: bool,
    pub queued: usize,
    pub lost: u64,
    pub uid: u32,
    pub ino: u64,
}

const WRITABLE: PollEvents = PollEvents::WRITABLE.union(PollEvents::WRBAND);

impl Holder for DatagramSocket {
    fn reuses_address(&self) -> bool {
        self.common.flag(SO_REUSEADDR)
    }
    fn reuses_port(&self) -> bool {
        self.common.flag(SO_REUSEPORT)
    }
    fn is_listening(&self) -> bool {
        false
    }
    fn uid(&self) -> u32 {
        self.uid
    }
}

impl DatagramSocket {
    pub fn new_udp(task: &TaskRef, version: Version) -> Arc<DatagramSocket> {
        Self::make(task, version, Protocol::Udp)
    }

    /// `EACCES` if the caller is in none of the groups that may ping.
    pub fn new_ping(task: &TaskRef, version: Version) -> Result<Arc<DatagramSocket>> {
        let net = task.namespaces().net.clone();
        let [first, last] = net.stack().ping_groups.each_ref().map(|g| g.load(Relaxed));
        let c = task.credentials();
        if !c.groups.iter().chain([&c.egid]).any(|g| (first..=last).contains(g)) {
            return Err(Errno::EACCES);
        }
        let socket = Self::make(task, version, Protocol::Ping);
        // Identifiers may be shared.
        socket.common.set_flag(SO_REUSEADDR, true);
        Ok(socket)
    }

    fn make(task: &TaskRef, version: Version, protocol: Protocol) -> Arc<DatagramSocket> {
        let (net, uid) = (task.namespaces().net.clone(), task.credentials().fsuid);
        Arc::new_cyclic(|me| DatagramSocket {
            version,
            protocol,
            common: Common::default(),
            options: Options::new(version),
            queue: WaitQueue::new(),
            me: me.clone(),
            net,
            uid,
            state: SpinLock::new(State {
                local: Endpoint::none(version),
                remote: None,
                ticket: None,
                chosen: (false, false),
                inbox: Mailbox::default(),
                corked: None,
                error: None,
                errors: VecDeque::new(),
                read_shut: false,
                write_shut: false,
                closed: false,
            }),
        })
    }

    pub(super) fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        f(&mut self.state.lock())
    }

    pub(super) fn stack(&self) -> &Stack {
        self.net.stack()
    }

    /// The ports of the protocol.
    pub(super) fn ports(&self) -> &SpinLock<Ports<DatagramSocket>> {
        match self.protocol {
            Protocol::Udp => &self.stack().udp,
            Protocol::Ping => &self.stack().ping,
        }
    }

    fn bound(&self, ip: IpAddr, remote: Option<Endpoint>) -> Bound {
        Bound { ip, only6: self.options.is_on(Opt::V6Only), remote }
    }

    /// Takes a port, the given one or any.
    fn take_port(&self, at: Endpoint) -> Result<Ticket> {
        let me = self.me.upgrade().ok_or(Errno::EBADF)?;
        let (bound, range) = (self.bound(at.ip, None), self.stack().local_ports());
        self.ports().lock().take(at.port, range, bound, &me)
    }

    /// Who sends or connects without a port gets one.
    pub(super) fn autobind(&self) -> Result<()> {
        let (ticket, local) = self.with(|s| (s.ticket, s.local));
        if ticket.is_none() {
            let ticket = self.take_port(local).map_err(|_| Errno::EAGAIN)?;
            self.with(|s| (s.ticket, s.local.port) = (Some(ticket), ticket.port));
        }
        Ok(())
    }

    /// Where a name given to connect or send means. `EAFNOSUPPORT`.
    pub(super) fn destination(&self, name: &[u8]) -> Result<Endpoint> {
        let at = match (self.version, family_of(name)?) {
            // An IPv6 socket takes IPv4 names, too.
            (Version::V6, 2) if self.protocol == Protocol::Udp => decode_any(name)?,
            _ => decode(self.version, name)?,
        };
        Ok(Endpoint { ip: meant(at.ip), ..at })
    }

    /// The way to `to`, if this socket may take it. `ENETUNREACH`, `EACCES` for a broadcast without `SO_BROADCAST`.
    pub(super) fn route(&self, to: IpAddr) -> Result<Route> {
        if to.is_ipv4()
            && self.version == Version::V6
            && (self.options.is_on(Opt::V6Only) || self.protocol == Protocol::Ping)
        {
            return Err(Errno::ENETUNREACH);
        }
        let route = self.stack().route(to)?;
        match route {
            Route::Broadcast { .. } if !self.common.flag(SO_BROADCAST) => Err(Errno::EACCES),
            route => Ok(route),
        }
    }

    fn disconnect(&self) {
        let (ticket, bound) = self.with(|s| {
            s.remote = None;
            if !s.chosen.0 {
                s.local.ip = self.version.any();
            }
            if s.chosen.1 {
                return (s.ticket, Some(s.local.ip));
            }
            s.local.port = 0;
            (s.ticket.take(), None)
        });
        if let Some(ticket) = ticket {
            let mut ports = self.ports().lock();
            match bound {
                Some(ip) => ports.rebind(ticket, self.bound(ip, None)),
                None => ports.release(ticket),
            }
        }
    }

    pub(in super::super) fn report(&self) -> Report {
        self.with(|s| Report {
            version: self.version,
            local: s.local,
            remote: s.remote.unwrap_or(Endpoint::none(self.version)),
            connected: s.remote.is_some(),
            queued: s.inbox.weight(),
            lost: s.inbox.lost,
            uid: self.uid,
            ino: self.common.ino(),
        })
    }
}

impl Socket for DatagramSocket {
    fn common(&self) -> &Common {
        &self.common
    }

    fn domain(&self) -> i32 {
        self.version.family().into()
    }

    fn kind(&self) -> Kind {
        Kind::Datagram
    }

    fn protocol(&self) -> i32 {
        match (self.protocol, self.version) {
            (Protocol::Udp, _) => IPPROTO_UDP,
            (Protocol::Ping, Version::V4) => IPPROTO_ICMP,
            (Protocol::Ping, Version::V6) => IPPROTO_ICMPV6,
        }
    }

    fn bind(&self, task: &TaskRef, name: &[u8]) -> Result<()> {
        let at = decode_for_bind(self.version, self.options.is_on(Opt::V6Only), name)?;
        // Identifiers need no privilege.
        let port = if self.protocol == Protocol::Udp { at.port } else { 0 };
        self.stack().may_bind(task, self.net.owner(), &self.options, Endpoint { port, ..at })?;
        if self.with(|s| s.ticket.is_some() || s.remote.is_some()) {
            return Err(Errno::EINVAL);
        }
        let ticket = self.take_port(at)?;
        self.with(|s| {
            s.local = Endpoint { ip: at.ip, port: ticket.port };
            s.ticket = Some(ticket);
            s.chosen = (!at.ip.is_unspecified(), true);
        });
        Ok(())
    }

    fn connect(&self, _task: &TaskRef, to: &[u8], _nonblocking: bool) -> Result<()> {
        if family_of(to)? == AF_UNSPEC {
            self.disconnect();
            return Ok(());
        }
        self.autobind()?;
        let name = to;
        let to = self.destination(name)?;
        if lacks_scope(to.ip, name) {
            return Err(Errno::EINVAL);
        }
        let source = self.route(to.ip)?.source();
        let (ticket, ip) = self.with(|s| {
            if s.local.ip.is_unspecified() {
                s.local.ip = source;
            }
            s.remote = Some(to);
            (s.ticket, s.local.ip)
        });
        if let Some(ticket) = ticket {
            let remote = (self.protocol == Protocol::Udp).then_some(to);
            self.ports().lock().rebind(ticket, self.bound(ip, remote));
        }
        Ok(())
    }

    fn shutdown(&self, read: bool, write: bool) -> Result<()> {
        let connected = self.with(|s| {
            s.read_shut |= read;
            s.write_shut |= write;
            s.remote.is_some()
        });
        self.queue.wake_all(PollEvents::empty());
        if connected { Ok(()) } else { Err(Errno::ENOTCONN) }
    }

    fn name(&self) -> Name {
        encode(self.version, self.with(|s| s.local))
    }

    fn peer_name(&self) -> Result<Name> {
        let remote = self.with(|s| s.remote).filter(|at| at.port != 0);
        remote.map(|at| encode(self.version, at)).ok_or(Errno::ENOTCONN)
    }

    fn send(&self, _task: &TaskRef, source: &mut Source<'_>, message: Outgoing<'_>) -> Result {
        self.send_message(source, message)
    }

    fn receive(&self, task: &TaskRef, sink: &mut Sink<'_>, how: How) -> Result<Received> {
        if how.errors { self.receive_error(sink) } else { self.receive_message(task, sink, how) }
    }

    fn take_error(&self) -> Option<Errno> {
        self.with(|s| s.error.take())
    }

    fn option(&self, _task: &TaskRef, level: i32, name: i32) -> Result<Vec<u8>> {
        let connected = self.with(|s| s.remote.is_some());
        self.options.value(self.version, Kind::Datagram, connected, level, name)
    }

    fn set_option(&self, _task: &TaskRef, level: i32, name: i32, value: u64, len: usize) -> Result<()> {
        let bound = self.with(|s| s.ticket.is_some());
        self.options.change(self.version, Kind::Datagram, bound, (level, name), (value, len))?;
        if level == SOL_UDP && !self.options.is_on(Opt::UdpCork) && self.with(|s| s.corked.is_some()) {
            // What was sent of a datagram is all of it.
            let _ = self.send_message(&mut Source::kernel(&[]), Outgoing::default());
        }
        Ok(())
    }

    fn poll(&self, table: Option<&mut PollTable>) -> PollEvents {
        if let Some(table) = table {
            table.register(&self.queue);
        }
        self.with(|s| {
            let mut events = WRITABLE;
            events.set(PollEvents::READABLE, !s.inbox.is_empty() || s.read_shut);
            events.set(PollEvents::RDHUP, s.read_shut);
            events.set(PollEvents::HUP, s.read_shut && s.write_shut);
            events.set(PollEvents::ERR, s.error.is_some() || !s.errors.is_empty());
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
            SIOCINQ => self.with(|s| s.inbox.first_len()),
            SIOCOUTQ => 0,
            _ => return Err(Errno::ENOTTY),
        };
        UserPtr::<i32>::new(arg).write(&(n as i32))?;
        Ok(0)
    }

    fn net(&self) -> Option<&NetNamespace> {
        Some(&self.net)
    }

    fn close(&self) {
        let (ticket, letters, errors) = self.with(|s| {
            s.closed = true;
            (s.ticket.take(), s.inbox.clear(), core::mem::take(&mut s.errors))
        });
        if let Some(ticket) = ticket {
            self.ports().lock().release(ticket);
        }
        drop((letters, errors));
    }
}
