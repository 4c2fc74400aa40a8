//! Robust futexes (get_robust_list(2), the kernel's robust-futex-ABI document): words that a dying thread
//! still owns are marked, and one waiter each is woken.

use ringfence_hal as hal;

use crate::{
    TaskRef,
    errno::{Errno, Result},
    syscall::{Ctx, Syscall, UserPtr},
    syscalls,
};

/// Entries followed at most: the list is in user memory and may be a loop.
const ROBUST_LIST_LIMIT: usize = 2048;
/// Bytes of `struct robust_list_head`.
const HEAD_SIZE: usize = 24;
const OWNER_DIED: u32 = 0x4000_0000;
const WAITERS: u32 = 0x8000_0000;
const TID_MASK: u32 = 0x3fff_ffff;

/// What `set_robust_list` was given.
#[derive(Clone, Copy, Default)]
pub struct RobustList {
    head: u64,
}

fn set_robust_list(ctx: &mut Ctx<'_>, head: u64, len: usize) -> Result {
    if len != HEAD_SIZE {
        return Err(Errno::EINVAL);
    }
    *ctx.task.robust_list.lock() = RobustList { head };
    Ok(0)
}

fn get_robust_list(ctx: &mut Ctx<'_>, tid: i32, head: UserPtr<u64>, len: UserPtr<u64>) -> Result {
    let task = if tid == 0 { ctx.task.clone() } else { ctx.task.pids().task(tid)? };
    let list = *task.robust_list.lock();
    len.write(&(HEAD_SIZE as u64))?;
    head.write(&list.head)?;
    Ok(0)
}

/// Marks what the exiting task still owns.
pub fn exit_robust_list(task: &TaskRef) {
    let list = core::mem::take(&mut *task.robust_list.lock());
    if list.head != 0 {
        // A broken list just ends the walk: it is the program's.
        let _ = walk(task, list.head);
    }
    super::pi::owner_gone(task);
}

fn walk(task: &TaskRef, head: u64) -> Result<()> {
    let word = |at: u64| UserPtr::<u64>::new(at).read();
    let offset = word(head.wrapping_add(8))?;
    let pending = word(head.wrapping_add(16))?;
    let mut entry = word(head)?;
    for _ in 0..ROBUST_LIST_LIMIT {
        // Bit 0 marks a priority-inheritance lock.
        let at = entry & !1;
        if at == head {
            break;
        }
        let next = word(at);
        if at != pending & !1 {
            owner_died(task, at.wrapping_add(offset), false)?;
        }
        entry = next?;
    }
    if pending != 0 {
        owner_died(task, (pending & !1).wrapping_add(offset), true)?;
    }
    Ok(())
}

fn owner_died(task: &TaskRef, addr: u64, pending: bool) -> Result<()> {
    loop {
        let value = hal::user::load_u32(addr)?;
        if pending && value & TID_MASK == 0 {
            super::wake_address(task, addr, 1); // unlocked, but died before it could wake anybody
            return Ok(());
        }
        if value & TID_MASK != task.tid() as u32 {
            return Ok(());
        }
        if hal::user::cmpxchg_u32(addr, value, value & WAITERS | OWNER_DIED)?.is_ok() {
            if value & WAITERS != 0 {
                super::wake_address(task, addr, 1);
            }
            return Ok(());
        }
    }
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    273 set_robust_list(head: u64, len: usize) Full "";
    274 get_robust_list(pid: i32, head: UserPtr<u64>, len: UserPtr<u64>) Full "";
};
