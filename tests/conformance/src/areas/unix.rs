//! AF_UNIX sockets and what all sockets have.

use crate::helpers::*;
use crate::test::Test;

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

fn kinds(t: &mut T) {
    for kind in [0, 1, 2, 3, 4, 5, 6, 10, 11, 15, 0x10] {
        ok!(t, socket, UNIX, kind, 0);
    }
    for protocol in [1, 2, -1] {
        ok!(t, socket, UNIX, STREAM, protocol);
    }
    for family in [-1, 46, 99] {
        ok!(t, socket, family, STREAM, 0);
    }
    ok!(t, socket, 99, 15, 0);
    ok!(t, socket, UNIX, STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0);
    let mut s = [0i32; 2];
    show!(t, socketpair, UNIX, 3, 0, out(&mut s));
    say!(t, "{}", get(s[0], libc::SO_TYPE));
    show!(t, socketpair, UNIX, STREAM, 0, 8);
    show!(t, fcntl, socket(STREAM), libc::F_GETFL);
}

fn names(t: &mut T) {
    let a = socket(STREAM);
    say!(t, "{} | {}", name_of(a), peer_of(a));
    say!(t, "{} {}", result(bind(a, "path")), name_of(a));
    let b = socket(STREAM);
    say!(t, "{} {}", result(bind(b, "@conformance.names")), name_of(b));
    let s = pair(STREAM);
    say!(t, "{} | {}", name_of(s[0]), peer_of(s[0]));
    let (mut bytes, mut len) = ([7u8; 16], 4i32);
    show!(t, getsockname, a, out(&mut bytes), out(&mut len));
    say!(t, "{len} {:?}", &bytes[..6]);
    len = -1;
    show!(t, getsockname, a, out(&mut bytes), out(&mut len));
    let c_ = socket(DGRAM);
    show!(t, bind, c_, p(&1u16), 2);
    say!(t, "{}", name_of(c_).len());
    say!(t, "{:o}", std::os::unix::fs::MetadataExt::mode(&std::fs::metadata("path").expect("it")));
}

fn bind_errors(t: &mut T) {
    let a = socket(STREAM);
    show!(t, bind, a, p(&[1u8, 0]), 0);
    show!(t, bind, a, p(&[1u8, 0]), 1);
    show!(t, bind, a, p(&[2u8, 0, 1, 1]), 4);
    show!(t, bind, a, p(&[1u8; 200]), 111);
    show!(t, bind, a, p(&[1u8; 200]), 129);
    show!(t, bind, a, p(&[1u8; 200]), -1);
    file("f", "x");
    say!(t, "a file: {}", result(bind(a, "f")));
    say!(t, "no directory: {}", result(bind(a, "none/x")));
    say!(t, "{}", result(bind(a, "s")));
    say!(t, "twice: {}", result(bind(a, "t")));
    let b = socket(STREAM);
    say!(t, "taken: {}", result(bind(b, "s")));
    say!(t, "nobody listens: {}", result(connect(b, "s")));
    say!(t, "a file: {}", result(connect(b, "f")));
    say!(t, "nothing: {}", result(connect(b, "none")));
    say!(t, "nothing: {}", result(connect(b, "@conformance.none")));
    show!(t, connect, b, p(&[0u8, 0]), 2);
    show!(t, connect, b, p(&[1u8, 0]), 2);
    show!(t, listen, b, 5);
    show!(t, listen, socket(DGRAM), 5);
    show!(t, accept, a, 0, 0);
    show!(t, accept, socket(DGRAM), 0, 0);
    show!(t, accept4, a, 0, 0, 1);
    show!(t, connect, 99, p(&[1u8, 0]), 2);
}

