//! Where a guest may send: the egress policy.
//!
//! A list of rules over the destination's address, the protocol and the destination's port, looked through in order; the first
//! that matches decides, and a default does if none does. It is applied to each frame that leaves the device, outside of
//! the virtual machine, so that a guest whose kernel is lost cannot lift it.
//!
//! What cannot be understood is not sent: a frame with a VLAN tag, a protocol that is neither IPv4, IPv6 nor ARP, a header
//! that is cut off, an IPv6 routing header that leads elsewhere. Where a port is not in the frame (a later fragment, a
//! protocol without ports) a rule that names ports denies as if they matched and does not allow.
//!
//! An address that stands for an IPv4 address (`::ffff:0:0/96`, NAT64's `64:ff9b::/96`) has to pass as both.
//!
//! Who reaches the guest gets its answers wherever they are ([`super::flows`]).
//!
//! Not asked are ARP, neighbour discovery (RFC 4861), multicast listener reports, and DHCP to the link's own servers:
//! without them there is no link.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::frame::{Destination, Understood, understand};

/// Most rules of a policy: each frame is compared with all of them.
pub const MAX_RULES: usize = 256;

/// What to do with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It is sent.
    Allow,
    /// It is dropped and counted.
    Deny,
}

/// What is not understood here is the user's to mend.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum PolicyError {
    /// Not an address range.
    #[error("{0:?} is no range of addresses: write 10.0.0.0/8, 192.0.2.1, or 2001:db8::/32")]
    Range(String),
    /// An address with bits behind its prefix.
    #[error("{0:?} has bits set behind its prefix: write {1}")]
    HostBits(String, Range),
    /// Not a protocol.
    #[error("{0:?} is no protocol: write tcp, udp, icmp, icmpv6, or a number up to 255")]
    Protocol(String),
    /// Not a range of ports.
    #[error("{0:?} is no range of ports: write 443 or 8000-8999")]
    Ports(String),
    /// A rule with ports for a protocol that has none.
    #[error("a rule that names ports needs the protocol tcp, udp, sctp, or none")]
    PortsOfWhat,
    /// Too many rules.
    #[error("an egress policy has {MAX_RULES} rules at most")]
    TooMany,
}

/// A range of addresses: those whose first bits are these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Range {
    address: IpAddr,
    bits: u8,
}

impl Range {
    const fn v4(a: u8, b: u8, c: u8, d: u8, bits: u8) -> Self {
        Self { address: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), bits }
    }

    const fn v6(segments: [u16; 8], bits: u8) -> Self {
        let [a, b, c, d, e, f, g, h] = segments;
        Self { address: IpAddr::V6(Ipv6Addr::new(a, b, c, d, e, f, g, h)), bits }
    }

    /// Whether `address` is one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(range), IpAddr::V4(it)) => (range.to_bits() ^ it.to_bits()) & mask32(self.bits) == 0,
            (IpAddr::V6(range), IpAddr::V6(it)) => (range.to_bits() ^ it.to_bits()) & mask128(self.bits) == 0,
            _ => false,
        }
    }
}

/// The first `bits` bits, 32 at most.
fn mask32(bits: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0)
}

/// The first `bits` bits, 128 at most.
fn mask128(bits: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0)
}

impl FromStr for Range {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let wrong = || PolicyError::Range(text.to_owned());
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        // Digits only: `parse` would take a sign.
        let bits = match bits {
            None => most,
            Some(bits) if bits.bytes().all(|b| b.is_ascii_digit()) => bits.parse().map_err(|_| wrong())?,
            Some(_) => return Err(wrong()),
        };
        if bits > most {
            return Err(wrong());
        }
        let first = match address {
            IpAddr::V4(it) => IpAddr::V4(Ipv4Addr::from_bits(it.to_bits() & mask32(bits))),
            IpAddr::V6(it) => IpAddr::V6(Ipv6Addr::from_bits(it.to_bits() & mask128(bits))),
        };
        let range = Self { address: first, bits };
        if first == address { Ok(range) } else { Err(PolicyError::HostBits(text.to_owned(), range)) }
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// A transport protocol by its number (IANA's "Protocol Numbers").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Protocol(pub u8);

impl Protocol {
    /// ICMP of IPv4.
    pub const ICMP: Self = Self(1);
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);
    /// ICMP of IPv6.
    pub const ICMPV6: Self = Self(58);
    /// SCTP.
    pub const SCTP: Self = Self(132);
    /// UDP-Lite.
    pub const UDP_LITE: Self = Self(136);
    /// DCCP.
    pub const DCCP: Self = Self(33);

    /// Whether its header begins with the ports of source and destination.
    pub fn has_ports(self) -> bool {
        matches!(self, Self::TCP | Self::UDP | Self::SCTP | Self::UDP_LITE | Self::DCCP)
    }
}

/// The names of protocols that have one here.
const NAMES: [(&str, Protocol); 5] = [
    ("icmp", Protocol::ICMP),
    ("tcp", Protocol::TCP),
    ("udp", Protocol::UDP),
    ("icmpv6", Protocol::ICMPV6),
    ("sctp", Protocol::SCTP),
];

impl FromStr for Protocol {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        if let Some((_, protocol)) = NAMES.iter().find(|(name, _)| *name == text) {
            return Ok(*protocol);
        }
        text.parse().map(Self).map_err(|_| PolicyError::Protocol(text.to_owned()))
    }
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match NAMES.iter().find(|(_, protocol)| protocol == self) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}

/// A range of ports, both ends in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ports {
    first: u16,
    last: u16,
}

