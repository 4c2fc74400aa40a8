//! Regular files and directories: holes, limits, times, many names, what others see at the same time.

use std::os::unix::fs::MetadataExt;

use crate::helpers::*;
use crate::test::Test;

pub const TESTS: &[Test] = tests![
    punch: fallocate lseek,
    punch_mapped: fallocate mmap,
    preallocate: fallocate,
    fallocate_errors: fallocate,
    fallocate_interrupted: fallocate,
    holes: lseek,
    size_limit: write truncate fallocate,
    size_limit_of_mount: write mount,
    inode_limit_of_mount: openat mount,
    whiteout: renameat2,
    unnamed: openat linkat,
    many_names: getdents64 openat unlink,
    #[race]
    listing_while_removing: getdents64 unlink,
    times: utimensat,
    access_times: read,
    change_times: chmod linkat renameat,
    #[race]
    appends_race: write,
    replaced_while_open: renameat,
    removed_while_open: unlink linkat,
];

fn stat(path: &str) -> std::fs::Metadata {
    std::fs::symlink_metadata(path).expect("a file")
}

fn seek(fd: i64, offset: i64, whence: i32) -> String {
    result(call!(lseek, fd, offset, whence))
}

/// Where data and holes begin, from each 4 KiB on.
fn map_of(fd: i64, size: i64) -> String {
    (0..size / 4096)
        .map(|page| if call!(lseek, fd, page * 4096, libc::SEEK_DATA) == page * 4096 { 'x' } else { '.' })
        .collect()
}

const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;

fn punch(t: &mut T) {
    std::fs::write("f", vec![b'x'; 8 * 4096]).expect("a file");
    let f = open("f", O_RDWR);
    say!(t, "{} {}", map_of(f, 8 * 4096), stat("f").blocks());
    show!(t, fallocate, f, PUNCH, 4096, 8192);
    say!(t, "{} {}", map_of(f, 8 * 4096), stat("f").blocks());
    show!(t, fallocate, f, PUNCH, 5 * 4096 + 100, 8192);
    say!(t, "{} {}", map_of(f, 8 * 4096), stat("f").blocks());
    let bytes = std::fs::read("f").expect("a file");
    let zeros: Vec<usize> = (0..8).map(|i| bytes[i * 4096..][..4096].iter().filter(|b| **b == 0).count()).collect();
    say!(t, "{zeros:?}");
    show!(t, fallocate, f, PUNCH, 7 * 4096, 1 << 30);
    say!(t, "{} {} {}", map_of(f, 8 * 4096), stat("f").blocks(), stat("f").len());
    show!(t, fallocate, f, PUNCH, 1u64 << 40, 4096);
    write(f, "abc");
    say!(t, "{} {}", map_of(f, 8 * 4096), stat("f").blocks());
}

fn punch_mapped(t: &mut T) {
    std::fs::write("f", vec![b'x'; 4 * 4096]).expect("a file");
    let f = open("f", O_RDWR);
    let shared = must!(mmap, 0, 4 * 4096, 3, libc::MAP_SHARED, f, 0) as u64;
    let private = must!(mmap, 0, 4 * 4096, 3, libc::MAP_PRIVATE, f, 0) as u64;
    let at = |base: u64, page: u64| crate::sys::peek(base + page * 4096);
    crate::sys::poke(private + 4096, b'p');
    for page in 0..4 {
        at(shared, page);
    }
    must!(fallocate, f, PUNCH, 0, 2 * 4096);
    say!(t, "shared {} {} {}", at(shared, 0), at(shared, 1), at(shared, 2));
    say!(t, "own copy {}", at(private, 1));
    crate::sys::poke(shared, b'n');
    let mut byte = [0u8; 1];
    must!(pread64, f, out(&mut byte), 1, 0);
    say!(t, "{} {}", byte[0], map_of(f, 4 * 4096));
    show!(t, madvise, shared + 2 * 4096, 4096, libc::MADV_REMOVE);
    say!(t, "{} {} {}", at(shared, 2), at(shared, 3), map_of(f, 4 * 4096));
}

