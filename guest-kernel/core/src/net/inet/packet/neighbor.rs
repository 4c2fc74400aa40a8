//! Hardware addresses of neighbours (RFC 826, RFC 4861).
//!
//! What Linux does: an entry is INCOMPLETE while it is asked for (three times, a second apart), REACHABLE for about 30 seconds after it was
//! confirmed, then STALE; one that is used is asked again, by itself first, and forgotten if it does not answer. Packets for an incomplete one
//! wait; if there is no answer their senders get `EHOSTUNREACH`.
//!
//! We do the same, a little simpler: an entry that is used 30 seconds after it was confirmed is asked again and used meanwhile.
//! The address is one atomic number, so that senders take no lock.

use alloc::{collections::BTreeMap, sync::Arc, vec::Vec};
use core::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use ringfence_hal as hal;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetProtocol, NdiscNeighborFlags, NdiscRepr,
    RawHardwareAddress,
};

use super::{Due, Nic, SECOND, Way, header};
use crate::{
    errno::Errno,
    net::inet::{
        address::Version,
        device::{Head, Packet},
    },
    sync::SpinLock,
};

/// Neighbours known of one interface.
const NEIGHBORS_MAX: usize = 1024;
/// Packets that wait for an address.
const WAITING_MAX: usize = 16;
const TRIES: u32 = 3;
const REACHABLE: u64 = 30 * SECOND;
const KNOWN: u64 = 1 << 48;

#[derive(Default)]
struct Question {
    /// How often it was asked, 0 if it is not being asked.
    tries: u32,
    waiting: Vec<Packet>,
}

/// Another host on the wire.
pub(crate) struct Neighbor {
    pub ip: IpAddr,
    /// The address, if [`KNOWN`] is set.
    mac: AtomicU64,
    /// When it was last heard to be right.
    confirmed: AtomicU64,
    question: SpinLock<Question>,
}

impl Neighbor {
    fn new(ip: IpAddr) -> Arc<Neighbor> {
        let question = SpinLock::new(Question::default());
        Arc::new(Neighbor { ip, mac: AtomicU64::new(0), confirmed: AtomicU64::new(0), question })
    }

    /// A group, or everybody: the address follows from it.
    pub fn group(ip: IpAddr) -> Arc<Neighbor> {
        let mac = match ip {
            IpAddr::V4(v4) if v4.is_multicast() => {
                let [_, b, c, d] = v4.octets();
                [1, 0, 0x5e, b & 0x7f, c, d]
            }
            IpAddr::V6(v6) if v6.is_multicast() => {
                let [.., a, b, c, d] = v6.octets();
                [0x33, 0x33, a, b, c, d]
            }
            _ => [0xff; 6],
        };
        let neighbor = Neighbor::new(ip);
        neighbor.set(mac);
        neighbor.confirmed.store(u64::MAX, Relaxed);
        neighbor
    }

    pub fn mac(&self) -> Option<[u8; 6]> {
        let word = self.mac.load(Relaxed);
        let [_, _, mac @ ..] = word.to_be_bytes();
        (word & KNOWN != 0).then_some(mac)
    }

    fn set(&self, mac: [u8; 6]) {
        let [a, b, c, d, e, f] = mac;
        self.mac.store(u64::from_be_bytes([0, 0, a, b, c, d, e, f]) | KNOWN, Relaxed);
    }

    /// Whether it should be asked again.
    pub fn is_due(&self, now: u64) -> bool {
        let confirmed = self.confirmed.load(Relaxed);
        confirmed != u64::MAX && now.saturating_sub(confirmed) > REACHABLE
    }
}

/// The table.
#[derive(Default)]
pub(super) struct Neighbors(SpinLock<BTreeMap<IpAddr, Arc<Neighbor>>>);

impl Neighbors {
    fn known(&self, ip: IpAddr) -> Option<Arc<Neighbor>> {
        self.0.lock().get(&ip).cloned()
    }

    pub fn all(&self) -> Vec<Arc<Neighbor>> {
        self.0.lock().values().cloned().collect()
    }

    /// The entry of `ip`, made if there is none. If there are too many, one that nobody uses goes; without such a one it is not kept.
    pub fn get(&self, ip: IpAddr) -> Arc<Neighbor> {
        let mut table = self.0.lock();
        if let Some(known) = table.get(&ip) {
            return known.clone();
        }
        let neighbor = Neighbor::new(ip);
        if table.len() >= NEIGHBORS_MAX {
            let unused = table.iter().find(|(_, n)| Arc::strong_count(n) == 1).map(|(ip, _)| *ip);
            match unused {
                Some(unused) => table.remove(&unused),
                None => return neighbor,
            };
        }
        table.insert(ip, neighbor.clone());
        neighbor
    }
}

