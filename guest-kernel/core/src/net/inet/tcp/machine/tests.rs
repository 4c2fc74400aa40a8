//! Two machines, joined by a wire that loses, doubles and reorders.

use alloc::{collections::BTreeMap, vec, vec::Vec};

use proptest::prelude::*;
use smoltcp::wire::{TcpControl, TcpRepr};

use super::*;
use crate::io::{Sink, Source};

/// What is on its way: when it arrives, to whom, what.
struct Flying {
    header: TcpRepr<'static>,
    bytes: Vec<u8>,
}

struct Wire {
    now: u64,
    order: u64,
    flying: BTreeMap<(u64, u64), (usize, Flying)>,
    seed: u64,
    /// In 256ths: lost, doubled, late.
    faults: [u64; 3],
    delay: u64,
    most: usize,
    sent: usize,
}

impl Wire {
    fn random(&mut self) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        self.seed >> 16
    }

    fn put(&mut self, to: usize, header: TcpRepr<'static>, bytes: Vec<u8>) {
        self.sent += 1;
        let [lost, doubled, late] = self.faults;
        if self.random() % 256 < lost {
            return;
        }
        let copies = if self.random() % 256 < doubled { 2 } else { 1 };
        for _ in 0..copies {
            let extra = if self.random() % 256 < late { self.random() % (3 * self.delay + 1) } else { 0 };
            self.order += 1;
            self.flying.insert(
                (self.now + self.delay + extra, self.order),
                (to, Flying { header, bytes: bytes.clone() }),
            );
        }
    }
}

struct Host {
    machine: Machine,
    staging: Stream,
    inbound: Stream,
    given: usize,
    to_give: Vec<u8>,
    got: Vec<u8>,
    reads: bool,
}

impl Host {
    fn new(machine: Machine, to_give: Vec<u8>) -> Host {
        let empty = Stream::default;
        Host { machine, staging: empty(), inbound: empty(), given: 0, to_give, got: Vec::new(), reads: true }
    }

    /// The program does what it can.
    fn work(&mut self, now: u64) {
        let m = &mut self.machine;
        let room = m.send_buffer.saturating_sub(m.queued());
        let left = &self.to_give[self.given..];
        let n = room.min(left.len());
        if n > 0 && matches!(m.state, State::Established | State::CloseWait) {
            self.staging.fill(&mut Source::kernel(&left[..n]), n).unwrap();
            self.staging.hand_over(|part| m.push(part, false).unwrap());
            self.given += n;
        }
        if self.given == self.to_give.len() && m.state != State::SynSent {
            m.finish();
        }
        if self.reads {
            m.arrived.hand_over(|part| self.inbound.append(part));
            let old = self.got.len();
            self.got.resize(old + m.unread(), 0);
            let n = self.inbound.drain(&mut Sink::kernel(&mut self.got[old..]), usize::MAX).unwrap();
            m.read(now, n);
        }
    }

    fn output(&mut self, wire: &mut Wire, to: usize) {
        let (now, most) = (wire.now, wire.most);
        self.machine.output(now, most, &mut |out| {
            let mut bytes = Vec::new();
            for part in &out.parts {
                let mut piece = vec![0; part.len()];
                part.frame.read(part.start, &mut piece);
                bytes.extend(piece);
            }
            assert_eq!(bytes.len(), out.len);
            let cut = usize::from(out.cut.unwrap_or(u16::MAX));
            assert!(out.len <= cut || out.cut.is_some());
            let mut header = out.header;
            if bytes.is_empty() {
                wire.put(to, header, bytes);
                return true;
            }
            let count = bytes.chunks(cut).count();
            for (i, chunk) in bytes.chunks(cut).enumerate() {
                let mut own = header;
                if i + 1 < count {
                    own.control = TcpControl::None;
                }
                wire.put(to, own, chunk.to_vec());
                header.seq_number += chunk.len();
            }
            true
        });
    }
}

fn handshake(seed: u64, scaled: bool, options: bool, mss: (u16, u16)) -> (Machine, TcpRepr<'static>) {
    let mut client = Machine::connecting((1000, 80), seed as u32, mss.0, knobs(), (16_384, 131_072));
    if !options {
        client.opening.timestamp = None;
        client.opening.sack = false;
    }
    let mut syn = None;
    client.output(0, 0, &mut |out| {
        syn = Some(out.header);
        true
    });
    let mut syn = syn.unwrap();
    if !scaled {
        syn.window_scale = None;
    }
    (client, syn)
}

fn knobs() -> Knobs {
    Knobs { syn_count: 6, linger2: 60 * SECOND, ..Knobs::default() }
}

