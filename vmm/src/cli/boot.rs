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
use std::sync::{Arc, Mutex};

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use ringfence_devices::balloon::Balloon;
use ringfence_devices::host_stream::own_reader;
use ringfence_devices::pmem::Backing;
use ringfence_devices::rng::Rng;
use ringfence_devices::vsock::{Endpoint, Vsock};
use ringfence_protocol::ports;

use super::{Failure, disk, net, units};
use crate::api::network::Network;
use crate::machine::vcpu::{Shared, Stop};
use crate::machine::{Flavor, Kernel, Machine, MachineConfig, VirtioSlot};
use crate::order::carry_out;
use crate::signals::Signals;
use crate::terminal::{self, RawMode};
use crate::timeline::Timeline;
use crate::{exit, network, probe};

/// The vsock port the host echoes on.
const ECHO_PORT: u32 = 7;

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
    /// A disk, as of `run`
    #[arg(long, value_name = "PATH[,ro][,id=NAME][,bandwidth=SIZE][,ops=N]", value_parser = disk::parse)]
    disk: Vec<crate::api::config::Disk>,
    /// A network interface
    #[arg(long, value_name = net::SYNTAX, value_parser = net::parse)]
    net: Vec<net::Asked>,
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
    let input = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3).ok().map(own_reader);
    let kvm = probe::open().map_err(|e| Failure { code: exit::HOST_UNABLE, message: e.to_string() })?;
    let mut devices = devices().map_err(|e| Failure::setup(format!("cannot make a device: {e}")))?;
    for disk in disk::open(&args.disk)? {
        if disk.mount.is_some() {
            return Err(Failure::setup(
                "`mount=` is for our own guest kernel; let this one mount the disk itself",
            ));
        }
        devices.push(VirtioSlot::new(Arc::new(Mutex::new(carry_out::disk(disk)?))));
    }
    let interfaces = args.net.into_iter().flatten().collect();
    let opened = network::open(&Network { interfaces, ..Network::default() })?;
    // It ends with this process.
    opened.helper.map(ringfence_jailer::Helper::start_without_jail).transpose().map_err(Failure::setup)?;
    for interface in opened.interfaces {
        devices.push(VirtioSlot::new(Arc::new(Mutex::new(carry_out::interface(interface)?))));
    }
    let config = MachineConfig {
        kvm,
        cpus: args.cpus,
        memory: args.memory,
        kernel: Kernel::File(kernel),
        flavor: Flavor::Linux,
        cmdline: format!("console=ttyS0 reboot=k panic=-1 {}", args.cmdline),
        ramdisk,
        image,
        devices,
        serial_copy: Some(Box::new(std::io::stdout())),
        serial_input: input,
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
    machine.start(false).map_err(Failure::setup)?;
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

/// vsock, rng and balloon. On vsock port [`ECHO_PORT`] the host echoes what a guest sends, one connection at a
/// time: enough to judge the device from Linux.
fn devices() -> std::io::Result<Vec<VirtioSlot>> {
    let mut vsock = Vsock::new(ports::GUEST_CID)?;
    vsock.listen_with(
        ECHO_PORT,
        Box::new(|| {
            let (endpoint, mut stream) = Endpoint::socketpair()?;
            std::thread::Builder::new().name("echo".into()).spawn(move || {
                // Ends with the connection; a guest that goes away is no error.
                let _ = stream.try_clone().and_then(|mut back| std::io::copy(&mut stream, &mut back));
                let _ = stream.shutdown(std::net::Shutdown::Write);
            })?;
            Ok(endpoint)
        }),
    );
    Ok(vec![
        VirtioSlot::new(Arc::new(Mutex::new(vsock))),
        VirtioSlot::new(Arc::new(Mutex::new(Rng::new()?))),
        VirtioSlot::new(Arc::new(Mutex::new(Balloon::new()?))),
    ])
}

/// How it ended: by the machine, or by a signal to us.
type End = Rc<RefCell<Option<Result<Stop, libc::c_int>>>>;

/// Signals, and the machine's end.
struct Console {
    shared: Arc<Shared>,
    signals: Signals,
    end: End,
}

impl MutEventSubscriber for Console {
    fn init(&mut self, ops: &mut EventOps) {
        ops.add(Events::new(&self.signals, EventSet::IN)).expect("a signalfd can be polled");
        ops.add(Events::new(self.shared.stopped(), EventSet::IN)).expect("an eventfd can be polled");
    }

    fn process(&mut self, events: Events, _ops: &mut EventOps) {
        let fd = events.fd();
        if fd == self.shared.stopped().as_raw_fd() {
            *self.end.borrow_mut() = self.shared.stop_reason().map(Ok);
        } else {
            while let Some(signal) = self.signals.take() {
                if signal != libc::SIGWINCH && signal != libc::SIGCONT {
                    *self.end.borrow_mut() = Some(Err(signal));
                }
            }
        }
    }
}
