//! `/proc/PID`: the table, and the smaller files.

use alloc::{vec, vec::Vec};
use core::sync::atomic::Ordering;

use super::{
    Destination, Entry, Node, Scope, Text, dir, file, maps, mounts, namespaces, private, private_link,
    status, text::emit, who::Target, writable,
};
use crate::{
    cgroup,
    errno::{Errno, Result},
    mm::{Mm, oom},
    net,
    task::{Capabilities, comm_of, limits::Resource},
};

macro_rules! common_entries {
    ($($first:expr),*) => {
        &[
            $($first,)*
            private_link("cwd", |s| Ok(Destination::Place(s.target()?.task()?.fs()?.cwd()))),
            private_link("root", |s| Ok(Destination::Place(s.target()?.task()?.fs()?.root()))),
            private_link("exe", exe),
            Entry { name: "fd", mode: 0o500, private: true, node: Node::Descriptors },
            Entry { name: "fdinfo", mode: 0o555, private: true, node: Node::DescriptorInfos },
            dir("ns", namespaces::ENTRIES),
            dir("net", NET),
            file("stat", status::stat),
            file("status", status::status),
            file("statm", status::statm),
            writable("comm", comm, set_comm),
            file("cmdline", cmdline),
            private("environ", 0o400, environ),
            private("auxv", 0o400, auxv),
            Entry { name: "mem", mode: 0o600, private: true, node: Node::Memory },
            private("syscall", 0o400, syscall),
            private("stack", 0o400, stack),
            private("maps", 0o444, maps::maps),
            private("smaps", 0o444, maps::smaps),
            private("smaps_rollup", 0o444, maps::rollup),
            file("limits", limits),
            file("mounts", mounts::mounts),
            file("mountinfo", mounts::mountinfo),
            writable("oom_score_adj", oom_score_adj, set_oom_score_adj),
            file("oom_score", |s, out| {
                emit!(out, "{}\n", oom::score(&s.target()?.process));
                Ok(())
            }),
            file("cgroup", cgroup),
            file("wchan", |_, out| { emit!(out, "0"); Ok(()) }),
            file("schedstat", schedstat),
            file("personality", |_, out| { emit!(out, "00000000\n"); Ok(()) }),
            writable("coredump_filter", coredump_filter, set_coredump_filter),
            file("loginuid", |_, out| { emit!(out, "4294967295"); Ok(()) }),
            file("sessionid", |_, out| { emit!(out, "4294967295"); Ok(()) }),
            writable("uid_map", namespaces::uid_map, namespaces::write_uid_map),
            writable("gid_map", namespaces::gid_map, namespaces::write_gid_map),
            writable("setgroups", namespaces::setgroups, namespaces::write_setgroups),
            file("projid_map", namespaces::projid_map),
        ]
    };
}

/// A file of `/proc/net` about the network namespace of the task.
macro_rules! net_file {
    ($name:ident) => {
        file(stringify!($name), |s, out| {
            let namespaces = s.target()?.task()?.namespaces();
            let _ = net::proc::$name(namespaces.net.stack(), out); // writing to a text does not fail
            Ok(())
        })
    };
}

const NET: &[Entry] = &[
    net_file!(arp),
    net_file!(dev),
    net_file!(icmp),
    net_file!(icmp6),
    net_file!(if_inet6),
    net_file!(route),
    net_file!(sockstat),
    net_file!(sockstat6),
    net_file!(tcp),
    net_file!(tcp6),
    net_file!(udp),
    net_file!(udp6),
    file("unix", |s, out| {
        let net_ns = s.target()?.task()?.namespaces().net.id();
        let _ = net::show_sockets(out, net_ns); // as above
        Ok(())
    }),
];

/// A process.
pub(super) const ENTRIES: &[Entry] =
    common_entries![Entry { name: "task", mode: 0o555, private: false, node: Node::Threads }];

/// A thread.
pub(super) const THREAD_ENTRIES: &[Entry] = common_entries![file("children", children)];

/// The children of the thread. Which thread has made a child is not kept: all are the first thread's here.
fn children(s: &Scope<'_>, out: &mut Text) -> Result<()> {
    let target = s.target()?;
    if target.task()?.global_tid() == target.process.pid {
        let children = target.process.links.lock().children.clone();
        for number in children.iter().map(|child| s.number(child.pid)).filter(|number| *number != 0) {
            emit!(out, "{number} ");
        }
    }
    Ok(())
}

