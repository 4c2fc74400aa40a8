//! `/proc/net`: sockets, interfaces, addresses and routes, in the columns that `netstat`, `ss` and `ifconfig` read.

use core::{
    fmt::{Result, Write},
    net::{IpAddr, Ipv6Addr},
};

use super::{
    Behind, Stack,
    address::{Endpoint, Version, mapped},
};

const ARP: &str = "IP address       HW type     Flags       HW address            Mask     Device\n";
const ROUTE: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT";
const SOCKETS4: &str =
    "local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";
const SOCKETS6: &str = "local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";

/// A line that is filled up with blanks.
fn line(out: &mut dyn Write, width: usize, text: &str) -> Result {
    writeln!(out, "{text:<width$}")
}

/// An address as the words the kernel has in memory.
fn endpoint(version: Version, at: Endpoint) -> alloc::string::String {
    let words = |bytes: &[u8]| {
        bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|w| alloc::format!("{:08X}", u32::from_ne_bytes(*w)))
            .collect::<alloc::string::String>()
    };
    let address = match (version, at.ip) {
        (Version::V4, IpAddr::V4(ip)) => words(&ip.octets()),
        // Any address is any of IPv6 there.
        (_, ip) if ip.is_unspecified() => words(&Ipv6Addr::UNSPECIFIED.octets()),
        (_, ip) => words(&mapped(ip).octets()),
    };
    alloc::format!("{address}:{:04X}", at.port)
}

pub(crate) fn arp(stack: &Stack, out: &mut dyn Write) -> Result {
    out.write_str(ARP)?;
    for i in stack.interfaces().iter() {
        let Behind::Device(nic) = &i.behind else { continue };
        for (ip, mac, _) in nic.neighbor_table().into_iter().filter(|(ip, ..)| ip.is_ipv4()) {
            let flags = if mac.is_some() { 2 } else { 0 };
            let [a, b, c, d, e, f] = mac.unwrap_or_default();
            writeln!(
                out,
                "{:<16} 0x1         0x{flags}         {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}     *        {}",
                alloc::format!("{ip}"),
                i.name
            )?;
        }
    }
    Ok(())
}

pub(crate) fn route(stack: &Stack, out: &mut dyn Write) -> Result {
    line(out, 127, ROUTE)?;
    let all = stack.interfaces();
    for r in all.main_routes() {
        let IpAddr::V4(to) = r.to.ip else { continue };
        let Some(i) = all.by_index(r.interface) else { continue };
        let word = |ip: IpAddr| match ip {
            IpAddr::V4(v4) => u32::from_ne_bytes(v4.octets()),
            IpAddr::V6(_) => 0,
        };
        let mask = u32::MAX.checked_shl(32 - u32::from(r.to.prefix)).unwrap_or(0).to_be();
        let text = alloc::format!(
            "{}\t{:08X}\t{:08X}\t{:04X}\t0\t0\t{}\t{mask:08X}\t0\t0\t0",
            i.name,
            word(to.into()),
            r.gateway.map_or(0, word),
            // Up; by a gateway; to a host.
            1 | if r.gateway.is_some() { 2 } else { 0 } | if r.to.prefix == 32 { 4 } else { 0 },
            r.metric,
        );
        line(out, 127, &text)?;
    }
    Ok(())
}

pub(crate) fn tcp(stack: &Stack, out: &mut dyn Write) -> Result {
    tcp_of(Version::V4, stack, out)
}

pub(crate) fn tcp6(stack: &Stack, out: &mut dyn Write) -> Result {
    tcp_of(Version::V6, stack, out)
}

pub(crate) fn udp(stack: &Stack, out: &mut dyn Write) -> Result {
    datagrams_of(Version::V4, false, stack, out)
}

pub(crate) fn udp6(stack: &Stack, out: &mut dyn Write) -> Result {
    datagrams_of(Version::V6, false, stack, out)
}

pub(crate) fn icmp(stack: &Stack, out: &mut dyn Write) -> Result {
    datagrams_of(Version::V4, true, stack, out)
}

pub(crate) fn icmp6(stack: &Stack, out: &mut dyn Write) -> Result {
    datagrams_of(Version::V6, true, stack, out)
}

fn tcp_of(version: Version, stack: &Stack, out: &mut dyn Write) -> Result {
    match version {
        Version::V4 => line(out, 149, &alloc::format!("  sl  {SOCKETS4}"))?,
        Version::V6 => writeln!(out, "  sl  {SOCKETS6}")?,
    }
    let all = stack.tcp.lock().all();
    let reports = all.iter().map(|s| s.report()).filter(|r| r.version == version);
    for (number, r) in reports.enumerate() {
        let text = alloc::format!(
            "{number:4}: {} {} {:02X} {:08X}:{:08X} 00:00000000 00000000 {:5} {:8} {} 1 {:016x} {}",
            endpoint(version, r.local),
            endpoint(version, r.remote),
            r.state,
            r.send_queue,
            r.receive_queue,
            r.uid,
            0,
            r.ino,
            0,
            if r.state == 10 { "100 0 0 10 0" } else { "20 4 0 10 -1" },
        );
        match version {
            Version::V4 => line(out, 149, &text)?,
            Version::V6 => writeln!(out, "{text}")?,
        }
    }
    Ok(())
}

