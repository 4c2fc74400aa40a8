//! fcntl: owners and signals of files, leases, and the matrix of locks.

use std::sync::atomic::{AtomicI32, Ordering};

use crate::helpers::*;
use crate::sys::shared;
use crate::test::Test;

pub const TESTS: &[Test] = tests![
    owner: fcntl,
    owner_of_another: fcntl,
    pipe_signals: fcntl,
    socket_signals: fcntl,
    real_time_signal: fcntl,
    group_signals: fcntl,
    who_can_signal: fcntl ioctl,
    lease_basics: fcntl,
    lease_conflicts: fcntl openat,
    lease_times_out: openat,
    lease_nonblocking: openat,
    lock_matrix: fcntl flock,
    lock_ranges: fcntl,
    deadlock: fcntl,
    locks_go: fcntl close,
    commands: fcntl,
];

const F_SETSIG: i32 = 10;
const F_GETSIG: i32 = 11;
const F_SETOWN_EX: i32 = 15;
const F_GETOWN_EX: i32 = 16;
const F_GETOWNER_UIDS: i32 = 17;
const F_SETLEASE: i32 = 1024;
const F_GETLEASE: i32 = 1025;
const F_OFD_SETLK: i32 = 37;
const RDLCK: i32 = 0;
const WRLCK: i32 = 1;
const UNLCK: i32 = 2;

/// What [`note`] was told last.
pub(super) static CODE: AtomicI32 = AtomicI32::new(0);
pub(super) static BAND: AtomicI32 = AtomicI32::new(0);
pub(super) static FD: AtomicI32 = AtomicI32::new(0);

/// A handler that counts and takes down what a signal of a descriptor says.
pub(super) extern "C" fn note(signal: i32, info: &mut Info, context: &mut libc::ucontext_t) {
    CODE.store(info.code, Ordering::Relaxed);
    BAND.store(info.rest[0], Ordering::Relaxed);
    FD.store(info.rest[2], Ordering::Relaxed);
    count(signal, info, context);
}

/// What was signalled since the last time.
fn told() -> String {
    let count = COUNT.swap(0, Ordering::Relaxed);
    if count == 0 {
        return "nothing".to_owned();
    }
    let code = CODE.load(Ordering::Relaxed);
    let more = if code == 0x80 {
        String::new()
    } else {
        format!(" band {} fd {}", events_of(BAND.load(Ordering::Relaxed) as u32), FD.load(Ordering::Relaxed))
    };
    format!("{} x {} code {code}{more}", count, signal_name(LAST.load(Ordering::Relaxed)))
}

fn me() -> i64 {
    must!(getpid)
}

fn owner(t: &mut T) {
    let (r, _w) = pipe(0);
    show!(t, fcntl, r, libc::F_GETOWN);
    show!(t, fcntl, r, libc::F_SETOWN, me());
    say!(t, "me: {}", call!(fcntl, r, libc::F_GETOWN) == me());
    must!(setpgid, 0, 0);
    show!(t, fcntl, r, libc::F_SETOWN, -me());
    say!(t, "my group: {}", call!(fcntl, r, libc::F_GETOWN) == -me());
    let mut ex = [9i32; 2];
    show!(t, fcntl, r, F_GETOWN_EX, out(&mut ex));
    say!(t, "{} {}", ex[0], i64::from(ex[1]) == me());
    show!(t, fcntl, r, F_SETOWN_EX, p(&[0i32, me() as i32]));
    show!(t, fcntl, r, F_GETOWN_EX, out(&mut ex));
    say!(t, "{} {}", ex[0], i64::from(ex[1]) == me());
    show!(t, fcntl, r, F_SETOWN_EX, p(&[3i32, me() as i32]));
    show!(t, fcntl, r, F_SETOWN_EX, p(&[1i32, 99_999_999]));
    show!(t, fcntl, r, F_SETOWN_EX, 8);
    show!(t, fcntl, r, F_GETOWN_EX, 8);
    show!(t, fcntl, r, libc::F_SETOWN, 99_999_999);
    show!(t, fcntl, r, libc::F_SETOWN, i32::MIN);
    say!(t, "still me: {}", call!(fcntl, r, libc::F_GETOWN) == me());
    show!(t, fcntl, r, libc::F_SETOWN, 0);
    show!(t, fcntl, r, libc::F_GETOWN);
    let mut uids = [9u32; 2];
    show!(t, fcntl, r, F_GETOWNER_UIDS, out(&mut uids));
    say!(t, "{uids:?}");
    show!(t, fcntl, r, F_GETSIG);
    show!(t, fcntl, r, F_SETSIG, 65);
    show!(t, fcntl, r, F_SETSIG, -1);
    show!(t, fcntl, r, F_SETSIG, 34);
    show!(t, fcntl, r, F_GETSIG);
}

