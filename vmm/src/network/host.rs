//! What the host's own network is: the network namespace's that this thread is in.

use std::ffi::CStr;
use std::fs::read_to_string;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostAddress {
    /// Of this interface.
    pub interface: String,
    /// It.
    pub ip: IpAddr,
    /// Bits of it that are the network's.
    pub prefix: u8,
}

/// A default route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// By this interface.
    pub interface: String,
    /// To this neighbour; a link without one has none.
    pub gateway: Option<IpAddr>,
    metric: u32,
}

/// All addresses.
pub fn addresses() -> io::Result<Vec<HostAddress>> {
    let mut list = std::ptr::null_mut();
    // SAFETY: getifaddrs stores a list that it has made, which is freed below and not used after that.
    if unsafe { libc::getifaddrs(&mut list) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let (mut found, mut next) = (Vec::new(), list);
    // SAFETY: `next` is null or an entry of the list.
    while let Some(entry) = unsafe { next.as_ref() } {
        next = entry.ifa_next;
        // SAFETY: both point to a socket address of their family, or to nothing.
        let (ip, mask) = unsafe { (address(entry.ifa_addr), address(entry.ifa_netmask)) };
        let Some(ip) = ip else { continue };
        let prefix = match mask {
            Some(IpAddr::V4(mask)) => mask.to_bits().count_ones(),
            Some(IpAddr::V6(mask)) => mask.to_bits().count_ones(),
            None => {
                if ip.is_ipv4() {
                    32
                } else {
                    128
                }
            }
        };
        // SAFETY: the name is a string of the list.
        let interface = unsafe { CStr::from_ptr(entry.ifa_name) }.to_string_lossy().into_owned();
        found.push(HostAddress { interface, ip, prefix: prefix as u8 });
    }
    // SAFETY: made above, and nothing refers to it any more.
    unsafe { libc::freeifaddrs(list) };
    Ok(found)
}

/// # Safety
///
/// `at` is null or points to a socket address, as long as its family's are.
unsafe fn address(at: *const libc::sockaddr) -> Option<IpAddr> {
    // SAFETY: by the contract.
    match i32::from(unsafe { at.as_ref() }?.sa_family) {
        libc::AF_INET => {
            // SAFETY: by the contract; the list's memory may be less aligned than the type.
            let it = unsafe { at.cast::<libc::sockaddr_in>().read_unaligned() };
            Some(Ipv4Addr::from(it.sin_addr.s_addr.to_ne_bytes()).into())
        }
        libc::AF_INET6 => {
            // SAFETY: the same.
            let it = unsafe { at.cast::<libc::sockaddr_in6>().read_unaligned() };
            Some(Ipv6Addr::from(it.sin6_addr.s6_addr).into())
        }
        _ => None,
    }
}

/// The default route of IPv4, or of IPv6.
pub fn default_route(v6: bool) -> Option<Route> {
    let (file, parse): (_, fn(&str) -> Option<Route>) = match v6 {
        false => ("/proc/thread-self/net/route", route4),
        true => ("/proc/thread-self/net/ipv6_route", route6),
    };
    best(&read_to_string(file).ok()?, parse)
}

fn best(text: &str, parse: fn(&str) -> Option<Route>) -> Option<Route> {
    text.lines().filter_map(parse).min_by_key(|route| route.metric)
}

/// A line of the tables.
#[cfg(test)]
pub fn parse_for_tests(line: &str, v6: bool) -> Option<Route> {
    if v6 { route6(line) } else { route4(line) }
}

/// RTF_UP and RTF_REJECT of `linux/route.h`.
const UP: u32 = 1;
const REJECT: u32 = 0x200;

/// A line of `/proc/net/route`: interface, destination, gateway, flags, two counts, metric, mask; numbers as they are in memory.
fn route4(line: &str) -> Option<Route> {
    let fields: Vec<_> = line.split_whitespace().collect();
    let [interface, destination, gateway, flags, _, _, metric, mask, ..] = *fields else { return None };
    let number = |text: &str| u32::from_str_radix(text, 16).ok();
    let (destination, flags, mask) = (number(destination)?, number(flags)?, number(mask)?);
    let gateway = Ipv4Addr::from(number(gateway)?.to_ne_bytes());
    let is_default = destination == 0 && mask == 0 && flags & UP != 0 && flags & REJECT == 0;
    is_default.then_some(Route {
        interface: interface.to_owned(),
        gateway: (!gateway.is_unspecified()).then_some(gateway.into()),
        metric: metric.parse().ok()?,
    })
}

/// A line of `/proc/net/ipv6_route`: destination and its length, source and its, next hop, metric, two counts, flags, interface.
fn route6(line: &str) -> Option<Route> {
    let fields: Vec<_> = line.split_whitespace().collect();
    let [destination, length, _, _, gateway, metric, _, _, flags, interface] = *fields else { return None };
    let address = |text: &str| u128::from_str_radix(text, 16).ok();
    let number = |text: &str| u32::from_str_radix(text, 16).ok();
    let (flags, gateway) = (number(flags)?, Ipv6Addr::from_bits(address(gateway)?));
    let is_default =
        address(destination)? == 0 && number(length)? == 0 && flags & UP != 0 && flags & REJECT == 0;
    (is_default && interface != "lo").then_some(Route {
        interface: interface.to_owned(),
        gateway: (!gateway.is_unspecified()).then_some(gateway.into()),
        metric: number(metric)?,
    })
}

/// What `/etc/resolv.conf` says (resolv.conf(5)).
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Resolver {
    /// Name servers; without those of one link (`%eth0`).
    pub servers: Vec<IpAddr>,
    /// The search list.
    pub search: Vec<String>,
}

/// What the host asks for names.
pub fn resolver() -> Resolver {
    parse_resolver(&read_to_string("/etc/resolv.conf").unwrap_or_default())
}

fn parse_resolver(text: &str) -> Resolver {
    let mut found = Resolver::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => {
                found.servers.extend(words.next().and_then(|word| word.parse::<IpAddr>().ok()))
            }
            // The last of them counts.
            Some("search" | "domain") => {
                found.search = words.filter(|word| *word != ".").map(str::to_owned).collect();
            }
            _ => {}
        }
    }
    // As many as a resolver looks at.
    found.servers.truncate(3);
    found.search.truncate(6);
    found
}

