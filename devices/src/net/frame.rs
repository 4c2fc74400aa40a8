//! What the egress policy has to know of a frame, read from its first bytes; all of them are the guest's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::policy::Protocol;

/// The bytes of a frame's beginning that are looked at: Ethernet, the longest IPv4 header and ports; or IPv6 with some extension headers.
pub const HEAD: usize = 256;

/// IPv6 extension headers that are followed. Linux sends two at most.
const MAX_EXTENSIONS: usize = 8;

/// Where a frame goes, and what an answer to it would be known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Destination {
    /// Its address.
    pub address: IpAddr,
    /// The transport.
    pub protocol: Protocol,
    /// Its port, if it is in this frame.
    pub port: Option<u16>,
    /// The transport has ports, whether or not it is in this frame.
    pub may_have_ports: bool,
    /// Where it says it comes from.
    pub source: IpAddr,
    /// Its port there, if it is in this frame.
    pub source_port: Option<u16>,
}

impl Destination {
    /// The IPv4 address that an IPv6 address stands for, where it is translated on its way.
    pub fn embedded(&self) -> Option<Ipv4Addr> {
        let IpAddr::V6(address) = self.address else { return None };
        let [.., a, b, c, d] = address.octets();
        let is_translated =
            matches!(address.segments(), [0, 0, 0, 0, 0, 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..]);
        is_translated.then(|| Ipv4Addr::new(a, b, c, d))
    }
}

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Understood {
    /// It keeps the link going and ends on it.
    Link,
    /// It is to be forwarded.
    To(Destination),
    /// Something else.
    Not,
}

/// Looks at the beginning of a frame.
pub fn understand(head: &[u8]) -> Understood {
    look(head).map_or(Understood::Not, |(understood, _)| understood)
}

/// Whether the host may fill in the checksum at `start + offset`, and with `segments` cut the frame by the header at `start`,
/// without changing what was understood: it writes there after we have looked.
pub fn keeps_its_meaning(head: &[u8], (start, offset): (usize, usize), segments: bool) -> bool {
    let Some((_, Some(transport))) = look(head) else { return false };
    match segments {
        // Where TCP's header is said to be, sequence numbers and flags are written, too.
        true => start == ETHERNET + transport && offset == TCP_CHECKSUM,
        // Behind the ports.
        false => start + offset >= ETHERNET + transport + 4,
    }
}

const ETHERNET: usize = 14;
/// Where it is in TCP's header.
const TCP_CHECKSUM: usize = 16;

/// And where in the packet the transport's header is. `None`: not understood.
fn look(head: &[u8]) -> Option<(Understood, Option<usize>)> {
    let packet = head.get(ETHERNET..).unwrap_or_default();
    match bytes(head, 12).map(u16::from_be_bytes) {
        Some(0x0800) => ipv4(packet),
        Some(0x86dd) => ipv6(packet),
        Some(0x0806) => Some((Understood::Link, None)),
        _ => None,
    }
}

/// RFC 791. `None`: cut off or malformed.
fn ipv4(packet: &[u8]) -> Option<(Understood, Option<usize>)> {
    let [first, ..] = *packet else { return None };
    let header = usize::from(first & 15) * 4;
    let total = usize::from(u16::from_be_bytes(bytes(packet, 2)?));
    if first >> 4 != 4 || header < 20 || total < header || packet.len() < header {
        return None;
    }
    // A loose or strict source route (options 131 and 137) leads to another destination than the header's. Other options are
    // as rare; none is let through.
    if header > 20 {
        return None;
    }
    let protocol = Protocol(*packet.get(9)?);
    let address = Ipv4Addr::from(bytes(packet, 16)?);
    let is_first = u16::from_be_bytes(bytes(packet, 6)?) & 0x1fff == 0;
    let transport = packet.get(header..total.min(packet.len()))?;
    let source = Ipv4Addr::from(bytes(packet, 12)?);
    let destination = destination(source.into(), address.into(), protocol, transport, is_first);
    let is_dhcp = address == Ipv4Addr::BROADCAST && (protocol, destination.port) == (Protocol::UDP, Some(67));
    Some((if is_dhcp { Understood::Link } else { Understood::To(destination) }, Some(header)))
}

