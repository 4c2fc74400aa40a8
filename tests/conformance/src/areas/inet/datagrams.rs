//! Datagrams and pings.

use super::*;

pub(super) fn datagrams(t: &mut T) {
    network();
    for ip in ["127.0.0.1", "::1"] {
        let (a, b) = (socket(family_of(ip), DGRAM), socket(family_of(ip), DGRAM));
        bind_to(a, ip, 7000);
        say!(t, "{} {} {}", send_to(b, "one", ip, 7000), recv_from(a), name_of(b));
        say!(t, "{} {}", connect_to(b, ip, 7000), name_of(b));
        say!(t, "{} {} {}", send(b, "two", 0), send(b, "", 0), peer_of(b));
        say!(t, "{} {} {}", recv_from(a), recv_from(a), recv_from(a));
        send(b, "long one", 0);
        send(b, "long two", 0);
        say!(t, "{} {}", bytes_in(a, 0x541b), poll(a, ALL, 0));
        say!(t, "{} {}", recv(a, 4, libc::MSG_PEEK), recv(a, 4, libc::MSG_TRUNC));
        say!(t, "{} {}", recv(a, 4, libc::MSG_PEEK | libc::MSG_TRUNC), recv(a, 0, 0));
        say!(t, "{} {}", recv(a, 4, DONTWAIT), bytes_in(a, 0x5411));
        // A connected one hears only its peer.
        let c = socket(family_of(ip), DGRAM);
        let port = port_of(b);
        say!(t, "{} {}", send_to(c, "stranger", ip, port), recv(b, 9, DONTWAIT));
        say!(t, "{} {}", send_to(a, "peer", ip, port), recv(b, 9, DONTWAIT));
        show!(t, connect, b, p(&[0u8; 16]), 16);
        say!(t, "{} {} {}", peer_of(b), name_of(b).contains("some"), send(b, "x", 0));
        for fd in [a, b, c] {
            must!(close, fd);
        }
    }
    let s = socket(V4, DGRAM);
    say!(t, "itself: {} {}", bind_to(s, "127.0.0.1", 7001), send_to(s, "me", "127.0.0.1", 7001));
    say!(t, "{}", recv_from(s));
    say!(t, "any: {} {}", send_to(s, "me", "0.0.0.0", 7001), recv_from(s));
    show!(t, recvfrom, s, hole(), 1, DONTWAIT, 0, 0);
    send_to(s, "lost", "127.0.0.1", 7001);
    show!(t, recvfrom, s, hole(), 1, DONTWAIT, 0, 0);
    say!(t, "{}", recv_from(s));
}

pub(super) fn datagram_errors(t: &mut T) {
    network();
    for ip in ["10.0.0.1", "224.0.0.1", "255.255.255.255", "127.255.255.255", "2001:db8::1", "fe80::1", "ff02::1"] {
        let s = socket(family_of(ip), DGRAM);
        say!(t, "{ip}: {} {}", send_to(s, "x", ip, 7000), connect_to(s, ip, 7000));
    }
    let s = socket(V4, DGRAM);
    let four = address("127.0.0.1", 7000);
    let six = address("::1", 7000);
    show!(t, sendto, s, p("x"), 1, 0, p(&four[..]), 15);
    show!(t, sendto, s, p("x"), 1, 0, p(&six[..]), 28);
    show!(t, sendto, s, p("x"), 1, 0, 0, 0);
    show!(t, sendto, s, hole(), 1, 0, p(&four[..]), 16);
    show!(t, connect, s, p(&four[..]), 15);
    show!(t, connect, s, p(&four[..]), 1);
    show!(t, connect, s, p(&six[..]), 28);
    say!(t, "port 0: {} {} {}", send_to(s, "x", "127.0.0.1", 0), connect_to(s, "127.0.0.1", 0), peer_of(s));
    say!(t, "{}", send(s, "x", 0));
    let s = socket(V6, DGRAM);
    show!(t, sendto, s, p("x"), 1, 0, p(&six[..]), 23);
    say!(t, "{} {}", bind_to(s, "::1", 0), send_to(s, "x", "::1", 0));
}