/// The largest packet of an interface in bytes (netdevice(7)).
pub fn mtu(name: &str) -> Option<u32> {
    let socket =
        rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None).ok()?;
    // SAFETY: ifreq is plain data, of which 0 is "nothing".
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let name = name.as_bytes();
    if name.len() >= request.ifr_name.len() {
        return None;
    }
    request.ifr_name.iter_mut().zip(name).for_each(|(to, from)| *to = *from as libc::c_char);
    use std::os::fd::AsRawFd;
    // SAFETY: SIOCGIFMTU reads the name in and writes the number into `request`, which lives for the time of the call.
    let result =
        unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFMTU as libc::Ioctl, &raw mut request) };
    if result != 0 {
        return None;
    }
    // SAFETY: the call has written this field.
    u32::try_from(unsafe { request.ifr_ifru.ifru_mtu }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_routes_are_found() {
        let table = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                     eth1\t00000000\t010200C0\t0003\t0\t0\t200\t00000000\t0\t0\t0\n\
                     eth0\t00000000\t0100000A\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
                     eth0\t0000000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        let route = best(table, route4).unwrap();
        assert_eq!((route.interface.as_str(), route.gateway), ("eth0", Some([10, 0, 0, 1].into())));
        let zeros = "0".repeat(32);
        let table = format!(
            "{zeros} 00 {zeros} 00 {zeros} ffffffff 00000001 00000000 00200200 lo\n\
             {zeros} 00 {zeros} 00 fe800000000000000000000000000001 00000400 00000001 00000000 00450003 eth0\n"
        );
        let route = best(&table, route6).unwrap();
        assert_eq!((route.interface.as_str(), route.gateway), ("eth0", Some("fe80::1".parse().unwrap())));
        assert_eq!(best("", route4), None);
    }

    #[test]
    fn this_host_has_a_loopback_address() {
        let loopback: IpAddr = [127, 0, 0, 1].into();
        // A sandbox of a build may have it down.
        if let Some(it) = addresses().unwrap().into_iter().find(|address| address.ip == loopback) {
            assert_eq!((it.interface.as_str(), it.prefix, mtu("lo").is_some()), ("lo", 8, true));
        }
        assert_eq!(mtu("surely-no-such-interface"), None);
    }

    #[test]
    fn name_servers_are_read() {
        let text = "# by hand\nsearch old\nnameserver 127.0.0.53\nnameserver fe80::1%eth0\n\
                    nameserver 2001:db8::53\noptions edns0\nsearch a.example b.example .\n";
        let servers = vec!["127.0.0.53".parse().unwrap(), "2001:db8::53".parse().unwrap()];
        let search = vec!["a.example".to_owned(), "b.example".to_owned()];
        assert_eq!(parse_resolver(text), Resolver { servers, search });
    }
}
