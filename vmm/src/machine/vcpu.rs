//! vCPU threads: run the guest, answer its exits, count them by reason, leave cleanly.
//!
//! A vCPU thread leaves `KVM_RUN` for good in one of two ways. Either the guest ends the machine (power port,
//! keyboard-controller reset, triple fault, an error of KVM): the thread stores the first such [`Stop`] and
//! writes the machine's stop eventfd. Or the machine wants it to: [`Vcpus::stop`] sets a flag and sends the
//! kick signal, whose handler sets `immediate_exit` in the thread's `kvm_run`, so that a signal that arrives
//! between the check of the flag and `KVM_RUN` is not lost.
//!
//! In a jail a thread confines itself (`ringfence-seccomp`) before it first enters the guest. What std and musl call at a
//! thread's end is not among what it may call: it says that it has left, and parks until the process ends.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kvm_ioctls::{VcpuExit, VcpuFd};
use ringfence_protocol::power;
use ringfence_seccomp::Thread;
use serde::Serialize;
use vmm_sys_util::eventfd::EventFd;

use super::MachineError;
use super::bus::Bus;
use super::gate::Gate;

/// Why the machine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// The guest wrote this code to the power port.
    Power(u32),
    /// The guest asked the keyboard controller for a reset (Linux: `reboot=k`).
    Reset,
    /// A triple fault, or Linux's `reboot=t`.
    TripleFault,
    /// KVM cannot go on.
    Failed(String),
}

/// Exits to the VMM by reason.
#[derive(Debug, Default, Serialize)]
pub struct Exits {
    /// Port reads and writes.
    pub io: AtomicU64,
    /// Device register reads.
    pub mmio_read: AtomicU64,
    /// Device register writes.
    pub mmio_write: AtomicU64,
    /// Writes to the read-only image, ignored.
    pub readonly_write: AtomicU64,
    /// Accesses to addresses with nothing behind them.
    pub unmapped: AtomicU64,
    /// Interrupted by a signal.
    pub interrupted: AtomicU64,
    /// Anything else.
    pub other: AtomicU64,
}

impl Exits {
    /// All together.
    pub fn total(&self) -> u64 {
        [
            &self.io,
            &self.mmio_read,
            &self.mmio_write,
            &self.readonly_write,
            &self.unmapped,
            &self.interrupted,
            &self.other,
        ]
        .iter()
        .map(|c| c.load(Ordering::Relaxed))
        .sum()
    }
}

/// Counts one event.
pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// What all vCPU threads share.
pub struct Shared {
    /// Where accesses go.
    pub bus: Bus,
    /// Counters.
    pub exits: Exits,
    stop_requested: AtomicBool,
    gate: Gate,
    /// Where each vCPU was when it was stopped, if somebody wants to know.
    places: Option<Mutex<Vec<String>>>,
    stop: Mutex<Option<Stop>>,
    stopped: EventFd,
}

impl Shared {
    /// State before the first run. `remember_places`: for [`Shared::places`].
    pub fn new(bus: Bus, remember_places: bool) -> Result<Self, MachineError> {
        let stopped = EventFd::new(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK).map_err(MachineError::EventFd)?;
        Ok(Self {
            bus,
            exits: Exits::default(),
            stop_requested: AtomicBool::new(false),
            gate: Gate::default(),
            places: remember_places.then(Mutex::default),
            stop: Mutex::new(None),
            stopped,
        })
    }

    /// A line for each vCPU that was stopped from outside: where it was.
    pub fn places(&self) -> Vec<String> {
        self.places.iter().flat_map(|places| std::mem::take(&mut *lock(places))).collect()
    }

    /// Readable once the guest has ended the machine.
    pub fn stopped(&self) -> &EventFd {
        &self.stopped
    }

    /// The first reason to stop, if there is one.
    pub fn stop_reason(&self) -> Option<Stop> {
        lock(&self.stop).clone()
    }

