//! Other ways to files: openat2 with what a path may not do, handles, fchmodat2 (as of Linux 6.6).

use crate::helpers::*;
use crate::test::Test;

pub const TESTS: &[Test] = tests![
    beneath: openat2,
    in_root: openat2,
    no_links: openat2,
    no_mounts: openat2,
    no_mounts_and_absolute_links: openat2,
    magic_links: openat2,
    roots_and_links: openat2,
    made_in_root: openat2,
    moved_out_of_bind: openat2 fchdir,
    #[race]
    moved_away_race: openat2 renameat2,
    cached: openat2,
    openat2_errors: openat2,
    handles: name_to_handle_at open_by_handle_at,
    handle_types: open_by_handle_at,
    handle_errors: name_to_handle_at open_by_handle_at,
    handle_of_removed: open_by_handle_at,
    modes_of_links: fchmodat2,
];

const NO_XDEV: u64 = 1;
const NO_MAGICLINKS: u64 = 2;
const NO_SYMLINKS: u64 = 4;
const BENEATH: u64 = 8;
const IN_ROOT: u64 = 16;
const CACHED: u64 = 32;

fn try_open(dir: i64, path: &str, resolve: u64) -> String {
    let how = [libc::O_PATH as u64, 0, resolve];
    let fd = call!(openat2, dir, c(path).as_c_str(), p(&how), 24);
    if fd >= 0 {
        let mut s = [0u64; 18];
        must!(fstat, fd, out(&mut s));
        must!(close, fd);
        return format!("{:o}", s[3] & 0o170_000);
    }
    result(fd)
}

/// `d` with a file, a directory, and links: within, upwards, out, absolute.
fn prepare() -> i64 {
    for name in ["d", "d/e", "d/e/g", "out"] {
        must!(mkdir, c(name).as_c_str(), 0o755);
    }
    file("d/f", "within");
    file("out/f", "without");
    for (text, name) in [
        ("f", "d/near"), ("e", "d/dir"), ("../f", "d/e/up"), ("../out/f", "d/escape"), ("../../out", "d/e/escape"),
        ("/f", "d/absolute"), ("/", "d/root"), ("loop", "d/loop"), ("..", "d/parent"), ("e/../../d/f", "d/around"),
    ] {
        must!(symlink, c(text).as_c_str(), c(name).as_c_str());
    }
    open("d", libc::O_PATH)
}

const PATHS: &[&str] = &[
    "f", "e", "e/../f", "..", "../d/f", "../out/f", "e/../../d/f", "/f", "/", ".", "near", "dir/g", "e/up", "escape",
    "e/escape", "absolute", "root", "root/f", "loop", "parent", "parent/d/f", "around", "none", "none/x", "f/x", "e/escape/f",
];

fn each(t: &mut T, dir: i64, resolve: u64) {
    for path in PATHS {
        say!(t, "{path}: {}", try_open(dir, path, resolve));
    }
}

fn beneath(t: &mut T) {
    let d = prepare();
    each(t, d, BENEATH);
    must!(chdir, c"d");
    say!(t, "here: {} {}", try_open(AT_FDCWD.into(), "f", BENEATH), try_open(AT_FDCWD.into(), "../d/f", BENEATH));
    // What is made has to be beneath, too.
    let make = |path: &str| {
        let how = [(O_CREAT | O_RDWR) as u64, 0o600, BENEATH];
        ok_or_error(call!(openat2, d, c(path).as_c_str(), p(&how), 24))
    };
    say!(t, "{} {} {} {}", make("new"), make("../new"), make("e/../new2"), make("escape"));
}

fn in_root(t: &mut T) {
    let d = prepare();
    each(t, d, IN_ROOT);
    must!(mkdir, c"d/out", 0o755);
    file("d/out/f", "another");
    let how = [0, 0, IN_ROOT];
    for path in ["../../out/f", "/out/f", "escape", "e/../../../../out/f"] {
        let fd = call!(openat2, d, c(path).as_c_str(), p(&how), 24);
        say!(t, "{path}: {}", if fd >= 0 { read(fd) } else { result(fd) });
    }
}

