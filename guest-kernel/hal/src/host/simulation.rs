//! A simulated machine that boots a kernel.

use super::program::{HostUser, Programs};
use super::thread::{Thread, spawn};
use super::world::{Hooks, Stop, World};
use crate::{BootInfo, Kernel, PageFault, cpu};
use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long simulated threads may take to end after the machine has stopped.
const GRACE: Duration = Duration::from_secs(10);

/// What is done to a new machine before it boots.
type Setup = Box<dyn FnOnce(&Arc<World>)>;

/// A machine with simulated CPUs, about to boot the kernel `K`.
///
/// ```ignore
/// let end = Simulation::<Sentry>::new()
///     .cpus(2)
///     .program(0x10_0000, |u| { u.syscall(SYS_EXIT_GROUP, &[7]); })
///     .run();
/// assert_eq!(end.frames_in_use, 0);
/// ```
///
/// * *Time* is simulated: system calls, clock readings and [`HostUser::compute`] take some, and when all CPUs
///   are idle the clock jumps to the next deadline. If there is none, the simulation is stuck and fails,
///   unless interrupts may come [from outside](Self::external_interrupts).
/// * *CPUs* run truly in parallel, one std thread each at a time. With one CPU a run is deterministic.
/// * *Programs* are closures; see [`HostUser`] for how signals, `execve` and `fork` work with them. Their
///   addresses should be at least 1 MiB apart and need not be mapped.
/// * *The end*: [`run`](Self::run) returns when the kernel powers off. A panic on any simulated thread, such
///   as a failed assertion in a program, fails the run with the same panic. Threads that were alive unwind;
///   std threads of threads that had ended stay parked in the test process, as does one whose destructors
///   wait for something while it unwinds.
pub struct Simulation<K: Kernel> {
    cpus: usize,
    frames: usize,
    cmdline: String,
    ramdisk: Vec<u8>,
    external: bool,
    timeout: Duration,
    programs: Programs<K>,
    setup: Vec<Setup>,
}

/// How a simulation ended.
#[derive(Debug)]
pub struct Outcome {
    /// The message, if the kernel could not boot.
    pub boot_failed: Option<String>,
    /// What was on the console.
    pub console: String,
    /// Frames that were not returned. What the kernel keeps in a [`Once`](crate::sync::Once) counts.
    pub frames_in_use: usize,
    /// The simulated clock, in nanoseconds since boot.
    pub clock: u64,
    /// Std threads that stay parked for ever.
    pub parked_threads: usize,
}

impl<K: Kernel> Default for Simulation<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Kernel> Simulation<K> {
    /// One CPU, 64 MiB of memory, an empty command line and ramdisk.
    pub fn new() -> Self {
        Self {
            cpus: 1,
            frames: 16384,
            cmdline: String::new(),
            ramdisk: Vec::new(),
            external: false,
            timeout: Duration::from_secs(60),
            programs: BTreeMap::new(),
            setup: Vec::new(),
        }
    }

    /// Sets the number of CPUs.
    pub fn cpus(mut self, n: usize) -> Self {
        assert!((1..=cpu::MAX).contains(&n), "a machine has 1 to {} CPUs", cpu::MAX);
        self.cpus = n;
        self
    }

    /// Sets how many page frames there are.
    pub fn frames(mut self, n: usize) -> Self {
        self.frames = n;
        self
    }

    /// Sets [`BootInfo::cmdline`].
    pub fn cmdline(mut self, cmdline: &str) -> Self {
        self.cmdline = cmdline.into();
        self
    }

    /// Sets [`BootInfo::ramdisk`].
    pub fn ramdisk(mut self, bytes: Vec<u8>) -> Self {
        self.ramdisk = bytes;
        self
    }

    /// Somebody outside the simulated CPUs calls [`World::raise`] or [`World::advance_clock`]: all CPUs idle
    /// is not the end.
    pub fn external_interrupts(mut self) -> Self {
        self.external = true;
        self
    }

    /// Sets how long the run may take in real time before it fails.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Registers a user program at an address.
    pub fn program(mut self, rip: u64, program: impl Fn(&mut HostUser<K>) + Send + Sync + 'static) -> Self {
        assert!(self.programs.insert(rip, Arc::new(program)).is_none(), "two programs at {rip:#x}");
        self
    }

    /// Runs `f` on the new machine before it boots: to add devices.
    pub fn setup(mut self, f: impl FnOnce(&Arc<World>) + 'static) -> Self {
        self.setup.push(Box::new(f));
        self
    }

    /// Boots the kernel and returns when it has powered off.
    ///
    /// # Panics
    /// If a simulated thread panics, all CPUs wait for nothing, or the time is up.
    pub fn run(self) -> Outcome {
        let world = World::with_cpus(self.frames, self.cpus);
        let hooks = Hooks {
            interrupt: K::interrupt,
            page_fault: page_fault::<K>,
            start_secondary: || K::start_secondary(),
            programs: Box::new(self.programs),
        };
        assert!(world.hooks.set(hooks).is_ok(), "a new world");
        world.machine().external = self.external;
        self.setup.into_iter().for_each(|f| f(&world));
        // The kernel is promised that these live for ever.
        let boot: &'static BootInfo = Box::leak(Box::new(BootInfo {
            cpus: self.cpus,
            cmdline: self.cmdline.leak(),
            ramdisk: self.ramdisk.leak(),
        }));
        spawn(world.clone(), "cpu0".into(), move || K::start(boot));

        let wait_until = |end: Instant, over: &dyn Fn(&super::world::Machine) -> bool| {
            let mut m = world.machine();
            while !over(&m) {
                let left = end.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return false;
                }
                m = world.changed.wait_timeout(m, left).unwrap().0;
            }
            true
        };
        if !wait_until(Instant::now() + self.timeout, &|m| m.stop.is_some()) {
            world.stop(Stop::TimedOut);
        }
        let ended = wait_until(Instant::now() + GRACE, &|m| m.live == 0);
        let stop = world.machine().stop.replace(Stop::Off);
        let console = world.console();
        let boot_failed = match stop {
            Some(Stop::Off) | None => None,
            Some(Stop::BootFailed(message)) => Some(message),
            Some(Stop::Failed(panic)) => {
                eprint!("{console}");
                resume_unwind(panic)
            }
            Some(Stop::Stuck) => {
                panic!("{console}\nthe simulation is stuck: all CPUs wait for an interrupt, no timer is set")
            }
            Some(Stop::TimedOut) => {
                panic!("{console}\nthe simulation did not end in {:?} of real time", self.timeout)
            }
        };
        assert!(ended, "{console}\na simulated thread did not end after power-off: does a program loop?");
        let m = world.machine();
        Outcome {
            boot_failed,
            console,
            frames_in_use: world.frames_in_use(),
            clock: m.clock,
            parked_threads: m.parked,
        }
    }
}

/// A fault of a user copy on a simulated thread.
fn page_fault<K: Kernel>(fault: PageFault) -> bool {
    Thread::<K>::with_current(|thread| thread.is_some_and(|thread| K::page_fault(thread, fault)))
}
