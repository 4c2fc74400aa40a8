//! `stat`, `status` and `statm` of processes and threads.

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use super::{Scope, Text, text::emit, who::Target};
use crate::{
    errno::Result,
    ns::PidView,
    sched::{self, CpuTimes, realtime::Policy},
    signal::{
        self, SigSet, Signal,
        types::{SIG_DFL, SIG_IGN},
    },
    task::{
        Process,
        limits::{Resource, UsageSum},
        process::ExitStatus,
    },
    time::TICKS_PER_SECOND,
};

const NS_PER_TICK: u64 = 1_000_000_000 / TICKS_PER_SECOND;
/// `PF_FORKNOEXEC`, `PF_RANDOMIZE`.
const PF_FORKNOEXEC: u32 = 0x40;
const PF_RANDOMIZE: u32 = 0x40_0000;

/// The letter of the state and its word.
fn state(t: &Target) -> (char, &'static str) {
    match &t.task {
        None => ('Z', "zombie"),
        Some(_) if !t.thread && t.is_zombie() => ('Z', "zombie"),
        Some(task) if task.is_trace_stopped() => ('t', "tracing stop"),
        Some(task) if task.sched.is_runnable() => ('R', "running"),
        Some(_) if t.process.stop_signal.load(Ordering::Relaxed) != 0 => ('T', "stopped"),
        Some(_) => ('S', "sleeping"),
    }
}

/// Ignored and caught signals.
fn dispositions(process: &Process) -> (SigSet, SigSet) {
    let sighand = process.sighand();
    let (mut ignored, mut caught) = (SigSet::EMPTY, SigSet::EMPTY);
    for signal in (1..=64).filter_map(Signal::new) {
        match sighand.get(signal).handler {
            SIG_DFL => {}
            SIG_IGN => ignored = ignored.with(signal),
            _ => caught = caught.with(signal),
        }
    }
    (ignored, caught)
}

pub(super) fn stat(s: &Scope<'_>, out: &mut Text) -> Result<()> {
    let t = s.target()?;
    let p = &t.process;
    let task = t.task.as_ref();
    let group = p.group();
    let terminal = group.session.terminal.lock().clone();
    let (tty, foreground) = match &terminal {
        Some(terminal) => (terminal.device().encode() as u32, s.number(terminal.foreground())),
        None => (0, -1),
    };
    let usage = match task {
        Some(task) if t.thread => UsageSum::of_task(task),
        _ => UsageSum::of_process(p),
    };
    let children = UsageSum::of_dead(&p.dead_children);
    let mm = t.mm();
    let stats = mm.as_ref().map(|mm| mm.stats()).unwrap_or_default();
    let image = mm.as_ref().map(|mm| mm.image()).unwrap_or_default();
    let nice = task.map_or(0, |task| task.sched.nice());
    let flags = PF_RANDOMIZE | if p.has_execed.load(Ordering::Relaxed) { 0 } else { PF_FORKNOEXEC };
    let pending = task.map_or(SigSet::EMPTY, |task| task.signals.pending.set());
    let blocked = task.map_or(SigSet::EMPTY, |task| task.signals.mask());
    let (ignored, caught) = dispositions(p);
    let global = if t.thread { task.map_or(p.pid, |task| task.global_tid()) } else { p.pid };
    let number = s.number(global);
    let started = if t.thread { task.map_or(p.start_time, |task| task.start_time) } else { p.start_time };
    let exit_code = if t.is_zombie() { p.exit_status().map_or(0, ExitStatus::to_wstatus) } else { 0 };

    emit!(out, "{number} (");
    out.bytes(&t.comm());
    let [parent, pgid, sid] = [p.parent_pid(), group.pgid, group.session.sid].map(|n| s.number(n));
    emit!(out, ") {} {parent} {pgid} {sid}", state(&t).0);
    emit!(out, " {tty} {foreground} {flags}");
    emit!(out, " {} {} 0 0", usage.minor_faults(), children.minor_faults());
    let ticks = [usage.user, usage.system, children.user, children.system].map(|ns| ns / NS_PER_TICK);
    ticks.iter().for_each(|ticks| emit!(out, " {ticks}"));
    let policy = task.map_or(Policy { number: 0, priority: 0, reset_on_fork: false }, |t| t.sched.policy());
    let priority = match task.map_or(0, |t| t.sched.priority()) {
        0 => 20 + nice,
        urgent => -1 - urgent as i32,
    };
    emit!(out, " {priority} {nice} {} 0 {}", p.threads().len().max(1), started / NS_PER_TICK);
    emit!(out, " {} {} {}", stats.size * 4096, stats.resident, p.limits.soft(Resource::Rss));
    emit!(out, " {} {} {} 0 0", image.start_code, image.end_code, image.start_stack);
    emit!(
        out,
        " {} {} {} {}",
        pending.0 & 0x7fff_ffff,
        blocked.0 & 0x7fff_ffff,
        ignored.0 & 0x7fff_ffff,
        caught.0 & 0x7fff_ffff
    );
    emit!(out, " 0 0 0 {} {}", p.exit_signal.load(Ordering::Relaxed), task.map_or(0, |t| t.sched.cpu()));
    emit!(
        out,
        " {} {} 0 0 0 {} {} {}",
        policy.priority,
        policy.number,
        image.start_data,
        image.end_data,
        mm.as_ref().map_or(0, |mm| mm.heap_start())
    );
    emit!(out, " {} {} {} {}", image.arg_start, image.arg_end, image.env_start, image.env_end);
    emit!(out, " {exit_code}\n");
    Ok(())
}

