//! What becomes of a destination.
//!
//! What Linux does: the table `local` has the machine's own addresses, the table `main` the networks behind interfaces and
//! the gateways. A destination that neither has is `ENETUNREACH`. The route also says from which address a socket speaks
//! that has none of its own.
//!
//! What we do: the table `local` is what interfaces have for addresses; there is no other yet, as there are no devices.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::interface::{Interface, Interfaces};
use crate::errno::{Errno, Result};

/// The decision.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Route {
    /// A socket of this namespace.
    Local {
        /// Whose address it is.
        interface: u32,
        /// From where a socket without an address speaks.
        source: IpAddr,
    },
    /// All sockets of this namespace that hear broadcasts.
    Broadcast {
        /// Where it is one.
        interface: u32,
        /// As above.
        source: IpAddr,
    },
}

impl Route {
    pub fn source(self) -> IpAddr {
        match self {
            Route::Local { source, .. } | Route::Broadcast { source, .. } => source,
        }
    }

    pub fn interface(self) -> u32 {
        match self {
            Route::Local { interface, .. } | Route::Broadcast { interface, .. } => interface,
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
    let all_of =
        |i: &Interface| i.up && i.addresses.iter().any(|a| a.broadcast().map(IpAddr::V4) == Some(to));
    for i in interfaces.iter() {
        if all_of(i) {
            return Ok(Route::Broadcast { interface: i.index, source: source(i, to) });
        }
        if i.has(to) {
            return Ok(Route::Local { interface: i.index, source: source(i, to) });
        }
    }
    Err(Errno::ENETUNREACH)
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
        assert_eq!(broadcast, Ok(Route::Broadcast { interface: 1, source: ip("127.0.0.1") }));
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