/// Runs a connection to its end; what both have got, and how many segments it took.
fn converse(
    seed: u64,
    faults: [u64; 3],
    delay: u64,
    most: usize,
    style: (bool, bool),
    texts: (Vec<u8>, Vec<u8>),
) -> (Vec<u8>, Vec<u8>, usize, u64) {
    let (client, syn) = handshake(seed, style.0, style.1, (1460, 1400));
    let opening = Opening::of((seed >> 32) as u32, &syn);
    let mut wire = Wire {
        now: 1_000_000,
        order: 0,
        flying: BTreeMap::new(),
        seed: seed | 1,
        faults,
        delay,
        most,
        sent: 0,
    };
    let server = Machine::accepted((80, 1000), opening, 1400, knobs(), (16_384, 131_072), wire.now);
    // The answer to the SYN, which arrives.
    let mut answer = server.reset();
    answer.control = TcpControl::Syn;
    answer.seq_number = smoltcp::wire::TcpSeqNumber(opening.iss as i32);
    answer.ack_number = Some(syn.seq_number + 1);
    answer.window_len = 65_535;
    answer.window_scale = opening.scale.map(|_| SCALE);
    answer.max_seg_size = Some(1400);
    answer.sack_permitted = opening.sack;
    answer.timestamp = opening.timestamp.map(|t| smoltcp::wire::TcpTimestampRepr::new(1, t));
    let mut hosts = [Host::new(client, texts.0), Host::new(server, texts.1)];
    assert_eq!(hosts[0].machine.on_segment(wire.now, &answer), Answer::None);
    assert!(hosts[0].machine.events.connected);
    for step in 0.. {
        assert!(
            step < 100_000,
            "it does not end: {:?} {:?} {} {}",
            hosts.each_ref().map(|h| (h.machine.state, h.machine.una, h.machine.max, h.machine.end())),
            hosts.each_ref().map(|h| (
                h.machine.next,
                h.machine.unread,
                h.machine.deadline(),
                h.machine.window
            )),
            wire.now,
            wire.flying.len()
        );
        for (i, host) in hosts.iter_mut().enumerate() {
            host.work(wire.now);
            host.output(&mut wire, 1 - i);
        }
        if hosts.iter().all(|h| h.machine.is_over()) {
            break;
        }
        let timers = hosts.iter().map(|h| h.machine.deadline()).min().unwrap();
        let arrival = wire.flying.first_key_value().map_or(NEVER, |(k, _)| k.0);
        assert!(timers.min(arrival) != NEVER, "nothing will happen");
        wire.now = wire.now.max(timers.min(arrival));
        while let Some(entry) = wire.flying.first_entry()
            && entry.key().0 <= wire.now
        {
            let (to, flying) = entry.remove();
            let segment = TcpRepr { payload: &flying.bytes, ..flying.header };
            match hosts[to].machine.on_segment(wire.now, &segment) {
                Answer::None | Answer::Reset(_) => {}
                Answer::Reopened => panic!("nobody asks again"),
            }
        }
        for host in &mut hosts {
            host.machine.on_timer(wire.now);
        }
    }
    hosts.iter_mut().for_each(|h| h.work(wire.now));
    let [a, b] = hosts;
    // Who was the last to say something may wait in vain for the other, who has left.
    for (host, other) in [(&a, &b), (&b, &a)] {
        let alone = host.machine.state == State::Closed && other.machine.fin && other.machine.is_done();
        assert!(host.machine.error.is_none() || alone, "{:?}", host.machine.error);
    }
    (a.got, b.got, wire.sent, wire.now)
}

fn text(len: usize, salt: u8) -> Vec<u8> {
    (0..len).map(|i| (i as u32).wrapping_mul(2_654_435_761).to_le_bytes()[2] ^ salt).collect()
}

#[test]
fn a_clean_wire_needs_few_segments() {
    let (a, b) = (text(1 << 20, 1), text(1000, 2));
    let (got_a, got_b, sent, took) = converse(7, [0; 3], 1_000_000, 0, (true, true), (a.clone(), b.clone()));
    assert!(got_a == b && got_b == a);
    // 756 segments of data, at most as many acknowledgements.
    assert!(sent < 1400, "{sent}");
    assert!(took < SECOND, "{took}");
}

#[test]
fn large_segments_are_cut_by_the_device() {
    let a = text(1 << 20, 1);
    let (_, got, ..) = converse(9, [2, 2, 2], 500_000, 65_000, (true, true), (a.clone(), Vec::new()));
    assert!(got == a);
}

#[test]
fn one_in_a_hundred_lost_is_repaired_without_the_timer() {
    let a = text(2 << 20, 1);
    let (_, got, _, took) = converse(11, [3, 0, 0], 5_000_000, 0, (true, true), (a.clone(), Vec::new()));
    assert!(got == a);
    assert!(took < 8 * SECOND, "{took}");
}

#[test]
fn nobody_answers() {
    let (mut client, _) = handshake(3, true, true, (1460, 1460));
    let mut count = 0;
    loop {
        let at = client.deadline();
        if at == NEVER {
            break;
        }
        client.on_timer(at);
        client.output(at, 0, &mut |out| {
            count += usize::from(out.header.control == TcpControl::Syn);
            true
        });
    }
    assert_eq!((client.state, client.error, count), (State::Closed, Some(Errno::ETIMEDOUT), 6));
}

