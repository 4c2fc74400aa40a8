//! The networks of a sandbox in its description: what is on the host's side of each interface, and what the guest is told.
//!
//! `crate::network` opens them; `docs/networking.md` is for users.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use ringfence_devices::net::{Mac, Policy};
use ringfence_protocol::{Cidr, NetworkInterface};
use serde::{Deserialize, Serialize};

/// The smallest and the largest packets that a device may be asked for: IPv4's least (RFC 791), and what still fits a frame.
pub const MTU: std::ops::RangeInclusive<u16> = 68..=65520;
/// Most ports of the host that lead to a sandbox.
const MAX_PUBLISHED: usize = 64;
/// Disks and network interfaces together: each takes an interrupt line of an IOAPIC that has 24.
pub const MAX_DISKS_AND_INTERFACES: usize = 14;

/// The sandbox's network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Network {
    /// `eth0`, `eth1` and so on.
    pub interfaces: Vec<Interface>,
    /// Name servers of the first container.
    pub nameservers: Vec<IpAddr>,
    /// Domains it searches in.
    pub search: Vec<String>,
}

/// A network interface of the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interface {
    /// What is on the host's side.
    pub host: Host,
    /// Network namespace of the host in which that is; the caller's if not given.
    #[serde(default)]
    pub netns: Option<PathBuf>,
    /// Its address; random if not given.
    #[serde(default)]
    pub mac: Option<Mac>,
    /// Its largest packet in bytes; the host's side's if not given.
    #[serde(default)]
    pub mtu: Option<u16>,
    /// Where the guest may send.
    #[serde(default)]
    pub egress: Option<Egress>,
    /// Most bytes a second to the guest.
    #[serde(default)]
    pub rx_bandwidth: Option<u64>,
    /// Most bytes a second from it.
    #[serde(default)]
    pub tx_bandwidth: Option<u64>,
    /// What the guest gives itself.
    #[serde(default)]
    pub addresses: Vec<Cidr>,
    /// Where it sends what is not near, one of each family.
    #[serde(default)]
    pub gateways: Vec<IpAddr>,
    /// It asks for an IPv4 address.
    #[serde(default)]
    pub dhcp: bool,
}

/// What is on the host's side of an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Host {
    /// A TAP interface by its name.
    Tap(String),
    /// A TAP interface that is open already, as this descriptor.
    TapDescriptor(i32),
    /// The unix socket of something that takes frames behind their lengths: `passt --socket`, QEMU's `-netdev stream`.
    Stream(PathBuf),
    /// `passt`, started with the sandbox.
    Passt(Passt),
}

/// Network by the sockets of an ordinary user.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Passt {
    /// Ports of the host that lead into the sandbox.
    pub publish: Vec<Publish>,
}

/// A port of the host that leads to one of the sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Publish {
    /// Of the host; all if not given.
    #[serde(default)]
    pub address: Option<IpAddr>,
    /// Port of the host.
    pub host: u16,
    /// Port inside.
    pub guest: u16,
    /// TCP if not given.
    #[serde(default)]
    pub protocol: Transport,
}

/// What has ports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Transport {
    #[default]
    Tcp,
    Udp,
}

/// Where the guest may send.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Egress {
    /// Everywhere.
    Any,
    /// The public Internet and the name servers: nothing private, near or of the host itself.
    Public,
    /// Where this allows it.
    Policy(Policy),
}

impl FromStr for Publish {
    type Err = String;

    /// `[ADDR:]HOST:GUEST[/tcp|udp]`, an IPv6 address in brackets.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` publishes nothing: write [ADDRESS:]HOST:GUEST[/tcp|udp]");
        let (ports, protocol) = match text.rsplit_once('/') {
            Some((ports, "tcp")) => (ports, Transport::Tcp),
            Some((ports, "udp")) => (ports, Transport::Udp),
            Some(_) => return Err(wrong()),
            None => (text, Transport::Tcp),
        };
        let (host, guest) = ports.rsplit_once(':').ok_or_else(wrong)?;
        let (address, host) = match host.contains(':') {
            true => {
                let host: SocketAddr = host.parse().map_err(|_| wrong())?;
                (Some(host.ip()), host.port())
            }
            false => (None, host.parse().map_err(|_| wrong())?),
        };
        let publish = Publish { address, host, guest: guest.parse().map_err(|_| wrong())?, protocol };
        publish.check().map(|()| publish)
    }
}

impl Publish {
    fn check(&self) -> Result<(), String> {
        match self.host == 0 || self.guest == 0 {
            true => Err("a port that is published is 1 to 65535".into()),
            false => Ok(()),
        }
    }

    /// Whether both want the same of the host.
    fn collides(&self, other: &Self) -> bool {
        let same = self.address.is_none() || other.address.is_none() || self.address == other.address;
        self.host == other.host && self.protocol == other.protocol && same
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        })
    }
}

impl Interface {
    /// One with every default.
    pub fn new(host: Host) -> Self {
        Self {
            host,
            netns: None,
            mac: None,
            mtu: None,
            egress: None,
            rx_bandwidth: None,
            tx_bandwidth: None,
            addresses: Vec::new(),
            gateways: Vec::new(),
            dhcp: false,
        }
    }

    /// What the guest is told of it.
    pub fn told(&self) -> NetworkInterface {
        NetworkInterface {
            addresses: self.addresses.clone(),
            gateways: self.gateways.clone(),
            dhcp: self.dhcp,
        }
    }

