//! Control messages.

use super::*;

fn send_with(fd: i32, ip: &str, port: u16, control: &[u8]) -> String {
    let to = address(ip, port);
    let vector = [p("text"), 4];
    let header = Header {
        name: p(&to[..]),
        name_len: to.len() as u64,
        vector: p(&vector),
        count: 1,
        control: p(control),
        control_len: control.len() as u64,
        flags: 0,
    };
    result(call!(sendmsg, fd, p(&header), 0))
}

/// Receives with `room` bytes of control: text, who it is from, flags, and each control message.
fn recv_with(fd: i32, room: usize, flags: i32) -> String {
    let (mut text, mut bytes, mut name) = ([0u8; 64], vec![0u8; room], [0u8; 128]);
    let vector = [out(&mut text), 64];
    let mut header = Header {
        name: out(&mut name),
        name_len: 128,
        vector: p(&vector),
        count: 1,
        control: out(&mut bytes[..]),
        control_len: room as u64,
        flags: 0,
    };
    let n = call!(recvmsg, fd, out(&mut header), flags | DONTWAIT);
    if n < 0 {
        return result(n);
    }
    let found = controls(&bytes[..(header.control_len as usize).min(room)]).into_iter().map(|mut c| {
        // An address in an error has a port and bytes behind it that nobody set.
        if matches!((c.level, c.kind), (0, 11) | (41, 25)) {
            c.data.truncate(if c.level == 0 { 24 } else { 40 });
        }
        format!("{}:{}:{} {:?}", c.level, c.kind, c.len, c.data)
    });
    format!(
        "{:?} from {} flags {:x} [{}]",
        String::from_utf8_lossy(&text[..n as usize]),
        show_address(&name, header.name_len as i32),
        header.flags as u32,
        found.collect::<Vec<_>>().join(", ")
    )
}

pub(super) fn packet_info(t: &mut T) {
    network();
    let a = socket(V4, DGRAM);
    bind_to(a, "0.0.0.0", 7000);
    set_of(a, 0, libc::IP_PKTINFO, 1);
    let s = socket(V4, DGRAM);
    bind_to(s, "0.0.0.0", 7001);
    let info = |index: i32, source: [u8; 4]| control(0, libc::IP_PKTINFO, &[&index.to_ne_bytes()[..], &source, &[0; 4]].concat());
    say!(t, "{} {}", send_to(s, "x", "127.0.0.1", 7000), recv_with(a, 64, 0));
    say!(t, "{} {}", send_to(s, "x", "127.2.3.4", 7000), recv_with(a, 64, 0));
    say!(t, "{} {}", send_with(s, "127.0.0.1", 7000, &info(0, [127, 0, 0, 9])), recv_with(a, 64, 0));
    say!(t, "{} {}", send_with(s, "127.0.0.1", 7000, &info(1, [0, 0, 0, 0])), recv_with(a, 64, 0));
    say!(t, "{} {}", send_with(s, "127.0.0.1", 7000, &info(0, [10, 0, 0, 9])), recv_with(a, 64, 0));
    say!(t, "{} {}", send_with(s, "127.0.0.1", 7000, &control(0, 8, &[0; 8])), send_with(s, "127.0.0.1", 7000, &control(0, 99, &[0; 8])));
    say!(t, "{}", send_with(s, "127.0.0.1", 7000, &control(77, 8, &[0; 8])));
    say!(t, "short: {}", recv_with(a, 20, 0));
    let six = socket(V6, DGRAM);
    bind_to(six, "::", 7002);
    set_of(six, 41, libc::IPV6_RECVPKTINFO, 1);
    let from = socket(V6, DGRAM);
    say!(t, "{} {}", send_to(from, "x", "::1", 7002), recv_with(six, 64, 0));
    say!(t, "{} {}", send_to(from, "x", "::ffff:127.0.0.5", 7002), recv_with(six, 64, 0));
    let mut data = "::1".parse::<std::net::Ipv6Addr>().expect("an address").octets().to_vec();
    data.extend([0; 4]);
    say!(t, "{} {}", send_with(from, "::1", 7002, &control(41, libc::IPV6_PKTINFO, &data)), recv_with(six, 64, 0));
    data[0] = 0x20;
    say!(t, "{}", send_with(from, "::1", 7002, &control(41, libc::IPV6_PKTINFO, &data)));
}

pub(super) fn hops(t: &mut T) {
    network();
    let (a, s) = (socket(V4, DGRAM), socket(V4, DGRAM));
    bind_to(a, "127.0.0.1", 7000);
    bind_to(s, "127.0.0.1", 7001);
    set_of(a, 0, libc::IP_RECVTTL, 1);
    set_of(a, 0, libc::IP_RECVTOS, 1);
    say!(t, "{} {}", send_to(s, "x", "127.0.0.1", 7000), recv_with(a, 99, 0));
    say!(t, "{} {}", set_of(s, 0, libc::IP_TTL, 9), set_of(s, 0, libc::IP_TOS, 16));
    say!(t, "{} {}", send_to(s, "x", "127.0.0.1", 7000), recv_with(a, 99, 0));
    for value in [0, 7, 255, 256] {
        let sent = send_with(s, "127.0.0.1", 7000, &control(0, libc::IP_TTL, &i32::to_ne_bytes(value)));
        say!(t, "{value}: {sent} {}", recv_with(a, 99, 0));
    }
    say!(t, "{} {}", send_with(s, "127.0.0.1", 7000, &control(0, libc::IP_TOS, &[8])), recv_with(a, 99, 0));
    let (a, s) = (socket(V6, DGRAM), socket(V6, DGRAM));
    bind_to(a, "::1", 7000);
    bind_to(s, "::1", 7001);
    set_of(a, 41, libc::IPV6_RECVHOPLIMIT, 1);
    set_of(a, 41, libc::IPV6_RECVTCLASS, 1);
    say!(t, "{} {}", send_to(s, "x", "::1", 7000), recv_with(a, 99, 0));
    say!(t, "{} {}", set_of(s, 41, libc::IPV6_UNICAST_HOPS, 9), set_of(s, 41, libc::IPV6_TCLASS, 16));
    say!(t, "{} {}", send_to(s, "x", "::1", 7000), recv_with(a, 99, 0));
    for value in [-2, -1, 0, 255, 256] {
        let sent = send_with(s, "::1", 7000, &control(41, libc::IPV6_HOPLIMIT, &i32::to_ne_bytes(value)));
        say!(t, "{value}: {sent} {}", recv_with(a, 99, 0));
    }
}

pub(super) fn error_queue(t: &mut T) {
    network();
    for (ip, level, option) in [("127.0.0.1", 0, libc::IP_RECVERR), ("::1", 41, libc::IPV6_RECVERR)] {
        let s = socket(family_of(ip), DGRAM);
        say!(t, "{}", recv_with(s, 128, libc::MSG_ERRQUEUE));
        set_of(s, level, option, 1);
        say!(t, "{}", send_to(s, "lost", ip, 7000));
        say!(t, "{}", poll(s, ALL, 20));
        say!(t, "{}", recv_with(s, 128, libc::MSG_ERRQUEUE));
        say!(t, "{} {}", poll(s, ALL, 0), error_of(s));
        say!(t, "{}", recv_with(s, 128, libc::MSG_ERRQUEUE));
        send_to(s, "again", ip, 7000);
        poll(s, 0, 20);
        say!(t, "{} {} {}", error_of(s), poll(s, ALL, 0), recv(s, 9, DONTWAIT));
        say!(t, "{}", recv_with(s, 128, libc::MSG_ERRQUEUE));
    }
}
