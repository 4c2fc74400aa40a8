//! The description of a sandbox: one schema for the API, `--config-file`, the command line and, its containers, the guest.
//!
//! `ringfence run`'s options become a [`Config`], `--config-file` is one, and over the API it is put together part by part;
//! all that starts a sandbox starts from it (`cli::run::launch`). A container is described by the same type in here, in
//! the ramdisk slot and on the control channel ([`ringfence_protocol::Container`]).

use std::path::PathBuf;

use ringfence_devices::block::ID_BYTES;
use ringfence_gofer::volume::IdMap;
use ringfence_jailer::SandboxId;
use ringfence_protocol::ids::check_maps;
use ringfence_protocol::{Cache, Container, Limits, Process, Streams};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::network::{MAX_DISKS_AND_INTERFACES, Network};
use crate::machine::MAX_CPUS;

/// Reads a document strictly: serde takes a list of a struct's fields for the struct, and so would turn a mistake into defaults.
pub fn read<T: DeserializeOwned + Serialize>(text: &[u8]) -> Result<T, String> {
    let read: T = serde_json::from_slice(text).map_err(|e| e.to_string())?;
    let given: Value = serde_json::from_slice(text).map_err(|e| e.to_string())?;
    let taken = serde_json::to_value(&read).map_err(|e| e.to_string())?;
    if has_shape(&given, &taken) {
        Ok(read)
    } else {
        Err("there is a list where an object is expected".into())
    }
}

/// Whether there is an object in what was given wherever there is one in what was made of it.
fn has_shape(given: &Value, taken: &Value) -> bool {
    match (given, taken) {
        (Value::Object(given), Value::Object(taken)) => {
            given.iter().all(|(key, value)| taken.get(key).is_none_or(|taken| has_shape(value, taken)))
        }
        (_, Value::Object(_)) => false,
        (Value::Array(given), Value::Array(taken)) => given.iter().zip(taken).all(|(a, b)| has_shape(a, b)),
        _ => true,
    }
}

/// Least memory in bytes: nothing boots in less.
pub const MIN_MEMORY: u64 = 16 << 20;
/// Most memory in bytes: more than any machine we know of; keeps every later sum far from overflow.
pub const MAX_MEMORY: u64 = 16 << 40;

/// A sandbox.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// CPUs and memory.
    pub machine: Machine,
    /// What the guest kernel does besides.
    pub boot: Boot,
    /// Root image.
    pub image: Option<Image>,
    /// Disks, `/dev/vda` and so on.
    pub disks: Vec<Disk>,
    /// Directories and files of the host that the first container sees.
    pub mounts: Vec<Mount>,
    /// Networks.
    pub network: Network,
    /// The first container.
    pub container: Option<Container>,
    /// What of the host it gets.
    pub jail: Jail,
}

/// CPUs and memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Machine {
    /// vCPUs, 1 to 64.
    pub cpus: u8,
    /// Bytes, in whole pages.
    pub memory: u64,
}

impl Default for Machine {
    fn default() -> Self {
        Machine { cpus: 1, memory: 512 << 20 }
    }
}

/// What the guest kernel does besides running programs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Boot {
    /// Its log is from this level on; warnings and errors if not given.
    pub log_level: Option<LogLevel>,
    /// A line for each system call on standard error.
    pub strace: bool,
    /// Count system calls, and print all counters on standard error at the end.
    pub stats: bool,
    /// End the sandbox after this time.
    pub timeout_ms: Option<u64>,
}

/// How much the guest kernel logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    /// As the guest counts them; it has no `trace`.
    pub fn number(self) -> u8 {
        match self {
            LogLevel::Error => 1,
            LogLevel::Warn => 2,
            LogLevel::Info => 3,
            LogLevel::Debug | LogLevel::Trace => 4,
        }
    }
}

/// Root image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Image {
    /// An EROFS image.
    File(PathBuf),
    /// A directory, packed into a cached image first.
    Rootfs(PathBuf),
    /// A directory itself: what the program changes is changed there.
    Shared(PathBuf),
}

/// Most directories and files of the host that a sandbox is given, a shared root besides.
pub const MAX_MOUNTS: usize = 63;

/// A directory or file of the host in the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// On the host.
    pub source: PathBuf,
    /// In the sandbox; made if it is missing.
    pub destination: String,
    /// The host's side refuses every change.
    #[serde(default)]
    pub read_only: bool,
    /// Set-id bits of files are set, and hold on the host, too.
    #[serde(default)]
    pub set_id: bool,
    /// What the guest believes without asking.
    #[serde(default)]
    pub cache: Cache,
    /// User ids; if there is none, each is itself, or, without root, the caller is 0 inside.
    #[serde(default)]
    pub uid_map: IdMap,
    /// Group ids.
    #[serde(default)]
    pub gid_map: IdMap,
}

impl Mount {
    /// Says what is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        if self.source.as_os_str().is_empty() {
            return Err("a mount has a source".into());
        }
        check_destination(&self.destination)?;
        if self.uid_map.0.iter().chain(&self.gid_map.0).any(|range| range.count == 0) {
            return Err("a range of ids has at least one".into());
        }
        Ok(())
    }
}

