//! The fuzzer: random but well-formed system calls from several processes and threads at once.
//!
//! Time goes in rounds. Each has a seed, which is printed, and starts some worker processes of a few threads; they have
//! descriptors of every kind, memory to play with and children, and make calls whose arguments are generated from
//! the kernel's table of argument kinds ([`generate`]): mostly what a call wants, sometimes what it does not. Each thread of a
//! worker is interrupted all the time; a worker that ends itself is followed by another until the round's time is up, when
//! all are killed and have to be gone soon after. Then the kernel has to answer still: processes, pipes, files and /proc. A round
//! is run again by its seed: `conformance fuzz --round SEED`. (Several workers race, so a seed gives the same calls but not
//! the same interleaving.)
//!
//! It is for a sandbox only: what it does to a real machine is not nice.

mod generate;
mod worker;

use std::fs;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::helpers::*;
use crate::sys::shared_words;

/// Worker processes at a time, and threads of each.
const PROCESSES: usize = 6;
const THREADS: usize = 2;

/// How long workers of a round live, and how long they may take to go.
const LIFE: Duration = Duration::from_secs(5);
const DEATH: Duration = Duration::from_secs(60);

/// Words of the shared log for a thread: the call number and its arguments; its id; how many calls it made.
const LOG: usize = 16;
const LOG_TID: usize = LOG - 2;
const LOG_COUNT: usize = LOG - 1;

/// One more than the highest call number there is.
const NUMBERS: usize = 512;

/// A small generator (xorshift with a multiplication).
pub struct Random(u64);

impl Random {
    /// One that gives the same numbers for the same seed.
    pub fn new(seed: u64) -> Random {
        Random((seed ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9) | 1)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 8
    }

