//! `/proc/sys`: what can be asked, and the little that can be set.

use alloc::string::String;
use core::{
    ops::RangeInclusive,
    sync::atomic::{AtomicUsize, Ordering},
};

use super::{Entry, Node, Scope, Text, dir, file, text::emit, writable};
use crate::{
    drivers,
    errno::{Errno, Result},
    fs::{aio, dentry, fd_table::NR_OPEN, inotify, leases, pipe},
    ipc,
    mm::{self, commit},
    random,
    sched::realtime,
    signal::core_dump,
    sync::Once,
    task::{Capabilities, RELEASE, VERSION, credentials::LAST_CAPABILITY, pid::PID_MAX},
};

/// A file with a fixed text.
macro_rules! fixed {
    ($name:literal, $($text:tt)+) => {
        file($name, |_, out| {
            emit!(out, "{}\n", $($text)+);
            Ok(())
        })
    };
}

/// A file with a number in a static, which a privileged task may set; the other static named becomes 0 then.
macro_rules! setting {
    ($name:literal, $number:path, $valid:expr $(, $other:path)?) => {
        writable(
            $name,
            |_, out| {
                emit!(out, "{}\n", $number.load(Ordering::Relaxed));
                Ok(())
            },
            |s, bytes| {
                let value = number(s, bytes, $valid)?;
                $($other.store(0, Ordering::Relaxed);)?
                $number.store(value, Ordering::Relaxed);
                Ok(())
            },
        )
    };
}

pub(super) const ENTRIES: &[Entry] = &[dir("fs", FS), dir("kernel", KERNEL), dir("net", NET), dir("vm", VM)];

/// A number that can be set.
macro_rules! number {
    ($name:literal, $cell:expr) => {
        writable(
            $name,
            |_, out| {
                emit!(out, "{}\n", $cell.load(Ordering::Relaxed));
                Ok(())
            },
            |s, bytes| {
                $cell.store(number(s, bytes, 0..=i32::MAX as u64)? as usize, Ordering::Relaxed);
                Ok(())
            },
        )
    };
}

const NET: &[Entry] = &[
    dir(
        "core",
        &[
            fixed!("rmem_default", 212_992),
            fixed!("rmem_max", 212_992),
            fixed!("somaxconn", 4096),
            fixed!("wmem_default", 212_992),
            fixed!("wmem_max", 212_992),
        ],
    ),
    dir(
        "ipv4",
        &[
            fixed!("ip_default_ttl", 64),
            fixed!("ip_forward", 0),
            writable("ip_local_port_range", local_ports, set_local_ports),
            fixed!("ip_nonlocal_bind", 0),
            writable("ip_unprivileged_port_start", unprivileged_port, set_unprivileged_port),
            writable("ping_group_range", ping_groups, set_ping_groups),
            fixed!("tcp_available_congestion_control", "reno cubic"),
            fixed!("tcp_congestion_control", "cubic"),
            fixed!("tcp_fin_timeout", 60),
            fixed!("tcp_keepalive_intvl", 75),
            fixed!("tcp_keepalive_probes", 9),
            fixed!("tcp_keepalive_time", 7200),
            fixed!("tcp_rmem", "4096\t131072\t131072"),
            fixed!("tcp_syn_retries", 6),
            fixed!("tcp_wmem", "4096\t16384\t16384"),
        ],
    ),
    dir(
        "ipv6",
        &[
            fixed!("bindv6only", 0),
            dir(
                "conf",
                &[
                    dir("all", &[fixed!("disable_ipv6", 0)]),
                    dir("default", &[fixed!("disable_ipv6", 0)]),
                    dir("lo", &[fixed!("disable_ipv6", 0)]),
                ],
            ),
        ],
    ),
];

fn local_ports(s: &Scope<'_>, out: &mut Text) -> Result<()> {
    let range = s.viewer.namespaces().net.stack().local_ports();
    emit!(out, "{}\t{}\n", range.start(), range.end());
    Ok(())
}

