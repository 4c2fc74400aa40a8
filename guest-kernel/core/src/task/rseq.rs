//! Restartable sequences (rseq(2)).
//!
//! What Linux does: a thread registers 32 bytes of its memory in which the kernel keeps the number of the CPU it runs on. The
//! thread points `rseq_cs` there at the description of a critical section before it enters one; when the kernel
//! returns to user mode within the section after the thread lost its CPU, was moved to another one, or gets a signal,
//! it clears the pointer and lets the thread go on at the section's abort handler. In front of the handler lies the
//! signature given at registration, so that nobody can use this to jump anywhere else.
//!
//! What we do: the same. A task that has registered is sent through `work::NOTIFY` when it was switched out in the
//! middle of user code (not in a system call, which no critical section makes), and when it comes to another CPU; and a
//! signal frame is made after a look at the section. Others pay for a load at a task switch. `mm_cid`, a number that
//! no other running thread of the same memory has, is the number of the CPU; there is one node.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use ringfence_hal as hal;
use ringfence_hal::UserRegs;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Task;
use crate::{
    TaskRef,
    errno::{Errno, Result},
    sched::work,
    signal::{self, SigInfo, Signal},
    syscall::{Ctx, Syscall, UserPtr},
    syscalls,
};

const UNREGISTER: i32 = 1;
const SIZE: u32 = 32;
/// `RSEQ_CPU_ID_UNINITIALIZED`; here also: what memory says is not known.
const NO_CPU: u32 = u32::MAX;
/// Where the fields lie.
const CPU_ID_START: u64 = 0;
const RSEQ_CS: u64 = 8;
const FLAGS: u64 = 16;
const NODE_ID: u64 = 20;

/// What a task has registered.
pub struct Rseq {
    /// The area; 0: none.
    area: AtomicU64,
    signature: AtomicU32,
    /// The CPU the area names.
    cpu: AtomicU32,
}

impl Default for Rseq {
    fn default() -> Rseq {
        Rseq { area: AtomicU64::new(0), signature: AtomicU32::new(0), cpu: AtomicU32::new(NO_CPU) }
    }
}

impl Rseq {
    /// Whether the task has registered.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.area.load(Ordering::Relaxed) != 0
    }

    /// Whether the area names `cpu`.
    #[inline]
    pub fn names(&self, cpu: usize) -> bool {
        self.cpu.load(Ordering::Relaxed) == cpu as u32
    }

    /// A child with a copy of the memory has a copy of the area.
    pub fn copy(&self, parent: &Rseq) {
        self.area.store(parent.area.load(Ordering::Relaxed), Ordering::Relaxed);
        self.signature.store(parent.signature.load(Ordering::Relaxed), Ordering::Relaxed);
        self.cpu.store(parent.cpu.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// The memory is gone (`execve`).
    pub fn forget(&self) {
        self.area.store(0, Ordering::Relaxed);
        self.cpu.store(NO_CPU, Ordering::Relaxed);
    }
}

/// `struct rseq_cs`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Section {
    version: u32,
    flags: u32,
    start: u64,
    length: u64,
    abort: u64,
}

impl Section {
    fn contains(&self, ip: u64) -> bool {
        ip.wrapping_sub(self.start) < self.length
    }

    /// EINVAL: not a section.
    fn check(&self) -> Result<()> {
        let end = self.start.checked_add(self.length).ok_or(Errno::EINVAL)?;
        let inside = |at: u64| at < hal::USER_END;
        if self.version != 0 || !inside(self.start) || !inside(end) || !inside(self.abort) {
            return Err(Errno::EINVAL);
        }
        if self.contains(self.abort) { Err(Errno::EINVAL) } else { Ok(()) }
    }
}

/// The task returns to user mode at `regs`, and may have lost its CPU: leaves its critical section.
fn leave_section(task: &Task, area: u64, regs: &mut UserRegs) -> Result<()> {
    let pointer = hal::user::load_u64(area + RSEQ_CS)?;
    if pointer == 0 {
        return Ok(());
    }
    if pointer >= hal::USER_END {
        return Err(Errno::EINVAL);
    }
    let section = UserPtr::<Section>::new(pointer).read()?;
    section.check()?;
    let signature = hal::user::load_u32(section.abort.wrapping_sub(4))?;
    if signature != task.rseq.signature.load(Ordering::Relaxed) {
        return Err(Errno::EINVAL);
    }
    let inside = section.contains(regs.rip);
    // The flags that once forbade restarts are an error since Linux 6.0.
    if inside && (hal::user::load_u32(area + FLAGS)? | section.flags) != 0 {
        return Err(Errno::EINVAL);
    }
    UserPtr::<u64>::new(area + RSEQ_CS).write(&0)?;
    if inside {
        regs.rip = section.abort;
    }
    Ok(())
}

