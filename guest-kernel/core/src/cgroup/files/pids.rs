//! Files of the pids controller.

use alloc::string::String;
use core::sync::atomic::{AtomicU64, Ordering};

use super::file::{Entry, Place, emit, parse_max, show_max};
use crate::{
    errno::{Errno, Result},
    task::pid::PID_MAX,
};

pub(super) const ENTRIES: &[Entry] = &[
    Entry::write(
        "pids.max",
        Place::NotRoot,
        |v, out| {
            emit!(out, "{}\n", show_max(v.group.pids.max.load(Ordering::Relaxed)));
            Ok(())
        },
        |c, text| {
            let max = parse_max(text)?;
            if max != u64::MAX && max > PIDS_MAX {
                return Err(Errno::EINVAL);
            }
            c.group.pids.max.store(max, Ordering::Relaxed);
            Ok(())
        },
    ),
    Entry::read("pids.current", Place::NotRoot, |v, out| number(out, &v.group.pids.current)),
    Entry::read("pids.peak", Place::NotRoot, |v, out| number(out, &v.group.pids.peak)),
    Entry::events(
        "pids.events",
        |v, out| {
            emit!(out, "max ");
            number(out, &v.group.pids.refused)
        },
        |group| &group.pids.events,
    ),
];

/// Linux: `PID_MAX_LIMIT`, 4 million.
const PIDS_MAX: u64 = 4 << 20;
const _: () = assert!((PID_MAX as u64) <= PIDS_MAX);

fn number(out: &mut String, value: &AtomicU64) -> Result<()> {
    emit!(out, "{}\n", value.load(Ordering::Relaxed));
    Ok(())
}
