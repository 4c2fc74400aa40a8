//! A namespace with an interface, and frames made by hand.

use alloc::{sync::Arc, vec, vec::Vec};
use core::net::IpAddr;

use proptest::prelude::*;
use ringfence_protocol::{Network, NetworkInterface};

use super::*;
use crate::{
    net::inet::{
        device::{Counts, Offloads},
        interface::Address,
    },
    ns::UserNamespace,
};

const OWN: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// A wire that ends in two lists.
struct Wire {
    out: SpinLock<Vec<Vec<u8>>>,
    queue: Queue,
}

impl Device for Wire {
    fn mac(&self) -> [u8; 6] {
        OWN
    }
    fn mtu(&self) -> u32 {
        1500
    }
    fn offloads(&self) -> Offloads {
        Offloads::default()
    }
    fn transmit(&self, packet: &Packet) -> bool {
        let mut bytes = packet.head.to_vec();
        for part in &packet.parts {
            let mut piece = vec![0; part.len()];
            part.frame.read(part.start, &mut piece);
            bytes.extend(piece);
        }
        assert!(packet.head.len() <= crate::net::device::HEAD_MAX && bytes.len() <= 1514);
        self.out.lock().push(bytes);
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
        &self.queue
    }
    fn counts(&self) -> Counts {
        Counts::default()
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn host() -> (Arc<NetNamespace>, Arc<Wire>, Arc<Nic>) {
    let net = NetNamespace::for_container(UserNamespace::initial());
    let wire = Arc::new(Wire { out: SpinLock::new(Vec::new()), queue: crate::sync::WaitQueue::new() });
    let nic = Nic::new(wire.clone(), 2, &net);
    net.stack().change_interfaces(|all| {
        all.add_device(2, "eth0".into(), nic.clone());
        all.set_up(2, true).unwrap();
        all.add_address(2, Address { ip: ip("192.0.2.7"), prefix: 24 }).unwrap();
        all.add_address(2, Address { ip: ip("2001:db8::7"), prefix: 64 }).unwrap();
    });
    (net, wire, nic)
}

/// A frame for us from the other host.
fn frame(kind: u16, packet: &[u8]) -> Vec<u8> {
    [&OWN[..], &OTHER, &kind.to_be_bytes(), packet].concat()
}

fn packet4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let total = (20 + payload.len()) as u16;
    let mut header = vec![0x45, 0];
    header.extend(total.to_be_bytes());
    header.extend([0, 1, 0, 0, 64, protocol, 0, 0, 192, 0, 2, 9, 192, 0, 2, 7]);
    let sum = checksum_of(&header, 0);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    frame(0x0800, &[&header, payload].concat())
}

fn packet6(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = vec![0x60, 0, 0, 0];
    header.extend((payload.len() as u16).to_be_bytes());
    header.extend([protocol, 64]);
    for address in ["2001:db8::9", "2001:db8::7"] {
        let IpAddr::V6(v6) = ip(address) else { unreachable!() };
        header.extend(v6.octets());
    }
    frame(0x86dd, &[&header, payload].concat())
}

fn arp_reply(nic: &Nic) {
    let body = [&[0, 1, 8, 0, 6, 4, 0, 2][..], &OTHER, &[192, 0, 2, 9], &OWN, &[192, 0, 2, 7]].concat();
    nic.input(&frame(0x0806, &body), false);
}

#[test]
fn a_question_for_our_address_is_answered() {
    let (_net, wire, nic) = host();
    let body = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &OTHER, &[192, 0, 2, 9], &[0; 6], &[192, 0, 2, 7]].concat();
    nic.input(&frame(0x0806, &body), false);
    let out = core::mem::take(&mut *wire.out.lock());
    assert_eq!(out.len(), 1);
    assert_eq!((&out[0][..6], &out[0][20..32]), (&OTHER[..], &[0, 2, 2, 0, 0, 0, 0, 1, 192, 0, 2, 7][..]));
    // Who asked is known now.
    assert_eq!(nic.neighbor(ip("192.0.2.9")).mac(), Some(OTHER));
}

#[test]
fn a_ping_waits_for_the_address_and_is_answered() {
    let (_net, wire, nic) = host();
    let mut ping = vec![8, 0, 0, 0, 1, 2, 0, 3, 9, 9, 9];
    let sum = checksum_of(&ping, 0);
    ping[2..4].copy_from_slice(&sum.to_be_bytes());
    nic.input(&packet4(1, &ping), false);
    // First the question, then the answer.
    assert_eq!(wire.out.lock().len(), 1);
    assert_eq!(wire.out.lock()[0][12..14], [8, 6]);
    arp_reply(&nic);
    let out = wire.out.lock()[1].clone();
    assert_eq!((&out[..6], out[34], checksum_of(&out[34..], 0)), (&OTHER[..], 0, 0));
    assert_eq!(out[38..], ping[4..]);
    assert_eq!(checksum_of(&out[14..34], 0), 0);
}

