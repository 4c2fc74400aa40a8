//! Mappings and what may be asked about them.

use crate::helpers::*;
use crate::sys::{Argument, peek, poke};
use crate::test::Test;

pub const TESTS: &[Test] = tests![
    map_errors: mmap,
    placement: mmap munmap,
    unmapping: munmap,
    protection: mprotect,
    past_the_end: mmap ftruncate,
    shared_file: mmap read write msync ftruncate,
    private_file: mmap write,
    syncing: msync,
    incore: mincore,
    advice_errors: madvise,
    dropping: madvise,
    fork_advice: madvise fork,
    populating: madvise,
    removing: madvise,
    remap: mremap,
    remap_errors: mremap,
    remap_keeps_old: mremap,
    locking: mlock mlock2 munlock mlockall munlockall,
    lock_limit: mlock mmap,
    address_space_limit: mmap brk mremap,
    data_limit: mmap brk mprotect,
    heap: brk,
    growing_down: mmap,
    advising_others: process_madvise,
    other_pages: remap_file_pages,
    policy: set_mempolicy get_mempolicy,
    policy_of_memory: mbind get_mempolicy,
    where_pages_are: move_pages migrate_pages,
    memfd_flags: memfd_create,
    seals: memfd_create fcntl ftruncate write fallocate,
    seal_write: memfd_create fcntl mmap mprotect,
    seal_mode: memfd_create fcntl fchmod,
    overcommit: mmap,
    bad_score: write,
];

const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;
const PRIVATE: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;

/// A mapping of a file's first pages.
fn map_file(fd: i64, count: usize, protection: i32, flags: i32) -> u64 {
    must!(mmap, 0, count * 4096, protection, flags, fd, 0) as u64
}

/// What a load at the address gives.
fn look(at: u64) -> String {
    child(|| i32::from(peek(at)))
}

/// What a store at the address gives.
fn touch(at: u64) -> String {
    child(|| {
        poke(at, 1);
        0
    })
}

/// Lines of a proc file that begin with one of the names.
fn lines(path: &str, names: &[&str]) -> String {
    let text = content(path);
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let wanted = text.lines().filter(|line| names.iter().any(|name| line.starts_with(name)));
    wanted.map(words).collect::<Vec<_>>().join(", ")
}

fn map_errors(t: &mut T) {
    show!(t, mmap, 0, 0, RW, PRIVATE, -1, 0);
    show!(t, mmap, 0, 4096, RW, libc::MAP_ANONYMOUS, -1, 0);
    show!(t, mmap, 0, 4096, RW, libc::MAP_PRIVATE, -1, 0);
    show!(t, mmap, 0, 4096, RW, PRIVATE, -1, 1);
    show!(t, mmap, 0, u64::MAX, RW, PRIVATE, -1, 0);
    show!(t, mmap, 0, 1u64 << 60, RW, PRIVATE, -1, 0);
    show!(t, mmap, 4097, 4096, RW, PRIVATE | libc::MAP_FIXED, -1, 0);
    show!(t, mmap, 1u64 << 60, 4096, RW, PRIVATE | libc::MAP_FIXED, -1, 0);
    show!(t, mmap, 0, 4096, RW, libc::MAP_SHARED_VALIDATE | libc::MAP_ANONYMOUS | 1 << 30, -1, 0);
    file("f", "x");
    let readable = open("f", libc::O_RDONLY);
    let writable = open("f", libc::O_WRONLY);
    show!(t, mmap, 0, 4096, RW, libc::MAP_SHARED, readable, 0);
    ok!(t, mmap, 0, 4096, RW, libc::MAP_PRIVATE, readable, 0);
    show!(t, mmap, 0, 4096, libc::PROT_WRITE, libc::MAP_SHARED, writable, 0);
    show!(t, mmap, 0, 4096, libc::PROT_READ, libc::MAP_PRIVATE, writable, 0);
    show!(t, mmap, 0, 4096, libc::PROT_READ, libc::MAP_PRIVATE, open(".", libc::O_RDONLY), 0);
    let (r, _w) = pipe(0);
    show!(t, mmap, 0, 4096, libc::PROT_READ, libc::MAP_PRIVATE, r, 0);
    show!(t, mmap, 0, 1 << 21, RW, PRIVATE | libc::MAP_HUGETLB, -1, 0);
    show!(t, mmap, 0, 4096, RW, libc::MAP_SHARED, open("f", libc::O_RDWR), i64::MAX & !4095);
}

