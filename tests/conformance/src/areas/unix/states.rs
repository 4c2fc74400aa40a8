//! What each kind of socket says in each state: to poll, to one who sends, to one who receives.

use super::*;

const ALL: i16 = 0x2005;
const RDHUP: i32 = libc::MSG_NOSIGNAL;

/// What a socket says: poll, an error kept, sending, receiving.
fn asked(t: &mut T, what: &str, fd: i32) {
    let before = poll(fd, ALL, 0);
    let error = get(fd, libc::SO_ERROR);
    let sent = send(fd, "x", RDHUP | DONTWAIT);
    let got = [recv(fd, 9, DONTWAIT), recv(fd, 9, DONTWAIT)].join(" then ");
    say!(t, "{what}: {before}, error {error}, send {sent}, recv {got}, {}", poll(fd, ALL, 0));
}

pub(super) fn receive_flags(t: &mut T) {
    const PEEK: i32 = libc::MSG_PEEK;
    const TRUNC: i32 = libc::MSG_TRUNC;
    const ALL_OF_IT: i32 = libc::MSG_WAITALL;
    for kind in [STREAM, DGRAM, SEQ] {
        for flags in [0, PEEK, TRUNC, PEEK | TRUNC, ALL_OF_IT, ALL_OF_IT | PEEK, 0x8000_0000u32 as i32, libc::MSG_EOR, libc::MSG_ERRQUEUE] {
            let s = pair(kind);
            send(s[0], "abcdef", 0);
            send(s[0], "ghi", 0);
            let first = recv(s[1], 4, flags | DONTWAIT);
            let second = recv_with(s[1], 4, 0, flags).0;
            say!(t, "{kind} {flags:#x}: {first} then {second} then {}", recv(s[1], 20, DONTWAIT));
            for fd in s {
                must!(close, fd);
            }
        }
    }
}

pub(super) fn send_flags(t: &mut T) {
    for kind in [STREAM, DGRAM, SEQ] {
        for flags in [libc::MSG_EOR, libc::MSG_MORE, libc::MSG_DONTROUTE, libc::MSG_CONFIRM, libc::MSG_PEEK, libc::MSG_WAITALL, libc::MSG_TRUNC] {
            let s = pair(kind);
            let sent = send(s[0], "abc", flags | RDHUP);
            say!(t, "{kind} {flags:#x}: {sent} {}", recv_with(s[1], 9, 0, 0).0);
        }
    }
}

pub(super) fn states_of_streams(t: &mut T) {
    states(t, STREAM);
}

pub(super) fn states_of_messages(t: &mut T) {
    states(t, SEQ);
}

fn states(t: &mut T, kind: i32) {
    asked(t, "new", socket(kind));
    let bound = socket(kind);
    bind(bound, "@conformance.bound");
    asked(t, "bound", bound);
    asked(t, "connected", pair(kind)[0]);
    let s = pair(kind);
    send(s[1], "one", 0);
    send(s[1], "two", 0);
    asked(t, "sent to", s[0]);
    for how in 0..3 {
        let s = pair(kind);
        send(s[1], "left", 0);
        must!(shutdown, s[0], how);
        asked(t, &format!("shut {how}"), s[0]);
        let s = pair(kind);
        send(s[1], "left", 0);
        must!(shutdown, s[1], how);
        asked(t, &format!("peer shut {how}"), s[0]);
    }
    let s = pair(kind);
    must!(shutdown, s[0], 0);
    must!(shutdown, s[1], 0);
    asked(t, "both shut for reading", s[0]);
    let s = pair(kind);
    must!(close, s[1]);
    asked(t, "peer closed", s[0]);
    let s = pair(kind);
    send(s[1], "left", 0);
    must!(close, s[1]);
    asked(t, "peer closed, having sent", s[0]);
    let s = pair(kind);
    send(s[0], "unread", 0);
    must!(close, s[1]);
    asked(t, "peer closed with something unread", s[0]);
    let s = pair(kind);
    send(s[0], "unread", 0);
    send(s[1], "left", 0);
    must!(close, s[1]);
    asked(t, "both", s[0]);
    let s = pair(kind);
    send(s[0], "unread", 0);
    must!(shutdown, s[0], 1);
    must!(close, s[1]);
    asked(t, "unread, after the end was sent", s[0]);
}

