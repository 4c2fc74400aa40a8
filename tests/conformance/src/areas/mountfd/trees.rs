//! open_tree and move_mount.

use super::*;

pub(super) fn tree(t: &mut T) {
    prepare();
    tmpfs("a");
    for name in [c"a/x", c"a/x/y", c"a/z"] {
        must!(mkdir, name, 0o755);
    }
    tmpfs("a/x/y");
    file("a/x/f", "text");
    let copy = ok!(t, open_tree, AT_FDCWD, c"a/x", CLONE | libc::O_CLOEXEC);
    say!(t, "{} {:#o}", call!(fcntl, copy, libc::F_GETFD), call!(fcntl, copy, libc::F_GETFL));
    ok!(t, openat, copy, c"f", O_RDWR, 0);
    must!(mkdirat, copy, c"y/inner", 0o755);
    say!(t, "{} {}", names("a/x/y"), shown());
    say!(t, "{}", put(copy, "b"));
    say!(t, "{} {}", names("b"), shown());
    say!(t, "again: {}", put(copy, "c"));
    say!(t, "{} {}", names("c"), shown());
    show!(t, umount2, c"c", 0);
    must!(close, copy);
    show!(t, umount2, c"c", 0);
}

pub(super) fn tree_recursive(t: &mut T) {
    prepare();
    tmpfs("a");
    for name in [c"a/x", c"a/z"] {
        must!(mkdir, name, 0o755);
    }
    tmpfs("a/x");
    must!(mkdir, c"a/x/y", 0o755);
    tmpfs("a/x/y");
    file("a/x/y/f", "deep");
    let copy = ok!(t, open_tree, AT_FDCWD, c"a", CLONE | RECURSIVE);
    must!(umount2, c"a", libc::MNT_DETACH);
    say!(t, "{}", shown());
    let f = must!(openat, copy, c"x/y/f", O_RDONLY, 0);
    say!(t, "{}", read(f));
    say!(t, "a part: {}", result(call!(move_mount, copy, c"x", AT_FDCWD, c"b", 0)));
    say!(t, "{}", put(copy, "b"));
    say!(t, "{} {}", content("b/x/y/f"), shown());
    say!(t, "a part: {}", result(call!(move_mount, copy, c"x", AT_FDCWD, c"c", 0)));
    say!(t, "{} {}", content("c/y/f"), shown());
}

pub(super) fn tree_of_file(t: &mut T) {
    prepare();
    file("f", "one");
    file("g", "two");
    let copy = ok!(t, open_tree, AT_FDCWD, c"f", CLONE);
    say!(t, "on a directory: {}", put(copy, "a"));
    say!(t, "{} {}", put(copy, "g"), content("g"));
    show!(t, umount2, c"g", libc::MNT_DETACH);
    say!(t, "{}", content("g"));
}

/// Without `OPEN_TREE_CLONE` it is a descriptor of the place.
pub(super) fn tree_path(t: &mut T) {
    prepare();
    tmpfs("a");
    must!(symlink, c"a", c"l");
    let f = ok!(t, open_tree, AT_FDCWD, c"a", 0);
    say!(t, "{:#o}", call!(fcntl, f, libc::F_GETFL));
    show!(t, read, f, out(&mut [0u8; 4]), 4);
    say!(t, "{} {}", put(f, "b"), shown());
    let f = ok!(t, open_tree, AT_FDCWD, c"l", libc::AT_SYMLINK_NOFOLLOW | libc::O_CLOEXEC);
    let mut s = [0u64; 18];
    must!(newfstatat, f, c"", out(&mut s), EMPTY);
    say!(t, "{:#o} {}", s[3] & 0o170_000, call!(fcntl, f, libc::F_GETFD));
    let same = ok!(t, open_tree, f, c"", EMPTY);
    must!(newfstatat, same, c"", out(&mut s), EMPTY);
    say!(t, "{:#o}", s[3] & 0o170_000);
    let ended = as_nobody(|| {
        ok!(&mut T::default(), open_tree, AT_FDCWD, c"b", 0);
    });
    say!(t, "{ended}");
}