fn placement(t: &mut T) {
    let at = pages(4);
    show!(t, mmap, at, 4096, RW, PRIVATE | libc::MAP_FIXED_NOREPLACE, -1, 0);
    must!(munmap, at + 4096, 4096);
    say!(t, "{}", call!(mmap, at + 4096, 4096, RW, PRIVATE | libc::MAP_FIXED_NOREPLACE, -1, 0) == (at + 4096) as i64);
    show!(t, mmap, at + 4096, 8192, RW, PRIVATE | libc::MAP_FIXED_NOREPLACE, -1, 0);
    poke(at + 8192, 7);
    say!(t, "{}", call!(mmap, at + 8192, 4096, RW, PRIVATE | libc::MAP_FIXED, -1, 0) == (at + 8192) as i64);
    say!(t, "replaced: {}", peek(at + 8192));
    say!(t, "hint in use: {}", call!(mmap, at, 4096, RW, PRIVATE, -1, 0) != at as i64);
    must!(munmap, at, 16384);
    say!(t, "hint free: {}", call!(mmap, at, 4096, RW, PRIVATE, -1, 0) == at as i64);
    say!(t, "low: {}", (0..1 << 31).contains(&call!(mmap, 0, 4096, RW, PRIVATE | libc::MAP_32BIT, -1, 0)));
    let nobody = as_nobody_map_low();
    say!(t, "page 0 as nobody: {nobody}");
}

fn as_nobody_map_low() -> String {
    as_nobody(|| {
        let result = call!(mmap, 0, 4096, RW, PRIVATE | libc::MAP_FIXED, -1, 0);
        call!(exit, (-result) as i32);
    })
}

fn unmapping(t: &mut T) {
    let at = pages(4);
    show!(t, munmap, at + 1, 4096);
    show!(t, munmap, at, 0);
    show!(t, munmap, at, u64::MAX);
    show!(t, munmap, at + 4096, 1);
    say!(t, "{} {} {}", look(at), look(at + 4096), look(at + 8192));
    show!(t, munmap, at, 16384);
    show!(t, munmap, at, 16384);
    show!(t, munmap, 1u64 << 60, 4096);
}

fn protection(t: &mut T) {
    let at = pages(4);
    poke(at, 9);
    show!(t, mprotect, at, 4096, libc::PROT_NONE);
    say!(t, "{} {}", look(at), look(at + 4096));
    show!(t, mprotect, at, 4096, libc::PROT_READ);
    say!(t, "{} {}", look(at), touch(at));
    show!(t, mprotect, at, 4096, RW);
    say!(t, "{} {}", touch(at), peek(at));
    show!(t, mprotect, at + 1, 4096, RW);
    show!(t, mprotect, at, 0, RW);
    show!(t, mprotect, at, 4096, 0x40);
    show!(t, mprotect, at, 4096, 0x0100_0000 | libc::PROT_READ);
    show!(t, mprotect, hole(), 4096, RW);
    must!(munmap, at + 8192, 4096);
    show!(t, mprotect, at, 16384, libc::PROT_READ);
    say!(t, "before the hole: {}, behind it: {}", touch(at + 4096), touch(at + 12288));
    file("f", "x");
    let map = map_file(open("f", libc::O_RDONLY), 1, libc::PROT_READ, libc::MAP_SHARED);
    show!(t, mprotect, map, 4096, RW);
}

fn past_the_end(t: &mut T) {
    file("f", "0123456789");
    let fd = open("f", libc::O_RDWR);
    let at = map_file(fd, 3, RW, libc::MAP_SHARED);
    say!(t, "in the last page: {} {}", look(at + 9), look(at + 4000));
    say!(t, "behind it: {} {}", look(at + 4096), touch(at + 8192));
    show!(t, ftruncate, fd, 8192);
    say!(t, "grown: {} {}", touch(at + 4096), look(at + 8192));
    show!(t, ftruncate, fd, 5);
    say!(t, "shrunk: {} {} {}", look(at + 4), look(at + 5), look(at + 4096));
    show!(t, ftruncate, fd, 10);
    say!(t, "{:?}", content("f"));
    let mut pipes = [0i32; 2];
    must!(pipe2, out(&mut pipes), 0);
    show!(t, write, pipes[1], at + 4096, 10);
    show!(t, write, pipes[1], at + 4090, 10);
    show!(t, read, fd, at + 4096, 1);
}

fn shared_file(t: &mut T) {
    file("f", "hello world");
    let fd = open("f", libc::O_RDWR);
    let at = map_file(fd, 1, RW, libc::MAP_SHARED);
    let again = map_file(fd, 1, libc::PROT_READ, libc::MAP_SHARED);
    poke(at, b'J');
    say!(t, "{:?} {}", content("f"), peek(again) as char);
    write(fd, "Y");
    say!(t, "{} {}", peek(at) as char, peek(again) as char);
    let ended = child(|| {
        poke(at + 1, b'o');
        0
    });
    say!(t, "{ended} {:?}", content("f"));
    poke(at + 11, b'!');
    say!(t, "behind the end: {:?}", content("f"));
    must!(ftruncate, fd, 12);
    say!(t, "{:?}", content("f").len());
    must!(close, fd);
    poke(at + 2, b'L');
    show!(t, msync, at, 4096, libc::MS_SYNC);
    say!(t, "{:?}", &content("f")[..5]);
}