fn no_links(t: &mut T) {
    let d = prepare();
    each(t, d, NO_SYMLINKS);
    let how = [(libc::O_PATH | libc::O_NOFOLLOW) as u64, 0, NO_SYMLINKS];
    say!(t, "itself: {}", ok_or_error(call!(openat2, d, c"near", p(&how), 24)));
    say!(t, "both: {} {}", try_open(d, "near", NO_SYMLINKS | BENEATH), try_open(d, "../d/f", NO_SYMLINKS | BENEATH));
}

fn no_mounts(t: &mut T) {
    let d = prepare();
    must!(unshare, libc::CLONE_NEWNS);
    must!(mount, 0, c"/", 0, libc::MS_REC | libc::MS_PRIVATE, 0);
    must!(mount, c"t", c"d/e", c"tmpfs", 0, 0);
    file("d/e/in", "");
    must!(symlink, c"../f", c"d/e/up");
    for path in ["f", "e", "e/in", "near", "dir", "e/up", ".", "..", "/", "absolute", "escape"] {
        say!(t, "{path}: {}", try_open(d, path, NO_XDEV));
    }
    let e = open("d/e", libc::O_PATH);
    for path in ["in", ".", "..", "up", "../f"] {
        say!(t, "from within, {path}: {}", try_open(e, path, NO_XDEV));
    }
    must!(mount, c"d", c"out", 0, libc::MS_BIND, 0);
    say!(t, "a bind mount: {} {}", try_open(AT_FDCWD.into(), "out/f", NO_XDEV), try_open(AT_FDCWD.into(), "out", NO_XDEV));
}

/// A link that begins with `/` and stays on the mount leads there only if the walk has come by the root before.
fn no_mounts_and_absolute_links(t: &mut T) {
    let d = prepare();
    must!(symlink, c"/d/f", c"d/to-f");
    must!(symlink, c"to-f", c"d/to-link");
    must!(chroot, c".");
    must!(chdir, c"/");
    for path in ["to-f", "/d/to-f", "to-link", "/d/to-link", "../d/to-f", "../../d/to-link", "./to-f", "/d/../d/to-f"] {
        let each = [0, NO_XDEV, NO_XDEV | IN_ROOT].map(|resolve| try_open(d, path, resolve));
        say!(t, "{path}: {}", each.join(", "));
    }
    for path in ["d/to-f", "/d/to-f", "../d/to-f"] {
        say!(t, "from here, {path}: {}", try_open(AT_FDCWD.into(), path, NO_XDEV));
    }
}

fn magic_links(t: &mut T) {
    let d = prepare();
    let f = open("d/f", O_RDONLY);
    let link = format!("/proc/self/fd/{f}");
    for resolve in [0, NO_MAGICLINKS, NO_SYMLINKS, BENEATH, IN_ROOT, NO_XDEV] {
        say!(t, "{resolve}: {} {}", try_open(d, &link, resolve), try_open(d, "near", resolve));
    }
    let fds = open("/proc/self/fd", libc::O_PATH);
    for resolve in [0, NO_MAGICLINKS, NO_XDEV, BENEATH, IN_ROOT] {
        say!(t, "{resolve}: {}", try_open(fds, &f.to_string(), resolve));
    }
    for path in ["/proc/self/exe", "/proc/self/cwd", "/proc/self/root/tmp", "/proc/self/comm", "/proc/self/ns/mnt"] {
        say!(t, "{path}: {}", try_open(d, path, NO_MAGICLINKS));
    }
}

