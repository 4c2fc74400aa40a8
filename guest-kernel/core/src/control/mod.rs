//! From boot to the first process, and back to the VMM.
//!
//! The boot CPU reads the boot configuration and starts one kernel task. That task finds the devices, mounts
//! the root, connects the control channel and the standard streams, loads the first program and starts it.
//! Then it listens: to the host for signals, sizes and questions, and to the first process for its end, after
//! which it reports and switches the machine off.
//!
//! Connections are begun early and waited for late: the host's answers arrive while the program is loaded.
//!
//! | module | holds |
//! |---|---|
//! | `channel` | frames on the control connection |
//! | `root` | mounting the root file system |
//! | `process` | users, `PATH`, and the first process |
//! | `stats` | counters and the phases of the start |

mod channel;
mod process;
mod root;
mod stats;
mod terminal;

use alloc::{boxed::Box, format, string::String, sync::Arc};

use ringfence_hal as hal;
use ringfence_hal::BootInfo;
use ringfence_protocol as protocol;
use ringfence_protocol::{BootConfig, Streams, ToGuest, ToHost};

use crate::{
    TaskRef,
    drivers::{
        self,
        virtio::{Transport, id},
        vsock::{Stream, Vsock},
    },
    errno::Errno,
    kernel, random,
    signal::{self, SigInfo, Signal},
    strace,
    sync::{Interruptible, Once, PollEvents, Queue, SpinLock, WaitQueue, wait_event},
    syscall,
    task::process::ExitStatus,
};
use channel::Channel;

pub use stats::phase;

/// How the first process ended, and who waits to hear it.
struct Ended {
    status: SpinLock<Option<ExitStatus>>,
    queue: Queue,
}

fn ended() -> &'static Ended {
    static ENDED: Once<Ended> = Once::new();
    ENDED.call_once(|| Ended { status: SpinLock::new(None), queue: WaitQueue::new() })
}

/// Reads the boot configuration and starts the task that does the rest. Runs on the boot CPU's idle task.
pub fn start(boot: &'static BootInfo) {
    phase("kernel_entered");
    let config: BootConfig = match serde_json::from_slice(boot.ramdisk) {
        Ok(config) => config,
        Err(e) => hal::power::boot_failed(&format!("the boot configuration cannot be read: {e}")),
    };
    if config.version != protocol::VERSION {
        let text = format!(
            "the boot configuration has version {}, this kernel knows {}",
            config.version,
            protocol::VERSION
        );
        hal::power::boot_failed(&text);
    }
    random::add_entropy(&config.seed);
    crate::time::set_boot_realtime(config.realtime_ns);
    crate::ns::Namespaces::initial().uts.set_host(config.hostname.clone());
    let main = Box::new(move |task: &TaskRef| run(task, boot, config));
    if crate::task::spawn_kernel_task(b"init", main).is_err() {
        hal::power::boot_failed("not enough memory to start; give the sandbox more with --memory");
    }
}

/// The first process has ended: the sandbox ends with it.
pub fn first_process_ended(_task: &TaskRef, status: ExitStatus) {
    *ended().status.lock() = Some(status);
    ended().queue.wake_all(PollEvents::empty());
}

/// The devices found.
#[derive(Default)]
struct Devices {
    vsock: Option<Arc<Vsock>>,
    pmem: Option<hal::pmem::PhysRegion>,
    rng: Option<Transport>,
    balloon: Option<Transport>,
}

fn probe(cmdline: &str) -> Devices {
    let mut found = Devices::default();
    for (kind, transport) in drivers::places(cmdline).filter_map(Transport::probe) {
        match kind {
            id::PMEM => found.pmem = drivers::pmem::open(&transport).ok().flatten(),
            id::VSOCK => found.vsock = Vsock::start(transport).ok(),
            id::RNG => found.rng = Some(transport),
            id::BALLOON => found.balloon = Some(transport),
            _ => {}
        }
    }
    found
}

/// The standard streams of the first process, connected.
enum Connected {
    Pipes([Option<Arc<Stream>>; 3]),
    Tty { stream: Arc<Stream>, rows: u16, cols: u16 },
}

fn connect(vsock: &Arc<Vsock>, streams: &Streams) -> Connected {
    match *streams {
        Streams::Pipes { stdin, stdout, stderr } => Connected::Pipes([
            stdin.map(|port| vsock.connect_on_demand(port)),
            stdout.map(|port| vsock.connect(port)),
            stderr.map(|port| vsock.connect(port)),
        ]),
        Streams::Tty { port, rows, cols } => Connected::Tty { stream: vsock.connect(port), rows, cols },
    }
}