fn stream(t: &mut T) {
    let l = socket(STREAM);
    bind(l, "@conformance.stream");
    show!(t, listen, l, 1);
    let a = socket(STREAM);
    say!(t, "{} {}", result(connect(a, "@conformance.stream")), poll(l, 1, 0));
    say!(t, "early: {}", send(a, "hello", 0));
    say!(t, "{} {}", result(connect(a, "@conformance.stream")), result(connect(l, "@conformance.stream")));
    let b = must!(accept4, l, 0, 0, libc::SOCK_NONBLOCK) as i32;
    say!(t, "{} | {} | {}", name_of(b), peer_of(b), peer_of(a));
    say!(t, "{} {}", recv(b, 100, 0), recv(b, 100, 0));
    say!(t, "to a name: {}", {
        let to = address("@x");
        result(call!(sendto, a, p("x"), 1, 0, p(&to[..]), to.len()))
    });
    must!(fcntl, l, libc::F_SETFL, libc::O_NONBLOCK);
    show!(t, accept, l, 0, 0);
    let others: Vec<String> = (0..4)
        .map(|_| {
            let c_ = socket(STREAM | libc::SOCK_NONBLOCK);
            result(connect(c_, "@conformance.stream"))
        })
        .collect();
    say!(t, "backlog: {}", others.join(" "));
    say!(t, "read a listener: {} {}", recv(l, 9, 0), send(l, "x", libc::MSG_NOSIGNAL));
    must!(close, l);
    say!(t, "{}", result(connect(socket(STREAM), "@conformance.stream")));
    say!(t, "{} {}", send(a, "still", 0), recv(b, 100, 0));
    must!(close, a);
    say!(t, "{} {}", recv(b, 100, 0), poll(b, 5, 0));
    say!(t, "{} {}", peer_of(b), send(b, "x", libc::MSG_NOSIGNAL));
}

fn stream_names_its_peer(t: &mut T) {
    let l = socket(STREAM);
    bind(l, "@conformance.named");
    must!(listen, l, 1);
    let a = socket(STREAM);
    bind(a, "@conformance.client");
    connect(a, "@conformance.named");
    let b = must!(accept, l, 0, 0) as i32;
    send(a, "x", 0);
    say!(t, "{}", recv_from(b));
    send(b, "x", 0);
    say!(t, "{}", recv_from(a));
    let s = pair(STREAM);
    send(s[0], "x", 0);
    say!(t, "{}", recv_from(s[1]));
    let (mut bytes, mut len) = ([0u8; 128], -1i32);
    send(a, "y", 0);
    show!(t, recvfrom, b, out(&mut [0u8; 4]), 4, 0, out(&mut bytes), out(&mut len));
}

fn shutdowns(t: &mut T) {
    for kind in [STREAM, SEQ, DGRAM] {
        say!(t, "kind {kind}");
        show!(t, shutdown, socket(kind), 2);
        let s = pair(kind | libc::SOCK_NONBLOCK);
        show!(t, shutdown, s[0], 3);
        send(s[0], "left", 0);
        show!(t, shutdown, s[0], 1);
        say!(t, "{} {}", send(s[0], "x", libc::MSG_NOSIGNAL), poll(s[1], 0x2005, 0));
        say!(t, "{} {}", recv(s[1], 9, 0), recv(s[1], 9, 0));
        say!(t, "back: {} {}", send(s[1], "x", libc::MSG_NOSIGNAL), recv(s[0], 9, 0));
        show!(t, shutdown, s[0], 0);
        say!(t, "{} {}", send(s[1], "x", libc::MSG_NOSIGNAL), recv(s[0], 9, 0));
        say!(t, "{} {}", poll(s[0], 0x2005, 0), poll(s[1], 0x2005, 0));
    }
}

fn broken(t: &mut T) {
    for kind in [STREAM, SEQ, DGRAM] {
        handle(libc::SIGPIPE, count, 0, 0);
        let told = || COUNT.swap(0, std::sync::atomic::Ordering::Relaxed);
        let s = pair(kind);
        must!(close, s[1]);
        say!(t, "{kind}: {} {}", send(s[0], "x", 0), told());
        say!(t, "{} {}", send(s[0], "x", libc::MSG_NOSIGNAL), told());
        say!(t, "write {} {}", result(write(s[0], "x")), told());
        say!(t, "{} {}", recv(s[0], 9, DONTWAIT), poll(s[0], 5, 0));
        let s = pair(kind);
        send(s[0], "unread", 0);
        must!(close, s[1]);
        say!(t, "unread: {} {}", get(s[0], libc::SO_ERROR), get(s[0], libc::SO_ERROR));
        let s = pair(kind);
        send(s[0], "unread", 0);
        must!(close, s[1]);
        say!(t, "{} {}", recv(s[0], 9, DONTWAIT), recv(s[0], 9, DONTWAIT));
        told();
    }
}

