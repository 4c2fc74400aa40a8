//! The files every group has.

use alloc::string::String;
use core::sync::atomic::{AtomicU64, Ordering};

use super::{
    check_may_write_procs,
    file::{Change, Entry, Place, View, emit, parse_max, show_max},
};
use crate::{
    cgroup::{CONTROLLERS, Controllers, freezer, root_of},
    errno::{Errno, Result},
    fs::Subject,
    task::Pid,
};

pub(super) const ENTRIES: &[Entry] = &[
    Entry::write("cgroup.type", Place::NotRoot, |_, out| text(out, "domain"), set_type),
    Entry::write("cgroup.procs", Place::All, procs, set_procs),
    Entry::write("cgroup.threads", Place::All, threads, set_threads),
    Entry::read("cgroup.controllers", Place::All, |v, out| names(v.group.controllers(), out)),
    Entry::write(
        "cgroup.subtree_control",
        Place::All,
        |v, out| names(v.group.subtree_control(), out),
        |c, text| c.group.control(text),
    ),
    Entry::events("cgroup.events", events, |group| &group.events),
    Entry::write(
        "cgroup.max.descendants",
        Place::All,
        |v, out| text(out, &show_max(v.group.max_descendants.load(Ordering::Relaxed))),
        |c, text| set_limit(&c.group.max_descendants, text),
    ),
    Entry::write(
        "cgroup.max.depth",
        Place::All,
        |v, out| text(out, &show_max(v.group.max_depth.load(Ordering::Relaxed))),
        |c, text| set_limit(&c.group.max_depth, text),
    ),
    Entry::read("cgroup.stat", Place::All, stat),
    Entry::write(
        "cgroup.freeze",
        Place::NotRoot,
        |v, out| text(out, if freezer::is_wanted(v.group) { "1" } else { "0" }),
        set_freeze,
    ),
    Entry::write_only("cgroup.kill", Place::NotRoot, kill),
];

/// One line.
fn text(out: &mut String, line: &str) -> Result<()> {
    out.push_str(line);
    out.push('\n');
    Ok(())
}

fn names(set: Controllers, out: &mut String) -> Result<()> {
    for (_, name) in CONTROLLERS.iter().filter(|(c, _)| set.contains(*c)) {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(name);
    }
    if !out.is_empty() {
        out.push('\n');
    }
    Ok(())
}

/// As Linux: an `int`, or `max`.
fn limit(text: &str) -> Result<u64> {
    if text == "max" {
        return parse_max(text);
    }
    let value: i64 = text.parse().map_err(|_| Errno::EINVAL)?;
    u64::try_from(value).ok().filter(|value| *value <= i32::MAX as u64).ok_or(Errno::ERANGE)
}

fn set_limit(to: &AtomicU64, text: &str) -> Result<()> {
    to.store(limit(text)?, Ordering::Relaxed);
    Ok(())
}

/// There are no threaded groups.
fn set_type(_: &Change<'_>, text: &str) -> Result<()> {
    Err(if text == "threaded" { Errno::EOPNOTSUPP } else { Errno::EINVAL })
}

fn procs(v: &View<'_>, out: &mut String) -> Result<()> {
    v.group.members(false).iter().for_each(|process| emit!(out, "{}\n", process.pid));
    Ok(())
}

fn threads(v: &View<'_>, out: &mut String) -> Result<()> {
    for process in v.group.members(false) {
        process.threads().iter().for_each(|task| emit!(out, "{}\n", task.tid()));
    }
    Ok(())
}

fn pid(text: &str) -> Result<Pid> {
    text.parse().ok().filter(|pid| *pid >= 0).ok_or(Errno::EINVAL)
}

/// Moves a process. Whoever opened the file needs the right to write `cgroup.procs` in the nearest group above both
/// source and target, and both must be below what it sees as the root.
fn set_procs(c: &Change<'_>, text: &str) -> Result<()> {
    let process = match pid(text)? {
        0 => c.task.process().clone(),
        pid => c.task.pids().task(pid)?.process().clone(),
    };
    let from = process.cgroup.group();
    let root = root_of(c.task);
    if !from.is_below(&root) || !c.group.is_below(&root) {
        return Err(Errno::ENOENT);
    }
    let above = c.group.common_ancestor(&from);
    check_may_write_procs(&above, &Subject::of(c.opener))?;
    c.group.attach(&process)
}

/// A thread can only be moved within a threaded subtree, of which there are none: to where it is already.
fn set_threads(c: &Change<'_>, text: &str) -> Result<()> {
    let task = match pid(text)? {
        0 => c.task.clone(),
        tid => c.task.pids().task(tid)?,
    };
    c.group.check_accepts_processes()?;
    if task.process().cgroup.group().id() == c.group.id() { Ok(()) } else { Err(Errno::EOPNOTSUPP) }
}

fn events(v: &View<'_>, out: &mut String) -> Result<()> {
    let frozen = v.group.freezer.frozen.load(Ordering::Relaxed);
    emit!(out, "populated {}\nfrozen {}\n", u8::from(v.group.is_populated()), u8::from(frozen));
    Ok(())
}

fn stat(v: &View<'_>, out: &mut String) -> Result<()> {
    let (living, dying) =
        (v.group.descendants.load(Ordering::Relaxed), v.group.dying.load(Ordering::Relaxed));
    emit!(out, "nr_descendants {living}\nnr_dying_descendants {dying}\n");
    Ok(())
}

fn set_freeze(c: &Change<'_>, text: &str) -> Result<()> {
    let wanted: i32 = text.parse().map_err(|_| Errno::EINVAL)?;
    if !(0..=1).contains(&wanted) {
        return Err(Errno::ERANGE);
    }
    freezer::set_wanted(c.group, wanted == 1);
    Ok(())
}

fn kill(c: &Change<'_>, text: &str) -> Result<()> {
    let value: i32 = text.parse().map_err(|_| Errno::EINVAL)?;
    if value != 1 {
        return Err(Errno::ERANGE);
    }
    freezer::kill(c.group, c.task)
}