fn run(task: &TaskRef, boot: &'static BootInfo, config: BootConfig) {
    let devices = probe(boot.cmdline);
    let Some(vsock) = devices.vsock else {
        hal::power::boot_failed("there is no vsock device to talk to the VMM");
    };
    let channel = Arc::new(Channel::new(vsock.connect(protocol::ports::CONTROL)));
    let streams = connect(&vsock, &config.process.streams);
    if config.strace {
        strace::set_sink(Some(Arc::new(Trace(vsock.connect(protocol::ports::TRACE)))));
        syscall::observe(syscall::OBSERVE_STRACE);
    }
    if config.stats {
        syscall::observe(syscall::OBSERVE_COUNTS);
    }
    phase("devices_started");

    let started = channel
        .send(task, &ToHost::Hello { version: protocol::VERSION })
        .map_err(|e| (e, String::from("the control channel does not work")))
        .and_then(|()| root::mount(config.root, devices.pmem))
        .inspect(|_| phase("root_mounted"))
        .and_then(|namespace| process::start(&config.process, namespace, streams));
    let relay = match started {
        Ok(relay) => relay,
        Err((errno, message)) => {
            let failed = ToHost::StartFailed { errno: errno.raw().into(), message };
            finish(task, &channel, &failed);
        }
    };
    let _ = channel.send(task, &ToHost::Started); // a host that is gone is noticed below
    if let Some(rng) = devices.rng {
        let _ = drivers::rng::start(rng); // the generator is seeded without it
    }
    if let Some(balloon) = devices.balloon {
        let _ = drivers::balloon::start(balloon); // memory just stays with the guest
    }
    listen(channel.clone(), relay.clone());

    let status = || *ended().status.lock();
    let status = match wait_event(task, &ended().queue, Interruptible::No, None, status) {
        Ok(status) => status,
        Err(_) => ExitStatus::Code(0), // cannot be: nothing interrupts this wait
    };
    if let Some(relay) = relay {
        relay.drain(task);
    }
    let status = match status {
        ExitStatus::Code(c) => protocol::ExitStatus::Code(c),
        ExitStatus::Signal(s, _) => protocol::ExitStatus::Signal(s),
    };
    let stats = config.stats.then(stats::collect);
    finish(task, &channel, &ToHost::Exited { status, stats });
}

/// Sends the last message and switches off.
fn finish(task: &TaskRef, channel: &Channel, last: &ToHost) -> ! {
    let _ = channel.send(task, last); // if the host is gone there is nobody to tell
    hal::power::off()
}

/// Starts the task that answers the host.
fn listen(channel: Arc<Channel>, relay: Option<Arc<process::Terminal>>) {
    let main = Box::new(move |task: &TaskRef| {
        loop {
            match channel.receive(task) {
                Ok(ToGuest::Hello { .. }) => {}
                Ok(ToGuest::Signal { signal }) => deliver(signal),
                Ok(ToGuest::Resize { rows, cols }) => {
                    if let Some(relay) = &relay {
                        relay.resize(rows, cols);
                    }
                }
                Ok(ToGuest::Stats) => {
                    let _ = channel.send(task, &ToHost::Stats { stats: stats::collect() }); // host gone
                }
                Err(_) => break,
            }
        }
        // The host has closed the channel: nobody wants this sandbox any more.
        if ended().status.lock().is_none() {
            hal::power::off();
        }
    });
    if crate::task::spawn_kernel_task(b"control", main).is_err() {
        hal::log!(Warn, "not enough memory to listen to the control channel");
    }
}

/// A signal for the first process, or for the foreground group of its terminal.
fn deliver(number: u32) {
    let Some(signal) = i32::try_from(number).ok().and_then(Signal::new) else { return };
    if let Ok(process) = kernel::kernel().pids.process(1) {
        signal::send_from_host(&process, SigInfo::user(signal, signal::types::code::SI_USER, 0, 0));
    }
}

/// Where `--strace` goes.
struct Trace(Arc<Stream>);

impl strace::Sink for Trace {
    fn line(&self, task: &TaskRef, text: &str) {
        let _ = self.0.write_all(task, text.as_bytes()); // the host does not want to read it any more
    }
}

/// Why the first process could not be started: for `StartFailed`.
type Failed = (Errno, String);
