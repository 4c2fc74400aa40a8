//! AF_UNIX sockets and what all sockets have.

mod credentials;
mod datagrams;
mod full;
mod names;
mod options;
mod rights;
mod states;
mod streams;

use crate::helpers::*;
use crate::sockets::*;
use crate::test::Test;
use credentials::*;
use datagrams::*;
use full::*;
use names::names; // and not the helper of that name
use names::*;
use options::*;
use rights::*;
use states::*;
use streams::*;

pub const TESTS: &[Test] = tests![
    kinds: socket socketpair,
    names: bind getsockname getpeername,
    bind_errors: bind connect,
    stream: connect accept listen shutdown,
    stream_names_its_peer: recvfrom recvmsg,
    shutdowns: shutdown,
    broken: sendto,
    descriptors: sendmsg recvmsg,
    descriptors_join_bytes: recvmsg,
    descriptors_truncated: recvmsg,
    credentials: sendmsg recvmsg,
    credentials_by_id: sendmsg,
    control_errors: sendmsg,
    datagrams: sendto recvfrom,
    messages: sendmsg recvmsg,
    options: setsockopt getsockopt,
    option_errors: setsockopt getsockopt,
    peer: getsockopt,
    peer_processes: getsockopt,
    timestamps: recvmsg,
    low_water: recvfrom,
    timeouts: recvfrom sendto connect accept,
    peeking: recvfrom,
    not_sockets: bind,
    #[race]
    readers_race: read,
    receive_flags: recvfrom,
    send_flags: sendto,
    states_of_streams: poll sendto recvfrom,
    states_of_messages: poll sendto recvfrom,
    states_of_datagrams: poll sendto recvfrom,
    states_of_listeners: poll accept listen,
    listener_closed: accept close,
    listener_shut: shutdown accept,
    lengths: ioctl,
    nothing: sendto recvfrom,
    all_of_it: recvfrom,
    backlog: listen connect,
    connect_waits: connect,
    accept_flags: accept4,
    accept_errors: accept,
    connect_again: connect,
    full_stream: sendto poll,
    full_datagrams: sendto poll,
    full_peer: sendto poll,
    too_long: sendto setsockopt,
    interrupted: recvfrom sendto accept connect,
    interrupted_in_part: sendto recvfrom,
    autobind: bind,
    paths: bind connect,
    path_access: connect,
    many_messages: sendmmsg recvmmsg,
    peer_of_each_kind: getsockopt,
    rights_limit: sendmsg,
    rights_no_room: recvmsg,
    rights_unread: close,
    cycles: sendmsg close,
    cycle_of_listeners: sendmsg close,
    spliced: splice sendfile,
];

const UNIX: i32 = libc::AF_UNIX;
const SEQ: i32 = libc::SOCK_SEQPACKET;

fn pair(kind: i32) -> [i32; 2] {
    let mut s = [0i32; 2];
    must!(socketpair, UNIX, kind, 0, out(&mut s));
    s
}

fn socket(kind: i32) -> i32 {
    must!(socket, UNIX, kind, 0) as i32
}

/// `struct sockaddr_un`: a path, or with `@` an abstract name.
fn address(name: &str) -> Vec<u8> {
    let mut bytes = (UNIX as u16).to_ne_bytes().to_vec();
    match name.strip_prefix('@') {
        Some(rest) => {
            bytes.push(0);
            bytes.extend(rest.bytes());
        }
        None => {
            bytes.extend(name.bytes());
            bytes.push(0);
        }
    }
    bytes
}

fn bind(fd: i32, name: &str) -> i64 {
    let a = address(name);
    call!(bind, fd, p(&a[..]), a.len())
}

fn connect(fd: i32, name: &str) -> i64 {
    let a = address(name);
    call!(connect, fd, p(&a[..]), a.len())
}

fn rights(fds: &[i32]) -> Vec<u8> {
    control(SOL, libc::SCM_RIGHTS, &fds.iter().flat_map(|fd| fd.to_ne_bytes()).collect::<Vec<u8>>())
}

fn ids(pid: i32, uid: u32, gid: u32) -> Vec<u8> {
    let data = [pid.to_ne_bytes(), uid.to_ne_bytes(), gid.to_ne_bytes()].concat();
    control(SOL, libc::SCM_CREDENTIALS, &data)
}

fn send_with(fd: i32, text: &str, control: &[u8]) -> String {
    let vector = [p(text.as_bytes()), text.len() as u64];
    let header = Header {
        vector: p(&vector),
        count: 1,
        control: if control.is_empty() { 0 } else { p(control) },
        control_len: control.len() as u64,
        ..Header::default()
    };
    result(call!(sendmsg, fd, p(&header), libc::MSG_NOSIGNAL | DONTWAIT))
}

/// Receives `max` bytes and `room` bytes of control: text, flags, and what each control message is.
fn recv_with(fd: i32, max: usize, room: usize, flags: i32) -> (String, Vec<(i32, Vec<u8>)>) {
    let mut text = vec![0u8; max];
    let mut bytes = vec![0u8; room];
    let vector = [out(&mut text[..]), max as u64];
    let mut header = Header {
        vector: p(&vector),
        count: 1,
        control: if room == 0 { 0 } else { out(&mut bytes[..]) },
        control_len: room as u64,
        ..Header::default()
    };
    let n = call!(recvmsg, fd, out(&mut header), flags | DONTWAIT);
    if n < 0 {
        return (result(n), Vec::new());
    }
    let used = header.control_len as usize;
    let found: Vec<_> = controls(&bytes[..used.min(room)]).into_iter().map(|c| (c.kind, c.data)).collect();
    let kinds: Vec<String> = found.iter().map(|(kind, data)| format!("{kind}:{}", data.len())).collect();
    let text = String::from_utf8_lossy(&text[..(n as usize).min(max)]).into_owned();
    (format!("{n} {text:?} flags {:x} control {used} [{}]", header.flags as u32, kinds.join(" ")), found)
}
