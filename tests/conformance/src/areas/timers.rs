//! Timers on clocks: timerfd, POSIX timers, setitimer and alarm; what they say when they are set, read, late and gone.

use std::sync::atomic::{AtomicI32, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use crate::helpers::*;
use crate::test::Test;

pub const TESTS: &[Test] = tests![
    fd_errors: timerfd_create timerfd_settime timerfd_gettime,
    fd_counts: timerfd_settime read,
    fd_absolute: timerfd_settime read,
    fd_values: timerfd_settime timerfd_gettime,
    fd_blocks: read,
    fd_copies: timerfd_settime dup fork,
    fd_cancelled_by_set: timerfd_settime clock_settime read,
    fd_ioctl: timerfd_create ioctl,
    posix_errors: timer_create timer_settime timer_gettime timer_getoverrun timer_delete,
    posix_values: timer_settime timer_gettime,
    posix_overruns: timer_settime timer_getoverrun,
    posix_ignored: timer_settime timer_getoverrun,
    posix_absolute: timer_settime,
    posix_to_thread: timer_create,
    posix_not_told: timer_create timer_gettime timer_getoverrun,
    posix_not_inherited: timer_gettime fork execve,
    posix_of_a_nanosecond: timer_settime setitimer,
    posix_limit: timer_create,
    interval_errors: setitimer getitimer,
    interval_values: setitimer getitimer,
    interval_kept: setitimer getitimer fork execve,
    interval_rests: setitimer getitimer rt_sigtimedwait,
    alarms: alarm setitimer,
    deleted_while_pending: timer_delete rt_sigpending,
];

const MONOTONIC: i32 = libc::CLOCK_MONOTONIC;
const REALTIME: i32 = libc::CLOCK_REALTIME;
const NONBLOCK: i32 = libc::O_NONBLOCK;
const MS: i64 = 1_000_000;
const ABSTIME: i32 = 1;
const CANCEL_ON_SET: i32 = 2;

fn now(clock: i32) -> [i64; 2] {
    let mut now = [0i64; 2];
    must!(clock_gettime, clock, out(&mut now));
    now
}

/// The time so many milliseconds from now, as seconds and nanoseconds.
fn after(clock: i32, ms: i64) -> [i64; 2] {
    let [seconds, nanos] = now(clock);
    let all = seconds * 1000 * MS + nanos + ms * MS;
    [all.div_euclid(1000 * MS), all.rem_euclid(1000 * MS)]
}

/// A timer descriptor that is set.
fn timer(clock: i32, flags: i32, interval: i64, first: i64) -> i32 {
    let fd = must!(timerfd_create, clock, flags) as i32;
    must!(timerfd_settime, fd, 0, p(&[0i64, interval, 0, first]), 0);
    fd
}

fn expirations(fd: i32) -> i64 {
    let mut count = 0i64;
    match call!(read, fd, out(&mut count), 8) {
        8 => count,
        error => error,
    }
}

/// Interval and what is left of a timer, this as one of a few words.
fn left(value: [i64; 4]) -> String {
    let rest = match value[2] * 1000 * MS + value[3] {
        0 => "off".to_owned(),
        rest if rest < 0 => "negative".to_owned(),
        rest => format!("below {}", [100, 1000, 10_000, 100_000].into_iter().find(|ms| rest <= ms * MS).unwrap_or(-1)),
    };
    format!("every {}.{:09}, {rest}", value[0], value[1])
}

fn fd_errors(t: &mut T) {
    for clock in [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, -1, -6] {
        say!(t, "clock {clock}: {}", ok_or_error(call!(timerfd_create, clock, 0)));
    }
    for flags in [1, 4, 0o4000, 0o2000000, 0o2004000, -1] {
        say!(t, "flags {flags:o}: {}", ok_or_error(call!(timerfd_create, 1, flags)));
    }
    let fd = must!(timerfd_create, MONOTONIC, NONBLOCK | libc::O_CLOEXEC);
    show!(t, fcntl, fd, libc::F_GETFL);
    show!(t, fcntl, fd, libc::F_GETFD);
    let new = [0i64, 0, 0, 1];
    for flags in [ABSTIME, CANCEL_ON_SET, 3, 4, -1] {
        say!(t, "{flags}: {}", result(call!(timerfd_settime, fd, flags, p(&new), 0)));
    }
    show!(t, timerfd_settime, fd, 0, p(&[0i64, 0, -1, 0]), 0);
    show!(t, timerfd_settime, fd, 0, p(&[0i64, 0, 0, -1]), 0);
    show!(t, timerfd_settime, fd, 0, p(&[0i64, 0, 0, 1_000_000_000]), 0);
    show!(t, timerfd_settime, fd, 0, p(&[0i64, 1_000_000_000, 0, 1]), 0);
    show!(t, timerfd_settime, fd, 0, p(&[-1i64, 0, 0, 1]), 0);
    show!(t, timerfd_settime, fd, 0, p(&[i64::MAX, 0, i64::MAX, 0]), 0);
    show!(t, timerfd_settime, fd, 0, 0, 0);
    show!(t, timerfd_settime, fd, 0, p(&new), hole());
    say!(t, "set all the same: {}", poll(fd as i32, 1, 100));
    show!(t, timerfd_settime, 0, 0, p(&new), 0);
    show!(t, timerfd_settime, 99, 0, p(&new), 0);
    show!(t, timerfd_gettime, 0, out(&mut [0i64; 4]));
    show!(t, timerfd_gettime, fd, hole());
    show!(t, read, fd, out(&mut [0u8; 7]), 7);
    show!(t, write, fd, p(&1u64), 8);
    show!(t, lseek, fd, 0, 0);
    show!(t, pread64, fd, out(&mut [0u8; 8]), 8, 0);
}

fn fd_counts(t: &mut T) {
    let fd = timer(MONOTONIC, NONBLOCK, 0, 50 * MS);
    say!(t, "{} {}", result(expirations(fd)), poll(fd, 5, 0));
    say!(t, "{} {} {}", poll(fd, 1, 5000), expirations(fd), result(expirations(fd)));
    sleep_ms(60);
    say!(t, "once: {}", result(expirations(fd)));
    let fd = timer(MONOTONIC, NONBLOCK, 10 * MS, 10 * MS);
    sleep_ms(55);
    let first = expirations(fd);
    say!(t, "several at once: {} {}", first >= 5, result(expirations(fd).min(0)));
    // A short interval does not keep anybody busy.
    let fd = timer(MONOTONIC, NONBLOCK, 1, 1);
    sleep_ms(20);
    say!(t, "of a nanosecond: {}", expirations(fd) >= 20 * MS);
    must!(timerfd_settime, fd, 0, p(&[0i64; 4]), 0);
    say!(t, "off: {} {}", result(expirations(fd)), poll(fd, 1, 0));
    // Setting it anew forgets what has happened.
    let fd = timer(MONOTONIC, NONBLOCK, 0, 1);
    sleep_ms(5);
    must!(timerfd_settime, fd, 0, p(&[0i64, 0, 50, 0]), 0);
    say!(t, "set anew: {}", result(expirations(fd)));
    // A bad buffer does not lose it: that is seen before it is read.
    let fd = timer(MONOTONIC, NONBLOCK, 0, 1);
    sleep_ms(5);
    show!(t, read, fd, hole(), 8);
    say!(t, "{}", result(expirations(fd)));
}

fn fd_absolute(t: &mut T) {
    for clock in [MONOTONIC, REALTIME, libc::CLOCK_BOOTTIME] {
        let fd = must!(timerfd_create, clock, NONBLOCK) as i32;
        let [s, n] = after(clock, 30);
        must!(timerfd_settime, fd, ABSTIME, p(&[0i64, 0, s, n]), 0);
        let early = expirations(fd);
        say!(t, "clock {clock}: {} {} {}", result(early), poll(fd, 1, 5000), expirations(fd));
        let mut value = [7i64; 4];
        let [s, n] = after(clock, 900);
        must!(timerfd_settime, fd, ABSTIME, p(&[0i64, 0, s, n]), 0);
        must!(timerfd_gettime, fd, out(&mut value));
        say!(t, "what is left is relative: {}", left(value));
        let [s, n] = after(clock, -95);
        must!(timerfd_settime, fd, ABSTIME, p(&[0i64, 10 * MS, s, n]), 0);
        poll(fd, 1, 1000);
        say!(t, "in the past: {}", expirations(fd) >= 10);
        must!(timerfd_settime, fd, ABSTIME, p(&[0i64, 0, 0, 1]), 0);
        poll(fd, 1, 1000);
        say!(t, "long ago: {}", expirations(fd));
        must!(timerfd_settime, fd, ABSTIME, p(&[0i64, 0, 0, 0]), 0);
        say!(t, "zero: {}", result(expirations(fd)));
    }
}

fn fd_values(t: &mut T) {
    let fd = must!(timerfd_create, MONOTONIC, NONBLOCK) as i32;
    let mut value = [7i64; 4];
    must!(timerfd_gettime, fd, out(&mut value));
    say!(t, "new: {}", left(value));
    show!(t, timerfd_settime, fd, 0, p(&[5i64, 6, 7, 8]), out(&mut value));
    say!(t, "before: {}", left(value));
    must!(timerfd_gettime, fd, out(&mut value));
    say!(t, "{}", left(value));
    must!(timerfd_settime, fd, 0, p(&[0i64, 0, 0, 1]), out(&mut value));
    say!(t, "before: {}", left(value));
    sleep_ms(5);
    must!(timerfd_gettime, fd, out(&mut value));
    say!(t, "expired: {}", left(value));
    must!(timerfd_settime, fd, 0, p(&[0i64, 40 * MS, 0, 1]), 0);
    sleep_ms(5);
    must!(timerfd_gettime, fd, out(&mut value));
    say!(t, "repeats: {}", left(value));
    must!(timerfd_settime, fd, 0, p(&[3i64, 0, 0, 0]), out(&mut value));
    must!(timerfd_gettime, fd, out(&mut value));
    say!(t, "an interval alone: {}", left(value));
}

fn fd_blocks(t: &mut T) {
    let start = Instant::now();
    let fd = timer(MONOTONIC, 0, 0, 20 * MS);
    say!(t, "{} {}", expirations(fd), start.elapsed().as_millis() >= 20);
    let pid = fork(|| {
        say!(t, "set while one waits: {}", expirations(fd));
        0
    });
    asleep(pid);
    must!(timerfd_settime, fd, 0, p(&[0i64, 0, 0, MS]), 0);
    wait(pid);
}

fn fd_copies(t: &mut T) {
    let fd = timer(MONOTONIC, NONBLOCK, 0, 10 * MS);
    let copy = must!(dup, fd) as i32;
    sleep_ms(20);
    say!(t, "{} {}", expirations(copy), result(expirations(fd)));
    let ended = child(|| {
        must!(timerfd_settime, fd, 0, p(&[0i64, 0, 0, 10 * MS]), 0);
        0
    });
    say!(t, "{ended}: {} {}", poll(copy, 1, 5000), expirations(fd));
    must!(close, fd);
    must!(timerfd_settime, copy, 0, p(&[0i64, 0, 0, 1]), 0);
    say!(t, "{}", poll(copy, 1, 5000));
}

/// Sets the clock to what it is: that counts as setting it.
fn set_clock() -> i64 {
    let time = now(REALTIME);
    call!(clock_settime, REALTIME, p(&time))
}

fn fd_cancelled_by_set(t: &mut T) {
    let watched = must!(timerfd_create, REALTIME, NONBLOCK) as i32;
    let far = after(REALTIME, 3_600_000);
    must!(timerfd_settime, watched, ABSTIME | CANCEL_ON_SET, p(&[0i64, 0, far[0], 0]), 0);
    let plain = must!(timerfd_create, REALTIME, NONBLOCK) as i32;
    must!(timerfd_settime, plain, ABSTIME, p(&[0i64, 0, far[0], 0]), 0);
    let relative = must!(timerfd_create, REALTIME, NONBLOCK) as i32;
    must!(timerfd_settime, relative, CANCEL_ON_SET, p(&[0i64, 0, 3600, 0]), 0);
    say!(t, "before: {} {}", result(expirations(watched)), poll(watched, 1, 0));
    say!(t, "set: {}", result(set_clock()));
    say!(t, "told: {} {} {}", poll(watched, 1, 1000), result(expirations(watched)), result(expirations(watched)));
    say!(t, "not told: {} {}", result(expirations(plain)), result(expirations(relative)));
    let mut value = [0i64; 4];
    must!(timerfd_gettime, watched, out(&mut value));
    say!(t, "still set: {}", value[2] > 3000);
    // Told also by the call that sets it anew.
    set_clock();
    show!(t, timerfd_settime, watched, ABSTIME | CANCEL_ON_SET, p(&[0i64, 0, far[0], 0]), 0);
    say!(t, "{}", result(expirations(watched)));
    must!(fcntl, watched, libc::F_SETFL, 0);
    let pid = fork(|| {
        say!(t, "waits: {}", result(expirations(watched)));
        0
    });
    asleep(pid);
    set_clock();
    wait(pid);
    let monotonic = must!(timerfd_create, MONOTONIC, NONBLOCK) as i32;
    show!(t, timerfd_settime, monotonic, ABSTIME | CANCEL_ON_SET, p(&[0i64, 0, far[0], 0]), 0);
    set_clock();
    say!(t, "of another clock: {}", result(expirations(monotonic)));
    show!(t, clock_settime, REALTIME, p(&[0i64, 1_000_000_000]));
    show!(t, clock_settime, REALTIME, p(&[-1i64, 0]));
    show!(t, clock_settime, MONOTONIC, p(&[0i64, 0]));
    let ended = as_nobody(|| {
        let t = &mut T::default();
        say!(t, "nobody: {}", result(set_clock()));
    });
    say!(t, "{ended}");
}

fn fd_ioctl(t: &mut T) {
    const SET_TICKS: i32 = 0x4008_5400;
    let fd = timer(MONOTONIC, NONBLOCK, 0, 0);
    show!(t, ioctl, fd, SET_TICKS, p(&3u64));
    show!(t, ioctl, fd, libc::FIONREAD, out(&mut 0i32));
    must!(ftruncate, open("f", O_CREAT | O_RDWR), 0);
    show!(t, ftruncate, fd, 0);
    show!(t, fsync, fd);
    show!(t, mmap, 0, 4096, 1, libc::MAP_SHARED, fd, 0);
    let line = content(&format!("/proc/self/fdinfo/{fd}"));
    let names: Vec<&str> = line.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name).collect();
    say!(t, "{}", names.join(" "));
}

