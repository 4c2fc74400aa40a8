//! `--net passt`: a network by the sockets of an ordinary user (passt(1), <https://passt.top>).
//!
//! passt gets one end of a socket pair, the VMM the other; frames go behind their lengths. It ends when its socket does
//! (`--fd`), whoever of the VMM, the monitor and the supervisor was killed, and the monitor kills it besides.
//!
//! # What the guest is told
//!
//! By passt's defaults a guest has the host's own address, gateway and name servers, and learns them by DHCP, DHCPv6 and router
//! advertisements. Here the same is read from the host and given to both sides, to passt as options and to the guest in its boot document:
//! so a sandbox's start waits for no exchange of packets, its IPv6 needs no client, and what the guest has is known here, where the
//! egress policy is made. With `dhcp` the guest asks passt.
//!
//! A name server that the guest could not reach under its own address (on the host's loopback, or the host's address, which is the guest's,
//! too) is shown to it as the gateway, whose port 53 passt translates (UDP only, in Debian 12's version). Not as an address that nobody has, as
//! Podman does: Debian 12's passt answers from the gateway in any case.
//!
//! # What the guest cannot reach
//!
//! passt would map the gateway's address to the host's loopback; it is told not to (`--no-map-gw`). The egress policy
//! is `public` if no other is given.

use std::ffi::CString;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use ringfence_devices::net::Mac;
use ringfence_jailer::Helper;
use ringfence_protocol::{Cidr, NetworkInterface};
use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags, accessat, open};

use super::host::{self, HostAddress};
use crate::api::network::{Interface, Passt, Publish, Transport};
use crate::cli::Failure;

/// What passt takes at once: 64 KiB of IP, in whole words.
pub const MTU: u16 = 65520;
/// The first descriptor that it gets: its socket.
const SOCKET: &str = "3";
/// Where it writes when it is ready: the descriptor behind the last ([`Helper`]).
const READY: &str = "/proc/self/fd/4";

/// A network by passt.
pub struct Made {
    /// The VMM's end.
    pub socket: OwnedFd,
    /// What the guest gives its interface.
    pub told: NetworkInterface,
    /// Whom it asks for names.
    pub nameservers: Vec<IpAddr>,
    /// And in which domains.
    pub search: Vec<String>,
    /// passt.
    pub helper: Helper,
}

/// Finds out what the guest is to be told, and makes passt ready to be started. `namespace` is the one that this thread is in.
pub fn prepare(
    passt: &Passt,
    interface: &Interface,
    nameservers: &[IpAddr],
    namespace: Option<OwnedFd>,
) -> Result<Made, Failure> {
    let executable = find()?;
    passt.publish.iter().try_for_each(|publish| check_port(publish, &executable))?;
    let network = Network::of_host(interface)?;
    let resolver = host::resolver();
    let names = match nameservers {
        [] => Names::of(&resolver.servers, &network),
        given => Names { told: given.to_vec(), forwarded: None },
    };
    let no_pair = |e| Failure::setup(format!("cannot make a socket pair: {e}"));
    let (socket, theirs) = UnixStream::pair().map_err(no_pair)?;
    let mtu = interface.mtu.unwrap_or(MTU);
    let args = arguments(&network, &names, interface.dhcp, mtu, &passt.publish);
    let told = NetworkInterface {
        // What DHCP gives is not given twice.
        addresses: network.addresses().filter(|a| !interface.dhcp || a.ip.is_ipv6()).collect(),
        gateways: network.gateways().filter(|g| !interface.dhcp || g.is_ipv6()).collect(),
        dhcp: interface.dhcp,
    };
    Ok(Made {
        socket: socket.into(),
        told,
        nameservers: names.told,
        search: resolver.search,
        helper: Helper {
            name: "passt",
            file: executable,
            args: args.into_iter().map(CString::new).collect::<Result<_, _>>().map_err(Failure::setup)?,
            run_as: Some(c"--runas".into()),
            descriptors: vec![theirs.into()],
            namespace,
        },
    })
}