pub(super) fn tree_errors(t: &mut T) {
    prepare();
    tmpfs("a");
    show!(t, open_tree, AT_FDCWD, c"none", CLONE);
    show!(t, open_tree, AT_FDCWD, c"", CLONE);
    show!(t, open_tree, 99, c"a", CLONE);
    show!(t, open_tree, AT_FDCWD, c"a", RECURSIVE);
    show!(t, open_tree, AT_FDCWD, c"a", 2);
    show!(t, open_tree, AT_FDCWD, c"a", libc::AT_SYMLINK_FOLLOW);
    let m = made(&[], 0);
    show!(t, open_tree, m, c"", CLONE | EMPTY);
    let (r, _w) = pipe(0);
    show!(t, open_tree, r, c"", CLONE | EMPTY);
    ok!(t, open_tree, r, c"", EMPTY);
    must!(unshare, libc::CLONE_NEWNS);
    let old = open("a", O_RDONLY);
    must!(unshare, libc::CLONE_NEWNS);
    show!(t, open_tree, old, c"", CLONE | EMPTY);
}

pub(super) fn tree_unbindable(t: &mut T) {
    prepare();
    tmpfs("a");
    must!(mkdir, c"a/x", 0o755);
    tmpfs("a/x");
    must!(mount, 0, c"a/x", 0, libc::MS_UNBINDABLE, 0);
    show!(t, open_tree, AT_FDCWD, c"a/x", CLONE);
    let copy = ok!(t, open_tree, AT_FDCWD, c"a", CLONE | RECURSIVE);
    say!(t, "{} {}", put(copy, "b"), shown());
}

pub(super) fn tree_shared(t: &mut T) {
    prepare();
    tmpfs("a");
    must!(mkdir, c"a/x", 0o755);
    must!(mount, 0, c"a", 0, libc::MS_SHARED, 0);
    let copy = must!(open_tree, AT_FDCWD, c"a", CLONE);
    say!(t, "{}", shown());
    say!(t, "{} {}", put(copy, "b"), shown());
    must!(mount, c"new", c"a/x", c"tmpfs", 0, 0);
    say!(t, "{}", shown());
    let copy = must!(open_tree, AT_FDCWD, c"a", CLONE | RECURSIVE);
    must!(close, copy);
    say!(t, "{}", shown());
}

pub(super) fn move_attached(t: &mut T) {
    prepare();
    tmpfs("a");
    must!(mkdir, c"a/x", 0o755);
    tmpfs("a/x");
    show!(t, move_mount, AT_FDCWD, c"a", AT_FDCWD, c"b", 0);
    say!(t, "{}", shown());
    let to = open("c", libc::O_PATH);
    show!(t, move_mount, AT_FDCWD, c"b", to, c"", T_EMPTY);
    say!(t, "{}", shown());
    must!(symlink, c"c", c"l");
    must!(symlink, c"a", c"k");
    show!(t, move_mount, AT_FDCWD, c"l", AT_FDCWD, c"b", 0);
    show!(t, move_mount, AT_FDCWD, c"l", AT_FDCWD, c"k", 1);
    show!(t, move_mount, AT_FDCWD, c"l", AT_FDCWD, c"k", 1 | 0x10);
    say!(t, "{}", shown());
}

