//! Options.

use super::*;

pub(super) fn defaults(t: &mut T) {
    network();
    for (family, kind) in [(V4, STREAM), (V6, STREAM), (V4, DGRAM), (V6, DGRAM)] {
        let s = socket(family, kind);
        for name in [1, 2, 4, 5, 6, 8, 9, 10, 11, 12, 13, 15, 16, 18, 20, 25, 30, 40, 46] {
            // Buffers of UDP are the machine's, of TCP ours.
            say!(t, "{family} {kind} socket {name}: {}", get(s, name));
        }
        for name in [1, 2, 4, 6, 7, 8, 10, 11, 12, 13, 14, 15, 21, 24, 33, 34, 49] {
            say!(t, "{family} {kind} ip {name}: {}", get_of(s, 0, name));
        }
        for name in [16, 18, 19, 23, 25, 26, 49, 51, 62, 66, 67, 78] {
            say!(t, "{family} {kind} ipv6 {name}: {}", get_of(s, 41, name));
        }
        for name in [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13, 16, 18, 23, 25, 30] {
            say!(t, "{family} {kind} tcp {name}: {}", get_of(s, 6, name));
        }
    }
    let s = connected("127.0.0.1");
    say!(t, "{} {}", get_of(s[0], 0, 14), get_of(s[0], 6, 2));
    let (mut info, mut len) = ([0u8; 512], 512i32);
    must!(getsockopt, s[0], 6, libc::TCP_INFO, out(&mut info), out(&mut len));
    say!(t, "state {} length {len}", info[0]);
    must!(shutdown, s[0], 1);
    sleep_ms(3);
    for fd in s {
        must!(getsockopt, fd, 6, libc::TCP_INFO, out(&mut info), out(&mut len));
        say!(t, "state {}", info[0]);
    }
    len = 8;
    show!(t, getsockopt, s[0], 6, libc::TCP_INFO, out(&mut info), out(&mut len));
    say!(t, "{len}");
}

pub(super) fn option_errors(t: &mut T) {
    network();
    let (tcp, udp, six) = (socket(V4, STREAM), socket(V4, DGRAM), socket(V6, STREAM));
    for (level, name, values) in [
        (6, 1, &[0, 1, 77][..]), (6, 2, &[0, 87, 88, 1000, 40_000]), (6, 4, &[0, 1, 32_767, 32_768]), (6, 5, &[0, 9]),
        (6, 6, &[0, 127, 128]), (6, 7, &[0, 5, 128]), (6, 12, &[0, 1]), (6, 18, &[-1, 5]), (6, 99, &[1]), (6, 8, &[5]),
        (0, 1, &[0, 16, 255]), (0, 2, &[0, 1, 255, 256, -1]), (0, 10, &[0, 5, 6]), (0, 33, &[-1, 0, 255, 256]), (0, 99, &[1]),
        (41, 26, &[1, 0]), (41, 16, &[-2, -1, 0, 255, 256]), (41, 67, &[-1, 255, 256]), (41, 99, &[1]),
        (1, 9, &[1]), (1, 15, &[1]), (99, 1, &[1]), (17, 1, &[0]),
    ] {
        for value in values {
            let said = [tcp, udp, six].map(|s| format!("{} {}", set_of(s, level, name, *value), get_of(s, level, name)));
            say!(t, "{level} {name} {value}: {}", said.join(", "));
        }
    }
    show!(t, setsockopt, tcp, 6, 1, p(&1i32), 3);
    show!(t, setsockopt, tcp, 0, 2, p(&7u8), 1);
    show!(t, setsockopt, tcp, 0, 2, p(&7i32), 0);
    show!(t, setsockopt, tcp, 6, 1, hole(), 4);
    show!(t, setsockopt, tcp, 6, 13, p("reno"), 4);
    say!(t, "{}", get_of(tcp, 6, 13));
    show!(t, setsockopt, tcp, 6, 13, p("nothing"), 7);
    show!(t, setsockopt, tcp, 6, 13, p(""), 0);
    let (mut value, mut len) = ([0u8; 8], 2i32);
    show!(t, getsockopt, tcp, 6, 1, out(&mut value), out(&mut len));
    say!(t, "{len}");
    len = -1;
    show!(t, getsockopt, tcp, 6, 1, out(&mut value), out(&mut len));
    for size in [1, 5000, 100_000, -1] {
        say!(t, "{size}: {} {} {} {}", set(tcp, libc::SO_SNDBUF, size), get(tcp, libc::SO_SNDBUF), set(tcp, libc::SO_RCVBUF, size), get(tcp, libc::SO_RCVBUF));
    }
}

pub(super) fn inherited(t: &mut T) {
    network();
    let l = listener("127.0.0.1", 7000, 5);
    let names = [(1, libc::SO_KEEPALIVE), (1, libc::SO_REUSEADDR), (1, libc::SO_OOBINLINE), (6, 1), (6, 4), (6, 18), (0, 1), (0, 2)];
    for (level, name) in names {
        set_of(l, level, name, 8);
    }
    must!(setsockopt, l, SOL, libc::SO_LINGER, p(&[1i32, 3]), 8);
    must!(setsockopt, l, SOL, libc::SO_RCVTIMEO, p(&[1i64, 0]), 16);
    let c = socket(V4, STREAM);
    connect_to(c, "127.0.0.1", 7000);
    let s = must!(accept4, l, 0, 0, 0) as i32;
    say!(t, "{:?}", names.map(|(level, name)| get_of(s, level, name)));
    say!(t, "{} {}", get(s, libc::SO_LINGER), get(s, libc::SO_RCVTIMEO));
    let flags = must!(accept4, { connect_to(socket(V4, STREAM), "127.0.0.1", 7000); l }, 0, 0, NONBLOCK);
    say!(t, "{:#x} {:#x}", must!(fcntl, flags, libc::F_GETFL), must!(fcntl, s, libc::F_GETFL));
}