pub(super) fn datagram_refused(t: &mut T) {
    network();
    for ip in ["127.0.0.1", "::1"] {
        let s = socket(family_of(ip), DGRAM);
        say!(t, "unconnected: {} {} {}", send_to(s, "x", ip, 7000), poll(s, ALL, 20), recv(s, 1, DONTWAIT));
        connect_to(s, ip, 7000);
        say!(t, "{} {}", send(s, "x", 0), poll(s, ALL, 20));
        say!(t, "{} {} {}", error_of(s), error_of(s), poll(s, ALL, 0));
        send(s, "x", 0);
        poll(s, 0, 20);
        say!(t, "{} {} {}", send(s, "x", 0), { poll(s, 0, 20); recv(s, 1, DONTWAIT) }, recv(s, 1, DONTWAIT));
        say!(t, "{}", { send(s, "x", 0); poll(s, 0, 20); recv(s, 1, 0) });
    }
}

pub(super) fn datagram_states(t: &mut T) {
    network();
    let (a, b) = (socket(V4, DGRAM), socket(V4, DGRAM));
    say!(t, "new {}", poll(a, 0x2fff, 0));
    bind_to(a, "127.0.0.1", 7000);
    show!(t, shutdown, a, 0);
    say!(t, "{} {}", poll(a, ALL, 0), recv(a, 1, DONTWAIT));
    connect_to(b, "127.0.0.1", 7000);
    say!(t, "{} {}", send(b, "x", 0), recv(a, 9, DONTWAIT));
    show!(t, shutdown, b, 1);
    say!(t, "{} {}", send(b, "x", 0), poll(b, ALL, 0));
    show!(t, shutdown, b, 2);
    say!(t, "{} {} {}", poll(b, ALL, 0), recv(b, 1, 0), recv(b, 1, DONTWAIT));
    show!(t, shutdown, b, 5);
}

pub(super) fn datagram_sizes(t: &mut T) {
    network();
    let bytes = vec![b'x'; 70_000];
    for (ip, limit) in [("127.0.0.1", 65_507usize), ("::1", 65_527)] {
        let a = socket(family_of(ip), DGRAM);
        bind_to(a, ip, 7000);
        let to = address(ip, 7000);
        for len in [limit, limit + 1, 65_535, 65_536] {
            let s = socket(family_of(ip), DGRAM);
            say!(t, "{ip} {len}: {}", result(call!(sendto, s, p(&bytes[..]), len, 0, p(&to[..]), to.len())));
            say!(t, "{}", recv(a, 10, DONTWAIT | libc::MSG_TRUNC));
        }
        must!(close, a);
    }
    // What has no room is lost, and who sends it is not told.
    let (a, b) = (socket(V4, DGRAM), socket(V4, DGRAM));
    set(a, libc::SO_RCVBUF, 4096);
    bind_to(a, "127.0.0.1", 7000);
    let said: Vec<String> = (0..100).map(|_| send_to(b, "some bytes", "127.0.0.1", 7000)).collect();
    say!(t, "{}", said.iter().filter(|s| *s == "10").count());
    let got = (0..100).filter(|_| recv(a, 99, DONTWAIT).starts_with("10")).count();
    say!(t, "{}", got > 0 && got < 50);
}

pub(super) fn datagram_in_parts(t: &mut T) {
    network();
    let (a, b) = (socket(V4, DGRAM), socket(V4, DGRAM));
    bind_to(a, "127.0.0.1", 7000);
    connect_to(b, "127.0.0.1", 7000);
    say!(t, "{} {}", send(b, "one", libc::MSG_MORE), recv(a, 9, DONTWAIT));
    say!(t, "{} {}", send(b, "two", libc::MSG_MORE), recv(a, 9, DONTWAIT));
    say!(t, "{} {} {}", send(b, "", 0), recv(a, 9, DONTWAIT), recv(a, 9, DONTWAIT));
    say!(t, "{} {}", send(b, "next", 0), recv(a, 9, DONTWAIT));
    say!(t, "{} {}", set_of(b, 17, 1, 1), get_of(b, 17, 1));
    say!(t, "{} {} {}", send(b, "a", 0), send(b, "b", 0), recv(a, 9, DONTWAIT));
    say!(t, "{} {}", set_of(b, 17, 1, 0), recv(a, 9, DONTWAIT));
}