#[test]
fn nobody_has_the_port() {
    let (_net, wire, nic) = host();
    arp_reply(&nic);
    nic.neighbor(ip("192.0.2.9"));
    let mut udp = vec![0, 5, 0, 9, 0, 9, 0, 0, 1];
    nic.heard(ip("192.0.2.9"), OTHER, false);
    nic.input(&packet4(17, &udp), false);
    let out = wire.out.lock().pop().unwrap();
    assert_eq!((out[23], &out[34..36], out[42]), (1, &[3, 3][..], 0x45));
    // TCP is reset.
    let mut syn = vec![0, 5, 0, 9, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 1, 0, 0, 0, 0, 0];
    let sum = checksum_of(&syn, pseudo_header(ip("192.0.2.9"), ip("192.0.2.7"), 6, syn.len()));
    syn[16..18].copy_from_slice(&sum.to_be_bytes());
    nic.input(&packet4(6, &syn), false);
    let out = wire.out.lock().pop().unwrap();
    assert_eq!((out[23], out[47] & 4, &out[42..46]), (6, 4, &[0, 0, 0, 2][..]));
    // With a wrong checksum there is silence.
    udp[6] = 1;
    syn[16] ^= 1;
    nic.input(&packet4(17, &udp), false);
    nic.input(&packet4(6, &syn), false);
    assert!(wire.out.lock().is_empty());
}

#[test]
fn routes_out() {
    let (net, _wire, nic) = host();
    let route = |to: &str| net.stack().explain(ip(to));
    assert_eq!(route("192.0.2.9"), Ok((2, ip("192.0.2.7"), None, false)));
    assert_eq!(route("192.0.2.7"), Ok((2, ip("192.0.2.7"), None, true)));
    assert_eq!(route("198.51.100.1"), Err(crate::errno::Errno::ENETUNREACH));
    let gateway = super::super::interface::Given {
        to: Address { ip: ip("0.0.0.0"), prefix: 0 },
        gateway: Some(ip("192.0.2.1")),
        interface: 2,
        metric: 0,
        source: None,
        protocol: 3,
    };
    net.stack().change_interfaces(|all| all.add_route(gateway)).unwrap();
    assert_eq!(route("198.51.100.1"), Ok((2, ip("192.0.2.7"), Some(ip("192.0.2.1")), false)));
    assert_eq!(route("192.0.2.9").unwrap().2, None);
    let far = super::super::interface::Given { gateway: Some(ip("10.0.0.1")), metric: 5, ..gateway };
    assert_eq!(
        net.stack().change_interfaces(|all| all.add_route(far)),
        Err(crate::errno::Errno::ENETUNREACH)
    );
    drop(nic);
}

#[test]
fn a_flood_of_requests_is_bounded() {
    let (net, _wire, nic) = host();
    for n in 0..5000u32 {
        let [_, b, c, d] = n.to_be_bytes();
        nic.heard(IpAddr::from([10, b, c, d]), OTHER, false);
    }
    assert!(nic.neighbor_table().len() <= 1024);
    let _ = Network { interfaces: vec![NetworkInterface::default()], ..Network::default() };
    drop(net);
}

proptest! {
    /// Nothing that arrives makes it panic.
    #[test]
    fn any_frames(frames in proptest::collection::vec((0u8..8, proptest::collection::vec(any::<u8>(), 0..200), any::<u8>(), any::<u8>()), 1..40)) {
        let (_net, wire, nic) = host();
        nic.heard(ip("192.0.2.9"), OTHER, false);
        nic.heard(ip("2001:db8::9"), OTHER, false);
        for (kind, body, a, b) in frames {
            let mut frame = match kind {
                0 => frame(0x0806, &body),
                1 => packet4(1, &body),
                2 => packet4(6, &body),
                3 => packet4(17, &body),
                4 => packet6(58, &body),
                5 => packet6(6, &body),
                6 => packet6(44, &body),
                _ => body,
            };
            // One byte of the headers is another.
            if b < 128 && let Some(byte) = frame.get_mut(usize::from(a) % 60) {
                *byte ^= b;
            }
            // Checksums are right, as far as the device says.
            nic.input(&frame, a & 1 == 0);
            nic.poll(&mut Vec::new());
        }
        wire.out.lock().clear();
    }
}