/// A POSIX timer; `how` is SIGEV_SIGNAL, …
fn create(clock: i32, how: i32, signal: i32, value: u64) -> i32 {
    let mut id = -1i32;
    let event = [value, signal as u64 | (how as u64) << 32, 0, 0, 0, 0, 0, 0];
    must!(timer_create, clock, p(&event), out(&mut id));
    id
}

fn posix_errors(t: &mut T) {
    let mut id = -1i32;
    for clock in [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, -1] {
        say!(t, "clock {clock}: {}", result(call!(timer_create, clock, 0, out(&mut id))));
    }
    for how in [0, 1, 2, 3, 4, 5, 9] {
        let event = [0u64, libc::SIGALRM as u64 | how << 32, 0, 0, 0, 0, 0, 0];
        say!(t, "how {how}: {}", result(call!(timer_create, 1, p(&event), out(&mut id))));
    }
    for signal in [0u64, 1, 64, 65, u64::from(u32::MAX)] {
        let event = [0u64, signal, 0, 0, 0, 0, 0, 0];
        say!(t, "signal {signal}: {}", result(call!(timer_create, 1, p(&event), out(&mut id))));
    }
    show!(t, timer_create, 1, hole(), out(&mut id));
    show!(t, timer_create, 1, 0, hole());
    for bad in [-1, 12345] {
        show!(t, timer_settime, bad, 0, p(&[0i64; 4]), 0);
        show!(t, timer_gettime, bad, out(&mut [0i64; 4]));
        show!(t, timer_getoverrun, bad);
        show!(t, timer_delete, bad);
    }
    must!(timer_create, 1, 0, out(&mut id));
    show!(t, timer_settime, id, 0, p(&[0i64, 0, 0, 1_000_000_000]), 0);
    show!(t, timer_settime, id, 0, p(&[0i64, -1, 0, 0]), 0);
    show!(t, timer_settime, id, 0, p(&[-1i64, 0, 0, 0]), 0);
    show!(t, timer_settime, id, 8, p(&[0i64; 4]), 0);
    show!(t, timer_settime, id, 0, 0, 0);
    show!(t, timer_settime, id, 0, p(&[0i64; 4]), hole());
    show!(t, timer_gettime, id, hole());
    show!(t, timer_delete, id);
    show!(t, timer_delete, id);
}

