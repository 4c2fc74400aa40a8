//! Interfaces, rtnetlink and /proc/net.

use super::*;

const NETLINK: i32 = libc::AF_NETLINK;

pub(super) fn loopback(t: &mut T) {
    must!(unshare, libc::CLONE_NEWNET);
    let s = socket(V4, DGRAM);
    let flags = |t: &mut T| {
        let mut r = request(&[]);
        must!(ioctl, s, 0x8913, out(&mut r));
        say!(t, "flags {:#x}", u16::from_ne_bytes([r[16], r[17]]));
    };
    flags(t);
    let tried = |t: &mut T| {
        for ip in ["127.0.0.1", "::1"] {
            let family = family_of(ip);
            let bound = bind_to(socket(family, STREAM), ip, 0);
            say!(t, "{ip}: {bound} {}", connect_to(socket(family, STREAM), ip, 7000));
        }
        say!(t, "{}", content("/proc/net/if_inet6"));
    };
    say!(t, "{}", connect_to(socket(V4, STREAM), "127.0.0.1", 7000));
    show!(t, ioctl, s, 0x8914, p(&request(&1u16.to_ne_bytes())));
    flags(t);
    tried(t);
    show!(t, ioctl, s, 0x8914, p(&request(&0u16.to_ne_bytes())));
    flags(t);
    say!(t, "{}{}", content("/proc/net/if_inet6"), bind_to(socket(V6, STREAM), "::1", 0));
    show!(t, ioctl, s, 0x8914, p(&request(&1u16.to_ne_bytes())));
    tried(t);
    let ended = as_nobody(|| {
        let t = &mut T::default();
        show!(t, ioctl, socket(V4, DGRAM), 0x8914, p(&request(&1u16.to_ne_bytes())));
    });
    say!(t, "{ended}");
}

pub(super) fn interface_ioctls(t: &mut T) {
    network();
    for s in [socket(V4, DGRAM), socket(V4, STREAM)] {
        for command in [0x8913u64, 0x8915, 0x8917, 0x8919, 0x891b, 0x891d, 0x8921, 0x8927, 0x8933, 0x8942] {
            let mut r = request(&[]);
            let said = result(call!(ioctl, s, command, out(&mut r)));
            say!(t, "{command:#x}: {said} {:?}", &r[16..32]);
        }
        let mut r = request(&[]);
        r[16..20].copy_from_slice(&1i32.to_ne_bytes());
        r[..2].copy_from_slice(b"\0\0");
        show!(t, ioctl, s, 0x8910, out(&mut r));
        say!(t, "{:?}", &r[..4]);
        r[16..20].copy_from_slice(&99i32.to_ne_bytes());
        show!(t, ioctl, s, 0x8910, out(&mut r));
        r[..4].copy_from_slice(b"no0\0");
        show!(t, ioctl, s, 0x8913, out(&mut r));
        show!(t, ioctl, s, 0x8913, hole());
        let mut list = [0u8; 80];
        let mut conf = [80u64, out(&mut list)];
        show!(t, ioctl, s, 0x8912, out(&mut conf));
        say!(t, "{} {:?}", conf[0] as u32, &list[..40]);
        conf = [0, 0];
        show!(t, ioctl, s, 0x8912, out(&mut conf));
        say!(t, "{}", conf[0] as u32);
    }
    let local = socket(libc::AF_UNIX, DGRAM);
    let mut r = request(&[]);
    show!(t, ioctl, local, 0x8933, out(&mut r));
    say!(t, "{}", r[16]);
}

fn netlink() -> i32 {
    must!(socket, NETLINK, libc::SOCK_RAW, 0) as i32
}

fn nl_name(fd: i32) -> String {
    let (mut bytes, mut len) = ([0u8; 32], 32i32);
    must!(getsockname, fd, out(&mut bytes), out(&mut len));
    let port = u32::from_ne_bytes(bytes[4..8].try_into().expect("4 bytes"));
    let port = match port {
        0 => "none",
        n if n == must!(getpid) as u32 => "mine",
        12_345 => "chosen",
        _ => "other",
    };
    format!("{len} {} {port} {:?}", bytes[0], &bytes[8..12])
}

