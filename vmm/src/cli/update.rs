//! Commands that change a sandbox while it runs: clients of its API.

use super::{Failure, print, units};
use crate::api::client::Client;
use crate::api::config::LogLevel;
use crate::api::settings::{BalloonTarget, DiskLimits, LogLevels, RandomLimits};
use crate::door::BalloonSize;

/// Arguments of `balloon`.
#[derive(Debug, clap::Args)]
pub struct Balloon {
    /// The sandbox: its name, or the path of its API socket
    sandbox: String,
    /// How much of its memory the host wants for itself, such as 256M; 0 gives all of it back
    #[arg(value_name = "SIZE", value_parser = units::size)]
    target: Option<u64>,
}

/// Runs `ringfence balloon`: sets the target, or prints target and what was reached, in bytes.
pub fn balloon(args: &Balloon) -> Result<u8, Failure> {
    let mut client = Client::of(&args.sandbox)?;
    match args.target {
        // Down, so that the guest keeps what it was promised.
        Some(bytes) => client.done("PUT", "/balloon", Some(&BalloonTarget { target: bytes & !4095 })),
        None => {
            let BalloonSize { target, actual } = client.get("/balloon")?;
            print(&format!("target {target}\nactual {actual}\n"))
        }
    }
}

/// Arguments of `update`.
#[derive(Debug, clap::Args)]
pub struct Update {
    /// The sandbox: its name, or the path of its API socket
    sandbox: String,
    /// Limits a second of a disk, of which the first is 0; what is left out has none
    #[arg(long, value_name = "N[,bandwidth=SIZE][,ops=N]", value_parser = disk)]
    disk_limits: Vec<(u32, DiskLimits)>,
    /// Most bytes a second of the random device
    #[arg(long, value_name = "SIZE", value_parser = units::size)]
    random_bandwidth: Option<u64>,
    /// The guest kernel's log is from this level on
    #[arg(long, value_name = "LEVEL", value_enum)]
    loglevel: Option<LogLevel>,
    /// The log of supervisor and VMM likewise; with `debug` it has every call of the API
    #[arg(long, value_name = "LEVEL", value_enum)]
    vmm_loglevel: Option<LogLevel>,
}

/// Runs `ringfence update`.
pub fn update(args: &Update) -> Result<u8, Failure> {
    let mut client = Client::of(&args.sandbox)?;
    for (disk, limits) in &args.disk_limits {
        client.done("PUT", &format!("/disks/{disk}/limits"), Some(limits))?;
    }
    if let Some(bandwidth) = args.random_bandwidth {
        client.done("PUT", "/random/limits", Some(&RandomLimits { bandwidth }))?;
    }
    let levels = LogLevels { guest: args.loglevel, vmm: args.vmm_loglevel };
    if levels != LogLevels::default() {
        client.done("PUT", "/log-levels", Some(&levels))?;
    }
    Ok(0)
}

fn disk(text: &str) -> Result<(u32, DiskLimits), String> {
    let mut words = text.split(',');
    let number = words.next().unwrap_or_default();
    let number =
        number.parse().map_err(|_| format!("`{number}` is not the number of a disk; the first is 0"))?;
    let mut limits = DiskLimits::default();
    for word in words {
        match word.split_once('=') {
            Some(("bandwidth", rate)) => limits.bandwidth = Some(units::size(rate)?),
            Some(("ops", rate)) => {
                let wrong = |_| format!("`{rate}` is not a number of requests a second");
                limits.ops = Some(rate.parse().map_err(wrong)?);
            }
            _ => return Err(format!("`{word}` is no limit of a disk; there are bandwidth=SIZE and ops=N")),
        }
    }
    limits.check().map(|()| (number, limits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_disks_are_read() {
        let both = DiskLimits { bandwidth: Some(1 << 20), ops: Some(7) };
        assert_eq!(disk("1,bandwidth=1M,ops=7"), Ok((1, both)));
        assert_eq!(disk("0"), Ok((0, DiskLimits::default())));
        assert!(disk("vda").is_err() && disk("0,ops=0").is_err() && disk("0,ro").is_err());
    }
}
