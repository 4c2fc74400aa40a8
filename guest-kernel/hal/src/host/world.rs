//! What one simulated machine has once: frames, clock, CPUs, console, devices.

use super::context;
use super::frame::Pool;
use super::mmio::MmioDevice;
use super::pmem::Region;
use super::thread::Sleeper;
use crate::{Interrupt, PageFault};
use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, OnceLock, Weak};

/// One machine's state; see the [module](super) documentation.
pub struct World {
    pub(super) id: u64,
    pub(super) pool: Arc<Pool>,
    machine: Mutex<Machine>,
    /// Signalled at every change of the machine that a waiting CPU or the simulation's owner looks at.
    pub(super) changed: Condvar,
    pub(super) console: Mutex<String>,
    pub(super) devices: Mutex<Devices>,
    pub(super) hooks: OnceLock<Hooks>,
    stopped: AtomicBool,
    /// Threads that wait for something other than `changed`.
    sleepers: Mutex<Vec<Weak<dyn Sleeper>>>,
}

/// The upward calls, without the kernel's type.
pub(super) struct Hooks {
    pub interrupt: fn(Interrupt),
    pub page_fault: fn(PageFault) -> bool,
    pub start_secondary: fn() -> !,
    /// The simulation's registry of user programs.
    pub programs: Box<dyn Any + Send + Sync>,
}

/// CPUs, clock and the end of the simulation.
pub(super) struct Machine {
    /// Nanoseconds since boot.
    pub clock: u64,
    pub cpus: Vec<CpuState>,
    /// Where each enabled global system interrupt goes.
    pub routes: BTreeMap<u32, usize>,
    /// Somebody outside the simulated CPUs may raise interrupts: idle CPUs are no dead end.
    pub external: bool,
    /// Set once; no simulated thread goes on after it.
    pub stop: Option<Stop>,
    /// Simulated threads that may still run code.
    pub live: usize,
    /// Simulated threads that stay parked for ever.
    pub parked: usize,
}

#[derive(Default)]
pub(super) struct CpuState {
    pub online: bool,
    pub idle: bool,
    pub reschedule: bool,
    pub devices: VecDeque<u32>,
    pub deadline: Option<u64>,
}

/// How a simulation ended.
pub(super) enum Stop {
    Off,
    BootFailed(String),
    /// A simulated thread panicked, with this payload.
    Failed(Box<dyn Any + Send>),
    /// Nothing can happen any more.
    Stuck,
    /// The owner's patience is over.
    TimedOut,
}

/// Physical addresses that are not RAM frames.
#[derive(Default)]
pub(super) struct Devices {
    pub mmio: BTreeMap<u64, (usize, Arc<dyn MmioDevice>)>,
    pub pmem: BTreeMap<u64, Arc<Region>>,
    pub dma: BTreeMap<u64, Weak<super::dma::Memory>>,
    pub dma_end: u64,
}

/// Frames of the world that threads share when they did not enter another one: 1 GiB, allocated lazily.
const DEFAULT_FRAMES: usize = 1 << 18;
/// DMA buffers live in their own part of the physical address space.
pub(super) const DMA_BASE: u64 = 1 << 40;

static DEFAULT: LazyLock<Arc<World>> = LazyLock::new(|| Arc::new(World::build(0, DEFAULT_FRAMES, 1)));

/// The world the current thread acts in. Hand it to helper threads of a test that must share it.
pub fn world() -> Arc<World> {
    context::world().unwrap_or_else(|| DEFAULT.clone())
}

impl World {
    fn build(id: u64, frames: usize, cpus: usize) -> Self {
        let mut states: Vec<CpuState> = Vec::new();
        states.resize_with(cpus, CpuState::default);
        states[0].online = true;
        Self {
            id,
            pool: Arc::new(Pool::new(frames)),
            machine: Mutex::new(Machine {
                clock: 1_000_000,
                cpus: states,
                routes: BTreeMap::new(),
                external: false,
                stop: None,
                live: 0,
                parked: 0,
            }),
            changed: Condvar::new(),
            console: Mutex::default(),
            devices: Mutex::new(Devices { dma_end: DMA_BASE, ..Devices::default() }),
            hooks: OnceLock::new(),
            stopped: AtomicBool::new(false),
            sleepers: Mutex::default(),
        }
    }

    /// A world of its own with `frames` pages of memory and one CPU.
    pub fn new(frames: usize) -> Arc<Self> {
        Self::with_cpus(frames, 1)
    }