    /// Says what is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        if self.mtu.is_some_and(|mtu| !MTU.contains(&mtu)) {
            let (least, most) = MTU.into_inner();
            return Err(format!("an MTU is from {least} to {most}"));
        }
        if self.rx_bandwidth == Some(0) || self.tx_bandwidth == Some(0) {
            return Err("a network interface with a limit of 0 would never carry anything".into());
        }
        if let Some(Egress::Policy(policy)) = &self.egress {
            policy.check().map_err(|e| e.to_string())?;
        }
        let has_no_namespace = matches!(self.host, Host::TapDescriptor(_) | Host::Stream(_));
        if self.netns.is_some() && has_no_namespace {
            return Err("a network namespace goes with a TAP interface's name, or with passt".into());
        }
        if self.netns.as_ref().is_some_and(|path| path.as_os_str().is_empty()) {
            return Err("the network namespace has no path".into());
        }
        match &self.host {
            Host::Tap(name) if name.is_empty() => Err("a TAP interface has a name".into()),
            Host::TapDescriptor(n) if *n < 3 => {
                Err(format!("descriptor {n} is no TAP interface: 0, 1 and 2 are the program's"))
            }
            Host::Stream(path) if path.as_os_str().is_empty() => Err("the socket has no path".into()),
            Host::Passt(passt) => passt.check(),
            _ => Ok(()),
        }
    }
}

impl Passt {
    fn check(&self) -> Result<(), String> {
        if self.publish.len() > MAX_PUBLISHED {
            return Err(format!("a sandbox publishes at most {MAX_PUBLISHED} ports"));
        }
        for (n, publish) in self.publish.iter().enumerate() {
            publish.check()?;
            if self.publish[..n].iter().any(|other| other.collides(publish)) {
                return Err(format!("port {}/{} is published twice", publish.host, publish.protocol));
            }
        }
        Ok(())
    }
}

impl Network {
    /// Says what is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        self.interfaces.iter().try_for_each(Interface::check)?;
        if self.interfaces.is_empty() && !(self.nameservers.is_empty() && self.search.is_empty()) {
            return Err("name servers cannot be reached without a network: add an interface (--net)".into());
        }
        let passt = |interface: &&Interface| matches!(interface.host, Host::Passt(_));
        if self.interfaces.iter().filter(passt).count() > 1 {
            return Err("a sandbox has at most one interface by passt".into());
        }
        ringfence_protocol::Network {
            interfaces: self.interfaces.iter().map(|i| self.told(i)).collect(),
            nameservers: self.nameservers.clone(),
            search: self.search.clone(),
        }
        .check()
    }

    /// What can be looked at before the host is asked: with passt a gateway may be given without an address.
    fn told(&self, interface: &Interface) -> NetworkInterface {
        let mut told = interface.told();
        if matches!(interface.host, Host::Passt(_)) {
            told.gateways
                .retain(|gateway| told.addresses.iter().any(|a| a.ip.is_ipv4() == gateway.is_ipv4()));
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_published() {
        let read = |text: &str| text.parse::<Publish>();
        let plain = Publish { address: None, host: 8080, guest: 80, protocol: Transport::Tcp };
        assert_eq!(read("8080:80"), Ok(plain));
        assert_eq!(read("8080:80/tcp"), Ok(plain));
        assert_eq!(read("53:53/udp").unwrap().protocol, Transport::Udp);
        assert_eq!(read("127.0.0.1:8080:80").unwrap().address, Some([127, 0, 0, 1].into()));
        assert_eq!(read("[::1]:8080:80").unwrap().address, Some("::1".parse().unwrap()));
        for wrong in
            ["", "80", "80:", ":80", "0:80", "80:0", "80:65536", "80:80/sctp", "host:80:80", "::1:80:80"]
        {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let check = |text: &str| -> Result<(), String> {
            serde_json::from_str::<Network>(text).map_err(|e| e.to_string())?.check()
        };
        check(r#"{"interfaces": [{"host": {"passt": {"publish": [{"host": 80, "guest": 80}]}}}]}"#).unwrap();
        check(
            r#"{"interfaces": [{"host": {"tap": "t"}, "netns": "/n", "egress": "public"}], "search": ["a"]}"#,
        )
        .unwrap();
        let wrong = [
            (r#"{"interfaces": [{"host": {"tap": "t"}, "mtu": 67}]}"#, "from 68"),
            (r#"{"interfaces": [{"host": {"tap": ""}}]}"#, "has a name"),
            (r#"{"interfaces": [{"host": {"tap_descriptor": 1}}]}"#, "the program's"),
            (r#"{"interfaces": [{"host": {"stream": "/s"}, "netns": "/n"}]}"#, "goes with"),
            (r#"{"interfaces": [{"host": {"tap": "t"}, "rx_bandwidth": 0}]}"#, "limit of 0"),
            (r#"{"interfaces": [{"host": {"tap": "t"}, "egress": "some"}]}"#, "some"),
            (r#"{"interfaces": [{"host": {"tap": "t"}, "gateways": ["192.0.2.1"]}]}"#, "no address"),
            (r#"{"interfaces": [{"host": {"passt": {}}}, {"host": {"passt": {}}}]}"#, "at most one"),
            (
                r#"{"interfaces": [{"host": {"passt": {"publish": [{"host": 80, "guest": 1}, {"host": 80, "guest": 2}]}}}]}"#,
                "twice",
            ),
            (r#"{"nameservers": ["192.0.2.1"]}"#, "without a network"),
        ];
        for (text, said) in wrong {
            let error = check(text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
