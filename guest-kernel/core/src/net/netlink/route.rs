//! What can be asked about interfaces, addresses and routes, and the little that can be changed.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::message::{Answer, NLM_F_DUMP, Request, attribute};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    net::inet::{Address, Behind, Given, IFF_UP, Interface, Interfaces},
    ns::NetNamespace,
    task::Capabilities,
};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;
const RTM_GETNEIGH: u16 = 30;

const IFLA_ADDRESS: u16 = 1;
const IFLA_BROADCAST: u16 = 2;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_QDISC: u16 = 6;
const IFLA_STATS: u16 = 7;
const IFLA_TXQLEN: u16 = 13;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKMODE: u16 = 17;
const IFLA_STATS64: u16 = 23;
const IFLA_GROUP: u16 = 27;
const IFLA_CARRIER: u16 = 33;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_LABEL: u16 = 3;
const IFA_CACHEINFO: u16 = 6;
const IFA_FLAGS: u16 = 8;
const IFA_F_PERMANENT: u8 = 0x80;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_TABLE: u16 = 15;
const RTA_PREF: u16 = 20;
const TABLE_MAIN: u8 = 254;
const TABLE_LOCAL: u8 = 255;

/// Bytes of `struct ifinfomsg`, `struct ifaddrmsg`, `struct rtmsg`.
const LINK: usize = 16;
const ADDRESS: usize = 8;
const ROUTE: usize = 12;

/// Answers one request. What it says with an error has no other answer.
pub(super) fn serve(
    task: &TaskRef,
    net: &NetNamespace,
    request: &Request<'_>,
    answer: &mut Answer,
) -> Result<()> {
    if request.body.is_empty() {
        return Ok(());
    }
    let all = net.stack().interfaces();
    // Of three kinds each: new, delete, get.
    let asks = request.header.kind & 3 == 2;
    if !asks && !task.credentials().capable_in(net.owner(), Capabilities::NET_ADMIN) {
        return Err(Errno::EPERM);
    }
    let dump = request.header.flags & NLM_F_DUMP == NLM_F_DUMP;
    let body = request.body;
    let family = body.first().copied().unwrap_or(0);
    match request.header.kind {
        RTM_GETLINK if dump => all.iter().for_each(|i| link(answer, i, true)),
        RTM_GETLINK => {
            link(answer, named(&all, body, LINK)?, false);
            return Ok(());
        }
        RTM_GETADDR if dump => addresses(answer, &all, family),
        RTM_GETROUTE if dump => {
            let wanted = attribute(body.get(ROUTE..).unwrap_or_default(), RTA_TABLE);
            let wanted = wanted.and_then(|d| d.first().copied());
            for route in routes(&all) {
                if wanted.is_none_or(|table| table == 0 || table == route.table) && route.is_of(family) {
                    route.write(answer, true);
                }
            }
        }
        RTM_GETROUTE => return one_route(net, answer, body),
        RTM_GETNEIGH if dump => neighbors(answer, &all, family),
        RTM_NEWROUTE | RTM_DELROUTE => return set_route(net, body, request.header.kind == RTM_NEWROUTE),
        RTM_NEWLINK | RTM_SETLINK => return set_link(net, &all, body),
        RTM_NEWADDR | RTM_DELADDR => return set_address(net, body, request.header.kind == RTM_NEWADDR),
        _ => return Err(Errno::EOPNOTSUPP),
    }
    answer.done();
    Ok(())
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_ne_bytes(*b))
}

/// The interface a message is about, by index or name. `EINVAL`, `ENODEV`.
fn named<'a>(all: &'a Interfaces, body: &[u8], fixed: usize) -> Result<&'a Interface> {
    let attributes = body.get(fixed..).ok_or(Errno::EINVAL)?;
    let found = match (word(body, 4), attribute(attributes, IFLA_IFNAME)) {
        (0, Some(name)) => all.by_name(name.split(|b| *b == 0).next().unwrap_or_default()),
        (0, None) => return Err(Errno::EINVAL),
        (index, _) => all.by_index(index),
    };
    found.ok_or(Errno::ENODEV)
}

