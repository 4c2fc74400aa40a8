//! What the guest gives its network interfaces.

use alloc::{format, string::String, vec::Vec};
use core::{fmt, net::IpAddr, str::FromStr};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Interfaces of a sandbox.
pub const INTERFACES_MAX: usize = 8;
/// Addresses and routes of an interface, name servers and search domains.
pub const ENTRIES_MAX: usize = 16;

/// The sandbox's network, as the first container's network namespace begins with it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// The virtio-net devices, in the order of the machine's; the first is `eth0`.
    pub interfaces: Vec<NetworkInterface>,
    /// Name servers (`resolv.conf(5)`). When there is one, the first container's `/etc/resolv.conf` names them and nothing else.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<IpAddr>,
    /// The search list beside them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
}

/// An interface. It is up from the start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkInterface {
    /// Its addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Cidr>,
    /// Where packets go that no other route is for; one of each family at most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<IpAddr>,
    /// Ask for an IPv4 address, a gateway and name servers by DHCP (RFC 2131).
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub dhcp: bool,
}

/// An address and how many of its bits are the network's: `192.0.2.7/24` (RFC 4632), `2001:db8::7/64` (RFC 4291).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    /// The address.
    pub ip: IpAddr,
    /// Bits of it.
    pub prefix: u8,
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no address with a prefix, like 192.0.2.7/24 or 2001:db8::7/64");
        let (ip, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let ip: IpAddr = ip.parse().map_err(|_| wrong())?;
        let most = if ip.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.parse().ok().filter(|bits| *bits <= most).ok_or_else(wrong)?;
        Ok(Self { ip, prefix })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)
    }
}

impl Serialize for Cidr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl Network {
    /// Whether it can be used; what is wrong otherwise.
    pub fn check(&self) -> Result<(), String> {
        if self.interfaces.len() > INTERFACES_MAX {
            return Err(format!("a sandbox has {INTERFACES_MAX} network interfaces at most"));
        }
        let most = |what: &str, n: usize| match n > ENTRIES_MAX {
            true => Err(format!("there are {ENTRIES_MAX} {what} at most")),
            false => Ok(()),
        };
        most("name servers", self.nameservers.len())?;
        most("search domains", self.search.len())?;
        for (n, interface) in self.interfaces.iter().enumerate() {
            most("addresses of an interface", interface.addresses.len())?;
            for (i, address) in interface.addresses.iter().enumerate() {
                if address.ip.is_unspecified() || address.ip.is_multicast() || address.ip.is_loopback() {
                    return Err(format!("`{address}` is no address for interface {n}"));
                }
                if interface.addresses[..i].iter().any(|a| a.ip == address.ip) {
                    return Err(format!("interface {n} is given {} twice", address.ip));
                }
            }
            for (i, gateway) in interface.gateways.iter().enumerate() {
                let same = |ip: &IpAddr| ip.is_ipv4() == gateway.is_ipv4();
                if interface.gateways[..i].iter().any(same) {
                    return Err(format!("interface {n} is given two gateways of one family"));
                }
                if !interface.addresses.iter().any(|a| same(&a.ip)) {
                    return Err(format!(
                        "interface {n} has gateway {gateway}, but no address of its own of that family"
                    ));
                }
            }
        }
        let name = |name: &String| {
            name.is_empty()
                || name.len() > 253
                || name.contains(|c: char| c.is_whitespace() || c.is_control())
        };
        match self.search.iter().find(|domain| name(domain)) {
            Some(domain) => Err(format!("`{domain}` is no domain to search in")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::{string::ToString, vec};

    use super::*;

    #[test]
    fn a_network_is_read_as_written() {
        let text = r#"{"interfaces":[{"addresses":["192.0.2.7/24","2001:db8::7/64"],"gateways":["192.0.2.1"]},{"dhcp":true}],"nameservers":["192.0.2.53"]}"#;
        let network: Network = serde_json::from_str(text).unwrap();
        network.check().unwrap();
        assert_eq!(network.interfaces[0].addresses[1].to_string(), "2001:db8::7/64");
        assert_eq!(serde_json::to_string(&network).unwrap(), text);
    }

    #[test]
    fn what_is_no_network_is_told() {
        let one = |interface: &str| serde_json::from_str::<NetworkInterface>(interface);
        for wrong in ["192.0.2.7", "192.0.2.7/33", "2001:db8::7/129", "a/1", "192.0.2.7/", "192.0.2.7/-1"] {
            assert!(one(&format!(r#"{{"addresses":["{wrong}"]}}"#)).is_err(), "{wrong}");
        }
        let wrong = [
            (r#"{"addresses":["127.0.0.1/8"]}"#, "is no address for interface 0"),
            (r#"{"addresses":["192.0.2.7/24","192.0.2.7/16"]}"#, "twice"),
            (r#"{"addresses":["192.0.2.7/24"],"gateways":["192.0.2.1","192.0.2.2"]}"#, "two gateways"),
            (r#"{"addresses":["192.0.2.7/24"],"gateways":["2001:db8::1"]}"#, "no address of its own"),
        ];
        for (interface, said) in wrong {
            let network = Network { interfaces: vec![one(interface).unwrap()], ..Network::default() };
            let error = network.check().unwrap_err();
            assert!(error.contains(said), "{interface}: {error}");
        }
        let many = Network { interfaces: vec![NetworkInterface::default(); 9], ..Network::default() };
        assert!(many.check().unwrap_err().contains("8 network interfaces"));
        let search = Network { search: vec!["a b".into()], ..Network::default() };
        assert!(search.check().unwrap_err().contains("no domain"));
    }
}