pub(super) fn datagram_families(t: &mut T) {
    network();
    let dual = socket(V6, DGRAM);
    bind_to(dual, "::", 7000);
    let (four, six) = (socket(V4, DGRAM), socket(V6, DGRAM));
    say!(t, "{} {}", send_to(four, "four", "127.0.0.1", 7000), recv_from(dual));
    say!(t, "{} {}", send_to(six, "six", "::1", 7000), recv_from(dual));
    say!(t, "{} {}", send_to(six, "mapped", "::ffff:127.0.0.1", 7000), recv_from(dual));
    say!(t, "{} {}", send_to(six, "plain", "127.0.0.1", 7000), recv_from(dual));
    say!(t, "{} {} {}", connect_to(six, "::ffff:127.0.0.1", 7000), name_of(six), peer_of(six));
    let only = socket(V6, DGRAM);
    set_of(only, 41, libc::IPV6_V6ONLY, 1);
    say!(t, "{} {}", send_to(only, "x", "::ffff:127.0.0.1", 7000), connect_to(only, "::ffff:127.0.0.1", 7000));
    let bound = socket(V6, DGRAM);
    bind_to(bound, "::1", 0);
    say!(t, "{}", send_to(bound, "x", "::ffff:127.0.0.1", 7000));
}

pub(super) fn datagram_choice(t: &mut T) {
    network();
    let all: Vec<i32> = ["0.0.0.0", "127.0.0.1", "0.0.0.0"]
        .iter()
        .map(|ip| {
            let s = socket(V4, DGRAM);
            set(s, libc::SO_REUSEADDR, 1);
            bind_to(s, ip, 7000);
            s
        })
        .collect();
    let s = socket(V4, DGRAM);
    send_to(s, "exact", "127.0.0.1", 7000);
    send_to(s, "any", "127.0.0.2", 7000);
    for fd in &all {
        say!(t, "{} {}", recv(*fd, 9, DONTWAIT), recv(*fd, 9, DONTWAIT));
    }
    let port = port_of(s);
    connect_to(all[0], "127.0.0.1", port);
    send_to(s, "peer", "127.0.0.1", 7000);
    for fd in &all {
        say!(t, "{}", recv(*fd, 9, DONTWAIT));
    }
    let all: Vec<i32> = (0..4)
        .map(|_| {
            let s = socket(V4, DGRAM);
            set(s, libc::SO_REUSEPORT, 1);
            bind_to(s, "127.0.0.1", 7001);
            s
        })
        .collect();
    for _ in 0..80 {
        send_to(socket(V4, DGRAM), "x", "127.0.0.1", 7001);
    }
    let counts: Vec<usize> = all.iter().map(|fd| (0..80).take_while(|_| recv(*fd, 9, DONTWAIT) != "EAGAIN").count()).collect();
    say!(t, "{} {}", counts.iter().sum::<usize>(), counts.iter().all(|c| *c > 3));
}

pub(super) fn broadcasts(t: &mut T) {
    network();
    let (any, own, all) = (socket(V4, DGRAM), socket(V4, DGRAM), socket(V4, DGRAM));
    for (fd, ip) in [(any, "0.0.0.0"), (own, "127.0.0.1"), (all, "127.255.255.255")] {
        set(fd, libc::SO_REUSEADDR, 1);
        bind_to(fd, ip, 7000);
    }
    let s = socket(V4, DGRAM);
    say!(t, "{}", send_to(s, "x", "127.255.255.255", 7000));
    set(s, libc::SO_BROADCAST, 1);
    say!(t, "{}", send_to(s, "x", "127.255.255.255", 7000));
    say!(t, "{} {} {}", recv_from(any), recv_from(own), recv_from(all));
    say!(t, "{}", send_to(s, "nobody", "127.255.255.255", 7001));
    say!(t, "{}", error_of(s));
}

