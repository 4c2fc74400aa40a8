//! What the VMM and the guest kernel say to each other.
//!
//! Two documents exist, both JSON, and both sides compile these same types:
//!
//! * [`BootConfig`]: the machine and the first [`Container`], handed over in the ramdisk slot of the Linux boot protocol.
//! * [`ToGuest`] / [`ToHost`]: messages on the control connection (vsock port [`ports::CONTROL`], the
//!   guest connects), each framed by a little-endian `u32` length. The first message either way is `Hello`.
//!
//! What is done with containers is a [`Request`] and its [`Reply`] ([`container`]). The same two types, a JSON document
//! a line, are what the VMM speaks on its control socket.
//!
//! The guest is hostile to the host: the host bounds every frame by [`MAX_FRAME`] and refuses unknown fields.
#![no_std]

extern crate alloc;

pub mod container;
pub mod ids;
pub mod network;

use alloc::{boxed::Box, string::String, vec::Vec};
pub use container::{
    Base, Cache, Container, ContainerState, ContainerStatus, CpuLimit, FIRST_CONTAINER, INIT_PROCESS, Limits,
    Reply, Request, Root, VolumeMount,
};
pub use ids::{IdMap, IdRange};
pub use network::{Cidr, Network, NetworkInterface};
use serde::{Deserialize, Serialize};

/// Version of everything in this crate; a peer with another one is refused.
pub const VERSION: u32 = 2;

/// Largest control frame in bytes, length prefix excluded.
pub const MAX_FRAME: usize = 1 << 20;

/// vsock addresses: the context ids and the host's well-known ports.
pub mod ports {
    /// The host's context id (virtio 1.2, section 5.10.4).
    pub const HOST_CID: u64 = 2;
    /// The guest's context id.
    pub const GUEST_CID: u64 = 3;
    /// The control connection.
    pub const CONTROL: u32 = 1024;
    /// Text of `--strace` and the kernel log, guest to host.
    pub const TRACE: u32 = 1025;
    /// First port the host hands out for standard streams.
    pub const FIRST_STREAM: u32 = 2048;
}

/// The power port: what the guest writes to it ends the machine.
pub mod power {
    /// I/O port number; a 32-bit write.
    pub const PORT: u16 = 0x600;
    /// Orderly power-off.
    pub const OFF: u32 = 0;
    /// Kernel panic; the text is on the serial port.
    pub const PANIC: u32 = 1;
    /// The guest could not boot (bad configuration, not enough memory); the text is on the serial port.
    pub const BOOT_FAILED: u32 = 2;
}

/// The console port: a line of the kernel's log in one exit.
pub mod console {
    /// I/O port number. A 32-bit read gives [`MAGIC`]; a 32-bit write is the guest-physical address of a line: its length in
    /// four bytes, little endian, and that many bytes of text, at most [`MAX`].
    pub const PORT: u16 = 0x604;
    /// `RFLN`: there is such a port.
    pub const MAGIC: u32 = 0x4e4c_4652;
    /// Longest line in bytes.
    pub const MAX: usize = 1024;
}

/// The document in the ramdisk slot: the machine-wide settings and the first container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootConfig {
    /// [`VERSION`].
    pub version: u32,
    /// Wall clock at boot, nanoseconds since the epoch; refined by kvmclock where present.
    pub realtime_ns: u64,
    /// Seed of the guest's random generator until virtio-rng answers; 32 bytes.
    pub seed: Vec<u8>,
    /// The first container, [`FIRST_CONTAINER`]; the sandbox ends with it.
    pub container: Container,
    /// Write a line per system call to the [`ports::TRACE`] connection.
    pub strace: bool,
    /// Gather counters for `--stats`.
    pub stats: bool,
    /// Disks whose file systems are mounted in the first container, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disk_mounts: Vec<DiskMount>,
    /// What the machine's network devices are given; without it there is only `lo`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
}

/// The file system of a disk, to be mounted read-only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskMount {
    /// Which disk: 0 is the first.
    pub disk: u32,
    /// The directory, an absolute path; made if it is missing.
    pub at: String,
}