pub(super) fn statm(s: &Scope<'_>, out: &mut Text) -> Result<()> {
    let stats = s.target()?.mm().map(|mm| mm.stats()).unwrap_or_default();
    emit!(
        out,
        "{} {} {} {} 0 {} 0\n",
        stats.size,
        stats.resident,
        stats.object,
        stats.text,
        stats.data + stats.stack
    );
    Ok(())
}

pub(super) fn status(s: &Scope<'_>, out: &mut Text) -> Result<()> {
    let t = s.target()?;
    let p = &t.process;
    let task = t.task.as_ref();
    let (letter, word) = state(&t);
    let credentials = match (task, &*p.remains.lock()) {
        (Some(task), _) => task.credentials(),
        (None, Some(remains)) => remains.credentials.clone(),
        (None, None) => s.viewer.credentials(),
    };
    let c = &credentials;
    emit!(out, "Name:\t");
    out.escaped(&t.comm(), b"\n\\");
    emit!(out, "\n");
    if let Some(fs) = task.and_then(|t| t.fs().ok()) {
        emit!(out, "Umask:\t{:04o}\n", fs.umask());
    }
    let global = if t.thread { task.map_or(p.pid, |task| task.global_tid()) } else { p.pid };
    let number = s.number(global);
    let group = p.group();
    emit!(out, "State:\t{letter} ({word})\nTgid:\t{}\nNgid:\t0\nPid:\t{number}\n", s.number(p.pid));
    let tracer = task.map_or(0, |t| s.number(t.tracer_tid()));
    emit!(out, "PPid:\t{}\nTracerPid:\t{tracer}\n", s.number(p.parent_pid()));
    let home = s.viewer.credentials().user_ns.clone();
    let [uid, euid, suid, fsuid] = [c.uid, c.euid, c.suid, c.fsuid].map(|id| home.show_uid(id));
    let [gid, egid, sgid, fsgid] = [c.gid, c.egid, c.sgid, c.fsgid].map(|id| home.show_gid(id));
    emit!(out, "Uid:\t{uid}\t{euid}\t{suid}\t{fsuid}\n");
    emit!(out, "Gid:\t{gid}\t{egid}\t{sgid}\t{fsgid}\n");
    emit!(out, "FDSize:\t{}\nGroups:\t", task.and_then(|t| t.files().ok()).map_or(0, |f| f.capacity()));
    c.groups.iter().for_each(|g| emit!(out, "{} ", home.show_gid(*g)));
    emit!(out, "\n");
    let chains = [("NStgid", p.pid), ("NSpid", global), ("NSpgid", group.pgid), ("NSsid", group.session.sid)];
    for (name, global) in chains {
        emit!(out, "{name}:");
        p.pid_ns.down_from(s.ns).iter().for_each(|ns| emit!(out, "\t{}", PidView { ns }.show(global)));
        emit!(out, "\n");
    }
    if let Some(mm) = t.mm() {
        memory(&mm.stats(), out);
        emit!(out, "CoreDumping:\t0\nTHP_enabled:\t{}\n", u8::from(!mm.huge_disabled()));
    }
    emit!(out, "Threads:\t{}\n", p.threads().len().max(1));
    let pending = task.map_or(SigSet::EMPTY, |task| task.signals.pending.set());
    let queued = task.map_or(0, |task| signal::limit::queued_of_user(task.credentials().uid));
    emit!(out, "SigQ:\t{queued}/{}\n", p.limits.soft(Resource::PendingSignals));
    let (ignored, caught) = dispositions(p);
    let blocked = task.map_or(SigSet::EMPTY, |task| task.signals.mask());
    let sets = [
        ("SigPnd", pending),
        ("ShdPnd", p.shared_pending.set()),
        ("SigBlk", blocked),
        ("SigIgn", ignored),
        ("SigCgt", caught),
    ];
    sets.iter().for_each(|(name, set)| emit!(out, "{name}:\t{:016x}\n", set.0));
    let capabilities = [
        ("CapInh", c.inheritable),
        ("CapPrm", c.permitted),
        ("CapEff", c.effective),
        ("CapBnd", c.bounding),
        ("CapAmb", c.ambient),
    ];
    capabilities.iter().for_each(|(name, set)| emit!(out, "{name}:\t{:016x}\n", set.bits()));
    let no_new_privs = task.is_some_and(|t| t.no_new_privs());
    emit!(out, "NoNewPrivs:\t{}\n", u8::from(no_new_privs));
    let (mode, filters) = task.map_or((0, 0), |t| (t.seccomp.mode(), t.seccomp.filters()));
    emit!(out, "Seccomp:\t{mode}\nSeccomp_filters:\t{filters}\n");
    emit!(out, "Speculation_Store_Bypass:\tunknown\nSpeculationIndirectBranch:\tunknown\n");
    let cpus = sched_mask(task.map_or(u64::MAX, |t| t.sched.affinity()));
    emit!(out, "Cpus_allowed:\t{cpus:x}\nCpus_allowed_list:\t");
    list(cpus, out);
    emit!(out, "\nMems_allowed:\t1\nMems_allowed_list:\t0\n");
    let (voluntary, involuntary) = task.map_or((0, 0), |t| {
        (t.sched.voluntary.load(Ordering::Relaxed), t.sched.involuntary.load(Ordering::Relaxed))
    });
    emit!(out, "voluntary_ctxt_switches:\t{voluntary}\nnonvoluntary_ctxt_switches:\t{involuntary}\n");
    Ok(())
}