fn owner_of_another(t: &mut T) {
    let (r, _w) = pipe(0);
    let pid = fork(|| 0);
    must!(waitid, 1, pid, 0, 4 | 0x0100_0000, 0);
    show!(t, fcntl, r, libc::F_SETOWN, pid);
    say!(t, "a zombie: {}", call!(fcntl, r, libc::F_GETOWN) == pid);
    wait(pid);
    show!(t, fcntl, r, libc::F_GETOWN);
}

fn set_async(fd: i32, on: bool) {
    let flags = must!(fcntl, fd, libc::F_GETFL) as i32 & !libc::O_ASYNC;
    must!(fcntl, fd, libc::F_SETFL, flags | if on { libc::O_ASYNC } else { 0 });
}

fn pipe_signals(t: &mut T) {
    handle(libc::SIGIO, note, 0, 0);
    let (r, w) = pipe(libc::O_NONBLOCK);
    must!(fcntl, r, libc::F_SETOWN, me());
    write(w, "x");
    say!(t, "not asked for: {}", told());
    set_async(r, true);
    show!(t, fcntl, r, libc::F_GETFL);
    write(w, "x");
    say!(t, "write: {}", told());
    read(r);
    say!(t, "read: {}", told());
    must!(fcntl, r, F_SETSIG, libc::SIGIO);
    write(w, "x");
    say!(t, "with a signal: {}", told());
    must!(fcntl, w, libc::F_SETOWN, me());
    must!(fcntl, w, F_SETSIG, libc::SIGIO);
    set_async(r, false);
    set_async(w, true);
    read(r);
    say!(t, "room: {}", told());
    must!(close, r);
    say!(t, "no reader: {}", told());
    let (r, w) = pipe(0);
    must!(fcntl, r, libc::F_SETOWN, me());
    must!(fcntl, r, F_SETSIG, libc::SIGIO);
    set_async(r, true);
    must!(close, w);
    say!(t, "no writer: {}", told());
    set_async(r, false);
    show!(t, fcntl, r, libc::F_GETFL);
}

fn socket_signals(t: &mut T) {
    handle(libc::SIGIO, note, 0, 0);
    for (name, kind) in [("stream", libc::SOCK_STREAM), ("dgram", libc::SOCK_DGRAM)] {
        let mut s = [0i32; 2];
        must!(socketpair, libc::AF_UNIX, kind, 0, out(&mut s));
        must!(fcntl, s[0], libc::F_SETOWN, me());
        must!(fcntl, s[0], F_SETSIG, libc::SIGIO);
        set_async(s[0], true);
        show!(t, fcntl, s[0], libc::F_GETFL);
        write(s[1], "x");
        say!(t, "{name} written to: {}", told());
        read(s[0]);
        say!(t, "read: {}", told());
        write(s[0], "x");
        say!(t, "writes: {}", told());
        read(s[1]);
        say!(t, "was read: {}", told());
    }
    let mut s = [0i32; 2];
    must!(socketpair, libc::AF_UNIX, libc::SOCK_STREAM, 0, out(&mut s));
    must!(fcntl, s[0], libc::F_SETOWN, me());
    let on = 1i32;
    show!(t, ioctl, s[0], libc::FIOASYNC, p(&on));
    show!(t, fcntl, s[0], libc::F_GETFL);
    write(s[1], "x");
    say!(t, "{}", told());
}

fn real_time_signal(t: &mut T) {
    let signal = 40;
    handle(signal, note, 0, 0);
    handle(libc::SIGIO, note, 0, 0);
    handle(libc::SIGCHLD, note, 0, 0);
    let (r, w) = pipe(libc::O_NONBLOCK);
    must!(fcntl, r, F_SETOWN_EX, p(&[0i32, me() as i32]));
    must!(fcntl, r, F_SETSIG, signal);
    set_async(r, true);
    mask(libc::SIG_BLOCK, bit(signal));
    write(w, "x");
    write(w, "x");
    write(w, "x");
    mask(libc::SIG_UNBLOCK, bit(signal));
    say!(t, "each counts: {}", told());
    must!(fcntl, r, F_SETSIG, libc::SIGCHLD);
    write(w, "x");
    say!(t, "one with codes of its own: {}", told());
    let copy = must!(dup, r) as i32;
    must!(close, r);
    write(w, "x");
    say!(t, "by a copy: {}", told());
    must!(close, copy);
    write(w, "x");
    say!(t, "closed: {}", told());
}

