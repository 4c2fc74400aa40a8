//! What a jail is made of. The types are the schema: the same JSON from a file, the API and the command line.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::JailError;

/// What [`SandboxId::new`] accepts, in words.
pub const ID_RULE: &str = "1 to 64 letters, digits and dashes, the first no dash";

/// The name of a sandbox. It becomes a directory, a cgroup and an argument, so it can be none of their syntax.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SandboxId(String);

impl SandboxId {
    /// Takes a name that keeps [`ID_RULE`].
    pub fn new(name: impl Into<String>) -> Result<Self, JailError> {
        let name = name.into();
        let fine = |c: u8| c.is_ascii_alphanumeric() || c == b'-';
        match name.as_bytes() {
            [first, ..] if *first != b'-' && name.len() <= 64 && name.bytes().all(fine) => Ok(Self(name)),
            _ => Err(JailError::Id(name)),
        }
    }

    /// A name nobody else has: 12 hexadecimal digits of the kernel's randomness.
    pub fn random() -> Result<Self, JailError> {
        let mut bytes = [0u8; 6];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
            .map_err(|e| JailError::host("get random bytes for a name", e))?;
        Ok(Self(bytes.iter().map(|b| format!("{b:02x}")).collect()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for SandboxId {
    type Error = JailError;
    fn try_from(name: String) -> Result<Self, JailError> {
        Self::new(name)
    }
}

impl From<SandboxId> for String {
    fn from(id: SandboxId) -> String {
        id.0
    }
}

impl fmt::Display for SandboxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A jail as it is asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JailConfig {
    /// Name of the sandbox.
    pub id: SandboxId,
    /// Who the VMM runs as.
    #[serde(default)]
    pub identity: Identity,
    /// cgroup v2 directory below which the sandbox's own is made, relative to the hierarchy's root. Without it
    /// `ringfence` as root, the caller's own otherwise; a host that cannot hold limits there is then only
    /// warned about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup_parent: Option<PathBuf>,
    /// Refuse to start, rather than warn, where limits of cgroups cannot be held. A parent given above means it, too.
    #[serde(default)]
    pub require_cgroup: bool,
    /// What the sandbox can take from the host.
    #[serde(default)]
    pub limits: Limits,
}

impl JailConfig {
    /// A jail with every default.
    pub fn new(id: SandboxId) -> Self {
        Self {
            id,
            identity: Identity::default(),
            cgroup_parent: None,
            require_cgroup: false,
            limits: Limits::default(),
        }
    }

    /// Refuses what could not work or would not protect.
    pub fn check(&self) -> Result<(), JailError> {
        if let Some(parent) = &self.cgroup_parent {
            let ordinary = |c| matches!(c, std::path::Component::Normal(_) | std::path::Component::RootDir);
            if !parent.components().all(ordinary) {
                return Err(JailError::Invalid(format!(
                    "the cgroup parent `{}` must be a path without `.` and `..`",
                    parent.display()
                )));
            }
        }
        match self.identity {
            Identity::Fixed { uid: 0, .. } | Identity::Fixed { gid: 0, .. } => Err(JailError::Invalid(
                "the VMM must not run as user or group 0; give it an id of its own".into(),
            )),
            Identity::Fixed { uid: u32::MAX, .. } | Identity::Fixed { gid: u32::MAX, .. } => {
                Err(JailError::Invalid("4294967295 is not an id (it means \"unchanged\")".into()))
            }
            Identity::Fixed { uid, .. } if !is_root() && uid != rustix::process::geteuid().as_raw() => {
                Err(JailError::Invalid(format!("only root can run the VMM as user {uid}")))
            }
            _ => self.limits.check(),
        }
    }
}

/// Whether we may become anybody.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Who the VMM runs as.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Identity {
    /// As root, a user and group id that no other sandbox on the host has (see [`crate::runtime`]); otherwise
    /// the caller's own.
    #[default]
    Unique,
    /// These.
    Fixed {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
    },
}

/// What a sandbox can take from the host. `None` is no limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Bytes of memory, guest and VMM together (`memory.max`); swap is not used beyond it.
    pub memory: Option<u64>,
    /// Thousandths of a CPU (`cpu.max`).
    pub cpu_millis: Option<u32>,
    /// Processes and threads (`pids.max`).
    pub pids: Option<u32>,
    /// Block devices' rates (`io.max`).
    pub io: Vec<IoLimit>,
    /// Open files (RLIMIT_NOFILE).
    pub open_files: u64,
    /// Largest file the VMM can write (RLIMIT_FSIZE).
    pub file_size: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: None,
            cpu_millis: None,
            pids: Some(128),
            io: Vec::new(),
            open_files: 1024,
            file_size: None,
        }
    }
}

