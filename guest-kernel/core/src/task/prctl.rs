//! `prctl`, `arch_prctl` and `personality`: odds and ends of a thread or a process.

use core::sync::atomic::Ordering;

use super::{Capabilities, capability};
use crate::{
    errno::{Errno, Result},
    syscall::{Ctx, Syscall, UserAddr, UserPtr, UserStr},
    syscalls,
};

mod pr {
    pub const SET_PDEATHSIG: i32 = 1;
    pub const GET_PDEATHSIG: i32 = 2;
    pub const GET_DUMPABLE: i32 = 3;
    pub const SET_DUMPABLE: i32 = 4;
    pub const SET_NAME: i32 = 15;
    pub const GET_NAME: i32 = 16;
    pub const SET_TIMERSLACK: i32 = 29;
    pub const GET_TIMERSLACK: i32 = 30;
    pub const SET_MM: i32 = 35;
    pub const SET_CHILD_SUBREAPER: i32 = 36;
    pub const GET_CHILD_SUBREAPER: i32 = 37;
    pub const GET_SECCOMP: i32 = 21;
    pub const SET_SECCOMP: i32 = 22;
    pub const SET_NO_NEW_PRIVS: i32 = 38;
    pub const GET_NO_NEW_PRIVS: i32 = 39;
    pub const GET_TID_ADDRESS: i32 = 40;
    pub const SET_THP_DISABLE: i32 = 41;
    pub const GET_THP_DISABLE: i32 = 42;
}

fn prctl(ctx: &mut Ctx<'_>, option: i32, a: u64, b: u64, c: u64, d: u64) -> Result {
    let task = ctx.task;
    let process = task.process();
    match option {
        pr::SET_PDEATHSIG if a <= 64 => task.parent_death_signal.store(a as i32, Ordering::Relaxed),
        pr::GET_PDEATHSIG => UserPtr::new(a).write(&task.parent_death_signal.load(Ordering::Relaxed))?,
        pr::GET_DUMPABLE => return Ok(process.dumpable.load(Ordering::Relaxed).into()),
        pr::SET_DUMPABLE if a <= 1 => process.dumpable.store(a == 1, Ordering::Relaxed),
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
        pr::SET_TIMERSLACK => {} // timers here are exact: every slack is kept
        pr::GET_TIMERSLACK => return Ok(50_000),
        pr::SET_MM => set_mm(ctx, a, b, [c, d])?,
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
        _ => return capability::prctl(ctx, option, [a, b, c, d]),
    }
    Ok(0)
}

fn set_mm(ctx: &Ctx<'_>, part: u64, addr: u64, rest: [u64; 2]) -> Result<()> {
    if rest != [0, 0] {
        return Err(Errno::EINVAL);
    }
    if !ctx.task.credentials().capable(Capabilities::SYS_RESOURCE) {
        return Err(Errno::EPERM);
    }
    ctx.task.mm()?.set_part_of_image(part, addr)
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
    135 personality(persona: u32) Partial "PER_LINUX only; of the flags, ADDR_NO_RANDOMIZE";
    157 prctl(option: i32, arg2: u64, arg3: u64, arg4: u64, arg5: u64) Partial "the options in the source; others EINVAL; of PR_SET_MM not BRK, START_BRK, AUXV, EXE_FILE, MAP";
    158 arch_prctl(code: i32, addr: UserAddr) Full "";
};
