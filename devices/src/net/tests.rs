//! Frames both ways, and drivers and hosts that do not keep to the rules.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use proptest::prelude::*;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair, sockopt};

use super::device::feature;
use super::frame::{Understood, understand};
use super::policy::{Action, Policy, PolicyError, Range, Rule};
use super::*;
use crate::virtio::VirtioDevice;
use crate::virtio::mock::*;

const NONE: [u8; header::LENGTH] = [0; header::LENGTH];

/// A TAP interface as far as reads and writes go: each is a frame.
fn tap() -> (Backend, OwnedFd) {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (ours, hosts) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    (Backend::tap(ours), hosts)
}

fn stream() -> (Backend, OwnedFd) {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (ours, hosts) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
    (Backend::stream(ours), hosts)
}

fn device(backend: Backend, egress: Option<Policy>, bytes_per_second: Option<u64>) -> Net {
    let config = NetConfig { mac: Mac([2, 0, 0, 0, 0, 1]), mtu: 1500, egress };
    let limits = || Limits::new(bytes_per_second, None).unwrap();
    Net::new(config, backend, limits(), limits()).unwrap()
}

struct Guest {
    driver: MockDriver<Net>,
    host: OwnedFd,
}

impl Guest {
    fn new((backend, host): (Backend, OwnedFd), egress: Option<Policy>) -> Self {
        Self { driver: MockDriver::running(device(backend, egress, None), 64, feature::MRG_RXBUF), host }
    }

    /// Queues a frame in two descriptors.
    fn queue(&mut self, at: u64, header: [u8; header::LENGTH], frame: &[u8]) {
        self.driver.put(at, &header);
        self.driver.put(at + 0x100, frame);
        self.driver.add(device::TX, &[(at, 12, false), (at + 0x100, frame.len() as u32, false)]);
    }

    fn send(&mut self, frame: &[u8]) {
        self.queue(BUFFERS, NONE, frame);
        self.process_tx();
        assert!(self.driver.take_used(device::TX).is_some());
    }

    fn process_tx(&self) {
        self.driver.device.lock().unwrap().process_tx();
    }

    fn process_rx(&self) {
        self.driver.device.lock().unwrap().process_rx();
    }

    fn metrics(&self) -> std::sync::Arc<NetMetrics> {
        self.driver.device.lock().unwrap().metrics()
    }

    /// The host takes little at once.
    fn shrink_send_buffer(&self) {
        let device = self.driver.device.lock().unwrap();
        // SAFETY: the device has the descriptor and lives for the time of the call.
        let socket = unsafe { BorrowedFd::borrow_raw(device.backend.as_raw_fd()) };
        sockopt::set_socket_send_buffer_size(socket, 4096).unwrap();
    }

    /// What the host has got.
    fn at_host(&self) -> Vec<u8> {
        let mut buffer = vec![0; 1 << 20];
        let n = rustix::io::read(&self.host, &mut buffer).unwrap_or(0);
        buffer.truncate(n);
        buffer
    }

    fn give(&self, parts: &[&[u8]]) {
        send(&self.host, &parts.concat(), SendFlags::NOSIGNAL).unwrap();
    }
}

/// An Ethernet header and what follows.
fn ethernet(kind: u16, packet: &[u8]) -> Vec<u8> {
    [&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1][..], &kind.to_be_bytes(), packet].concat()
}

/// With ports, if that is what the protocol has.
fn ip4(to: [u8; 4], protocol: u8, fragment: u16, transport: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 2];
    packet[2..4].copy_from_slice(&(20 + transport.len() as u16).to_be_bytes());
    packet[6..8].copy_from_slice(&fragment.to_be_bytes());
    packet.extend(to);
    packet.extend(transport);
    ethernet(0x0800, &packet)
}

fn ip6(to: &str, next: u8, hops: u8, rest: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 0, next, hops];
    packet[4..6].copy_from_slice(&(rest.len() as u16).to_be_bytes());
    packet.extend(Ipv6Addr::LOCALHOST.octets());
    packet.extend(to.parse::<Ipv6Addr>().unwrap().octets());
    packet.extend(rest);
    ethernet(0x86dd, &packet)
}

