//! The host's side of a sandbox's networks.
//!
//! All that needs a right or a name of the host is done here, in the supervisor, before the VMM is started: a TAP interface is
//! attached to, `passt` is found and told what to be. The VMM in the jail gets one descriptor an interface, and can neither make
//! another nor change which network it is; its own network namespace is empty.
//!
//! | file | holds |
//! |---|---|
//! | `host.rs` | the host's addresses, default routes and name servers |
//! | `passt.rs` | the command line of passt, and what the guest is told with it |

mod host;
mod passt;

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use ringfence_devices::net::{Mac, Policy, tap};
use ringfence_jailer::Helper;
use ringfence_protocol as protocol;
use rustix::rand::{GetRandomFlags, getrandom};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::api::network::{Egress, Host, Interface as Asked, MTU, Network};
use crate::cli::Failure;
use crate::order::Interface;

/// Of Ethernet; where nothing else is known.
const DEFAULT_MTU: u16 = 1500;

/// What was opened for a sandbox.
#[derive(Default)]
pub struct Opened {
    /// For the VMM, in the order the guest sees them.
    pub interfaces: Vec<Interface<OwnedFd>>,
    /// For the guest, if there are any.
    pub told: Option<protocol::Network>,
    /// The program at the other end, that is to be started with the sandbox.
    pub helper: Option<Helper>,
}

/// Opens what a description asks for.
pub fn open(asked: &Network) -> Result<Opened, Failure> {
    let mut opened = Opened::default();
    if asked.interfaces.is_empty() {
        return Ok(opened);
    }
    let mut told = protocol::Network {
        interfaces: Vec::new(),
        nameservers: asked.nameservers.clone(),
        search: asked.search.clone(),
    };
    // passt first: with it come name servers, which the others' policies have to know.
    let mut by_passt = None;
    for interface in &asked.interfaces {
        if let Host::Passt(passt) = &interface.host {
            let made = within(interface.netns.as_deref(), |namespace| {
                passt::prepare(passt, interface, &asked.nameservers, namespace)
            })?;
            told.nameservers = made.nameservers;
            if told.search.is_empty() && asked.nameservers.is_empty() {
                told.search = made.search;
            }
            opened.helper = Some(made.helper);
            by_passt = Some((made.socket, made.told));
        }
    }
    for interface in &asked.interfaces {
        let is_passt = matches!(interface.host, Host::Passt(_));
        let ((file, mtu), guests) = match by_passt.take_if(|_| is_passt) {
            Some((socket, guests)) => ((socket, passt::MTU), guests),
            None => (attach(interface)?, interface.told()),
        };
        let mac = interface.mac.map_or_else(random_mac, Ok).map_err(unable)?;
        if is_passt {
            passt::introduce(&file, mac, &guests).map_err(unable)?;
        }
        told.interfaces.push(guests);
        opened.interfaces.push(Interface {
            file,
            stream: !matches!(interface.host, Host::Tap(_) | Host::TapDescriptor(_)),
            mac,
            mtu: interface.mtu.unwrap_or(mtu),
            egress: egress(interface, &told.nameservers)?,
            rx_bandwidth: interface.rx_bandwidth,
            tx_bandwidth: interface.tx_bandwidth,
        });
    }
    told.check().map_err(Failure::setup)?;
    opened.told = Some(told);
    Ok(opened)
}

fn unable(e: io::Error) -> Failure {
    Failure::setup(format!("cannot make a network interface: {e}"))
}

/// The descriptor of what is not passt, and the largest packet that it takes.
fn attach(interface: &Asked) -> Result<(OwnedFd, u16), Failure> {
    match &interface.host {
        Host::Tap(name) => within(interface.netns.as_deref(), |_| {
            let tap = tap::open(name).map_err(Failure::setup)?;
            let mtu = host::mtu(name).and_then(|mtu| u16::try_from(mtu).ok()).filter(|mtu| MTU.contains(mtu));
            Ok((tap, mtu.unwrap_or(DEFAULT_MTU)))
        }),
        Host::TapDescriptor(number) => Ok((tap::given(*number).map_err(Failure::setup)?, DEFAULT_MTU)),
        Host::Stream(path) => {
            let socket = UnixStream::connect(path).map_err(|e| {
                let path = path.display();
                Failure::setup(format!("cannot connect to {path}: {e}; start what listens there first"))
            });
            Ok((socket?.into(), DEFAULT_MTU))
        }
        Host::Passt(_) => Err(Failure::setup("a sandbox has at most one interface by passt")),
    }
}

fn egress(interface: &Asked, nameservers: &[IpAddr]) -> Result<Option<Policy>, Failure> {
    let public = || {
        let own = within(interface.netns.as_deref(), |_| host::addresses().map_err(unable))?;
        let own: Vec<_> = own.into_iter().map(|own| own.ip).collect();
        Ok(Some(Policy::public(nameservers, &own)))
    };
    match (&interface.egress, &interface.host) {
        (Some(Egress::Policy(policy)), _) => Ok(Some(policy.clone())),
        (Some(Egress::Public), _) | (None, Host::Passt(_)) => public(),
        (Some(Egress::Any) | None, _) => Ok(None),
    }
}

/// Does something in the network namespace at `path`, if there is one. This thread is in its own afterwards.
fn within<T>(
    path: Option<&Path>,
    act: impl FnOnce(Option<OwnedFd>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let Some(path) = path else { return act(None) };
    let failed = |e: io::Error| {
        let advice = match e.raw_os_error() {
            Some(libc::EPERM) => "; only root may enter it",
            Some(libc::EINVAL) => "; it is no network namespace",
            _ => "",
        };
        Failure::setup(format!("cannot use the network namespace {}: {e}{advice}", path.display()))
    };
    let enter = |namespace: BorrowedFd<'_>| {
        move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network)).map_err(io::Error::from)
    };
    let own = File::open("/proc/thread-self/ns/net").map_err(failed)?;
    let namespace = OwnedFd::from(File::open(path).map_err(failed)?);
    enter(namespace.as_fd()).map_err(failed)?;
    let result = act(Some(namespace));
    // In another's namespace nothing more may be done.
    enter(own.as_fd()).map_err(failed)?;
    result
}

/// A local one (IEEE 802, bit 1 of the first byte), of a single host (bit 0).
fn random_mac() -> io::Result<Mac> {
    let mut bytes = [0; 6];
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    bytes[0] = bytes[0] & !1 | 2;
    Ok(Mac(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_random_address_is_local_and_of_one_host() {
        let mac = random_mac().unwrap();
        assert_eq!(mac.0[0] & 3, 2);
        assert_eq!(mac.to_string().parse::<Mac>().unwrap(), mac);
    }

    #[test]
    fn what_cannot_be_opened_is_told() {
        let open = |asked: Asked| {
            open(&Network { interfaces: vec![asked], ..Network::default() }).err().unwrap().message
        };
        assert!(open(Asked::new(Host::Tap("a/b".into()))).contains("no name of a network interface"));
        assert!(open(Asked::new(Host::Stream("/nowhere".into()))).contains("start what listens there"));
        assert!(open(Asked::new(Host::TapDescriptor(1 << 20))).contains("no TAP interface"));
        let elsewhere = Asked { netns: Some("/nowhere".into()), ..Asked::new(Host::Tap("t0".into())) };
        assert!(open(elsewhere).contains("network namespace /nowhere"));
        let none = super::open(&Network::default()).ok().unwrap();
        assert!(none.interfaces.is_empty() && none.told.is_none() && none.helper.is_none());
    }
}