fn exe(s: &Scope<'_>) -> Result<Destination> {
    let mm = s.target()?.mm().ok_or(Errno::ENOENT)?;
    let exe = mm.image().exe.ok_or(Errno::ENOENT)?;
    Ok(Destination::Place(exe.path().clone()))
}

impl Target {
    /// The name of the thread, also of a process that has ended.
    pub fn comm(&self) -> Vec<u8> {
        let comm = match &self.task {
            Some(task) => task.comm(),
            None => self.process.remains.lock().as_ref().map_or([0; 16], |r| r.comm),
        };
        comm.iter().copied().take_while(|b| *b != 0).collect()
    }
}

fn comm(s: &Scope<'_>, out: &mut Text) -> Result<()> {
    out.bytes(&s.target()?.comm());
    emit!(out, "\n");
    Ok(())
}

fn set_comm(s: &Scope<'_>, bytes: &[u8]) -> Result<()> {
    let target = s.target()?;
    if !alloc::sync::Arc::ptr_eq(&target.process, s.viewer.process()) {
        return Err(Errno::EINVAL);
    }
    let name = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let name: Vec<u8> = comm_of(name).iter().copied().take_while(|b| *b != 0).collect();
    target.task()?.set_comm(&name);
    Ok(())
}

/// Largest piece of memory of a program that is shown: Linux's arguments and environment are below 6 MiB.
const STRINGS_MAX: u64 = 8 << 20;

fn memory(mm: &Mm, start: u64, end: u64) -> Vec<u8> {
    let len = end.saturating_sub(start).min(STRINGS_MAX) as usize;
    let mut bytes = vec![0; len];
    let n = if len == 0 { 0 } else { mm.read_remote(start, &mut bytes, false).unwrap_or(0) };
    bytes.truncate(n);
    bytes
}

/// The arguments. A program that has written over their end (setproctitle) has one text there, which may go
/// on into the environment.
fn cmdline(s: &Scope<'_>, out: &mut Text) -> Result<()> {
    let Some(mm) = s.target()?.mm() else { return Ok(()) };
    let image = mm.image();
    let mut bytes = memory(&mm, image.arg_start, image.arg_end);
    if bytes.last().is_some_and(|b| *b != 0) {
        bytes.extend(memory(&mm, image.arg_end, image.env_end.max(image.arg_end)));
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        bytes.truncate(end);
    }
    out.bytes(&bytes);
    Ok(())
}

fn environ(s: &Scope<'_>, out: &mut Text) -> Result<()> {
    if let Some(mm) = s.target()?.mm() {
        let image = mm.image();
        out.bytes(&memory(&mm, image.env_start, image.env_end));
    }
    Ok(())
}

fn auxv(s: &Scope<'_>, out: &mut Text) -> Result<()> {
    if let Some(mm) = s.target()?.mm() {
        for (key, value) in mm.image().auxv {
            out.bytes(&key.to_ne_bytes());
            out.bytes(&value.to_ne_bytes());
        }
    }
    Ok(())
}

/// The call the thread sleeps in: number, arguments, stack and instruction pointer.
fn syscall(s: &Scope<'_>, out: &mut Text) -> Result<()> {
    let target = s.target()?;
    let task = target.task()?;
    if alloc::sync::Arc::ptr_eq(task, s.viewer) || task.sched.is_runnable() {
        emit!(out, "running\n");
        return Ok(());
    }
    let r = task.regs();
    if r.orig_rax == u64::MAX {
        emit!(out, "-1 {:#x} {:#x}\n", r.rsp, r.rip);
    } else {
        emit!(out, "{}", r.orig_rax);
        [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9, r.rsp, r.rip].iter().for_each(|v| emit!(out, " {v:#x}"));
        emit!(out, "\n");
    }
    Ok(())
}

/// The kernel's own stack is not shown; who may not see Linux's is refused as there.
fn stack(s: &Scope<'_>, _out: &mut Text) -> Result<()> {
    if s.viewer.credentials().capable(Capabilities::SYS_ADMIN) { Ok(()) } else { Err(Errno::EACCES) }
}

