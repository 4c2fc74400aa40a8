//! Scheduling calls (sched(7), nice(2), getpriority(2)).
//!
//! What the policies do is said in [`realtime`]. Who may have which: nice values below what one has need
//! `RLIMIT_NICE`, real-time priorities `RLIMIT_RTPRIO`, or `CAP_SYS_NICE`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Capabilities, limits::Resource, pid::same_task};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    ns::user::IdKind,
    sched::{
        self,
        realtime::{self, Policy},
    },
    syscall::{Ctx, Syscall, UserAddr, UserPtr, args::read_versioned},
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
        let limit = t.process().limits.soft(Resource::Nice);
        let allowed = (20 - nice) as u64 <= limit || ctx.task.credentials().capable(Capabilities::SYS_NICE);
        if nice < t.sched.nice() && !allowed {
            return Err(Errno::EACCES);
        }
        t.sched.set_nice(nice);
    }
    Ok(0)
}

/// In a policy's number: `SCHED_RESET_ON_FORK`.
const RESET_ON_FORK: u32 = 0x4000_0000;

/// `struct sched_attr`, first version. The second adds what needs utilization clamping, which there is not.
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
    util: [u32; 2],
}

/// Bytes of the first version, and of all.
const ATTR_FIRST: usize = 48;
const ATTR_SIZE: usize = size_of::<SchedAttr>();

/// `SCHED_FLAG_*`.
mod flag {
    pub const RESET_ON_FORK: u64 = 1;
    pub const KEEP_POLICY: u64 = 8;
    pub const KEEP_PARAMS: u64 = 0x10;
    pub const UTIL_CLAMP: u64 = 0x60;
    pub const ALL: u64 = 0x7f;
}

/// What a caller wants of a task's scheduling.
#[derive(Clone, Copy)]
struct Wanted {
    /// `None`: the policy it has.
    policy: Option<u32>,
    reset_on_fork: bool,
    priority: u32,
    nice: i32,
    /// All that was asked for is whether it would be allowed (`SCHED_FLAG_KEEP_PARAMS`, as Linux understands it).
    keep: bool,
}

fn is_realtime(policy: u32) -> bool {
    matches!(policy, realtime::FIFO | realtime::RR)
}

/// Checks what is asked for as Linux does, and does it.
fn change(ctx: &Ctx<'_>, task: &TaskRef, wanted: Wanted) -> Result<()> {
    let now = task.sched.policy();
    let number = wanted.policy.unwrap_or(now.number);
    let reset_on_fork = if wanted.policy.is_some() { wanted.reset_on_fork } else { now.reset_on_fork };
    let known = matches!(
        number,
        realtime::OTHER
            | realtime::FIFO
            | realtime::RR
            | realtime::BATCH
            | realtime::IDLE
            | realtime::DEADLINE
    );
    let fits = wanted.priority <= 99 && is_realtime(number) == (wanted.priority != 0);
    if !known || !fits {
        return Err(Errno::EINVAL);
    }
    let me = ctx.task.credentials();
    let them = task.credentials();
    let limit = |resource| task.process().limits.soft(resource);
    let may_be_nice = |nice: i32| (20 - nice) as u64 <= limit(Resource::Nice);
    let privileged = || me.capable(Capabilities::SYS_NICE);
    let ordinary = matches!(number, realtime::OTHER | realtime::BATCH);
    let needs_privilege = (ordinary && wanted.nice < task.sched.nice() && !may_be_nice(wanted.nice))
        || (is_realtime(number)
            && ((number != now.number && limit(Resource::RealtimePriority) == 0)
                || (wanted.priority > now.priority
                    && u64::from(wanted.priority) > limit(Resource::RealtimePriority))))
        || number == realtime::DEADLINE
        || (now.number == realtime::IDLE && number != realtime::IDLE && !may_be_nice(task.sched.nice()))
        || !(me.euid == them.euid || me.euid == them.uid)
        || (now.reset_on_fork && !reset_on_fork);
    if needs_privilege && !privileged() {
        return Err(Errno::EPERM);
    }
    if number == realtime::DEADLINE {
        return Err(Errno::EBUSY); // no bandwidth is admitted
    }
    if wanted.keep {
        return Ok(());
    }
    if ordinary {
        task.sched.set_nice(wanted.nice);
    }
    realtime::set_policy(task, Policy { number, priority: wanted.priority, reset_on_fork });
    Ok(())
}