fn posix_values(t: &mut T) {
    let id = create(MONOTONIC, 1, 0, 0);
    let mut value = [7i64; 4];
    must!(timer_gettime, id, out(&mut value));
    say!(t, "new: {}", left(value));
    show!(t, timer_settime, id, 0, p(&[5i64, 6, 7, 8]), out(&mut value));
    say!(t, "before: {}", left(value));
    must!(timer_gettime, id, out(&mut value));
    say!(t, "{}", left(value));
    must!(timer_settime, id, 0, p(&[0i64, 0, 0, 1]), out(&mut value));
    say!(t, "before: {}", left(value));
    sleep_ms(5);
    must!(timer_gettime, id, out(&mut value));
    say!(t, "expired: {}", left(value));
    must!(timer_settime, id, 0, p(&[0i64, 40 * MS, 0, 1]), 0);
    sleep_ms(5);
    must!(timer_gettime, id, out(&mut value));
    say!(t, "repeats: {}", left(value));
}

static CODE: AtomicI32 = AtomicI32::new(0);
static VALUE: AtomicI64 = AtomicI64::new(0);
static OVERRUN: AtomicI32 = AtomicI32::new(0);

extern "C" fn note(signal: i32, info: &mut Info, context: &mut libc::ucontext_t) {
    CODE.store(info.code, Ordering::Relaxed);
    OVERRUN.fetch_max(info.rest[1], Ordering::Relaxed);
    VALUE.store(info.value() as i64, Ordering::Relaxed);
    count(signal, info, context);
}