fn descriptors(t: &mut T) {
    for kind in [STREAM, DGRAM, SEQ] {
        let s = pair(kind);
        file("f", "content");
        let f = open("f", O_RDONLY) as i32;
        say!(t, "{}", send_with(s[0], "x", &rights(&[f, f])));
        must!(close, f);
        let (text, found) = recv_with(s[1], 9, 64, libc::MSG_CMSG_CLOEXEC);
        say!(t, "{text}");
        for fd in found.iter().flat_map(|(_, data)| data.chunks(4)) {
            let fd = i32::from_ne_bytes(fd.try_into().unwrap_or([0; 4]));
            say!(t, "{:?} {}", read(fd), call!(fcntl, fd, libc::F_GETFD));
        }
        say!(t, "peek: {}", send_with(s[0], "y", &rights(&[0])));
        say!(t, "{}", recv_with(s[1], 9, 64, libc::MSG_PEEK).0);
        say!(t, "{}", recv_with(s[1], 9, 64, 0).0);
        say!(t, "{}", recv_with(s[1], 9, 64, 0).0);
    }
}

fn descriptors_join_bytes(t: &mut T) {
    let s = pair(STREAM);
    send(s[0], "ab", 0);
    send_with(s[0], "cd", &rights(&[0]));
    send(s[0], "ef", 0);
    say!(t, "{}", recv_with(s[1], 99, 64, 0).0);
    say!(t, "{}", recv_with(s[1], 99, 64, 0).0);
    send_with(s[0], "abcd", &rights(&[0]));
    send_with(s[0], "efgh", &rights(&[0, 1]));
    say!(t, "{}", recv_with(s[1], 2, 64, 0).0);
    say!(t, "{}", recv_with(s[1], 99, 64, 0).0);
    say!(t, "{}", recv_with(s[1], 99, 64, 0).0);
    send_with(s[0], "ab", &rights(&[0]));
    say!(t, "plain: {} then {}", recv(s[1], 99, 0), recv(s[1], 9, DONTWAIT));
}

fn descriptors_truncated(t: &mut T) {
    let s = pair(STREAM);
    for room in [0, 8, 16, 20, 24, 27, 28, 40] {
        send_with(s[0], "x", &rights(&[0, 1, 2]));
        say!(t, "{room}: {}", recv_with(s[1], 9, room, 0).0);
    }
    must!(setsockopt, s[1], SOL, libc::SO_PASSCRED, p(&1i32), 4);
    for room in [0, 8, 16, 20, 28, 32, 48, 52] {
        send_with(s[0], "x", &rights(&[0]));
        say!(t, "{room}: {}", recv_with(s[1], 9, room, 0).0);
    }
}

fn show_ids(found: &[(i32, Vec<u8>)]) -> String {
    let me = must!(getpid) as i32;
    found
        .iter()
        .filter(|(kind, _)| *kind == libc::SCM_CREDENTIALS)
        .map(|(_, data)| {
            let word = |at: usize| i32::from_ne_bytes(data[at..at + 4].try_into().unwrap_or([0; 4]));
            let who = if word(0) == me { "me".to_owned() } else { format!("{}", word(0).min(1)) };
            format!("{who} {} {}", word(4), word(8))
        })
        .collect()
}

