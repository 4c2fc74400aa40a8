//! epoll: levels and edges, one shot, exclusive, nested; descriptors that are copied, closed and inherited.

use std::sync::atomic::Ordering;

use crate::helpers::*;
use crate::sys::shared;
use crate::test::Test;

pub const TESTS: &[Test] = tests![
    control_errors: epoll_ctl epoll_create epoll_create1,
    wait_errors: epoll_wait epoll_pwait epoll_pwait2,
    what_can_be_watched: epoll_ctl,
    levels: epoll_wait,
    edges: epoll_wait,
    edges_of_counters: epoll_wait eventfd2,
    one_shot: epoll_wait epoll_ctl,
    modified: epoll_ctl,
    exclusive: epoll_ctl,
    exclusive_wakes_one: epoll_wait,
    level_wakes_all: epoll_wait,
    taken_in_turn: epoll_wait,
    sockets_hang_up: epoll_wait shutdown,
    pipes_hang_up: epoll_wait,
    copies: epoll_ctl dup close,
    number_used_again: epoll_ctl close dup2,
    after_fork: epoll_wait fork close,
    nested: epoll_wait,
    nested_edges: epoll_wait,
    nested_loops: epoll_ctl,
    polled_itself: poll select,
    sent_over: epoll_wait sendmsg,
    listeners: epoll_wait accept4,
    timeouts: epoll_wait epoll_pwait2,
    added_while_waiting: epoll_wait epoll_ctl,
    #[race]
    every_event_race: epoll_wait epoll_ctl,
    #[race]
    closing_race: epoll_wait epoll_ctl close,
];

const IN: u32 = 1;
const PRI: u32 = 2;
const OUT: u32 = 4;
const RDHUP: u32 = 0x2000;
const EXCLUSIVE: u32 = 1 << 28;
const WAKEUP: u32 = 1 << 29;
const ONESHOT: u32 = 1 << 30;
const ET: u32 = 1 << 31;
const ADD: i32 = libc::EPOLL_CTL_ADD;
const DEL: i32 = libc::EPOLL_CTL_DEL;
const MOD: i32 = libc::EPOLL_CTL_MOD;

fn create() -> i32 {
    must!(epoll_create1, 0) as i32
}

/// `struct epoll_event` is packed.
fn event(events: u32, data: u64) -> [u32; 3] {
    [events, data as u32, (data >> 32) as u32]
}

fn control(ep: i32, how: i32, fd: i32, events: u32, data: u64) -> i64 {
    call!(epoll_ctl, ep, how, fd, p(&event(events, data)))
}

fn add(ep: i32, fd: i32, events: u32, data: u64) -> String {
    result(control(ep, ADD, fd, events, data))
}

/// What is ready, at most `max`, in the order it is told: `data:EVENTS …`.
fn ready_of(ep: i32, max: i32, ms: i32) -> String {
    let mut got = [[0u32; 3]; 16];
    match call!(epoll_wait, ep, out(&mut got), max, ms) {
        0 => "nothing".to_owned(),
        n if n > 0 => {
            let words: Vec<String> =
                got[..n as usize].iter().map(|[events, data, _]| format!("{data}:{}", events_of(*events))).collect();
            words.join(" ")
        }
        error => result(error),
    }
}

fn ready(ep: i32) -> String {
    ready_of(ep, 16, 0)
}

fn pair(kind: i32) -> [i32; 2] {
    let mut s = [0i32; 2];
    must!(socketpair, libc::AF_UNIX, kind | libc::SOCK_NONBLOCK, 0, out(&mut s));
    s
}

fn counter(value: u32, flags: i32) -> i32 {
    must!(eventfd2, value, flags | libc::O_NONBLOCK) as i32
}

fn raise(fd: i32, by: u64) {
    must!(write, fd, p(&by), 8);
}

fn take(fd: i32) -> String {
    let mut value = 0u64;
    match call!(read, fd, out(&mut value), 8) {
        8 => value.to_string(),
        error => result(error),
    }
}