fn sched_setscheduler(ctx: &mut Ctx<'_>, tid: i32, policy: i32, param: UserPtr<i32>) -> Result {
    if policy < 0 {
        return Err(Errno::EINVAL);
    }
    set_parameters(ctx, tid, Some(policy as u32), param)
}

fn sched_setparam(ctx: &mut Ctx<'_>, tid: i32, param: UserPtr<i32>) -> Result {
    set_parameters(ctx, tid, None, param)
}

fn set_parameters(ctx: &mut Ctx<'_>, tid: i32, policy: Option<u32>, param: UserPtr<i32>) -> Result {
    let param = param.non_null().filter(|_| tid >= 0).ok_or(Errno::EINVAL)?;
    let priority = param.read()?;
    let task = task_arg(ctx, tid)?;
    if policy.is_some_and(|policy| policy & !RESET_ON_FORK == realtime::DEADLINE) {
        return Err(Errno::EINVAL); // it has more parameters
    }
    let wanted = Wanted {
        policy: policy.map(|policy| policy & !RESET_ON_FORK),
        reset_on_fork: policy.is_some_and(|policy| policy & RESET_ON_FORK != 0),
        priority: priority as u32,
        nice: task.sched.nice(),
        keep: false,
    };
    change(ctx, &task, wanted)?;
    Ok(0)
}

fn sched_getscheduler(ctx: &mut Ctx<'_>, tid: i32) -> Result {
    let policy = task_arg(ctx, tid)?.sched.policy();
    Ok((policy.number | if policy.reset_on_fork { RESET_ON_FORK } else { 0 }) as usize)
}

fn sched_getparam(ctx: &mut Ctx<'_>, tid: i32, param: UserPtr<i32>) -> Result {
    let param = param.non_null().ok_or(Errno::EINVAL)?;
    param.write(&(task_arg(ctx, tid)?.sched.policy().priority as i32))?;
    Ok(0)
}

fn sched_setattr(ctx: &mut Ctx<'_>, tid: i32, attr: UserPtr<SchedAttr>, flags: u32) -> Result {
    if attr.is_null() || tid < 0 || flags != 0 {
        return Err(Errno::EINVAL);
    }
    let size = match UserPtr::<u32>::new(attr.0).read()? as usize {
        0 => ATTR_FIRST,
        size => size,
    };
    let read = match size {
        ATTR_FIRST.. => read_versioned::<SchedAttr>(attr.0, size),
        _ => Err(Errno::E2BIG),
    };
    let a = match read {
        Err(e) if e == Errno::E2BIG => {
            UserPtr::<u32>::new(attr.0).write(&(ATTR_SIZE as u32))?;
            return Err(e);
        }
        read => read?,
    };
    if a.flags & flag::UTIL_CLAMP != 0 && size < ATTR_SIZE {
        return Err(Errno::EINVAL);
    }
    if (a.policy as i32) < 0 {
        return Err(Errno::EINVAL);
    }
    let task = task_arg(ctx, tid)?;
    let now = task.sched.policy();
    let keep = a.flags & flag::KEEP_PARAMS != 0;
    if a.flags & !flag::ALL != 0 {
        return Err(Errno::EINVAL);
    }
    let wanted = Wanted {
        policy: (a.flags & flag::KEEP_POLICY == 0).then_some(a.policy),
        reset_on_fork: a.flags & flag::RESET_ON_FORK != 0,
        priority: if keep { now.priority } else { a.priority },
        nice: if keep { task.sched.nice() } else { a.nice.clamp(-20, 19) },
        keep,
    };
    if a.flags & flag::UTIL_CLAMP != 0 {
        return Err(Errno::EOPNOTSUPP); // as without CONFIG_UCLAMP_TASK
    }
    if wanted.policy == Some(realtime::DEADLINE) && !is_bandwidth(&a) {
        return Err(Errno::EINVAL);
    }
    change(ctx, &task, wanted)?;
    Ok(0)
}