fn roots_and_links(t: &mut T) {
    let d = prepare();
    must!(mkdir, c"d/e/deep", 0o755);
    for (text, name) in [
        ("/e/deep", "d/jump"), ("/jump/../../..", "d/up"), ("/../..//./f", "d/e/file"), ("//", "d/e/deep/root"),
        ("/absolute", "d/e/chain"), ("/e/chain", "d/e/deep/chain"), ("/none/x", "d/broken"), ("/f/", "d/slash"),
    ] {
        must!(symlink, c(text).as_c_str(), c(name).as_c_str());
    }
    let paths = [
        "jump", "jump/root/f", "up", "up/f", "e/file", "e/deep/chain", "jump/chain", "broken", "slash", "/jump/../file",
        "/jump/../../../../..", "//", "/..", "/../f", "f/..", "e/..", "/e/deep/../../..", "jump/root/..", "/f/.", "",
    ];
    for path in paths {
        say!(t, "{path}: {} {}", try_open(d, path, IN_ROOT), try_open(d, path, BENEATH));
    }
    // A descriptor that is no directory, or none.
    let f = open("d/f", libc::O_PATH);
    for path in ["/", "/f", "f", ".."] {
        let each = [IN_ROOT, BENEATH, NO_XDEV].map(|resolve| try_open(f, path, resolve));
        say!(t, "in a file, {path}: {} {} {}", each[0], each[1], each[2]);
        let each = [IN_ROOT, BENEATH, NO_XDEV].map(|resolve| try_open(99, path, resolve));
        say!(t, "in nothing, {path}: {} {} {}", each[0], each[1], each[2]);
    }
    must!(chdir, c"d/e");
    say!(t, "here: {} {}", try_open(AT_FDCWD.into(), "/deep", IN_ROOT), try_open(AT_FDCWD.into(), "/up", IN_ROOT));
    // The root of the process, seen from above it.
    must!(chroot, c".");
    say!(t, "{} {}", try_open(d, "/absolute", IN_ROOT), try_open(d, "../absolute", IN_ROOT));
    say!(t, "{}", try_open(d, "/deep", NO_XDEV));
    say!(t, "{} {}", try_open(AT_FDCWD.into(), "..", BENEATH), try_open(d, "..", 0));
}

fn made_in_root(t: &mut T) {
    let d = prepare();
    must!(symlink, c"/new/er", c"d/dangling");
    must!(symlink, c"/../../made", c"d/e/outside");
    let make = |path: &str, flags: i32, resolve: u64| {
        let how = [(flags | O_RDWR) as u64, 0o600, resolve];
        ok_or_error(call!(openat2, d, c(path).as_c_str(), p(&how), 24))
    };
    for path in ["/a", "../b", "/../../c", "e/../../d", "dangling", "e/outside", "/e/", "/", "/e", "absolute"] {
        say!(t, "{path}: {}", make(path, O_CREAT, IN_ROOT));
    }
    say!(t, "{} {}", make("/e/outside", O_CREAT | libc::O_EXCL, IN_ROOT), make("/../new", O_CREAT | libc::O_EXCL, IN_ROOT));
    say!(t, "{} {}", make("/", libc::O_TMPFILE, IN_ROOT), make("/..", libc::O_TMPFILE, BENEATH));
    say!(t, "{}; {}; {}; {}", names("d"), names("d/e"), names("out"), names("."));
}

fn moved_out_of_bind(t: &mut T) {
    for name in ["a", "a/shown", "a/shown/c", "a/shown/c/in", "m", "elsewhere"] {
        must!(mkdir, c(name).as_c_str(), 0o755);
    }
    file("secret", "not shown");
    file("elsewhere/secret", "not shown");
    must!(unshare, libc::CLONE_NEWNS);
    must!(mount, 0, c"/", 0, libc::MS_REC | libc::MS_PRIVATE, 0);
    must!(mount, c"a/shown", c"m", 0, libc::MS_BIND, 0);
    let c = open("m/c", libc::O_PATH);
    let inner = open("m/c/in", libc::O_PATH);
    say!(t, "{} {}", try_open(c, "..", 0), try_open(inner, "../..", 0));
    must!(rename, c"a/shown/c", c"elsewhere/c");
    for path in [".", "in", "in/..", "..", "../secret", "in/../..", "../../secret", "../c"] {
        say!(t, "{path}: {} {}", try_open(c, path, 0), try_open(c, path, IN_ROOT));
    }
    say!(t, "{} {}", try_open(inner, "..", 0), try_open(inner, "../..", 0));
    show!(t, fchdir, inner);
    show!(t, chdir, c"..");
    show!(t, chdir, c"..");
    show!(t, openat, AT_FDCWD, c"../secret", O_RDONLY, 0);
}