fn link(answer: &mut Answer, i: &Interface, multi: bool) {
    let mut fixed = alloc::vec![0, 0];
    fixed.extend_from_slice(&i.hardware().to_ne_bytes());
    fixed.extend_from_slice(&i.index.to_ne_bytes());
    fixed.extend_from_slice(&i.flags().to_ne_bytes());
    fixed.extend_from_slice(&[0; 4]);
    let name = [i.name.as_bytes(), b"\0"].concat();
    let mac = i.mac();
    let broadcast = if i.is_loopback() { [0; 6] } else { [0xff; 6] };
    // IF_OPER_UNKNOWN of the loopback, up or down of others.
    let state = match (i.is_loopback(), i.up) {
        (true, true) => 0,
        (false, true) => 6,
        (_, false) => 2,
    };
    // `struct rtnl_link_stats64`, of which as much is counted: packets and bytes both ways, what was lost of them.
    let counts = match &i.behind {
        Behind::Device(nic) => nic.device.counts(),
        Behind::Loopback => Default::default(),
    };
    let mut numbers = [0u64; 24];
    let ([received, received_bytes], [sent, sent_bytes]) = (counts.received, counts.sent);
    let first =
        [received, sent, received_bytes, sent_bytes, 0, 0, counts.receive_dropped, counts.send_dropped];
    numbers.iter_mut().zip(first).for_each(|(to, from)| *to = from);
    let wide = numbers.map(u64::to_ne_bytes);
    let narrow = numbers.map(|n| (n as u32).to_ne_bytes());
    let attributes: &[(u16, &[u8])] = &[
        (IFLA_IFNAME, &name),
        (IFLA_TXQLEN, &1000u32.to_ne_bytes()),
        (IFLA_OPERSTATE, &[state]),
        (IFLA_LINKMODE, &[0]),
        (IFLA_MTU, &i.mtu().to_ne_bytes()),
        (IFLA_GROUP, &[0; 4]),
        (IFLA_CARRIER, &[1]),
        (IFLA_QDISC, if i.up { b"noqueue\0" } else { b"noop\0" }),
        (IFLA_ADDRESS, &mac),
        (IFLA_BROADCAST, &broadcast),
        (IFLA_STATS64, wide.as_flattened()),
        (IFLA_STATS, narrow.as_flattened()),
    ];
    answer.message(RTM_NEWLINK, multi, &fixed, attributes);
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn family_of(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { AF_INET } else { AF_INET6 }
}

/// All of IPv4, then all of IPv6, as Linux has them in two lists.
fn addresses(answer: &mut Answer, all: &Interfaces, family: u8) {
    for of in [AF_INET, AF_INET6] {
        if family != 0 && family != of {
            continue;
        }
        for i in all.iter() {
            for a in i.addresses.iter().filter(|a| family_of(a.ip) == of) {
                let mut fixed = alloc::vec![of, a.prefix, IFA_F_PERMANENT, a.scope()];
                fixed.extend_from_slice(&i.index.to_ne_bytes());
                let ip = octets(a.ip);
                let label = [i.name.as_bytes(), b"\0"].concat();
                // For ever.
                let times = [[0xff; 8], [0; 8]].concat();
                let flags = u32::from(IFA_F_PERMANENT).to_ne_bytes();
                let attributes: &[(u16, &[u8])] = match of {
                    AF_INET => &[
                        (IFA_ADDRESS, &ip),
                        (IFA_LOCAL, &ip),
                        (IFA_LABEL, &label),
                        (IFA_FLAGS, &flags),
                        (IFA_CACHEINFO, &times),
                    ],
                    _ => &[(IFA_ADDRESS, &ip), (IFA_CACHEINFO, &times), (IFA_FLAGS, &flags)],
                };
                answer.message(RTM_NEWADDR, true, &fixed, attributes);
            }
        }
    }
}

/// A route as it is told.
struct Route {
    to: IpAddr,
    prefix: u8,
    interface: u32,
    source: Option<IpAddr>,
    gateway: Option<IpAddr>,
    table: u8,
    /// `RTPROT_*`.
    protocol: u8,
    scope: u8,
    /// `RTN_UNICAST`, `RTN_LOCAL`, `RTN_BROADCAST`.
    kind: u8,
    metric: Option<u32>,
}

impl Route {
    fn is_of(&self, family: u8) -> bool {
        family == 0 || family == family_of(self.to)
    }

    fn write(&self, answer: &mut Answer, multi: bool) {
        let mut fixed = alloc::vec![
            family_of(self.to),
            self.prefix,
            0,
            0,
            self.table,
            self.protocol,
            self.scope,
            self.kind
        ];
        fixed.extend_from_slice(&[0; 4]);
        let (table, to) = (u32::from(self.table).to_ne_bytes(), octets(self.to));
        let source = self.source.map(octets);
        let metric = self.metric.map(u32::to_ne_bytes);
        let interface = self.interface.to_ne_bytes();
        let gateway = self.gateway.map(octets);
        let mut attributes: Vec<(u16, &[u8])> = alloc::vec![(RTA_TABLE, &table)];
        if self.prefix > 0 {
            attributes.push((RTA_DST, &to));
        }
        attributes.extend(gateway.as_ref().map(|g| (RTA_GATEWAY, &g[..])));
        attributes.extend(metric.as_ref().map(|m| (RTA_PRIORITY, &m[..])));
        attributes.extend(source.as_ref().map(|s| (RTA_PREFSRC, &s[..])));
        attributes.push((RTA_OIF, &interface));
        if self.to.is_ipv6() {
            attributes.push((RTA_PREF, &[0]));
        }
        answer.message(RTM_NEWROUTE, multi, &fixed, &attributes);
    }
}

const RTPROT_KERNEL: u8 = 2;
const RTN_UNICAST: u8 = 1;
const RTN_LOCAL: u8 = 2;
const RTN_BROADCAST: u8 = 3;
const SCOPE_LINK: u8 = 253;
const SCOPE_HOST: u8 = 254;

/// The routes that come of addresses, those of IPv4 first.
fn routes(all: &Interfaces) -> Vec<Route> {
    let mut four = Vec::new();
    let mut six = Vec::new();
    for i in all.iter().filter(|i| i.up) {
        for a in &i.addresses {
            let route = |to, prefix, kind, scope| Route {
                to,
                prefix,
                interface: i.index,
                source: Some(a.ip),
                gateway: None,
                table: TABLE_LOCAL,
                protocol: RTPROT_KERNEL,
                scope,
                kind,
                metric: None,
            };
            match a.ip {
                IpAddr::V4(ip) => {
                    let host = u32::MAX.checked_shr(a.prefix.into()).unwrap_or(0);
                    let net = Ipv4Addr::from_bits(ip.to_bits() & !host);
                    if i.is_loopback() && a.prefix < 32 {
                        four.push(route(net.into(), a.prefix, RTN_LOCAL, SCOPE_HOST));
                    }
                    four.push(route(a.ip, 32, RTN_LOCAL, SCOPE_HOST));
                    if let Some(last) = a.broadcast() {
                        four.push(route(last.into(), 32, RTN_BROADCAST, SCOPE_LINK));
                    }
                }
                IpAddr::V6(_) => {
                    let main = route(a.ip, a.prefix, RTN_UNICAST, 0);
                    if a.prefix < 128 && i.is_loopback() {
                        six.push(Route { source: None, table: TABLE_MAIN, metric: Some(256), ..main });
                    }
                    let local = route(a.ip, 128, RTN_LOCAL, 0);
                    six.push(Route { source: None, metric: Some(0), ..local });
                }
            }
        }
    }
    for r in all.main_routes() {
        let route = Route {
            to: r.to.ip,
            prefix: r.to.prefix,
            interface: r.interface,
            source: r.source,
            gateway: r.gateway,
            table: TABLE_MAIN,
            protocol: r.protocol,
            scope: if r.to.ip.is_ipv4() && r.gateway.is_none() { SCOPE_LINK } else { 0 },
            kind: RTN_UNICAST,
            metric: (r.metric > 0).then_some(r.metric),
        };
        if r.to.ip.is_ipv4() { four.push(route) } else { six.push(route) }
    }
    four.extend(six);
    four
}

/// The neighbours that are known.
fn neighbors(answer: &mut Answer, all: &Interfaces, family: u8) {
    const NDA_DST: u16 = 1;
    const NDA_LLADDR: u16 = 2;
    for i in all.iter() {
        let Behind::Device(nic) = &i.behind else { continue };
        for (ip, mac, fresh) in nic.neighbor_table() {
            if family != 0 && family != family_of(ip) {
                continue;
            }
            // NUD_INCOMPLETE, NUD_REACHABLE, NUD_STALE.
            let state: u16 = match (mac, fresh) {
                (None, _) => 1,
                (Some(_), true) => 2,
                (Some(_), false) => 4,
            };
            let mut fixed = alloc::vec![family_of(ip), 0, 0, 0];
            fixed.extend_from_slice(&i.index.to_ne_bytes());
            fixed.extend_from_slice(&state.to_ne_bytes());
            fixed.extend_from_slice(&[0, RTN_UNICAST]);
            let ip = octets(ip);
            let mut attributes: Vec<(u16, &[u8])> = alloc::vec![(NDA_DST, &ip)];
            attributes.extend(mac.as_ref().map(|mac| (NDA_LLADDR, &mac[..])));
            answer.message(RTM_NEWNEIGH, true, &fixed, &attributes);
        }
    }
}

/// Adds or takes away a route of the table `main`.
fn set_route(net: &NetNamespace, body: &[u8], add: bool) -> Result<()> {
    let [family, prefix, _, _, table, protocol, _, kind, ..] = body else { return Err(Errno::EINVAL) };
    let attributes = body.get(ROUTE..).ok_or(Errno::EINVAL)?;
    let of = |kind| attribute(attributes, kind).map(address).transpose();
    let number = |kind| attribute(attributes, kind).map(|data| word(data, 0));
    let any = match *family {
        AF_INET => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AF_INET6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return Err(Errno::EAFNOSUPPORT),
    };
    let to = Address { ip: of(RTA_DST)?.unwrap_or(any), prefix: *prefix };
    let (gateway, source) = (of(RTA_GATEWAY)?, of(RTA_PREFSRC)?);
    let alike = |ip: &IpAddr| family_of(*ip) == *family;
    if to.network() != to || !alike(&to.ip) || !gateway.iter().chain(&source).all(alike) {
        return Err(Errno::EINVAL);
    }
    if !matches!(*table, 0 | TABLE_MAIN) || add && *kind != RTN_UNICAST {
        return Err(Errno::EOPNOTSUPP);
    }
    let metric = number(RTA_PRIORITY);
    net.stack().change_interfaces(|all| {
        if !add {
            return all.remove_route(|r| {
                r.to == to
                    && gateway.is_none_or(|gateway| r.gateway == Some(gateway))
                    && metric.is_none_or(|metric| r.metric == metric)
            });
        }
        let by_gateway =
            || all.iter().find(|i| i.up && gateway.is_some_and(|g| i.reaches(g))).map(|i| i.index);
        let interface = number(RTA_OIF).or_else(by_gateway).ok_or(Errno::ENETUNREACH)?;
        let metric = metric.unwrap_or(if *family == AF_INET6 { 1024 } else { 0 });
        all.add_route(Given { to, gateway, interface, metric, source, protocol: *protocol })
    })
}

/// `ip route get`: the route to one address. `ENETUNREACH`.
fn one_route(net: &NetNamespace, answer: &mut Answer, body: &[u8]) -> Result<()> {
    let attributes = body.get(ROUTE..).ok_or(Errno::EINVAL)?;
    let to = address(attribute(attributes, RTA_DST).ok_or(Errno::EINVAL)?)?;
    let (interface, source, gateway, local) = net.stack().explain(to)?;
    let route = Route {
        to,
        prefix: if to.is_ipv4() { 32 } else { 128 },
        interface,
        source: Some(source),
        gateway,
        table: if local { TABLE_LOCAL } else { TABLE_MAIN },
        protocol: 0,
        scope: 0,
        kind: if local { RTN_LOCAL } else { RTN_UNICAST },
        metric: None,
    };
    route.write(answer, false);
    Ok(())
}

fn address(bytes: &[u8]) -> Result<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Ok(Ipv4Addr::from(four).into());
    }
    <[u8; 16]>::try_from(bytes).map(|six| Ipv6Addr::from(six).into()).map_err(|_| Errno::EINVAL)
}