/// What was signalled since the last time: how often, and the last one.
fn told() -> String {
    let count = COUNT.swap(0, Ordering::Relaxed);
    if count == 0 {
        return "nothing".to_owned();
    }
    let (code, value) = (CODE.load(Ordering::Relaxed), VALUE.load(Ordering::Relaxed));
    format!("{count} x {} code {code} value {value}", signal_name(LAST.load(Ordering::Relaxed)))
}

fn posix_overruns(t: &mut T) {
    handle(libc::SIGUSR1, note, 0, 0);
    let id = create(MONOTONIC, 0, libc::SIGUSR1, 42);
    mask(libc::SIG_BLOCK, bit(libc::SIGUSR1));
    must!(timer_settime, id, 0, p(&[0i64, 5 * MS, 0, 5 * MS]), 0);
    sleep_ms(60);
    show!(t, timer_getoverrun, id);
    let mut value = [0i64; 4];
    must!(timer_gettime, id, out(&mut value));
    say!(t, "{}", left(value));
    mask(libc::SIG_UNBLOCK, bit(libc::SIGUSR1));
    say!(t, "delivered: {}", OVERRUN.load(Ordering::Relaxed) >= 9);
    must!(timer_settime, id, 0, p(&[0i64; 4]), 0);
    say!(t, "{}", told().split_once('x').map_or("", |(_, rest)| rest));
    // A signal of a real-time timer is pending once however often it expires.
    mask(libc::SIG_BLOCK, bit(40));
    handle(40, note, 0, 0);
    let id = create(MONOTONIC, 0, 40, 7);
    must!(timer_settime, id, 0, p(&[0i64, MS, 0, MS]), 0);
    sleep_ms(30);
    must!(timer_settime, id, 0, p(&[0i64; 4]), 0);
    mask(libc::SIG_UNBLOCK, bit(40));
    say!(t, "once: {}", told());
    // More than fits is the most there is. Taken without a handler, which would be entered again and again.
    let id = create(MONOTONIC, 0, libc::SIGUSR1, 1);
    mask(libc::SIG_BLOCK, bit(libc::SIGUSR1));
    must!(timer_settime, id, 0, p(&[0i64, 1, 0, 1]), 0);
    sleep_ms(2300);
    let mut info = Info::default();
    must!(rt_sigtimedwait, p(&bit(libc::SIGUSR1)), out(&mut info), 0, 8);
    say!(t, "{}", info.rest[1] == i32::MAX);
    must!(timer_delete, id);
}

