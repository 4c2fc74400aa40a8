//! `membarrier(2)`.
//!
//! A barrier on all running threads of a process (or of all): each CPU that runs one is sent an interrupt, which it
//! takes in ring 3 at the latest, and taking an interrupt orders memory. We wait for nothing more than the
//! interrupt having been taken, by handing the CPU a page-table flush of its memory.
//!
//! The commands about restartable sequences and about instruction streams have the threads go through `work::NOTIFY` as well:
//! the first ends their critical sections, and the way out of the kernel from there is IRET, which serializes.

use alloc::{sync::Arc, vec::Vec};
use core::sync::atomic::Ordering;

use crate::{
    errno::{Errno, Result},
    mm::Mm,
    sched::{self, work},
    syscall::{Ctx, Syscall},
    syscalls,
};

const QUERY: i32 = 0;
const GLOBAL: i32 = 1;
const GLOBAL_EXPEDITED: i32 = 1 << 1;
const REGISTER_GLOBAL_EXPEDITED: i32 = 1 << 2;
const PRIVATE_EXPEDITED: i32 = 1 << 3;
const PRIVATE_EXPEDITED_SYNC_CORE: i32 = 1 << 5;
const PRIVATE_EXPEDITED_RSEQ: i32 = 1 << 7;
/// Registering for a private command is the next bit.
const REGISTER_PRIVATE_EXPEDITED: i32 = PRIVATE_EXPEDITED << 1;
const REGISTER_SYNC_CORE: i32 = PRIVATE_EXPEDITED_SYNC_CORE << 1;
const REGISTER_RSEQ: i32 = PRIVATE_EXPEDITED_RSEQ << 1;
const GET_REGISTRATIONS: i32 = 1 << 9;
const ALL: i32 = 0x3ff;
/// Of the RSEQ command: one CPU only.
const FLAG_CPU: u32 = 1;

/// The memories of running threads, but for `mine`.
fn others(mine: &Arc<Mm>) -> Vec<Arc<Mm>> {
    let mut found: Vec<Arc<Mm>> = Vec::new();
    sched::for_running(|task, _| {
        if let Some(mm) = task.mm_opt()
            && !Arc::ptr_eq(&mm, mine)
            && !found.iter().any(|other| Arc::ptr_eq(other, &mm))
        {
            found.push(mm);
        }
    });
    found
}

fn membarrier(ctx: &mut Ctx<'_>, command: i32, flags: u32, _cpu: i32) -> Result {
    if flags != 0 && (command != PRIVATE_EXPEDITED_RSEQ || flags != FLAG_CPU) {
        return Err(Errno::EINVAL);
    }
    let mm = ctx.task.mm()?;
    match command {
        QUERY => return Ok(ALL as usize),
        GET_REGISTRATIONS => return Ok(mm.membarrier.load(Ordering::Relaxed) as usize),
        REGISTER_GLOBAL_EXPEDITED | REGISTER_PRIVATE_EXPEDITED | REGISTER_SYNC_CORE | REGISTER_RSEQ => {
            mm.membarrier.fetch_or(command as u32, Ordering::SeqCst);
            return Ok(0);
        }
        // No bit asks whether others want to be hurried: all are.
        GLOBAL | GLOBAL_EXPEDITED => {
            for mm in others(&mm) {
                mm.space().flush_all();
            }
        }
        PRIVATE_EXPEDITED | PRIVATE_EXPEDITED_SYNC_CORE | PRIVATE_EXPEDITED_RSEQ => {
            let registered = mm.membarrier.load(Ordering::Relaxed);
            if registered & (command as u32) << 1 == 0 {
                return Err(Errno::EPERM);
            }
            if command != PRIVATE_EXPEDITED {
                sched::for_running(|task, _| {
                    if task.mm_opt().is_some_and(|other| Arc::ptr_eq(&other, &mm)) {
                        task.work().fetch_or(work::NOTIFY, Ordering::SeqCst);
                    }
                });
            }
        }
        _ => return Err(Errno::EINVAL),
    }
    // The flush interrupts every CPU on which this memory is loaded and waits for the answer.
    mm.space().flush_all();
    Ok(0)
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    324 membarrier(cmd: i32, flags: u32, cpu_id: i32) Full "";
};