fn private_file(t: &mut T) {
    file("f", "hello world");
    let fd = open("f", libc::O_RDWR);
    let at = map_file(fd, 1, RW, libc::MAP_PRIVATE);
    say!(t, "{}", peek(at) as char);
    write(fd, "J");
    say!(t, "not yet copied: {}", peek(at) as char);
    poke(at + 1, b'u');
    write(fd, "UV");
    say!(t, "copied: {}{} {:?}", peek(at + 1) as char, peek(at + 2) as char, content("f"));
}

fn syncing(t: &mut T) {
    let at = pages(2);
    show!(t, msync, at, 8192, libc::MS_SYNC);
    show!(t, msync, at, 8192, libc::MS_ASYNC | libc::MS_SYNC);
    show!(t, msync, at, 8192, 8);
    show!(t, msync, at, 8192, 0);
    show!(t, msync, at + 1, 4096, libc::MS_SYNC);
    show!(t, msync, at, 0, libc::MS_SYNC);
    show!(t, msync, hole() - 4096, 8192, libc::MS_ASYNC);
    show!(t, mlock, at, 4096);
    show!(t, msync, at, 8192, libc::MS_INVALIDATE);
}

fn incore(t: &mut T) {
    let at = pages(4);
    poke(at + 4096, 1);
    let mut vector = [9u8; 4];
    show!(t, mincore, at, 16384, out(&mut vector));
    say!(t, "{:?}", vector.map(|v| v & 1));
    show!(t, mincore, at, 16384, 0);
    show!(t, mincore, at + 1, 4096, out(&mut vector));
    show!(t, mincore, hole() - 4096, 8192, out(&mut vector));
    show!(t, mincore, at, 0, out(&mut vector));
    show!(t, mincore, 1u64 << 63, 4096, out(&mut vector));
    file("f", "");
    let fd = open("f", libc::O_RDWR);
    must!(ftruncate, fd, 12288);
    call!(pwrite64, fd, p(b"x"), 1, 4096);
    let map = map_file(fd, 3, RW, libc::MAP_SHARED);
    show!(t, mincore, map, 12288, out(&mut vector));
    say!(t, "{:?}", &vector[1..2]);
}

fn advice_errors(t: &mut T) {
    let at = pages(2);
    for advice in [0, 1, 2, 3, 4, 8, 10, 11, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23] {
        say!(t, "{advice}: {}", result(call!(madvise, at, 8192, advice)));
    }
    show!(t, madvise, at, 8192, 5);
    show!(t, madvise, at, 8192, 1000);
    show!(t, madvise, at + 1, 4096, libc::MADV_DONTNEED);
    show!(t, madvise, at, 0, libc::MADV_DONTNEED);
    show!(t, madvise, at, u64::MAX - 4096, libc::MADV_DONTNEED);
    show!(t, madvise, hole() - 4096, 8192, libc::MADV_DONTNEED);
    show!(t, madvise, hole() - 4096, 8192, libc::MADV_WILLNEED);
    show!(t, mlock, at, 4096);
    for advice in [4, 8, 20, 21, 24] {
        say!(t, "locked {advice}: {}", result(call!(madvise, at, 4096, advice)));
    }
    file("f", "x");
    let map = map_file(open("f", libc::O_RDWR), 1, RW, libc::MAP_PRIVATE);
    for advice in [3, 4, 8, 9, 18, 20] {
        say!(t, "file {advice}: {}", result(call!(madvise, map, 4096, advice)));
    }
}

fn dropping(t: &mut T) {
    let at = pages(3);
    for i in 0..3 {
        poke(at + i * 4096, 5);
    }
    must!(madvise, at + 4096, 4096, libc::MADV_DONTNEED);
    say!(t, "{} {} {}", peek(at), peek(at + 4096), peek(at + 8192));
    file("f", "abc");
    let map = map_file(open("f", libc::O_RDWR), 1, RW, libc::MAP_PRIVATE);
    poke(map, b'X');
    must!(madvise, map, 4096, libc::MADV_DONTNEED);
    say!(t, "{}", peek(map) as char);
    let shared = must!(mmap, 0, 4096, RW, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1, 0) as u64;
    poke(shared, 3);
    must!(madvise, shared, 4096, libc::MADV_DONTNEED);
    say!(t, "{}", peek(shared));
}