pub(super) fn netlink_names(t: &mut T) {
    network();
    let name = |port: u32, groups: u32| {
        [&16u16.to_ne_bytes()[..], &[0; 2], &port.to_ne_bytes(), &groups.to_ne_bytes()].concat()
    };
    let (a, b) = (netlink(), netlink());
    say!(t, "{}", nl_name(a));
    show!(t, bind, a, p(&name(0, 0)[..]), 12);
    show!(t, bind, b, p(&name(0, 1)[..]), 12);
    say!(t, "{} {}", nl_name(a), nl_name(b));
    let c = netlink();
    show!(t, bind, c, p(&name(12_345, 0)[..]), 12);
    show!(t, bind, netlink(), p(&name(12_345, 0)[..]), 12);
    show!(t, bind, c, p(&name(12_346, 0)[..]), 12);
    show!(t, bind, netlink(), p(&name(0, 0)[..]), 11);
    show!(t, bind, netlink(), p(&address("127.0.0.1", 0)[..]), 16);
    say!(t, "{}", nl_name(c));
    show!(t, sendto, c, p("x"), 1, 0, p(&name(77_777, 0)[..]), 12);
    show!(t, socket, NETLINK, STREAM, 0);
    show!(t, socket, NETLINK, libc::SOCK_RAW, 33);
    say!(t, "{} {}", get(c, libc::SO_TYPE), get(c, libc::SO_PROTOCOL));
    say!(t, "{} {}", recv(c, 1, DONTWAIT), poll(c, ALL, 0));
    say!(t, "{} {}", set_of(c, 270, 11, 1), get_of(c, 270, 11));
    say!(t, "{} {}", set_of(c, 270, 1, 1), set_of(c, 270, 99, 1));
}

fn ask(fd: i32, kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let header = [
        &(16 + body.len() as u32).to_ne_bytes()[..],
        &kind.to_ne_bytes(),
        &(flags | 1).to_ne_bytes(),
        &7u32.to_ne_bytes(),
        &0u32.to_ne_bytes(),
        body,
    ]
    .concat();
    must!(sendto, fd, p(&header[..]), header.len(), 0, 0, 0);
    let mut all = Vec::new();
    loop {
        let mut buffer = vec![0u8; 32_768];
        let n = call!(recvfrom, fd, out(&mut buffer[..]), buffer.len(), DONTWAIT, 0, 0);
        if n <= 0 {
            return all;
        }
        all.extend_from_slice(&buffer[..n as usize]);
    }
}

/// Messages: type, flags, the fixed part, and those attributes that are asked for.
fn tell(t: &mut T, mut bytes: &[u8], wanted: &[u16]) {
    let word = |b: &[u8], at: usize| u32::from_ne_bytes(b[at..at + 4].try_into().expect("4 bytes"));
    let half = |b: &[u8], at: usize| u16::from_ne_bytes(b[at..at + 2].try_into().expect("2 bytes"));
    while bytes.len() >= 16 {
        let (len, kind, flags) = (word(bytes, 0) as usize, half(bytes, 4), half(bytes, 6));
        let mine = word(bytes, 12) == must!(getpid) as u32;
        let body = &bytes[16..len];
        let fixed = match kind {
            2 | 3 => 4,
            16 => 16,
            20 => 8,
            _ => 12,
        };
        let mut said = Vec::new();
        let mut rest = if kind < 16 { &[][..] } else { &body[fixed.min(body.len())..] };
        while rest.len() >= 4 {
            let (len, kind) = (half(rest, 0) as usize, half(rest, 2));
            if wanted.contains(&kind) {
                said.push((kind, rest[4..len].to_vec()));
            }
            rest = &rest[len.next_multiple_of(4).min(rest.len())..];
        }
        said.sort();
        say!(t, "{kind} {flags:#x} {} {mine}: {:?} {said:?}", word(bytes, 8), &body[..fixed.min(body.len())]);
        bytes = &bytes[len.next_multiple_of(4).min(bytes.len())..];
    }
}

pub(super) fn netlink_dumps(t: &mut T) {
    network();
    let s = netlink();
    let of = |family: u8, len: usize| {
        let mut body = vec![0u8; len];
        body[0] = family;
        body
    };
    let links = ask(s, 18, 0x300, &of(0, 16));
    tell(t, &links, &[1, 2, 3, 4, 6, 13, 16, 17, 27, 33]);
    for family in [0, 2, 10] {
        let found = ask(s, 22, 0x300, &of(family, 8));
        tell(t, &found, &[1, 2, 3, 8]);
        let found = ask(s, 26, 0x300, &of(family, 12));
        tell(t, &found, &[1, 4, 5, 6, 7, 15]);
    }
    let mut one = of(0, 16);
    one[4] = 1;
    let found = ask(s, 18, 0, &one);
    tell(t, &found, &[3, 4]);
    let found = ask(s, 18, 0, &[&of(0, 16)[..], &7u16.to_ne_bytes(), &3u16.to_ne_bytes(), b"lo\0\0"].concat());
    tell(t, &found, &[3, 4]);
}