fn datagrams_of(version: Version, ping: bool, stack: &Stack, out: &mut dyn Write) -> Result {
    match version {
        Version::V4 => line(out, 127, &alloc::format!("   sl  {SOCKETS4} ref pointer drops"))?,
        Version::V6 => writeln!(out, "  sl  {SOCKETS6} ref pointer drops")?,
    }
    let all = if ping { stack.ping.lock().all() } else { stack.udp.lock().all() };
    let reports = all.iter().map(|s| s.report()).filter(|r| r.version == version);
    for (number, r) in reports.enumerate() {
        let text = alloc::format!(
            "{number:5}: {} {} {:02X} {:08X}:{:08X} 00:00000000 00000000 {:5} {:8} {} 2 {:016x} {}",
            endpoint(version, r.local),
            endpoint(version, r.remote),
            if r.connected { 1 } else { 7 },
            0,
            r.queued,
            r.uid,
            0,
            r.ino,
            0,
            r.lost,
        );
        match version {
            Version::V4 => line(out, 127, &text)?,
            Version::V6 => writeln!(out, "{text}")?,
        }
    }
    Ok(())
}

/// Nothing is counted for the loopback: no packet goes through it.
pub(crate) fn dev(stack: &Stack, out: &mut dyn Write) -> Result {
    out.write_str(
        "Inter-|   Receive                                                |  Transmit\n \
         face |bytes    packets errs drop fifo frame compressed multicast|\
         bytes    packets errs drop fifo colls carrier compressed\n",
    )?;
    for i in stack.interfaces().iter() {
        let counts = match &i.behind {
            Behind::Device(nic) => nic.device.counts(),
            Behind::Loopback => Default::default(),
        };
        let ([received, received_bytes], [sent, sent_bytes]) = (counts.received, counts.sent);
        writeln!(
            out,
            "{:>6}: {:7} {:7} {:4} {:4} {:4} {:5} {:10} {:9} {:8} {:7} {:4} {:4} {:4} {:5} {:7} {:10}",
            i.name,
            received_bytes,
            received,
            0,
            counts.receive_dropped,
            0,
            0,
            0,
            0,
            sent_bytes,
            sent,
            0,
            counts.send_dropped,
            0,
            0,
            0,
            0
        )?;
    }
    Ok(())
}

pub(crate) fn if_inet6(stack: &Stack, out: &mut dyn Write) -> Result {
    for i in stack.interfaces().iter() {
        for a in &i.addresses {
            let IpAddr::V6(ip) = a.ip else { continue };
            let scope = match a.scope() {
                254 => 0x10,
                253 => 0x20,
                _ => 0,
            };
            writeln!(
                out,
                "{:032x} {:02x} {:02x} {scope:02x} 80 {:>8}",
                ip.to_bits(),
                i.index,
                a.prefix,
                i.name
            )?;
        }
    }
    Ok(())
}

pub(crate) fn sockstat(stack: &Stack, out: &mut dyn Write) -> Result {
    let tcp = stack.tcp.lock().all();
    let udp = stack.udp.lock().all();
    let inuse = tcp.iter().filter(|s| s.report().version == Version::V4).count();
    let datagrams = udp.iter().filter(|s| s.report().version == Version::V4).count();
    writeln!(out, "sockets: used {}", tcp.len() + udp.len())?;
    writeln!(out, "TCP: inuse {inuse} orphan 0 tw 0 alloc {} mem 0", tcp.len())?;
    writeln!(out, "UDP: inuse {datagrams} mem 0")?;
    out.write_str("UDPLITE: inuse 0\nRAW: inuse 0\nFRAG: inuse 0 memory 0\n")
}

pub(crate) fn sockstat6(stack: &Stack, out: &mut dyn Write) -> Result {
    let tcp = stack.tcp.lock().all().iter().filter(|s| s.report().version == Version::V6).count();
    let udp = stack.udp.lock().all().iter().filter(|s| s.report().version == Version::V6).count();
    writeln!(
        out,
        "TCP6: inuse {tcp}\nUDP6: inuse {udp}\nUDPLITE6: inuse 0\nRAW6: inuse 0\nFRAG6: inuse 0 memory 0"
    )
}

#[cfg(test)]
mod tests {
    use alloc::string::String;

    use super::*;

    #[test]
    fn files_have_the_columns_of_linux() {
        let stack = Stack::new(true);
        let text = |show: fn(&Stack, &mut dyn Write) -> Result| {
            let mut out = String::new();
            show(&stack, &mut out).unwrap();
            out
        };
        assert_eq!(text(tcp).len(), 150);
        assert_eq!(text(udp).len(), 128);
        assert_eq!(text(if_inet6), "00000000000000000000000000000001 01 80 10 80       lo\n");
        assert!(text(dev).ends_with("    lo:       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0          0\n"));
        let at = Endpoint { ip: "127.0.0.1".parse().unwrap(), port: 80 };
        assert_eq!(endpoint(Version::V4, at), "0100007F:0050");
        assert_eq!(endpoint(Version::V6, at), "0000000000000000FFFF00000100007F:0050");
    }
}