fn preallocate(t: &mut T) {
    let f = open("f", O_RDWR | O_CREAT);
    show!(t, fallocate, f, 0, 4096, 8192);
    say!(t, "{} {}", stat("f").len(), stat("f").blocks());
    show!(t, fallocate, f, libc::FALLOC_FL_KEEP_SIZE, 0, 6 * 4096);
    say!(t, "{} {}", stat("f").len(), stat("f").blocks());
    must!(ftruncate, f, 100);
    say!(t, "{} {}", stat("f").len(), stat("f").blocks());
}

fn fallocate_errors(t: &mut T) {
    let f = open("f", O_RDWR | O_CREAT);
    let r = open("f", O_RDONLY);
    show!(t, fallocate, f, 0, 0, 0);
    show!(t, fallocate, f, 0, -1, 1);
    show!(t, fallocate, f, 0, i64::MAX, 1);
    show!(t, fallocate, f, libc::FALLOC_FL_PUNCH_HOLE, 0, 4096);
    show!(t, fallocate, f, libc::FALLOC_FL_COLLAPSE_RANGE, 0, 4096);
    show!(t, fallocate, f, libc::FALLOC_FL_INSERT_RANGE, 0, 4096);
    show!(t, fallocate, f, 0x80, 0, 4096);
    show!(t, fallocate, r, 0, 0, 4096);
    let (p_, w) = pipe(0);
    show!(t, fallocate, w, 0, 0, 4096);
    show!(t, fallocate, p_, 0, 0, 4096);
    show!(t, fallocate, open(".", O_RDONLY), 0, 0, 4096);
    show!(t, fallocate, 99, 0, 0, 4096);
}

/// A signal ends it, and what it has allocated by then is given back.
fn fallocate_interrupted(t: &mut T) {
    let f = must!(memfd_create, c"f", 0) as i32;
    write(f, "abc");
    handle(libc::SIGALRM, count, 0, 0);
    must!(setitimer, libc::ITIMER_REAL, p(&[0i64, 20_000, 0, 20_000]), 0);
    show!(t, fallocate, f, 0, 0, 1 << 28);
    must!(setitimer, libc::ITIMER_REAL, p(&[0i64; 4]), 0);
    let status = stat(&format!("/proc/self/fd/{f}"));
    say!(t, "{} {}", status.len(), status.blocks());
}

fn holes(t: &mut T) {
    let f = open("f", O_RDWR | O_CREAT);
    say!(t, "{} {}", seek(f, 0, libc::SEEK_DATA), seek(f, 0, libc::SEEK_HOLE));
    must!(ftruncate, f, 10 * 4096 + 5);
    say!(t, "{} {}", seek(f, 0, libc::SEEK_DATA), seek(f, 7, libc::SEEK_HOLE));
    must!(pwrite64, f, p("abc"), 3, 3 * 4096 + 9);
    for at in [0, 3 * 4096, 3 * 4096 + 11, 4 * 4096, 10 * 4096 + 4, 10 * 4096 + 5, -1] {
        say!(t, "{at}: {} {}", seek(f, at, libc::SEEK_DATA), seek(f, at, libc::SEEK_HOLE));
    }
    say!(t, "{}", stat("f").blocks());
    let (r, _w) = pipe(0);
    say!(t, "{} {}", seek(r.into(), 0, libc::SEEK_DATA), seek(f, 0, 5));
}

