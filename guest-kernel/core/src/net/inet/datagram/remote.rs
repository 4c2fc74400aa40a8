//! Datagrams of other hosts, and errors about ours.

use alloc::{sync::Arc, vec::Vec};
use core::net::IpAddr;

use super::{
    super::{
        address::{Endpoint, Version},
        options::Opt,
        ports::Holder as _,
        stack::Stack,
    },
    socket::{About, DatagramSocket, Noted},
};
use crate::{errno::Errno, sync::PollEvents};

/// Errors that wait to be asked for (`MSG_ERRQUEUE`).
const ERRORS_MAX: usize = 64;

/// What the headers of a packet say of its datagram.
pub(in super::super) fn about(from: Endpoint, to: IpAddr, interface: u32, hops: u8, class: u8) -> About {
    About { from, to, interface, hops, class, at: 0 }
}

/// A datagram for this machine; whether somebody has the port. `shared`: it is for all who hear it.
pub(in super::super) fn arrived(
    stack: &Stack,
    to: Endpoint,
    bytes: &[u8],
    about: About,
    shared: bool,
) -> bool {
    if shared {
        let hear = stack.udp.lock().at(to.port, |bound| bound.hears(to.ip, about.from).is_some());
        for receiver in &hear {
            receiver.put_copy(bytes, about);
        }
        return !hear.is_empty();
    }
    let receiver = best(stack, to, about.from);
    receiver.inspect(|receiver| receiver.put_copy(bytes, about)).is_some()
}

/// Who is to have a datagram: one of those that share the port.
pub(super) fn best(stack: &Stack, to: Endpoint, from: Endpoint) -> Option<Arc<DatagramSocket>> {
    let best = stack.udp.lock().best(to.port, |bound, _| bound.hears(to.ip, from));
    let spread = u64::from(from.port).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    let at = match best.first() {
        Some(first) if first.reuses_port() => spread as usize % best.len(),
        _ => 0,
    };
    best.get(at).cloned()
}

/// Who pings with this identifier from `own`.
fn pinger(stack: &Stack, id: u16, own: IpAddr) -> Option<Arc<DatagramSocket>> {
    let version = if own.is_ipv4() { Version::V4 } else { Version::V6 };
    let best =
        stack.ping.lock().best(id, |bound, s| if s.version == version { bound.fits(own) } else { None });
    best.first().cloned()
}

/// The answer to an echo request.
pub(in super::super) fn echoed(stack: &Stack, id: u16, bytes: &[u8], about: About) {
    if let Some(receiver) = pinger(stack, id, about.to) {
        receiver.put_copy(bytes, about);
    }
}

/// A datagram of ours was not delivered. `what`: origin, type and code of the error, and whether it is certain.
pub(in super::super) fn failed(
    stack: &Stack,
    from: Endpoint,
    to: Endpoint,
    errno: Errno,
    what: [u8; 4],
    mtu: Option<u32>,
    bytes: &[u8],
) {
    if let Some(sender) = best(stack, from, to) {
        sender.note(errno, to, what, mtu, bytes.to_vec());
    }
}

/// The same of an echo request.
pub(in super::super) fn echo_failed(
    stack: &Stack,
    id: u16,
    from: IpAddr,
    to: Endpoint,
    errno: Errno,
    what: [u8; 4],
    bytes: &[u8],
) {
    if let Some(sender) = pinger(stack, id, from) {
        sender.note(errno, to, what, None, bytes.to_vec());
    }
}

impl DatagramSocket {
    /// A copy for this socket; lost if there is no memory.
    fn put_copy(&self, bytes: &[u8], about: About) {
        let mut own = Vec::new();
        if own.try_reserve_exact(bytes.len()).is_ok() {
            own.extend_from_slice(bytes);
            self.put(own, about);
        }
    }

    /// An error about a datagram that was sent to `to`, which is told if it is certain and the socket connected, or if it wants to know all.
    pub(super) fn note(&self, errno: Errno, to: Endpoint, what: [u8; 4], mtu: Option<u32>, bytes: Vec<u8>) {
        let wanted = match self.version {
            Version::V4 => self.options.is_on(Opt::RecvErr),
            Version::V6 => {
                self.options.is_on(Opt::RecvErr6) || to.ip.is_ipv4() && self.options.is_on(Opt::RecvErr)
            }
        };
        let [.., certain] = what;
        let told = self.with(|s| {
            if !wanted && (s.remote.is_none() || certain == 0) {
                return false;
            }
            if wanted && s.errors.len() < ERRORS_MAX {
                s.errors.push_back(Noted { errno, to, what, info: mtu.unwrap_or(0), bytes });
            }
            s.error = Some(errno);
            true
        });
        if told {
            self.queue.wake_all(PollEvents::ERR);
        }
    }
}
