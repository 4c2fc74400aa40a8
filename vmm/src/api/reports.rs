//! What the API tells about a sandbox: what it is, what it has counted, how it ended.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};

use ringfence_protocol::GuestStats;
use ringfence_protocol::network::INTERFACES_MAX;
use serde::{Deserialize, Serialize};

use super::config::Image;
use super::server::Server;
use super::state::State;
use crate::door::{BalloonSize, Counters};
use crate::stats::{Exits, Memory};

/// `GET /`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Instance {
    /// Its name; `None` if nobody gave it one.
    pub name: Option<String>,
    /// Where it is in its life.
    pub state: State,
    /// Of `ringfence`.
    pub version: String,
    /// The supervisor.
    pub pid: u32,
    /// The VMM, once there is one; the supervisor if there is no jail.
    pub vmm_pid: Option<u32>,
    /// Since it began to run.
    pub uptime_ms: Option<u64>,
    /// vCPUs.
    pub cpus: u8,
    /// Bytes of guest memory.
    pub memory: u64,
    /// Root image or directory.
    pub image: Option<String>,
    /// The first program and its arguments.
    pub args: Vec<String>,
}

impl Instance {
    pub(super) fn of(server: &Server) -> Instance {
        let config = &server.config;
        Instance {
            name: server.about.name.clone(),
            state: server.state,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            vmm_pid: server.about.processes.last().map(|pid| *pid as u32),
            uptime_ms: server.since.map(|since| since.elapsed().as_millis() as u64),
            cpus: config.machine.cpus,
            memory: config.machine.memory,
            image: config.image.as_ref().map(
                |(Image::File(path) | Image::Rootfs(path) | Image::Shared(path))| {
                    path.to_string_lossy().into()
                },
            ),
            args: config.container.as_ref().map_or_else(Vec::new, |c| c.process.args.clone()),
        }
    }
}

/// How the sandbox ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ended {
    /// The command's exit code.
    pub code: u8,
    /// Why it is not the program's.
    pub message: Option<String>,
}

/// `GET /stats`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stats {
    /// Where it is in its life.
    pub state: State,
    /// Since it began to run.
    pub uptime_ms: u64,
    /// CPU time of the sandbox's processes on the host, guest included.
    pub cpu_us: u64,
    /// Host memory.
    pub memory: Memory,
    /// Exits to the VMM.
    pub exits: Exits,
    /// Memory that the host has asked for, and got.
    pub balloon: BalloonSize,
    /// By device and counter; those of [`DEVICES`].
    pub devices: BTreeMap<String, BTreeMap<String, u64>>,
    /// Of each network interface, `eth0` first; those of [`INTERFACE`].
    pub interfaces: Vec<BTreeMap<String, u64>>,
    /// The guest kernel's; `None` if it does not answer, or is paused.
    pub guest: Option<GuestStats>,
}

impl Stats {
    pub(super) fn gather(server: &Server, counters: Counters, guest: Option<GuestStats>) -> Stats {
        let mut memory = Memory { guest_size: server.config.machine.memory, ..Memory::default() };
        let processes = &server.about.processes;
        let last = processes.last().map_or_else(|| std::process::id().to_string(), i32::to_string);
        memory.measure(&last, counters.image);
        let mut cpu_us = cpu_time(&last);
        if !processes.is_empty() {
            // With a jail the supervisor is a process of its own.
            let others = processes.iter().rev().skip(1).map(i32::to_string);
            for pid in others.chain([std::process::id().to_string()]).filter(|pid| *pid != last) {
                memory.measure(&pid, None);
                cpu_us += cpu_time(&pid);
            }
        }
        memory.guest_touched = memory.guest_mapped;
        // The VMM's words: only what we know.
        let mut devices = counters.devices;
        devices.retain(|device, _| DEVICES.iter().any(|known| known.0 == device));
        for (device, counters) in &mut devices {
            counters.retain(|name, _| DEVICES.iter().any(|known| (known.0, known.1) == (device, name)));
        }
        let mut interfaces = counters.interfaces;
        interfaces.truncate(INTERFACES_MAX);
        for counters in &mut interfaces {
            counters.retain(|name, _| INTERFACE.iter().any(|known| known.0 == name));
        }
        let guest = guest.map(|mut guest| {
            guest.phases.truncate(64);
            guest.phases.iter_mut().for_each(|phase| phase.name = crate::event_loop::printable(&phase.name));
            guest.syscalls.truncate(1024);
            guest
        });
        Stats {
            state: server.state,
            uptime_ms: server.since.map_or(0, |since| since.elapsed().as_millis() as u64),
            cpu_us,
            memory,
            exits: counters.exits,
            balloon: counters.balloon,
            devices,
            interfaces,
            guest,
        }
    }
}

