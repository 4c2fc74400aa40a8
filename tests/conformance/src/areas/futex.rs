//! Futexes.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::helpers::*;
use crate::sys::shared;
use crate::test::Test;

pub const TESTS: &[Test] = tests![
    wait_value: futex,
    timeouts: futex,
    wakes: futex,
    requeue: futex,
    bitsets: futex,
    wake_op: futex,
    bad_arguments: futex,
    interrupted: futex,
    #[race]
    between_processes_race: futex,
];

const WAIT: i32 = 0;
const WAKE: i32 = 1;
const REQUEUE: i32 = 3;
const CMP_REQUEUE: i32 = 4;
const WAKE_OP: i32 = 5;
const WAIT_BITSET: i32 = 9;
const WAKE_BITSET: i32 = 10;
const PRIVATE: i32 = 128;
const REALTIME: i32 = 256;

fn wait_value(t: &mut T) {
    let word = AtomicU32::new(5);
    show!(t, futex, p(&word), WAIT, 4, 0);
    show!(t, futex, p(&word), WAIT | PRIVATE, 6, 0);
    show!(t, futex, p(&word), WAKE, 1);
}

fn timeouts(t: &mut T) {
    let word = AtomicU32::new(5);
    show!(t, futex, p(&word), WAIT, 5, p(&[0u64, 1_000_000]));
    show!(t, futex, p(&word), WAIT, 5, p(&[0u64, 0]));
    show!(t, futex, p(&word), WAIT, 5, p(&[0u64, 1_000_000_000]));
    show!(t, futex, p(&word), WAIT, 5, p(&[-1i64, 0]));
    show!(t, futex, p(&word), WAIT_BITSET, 5, p(&[0u64, 1]), 0, -1);
    show!(t, futex, p(&word), WAIT_BITSET | REALTIME, 5, p(&[1u64, 1]), 0, -1);
    show!(t, futex, p(&word), WAIT | REALTIME, 4, p(&[0u64, 1]));
    show!(t, futex, p(&word), WAIT, 5, 8);
}

/// Children that wait on words of shared memory, started one after the other.
fn waiters(words: &'static [AtomicU32], which: &[usize]) -> Vec<i64> {
    let mut children = Vec::new();
    for word in which {
        children.push(fork(|| {
            words[100].fetch_add(1, Ordering::SeqCst);
            call!(futex, p(&words[*word]), WAIT, 0, 0) as i32
        }));
        while words[100].load(Ordering::SeqCst) != children.len() as u32 {
            call!(sched_yield);
        }
        sleep_ms(15); // it has counted, and now it sleeps
    }
    children
}

fn wakes(t: &mut T) {
    let words = shared();
    let children = waiters(words, &[0, 0, 0, 1]);
    show!(t, futex, p(&words[0]), WAKE, 2);
    show!(t, futex, p(&words[0]), WAKE, 10);
    show!(t, futex, p(&words[0]), WAKE, 10);
    show!(t, futex, p(&words[1]), WAKE, 1);
    for child in children {
        say!(t, "{}", wait(child));
    }
}

fn requeue(t: &mut T) {
    let words = shared();
    let children = waiters(words, &[0, 0, 0, 0]);
    show!(t, futex, p(&words[0]), CMP_REQUEUE, 1, 1, p(&words[1]), 7);
    show!(t, futex, p(&words[0]), CMP_REQUEUE, 1, 1, p(&words[1]), 0);
    show!(t, futex, p(&words[1]), WAKE, 10);
    show!(t, futex, p(&words[0]), REQUEUE, 0, 10, p(&words[1]));
    show!(t, futex, p(&words[0]), WAKE, 10);
    show!(t, futex, p(&words[1]), WAKE, 10);
    for child in children {
        say!(t, "{}", wait(child));
    }
}