/// The numbers that one who may change the network writes.
fn net_numbers<const N: usize>(s: &Scope<'_>, bytes: &[u8]) -> Result<[u32; N]> {
    let namespaces = s.viewer.namespaces();
    let me = s.viewer.credentials();
    if me.euid != 0 && !me.capable_in(namespaces.net.owner(), Capabilities::NET_ADMIN) {
        return Err(Errno::EPERM);
    }
    let text = core::str::from_utf8(bytes).map_err(|_| Errno::EINVAL)?;
    let mut words = text.split([' ', '\t', '\n', '\0']).filter(|w| !w.is_empty());
    let mut numbers = [0; N];
    for number in &mut numbers {
        *number = words.next().and_then(|w| w.parse().ok()).ok_or(Errno::EINVAL)?;
    }
    Ok(numbers)
}

fn set_local_ports(s: &Scope<'_>, bytes: &[u8]) -> Result<()> {
    let [first, last] = net_numbers(s, bytes)?.map(|n: u32| u16::try_from(n).unwrap_or(0));
    s.viewer.namespaces().net.stack().set_local_ports(first, last)
}

fn unprivileged_port(s: &Scope<'_>, out: &mut Text) -> Result<()> {
    let namespaces = s.viewer.namespaces();
    emit!(out, "{}\n", namespaces.net.stack().unprivileged_port.load(Ordering::Relaxed));
    Ok(())
}

fn set_unprivileged_port(s: &Scope<'_>, bytes: &[u8]) -> Result<()> {
    let [port] = net_numbers(s, bytes)?;
    if port > 65_536 {
        return Err(Errno::EINVAL);
    }
    s.viewer.namespaces().net.stack().unprivileged_port.store(port, Ordering::Relaxed);
    Ok(())
}

fn ping_groups(s: &Scope<'_>, out: &mut Text) -> Result<()> {
    let namespaces = s.viewer.namespaces();
    let [first, last] = &namespaces.net.stack().ping_groups;
    emit!(out, "{}\t{}\n", first.load(Ordering::Relaxed), last.load(Ordering::Relaxed));
    Ok(())
}

fn set_ping_groups(s: &Scope<'_>, bytes: &[u8]) -> Result<()> {
    let new: [u32; 2] = net_numbers(s, bytes)?;
    let namespaces = s.viewer.namespaces();
    for (group, new) in namespaces.net.stack().ping_groups.iter().zip(new) {
        group.store(new, Ordering::Relaxed);
    }
    Ok(())
}

const FS: &[Entry] = &[
    number!("aio-max-nr", aio::MAX),
    file("aio-nr", |_, out| {
        emit!(out, "{}\n", aio::IN_USE.load(Ordering::Relaxed));
        Ok(())
    }),
    fixed!("dir-notify-enable", 1),
    fixed!("file-max", i64::MAX),
    file("file-nr", |_, out| {
        emit!(out, "0\t0\t{}\n", i64::MAX);
        Ok(())
    }),
    number!("lease-break-time", leases::BREAK_TIME),
    fixed!("leases-enable", 1),
    fixed!("nr_open", NR_OPEN),
    dir("inotify", INOTIFY),
    dir("mqueue", MQUEUE),
    fixed!("pipe-max-size", pipe::MAX_SIZE),
    fixed!("mount-max", 100_000),
    fixed!("overflowuid", 65534),
    fixed!("overflowgid", 65534),
    fixed!("protected_hardlinks", 0),
    fixed!("protected_symlinks", 0),
    fixed!("suid_dumpable", 0),
];

/// A limit of the reader's ipc namespace.
macro_rules! ipc_number {
    ($name:literal, $type:ty, $($field:ident).+) => {
        writable(
            $name,
            |s, out| {
                emit!(out, "{}\n", ipc::objects(s.viewer).$($field).+.load(Ordering::Relaxed));
                Ok(())
            },
            |s, bytes| {
                let value = number(s, bytes, 0..=<$type>::MAX as u64)? as $type;
                ipc::objects(s.viewer).$($field).+.store(value, Ordering::Relaxed);
                Ok(())
            },
        )
    };
}

