//! Names: of every kind, and what cannot be one.

use super::*;

pub(super) fn kinds(t: &mut T) {
    for kind in [0, 1, 2, 3, 4, 5, 6, 10, 11, 15, 0x10] {
        ok!(t, socket, UNIX, kind, 0);
    }
    for protocol in [1, 2, -1] {
        ok!(t, socket, UNIX, STREAM, protocol);
    }
    for family in [-1, 46, 99] {
        ok!(t, socket, family, STREAM, 0);
    }
    ok!(t, socket, 99, 15, 0);
    ok!(t, socket, UNIX, STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0);
    let mut s = [0i32; 2];
    show!(t, socketpair, UNIX, 3, 0, out(&mut s));
    say!(t, "{}", get(s[0], libc::SO_TYPE));
    show!(t, socketpair, UNIX, STREAM, 0, 8);
    show!(t, fcntl, socket(STREAM), libc::F_GETFL);
}

pub(super) fn names(t: &mut T) {
    let a = socket(STREAM);
    say!(t, "{} | {}", name_of(a), peer_of(a));
    say!(t, "{} {}", result(bind(a, "path")), name_of(a));
    let b = socket(STREAM);
    say!(t, "{} {}", result(bind(b, "@conformance.names")), name_of(b));
    let s = pair(STREAM);
    say!(t, "{} | {}", name_of(s[0]), peer_of(s[0]));
    let (mut bytes, mut len) = ([7u8; 16], 4i32);
    show!(t, getsockname, a, out(&mut bytes), out(&mut len));
    say!(t, "{len} {:?}", &bytes[..6]);
    len = -1;
    show!(t, getsockname, a, out(&mut bytes), out(&mut len));
    let c_ = socket(DGRAM);
    show!(t, bind, c_, p(&1u16), 2);
    say!(t, "{}", name_of(c_).len());
    say!(t, "{:o}", std::os::unix::fs::MetadataExt::mode(&std::fs::metadata("path").expect("it")));
}

pub(super) fn bind_errors(t: &mut T) {
    let a = socket(STREAM);
    show!(t, bind, a, p(&[1u8, 0]), 0);
    show!(t, bind, a, p(&[1u8, 0]), 1);
    show!(t, bind, a, p(&[2u8, 0, 1, 1]), 4);
    show!(t, bind, a, p(&[1u8; 200]), 111);
    show!(t, bind, a, p(&[1u8; 200]), 129);
    show!(t, bind, a, p(&[1u8; 200]), -1);
    file("f", "x");
    say!(t, "a file: {}", result(bind(a, "f")));
    say!(t, "no directory: {}", result(bind(a, "none/x")));
    say!(t, "{}", result(bind(a, "s")));
    say!(t, "twice: {}", result(bind(a, "t")));
    let b = socket(STREAM);
    say!(t, "taken: {}", result(bind(b, "s")));
    say!(t, "nobody listens: {}", result(connect(b, "s")));
    say!(t, "a file: {}", result(connect(b, "f")));
    say!(t, "nothing: {}", result(connect(b, "none")));
    say!(t, "nothing: {}", result(connect(b, "@conformance.none")));
    show!(t, connect, b, p(&[0u8, 0]), 2);
    show!(t, connect, b, p(&[1u8, 0]), 2);
    show!(t, listen, b, 5);
    show!(t, listen, socket(DGRAM), 5);
    show!(t, accept, a, 0, 0);
    show!(t, accept, socket(DGRAM), 0, 0);
    show!(t, accept4, a, 0, 0, 1);
    show!(t, connect, 99, p(&[1u8, 0]), 2);
}

pub(super) fn not_sockets(t: &mut T) {
    let (r, _w) = pipe(0);
    let a = address("x");
    show!(t, bind, r, p(&a[..]), a.len());
    show!(t, listen, r, 1);
    show!(t, connect, r, p(&a[..]), a.len());
    show!(t, accept, r, 0, 0);
    show!(t, shutdown, r, 9);
    show!(t, getsockname, r, 8, 8);
    show!(t, sendto, r, p("x"), 1, 0, 0, 0);
    show!(t, recvfrom, r, out(&mut [0u8; 4]), 4, 0, 0, 0);
    show!(t, setsockopt, r, SOL, 2, p(&1i32), 4);
    show!(t, sendmsg, 99, 0, 0);
    let s = pair(STREAM);
    show!(t, lseek, s[0], 0, 1);
    show!(t, pread64, s[0], out(&mut [0u8; 4]), 4, 0);
    show!(t, ioctl, s[0], 0x1234, 0);
    show!(t, openat, AT_FDCWD, c(&format!("/proc/self/fd/{}", s[0])).as_c_str(), O_RDWR, 0);
}