/// USER_HZ, which is part of x86-64's ABI.
const TICKS: u64 = 100;

/// User and system time of a process in microseconds (proc_pid_stat(5)).
fn cpu_time(pid: &str) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, in parentheses, can hold anything; utime and stime are fields 14 and 15.
    let ticks: u64 = stat
        .rsplit_once(')')
        .map_or("", |(_, rest)| rest)
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    ticks.saturating_mul(1_000_000 / TICKS)
}

/// Content type of `GET /metrics`.
pub const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Counters of devices: device, counter, name as a metric, and what it means.
pub const DEVICES: &[(&str, &str, &str, &str)] = &[
    ("block", "read_bytes", "read_bytes_total", "Bytes read from disks."),
    ("block", "written_bytes", "written_bytes_total", "Bytes written to disks."),
    ("block", "requests", "requests_total", "Requests to disks that were answered."),
    ("block", "flushes", "flushes_total", "Flushes among them."),
    ("block", "refused", "refused_total", "Requests to disks that were refused."),
    ("block", "host_errors", "host_errors_total", "Requests that the host could not carry out."),
    ("block", "throttled", "throttled_total", "Times a request had to wait for a limit."),
    ("block", "protocol_errors", "protocol_errors_total", "Times a driver broke the ring."),
    ("balloon", "released_bytes", "released_bytes_total", "Guest memory given back to the host."),
    (
        "balloon",
        "refused_ranges",
        "refused_ranges_total",
        "Ranges that were not guest memory or could not be given back.",
    ),
    (
        "balloon",
        "protocol_errors",
        "protocol_errors_total",
        "Times the driver broke the ring or the protocol.",
    ),
    ("pmem", "flushes", "flushes_total", "Flush requests answered."),
    ("pmem", "protocol_errors", "protocol_errors_total", "Times the driver broke the ring or the protocol."),
    ("rng", "bytes", "bytes_total", "Random bytes delivered."),
    ("rng", "throttled", "throttled_total", "Times a request had to wait for the rate limiter."),
    ("rng", "protocol_errors", "protocol_errors_total", "Times the driver broke the ring or the protocol."),
    ("serial", "output_bytes", "output_bytes_total", "Bytes the guest wrote."),
    ("serial", "lost_bytes", "lost_bytes_total", "Bytes of output that could not be copied."),
    ("serial", "input_bytes", "input_bytes_total", "Bytes given to the guest."),
    ("vsock", "rx_packets", "rx_packets_total", "Packets to the guest."),
    ("vsock", "rx_bytes", "rx_bytes_total", "Payload to the guest."),
    ("vsock", "tx_packets", "tx_packets_total", "Packets from the guest."),
    ("vsock", "tx_bytes", "tx_bytes_total", "Payload from the guest."),
    ("vsock", "connections", "connections_total", "Connections accepted."),
    ("vsock", "orphans", "orphans_total", "Packets that belonged to no connection."),
    ("vsock", "violations", "violations_total", "Connections reset because the guest broke the protocol."),
    ("vsock", "dropped_bytes", "dropped_bytes_total", "Bytes dropped because the host's reader was gone."),
    ("vsock", "protocol_errors", "protocol_errors_total", "Times the driver broke the ring or the protocol."),
];

