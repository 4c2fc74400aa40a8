//! The system calls of capabilities: capget, capset, and the options of `prctl` (capabilities(7)).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{
    Capabilities, Pid,
    credentials::{LAST_CAPABILITY, securebits},
    ids::change,
};
use crate::{
    errno::{Errno, Result},
    syscall::{Ctx, Syscall, UserPtr},
    syscalls,
};

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
    if pid < 0 {
        return Err(Errno::EINVAL);
    }
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
        let may_inherit =
            old.capable_here(Capabilities::SETPCAP) || (old.inheritable | old.permitted).contains(set(i));
        if !old.permitted.contains(set(p))
            || !set(p).contains(set(e))
            || !may_inherit
            || !(old.inheritable | old.bounding).contains(set(i))
        {
            return Err(Errno::EPERM);
        }
        (new.effective, new.permitted, new.inheritable) = (set(e), set(p), set(i));
        new.ambient &= new.permitted & new.inheritable;
        Ok(())
    })
}

const PR_GET_KEEPCAPS: i32 = 7;
const PR_SET_KEEPCAPS: i32 = 8;
const PR_CAPBSET_READ: i32 = 23;
const PR_CAPBSET_DROP: i32 = 24;
const PR_GET_SECUREBITS: i32 = 27;
const PR_SET_SECUREBITS: i32 = 28;
const PR_CAP_AMBIENT: i32 = 47;

fn capability(n: u64) -> Result<Capabilities> {
    let known = n <= u64::from(LAST_CAPABILITY);
    if known { Ok(Capabilities::from_bits_truncate(1 << n)) } else { Err(Errno::EINVAL) }
}

/// The options of `prctl` that are about capabilities; `EINVAL` for others.
pub(super) fn prctl(ctx: &Ctx<'_>, option: i32, arguments: [u64; 4]) -> Result {
    let [a, ..] = arguments;
    let credentials = ctx.task.credentials();
    match option {
        PR_GET_KEEPCAPS => Ok((credentials.securebits & securebits::KEEP_CAPS != 0).into()),
        PR_SET_KEEPCAPS if a > 1 => Err(Errno::EINVAL),
        PR_SET_KEEPCAPS => change(ctx, |old, new| {
            let lock = securebits::KEEP_CAPS << 1;
            if old.securebits & lock != 0 {
                return Err(Errno::EPERM);
            }
            new.securebits &= !securebits::KEEP_CAPS;
            new.securebits |= if a == 1 { securebits::KEEP_CAPS } else { 0 };
            Ok(())
        }),
        PR_CAPBSET_READ => Ok(credentials.bounding.contains(capability(a)?).into()),
        PR_CAPBSET_DROP => change(ctx, |old, new| {
            if !old.capable_here(Capabilities::SETPCAP) {
                return Err(Errno::EPERM);
            }
            new.bounding -= capability(a)?;
            Ok(())
        }),
        PR_GET_SECUREBITS => Ok(credentials.securebits as usize),
        PR_SET_SECUREBITS => change(ctx, |old, new| {
            let wanted = u32::try_from(a).ok().filter(|w| w & !securebits::ALL == 0).ok_or(Errno::EPERM)?;
            let locks = old.securebits & securebits::LOCKS;
            let touches_locked = (locks >> 1) & (old.securebits ^ wanted) != 0 || locks & !wanted != 0;
            if touches_locked || !old.capable_here(Capabilities::SETPCAP) {
                return Err(Errno::EPERM);
            }
            new.securebits = wanted;
            Ok(())
        }),
        PR_CAP_AMBIENT => ambient(ctx, arguments),
        _ => Err(Errno::EINVAL),
    }
}

/// `PR_CAP_AMBIENT`: is set 1, raise 2, lower 3, clear all 4.
fn ambient(ctx: &Ctx<'_>, [operation, n, rest @ ..]: [u64; 4]) -> Result {
    if rest != [0, 0] || (operation == 4 && n != 0) {
        return Err(Errno::EINVAL);
    }
    match operation {
        1 => Ok(ctx.task.credentials().ambient.contains(capability(n)?).into()),
        2 => change(ctx, |old, new| {
            let capability = capability(n)?;
            if !(old.permitted & old.inheritable).contains(capability)
                || old.securebits & securebits::NO_CAP_AMBIENT_RAISE != 0
            {
                return Err(Errno::EPERM);
            }
            new.ambient |= capability;
            Ok(())
        }),
        3 => change(ctx, |_, new| {
            new.ambient -= capability(n)?;
            Ok(())
        }),
        4 => change(ctx, |_, new| {
            new.ambient = Capabilities::empty();
            Ok(())
        }),
        _ => Err(Errno::EINVAL),
    }
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    125 capget(header: UserPtr<CapHeader>, data: UserPtr<CapData>) Full "";
    126 capset(header: UserPtr<CapHeader>, data: UserPtr<CapData>) Full "";
};