/// A name the kernel chooses: five hexadecimal digits, of which nobody has the same.
pub(super) fn autobind(t: &mut T) {
    for kind in [STREAM, DGRAM, SEQ] {
        let a = socket(kind);
        show!(t, bind, a, p(&1u16), 2);
        let (mut bytes, mut len) = ([0u8; 128], 128i32);
        must!(getsockname, a, out(&mut bytes), out(&mut len));
        say!(t, "{len} {} {}", bytes[2], bytes[3..8].iter().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase()));
        show!(t, bind, a, p(&1u16), 2);
        say!(t, "{}", result(bind(a, "@conformance.again")));
    }
    // Who wants to be known gets one.
    let (a, b) = (socket(DGRAM), socket(DGRAM));
    bind(a, "@conformance.auto");
    let to = address("@conformance.auto");
    show!(t, sendto, b, p("x"), 1, 0, p(&to[..]), to.len());
    say!(t, "{}", name_of(b).len());
    set(b, libc::SO_PASSCRED, 1);
    show!(t, sendto, b, p("x"), 1, 0, p(&to[..]), to.len());
    say!(t, "{}", name_of(b).len());
    for kind in [STREAM, DGRAM] {
        let c_ = socket(kind);
        set(c_, libc::SO_PASSCRED, 1);
        say!(t, "{} {}", ok_or_error(connect(c_, "@conformance.auto")), name_of(c_).len());
    }
    let many: std::collections::BTreeSet<String> = (0..100)
        .map(|_| {
            let s = socket(DGRAM);
            must!(bind, s, p(&1u16), 2);
            name_of(s)
        })
        .collect();
    say!(t, "{}", many.len());
    // Abstract names are as long as they are said to be, whatever is in them.
    for name in ["@", "@a@b", "@conformance.long.name.with.a.lot.in.it"] {
        let (a, b) = (socket(DGRAM), socket(DGRAM));
        let bytes: Vec<u8> = address(name).iter().enumerate().map(|(i, c)| if i > 2 && *c == b'@' { 0 } else { *c }).collect();
        say!(t, "{name}: {} {}", result(call!(bind, a, p(&bytes[..]), bytes.len())), name_of(a));
        say!(t, "one byte more: {}", result(call!(bind, b, p(&[&bytes[..], &[0]].concat()[..]), bytes.len() + 1)));
    }
}

pub(super) fn paths(t: &mut T) {
    let a = socket(DGRAM);
    let bind_raw = |fd: i32, bytes: &[u8], len: usize| {
        let whole = [&1u16.to_ne_bytes()[..], bytes].concat();
        result(call!(bind, fd, p(&whole[..]), len + 2))
    };
    let name = "x".repeat(108);
    say!(t, "as long as can be: {} {}", bind_raw(a, name.as_bytes(), 108), name_of(a));
    say!(t, "{}", crate::helpers::names(".") == name);
    let b = socket(DGRAM);
    say!(t, "not terminated: {} {}", bind_raw(b, b"shortest", 5), name_of(b));
    let c_ = socket(DGRAM);
    say!(t, "with more after it: {} {}", bind_raw(c_, b"more\0and more", 13), name_of(c_));
    let d = socket(DGRAM);
    must!(unlink, c"short");
    say!(t, "unlinked: {} {}", result(bind(d, "short")), result(connect(socket(DGRAM), "short")));
    must!(rename, c"more", c"moved");
    say!(t, "moved: {} {}", result(connect(socket(DGRAM), "moved")), name_of(c_));
    must!(link, c"moved", c"linked");
    say!(t, "linked: {}", result(connect(socket(DGRAM), "linked")));
    must!(symlink, c"moved", c"sym");
    say!(t, "by a link: {} {}", result(connect(socket(DGRAM), "sym")), result(bind(socket(DGRAM), "sym")));
    must!(symlink, c"nowhere", c"dangling");
    say!(t, "dangling: {} {}", result(connect(socket(DGRAM), "dangling")), result(bind(socket(DGRAM), "dangling")));
    must!(close, c_);
    say!(t, "closed: {} {}", result(connect(socket(DGRAM), "moved")), result(bind(socket(DGRAM), "moved")));
    must!(mkdir, c"dir", 0o755);
    for name in ["dir", "dir/", "dir/in/x", "dir/x/", "", "moved/x", "/"] {
        let s = socket(STREAM);
        say!(t, "{name:?}: {} {}", result(bind(s, name)), result(connect(s, name)));
    }
    must!(chdir, c"dir");
    say!(t, "from elsewhere: {}", result(connect(socket(DGRAM), "../short")));
    show!(t, openat, AT_FDCWD, c"../short", O_RDWR, 0);
    ok!(t, openat, AT_FDCWD, c"../short", libc::O_PATH, 0);
}

/// To connect, one has to be allowed to write.
pub(super) fn path_access(t: &mut T) {
    let a = socket(DGRAM);
    must!(umask, 0o27);
    say!(t, "{}", result(bind(a, "s")));
    let mode = |path: &str| std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(path).unwrap());
    say!(t, "{:o}", mode("s"));
    must!(mkdir, c"closed", 0o700);
    must!(fchmod, a, 0o600);
    let b = socket(DGRAM);
    say!(t, "{} {:o}", result(bind(b, "closed/s")), mode("closed/s"));
    for (bits, path) in [(0o777, "s"), (0o666, "s"), (0o444, "s"), (0o222, "s"), (0o200, "s"), (0o777, "closed/s")] {
        must!(chmod, c(path).as_c_str(), bits);
        as_nobody(|| {
            let s = socket(DGRAM);
            let to = address(path);
            let sent = call!(sendto, s, p("x"), 1, DONTWAIT, p(&to[..]), to.len());
            say!(&mut T::default(), "{path} {bits:o}: {} {}", result(connect(s, path)), result(sent));
        });
        recv(a, 9, DONTWAIT);
    }
    as_nobody(|| {
        say!(&mut T::default(), "{}", result(bind(socket(DGRAM), "closed/mine")));
    });
    must!(mkdir, c"ro", 0o755);
    must!(unshare, libc::CLONE_NEWNS);
    must!(mount, 0, c"/", 0, libc::MS_REC | libc::MS_PRIVATE, 0);
    must!(mount, c"t", c"ro", c"tmpfs", 0, 0);
    say!(t, "{}", result(bind(socket(DGRAM), "ro/a")));
    must!(mount, c"t", c"ro", 0, libc::MS_REMOUNT | libc::MS_RDONLY, 0);
    say!(t, "read-only: {} {}", result(bind(socket(DGRAM), "ro/b")), result(connect(socket(DGRAM), "ro/a")));
}