fn control_errors(t: &mut T) {
    show!(t, epoll_create, 0);
    show!(t, epoll_create, -1);
    ok!(t, epoll_create, 1);
    show!(t, epoll_create1, 1);
    let ep = must!(epoll_create1, libc::O_CLOEXEC) as i32;
    show!(t, fcntl, ep, libc::F_GETFD);
    show!(t, fcntl, ep, libc::F_GETFL);
    let (r, _w) = pipe(0);
    for (name, how, fd) in [("no such call", 9, r), ("none", 0, r), ("closed", ADD, 99), ("itself", ADD, ep)] {
        say!(t, "{name}: {}", result(control(ep, how, fd, IN, 0)));
    }
    say!(t, "no epoll: {} {}", result(control(r, ADD, ep, IN, 0)), result(control(99, ADD, r, IN, 0)));
    say!(t, "not there: {} {}", result(control(ep, MOD, r, IN, 0)), result(control(ep, DEL, r, IN, 0)));
    say!(t, "twice: {} {}", add(ep, r, IN, 0), add(ep, r, IN, 0));
    show!(t, epoll_ctl, ep, MOD, r, 0);
    show!(t, epoll_ctl, ep, DEL, r, 0);
    show!(t, epoll_ctl, ep, ADD, r, 0);
    show!(t, read, ep, out(&mut [0u8; 8]), 8);
    show!(t, write, ep, p(&[0u8; 8]), 8);
    show!(t, lseek, ep, 0, 0);
    let path = open(".", libc::O_PATH) as i32;
    say!(t, "a path: {}", add(ep, path, IN, 0));
}

fn wait_errors(t: &mut T) {
    let ep = create();
    let mut got = [[0u32; 3]; 4];
    for max in [0, -1, i32::MIN, i32::MAX] {
        say!(t, "{max}: {}", result(call!(epoll_wait, ep, out(&mut got), max, 0)));
    }
    show!(t, epoll_wait, 0, out(&mut got), 1, 0);
    show!(t, epoll_wait, 99, out(&mut got), 1, 0);
    show!(t, epoll_wait, ep, hole(), 1, 0);
    let e = counter(1, 0);
    add(ep, e, IN, 7);
    show!(t, epoll_wait, ep, hole(), 1, 0);
    say!(t, "still there: {}", ready(ep));
    show!(t, epoll_pwait, ep, out(&mut got), 4, 0, p(&0u64), 7);
    show!(t, epoll_pwait, ep, out(&mut got), 4, 0, hole(), 8);
    show!(t, epoll_pwait, ep, out(&mut got), 4, 0, 0, 7);
    show!(t, epoll_pwait2, ep, out(&mut got), 4, p(&[0i64, 1_000_000_000]), 0, 8);
    show!(t, epoll_pwait2, ep, out(&mut got), 4, p(&[-1i64, 0]), 0, 8);
    show!(t, epoll_pwait2, ep, out(&mut got), 4, hole(), 0, 8);
    show!(t, epoll_pwait2, ep, out(&mut got), 4, p(&[0i64, 5]), 0, 8);
    // Room for one of two, the second behind what can be written.
    add(ep, counter(1, 0), IN, 8);
    let end = hole();
    show!(t, epoll_wait, ep, end - 12, 2, 0);
    say!(t, "{}", ready(ep));
}

fn what_can_be_watched(t: &mut T) {
    let ep = create();
    file("f", "x");
    for (name, fd) in [
        ("file", open("f", O_RDWR)),
        ("directory", open(".", O_RDONLY)),
        ("/dev/null", open("/dev/null", O_RDWR)),
        ("/dev/zero", open("/dev/zero", O_RDWR)),
        ("proc", open("/proc/self/stat", O_RDONLY)),
        ("mounts", open("/proc/self/mounts", O_RDONLY)),
        ("ptmx", open("/dev/ptmx", O_RDWR)),
        ("signalfd", must!(signalfd4, -1, p(&bit(libc::SIGWINCH)), 8, 0)),
        ("timerfd", must!(timerfd_create, 1, 0)),
        ("inotify", must!(inotify_init1, 0)),
        ("memfd", must!(memfd_create, c"m", 0)),
        ("pidfd", must!(pidfd_open, must!(getpid), 0)),
        ("socket", must!(socket, libc::AF_UNIX, libc::SOCK_STREAM, 0)),
    ] {
        say!(t, "{name}: {}", add(ep, fd as i32, IN | OUT | PRI, fd as u64));
        // Of a mount table, an event is that it changed since it was opened.
        if name != "mounts" {
            let said = ready(ep);
            say!(t, "  {}", said.split_once(':').map_or(said.as_str(), |(_, events)| events));
        }
        control(ep, DEL, fd as i32, 0, 0);
    }
}

