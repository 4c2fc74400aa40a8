//! Identity: process, group, session, user and group numbers, capabilities, `prctl`.

use alloc::{sync::Arc, vec::Vec};
use core::sync::atomic::Ordering;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Capabilities, Credentials, Pid, Process, credentials::LAST_CAPABILITY};
use crate::{
    errno::{Errno, Result},
    ns::user::IdKind,
    syscall::{Ctx, Syscall, UserAddr, UserPtr, UserStr},
    syscalls,
};

fn getpid(ctx: &mut Ctx<'_>) -> Result {
    Ok(ctx.task.pid() as usize)
}

fn gettid(ctx: &mut Ctx<'_>) -> Result {
    Ok(ctx.task.tid() as usize)
}

fn getppid(ctx: &mut Ctx<'_>) -> Result {
    Ok(ctx.task.pids().show(ctx.task.process().parent_pid()) as usize)
}

/// The process a number means; 0 is the caller.
fn process_arg(ctx: &Ctx<'_>, pid: Pid) -> Result<Arc<Process>> {
    if pid == 0 { Ok(ctx.task.process().clone()) } else { ctx.task.pids().process(pid) }
}

fn getpgid(ctx: &mut Ctx<'_>, pid: Pid) -> Result {
    Ok(ctx.task.pids().show(process_arg(ctx, pid)?.group().pgid) as usize)
}

fn getpgrp(ctx: &mut Ctx<'_>) -> Result {
    getpgid(ctx, 0)
}

fn getsid(ctx: &mut Ctx<'_>, pid: Pid) -> Result {
    Ok(ctx.task.pids().show(process_arg(ctx, pid)?.group().session.sid) as usize)
}

fn setpgid(ctx: &mut Ctx<'_>, pid: Pid, pgid: Pid) -> Result {
    if pgid < 0 || pgid == 0 && pid < 0 {
        return Err(Errno::EINVAL);
    }
    let me = ctx.task.process();
    let target = process_arg(ctx, pid)?;
    let is_self = Arc::ptr_eq(&target, me);
    if !is_self {
        if !target.parent().is_some_and(|p| Arc::ptr_eq(&p, me)) {
            return Err(Errno::ESRCH);
        }
        if target.has_execed.load(Ordering::Acquire) {
            return Err(Errno::EACCES);
        }
    }
    let pgid = match pgid {
        0 => target.pid,
        pgid => me.pid_ns.global(pgid).ok_or(Errno::EPERM)?,
    };
    let former = ctx.task.kernel().pids.tree(|t| {
        let current = target.group();
        if !Arc::ptr_eq(&current.session, &me.group().session) || current.session.sid == target.pid {
            return Err(Errno::EPERM);
        }
        let group = match t.group(pgid) {
            Some(g) if Arc::ptr_eq(&g.session, &current.session) => g,
            None if pgid == target.pid => t.new_group(pgid, current.session.clone()),
            _ => return Err(Errno::EPERM),
        };
        Ok(core::mem::replace(&mut target.links.lock().group, group))
    })?;
    drop(former);
    Ok(0)
}

fn setsid(ctx: &mut Ctx<'_>) -> Result {
    let me = ctx.task.process();
    let former = ctx.task.kernel().pids.tree(|t| {
        if t.group(me.pid).is_some() {
            return Err(Errno::EPERM);
        }
        let group = t.new_session(me.pid);
        Ok(core::mem::replace(&mut me.links.lock().group, group))
    })?;
    drop(former);
    Ok(me.number as usize)
}

fn getuid(ctx: &mut Ctx<'_>) -> Result {
    let c = ctx.task.credentials();
    Ok(c.user_ns.show_uid(c.uid) as usize)
}

fn geteuid(ctx: &mut Ctx<'_>) -> Result {
    let c = ctx.task.credentials();
    Ok(c.user_ns.show_uid(c.euid) as usize)
}

fn getgid(ctx: &mut Ctx<'_>) -> Result {
    let c = ctx.task.credentials();
    Ok(c.user_ns.show_gid(c.gid) as usize)
}

fn getegid(ctx: &mut Ctx<'_>) -> Result {
    let c = ctx.task.credentials();
    Ok(c.user_ns.show_gid(c.egid) as usize)
}

