use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::{collections::BTreeSet, net::Ipv4Addr};

use proptest::prelude::*;

use super::*;

#[derive(Default)]
struct Fake {
    address: bool,
    port: bool,
    listens: AtomicBool,
    uid: u32,
}

impl Holder for Fake {
    fn reuses_address(&self) -> bool {
        self.address
    }
    fn reuses_port(&self) -> bool {
        self.port
    }
    fn is_listening(&self) -> bool {
        self.listens.load(Relaxed)
    }
    fn uid(&self) -> u32 {
        self.uid
    }
}

fn bound(ip: &str) -> Bound {
    match ip.strip_suffix(" only") {
        Some(ip) => Bound { ip: ip.parse().unwrap(), only6: true, remote: None },
        None => Bound { ip: ip.parse().unwrap(), only6: false, remote: None },
    }
}

fn plain() -> Arc<Fake> {
    Arc::default()
}

#[test]
fn addresses_overlap_as_on_linux() {
    for (a, b, both) in [
        ("127.0.0.1", "127.0.0.1", true),
        ("127.0.0.1", "127.0.0.2", false),
        ("127.0.0.1", "0.0.0.0", true),
        ("0.0.0.0", "0.0.0.0", true),
        ("::", "0.0.0.0", true),
        ("::", "127.0.0.1", true),
        (":: only", "0.0.0.0", false),
        (":: only", "127.0.0.1", false),
        ("::", "::1", true),
        ("::1", "127.0.0.1", false),
        ("::1", "0.0.0.0", false),
        ("::1 only", ":: only", true),
    ] {
        let (x, y) = (bound(a), bound(b));
        assert_eq!((x.overlaps(&y), y.overlaps(&x)), (both, both), "{a} and {b}");
    }
}

#[test]
fn a_port_is_given_once() {
    let mut ports = Ports::default();
    let (a, b) = (plain(), plain());
    let ticket = ports.claim(80, bound("0.0.0.0"), &a).unwrap();
    assert_eq!(ports.claim(80, bound("127.0.0.1"), &b), Err(Errno::EADDRINUSE));
    assert!(ports.claim(80, bound(":: only"), &b).is_ok());
    assert!(ports.claim(81, bound("0.0.0.0"), &b).is_ok());
    ports.release(ticket);
    assert!(ports.claim(80, bound("127.0.0.1"), &b).is_ok());
}

#[test]
fn the_dead_have_no_claims() {
    let mut ports = Ports::default();
    ports.claim(80, bound("0.0.0.0"), &plain()).unwrap();
    assert!(ports.claim(80, bound("0.0.0.0"), &plain()).is_ok());
}

#[test]
fn reusing_addresses_is_up_to_both_and_one_listens() {
    let mut ports = Ports::default();
    let new = |address| Arc::new(Fake { address, ..Fake::default() });
    let (a, b, c) = (new(true), new(true), new(false));
    let ta = ports.claim(80, bound("0.0.0.0"), &a).unwrap();
    assert_eq!(ports.claim(80, bound("0.0.0.0"), &c), Err(Errno::EADDRINUSE));
    let tb = ports.claim(80, bound("127.0.0.1"), &b).unwrap();
    assert_eq!(ports.may_listen(ta, &a), Ok(()));
    a.listens.store(true, Relaxed);
    assert_eq!(ports.may_listen(tb, &b), Err(Errno::EADDRINUSE));
    assert_eq!(ports.claim(80, bound("127.0.0.1"), &new(true)), Err(Errno::EADDRINUSE));
}

#[test]
fn reusing_ports_is_among_sockets_of_one_user() {
    let mut ports = Ports::default();
    let new = |uid| {
        let fake = Arc::new(Fake { port: true, uid, ..Fake::default() });
        fake.listens.store(true, Relaxed);
        fake
    };
    let (a, b, c) = (new(1), new(1), new(2));
    ports.claim(80, bound("0.0.0.0"), &a).unwrap();
    ports.claim(80, bound("0.0.0.0"), &b).unwrap();
    assert_eq!(ports.claim(80, bound("0.0.0.0"), &c), Err(Errno::EADDRINUSE));
    let to = IpAddr::V4(Ipv4Addr::LOCALHOST);
    assert_eq!(ports.best(80, |bound, _| bound.fits(to)).len(), 2);
}

#[test]
fn the_closest_binding_is_found() {
    let mut ports = Ports::default();
    let holders: Vec<Arc<Fake>> =
        (0..3).map(|_| Arc::new(Fake { address: true, ..Fake::default() })).collect();
    for (holder, ip) in holders.iter().zip(["::", "0.0.0.0", "127.0.0.1"]) {
        ports.claim(80, bound(ip), holder).unwrap();
    }
    let found = |to: &str| {
        let to: IpAddr = to.parse().unwrap();
        let best = ports.best(80, |bound, _| bound.fits(to));
        holders.iter().position(|h| Arc::ptr_eq(h, &best[0])).unwrap()
    };
    assert_eq!((found("127.0.0.1"), found("127.0.0.2"), found("::1")), (2, 1, 0));
}