pub(super) fn states_of_datagrams(t: &mut T) {
    asked(t, "new", socket(DGRAM));
    let bound = socket(DGRAM);
    bind(bound, "@conformance.bound");
    asked(t, "bound", bound);
    let one_way = socket(DGRAM);
    connect(one_way, "@conformance.bound");
    asked(t, "connected one way", one_way);
    asked(t, "the other end", bound);
    asked(t, "connected", pair(DGRAM)[0]);
    for how in 0..3 {
        let s = pair(DGRAM);
        send(s[1], "left", 0);
        must!(shutdown, s[0], how);
        asked(t, &format!("shut {how}"), s[0]);
        let s = pair(DGRAM);
        send(s[1], "left", 0);
        must!(shutdown, s[1], how);
        asked(t, &format!("peer shut {how}"), s[0]);
    }
    let s = pair(DGRAM);
    send(s[0], "unread", 0);
    send(s[1], "left", 0);
    must!(close, s[1]);
    asked(t, "peer closed", s[0]);
    must!(close, bound);
    asked(t, "whom it was connected to closed", one_way);
}

pub(super) fn states_of_listeners(t: &mut T) {
    for kind in [STREAM, SEQ] {
        let l = socket(kind);
        bind(l, "@conformance.l");
        must!(listen, l, 1);
        asked(t, "listening", l);
        let c_ = socket(kind);
        connect(c_, "@conformance.l");
        asked(t, "one waits", l);
        asked(t, "who waits", c_);
        say!(t, "{} {}", get(l, libc::SO_ACCEPTCONN), get(c_, libc::SO_ACCEPTCONN));
        let a = must!(accept, l, 0, 0) as i32;
        say!(t, "{} {}", poll(l, ALL, 0), recv(a, 9, DONTWAIT));
        show!(t, listen, a, 1);
        show!(t, listen, c_, 1);
        show!(t, listen, l, 5);
        say!(t, "{}", result(connect(l, "@conformance.l")));
        show!(t, listen, socket(kind), 1);
        for fd in [l, a, c_] {
            must!(close, fd);
        }
    }
}

/// A connection that waits when the listener goes is reset.
pub(super) fn listener_closed(t: &mut T) {
    for kind in [STREAM, SEQ] {
        for say_something in [false, true] {
            let l = socket(kind);
            bind(l, "@conformance.closed");
            must!(listen, l, 2);
            let c_ = socket(kind);
            connect(c_, "@conformance.closed");
            if say_something {
                send(c_, "hello", 0);
            }
            must!(close, l);
            asked(t, &format!("{kind} {say_something}"), c_);
            say!(t, "{}", peer_of(c_));
            say!(t, "{}", result(connect(c_, "@conformance.closed")));
        }
    }
}

pub(super) fn listener_shut(t: &mut T) {
    for how in 0..3 {
        let l = socket(STREAM);
        bind(l, "@conformance.shut");
        must!(listen, l, 2);
        let c_ = socket(STREAM);
        connect(c_, "@conformance.shut");
        must!(shutdown, l, how);
        must!(fcntl, l, libc::F_SETFL, libc::O_NONBLOCK);
        let (first, second) = (call!(accept, l, 0, 0), call!(accept, l, 0, 0));
        say!(t, "{how}: {} {} {}", ok_or_error(first), result(second), poll(l, ALL, 0));
        let other = socket(STREAM | libc::SOCK_NONBLOCK);
        say!(t, "{} {}", result(connect(other, "@conformance.shut")), result(call!(listen, l, 2)));
        must!(close, l);
    }
    let l = socket(STREAM);
    bind(l, "@conformance.shut");
    must!(listen, l, 2);
    let child = fork(|| {
        show!(&mut T::default(), accept, l, 0, 0);
        0
    });
    asleep(child);
    must!(shutdown, l, 2);
    wait(child);
}