fn moved_away_race(t: &mut T) {
    let d = prepare();
    file("f", "escaped");
    let mover = fork(|| {
        for _ in 0..400 {
            must!(rename, c"d/e/g", c"out/g");
            must!(rename, c"out/g", c"d/e/g");
        }
        0
    });
    let mut seen = std::collections::BTreeSet::new();
    let mut status = 0i32;
    while call!(wait4, mover, out(&mut status), libc::WNOHANG, 0) == 0 {
        for (path, resolve) in [("e/g/../../f", IN_ROOT), ("e/g/../../f", BENEATH), ("/e/g/../..", IN_ROOT)] {
            let fd = call!(openat2, d, c(path).as_c_str(), p(&[0u64, 0, resolve]), 24);
            if fd < 0 {
                continue;
            }
            let mut s = [0u64; 18];
            must!(fstat, fd, out(&mut s));
            let directory = s[3] & 0o170_000 == 0o040_000;
            let within = if directory { try_open(fd, "near", 0) != "ENOENT" } else { read(fd) == "within" };
            seen.insert(within);
            must!(close, fd);
        }
    }
    say!(t, "{}", ending(status));
    say!(t, "left: {}", seen.contains(&false));
}

fn cached(t: &mut T) {
    let d = prepare();
    try_open(d, "f", 0);
    say!(t, "known: {}", try_open(d, "f", CACHED));
    for flags in [O_CREAT, libc::O_TRUNC, libc::O_TMPFILE] {
        let how = [(flags | O_RDWR) as u64, 0, CACHED];
        say!(t, "{}", result(call!(openat2, d, c".", p(&how), 24)));
    }
}

fn openat2_errors(t: &mut T) {
    let d = prepare();
    let rd = [0u64, 0, 0];
    show!(t, openat2, d, c"f", p(&rd), 0);
    show!(t, openat2, d, c"f", p(&rd), 23);
    show!(t, openat2, d, c"f", p(&rd), 4097);
    show!(t, openat2, d, c"f", p(&[0u64, 0, 0, 1]), 32);
    ok!(t, openat2, d, c"f", p(&[0u64, 0, 0, 0]), 32);
    show!(t, openat2, 99, c"f", p(&rd), 24);
    show!(t, openat2, d, c"", p(&rd), 24);
    for (flags, mode, resolve) in [
        (0u64, 0u64, 64u64),
        (0, 0, BENEATH | IN_ROOT),
        (0, 0o600, 0),
        (O_CREAT as u64, 0o10_000, 0),
        (O_CREAT as u64, u64::MAX, 0),
        (1 << 40, 0, 0),
        (1 << 31, 0, 0),
        ((libc::O_PATH | O_RDWR) as u64, 0, 0),
        ((libc::O_PATH | libc::O_NONBLOCK) as u64, 0, 0),
        ((libc::O_TMPFILE | O_RDONLY) as u64, 0o600, 0),
        ((libc::O_TMPFILE | O_RDWR) as u64, 0o600, 0),
        ((O_CREAT | libc::O_DIRECTORY) as u64, 0o600, 0),
        (3, 0, 0),
    ] {
        let got = call!(openat2, d, c"f", p(&[flags, mode, resolve]), 24);
        say!(t, "{flags:#x} {mode:o} {resolve}: {}", ok_or_error(got));
    }
}