/// Writes down where the task runs, if that has changed.
fn write_cpu(task: &Task, area: u64) -> Result<()> {
    let cpu = hal::cpu::id() as u32;
    if task.rseq.cpu.load(Ordering::Relaxed) != cpu {
        UserPtr::<[u32; 2]>::new(area + CPU_ID_START).write(&[cpu, cpu])?;
        UserPtr::<[u32; 2]>::new(area + NODE_ID).write(&[0, cpu])?;
        // The copy may have slept and come back elsewhere: then the switch has asked for another turn already.
        task.rseq.cpu.store(cpu, Ordering::Relaxed);
        if hal::cpu::id() as u32 != cpu {
            task.rseq.cpu.store(NO_CPU, Ordering::Relaxed);
        }
    }
    Ok(())
}

/// Before `task` returns to user mode: it may have lost its CPU, or runs on another one.
pub(super) fn notify_resume(task: &TaskRef, regs: &mut UserRegs) {
    let area = task.rseq.area.load(Ordering::Relaxed);
    if area == 0 || task.killed() {
        return;
    }
    if leave_section(task, area, regs).and_then(|()| write_cpu(task, area)).is_err() {
        signal::force(task, SigInfo::kernel(Signal::SEGV));
    } else if !task.rseq.names(hal::cpu::id()) {
        task.work().fetch_or(work::NOTIFY, Ordering::Release);
    }
}

/// A signal's handler is about to be entered. `EFAULT`, `EINVAL`: the area or its section is broken.
pub(crate) fn before_handler(task: &TaskRef, regs: &mut UserRegs) -> Result<()> {
    match task.rseq.area.load(Ordering::Relaxed) {
        0 => Ok(()),
        area => leave_section(task, area, regs),
    }
}

fn rseq(ctx: &mut Ctx<'_>, area: UserPtr<[u8; 32]>, len: u32, flags: i32, signature: u32) -> Result {
    let state = &ctx.task.rseq;
    let now = state.area.load(Ordering::Relaxed);
    let same_signature = state.signature.load(Ordering::Relaxed) == signature;
    if flags & UNREGISTER != 0 {
        if flags != UNREGISTER || now == 0 || now != area.0 || len != SIZE {
            return Err(Errno::EINVAL);
        }
        if !same_signature {
            return Err(Errno::EPERM);
        }
        UserPtr::<[u32; 2]>::new(now + CPU_ID_START).write(&[0, NO_CPU])?;
        state.forget();
        return Ok(0);
    }
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    if now != 0 {
        return Err(match () {
            () if now != area.0 || len != SIZE => Errno::EINVAL,
            () if !same_signature => Errno::EPERM,
            () => Errno::EBUSY,
        });
    }
    if !area.0.is_multiple_of(u64::from(SIZE)) || len != SIZE {
        return Err(Errno::EINVAL);
    }
    if area.is_null() || area.0 >= hal::USER_END - u64::from(SIZE) {
        return Err(Errno::EFAULT);
    }
    state.signature.store(signature, Ordering::Relaxed);
    state.cpu.store(NO_CPU, Ordering::Relaxed);
    state.area.store(area.0, Ordering::Relaxed);
    ctx.task.work().fetch_or(work::NOTIFY, Ordering::Release); // fills the area in
    Ok(0)
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    334 rseq(area: UserPtr<[u8; 32]>, len: u32, flags: i32, sig: u32) Full "";
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_are_checked() {
        let good = Section { version: 0, flags: 0, start: 0x1000, length: 0x10, abort: 0x2000 };
        assert_eq!(good.check(), Ok(()));
        assert!(
            good.contains(0x1000) && good.contains(0x100f) && !good.contains(0x1010) && !good.contains(0xfff)
        );
        for bad in [
            Section { version: 1, ..good },
            Section { abort: 0x1008, ..good },
            Section { start: hal::USER_END, ..good },
            Section { length: u64::MAX, ..good },
            Section { length: hal::USER_END, ..good },
            Section { abort: 1 << 63, ..good },
        ] {
            assert_eq!(bad.check(), Err(Errno::EINVAL));
        }
    }
}