fn posix_ignored(t: &mut T) {
    dispose(libc::SIGUSR1, 1);
    let id = create(MONOTONIC, 0, libc::SIGUSR1, 3);
    must!(timer_settime, id, 0, p(&[0i64, 5 * MS, 0, 5 * MS]), 0);
    sleep_ms(30);
    show!(t, timer_getoverrun, id);
    let mut value = [0i64; 4];
    must!(timer_gettime, id, out(&mut value));
    say!(t, "goes on: {}", left(value));
    handle(libc::SIGUSR1, note, 0, 0);
    let start = Instant::now();
    while COUNT.load(Ordering::Relaxed) == 0 && start.elapsed() < Duration::from_secs(5) {
        sleep_ms(1);
    }
    must!(timer_settime, id, 0, p(&[0i64; 4]), 0);
    say!(t, "comes back: {}", COUNT.load(Ordering::Relaxed) > 0);
}

fn posix_absolute(t: &mut T) {
    handle(libc::SIGUSR1, note, 0, 0);
    for clock in [MONOTONIC, REALTIME, libc::CLOCK_BOOTTIME] {
        let id = create(clock, 0, libc::SIGUSR1, 5);
        let [s, n] = after(clock, 20);
        must!(timer_settime, id, ABSTIME, p(&[0i64, 0, s, n]), 0);
        let early = told();
        sleep_ms(40);
        say!(t, "{early}, {}", told());
        let [s, n] = after(clock, -50);
        must!(timer_settime, id, ABSTIME, p(&[0i64, 0, s, n]), 0);
        sleep_ms(5);
        say!(t, "in the past: {}", told());
        must!(timer_settime, id, ABSTIME, p(&[0i64; 4]), 0);
        sleep_ms(5);
        say!(t, "zero: {}", told());
    }
}

