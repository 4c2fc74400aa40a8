//! Calls newer than the Linux of the lab (mseal, cachestat, futex_wait and its like): compared with what the man pages and
//! the tests of Linux say, in `expected/`. And reading and changing other processes' memory.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::helpers::*;
use crate::sys::{peek, poke, shared};
use crate::test::Test;

pub const TESTS: &[Test] = tests![
    sealed: mseal,
    seal_errors: mseal,
    sealed_in_part: mseal,
    cached_pages: cachestat,
    cached_errors: cachestat,
    futex_alone: futex_wait futex_wake,
    futex_moved: futex_requeue,
    other_memory: process_vm_readv process_vm_writev,
    other_memory_errors: process_vm_readv process_vm_writev,
    several_words: futex_waitv,
    several_words_errors: futex_waitv,
];

const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;
const PRIVATE: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;

/// All that would change sealed memory is refused.
fn sealed(t: &mut T) {
    let at = pages(4);
    poke(at, 7);
    show!(t, mseal, at, 4 * 4096, 0);
    show!(t, munmap, at, 4096);
    show!(t, mprotect, at, 4096, libc::PROT_READ);
    show!(t, mremap, at, 4096, 8192, libc::MREMAP_MAYMOVE);
    show!(t, mremap, at, 8192, 4096, 0);
    show!(t, mmap, at, 4096, RW, PRIVATE | libc::MAP_FIXED, -1, 0);
    show!(t, mremap, pages(1), 4096, 4096, libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED, at);
    show!(t, madvise, at, 4096, libc::MADV_WILLNEED);
    show!(t, madvise, at, 4096, libc::MADV_DONTNEED);
    show!(t, pkey_mprotect, at, 4096, libc::PROT_READ, -1);
    say!(t, "{}", peek(at));
    poke(at, 8);
    say!(t, "{}", peek(at));
    show!(t, mseal, at, 4096, 0);
    let ended = child(|| {
        let t = &mut T::default();
        show!(t, munmap, at, 4096);
        0
    });
    say!(t, "in a child: {ended}");
    // What cannot be written can only be thrown away while it is not sealed.
    let at = must!(mmap, 0, 4096, libc::PROT_READ, PRIVATE, -1, 0);
    must!(mseal, at, 4096, 0);
    show!(t, madvise, at, 4096, libc::MADV_DONTNEED);
    show!(t, madvise, at, 4096, libc::MADV_COLD);
}

fn seal_errors(t: &mut T) {
    let at = pages(4);
    show!(t, mseal, at, 4096, 1);
    show!(t, mseal, at + 1, 4096, 0);
    show!(t, mseal, at, 0, 0);
    show!(t, mseal, at, u64::MAX, 0);
    show!(t, mseal, at, u64::MAX - 4096, 0);
    show!(t, mseal, hole(), 4096, 0);
    must!(munmap, at + 4096, 4096);
    show!(t, mseal, at, 3 * 4096, 0);
    show!(t, mprotect, at, 4096, libc::PROT_READ);
    show!(t, mseal, at, 1, 0);
    show!(t, mprotect, at, 4096, RW);
}

fn sealed_in_part(t: &mut T) {
    let at = pages(5);
    show!(t, mseal, at + 2 * 4096, 4096, 0);
    show!(t, munmap, at, 5 * 4096);
    show!(t, mprotect, at, 5 * 4096, libc::PROT_READ);
    show!(t, munmap, at, 4096);
    show!(t, munmap, at + 4 * 4096, 4096);
    poke(at + 4096, 1);
    poke(at + 2 * 4096, 1);
    poke(at + 3 * 4096, 1);
    show!(t, mprotect, at + 4096, 4096, libc::PROT_READ);
    show!(t, mprotect, at + 4096, 2 * 4096, RW);
}

