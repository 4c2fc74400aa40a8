//! ioprio_get, ioprio_set (their manual page): the priority of a task's I/O.
//!
//! There is no disk whose requests could be ordered, so as on Linux with the `none` scheduler a priority is kept,
//! inherited and told, and changes nothing else.

use alloc::{vec, vec::Vec};
use core::sync::atomic::Ordering;

use super::Capabilities;
use crate::{
    TaskRef,
    errno::{Errno, Result},
    syscall::{Ctx, Syscall},
    syscalls,
};

const PROCESS: i32 = 1;
const PGRP: i32 = 2;
const USER: i32 = 3;

const CLASS_SHIFT: u32 = 13;
const NONE: u32 = 0;
const REAL_TIME: u32 = 1;
const BEST_EFFORT: u32 = 2;
const IDLE: u32 = 3;
/// Levels of a class.
const LEVELS: u32 = 8;

/// The tasks that `which` and `who` mean.
fn tasks(ctx: &Ctx<'_>, which: i32, who: i32) -> Result<Vec<TaskRef>> {
    let pids = &ctx.task.kernel().pids;
    let threads = |p: Vec<alloc::sync::Arc<super::Process>>| p.iter().flat_map(|p| p.threads()).collect();
    let found: Vec<TaskRef> = match (which, who) {
        (PROCESS, 0) => vec![ctx.task.clone()],
        (PROCESS, tid) => vec![ctx.task.pids().task(tid)?],
        (PGRP, 0) => threads(pids.members(&ctx.task.process().group())),
        (PGRP, pgid) => threads(pids.members(&ctx.task.pids().group(pgid)?)),
        (USER, uid) => {
            let uid = if uid == 0 { ctx.task.credentials().uid } else { uid as u32 };
            let all: Vec<TaskRef> = threads(ctx.task.pids().processes());
            all.into_iter().filter(|t| t.credentials().uid == uid).collect()
        }
        _ => return Err(Errno::EINVAL),
    };
    if found.is_empty() { Err(Errno::ESRCH) } else { Ok(found) }
}

fn ioprio_set(ctx: &mut Ctx<'_>, which: i32, who: i32, ioprio: u32) -> Result {
    let ioprio = ioprio & 0xffff;
    let (class, level) = (ioprio >> CLASS_SHIFT, ioprio & (LEVELS - 1)); // between them: hints
    let me = ctx.task.credentials();
    match class {
        REAL_TIME if !me.capable(Capabilities::SYS_ADMIN) && !me.capable(Capabilities::SYS_NICE) => {
            return Err(Errno::EPERM);
        }
        REAL_TIME | BEST_EFFORT if level < LEVELS => {}
        IDLE => {}
        NONE if level == 0 => {}
        _ => return Err(Errno::EINVAL),
    }
    for task in tasks(ctx, which, who)? {
        let it = task.credentials();
        if it.uid != me.euid && it.uid != me.uid && !me.capable(Capabilities::SYS_NICE) {
            return Err(Errno::EPERM);
        }
        task.ioprio.store(ioprio, Ordering::Relaxed);
    }
    Ok(0)
}

fn ioprio_get(ctx: &mut Ctx<'_>, which: i32, who: i32) -> Result {
    // The best of them: the lowest class that is one, then the lowest level.
    let rank = |p: u32| if p >> CLASS_SHIFT == NONE { BEST_EFFORT << CLASS_SHIFT | 4 } else { p };
    let all = tasks(ctx, which, who)?;
    let best = all.iter().map(|t| t.ioprio.load(Ordering::Relaxed)).min_by_key(|p| rank(*p));
    Ok(best.unwrap_or(0) as usize)
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    251 ioprio_set(which: i32, who: i32, ioprio: u32) Full "";
    252 ioprio_get(which: i32, who: i32) Full "";
};
