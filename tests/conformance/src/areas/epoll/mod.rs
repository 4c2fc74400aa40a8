//! epoll: levels and edges, one shot, exclusive, nested; descriptors that are copied, closed and inherited.

mod nesting;
mod several;
mod sockets;

use std::sync::atomic::Ordering;

use crate::helpers::*;
use crate::sys::shared;
use crate::test::Test;
use nesting::*;
use several::*;
use sockets::*;

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