/// Says the guest's address of Ethernet, by an ARP announcement (RFC 5227) in its name: passt learns it from what the guest sends, and
/// until then nothing that comes to a published port arrives.
pub fn introduce(socket: &OwnedFd, mac: Mac, told: &NetworkInterface) -> std::io::Result<()> {
    let own = told.addresses.iter().find_map(|a| if let IpAddr::V4(ip) = a.ip { Some(ip) } else { None });
    let own = own.unwrap_or(Ipv4Addr::UNSPECIFIED).octets();
    let frame = [
        // To everybody; ARP of IPv4 over Ethernet, a request.
        &[0xff; 6][..],
        &mac.0,
        &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
        &mac.0,
        &own,
        &[0; 6],
        &own,
    ]
    .concat();
    let all = [&(frame.len() as u32).to_be_bytes()[..], &frame].concat();
    // There is room in a new socket.
    rustix::net::send(socket, &all, rustix::net::SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The executable.
fn find() -> Result<OwnedFd, Failure> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/local/bin", "/usr/bin", "/bin"].map(Path::new);
    let places = std::env::split_paths(&path).chain(usual.map(Path::to_owned));
    for place in places.filter(|place| place.is_absolute()) {
        let file = place.join("passt");
        if accessat(CWD, &file, Access::EXEC_OK, AtFlags::empty()).is_ok()
            && let Ok(file) = open(&file, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        {
            return Ok(file);
        }
    }
    Err(Failure::setup(
        "--net passt needs the program passt, which is not installed: `apt-get install passt` (Debian 12, Ubuntu 23.04, and \
         newer), `dnf install passt` (Fedora), or https://passt.top",
    ))
}

/// passt goes on without a port that it does not get.
fn check_port(publish: &Publish, passt: &OwnedFd) -> Result<(), Failure> {
    let Publish { address, host: port, protocol, .. } = *publish;
    let tried = |address: IpAddr| match protocol {
        Transport::Tcp => std::net::TcpListener::bind((address, port)).map(drop),
        Transport::Udp => std::net::UdpSocket::bind((address, port)).map(drop),
    };
    let addresses =
        address.map_or(vec![Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::UNSPECIFIED.into()], |it| vec![it]);
    let result = addresses.into_iter().try_for_each(|it| match tried(it) {
        // A host without IPv6.
        Err(e) if address.is_none() && it.is_ipv6() && e.kind() != ErrorKind::AddrInUse => Ok(()),
        result => result,
    });
    let refused =
        |why: String| Failure::setup(format!("cannot publish port {port}/{protocol} of the host: {why}"));
    match result {
        Err(e) if e.kind() == ErrorKind::AddrInUse => return Err(refused("another program has it".into())),
        Err(e) if e.kind() != ErrorKind::PermissionDenied => return Err(refused(e.to_string())),
        _ => {}
    }
    // Even for root, because it becomes somebody else.
    let first = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    let first: u16 = first.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1024);
    // It may have been given the right to.
    let file = format!("/proc/self/fd/{}", passt.as_raw_fd());
    let has_capability = rustix::fs::getxattr(file, "security.capability", &mut [0u8; 64]).is_ok();
    match port < first && !has_capability {
        true => Err(refused(format!(
            "passt is nobody special, and ports below {first} are for root; \
             sysctl net.ipv4.ip_unprivileged_port_start={port} changes that"
        ))),
        false => Ok(()),
    }
}

/// One family's part of the network that the guest is in.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Family {
    address: Cidr,
    gateway: IpAddr,
}

#[derive(Debug, PartialEq, Eq)]
struct Network {
    /// Whose routes passt uses.
    interface: Option<String>,
    v4: Option<Family>,
    v6: Option<Family>,
    /// All addresses of the host.
    own: Vec<IpAddr>,
}

impl Network {
    fn of_host(asked: &Interface) -> Result<Self, Failure> {
        let own = host::addresses()
            .map_err(|e| Failure::setup(format!("cannot tell the host's addresses: {e}")))?;
        let routes = [host::default_route(false), host::default_route(true)];
        Self::new(asked, &own, routes)
    }