fn memory(m: &crate::mm::MmStats, out: &mut Text) {
    let lines = [
        ("VmPeak", m.peak),
        ("VmSize", m.size),
        ("VmLck", m.locked),
        ("VmPin", 0),
        ("VmHWM", m.peak_resident.max(m.resident)),
        ("VmRSS", m.resident),
        ("RssAnon", m.anonymous),
        ("RssFile", m.object),
        ("RssShmem", 0),
        ("VmData", m.data),
        ("VmStk", m.stack),
        ("VmExe", m.text),
        ("VmLib", m.exec.saturating_sub(m.text)),
        ("VmPTE", m.tables),
        ("VmSwap", 0),
    ];
    lines.iter().for_each(|(name, pages)| emit!(out, "{name}:\t{:>8} kB\n", pages * 4));
    emit!(out, "HugetlbPages:\t{:>8} kB\n", 0);
}

fn sched_mask(affinity: u64) -> u64 {
    let count = ringfence_hal::cpu::count();
    let all = if count >= 64 { u64::MAX } else { (1 << count) - 1 };
    affinity & all
}

/// A mask as `0-3,5`.
pub(super) fn list(mask: u64, out: &mut Text) {
    let mut first = true;
    let mut at = 0;
    while at < 64 {
        if mask & (1 << at) == 0 {
            at += 1;
            continue;
        }
        let start = at;
        while at < 64 && mask & (1 << at) != 0 {
            at += 1;
        }
        let comma = if core::mem::take(&mut first) { "" } else { "," };
        if at - start == 1 {
            emit!(out, "{comma}{start}");
        } else {
            emit!(out, "{comma}{start}-{}", at - 1);
        }
    }
}

/// What every CPU has done, in ticks: user, system, idle.
pub(super) fn cpu_ticks() -> Vec<[u64; 3]> {
    let ticks = |t: CpuTimes| [t.busy.user, t.busy.system, t.idle].map(|ns| ns / NS_PER_TICK);
    sched::cpu_times().into_iter().map(ticks).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_listed_in_ranges() {
        for (mask, want) in [(1, "0"), (0b1111, "0-3"), (0b10_1101, "0,2-3,5"), (u64::MAX, "0-63"), (0, "")] {
            let mut out = Text::default();
            list(mask, &mut out);
            assert_eq!(out.0, want.as_bytes());
        }
    }
}
