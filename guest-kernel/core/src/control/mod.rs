//! From boot to the first process, and back to the VMM.
//!
//! The boot CPU reads the boot configuration and starts one kernel task. That task finds the devices, connects the
//! control channel, makes the first container and starts it. Then another task listens to the host, which asks for
//! signals, counters and more containers, while the first one waits for the first process to end, after which it reports
//! and switches the machine off.
//!
//! Connections are begun early and waited for late: the host's answers arrive while the program is loaded.
//!
//! | module | holds |
//! |---|---|
//! | `channel` | frames on the control connection |
//! | `requests` | what the host asks of containers |
//! | `stats` | counters and the phases of the start |

mod channel;
mod requests;
mod stats;

use alloc::{boxed::Box, format, string::String, sync::Arc, vec::Vec};

use ringfence_hal as hal;
use ringfence_hal::BootInfo;
use ringfence_protocol as protocol;
use ringfence_protocol::{BootConfig, FIRST_CONTAINER, ToGuest, ToHost};

use crate::{
    TaskRef,
    container::{self, Failed, Supervised},
    drivers::{
        self,
        virtio::{Transport, id},
        vsock::{Stream, Vsock},
    },
    errno::Errno,
    fs::fuse,
    net::{self, device::Device},
    ns::Namespaces,
    random, strace, syscall,
};
use channel::Channel;
use requests::{Server, connect};

pub use stats::phase;

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
    let main = Box::new(move |task: &TaskRef| run(task, boot, config));
    if crate::task::spawn_kernel_task(b"init", main).is_err() {
        hal::power::boot_failed("not enough memory to start; give the sandbox more with --memory");
    }
}

/// The devices found.
#[derive(Default)]
struct Devices {
    vsock: Option<Arc<Vsock>>,
    pmem: Option<hal::pmem::PhysRegion>,
    rng: Option<Transport>,
    balloon: Option<Transport>,
    fs: Option<Transport>,
    nets: Vec<Arc<dyn Device>>,
}

fn probe(cmdline: &str) -> Devices {
    let mut found = Devices::default();
    for (kind, transport) in drivers::places(cmdline).filter_map(Transport::probe) {
        match kind {
            id::PMEM => found.pmem = drivers::pmem::open(&transport).ok().flatten(),
            id::VSOCK => found.vsock = Vsock::start(transport).ok(),
            id::RNG => found.rng = Some(transport),
            id::BALLOON => found.balloon = Some(transport),
            id::BLOCK => match drivers::block::Disk::start(transport) {
                Ok(disk) => crate::block::add(disk),
                Err(e) => hal::log!(Warn, "a disk cannot be used: {e:?}"),
            },
            id::FS => found.fs = Some(transport),
            id::NET => match drivers::net::Net::start(transport) {
                Ok(net) => found.nets.push(net),
                Err(e) => hal::log!(Warn, "a network device cannot be used: {e:?}"),
            },
            _ => {}
        }
    }
    found
}

fn run(task: &TaskRef, boot: &'static BootInfo, config: BootConfig) {
    let devices = probe(boot.cmdline);
    let Some(vsock) = devices.vsock else {
        hal::power::boot_failed("there is no vsock device to talk to the VMM");
    };
    let channel = Arc::new(Channel::new(vsock.connect(protocol::ports::CONTROL)));
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
        .and_then(|()| share(devices.fs))
        .and_then(|()| connect_devices(&devices.nets, &config))
        .and_then(|()| begin(&config, &vsock, devices.pmem));
    let first = match started {
        Ok(first) => first,
        Err((errno, message)) => {
            let failed = ToHost::StartFailed { errno: errno.raw().into(), message };
            finish(task, &channel, &failed);
        }
    };
    let _ = channel.send(task, &ToHost::Started); // a host that is gone is noticed below
    drivers::start_late(devices.rng, devices.balloon);
    listen(Server { channel: channel.clone(), vsock }, first.clone());

    let status = first.wait(task);
    first.settle(task);
    crate::block::sync_all(task);
    let stats = config.stats.then(stats::collect);
    finish(task, &channel, &ToHost::Exited { status: container::for_host(status), stats });
}

/// Makes the host's directories known.
fn share(device: Option<Transport>) -> Result<(), Failed> {
    let Some(device) = device else { return Ok(()) };
    let broken = |_| (Errno::EIO, String::from("the device of shared directories does not work"));
    let device = drivers::fs::Fs::start(device).map_err(broken)?;
    fuse::set_device(device)
        .map_err(|e| (e, String::from("the server of shared directories does not answer")))
}

/// Gives the network devices to the first container's network namespace.
fn connect_devices(devices: &[Arc<dyn Device>], config: &BootConfig) -> Result<(), Failed> {
    if devices.is_empty() {
        return Ok(());
    }
    let network = config.network.clone().unwrap_or_default();
    if !network.nameservers.is_empty() {
        container::resolver::set(&network.nameservers, &network.search);
    }
    net::start_devices(&Namespaces::initial().net, devices, &network)
        .map_err(|e| (e, format!("cannot set up the network: {e}")))
}

/// Makes the first container and starts it.
fn begin(
    config: &BootConfig,
    vsock: &Arc<Vsock>,
    image: Option<hal::pmem::PhysRegion>,
) -> Result<Arc<Supervised>, Failed> {
    if let Some(region) = image {
        container::set_image(region)?;
    }
    container::set_disk_mounts(&config.disk_mounts);
    let streams = connect(vsock, &config.container.process.streams);
    let first = container::create(FIRST_CONTAINER, &config.container, true, || streams)?;
    first.start(false)
}

/// Sends the last message and switches off.
fn finish(task: &TaskRef, channel: &Channel, last: &ToHost) -> ! {
    fuse::flush_all();
    let _ = channel.send(task, last); // if the host is gone there is nobody to tell
    hal::power::off()
}

/// Starts the task that answers the host.
fn listen(server: Server, first: Arc<Supervised>) {
    let main = Box::new(move |task: &TaskRef| {
        loop {
            match server.channel.receive(task) {
                Ok(ToGuest::Hello { .. }) => {}
                Ok(ToGuest::Request { id, request }) => server.answer(task, id, *request),
                Ok(ToGuest::Stats) => {
                    let stats = ToHost::Stats { stats: stats::collect() };
                    let _ = server.channel.send(task, &stats); // host gone
                }
                Ok(ToGuest::Balloon) => drivers::balloon::target_changed(),
                Ok(ToGuest::LogLevel { level }) => hal::log::set_max_level(level),
                Err(_) => break,
            }
        }
        // The host has closed the channel: nobody wants this sandbox any more.
        if !first.has_ended() {
            hal::power::off();
        }
    });
    if crate::task::spawn_kernel_task(b"control", main).is_err() {
        hal::log!(Warn, "not enough memory to listen to the control channel");
    }
}

/// Where `--strace` goes.
struct Trace(Arc<Stream>);

impl strace::Sink for Trace {
    fn line(&self, task: &TaskRef, text: &str) {
        let _ = self.0.write_all(task, text.as_bytes()); // the host does not want to read it any more
    }
}
