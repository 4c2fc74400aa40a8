//! Opening files: the flags and their errors.

use crate::helpers::*;
use crate::test::Test;

pub const TESTS: &[Test] = tests![
    creates: openat open creat,
    exclusive: openat,
    directory: openat,
    nofollow: openat,
    loops: openat,
    path_only: openat,
    truncates: openat,
    appends: openat write pwrite64,
    access_modes: openat read write,
    permissions: openat,
    too_many: openat dup dup2 fcntl,
    long_names: openat,
    tmpfile: openat linkat,
    flags_read_back: openat fcntl,
    lowest_descriptor: openat dup close,
];

fn creates(t: &mut T) {
    show!(t, openat, AT_FDCWD, c"none", O_RDONLY, 0);
    show!(t, openat, AT_FDCWD, c"a", O_CREAT | O_RDWR, 0o666);
    show!(t, open, c"b", O_CREAT | O_WRONLY, 0o7777);
    show!(t, creat, c"c", 0o600);
    show!(t, openat, AT_FDCWD, c"no/a", O_CREAT | O_RDWR, 0o666);
    show!(t, openat, 99, c"a", O_RDWR, 0);
    show!(t, openat, 99, c"/dev/null", O_RDWR, 0);
    for name in ["a", "b", "c"] {
        let mut stat = [0u64; 18];
        must!(stat, c(name).as_c_str(), out(&mut stat));
        say!(t, "{name}: {:o}", stat[3] as u32);
    }
}

fn exclusive(t: &mut T) {
    show!(t, openat, AT_FDCWD, c"a", O_CREAT | libc::O_EXCL | O_RDWR, 0o666);
    show!(t, openat, AT_FDCWD, c"a", O_CREAT | libc::O_EXCL | O_RDWR, 0o666);
    must!(symlink, c"nowhere", c"dangling");
    show!(t, openat, AT_FDCWD, c"dangling", O_CREAT | libc::O_EXCL | O_RDWR, 0o666);
    show!(t, openat, AT_FDCWD, c"dangling", O_CREAT | O_RDWR, 0o666);
    say!(t, "{}", names("."));
    show!(t, openat, AT_FDCWD, c".", O_CREAT | libc::O_EXCL, 0o666);
}

fn directory(t: &mut T) {
    file("a", "x");
    must!(mkdir, c"d", 0o755);
    show!(t, openat, AT_FDCWD, c"a", libc::O_DIRECTORY, 0);
    show!(t, openat, AT_FDCWD, c"d", libc::O_DIRECTORY, 0);
    show!(t, openat, AT_FDCWD, c"d", O_WRONLY, 0);
    show!(t, openat, AT_FDCWD, c"d", O_RDWR, 0);
    show!(t, openat, AT_FDCWD, c"d", O_CREAT, 0o644);
    show!(t, openat, AT_FDCWD, c"d/", O_CREAT, 0o644);
    show!(t, openat, AT_FDCWD, c"e/", O_CREAT, 0o644);
    show!(t, openat, AT_FDCWD, c"a/", O_RDONLY, 0);
    show!(t, openat, AT_FDCWD, c"a/b", O_RDONLY, 0);
    show!(t, openat, AT_FDCWD, c"d/new", O_CREAT | libc::O_DIRECTORY, 0o644);
    show!(t, openat, AT_FDCWD, c"", O_RDONLY, 0);
    let fd = open("d", libc::O_DIRECTORY);
    show!(t, read, fd, out(&mut [0u8; 8]), 8);
    show!(t, openat, open("a", O_RDONLY), c"b", O_RDONLY, 0);
}

fn nofollow(t: &mut T) {
    file("a", "x");
    must!(symlink, c"a", c"l");
    must!(mkdir, c"d", 0o755);
    must!(symlink, c"d", c"ld");
    show!(t, openat, AT_FDCWD, c"l", libc::O_NOFOLLOW, 0);
    show!(t, openat, AT_FDCWD, c"ld", libc::O_NOFOLLOW | libc::O_DIRECTORY, 0);
    show!(t, openat, AT_FDCWD, c"ld/", libc::O_NOFOLLOW | libc::O_DIRECTORY, 0);
    show!(t, openat, AT_FDCWD, c"ld/.", libc::O_NOFOLLOW, 0);
    ok!(t, openat, AT_FDCWD, c"l", libc::O_NOFOLLOW | libc::O_PATH, 0);
    show!(t, openat, AT_FDCWD, c"l", libc::O_NOFOLLOW | O_CREAT, 0o644);
}

fn loops(t: &mut T) {
    must!(symlink, c"b", c"a");
    must!(symlink, c"a", c"b");
    show!(t, openat, AT_FDCWD, c"a", O_RDONLY, 0);
    show!(t, openat, AT_FDCWD, c"a/x", O_RDONLY, 0);
    file("l0", "x");
    for i in 1..45 {
        must!(symlink, c(&format!("l{}", i - 1)).as_c_str(), c(&format!("l{i}")).as_c_str());
    }
    for i in [1, 39, 40, 41, 44] {
        let fd = call!(openat, AT_FDCWD, c(&format!("l{i}")).as_c_str(), O_RDONLY, 0);
        say!(t, "{i} links: {}", ok_or_error(fd));
    }
}