fn credentials(t: &mut T) {
    for kind in [STREAM, DGRAM] {
        let s = pair(kind);
        send(s[0], "before", 0);
        say!(t, "{}", set(s[1], libc::SO_PASSCRED, 1));
        let (text, found) = recv_with(s[1], 99, 64, 0);
        say!(t, "{text} {}", show_ids(&found));
        send(s[0], "after", 0);
        let (text, found) = recv_with(s[1], 99, 64, 0);
        say!(t, "{text} {}", show_ids(&found));
        must!(setresgid, 5, 6, 7);
        must!(setresuid, 0, NOBODY, 0);
        send(s[0], "as", 0);
        let (text, found) = recv_with(s[1], 99, 64, 0);
        say!(t, "{text} {}", show_ids(&found));
        must!(setresuid, 0, 0, 0);
        must!(setresgid, 0, 0, 0);
        say!(t, "{}", set(s[1], libc::SO_PASSCRED, 0));
        send(s[0], "off", 0);
        say!(t, "{}", recv_with(s[1], 99, 64, 0).0);
    }
    // Bytes of two senders are not joined for who wants to know.
    let s = pair(STREAM);
    set(s[1], libc::SO_PASSCRED, 1);
    send(s[0], "ab", 0);
    child(|| {
        send(s[0], "cd", 0);
        0
    });
    send(s[0], "ef", 0);
    for _ in 0..3 {
        say!(t, "{}", recv_with(s[1], 99, 64, 0).0);
    }
}

fn credentials_by_id(t: &mut T) {
    let s = pair(DGRAM);
    set(s[1], libc::SO_PASSCRED, 1);
    let me = must!(getpid) as i32;
    let with = |pid, uid, gid| {
        let sent = send_with(s[0], "x", &ids(pid, uid, gid));
        format!("{sent} {}", show_ids(&recv_with(s[1], 9, 64, 0).1))
    };
    say!(t, "{}", with(me, 0, 0));
    say!(t, "{}", with(me, 1234, 5));
    say!(t, "{}", with(1, 0, 0));
    say!(t, "{}", with(99_999_999, 0, 0));
    say!(t, "{}", with(me, u32::MAX, 0));
    let ended = as_nobody(|| {
        let t = &mut T::default();
        let me = must!(getpid) as i32;
        say!(t, "{}", with(me, NOBODY, NOBODY));
        say!(t, "{}", with(me, 0, NOBODY));
        say!(t, "{}", with(me, NOBODY, 0));
        say!(t, "{}", with(1, NOBODY, NOBODY));
    });
    say!(t, "{ended}");
}

fn control_errors(t: &mut T) {
    let s = pair(STREAM);
    say!(t, "unknown: {}", send_with(s[0], "x", &control(SOL, 77, &[0; 4])));
    say!(t, "other level: {}", send_with(s[0], "x", &control(6, 1, &[0; 4])));
    say!(t, "bad descriptor: {}", send_with(s[0], "x", &rights(&[99])));
    say!(t, "none: {}", send_with(s[0], "x", &rights(&[])));
    say!(t, "too many: {}", send_with(s[0], "x", &rights(&[0; 254])));
    say!(t, "most: {}", send_with(s[0], "x", &rights(&[0; 253])));
    say!(t, "short: {}", send_with(s[0], "x", &rights(&[0])[..12]));
    let mut bad = rights(&[0]);
    bad[0] = 200;
    say!(t, "beyond: {}", send_with(s[0], "x", &bad));
    bad[0] = 8;
    say!(t, "too small: {}", send_with(s[0], "x", &bad));
    say!(t, "ids short: {}", send_with(s[0], "x", &control(SOL, 2, &[0; 8])));
    say!(t, "large: {}", send_with(s[0], "x", &vec![0; 30_000]));
    say!(t, "no bytes: {}", send_with(s[0], "", &rights(&[0])));
    let header = Header { count: 2000, ..Header::default() };
    show!(t, sendmsg, s[0], p(&header), 0);
    let header = Header { name: 8, name_len: u64::from(u32::MAX), ..Header::default() };
    show!(t, sendmsg, s[0], p(&header), 0);
}