fn size_limit(t: &mut T) {
    handle(libc::SIGXFSZ, count, 0, 0);
    let told = || COUNT.swap(0, std::sync::atomic::Ordering::Relaxed);
    must!(setrlimit, libc::RLIMIT_FSIZE, p(&[100u64, 1000]));
    let f = open("f", O_RDWR | O_CREAT);
    let text = [b'x'; 80];
    for _ in 0..3 {
        say!(t, "{} {}", result(call!(write, f, p(&text[..]), 80)), told());
    }
    say!(t, "{} {}", result(call!(pwrite64, f, p(&text[..]), 80, 200)), told());
    say!(t, "{} {}", result(call!(ftruncate, f, 200)), told());
    say!(t, "{} {}", result(call!(truncate, c"f", 100)), told());
    say!(t, "{} {}", result(call!(fallocate, f, 0, 0, 200)), told());
    say!(t, "{} {}", result(call!(pwrite64, f, p(&text[..]), 80, 0)), told());
    let a = open("f", O_WRONLY | libc::O_APPEND);
    say!(t, "{} {}", result(call!(write, a, p(&text[..]), 1)), told());
    say!(t, "{}", stat("f").len());
    let (_r, w) = pipe(0);
    say!(t, "a pipe: {} {}", result(call!(write, w, p(&[0u8; 200]), 200)), told());
    must!(setrlimit, libc::RLIMIT_FSIZE, p(&[0u64, 1000]));
    say!(t, "nothing: {} {}", result(call!(pwrite64, f, p(&text[..]), 0, 0)), told());
}

fn mount_with(options: &std::ffi::CStr) {
    must!(mkdirat, AT_FDCWD, c"m", 0o755);
    must!(unshare, libc::CLONE_NEWNS);
    must!(mount, 0, c"/", 0, libc::MS_REC | libc::MS_PRIVATE, 0);
    must!(mount, c"t", c"m", c"tmpfs", 0, p(options.to_bytes_with_nul()));
}

fn size_limit_of_mount(t: &mut T) {
    mount_with(c"size=64k");
    let f = open("m/f", O_RDWR | O_CREAT);
    let text = vec![b'x'; 40 * 1024];
    show!(t, write, f, p(&text[..]), 40 * 1024);
    show!(t, write, f, p(&text[..]), 40 * 1024);
    show!(t, write, f, p(&text[..]), 40 * 1024);
    say!(t, "{}", stat("m/f").len());
    show!(t, fallocate, f, PUNCH, 0, 16 * 1024);
    let g = open("m/g", O_RDWR | O_CREAT);
    show!(t, write, g, p(&text[..]), 40 * 1024);
    show!(t, fallocate, g, 0, 0, 1 << 20);
    must!(unlinkat, AT_FDCWD, c"m/f", 0);
    show!(t, write, g, p(&text[..]), 4096);
    must!(close, f);
    show!(t, write, g, p(&text[..]), 4096);
    must!(ftruncate, g, 1 << 30);
    say!(t, "sparse {}", stat("m/g").len());
    let mut s = [0u64; 15];
    must!(statfs, c"m", out(&mut s));
    say!(t, "blocks {} free {}", s[2], s[3]);
}

fn inode_limit_of_mount(t: &mut T) {
    mount_with(c"nr_inodes=4");
    for name in [c"m/a", c"m/b", c"m/c", c"m/d"] {
        ok!(t, openat, AT_FDCWD, name, O_CREAT | O_RDWR, 0o644);
    }
    show!(t, mkdirat, AT_FDCWD, c"m/e", 0o755);
    must!(unlinkat, AT_FDCWD, c"m/a", 0);
    show!(t, mkdirat, AT_FDCWD, c"m/e", 0o755);
}

fn whiteout(t: &mut T) {
    file("a", "one");
    file("b", "two");
    const WHITEOUT: i32 = 4;
    show!(t, renameat2, AT_FDCWD, c"a", AT_FDCWD, c"c", WHITEOUT);
    say!(t, "{}", names("."));
    let m = stat("a");
    say!(t, "{:o} {} {}", m.mode(), m.rdev(), m.nlink());
    show!(t, openat, AT_FDCWD, c"a", O_RDONLY, 0);
    show!(t, renameat2, AT_FDCWD, c"c", AT_FDCWD, c"b", WHITEOUT);
    say!(t, "{} {}", content("b"), names("."));
    show!(t, renameat2, AT_FDCWD, c"b", AT_FDCWD, c"a", WHITEOUT | 1);
    show!(t, renameat2, AT_FDCWD, c"b", AT_FDCWD, c"a", WHITEOUT | 2);
    show!(t, renameat2, AT_FDCWD, c"b", AT_FDCWD, c"n", WHITEOUT | 1);
    show!(t, unlinkat, AT_FDCWD, c"b", 0);
    show!(t, renameat2, AT_FDCWD, c"n", AT_FDCWD, c"b", 0);
    must!(mkdirat, AT_FDCWD, c"d", 0o755);
    show!(t, renameat2, AT_FDCWD, c"d", AT_FDCWD, c"e", WHITEOUT);
    say!(t, "{} {:o}", names("."), stat("d").mode());
}

