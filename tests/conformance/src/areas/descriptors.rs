//! Calls every program makes: copies of descriptors, closing many, who one is, where one is.

use crate::helpers::*;
use crate::test::Test;

pub const TESTS: &[Test] = tests![
    copies: dup3 dup2 dup,
    close_many: close_range,
    close_many_errors: close_range,
    of_old: eventfd epoll_create inotify_init epoll_create1,
    tees: tee,
    sends: sendfile,
    sends_of_others: sendfile,
    syncs_of_others: fsync fdatasync sync_file_range lseek,
    syncs: fsync fdatasync sync syncfs sync_file_range,
    advice: fadvise64 readahead,
    places: fchdir umask,
    owners: fchown,
    set_ids: setuid setgid setreuid setregid,
    set_effective: setresgid setfsgid,
    same_as_ever: getpid gettid getuid geteuid getgid getegid,
    priorities: getpriority ioprio_set ioprio_get,
    host_names: sethostname setdomainname,
    processes: pidfd_open,
    thread_signals: tgkill,
];

fn copies(t: &mut T) {
    let f = open("f", O_CREAT | O_RDWR);
    show!(t, dup3, f, 20, 0);
    show!(t, dup3, f, 21, libc::O_CLOEXEC);
    say!(t, "{} {}", call!(fcntl, 20, libc::F_GETFD), call!(fcntl, 21, libc::F_GETFD));
    show!(t, dup3, f, f, 0);
    show!(t, dup2, f, f);
    show!(t, dup3, f, 22, libc::O_NONBLOCK);
    show!(t, dup3, 99, 22, 0);
    show!(t, dup2, 99, 99);
    show!(t, dup3, f, -1, 0);
    show!(t, dup3, f, 1 << 30, 0);
    show!(t, dup3, 99, 99, 0);
    must!(dup3, f, 21, 0);
    say!(t, "{}", call!(fcntl, 21, libc::F_GETFD));
    must!(setrlimit, libc::RLIMIT_NOFILE, p(&[21u64, 100]));
    show!(t, dup3, f, 21, 0);
    show!(t, dup2, f, 20);
    show!(t, fcntl, f, libc::F_DUPFD, 21);
    show!(t, fcntl, f, libc::F_DUPFD, 20);
}

fn open_ones(among: std::ops::Range<i32>) -> String {
    among.filter(|fd| call!(fcntl, *fd, libc::F_GETFD) >= 0).map(|fd| fd.to_string()).collect::<Vec<_>>().join(" ")
}

fn close_many(t: &mut T) {
    let fill = || {
        (30..40).for_each(|fd| {
            must!(dup2, 0, fd);
        });
    };
    fill();
    show!(t, close_range, 33, 36, 0);
    say!(t, "{}", open_ones(30..40));
    show!(t, close_range, 38, u32::MAX, 0);
    say!(t, "{}", open_ones(30..40));
    show!(t, close_range, 500, 600, 0);
    fill();
    show!(t, close_range, 32, 33, 4);
    let marked: Vec<i64> = (31..35).map(|fd| call!(fcntl, fd, libc::F_GETFD)).collect();
    say!(t, "{marked:?}");
    // In a table of its own.
    let ended = child(|| {
        show!(&mut T::default(), close_range, 30, 39, 2);
        0
    });
    say!(t, "{ended} {}", open_ones(30..40));
    let (r, w) = pipe(0);
    must!(dup2, w, 39);
    must!(close, w);
    show!(t, close_range, 39, 39, 0);
    say!(t, "{}", poll(r, 1, 0));
}

fn close_many_errors(t: &mut T) {
    show!(t, close_range, 40, 39, 0);
    show!(t, close_range, 39, 39, 1);
    show!(t, close_range, 39, 39, 8);
    show!(t, close_range, u32::MAX, u32::MAX, 0);
}

fn of_old(t: &mut T) {
    for fd in [call!(eventfd, 3), call!(epoll_create, 1), call!(inotify_init)] {
        say!(t, "{} {} {:#o}", ok_or_error(fd), call!(fcntl, fd, libc::F_GETFD), call!(fcntl, fd, libc::F_GETFL));
    }
    show!(t, epoll_create, 0);
    show!(t, epoll_create, -1);
    show!(t, epoll_create1, 1);
    let fd = ok!(t, epoll_create1, libc::EPOLL_CLOEXEC);
    say!(t, "{}", call!(fcntl, fd, libc::F_GETFD));
    show!(t, inotify_rm_watch, call!(inotify_init), 1);
    show!(t, inotify_rm_watch, 0, 1);
    show!(t, inotify_rm_watch, 99, 1);
}