/// The beginning of TCP's and UDP's headers.
fn ports(to: u16) -> Vec<u8> {
    [&4000u16.to_be_bytes()[..], &to.to_be_bytes(), &[0; 16]].concat()
}

#[test]
fn a_frame_goes_out_behind_its_header_or_its_length() {
    let frame = ip4([192, 0, 2, 1], 17, 0, &ports(9));
    let mut guest = Guest::new(tap(), None);
    guest.send(&frame);
    assert_eq!(guest.at_host(), [&NONE[..], &frame].concat());
    let mut guest = Guest::new(stream(), None);
    guest.send(&frame);
    assert_eq!(guest.at_host(), [&(frame.len() as u32).to_be_bytes()[..], &frame].concat());
    assert_eq!((guest.metrics().tx_frames.get(), guest.metrics().tx_bytes.get()), (1, frame.len() as u64));
}

#[test]
fn frames_of_no_length_are_dropped() {
    let mut guest = Guest::new(tap(), None);
    guest.send(&[1; 13]);
    guest.driver.add(device::TX, &[(BUFFERS, 5, false)]);
    guest.driver.add(device::TX, &[(BUFFERS, (12 + MAX_FRAME + 1) as u32, false)]);
    guest.driver.add(device::TX, &[(BUFFERS, 64, true)]);
    guest.process_tx();
    assert_eq!(guest.metrics().tx_malformed.get(), 4);
    assert_eq!((0..3).filter(|_| guest.driver.take_used(device::TX).is_some()).count(), 3);
    assert!(guest.at_host().is_empty());
    guest.send(&[1; MAX_FRAME]);
    assert_eq!(guest.at_host().len(), 12 + MAX_FRAME);
}

#[test]
fn a_frame_to_the_guest_lies_in_as_many_buffers_as_it_needs() {
    let mut guest = Guest::new(tap(), None);
    let frame: Vec<u8> = (0..3000).map(|i| i as u8).collect();
    guest.give(&[&NONE, &frame]);
    // Three of four buffers: it waits, and not one is used.
    for n in 0..2 {
        guest.driver.add(device::RX, &[(BUFFERS + n * 1024, 1000, true)]);
    }
    guest.driver.add(device::RX, &[(BUFFERS + 2048, 100, true), (BUFFERS + 2148, 900, true)]);
    guest.process_rx();
    assert_eq!(guest.driver.take_used(device::RX), None);
    guest.driver.add(device::RX, &[(BUFFERS + 3072, 1000, true)]);
    guest.process_rx();
    assert!(guest.driver.interrupted());
    let used: Vec<u32> = std::iter::from_fn(|| guest.driver.take_used(device::RX)).map(|u| u.1).collect();
    assert_eq!(used, [1000, 1000, 1000, 12]);
    assert_eq!(guest.driver.bytes(BUFFERS, 12), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0]);
    let mut got = guest.driver.bytes(BUFFERS + 12, 988);
    got.extend(guest.driver.bytes(BUFFERS + 1024, 1000));
    got.extend(guest.driver.bytes(BUFFERS + 2048, 1000));
    got.extend(guest.driver.bytes(BUFFERS + 3072, 12));
    assert!(got == frame);
}

#[test]
fn without_merging_a_frame_that_does_not_fit_is_dropped() {
    let (backend, host) = tap();
    let mut guest = Guest { driver: MockDriver::running(device(backend, None, None), 64, 0), host };
    guest.give(&[&NONE, &[7; 200]]);
    guest.give(&[&NONE, &[8; 100]]);
    for n in 0..2 {
        guest.driver.add(device::RX, &[(BUFFERS + n * 1024, 112, true)]);
    }
    guest.process_rx();
    assert_eq!(guest.driver.take_used(device::RX), Some((0, 0)));
    assert_eq!(guest.driver.take_used(device::RX), Some((1, 112)));
    assert_eq!(guest.driver.bytes(BUFFERS + 1024 + 12, 100), [8; 100]);
    assert_eq!(guest.metrics().rx_dropped.get(), 1);
}