fn bitsets(t: &mut T) {
    let words = shared();
    let children: Vec<i64> = [1, 2]
        .into_iter()
        .map(|bits| fork(|| call!(futex, p(&words[0]), WAIT_BITSET, 0, 0, 0, bits) as i32 + bits))
        .collect();
    sleep_ms(40);
    show!(t, futex, p(&words[0]), WAKE_BITSET, 10, 0, 0, 4);
    show!(t, futex, p(&words[0]), WAKE_BITSET, 10, 0, 0, 2);
    say!(t, "{}", wait(children[1]));
    show!(t, futex, p(&words[0]), WAKE_BITSET, 10, 0, 0, 3);
    say!(t, "{}", wait(children[0]));
    show!(t, futex, p(&words[0]), WAKE_BITSET, 10, 0, 0, 0);
    show!(t, futex, p(&words[0]), WAIT_BITSET, 0, 0, 0, 0);
}

fn wake_op(t: &mut T) {
    let words = shared();
    let children = waiters(words, &[0, 1]);
    words[1].store(5, Ordering::SeqCst);
    // Add 2 to the second; wake its waiters if it was 5.
    show!(t, futex, p(&words[0]), WAKE_OP, 1, 1, p(&words[1]), 1 << 28 | 2 << 12 | 5);
    say!(t, "{}", words[1].load(Ordering::SeqCst));
    for child in children {
        say!(t, "{}", wait(child));
    }
    show!(t, futex, p(&words[0]), WAKE_OP, 1, 1, p(&words[1]), 7u32 << 28);
    show!(t, futex, p(&words[0]), WAKE_OP, 1, 1, p(&words[1]), 7 << 24);
}

fn bad_arguments(t: &mut T) {
    let word = [AtomicU32::new(0), AtomicU32::new(0)];
    show!(t, futex, p(&word) + 1, WAIT, 0, 0);
    show!(t, futex, p(&word) + 2, WAKE, 1);
    show!(t, futex, hole(), WAIT, 0, 0);
    show!(t, futex, hole(), WAKE, 1);
    show!(t, futex, hole(), WAKE | PRIVATE, 1);
    show!(t, futex, 0xffff_8000_0000_0000u64, WAKE | PRIVATE, 1);
    show!(t, futex, 0, WAIT, 0, 0);
    show!(t, futex, p(&word), 99, 0, 0);
    show!(t, futex, p(&word), 2, 0, 0);
    show!(t, futex, p(&word), CMP_REQUEUE, -1, 1, p(&word[1]), 0);
    show!(t, futex, p(&word), CMP_REQUEUE, 1, -1, p(&word[1]), 0);
    show!(t, futex, p(&word), CMP_REQUEUE, 1, 1, 1, 0);
}

fn interrupted(t: &mut T) {
    let words = shared();
    let parent = call!(getpid);
    for flags in [0, libc::SA_RESTART] {
        handle(libc::SIGUSR1, count, flags, 0);
        let helper = fork(|| {
            sleep_ms(30);
            call!(kill, parent, libc::SIGUSR1);
            sleep_ms(30);
            call!(futex, p(&words[0]), WAKE, 1) as i32
        });
        show!(t, futex, p(&words[0]), WAIT, 0, 0);
        say!(t, "{}", wait(helper));
    }
}

/// Two processes hand a word to and fro: a lost wake-up hangs.
fn between_processes_race(t: &mut T) {
    const ROUNDS: u32 = 300;
    let words = shared();
    let turn = |own: u32| {
        for _ in 0..ROUNDS {
            loop {
                let now = words[0].load(Ordering::SeqCst);
                if now % 2 == own {
                    break;
                }
                call!(futex, p(&words[0]), WAIT, now, 0);
            }
            words[0].fetch_add(1, Ordering::SeqCst);
            call!(futex, p(&words[0]), WAKE, 1);
        }
    };
    let other = fork(|| {
        turn(1);
        0
    });
    turn(0);
    say!(t, "{} {}", wait(other), words[0].load(Ordering::SeqCst));
}
