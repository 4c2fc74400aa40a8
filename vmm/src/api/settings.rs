//! What can be set while a sandbox runs: its balloon, limits of its devices, how much is logged.
//!
//! The VMM is asked to do it; what it has done is remembered here, so that `GET` tells it, and for disks in the description.

use ringfence_devices::rng;
use serde::{Deserialize, Serialize};

use super::config::{Config, LogLevel};
use super::http::Response;

/// What `PUT /balloon` takes.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BalloonTarget {
    /// Bytes of the guest's memory that the host wants for itself, in whole pages.
    pub target: u64,
}

impl BalloonTarget {
    /// Says what is wrong with it.
    pub fn check(self, config: &Config) -> Result<(), String> {
        if !self.target.is_multiple_of(4096) {
            return Err("the target is in whole pages of 4096 bytes".into());
        }
        if self.target > config.machine.memory {
            return Err(format!("the sandbox has {} bytes of memory", config.machine.memory));
        }
        Ok(())
    }
}

/// Limits of a disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DiskLimits {
    /// Most bytes a second; no limit if not given.
    pub bandwidth: Option<u64>,
    /// Most requests a second; no limit if not given.
    pub ops: Option<u64>,
}

impl DiskLimits {
    /// Says what is wrong with them.
    pub fn check(self) -> Result<(), String> {
        if self.bandwidth == Some(0) || self.ops == Some(0) {
            return Err("a disk with a limit of 0 would never answer".into());
        }
        Ok(())
    }
}

/// Limits of the random device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandomLimits {
    /// Most bytes a second.
    pub bandwidth: u64,
}

impl Default for RandomLimits {
    fn default() -> Self {
        RandomLimits { bandwidth: rng::BYTES_PER_SECOND }
    }
}

impl RandomLimits {
    /// Says what is wrong with them.
    pub fn check(self) -> Result<(), String> {
        if self.bandwidth == 0 {
            return Err("a random device with a limit of 0 would never answer".into());
        }
        Ok(())
    }
}

/// From which level on who logs; `PUT` leaves out what is to stay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogLevels {
    /// The guest kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest: Option<LogLevel>,
    /// Supervisor and VMM: from `info` on they tell what happens to the sandbox, from `debug` on what is called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vmm: Option<LogLevel>,
}

/// What is remembered when the VMM has done it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Setting {
    Balloon,
    Disk(usize, DiskLimits),
    Random(RandomLimits),
    GuestLog(LogLevel),
}

/// What has been set, and is not part of the description.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    pub random: RandomLimits,
    pub vmm_log: LogLevel,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { random: RandomLimits::default(), vmm_log: LogLevel::Info }
    }
}

impl Settings {
    /// The VMM has done it.
    pub fn apply(&mut self, setting: Setting, config: &mut Config) {
        match setting {
            Setting::Balloon => {}
            Setting::Disk(number, limits) => {
                if let Some(disk) = config.disks.get_mut(number) {
                    (disk.bandwidth, disk.ops) = (limits.bandwidth, limits.ops);
                }
            }
            Setting::Random(limits) => self.random = limits,
            Setting::GuestLog(level) => config.boot.log_level = Some(level),
        }
    }

    /// Whether supervisor and VMM are to say what is of this level.
    pub fn logs(&self, level: LogLevel) -> bool {
        level.number() <= self.vmm_log.number()
    }

    pub fn levels(&self, config: &Config) -> LogLevels {
        LogLevels { guest: Some(config.boot.log_level.unwrap_or(LogLevel::Warn)), vmm: Some(self.vmm_log) }
    }
}

/// The limits of a disk.
pub(super) fn disk_limits(config: &Config, number: u32) -> Result<DiskLimits, Response> {
    let disk = config.disks.get(number as usize);
    let disk = disk.ok_or_else(|| Response::fault(404, "there is no such disk; the first is 0"))?;
    Ok(DiskLimits { bandwidth: disk.bandwidth, ops: disk.ops })
}
