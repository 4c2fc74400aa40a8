//! Mounts: propagation between peers, masters and slaves; binding, moving, unmounting.

use std::collections::BTreeMap;

use crate::helpers::*;
use crate::test::Test;

pub const TESTS: &[Test] = tests![
    types: mount,
    wrong_types: mount,
    peers: mount umount2,
    slaves: mount umount2,
    slaves_of_slaves: mount umount2,
    masters_go: mount umount2,
    recursive: mount,
    unbindable: mount,
    moving: mount,
    moving_back: mount,
    bind_of_shared: mount,
    tucked: mount umount2,
    lazily: mount umount2,
    busy_elsewhere: mount umount2,
    new_namespace: mount unshare,
    lesser_namespace: mount unshare,
    pivoting: mount pivot_root,
    hidden_master: mount chroot,
    namespace_loops: mount unshare,
];

use libc::{MNT_DETACH, MS_BIND, MS_MOVE, MS_PRIVATE, MS_REC, MS_SHARED, MS_SLAVE, MS_UNBINDABLE};

/// A mount namespace in which everything is private, and directories `a` to `d` that are mounts of tmpfs.
fn prepare() {
    must!(unshare, libc::CLONE_NEWNS);
    must!(mount, c"none", c"/", 0, MS_REC | MS_PRIVATE, 0);
    for name in ["a", "b", "c", "d"] {
        must!(mkdir, c(name).as_c_str(), 0o755);
        must!(mount, c(name).as_c_str(), c(name).as_c_str(), c"tmpfs", 0, 0);
        for inner in ["x", "y"] {
            must!(mkdir, c(&format!("{name}/{inner}")).as_c_str(), 0o755);
        }
    }
}

/// What is mounted here and below: place, root, source, relations. Groups are letters, in the order they appear in.
fn show_mounts(t: &mut T, what: &str) {
    let here = std::env::current_dir().unwrap();
    let here = here.to_str().unwrap().trim_end_matches('/').to_owned() + "/";
    let mut lines: Vec<String> = Vec::new();
    let mut letters: BTreeMap<String, char> = BTreeMap::new();
    let text = content("/proc/self/mountinfo");
    let mut found: Vec<Vec<&str>> = text.lines().map(|line| line.split(' ').collect()).collect();
    found.retain(|fields| fields[4].starts_with(&here));
    found.sort_by_key(|fields| fields[4]);
    for fields in &found {
        let end = fields.iter().position(|f| *f == "-").unwrap();
        let related: Vec<String> = fields[6..end]
            .iter()
            .map(|field| match field.split_once(':') {
                Some((kind, group)) => {
                    let next = char::from(b'A' + letters.len() as u8);
                    format!("{kind}:{}", letters.entry(group.to_owned()).or_insert(next))
                }
                None => (*field).to_owned(),
            })
            .collect();
        let place = fields[4].strip_prefix(&here).unwrap();
        lines.push(format!("{place} = {}{} {}", fields[end + 2], fields[3].trim_end_matches('/'), related.join(" ")));
    }
    lines.sort(); // of several on a place the order is not fixed
    say!(t, "{what}:");
    lines.iter().for_each(|line| say!(t, "  {}", line.trim_end()));
}

fn set(t: &mut T, place: &str, kind: u64) {
    let what = match kind & !MS_REC {
        MS_SHARED => "shared",
        MS_SLAVE => "slave",
        MS_PRIVATE => "private",
        _ => "unbindable",
    };
    let recursive = if kind & MS_REC != 0 { "r" } else { "" };
    let got = call!(mount, c"none", c(place).as_c_str(), 0, kind, 0);
    say!(t, "{place} made {recursive}{what}: {}", result(got));
}

fn bind(t: &mut T, from: &str, to: &str, flags: u64) {
    let got = call!(mount, c(from).as_c_str(), c(to).as_c_str(), 0, flags, 0);
    let what = if flags & MS_MOVE != 0 { "moved" } else { "bound" };
    say!(t, "{from} {what} to {to}: {}", result(got));
}

fn tmpfs(t: &mut T, name: &str, place: &str) {
    let got = call!(mount, c(name).as_c_str(), c(place).as_c_str(), c"tmpfs", 0, 0);
    say!(t, "{name} mounted on {place}: {}", result(got));
}

fn unmount(t: &mut T, place: &str, flags: i32) {
    let got = call!(umount2, c(place).as_c_str(), flags);
    say!(t, "{place} unmounted: {}", result(got));
}

