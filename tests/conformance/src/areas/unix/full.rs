//! Where there is no room: backlogs, queues and buffers that are full, and who waits for them.

use super::*;

const QUIET: i32 = libc::MSG_NOSIGNAL;

fn listener(kind: i32, name: &str, backlog: i32) -> i32 {
    let l = socket(kind);
    bind(l, name);
    must!(listen, l, backlog);
    l
}

pub(super) fn backlog(t: &mut T) {
    for (kind, backlog) in [(STREAM, 0), (STREAM, 1), (STREAM, 3), (SEQ, 0), (SEQ, 2)] {
        let l = listener(kind, "@conformance.backlog", backlog);
        let try_one = || result(connect(socket(kind | libc::SOCK_NONBLOCK), "@conformance.backlog"));
        let tries: Vec<String> = (0..6).map(|_| try_one()).collect();
        must!(accept, l, 0, 0);
        say!(t, "{kind} {backlog}: {}, then {} {}", tries.join(" "), try_one(), try_one());
        must!(listen, l, backlog + 1);
        say!(t, "one more: {} {}", try_one(), try_one());
        must!(close, l);
    }
    let l = listener(STREAM, "@conformance.backlog", -1);
    let many = (0..200).filter(|_| connect(socket(STREAM | libc::SOCK_NONBLOCK), "@conformance.backlog") == 0).count();
    say!(t, "{many}");
    must!(close, l);
}

/// Who finds the backlog full waits for a place, or until the listener is gone.
pub(super) fn connect_waits(t: &mut T) {
    let l = listener(STREAM, "@conformance.waits", 0);
    connect(socket(STREAM), "@conformance.waits");
    let waiter = || {
        let child = fork(|| {
            must!(close, l);
            say!(&mut T::default(), "{}", result(connect(socket(STREAM), "@conformance.waits")));
            0
        });
        asleep(child);
        child
    };
    let child = waiter();
    must!(accept, l, 0, 0);
    wait(child);
    let child = waiter();
    must!(close, l);
    say!(t, "{}", wait(child));
}

pub(super) fn accept_flags(t: &mut T) {
    let l = listener(STREAM, "@conformance.flags", 9);
    for flags in [0, libc::SOCK_CLOEXEC, libc::SOCK_NONBLOCK, libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 1, -1] {
        connect(socket(STREAM), "@conformance.flags");
        let fd = call!(accept4, l, 0, 0, flags);
        if fd >= 0 {
            say!(t, "{flags:#x}: {} {:#o}", call!(fcntl, fd, libc::F_GETFD), call!(fcntl, fd, libc::F_GETFL));
        } else {
            say!(t, "{flags:#x}: {}", result(fd));
        }
    }
    must!(fcntl, l, libc::F_SETFL, libc::O_NONBLOCK);
    let fd = must!(accept, l, 0, 0);
    say!(t, "not inherited: {:#o}", call!(fcntl, fd, libc::F_GETFL));
}

pub(super) fn accept_errors(t: &mut T) {
    let l = listener(STREAM, "@conformance.errors", 9);
    let (mut bytes, mut len) = ([9u8; 128], 128i32);
    let named = socket(STREAM);
    bind(named, "@conformance.client");
    connect(named, "@conformance.errors");
    ok!(t, accept, l, out(&mut bytes), out(&mut len));
    say!(t, "{}", show_address(&bytes, len));
    connect(socket(STREAM), "@conformance.errors");
    len = 128;
    ok!(t, accept, l, out(&mut bytes), out(&mut len));
    say!(t, "{}", show_address(&bytes, len));
    for (address, length) in [(hole(), 128), (0, -1), (out(&mut bytes), -1), (out(&mut bytes), 0), (out(&mut bytes), 1)] {
        connect(socket(STREAM), "@conformance.errors");
        len = length;
        let given = if address == 0 { 0 } else { out(&mut len) };
        let before = std::fs::read_dir("/proc/self/fd").unwrap().count();
        let got = call!(accept, l, address, given);
        let more = std::fs::read_dir("/proc/self/fd").unwrap().count() - before;
        say!(t, "{length}: {} {len}, descriptors {more}", ok_or_error(got));
    }
    connect(socket(STREAM), "@conformance.errors");
    let mut limit = [0u64; 2];
    must!(getrlimit, libc::RLIMIT_NOFILE, out(&mut limit));
    must!(setrlimit, libc::RLIMIT_NOFILE, p(&[3u64, limit[1]]));
    show!(t, accept, l, 0, 0);
    must!(setrlimit, libc::RLIMIT_NOFILE, p(&limit));
    say!(t, "still there: {}", poll(l, 1, 0));
}

