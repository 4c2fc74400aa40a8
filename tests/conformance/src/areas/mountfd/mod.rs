//! Mounts by descriptor: fsopen, fsconfig, fsmount, fspick, open_tree, move_mount, mount_setattr.

mod attributes;
mod config;
mod trees;

use crate::helpers::*;
use crate::test::Test;
use attributes::*;
use config::*;
use trees::*;

pub const TESTS: &[Test] = tests![
    new_tmpfs: fsopen fsconfig fsmount move_mount,
    detached: fsmount openat,
    ends_with_descriptor: fsmount open_tree close,
    open_errors: fsopen,
    config_errors: fsconfig,
    config_phases: fsconfig fsmount,
    config_types: fsconfig,
    complaints: fsconfig read,
    mount_errors: fsmount,
    mount_attributes: fsmount,
    picked: fspick fsconfig,
    pick_errors: fspick,
    others: fsopen fsconfig fsmount move_mount,
    tree: open_tree move_mount,
    tree_recursive: open_tree move_mount,
    tree_of_file: open_tree move_mount,
    tree_path: open_tree,
    tree_errors: open_tree,
    tree_unbindable: open_tree,
    tree_shared: open_tree move_mount,
    move_attached: move_mount,
    move_errors: move_mount,
    move_into_shared: move_mount,
    group: move_mount,
    attributes: mount_setattr,
    attributes_recursive: mount_setattr,
    attributes_detached: mount_setattr,
    attributes_propagation: mount_setattr,
    attributes_times: mount_setattr,
    attributes_errors: mount_setattr,
    attributes_busy: mount_setattr,
    privileges: fsopen fspick open_tree move_mount mount_setattr fsmount,
    user_namespace: fsopen fsmount move_mount mount_setattr,
    bad_addresses: fsopen fsconfig fspick open_tree move_mount mount_setattr,
];

const SET_FLAG: i32 = 0;
const SET_STRING: i32 = 1;
const SET_BINARY: i32 = 2;
const SET_PATH: i32 = 3;
const SET_PATH_EMPTY: i32 = 4;
const SET_FD: i32 = 5;
const CREATE: i32 = 6;
const RECONFIGURE: i32 = 7;

const F_EMPTY: i32 = 4;
const T_EMPTY: i32 = 0x40;
const SET_GROUP: i32 = 0x100;

const CLONE: i32 = 1;
const RECURSIVE: i32 = 0x8000;
const EMPTY: i32 = libc::AT_EMPTY_PATH;

const RDONLY: u64 = 1;
const NOSUID: u64 = 2;
const NODEV: u64 = 4;
const NOEXEC: u64 = 8;
const ATIME: u64 = 0x70;
const NOATIME: u64 = 0x10;
const STRICTATIME: u64 = 0x20;
const NODIRATIME: u64 = 0x80;
const IDMAP: u64 = 0x10_0000;
const NOSYMFOLLOW: u64 = 0x20_0000;

/// A mount namespace in which everything is private, and directories.
fn prepare() {
    must!(unshare, libc::CLONE_NEWNS);
    must!(mount, c"none", c"/", 0, libc::MS_REC | libc::MS_PRIVATE, 0);
    for name in ["a", "b", "c"] {
        must!(mkdir, c(name).as_c_str(), 0o755);
    }
}

fn tmpfs(place: &str) {
    must!(mount, c(place).as_c_str(), c(place).as_c_str(), c"tmpfs", 0, 0);
}

