//! Capabilities: sets, securebits, files, execve.

use crate::helpers::*;
use crate::test::Test;

pub const TESTS: &[Test] = tests![
    sets: capset capget,
    bounding: prctl,
    ambient: prctl,
    securebits: prctl setresuid,
    keep: prctl setresuid,
    setfsuid_moves_some: setfsuid capget,
    file_attribute: setxattr getxattr removexattr,
    attribute_needs_right: setxattr,
    attribute_goes: write truncate chown,
    exec_of_root: execve,
    exec_of_user: execve,
    exec_with_file: execve setxattr,
    exec_set_id: execve chmod,
    exec_no_new_privs: execve prctl,
];

const PR_SET_KEEPCAPS: i32 = 8;
const PR_CAPBSET_READ: i32 = 23;
const PR_CAPBSET_DROP: i32 = 24;
const PR_GET_SECUREBITS: i32 = 27;
const PR_SET_SECUREBITS: i32 = 28;
const PR_SET_NO_NEW_PRIVS: i32 = 38;
const PR_CAP_AMBIENT: i32 = 47;
const SET: i32 = 1;
const RAISE: i32 = 2;
const LOWER: i32 = 3;
const CLEAR: i32 = 4;

const CHOWN: u32 = 0;
const SETUID: u32 = 7;
const SETPCAP: u32 = 8;
const NET_RAW: u32 = 13;

const VERSION: u32 = 0x2008_0522;
/// The capabilities Linux 6.1 has.
const ALL: u64 = (1 << 41) - 1;

#[repr(C)]
#[derive(Default, Clone, Copy)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Effective, permitted, inheritable.
fn get() -> [u64; 3] {
    let mut data = [Data::default(); 2];
    must!(capget, p(&[VERSION, 0]), out(&mut data));
    let join = |f: fn(&Data) -> u32| u64::from(f(&data[1])) << 32 | u64::from(f(&data[0]));
    [join(|d| d.effective), join(|d| d.permitted), join(|d| d.inheritable)]
}

fn set([e, p_, i]: [u64; 3]) -> i64 {
    let half =
        |n: u32| Data { effective: (e >> n) as u32, permitted: (p_ >> n) as u32, inheritable: (i >> n) as u32 };
    let data = [half(0), half(32)];
    call!(capset, p(&[VERSION, 0]), p(&data))
}

fn show(set: u64) -> String {
    match set & ALL {
        0 => "none".to_owned(),
        ALL => "all".to_owned(),
        some => format!("{some:x}"),
    }
}

fn show_all() -> String {
    let [e, p_, i] = get();
    format!("e={} p={} i={} a={}", show(e), show(p_), show(i), show(ambient_set()))
}

fn ambient_set() -> u64 {
    (0..41).filter(|n| call!(prctl, PR_CAP_AMBIENT, SET, *n, 0, 0) == 1).fold(0, |set, n| set | 1u64 << n)
}

fn sets(t: &mut T) {
    say!(t, "{}", show_all());
    let some = 1u64 << CHOWN | 1 << SETUID;
    say!(t, "effective beyond permitted: {}", result(set([some, 1, 0])));
    say!(t, "less: {}", result(set([1, some, 0])));
    say!(t, "{}", show_all());
    say!(t, "more: {}", result(set([1, some | 1 << NET_RAW, 0])));
    say!(t, "inheritable without the right: {}", result(set([1, some, 1 << NET_RAW])));
    say!(t, "inheritable: {}", result(set([1, some, some])));
    say!(t, "{}", show_all());
    let mut data = [Data::default(); 2];
    let mut bad = [0x1234u32, 0];
    show!(t, capget, out(&mut bad), out(&mut data));
    say!(t, "{:x}", bad[0]);
    show!(t, capget, p(&[VERSION, 99_999_999]), out(&mut data));
    show!(t, capset, p(&[VERSION, 1]), p(&data));
    show!(t, capget, p(&[VERSION, u32::MAX]), out(&mut data));
}