fn cached_pages(t: &mut T) {
    let f = open("f", O_RDWR | O_CREAT);
    must!(ftruncate, f, 10 * 4096);
    let stat = |offset: u64, len: u64| {
        let mut s = [9u64; 5];
        let got = call!(cachestat, f, p(&[offset, len]), out(&mut s), 0);
        format!("{} {}", result(got), s[0])
    };
    say!(t, "{}", stat(0, 0));
    must!(pwrite64, f, p(b"x"), 1, 4096);
    must!(pwrite64, f, p(b"x"), 1, 5 * 4096 + 100);
    must!(pwrite64, f, p(b"x"), 1, 9 * 4096);
    say!(t, "{} | {} | {} | {}", stat(0, 0), stat(0, 4096), stat(4096, 4096), stat(4095, 2));
    say!(t, "{} | {} | {} | {}", stat(5 * 4096, 0), stat(5 * 4096, u64::MAX), stat(1 << 40, 0), stat(0, 6 * 4096));
    must!(ftruncate, f, 4096);
    say!(t, "{}", stat(0, 0));
    let m = must!(memfd_create, c"m", 0);
    must!(write, m, p(&[0u8; 8192]), 8192);
    let mut s = [9u64; 5];
    show!(t, cachestat, m, p(&[0u64, 0]), out(&mut s), 0);
    say!(t, "{}", s[0]);
}

fn cached_errors(t: &mut T) {
    let f = open("f", O_RDWR | O_CREAT);
    let mut s = [0u64; 5];
    show!(t, cachestat, 99, p(&[0u64, 0]), out(&mut s), 0);
    show!(t, cachestat, f, p(&[0u64, 0]), out(&mut s), 1);
    show!(t, cachestat, f, hole(), out(&mut s), 0);
    show!(t, cachestat, f, p(&[0u64, 0]), hole(), 0);
    show!(t, cachestat, open(".", libc::O_PATH), p(&[0u64, 0]), out(&mut s), 0);
}

/// `FUTEX2_SIZE_U32`, and with `FUTEX2_PRIVATE`.
const SIZE: u32 = 2;
const SIZE_PRIVATE: u32 = 2 | 128;

fn futex_alone(t: &mut T) {
    let words = shared();
    show!(t, futex_wait, p(&words[0]), 1, u32::MAX, SIZE, 0, 0);
    show!(t, futex_wait, p(&words[0]), 0, 0, SIZE, 0, 0);
    show!(t, futex_wait, p(&words[0]), 0, 1, 0x80, p(&[0u64, 1]), 1);
    show!(t, futex_wait, p(&words[0]), 1u64 << 32, 1, SIZE, 0, 0);
    show!(t, futex_wait, p(&words[0]), 0, 1u64 << 32, SIZE, 0, 0);
    show!(t, futex_wait, p(&words[0]), 0, 1, SIZE, p(&[0u64, 1]), 1);
    show!(t, futex_wait, p(&words[0]), 0, 1, SIZE_PRIVATE, p(&[1u64, 1]), 0);
    show!(t, futex_wait, p(&words[0]), 0, 1, SIZE, p(&[0u64, 1_000_000_000]), 1);
    show!(t, futex_wait, p(&words[0]), 0, 1, SIZE, p(&[0u64, 1]), 2);
    show!(t, futex_wait, p(&words[0]) + 1, 0, 1, SIZE, 0, 0);
    show!(t, futex_wait, hole(), 0, 1, SIZE, 0, 0);
    show!(t, futex_wake, p(&words[0]), 1, 1, SIZE);
    show!(t, futex_wake, p(&words[0]), 0, 1, SIZE);
    show!(t, futex_wake, p(&words[0]), 1, 1, 0x80);
    let waiter = |mask: u64| {
        let child = fork(|| call!(futex_wait, p(&words[0]), 0, mask, SIZE, 0, 0) as i32);
        asleep(child);
        child
    };
    let (a, b) = (waiter(1), waiter(2));
    show!(t, futex_wake, p(&words[0]), 4, 9, SIZE);
    show!(t, futex_wake, p(&words[0]), 2, 9, SIZE);
    say!(t, "{}", wait(b));
    show!(t, futex, p(&words[0]), 1, 9);
    say!(t, "{}", wait(a));
}