#[repr(C)]
struct Handle {
    bytes: u32,
    kind: i32,
    data: [u8; 128],
}

fn handle_of(path: &str, flags: i32) -> (i64, Handle, i32) {
    let (mut handle, mut id) = (Handle { bytes: 128, kind: 0, data: [0; 128] }, 0i32);
    let got = call!(name_to_handle_at, AT_FDCWD, c(path).as_c_str(), out(&mut handle), out(&mut id), flags);
    (got, handle, id)
}

fn handles(t: &mut T) {
    prepare();
    let here = open(".", O_RDONLY);
    let open_it = |handle: &mut Handle, flags: i32| call!(open_by_handle_at, here, out(handle), flags);
    let (got, mut handle, id) = handle_of("d/f", 0);
    say!(t, "{} {} {}", result(got), handle.bytes > 0, handle.kind != 0);
    let info = content("/proc/self/fdinfo/0");
    say!(t, "{}", info.contains("mnt_id") && content("/proc/self/mountinfo").lines().any(|line| line.starts_with(&format!("{id} "))));
    let fd = open_it(&mut handle, O_RDONLY);
    say!(t, "{} {:?}", ok_or_error(fd), read(fd));
    must!(rename, c"d/f", c"out/moved");
    say!(t, "moved: {:?}", read(open_it(&mut handle, O_RDONLY)));
    let (_, mut again, _) = handle_of("out/moved", 0);
    say!(t, "the same: {}", again.bytes == handle.bytes && again.data == handle.data);
    let (_, mut other, _) = handle_of("out/f", 0);
    say!(t, "another: {}", other.data != handle.data);
    say!(t, "{:?}", read(open_it(&mut other, O_RDONLY)));
    say!(t, "a directory: {}", ok_or_error(open_it(&mut handle_of("d", 0).1, O_RDONLY)));
    say!(t, "a link: {}", result(open_it(&mut handle_of("d/near", 0).1, O_RDONLY)));
    say!(t, "a link: {}", ok_or_error(open_it(&mut handle_of("d/near", 0).1, libc::O_PATH)));
    say!(t, "followed: {}", result(handle_of("d/near", libc::AT_SYMLINK_FOLLOW).0));
    say!(t, "{} {}", result(handle_of("", 0).0), result(handle_of("", libc::AT_EMPTY_PATH).0));
    say!(t, "written: {}", result(write(open_it(&mut again, O_WRONLY), "x")));
    say!(t, "by another descriptor: {}", ok_or_error(call!(open_by_handle_at, open("d/e", O_RDONLY), out(&mut again), O_RDONLY)));
}

/// The form of a handle, which a file system may look at or not.
fn handle_types(t: &mut T) {
    prepare();
    let here = open(".", O_RDONLY);
    for kind in [0, 1, 2, 77, 254, 255, 256, -1, i32::MIN] {
        let (_, mut handle, _) = handle_of("d/f", 0);
        handle.kind = kind;
        say!(t, "{kind}: {}", ok_or_error(call!(open_by_handle_at, here, out(&mut handle), O_RDONLY)));
    }
    for bytes in [1, 4, 8, 11, 12, 13, 64, 128] {
        let (_, mut handle, _) = handle_of("d/f", 0);
        handle.bytes = bytes;
        say!(t, "{bytes} bytes: {}", ok_or_error(call!(open_by_handle_at, here, out(&mut handle), O_RDONLY)));
    }
}