pub(super) fn move_errors(t: &mut T) {
    prepare();
    tmpfs("a");
    must!(mkdir, c"a/x", 0o755);
    file("f", "");
    show!(t, move_mount, AT_FDCWD, c"a", AT_FDCWD, c"a/x", 0);
    show!(t, move_mount, AT_FDCWD, c"a/x", AT_FDCWD, c"b", 0);
    show!(t, move_mount, AT_FDCWD, c"b", AT_FDCWD, c"c", 0);
    show!(t, move_mount, AT_FDCWD, c"a", AT_FDCWD, c"f", 0);
    show!(t, move_mount, AT_FDCWD, c"a", AT_FDCWD, c"none", 0);
    show!(t, move_mount, AT_FDCWD, c"none", AT_FDCWD, c"b", 0);
    show!(t, move_mount, AT_FDCWD, c"", AT_FDCWD, c"b", 0);
    show!(t, move_mount, AT_FDCWD, c"a", AT_FDCWD, c"", 0);
    show!(t, move_mount, AT_FDCWD, c"a", AT_FDCWD, c"b", 8);
    show!(t, move_mount, AT_FDCWD, c"a", AT_FDCWD, c"b", 0x400);
    show!(t, move_mount, 99, c"a", AT_FDCWD, c"b", 0);
    show!(t, move_mount, AT_FDCWD, c"a", 99, c"b", 0);
    let (r, _w) = pipe(0);
    show!(t, move_mount, r, c"", AT_FDCWD, c"f", F_EMPTY);
    let (m, n) = (made(&[], 0), made(&[], 0));
    must!(mkdirat, n, c"d", 0o755);
    show!(t, move_mount, m, c"", n, c"d", F_EMPTY);
    show!(t, move_mount, m, c"", n, c"", F_EMPTY | T_EMPTY);
    show!(t, move_mount, n, c"d", AT_FDCWD, c"b", 0);
    say!(t, "{}", put(m, "f"));
    must!(mount, 0, c"a", 0, libc::MS_SHARED, 0);
    must!(mount, c"in", c"a/x", c"tmpfs", 0, 0);
    show!(t, move_mount, AT_FDCWD, c"a/x", AT_FDCWD, c"b", 0);
    say!(t, "{}", shown());
}

pub(super) fn move_into_shared(t: &mut T) {
    prepare();
    tmpfs("a");
    must!(mkdir, c"a/x", 0o755);
    must!(mkdir, c"a/y", 0o755);
    must!(mount, 0, c"a", 0, libc::MS_SHARED, 0);
    must!(mount, c"a", c"b", 0, libc::MS_BIND, 0);
    let m = made(&[("source", "m")], 0);
    say!(t, "{} {}", put(m, "a/x"), shown());
    tmpfs("c");
    must!(mount, 0, c"c", 0, libc::MS_UNBINDABLE, 0);
    show!(t, move_mount, AT_FDCWD, c"c", AT_FDCWD, c"a/y", 0);
    let m = made(&[("source", "n")], 0);
    say!(t, "over it: {} {}", put(m, "a/x"), shown());
}

pub(super) fn group(t: &mut T) {
    prepare();
    tmpfs("a");
    must!(mkdir, c"a/x", 0o755);
    must!(mkdir, c"a/x/in", 0o755);
    must!(mount, c"a/x", c"b", 0, libc::MS_BIND, 0);
    show!(t, move_mount, AT_FDCWD, c"a", AT_FDCWD, c"b", SET_GROUP);
    must!(mount, 0, c"a", 0, libc::MS_SHARED, 0);
    show!(t, move_mount, AT_FDCWD, c"a", AT_FDCWD, c"a/x", SET_GROUP);
    show!(t, move_mount, AT_FDCWD, c"b", AT_FDCWD, c"a", SET_GROUP);
    tmpfs("c");
    show!(t, move_mount, AT_FDCWD, c"a", AT_FDCWD, c"c", SET_GROUP);
    show!(t, move_mount, AT_FDCWD, c"a", AT_FDCWD, c"b", SET_GROUP);
    show!(t, move_mount, AT_FDCWD, c"a", AT_FDCWD, c"b", SET_GROUP);
    say!(t, "{}", shown());
    must!(mount, c"new", c"a/x/in", c"tmpfs", 0, 0);
    say!(t, "{}", shown());
}