#[test]
fn a_stream_that_ends_takes_the_link_down_and_nothing_else() {
    let mut guest = Guest::new(stream(), None);
    let link = |guest: &Guest| guest.driver.read(0x104) >> 16 & 1;
    assert_eq!(link(&guest), 1);
    guest.driver.add(device::RX, &[(BUFFERS, 2000, true)]);
    let whole = [5; 60];
    guest.give(&[&60u32.to_be_bytes(), &whole, &60u32.to_be_bytes(), &[6; 30]]);
    rustix::net::shutdown(&guest.host, rustix::net::Shutdown::Both).unwrap();
    guest.process_rx();
    assert_eq!(guest.driver.take_used(device::RX), Some((0, 72)));
    assert_eq!(link(&guest), 0);
    assert_eq!(guest.driver.read(reg::INTERRUPT_STATUS) & 2, 2);
    guest.send(&[1; 60]);
    assert_eq!(guest.metrics().tx_dropped.get(), 1);
    assert_eq!(guest.driver.status(), RUNNING);
}

#[test]
fn a_length_that_no_frame_has_ends_the_stream() {
    for length in [0, 13, MAX_FRAME as u32 + 1, u32::MAX] {
        let mut guest = Guest::new(stream(), None);
        guest.driver.add(device::RX, &[(BUFFERS, 2000, true)]);
        guest.give(&[&length.to_be_bytes(), &[0; 100]]);
        guest.process_rx();
        assert_eq!(guest.driver.take_used(device::RX), None);
        assert_eq!(guest.driver.read(0x104) >> 16 & 1, 0, "{length}");
    }
}

#[test]
fn a_limit_delays_and_loses_nothing() {
    let (backend, host) = tap();
    // At a byte a second nothing is sent while this test runs.
    let net = device(backend, None, Some(1));
    let mut guest = Guest { driver: MockDriver::running(net, 64, feature::MRG_RXBUF), host };
    guest.queue(BUFFERS, NONE, &[1; 60]);
    guest.process_tx();
    guest.driver.add(device::RX, &[(BUFFERS + 0x1000, 2000, true)]);
    guest.give(&[&NONE, &[2; 60]]);
    guest.process_rx();
    assert_eq!(guest.driver.take_used(device::TX), None);
    assert_eq!(guest.driver.take_used(device::RX), None);
    assert_eq!((guest.metrics().tx_throttled.get(), guest.metrics().rx_throttled.get()), (1, 1));
    {
        let mut device = guest.driver.device.lock().unwrap();
        (device.rx_limits, device.tx_limits) = (Limits::default(), Limits::default());
    }
    guest.process_tx();
    guest.process_rx();
    assert_eq!(guest.at_host().len(), 72);
    assert_eq!(guest.driver.take_used(device::RX), Some((0, 72)));
}

#[test]
fn a_driver_that_breaks_a_ring_has_to_reset() {
    let mut guest = Guest::new(tap(), None);
    guest.driver.describe(device::RX, 0, BUFFERS, 100, DESC_WRITE | DESC_NEXT, 0);
    guest.driver.offer(device::RX, 0);
    guest.give(&[&NONE, &[2; 60]]);
    guest.process_rx();
    assert_eq!(guest.driver.status(), RUNNING | NEEDS_RESET);
    assert_eq!(guest.metrics().protocol_errors.get(), 1);
    guest.process_tx();
}

#[test]
fn what_the_host_s_kernel_is_told_of_a_frame_is_checked() {
    let all = feature::CSUM | feature::HOST_TSO4 | feature::HOST_TSO6;
    let header = |flags, gso, segment: u16, start: u16, offset: u16| {
        let mut header = [flags, gso, 54, 0, 0, 0, 0, 0, 0, 0, 9, 9];
        header[4..6].copy_from_slice(&segment.to_le_bytes());
        header[6..8].copy_from_slice(&start.to_le_bytes());
        header[8..10].copy_from_slice(&offset.to_le_bytes());
        header
    };
    let good = header(1, 1, 1448, 34, 16);
    let passed = header::checked(&good, 3000, all).unwrap();
    // The number of buffers is not the guest's to say.
    assert_eq!((&passed[..10], &passed[10..]), (&good[..10], &[0, 0][..]));
    assert_eq!(header::checked(&header(0, 0, 5, 6, 7), 3000, all), Some(NONE));
    // A flag of the other direction is left out.
    assert_eq!(header::checked(&header(2, 0, 0, 0, 0), 3000, all), Some(NONE));
    let bad = [
        (header(1, 1, 1448, 34, 16), feature::CSUM),   // was not offered
        (header(1, 0, 0, 34, 16), 0),                  // was not offered
        (header(0, 1, 1448, 34, 16), all),             // segments without a checksum
        (header(1, 1, 0, 34, 16), all),                // segments of nothing
        (header(1, 1, 1448, 2999, 0), all),            // a checksum across the end
        (header(1, 1, 1448, u16::MAX, u16::MAX), all), // and far beyond
        (header(1, 3, 1448, 34, 16), all),             // UDP fragmentation
        (header(1, 0x81, 1448, 34, 16), all),          // ECN, which was not accepted
        (header(1, 0x80, 1448, 34, 16), all),          // ECN of nothing
    ];
    for (header, features) in bad {
        assert_eq!(header::checked(&header, 3000, features), None, "{header:?}");
    }
}

