//! Connections.

use super::*;

pub(super) fn stream(t: &mut T) {
    network();
    for (at, to) in [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.3.3.3"), ("0.0.0.0", "0.0.0.0"), ("::1", "::1"), ("::", "::"), ("::", "127.0.0.1"), ("::", "::ffff:127.0.0.1")] {
        let l = listener(at, 7000, 5);
        let c = socket(family_of(to), STREAM);
        say!(t, "{at} {to}: {} {} {}", connect_to(c, to, 7000), name_of(c), peer_of(c));
        let (mut bytes, mut len) = ([0u8; 128], 128i32);
        let s = must!(accept4, l, out(&mut bytes), out(&mut len), 0) as i32;
        say!(t, "accepted {} {} {}", show_address(&bytes, len), name_of(s), peer_of(s));
        say!(t, "{} {} {}", send(c, "hello", 0), recv(s, 3, 0), recv(s, 9, 0));
        say!(t, "{} {}", send(s, "back", 0), recv_from(c));
        say!(t, "{} {}", result(write(c, "written")), read(s));
        let other = address("10.0.0.1", 1);
        show!(t, sendto, c, p(b"x"), 1, 0, p(&other[..]), 16);
        say!(t, "{} then {}", recv(s, 9, 0), recv(s, 9, DONTWAIT));
        must!(close, c);
        say!(t, "{} {}", recv(s, 9, 0), peer_of(s));
        must!(close, s);
        must!(close, l);
    }
}

pub(super) fn stream_errors(t: &mut T) {
    network();
    for ip in ["127.0.0.1", "::1", "::ffff:127.0.0.1", "10.0.0.1", "2001:db8::1", "fe80::1", "224.0.0.1", "255.255.255.255", "127.255.255.255", "ff02::1"] {
        let s = socket(family_of(ip), STREAM);
        say!(t, "{ip}: {} {} {}", connect_to(s, ip, 7000), error_of(s), connect_to(s, ip, 0));
    }
    let s = socket(V4, STREAM);
    let four = address("127.0.0.1", 7000);
    let six = address("::1", 7000);
    show!(t, connect, s, p(&four[..]), 15);
    show!(t, connect, s, p(&four[..]), 1);
    show!(t, connect, s, p(&six[..]), 28);
    show!(t, connect, socket(V6, STREAM), p(&four[..]), 16);
    show!(t, connect, socket(V6, STREAM), p(&six[..]), 23);
    show!(t, listen, socket(V4, DGRAM), 5);
    show!(t, accept, socket(V4, DGRAM), 0, 0);
    show!(t, accept, s, 0, 0);
    say!(t, "{} {}", send(s, "x", 0), recv(s, 1, 0));
    show!(t, shutdown, s, 2);
    let only = socket(V6, STREAM);
    set_of(only, 41, libc::IPV6_V6ONLY, 1);
    let l = listener("127.0.0.1", 7000, 5);
    say!(t, "only: {}", connect_to(only, "::ffff:127.0.0.1", 7000));
    say!(t, "{} {}", connect_to(s, "127.0.0.1", 7000), connect_to(s, "127.0.0.1", 7000));
    show!(t, listen, s, 5);
    show!(t, connect, l, p(&four[..]), 16);
    show!(t, listen, l, 6);
    show!(t, bind, s, p(&four[..]), 16);
    show!(t, accept4, l, 0, 0, 0x1000);
    let free = socket(V4, STREAM);
    show!(t, listen, free, 1);
    say!(t, "{}", name_of(free));
}

pub(super) fn connect_nonblocking(t: &mut T) {
    network();
    let l = listener("127.0.0.1", 7000, 5);
    let s = socket(V4, STREAM | NONBLOCK);
    say!(t, "{} {}", connect_to(s, "127.0.0.1", 7000), poll(s, ALL, 1000));
    say!(t, "{} {}", error_of(s), peer_of(s));
    say!(t, "{} {}", connect_to(s, "127.0.0.1", 7000), connect_to(s, "127.0.0.1", 7000));
    let s = socket(V4, STREAM | NONBLOCK);
    say!(t, "refused: {} {}", connect_to(s, "127.0.0.1", 7001), poll(s, ALL, 1000));
    say!(t, "{} {}", error_of(s), poll(s, ALL, 0));
    say!(t, "{} {}", connect_to(s, "127.0.0.1", 7000), poll(s, ALL, 0));
    say!(t, "{}", connect_to(s, "127.0.0.1", 7000));
    let s = socket(V4, STREAM | NONBLOCK);
    say!(t, "{}", connect_to(s, "127.0.0.1", 7001));
    say!(t, "{} {}", connect_to(s, "127.0.0.1", 7001), poll(s, ALL, 0));
    let s = socket(V4, STREAM | NONBLOCK);
    connect_to(s, "127.0.0.1", 7001);
    say!(t, "{} {}", recv(s, 1, 0), recv(s, 1, 0));
    let s = socket(V4, STREAM | NONBLOCK);
    connect_to(s, "127.0.0.1", 7001);
    say!(t, "{} {}", send(s, "x", 0), send(s, "x", 0));
    show!(t, accept4, l, 0, 0, 0);
    must!(fcntl, l, libc::F_SETFL, libc::O_NONBLOCK);
    ok!(t, accept4, l, 0, 0, 0);
    show!(t, accept4, l, 0, 0, 0);
}