pub(super) fn netlink_errors(t: &mut T) {
    network();
    let s = netlink();
    let mut missing = vec![0u8; 16];
    missing[4] = 99;
    for (kind, flags, body) in [(18, 0, missing.clone()), (18, 4, vec![0; 16]), (22, 0, vec![0; 8]), (3, 4, vec![]), (18, 0, vec![])] {
        let found = ask(s, kind, flags, &body);
        say!(t, "{kind} {flags}: {:?}", found.get(16..20));
    }
    // Setting the loopback down and up.
    let mut down = vec![0u8; 16];
    (down[4], down[12]) = (1, 1);
    let found = ask(s, 16, 4, &down);
    tell(t, &found, &[]);
    say!(t, "{}", bind_to(socket(V6, STREAM), "::1", 0));
    let mut up = down.clone();
    up[8] = 1;
    let found = ask(s, 16, 4, &up);
    tell(t, &found, &[]);
    say!(t, "{}", connect_to(socket(V4, STREAM), "127.0.0.1", 7000));
    // An address more.
    let mut more = vec![2u8, 24, 0, 0, 1, 0, 0, 0];
    more.extend([8, 0, 2, 0, 10, 1, 2, 3]);
    more.extend([8, 0, 1, 0, 10, 1, 2, 3]);
    let found = ask(s, 20, 4 | 0x600, &more);
    say!(t, "{:?}", &found[16..20]);
    let found = ask(s, 20, 4 | 0x600, &more);
    say!(t, "{:?}", &found[16..20]);
    say!(t, "{} {}", bind_to(socket(V4, STREAM), "10.1.2.3", 0), connect_to(socket(V4, STREAM), "10.1.2.3", 7000));
    let found = ask(s, 21, 4, &more);
    say!(t, "{:?} {}", &found[16..20], bind_to(socket(V4, STREAM), "10.1.2.3", 0));
    let found = ask(s, 21, 4, &more);
    say!(t, "{:?}", &found[16..20]);
    let ended = as_nobody(|| {
        let found = ask(netlink(), 16, 4, &down);
        say!(&mut T::default(), "{:?}", &found[16..20]);
    });
    say!(t, "{ended}");
}

/// The table without what differs.
fn table(t: &mut T, name: &str) {
    let text = content(&format!("/proc/self/net/{name}"));
    let mut lines = text.lines();
    say!(t, "{name}: {:?}", lines.next());
    let mut rows: Vec<String> = lines
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let chosen = |w: &str| match w.split_once(':') {
                Some((ip, port)) if u16::from_str_radix(port, 16).is_ok_and(|n| n > 30_000) => format!("{ip}:some"),
                _ => w.to_owned(),
            };
            format!("{} {} {} {}, {} long, {} words", chosen(words[1]), chosen(words[2]), words[3], words[7], line.len() > 100, words.len())
        })
        .collect();
    rows.sort();
    for row in rows {
        say!(t, "{row}");
    }
}

pub(super) fn proc_files(t: &mut T) {
    network();
    say!(t, "{}", content("/proc/net/dev").lines().take(2).collect::<Vec<_>>().join("\n"));
    say!(t, "{}", content("/proc/net/dev").lines().nth(2).map_or("", |l| &l[..7]));
    say!(t, "{}", content("/proc/net/if_inet6"));
    say!(t, "{}", content("/proc/net/route"));
    say!(t, "{}", content("/proc/net/arp"));
    let _l = listener("127.0.0.1", 7000, 5);
    let _six = listener("::", 7001, 5);
    let c = socket(V4, STREAM);
    connect_to(c, "127.0.0.1", 7000);
    let m = socket(V4, STREAM);
    connect_to(m, "127.0.0.1", 7001);
    sleep_ms(3);
    table(t, "tcp");
    table(t, "tcp6");
    let d = socket(V4, DGRAM);
    bind_to(d, "127.0.0.1", 7000);
    let e = socket(V6, DGRAM);
    bind_to(e, "::1", 7002);
    connect_to(e, "::1", 7003);
    table(t, "udp");
    table(t, "udp6");
    for name in ["sockstat", "sockstat6"] {
        say!(t, "{:?}", content(&format!("/proc/net/{name}")).lines().map(|l| l.split(' ').next().unwrap_or("").to_owned()).collect::<Vec<_>>());
    }
}
