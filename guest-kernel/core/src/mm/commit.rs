//! Promises of memory: overcommit (`Documentation/mm/overcommit-accounting.rst`).
//!
//! Linux counts the memory that programs could come to need (`Committed_AS`): private writable mappings, shared anonymous
//! ones, pages of tmpfs. `/proc/sys/vm/overcommit_memory` says what to do about it: 0 refuses a single mapping larger than
//! the machine, 1 refuses nothing, 2 keeps the sum below `overcommit_ratio` percent of memory (or `overcommit_kbytes`).
//! There is no swap here. `MAP_NORESERVE` mappings are not counted, except in mode 2. Of the reserves of mode 2 we keep
//! the one for recovering users (a 32nd of the process, at most 128 MiB), not the one for the administrator.
//!
//! The sum is kept for each CPU apart, so that `mmap` on one does not disturb another; an [`Mm`](super::Mm) settles the
//! difference between what its mappings are worth and what it has announced whenever they changed.

use core::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use ringfence_hal as hal;

use super::PAGE_SIZE;
use crate::{
    errno::{Errno, Result},
    sync::Once,
};

/// Refuse only what could never be had.
const HEURISTIC: u64 = 0;
/// Refuse nothing.
const ALWAYS: u64 = 1;
/// Keep the sum below the limit.
const NEVER: u64 = 2;
/// `user_reserve_kbytes`, in pages.
const USER_RESERVE: u64 = (128 << 20) / PAGE_SIZE;

/// `/proc/sys/vm/overcommit_memory`.
pub static MODE: AtomicU64 = AtomicU64::new(HEURISTIC);
/// `/proc/sys/vm/overcommit_ratio`, in percent.
pub static RATIO: AtomicU64 = AtomicU64::new(50);
/// `/proc/sys/vm/overcommit_kbytes`; 0 for the ratio to count.
pub static KBYTES: AtomicU64 = AtomicU64::new(0);

static SUM: Once<hal::PerCpu<AtomicI64>> = Once::new();

/// Whether `MAP_NORESERVE` counts for nothing.
pub(super) fn is_strict() -> bool {
    MODE.load(Ordering::Relaxed) == NEVER
}

/// Pages promised (`Committed_AS`).
pub fn committed() -> u64 {
    let sum = SUM.get().map_or(0, |sum| sum.iter().map(|n| n.load(Ordering::Relaxed)).sum::<i64>());
    u64::try_from(sum).unwrap_or(0)
}

/// Pages that may be promised in mode 2 (`CommitLimit`).
pub fn limit() -> u64 {
    match KBYTES.load(Ordering::Relaxed) {
        0 => total() / 100 * RATIO.load(Ordering::Relaxed),
        kbytes => kbytes / (PAGE_SIZE / 1024),
    }
}

/// Notes that `pages` more (or less) are promised.
pub fn add(pages: i64) {
    if pages != 0 {
        SUM.call_once(|| hal::PerCpu::new(|_| AtomicI64::new(0))).get().fetch_add(pages, Ordering::Relaxed);
    }
}

/// Whether `pages` more may be promised to a process that has `size` pages of mappings. ENOMEM.
pub fn check(pages: u64, size: u64) -> Result<()> {
    let fits = match MODE.load(Ordering::Relaxed) {
        ALWAYS => true,
        NEVER => {
            let allowed = limit().saturating_sub((size / 32).min(USER_RESERVE));
            committed().saturating_add(pages) <= allowed
        }
        _ => pages <= total(),
    };
    if fits { Ok(()) } else { Err(Errno::ENOMEM) }
}

/// Frames of the machine.
fn total() -> u64 {
    static TOTAL: Once<u64> = Once::new();
    *TOTAL.call_once(|| hal::frames::stats().total as u64)
}