fn levels(t: &mut T) {
    let (ep, (r, w)) = (create(), pipe(libc::O_NONBLOCK));
    say!(t, "{} {}", add(ep, r, IN, 1), add(ep, w, OUT, 2));
    say!(t, "{}", ready(ep));
    write(w, "ab");
    say!(t, "{} | {}", ready(ep), ready(ep));
    read(r);
    say!(t, "{}", ready(ep));
    while write(w, "more and more") > 0 {}
    say!(t, "full: {}", ready(ep));
    must!(read, r, out(&mut [0u8; 4096]), 4096);
    say!(t, "room: {}", ready(ep));
    say!(t, "nothing asked for: {}", result(control(ep, MOD, r, 0, 1)));
    control(ep, DEL, w, 0, 0);
    say!(t, "{}", ready(ep));
    must!(close, w);
    say!(t, "hung up all the same: {}", ready(ep));
}

fn edges(t: &mut T) {
    let (ep, (r, w)) = (create(), pipe(libc::O_NONBLOCK));
    add(ep, r, IN | ET, 1);
    add(ep, w, OUT | ET, 2);
    say!(t, "{} | {}", ready(ep), ready(ep));
    write(w, "a");
    say!(t, "{} | {}", ready(ep), ready(ep));
    write(w, "b");
    say!(t, "more: {} | {}", ready(ep), ready(ep));
    must!(read, r, out(&mut [0u8; 1]), 1);
    say!(t, "not all read: {}", ready(ep));
    read(r);
    say!(t, "all read: {}", ready(ep));
    must!(close, w);
    say!(t, "closed: {} | {}", ready(ep), ready(ep));
    let s = pair(libc::SOCK_STREAM);
    add(ep, s[0], IN | OUT | RDHUP | ET, 3);
    say!(t, "{} | {}", ready(ep), ready(ep));
    write(s[1], "a");
    say!(t, "{} | {}", ready(ep), ready(ep));
    write(s[1], "b");
    say!(t, "{} | {}", ready(ep), ready(ep));
    must!(shutdown, s[1], 1);
    say!(t, "{} | {}", ready(ep), ready(ep));
    must!(close, s[1]);
    say!(t, "{} | {}", ready(ep), ready(ep));
    // What was there before it was added is an edge, too.
    let e = counter(1, 0);
    add(ep, e, IN | ET, 4);
    say!(t, "{} | {}", ready(ep), ready(ep));
}

fn edges_of_counters(t: &mut T) {
    for flags in [0, 1] {
        let (ep, e) = (create(), counter(0, flags));
        add(ep, e, IN | OUT | ET, 1);
        say!(t, "{} | {}", ready(ep), ready(ep));
        raise(e, 1);
        say!(t, "raised: {} | {}", ready(ep), ready(ep));
        raise(e, 2);
        say!(t, "again: {} | {}", ready(ep), ready(ep));
        raise(e, 0);
        say!(t, "by nothing: {}", ready(ep));
        say!(t, "{}: {}", take(e), ready(ep));
        raise(e, u64::MAX - 5);
        say!(t, "{}", ready(ep));
    }
}

fn one_shot(t: &mut T) {
    for more in [0, ET] {
        let (ep, (r, w)) = (create(), pipe(libc::O_NONBLOCK));
        add(ep, r, IN | ONESHOT | more, 1);
        say!(t, "{}", ready(ep));
        write(w, "a");
        say!(t, "{} | {}", ready(ep), ready(ep));
        write(w, "b");
        say!(t, "{}", ready(ep));
        say!(t, "armed: {} {} | {}", result(control(ep, MOD, r, IN | ONESHOT | more, 5)), ready(ep), ready(ep));
        must!(close, w);
        say!(t, "hung up, disarmed: {}", ready(ep));
        say!(t, "{} {} | {}", result(control(ep, MOD, r, ONESHOT | more, 6)), ready(ep), ready(ep));
        say!(t, "{}", add(ep, r, IN, 1));
    }
}

