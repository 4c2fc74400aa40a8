//! User mode: Rust closures that play the programs of ring 3.
//!
//! A program is registered at an address ([`Simulation::program`](super::Simulation::program)); a thread that
//! enters user mode with that instruction pointer runs it. Inside, each system call and each memory access is
//! an "instruction" at an address of its own, so that the kernel may do to the registers what it does on a
//! real machine:
//!
//! * *Signal handlers*: the kernel points `rip` to another program, which runs nested in the instruction that
//!   entered the kernel. `rt_sigreturn` restores the old `rip`: the handler's closure is unwound (like a
//!   `longjmp`; the call never returns) and the interrupted program goes on. A closure that returns pops the
//!   address of the next program (the restorer) off the user stack.
//! * *Restart*: `rip` moved back by 2 repeats the system call with the number in `rax`.
//! * *`execve`*: `rip` becomes the new program's. The old closure stays below it on the std stack, never to
//!   return.
//! * *`fork`, `clone`*: a closure cannot return twice, so [`HostUser::syscall_then`] makes the system call
//!   return to a program's address, and the child begins there; the parent's closure goes on.
//!
//! An address without a program faults as a jump to it would.

use super::context;
use super::cpu;
use super::lock;
use super::space::PageAccess;
use super::thread::{Borrowed, Thread};
use super::world::world;
use crate::{Access, Exception, Kernel, PAGE_SIZE, PageFault, USER_END, UserRegs};
use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A user program.
pub(super) type Program<K> = Arc<dyn Fn(&mut HostUser<K>) + Send + Sync>;
/// User programs by address.
pub(super) type Programs<K> = BTreeMap<u64, Program<K>>;

/// What a system call takes, in nanoseconds of the simulated clock.
const SYSCALL_NS: u64 = 1000;
/// Kernel code that wants something done again this often never finishes.
const MAX_ROUNDS: usize = 100_000;
/// The instructions of a program lie this far behind its address: none may look like the program's start.
const CODE_OFFSET: u64 = 0x100;
/// Length of the `syscall` instruction.
const SYSCALL_LEN: u64 = 2;

/// User mode as a program sees it.
pub struct HostUser<K: Kernel> {
    thread: Borrowed<K>,
    regs: UserRegs,
    /// Instructions that entered the kernel and are not complete; each one's handlers run nested in it.
    pending: Vec<Instruction>,
    /// Address of the running program.
    program: u64,
    executed: u64,
}

#[derive(Clone, Copy)]
struct Instruction {
    /// Where `rip` is when it is complete.
    done: u64,
    /// Where `rip` is when it must be repeated.
    repeat: Option<u64>,
}

/// Unwinds the closures nested in all instructions after this many.
struct ReturnTo(usize);

/// A thread's user mode, from its first entry on.
pub(super) fn enter<K: Kernel>(thread: &Arc<Thread<K>>, regs: UserRegs) -> ! {
    let mut user =
        HostUser { thread: Borrowed::new(thread), regs, pending: Vec::new(), program: regs.rip, executed: 0 };
    user.leave_kernel();
    user.execute();
    unreachable!("no instruction to return to")
}

impl<K: Kernel> HostUser<K> {
    /// Makes a system call, with up to six arguments, and returns what the kernel left in `rax`.
    pub fn syscall(&mut self, number: u64, args: &[u64]) -> i64 {
        let at = self.next_instruction();
        self.syscall_to(at + SYSCALL_LEN, number, args)
    }

    /// A system call that returns to the program at `child` in the thread or process it creates (with 0 in
    /// `rax`, as usual), and here in the caller.
    pub fn syscall_then(&mut self, child: u64, number: u64, args: &[u64]) -> i64 {
        self.syscall_to(child, number, args)
    }

    fn syscall_to(&mut self, done: u64, number: u64, args: &[u64]) -> i64 {
        self.pass_time(SYSCALL_NS);
        let mut six = [0; 6];
        six[..args.len()].copy_from_slice(args);
        let r = &mut self.regs;
        r.rax = number;
        [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9] = six;
        loop {
            let r = &mut self.regs;
            (r.rip, r.rcx, r.r11, r.orig_rax) = (done, done, r.rflags, r.rax);
            let repeat = done - SYSCALL_LEN;
            self.instruction(Instruction { done, repeat: Some(repeat) }, |thread, regs| {
                if thread.is_watched() {
                    return K::watched_syscall(thread, regs);
                }
                regs.rax = K::syscall(thread, regs);
                if (-4095..=-i64::from(K::FIRST_RESTART)).contains(&(regs.rax as i64)) {
                    K::restart(thread);
                }
            });
            if self.regs.rip == done {
                return self.regs.rax as i64;
            }
        }
    }

