//! Sockets and pipes that hang up, listeners, epolls sent over sockets.

use super::*;

pub(super) fn sockets_hang_up(t: &mut T) {
    for (name, kind) in [("stream", libc::SOCK_STREAM), ("datagram", libc::SOCK_DGRAM), ("packets", libc::SOCK_SEQPACKET)] {
        for how in [0, 1, 2, 9] {
            let (ep, s) = (create(), pair(kind));
            add(ep, s[0], IN | OUT | RDHUP | ET, 1);
            add(ep, s[1], IN | OUT | RDHUP | ET, 2);
            ready(ep);
            let did = if how == 9 { call!(close, s[0]) } else { call!(shutdown, s[0], how) };
            say!(t, "{name} {how}: {} {}", result(did), ready(ep));
            control(ep, MOD, s[0], 0, 1);
            control(ep, MOD, s[1], 0, 2);
            say!(t, "  unasked: {}", ready(ep));
            if how == 0 {
                call!(shutdown, s[1], 0);
                say!(t, "  both: {}", ready(ep));
            }
        }
    }
    let ep = create();
    for (data, kind) in [(1, libc::SOCK_STREAM), (2, libc::SOCK_DGRAM), (3, libc::SOCK_SEQPACKET)] {
        add(ep, must!(socket, libc::AF_UNIX, kind, 0) as i32, IN | OUT | RDHUP, data);
    }
    say!(t, "unconnected: {}", ready(ep));
}

pub(super) fn pipes_hang_up(t: &mut T) {
    for more in [0, ET, ONESHOT] {
        let (ep, (r, w)) = (create(), pipe(0));
        add(ep, r, IN | RDHUP | more, 1);
        write(w, "left");
        must!(close, w);
        say!(t, "no writer: {} | {}", ready(ep), ready(ep));
        read(r);
        say!(t, "empty: {}", ready(ep));
        let (ep, (r, w)) = (create(), pipe(0));
        add(ep, w, OUT | more, 2);
        must!(close, r);
        say!(t, "no reader: {} | {}", ready(ep), ready(ep));
    }
    // A fifo hangs up and comes back.
    must!(mknod, c"f", libc::S_IFIFO | 0o644, 0);
    let r = open("f", O_RDONLY | libc::O_NONBLOCK) as i32;
    let ep = create();
    add(ep, r, IN, 1);
    say!(t, "never opened: {}", ready(ep));
    let w = open("f", O_WRONLY);
    say!(t, "opened: {}", ready(ep));
    must!(close, w);
    say!(t, "closed: {}", ready(ep));
    open("f", O_WRONLY);
    say!(t, "opened again: {}", ready(ep));
}

/// An epoll sent over a socket, and sockets in flight that are watched.
pub(super) fn sent_over(t: &mut T) {
    let (ep, s) = (create(), pair(libc::SOCK_STREAM));
    let e = counter(1, 0);
    add(ep, e, IN, 1);
    add(ep, s[1], IN, 2);
    let mut rights = [20u64, 1 << 32 | 1, ep as u64];
    let vector = [p(b"x"), 1];
    let header = [0, 0, p(&vector), 1, p(&rights), 24, 0];
    show!(t, sendmsg, s[0], p(&header), 0);
    say!(t, "{}", ready(ep));
    must!(close, ep);
    must!(close, e);
    let mut byte = [0u8; 1];
    let vector = [out(&mut byte), 1];
    let mut header = [0, 0, p(&vector), 1, out(&mut rights), 24, 0];
    show!(t, recvmsg, s[1], out(&mut header), 0);
    let back = rights[2] as i32;
    say!(t, "{}", ready(back));
    write(s[0], "y");
    say!(t, "{}", ready(back));
}

pub(super) fn listeners(t: &mut T) {
    for more in [0, ET] {
        let ep = create();
        let listener = must!(socket, libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0) as i32;
        must!(bind, listener, p(b"\x01\0\0conformance.epoll"), 20);
        add(ep, listener, IN | OUT | more, 1);
        say!(t, "not yet: {}", ready(ep));
        must!(listen, listener, 5);
        say!(t, "listens: {}", ready(ep));
        let clients: Vec<i32> = (0..2)
            .map(|_| {
                let client = must!(socket, libc::AF_UNIX, libc::SOCK_STREAM, 0) as i32;
                must!(connect, client, p(b"\x01\0\0conformance.epoll"), 20);
                client
            })
            .collect();
        say!(t, "two: {} | {}", ready(ep), ready(ep));
        let one = must!(accept4, listener, 0, 0, 0) as i32;
        say!(t, "one: {}", ready(ep));
        add(ep, one, IN | RDHUP | more, 2);
        must!(close, clients[0]);
        say!(t, "gone: {}", ready(ep));
        must!(accept4, listener, 0, 0, 0);
        say!(t, "none: {}", ready(ep));
        must!(shutdown, listener, 2);
        say!(t, "shut: {}", ready(ep));
        must!(close, listener);
    }
}
