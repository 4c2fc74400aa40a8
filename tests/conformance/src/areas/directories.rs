//! Directories of a hundred thousand entries: making, listing, renaming and removing them takes as long for each at the
//! end as at the beginning, and a listing misses nothing that stays.

use std::time::{Duration, Instant};

use crate::helpers::*;
use crate::test::Test;

pub const TESTS: &[Test] = tests![
    #[long]
    large: mknod getdents64 unlink,
    large_renamed: rename getdents64,
    large_changing: getdents64 unlink rename,
    renamed_while_listed: getdents64 rename,
    large_overlay: mknod getdents64 unlink,
    positions: lseek getdents64,
    small_buffers: getdents64,
    half_a_buffer: getdents64,
];

const LARGE: usize = 100_000;
const MANY: usize = 20_000;

/// A tmpfs of its own with room for all of them.
fn prepare() {
    must!(mkdirat, AT_FDCWD, c"m", 0o755);
    must!(unshare, libc::CLONE_NEWNS);
    must!(mount, 0, c"/", 0, libc::MS_REC | libc::MS_PRIVATE, 0);
    must!(mount, c"t", c"m", c"tmpfs", 0, c"nr_inodes=200000");
    must!(chdir, c"m");
}

fn name(prefix: char, i: usize) -> std::ffi::CString {
    c(&format!("{prefix}{i:06}"))
}

fn make(prefix: char, i: usize) {
    must!(mknod, name(prefix, i).as_c_str(), 0o100_644, 0);
}

/// Does something for each number, and says whether a tenth of them never took many times what another did. (The machine
/// has other things to do: what took longest counts less one.)
fn linear(t: &mut T, what: &str, count: usize, each: impl Fn(usize)) {
    let tenths: Vec<Duration> = (0..10)
        .map(|tenth| {
            let start = Instant::now();
            (tenth * count / 10..(tenth + 1) * count / 10).for_each(&each);
            start.elapsed()
        })
        .collect();
    let mut sorted = tenths.clone();
    sorted.sort();
    let even = sorted[8] < sorted[1] * 6;
    say!(t, "{what}: {}", if even { "linear".to_owned() } else { format!("{tenths:?}") });
}

/// The names one call gives.
fn some(fd: i64, buffer: &mut [u8]) -> Vec<String> {
    let got = call!(getdents64, fd, out(buffer), buffer.len());
    let (mut at, mut names) = (0, Vec::new());
    while (at as i64) < got {
        let length = usize::from(u16::from_le_bytes([buffer[at + 16], buffer[at + 17]]));
        let text = &buffer[at + 19..at + length];
        let text = &text[..text.iter().position(|b| *b == 0).unwrap_or(text.len())];
        names.push(String::from_utf8_lossy(text).into_owned());
        at += length;
    }
    names
}

/// All names from where the descriptor is, without `.` and `..`.
fn rest(fd: i64) -> Vec<String> {
    let mut buffer = vec![0u8; 32768];
    let mut all = Vec::new();
    loop {
        let names = some(fd, &mut buffer);
        if names.is_empty() {
            all.retain(|name: &String| !name.starts_with('.'));
            return all;
        }
        all.extend(names);
    }
}

/// Whether these are the names with numbers below `count`, each once.
fn is_all(mut names: Vec<String>, prefix: char, count: usize) -> String {
    names.sort();
    let right = names.iter().enumerate().all(|(i, name)| *name == format!("{prefix}{i:06}"));
    format!("{} {}", names.len(), names.len() == count && right)
}

fn large(t: &mut T) {
    prepare();
    linear(t, "made", LARGE, |i| make('f', i));
    let d = open(".", O_RDONLY);
    say!(t, "{}", is_all(rest(d), 'f', LARGE));
    say!(t, "at the end: {:?}", rest(d));
    for i in 0..2000 {
        must!(access, name('f', i * 7919 % LARGE).as_c_str(), 0);
    }
    say!(t, "{}", result(call!(mknod, name('f', LARGE / 2).as_c_str(), 0o100_644, 0)));
    linear(t, "removed", LARGE, |i| {
        must!(unlink, name('f', i).as_c_str());
    });
    must!(lseek, d, 0, 0);
    say!(t, "{:?}", rest(d));
}

fn large_renamed(t: &mut T) {
    prepare();
    (0..MANY).for_each(|i| make('f', i));
    linear(t, "renamed", MANY, |i| {
        must!(rename, name('f', i).as_c_str(), name('g', i).as_c_str());
    });
    must!(mkdir, c"d", 0o755);
    linear(t, "moved", MANY, |i| {
        must!(rename, name('g', i).as_c_str(), c(&format!("d/h{i:06}")).as_c_str());
    });
    let d = open("d", O_RDONLY);
    say!(t, "{}", is_all(rest(d), 'h', MANY));
    show!(t, rmdir, c"d");
    say!(t, "{:?}", rest(open(".", O_RDONLY)));
}