    fn end(&self, why: Stop) {
        lock(&self.stop).get_or_insert(why);
        // The counter cannot overflow: at most one write a vCPU.
        let _ = self.stopped.write(1);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a vCPU has to come out of the guest: it waits for nothing there.
const PATIENCE: Duration = Duration::from_secs(5);

/// The vCPU threads of a machine.
pub struct Vcpus {
    shared: Arc<Shared>,
    crew: Arc<Crew>,
}

/// What is known of the threads.
struct Crew {
    process: u32,
    /// Thread numbers; 0 of one that does not run yet.
    threads: Vec<AtomicI32>,
    /// How many have left the guest for good.
    left: Mutex<usize>,
    one_left: Condvar,
}

impl Vcpus {
    /// Starts one thread a vCPU; the first is the boot CPU. `confined`: with a filter of system calls, which is for a
    /// process in which a violation has been told where to go (`ringfence_seccomp::end_with`).
    pub fn start(fds: Vec<VcpuFd>, shared: Arc<Shared>, confined: bool) -> Result<Self, MachineError> {
        install_kick_handler()?;
        let threads = fds.iter().map(|_| AtomicI32::new(0)).collect();
        let (process, left, one_left) = (std::process::id(), Mutex::new(0), Condvar::new());
        let crew = Arc::new(Crew { process, threads, left, one_left });
        let mut vcpus = Self { shared, crew };
        for (id, fd) in fds.into_iter().enumerate() {
            let (shared, crew) = (vcpus.shared.clone(), vcpus.crew.clone());
            let started = std::thread::Builder::new()
                .name(format!("vcpu{id}"))
                .stack_size(256 << 10)
                .spawn(move || run(id, fd, &shared, &crew, confined));
            if let Err(e) = started {
                // Those that never came do not have to leave.
                *lock(&vcpus.crew.left) += vcpus.crew.threads.len() - id;
                vcpus.stop();
                return Err(MachineError::Thread(e));
            }
        }
        Ok(vcpus)
    }

    fn kick(&self) {
        for thread in &self.crew.threads {
            // One that is still 0 will see what is wanted of it before it enters the guest.
            let thread = thread.load(Ordering::SeqCst);
            if thread != 0 {
                // Not pthread_kill, which blocks signals first.
                // SAFETY: takes no pointers; the threads are parked, never gone, so a number is never another's.
                unsafe { libc::syscall(libc::SYS_tgkill, self.crew.process, thread, kick_signal()) };
            }
        }
    }

    /// Takes every vCPU out of the guest until [`Vcpus::resume`]. False: one did not come out in time, and all go on.
    pub fn pause(&self) -> bool {
        self.shared.gate.close();
        self.kick();
        let all = self.shared.gate.wait_for(self.crew.threads.len(), PATIENCE);
        if !all {
            self.resume();
        }
        all
    }

    /// Lets the vCPUs go on.
    pub fn resume(&self) {
        self.shared.gate.open();
    }

    /// Takes every vCPU out of the guest and waits until the last one has left. Idempotent.
    pub fn stop(&mut self) {
        self.shared.stop_requested.store(true, Ordering::SeqCst);
        self.shared.gate.open();
        self.kick();
        let mut left = lock(&self.crew.left);
        while *left < self.crew.threads.len() {
            left = self.crew.one_left.wait(left).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Vcpus {
    fn drop(&mut self) {
        self.stop();
    }
}

thread_local! {
    /// `immediate_exit` of this thread's `kvm_run`, null on other threads.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(std::ptr::null_mut()) };
}

fn kick_signal() -> libc::c_int {
    libc::SIGRTMIN()
}

extern "C" fn kick_handler(_signal: libc::c_int) {
    let flag = IMMEDIATE_EXIT.get();
    if !flag.is_null() {
        // SAFETY: the pointer is set by `run` on this very thread to a field of its kvm_run mapping, which is
        // never unmapped because `run` never returns; the kernel reads the byte, nothing else in this process does.
        unsafe { flag.write_volatile(1) };
    }
}

fn install_kick_handler() -> Result<(), MachineError> {
    vmm_sys_util::signal::register_signal_handler(kick_signal(), kick_handler_info)
        .map_err(|e| MachineError::Thread(std::io::Error::from_raw_os_error(e.errno())))
}

extern "C" fn kick_handler_info(signal: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    kick_handler(signal);
}

fn run(id: usize, mut fd: VcpuFd, shared: &Shared, crew: &Crew, confined: bool) -> ! {
    IMMEDIATE_EXIT.set(&raw mut fd.get_kvm_run().immediate_exit);
    if let Some(thread) = crew.threads.get(id) {
        thread.store(rustix::thread::gettid().as_raw_nonzero().get(), Ordering::SeqCst);
    }
    if confined && let Err(e) = ringfence_seccomp::confine(Thread::Vcpu) {
        shared.end(Stop::Failed(e.to_string()));
    } else {
        while !shared.stop_requested.load(Ordering::SeqCst) {
            if shared.gate.is_closed() {
                shared.gate.stand();
                continue;
            }
            if let Some(stop) = step(&mut fd, shared) {
                shared.end(stop);
                break;
            }
        }
    }
    shared.gate.leave();
    if let Some(places) = &shared.places {
        lock(places).push(format!("vcpu{id}{}", place(&fd)));
    }
    *lock(&crew.left) += 1;
    crew.one_left.notify_all();
    loop {
        std::thread::park();
    }
}

/// Enters the guest once and answers the exit.
fn step(fd: &mut VcpuFd, shared: &Shared) -> Option<Stop> {
    let Shared { bus, exits, .. } = shared;
    match fd.run() {
        Ok(VcpuExit::IoOut(port, data)) => {
            count(&exits.io);
            match (port, data) {
                (power::PORT, &[a, b, c, d]) => Some(Stop::Power(u32::from_le_bytes([a, b, c, d]))),
                (KEYBOARD_COMMAND, &[PULSE_RESET]) => Some(Stop::Reset),
                _ => {
                    bus.port_write(port, data);
                    None
                }
            }
        }
        Ok(VcpuExit::IoIn(port, data)) => {
            count(&exits.io);
            bus.port_read(port, data);
            None
        }
        Ok(VcpuExit::MmioRead(addr, data)) => {
            count(if bus.mmio_read(addr, data) { &exits.mmio_read } else { &exits.unmapped });
            None
        }
        Ok(VcpuExit::MmioWrite(addr, data)) => {
            count(if bus.mmio_write(addr, data) {
                &exits.mmio_write
            } else if bus.is_read_only(addr) {
                &exits.readonly_write
            } else {
                &exits.unmapped
            });
            None
        }
        Ok(VcpuExit::Intr) => {
            count(&exits.interrupted);
            None
        }
        Ok(VcpuExit::Shutdown) => {
            count(&exits.other);
            Some(Stop::TripleFault)
        }
        Ok(VcpuExit::SystemEvent(kind, _)) => {
            count(&exits.other);
            Some(Stop::Failed(format!("the guest asked for system event {kind}")))
        }
        Ok(exit) => {
            count(&exits.other);
            let what = format!("{exit:?}");
            Some(Stop::Failed(format!("KVM stopped a vCPU: {what}{}", place(fd))))
        }
        Err(e) if e.errno() == libc::EINTR || e.errno() == libc::EAGAIN => {
            count(&exits.interrupted);
            fd.set_kvm_immediate_exit(0);
            None
        }
        Err(e) => Some(Stop::Failed(format!("KVM_RUN failed: {e}{}", place(fd)))),
    }
}

const KEYBOARD_COMMAND: u16 = 0x64;
const PULSE_RESET: u8 = 0xfe;

fn place(fd: &VcpuFd) -> String {
    match (fd.get_regs(), fd.get_sregs()) {
        (Ok(r), Ok(s)) => {
            let (ring, interrupts) = (s.cs.selector & 3, if r.rflags & 1 << 9 == 0 { "off" } else { "on" });
            format!(
                " at rip {:#x} rsp {:#x} cr2 {:#x} cr3 {:#x}, ring {ring}, interrupts {interrupts}{}",
                r.rip,
                r.rsp,
                s.cr2,
                s.cr3,
                vectors(fd)
            )
        }
        _ => String::new(),
    }
}

/// The interrupts a CPU has been sent, and those it has taken and not acknowledged.
fn vectors(fd: &VcpuFd) -> String {
    let Ok(apic) = fd.get_lapic() else { return String::new() };
    // Two sets of 256 bits, 32 in every fourth word (Intel SDM 3, 11.8.4).
    let set = |first: usize| -> Vec<String> {
        let word = |vector: usize| -> u32 {
            let at = first + vector / 32 * 16;
            (0..4).fold(0, |word, i| word | u32::from(apic.regs[at + i] as u8) << (8 * i))
        };
        (0..256).filter(|v| word(*v) >> (v % 32) & 1 != 0).map(|v| format!("{v:#x}")).collect()
    };
    let (pending, in_service) = (set(0x200), set(0x100));
    format!(", vectors pending [{}] in service [{}]", pending.join(" "), in_service.join(" "))
}
