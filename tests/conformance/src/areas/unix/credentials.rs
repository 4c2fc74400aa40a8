//! Who is at the other end.

use super::*;

pub(super) fn show_ids(found: &[(i32, Vec<u8>)]) -> String {
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

pub(super) fn credentials(t: &mut T) {
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

pub(super) fn credentials_by_id(t: &mut T) {
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

pub(super) fn groups_of(fd: i32, room: i32) -> String {
    let (mut value, mut len) = ([0u32; 16], room);
    let got = call!(getsockopt, fd, SOL, libc::SO_PEERGROUPS, out(&mut value), out(&mut len));
    format!("{} {len} {:?}", result(got), &value[..(len as usize / 4).min(16)])
}

pub(super) fn peer(t: &mut T) {
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

pub(super) fn peer_processes(t: &mut T) {
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

pub(super) fn peer_of_each_kind(t: &mut T) {
    let me = must!(getpid) as i32;
    let who = |fd: i32| {
        let (mut value, mut len) = ([0i32; 3], 12i32);
        let got = call!(getsockopt, fd, SOL, libc::SO_PEERCRED, out(&mut value), out(&mut len));
        let pid = if value[0] == me { "me".to_owned() } else { value[0].min(1).to_string() };
        format!("{} {pid} {} {}", result(got), value[1], value[2])
    };
    for kind in [STREAM, DGRAM, SEQ] {
        say!(t, "{kind}: {} | {}", who(pair(kind)[0]), who(socket(kind)));
        let s = pair(kind);
        must!(close, s[1]);
        say!(t, "{}", who(s[0]));
        let l = socket(kind);
        bind(l, "@conformance.who");
        if kind != DGRAM {
            must!(listen, l, 2);
        }
        let ended = as_nobody(|| {
            let c_ = socket(kind);
            say!(&mut T::default(), "{} {}", result(connect(c_, "@conformance.who")), c_ > 0);
        });
        say!(t, "{ended} {}", who(l));
        if kind != DGRAM {
            let a = must!(accept, l, 0, 0) as i32;
            say!(t, "{}", who(a).ends_with("65534 65534"));
        }
        must!(close, l);
    }
}
