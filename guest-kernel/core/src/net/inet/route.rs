//! What becomes of a destination.
//!
//! What Linux does: the table `local` has the machine's own addresses, the table `main` the networks behind interfaces and
//! the gateways; the longest prefix wins, then the smallest metric. A destination that neither has is `ENETUNREACH`. The route also
//! says from which address a socket speaks that has none of its own.
//!
//! What we do: the table `local` is what interfaces have for addresses, and the networks of `main` follow from those of interfaces
//! with a device; only other routes are kept ([`Given`]).

use alloc::sync::Arc;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    interface::{Behind, Interface, Interfaces},
    packet::Nic,
};
use crate::errno::{Errno, Result};

/// The decision.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Route {
    /// A socket of this namespace.
    Local {
        /// Whose address it is.
        interface: u32,
        /// From where a socket without an address speaks.
        source: IpAddr,
    },
    /// All sockets of this namespace that hear broadcasts, and all hosts on a wire.
    Broadcast {
        /// Where it is one.
        interface: u32,
        /// As above.
        source: IpAddr,
        /// The wire, if there is one.
        nic: Option<Arc<Nic>>,
    },
    /// Another host.
    Out {
        /// By which interface.
        nic: Arc<Nic>,
        /// As above.
        source: IpAddr,
        /// Which neighbour takes it.
        next: IpAddr,
    },
}

impl Route {
    pub fn source(&self) -> IpAddr {
        match self {
            Route::Local { source, .. } | Route::Broadcast { source, .. } | Route::Out { source, .. } => {
                *source
            }
        }
    }

    pub fn interface(&self) -> u32 {
        match self {
            Route::Local { interface, .. } | Route::Broadcast { interface, .. } => *interface,
            Route::Out { nic, .. } => nic.index,
        }
    }
}

/// An unspecified destination is the loopback.
pub(super) fn meant(to: IpAddr) -> IpAddr {
    match to {
        IpAddr::V4(v4) if v4.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(v6) if v6.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        other => other,
    }
}

/// The way to `to`. `ENETUNREACH`.
pub(super) fn find(interfaces: &Interfaces, to: IpAddr) -> Result<Route> {
    let everybody = to == IpAddr::V4(Ipv4Addr::BROADCAST);
    let all_of = |i: &Interface| {
        i.up && (everybody && !i.is_loopback()
            || i.addresses.iter().any(|a| a.broadcast().map(IpAddr::V4) == Some(to)))
    };
    for i in interfaces.iter() {
        if all_of(i) {
            return Ok(Route::Broadcast {
                interface: i.index,
                source: source(i, to),
                nic: device(i).cloned(),
            });
        }
        if i.has(to) {
            return Ok(Route::Local { interface: i.index, source: source(i, to) });
        }
    }
    out(interfaces, to).ok_or(Errno::ENETUNREACH)
}

fn device(i: &Interface) -> Option<&Arc<Nic>> {
    match &i.behind {
        Behind::Device(nic) => Some(nic),
        Behind::Loopback => None,
    }
}

/// The way out of a device: the longest prefix, a network on a wire before one behind a gateway.
fn out(interfaces: &Interfaces, to: IpAddr) -> Option<Route> {
    let mut best: Option<((u8, bool, u32), Route)> = None;
    let mut offer = |prefix: u8, wire: bool, metric: u32, make: &dyn Fn() -> Option<Route>| {
        let rank = (prefix, wire, u32::MAX - metric);
        if best.as_ref().is_none_or(|(known, _)| rank > *known)
            && let Some(route) = make()
        {
            best = Some((rank, route));
        }
    };
    for i in interfaces.iter().filter(|i| i.up) {
        let Some(nic) = device(i) else { continue };
        let here = |from: IpAddr| Some(Route::Out { nic: nic.clone(), source: from, next: to });
        let local_scope = match to {
            IpAddr::V4(v4) => v4.is_multicast(),
            IpAddr::V6(v6) => v6.is_multicast() || v6.is_unicast_link_local(),
        };
        if local_scope {
            // Without a scope there is one wire that can be meant.
            offer(8, true, i.index, &|| own(i, to).and_then(here));
        }
        for a in i.addresses.iter().filter(|a| a.covers(to)) {
            offer(a.prefix, true, 0, &|| here(a.ip));
        }
    }
    for r in interfaces.routes.iter().filter(|r| r.to.covers(to)) {
        offer(r.to.prefix, false, r.metric, &|| {
            let i = interfaces.by_index(r.interface).filter(|i| i.up)?;
            let next = r.gateway.unwrap_or(to);
            let nic = device(i)?.clone();
            let near = i.addresses.iter().find(|a| a.covers(next) && !is_link_local(a.ip)).map(|a| a.ip);
            let source = r.source.or(near).or_else(|| own(i, to))?;
            Some(Route::Out { nic, source, next })
        });
    }
    best.map(|(_, route)| route)
}

fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// An address of the interface of the same family and reach.
fn own(i: &Interface, to: IpAddr) -> Option<IpAddr> {
    let local = match to {
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.octets().starts_with(&[0xff, 2]),
        IpAddr::V4(_) => false,
    };
    let mut same = i.addresses.iter().map(|a| a.ip).filter(|ip| ip.is_ipv4() == to.is_ipv4());
    same.clone().find(|ip| is_link_local(*ip) == local).or_else(|| same.next())
}

/// The address of `interface` from which `to` is spoken to.
fn source(interface: &Interface, to: IpAddr) -> IpAddr {
    let same_family = || interface.addresses.iter().map(|a| a.ip).find(|ip| ip.is_ipv4() == to.is_ipv4());
    interface.near(to).or_else(same_family).unwrap_or(to)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::net::inet::interface::Address;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn local_destinations_have_a_source() {
        let mut all = Interfaces::new(true);
        let route = |all: &Interfaces, to: &str| find(all, meant(ip(to))).map(|r| r.source());
        for (to, from) in [("127.0.0.1", "127.0.0.1"), ("127.0.0.5", "127.0.0.1"), ("0.0.0.0", "127.0.0.1")] {
            assert_eq!(route(&all, to), Ok(ip(from)));
        }
        assert_eq!((route(&all, "::1"), route(&all, "::")), (Ok(ip("::1")), Ok(ip("::1"))));
        for to in ["10.0.0.1", "fe80::1", "2001:db8::1", "224.0.0.1", "255.255.255.255"] {
            assert_eq!(route(&all, to), Err(Errno::ENETUNREACH), "{to}");
        }
        let broadcast = find(&all, ip("127.255.255.255"));
        assert_eq!(broadcast, Ok(Route::Broadcast { interface: 1, source: ip("127.0.0.1"), nic: None }));
        all.add_address(1, Address { ip: ip("10.0.0.7"), prefix: 24 }).unwrap();
        assert_eq!(route(&all, "10.0.0.9"), Ok(ip("10.0.0.7")));
        all.set_up(1, false).unwrap();
        assert_eq!(route(&all, "127.0.0.1"), Err(Errno::ENETUNREACH));
    }

    proptest! {
        #[test]
        fn only_what_is_local_is_reached(to: IpAddr) {
            let all = Interfaces::new(true);
            let local = matches!(to, IpAddr::V4(v4) if v4.octets()[0] == 127) || to == ip("::1");
            prop_assert_eq!(find(&all, to).is_ok(), local);
        }
    }
}
