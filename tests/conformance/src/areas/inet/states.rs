//! What sockets say in each state.

use super::*;

const RDHUP: i16 = ALL;

/// What a socket says: poll, an error kept, receiving, sending.
fn asked(t: &mut T, what: &str, fd: i32) {
    let before = poll(fd, RDHUP, 0);
    let got = [recv(fd, 9, DONTWAIT), recv(fd, 9, DONTWAIT)].join(" then ");
    let sent = [send(fd, "x", DONTWAIT), send(fd, "x", DONTWAIT)].join(" then ");
    say!(t, "{what}: {before}, recv {got}, send {sent}, error {}, {}, {}", error_of(fd), peer_of(fd), poll(fd, RDHUP, 0));
}

fn both(t: &mut T, what: &str, f: impl Fn([i32; 2])) {
    let s = connected("127.0.0.1");
    f(s);
    asked(t, &format!("{what}, first"), s[0]);
    let s = connected("127.0.0.1");
    f(s);
    asked(t, &format!("{what}, second"), s[1]);
}

pub(super) fn states(t: &mut T) {
    network();
    asked(t, "new", socket(V4, STREAM));
    let bound = socket(V4, STREAM);
    bind_to(bound, "127.0.0.1", 0);
    asked(t, "bound", bound);
    asked(t, "listening", listener("127.0.0.1", 0, 5));
    both(t, "connected", |_| {});
    both(t, "first wrote", |s| drop(send(s[0], "abc", 0)));
    for how in 0..3 {
        both(t, &format!("first shut {how}"), |s| {
            call!(shutdown, s[0], how);
        });
        both(t, &format!("first wrote and shut {how}"), |s| {
            send(s[0], "abc", 0);
            call!(shutdown, s[0], how);
        });
    }
    both(t, "both shut", |s| {
        call!(shutdown, s[0], 1);
        call!(shutdown, s[1], 1);
    });
    let s = connected("127.0.0.1");
    must!(close, s[0]);
    asked(t, "other closed", s[1]);
    let s = connected("127.0.0.1");
    send(s[0], "left", 0);
    must!(close, s[0]);
    asked(t, "other wrote and closed", s[1]);
}

pub(super) fn resets(t: &mut T) {
    network();
    let s = connected("127.0.0.1");
    send(s[1], "unread", 0);
    must!(close, s[0]);
    asked(t, "unread", s[1]);
    let s = connected("127.0.0.1");
    send(s[1], "unread", 0);
    send(s[0], "sent before", 0);
    must!(close, s[0]);
    asked(t, "unread, sent before", s[1]);
    let s = connected("127.0.0.1");
    send(s[1], "unread", 0);
    call!(shutdown, s[0], 1);
    must!(close, s[0]);
    asked(t, "unread, shut before", s[1]);
    let s = connected("127.0.0.1");
    must!(setsockopt, s[0], SOL, libc::SO_LINGER, p(&[1i32, 0]), 8);
    must!(close, s[0]);
    asked(t, "linger", s[1]);
    let s = connected("127.0.0.1");
    must!(setsockopt, s[0], SOL, libc::SO_LINGER, p(&[1i32, 1]), 8);
    must!(close, s[0]);
    say!(t, "linger a second: {}", recv(s[1], 9, 0));
    // Who sends to nobody learns of it the second time, once by a signal.
    let s = connected("127.0.0.1");
    must!(close, s[0]);
    let ended = child(|| {
        let said = [write(s[1], "x"), { sleep_ms(5); write(s[1], "x") }];
        say!(&mut T::default(), "{said:?}");
        0
    });
    say!(t, "{ended}");
    let ended = child(|| {
        call!(write, socket(V4, STREAM), p("x"), 1);
        0
    });
    say!(t, "unconnected: {ended}");
    let l = listener("127.0.0.1", 7000, 5);
    let s = socket(V4, STREAM);
    connect_to(s, "127.0.0.1", 7000);
    must!(close, l);
    sleep_ms(5);
    asked(t, "never accepted", s);
    let l = listener("127.0.0.1", 7000, 5);
    let s = socket(V4, STREAM);
    connect_to(s, "127.0.0.1", 7000);
    must!(setsockopt, s, SOL, libc::SO_LINGER, p(&[1i32, 0]), 8);
    must!(close, s);
    let (mut bytes, mut len) = ([0u8; 128], 128i32);
    let a = call!(accept4, l, out(&mut bytes), out(&mut len), 0);
    say!(t, "gone: {} {}", ok_or_error(a), show_address(&bytes, len));
    asked(t, "gone before it was accepted", a as i32);
}

