//! mount_setattr.

use super::*;

/// `struct mount_attr`.
pub(super) fn attr(set: u64, clear: u64, propagation: u64) -> [u64; 4] {
    [set, clear, propagation, 0]
}

pub(super) fn change(place: &str, flags: i32, attr: [u64; 4]) -> String {
    result(call!(mount_setattr, AT_FDCWD, c(place).as_c_str(), flags, p(&attr), 32))
}

pub(super) fn attributes(t: &mut T) {
    prepare();
    tmpfs("a");
    for (set, clear) in [
        (RDONLY, 0),
        (NOSUID | NODEV, 0),
        (NOEXEC, RDONLY),
        (0, NOSUID),
        (RDONLY, RDONLY),
        (NODIRATIME | NOSYMFOLLOW, NODEV | NOEXEC | RDONLY),
        (0, NODIRATIME | NOSYMFOLLOW),
        (0, 0),
    ] {
        say!(t, "{set:#x} {clear:#x}: {} {}", change("a", 0, attr(set, clear, 0)), shown());
    }
    must!(mount, c"a", c"b", 0, libc::MS_BIND, 0);
    say!(t, "one of two: {} {}", change("b", 0, attr(RDONLY, 0, 0)), shown());
    show!(t, mkdir, c"b/d", 0o755);
    show!(t, mkdir, c"a/d", 0o755);
}

pub(super) fn attributes_recursive(t: &mut T) {
    prepare();
    tmpfs("a");
    must!(mkdir, c"a/x", 0o755);
    tmpfs("a/x");
    must!(mkdir, c"a/x/y", 0o755);
    must!(mount, c"y", c"a/x/y", c"tmpfs", libc::MS_NOEXEC, 0);
    say!(t, "{} {}", change("a", 0, attr(NOSUID, 0, 0)), shown());
    say!(t, "{} {}", change("a", RECURSIVE, attr(RDONLY, NOSUID, 0)), shown());
    say!(t, "{} {}", change("a/x", RECURSIVE, attr(0, RDONLY | NOEXEC, libc::MS_SHARED)), shown());
}

pub(super) fn attributes_detached(t: &mut T) {
    prepare();
    let m = made(&[], 0);
    show!(t, mount_setattr, m, c"", EMPTY, p(&attr(RDONLY | NOEXEC, 0, 0)), 32);
    show!(t, mkdirat, m, c"d", 0o755);
    show!(t, mount_setattr, m, c"", EMPTY, p(&attr(0, RDONLY, 0)), 32);
    show!(t, mkdirat, m, c"d", 0o755);
    show!(t, mount_setattr, m, c"d", 0, p(&attr(RDONLY, 0, 0)), 32);
    say!(t, "{} {}", put(m, "a"), shown());
    tmpfs("b");
    must!(mkdir, c"b/x", 0o755);
    tmpfs("b/x");
    let copy = must!(open_tree, AT_FDCWD, c"b", CLONE | RECURSIVE);
    show!(t, mount_setattr, copy, c"", EMPTY | RECURSIVE, p(&attr(NODEV, 0, 0)), 32);
    say!(t, "{}", shown());
    say!(t, "{} {}", put(copy, "c"), shown());
}

pub(super) fn attributes_propagation(t: &mut T) {
    prepare();
    tmpfs("a");
    must!(mkdir, c"a/x", 0o755);
    tmpfs("a/x");
    for kind in [libc::MS_SHARED, libc::MS_SLAVE, libc::MS_UNBINDABLE, libc::MS_SHARED, libc::MS_PRIVATE] {
        say!(t, "{} {}", change("a", 0, attr(0, 0, kind)), shown());
    }
    say!(t, "{} {}", change("a", RECURSIVE, attr(NOSUID, 0, libc::MS_SHARED)), shown());
    for kind in [libc::MS_SHARED | libc::MS_PRIVATE, 1, libc::MS_REC | libc::MS_SHARED, u64::MAX] {
        say!(t, "{kind:#x}: {}", change("a", 0, attr(0, 0, kind)));
    }
}