/// What is mounted here and below: place, type, source, options of the mount, relations without their numbers.
fn shown() -> String {
    let here = std::env::current_dir().unwrap();
    let here = format!("{}/", here.display());
    let text = content("/proc/self/mountinfo");
    let mut lines: Vec<String> = Vec::new();
    for fields in text.lines().map(|line| line.split(' ').collect::<Vec<_>>()) {
        let Some(place) = fields[4].strip_prefix(&here) else { continue };
        let end = fields.iter().position(|field| *field == "-").unwrap();
        let kin: Vec<&str> = fields[6..end].iter().map(|field| field.split(':').next().unwrap()).collect();
        let options = fields[end + 3].replace(",inode64", "");
        let root = if fields[3] == "/" { "" } else { fields[3] };
        lines.push(format!("{place}={} {}{root} {} {options} {}", fields[end + 1], fields[end + 2], fields[5], kin.join(" ")));
    }
    lines.sort();
    lines.iter().map(|line| line.trim_end()).collect::<Vec<_>>().join("; ")
}

fn config(fd: i64, command: i32, key: &str, value: &str) -> String {
    let (key, value) = (c(key), c(value));
    let value = if command == SET_FLAG { 0 } else { value.as_ptr() as u64 };
    result(call!(fsconfig, fd, command, key.as_c_str(), value, 0))
}

fn command(fd: i64, command: i32) -> String {
    result(call!(fsconfig, fd, command, 0, 0, 0))
}

/// A tmpfs with these options, mounted nowhere.
fn made(options: &[(&str, &str)], attributes: u64) -> i64 {
    let context = must!(fsopen, c"tmpfs", 0);
    for (key, value) in options {
        assert_eq!(config(context, SET_STRING, key, value), "0");
    }
    must!(fsconfig, context, CREATE, 0, 0, 0);
    let mount = must!(fsmount, context, 0, attributes);
    must!(close, context);
    mount
}

fn put(fd: i64, place: &str) -> String {
    result(call!(move_mount, fd, c"", AT_FDCWD, c(place).as_c_str(), F_EMPTY))
}

fn new_tmpfs(t: &mut T) {
    prepare();
    let context = ok!(t, fsopen, c"tmpfs", 1);
    say!(t, "close-on-exec {}", call!(fcntl, context, libc::F_GETFD));
    let link = std::fs::read_link(format!("/proc/self/fd/{context}")).unwrap();
    say!(t, "{}", link.display());
    say!(t, "{}", config(context, SET_STRING, "source", "here"));
    say!(t, "{}", config(context, SET_STRING, "size", "64k"));
    say!(t, "{}", config(context, SET_STRING, "mode", "700"));
    say!(t, "{}", config(context, SET_FLAG, "inode64", ""));
    say!(t, "{}", command(context, CREATE));
    let mount = ok!(t, fsmount, context, 1, NOSUID | NODEV);
    say!(t, "close-on-exec {}", call!(fcntl, mount, libc::F_GETFD));
    say!(t, "{:#o}", call!(fcntl, mount, libc::F_GETFL));
    say!(t, "before: {}", shown());
    say!(t, "{}", put(mount, "a"));
    say!(t, "after: {}", shown());
    ok!(t, openat, mount, c"f", O_CREAT | O_RDWR, 0o644);
    say!(t, "{}", names("a"));
    must!(close, mount);
    must!(close, context);
    say!(t, "{} {}", names("a"), result(call!(umount2, c"a", 0)));
}

fn detached(t: &mut T) {
    prepare();
    let mount = made(&[], 0);
    ok!(t, openat, mount, c"f", O_CREAT | O_RDWR, 0o644);
    show!(t, mkdirat, mount, c"d", 0o755);
    show!(t, openat, mount, c"none", O_RDONLY, 0);
    ok!(t, openat, mount, c"../../f", O_RDONLY, 0);
    show!(t, read, mount, out(&mut [0u8; 8]), 8);
    show!(t, fchdir, mount);
    say!(t, "{}", names("."));
    let mut text = [0u8; 100];
    let n = call!(getcwd, out(&mut text), 100);
    say!(t, "{}", String::from_utf8_lossy(&text[..n.max(0) as usize]).trim_end_matches('\0'));
    let link = std::fs::read_link(format!("/proc/self/fd/{mount}")).unwrap();
    say!(t, "{}", link.display());
    show!(t, mount, c"t", c"d", c"tmpfs", 0, 0);
    show!(t, umount2, c(&format!("/proc/self/fd/{mount}")).as_c_str(), 2);
    let mut s = [0u64; 15];
    must!(fstatfs, mount, out(&mut s));
    say!(t, "{:#x}", s[0]);
}

