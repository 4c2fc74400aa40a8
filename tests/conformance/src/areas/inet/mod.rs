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
use crate::sockets::{self, *};
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
const NONBLOCK: i32 = libc::SOCK_NONBLOCK;
const QUIET: i32 = libc::MSG_NOSIGNAL;
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

/// Sends without a SIGPIPE.
fn send(fd: i32, text: &str, flags: i32) -> String {
    sockets::send(fd, text, flags | QUIET)
}

fn send_to(fd: i32, text: &str, ip: &str, port: u16) -> String {
    let a = address(ip, port);
    result(call!(sendto, fd, p(text.as_bytes()), text.len(), DONTWAIT, p(&a[..]), a.len()))
}

fn error_of(fd: i32) -> String {
    match get(fd, libc::SO_ERROR).as_str() {
        "0" => "none".to_owned(),
        number => number.parse().map_or("?".to_owned(), |n: i64| result(-n)),
    }
}

fn bytes_in(fd: i32, command: u64) -> String {
    let mut n = 0i32;
    match call!(ioctl, fd, command, out(&mut n)) {
        0 => n.to_string(),
        error => result(error),
    }
}
