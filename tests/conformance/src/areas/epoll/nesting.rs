//! Epolls that watch epolls, and that are polled.

use super::*;

pub(super) fn nested(t: &mut T) {
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

pub(super) fn nested_edges(t: &mut T) {
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

pub(super) fn nested_loops(t: &mut T) {
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

pub(super) fn polled_itself(t: &mut T) {
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