    /// Raises an exception, as an instruction that the processor refuses does.
    pub fn exception(&mut self, e: Exception) {
        let at = self.next_instruction();
        self.regs.rip = at;
        self.regs.orig_rax = u64::MAX;
        self.instruction(Instruction { done: at, repeat: None }, |thread, regs| {
            K::user_exception(thread, regs, e);
        });
    }

    /// Lets time pass in user mode; interrupts that become due are taken.
    pub fn compute(&mut self, ns: u64) {
        let mut left = ns;
        while left > 0 {
            // In steps, so that a timer interrupts at its time.
            let step = left.min(10_000);
            self.pass_time(step);
            left -= step;
        }
    }

    /// Reads user memory; faults go to the kernel.
    pub fn read(&mut self, addr: u64, buf: &mut [u8]) {
        self.access(addr, buf.len(), Access::Read, |page, off, range| {
            if let PageAccess::Read(frame) = page {
                frame.read(off, &mut buf[range]);
            }
        });
    }

    /// Writes user memory; faults go to the kernel.
    pub fn write(&mut self, addr: u64, bytes: &[u8]) {
        self.access(addr, bytes.len(), Access::Write, |page, off, range| {
            if let PageAccess::Write(page) = page {
                page[off..off + range.len()].copy_from_slice(&bytes[range]);
            }
        });
    }

    /// Reads a word.
    pub fn load_u32(&mut self, addr: u64) -> u32 {
        let mut b = [0; 4];
        self.read(addr, &mut b);
        u32::from_ne_bytes(b)
    }

    /// Reads a double word.
    pub fn load_u64(&mut self, addr: u64) -> u64 {
        let mut b = [0; 8];
        self.read(addr, &mut b);
        u64::from_ne_bytes(b)
    }

    /// Atomically replaces an aligned word; `f` gets the old one, which is also returned.
    pub fn update_u32(&mut self, addr: u64, f: impl Fn(u32) -> u32) -> u32 {
        assert!(addr.is_multiple_of(4), "unaligned");
        let mut old = 0;
        self.access(addr, 4, Access::Write, |page, off, _| {
            if let PageAccess::Write(page) = page {
                let mut word = [0; 4];
                word.copy_from_slice(&page[off..off + 4]);
                old = u32::from_ne_bytes(word);
                page[off..off + 4].copy_from_slice(&f(old).to_ne_bytes());
            }
        });
        old
    }

    /// The registers. `rip` is that of the last instruction.
    pub fn regs(&self) -> &UserRegs {
        &self.regs
    }

    /// The registers, to change them as the program's own instructions would.
    pub fn regs_mut(&mut self) -> &mut UserRegs {
        &mut self.regs
    }

    /// The thread's FS base.
    pub fn fs_base(&self) -> u64 {
        self.thread.fs_base()
    }