fn ends_with_descriptor(t: &mut T) {
    prepare();
    let mount = made(&[], 0);
    let f = must!(openat, mount, c"f", O_CREAT | O_RDWR, 0o644);
    must!(openat, mount, c".", libc::O_PATH, 0);
    let d = must!(openat, mount, c".", O_RDONLY, 0);
    let other = must!(dup, mount);
    must!(close, mount);
    say!(t, "a copy of it is: {}", ok_or_error(call!(openat, other, c"f", O_RDWR, 0)));
    must!(close, other);
    say!(t, "an open file works: {}", write(f, "abc"));
    ok!(t, openat, d, c"f", O_RDWR, 0);
    say!(t, "cannot be put: {}", result(call!(move_mount, d, c"", AT_FDCWD, c"a", F_EMPTY)));
    tmpfs("b");
    must!(mkdir, c"b/x", 0o755);
    let tree = must!(open_tree, AT_FDCWD, c"b", CLONE);
    say!(t, "in use by a tree: {}", result(call!(umount2, c"b", 0)));
    ok!(t, openat, tree, c"x", O_RDONLY, 0);
    must!(close, tree);
    say!(t, "{}", shown());
}

fn open_errors(t: &mut T) {
    prepare();
    show!(t, fsopen, c"nosuchfs", 0);
    show!(t, fsopen, c"", 0);
    show!(t, fsopen, c"tmpfs", 2);
    show!(t, fsopen, c"tmpfs", -1);
    show!(t, fsopen, c(&"x".repeat(5000)).as_c_str(), 0);
    show!(t, fsopen, 0, 0);
}

fn mount_errors(t: &mut T) {
    prepare();
    let f = must!(fsopen, c"tmpfs", 0);
    must!(fsconfig, f, CREATE, 0, 0, 0);
    show!(t, fsmount, 99, 0, 0);
    show!(t, fsmount, open(".", O_RDONLY), 0, 0);
    show!(t, fsmount, f, 2, 0);
    show!(t, fsmount, f, 0, 0x100);
    show!(t, fsmount, f, 0, NOATIME | STRICTATIME);
    show!(t, fsmount, f, 0, 0x40);
    show!(t, fsmount, f, 0, IDMAP);
    ok!(t, fsmount, f, 0, NOATIME);
}

fn mount_attributes(t: &mut T) {
    prepare();
    for attributes in [0, RDONLY, NOSUID | NODEV | NOEXEC, NOATIME, STRICTATIME, NODIRATIME, STRICTATIME | NODIRATIME, NOSYMFOLLOW] {
        let m = made(&[], attributes);
        must!(move_mount, m, c"", AT_FDCWD, c"a", F_EMPTY);
        say!(t, "{attributes:#x}: {}", shown());
        say!(t, "{}", ok_or_error(call!(openat, m, c"f", O_CREAT | O_RDWR, 0o644)));
        must!(umount2, c"a", 2);
        must!(close, m);
    }
    let f = must!(fsopen, c"tmpfs", 0);
    say!(t, "{}", config(f, SET_FLAG, "ro", ""));
    must!(fsconfig, f, CREATE, 0, 0, 0);
    let m = must!(fsmount, f, 0, 0);
    must!(move_mount, m, c"", AT_FDCWD, c"a", F_EMPTY);
    say!(t, "{} {}", shown(), result(call!(mkdirat, m, c"d", 0o755)));
    say!(t, "{} {}", config(f, SET_FLAG, "rw", ""), command(f, RECONFIGURE));
    say!(t, "{} {}", shown(), result(call!(mkdirat, m, c"d", 0o755)));
}

