//! Out of memory: somebody has to go.
//!
//! As Linux does, caches go first, then what the host has in its balloon, then the process with the highest *badness*: the pages it has in memory and in page
//! tables, biased by `oom_score_adj` in thousandths of the machine's memory; here also what the kernel holds for it
//! (mappings, threads, open files), because that is memory a hostile program would eat instead. With it go other processes
//! that share its memory. If one is dying already, its memory is waited for ([`wait`]) instead of killing another. The first process,
//! whose end is that of the sandbox, is chosen only if it uses more than all others together and more than half of what is in
//! use: where pipes or tmpfs files have taken the memory, its end would be no remedy.

mod wait;

use alloc::{string::String, sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicU64, Ordering};

use ringfence_hal as hal;

pub use wait::Awaited;
pub(in crate::mm) use wait::reap;
pub(crate) use wait::{is_spared, wait_for};

use super::{MmStats, charge, charge::Room, reclaim};
use crate::{
    TaskRef, cgroup,
    drivers::balloon,
    klog::RateLimit,
    sched,
    signal::{self, Signal},
    sync::Interruptible,
    task::{Process, process::ExitStatus},
};

/// A value of `oom_score_adj` that protects from being chosen.
const NEVER: i32 = -1000;
/// The number of the sandbox's first process.
const FIRST: i32 = 1;
/// If caches gave up this many frames, nobody is killed.
const ENOUGH: usize = 64;

/// Frames that are taken back from the host at a time: 4 MiB.
const FROM_BALLOON: usize = 1024;

static KILLS: AtomicU64 = AtomicU64::new(0);

/// How often a process was killed for memory (`oom_kill` of `/proc/vmstat`).
pub fn kills() -> u64 {
    KILLS.load(Ordering::Relaxed)
}

/// Called when an allocation for a program failed, without spin locks: gives up caches, ends a process, or waits for one
/// that is dying.
pub(super) fn make_room(task: &TaskRef) {
    if task.killed() {
        return;
    }
    let dying = match charge::make_room(task) {
        Room::Made => None,
        Room::Dying(process) => Some(process),
        Room::NotFull if reclaim::run() >= ENOUGH => None,
        Room::NotFull if balloon::give_back(FROM_BALLOON) > 0 => None,
        Room::NotFull => end_somebody(task),
    };
    match dying {
        _ if task.killed() => {}
        Some(process) => wait_for(task, &process, Interruptible::Killable),
        None => sched::yield_now(task),
    }
}

/// Ends the process that should go, unless one is going already; who is to be waited for. A function of its own, because the
/// list of all processes must be gone when the caller sleeps: a thousand callers, each with its list, eat the reserve.
fn end_somebody(task: &TaskRef) -> Option<Arc<Process>> {
    let processes = task.kernel().pids.processes();
    let frames = hal::frames::stats();
    match kill_one_of(&processes, frames.total.saturating_sub(frames.free) as u64) {
        // Nobody may be chosen: the one who asks goes.
        Kill::Nobody => {
            signal::kill_process(task.process(), ExitStatus::Signal(Signal::KILL.number(), false));
            None
        }
        Kill::Dying(process) => Some(process),
        Kill::Killed(victim) => {
            cgroup::memory::victim_chosen(&victim, None);
            Some(victim)
        }
    }
}

/// What [`kill_one_of`] did.
pub enum Kill {
    /// Nobody may be chosen.
    Nobody,
    /// Nothing: this one is on its way out.
    Dying(Arc<Process>),
    /// It chose this one.
    Killed(Arc<Process>),
}

/// Ends the worst of `processes`, who share `in_use` pages, unless one of them is on its way out.
pub fn kill_one_of(processes: &[Arc<Process>], in_use: u64) -> Kill {
    if let Some(dying) = processes.iter().find(|p| wait::is_dying(p)) {
        return Kill::Dying(dying.clone());
    }
    let scores: Vec<(i64, &Arc<Process>)> = processes.iter().filter_map(|p| Some((badness(p)?, p))).collect();
    let Some(victim) = choose(&scores, i64::try_from(in_use).unwrap_or(i64::MAX), |p| p.pid == FIRST) else {
        return Kill::Nobody;
    };
    kill(victim, processes);
    Kill::Killed(victim.clone())
}