/// A process to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// Program and arguments; the program is looked up in `PATH` of `env` when it has no slash.
    pub args: Vec<String>,
    /// `KEY=VALUE` strings.
    #[serde(default)]
    pub env: Vec<String>,
    /// Working directory.
    #[serde(default = "container::slash")]
    pub cwd: String,
    /// Numeric user or name, with an optional `:group`, resolved in the root's `/etc/passwd` and `/etc/group`.
    #[serde(default)]
    pub user: Option<String>,
    /// Its standard streams. On the VMM's control socket without ports: those are the VMM's to give.
    #[serde(default)]
    pub streams: Streams,
}

/// Where the standard streams of a process go: host vsock ports the guest connects to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Streams {
    /// Three separate one-way streams, seen by the program as fifos. `None` is `/dev/null`.
    Pipes {
        /// Host to guest.
        #[serde(default)]
        stdin: Option<u32>,
        /// Guest to host.
        #[serde(default)]
        stdout: Option<u32>,
        /// Guest to host.
        #[serde(default)]
        stderr: Option<u32>,
    },
    /// A pseudo-terminal whose master is relayed over one connection.
    Tty {
        /// Port of the connection.
        #[serde(default)]
        port: u32,
        /// Initial rows.
        rows: u16,
        /// Initial columns.
        cols: u16,
    },
}

impl Default for Streams {
    fn default() -> Self {
        Streams::Pipes { stdin: None, stdout: None, stderr: None }
    }
}

/// Control messages from the VMM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum ToGuest {
    /// First message.
    Hello {
        /// [`VERSION`].
        version: u32,
    },
    /// Something about a container (in a box: it is large beside the others); answered by [`ToHost::Reply`].
    Request {
        /// Given back in the reply; with 0 there is none.
        id: u64,
        /// What is asked for.
        request: Box<Request>,
    },
    /// Ask for [`ToHost::Stats`] now.
    Stats,
    /// The balloon's target, in the device's configuration, is another one.
    Balloon,
    /// The kernel's log is from this level on: 1 errors, 2 warnings, 3 information, 4 everything; 0 is silence.
    LogLevel {
        /// The level.
        level: u8,
    },
}

/// Control messages from the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum ToHost {
    /// First message.
    Hello {
        /// [`VERSION`].
        version: u32,
    },
    /// The first process is running its first instruction.
    Started,
    /// The first process could not be started.
    StartFailed {
        /// Linux errno of executing the program (ENOENT, EACCES, ENOEXEC, …); EINVAL for what was asked for besides
        /// the program (working directory, user), whatever is wrong with it.
        errno: u32,
        /// One sentence for the user.
        message: String,
    },
    /// The first process ended; the guest powers off after this.
    Exited {
        /// How.
        status: ExitStatus,
        /// Counters, when [`BootConfig::stats`] was set.
        stats: Option<GuestStats>,
    },
    /// Answer to [`ToGuest::Request`]; to [`Request::Wait`] it comes when the process has ended.
    Reply {
        /// The request's.
        id: u64,
        /// The answer.
        reply: Reply,
    },
    /// Answer to [`ToGuest::Stats`].
    Stats {
        /// Counters.
        stats: GuestStats,
    },
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    /// `exit(2)` with this code.
    Code(u8),
    /// Killed by this signal number.
    Signal(u8),
}

/// Counters of the guest kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestStats {
    /// Frames (4 KiB) of RAM the buddy allocator manages.
    pub frames_total: u64,
    /// Frames free now.
    pub frames_free: u64,
    /// Frames ever touched by the guest since boot (kernel image, page tables, heap, user pages).
    pub frames_touched: u64,
    /// Frames used by user mappings and the page cache.
    pub frames_user: u64,
    /// Nanoseconds since the guest's first instruction at named points of the start, in order.
    pub phases: Vec<Phase>,
    /// System calls by number and count, non-zero only.
    pub syscalls: Vec<SyscallCount>,
    /// Page faults taken.
    pub page_faults: u64,
    /// Context switches.
    pub context_switches: u64,
}

/// One named point of the start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    /// Name, such as `kernel_entered` or `first_instruction`.
    pub name: String,
    /// Nanoseconds since the guest's first instruction.
    pub at_ns: u64,
}

/// Count of one system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyscallCount {
    /// Linux x86-64 number.
    pub nr: u32,
    /// Times entered.
    pub count: u64,
}