impl Limits {
    fn check(&self) -> Result<(), JailError> {
        let refuse = |what: &str| Err(JailError::Invalid(what.to_owned()));
        match self {
            Self { memory: Some(bytes), .. } if *bytes < 16 << 20 => {
                refuse("a sandbox cannot start in less than 16 MiB of host memory; raise limits.memory")
            }
            Self { cpu_millis: Some(millis), .. } if *millis < 10 => {
                refuse("limits.cpu_millis is thousandths of a CPU and at least 10")
            }
            Self { pids: Some(pids), .. } if *pids < 8 => {
                refuse("the VMM needs a handful of threads; limits.pids is at least 8")
            }
            Self { open_files, .. } if *open_files < 64 => {
                refuse("the VMM needs some descriptors; limits.open_files is at least 64")
            }
            _ => Ok(()),
        }
    }
}

/// A rate of one block device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IoLimit {
    /// `MAJOR:MINOR` of the device.
    pub device: (u32, u32),
    /// Bytes read a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_bytes: Option<u64>,
    /// Bytes written a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_bytes: Option<u64>,
    /// Read operations a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_ops: Option<u64>,
    /// Write operations a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_ops: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_no_paths() {
        for fine in ["a", "web-1", "0123456789ab", &"x".repeat(64)] {
            assert!(SandboxId::new(fine).is_ok(), "{fine}");
        }
        for bad in ["", "-a", "a/b", "..", ".", "a.b", "a b", "ä", "a\0", "a\n", &"x".repeat(65)] {
            assert!(SandboxId::new(bad).is_err(), "{bad:?}");
        }
        assert!(serde_json::from_str::<SandboxId>("\"../x\"").is_err());
        assert_ne!(SandboxId::random().unwrap(), SandboxId::random().unwrap());
    }

    #[test]
    fn what_would_not_protect_is_refused() {
        let jail = |edit: fn(&mut JailConfig)| {
            let mut config = JailConfig::new(SandboxId::new("x").unwrap());
            edit(&mut config);
            config.check().map_err(|e| e.to_string())
        };
        assert_eq!(jail(|_| ()), Ok(()));
        let refused: [fn(&mut JailConfig); 8] = [
            |c| c.identity = Identity::Fixed { uid: 0, gid: 5 },
            |c| c.identity = Identity::Fixed { uid: 5, gid: 0 },
            |c| c.identity = Identity::Fixed { uid: u32::MAX, gid: 5 },
            |c| c.cgroup_parent = Some("a/../../b".into()),
            |c| c.limits.memory = Some(1 << 20),
            |c| c.limits.cpu_millis = Some(0),
            |c| c.limits.pids = Some(1),
            |c| c.limits.open_files = 3,
        ];
        for edit in refused {
            assert!(jail(edit).is_err());
        }
    }

    #[test]
    fn json() {
        let config: JailConfig = serde_json::from_str(
            r#"{"id":"x","identity":{"fixed":{"uid":7,"gid":8}},"limits":{"memory":268435456,"cpu_millis":1500}}"#,
        )
        .unwrap();
        assert_eq!(config.identity, Identity::Fixed { uid: 7, gid: 8 });
        assert_eq!(config.limits.pids, Limits::default().pids);
        assert!(serde_json::from_str::<JailConfig>(r#"{"id":"x","limit":{}}"#).is_err());
    }
}