fn modified(t: &mut T) {
    let (ep, s) = (create(), pair(libc::SOCK_STREAM));
    add(ep, s[0], OUT | ET, 1);
    say!(t, "{} | {}", ready(ep), ready(ep));
    say!(t, "the same again: {} {} | {}", result(control(ep, MOD, s[0], OUT | ET, 2)), ready(ep), ready(ep));
    say!(t, "not ready: {} {}", result(control(ep, MOD, s[0], IN | ET, 3)), ready(ep));
    write(s[1], "x");
    say!(t, "ready before: {} {}", result(control(ep, MOD, s[0], 0, 4)), ready(ep));
    say!(t, "asked for: {} {}", result(control(ep, MOD, s[0], IN | OUT, 5)), ready(ep));
    let data = u64::MAX - 1;
    control(ep, MOD, s[0], IN, data);
    let mut got = [[0u32; 3]; 2];
    must!(epoll_wait, ep, out(&mut got), 2, 0);
    say!(t, "{:x?}", got[0]);
    say!(t, "{} {}", result(control(ep, DEL, s[0], 0, 0)), ready(ep));
}

fn exclusive(t: &mut T) {
    let (ep, e, inner) = (create(), counter(1, 0), create());
    for more in [IN, OUT, IN | OUT, IN | ET, IN | WAKEUP, IN | PRI, IN | RDHUP, IN | ONESHOT, IN | 8, IN | 16, 64, 0] {
        say!(t, "{more:x}: {}", add(ep, e, EXCLUSIVE | more, 1));
        control(ep, DEL, e, 0, 0);
    }
    say!(t, "an epoll: {}", add(ep, inner, EXCLUSIVE | IN, 1));
    add(ep, e, EXCLUSIVE | IN, 1);
    say!(t, "changed: {}", result(control(ep, MOD, e, IN, 1)));
    say!(t, "{} | {}", ready(ep), ready(ep));
    control(ep, DEL, e, 0, 0);
    add(ep, e, IN, 2);
    say!(t, "made: {}", result(control(ep, MOD, e, IN | EXCLUSIVE, 2)));
}

/// Children that wait, each with an epoll of its own made by `make`, for one event; how many saw it.
fn waiters(e: i32, make: impl Fn() -> i32) -> u32 {
    let words = shared();
    let children: Vec<i64> = (0..4)
        .map(|_| {
            fork(|| {
                let ep = make();
                words[0].fetch_add(1, Ordering::SeqCst);
                let mut got = [[0u32; 3]; 2];
                if call!(epoll_wait, ep, out(&mut got), 2, 5000) == 1 {
                    words[1].fetch_add(1, Ordering::SeqCst);
                }
                0
            })
        })
        .collect();
    children.iter().for_each(|pid| asleep(*pid));
    raise(e, 1);
    for _ in 0..50 {
        sleep_ms(4);
    }
    children.iter().for_each(|pid| {
        call!(kill, *pid, libc::SIGKILL);
        wait(*pid);
    });
    words[1].load(Ordering::SeqCst)
}

fn exclusive_wakes_one(t: &mut T) {
    let e = counter(0, 0);
    let woken = waiters(e, || {
        let ep = create();
        add(ep, e, EXCLUSIVE | IN, 1);
        ep
    });
    // It is promised that one wakes; the others need not sleep on.
    say!(t, "somebody: {}", (1..4).contains(&woken));
    // One epoll that several wait for wakes one of them for an edge.
    let e = counter(0, 0);
    let ep = create();
    add(ep, e, IN | ET, 1);
    say!(t, "{}", waiters(e, || ep));
}

