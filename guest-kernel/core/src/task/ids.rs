//! Identity: process, group, session, user and group numbers.

use alloc::{sync::Arc, vec::Vec};
use core::sync::atomic::Ordering;

use super::{Capabilities, Credentials, Pid, Process};
use crate::{
    errno::{Errno, Result},
    ns::user::IdKind,
    syscall::{Ctx, Syscall, UserPtr},
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
pub(super) fn change(
    ctx: &Ctx<'_>,
    change: impl FnOnce(&Credentials, &mut Credentials) -> Result<()>,
) -> Result {
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
        let mut new = Credentials { fsuid: uid, ..(*old).clone() };
        new.fix_capabilities_after_setfsuid(&old);
        ctx.task.set_credentials(new);
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
    groups.sort_unstable();
    change(ctx, |_, new| {
        new.groups = groups;
        Ok(())
    })
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
    186 gettid() Full "";
};
