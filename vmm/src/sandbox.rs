//! A sandbox: a machine that boots our own kernel, its boot document, and the streams between them.
//!
//! What the guest is told is all in one [`BootConfig`] in the ramdisk slot. The host's side of it is the vsock
//! device: before the first instruction runs it listens on the control port, on one port for each standard
//! stream (or for the terminal), and on the trace port with `--strace`; each takes one connection.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use kvm_ioctls::Kvm;
use ringfence_devices::balloon::Balloon;
use ringfence_devices::block::Block;
use ringfence_devices::fs::Fs;
use ringfence_devices::host_stream::Job;
use ringfence_devices::net::Net;
use ringfence_devices::pmem::Backing;
use ringfence_devices::rng::Rng;
use ringfence_devices::vsock::{Drained, Endpoint, Vsock};
use ringfence_protocol::{BootConfig, Container, DiskMount, Network, Streams, VERSION, ports};

use crate::door::{Controls, Devices};
use crate::machine::{Flavor, Kernel, Machine, MachineConfig, MachineError, VirtioSlot};
use crate::timeline::Timeline;

#[repr(C, align(4096))]
struct PageAligned<T: ?Sized>(T);

/// The guest kernel, an ELF image built by `build.rs`. Page-aligned, so that it can be mapped from our executable.
pub static GUEST_ELF: &[u8] = {
    const IMAGE: &PageAligned<[u8]> = &PageAligned(*include_bytes!(concat!(env!("OUT_DIR"), "/guest.elf")));
    &IMAGE.0
};

/// Names a guest kernel to boot in place of the built-in one; for those who work on it.
const GUEST_ELF_VARIABLE: &str = "RINGFENCE_GUEST_KERNEL";

/// That guest kernel, if one is named.
pub fn guest_override() -> Result<Option<File>, SandboxError> {
    let Some(path) = std::env::var_os(GUEST_ELF_VARIABLE) else { return Ok(None) };
    let opened =
        File::open(&path).map_err(|e| SandboxError::Override(path.to_string_lossy().into_owned(), e));
    opened.map(Some)
}

const STDIN_PORT: u32 = ports::FIRST_STREAM;
const STDOUT_PORT: u32 = ports::FIRST_STREAM + 1;
const STDERR_PORT: u32 = ports::FIRST_STREAM + 2;
const TTY_PORT: u32 = ports::FIRST_STREAM;
/// The first port for streams of what is started later.
pub const FIRST_FREE_PORT: u32 = ports::FIRST_STREAM + 3;

/// What can go wrong making a sandbox.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the message is the documentation")]
pub enum SandboxError {
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error("cannot make a device: {0}; raise the limit of open files (ulimit -n)")]
    Device(io::Error),
    #[error("cannot open {0}, which RINGFENCE_GUEST_KERNEL names: {1}")]
    Override(String, io::Error),
    #[error("the boot document cannot be written: {0}")]
    Document(#[from] serde_json::Error),
}

/// The descriptors the program's streams are connected to.
pub enum Stdio {
    /// Three one-way streams; `None` is `/dev/null` for the program.
    Pipes {
        /// The program reads from it.
        stdin: Option<OwnedFd>,
        /// The program's output.
        stdout: Option<OwnedFd>,
        /// The program's errors.
        stderr: Option<OwnedFd>,
    },
    /// A terminal.
    Tty {
        /// What the user types.
        input: OwnedFd,
        /// What the user sees.
        output: OwnedFd,
        /// Rows and columns.
        size: (u16, u16),
    },
}

/// Everything a sandbox is made of.
pub struct Spec {
    /// `/dev/kvm`.
    pub kvm: Kvm,
    /// The guest kernel.
    pub kernel: Kernel,
    /// vCPUs.
    pub cpus: u8,
    /// RAM in bytes.
    pub memory: u64,
    /// The root image.
    pub image: Option<Backing>,
    /// To the gofer, if there is one.
    pub gofer: Option<UnixStream>,
    /// The first container; its streams get their ports here.
    pub container: Container,
    /// The program's streams.
    pub stdio: Stdio,
    /// On whose behalf standard input is read, if it is a terminal.
    pub job: Option<Job>,
    /// Disks, in the order the guest sees them.
    pub disks: Vec<Block>,
    /// Disks that are mounted.
    pub disk_mounts: Vec<DiskMount>,
    /// Network interfaces, in the order the guest sees them.
    pub interfaces: Vec<Net>,
    /// What the guest gives them.
    pub network: Option<Network>,
    /// Where a line per system call goes.
    pub trace: Option<OwnedFd>,
    /// Gather counters.
    pub stats: bool,
    /// Extra kernel command line.
    pub cmdline: String,
    /// Where the guest kernel's log goes as it comes, besides the tail that is kept.
    pub log: Option<Box<dyn io::Write + Send>>,
}

