//! What programs ask about interfaces with `ioctl` (netdevice(7)).
//!
//! Any socket will do, of whatever family. Changing is for rtnetlink; only `SIOCSIFFLAGS` is here, because programs that
//! make a network namespace set its loopback up with it.

use core::net::IpAddr;

use ringfence_hal as hal;

use super::{
    address::{Endpoint, Version, encode},
    interface::{Address, IFF_UP, Interface},
};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    ns::NetNamespace,
    syscall::UserPtr,
    task::Capabilities,
};

const SIOCGIFNAME: u32 = 0x8910;
const SIOCGIFCONF: u32 = 0x8912;
const SIOCGIFFLAGS: u32 = 0x8913;
const SIOCSIFFLAGS: u32 = 0x8914;
const SIOCGIFADDR: u32 = 0x8915;
const SIOCGIFDSTADDR: u32 = 0x8917;
const SIOCGIFBRDADDR: u32 = 0x8919;
const SIOCGIFNETMASK: u32 = 0x891b;
const SIOCGIFMETRIC: u32 = 0x891d;
const SIOCGIFMTU: u32 = 0x8921;
const SIOCGIFHWADDR: u32 = 0x8927;
const SIOCGIFINDEX: u32 = 0x8933;
const SIOCGIFTXQLEN: u32 = 0x8942;

/// `IFNAMSIZ`, and bytes of `struct ifreq`.
const NAME: usize = 16;
const REQUEST: usize = 40;

/// An ioctl about the interfaces of `net`. `ENOTTY` if it is none.
pub(crate) fn interfaces(task: &TaskRef, net: &NetNamespace, command: u32, arg: u64) -> Result {
    match command {
        SIOCGIFCONF => return list(net, arg),
        SIOCGIFNAME..=SIOCGIFTXQLEN => {}
        _ => return Err(Errno::ENOTTY),
    }
    let mut request = UserPtr::<[u8; REQUEST]>::new(arg).read()?;
    let (name, rest) = request.split_at_mut(NAME);
    let all = net.stack().interfaces();
    if command == SIOCGIFNAME {
        let index = rest.first_chunk().map_or(0, |b| u32::from_ne_bytes(*b));
        let found = all.by_index(index).ok_or(Errno::ENODEV)?;
        put(name, found.name.as_bytes(), true);
        UserPtr::new(arg).write(&request)?;
        return Ok(0);
    }
    let given = name.split(|b| *b == 0).next().unwrap_or_default();
    let found = || all.by_name(given).ok_or(Errno::ENODEV);
    match command {
        SIOCGIFFLAGS => put(rest, &(found()?.flags() as u16).to_ne_bytes(), false),
        SIOCSIFFLAGS => {
            let index = found()?.index;
            if !task.credentials().capable_in(net.owner(), Capabilities::NET_ADMIN) {
                return Err(Errno::EPERM);
            }
            let flags = rest.first_chunk().map_or(0, |b| u16::from_ne_bytes(*b));
            net.stack().change_interfaces(|all| all.set_up(index, u32::from(flags) & IFF_UP != 0))?;
            return Ok(0);
        }
        SIOCGIFADDR | SIOCGIFDSTADDR => put(rest, &name4(address4(found()?)?.0), false),
        SIOCGIFNETMASK => {
            let (_, prefix) = address4(found()?)?;
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            put(rest, &name4(IpAddr::from(mask.to_be_bytes())), false);
        }
        SIOCGIFBRDADDR => {
            let i = found()?;
            let (ip, prefix) = address4(i)?;
            // A loopback is no network that all could be on.
            let all = Address { ip, prefix }.broadcast().filter(|_| !i.is_loopback());
            put(rest, &name4(all.map_or(Version::V4.any(), IpAddr::V4)), false);
        }
        SIOCGIFMETRIC => put(rest, &[0; 4], false),
        SIOCGIFMTU => put(rest, &found()?.mtu().to_ne_bytes(), false),
        SIOCGIFINDEX => put(rest, &found()?.index.to_ne_bytes(), false),
        SIOCGIFTXQLEN => put(rest, &1000u32.to_ne_bytes(), false),
        SIOCGIFHWADDR => {
            let i = found()?;
            put(rest, &[&i.hardware().to_ne_bytes()[..], &i.mac()].concat(), false);
        }
        _ => return Err(Errno::ENOTTY),
    }
    UserPtr::new(arg).write(&request)?;
    Ok(0)
}

/// Puts bytes at the beginning, zeros behind them if `clear`.
fn put(to: &mut [u8], bytes: &[u8], clear: bool) {
    if clear {
        to.fill(0);
    }
    for (to, from) in to.iter_mut().zip(bytes) {
        *to = *from;
    }
}

/// The first IPv4 address. `EADDRNOTAVAIL`.
fn address4(interface: &Interface) -> Result<(IpAddr, u8)> {
    let found = interface.addresses.iter().find(|a| a.ip.is_ipv4());
    found.map(|a| (a.ip, a.prefix)).ok_or(Errno::EADDRNOTAVAIL)
}

fn name4(ip: IpAddr) -> super::super::socket::Name {
    encode(Version::V4, Endpoint { ip, port: 0 })
}

/// `SIOCGIFCONF`: the interfaces that have an IPv4 address; without a buffer, how much room they take.
fn list(net: &NetNamespace, arg: u64) -> Result {
    let len = UserPtr::<i32>::new(arg);
    let buffer = UserPtr::<u64>::new(arg.wrapping_add(8)).read()?;
    let room = len.read()?;
    let all = net.stack().interfaces();
    let mut used = 0usize;
    for interface in all.iter() {
        let Ok((ip, _)) = address4(interface) else { continue };
        if buffer != 0 {
            if used + REQUEST > usize::try_from(room).map_err(|_| Errno::EINVAL)? {
                break;
            }
            let mut request = [0; REQUEST];
            let (name, rest) = request.split_at_mut(NAME);
            put(name, interface.name.as_bytes(), true);
            put(rest, &name4(ip), true);
            hal::user::copy_out(buffer.wrapping_add(used as u64), &request)?;
        }
        used += REQUEST;
    }
    len.write(&(used as i32))?;
    Ok(0)
}
