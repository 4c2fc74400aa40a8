//! `/proc` itself: the machine.

use alloc::{collections::BTreeSet, sync::Arc};

use ringfence_hal as hal;

use super::{Destination, Entry, Scope, Text, dir, file, link, status, sysctl, text::emit};
use crate::{
    block, cgroup,
    errno::{Errno, Result},
    fs::filesystems,
    ipc,
    kernel::kernel,
    mm::{commit, huge, oom},
    sched,
    task::{Pid, RELEASE, VERSION},
    time,
};

pub(super) const ENTRIES: &[Entry] = &[
    link("self", |s| {
        let mut text = Text::default();
        emit!(text, "{}", viewer_number(s, s.viewer.process().pid)?);
        Ok(Destination::Text(text))
    }),
    link("thread-self", |s| {
        let mut text = Text::default();
        let (pid, tid) = (s.viewer.process().pid, s.viewer.global_tid());
        emit!(text, "{}/task/{}", viewer_number(s, pid)?, viewer_number(s, tid)?);
        Ok(Destination::Text(text))
    }),
    link("mounts", |_| {
        let mut text = Text::default();
        emit!(text, "self/mounts");
        Ok(Destination::Text(text))
    }),
    link("net", |_| {
        let mut text = Text::default();
        emit!(text, "self/net");
        Ok(Destination::Text(text))
    }),
    dir("sys", sysctl::ENTRIES),
    dir("sysvipc", SYSVIPC),
    dir("tty", &[file("drivers", tty_drivers)]),
    file("cgroups", cgroups),
    file("cpuinfo", cpuinfo),
    file("devices", devices),
    file("diskstats", |_, out| {
        emit!(out, "{}", block::report::diskstats());
        Ok(())
    }),
    file("filesystems", known_filesystems),
    file("loadavg", loadavg),
    file("meminfo", meminfo),
    file("partitions", |_, out| {
        emit!(out, "{}", block::report::partitions());
        Ok(())
    }),
    file("stat", stat),
    file("swaps", |_, out| {
        emit!(out, "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n");
        Ok(())
    }),
    file("uptime", uptime),
    file("version", version),
    file("vmstat", vmstat),
];

/// Nothing that is written to a [`Text`] fails.
macro_rules! sysvipc {
    ($name:literal, $show:path) => {
        file($name, |s, out| {
            let _ = $show(s.viewer, out);
            Ok(())
        })
    };
}

const SYSVIPC: &[Entry] =
    &[sysvipc!("msg", ipc::show_msg), sysvipc!("sem", ipc::show_sem), sysvipc!("shm", ipc::show_shm)];

/// The reader's number in the mount's pid namespace; `ENOENT` if it is not in it.
fn viewer_number(s: &Scope<'_>, global: Pid) -> Result<Pid> {
    Some(s.number(global)).filter(|n| *n > 0).ok_or(Errno::ENOENT)
}

fn version(_: &Scope<'_>, out: &mut Text) -> Result<()> {
    emit!(out, "Linux version {RELEASE} (ringfence) {VERSION}\n");
    Ok(())
}

/// Hundredths of seconds as `12.34`.
fn hundredths(out: &mut Text, ticks: u64) {
    emit!(out, "{}.{:02}", ticks / 100, ticks % 100);
}

fn uptime(_: &Scope<'_>, out: &mut Text) -> Result<()> {
    hundredths(out, hal::time::now() / 10_000_000);
    emit!(out, " ");
    hundredths(out, status::cpu_ticks().iter().map(|[_, _, idle]| idle).sum());
    emit!(out, "\n");
    Ok(())
}

fn loadavg(_: &Scope<'_>, out: &mut Text) -> Result<()> {
    for load in sched::load_averages() {
        hundredths(out, ((load + 10) * 100) >> 11);
        emit!(out, " ");
    }
    let pids = &kernel().pids;
    emit!(out, "{}/{} {}\n", sched::runnable_tasks(), pids.task_count(), pids.last());
    Ok(())
}

fn stat(_: &Scope<'_>, out: &mut Text) -> Result<()> {
    let cpu = |out: &mut Text, name: &str, [user, system, idle]: [u64; 3]| {
        emit!(out, "{name} {user} 0 {system} {idle} 0 0 0 0 0 0\n");
    };
    let cpus = status::cpu_ticks();
    let sum = cpus.iter().fold([0; 3], |[a, b, c], [u, s, i]| [a + u, b + s, c + i]);
    cpu(out, "cpu ", sum);
    for (i, ticks) in cpus.into_iter().enumerate() {
        cpu(out, &alloc::format!("cpu{i}"), ticks);
    }
    emit!(out, "intr 0\nctxt {}\n", sched::context_switches());
    emit!(out, "btime {}\n", time::monotonic_to_realtime(0) / 1_000_000_000);
    emit!(out, "processes {}\n", kernel().pids.last());
    emit!(out, "procs_running {}\nprocs_blocked 0\n", sched::runnable_tasks());
    emit!(out, "softirq 0 0 0 0 0 0 0 0 0 0 0\n");
    Ok(())
}

/// Pages of all address spaces: private, of objects, and (of the private ones) in large pages.
fn mapped() -> (u64, u64, u64) {
    let mut seen = BTreeSet::new();
    let mut sum = (0, 0, 0);
    for process in kernel().pids.processes() {
        let Some(mm) = process.threads().first().and_then(|t| t.mm_opt()) else { continue };
        if seen.insert(Arc::as_ptr(&mm).addr()) {
            let stats = mm.stats();
            sum.0 += stats.anonymous;
            sum.1 += stats.object;
            sum.2 += stats.huge;
        }
    }
    sum
}

