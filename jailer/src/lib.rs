//! The jail: what stands between the VMM's process and the host when the guest kernel and the VMM are lost.
//!
//! A sandbox is three processes, and each of them alone is enough to clean up after the other two:
//!
//! ```text
//!   supervisor   the command that was typed, or its background copy; holds the streams' other ends
//!     └ monitor  forked from it; makes the cgroup, clones the VMM into its namespaces, waits for it
//!         ├ vmm  process 1 of its pid namespace, in an empty read-only root, without any right
//!         └ gofer  the same, with directories of the host, if the sandbox is given some
//! ```
//!
//! Supervisor and monitor are joined by a socket pair. When the supervisor goes, the monitor reads the end of
//! it, kills the VMM and removes what was made. When the monitor goes, the VMM gets SIGKILL by its
//! parent-death signal and the supervisor cleans up. Only if all are killed at once something is left, without
//! a process and without a lock; the next command that looks removes it.
//!
//! | module | holds |
//! |---|---|
//! | [`access`] | Landlock: what the VMM gives up itself |
//! | [`config`] | what a jail is made of, as data, checked |
//! | [`runtime`] | the directory of a sandbox, its lock, its unprivileged id |
//! | [`cgroup`] | cgroup v2 placement, limits, the kill of everything in it |
//! | [`child`] | the steps between `clone3(2)` and `execveat(2)`, as a table |
//! | [`companion`] | a second process: the gofer |
//! | [`helper`] | a program of the host beside it: passt |
//! | [`monitor`] | the two watching processes |
//! | `sys` | the few calls that need `unsafe` |
//!
//! The VMM gets everything it needs as open descriptors (KVM, image, streams), so its root is an empty tmpfs:
//! there is no device node and no path in it that could be attacked, and nothing of an image is ever copied
//! (Firecracker's CVE-2026-1386 followed a symbolic link in such a copy).

pub mod access;
pub mod cgroup;
pub mod child;
pub mod companion;
pub mod config;
pub mod helper;
pub mod monitor;
pub mod runtime;
mod sys;

pub use companion::{Companion, LEAST_OPEN_FILES, Share};
pub use config::{Identity, JailConfig, Limits, SandboxId};
pub use helper::Helper;
pub use monitor::{Monitor, Outcome, PATIENCE, Program};
pub use sys::release_code;

/// Why a jail could not be made.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the message is the documentation")]
pub enum JailError {
    #[error("`{0}` cannot be the name of a sandbox: {rule}", rule = config::ID_RULE)]
    Id(String),
    #[error("a sandbox named `{0}` is running already")]
    InUse(SandboxId),
    #[error("{0}")]
    Invalid(String),
    #[error("cannot {what}: {source}{advice}")]
    Host { what: String, source: std::io::Error, advice: &'static str },
    #[error("the jail failed at step `{step}`: {source}{advice}", advice = child::advice(step, source))]
    Step { step: String, source: std::io::Error },
    #[error("the monitor of the sandbox ended before the sandbox had started")]
    MonitorLost,
}

impl JailError {
    fn host(what: impl Into<String>, source: impl Into<std::io::Error>) -> Self {
        Self::Host { what: what.into(), source: source.into(), advice: "" }
    }
}