pub(super) fn attributes_times(t: &mut T) {
    prepare();
    tmpfs("a");
    for (set, clear) in [
        (NOATIME, 0),
        (NOATIME, ATIME),
        (STRICTATIME, ATIME),
        (0, ATIME),
        (NOATIME | STRICTATIME, ATIME),
        (0x40, ATIME),
        (NOATIME, NOATIME),
        (0, STRICTATIME),
        (NOATIME | NODIRATIME, ATIME),
        (0, ATIME | NODIRATIME),
    ] {
        say!(t, "{set:#x} {clear:#x}: {} {}", change("a", 0, attr(set, clear, 0)), shown());
    }
}

pub(super) fn attributes_errors(t: &mut T) {
    prepare();
    tmpfs("a");
    must!(mkdir, c"a/d", 0o755);
    let read_only = attr(RDONLY, 0, 0);
    show!(t, mount_setattr, AT_FDCWD, c"a/d", 0, p(&read_only), 32);
    show!(t, mount_setattr, AT_FDCWD, c"none", 0, p(&read_only), 32);
    show!(t, mount_setattr, AT_FDCWD, c"", 0, p(&read_only), 32);
    show!(t, mount_setattr, 99, c"a", 0, p(&read_only), 32);
    show!(t, mount_setattr, AT_FDCWD, c"a", 1, p(&read_only), 32);
    show!(t, mount_setattr, AT_FDCWD, c"a", 0, p(&read_only), 31);
    show!(t, mount_setattr, AT_FDCWD, c"a", 0, p(&read_only), 0);
    show!(t, mount_setattr, AT_FDCWD, c"a", 0, p(&read_only), 4097);
    show!(t, mount_setattr, AT_FDCWD, c"a", 0, p(&[1u64, 0, 0, 0, 0]), 40);
    show!(t, mount_setattr, AT_FDCWD, c"a", 0, p(&[1u64, 0, 0, 0, 7]), 40);
    show!(t, mount_setattr, AT_FDCWD, c"none", 0, p(&attr(0, 0, 0)), 32);
    for (set, clear) in [(0x100, 0), (0, 0x100), (1 << 32, 0), (0, IDMAP)] {
        say!(t, "{set:#x} {clear:#x}: {}", change("a", 0, attr(set, clear, 0)));
    }
    let (r, _w) = pipe(0);
    show!(t, mount_setattr, r, c"", EMPTY, p(&read_only), 32);
    show!(t, mount_setattr, AT_FDCWD, c"a", 0, p(&[IDMAP, 0, 0, 99]), 32);
    must!(unshare, libc::CLONE_NEWNS);
    let old = open("a", O_RDONLY);
    must!(unshare, libc::CLONE_NEWNS);
    show!(t, mount_setattr, old, c"", EMPTY, p(&read_only), 32);
}

pub(super) fn attributes_busy(t: &mut T) {
    prepare();
    tmpfs("a");
    must!(mkdir, c"a/x", 0o755);
    must!(mount, c"x", c"a/x", c"tmpfs", libc::MS_NOEXEC, 0);
    must!(mount, c"a", c"b", 0, libc::MS_BIND, 0);
    let f = open("a/x/f", O_CREAT | O_WRONLY);
    say!(t, "{} {}", change("a", RECURSIVE, attr(RDONLY, 0, 0)), shown());
    say!(t, "{} {}", change("a", 0, attr(RDONLY, 0, 0)), shown());
    must!(close, f);
    say!(t, "{} {}", change("a", RECURSIVE, attr(RDONLY, 0, 0)), shown());
    let f = open("b/f", O_CREAT | O_WRONLY);
    say!(t, "another: {}", change("a", RECURSIVE, attr(0, RDONLY, 0)));
    say!(t, "another: {}", change("a", RECURSIVE, attr(RDONLY, 0, 0)));
    say!(t, "{} {}", change("b", 0, attr(RDONLY | NOEXEC, 0, 0)), shown());
    must!(close, f);
    let child = fork(|| {
        open("b/f", O_WRONLY);
        call!(pause);
        0
    });
    asleep(child);
    say!(t, "another's: {}", change("b", 0, attr(RDONLY, 0, 0)));
    must!(kill, child, libc::SIGKILL);
    wait(child);
    say!(t, "{}", change("b", 0, attr(RDONLY, 0, 0)));
}