#[test]
fn addresses_and_ranges_are_read_strictly() {
    assert_eq!("02:00:00:00:00:0a".parse::<Mac>().unwrap().to_string(), "02:00:00:00:00:0a");
    for wrong in [
        "",
        "02:00:00:00:00",
        "02:00:00:00:00:00:00",
        "01:00:00:00:00:00",
        "0:0:0:0:0:2",
        "00:00:00:00:00:00",
        "+2:00:00:00:00:00",
    ] {
        assert!(wrong.parse::<Mac>().is_err(), "{wrong}");
    }
    for range in ["0.0.0.0/0", "10.0.0.0/8", "192.0.2.1/32", "::/0", "fe80::/10", "2001:db8::1/128"] {
        assert_eq!(range.parse::<Range>().unwrap().to_string(), range);
    }
    assert_eq!("192.0.2.1".parse::<Range>().unwrap().to_string(), "192.0.2.1/32");
    for wrong in ["", "/8", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/+8", "::/129", "10.0.0/8", "a/8"] {
        assert!(matches!(wrong.parse::<Range>(), Err(PolicyError::Range(_))), "{wrong}");
    }
    let error = "10.1.0.0/8".parse::<Range>().unwrap_err();
    assert!(error.to_string().contains("write 10.0.0.0/8"));
}

fn policy(json: &str) -> Policy {
    let policy: Policy = serde_json::from_str(json).unwrap();
    policy.check().unwrap();
    policy
}

#[test]
fn the_first_rule_that_matches_decides() {
    let policy = policy(
        r#"{"default": "deny", "rules": [
            {"action": "deny", "to": "192.0.2.7"},
            {"action": "allow", "to": "192.0.2.0/24", "protocol": "tcp", "ports": "80-443"},
            {"action": "allow", "protocol": "icmp"},
            {"action": "deny", "to": "198.51.100.0/24", "ports": "53"},
            {"action": "allow", "to": "198.51.100.0/24"}]}"#,
    );
    let cases = [
        (ip4([192, 0, 2, 1], 6, 0, &ports(80)), true),
        (ip4([192, 0, 2, 1], 6, 0, &ports(443)), true),
        (ip4([192, 0, 2, 1], 6, 0, &ports(444)), false),
        (ip4([192, 0, 2, 1], 17, 0, &ports(80)), false),
        (ip4([192, 0, 2, 7], 6, 0, &ports(80)), false),
        (ip4([192, 0, 3, 1], 6, 0, &ports(80)), false),
        (ip4([192, 0, 2, 1], 1, 0, &[8, 0, 0, 0]), true),
        // A later fragment has no port: a rule with ports does not allow it, and denies it.
        (ip4([192, 0, 2, 1], 6, 1, &ports(80)), false),
        (ip4([198, 51, 100, 1], 17, 0, &ports(54)), true),
        (ip4([198, 51, 100, 1], 17, 0, &ports(53)), false),
        (ip4([198, 51, 100, 1], 17, 2, &ports(54)), false),
        // Ports that are cut off.
        (ip4([198, 51, 100, 1], 17, 0, &[0, 1, 0]), false),
        // A protocol without ports is not on port 53.
        (ip4([198, 51, 100, 1], 47, 0, &ports(53)), true),
    ];
    for (frame, allowed) in cases {
        assert_eq!(policy.allows(&frame), allowed, "{frame:?}");
    }
}