fn futex_moved(t: &mut T) {
    let words = shared();
    let waiters: Vec<i64> = (0..3)
        .map(|_| {
            let child = fork(|| call!(futex_wait, p(&words[0]), 0, u32::MAX, SIZE, 0, 0) as i32);
            asleep(child);
            child
        })
        .collect();
    // value, address, flags and nothing
    let word = |at: usize, value: u64| [value, p(&words[at]), u64::from(SIZE)];
    show!(t, futex_requeue, p(&[word(0, 5), word(1, 0)]), 0, 1, 1);
    show!(t, futex_requeue, p(&[word(0, 0), word(1, 0)]), 1, 1, 1);
    show!(t, futex_requeue, p(&[word(0, 0), word(1, 0)]), 0, -1, 1);
    show!(t, futex_requeue, 0, 0, 1, 1);
    show!(t, futex_requeue, p(&[word(0, 0), word(1, 0)]), 0, 1, 9);
    show!(t, futex_wake, p(&words[0]), u32::MAX, 9, SIZE);
    show!(t, futex_wake, p(&words[1]), u32::MAX, 9, SIZE);
    waiters.into_iter().for_each(|child| say!(t, "{}", wait(child)));
}

/// A child with memory at the same addresses as ours, of its own.
fn with_child(body: impl FnOnce(i64)) {
    let child = fork(|| {
        loop {
            call!(pause);
        }
    });
    asleep(child);
    body(child);
    must!(kill, child, libc::SIGKILL);
    wait(child);
}

fn other_memory(t: &mut T) {
    let at = pages(3);
    poke(at, 1);
    poke(at + 4096, 2);
    with_child(|child| {
        poke(at, 77);
        let mut buffer = [0u8; 64];
        let local = [[out(&mut buffer), 1], [out(&mut buffer) + 1, 3]];
        let remote = [[at, 1], [at + 4096, 1], [at + 4095, 2]];
        show!(t, process_vm_readv, child, p(&local), 2, p(&remote), 3, 0);
        say!(t, "{:?}", &buffer[..5]);
        let given = *b"abcdef";
        let local = [[p(&given), 6]];
        let remote = [[at + 4094, 4], [at, 1]];
        show!(t, process_vm_writev, child, p(&local), 1, p(&remote), 2, 0);
        let back = [[out(&mut buffer), 10]];
        show!(t, process_vm_readv, child, p(&back), 1, p(&[[at + 4093, 6]]), 1, 0);
        say!(t, "{:?} and here {}", &buffer[..6], peek(at));
        say!(t, "nothing: {}", result(call!(process_vm_readv, child, p(&back), 0, p(&remote), 2, 0)));
        say!(t, "nothing: {}", result(call!(process_vm_readv, child, p(&back), 1, p(&remote), 0, 0)));
    });
}

fn other_memory_errors(t: &mut T) {
    let at = pages(2);
    let read_only = must!(mmap, 0, 4096, libc::PROT_READ, PRIVATE, -1, 0) as u64;
    let gone = hole();
    with_child(|child| {
        let mut buffer = [0u8; 8192];
        let local = [[out(&mut buffer), 8192]];
        let read = |remote: &[[u64; 2]]| {
            result(call!(process_vm_readv, child, p(&local), 1, p(remote), remote.len(), 0))
        };
        say!(t, "a hole: {}", read(&[[gone, 8]]));
        say!(t, "then a hole: {}", read(&[[at, 8], [gone, 8]]));
        say!(t, "into a hole: {}", read(&[[gone - 100, 200]]));
        say!(t, "read-only: {}", read(&[[read_only, 8]]));
        let mine = [[p(&buffer), 8]];
        show!(t, process_vm_writev, child, p(&mine), 1, p(&[[read_only, 8]]), 1, 0);
        show!(t, process_vm_writev, child, p(&[[gone, 8]]), 1, p(&[[at, 8]]), 1, 0);
        show!(t, process_vm_readv, child, p(&[[gone, 8]]), 1, p(&[[at, 8]]), 1, 0);
        show!(t, process_vm_readv, child, p(&local), 1, p(&[[at, 8]]), 1, 1);
        show!(t, process_vm_readv, child, p(&local), 2000, p(&[[at, 8]]), 1, 0);
        show!(t, process_vm_readv, child, p(&local), 1, p(&[[at, 8]]), 2000, 0);
        show!(t, process_vm_readv, child, p(&[[at, u64::MAX]]), 1, p(&[[at, 8]]), 1, 0);
        show!(t, process_vm_readv, child, gone, 1, p(&[[at, 8]]), 1, 0);
        show!(t, process_vm_readv, child, p(&local), 1, gone, 1, 0);
        show!(t, process_vm_readv, 99_999_999, p(&local), 1, p(&[[at, 8]]), 1, 0);
        show!(t, process_vm_readv, -1, p(&local), 1, p(&[[at, 8]]), 1, 0);
        let ended = as_nobody(|| {
            let t = &mut T::default();
            show!(t, process_vm_readv, child, p(&local), 1, p(&[[at, 8]]), 1, 0);
            show!(t, process_vm_writev, child, p(&local), 1, p(&[[at, 8]]), 1, 0);
        });
        say!(t, "{ended}");
    });
}