fn tees(t: &mut T) {
    let ((r, w), (r2, w2)) = (pipe(libc::O_NONBLOCK), pipe(libc::O_NONBLOCK));
    write(w, "one");
    write(w, "two");
    show!(t, tee, r, w2, 100, 0);
    say!(t, "{} {}", read(r2), read(r));
    write(w, "three");
    show!(t, tee, r, w2, 3, 0);
    say!(t, "{} {}", read(r2), read(r));
    show!(t, tee, r, w2, 3, 0);
    show!(t, tee, r, w2, 3, libc::SPLICE_F_NONBLOCK);
    show!(t, tee, r, w2, 0, 0);
    show!(t, tee, r, w, 3, 0);
    show!(t, tee, w, w2, 3, 0);
    show!(t, tee, r, r2, 3, 0);
    show!(t, tee, 0, w2, 3, 0);
    show!(t, tee, 99, w2, 3, 0);
    show!(t, tee, r, w2, 3, 0x100);
    must!(close, w);
    show!(t, tee, r, w2, 3, 0);
}

fn sends(t: &mut T) {
    std::fs::write("f", "abcdefghij").unwrap();
    let (f, g) = (open("f", O_RDONLY), open("g", O_CREAT | O_RDWR));
    show!(t, sendfile, g, f, 0, 3);
    let mut at = 5u64;
    show!(t, sendfile, g, f, out(&mut at), 3);
    say!(t, "{at} {}", result(call!(lseek, f, 0, 1)));
    show!(t, sendfile, g, f, 0, 100);
    show!(t, sendfile, g, f, 0, 100);
    say!(t, "{}", content("g"));
    at = 100;
    show!(t, sendfile, g, f, out(&mut at), 3);
    at = u64::MAX;
    show!(t, sendfile, g, f, out(&mut at), 3);
    must!(lseek, f, 0, 0);
    let (r, w) = pipe(libc::O_NONBLOCK);
    show!(t, sendfile, w, f, 0, 100);
    say!(t, "{}", read(r));
    show!(t, sendfile, g, r, 0, 1);
    show!(t, sendfile, f, f, 0, 1);
    show!(t, sendfile, g, g, 0, 1);
    show!(t, sendfile, 99, f, 0, 1);
    show!(t, sendfile, g, 99, 0, 1);
    show!(t, sendfile, open("f", O_WRONLY | libc::O_APPEND), f, 0, 1);
    show!(t, sendfile, g, open("f", O_WRONLY), 0, 1);
}

fn sends_of_others(t: &mut T) {
    let g = open("g", O_CREAT | O_RDWR);
    let d = open(".", O_RDONLY);
    let (r, w) = pipe(libc::O_NONBLOCK);
    show!(t, sendfile, g, d, 0, 1);
    show!(t, sendfile, g, d, out(&mut 0u64), 1);
    show!(t, sendfile, w, d, 0, 1);
    show!(t, sendfile, d, g, 0, 1);
    show!(t, sendfile, g, r, out(&mut 0u64), 1);
    write(w, "x");
    show!(t, sendfile, g, r, out(&mut 0u64), 1);
    show!(t, sendfile, g, r, out(&mut { u64::MAX }), 1);
    show!(t, sendfile, g, open("g", libc::O_PATH), 0, 1);
    show!(t, sendfile, g, open("/dev/null", O_RDONLY), 0, 4);
    show!(t, sendfile, open("/dev/null", O_WRONLY), open("g", O_RDONLY), 0, 4);
    show!(t, sendfile, g, d, hole(), 1);
}

