//! `ringfence boot`: a stock Linux kernel on our machine.
//!
//! It is the judge of our devices (Linux's drivers are not ours) and the side-by-side baseline for start-up
//! and memory. The serial port is the console, on the standard streams; the machine ends when the guest
//! reboots (`reboot=k` is added to the command line) or, without a terminal, on SIGTERM.

use std::cell::RefCell;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use ringfence_devices::pmem::Backing;
use ringfence_devices::rng::Rng;

use super::{Failure, units};
use crate::exit;
use crate::machine::vcpu::{Shared, Stop};
use crate::machine::{Flavor, Kernel, Machine, MachineConfig, VirtioSlot};
use crate::serial::SerialPort;
use crate::signals::Signals;
use crate::terminal::{self, RawMode};
use crate::timeline::Timeline;

/// Arguments of `boot`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The kernel: vmlinux (ELF) or bzImage
    #[arg(long, value_name = "FILE")]
    kernel: PathBuf,
    /// Initial RAM disk
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// Kernel command line, after the console and reboot options
    #[arg(long, value_name = "STRING", default_value = "")]
    cmdline: String,
    /// Image for the read-only pmem device
    #[arg(long, value_name = "FILE")]
    pmem: Option<PathBuf>,
    /// Number of vCPUs
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    cpus: u8,
    /// Memory size, such as 256M or 1G
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = units::memory)]
    memory: u64,
}

/// Runs `ringfence boot`.
pub fn main(args: Args, mut timeline: Timeline) -> Result<u8, Failure> {
    let signals = Signals::block().map_err(|e| Failure::setup(format!("cannot open a signalfd: {e}")))?;
    let kernel = File::open(&args.kernel)
        .map_err(|e| Failure::setup(format!("cannot open kernel {}: {e}", args.kernel.display())))?;
    let ramdisk = match &args.initrd {
        Some(path) => std::fs::read(path)
            .map_err(|e| Failure::setup(format!("cannot read initrd {}: {e}", path.display())))?,
        None => Vec::new(),
    };
    let image = args.pmem.as_deref().map(Backing::open).transpose().map_err(Failure::setup)?;
    let serial = SerialPort::new(Box::new(std::io::stdout())).map_err(Failure::setup)?;
    let rng = Rng::new().map_err(Failure::setup)?;
    let config = MachineConfig {
        cpus: args.cpus,
        memory: args.memory,
        kernel: Kernel::File(kernel),
        flavor: Flavor::Linux,
        cmdline: format!("console=ttyS0 reboot=k panic=-1 {}", args.cmdline),
        ramdisk,
        image,
        devices: vec![VirtioSlot::new(Arc::new(Mutex::new(rng)))],
        serial,
    };
    let mut machine = Machine::new(config, &mut timeline).map_err(Failure::setup)?;
    let _raw = if terminal::is_terminal() { RawMode::enter().ok() } else { None };

    let mut events: EventManager<Box<dyn MutEventSubscriber>> =
        EventManager::new_with_capacity(32).map_err(|e| Failure::setup(format!("no event loop: {e:?}")))?;
    for subscriber in machine.take_subscribers() {
        events.add_subscriber(subscriber);
    }
    let end: End = Rc::default();
    let console = Console { shared: machine.shared().clone(), signals, end: end.clone() };
    events.add_subscriber(Box::new(console));
    machine.start().map_err(Failure::setup)?;
    while end.borrow().is_none() {
        events.run().map_err(|e| Failure::setup(format!("the event loop failed: {e:?}")))?;
    }
    machine.stop();
    let end = end.borrow_mut().take();
    match end {
        Some(Ok(Stop::Reset | Stop::Power(0) | Stop::TripleFault)) => Ok(0),
        Some(Ok(stop)) => {
            let (code, message) = exit::of_stop(&stop);
            Err(Failure { code, message })
        }
        Some(Err(signal)) => Ok(128 + signal as u8),
        None => Ok(0),
    }
}

/// How it ended: by the machine, or by a signal to us.
type End = Rc<RefCell<Option<Result<Stop, libc::c_int>>>>;

/// Standard input to the serial port, signals, and the machine's end.
struct Console {
    shared: Arc<Shared>,
    signals: Signals,
    end: End,
}

impl Console {
    fn read_input(&mut self, ops: &mut EventOps) {
        let mut serial = self.shared.bus.serial.lock().unwrap_or_else(PoisonError::into_inner);
        let mut buffer = [0u8; 64];
        let room = serial.room().clamp(1, buffer.len());
        match rustix::io::read(rustix::stdio::stdin(), &mut buffer[..room]) {
            Ok(n) if n > 0 => {
                serial.input(&buffer[..n]);
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            _ => {
                let _ = ops.remove(Events::new_raw(0, EventSet::IN));
            }
        }
    }
}

impl MutEventSubscriber for Console {
    fn init(&mut self, ops: &mut EventOps) {
        // Standard input can be a file or closed, which epoll does not take: then there is no input.
        let _ = ops.add(Events::new_raw(0, EventSet::IN));
        ops.add(Events::new(&self.signals, EventSet::IN)).expect("a signalfd can be polled");
        ops.add(Events::new(self.shared.stopped(), EventSet::IN)).expect("an eventfd can be polled");
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        let fd = events.fd();
        if fd == self.shared.stopped().as_raw_fd() {
            *self.end.borrow_mut() = self.shared.stop_reason().map(Ok);
        } else if fd == self.signals.as_raw_fd() {
            while let Some(signal) = self.signals.next() {
                if signal != libc::SIGWINCH && signal != libc::SIGCONT {
                    *self.end.borrow_mut() = Some(Err(signal));
                }
            }
        } else {
            self.read_input(ops);
        }
    }
}