const MQUEUE: &[Entry] = &[
    ipc_number!("msg_default", usize, mqueue.limits.msg_default),
    ipc_number!("msg_max", usize, mqueue.limits.msg_max),
    ipc_number!("msgsize_default", usize, mqueue.limits.msgsize_default),
    ipc_number!("msgsize_max", usize, mqueue.limits.msgsize_max),
    ipc_number!("queues_max", usize, mqueue.limits.queues_max),
];

fn sem_limits(s: &Scope<'_>, out: &mut Text) -> Result<()> {
    let [a, b, c, d] = &ipc::objects(s.viewer).limits.sem;
    let get = |n: &AtomicUsize| n.load(Ordering::Relaxed);
    emit!(out, "{}\t{}\t{}\t{}\n", get(a), get(b), get(c), get(d));
    Ok(())
}

fn set_sem_limits(s: &Scope<'_>, bytes: &[u8]) -> Result<()> {
    let words = bytes.split(|b| b.is_ascii_whitespace()).filter(|w| !w.is_empty());
    for (limit, word) in ipc::objects(s.viewer).limits.sem.iter().zip(words) {
        limit.store(number(s, word, 0..=i32::MAX as u64)? as usize, Ordering::Relaxed);
    }
    Ok(())
}

const INOTIFY: &[Entry] = &[
    number!("max_queued_events", inotify::limits().queued_events),
    number!("max_user_instances", inotify::limits().user_instances),
    number!("max_user_watches", inotify::limits().user_watches),
];

const KERNEL: &[Entry] = &[
    fixed!("cap_last_cap", LAST_CAPABILITY),
    writable("core_pattern", core_pattern, set_core_pattern),
    setting!("core_uses_pid", core_dump::USES_PID, 0..=1),
    writable("domainname", domainname, set_domainname),
    writable("hostname", hostname, set_hostname),
    ipc_number!("msgmax", usize, limits.msgmax),
    ipc_number!("msgmnb", usize, limits.msgmnb),
    ipc_number!("msgmni", usize, limits.msgmni),
    fixed!("ngroups_max", 65536),
    fixed!("sched_rr_timeslice_ms", realtime::RR_SLICE_NS / 1_000_000),
    fixed!("sched_rt_period_us", realtime::PERIOD_NS / 1000),
    fixed!("sched_rt_runtime_us", realtime::RUNTIME_NS / 1000),
    fixed!("osrelease", RELEASE),
    fixed!("ostype", "Linux"),
    fixed!("overflowuid", 65534),
    fixed!("overflowgid", 65534),
    fixed!("perf_event_paranoid", 3),
    fixed!("pid_max", PID_MAX),
    fixed!("printk", "4\t4\t1\t7"),
    dir("random", RANDOM),
    fixed!("randomize_va_space", 2),
    writable("sem", sem_limits, set_sem_limits),
    ipc_number!("shmall", u64, limits.shmall),
    ipc_number!("shmmax", u64, limits.shmmax),
    ipc_number!("shmmni", usize, limits.shmmni),
    fixed!("tainted", 0),
    fixed!("threads-max", PID_MAX),
    fixed!("unprivileged_userns_clone", 1),
    fixed!("version", VERSION),
];

const RANDOM: &[Entry] = &[
    file("boot_id", |_, out| {
        static BOOT_ID: Once<[u8; 16]> = Once::new();
        uuid(out, BOOT_ID.call_once(random_bytes));
        Ok(())
    }),
    fixed!("entropy_avail", 256),
    fixed!("poolsize", 256),
    file("uuid", |_, out| {
        uuid(out, &random_bytes());
        Ok(())
    }),
];

const VM: &[Entry] = &[
    Entry {
        name: "drop_caches",
        mode: 0o200,
        private: false,
        node: Node::File(|_, _| Ok(()), Some(drop_caches)),
    },
    fixed!("max_map_count", mm::MAX_MAP_COUNT),
    fixed!("min_free_kbytes", 1024),
    fixed!("mmap_min_addr", mm::MMAP_MIN_ADDR),
    fixed!("nr_hugepages", 0),
    setting!("overcommit_kbytes", commit::KBYTES, 0..=u64::MAX >> 10, commit::RATIO),
    setting!("overcommit_memory", commit::MODE, 0..=2),
    setting!("overcommit_ratio", commit::RATIO, 0..=i32::MAX as u64, commit::KBYTES),
    fixed!("swappiness", 0),
];

