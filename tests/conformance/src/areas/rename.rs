//! Renaming: what may replace what, and the flags of `renameat2`.

use crate::helpers::*;
use crate::test::Test;

pub const TESTS: &[Test] = tests![
    replaces: rename renameat renameat2,
    matrix: rename,
    noreplace: renameat2,
    exchange: renameat2,
    into_itself: rename,
    bad_flags: renameat2,
    same_file: rename link,
    sticky: rename,
    unwritable: rename,
    odd_names: rename,
];

fn replaces(t: &mut T) {
    file("a", "one");
    file("b", "two");
    show!(t, rename, c"a", c"b");
    say!(t, "{}: {}", names("."), content("b"));
    show!(t, renameat, AT_FDCWD, c"b", AT_FDCWD, c"c");
    show!(t, renameat2, AT_FDCWD, c"c", AT_FDCWD, c"d", 0);
    say!(t, "{}", names("."));
}

/// Each kind onto each kind.
fn matrix(t: &mut T) {
    const KINDS: [&str; 7] = ["none", "file", "dir", "full", "link", "dangling", "fifo"];
    fn make(kind: &str, name: &str) {
        let path = c(name);
        match kind {
            "none" => {}
            "file" => file(name, "x"),
            "dir" => drop(must!(mkdir, path.as_c_str(), 0o755)),
            "full" => {
                must!(mkdir, path.as_c_str(), 0o755);
                file(&format!("{name}/in"), "x");
            }
            "link" => drop(must!(symlink, c"/tmp", path.as_c_str())),
            "dangling" => drop(must!(symlink, c"nowhere", path.as_c_str())),
            _ => drop(must!(mknod, path.as_c_str(), libc::S_IFIFO | 0o644, 0)),
        }
    }
    for (i, from) in KINDS.iter().enumerate() {
        for (j, to) in KINDS.iter().enumerate() {
            let (old, new) = (format!("old{i}{j}"), format!("new{i}{j}"));
            make(from, &old);
            make(to, &new);
            say!(t, "{from} to {to}: {}", result(call!(rename, c(&old).as_c_str(), c(&new).as_c_str())));
        }
    }
}

fn noreplace(t: &mut T) {
    file("a", "one");
    file("b", "two");
    show!(t, renameat2, AT_FDCWD, c"a", AT_FDCWD, c"b", libc::RENAME_NOREPLACE);
    say!(t, "{} {}", content("a"), content("b"));
    show!(t, renameat2, AT_FDCWD, c"a", AT_FDCWD, c"c", libc::RENAME_NOREPLACE);
    show!(t, renameat2, AT_FDCWD, c"none", AT_FDCWD, c"c", libc::RENAME_NOREPLACE);
    must!(symlink, c"nowhere", c"dangling");
    show!(t, renameat2, AT_FDCWD, c"c", AT_FDCWD, c"dangling", libc::RENAME_NOREPLACE);
    say!(t, "{}", names("."));
}

fn exchange(t: &mut T) {
    file("a", "one");
    must!(mkdir, c"d", 0o755);
    file("d/in", "inside");
    show!(t, renameat2, AT_FDCWD, c"a", AT_FDCWD, c"d", libc::RENAME_EXCHANGE);
    say!(t, "{} {}", content("d"), content("a/in"));
    show!(t, renameat2, AT_FDCWD, c"a", AT_FDCWD, c"none", libc::RENAME_EXCHANGE);
    show!(t, renameat2, AT_FDCWD, c"a", AT_FDCWD, c"a/in", libc::RENAME_EXCHANGE);
    show!(t, renameat2, AT_FDCWD, c"a/in", AT_FDCWD, c"a", libc::RENAME_EXCHANGE);
    show!(t, renameat2, AT_FDCWD, c"a", AT_FDCWD, c"a", libc::RENAME_EXCHANGE);
}

fn into_itself(t: &mut T) {
    must!(mkdir, c"d", 0o755);
    must!(mkdir, c"d/e", 0o755);
    show!(t, rename, c"d", c"d/e/f");
    show!(t, rename, c"d", c"d/e");
    show!(t, rename, c"d/e", c"d");
    show!(t, rename, c"d", c"d");
    show!(t, rename, c"d/.", c"x");
    show!(t, rename, c"d", c"x/..");
    show!(t, rename, c"d/..", c"x");
    show!(t, rename, c".", c"x");
    show!(t, rename, c"/", c"x");
}

fn bad_flags(t: &mut T) {
    file("a", "one");
    for flags in [3, 5, 6, 8, 16, -1] {
        say!(t, "flags {flags}: {}", result(call!(renameat2, AT_FDCWD, c"a", AT_FDCWD, c"b", flags)));
    }
}

fn same_file(t: &mut T) {
    file("a", "one");
    must!(link, c"a", c"b");
    show!(t, rename, c"a", c"b");
    say!(t, "both stay: {}", names("."));
    show!(t, renameat2, AT_FDCWD, c"a", AT_FDCWD, c"b", libc::RENAME_NOREPLACE);
}

fn sticky(t: &mut T) {
    must!(mkdir, c"s", 0o777);
    must!(chmod, c"s", 0o1777);
    file("s/root", "root's");
    let ended = as_nobody(|| {
        file("s/own", "own");
        show!(t, rename, c"s/root", c"s/taken");
        show!(t, rename, c"s/own", c"s/root");
        show!(t, rename, c"s/own", c"s/mine");
        show!(t, unlink, c"s/root");
        show!(t, unlink, c"s/mine");
    });
    say!(t, "{ended}");
}

fn unwritable(t: &mut T) {
    must!(mkdir, c"ro", 0o755);
    file("ro/a", "x");
    let ended = as_nobody(|| {
        file("b", "x");
        show!(t, rename, c"ro/a", c"c");
        show!(t, rename, c"b", c"ro/b");
        show!(t, rename, c"ro/none", c"c");
    });
    say!(t, "{ended}");
}

fn names_of(length: usize) -> std::ffi::CString {
    c(&"n".repeat(length))
}

fn odd_names(t: &mut T) {
    file("a", "x");
    show!(t, rename, c"a", c"");
    show!(t, rename, c"", c"a");
    show!(t, rename, c"a", c"b/");
    show!(t, rename, c"a/", c"b");
    say!(t, "255: {}", result(call!(rename, c"a", names_of(255).as_c_str())));
    say!(t, "256: {}", result(call!(rename, names_of(255).as_c_str(), names_of(256).as_c_str())));
    say!(t, "4096: {}", result(call!(rename, names_of(255).as_c_str(), names_of(4096).as_c_str())));
    show!(t, rename, c"a", c"no/where");
    file("f", "x");
    show!(t, rename, c"f", c"f/x");
    show!(t, rename, c"f/x", c"f");
}
