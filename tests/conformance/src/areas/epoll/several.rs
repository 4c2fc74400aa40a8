//! Several who wait, descriptors that are copies, races.

use super::*;

pub(super) fn exclusive(t: &mut T) {
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
pub(super) fn waiters(e: i32, make: impl Fn() -> i32) -> u32 {
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

pub(super) fn exclusive_wakes_one(t: &mut T) {
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

pub(super) fn level_wakes_all(t: &mut T) {
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

pub(super) fn taken_in_turn(t: &mut T) {
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

/// What is watched is an open file under a number.
pub(super) fn copies(t: &mut T) {
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

pub(super) fn number_used_again(t: &mut T) {
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

pub(super) fn after_fork(t: &mut T) {
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

/// How long it took is compared with what it has to take at least: a busy machine takes any time more. That a wait of no time does
/// not wait is said by the count of the times this thread has given up its CPU.
pub(super) fn timeouts(t: &mut T) {
    let ep = create();
    let mut got = [[0u32; 3]; 2];
    let at = out(&mut got);
    let waited = |start: std::time::Instant| start.elapsed().as_millis() >= 20;
    let slept = |wait: &dyn Fn() -> i64| {
        let before = sleeps();
        let got = wait();
        format!("{}, slept {}", result(got), sleeps() - before)
    };
    let start = std::time::Instant::now();
    say!(t, "{}", slept(&|| call!(epoll_wait, ep, at, 2, 20)));
    say!(t, "20 ms: {}", waited(start));
    let start = std::time::Instant::now();
    say!(t, "{}", slept(&|| call!(epoll_pwait2, ep, at, 2, p(&[0u64, 20_000_000]), 0, 8)));
    say!(t, "20 ms: {}", waited(start));
    say!(t, "{}", slept(&|| call!(epoll_wait, ep, at, 2, 0)));
    say!(t, "{}", slept(&|| call!(epoll_pwait2, ep, at, 2, p(&[0u64, 0]), 0, 8)));
    let timer = must!(timerfd_create, 1, 0) as i32;
    add(ep, timer, IN | ET, 1);
    let start = std::time::Instant::now();
    must!(timerfd_settime, timer, 0, p(&[0u64, 0, 0, 20_000_000]), 0);
    say!(t, "{}", result(call!(epoll_wait, ep, at, 2, -1)));
    say!(t, "20 ms: {}", waited(start));
    say!(t, "{}", slept(&|| call!(epoll_wait, ep, at, 2, -5 + 5)));
}

/// How often this thread has given up its CPU to wait.
fn sleeps() -> i64 {
    let mut usage = [0i64; 18];
    must!(getrusage, libc::RUSAGE_THREAD, out(&mut usage));
    usage[16]
}

pub(super) fn added_while_waiting(t: &mut T) {
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
pub(super) fn every_event_race(t: &mut T) {
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
pub(super) fn closing_race(t: &mut T) {
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