/// What stays is listed once, whatever happens to others meanwhile.
fn large_changing(t: &mut T) {
    prepare();
    (0..MANY).for_each(|i| make('f', i));
    let d = open(".", O_RDONLY);
    let mut buffer = vec![0u8; 8192];
    let (mut seen, mut round) = (vec![0u8; MANY], 0);
    // Every eighth is removed, every eighth renamed, somewhere, while the listing goes on; and others come.
    let mut victims = (0..MANY / 8).map(|i| i * 7919 % (MANY / 8) * 8);
    loop {
        let names = some(d, &mut buffer);
        if names.is_empty() {
            break;
        }
        for number in names.iter().filter_map(|name| name.strip_prefix('f')?.parse::<usize>().ok()) {
            seen[number] += 1;
        }
        for victim in victims.by_ref().take(40) {
            call!(unlink, name('f', victim).as_c_str());
            call!(rename, name('f', victim + 4).as_c_str(), name('r', victim).as_c_str());
        }
        make('n', round);
        round += 1;
    }
    let stayed = |i: &usize| !i.is_multiple_of(4);
    say!(t, "once: {}", (0..MANY).filter(stayed).all(|i| seen[i] == 1));
    say!(t, "of the others none twice: {}", seen.iter().all(|n| *n <= 1));
    must!(lseek, d, 0, 0);
    victims.for_each(|victim| {
        call!(unlink, name('f', victim).as_c_str());
        call!(rename, name('f', victim + 4).as_c_str(), name('r', victim).as_c_str());
    });
    say!(t, "{}", rest(d).iter().filter(|name| !name.starts_with('n')).count());
}

/// The root of a container: an overlay.
fn large_overlay(t: &mut T) {
    const COUNT_OF: usize = 20_000;
    must!(mkdir, c"/large", 0o755);
    must!(chdir, c"/large");
    linear(t, "made", COUNT_OF, |i| make('f', i));
    let d = open(".", O_RDONLY);
    say!(t, "{}", is_all(rest(d), 'f', COUNT_OF));
    linear(t, "removed", COUNT_OF, |i| {
        must!(unlink, name('f', i).as_c_str());
    });
    say!(t, "{:?}", rest(open(".", O_RDONLY)));
    must!(chdir, c"/");
    show!(t, rmdir, c"/large");
}

/// What is renamed as it is listed is not listed again and again.
fn renamed_while_listed(t: &mut T) {
    for place in [".", "/renamed", "/usr"] {
        call!(mkdir, c(place).as_c_str(), 0o755);
        must!(chdir, c(place).as_c_str());
        (0..500).for_each(|i| make('f', i));
        let d = open(".", O_RDONLY);
        let (mut buffer, mut renamed) = (vec![0u8; 2048], 0);
        loop {
            let names = some(d, &mut buffer);
            if names.is_empty() || renamed > 5000 {
                break;
            }
            for name in names.iter().filter(|name| name.contains("f0")) {
                must!(rename, c(name).as_c_str(), c(&format!("x{name}")).as_c_str());
                renamed += 1;
            }
        }
        must!(lseek, d, 0, 0);
        let once = rest(d).iter().filter(|name| name.starts_with("xf0")).count();
        say!(t, "{renamed} {once}");
    }
}

/// A position from a listing leads back to where it was.
fn positions(t: &mut T) {
    (0..1000).for_each(|i| make('f', i));
    let d = open(".", O_RDONLY);
    let mut buffer = vec![0u8; 600];
    let mut marks = Vec::new();
    loop {
        let at = must!(lseek, d, 0, libc::SEEK_CUR);
        let names = some(d, &mut buffer);
        if names.is_empty() {
            break;
        }
        marks.push((at, names));
    }
    let back = |(at, names): &(i64, Vec<String>)| {
        must!(lseek, d, *at, 0);
        some(d, &mut vec![0u8; 600]) == *names
    };
    say!(t, "{}", marks.iter().rev().step_by(3).all(back));
    show!(t, lseek, d, -1, 0);
    ok!(t, lseek, d, i64::MAX, 0);
    say!(t, "{:?}", rest(d));
}

fn small_buffers(t: &mut T) {
    make('f', 0);
    must!(mknod, c(&"x".repeat(200)).as_c_str(), 0o100_644, 0);
    let d = open(".", O_RDONLY);
    let mut buffer = [0u8; 64];
    for size in [0, 1, 23, 24, 32, 64] {
        must!(lseek, d, 0, 0);
        say!(t, "{size}: {}", result(call!(getdents64, d, out(&mut buffer[..]), size)));
    }
    must!(lseek, d, 0, 0);
    let ends = (0..6).map(|_| result(call!(getdents64, d, out(&mut buffer[..]), 40)).replace("40", "32"));
    say!(t, "stops at the long one: {}", ends.last().unwrap_or_default());
    show!(t, getdents64, open("f000000", O_RDONLY), out(&mut buffer[..]), 64);
}

/// What lies before a bad page is read, and nothing of the directory is lost. (A record whose padding alone is on the bad page is
/// read on Linux, which does not write that; not here, and not tried.)
fn half_a_buffer(t: &mut T) {
    (0..300).for_each(|i| make('f', i));
    for before in [0, 10, 100, 290, 2100, 4000] {
        let d = open(".", O_RDONLY);
        let got = call!(getdents64, d, hole() - before, 8192);
        let mut names = rest(d);
        names.sort();
        names.dedup();
        // `.` and `..` are 24 bytes each, wherever they are, all others 32.
        let read = [0, 24, 48].into_iter().find(|dots| got >= *dots && (got - dots) % 32 == 0);
        let there = read.map(|dots| names.len() as i64 + (got - dots) / 32);
        say!(t, "{before}: {} {there:?}", if got < 0 { result(got) } else { (got / 100).to_string() });
        must!(close, d);
    }
}
