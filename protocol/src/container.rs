//! Containers: what describes one, what can be asked of one, and the answers.
//!
//! A sandbox holds several containers, known by name. A container has its own processes, mounts, host name, ipc
//! objects, network and limits; the others do not see it. It is *created* (everything is made, its first process is
//! loaded), then *running*, then *stopped* when its first process has ended, which ends all others in it. A stopped
//! one keeps nothing but its exit status, until it is removed.
//!
//! The processes that were asked for, not those they fork, are known by a number in their container, which is not a pid and
//! never used twice: [`INIT_PROCESS`] is the first, each [`Request::Exec`] makes another.

use alloc::{string::String, vec::Vec};
use serde::{Deserialize, Serialize};

use crate::{ExitStatus, IdMap, Process};

/// Name of the container the sandbox begins and ends with.
pub const FIRST_CONTAINER: &str = "main";
/// The number of a container's first process.
pub const INIT_PROCESS: u32 = 1;

pub(crate) fn slash() -> String {
    String::from("/")
}

/// A container to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Container {
    /// Its first process; the container ends with it.
    pub process: Process,
    /// Its root file system.
    #[serde(default)]
    pub root: Root,
    /// Its `sethostname(2)` name; its own name if there is none.
    #[serde(default)]
    pub hostname: Option<String>,
    /// What it may use.
    #[serde(default)]
    pub limits: Limits,
    /// What of the sandbox's volumes it sees, in the order of mounting.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<VolumeMount>,
    /// Its user ids, and what they are in the sandbox. With maps it has a user namespace of its own, which owns its others;
    /// without, the sandbox's.
    #[serde(default, skip_serializing_if = "IdMap::is_empty")]
    pub uid_map: IdMap,
    /// Its group ids. There are both maps or none.
    #[serde(default, skip_serializing_if = "IdMap::is_empty")]
    pub gid_map: IdMap,
}

/// A volume (a directory or file of the host that the sandbox was given) in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeMount {
    /// Which of the sandbox's volumes, from 0 on.
    pub volume: u32,
    /// Where; made if it is missing.
    pub destination: String,
    /// Not to be written through this mount.
    #[serde(default)]
    pub read_only: bool,
    /// What is believed of it without asking the host.
    #[serde(default)]
    pub cache: Cache,
}

/// What the guest kernel believes of a volume without asking the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cache {
    /// Nothing.
    None,
    /// What it was told within the last second; content until a file is opened and has changed.
    #[default]
    Auto,
    /// Everything.
    Always,
}

impl Cache {
    /// Whether it is what is taken where nothing is said.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The root file system of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Root {
    /// Of what.
    #[serde(default)]
    pub base: Base,
    /// The directory of it that is the root.
    #[serde(default = "slash")]
    pub path: String,
    /// Of a volume: what is believed of it without asking the host.
    #[serde(default, skip_serializing_if = "Cache::is_default")]
    pub cache: Cache,
}

impl Default for Root {
    fn default() -> Self {
        Root { base: Base::default(), path: slash(), cache: Cache::default() }
    }
}

/// What a root file system is made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Base {
    /// A writable tmpfs of its own over the sandbox's image.
    #[default]
    Overlay,
    /// The image itself, read-only.
    Image,
    /// The files of the first container: what one writes the other sees.
    Main,
    /// An empty tmpfs.
    Empty,
    /// One of the sandbox's volumes itself: what is written is written on the host.
    Volume(u32),
}

/// Limits of a container; what is not given is not limited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Bytes of memory (`memory.max`); above, something in it is killed.
    pub memory: Option<u64>,
    /// Tasks (`pids.max`); above, `fork` fails.
    pub pids: Option<u64>,
    /// CPU time (`cpu.max`).
    pub cpu: Option<CpuLimit>,
    /// Share of the CPUs while others want them, too: 1 to 10000, 100 if not given (`cpu.weight`).
    pub cpu_weight: Option<u32>,
}

/// How much CPU time in how much time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CpuLimit {
    /// Microseconds, of all CPUs together; at least 1000.
    pub quota_us: u64,
    /// Microseconds, 1000 to 1000000.
    pub period_us: u64,
}

/// What can be asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Make a container. Answered by `done`.
    Create {
        /// Its name: 1 to 64 letters, digits, `.`, `_` and `-`.
        container: String,
        /// What it is.
        spec: Container,
    },
    /// Let the first process of a created container run. Answered by `started`.
    Start {
        /// Its name.
        container: String,
    },
    /// Start another process in a running container. Answered by `started`.
    Exec {
        /// The container's name.
        container: String,
        /// The process.
        process: Process,
    },
    /// Send a signal to a process. Answered by `done`.
    Signal {
        /// The container's name.
        container: String,
        /// The process's number.
        process: u32,
        /// Linux signal number.
        signal: u32,
    },
    /// The terminal of a process was resized. Answered by `done`.
    Resize {
        /// The container's name.
        container: String,
        /// The process's number.
        process: u32,
        /// Rows.
        rows: u16,
        /// Columns.
        cols: u16,
    },
    /// Wait for the end of a process. Answered by `ended`, then.
    Wait {
        /// The container's name.
        container: String,
        /// The process's number.
        process: u32,
    },
    /// Which containers there are. Answered by `containers`.
    List,
    /// Forget a container that is not running. Answered by `done`.
    Remove {
        /// Its name.
        container: String,
    },
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Reply {
    /// It is done.
    Done,
    /// A process runs.
    Started {
        /// Its number in the container.
        process: u32,
        /// Its pid, as the container sees it.
        pid: u32,
    },
    /// A process has ended.
    Ended {
        /// How.
        status: ExitStatus,
    },
    /// All containers, by name.
    Containers {
        /// Them.
        containers: Vec<ContainerStatus>,
    },
    /// It cannot be done.
    Failed {
        /// Linux errno: of executing a program (ENOENT, EACCES, ENOEXEC, …); ESRCH for what is not there, EEXIST for a name
        /// that is taken, EBUSY for the wrong state, EINVAL for what makes no sense.
        errno: u32,
        /// One sentence for the user.
        message: String,
    },
}

/// A container, as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerStatus {
    /// Its name.
    pub container: String,
    /// Where it is in its life.
    pub state: ContainerState,
    /// Tasks in it now.
    pub tasks: u64,
    /// Bytes of memory it is charged; 0 for the first one if that has no limits.
    pub memory: u64,
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContainerState {
    /// Made; its first process has not begun.
    Created,
    /// Its first process lives.
    Running,
    /// Its first process has ended, and so have all others.
    Stopped(ExitStatus),
}