fn level_wakes_all(t: &mut T) {
    let e = counter(0, 0);
    let woken = waiters(e, || {
        let ep = create();
        add(ep, e, IN, 1);
        ep
    });
    say!(t, "{woken}");
    let e = counter(0, 0);
    let ep = create();
    add(ep, e, IN, 1);
    say!(t, "of one: {}", waiters(e, || ep));
}

fn taken_in_turn(t: &mut T) {
    let ep = create();
    let counters: Vec<i32> = (0..5).map(|_| counter(0, 0)).collect();
    counters.iter().enumerate().for_each(|(i, e)| drop(add(ep, *e, IN, i as u64)));
    for i in [3, 1, 4, 0, 2] {
        raise(counters[i], 1);
    }
    say!(t, "{} | {} | {}", ready_of(ep, 2, 0), ready_of(ep, 2, 0), ready_of(ep, 2, 0));
    say!(t, "{}", ready(ep));
    take(counters[4]);
    say!(t, "{} | {}", ready_of(ep, 3, 0), ready_of(ep, 3, 0));
}

fn sockets_hang_up(t: &mut T) {
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

fn pipes_hang_up(t: &mut T) {
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

/// What is watched is an open file under a number.
fn copies(t: &mut T) {
    let (ep, e) = (create(), counter(1, 0));
    let copy = must!(dup, e) as i32;
    say!(t, "{} {} {}", add(ep, e, IN, 1), add(ep, copy, IN, 2), ready(ep));
    must!(close, e);
    say!(t, "one closed: {}", ready(ep));
    say!(t, "cannot be named: {}", result(control(ep, DEL, e, 0, 0)));
    control(ep, DEL, copy, 0, 0);
    say!(t, "{}", ready(ep));
    let back = must!(dup2, copy, e);
    say!(t, "{}", back == i64::from(e));
    say!(t, "named again: {} {}", result(control(ep, DEL, e, 0, 0)), ready(ep));
    must!(close, copy);
    must!(close, e);
    let (ep, e) = (create(), counter(1, 0));
    add(ep, e, IN, 3);
    must!(close, e);
    say!(t, "the last closed: {}", ready(ep));
    // The epoll itself.
    let (ep, e) = (create(), counter(1, 0));
    let copy = must!(dup, ep) as i32;
    add(ep, e, IN, 4);
    say!(t, "{} {}", ready(copy), add(copy, e, IN, 5));
    must!(close, ep);
    say!(t, "{}", ready(copy));
}

fn number_used_again(t: &mut T) {
    let (ep, e, other) = (create(), counter(1, 0), counter(2, 0));
    let kept = must!(dup, e);
    add(ep, e, IN, 1);
    must!(dup2, other, e);
    say!(t, "{}", ready(ep));
    say!(t, "another file: {} {}", result(control(ep, MOD, e, IN, 9)), result(control(ep, DEL, e, 0, 0)));
    say!(t, "{} {}", add(ep, e, IN, 2), ready(ep));
    must!(close, kept);
    say!(t, "{}", ready(ep));
    let inner = open("/proc/self/stat", O_RDONLY) as i32;
    must!(dup2, inner, e);
    say!(t, "{} {}", ready(ep), result(control(ep, ADD, e, IN, 3)));
}

fn after_fork(t: &mut T) {
    let (ep, e) = (create(), counter(1, 0));
    add(ep, e, IN, 1);
    let (ended, go) = pipe(0);
    let (told, tell) = pipe(0);
    let pid = fork(|| {
        say!(t, "in the child: {}", ready(ep));
        must!(close, e);
        say!(t, "closed there: {}", ready(ep));
        let mine = counter(1, 0);
        add(ep, mine, IN, 2);
        say!(t, "its own: {}", ready(ep));
        write(tell, "x");
        read(ended);
        0
    });
    must!(close, tell);
    read(told);
    say!(t, "in the parent: {}", ready(ep));
    must!(close, e);
    say!(t, "closed here, too: {}", ready(ep));
    write(go, "x");
    say!(t, "{} {}", wait(pid), ready(ep));
    // The parent closes, the child has it.
    let (ep, e) = (create(), counter(1, 0));
    add(ep, e, IN, 3);
    let pid = fork(|| {
        read(ended);
        0
    });
    must!(close, e);
    say!(t, "kept by a child: {}", ready(ep));
    write(go, "x");
    say!(t, "{} {}", wait(pid), ready(ep));
}

fn nested(t: &mut T) {
    let (outer, inner, (r, w)) = (create(), create(), pipe(libc::O_NONBLOCK));
    say!(t, "{} {}", add(outer, inner, IN | OUT, 1), add(inner, r, IN, 2));
    say!(t, "{}", ready(outer));
    write(w, "x");
    say!(t, "{} | {} | {}", ready(outer), ready(inner), ready(outer));
    read(r);
    say!(t, "{} | {}", ready(outer), ready(inner));
    write(w, "x");
    control(inner, DEL, r, 0, 0);
    say!(t, "taken out: {}", ready(outer));
    add(inner, r, IN, 3);
    say!(t, "put in: {}", ready(outer));
    must!(close, inner);
    say!(t, "closed: {}", ready(outer));
}

fn nested_edges(t: &mut T) {
    for (of_outer, of_inner) in [(ET, 0), (0, ET), (ET, ET), (ONESHOT, 0)] {
        let (outer, inner, e) = (create(), create(), counter(0, 0));
        add(outer, inner, IN | of_outer, 1);
        add(inner, e, IN | of_inner, 2);
        raise(e, 1);
        say!(t, "{of_outer:x} {of_inner:x}: {} | {}", ready(outer), ready(outer));
        raise(e, 1);
        say!(t, "  again: {} | {}", ready(outer), ready(outer));
        say!(t, "  inner: {} | {}", ready(inner), ready(inner));
        say!(t, "  outer: {}", ready(outer));
        raise(e, 1);
        say!(t, "  {} {}", ready(outer), ready(inner));
    }
}

fn nested_loops(t: &mut T) {
    let (a, b) = (create(), create());
    say!(t, "{} {}", add(a, b, IN, 1), add(b, a, IN, 2));
    let chain: Vec<i32> = (0..8).map(|_| create()).collect();
    let joined: Vec<String> = chain.windows(2).map(|two| add(two[0], two[1], IN, 0)).collect();
    say!(t, "downwards: {}", joined.join(" "));
    let chain: Vec<i32> = (0..8).map(|_| create()).collect();
    let joined: Vec<String> = chain.windows(2).rev().map(|two| add(two[0], two[1], IN, 0)).collect();
    say!(t, "upwards: {}", joined.join(" "));
    say!(t, "closed to a ring: {}", add(chain[4], chain[1], IN, 0));
    let e = counter(1, 0);
    say!(t, "at the end: {} {}", add(chain[4], e, IN, 7), ready(chain[3]));
    let (outer, inner) = (create(), create());
    let copy = must!(dup, inner) as i32;
    say!(t, "twice: {} {}", add(outer, inner, IN, 1), add(outer, copy, IN, 2));
    add(inner, e, IN, 3);
    say!(t, "{}", ready(outer));
}

fn polled_itself(t: &mut T) {
    let (ep, e) = (create(), counter(0, 0));
    add(ep, e, IN, 1);
    say!(t, "{}", poll(ep, 0x45, 0));
    raise(e, 1);
    say!(t, "{}", poll(ep, 0x45, 0));
    let mut set = [0u64; 16];
    set[0] = 1 << ep;
    show!(t, select, ep + 1, out(&mut set), 0, 0, out(&mut [0u64; 2]));
    take(e);
    say!(t, "{}", poll(ep, 0x45, 0));
    let pid = fork(|| {
        sleep_ms(30);
        raise(e, 1);
        0
    });
    say!(t, "waited for: {}", poll(ep, 1, 5000));
    wait(pid);
    raise(e, 1);
    take(e);
    say!(t, "not any more: {} {}", poll(ep, 1, 0), ready(ep));
}

/// An epoll sent over a socket, and sockets in flight that are watched.
fn sent_over(t: &mut T) {
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

fn listeners(t: &mut T) {
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

fn timeouts(t: &mut T) {
    let ep = create();
    let took = |wait: &dyn Fn() -> i64| {
        let start = std::time::Instant::now();
        let got = wait();
        format!("{} {}", result(got), start.elapsed().as_millis() >= 20)
    };
    let mut got = [[0u32; 3]; 2];
    let at = out(&mut got);
    say!(t, "{}", took(&|| call!(epoll_wait, ep, at, 2, 0)));
    say!(t, "{}", took(&|| call!(epoll_wait, ep, at, 2, 20)));
    say!(t, "{}", took(&|| call!(epoll_pwait2, ep, at, 2, p(&[0u64, 20_000_000]), 0, 8)));
    say!(t, "{}", took(&|| call!(epoll_pwait2, ep, at, 2, p(&[0u64, 0]), 0, 8)));
    let timer = must!(timerfd_create, 1, 0) as i32;
    add(ep, timer, IN | ET, 1);
    must!(timerfd_settime, timer, 0, p(&[0u64, 0, 0, 20_000_000]), 0);
    say!(t, "{}", took(&|| call!(epoll_wait, ep, at, 2, -1)));
    say!(t, "{}", took(&|| call!(epoll_wait, ep, at, 2, -5 + 5)));
}

fn added_while_waiting(t: &mut T) {
    let (ep, e) = (create(), counter(1, 0));
    let pid = fork(|| {
        say!(t, "added: {}", ready_of(ep, 4, 10_000));
        0
    });
    asleep(pid);
    add(ep, e, IN, 1);
    wait(pid);
    control(ep, MOD, e, 0, 1);
    let pid = fork(|| {
        say!(t, "changed: {}", ready_of(ep, 4, 10_000));
        0
    });
    asleep(pid);
    control(ep, MOD, e, IN, 2);
    wait(pid);
}

/// One edge each for every rise that is taken; nothing is lost and nothing waits for ever.
fn every_event_race(t: &mut T) {
    const EACH: u64 = 200;
    let ep = create();
    let counters: Vec<i32> = (0..3).map(|_| counter(0, 0)).collect();
    counters.iter().enumerate().for_each(|(i, e)| drop(add(ep, *e, IN | ONESHOT | ET, i as u64)));
    let writers: Vec<i64> = counters
        .iter()
        .map(|e| {
            fork(|| {
                (0..EACH).for_each(|_| raise(*e, 1));
                0
            })
        })
        .collect();
    let words = shared();
    let takers: Vec<i64> = (0..2)
        .map(|_| {
            fork(|| {
                while u64::from(words[0].load(Ordering::SeqCst)) < EACH * 3 {
                    let mut got = [[0u32; 3]; 1];
                    if call!(epoll_wait, ep, out(&mut got), 1, 50) == 1 {
                        let e = counters[got[0][1] as usize];
                        let mut value = 0u64;
                        must!(read, e, out(&mut value), 8);
                        words[0].fetch_add(value as u32, Ordering::SeqCst);
                        assert!(control(ep, MOD, e, IN | ONESHOT | ET, u64::from(got[0][1])) == 0);
                    }
                }
                0
            })
        })
        .collect();
    let ends: Vec<String> = writers.into_iter().chain(takers).map(wait).collect();
    say!(t, "{} {}", words[0].load(Ordering::SeqCst), ends.join(", "));
}

/// Files that are closed while they are waited for, and while they become ready.
fn closing_race(t: &mut T) {
    let ep = create();
    let ends = std::thread::scope(|scope| {
        let waiter = scope.spawn(move || {
            let mut bad = 0;
            for _ in 0..150 {
                let mut got = [[0u32; 3]; 4];
                let n = call!(epoll_wait, ep, out(&mut got), 4, 1);
                bad += i32::from(!(0..=4).contains(&n));
            }
            bad
        });
        let workers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(move || {
                    for _ in 0..100 {
                        let (r, w) = pipe(0);
                        assert!(control(ep, ADD, r, IN | ET, 1) == 0);
                        write(w, "x");
                        must!(close, r);
                        must!(close, w);
                    }
                })
            })
            .collect();
        let ends = workers.into_iter().map(|worker| worker.join().is_ok()).collect::<Vec<bool>>();
        (waiter.join().unwrap_or(-1), ends)
    });
    say!(t, "{ends:?} {}", ready(ep));
}