/// What is not a file on a disk.
fn syncs_of_others(t: &mut T) {
    let null = open("/dev/null", O_RDWR);
    let zero = open("/dev/zero", O_RDWR);
    let own = open("/proc/self/comm", O_RDWR);
    let stat = open("/proc/self/stat", O_RDONLY);
    let memory = must!(memfd_create, c"m", 0);
    let counter = must!(eventfd2, 0, 0);
    let epoll = must!(epoll_create1, 0);
    let signals = must!(signalfd4, -1, p(&0u64), 8, 0);
    let inotify = must!(inotify_init1, 0);
    let timer = must!(timerfd_create, 1, 0);
    let process = must!(pidfd_open, must!(getpid), 0);
    let mut pair = [0i32; 2];
    must!(socketpair, libc::AF_UNIX, libc::SOCK_STREAM, 0, out(&mut pair));
    let terminal = open("/dev/ptmx", O_RDWR | libc::O_NOCTTY);
    for (name, fd) in [
        ("null", null), ("zero", zero), ("own", own), ("stat", stat), ("memory", memory), ("counter", counter),
        ("epoll", epoll), ("signals", signals), ("inotify", inotify), ("timer", timer), ("process", process),
        ("socket", pair[0].into()), ("terminal", terminal),
    ] {
        let all = [
            call!(fsync, fd), call!(fdatasync, fd), call!(sync_file_range, fd, 0, 0, 7), call!(lseek, fd, 3, 0),
            call!(lseek, fd, 0, 1), call!(lseek, fd, 0, 9), call!(pread64, fd, 0, 0, 0),
        ];
        say!(t, "{name}: {}", all.map(result).join(" "));
    }
    let f = open("f", O_CREAT | O_RDWR);
    for (from, length) in [(i64::MAX, 0), (i64::MAX, 1), (1, i64::MAX), (0, i64::MAX), (4096, 1 << 40)] {
        say!(t, "{from} {length}: {}", result(call!(sync_file_range, f, from, length, 7)));
    }
    show!(t, sync_file_range, 99, -1, 0, 99);
    show!(t, sync_file_range, open("f", O_RDONLY), 0, 0, 2);
}

fn syncs(t: &mut T) {
    let f = open("f", O_CREAT | O_RDWR);
    write(f, "x");
    let (r, w) = pipe(0);
    let o = open("f", libc::O_PATH);
    for fd in [f, open(".", O_RDONLY), i64::from(r), i64::from(w), 99, o] {
        let all = [call!(fsync, fd), call!(fdatasync, fd), call!(syncfs, fd), call!(sync_file_range, fd, 0, 0, 7)];
        say!(t, "{}", all.map(result).join(" "));
    }
    show!(t, sync);
    show!(t, sync_file_range, f, -1, 0, 0);
    show!(t, sync_file_range, f, 0, -1, 0);
    show!(t, sync_file_range, f, 0, 1, 8);
}

fn advice(t: &mut T) {
    let f = open("f", O_CREAT | O_RDWR);
    write(f, "some text");
    for advice in -1..8 {
        say!(t, "{advice}: {}", result(call!(fadvise64, f, 0, 0, advice)));
    }
    show!(t, fadvise64, f, 0, -1, 0);
    show!(t, fadvise64, f, -1, 0, 0);
    show!(t, fadvise64, 99, 0, 0, 0);
    let (r, w) = pipe(0);
    show!(t, fadvise64, r, 0, 0, 0);
    show!(t, fadvise64, open("f", libc::O_PATH), 0, 0, 0);
    show!(t, readahead, f, 0, 4096);
    show!(t, readahead, w, 0, 4096);
    show!(t, readahead, r, 0, 4096);
    show!(t, readahead, 99, 0, 4096);
    show!(t, readahead, open("f", O_WRONLY), 0, 4096);
    show!(t, readahead, open(".", O_RDONLY), 0, 4096);
    say!(t, "{}", content("f"));
}

fn places(t: &mut T) {
    must!(mkdir, c"d", 0o755);
    file("d/f", "x");
    let d = open("d", O_RDONLY);
    show!(t, fchdir, d);
    say!(t, "{}", names("."));
    show!(t, fchdir, open("f", O_RDONLY));
    show!(t, fchdir, 99);
    show!(t, fchdir, open("..", libc::O_PATH));
    say!(t, "{}", names("."));
    must!(chmod, c"d", 0o600);
    as_nobody(|| {
        show!(&mut T::default(), fchdir, d);
    });
    say!(t, "{:o} {:o} {:o}", call!(umask, 0o27), call!(umask, 0o7777), call!(umask, -1));
    say!(t, "{:o}", call!(umask, 0o22));
    must!(umask, 0o777);
    must!(mknod, c"none", 0o100_777, 0);
    say!(t, "{:o}", std::os::unix::fs::MetadataExt::mode(&std::fs::metadata("none").unwrap()));
}

