//! Kinds, names and ports.

use super::*;

pub(super) fn kinds(t: &mut T) {
    for family in [V4, V6] {
        for (kind, protocol) in [
            (STREAM, 0), (STREAM, 6), (STREAM, 17), (STREAM, 1), (DGRAM, 0), (DGRAM, 17), (DGRAM, 6),
            (libc::SOCK_SEQPACKET, 0), (libc::SOCK_RDM, 0), (STREAM, -1), (STREAM, 300), (12, 0),
            (libc::SOCK_RAW, 0),
        ] {
            say!(t, "{family} {kind} {protocol}: {}", ok_or_error(call!(socket, family, kind, protocol)));
        }
        let mut fds = [0i32; 2];
        show!(t, socketpair, family, STREAM, 0, out(&mut fds));
        show!(t, socketpair, family, DGRAM, 0, out(&mut fds));
        for kind in [STREAM, DGRAM] {
            let s = socket(family, kind);
            let about = [libc::SO_TYPE, libc::SO_DOMAIN, libc::SO_PROTOCOL, libc::SO_ACCEPTCONN];
            say!(t, "{:?}", about.map(|name| get(s, name)));
        }
    }
    let ended = as_nobody(|| {
        let t = &mut T::default();
        say!(t, "raw: {}", ok_or_error(call!(socket, V4, libc::SOCK_RAW, 1)));
    });
    say!(t, "{ended}");
}

pub(super) fn names_of_both(t: &mut T) {
    network();
    for ip in ["127.0.0.1", "127.1.2.3", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1", "::ffff:0.0.0.0"] {
        for kind in [STREAM, DGRAM] {
            let s = socket(family_of(ip), kind);
            let before = name_of(s);
            let bound = bind_to(s, ip, 0);
            say!(t, "{ip} {kind}: {before} {bound} {} {} again {}", name_of(s), peer_of(s), bind_to(s, ip, 0));
            let s = socket(family_of(ip), kind);
            say!(t, "{} {}", bind_to(s, ip, 7000), name_of(s));
            must!(close, s);
        }
    }
    let (mut bytes, mut len) = ([0xffu8; 32], 5i32);
    let s = socket(V4, STREAM);
    bind_to(s, "127.0.0.1", 7001);
    show!(t, getsockname, s, out(&mut bytes), out(&mut len));
    say!(t, "{len} {:?}", &bytes[..6]);
    len = -1;
    show!(t, getsockname, s, out(&mut bytes), out(&mut len));
}

pub(super) fn bind_errors(t: &mut T) {
    network();
    for kind in [STREAM, DGRAM] {
        for ip in ["10.1.2.3", "255.255.255.255", "127.255.255.255", "224.0.0.1", "fe80::1", "2001:db8::1", "ff02::1", "::2"] {
            say!(t, "{kind} {ip}: {}", bind_to(socket(family_of(ip), kind), ip, 0));
        }
        let four = address("127.0.0.1", 0);
        let six = address("::1", 0);
        let s = socket(V4, kind);
        show!(t, bind, s, p(&four[..]), 15);
        show!(t, bind, s, p(&four[..]), 1);
        show!(t, bind, s, p(&four[..]), 0);
        show!(t, bind, s, p(&four[..]), -1);
        show!(t, bind, s, p(&six[..]), 28);
        show!(t, bind, s, hole(), 16);
        let mut unspecified = address("0.0.0.0", 0);
        unspecified[0] = 0;
        show!(t, bind, s, p(&unspecified[..]), 16);
        let mut unspecified = address("127.0.0.1", 0);
        unspecified[0] = 0;
        show!(t, bind, socket(V4, kind), p(&unspecified[..]), 16);
        let s = socket(V6, kind);
        show!(t, bind, s, p(&six[..]), 23);
        show!(t, bind, s, p(&four[..]), 16);
        show!(t, bind, s, p(&six[..]), 24);
        let a = socket(V4, kind);
        bind_to(a, "127.0.0.1", 7000);
        say!(t, "taken: {}", bind_to(socket(V4, kind), "127.0.0.1", 7000));
        say!(t, "by all: {}", bind_to(socket(V4, kind), "0.0.0.0", 7000));
        say!(t, "another: {}", bind_to(socket(V4, kind), "127.0.0.2", 7000));
    }
    // The other protocol's ports are others.
    say!(t, "{}", bind_to(socket(V4, STREAM), "127.0.0.9", 7001));
    say!(t, "{}", bind_to(socket(V4, DGRAM), "127.0.0.9", 7001));
}

pub(super) fn bind_privileged(t: &mut T) {
    network();
    say!(t, "root: {}", bind_to(socket(V4, STREAM), "127.0.0.1", 80));
    let ended = as_nobody(|| {
        let t = &mut T::default();
        for (ip, port) in [("127.0.0.1", 81), ("127.0.0.1", 1023), ("127.0.0.1", 1024), ("::1", 1), ("10.0.0.1", 1)] {
            say!(t, "{ip} {port}: {}", bind_to(socket(family_of(ip), STREAM), ip, port));
            say!(t, "{ip} {port}: {}", bind_to(socket(family_of(ip), DGRAM), ip, port));
        }
        // IP_FREEBIND is for addresses, not for ports.
        for kind in [STREAM, DGRAM] {
            for (ip, port) in [("10.0.0.1", 81), ("10.0.0.1", 1024)] {
                let s = socket(V4, kind);
                set_of(s, libc::IPPROTO_IP, libc::IP_FREEBIND, 1);
                say!(t, "free {ip} {port}: {}", bind_to(s, ip, port));
            }
        }
    });
    say!(t, "{ended}");
}

