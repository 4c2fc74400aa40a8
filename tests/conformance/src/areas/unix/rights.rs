//! Descriptors in messages, and control messages as such.

use super::*;

pub(super) fn descriptors(t: &mut T) {
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

pub(super) fn descriptors_join_bytes(t: &mut T) {
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

pub(super) fn descriptors_truncated(t: &mut T) {
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

pub(super) fn control_errors(t: &mut T) {
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

/// How many descriptors one who is not privileged can have on their way.
pub(super) fn rights_limit(t: &mut T) {
    let s = pair(DGRAM);
    let ended = as_nobody(|| {
        let t = &mut T::default();
        must!(setrlimit, libc::RLIMIT_NOFILE, p(&[20u64, 20]));
        let sent: Vec<String> = (0..7).map(|_| send_with(s[0], "x", &rights(&[0, 1, 2, 0, 1]))).collect();
        say!(t, "{}", sent.join(" "));
        say!(t, "{}", recv_with(s[1], 9, 0, 0).0);
        say!(t, "{}", send_with(s[0], "x", &rights(&[0])));
        while !recv_with(s[1], 9, 0, 0).0.starts_with('E') {}
        say!(t, "{}", send_with(s[0], "x", &rights(&[0])));
        while !recv_with(s[1], 9, 0, 0).0.starts_with('E') {}
    });
    say!(t, "{ended}");
}

/// A receiver that can have no more descriptors gets those that it can have.
pub(super) fn rights_no_room(t: &mut T) {
    let s = pair(DGRAM);
    let mut limit = [0u64; 2];
    must!(getrlimit, libc::RLIMIT_NOFILE, out(&mut limit));
    for room in [0, 1, 3] {
        send_with(s[0], "x", &rights(&[0, 1, 2]));
        let next = must!(dup, 0);
        must!(close, next);
        must!(setrlimit, libc::RLIMIT_NOFILE, p(&[next as u64 + room, limit[1]]));
        let (text, found) = recv_with(s[1], 9, 64, 0);
        must!(setrlimit, libc::RLIMIT_NOFILE, p(&limit));
        say!(t, "{room}: {text}");
        for fd in found.iter().flat_map(|(_, data)| data.chunks(4)) {
            must!(close, i32::from_ne_bytes(fd.try_into().unwrap_or([0; 4])));
        }
    }
    // No room for the control message, and none at all.
    send_with(s[0], "x", &rights(&[0, 1]));
    let count = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = count();
    say!(t, "{} {}", recv_with(s[1], 9, 16, 0).0, count() - before);
    send_with(s[0], "x", &rights(&[0, 1]));
    say!(t, "{} {}", recv(s[1], 9, 0), count() - before);
}

/// What nobody receives is closed.
pub(super) fn rights_unread(t: &mut T) {
    for kind in [STREAM, DGRAM, SEQ] {
        let (r, w) = pipe(0);
        let s = pair(kind);
        send_with(s[0], "x", &rights(&[w]));
        must!(close, w);
        say!(t, "on its way: {}", poll(r, 1, 0));
        must!(close, s[1]);
        say!(t, "closed: {}", poll(r, 1, 1000));
        let (r, w) = pipe(0);
        let s = pair(kind);
        send_with(s[0], "x", &rights(&[w]));
        must!(close, w);
        say!(t, "read past: {} {}", recv(s[1], 9, 0), poll(r, 1, 1000));
        let (r, w) = pipe(0);
        send_with(s[0], "x", &rights(&[w]));
        must!(close, w);
        say!(t, "peeked: {} {}", recv(s[1], 9, libc::MSG_PEEK), poll(r, 1, 0));
    }
}

/// Sockets on their way to each other, which nobody else has: they go, and with them what they have.
pub(super) fn cycles(t: &mut T) {
    let held = |s: [i32; 2]| {
        let (r, w) = pipe(0);
        send_with(s[0], "x", &rights(&[w]));
        must!(close, w);
        r
    };
    let collected = |r: i32| {
        // Linux may do it later.
        must!(close, pair(STREAM)[0]);
        poll(r, 1, 2000)
    };
    for kind in [STREAM, DGRAM, SEQ] {
        let s = pair(kind);
        let r = held(s);
        send_with(s[0], "x", &rights(&[s[1]]));
        must!(close, s[0]);
        must!(close, s[1]);
        say!(t, "in itself: {}", collected(r));
        let (a, b) = (pair(kind), pair(kind));
        let r = held(a);
        send_with(a[0], "x", &rights(&[b[1]]));
        send_with(b[0], "x", &rights(&[a[1]]));
        for fd in a.into_iter().chain(b) {
            must!(close, fd);
        }
        say!(t, "in each other: {}", collected(r));
        let (a, b) = (pair(kind), pair(kind));
        let r = held(a);
        send_with(a[0], "x", &rights(&[b[1]]));
        send_with(b[0], "x", &rights(&[a[1]]));
        for fd in [a[0], a[1], b[0]] {
            must!(close, fd);
        }
        say!(t, "held by one: {}", poll(r, 1, 50));
        let (_, found) = recv_with(b[1], 9, 64, 0);
        let fd = i32::from_ne_bytes(found[0].1[..4].try_into().unwrap());
        say!(t, "and out again: {}", recv_with(fd, 9, 64, 0).0);
        must!(close, fd);
        must!(close, b[1]);
    }
    let chain: Vec<[i32; 2]> = (0..50).map(|_| pair(DGRAM)).collect();
    let r = held(chain[0]);
    for (i, s) in chain.iter().enumerate() {
        send_with(chain[(i + 1) % 50][0], "x", &rights(&[s[1]]));
    }
    chain.into_iter().flatten().for_each(|fd| {
        must!(close, fd);
    });
    say!(t, "a ring of fifty: {}", collected(r));
}

/// A listener in a connection that waits for it to be accepted.
pub(super) fn cycle_of_listeners(t: &mut T) {
    let l = socket(STREAM);
    bind(l, "@conformance.cycle");
    must!(listen, l, 2);
    let c_ = socket(STREAM);
    connect(c_, "@conformance.cycle");
    let (r, w) = pipe(0);
    say!(t, "{}", send_with(c_, "x", &rights(&[l, w])));
    must!(close, w);
    must!(close, l);
    must!(close, c_);
    must!(close, pair(STREAM)[0]);
    say!(t, "{}", poll(r, 1, 2000));
    say!(t, "{}", result(connect(socket(STREAM), "@conformance.cycle")));
}