fn path_only(t: &mut T) {
    file("a", "x");
    let fd = open("a", libc::O_PATH);
    show!(t, read, fd, out(&mut [0u8; 8]), 8);
    show!(t, write, fd, out(&mut [0u8; 8]), 8);
    show!(t, fchmod, fd, 0o600);
    show!(t, ftruncate, fd, 0);
    show!(t, lseek, fd, 0, 0);
    show!(t, mmap, 0, 4096, 1, libc::MAP_PRIVATE, fd, 0);
    show!(t, fstat, fd, out(&mut [0u8; 144]));
    show!(t, fcntl, fd, libc::F_GETFL, 0);
    show!(t, ioctl, fd, libc::FIONREAD, out(&mut [0u8; 8]));
    show!(t, openat, fd, c"", O_RDONLY, 0);
    ok!(t, openat, AT_FDCWD, c(&format!("/proc/self/fd/{fd}")).as_c_str(), O_RDONLY, 0);
    ok!(t, dup, fd);
}

fn truncates(t: &mut T) {
    file("a", "some text");
    open("a", O_WRONLY | libc::O_TRUNC);
    say!(t, "{:?}", content("a"));
    file("a", "some text");
    ok!(t, openat, AT_FDCWD, c"a", O_RDONLY | libc::O_TRUNC, 0);
    say!(t, "{:?}", content("a"));
    file("a", "some text");
    must!(chmod, c"a", 0o444);
    let ended = as_nobody(|| {
        show!(t, openat, AT_FDCWD, c"a", O_RDONLY | libc::O_TRUNC, 0);
    });
    say!(t, "{:?} {ended}", content("a"));
}

fn appends(t: &mut T) {
    file("a", "12345");
    let fd = open("a", O_RDWR | libc::O_APPEND);
    must!(lseek, fd, 0, 0);
    say!(t, "write {}, at {}", write(fd, "67"), call!(lseek, fd, 0, libc::SEEK_CUR));
    show!(t, pwrite64, fd, p(b"89"), 2, 0);
    say!(t, "{}, at {}", content("a"), call!(lseek, fd, 0, libc::SEEK_CUR));
    must!(fcntl, fd, libc::F_SETFL, 0);
    show!(t, pwrite64, fd, p(b"AB"), 2, 0);
    say!(t, "{}", content("a"));
}

fn access_modes(t: &mut T) {
    file("a", "text");
    for (name, mode) in [("rdonly", 0), ("wronly", 1), ("rdwr", 2), ("three", 3)] {
        let fd = call!(openat, AT_FDCWD, c"a", mode, 0);
        say!(t, "{name}: {}, read {}, write {}", ok_or_error(fd), read(fd), result(write(fd, "t")));
        say!(t, "  mmap {}", ok_or_error(call!(mmap, 0, 4096, 3, libc::MAP_SHARED, fd, 0)));
    }
}

fn permissions(t: &mut T) {
    for mode in [0, 0o4, 0o2, 0o6, 0o1, 0o700, 0o077] {
        let path = format!("m{mode:o}");
        file(&path, "x");
        must!(chmod, c(&path).as_c_str(), mode);
        for flags in [O_RDONLY, O_WRONLY, O_RDWR] {
            let root = ok_or_error(call!(openat, AT_FDCWD, c(&path).as_c_str(), flags, 0));
            as_nobody(|| {
                let nobody = ok_or_error(call!(openat, AT_FDCWD, c(&path).as_c_str(), flags, 0));
                say!(t, "{mode:o} {flags}: root {root}, nobody {nobody}");
            });
        }
    }
    must!(mkdir, c"shut", 0o700);
    file("shut/a", "x");
    must!(mkdir, c"listed", 0o744);
    file("listed/a", "x");
    as_nobody(|| {
        show!(t, openat, AT_FDCWD, c"shut/a", O_RDONLY, 0);
        show!(t, openat, AT_FDCWD, c"shut", O_RDONLY, 0);
        show!(t, openat, AT_FDCWD, c"listed/a", O_RDONLY, 0);
        ok!(t, openat, AT_FDCWD, c"listed", O_RDONLY, 0);
        show!(t, openat, AT_FDCWD, c"m4", O_RDONLY | libc::O_NOATIME, 0);
    });
}