fn unnamed(t: &mut T) {
    let make = |flags| must!(openat, AT_FDCWD, c".", libc::O_TMPFILE | O_RDWR | flags, 0o600);
    let link = |fd: i64, name: &str| {
        let from = c(&format!("/proc/self/fd/{fd}"));
        call!(linkat, AT_FDCWD, from.as_c_str(), AT_FDCWD, c(name).as_c_str(), libc::AT_SYMLINK_FOLLOW)
    };
    let f = make(0);
    write(f, "text");
    say!(t, "{} {:?}", result(link(f, "a")), content("a"));
    say!(t, "again: {}", result(link(f, "b")));
    must!(unlinkat, AT_FDCWD, c"a", 0);
    must!(unlinkat, AT_FDCWD, c"b", 0);
    say!(t, "after: {}", result(link(f, "c")));
    let g = make(libc::O_EXCL);
    say!(t, "exclusive: {}", result(link(g, "d")));
    show!(t, linkat, g, c"", AT_FDCWD, c"e", libc::AT_EMPTY_PATH);
    let h = make(0);
    show!(t, linkat, h, c"", AT_FDCWD, c"f", libc::AT_EMPTY_PATH);
    file("#1", "x");
    let i = open("#1", O_RDWR);
    must!(unlinkat, AT_FDCWD, c"#1", 0);
    say!(t, "a removed one: {}", result(link(i, "g")));
    show!(t, openat, AT_FDCWD, c".", libc::O_TMPFILE | O_RDONLY, 0o600);
    show!(t, openat, AT_FDCWD, c"f", libc::O_TMPFILE | O_RDWR, 0o600);
    show!(t, openat, AT_FDCWD, c"f", libc::O_TMPFILE & !libc::O_DIRECTORY | O_RDWR, 0o600);
    say!(t, "{}", names("."));
}

/// How many names one descriptor lists from where it is.
fn list(fd: i64, limit: usize) -> usize {
    let mut buffer = vec![0u8; 8192];
    let mut found = 0;
    while found < limit {
        let got = call!(getdents64, fd, out(&mut buffer[..]), buffer.len());
        if got <= 0 {
            break;
        }
        let mut at = 0;
        while at < got as usize {
            at += usize::from(u16::from_le_bytes([buffer[at + 16], buffer[at + 17]]));
            found += 1;
        }
    }
    found
}

fn many_names(t: &mut T) {
    const COUNT_OF: usize = 20_000;
    for i in 0..COUNT_OF {
        must!(mknod, c(&format!("f{i:06}")).as_c_str(), 0o100_644, 0);
    }
    let d = open(".", O_RDONLY);
    say!(t, "{}", list(d, usize::MAX));
    say!(t, "end: {}", list(d, usize::MAX));
    must!(lseek, d, 0, 0);
    say!(t, "again: {}", list(d, usize::MAX));
    say!(t, "{}", result(call!(newfstatat, AT_FDCWD, c"f019999", out(&mut [0u64; 18]), 0)));
    say!(t, "{}", std::fs::remove_dir_all("../files.many_names/").is_ok() || names(".").is_empty());
}