    fn access(
        &mut self,
        addr: u64,
        len: usize,
        access: Access,
        mut f: impl FnMut(PageAccess<'_>, usize, Range<usize>),
    ) {
        let mut done = 0;
        while done < len {
            let va = addr.wrapping_add(done as u64);
            let off = va as usize % PAGE_SIZE;
            let range = done..len.min(done + PAGE_SIZE - off);
            let mut rounds = 0;
            while let Err(present) = with_page(va, access, |page| f(page, off, range.clone())) {
                self.exception(match va {
                    ..USER_END => Exception::PageFault(PageFault { addr: va, access, present }),
                    _ => Exception::GeneralProtection { code: 0 },
                });
                rounds += 1;
                assert!(rounds < MAX_ROUNDS, "the kernel makes no progress with the fault at {va:#x}");
            }
            done = range.end;
        }
    }

    /// Time passes in user mode; takes interrupts that are due.
    fn pass_time(&mut self, ns: u64) {
        world().pass_time(ns);
        cpu::poll_interrupts();
        if self.thread.work().load(Ordering::Acquire) != 0 {
            let at = self.next_instruction();
            self.regs.rip = at;
            self.regs.orig_rax = u64::MAX;
            self.instruction(Instruction { done: at, repeat: None }, |_, _| ());
        }
    }

    /// Enters the kernel from `instruction`, and runs what user code the kernel goes to until it comes back
    /// to the instruction.
    fn instruction(&mut self, instruction: Instruction, f: impl FnOnce(&Arc<Thread<K>>, &mut UserRegs)) {
        let program = self.program;
        self.pending.push(instruction);
        self.thread.saved.lock().unwrap().entry = self.regs;
        f(&self.thread, &mut self.regs);
        self.leave_kernel();
        self.execute();
        self.pending.pop();
        self.program = program;
    }

    /// The kernel's exit path.
    fn leave_kernel(&mut self) {
        for _ in 0..MAX_ROUNDS {
            if let Some(changed) = self.thread.saved.lock().unwrap().changed.take() {
                self.regs = changed;
            }
            if self.thread.work().load(Ordering::Acquire) != 0 {
                K::user_work(&self.thread, &mut self.regs);
            } else if !self.regs.rip_is_user_canonical() {
                K::user_exception(&self.thread, &mut self.regs, Exception::GeneralProtection { code: 0 });
            } else {
                lock::assert_none_held("a return to user mode");
                let owes_flush = context::space().is_some_and(|s| s.owes_flush());
                assert!(!owes_flush, "a return to user mode after fork_range without flush_all");
                self.regs.force_user();
                return;
            }
        }
        panic!(
            "the kernel never gets to user mode: work is {:#x}",
            self.thread.work().load(Ordering::Relaxed)
        );
    }

    /// Runs programs until `rip` is at the last pending instruction.
    fn execute(&mut self) {
        let depth = self.pending.len();
        loop {
            let rip = self.regs.rip;
            match self.pending.iter().rposition(|i| i.done == rip || i.repeat == Some(rip)) {
                Some(last) if last + 1 == depth => return,
                Some(outer) => resume_unwind(Box::new(ReturnTo(outer + 1))),
                None => self.run_program(rip, depth),
            }
        }
    }

    fn run_program(&mut self, rip: u64, depth: usize) {
        let Some(program) = program_at::<K>(rip) else {
            return self.fetch_fault(rip);
        };
        self.program = rip;
        match catch_unwind(AssertUnwindSafe(|| program(self))) {
            Ok(()) => {
                let rsp = self.regs.rsp;
                let to = self.load_u64(rsp);
                self.regs.rsp = rsp.wrapping_add(8);
                self.regs.rip = to;
            }
            Err(payload) => match payload.downcast::<ReturnTo>() {
                Ok(to) if to.0 == depth => self.pending.truncate(depth),
                Ok(outer) => resume_unwind(outer),
                Err(panic) => resume_unwind(panic),
            },
        }
    }

    /// No program is registered at `rip`: what the processor raises instead of running it.
    fn fetch_fault(&mut self, rip: u64) {
        let e = match with_page(rip, Access::Exec, |_| ()) {
            _ if !self.regs.rip_is_user_canonical() => Exception::GeneralProtection { code: 0 },
            Err(present) => Exception::PageFault(PageFault { addr: rip, access: Access::Exec, present }),
            Ok(()) => Exception::InvalidOpcode,
        };
        self.regs.orig_rax = u64::MAX;
        self.thread.saved.lock().unwrap().entry = self.regs;
        K::user_exception(&self.thread, &mut self.regs, e);
        self.leave_kernel();
    }

    /// An address that no other instruction of this thread has.
    fn next_instruction(&mut self) -> u64 {
        self.executed += 1;
        self.program + CODE_OFFSET + 4 * self.executed
    }
}

fn program_at<K: Kernel>(rip: u64) -> Option<Program<K>> {
    world().hooks().programs.downcast_ref::<Programs<K>>()?.get(&rip).cloned()
}

fn with_page<R>(va: u64, access: Access, f: impl FnOnce(PageAccess<'_>) -> R) -> Result<R, bool> {
    context::space().ok_or(false)?.with_page(va - va % PAGE_SIZE as u64, access, f)
}