fn group_signals(t: &mut T) {
    let words = shared();
    must!(setpgid, 0, 0);
    handle(libc::SIGIO, note, 0, 0);
    let (r, w) = pipe(libc::O_NONBLOCK);
    let (ready, go) = pipe(0);
    let pid = fork(|| {
        write(go, "x");
        while COUNT.load(Ordering::Relaxed) == 0 {
            sleep_ms(5);
        }
        words[0].store(1, Ordering::SeqCst);
        0
    });
    read(ready);
    must!(fcntl, r, libc::F_SETOWN, -me());
    set_async(r, true);
    write(w, "x");
    say!(t, "I: {}", told());
    say!(t, "child: {} {}", wait(pid), words[0].load(Ordering::SeqCst));
    // Only those that the owner's setter may signal.
    let pid = fork(|| {
        must!(setresuid, NOBODY, NOBODY, NOBODY);
        must!(fcntl, r, libc::F_SETOWN, must!(getppid));
        must!(write, w, p("x"), 1);
        0
    });
    wait(pid);
    say!(t, "by nobody: {}", told());
}

fn who_can_signal(t: &mut T) {
    file("f", "x");
    let f = open("f", O_RDWR) as i32;
    let event = must!(eventfd2, 0, 0) as i32;
    let watch = must!(inotify_init1, 0) as i32;
    let on = 1i32;
    for (name, fd) in [("file", f), ("eventfd", event), ("inotify", watch)] {
        let flags = must!(fcntl, fd, libc::F_GETFL) as i32;
        say!(t, "{name}:");
        show!(t, fcntl, fd, libc::F_SETFL, flags | libc::O_ASYNC);
        say!(t, "{}", must!(fcntl, fd, libc::F_GETFL) as i32 & libc::O_ASYNC != 0);
        show!(t, ioctl, fd, libc::FIOASYNC, p(&on));
        show!(t, ioctl, fd, libc::FIOASYNC, 8);
    }
}

fn lease_basics(t: &mut T) {
    handle(libc::SIGIO, note, 0, 0);
    file("f", "x");
    let r = open("f", O_RDONLY);
    show!(t, fcntl, r, F_GETLEASE);
    show!(t, fcntl, r, F_SETLEASE, UNLCK);
    show!(t, fcntl, r, F_SETLEASE, RDLCK);
    show!(t, fcntl, r, F_GETLEASE);
    show!(t, fcntl, r, F_SETLEASE, WRLCK);
    show!(t, fcntl, r, F_GETLEASE);
    show!(t, fcntl, r, F_SETLEASE, RDLCK);
    show!(t, fcntl, r, F_SETLEASE, 3);
    show!(t, fcntl, r, F_SETLEASE, UNLCK);
    show!(t, fcntl, r, F_GETLEASE);
    let (p_, _w) = pipe(0);
    show!(t, fcntl, p_, F_SETLEASE, RDLCK);
    let d = open(".", O_RDONLY);
    show!(t, fcntl, d, F_SETLEASE, RDLCK);
    must!(fchmodat, AT_FDCWD, c"f", 0o666);
    say!(
        t,
        "{}",
        as_nobody(|| {
            let mine = must!(openat, AT_FDCWD, c"f", O_RDONLY, 0);
            show!(&mut T::default(), fcntl, mine, F_SETLEASE, RDLCK);
        })
    );
}

fn lease_conflicts(t: &mut T) {
    handle(libc::SIGIO, note, 0, 0);
    file("f", "x");
    let r = open("f", O_RDONLY);
    let r2 = open("f", O_RDONLY);
    show!(t, fcntl, r, F_SETLEASE, WRLCK);
    show!(t, fcntl, r, F_SETLEASE, RDLCK);
    show!(t, fcntl, r2, F_SETLEASE, RDLCK);
    show!(t, fcntl, r2, F_SETLEASE, WRLCK);
    show!(t, fcntl, r, F_SETLEASE, UNLCK);
    must!(close, r);
    show!(t, fcntl, r2, F_SETLEASE, WRLCK);
    must!(close, r2);
    let w = open("f", O_WRONLY);
    show!(t, fcntl, w, F_SETLEASE, RDLCK);
    show!(t, fcntl, w, F_SETLEASE, WRLCK);
    show!(t, fcntl, w, F_GETLEASE);
    say!(t, "nobody was told: {}", told());
}

