//! Resource limits and usage (getrlimit(2), getrusage(2), times(2)).

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Capabilities, Process, process::Usage};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    sched::Split,
    sync::SpinLock,
    syscall::{Ctx, Syscall, UserPtr},
    syscalls,
    time::{TICKS_PER_SECOND, TimeVal},
};

/// A resource of getrlimit(2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // named in getrlimit(2)
pub enum Resource {
    Cpu,
    FileSize,
    Data,
    Stack,
    Core,
    Rss,
    Processes,
    OpenFiles,
    LockedMemory,
    AddressSpace,
    Locks,
    PendingSignals,
    MessageQueues,
    Nice,
    RealtimePriority,
    RealtimeTime,
}

const RESOURCES: [Resource; 16] = [
    Resource::Cpu,
    Resource::FileSize,
    Resource::Data,
    Resource::Stack,
    Resource::Core,
    Resource::Rss,
    Resource::Processes,
    Resource::OpenFiles,
    Resource::LockedMemory,
    Resource::AddressSpace,
    Resource::Locks,
    Resource::PendingSignals,
    Resource::MessageQueues,
    Resource::Nice,
    Resource::RealtimePriority,
    Resource::RealtimeTime,
];

/// `RLIM_INFINITY`.
pub const INFINITY: u64 = u64::MAX;

/// `struct rlimit64`: what holds now, and how far it may be raised.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Limit {
    /// The limit in force.
    pub soft: u64,
    /// The highest the soft one may be raised to.
    pub hard: u64,
}

/// The limits of a process.
pub struct Limits(SpinLock<[Limit; 16]>);

impl Default for Limits {
    /// What a Debian login gives.
    fn default() -> Self {
        let mut limits = [Limit { soft: INFINITY, hard: INFINITY }; 16];
        let mut set = |r: Resource, soft, hard| {
            if let Some(l) = limits.get_mut(r as usize) {
                *l = Limit { soft, hard };
            }
        };
        set(Resource::Stack, 8 << 20, INFINITY);
        set(Resource::Core, 0, INFINITY);
        set(Resource::OpenFiles, 1024, 1 << 20);
        set(Resource::LockedMemory, 8 << 20, 8 << 20);
        set(Resource::PendingSignals, 1024, 1024);
        set(Resource::MessageQueues, 819_200, 819_200);
        set(Resource::Nice, 0, 0);
        set(Resource::RealtimePriority, 0, 0);
        Limits(SpinLock::new(limits))
    }
}

impl Limits {
    /// A copy (`fork`).
    pub fn duplicate(&self) -> Limits {
        Limits(SpinLock::new(*self.0.lock()))
    }

    /// One limit.
    pub fn get(&self, r: Resource) -> Limit {
        self.0.lock().get(r as usize).copied().unwrap_or(Limit { soft: INFINITY, hard: INFINITY })
    }

    /// The soft value of one limit.
    pub fn soft(&self, r: Resource) -> u64 {
        self.get(r).soft
    }

    fn set(&self, r: Resource, new: Limit, privileged: bool) -> Result<()> {
        if new.soft > new.hard {
            return Err(Errno::EINVAL);
        }
        if r == Resource::OpenFiles && new.hard > 1 << 20 {
            return Err(Errno::EPERM); // above /proc/sys/fs/nr_open
        }
        let mut limits = self.0.lock();
        let limit = limits.get_mut(r as usize).ok_or(Errno::EINVAL)?;
        if new.hard > limit.hard && !privileged {
            return Err(Errno::EPERM);
        }
        *limit = new;
        Ok(())
    }

    /// Sets one soft limit, as the kernel does to RLIMIT_CPU when it was used up.
    pub fn raise_soft(&self, r: Resource, soft: u64) {
        if let Some(limit) = self.0.lock().get_mut(r as usize) {
            limit.soft = soft;
        }
    }

    /// What memory operations look at.
    pub fn for_mm(&self) -> crate::mm::Limits {
        crate::mm::Limits {
            address_space: self.soft(Resource::AddressSpace),
            data: self.soft(Resource::Data),
            data_mappings: match self.get(Resource::Data) {
                Limit { soft: 0, hard } => hard,
                Limit { soft, .. } => soft,
            },
            stack: self.soft(Resource::Stack),
            locked: self.soft(Resource::LockedMemory),
        }
    }
}

fn resource(n: u32) -> Result<Resource> {
    RESOURCES.get(n as usize).copied().ok_or(Errno::EINVAL)
}

