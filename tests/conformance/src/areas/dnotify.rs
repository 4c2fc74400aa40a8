//! `F_NOTIFY`: signals about directories.

use std::sync::atomic::Ordering;

use super::fcntl::{BAND, CODE, FD, note};
use crate::helpers::*;
use crate::test::Test;

pub const TESTS: &[Test] = tests![
    kinds: fcntl,
    once: fcntl,
    added: fcntl,
    ends: fcntl close dup2,
    errors: fcntl,
    beside_inotify: fcntl inotify_add_watch,
];

const F_SETSIG: i32 = 10;
const F_NOTIFY: i32 = 1026;
const ACCESS: u32 = 1;
const MODIFY: u32 = 2;
const CREATE: u32 = 4;
const DELETE: u32 = 8;
const RENAME: u32 = 0x10;
const ATTRIB: u32 = 0x20;
const MULTISHOT: u32 = 0x8000_0000;

/// How often was signalled since the last time, and for which descriptor.
fn told(fd: i64) -> String {
    let count = COUNT.swap(0, Ordering::Relaxed);
    if count == 0 {
        return "nothing".to_owned();
    }
    let code = CODE.load(Ordering::Relaxed);
    if code == 0x80 {
        return format!("{count} without more");
    }
    let same = i64::from(FD.load(Ordering::Relaxed)) == fd;
    format!("{count} code {code} band {:#x} its descriptor: {same}", BAND.load(Ordering::Relaxed))
}

/// The directory `d`, watched for `events` with a signal that tells more.
fn watched(events: u32) -> i64 {
    handle(libc::SIGIO, note, 0, 0);
    must!(mkdir, c"d", 0o755);
    file("d/old", "text");
    let d = open("d", libc::O_RDONLY);
    must!(fcntl, d, F_SETSIG, libc::SIGIO);
    must!(fcntl, d, F_NOTIFY, events);
    d
}

/// What is done in it, in this order.
fn things(t: &mut T, d: i64) {
    file("d/new", "");
    say!(t, "  create: {}", told(d));
    let new = open("d/new", libc::O_RDWR);
    say!(t, "  open: {}", told(d));
    write(new, "text");
    say!(t, "  write: {}", told(d));
    must!(lseek, new, 0, 0);
    read(new);
    say!(t, "  read: {}", told(d));
    must!(fchmod, new, 0o600);
    say!(t, "  fchmod: {}", told(d));
    must!(ftruncate, new, 0);
    say!(t, "  ftruncate: {}", told(d));
    must!(utimensat, libc::AT_FDCWD, c"d/new", 0, 0);
    say!(t, "  utimensat: {}", told(d));
    must!(close, new);
    say!(t, "  close: {}", told(d));
    must!(rename, c"d/new", c"d/other");
    say!(t, "  rename: {}", told(d));
    must!(rename, c"d/other", c"outside");
    say!(t, "  rename out: {}", told(d));
    must!(rename, c"outside", c"d/inside");
    say!(t, "  rename in: {}", told(d));
    must!(link, c"d/inside", c"d/link");
    say!(t, "  link: {}", told(d));
    must!(unlink, c"d/link");
    say!(t, "  unlink: {}", told(d));
    must!(mkdir, c"d/sub", 0o755);
    say!(t, "  mkdir: {}", told(d));
    file("d/sub/file", "");
    say!(t, "  create in a subdirectory: {}", told(d));
    must!(chmod, c"d", 0o700);
    say!(t, "  chmod of itself: {}", told(d));
    names("d");
    say!(t, "  readdir of itself: {}", told(d));
    must!(renameat2, libc::AT_FDCWD, c"d/old", libc::AT_FDCWD, c"d/inside", libc::RENAME_EXCHANGE);
    say!(t, "  exchange: {}", told(d));
}

fn kinds(t: &mut T) {
    for (name, events) in [
        ("access", ACCESS),
        ("modify", MODIFY),
        ("create", CREATE),
        ("delete", DELETE),
        ("rename", RENAME),
        ("attrib", ATTRIB),
    ] {
        let place = std::ffi::CString::new(name).unwrap();
        must!(mkdir, &*place, 0o755);
        must!(chdir, &*place);
        let d = watched(events | MULTISHOT);
        say!(t, "{name}");
        things(t, d);
        must!(close, d);
        must!(chdir, c"..");
    }
}