fn kill(victim: &Arc<Process>, processes: &[Arc<Process>]) {
    KILLS.fetch_add(1, Ordering::Relaxed);
    cgroup::memory::killed(victim);
    let leader = victim.threads().into_iter().next();
    let mm = leader.as_ref().and_then(|t| t.mm_opt());
    let stats = mm.as_ref().map_or(MmStats::default(), |mm| mm.stats());
    let comm = leader.as_ref().map_or([0; 16], |t| t.comm());
    let name = String::from_utf8_lossy(comm.split(|b| *b == 0).next().unwrap_or_default()).into_owned();
    let line = alloc::format!(
        "Out of memory: Killed process {} ({name}) total-vm:{}kB, anon-rss:{}kB, file-rss:{}kB, pgtables:{}kB \
         oom_score_adj:{}",
        victim.pid,
        stats.size * 4,
        stats.anonymous * 4,
        stats.object * 4,
        stats.tables * 4,
        victim.oom_score_adj.load(Ordering::Relaxed)
    );
    static TO_THE_HOST: RateLimit = RateLimit::new();
    match TO_THE_HOST.allows(hal::time::now()) {
        Some(0) => hal::log!(Warn, "{line}"),
        Some(missed) => hal::log!(Warn, "{line} ({missed} others not shown)"),
        None => {}
    }
    crate::klog::line(3, &line);
    end(victim);
    // Those who run in the same memory keep it alive.
    let Some(mm) = mm else { return };
    for other in processes.iter().filter(|p| !Arc::ptr_eq(p, victim) && !is_spared(p)) {
        if other.threads().iter().any(|t| t.mm_opt().is_some_and(|m| Arc::ptr_eq(&m, &mm))) {
            end(other);
        }
    }
}

/// Kills `process` and has it run soon: others wait for its memory.
fn end(process: &Arc<Process>) {
    signal::kill_process(process, ExitStatus::Signal(Signal::KILL.number(), false));
    process.threads().iter().for_each(sched::hurry);
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
        + stats.tables
        + stats.mappings as u64 / MAPPINGS_A_PAGE
        + threads.len() as u64 * PAGES_A_THREAD
        + files / FILES_A_PAGE
}

/// The one with the highest score; the first process only if its score exceeds the sum of all others, and half of the
/// pages in use.
fn choose<'a, P>(scores: &[(i64, &'a P)], in_use: i64, is_first: impl Fn(&P) -> bool) -> Option<&'a P> {
    let (first, others): (Vec<_>, Vec<_>) = scores.iter().copied().partition(|(_, p)| is_first(p));
    let sum = others.iter().fold(0i64, |sum, (score, _)| sum.saturating_add((*score).max(1)));
    let of_all = first.into_iter().find(|(score, _)| *score > sum.max(in_use / 2));
    of_all.or_else(|| others.into_iter().max_by_key(|(score, _)| *score)).map(|(_, p)| p)
}

/// How much sense it makes to kill `process`; None if it must not be.
fn badness(process: &Arc<Process>) -> Option<i64> {
    if process.is_exiting() || process.threads().is_empty() {
        return None;
    }
    biased(footprint(process), process.oom_score_adj.load(Ordering::Relaxed))
}

/// `pages` with `oom_score_adj` in thousandths of the machine's memory added; None if it protects from being chosen.
fn biased(pages: u64, adjust: i32) -> Option<i64> {
    let total = hal::frames::stats().total as i64;
    (adjust > NEVER).then(|| pages as i64 + i64::from(adjust) * (total / 1000))
}

/// `/proc/PID/oom_score`: the badness, from 0 over 666 (nothing in memory, no bias) to 1333 or so.
pub fn score(process: &Arc<Process>) -> u64 {
    let total = (hal::frames::stats().total as i64).max(1);
    let points = badness(process).map_or(0, |badness| (1000 + badness * 1000 / total) * 2 / 3);
    u64::try_from(points).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_process_goes_only_if_it_is_the_problem() {
        let choose = |scores: &[(i64, i32)]| {
            let scores: Vec<(i64, &i32)> = scores.iter().map(|(score, pid)| (*score, pid)).collect();
            super::choose(&scores, 180, |pid| *pid == FIRST).copied()
        };
        assert_eq!(choose(&[(50, 1), (30, 2), (40, 3)]), Some(3));
        assert_eq!(choose(&[(100, 1), (30, 2), (40, 3)]), Some(1));
        assert_eq!(choose(&[(90, 1), (5, 2), (2, 3)]), Some(2), "something else has the memory");
        assert_eq!(choose(&[(100, 1)]), Some(1));
        assert_eq!(choose(&[(10, 1)]), None);
        assert_eq!(choose(&[(-5, 1), (-7, 2)]), Some(2));
        assert_eq!(choose(&[]), None);
    }
}
