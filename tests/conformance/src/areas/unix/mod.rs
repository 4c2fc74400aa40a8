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
const STREAM: i32 = libc::SOCK_STREAM;
const DGRAM: i32 = libc::SOCK_DGRAM;
const SEQ: i32 = libc::SOCK_SEQPACKET;
const DONTWAIT: i32 = libc::MSG_DONTWAIT;
const SOL: i32 = libc::SOL_SOCKET;

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

fn show_address(bytes: &[u8], len: i32) -> String {
    let name = &bytes[2.min(len as usize)..(len as usize).min(bytes.len())];
    let text: String = name.iter().map(|b| if *b == 0 { '@' } else { *b as char }).collect();
    format!("{len} {text}")
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

fn send(fd: i32, text: &str, flags: i32) -> String {
    result(call!(sendto, fd, p(text.as_bytes()), text.len(), flags, 0, 0))
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

/// A control message.
fn control(level: i32, kind: i32, data: &[u8]) -> Vec<u8> {
    let mut bytes = (16 + data.len()).to_ne_bytes().to_vec();
    bytes.extend(level.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

fn rights(fds: &[i32]) -> Vec<u8> {
    control(SOL, libc::SCM_RIGHTS, &fds.iter().flat_map(|fd| fd.to_ne_bytes()).collect::<Vec<u8>>())
}

fn ids(pid: i32, uid: u32, gid: u32) -> Vec<u8> {
    let data = [pid.to_ne_bytes(), uid.to_ne_bytes(), gid.to_ne_bytes()].concat();
    control(SOL, libc::SCM_CREDENTIALS, &data)
}

#[repr(C)]
#[derive(Default)]
struct Header {
    name: u64,
    name_len: u64,
    vector: u64,
    count: u64,
    control: u64,
    control_len: u64,
    flags: u64,
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
    let mut rest = &bytes[..used.min(room)];
    let mut found = Vec::new();
    while rest.len() >= 16 {
        let len = u64::from_ne_bytes(rest[..8].try_into().unwrap_or([0; 8])) as usize;
        let kind = i32::from_ne_bytes(rest[12..16].try_into().unwrap_or([0; 4]));
        found.push((kind, rest[16..len.clamp(16, rest.len())].to_vec()));
        rest = &rest[len.next_multiple_of(8).clamp(16, rest.len())..];
    }
    let kinds: Vec<String> = found.iter().map(|(kind, data)| format!("{kind}:{}", data.len())).collect();
    let text = String::from_utf8_lossy(&text[..(n as usize).min(max)]).into_owned();
    (format!("{n} {text:?} flags {:x} control {used} [{}]", header.flags as u32, kinds.join(" ")), found)
}

fn get(fd: i32, name: i32) -> String {
    let (mut value, mut len) = ([0u8; 64], 64i32);
    match call!(getsockopt, fd, SOL, name, out(&mut value), out(&mut len)) {
        0 if len == 4 => i32::from_ne_bytes([value[0], value[1], value[2], value[3]]).to_string(),
        0 => format!("{len} {:?}", &value[..len as usize]),
        error => result(error),
    }
}

fn set(fd: i32, name: i32, value: i32) -> String {
    result(call!(setsockopt, fd, SOL, name, p(&value), 4))
}