/// `struct futex_waitv`: value, address, flags.
fn word(word: &AtomicU32, value: u64) -> [u64; 3] {
    [value, p(word), u64::from(SIZE)]
}

fn several_words(t: &mut T) {
    let words = shared();
    words[1].store(1, Ordering::Relaxed);
    let all = [word(&words[0], 0), word(&words[1], 1), word(&words[2], 0)];
    for which in [0, 2, 1] {
        let child = fork(|| call!(futex_waitv, p(&all), 3, 0, 0, 0) as i32);
        asleep(child);
        say!(t, "{} {}", result(call!(futex, p(&words[which]), 1, 9)), wait(child));
    }
    show!(t, futex_waitv, p(&[word(&words[0], 0), word(&words[1], 0)]), 2, 0, 0, 0);
    let soon = || {
        let mut now = [0u64; 2];
        must!(clock_gettime, libc::CLOCK_MONOTONIC, out(&mut now));
        [now[0], now[1] + 1000]
    };
    let mut when = soon();
    when[1] %= 1_000_000_000;
    show!(t, futex_waitv, p(&all), 3, 0, p(&when), libc::CLOCK_MONOTONIC);
    show!(t, futex_waitv, p(&all), 3, 0, p(&[1u64, 0]), libc::CLOCK_REALTIME);
    handle(libc::SIGALRM, count, 0, 0);
    must!(setitimer, libc::ITIMER_REAL, p(&[0i64, 0, 0, 30_000]), 0);
    show!(t, futex_waitv, p(&all), 3, 0, 0, 0);
    let many: Vec<[u64; 3]> = (0..128).map(|i| word(&words[i + 10], 0)).collect();
    let child = fork(|| call!(futex_waitv, p(&many[..]), 128, 0, 0, 0) as i32);
    asleep(child);
    say!(t, "{} {}", result(call!(futex, p(&words[137]), 1, 1)), wait(child));
}

fn several_words_errors(t: &mut T) {
    let words = shared();
    let one = [word(&words[0], 0)];
    show!(t, futex_waitv, p(&one), 0, 0, 0, 0);
    show!(t, futex_waitv, p(&one), 129, 0, 0, 0);
    show!(t, futex_waitv, 0, 1, 0, 0, 0);
    show!(t, futex_waitv, p(&one), 1, 1, 0, 0);
    show!(t, futex_waitv, p(&one), 1, 0, p(&[0u64, 1]), 2);
    show!(t, futex_waitv, p(&one), 1, 0, p(&[0u64, 1_000_000_000]), 1);
    show!(t, futex_waitv, p(&one), 1, 0, hole(), 1);
    show!(t, futex_waitv, hole(), 1, 0, 0, 0);
    show!(t, futex_waitv, p(&[[0u64, p(&words[0]), 0x80]]), 1, 0, 0, 0);
    show!(t, futex_waitv, p(&[[0u64, p(&words[0]), 2 | 1 << 32]]), 1, 0, 0, 0);
    show!(t, futex_waitv, p(&[[0u64, p(&words[0]) + 2, 2]]), 1, 0, 0, 0);
    show!(t, futex_waitv, p(&[[0u64, hole(), 2]]), 1, 0, 0, 0);
    show!(t, futex_waitv, p(&[[1u64, p(&words[0]), 2]]), 1, 0, 0, 0);
}