#[test]
fn a_denied_frame_does_not_leave_and_the_next_one_does() {
    let mut guest = Guest::new(tap(), Some(Policy::public(&[], &[])));
    guest.send(&ip4([169, 254, 169, 254], 6, 0, &ports(80)));
    assert!(guest.at_host().is_empty());
    assert_eq!(guest.metrics().tx_denied.get(), 1);
    guest.send(&ip4([9, 9, 9, 9], 6, 0, &ports(80)));
    assert!(!guest.at_host().is_empty());
}

#[test]
fn the_public_policy_keeps_what_is_near_the_host_from_the_guest() {
    let server: IpAddr = Ipv4Addr::new(10, 0, 2, 3).into();
    let policy = Policy::public(&[server], &[Ipv4Addr::new(203, 0, 113, 7).into(), server]);
    policy.check().unwrap();
    let near = [
        [10, 0, 0, 1],
        [127, 0, 0, 1],
        [169, 254, 169, 254],
        [172, 16, 0, 1],
        [172, 31, 255, 255],
        [192, 168, 1, 1],
        [100, 64, 0, 1],
        [0, 0, 0, 0],
        [224, 0, 0, 1],
        [239, 255, 255, 250],
        [255, 255, 255, 255],
        [198, 18, 0, 1],
    ];
    for to in near {
        assert!(!policy.allows(&ip4(to, 6, 0, &ports(80))), "{to:?}");
        // The same address in other clothes.
        let as6 = Ipv4Addr::from(to).to_ipv6_mapped().to_string();
        assert!(!policy.allows(&ip6(&as6, 6, 64, &ports(80))), "{as6}");
        let [a, b, c, d] = to;
        let nat64 = format!("64:ff9b::{a:02x}{b:02x}:{c:02x}{d:02x}");
        assert!(!policy.allows(&ip6(&nat64, 6, 64, &ports(80))), "{nat64}");
    }
    for to in [[1, 1, 1, 1], [172, 15, 255, 255], [172, 32, 0, 0], [100, 128, 0, 1], [223, 255, 255, 255]] {
        assert!(policy.allows(&ip4(to, 6, 0, &ports(80))), "{to:?}");
    }
    for to in [
        "::",
        "::1",
        "::7f00:1",
        "fd00:ec2::254",
        "fe80::1",
        "ff02::fb",
        "fec0::1",
        "2002:7f00:1::",
        "2001::1",
        "64:ff9b:1::a00:1",
    ] {
        assert!(!policy.allows(&ip6(to, 6, 64, &ports(80))), "{to}");
    }
    for to in ["2606:4700::1111", "2001:db9::1", "64:ff9b::101:101"] {
        assert!(policy.allows(&ip6(to, 6, 64, &ports(443))), "{to}");
    }
    // The name server, and nothing else of it.
    assert!(policy.allows(&ip4([10, 0, 2, 3], 17, 0, &ports(53))));
    assert!(policy.allows(&ip4([10, 0, 2, 3], 6, 0, &ports(53))));
    assert!(!policy.allows(&ip4([10, 0, 2, 3], 6, 0, &ports(22))));
    // The host itself, by whatever address.
    assert!(!policy.allows(&ip4([203, 0, 113, 7], 6, 0, &ports(22))));
    let many: Vec<IpAddr> = (0..1000).map(|n| Ipv4Addr::from_bits(0x2d00_0000 + n).into()).collect();
    Policy::public(&[server], &many).check().unwrap();
}

#[test]
fn who_reaches_the_guest_is_answered_and_nobody_else() {
    let mut guest = Guest::new(tap(), Some(Policy::public(&[], &[])));
    let segment = |from: u16, to: u16| [&from.to_be_bytes()[..], &to.to_be_bytes(), &[0; 16]].concat();
    // 10.0.0.2 is the source of `ip4`'s frames: the neighbour here, then the guest.
    let asked = ip4([192, 0, 2, 9], 6, 0, &segment(4000, 80));
    let answer = |protocol, fragment, from, to| ip4([10, 0, 0, 2], protocol, fragment, &segment(from, to));
    guest.send(&answer(6, 0, 80, 4000));
    assert_eq!(guest.metrics().tx_denied.get(), 1, "nobody has asked yet");
    guest.driver.add(device::RX, &[(BUFFERS, 2048, true)]);
    guest.give(&[&NONE, &asked]);
    guest.process_rx();
    assert!(guest.driver.take_used(device::RX).is_some());
    guest.send(&answer(6, 0, 80, 4000));
    assert!(!guest.at_host().is_empty());
    for other in [
        answer(6, 0, 80, 4001),
        answer(6, 0, 81, 4000),
        answer(17, 0, 80, 4000),
        answer(6, 7, 80, 4000),
        ip4([10, 0, 0, 3], 6, 0, &segment(80, 4000)),
    ] {
        guest.send(&other);
        assert!(guest.at_host().is_empty(), "{other:?}");
    }
    guest.driver.device.lock().unwrap().reset();
    assert_eq!(guest.metrics().tx_denied.get(), 6);
}

