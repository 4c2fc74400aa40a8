//! On which CPU a thread runs: `sched_setaffinity` of itself and of others that run, sleep or wait for a CPU.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::helpers::*;
use crate::sys::shared_words;
use crate::test::Test;

pub const TESTS: &[Test] = tests![
    affinity: sched_setaffinity sched_getaffinity,
    #[race]
    affinity_race: sched_setaffinity getcpu,
    #[race]
    affinity_storm_race: sched_setaffinity sched_yield,
];

/// The CPUs this process may use.
fn allowed() -> Vec<u32> {
    let mut mask = [0u64; 16];
    must!(sched_getaffinity, 0, size_of_val(&mask), out(&mut mask));
    (0..1024).filter(|cpu| mask[*cpu as usize / 64] >> (cpu % 64) & 1 != 0).collect()
}

/// Lets a thread run on this CPU only.
fn pin(tid: i64, cpu: u32) -> i64 {
    let mut mask = [0u64; 16];
    mask[cpu as usize / 64] = 1 << (cpu % 64);
    call!(sched_setaffinity, tid, size_of_val(&mask), p(&mask))
}

fn cpu() -> u32 {
    let mut cpu = 0u32;
    must!(getcpu, out(&mut cpu), 0, 0);
    cpu
}

fn affinity(t: &mut T) {
    let cpus = allowed();
    let last = cpus[cpus.len() - 1];
    say!(t, "pinned: {}", result(pin(0, last)));
    say!(t, "there: {}, only there: {}", cpu() == last, allowed() == [last]);
    say!(t, "inherited: {}", child(|| i32::from(cpu() == last && allowed() == [last])));
    show!(t, sched_setaffinity, 0, 8, p(&[0u64]));
    show!(t, sched_setaffinity, 0, 0, p(&[1u64]));
    show!(t, sched_setaffinity, 0, 8, 8);
    show!(t, sched_setaffinity, 0x3fff_ffff, 8, p(&[1u64]));
    let mut mask = 0u64;
    show!(t, sched_getaffinity, 0, 4, out(&mut mask));
    show!(t, sched_getaffinity, 0, 12, out(&mut mask));
    show!(t, sched_getaffinity, 0x3fff_ffff, 8, out(&mut mask));
    must!(setpriority, 0, 0, 0);
    let victim = fork(|| {
        sleep_ms(1000);
        0
    });
    say!(t, "{}", as_nobody(|| {
        let _ = pin(victim, last) == i64::from(-libc::EPERM) && call!(exit_group, 5) == 0;
    }));
    must!(kill, victim, libc::SIGKILL);
    wait(victim);
}

/// A child that runs all the time and one that sleeps most of the time: moved by others, both are where they belong at
/// their next instruction.
fn affinity_race(t: &mut T) {
    let cpus = allowed();
    let words = shared_words(4);
    let (running, sleeping) = words.split_at(2);
    // Where it is, and how often it said so.
    let report = |words: &[AtomicU32]| {
        words[0].store(cpu(), Ordering::SeqCst);
        words[1].fetch_add(1, Ordering::SeqCst);
    };
    let wait_for = |words: &[AtomicU32], reports: u32| {
        while words[1].load(Ordering::SeqCst) < reports {
            call!(sched_yield);
        }
        words[0].load(Ordering::SeqCst)
    };
    let runs = fork(|| {
        loop {
            report(running);
        }
    });
    let (r, w) = pipe(0);
    let sleeps = fork(|| {
        while read(r) == "." {
            report(sleeping);
        }
        0
    });
    let mut wrong = 0;
    for round in 0..60 {
        let at = cpus[round as usize % cpus.len()];
        wrong += u32::from(pin(runs, at) != 0 || pin(sleeps, at) != 0);
        // The report after the one it may have been at when it was moved.
        let next = running[1].load(Ordering::SeqCst) + 2;
        wrong += u32::from(wait_for(running, next) != at);
        write(w, ".");
        wrong += u32::from(wait_for(sleeping, round + 1) != at);
    }
    must!(kill, runs, libc::SIGKILL);
    write(w, "end");
    say!(t, "{wrong} wrong; {}, {}", wait(runs), wait(sleeps));
}

/// Everybody moves everybody else, and all come to their end.
fn affinity_storm_race(t: &mut T) {
    const WORKERS: usize = 6;
    let cpus = allowed();
    let pids = shared_words(WORKERS);
    let children: Vec<i64> = (0..WORKERS)
        .map(|number| {
            fork(|| {
                pids[number].store(call!(getpid) as u32, Ordering::SeqCst);
                for round in 0..150 {
                    let other = i64::from(pids[(number + round) % WORKERS].load(Ordering::SeqCst));
                    pin(other, cpus[(round / 3 + number) % cpus.len()]);
                    if round % 8 == 0 {
                        sleep_ms(1);
                    } else {
                        call!(sched_yield);
                    }
                }
                0
            })
        })
        .collect();
    for pid in children {
        say!(t, "{}", wait(pid));
    }
}