fn handle_errors(t: &mut T) {
    prepare();
    let (mut handle, mut id) = (Handle { bytes: 128, kind: 0, data: [0; 128] }, 0i32);
    show!(t, name_to_handle_at, AT_FDCWD, c"none", out(&mut handle), out(&mut id), 0);
    show!(t, name_to_handle_at, 99, c"d", out(&mut handle), out(&mut id), 0);
    show!(t, name_to_handle_at, AT_FDCWD, c"d", out(&mut handle), out(&mut id), 1);
    show!(t, name_to_handle_at, AT_FDCWD, c"d", out(&mut handle), out(&mut id), libc::AT_SYMLINK_NOFOLLOW);
    handle.bytes = 129;
    show!(t, name_to_handle_at, AT_FDCWD, c"d", out(&mut handle), out(&mut id), 0);
    handle.bytes = 0;
    show!(t, name_to_handle_at, AT_FDCWD, c"d", out(&mut handle), out(&mut id), 0);
    say!(t, "{}", handle.bytes > 0);
    show!(t, name_to_handle_at, AT_FDCWD, c"d", out(&mut handle), out(&mut id), 0);
    show!(t, name_to_handle_at, AT_FDCWD, c"/proc/self/comm", out(&mut handle), out(&mut id), 0);
    let here = open(".", O_RDONLY);
    show!(t, open_by_handle_at, 99, out(&mut handle), O_RDONLY);
    handle.bytes = 0;
    show!(t, open_by_handle_at, here, out(&mut handle), O_RDONLY);
    handle.bytes = 129;
    show!(t, open_by_handle_at, here, out(&mut handle), O_RDONLY);
    let (_, mut good, _) = handle_of("d/f", 0);
    good.data[5] ^= 0x55;
    show!(t, open_by_handle_at, here, out(&mut good), O_RDONLY);
    let ended = as_nobody(|| {
        show!(&mut T::default(), open_by_handle_at, here, out(&mut handle_of("d/f", 0).1), O_RDONLY);
    });
    say!(t, "{ended}");
}

fn handle_of_removed(t: &mut T) {
    prepare();
    let here = open(".", O_RDONLY);
    let (_, mut handle, _) = handle_of("d/f", 0);
    let f = open("d/f", O_RDONLY);
    must!(unlink, c"d/f");
    must!(close, f);
    show!(t, open_by_handle_at, here, out(&mut handle), O_RDONLY);
    file("d/f", "new");
    show!(t, open_by_handle_at, here, out(&mut handle), O_RDONLY);
    let (_, mut handle, _) = handle_of("d/e", 0);
    must!(rmdir, c"d/e/g");
    must!(unlink, c"d/e/up");
    must!(unlink, c"d/e/escape");
    must!(rmdir, c"d/e");
    show!(t, open_by_handle_at, here, out(&mut handle), O_RDONLY);
}

fn modes_of_links(t: &mut T) {
    prepare();
    let mode = |path: &str| {
        use std::os::unix::fs::MetadataExt;
        format!("{:o}", std::fs::symlink_metadata(path).unwrap().mode() & 0o7777)
    };
    show!(t, fchmodat2, AT_FDCWD, c"d/f", 0o640, 0);
    say!(t, "{}", mode("d/f"));
    show!(t, fchmodat2, AT_FDCWD, c"d/near", 0o600, 0);
    say!(t, "{} {}", mode("d/f"), mode("d/near"));
    show!(t, fchmodat2, AT_FDCWD, c"d/near", 0o644, libc::AT_SYMLINK_NOFOLLOW);
    say!(t, "{} {}", mode("d/f"), mode("d/near"));
    show!(t, fchmodat2, AT_FDCWD, c"d/f", 0o4755, libc::AT_SYMLINK_NOFOLLOW);
    say!(t, "{}", mode("d/f"));
    let f = open("d/f", libc::O_PATH);
    show!(t, fchmodat2, f, c"", 0o611, libc::AT_EMPTY_PATH);
    say!(t, "{}", mode("d/f"));
    show!(t, fchmodat2, f, c"", 0o611, 0);
    show!(t, fchmodat2, AT_FDCWD, c"d/f", 0o644, 1);
    show!(t, fchmodat2, AT_FDCWD, c"none", 0o644, 0);
    show!(t, fchmodat2, 99, c"d/f", 0o644, 0);
    as_nobody(|| {
        show!(&mut T::default(), fchmodat2, AT_FDCWD, c"d/f", 0o644, 0);
    });
}
