//! Scheduling calls (sched(7), nice(2), getpriority(2)).
//!
//! One policy is real: `SCHED_OTHER` with nice values and affinity. The real-time policies are refused with
//! EPERM, as Linux does without `RLIMIT_RTPRIO`; BATCH and IDLE are accepted as OTHER.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Capabilities, pid::same_task};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    ns::user::IdKind,
    sched,
    syscall::{Ctx, Syscall, UserAddr, UserPtr},
    syscalls,
};

fn sched_yield(ctx: &mut Ctx<'_>) -> Result {
    sched::yield_now(ctx.task);
    Ok(0)
}

fn task_arg(ctx: &Ctx<'_>, tid: i32) -> Result<TaskRef> {
    match tid {
        0 => Ok(ctx.task.clone()),
        t if t < 0 => Err(Errno::EINVAL),
        t => ctx.task.pids().task(t),
    }
}

fn may_change(ctx: &Ctx<'_>, other: &TaskRef) -> Result<()> {
    let me = ctx.task.credentials();
    let them = other.credentials();
    let ok = same_task(ctx.task, other)
        || me.capable(Capabilities::SYS_NICE)
        || me.euid == them.euid
        || me.euid == them.uid;
    if ok { Ok(()) } else { Err(Errno::EPERM) }
}

fn online() -> u64 {
    let n = ringfence_hal::cpu::count();
    if n >= 64 { u64::MAX } else { (1 << n) - 1 }
}

fn sched_setaffinity(ctx: &mut Ctx<'_>, tid: i32, len: usize, mask: UserAddr) -> Result {
    let mut bytes = [0u8; 8];
    let n = len.min(8);
    ringfence_hal::user::copy_in(bytes.get_mut(..n).unwrap_or_default(), mask.0)?;
    let task = task_arg(ctx, tid).map_err(|_| Errno::ESRCH)?;
    may_change(ctx, &task)?;
    let mask = u64::from_ne_bytes(bytes) & online();
    if mask == 0 {
        return Err(Errno::EINVAL);
    }
    sched::set_affinity(&task, mask);
    Ok(0)
}

fn sched_getaffinity(ctx: &mut Ctx<'_>, tid: i32, len: usize, mask: UserPtr<u64>) -> Result {
    if len < 8 || !len.is_multiple_of(8) {
        return Err(Errno::EINVAL);
    }
    // Unlike the calls about policies, those about affinity know no invalid number, only one that is not there.
    mask.write(&(task_arg(ctx, tid).map_err(|_| Errno::ESRCH)?.sched.affinity() & online()))?;
    Ok(8)
}

const PRIO_PROCESS: i32 = 0;
const PRIO_PGRP: i32 = 1;
const PRIO_USER: i32 = 2;

/// The tasks `getpriority` and `setpriority` mean.
fn priority_targets(ctx: &Ctx<'_>, which: i32, who: i32) -> Result<alloc::vec::Vec<TaskRef>> {
    let pids = ctx.task.pids();
    let tasks: alloc::vec::Vec<TaskRef> = match which {
        PRIO_PROCESS if who == 0 => [ctx.task.clone()].into(),
        PRIO_PROCESS => pids.task(who).into_iter().collect(),
        PRIO_PGRP => {
            let group = if who == 0 { ctx.task.process().group() } else { pids.group(who)? };
            ctx.task.kernel().pids.members(&group).iter().flat_map(|p| p.threads()).collect()
        }
        PRIO_USER => {
            let me = ctx.task.credentials();
            let uid = match who {
                0 => me.uid,
                who => me.user_ns.to_kernel(IdKind::User, who as u32).ok_or(Errno::EINVAL)?,
            };
            let all = pids.processes().into_iter().flat_map(|p| p.threads());
            all.filter(|t| t.credentials().uid == uid).collect()
        }
        _ => return Err(Errno::EINVAL),
    };
    if tasks.is_empty() { Err(Errno::ESRCH) } else { Ok(tasks) }
}

fn getpriority(ctx: &mut Ctx<'_>, which: i32, who: i32) -> Result {
    let lowest = priority_targets(ctx, which, who)?.iter().map(|t| t.sched.nice()).min().unwrap_or(0);
    Ok((20 - lowest) as usize)
}

fn setpriority(ctx: &mut Ctx<'_>, which: i32, who: i32, nice: i32) -> Result {
    let nice = nice.clamp(-20, 19);
    for t in priority_targets(ctx, which, who)? {
        may_change(ctx, &t)?;
        if nice < t.sched.nice() && !ctx.task.credentials().capable(Capabilities::SYS_NICE) {
            return Err(Errno::EACCES);
        }
        t.sched.set_nice(nice);
    }
    Ok(0)
}

