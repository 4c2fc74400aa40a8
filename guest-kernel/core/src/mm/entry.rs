//! Where page faults come in, and what becomes of those that cannot be resolved.

use core::sync::atomic::Ordering;

use ringfence_hal::{Exception, PageFault};

use super::{FaultResult, Limits, Mm, oom};
use crate::{
    TaskRef,
    errno::Errno,
    signal::{self, SigInfo, Signal, types::code},
    task::Capabilities,
};

/// The limits that hold for memory operations of `task`.
pub fn limits_of(task: &TaskRef) -> Limits {
    let mut limits = task.process().limits.for_mm();
    if task.credentials().capable(Capabilities::IPC_LOCK) {
        limits.locked = u64::MAX;
    }
    limits
}

fn resolve(task: &TaskRef, fault: PageFault) -> FaultResult {
    task.minor_faults.fetch_add(1, Ordering::Relaxed);
    match task.mm_opt() {
        Some(mm) => match mm.fault(fault, || limits_of(task)) {
            FaultResult::NotLoaded => load(task, &mm, fault),
            result => result,
        },
        None => FaultResult::NotMapped,
    }
}

/// Has the page read, as often as it is given up again before it is mapped. `NotLoaded`: the task is being killed.
#[cold]
fn load(task: &TaskRef, mm: &Mm, fault: PageFault) -> FaultResult {
    loop {
        match mm.load_page(fault.addr) {
            Ok(()) => {}
            Err(Errno::ENOMEM) => return FaultResult::OutOfMemory,
            Err(Errno::EINTR) => return FaultResult::NotLoaded,
            Err(_) => return FaultResult::NoPage,
        }
        match mm.fault(fault, || limits_of(task)) {
            FaultResult::NotLoaded => {}
            result => return result,
        }
    }
}

/// A page fault in ring 3: resolved, or the task gets a signal.
pub fn user_fault(task: &TaskRef, fault: PageFault) {
    let (signal, code) = match resolve(task, fault) {
        FaultResult::Resolved | FaultResult::NotLoaded => return,
        FaultResult::NotMapped => (Signal::SEGV, code::SEGV_MAPERR),
        FaultResult::NotPermitted => (Signal::SEGV, code::SEGV_ACCERR),
        FaultResult::NoPage => (Signal::BUS, code::BUS_ADRERR),
        // The access is tried again, after the signal that ends this process if it was the one chosen.
        FaultResult::OutOfMemory => return oom::make_room(task),
    };
    task.signals.trapped(Exception::PageFault(fault));
    signal::force(task, SigInfo::fault(signal, code, fault.addr));
}

/// A page fault of a copy to or from user memory. `true`: try again; `false`: the copy fails.
pub fn kernel_fault(task: &TaskRef, fault: PageFault) -> bool {
    loop {
        match resolve(task, fault) {
            FaultResult::Resolved => return true,
            FaultResult::OutOfMemory if !task.killed() => oom::make_room(task),
            _ => return false,
        }
    }
}
