//! What arrives.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ringfence_hal as hal;
use smoltcp::wire::{EthernetFrame, EthernetProtocol, Ipv4Packet, Ipv6Packet, UdpPacket};

use super::{
    Due, Nic, SECOND,
    header::{checksum_of, pseudo_header},
};
use crate::net::inet::{address::Endpoint, datagram, stack::Stack, tcp};

/// What the headers of a packet said.
#[derive(Clone, Copy)]
pub(in super::super) struct Meta<'a> {
    pub from: IpAddr,
    pub to: IpAddr,
    pub hops: u8,
    pub class: u8,
    /// It was sent to others, too.
    pub shared: bool,
    /// Its checksum is known to be right.
    pub checked: bool,
    /// The packet, or the beginning of it, for ICMP errors.
    pub packet: &'a [u8],
}

impl Meta<'_> {
    /// Whether the checksum in a datagram of `protocol` is right.
    pub fn verify(&self, protocol: u8, bytes: &[u8]) -> bool {
        self.checked || checksum_of(bytes, pseudo_header(self.from, self.to, protocol, bytes.len())) == 0
    }
}

/// Extension headers of one packet.
const EXTENSIONS_MAX: usize = 8;

impl Nic {
    /// Takes a frame.
    pub(super) fn input(&self, frame: &[u8], checked: bool) {
        let Ok(frame) = EthernetFrame::new_checked(frame) else { return };
        let to = frame.dst_addr();
        let shared = to.is_multicast() || to.is_broadcast();
        if !shared && to.0 != self.device.mac() {
            return;
        }
        let Some(net) = self.namespace() else { return };
        let stack = net.stack();
        match frame.ethertype() {
            EthernetProtocol::Arp => self.on_arp(frame.payload()),
            EthernetProtocol::Ipv4 => self.on_ipv4(stack, frame.payload(), shared, checked),
            EthernetProtocol::Ipv6 => self.on_ipv6(stack, frame.payload(), shared, checked),
            EthernetProtocol::Unknown(_) => {}
        }
    }

    fn on_ipv4(&self, stack: &Stack, bytes: &[u8], shared: bool, checked: bool) {
        let Ok(packet) = Ipv4Packet::new_checked(bytes) else { return };
        let header = usize::from(packet.header_len());
        let total = usize::from(packet.total_len());
        let Some(bytes) = bytes.get(..total) else { return };
        if packet.version() != 4 || header < 20 || header > total || !packet.verify_checksum() {
            return;
        }
        let (from, to): (Ipv4Addr, Ipv4Addr) = (packet.src_addr(), packet.dst_addr());
        // Who cannot have sent it, and who is not on any wire.
        if from.is_multicast() || from.is_broadcast() || from.is_loopback() || to.is_loopback() {
            return;
        }
        let broadcast = stack.is_broadcast_of(self.index, to.into());
        if !broadcast && !stack.is_local(to.into()) || stack.is_local(from.into()) {
            return;
        }
        let meta = Meta {
            from: from.into(),
            to: to.into(),
            hops: packet.hop_limit(),
            class: packet.dscp() << 2 | packet.ecn(),
            shared: shared || broadcast,
            checked,
            packet: bytes,
        };
        let protocol = u8::from(packet.next_header());
        let payload = bytes.get(header..).unwrap_or_default();
        let (offset, more) = (usize::from(packet.frag_offset()), packet.more_frags());
        if offset == 0 && !more {
            return self.deliver(stack, &meta, protocol, payload);
        }
        let key = (meta.from, meta.to, packet.ident().into(), protocol);
        self.on_fragment(stack, &meta, key, (offset, more), payload);
    }

    fn on_fragment(
        &self,
        stack: &Stack,
        meta: &Meta<'_>,
        key: super::fragments::Key,
        (offset, more): (usize, bool),
        payload: &[u8],
    ) {
        let now = hal::time::now();
        let whole = self.fragments.lock().put(now, key, offset, more, payload);
        match whole {
            Some(whole) => {
                let meta = Meta { checked: false, ..*meta };
                self.deliver(stack, &meta, key.3, &whole);
            }
            None => self.at(now + SECOND, Due::Tidy),
        }
    }

