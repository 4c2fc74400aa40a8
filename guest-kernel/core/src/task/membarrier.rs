//! `membarrier(2)`.
//!
//! A barrier on all running threads of the process: each CPU that runs one is sent an interrupt, which it
//! takes in ring 3 at the latest, and taking an interrupt orders memory. We wait for nothing more than the
//! interrupt having been taken, by handing the CPU a page-table flush of the shared memory.

use crate::{
    errno::{Errno, Result},
    syscall::{Ctx, Syscall},
    syscalls,
};

const QUERY: i32 = 0;
const GLOBAL: i32 = 1;
const PRIVATE_EXPEDITED: i32 = 1 << 3;
const REGISTER_PRIVATE_EXPEDITED: i32 = 1 << 4;

fn membarrier(ctx: &mut Ctx<'_>, command: i32, flags: u32) -> Result {
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    match command {
        QUERY => Ok((PRIVATE_EXPEDITED | REGISTER_PRIVATE_EXPEDITED | GLOBAL) as usize),
        REGISTER_PRIVATE_EXPEDITED => Ok(0),
        // The flush interrupts every CPU on which this memory is loaded and waits for the answer.
        PRIVATE_EXPEDITED | GLOBAL => {
            ctx.task.mm()?.space().flush_all();
            Ok(0)
        }
        _ => Err(Errno::EINVAL),
    }
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    324 membarrier(cmd: i32, flags: u32) Partial "private expedited and global; global reaches this process's memory only";
};