impl FromStr for Ports {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (first.parse(), last.parse()) {
            (Ok(first), Ok(last)) if first <= last => Ok(Self { first, last }),
            _ => Err(PolicyError::Ports(text.to_owned())),
        }
    }
}

impl std::fmt::Display for Ports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

/// For `serde`, which wants these for a type that is a string.
macro_rules! is_a_string {
    ($($type:ty),*) => {$(
        impl TryFrom<String> for $type {
            type Error = PolicyError;
            fn try_from(text: String) -> Result<Self, PolicyError> { text.parse() }
        }
        impl From<$type> for String {
            fn from(it: $type) -> String { it.to_string() }
        }
    )*};
}
is_a_string!(Range, Protocol, Ports);

/// One rule. What it does not name matches all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// What happens to frames that match.
    pub action: Action,
    /// Addresses of the destination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Range>,
    /// Its protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Its port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<Ports>,
}

impl Rule {
    const fn deny(to: Range) -> Self {
        Self { action: Action::Deny, to: Some(to), protocol: None, ports: None }
    }

    fn matches(&self, it: &Destination) -> bool {
        let port = |ports: Ports| match it.port {
            Some(port) => (ports.first..=ports.last).contains(&port),
            // It may be one of them.
            None => self.action == Action::Deny && it.may_have_ports,
        };
        self.to.is_none_or(|range| range.contains(it.address))
            && self.protocol.is_none_or(|protocol| protocol == it.protocol)
            && self.ports.is_none_or(port)
    }
}

/// The rules of one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// In the order they are looked at.
    #[serde(default)]
    pub rules: Vec<Rule>,
    /// What happens to frames that no rule matches.
    pub default: Action,
}

/// Addresses that are not the public Internet (IANA's special-purpose registries): what is near the host. Clouds serve their
/// metadata at 169.254.169.254 and fd00:ec2::254.
const NOT_PUBLIC: [Range; 19] = [
    Range::v4(0, 0, 0, 0, 8),
    Range::v4(10, 0, 0, 0, 8),
    Range::v4(100, 64, 0, 0, 10),
    Range::v4(127, 0, 0, 0, 8),
    Range::v4(169, 254, 0, 0, 16),
    Range::v4(172, 16, 0, 0, 12),
    Range::v4(192, 0, 0, 0, 24),
    Range::v4(192, 168, 0, 0, 16),
    Range::v4(198, 18, 0, 0, 15),
    // Multicast and what is reserved, broadcast among it.
    Range::v4(224, 0, 0, 0, 3),
    // Unspecified, loopback, and the obsolete addresses that stand for IPv4's.
    Range::v6([0, 0, 0, 0, 0, 0, 0, 0], 96),
    // NAT64 of a local network, RFC 8215.
    Range::v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48),
    // Discard only, RFC 6666.
    Range::v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64),
    // Teredo and 6to4: tunnels to an IPv4 address that is part of this one.
    Range::v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32),
    Range::v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16),
    // Unique local, link-local, site-local (obsolete), multicast.
    Range::v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7),
    Range::v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10),
    Range::v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10),
    Range::v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8),
];

impl Policy {
    /// The public Internet, and the name servers `dns`, without the addresses of the `host` itself: the default of a network that the
    /// user has not set up.
    pub fn public(dns: &[IpAddr], host: &[IpAddr]) -> Self {
        let port = Ports { first: 53, last: 53 };
        let alone = |&address: &IpAddr| Range { address, bits: if address.is_ipv4() { 32 } else { 128 } };
        let server = |address: &IpAddr| Rule {
            action: Action::Allow,
            to: Some(alone(address)),
            protocol: None,
            ports: Some(port),
        };
        // Those of a host with many are cut to what there is room for; most are not public in any case.
        let room = MAX_RULES - NOT_PUBLIC.len();
        let denied = |range: Range| NOT_PUBLIC.iter().any(|known| known.contains(range.address));
        let own = host.iter().map(alone).filter(|range| !denied(*range)).map(Rule::deny);
        let rules = dns.iter().map(server).chain(own).take(room).chain(NOT_PUBLIC.map(Rule::deny)).collect();
        Self { rules, default: Action::Allow }
    }

    /// What a single rule cannot say of itself.
    pub fn check(&self) -> Result<(), PolicyError> {
        if self.rules.len() > MAX_RULES {
            return Err(PolicyError::TooMany);
        }
        let portless = |rule: &&Rule| rule.ports.is_some() && rule.protocol.is_some_and(|p| !p.has_ports());
        self.rules.iter().find(portless).map_or(Ok(()), |_| Err(PolicyError::PortsOfWhat))
    }

    /// Whether the frame that begins with `head` may be sent. `head` is the whole frame or its first
    /// [`HEAD`](super::frame::HEAD) bytes, and a copy: the guest's memory may change meanwhile.
    pub fn allows(&self, head: &[u8]) -> bool {
        match understand(head) {
            Understood::Link => true,
            Understood::To(it) => self.allows_understood(&it),
            Understood::Not => false,
        }
    }

    /// The same of what was understood.
    pub fn allows_understood(&self, it: &Destination) -> bool {
        let embedded = it.embedded().map(|v4| Destination { address: v4.into(), ..*it });
        self.allows_to(it) && embedded.is_none_or(|embedded| self.allows_to(&embedded))
    }

    fn allows_to(&self, it: &Destination) -> bool {
        let decided = self.rules.iter().find(|rule| rule.matches(it)).map(|rule| rule.action);
        decided.unwrap_or(self.default) == Action::Allow
    }
}