/// Says what is wrong with the place of a mount.
pub fn check_destination(path: &str) -> Result<(), String> {
    if !path.starts_with('/') || path.split('/').any(|part| part == "..") || path.contains('\0') {
        return Err(format!("`{path}` is no place for a mount: write an absolute path without `..`"));
    }
    Ok(())
}

/// Most disks of a sandbox: each takes an interrupt line.
pub const MAX_DISKS: usize = 8;

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// A file or block device of the host.
    pub path: PathBuf,
    /// It is not to be written.
    #[serde(default)]
    pub read_only: bool,
    /// Its serial number inside.
    #[serde(default)]
    pub id: String,
    /// Most bytes a second.
    #[serde(default)]
    pub bandwidth: Option<u64>,
    /// Most requests a second.
    #[serde(default)]
    pub ops: Option<u64>,
    /// Where its ext4 file system is mounted; then it is read-only.
    #[serde(default)]
    pub mount: Option<String>,
}

impl Disk {
    /// Says what is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        if self.path.as_os_str().is_empty() {
            return Err("a disk has a path".into());
        }
        if self.bandwidth == Some(0) || self.ops == Some(0) {
            return Err("a disk with a limit of 0 would never answer".into());
        }
        self.mount.as_deref().map_or(Ok(()), check_mount)?;
        check_disk_id(&self.id)
    }
}

/// Says what is wrong with the directory a disk is mounted on.
pub fn check_mount(dir: &str) -> Result<(), String> {
    if !dir.starts_with('/') || dir.trim_end_matches('/').is_empty() || dir.contains('\0') {
        return Err(format!("`{dir}` is no directory to mount a disk on: write an absolute path"));
    }
    Ok(())
}

/// Says what is wrong with a disk's id; none is fine.
pub fn check_disk_id(id: &str) -> Result<(), String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if id.len() > ID_BYTES || !id.chars().all(fine) {
        return Err(format!("a disk's id has 1 to {ID_BYTES} letters, digits, dots, dashes and underscores"));
    }
    Ok(())
}

/// What of the host the sandbox gets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Jail {
    /// False: no jail, the VMM runs in the command's process with all rights of its user.
    pub enabled: bool,
    /// Name of the sandbox; random if not given.
    pub name: Option<String>,
    /// Most bytes of memory it can take from the host.
    pub host_memory: Option<u64>,
    /// Most CPU time, in thousandths of a CPU.
    pub host_cpu_millis: Option<u32>,
    /// cgroup v2 directory to make the sandbox's own in.
    pub cgroup_parent: Option<PathBuf>,
}

impl Default for Jail {
    fn default() -> Self {
        Jail { enabled: true, name: None, host_memory: None, host_cpu_millis: None, cgroup_parent: None }
    }
}

impl Machine {
    /// Says what is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        if !(1..=MAX_CPUS).contains(&self.cpus) {
            return Err(format!("machine.cpus is 1 to {MAX_CPUS}"));
        }
        if !(MIN_MEMORY..=MAX_MEMORY).contains(&self.memory) || !self.memory.is_multiple_of(4096) {
            return Err("machine.memory is at least 16 MiB, in whole pages of 4096 bytes".into());
        }
        Ok(())
    }
}

impl Boot {
    /// Says what is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        match self.timeout_ms {
            Some(0) => Err("boot.timeout_ms is at least 1".into()),
            _ => Ok(()),
        }
    }
}

impl Jail {
    /// Says what is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        if let Some(name) = &self.name {
            SandboxId::new(name.clone()).map_err(|e| e.to_string())?;
        }
        let has_limits = self.host_memory.is_some() || self.host_cpu_millis.is_some();
        if !self.enabled && (has_limits || self.name.is_some() || self.cgroup_parent.is_some()) {
            return Err("without a jail there are no limits of the host, no name and no cgroup".into());
        }
        if self.host_cpu_millis == Some(0) || self.host_memory == Some(0) {
            return Err("a limit of 0 is no limit a sandbox can live with".into());
        }
        Ok(())
    }
}

impl Image {
    /// Says what is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        let (Image::File(path) | Image::Rootfs(path) | Image::Shared(path)) = self;
        if path.as_os_str().is_empty() { Err("the image has no path".into()) } else { Ok(()) }
    }
}

/// Says what is wrong with a process, as far as the host can tell; the guest looks again, and further.
pub fn check_process(process: &Process) -> Result<(), String> {
    if process.args.is_empty() {
        return Err("no program was given: args is empty".into());
    }
    let texts = process.args.iter().chain(&process.env).chain([&process.cwd]).chain(&process.user);
    if texts.into_iter().any(|text| text.contains('\0')) {
        return Err("a text with a zero byte cannot be given to a program".into());
    }
    match process.streams {
        Streams::Pipes { stdin: None, stdout: None, stderr: None } | Streams::Tty { port: 0, .. } => Ok(()),
        _ => Err("ports are not for clients to choose: leave them out and send descriptors".into()),
    }
}