fn picked(t: &mut T) {
    prepare();
    must!(mount, c"t", c"a", c"tmpfs", libc::MS_NOSUID, c"size=64k");
    must!(mount, c"a", c"b", 0, libc::MS_BIND, 0);
    let f = ok!(t, fspick, AT_FDCWD, c"a", 0);
    let link = std::fs::read_link(format!("/proc/self/fd/{f}")).unwrap();
    say!(t, "{} {}", link.display(), call!(fcntl, f, libc::F_GETFD));
    show!(t, fsmount, f, 0, 0);
    show!(t, fsconfig, f, CREATE, 0, 0, 0);
    say!(t, "{} {}", config(f, SET_STRING, "size", "8k"), config(f, SET_STRING, "what", "8k"));
    say!(t, "{:?}", read(f));
    say!(t, "{} {}", command(f, RECONFIGURE), shown());
    say!(t, "{} {} {}", config(f, SET_FLAG, "ro", ""), command(f, RECONFIGURE), shown());
    show!(t, mkdir, c"b/d", 0o755);
    say!(t, "nothing said: {} {}", command(f, RECONFIGURE), shown());
    say!(t, "{} {} {}", config(f, SET_FLAG, "rw", ""), command(f, RECONFIGURE), shown());
    let open = open("b/f", O_CREAT | O_WRONLY);
    say!(t, "written: {} {}", config(f, SET_FLAG, "ro", ""), command(f, RECONFIGURE));
    must!(close, open);
    let root = must!(open_tree, AT_FDCWD, c"b", 0);
    let f = ok!(t, fspick, root, c"", 8 | 1);
    say!(t, "{}", call!(fcntl, f, libc::F_GETFD));
    say!(t, "{} {} {}", config(f, SET_STRING, "source", "other"), command(f, RECONFIGURE), shown());
    say!(t, "mode: {} {}", config(f, SET_STRING, "mode", "0"), command(f, RECONFIGURE));
}

fn pick_errors(t: &mut T) {
    prepare();
    tmpfs("a");
    must!(mkdir, c"a/d", 0o755);
    must!(symlink, c"a", c"l");
    show!(t, fspick, AT_FDCWD, c"a/d", 0);
    show!(t, fspick, AT_FDCWD, c"none", 0);
    show!(t, fspick, AT_FDCWD, c"", 0);
    show!(t, fspick, 99, c"a", 0);
    show!(t, fspick, AT_FDCWD, c"a", 16);
    ok!(t, fspick, AT_FDCWD, c"l", 0);
    show!(t, fspick, AT_FDCWD, c"l", 2);
    ok!(t, fspick, AT_FDCWD, c"a", 4);
}

fn others(t: &mut T) {
    prepare();
    for kind in ["proc", "sysfs", "devpts", "mqueue", "ramfs", "cgroup2"] {
        let f = must!(fsopen, c(kind).as_c_str(), 0);
        let unknown = config(f, SET_STRING, "what", "1");
        must!(close, f);
        let f = must!(fsopen, c(kind).as_c_str(), 0);
        say!(t, "{kind}: {unknown}, {}, {}", command(f, CREATE), ok_or_error(call!(fsmount, f, 0, 0)));
    }
    let f = must!(fsopen, c"proc", 0);
    say!(t, "{} {}", config(f, SET_STRING, "hidepid", "0"), command(f, CREATE));
    let m = must!(fsmount, f, 0, NOSUID | NODEV | NOEXEC);
    say!(t, "{}", put(m, "a"));
    say!(t, "{} {}", shown(), content("a/self/comm").len() > 1);
}

