//! `--net tap=NAME|stream=PATH[,mac=MAC][,mtu=N][,egress=FILE|public][,rx=SIZE][,tx=SIZE]`.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use ringfence_devices::net::{Backend, Limits, Mac, Net, NetConfig, Policy, tap};
use rustix::rand::{GetRandomFlags, getrandom};

use crate::cli::{Failure, units};

/// How the option is written.
pub const SYNTAX: &str = "tap=NAME|stream=PATH[,mac=MAC][,mtu=N][,egress=FILE|public][,rx=SIZE][,tx=SIZE]";

/// The smallest and the largest packets that a device may be asked for: IPv4's least (RFC 791), and what still fits a frame.
const MTU: std::ops::RangeInclusive<u16> = 68..=65520;
const DEFAULT_MTU: u16 = 1500;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    /// A TAP interface by its name.
    Tap(String),
    /// The socket of `passt`, or of QEMU's `-netdev stream`.
    Stream(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Egress {
    Everywhere,
    Public,
    File(PathBuf),
}

/// A network interface that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    host: Host,
    mac: Option<Mac>,
    mtu: Option<u16>,
    egress: Egress,
    /// Most bytes a second to the guest, and from it.
    rx: Option<u64>,
    tx: Option<u64>,
}

/// Parses the option's value.
pub fn parse(text: &str) -> Result<Wanted, String> {
    let (host, options) = text.split_once(',').map_or((text, None), |(host, rest)| (host, Some(rest)));
    let host = match host.split_once('=') {
        Some(("tap", name)) if !name.is_empty() => Host::Tap(name.to_owned()),
        Some(("stream", path)) if !path.is_empty() => Host::Stream(path.into()),
        _ => return Err(format!("say which network: --net {SYNTAX}")),
    };
    let mut wanted = Wanted { host, mac: None, mtu: None, egress: Egress::Everywhere, rx: None, tx: None };
    for option in options.into_iter().flat_map(|options| options.split(',')) {
        match option.split_once('=') {
            Some(("mac", mac)) => wanted.mac = Some(mac.parse().map_err(|e| format!("{e}"))?),
            Some(("mtu", mtu)) => {
                let mtu = mtu.parse().ok().filter(|mtu| MTU.contains(mtu));
                let (least, most) = MTU.into_inner();
                wanted.mtu =
                    Some(mtu.ok_or_else(|| format!("`{option}`: an MTU is from {least} to {most}"))?);
            }
            Some(("egress", "public")) => wanted.egress = Egress::Public,
            Some(("egress", file)) if !file.is_empty() => wanted.egress = Egress::File(file.into()),
            Some(("rx", rate)) => wanted.rx = Some(positive("rx", units::size(rate)?)?),
            Some(("tx", rate)) => wanted.tx = Some(positive("tx", units::size(rate)?)?),
            _ => {
                return Err(format!(
                    "`{option}` is no option of a network; there are mac=MAC, mtu=N, egress=FILE (a policy as JSON) or \
                     egress=public, rx=SIZE and tx=SIZE (bytes a second to and from the guest)"
                ));
            }
        }
    }
    Ok(wanted)
}

fn positive(name: &str, rate: u64) -> Result<u64, String> {
    if rate == 0 { Err(format!("a network with {name}=0 would never carry anything")) } else { Ok(rate) }
}

impl Wanted {
    /// Opens the host's side, and makes the device.
    pub fn open(&self) -> Result<Net, Failure> {
        let backend = match &self.host {
            Host::Tap(name) => Backend::tap(tap::open(name).map_err(Failure::setup)?),
            Host::Stream(path) => {
                let socket = UnixStream::connect(path);
                let failed = |e| {
                    Failure::setup(format!(
                        "cannot connect to {}: {e}; start passt on it first",
                        path.display()
                    ))
                };
                Backend::stream(socket.map_err(failed)?.into())
            }
        };
        let egress = match &self.egress {
            Egress::Everywhere => None,
            Egress::Public => Some(Policy::public(&[], &[])),
            Egress::File(path) => Some(policy(path).map_err(|e| {
                Failure::setup(format!("cannot use the egress policy {}: {e}", path.display()))
            })?),
        };
        let limits = |rate: Option<u64>| Limits::new(rate, None);
        let config = || -> io::Result<Net> {
            let mac = self.mac.map_or_else(random_mac, Ok)?;
            let config = NetConfig { mac, mtu: self.mtu.unwrap_or_else(|| self.host.mtu()), egress };
            Net::new(config, backend, limits(self.rx)?, limits(self.tx)?)
        };
        config().map_err(|e| Failure::setup(format!("cannot make a network device: {e}")))
    }
}

impl Host {
    /// What fits through it, as far as it can be told.
    fn mtu(&self) -> u16 {
        let Self::Tap(name) = self else { return DEFAULT_MTU };
        let text = std::fs::read_to_string(format!("/sys/class/net/{name}/mtu")).ok();
        text.and_then(|text| text.trim().parse().ok()).filter(|mtu| MTU.contains(mtu)).unwrap_or(DEFAULT_MTU)
    }
}

fn policy(path: &Path) -> Result<Policy, String> {
    let text = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
    let policy: Policy = serde_json::from_str(&text).map_err(|e| e.to_string())?;
    policy.check().map_err(|e| e.to_string())?;
    Ok(policy)
}

/// A local one (IEEE 802, bit 1 of the first byte), of a single host (bit 0).
fn random_mac() -> io::Result<Mac> {
    let mut bytes = [0; 6];
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    bytes[0] = bytes[0] & !1 | 2;
    Ok(Mac(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_parsed() {
        let tap = parse("tap=t0").unwrap();
        let plain = Wanted {
            host: Host::Tap("t0".into()),
            mac: None,
            mtu: None,
            egress: Egress::Everywhere,
            rx: None,
            tx: None,
        };
        assert_eq!(tap, plain);
        let full = parse("stream=/run/p,mac=02:00:00:00:00:0a,mtu=9000,egress=public,rx=1M,tx=64K").unwrap();
        let wanted = Wanted {
            host: Host::Stream("/run/p".into()),
            mac: Some(Mac([2, 0, 0, 0, 0, 10])),
            mtu: Some(9000),
            egress: Egress::Public,
            rx: Some(1 << 20),
            tx: Some(64 << 10),
        };
        assert_eq!(full, wanted);
        assert_eq!(parse("tap=t0,egress=/p.json").unwrap().egress, Egress::File("/p.json".into()));
    }

    #[test]
    fn what_is_no_network_is_told() {
        let wrong = [
            ("", "say which network"),
            ("tap=", "say which network"),
            ("passt", "say which network"),
            ("tap=t0,mac=01:00:00:00:00:00", "no MAC address"),
            ("tap=t0,mtu=67", "from 68 to 65520"),
            ("tap=t0,mtu=x", "from 68 to 65520"),
            ("tap=t0,rx=0", "never carry"),
            ("tap=t0,egress=", "no option of a network"),
            ("tap=t0,up", "no option of a network"),
        ];
        for (text, said) in wrong {
            let error = parse(text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
        let error = parse("tap=a/b").unwrap().open().err().unwrap();
        assert!(error.message.contains("no name of a network interface"), "{}", error.message);
    }

    #[test]
    fn a_random_address_is_local_and_of_one_host() {
        let mac = random_mac().unwrap();
        assert_eq!(mac.0[0] & 3, 2);
        assert_eq!(mac.to_string().parse::<Mac>().unwrap(), mac);
    }
}