/// Sets an interface up or down. No other property can be changed, and none be made.
fn set_link(net: &NetNamespace, all: &Interfaces, body: &[u8]) -> Result<()> {
    let index = named(all, body, LINK)?.index;
    let (flags, change) = (word(body, 8), word(body, 12));
    if (flags | change) & IFF_UP == 0 {
        return Ok(());
    }
    net.stack().change_interfaces(|all| all.set_up(index, flags & IFF_UP != 0))
}

/// Adds or takes away an address.
fn set_address(net: &NetNamespace, body: &[u8], add: bool) -> Result<()> {
    let attributes = body.get(ADDRESS..).ok_or(Errno::EINVAL)?;
    let ip = attribute(attributes, IFA_LOCAL).or_else(|| attribute(attributes, IFA_ADDRESS));
    let ip = address(ip.ok_or(Errno::EINVAL)?)?;
    let (family, prefix) = match body {
        [family, prefix, ..] => (*family, *prefix),
        _ => return Err(Errno::EINVAL),
    };
    if family != family_of(ip) || prefix > if ip.is_ipv4() { 32 } else { 128 } {
        return Err(Errno::EINVAL);
    }
    let index = word(body, 4);
    net.stack().change_interfaces(|all| match add {
        true => all.add_address(index, Address { ip, prefix }),
        false => all.remove_address(index, ip),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::netlink::message::{Header, requests};

    #[test]
    fn the_loopback_is_told() {
        let all = Interfaces::new(true);
        let header = Header { len: 16, kind: RTM_GETLINK, flags: 0x301, seq: 1, port: 0 };
        let mut answer = Answer::new(header, 5);
        all.iter().for_each(|i| link(&mut answer, i, true));
        addresses(&mut answer, &all, 0);
        routes(&all).iter().for_each(|r| r.write(&mut answer, true));
        answer.done();
        let datagrams = answer.into_datagrams();
        let messages: Vec<_> = datagrams.iter().flat_map(|d| requests(d)).collect();
        let kinds: Vec<u16> = messages.iter().map(|m| m.header.kind).collect();
        assert_eq!(kinds, [16, 20, 20, 24, 24, 24, 24, 3]);
        assert_eq!(attribute(&messages[0].body[LINK..], IFLA_IFNAME), Some(&b"lo\0"[..]));
        assert_eq!(attribute(&messages[1].body[ADDRESS..], IFA_LOCAL), Some(&[127, 0, 0, 1][..]));
        assert_eq!(attribute(&messages[3].body[ROUTE..], RTA_DST), Some(&[127, 0, 0, 0][..]));
        assert_eq!((messages[3].body[1], messages[5].body[7]), (8, RTN_BROADCAST));
    }
}
