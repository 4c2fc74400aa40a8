//! Sending.

use alloc::{sync::Arc, vec::Vec};
use core::net::IpAddr;

use super::{
    super::{
        address::{Endpoint, Version},
        options::Opt,
        ports::Holder as _,
        route::Route,
    },
    control::Wishes,
    socket::{About, DatagramSocket, Noted, Protocol},
};
use crate::{
    errno::{Errno, Result},
    io::Source,
    net::{mailbox::Letter, socket::Outgoing},
    sync::PollEvents,
    time,
};

/// Bytes of a datagram at most: what an IP packet can carry, without its headers.
const MAX4: usize = 65_507;
const MAX6: usize = 65_527;
/// Of an echo request, with its own header.
const MAX_PING: usize = 65_515;

/// Errors that wait to be asked for (`MSG_ERRQUEUE`).
const ERRORS_MAX: usize = 64;

/// Bytes of an ICMP header of an echo.
const ECHO: usize = 8;

impl DatagramSocket {
    /// Sends all of `source` as one datagram.
    pub(super) fn send_message(&self, source: &mut Source<'_>, message: Outgoing<'_>) -> Result {
        let total = source.remaining();
        if total > 0xffff {
            return Err(Errno::EMSGSIZE);
        }
        if self.protocol == Protocol::Ping && total < ECHO {
            return Err(Errno::EINVAL);
        }
        self.autobind()?;
        // An error from here on loses what was sent before of a datagram that goes on.
        let corked = self.with(|s| s.corked.take());
        let to = match (&corked, message.to) {
            (Some((to, _)), _) => *to,
            (_, Some(name)) => {
                let to = self.destination(name)?;
                if to.port == 0 && self.protocol == Protocol::Udp {
                    return Err(Errno::EINVAL);
                }
                to
            }
            _ => self.with(|s| s.remote).ok_or(Errno::EDESTADDRREQ)?,
        };
        let wishes = Wishes::read(&message.control)?;
        let route = self.route(to.ip)?;
        let source_ip = self.source_ip(&wishes, to.ip, route)?;
        let port = self.with(|s| match s.error.take() {
            Some(error) => Err(error),
            None if s.write_shut => Err(Errno::EPIPE),
            None => Ok(s.local.port),
        })?;
        let max = match (self.protocol, to.ip) {
            (Protocol::Ping, _) => MAX_PING,
            (_, IpAddr::V4(_)) => MAX4,
            (_, IpAddr::V6(_)) => MAX6,
        };
        let mut bytes = corked.map(|(_, bytes)| bytes).unwrap_or_default();
        let before = bytes.len();
        if before + total > max {
            return Err(Errno::EMSGSIZE);
        }
        bytes.try_reserve_exact(total).map_err(|_| Errno::ENOBUFS)?;
        bytes.resize(before + total, 0);
        source.take(bytes.get_mut(before..).unwrap_or_default())?;
        if self.protocol == Protocol::Udp && (message.how.more || self.options.is_on(Opt::UdpCork)) {
            self.with(|s| s.corked = Some((to, bytes)));
            return Ok(total);
        }
        let (hops, class) = match to.ip {
            IpAddr::V4(_) => (self.options.get(Opt::Ttl), self.options.get(Opt::Tos)),
            IpAddr::V6(_) => (self.options.get(Opt::UnicastHops), self.options.get(Opt::TClass)),
        };
        let about = About {
            from: Endpoint { ip: source_ip, port },
            to: to.ip,
            interface: route.interface(),
            hops: wishes.hops.unwrap_or(hops as u8),
            class: wishes.class.unwrap_or(class as u8),
            at: 0,
        };
        match (self.protocol, route) {
            (Protocol::Ping, _) => self.echo(bytes, about)?,
            (_, Route::Local { .. }) => self.deliver(to, bytes, about),
            (_, Route::Broadcast { .. }) => {
                let hear = self.ports().lock().at(to.port, |bound| bound.hears(to.ip, about.from).is_some());
                for receiver in hear {
                    receiver.put(bytes.clone(), about);
                }
            }
        }
        Ok(total)
    }

    /// From where it is sent.
    fn source_ip(&self, wishes: &Wishes, to: IpAddr, route: Route) -> Result<IpAddr> {
        match wishes.source {
            Some(ip) if ip.is_ipv4() != to.is_ipv4() => Err(Errno::EINVAL),
            Some(ip) if !self.stack().is_local(ip) => match ip {
                IpAddr::V4(_) => Err(Errno::ENETUNREACH),
                IpAddr::V6(_) => Err(Errno::EINVAL),
            },
            Some(ip) => Ok(ip),
            None => {
                let own = self.with(|s| s.local.ip);
                match own.is_unspecified() || own.is_multicast() {
                    true => Ok(route.source()),
                    // Bound to an address of one family, one cannot send to the other.
                    false if own.is_ipv4() != to.is_ipv4() => Err(Errno::ENETUNREACH),
                    false => Ok(own),
                }
            }
        }
    }