/// One mount through all types, alone and with a peer.
fn types(t: &mut T) {
    prepare();
    for kind in [MS_SHARED, MS_SHARED, MS_SLAVE, MS_UNBINDABLE, MS_SHARED, MS_PRIVATE] {
        set(t, "a", kind);
        show_mounts(t, "alone");
    }
    set(t, "a", MS_SHARED);
    bind(t, "a", "b", MS_BIND);
    for kind in [MS_SLAVE, MS_SHARED, MS_SLAVE, MS_PRIVATE] {
        set(t, "b", kind);
        show_mounts(t, "with a peer");
    }
}

fn wrong_types(t: &mut T) {
    prepare();
    set(t, "a/x", MS_SHARED);
    set(t, "nowhere", MS_SHARED);
    show!(t, mount, c"none", c"a", 0, MS_SHARED | MS_PRIVATE, 0);
    show!(t, mount, c"none", c"a", 0, MS_SHARED | libc::MS_NOSUID, 0);
    show!(t, mount, c"none", c"a", 0, MS_SHARED | MS_BIND, 0);
    show!(t, mount, c"none", c"a", 0, MS_SHARED | libc::MS_SILENT, 0);
    as_nobody(|| {
        show!(t, mount, c"none", c"a", 0, MS_PRIVATE, 0);
    });
    show_mounts(t, "after");
}

fn peers(t: &mut T) {
    prepare();
    set(t, "a", MS_SHARED);
    bind(t, "a", "b", MS_BIND);
    bind(t, "a/x", "c", MS_BIND);
    tmpfs(t, "one", "a/x");
    tmpfs(t, "two", "b/y");
    show_mounts(t, "mounted");
    tmpfs(t, "three", "a/x");
    show_mounts(t, "once more");
    unmount(t, "b/x", 0);
    unmount(t, "b/y", 0);
    show_mounts(t, "unmounted");
    must!(mkdir, c"c/in", 0o755);
    tmpfs(t, "four", "c/in");
    show_mounts(t, "below what is covered");
}

fn slaves(t: &mut T) {
    prepare();
    set(t, "a", MS_SHARED);
    bind(t, "a", "b", MS_BIND);
    set(t, "b", MS_SLAVE);
    bind(t, "b", "c", MS_BIND);
    tmpfs(t, "down", "a/x");
    tmpfs(t, "up", "b/y");
    show_mounts(t, "mounted");
    unmount(t, "b/x", 0);
    show_mounts(t, "a slave's");
    unmount(t, "a/x", 0);
    show_mounts(t, "the master's");
}

fn slaves_of_slaves(t: &mut T) {
    prepare();
    set(t, "a", MS_SHARED);
    bind(t, "a", "b", MS_BIND);
    set(t, "b", MS_SLAVE);
    set(t, "b", MS_SHARED);
    bind(t, "b", "c", MS_BIND);
    bind(t, "c", "d", MS_BIND);
    set(t, "d", MS_SLAVE);
    tmpfs(t, "all", "a/x");
    tmpfs(t, "some", "c/y");
    show_mounts(t, "mounted");
    unmount(t, "c/x", 0);
    show_mounts(t, "in the middle");
    unmount(t, "a/x", 0);
    unmount(t, "b/y", 0);
    show_mounts(t, "all");
}

fn masters_go(t: &mut T) {
    prepare();
    set(t, "a", MS_SHARED);
    bind(t, "a", "b", MS_BIND);
    set(t, "b", MS_SLAVE);
    set(t, "b", MS_SHARED);
    bind(t, "b", "c", MS_BIND);
    set(t, "c", MS_SLAVE);
    set(t, "b", MS_PRIVATE);
    show_mounts(t, "the middle is private");
    tmpfs(t, "still", "a/x");
    show_mounts(t, "mounted");
    unmount(t, "a/x", 0);
    unmount(t, "a", 0);
    show_mounts(t, "the master is gone");
}

fn recursive(t: &mut T) {
    prepare();
    tmpfs(t, "in", "a/x");
    must!(mkdir, c"a/x/deep", 0o755);
    tmpfs(t, "deep", "a/x/deep");
    set(t, "a", MS_SHARED | MS_REC);
    show_mounts(t, "shared");
    bind(t, "a", "b", MS_BIND | MS_REC);
    show_mounts(t, "bound");
    set(t, "b", MS_SLAVE | MS_REC);
    set(t, "b/x", MS_UNBINDABLE);
    show_mounts(t, "slaves");
    bind(t, "b", "c", MS_BIND | MS_REC);
    show_mounts(t, "bound again");
    set(t, "a", MS_PRIVATE | MS_REC);
    show_mounts(t, "private");
}