/// "Leave as it is" in the set calls.
const KEEP: u32 = u32::MAX;

/// Changes the credentials of the calling thread; `change` gets the old ones and a copy to edit.
fn change(ctx: &Ctx<'_>, change: impl FnOnce(&Credentials, &mut Credentials) -> Result<()>) -> Result {
    let old = ctx.task.credentials();
    let mut new = (*old).clone();
    change(&old, &mut new)?;
    if (new.uid, new.euid, new.suid) != (old.uid, old.euid, old.suid) {
        new.fix_capabilities_after_setuid(&old);
    }
    if new.euid != old.euid || new.egid != old.egid {
        ctx.task.process().dumpable.store(false, Ordering::Relaxed);
        ctx.task.parent_death_signal.store(0, Ordering::Relaxed);
    }
    ctx.task.set_credentials(new);
    Ok(0)
}

/// The kernel's id for one a system call was given. `EINVAL` if it means nothing in the caller's user namespace.
fn required(ctx: &Ctx<'_>, kind: IdKind, id: u32) -> Result<u32> {
    ctx.task.credentials().user_ns.to_kernel(kind, id).ok_or(Errno::EINVAL)
}

/// The same for several, of which some may be [`KEEP`].
fn optional<const N: usize>(ctx: &Ctx<'_>, kind: IdKind, ids: [u32; N]) -> Result<[u32; N]> {
    let mut out = ids;
    for id in out.iter_mut().filter(|id| **id != KEEP) {
        *id = required(ctx, kind, *id)?;
    }
    Ok(out)
}

fn setuid(ctx: &mut Ctx<'_>, uid: u32) -> Result {
    let uid = required(ctx, IdKind::User, uid)?;
    change(ctx, |old, new| {
        if old.capable_here(Capabilities::SETUID) {
            (new.uid, new.suid) = (uid, uid);
        } else if uid != old.uid && uid != old.suid {
            return Err(Errno::EPERM);
        }
        (new.euid, new.fsuid) = (uid, uid);
        Ok(())
    })
}

fn setgid(ctx: &mut Ctx<'_>, gid: u32) -> Result {
    let gid = required(ctx, IdKind::Group, gid)?;
    change(ctx, |old, new| {
        if old.capable_here(Capabilities::SETGID) {
            (new.gid, new.sgid) = (gid, gid);
        } else if gid != old.gid && gid != old.sgid {
            return Err(Errno::EPERM);
        }
        (new.egid, new.fsgid) = (gid, gid);
        Ok(())
    })
}

fn setresuid(ctx: &mut Ctx<'_>, r: u32, e: u32, s: u32) -> Result {
    let [r, e, s] = optional(ctx, IdKind::User, [r, e, s])?;
    change(ctx, |old, new| {
        let allowed = |id: u32| id == KEEP || [old.uid, old.euid, old.suid].contains(&id);
        if !old.capable_here(Capabilities::SETUID) && ![r, e, s].into_iter().all(allowed) {
            return Err(Errno::EPERM);
        }
        let pick = |id, former| if id == KEEP { former } else { id };
        (new.uid, new.euid, new.suid) = (pick(r, old.uid), pick(e, old.euid), pick(s, old.suid));
        new.fsuid = new.euid;
        Ok(())
    })
}

fn setresgid(ctx: &mut Ctx<'_>, r: u32, e: u32, s: u32) -> Result {
    let [r, e, s] = optional(ctx, IdKind::Group, [r, e, s])?;
    change(ctx, |old, new| {
        let allowed = |id: u32| id == KEEP || [old.gid, old.egid, old.sgid].contains(&id);
        if !old.capable_here(Capabilities::SETGID) && ![r, e, s].into_iter().all(allowed) {
            return Err(Errno::EPERM);
        }
        let pick = |id, former| if id == KEEP { former } else { id };
        (new.gid, new.egid, new.sgid) = (pick(r, old.gid), pick(e, old.egid), pick(s, old.sgid));
        new.fsgid = new.egid;
        Ok(())
    })
}