const SCHED_OTHER: i32 = 0;
const SCHED_FIFO: i32 = 1;
const SCHED_RR: i32 = 2;
const SCHED_BATCH: i32 = 3;
const SCHED_IDLE: i32 = 5;

fn sched_setscheduler(ctx: &mut Ctx<'_>, tid: i32, policy: i32, param: UserPtr<i32>) -> Result {
    let priority = param.non_null().ok_or(Errno::EINVAL)?.read()?;
    let task = task_arg(ctx, tid)?;
    may_change(ctx, &task)?;
    match policy & !0x4000_0000 {
        SCHED_OTHER | SCHED_BATCH | SCHED_IDLE if priority == 0 => Ok(0),
        SCHED_FIFO | SCHED_RR if (1..=99).contains(&priority) => Err(Errno::EPERM),
        _ => Err(Errno::EINVAL),
    }
}

fn sched_getscheduler(ctx: &mut Ctx<'_>, tid: i32) -> Result {
    task_arg(ctx, tid)?;
    Ok(SCHED_OTHER as usize)
}

fn sched_setparam(ctx: &mut Ctx<'_>, tid: i32, param: UserPtr<i32>) -> Result {
    sched_setscheduler(ctx, tid, SCHED_OTHER, param)
}

fn sched_getparam(ctx: &mut Ctx<'_>, tid: i32, param: UserPtr<i32>) -> Result {
    let param = param.non_null().ok_or(Errno::EINVAL)?;
    task_arg(ctx, tid)?;
    param.write(&0)?;
    Ok(0)
}

fn sched_get_priority_max(_: &mut Ctx<'_>, policy: i32) -> Result {
    match policy {
        SCHED_FIFO | SCHED_RR => Ok(99),
        SCHED_OTHER | SCHED_BATCH | SCHED_IDLE | 6 => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}

fn sched_get_priority_min(_: &mut Ctx<'_>, policy: i32) -> Result {
    match policy {
        SCHED_FIFO | SCHED_RR => Ok(1),
        SCHED_OTHER | SCHED_BATCH | SCHED_IDLE | 6 => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}

fn sched_rr_get_interval(ctx: &mut Ctx<'_>, tid: i32, interval: UserPtr<crate::time::TimeSpec>) -> Result {
    task_arg(ctx, tid)?;
    interval.write(&crate::time::TimeSpec::from_ns(sched::SLICE_NS))?;
    Ok(0)
}

/// `struct sched_attr`, first version.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

fn sched_getattr(ctx: &mut Ctx<'_>, tid: i32, attr: UserPtr<SchedAttr>, size: u32, flags: u32) -> Result {
    if flags != 0 || attr.is_null() || (size as usize) < size_of::<SchedAttr>() {
        return Err(Errno::EINVAL);
    }
    let nice = task_arg(ctx, tid)?.sched.nice();
    let size = size_of::<SchedAttr>() as u32;
    attr.write(&SchedAttr {
        size,
        policy: 0,
        flags: 0,
        nice,
        priority: 0,
        runtime: 0,
        deadline: 0,
        period: 0,
    })?;
    Ok(0)
}

fn getcpu(_: &mut Ctx<'_>, cpu: UserPtr<u32>, node: UserPtr<u32>) -> Result {
    cpu.write_opt(&(ringfence_hal::cpu::id() as u32))?;
    node.write_opt(&0)?;
    Ok(0)
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    24 sched_yield() Full "";
    140 getpriority(which: i32, who: i32) Full "";
    141 setpriority(which: i32, who: i32, prio: i32) Full "";
    142 sched_setparam(pid: i32, param: UserPtr<i32>) Partial "SCHED_OTHER only";
    143 sched_getparam(pid: i32, param: UserPtr<i32>) Partial "SCHED_OTHER only";
    144 sched_setscheduler(pid: i32, policy: i32, param: UserPtr<i32>) Partial "real-time policies are EPERM";
    145 sched_getscheduler(pid: i32) Partial "SCHED_OTHER only";
    146 sched_get_priority_max(policy: i32) Full "";
    147 sched_get_priority_min(policy: i32) Full "";
    148 sched_rr_get_interval(pid: i32, interval: UserPtr<crate::time::TimeSpec>) Full "";
    203 sched_setaffinity(pid: i32, len: usize, mask: UserAddr) Full "";
    204 sched_getaffinity(pid: i32, len: usize, mask: UserPtr<u64>) Full "";
    309 getcpu(cpu: UserPtr<u32>, node: UserPtr<u32>) Full "";
    315 sched_getattr(pid: i32, attr: UserPtr<SchedAttr>, size: u32, flags: u32) Partial "SCHED_OTHER only";
};
