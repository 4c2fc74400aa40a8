//! Mappings that several processes see, and promises of memory.

use crate::helpers::*;
use crate::sys::{peek, poke, shared};
use crate::test::Test;
use std::sync::atomic::Ordering;

pub const TESTS: &[Test] = tests![
    two_processes: mmap write msync,
    truncated_by_another: mmap ftruncate,
    private_and_truncated: mmap ftruncate,
    punched: mmap fallocate,
    replaced: mmap rename,
    file_gone: mmap unlink,
    release_errors: process_mrelease,
    moved_onto_another: mremap,
    moved_shared_file: mremap,
    protection_keys: pkey_mprotect,
    protection_across: mprotect,
    strict_promises: mmap,
    growing_limit: mmap setrlimit,
];

const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;
const PRIVATE: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;

fn map_file(fd: i64, count: usize, protection: i32, flags: i32) -> u64 {
    must!(mmap, 0, count * 4096, protection, flags, fd, 0) as u64
}

fn look(at: u64) -> String {
    child(|| i32::from(peek(at)))
}

fn text(at: u64, len: u64) -> String {
    (at..at + len).map(|at| peek(at) as char).collect()
}

/// Waits until the word has the value.
fn until(word: usize, value: u32) {
    while shared_word(word).load(Ordering::SeqCst) != value {
        sleep_ms(1);
    }
}

fn shared_word(index: usize) -> &'static std::sync::atomic::AtomicU32 {
    static WORDS: std::sync::OnceLock<&'static [std::sync::atomic::AtomicU32]> = std::sync::OnceLock::new();
    &WORDS.get_or_init(shared)[index]
}

fn two_processes(t: &mut T) {
    file("f", "0123456789");
    shared_word(0);
    let pid = fork(|| {
        let fd = open("f", libc::O_RDWR);
        let at = map_file(fd, 1, RW, libc::MAP_SHARED);
        let private = map_file(fd, 1, RW, libc::MAP_PRIVATE);
        poke(private + 1, b'p');
        shared_word(0).store(1, Ordering::SeqCst);
        until(0, 2);
        let mut bad = i32::from(text(at, 5) != "W12m4");
        bad |= i32::from(text(private, 5) != "0p234") << 1;
        call!(pwrite64, fd, p(b"child"), 5, 5);
        poke(at + 4, b'c');
        bad |= i32::from(call!(msync, at, 4096, libc::MS_SYNC) != 0) << 2;
        bad
    });
    until(0, 1);
    let fd = open("f", libc::O_RDWR);
    let at = map_file(fd, 1, RW, libc::MAP_SHARED);
    write(fd, "W");
    poke(at + 3, b'm');
    shared_word(0).store(2, Ordering::SeqCst);
    say!(t, "{}", wait(pid));
    say!(t, "{} {:?}", text(at, 10), content("f"));
}

fn truncated_by_another(t: &mut T) {
    file("f", &"x".repeat(12288));
    let fd = open("f", libc::O_RDWR);
    let at = map_file(fd, 3, RW, libc::MAP_SHARED);
    let private = map_file(fd, 3, RW, libc::MAP_PRIVATE);
    let executable = map_file(fd, 3, libc::PROT_READ | libc::PROT_EXEC, libc::MAP_PRIVATE);
    for page in 0..3 {
        poke(at + page * 4096, b'y');
        poke(private + page * 4096 + 1, b'z');
        peek(executable + page * 4096);
    }
    say!(t, "{}", child(|| call!(truncate, c"f", 5000) as i32));
    for map in [at, private, executable] {
        say!(t, "{} {} {}", look(map), look(map + 4096), look(map + 8192));
        say!(t, "behind the new end: {} {}", look(map + 4096 + 903), look(map + 4096 + 904));
    }
    say!(t, "{}", child(|| call!(truncate, c"f", 12288) as i32));
    for map in [at, private, executable] {
        say!(t, "grown again: {} {} {}", look(map + 4096 + 904), look(map + 8192), look(map + 8193));
    }
    extern "C" fn bus(signal: i32, info: &mut Info, _: &mut libc::ucontext_t) {
        let page = info.address() & 4095;
        let code = info.code as u64 * 100 + u64::from(signal == libc::SIGBUS) * 10 + u64::from(page == 8);
        call!(exit_group, code % 251);
    }
    must!(ftruncate, fd, 0);
    say!(t, "{}", child(|| {
        handle(libc::SIGBUS, bus, 0, 0);
        i32::from(peek(at + 4096 + 8))
    }));
    let (_r, w) = pipe(0);
    show!(t, write, w, at, 1);
    show!(t, madvise, at, 4096, libc::MADV_POPULATE_READ);
}

fn private_and_truncated(t: &mut T) {
    let fd = must!(memfd_create, c"x", 0);
    must!(ftruncate, fd, 8192);
    let at = map_file(fd, 2, RW, libc::MAP_PRIVATE);
    poke(at, 1);
    poke(at + 4096, 2);
    must!(ftruncate, fd, 4096);
    say!(t, "{} {}", look(at), look(at + 4096));
    must!(ftruncate, fd, 100);
    say!(t, "{}", look(at));
    must!(ftruncate, fd, 8192);
    say!(t, "{} {}", look(at), look(at + 4096));
}

