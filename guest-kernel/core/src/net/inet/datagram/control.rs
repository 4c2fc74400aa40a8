//! Control messages of the levels IP and IPV6: what a sender wishes, and what a receiver wants to know.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    super::{
        address::{Endpoint, Version, canonical, encode, mapped},
        options::{Opt, Options, SOL_IP, SOL_IPV6},
    },
    socket::About,
};
use crate::{
    errno::{Errno, Result},
    net::socket::Control,
};

const IP_TOS: i32 = 1;
const IP_TTL: i32 = 2;
const IP_PKTINFO: i32 = 8;
const IP_RECVERR: i32 = 11;
const IPV6_RECVERR: i32 = 25;
const IPV6_PKTINFO: i32 = 50;
const IPV6_HOPLIMIT: i32 = 52;
const IPV6_TCLASS: i32 = 67;

/// What a sender wishes for one datagram.
#[derive(Default)]
pub(super) struct Wishes {
    pub source: Option<IpAddr>,
    pub hops: Option<u8>,
    pub class: Option<u8>,
}

impl Wishes {
    /// `EINVAL` for what nobody knows.
    pub fn read(messages: &[Control]) -> Result<Wishes> {
        let mut wishes = Wishes::default();
        for message in messages {
            let data = &message.data;
            let int = || data.first_chunk().map(|b| i32::from_ne_bytes(*b)).ok_or(Errno::EINVAL);
            match (message.level, message.kind) {
                (SOL_IP, IP_PKTINFO) => {
                    let spec: &[u8; 4] =
                        data.get(4..12).and_then(|d| d.first_chunk()).ok_or(Errno::EINVAL)?;
                    wishes.source = Some(IpAddr::V4(Ipv4Addr::from(*spec))).filter(|ip| !ip.is_unspecified());
                }
                (SOL_IPV6, IPV6_PKTINFO) => {
                    let ip: &[u8; 16] = data.get(..20).and_then(|d| d.first_chunk()).ok_or(Errno::EINVAL)?;
                    wishes.source = Some(canonical(Ipv6Addr::from(*ip))).filter(|ip| !ip.is_unspecified());
                }
                (SOL_IP, IP_TTL) => {
                    wishes.hops = Some(u8::try_from(int()?).ok().filter(|n| *n > 0).ok_or(Errno::EINVAL)?);
                }
                (SOL_IPV6, IPV6_HOPLIMIT) => wishes.hops = hops6(int()?)?,
                (SOL_IP, IP_TOS) => {
                    let value = if let [byte] = data.as_slice() { i32::from(*byte) } else { int()? };
                    wishes.class = Some(u8::try_from(value).map_err(|_| Errno::EINVAL)?);
                }
                (SOL_IPV6, IPV6_TCLASS) => wishes.class = hops6(int()?)?,
                (SOL_IP | SOL_IPV6, _) => return Err(Errno::EINVAL),
                _ => {}
            }
        }
        Ok(wishes)
    }
}

/// A number of a byte, or -1 for the default.
fn hops6(value: i32) -> Result<Option<u8>> {
    match value {
        -1 => Ok(None),
        value => u8::try_from(value).map(Some).map_err(|_| Errno::EINVAL),
    }
}

/// What a receiver with these options is told about a datagram.
pub(super) fn tell(version: Version, options: &Options, about: &About) -> Vec<Control> {
    let mut out = Vec::new();
    let mut say = |level, kind, data: &[u8]| out.push(Control { level, kind, data: data.to_vec() });
    let interface = about.interface.to_ne_bytes();
    if version == Version::V6 && options.is_on(Opt::RecvPktInfo6) {
        say(SOL_IPV6, IPV6_PKTINFO, &[&mapped(about.to).octets()[..], &interface].concat());
    }
    match about.to {
        IpAddr::V4(to) => {
            if options.is_on(Opt::PktInfo) {
                say(SOL_IP, IP_PKTINFO, &[interface, to.octets(), to.octets()].concat());
            }
            if options.is_on(Opt::RecvTtl) {
                say(SOL_IP, IP_TTL, &i32::from(about.hops).to_ne_bytes());
            }
            if options.is_on(Opt::RecvTos) {
                say(SOL_IP, IP_TOS, &[about.class]);
            }
        }
        IpAddr::V6(_) => {
            if options.is_on(Opt::RecvHopLimit) {
                say(SOL_IPV6, IPV6_HOPLIMIT, &i32::from(about.hops).to_ne_bytes());
            }
            if options.is_on(Opt::RecvTClass) {
                say(SOL_IPV6, IPV6_TCLASS, &i32::from(about.class).to_ne_bytes());
            }
        }
    }
    out
}

/// `struct sock_extended_err` of an ICMP error from `offender`: origin, type and code are `what`.
pub(super) fn tell_error(
    version: Version,
    errno: Errno,
    [origin, kind, code, _]: [u8; 4],
    info: u32,
    offender: Endpoint,
) -> Vec<Control> {
    let mut data = u32::from(errno.raw()).to_ne_bytes().to_vec();
    data.extend_from_slice(&[origin, kind, code, 0]);
    data.extend_from_slice(&info.to_ne_bytes());
    data.extend_from_slice(&[0; 4]);
    data.extend_from_slice(&encode(version, offender));
    let (level, kind) = match version {
        Version::V4 => (SOL_IP, IP_RECVERR),
        Version::V6 => (SOL_IPV6, IPV6_RECVERR),
    };
    alloc::vec![Control { level, kind, data }]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(level: i32, kind: i32, data: &[u8]) -> Result<Wishes> {
        Wishes::read(&[Control { level, kind, data: data.to_vec() }])
    }

    #[test]
    fn wishes_are_read() {
        let spec = [1, 0, 0, 0, 127, 0, 0, 2, 0, 0, 0, 0];
        assert_eq!(wish(SOL_IP, IP_PKTINFO, &spec).unwrap().source, Some("127.0.0.2".parse().unwrap()));
        assert_eq!(wish(SOL_IP, IP_TTL, &9i32.to_ne_bytes()).unwrap().hops, Some(9));
        assert_eq!(wish(SOL_IP, IP_TOS, &[4]).unwrap().class, Some(4));
        assert_eq!(wish(SOL_IPV6, IPV6_HOPLIMIT, &(-1i32).to_ne_bytes()).unwrap().hops, None);
        assert!(wish(99, 1, &[]).is_ok());
        for (level, kind, data) in [
            (SOL_IP, IP_PKTINFO, &spec[..11]),
            (SOL_IP, IP_TTL, &[0; 4]),
            (SOL_IP, IP_TTL, &[0; 3]),
            (SOL_IPV6, IPV6_HOPLIMIT, &[0, 1, 0, 0]),
            (SOL_IPV6, IPV6_PKTINFO, &[0; 19]),
            (SOL_IP, 77, &[]),
        ] {
            assert_eq!(wish(level, kind, data).err(), Some(Errno::EINVAL), "{level} {kind}");
        }
    }

    #[test]
    fn an_error_says_who_and_what() {
        let at = Endpoint { ip: "127.0.0.1".parse().unwrap(), port: 0 };
        let told = tell_error(Version::V4, Errno::ECONNREFUSED, [2, 3, 3, 1], 0, at);
        assert_eq!((told[0].data.len(), &told[0].data[..8]), (32, &[111, 0, 0, 0, 2, 3, 3, 0][..]));
    }
}