fn unbindable(t: &mut T) {
    prepare();
    set(t, "a", MS_UNBINDABLE);
    bind(t, "a", "b", MS_BIND);
    bind(t, "a/x", "b", MS_BIND | MS_REC);
    tmpfs(t, "in", "b/x");
    set(t, "b/x", MS_UNBINDABLE);
    bind(t, "b", "c", MS_BIND | MS_REC);
    show_mounts(t, "left out");
    set(t, "d", MS_SHARED);
    bind(t, "a", "d/x", MS_MOVE);
    bind(t, "b", "d/x", MS_MOVE);
    bind(t, "a", "c/x", MS_MOVE);
    show_mounts(t, "moved");
    must!(unshare, libc::CLONE_NEWNS);
    show_mounts(t, "in another namespace");
}

fn moving(t: &mut T) {
    prepare();
    set(t, "a", MS_SHARED);
    bind(t, "a", "b", MS_BIND);
    tmpfs(t, "in", "c/x");
    bind(t, "c", "a/x", MS_MOVE);
    show_mounts(t, "onto a shared one");
    bind(t, "a/x", "d/x", MS_MOVE);
    bind(t, "a/x/x", "d/x", MS_MOVE);
    bind(t, "a", "a/y", MS_MOVE);
    bind(t, "a/y", "d", MS_MOVE);
    bind(t, "d/x", "a/y", MS_MOVE);
    file("plain", "");
    bind(t, "d", "plain", MS_MOVE);
    bind(t, "a", "d/y", MS_MOVE);
    show_mounts(t, "after");
}

fn moving_back(t: &mut T) {
    prepare();
    tmpfs(t, "in", "a/x");
    bind(t, "a", "b/x", MS_MOVE);
    show_mounts(t, "there");
    bind(t, "b/x", "a", MS_MOVE);
    show_mounts(t, "and back");
    bind(t, "a", "a", MS_MOVE);
}

fn bind_of_shared(t: &mut T) {
    prepare();
    set(t, "a", MS_SHARED);
    bind(t, "a", "a/x", MS_BIND);
    show_mounts(t, "on itself");
    bind(t, "a", "b/x", MS_BIND | MS_REC);
    set(t, "b", MS_SHARED);
    bind(t, "b", "c", MS_BIND | MS_REC);
    bind(t, "d", "b/y", MS_BIND);
    show_mounts(t, "private onto shared");
}

/// What arrives goes below what is there.
fn tucked(t: &mut T) {
    prepare();
    set(t, "a", MS_SHARED);
    bind(t, "a", "b", MS_BIND);
    set(t, "b", MS_SLAVE);
    tmpfs(t, "above", "b/x");
    file("b/x/above", "");
    tmpfs(t, "below", "a/x");
    file("a/x/below", "");
    show_mounts(t, "mounted");
    say!(t, "{} {}", names("a/x"), names("b/x"));
    unmount(t, "a/x", 0);
    show_mounts(t, "taken from below");
    say!(t, "{}", names("b/x"));
    tmpfs(t, "again", "a/x");
    unmount(t, "b/x", 0);
    show_mounts(t, "taken from above");
}

fn lazily(t: &mut T) {
    prepare();
    set(t, "a", MS_SHARED);
    bind(t, "a", "b", MS_BIND);
    tmpfs(t, "one", "a/x");
    must!(mkdir, c"a/x/in", 0o755);
    tmpfs(t, "two", "a/x/in");
    unmount(t, "a/x", 0);
    show_mounts(t, "before");
    unmount(t, "b/x", MNT_DETACH);
    show_mounts(t, "after");
    tmpfs(t, "one", "a/x");
    must!(mkdir, c"a/x/in", 0o755);
    set(t, "b/x", MS_PRIVATE);
    tmpfs(t, "mine", "b/x/in");
    unmount(t, "a/x", MNT_DETACH);
    show_mounts(t, "what holds another stays");
}

fn busy_elsewhere(t: &mut T) {
    prepare();
    set(t, "a", MS_SHARED);
    bind(t, "a", "b", MS_BIND);
    tmpfs(t, "one", "a/x");
    file("b/x/held", "");
    let fd = must!(open, c"b/x/held", O_RDONLY, 0);
    unmount(t, "a/x", 0);
    must!(close, fd);
    unmount(t, "a/x", 0);
    show_mounts(t, "after");
}

fn new_namespace(t: &mut T) {
    prepare();
    set(t, "a", MS_SHARED);
    bind(t, "a", "b", MS_BIND);
    set(t, "b", MS_SLAVE);
    let inside = child(|| {
        must!(unshare, libc::CLONE_NEWNS);
        show_mounts(t, "copied");
        must!(mount, c"in", c"a/x", c"tmpfs", 0, 0);
        must!(mount, c"in", c"c/x", c"tmpfs", 0, 0);
        0
    });
    say!(t, "{inside}");
    show_mounts(t, "outside");
}