fn setreuid(ctx: &mut Ctx<'_>, r: u32, e: u32) -> Result {
    let [r, e] = optional(ctx, IdKind::User, [r, e])?;
    change(ctx, |old, new| {
        if !old.capable_here(Capabilities::SETUID) {
            let real_ok = r == KEEP || r == old.uid || r == old.euid;
            let effective_ok = e == KEEP || [old.uid, old.euid, old.suid].contains(&e);
            if !(real_ok && effective_ok) {
                return Err(Errno::EPERM);
            }
        }
        new.uid = if r == KEEP { old.uid } else { r };
        new.euid = if e == KEEP { old.euid } else { e };
        if r != KEEP || (e != KEEP && e != old.uid) {
            new.suid = new.euid;
        }
        new.fsuid = new.euid;
        Ok(())
    })
}

fn setregid(ctx: &mut Ctx<'_>, r: u32, e: u32) -> Result {
    let [r, e] = optional(ctx, IdKind::Group, [r, e])?;
    change(ctx, |old, new| {
        if !old.capable_here(Capabilities::SETGID) {
            let real_ok = r == KEEP || r == old.gid || r == old.egid;
            let effective_ok = e == KEEP || [old.gid, old.egid, old.sgid].contains(&e);
            if !(real_ok && effective_ok) {
                return Err(Errno::EPERM);
            }
        }
        new.gid = if r == KEEP { old.gid } else { r };
        new.egid = if e == KEEP { old.egid } else { e };
        if r != KEEP || (e != KEEP && e != old.gid) {
            new.sgid = new.egid;
        }
        new.fsgid = new.egid;
        Ok(())
    })
}

fn getresuid(ctx: &mut Ctx<'_>, r: UserPtr<u32>, e: UserPtr<u32>, s: UserPtr<u32>) -> Result {
    let c = ctx.task.credentials();
    r.write(&c.user_ns.show_uid(c.uid))?;
    e.write(&c.user_ns.show_uid(c.euid))?;
    s.write(&c.user_ns.show_uid(c.suid))?;
    Ok(0)
}

fn getresgid(ctx: &mut Ctx<'_>, r: UserPtr<u32>, e: UserPtr<u32>, s: UserPtr<u32>) -> Result {
    let c = ctx.task.credentials();
    r.write(&c.user_ns.show_gid(c.gid))?;
    e.write(&c.user_ns.show_gid(c.egid))?;
    s.write(&c.user_ns.show_gid(c.sgid))?;
    Ok(0)
}

fn setfsuid(ctx: &mut Ctx<'_>, uid: u32) -> Result {
    let old = ctx.task.credentials();
    let show = old.user_ns.show_uid(old.fsuid) as usize;
    let Ok(uid) = required(ctx, IdKind::User, uid) else { return Ok(show) };
    if old.capable_here(Capabilities::SETUID) || [old.uid, old.euid, old.suid, old.fsuid].contains(&uid) {
        ctx.task.set_credentials(Credentials { fsuid: uid, ..(*old).clone() });
    }
    Ok(show)
}

fn setfsgid(ctx: &mut Ctx<'_>, gid: u32) -> Result {
    let old = ctx.task.credentials();
    let show = old.user_ns.show_gid(old.fsgid) as usize;
    let Ok(gid) = required(ctx, IdKind::Group, gid) else { return Ok(show) };
    if old.capable_here(Capabilities::SETGID) || [old.gid, old.egid, old.sgid, old.fsgid].contains(&gid) {
        ctx.task.set_credentials(Credentials { fsgid: gid, ..(*old).clone() });
    }
    Ok(show)
}

/// `NGROUPS_MAX`.
const GROUPS_MAX: usize = 65536;

fn getgroups(ctx: &mut Ctx<'_>, size: i32, list: UserPtr<u32>) -> Result {
    let c = ctx.task.credentials();
    if size == 0 {
        return Ok(c.groups.len());
    }
    if size < 0 || (size as usize) < c.groups.len() {
        return Err(Errno::EINVAL);
    }
    for (i, g) in c.groups.iter().enumerate() {
        list.index(i).write(&c.user_ns.show_gid(*g))?;
    }
    Ok(c.groups.len())
}