pub(super) fn connect_again(t: &mut T) {
    network();
    let l = listener("127.0.0.1", 7000, 5);
    let s = socket(V4, STREAM);
    say!(t, "{}", connect_to(s, "127.0.0.1", 7001));
    say!(t, "{} {}", connect_to(s, "127.0.0.1", 7000), error_of(s));
    let bound = socket(V4, STREAM);
    bind_to(bound, "127.0.0.1", 7005);
    say!(t, "{} {}", connect_to(bound, "127.0.0.1", 7000), name_of(bound));
    let a = must!(accept4, l, 0, 0, 0) as i32;
    let b = must!(accept4, l, 0, 0, 0) as i32;
    say!(t, "{} {}", peer_of(a), peer_of(b));
    let same = socket(V4, STREAM);
    set(same, libc::SO_REUSEADDR, 1);
    set(bound, libc::SO_REUSEADDR, 1);
    say!(t, "{} {}", bind_to(same, "127.0.0.1", 7005), connect_to(same, "127.0.0.1", 7000));
}

pub(super) fn dissolved(t: &mut T) {
    network();
    let l = listener("127.0.0.1", 7000, 5);
    let s = socket(V4, STREAM);
    connect_to(s, "127.0.0.1", 7000);
    let a = must!(accept4, l, 0, 0, 0) as i32;
    send(a, "unread", 0);
    show!(t, connect, s, p(&[0u8; 16]), 16);
    say!(t, "{} {} {}", name_of(s), peer_of(s), poll(s, ALL, 0));
    say!(t, "{} {}", recv(a, 9, 0), error_of(a));
    say!(t, "{}", connect_to(s, "127.0.0.1", 7000));
    show!(t, connect, l, p(&[0u8; 16]), 16);
    say!(t, "{}", connect_to(socket(V4, STREAM), "127.0.0.1", 7000));
    show!(t, connect, socket(V4, STREAM), p(&[0u8; 2]), 2);
}

pub(super) fn reuse_port_spreads(t: &mut T) {
    network();
    let all: Vec<i32> = (0..4)
        .map(|_| {
            let s = socket(V4, STREAM | NONBLOCK);
            set(s, libc::SO_REUSEPORT, 1);
            bind_to(s, "127.0.0.1", 7000);
            must!(listen, s, 100);
            s
        })
        .collect();
    let clients: Vec<String> = (0..80).map(|_| connect_to(socket(V4, STREAM), "127.0.0.1", 7000)).collect();
    say!(t, "{}", clients.iter().filter(|c| *c == "0").count());
    let mut counts = [0; 4];
    for (count, l) in counts.iter_mut().zip(&all) {
        while call!(accept4, *l, 0, 0, 0) >= 0 {
            *count += 1;
        }
    }
    say!(t, "{} each: {}", counts.iter().sum::<i32>(), counts.iter().all(|c| *c > 3));
}

pub(super) fn backlog(t: &mut T) {
    network();
    for backlog in [0, 1, 3] {
        let l = listener("127.0.0.1", 7000, backlog);
        let mut fits = 0;
        loop {
            let s = socket(V4, STREAM | NONBLOCK);
            connect_to(s, "127.0.0.1", 7000);
            if poll(s, ALL, 100) == "nothing" {
                say!(t, "{backlog}: {fits}, then {} {}", connect_to(s, "127.0.0.1", 7000), send(s, "x", DONTWAIT));
                say!(t, "{} {} {}", recv(s, 1, DONTWAIT), peer_of(s), error_of(s));
                must!(close, s);
                break;
            }
            fits += 1;
        }
        must!(close, l);
    }
}