fn privileges(t: &mut T) {
    prepare();
    tmpfs("a");
    let context = must!(fsopen, c"tmpfs", 0);
    let picked = must!(fspick, AT_FDCWD, c"a", 0);
    let m = made(&[], 0);
    let ended = as_nobody(|| {
        let t = &mut T::default();
        show!(t, fsopen, c"tmpfs", 0);
        show!(t, fsopen, c"nosuchfs", 4);
        show!(t, fspick, AT_FDCWD, c"none", 0);
        show!(t, open_tree, AT_FDCWD, c"none", CLONE);
        show!(t, move_mount, AT_FDCWD, c"none", AT_FDCWD, c"none", 8);
        show!(t, mount_setattr, AT_FDCWD, c"none", 0, 0, 32);
        show!(t, mount_setattr, AT_FDCWD, c"none", 0, 0, 1);
        show!(t, fsmount, 99, 8, 0);
        show!(t, fsconfig, context, SET_STRING, c"size", c"4k", 0);
        show!(t, fsconfig, context, CREATE, 0, 0, 0);
        show!(t, fsconfig, picked, SET_STRING, c"size", c"4k", 0);
        show!(t, fsconfig, picked, RECONFIGURE, 0, 0, 0);
        ok!(t, openat, m, c"f", O_CREAT | O_RDWR, 0o644);
    });
    say!(t, "{ended} {}", shown());
}

fn user_namespace(t: &mut T) {
    prepare();
    must!(mount, c"t", c"a", c"tmpfs", libc::MS_NOSUID | libc::MS_RDONLY, 0);
    must!(unshare, libc::CLONE_NEWUSER | libc::CLONE_NEWNS);
    let f = ok!(t, fsopen, c"tmpfs", 0);
    say!(t, "{} {}", config(f, SET_STRING, "size", "8k"), command(f, CREATE));
    let m = ok!(t, fsmount, f, 0, 0);
    say!(t, "{}", put(m, "b"));
    say!(t, "{} {}", config(f, SET_STRING, "size", "16k"), command(f, RECONFIGURE));
    say!(t, "what was there: {}", change("a", 0, attr(0, RDONLY, 0)));
    say!(t, "{}", change("a", 0, attr(0, NOSUID, 0)));
    say!(t, "{}", change("a", 0, attr(NOATIME, ATIME, 0)));
    say!(t, "{}", change("a", 0, attr(NOEXEC, 0, 0)));
    show!(t, move_mount, AT_FDCWD, c"a", AT_FDCWD, c"c", 0);
    let picked = ok!(t, fspick, AT_FDCWD, c"a", 0);
    say!(t, "{}", command(picked, RECONFIGURE));
    ok!(t, open_tree, AT_FDCWD, c"a", CLONE);
    ok!(t, fsopen, c"devpts", 0);
    let f = ok!(t, fsopen, c"devtmpfs", 0);
    say!(t, "{}", command(f, CREATE));
}

fn bad_addresses(t: &mut T) {
    prepare();
    tmpfs("a");
    let bad = hole();
    let f = must!(fsopen, c"tmpfs", 0);
    show!(t, fsopen, bad, 0);
    show!(t, fsconfig, f, SET_FLAG, bad, 0, 0);
    show!(t, fsconfig, f, SET_STRING, c"size", bad, 0);
    show!(t, fsconfig, f, SET_BINARY, c"size", bad, 10);
    show!(t, fsconfig, f, SET_PATH, c"size", bad, AT_FDCWD);
    show!(t, fspick, AT_FDCWD, bad, 0);
    show!(t, open_tree, AT_FDCWD, bad, 0);
    show!(t, open_tree, AT_FDCWD, bad, CLONE);
    show!(t, move_mount, AT_FDCWD, bad, AT_FDCWD, c"a", 0);
    show!(t, move_mount, AT_FDCWD, c"a", AT_FDCWD, bad, 0);
    show!(t, mount_setattr, AT_FDCWD, bad, 0, p(&attr(RDONLY, 0, 0)), 32);
    show!(t, mount_setattr, AT_FDCWD, c"a", 0, bad, 32);
    config(f, SET_STRING, "what", "1");
    show!(t, read, f, bad, 100);
}
