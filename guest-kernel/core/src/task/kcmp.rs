//! kcmp(2): whether two tasks share something. What checkpointing tools and debuggers ask.

use alloc::sync::Arc;

use crate::{
    TaskRef,
    errno::{Errno, Result},
    ptrace::{AccessMode, check_access},
    random,
    sync::Once,
    syscall::{Ctx, Syscall},
    syscalls,
};

const FILE: i32 = 0;
const VM: i32 = 1;
const FILES: i32 = 2;
const FS: i32 = 3;
const SIGHAND: i32 = 4;
const IO: i32 = 5;
const SYSVSEM: i32 = 6;

/// An order of addresses that tells nothing about them.
fn order(a: usize, b: usize) -> usize {
    static KEY: Once<u64> = Once::new();
    let hide =
        |n: usize| (n as u64 ^ *KEY.call_once(random::next_u64)).wrapping_mul(0x9e37_79b9_7f4a_7c15 | 1);
    match hide(a).cmp(&hide(b)) {
        core::cmp::Ordering::Equal => 0,
        core::cmp::Ordering::Less => 1,
        core::cmp::Ordering::Greater => 2,
    }
}

fn address<T: ?Sized>(object: &Arc<T>) -> usize {
    Arc::as_ptr(object).cast::<()>().addr()
}

fn kcmp(ctx: &mut Ctx<'_>, pid1: i32, pid2: i32, kind: i32, idx1: u64, idx2: u64) -> Result {
    let (a, b) = (ctx.task.pids().task(pid1)?, ctx.task.pids().task(pid2)?);
    check_access(ctx.task, &a, AccessMode::Real)?;
    check_access(ctx.task, &b, AccessMode::Real)?;
    let fd = |n: u64| i32::try_from(n).map_err(|_| Errno::EBADF);
    let compare = |key: &dyn Fn(&TaskRef) -> usize| order(key(&a), key(&b));
    Ok(match kind {
        FILE => {
            order(a.files()?.get_any(fd(idx1)?)?.id() as usize, b.files()?.get_any(fd(idx2)?)?.id() as usize)
        }
        VM => compare(&|t| t.mm_opt().as_ref().map_or(0, address)),
        FILES => compare(&|t| t.files().as_ref().map_or(0, address)),
        FS => compare(&|t| t.fs().as_ref().map_or(0, address)),
        SIGHAND => compare(&|t| address(&t.process().sighand())),
        // No task has an I/O context.
        IO => 0,
        SYSVSEM => compare(&|t| t.process().sem_undo.get().map_or(0, address)),
        _ => return Err(Errno::EINVAL),
    })
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    312 kcmp(pid1: i32, pid2: i32, kind: i32, idx1: u64, idx2: u64) Partial "no KCMP_EPOLL_TFD";
};