pub(super) fn lengths(t: &mut T) {
    const INQ: i32 = 0x541b;
    const OUTQ: i32 = 0x5411;
    let length = |fd: i32, command: i32| {
        let mut n = -1i32;
        match call!(ioctl, fd, command, out(&mut n)) {
            0 => n.to_string(),
            error => result(error),
        }
    };
    for kind in [STREAM, DGRAM, SEQ] {
        say!(t, "new: {} {}", length(socket(kind), INQ), length(socket(kind), OUTQ));
        let s = pair(kind);
        say!(t, "empty: {} {}", length(s[1], INQ), length(s[0], OUTQ));
        send(s[0], "abc", 0);
        send(s[0], "de", 0);
        say!(t, "{} {}", length(s[1], INQ), length(s[0], OUTQ) != "0");
        recv(s[1], 2, 0);
        say!(t, "{}", length(s[1], INQ));
        recv(s[1], 9, 0);
        recv(s[1], 9, DONTWAIT);
        say!(t, "{} {}", length(s[1], INQ), length(s[0], OUTQ));
    }
    let l = socket(STREAM);
    bind(l, "@conformance.length");
    must!(listen, l, 2);
    say!(t, "listener: {} {}", length(l, INQ), length(l, OUTQ));
}

/// Nothing is a message, but no part of a stream.
pub(super) fn nothing(t: &mut T) {
    for kind in [STREAM, DGRAM, SEQ] {
        let s = pair(kind);
        say!(t, "{kind}: {} {}", send(s[0], "", 0), poll(s[1], ALL, 0));
        show!(t, write, s[0], p(b"x"), 0);
        say!(t, "{}", poll(s[1], ALL, 0));
        let vector = [[0u64, 0u64]; 2];
        show!(t, writev, s[0], p(&vector), 2);
        say!(t, "{} {}", recv(s[1], 9, DONTWAIT), recv(s[1], 0, DONTWAIT));
        say!(t, "{} {}", recv(s[1], 9, DONTWAIT), recv(s[1], 9, DONTWAIT));
        send(s[0], "abc", 0);
        say!(t, "{} {}", recv(s[1], 0, DONTWAIT), recv(s[1], 9, DONTWAIT));
        send(s[0], "abc", 0);
        let mut buffer = [0u8; 4];
        show!(t, read, s[1], out(&mut buffer), 0);
        say!(t, "{}", recv(s[1], 9, DONTWAIT));
        must!(close, s[0]);
        show!(t, read, s[1], out(&mut buffer), 0);
        say!(t, "{}", recv(s[1], 0, DONTWAIT));
    }
}

/// `MSG_WAITALL` waits for all bytes, for the end, for a time, for a signal.
pub(super) fn all_of_it(t: &mut T) {
    let slowly = |fd: i32, parts: &'static [&'static str]| {
        fork(move || {
            for part in parts {
                sleep_ms(20);
                send(fd, part, 0);
            }
            0
        })
    };
    let s = pair(STREAM);
    let child = slowly(s[0], &["ab", "cd", "ef"]);
    say!(t, "all: {}", recv(s[1], 5, libc::MSG_WAITALL));
    wait(child);
    say!(t, "the rest: {}", recv(s[1], 5, DONTWAIT));
    let child = slowly(s[0], &["ab", "cd"]);
    must!(close, s[0]);
    say!(t, "to the end: {}", recv(s[1], 9, libc::MSG_WAITALL));
    wait(child);
    let s = pair(STREAM);
    must!(setsockopt, s[1], SOL, libc::SO_RCVTIMEO, p(&[0u64, 80_000]), 16);
    send(s[0], "abc", 0);
    say!(t, "a time: {}", recv(s[1], 9, libc::MSG_WAITALL));
    say!(t, "nothing in time: {}", recv(s[1], 9, libc::MSG_WAITALL));
    let s = pair(STREAM);
    handle(libc::SIGALRM, count, 0, 0);
    send(s[0], "abc", 0);
    must!(setitimer, libc::ITIMER_REAL, p(&[0i64, 0, 0, 50_000]), 0);
    say!(t, "a signal: {}", recv(s[1], 9, libc::MSG_WAITALL));
    send_with(s[0], "ab", &rights(&[0]));
    send(s[0], "cd", 0);
    say!(t, "descriptors: {}", recv(s[1], 9, libc::MSG_WAITALL | DONTWAIT));
    send(s[0], "abcd", 0);
    say!(t, "peeked: {}", recv(s[1], 4, libc::MSG_WAITALL | libc::MSG_PEEK));
    let s = pair(SEQ);
    send(s[0], "abc", 0);
    say!(t, "a message: {}", recv(s[1], 9, libc::MSG_WAITALL));
}
