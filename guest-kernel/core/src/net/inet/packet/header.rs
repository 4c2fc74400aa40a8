//! The headers of packets that leave.

use alloc::vec::Vec;
use core::net::IpAddr;

use ringfence_hal::{Frame, PAGE_SIZE};
use smallvec::SmallVec;
use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{
        EthernetProtocol, Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv4Packet, Ipv4Repr, Ipv6Packet, Ipv6Repr,
        NdiscRepr, TcpPacket, TcpRepr,
    },
};

use super::{Nic, Way};
use crate::{
    errno::{Errno, Result},
    net::inet::{
        device::{HEAD_MAX, Head, Packet},
        tcp::{Outgoing, Part},
    },
};

pub(super) const ETHERNET: usize = 14;

/// What is in an IP packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) enum Transport {
    Udp,
    Icmp4,
    Icmp6,
}

impl Transport {
    pub fn number(self) -> u8 {
        match self {
            Transport::Udp => 17,
            Transport::Icmp4 => 1,
            Transport::Icmp6 => 58,
        }
    }
}

/// The Internet checksum's sum, without the complement.
fn add_up(bytes: &[u8], start: u64) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut sum = words.iter().fold(start, |sum, w| sum + u64::from(u32::from_be_bytes(*w)));
    let (pairs, odd) = rest.as_chunks::<2>();
    sum += pairs.iter().fold(0, |sum, p| sum + u64::from(u16::from_be_bytes(*p)));
    sum + odd.first().map_or(0, |b| u64::from(*b) << 8)
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The Internet checksum (RFC 1071) of bytes behind something with this sum.
pub(in super::super) fn checksum_of(bytes: &[u8], start: u64) -> u16 {
    !fold(add_up(bytes, start))
}

/// The sum of the header that checksums of TCP, UDP and ICMPv6 begin with.
pub(in super::super) fn pseudo_header(from: IpAddr, to: IpAddr, protocol: u8, len: usize) -> u64 {
    let sum = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => add_up(&from.octets(), add_up(&to.octets(), 0)),
        (IpAddr::V6(from), IpAddr::V6(to)) => add_up(&from.octets(), add_up(&to.octets(), 0)),
        _ => 0,
    };
    sum + u64::from(protocol) + len as u64
}

/// Puts an Ethernet header; the destination is filled in when it leaves.
pub(super) fn ethernet(head: &mut Head, own: [u8; 6], protocol: EthernetProtocol) {
    head.extend_from_slice(&[0; 6]);
    head.extend_from_slice(&own);
    head.extend_from_slice(&u16::from(protocol).to_be_bytes());
}

/// Puts the Ethernet and the IP header for `len` bytes.
fn internet(head: &mut Head, way: &Way, protocol: u8, len: usize) {
    let own = way.nic.device.mac();
    match (way.from, way.to) {
        (IpAddr::V4(src_addr), IpAddr::V4(dst_addr)) => {
            ethernet(head, own, EthernetProtocol::Ipv4);
            let repr = Ipv4Repr {
                src_addr,
                dst_addr,
                next_header: IpProtocol::from(protocol),
                payload_len: len,
                hop_limit: way.hops,
            };
            let mut bytes = [0; 20];
            let mut packet = Ipv4Packet::new_unchecked(&mut bytes[..]);
            repr.emit(&mut packet, &ChecksumCapabilities::ignored());
            packet.set_dscp(way.class >> 2);
            packet.set_ecn(way.class & 3);
            packet.fill_checksum();
            head.extend_from_slice(&bytes);
        }
        (IpAddr::V6(src_addr), IpAddr::V6(dst_addr)) => {
            ethernet(head, own, EthernetProtocol::Ipv6);
            let repr = Ipv6Repr {
                src_addr,
                dst_addr,
                next_header: IpProtocol::from(protocol),
                payload_len: len,
                hop_limit: way.hops,
            };
            let mut bytes = [0; 40];
            let mut packet = Ipv6Packet::new_unchecked(&mut bytes[..]);
            repr.emit(&mut packet);
            packet.set_traffic_class(way.class);
            head.extend_from_slice(&bytes);
        }
        _ => {}
    }
}