/// The same of a container.
pub fn check_container(container: &Container) -> Result<(), String> {
    check_process(&container.process)?;
    if container.root.path.contains('\0') {
        return Err("a path with a zero byte leads nowhere".into());
    }
    container.mounts.iter().try_for_each(|mount| check_destination(&mount.destination))?;
    check_maps(&container.uid_map, &container.gid_map)?;
    if let Some(name) = &container.hostname {
        check_hostname(name)?;
    }
    let Limits { memory, pids, cpu, cpu_weight } = container.limits;
    if memory.is_some_and(|bytes| bytes < 1 << 20) {
        return Err("a container needs at least 1 MiB of memory".into());
    }
    if pids == Some(0) {
        return Err("a container has at least one task".into());
    }
    if cpu.is_some_and(|cpu| cpu.quota_us < 1000 || !(1000..=1_000_000).contains(&cpu.period_us)) {
        return Err("a period of CPU time is 1 ms to 1 s, a quota at least 1 ms".into());
    }
    if cpu_weight.is_some_and(|weight| !(1..=10_000).contains(&weight)) {
        return Err("a weight of CPU time is 1 to 10000".into());
    }
    Ok(())
}

/// Says what is wrong with a host name.
pub fn check_hostname(name: &str) -> Result<(), String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    if name.is_empty() || name.len() > 64 || !name.chars().all(fine) {
        return Err("a host name has 1 to 64 letters, digits, dots and dashes".into());
    }
    Ok(())
}

impl Config {
    /// Says what is wrong with it, as far as that can be said of any.
    pub fn check(&self) -> Result<(), String> {
        self.machine.check()?;
        self.boot.check()?;
        self.jail.check()?;
        self.image.as_ref().map_or(Ok(()), Image::check)?;
        if self.disks.len() > MAX_DISKS {
            return Err(format!("a sandbox has at most {MAX_DISKS} disks"));
        }
        self.disks.iter().try_for_each(Disk::check)?;
        self.network.check()?;
        if self.disks.len() + self.network.interfaces.len() > MAX_DISKS_AND_INTERFACES {
            return Err(format!(
                "a sandbox has at most {MAX_DISKS_AND_INTERFACES} disks and network interfaces"
            ));
        }
        if self.mounts.len() > MAX_MOUNTS {
            return Err(format!("a sandbox has at most {MAX_MOUNTS} mounts"));
        }
        self.mounts.iter().try_for_each(Mount::check)?;
        self.container.as_ref().map_or(Ok(()), check_container)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, String> {
        let config: Config = super::read(text.as_bytes())?;
        config.check().map(|()| config)
    }

    #[test]
    fn a_short_description_is_enough_and_a_wrong_word_is_not() {
        let config =
            read(r#"{"image": {"file": "x"}, "container": {"process": {"args": ["true"]}}}"#).unwrap();
        assert_eq!((config.machine, config.jail.enabled), (Machine::default(), true));
        assert_eq!(read("{}"), Ok(Config::default()));
        for (bad, why) in [
            (r#"{"cpus": 1}"#, "unknown field `cpus`"),
            (r#"{"machine": [1, 16777216]}"#, "a list where"),
            (r#"{"container": {"process": {"args": ["a"]}, "limits": [null, null]}}"#, "a list where"),
            (r#"{"machine": {"cpus": 0}}"#, "1 to 64"),
            (r#"{"machine": {"cpus": 256}}"#, "256"),
            (r#"{"machine": {"memory": 16777217}}"#, "whole pages"),
            (r#"{"machine": {"memory": -1}}"#, "-1"),
            (r#"{"image": {"file": "a", "rootfs": "b"}}"#, ""),
            (r#"{"image": {"file": ""}}"#, "no path"),
            (r#"{"mounts": [{"source": "/a"}]}"#, "destination"),
            (r#"{"mounts": [{"source": "", "destination": "/b"}]}"#, "source"),
            (r#"{"mounts": [{"source": "/a", "destination": "/b/../c"}]}"#, "absolute"),
            (r#"{"mounts": [{"source": "/a", "destination": "/b", "cache": "some"}]}"#, "some"),
            (
                r#"{"mounts": [{"source": "/a", "destination": "/b", "uid_map": [{"inside": 0, "outside": 1, "count": 0}]}]}"#,
                "at least one",
            ),
            (r#"{"boot": {"log_level": "loud"}}"#, "loud"),
            (r#"{"boot": {"timeout_ms": 0}}"#, "timeout_ms"),
            (r#"{"jail": {"enabled": false, "host_memory": 1}}"#, "without a jail"),
            (r#"{"jail": {"name": "a/b"}}"#, ""),
            (r#"{"container": {"process": {"args": []}}}"#, "no program"),
            (
                r#"{"container": {"process": {"args": ["a"], "streams": {"tty": {"port": 3, "rows": 1, "cols": 1}}}}}"#,
                "ports",
            ),
        ] {
            let said = read(bad).unwrap_err();
            assert!(said.contains(why), "{bad}: {said}");
        }
    }
}
