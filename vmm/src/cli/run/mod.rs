//! `ringfence run`: one program in one sandbox, as if it ran here.
//!
//! The standard streams are the program's, byte for byte; its exit code is ours; signals to us are signals to
//! it. The options become a [`Config`], as `--config-file` is one; [`launch`] opens what such a sandbox needs and writes the
//! [`Order`](crate::order::Order); who carries it out is a process in the jail ([`jailed`]) or, with `--no-jail`, this one. At the end
//! the terminal is put back, then we report and exit.

pub mod detach;
pub mod jailed;
pub mod launch;
pub mod shared;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ringfence_jailer::SandboxId;
use ringfence_protocol::{Container, IdMap, IdRange, Limits, Process, Root, Streams};

use super::{Failure, Format, disk, net, units};
use crate::api;
use crate::api::config::{
    Boot, Config, Disk, Image, Jail as JailConfig, LogLevel, Machine, Mount, check_hostname,
};
use crate::api::network::{Host, Network, Publish};
use crate::machine::MAX_CPUS;
use crate::terminal;
use crate::timeline::Timeline;
use launch::{Api, Counters};

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Arguments of `run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Root image (EROFS), made by `ringfence image build`
    #[arg(long, value_name = "FILE", required_unless_present_any = ["rootfs", "config_file"], conflicts_with = "rootfs")]
    image: Option<PathBuf>,
    /// Root directory; packed into a cached image first
    #[arg(long, value_name = "DIR")]
    rootfs: Option<PathBuf>,
    /// A file or block device of the host as a disk (/dev/vda, /dev/vdb, ...); with `,ro` it cannot be written. `id=` is its
    /// serial number, `bandwidth=` and `ops=` are limits a second, `mount=` mounts its ext4 file system, read-only
    #[arg(long, value_name = "PATH[,ro][,id=NAME][,bandwidth=SIZE][,ops=N][,mount=DIR]", value_parser = disk::parse)]
    disk: Vec<Disk>,
    /// What --rootfs is to the program: `image`, a copy that is its own, or `shared`, the directory itself
    #[arg(long, value_name = "MODE", value_enum, default_value_t = RootMode::Image, requires = "rootfs")]
    rootfs_mode: RootMode,
    /// Share a directory or file of the host: type=bind,src=DIR,dst=DIR[,ro][,cache=none|auto|always]
    /// [,uidmap=IN:OUT:N][,gidmap=IN:OUT:N]
    #[arg(long, value_name = "SPEC", value_parser = shared::mount)]
    mount: Vec<Mount>,
    /// A network interface (eth0, eth1, ...): none, a TAP interface, or passt, which needs no right of root. What it is given by
    /// ip=, gateway= or dhcp; netns=, mac=, mtu=, egress=, rx=, tx= as docs/networking.md says
    #[arg(long, value_name = net::SYNTAX, value_parser = net::parse)]
    net: Vec<net::Asked>,
    /// With --net passt: a port of the host that leads into the sandbox
    #[arg(long, value_name = "[ADDR:]HOST:GUEST[/tcp|udp]")]
    publish: Vec<Publish>,
    /// A name server of the program
    #[arg(long, value_name = "IP")]
    dns: Vec<IpAddr>,
    /// A domain in which it searches for names
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Vec<String>,
    /// Number of vCPUs
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=i64::from(MAX_CPUS)))]
    cpus: u8,
    /// Memory size, such as 256M or 1G; taken from the host only as it is used
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = units::memory)]
    memory: u64,
    /// Environment variable; without `=VALUE` it is passed on from here
    #[arg(long, short, value_name = "K[=V]")]
    env: Vec<String>,
    /// Working directory of the program
    #[arg(long, value_name = "DIR", default_value = "/")]
    cwd: String,
    /// User to run as, by name or number
    #[arg(long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Give the program a user namespace of its own, in which N user ids from IN on are those from OUT on in the sandbox; several
    /// ranges by several options
    #[arg(long, value_name = "IN:OUT:N", requires = "gidmap", value_parser = shared::id_range)]
    uidmap: Vec<IdRange>,
    /// The same of group ids
    #[arg(long, value_name = "IN:OUT:N", requires = "uidmap", value_parser = shared::id_range)]
    gidmap: Vec<IdRange>,
    /// Host name of the sandbox
    #[arg(long, value_name = "NAME", default_value = "ringfence", value_parser = hostname)]
    hostname: String,
    /// Give the program a terminal
    #[arg(long, short)]
    tty: bool,
    /// Print every system call on standard error
    #[arg(long)]
    strace: bool,
    /// End the sandbox after this time (10s, 5m) with exit code 124
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    timeout: Option<Duration>,
    /// Print counters at exit, on standard error or to FILE
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
    stats: Option<Option<PathBuf>>,
    /// How counters are printed
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Print the sandbox's name when the program runs, and leave it alone: its output is in the sandbox's log
    #[arg(long, short, conflicts_with_all = ["tty", "no_jail"])]
    detach: bool,
    /// Serve the API on this unix socket, too
    #[arg(long, value_name = "PATH")]
    api_sock: Option<PathBuf>,
    /// JSON that describes the sandbox, in place of the options that do
    #[arg(long, value_name = "FILE", conflicts_with_all = DESCRIBES)]
    config_file: Option<PathBuf>,
    /// Show the guest kernel's log on standard error, from this level on
    #[arg(long, value_name = "LEVEL", value_enum)]
    loglevel: Option<LogLevel>,
    #[command(flatten)]
    jail: Jail,
    /// The program and its arguments
    #[arg(required_unless_present = "config_file", last = true, value_name = "PROG")]
    command: Vec<String>,
}

/// What a root directory is to the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum RootMode {
    /// Packed into an image, of which the program gets a writable view of its own.
    Image,
    /// The program's changes are changes of the directory.
    Shared,
}

/// Options that describe the sandbox.
const DESCRIBES: [&str; 27] = [
    "net",
    "publish",
    "dns",
    "dns_search",
    "mount",
    "rootfs_mode",
    "image",
    "disk",
    "rootfs",
    "cpus",
    "memory",
    "env",
    "cwd",
    "user",
    "uidmap",
    "gidmap",
    "hostname",
    "tty",
    "strace",
    "timeout",
    "stats",
    "loglevel",
    "host_memory",
    "host_cpus",
    "cgroup_parent",
    "no_jail",
    "command",
];

/// What of the host the sandbox gets.
#[derive(Debug, clap::Args)]
struct Jail {
    /// Name of the sandbox, used by no other at the same time; others can find it by (`ringfence exec NAME`). Random, and
    /// without an API, if not given
    #[arg(long, value_name = "ID", conflicts_with = "no_jail", value_parser = |id: &str| SandboxId::new(id))]
    name: Option<SandboxId>,
    /// Most memory the sandbox can take from the host, all in all; a bit more than --memory if not given
    #[arg(long, value_name = "SIZE", conflicts_with = "no_jail", value_parser = units::size)]
    host_memory: Option<u64>,
    /// Most CPU time it can take, in CPUs: 2, 0.5; no limit if not given
    #[arg(long, value_name = "N", conflicts_with = "no_jail", value_parser = units::cpus)]
    host_cpus: Option<u32>,
    /// cgroup v2 directory to make the sandbox's own in
    #[arg(long, value_name = "DIR", conflicts_with = "no_jail")]
    cgroup_parent: Option<PathBuf>,
    /// Run the VMM in this process, with all rights of this user: a guest that takes the VMM over has them, too. No
    /// limits of host memory and CPU
    #[arg(long)]
    no_jail: bool,
}

fn hostname(text: &str) -> Result<String, String> {
    check_hostname(text).map(|()| text.to_owned())
}

/// Runs `ringfence run`.
pub fn main(args: Args, timeline: Timeline) -> Result<u8, Failure> {
    let api = args.api_sock.clone();
    let counters = args.stats.clone().map(|file| Counters { format: args.format, file });
    let detach = args.detach;
    let mut config = match &args.config_file {
        Some(file) => {
            let text = std::fs::read_to_string(file)
                .map_err(|e| Failure::setup(format!("cannot read {}: {e}", file.display())))?;
            let wrong =
                |why| Failure::setup(format!("{} does not describe a sandbox: {why}", file.display()));
            let mut config = api::read_config(&text).map_err(wrong)?;
            config.jail.name = args.jail.name.map(|id| id.as_str().to_owned()).or(config.jail.name);
            config
        }
        None => {
            let config = args.config().map_err(Failure::setup)?;
            config.network.check().map_err(Failure::setup)?;
            config
        }
    };
    if detach {
        check_detached(&mut config)?;
    }
    let api = match (api, config.jail.name.is_some()) {
        (Some(path), _) => Api::At(path),
        (None, true) => Api::Named,
        (None, false) => Api::None,
    };
    launch::main(config, &api, counters, timeline, detach)
}

/// A sandbox nobody stays with can be found by its name.
fn check_detached(config: &mut Config) -> Result<(), Failure> {
    let tty = config.container.as_ref().is_some_and(|c| matches!(c.process.streams, Streams::Tty { .. }));
    if tty || !config.jail.enabled {
        return Err(Failure::setup("--detach goes with a jail, and without a terminal"));
    }
    if config.jail.name.is_none() {
        config.jail.name = Some(SandboxId::random().map_err(Failure::setup)?.as_str().to_owned());
    }
    Ok(())
}

impl Args {
    fn config(self) -> Result<Config, String> {
        let streams = match self.tty {
            true => {
                let (rows, cols) = terminal::size().unwrap_or((24, 80));
                Streams::Tty { port: 0, rows, cols }
            }
            false => Streams::default(),
        };
        let process = Process {
            args: self.command,
            env: environment(&self.env, self.tty, self.user.is_some()),
            cwd: self.cwd,
            user: self.user,
            streams,
        };
        let root = match self.rootfs_mode {
            RootMode::Image => Image::Rootfs,
            RootMode::Shared => Image::Shared,
        };
        let network = network(self.net, self.publish, self.dns, self.dns_search)?;
        Ok(Config {
            machine: Machine { cpus: self.cpus, memory: self.memory },
            boot: Boot {
                log_level: self.loglevel,
                strace: self.strace,
                stats: self.stats.is_some(),
                timeout_ms: self.timeout.map(|time| time.as_millis() as u64),
            },
            disks: self.disk,
            mounts: self.mount,
            network,
            image: self.image.map(Image::File).or(self.rootfs.map(root)),
            container: Some(Container {
                process,
                root: Root::default(),
                mounts: Vec::new(),
                hostname: Some(self.hostname),
                limits: Limits::default(),
                uid_map: IdMap(self.uidmap),
                gid_map: IdMap(self.gidmap),
            }),
            jail: JailConfig {
                enabled: !self.jail.no_jail,
                name: self.jail.name.map(|id| id.as_str().to_owned()),
                host_memory: self.jail.host_memory,
                host_cpu_millis: self.jail.host_cpus,
                cgroup_parent: self.jail.cgroup_parent,
            },
        })
    }
}

fn network(
    asked: Vec<net::Asked>,
    publish: Vec<Publish>,
    nameservers: Vec<IpAddr>,
    search: Vec<String>,
) -> Result<Network, String> {
    if asked.len() > 1 && asked.contains(&None) {
        return Err("--net none goes with no other network".into());
    }
    let mut interfaces: Vec<_> = asked.into_iter().flatten().collect();
    let mut hosts = interfaces.iter_mut().map(|interface| &mut interface.host);
    match hosts.find_map(|host| if let Host::Passt(passt) = host { Some(passt) } else { None }) {
        Some(passt) => passt.publish.extend(publish),
        None if publish.is_empty() => {}
        None => {
            return Err(
                "--publish goes with --net passt; on a TAP interface the sandbox has an address of its own"
                    .into(),
            );
        }
    }
    Ok(Network { interfaces, nameservers, search })
}

/// `TERM`, of which kind the terminal here is.
pub(super) fn terminal_type() -> String {
    format!("TERM={}", std::env::var("TERM").unwrap_or_else(|_| "xterm".into()))
}

/// `PATH` and, for root, `HOME`; `TERM` with a terminal; then what was asked for, which wins.
pub(super) fn environment(asked: &[String], tty: bool, has_user: bool) -> Vec<String> {
    let mut env = vec![DEFAULT_PATH.to_owned()];
    if !has_user {
        env.push("HOME=/root".into());
    }
    if tty {
        env.push(terminal_type());
    }
    for entry in asked {
        let entry = match entry.split_once('=') {
            Some(_) => entry.clone(),
            None => match std::env::var(entry) {
                Ok(value) => format!("{entry}={value}"),
                Err(_) => continue,
            },
        };
        let key = entry.split_once('=').map_or(entry.len(), |(k, _)| k.len());
        let key = &entry[..key];
        env.retain(|old| old.split_once('=').is_none_or(|(k, _)| k != key));
        env.push(entry);
    }
    env
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asked_environment_wins() {
        let env = environment(&["PATH=/x".into(), "A=1=2".into(), "A=3".into()], false, false);
        assert_eq!(env, ["HOME=/root", "PATH=/x", "A=3"]);
    }

    #[test]
    fn host_names() {
        assert!(hostname("a-1.b").is_ok());
        assert!(hostname("").is_err() && hostname("a b").is_err() && hostname(&"x".repeat(65)).is_err());
    }
}