pub(super) fn waits_for_place(t: &mut T) {
    network();
    let l = listener("127.0.0.1", 7000, 0);
    let first = socket(V4, STREAM);
    connect_to(first, "127.0.0.1", 7000);
    let pid = fork(|| {
        let s = socket(V4, STREAM);
        let said = connect_to(s, "127.0.0.1", 7000);
        i32::from(said != "0" || send(s, "there", 0) != "5")
    });
    sleep_ms(50);
    let a = must!(accept4, l, 0, 0, 0) as i32;
    let b = must!(accept4, l, 0, 0, 0) as i32;
    say!(t, "{} {} {}", recv(b, 9, 0), peer_of(a), wait(pid));
    let limited = socket(V4, STREAM);
    connect_to(limited, "127.0.0.1", 7000);
    let s = socket(V4, STREAM);
    must!(setsockopt, s, SOL, libc::SO_SNDTIMEO, p(&[0i64, 30_000]), 16);
    say!(t, "{} {}", connect_to(s, "127.0.0.1", 7000), connect_to(s, "127.0.0.1", 7000));
}

pub(super) fn stream_flags(t: &mut T) {
    network();
    const PEEK: i32 = libc::MSG_PEEK;
    const TRUNC: i32 = libc::MSG_TRUNC;
    const ALL_OF_IT: i32 = libc::MSG_WAITALL;
    for flags in [0, PEEK, TRUNC, PEEK | TRUNC, ALL_OF_IT, ALL_OF_IT | PEEK, libc::MSG_ERRQUEUE, libc::MSG_EOR] {
        let s = connected("127.0.0.1");
        send(s[0], "abcdef", 0);
        let first = recv(s[1], 4, flags | DONTWAIT);
        let second = recv(s[1], 4, flags | DONTWAIT);
        say!(t, "{flags:#x}: {first} then {second} then {}", recv(s[1], 20, DONTWAIT));
    }
    for flags in [libc::MSG_MORE, libc::MSG_DONTROUTE, libc::MSG_CONFIRM, libc::MSG_EOR] {
        let s = connected("::1");
        say!(t, "{flags:#x}: {} {}", send(s[0], "abc", flags), recv(s[1], 9, 0));
    }
    let s = connected("127.0.0.1");
    let pid = fork(|| {
        sleep_ms(30);
        send(s[0], "two", 0);
        0
    });
    send(s[0], "one", 0);
    say!(t, "{} {}", recv(s[1], 6, ALL_OF_IT), wait(pid));
    say!(t, "{} {}", recv(s[1], 0, DONTWAIT), recv(s[1], 1, DONTWAIT));
    send(s[0], "x", 0);
    show!(t, recvfrom, s[1], hole(), 1, 0, 0, 0);
    show!(t, recvfrom, s[1], hole(), 0, 0, 0, 0);
    show!(t, sendto, s[1], hole(), 1, 0, 0, 0);
    say!(t, "{} {}", recv(s[1], 9, DONTWAIT), recv(s[0], 9, DONTWAIT));
}

pub(super) fn large(t: &mut T) {
    network();
    for ip in ["127.0.0.1", "::1"] {
        let s = connected(ip);
        let bytes: Vec<u8> = (0..3_000_000u32).map(|i| ((i * 7) >> 3) as u8).collect();
        let pid = fork(|| {
            must!(close, s[1]);
            i32::from(call!(write, s[0], p(&bytes[..]), bytes.len()) != bytes.len() as i64)
        });
        must!(close, s[0]);
        let mut got = Vec::new();
        let mut buffer = vec![0u8; 70_001];
        loop {
            let n = must!(read, s[1], out(&mut buffer[..]), buffer.len()) as usize;
            if n == 0 {
                break;
            }
            got.extend_from_slice(&buffer[..n]);
        }
        say!(t, "{} {} {}", got.len(), got == bytes, wait(pid));
        must!(close, s[1]);
    }
}

pub(super) fn spliced(t: &mut T) {
    network();
    let s = connected("127.0.0.1");
    let (r, w) = pipe(0);
    write(w, "through a pipe");
    say!(t, "in: {} {}", result(call!(splice, r, 0, s[0], 0, 20, 0)), recv(s[1], 20, 0));
    send(s[0], "back", 0);
    say!(t, "out: {} {}", result(call!(splice, s[1], 0, w, 0, 20, 0)), read(r));
    let (mut at, source) = (0u64, must!(memfd_create, c"f", 0));
    must!(write, source, p(b"a file"), 6);
    say!(t, "file: {} {}", result(call!(sendfile, s[0], source, out(&mut at), 20)), recv(s[1], 20, 0));
}
