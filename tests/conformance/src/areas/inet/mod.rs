//! AF_INET and AF_INET6 between sockets of one network namespace, which each test makes for itself.

mod bind;
mod control;
mod datagrams;
mod interfaces;
mod options;
mod states;
mod streams;

use std::net::IpAddr;

use crate::helpers::*;
use crate::test::Test;
use bind::*;
use control::*;
use datagrams::*;
use interfaces::*;
use options::*;
use states::*;
use streams::*;

pub const TESTS: &[Test] = tests![
    kinds: socket socketpair,
    names_of_both: bind getsockname getpeername,
    bind_errors: bind,
    bind_privileged: bind,
    bind_reuse: bind listen setsockopt,
    bind_dual: bind setsockopt,
    ports_range: bind connect,
    stream: connect accept4 sendto recvfrom,
    stream_errors: connect listen accept,
    connect_nonblocking: connect getsockopt,
    connect_again: connect,
    reuse_port_spreads: accept4,
    backlog: listen connect accept4,
    waits_for_place: connect,
    stream_flags: recvfrom,
    resets: close sendto recvfrom,
    shutdowns: shutdown,
    states: poll,
    states_of_listeners: poll shutdown,
    edges: epoll_wait,
    full: sendto poll ioctl,
    timeouts: recvfrom sendto accept,
    interrupted: recvfrom,
    dissolved: connect,
    large: sendto recvfrom,
    low_water: recvfrom poll,
    spliced: splice sendfile,
    defaults: getsockopt,
    option_errors: setsockopt getsockopt,
    inherited: accept4 getsockopt,
    datagrams: sendto recvfrom,
    datagram_errors: sendto connect,
    datagram_refused: sendto recvfrom poll,
    datagram_states: poll shutdown,
    datagram_sizes: sendto,
    datagram_in_parts: sendto,
    datagram_families: sendto,
    datagram_choice: sendto,
    broadcasts: sendto,
    many_datagrams: sendmmsg recvmmsg,
    error_queue: recvmsg,
    packet_info: recvmsg sendmsg,
    hops: recvmsg sendmsg,
    pings: sendto recvfrom,
    loopback: ioctl unshare,
    interface_ioctls: ioctl,
    netlink_names: bind getsockname,
    netlink_dumps: sendto recvfrom,
    netlink_errors: sendto recvfrom,
    proc_files: read,
];

const V4: i32 = libc::AF_INET;
const V6: i32 = libc::AF_INET6;
const STREAM: i32 = libc::SOCK_STREAM;
const DGRAM: i32 = libc::SOCK_DGRAM;
const NONBLOCK: i32 = libc::SOCK_NONBLOCK;
const DONTWAIT: i32 = libc::MSG_DONTWAIT;
const QUIET: i32 = libc::MSG_NOSIGNAL;
const SOL: i32 = libc::SOL_SOCKET;
const ALL: i16 = 0x2007;

/// `struct ifreq` for `lo`, with the beginning of its second part.
fn request(rest: &[u8]) -> [u8; 40] {
    let mut bytes = [0; 40];
    bytes[..2].copy_from_slice(b"lo");
    bytes[16..16 + rest.len()].copy_from_slice(rest);
    bytes
}

/// A network namespace of this test's own, with its loopback up.
fn network() {
    must!(unshare, libc::CLONE_NEWNET);
    let fd = must!(socket, V4, DGRAM, 0);
    must!(ioctl, fd, 0x8914, p(&request(&1u16.to_ne_bytes())));
    must!(close, fd);
}

fn socket(family: i32, kind: i32) -> i32 {
    must!(socket, family, kind, 0) as i32
}

fn family_of(ip: &str) -> i32 {
    if ip.contains(':') { V6 } else { V4 }
}

/// A name: `127.0.0.1` and `::1` in their families.
fn address(ip: &str, port: u16) -> Vec<u8> {
    let family = (family_of(ip) as u16).to_ne_bytes();
    match ip.parse().expect("an address") {
        IpAddr::V4(ip) => [&family[..], &port.to_be_bytes(), &ip.octets(), &[0; 8]].concat(),
        IpAddr::V6(ip) => [&family[..], &port.to_be_bytes(), &[0; 4], &ip.octets(), &[0; 4]].concat(),
    }
}

fn show_address(bytes: &[u8], len: i32) -> String {
    if len == 0 {
        return "nobody".to_owned();
    }
    let port = u16::from_be_bytes([bytes[2], bytes[3]]);
    // One that was not chosen differs.
    let port = if port > 30_000 { "some".to_owned() } else { port.to_string() };
    match i32::from(u16::from_ne_bytes([bytes[0], bytes[1]])) {
        V4 => format!("{}.{}.{}.{}:{port} ({len})", bytes[4], bytes[5], bytes[6], bytes[7]),
        V6 => {
            let ip: [u8; 16] = bytes[8..24].try_into().expect("16 bytes");
            format!("[{}]:{port} ({len})", std::net::Ipv6Addr::from(ip))
        }
        other => format!("family {other} ({len})"),
    }
}