    fn on_ipv6(&self, stack: &Stack, bytes: &[u8], shared: bool, checked: bool) {
        let Ok(packet) = Ipv6Packet::new_checked(bytes) else { return };
        let Some(bytes) = bytes.get(..packet.total_len()) else { return };
        let (from, to): (Ipv6Addr, Ipv6Addr) = (packet.src_addr(), packet.dst_addr());
        if packet.version() != 6 || from.is_multicast() || from.is_loopback() || to.is_loopback() {
            return;
        }
        let group = to.is_multicast() && self.hears(stack, to);
        if !group && !stack.is_local(to.into()) || stack.is_local(from.into()) {
            return;
        }
        let meta = Meta {
            from: from.into(),
            to: to.into(),
            hops: packet.hop_limit(),
            class: packet.traffic_class(),
            shared: shared && group,
            checked,
            packet: bytes,
        };
        let mut next = u8::from(packet.next_header());
        let mut rest = bytes.get(40..).unwrap_or_default();
        for _ in 0..EXTENSIONS_MAX {
            match (next, rest) {
                // Hop by hop, destination options, routing that is over.
                (0 | 60, [after, len, ..]) | (43, [after, len, _, 0, ..]) => {
                    next = *after;
                    rest = rest.get((usize::from(*len) + 1) * 8..).unwrap_or_default();
                }
                (44, [after, _, high, low, a, b, c, d, payload @ ..]) => {
                    let place = u16::from_be_bytes([*high, *low]);
                    let (offset, more) = (usize::from(place & !7), place & 1 != 0);
                    if offset == 0 && !more {
                        (next, rest) = (*after, payload);
                        continue;
                    }
                    let key = (meta.from, meta.to, u32::from_be_bytes([*a, *b, *c, *d]), *after);
                    return self.on_fragment(stack, &meta, key, (offset, more), payload);
                }
                (6 | 17 | 58, _) => return self.deliver(stack, &meta, next, rest),
                _ => return,
            }
        }
    }

    /// Whether a group is one that every host is in, or that of one of our addresses (RFC 4291, section 2.8).
    fn hears(&self, stack: &Stack, group: Ipv6Addr) -> bool {
        const ALL: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        let [.., a, b, c] = group.octets();
        let solicited = group.octets().starts_with(&[0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff]);
        let ends = |ip: IpAddr| matches!(ip, IpAddr::V6(v6) if v6.octets().ends_with(&[a, b, c]));
        group == ALL || solicited && stack.any_address(self.index, ends)
    }

    /// Hands on what is in a packet.
    fn deliver(&self, stack: &Stack, meta: &Meta<'_>, protocol: u8, bytes: &[u8]) {
        match (protocol, meta.from.is_ipv4()) {
            (6, _) if !meta.shared && meta.verify(6, bytes) => tcp::input(self, stack, meta, bytes),
            (6, _) => {}
            (17, _) => self.on_udp(stack, meta, bytes),
            (1, true) => self.on_icmp4(stack, meta, bytes),
            (58, false) => self.on_icmp6(stack, meta, bytes),
            // "Protocol unreachable".
            (_, true) => self.send_error(stack, meta, 3, 2, 0),
            _ => {}
        }
    }

    fn on_udp(&self, stack: &Stack, meta: &Meta<'_>, bytes: &[u8]) {
        let Ok(packet) = UdpPacket::new_checked(bytes) else { return };
        let Some(bytes) = bytes.get(..usize::from(packet.len())) else { return };
        let unsummed = packet.checksum() == 0;
        if unsummed && meta.from.is_ipv6() || !unsummed && !meta.verify(17, bytes) {
            return;
        }
        let from = Endpoint { ip: meta.from, port: packet.src_port() };
        let to = Endpoint { ip: meta.to, port: packet.dst_port() };
        let about = datagram::about(from, meta.to, self.index, meta.hops, meta.class);
        if !datagram::arrived(stack, to, packet.payload(), about, meta.shared) && !meta.shared {
            // "Port unreachable".
            let (kind, code) = if meta.from.is_ipv4() { (3, 3) } else { (1, 4) };
            self.send_error(stack, meta, kind, code, 0);
        }
    }
}