impl Way {
    /// Bytes of IP payload of one packet.
    pub fn room(&self) -> usize {
        let header = if self.to.is_ipv4() { 20 } else { 40 };
        (self.nic.device.mtu() as usize).saturating_sub(header)
    }

    /// How many bytes of TCP the device cuts into segments by itself.
    pub fn cuts(&self) -> usize {
        let [four, six] = self.nic.device.offloads().cut;
        let can = if self.to.is_ipv4() { four } else { six };
        if can { 65_535 - 20 - 60 - 40 } else { 0 }
    }

    /// Sends a segment of TCP; false if the ring is full.
    pub fn send_segment(&self, out: Outgoing) -> bool {
        let header = out.header.header_len();
        let total = header + out.len;
        let mut head = Head::new();
        internet(&mut head, self, 6, total);
        let at = head.len();
        head.resize(at + header, 0);
        let Some(bytes) = head.get_mut(at..) else { return true };
        let mut packet = TcpPacket::new_unchecked(bytes);
        TcpRepr::emit(
            &out.header,
            &mut packet,
            &self.from.into(),
            &self.to.into(),
            &ChecksumCapabilities::ignored(),
        );
        let pseudo = pseudo_header(self.from, self.to, 6, total);
        let offloads = self.nic.device.offloads();
        let checksum = if offloads.checksum {
            packet.set_checksum(fold(pseudo));
            Some((at as u16, 16))
        } else {
            let mut sum = Sum::new(pseudo);
            sum.add(packet.into_inner());
            out.parts.iter().for_each(|part| sum.add_part(part));
            if let Some(place) = head.get_mut(at + 16..at + 18) {
                place.copy_from_slice(&sum.end().to_be_bytes());
            }
            None
        };
        let cut = out.cut.map(|size| (size, self.to.is_ipv6()));
        self.nic.transmit(&self.neighbor, Packet { head, parts: out.parts, checksum, cut })
    }

    /// Sends a datagram, whose header is at the beginning of `bytes` with the checksum at `sum_at` to be filled in, in as many packets as
    /// it takes. `EMSGSIZE` if it may not be fragmented.
    pub fn send_datagram(
        &self,
        transport: Transport,
        bytes: &mut [u8],
        sum_at: usize,
        whole: bool,
    ) -> Result<()> {
        let start = match transport {
            Transport::Icmp4 => 0,
            other => pseudo_header(self.from, self.to, other.number(), bytes.len()),
        };
        let mut sum = checksum_of(bytes, start);
        if transport == Transport::Udp && sum == 0 {
            sum = 0xffff;
        }
        if let Some(place) = bytes.get_mut(sum_at..sum_at + 2) {
            place.copy_from_slice(&sum.to_be_bytes());
        }
        let room = self.room();
        if bytes.len() <= room {
            return self.send_part(transport.number(), None, bytes);
        }
        if whole {
            return Err(Errno::EMSGSIZE);
        }
        let extra = if self.to.is_ipv6() { 8 } else { 0 };
        let step = (room.saturating_sub(extra) & !7).max(8);
        let number = self.nic.next_identification();
        for (i, chunk) in bytes.chunks(step).enumerate() {
            let offset = i * step;
            let more = offset + chunk.len() < bytes.len();
            self.send_part(transport.number(), Some((number, offset, more)), chunk)?;
        }
        Ok(())
    }

