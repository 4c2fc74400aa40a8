//! Out of memory: somebody has to go.
//!
//! As Linux does, the process that uses the most memory is killed, its choice biased by `oom_score_adj`. If one
//! is dying already, its memory is waited for instead of killing another. The first process, whose end is that of
//! the sandbox, is chosen only if it uses more than all others together.

use alloc::{sync::Arc, vec::Vec};
use core::sync::atomic::Ordering;

use ringfence_hal as hal;

use super::MmStats;
use crate::{
    TaskRef, sched,
    signal::{self, Signal},
    task::{Process, process::ExitStatus},
};

/// A value of `oom_score_adj` that protects from being chosen.
const NEVER: i32 = -1000;
/// The number of the sandbox's first process.
const FIRST: i32 = 1;

/// Called when an allocation for a program failed, without locks: ends a process, or lets a dying one run.
pub(super) fn make_room(task: &TaskRef) {
    end_somebody(task);
    if !task.killed() {
        sched::yield_now(task);
    }
}

/// Ends the process that should go, unless one is going already. A function of its own, because the list of all
/// processes must be gone when the caller yields: a thousand callers, each with its list, eat the reserve.
fn end_somebody(task: &TaskRef) {
    let processes = task.kernel().pids.processes();
    let dying = |p: &Arc<Process>| p.is_exiting() && p.threads().iter().any(|t| t.mm_opt().is_some());
    if processes.iter().any(dying) {
        return;
    }
    let scores: Vec<(i64, &Arc<Process>)> = processes.iter().filter_map(|p| Some((score(p)?, p))).collect();
    let Some(victim) = choose(&scores, |p| p.pid == FIRST) else {
        // Nobody may be chosen: the one who asks goes.
        return signal::kill_process(task.process(), ExitStatus::Signal(Signal::KILL.number(), false));
    };
    hal::log!(Warn, "out of memory: killing process {} ({} pages)", victim.pid, footprint(victim));
    signal::kill_process(victim, ExitStatus::Signal(Signal::KILL.number(), false));
}

/// Called when the kernel's own memory runs short: ends processes until there is enough again. False if the calling
/// task itself has to go.
pub(crate) fn relieve(task: &TaskRef) -> bool {
    while hal::frames::is_low() {
        make_room(task);
        if task.killed() {
            return false;
        }
    }
    true
}

/// Roughly the pages that go with a process: its own, and the kernel's for its mappings, threads and files.
fn footprint(process: &Process) -> u64 {
    const MAPPINGS_A_PAGE: u64 = 32;
    const PAGES_A_THREAD: u64 = 8;
    const FILES_A_PAGE: u64 = 8;
    let threads = process.threads();
    let stats = threads.iter().find_map(|t| t.mm_opt()).map_or(MmStats::default(), |mm| mm.stats());
    let files = threads.iter().find_map(|t| t.files().ok()).map_or(0, |files| files.capacity() as u64);
    stats.resident
        + stats.mappings as u64 / MAPPINGS_A_PAGE
        + threads.len() as u64 * PAGES_A_THREAD
        + files / FILES_A_PAGE
}

/// The one with the highest score; the first process only if its score exceeds the sum of all others.
fn choose<'a, P>(scores: &[(i64, &'a P)], is_first: impl Fn(&P) -> bool) -> Option<&'a P> {
    let (first, others): (Vec<_>, Vec<_>) = scores.iter().copied().partition(|(_, p)| is_first(p));
    let sum = others.iter().fold(0i64, |sum, (score, _)| sum.saturating_add((*score).max(1)));
    let of_all = first.into_iter().find(|(score, _)| *score > sum);
    of_all.or_else(|| others.into_iter().max_by_key(|(score, _)| *score)).map(|(_, p)| p)
}

/// How much sense it makes to kill `process`; None if it must not be.
fn score(process: &Arc<Process>) -> Option<i64> {
    let adjust = process.oom_score_adj.load(Ordering::Relaxed);
    let pages = footprint(process);
    if adjust <= NEVER || process.is_exiting() || process.threads().is_empty() {
        return None;
    }
    let total = hal::frames::stats().total as i64;
    Some(pages as i64 + i64::from(adjust) * total / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_process_goes_only_if_it_is_the_problem() {
        let choose = |scores: &[(i64, i32)]| {
            let scores: Vec<(i64, &i32)> = scores.iter().map(|(score, pid)| (*score, pid)).collect();
            choose(&scores, |pid| *pid == FIRST).copied()
        };
        assert_eq!(choose(&[(50, 1), (30, 2), (40, 3)]), Some(3));
        assert_eq!(choose(&[(100, 1), (30, 2), (40, 3)]), Some(1));
        assert_eq!(choose(&[(10, 1)]), Some(1));
        assert_eq!(choose(&[(-5, 1), (-7, 2)]), Some(2));
        assert_eq!(choose(&[]), None);
    }
}