fn datagrams(t: &mut T) {
    let a = socket(DGRAM);
    bind(a, "@conformance.a");
    let b = socket(DGRAM);
    let to = address("@conformance.a");
    show!(t, sendto, b, p("one"), 3, 0, p(&to[..]), to.len());
    say!(t, "{}", recv_from(a));
    bind(b, "@conformance.b");
    show!(t, sendto, b, p("two"), 3, 0, p(&to[..]), to.len());
    say!(t, "{}", recv_from(a));
    show!(t, sendto, b, p(""), 0, 0, p(&to[..]), to.len());
    say!(t, "{}", recv_from(a));
    say!(t, "{}", send(b, "x", 0));
    say!(t, "{} {}", result(connect(b, "@conformance.a")), peer_of(b));
    say!(t, "{} {}", send(b, "three", 0), recv(a, 2, libc::MSG_TRUNC));
    say!(t, "{} {}", send(b, "four", 0), recv(a, 2, 0));
    say!(t, "{}", recv(a, 2, DONTWAIT));
    let other = socket(STREAM);
    say!(t, "kind: {}", result(connect(other, "@conformance.a")));
    show!(t, connect, b, p(&[0u8, 0]), 2);
    say!(t, "{} {}", peer_of(b), send(b, "x", 0));
    let big = vec![b'x'; 300_000];
    show!(t, sendto, b, p(&big[..]), 300_000, DONTWAIT, p(&to[..]), to.len());
    let none = address("@conformance.none");
    show!(t, sendto, b, p("x"), 1, 0, p(&none[..]), none.len());
    show!(t, sendto, b, hole(), 1, 0, p(&none[..]), none.len());
}

fn messages(t: &mut T) {
    let s = pair(SEQ);
    say!(t, "{} {}", send(s[0], "one", 0), send(s[0], "", 0));
    say!(t, "{} | {}", recv_with(s[1], 2, 0, 0).0, recv_with(s[1], 9, 0, 0).0);
    let to = address("@conformance.none");
    show!(t, sendto, s[0], p("x"), 1, 0, p(&to[..]), to.len());
    say!(t, "{}", recv_with(s[1], 9, 0, libc::MSG_TRUNC).0);
    say!(t, "{} {}", send(socket(SEQ), "x", 0), recv(socket(SEQ), 9, DONTWAIT));
    say!(t, "{} {}", send(socket(STREAM), "x", 0), recv(socket(STREAM), 9, DONTWAIT));
    say!(t, "{} {}", send(socket(DGRAM), "x", 0), recv(socket(DGRAM), 9, DONTWAIT));
    // A message that cannot be stored is lost, bytes of a stream are not.
    send(s[0], "two", 0);
    show!(t, recvfrom, s[1], hole(), 9, 0, 0, 0);
    say!(t, "{}", recv(s[1], 9, DONTWAIT));
    let s = pair(STREAM);
    send(s[0], "two", 0);
    show!(t, recvfrom, s[1], hole(), 9, 0, 0, 0);
    say!(t, "{}", recv(s[1], 9, DONTWAIT));
}

fn options(t: &mut T) {
    let s = pair(STREAM);
    for name in [1, 2, 3, 4, 5, 6, 9, 10, 11, 12, 14, 15, 16, 18, 19, 29, 30, 34, 35, 36, 38, 39, 40, 42, 43, 45] {
        say!(t, "{name}: {} set {} {}", get(s[0], name), set(s[0], name, 1), get(s[0], name));
    }
    for name in [7, 8, 32, 33] {
        say!(t, "{name}: {} {} {}", get(s[0], name), set(s[0], name, 20_000), get(s[0], name));
        say!(t, "{name}: {} {} {}", set(s[0], name, 0), set(s[0], name, -1), get(s[0], 7));
    }
    say!(t, "{}", get(s[0], libc::SO_LINGER));
    show!(t, setsockopt, s[0], SOL, libc::SO_LINGER, p(&[1i32, 5]), 8);
    say!(t, "{}", get(s[0], libc::SO_LINGER));
    for name in [20, 21, 66, 67] {
        say!(t, "{}", get(s[0], name));
        show!(t, setsockopt, s[0], SOL, name, p(&[3u64, 4000]), 16);
        say!(t, "{}", get(s[0], name));
        show!(t, setsockopt, s[0], SOL, name, p(&[0u64, 1_000_000]), 16);
        show!(t, setsockopt, s[0], SOL, name, p(&[0u64, 0]), 8);
    }
    // One of the two.
    say!(t, "{} {} {}", set(s[0], 29, 1), set(s[0], 35, 1), get(s[0], 29));
}

