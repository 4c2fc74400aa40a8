//! Counters for `--stats`, and when the start reached which point.

use alloc::{borrow::ToOwned, vec::Vec};

use ringfence_hal as hal;
use ringfence_protocol::{GuestStats, Phase, SyscallCount};

use crate::{kernel, sched, sync::SpinLock, syscall, task::limits};

/// Points kept.
const MAX_PHASES: usize = 16;

static PHASES: SpinLock<Vec<(&'static str, u64)>> = SpinLock::new(Vec::new());

/// The start has reached a point.
pub fn phase(name: &'static str) {
    let now = hal::time::now();
    let mut phases = PHASES.lock();
    if phases.len() < MAX_PHASES {
        phases.push((name, now));
    }
}

/// The counters now.
pub fn collect() -> GuestStats {
    let frames = hal::frames::stats();
    GuestStats {
        frames_total: frames.total as u64,
        frames_free: frames.free as u64,
        frames_touched: frames.touched as u64,
        frames_user: frames.user as u64,
        phases: PHASES
            .lock()
            .iter()
            .map(|(name, at)| Phase { name: (*name).to_owned(), at_ns: *at })
            .collect(),
        syscalls: syscall::counts().map(|(nr, count)| SyscallCount { nr: nr as u32, count }).collect(),
        page_faults: limits::page_faults(&kernel::kernel().pids.processes()),
        context_switches: sched::context_switches(),
    }
}