/// `drop_caches`: 1 is pages, 2 dentries and inodes, 4 only says "no more messages about it".
fn drop_caches(s: &Scope<'_>, bytes: &[u8]) -> Result<()> {
    let what = number(s, bytes, 1..=4)?;
    if what & 1 != 0 {
        mm::reclaim::drop_pages();
    }
    if what & 2 != 0 {
        dentry::shrink();
    }
    drivers::balloon::memory_freed();
    Ok(())
}

/// The number that a privileged task writes.
fn number(s: &Scope<'_>, bytes: &[u8], valid: RangeInclusive<u64>) -> Result<u64> {
    if s.viewer.credentials().euid != 0 && !s.viewer.credentials().capable(Capabilities::SYS_ADMIN) {
        return Err(Errno::EPERM);
    }
    let text = core::str::from_utf8(bytes).map_err(|_| Errno::EINVAL)?;
    let value = text.trim_matches(['\0', ' ', '\n', '\t']).parse().map_err(|_| Errno::EINVAL)?;
    if valid.contains(&value) { Ok(value) } else { Err(Errno::EINVAL) }
}

fn random_bytes() -> [u8; 16] {
    let mut bytes = [0; 16];
    random::fill(&mut bytes);
    bytes
}

/// A random UUID (version 4) of these bytes.
fn uuid(out: &mut Text, bytes: &[u8; 16]) {
    let n = u128::from_be_bytes(*bytes) & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let (a, b, c, d, e) =
        (n >> 96, n >> 80 & 0xffff, n >> 64 & 0xffff, n >> 48 & 0xffff, n & 0xffff_ffff_ffff);
    emit!(out, "{a:08x}-{b:04x}-{c:04x}-{d:04x}-{e:012x}\n");
}

fn hostname(s: &Scope<'_>, out: &mut Text) -> Result<()> {
    emit!(out, "{}\n", s.viewer.namespaces().uts.names().host);
    Ok(())
}

fn domainname(s: &Scope<'_>, out: &mut Text) -> Result<()> {
    emit!(out, "{}\n", s.viewer.namespaces().uts.names().domain);
    Ok(())
}

/// A name as it is written, if the writer may set it.
fn new_name(s: &Scope<'_>, bytes: &[u8]) -> Result<String> {
    if !s.viewer.credentials().capable_in(s.viewer.namespaces().uts.owner(), Capabilities::SYS_ADMIN) {
        return Err(Errno::EPERM);
    }
    let name = bytes.split(|b| *b == b'\n' || *b == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(name.get(..name.len().min(64)).unwrap_or_default()).into_owned())
}

fn core_pattern(_: &Scope<'_>, out: &mut Text) -> Result<()> {
    out.bytes(&core_dump::pattern());
    emit!(out, "\n");
    Ok(())
}

fn set_core_pattern(s: &Scope<'_>, bytes: &[u8]) -> Result<()> {
    let me = s.viewer.credentials();
    if me.euid != 0 && !me.capable(Capabilities::SYS_ADMIN) {
        return Err(Errno::EPERM);
    }
    core_dump::set_pattern(bytes.split(|b| matches!(b, b'\n' | 0)).next().unwrap_or_default())
}

fn set_hostname(s: &Scope<'_>, bytes: &[u8]) -> Result<()> {
    let name = new_name(s, bytes)?;
    s.viewer.namespaces().uts.set_host(name);
    Ok(())
}

fn set_domainname(s: &Scope<'_>, bytes: &[u8]) -> Result<()> {
    let name = new_name(s, bytes)?;
    s.viewer.namespaces().uts.set_domain(name);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_has_version_and_variant() {
        let mut out = Text::default();
        uuid(&mut out, &[0xff; 16]);
        assert_eq!(out.0, b"ffffffff-ffff-4fff-bfff-ffffffffffff\n");
    }
}
