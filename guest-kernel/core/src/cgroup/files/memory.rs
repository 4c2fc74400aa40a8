//! Files of the memory controller.

use alloc::string::String;
use core::sync::atomic::{AtomicU64, Ordering};

use super::file::{Change, Entry, Place, View, emit};
use crate::{
    cgroup::memory::{self, EVENTS, limit},
    errno::{Errno, Result},
    mm::{PAGE_SIZE, charge::Kind, reclaim},
    task::limits::UsageSum,
};

macro_rules! kept {
    ($name:literal, $field:ident) => {
        Entry::write(
            $name,
            Place::NotRoot,
            |v, out| line(out, &limit::show(v.group.memory.$field.load(Ordering::Relaxed))),
            |c, text| {
                c.group.memory.$field.store(limit::parse(text)?, Ordering::Relaxed);
                Ok(())
            },
        )
    };
}

pub(super) const ENTRIES: &[Entry] = &[
    Entry::read("memory.current", Place::NotRoot, |v, out| line(out, &limit::show(v.group.memory.current()))),
    Entry::read("memory.peak", Place::NotRoot, |v, out| {
        line(out, &limit::show(v.group.memory.peak.load(Ordering::Relaxed)))
    }),
    kept!("memory.min", min),
    kept!("memory.low", low),
    kept!("memory.high", high),
    Entry::write(
        "memory.max",
        Place::NotRoot,
        |v, out| line(out, &limit::show(v.group.memory.max.load(Ordering::Relaxed))),
        set_max,
    ),
    Entry::events("memory.events", |v, out| events(out, &v.group.memory.events), |g| &g.memory.notifier),
    Entry::events(
        "memory.events.local",
        |v, out| events(out, &v.group.memory.events_local),
        |g| &g.memory.notifier_local,
    ),
    Entry::read("memory.stat", Place::NotRoot, stat),
    Entry::write(
        "memory.oom.group",
        Place::NotRoot,
        |v, out| line(out, if v.group.memory.oom_group.load(Ordering::Relaxed) { "1" } else { "0" }),
        set_oom_group,
    ),
    Entry::write_only("memory.reclaim", Place::All, reclaim),
    // There is no swap.
    Entry::read("memory.swap.current", Place::NotRoot, |_, out| line(out, "0")),
    kept!("memory.swap.high", swap_high),
    kept!("memory.swap.max", swap_max),
    Entry::read("memory.swap.events", Place::NotRoot, |_, out| line(out, "high 0\nmax 0\nfail 0")),
];

fn line(out: &mut String, text: &str) -> Result<()> {
    out.push_str(text);
    out.push('\n');
    Ok(())
}

fn events(out: &mut String, counters: &[AtomicU64; 6]) -> Result<()> {
    for (name, counter) in EVENTS.iter().zip(counters) {
        emit!(out, "{name} {}\n", counter.load(Ordering::Relaxed));
    }
    Ok(())
}

fn set_max(c: &Change<'_>, text: &str) -> Result<()> {
    c.group.memory.max.store(limit::parse(text)?, Ordering::Relaxed);
    memory::enforce(c.task, c.group);
    Ok(())
}

fn set_oom_group(c: &Change<'_>, text: &str) -> Result<()> {
    let on = match text {
        "0" => false,
        "1" => true,
        _ => return Err(Errno::EINVAL),
    };
    c.group.memory.oom_group.store(on, Ordering::Relaxed);
    Ok(())
}

/// `EAGAIN` if less than was asked for could be given up.
fn reclaim(c: &Change<'_>, text: &str) -> Result<()> {
    let wanted = limit::bytes(text)? / PAGE_SIZE;
    let before = c.group.memory.current();
    let freed = reclaim::run() as u64;
    let gained = if c.group.is_root() { freed } else { before.saturating_sub(c.group.memory.current()) };
    if gained >= wanted { Ok(()) } else { Err(Errno::EAGAIN) }
}

/// What Linux shows and there is nothing of here.
const NOTHING: &[&str] = &[
    "workingset_refault_anon",
    "workingset_refault_file",
    "workingset_activate_anon",
    "workingset_activate_file",
    "workingset_restore_anon",
    "workingset_restore_file",
    "workingset_nodereclaim",
    "pgscan",
    "pgsteal",
    "pgscan_kswapd",
    "pgscan_direct",
    "pgsteal_kswapd",
    "pgsteal_direct",
];
const NOTHING_AT_THE_END: &[&str] = &[
    "pgmajfault",
    "pgrefill",
    "pgactivate",
    "pgdeactivate",
    "pglazyfree",
    "pglazyfreed",
    "thp_fault_alloc",
    "thp_collapse_alloc",
];

fn stat(v: &View<'_>, out: &mut String) -> Result<()> {
    let memory = &v.group.memory;
    memory.current(); // has the CPUs tell what they have counted
    let bytes = |kind| memory.of_kind(kind) * PAGE_SIZE;
    let (anon, shmem, cache, kernel) =
        (bytes(Kind::Anonymous), bytes(Kind::Shared), bytes(Kind::Cache), bytes(Kind::Kernel));
    let sizes = [
        ("anon", anon),
        ("file", shmem + cache),
        ("kernel", kernel),
        ("kernel_stack", 0),
        ("pagetables", 0),
        ("sec_pagetables", 0),
        ("percpu", 0),
        ("sock", 0),
        ("vmalloc", 0),
        ("shmem", shmem),
        ("file_mapped", 0),
        ("file_dirty", 0),
        ("file_writeback", 0),
        ("swapcached", 0),
        ("anon_thp", 0),
        ("file_thp", 0),
        ("shmem_thp", 0),
        ("inactive_anon", 0),
        ("active_anon", anon + shmem),
        ("inactive_file", cache),
        ("active_file", 0),
        ("unevictable", 0),
        ("slab_reclaimable", 0),
        ("slab_unreclaimable", 0),
        ("slab", 0),
    ];
    sizes.iter().for_each(|(name, size)| emit!(out, "{name} {size}\n"));
    NOTHING.iter().for_each(|name| emit!(out, "{name} 0\n"));
    // Of the processes that are in it now.
    let faults: u64 = v.group.members(true).iter().map(|p| UsageSum::of_process(p).minor_faults()).sum();
    emit!(out, "pgfault {faults}\n");
    NOTHING_AT_THE_END.iter().for_each(|name| emit!(out, "{name} 0\n"));
    Ok(())
}
