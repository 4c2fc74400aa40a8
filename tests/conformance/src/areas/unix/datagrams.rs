//! Datagrams and messages of connected sockets.

use super::*;

pub(super) fn datagrams(t: &mut T) {
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

pub(super) fn messages(t: &mut T) {
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

pub(super) fn timestamps(t: &mut T) {
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

/// Several messages at once, until one cannot be sent or received.
pub(super) fn many_messages(t: &mut T) {
    for kind in [DGRAM, SEQ, STREAM] {
        let s = pair(kind | libc::SOCK_NONBLOCK);
        let texts = ["one", "two", "", "four"];
        let vectors: Vec<[u64; 2]> = texts.iter().map(|text| [p(text.as_bytes()), text.len() as u64]).collect();
        let of = |vector: u64| Many { header: Header { vector, count: 1, ..Header::default() }, ..Many::default() };
        let mut sent: Vec<Many> = vectors.iter().map(|vector| of(p(vector))).collect();
        show!(t, sendmmsg, s[0], out(&mut sent[..]), 4, 0);
        say!(t, "{:?}", sent.iter().map(|m| m.len).collect::<Vec<_>>());
        let mut buffers = [[0u8; 8]; 6];
        let places: Vec<[u64; 2]> = buffers.iter_mut().map(|buffer| [out(buffer), 8]).collect();
        let mut got: Vec<Many> = places.iter().map(|vector| of(p(vector))).collect();
        show!(t, recvmmsg, s[1], out(&mut got[..]), 6, 0, 0);
        say!(t, "{:?}", got.iter().map(|m| m.len).collect::<Vec<_>>());
        show!(t, recvmmsg, s[1], out(&mut got[..]), 6, 0, 0);
        show!(t, recvmmsg, s[1], out(&mut got[..]), 0, 0, 0);
        show!(t, sendmmsg, s[0], out(&mut sent[..]), 0, 0);
        sent[1].header.vector = 8;
        show!(t, sendmmsg, s[0], out(&mut sent[..]), 4, 0);
        sent[0].header.vector = 8;
        show!(t, sendmmsg, s[0], out(&mut sent[..]), 4, 0);
        show!(t, sendmmsg, s[0], hole(), 4, 0);
        must!(fcntl, s[1], libc::F_SETFL, 0);
        let mut limit = [0u64, 30_000_000];
        send(s[0], "x", 0);
        show!(t, recvmmsg, s[1], out(&mut got[..]), 6, 0x10000, out(&mut limit));
        show!(t, recvmmsg, s[1], out(&mut got[..]), 6, 0, p(&[0u64, 1_000_000_000]));
    }
}

pub(super) fn spliced(t: &mut T) {
    for kind in [STREAM, DGRAM, SEQ] {
        let s = pair(kind | libc::SOCK_NONBLOCK);
        let (r, w) = pipe(libc::O_NONBLOCK);
        write(w, "through a pipe");
        say!(t, "{kind} in: {} {}", result(call!(splice, r, 0, s[0], 0, 20, 0)), recv(s[1], 20, 0));
        send(s[0], "back", 0);
        say!(t, "out: {} {}", result(call!(splice, s[1], 0, w, 0, 20, 0)), read(r));
        let (mut at, source) = (0u64, must!(memfd_create, c"f", 0));
        must!(write, source, p(b"a file"), 6);
        say!(t, "file: {} {}", result(call!(sendfile, s[0], source, out(&mut at), 20)), recv(s[1], 20, 0));
        show!(t, sendfile, s[0], s[1], 0, 20);
    }
}