fn fork_advice(t: &mut T) {
    let at = pages(3);
    for i in 0..3 {
        poke(at + i * 4096, 5);
    }
    must!(madvise, at, 4096, libc::MADV_DONTFORK);
    must!(madvise, at + 4096, 4096, libc::MADV_WIPEONFORK);
    say!(t, "{} {} {}", look(at), look(at + 4096), look(at + 8192));
    must!(madvise, at, 8192, libc::MADV_DOFORK);
    must!(madvise, at, 8192, libc::MADV_KEEPONFORK);
    say!(t, "{} {}", look(at), look(at + 4096));
    let shared = must!(mmap, 0, 4096, RW, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1, 0) as u64;
    show!(t, madvise, shared, 4096, libc::MADV_WIPEONFORK);
}

fn populating(t: &mut T) {
    let at = pages(4);
    let mut vector = [0u8; 4];
    show!(t, madvise, at, 8192, libc::MADV_POPULATE_WRITE);
    must!(mincore, at, 16384, out(&mut vector));
    say!(t, "{vector:?}");
    must!(mprotect, at + 8192, 4096, libc::PROT_READ);
    show!(t, madvise, at + 8192, 4096, libc::MADV_POPULATE_WRITE);
    show!(t, madvise, at + 8192, 4096, libc::MADV_POPULATE_READ);
    must!(mprotect, at + 8192, 4096, libc::PROT_NONE);
    show!(t, madvise, at + 8192, 4096, libc::MADV_POPULATE_READ);
    show!(t, madvise, hole() - 4096, 8192, libc::MADV_POPULATE_READ);
    file("f", "x");
    let map = map_file(open("f", libc::O_RDWR), 2, RW, libc::MAP_SHARED);
    show!(t, madvise, map, 8192, libc::MADV_POPULATE_WRITE);
    let populated = must!(mmap, 0, 16384, RW, PRIVATE | libc::MAP_POPULATE, -1, 0) as u64;
    must!(mincore, populated, 16384, out(&mut vector));
    say!(t, "{vector:?}");
}

fn removing(t: &mut T) {
    file("f", &"x".repeat(12288));
    let fd = open("f", libc::O_RDWR);
    let at = map_file(fd, 3, RW, libc::MAP_SHARED);
    show!(t, madvise, at + 4096, 4096, libc::MADV_REMOVE);
    say!(t, "{} {} {}", peek(at), peek(at + 4096), peek(at + 8192));
    say!(t, "{}", content("f").bytes().filter(|b| *b == 0).count());
    show!(t, madvise, pages(1), 4096, libc::MADV_REMOVE);
    show!(t, madvise, map_file(fd, 1, RW, libc::MAP_PRIVATE), 4096, libc::MADV_REMOVE);
    show!(t, madvise, map_file(fd, 1, libc::PROT_READ, libc::MAP_SHARED), 4096, libc::MADV_REMOVE);
    let shared = must!(mmap, 0, 8192, RW, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1, 0) as u64;
    poke(shared, 3);
    poke(shared + 4096, 4);
    show!(t, madvise, shared, 4096, libc::MADV_REMOVE);
    say!(t, "{} {}", peek(shared), peek(shared + 4096));
}

fn remap(t: &mut T) {
    let at = pages(2);
    poke(at, 1);
    poke(at + 4096, 2);
    say!(t, "shrunk in place: {}", must!(mremap, at, 8192, 4096, 0) as u64 == at);
    say!(t, "{}", look(at + 4096));
    let moved = must!(mremap, at, 4096, 1 << 20, libc::MREMAP_MAYMOVE) as u64;
    say!(t, "{} {}", peek(moved), peek(moved + 4096));
    let target = pages(4);
    poke(target, 7);
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    say!(t, "{}", must!(mremap, moved, 8192, 8192, flags, target) as u64 == target);
    say!(t, "{} {} {}", peek(target), look(moved), look(moved + 8192));
    let shared = must!(mmap, 0, 4096, RW, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1, 0) as u64;
    let twin = must!(mremap, shared, 0, 4096, libc::MREMAP_MAYMOVE) as u64;
    poke(shared, 8);
    say!(t, "twin: {}", peek(twin));
}

fn remap_errors(t: &mut T) {
    let at = pages(4);
    let may = libc::MREMAP_MAYMOVE;
    show!(t, mremap, at + 1, 4096, 4096, 0);
    show!(t, mremap, at, 4096, 0, 0);
    show!(t, mremap, at, 4096, 8192, 0);
    show!(t, mremap, at, 4096, 8192, 64);
    show!(t, mremap, at, 0, 4096, may);
    show!(t, mremap, hole(), 4096, 8192, may);
    show!(t, mremap, hole() - 4096, 8192, 12288, may);
    show!(t, mremap, at, 4096, 4096, libc::MREMAP_FIXED, at + 8192);
    show!(t, mremap, at, 8192, 8192, may | libc::MREMAP_FIXED, at + 4096);
    show!(t, mremap, at, 4096, 4096, may | libc::MREMAP_FIXED, at + 1);
    show!(t, mremap, at, 4096, u64::MAX, may);
    show!(t, mremap, at, 4096, 1u64 << 60, may);
    show!(t, mremap, at, 4096, 8192, may | libc::MREMAP_DONTUNMAP);
    show!(t, mremap, at, 4096, 4096, libc::MREMAP_DONTUNMAP);
}