#[test]
fn what_was_accepted_has_the_port_and_is_not_found() {
    let mut ports = Ports::default();
    let (listener, accepted) = (plain(), plain());
    let first = ports.claim(80, bound("0.0.0.0"), &listener).unwrap();
    let second = ports.inherit(80, bound("127.0.0.1"), &accepted);
    let to: IpAddr = "127.0.0.1".parse().unwrap();
    assert!(Arc::ptr_eq(&ports.best(80, |bound, _| bound.fits(to))[0], &listener));
    ports.release(first);
    assert!(ports.best(80, |bound, _| bound.fits(to)).is_empty());
    assert_eq!(
        (ports.claim(80, bound("127.0.0.1"), &plain()), ports.all().len()),
        (Err(Errno::EADDRINUSE), 1)
    );
    ports.release(second);
    assert!(ports.claim(80, bound("127.0.0.1"), &plain()).is_ok());
}

#[test]
fn a_peer_is_heard_by_who_is_connected_with_him() {
    let mut ports = Ports::default();
    let holders: Vec<Arc<Fake>> =
        (0..2).map(|_| Arc::new(Fake { address: true, ..Fake::default() })).collect();
    let to: IpAddr = "127.0.0.1".parse().unwrap();
    let peer = |port| Endpoint { ip: to, port };
    ports.claim(80, Bound { remote: Some(peer(7)), ..bound("127.0.0.1") }, &holders[0]).unwrap();
    ports.claim(80, bound("127.0.0.1"), &holders[1]).unwrap();
    let heard = |from| {
        let best = ports.best(80, |bound, _| bound.hears(to, peer(from)));
        holders.iter().position(|h| Arc::ptr_eq(h, &best[0])).unwrap()
    };
    assert_eq!((heard(7), heard(8)), (0, 1));
    assert_eq!(ports.at(80, |bound| bound.fits(to).is_some()).len(), 2);
}

#[test]
fn connections_share_ports_if_they_go_elsewhere() {
    let mut ports = Ports::default();
    let all = [plain(), plain(), plain()];
    let [a, b, c] = &all;
    let any = bound("0.0.0.0");
    let first = ports.claim_for_connection(5..=5, 0, any, a, |_| true).unwrap();
    assert_eq!(ports.claim_for_connection(5..=5, 9, any, b, |_| true), Ok(Ticket { port: 5, number: 2 }));
    assert_eq!(ports.claim_for_connection(5..=5, 9, any, c, |_| false), Err(Errno::EADDRNOTAVAIL));
    assert_eq!(ports.claim_free(5..=5, 0, any, c), Err(Errno::EADDRINUSE));
    ports.release(first);
    assert_eq!(ports.claim(5, any, c), Err(Errno::EADDRINUSE));
}

proptest! {
    #[test]
    fn every_port_is_tried_once(first in 1u16..60_000, count in 1u16..500, at: u64, parity in 0u64..2) {
        let range = first..=first + (count - 1);
        let tried: Vec<u16> = search(range.clone(), at, parity).collect();
        let set: BTreeSet<u16> = tried.iter().copied().collect();
        prop_assert_eq!(tried.len(), usize::from(count));
        prop_assert_eq!(set, range.collect());
    }

    /// No two that do not share have the same port, whatever happens.
    #[test]
    fn plain_sockets_never_overlap(steps in proptest::collection::vec((0usize..4, 0u16..3, any::<bool>()), 1..60)) {
        const IPS: [&str; 4] = ["127.0.0.1", "0.0.0.0", "::", ":: only"];
        let mut ports = Ports::default();
        let mut held: Vec<(Ticket, Bound, Arc<Fake>)> = Vec::new();
        for (ip, port, end) in steps {
            if end && !held.is_empty() {
                let (ticket, ..) = held.remove(ip % held.len());
                ports.release(ticket);
                continue;
            }
            let (new, at) = (plain(), bound(IPS[ip]));
            let free = held.iter().all(|(t, b, _)| t.port != port || !b.overlaps(&at));
            match ports.claim(port, at, &new) {
                Ok(ticket) => {
                    prop_assert!(free);
                    held.push((ticket, at, new));
                }
                Err(e) => prop_assert!(!free && e == Errno::EADDRINUSE),
            }
        }
        prop_assert_eq!(ports.all().len(), held.len());
    }
}
