//! Streams: connecting, the ends of a connection, waiting.

use super::*;

pub(super) fn stream(t: &mut T) {
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

pub(super) fn stream_names_its_peer(t: &mut T) {
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

pub(super) fn shutdowns(t: &mut T) {
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

pub(super) fn broken(t: &mut T) {
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

pub(super) fn low_water(t: &mut T) {
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

pub(super) fn timeouts(t: &mut T) {
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

pub(super) fn peeking(t: &mut T) {
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

/// Records of eight bytes that several read from one stream stay whole.
pub(super) fn readers_race(t: &mut T) {
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