    /// One packet, a fragment if that is said. What does not fit into the ring is lost, as in a full queue.
    fn send_part(&self, protocol: u8, fragment: Option<(u32, usize, bool)>, bytes: &[u8]) -> Result<()> {
        let mut head = Head::new();
        match (fragment, self.to) {
            (Some((number, offset, more)), IpAddr::V6(_)) => {
                internet(&mut head, self, 44, bytes.len() + 8);
                let place = (offset as u16 & !7) | u16::from(more);
                head.extend_from_slice(&[protocol, 0]);
                head.extend_from_slice(&place.to_be_bytes());
                head.extend_from_slice(&number.to_be_bytes());
            }
            (fragment, _) => {
                internet(&mut head, self, protocol, bytes.len());
                if let (Some((number, offset, more)), Some(header)) = (fragment, head.get_mut(ETHERNET..)) {
                    let mut packet = Ipv4Packet::new_unchecked(header);
                    packet.set_ident(number as u16);
                    packet.set_dont_frag(false);
                    packet.set_more_frags(more);
                    packet.set_frag_offset(offset as u16);
                    packet.fill_checksum();
                }
            }
        }
        let in_head = bytes.len().min(HEAD_MAX - head.len());
        let (first, rest) = bytes.split_at_checked(in_head).unwrap_or((bytes, &[]));
        let mut parts: SmallVec<[Part; 2]> = SmallVec::new();
        if rest.is_empty() {
            head.extend_from_slice(first);
        } else {
            // All of it in pages: one piece more is cheaper than bytes in two places.
            for chunk in bytes.chunks(PAGE_SIZE) {
                let frame = Frame::alloc_zeroed()?;
                frame.write(0, chunk);
                parts.push(Part { frame, start: 0, end: chunk.len() });
            }
        }
        self.nic.transmit(&self.neighbor, Packet { head, parts, checksum: None, cut: None });
        Ok(())
    }
}

impl Nic {
    fn next_identification(&self) -> u32 {
        self.identification.fetch_add(1, core::sync::atomic::Ordering::Relaxed) as u32
    }
}

/// A message of neighbour discovery.
pub(super) fn ndisc(way: &Way, message: NdiscRepr<'_>) -> Option<Packet> {
    let (IpAddr::V6(from), IpAddr::V6(to)) = (way.from, way.to) else { return None };
    let repr = Icmpv6Repr::Ndisc(message);
    let mut bytes: Vec<u8> = alloc::vec![0; repr.buffer_len()];
    repr.emit(&from, &to, &mut Icmpv6Packet::new_unchecked(&mut bytes[..]), &ChecksumCapabilities::default());
    let mut head = Head::new();
    internet(&mut head, way, 58, bytes.len());
    head.extend_from_slice(&bytes);
    (head.len() <= HEAD_MAX).then_some(Packet { head, parts: SmallVec::new(), checksum: None, cut: None })
}

/// A checksum over pieces of any length.
struct Sum {
    sum: u64,
    odd: bool,
}

impl Sum {
    fn new(start: u64) -> Sum {
        Sum { sum: start, odd: false }
    }

    fn add(&mut self, bytes: &[u8]) {
        let own = u64::from(fold(add_up(bytes, 0)));
        // Behind an odd number of bytes the halves change places.
        self.sum += if self.odd { u64::from((own as u16).swap_bytes()) } else { own };
        self.odd ^= bytes.len() % 2 == 1;
    }

    fn add_part(&mut self, part: &Part) {
        let mut buffer = [0; 512];
        let mut at = part.start;
        while at < part.end {
            let n = (part.end - at).min(buffer.len());
            let Some(piece) = buffer.get_mut(..n) else { return };
            part.frame.read(at, piece);
            self.add(piece);
            at += n;
        }
    }

    fn end(self) -> u16 {
        !fold(self.sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_rfc_1071() {
        assert_eq!(checksum_of(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7], 0), !0xddf2);
        assert_eq!(checksum_of(&[0xff], 0), !0xff00);
        let mut sum = Sum::new(0);
        sum.add(&[0x00, 0x01, 0xf2]);
        sum.add(&[0x03, 0xf4]);
        sum.add(&[]);
        sum.add(&[0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.end(), !0xddf2);
    }
}
