//! What a network namespace has: interfaces, who has which port, which connections there are, and the settings of
//! `/proc/sys/net`.

use alloc::collections::BTreeSet;
use core::{
    net::{IpAddr, Ipv4Addr},
    ops::RangeInclusive,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use super::{
    address::Endpoint,
    datagram::DatagramSocket,
    interface::Interfaces,
    options::{Opt, Options},
    packet::Way,
    ports::Ports,
    route::{self, Route},
    tcp::{Remotes, TcpSocket},
};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    ns::UserNamespace,
    sync::{RwSpinLock, SpinLock},
    task::Capabilities,
};

/// `net.ipv4.ip_local_port_range`, two 16-bit numbers in one.
const LOCAL_PORTS: u32 = 32_768 << 16 | 60_999;

/// The network of a namespace.
pub struct Stack {
    interfaces: RwSpinLock<Interfaces>,
    pub(super) tcp: SpinLock<Ports<TcpSocket>>,
    pub(super) udp: SpinLock<Ports<DatagramSocket>>,
    /// The identifiers of ping sockets.
    pub(super) ping: SpinLock<Ports<DatagramSocket>>,
    /// The ports of netlink sockets.
    pub(in crate::net) netlink: SpinLock<BTreeSet<u32>>,
    /// TCP connections by the names of their ends, the connecting one first.
    connections: SpinLock<BTreeSet<(Endpoint, Endpoint)>>,
    /// Connections with other hosts.
    pub(super) remotes: Remotes,
    local_ports: AtomicU32,
    /// `net.ipv4.ip_unprivileged_port_start`.
    pub unprivileged_port: AtomicU32,
    /// `net.ipv4.ping_group_range`: first and last.
    pub ping_groups: [AtomicU32; 2],
}

impl Stack {
    /// With `lo`, up or down.
    pub fn new(up: bool) -> Stack {
        Stack {
            interfaces: RwSpinLock::new(Interfaces::new(up)),
            tcp: SpinLock::new(Ports::default()),
            udp: SpinLock::new(Ports::default()),
            ping: SpinLock::new(Ports::default()),
            netlink: SpinLock::new(BTreeSet::new()),
            connections: SpinLock::new(BTreeSet::new()),
            remotes: Remotes::default(),
            local_ports: AtomicU32::new(LOCAL_PORTS),
            unprivileged_port: AtomicU32::new(1024),
            // Everybody, as container runtimes set it; the kernel begins with nobody.
            ping_groups: [AtomicU32::new(0), AtomicU32::new(i32::MAX as u32)],
        }
    }

    /// A copy of the list, to look at in peace.
    pub(crate) fn interfaces(&self) -> Interfaces {
        self.interfaces.read().clone()
    }

    /// Changes it.
    pub(crate) fn change_interfaces<R>(&self, f: impl FnOnce(&mut Interfaces) -> R) -> R {
        f(&mut self.interfaces.write())
    }

    /// The way to `to`. `ENETUNREACH`.
    pub(super) fn route(&self, to: IpAddr) -> Result<Route> {
        route::find(&self.interfaces.read(), to)
    }

    pub(super) fn is_local(&self, ip: IpAddr) -> bool {
        self.interfaces.read().is_local(ip)
    }

    /// Whether an interface has this address.
    pub(super) fn has(&self, index: u32, ip: IpAddr) -> bool {
        self.interfaces.read().by_index(index).is_some_and(|i| i.has(ip))
    }

    /// Whether an interface that is up has an address of which `wanted` says so.
    pub(super) fn any_address(&self, index: u32, wanted: impl Fn(IpAddr) -> bool) -> bool {
        let all = self.interfaces.read();
        all.by_index(index).is_some_and(|i| i.up && i.addresses.iter().any(|a| wanted(a.ip)))
    }

    /// Whether an address is for all on the wire of an interface.
    pub(super) fn is_broadcast_of(&self, index: u32, ip: IpAddr) -> bool {
        let everybody = ip == IpAddr::V4(Ipv4Addr::BROADCAST);
        let all = self.interfaces.read();
        all.by_index(index).is_some_and(|i| {
            i.up && (everybody || i.addresses.iter().any(|a| a.broadcast().map(IpAddr::V4) == Some(ip)))
        })
    }

    /// What is decided about a destination, for who asks: the interface, from which address, by which gateway, whether it is this
    /// machine. `ENETUNREACH`.
    pub(in crate::net) fn explain(&self, to: IpAddr) -> Result<(u32, IpAddr, Option<IpAddr>, bool)> {
        let route = self.route(to)?;
        Ok(match &route {
            Route::Local { .. } => (route.interface(), route.source(), None, true),
            Route::Broadcast { .. } => (route.interface(), route.source(), None, false),
            Route::Out { next, .. } => {
                (route.interface(), route.source(), (*next != to).then_some(*next), false)
            }
        })
    }

    /// How packets get to another host from here, from `from` if that is given. `hops` as is usual if they are not.
    pub(super) fn way(&self, to: IpAddr, from: Option<IpAddr>, hops: Option<u8>, class: u8) -> Option<Way> {
        match self.route(to).ok()? {
            Route::Out { nic, source, next } => {
                let neighbor = nic.neighbor(next);
                Some(Way { nic, neighbor, from: from.unwrap_or(source), to, hops: hops.unwrap_or(64), class })
            }
            _ => None,
        }
    }

    /// Whether a socket with these options may be bound there. `EADDRNOTAVAIL`; `EACCES` for a port that needs a privilege.
    pub(super) fn may_bind(
        &self,
        task: &TaskRef,
        owner: &UserNamespace,
        options: &Options,
        at: Endpoint,
    ) -> Result<()> {
        let group = match at.ip {
            IpAddr::V4(v4) => v4.is_multicast() || super::address::is_broadcast(at.ip),
            IpAddr::V6(v6) => v6.is_multicast(),
        };
        let anywhere = || options.is_on(Opt::FreeBind) || options.is_on(Opt::FreeBind6);
        if !(at.ip.is_unspecified() || group || self.is_local(at.ip) || anywhere()) {
            return Err(Errno::EADDRNOTAVAIL);
        }
        let privileged = at.port != 0 && u32::from(at.port) < self.unprivileged_port.load(Relaxed);
        if privileged && !task.credentials().capable_in(owner, Capabilities::NET_BIND_SERVICE) {
            return Err(Errno::EACCES);
        }
        Ok(())
    }

    /// Ports for those who do not ask for one.
    pub fn local_ports(&self) -> RangeInclusive<u16> {
        let both = self.local_ports.load(Relaxed);
        (both >> 16) as u16..=both as u16
    }

    /// `EINVAL` unless it is a range.
    pub fn set_local_ports(&self, first: u16, last: u16) -> Result<()> {
        if first == 0 || last < first {
            return Err(Errno::EINVAL);
        }
        self.local_ports.store(u32::from(first) << 16 | u32::from(last), Relaxed);
        Ok(())
    }

    /// Notes a connection; whether it is a new one.
    pub(super) fn connect(&self, from: Endpoint, to: Endpoint) -> bool {
        let mut all = self.connections.lock();
        !all.contains(&(to, from)) && all.insert((from, to))
    }

    /// Whether there is no such connection.
    pub(super) fn is_free(&self, from: Endpoint, to: Endpoint) -> bool {
        let all = self.connections.lock();
        // With another host it may be that that one has asked for it.
        !all.contains(&(from, to)) && !all.contains(&(to, from))
    }

    /// Forgets a connection.
    pub(super) fn disconnect(&self, from: Endpoint, to: Endpoint) {
        self.connections.lock().remove(&(from, to));
    }
}