fn option_errors(t: &mut T) {
    let s = pair(STREAM);
    show!(t, setsockopt, s[0], SOL, libc::SO_REUSEADDR, p(&1i32), 3);
    show!(t, setsockopt, s[0], SOL, libc::SO_REUSEADDR, p(&1i32), -1);
    show!(t, setsockopt, s[0], SOL, libc::SO_REUSEADDR, 8, 4);
    show!(t, setsockopt, s[0], SOL, 999, p(&1i32), 4);
    show!(t, setsockopt, s[0], SOL, 999, 8, 4);
    show!(t, setsockopt, s[0], SOL, libc::SO_LINGER, p(&1i32), 4);
    show!(t, setsockopt, s[0], 6, 1, p(&1i32), 4);
    let (mut value, mut len) = (0u64, 2i32);
    show!(t, getsockopt, s[0], SOL, libc::SO_TYPE, out(&mut value), out(&mut len));
    say!(t, "{value} {len}");
    len = -1;
    show!(t, getsockopt, s[0], SOL, libc::SO_TYPE, out(&mut value), out(&mut len));
    len = 8;
    show!(t, getsockopt, s[0], SOL, 999, out(&mut value), out(&mut len));
    show!(t, getsockopt, s[0], 6, 1, out(&mut value), out(&mut len));
    show!(t, getsockopt, s[0], SOL, libc::SO_TYPE, 8, out(&mut len));
    show!(t, getsockopt, 0, SOL, libc::SO_TYPE, out(&mut value), out(&mut len));
    let ended = as_nobody(|| {
        let t = &mut T::default();
        say!(t, "{} {}", set(s[0], libc::SO_DEBUG, 1), set(s[0], libc::SO_DEBUG, 0));
        say!(t, "{} {} {}", set(s[0], 12, 6), set(s[0], 12, 7), set(s[0], 12, -1));
        say!(t, "{} {} {}", set(s[0], 36, 1), set(s[0], 32, 1), set(s[0], 33, 1));
    });
    say!(t, "{ended}");
}

fn groups_of(fd: i32, room: i32) -> String {
    let (mut value, mut len) = ([0u32; 16], room);
    let got = call!(getsockopt, fd, SOL, libc::SO_PEERGROUPS, out(&mut value), out(&mut len));
    format!("{} {len} {:?}", result(got), &value[..(len as usize / 4).min(16)])
}

fn peer(t: &mut T) {
    let me = must!(getpid) as i32;
    must!(setgroups, 3, p(&[7u32, 5, 9]));
    let who = |fd: i32| {
        let (mut value, mut len) = ([0i32; 3], 12i32);
        let got = call!(getsockopt, fd, SOL, libc::SO_PEERCRED, out(&mut value), out(&mut len));
        let pid = if value[0] == me { "me".to_owned() } else { value[0].min(1).to_string() };
        format!("{} {len} {pid} {} {}", result(got), value[1], value[2])
    };
    let s = pair(STREAM);
    say!(t, "{} | {}", who(s[0]), groups_of(s[0], 64));
    say!(t, "{} | {}", groups_of(s[0], 8), groups_of(s[0], 12));
    let a = socket(STREAM);
    say!(t, "{} | {}", who(a), groups_of(a, 64));
    let l = socket(STREAM);
    bind(l, "@conformance.peer");
    must!(listen, l, 5);
    say!(t, "{}", who(l));
    must!(setgroups, 1, p(&[8u32]));
    must!(setresuid, 0, NOBODY, 0);
    connect(a, "@conformance.peer");
    must!(setresuid, 0, 0, 0);
    let b = must!(accept, l, 0, 0) as i32;
    say!(t, "{} | {} | {}", who(a), who(b), groups_of(b, 64));
    let mut name = [0u8; 64];
    let mut len = 20i32;
    show!(t, getsockopt, a, SOL, libc::SO_PEERNAME, out(&mut name), out(&mut len));
    say!(t, "{}", show_address(&name, len));
    len = 64;
    show!(t, getsockopt, a, SOL, libc::SO_PEERNAME, out(&mut name), out(&mut len));
    show!(t, getsockopt, socket(STREAM), SOL, libc::SO_PEERNAME, out(&mut name), out(&mut len));
    show!(t, getsockopt, a, SOL, libc::SO_PEERSEC, out(&mut name), out(&mut len));
    len = 4;
    show!(t, getsockopt, a, SOL, libc::SO_COOKIE, out(&mut name), out(&mut len));
    len = 8;
    show!(t, getsockopt, a, SOL, libc::SO_COOKIE, out(&mut name), out(&mut len));
}

