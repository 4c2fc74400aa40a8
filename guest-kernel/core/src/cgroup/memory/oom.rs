//! A full group: making room in it, killing in it, slowing it down.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use ringfence_hal as hal;

use super::{Event, Memory, drain_all, find};
use crate::{
    TaskRef,
    cgroup::{Cgroup, MAX, files},
    mm::{
        charge::Room,
        oom::{self, Kill},
        reclaim,
    },
    sched,
    signal::{self, Signal},
    sync::Interruptible,
    task::{Process, process::ExitStatus},
};

impl Cgroup {
    /// The group in this chain that `memory` belongs to.
    fn of_memory(self: &Arc<Self>, memory: &Memory) -> Option<Arc<Cgroup>> {
        core::iter::successors(Some(self), |group| group.parent())
            .find(|group| group.id() == memory.id)
            .cloned()
    }
}

/// Tells those who watch `memory.events` of `group` and those above about what is new.
fn tell(group: &Arc<Cgroup>) {
    for group in group.chain() {
        if group.memory.untold.swap(false, Ordering::AcqRel) {
            files::changed(group, "memory.events", &group.memory.notifier);
            files::changed(group, "memory.events.local", &group.memory.notifier_local);
        }
    }
}

fn kill(process: &Arc<Process>) {
    signal::kill_process(process, ExitStatus::Signal(Signal::KILL.number(), false));
}

/// `task` could not get a frame. If that was because its group was full: makes room there.
pub(super) fn make_room(task: &TaskRef) -> Room {
    let Some(group) = task.process().cgroup.get() else { return Room::NotFull };
    let Some(memory) = find(task.process().cgroup.payer()) else { return Room::NotFull };
    drain_all();
    let was_short = memory.chain().filter(|m| m.short.swap(false, Ordering::AcqRel)).count() > 0;
    let room = match memory.chain().find(|m| m.is_full()) {
        Some(full) => relieve(&group, full).unwrap_or_else(|| {
            if !task.killed() {
                kill(task.process()); // nobody may be chosen: the one who asks goes
            }
            Room::Made
        }),
        None if was_short => Room::Made,
        None => return Room::NotFull,
    };
    tell(&group);
    room
}

/// Gives up caches, or kills one of those below `full`, which is full and above (or the one of) `group`. `None` if nobody
/// may be killed.
fn relieve(group: &Arc<Cgroup>, full: &Memory) -> Option<Room> {
    reclaim::run();
    drain_all();
    if !full.is_full() {
        return Some(Room::Made);
    }
    let Some(domain) = group.of_memory(full) else { return Some(Room::Made) };
    full.note(Event::Oom);
    match oom::kill_one_of(&domain.members(true), full.current()) {
        Kill::Nobody => None,
        Kill::Dying(process) => Some(Room::Dying(process)),
        Kill::Killed(victim) => {
            victim_chosen(&victim, Some(&domain));
            Some(Room::Dying(victim))
        }
    }
}

/// `victim` was killed because memory was out in `domain` (`None`: in the machine): `memory.oom.group` has the others of its
/// group go with it.
pub fn victim_chosen(victim: &Process, domain: Option<&Arc<Cgroup>>) {
    let Some(own) = victim.cgroup.get() else { return };
    let inside =
        |group: &&Arc<Cgroup>| !group.is_root() && domain.is_none_or(|domain| group.is_below(domain));
    let with_group = core::iter::successors(Some(&own), |group| group.parent())
        .take_while(inside)
        .filter(|group| group.memory.oom_group.load(Ordering::Relaxed))
        .last();
    let Some(group) = with_group else { return };
    group.memory.note(Event::OomGroupKill);
    for process in group.members(true).iter().filter(|p| !oom::is_spared(p)) {
        kill(process);
        killed(process); // as on Linux, the victim counts again
    }
}

/// `process` was killed because memory was out somewhere: counts it in its group.
pub fn killed(process: &Process) {
    let Some(group) = process.cgroup.get() else { return };
    if let Some(memory) = find(process.cgroup.payer()) {
        memory.note(Event::OomKill);
        tell(&group);
    }
}

/// Before `task` returns to user mode: who watches its group's events is told; a group that was too full for a system call
/// gets room; and a group above `memory.high` is slowed down.
pub fn notify_resume(task: &TaskRef) {
    let Some(group) = task.process().cgroup.get() else { return };
    let Some(memory) = find(task.process().cgroup.payer()) else { return };
    if memory.chain().any(|m| m.short.load(Ordering::Acquire))
        && let Room::Dying(process) = make_room(task)
    {
        // It would fail again, as fast as it can.
        oom::wait_for(task, &process, Interruptible::Killable);
    }
    tell(&group);
    let penalty =
        memory.chain().map(|m| penalty(m.frames.load(Ordering::Relaxed), m.high.load(Ordering::Relaxed)));
    let penalty = penalty.max().unwrap_or(0);
    if penalty >= PENALTY_MIN {
        reclaim::run();
        let until = hal::time::now().saturating_add(penalty);
        let _ = sched::sleep_until(task, Interruptible::Killable, Some(until), || None::<()>); // it is to time out
    }
}

/// Shorter ones are not worth sleeping for.
const PENALTY_MIN: u64 = 10_000_000;
const PENALTY_MAX: u64 = 2_000_000_000;

/// How long a task of a group with `frames` above `high` sleeps for each batch it takes, in nanoseconds: as Linux, with the
/// square of the share by which it is above, 2 s at most.
fn penalty(frames: u64, high: u64) -> u64 {
    if high == MAX || frames <= high {
        return 0;
    }
    let share = (u128::from(frames - high) << 20) / u128::from(high.max(1));
    let share = share.min(1 << 40);
    u64::try_from((share * share * 1_000_000_000) >> 34).unwrap_or(PENALTY_MAX).min(PENALTY_MAX)
}

/// A limit of `group` was lowered: makes room until it holds, nobody is left to be killed, or `task` has better to do.
pub(in crate::cgroup) fn enforce(task: &TaskRef, group: &Arc<Cgroup>) {
    loop {
        let memory = &group.memory;
        if memory.current() <= memory.max.load(Ordering::Relaxed) || task.interrupted() {
            break;
        }
        match relieve(group, memory) {
            None => break,
            Some(Room::Dying(process)) => oom::wait_for(task, &process, Interruptible::Yes),
            Some(_) => sched::yield_now(task),
        }
    }
    tell(group);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_penalty_grows_with_the_square() {
        assert_eq!(penalty(100, MAX), 0);
        assert_eq!(penalty(100, 100), 0);
        let (little, more) = (penalty(1010, 1000), penalty(1020, 1000));
        assert!(little > 0 && (3 * little..5 * little).contains(&more), "{little} {more}");
        assert_eq!(penalty(1_000_000, 1), PENALTY_MAX);
        assert_eq!(penalty(5, 0), PENALTY_MAX);
    }
}