fn listing_while_removing(t: &mut T) {
    for i in 0..2000 {
        must!(mknod, c(&format!("f{i:04}")).as_c_str(), 0o100_644, 0);
    }
    let d = open(".", O_RDONLY);
    let first = list(d, 1);
    for i in 0..1000 {
        must!(unlinkat, AT_FDCWD, c(&format!("f{:04}", i * 2)).as_c_str(), 0);
    }
    let rest = list(d, usize::MAX);
    // What stayed is listed once; of what went, no more than there was.
    say!(t, "{}", (1000..=2002).contains(&(first + rest)));
    must!(lseek, d, 0, 0);
    say!(t, "{}", list(d, usize::MAX));
}

fn set_times(path: &str, times: [(i64, i64); 2], flags: i32) -> i64 {
    call!(utimensat, AT_FDCWD, c(path).as_c_str(), p(&times), flags)
}

fn times(t: &mut T) {
    const NOW: i64 = libc::UTIME_NOW;
    const OMIT: i64 = libc::UTIME_OMIT;
    file("f", "x");
    let show_times = |path: &str| {
        let m = stat(path);
        format!("{}.{} {}.{}", m.atime(), m.atime_nsec(), m.mtime(), m.mtime_nsec())
    };
    say!(t, "{} {}", result(set_times("f", [(1, 2), (3, 4)], 0)), show_times("f"));
    say!(t, "{} {}", result(set_times("f", [(9, OMIT), (5, 6)], 0)), show_times("f"));
    say!(t, "{} {}", result(set_times("f", [(7, 8), (9, OMIT)], 0)), show_times("f"));
    say!(t, "{} {}", result(set_times("f", [(0, OMIT), (0, OMIT)], 0)), show_times("f"));
    say!(t, "{} {}", result(set_times("f", [(-5, 1), (1 << 33, 999_999_999)], 0)), show_times("f"));
    say!(t, "{}", result(set_times("f", [(1, 1_000_000_000), (1, 1)], 0)));
    say!(t, "{}", result(set_times("f", [(1, -1), (1, 1)], 0)));
    say!(t, "{}", result(set_times("none", [(0, OMIT), (0, OMIT)], 0)));
    must!(symlinkat, c"f", AT_FDCWD, c"l");
    say!(t, "{} {}", result(set_times("l", [(11, 0), (12, 0)], libc::AT_SYMLINK_NOFOLLOW)), show_times("l"));
    must!(fchmodat, AT_FDCWD, c"f", 0o666);
    must!(fchmodat, AT_FDCWD, c".", 0o777);
    let ended = as_nobody(|| {
        let t = &mut T::default();
        say!(t, "another's, now: {}", result(set_times("f", [(0, NOW), (0, NOW)], 0)));
        say!(t, "another's, null: {}", result(call!(utimensat, AT_FDCWD, c"f", 0, 0)));
        say!(t, "another's, then: {}", result(set_times("f", [(1, 1), (1, 1)], 0)));
        say!(t, "another's, one: {}", result(set_times("f", [(0, NOW), (0, OMIT)], 0)));
        say!(t, "another's, none: {}", result(set_times("f", [(0, OMIT), (0, OMIT)], 0)));
    });
    say!(t, "{ended}");
}

fn access_times(t: &mut T) {
    file("f", "x");
    set_times("f", [(100, 0), (200, 0)], 0);
    content("f");
    say!(t, "older than the change: {}", stat("f").atime() > 200);
    set_times("f", [(100, 0), (200, 0)], 0);
    let quiet = open("f", O_RDONLY | libc::O_NOATIME);
    read(quiet);
    say!(t, "O_NOATIME: {}", stat("f").atime());
    must!(mkdirat, AT_FDCWD, c"d", 0o755);
    set_times("d", [(100, 0), (200, 0)], 0);
    names("d");
    say!(t, "a directory: {}", stat("d").atime() > 200);
}