fn too_many(t: &mut T) {
    let limit = [10u64, 20];
    must!(prlimit64, 0, libc::RLIMIT_NOFILE, p(&limit), 0);
    let opened = (0..30).take_while(|_| call!(openat, AT_FDCWD, c"/", O_RDONLY, 0) >= 0).count();
    say!(t, "{opened} more");
    show!(t, openat, AT_FDCWD, c"/", O_RDONLY, 0);
    show!(t, dup, 0);
    show!(t, dup2, 0, 10);
    show!(t, dup2, 0, 9);
    show!(t, dup2, 0, -1);
    show!(t, fcntl, 0, libc::F_DUPFD, 10);
    show!(t, fcntl, 0, libc::F_DUPFD, 9);
    show!(t, pipe2, out(&mut [0i32; 2]), 0);
    show!(t, socketpair, 1, 1, 0, out(&mut [0i32; 2]));
    show!(t, eventfd2, 0, 0);
    show!(t, epoll_create1, 0);
    show!(t, memfd_create, c"m", 0);
    show!(t, close, 9);
    show!(t, pipe2, out(&mut [0i32; 2]), 0);
    show!(t, dup, 0);
}

fn long_names(t: &mut T) {
    for length in [255, 256, 4094, 4095, 4096, 5000] {
        let name = c(&"n".repeat(length));
        say!(t, "{length}: {}", ok_or_error(call!(openat, AT_FDCWD, name.as_c_str(), O_CREAT, 0o644)));
    }
    let slashes = |count: usize| c(&format!("{}tmp", "/".repeat(count)));
    for length in [4000, 4092, 4093] {
        let path = slashes(length);
        say!(t, "{length} slashes: {}", ok_or_error(call!(openat, AT_FDCWD, path.as_c_str(), O_RDONLY, 0)));
    }
}

fn tmpfile(t: &mut T) {
    let fd = ok!(t, openat, AT_FDCWD, c".", libc::O_TMPFILE | O_RDWR, 0o600);
    say!(t, "{} {:?}", write(fd, "hidden"), names("."));
    let path = c(&format!("/proc/self/fd/{fd}"));
    let (from, follow) = (path.as_c_str(), libc::AT_SYMLINK_FOLLOW);
    show!(t, linkat, AT_FDCWD, from, AT_FDCWD, c"shown", follow);
    say!(t, "{}: {}", names("."), content("shown"));
    let fd = ok!(t, openat, AT_FDCWD, c".", libc::O_TMPFILE | libc::O_EXCL | O_RDWR, 0o600);
    let path = c(&format!("/proc/self/fd/{fd}"));
    show!(t, linkat, AT_FDCWD, path.as_c_str(), AT_FDCWD, c"never", follow);
    show!(t, openat, AT_FDCWD, c".", libc::O_TMPFILE | O_RDONLY, 0o600);
    show!(t, openat, AT_FDCWD, c"shown", libc::O_TMPFILE | O_RDWR, 0o600);
    show!(t, openat, AT_FDCWD, c"none", libc::O_TMPFILE | O_RDWR, 0o600);
}

fn flags_read_back(t: &mut T) {
    file("a", "x");
    for flags in [0, 1, 2, libc::O_APPEND, libc::O_NONBLOCK, libc::O_SYNC, libc::O_DSYNC, libc::O_NOATIME,
        libc::O_CLOEXEC, libc::O_CREAT | libc::O_TRUNC, libc::O_LARGEFILE, libc::O_ASYNC, 0o400]
    {
        let fd = call!(openat, AT_FDCWD, c"a", flags, 0o644);
        let (status, descriptor) = (call!(fcntl, fd, libc::F_GETFL), call!(fcntl, fd, libc::F_GETFD));
        say!(t, "{flags:o}: {} {status:o} {descriptor}", ok_or_error(fd));
    }
    let fd = open("a", O_RDWR);
    for flags in [libc::O_APPEND, libc::O_RDWR | libc::O_NONBLOCK, libc::O_SYNC, libc::O_ASYNC, 0] {
        let set = call!(fcntl, fd, libc::F_SETFL, flags);
        say!(t, "set {flags:o}: {} {:o}", result(set), call!(fcntl, fd, libc::F_GETFL));
    }
}

fn lowest_descriptor(t: &mut T) {
    for _ in 0..4 {
        show!(t, dup, 0);
    }
    show!(t, close, 4);
    show!(t, close, 4);
    show!(t, openat, AT_FDCWD, c"/", O_RDONLY, 0);
    show!(t, close, 3);
    show!(t, fcntl, 0, libc::F_DUPFD, 5);
    show!(t, dup3, 0, 0, 0);
    show!(t, dup3, 0, 12, libc::O_CLOEXEC);
    show!(t, dup3, 0, 12, 1);
    show!(t, dup2, 0, 0);
    show!(t, dup2, 99, 99);
    show!(t, dup2, 99, 3);
    show!(t, fcntl, 12, libc::F_GETFD);
    show!(t, fcntl, 99, libc::F_GETFD);
    show!(t, close_range, 3, 12, 0);
    show!(t, close_range, 12, 3, 0);
    show!(t, close_range, 3, 12, 77);
    show!(t, dup, 0);
}