fn remap_keeps_old(t: &mut T) {
    let at = pages(2);
    poke(at, 4);
    poke(at + 4096, 5);
    let new = must!(mremap, at, 8192, 8192, libc::MREMAP_MAYMOVE | libc::MREMAP_DONTUNMAP) as u64;
    say!(t, "{} new {} {}, old {} {}", new != at, peek(new), peek(new + 4096), peek(at), peek(at + 4096));
    poke(at, 6);
    say!(t, "{} {}", peek(at), peek(new));
}

fn locking(t: &mut T) {
    let at = pages(8);
    show!(t, mlock, at + 10, 4096);
    say!(t, "{}", lines("/proc/self/status", &["VmLck"]));
    let mut vector = [0u8; 8];
    must!(mincore, at, 32768, out(&mut vector));
    say!(t, "{vector:?}");
    show!(t, mlock2, at + 16384, 8192, 1);
    must!(mincore, at, 32768, out(&mut vector));
    say!(t, "{vector:?} {}", lines("/proc/self/status", &["VmLck"]));
    show!(t, mlock2, at, 4096, 2);
    show!(t, mlock, hole() - 4096, 8192);
    show!(t, mlock, at, 0);
    show!(t, mlock, u64::MAX - 4095, 4096);
    must!(mprotect, at + 28672, 4096, libc::PROT_NONE);
    show!(t, mlock, at + 28672, 4096);
    show!(t, munlock, at, 32768);
    show!(t, munlock, hole(), 4096);
    show!(t, munlockall);
    say!(t, "{}", lines("/proc/self/status", &["VmLck"]));
    show!(t, mlockall, 0);
    show!(t, mlockall, 4);
    show!(t, mlockall, 8);
    show!(t, mlockall, 2);
    let fresh = pages(8);
    must!(mincore, fresh, 32768, out(&mut vector));
    say!(t, "future: {vector:?}");
    show!(t, mlockall, 2 | 4);
    let fresh = pages(8);
    must!(mincore, fresh, 32768, out(&mut vector));
    say!(t, "future, on fault: {vector:?}");
    must!(munlockall);
    say!(t, "{} in a child: {}", lines("/proc/self/status", &["VmLck"]), child(|| 0));
}

fn limit(resource: impl Argument, value: u64) {
    let limit = libc::rlimit { rlim_cur: value, rlim_max: libc::RLIM_INFINITY };
    must!(prlimit64, 0, resource, p(&limit), 0);
}

fn lock_limit(t: &mut T) {
    limit(libc::RLIMIT_MEMLOCK, 16384);
    let at = pages(8);
    let private = PRIVATE | libc::MAP_LOCKED;
    say!(t, "privileged: {}", result(call!(mlock, at, 32768)));
    must!(munlockall);
    must!(setresuid, 65534, 65534, 65534);
    show!(t, mlock, at, 32768);
    show!(t, mlock, at, 16384);
    show!(t, mlock, at + 8192, 8192);
    show!(t, mlock, at + 16384, 4096);
    show!(t, mmap, 0, 4096, RW, private, -1, 0);
    show!(t, mlockall, 1);
    limit(libc::RLIMIT_MEMLOCK, 0);
    show!(t, mlock, at, 4096);
    show!(t, mmap, 0, 4096, RW, private, -1, 0);
    show!(t, mlockall, 2);
    show!(t, munlock, at, 16384);
}

fn address_space_limit(t: &mut T) {
    let at = pages(1);
    limit(libc::RLIMIT_AS, 0);
    show!(t, mmap, 0, 4096, RW, PRIVATE, -1, 0);
    ok!(t, mmap, at, 4096, RW, PRIVATE | libc::MAP_FIXED, -1, 0);
    show!(t, mremap, at, 4096, 8192, libc::MREMAP_MAYMOVE);
    let end = must!(brk, 0);
    say!(t, "brk: {}", must!(brk, end + 8192) == end);
    limit(libc::RLIMIT_AS, u64::MAX);
    say!(t, "brk: {}", must!(brk, end + 8192) == end + 8192);
}