pub(super) fn shutdowns(t: &mut T) {
    network();
    let s = connected("127.0.0.1");
    show!(t, shutdown, s[0], 3);
    show!(t, shutdown, s[0], 0);
    say!(t, "{} {} {}", send(s[1], "after", 0), recv(s[0], 9, DONTWAIT), recv(s[0], 9, DONTWAIT));
    show!(t, shutdown, s[0], 1);
    show!(t, shutdown, s[0], 1);
    say!(t, "{} {}", peer_of(s[0]), peer_of(s[1]));
    show!(t, shutdown, s[1], 1);
    sleep_ms(5);
    say!(t, "{} {} {}", name_of(s[0]), peer_of(s[0]), peer_of(s[1]));
    show!(t, shutdown, s[0], 1);
    show!(t, shutdown, s[1], 2);
    say!(t, "{}", connect_to(s[0], "127.0.0.1", 7000));
    // One who waits is woken.
    let s = connected("127.0.0.1");
    let pid = fork(|| {
        say!(&mut T::default(), "woken: {}", recv(s[0], 9, 0));
        0
    });
    asleep(pid);
    let shut = call!(shutdown, s[0], 0);
    say!(t, "{} {}", wait(pid), result(shut));
}

pub(super) fn states_of_listeners(t: &mut T) {
    network();
    let l = socket(V4, STREAM);
    set(l, libc::SO_REUSEADDR, 1);
    bind_to(l, "127.0.0.1", 7000);
    must!(listen, l, 5);
    say!(t, "{}", poll(l, RDHUP, 0));
    let s = socket(V4, STREAM);
    connect_to(s, "127.0.0.1", 7000);
    say!(t, "{} {}", poll(l, RDHUP, 0), get(l, libc::SO_ACCEPTCONN));
    show!(t, shutdown, l, 1);
    say!(t, "{}", poll(l, RDHUP, 0));
    let pid = fork(|| {
        must!(accept4, l, 0, 0, 0);
        say!(&mut T::default(), "{}", ok_or_error(call!(accept4, l, 0, 0, 0)));
        0
    });
    sleep_ms(20);
    asleep(pid);
    let shut = result(call!(shutdown, l, 0));
    say!(t, "{shut} {} {} {}", wait(pid), poll(l, RDHUP, 0), get(l, libc::SO_ACCEPTCONN));
    say!(t, "{}", connect_to(socket(V4, STREAM), "127.0.0.1", 7000));
    show!(t, accept4, l, 0, 0, 0);
    show!(t, listen, l, 5);
    say!(t, "{}", connect_to(socket(V4, STREAM), "127.0.0.1", 7000));
}

/// What an edge-triggered watch says after each step.
pub(super) fn edges(t: &mut T) {
    network();
    let s = connected("127.0.0.1");
    let e = must!(epoll_create1, 0);
    let watch = |fd: i32, events: u32| {
        let event = libc::epoll_event { events, u64: fd as u64 };
        must!(epoll_ctl, e, libc::EPOLL_CTL_ADD, fd, p(&event));
    };
    let said = || {
        sleep_ms(3);
        let mut event = [libc::epoll_event { events: 0, u64: 0 }; 4];
        let n = must!(epoll_wait, e, out(&mut event), 4, 0) as usize;
        let all: Vec<String> = event[..n].iter().map(|e| events_of(e.events)).collect();
        all.join(", ")
    };
    watch(s[1], 0x8000_2005);
    say!(t, "at first: {} / {}", said(), said());
    send(s[0], "a", 0);
    say!(t, "a byte: {} / {}", said(), said());
    send(s[0], "b", 0);
    say!(t, "another: {} / {}", said(), said());
    recv(s[1], 1, 0);
    say!(t, "one read: {}", said());
    recv(s[1], 1, 0);
    say!(t, "both read: {}", said());
    send(s[1], "x", 0);
    say!(t, "written: {}", said());
    let big = vec![b'x'; 8 << 20];
    must!(fcntl, s[1], libc::F_SETFL, libc::O_NONBLOCK);
    while call!(write, s[1], p(&big[..]), big.len()) > 0 {}
    say!(t, "full: {}", said());
    let mut room = vec![0u8; 8 << 20];
    must!(fcntl, s[0], libc::F_SETFL, libc::O_NONBLOCK);
    while call!(read, s[0], out(&mut room[..]), room.len()) > 0 {
        sleep_ms(2);
    }
    say!(t, "emptied: {} / {}", said(), said());
    must!(shutdown, s[0], 1);
    say!(t, "other shut: {} / {}", said(), said());
    must!(shutdown, s[1], 1);
    say!(t, "both shut: {} / {}", said(), said());
    let l = listener("127.0.0.1", 7000, 5);
    watch(l, 0x8000_0001);
    let c = socket(V4, STREAM | NONBLOCK);
    watch(c, 0x8000_2005);
    say!(t, "new: {}", said());
    connect_to(c, "127.0.0.1", 7000);
    say!(t, "connecting: {} / {}", said(), said());
    must!(accept4, l, 0, 0, 0);
    say!(t, "accepted: {}", said());
    let r = socket(V4, STREAM | NONBLOCK);
    watch(r, 0x8000_2005);
    say!(t, "new: {}", said());
    connect_to(r, "127.0.0.1", 7001);
    say!(t, "refused: {} / {}", said(), said());
}