fn bounding(t: &mut T) {
    show!(t, prctl, PR_CAPBSET_READ, NET_RAW);
    show!(t, prctl, PR_CAPBSET_READ, 63);
    show!(t, prctl, PR_CAPBSET_DROP, 63);
    show!(t, prctl, PR_CAPBSET_DROP, NET_RAW);
    show!(t, prctl, PR_CAPBSET_READ, NET_RAW);
    say!(t, "{}", show_all());
    say!(t, "inheritable outside: {}", result(set([ALL, ALL, 1 << NET_RAW])));
    say!(t, "without the right: {}", result(set([ALL & !(1 << SETPCAP), ALL & !(1 << SETPCAP), 0])));
    show!(t, prctl, PR_CAPBSET_DROP, CHOWN);
    show!(t, prctl, PR_CAPBSET_DROP, 63);
}

fn ambient(t: &mut T) {
    show!(t, prctl, PR_CAP_AMBIENT, RAISE, NET_RAW, 0, 0);
    say!(t, "inheritable: {}", result(set([ALL, ALL, 1 << NET_RAW | 1 << CHOWN])));
    show!(t, prctl, PR_CAP_AMBIENT, RAISE, NET_RAW, 0, 0);
    show!(t, prctl, PR_CAP_AMBIENT, RAISE, CHOWN, 0, 0);
    show!(t, prctl, PR_CAP_AMBIENT, RAISE, CHOWN, 1, 0);
    show!(t, prctl, PR_CAP_AMBIENT, RAISE, 63, 0, 0);
    show!(t, prctl, PR_CAP_AMBIENT, SET, 63, 0, 0);
    show!(t, prctl, PR_CAP_AMBIENT, 9, 1, 0, 0);
    show!(t, prctl, PR_CAP_AMBIENT, CLEAR, 1, 0, 0);
    say!(t, "{}", show_all());
    say!(t, "less inheritable: {}", result(set([ALL, ALL, 1 << CHOWN])));
    say!(t, "{}", show_all());
    show!(t, prctl, PR_CAP_AMBIENT, LOWER, CHOWN, 0, 0);
    say!(t, "{}", show_all());
    show!(t, prctl, PR_SET_SECUREBITS, 1 << 6);
    show!(t, prctl, PR_CAP_AMBIENT, RAISE, CHOWN, 0, 0);
    show!(t, prctl, PR_CAP_AMBIENT, CLEAR, 0, 0, 0);
}

fn securebits(t: &mut T) {
    show!(t, prctl, PR_GET_SECUREBITS);
    show!(t, prctl, PR_SET_SECUREBITS, 1 << 9);
    show!(t, prctl, PR_SET_SECUREBITS, 1u64 << 32);
    show!(t, prctl, PR_SET_SECUREBITS, 0x0c);
    show!(t, prctl, PR_SET_SECUREBITS, 0x08);
    show!(t, prctl, PR_SET_SECUREBITS, 0x04);
    show!(t, prctl, PR_SET_SECUREBITS, 0x3c);
    show!(t, prctl, PR_SET_KEEPCAPS, 0);
    show!(t, prctl, PR_SET_KEEPCAPS, 2);
    // Without the fix-up, ids say nothing about capabilities.
    must!(setresuid, NOBODY, NOBODY, NOBODY);
    say!(t, "{}", show_all());
    must!(setresuid, 0, 0, 0);
    say!(t, "{}", show_all());
    show!(t, prctl, PR_GET_SECUREBITS);
}

