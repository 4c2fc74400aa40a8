//! From the boot configuration to interfaces.

use alloc::{format, sync::Arc, vec::Vec};
use core::net::IpAddr;

use ringfence_protocol::Network;

use super::{Nic, serve};
use crate::{
    errno::Result,
    net::inet::{
        device::Device,
        interface::{Address, Given},
    },
    ns::NetNamespace,
};

/// Gives the devices to the namespace the first container begins with, set up as `network` says. The devices are in
/// the order of the machine's.
pub(crate) fn start(net: &Arc<NetNamespace>, devices: &[Arc<dyn Device>], network: &Network) -> Result<()> {
    let mut nics = Vec::new();
    for (n, device) in devices.iter().enumerate() {
        let index = n as u32 + 2;
        let nic = Nic::new(device.clone(), index, net);
        net.stack().change_interfaces(|all| {
            all.add_device(index, format!("eth{n}"), nic.clone());
            let Some(own) = network.interfaces.get(n) else { return Ok(()) };
            all.set_up(index, true)?;
            if own.dhcp {
                ringfence_hal::log!(
                    Warn,
                    "eth{n} is to ask for an address by DHCP, which this kernel does not do yet"
                );
            }
            for cidr in &own.addresses {
                all.add_address(index, Address { ip: cidr.ip, prefix: cidr.prefix })?;
            }
            for gateway in &own.gateways {
                let any = Address { ip: any_of(*gateway), prefix: 0 };
                let metric = if gateway.is_ipv4() { 0 } else { 1024 };
                all.add_route(Given {
                    to: any,
                    gateway: Some(*gateway),
                    interface: index,
                    metric,
                    source: None,
                    protocol: BOOT,
                })?;
            }
            Ok::<_, crate::errno::Errno>(())
        })?;
        nics.push(nic);
    }
    nics.into_iter().try_for_each(serve)
}

/// `RTPROT_BOOT`: who administers the machine has given it.
const BOOT: u8 = 3;

fn any_of(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => core::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => core::net::Ipv6Addr::UNSPECIFIED.into(),
    }
}