    /// Hands it to whom it is for.
    fn deliver(&self, to: Endpoint, bytes: Vec<u8>, about: About) {
        let best = self.ports().lock().best(to.port, |bound, _| bound.hears(to.ip, about.from));
        let spread = u64::from(about.from.port).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        let at = match best.first() {
            Some(first) if first.reuses_port() => spread as usize % best.len(),
            _ => 0,
        };
        match best.get(at) {
            Some(receiver) => receiver.put(bytes, about),
            None => self.refused(to, bytes),
        }
    }

    /// Nobody has the port: what would come back as an ICMP error.
    fn refused(&self, to: Endpoint, bytes: Vec<u8>) {
        let wanted = match self.version {
            Version::V4 => self.options.is_on(Opt::RecvErr),
            Version::V6 => {
                self.options.is_on(Opt::RecvErr6) || to.ip.is_ipv4() && self.options.is_on(Opt::RecvErr)
            }
        };
        let told = self.with(|s| {
            if s.remote.is_none() && !wanted {
                return false;
            }
            if wanted && s.errors.len() < ERRORS_MAX {
                s.errors.push_back(Noted { errno: Errno::ECONNREFUSED, to, bytes });
            }
            s.error = Some(Errno::ECONNREFUSED);
            true
        });
        if told {
            self.queue.wake_all(PollEvents::ERR);
        }
    }

    /// A datagram for this socket.
    fn put(&self, bytes: Vec<u8>, mut about: About) {
        if self.common.wants_time() {
            about.at = time::realtime();
        }
        let limit = self.common.receive_buffer.load(core::sync::atomic::Ordering::Relaxed);
        let there = self.with(|s| !s.closed && s.inbox.push(Letter { bytes, about }, limit).is_ok());
        if there {
            self.queue.wake_all(PollEvents::READABLE);
        }
    }

    /// An echo request: its answer goes to who has the identifier, which is this socket's.
    fn echo(&self, mut bytes: Vec<u8>, about: About) -> Result<()> {
        let (request, reply) = if self.version == Version::V4 { (8, 0) } else { (128, 129) };
        let Some(([kind, code, sum @ .., _, _], _)) = bytes.split_first_chunk_mut::<6>() else {
            return Err(Errno::EINVAL);
        };
        if (*kind, *code) != (request, 0) {
            return Err(Errno::EINVAL);
        }
        *kind = reply;
        sum.fill(0);
        if let Some(id) = bytes.get_mut(4..6) {
            id.copy_from_slice(&about.from.port.to_be_bytes());
        }
        let back = About { from: Endpoint { ip: about.to, port: 0 }, to: about.from.ip, ..about };
        let sum = checksum(&bytes, pseudo(back.from.ip, back.to, bytes.len()));
        if let Some(place) = bytes.get_mut(2..4) {
            place.copy_from_slice(&sum.to_be_bytes());
        }
        let id = about.from.port;
        let best = self
            .ports()
            .lock()
            .best(id, |bound, s| if s.version == self.version { bound.fits(back.to) } else { None });
        if let Some(receiver) = best.first() {
            Arc::clone(receiver).put(bytes, back);
        }
        Ok(())
    }
}

/// The sum of ICMPv6's pseudo header; ICMP has none.
fn pseudo(from: IpAddr, to: IpAddr, len: usize) -> u32 {
    let (IpAddr::V6(from), IpAddr::V6(to)) = (from, to) else { return 0 };
    let words = from.segments().into_iter().chain(to.segments());
    words.fold(len as u32 + 58, |sum, word| sum + u32::from(word))
}

/// The Internet checksum.
fn checksum(bytes: &[u8], start: u32) -> u16 {
    let (pairs, odd) = bytes.as_chunks::<2>();
    let mut sum = pairs.iter().fold(start, |sum, pair| sum + u32::from(u16::from_be_bytes(*pair)));
    sum += odd.first().map_or(0, |b| u32::from(*b) << 8);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_rfc_1071() {
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7], 0), !0xddf2);
        assert_eq!(checksum(&[0xff], 0), !0xff00);
        // Summed with itself in place it is zero.
        let mut bytes = [0x81, 0, 0, 0, 0x12, 0x34, 0, 1, b'x'];
        let start = pseudo("::1".parse().unwrap(), "::1".parse().unwrap(), bytes.len());
        let sum = checksum(&bytes, start);
        bytes[2..4].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(checksum(&bytes, start), 0);
    }
}
