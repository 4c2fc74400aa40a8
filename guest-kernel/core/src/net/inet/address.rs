//! `struct sockaddr_in` and `struct sockaddr_in6`.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{
    errno::{Errno, Result},
    net::socket::Name,
};

/// `AF_UNSPEC`: connecting to it ends a connection.
pub(super) const AF_UNSPEC: u16 = 0;

/// Bytes of `struct sockaddr_in`; of `struct sockaddr_in6` as RFC 2133 had it, which is enough.
const LEN4: usize = 16;
const LEN6_MIN: usize = 24;

/// Which family a socket is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Version {
    V4,
    V6,
}

impl Version {
    /// `AF_INET` or `AF_INET6`.
    pub const fn family(self) -> u16 {
        match self {
            Version::V4 => 2,
            Version::V6 => 10,
        }
    }

    /// The address that means any.
    pub const fn any(self) -> IpAddr {
        match self {
            Version::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Version::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        }
    }
}

/// An address and a port. The address of an IPv6 socket may be an IPv4 one: that is what a mapped address is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Endpoint {
    pub ip: IpAddr,
    pub port: u16,
}

impl Endpoint {
    /// Any address, no port: of a socket that has no name yet.
    pub const fn none(version: Version) -> Endpoint {
        Endpoint { ip: version.any(), port: 0 }
    }
}

/// The family of a name. `EINVAL` if it is too short to have one.
pub(super) fn family_of(name: &[u8]) -> Result<u16> {
    name.first_chunk().map(|f| u16::from_ne_bytes(*f)).ok_or(Errno::EINVAL)
}

/// A name as a socket of `version` is given it. `EINVAL` if it is too short, `EAFNOSUPPORT` if it is of another family.
pub(super) fn decode(version: Version, name: &[u8]) -> Result<Endpoint> {
    let min = if version == Version::V4 { LEN4 } else { LEN6_MIN };
    if name.len() < min {
        return Err(Errno::EINVAL);
    }
    if family_of(name)? != version.family() {
        return Err(Errno::EAFNOSUPPORT);
    }
    decode_any(name)
}

/// A name as bind(2) is given it. Old programs leave the family out for any IPv4 address.
pub(super) fn decode_for_bind(version: Version, only6: bool, name: &[u8]) -> Result<Endpoint> {
    let at = match (version, name.split_at_checked(2)) {
        (Version::V4, Some(([0, 0], rest))) if name.len() >= LEN4 => {
            let as_if = [&version.family().to_ne_bytes(), rest].concat();
            let at = decode_any(&as_if)?;
            if at.ip.is_unspecified() { at } else { return Err(Errno::EAFNOSUPPORT) }
        }
        _ => decode(version, name)?,
    };
    if only6 && at.ip.is_ipv4() || lacks_scope(at.ip, name) { Err(Errno::EINVAL) } else { Ok(at) }
}

/// Whether the address means something on one link only, and `name` does not say on which.
pub(super) fn lacks_scope(ip: IpAddr, name: &[u8]) -> bool {
    let IpAddr::V6(ip) = ip else { return false };
    let [first, second, ..] = ip.octets();
    // Multicast of the interface or the link.
    let group = first == 0xff && matches!(second & 0xf, 1 | 2);
    (ip.is_unicast_link_local() || group) && name.get(24..28).is_none_or(|scope| scope == [0; 4])
}

/// The same for a name of either family, which is known to be long enough.
pub(super) fn decode_any(name: &[u8]) -> Result<Endpoint> {
    let port = name.get(2..).and_then(|p| p.first_chunk()).map(|p| u16::from_be_bytes(*p));
    let ip = match family_of(name)? {
        10 => name.get(8..).and_then(|a| a.first_chunk::<16>()).map(|a| canonical(Ipv6Addr::from(*a))),
        2 if name.len() >= LEN4 => {
            name.get(4..).and_then(|a| a.first_chunk::<4>()).map(|a| IpAddr::V4(Ipv4Addr::from(*a)))
        }
        2 => None,
        _ => return Err(Errno::EAFNOSUPPORT),
    };
    port.zip(ip).map(|(port, ip)| Endpoint { ip, port }).ok_or(Errno::EINVAL)
}

/// A mapped address is an IPv4 address.
pub(super) fn canonical(ip: Ipv6Addr) -> IpAddr {
    match ip.to_ipv4_mapped() {
        Some(v4) => IpAddr::V4(v4),
        None => IpAddr::V6(ip),
    }
}

/// An address as IPv6 sockets have it.
pub(super) fn mapped(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

/// The name that a socket of `version` tells.
pub(super) fn encode(version: Version, at: Endpoint) -> Name {
    let (family, port) = (version.family().to_ne_bytes(), at.port.to_be_bytes());
    match (version, at.ip) {
        (Version::V4, IpAddr::V4(ip)) => {
            let mut out = [0; LEN4];
            fill(&mut out, &[&family, &port, &ip.octets()]);
            Name::from(out)
        }
        // An IPv4 socket has no other addresses.
        (Version::V4, IpAddr::V6(_)) => encode(version, Endpoint { ip: Version::V4.any(), ..at }),
        (Version::V6, ip) => {
            let mut out = [0; 28];
            fill(&mut out, &[&family, &port, &[0; 4], &mapped(ip).octets()]);
            Name::from(out)
        }
    }
}

fn fill(out: &mut [u8], parts: &[&[u8]]) {
    for (to, from) in out.iter_mut().zip(parts.iter().copied().flatten()) {
        *to = *from;
    }
}

/// What kind of destination an address is, beside one machine's.
pub(super) fn is_broadcast(ip: IpAddr) -> bool {
    // The subnet's own: of all networks there is only the loopback's.
    matches!(ip, IpAddr::V4(v4) if v4.is_broadcast() || v4 == Ipv4Addr::new(127, 255, 255, 255))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_as_programs_have_them() {
        let name = [2, 0, 0x1f, 0x90, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        let at = decode(Version::V4, &name).unwrap();
        assert_eq!(at, Endpoint { ip: Ipv4Addr::LOCALHOST.into(), port: 8080 });
        assert_eq!(encode(Version::V4, at)[..], name);
        assert_eq!(decode(Version::V4, &name[..15]), Err(Errno::EINVAL));
        assert_eq!(decode(Version::V6, &name), Err(Errno::EINVAL));
        let mut six = encode(Version::V6, at).to_vec();
        assert_eq!((six.len(), &six[18..24]), (28, &[0xff, 0xff, 127, 0, 0, 1][..]));
        assert_eq!(decode(Version::V6, &six[..24]), Ok(at));
        assert_eq!(decode(Version::V6, &six[..23]), Err(Errno::EINVAL));
        six[0] = 2;
        assert_eq!(decode(Version::V6, &six), Err(Errno::EAFNOSUPPORT));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(ip: IpAddr, port: u16) {
            let ip = if let IpAddr::V6(v6) = ip { canonical(v6) } else { ip };
            let at = Endpoint { ip, port };
            prop_assert_eq!(decode(Version::V6, &encode(Version::V6, at)), Ok(at));
            if ip.is_ipv4() {
                prop_assert_eq!(decode(Version::V4, &encode(Version::V4, at)), Ok(at));
            }
        }

        #[test]
        fn any_bytes_are_an_address_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            for version in [Version::V4, Version::V6] {
                let _ = decode(version, &bytes);
            }
            let _ = decode_any(&bytes);
        }
    }
}
