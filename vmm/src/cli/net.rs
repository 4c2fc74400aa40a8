//! `--net none|tap=NAME|tap=fd:N|stream=PATH|passt[,OPTION]…`.

use std::path::{Path, PathBuf};

use ringfence_devices::net::Policy;

use crate::api::network::{Egress, Host, Interface, Passt};
use crate::cli::units;

/// How the option is written.
pub const SYNTAX: &str = "none|tap=NAME|passt[,ip=CIDR][,gateway=IP][,...]";

const OPTIONS: &str = "ip=ADDRESS/BITS, gateway=IP, dhcp, publish=[ADDR:]HOST:GUEST (passt), netns=PATH, mac=MAC, mtu=N, egress=any, egress=public or egress=FILE \
                       (a policy as JSON), rx=SIZE and tx=SIZE (bytes a second to and from the guest)";

/// `--net none`, or an interface.
pub type Asked = Option<Interface>;

/// Parses the option's value.
pub fn parse(text: &str) -> Result<Asked, String> {
    if text == "none" {
        return Ok(None);
    }
    let (host, options) = text.split_once(',').map_or((text, None), |(host, rest)| (host, Some(rest)));
    let host = match host.split_once('=') {
        Some(("tap", name)) => match name.strip_prefix("fd:") {
            Some(number) => {
                let number =
                    number.parse().map_err(|_| format!("`{number}` is no number of a descriptor"))?;
                Host::TapDescriptor(number)
            }
            None if !name.is_empty() => Host::Tap(name.to_owned()),
            None => return Err("name the TAP interface: --net tap=NAME".into()),
        },
        Some(("stream", path)) if !path.is_empty() => Host::Stream(path.into()),
        None if host == "passt" => Host::Passt(Passt::default()),
        _ => {
            return Err("say which network: --net none, tap=NAME, tap=fd:N, stream=PATH or passt".into());
        }
    };
    let mut interface = Interface::new(host);
    for option in options.into_iter().flat_map(|options| options.split(',')) {
        set(&mut interface, option)?;
    }
    interface.check()?;
    Ok(Some(interface))
}

fn set(interface: &mut Interface, option: &str) -> Result<(), String> {
    let address = |text: &str| text.parse().map_err(|_| format!("`{text}` is no address"));
    match option.split_once('=') {
        None if option == "dhcp" => interface.dhcp = true,
        Some(("ip", cidr)) => interface.addresses.push(cidr.parse()?),
        Some(("gateway", gateway)) => interface.gateways.push(address(gateway)?),
        Some(("publish", port)) => {
            match &mut interface.host {
                Host::Passt(passt) => passt.publish.push(port.parse()?),
                _ => return Err(
                    "ports are published by passt; on a TAP interface the guest has an address of its own"
                        .into(),
                ),
            }
        }
        Some(("netns", path)) => interface.netns = Some(PathBuf::from(path)),
        Some(("mac", mac)) => interface.mac = Some(mac.parse().map_err(|e| format!("{e}"))?),
        Some(("mtu", mtu)) => {
            interface.mtu = Some(mtu.parse().map_err(|_| format!("`{mtu}` is no number of bytes"))?);
        }
        Some(("egress", "any")) => interface.egress = Some(Egress::Any),
        Some(("egress", "public")) => interface.egress = Some(Egress::Public),
        Some(("egress", file)) if !file.is_empty() => {
            let policy = policy(Path::new(file));
            let policy = policy.map_err(|e| format!("cannot use the egress policy {file}: {e}"))?;
            interface.egress = Some(Egress::Policy(policy));
        }
        Some(("rx", rate)) => interface.rx_bandwidth = Some(units::size(rate)?),
        Some(("tx", rate)) => interface.tx_bandwidth = Some(units::size(rate)?),
        _ => return Err(format!("`{option}` is no option of a network; there are {OPTIONS}")),
    }
    Ok(())
}

fn policy(path: &Path) -> Result<Policy, String> {
    let text = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
    serde_json::from_str(&text).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_parsed() {
        assert_eq!(parse("none"), Ok(None));
        assert_eq!(parse("tap=t0"), Ok(Some(Interface::new(Host::Tap("t0".into())))));
        assert_eq!(parse("passt").unwrap().unwrap().host, Host::Passt(Passt::default()));
        let Host::Passt(Passt { publish }) = parse("passt,publish=8080:80").unwrap().unwrap().host else {
            panic!()
        };
        assert_eq!((publish[0].host, publish[0].guest), (8080, 80));
        assert_eq!(parse("tap=fd:7").unwrap().unwrap().host, Host::TapDescriptor(7));
        let full = parse(
            "tap=t0,netns=/run/netns/a,mac=02:00:00:00:00:0a,mtu=9000,egress=public,rx=1M,tx=64K,\
             ip=192.0.2.7/24,ip=2001:db8::7/64,gateway=192.0.2.1,dhcp",
        );
        let full = full.unwrap().unwrap();
        assert_eq!((full.mac.unwrap().0[5], full.mtu, full.egress), (10, Some(9000), Some(Egress::Public)));
        assert_eq!((full.rx_bandwidth, full.tx_bandwidth), (Some(1 << 20), Some(64 << 10)));
        assert_eq!((full.addresses.len(), full.gateways.len(), full.dhcp), (2, 1, true));
        assert_eq!(full.netns.as_deref(), Some(Path::new("/run/netns/a")));
    }

    #[test]
    fn what_is_no_network_is_told() {
        let wrong = [
            ("", "say which network"),
            ("tap=", "name the TAP"),
            ("tap=fd:x", "no number"),
            ("tap=fd:1", "the program's"),
            ("pasta", "say which network"),
            ("none,mtu=1500", "say which network"),
            ("tap=t0,mac=01:00:00:00:00:00", "no MAC address"),
            ("tap=t0,mtu=67", "from 68 to 65520"),
            ("tap=t0,mtu=x", "no number of bytes"),
            ("tap=t0,rx=0", "never carry"),
            ("tap=t0,egress=", "no option of a network"),
            ("tap=t0,egress=/nowhere", "cannot use the egress policy"),
            ("tap=t0,ip=192.0.2.7", "prefix"),
            ("tap=t0,gateway=x", "no address"),
            ("tap=t0,publish=80:80", "published by passt"),
            ("tap=t0,up", "no option of a network"),
        ];
        for (text, said) in wrong {
            let error = parse(text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