/// Waits until a timer that goes off once has done so.
fn expired(id: i32) {
    let mut value = [1i64; 4];
    while value[2..] != [0, 0] {
        must!(sched_yield);
        must!(timer_gettime, id, out(&mut value));
    }
}

fn posix_to_thread(t: &mut T) {
    handle(libc::SIGUSR1, note, 0, 0);
    let mut id = -1i32;
    let event = |tid: i64| [9u64, libc::SIGUSR1 as u64 | 4 << 32, tid as u64, 0, 0, 0, 0, 0];
    show!(t, timer_create, 1, p(&event(99_999_999)), out(&mut id));
    show!(t, timer_create, 1, p(&event(must!(getppid))), out(&mut id));
    show!(t, timer_create, 1, p(&event(0)), out(&mut id));
    let (told_tid, tell) = pipe(0);
    let (ready, get_ready) = pipe(0);
    let worker = std::thread::spawn(move || {
        mask(libc::SIG_BLOCK, bit(libc::SIGUSR1));
        must!(write, tell, p(&must!(gettid)), 8);
        while pending() & bit(libc::SIGUSR1) == 0 {
            must!(sched_yield);
        }
        must!(read, ready, out(&mut [0u8; 1]), 1);
        let mut info = Info::default();
        let got = call!(rt_sigtimedwait, p(&bit(libc::SIGUSR1)), out(&mut info), p(&[0u64; 2]), 8);
        format!("{} code {}", result(got), info.code)
    });
    let mut tid = 0i64;
    must!(read, told_tid, out(&mut tid), 8);
    show!(t, timer_create, 1, p(&event(tid)), out(&mut id));
    must!(timer_settime, id, 0, p(&[0i64, 0, 0, MS]), 0);
    expired(id);
    write(get_ready, "x");
    say!(t, "there: {:?}", worker.join().ok());
    say!(t, "to us: {}", told());
    show!(t, timer_settime, id, 0, p(&[0i64, 0, 0, MS]), 0);
    expired(id);
    say!(t, "the thread is gone: {}", told());
}

fn posix_not_told(t: &mut T) {
    let id = create(MONOTONIC, 1, 0, 0);
    must!(timer_settime, id, 0, p(&[0i64, 5 * MS, 0, 5 * MS]), 0);
    sleep_ms(30);
    show!(t, timer_getoverrun, id);
    let mut value = [0i64; 4];
    must!(timer_gettime, id, out(&mut value));
    say!(t, "{} {:x}", left(value), pending());
}