fn data_limit(t: &mut T) {
    const TOO_MUCH: u64 = 128 << 10;
    limit(libc::RLIMIT_DATA, 0);
    ok!(t, mmap, 0, 4096, RW, PRIVATE, -1, 0);
    // Room for the test's own heap.
    let status = lines("/proc/self/status", &["VmData"]);
    let used: u64 = status.split_whitespace().find_map(|word| word.parse().ok()).unwrap_or(0);
    limit(libc::RLIMIT_DATA, (used << 10) + TOO_MUCH / 2);
    show!(t, mmap, 0, TOO_MUCH, RW, PRIVATE, -1, 0);
    ok!(t, mmap, 0, TOO_MUCH, RW, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1, 0);
    let at = must!(mmap, 0, TOO_MUCH, libc::PROT_READ, PRIVATE, -1, 0);
    show!(t, mprotect, at, TOO_MUCH, RW);
    let end = must!(brk, 0) as u64;
    say!(t, "brk: {}", must!(brk, end + TOO_MUCH) as u64 == end);
}

fn heap(t: &mut T) {
    let end = must!(brk, 0) as u64;
    say!(t, "{}", must!(brk, end + 10000) as u64 == end + 10000);
    poke(end + 9999, 3);
    say!(t, "{}", must!(brk, end + 100) as u64 == end + 100);
    say!(t, "{}", must!(brk, end + 10000) as u64 == end + 10000);
    say!(t, "fresh: {}", peek(end + 9999));
    say!(t, "{}", must!(brk, 1) as u64 == end + 10000);
    say!(t, "{}", must!(brk, u64::MAX) == end as i64 + 10000);
}

fn growing_down(t: &mut T) {
    let at = pages(64);
    must!(munmap, at, 64 * 4096);
    let flags = PRIVATE | libc::MAP_GROWSDOWN | libc::MAP_FIXED;
    let stack = must!(mmap, at + 63 * 4096, 4096, RW, flags, -1, 0) as u64;
    say!(t, "{}", stack == at + 63 * 4096);
    let ended = child(|| {
        poke(stack - 1, 7);
        i32::from(peek(stack - 1))
    });
    say!(t, "{ended}");
    file("f", "x");
    show!(t, mmap, 0, 4096, RW, libc::MAP_PRIVATE | libc::MAP_GROWSDOWN, open("f", libc::O_RDWR), 0);
}

fn advising_others(t: &mut T) {
    let at = pages(4);
    let me = must!(pidfd_open, must!(getpid), 0);
    let ranges = [[at, 4096u64], [at + 8192, 8192]];
    show!(t, process_madvise, me, p(&ranges), 2, libc::MADV_COLD, 0);
    show!(t, process_madvise, me, p(&ranges), 2, libc::MADV_PAGEOUT, 0);
    show!(t, process_madvise, me, p(&ranges), 2, libc::MADV_WILLNEED, 0);
    show!(t, process_madvise, me, p(&ranges), 2, libc::MADV_DONTNEED, 0);
    show!(t, process_madvise, me, p(&ranges), 2, libc::MADV_COLD, 1);
    show!(t, process_madvise, 0, p(&ranges), 2, libc::MADV_COLD, 0);
    show!(t, process_madvise, me, 8, 2, libc::MADV_COLD, 0);
    show!(t, process_madvise, me, p(&ranges), 2000, libc::MADV_COLD, 0);
    let holes = [[at, 4096u64], [hole(), 4096]];
    show!(t, process_madvise, me, p(&holes), 2, libc::MADV_COLD, 0);
    show!(t, process_madvise, me, p(&holes[1]), 1, libc::MADV_COLD, 0);
}

fn other_pages(t: &mut T) {
    file("f", &["a", "b", "c"].map(|s| s.repeat(4096)).concat());
    let fd = open("f", libc::O_RDWR);
    let at = map_file(fd, 3, RW, libc::MAP_SHARED);
    show!(t, remap_file_pages, at, 4096, 0, 2, 0);
    say!(t, "{}{}{}", peek(at) as char, peek(at + 4096) as char, peek(at + 8192) as char);
    show!(t, remap_file_pages, at, 4096, 1, 2, 0);
    show!(t, remap_file_pages, at, 0, 0, 2, 0);
    show!(t, remap_file_pages, pages(1), 4096, 0, 0, 0);
    show!(t, remap_file_pages, hole(), 4096, 0, 0, 0);
}