fn punched(t: &mut T) {
    file("f", &"x".repeat(12288));
    let fd = open("f", libc::O_RDWR);
    let at = map_file(fd, 3, RW, libc::MAP_SHARED);
    let private = map_file(fd, 3, RW, libc::MAP_PRIVATE);
    poke(private + 4096, b'p');
    peek(at + 4096);
    let hole = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    show!(t, fallocate, fd, hole, 4000, 4200);
    say!(t, "{} {} {} {}", peek(at + 3999), peek(at + 4000), peek(at + 4096), peek(at + 8200));
    say!(t, "{} {}", peek(private + 4096), peek(private + 4000));
    poke(at + 4097, b'n');
    say!(t, "{:?}", &content("f")[4096..4098]);
}

fn replaced(t: &mut T) {
    file("f", "old");
    file("g", "new");
    let at = map_file(open("f", libc::O_RDWR), 1, RW, libc::MAP_SHARED);
    must!(rename, c"g", c"f");
    poke(at, b'O');
    say!(t, "{} {:?}", text(at, 3), content("f"));
}

fn file_gone(t: &mut T) {
    file("f", "abc");
    let fd = open("f", libc::O_RDWR);
    let at = map_file(fd, 1, RW, libc::MAP_SHARED);
    must!(unlink, c"f");
    must!(close, fd);
    poke(at + 1, b'B');
    say!(t, "{}", text(at, 3));
    let ended = child(|| i32::from(peek(at + 1)));
    say!(t, "{ended}");
    let deleted = content("/proc/self/maps").lines().filter(|line| line.ends_with("/f (deleted)")).count();
    say!(t, "{deleted}");
}

fn release_errors(t: &mut T) {
    show!(t, process_mrelease, -1, 0);
    let (r, w) = pipe(0);
    show!(t, process_mrelease, r, 0);
    let me = must!(pidfd_open, must!(getpid), 0);
    show!(t, process_mrelease, me, 0);
    show!(t, process_mrelease, me, 1);
    let pid = fork(|| {
        must!(close, w);
        let mut byte = [0u8; 1];
        call!(read, r, out(&mut byte), 1) as i32
    });
    let fd = must!(pidfd_open, pid, 0);
    show!(t, process_mrelease, fd, 0);
    must!(close, w);
    say!(t, "{}", wait(pid));
    show!(t, process_mrelease, fd, 0);
}

fn moved_onto_another(t: &mut T) {
    let fixed = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    let from = pages(2);
    let target = pages(6);
    for page in 0..6 {
        poke(target + page * 4096, 10 + page as u8);
    }
    poke(from, 1);
    poke(from + 4096, 2);
    must!(mremap, from, 8192, 8192, fixed, target + 8192);
    let all: Vec<u8> = (0..6).map(|page| peek(target + page * 4096)).collect();
    say!(t, "{all:?} {}", look(from));
    // Smaller, and larger than what there is.
    must!(mremap, target, 8192, 4096, fixed, from);
    say!(t, "{} {} {}", peek(from), look(target), look(target + 4096));
    must!(mremap, from, 4096, 3 * 4096, fixed, target);
    say!(t, "{} {} {}", peek(target), look(target + 4096), look(target + 8192));
    show!(t, mremap, target, 4096, 8192, fixed | libc::MREMAP_DONTUNMAP, from);
    let kept = must!(mremap, target, 4096, 4096, fixed | libc::MREMAP_DONTUNMAP, from) as u64;
    say!(t, "{} {} {}", kept == from, peek(from), peek(target));
    // Across two mappings.
    let two = pages(2);
    must!(mprotect, two + 4096, 4096, libc::PROT_READ);
    show!(t, mremap, two, 8192, 12288, libc::MREMAP_MAYMOVE);
    ok!(t, mremap, two, 8192, 4096, 0);
}

fn moved_shared_file(t: &mut T) {
    file("f", &"x".repeat(8192));
    let fd = open("f", libc::O_RDWR);
    let at = map_file(fd, 2, RW, libc::MAP_SHARED);
    poke(at + 4096, b'a');
    let new = must!(mremap, at + 4096, 4096, 8192, libc::MREMAP_MAYMOVE) as u64;
    say!(t, "{} {}", peek(new) as char, look(new + 4096));
    poke(new, b'b');
    say!(t, "{:?} {}", &content("f")[4096..4097], look(at + 4096) != "exit 97");
    let kept = libc::MREMAP_MAYMOVE | libc::MREMAP_DONTUNMAP;
    let twin = must!(mremap, at, 4096, 4096, kept) as u64;
    poke(twin, b'T');
    say!(t, "{}", peek(at) as char);
}