#[test]
fn a_refusal() {
    let (mut client, syn) = handshake(3, true, true, (1460, 1460));
    let Answer::Reset(reset) = Machine::refusal(&syn) else { panic!() };
    assert_eq!(client.on_segment(5, &reset), Answer::None);
    assert_eq!((client.state, client.error), (State::Closed, Some(Errno::ECONNREFUSED)));
    assert_eq!(Machine::refusal(&reset), Answer::None);
}

#[test]
fn a_reset_has_to_be_exact() {
    let (_, syn) = handshake(3, true, true, (1460, 1460));
    let mut m = Machine::accepted((80, 1000), Opening::of(5, &syn), 1460, knobs(), (16_384, 131_072), 0);
    let mut reset = TcpRepr { control: TcpControl::Rst, window_scale: None, ..syn };
    reset.seq_number = syn.seq_number + 2;
    m.on_segment(1, &reset);
    assert_eq!((m.state, m.ack_now), (State::Established, true));
    reset.seq_number = syn.seq_number + 1;
    m.on_segment(1, &reset);
    assert_eq!((m.state, m.error), (State::Closed, Some(Errno::ECONNRESET)));
}

#[test]
fn a_closed_window_is_asked_about() {
    let (_, syn) = handshake(3, true, true, (1460, 1460));
    let mut m = Machine::accepted((80, 1000), Opening::of(5, &syn), 1460, knobs(), (16_384, 131_072), 0);
    m.window = 0;
    let mut staging = Stream::default();
    staging.fill(&mut Source::kernel(b"abc"), 3).unwrap();
    staging.hand_over(|part| m.push(part, false).unwrap());
    let mut probes = 0;
    for _ in 0..8 {
        m.output(m.heard, 0, &mut |_| panic!("nothing may be sent"));
        let at = m.deadline();
        assert!(at != NEVER);
        m.on_timer(at);
        m.heard = at;
        m.output(at, 0, &mut |out| {
            assert_eq!(out.len, 0);
            probes += 1;
            true
        });
    }
    assert_eq!(probes, 8);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever happens on the way, what arrives is what was sent, and the connection ends.
    #[test]
    fn what_is_sent_arrives(
        seed: u64,
        faults in [0u64..60, 0u64..60, 0u64..100],
        delay in 1_000u64..50_000_000,
        big: bool, scaled: bool, options: bool,
        lens in (0usize..200_000, 0usize..200_000),
    ) {
        let (a, b) = (text(lens.0, 1), text(lens.1, 2));
        let most = if big { 65_000 } else { 0 };
        let (got_a, got_b, ..) = converse(seed, faults, delay, most, (scaled, options), (a.clone(), b.clone()));
        prop_assert!(got_a == b && got_b == a);
    }

    /// No segment makes it panic, or take more than it may.
    #[test]
    fn any_segments(
        segments in proptest::collection::vec(
            (0u8..5, any::<i8>(), any::<u8>(), any::<i8>(), any::<u16>(), 0usize..3000, any::<bool>(), any::<[i16; 4]>()),
            1..200,
        ),
    ) {
        let (_, syn) = handshake(3, true, true, (1460, 1460));
        let mut m = Machine::accepted((80, 1000), Opening::of(5, &syn), 1460, knobs(), (4096, 8192), 0);
        let payload = [7; 3000];
        let mut now = 0;
        for (control, near, far, ack, window, len, stamped, ranges) in segments {
            now += u64::from(far) * 3_000_000;
            let seq = m.their_number(m.next).wrapping_add((i32::from(near) * i32::from(far) * 7) as u32);
            let ack = m.number(m.max).wrapping_add((i32::from(ack) / 16) as u32);
            let at = |n: i16| ack.wrapping_add(i32::from(n) as u32);
            let [a, b, c, d] = ranges;
            let segment = TcpRepr {
                control: [TcpControl::None, TcpControl::Psh, TcpControl::Fin, TcpControl::Rst, TcpControl::Syn][usize::from(control)],
                seq_number: smoltcp::wire::TcpSeqNumber(seq as i32),
                ack_number: Some(smoltcp::wire::TcpSeqNumber(ack as i32)),
                window_len: window,
                timestamp: stamped.then(|| smoltcp::wire::TcpTimestampRepr::new(now as u32, 1)),
                sack_ranges: [Some((at(a), at(b))), Some((at(c), at(d))), None],
                payload: &payload[..len],
                ..syn
            };
            m.on_segment(now, &segment);
            if len % 3 == 0 {
                let mut staging = Stream::default();
                let _ = staging.fill(&mut Source::kernel(&payload), len);
                staging.hand_over(|part| m.push(part, len % 2 == 0).unwrap());
            }
            m.output(now, 9000, &mut |_| len % 5 != 0);
            m.on_timer(now);
            let beyond: usize = m.beyond.values().map(Vec::len).sum();
            prop_assert!(m.unread <= 8192 + 128 && beyond <= 8192 * 2, "{} {beyond}", m.unread);
        }
    }
}