fn setgroups(ctx: &mut Ctx<'_>, size: usize, list: UserPtr<u32>) -> Result {
    let c = ctx.task.credentials();
    if !c.capable_here(Capabilities::SETGID) || !c.user_ns.may_setgroups() {
        return Err(Errno::EPERM);
    }
    if size > GROUPS_MAX {
        return Err(Errno::EINVAL);
    }
    let mut groups: Vec<u32> = list.read_vec(size)?;
    for g in &mut groups {
        *g = c.user_ns.to_kernel(IdKind::Group, *g).ok_or(Errno::EINVAL)?;
    }
    change(ctx, |_, new| {
        new.groups = groups;
        Ok(())
    })
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const CAP_VERSION_1: u32 = 0x1998_0330;
const CAP_VERSION_2: u32 = 0x2007_1026;
const CAP_VERSION_3: u32 = 0x2008_0522;

/// Checks the header; answers how many data words follow and whose capabilities are meant.
fn cap_header(header: UserPtr<CapHeader>) -> Result<(usize, Pid)> {
    let version = header.cast::<u32>();
    let words = match version.read()? {
        CAP_VERSION_1 => 1,
        CAP_VERSION_2 | CAP_VERSION_3 => 2,
        _ => {
            version.write(&CAP_VERSION_3)?;
            return Err(Errno::EINVAL);
        }
    };
    Ok((words, header.read()?.pid))
}

fn capget(ctx: &mut Ctx<'_>, header: UserPtr<CapHeader>, data: UserPtr<CapData>) -> Result {
    let (words, pid) = match cap_header(header) {
        Err(Errno::EINVAL) if data.is_null() => return Ok(0),
        other => other?,
    };
    let task = if pid == 0 { ctx.task.clone() } else { ctx.task.pids().task(pid)? };
    let c = task.credentials();
    for i in 0..words {
        let word = |set: Capabilities| (set.bits() >> (32 * i)) as u32;
        let value = CapData {
            effective: word(c.effective),
            permitted: word(c.permitted),
            inheritable: word(c.inheritable),
        };
        data.index(i).write(&value)?;
    }
    Ok(0)
}

fn capset(ctx: &mut Ctx<'_>, header: UserPtr<CapHeader>, data: UserPtr<CapData>) -> Result {
    let (words, pid) = cap_header(header)?;
    if pid != 0 && pid != ctx.task.tid() {
        return Err(Errno::EPERM);
    }
    let (mut e, mut p, mut i) = (0u64, 0u64, 0u64);
    for n in 0..words {
        let value = data.index(n).read()?;
        e |= u64::from(value.effective) << (32 * n);
        p |= u64::from(value.permitted) << (32 * n);
        i |= u64::from(value.inheritable) << (32 * n);
    }
    let set = Capabilities::from_bits_truncate;
    change(ctx, |old, new| {
        let may_inherit = if old.capable_here(Capabilities::SETPCAP) { old.bounding } else { old.permitted };
        if !old.permitted.contains(set(p))
            || !set(p).contains(set(e))
            || !(old.inheritable | may_inherit).contains(set(i))
        {
            return Err(Errno::EPERM);
        }
        (new.effective, new.permitted, new.inheritable) = (set(e), set(p), set(i));
        new.ambient &= new.permitted & new.inheritable;
        Ok(())
    })
}

mod pr {
    pub const SET_PDEATHSIG: i32 = 1;
    pub const GET_PDEATHSIG: i32 = 2;
    pub const GET_DUMPABLE: i32 = 3;
    pub const SET_DUMPABLE: i32 = 4;
    pub const GET_KEEPCAPS: i32 = 7;
    pub const SET_KEEPCAPS: i32 = 8;
    pub const SET_NAME: i32 = 15;
    pub const GET_NAME: i32 = 16;
    pub const CAPBSET_READ: i32 = 23;
    pub const CAPBSET_DROP: i32 = 24;
    pub const GET_SECUREBITS: i32 = 27;
    pub const SET_TIMERSLACK: i32 = 29;
    pub const GET_TIMERSLACK: i32 = 30;
    pub const SET_CHILD_SUBREAPER: i32 = 36;
    pub const GET_CHILD_SUBREAPER: i32 = 37;
    pub const GET_SECCOMP: i32 = 21;
    pub const SET_SECCOMP: i32 = 22;
    pub const SET_NO_NEW_PRIVS: i32 = 38;
    pub const GET_NO_NEW_PRIVS: i32 = 39;
    pub const GET_TID_ADDRESS: i32 = 40;
    pub const SET_THP_DISABLE: i32 = 41;
    pub const GET_THP_DISABLE: i32 = 42;
    pub const CAP_AMBIENT: i32 = 47;
}

/// `SECBIT_KEEP_CAPS`.
const KEEP_CAPS: u32 = 1 << 4;

fn prctl(ctx: &mut Ctx<'_>, option: i32, a: u64, b: u64, c: u64, d: u64) -> Result {
    let task = ctx.task;
    let process = task.process();
    let capability = |n: u64| {
        if n <= u64::from(LAST_CAPABILITY) {
            Ok(Capabilities::from_bits_truncate(1 << n))
        } else {
            Err(Errno::EINVAL)
        }
    };
    match option {
        pr::SET_PDEATHSIG if a <= 64 => task.parent_death_signal.store(a as i32, Ordering::Relaxed),
        pr::GET_PDEATHSIG => UserPtr::new(a).write(&task.parent_death_signal.load(Ordering::Relaxed))?,
        pr::GET_DUMPABLE => return Ok(process.dumpable.load(Ordering::Relaxed).into()),
        pr::SET_DUMPABLE if a <= 1 => process.dumpable.store(a == 1, Ordering::Relaxed),
        pr::GET_KEEPCAPS => return Ok((task.credentials().securebits & KEEP_CAPS != 0).into()),
        pr::SET_KEEPCAPS if a <= 1 => {
            return change(ctx, |_, new| {
                new.securebits = new.securebits & !KEEP_CAPS | if a == 1 { KEEP_CAPS } else { 0 };
                Ok(())
            });
        }
        pr::SET_NAME => {
            let name = UserStr(a).read(17, Errno::EINVAL).or_else(|e| {
                // A name without a NUL in the first 16 bytes is cut, not refused.
                if e == Errno::EINVAL {
                    UserPtr::<[u8; 15]>::new(a).read().map(|n| n.to_vec())
                } else {
                    Err(e)
                }
            })?;
            task.set_comm(&name);
        }
        pr::GET_NAME => UserPtr::new(a).write(&task.comm())?,
        pr::CAPBSET_READ => return Ok(task.credentials().bounding.contains(capability(a)?).into()),
        pr::CAPBSET_DROP => {
            let drop = capability(a)?;
            return change(ctx, |old, new| {
                if !old.capable_here(Capabilities::SETPCAP) {
                    return Err(Errno::EPERM);
                }
                new.bounding -= drop;
                Ok(())
            });
        }
        pr::GET_SECUREBITS => return Ok(task.credentials().securebits as usize),
        pr::SET_TIMERSLACK => {} // timers here are exact: every slack is kept
        pr::GET_TIMERSLACK => return Ok(50_000),
        pr::SET_CHILD_SUBREAPER => process.is_subreaper.store(a != 0, Ordering::Relaxed),
        pr::GET_CHILD_SUBREAPER => {
            UserPtr::new(a).write(&i32::from(process.is_subreaper.load(Ordering::Relaxed)))?;
        }
        pr::SET_NO_NEW_PRIVS if a == 1 && b == 0 && c == 0 && d == 0 => task.set_no_new_privs(),
        pr::GET_SECCOMP => return crate::seccomp::mode_of(task),
        pr::SET_SECCOMP => return crate::seccomp::set_mode(task, a, b),
        pr::GET_NO_NEW_PRIVS => return Ok(task.no_new_privs().into()),
        pr::GET_TID_ADDRESS => UserPtr::new(a).write(&task.clear_child_tid.load(Ordering::Relaxed))?,
        pr::SET_THP_DISABLE if b | c | d != 0 => return Err(Errno::EINVAL),
        pr::SET_THP_DISABLE => task.mm()?.disable_huge(a != 0),
        pr::GET_THP_DISABLE if a | b | c | d != 0 => return Err(Errno::EINVAL),
        pr::GET_THP_DISABLE => return Ok(task.mm()?.huge_disabled().into()),
        pr::CAP_AMBIENT => return ambient(ctx, a, b),
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

/// `PR_CAP_AMBIENT`: is set 1, raise 2, lower 3, clear all 4.
fn ambient(ctx: &Ctx<'_>, operation: u64, n: u64) -> Result {
    if operation != 4 && n > u64::from(LAST_CAPABILITY) {
        return Err(Errno::EINVAL);
    }
    let capability = Capabilities::from_bits_truncate(1u64.checked_shl(n as u32).unwrap_or(0));
    match operation {
        1 => Ok(ctx.task.credentials().ambient.contains(capability).into()),
        2 => change(ctx, |old, new| {
            if !(old.permitted & old.inheritable).contains(capability) {
                return Err(Errno::EPERM);
            }
            new.ambient |= capability;
            Ok(())
        }),
        3 => change(ctx, |_, new| {
            new.ambient -= capability;
            Ok(())
        }),
        4 => change(ctx, |_, new| {
            new.ambient = Capabilities::empty();
            Ok(())
        }),
        _ => Err(Errno::EINVAL),
    }
}

const ARCH_SET_GS: i32 = 0x1001;
const ARCH_SET_FS: i32 = 0x1002;
const ARCH_GET_FS: i32 = 0x1003;
const ARCH_GET_GS: i32 = 0x1004;

fn arch_prctl(ctx: &mut Ctx<'_>, code: i32, addr: UserAddr) -> Result {
    match code {
        ARCH_SET_FS => ctx.task.set_fs_base(addr.0).map_err(|_| Errno::EPERM)?,
        ARCH_SET_GS => ctx.task.set_gs_base(addr.0).map_err(|_| Errno::EPERM)?,
        ARCH_GET_FS => UserPtr::new(addr.0).write(&ctx.task.fs_base())?,
        ARCH_GET_GS => UserPtr::new(addr.0).write(&ctx.task.gs_base())?,
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

/// `personality(2)`: only `PER_LINUX`. Of the flags, `ADDR_NO_RANDOMIZE` has an effect, at `execve`.
fn personality(ctx: &mut Ctx<'_>, persona: u32) -> Result {
    const QUERY: u32 = 0xffff_ffff;
    let personality = &ctx.task.personality;
    match persona {
        QUERY => Ok(personality.load(Ordering::Relaxed) as usize),
        _ if persona & 0xff != 0 => Err(Errno::EINVAL),
        _ => Ok(personality.swap(persona, Ordering::Relaxed) as usize),
    }
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    39 getpid() Full "";
    102 getuid() Full "";
    104 getgid() Full "";
    105 setuid(uid: u32) Full "";
    106 setgid(gid: u32) Full "";
    107 geteuid() Full "";
    108 getegid() Full "";
    109 setpgid(pid: i32, pgid: i32) Full "";
    110 getppid() Full "";
    111 getpgrp() Full "";
    112 setsid() Full "";
    113 setreuid(ruid: u32, euid: u32) Full "";
    114 setregid(rgid: u32, egid: u32) Full "";
    115 getgroups(size: i32, list: UserPtr<u32>) Full "";
    116 setgroups(size: usize, list: UserPtr<u32>) Full "";
    117 setresuid(ruid: u32, euid: u32, suid: u32) Full "";
    118 getresuid(ruid: UserPtr<u32>, euid: UserPtr<u32>, suid: UserPtr<u32>) Full "";
    119 setresgid(rgid: u32, egid: u32, sgid: u32) Full "";
    120 getresgid(rgid: UserPtr<u32>, egid: UserPtr<u32>, sgid: UserPtr<u32>) Full "";
    121 getpgid(pid: i32) Full "";
    122 setfsuid(uid: u32) Full "";
    123 setfsgid(gid: u32) Full "";
    124 getsid(pid: i32) Full "";
    125 capget(header: UserPtr<CapHeader>, data: UserPtr<CapData>) Full "";
    126 capset(header: UserPtr<CapHeader>, data: UserPtr<CapData>) Full "";
    135 personality(persona: u32) Partial "PER_LINUX only; of the flags, ADDR_NO_RANDOMIZE";
    157 prctl(option: i32, arg2: u64, arg3: u64, arg4: u64, arg5: u64) Partial "the options in the source; others EINVAL";
    158 arch_prctl(code: i32, addr: UserAddr) Full "";
    186 gettid() Full "";
};