/// Whether runtime, deadline and period, in nanoseconds, are ones of `SCHED_DEADLINE` (`__checkparam_dl`).
fn is_bandwidth(a: &SchedAttr) -> bool {
    const RUNTIME_MIN: u64 = 1024;
    /// `sched_dl_period_min_us` and `sched_dl_period_max_us`.
    const PERIODS: core::ops::RangeInclusive<u64> = 100_000..=(1 << 22) * 1000;
    let period = if a.period == 0 { a.deadline } else { a.period };
    let in_order = RUNTIME_MIN <= a.runtime && a.runtime <= a.deadline && a.deadline <= period;
    in_order && PERIODS.contains(&period)
}

fn sched_getattr(ctx: &mut Ctx<'_>, tid: i32, attr: UserPtr<SchedAttr>, size: u32, flags: u32) -> Result {
    let size = size as usize;
    if attr.is_null() || tid < 0 || flags != 0 || !(ATTR_FIRST..=ringfence_hal::PAGE_SIZE).contains(&size) {
        return Err(Errno::EINVAL);
    }
    let task = task_arg(ctx, tid)?;
    let policy = task.sched.policy();
    let realtime = is_realtime(policy.number);
    let told = size.min(ATTR_SIZE);
    let all = SchedAttr {
        size: told as u32,
        policy: policy.number,
        flags: policy.reset_on_fork.into(),
        nice: if realtime { 0 } else { task.sched.nice() },
        priority: policy.priority,
        runtime: 0,
        deadline: 0,
        period: 0,
        util: [0; 2],
    };
    ringfence_hal::user::copy_out(attr.0, all.as_bytes().get(..told).unwrap_or_default())?;
    Ok(0)
}

fn sched_get_priority_max(_: &mut Ctx<'_>, policy: i32) -> Result {
    match policy as u32 {
        realtime::FIFO | realtime::RR => Ok(99),
        realtime::OTHER | realtime::BATCH | realtime::IDLE | realtime::DEADLINE => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}

fn sched_get_priority_min(_: &mut Ctx<'_>, policy: i32) -> Result {
    match policy as u32 {
        realtime::FIFO | realtime::RR => Ok(1),
        realtime::OTHER | realtime::BATCH | realtime::IDLE | realtime::DEADLINE => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}

fn sched_rr_get_interval(ctx: &mut Ctx<'_>, tid: i32, interval: UserPtr<crate::time::TimeSpec>) -> Result {
    let ns = match task_arg(ctx, tid)?.sched.policy().number {
        realtime::FIFO => 0,
        realtime::RR => realtime::RR_SLICE_NS,
        _ => sched::SLICE_NS,
    };
    interval.write(&crate::time::TimeSpec::from_ns(ns))?;
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
    142 sched_setparam(pid: i32, param: UserPtr<i32>) Full "";
    143 sched_getparam(pid: i32, param: UserPtr<i32>) Full "";
    144 sched_setscheduler(pid: i32, policy: i32, param: UserPtr<i32>) Full "";
    145 sched_getscheduler(pid: i32) Full "";
    146 sched_get_priority_max(policy: i32) Full "";
    147 sched_get_priority_min(policy: i32) Full "";
    148 sched_rr_get_interval(pid: i32, interval: UserPtr<crate::time::TimeSpec>) Full "";
    203 sched_setaffinity(pid: i32, len: usize, mask: UserAddr) Full "";
    204 sched_getaffinity(pid: i32, len: usize, mask: UserPtr<u64>) Full "";
    309 getcpu(cpu: UserPtr<u32>, node: UserPtr<u32>) Full "";
    314 sched_setattr(pid: i32, attr: UserPtr<SchedAttr>, flags: u32) Partial "no SCHED_DEADLINE: no bandwidth is admitted (EBUSY)";
    315 sched_getattr(pid: i32, attr: UserPtr<SchedAttr>, size: u32, flags: u32) Full "";
};