fn getrlimit(ctx: &mut Ctx<'_>, which: u32, out: UserPtr<Limit>) -> Result {
    out.write(&ctx.task.process().limits.get(resource(which)?))?;
    Ok(0)
}

fn setrlimit(ctx: &mut Ctx<'_>, which: u32, new: UserPtr<Limit>) -> Result {
    new.read()?; // NULL is no limit to set here
    prlimit64(ctx, 0, which, new, UserPtr::new(0))
}

fn prlimit64(ctx: &mut Ctx<'_>, pid: i32, which: u32, new: UserPtr<Limit>, old: UserPtr<Limit>) -> Result {
    let resource = resource(which)?;
    let new = match new.non_null() {
        Some(p) => Some(p.read()?),
        None => None,
    };
    let process = match pid {
        0 => ctx.task.process().clone(),
        pid => ctx.task.pids().task(pid)?.process().clone(),
    };
    let me = ctx.task.credentials();
    if !Arc::ptr_eq(&process, ctx.task.process()) && !me.capable(Capabilities::SYS_RESOURCE) {
        let other = process.threads().first().map(|t| t.credentials()).ok_or(Errno::ESRCH)?;
        if [other.uid, other.euid, other.suid] != [me.uid; 3] {
            return Err(Errno::EPERM);
        }
    }
    let former = process.limits.get(resource);
    if let Some(new) = new {
        process.limits.set(resource, new, me.capable(Capabilities::SYS_RESOURCE))?;
    }
    old.write_opt(&former)?;
    Ok(0)
}

/// `struct rusage`.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RUsage {
    utime: TimeVal,
    stime: TimeVal,
    maxrss_kib: i64,
    _unused1: [i64; 3],
    minflt: i64,
    majflt: i64,
    _unused2: [i64; 6],
    nvcsw: i64,
    nivcsw: i64,
}

/// CPU time, faults and switches, added up.
#[derive(Clone, Copy, Default)]
pub struct UsageSum {
    /// Nanoseconds of CPU time.
    pub runtime: u64,
    /// Of that, in ring 3. (Within this module also: what samples say, a ratio.)
    pub user: u64,
    /// Of that, in the kernel.
    pub system: u64,
    minor_faults: u64,
    voluntary: u64,
    involuntary: u64,
    max_rss: u64,
}

impl UsageSum {
    /// Of one thread, with samples instead of user and system time, and without memory.
    fn sampled(task: &TaskRef) -> UsageSum {
        let (user, system) = task.sched.samples();
        UsageSum {
            runtime: task.sched.runtime(),
            user,
            system,
            minor_faults: task.minor_faults.load(Ordering::Relaxed),
            voluntary: task.sched.voluntary.load(Ordering::Relaxed),
            involuntary: task.sched.involuntary.load(Ordering::Relaxed),
            max_rss: 0,
        }
    }

    /// Of one thread; the largest resident set is that of its process.
    pub fn of_task(task: &TaskRef) -> UsageSum {
        let Split { user, system } = task.sched.split();
        let max_rss = task.process().dead_threads.max_rss.load(Ordering::Relaxed).max(peak_resident(task));
        UsageSum { user, system, max_rss, ..Self::sampled(task) }
    }

    /// Of all threads of a process, the ended ones included.
    pub fn of_process(process: &Process) -> UsageSum {
        let sum = Self::times(process);
        let any = process.links.lock().threads.first().cloned();
        UsageSum { max_rss: sum.max_rss.max(any.map_or(0, |task| peak_resident(&task))), ..sum }
    }

    /// The same without memory.
    pub fn times(process: &Process) -> UsageSum {
        let links = process.links.lock();
        let dead = Self::of_dead(&process.dead_threads);
        let sum = links.threads.iter().fold(dead, |sum, t| sum.plus(Self::sampled(t)));
        drop(links);
        let Split { user, system } = process.split.lock().settle(sum.runtime, sum.user, sum.system);
        UsageSum { user, system, ..sum }
    }

    /// Minor faults.
    pub fn minor_faults(&self) -> u64 {
        self.minor_faults
    }

    /// What was kept of children that have ended and been waited for.
    pub fn of_dead(u: &Usage) -> UsageSum {
        UsageSum {
            runtime: u.runtime.load(Ordering::Relaxed),
            user: u.user.load(Ordering::Relaxed),
            system: u.system.load(Ordering::Relaxed),
            minor_faults: u.minor_faults.load(Ordering::Relaxed),
            voluntary: u.voluntary.load(Ordering::Relaxed),
            involuntary: u.involuntary.load(Ordering::Relaxed),
            max_rss: u.max_rss.load(Ordering::Relaxed),
        }
    }

