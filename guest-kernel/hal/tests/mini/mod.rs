//! A kernel of one page, to try the hardware layer with: threads, sleep, one signal, page faults.

use ringfence_hal::host::Simulation;
use ringfence_hal::sync::{Once, SpinLock};
use ringfence_hal::{
    AddressSpace, BootInfo, Exception, FpuInit, Frame, Interrupt, Kernel, PageFault, PerCpu, Prot, Thread,
    UserRegs, cpu, power, time, user,
};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// System calls.
pub const EXIT: u64 = 0;
pub const YIELD: u64 = 1;
pub const ID: u64 = 2;
/// A new thread in the same address space; returns its id, or 0 in the child.
pub const CLONE: u64 = 3;
/// Sleep for so many nanoseconds.
pub const SLEEP: u64 = 4;
/// Deliver a signal to the program at this address.
pub const SIGNAL: u64 = 5;
/// Go on at this address.
pub const EXEC: u64 = 6;
/// Deliver a signal and repeat the call after it; returns 1 then.
pub const RESTART: u64 = 7;
/// Print a string.
pub const PRINT: u64 = 8;
/// Wait for what never happens.
pub const BLOCK: u64 = 9;
pub const SIGRETURN: u64 = 15;

/// Where the kernel starts the first thread.
pub const INIT: u64 = 0x10_0000;
/// Faults below this address get a page, others end the thread.
pub const HEAP_END: u64 = 0x7000_0000;
/// The first thread's stack pointer.
pub const STACK: u64 = 0x6000_0000;

/// Bit of `Thread::work`: reschedule.
const RESCHEDULE: u32 = 1;

pub struct Mini;

pub struct Task {
    id: usize,
    /// Wants to run.
    ready: AtomicBool,
    restarted: AtomicBool,
    idle: bool,
    saved: SpinLock<Option<UserRegs>>,
}

type Th = Arc<Thread<Mini>>;

struct Machine {
    queue: SpinLock<VecDeque<Th>>,
    sleeping: SpinLock<Vec<(u64, Th)>>,
    idle: PerCpu<SpinLock<Option<Th>>>,
    alive: AtomicUsize,
    next_id: AtomicUsize,
}

static MACHINE: Once<Machine> = Once::new();

fn machine() -> &'static Machine {
    MACHINE.get().unwrap()
}

fn task(idle: bool) -> Task {
    let id = if idle { 0 } else { machine().next_id.fetch_add(1, Ordering::Relaxed) + 1 };
    Task {
        id,
        ready: AtomicBool::new(true),
        restarted: AtomicBool::new(false),
        idle,
        saved: SpinLock::new(None),
    }
}

fn idle_loop() -> ! {
    let idle = Thread::<Mini>::adopt_idle(task(true));
    *machine().idle.get().lock() = Some(idle);
    loop {
        schedule();
        cpu::wait_for_interrupt();
    }
}

fn wake(t: &Th) {
    t.ready.store(true, Ordering::Relaxed);
    machine().queue.lock().push_back(t.clone());
    for other in 0..cpu::count() {
        if other != cpu::id() {
            cpu::send_reschedule(other);
        }
    }
}

/// Runs the next ready thread; the current one goes on if there is none and it is ready.
fn schedule() {
    let (ready, idle) = Thread::<Mini>::with_current(|t| {
        let t = t.unwrap();
        (t.ready.load(Ordering::Relaxed), t.idle)
    });
    let next = machine().queue.lock().pop_front();
    match next {
        Some(next) => Thread::switch_to(next),
        None if ready || idle => {}
        None => {
            let next = machine().idle.get().lock().clone().unwrap();
            Thread::switch_to(next);
        }
    }
}

fn exit_thread() {
    if machine().alive.fetch_sub(1, Ordering::Relaxed) == 1 {
        power::off();
    }
    Thread::<Mini>::with_current(|t| t.unwrap().ready.store(false, Ordering::Relaxed));
    schedule();
    unreachable!("an ended thread runs");
}

fn handle_fault(fault: PageFault) -> bool {
    let space = Thread::<Mini>::with_current(|t| t.unwrap().address_space()).unwrap();
    if fault.present || fault.addr >= HEAP_END {
        return false;
    }
    let Ok(frame) = Frame::alloc_zeroed() else { return false };
    // Present: another thread of the space was quicker.
    let _ = space.map_new(fault.addr & !0xfff, frame, Prot::READ | Prot::WRITE);
    true
}

impl Kernel for Mini {
    type Task = Task;