fn name_of(fd: i32) -> String {
    let (mut bytes, mut len) = ([0u8; 128], 128i32);
    match call!(getsockname, fd, out(&mut bytes), out(&mut len)) {
        0 => show_address(&bytes, len),
        error => result(error),
    }
}

fn peer_of(fd: i32) -> String {
    let (mut bytes, mut len) = ([0u8; 128], 128i32);
    match call!(getpeername, fd, out(&mut bytes), out(&mut len)) {
        0 => show_address(&bytes, len),
        error => result(error),
    }
}

fn port_of(fd: i32) -> u16 {
    let (mut bytes, mut len) = ([0u8; 128], 128i32);
    must!(getsockname, fd, out(&mut bytes), out(&mut len));
    u16::from_be_bytes([bytes[2], bytes[3]])
}

fn bind_to(fd: i32, ip: &str, port: u16) -> String {
    let a = address(ip, port);
    result(call!(bind, fd, p(&a[..]), a.len()))
}

fn connect_to(fd: i32, ip: &str, port: u16) -> String {
    let a = address(ip, port);
    result(call!(connect, fd, p(&a[..]), a.len()))
}

/// A listener.
fn listener(ip: &str, port: u16, backlog: i32) -> i32 {
    let fd = socket(family_of(ip), STREAM);
    let a = address(ip, port);
    must!(bind, fd, p(&a[..]), a.len());
    must!(listen, fd, backlog);
    fd
}

/// Two connected sockets: the one that connected, the one that was accepted.
fn connected(ip: &str) -> [i32; 2] {
    let l = listener(ip, 0, 5);
    let client = socket(family_of(ip), STREAM);
    let a = address(ip, port_of(l));
    must!(connect, client, p(&a[..]), a.len());
    let server = must!(accept4, l, 0, 0, 0) as i32;
    must!(close, l);
    [client, server]
}

fn send(fd: i32, text: &str, flags: i32) -> String {
    result(call!(sendto, fd, p(text.as_bytes()), text.len(), flags | QUIET, 0, 0))
}

fn send_to(fd: i32, text: &str, ip: &str, port: u16) -> String {
    let a = address(ip, port);
    result(call!(sendto, fd, p(text.as_bytes()), text.len(), DONTWAIT, p(&a[..]), a.len()))
}

fn recv(fd: i32, max: usize, flags: i32) -> String {
    let mut buffer = [0u8; 8192];
    match call!(recvfrom, fd, out(&mut buffer), max, flags, 0, 0) {
        n if n >= 0 => format!("{n} {:?}", String::from_utf8_lossy(&buffer[..(n as usize).min(max)])),
        error => result(error),
    }
}

/// Receives, and says who it is from.
fn recv_from(fd: i32) -> String {
    let (mut buffer, mut bytes, mut len) = ([0u8; 64], [0u8; 128], 128i32);
    match call!(recvfrom, fd, out(&mut buffer), 64, DONTWAIT, out(&mut bytes), out(&mut len)) {
        n if n >= 0 => {
            format!("{:?} from {}", String::from_utf8_lossy(&buffer[..n as usize]), show_address(&bytes, len))
        }
        error => result(error),
    }
}

fn get_of(fd: i32, level: i32, name: i32) -> String {
    let (mut value, mut len) = ([0u8; 64], 64i32);
    match call!(getsockopt, fd, level, name, out(&mut value), out(&mut len)) {
        0 if len == 4 => i32::from_ne_bytes([value[0], value[1], value[2], value[3]]).to_string(),
        0 => format!("{len} {:?}", String::from_utf8_lossy(&value[..len as usize])),
        error => result(error),
    }
}

fn get(fd: i32, name: i32) -> String {
    get_of(fd, SOL, name)
}

fn error_of(fd: i32) -> String {
    match get(fd, libc::SO_ERROR).as_str() {
        "0" => "none".to_owned(),
        number => number.parse().map_or("?".to_owned(), |n: i64| result(-n)),
    }
}

fn set_of(fd: i32, level: i32, name: i32, value: i32) -> String {
    result(call!(setsockopt, fd, level, name, p(&value), 4))
}

fn set(fd: i32, name: i32, value: i32) -> String {
    set_of(fd, SOL, name, value)
}

fn bytes_in(fd: i32, command: u64) -> String {
    let mut n = 0i32;
    match call!(ioctl, fd, command, out(&mut n)) {
        0 => n.to_string(),
        error => result(error),
    }
}