fn policy(t: &mut T) {
    let mut mode = 9i32;
    let mut mask = [0u64; 16];
    show!(t, get_mempolicy, out(&mut mode), out(&mut mask), 1024, 0, 0);
    say!(t, "{mode} {}", mask[0]);
    for (mode, mask) in [(0, 0u64), (0, 1), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 3), (3, 1), (4, 0), (4, 1), (5, 1), (6, 1)] {
        say!(t, "{mode} {mask}: {}", result(call!(set_mempolicy, mode, p(&mask), 64)));
        let (mut got, mut nodes) = (9i32, [0u64; 16]);
        must!(get_mempolicy, out(&mut got), out(&mut nodes), 1024, 0, 0);
        say!(t, "  now {got} {}", nodes[0]);
    }
    let one = 1u64;
    show!(t, set_mempolicy, 2 | 1 << 15, p(&one), 64);
    must!(get_mempolicy, out(&mut mode), 0, 0, 0, 0);
    say!(t, "{mode} in a child: {}", child(|| {
        let mut mode = 0i32;
        call!(get_mempolicy, out(&mut mode), 0, 0, 0, 0);
        mode & 255
    }));
    show!(t, set_mempolicy, 2 | 3 << 14, p(&one), 64);
    show!(t, set_mempolicy, 2, 8, 64);
    show!(t, set_mempolicy, 2, p(&one), 1 << 20);
    show!(t, set_mempolicy, 0, 0, 0);
    show!(t, get_mempolicy, 0, out(&mut mask), 1024, 0, 4);
    say!(t, "{}", mask[0]);
    show!(t, get_mempolicy, 0, out(&mut mask), 8, 0, 4);
    show!(t, get_mempolicy, out(&mut mode), 0, 0, 0, 8);
    show!(t, get_mempolicy, out(&mut mode), 0, 0, 0, 1);
    show!(t, get_mempolicy, out(&mut mode), 0, 0, p(&one), 0);
    show!(t, get_mempolicy, 8, 0, 0, 0, 0);
}

fn policy_of_memory(t: &mut T) {
    let at = pages(4);
    let (zero, one) = (1u64, 2u64);
    let mut mode = 9i32;
    show!(t, mbind, at + 4096, 4096, 2, p(&zero), 64, 0);
    for page in [0, 1, 2] {
        must!(get_mempolicy, out(&mut mode), 0, 0, at + page * 4096, 2);
        say!(t, "{page}: {mode}");
    }
    show!(t, mbind, at, 4096, 2, p(&one), 64, 0);
    show!(t, mbind, at + 1, 4096, 2, p(&zero), 64, 0);
    show!(t, mbind, at, 4096, 2, p(&zero), 64, 8);
    show!(t, mbind, at, 4096, 9, p(&zero), 64, 0);
    show!(t, mbind, at, 0, 2, p(&zero), 64, 0);
    show!(t, mbind, hole() - 4096, 8192, 2, p(&zero), 64, 0);
    show!(t, mbind, at, 16384, 0, 0, 0, 3);
    show!(t, mbind, at, 16384, 2, 8, 64, 0);
    poke(at, 1);
    show!(t, get_mempolicy, out(&mut mode), 0, 0, at, 3);
    say!(t, "node {mode}");
    show!(t, get_mempolicy, out(&mut mode), 0, 0, hole(), 2);
}

fn where_pages_are(t: &mut T) {
    let at = pages(4);
    poke(at, 1);
    peek(at + 8192);
    let addresses = [at, at + 4096, at + 8192, hole()];
    let mut status = [9i32; 4];
    show!(t, move_pages, 0, 4, p(&addresses), 0, out(&mut status), 0);
    say!(t, "{status:?}");
    let nodes = [0i32; 4];
    status = [9; 4];
    show!(t, move_pages, 0, 1, p(&addresses), p(&nodes), out(&mut status), 2);
    say!(t, "{status:?}");
    show!(t, move_pages, 0, 1, p(&addresses), p(&[1i32]), out(&mut status), 2);
    show!(t, move_pages, 0, 1, p(&addresses), 0, out(&mut status), 8);
    show!(t, move_pages, 0, 1, 8, 0, out(&mut status), 0);
    show!(t, move_pages, 0, 1, p(&addresses), 0, 8, 0);
    show!(t, move_pages, 0, 0, 0, 0, 0, 0);
    show!(t, move_pages, 999_999, 1, p(&addresses), 0, out(&mut status), 0);
    let zero = 1u64;
    show!(t, migrate_pages, 0, 64, p(&zero), p(&zero));
    show!(t, migrate_pages, 0, 64, 8, p(&zero));
    show!(t, migrate_pages, 999_999, 64, p(&zero), p(&zero));
}

fn memfd_flags(t: &mut T) {
    show!(t, memfd_create, c"x", 1 << 20);
    show!(t, memfd_create, 8, 0);
    let long = c(&"x".repeat(250));
    show!(t, memfd_create, long.as_c_str(), 0);
    let fits = c(&"x".repeat(249));
    ok!(t, memfd_create, fits.as_c_str(), 0);
    let fd = must!(memfd_create, c"name", libc::MFD_CLOEXEC);
    show!(t, fcntl, fd, libc::F_GETFD);
    show!(t, fcntl, fd, libc::F_GET_SEALS);
    show!(t, fcntl, fd, libc::F_ADD_SEALS, libc::F_SEAL_WRITE);
    file("f", "");
    show!(t, fcntl, open("f", libc::O_RDWR), libc::F_GET_SEALS);
    let (r, _w) = pipe(0);
    show!(t, fcntl, r, libc::F_GET_SEALS);
}