    /// One below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    /// True once in `n` times.
    pub fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// One of these.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// Fuzzes for so many seconds, beginning with a seed.
pub fn main(seed: &str, seconds: &str) -> ExitCode {
    let (seed, seconds): (u64, u64) = (seed.parse().unwrap_or(1), seconds.parse().unwrap_or(60));
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let mut seeds = Random::new(seed);
    let (mut rounds, mut calls) = (0, 0);
    let made = shared_words(NUMBERS);
    while Instant::now() < deadline {
        rounds += 1;
        match round(seeds.next() & 0xffff_ffff, made) {
            Ok(count) => calls += count,
            Err(why) => {
                println!("=== fuzz: {why}");
                return ExitCode::from(1);
            }
        }
    }
    println!("=== fuzz: {calls} calls, {} in {rounds} rounds, the kernel answers", kinds_of(made));
    ExitCode::SUCCESS
}

/// Runs one round again.
pub fn again(seed: &str) -> ExitCode {
    let made = shared_words(NUMBERS);
    match round(seed.parse().unwrap_or(1), made) {
        Ok(calls) => {
            println!("=== fuzz: {calls} calls, {}, the kernel answers", kinds_of(made));
            ExitCode::SUCCESS
        }
        Err(why) => {
            println!("=== fuzz: {why}");
            ExitCode::from(1)
        }
    }
}

/// How many of the calls of the table were made.
fn kinds_of(made: &[AtomicU32]) -> String {
    let calls = || crate::kinds::CALLS.iter().filter(|call| crate::kinds::is_there(call.name));
    let reached = calls().filter(|call| made[call.number as usize].load(Ordering::Relaxed) > 0).count();
    format!("{reached} of {} kinds", calls().count())
}

/// One round; the number of calls made. `kinds` has a word for each call number, set when it is made.
fn round(seed: u64, kinds: &'static [AtomicU32]) -> Result<u64, String> {
    println!("round {seed}");
    // A worker may send any signal to everybody; process 1 is spared what it has no handler for, others ignore.
    mask(libc::SIG_SETMASK, !bit(libc::SIGCHLD));
    let log = shared_words(PROCESSES * THREADS * LOG);
    kinds_of(kinds); // reads the table, so that not every worker has to
    let started = Instant::now();
    // The n-th worker in a place has a seed of its own.
    let start = |place: usize, n: u64| {
        fork(|| worker::run(seed + (n << 32), place, &log[place * THREADS * LOG..][..THREADS * LOG], kinds))
    };
    let mut left: Vec<(i64, usize, u64)> = (0..PROCESSES).map(|place| (start(place, 0), place, 0)).collect();
    let everything = |signal: i32| {
        call!(kill, -1, signal);
    };
    let mut killed = false;
    loop {
        let gone = call!(wait4, -1, 0, libc::WNOHANG, 0);
        if gone > 0 {
            if let Some(worker) = left.iter_mut().find(|worker| worker.0 == gone) {
                let (_, place, n) = *worker;
                if !killed && started.elapsed() < LIFE {
                    *worker = (start(place, n + 1), place, n + 1);
                } else {
                    left.retain(|worker| worker.0 != gone);
                }
            }
            continue;
        }
        if gone == i64::from(-libc::ECHILD) {
            break;
        }
        // What stopped goes on, and no call waits for long.
        everything(if killed { libc::SIGKILL } else { libc::SIGCONT });
        for log in log.chunks(LOG).filter(|_| !killed) {
            if let tid @ 1.. = log[LOG_TID].load(Ordering::Relaxed) {
                call!(tkill, tid, libc::SIGALRM);
            }
        }
        killed |= started.elapsed() > LIFE || left.is_empty();
        if started.elapsed() > LIFE + DEATH {
            return Err(format!(
                "round {seed}: {} processes do not go; last calls:\n{}{}",
                left.len(),
                last_calls(log),
                remaining()
            ));
        }
        sleep_ms(5);
    }
    let calls = log.chunks(LOG).map(|log| u64::from(log[LOG_COUNT].load(Ordering::Relaxed))).sum();
    must!(munmap, p(log), log.len() * 4);
    answers().map(|()| calls).map_err(|what| format!("round {seed}: {what}"))
}

/// What every thread did last.
fn last_calls(log: &[AtomicU32]) -> String {
    let mut text = String::new();
    for (thread, log) in log.chunks(LOG).enumerate() {
        let word = |i: usize| u64::from(log[i].load(Ordering::Relaxed));
        let arguments: Vec<String> =
            (0..6).map(|i| format!("{:#x}", word(1 + 2 * i) | word(2 + 2 * i) << 32)).collect();
        let name =
            crate::kinds::CALLS.iter().find(|call| call.number == word(0)).map_or("?", |call| call.name);
        text += &format!("  thread {thread}: {name} ({})\n", arguments.join(", "));
    }
    text
}

/// What /proc says of every thread there still is.
fn remaining() -> String {
    let numbers = |directory: &str| -> Vec<u32> {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    };
    let mut text = String::new();
    for pid in numbers("/proc") {
        for tid in numbers(&format!("/proc/{pid}/task")) {
            let of =
                |file: &str| fs::read_to_string(format!("/proc/{pid}/task/{tid}/{file}")).unwrap_or_default();
            let status = of("status");
            let words = ["State", "PPid", "SigPnd", "ShdPnd", "SigBlk"].map(|key| {
                let line = status.lines().find(|line| line.starts_with(key)).unwrap_or_default();
                line.split_whitespace().nth(1).unwrap_or_default().to_owned()
            });
            text += &format!(
                "  task {pid}/{tid}: {}; syscall {}; stat {}\n",
                words.join(" "),
                of("syscall").trim(),
                of("stat").trim()
            );
        }
    }
    text
}

/// Whether the kernel does the everyday things.
fn answers() -> Result<(), String> {
    let (r, w) = pipe(0);
    let ended = child(|| write(w, "alive") as i32);
    let said = read(r);
    must!(close, r);
    must!(close, w);
    if ended != "exit 5" || said != "alive" {
        return Err(format!("a child {ended} and says {said:?}"));
    }
    let name = format!("/fuzz-check-{}", std::process::id());
    fs::write(&name, "content").map_err(|error| format!("writing a file: {error}"))?;
    let read_back = fs::read_to_string(&name).map_err(|error| format!("reading a file: {error}"))?;
    fs::remove_file(&name).map_err(|error| format!("removing a file: {error}"))?;
    if read_back != "content" {
        return Err(format!("a file reads {read_back:?}"));
    }
    let memory = pages(64);
    for page in 0..64 {
        crate::sys::poke(memory + page * 4096, page as u8);
    }
    must!(munmap, memory, 64 * 4096);
    Ok(())
}