fn posix_not_inherited(t: &mut T) {
    let id = create(MONOTONIC, 1, 0, 0);
    must!(timer_settime, id, 0, p(&[0i64, 0, 100, 0]), 0);
    let ended = child(|| {
        say!(t, "in a child: {}", result(call!(timer_gettime, id, out(&mut [0i64; 4]))));
        let mut mine = -1i32;
        must!(timer_create, 1, 0, out(&mut mine));
        say!(t, "its first has the same number: {}", mine == id || mine == 0);
        0
    });
    say!(t, "{ended}");
    let mut value = [0i64; 4];
    must!(timer_gettime, id, out(&mut value));
    say!(t, "{}", left(value));
}

/// A period that is over before the signal is handled: who has that timer comes to nothing else, but can be killed, and
/// others go on.
fn posix_of_a_nanosecond(t: &mut T) {
    for ignored in [false, true] {
        let words = crate::sys::shared();
        let pid = fork(|| {
            if ignored {
                dispose(libc::SIGUSR1, 1);
            } else {
                handle(libc::SIGUSR1, count, 0, 0);
            }
            let id = create(MONOTONIC, 0, libc::SIGUSR1, 0);
            words[0].store(1, Ordering::SeqCst);
            must!(timer_settime, id, 0, p(&[0i64, 1, 0, 1]), 0);
            loop {
                words[1].store(COUNT.load(Ordering::Relaxed) as u32, Ordering::SeqCst);
                std::hint::spin_loop();
            }
        });
        while words[0].load(Ordering::SeqCst) == 0 {
            sleep_ms(1);
        }
        sleep_ms(30);
        must!(kill, pid, libc::SIGKILL);
        say!(t, "{ignored}: {}", wait(pid));
    }
    // The same of an interval timer, in microseconds.
    let pid = fork(|| {
        handle(libc::SIGALRM, count, 0, 0);
        must!(setitimer, 0, p(&[0i64, 1, 0, 1]), 0);
        loop {
            std::hint::spin_loop();
        }
    });
    sleep_ms(30);
    must!(kill, pid, libc::SIGKILL);
    say!(t, "{}", wait(pid));
    let fd = timer(MONOTONIC, NONBLOCK, 1, 1);
    sleep_ms(2);
    let mut times = 0u64;
    say!(t, "{} {}", result(call!(read, fd, out(&mut times), 8)), times > 1_000_000);
}

fn posix_limit(t: &mut T) {
    must!(prlimit64, 0, libc::RLIMIT_SIGPENDING, p(&[5u64, 5]), 0);
    must!(setresuid, 12_345, 12_345, 12_345);
    let mut id = -1i32;
    let made: Vec<String> = (0..7).map(|_| result(call!(timer_create, 1, 0, out(&mut id)))).collect();
    say!(t, "{}", made.join(" "));
    must!(timer_delete, id);
    show!(t, timer_create, 1, 0, out(&mut id));
    show!(t, timer_create, 1, 0, out(&mut id));
}

fn interval_errors(t: &mut T) {
    for which in [-1, 0, 1, 2, 3] {
        say!(t, "{which}: {} {}", result(call!(setitimer, which, p(&[0i64; 4]), 0)), result(call!(getitimer, which, out(&mut [0i64; 4]))));
    }
    for new in [[0i64, 0, 0, 1_000_000], [0, 1_000_000, 0, 0], [0, 0, -1, 0], [0, -1, 0, 0], [-1, 0, 0, 0], [0, 0, i64::MAX, 0]] {
        say!(t, "{new:?}: {}", result(call!(setitimer, 0, p(&new), 0)));
        must!(setitimer, 0, p(&[0i64; 4]), 0);
    }
    show!(t, setitimer, 0, hole(), 0);
    show!(t, setitimer, 0, p(&[0i64; 4]), hole());
    show!(t, setitimer, 0, 0, 0);
    show!(t, getitimer, 0, hole());
}

/// Interval, and whether what is left is about right.
fn interval(value: [i64; 4]) -> String {
    left([value[0], value[1] * 1000, value[2], value[3] * 1000])
}

