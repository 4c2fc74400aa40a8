//! What the fuzz target of packets does: a host with an interface, a listener, a connection that was asked for, and whatever
//! arrives.

use alloc::{sync::Arc, vec::Vec};
use core::net::IpAddr;

use super::{Nic, checksum_of};
use crate::{
    net::{
        inet::{
            address::Endpoint,
            device::{Counts, Device, Offloads, Packet},
            interface::Address,
            tcp::TcpSocket,
        },
        socket::Socket,
    },
    ns::{NetNamespace, UserNamespace},
    sync::{Queue, WaitQueue},
};

const OWN: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 2];
const OURS: [u8; 4] = [192, 0, 2, 7];
const THEIRS: [u8; 4] = [192, 0, 2, 9];

/// A wire that leads nowhere.
struct Nowhere(Queue);

impl Device for Nowhere {
    fn mac(&self) -> [u8; 6] {
        OWN
    }
    fn mtu(&self) -> u32 {
        1500
    }
    fn offloads(&self) -> Offloads {
        Offloads { checksum: true, cut: [true, true] }
    }
    fn transmit(&self, _packet: &Packet) -> bool {
        true
    }
    fn flush(&self) {}
    fn receive(&self, _frame: &mut Vec<u8>) -> Option<bool> {
        None
    }
    fn rest(&self) -> bool {
        false
    }
    fn queue(&self) -> &Queue {
        &self.0
    }
    fn counts(&self) -> Counts {
        Counts::default()
    }
}

/// Takes `data` as frames, each behind its length in a byte or two, as if they arrived one after the other. Headers that would end
/// it at once are made right: addresses of a frame that begins with a zero, the checksum of an IPv4 header. Checksums of what
/// is in packets are as the device says: right. Whether nothing of all that is left in memory.
pub fn exercise(data: &[u8]) -> bool {
    let net = NetNamespace::for_container(UserNamespace::initial());
    let nic = Nic::new(Arc::new(Nowhere(WaitQueue::new())), 2, &net);
    take(&net, &nic, data);
    // A namespace is there as long as it has connections, and a device as long as it waits for a moment.
    net.stack().remotes.forget();
    nic.forget();
    let left = (Arc::downgrade(&net), Arc::downgrade(&nic));
    drop((net, nic));
    left.0.strong_count() == 0 && left.1.strong_count() == 0
}

fn take(net: &Arc<NetNamespace>, nic: &Arc<Nic>, mut data: &[u8]) {
    let there = net.stack().change_interfaces(|all| {
        all.add_device(2, "eth0".into(), nic.clone());
        all.set_up(2, true)?;
        all.add_address(2, Address { ip: OURS.into(), prefix: 24 })?;
        all.add_address(2, Address { ip: IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 7]), prefix: 64 })
    });
    if there.is_err() {
        return;
    }
    nic.heard(THEIRS.into(), OTHER, false);
    let Ok(listener) = TcpSocket::exercise_listener(net, 80) else { return };
    let to = Endpoint { ip: THEIRS.into(), port: 80 };
    if let Some(way) = net.stack().way(to.ip, None, None, 0) {
        listener.exercise_connection(way, Endpoint { ip: OURS.into(), port: 1000 }, to);
    }
    let mut scratch = Vec::new();
    while let Some((len, rest)) = data.split_first() {
        let (frame, rest) = rest.split_at_checked(usize::from(*len) * 8).unwrap_or((rest, &[]));
        data = rest;
        let mut frame = frame.to_vec();
        repair(&mut frame);
        nic.input(&frame, true);
        nic.poll(&mut scratch);
        listener.exercise_accept();
    }
    listener.close();
}

fn repair(frame: &mut [u8]) {
    if frame.first() != Some(&0) {
        return;
    }
    if let Some(place) = frame.get_mut(..12) {
        place.copy_from_slice([OWN, OTHER].as_flattened());
    }
    let Some((ethernet, packet)) = frame.split_at_mut_checked(14) else { return };
    if !ethernet.ends_with(&[8, 0]) {
        return;
    }
    let length = packet.len();
    if let Some(place) = packet.get_mut(2..4) {
        place.copy_from_slice(&(length as u16).to_be_bytes());
    }
    if let Some(place) = packet.get_mut(10..20) {
        place.copy_from_slice(&[&[0, 0][..], &THEIRS, &OURS].concat());
    }
    let header = packet.first().map_or(0, |b| usize::from(b & 15) * 4);
    if let Some(header) = packet.get_mut(..header) {
        let sum = checksum_of(header, 0);
        if let Some(place) = header.get_mut(10..12) {
            place.copy_from_slice(&sum.to_be_bytes());
        }
    }
}