/// RFC 8200.
fn ipv6(packet: &[u8]) -> Option<(Understood, Option<usize>)> {
    if packet.first()? >> 4 != 6 {
        return None;
    }
    let source = IpAddr::from(bytes::<16>(packet, 8)?);
    let address = Ipv6Addr::from(bytes::<16>(packet, 24)?);
    let end = 40 + usize::from(u16::from_be_bytes(bytes(packet, 4)?));
    let packet = packet.get(..end.min(packet.len()))?;
    let (mut next, mut at, mut is_first) = (*packet.get(6)?, 40, true);
    for _ in 0..MAX_EXTENSIONS {
        match next {
            // Routing: with segments left, the header's destination is not the last one.
            43 if *packet.get(at + 3)? != 0 => return None,
            // Hop-by-hop options, routing, destination options.
            0 | 43 | 60 => {
                next = *packet.get(at)?;
                at += 8 + 8 * usize::from(*packet.get(at + 1)?);
            }
            // Fragment. What comes in the next ones is not in this frame.
            44 => {
                next = *packet.get(at)?;
                is_first = u16::from_be_bytes(bytes(packet, at + 2)?) >> 3 == 0;
                at += 8;
                if !is_first {
                    break;
                }
            }
            // Authentication: its length is counted otherwise.
            51 => {
                next = *packet.get(at)?;
                at += 8 + 4 * usize::from(*packet.get(at + 1)?);
            }
            _ => {
                let transport = packet.get(at..)?;
                let understood = match is_link6(address, next, transport, *packet.get(7)?) {
                    true => Understood::Link,
                    false => {
                        let address = address.into();
                        Understood::To(destination(source, address, Protocol(next), transport, is_first))
                    }
                };
                return Some((understood, Some(at)));
            }
        }
    }
    // A later fragment: the protocol is what its first header says, or one that comes after it.
    if is_first {
        return None;
    }
    let mut unknown = destination(source, address.into(), Protocol(next), &[], false);
    unknown.may_have_ports = true;
    Some((Understood::To(unknown), Some(at)))
}

/// Solicitations and advertisements of neighbours and of routers (RFC 4861: hop limit 255, so they come from this link and stay on it), reports of
/// multicast listeners (RFC 3810: hop limit 1), DHCPv6 to the link's servers (RFC 8415).
fn is_link6(to: Ipv6Addr, protocol: u8, transport: &[u8], hops: u8) -> bool {
    let stays = to.is_multicast() && to.octets()[1] & 15 == 2 || to.is_unicast_link_local();
    match Protocol(protocol) {
        // A neighbour whose address is not link-local is asked, too, when it is probed.
        Protocol::ICMPV6 => match transport.first() {
            Some(133 | 135 | 136) => hops == 255,
            Some(131 | 132 | 143) => stays && hops == 1,
            _ => false,
        },
        Protocol::UDP => {
            stays && to.is_multicast() && bytes(transport, 2).map(u16::from_be_bytes) == Some(547)
        }
        _ => false,
    }
}

fn destination(
    source: IpAddr,
    address: IpAddr,
    protocol: Protocol,
    transport: &[u8],
    is_first: bool,
) -> Destination {
    let may_have_ports = protocol.has_ports();
    let at = |at| bytes(transport, at).map(u16::from_be_bytes).filter(|_| is_first && may_have_ports);
    Destination { address, protocol, port: at(2), may_have_ports, source, source_port: at(0) }
}

fn bytes<const N: usize>(from: &[u8], at: usize) -> Option<[u8; N]> {
    from.get(at..)?.first_chunk().copied()
}