pub(super) fn bind_reuse(t: &mut T) {
    network();
    for kind in [STREAM, DGRAM] {
        for option in [libc::SO_REUSEADDR, libc::SO_REUSEPORT] {
            for (first, second) in [(1, 1), (1, 0), (0, 1)] {
                let (a, b) = (socket(V4, kind), socket(V4, kind));
                set(a, option, first);
                set(b, option, second);
                let mut said = vec![bind_to(a, "127.0.0.1", 7000), bind_to(b, "0.0.0.0", 7000)];
                if kind == STREAM {
                    said.extend([a, b].map(|fd| result(call!(listen, fd, 5))));
                    let late = socket(V4, kind);
                    set(late, option, 1);
                    said.push(bind_to(late, "127.0.0.1", 7000));
                    must!(close, late);
                }
                say!(t, "{kind} {option} {first} {second}: {said:?}");
                must!(close, a);
                must!(close, b);
            }
        }
    }
    // Another user's socket is not joined.
    let a = socket(V4, DGRAM);
    set(a, libc::SO_REUSEPORT, 1);
    bind_to(a, "127.0.0.1", 7000);
    let ended = as_nobody(|| {
        let b = socket(V4, DGRAM);
        set(b, libc::SO_REUSEPORT, 1);
        say!(&mut T::default(), "nobody: {}", bind_to(b, "127.0.0.1", 7000));
    });
    say!(t, "{ended}");
    // What was accepted has the port, too.
    let l = socket(V4, STREAM);
    bind_to(l, "127.0.0.1", 7002);
    must!(listen, l, 5);
    let c = socket(V4, STREAM);
    connect_to(c, "127.0.0.1", 7002);
    let s = must!(accept4, l, 0, 0, 0);
    must!(close, l);
    say!(t, "accepted: {}", bind_to(socket(V4, STREAM), "127.0.0.1", 7002));
    must!(close, s);
    must!(close, c);
}

pub(super) fn bind_dual(t: &mut T) {
    network();
    for kind in [STREAM, DGRAM] {
        for (first, second) in [("::", "0.0.0.0"), ("0.0.0.0", "::"), ("::", "127.0.0.1"), ("::1", "127.0.0.1"), ("::", "::1"), ("::ffff:127.0.0.1", "127.0.0.1"), ("::ffff:127.0.0.1", "::")] {
            for only in [0, 1] {
                let (a, b) = (socket(family_of(first), kind), socket(family_of(second), kind));
                for (s, ip) in [(a, first), (b, second)] {
                    if family_of(ip) == V6 {
                        set_of(s, 41, libc::IPV6_V6ONLY, only);
                    }
                }
                say!(t, "{kind} {first} {second} {only}: {} {}", bind_to(a, first, 7000), bind_to(b, second, 7000));
                must!(close, a);
                must!(close, b);
            }
        }
    }
    let s = socket(V6, STREAM);
    say!(t, "{} {}", get_of(s, 41, libc::IPV6_V6ONLY), set_of(s, 41, libc::IPV6_V6ONLY, 1));
    bind_to(s, "::", 0);
    say!(t, "late: {} {}", set_of(s, 41, libc::IPV6_V6ONLY, 0), get_of(s, 41, libc::IPV6_V6ONLY));
}

pub(super) fn ports_range(t: &mut T) {
    network();
    let range = "/proc/sys/net/ipv4/ip_local_port_range";
    say!(t, "{:?}", content(range));
    file(range, "20000 20003");
    say!(t, "{:?}", content(range));
    let bad = open(range, O_WRONLY);
    for text in ["5 4", "x", "0 9", "70000 80000"] {
        say!(t, "{text}: {}", result(write(bad, text)));
    }
    for kind in [STREAM, DGRAM] {
        let all: Vec<i32> = (0..5).map(|_| socket(V4, kind)).collect();
        let said: Vec<String> = all.iter().map(|s| bind_to(*s, "127.0.0.1", 0)).collect();
        let mut ports: Vec<u16> = all.iter().map(|s| port_of(*s)).collect();
        ports.sort();
        say!(t, "{said:?} {ports:?}");
        if kind == STREAM {
            let l = listener("127.0.0.2", 7000, 5);
            say!(t, "{}", connect_to(socket(V4, STREAM), "127.0.0.2", 7000));
            must!(close, l);
        } else {
            say!(t, "{}", send_to(socket(V4, DGRAM), "x", "127.0.0.1", 7000));
            say!(t, "{}", connect_to(socket(V4, DGRAM), "127.0.0.1", 7000));
        }
        for s in all {
            must!(close, s);
        }
    }
    // Connections to two places share a port.
    file(range, "20000 20000");
    let (a, b) = (listener("127.0.0.1", 7000, 5), listener("127.0.0.1", 7001, 5));
    let all: Vec<i32> = (0..3).map(|_| socket(V4, STREAM)).collect();
    say!(t, "{} {}", connect_to(all[0], "127.0.0.1", 7000), connect_to(all[1], "127.0.0.1", 7001));
    say!(t, "{} {} {}", connect_to(all[2], "127.0.0.1", 7001), port_of(all[0]), port_of(all[1]));
    must!(close, a);
    must!(close, b);
}