fn protection_keys(t: &mut T) {
    let at = pages(2);
    show!(t, pkey_mprotect, at, 4096, libc::PROT_READ, -1);
    say!(t, "{}", child(|| { poke(at, 1); 0 }));
    show!(t, pkey_mprotect, at, 4096, RW, 15);
    show!(t, pkey_mprotect, at, 4096, RW, 16);
    show!(t, pkey_mprotect, at, 4096, RW, -2);
    show!(t, pkey_mprotect, at + 1, 4096, RW, -1);
    show!(t, pkey_free, 16);
    show!(t, pkey_free, -1);
    show!(t, pkey_alloc, 1, 0);
    show!(t, pkey_alloc, 0, 8);
}

fn protection_across(t: &mut T) {
    let at = pages(4);
    must!(munmap, at + 8192, 4096);
    show!(t, mprotect, at, 4 * 4096, libc::PROT_READ);
    say!(t, "{} {}", child(|| { poke(at, 1); 0 }), child(|| { poke(at + 3 * 4096, 1); 0 }));
    show!(t, mprotect, at, 4096, 0x100);
    show!(t, mprotect, at, 4096, 0x0200_0000);
    show!(t, mprotect, at, 4096, 0x0100_0000 | RW);
    show!(t, mprotect, at, u64::MAX, RW);
    show!(t, mprotect, at, 0, RW);
    show!(t, mprotect, u64::MAX - 4095, 4096, RW);
    let stack = must!(mmap, 0, 8192, RW, PRIVATE | libc::MAP_GROWSDOWN, -1, 0) as u64;
    show!(t, mprotect, stack + 4096, 4096, 0x0100_0000 | libc::PROT_READ);
    say!(t, "{}", child(|| { poke(stack, 1); 0 }));
}

/// `vm.overcommit_memory` 2: what is promised may not be more than there is.
fn strict_promises(t: &mut T) {
    let number = |name: &str| -> u64 {
        let text = content("/proc/meminfo");
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0)
    };
    let set = |name: &str, value: &str| {
        let fd = open(&format!("/proc/sys/vm/{name}"), libc::O_WRONLY);
        let result = result(write(fd, value));
        must!(close, fd);
        result
    };
    let old = content("/proc/sys/vm/overcommit_memory");
    let ratio = content("/proc/sys/vm/overcommit_ratio");
    for value in ["3", "-1", "x"] {
        say!(t, "{value}: {}", set("overcommit_memory", value));
    }
    let before = number("Committed_AS:");
    let at = must!(mmap, 0, 64 << 20, RW, PRIVATE, -1, 0);
    say!(t, "promised: {}", (number("Committed_AS:") as i64 - before as i64 - 65536).abs() < 8192);
    must!(munmap, at, 64 << 20);
    say!(t, "{} {}", set("overcommit_ratio", "90"), set("overcommit_memory", "2"));
    let limit = number("CommitLimit:");
    say!(t, "limit: {}", (limit as i64 - (number("MemTotal:") * 9 / 10) as i64).abs() < 8192);
    let more = (limit + 4096) * 1024;
    let results = [
        call!(mmap, 0, more, RW, PRIVATE, -1, 0),
        call!(mmap, 0, more, RW, PRIVATE | libc::MAP_NORESERVE, -1, 0),
        call!(mmap, 0, more, RW, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1, 0),
        call!(mmap, 0, more, libc::PROT_READ, PRIVATE, -1, 0),
    ];
    let grown = call!(mprotect, results[3], more, RW);
    let large = call!(mmap, 0, limit * 1024 / 3 * 2, RW, PRIVATE, -1, 0);
    let again = call!(mmap, 0, limit * 1024 / 3 * 2, RW, PRIVATE, -1, 0);
    let forked = call!(fork);
    if forked == 0 {
        call!(exit_group, 0);
    }
    let back = set("overcommit_memory", "1");
    let always = call!(mmap, 0, more * 4, RW, PRIVATE, -1, 0);
    set("overcommit_memory", old.trim());
    set("overcommit_ratio", ratio.trim());
    for result in results.into_iter().chain([grown, large, again, forked]) {
        say!(t, "{}", ok_or_error(result));
    }
    say!(t, "{back} {}", ok_or_error(always));
}

fn growing_limit(t: &mut T) {
    let room = must!(mmap, 0, 1 << 20, libc::PROT_NONE, PRIVATE, -1, 0) as u64;
    must!(munmap, room, 1 << 20);
    let flags = PRIVATE | libc::MAP_GROWSDOWN | libc::MAP_FIXED;
    let stack = must!(mmap, room + (1 << 20) - 4096, 4096, RW, flags, -1, 0) as u64;
    let limit = libc::rlimit { rlim_cur: 65536, rlim_max: libc::RLIM_INFINITY };
    must!(setrlimit, libc::RLIMIT_STACK, p(&limit));
    say!(t, "{}", child(|| { poke(stack - 10 * 4096, 7); i32::from(peek(stack - 4096)) }));
    say!(t, "{}", child(|| { poke(stack - 20 * 4096, 7); 0 }));
    // The gap that is kept free of other mappings.
    must!(mmap, room, 4096, RW, PRIVATE | libc::MAP_FIXED, -1, 0);
    let unlimited = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    must!(setrlimit, libc::RLIMIT_STACK, p(&unlimited));
    say!(t, "{}", child(|| { poke(stack - 4096, 7); 0 }));
}