/// Counters of a network interface: its name, and what it means. `rx` is to the guest.
pub const INTERFACE: &[(&str, &str)] = &[
    ("rx_frames", "Frames to the guest."),
    ("rx_bytes", "Bytes to the guest."),
    ("rx_dropped", "Frames to the guest that its buffers were too small for."),
    ("rx_throttled", "Times a frame to the guest had to wait for a limit."),
    ("tx_frames", "Frames from the guest."),
    ("tx_bytes", "Bytes from the guest."),
    ("tx_denied", "Frames from the guest that the egress policy denied."),
    ("tx_malformed", "Frames from the guest with a wrong length or header."),
    ("tx_dropped", "Frames from the guest that the host did not take."),
    ("tx_throttled", "Times a frame from the guest had to wait for a limit."),
    ("protocol_errors", "Times the driver broke a ring."),
];

/// The text format (prometheus.io, "exposition formats").
pub fn prometheus(stats: &Stats) -> String {
    let mut page = Page(String::new());
    let states: Vec<_> = super::state::when::ALWAYS
        .iter()
        .map(|state| (format!("{{state=\"{}\"}}", state.name()), u64::from(*state == stats.state)))
        .collect();
    page.metric("ringfence_state", "gauge", "1 for the state the sandbox is in.", states);
    page.one(
        "ringfence_uptime_seconds",
        "gauge",
        "Since the sandbox began to run.",
        seconds(stats.uptime_ms, 3),
    );
    let cpu = seconds(stats.cpu_us, 6);
    page.one(
        "ringfence_cpu_seconds_total",
        "counter",
        "CPU time of the sandbox's processes, guest included.",
        cpu,
    );
    let Memory { vmm_pss, guest_touched, image_pss, guest_size, .. } = stats.memory;
    page.one(
        "ringfence_vmm_memory_bytes",
        "gauge",
        "Memory of the sandbox's processes without guest and image.",
        vmm_pss,
    );
    page.one("ringfence_guest_memory_bytes", "gauge", "Guest memory that the host has given.", guest_touched);
    page.one("ringfence_guest_memory_size_bytes", "gauge", "Guest memory as configured.", guest_size);
    page.one("ringfence_image_memory_bytes", "gauge", "The sandbox's share of the mapped image.", image_pss);
    let BalloonSize { target, actual } = stats.balloon;
    page.one("ringfence_balloon_target_bytes", "gauge", "Guest memory that the host has asked for.", target);
    page.one("ringfence_balloon_actual_bytes", "gauge", "Guest memory that the guest has given up.", actual);
    let Exits { io, mmio_read, mmio_write, readonly_write, unmapped, interrupted, other, .. } = &stats.exits;
    let exits = [
        ("io", io),
        ("mmio_read", mmio_read),
        ("mmio_write", mmio_write),
        ("readonly_write", readonly_write),
        ("unmapped", unmapped),
        ("interrupted", interrupted),
        ("other", other),
    ];
    let exits = exits.map(|(reason, n)| (format!("{{reason=\"{reason}\"}}"), *n));
    page.metric("ringfence_vmm_exits_total", "counter", "Exits of vCPUs to the VMM.", exits);
    for (device, counter, metric, help) in DEVICES {
        if let Some(value) = stats.devices.get(*device).and_then(|counters| counters.get(*counter)) {
            page.one(&format!("ringfence_{device}_{metric}"), "counter", help, value);
        }
    }
    for (counter, help) in INTERFACE {
        let values = stats.interfaces.iter().enumerate();
        let values =
            values.filter_map(|(n, of)| Some((format!("{{interface=\"eth{n}\"}}"), *of.get(*counter)?)));
        page.metric(&format!("ringfence_net_{counter}_total"), "counter", help, values);
    }
    if let Some(guest) = &stats.guest {
        let bytes = |frames: u64| frames.saturating_mul(4096);
        let kinds = [
            ("total", guest.frames_total),
            ("free", guest.frames_free),
            ("touched", guest.frames_touched),
            ("user", guest.frames_user),
        ];
        let kinds = kinds.map(|(kind, frames)| (format!("{{kind=\"{kind}\"}}"), bytes(frames)));
        page.metric("ringfence_kernel_memory_bytes", "gauge", "Memory as the guest kernel counts it.", kinds);
        let faults = guest.page_faults;
        page.one("ringfence_kernel_page_faults_total", "counter", "Page faults of programs.", faults);
        let switches = guest.context_switches;
        page.one("ringfence_kernel_context_switches_total", "counter", "Context switches.", switches);
        let calls = guest.syscalls.iter().map(|call| (format!("{{number=\"{}\"}}", call.nr), call.count));
        page.metric(
            "ringfence_kernel_syscalls_total",
            "counter",
            "System calls by number, if they are counted.",
            calls,
        );
    }
    page.0
}