fn once(t: &mut T) {
    let d = watched(CREATE | DELETE);
    file("d/a", "");
    say!(t, "first: {}", told(d));
    file("d/b", "");
    must!(unlink, c"d/a");
    say!(t, "then: {}", told(d));
    show!(t, fcntl, d, F_NOTIFY, DELETE);
    must!(unlink, c"d/b");
    say!(t, "asked again: {}", told(d));
    must!(fcntl, d, F_SETSIG, 0);
    show!(t, fcntl, d, F_NOTIFY, CREATE);
    file("d/c", "");
    say!(t, "default signal: {}", told(d));
}

fn added(t: &mut T) {
    let d = watched(CREATE);
    show!(t, fcntl, d, F_NOTIFY, DELETE);
    file("d/a", "");
    must!(unlink, c"d/a");
    say!(t, "both, once: {}", told(d));
    show!(t, fcntl, d, F_NOTIFY, CREATE | MULTISHOT);
    show!(t, fcntl, d, F_NOTIFY, DELETE);
    file("d/a", "");
    must!(unlink, c"d/a");
    file("d/a", "");
    say!(t, "again and again: {}", told(d));
    let other = open("d", libc::O_RDONLY);
    must!(fcntl, other, F_SETSIG, libc::SIGIO);
    show!(t, fcntl, other, F_NOTIFY, CREATE);
    file("d/b", "");
    say!(t, "two files: {}", COUNT.swap(0, Ordering::Relaxed));
    let copy = must!(dup, d);
    show!(t, fcntl, copy, F_NOTIFY, CREATE);
    file("d/c", "");
    say!(t, "the last descriptor that asked: {}", told(copy));
}

fn ends(t: &mut T) {
    let d = watched(CREATE | MULTISHOT);
    show!(t, fcntl, d, F_NOTIFY, 0);
    file("d/a", "");
    say!(t, "no events: {}", told(d));
    show!(t, fcntl, d, F_NOTIFY, CREATE | MULTISHOT);
    show!(t, fcntl, d, F_NOTIFY, MULTISHOT);
    file("d/b", "");
    say!(t, "no events, more than once: {}", told(d));
    show!(t, fcntl, d, F_NOTIFY, CREATE | MULTISHOT);
    let copy = must!(dup, d);
    must!(close, copy);
    file("d/c", "");
    say!(t, "a copy closed: {}", told(d));
    show!(t, fcntl, d, F_NOTIFY, CREATE | MULTISHOT);
    say!(t, "a child closed it: {}", child(|| {
        must!(close, d);
        0
    }));
    file("d/e", "");
    say!(t, "still: {}", told(d));
    must!(dup2, 0, d);
    file("d/f", "");
    say!(t, "replaced: {}", told(d));
    let d = open("d", libc::O_RDONLY);
    must!(fcntl, d, F_NOTIFY, ATTRIB | DELETE | MULTISHOT);
    for name in ["old", "a", "b", "c", "e", "f"] {
        must!(unlink, &*c(&format!("d/{name}")));
    }
    say!(t, "all gone: {}", told(d));
    must!(rmdir, c"d");
    say!(t, "itself gone: {}", told(d));
}

fn errors(t: &mut T) {
    file("file", "");
    let f = open("file", libc::O_RDONLY);
    show!(t, fcntl, f, F_NOTIFY, CREATE);
    show!(t, fcntl, f, F_NOTIFY, 0);
    let (r, _w) = pipe(0);
    show!(t, fcntl, r, F_NOTIFY, CREATE);
    show!(t, fcntl, r, F_NOTIFY, MULTISHOT);
    let path = open(".", libc::O_PATH);
    show!(t, fcntl, path, F_NOTIFY, CREATE);
    show!(t, fcntl, 999, F_NOTIFY, CREATE);
    let d = open(".", libc::O_RDONLY);
    show!(t, fcntl, d, F_NOTIFY, 0x40);
    let own = call!(fcntl, d, libc::F_GETOWN) == must!(getpid);
    say!(t, "its owner is who asked: {own}");
}

fn beside_inotify(t: &mut T) {
    let d = watched(CREATE | MULTISHOT);
    let i = must!(inotify_init1, libc::O_NONBLOCK);
    show!(t, inotify_add_watch, i, c"d", libc::IN_ALL_EVENTS);
    file("d/a", "");
    say!(t, "{}", told(d));
    must!(rename, c"d/a", c"d/b");
    let mut events = [0u32; 64];
    let size = must!(read, i, out(&mut events), 256);
    let (mut at, mut masks) = (0, Vec::new());
    while at < size as usize / 4 {
        masks.push(format!("{:#x}", events[at + 1]));
        at += 4 + events[at + 3] as usize / 4;
    }
    say!(t, "{}", masks.join(" "));
    show!(t, inotify_rm_watch, i, 1);
    file("d/c", "");
    say!(t, "{}", told(d));
}