/// Opens in a child; what that gave and whether it had to wait.
fn opens(flags: i32) -> i64 {
    fork(|| {
        let fd = call!(openat, AT_FDCWD, c"f", flags, 0);
        if fd >= 0 { 0 } else { -fd as i32 }
    })
}

fn lease_times_out(t: &mut T) {
    handle(libc::SIGIO, note, libc::SA_RESTART, 0);
    let old = content("/proc/sys/fs/lease-break-time");
    say!(t, "{}", old.trim());
    if std::fs::write("/proc/sys/fs/lease-break-time", "1").is_err() {
        say!(t, "cannot be set");
    }
    file("f", "x");
    let r = open("f", O_RDONLY);
    must!(fcntl, r, F_SETLEASE, WRLCK);
    let begun = std::time::Instant::now();
    say!(t, "{}", wait(opens(O_WRONLY)));
    say!(t, "waited: {}", begun.elapsed().as_millis() >= 900);
    show!(t, fcntl, r, F_GETLEASE);
    say!(t, "{}", told());
    let _ = std::fs::write("/proc/sys/fs/lease-break-time", old.trim());
}

fn lease_nonblocking(t: &mut T) {
    handle(libc::SIGIO, note, libc::SA_RESTART, 0);
    file("f", "x");
    let r = open("f", O_RDONLY);
    must!(fcntl, r, F_SETLEASE, WRLCK);
    say!(t, "{}", wait(opens(O_WRONLY | libc::O_NONBLOCK)));
    say!(t, "{}", told());
    show!(t, fcntl, r, F_GETLEASE);
    say!(t, "again: {}", wait(opens(O_RDONLY | libc::O_NONBLOCK)));
    say!(t, "{}", told());
    // One's own other open is in the way like anybody's.
    show!(t, openat, AT_FDCWD, c"f", libc::O_WRONLY | libc::O_NONBLOCK, 0);
    show!(t, fcntl, r, F_SETLEASE, UNLCK);
    show!(t, fcntl, r, F_SETLEASE, WRLCK);
}

fn flock_of(kind: i32, start: i64, len: i64) -> libc::flock {
    libc::flock { l_type: kind as i16, l_whence: 0, l_start: start, l_len: len, l_pid: 0 }
}

fn lock(fd: i64, command: i32, kind: i32, start: i64, len: i64) -> String {
    result(call!(fcntl, fd, command, p(&flock_of(kind, start, len))))
}

fn lock_matrix(t: &mut T) {
    file("f", "text");
    let f = open("f", O_RDWR);
    let held = [("posix", 0), ("ofd", 1), ("flock", 2)];
    for (name, kind) in held {
        for exclusive in [false, true] {
            let command = if exclusive { WRLCK } else { RDLCK };
            match kind {
                0 => {
 lock(f, libc::F_SETLK, command, 0, 0);
 }
                1 => {
 lock(f, F_OFD_SETLK, command, 0, 0);
 }
                _ => {
 must!(flock, f, if exclusive { libc::LOCK_EX } else { libc::LOCK_SH });
 }
            }
            let pid = fork(|| {
                let g = open("f", O_RDWR);
                let tries: Vec<String> = [RDLCK, WRLCK]
                    .into_iter()
                    .flat_map(|k| {
                        let how = if k == WRLCK { libc::LOCK_EX } else { libc::LOCK_SH } | libc::LOCK_NB;
                        let one = lock(g, libc::F_SETLK, k, 0, 0);
                        lock(g, libc::F_SETLK, UNLCK, 0, 0);
                        let two = lock(g, F_OFD_SETLK, k, 0, 0);
                        lock(g, F_OFD_SETLK, UNLCK, 0, 0);
                        let three = result(call!(flock, g, how));
                        must!(flock, g, libc::LOCK_UN);
                        [one, two, three]
                    })
                    .collect();
                say!(t, "{name} {exclusive}: {}", tries.join(" "));
                0
            });
            wait(pid);
            lock(f, libc::F_SETLK, UNLCK, 0, 0);
            lock(f, F_OFD_SETLK, UNLCK, 0, 0);
            must!(flock, f, libc::LOCK_UN);
        }
    }
}