fn owners(t: &mut T) {
    use std::os::unix::fs::MetadataExt;
    let f = open("f", O_CREAT | O_RDWR);
    let owner = || {
        let m = std::fs::metadata("f").unwrap();
        format!("{} {} {:o}", m.uid(), m.gid(), m.mode() & 0o7777)
    };
    must!(fchmod, f, 0o6755);
    show!(t, fchown, f, 5, 6);
    say!(t, "{}", owner());
    show!(t, fchown, f, -1, 7);
    show!(t, fchown, f, 8, -1);
    say!(t, "{}", owner());
    show!(t, fchown, open("f", libc::O_PATH), 1, 1);
    show!(t, fchown, 99, 1, 1);
    must!(fchown, f, NOBODY, NOBODY);
    must!(fchmod, f, 0o6775);
    as_nobody(|| {
        let t = &mut T::default();
        show!(t, fchown, f, 0, -1);
        show!(t, fchown, f, -1, 0);
        show!(t, fchown, f, NOBODY, NOBODY);
        show!(t, fchown, f, -1, -1);
    });
    say!(t, "{}", owner());
}

fn who() -> String {
    let status = content("/proc/self/status");
    let line = |key: &str| status.lines().find_map(|l| l.strip_prefix(key)).unwrap_or("").trim().replace('\t', " ");
    format!("{} | {}", line("Uid:"), line("Gid:"))
}

fn set_ids(t: &mut T) {
    child(|| {
        let t = &mut T::default();
        show!(t, setreuid, 5, 6);
        say!(t, "{}", who());
        show!(t, setreuid, 6, 5);
        show!(t, setreuid, -1, 6);
        show!(t, setreuid, 7, -1);
        show!(t, setuid, 5);
        show!(t, setuid, 9);
        say!(t, "{}", who());
        0
    });
    child(|| {
        let t = &mut T::default();
        show!(t, setregid, 5, 6);
        say!(t, "{}", who());
        show!(t, setgid, 9);
        say!(t, "{}", who());
        show!(t, setgid, -1);
        show!(t, setuid, -1);
        show!(t, setuid, 9);
        say!(t, "{}", who());
        show!(t, setuid, 0);
        show!(t, setgid, 0);
        show!(t, setregid, -1, 9);
        0
    });
    say!(t, "{}", who());
}

fn set_effective(t: &mut T) {
    show!(t, setresgid, 1, 2, 3);
    say!(t, "{}", who());
    show!(t, setfsgid, 7);
    show!(t, setfsgid, -1);
    say!(t, "{}", who());
    show!(t, setresgid, -1, -1, -1);
    must!(setresuid, 9, 9, 9);
    show!(t, setresgid, 3, 1, 2);
    show!(t, setresgid, 4, -1, -1);
    show!(t, setfsgid, 8);
    show!(t, setfsgid, 3);
    say!(t, "{}", who());
}

fn same_as_ever(t: &mut T) {
    say!(t, "{}", must!(getpid) == must!(gettid));
    say!(t, "{} {} {} {}", must!(getuid), must!(geteuid), must!(getgid), must!(getegid));
    must!(setresgid, 1, 2, 3);
    must!(setresuid, 4, 5, 6);
    say!(t, "{} {} {} {}", must!(getuid), must!(geteuid), must!(getgid), must!(getegid));
    let ended = child(|| i32::from(must!(getpid) == must!(gettid)));
    say!(t, "{ended}");
}