fn lesser_namespace(t: &mut T) {
    prepare();
    set(t, "a", MS_SHARED);
    bind(t, "a", "b", MS_BIND);
    set(t, "b", MS_SLAVE);
    set(t, "b", MS_SHARED);
    tmpfs(t, "covering", "c/x");
    let (read, write) = pipe(0);
    let (read_back, write_back) = pipe(0);
    let pid = fork(|| {
        must!(unshare, libc::CLONE_NEWUSER | libc::CLONE_NEWNS);
        show_mounts(t, "copied");
        bind(t, "c", "d", MS_BIND);
        bind(t, "c", "d", MS_BIND | MS_REC);
        unmount(t, "c/x", 0);
        unmount(t, "c/x", MNT_DETACH);
        tmpfs(t, "in", "b/x");
        must!(write, write_back, c"x", 1);
        let mut byte = [0u8; 1];
        must!(read, read, out(&mut byte), 1);
        show_mounts(t, "after a mount outside");
        unmount(t, "a/y", 0);
        0
    });
    let mut byte = [0u8; 1];
    must!(read, read_back, out(&mut byte), 1);
    must!(mount, c"out", c"a/y", c"tmpfs", 0, 0);
    must!(write, write, c"x", 1);
    say!(t, "{}", wait(pid));
    show_mounts(t, "outside");
}

fn pivoting(t: &mut T) {
    prepare();
    must!(mkdir, c"a/old", 0o755);
    let tried = |t: &mut T, what: &str| {
        say!(t, "{what}: {}", result(call!(pivot_root, c"a", c"a/old")));
    };
    set(t, "a", MS_SHARED);
    child(|| {
        must!(unshare, libc::CLONE_NEWNS);
        tried(t, "put on a shared one");
        0
    });
    set(t, "a", MS_PRIVATE);
    must!(mount, c"none", c"/", 0, MS_SHARED, 0);
    say!(t, "{}", result(call!(pivot_root, c"/", c"/")));
    must!(mount, c"none", c"/", 0, MS_PRIVATE, 0);
}

/// The master cannot be reached from the root, what it is a slave of can.
fn hidden_master(t: &mut T) {
    prepare();
    set(t, "a", MS_SHARED);
    must!(mkdir, c"d/a", 0o755);
    must!(mkdir, c"d/c", 0o755);
    must!(mkdir, c"d/proc", 0o755);
    must!(mount, c"proc", c"d/proc", c"proc", 0, 0);
    bind(t, "a", "d/a", MS_BIND);
    bind(t, "a", "b", MS_BIND);
    set(t, "b", MS_SLAVE);
    set(t, "b", MS_SHARED);
    bind(t, "b", "d/c", MS_BIND);
    set(t, "d/c", MS_SLAVE);
    show_mounts(t, "all");
    let inside = child(|| {
        must!(chroot, c"d");
        must!(chdir, c"/");
        show_mounts(t, "inside");
        0
    });
    say!(t, "{inside}");
}

fn namespace_loops(t: &mut T) {
    prepare();
    file("ns", "");
    show!(t, mount, c"/proc/self/ns/mnt", c"ns", 0, MS_BIND, 0);
    show!(t, mount, c"/proc/self/ns/uts", c"ns", 0, MS_BIND, 0);
    show!(t, umount2, c"ns", 0);
    let (read, write) = pipe(0);
    let (read_back, write_back) = pipe(0);
    let pid = fork(|| {
        must!(unshare, libc::CLONE_NEWNS);
        let parent = format!("/proc/{}/ns/mnt", must!(getppid));
        say!(t, "the older one: {}", result(call!(mount, c(&parent).as_c_str(), c"ns", 0, MS_BIND, 0)));
        must!(write, write_back, c"x", 1);
        let mut byte = [0u8; 1];
        must!(read, read, out(&mut byte), 1);
        0
    });
    let mut byte = [0u8; 1];
    must!(read, read_back, out(&mut byte), 1);
    let path = format!("/proc/{pid}/ns/mnt");
    say!(t, "the younger one: {}", result(call!(mount, c(&path).as_c_str(), c"ns", 0, MS_BIND, 0)));
    must!(write, write, c"x", 1);
    wait(pid);
    must!(unshare, libc::CLONE_NEWNS);
    say!(t, "in a copy: {}", result(call!(umount2, c"ns", 0)));
}