const LIMITS: &[(&str, Resource, &str)] = &[
    ("Max cpu time", Resource::Cpu, "seconds"),
    ("Max file size", Resource::FileSize, "bytes"),
    ("Max data size", Resource::Data, "bytes"),
    ("Max stack size", Resource::Stack, "bytes"),
    ("Max core file size", Resource::Core, "bytes"),
    ("Max resident set", Resource::Rss, "bytes"),
    ("Max processes", Resource::Processes, "processes"),
    ("Max open files", Resource::OpenFiles, "files"),
    ("Max locked memory", Resource::LockedMemory, "bytes"),
    ("Max address space", Resource::AddressSpace, "bytes"),
    ("Max file locks", Resource::Locks, "locks"),
    ("Max pending signals", Resource::PendingSignals, "signals"),
    ("Max msgqueue size", Resource::MessageQueues, "bytes"),
    ("Max nice priority", Resource::Nice, ""),
    ("Max realtime priority", Resource::RealtimePriority, ""),
    ("Max realtime timeout", Resource::RealtimeTime, "us"),
];

fn limits(s: &Scope<'_>, out: &mut Text) -> Result<()> {
    let target = s.target()?;
    emit!(out, "{:<25} {:<20} {:<20} {:<10}\n", "Limit", "Soft Limit", "Hard Limit", "Units");
    let value = |out: &mut Text, v: u64| match v {
        u64::MAX => emit!(out, "{:<20} ", "unlimited"),
        v => emit!(out, "{v:<20} "),
    };
    for (name, resource, unit) in LIMITS {
        let limit = target.process.limits.get(*resource);
        emit!(out, "{name:<25} ");
        value(out, limit.soft);
        value(out, limit.hard);
        if unit.is_empty() {
            emit!(out, "\n");
        } else {
            emit!(out, "{unit:<10}\n");
        }
    }
    Ok(())
}

fn oom_score_adj(s: &Scope<'_>, out: &mut Text) -> Result<()> {
    emit!(out, "{}\n", s.target()?.process.oom_score_adj.load(Ordering::Relaxed));
    Ok(())
}

fn set_oom_score_adj(s: &Scope<'_>, bytes: &[u8]) -> Result<()> {
    let text = core::str::from_utf8(bytes).map_err(|_| Errno::EINVAL)?;
    let value: i32 = text.trim().parse().map_err(|_| Errno::EINVAL)?;
    if !(-1000..=1000).contains(&value) {
        return Err(Errno::EINVAL);
    }
    let process = s.target()?.process;
    let lowers = value < process.oom_score_adj.load(Ordering::Relaxed);
    if lowers && !s.viewer.credentials().capable(Capabilities::SYS_RESOURCE) {
        return Err(Errno::EACCES);
    }
    process.oom_score_adj.store(value, Ordering::Relaxed);
    Ok(())
}

fn coredump_filter(s: &Scope<'_>, out: &mut Text) -> Result<()> {
    emit!(out, "{:08x}\n", s.target()?.process.coredump_filter.load(Ordering::Relaxed));
    Ok(())
}

/// A number as C writes it: decimal, octal or hexadecimal. Bits that mean nothing are dropped.
fn set_coredump_filter(s: &Scope<'_>, bytes: &[u8]) -> Result<()> {
    const KNOWN: u32 = 0x1ff;
    let text = core::str::from_utf8(bytes).map_err(|_| Errno::EINVAL)?.trim();
    let value = match (text.strip_prefix("0x").or(text.strip_prefix("0X")), text.strip_prefix('0')) {
        (Some(hex), _) => u32::from_str_radix(hex, 16),
        (None, Some(octal)) if !octal.is_empty() => u32::from_str_radix(octal, 8),
        _ => text.parse(),
    };
    let value = value.map_err(|_| Errno::EINVAL)?;
    s.target()?.process.coredump_filter.store(value & KNOWN, Ordering::Relaxed);
    Ok(())
}

fn schedstat(s: &Scope<'_>, out: &mut Text) -> Result<()> {
    let target = s.target()?;
    let task = target.task()?;
    let switches =
        task.sched.voluntary.load(Ordering::Relaxed) + task.sched.involuntary.load(Ordering::Relaxed);
    emit!(out, "{} 0 {switches}\n", task.sched.runtime());
    Ok(())
}

/// The path of its control group, as the viewer's namespace has it.
fn cgroup(s: &Scope<'_>, out: &mut Text) -> Result<()> {
    let group = s.target()?.process.cgroup.group();
    emit!(out, "0::");
    out.bytes(&group.path_from(&cgroup::root_of(s.viewer)));
    emit!(out, "{}\n", if group.is_dead() { " (deleted)" } else { "" });
    Ok(())
}