fn priorities(t: &mut T) {
    show!(t, getpriority, 0, 0);
    show!(t, setpriority, 0, 0, 5);
    show!(t, getpriority, 0, 0);
    show!(t, setpriority, 0, 0, 100);
    show!(t, getpriority, 0, 0);
    show!(t, getpriority, 3, 0);
    show!(t, getpriority, 0, 99_999_999);
    const CLASS: i32 = 1 << 13;
    show!(t, ioprio_get, 1, 0);
    show!(t, ioprio_set, 1, 0, (2 * CLASS) | 3);
    show!(t, ioprio_get, 1, 0);
    show!(t, ioprio_set, 4, 0, 2 * CLASS);
    // Classes, levels, and the bits above and between.
    for class in 0..8 {
        for data in [0, 7, 8, 1 << 3 | 4, 1 << 12] {
            let set = call!(ioprio_set, 1, 0, (class * CLASS) | data);
            say!(t, "{class} {data}: {} {}", result(set), result(call!(ioprio_get, 1, 0)));
        }
    }
    show!(t, ioprio_set, 1, 0, (1 << 16) | (2 * CLASS) | 5);
    show!(t, ioprio_get, 1, 0);
    show!(t, ioprio_get, 1, 99_999_999);
    as_nobody(|| {
        let t = &mut T::default();
        show!(t, ioprio_set, 1, 0, CLASS);
        show!(t, ioprio_set, 1, 0, 3 * CLASS);
        show!(t, setpriority, 0, 0, -20);
    });
}

fn host_names(t: &mut T) {
    must!(unshare, libc::CLONE_NEWUTS);
    let shown = || {
        let mut text = [0u8; 390];
        must!(uname, out(&mut text));
        let field = |i: usize| String::from_utf8_lossy(&text[65 * i..65 * (i + 1)]).trim_end_matches('\0').to_owned();
        format!("{:?} {:?} {:?}", field(1), field(5), content("/proc/sys/kernel/hostname"))
    };
    show!(t, sethostname, p(b"a name"), 6);
    show!(t, setdomainname, p(b"domain"), 3);
    say!(t, "{}", shown());
    show!(t, sethostname, p(&[b'x'; 70]), 64);
    say!(t, "{}", shown().len());
    show!(t, sethostname, p(&[b'x'; 70]), 65);
    show!(t, sethostname, p(b"x"), -1);
    show!(t, sethostname, hole(), 3);
    show!(t, sethostname, hole(), 0);
    show!(t, setdomainname, p(&[b'x'; 70]), 65);
    say!(t, "{}", shown());
    as_nobody(|| {
        let t = &mut T::default();
        show!(t, sethostname, p(b"b"), 1);
        show!(t, setdomainname, p(b"b"), 1);
    });
}

fn processes(t: &mut T) {
    let child = fork(|| {
        loop {
            call!(pause);
        }
    });
    let fd = ok!(t, pidfd_open, child, 0) as i32;
    say!(t, "{} {:#o} {}", call!(fcntl, fd, libc::F_GETFD), call!(fcntl, fd, libc::F_GETFL), poll(fd, 1, 0));
    let quick = must!(pidfd_open, child, libc::O_NONBLOCK);
    show!(t, waitid, 3, quick, 0, libc::WEXITED, 0);
    must!(pidfd_send_signal, fd, libc::SIGKILL, 0, 0);
    say!(t, "{}", poll(fd, 1, 2000));
    say!(t, "{} {}", wait(child), poll(fd, 1, 0));
    show!(t, pidfd_send_signal, fd, 0, 0, 0);
    show!(t, pidfd_open, 99_999_999, 0);
    show!(t, pidfd_open, 0, 0);
    show!(t, pidfd_open, -1, 0);
    show!(t, pidfd_open, must!(getpid), 1);
    ok!(t, pidfd_open, must!(getpid), 0);
}

fn thread_signals(t: &mut T) {
    handle(libc::SIGUSR1, count, 0, 0);
    let (me, thread) = (must!(getpid), must!(gettid));
    let told = || COUNT.swap(0, std::sync::atomic::Ordering::Relaxed);
    say!(t, "{} {}", result(call!(tgkill, me, thread, libc::SIGUSR1)), told());
    say!(t, "{} {}", result(call!(tgkill, me, thread, 0)), told());
    say!(t, "{}", result(call!(tgkill, 1, thread, 0)));
    show!(t, tgkill, 0, 1, 0);
    show!(t, tgkill, -1, 1, 0);
    show!(t, tgkill, 99_999_999, 99_999_999, 0);
    say!(t, "{}", result(call!(tgkill, me, thread, 65)));
    say!(t, "{}", result(call!(tgkill, me, thread, -1)));
    as_nobody(|| {
        say!(&mut T::default(), "{}", result(call!(tgkill, me, thread, libc::SIGUSR1)));
    });
}
