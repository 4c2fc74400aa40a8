//! Out of memory: somebody has to go.
//!
//! As Linux does, the process that uses the most memory is killed, its choice biased by `oom_score_adj`. If one
//! is dying already, its memory is waited for instead of killing another.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use ringfence_hal as hal;

use crate::{
    TaskRef, sched,
    signal::{self, Signal},
    task::{Process, process::ExitStatus},
};

/// A value of `oom_score_adj` that protects from being chosen.
const NEVER: i32 = -1000;

/// Called when an allocation for a program failed, without locks: ends a process, or lets a dying one run.
pub(super) fn make_room(task: &TaskRef) {
    let processes = task.kernel().pids.processes();
    let dying = |p: &Arc<Process>| p.is_exiting() && p.threads().iter().any(|t| t.mm_opt().is_some());
    if !processes.iter().any(dying) {
        let victim = processes.iter().filter_map(|p| Some((score(p)?, p))).max_by_key(|(score, _)| *score);
        if let Some((_, victim)) = victim {
            hal::log!(Warn, "out of memory: killing process {} ({} pages)", victim.pid, resident(victim));
            signal::kill_process(victim, ExitStatus::Signal(Signal::KILL.number(), false));
        } else {
            // Nobody may be chosen: the one who asks goes.
            signal::kill_process(task.process(), ExitStatus::Signal(Signal::KILL.number(), false));
        }
    }
    if !task.killed() {
        sched::yield_now(task);
    }
}

fn resident(process: &Process) -> u64 {
    process.threads().iter().find_map(|t| t.mm_opt()).map_or(0, |mm| mm.space().resident() as u64)
}

/// How much sense it makes to kill `process`; None if it must not be.
fn score(process: &Arc<Process>) -> Option<i64> {
    let adjust = process.oom_score_adj.load(Ordering::Relaxed);
    let pages = resident(process);
    if adjust <= NEVER || pages == 0 || process.is_exiting() {
        return None;
    }
    let total = hal::frames::stats().total as i64;
    Some(pages as i64 + i64::from(adjust) * total / 1000)
}
