//! ICMP (RFC 792, RFC 4443): echoes are answered, answers go to who asked, errors to whose packet they are about.

use core::{net::IpAddr, sync::atomic::Ordering::Relaxed};

use ringfence_hal as hal;
use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{Icmpv6Packet, Icmpv6Repr},
};

use super::{Nic, SECOND, Transport, header::checksum_of, input::Meta};
use crate::{
    errno::Errno,
    net::inet::{address::Endpoint, datagram, stack::Stack, tcp},
};

/// Errors sent in a second (`net.ipv4.icmp_msgs_per_sec`).
const ERRORS_MAX: u64 = 1000;
/// Bytes of the packet that an error is about, so that it fits everywhere.
const QUOTED4: usize = 576 - 28;
const QUOTED6: usize = 1280 - 48;

/// What an error means for a program, and whether it is certain (`icmp_err_convert`, `icmpv6_err_convert`).
fn meaning(four: bool, kind: u8, code: u8) -> Option<(Errno, bool)> {
    Some(match (four, kind, code) {
        (true, 3, 0 | 6 | 9 | 11) => (Errno::ENETUNREACH, matches!(code, 6 | 9)),
        (true, 3, 1 | 12) => (Errno::EHOSTUNREACH, false),
        (true, 3, 10 | 13..=15) => (Errno::EHOSTUNREACH, true),
        (true, 3, 2) => (Errno::ENOPROTOOPT, true),
        (true, 3, 3) => (Errno::ECONNREFUSED, true),
        (true, 3, 4) => (Errno::EMSGSIZE, false),
        (true, 3, 5) => (Errno::EOPNOTSUPP, true),
        (true, 3, 7) => (Errno::EHOSTUNREACH, true),
        (true, 11, _) => (Errno::EHOSTUNREACH, false),
        (true, 12, _) => (Errno::EPROTO, true),
        (false, 1, 0) => (Errno::ENETUNREACH, false),
        (false, 1, 1 | 5 | 6) => (Errno::EACCES, true),
        (false, 1, 2 | 3) => (Errno::EHOSTUNREACH, false),
        (false, 1, 4) => (Errno::ECONNREFUSED, true),
        (false, 2, _) => (Errno::EMSGSIZE, false),
        (false, 3, _) => (Errno::EHOSTUNREACH, false),
        (false, 4, _) => (Errno::EPROTO, true),
        _ => return None,
    })
}

impl Nic {
    pub(super) fn on_icmp4(&self, stack: &Stack, meta: &Meta<'_>, bytes: &[u8]) {
        // The device's word is about TCP and UDP.
        if checksum_of(bytes, 0) != 0 {
            return;
        }
        match bytes {
            [8, 0, ..] if !meta.shared => self.answer(stack, meta, bytes, 0),
            [0, 0, ..] => self.echoed(stack, meta, bytes),
            _ => self.on_error(bytes),
        }
    }

    pub(super) fn on_icmp6(&self, stack: &Stack, meta: &Meta<'_>, bytes: &[u8]) {
        let plain = Meta { checked: false, ..*meta };
        if !plain.verify(58, bytes) {
            return;
        }
        match bytes {
            [128, 0, ..] => self.answer(stack, meta, bytes, 129),
            [129, 0, ..] => self.echoed(stack, meta, bytes),
            // Only from this wire.
            [133..=137, ..] if meta.hops == 255 => {
                let (IpAddr::V6(from), IpAddr::V6(to)) = (meta.from, meta.to) else { return };
                if let Ok(packet) = Icmpv6Packet::new_checked(bytes)
                    && let Ok(Icmpv6Repr::Ndisc(message)) =
                        Icmpv6Repr::parse(&from, &to, &packet, &ChecksumCapabilities::ignored())
                {
                    self.on_ndisc(from, message);
                }
            }
            _ => self.on_error(bytes),
        }
    }

    /// Answers an echo request.
    fn answer(&self, stack: &Stack, meta: &Meta<'_>, bytes: &[u8], kind: u8) {
        let from = if meta.shared { None } else { Some(meta.to) };
        let Some(way) = stack.way(meta.from, from, None, meta.class) else { return };
        let mut out = bytes.to_vec();
        if let Some([to, _, a, b]) = out.first_chunk_mut::<4>() {
            (*to, *a, *b) = (kind, 0, 0);
        }
        let transport = if meta.from.is_ipv4() { Transport::Icmp4 } else { Transport::Icmp6 };
        let _ = way.send_datagram(transport, &mut out, 2, false); // nobody waits for it here
    }

    /// The answer to an echo request of ours.
    fn echoed(&self, stack: &Stack, meta: &Meta<'_>, bytes: &[u8]) {
        let [_, _, _, _, a, b, ..] = bytes else { return };
        let id = u16::from_be_bytes([*a, *b]);
        let from = Endpoint { ip: meta.from, port: 0 };
        let about = datagram::about(from, meta.to, self.index, meta.hops, meta.class);
        datagram::echoed(stack, id, bytes, about);
    }