#[test]
fn the_table_of_who_may_be_answered_is_bounded() {
    let policy = Policy { rules: Vec::new(), default: Action::Deny };
    let mut flows = flows::Flows::default();
    let frame =
        |from: u16| ip4([192, 0, 2, 9], 17, 0, &[&from.to_be_bytes()[..], &[0, 80, 0, 0, 0, 0]].concat());
    let answer = |to: u16| ip4([10, 0, 0, 2], 17, 0, &[&[0, 80][..], &to.to_be_bytes(), &[0; 4]].concat());
    for from in 0..=flows::MAX as u16 {
        flows.arrived(&policy, &frame(from));
        flows.arrived(&policy, &frame(from));
    }
    assert!(!flows.is_answer(&answer(0)), "the oldest has gone");
    assert!(flows.is_answer(&answer(1)) && flows.is_answer(&answer(flows::MAX as u16)));
    flows.forget();
    assert!(!flows.is_answer(&answer(1)));
    // What may be sent in any case is not remembered.
    flows.arrived(&Policy { rules: Vec::new(), default: Action::Allow }, &frame(1));
    assert!(!flows.is_answer(&answer(1)));
}

#[test]
fn the_host_writes_no_other_destination_into_a_frame() {
    let header = |flags: u8, gso: u8, start: u16, offset: u16| {
        let mut header = NONE;
        (header[0], header[1]) = (flags, gso);
        header[2..4].copy_from_slice(&54u16.to_le_bytes());
        header[4..6].copy_from_slice(&100u16.to_le_bytes());
        header[6..8].copy_from_slice(&start.to_le_bytes());
        header[8..10].copy_from_slice(&offset.to_le_bytes());
        header
    };
    let frame = ip4([9, 9, 9, 9], 6, 0, &[&ports(80)[..], &[0; 400]].concat());
    let cases = [
        (header(1, 0, 34, 16), true),
        // Into the destination's address, or its port.
        (header(1, 0, 14, 16), false),
        (header(1, 0, 34, 2), false),
        (header(1, 0, 0, 30), false),
        // Segments, by TCP's header and by what is none: the sequence number would be written over the address.
        (header(1, 1, 34, 16), true),
        (header(1, 1, 26, 16), false),
        (header(1, 1, 34, 4), false),
    ];
    let offloads = feature::MRG_RXBUF | feature::CSUM | feature::HOST_TSO4;
    for (number, (header, sent)) in cases.into_iter().enumerate() {
        for policy in [Some(Policy::public(&[], &[])), None] {
            let sent = sent || policy.is_none();
            let (backend, host) = tap();
            let mut guest =
                Guest { driver: MockDriver::running(device(backend, policy, None), 64, offloads), host };
            guest.queue(BUFFERS, header, &frame);
            guest.process_tx();
            assert_eq!(!guest.at_host().is_empty(), sent, "case {number}");
            assert_eq!(guest.metrics().tx_malformed.get(), u64::from(!sent));
        }
    }
    // By nothing into what belongs to the link.
    assert!(!frame::keeps_its_meaning(&ethernet(0x0806, &[0; 28]), (34, 16), false));
}