fn meminfo(_: &Scope<'_>, out: &mut Text) -> Result<()> {
    let frames = hal::frames::stats();
    let (anonymous, objects, huge) = mapped();
    // What user frames are not private memory is page cache and tmpfs. Tmpfs cannot be given up, so nothing of
    // it counts as available.
    let cached = (frames.user as u64).saturating_sub(anonymous);
    let kernel_pages = (frames.total.saturating_sub(frames.free + frames.user)) as u64;
    let (total, free) = (frames.total as u64, frames.free as u64);
    let lines = [
        ("MemTotal:", total),
        ("MemFree:", free),
        ("MemAvailable:", free),
        ("Buffers:", 0),
        ("Cached:", cached),
        ("SwapCached:", 0),
        ("Active:", anonymous + cached),
        ("Inactive:", 0),
        ("Active(anon):", anonymous),
        ("Inactive(anon):", 0),
        ("Active(file):", cached),
        ("Inactive(file):", 0),
        ("Unevictable:", 0),
        ("Mlocked:", 0),
        ("SwapTotal:", 0),
        ("SwapFree:", 0),
        ("Dirty:", 0),
        ("Writeback:", 0),
        ("AnonPages:", anonymous),
        ("Mapped:", objects),
        ("Shmem:", cached),
        ("KReclaimable:", 0),
        ("Slab:", kernel_pages),
        ("SReclaimable:", 0),
        ("SUnreclaim:", kernel_pages),
        ("KernelStack:", 0),
        ("PageTables:", 0),
        ("CommitLimit:", commit::limit()),
        ("Committed_AS:", commit::committed()),
        ("VmallocTotal:", 0),
        ("VmallocUsed:", 0),
        ("VmallocChunk:", 0),
        ("Percpu:", 0),
        ("AnonHugePages:", huge),
        ("ShmemHugePages:", 0),
        ("ShmemPmdMapped:", 0),
    ];
    lines.iter().for_each(|(name, pages)| emit!(out, "{name:<16}{:>8} kB\n", pages * 4));
    emit!(out, "HugePages_Total:       0\nHugePages_Free:        0\nHugePages_Rsvd:        0\n");
    emit!(out, "HugePages_Surp:        0\nHugepagesize:       2048 kB\nHugetlb:               0 kB\n");
    Ok(())
}

fn vmstat(_: &Scope<'_>, out: &mut Text) -> Result<()> {
    let frames = hal::frames::stats();
    let (anonymous, objects, huge) = mapped();
    let (huge_allocated, huge_fallback) = huge::counts();
    emit!(out, "nr_free_pages {}\nnr_anon_pages {anonymous}\nnr_mapped {objects}\n", frames.free);
    emit!(out, "pgpgin 0\npgpgout 0\npswpin 0\npswpout 0\noom_kill {}\n", oom::kills());
    emit!(out, "nr_anon_transparent_hugepages {}\n", huge / hal::HUGE_PAGES as u64);
    emit!(out, "thp_fault_alloc {huge_allocated}\nthp_fault_fallback {huge_fallback}\n");
    Ok(())
}

fn cpuinfo(_: &Scope<'_>, out: &mut Text) -> Result<()> {
    let count = hal::cpu::online();
    for cpu in 0..count {
        emit!(out, "processor\t: {cpu}\nvendor_id\t: {}\n", hal::cpu::vendor());
        emit!(out, "model name\t: {}\n", hal::cpu::brand());
        emit!(out, "physical id\t: 0\nsiblings\t: {count}\ncore id\t\t: {cpu}\ncpu cores\t: {count}\n");
        emit!(out, "apicid\t\t: {cpu}\nfpu\t\t: yes\nfpu_exception\t: yes\nwp\t\t: yes\n");
        emit!(out, "flags\t\t: {}\nbugs\t\t:\n", hal::cpu::features());
        emit!(out, "clflush size\t: 64\ncache_alignment\t: 64\n\n");
    }
    Ok(())
}

/// Controllers, as version 1 had them: all are in hierarchy 0, which is that of version 2.
fn cgroups(_: &Scope<'_>, out: &mut Text) -> Result<()> {
    emit!(out, "#subsys_name\thierarchy\tnum_cgroups\tenabled\n");
    let count = cgroup::root().subtree_count();
    cgroup::CONTROLLERS.iter().for_each(|(_, name)| emit!(out, "{name}\t0\t{count}\t1\n"));
    Ok(())
}

fn known_filesystems(_: &Scope<'_>, out: &mut Text) -> Result<()> {
    for name in filesystems::names() {
        let device = if filesystems::needs_device(name.as_bytes()) { "" } else { "nodev" };
        emit!(out, "{device}\t{name}\n");
    }
    Ok(())
}

fn devices(_: &Scope<'_>, out: &mut Text) -> Result<()> {
    emit!(out, "Character devices:\n  1 mem\n  5 /dev/tty\n  5 /dev/ptmx\n136 pts\n\nBlock devices:\n");
    if block::nth(0).is_some() {
        emit!(out, "{} virtblk\n", block::MAJOR);
    }
    Ok(())
}

fn tty_drivers(_: &Scope<'_>, out: &mut Text) -> Result<()> {
    emit!(out, "/dev/tty             /dev/tty        5       0 system:/dev/tty\n");
    emit!(out, "/dev/ptmx            /dev/ptmx       5       2 system\n");
    emit!(out, "pty_slave            /dev/pts      136 0-1048575 pty:slave\n");
    Ok(())
}