pub(super) fn many_datagrams(t: &mut T) {
    network();
    let (a, b) = (socket(V4, DGRAM | NONBLOCK), socket(V4, DGRAM));
    bind_to(a, "127.0.0.1", 7000);
    let to = address("127.0.0.1", 7000);
    let texts = ["one", "two", "", "four"];
    let vectors: Vec<[u64; 2]> = texts.iter().map(|text| [p(text.as_bytes()), text.len() as u64]).collect();
    let mut sent: Vec<Many> = vectors
        .iter()
        .map(|v| Many { header: Header { name: p(&to[..]), name_len: 16, vector: p(v), count: 1, ..Header::default() }, ..Many::default() })
        .collect();
    show!(t, sendmmsg, b, out(&mut sent[..]), 4, 0);
    let mut buffers = [[0u8; 8]; 6];
    let mut names = [[0u8; 28]; 6];
    let places: Vec<[u64; 2]> = buffers.iter_mut().map(|buffer| [out(buffer), 8]).collect();
    let mut got: Vec<Many> = places
        .iter()
        .zip(&mut names)
        .map(|(v, n)| Many { header: Header { name: out(n), name_len: 28, vector: p(v), count: 1, ..Header::default() }, ..Many::default() })
        .collect();
    show!(t, recvmmsg, a, out(&mut got[..]), 6, 0, 0);
    say!(t, "{:?}", got.iter().map(|m| (m.len, m.header.name_len as u32)).collect::<Vec<_>>());
    show!(t, recvmmsg, a, out(&mut got[..]), 6, 0, 0);
    sent[2].header.name_len = 5;
    show!(t, sendmmsg, b, out(&mut sent[..]), 4, 0);
}

pub(super) fn pings(t: &mut T) {
    network();
    let range = "/proc/sys/net/ipv4/ping_group_range";
    file(range, "1 0");
    say!(t, "{:?} {}", content(range), ok_or_error(call!(socket, V4, DGRAM, 1)));
    file(range, "0 2147483647");
    say!(t, "{:?}", content(range));
    for (ip, protocol, request) in [("127.0.0.1", 1, 8u8), ("::1", 58, 128)] {
        let s = must!(socket, family_of(ip), DGRAM, protocol) as i32;
        let packet = [&[request, 0, 0xff, 0xff, 0, 0, 0, 7][..], b"payload"].concat();
        let to = address(ip, 0);
        say!(t, "{}", name_of(s));
        show!(t, sendto, s, p(&packet[..]), packet.len(), 0, p(&to[..]), to.len());
        let (mut buffer, mut from, mut len) = ([0u8; 64], [0u8; 128], 128i32);
        let n = must!(recvfrom, s, out(&mut buffer), 64, 0, out(&mut from), out(&mut len)) as usize;
        let id = u16::from_be_bytes([buffer[4], buffer[5]]) == port_of(s);
        say!(t, "{n} {:?} id {id} {:?} from {}", &buffer[..2], &buffer[6..n], show_address(&from, len));
        if ip == "127.0.0.1" {
            let sum: u32 = buffer[..n].chunks(2).map(|c| u32::from(c[0]) << 8 | u32::from(*c.get(1).unwrap_or(&0))).sum();
            say!(t, "sum {:#x}", (sum & 0xffff) + (sum >> 16));
        }
        show!(t, sendto, s, p(&packet[..]), 7, 0, p(&to[..]), to.len());
        show!(t, sendto, s, p(&[request, 1, 0, 0, 0, 0, 0, 0]), 8, 0, p(&to[..]), to.len());
        show!(t, sendto, s, p(&[3u8, 0, 0, 0, 0, 0, 0, 0]), 8, 0, p(&to[..]), to.len());
        show!(t, sendto, s, p(&packet[..]), packet.len(), 0, 0, 0);
        say!(t, "{} {}", connect_to(s, ip, 0), peer_of(s));
        say!(t, "{} {}", result(call!(sendto, s, p(&packet[..]), 8, 0, 0, 0)), recv(s, 1, 0).starts_with("1 "));
        let named = must!(socket, family_of(ip), DGRAM, protocol) as i32;
        say!(t, "{} {}", bind_to(named, ip, 77), name_of(named));
        let again = must!(socket, family_of(ip), DGRAM, protocol) as i32;
        say!(t, "{} {}", bind_to(again, ip, 77), get(again, libc::SO_PROTOCOL));
    }
    ok!(t, socket, V4, DGRAM, 58);
    ok!(t, socket, V6, DGRAM, 1);
}