fn keep(t: &mut T) {
    say!(
        t,
        "{}",
        child(|| {
            let t = &mut T::default();
            must!(setresuid, 0, NOBODY, 0);
            say!(t, "effective only: {}", show_all());
            must!(setresuid, 0, 0, 0);
            say!(t, "back: {}", show_all());
            must!(setresuid, NOBODY, NOBODY, NOBODY);
            say!(t, "all: {}", show_all());
            0
        })
    );
    must!(prctl, PR_SET_KEEPCAPS, 1);
    must!(setresuid, NOBODY, NOBODY, NOBODY);
    say!(t, "kept: {}", show_all());
    say!(t, "raised: {}", result(set([1 << SETUID, ALL, 0])));
    must!(setresuid, 0, 0, 0);
    say!(t, "{}", show_all());
}

fn setfsuid_moves_some(t: &mut T) {
    must!(setfsuid, NOBODY);
    say!(t, "{}", show_all());
    must!(setfsuid, 0);
    say!(t, "{}", show_all());
}

const NAME: &std::ffi::CStr = c"security.capability";

/// `struct vfs_cap_data`: revision 2 without a root, else 3.
fn attribute(effective: bool, permitted: u64, inheritable: u64, root: Option<u32>) -> Vec<u8> {
    let revision: u32 = if root.is_some() { 0x0300_0000 } else { 0x0200_0000 };
    let mut words = vec![revision | u32::from(effective), permitted as u32, inheritable as u32];
    words.extend([(permitted >> 32) as u32, (inheritable >> 32) as u32]);
    words.extend(root);
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

fn give(path: &str, value: &[u8]) -> i64 {
    call!(setxattr, c(path).as_c_str(), NAME, p(value), value.len(), 0)
}

fn attribute_of(path: &str) -> String {
    let mut buffer = [0u8; 64];
    match call!(getxattr, c(path).as_c_str(), NAME, out(&mut buffer), 64) {
        n if n >= 0 => buffer[..n as usize].iter().map(|b| format!("{b:02x}")).collect(),
        error => result(error),
    }
}

fn file_attribute(t: &mut T) {
    file("f", "x");
    say!(t, "none: {}", attribute_of("f"));
    say!(t, "two: {}", result(give("f", &attribute(true, 1 << NET_RAW, 0, None))));
    say!(t, "{}", attribute_of("f"));
    say!(t, "three: {}", result(give("f", &attribute(false, 1 << 40, 2, Some(1000)))));
    say!(t, "{}", attribute_of("f"));
    say!(t, "three of root: {}", result(give("f", &attribute(false, 1, 2, Some(0)))));
    say!(t, "{}", attribute_of("f"));
    say!(t, "short: {}", result(give("f", &attribute(false, 1, 2, None)[..12])));
    say!(t, "odd: {}", result(give("f", &attribute(false, 1, 2, None)[..19])));
    let mut one = attribute(false, 1, 2, None)[..12].to_vec();
    one[3] = 1;
    say!(t, "one: {}", result(give("f", &one)));
    say!(t, "empty: {}", result(give("f", &[])));
    show!(t, removexattr, c"f", NAME);
    show!(t, removexattr, c"f", NAME);
    must!(mkdirat, AT_FDCWD, c"d", 0o755);
    say!(t, "directory: {}", result(give("d", &attribute(true, 1, 0, None))));
}

fn attribute_needs_right(t: &mut T) {
    file("f", "x");
    must!(fchmodat, AT_FDCWD, c"f", 0o666);
    must!(chown, c"f", NOBODY, NOBODY);
    must!(fchmodat, AT_FDCWD, c".", 0o777);
    let value = attribute(true, 1, 0, None);
    say!(
        t,
        "{}",
        as_nobody(|| {
            let t = &mut T::default();
            say!(t, "set: {}", result(give("f", &value)));
            say!(t, "bad: {}", result(give("f", &value[..3])));
        })
    );
}

fn attribute_goes(t: &mut T) {
    let value = attribute(true, 1, 0, None);
    file("f", "text");
    must!(fchmodat, AT_FDCWD, c"f", 0o6755);
    give("f", &value);
    let fd = open("f", O_WRONLY);
    write(fd, "x");
    say!(t, "write: {}", attribute_of("f"));
    give("f", &value);
    must!(truncate, c"f", 1);
    say!(t, "truncate: {}", attribute_of("f"));
    give("f", &value);
    must!(fchmodat, AT_FDCWD, c"f", 0o4755);
    say!(t, "chmod: {}", attribute_of("f").len());
    must!(chown, c"f", NOBODY, NOBODY);
    say!(t, "chown: {}", attribute_of("f"));
    give("f", &value);
    open("f", O_WRONLY | libc::O_TRUNC);
    say!(t, "open: {}", attribute_of("f"));
    give("f", &value);
    must!(linkat, AT_FDCWD, c"f", AT_FDCWD, c"g", 0);
    say!(t, "link: {}", attribute_of("g").len());
}

/// Runs this program again, at `path`, to say what it has; the last argument makes it a probe.
fn probe(path: &str) -> i64 {
    call!(execve, c(path).as_c_str(), p(&[p(c"probe"), p(c"--capabilities"), 0]), p(&[0u64]))
}

/// What the program says when it is executed by [`probe`].
pub fn say_capabilities() {
    let t = &mut T::default();
    let (mut r, mut e, mut s) = (0u32, 0u32, 0u32);
    must!(getresuid, out(&mut r), out(&mut e), out(&mut s));
    let status = std::fs::read("/proc/self/auxv").unwrap_or_default();
    let words: Vec<u64> =
        status.chunks_exact(8).map(|w| u64::from_le_bytes(w.try_into().unwrap_or([0; 8]))).collect();
    let secure = words.chunks_exact(2).find(|pair| pair[0] == 23).map_or(9, |pair| pair[1]);
    let bits = must!(prctl, PR_GET_SECUREBITS);
    say!(t, "  uid {r} {e} {s} {} secure {secure} bits {bits:x}", show_all());
}

/// A copy of this program with an owner and a mode.
fn program(name: &str, owner: u32, mode: u32) {
    std::fs::copy("/proc/self/exe", name).expect("a copy");
    must!(chown, c(name).as_c_str(), owner, owner);
    must!(fchmodat, AT_FDCWD, c(name).as_c_str(), mode);
    must!(fchmodat, AT_FDCWD, c".", 0o755);
}

fn run(t: &mut T, what: &str, path: &str, before: impl FnOnce()) {
    say!(t, "{what}:");
    let ended = child(|| {
        before();
        let error = probe(path);
        say!(&mut T::default(), "  {}", result(error));
        1
    });
    say!(t, "  {ended}");
}

fn become_nobody() {
    must!(setgroups, 0, 0);
    must!(setresgid, NOBODY, NOBODY, NOBODY);
    must!(setresuid, NOBODY, NOBODY, NOBODY);
}

fn exec_of_root(t: &mut T) {
    program("p", 0, 0o755);
    run(t, "root", "p", || {});
    run(t, "with less", "p", || {
 set([1, 1, 0]);
 });
    run(t, "bounded", "p", || {
 must!(prctl, PR_CAPBSET_DROP, NET_RAW);
 });
    run(t, "bounded, inherits", "p", || {
        set([ALL, ALL, 1 << NET_RAW]);
        must!(prctl, PR_CAPBSET_DROP, NET_RAW);
    });
    run(t, "real only", "p", || {
 must!(setresuid, 0, NOBODY, 0);
 });
    run(t, "effective only", "p", || {
 must!(setresuid, NOBODY, 0, 0);
 });
    run(t, "no root", "p", || {
 must!(prctl, PR_SET_SECUREBITS, 3);
 });
    run(t, "no root, ambient", "p", || {
        set([ALL, ALL, 1]);
        must!(prctl, PR_CAP_AMBIENT, RAISE, CHOWN, 0, 0);
        must!(prctl, PR_SET_SECUREBITS, 0x11);
    });
}

fn exec_of_user(t: &mut T) {
    program("p", 0, 0o755);
    run(t, "nobody", "p", become_nobody);
    run(t, "kept", "p", || {
        must!(prctl, PR_SET_KEEPCAPS, 1);
        become_nobody();
        set([ALL, ALL, ALL]);
    });
    run(t, "ambient", "p", || {
        must!(prctl, PR_SET_KEEPCAPS, 1);
        become_nobody();
        set([ALL, ALL, 3]);
        must!(prctl, PR_CAP_AMBIENT, RAISE, CHOWN, 0, 0);
    });
}

fn exec_with_file(t: &mut T) {
    program("p", 0, 0o755);
    let set_file = |effective, permitted, inheritable, root| {
        must!(setxattr, c"p", NAME, p(&attribute(effective, permitted, inheritable, root)[..]), {
            if root.is_some() { 24 } else { 20 }
        }, 0);
    };
    set_file(true, 1 << NET_RAW, 0, None);
    run(t, "effective", "p", become_nobody);
    run(t, "root", "p", || {});
    run(t, "bounded", "p", || {
        must!(prctl, PR_CAPBSET_DROP, NET_RAW);
        become_nobody();
    });
    run(t, "ambient", "p", || {
        must!(prctl, PR_SET_KEEPCAPS, 1);
        become_nobody();
        set([ALL, ALL, 3]);
        must!(prctl, PR_CAP_AMBIENT, RAISE, CHOWN, 0, 0);
    });
    set_file(false, 1 << NET_RAW, 0, None);
    run(t, "permitted", "p", become_nobody);
    run(t, "permitted, bounded", "p", || {
        must!(prctl, PR_CAPBSET_DROP, NET_RAW);
        become_nobody();
    });
    set_file(true, 0, 1 << CHOWN | 1 << SETUID, None);
    run(t, "inherits", "p", || {
        set([ALL, ALL, 1 << CHOWN]);
        become_nobody();
    });
    set_file(true, 1 << CHOWN, 0, Some(1000));
    run(t, "another root's", "p", become_nobody);
    set_file(true, 0, 0, None);
    run(t, "empty", "p", become_nobody);
    run(t, "empty, root", "p", || {});
    set_file(true, 1 << NET_RAW, 0, None);
    must!(fchmodat, AT_FDCWD, c"p", 0o4755);
    run(t, "set-user-ID root too", "p", become_nobody);
}

fn exec_set_id(t: &mut T) {
    program("p", 0, 0o4755);
    run(t, "root's", "p", become_nobody);
    run(t, "root's, no root", "p", || {
        must!(prctl, PR_SET_SECUREBITS, 1);
        become_nobody();
    });
    must!(chown, c"p", NOBODY, NOBODY);
    must!(fchmodat, AT_FDCWD, c"p", 0o4755);
    run(t, "nobody's", "p", || {});
    must!(fchmodat, AT_FDCWD, c"p", 0o2755);
    run(t, "group", "p", || {});
    run(t, "group, keeps ambient not", "p", || {
        must!(prctl, PR_SET_SECUREBITS, 1);
        set([ALL, ALL, 1]);
        must!(prctl, PR_CAP_AMBIENT, RAISE, CHOWN, 0, 0);
    });
}

fn exec_no_new_privs(t: &mut T) {
    let no_new_privs = || {
 must!(prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
 };
    program("p", 0, 0o4755);
    run(t, "set-user-ID", "p", || {
        no_new_privs();
        become_nobody();
    });
    run(t, "root with less", "p", || {
        no_new_privs();
        set([1, 3, 0]);
    });
    run(t, "effective root", "p", || {
        no_new_privs();
        must!(setresuid, NOBODY, 0, 0);
    });
    must!(fchmodat, AT_FDCWD, c"p", 0o755);
    give("p", &attribute(true, 1 << NET_RAW, 0, None));
    run(t, "file", "p", || {
        no_new_privs();
        become_nobody();
    });
    run(t, "file, has it", "p", || {
        no_new_privs();
        must!(prctl, PR_SET_KEEPCAPS, 1);
        become_nobody();
    });
}