fn change_times(t: &mut T) {
    file("f", "x");
    let changed = |t: &mut T, what: &str, path: &str, f: &dyn Fn()| {
        set_times(path, [(100, 0), (100, 0)], 0);
        let before = (stat(path).ctime(), stat(path).ctime_nsec());
        sleep_ms(20);
        f();
        let m = stat(path);
        say!(t, "{what}: ctime {} mtime {}", (m.ctime(), m.ctime_nsec()) != before, m.mtime() != 100);
    };
    changed(t, "chmod", "f", &|| {
 must!(fchmodat, AT_FDCWD, c"f", 0o600);
 });
    changed(t, "chown", "f", &|| {
 must!(chown, c"f", 0, 0);
 });
    changed(t, "link", "f", &|| {
 must!(linkat, AT_FDCWD, c"f", AT_FDCWD, c"g", 0);
 });
    changed(t, "unlink", "f", &|| {
 must!(unlinkat, AT_FDCWD, c"g", 0);
 });
    changed(t, "rename", "f", &|| {
        must!(renameat, AT_FDCWD, c"f", AT_FDCWD, c"h");
        must!(renameat, AT_FDCWD, c"h", AT_FDCWD, c"f");
    });
    changed(t, "directory", ".", &|| file("k", ""));
    changed(t, "same size", "f", &|| {
 must!(truncate, c"f", 1);
 });
    changed(t, "empty write", "f", &|| {
 must!(write, open("f", O_WRONLY), p("x"), 0);
 });
    changed(t, "write", "f", &|| {
 write(open("f", O_WRONLY), "y");
 });
    changed(t, "attribute", "f", &|| {
 must!(setxattr, c"f", c"security.x", p("x"), 1, 0);
 });
}

fn appends_race(t: &mut T) {
    file("f", "");
    let children: Vec<i64> = (0..4u8)
        .map(|i| {
            fork(|| {
                let f = open("f", O_WRONLY | libc::O_APPEND);
                let line = [b'a' + i; 64];
                for _ in 0..100 {
                    must!(write, f, p(&line), 64);
                }
                0
            })
        })
        .collect();
    let ended: Vec<String> = children.into_iter().map(wait).collect();
    let all = std::fs::read("f").expect("a file");
    let whole = all.chunks(64).filter(|c| c.iter().all(|b| *b == c[0])).count();
    say!(t, "{} {} {whole}", ended.join(" "), all.len());
}

fn replaced_while_open(t: &mut T) {
    file("a", "old");
    file("b", "new");
    let f = open("a", O_RDWR);
    must!(renameat, AT_FDCWD, c"b", AT_FDCWD, c"a");
    say!(t, "{:?} {:?}", read(f), content("a"));
    say!(t, "{}", result(write(f, "er")));
    must!(lseek, f, 0, 0);
    say!(t, "{:?} {:?} {}", read(f), content("a"), names("."));
    let mut buffer = [0u8; 256];
    let n = must!(readlinkat, AT_FDCWD, c(&format!("/proc/self/fd/{f}")).as_c_str(), out(&mut buffer), 256);
    let shown = String::from_utf8_lossy(&buffer[..n as usize]).into_owned();
    say!(t, "{}", shown.ends_with("/a (deleted)"));
}

fn removed_while_open(t: &mut T) {
    file("a", "text");
    let f = open("a", O_RDWR);
    must!(unlinkat, AT_FDCWD, c"a", 0);
    let mut s = [0u64; 18];
    must!(fstat, f, out(&mut s));
    say!(t, "links {} {:?}", s[2], read(f));
    show!(t, linkat, f, c"", AT_FDCWD, c"b", libc::AT_EMPTY_PATH);
    ok!(t, openat, AT_FDCWD, c(&format!("/proc/self/fd/{f}")).as_c_str(), O_RDONLY, 0);
    must!(mkdirat, AT_FDCWD, c"d", 0o755);
    let d = open("d", O_RDONLY);
    must!(unlinkat, AT_FDCWD, c"d", libc::AT_REMOVEDIR);
    show!(t, openat, d, c"x", O_CREAT | O_RDWR, 0o644);
    say!(t, "{}", list(d, 10));
    show!(t, mkdirat, d, c"x", 0o755);
}