pub(super) fn connect_again(t: &mut T) {
    let (a, b) = (socket(DGRAM), socket(DGRAM));
    bind(a, "@conformance.a");
    bind(b, "@conformance.b");
    let c_ = socket(DGRAM);
    bind(c_, "@conformance.c");
    say!(t, "{} {}", result(connect(c_, "@conformance.a")), peer_of(c_));
    say!(t, "{} {}", result(connect(c_, "@conformance.b")), peer_of(c_));
    say!(t, "{} {}", result(connect(c_, "@conformance.none")), peer_of(c_));
    say!(t, "to itself: {} {}", result(connect(c_, "@conformance.c")), peer_of(c_));
    say!(t, "{} {}", send(c_, "me", 0), recv(c_, 9, DONTWAIT));
    // Who is connected hears nobody else.
    connect(a, "@conformance.b");
    say!(t, "{} {}", result(connect(c_, "@conformance.a")), peer_of(c_));
    let to = address("@conformance.a");
    show!(t, sendto, c_, p("x"), 1, DONTWAIT, p(&to[..]), to.len());
    show!(t, sendto, b, p("x"), 1, DONTWAIT, p(&to[..]), to.len());
    show!(t, connect, a, p(&[0u8, 0]), 2);
    show!(t, sendto, c_, p("x"), 1, DONTWAIT, p(&to[..]), to.len());
    for kind in [STREAM, SEQ] {
        let l = listener(kind, "@conformance.l", 3);
        let s = socket(kind);
        say!(t, "{}", result(connect(s, "@conformance.l")));
        say!(t, "{}", result(connect(s, "@conformance.l")));
        show!(t, connect, s, p(&[0u8, 0]), 2);
        say!(t, "another kind: {}", result(connect(socket(STREAM + SEQ - kind), "@conformance.l")));
        bind(socket(kind), "@conformance.deaf");
        say!(t, "not listening: {}", result(connect(socket(kind), "@conformance.deaf")));
        must!(close, l);
    }
    let (s, l) = (socket(SEQ), listener(STREAM, "path", 3));
    say!(t, "by path: {} {}", result(connect(s, "path")), result(connect(socket(DGRAM), "path")));
    must!(close, l);
}

