//! Commands about sandboxes that run: clients of their API.
//!
//! A sandbox is known by its name, or by the path of its socket, which has a slash in it.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use ringfence_jailer::runtime;
use ringfence_protocol::{FIRST_CONTAINER, INIT_PROCESS};
use serde::Serialize;

use super::container::{self, Program, signal};
use super::{Failure, Format, print};
use crate::api;
use crate::api::client::Client;
use crate::api::reports::{self, Instance};

/// How long `ps` waits for a sandbox that does not answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Arguments of `exec`.
#[derive(Debug, clap::Args)]
pub struct Exec {
    /// The sandbox: its name, or the path of its API socket
    sandbox: String,
    /// The container to run it in
    #[arg(long, value_name = "NAME", default_value = FIRST_CONTAINER)]
    container: String,
    #[command(flatten)]
    program: Program,
}

/// Runs `ringfence exec`.
pub fn exec(args: &Exec) -> Result<u8, Failure> {
    args.program.run(&mut Client::of(&args.sandbox)?, &args.container)
}

/// Arguments of `kill`.
#[derive(Debug, clap::Args)]
pub struct Kill {
    /// The sandbox: its name, or the path of its API socket
    sandbox: String,
    /// Name or number of the signal
    #[arg(default_value = "TERM", value_parser = signal)]
    signal: u32,
}

/// Runs `ringfence kill`.
pub fn kill(args: &Kill) -> Result<u8, Failure> {
    container::kill(&mut Client::of(&args.sandbox)?, FIRST_CONTAINER, INIT_PROCESS, args.signal)
}

/// Arguments of `pause`, `resume` and `wait`.
#[derive(Debug, clap::Args)]
pub struct Named {
    /// The sandbox: its name, or the path of its API socket
    sandbox: String,
}

impl Named {
    /// Asks the sandbox for something to be done.
    pub fn call(&self, path: &str) -> Result<u8, Failure> {
        Client::of(&self.sandbox)?.done("POST", path, None::<&()>)
    }
}

/// Runs `ringfence wait`.
pub fn wait(args: &Named) -> Result<u8, Failure> {
    let ended: reports::Ended = Client::of(&args.sandbox)?.get("/wait")?;
    if let Some(message) = &ended.message {
        super::report(message);
    }
    print(&format!("{}\n", ended.code))
}

/// Arguments of `logs`.
#[derive(Debug, clap::Args)]
pub struct Logs {
    /// The sandbox: its name, or the path of its API socket
    sandbox: String,
    /// Go on until the sandbox ends
    #[arg(long, short)]
    follow: bool,
}

/// Runs `ringfence logs`.
pub fn logs(args: &Logs) -> Result<u8, Failure> {
    let mut client = Client::of(&args.sandbox)?;
    let path = if args.follow { "/logs?follow=true" } else { "/logs" };
    client.send("GET", path, None::<&()>, &[])?;
    match client.receive_into(&mut std::io::stdout())? {
        200 => Ok(0),
        status => Err(Failure::setup(format!("the sandbox answered {status}"))),
    }
}

/// Arguments of `stats`.
#[derive(Debug, clap::Args)]
pub struct Stats {
    /// The sandbox: its name, or the path of its API socket
    sandbox: String,
    /// How they are printed
    #[arg(long, value_enum, default_value_t = StatsFormat::Text)]
    format: StatsFormat,
}

/// How counters are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum StatsFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
    /// For Prometheus.
    Prometheus,
}

/// Runs `ringfence stats`.
pub fn stats(args: &Stats) -> Result<u8, Failure> {
    let mut client = Client::of(&args.sandbox)?;
    let path = if args.format == StatsFormat::Prometheus { "/metrics" } else { "/stats" };
    let answer = client.call("GET", path, None::<&()>)?.good()?;
    if args.format != StatsFormat::Text {
        return print(&String::from_utf8_lossy(&answer.body));
    }
    let stats: reports::Stats = answer.document()?;
    let kib = |bytes: u64| format!("{} KiB", bytes >> 10);
    let mut lines = vec![
        ("state", stats.state.name().to_owned()),
        ("running for", format!("{}.{:03} s", stats.uptime_ms / 1000, stats.uptime_ms % 1000)),
        ("CPU time", format!("{}.{:03} s", stats.cpu_us / 1_000_000, stats.cpu_us / 1000 % 1000)),
        ("guest memory", format!("{} of {}", kib(stats.memory.guest_touched), kib(stats.memory.guest_size))),
        ("VMM memory", kib(stats.memory.vmm_pss)),
        ("image memory", kib(stats.memory.image_pss)),
        ("exits to the VMM", stats.exits.total.to_string()),
    ];
    if let Some(guest) = &stats.guest {
        lines.push(("free in the guest", kib(guest.frames_free * 4096)));
        lines.push(("page faults", guest.page_faults.to_string()));
        lines.push(("context switches", guest.context_switches.to_string()));
    }
    for (device, counters) in &stats.devices {
        let counters: Vec<_> =
            counters.iter().filter(|(_, n)| **n > 0).map(|(name, n)| format!("{name}={n}")).collect();
        lines.push((device, counters.join(" ")));
    }
    print(&lines.iter().map(|(name, value)| format!("{name:<18} {value}\n")).collect::<String>())
}

/// Arguments of `ps`.
#[derive(Debug, clap::Args)]
pub struct Ps {
    /// How they are printed
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// A sandbox in the list.
#[derive(Debug, Serialize)]
struct Listed {
    name: String,
    /// `None`: it has no API, or does not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<Instance>,
}

/// Runs `ringfence ps`.
pub fn ps(args: Ps) -> Result<u8, Failure> {
    let found =
        runtime::list(&runtime::base()).map_err(|e| Failure::setup(format!("cannot list sandboxes: {e}")))?;
    let listed = found.into_iter().filter(|(_, running)| *running).map(|(id, _)| {
        let path = api::socket_of(&id);
        let instance = UnixStream::connect(&path).ok().and_then(|stream| {
            let mut client = Client::new(&path, stream).ok()?;
            client.set_patience(PATIENCE);
            client.get("/").ok()
        });
        Listed { name: id.as_str().to_owned(), instance }
    });
    let listed: Vec<Listed> = listed.collect();
    match args.format {
        Format::Json => print(&(serde_json::to_string(&listed).map_err(Failure::setup)? + "\n")),
        Format::Text => print(&table(&listed)),
    }
}

fn table(listed: &[Listed]) -> String {
    let mut text = format!(
        "{:<20} {:<13} {:>8} {:>9} {:>4} {:>8}  {}\n",
        "NAME", "STATE", "PID", "UP", "CPUS", "MEMORY", "PROGRAM"
    );
    for Listed { name, instance } in listed {
        text += &match instance {
            None => format!("{name:<20} {:<13}\n", "-"),
            Some(i) => {
                let up = i.uptime_ms.map_or_else(|| "-".into(), |ms| format!("{}s", ms / 1000));
                let program = crate::event_loop::printable(&i.args.join(" "));
                let (state, memory) = (i.state.name(), format!("{}M", i.memory >> 20));
                format!("{name:<20} {state:<13} {:>8} {up:>9} {:>4} {memory:>8}  {program}\n", i.pid, i.cpus)
            }
        };
    }
    text
}
