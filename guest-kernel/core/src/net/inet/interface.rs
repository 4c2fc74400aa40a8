//! Network interfaces and their addresses.
//!
//! What Linux does: a new network namespace has a loopback interface that is down and has no address. Setting it up gives
//! it 127.0.0.1/8 and ::1; setting it down takes the IPv6 addresses away. Container runtimes set it up before the first
//! program runs.
//!
//! We do the same: `lo` is up in the namespaces a sandbox and its containers begin with, and down in those that programs
//! make with `unshare` and `clone`.

use alloc::{string::String, sync::Arc, vec::Vec};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::packet::Nic;
use crate::errno::{Errno, Result};

/// `IFF_*`.
pub(crate) const IFF_UP: u32 = 0x1;
pub(crate) const IFF_BROADCAST: u32 = 0x2;
pub(crate) const IFF_LOOPBACK: u32 = 0x8;
pub(crate) const IFF_RUNNING: u32 = 0x40;
pub(crate) const IFF_MULTICAST: u32 = 0x1000;
pub(crate) const IFF_LOWER_UP: u32 = 0x1_0000;

/// The index `lo` has in every namespace.
pub(crate) const LOOPBACK_INDEX: u32 = 1;

/// An address of an interface, with the length of its network's prefix in bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Address {
    pub ip: IpAddr,
    pub prefix: u8,
}

impl Address {
    /// Whether `ip` is in its network.
    pub fn covers(&self, ip: IpAddr) -> bool {
        match (self.ip, ip) {
            (IpAddr::V4(own), IpAddr::V4(ip)) => {
                (own.to_bits() ^ ip.to_bits()).leading_zeros() >= u32::from(self.prefix)
            }
            (IpAddr::V6(own), IpAddr::V6(ip)) => {
                (own.to_bits() ^ ip.to_bits()).leading_zeros() >= u32::from(self.prefix)
            }
            _ => false,
        }
    }

    /// Its network: the bits beyond the prefix are zero.
    pub fn network(&self) -> Address {
        let ip = match self.ip {
            IpAddr::V4(ip) => {
                let host = u32::MAX.checked_shr(self.prefix.into()).unwrap_or(0);
                Ipv4Addr::from_bits(ip.to_bits() & !host).into()
            }
            IpAddr::V6(ip) => {
                let host = u128::MAX.checked_shr(self.prefix.into()).unwrap_or(0);
                Ipv6Addr::from_bits(ip.to_bits() & !host).into()
            }
        };
        Address { ip, prefix: self.prefix }
    }

    /// The address for all of its network; there is none in the smallest ones, and none of IPv6.
    pub fn broadcast(&self) -> Option<Ipv4Addr> {
        match self.ip {
            IpAddr::V4(v4) if self.prefix < 31 => {
                Some(Ipv4Addr::from_bits(v4.to_bits() | u32::MAX >> self.prefix))
            }
            _ => None,
        }
    }

    /// `RT_SCOPE_*`: of the host, of a wire, or everywhere.
    pub fn scope(&self) -> u8 {
        match self.ip {
            ip if ip.is_loopback() => 254,
            IpAddr::V6(v6) if v6.is_unicast_link_local() => 253,
            _ => 0,
        }
    }
}

/// What is behind an interface.
#[derive(Clone)]
pub(crate) enum Behind {
    /// The sockets of the namespace itself.
    Loopback,
    /// A device.
    Device(Arc<Nic>),
}

/// A network interface.
#[derive(Clone)]
pub(crate) struct Interface {
    pub index: u32,
    pub name: String,
    pub up: bool,
    pub behind: Behind,
    pub addresses: Vec<Address>,
}

impl Interface {
    pub fn is_loopback(&self) -> bool {
        matches!(self.behind, Behind::Loopback)
    }

    /// `IFF_*` as it is now.
    pub fn flags(&self) -> u32 {
        let kind = match self.behind {
            Behind::Loopback => IFF_LOOPBACK,
            Behind::Device(_) => IFF_BROADCAST | IFF_MULTICAST,
        };
        kind | if self.up { IFF_UP | IFF_RUNNING | IFF_LOWER_UP } else { 0 }
    }

    /// `ARPHRD_LOOPBACK` or `ARPHRD_ETHER`.
    pub fn hardware(&self) -> u16 {
        if self.is_loopback() { 772 } else { 1 }
    }