    /// The sum of both.
    pub fn plus(self, o: UsageSum) -> UsageSum {
        UsageSum {
            runtime: self.runtime + o.runtime,
            user: self.user + o.user,
            system: self.system + o.system,
            minor_faults: self.minor_faults + o.minor_faults,
            voluntary: self.voluntary + o.voluntary,
            involuntary: self.involuntary + o.involuntary,
            max_rss: self.max_rss.max(o.max_rss),
        }
    }

    /// Adds it to what is kept.
    pub fn add_to(self, u: &Usage) {
        u.runtime.fetch_add(self.runtime, Ordering::Relaxed);
        u.user.fetch_add(self.user, Ordering::Relaxed);
        u.system.fetch_add(self.system, Ordering::Relaxed);
        u.minor_faults.fetch_add(self.minor_faults, Ordering::Relaxed);
        u.voluntary.fetch_add(self.voluntary, Ordering::Relaxed);
        u.involuntary.fetch_add(self.involuntary, Ordering::Relaxed);
        u.max_rss.fetch_max(self.max_rss, Ordering::Relaxed);
    }

    /// As getrusage(2) tells it.
    pub fn to_rusage(self) -> RUsage {
        RUsage {
            utime: TimeVal::from_ns(self.user),
            stime: TimeVal::from_ns(self.system),
            maxrss_kib: self.max_rss as i64 * 4,
            minflt: self.minor_faults as i64,
            nvcsw: self.voluntary as i64,
            nivcsw: self.involuntary as i64,
            ..RUsage::default()
        }
    }
}

/// The most memory its address space has had resident, in pages.
fn peak_resident(task: &TaskRef) -> u64 {
    task.mm_opt().map_or(0, |mm| mm.stats().peak_resident)
}

/// The task is about to leave its memory (exit, `execve`).
pub fn keep_peak(task: &TaskRef) {
    task.process().dead_threads.max_rss.fetch_max(peak_resident(task), Ordering::Relaxed);
}

/// Page faults of threads that have ended, in the whole machine.
static ENDED_PAGE_FAULTS: AtomicU64 = AtomicU64::new(0);

/// Adds what `task`, which leaves its process now, has used to what that keeps.
pub(super) fn keep_usage(task: &TaskRef) {
    let usage = UsageSum::sampled(task);
    usage.add_to(&task.process().dead_threads);
    ENDED_PAGE_FAULTS.fetch_add(usage.minor_faults, Ordering::Relaxed);
}

/// Page faults since the start, given all processes there are.
pub fn page_faults(processes: &[Arc<Process>]) -> u64 {
    let running = processes.iter().flat_map(|p| p.threads()).map(|t| t.minor_faults.load(Ordering::Relaxed));
    ENDED_PAGE_FAULTS.load(Ordering::Relaxed) + running.sum::<u64>()
}

fn getrusage(ctx: &mut Ctx<'_>, who: i32, out: UserPtr<RUsage>) -> Result {
    let process = ctx.task.process();
    let sum = match who {
        0 => UsageSum::of_process(process),
        -1 => UsageSum::of_dead(&process.dead_children),
        1 => UsageSum::of_task(ctx.task),
        _ => return Err(Errno::EINVAL),
    };
    out.write(&sum.to_rusage())?;
    Ok(0)
}

fn times(ctx: &mut Ctx<'_>, out: UserPtr<[i64; 4]>) -> Result {
    let tick = 1_000_000_000 / TICKS_PER_SECOND;
    let process = ctx.task.process();
    let own = UsageSum::of_process(process);
    let children = UsageSum::of_dead(&process.dead_children);
    out.write_opt(&[own.user, own.system, children.user, children.system].map(|ns| (ns / tick) as i64))?;
    Ok((ringfence_hal::time::now() / tick) as usize)
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    97 getrlimit(resource: u32, rlim: UserPtr<Limit>) Full "";
    98 getrusage(who: i32, usage: UserPtr<RUsage>) Full "";
    100 times(buf: UserPtr<[i64; 4]>) Full "";
    160 setrlimit(resource: u32, rlim: UserPtr<Limit>) Full "";
    302 prlimit64(pid: i32, resource: u32, new: UserPtr<Limit>, old: UserPtr<Limit>) Full "";
};