fn seals(t: &mut T) {
    let fd = must!(memfd_create, c"x", libc::MFD_ALLOW_SEALING);
    must!(ftruncate, fd, 8192);
    show!(t, fcntl, fd, libc::F_GET_SEALS);
    show!(t, fcntl, fd, libc::F_ADD_SEALS, 1 << 20);
    show!(t, fcntl, fd, libc::F_ADD_SEALS, libc::F_SEAL_GROW);
    show!(t, ftruncate, fd, 12288);
    show!(t, pwrite64, fd, p(b"ab"), 2, 8191);
    show!(t, pwrite64, fd, p(b"ab"), 2, 8190);
    show!(t, fallocate, fd, 0, 8192, 10);
    show!(t, ftruncate, fd, 4096);
    show!(t, fcntl, fd, libc::F_ADD_SEALS, libc::F_SEAL_SHRINK);
    show!(t, ftruncate, fd, 100);
    show!(t, ftruncate, fd, 4096);
    show!(t, fcntl, fd, libc::F_ADD_SEALS, libc::F_SEAL_WRITE | libc::F_SEAL_SEAL);
    show!(t, fcntl, fd, libc::F_GET_SEALS);
    show!(t, pwrite64, fd, p(b"ab"), 2, 0);
    show!(t, fallocate, fd, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, 0, 4096);
    show!(t, fcntl, fd, libc::F_ADD_SEALS, libc::F_SEAL_GROW);
    let again = open(&format!("/proc/self/fd/{fd}"), libc::O_RDONLY);
    show!(t, fcntl, again, libc::F_ADD_SEALS, libc::F_SEAL_GROW);
    show!(t, fcntl, again, libc::F_GET_SEALS);
}

fn seal_write(t: &mut T) {
    let fd = must!(memfd_create, c"x", libc::MFD_ALLOW_SEALING);
    must!(ftruncate, fd, 4096);
    let at = map_file(fd, 1, RW, libc::MAP_SHARED);
    show!(t, fcntl, fd, libc::F_ADD_SEALS, libc::F_SEAL_WRITE);
    let future = 16;
    show!(t, fcntl, fd, libc::F_ADD_SEALS, future);
    poke(at, 3);
    show!(t, mprotect, at, 4096, libc::PROT_READ);
    show!(t, mprotect, at, 4096, RW);
    show!(t, pwrite64, fd, p(b"ab"), 2, 0);
    show!(t, mmap, 0, 4096, RW, libc::MAP_SHARED, fd, 0);
    ok!(t, mmap, 0, 4096, RW, libc::MAP_PRIVATE, fd, 0);
    let view = map_file(fd, 1, libc::PROT_READ, libc::MAP_SHARED);
    show!(t, mprotect, view, 4096, RW);
    must!(munmap, at, 4096);
    must!(munmap, view, 4096);
    show!(t, fcntl, fd, libc::F_ADD_SEALS, libc::F_SEAL_WRITE);
    show!(t, mmap, 0, 4096, RW, libc::MAP_SHARED, fd, 0);
    show!(t, fcntl, fd, libc::F_GET_SEALS);
}

fn seal_mode(t: &mut T) {
    let fd = must!(memfd_create, c"x", libc::MFD_ALLOW_SEALING);
    show!(t, fchmod, fd, 0o600);
    show!(t, fchmod, fd, 0o700);
}

fn overcommit(t: &mut T) {
    let total = lines("/proc/meminfo", &["MemTotal"]);
    let kib: u64 = total.split(' ').nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
    let more = kib * 1024 * 2;
    say!(t, "mode {}", content("/proc/sys/vm/overcommit_memory").trim());
    show!(t, mmap, 0, more, RW, PRIVATE, -1, 0);
    show!(t, mmap, 0, more, RW, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1, 0);
    ok!(t, mmap, 0, more, RW, PRIVATE | libc::MAP_NORESERVE, -1, 0);
    ok!(t, mmap, 0, more, libc::PROT_READ, PRIVATE, -1, 0);
}

fn bad_score(t: &mut T) {
    let write_to = |path: &str, text: &str| result(write(open(path, libc::O_WRONLY), text));
    say!(t, "{:?}", content("/proc/self/oom_score_adj"));
    for text in ["500", "1001", "-1001", "x", "-1000\n", "0"] {
        say!(t, "{text:?}: {}", write_to("/proc/self/oom_score_adj", text));
        say!(t, "{:?}", content("/proc/self/oom_score_adj"));
    }
}