/// Fills a stream; how much that takes is the kernel's business.
pub(super) fn full_stream(t: &mut T) {
    for small in [false, true] {
        let s = pair(STREAM | libc::SOCK_NONBLOCK);
        if small {
            set(s[0], libc::SO_SNDBUF, 5000);
        }
        let piece = [b'x'; 1000];
        let mut all = 0;
        let end = loop {
            match call!(write, s[0], p(&piece), 1000) {
                n if n > 0 => all += n as usize,
                error => break error,
            }
        };
        say!(t, "{} some {} {}", result(end), all > 1000, poll(s[0], 5, 0));
        let bytes = vec![b'x'; 1 << 20];
        show!(t, sendto, s[0], p(&bytes[..]), 1 << 20, QUIET, 0, 0);
        must!(fcntl, s[0], libc::F_SETFL, 0);
        show!(t, sendto, s[0], p(&bytes[..]), 100, DONTWAIT, 0, 0);
        must!(setsockopt, s[0], SOL, libc::SO_SNDTIMEO, p(&[0u64, 20_000]), 16);
        show!(t, sendto, s[0], p(&bytes[..]), 100, QUIET, 0, 0);
        let mut sink = vec![0u8; 4096];
        let mut read = 0;
        while let n @ 1.. = call!(read, s[1], out(&mut sink[..]), 4096) {
            read += n as usize;
        }
        say!(t, "{} {}", read >= all, poll(s[0], 5, 0));
        // One who waits goes on when there is room, and gives up when there is nobody to read.
        must!(setsockopt, s[0], SOL, libc::SO_SNDTIMEO, p(&[0u64, 0]), 16);
        let child = fork(|| {
            must!(close, s[1]);
            let t = &mut T::default();
            say!(t, "{}", result(call!(sendto, s[0], p(&bytes[..]), 1 << 20, QUIET, 0, 0)));
            let part = call!(sendto, s[0], p(&bytes[..]), 1 << 20, QUIET, 0, 0);
            say!(t, "in part {} then {}", part > 0 && part < 1 << 20, send(s[0], "x", QUIET));
            0
        });
        must!(close, s[0]);
        must!(fcntl, s[1], libc::F_SETFL, 0);
        let mut left = 1usize << 20;
        while left > 0 {
            left -= must!(read, s[1], out(&mut sink[..]), left.min(4096)) as usize;
        }
        asleep(child);
        must!(close, s[1]);
        wait(child);
    }
}

/// Datagrams for one who is not connected are few.
pub(super) fn full_datagrams(t: &mut T) {
    let a = socket(DGRAM);
    bind(a, "@conformance.full");
    let (b, c_) = (socket(DGRAM), socket(DGRAM));
    connect(b, "@conformance.full");
    let fill = |fd: i32| (0..1000).take_while(|_| send(fd, "x", DONTWAIT) == "1").count();
    say!(t, "{} then {} {}", fill(b), send(b, "x", DONTWAIT), poll(b, 5, 0));
    let to = address("@conformance.full");
    show!(t, sendto, c_, p("x"), 1, DONTWAIT, p(&to[..]), to.len());
    say!(t, "{}", poll(c_, 5, 0));
    say!(t, "{} {} {}", recv(a, 9, 0), poll(b, 5, 0), send(b, "x", DONTWAIT));
    must!(setsockopt, b, SOL, libc::SO_SNDTIMEO, p(&[0u64, 20_000]), 16);
    say!(t, "in time: {}", send(b, "x", 0));
    must!(setsockopt, b, SOL, libc::SO_SNDTIMEO, p(&[0u64, 0]), 16);
    let child = fork(|| {
        let t = &mut T::default();
        say!(t, "waited: {}", send(b, "y", 0));
        say!(t, "poll: {}", poll(b, 4, 2000));
        say!(t, "waited: {}", send(b, "z", 0));
        0
    });
    asleep(child);
    recv(a, 9, 0);
    asleep(child);
    recv(a, 9, 0);
    wait(child);
    say!(t, "{} {}", fill(b), send(b, "x", DONTWAIT));
    let child = fork(|| {
        must!(close, a);
        say!(&mut T::default(), "gone: {}", send(b, "x", 0));
        0
    });
    asleep(child);
    must!(close, a);
    wait(child);
}

/// Two that are connected with each other fill the sender's buffer.
pub(super) fn full_peer(t: &mut T) {
    for kind in [DGRAM, SEQ] {
        let s = pair(kind | libc::SOCK_NONBLOCK);
        let piece = [b'x'; 4000];
        let mut count = 0;
        let end = loop {
            match call!(write, s[0], p(&piece), 4000) {
                4000 => count += 1,
                other => break other,
            }
        };
        say!(t, "{kind}: {} {} {}", result(end), count > 10, poll(s[0], 5, 0));
        for _ in 0..count {
            recv(s[1], 4000, 0);
        }
        say!(t, "{} {}", recv(s[1], 9, 0), poll(s[0], 5, 0));
    }
}