fn test_lock(fd: i64, kind: i32, start: i64, len: i64) -> String {
    let mut lock = flock_of(kind, start, len);
    match call!(fcntl, fd, libc::F_GETLK, out(&mut lock)) {
        0 if i32::from(lock.l_type) == UNLCK => "free".to_owned(),
        0 => format!("{} {}+{}", lock.l_type, lock.l_start, lock.l_len),
        error => result(error),
    }
}

fn lock_ranges(t: &mut T) {
    file("f", "text");
    let f = open("f", O_RDWR);
    say!(t, "{}", lock(f, libc::F_SETLK, WRLCK, 10, 10));
    say!(t, "{}", lock(f, libc::F_SETLK, RDLCK, 14, 2));
    say!(t, "{}", lock(f, libc::F_SETLK, UNLCK, 18, 1));
    say!(t, "{}", lock(f, libc::F_SETLK, RDLCK, 30, -5));
    say!(t, "{}", lock(f, libc::F_SETLK, RDLCK, 2, -5));
    say!(t, "{}", lock(f, libc::F_SETLK, RDLCK, i64::MAX, 2));
    say!(t, "{}", lock(f, libc::F_SETLK, 7, 0, 2));
    say!(t, "{}", lock(open("f", O_RDONLY), libc::F_SETLK, WRLCK, 0, 2));
    let ended = child(|| {
        let t = &mut T::default();
        let g = open("f", O_RDWR);
        for (start, len) in [(0, 0), (0, 10), (0, 11), (14, 2), (16, 2), (18, 1), (19, 1), (20, 5), (25, 0)] {
            say!(t, "{start}+{len}: {} {}", test_lock(g, RDLCK, start, len), test_lock(g, WRLCK, start, len));
        }
        0
    });
    say!(t, "{ended}");
}

fn deadlock(t: &mut T) {
    file("f", "text");
    let words = shared();
    let f = open("f", O_RDWR);
    say!(t, "{}", lock(f, libc::F_SETLK, WRLCK, 0, 1));
    let pid = fork(|| {
        lock(f, libc::F_SETLK, WRLCK, 1, 1);
        words[0].store(1, Ordering::SeqCst);
        i32::from(lock(f, libc::F_SETLKW, WRLCK, 0, 1) != "0")
    });
    while words[0].load(Ordering::SeqCst) == 0 {
        sleep_ms(2);
    }
    sleep_ms(100);
    say!(t, "{}", lock(f, libc::F_SETLKW, WRLCK, 1, 1));
    say!(t, "{}", lock(f, libc::F_SETLK, UNLCK, 0, 1));
    say!(t, "{}", wait(pid));
}

fn locks_go(t: &mut T) {
    file("f", "text");
    let f = open("f", O_RDWR);
    let other = open("f", O_RDONLY);
    lock(f, libc::F_SETLK, WRLCK, 0, 0);
    let held = || child(|| call!(fcntl, f, libc::F_SETLK, p(&flock_of(RDLCK, 0, 0))).unsigned_abs() as i32);
    say!(t, "held: {}", held());
    must!(close, other);
    say!(t, "any descriptor closed: {}", held());
    lock(f, F_OFD_SETLK, WRLCK, 0, 0);
    let other = open("f", O_RDWR);
    let copy = must!(dup, f);
    must!(close, f);
    say!(t, "a copy keeps it: {}", lock(other, F_OFD_SETLK, RDLCK, 0, 0));
    must!(close, copy);
    say!(t, "gone with the last: {}", lock(other, F_OFD_SETLK, RDLCK, 0, 0));
}

fn commands(t: &mut T) {
    let (r, _w) = pipe(0);
    for command in [12, 13, 14, 18, 99, 1029, 1040] {
        show!(t, fcntl, r, command, 0);
    }
    show!(t, fcntl, r, libc::F_ADD_SEALS, 0);
    show!(t, fcntl, 999, libc::F_GETFD);
    let path = open(".", libc::O_PATH);
    show!(t, fcntl, path, libc::F_GETOWN);
    show!(t, fcntl, path, F_GETLEASE);
    show!(t, fcntl, path, libc::F_GETFL);
}
