//! AF_INET and AF_INET6 (ip(7), ipv6(7), tcp(7), udp(7), icmp(7)).
//!
//! What Linux does: a socket is bound to an address and a port in its network namespace, and whatever it sends is made
//! into packets. What goes to an address of the machine's own is routed to `lo`, whose driver hands each packet back to
//! the receiving side of the same stack: checksums, sequence numbers, acknowledgements, timers and all.
//!
//! What we do: names are Linux's (a network namespace has interfaces, addresses, routes and port tables), packets are not.
//! A destination is decided upon once, when a connection is made or a datagram is sent ([`route`]):
//!
//! * **local**: the receiving socket is looked up in the port table and gets the bytes directly. A TCP connection between
//!   two sockets of one namespace is a pair of bounded byte streams ([`tcp`]); a datagram is put into the receiver's
//!   queue ([`datagram`]); an ICMP error is an error noted at the sender. Nothing is lost, reordered or sent twice, so
//!   there is no window, no retransmission and no timer, and no TIME_WAIT (see `tcp`).
//! * **out of a device**: packets ([`packet`]), made by who sends; connections are those of the same sockets, with a state machine
//!   in the place of the other socket ([`tcp`]).
//! * **nowhere**: `ENETUNREACH`.
//!
//! Both families are one thing here. An address is an [`IpAddr`](core::net::IpAddr); the IPv4-mapped addresses that IPv6
//! sockets use are IPv4 addresses inside and mapped again when a name is told ([`address`]), so a dual-stack socket needs no
//! second path.
//!
//! | module | holds |
//! |---|---|
//! | `address` | `struct sockaddr_in` and `sockaddr_in6` |
//! | `ports` | who has which port: binding rules of TCP and UDP, free ports |
//! | `interface` | interfaces, their addresses, what state they are in |
//! | `route` | the decision about a destination |
//! | `stack` | what a network namespace has of all this |
//! | `options` | the options of the levels IP, IPV6, TCP and UDP, and a table of which of them do something |
//! | `tcp`, `datagram` | the sockets |
//! | `ioctl`, `proc` | what `ifconfig` asks for; `/proc/net` |
//! | `packet` | packets: IP, ARP, neighbour discovery, ICMP, and the task of each device |
//! | `device` | what a network device has to offer |
//!
//! Locks. There is no lock of the stack that a transfer takes: sending and receiving on a TCP connection takes that
//! connection's locks, a datagram the receiver's. Order: a stream's sleeping lock; a socket's state; a connection's state or a
//! port table or the list of interfaces; wait queues are woken with none of them held but a stream's. No two sockets' states
//! are held at once: what concerns both ends of a connection is in the object they share.

mod address;
mod datagram;
pub(crate) mod device;
mod interface;
mod ioctl;
mod options;
mod packet;
mod ports;
pub(crate) mod proc;
mod route;
mod stack;
mod tcp;

use alloc::sync::Arc;

use address::Version;
pub(super) use interface::{Address, Behind, Given, IFF_UP, Interface, Interfaces};
pub(super) use ioctl::interfaces as interface_ioctl;
pub use packet::exercise;
pub(crate) use packet::start;
pub use stack::Stack;

use super::{family::Family, socket::Socket};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    task::Capabilities,
};

const IPPROTO_ICMP: i32 = 1;
const IPPROTO_TCP: i32 = 6;
const IPPROTO_UDP: i32 = 17;
const IPPROTO_ICMPV6: i32 = 58;
/// `IPPROTO_MAX`.
const PROTOCOLS: i32 = 263;

/// IPv4.
pub(super) const FAMILY4: Family = Family {
    number: Version::V4.family() as i32,
    create: |task, kind, protocol| create(task, Version::V4, kind, protocol),
    pair: |task, kind, protocol| create(task, Version::V4, kind, protocol).and(Err(Errno::EOPNOTSUPP)),
};

/// IPv6.
pub(super) const FAMILY6: Family = Family {
    number: Version::V6.family() as i32,
    create: |task, kind, protocol| create(task, Version::V6, kind, protocol),
    pair: |task, kind, protocol| create(task, Version::V6, kind, protocol).and(Err(Errno::EOPNOTSUPP)),
};

fn create(task: &TaskRef, version: Version, kind: u32, protocol: i32) -> Result<Arc<dyn Socket>> {
    const STREAM: u32 = 1;
    const DATAGRAM: u32 = 2;
    const RAW: u32 = 3;
    if !(0..PROTOCOLS).contains(&protocol) {
        return Err(Errno::EINVAL);
    }
    let icmp = match version {
        Version::V4 => IPPROTO_ICMP,
        Version::V6 => IPPROTO_ICMPV6,
    };
    match (kind, protocol) {
        (STREAM, 0 | IPPROTO_TCP) => Ok(tcp::TcpSocket::new(task, version)),
        (DATAGRAM, 0 | IPPROTO_UDP) => Ok(datagram::DatagramSocket::new_udp(task, version)),
        (DATAGRAM, p) if p == icmp => Ok(datagram::DatagramSocket::new_ping(task, version)?),
        (STREAM | DATAGRAM, _) | (RAW, 0) => Err(Errno::EPROTONOSUPPORT),
        // Raw sockets see packets, of which there are none before there are devices.
        (RAW, _) if task.credentials().capable_here(Capabilities::NET_RAW) => Err(Errno::EPROTONOSUPPORT),
        (RAW, _) => Err(Errno::EPERM),
        _ => Err(Errno::ESOCKTNOSUPPORT),
    }
}