/// A sandbox ready to be started.
pub struct Sandbox {
    /// The machine.
    pub machine: Machine,
    vsock: Arc<Mutex<Vsock>>,
    rng: Arc<Mutex<Rng>>,
    balloon: Arc<Mutex<Balloon>>,
    disks: Vec<Arc<Mutex<Block>>>,
    interfaces: Vec<Arc<Mutex<Net>>>,
    outputs: [(u32, &'static str); 2],
}

impl Sandbox {
    /// Builds the machine; returns it and the host's end of the control connection.
    pub fn new(spec: Spec, timeline: &mut Timeline) -> Result<(Self, UnixStream), SandboxError> {
        let mut vsock = Vsock::new(ports::GUEST_CID).map_err(SandboxError::Device)?;
        let (endpoint, control) = Endpoint::channel().map_err(SandboxError::Device)?;
        vsock.listen(ports::CONTROL, endpoint);
        let strace = spec.trace.is_some();
        if let Some(trace) = spec.trace {
            vsock.listen(ports::TRACE, Endpoint::stdio(None, Some(trace)));
        }
        let mut container = spec.container;
        container.process.streams = listen(&mut vsock, spec.stdio, spec.job);
        let mut seed = vec![0u8; 32];
        rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())
            .map_err(|e| SandboxError::Device(e.into()))?;
        let document = BootConfig {
            version: VERSION,
            realtime_ns: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64),
            seed,
            container,
            strace,
            stats: spec.stats,
            disk_mounts: spec.disk_mounts,
            network: spec.network,
        };
        let vsock = Arc::new(Mutex::new(vsock));
        let rng = Arc::new(Mutex::new(Rng::new().map_err(SandboxError::Device)?));
        let balloon = Arc::new(Mutex::new(Balloon::new().map_err(SandboxError::Device)?));
        let disks: Vec<_> = spec.disks.into_iter().map(|disk| Arc::new(Mutex::new(disk))).collect();
        let mut devices = vec![
            VirtioSlot::new(vsock.clone()),
            VirtioSlot::new(rng.clone()),
            VirtioSlot::new(balloon.clone()),
        ];
        devices.extend(disks.iter().map(|disk| VirtioSlot::new(disk.clone())));
        let interfaces: Vec<_> = spec.interfaces.into_iter().map(|net| Arc::new(Mutex::new(net))).collect();
        devices.extend(interfaces.iter().map(|net| VirtioSlot::new(net.clone())));
        // Last, so that the others keep their places.
        if let Some(gofer) = spec.gofer {
            let fs = Fs::new(gofer).map_err(SandboxError::Device)?;
            devices.push(VirtioSlot::new(Arc::new(Mutex::new(fs))));
        }
        let config = MachineConfig {
            kvm: spec.kvm,
            cpus: spec.cpus,
            memory: spec.memory,
            kernel: spec.kernel,
            flavor: Flavor::Ringfence,
            cmdline: spec.cmdline,
            ramdisk: serde_json::to_vec(&document)?,
            image: spec.image,
            devices,
            serial_copy: spec.log,
            serial_input: None,
        };
        let machine = Machine::new(config, timeline)?;
        let outputs = [(STDOUT_PORT, "standard output"), (STDERR_PORT, "standard error")];
        Ok((Self { machine, vsock, rng, balloon, disks, interfaces, outputs }, control))
    }

    /// The device that streams go through.
    pub fn vsock(&self) -> Arc<Mutex<Vsock>> {
        self.vsock.clone()
    }

    /// What others may ask the devices.
    pub fn devices(&self) -> Devices {
        let shared = self.machine.shared().clone();
        let serial = lock(&shared.bus.serial).metrics();
        let image = self.machine.image().map(|image| (image.host_address(), image.region_size()));
        let mut devices = Devices::new(shared, image);
        devices.add("balloon", lock(&self.balloon).metrics());
        devices.add("rng", lock(&self.rng).metrics());
        devices.add("serial", serial);
        devices.add("vsock", lock(&self.vsock).metrics());
        for disk in &self.disks {
            devices.add("block", lock(disk).metrics());
        }
        for interface in &self.interfaces {
            devices.add_interface(lock(interface).metrics());
        }
        if let Some(pmem) = self.machine.pmem() {
            devices.add("pmem", pmem);
        }
        devices
    }

    /// What of the devices can be changed while it runs.
    pub fn controls(&self) -> Controls {
        Controls { balloon: self.balloon.clone(), rng: self.rng.clone(), disks: self.disks.clone() }
    }

    /// After the vCPUs have stopped: delivers every byte the program has written, however slow its reader,
    /// until `deadline`. Returns a sentence for each stream that lost bytes.
    pub fn drain(&self, deadline: Option<std::time::Instant>) -> Vec<String> {
        let mut vsock = lock(&self.vsock);
        let mut problems = Vec::new();
        if let Drained::TimedOut { lost } = vsock.drain(deadline) {
            problems.push(format!("{lost} bytes of output were not read in time and are lost"));
        }
        for (port, name) in self.outputs {
            if let Some(e) = vsock.stream_error(port) {
                problems.push(format!("cannot write to {name}: {e}"));
            }
        }
        problems
    }

    /// The last words on the serial port.
    pub fn last_words(&self) -> Vec<u8> {
        lock(&self.machine.shared().bus.serial).tail()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn listen(vsock: &mut Vsock, stdio: Stdio, mut job: Option<Job>) -> Streams {
    match stdio {
        Stdio::Tty { input, output, size: (rows, cols) } => {
            vsock.listen(TTY_PORT, Endpoint::stdio(Some(input), Some(output)).read_for(job));
            Streams::Tty { port: TTY_PORT, rows, cols }
        }
        Stdio::Pipes { stdin, stdout, stderr } => {
            let mut port = |port, read: Option<OwnedFd>, write: Option<OwnedFd>| {
                if read.is_none() && write.is_none() {
                    return None;
                }
                vsock.listen(port, Endpoint::stdio(read, write).read_for(job.take()));
                Some(port)
            };
            Streams::Pipes {
                stdin: port(STDIN_PORT, stdin, None),
                stdout: port(STDOUT_PORT, None, stdout),
                stderr: port(STDERR_PORT, None, stderr),
            }
        }
    }
}