impl Nic {
    /// The neighbour with this address.
    pub fn neighbor(&self, ip: IpAddr) -> Arc<Neighbor> {
        match ip {
            IpAddr::V4(v4) if v4.is_multicast() || v4.is_broadcast() => Neighbor::group(ip),
            IpAddr::V6(v6) if v6.is_multicast() => Neighbor::group(ip),
            ip => self.neighbors.get(ip),
        }
    }

    /// What `/proc/net/arp` and rtnetlink show: address, hardware address, whether it is fresh.
    pub fn neighbor_table(&self) -> Vec<(IpAddr, Option<[u8; 6]>, bool)> {
        let now = hal::time::now();
        self.neighbors.all().iter().map(|n| (n.ip, n.mac(), !n.is_due(now))).collect()
    }

    /// Asks for a neighbour's address, unless it is being asked for; `packet` waits for the answer.
    pub(super) fn resolve(&self, neighbor: &Arc<Neighbor>, packet: Option<Packet>) {
        let (begins, lost) = {
            let mut q = neighbor.question.lock();
            let lost = match packet {
                Some(packet) if q.waiting.len() >= WAITING_MAX => {
                    // The oldest gives way, as on Linux.
                    let first = q.waiting.remove(0);
                    q.waiting.push(packet);
                    Some(first)
                }
                Some(packet) => {
                    q.waiting.push(packet);
                    None
                }
                None => None,
            };
            let begins = q.tries == 0;
            if begins {
                q.tries = 1;
            }
            (begins, lost)
        };
        drop(lost);
        if begins {
            self.solicit(neighbor);
            self.at(hal::time::now() + SECOND, Due::Neighbor(neighbor.clone()));
        }
    }

    /// A second after a question.
    pub(super) fn retry(&self, neighbor: &Arc<Neighbor>, now: u64) {
        let failed = {
            let mut q = neighbor.question.lock();
            match q.tries {
                0 => return, // answered
                tries if tries < TRIES => {
                    q.tries += 1;
                    None
                }
                _ => {
                    q.tries = 0;
                    Some(core::mem::take(&mut q.waiting))
                }
            }
        };
        let Some(waiting) = failed else {
            self.solicit(neighbor);
            return self.at(now + SECOND, Due::Neighbor(neighbor.clone()));
        };
        neighbor.mac.store(0, Relaxed);
        for packet in waiting {
            self.undeliverable(
                packet.head.get(14..).unwrap_or_default(),
                Errno::EHOSTUNREACH,
                None,
                [3, 1, 1, 0],
            );
        }
    }