    fn new(
        asked: &Interface,
        own: &[HostAddress],
        routes: [Option<host::Route>; 2],
    ) -> Result<Self, Failure> {
        let family = |route: &Option<host::Route>, v6: bool| {
            let of_family = |ip: &IpAddr| ip.is_ipv6() == v6;
            let route = route.as_ref();
            let is_usable = |it: &&HostAddress| {
                let link_local = matches!(it.ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
                of_family(&it.ip) && !link_local && route.is_some_and(|r| r.interface == it.interface)
            };
            let given = asked.addresses.iter().find(|a| of_family(&a.ip)).copied();
            let hosts = || own.iter().find(is_usable).map(|it| Cidr { ip: it.ip, prefix: it.prefix });
            let given_gateway = asked.gateways.iter().find(|g| of_family(g)).copied();
            Some(Family {
                address: given.or_else(hosts)?,
                gateway: given_gateway.or_else(|| route?.gateway)?,
            })
        };
        let [route4, route6] = &routes;
        let (v4, v6) = (family(route4, false), family(route6, true));
        if v4.is_none() && v6.is_none() {
            return Err(Failure::setup(
                "--net passt: the host has no default route whose address the sandbox could have; give them: \
                 --net passt,ip=ADDRESS/BITS,gateway=IP",
            ));
        }
        let interface = route4.as_ref().filter(|_| v4.is_some()).or(route6.as_ref());
        let interface = interface.map(|route| route.interface.clone());
        Ok(Self { interface, v4, v6, own: own.iter().map(|it| it.ip).collect() })
    }

    fn families(&self) -> impl Iterator<Item = &Family> {
        self.v4.iter().chain(&self.v6)
    }

    fn addresses(&self) -> impl Iterator<Item = Cidr> {
        self.families().map(|family| family.address)
    }

    fn gateways(&self) -> impl Iterator<Item = IpAddr> {
        self.families().map(|family| family.gateway)
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Names {
    /// To the guest.
    told: Vec<IpAddr>,
    /// The gateway stands for this one.
    forwarded: Option<(IpAddr, IpAddr)>,
}

impl Names {
    fn of(servers: &[IpAddr], network: &Network) -> Self {
        let has_family = |ip: &IpAddr| match ip.is_ipv4() {
            true => network.v4.is_some(),
            false => network.v6.is_some(),
        };
        let is_own = |ip: &IpAddr| {
            ip.is_loopback() || network.own.contains(ip) || network.addresses().any(|a| a.ip == *ip)
        };
        let told: Vec<_> = servers.iter().filter(|ip| has_family(ip) && !is_own(ip)).copied().collect();
        let own = servers.iter().find(|ip| ip.is_ipv4() && is_own(ip)).copied();
        match (&network.v4, own) {
            (Some(Family { gateway, .. }), Some(own)) if told.is_empty() => {
                Names { told: vec![*gateway], forwarded: Some((*gateway, own)) }
            }
            _ => Names { told, forwarded: None },
        }
    }
}

/// Options that passt's of March 2023 (Debian 12) and newer ones understand alike.
fn arguments(network: &Network, names: &Names, dhcp: bool, mtu: u16, publish: &[Publish]) -> Vec<String> {
    let mut args: Vec<String> = [
        "passt",
        "--quiet",
        "--foreground",
        "--fd",
        SOCKET,
        "--pid",
        READY,
        "--no-map-gw",
        "--no-ra",
        "--no-dhcpv6",
    ]
    .map(str::to_owned)
    .into();
    let mut add = |words: &[&str]| args.extend(words.iter().map(|word| (*word).to_owned()));
    if let Some(interface) = &network.interface {
        add(&["--interface", interface]);
    }
    match (&network.v4, &network.v6) {
        (Some(_), None) => add(&["--ipv4-only"]),
        (None, Some(_)) => add(&["--ipv6-only"]),
        _ => {}
    }
    for Family { address, gateway } in network.families() {
        add(&["--address", &address.ip.to_string(), "--gateway", &gateway.to_string()]);
        if address.ip.is_ipv4() {
            add(&["--netmask", &address.prefix.to_string()]);
        }
    }
    match dhcp {
        true => add(&["--mtu", &mtu.to_string()]),
        false => add(&["--no-dhcp"]),
    }
    // It tells them by DHCP alone, and warns of a family that has none.
    match names.forwarded {
        Some((gateway, server)) => {
            add(&["--dns", &server.to_string(), "--dns-forward", &gateway.to_string()]);
        }
        None if !dhcp || names.told.is_empty() => add(&["--dns", "none"]),
        None => names.told.iter().for_each(|server| add(&["--dns", &server.to_string()])),
    }
    if network.v6.is_some() && (names.forwarded.is_some() || dhcp && !names.told.iter().any(IpAddr::is_ipv6))
    {
        add(&["--dns", "::1"]);
    }
    if !dhcp {
        add(&["--search", "none"]);
    }
    for (option, transport) in [("--tcp-ports", Transport::Tcp), ("--udp-ports", Transport::Udp)] {
        let mut of_it = publish.iter().filter(|publish| publish.protocol == transport).peekable();
        // Without a word of them UDP ports are forwarded that TCP's are.
        if of_it.peek().is_none() {
            add(&[option, "none"]);
        }
        for Publish { address, host, guest, .. } in of_it {
            let address = address.map_or(String::new(), |address| format!("{address}/"));
            add(&[option, &format!("{address}{host}:{guest}")]);
        }
    }
    args
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::network::Host;

    fn own(interface: &str, cidr: &str) -> HostAddress {
        let Cidr { ip, prefix } = cidr.parse().unwrap();
        HostAddress { interface: interface.into(), ip, prefix }
    }

    fn asked() -> Interface {
        Interface::new(Host::Passt(Passt::default()))
    }

    fn routes(four: &str, six: &str) -> [Option<host::Route>; 2] {
        let lines = [format!("eth0 00000000 {four} 0003 0 0 0 00000000"), {
            let zeros = "0".repeat(32);
            format!("{zeros} 00 {zeros} 00 {six} 00000400 1 0 00000003 eth0")
        }];
        [host::parse_for_tests(&lines[0], false), host::parse_for_tests(&lines[1], true)]
    }

    const GATEWAY6: &str = "fe800000000000000000000000000001";

    #[test]
    fn the_guest_has_what_the_host_has() {
        let addresses = [
            own("lo", "127.0.0.1/8"),
            own("eth1", "198.51.100.1/24"),
            own("eth0", "192.0.2.7/24"),
            own("eth0", "fe80::7/64"),
            own("eth0", "2001:db8::7/64"),
        ];
        let network = Network::new(&asked(), &addresses, routes("010200C0", GATEWAY6)).ok().unwrap();
        let told: Vec<_> = network.addresses().map(|a| a.to_string()).collect();
        assert_eq!(told, ["192.0.2.7/24", "2001:db8::7/64"]);
        let gateways: Vec<_> = network.gateways().map(|g| g.to_string()).collect();
        assert_eq!(gateways, ["192.0.2.1", "fe80::1"]);

        let names = |servers: &[&str]| {
            Names::of(&servers.iter().map(|s| s.parse().unwrap()).collect::<Vec<_>>(), &network)
        };
        assert_eq!(names(&["127.0.0.53", "192.0.2.53"]).told, ["192.0.2.53".parse::<IpAddr>().unwrap()]);
        for own in ["127.0.0.53", "192.0.2.7", "198.51.100.1"] {
            let it = names(&[own]);
            let gateway: IpAddr = [192, 0, 2, 1].into();
            assert_eq!((it.told, it.forwarded), (vec![gateway], Some((gateway, own.parse().unwrap()))));
        }
        assert_eq!(names(&[]), Names { told: vec![], forwarded: None });

        let given = Interface {
            addresses: vec!["10.9.0.2/24".parse().unwrap()],
            gateways: vec!["10.9.0.1".parse().unwrap()],
            ..asked()
        };
        let network = Network::new(&given, &[], [None, None]).ok().unwrap();
        assert_eq!((network.interface.as_deref(), network.v6.is_some()), (None, false));
        assert!(Network::new(&asked(), &addresses, [None, None]).is_err());
    }

    #[test]
    fn passt_is_told_all_of_it() {
        let network =
            Network::new(&asked(), &[own("eth0", "192.0.2.7/24")], routes("010200C0", "x")).ok().unwrap();
        let names = Names::of(&["127.0.0.53".parse().unwrap()], &network);
        let publish = ["8080:80", "127.0.0.1:2222:22"].map(|text| text.parse().unwrap());
        let line = arguments(&network, &names, false, MTU, &publish).join(" ");
        assert_eq!(
            line,
            "passt --quiet --foreground --fd 3 --pid /proc/self/fd/4 --no-map-gw --no-ra --no-dhcpv6 --interface eth0 \
             --ipv4-only --address 192.0.2.7 --gateway 192.0.2.1 --netmask 24 --no-dhcp --dns 127.0.0.53 --dns-forward 192.0.2.1 --search none \
             --tcp-ports 8080:80 --tcp-ports 127.0.0.1/2222:22 --udp-ports none"
        );
        let line = arguments(&network, &Names { told: vec![], forwarded: None }, true, 1500, &[]).join(" ");
        assert!(line.ends_with("--mtu 1500 --dns none --tcp-ports none --udp-ports none"), "{line}");
    }
}