    fn on_error(&self, bytes: &[u8]) {
        let Some((&[kind, code, _, _, a, b, c, d], quoted)) = bytes.split_first_chunk::<8>() else { return };
        let four = quoted.first().is_some_and(|b| b >> 4 == 4);
        let Some((errno, fatal)) = meaning(four, kind, code) else { return };
        let mtu = match (four, errno) {
            (true, Errno::EMSGSIZE) => Some(u32::from(u16::from_be_bytes([c, d]))),
            (false, Errno::EMSGSIZE) => Some(u32::from_be_bytes([a, b, c, d])),
            _ => None,
        };
        let origin = if four { 2 } else { 3 };
        self.undeliverable(quoted, errno, mtu, [origin, kind, code, u8::from(fatal)]);
    }

    /// A packet of ours did not arrive. `what` is the origin of the error, its type and code, and whether it is certain.
    pub(super) fn undeliverable(&self, packet: &[u8], errno: Errno, mtu: Option<u32>, what: [u8; 4]) {
        let Some(net) = self.namespace() else { return };
        let stack = net.stack();
        let Some((from, to, protocol, rest)) = quoted(packet) else { return };
        if !stack.is_local(from) {
            return;
        }
        let [a, b, c, d, e, f, g, h, ..] = rest else { return };
        let ports = (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]));
        let local = Endpoint { ip: from, port: ports.0 };
        let remote = Endpoint { ip: to, port: ports.1 };
        match protocol {
            6 => tcp::on_error(stack, (local, remote), u32::from_be_bytes([*e, *f, *g, *h]), errno, mtu),
            17 => {
                let bytes = rest.get(8..).unwrap_or_default();
                datagram::failed(stack, local, remote, errno, what, mtu, bytes);
            }
            1 | 58 if matches!(*a, 8 | 128) => {
                let id = u16::from_be_bytes([*e, *f]);
                datagram::echo_failed(stack, id, from, Endpoint { ip: to, port: 0 }, errno, what, rest);
            }
            _ => {}
        }
    }

    /// Tells the sender of a packet that it cannot be delivered.
    pub(super) fn send_error(&self, stack: &Stack, meta: &Meta<'_>, kind: u8, code: u8, info: u32) {
        if meta.shared || meta.from.is_unspecified() || !self.may_send_error() {
            return;
        }
        let (transport, quoted) =
            if meta.from.is_ipv4() { (Transport::Icmp4, QUOTED4) } else { (Transport::Icmp6, QUOTED6) };
        let Some(way) = stack.way(meta.from, Some(meta.to), None, 0) else { return };
        let quote = meta.packet.get(..meta.packet.len().min(quoted)).unwrap_or_default();
        let mut out = [&[kind, code, 0, 0][..], &info.to_be_bytes(), quote].concat();
        let _ = way.send_datagram(transport, &mut out, 2, false); // nobody waits for it here
    }

    fn may_send_error(&self) -> bool {
        let second = hal::time::now() / SECOND;
        let count = |word: u64| if word >> 16 == second { (word & 0xffff) + 1 } else { 1 };
        let next = |word| (count(word) <= ERRORS_MAX).then_some(second << 16 | count(word));
        self.errors.fetch_update(Relaxed, Relaxed, next).is_ok()
    }
}

/// From whom to whom the packet was that an error quotes, of which protocol, and what is there of that.
fn quoted(packet: &[u8]) -> Option<(IpAddr, IpAddr, u8, &[u8])> {
    let first = *packet.first()?;
    if first >> 4 == 4 {
        let from: [u8; 4] = *packet.get(12..16)?.first_chunk()?;
        let to: [u8; 4] = *packet.get(16..20)?.first_chunk()?;
        let place = u16::from_be_bytes(*packet.get(6..8)?.first_chunk()?);
        let rest = packet.get(usize::from(first & 15).max(5) * 4..)?;
        // Of a later fragment nobody knows whose it was.
        return (place & 0x1fff == 0).then_some((from.into(), to.into(), *packet.get(9)?, rest));
    }
    let from: [u8; 16] = *packet.get(8..24)?.first_chunk()?;
    let to: [u8; 16] = *packet.get(24..40)?.first_chunk()?;
    let (next, rest) = (*packet.get(6)?, packet.get(40..)?);
    match (next, rest) {
        (44, [next, _, high, low, _, _, _, _, rest @ ..]) => {
            (u16::from_be_bytes([*high, *low]) & !7 == 0).then_some((from.into(), to.into(), *next, rest))
        }
        _ => Some((from.into(), to.into(), next, rest)),
    }
}