    /// Sends a question: to all, or to the one that is believed to have it.
    fn solicit(&self, neighbor: &Arc<Neighbor>) {
        let to = neighbor.mac();
        let own = self.device.mac();
        let source = self.with_stack(|stack| {
            let all = stack.interfaces();
            let interface = all.by_index(self.index)?;
            let same = |ip: &IpAddr| ip.is_ipv4() == neighbor.ip.is_ipv4();
            interface.near(neighbor.ip).or_else(|| interface.addresses.iter().map(|a| a.ip).find(same))
        });
        let Some(source) = source.flatten() else { return };
        match (neighbor.ip, source) {
            (IpAddr::V4(wanted), IpAddr::V4(source)) => {
                self.send_arp(
                    ArpOperation::Request,
                    source,
                    to.unwrap_or([0; 6]),
                    wanted,
                    to.unwrap_or([0xff; 6]),
                );
            }
            (IpAddr::V6(wanted), IpAddr::V6(source)) => {
                let [.., a, b, c] = wanted.octets();
                let group =
                    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]));
                let target = if to.is_some() { IpAddr::V6(wanted) } else { IpAddr::V6(group) };
                let message = NdiscRepr::NeighborSolicit {
                    target_addr: wanted,
                    lladdr: Some(RawHardwareAddress::from_bytes(&own)),
                };
                let at = match to {
                    Some(_) => neighbor.clone(),
                    None => Neighbor::group(target),
                };
                self.send_ndisc(at, source.into(), target, message);
            }
            _ => {}
        }
        self.device.flush();
    }

    pub(super) fn send_ndisc(
        &self,
        neighbor: Arc<Neighbor>,
        from: IpAddr,
        to: IpAddr,
        message: NdiscRepr<'_>,
    ) {
        let Some(nic) = self.me.upgrade() else { return };
        let way = Way { nic, neighbor, from, to, hops: 255, class: 0 };
        if let Some(packet) = header::ndisc(&way, message) {
            // A neighbour whose address is not known is not asked for because of an answer.
            if way.neighbor.mac().is_some() {
                self.transmit(&way.neighbor, packet);
            }
        }
    }

    pub(super) fn send_arp(
        &self,
        operation: ArpOperation,
        source: Ipv4Addr,
        target_mac: [u8; 6],
        target: Ipv4Addr,
        to: [u8; 6],
    ) {
        let own = self.device.mac();
        let repr = ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr: EthernetAddress(own),
            source_protocol_addr: source,
            target_hardware_addr: EthernetAddress(target_mac),
            target_protocol_addr: target,
        };
        let mut bytes = [0; 28];
        repr.emit(&mut ArpPacket::new_unchecked(&mut bytes));
        let mut head = Head::new();
        header::ethernet(&mut head, own, EthernetProtocol::Arp);
        if let Some(place) = head.get_mut(..6) {
            place.copy_from_slice(&to);
        }
        head.extend_from_slice(&bytes);
        self.device.transmit(&Packet { head, parts: Default::default(), checksum: None, cut: None });
    }

    /// A neighbour says that it has this address. `asked`: only if we want to know.
    pub(super) fn heard(&self, ip: IpAddr, mac: [u8; 6], asked: bool) {
        if mac.first().is_none_or(|b| b & 1 != 0) || mac == [0; 6] {
            return;
        }
        let neighbor = match self.neighbors.known(ip) {
            Some(neighbor) => neighbor,
            None if asked => return,
            None => self.neighbors.get(ip),
        };
        let waiting = {
            let mut q = neighbor.question.lock();
            q.tries = 0;
            neighbor.set(mac);
            neighbor.confirmed.store(hal::time::now(), Relaxed);
            core::mem::take(&mut q.waiting)
        };
        for packet in waiting {
            self.transmit(&neighbor, packet);
        }
    }

    /// An ARP packet.
    pub(super) fn on_arp(&self, bytes: &[u8]) {
        let Ok(packet) = ArpPacket::new_checked(bytes) else { return };
        let Ok(ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr,
            source_protocol_addr,
            target_protocol_addr,
            ..
        }) = ArpRepr::parse(&packet)
        else {
            return;
        };
        if source_protocol_addr.is_multicast() || source_protocol_addr.is_broadcast() {
            return;
        }
        let ours = self.has(target_protocol_addr.into());
        if self.has(source_protocol_addr.into()) {
            return; // somebody has our address, or it is our own packet
        }
        let mac = source_hardware_addr.0;
        if !source_protocol_addr.is_unspecified() {
            // Who asks for us will be spoken to.
            self.heard(source_protocol_addr.into(), mac, !ours);
        }
        if ours && operation == ArpOperation::Request {
            self.send_arp(ArpOperation::Reply, target_protocol_addr, mac, source_protocol_addr, mac);
        }
    }

    /// Neighbour discovery.
    pub(super) fn on_ndisc(&self, from: Ipv6Addr, message: NdiscRepr<'_>) {
        let mac =
            |raw: Option<RawHardwareAddress>| raw.and_then(|raw| raw.as_bytes().first_chunk::<6>().copied());
        match message {
            NdiscRepr::NeighborSolicit { target_addr, lladdr } => {
                if !self.has(target_addr.into()) {
                    return;
                }
                let unspecified = from.is_unspecified();
                if let (Some(mac), false) = (mac(lladdr), unspecified) {
                    self.heard(from.into(), mac, false);
                }
                let to = if unspecified { Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1) } else { from };
                let mut flags = NdiscNeighborFlags::OVERRIDE;
                flags.set(NdiscNeighborFlags::SOLICITED, !unspecified);
                let own = RawHardwareAddress::from_bytes(&self.device.mac());
                let answer = NdiscRepr::NeighborAdvert { flags, target_addr, lladdr: Some(own) };
                self.send_ndisc(self.neighbor(to.into()), target_addr.into(), to.into(), answer);
            }
            NdiscRepr::NeighborAdvert { target_addr, lladdr, .. } => {
                if let Some(mac) = mac(lladdr) {
                    self.heard(target_addr.into(), mac, true);
                }
            }
            NdiscRepr::RouterAdvert { .. } | NdiscRepr::RouterSolicit { .. } | NdiscRepr::Redirect { .. } => {
            }
        }
    }

    /// Whether an address is one of this interface's.
    pub(super) fn has(&self, ip: IpAddr) -> bool {
        let version = if ip.is_ipv4() { Version::V4 } else { Version::V6 };
        ip != version.any() && self.with_stack(|stack| stack.has(self.index, ip)).unwrap_or(false)
    }
}