pub(super) fn full(t: &mut T) {
    network();
    let s = connected("127.0.0.1");
    let bytes = vec![b'x'; 1 << 16];
    let mut total = 0;
    loop {
        match call!(sendto, s[0], p(&bytes[..]), bytes.len(), DONTWAIT, 0, 0) {
            n if n > 0 => total += n,
            error => {
                say!(t, "full: {} {}", result(error), poll(s[0], RDHUP, 0));
                break;
            }
        }
    }
    say!(t, "{} {}", total > 65_536, bytes_in(s[0], 0x541b));
    let limited = [0i64, 30_000];
    must!(setsockopt, s[0], SOL, libc::SO_SNDTIMEO, p(&limited), 16);
    say!(t, "limited: {}", send(s[0], "x", 0));
    let pid = fork(|| {
        must!(setsockopt, s[0], SOL, libc::SO_SNDTIMEO, p(&[0i64, 0]), 16);
        i32::from(call!(write, s[0], p(&bytes[..]), bytes.len()) != bytes.len() as i64)
    });
    asleep(pid);
    let mut got = 0;
    let mut room = vec![0u8; 1 << 16];
    while got < total + bytes.len() as i64 {
        got += must!(read, s[1], out(&mut room[..]), room.len());
    }
    say!(t, "{} {} {}", got == total + bytes.len() as i64, wait(pid), recv(s[1], 1, DONTWAIT));
    say!(t, "{} {}", poll(s[0], RDHUP, 0), bytes_in(s[0], 0x5411));
    send(s[0], "abc", 0);
    sleep_ms(3);
    say!(t, "in {} mark {}", bytes_in(s[1], 0x541b), bytes_in(s[1], 0x8905));
    say!(t, "listener {} new {}", bytes_in(listener("::1", 0, 1), 0x541b), bytes_in(socket(V4, STREAM), 0x541b));
    // The other end goes while one waits.
    let s = connected("127.0.0.1");
    while call!(sendto, s[0], p(&bytes[..]), bytes.len(), DONTWAIT, 0, 0) > 0 {}
    let pid = fork(|| {
        must!(close, s[1]);
        dispose(libc::SIGPIPE, 1);
        say!(&mut T::default(), "{}", result(call!(write, s[0], p(b"x"), 1)));
        0
    });
    asleep(pid);
    must!(close, s[1]);
    say!(t, "{}", wait(pid));
}

pub(super) fn timeouts(t: &mut T) {
    network();
    let s = connected("127.0.0.1");
    must!(setsockopt, s[0], SOL, libc::SO_RCVTIMEO, p(&[0i64, 20_000]), 16);
    say!(t, "{} {}", recv(s[0], 1, 0), recv(s[0], 5, libc::MSG_WAITALL));
    send(s[1], "abc", 0);
    say!(t, "{}", recv(s[0], 5, libc::MSG_WAITALL));
    let l = listener("127.0.0.1", 0, 1);
    must!(setsockopt, l, SOL, libc::SO_RCVTIMEO, p(&[0i64, 20_000]), 16);
    show!(t, accept4, l, 0, 0, 0);
    let d = socket(V4, DGRAM);
    bind_to(d, "127.0.0.1", 0);
    must!(setsockopt, d, SOL, libc::SO_RCVTIMEO, p(&[0i64, 20_000]), 16);
    say!(t, "{}", recv(d, 1, 0));
}

pub(super) fn interrupted(t: &mut T) {
    network();
    let s = connected("127.0.0.1");
    for (flags, limited) in [(libc::SA_RESTART, false), (0, false), (libc::SA_RESTART, true)] {
        let pid = fork(|| {
            handle(libc::SIGUSR1, count, flags, 0);
            if limited {
                must!(setsockopt, s[0], SOL, libc::SO_RCVTIMEO, p(&[5i64, 0]), 16);
            }
            say!(&mut T::default(), "{flags:#x} {limited}: {}", recv(s[0], 1, 0));
            0
        });
        asleep(pid);
        must!(kill, pid, libc::SIGUSR1);
        sleep_ms(20);
        if flags != 0 && !limited {
            send(s[1], "x", 0);
        }
        say!(t, "{}", wait(pid));
    }
}

pub(super) fn low_water(t: &mut T) {
    network();
    let s = connected("127.0.0.1");
    say!(t, "{} {}", set(s[0], libc::SO_RCVLOWAT, 4), get(s[0], libc::SO_RCVLOWAT));
    send(s[1], "ab", 0);
    sleep_ms(3);
    say!(t, "{}", poll(s[0], RDHUP, 0));
    let pid = fork(|| {
        let ready = poll(s[0], 0x2001, 5000);
        say!(&mut T::default(), "{ready} {}", recv(s[0], 9, 0));
        0
    });
    asleep(pid);
    send(s[1], "cd", 0);
    say!(t, "{} {}", wait(pid), poll(s[0], RDHUP, 0));
}