/// A number of 10^-`digits` seconds.
fn seconds(value: u64, digits: u32) -> String {
    let unit = 10u64.pow(digits);
    format!("{}.{:0width$}", value / unit, value % unit, width = digits as usize)
}

struct Page(String);

impl Page {
    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.metric(name, kind, help, [(String::new(), value)]);
    }

    fn metric(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        values: impl IntoIterator<Item = (String, impl Display)>,
    ) {
        let mut values = values.into_iter().peekable();
        if values.peek().is_none() {
            return;
        }
        // Writing to a String cannot fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        for (labels, value) in values {
            let _ = writeln!(self.0, "{name}{labels} {value}");
        }
    }
}

#[cfg(test)]
mod tests {
    use ringfence_devices::{balloon, block, net, pmem, rng, serial, vsock};

    use super::*;

    #[test]
    fn every_counter_of_a_device_is_in_the_table() {
        fn names(device: &str, metrics: &impl Serialize) -> Vec<(String, String)> {
            let value = serde_json::to_value(metrics).unwrap();
            value.as_object().unwrap().keys().map(|name| (device.to_owned(), name.clone())).collect()
        }
        let mut have = [
            names("balloon", &balloon::BalloonMetrics::default()),
            names("block", &block::BlockMetrics::default()),
            names("pmem", &pmem::PmemMetrics::default()),
            names("rng", &rng::RngMetrics::default()),
            names("serial", &serial::SerialMetrics::default()),
            names("vsock", &vsock::VsockMetrics::default()),
        ]
        .concat();
        let mut table: Vec<_> = DEVICES.iter().map(|d| (d.0.to_owned(), d.1.to_owned())).collect();
        have.sort();
        table.sort();
        assert_eq!(have, table);
        let mut have = names("net", &net::NetMetrics::default());
        let mut table: Vec<_> = INTERFACE.iter().map(|i| ("net".to_owned(), i.0.to_owned())).collect();
        have.sort();
        table.sort();
        assert_eq!(have, table);
    }

    #[test]
    fn the_text_has_a_help_and_a_type_for_each_name() {
        let mut devices = BTreeMap::new();
        for (device, counter, ..) in DEVICES {
            let counters: &mut BTreeMap<_, _> = devices.entry((*device).to_owned()).or_default();
            counters.insert((*counter).to_owned(), 7);
        }
        let stats = Stats {
            state: State::Running,
            uptime_ms: 61_002,
            cpu_us: 1_500_000,
            memory: Memory::default(),
            exits: Exits::default(),
            balloon: BalloonSize::default(),
            devices,
            interfaces: vec![INTERFACE.iter().map(|i| (i.0.to_owned(), 9)).collect(); 2],
            guest: Some(GuestStats::default()),
        };
        let text = prometheus(&stats);
        let mut names = std::collections::BTreeSet::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').unwrap();
            let name = name.split('{').next().unwrap();
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
            assert!(value.parse::<f64>().is_ok(), "{line}");
            names.insert(name.to_owned());
        }
        for name in names {
            assert_eq!(text.matches(&format!("# HELP {name} ")).count(), 1, "{name}");
            assert_eq!(text.matches(&format!("# TYPE {name} ")).count(), 1, "{name}");
        }
        assert!(text.contains("ringfence_uptime_seconds 61.002\n"));
        assert!(text.contains("ringfence_cpu_seconds_total 1.500000\n"));
        assert!(text.contains("ringfence_vsock_rx_bytes_total 7\n"));
        assert!(text.contains("ringfence_net_rx_bytes_total{interface=\"eth1\"} 9\n"));
    }
}