#[test]
fn a_link_is_kept_going_and_what_is_not_understood_is_not_sent() {
    let policy = Policy { rules: Vec::new(), default: Action::Deny };
    let open = Policy { rules: Vec::new(), default: Action::Allow };
    let dhcp = [&68u16.to_be_bytes()[..], &67u16.to_be_bytes(), &[0; 4]].concat();
    let dhcp6 = [&546u16.to_be_bytes()[..], &547u16.to_be_bytes(), &[0; 4]].concat();
    let link = [
        ethernet(0x0806, &[0; 28]),
        ip4([255; 4], 17, 0, &dhcp),
        ip6("ff02::1:2", 17, 1, &dhcp6),
        ip6("ff02::1:ff00:1", 58, 255, &[135, 0, 0, 0]),
        ip6("fd00::2", 58, 255, &[136, 0, 0, 0]),
        // A report of a multicast listener, behind the router alert.
        ip6("ff02::16", 0, 1, &[58, 0, 5, 2, 0, 0, 1, 0, 143, 0, 0, 0]),
    ];
    for frame in link {
        assert_eq!(understand(&frame), Understood::Link, "{frame:?}");
        assert!(policy.allows(&frame));
    }
    let mut options = ip4([1, 1, 1, 1], 6, 0, &ports(80));
    options[14] = 0x46;
    let mut too_long = ip4([1, 1, 1, 1], 6, 0, &ports(80));
    too_long[16..18].copy_from_slice(&[0, 19]);
    let not_sent = [
        ethernet(0x8100, &[0; 60]),
        ethernet(0x88a8, &[0; 60]),
        ethernet(46, &[0; 46]),
        vec![0; 13],
        options,
        too_long,
        ethernet(0x0800, &[0x45; 19]),
        ethernet(0x0800, &[0x65; 40]),
        // Routing headers that lead on, types 0 and 4.
        ip6(
            "2606:4700::1",
            43,
            64,
            &[6, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ),
        ip6(
            "2606:4700::1",
            43,
            64,
            &[6, 2, 4, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ),
        // Extension headers beyond the frame, and without an end.
        ip6("2606:4700::1", 60, 64, &[6, 255, 0, 0, 0, 0, 0, 0]),
        ip6("2606:4700::1", 0, 64, &[0; 80]),
        // A router's words: not a guest's.
    ];
    for frame in not_sent {
        assert_eq!(understand(&frame), Understood::Not, "{frame:?}");
        assert!(!open.allows(&frame));
    }
    // Neither is it the link when it comes from afar, or says something else.
    for frame in [
        ip6("fd00::2", 58, 64, &[135, 0, 0, 0]),
        ip6("ff02::1", 58, 255, &[134, 0, 0, 0]),
        ip6("fe80::1", 58, 255, &[137, 0, 0, 0]),
        ip6("2606::1:2", 17, 1, &dhcp6),
        ip4([10, 0, 0, 1], 17, 0, &dhcp),
    ] {
        assert!(!policy.allows(&frame), "{frame:?}");
    }
}

#[test]
fn ports_behind_extension_headers_are_found() {
    let deny =
        policy(r#"{"default": "allow", "rules": [{"action": "deny", "protocol": "tcp", "ports": "25"}]}"#);
    let options = |next: u8| vec![next, 0, 1, 4, 0, 0, 0, 0];
    let fragment = |next: u8, offset: u16| [&[next, 0][..], &(offset << 3).to_be_bytes(), &[0; 4]].concat();
    let chain = [options(60), options(44), fragment(6, 0), ports(25)].concat();
    assert!(!deny.allows(&ip6("2606:4700::1", 0, 64, &chain)));
    let chain = [options(60), options(44), fragment(6, 0), ports(26)].concat();
    assert!(deny.allows(&ip6("2606:4700::1", 0, 64, &chain)));
    // A later fragment of it, and one that may be of it.
    assert!(!deny.allows(&ip6("2606:4700::1", 44, 64, &[fragment(6, 5), ports(26)].concat())));
    assert!(deny.allows(&ip6("2606:4700::1", 44, 64, &[fragment(17, 5), ports(25)].concat())));
    // The authentication header counts in other units.
    let authentication = [&[6, 4][..], &[0; 22]].concat();
    assert!(!deny.allows(&ip6("2606:4700::1", 51, 64, &[authentication, ports(25)].concat())));
}

#[test]
fn policies_that_say_nothing_sensible_are_refused() {
    let rule = |protocol: &str| {
        format!(
            r#"{{"default": "deny", "rules": [{{"action": "allow", "protocol": "{protocol}", "ports": "1-2"}}]}}"#
        )
    };
    let parsed: Policy = serde_json::from_str(&rule("icmp")).unwrap();
    assert_eq!(parsed.check(), Err(PolicyError::PortsOfWhat));
    assert!(serde_json::from_str::<Policy>(&rule("256")).is_err());
    assert!(serde_json::from_str::<Rule>(r#"{"action": "allow", "ports": "2-1"}"#).is_err());
    assert!(serde_json::from_str::<Rule>(r#"{"action": "allow", "form": "10.0.0.0/8"}"#).is_err());
    let one = Rule { action: Action::Deny, to: None, protocol: None, ports: None };
    let many = Policy { rules: vec![one; policy::MAX_RULES + 1], default: Action::Allow };
    assert_eq!(many.check(), Err(PolicyError::TooMany));
    // What is written is what is read.
    let policy = Policy::public(&[Ipv4Addr::new(10, 0, 2, 3).into()], &[]);
    let text = serde_json::to_string(&policy).unwrap();
    assert_eq!(serde_json::from_str::<Policy>(&text).unwrap(), policy);
}

proptest! {
    /// Whatever a frame holds, and wherever it is cut off, looking at it ends; and a frame that is cut off goes to where the
    /// whole one goes, or nowhere.
    #[test]
    fn frames_of_any_bytes_are_understood_or_not(mut frame in prop::collection::vec(any::<u8>(), 0..200), kind in 0..3usize) {
        if let (Some(at), Some(kind)) = (frame.get_mut(12..14), [[8, 0], [0x86, 0xdd]].get(kind)) {
            at.copy_from_slice(kind);
            if let Some(version) = frame.get_mut(14) {
                *version = if kind[0] == 8 { 0x45 } else { 0x60 };
            }
        }
        if let Understood::To(whole) = understand(&frame) {
            for cut in 0..frame.len() {
                if let Understood::To(part) = understand(&frame[..cut]) {
                    prop_assert_eq!((part.address, part.protocol), (whole.address, whole.protocol));
                    prop_assert!(part.port.is_none() || part.port == whole.port);
                }
            }
        }
    }

    /// What reaches the host's kernel names nothing beyond the frame.
    #[test]
    fn headers_of_any_bytes_are_checked(header: [u8; header::LENGTH], frame in MIN_FRAME..3000, features: u64) {
        if let Some(out) = header::checked(&header, frame, features) {
            let half = |at: usize| usize::from(u16::from_le_bytes([out[at], out[at + 1]]));
            prop_assert!(out[0] == 0 || half(6) + half(8) + 2 <= frame);
            prop_assert!(out[1] == 0 || (out[0] == 1 && half(4) > 0 && half(2) <= frame));
        }
    }

    /// Frames come through a stream as they are, in their order, however little of them the host takes and gives at once.
    #[test]
    fn streams_keep_frames(lengths in prop::collection::vec(MIN_FRAME..9000, 1..20), piece in 1..5000usize) {
        let mut guest = Guest::new(stream(), None);
        guest.shrink_send_buffer();
        let frames: Vec<Vec<u8>> = lengths.iter().enumerate().map(|(i, &n)| vec![i as u8; n]).collect();
        let mut expected = Vec::new();
        for (i, frame) in frames.iter().enumerate() {
            expected.extend((frame.len() as u32).to_be_bytes());
            expected.extend(frame);
            guest.queue(BUFFERS + 0x4000 * i as u64, NONE, frame);
        }
        let mut got = Vec::new();
        while got.len() < expected.len() {
            guest.process_tx();
            got.extend(guest.at_host());
        }
        prop_assert!(got == expected);

        // And back, in pieces.
        let (mut back, mut offered) = (Vec::new(), false);
        let mut rest = &expected[..];
        while back.len() < frames.len() {
            let n = piece.min(rest.len());
            let sent = send(&guest.host, &rest[..n], SendFlags::NOSIGNAL).unwrap_or(0);
            rest = &rest[sent..];
            if !offered {
                guest.driver.add(device::RX, &[(BUFFERS, 16384, true)]);
                offered = true;
            }
            guest.process_rx();
            if let Some((_, length)) = guest.driver.take_used(device::RX) {
                back.push(guest.driver.bytes(BUFFERS + 12, length as usize - 12));
                offered = false;
            }
        }
        prop_assert!(back == frames);
    }
}