    pub fn mac(&self) -> [u8; 6] {
        match &self.behind {
            Behind::Loopback => [0; 6],
            Behind::Device(nic) => nic.device.mac(),
        }
    }

    /// Bytes of one packet at most.
    pub fn mtu(&self) -> u32 {
        match &self.behind {
            Behind::Loopback => 65_536,
            Behind::Device(nic) => nic.device.mtu(),
        }
    }

    /// The address that is `to`, or in whose network it is.
    pub fn near(&self, to: IpAddr) -> Option<IpAddr> {
        let exact = self.addresses.iter().find(|a| a.ip == to);
        exact.or_else(|| self.addresses.iter().find(|a| a.covers(to))).map(|a| a.ip)
    }

    /// Whether a neighbour with this address can be on its wire.
    pub fn reaches(&self, ip: IpAddr) -> bool {
        let link_local = matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
        !self.is_loopback() && (link_local || self.addresses.iter().any(|a| a.ip != ip && a.covers(ip)))
    }

    /// Whether `ip` is an address of this machine because of it: of a loopback all of an IPv4 network is.
    pub fn has(&self, ip: IpAddr) -> bool {
        self.up
            && self.addresses.iter().any(|a| a.ip == ip || self.is_loopback() && ip.is_ipv4() && a.covers(ip))
    }
}

/// A route that does not follow from an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Given {
    /// The network; its bits beyond the prefix are zero.
    pub to: Address,
    pub gateway: Option<IpAddr>,
    pub interface: u32,
    pub metric: u32,
    /// From which address, if that was said.
    pub source: Option<IpAddr>,
    /// `RTPROT_*`: who made it.
    pub protocol: u8,
}

/// The interfaces of a namespace, by index, and its routes.
#[derive(Clone)]
pub(crate) struct Interfaces {
    list: Vec<Interface>,
    pub routes: Vec<Given>,
}

impl Interfaces {
    /// `lo` alone.
    pub fn new(up: bool) -> Interfaces {
        let lo = Interface {
            index: LOOPBACK_INDEX,
            name: "lo".into(),
            up: false,
            behind: Behind::Loopback,
            addresses: Vec::new(),
        };
        let mut all = Interfaces { list: alloc::vec![lo], routes: Vec::new() };
        if up {
            let _ = all.set_up(LOOPBACK_INDEX, true); // it is there
        }
        all
    }

    pub fn iter(&self) -> impl Iterator<Item = &Interface> {
        self.list.iter()
    }

    pub fn by_index(&self, index: u32) -> Option<&Interface> {
        self.list.iter().find(|i| i.index == index)
    }

    pub fn by_name(&self, name: &[u8]) -> Option<&Interface> {
        self.list.iter().find(|i| i.name.as_bytes() == name)
    }

    fn get_mut(&mut self, index: u32) -> Result<&mut Interface> {
        self.list.iter_mut().find(|i| i.index == index).ok_or(Errno::ENODEV)
    }

    /// Sets one up or down. `ENODEV`.
    pub fn set_up(&mut self, index: u32, up: bool) -> Result<()> {
        let interface = self.get_mut(index)?;
        if interface.up == up {
            return Ok(());
        }
        interface.up = up;
        if !up {
            interface.addresses.retain(|a| a.ip.is_ipv4());
            // Routes go with the interface, as on Linux.
            self.routes.retain(|r| r.interface != index);
        } else if interface.is_loopback() {
            if interface.addresses.is_empty() {
                interface.addresses.push(Address { ip: Ipv4Addr::LOCALHOST.into(), prefix: 8 });
            }
            interface.addresses.push(Address { ip: Ipv6Addr::LOCALHOST.into(), prefix: 128 });
        }
        Ok(())
    }

    /// Adds an interface with a device. It is down.
    pub fn add_device(&mut self, index: u32, name: String, nic: Arc<Nic>) {
        let behind = Behind::Device(nic);
        self.list.push(Interface { index, name, up: false, behind, addresses: Vec::new() });
    }