pub(super) fn too_long(t: &mut T) {
    let bytes = vec![b'x'; 300_000];
    for kind in [DGRAM, SEQ, STREAM] {
        let s = pair(kind | libc::SOCK_NONBLOCK);
        set(s[0], libc::SO_SNDBUF, 4000);
        say!(t, "{kind}: {}", get(s[0], libc::SO_SNDBUF));
        for len in [7967, 7968, 7969, 8000, 9000, 300_000] {
            let sent = call!(sendto, s[0], p(&bytes[..]), len, QUIET, 0, 0);
            let sent = if kind == STREAM { (sent > 0).to_string() } else { result(sent) };
            say!(t, "{len}: {sent}");
            let mut sink = vec![0u8; 300_000];
            while call!(read, s[1], out(&mut sink[..]), 300_000) > 0 {}
        }
    }
}

pub(super) fn interrupted(t: &mut T) {
    let alarm = || must!(setitimer, libc::ITIMER_REAL, p(&[0i64, 0, 0, 30_000]), 0);
    let l = listener(STREAM, "@conformance.signal", 0);
    for restart in [0, libc::SA_RESTART] {
        handle(libc::SIGALRM, count, restart, 0);
        for timed in [false, true] {
            say!(t, "restarted {restart:#x}, timed {timed}");
            let limit = [if timed { 5u64 } else { 0 }, 0];
            let s = pair(STREAM);
            for (fd, option) in [(s[0], libc::SO_RCVTIMEO), (s[0], libc::SO_SNDTIMEO), (l, libc::SO_RCVTIMEO)] {
                must!(setsockopt, fd, SOL, option, p(&limit), 16);
            }
            let helped = |help: &dyn Fn()| {
                if restart == 0 || timed {
                    return 0;
                }
                // It goes on after the signal: somebody ends that.
                fork(|| {
                    sleep_ms(90);
                    help();
                    0
                })
            };
            let done = |child: i64| {
                if child > 0 {
                    wait(child);
                }
            };
            let child = helped(&|| drop(send(s[1], "late", 0)));
            alarm();
            say!(t, "recv: {}", recv(s[0], 9, 0));
            done(child);
            let child = helped(&|| {
                connect(socket(STREAM), "@conformance.signal");
            });
            alarm();
            say!(t, "accept: {}", ok_or_error(call!(accept, l, 0, 0)));
            done(child);
            let bytes = vec![b'x'; 1 << 20];
            call!(sendto, s[0], p(&bytes[..]), 1 << 20, DONTWAIT | QUIET, 0, 0);
            let child = helped(&|| {
                let mut sink = vec![0u8; 1 << 20];
                while call!(recvfrom, s[1], out(&mut sink[..]), 1 << 20, DONTWAIT, 0, 0) > 0 {}
            });
            alarm();
            say!(t, "send: {}", send(s[0], "x", QUIET));
            done(child);
            if restart == 0 || timed {
                connect(socket(STREAM | libc::SOCK_NONBLOCK), "@conformance.signal");
                let c_ = socket(STREAM);
                must!(setsockopt, c_, SOL, libc::SO_SNDTIMEO, p(&limit), 16);
                alarm();
                say!(t, "connect: {}", result(connect(c_, "@conformance.signal")));
                must!(accept, l, 0, 0);
            }
            for fd in s {
                must!(close, fd);
            }
        }
    }
}

/// What was sent or received before a signal counts.
pub(super) fn interrupted_in_part(t: &mut T) {
    handle(libc::SIGALRM, count, 0, 0);
    let s = pair(STREAM);
    let bytes = vec![b'x'; 4 << 20];
    must!(setitimer, libc::ITIMER_REAL, p(&[0i64, 0, 0, 50_000]), 0);
    let sent = call!(sendto, s[0], p(&bytes[..]), 4 << 20, QUIET, 0, 0);
    say!(t, "in part {}", sent > 0 && sent < 4 << 20);
    let mut sink = vec![0u8; 4 << 20];
    let mut all = 0;
    while let n @ 1.. = call!(recvfrom, s[1], out(&mut sink[..]), 4 << 20, DONTWAIT, 0, 0) {
        all += n;
    }
    say!(t, "as much as was said {}", all == sent);
}