    pub(super) fn with_cpus(frames: usize, cpus: usize) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Arc::new(Self::build(NEXT.fetch_add(1, Ordering::Relaxed), frames, cpus))
    }

    /// Runs `f` with this world as the current thread's.
    pub fn enter<R>(self: &Arc<Self>, f: impl FnOnce() -> R) -> R {
        context::in_world(self.clone(), f)
    }

    /// Frames that are allocated now; 0 when everything was returned.
    pub fn frames_in_use(&self) -> usize {
        self.pool.in_use()
    }

    /// Changes how many frames can be allocated in all; lower than in use means that no more can be.
    pub fn set_frame_limit(&self, frames: usize) {
        self.pool.set_limit(frames);
    }

    /// How many more page-table pages can be made, one for each 2 MiB in use: to test what happens when
    /// [`AddressSpace`](super::AddressSpace) operations run out of memory. At first, practically no limit.
    pub fn set_page_table_limit(&self, pages: usize) {
        self.pool.set_tables(pages);
    }

    /// What was written to the console so far.
    pub fn console(&self) -> String {
        self.console.lock().unwrap().clone()
    }

    /// Moves the simulated clock forward.
    pub fn advance_clock(&self, ns: u64) {
        self.pass_time(ns);
    }

    /// A device raises its interrupt line. Ignored, as by the hardware, while nobody has enabled it.
    pub fn raise(&self, gsi: u32) {
        let mut m = self.machine();
        if let Some(&cpu) = m.routes.get(&gsi)
            && let Some(state) = m.cpus.get_mut(cpu)
        {
            state.idle = false;
            state.devices.push_back(gsi);
            self.changed.notify_all();
        }
    }

    /// Puts a device model at a physical address.
    pub fn add_mmio(&self, phys: u64, len: usize, device: Arc<dyn MmioDevice>) {
        self.devices.lock().unwrap().mmio.insert(phys, (len, device));
    }

    /// Puts a read-only region at a physical address, for [`PhysRegion::map`](super::pmem::PhysRegion::map).
    pub fn add_pmem(&self, phys: u64, bytes: Vec<u8>) {
        self.devices.lock().unwrap().pmem.insert(phys, Arc::new(Region::new(phys, bytes)));
    }

    /// Reads physical memory (a DMA buffer or an allocated frame) as a device would. `false` if something in
    /// the range is no memory.
    pub fn phys_read(&self, phys: u64, buf: &mut [u8]) -> bool {
        super::dma::phys_access(self, phys, buf.len(), |offset, memory| {
            let end = offset + memory.len();
            buf[offset..end].copy_from_slice(memory);
        })
    }

    /// Writes physical memory as a device would. `false` if something in the range is no memory.
    pub fn phys_write(&self, phys: u64, buf: &[u8]) -> bool {
        super::dma::phys_access(self, phys, buf.len(), |offset, memory| {
            let end = offset + memory.len();
            memory.copy_from_slice(&buf[offset..end]);
        })
    }

    pub(super) fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap()
    }

    pub(super) fn pass_time(&self, ns: u64) {
        self.pass_time_of(&mut self.machine(), ns);
    }

    /// The clock advances; CPUs whose deadline has come wake up.
    pub(super) fn pass_time_of(&self, m: &mut Machine, ns: u64) {
        m.clock = m.clock.saturating_add(ns);
        let now = m.clock;
        let mut woken = false;
        for cpu in m.cpus.iter_mut().filter(|c| c.idle && c.deadline.is_some_and(|d| d <= now)) {
            cpu.idle = false;
            woken = true;
        }
        if woken {
            self.changed.notify_all();
        }
    }

    pub(super) fn hooks(&self) -> &Hooks {
        self.hooks.get().expect("this needs a simulated machine: use host::Simulation")
    }

    /// Ends the simulation; the first reason counts.
    pub(super) fn stop(&self, why: Stop) {
        let mut m = self.machine();
        if m.stop.is_none() {
            m.stop = Some(why);
        }
        // Under the machine's lock, so that a waiting CPU sees it or is woken.
        self.stopped.store(true, Ordering::SeqCst);
        drop(m);
        self.changed.notify_all();
        let sleepers = std::mem::take(&mut *self.sleepers.lock().unwrap());
        sleepers.iter().filter_map(Weak::upgrade).for_each(|s| s.wake());
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    pub(super) fn add_sleeper(&self, sleeper: Weak<dyn Sleeper>) {
        let mut sleepers = self.sleepers.lock().unwrap();
        if sleepers.len() == sleepers.capacity() {
            sleepers.retain(|s| s.strong_count() > 0);
        }
        sleepers.push(sleeper);
    }
}