    fn start(boot: &'static BootInfo) -> ! {
        assert_eq!(boot.cpus, cpu::count());
        MACHINE.call_once(|| Machine {
            queue: SpinLock::default(),
            sleeping: SpinLock::default(),
            idle: PerCpu::new(|_| SpinLock::new(None)),
            alive: AtomicUsize::new(1),
            next_id: AtomicUsize::new(0),
        });
        let Ok(space) = AddressSpace::new() else { power::boot_failed("no memory") };
        let regs = UserRegs::new(INIT, STACK);
        let init = Thread::new_user(task(false), &regs, FpuInit::Fresh, 0, 0, space).unwrap();
        machine().queue.lock().push_back(init);
        cpu::start_secondaries();
        idle_loop()
    }

    fn start_secondary() -> ! {
        idle_loop()
    }

    fn syscall(t: &Th, r: &mut UserRegs) -> u64 {
        let result: i64 = match r.rax {
            EXIT => {
                exit_thread();
                0
            }
            YIELD => {
                schedule();
                0
            }
            ID => t.id as i64,
            CLONE => {
                let mut regs = *r;
                regs.rax = 0;
                let space = t.address_space().unwrap();
                let child = Thread::new_user(task(false), &regs, FpuInit::CopyCurrent, r.rdi, 0, space);
                let child: Th = child.unwrap();
                machine().alive.fetch_add(1, Ordering::Relaxed);
                let id = child.id;
                wake(&child);
                id as i64
            }
            SLEEP => {
                let until = time::now() + r.rdi;
                t.ready.store(false, Ordering::Relaxed);
                machine().sleeping.lock().push((until, t.clone()));
                time::set_deadline(machine().sleeping.lock().iter().map(|s| s.0).min());
                schedule();
                0
            }
            BLOCK => {
                t.ready.store(false, Ordering::Relaxed);
                schedule();
                0
            }
            SIGNAL => {
                r.rax = 0;
                *t.saved.lock() = Some(*r);
                r.rip = r.rdi;
                return r.rax;
            }
            EXEC => {
                let Ok(space) = AddressSpace::new() else { return r.rax };
                t.set_address_space(space);
                *r = UserRegs::new(r.rdi, STACK);
                return r.rax;
            }
            RESTART => {
                if t.restarted.swap(true, Ordering::Relaxed) {
                    1
                } else {
                    r.rax = r.orig_rax;
                    r.rip -= 2;
                    *t.saved.lock() = Some(*r);
                    r.rip = r.rdi;
                    return r.rax;
                }
            }
            PRINT => {
                let mut buf = [0; 64];
                match user::copy_in_str(&mut buf, r.rdi) {
                    Ok(n) => {
                        ringfence_hal::console::write(std::str::from_utf8(&buf[..n]).unwrap());
                        n as i64
                    }
                    Err(e) => -100 - e.copied as i64,
                }
            }
            SIGRETURN => {
                if let Some(saved) = t.saved.lock().take() {
                    *r = saved;
                }
                return r.rax;
            }
            _ => -38,
        };
        result as u64
    }

    const FIRST_RESTART: i32 = 4095;

    fn restart(_: &Th) {}

    fn user_exception(_: &Th, _: &mut UserRegs, e: Exception) {
        match e {
            Exception::PageFault(fault) if handle_fault(fault) => {}
            e => {
                ringfence_hal::console::write(&format!("killed by {e:?}\n"));
                exit_thread();
            }
        }
    }

    fn page_fault(_: &Th, fault: PageFault) -> bool {
        handle_fault(fault)
    }

    fn user_work(t: &Th, _: &mut UserRegs) {
        t.work().fetch_and(!RESCHEDULE, Ordering::Relaxed);
        schedule();
    }

    fn interrupt(i: Interrupt) {
        if matches!(i, Interrupt::Timer { .. }) {
            let now = time::now();
            let mut due = Vec::new();
            let mut sleeping = machine().sleeping.lock();
            sleeping.retain(|(until, t)| {
                let stay = *until > now;
                if !stay {
                    due.push(t.clone());
                }
                stay
            });
            time::set_deadline(sleeping.iter().map(|s| s.0).min());
            drop(sleeping);
            due.iter().for_each(wake);
        }
        Thread::<Mini>::with_current(|t| {
            if let Some(t) = t {
                t.work().fetch_or(RESCHEDULE, Ordering::Relaxed);
            }
        });
    }

    fn after_switch(prev: Th) {
        if prev.ready.load(Ordering::Relaxed) && !prev.idle {
            machine().queue.lock().push_back(prev);
        }
    }
}

/// A simulation of this kernel.
pub fn simulation() -> Simulation<Mini> {
    Simulation::new()
}