    /// Adds a route. `ENODEV`, `EEXIST`; `ENETUNREACH`: the gateway is not on the wire.
    pub fn add_route(&mut self, route: Given) -> Result<()> {
        let interface = self.by_index(route.interface).ok_or(Errno::ENODEV)?;
        if !interface.up {
            return Err(Errno::ENETDOWN);
        }
        if route.gateway.is_some_and(|gateway| !interface.reaches(gateway)) {
            return Err(Errno::ENETUNREACH);
        }
        if self.routes.iter().any(|r| (r.to, r.metric) == (route.to, route.metric)) {
            return Err(Errno::EEXIST);
        }
        if self.routes.len() >= ROUTES_MAX {
            return Err(Errno::ENOBUFS);
        }
        self.routes.push(route);
        Ok(())
    }

    /// What the table `main` has: networks on wires, and what was given.
    pub fn main_routes(&self) -> Vec<Given> {
        let devices = self.list.iter().filter(|i| i.up && !i.is_loopback());
        let wires = devices.flat_map(|i| i.addresses.iter().map(move |a| (i.index, a)));
        let networks =
            wires.filter(|(_, a)| a.prefix < if a.ip.is_ipv4() { 32 } else { 128 }).map(|(interface, a)| {
                let four = a.ip.is_ipv4();
                Given {
                    to: a.network(),
                    gateway: None,
                    interface,
                    metric: if four { 0 } else { 256 },
                    source: four.then_some(a.ip),
                    protocol: 2,
                }
            });
        self.routes.iter().copied().chain(networks).collect()
    }

    /// Takes a route away. `ESRCH`.
    pub fn remove_route(&mut self, wanted: impl Fn(&Given) -> bool) -> Result<()> {
        let at = self.routes.iter().position(wanted).ok_or(Errno::ESRCH)?;
        self.routes.remove(at);
        Ok(())
    }

    /// Gives one an address. `ENODEV`, `EEXIST`.
    pub fn add_address(&mut self, index: u32, address: Address) -> Result<()> {
        let interface = self.get_mut(index)?;
        if interface.addresses.iter().any(|a| a.ip == address.ip) {
            return Err(Errno::EEXIST);
        }
        if interface.addresses.len() >= ADDRESSES_MAX {
            return Err(Errno::ENOBUFS);
        }
        interface.addresses.push(address);
        Ok(())
    }

    /// Takes an address away. `ENODEV`, `EADDRNOTAVAIL`.
    pub fn remove_address(&mut self, index: u32, ip: IpAddr) -> Result<()> {
        let interface = self.get_mut(index)?;
        let at = interface.addresses.iter().position(|a| a.ip == ip).ok_or(Errno::EADDRNOTAVAIL)?;
        interface.addresses.remove(at);
        Ok(())
    }

    /// Whether `ip` is an address of this machine.
    pub fn is_local(&self, ip: IpAddr) -> bool {
        self.list.iter().any(|i| i.has(ip))
    }
}

/// Routes of a namespace that do not follow from addresses.
const ROUTES_MAX: usize = 1024;
/// Addresses of one interface; Linux knows no limit.
const ADDRESSES_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_loopback_gets_its_addresses_when_it_is_set_up() {
        let mut all = Interfaces::new(false);
        assert!(!all.is_local(ip("127.0.0.1")));
        assert_eq!(all.set_up(2, true), Err(Errno::ENODEV));
        all.set_up(1, true).unwrap();
        assert!(all.is_local(ip("127.0.0.1")) && all.is_local(ip("127.200.0.9")) && all.is_local(ip("::1")));
        assert!(!all.is_local(ip("128.0.0.1")) && !all.is_local(ip("::2")));
        all.set_up(1, false).unwrap();
        assert_eq!(all.by_name(b"lo").unwrap().addresses.len(), 1);
        all.set_up(1, true).unwrap();
        assert_eq!(all.by_index(1).unwrap().flags(), 0x10049);
        assert_eq!(all.by_index(1).unwrap().addresses.len(), 2);
    }

    #[test]
    fn addresses_come_and_go() {
        let mut all = Interfaces::new(true);
        let more = Address { ip: ip("10.1.2.3"), prefix: 24 };
        all.add_address(1, more).unwrap();
        assert_eq!(all.add_address(1, more), Err(Errno::EEXIST));
        assert!(
            all.is_local(ip("10.1.2.3")) && all.is_local(ip("10.1.2.9")) && !all.is_local(ip("10.1.3.3"))
        );
        all.remove_address(1, more.ip).unwrap();
        assert_eq!(all.remove_address(1, more.ip), Err(Errno::EADDRNOTAVAIL));
        assert!(!all.is_local(ip("10.1.2.3")));
    }
}
