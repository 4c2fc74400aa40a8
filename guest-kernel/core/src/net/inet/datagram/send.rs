//! Sending.

use alloc::{sync::Arc, vec::Vec};
use core::net::{IpAddr, Ipv4Addr};

use super::{
    super::{
        address::{Endpoint, Version},
        options::Opt,
        packet::{Nic, Transport, Way, checksum_of, pseudo_header},
        route::Route,
    },
    control::Wishes,
    remote,
    socket::{About, DatagramSocket, Protocol},
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
        let source_ip = self.source_ip(&wishes, to.ip, &route)?;
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
            (_, Route::Out { nic, next, .. }) => self.transmit(&nic, next, to, bytes, &about)?,
            (Protocol::Ping, Route::Broadcast { nic: Some(nic), .. }) => {
                self.transmit(&nic, Ipv4Addr::BROADCAST.into(), to, bytes, &about)?;
            }
            (Protocol::Ping, _) => self.echo(bytes, about)?,
            (_, Route::Local { .. }) => self.deliver(to, bytes, about),
            (_, Route::Broadcast { nic, .. }) => {
                if let Some(nic) = nic {
                    self.transmit(&nic, Ipv4Addr::BROADCAST.into(), to, bytes.clone(), &about)?;
                }
                let hear = self.ports().lock().at(to.port, |bound| bound.hears(to.ip, about.from).is_some());
                for receiver in hear {
                    receiver.put(bytes.clone(), about);
                }
            }
        }
        Ok(total)
    }

    /// From where it is sent.
    fn source_ip(&self, wishes: &Wishes, to: IpAddr, route: &Route) -> Result<IpAddr> {
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
        match remote::best(self.stack(), to, about.from) {
            Some(receiver) => receiver.put(bytes, about),
            // Nobody has the port: what would come back as an ICMP error.
            None => {
                let what = if to.ip.is_ipv4() { [2, 3, 3, 1] } else { [3, 1, 4, 1] };
                self.note(Errno::ECONNREFUSED, to, what, None, bytes);
            }
        }
    }

    /// Sends it to another host, or all on a wire.
    fn transmit(
        &self,
        nic: &Arc<Nic>,
        next: IpAddr,
        to: Endpoint,
        mut bytes: Vec<u8>,
        about: &About,
    ) -> Result<()> {
        let neighbor = nic.neighbor(next);
        let (nic, from) = (nic.clone(), about.from);
        let way = Way { nic, neighbor, from: from.ip, to: to.ip, hops: about.hops, class: about.class };
        // `IP_PMTUDISC_DO` and `_PROBE`.
        let discover = if to.ip.is_ipv4() { Opt::MtuDiscover } else { Opt::MtuDiscover6 };
        let whole = matches!(self.options.get(discover), 2 | 3)
            || to.ip.is_ipv6() && self.options.is_on(Opt::DontFrag);
        let (transport, sum_at) = match (self.protocol, to.ip) {
            (Protocol::Udp, _) => {
                let length = bytes.len() + 8;
                bytes.try_reserve(8).map_err(|_| Errno::ENOBUFS)?;
                let header = [from.port, to.port, length as u16, 0].map(u16::to_be_bytes);
                bytes.splice(..0, header.as_flattened().iter().copied());
                (Transport::Udp, 6)
            }
            (Protocol::Ping, ip) => {
                let request = if ip.is_ipv4() { 8 } else { 128 };
                let Some([kind, code, a, b, c, d]) = bytes.first_chunk_mut::<6>() else {
                    return Err(Errno::EINVAL);
                };
                if (*kind, *code) != (request, 0) {
                    return Err(Errno::EINVAL);
                }
                ([*a, *b], [*c, *d]) = ([0, 0], from.port.to_be_bytes());
                (if ip.is_ipv4() { Transport::Icmp4 } else { Transport::Icmp6 }, 2)
            }
        };
        way.send_datagram(transport, &mut bytes, sum_at, whole)?;
        way.nic.device.flush();
        Ok(())
    }

    /// A datagram for this socket.
    pub(super) fn put(&self, bytes: Vec<u8>, mut about: About) {
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
        let pseudo =
            if back.to.is_ipv4() { 0 } else { pseudo_header(back.from.ip, back.to, 58, bytes.len()) };
        let sum = checksum_of(&bytes, pseudo);
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