fn interval_values(t: &mut T) {
    handle(libc::SIGALRM, note, 0, 0);
    let mut value = [7i64; 4];
    show!(t, setitimer, 0, p(&[5i64, 6, 7, 8]), out(&mut value));
    say!(t, "before: {}", interval(value));
    must!(getitimer, 0, out(&mut value));
    say!(t, "{}", interval(value));
    show!(t, setitimer, 0, p(&[0i64, 0, 0, 1]), out(&mut value));
    say!(t, "before: {}", interval(value));
    sleep_ms(5);
    must!(getitimer, 0, out(&mut value));
    say!(t, "{} {}", told(), interval(value));
    must!(setitimer, 0, p(&[0i64, 10_000, 0, 10_000]), 0);
    sleep_ms(65);
    must!(setitimer, 0, p(&[0i64; 4]), 0);
    let times = COUNT.swap(0, Ordering::Relaxed);
    say!(t, "repeats: {}", times >= 2);
    sleep_ms(20);
    say!(t, "off: {}", told());
    must!(setitimer, 0, p(&[1i64, 0, 0, 0]), 0);
    must!(getitimer, 0, out(&mut value));
    say!(t, "an interval alone: {}", interval(value));
}

fn interval_kept(t: &mut T) {
    must!(setitimer, 0, p(&[0i64, 0, 100, 0]), 0);
    let ended = child(|| {
        let mut value = [7i64; 4];
        must!(getitimer, 0, out(&mut value));
        say!(t, "in a child: {}", interval(value));
        0
    });
    say!(t, "{ended}");
    let ended = std::thread::spawn(|| {
        let mut value = [7i64; 4];
        must!(getitimer, 0, out(&mut value));
        interval(value)
    });
    say!(t, "in a thread: {}", ended.join().unwrap_or_default());
}

/// While its signal is pending the timer is off; when that is taken, the next period begins.
fn interval_rests(t: &mut T) {
    mask(libc::SIG_BLOCK, bit(libc::SIGALRM));
    must!(setitimer, 0, p(&[50i64, 0, 0, 1000]), 0);
    while pending() & bit(libc::SIGALRM) == 0 {
        must!(sched_yield);
    }
    let mut value = [7i64; 4];
    must!(getitimer, 0, out(&mut value));
    say!(t, "pending: {} every {} s", interval(value), value[0]);
    show!(t, rt_sigtimedwait, p(&bit(libc::SIGALRM)), 0, p(&[0u64; 2]), 8);
    must!(getitimer, 0, out(&mut value));
    say!(t, "taken: {} every {} s", interval(value), value[0]);
}

fn alarms(t: &mut T) {
    handle(libc::SIGALRM, note, 0, 0);
    show!(t, alarm, 0);
    show!(t, alarm, 100);
    show!(t, alarm, 50);
    let mut value = [7i64; 4];
    must!(getitimer, 0, out(&mut value));
    say!(t, "one timer with setitimer: {}", interval(value));
    must!(setitimer, 0, p(&[0i64, 0, 0, 400_000]), 0);
    show!(t, alarm, 0);
    must!(setitimer, 0, p(&[0i64, 0, 3, 600_000]), 0);
    show!(t, alarm, 0);
    must!(setitimer, 0, p(&[0i64, 0, 3, 400_000]), 0);
    show!(t, alarm, 1);
    let start = Instant::now();
    call!(pause);
    say!(t, "{} {}", told(), start.elapsed().as_millis() >= 900);
    show!(t, alarm, u32::MAX);
    show!(t, alarm, 0);
}

fn deleted_while_pending(t: &mut T) {
    handle(libc::SIGUSR1, note, 0, 0);
    mask(libc::SIG_BLOCK, bit(libc::SIGUSR1));
    let id = create(MONOTONIC, 0, libc::SIGUSR1, 1);
    must!(timer_settime, id, 0, p(&[0i64, 0, 0, 1]), 0);
    sleep_ms(5);
    say!(t, "{}", pending() & bit(libc::SIGUSR1) != 0);
    must!(timer_delete, id);
    say!(t, "deleted: {}", pending() & bit(libc::SIGUSR1) != 0);
    mask(libc::SIG_UNBLOCK, bit(libc::SIGUSR1));
    say!(t, "{}", told());
    // Set anew while it is pending.
    mask(libc::SIG_BLOCK, bit(libc::SIGUSR1));
    let id = create(MONOTONIC, 0, libc::SIGUSR1, 2);
    must!(timer_settime, id, 0, p(&[0i64, 0, 0, 1]), 0);
    sleep_ms(5);
    must!(timer_settime, id, 0, p(&[0i64, 0, 100, 0]), 0);
    mask(libc::SIG_UNBLOCK, bit(libc::SIGUSR1));
    say!(t, "set anew: {}", told());
}