fn peer_processes(t: &mut T) {
    const PASSPIDFD: i32 = 76;
    const PEERPIDFD: i32 = 77;
    let s = pair(STREAM);
    let (mut fd, mut len) = (-1i32, 4i32);
    show!(t, getsockopt, s[0], SOL, PEERPIDFD, out(&mut fd), out(&mut len));
    say!(t, "{}", result(call!(pidfd_send_signal, fd, 0, 0, 0)));
    show!(t, getsockopt, socket(STREAM), SOL, PEERPIDFD, out(&mut fd), out(&mut len));
    say!(t, "{} {} {}", get(s[1], PASSPIDFD), set(s[1], PASSPIDFD, 1), get(s[1], PASSPIDFD));
    send(s[0], "x", 0);
    let (text, found) = recv_with(s[1], 9, 64, 0);
    say!(t, "{text}");
    for (_, data) in found {
        let fd = i32::from_ne_bytes(data.try_into().unwrap_or([0; 4]));
        say!(t, "{}", result(call!(pidfd_send_signal, fd, 0, 0, 0)));
    }
    send(s[0], "x", 0);
    say!(t, "{}", recv_with(s[1], 9, 16, 0).0);
}

fn timestamps(t: &mut T) {
    for (name, option) in [("datagram", 29), ("nanoseconds", 35)] {
        let s = pair(DGRAM);
        send(s[0], "before", 0);
        set(s[1], option, 1);
        say!(t, "{name} before: {}", recv_with(s[1], 9, 0, DONTWAIT).0.len());
        send(s[0], "x", 0);
        say!(t, "{}", recv_with(s[1], 9, 64, 0).0);
    }
    let s = pair(STREAM);
    set(s[1], 29, 1);
    send(s[0], "x", 0);
    say!(t, "stream: {}", recv_with(s[1], 9, 64, 0).0);
}

fn low_water(t: &mut T) {
    let s = pair(STREAM);
    say!(t, "{} {}", set(s[1], libc::SO_RCVLOWAT, 4), get(s[1], libc::SO_RCVLOWAT));
    send(s[0], "ab", 0);
    say!(t, "{}", recv(s[1], 9, DONTWAIT));
    send(s[0], "cd", 0);
    let pid = fork(|| {
        sleep_ms(50);
        send(s[0], "ef", 0);
        0
    });
    say!(t, "{}", recv(s[1], 9, 0));
    wait(pid);
    say!(t, "{}", set(s[1], libc::SO_RCVLOWAT, -5));
    say!(t, "{} {}", get(s[1], libc::SO_RCVLOWAT), set(s[1], libc::SO_RCVLOWAT, 0));
    say!(t, "{}", get(s[1], libc::SO_RCVLOWAT));
}

fn timeouts(t: &mut T) {
    let quick = [0u64, 20_000];
    let s = pair(STREAM);
    must!(setsockopt, s[0], SOL, libc::SO_RCVTIMEO, p(&quick), 16);
    must!(setsockopt, s[0], SOL, libc::SO_SNDTIMEO, p(&quick), 16);
    say!(t, "{}", recv(s[0], 9, 0));
    let big = vec![b'x'; 100_000];
    let mut last = 0;
    for _ in 0..20 {
        last = call!(write, s[0], p(&big[..]), big.len());
        if last < 0 {
            break;
        }
    }
    say!(t, "{}", result(last));
    let l = socket(STREAM);
    bind(l, "@conformance.timeouts");
    must!(listen, l, 0);
    must!(setsockopt, l, SOL, libc::SO_RCVTIMEO, p(&quick), 16);
    show!(t, accept, l, 0, 0);
    let one = socket(STREAM);
    say!(t, "{}", result(connect(one, "@conformance.timeouts")));
    let two = socket(STREAM);
    must!(setsockopt, two, SOL, libc::SO_SNDTIMEO, p(&quick), 16);
    say!(t, "{}", result(connect(two, "@conformance.timeouts")));
}

fn peeking(t: &mut T) {
    let s = pair(STREAM);
    send(s[0], "abc", 0);
    send(s[0], "def", 0);
    say!(t, "{} {}", recv(s[1], 4, libc::MSG_PEEK), recv(s[1], 9, libc::MSG_PEEK));
    say!(t, "{} {}", set(s[1], 42, 1), recv(s[1], 2, libc::MSG_PEEK));
    say!(t, "{} {}", get(s[1], 42), recv(s[1], 9, libc::MSG_PEEK));
    say!(t, "{} {} {}", recv(s[1], 9, libc::MSG_PEEK | DONTWAIT), recv(s[1], 4, 0), get(s[1], 42));
    let s = pair(DGRAM);
    send(s[0], "abc", 0);
    say!(t, "{} {}", recv(s[1], 2, libc::MSG_PEEK), recv(s[1], 9, libc::MSG_PEEK | libc::MSG_TRUNC));
    say!(t, "{} {}", recv(s[1], 9, 0), recv(s[1], 9, DONTWAIT | libc::MSG_PEEK));
}

fn not_sockets(t: &mut T) {
    let (r, _w) = pipe(0);
    let a = address("x");
    show!(t, bind, r, p(&a[..]), a.len());
    show!(t, listen, r, 1);
    show!(t, connect, r, p(&a[..]), a.len());
    show!(t, accept, r, 0, 0);
    show!(t, shutdown, r, 9);
    show!(t, getsockname, r, 8, 8);
    show!(t, sendto, r, p("x"), 1, 0, 0, 0);
    show!(t, recvfrom, r, out(&mut [0u8; 4]), 4, 0, 0, 0);
    show!(t, setsockopt, r, SOL, 2, p(&1i32), 4);
    show!(t, sendmsg, 99, 0, 0);
    let s = pair(STREAM);
    show!(t, lseek, s[0], 0, 1);
    show!(t, pread64, s[0], out(&mut [0u8; 4]), 4, 0);
    show!(t, ioctl, s[0], 0x1234, 0);
    show!(t, openat, AT_FDCWD, c(&format!("/proc/self/fd/{}", s[0])).as_c_str(), O_RDWR, 0);
}

/// Records of eight bytes that several read from one stream stay whole.
fn readers_race(t: &mut T) {
    let s = pair(STREAM);
    let (r, w) = pipe(0);
    let readers: Vec<i64> = (0..3)
        .map(|_| {
            fork(|| {
                must!(close, s[0]);
                let mut broken = 0u8;
                let mut count = 0u16;
                loop {
                    let mut record = [0u8; 8];
                    match call!(recvfrom, s[1], out(&mut record), 8, libc::MSG_WAITALL, 0, 0) {
                        8 => {
                            count += 1;
                            broken |= u8::from(record.iter().any(|b| *b != record[0]));
                        }
                        _ => break,
                    }
                }
                let [low, high] = count.to_le_bytes();
                must!(write, w, p(&[broken, low, high]), 3);
                0
            })
        })
        .collect();
    must!(close, s[1]);
    for i in 0..600u32 {
        must!(write, s[0], p(&[i as u8; 24]), 24);
    }
    must!(close, s[0]);
    readers.into_iter().for_each(|pid| drop(wait(pid)));
    let (mut all, mut broken) = (0, 0);
    for _ in 0..3 {
        let mut said = [0u8; 3];
        must!(read, r, out(&mut said), 3);
        broken += said[0];
        all += u32::from(u16::from_le_bytes([said[1], said[2]]));
    }
    say!(t, "{all} broken {broken}");
}
